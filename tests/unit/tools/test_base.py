from __future__ import annotations

import logging
from typing import Any

import pytest
from attrs import define, frozen

from enclave.enums import ExecutionStatus, SandboxType
from enclave.errors import (
    CallCancelledError,
    ConfigurationError,
    EngineError,
    InvalidArgumentError,
    SandboxBrokenError,
    SandboxGoneError,
    SandboxPathError,
    SandboxPathNotFoundError,
    SandboxStateError,
    ToolArgumentsError,
    ToolNotFoundError,
    UnsupportedError,
)
from enclave.records import CommandResult, PathInfo, ToolResult
from enclave.tools.base import COMMAND_METADATA, SandboxTool, Tool, command_result
from enclave.tools.schema import ToolParams
from enclave.tools.tool_factory import ToolFactory, register_tool
from enclave.tools.workspace import Workspace
from tests.support.workspace import FakeWorkspace


class Returns(Tool):
    """Return what it was made with.

    More words.
    """

    def __init__(self, value: Any = None) -> None:
        super().__init__()
        self.value = value

    def run(self, workspace: Workspace, arguments: Any) -> Any:
        if isinstance(self.value, BaseException):
            raise self.value
        return self.value


class Adder(Tool):
    """Add two numbers."""

    @define
    class Arguments:
        left: int
        right: int = 1

    def run(self, workspace: Workspace, arguments: Any) -> int:
        return int(arguments.left + arguments.right)


def test_five_lines_make_a_tool(workspace: FakeWorkspace) -> None:
    @register_tool('word_count')
    class WordCount(Tool):
        """Count the words of a file."""

        @define
        class Arguments:
            path: str

        def run(self, workspace, arguments):  # type: ignore[no-untyped-def]
            return workspace.execute_command(['wc', '-w', arguments.path]).stdout.split()[0]

    workspace.write_file('poem.txt', b'one two three\n')
    tool = ToolFactory.create_tool('word_count')

    assert tool.execute(workspace, path='poem.txt').output == '3'
    assert tool.schema == {
        'type': 'function',
        'function': {
            'name': 'word_count',
            'description': 'Count the words of a file.',
            'parameters': {
                'type': 'object',
                'properties': {'path': {'type': 'string'}},
                'required': ['path'],
                'additionalProperties': False,
            },
        },
    }


# Arguments


@pytest.mark.parametrize(
    ('parameters', 'texts'),
    [
        ({}, ['left is required and missing']),
        ({'left': '1'}, ["left must be a whole number, not '1'"]),
        ({'left': True}, ['left must be a whole number, not True']),
        ({'left': 1, 'rigth': 2}, ["unknown key 'rigth' (did you mean 'right'?)"]),
        ({'right': None, 'x': 1}, ['left is required', 'right must be a whole number', "'x' (known: left, right)"]),
    ],
)
def test_wrong_arguments_are_all_named_with_what_the_tool_takes(
    workspace: FakeWorkspace, parameters: dict[str, Any], texts: list[str]
) -> None:
    with pytest.raises(ToolArgumentsError) as caught:
        Adder().execute(workspace, **parameters)

    for each in [*texts, 'adder: ', 'It takes left (integer, required), right (integer).']:
        assert each in caught.value.message
    assert caught.value.details['tool_name'] == 'adder'


def test_a_tool_without_arguments_takes_none(workspace: FakeWorkspace) -> None:
    assert Returns('x').execute(workspace).output == 'x'
    with pytest.raises(ToolArgumentsError, match=r"unknown key 'a'.*It takes no arguments"):
        Returns('x').execute(workspace, a=1)


def test_an_argument_may_have_any_name(workspace: FakeWorkspace) -> None:
    class Names(Tool):
        @frozen(kw_only=True)
        class Arguments:
            name: str
            workspace: str

        def run(self, workspace: Workspace, arguments: Any) -> str:
            return f'{arguments.name} {arguments.workspace}'

    assert Names().execute(workspace, **{'name': 'a', 'workspace': 'b'}).output == 'a b'


def test_a_validator_of_the_users_is_a_wrong_argument(workspace: FakeWorkspace) -> None:
    class Strict(Tool):
        @define
        class Arguments:
            size: int

            def __attrs_post_init__(self) -> None:
                if self.size % 2:
                    raise ValueError('size must be even')

        def run(self, workspace: Workspace, arguments: Any) -> None: ...

    with pytest.raises(ToolArgumentsError, match='size must be even'):
        Strict().execute(workspace, size=3)


