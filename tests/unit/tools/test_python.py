from __future__ import annotations

import sys
from typing import Any

import pytest

from enclave.enums import ExecutionStatus
from enclave.errors import SandboxGoneError, ToolArgumentsError
from enclave.records import CommandResult
from enclave.tools.python import PythonExecutor
from tests.support.workspace import FakeWorkspace


@pytest.fixture
def tool() -> PythonExecutor:
    return PythonExecutor(interpreter=sys.executable)


@pytest.mark.processes
def test_what_the_code_prints_is_the_output(tool: PythonExecutor, workspace: FakeWorkspace) -> None:
    result = tool.execute(workspace, code='print("hé"); import sys; print("aside", file=sys.stderr)')

    assert result.success
    assert (result.output, result.error, result.exit_code) == ('hé\n', None, 0)
    assert result.metadata['stderr'] == 'aside\n'


@pytest.mark.processes
def test_an_exception_is_the_error_with_its_traceback(tool: PythonExecutor, workspace: FakeWorkspace) -> None:
    result = tool.execute(workspace, code='print("before")\nprint(1/0)')

    assert result.status is ExecutionStatus.ERROR
    assert result.output == 'before\n'
    assert 'line 2' in (result.error or '')
    assert (result.error or '').rstrip().endswith('ZeroDivisionError: division by zero')
    assert result.exit_code == 1


@pytest.mark.processes
def test_a_silent_failure_ends_in_its_exit_code(tool: PythonExecutor, workspace: FakeWorkspace) -> None:
    result = tool.execute(workspace, code='import sys; sys.exit(3)')

    assert result.error == 'Command failed with exit code 3'


@pytest.mark.parametrize('code', ['', ' \n\t'])
def test_no_code_is_reported_without_running_anything(
    tool: PythonExecutor, workspace: FakeWorkspace, code: str
) -> None:
    result = tool.execute(workspace, code=code)

    assert result.status is ExecutionStatus.ERROR
    assert result.error == 'No code provided'
    assert workspace.calls == []


@pytest.mark.processes
def test_args_stdin_env_and_cwd_reach_the_code(tool: PythonExecutor, workspace: FakeWorkspace) -> None:
    workspace.make_dir('sub')
    workspace.write_file('sub/helper.py', b'value = 41')

    result = tool.execute(
        workspace,
        code='import helper, os, sys\nprint(sys.argv[1:], sys.stdin.read(), os.environ["A"], os.path.basename(os.getcwd()))',
        args=['--x', "it's"],
        stdin='typed',
        env={'A': 'b c'},
        cwd='sub',
    )

    assert result.error is None
    assert result.output == """['--x', "it's"] typed b c sub\n"""


@pytest.mark.processes
def test_the_call_is_one_script_with_the_working_directory_on_its_path(workspace: FakeWorkspace) -> None:
    PythonExecutor().execute(workspace, code='1')

    (call,) = workspace.called('run_script')
    assert call['interpreter'] == ['python3']
    assert (call['suffix'], call['import_path_env']) == ('.py', 'PYTHONPATH')
    assert (call['timeout'], call['max_output_bytes'], call['env']) == (None, None, None)


@pytest.mark.processes
def test_an_interpreter_may_have_flags(workspace: FakeWorkspace) -> None:
    tool = PythonExecutor(interpreter=[sys.executable, '-X', 'utf8'])

    assert tool.execute(workspace, code='import sys; print(sys.flags.utf8_mode)').output == '1\n'


@pytest.mark.processes
@pytest.mark.parametrize(
    ('option', 'argument', 'used'),
    [(None, None, None), (5, None, 5.0), (5, 2, 2.0), (5, 0, 0.0), (0, None, 0.0), (None, 1.5, 1.5)],
)
def test_the_timeout_of_the_call_wins_over_the_tools(
    workspace: FakeWorkspace, option: Any, argument: Any, used: Any
) -> None:
    PythonExecutor(timeout=option).execute(workspace, code='1', timeout=argument)

    assert workspace.called('run_script')[0]['timeout'] == used


@pytest.mark.processes
def test_the_output_cap_of_the_tool_is_used(workspace: FakeWorkspace) -> None:
    PythonExecutor(max_output_bytes=99).execute(workspace, code='1')

    assert workspace.called('run_script')[0]['max_output_bytes'] == 99


