from __future__ import annotations

import contextvars
import gc
import os
import signal
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from enclave.cancellation import Cancellation
from enclave.deadline import Deadline
from enclave.enums import SandboxStatus
from enclave.errors import (
    CallCancelledError,
    ConflictError,
    EngineUnavailableError,
    InvalidArgumentError,
    ManagerStoppedError,
    PoolError,
    SandboxNotFoundError,
    SandboxStartError,
)
from enclave.managers import table
from enclave.managers.local import LocalSandboxManager
from enclave.sandboxes.base import Sandbox
from enclave.sandboxes.sandbox_factory import SandboxFactory
from tests.support.host import wait_until
from tests.support.sandbox import PATIENCE, FakeBackend, FakeSandbox
from tests.unit.managers.conftest import Manage


def fake(manager: LocalSandboxManager, sandbox_id: str) -> FakeSandbox:
    sandbox = manager.get_sandbox(sandbox_id)
    assert isinstance(sandbox, FakeSandbox)
    return sandbox


def wait_gone(backend: FakeBackend, manager: LocalSandboxManager, sandbox_id: str) -> None:
    """Wait until the reaper has taken a sandbox away."""
    backend.wait_until(lambda: sandbox_id in backend.ended)
    backend.wait_until(lambda: manager.get_sandbox(sandbox_id) is None)


# Making and removing --------------------------------------------------------------------------------------------------


def test_making_a_manager_starts_nothing(backend: FakeBackend) -> None:
    before = threading.active_count()

    with warnings.catch_warnings():
        warnings.simplefilter('error')
        manager = LocalSandboxManager()
        assert threading.active_count() == before
        del manager
        gc.collect()


def test_a_sandbox_without_a_configuration_gets_the_managers(manage: Manage) -> None:
    manager = manage(sandbox_config={'tools_config': ['shell_executor'], 'timeout': 7})

    sandbox_id = manager.create_sandbox('fake')

    assert manager.get_sandbox_info(sandbox_id).config['timeout'] == 7


def test_starts_are_parallel_within_their_limit(manage: Manage, backend: FakeBackend) -> None:
    manager = manage(parallel_starts=3)
    backend.may_start.clear()

    futures = [manager.submit('create_sandbox', 'fake') for _ in range(6)]
    backend.wait_until(lambda: backend.starting == 3)
    backend.may_start.set()

    assert len({future.result(PATIENCE) for future in futures}) == 6
    assert backend.most_starting == 3


def test_an_id_that_is_taken_is_refused(manager: LocalSandboxManager) -> None:
    manager.create_sandbox('fake', sandbox_id='mine')

    with pytest.raises(ConflictError, match="'mine' is taken"):
        manager.create_sandbox('fake', sandbox_id='mine')

    manager.delete_sandbox('mine')
    assert manager.create_sandbox('fake', sandbox_id='mine') == 'mine'


def test_a_start_that_fails_leaves_nothing_in_the_table(manager: LocalSandboxManager, backend: FakeBackend) -> None:
    backend.fail_starts(SandboxStartError('no such image'))

    with pytest.raises(SandboxStartError, match='no such image'):
        manager.create_sandbox('fake')

    assert manager.list_sandboxes() == []


def test_a_creation_whose_caller_is_cancelled_leaves_nothing(
    manager: LocalSandboxManager, backend: FakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table, 'UNDO_SECONDS', 0.1)  # it cannot go before `may_start`
    backend.may_start.clear()
    future = manager.submit('create_sandbox', 'fake')
    backend.wait_until(lambda: backend.starting == 1)

    future.cancel()
    with pytest.raises(CallCancelledError):
        future.result(PATIENCE)
    backend.may_start.set()

    backend.wait_until(lambda: len(backend.ended) == 1)
    assert backend.alive == set()


def test_a_storm_of_creations_half_of_them_cancelled_leaves_the_other_half(
    manage: Manage, backend: FakeBackend
) -> None:
    manager = manage(parallel_starts=4)
    backend.may_start.clear()
    futures = [manager.submit('create_sandbox', 'fake') for _ in range(20)]
    backend.wait_until(lambda: backend.starting == 4)

    for future in futures[::2]:
        future.cancel()
    backend.may_start.set()
    made = [future.result(PATIENCE) for future in futures[1::2]]
    for future in futures[::2]:
        with pytest.raises((CallCancelledError, Exception)):
            future.result(PATIENCE)

    backend.wait_until(lambda: backend.alive == set(made) and not backend.starting)
    assert len(made) == 10


