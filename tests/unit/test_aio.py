"""The proxies over fake sandboxes: what a program sees of them."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import importlib
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import enclave
from enclave import aio
from enclave.enums import ExecutionStatus, SandboxStatus, SandboxType
from enclave.errors import (
    CallCancelledError,
    ConfigurationError,
    InvalidArgumentError,
    ManagerStoppedError,
    NotRegisteredError,
    PoolError,
    SandboxStateError,
    ToolArgumentsError,
)
from enclave.managers import manager_factory as managers
from enclave.managers.local import LocalSandboxManager
from enclave.records import CommandResult, ToolResult
from enclave.sandboxes import choice
from enclave.sandboxes.kinds import KINDS
from enclave.sandboxes.sandbox_factory import SandboxFactory
from enclave.tools import tool_factory
from tests.support.aio import PATIENCE, until
from tests.support.sandbox import FakeBackend, FakeSandbox

ROOT = Path(__file__).parents[2]
TOOLS = {'tools_config': ['shell_executor', 'python_executor', 'file_operation']}


@pytest.fixture
def backend() -> FakeBackend:
    made = FakeBackend()
    SandboxFactory.register_sandbox('fake', type('TestSandbox', (FakeSandbox,), {'backend': made}))
    return made


@pytest.fixture(autouse=True)
def _registries_of_this_test(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tool_factory.TOOLS, 'registered', dict(tool_factory.TOOLS.registered))
    monkeypatch.setattr(aio.Sandbox._proxy_registry, 'proxies', dict(aio.Sandbox._proxy_registry.proxies))


def manager(**options: Any) -> aio.LocalSandboxManager:
    return aio.LocalSandboxManager(**{'sandbox_config': TOOLS, 'stop_grace': 0, 'sweep': False, **options})


# Sandboxes


def test_a_sandbox_is_used_with_async_with(backend: FakeBackend) -> None:
    async def main() -> None:
        sandbox = aio.SandboxFactory.create_sandbox('fake', TOOLS, 'mine')
        assert sandbox.status is SandboxStatus.INITIALIZING
        async with sandbox as entered:
            assert entered is sandbox
            assert sandbox.id == 'mine'
            assert sandbox.status is SandboxStatus.RUNNING
            result = await sandbox.execute_tool('shell_executor', {'command': 'echo hello'})
            assert result.output == 'hello\n'
            assert (await sandbox.get_info()).id == 'mine'
            assert await sandbox.list_tools() == ['shell_executor', 'python_executor', 'file_operation']
        assert sandbox.status is SandboxStatus.STOPPED

    asyncio.run(main())

    assert backend.alive == set()


def test_making_one_needs_no_loop_and_starts_nothing(backend: FakeBackend) -> None:
    sandbox = aio.SandboxFactory.create_sandbox('fake', TOOLS)

    assert sandbox.status is SandboxStatus.INITIALIZING
    assert backend.started == []


def test_a_kind_that_nobody_names_is_chosen_off_the_loop_when_it_is_needed(
    backend: FakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = []

    def choose() -> choice.Choice:
        looked.append(threading.current_thread())
        return choice.Choice(SandboxType.BUBBLEWRAP, 'it is a test')

    monkeypatch.setattr(choice, '_chosen', None)
    monkeypatch.setattr(choice, 'choose', choose)
    monkeypatch.setattr(KINDS, 'registered', dict(KINDS.registered))
    SandboxFactory.register_sandbox('bubblewrap', type('Chosen', (FakeSandbox,), {'backend': backend}))

    async def main() -> None:
        sandbox = aio.SandboxFactory.create_sandbox(config=TOOLS, sandbox_id='mine')
        assert (sandbox.id, sandbox.status, sandbox.sandbox_type) == ('mine', SandboxStatus.INITIALIZING, None)
        assert 'not chosen' in repr(sandbox)
        with pytest.raises(SandboxStateError, match='is initializing'):
            await sandbox.execute_command('true')
        assert looked == []
        sandbox.metadata['job'] = 'x1'
        known, list_tools, made_at = {sandbox}, sandbox.list_tools, sandbox.created_at

        await asyncio.gather(*[sandbox.list_tools() for _ in range(3)])
        async with sandbox as entered:
            assert entered is sandbox
            assert sandbox in known
            assert (sandbox.metadata['job'], sandbox.created_at) == ('x1', made_at)
            assert await list_tools() == TOOLS['tools_config']
            assert sandbox.id == 'mine'
            assert (await sandbox.execute_command('echo hello')).stdout == 'hello\n'
            assert sandbox.metadata['chosen_because'] == 'it is a test'
        assert sandbox.sandbox_type == 'fake'
        assert threading.current_thread() not in looked

    asyncio.run(main())

    assert backend.started == ['mine']
    assert backend.alive == set()


def test_what_decides_by_itself_needs_no_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, '_chosen', None)
    monkeypatch.setattr(choice, 'choose', lambda: pytest.fail('there is nothing to look for'))

    assert type(aio.SandboxFactory.create_sandbox(config={'image': 'x'})) is aio.DockerSandbox
    assert type(aio.SandboxFactory.create_sandbox(config=aio.BubblewrapSandboxConfig())) is aio.BubblewrapSandbox


def test_a_wrong_configuration_of_no_kind_is_reported_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, '_chosen', None)

    with pytest.raises(ConfigurationError, match='memory_limit'):
        aio.SandboxFactory.create_sandbox(config={'memory_limit': 'much'})


def test_an_unknown_kind_is_a_value_error() -> None:
    with pytest.raises(ValueError, match='not registered'):
        aio.SandboxFactory.create_sandbox('nothing-of-the-kind')
    with pytest.raises(NotRegisteredError):
        aio.SandboxManagerFactory.create_manager('nothing-of-the-kind')


def test_the_abstract_face_cannot_be_made() -> None:
    with pytest.raises(ValueError, match='SandboxFactory'):
        aio.Sandbox()


def test_errors_are_those_of_the_blocking_class(backend: FakeBackend) -> None:
    async def main() -> None:
        sandbox = aio.SandboxFactory.create_sandbox('fake', TOOLS)
        with pytest.raises(SandboxStateError):
            await sandbox.execute_command('true')
        async with sandbox:
            with pytest.raises(ToolArgumentsError):
                await sandbox.execute_tool('shell_executor', {'nonsense': 1})

    asyncio.run(main())


def test_cancelling_a_call_leaves_a_usable_sandbox(backend: FakeBackend) -> None:
    async def main() -> None:
        async with aio.SandboxFactory.create_sandbox('fake', TOOLS) as sandbox:
            task = asyncio.ensure_future(sandbox.execute_command('hold'))
            await until(lambda: backend.holding == 1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert backend.holding == 0
            assert (await sandbox.execute_command('echo on')).stdout == 'on\n'

    asyncio.run(main())


def test_a_start_that_is_cancelled_leaves_nothing(backend: FakeBackend) -> None:
    async def main() -> None:
        backend.may_start.clear()

        async def use() -> None:
            async with aio.SandboxFactory.create_sandbox('fake', TOOLS):
                raise AssertionError('unreachable')

        task = asyncio.ensure_future(use())
        await until(lambda: backend.starting == 1)
        task.cancel()
        backend.may_start.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert backend.ended

    asyncio.run(main())

    assert backend.alive == set()


@pytest.mark.parametrize('moment', ['while it starts', 'when it has started'])
def test_a_start_that_was_cancelled_may_be_made_again(backend: FakeBackend, moment: str) -> None:
    async def main() -> None:
        sandbox = aio.SandboxFactory.create_sandbox('fake', TOOLS)
        if moment == 'while it starts':
            backend.may_start.clear()
        task = asyncio.ensure_future(sandbox.start())
        if moment == 'while it starts':
            await until(lambda: backend.starting == 1)
            task.cancel()
            backend.may_start.set()
        else:
            await asyncio.sleep(0)
            backend.wait_until(
                lambda: sandbox.status is SandboxStatus.RUNNING
            )  # which the loop, held up, does not hear of
            task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert sandbox.status is SandboxStatus.STOPPED

        async with sandbox:
            assert len(backend.ended) == 1
            assert (await sandbox.execute_command('echo on')).stdout == 'on\n'

    asyncio.run(main())


def test_cancelling_a_second_start_leaves_a_running_sandbox_as_it_is(backend: FakeBackend) -> None:
    async def main() -> None:
        async with aio.SandboxFactory.create_sandbox('fake', TOOLS) as sandbox:
            task = asyncio.ensure_future(sandbox.start())
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert (await sandbox.execute_command('echo on')).stdout == 'on\n'
            assert backend.ended == []

    asyncio.run(main())


def test_cancelling_one_of_two_starts_leaves_what_the_other_learnt_of(backend: FakeBackend) -> None:
    async def main() -> None:
        sandbox = aio.SandboxFactory.create_sandbox('fake', TOOLS)
        backend.may_start.clear()
        first = asyncio.ensure_future(sandbox.start())
        await until(lambda: backend.starting == 1)
        second = asyncio.ensure_future(sandbox.start())
        await until(lambda: sandbox._blocking._changed._waiters)
        first.cancel()
        backend.may_start.set()
        await second
        with pytest.raises(asyncio.CancelledError):
            await first
        assert (await sandbox.execute_command('echo on')).stdout == 'on\n'
        await sandbox.stop()

    asyncio.run(main())


def test_it_may_be_entered_in_one_loop_and_left_in_another(backend: FakeBackend) -> None:
    sandbox = aio.SandboxFactory.create_sandbox('fake', TOOLS)

    asyncio.run(sandbox.start())
    result = asyncio.run(sandbox.execute_command('echo two'))
    asyncio.run(sandbox.stop())

    assert result.stdout == 'two\n'
    assert backend.alive == set()


def test_two_loops_may_use_one_sandbox_at_once(backend: FakeBackend) -> None:
    sandbox = aio.SandboxFactory.create_sandbox('fake', TOOLS)
    asyncio.run(sandbox.start())
    outputs: list[str] = []

    async def some() -> None:
        results = await asyncio.gather(*(sandbox.execute_command(f'echo {number}') for number in range(10)))
        outputs.extend(result.stdout for result in results)

    threads = [threading.Thread(target=asyncio.run, args=(some(),)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    asyncio.run(sandbox.stop())

    assert sorted(outputs) == sorted(f'{number}\n' for number in range(10) for _ in range(3))


def test_a_call_can_be_sent_to_a_loop_from_a_worker_thread(backend: FakeBackend) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with aio.SandboxFactory.create_sandbox('fake', TOOLS) as sandbox:

            def work() -> str:
                future = asyncio.run_coroutine_threadsafe(sandbox.execute_command('echo thread'), loop)
                return future.result(PATIENCE).stdout

            assert await loop.run_in_executor(None, work) == 'thread\n'

    asyncio.run(main())


# Managers


@pytest.mark.parametrize('verb', ['create_sandbox', 'acquire_sandbox'])
def test_what_a_submitted_call_made_that_was_cancelled_unheard_is_taken_back(backend: FakeBackend, verb: str) -> None:
    async def main() -> None:
        async with manager() as owner:
            await owner.initialize_pool(1, 'fake')
            future = await owner.submit(verb, *(['fake'] if verb == 'create_sandbox' else []))
            await asyncio.sleep(0)
            if verb == 'create_sandbox':
                backend.wait_until(lambda: len(backend.started) == 2)  # while the loop is held up
            else:
                backend.wait_until(lambda: owner._blocking.get_stats()['pools']['default']['leased'] == 1)
            assert future.cancel()
            await asyncio.gather(future, return_exceptions=True)

            await until(lambda: len(backend.alive) == 1)
            assert await owner.acquire_sandbox(PATIENCE) in backend.alive

    asyncio.run(main())


def test_a_managers_start_that_was_cancelled_may_be_made_again(backend: FakeBackend) -> None:
    async def main() -> None:
        owner = manager()
        task = asyncio.ensure_future(owner.start())
        await asyncio.sleep(0)
        backend.wait_until(lambda: owner._blocking._table.state == 'running')
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with owner:
            assert await owner.create_sandbox('fake')

    asyncio.run(main())


def test_an_entry_that_was_cancelled_has_ended_the_manager() -> None:
    async def main() -> None:
        owner = manager()
        task = asyncio.ensure_future(owner.__aenter__())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(ManagerStoppedError):
            await owner.start()

    asyncio.run(main())


def test_the_id_of_a_creation_that_was_cancelled_is_free_again(backend: FakeBackend) -> None:
    async def main() -> None:
        async with manager() as owner:
            backend.may_start.clear()
            task = asyncio.ensure_future(owner.create_sandbox('fake', sandbox_id='mine'))
            await until(lambda: backend.starting == 1)
            task.cancel()
            backend.may_start.set()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await owner.create_sandbox('fake', sandbox_id='mine') == 'mine'

    asyncio.run(main())


def test_a_manager_owns_sandboxes(backend: FakeBackend) -> None:
    async def main() -> None:
        async with manager() as owner:
            first = await owner.create_sandbox('fake')
            result = await owner.execute_tool(first, 'shell_executor', {'command': 'echo hello'})
            assert result.output == 'hello\n'
            assert [info.id for info in await owner.list_sandboxes()] == [first]
            found = await owner.get_sandbox(first)
            assert isinstance(found, aio.Sandbox)
            assert (await found.execute_command('echo found')).stdout == 'found\n'
            assert await owner.get_sandbox('unknown') is None
            assert await owner.stop_sandbox(first)
            assert await owner.delete_sandbox(first)
            with pytest.raises(ValueError, match=first):
                await owner.execute_tool(first, 'shell_executor', {'command': 'true'})

    asyncio.run(main())

    assert backend.alive == set()


def test_a_creation_that_is_cancelled_leaves_nothing(backend: FakeBackend) -> None:
    async def main() -> None:
        async with manager() as owner:
            backend.may_start.clear()
            task = asyncio.ensure_future(owner.create_sandbox('fake'))
            await until(lambda: backend.starting == 1)
            task.cancel()
            backend.may_start.set()
            with pytest.raises(asyncio.CancelledError):
                await task
            await until(lambda: backend.ended)
            assert await owner.list_sandboxes() == []

    asyncio.run(main())


def test_waiting_in_the_queue_of_a_pool_can_be_cancelled(backend: FakeBackend) -> None:
    async def main() -> None:
        async with manager() as owner:
            with pytest.raises(PoolError, match='call initialize_pool first'):
                await owner.execute_tool_in_pool('shell_executor', {'command': 'true'})
            (only,) = await owner.initialize_pool(1, 'fake')
            assert owner._pool_initialized

            async def waiting() -> int:
                count: int = (await owner.get_stats())['pools']['default']['waiting']
                return count

            async with owner.lease() as leased:
                assert leased.id == only
                assert leased.status is SandboxStatus.BUSY
                task = asyncio.ensure_future(owner.execute_tool_in_pool('shell_executor', {'command': 'echo'}))
                while await waiting() == 0:
                    pass
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert await waiting() == 0
            result = await owner.execute_tool_in_pool('shell_executor', {'command': 'echo free'})
            assert result.output == 'free\n'

    asyncio.run(main())


def test_a_lease_that_waits_too_long_is_a_timeout_error(backend: FakeBackend) -> None:
    async def main() -> None:
        async with manager() as owner:
            await owner.initialize_pool(1, 'fake')
            async with owner.lease():
                with pytest.raises(TimeoutError, match='Timeout waiting for available sandbox'):
                    await owner.execute_tool_in_pool('shell_executor', {'command': 'true'}, timeout=0.01)

    asyncio.run(main())


def test_more_tasks_than_any_executor_has_threads_wait_for_few_sandboxes(backend: FakeBackend) -> None:
    async def main() -> None:
        async with manager() as owner:
            await owner.initialize_pool(2, 'fake')

            async def use(number: int) -> str:
                async with owner.lease() as sandbox:
                    return (await sandbox.execute_command(['echo', str(number)])).stdout

            outputs = await asyncio.gather(*(use(number) for number in range(60)))
            assert outputs == [f'{number}\n' for number in range(60)]

    asyncio.run(main())


def test_a_sandbox_for_a_block_goes_with_it(backend: FakeBackend) -> None:
    async def main() -> None:
        async with manager() as owner:
            async with owner.open('fake') as sandbox:
                assert (await sandbox.execute_command('echo open')).stdout == 'open\n'
            assert await owner.list_sandboxes() == []

    asyncio.run(main())


def test_a_submitted_call_gives_a_future_of_the_loop_that_can_be_cancelled(backend: FakeBackend) -> None:
    async def main() -> None:
        async with manager() as owner:
            only = await owner.create_sandbox('fake')
            future = await owner.submit('execute_command', only, 'echo later')
            assert (await future).stdout == 'later\n'
            held = await owner.submit('execute_command', only, 'hold')
            await until(lambda: backend.holding == 1)
            held.cancel()
            await until(lambda: backend.holding == 0)
            with pytest.raises(ValueError, match='no verb'):
                await owner.submit('nothing')

    asyncio.run(main())


def test_factories_make_managers_that_are_not_started() -> None:
    local = aio.SandboxManagerFactory.create_manager()
    named = aio.SandboxManagerFactory.create_manager('local', pool_size=3)

    assert isinstance(local, aio.LocalSandboxManager)
    assert named.config.pool_size == 3
    assert 'local' in aio.SandboxManagerFactory.get_registered_types()


@pytest.mark.parametrize('home', ['enclave.aio'])
def test_a_manager_of_ones_own_comes_back_from_the_factory(
    backend: FakeBackend, monkeypatch: pytest.MonkeyPatch, home: str
) -> None:
    monkeypatch.setattr(managers.MANAGERS, 'registered', dict(managers.MANAGERS.registered))
    names: Any = importlib.import_module(home)

    @names.register_manager('counting')
    class CountingManager(names.LocalSandboxManager):  # type: ignore[misc]
        def __init__(self, config: Any = None, **options: Any) -> None:
            super().__init__(config, **options)
            self.made = 0

        async def create_sandbox(self, *args: Any, **kwargs: Any) -> str:
            self.made += 1
            found: str = await super().create_sandbox(*args, **kwargs)
            return found

        async def create_two(self) -> list[str]:
            return [await self.create_sandbox('fake') for _ in range(2)]

    async def main() -> None:
        async with names.SandboxManagerFactory.create_manager('counting', {'stop_grace': 0}, sweep=False) as manager:
            assert type(manager) is CountingManager
            assert manager.config.stop_grace == 0
            assert len(await manager.create_two()) == len(backend.alive) == manager.made == 2

    asyncio.run(main())
    assert names.SandboxManagerFactory.get_manager_class('counting') is CountingManager
    assert 'counting' in names.SandboxManagerFactory.get_registered_types()
    assert backend.alive == set()


@pytest.mark.parametrize('base', [aio.SandboxManager, aio.LocalSandboxManager])
def test_a_manager_to_be_awaited_is_refused_where_nobody_awaits(
    monkeypatch: pytest.MonkeyPatch, base: type[Any]
) -> None:
    monkeypatch.setattr(managers.MANAGERS, 'registered', dict(managers.MANAGERS.registered))
    aio.register_manager('awaited')(type('Awaited', (base,), {}))

    with pytest.raises(InvalidArgumentError, match='Awaited is a manager to be awaited'):
        managers.SandboxManagerFactory.create_manager('awaited')


# Tools with coroutine functions


def awaited_tool() -> type[aio.Tool]:
    @aio.register_tool('shout', replace=True)
    class Shout(aio.Tool):
        """Say it louder."""

        parameters = aio.ToolParams(properties={'text': {'type': 'string'}}, required=['text'])

        async def execute(self, sandbox_context: Any, **kwargs: Any) -> ToolResult:  # type: ignore[override]
            result = await sandbox_context.execute_command(['echo', kwargs['text'].upper()])
            return ToolResult(tool_name=self.name, status=ExecutionStatus.SUCCESS, output=result.stdout)

    return Shout


def test_a_tool_with_a_coroutine_function_works_in_an_async_program(backend: FakeBackend) -> None:
    awaited_tool()

    async def main() -> None:
        async with manager() as owner:
            only = await owner.create_sandbox('fake', {'tools_config': ['shout']})
            assert (await owner.execute_tool(only, 'shout', {'text': 'hey'})).output == 'HEY\n'
            with pytest.raises(ToolArgumentsError, match='text'):
                await owner.execute_tool(only, 'shout', {})

    asyncio.run(main())


def test_a_tool_with_a_coroutine_function_works_in_a_blocking_program(backend: FakeBackend) -> None:
    awaited_tool()

    with enclave.SandboxFactory.create_sandbox('fake', {'tools_config': ['shout']}) as sandbox:
        assert sandbox.execute_tool('shout', {'text': 'hey'}).output == 'HEY\n'


def test_such_a_tool_runs_on_the_loop_of_who_awaits_it(backend: FakeBackend) -> None:
    loops = []

    @aio.register_tool('where', replace=True)
    class Where(aio.Tool):
        async def execute(self, sandbox_context: Any) -> str:  # type: ignore[override]
            assert isinstance(sandbox_context, aio.Sandbox)
            loops.append(asyncio.get_running_loop())
            return 'here'

    async def main() -> asyncio.AbstractEventLoop:
        async with aio.SandboxFactory.create_sandbox('fake', {'tools_config': ['where']}) as sandbox:
            assert (await sandbox.execute_tool('where')).output == 'here'
        return asyncio.get_running_loop()

    mine = asyncio.run(main())

    assert loops == [mine]


def test_an_arguments_class_and_an_awaited_run_work_in_both(backend: FakeBackend) -> None:
    import attrs

    @aio.register_tool('twice', replace=True)
    class Twice(aio.Tool):
        @attrs.define
        class Arguments:
            number: int

        async def run(self, workspace: Any, arguments: Any) -> Any:
            return (await workspace.execute_command(['echo', str(2 * arguments.number)])).stdout

    async def main() -> Any:
        async with aio.SandboxFactory.create_sandbox('fake', {'tools_config': ['twice']}) as sandbox:
            return (await sandbox.execute_tool('twice', {'number': 4})).output

    with enclave.SandboxFactory.create_sandbox('fake', {'tools_config': ['twice']}) as sandbox:
        assert sandbox.execute_tool('twice', {'number': 3}).output == '6\n'
    assert asyncio.run(main()) == '8\n'


def test_a_tool_can_be_awaited_with_a_sandbox_at_hand(backend: FakeBackend) -> None:
    from enclave.tools.shell import ShellExecutor

    class Polite(ShellExecutor):
        name = 'polite'

        async def execute(self, sandbox_context: Any, **kwargs: Any) -> ToolResult:  # type: ignore[override]
            result = await super().execute(sandbox_context, **kwargs)  # type: ignore[misc]
            return result.model_copy(update={'output': f'please: {result.output}'})

    async def main() -> None:
        async with aio.SandboxFactory.create_sandbox('fake') as sandbox:
            result = await ShellExecutor().execute(sandbox, command='echo direct')  # type: ignore[misc, arg-type]
            assert result.output == 'direct\n'
            assert (await Polite().execute(sandbox, command='echo own')).output == 'please: own\n'
            await sandbox.add_tool(Polite())
            assert (await sandbox.execute_tool('polite', {'command': 'echo tool'})).output == 'please: tool\n'

    asyncio.run(main())


def test_a_fault_of_such_a_tool_is_a_result(backend: FakeBackend) -> None:
    @aio.register_tool('bad', replace=True)
    class Bad(aio.Tool):
        async def execute(self, sandbox_context: Any) -> None:  # type: ignore[override]
            raise KeyError('lost')

    async def main() -> ToolResult:
        async with aio.SandboxFactory.create_sandbox('fake', {'tools_config': ['bad']}) as sandbox:
            return await sandbox.execute_tool('bad')

    result = asyncio.run(main())

    assert result.status is ExecutionStatus.ERROR
    assert 'KeyError' in str(result.error)


def test_cancelling_reaches_through_such_a_tool(backend: FakeBackend) -> None:
    ended = []

    @aio.register_tool('patient', replace=True)
    class Patient(aio.Tool):
        async def execute(self, sandbox_context: Any) -> None:  # type: ignore[override]
            try:
                await sandbox_context.execute_command('hold')
            except asyncio.CancelledError:
                ended.append('cancelled')
                raise

    async def main() -> None:
        async with aio.SandboxFactory.create_sandbox('fake', {'tools_config': ['patient']}) as sandbox:
            task = asyncio.ensure_future(sandbox.execute_tool('patient'))
            await until(lambda: backend.holding == 1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await until(lambda: backend.holding == 0 and ended)

    asyncio.run(main())


def test_a_blocking_call_within_a_running_loop_still_drives_such_a_tool(backend: FakeBackend) -> None:
    awaited_tool()

    async def main() -> Any:
        with enclave.SandboxFactory.create_sandbox('fake', {'tools_config': ['shout']}) as sandbox:
            return sandbox.execute_tool('shout', {'text': 'hey'}).output

    assert asyncio.run(main()) == 'HEY\n'


@pytest.mark.parametrize('kind', [SystemExit, KeyboardInterrupt])
def test_an_exit_in_such_a_tool_is_the_callers_and_ends_no_loop(
    backend: FakeBackend, kind: type[BaseException]
) -> None:
    @aio.register_tool('quits', replace=True)
    class Quits(aio.Tool):
        async def execute(self, sandbox_context: Any) -> None:  # type: ignore[override]
            raise kind(3)

    awaited_tool()
    config = {'tools_config': ['quits', 'shout']}

    with enclave.SandboxFactory.create_sandbox('fake', config) as sandbox:
        for _ in range(2):
            with pytest.raises(kind):
                sandbox.execute_tool('quits')
        assert sandbox.execute_tool('shout', {'text': 'hey'}).output == 'HEY\n'


# Sandboxes with coroutine functions


class Record:
    def __init__(self) -> None:
        self.steps: list[str] = []
        self.loops: list[asyncio.AbstractEventLoop] = []


def own_sandbox(record: Record) -> type[aio.Sandbox]:
    @aio.register_sandbox('own')
    class Own(aio.Sandbox):
        sandbox_type = 'own'

        def __init__(self, config: Any = None, sandbox_id: str | None = None) -> None:
            super().__init__(config, sandbox_id)
            self.greeting = 'hello'

        async def start(self) -> None:
            record.loops.append(asyncio.get_running_loop())
            await asyncio.sleep(0)
            await super().start()
            record.steps.append('start')

        async def stop(self) -> None:
            record.loops.append(asyncio.get_running_loop())
            await self.cleanup()
            record.steps.append('stop')

        async def cleanup(self) -> None:
            record.steps.append('cleanup')

        async def execute_command(self, command: Any, timeout: float | None = None, **options: Any) -> CommandResult:
            if command == 'forever':
                try:
                    await asyncio.Event().wait()
                finally:
                    record.steps.append('interrupted')
            return CommandResult(command=command, status=ExecutionStatus.SUCCESS, stdout=f'{self.greeting} {command}')

    return Own


@pytest.mark.parametrize('way', ['class', 'factory'])
def test_an_own_sandbox_works_in_an_async_program(way: str) -> None:
    record = Record()
    made = own_sandbox(record)

    async def main() -> None:
        config = {'tools_config': ['shell_executor']}
        sandbox = made(config) if way == 'class' else aio.SandboxFactory.create_sandbox('own', config)
        assert isinstance(sandbox, made)
        async with sandbox:
            assert sandbox.status is SandboxStatus.RUNNING
            assert sandbox.sandbox_type == 'own'
            assert (await sandbox.execute_command('you')).stdout == 'hello you'
            assert (await sandbox.execute_tool('shell_executor', {'command': 'you'})).output == 'hello you'
        assert sandbox.status is SandboxStatus.STOPPED
        assert record.loops == [asyncio.get_running_loop()] * 2

    asyncio.run(main())

    assert record.steps == ['start', 'cleanup', 'stop', 'cleanup']


def test_an_own_sandbox_works_in_a_blocking_program() -> None:
    record = Record()
    own_sandbox(record)

    with (
        contextlib.closing(contextlib.ExitStack()),
        enclave.SandboxFactory.create_sandbox('own', {'tools_config': ['shell_executor']}) as sandbox,
    ):
        assert sandbox.execute_command('you').stdout == 'hello you'
        assert sandbox.execute_tool('shell_executor', {'command': 'you'}).output == 'hello you'

    assert record.steps[0] == 'start'
    assert 'stop' in record.steps
    assert record.loops[0] is record.loops[1]


def test_managers_of_both_colours_own_own_sandboxes() -> None:
    record = Record()
    made = own_sandbox(record)

    async def main() -> None:
        async with manager(sandbox_config=None) as owner:
            only = await owner.create_sandbox('own', {'tools_config': ['shell_executor']})
            assert (await owner.execute_tool(only, 'shell_executor', {'command': 'you'})).output == 'hello you'
            assert isinstance(await owner.get_sandbox(only), made)
            task = asyncio.ensure_future(owner.execute_command(only, 'forever'))
            await until(lambda: (owner._blocking._table.active_calls) == 1)
            await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await until(lambda: 'interrupted' in record.steps)

    asyncio.run(main())
    with LocalSandboxManager(sweep=False, stop_grace=0) as owner:
        only = owner.create_sandbox('own')
        assert owner.execute_command(only, 'you').stdout == 'hello you'

    assert record.steps.count('start') == record.steps.count('stop') == 2


def test_commands_of_an_own_sandbox_are_use_of_it() -> None:
    record = Record()
    own_sandbox(record)

    async def main() -> None:
        sandbox = aio.SandboxFactory.create_sandbox('own')
        with pytest.raises(SandboxStateError, match='is initializing'):
            await sandbox.execute_command('early')
        async with sandbox:
            task = asyncio.ensure_future(sandbox.execute_command('forever'))
            await until(lambda: sandbox.active_calls == 1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert sandbox.active_calls == 0
        with pytest.raises(SandboxStateError, match='is stopped'):
            await sandbox.execute_command('late')

    asyncio.run(main())

    assert record.steps[:2] == ['start', 'interrupted']


def test_tools_use_an_own_sandbox_that_knows_no_more_than_was_documented(caplog: pytest.LogCaptureFixture) -> None:
    class Old(aio.Sandbox):
        async def start(self) -> None: ...

        async def stop(self) -> None: ...

        async def execute_command(
            self, command: Any, timeout: float | None = None, stream: bool = True
        ) -> CommandResult:
            return CommandResult(command=command, status=ExecutionStatus.SUCCESS, stdout=f'{command}\n')

    async def main() -> None:
        async with Old({'tools_config': ['shell_executor', 'python_executor']}) as sandbox:
            assert (await sandbox.execute_tool('shell_executor', {'command': 'x'})).output == 'x\n'
            reported = await sandbox.execute_tool('shell_executor', {'command': 'x', 'cwd': '/'})
            assert "'cwd'" in str(reported.error)
            reported = await sandbox.execute_tool('python_executor', {'code': 'x'})
            assert (
                reported.error
                == 'a sandbox of the class Old does not define run_script, which running code as a script needs'
            )

    asyncio.run(main())


@pytest.mark.parametrize('way', ['proxy', 'blocking', 'manager'])
def test_an_own_start_that_fails_after_ours_leaves_nothing(backend: FakeBackend, way: str) -> None:
    class Prepared(aio.Sandbox):
        _home = (FakeSandbox.__module__, 'FakeSandbox')

    class Own(Prepared):
        async def start(self) -> None:
            await super().start()
            raise LookupError('no setup')

    class Blocking(FakeSandbox):
        def start(self) -> None:
            super().start()
            raise LookupError('no setup')

    SandboxFactory.register_sandbox('blocking', type('TestBlocking', (Blocking,), {'backend': backend}))
    aio.register_sandbox('own')(Own)
    SandboxFactory.get_sandbox_class('own').backend = backend  # type: ignore[attr-defined]

    async def enter() -> None:
        async with aio.SandboxFactory.create_sandbox('own'):
            pass

    def use() -> None:
        if way == 'proxy':
            asyncio.run(enter())
        elif way == 'blocking':
            with SandboxFactory.create_sandbox('blocking'):
                pass
        else:
            with LocalSandboxManager(stop_grace=0, sweep=False) as owner:
                owner.create_sandbox('blocking')

    with pytest.raises(LookupError, match='no setup'):
        use()

    assert len(backend.started) == len(backend.ended) == 1
    assert backend.alive == set()


def test_an_own_sandbox_may_define_how_scripts_run() -> None:
    class Scripts(aio.Sandbox):
        async def start(self) -> None: ...

        async def stop(self) -> None: ...

        async def execute_command(self, command: Any, timeout: float | None = None, **options: Any) -> CommandResult:
            raise NotImplementedError

        async def run_script(self, interpreter: Any, source: Any, timeout: Any = None, **options: Any) -> CommandResult:
            return CommandResult(command=source, status=ExecutionStatus.SUCCESS, stdout=f'{interpreter} {source}')

    async def main() -> None:
        async with Scripts({'tools_config': ['python_executor']}) as sandbox:
            assert (await sandbox.execute_tool('python_executor', {'code': 'x'})).output == "['python3'] x"

    asyncio.run(main())


def test_an_own_sandbox_of_a_manager_starts_on_the_callers_loop_and_in_its_context() -> None:
    record = Record()
    seen = []
    word: contextvars.ContextVar[str] = contextvars.ContextVar('word', default='none')

    class Own(own_sandbox(record)):  # type: ignore[misc]
        async def start(self) -> None:
            seen.append(word.get())
            await super().start()

    aio.register_sandbox('own')(Own)

    async def main() -> None:
        word.set('travels')
        async with manager(sandbox_config=None) as owner:
            await owner.create_sandbox('own')
            await owner.initialize_pool(1, 'own')
        assert set(record.loops) == {asyncio.get_running_loop()}

    asyncio.run(main())

    assert seen == ['travels'] * 2


def test_an_own_sandbox_may_outlive_its_loop() -> None:
    record = Record()
    sandbox = own_sandbox(record)()

    asyncio.run(sandbox.start())
    asyncio.run(sandbox.stop())

    assert record.steps[:1] == ['start']
    assert sandbox.status is SandboxStatus.STOPPED


def test_an_own_sandbox_over_a_backend_adds_to_it(backend: FakeBackend) -> None:
    class AsyncProxy(aio.Sandbox):
        _home = (FakeSandbox.__module__, 'FakeSandbox')

    class Prepared(AsyncProxy):
        backend: Any = None

        async def start(self) -> None:
            await super().start()
            await self.execute_command('echo prepared > ready')

        async def execute_command(self, command: Any, timeout: float | None = None, **options: Any) -> CommandResult:
            result = await super().execute_command(command, timeout, **options)
            return result.model_copy(update={'stdout': result.stdout.upper()})

    aio.SandboxFactory.register_sandbox('prepared', Prepared)
    SandboxFactory.get_sandbox_class('prepared').backend = backend  # type: ignore[attr-defined]

    async def main() -> None:
        async with aio.SandboxFactory.create_sandbox('prepared') as sandbox:
            assert (await sandbox.execute_command('cat ready')).stdout == 'PREPARED\n'

    asyncio.run(main())

    with enclave.SandboxFactory.create_sandbox('prepared') as blocking:
        assert blocking.execute_command('cat ready').stdout == 'PREPARED\n'
    assert backend.alive == set()


def test_a_blocking_call_is_cancelled_when_its_loop_is_closed_under_it() -> None:
    from enclave.portal import drive

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    begun = threading.Event()
    errors: list[BaseException] = []

    async def forever() -> None:
        begun.set()
        await asyncio.Event().wait()

    def work() -> None:
        try:
            drive(forever, home=loop)
        except BaseException as error:
            errors.append(error)

    worker = threading.Thread(target=work)
    worker.start()
    assert begun.wait(PATIENCE)
    tasks = []
    loop.call_soon_threadsafe(lambda: (tasks.extend(asyncio.all_tasks(loop)), loop.stop()))
    thread.join(PATIENCE)
    for task in tasks:
        task._log_destroy_pending = False
    loop.close()
    worker.join(PATIENCE)

    assert isinstance(errors[0], CallCancelledError)


# The end of a program

PRELUDE = """
import asyncio, atexit, os, sys, threading
from enclave import aio
from enclave.sandboxes.sandbox_factory import SandboxFactory
from tests.support.sandbox import FakeBackend, FakeSandbox

