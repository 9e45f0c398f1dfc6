from __future__ import annotations

from typing import Any

import pytest

from enclave.enums import ExecutionStatus
from enclave.errors import ToolArgumentsError
from enclave.tools.shell import ShellExecutor
from tests.support.workspace import FakeWorkspace


@pytest.fixture
def tool() -> ShellExecutor:
    return ShellExecutor()


def test_a_string_goes_through_the_shell(tool: ShellExecutor, workspace: FakeWorkspace) -> None:
    result = tool.execute(workspace, command='echo a; echo $((1 + 1)) | cat')

    assert (result.output, result.error, result.exit_code) == ('a\n2\n', None, 0)


def test_a_list_is_taken_literally(tool: ShellExecutor, workspace: FakeWorkspace) -> None:
    result = tool.execute(workspace, command=['printf', '%s|', '$HOME', "a b'", '*', ''])

    assert result.output == "$HOME|a b'|*||"


def test_a_failure_is_reported_by_its_stderr(tool: ShellExecutor, workspace: FakeWorkspace) -> None:
    result = tool.execute(workspace, command='echo out; echo err >&2; exit 4')

    assert result.status is ExecutionStatus.ERROR
    assert (result.output, result.error, result.exit_code) == ('out\n', 'err\n', 4)


def test_a_silent_failure_ends_in_its_exit_code(tool: ShellExecutor, workspace: FakeWorkspace) -> None:
    assert tool.execute(workspace, command='exit 9').error == 'Command failed with exit code 9'


def test_a_program_that_does_not_exist_is_a_result(tool: ShellExecutor, workspace: FakeWorkspace) -> None:
    result = tool.execute(workspace, command=['no-such-program'])

    assert result.exit_code == 127
    assert 'no-such-program' in (result.error or '')


def test_death_by_signal_is_named(tool: ShellExecutor, workspace: FakeWorkspace) -> None:
    result = tool.execute(workspace, command=['sh', '-c', 'kill -SEGV $$'])

    assert result.error == 'Killed by SIGSEGV, exit code 139'
    assert result.metadata['signal'] == 'SIGSEGV'


@pytest.mark.parametrize('command', ['', '  \n', [], [''], [' ', 'x']])
def test_no_command_is_reported_without_running_anything(
    tool: ShellExecutor, workspace: FakeWorkspace, command: Any
) -> None:
    result = tool.execute(workspace, command=command)

    assert result.status is ExecutionStatus.ERROR
    assert result.error == 'No command provided'
    assert workspace.calls == []


def test_cwd_env_and_stdin_reach_the_command(tool: ShellExecutor, workspace: FakeWorkspace) -> None:
    workspace.make_dir('sub')

    result = tool.execute(
        workspace, command='cat; echo "$A $(basename "$PWD")"', stdin='in ', env={'A': '$x'}, cwd='sub'
    )

    assert result.output == 'in $x sub\n'


def test_options_are_used_where_the_call_says_nothing(workspace: FakeWorkspace) -> None:
    tool = ShellExecutor(timeout=7, max_output_bytes=5)

    tool.execute(workspace, command='true')
    tool.execute(workspace, command='true', timeout=3)

    assert [call['timeout'] for call in workspace.called('execute_command')] == [7.0, 3.0]
    assert [call['max_output_bytes'] for call in workspace.called('execute_command')] == [5, 5]


@pytest.mark.parametrize(
    ('parameters', 'message'),
    [
        ({}, 'command is required and missing'),
        ({'command': 5}, 'command must be a string or a list, not 5'),
        ({'command': ['a', 5]}, r'command\[1\] must be a string, not 5'),
        ({'command': {'a': 1}}, 'command must be a string or a list'),
        ({'command': 'a', 'timeout': -0.5}, 'timeout must be at least 0'),
        ({'command': 'a', 'comand': 'b'}, r"unknown key 'comand' \(did you mean 'command'\?\)"),
    ],
)
def test_wrong_arguments_are_named(
    tool: ShellExecutor, workspace: FakeWorkspace, parameters: dict[str, Any], message: str
) -> None:
    with pytest.raises(ToolArgumentsError, match=message):
        tool.execute(workspace, **parameters)

    assert workspace.calls == []