def test_a_sandbox_can_be_deleted_while_it_starts(manager: LocalSandboxManager, backend: FakeBackend) -> None:
    backend.may_start.clear()
    creating = manager.submit('create_sandbox', 'fake', None, 'early')
    backend.wait_until(lambda: backend.starting == 1)
    assert [info.status for info in manager.list_sandboxes()] == [SandboxStatus.INITIALIZING]

    deleting = manager.submit('delete_sandbox', 'early')
    assert not deleting.done()
    backend.wait_until(lambda: manager._table.get('early').is_doomed)
    backend.may_start.set()

    assert deleting.result(PATIENCE) is True
    with pytest.raises(CallCancelledError, match='deleted before it had started'):
        creating.result(PATIENCE)
    assert backend.alive == set()


def test_two_who_delete_at_once_share_the_removal(manager: LocalSandboxManager, backend: FakeBackend) -> None:
    sandbox_id = manager.create_sandbox('fake')
    backend.may_end.clear()
    first = manager.submit('delete_sandbox', sandbox_id)
    backend.wait_until(lambda: manager._table.get(sandbox_id).ending is not None)
    second = manager.submit('delete_sandbox', sandbox_id)
    backend.may_end.set()

    assert first.result(PATIENCE) is True
    try:
        assert second.result(PATIENCE) is True
    except SandboxNotFoundError:
        pass  # it came when all was over
    assert backend.ended == [sandbox_id]


def test_removals_are_parallel(manager: LocalSandboxManager, backend: FakeBackend) -> None:
    ids = [manager.create_sandbox('fake') for _ in range(4)]
    backend.may_end.clear()
    futures = [manager.submit('delete_sandbox', sandbox_id) for sandbox_id in ids]
    backend.wait_until(lambda: all(manager._table.get(each).sandbox._status == 'stopping' for each in ids))
    backend.may_end.set()

    assert all(future.result(PATIENCE) for future in futures)


def test_control_never_queues_behind_calls(manage: Manage, backend: FakeBackend) -> None:
    manager = manage(max_workers=2)
    sandbox_id = manager.create_sandbox('fake')
    held = [manager.submit('execute_command', sandbox_id, 'hold') for _ in range(4)]
    backend.wait_until(lambda: backend.holding == 2)

    assert manager.submit('list_sandboxes').result(PATIENCE)
    assert manager.submit('health_check').result(PATIENCE).healthy
    assert manager.submit('delete_sandbox', sandbox_id).result(PATIENCE)

    for future in held:
        with pytest.raises(Exception, match=sandbox_id):
            future.result(PATIENCE)


# Engine trouble -------------------------------------------------------------------------------------------------------


def test_an_engine_that_is_away_loses_no_bookkeeping(manager: LocalSandboxManager, backend: FakeBackend) -> None:
    sandbox_id = manager.create_sandbox('fake')
    backend.is_away = True

    with pytest.raises(EngineUnavailableError):
        manager.create_sandbox('fake')
    with pytest.raises(EngineUnavailableError):
        manager.delete_sandbox(sandbox_id)
    health = manager.health_check()

    assert [info.id for info in manager.list_sandboxes()] == [sandbox_id]
    assert not health.healthy
    assert health.details['backends'] == {'fake': 'no fake engine answers'}
    backend.is_away = False
    assert manager.health_check().healthy
    assert manager.delete_sandbox(sandbox_id)


def test_what_could_not_be_removed_is_removed_later(
    manager: LocalSandboxManager, backend: FakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table, 'RETRY_SECONDS', 0.01)
    sandbox_id = manager.create_sandbox('fake')
    backend.is_away = True
    with pytest.raises(EngineUnavailableError):
        manager.delete_sandbox(sandbox_id)

    backend.is_away = False

    wait_gone(backend, manager, sandbox_id)


def test_a_sandbox_that_died_is_reported_as_such(manager: LocalSandboxManager) -> None:
    sandbox_id = manager.create_sandbox('fake')

    fake(manager, sandbox_id).die()

    info = manager.get_sandbox_info(sandbox_id)
    assert info.status is SandboxStatus.ERROR
    assert info.error == 'it was removed behind our back'
    assert manager.get_stats()['status_counts'] == {'error': 1}
    assert manager.delete_sandbox(sandbox_id)


