"""What holds for every manager, over every kind of sandbox at hand. A new manager is one more entry of `MANAGERS`."""

from __future__ import annotations

import functools
import inspect
import io
import tarfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from enclave.cancellation import Cancellation
from enclave.config import SandboxConfig
from enclave.enums import SandboxStatus
from enclave.errors import (
    ConfigurationError,
    ConflictError,
    InvalidArgumentError,
    ManagerStoppedError,
    NotRegisteredError,
    PoolError,
    PoolExhaustedError,
    SandboxNotFoundError,
    SandboxPathNotFoundError,
    SandboxStateError,
    ToolArgumentsError,
    ToolNotFoundError,
)
from enclave.languages.values import CodeRequest
from enclave.managers.base import SandboxManager
from enclave.managers.local import LocalSandboxManager
from enclave.rulings import SHARED
from enclave.sandboxes import choice
from enclave.sandboxes.sandbox_factory import SandboxFactory
from tests.support.ray import on_ray
from tests.support.sandbox import FakeBackend, FakeSandbox
from tests.support.server import remote

PATIENCE = 120.0
TOOLS = ['shell_executor', 'python_executor', 'file_operation']
CONFIG = {'tools_config': TOOLS}

MakeManager = Callable[..., AbstractContextManager[SandboxManager]]


def local(**options: Any) -> AbstractContextManager[SandboxManager]:
    return LocalSandboxManager(**options)


