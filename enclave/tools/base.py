"""What a tool is (layer 3): a name, a typed arguments class, and a `run` over a few workspace verbs.

The whole of a user's tool::

    @register_tool('word_count')
    class WordCount(Tool):
        \"\"\"Count the words of a file.\"\"\"

        @define
        class Arguments:
            path: str

        def run(self, workspace, arguments):
            return workspace.execute_command(['wc', '-w', arguments.path]).stdout.split()[0]

The arguments class is the source of the schema that a model reads and the checker of every call. What `run` returns, or
raises, becomes a `ToolResult` by these rules:

- A `ToolResult` stays as it is, a `CommandResult` is reported as `command_result` says it, None is empty output, and anything
  else is the output of a success, if it has a JSON form.
- `SandboxPathError`, `SandboxPathNotFoundError` and an `InvalidArgumentError` about a working directory or user say what
  the guest's world looks like, so they become results with status ``error``.
- An exception that is not ours is a fault of the tool. It becomes an ``error`` result that names its type, and the
  traceback goes to the log as a warning, so that one bad tool does not end the program that drives the sandbox.
- Every other `EnclaveError` passes through: the sandbox is gone, the engine refused, the call was cancelled. So does
  `ToolArgumentsError`, which `run` may raise where two arguments do not go together.

Tools hold no state of a call, so one instance serves many threads.
"""

from __future__ import annotations

import functools
import inspect
import logging
import re
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, TypeVar

import attrs
from attrs import frozen

from enclave import wire
from enclave.config import check_env, checked
from enclave.enums import ExecutionStatus, SandboxType
from enclave.errors import (
    ConfigurationError,
    EnclaveError,
    InvalidArgumentError,
    SandboxPathError,
    SandboxPathNotFoundError,
    ToolArgumentsError,
    ToolNotFoundError,
)
from enclave.quoting import quoted
from enclave.records import CommandResult, ToolResult, as_sandbox_type, find_source, put_source
from enclave.rulings import Rulings, at_most, inside
from enclave.tools.budget import BudgetedWorkspace, check_max_chars, shorten_result
from enclave.tools.schema import ToolParams, argument, json_schema, signature_text
from enclave.tools.workspace import Workspace

logger = logging.getLogger(__name__)

F = TypeVar('F', bound=Callable[..., Any])

_CAPITAL = re.compile(r'(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])')
_NO_ARGUMENTS = ToolParams()


def _overridable(method: Callable[..., Any]) -> Callable[..., Any]:
    """Return a method as it is; to a checker of types, subclasses may define it with parameters of their own, or ``async``."""
    return method