def test_what_dead_owners_left_is_swept_again_and_again(manage: Manage, backend: FakeBackend) -> None:
    manager = manage(cleanup_interval=0.01)
    manager.create_sandbox('fake')

    backend.wait_until(lambda: backend.swept >= 2)


def test_sweeping_can_be_turned_off(manage: Manage, backend: FakeBackend) -> None:
    manager = manage(cleanup_interval=0.01, sweep=False)
    first = manager.create_sandbox('fake', ttl=0.05)
    wait_gone(backend, manager, first)

    assert backend.swept == 0


# Lifetimes ------------------------------------------------------------------------------------------------------------


def test_a_sandbox_lives_as_long_as_its_ttl(manager: LocalSandboxManager, backend: FakeBackend) -> None:
    sandbox_id = manager.create_sandbox('fake', ttl=0.05)

    wait_gone(backend, manager, sandbox_id)


def test_the_default_lifetimes_are_the_managers(manage: Manage) -> None:
    manager = manage(ttl=100, idle_timeout=50)

    facts = manager.get_sandbox_info(manager.create_sandbox('fake')).metadata
    never = manager.get_sandbox_info(manager.create_sandbox('fake', ttl=None, idle_timeout=0)).metadata

    assert (facts['ttl'], facts['idle_timeout']) == (100, 50)
    assert facts['expires_at'].endswith('+00:00')
    assert (never['ttl'], never['idle_timeout'], never['expires_at']) == (None, None, None)


def test_nobody_may_ask_for_more_than_the_cap(manage: Manage) -> None:
    manager = manage(max_ttl=10, max_idle_timeout=5)
    sandbox_id = manager.create_sandbox('fake', ttl=10, idle_timeout=5)

    for wish in ({'ttl': 11}, {'ttl': None}, {'idle_timeout': 6}, {'idle_timeout': 0}):
        with pytest.raises(InvalidArgumentError, match=f'max_{next(iter(wish))}'):
            manager.create_sandbox('fake', **wish)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError, match='max_ttl'):
        manager.renew(sandbox_id, None)
    default = manager.get_sandbox_info(manager.create_sandbox('fake')).metadata
    assert (default['ttl'], default['idle_timeout']) == (10, 5)


@pytest.mark.parametrize('value', [-1, 'soon', True])
def test_an_impossible_lifetime_is_refused(manager: LocalSandboxManager, value: Any) -> None:
    with pytest.raises(InvalidArgumentError, match='ttl'):
        manager.create_sandbox('fake', ttl=value)


def test_renewing_moves_the_end(manager: LocalSandboxManager, backend: FakeBackend) -> None:
    sandbox_id = manager.create_sandbox('fake', ttl=1000)
    first = manager.renew(sandbox_id)
    later = manager.renew(sandbox_id, 2000)

    assert first is not None
    assert later is not None
    assert 900 < (later - first).total_seconds() < 1100
    assert manager.renew(sandbox_id, None) is None
    manager.renew(sandbox_id, 0.01)
    wait_gone(backend, manager, sandbox_id)


def held_sandbox(
    manager: LocalSandboxManager, backend: FakeBackend, hold: Callable[[str], Future[Any]]
) -> tuple[str, Future[Any]]:
    """Return a sandbox whose time is up as soon as nobody uses it, and what uses it."""
    while True:
        sandbox_id = manager.create_sandbox('fake', idle_timeout=0.05)
        held = hold(sandbox_id)
        backend.wait_until(lambda held=held: backend.holding == 1 or held.done())
        if not held.done():
            return sandbox_id, held
        assert held.exception() is not None  # on a slow machine it was gone before it was used


def test_an_idle_sandbox_goes_and_a_busy_one_stays(manager: LocalSandboxManager, backend: FakeBackend) -> None:
    busy, held = held_sandbox(manager, backend, lambda each: manager.submit('execute_command', each, 'hold'))
    idle = manager.create_sandbox('fake', idle_timeout=0.05)

    wait_gone(backend, manager, idle)
    assert manager.get_sandbox(busy) is not None

    fake(manager, busy).let_go()
    held.result(PATIENCE)
    wait_gone(backend, manager, busy)


