"""Many bubblewrap sandboxes: a fresh one for each program, and what is left when they are gone."""

from __future__ import annotations

import gc
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.field import bubblewrap_program
from benchmarks.measure import seconds
from benchmarks.table import Table
from benchmarks.ways.bare import Bubblewrap
from enclave.sandboxes.bubblewrap.cgroups import find_cgroups
from enclave.sandboxes.bubblewrap.places import cache_dir
from enclave.sandboxes.bubblewrap.sandbox import BubblewrapSandbox

TOOLS = {'tools_config': ['python_executor', 'shell_executor', 'file_operation']}


def create_run_delete() -> tuple[float, float]:
    """Return the seconds from creation to the first result, and those the deletion took."""
    began = time.perf_counter()
    sandbox = BubblewrapSandbox(TOOLS)
    sandbox.start()
    try:
        assert sandbox.execute_tool('python_executor', {'code': 'print(1)'}).success
        first = time.perf_counter() - began
    finally:
        ending = time.perf_counter()
        sandbox.stop()
    return first, time.perf_counter() - ending


def measure(kinds: list[str], scale: float) -> list[Table]:
    """Measure."""
    if 'bubblewrap' not in kinds:
        return []
    table = Table('Many bubblewrap sandboxes')
    create_run_delete()
    measure_throughput(table, max(20, round(120 * scale)))
    measure_leaks(table, max(20, round(200 * scale)))
    return [table]


def measure_throughput(table: Table, programs: int) -> None:
    """A fresh sandbox for each program, beside a bare bwrap for each."""
    cores, bare = os.cpu_count() or 1, Bubblewrap(bubblewrap_program())
    with ThreadPoolExecutor(cores) as pool:
        rate = programs / seconds(lambda: list(pool.map(lambda _: create_run_delete(), range(programs))))
        alone = programs / seconds(lambda: list(pool.map(lambda _: bare.print_one(), range(programs))))
    table.row(
        f'a fresh sandbox for each `print(1)`, callers: {cores}',
        'at least 40 a second',
        f'{rate:.0f} a second, {rate / alone:.2f} of bare bwrap',
        met=rate >= 40,
    )


def resident_kib() -> int:
    return int(Path('/proc/self/statm').read_text().split()[1]) * os.sysconf('SC_PAGE_SIZE') // 1024


def left_behind() -> dict[str, int]:
    gc.collect()
    own = Path(f'/proc/{os.getpid()}/task/{os.getpid()}/children').read_text().split()
    return {
        'descriptors': len(os.listdir('/proc/self/fd')),
        'threads': threading.active_count(),
        'processes': len(own),
        'mounts': Path('/proc/self/mountinfo').read_text().count('enclave'),
        'cgroups': sum(len(list(each.glob(f'*.{os.getpid()}.*'))) for each in find_cgroups().directories),
        'unfinished files': sum(1 for _ in cache_dir().rglob('.new-*')),
    }


def measure_leaks(table: Table, cycles: int) -> None:
    for _ in range(20):
        create_run_delete()
    before, memory = left_behind(), resident_kib()
    for _ in range(cycles):
        with BubblewrapSandbox(TOOLS):
            pass
    after, grown = left_behind(), resident_kib() - memory
    changed = {name: after[name] - count for name, count in before.items() if after[name] != count}
    left = f'{changed or "nothing left"}, {grown} KiB more resident'
    table.row(f'{cycles} created and removed', 'nothing left', left, met=not changed)
