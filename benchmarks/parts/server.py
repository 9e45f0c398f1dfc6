"""What the way over HTTP costs besides calls: streams as they come, and answers while all threads are busy."""

from __future__ import annotations

import statistics
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import requests

from benchmarks.measure import seconds
from benchmarks.parts.curves import OPTIONS, server
from benchmarks.table import Table
from enclave import HttpSandboxManager, SandboxManager


def measure(kinds: list[str], scale: float) -> list[Table]:
    """Measure, on Docker where it is there."""
    kind = kinds[0]
    table = Table(f'The server, {kind}')
    with server() as url, HttpSandboxManager(base_url=url) as remote:
        measure_stream(table, remote, kind)
        remote.initialize_pool(8, kind, OPTIONS)
        measure_health(table, remote, url)
        remote.cleanup_all_sandboxes()
    return [table]


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
        for _ in range(200):
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
        f'{p99:.1f} ms (median {times[100] * 1000:.1f})',
        met=p99 < 50,
    )


def measure_stream(table: Table, remote: SandboxManager, kind: str) -> None:
    lags = []
    code = 'import time\nfor _ in range(30):\n    time.sleep(0.05)\n    print(time.time_ns(), flush=True)'
    with remote.open(kind, OPTIONS) as sandbox:
        process = sandbox.start_process(['python3', '-c', code])  # type: ignore[attr-defined]
        for chunk in process.chunks():
            lags.append((time.time_ns() - int(chunk.text.split()[-1])) / 1e6)
    lag = statistics.median(lags)
    table.row('first streamed byte', 'within 10 ms', f'{lag:.2f} ms (worst {max(lags):.1f})', met=lag <= 10)