def test_direct_use_of_a_sandbox_counts_as_use(manager: LocalSandboxManager, backend: FakeBackend) -> None:
    with ThreadPoolExecutor(1) as caller:
        found, held = held_sandbox(
            manager, backend, lambda each: caller.submit(lambda: fake(manager, each).execute_command('hold'))
        )
        busy = fake(manager, found)
        wait_gone(backend, manager, manager.create_sandbox('fake', idle_timeout=0.05))

        assert manager.get_sandbox(busy.id) is not None
        busy.let_go()
        held.result(PATIENCE)
    wait_gone(backend, manager, busy.id)


def test_short_direct_use_counts_too(manager: LocalSandboxManager) -> None:
    sandbox = fake(manager, manager.create_sandbox('fake', idle_timeout=1000))
    record = manager._table.get(sandbox.id)
    before = record.last_used

    sandbox.execute_command('true')
    manager._table._reap(record, before + 1000)

    assert manager.get_sandbox(sandbox.id) is sandbox
    assert before < record.last_used == sandbox.used_at


# Pools ----------------------------------------------------------------------------------------------------------------


def test_a_pool_starts_in_parallel(manager: LocalSandboxManager, backend: FakeBackend) -> None:
    backend.may_start.clear()
    making = manager.submit('initialize_pool', 5, 'fake')
    backend.wait_until(lambda: backend.starting == 5)
    backend.may_start.set()

    assert sorted(making.result(PATIENCE)) == sorted(backend.alive)


def test_a_pool_of_which_one_cannot_start_is_not_made(manager: LocalSandboxManager, backend: FakeBackend) -> None:
    backend.fail_starts(SandboxStartError('no room'))

    with pytest.raises(SandboxStartError, match='no room'):
        manager.initialize_pool(4, 'fake')

    assert backend.alive == set()
    assert manager.list_sandboxes() == []
    assert not manager._pool_initialized
    assert len(manager.initialize_pool(4, 'fake')) == 4


def test_making_a_pool_can_be_cancelled(
    manager: LocalSandboxManager, backend: FakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table, 'UNDO_SECONDS', 0.1)  # none can go before `may_start`
    backend.may_start.clear()
    making = manager.submit('initialize_pool', 3, 'fake')
    backend.wait_until(lambda: backend.starting == 3)
    making.cancel()

    with pytest.raises(CallCancelledError):
        making.result(PATIENCE)
    backend.may_start.set()
    backend.wait_until(lambda: len(backend.ended) == 3)
    assert not manager._pool_initialized


def test_a_progress_that_cannot_be_called_is_refused_before_anything_runs(manager: LocalSandboxManager) -> None:
    with pytest.raises(InvalidArgumentError, match='on_progress must be a function'):
        manager.map('print(1)', ['a'], on_progress=5)  # type: ignore[arg-type]


def test_asking_twice_for_a_pool_makes_one(manager: LocalSandboxManager) -> None:
    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(lambda _: manager.initialize_pool(2, 'fake'), range(4)))

    assert all(sorted(answer) == sorted(answers[0]) for answer in answers)
    assert manager.get_stats()['pool_size'] == 2


def test_a_pool_can_be_made_larger_later(manager: LocalSandboxManager) -> None:
    first = manager.initialize_pool(1, 'fake')
    more = manager.initialize_pool(3, 'fake')

    assert set(first) < set(more)
    assert len(more) == 3


def test_pools_of_several_templates_stand_side_by_side(manager: LocalSandboxManager) -> None:
    plain = manager.initialize_pool(2, 'fake')
    quick = manager.initialize_pool(1, 'fake', {'timeout': 1}, name='quick')
    unnamed = manager.initialize_pool(1, 'fake', {'timeout': 2})

    with manager.lease() as a, manager.lease(pool='quick') as b, manager.lease(pool='fake-3') as c:
        assert (a.id in plain, [b.id], [c.id]) == (True, quick, unnamed)
    assert list(manager.get_stats()['pools']) == ['default', 'quick', 'fake-3']
    assert manager.get_stats()['pool_size'] == 4
    with pytest.raises(PoolError, match='another kind or configuration'):
        manager.initialize_pool(1, 'fake', {'timeout': 3}, name='quick')
    with pytest.raises(PoolError, match="no pool 'slow'"), manager.lease(pool='slow'):
        pass


def test_the_pools_policy_is_chosen_in_the_config(manage: Manage, backend: FakeBackend) -> None:
    manager = manage(pool_policy='fresh', pool_size=1)
    manager.initialize_pool(sandbox_type='fake')

    with manager.lease() as sandbox:
        sandbox.execute_command('touch secret')
    with manager.lease() as other:
        assert other.id != sandbox.id
        assert 'secret' not in other.execute_command('ls').stdout
    backend.wait_until(lambda: sandbox.id in backend.ended)


