"""One way to run code, in a process and an environment of its own: does what `benchmarks.participant` asks, and times it.

    python driver.py FILE CLASS [NAME=VALUE ...]

Standard library alone, since it runs in the environments of other programs. Requests and answers are a line of JSON each, on the
standard streams that the process was started with; whatever the way itself prints goes to standard error.

A way is a class without required arguments but those given. It has ``start`` and ``stop``, and of the operations in `OPERATIONS`
those that it offers. Each checks what came back.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import os
import resource
import sys
import threading
import time
from pathlib import Path
from typing import Any

OPERATIONS = ('true', 'print_one', 'write', 'read', 'output', 'cell')
KILOBYTE = 'x' * 1024
OUTPUT_BYTES = 5_000_000
OUTPUT_CODE = f"import sys; sys.stdout.write('x' * {OUTPUT_BYTES})"


class Way:
    """What a way may inherit from."""

    shares_loop = False
    """Several of it are called as tasks of one event loop (``print_one_async``), not by threads."""

    def prepare(self) -> None:
        """Do what is not measured: look at an image, start a server."""

    def start(self) -> None:
        """Make a sandbox."""

    def stop(self) -> None:
        """Remove it."""

    def end(self) -> None:
        """Undo ``prepare``."""

    def cpu_seconds(self) -> float:
        """Return the processor time of this process, what it has waited for, and what else carries its calls."""
        used = 0.0
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
            usage = resource.getrusage(who)
            used += usage.ru_utime + usage.ru_stime
        return used

    def container(self) -> str | None:
        """Return the id of the container, where there is one."""
        return None

    def pids(self) -> list[int]:
        """Return a process of the sandbox, where there is no container: its descendants belong to it."""
        return []


class AsyncWay(Way):
    """A way whose calls are coroutines: ``wait`` runs one on this object's own event loop."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()

    def wait(self, awaitable: Any) -> Any:
        return self.loop.run_until_complete(awaitable)


def check(value: object, expected: object) -> None:
    """Fail unless what came back is what should."""
    if value != expected:
        raise AssertionError(f'{str(value)[:200]!r} instead of {str(expected)[:50]!r}')


def process_cpu_seconds(pid: int) -> float:
    """Return the processor time that the living threads of a process have used (Linux, /proc/PID/task/TID/schedstat)."""
    used = 0
    for each in Path(f'/proc/{pid}/task').iterdir():
        with contextlib.suppress(OSError, ValueError):
            used += int((each / 'schedstat').read_text().split()[0])
    return used / 1e9


class Driver:
    """Does what is asked with one way."""

    def __init__(self, make: Any) -> None:
        self._make = make
        self._way: Any = make()
        self._is_up = False
        self._pool: list[Any] = []

    def offers(self) -> dict[str, Any]:
        return {
            'operations': [name for name in getattr(self._way, 'operations', OPERATIONS) if hasattr(self._way, name)]
        }

    def prepare(self) -> dict[str, Any]:
        self._way.prepare()
        return {}

    def create(self, first: str) -> dict[str, Any]:
        began = time.perf_counter()
        self._is_up = True
        self._way.start()
        getattr(self._way, first)()
        return {'seconds': time.perf_counter() - began}

    def stop(self) -> dict[str, Any]:
        began = time.perf_counter()
        self._is_up = False
        self._way.stop()
        return {'seconds': time.perf_counter() - began}

    def calls(self, operation: str, seconds: float, least: int, most: int = 10_000) -> dict[str, Any]:
        call, took, until = getattr(self._way, operation), [], time.perf_counter() + seconds
        used = self._way.cpu_seconds()
        while len(took) < least or (time.perf_counter() < until and len(took) < most):
            began = time.perf_counter()
            call()
            took.append(time.perf_counter() - began)
        return {'seconds': took, 'cpu': (self._way.cpu_seconds() - used) / len(took)}

    def pool(self, sandboxes: int, seconds: float, operation: str = 'print_one') -> dict[str, Any]:
        """Return programs a second of so many sandboxes, each with a caller of its own."""
        if not self._pool:
            made = [self._make() for _ in range(sandboxes)]
            for each in made:
                each.__dict__.update({k: v for k, v in self._way.__dict__.items() if k in getattr(each, 'shared', ())})
                each.start()
                getattr(each, operation)()
            self._pool = made
        until, counts, failures = time.perf_counter() + seconds, [], []
        if self._way.shares_loop:
            return {'rate': self._gather(f'{operation}_async', seconds)}

        def work(way: Any) -> None:
            count = 0
            try:
                while time.perf_counter() < until:
                    getattr(way, operation)()
                    count += 1
            except BaseException as error:
                failures.append(error)
            counts.append(count)

        threads = [threading.Thread(target=work, args=(each,)) for each in self._pool]
        began = time.perf_counter()
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        if failures:
            raise failures[0]
        return {'rate': sum(counts) / (time.perf_counter() - began)}

    def _gather(self, operation: str, seconds: float) -> float:
        """Do the same with tasks of one event loop, where a way's calls cannot do without it."""

        async def work(way: Any) -> int:
            count = 0
            while time.perf_counter() < until:
                await getattr(way, operation)()
                count += 1
            return count

        async def gather() -> int:
            return sum(await asyncio.gather(*(work(each) for each in self._pool)))

        began = time.perf_counter()
        until = began + seconds
        return self._way.wait(gather()) / (time.perf_counter() - began)  # type: ignore[no-any-return]

    def end_pool(self) -> dict[str, Any]:
        if self._way.shares_loop:
            for each in self._pool:
                each.stop()
            self._pool = []
        threads = [threading.Thread(target=each.stop) for each in self._pool]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        self._pool = []
        return {}

    def place(self) -> dict[str, Any]:
        return {'container': self._way.container(), 'pids': self._way.pids()}

    def end(self) -> dict[str, Any]:
        self.end_pool()
        if self._is_up:  # what came between was an error
            with contextlib.suppress(Exception):
                self._way.stop()
        self._way.end()
        return {}


def main() -> None:
    """Answer requests until the input ends."""
    file, name, *settings = sys.argv[1:]
    requests, answers = os.fdopen(os.dup(0), 'r'), os.fdopen(os.dup(1), 'w')
    os.dup2(2, 1)
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)

    def answer(value: dict[str, Any]) -> None:
        answers.write(json.dumps(value) + '\n')
        answers.flush()

    sys.modules['driver'] = sys.modules['__main__']
    try:
        spec = importlib.util.spec_from_file_location('way', file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        keywords = dict(each.split('=', 1) for each in settings)
        driver = Driver(lambda: getattr(module, name)(**keywords))
        answer(driver.offers())
    except BaseException as error:
        answer({'error': f'{type(error).__name__}: {error}'})
        raise
    for line in requests:
        request = json.loads(line)
        try:
            answer(getattr(driver, request.pop('do'))(**request))
        except BaseException as error:
            answer({'error': f'{type(error).__name__}: {error}'[:2000]})


if __name__ == '__main__':
    main()
