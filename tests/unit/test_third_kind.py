"""A kind of sandbox that the library knows nothing of: one registration, and everything takes it as it takes its own."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import enclave
from enclave import aio
from enclave.cli.main import cli
from enclave.cli.place import LocalPlace
from enclave.doctor import examine
from enclave.errors import ConfigurationError, PolicyError, UnsupportedError
from enclave.managers.http import HttpSandboxManager
from enclave.managers.local import LocalSandboxManager
from enclave.records import SandboxInfo, Usage, utc_now
from enclave.rulings import SHARED, inside
from enclave.sandboxes import choice
from enclave.sandboxes.choice import choose, choose_for, kind_of
from enclave.sandboxes.kinds import ENTRY_POINTS, KINDS, Missing, SandboxKind, register_kind
from enclave.sandboxes.sandbox_factory import SandboxFactory
from tests.support.process_kind import ProcessBackend, ProcessConfig, ProcessExaminer, ProcessSandbox
from tests.support.server import serving

RULINGS = {**SHARED, 'niceness': inside()}
TOOLS = {'tools_config': ['shell_executor']}


@pytest.fixture(autouse=True)
def _nothing_stays(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    KINDS.all()
    monkeypatch.setattr(KINDS, 'registered', dict(KINDS.registered))
    yield
    assert ProcessBackend.alive == set()


def register(**described: Any) -> SandboxKind:
    return register_kind(
        SandboxKind(name='process', sandbox=ProcessSandbox, doctor=ProcessExaminer, **{'rulings': RULINGS, **described})
    )


@pytest.mark.parametrize(
    'config', [ProcessConfig(), ProcessConfig(niceness=5), {'niceness': 5}, {'niceness': 5, 'timeout': 3}]
)
def test_its_configuration_decides(config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    register()
    monkeypatch.setattr(choice, 'choose_backend', lambda: pytest.fail('nobody should be asked'))

    assert choose_for(config).sandbox_type == 'process'
    assert SandboxFactory.create_sandbox(config=config).sandbox_type == 'process'
    assert 'ProcessConfig' in choose_for(config).reason or "'niceness'" in choose_for(config).reason


def test_options_that_it_shares_with_others_are_no_sign_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    register()
    monkeypatch.setattr(choice, 'choose_backend', lambda: choice.Choice('docker', 'of the machine'))

    assert choose_for({'timeout': 3}).reason == 'of the machine'
    assert choose_for({'image': 'x'}).sandbox_type == 'docker'


def test_a_configuration_of_no_kind_makes_no_sandbox_of_another() -> None:
    """Until the kind is registered, its configuration would be one of Docker's less what that does not know."""
    for config in (ProcessConfig(), ProcessConfig(timeout=5)):
        with pytest.raises(ConfigurationError, match='no kind of sandbox that is registered takes a ProcessConfig'):
            SandboxFactory.create_sandbox(config=config)
        with pytest.raises(ConfigurationError, match='takes a ProcessConfig'):
            kind_of(config)
        with pytest.raises(ConfigurationError, match='takes a ProcessConfig'):
            aio.SandboxFactory.create_sandbox(config=config)
        for manager_kind in (None, 'docker'):
            with (
                LocalSandboxManager(sandbox_type=manager_kind) as manager,
                pytest.raises(ConfigurationError, match='takes a ProcessConfig'),
            ):
                manager.create_sandbox(config=config)


@pytest.mark.processes
def test_its_configuration_goes_before_the_usual_kind_of_a_manager() -> None:
    register()
    with LocalSandboxManager(sandbox_type='docker') as manager:
        made = manager.create_sandbox(config=ProcessConfig(**TOOLS))

        assert manager.get_sandbox_info(made).type == 'process'


def test_one_without_a_rank_is_not_tried() -> None:
    register()

    def no() -> None:
        raise UnsupportedError('not here')

    assert choose(no, no).sandbox_type == 'docker'


def test_one_with_a_rank_has_its_turn() -> None:
    tried = []
    register(rank=15, check=lambda: tried.append(1), works='processes work', fails='no processes')

    def no() -> None:
        raise UnsupportedError('no engine')

    assert choose(no) == choice.Choice(
        'process', 'no Docker engine answers (no engine), and processes work', 'no Docker engine answers'
    )
    assert tried


@pytest.mark.processes
def test_asynchronous_programs_have_it() -> None:
    register()

    async def main() -> str:
        async with aio.SandboxFactory.create_sandbox(config=ProcessConfig(**TOOLS)) as sandbox:
            return (await sandbox.execute_command('echo hello')).stdout

    assert asyncio.run(main()) == 'hello\n'


@pytest.mark.processes
def test_it_has_pools() -> None:
    register()
    with LocalSandboxManager() as manager:
        assert len(manager.initialize_pool(2, config=ProcessConfig(**TOOLS))) == 2
        assert manager.execute_tool_in_pool('shell_executor', {'command': 'echo hello'}).output == 'hello\n'
        assert manager.get_stats()['sandbox_types'] == {'process': 2}


def test_the_doctor_looks_at_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(KINDS, 'registered', {})
    KINDS.register(register(rank=5))

    found = examine()

    assert found.backends == ['process']
    assert {each.name: each.summary for each in found.checks}[
        'default kind'
    ] == 'process, since this machine has processes'


@pytest.mark.processes
def test_the_command_line_has_it() -> None:
    register()

    done = CliRunner().invoke(
        cli, ['run', '--local', '--type', 'process', '-o', 'niceness=3', '--json', '-c', 'print("hello")']
    )

    shown = json.loads(done.stdout)
    assert (done.exit_code, shown['stdout'], shown['sandbox_type']) == (0, 'hello\n', 'process')