def test_a_dead_sandbox_of_a_pool_is_replaced(manager: LocalSandboxManager, backend: FakeBackend) -> None:
    (first,) = manager.initialize_pool(1, 'fake')
    fake(manager, first).die()

    with manager.lease() as sandbox:
        assert sandbox.id != first
        assert sandbox.execute_command('echo hi').stdout == 'hi\n'
    backend.wait_until(lambda: manager.get_stats()['total_sandboxes'] == 1)


def test_dead_idle_sandboxes_are_found_by_the_reaper(manage: Manage, backend: FakeBackend) -> None:
    manager = manage(cleanup_interval=0.02)
    (first,) = manager.initialize_pool(1, 'fake')
    fake(manager, first).die()

    backend.wait_until(lambda: len(backend.started) == 2)


def test_a_pool_comes_back_with_its_engine(manage: Manage, backend: FakeBackend) -> None:
    manager = manage()
    (first,) = manager.initialize_pool(1, 'fake')
    backend.is_away = True
    fake(manager, first).die()

    with pytest.raises(EngineUnavailableError), manager.lease():
        pass
    backend.is_away = False

    with manager.lease(PATIENCE) as sandbox:
        assert sandbox.id != first


def test_deleting_a_sandbox_of_a_pool_makes_it_another(manager: LocalSandboxManager, backend: FakeBackend) -> None:
    (first,) = manager.initialize_pool(1, 'fake')

    manager.delete_sandbox(first)

    with manager.lease(PATIENCE) as sandbox:
        assert sandbox.id != first


def test_a_lease_with_a_time_limit_ends(manager: LocalSandboxManager, backend: FakeBackend) -> None:
    manager.initialize_pool(1, 'fake')

    first = manager.acquire_sandbox(ttl=0.05)
    second = manager.acquire_sandbox(PATIENCE)

    assert second != first
    manager.release_sandbox(first)
    manager.release_sandbox(second)


def test_a_lease_ends_with_its_sandbox(manager: LocalSandboxManager, backend: FakeBackend) -> None:
    manager.initialize_pool(1, 'fake')
    deleted = manager.acquire_sandbox()
    assert manager.get_stats()['active_calls'] == 1
    manager.delete_sandbox(deleted)
    assert manager.get_stats()['active_calls'] == 0, 'a stop would wait for it'
    manager.release_sandbox(deleted)

    expired = manager.acquire_sandbox(PATIENCE, ttl=0.05)
    wait_gone(backend, manager, expired)
    assert wait_until(lambda: manager.get_stats()['active_calls'] == 0)
    manager.release_sandbox(expired)
    assert manager.get_stats()['active_calls'] == 0


def test_a_released_lease_has_no_time_limit_left(manager: LocalSandboxManager) -> None:
    manager.initialize_pool(1, 'fake')
    sandbox_id = manager.acquire_sandbox(ttl=1000)
    assert manager.get_sandbox_info(sandbox_id).metadata['expires_at'] is not None

    manager.release_sandbox(sandbox_id)

    assert manager.get_sandbox_info(sandbox_id).metadata['expires_at'] is None


def test_what_is_not_leased_cannot_be_released(manager: LocalSandboxManager) -> None:
    (pooled,) = manager.initialize_pool(1, 'fake')
    plain = manager.create_sandbox('fake')

    for sandbox_id in (pooled, plain):
        with pytest.raises(PoolError):
            manager.release_sandbox(sandbox_id)


def test_cleaning_up_dissolves_the_pools(manager: LocalSandboxManager, backend: FakeBackend) -> None:
    ids = [*manager.initialize_pool(2, 'fake'), manager.create_sandbox('fake')]

    assert sorted(manager.cleanup_all_sandboxes()) == sorted(ids)

    assert backend.alive == set()
    assert not manager._pool_initialized
    with pytest.raises(PoolError, match=r'^Sandbox pool is empty, call initialize_pool first$'):
        manager.execute_tool_in_pool('shell_executor', {'command': 'true'})
    assert len(manager.initialize_pool(1, 'fake')) == 1


# Submitting -----------------------------------------------------------------------------------------------------------


