"""What a manager over a Ray cluster costs, beside local managers in the same run. Prints a table of goals and figures.

Run with: python benchmarks/ray_cluster.py [--rounds N] [--programs N] [--creations N] [--only NAME]. Needs Ray
(``pip install 'ms-enclave[ray]'``) and bubblewrap; two nodes are simulated on this machine. Where two ways are compared they take
turns, so that a machine that slows down slows both; figures of calls are medians.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from enclave import LocalSandboxManager, RaySandboxManager
from enclave.cancellation import Cancellation
from enclave.errors import CallCancelledError

KIND = 'bubblewrap'
STORE_BYTES = 100 << 20
MIB = 1 << 20
MEMBERS = 4
"""Sandboxes of a node's part of the pool."""

LOCAL = """
import sys, time
from enclave import LocalSandboxManager
with LocalSandboxManager(sandbox_type={kind!r}) as manager:
    manager.initialize_pool({members})
    print('ready', flush=True)
    sys.stdin.readline()
    begun = time.perf_counter()
    with manager.run_many(f'print({{n}})' for n in range({count})) as outcomes:
        assert all(not each.failed for each in outcomes)
    print(time.perf_counter() - begun, flush=True)
    sys.stdin.readline()
"""


def show(what: str, goal: str, figure: str) -> None:
    """Print a line of the table."""
    print(f'{what:<66} {goal:<22} {figure}', flush=True)


@contextlib.contextmanager
def two_nodes() -> Iterator[str]:
    """Give the address of two nodes on this machine."""
    import ray
    from ray.cluster_utils import Cluster

    facts = {'num_cpus': 4, 'object_store_memory': STORE_BYTES}
    made = Cluster(initialize_head=True, head_node_args={**facts, 'include_dashboard': False})
    made.add_node(**facts)
    try:
        yield made.address
    finally:
        ray.shutdown()
        made.shutdown()


def resident(pid: int) -> int:
    """Return how much memory a process has."""
    return int(Path(f'/proc/{pid}/statm').read_text().split()[1]) * os.sysconf('SC_PAGE_SIZE')


def processor_seconds(pids: list[int]) -> float:
    """Return how much processor time processes have had by themselves."""
    ticks = 0
    for pid in pids:
        fields = Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf('SC_CLK_TCK')


def shard_pids(manager: Any) -> list[int]:
    """Return the processes of the shards."""
    return [shard['pid'] for shard in manager.get_stats()['shards'].values()]