def test_run_may_refuse_arguments_that_do_not_go_together(workspace: FakeWorkspace) -> None:
    error = ToolArgumentsError('left and right are one')

    with pytest.raises(ToolArgumentsError) as caught:
        Returns(error).execute(workspace)

    assert caught.value is error


# What run gives back


@pytest.mark.parametrize(
    ('value', 'output'),
    [
        ('text', 'text'),
        (None, ''),
        (3, 3),
        (True, True),
        ([1, {'a': None}], [1, {'a': None}]),
        ((1, 2), [1, 2]),
        ({1: 2}, {'1': 2}),
        (SandboxType.DOCKER, 'docker'),
        (b'hi', 'aGk='),
    ],
)
def test_a_plain_value_is_the_output_of_a_success(workspace: FakeWorkspace, value: Any, output: Any) -> None:
    result = Returns(value).execute(workspace)

    assert result.success
    assert (result.output, result.error, result.tool_name) == (output, None, 'returns')
    assert result.execution_time is not None
    assert result.execution_time >= 0


def test_a_record_is_reported_as_its_fields(workspace: FakeWorkspace) -> None:
    result = Returns(PathInfo(path='a', kind='file')).execute(workspace)

    assert result.output['path'] == 'a'


@pytest.mark.parametrize('value', [object(), float('nan'), {'a': object()}])
def test_a_value_without_json_form_is_an_error(workspace: FakeWorkspace, value: Any) -> None:
    result = Returns(value).execute(workspace)

    assert result.status is ExecutionStatus.ERROR
    assert 'no JSON form' in (result.error or '')


def test_a_tool_result_stays_and_gets_its_time(workspace: FakeWorkspace) -> None:
    made = ToolResult(tool_name='other', status='error', error='no', metadata={'a': 1})

    result = Returns(made).execute(workspace)

    assert (result.tool_name, result.error, result.metadata) == ('other', 'no', {**COMMAND_METADATA, 'a': 1})
    assert result.execution_time is not None


def test_a_command_result_is_reported_as_a_tool_result(workspace: FakeWorkspace) -> None:
    class Lists(Tool):
        def run(self, workspace: Workspace, arguments: Any) -> CommandResult:
            return workspace.execute_command('echo out; echo err >&2; exit 3')

    result = Lists().execute(workspace)

    assert (result.output, result.error, result.exit_code) == ('out\n', 'err\n', 3)


# What run raises


@pytest.mark.parametrize(
    'error',
    [
        SandboxPathNotFoundError("'a' does not exist"),
        SandboxPathError("'a' is a directory"),
        InvalidArgumentError("the user 'x' does not exist"),
    ],
)
def test_what_the_guests_world_looks_like_is_a_result(workspace: FakeWorkspace, error: Any) -> None:
    result = Returns(error).execute(workspace)

    assert result.status is ExecutionStatus.ERROR
    assert result.error == error.message
    assert result.metadata == {**COMMAND_METADATA, 'error_code': error.code}


@pytest.mark.parametrize(
    'error',
    [
        SandboxGoneError('x'),
        SandboxBrokenError('x'),
        SandboxStateError('x'),
        CallCancelledError('x'),
        EngineError('x'),
        UnsupportedError('x'),
        KeyboardInterrupt(),
    ],
)
def test_what_we_could_not_do_passes_through(workspace: FakeWorkspace, error: BaseException) -> None:
    with pytest.raises(type(error)) as caught:
        Returns(error).execute(workspace)

    assert caught.value is error


def test_a_fault_of_the_tool_is_a_result_and_a_warning(
    workspace: FakeWorkspace, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, 'enclave.tools'):
        result = Returns(KeyError('lost')).execute(workspace)

    assert result.status is ExecutionStatus.ERROR
    assert result.error == "KeyError: 'lost'"
    assert result.metadata == {**COMMAND_METADATA, 'exception': 'KeyError'}
    assert caplog.records[0].exc_info is not None


def test_a_fault_without_words_is_named_by_its_type(workspace: FakeWorkspace) -> None:
    assert Returns(AssertionError()).execute(workspace).error == 'AssertionError'


# Classes


def test_names_and_descriptions_have_defaults() -> None:
    class HTTPFetcher2(Returns):
        pass

    assert HTTPFetcher2().name == 'http_fetcher2'
    assert HTTPFetcher2().description == 'Return what it was made with.'
    assert Adder().description == 'Add two numbers.'