def test_context_variables_travel_with_a_submitted_call(manager: LocalSandboxManager, backend: FakeBackend) -> None:
    name: contextvars.ContextVar[str] = contextvars.ContextVar('name')
    seen: list[str] = []

    class Watching(FakeSandbox):
        def execute_command(self, *args: Any, **kwargs: Any) -> Any:
            seen.append(name.get())
            return super().execute_command(*args, **kwargs)

    Watching.backend = backend
    SandboxFactory.register_sandbox('fake', Watching)
    sandbox_id = manager.create_sandbox('fake')
    name.set('mine')
    manager.submit('execute_command', sandbox_id, 'true').result(PATIENCE)

    assert seen == ['mine']


def test_cancelling_a_submitted_call_stops_the_work(manager: LocalSandboxManager, backend: FakeBackend) -> None:
    sandbox_id = manager.create_sandbox('fake')
    future = manager.submit('execute_command', sandbox_id, 'hold')
    backend.wait_until(lambda: backend.holding == 1)

    assert future.cancel() is False

    assert future.result(PATIENCE).status == 'cancelled'
    assert manager.execute_command(sandbox_id, 'echo still').stdout == 'still\n'


def test_cancelling_the_work_that_submitted_a_call_stops_it_too(
    manager: LocalSandboxManager, backend: FakeBackend
) -> None:
    sandbox_id = manager.create_sandbox('fake')
    cancellation = Cancellation()
    with cancellation.applied():
        future = manager.submit('execute_command', sandbox_id, 'hold')
    backend.wait_until(lambda: backend.holding == 1)

    cancellation.cancel()

    assert future.result(PATIENCE).status == 'cancelled'


def test_only_verbs_can_be_submitted(manager: LocalSandboxManager) -> None:
    for verb in ('execute_tol', '_table', 'config', 'lease', 'submit', 7):
        with pytest.raises(InvalidArgumentError, match='no verb'):
            manager.submit(verb)  # type: ignore[arg-type]


# Stopping -------------------------------------------------------------------------------------------------------------


def test_stop_takes_everything_away_in_parallel(manage: Manage, backend: FakeBackend) -> None:
    manager = manage()
    for _ in range(4):
        manager.create_sandbox('fake')
    sandboxes = [manager.get_sandbox(info.id) for info in manager.list_sandboxes()]
    backend.may_end.clear()
    stopping = threading.Thread(target=manager.stop)
    stopping.start()

    backend.wait_until(lambda: all(each is not None and each._status == 'stopping' for each in sandboxes))
    backend.may_end.set()
    stopping.join(PATIENCE)

    assert backend.alive == set()
    assert manager.list_sandboxes() == []
    assert not [thread for thread in threading.enumerate() if manager.id in thread.name]


def test_stop_can_be_called_twice_and_from_several_threads(manage: Manage) -> None:
    manager = manage()
    manager.create_sandbox('fake')

    stoppers = [threading.Thread(target=manager.stop) for _ in range(4)]
    for stopper in stoppers:
        stopper.start()
    for stopper in stoppers:
        stopper.join(PATIENCE)
    manager.stop()

    assert not any(stopper.is_alive() for stopper in stoppers)


def test_stop_can_be_submitted(manage: Manage, backend: FakeBackend) -> None:
    manager = manage()
    manager.create_sandbox('fake')

    manager.submit('stop').result(PATIENCE)

    assert backend.alive == set()


def test_nothing_is_taken_on_after_the_end(manage: Manage) -> None:
    manager = manage()
    sandbox_id = manager.create_sandbox('fake')
    manager.stop()

    for verb, args in [
        ('start', ()),
        ('create_sandbox', ('fake',)),
        ('execute_tool', (sandbox_id, 'shell_executor', {})),
        ('execute_command', (sandbox_id, 'true')),
        ('delete_sandbox', (sandbox_id,)),
        ('get_sandbox_info', (sandbox_id,)),
        ('initialize_pool', (1, 'fake')),
        ('acquire_sandbox', ()),
        ('cleanup_all_sandboxes', ()),
    ]:
        with pytest.raises(ManagerStoppedError, match='stopped'):
            getattr(manager, verb)(*args)
    with pytest.raises(ManagerStoppedError):
        manager.submit('list_sandboxes')
    assert manager.list_sandboxes() == []
    assert manager.get_stats()['running'] is False
    assert not manager.health_check().healthy