class Tool:
    """Something that can be run in a sandbox. Subclass it, give it arguments and a `run`, and register it.

    A class without ``Arguments`` may give its schema by worker as ``parameters``, and may override `execute` instead of
    defining `run`; what it returns or raises there is treated by the same rules.

    An instance lives as long as the sandbox it was loaded for.

    Attributes:
        name: What it is called by. Default: the name it is registered under, else the class's name in snake case.
        description: What it does, for the caller that chooses between tools. Default: the first line of the class's docstring.
        Arguments: An attrs class: the arguments of a call. See `enclave.tools.schema.argument` for descriptions and bounds.
        Options: An attrs class: what ``tools_config[name]`` may hold; an instance of it is ``self.options``. A tool without
            one takes no options.
        rulings: A ruling for each option that a client of a server may set; see `enclave.rulings`. What has none may not be set
            there.
        time_limits: Arguments that are limits of time and, where they are left out, not the sandbox's own: what they are then, in
            seconds (None is no limit). A server that has ``max_timeout`` gives them this at most.
        needs: What it needs from a sandbox, of ``'commands'``, ``'files'`` and ``'notebook'``.
        enabled: A tool that is not enabled is not loaded.
        parameters: A schema written by hand, where there is no arguments class.
        metadata: What the metadata of every result holds, whatever became of the call, with default values. That of a failure
            holds `COMMAND_METADATA` too, whatever stopped the call.
    """

    name: str = ''
    description: str = ''
    Arguments: ClassVar[type[Any] | None] = None
    Options: ClassVar[type[Any] | None] = None
    rulings: ClassVar[Rulings | None] = None
    time_limits: ClassVar[Mapping[str, float | None]] = {}
    needs: frozenset[str] = frozenset()
    enabled: bool = True
    parameters: ToolParams | None = None
    options: Any = None
    metadata: Mapping[str, Any] = MappingProxyType({})

    # The same four under the names that older tools give them as class attributes.
    _name: str | None = None
    _description: str | None = None
    _parameters: ToolParams | None = None
    _sandbox_type: SandboxType | str | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for role in ('Arguments', 'Options'):
            kind = cls.__dict__.get(role)
            if kind is not None and not attrs.has(kind):
                raise TypeError(f'{cls.__name__}.{role} must be an attrs class: write @attrs.define above it')
        execute = cls.__dict__.get('execute')
        if inspect.isfunction(execute) and not inspect.iscoroutinefunction(execute):
            cls.execute = _guarded(execute)  # type: ignore[method-assign]

    def __init__(
        self,
        name: str | None = None,
        description: str | None = None,
        parameters: ToolParams | Mapping[str, Any] | None = None,
        enabled: bool = True,
        *,
        sandbox_type: SandboxType | str | None = None,
        **options: Any,
    ) -> None:
        """Make a tool.

        Args:
            name: Instead of the class's name.
            description: Instead of the class's description.
            parameters: Instead of the class's hand-written schema.
            enabled: Whether it may be loaded.
            sandbox_type: Instead of the class's required sandbox type.
            options: What ``tools_config[name]`` holds.

        Raises:
            ConfigurationError: An option is unknown, or its value is of a wrong type or impossible.
        """
        cls = type(self)
        if cls.run is Tool.run and cls.execute is Tool.execute:
            raise TypeError(f'{cls.__name__} must define run(workspace, arguments)')
        self.name = name or cls.name or cls._name or _CAPITAL.sub('_', cls.__name__).lower()
        self.description = description or cls.description or cls._description or _first_line(cls)
        if parameters is not None and cls.Arguments is not None:
            raise ConfigurationError(f'tool {self.name!r} has an arguments class; parameters would have no effect')
        given = parameters or cls.parameters or cls._parameters
        self.parameters = ToolParams(**given) if isinstance(given, Mapping) else given
        if not isinstance(enabled, bool):
            raise ConfigurationError(f'tool {self.name!r}: enabled must be True or False, not {quoted(enabled)}')
        self.enabled = enabled and cls.enabled
        if sandbox_type is not None:
            self._sandbox_type = as_sandbox_type(sandbox_type)
        self.options = self._check_options(options)

    def __repr__(self) -> str:
        return f'<{type(self).__name__} {self.name!r}>'

    @property
    def required_sandbox_type(self) -> SandboxType | str | None:
        """The kind of sandbox it is for; None fits every kind that offers what it needs.

        `SandboxType.DOCKER` means every general-purpose sandbox, that is every kind but those of notebooks, which load
        their own tools only, and `SandboxType.DOCKER_NOTEBOOK` for every kind of those.
        """
        return self._sandbox_type

    @property
    def schema(self) -> dict[str, Any]:
        """The tool as an OpenAI-style function.

        ``{'type': 'function', 'function': {'name': ..., 'description': ..., 'parameters': JSON schema}}``.
        """
        description = self.description or _first_line(type(self))  # a subclass's __init__ may not call ours
        function = {'name': self.name, 'description': description, 'parameters': self._parameters_schema()}
        return {'type': 'function', 'function': function}

    @_overridable
    def execute(self, workspace: Workspace, /, **parameters: Any) -> ToolResult:
        """Check the arguments of a call, run it in a workspace, and report what became of it.

        With an asynchronous proxy of a sandbox in the place of the workspace, this gives what is to be awaited.

        Raises:
            ToolArgumentsError: Arguments are missing, surplus or of a wrong type; the message names each and says what
                the tool takes.
            EnclaveError: The call could not be made at all; see the rules of this module.
        """
        lift = getattr(type(workspace), '_tool_to_async', None)
        if lift is not None:  # an asynchronous proxy of a sandbox: what it makes of this call is to be awaited
            awaited: ToolResult = lift(workspace, functools.partial(Tool.execute, self), parameters)
            return awaited
        self._check_enabled()
        arguments = self.check_arguments(parameters)
        if inspect.iscoroutinefunction(self.run):
            return self._reported(functools.partial(_drive, self.run, workspace, arguments), workspace)
        return self._reported(functools.partial(self.run, workspace, arguments), workspace)

    @_overridable
    def run(self, workspace: Workspace, arguments: Any) -> Any:
        """Do the work. To be defined by subclasses.

        Args:
            workspace: The verbs of the sandbox.
            arguments: An instance of ``Arguments``; without such a class, a dict of the arguments.

        Returns:
            A `ToolResult`, a `CommandResult`, text, or anything else that has a JSON form.
        """
        raise NotImplementedError(f'{type(self).__name__} must define run(workspace, arguments)')

    def check_arguments(self, parameters: Mapping[str, Any]) -> Any:
        """Return the arguments of a call as `run` gets them.

        Raises:
            ToolArgumentsError: Arguments are missing, surplus or of a wrong type.
        """
        if self.Arguments is not None:
            try:
                return wire.decode(dict(parameters), self.Arguments, error=ToolArgumentsError)
            except ToolArgumentsError as error:
                problems = error.details['problems']
        else:
            known = self.parameters
            if known is None and type(self).execute is not Tool.execute:
                return dict(parameters)  # its own signature is all there is to check against
            problems = (known or _NO_ARGUMENTS).problems(parameters)
            if not problems:
                return dict(parameters)
        raise self.arguments_error(*problems)

    def arguments_error(self, *problems: str) -> ToolArgumentsError:
        """Return the error for a call with these problems; its message ends by saying what the tool takes."""
        return ToolArgumentsError(
            f'{self.name}: {"; ".join(problems)}. It takes {signature_text(self._parameters_schema())}.',
            details={'tool_name': self.name, 'problems': list(problems)},
        )

    def success(self, output: Any = '', **metadata: Any) -> ToolResult:
        """Return a successful result."""
        return ToolResult(tool_name=self.name, status=ExecutionStatus.SUCCESS, output=output, metadata=metadata)

    def failure(self, error: str, **metadata: Any) -> ToolResult:
        """Return a result that says what went wrong."""
        return ToolResult(tool_name=self.name, status=ExecutionStatus.ERROR, error=error, metadata=metadata)

    def _parameters_schema(self) -> dict[str, Any]:
        if self.Arguments is not None:
            made = json_schema(self.Arguments)
            made.pop('description', None)
            return made
        if self.parameters is not None:
            return {**self.parameters.model_dump(), 'additionalProperties': False}
        closed = {} if type(self).execute is not Tool.execute else {'additionalProperties': False}
        return {'type': 'object', 'properties': {}, 'required': [], **closed}

    def _check_options(self, options: Mapping[str, Any]) -> Any:
        if self.Options is not None:
            return wire.decode(dict(options), self.Options, error=ConfigurationError, what=f'options of {self.name!r}')
        if options:
            names = ', '.join(repr(name) for name in options)
            raise ConfigurationError(f'options of {self.name!r}: unknown key {names}; this tool takes no options')
        return None

    def _check_enabled(self) -> None:
        if not self.enabled:
            raise ToolNotFoundError(f'the tool {self.name!r} is not enabled')

    def _check_own(self, signature: inspect.Signature, first: tuple[Any, ...], parameters: Mapping[str, Any]) -> None:
        """Check a call of an `execute` that is not ours; ``first`` are its positional arguments."""
        self._check_enabled()
        self.check_arguments(parameters)
        try:
            signature.bind(*first, **parameters)
        except TypeError as error:
            raise self.arguments_error(str(error)) from None

    def _reported(self, call: Callable[[], Any], workspace: Workspace) -> ToolResult:
        """Make ``call`` and return what became of it, by the rules of this module."""
        started = time.perf_counter()
        try:
            result = self._as_result(call(), workspace)
        except ToolArgumentsError:
            raise
        except (SandboxPathNotFoundError, SandboxPathError, InvalidArgumentError) as error:
            result = self.failure(error.message, error_code=error.code)
        except EnclaveError:
            raise
        except Exception as error:
            logger.warning('tool %s failed', self.name, exc_info=True)
            kind = type(error).__name__
            result = self.failure(f'{kind}: {error}' if str(error) else kind, exception=kind)
        if result.execution_time is None:
            result = attrs.evolve(result, execution_time=time.perf_counter() - started)
        expected = self.metadata if result.success else {**COMMAND_METADATA, **self.metadata}
        if expected.keys() - result.metadata.keys():
            result = attrs.evolve(result, metadata={**expected, **result.metadata})
        return result

    def _as_result(self, value: Any, workspace: Workspace) -> ToolResult:
        if isinstance(value, ToolResult):
            return value
        if isinstance(value, CommandResult):
            return command_result(self.name, value, memory_limit=memory_limit_of(workspace))
        if value is None or isinstance(value, str):
            return self.success(value or '')
        try:
            return self.success(wire.from_json(wire.to_json(value)))
        except InvalidArgumentError as error:
            return self.failure(
                f'{self.name} returned a {type(value).__name__} that has no JSON form: {error.message}',
                error_code=error.code,
            )


