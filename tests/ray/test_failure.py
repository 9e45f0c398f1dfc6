"""Shards and nodes that die: what was asked of them ends as an error that says so, and nothing is run twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from enclave.errors import EnclaveError, SandboxGoneError, SandboxNotFoundError, ServerUnavailableError
from enclave.sandboxes.docker.engine import get_engine
from tests.support.host import is_running, wait_until
from tests.support.ray import STORE_BYTES, on_ray, two_nodes

pytestmark = [pytest.mark.ray, pytest.mark.bubblewrap]
PATIENCE = 180.0
CALLERS = 64
APPEND = 'echo {0} >> /count/{0}; while [ ! -e /count/go ]; do sleep 0.2; done; echo {0}'


def shard_of(manager: Any, sandbox_id: str) -> dict[str, Any]:
    found: dict[str, Any] = manager.get_stats()['shards'][sandbox_id.rpartition('-')[2]]
    return found


def counting(folder: Path) -> dict[str, Any]:
    """Options of sandboxes whose programs write into a directory of this machine."""
    folder.chmod(0o777)
    return {'volumes': {str(folder): {'bind': '/count', 'mode': 'rw'}}}


def runs(folder: Path) -> Counter[str]:
    """Return how often each program has begun."""
    found: Counter[str] = Counter()
    for each in folder.iterdir():
        if each.name != 'go':
            found[each.name] = len(each.read_text().splitlines())
    return found


class Callers:
    """Many threads with one call each, and what became of each."""

    def __init__(self, manager: Any, ids: list[str]) -> None:
        self.outcomes: dict[int, tuple[Any, float]] = {}
        self._threads = [
            threading.Thread(target=self._call, args=(manager, ids[number % len(ids)], number), daemon=True)
            for number in range(CALLERS)
        ]
        for each in self._threads:
            each.start()

    def _call(self, manager: Any, sandbox_id: str, number: int) -> None:
        try:
            outcome: Any = manager.execute_command(sandbox_id, APPEND.format(number), 0)
        except Exception as error:
            outcome = error
        self.outcomes[number] = outcome, time.monotonic()

    def join(self) -> None:
        for each in self._threads:
            each.join(PATIENCE)
        assert len(self.outcomes) == CALLERS


def test_a_shard_that_is_killed_under_many_callers_ends_their_calls_and_runs_nothing_twice(tmp_path: Path) -> None:
    with on_ray(sandbox_type='bubblewrap', min_shards=2, shard_size=4, sandbox_config=counting(tmp_path)) as manager:
        ids = [manager.create_sandbox() for _ in range(4)]
        dead = ids[0].rpartition('-')[2]
        callers = Callers(manager, ids)
        assert wait_until(lambda: len(runs(tmp_path)) == CALLERS, PATIENCE)
        pid = shard_of(manager, ids[0])['pid']
        children = _below(pid)

        os.kill(pid, signal.SIGKILL)
        (killed_at, lost) = time.monotonic(), [n for n in range(CALLERS) if ids[n % 4].endswith(dead)]
        assert wait_until(lambda: all(number in callers.outcomes for number in lost), PATIENCE)
        took = max(callers.outcomes[number][1] for number in lost) - killed_at
        (tmp_path / 'go').touch()
        callers.join()

        print(f'all calls on the killed shard had ended after {took:.2f} s')
        for number, (outcome, _) in callers.outcomes.items():
            if number in lost:
                assert isinstance(outcome, SandboxGoneError), outcome
                assert outcome.details['shard_id'] == dead
            else:
                assert outcome.stdout == f'{number}\n'
        assert set(runs(tmp_path).values()) == {1}
        assert wait_until(lambda: not any(is_running(each) for each in children), PATIENCE)
        with pytest.raises(SandboxGoneError):
            manager.execute_command(ids[0], 'true')
        assert manager.get_sandbox(ids[0]) is None
        # What is left works, and there is room again.
        assert manager.execute_command(manager.create_sandbox(), 'echo well').stdout == 'well\n'


def _below(pid: int) -> list[int]:
    """Return the processes that a process has started, and those that these have."""
    children: dict[int, list[int]] = {}
    for each in Path('/proc').iterdir():
        if each.name.isdigit():
            try:
                stat = (each / 'stat').read_text()
            except OSError:
                continue
            children.setdefault(int(stat.rpartition(')')[2].split()[1]), []).append(int(each.name))
    found, left = [], [pid]
    while left:
        for child in children.get(left.pop(), []):
            found.append(child)
            left.append(child)
    return found


@pytest.mark.docker
def test_containers_of_a_killed_shard_go_too() -> None:
    with on_ray(sandbox_type='docker', max_shards=1, sandbox_config={'network_enabled': False}) as manager:
        made = manager.create_sandbox()
        assert manager.execute_command(made, 'echo there').stdout == 'there\n'
        pid = shard_of(manager, made)['pid']

        def containers() -> int:
            filters = {'label': ['enclave.sandbox', f'enclave.owner.pid={pid}']}
            return len(get_engine().api.containers(all=True, filters=filters))

        assert containers() == 1
        os.kill(pid, signal.SIGKILL)

        assert wait_until(lambda: not containers(), PATIENCE)


def test_a_node_that_dies_under_many_callers_ends_their_calls_and_runs_nothing_twice(tmp_path: Path) -> None:
    cluster = two_nodes()
    node = cluster.add_node(num_cpus=2, object_store_memory=STORE_BYTES, resources={'doomed': 1})
    cluster.wait_for_nodes()
    options = {'sandbox_type': 'bubblewrap', 'sandbox_config': counting(tmp_path), 'shard_size': 4}
    with on_ray(**options, resources={'doomed': 1}, max_shards=1) as manager:
        ids = [manager.create_sandbox() for _ in range(2)]
        pid = shard_of(manager, ids[0])['pid']
        children = _below(pid)
        callers = Callers(manager, ids)
        assert wait_until(lambda: len(runs(tmp_path)) == CALLERS, PATIENCE)

        removed_at = time.monotonic()
        cluster.remove_node(node, allow_graceful=False)
        callers.join()

        print(
            f'all calls on the killed node had ended after {max(at for _, at in callers.outcomes.values()) - removed_at:.2f} s'
        )
        for outcome, _ in callers.outcomes.values():
            assert isinstance(outcome, (SandboxGoneError, ServerUnavailableError)), outcome
        assert set(runs(tmp_path).values()) == {1}
        assert wait_until(lambda: not any(is_running(each) for each in [pid, *children]), PATIENCE)


def test_a_shard_that_says_nothing_any_more_is_lost_with_the_calls_on_it() -> None:
    with on_ray(sandbox_type='bubblewrap', max_shards=1, lost_after=3.0) as manager:
        made = manager.create_sandbox()
        pid = shard_of(manager, made)['pid']
        ended: list[Any] = []

        def call() -> None:
            try:
                ended.append(manager.execute_command(made, 'sleep 1000', 0))
            except EnclaveError as error:
                ended.append(error)

        thread = threading.Thread(target=call)
        thread.start()
        assert wait_until(lambda: manager.get_stats()['active_calls'] == 1, PATIENCE)
        os.kill(pid, signal.SIGSTOP)
        thread.join(PATIENCE)

        assert isinstance(ended[0], SandboxGoneError)
        assert wait_until(lambda: not is_running(pid), PATIENCE)


def test_a_stream_and_a_transfer_end_with_their_shard() -> None:
    with on_ray(sandbox_type='bubblewrap', max_shards=1) as manager:
        sandbox: Any = manager.get_sandbox(manager.create_sandbox())
        process = sandbox.start_process('while true; do echo line; sleep 0.05; done')
        process.wait_started(PATIENCE)
        pid = shard_of(manager, sandbox.id)['pid']
        sandbox.execute_command('truncate -s 4G large')
        reading = sandbox.read_chunks('large')
        next(iter(reading))

        os.kill(pid, signal.SIGKILL)

        with pytest.raises(SandboxGoneError):
            process.wait(PATIENCE)
        with pytest.raises(SandboxGoneError):
            for _ in reading:
                pass


def test_a_pool_makes_anew_elsewhere_what_a_shard_took_with_it() -> None:
    with on_ray(sandbox_type='bubblewrap', min_shards=2, shard_size=8) as manager:
        before = manager.initialize_pool(4)
        dead = before[0].rpartition('-')[2]
        os.kill(shard_of(manager, before[0])['pid'], signal.SIGKILL)

        assert wait_until(lambda: dead not in manager.get_stats()['shards'], PATIENCE)
        assert wait_until(lambda: manager.get_stats()['pools']['default']['size'] == 4, PATIENCE)
        with manager.run_many([f'print({n})' for n in range(20)]) as outcomes:
            assert sorted(int(each.unwrap().stdout) for each in outcomes) == list(range(20))


def test_of_two_managers_of_a_name_one_makes_anew_what_was_lost() -> None:
    options: dict[str, Any] = {'name': 'both', 'lifetime': 'detached', 'unattended_timeout': 600.0, 'shard_size': 4}
    with on_ray(sandbox_type='bubblewrap', **options, min_shards=2) as owner:
        before = owner.initialize_pool(4)
        with on_ray(sandbox_type='bubblewrap', **options) as other:
            pools = [owner._pools.get(None), other._pools.get(None)]  # type: ignore[attr-defined]
            assert wait_until(lambda: pools[1].total == 4, PATIENCE)
            lost = before[0].rpartition('-')[2]
            os.kill(shard_of(owner, before[0])['pid'], signal.SIGKILL)

            def is_well(pool: Any) -> bool:
                return pool.total == 4 and pool.missing == 0 and lost not in pool.parts()

            assert wait_until(lambda: all(is_well(pool) for pool in pools), PATIENCE)
            assert [pool.size for pool in pools] == [4, 4]
            assert len([info for info in owner.list_sandboxes() if info.metadata['pool']]) == 4
            other.detach()  # type: ignore[attr-defined]


def test_a_batch_over_a_shard_that_dies_has_an_outcome_for_each_program_and_runs_none_twice(tmp_path: Path) -> None:
    program = 'import sys, time; print(1, file=open("/count/" + sys.stdin.read(), "a")); time.sleep(0.05)'
    with on_ray(sandbox_type='bubblewrap', min_shards=2, shard_size=4, sandbox_config=counting(tmp_path)) as manager:
        (first, *_) = manager.initialize_pool(4)
        pid = shard_of(manager, first)['pid']
        failed = 0
        with manager.map(program, [str(n) for n in range(200)]) as outcomes:
            for count, outcome in enumerate(outcomes):
                if count == 20:
                    os.kill(pid, signal.SIGKILL)
                failed += outcome.failed
                assert outcome.error is None or isinstance(outcome.error, SandboxGoneError)

        assert count == 199
        assert failed <= 8
        assert set(runs(tmp_path).values()) == {1}
        assert len(runs(tmp_path)) >= 200 - failed


DRIVER = """
    import os, sys, threading
    import ray
    ray.init(address={address!r}, namespace='enclave', log_to_driver=False)
    from enclave.ray.manager import RaySandboxManager
    manager = RaySandboxManager(sandbox_type='bubblewrap', num_cpus=0.5, max_shards=1, **{options!r})
    made = manager.create_sandbox(sandbox_id={sandbox_id!r})
    manager.execute_command(made, 'echo kept > note')
    (shard,) = manager.get_stats()['shards'].values()
    print(made, shard['pid'], flush=True)
    if {waits!r}:
        threading.Event().wait()
    os._exit(0)