def test_who_waits_in_a_pool_is_woken_by_the_end(manage: Manage, backend: FakeBackend) -> None:
    manager = manage()
    manager.initialize_pool(1, 'fake')
    with manager.lease():
        waiting = manager.submit('acquire_sandbox')
        backend.wait_until(lambda: manager.get_stats()['pools']['default']['waiting'] == 1)
        manager.stop()
    with pytest.raises(ManagerStoppedError):
        waiting.result(PATIENCE)


def test_a_creation_going_on_is_taken_back_by_the_end(manage: Manage, backend: FakeBackend) -> None:
    manager = manage()
    backend.may_start.clear()
    creating = manager.submit('create_sandbox', 'fake')
    backend.wait_until(lambda: backend.starting == 1)
    stopping = threading.Thread(target=manager.stop)
    stopping.start()
    backend.wait_until(lambda: manager._table.state == 'stopping')
    backend.may_start.set()
    stopping.join(PATIENCE)

    with pytest.raises(ManagerStoppedError):
        creating.result(PATIENCE)
    assert backend.alive == set()


def test_running_calls_get_their_grace(manage: Manage, backend: FakeBackend) -> None:
    manager = manage(stop_grace=PATIENCE)
    sandbox_id = manager.create_sandbox('fake')
    held = manager.submit('execute_command', sandbox_id, 'hold')
    backend.wait_until(lambda: backend.holding == 1)
    sandbox = fake(manager, sandbox_id)
    stopping = threading.Thread(target=manager.stop)
    stopping.start()
    backend.wait_until(lambda: manager._table.state == 'stopping')

    sandbox.let_go()
    stopping.join(PATIENCE)

    assert held.result(PATIENCE).success


def test_a_call_that_outlasts_the_grace_is_ended(manage: Manage, backend: FakeBackend) -> None:
    manager = manage(stop_grace=0.01)
    sandbox_id = manager.create_sandbox('fake')
    held = manager.submit('execute_command', sandbox_id, 'hold')
    backend.wait_until(lambda: backend.holding == 1)

    manager.stop()

    with pytest.raises(ConnectionError, match='was stopped while'):
        held.result(PATIENCE)


def test_a_lease_of_the_stopping_thread_is_not_waited_for(manage: Manage, backend: FakeBackend) -> None:
    manager = manage(stop_grace=1e6, stop_timeout=None)
    manager.initialize_pool(1, 'fake')

    with manager.lease():
        manager.stop()

    assert backend.alive == set()


def test_stop_ends_at_its_deadline_and_can_be_tried_again(manage: Manage, backend: FakeBackend) -> None:
    manager = manage(stop_timeout=0.05)
    sandbox_id = manager.create_sandbox('fake')
    backend.may_end.clear()

    manager.stop()
    assert [info.id for info in manager.list_sandboxes()] == [sandbox_id]

    backend.may_end.set()
    manager._table.config = manager.config.model_copy(update={'stop_timeout': PATIENCE})
    manager.stop()
    assert manager.list_sandboxes() == []


def send_until(handled: threading.Event) -> None:
    """Send SIGUSR1 until it is handled: Python misses one that comes just before the main thread begins to wait."""
    deadline = Deadline.after(PATIENCE)
    while not handled.is_set() and not deadline.has_expired():
        os.kill(os.getpid(), signal.SIGUSR1)
        handled.wait(0.1)


def test_stop_in_a_signal_handler_while_the_same_thread_waits(manage: Manage, backend: FakeBackend) -> None:
    manager = manage(stop_grace=PATIENCE)
    sandbox_id = manager.create_sandbox('fake')
    handled = threading.Event()

    def handle(*_: Any) -> None:
        if not handled.is_set():
            handled.set()
            manager.stop()

    def interrupt() -> None:
        backend.wait_until(lambda: backend.holding == 1)
        send_until(handled)

    before = signal.signal(signal.SIGUSR1, handle)
    try:
        interrupter = threading.Thread(target=interrupt)
        interrupter.start()
        with pytest.raises(ConnectionError, match='was stopped while'):
            manager.execute_command(sandbox_id, 'hold')
        interrupter.join(PATIENCE)
    finally:
        signal.signal(signal.SIGUSR1, before)

    assert handled.is_set()
    assert backend.alive == set()


