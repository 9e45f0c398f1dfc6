"""Requests: checked where they are made, the same on every way, and executed by everything that executes."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

import pytest

from enclave import wire
from enclave.agent.program import BUILTINS
from enclave.config import SandboxConfig
from enclave.errors import InvalidArgumentError
from enclave.sandboxes.agent_operations import AgentOperations
from enclave.sandboxes.docker.shell import programs
from enclave.sandboxes.docker.shell.operations import EngineOperations
from enclave.verb_requests import (
    VERBS,
    CopyPath,
    ListDir,
    MakeDir,
    MovePath,
    RemovePath,
    Request,
    RunCommand,
    Script,
    StartProcess,
    WriteFile,
    check_host,
)

CONFIG = SandboxConfig(working_dir='/home', timeout=7, max_output_bytes=99)
NULLS = {'cwd': None, 'env': None, 'user': None, 'stdin': None, 'max_output_bytes': None}


@pytest.mark.parametrize('verb', VERBS.values(), ids=list(VERBS))
def test_every_request_is_executed_by_an_agent_and_by_a_shell(verb: Any) -> None:
    assert hasattr(AgentOperations, verb.name) or verb.name in BUILTINS
    assert hasattr(EngineOperations, verb.name) or hasattr(programs, verb.name.upper())


@pytest.mark.parametrize(
    ('body', 'made'),
    [
        (
            {'command': ['a', 'b'], 'timeout': None, **NULLS, 'script': None},
            RunCommand(command=['a', 'b']),
        ),
        (
            {'command': ['py', ''], 'script': {'source': 'YQ==', 'suffix': '.py', 'at': 1, 'import_path_env': None}},
            RunCommand(command=['py', ''], script=Script(source=b'a', suffix='.py', at=1)),
        ),
        (
            {'command': 'x', 'timeout': 0.0, **NULLS, 'open_stdin': True, 'live': True, 'tty': [24, 80]},
            StartProcess(command='x', open_stdin=True, tty=(24, 80)),
        ),
        ({'path': 'a', 'parents': True, 'exist_ok': True, 'mode': 0o755}, MakeDir(path='a')),
        ({'source': 'a', 'target': 'b', 'overwrite': False}, MovePath(source='a', target='b')),
    ],
)
def test_bodies_of_clients_that_say_everything_are_taken(body: dict[str, Any], made: Request[Any]) -> None:
    assert wire.decode(body, type(made)) == made


def test_a_request_travels_without_what_is_at_its_default() -> None:
    request = RunCommand(command=['a'], env={'A': '1'}, grace=3.0)

    assert wire.encode(request) == {'command': ['a'], 'env': {'A': '1'}}
    assert wire.encode(ListDir()) == {}


@pytest.mark.parametrize('name', sorted(RunCommand.local_fields))
def test_what_belongs_to_one_machine_cannot_be_set_from_another(name: str) -> None:
    with pytest.raises(InvalidArgumentError, match=f'unknown key {name!r}'):
        wire.decode({'command': 'x', name: None}, RunCommand)


def test_a_request_is_completed_with_the_sandboxs_own() -> None:
    completed = RunCommand(command='x').completed(CONFIG)
    asked = RunCommand(command='x', timeout=0, max_output_bytes=5).completed(CONFIG)

    assert (completed.timeout, completed.max_output_bytes, completed.grace) == (7, 99, CONFIG.timeout_grace)
    assert (asked.timeout, asked.max_output_bytes) == (0, 5)
    assert CopyPath(source='a', target='/b').completed(CONFIG).paths == ['/home/a', '/b']
    assert ListDir().completed(CONFIG).path == '/home'
    assert MakeDir(path=PurePosixPath('a/b')).completed(CONFIG).path == '/home/a/b'  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ('make', 'match'),
    [
        (lambda: RemovePath(path='/'), 'root directory'),
        (lambda: RemovePath(path='.').completed(SandboxConfig(working_dir='/')), 'root directory'),
        (lambda: MovePath(source='', target='b'), 'source is empty'),
        (lambda: MovePath(source='a', target='b\0'), 'target must not contain NUL'),
        (lambda: WriteFile(path='a', mode=0o10000), 'mode must be permission bits'),
        (lambda: ListDir(max_entries=-1), 'max_entries must be a whole number'),
        (lambda: RunCommand(command=['py'], script=Script(source=b'', at=1)), 'a place for it'),
        (lambda: Script(source=b'', suffix='/x'), 'file ending'),
        (lambda: StartProcess(command='x', tty=(0, 80)), 'rows, columns'),
    ],
)
def test_a_request_that_cannot_be_is_never_made(make: Any, match: str) -> None:
    with pytest.raises(InvalidArgumentError, match=match):
        make()


def test_a_method_that_is_called_with_a_request_gets_what_was_asked() -> None:
    class Own:
        id = 'own'

        def execute_command(self, command: Any, timeout: float | None = None, **options: Any) -> Any:
            return command, timeout, options

        def run_script(self, interpreter: Any, source: Any, timeout: float | None = None, **options: Any) -> Any:
            return interpreter, source, timeout, options['args']

        def list_dir(self, path: str) -> Any:
            return path

    script = RunCommand(command=['sh', '-e', '', 'one'], script=Script(source=b'x', at=2), timeout=3)

    assert RunCommand(command=['a'], cwd='/').call_on(Own()) == (['a'], None, {'cwd': '/'})
    assert script.call_on(Own()) == (['sh', '-e'], b'x', 3, ['one'])
    assert ListDir().call_on(Own()) == '.'


@pytest.mark.parametrize('host', ['127.0.0.1', '0.0.0.0', 'localhost', '::1', 'fe80::1%eth0', 'fe80::1%2'])
def test_numeric_addresses_and_localhost_are_hosts(host: str) -> None:
    check_host(host)


@pytest.mark.parametrize(
    'host',
    ['', 'example.com', 'LOCALHOST', '[::1]', '127.1', '127.0.0.1%lo', 'fe80::1%', '::1%\0', '::1% a', None, b'::1', 1],
)
def test_what_is_no_numeric_address_is_refused_before_it_is_sent(host: Any) -> None:
    with pytest.raises(InvalidArgumentError, match='host must be a numeric address'):
        check_host(host)