@pytest.mark.processes
def test_what_it_lacks_is_fetched_for_the_command_line() -> None:
    got: list[Any] = []
    register(find_missing=lambda options: Missing('Fetching processes', lambda report: got.append(dict(options))))

    done = CliRunner().invoke(cli, ['run', '--local', '--type', 'process', '-o', 'niceness=3', '-c', 'print("hello")'])

    assert (done.exit_code, done.stdout) == (0, 'hello\n')
    assert got == [{'niceness': 3}]
    assert 'Fetching processes' in done.stderr


def test_one_that_ends_with_its_maker_is_not_created_to_stay() -> None:
    register()

    done = CliRunner().invoke(cli, ['create', '--local', '--type', 'process'])

    assert isinstance(done.exception, UnsupportedError)
    assert re.search('a process sandbox has no daemon.* --type docker, or start', str(done.exception))


class OneSandbox:
    """An inventory of a single sandbox."""

    where = 'in this test'

    def list(self) -> list[SandboxInfo]:
        return [
            SandboxInfo(id='abc', type='process', status='running', created_at=utc_now(), metadata={'image': 'none'})
        ]

    def measure(self, infos: Sequence[SandboxInfo]) -> list[Usage]:
        return [Usage(sandbox_id=info.id, memory_bytes=4096, pids=1) for info in infos]


def test_one_whose_sandboxes_are_seen_by_others_is_listed_and_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(KINDS, 'registered', {})
    register(inventory=OneSandbox)

    listed = json.loads(CliRunner().invoke(cli, ['ps', '--local', '--json']).stdout)
    measured = json.loads(CliRunner().invoke(cli, ['stats', '--local', '--json']).stdout)

    assert [each['id'] for each in listed] == ['abc']
    assert [(each['sandbox_id'], each['memory_bytes']) for each in measured['usage']] == [('abc', 4096)]


def test_kinds_of_one_backend_are_listed_once_and_none_of_them_is_called_unseen() -> None:
    register()

    assert 'docker' not in LocalPlace().unseen
    assert 'process' in LocalPlace().unseen
    assert LocalPlace().where.count('engine') == 1


@pytest.mark.processes
def test_clients_of_a_server_have_it_once_it_says_what_it_reaches() -> None:
    register(rulings=None)
    with serving() as server, HttpSandboxManager(base_url=server.url) as manager:
        for make in (
            lambda: manager.create_sandbox('process', TOOLS),
            lambda: manager.create_sandbox('process'),
            lambda: manager.initialize_pool(1, 'process', TOOLS),
        ):
            with pytest.raises(PolicyError, match="the kind 'process' does not declare"):
                make()

        register(rulings=SHARED)
        manager.delete_sandbox(manager.create_sandbox('process', TOOLS))
        with pytest.raises(PolicyError, match='niceness may not be set'):
            manager.create_sandbox('process', {'niceness': -20})

        register()
        for config in ({'niceness': 5, **TOOLS}, ProcessConfig(niceness=5, **TOOLS)):
            with manager.open(config=config) as sandbox:
                assert sandbox.execute_command('echo hello').stdout == 'hello\n'
                assert manager.list_sandboxes()[0].type == 'process'
        described = enclave.server.openapi.document.__wrapped__()
    assert 'ProcessConfig' in described['components']['schemas']


def test_an_installed_package_brings_its_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = metadata.EntryPoint('installed', f'{__name__}:INSTALLED', ENTRY_POINTS)
    broken = metadata.EntryPoint('broken', 'no.such.module:KIND', ENTRY_POINTS)

    def entry_points(*, group: str) -> list[metadata.EntryPoint]:
        return [broken, entry] if group == ENTRY_POINTS else []

    monkeypatch.setattr(KINDS, '_has_looked_around', False)
    monkeypatch.setattr(metadata, 'entry_points', entry_points)

    assert SandboxFactory.create_sandbox('installed').config == ProcessConfig()
    assert 'broken' not in SandboxFactory.get_registered_types()


INSTALLED = SandboxKind(name='installed', sandbox=ProcessSandbox)

PACKAGE = Path(enclave.__file__).parent
READS_THE_TABLE = [
    'doctor.py',
    'rulings.py',
    'cli/create.py',
    'cli/doctor.py',
    'cli/mcp.py',
    'cli/options.py',
    'cli/place.py',
    'cli/stats.py',
    'managers/base.py',
    'managers/http.py',
    'managers/local.py',
    'managers/pool.py',
    'managers/remote.py',
    'managers/remote_notebook.py',
    'managers/table.py',
    'sandboxes/choice.py',
    'sandboxes/housekeeping.py',
    'tools/tool_factory.py',
    *(
        str(path.relative_to(PACKAGE))
        for path in sorted((PACKAGE / 'server').glob('*.py'))
        if path.name != 'references.py'
    ),
]
NAMES = re.compile(
    r"enclave\.sandboxes\.(docker|bubblewrap)\b|['\"](docker|bubblewrap)(_notebook)?['\"]|"
    r'SandboxType\.(DOCKER|BUBBLEWRAP)'
)


@pytest.mark.parametrize('path', READS_THE_TABLE)
def test_what_reads_the_table_of_kinds_names_none(path: str) -> None:
    code = re.sub(r'"""(.|\n)*?"""|#.*', '', (PACKAGE / path).read_text('utf-8'))

    assert [match[0] for match in NAMES.finditer(code)] == []