def test_stop_in_a_signal_handler_while_the_same_thread_creates(manage: Manage, backend: FakeBackend) -> None:
    manager = manage()
    backend.may_start.clear()

    handled = threading.Event()

    def handle(*_: Any) -> None:
        if not handled.is_set():
            handled.set()
            backend.may_start.set()
            manager.stop()

    def interrupt() -> None:
        backend.wait_until(lambda: backend.starting == 1)
        send_until(handled)

    before = signal.signal(signal.SIGUSR1, handle)
    try:
        interrupter = threading.Thread(target=interrupt)
        interrupter.start()
        with pytest.raises(ManagerStoppedError):
            manager.create_sandbox('fake')
        interrupter.join(PATIENCE)
    finally:
        signal.signal(signal.SIGUSR1, before)

    assert backend.alive == set()


def test_stop_in_a_signal_handler_while_the_same_thread_holds_the_lock(manage: Manage, backend: FakeBackend) -> None:
    manager = manage()
    manager.create_sandbox('fake')
    before = signal.signal(signal.SIGUSR1, lambda *_: manager.stop())
    try:
        with manager._table._lock:
            os.kill(os.getpid(), signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, before)

    assert backend.alive == set()


def test_a_forgotten_manager_warns_and_leaves_nothing(backend: FakeBackend) -> None:
    manager = LocalSandboxManager(sandbox_config={'tools_config': []})
    manager.create_sandbox('fake')
    name = manager.id

    with warnings.catch_warnings(record=True) as reported:
        warnings.simplefilter('always')
        del manager
        gc.collect()
    assert [str(each.message) for each in reported] == [f'<LocalSandboxManager {name}> was forgotten without stop()']

    backend.wait_until(lambda: not backend.alive)
    for thread in threading.enumerate():
        if thread.name == f'enclave-stop-{name}':
            thread.join(PATIENCE)


def test_a_stopped_manager_does_not_warn(manage: Manage) -> None:
    manager = LocalSandboxManager()
    manager.start()
    manager.stop()

    with warnings.catch_warnings():
        warnings.simplefilter('error')
        del manager
        gc.collect()


def test_a_fork_takes_nothing_away_and_learns_it(manager: LocalSandboxManager, backend: FakeBackend) -> None:
    manager.create_sandbox('fake')
    manager._table.pid += 1  # as a fork's copy sees it
    try:
        with pytest.raises(ManagerStoppedError, match='of which this is a fork'):
            manager.create_sandbox('fake')
        manager.stop()
        assert len(backend.alive) == 1
    finally:
        manager._table.pid -= 1


# Users' own sandboxes -------------------------------------------------------------------------------------------------


def test_a_kind_without_files_says_so(manager: LocalSandboxManager, backend: FakeBackend) -> None:
    class Plain(Sandbox):
        sandbox_type = 'plain'

        def _start(self) -> None: ...
        def _stop(self, *, keep: bool) -> None: ...
        def execute_command(self, command: Any, timeout: float | None = None, **_: Any) -> Any: ...

    SandboxFactory.register_sandbox('plain', Plain)
    sandbox_id = manager.create_sandbox('plain', {})

    with pytest.raises(NotImplementedError, match='has no put_file'):
        manager.put_file(sandbox_id, b'', 'x')


@pytest.mark.parametrize(
    'sandbox_id',
    [[], {}, 10**5000, b'x', None, '\ud800', 'x' * 100_000],
    ids=['list', 'dict', 'huge', 'bytes', 'None', 'surrogate', 'long'],
)
def test_an_id_that_cannot_be_is_one_that_nobody_has(manage: Manage, sandbox_id: Any) -> None:
    manager = manage()
    assert manager.get_sandbox(sandbox_id) is None
    with pytest.raises(SandboxNotFoundError) as caught:
        manager.execute_tool(sandbox_id, 'shell_executor', {'command': 'true'})
    assert len(caught.value.message) < 2000


@pytest.mark.parametrize('labels', [5, 10**5000, {'a': 10**5000}, ['a']], ids=['number', 'huge', 'value', 'list'])
def test_labels_that_are_none_are_named_whatever_they_are(manage: Manage, labels: Any) -> None:
    with pytest.raises(InvalidArgumentError, match='labels must be a dict of strings'):
        manage().create_sandbox('fake', labels=labels)


def test_a_kind_that_is_no_name_is_named_whatever_it_is(manage: Manage) -> None:
    for kind in (10**5000, [], b'docker'):
        with pytest.raises(InvalidArgumentError, match='a sandbox type is a SandboxType or a name'):
            manage().create_sandbox(kind)