class Reporting(FakeSandbox):
    backend = FakeBackend()
    def _stop(self, *, keep):
        super()._stop(keep=keep)
        os.write(1, b'ended\\n')

SandboxFactory.register_sandbox('fake', Reporting)
manager = aio.LocalSandboxManager(sweep=False, stop_grace=0.05)
"""


def run_program(program: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, '-W', 'default::ResourceWarning', '-c', PRELUDE + program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert 'Traceback' not in done.stderr, done.stderr
    return done


@pytest.mark.processes
def test_a_hook_of_the_program_can_stop_through_the_face_at_exit() -> None:
    done = run_program("""
async def main():
    for _ in range(3):
        await manager.create_sandbox('fake')
atexit.register(lambda: asyncio.run(manager.stop()))
asyncio.run(main())
""")

    assert done.stdout.count('ended') == 3
    assert 'ResourceWarning' not in done.stderr


@pytest.mark.processes
def test_a_hook_works_when_no_thread_can_be_made_any_more() -> None:
    done = run_program("""
async def main():
    await manager.create_sandbox('fake')
def refuse(self):
    raise RuntimeError("can't create new thread at interpreter shutdown")
def stop():
    from enclave.threads import thread_pool
    thread_pool._idle.clear()
    threading.Thread.start = refuse
    asyncio.run(manager.stop())
atexit.register(stop)
asyncio.run(main())
""")

    assert done.stdout.count('ended') == 1


@pytest.mark.processes
def test_a_hook_stops_a_sandbox_with_coroutine_functions_when_no_thread_can_be_made() -> None:
    done = run_program("""
class Own(aio.Sandbox):
    async def start(self):
        pass
    async def stop(self):
        await asyncio.sleep(0)
        os.write(1, b'ended\\n')
    async def execute_command(self, command, timeout=None, **options):
        pass
sandbox = Own()
def refuse(self):
    raise RuntimeError("can't create new thread at interpreter shutdown")
def stop():
    from enclave.threads import thread_pool
    thread_pool._idle.clear()
    threading.Thread.start = refuse
    asyncio.run(sandbox.stop())
atexit.register(stop)
asyncio.run(sandbox.start())
""")

    assert done.stdout.count('ended') == 1


@pytest.mark.processes
def test_a_program_that_stops_nothing_leaves_nothing() -> None:
    done = run_program("""
async def main():
    for _ in range(2):
        await manager.create_sandbox('fake')
asyncio.run(main())
""")

    assert done.stdout.count('ended') == 2
    assert 'was not stopped before the program ended' in done.stderr