SandboxTool = Tool
"""The name older tools subclass; their ``_name``, ``_description``, ``_parameters`` and ``_sandbox_type`` are honoured."""


def _first_line(cls: type[Tool]) -> str:
    for each in cls.__mro__:
        if each is Tool:
            break
        if each.__doc__ and each.__doc__.strip():
            return inspect.cleandoc(each.__doc__).split('\n')[0].strip()
    return ''


def _guarded(execute: F) -> F:
    """Return a user's own `execute` with the checks and the reporting that ours has.

    Coroutine functions are left alone: they are their author's to await, and `call_tool` knows how to drive them.
    """
    signature = inspect.signature(execute)

    @functools.wraps(execute)
    def guarded(self: Tool, workspace: Workspace, /, **parameters: Any) -> ToolResult:
        lift = getattr(type(workspace), '_tool_to_async', None)
        if lift is not None:
            awaited: ToolResult = lift(workspace, functools.partial(guarded, self), parameters)
            return awaited
        self._check_own(signature, (self, workspace), parameters)
        return self._reported(lambda: execute(self, workspace, **parameters), workspace)

    return guarded  # type: ignore[return-value]


def call_tool(
    tool: Tool, workspace: Workspace, parameters: Mapping[str, Any], *, max_chars: int | None = None
) -> ToolResult:
    """Run a tool in a workspace: the one way a sandbox does it, whether the tool's own `execute` is sync or async.

    A coroutine function is given an asynchronous proxy of the workspace, and driven; see `enclave.portal`.

    Args:
        max_chars: A budget for ``output`` and ``error`` each; None takes the tool's own option ``max_chars``, if it has one.

    Raises:
        ToolArgumentsError, EnclaveError: As for `Tool.execute`.
    """
    if max_chars is not None:
        check_max_chars(max_chars)
    budget: int | None = getattr(tool.options, 'max_chars', None) if max_chars is None else max_chars
    is_async = inspect.iscoroutinefunction(tool.execute)
    place: Any = workspace
    if budget is not None and not is_async and not inspect.iscoroutinefunction(tool.run):
        place = BudgetedWorkspace(workspace, budget)
    if is_async:
        tool._check_own(inspect.signature(tool.execute), (place,), parameters)
        result = tool._reported(lambda: _drive(tool.execute, place, **parameters), place)
    else:
        result = tool.execute(place, **parameters)
    return result if budget is None else shorten_result(workspace, result, budget)