def median_ms(actions: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return the medians of several actions that take turns, in milliseconds."""
    taken: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(rounds):
        for name, action in actions.items():
            begun = time.perf_counter()
            action()
            taken[name].append(time.perf_counter() - begun)
    return {name: statistics.median(each) * 1000 for name, each in taken.items()}


def calls(manager: Any, options: argparse.Namespace) -> None:
    """Measure one call, here and on a node."""
    with LocalSandboxManager(sandbox_type=KIND) as local, local.open() as ours, manager.open() as theirs:
        manager.execute_command(theirs.id, ['true'])
        used = time.process_time()
        for _ in range(options.rounds):
            manager.execute_command(theirs.id, ['true'])
        used = (time.process_time() - used) / options.rounds * 1000
        found = median_ms(
            {
                'local': lambda: local.execute_command(ours.id, ['true']),
                'ray': lambda: manager.execute_command(theirs.id, ['true']),
            },
            options.rounds,
        )
    show(
        'a call on a node, over one on this machine',
        'at most 3 ms more',
        f'{found["ray"] - found["local"]:.2f} ms ({found["ray"]:.2f} and {found["local"]:.2f}); {used:.2f} ms of processor here',
    )


def creations(manager: Any, options: argparse.Namespace) -> None:
    """Measure a sandbox from its making to its end, and what many of them leave."""
    with LocalSandboxManager(sandbox_type=KIND) as local:
        found = median_ms(
            {
                'local': lambda: local.delete_sandbox(local.create_sandbox()),
                'ray': lambda: manager.delete_sandbox(manager.create_sandbox()),
            },
            max(10, options.rounds // 10),
        )
    show('a sandbox made and deleted', '', f'{found["ray"]:.1f} ms, here {found["local"]:.1f}')
    pids = shard_pids(manager)
    threads, sizes = threading.active_count(), [sum(map(resident, pids))]
    for _ in range(2):
        for _ in range(options.creations):
            manager.delete_sandbox(manager.create_sandbox())
        sizes.append(sum(map(resident, pids)))
    first, grown = sizes[1] - sizes[0], sizes[2] - sizes[1]
    show(
        f'growth of both shards by {options.creations} creations and deletions, after as many',
        'none',
        f'{grown / MIB:.1f} MiB ({first / MIB:.1f} for the first), {threading.active_count() - threads} threads here',
    )


def throughput(manager: Any, options: argparse.Namespace) -> None:
    """Run programs on two nodes, and in two local managers side by side."""
    count = options.programs
    manager.initialize_pool(2 * MEMBERS)
    with manager.run_many(['print(1)'] * 20) as outcomes:
        assert all(not each.failed for each in outcomes)
    rates: dict[str, list[float]] = {'local': [], 'ray': []}
    here = there = 0.0
    pids = shard_pids(manager)
    for _ in range(3):
        rates['local'].append(2 * count / side_by_side(count))
        begun = time.perf_counter()
        used_here, used_there = time.process_time(), processor_seconds(pids)
        with manager.run_many(f'print({n})' for n in range(2 * count)) as outcomes:
            assert all(not each.failed for each in outcomes)
        rates['ray'].append(2 * count / (time.perf_counter() - begun))
        here += time.process_time() - used_here
        there += processor_seconds(pids) - used_there
    local, ray = (statistics.median(rates[name]) for name in ('local', 'ray'))
    show(
        f'{2 * count} programs on two nodes, beside two local managers',
        'at least 0.8',
        f'{ray / local:.2f} ({ray:.0f} and {local:.0f} a second)',
    )
    show(
        'processor time of a program beside its own',
        '',
        f'{here / 6 / count * 1000:.2f} ms of the client, {there / 6 / count * 1000:.2f} ms of the shard',
    )


def side_by_side(count: int) -> float:
    """Return how long two processes take with a local manager each."""
    program = LOCAL.format(kind=KIND, members=MEMBERS, count=count)
    pipe = subprocess.PIPE
    both = [subprocess.Popen([sys.executable, '-c', program], stdin=pipe, stdout=pipe, text=True) for _ in range(2)]
    for each in both:
        assert each.stdout is not None
        assert each.stdout.readline() == 'ready\n'
    for each in both:
        assert each.stdin is not None
        each.stdin.write('go\n')
        each.stdin.flush()
    seconds = max(float(each.stdout.readline()) for each in both if each.stdout is not None)
    for each in both:
        each.communicate('end\n')
    return seconds


def _with_folder(manager: Any, folder: str) -> Any:
    """Return a sandbox with a directory of its node, since its own lies in memory."""
    os.chmod(folder, 0o777)
    return manager.open(config={'volumes': {folder: {'bind': '/data', 'mode': 'rw'}}})


def transfers(manager: Any, options: argparse.Namespace) -> None:
    """Send a gigabyte in and take it out again."""
    size = options.megabytes
    piece = os.urandom(MIB)
    with tempfile.TemporaryDirectory() as folder, _with_folder(manager, folder) as sandbox:
        pid = manager.get_stats()['shards'][sandbox.id.rpartition('-')[2]]['pid']
        before = {'shard': resident(pid), 'here': resident(os.getpid())}
        most = dict(before)
        ended = threading.Event()

        def look() -> None:
            while not ended.wait(0.05):
                most['shard'] = max(most['shard'], resident(pid))
                most['here'] = max(most['here'], resident(os.getpid()))

        watcher = threading.Thread(target=look)
        watcher.start()
        begun = time.perf_counter()
        sandbox.put_file((piece for _ in range(size)), '/data/large')
        sent = time.perf_counter()
        got = sum(len(chunk) for chunk in sandbox.read_chunks('/data/large'))
        taken = time.perf_counter()
        ended.set()
        watcher.join()
    assert got == size * MIB
    show(
        f'{size} MiB in and out',
        'constant memory',
        f'{size / (sent - begun):.0f} and {size / (taken - sent):.0f} MiB/s; the shard grew by '
        f'{(most["shard"] - before["shard"]) / MIB:.0f} MiB, this process by {(most["here"] - before["here"]) / MIB:.0f}',
    )


def reports(manager: Any, options: argparse.Namespace) -> None:
    """Ask the shards how they are, as the manager does every second."""
    import ray

    handles = [shard.handle for shard in manager._shards.up()]
    pids = shard_pids(manager)
    used_here, used_there = time.process_time(), processor_seconds(pids)
    for _ in range(options.rounds):
        ray.get([handle.report.remote() for handle in handles])
    count = options.rounds * len(handles)
    here, there = time.process_time() - used_here, processor_seconds(pids) - used_there
    show(
        'processor time of a report, which each manager asks of each shard',
        '',
        f'{here / count * 1000:.2f} ms of the client, {there / count * 1000:.2f} ms of the shard',
    )


def cancelling(manager: Any, options: argparse.Namespace) -> None:
    """Cancel a call that continues."""
    taken = []
    with manager.open() as sandbox:
        for _ in range(10):
            cancellation, begun = Cancellation(), threading.Event()

            def call(cancellation: Cancellation = cancellation, begun: threading.Event = begun) -> None:
                with cancellation.applied(), contextlib.suppress(CallCancelledError):
                    begun.set()
                    manager.execute_command(sandbox.id, 'sleep 100', 0)

            thread = threading.Thread(target=call)
            thread.start()
            begun.wait()
            threading.Event().wait(0.2)
            at = time.perf_counter()
            cancellation.cancel()
            thread.join()
            taken.append(time.perf_counter() - at)
    show(
        'cancelling a call', 'within 1 s', f'{statistics.median(taken) * 1000:.0f} ms, at most {max(taken) * 1000:.0f}'
    )


MEASUREMENTS: dict[str, Callable[[Any, argparse.Namespace], None]] = {
    'calls': calls,
    'creations': creations,
    'throughput': throughput,
    'reports': reports,
    'transfers': transfers,
    'cancelling': cancelling,
}


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--rounds', type=int, default=200)
    parser.add_argument('--programs', type=int, default=300, help='programs of each of the two sides of a pair')
    parser.add_argument('--creations', type=int, default=1000)
    parser.add_argument('--megabytes', type=int, default=1024)
    parser.add_argument('--only', choices=sorted(MEASUREMENTS))
    options = parser.parse_args()
    try:
        import ray  # noqa: F401
    except ImportError:
        print("Ray is not installed, so there is nothing to measure: pip install 'ms-enclave[ray]'")
        return
    with two_nodes() as address:
        begun = time.perf_counter()
        with RaySandboxManager(
            address=address, sandbox_type=KIND, min_shards=2, max_shards=2, shard_size=16, num_cpus=1
        ) as manager:
            manager.delete_sandbox(manager.create_sandbox())
            show('two shards, from nothing to a sandbox', '', f'{time.perf_counter() - begun:.1f} s')
            most = max(map(resident, shard_pids(manager)))
            show('memory of a shard without sandboxes', '', f'{most / MIB:.0f} MiB')
            for name, measure in MEASUREMENTS.items():
                if options.only in (None, name):
                    measure(manager, options)


if __name__ == '__main__':
    main()
