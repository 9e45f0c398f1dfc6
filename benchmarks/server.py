"""What the way over HTTP costs, beside the same calls without it. Prints a table of goals and figures.

Run with: python benchmarks/server.py [--rounds N]. Needs a Docker engine on this machine. The server is a process of its own on
loopback; where two ways are compared, they take turns, so that a machine that slows down slows both.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import requests

from enclave import HttpSandboxManager, LocalSandboxManager, SandboxManager

CONFIG: dict[str, Any] = {
    'network_enabled': False,
    'cpu_limit': 2.0,
    'tools_config': ['python_executor', 'shell_executor', 'file_operation'],
}
SERVER = """
import sys
from enclave import create_server
create_server(policy={'max_concurrent_calls': 64}).run(port=0)
"""
HUNDRED_MB = 100 * 1000 * 1000
PIECE = os.urandom(1 << 20)


class Table:
    """Prints its rows as they are measured."""

    def __init__(self) -> None:
        print(f'{"what":44} {"goal":>26} {"measured":>40}')
        self.missed = 0

    def row(self, what: str, goal: str, measured: str, *, met: bool) -> None:
        """Print one row."""
        self.missed += not met
        print(f'{what:44} {goal:>26} {measured:>40} {"" if met else "  MISSED"}', flush=True)


@contextlib.contextmanager
def server() -> Iterator[tuple[str, int]]:
    """Run a server in a process of its own; gives its address and process id."""
    process = subprocess.Popen([sys.executable, '-c', SERVER], stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        yield process.stderr.readline().split()[3], process.pid
    finally:
        process.terminate()
        process.communicate(timeout=60)


def seconds(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def resident_mb(pid: int) -> float:
    for line in Path(f'/proc/{pid}/status').read_text().splitlines():
        if line.startswith('VmHWM:'):
            return int(line.split()[1]) / 1000
    return 0.0


def measure_calls(table: Table, local: SandboxManager, remote: SandboxManager, rounds: int) -> None:
    call = ('shell_executor', {'command': 'true'})
    here, there = local.create_sandbox('docker', CONFIG), remote.create_sandbox('docker', CONFIG)
    times: dict[SandboxManager, list[float]] = {local: [], remote: []}
    for manager, sandbox_id in ((local, here), (remote, there)) * 3:
        manager.execute_tool(sandbox_id, *call)
    for _ in range(rounds * 10):
        for manager, sandbox_id in ((local, here), (remote, there)):
            times[manager] += [seconds(lambda m=manager, s=sandbox_id: m.execute_tool(s, *call)) for _ in range(5)]
    a, b = (statistics.median(times[manager]) * 1000 for manager in (local, remote))
    table.row(
        'remote execute_tool over local', 'at most 2.5 ms more', f'{b - a:.2f} ms ({b:.2f} - {a:.2f})', met=b - a <= 2.5
    )
    local.delete_sandbox(here)
    remote.delete_sandbox(there)


def throughput(manager: SandboxManager, count: int, threads: int) -> float:
    def work(_: int) -> None:
        assert manager.execute_tool_in_pool('python_executor', {'code': 'print(1)'}).output == '1\n'

    with ThreadPoolExecutor(threads) as pool:
        started = time.perf_counter()
        list(pool.map(work, range(count)))
        return count / (time.perf_counter() - started)


def measure_pool(table: Table, local: SandboxManager, remote: SandboxManager, rounds: int) -> None:
    for manager in (local, remote):
        manager.initialize_pool(8, 'docker', CONFIG)
        throughput(manager, 64, 32)
    rates: dict[SandboxManager, list[float]] = {local: [], remote: []}
    for _ in range(rounds):
        for manager in (local, remote):
            rates[manager].append(throughput(manager, 320, 32))
    a, b = (statistics.median(rates[manager]) for manager in (local, remote))
    table.row(
        '32 clients, pool of 8, print(1)',
        "at least 0.75 of local's",
        f'{b / a:.2f} ({b:.0f}/s of {a:.0f}/s)',
        met=b / a >= 0.75,
    )


def measure_health(table: Table, remote: SandboxManager, url: str) -> None:
    ids = [info.id for info in remote.list_sandboxes()]
    ending = threading.Event()

    def call(number: int) -> None:
        while not ending.is_set():
            remote.execute_tool(ids[number % len(ids)], 'shell_executor', {'command': 'sleep 1'})

    session = requests.Session()
    times = []
    with ThreadPoolExecutor(32) as pool:
        futures = [pool.submit(call, number) for number in range(32)]
        time.sleep(0.5)
        for _ in range(300):
            times.append(seconds(lambda: session.get(f'{url}/health', timeout=10).raise_for_status()))
            time.sleep(0.01)
        ending.set()
        for future in futures:
            future.result()
    times.sort()
    p99 = times[int(len(times) * 0.99)] * 1000
    table.row(
        '/health while 32 calls run, 99th percentile',
        'under 50 ms',
        f'{p99:.1f} ms (median {times[150] * 1000:.1f})',
        met=p99 < 50,
    )


def measure_stream(table: Table, remote: SandboxManager) -> None:
    lags = []
    code = 'import time\nfor _ in range(30):\n    time.sleep(0.05)\n    print(time.time_ns(), flush=True)'
    with remote.open('docker', CONFIG) as sandbox:
        process = sandbox.start_process(['python3', '-c', code])  # type: ignore[attr-defined]
        for chunk in process.chunks():
            lags.append((time.time_ns() - int(chunk.text.split()[-1])) / 1e6)
    lag = statistics.median(lags)
    table.row('first streamed byte', 'within 10 ms', f'{lag:.2f} ms (worst {max(lags):.1f})', met=lag <= 10)


class _Pieces:
    """A hundred megabytes that are never all in memory."""

    def __init__(self) -> None:
        self.left = HUNDRED_MB

    def read(self, size: int = -1) -> bytes:
        piece = PIECE[: min(len(PIECE), self.left)]
        self.left -= len(piece)
        return piece


def measure_files(table: Table, local: SandboxManager, remote: SandboxManager, pid: int, folder: Path) -> None:
    source, sink = folder / 'up', folder / 'down'
    with source.open('wb') as file:
        left = _Pieces()
        while piece := left.read():
            file.write(piece)
    results: dict[str, dict[str, list[float]]] = {'remote': {'up': [], 'down': []}, 'local': {'up': [], 'down': []}}
    with local.open('docker', CONFIG) as here, remote.open('docker', CONFIG) as there:
        before = resident_mb(pid)
        for _ in range(4):
            for name, sandbox in (('remote', there), ('local', here)):
                put: Any = sandbox
                results[name]['up'].append(seconds(lambda p=put: p.put_file(source, '/sandbox/big')))
                results[name]['down'].append(seconds(lambda p=put: p.get_file('/sandbox/big', sink)))
        grown = resident_mb(pid) - before
        assert sink.stat().st_size == HUNDRED_MB
    for way in ('up', 'down'):
        rate, alone = (100 / min(results[name][way]) for name in ('remote', 'local'))
        table.row(f'100 MB {way}', 'at least 200 MB/s', f'{rate:.0f} MB/s (without HTTP {alone:.0f})', met=rate >= 200)
    table.row("server's memory meanwhile", 'flat', f'{grown:+.1f} MB at its peak', met=grown < 30)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--rounds', type=int, default=5)
    rounds = parser.parse_args().rounds
    folder = Path(os.environ.get('TMPDIR', '/tmp')) / f'enclave-bench-{os.getpid()}'
    folder.mkdir()
    table = Table()
    try:
        with server() as (url, pid), HttpSandboxManager(base_url=url) as remote, LocalSandboxManager() as local:
            measure_calls(table, local, remote, rounds)
            measure_stream(table, remote)
            measure_files(table, local, remote, pid, folder)
            measure_pool(table, local, remote, rounds)
            measure_health(table, remote, url)
            remote.cleanup_all_sandboxes()
    finally:
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
    print(f'{table.missed} goals missed' if table.missed else 'all goals met')
    return 0


if __name__ == '__main__':
    sys.exit(main())
