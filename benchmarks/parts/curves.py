"""How it scales: callers, sandboxes alive, sizes of outputs and files; each beside the line it should follow."""

from __future__ import annotations

import contextlib
import random
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from benchmarks.measure import (
    REST_SECONDS,
    container_pids,
    descendants,
    own_resident_bytes,
    percentile,
    proportional_bytes,
    seconds,
)
from benchmarks.ways.enclave import SERVER, children
from enclave import HttpSandboxManager, LocalSandboxManager, SandboxManager

OPTIONS: dict[str, Any] = {'tools_config': ['python_executor', 'shell_executor', 'file_operation']}
CALLERS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
ALIVE = (1, 2, 4, 8, 16, 32, 64, 128)
SIZES = (1 << 10, 1 << 14, 1 << 18, 1 << 20, 1 << 23, 1 << 26)
CAP = 1 << 20
POOL = 8


@contextlib.contextmanager
def server() -> Iterator[str]:
    """Run a server in a process of its own; gives its address."""
    process = subprocess.Popen([sys.executable, '-c', SERVER], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        yield process.stderr.readline().split()[3]
    finally:
        process.terminate()
        process.communicate(timeout=60)


@contextlib.contextmanager
def managers(kinds: list[str]) -> Iterator[dict[str, tuple[SandboxManager, str]]]:
    """Give managers by what the tables call them: ``{name: (manager, kind)}``."""
    with contextlib.ExitStack() as stack:
        found: dict[str, tuple[SandboxManager, str]] = {}
        for kind in kinds:
            found[kind] = (stack.enter_context(LocalSandboxManager(sweep=False)), kind)
        url = stack.enter_context(server())
        for kind in kinds:
            found[f'HTTP to {kind}'] = (stack.enter_context(HttpSandboxManager(base_url=url)), kind)
        yield found


def measure_callers(found: dict[str, tuple[SandboxManager, str]], scale: float) -> dict[str, Any]:
    """Throughput and latency of a pool of eight against the number of callers."""
    result: dict[str, Any] = {}
    for name, (manager, kind) in found.items():
        manager.initialize_pool(POOL, kind, OPTIONS)
        load(manager, POOL, 0.5)
        result[name] = []
    for callers in CALLERS:
        for name, (manager, _) in found.items():
            waits, rate = load(manager, callers, 1.0 * scale)
            waits.sort()
            result[name].append(
                {
                    'callers': callers,
                    'rate': rate,
                    'p50': percentile(waits, 0.5),
                    'p99': percentile(waits, 0.99),
                }
            )
    for manager, _ in found.values():
        manager.cleanup_all_sandboxes()
    return result


def load(manager: SandboxManager, callers: int, duration: float) -> tuple[list[float], float]:
    """Return how long each call took, and how many there were a second."""
    waits: list[float] = []
    lock, ready = threading.Lock(), threading.Barrier(callers + 1)
    until = [0.0]

    failures: list[str] = []

    def work() -> None:
        mine = []
        ready.wait()
        try:
            while (began := time.perf_counter()) < until[0] and not failures:
                result = manager.execute_tool_in_pool('shell_executor', {'command': 'true'})
                if not result.success:
                    raise RuntimeError(result)
                mine.append(time.perf_counter() - began)
        except Exception as error:
            failures.append(f'{type(error).__name__}: {error}')
        with lock:
            waits.extend(mine)

    threads = [threading.Thread(target=work) for _ in range(callers)]
    for each in threads:
        each.start()
    until[0] = time.perf_counter() + duration
    ready.wait()
    began = time.perf_counter()
    for each in threads:
        each.join()
    if failures:
        raise RuntimeError(f'{callers} callers: {failures[0]}')
    return waits, len(waits) / (time.perf_counter() - began)


def measure_alive(kinds: list[str], most: int) -> dict[str, Any]:
    """What one more sandbox costs, with up to 128 of them alive."""
    return {kind: measure_alive_of(kind, most) for kind in kinds}


def measure_alive_of(kind: str, most: int) -> list[dict[str, float]]:
    points: list[dict[str, float]] = []
    with LocalSandboxManager(sweep=False, stop_timeout=300) as manager, ThreadPoolExecutor(4) as threads:
        warm = manager.create_sandbox(kind, OPTIONS)
        manager.execute_tool(warm, 'shell_executor', {'command': 'true'})
        manager.delete_sandbox(warm)
        before, ids = own_resident_bytes(), []
        for count in ALIVE:
            if count > most:
                break
            missing = count - len(ids)
            began = time.perf_counter()
            ids += threads.map(lambda _: manager.create_sandbox(kind, OPTIONS), range(missing))
            took = time.perf_counter() - began
            chosen = [random.Random(count).choice(ids) for _ in range(40)]
            for each in ids:
                manager.execute_tool(each, 'shell_executor', {'command': 'true'})
            calls = sorted(
                seconds(lambda e=each: manager.execute_tool(e, 'shell_executor', {'command': 'true'}))  # type: ignore[misc]
                for each in chosen
            )
            grown = own_resident_bytes() - before
            points.append(
                {
                    'alive': count,
                    'host_bytes': grown,
                    'sandbox_bytes': idle_bytes(manager, ids) / count,
                    'create': took / missing,
                    'true': statistics.median(calls),
                    'p99': percentile(calls, 0.99),
                }
            )
    return points


def idle_bytes(manager: SandboxManager, ids: list[str]) -> int:
    """Return the proportional memory of all sandboxes of a manager in this process, when they have done nothing for a while."""
    time.sleep(REST_SECONDS)
    containers = [manager.get_sandbox_info(each).metadata.get('container_id') for each in ids]  # type: ignore[union-attr]
    if all(containers):
        return sum(proportional_bytes(container_pids(str(each))) for each in containers)
    return proportional_bytes(descendants(int(each) for each in children()))


def measure_sizes(found: dict[str, tuple[SandboxManager, str]], scale: float) -> dict[str, Any]:
    """Outputs and files from a kilobyte to 64 MB."""
    result: dict[str, Any] = {name: {} for name in ('output', 'capped', 'in', 'out')}
    for each in result.values():
        each.update({name: [] for name in found})
    with contextlib.ExitStack() as stack:
        boxes: dict[str, Any] = {
            name: stack.enter_context(manager.open(kind, {**OPTIONS, 'memory_limit': '1g'}))
            for name, (manager, kind) in found.items()
        }
        for size in SIZES:
            data = random.Random(size).randbytes(size)
            rounds = max(1, round((9 if size < 1 << 24 else 5) * scale))
            for way in result:
                if way == 'capped' and size < CAP:
                    continue
                times: dict[str, list[float]] = {name: [] for name in boxes}
                for _ in range(rounds):
                    for name, box in boxes.items():
                        times[name].append(seconds(action(box, way, size, data)))
                for name, took in times.items():
                    result[way][name].append({'bytes': size, 'seconds': statistics.median(took)})
    return result


def action(box: Any, way: str, size: int, data: bytes) -> Callable[[], None]:
    """Return what moves so many bytes, and checks that they came."""
    program = ['sh', '-c', f'head -c {size} /dev/zero | tr "\\0" x']

    def output() -> None:
        assert len(box.execute_command(program, max_output_bytes=size).stdout) == size

    def capped() -> None:
        result = box.execute_command(program, max_output_bytes=CAP)
        assert result.success
        assert CAP // 2 <= len(result.stdout) <= CAP + 1000

    def put() -> None:
        box.put_file(data, '/sandbox/file')

    def get() -> None:
        assert len(box.get_file('/sandbox/file')) == size

    return {'output': output, 'capped': capped, 'in': put, 'out': get}[way]


def measure(kinds: list[str], result: dict[str, Any], *, scale: float) -> None:
    """Measure all curves and put them into ``result`` as they come."""
    with managers(kinds) as found:
        print('    callers', flush=True)
        result['callers'] = measure_callers(found, scale)
        print('    sizes', flush=True)
        result['sizes'] = measure_sizes(found, scale)
    print('    sandboxes alive', flush=True)
    result['alive'] = measure_alive(kinds, 128 if scale >= 0.5 else 16)