def _drive(function: Callable[..., Any], workspace: Workspace, *args: Any, **parameters: Any) -> Any:
    from enclave.portal import drive_tool  # asyncio is slow to import, and most tools do not need it

    return drive_tool(function, workspace, *args, **parameters)


# Options and rulings that tools share ---------------------------------------------------------------------------------


@frozen(kw_only=True)
class OutputOptions:
    """Options of a tool that runs something and returns what it prints.

    Attributes:
        timeout: Seconds a call may take unless it says otherwise; 0 for no limit. Default is the sandbox's.
        max_output_bytes: Cap on each of stdout and stderr. Default is the sandbox's.
        max_chars: Characters of ``output``, and of ``error``, that a result has at most: head and tail, with the whole
            kept in a file of the sandbox that ``metadata`` names. Default is no such budget.
    """

    timeout: float | None = argument(default=None, minimum=0)
    max_output_bytes: int | None = argument(default=None, minimum=1)
    max_chars: int | None = argument(default=None, minimum=1)


OUTPUT_RULINGS = {
    'timeout': at_most('max_timeout', none_is_less=True),
    'max_output_bytes': at_most('max_output_bytes', none_is_less=True),
    'max_chars': inside(),
}
"""What a policy says of `OutputOptions`."""


def cwd_argument() -> Any:
    """Return the argument that names a directory to run in."""
    return argument(default=None, description="Directory to run in. Default is the sandbox's.")