# Beside other suites a shard may say nothing for longer than the default, which is for a frozen one; tests/ray has those.
MANAGERS: dict[str, MakeManager] = {'http': remote, 'local': local, 'ray': functools.partial(on_ray, lost_after=120.0)}
KINDS: dict[str, tuple[str, ...]] = {
    'http': ('fake', 'docker'),
    'local': ('fake', 'docker'),
    'ray': ('bubblewrap', 'docker'),
}
"""The kinds of sandbox that each manager is tried with. What is registered in this process, Ray's do not know."""
CHOOSES_HERE = 'test_where_nobody_at_all_names_a_kind_one_is_chosen_and_why_is_reported'
"""Changes what this process would choose, which Ray's processes do not know."""
MARKS = {'docker': [pytest.mark.docker], 'bubblewrap': [pytest.mark.bubblewrap], 'ray': [pytest.mark.ray]}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give each test each manager, and each kind of sandbox that goes with it."""
    if 'kind_name' in metafunc.fixturenames and 'manager_name' in metafunc.fixturenames:
        pairs = [(name, kind) for name, kinds in KINDS.items() for kind in kinds]
        if metafunc.function.__name__ == CHOOSES_HERE:
            pairs = [pair for pair in pairs if pair[0] != 'ray']
        params = [pytest.param(*pair, marks=[m for each in pair for m in MARKS.get(each, [])]) for pair in pairs]
        metafunc.parametrize(('manager_name', 'kind_name'), params)
    elif 'manager_name' in metafunc.fixturenames:
        metafunc.parametrize('manager_name', [pytest.param(name, marks=MARKS.get(name, [])) for name in MANAGERS])


@pytest.fixture
def kind(kind_name: str) -> str:
    """The kind of sandbox."""
    if kind_name == 'fake':
        SandboxFactory.register_sandbox(
            'fake', type('TestSandbox', (FakeSandbox,), {'backend': FakeBackend()}), rulings=SHARED
        )
    return kind_name


@pytest.fixture
def make(manager_name: str) -> MakeManager:
    """Makes a manager of the kind under test."""
    return MANAGERS[manager_name]


@pytest.fixture
def manager(make: MakeManager) -> Iterator[SandboxManager]:
    with make(sandbox_config=CONFIG, stop_grace=0) as manager:
        yield manager


# Sandboxes ------------------------------------------------------------------------------------------------------------


def test_where_nobody_names_a_kind_it_is_the_managers_own(make: MakeManager, kind: str) -> None:
    with make(sandbox_config=CONFIG, sandbox_type=kind, stop_grace=0) as manager:
        info = manager.get_sandbox_info(manager.create_sandbox())
        (pooled,) = manager.initialize_pool(1)

        assert str(info.type) == str(manager.get_sandbox_info(pooled).type) == kind
        assert 'chosen_because' not in info.metadata


def test_where_nobody_at_all_names_a_kind_one_is_chosen_and_why_is_reported(
    make: MakeManager, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, 'choose_backend', lambda: choice.Choice(kind, 'it is the only one'))
    with make(stop_grace=0) as manager:
        infos = [manager.get_sandbox_info(manager.create_sandbox(config=config)) for config in (None, CONFIG)]
        infos += [manager.get_sandbox_info(each) for each in manager.initialize_pool(1, config=CONFIG)]

        assert [(str(info.type), info.metadata['chosen_because']) for info in infos] == [
            (kind, 'it is the only one')
        ] * 3


def test_the_class_of_a_configuration_names_the_kind_where_nobody_does(
    make: MakeManager, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config_class = SandboxFactory.get_sandbox_class(kind).config_class
    if config_class is SandboxConfig:
        pytest.skip('a fake has no configuration of its own')
    monkeypatch.setattr(choice, 'choose_backend', lambda: pytest.fail('there is nothing to choose'))
    with make(stop_grace=0) as manager:
        info = manager.get_sandbox_info(manager.create_sandbox(config=config_class(network_enabled=False)))

        assert str(info.type) == kind
        assert info.config['network_enabled'] is False


def test_a_sandbox_from_making_to_deleting(manager: SandboxManager, kind: str) -> None:
    sandbox_id = manager.create_sandbox(kind, CONFIG)

    info = manager.get_sandbox_info(sandbox_id)
    assert (info.id, str(info.type), info.status) == (sandbox_id, kind, SandboxStatus.RUNNING)
    assert info.available_tools == TOOLS
    assert [each.id for each in manager.list_sandboxes()] == [sandbox_id]
    assert manager.get_sandbox(sandbox_id) is not None
    result = manager.execute_tool(sandbox_id, 'shell_executor', {'command': 'echo hello'})
    assert (result.output, result.error, result.exit_code) == ('hello\n', None, 0)
    assert manager.stop_sandbox(sandbox_id) is True
    assert manager.get_sandbox_info(sandbox_id).status is SandboxStatus.STOPPED
    assert manager.stop_sandbox(sandbox_id) is True
    assert manager.delete_sandbox(sandbox_id) is True
    assert manager.list_sandboxes() == []


def test_an_id_of_ones_own(manager: SandboxManager, kind: str) -> None:
    assert manager.create_sandbox(kind, CONFIG, 'conformance-mine') == 'conformance-mine'
    with pytest.raises(ConflictError, match='conformance-mine'):
        manager.create_sandbox(kind, CONFIG, 'conformance-mine')


def test_sandboxes_are_found_by_their_labels(manager: SandboxManager, kind: str) -> None:
    odd = {'job': '7', 'owner': 'a b&c="d"'}
    first = manager.create_sandbox(kind, CONFIG, labels=odd)
    second = manager.create_sandbox(kind, CONFIG, labels={'job': '7'})
    manager.create_sandbox(kind, CONFIG)

    assert [info.id for info in manager.list_sandboxes(labels={'job': '7'})] == [first, second]
    assert [info.id for info in manager.list_sandboxes(labels=odd)] == [first]
    assert [info.id for info in manager.list_sandboxes('running', labels={'job': '8'})] == []
    assert manager.get_sandbox_info(first).labels == odd
    sandbox = manager.get_sandbox(second)
    assert sandbox is not None
    assert sandbox.labels == {'job': '7'}


@pytest.mark.parametrize(
    'labels', [{'a': 1}, {1: 'a'}, ['a'], {'': 'a'}, {'a': 'x' * 5000}, dict.fromkeys(map(str, range(65)), 'x')]
)
def test_labels_that_are_none_are_refused_and_nothing_is_made(manager: SandboxManager, kind: str, labels: Any) -> None:
    with pytest.raises(InvalidArgumentError, match='labels'):
        manager.create_sandbox(kind, CONFIG, labels=labels)
    with pytest.raises(InvalidArgumentError, match='labels'):
        manager.list_sandboxes(labels=labels)
    assert manager.list_sandboxes() == []


def test_sandboxes_are_listed_by_state(manager: SandboxManager, kind: str) -> None:
    running, stopped = manager.create_sandbox(kind), manager.create_sandbox(kind)
    manager.stop_sandbox(stopped)

    assert [info.id for info in manager.list_sandboxes('running')] == [running]
    assert [info.id for info in manager.list_sandboxes(SandboxStatus.STOPPED)] == [stopped]
    assert manager.list_sandboxes('error') == []
    with pytest.raises(InvalidArgumentError, match='status_filter'):
        manager.list_sandboxes('asleep')


def test_an_unknown_id_is_both_errors_and_named(manager: SandboxManager, tmp_path: Path) -> None:
    calls: list[tuple[str, tuple[Any, ...]]] = [
        ('get_sandbox_info', ()),
        ('stop_sandbox', ()),
        ('delete_sandbox', ()),
        ('renew', (5,)),
        ('execute_tool', ('shell_executor', {'command': 'true'})),
        ('execute_command', ('true',)),
        ('get_sandbox_tools', ()),
        ('put_file', (b'', 'x')),
        ('get_file', ('x',)),
        ('put_dir', (str(tmp_path), '.')),
        ('get_dir', ('.', str(tmp_path / 'x'))),
        ('put_archive', (b'', '.')),
        ('get_archive', ('.',)),
    ]
    for verb, args in calls:
        with pytest.raises(SandboxNotFoundError, match='ghost') as info:
            getattr(manager, verb)('ghost', *args)
        assert isinstance(info.value, LookupError)
        assert isinstance(info.value, ValueError)
        assert info.value.details == {'sandbox_id': 'ghost'}
    assert manager.get_sandbox('ghost') is None


def test_a_double_delete_names_the_id(manager: SandboxManager, kind: str) -> None:
    sandbox_id = manager.create_sandbox(kind)
    manager.delete_sandbox(sandbox_id)

    with pytest.raises(SandboxNotFoundError, match=sandbox_id):
        manager.delete_sandbox(sandbox_id)


def test_a_stopped_sandbox_takes_no_calls(manager: SandboxManager, kind: str) -> None:
    sandbox_id = manager.create_sandbox(kind)
    manager.stop_sandbox(sandbox_id)

    with pytest.raises(SandboxStateError, match='stopped'):
        manager.execute_tool(sandbox_id, 'shell_executor', {'command': 'true'})


def test_wrong_configurations_are_refused(manager: SandboxManager, kind: str) -> None:
    with pytest.raises(ConfigurationError, match='memory_limit'):
        manager.create_sandbox(kind, {'memory_limit': 'lots'})
    with pytest.raises(ToolNotFoundError, match='teleport'):
        manager.create_sandbox(kind, {'tools_config': ['teleport']})
    with pytest.raises(NotRegisteredError, match='not registered'):
        manager.create_sandbox('balloon')
    assert manager.list_sandboxes() == []


def test_a_sandbox_for_the_length_of_a_block(manager: SandboxManager, kind: str) -> None:
    with manager.open(kind, CONFIG) as sandbox:
        assert sandbox.execute_command('echo hi').stdout == 'hi\n'
        assert [info.id for info in manager.list_sandboxes()] == [sandbox.id]

    assert manager.list_sandboxes() == []


def test_a_block_whose_sandbox_was_deleted_ends_well(manager: SandboxManager, kind: str) -> None:
    with manager.open(kind, CONFIG) as sandbox:
        manager.delete_sandbox(sandbox.id)


def test_all_sandboxes_can_be_cleaned_up(manager: SandboxManager, kind: str) -> None:
    ids = [manager.create_sandbox(kind) for _ in range(3)]

    assert sorted(manager.cleanup_all_sandboxes()) == sorted(ids)
    assert manager.list_sandboxes() == []
    assert manager.get_stats()['total_sandboxes'] == 0


def test_secrets_are_not_shown(manager: SandboxManager, kind: str) -> None:
    sandbox_id = manager.create_sandbox(kind, {'env_vars': {'TOKEN': 'hush-hush'}})

    assert manager.get_sandbox_info(sandbox_id).config['env_vars'] == {'TOKEN': '***'}
    assert 'hush-hush' not in repr(manager.list_sandboxes())


def test_lifetimes_are_reported_and_renewed(manager: SandboxManager, kind: str) -> None:
    sandbox_id = manager.create_sandbox(kind, ttl=1000, idle_timeout=500)

    facts = manager.get_sandbox_info(sandbox_id).metadata
    assert (facts['ttl'], facts['idle_timeout']) == (1000, 500)
    renewed = manager.renew(sandbox_id, 5000)
    assert renewed is not None
    assert manager.get_sandbox_info(sandbox_id).metadata['expires_at'] == renewed.isoformat()
    assert manager.renew(sandbox_id, None) is None
    with pytest.raises(InvalidArgumentError, match='ttl'):
        manager.renew(sandbox_id, -1)


# Tools, commands, files -----------------------------------------------------------------------------------------------


def test_tools_have_schemas(manager: SandboxManager, kind: str) -> None:
    tools = manager.get_sandbox_tools(manager.create_sandbox(kind))

    assert list(tools) == TOOLS
    assert tools['shell_executor']['function']['parameters']['required'] == ['command']


def test_wrong_tool_calls_are_refused(manager: SandboxManager, kind: str) -> None:
    sandbox_id = manager.create_sandbox(kind, {'tools_config': ['shell_executor']})

    with pytest.raises(ToolNotFoundError, match='python_executor') as info:
        manager.execute_tool(sandbox_id, 'python_executor', {'code': '1'})
    assert 'did you mean' not in str(info.value)  # there is such a tool, and the sandbox was not given it
    with pytest.raises(ToolNotFoundError, match="did you mean 'shell_executor'"):
        manager.execute_tool(sandbox_id, 'shell_excutor', {'command': 'true'})
    with pytest.raises(ToolArgumentsError, match='comand'):
        manager.execute_tool(sandbox_id, 'shell_executor', {'comand': 'true'})


@pytest.mark.processes
def test_failing_code_is_a_result(manager: SandboxManager, kind: str) -> None:
    result = manager.execute_tool(manager.create_sandbox(kind), 'python_executor', {'code': 'print(1/0)'})

    assert result.status == 'error'
    assert 'ZeroDivisionError' in str(result.error)


def test_commands_take_the_options_of_a_sandbox(manager: SandboxManager, kind: str) -> None:
    sandbox_id = manager.create_sandbox(kind)

    result = manager.execute_command(
        sandbox_id, ['sh', '-c', 'cat; echo "$WORD"'], 20, stdin='in ', env={'WORD': 'out'}
    )

    assert (result.stdout, result.exit_code) == ('in out\n', 0)


def test_files_go_in_and_out(manager: SandboxManager, kind: str, tmp_path: Path) -> None:
    sandbox_id = manager.create_sandbox(kind)
    (tmp_path / 'note.txt').write_bytes(b'\0 from a file')

    assert manager.put_file(sandbox_id, b'bytes', 'a.bin', mode=0o600) == 5
    assert manager.put_file(sandbox_id, str(tmp_path / 'note.txt'), 'b.txt') == 13
    assert manager.get_file(sandbox_id, 'a.bin') == b'bytes'
    assert manager.get_file(sandbox_id, 'b.txt', str(tmp_path / 'copy')) == 13
    assert (tmp_path / 'copy').read_bytes() == b'\0 from a file'
    with pytest.raises(SandboxPathNotFoundError, match='missing'):
        manager.get_file(sandbox_id, 'missing')


def test_directories_go_in_and_out(manager: SandboxManager, kind: str, tmp_path: Path) -> None:
    sandbox_id = manager.create_sandbox(kind)
    source = tmp_path / 'source'
    (source / 'empty').mkdir(parents=True)
    (source / 'run.sh').write_text('#!/bin/sh\necho ran\n')
    (source / 'run.sh').chmod(0o755)
    manager.execute_command(sandbox_id, 'mkdir -p tree && echo old > tree/old')

    assert manager.put_dir(sandbox_id, source, 'tree') is True

    assert manager.execute_command(sandbox_id, 'tree/run.sh; ls tree', cwd='.').stdout == 'ran\nempty\nold\nrun.sh\n'
    assert manager.get_dir(sandbox_id, 'tree', tmp_path / 'back') is True
    assert sorted(each.name for each in (tmp_path / 'back').iterdir()) == ['empty', 'old', 'run.sh']
    with pytest.raises(NotADirectoryError):
        manager.put_dir(sandbox_id, source / 'run.sh', 'tree')


def test_archives_go_in_and_out(manager: SandboxManager, kind: str) -> None:
    sandbox_id = manager.create_sandbox(kind)
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode='w') as archive:
        member = tarfile.TarInfo('inside/word')
        member.size = 5
        archive.addfile(member, io.BytesIO(b'hello'))

    assert manager.put_archive(sandbox_id, made.getvalue(), 'unpacked') is True

    back = manager.get_archive(sandbox_id, 'unpacked/inside')
    assert isinstance(back, bytes)
    with tarfile.open(fileobj=io.BytesIO(back)) as archive:
        assert sorted(archive.getnames()) == ['inside', 'inside/word']


# Pools ----------------------------------------------------------------------------------------------------------------


def test_a_pool_must_be_made_first(manager: SandboxManager) -> None:
    message = r'^Sandbox pool is empty, call initialize_pool first$'

    with pytest.raises(PoolError, match=message) as info:
        manager.execute_tool_in_pool('shell_executor', {'command': 'true'})
    assert isinstance(info.value, ValueError)
    with pytest.raises(PoolError, match=message), manager.lease():
        pass
    assert manager._pool_initialized is False


@pytest.mark.parametrize('size', [0, -1, 1.5, True, '2', None])
def test_impossible_sizes_of_pools_are_refused(manager: SandboxManager, kind: str, size: Any) -> None:
    with pytest.raises(PoolError, match='pool_size'):
        manager.initialize_pool(size, kind)


def test_a_pool_serves_calls(manager: SandboxManager, kind: str) -> None:
    ids = manager.initialize_pool(pool_size=2, sandbox_type=kind, config=CONFIG)

    assert len(set(ids)) == 2
    assert manager._pool_initialized is True
    result = manager.execute_tool_in_pool('shell_executor', {'command': 'echo pooled'}, 10)
    assert result.output == 'pooled\n'
    stats = manager.get_stats()
    assert (stats['pool_size'], stats['total_sandboxes']) == (2, 2)
    assert sorted(info.id for info in manager.list_sandboxes('idle')) == sorted(ids)


def test_a_lease_is_somebodys_alone(manager: SandboxManager, kind: str) -> None:
    manager.initialize_pool(2, kind, CONFIG)

    with manager.lease() as first, manager.lease() as second:
        assert first.id != second.id
        assert first.execute_tool('shell_executor', {'command': 'echo mine'}).output == 'mine\n'
        assert {info.id for info in manager.list_sandboxes('busy')} == {first.id, second.id}
        with pytest.raises(PoolExhaustedError, match='Timeout waiting for available sandbox') as info:
            manager.execute_tool_in_pool('shell_executor', {'command': 'true'}, timeout=0.05)
        assert isinstance(info.value, TimeoutError)
        numbers = manager.get_stats()['pools']['default']
        assert (numbers['leased'], numbers['idle'], numbers['waiting']) == (2, 0, 0)
    assert manager.get_stats()['pools']['default']['idle'] == 2


def test_what_a_cancelled_block_had_is_given_back_all_the_same(manager: SandboxManager, kind: str) -> None:
    manager.initialize_pool(1, kind, CONFIG)
    stopped = manager.get_sandbox(manager.create_sandbox(kind, CONFIG))
    assert stopped is not None

    with Cancellation().applied() as work, manager.open(kind, CONFIG) as opened, manager.lease():
        work.cancel()
        stopped.stop()

    assert opened.id not in {info.id for info in manager.list_sandboxes()}
    assert stopped.status is SandboxStatus.STOPPED
    assert manager.get_stats()['pools']['default']['leased'] == 0


def test_those_that_wait_get_what_is_given_back(manager: SandboxManager, kind: str) -> None:
    manager.initialize_pool(1, kind, CONFIG)
    with manager.lease():
        waiting = manager.submit('execute_tool_in_pool', 'shell_executor', {'command': 'echo at last'})
        assert not waiting.done()

    assert waiting.result(PATIENCE).output == 'at last\n'


def test_a_reused_sandbox_keeps_what_is_in_it(manager: SandboxManager, kind: str) -> None:
    manager.initialize_pool(1, kind, CONFIG)
    manager.execute_tool_in_pool('shell_executor', {'command': 'echo left > here'})

    assert manager.execute_tool_in_pool('shell_executor', {'command': 'cat here'}).output == 'left\n'


def test_a_fresh_sandbox_shows_nothing_of_another_lease(make: MakeManager, kind: str) -> None:
    with make(sandbox_config=CONFIG, pool_policy='fresh') as manager:
        manager.initialize_pool(2, kind)
        for number in range(6):
            result = manager.execute_tool_in_pool('shell_executor', {'command': f'ls; touch secret-{number}'}, PATIENCE)
            assert result.output == ''


def test_a_template_that_cannot_start_leaves_nothing(manager: SandboxManager) -> None:
    with pytest.raises(NotRegisteredError):
        manager.initialize_pool(2, 'balloon')
    assert manager.list_sandboxes() == []
    assert manager._pool_initialized is False


# Threads --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('count', [1, 4])
def test_many_threads_get_exactly_their_own_outputs(manager: SandboxManager, kind: str, count: int) -> None:
    ids = [manager.create_sandbox(kind, CONFIG) for _ in range(count)]

    def work(thread: int) -> list[str]:
        outputs = []
        for call in range(25):
            sandbox_id = ids[(thread + call) % count]
            command = f'echo {thread}.{call}; echo e{thread}.{call} >&2'
            result = manager.execute_tool(sandbox_id, 'shell_executor', {'command': command})
            outputs.append((result.output, result.metadata['stderr'], result.exit_code))
        return outputs

    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(work, range(8)))

    assert found == [[(f'{n}.{call}\n', f'e{n}.{call}\n', 0) for call in range(25)] for n in range(8)]


def test_any_verb_from_many_threads(manager: SandboxManager, kind: str) -> None:
    if kind == 'fake':
        rounds = 10
    else:
        rounds = 1
    errors: list[BaseException] = []

    def live(number: int) -> None:
        try:
            for _ in range(rounds):
                sandbox_id = manager.create_sandbox(kind, CONFIG)
                manager.put_file(sandbox_id, str(number).encode(), 'me')
                assert manager.get_file(sandbox_id, 'me') == str(number).encode()
                assert sandbox_id in {info.id for info in manager.list_sandboxes()}
                manager.get_stats()
                manager.renew(sandbox_id, 1000)
                manager.stop_sandbox(sandbox_id)
                manager.delete_sandbox(sandbox_id)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=live, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)

    assert errors == []
    assert manager.list_sandboxes() == []


# Reply and the end ----------------------------------------------------------------------------------------------------


def test_stats_and_health(manager: SandboxManager, kind: str) -> None:
    manager.create_sandbox(kind)

    stats, health = manager.get_stats(), manager.health_check()

    assert stats['total_sandboxes'] == 1
    assert stats['status_counts'] == {'running': 1}
    assert stats['sandbox_types'] == {kind: 1}
    assert (stats['running'], stats['pool_size'], stats['pools']) == (True, 0, {})
    assert health.healthy
    assert health.details['sandboxes'] == 1


def test_submitted_verbs_give_futures(manager: SandboxManager, kind: str) -> None:
    sandbox_id = manager.submit('create_sandbox', kind, CONFIG).result(PATIENCE)
    futures = [
        manager.submit('execute_tool', sandbox_id, 'shell_executor', {'command': f'echo {n}'}) for n in range(10)
    ]

    assert [future.result(PATIENCE).output for future in futures] == [f'{n}\n' for n in range(10)]
    with pytest.raises(SandboxNotFoundError):
        manager.submit('get_sandbox_info', 'ghost').result(PATIENCE)
    with pytest.raises(InvalidArgumentError, match="did you mean 'execute_tool'"):
        manager.submit('execute_tol')


def test_after_the_end_it_takes_no_work(make: MakeManager, kind: str) -> None:
    manager = make(sandbox_config=CONFIG)
    with manager as entered:
        entered.create_sandbox(kind)

    entered.stop()
    with pytest.raises(ManagerStoppedError):
        entered.create_sandbox(kind)


@pytest.mark.parametrize('name', [pytest.param(name, marks=MARKS.get(name, [])) for name in sorted(MANAGERS)])
def test_every_verb_has_the_contracts_signature(name: str) -> None:
    with MANAGERS[name]() as manager:
        for verb in sorted(SandboxManager._verbs()):
            contract = inspect.signature(getattr(SandboxManager, verb))
            assert inspect.signature(getattr(type(manager), verb)) == contract, verb
            assert getattr(type(manager), verb).__doc__, verb


# Programs -------------------------------------------------------------------------------------------------------------


def test_programs_run_in_a_sandbox_and_in_a_pool(manager: SandboxManager, kind: str) -> None:
    if kind == 'fake':
        pytest.skip('a fake runs no programs')
    sandbox_id = manager.create_sandbox(kind, CONFIG)

    code = 'import sys; print(sys.stdin.buffer.read())'
    result = manager.run_code(sandbox_id, code, stdin=b'\xff', fetch_files=['x'])
    assert (result.stdout, sorted(result.file_errors)) == ("b'\\xff'\n", ['x'])
    with pytest.raises(ValueError, match='klingon'):
        manager.run_code(sandbox_id, 'x', 'klingon')
    with pytest.raises(InvalidArgumentError, match='on_stderr must be a function'):
        manager.run_code(sandbox_id, 'x', on_stderr=5)  # type: ignore[arg-type]
    manager.initialize_pool(1, kind, CONFIG)
    seen: list[str] = []
    short = manager.run_code(sandbox_id, 'print("x" * 5000)', max_chars=400, on_stdout=seen.append)
    assert len(short.stdout) <= 400
    assert 'x' * 100 in ''.join(seen)
    short = manager.run_code_in_pool('print("x" * 5000)', max_chars=400, on_stdout=seen.append)
    assert len(short.stdout) <= 400

    judged = manager.run_code_in_pool('print(2)', expected_output='3', files={'a/b': b'\xff'}, fetch_files=['a/b'])
    assert (str(judged.verdict), judged.files) == ('wrong_answer', {'a/b': b'\xff'})


def test_many_programs_in_one_pool_have_their_outcomes_as_they_come(manager: SandboxManager, kind: str) -> None:
    if kind == 'fake':
        pytest.skip('a fake runs no programs')
    with pytest.raises(PoolError):
        manager.run_many(['print(1)'])
    manager.initialize_pool(2, kind, CONFIG)
    programs: list[Any] = [
        CodeRequest(code='import time; time.sleep(2); print("slow")'),
        {'code': 'echo shell', 'language': 'bash'},
        'print(input())',
        {'code': 'x', 'language': 'klingon'},
        {'code': 'x', 'nonsense': 1},
        *(CodeRequest(code=f'print({n})', expected_output=str(n)) for n in range(5, 30)),
    ]

    with manager.run_many(programs) as outcomes:
        found = {outcome.index: outcome for outcome in outcomes}

    assert sorted(found) == list(range(30))
    assert [found[n].unwrap().stdout for n in (0, 1)] == ['slow\n', 'shell\n']
    assert str(found[2].unwrap().verdict) == 'runtime_error'
    assert isinstance(found[3].error, NotRegisteredError)
    assert isinstance(found[4].error, InvalidArgumentError)
    assert {str(found[n].unwrap().verdict) for n in range(5, 30)} == {'accepted'}
    assert next(iter(found)) != 0  # it was not the first to end
    with pytest.raises(PoolError, match='nobody'):
        manager.run_many(['print(1)'], pool='nobody')


def test_a_program_is_mapped_over_items_in_their_order(manager: SandboxManager, kind: str) -> None:
    if kind == 'fake':
        pytest.skip('a fake runs no programs')
    manager.initialize_pool(2, kind, CONFIG)
    progress: list[tuple[int, int | None]] = []
    code = 'import sys, time; n = int(input()); time.sleep(0.3 if n == 0 else 0); print(n * 2)'

    outcomes = list(manager.map(code, ['0', '1', 'x', {'stdin': '3'}], on_progress=lambda *at: progress.append(at)))

    assert [each.index for each in outcomes] == [0, 1, 2, 3]
    assert [outcomes[n].unwrap().stdout for n in (0, 1, 3)] == ['0\n', '2\n', '6\n']
    assert str(outcomes[2].unwrap().verdict) == 'runtime_error'
    assert progress == [(1, 4), (2, 4), (3, 4), (4, 4)]
    made = manager.map(lambda n: CodeRequest(code=f'echo {10 // n}', language='bash'), iter([1, 0, 5]))
    assert [each.error is None and each.unwrap().stdout for each in made] == ['10\n', False, '2\n']


def test_what_is_left_of_many_programs_ends_with_them(manager: SandboxManager, kind: str) -> None:
    if kind == 'fake':
        pytest.skip('a fake runs no programs')
    manager.initialize_pool(2, kind, CONFIG)
    taken: list[int] = []

    def programs() -> Iterator[str]:
        for number in range(100_000):
            taken.append(number)
            yield 'print(1)' if number == 0 else 'import time; time.sleep(60)'

    with manager.run_many(programs()) as outcomes:
        assert next(outcomes).unwrap().stdout == '1\n'

    assert len(taken) < 2000
    assert manager.run_code_in_pool('print(2)', wait_timeout=PATIENCE).stdout == '2\n'


def test_many_programs_in_one_sandbox(manager: SandboxManager, kind: str) -> None:
    if kind == 'fake':
        pytest.skip('a fake runs no programs')
    sandbox = manager.get_sandbox(manager.create_sandbox(kind, CONFIG))
    assert sandbox is not None

    outcomes = list(sandbox.run_many((f'print({n})' for n in range(10)), in_order=True))

    assert [each.unwrap().stdout for each in outcomes] == [f'{n}\n' for n in range(10)]


# Tool calls of models -------------------------------------------------------------------------------------------------


def test_a_models_tool_calls_are_answered_by_the_sandbox_and_by_its_manager(manager: SandboxManager, kind: str) -> None:
    sandbox_id = manager.create_sandbox(kind, CONFIG)
    sandbox = manager.get_sandbox(sandbox_id)
    assert sandbox is not None
    good = {
        'id': '1',
        'type': 'function',
        'function': {'name': 'shell_executor', 'arguments': '{"command": "echo hi"}'},
    }
    wrong = {'type': 'tool_use', 'id': '2', 'name': 'shell_executor', 'input': {'cmd': 'ls'}}
    failing = {'type': 'tool_use', 'id': '3', 'name': 'shell_executor', 'input': {'command': 'echo no >&2; exit 3'}}
    unknown = {'name': 'browser', 'arguments': {}}

    for tool_call, tool_calls, schemas in (
        (sandbox.execute_tool_call, sandbox.execute_tool_calls, sandbox.tool_schemas),
        (
            functools.partial(manager.execute_tool_call, sandbox_id),
            functools.partial(manager.execute_tool_calls, sandbox_id),
            functools.partial(manager.tool_schemas, sandbox_id),
        ),
    ):
        assert [each['name'] for each in schemas('anthropic')] == TOOLS
        assert tool_call(good) == {'role': 'tool', 'tool_call_id': '1', 'content': 'hi'}
        assert "did you mean 'command'?" in tool_call(wrong)['content']
        assert tool_call(failing) == {
            'type': 'tool_result',
            'tool_use_id': '3',
            'content': '[error, exit code 3]\nno',
            'is_error': True,
        }
        assert 'The tools are: ' + ', '.join(TOOLS) in tool_call(unknown)['content'][0]['text']
        (message,) = tool_calls({'role': 'assistant', 'content': [failing, wrong]})
        assert [block['tool_use_id'] for block in message['content']] == ['3', '2']


def test_an_output_over_the_budget_is_kept_whole_in_a_file_that_the_result_names(
    manager: SandboxManager, kind: str
) -> None:
    sandbox_id = manager.create_sandbox(kind, CONFIG)
    command = 'i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done; echo also >&2'

    result = manager.execute_tool(sandbox_id, 'shell_executor', {'command': command}, max_chars=500)

    file = result.metadata['output_file']
    assert len(result.output) <= 500
    assert result.output.startswith('line 0\n')
    assert result.output.endswith('line 2999\n')
    assert f'all of it is in {file}' in result.output
    assert result.metadata['stdout_truncated'] is True
    assert (result.metadata['stderr'], result.metadata['stderr_file']) == ('also\n', None)
    whole = manager.execute_tool(sandbox_id, 'file_operation', {'operation': 'read', 'file_path': file})
    assert whole.output == ''.join(f'line {number}\n' for number in range(3000))


def test_a_tool_may_have_a_budget_of_its_own(manager: SandboxManager, kind: str) -> None:
    config = {**CONFIG, 'tools_config': {'shell_executor': {'max_chars': 100}}}
    sandbox_id = manager.create_sandbox(kind, config)

    result = manager.execute_tool(sandbox_id, 'shell_executor', {'command': 'printf %0500d 7 >&2; exit 1'})

    assert len(result.error or '') <= 200
    assert result.metadata['stderr_file'] in (result.error or '')


@pytest.mark.parametrize('max_chars', [0, -1, 2.5, 'many'])
def test_a_budget_that_is_none_is_refused(manager: SandboxManager, kind: str, max_chars: Any) -> None:
    sandbox_id = manager.create_sandbox(kind, CONFIG)

    with pytest.raises(InvalidArgumentError, match='max_chars'):
        manager.execute_tool(sandbox_id, 'shell_executor', {'command': 'true'}, max_chars=max_chars)
