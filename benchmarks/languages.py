"""Programs in many languages: verdicts under load, batches over HTTP, and what running costs beside the same commands natively.

    python benchmarks/languages.py [--kind bubblewrap] [--image multi] [--seconds 60] [PART ...]

Parts: ``native`` (C++ and Java compiled and run, in a sandbox and by this host itself), ``batch`` (print(1) over HTTP: one by
one, and many in one exchange), ``verdicts`` (500 programs in 8 languages with known verdicts, at 1 and at 64 callers), ``load``
(256 callers against a server with 8 sandboxes). Without a part: all. Figures are only worth something on a machine that has
nothing else to do.
"""

from __future__ import annotations

import argparse
import collections
import json
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import requests

sys.path.insert(0, str(Path(__file__).parents[1]))

from enclave.languages.table import get_language
from enclave.languages.values import CodeRequest
from enclave.managers.http import HttpSandboxManager
from enclave.sandboxes.registry import SandboxFactory
from enclave.server.serve import create_server
from tests.languages.programs import PROGRAMS

CPP = (
    '#include <algorithm>\n#include <iostream>\n#include <map>\n#include <vector>\n'
    + PROGRAMS['cpp']['add'].partition('\n')[2]
)
JAVA = PROGRAMS['java']['add']
WANTED = ('python', 'bash', 'c', 'cpp', 'nodejs', 'perl', 'ruby', 'lua')