@pytest.mark.processes
def test_running_out_of_time_keeps_what_was_printed(tool: PythonExecutor, workspace: FakeWorkspace) -> None:
    result = tool.execute(workspace, code='import time\nprint("partly", flush=True)\ntime.sleep(600)', timeout=5)

    assert result.status is ExecutionStatus.TIMEOUT
    assert result.output == 'partly\n'
    assert result.error == 'Timed out after 5 seconds'


def test_out_of_memory_names_the_limit_where_it_is_known(tool: PythonExecutor, workspace: FakeWorkspace) -> None:
    class Config:
        memory_limit = '64m'

    workspace.config = Config()  # type: ignore[attr-defined]
    workspace.will(
        'run_script', CommandResult(command='x', status='error', exit_code=137, signal='SIGKILL', oom_killed=True)
    )

    result = tool.execute(workspace, code='x = "a" * 10**12')

    assert 'memory limit of 64m' in (result.error or '')
    assert result.metadata['oom_killed'] is True


def test_a_missing_interpreter_is_named_with_the_ways_out(workspace: FakeWorkspace) -> None:
    result = PythonExecutor(interpreter='no-such-python').execute(workspace, code='print(1)')

    assert result.status is ExecutionStatus.ERROR
    assert result.exit_code == 127
    for text in ("'no-such-python' was not found in this sandbox", 'python:3.11-slim', "['interpreter']"):
        assert text in (result.error or '')


def test_an_interpreter_that_may_not_run_is_named(workspace: FakeWorkspace) -> None:
    workspace.write_file('plain.txt', b'', mode=0o644)

    result = PythonExecutor(interpreter='./plain.txt').execute(workspace, code='print(1)')

    assert result.exit_code == 126
    assert 'may not be executed' in (result.error or '')


@pytest.mark.processes
@pytest.mark.parametrize('code', [126, 127])
def test_code_may_end_with_the_numbers_of_a_missing_program(
    tool: PythonExecutor, workspace: FakeWorkspace, code: int
) -> None:
    result = tool.execute(workspace, code=f'import sys; sys.exit({code})')

    assert result.error == f'Command failed with exit code {code}'


def test_a_missing_directory_is_a_result(tool: PythonExecutor, workspace: FakeWorkspace) -> None:
    result = tool.execute(workspace, code='1', cwd='/nowhere')

    assert result.status is ExecutionStatus.ERROR
    assert "'/nowhere'" in (result.error or '')


def test_a_sandbox_that_died_is_an_exception(tool: PythonExecutor, workspace: FakeWorkspace) -> None:
    workspace.will('run_script', SandboxGoneError('gone'))

    with pytest.raises(SandboxGoneError):
        tool.execute(workspace, code='1')


@pytest.mark.parametrize(
    ('parameters', 'message'),
    [
        ({}, 'code is required and missing'),
        ({'code': 5}, 'code must be a string, not 5'),
        ({'code': '1', 'timeout': -1}, 'timeout must be at least 0, not -1'),
        ({'code': '1', 'timeout': '5'}, "timeout must be a number, not '5'"),
        ({'code': '1', 'timeout': True}, 'timeout must be a number, not True'),
        ({'code': '1', 'args': 'a b'}, "args must be a list, not 'a b'"),
        ({'code': '1', 'args': [1]}, r'args\[0\] must be a string, not 1'),
        ({'code': '1', 'env': {'A': 1}}, r"env\['A'\] must be a string, not 1"),
        ({'code': '1', 'env': {'A=B': ''}}, "env has an impossible variable name 'A=B'"),
        ({'code': '1', 'env': ['A=B']}, 'env must be an object with named fields'),
        ({'code': '1', 'cmd': 'x'}, "unknown key 'cmd'"),
    ],
)
def test_wrong_arguments_are_named(workspace: FakeWorkspace, parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ToolArgumentsError, match=message):
        PythonExecutor().execute(workspace, **parameters)

    assert workspace.calls == []


@pytest.mark.processes
def test_null_means_left_out(tool: PythonExecutor, workspace: FakeWorkspace) -> None:
    result = tool.execute(workspace, code='print(1)', timeout=None, args=None, stdin=None, cwd=None, env=None)

    assert result.output == '1\n'
