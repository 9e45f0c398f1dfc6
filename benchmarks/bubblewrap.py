"""Bubblewrap sandboxes, side by side with bare bubblewrap and, where an engine answers, with Docker. Prints goals and figures.

Run with: python benchmarks/bubblewrap.py [--rounds N] [--cycles N]. The ways are taken in turns, so that what else the
machine does meets them all alike.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from enclave.errors import EnclaveError
from enclave.sandboxes.agent_backed import AgentBackedSandbox
from enclave.sandboxes.bubblewrap.cgroups import find_cgroups
from enclave.sandboxes.bubblewrap.places import cache_dir
from enclave.sandboxes.bubblewrap.program import find_program
from enclave.sandboxes.bubblewrap.sandbox import BubblewrapSandbox

TOOLS = {'tools_config': ['python_executor', 'shell_executor', 'file_operation'], 'network_enabled': False}


def bare_command() -> list[str]:
    """The least that bubblewrap must be asked to run this machine's Python in namespaces of its own."""
    argv = [find_program().path, '--unshare-all', '--die-with-parent', '--ro-bind', '/usr', '/usr']
    for name in ('bin', 'sbin', 'lib', 'lib64'):
        if os.path.islink(f'/{name}'):
            argv += ['--symlink', os.readlink(f'/{name}'), f'/{name}']
        elif os.path.isdir(f'/{name}'):
            argv += ['--ro-bind', f'/{name}', f'/{name}']
    return [*argv, '--proc', '/proc', '--dev', '/dev', '--tmpfs', '/tmp', 'python3', '-c', 'print(1)']


def run_bare() -> None:
    assert subprocess.run(bare_command(), capture_output=True, check=True).stdout == b'1\n'


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


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def milliseconds(values: list[float]) -> float:
    return statistics.median(values) * 1000


def measure_starts(rounds: int) -> None:
    bare, first, ends = [], [], []
    create_run_delete()
    for _ in range(rounds):
        bare.append(seconds(run_bare))
        took, ended = create_run_delete()
        first.append(took)
        ends.append(ended)
    ours, theirs = milliseconds(first), milliseconds(bare)
    show('bare bwrap python3 -c "print(1)"', '', f'{theirs:.1f} ms')
    show('create to first print(1)', '<= 2.0 x bare', f'{ours / theirs:.2f} x', ours / theirs <= 2.0)
    show('', '< 60 ms', f'{ours:.1f} ms (quickest {min(first) * 1000:.1f})', ours < 60)
    show('stop and delete', '', f'{milliseconds(ends):.1f} ms')


def measure_throughput(programs: int) -> None:
    cores = os.cpu_count() or 1
    for threads in (cores, 2 * cores):
        with ThreadPoolExecutor(threads) as pool:
            took = seconds(lambda pool=pool: list(pool.map(lambda _: create_run_delete(), range(programs))))  # type: ignore[misc]
        rate = programs / took
        with ThreadPoolExecutor(threads) as pool:
            bare = programs / seconds(lambda pool=pool: list(pool.map(lambda _: run_bare(), range(programs))))  # type: ignore[misc]
        label = f'fresh sandbox per program, {threads} threads on {cores} cores'
        show(label, '>= 40/s', f'{rate:.0f}/s (bare bwrap {bare:.0f}/s)', rate >= 40)


def measure_warm_calls(rounds: int) -> None:
    kinds: list[tuple[str, AgentBackedSandbox]] = [('bubblewrap', BubblewrapSandbox(TOOLS))]
    with contextlib.suppress(EnclaveError, ImportError):
        from enclave.sandboxes.docker.engine import get_engine
        from enclave.sandboxes.docker.sandbox import DockerSandbox

        get_engine().ping()
        kinds.append(('docker', DockerSandbox(TOOLS)))
    calls: dict[str, tuple[str, dict[str, str]]] = {
        'shell_executor true': ('shell_executor', {'command': 'true'}),
        'python_executor print(1)': ('python_executor', {'code': 'print(1)'}),
        'file_operation write 1 KB': (
            'file_operation',
            {'operation': 'write', 'file_path': '/sandbox/f', 'content': 'x' * 1024},
        ),
    }
    with contextlib.ExitStack() as stack:
        for _, sandbox in kinds:
            stack.enter_context(sandbox)
        for label, (tool, arguments) in calls.items():
            took: dict[str, list[float]] = {name: [] for name, _ in kinds}
            for _ in range(rounds):
                for name, sandbox in kinds:
                    took[name].append(seconds(lambda s=sandbox, t=tool, a=arguments: s.execute_tool(t, a)))  # type: ignore[misc]
            text = ', '.join(f'{name} {milliseconds(values):.2f} ms' for name, values in took.items())
            fits = len(kinds) < 2 or milliseconds(took['bubblewrap']) <= 1.15 * milliseconds(took['docker'])
            show(f'warm {label}', "as Docker's", text, fits)


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


def measure_leaks(cycles: int) -> None:
    for _ in range(20):
        create_run_delete()
    before, memory = left_behind(), resident_kib()
    for _ in range(cycles):
        with BubblewrapSandbox(TOOLS):
            pass
    after, grown = left_behind(), resident_kib() - memory
    changed = {name: after[name] - count for name, count in before.items() if after[name] != count}
    show(f'create and delete {cycles}', 'no growth', f'{changed or "nothing left"}, {grown} KiB resident', not changed)


def show(what: str, goal: str, figure: str, reached: bool | None = None) -> None:
    mark = '' if reached is None else 'reached' if reached else 'MISSED'
    print(f'{what:<52} {goal:<14} {figure:<54} {mark}', flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--rounds', type=int, default=40)
    parser.add_argument('--programs', type=int, default=200)
    parser.add_argument('--cycles', type=int, default=1000)
    options = parser.parse_args()
    print(f'{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, Python {sys.version.split()[0]}')
    measure_starts(options.rounds)
    measure_throughput(options.programs)
    measure_warm_calls(options.rounds)
    measure_leaks(options.cycles)


if __name__ == '__main__':
    main()