def test_words_of_the_instance_win() -> None:
    class Named(Tool):
        name = 'class_name'

        def run(self, workspace: Workspace, arguments: Any) -> None: ...

    tool = Named(name='mine', description='Mine.')

    assert (tool.name, tool.description) == ('mine', 'Mine.')
    assert (Named.name, Named.description) == ('class_name', '')


def test_a_class_that_does_nothing_cannot_be_made() -> None:
    class Empty(Tool):
        pass

    with pytest.raises(TypeError, match=r'Empty must define run\(workspace, arguments\)'):
        Empty()


@pytest.mark.parametrize('role', ['Arguments', 'Options'])
def test_an_undecorated_arguments_class_is_reported_at_once(role: str) -> None:
    class Plain:
        a: int

    with pytest.raises(TypeError, match=f'Wrong.{role} must be an attrs class'):
        type('Wrong', (Tool,), {role: Plain})


def test_a_disabled_tool_does_not_run(workspace: FakeWorkspace) -> None:
    tool = Adder(enabled=False)

    with pytest.raises(ToolNotFoundError, match="'adder' is not enabled"):
        tool.execute(workspace, left=1)


def test_parameters_beside_an_arguments_class_are_refused() -> None:
    with pytest.raises(ConfigurationError, match='parameters would have no effect'):
        Adder(parameters=ToolParams())


def test_a_tool_that_skips_the_constructor_still_works(workspace: FakeWorkspace) -> None:
    @register_tool('bare')
    class Bare(Tool):
        """Bare."""

        def __init__(self) -> None:
            pass

        def run(self, workspace: Workspace, arguments: Any) -> str:
            return 'ok'

    tool = ToolFactory.create_tool('bare')

    assert tool.execute(workspace).output == 'ok'
    assert tool.schema['function']['description'] == 'Bare.'


# Tools written to the older shape


def test_a_documented_tool_with_parameters_and_its_own_execute_works(workspace: FakeWorkspace) -> None:
    @register_tool('greeter')
    class Greeter(Tool):
        def __init__(
            self, name: str = 'greeter', sandbox_type: SandboxType = SandboxType.DOCKER, **kwargs: Any
        ) -> None:
            super().__init__(
                name=name,
                description='Greet.',
                parameters=ToolParams(
                    type='object', properties={'who': {'type': 'string', 'description': 'Whom.'}}, required=['who']
                ),
                **kwargs,
            )
            self.sandbox_type = sandbox_type

        @property
        def required_sandbox_type(self) -> SandboxType:
            return self.sandbox_type

        def execute(self, sandbox_context: Any, **kwargs: Any) -> Any:
            done = sandbox_context.execute_command(['echo', f'hello {kwargs["who"]}'])
            return ToolResult(tool_name=self.name, status=ExecutionStatus.SUCCESS, output=done.stdout)

    tool = ToolFactory.create_tool('greeter')

    assert tool.execute(workspace, who='you').output == 'hello you\n'
    assert tool.required_sandbox_type is SandboxType.DOCKER
    assert tool.schema['function']['parameters']['required'] == ['who']
    with pytest.raises(ToolArgumentsError, match='who is required and missing'):
        tool.execute(workspace)
    with pytest.raises(ToolArgumentsError, match="unknown key 'woh'"):
        tool.execute(workspace, who='a', woh='b')
    with pytest.raises(ConfigurationError, match='takes no options'):
        ToolFactory.create_tool('greeter', speed=3)


def test_an_own_execute_follows_the_same_rules(workspace: FakeWorkspace) -> None:
    class Own(Tool):
        def execute(self, sandbox_context: Any, code: str, repeat: int = 1) -> Any:
            if code == 'fail':
                raise RuntimeError('broken')
            if code == 'gone':
                raise SandboxGoneError('gone')
            return code * repeat

    tool = Own()

    assert tool.execute(workspace, code='ab', repeat=2).output == 'abab'
    assert tool.execute(workspace, code='fail').error == 'RuntimeError: broken'
    with pytest.raises(SandboxGoneError):
        tool.execute(workspace, code='gone')
    with pytest.raises(ToolArgumentsError, match="missing a required argument: 'code'"):
        tool.execute(workspace)
    with pytest.raises(ToolArgumentsError, match='oops'):
        tool.execute(workspace, code='', oops=1)


