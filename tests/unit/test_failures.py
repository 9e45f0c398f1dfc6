"""Every refusal and failure is one record with the same keys, whatever stopped it, on every interface of the library."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from click.testing import CliRunner

from enclave.cli.main import cli
from enclave.errors import ERROR_TYPES, EnclaveError, SandboxPathError, SandboxPathNotFoundError
from enclave.managers.http import HttpSandboxManager
from enclave.managers.local import LocalSandboxManager
from enclave.managers.protocol import error_response, rebuild_error
from enclave.parallel import Batch
from enclave.records import CommandResult, ToolResult
from enclave.server.serve import SandboxServer
from enclave.tools.base import COMMAND_METADATA, Tool
from enclave.tools.tool_factory import ToolFactory
from tests.support.server import serving
from tests.support.workspace import FakeWorkspace

RECORD = {'code', 'message', 'details', 'detail'}


def check_record(record: Any) -> None:
    assert isinstance(record, dict)
    assert set(record) == RECORD
    assert record['code'] in ERROR_TYPES
    assert record['message']
    assert isinstance(record['details'], dict)
    assert record['detail']
    json.dumps(record)


# Results of tools -----------------------------------------------------------------------------------------------------


class Clumsy(Tool):
    """Fail by itself."""

    name = 'clumsy'

    def run(self, workspace: Any, arguments: Any) -> Any:
        raise KeyError('lost')


class Strange(Tool):
    """Return what has no JSON form."""

    name = 'strange'

    def run(self, workspace: Any, arguments: Any) -> Any:
        return object()


def ended(**facts: Any) -> CommandResult:
    return CommandResult(**{'command': 'x', 'status': 'error', **facts})


PROGRAM_ENDS = {
    'non-zero': ended(exit_code=3),
    'signal': ended(exit_code=139, signal='SIGSEGV'),
    'time limit': ended(status='timeout', exit_code=137, timed_out=True),
    'out of memory': ended(exit_code=137, signal='SIGKILL', oom_killed=True),
    'cancelled': ended(status='cancelled', exit_code=137),
}


def failing_calls(workspace: FakeWorkspace) -> Iterator[tuple[str, ToolResult]]:
    """Yield the results of calls that fail in every way there is."""
    for kind, end in PROGRAM_ENDS.items():
        for name, arguments in (('shell_executor', {'command': ['x']}), ('python_executor', {'code': 'x'})):
            verb = 'execute_command' if name == 'shell_executor' else 'run_script'
            workspace.will(verb, end)
            yield f'{name}: {kind}', ToolFactory.create_tool(name).execute(workspace, **arguments)
    for error in (SandboxPathNotFoundError('gone'), SandboxPathError('full')):
        for name, verb, arguments in (
            ('shell_executor', 'execute_command', {'command': ['x']}),
            ('python_executor', 'run_script', {'code': 'x'}),
            ('file_operation', 'read_file', {'operation': 'read', 'file_path': 'x'}),
        ):
            workspace.will(verb, error)
            yield f'{name}: {error.code}', ToolFactory.create_tool(name).execute(workspace, **arguments)
    for name, arguments in (
        ('shell_executor', {'command': ' '}),
        ('python_executor', {'code': ''}),
        ('multi_code_executor', {'language': 'python', 'code': ' '}),
        ('multi_code_executor', {'language': 'klingon', 'code': 'x'}),
        ('notebook_executor', {'code': ''}),
        ('file_operation', {'operation': 'read', 'file_path': 'none'}),
        ('file_operation', {'operation': 'delete', 'file_path': 'none'}),
        ('file_operation', {'operation': 'stat', 'file_path': 'none'}),
    ):
        yield f'{name}: {arguments}', ToolFactory.create_tool(name).execute(workspace, **arguments)
    yield 'a fault of the tool', Clumsy().execute(workspace)
    yield 'no JSON', Strange().execute(workspace)


def test_every_failing_result_of_a_tool_has_the_same_keys(tmp_path: Path) -> None:
    seen = 0
    for what, result in failing_calls(FakeWorkspace(tmp_path)):
        seen += 1
        assert not result.success, what
        assert COMMAND_METADATA.keys() <= result.metadata.keys(), what
        assert result.error, what
        code, raised = result.metadata['error_code'], result.metadata['exception']
        assert code is None or code in ERROR_TYPES, what
        assert (raised == 'KeyError') == (what == 'a fault of the tool'), what
        is_end = any(what.endswith(f': {kind}') for kind in PROGRAM_ENDS)
        assert is_end or raised or code is not None, what
    assert seen == 26


# Exceptions, and what travels -----------------------------------------------------------------------------------------


@pytest.mark.parametrize('code', sorted(ERROR_TYPES))
def test_every_exception_is_the_record_and_comes_back_from_it(code: str) -> None:
    error = ERROR_TYPES[code]('it \x1b[2J failed', details={'sandbox_id': 'ab12'})

    check_record(error.to_dict())
    travelled = error_response(error).model_dump(mode='json')
    check_record(travelled)
    assert '\x1b' not in json.dumps(travelled)
    assert type(rebuild_error(travelled)) is ERROR_TYPES[code]


def test_an_exception_of_anybody_else_is_the_record_too() -> None:
    record = error_response(ZeroDivisionError('by zero')).model_dump(mode='json')

    check_record(record)
    assert (record['code'], record['details']) == (EnclaveError.code, {'exception': 'ZeroDivisionError'})
    check_record(error_response(EnclaveError('x', details={'it': object()})).model_dump(mode='json'))


def test_an_item_of_a_batch_that_failed_holds_the_record() -> None:
    def work(number: int) -> float:
        if number == 2:
            raise SandboxPathError('full')
        return 1 / number

    with Batch(work, [0, 1, 2], concurrency=1, is_ordered=True) as outcomes:
        first, second, third = [each.to_dict() for each in outcomes]
    check_record(first['error'])
    check_record(third['error'])
    assert second == {'index': 1, 'result': 1.0, 'error': None}


# Over HTTP ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def server() -> Iterator[SandboxServer]:
    with serving(policy={'max_lifetime': 10, 'adapters': ()}) as server:
        yield server


@pytest.mark.parametrize(
    ('method', 'path', 'body'),
    [
        ('GET', '/nowhere', None),
        ('DELETE', '/stats', None),
        ('GET', '/sandbox/none', None),
        ('POST', '/sandbox/tool/execute', '{"sandbox_id": "none", "tool_name": "x", "parameters": {}}'),
        ('POST', '/sandbox/tool/execute', '{broken'),
        ('POST', '/sandbox/tool/execute', '{"unknown": 1}'),
        ('POST', '/sandbox/create?sandbox_type=klingon', '{}'),
        ('POST', '/sandbox/create?sandbox_type=docker', '{"privileged": true}'),
        ('POST', '/sandbox/create?sandbox_type=docker', '{"memory_limit": "much"}'),
        ('POST', '/pool/code', '{"request": {"code": "print(1)"}}'),
        ('POST', '/pool/code/batch', '{"requests": []}'),
        ('GET', '/sandbox/none/files?path=x', None),
        ('GET', '/sandboxes?status=odd', None),
    ],
)
def test_every_refusal_of_a_server_is_the_record(
    server: SandboxServer, method: str, path: str, body: str | None
) -> None:
    headers = {'X-Enclave-Protocol': '1', 'Content-Type': 'application/json'}
    response = requests.request(method, server.url + path, data=body, headers=headers, timeout=60)

    assert response.status_code >= 400
    check_record(response.json())


def test_what_the_socket_refuses_is_the_record(server: SandboxServer) -> None:
    response = requests.get(server.url + '/stats', headers={'X-Long': 'x' * (1 << 20)}, timeout=60)

    assert response.status_code == 431
    check_record(response.json())


def test_the_client_raises_what_the_record_says(server: SandboxServer) -> None:
    with HttpSandboxManager(base_url=server.url) as manager, LocalSandboxManager() as local:
        for each in (manager, local):
            with pytest.raises(EnclaveError) as info:
                each.execute_tool('none', 'shell_executor', {'command': 'true'})
            check_record(info.value.to_dict())
            assert info.value.code == 'sandbox-not-found'


# On the command line, and over MCP ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('arguments', 'code'),
    [
        (('info', 'none', '--json'), 'server-unavailable'),
        (('ps', '--json', '--orphans'), 'invalid-argument'),
        (('ps', '--nonsense', '--json'), 'invalid-argument'),
        (('exec', '--json', 'none', 'true'), 'server-unavailable'),
        (('pool', 'show', '--json'), 'server-unavailable'),
        (('stats', '--json'), 'server-unavailable'),
    ],
)
def test_json_on_the_command_line_is_the_record(
    arguments: tuple[str, ...], code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('ENCLAVE_URL', 'http://127.0.0.1:9')  # where nobody listens

    done = CliRunner().invoke(cli, arguments, prog_name='ms-enclave')

    assert done.exit_code != 0
    check_record(json.loads(done.stdout)['error'])
    assert json.loads(done.stdout)['error']['code'] == code


def test_without_json_a_failure_prints_nothing_on_standard_output(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('ENCLAVE_URL', 'http://127.0.0.1:9')

    assert CliRunner().invoke(cli, ('info', 'none'), prog_name='ms-enclave').stdout == ''


def test_a_case_of_pool_run_that_cannot_be_run_holds_the_record() -> None:
    from enclave.cli.pool_cases import Case
    from enclave.cli.pool_report import CaseOutcome

    for outcome in (
        CaseOutcome(Case(path=Path('x.py'), problem='no such file'), None, 'no such file'),
        CaseOutcome(Case(path=Path('x.py')), None, 'full', SandboxPathError('full')),
    ):
        check_record(outcome.as_json()['error'])


def test_a_failed_call_over_mcp_holds_the_record() -> None:
    from enclave.mcp import sdk

    class Nothing:
        """A caller without sandboxes."""

        def find(self, sandbox_id: str | None) -> Any:
            raise RuntimeError('a fault inside')

    for name, arguments in (
        ('none', {}),
        ('run_python', {}),
        ('run_python', {'code': 1}),
        ('run_python', {'code': 'x'}),
    ):
        answer = asyncio.run(sdk.answer(Nothing(), name, arguments, None))  # type: ignore[arg-type]
        assert answer['isError']
        check_record(answer['structuredContent']['error'])