def env_argument() -> Any:
    """Return the argument that adds environment variables."""
    return argument(
        default=None,
        description="Environment variables, added to the sandbox's.",
        validator=attrs.validators.optional(checked(check_env)),
    )


# Commands -------------------------------------------------------------------------------------------------------------

COMMAND_METADATA: dict[str, Any] = {
    'stderr': '',
    'signal': None,
    'timed_out': False,
    'oom_killed': False,
    'stdout_bytes': 0,
    'stderr_bytes': 0,
    'stdout_truncated': False,
    'stderr_truncated': False,
    'output_file': None,
    'stderr_file': None,
    'error_code': None,
    'exception': None,
}
"""What the metadata of every result of a tool that runs a command holds, and of every failure of any tool, with the values of one
that ran nothing. ``*_file`` is the path in the sandbox of a file with the whole of what was shortened to a budget of characters;
``error_code`` is the code of this library's error that refused or ended the call (see `enclave.errors`), ``exception`` the class
of what a tool's own code raised. Both are None where it was the program that failed."""


def command_result(
    tool_name: str, result: CommandResult, *, timeout: float | None = None, memory_limit: str | int | None = None
) -> ToolResult:
    """Report a command's end as a tool's result.

    ``output`` is its stdout. ``error`` is None on success; otherwise its stderr, after a line that says what ended it when
    that was not the program itself; where there is no stderr, a sentence ending in ``exit code N``. ``metadata`` holds
    the keys of `COMMAND_METADATA`.

    Args:
        timeout: The call's time limit in seconds, for the message; None where only the sandbox knows it.
        memory_limit: The sandbox's, for the message.
    """
    source = find_source(result, 'stdout')
    reported = ToolResult(
        tool_name=tool_name,
        status=result.status,
        output=result.stdout if source is None else '',
        error=None if result.success else _error_text(result, timeout, memory_limit),
        exit_code=result.exit_code,
        execution_time=result.execution_time,
        metadata={
            **COMMAND_METADATA,
            'stderr': result.stderr,
            'signal': result.signal,
            'timed_out': result.timed_out,
            'oom_killed': result.oom_killed,
            'stdout_bytes': result.stdout_bytes,
            'stderr_bytes': result.stderr_bytes,
            'stdout_truncated': result.stdout_truncated,
            'stderr_truncated': result.stderr_truncated,
            'output_file': result.stdout_file,
            'stderr_file': result.stderr_file,
        },
    )
    if source is not None:
        put_source(reported, output=source)
    return reported


def _error_text(result: CommandResult, timeout: float | None, memory_limit: str | int | None) -> str:
    stderr = result.stderr if result.stderr.strip() else ''
    if result.timed_out or result.status is ExecutionStatus.TIMEOUT:
        seconds = f'{timeout or round(result.execution_time, 1):g}'
        cause = f'Timed out after {seconds} second{"" if seconds == "1" else "s"}'
    elif result.status is ExecutionStatus.CANCELLED:
        cause = 'Cancelled'
    elif result.oom_killed:
        limit = f' of {memory_limit}' if memory_limit else ''
        cause = f'Out of memory: the sandbox reached its memory limit{limit}, exit code {result.exit_code}'
    elif result.signal is not None:
        cause = f'Killed by {result.signal}, exit code {result.exit_code}'
    else:
        return stderr or f'Command failed with exit code {result.exit_code}'
    return f'{cause}\n{stderr}' if stderr else cause


def given(**options: Any) -> dict[str, Any]:
    """Return the options that are not None. A sandbox of a user's own need not know those that nobody asked for."""
    return {name: value for name, value in options.items() if value is not None}


def memory_limit_of(workspace: Workspace) -> str | int | None:
    """Return the memory limit a workspace's configuration names, if it has one; only messages use it."""
    limit: str | int | None = getattr(getattr(workspace, 'config', None), 'memory_limit', None)
    return limit