def test_an_own_execute_may_call_the_one_above(workspace: FakeWorkspace) -> None:
    class Doubler(Adder):
        def execute(self, workspace: Workspace, /, **parameters: Any) -> ToolResult:
            return super().execute(workspace, left=2 * parameters['left'], right=0)

    assert Doubler().execute(workspace, left=4).output == 8
    with pytest.raises(ToolArgumentsError, match='left is required'):
        Doubler().execute(workspace)


def test_a_coroutine_execute_is_left_for_the_async_faces() -> None:
    class Async(Tool):
        async def execute(self, sandbox_context: Any, **kwargs: Any) -> str:  # type: ignore[override]
            return 'x'

    coroutine: Any = Async().execute(None)

    with pytest.raises(StopIteration) as stopped:
        coroutine.send(None)
    assert stopped.value.value == 'x'


def test_underscored_class_attributes_are_honoured(workspace: FakeWorkspace) -> None:
    @register_tool('old_tool')
    class Old(SandboxTool):
        _name = 'old_tool'
        _sandbox_type = SandboxType.DOCKER_NOTEBOOK
        _description = 'Old.'
        _parameters = ToolParams(properties={'a': {'type': 'integer'}})

        def run(self, workspace: Workspace, arguments: Any) -> Any:
            return arguments

    tool = ToolFactory.create_tool('old_tool')

    assert (tool.name, tool.description) == ('old_tool', 'Old.')
    assert tool.required_sandbox_type is SandboxType.DOCKER_NOTEBOOK
    assert tool.execute(workspace, a=1).output == {'a': 1}


def test_the_sandbox_type_can_be_given(workspace: FakeWorkspace) -> None:
    assert Adder(sandbox_type='docker').required_sandbox_type is SandboxType.DOCKER
    assert Adder().required_sandbox_type is None


# Commands


def ended(**fields: Any) -> CommandResult:
    return CommandResult(**{'command': 'x', 'status': 'error', 'exit_code': 1, **fields})


@pytest.mark.parametrize(
    ('result', 'error'),
    [
        (ended(status='success', exit_code=0, stderr='warned\n'), None),
        (ended(stderr='broken\n'), 'broken\n'),
        (ended(exit_code=7, stderr=' \n'), 'Command failed with exit code 7'),
        (ended(exit_code=139, signal='SIGSEGV'), 'Killed by SIGSEGV, exit code 139'),
        (ended(exit_code=139, signal='SIGSEGV', stderr='oh'), 'Killed by SIGSEGV, exit code 139\noh'),
        (ended(status='timeout', timed_out=True, exit_code=137, signal='SIGKILL'), 'Timed out after 2.5 seconds'),
        (ended(status='timeout', timed_out=True, stderr='partly'), 'Timed out after 2.5 seconds\npartly'),
        (ended(status='cancelled', exit_code=137, signal='SIGKILL'), 'Cancelled'),
        (
            ended(oom_killed=True, exit_code=137, signal='SIGKILL'),
            'Out of memory: the sandbox reached its memory limit of 64m, exit code 137',
        ),
    ],
)
def test_the_error_says_what_ended_a_command(result: CommandResult, error: str | None) -> None:
    reported = command_result('t', result, timeout=2.5, memory_limit='64m')

    assert reported.error == error
    assert (reported.status, reported.exit_code, reported.output) == (result.status, result.exit_code, result.stdout)


def test_an_unknown_time_limit_is_reported_by_the_time_it_took() -> None:
    result = ended(status='timeout', timed_out=True, execution_time=30.02)

    assert command_result('t', result).error == 'Timed out after 30 seconds'


def test_one_second_is_singular() -> None:
    assert command_result('t', ended(status='timeout', timed_out=True), timeout=1.0).error == 'Timed out after 1 second'


def test_metadata_carries_the_facts_of_a_command() -> None:
    reported = command_result('t', ended(stderr='e', stdout_bytes=9, stderr_bytes=1, stdout_truncated=True))

    assert reported.metadata == {
        'stderr': 'e',
        'signal': None,
        'timed_out': False,
        'oom_killed': False,
        'stdout_bytes': 9,
        'stderr_bytes': 1,
        'stdout_truncated': True,
        'stderr_truncated': False,
        'output_file': None,
        'stderr_file': None,
        'error_code': None,
        'exception': None,
    }