"""


def driver(*, waits: bool, sandbox_id: str | None = None, **options: Any) -> Any:
    """Start a program of its own that makes a sandbox on the cluster; return it, the sandbox's id and the shard's process."""
    program = textwrap.dedent(DRIVER).format(
        address=two_nodes().address, options=options, waits=waits, sandbox_id=sandbox_id
    )
    process = subprocess.Popen([sys.executable, '-c', program], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout as output:
        for line in output:
            fields = line.split()
            if len(fields) == 2 and fields[1].isdigit():
                return process, fields[0], int(fields[1])
    pytest.fail('the driver ended without a word')


def test_all_ends_with_its_program_however_that_ends() -> None:
    process, _, pid = driver(waits=True)
    children = _below(pid)
    assert children

    process.kill()
    process.wait()

    assert wait_until(lambda: not any(is_running(each) for each in [pid, *children]), PATIENCE)


def test_detached_shards_are_taken_over_by_name_and_end_when_nobody_asks_for_them() -> None:
    options: dict[str, Any] = {'name': 'kept', 'lifetime': 'detached', 'unattended_timeout': 30.0}
    process, made, pid = driver(waits=False, **options)
    process.wait(PATIENCE)

    with on_ray(sandbox_type='bubblewrap', **options) as manager:
        assert manager.execute_command(made, 'cat note').stdout == 'kept\n'
        assert [info.id for info in manager.list_sandboxes()] == [made]
        (shard,) = manager.get_stats()['shards'].values()
        assert shard['pid'] == pid
        manager.detach()  # type: ignore[attr-defined]

    assert is_running(pid)
    assert wait_until(lambda: not is_running(pid), PATIENCE)


def test_a_name_of_ones_own_is_found_by_another_program_and_is_taken_for_it_too() -> None:
    options: dict[str, Any] = {'name': 'named', 'lifetime': 'detached', 'unattended_timeout': 600.0}
    process, made, _ = driver(waits=False, sandbox_id='mine', **options)
    process.wait(PATIENCE)
    assert made == 'mine'

    with on_ray(sandbox_type='bubblewrap', **options) as manager:
        assert manager.execute_command('mine', 'cat note').stdout == 'kept\n'
        with pytest.raises(EnclaveError, match='taken'):
            manager.create_sandbox(sandbox_id='mine')
        with pytest.raises(SandboxNotFoundError):
            manager.execute_command('not-mine', 'true')