def options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the options of sandboxes."""
    found: dict[str, Any] = {'network_enabled': False, 'memory_limit': '1g', 'cpu_limit': 2.0, 'timeout': 120}
    if arguments.image:
        found.update(image=arguments.image, pull='never')
    return found


def bench_native(arguments: argparse.Namespace) -> None:
    """Compile and run in a sandbox and natively, in turn; the ratio of the medians."""
    with SandboxFactory.create_sandbox(arguments.kind, options(arguments)) as sandbox:
        for name, source in (('cpp', CPP), ('java', JAVA)):
            plan = get_language(name).plan(source, '.')
            assert plan is not None
            if shutil.which(plan.compile[0][0]) is None:
                print(f'{name:<8} this host has no {plan.compile[0][0]}')
                continue
            inside, outside = [], []
            for _ in range(arguments.rounds):
                started = time.perf_counter()
                result = sandbox.run_code(source, name, stdin='19 23\n', expected_output='42')  # type: ignore[attr-defined]
                inside.append(time.perf_counter() - started)
                assert str(result.verdict) == 'accepted', result
                with tempfile.TemporaryDirectory() as folder:
                    started = time.perf_counter()
                    (Path(folder) / plan.file).write_text(source)
                    for command in plan.compile:
                        subprocess.run(command, cwd=folder, check=True)
                    subprocess.run(plan.run, cwd=folder, check=True, input=b'19 23\n', stdout=subprocess.DEVNULL)
                    outside.append(time.perf_counter() - started)
            ours, native = statistics.median(inside), statistics.median(outside)
            print(f'{name:<8} {ours * 1000:7.1f} ms here  {native * 1000:7.1f} ms natively  ratio {ours / native:.3f}')


def bench_batch(arguments: argparse.Namespace) -> None:
    """print(1) over HTTP."""
    server = create_server(sandbox_type=arguments.kind)
    url = server.start(port=0)
    try:
        with HttpSandboxManager(base_url=url) as manager:
            manager.initialize_pool(4, arguments.kind, options(arguments))
            list(manager.run_many(['print(1)'] * 16))
            singles, batches = [], []
            for _ in range(arguments.rounds):
                started = time.perf_counter()
                for _ in range(50):
                    manager.run_code_in_pool('print(1)')
                singles.append(50 / (time.perf_counter() - started))
                started = time.perf_counter()
                for outcome in manager.run_many(['print(1)'] * 200):
                    assert outcome.unwrap().stdout == '1\n'
                batches.append(200 / (time.perf_counter() - started))
            one, many = statistics.median(singles), statistics.median(batches)
            print(f'print(1) {one:7.1f} a second one by one  {many:7.1f} in a batch  ratio {many / one:.2f}')
    finally:
        server.stop()


def programs(count: int) -> Iterator[tuple[str, CodeRequest]]:
    """Yield programs with their verdicts, always the same ones in the same order."""
    chance = random.Random(5)
    for _ in range(count):
        language = chance.choice(WANTED)
        entry = get_language(language)
        kind = chance.choices(('accepted', 'wrong_answer', 'runtime_error', 'broken', 'time_limit'), (70, 12, 8, 6, 4))[
            0
        ]
        a, b = chance.randrange(1000), chance.randrange(1000)
        limits: dict[str, Any] = {'timeout': 10, 'cpu_time_limit': 5, 'compile_timeout': 60}
        if kind == 'accepted':
            request = CodeRequest(
                code=PROGRAMS[language]['add'],
                language=language,
                stdin=f'{a} {b}\n',
                expected_output=str(a + b),
                **limits,
            )
        elif kind == 'wrong_answer':
            request = CodeRequest(
                code=PROGRAMS[language]['add'],
                language=language,
                stdin=f'{a} {b}\n',
                expected_output=str(a + b + 1),
                **limits,
            )
        elif kind == 'runtime_error':
            request = CodeRequest(code=PROGRAMS[language]['crash'], language=language, expected_output='', **limits)
        elif kind == 'broken':
            kind = 'compile_error' if entry.is_compiled else 'runtime_error'
            request = CodeRequest(code=PROGRAMS[language]['broken'], language=language, expected_output='', **limits)
        else:
            limits.update(cpu_time_limit=0.5)
            request = CodeRequest(code=PROGRAMS[language]['loop'], language=language, **limits)
        yield kind, request


def bench_verdicts(arguments: argparse.Namespace) -> None:
    """500 programs with known verdicts."""
    server = create_server(sandbox_type=arguments.kind)
    url = server.start(port=0)
    try:
        with HttpSandboxManager(base_url=url) as manager:
            manager.initialize_pool(8, arguments.kind, options(arguments))
            for callers in (1, 64):
                todo = collections.deque(programs(arguments.programs))
                wrong: list[str] = []
                lock = threading.Lock()

                def work(todo: Any = todo, wrong: list[str] = wrong, lock: Any = lock) -> None:
                    while True:
                        with lock:
                            if not todo:
                                return
                            expected, request = todo.popleft()
                        verdict = str(manager.run_code_in_pool(request).verdict)
                        if verdict != expected:
                            with lock:
                                wrong.append(f'{request.language}: {verdict} instead of {expected}')

                seconds = in_threads(callers, work)
                print(f'{arguments.programs} programs, {callers:>2} callers: {len(wrong)} wrong, {seconds:.1f} s')
                for each in wrong[:10]:
                    print(f'    {each}')
    finally:
        server.stop()


def bench_load(arguments: argparse.Namespace) -> None:
    """256 callers of SandboxFusion's interface, against a server with 8 sandboxes."""
    settings = {'pool_size': 8, 'sandbox_type': arguments.kind, 'config': options(arguments)}
    server = create_server(sandbox_type=arguments.kind, sandbox_fusion=settings)
    url = server.start(port=0)
    counts: collections.Counter[str] = collections.Counter()
    waits: list[float] = []
    served: list[int] = []
    lock = threading.Lock()
    until = time.monotonic() + arguments.seconds

    def work() -> None:
        mine = 0
        number = threading.get_ident() % 1000
        with requests.Session() as session:
            while time.monotonic() < until:
                started = time.monotonic()
                body = {'code': f'print(sum(range({number})))', 'run_timeout': 2, 'language': 'python'}
                response = session.post(f'{url}/run_code', json=body, timeout=300)
                waited = time.monotonic() - started
                if response.status_code != 200:
                    outcome = f'status {response.status_code}'
                else:
                    run = response.json().get('run_result') or {}
                    right = run.get('stdout') == f'{sum(range(number))}\n'
                    outcome = 'right' if right else json.dumps(response.json())[:100]
                mine += 1
                with lock:
                    counts[outcome] += 1
                    waits.append(waited)
        with lock:
            served.append(mine)

    try:
        in_threads(1, lambda: requests.post(f'{url}/run_code', json={'code': '1'}, timeout=120))
        until = time.monotonic() + arguments.seconds
        seconds = in_threads(arguments.callers, work)
    finally:
        server.stop()
    waits.sort()
    print(
        f'{arguments.callers} callers, 8 sandboxes: {sum(counts.values()) / seconds:.1f} programs a second; {dict(counts)}'
    )
    print(
        f'    a caller was served {min(served)} to {max(served)} times; '
        f'a call took {waits[len(waits) // 2]:.2f} s in the median, '
        f'{waits[int(len(waits) * 0.99)]:.2f} s at the 99th percentile, {waits[-1]:.2f} s at most'
    )


def in_threads(count: int, work: Callable[[], object]) -> float:
    """Do something on so many threads at once; return how many seconds that took."""
    threads = [threading.Thread(target=work) for _ in range(count)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - started


PARTS = {'native': bench_native, 'batch': bench_batch, 'verdicts': bench_verdicts, 'load': bench_load}


def main() -> None:
    """Run the parts that were asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').partition('\n')[0])
    parser.add_argument('parts', nargs='*', metavar='PART', help=', '.join(PARTS))
    parser.add_argument('--kind', default='bubblewrap')
    parser.add_argument('--image', default='')
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--programs', type=int, default=500)
    parser.add_argument('--callers', type=int, default=256)
    parser.add_argument('--seconds', type=float, default=60.0)
    arguments = parser.parse_args()
    for name in arguments.parts or PARTS:
        PARTS[name](arguments)


if __name__ == '__main__':
    main()
