"""What a sandbox is (layer 4): an identity, a life, and tools.

`Sandbox` holds what every backend shares and what a user's own backend must fill in. What a backend that runs an agent can
do beyond that is `enclave.sandboxes.agent_backed`.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import os
import re
import threading
import time
import uuid
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import attrs

from enclave.cancellation import if_unwanted
from enclave.config import GivenConfig, SandboxConfig
from enclave.enums import NOTEBOOK_TYPES, SandboxStatus, SandboxType
from enclave.errors import (
    EnclaveError,
    EngineUnavailableError,
    InvalidArgumentError,
    SandboxGoneError,
    SandboxStateError,
    ToolNotFoundError,
    UnsupportedError,
)
from enclave.languages.runner import SandboxRunner
from enclave.languages.running import run_program
from enclave.languages.values import (
    CodeRequest,
    CodeResult,
    Program,
    as_request,
    make_request,
)
from enclave.parallel import Batch, Outcomes
from enclave.quoting import quoted
from enclave.records import CommandResult, SandboxInfo, ToolResult, as_sandbox_type, utc_now
from enclave.sandboxes.call_options import CodeOptions, CommandOptions, ScriptOptions, Unpack
from enclave.sandboxes.operations import Pending
from enclave.suggest import suggest
from enclave.tools.base import Tool, call_tool
from enclave.tools.budget import check_max_chars, shorten_command
from enclave.tools.calls import DEFAULT_MAX_CHARS, SchemaForm, ToolCall, as_messages, parse_calls, tool_schemas
from enclave.tools.tool_factory import ToolFactory, load_tools
from enclave.verb_requests import Request

logger = logging.getLogger(__name__)

R = TypeVar('R')
S = TypeVar('S', bound='Sandbox')

_ID = re.compile(r'[a-zA-Z0-9][a-zA-Z0-9_.-]{0,62}')
USABLE = frozenset((SandboxStatus.RUNNING, SandboxStatus.IDLE, SandboxStatus.BUSY))
"""The states in which a sandbox takes calls."""


def check_callbacks(on_stdout: object, on_stderr: object) -> None:
    """Check what is to be called with output.

    Raises:
        InvalidArgumentError: One cannot be called.
    """
    for name, callback in (('on_stdout', on_stdout), ('on_stderr', on_stderr)):
        if callback is not None and not callable(callback):
            raise InvalidArgumentError(f'{name} must be a function of a text, not {quoted(callback)}')


def check_sandbox_id(sandbox_id: Any) -> None:
    """Check an id that a sandbox is to have; None has one made.

    Raises:
        InvalidArgumentError: It cannot be used.
    """
    if sandbox_id is not None and (not isinstance(sandbox_id, str) or not _ID.fullmatch(sandbox_id)):
        raise InvalidArgumentError(
            f'sandbox_id must be 1 to 63 letters, digits, ".", "_" or "-", beginning with a letter or digit; '
            f'not {quoted(sandbox_id)}'
        )


def make_sandbox_id() -> str:
    """Return a new id: twelve hexadecimal digits."""
    return uuid.uuid4().hex[:12]


_KERNEL_VERBS = frozenset(
    {'create_kernel', 'execute_cell', 'list_kernels', 'list_variables', 'restart_kernel', 'stream_cell'}
)


class Sandbox(ABC):
    """One sandbox, from `start` to `stop`. Use it as a context manager, or call the two yourself.

    Making the object connects nothing and starts nothing. Any thread may use a running sandbox, many at once, but no other
    process: a forked child has copies of its connections and none of the threads that serve them, so there every use and its
    end are refused, and leaving a ``with`` block leaves it to the parent. A sandbox that is forgotten without `stop` is reported
    by a `ResourceWarning`.

    A backend of your own subclasses this, defines ``_start``, ``_stop`` and `execute_command`, and is registered with
    `register_sandbox`.

    Attributes:
        id: Its name, given or made.
        config: The checked configuration.
        created_at, started_at: Aware UTC times; ``started_at`` is None before the first start.
        metadata: What the backend knows of itself, for `get_info`.
        labels: What the one that made it calls it, for `get_info` and to find it again; see `SandboxManager.list_sandboxes`.
        error: Why the status is ``error``.
        tenant: Whose it is; one that is kept is taken up again by the same tenant only. None is the host's own.
        used_at: When a call last began, on the monotonic clock; 0.0 before the first.
    """

    sandbox_type: ClassVar[SandboxType | str] = SandboxType.DUMMY
    config_class: ClassVar[type[SandboxConfig]] = SandboxConfig
    offers: ClassVar[frozenset[str]] = frozenset({'commands'})

    def __init__(self, config: GivenConfig = None, sandbox_id: str | None = None) -> None:
        """Check the configuration and load the tools it names.

        Raises:
            ConfigurationError: The configuration is wrong; the message names the field.
            ToolNotFoundError: It names a tool that does not exist.
            InvalidArgumentError: The id cannot be used.
        """
        check_sandbox_id(sandbox_id)
        self.id: str = sandbox_id or make_sandbox_id()
        self.config = self._check_config(config)
        self.created_at: datetime = utc_now()
        self.started_at: datetime | None = None
        self.metadata: dict[str, Any] = {}
        self.labels: dict[str, str] = {}
        self.error: str | None = None
        self.tenant: str | None = None
        self.used_at = 0.0
        self._changed = threading.Condition()  # guards _status and _moving
        self._status = SandboxStatus.INITIALIZING
        self._moving = False  # a thread is starting or stopping it
        self._is_wanted = False  # somebody else who called `start` has learnt that it runs
        self._pid: int | None = None  # which process started it, until it is stopped
        self._before_pause = SandboxStatus.RUNNING  # what it is again when it is resumed
        self._on_pause: Callable[[bool], None] | None = None  # learns of each pause (True) and resumption (False)
        self._tools = self._load_tools()

    if not TYPE_CHECKING:  # a type checker would take any name for one that is here

        def __getattr__(self, name: str) -> Any:
            """Refuse a name that there is not; one of the verbs of kernels says which sandboxes have kernels."""
            hint = ''
            if name in _KERNEL_VERBS:
                hint = f'; sandboxes of the types {" and ".join(NOTEBOOK_TYPES)} have kernels'
            raise AttributeError(f'{type(self).__name__!r} object has no attribute {name!r}{hint}', name=name, obj=self)

    @classmethod
    def _check_config(cls, config: GivenConfig) -> Any:
        if isinstance(config, SandboxConfig) and not isinstance(config, cls.config_class):
            # Another kind's configuration carries over as far as its options are known here.
            config = config.non_default_options()
        return cls.config_class.model_validate(config)

    def _load_tools(self) -> dict[str, Tool]:
        return load_tools(
            self.config.tools_config,
            self.sandbox_type,
            self.offers,
            is_notebook='notebook' in self.offers,
            loads_all=self._loads_all_tools(),
        )

    def _loads_all_tools(self) -> bool:
        """Return whether a notebook sandbox loads the tools for general-purpose sandboxes too."""
        return False

    # Life -------------------------------------------------------------------------------------------------------------

    @property
    def status(self) -> SandboxStatus:
        """Where it is in its life, looked at afresh: a sandbox that died shows ``error``."""
        status = self._status  # one reading, which needs no lock: each call asks, twice
        if status in USABLE or status is SandboxStatus.PAUSED:
            problem = self._find_problem()
            if problem is not None:
                self._fail(problem)
                return SandboxStatus.ERROR
        return status

    def set_status(self, status: SandboxStatus) -> None:
        """Mark a usable sandbox as ``idle`` or ``busy`` (states of a pool) or ``running``; any other state stays."""
        with self._changed:
            if self._status in USABLE and status in USABLE:
                self._status = status

    def start(self) -> None:
        """Start it; a running sandbox is left as it is.

        Raises:
            SandboxStartError: It could not be started, and nothing of it is left. `ImageNotFoundError` is one.
            EngineUnavailableError: Its backend does not answer.
            SandboxStateError: It is another process's, which this one was forked from.
        """
        self._check_process()
        with self._changed:
            self._changed.wait_for(lambda: not self._moving)
            if self._status in USABLE:
                self._is_wanted = True
                return
            if self._status is SandboxStatus.PAUSED:
                raise SandboxStateError(
                    f'sandbox {self.id} is paused; resume() it', details={'sandbox_id': self.id, 'status': 'paused'}
                )
            self._moving, self._is_wanted = True, False
            self._pid = os.getpid()
            self._status = SandboxStatus.INITIALIZING
            self.error = None
        try:
            self._start()
        except BaseException as error:
            self._pid = None
            self._arrive(SandboxStatus.ERROR, str(error))
            if isinstance(error, EngineUnavailableError):
                # The first thing that many a reader sees of this library: what to do, and not thirty lines of how we asked.
                raise error.with_traceback(None) from None
            raise
        self.started_at = utc_now()
        self._arrive(SandboxStatus.RUNNING)
        logger.info('sandbox %s started', self.id, extra={'enclave_sandbox': self.id})
        if_unwanted(self._stop_unwanted)

    def _stop_unwanted(self) -> None:
        with self._changed:
            if self._is_wanted:
                return
        self.stop()

    def stop(self) -> None:
        """Stop it, and take everything away unless ``remove_on_exit`` is False. May be called twice and at any stage.

        What still runs is asked to end and gets at most a second for it.

        Raises:
            SandboxStateError: It is another process's, which this one was forked from.
        """
        self._end(keep=not self.config.remove_on_exit)

    def cleanup(self) -> None:
        """Stop it and take everything away, also what ``remove_on_exit=False`` had kept."""
        self._end(keep=False)

    def pause(self) -> None:
        """Keep all that is in it from running until `resume`: processes, memory, files and connections stay as they are.

        It takes no calls meanwhile (`SandboxStateError`) and needs no processor, but keeps its memory. The time limits of calls
        that run continue: a call whose time is over ends when it is resumed. Does nothing if it is paused.

        Raises:
            UnsupportedError: This kind of sandbox cannot be paused, or not on this machine.
            SandboxStateError, SandboxGoneError: It does not run.
            SandboxError: It could not be paused; it continues.
            EngineUnavailableError: Its backend does not answer.
        """
        self._move_between(SandboxStatus.PAUSED)

    def resume(self) -> None:
        """Let what `pause` has stopped continue where it was. Does nothing if it runs.

        Raises:
            SandboxStateError, SandboxGoneError: It neither runs nor is paused.
            EngineUnavailableError: Its backend does not answer; it stays paused.
        """
        self._move_between(SandboxStatus.RUNNING)

    @property
    def can_be_paused(self) -> bool:
        """Whether this kind of sandbox can be paused at all."""
        return type(self)._pause is not Sandbox._pause

    def _move_between(self, wanted: SandboxStatus) -> None:
        """Pause it, or resume it, unless that was done before."""
        pausing = wanted is SandboxStatus.PAUSED
        self._check_process()
        with self._changed:
            self._changed.wait_for(lambda: not self._moving)
            was = self._status
            if (was is wanted) if pausing else (was in USABLE):
                return
            is_possible = was in USABLE if pausing else was is SandboxStatus.PAUSED
            self._moving = is_possible
        if not is_possible:
            self._check_usable()  # which says what is to be said about that
            raise SandboxStateError(f'sandbox {self.id} is {was}, not running', details={'sandbox_id': self.id})
        if pausing:
            self._before_pause = was
        try:
            self._pause() if pausing else self._resume()
        except BaseException:
            self._arrive(was)
            raise
        self._arrive(wanted if pausing else self._before_pause)
        logger.info('sandbox %s %s', self.id, 'paused' if pausing else 'resumed', extra={'enclave_sandbox': self.id})
        if self._on_pause is not None:
            self._on_pause(pausing)

    def _end(self, *, keep: bool) -> None:
        self._check_process()
        with self._changed:
            self._changed.wait_for(lambda: not self._moving)
            was = self._status
            if not self._has_remains(keep=keep):
                if was is not SandboxStatus.ERROR:
                    self._status = SandboxStatus.STOPPED
                return
            self._moving = True
            self._status = SandboxStatus.STOPPING
        try:
            if was is SandboxStatus.PAUSED:
                self._let_go_on()
            self._stop(keep=keep)
        except BaseException as error:
            self._arrive(SandboxStatus.ERROR, str(error))
            raise
        self._pid = None
        self._arrive(SandboxStatus.STOPPED)
        logger.info('sandbox %s stopped', self.id, extra={'enclave_sandbox': self.id})

    def _let_go_on(self) -> None:
        """Resume what is about to be stopped, or it could not end by itself. What cannot be resumed is killed as it is."""
        try:
            self._resume()
        except EnclaveError as error:
            logger.debug('sandbox %s could not be resumed before its end: %s', self.id, error)

    def _arrive(self, status: SandboxStatus, error: str | None = None) -> None:
        """Leave the state of moving; those that wait to start or stop it continue."""
        with self._changed:
            self._status = status
            if error is not None:
                self.error = error
            self._moving = False
            self._changed.notify_all()

    def _fail(self, problem: str) -> None:
        with self._changed:
            if self._status in USABLE or self._status is SandboxStatus.PAUSED:
                self._status = SandboxStatus.ERROR
                self.error = problem
                logger.warning('sandbox %s is lost: %s', self.id, problem, extra={'enclave_sandbox': self.id})

    def _is_another_process(self) -> bool:
        return self._pid not in (None, os.getpid())

    def _check_process(self) -> None:
        if self._pid is not None and self._pid != os.getpid():
            raise SandboxStateError(
                f'sandbox {self.id} was started by process {self._pid}, which this process was forked from; only that one '
                'can use it. Make another here',
                details={'sandbox_id': self.id},
            )

    def _check_usable(self) -> None:
        self._check_process()
        status = self.status
        if status in USABLE:
            self.used_at = time.monotonic()
            return
        if status is SandboxStatus.ERROR and self.started_at is not None:
            raise SandboxGoneError(
                f'sandbox {self.id} is lost: {self.error}', details={'sandbox_id': self.id, 'status': str(status)}
            )
        hint = 'call start() or use it in a with block' if self.started_at is None else 'make a new one, or start() it'
        if status is SandboxStatus.PAUSED:
            hint = 'resume() it first'
        raise SandboxStateError(
            f'sandbox {self.id} is {status}, not running; {hint}',
            details={'sandbox_id': self.id, 'status': str(status)},
        )

    # For backends -----------------------------------------------------------------------------------------------------

    @abstractmethod
    def _start(self) -> None:
        """Start it, or raise and leave nothing behind."""

    @abstractmethod
    def _stop(self, *, keep: bool) -> None:
        """Stop what runs; unless ``keep``, take everything away. Called at most once at a time."""

    def _pause(self) -> None:
        """Keep all its processes from running, or raise and leave them running."""
        raise UnsupportedError(
            f'sandbox {self.id}, a {type(self).__name__}, cannot be paused; let it run, or stop it',
            details={'sandbox_id': self.id},
        )

    def _resume(self) -> None:  # noqa: B027 - what cannot be paused need not be resumed
        """Undo `_pause`."""

    def _has_remains(self, *, keep: bool) -> bool:
        """Return whether there is anything for `_stop` to do. Called with the lock held; must not block."""
        return (
            self._status in USABLE
            or self._status is SandboxStatus.PAUSED
            or (self._status is SandboxStatus.ERROR and self.started_at is not None)
        )

    def _find_problem(self) -> str | None:
        """Return why a sandbox that should run does not, or None. Quick while all is well: only what is known to be lost may
        be asked about. Called without a lock, by any thread."""
        return None

    def _clean(self) -> None:
        """Make ready for another user: end what calls have left running.

        Raises:
            EnclaveError: That could not be done, so the sandbox is not to be lent again.
        """
        return None

    def _begin_clean(self) -> Pending[None]:
        """Begin `_clean`, and return as soon as others may take over; a kind that cannot does all of it before."""
        self._clean()
        return Pending.done(None)

    def _changeable_places(self) -> tuple[str, ...] | None:
        """Return every directory that is empty at the start and that programs in it can change; None if that can be anything
        else too, so that only a new sandbox is as new."""
        return None

    def is_alive(self) -> bool:
        """Ask the sandbox itself whether it works; slower than `status`, which only knows what was noticed."""
        return self.status in USABLE

    @property
    def active_calls(self) -> int:
        """How many calls are running."""
        return 0

    def get_info(self) -> SandboxInfo:
        """Return what can be said of it; values of environment variables are never shown."""
        status = self.status
        return SandboxInfo(
            id=self.id,
            type=as_sandbox_type(self.sandbox_type),
            status=status,
            config=self.config.redacted(),
            created_at=self.created_at,
            started_at=self.started_at,
            available_tools=self.list_tools(),
            active_calls=self.active_calls,
            error=self.error if status is SandboxStatus.ERROR else None,
            metadata=dict(self.metadata),
            offers=sorted(self.offers),
            labels=dict(self.labels),
        )

    # Tools ------------------------------------------------------------------------------------------------------------

    def execute_tool(
        self, tool_name: str, parameters: Mapping[str, Any] | None = None, *, max_chars: int | None = None
    ) -> ToolResult:
        """Run a tool.

        Args:
            parameters: The tool's arguments; see its schema.
            max_chars: How many characters ``output``, and ``error``, may have: of what is longer, head and tail are given, and
                the whole is kept in a file of the sandbox, which the text and ``metadata['output_file']`` name. None takes the
                option ``max_chars`` of the tool in ``tools_config``; without that there is no such limit.

        Raises:
            ToolNotFoundError: The sandbox has no such tool; the message names those it has.
            ToolArgumentsError: The arguments are missing, surplus or of a wrong type.
            SandboxStateError, SandboxGoneError: The sandbox does not run.
        """
        tool = self.get_tool(tool_name)
        if parameters is not None and not isinstance(parameters, Mapping):
            raise tool.arguments_error(f'the parameters must be a dict of arguments, not {quoted(parameters)}')
        self._check_usable()
        arguments = {str(name): value for name, value in (parameters or {}).items()}
        return call_tool(tool, self, arguments, max_chars=max_chars)  # type: ignore[arg-type]

    def get_tool(self, tool_name: str) -> Tool:
        """Return a tool.

        Raises:
            ToolNotFoundError: The sandbox has no such tool.
        """
        tool = self._tools.get(tool_name) if isinstance(tool_name, str) else None
        if tool is None:
            have = ', '.join(self._tools) or 'none'
            is_known = isinstance(tool_name, str) and tool_name in ToolFactory.get_available_tools()
            near = suggest(tool_name, list(self._tools)) if isinstance(tool_name, str) and not is_known else None
            hint = f'did you mean {near!r}? It' if near else 'it'
            raise ToolNotFoundError(
                f'sandbox {self.id} has no tool {quoted(tool_name)}; {hint} has: {have}. Name it in tools_config to enable it',
                details={
                    'sandbox_id': self.id,
                    'tool_name': tool_name if isinstance(tool_name, str) else quoted(tool_name),
                },
            )
        return tool

    def add_tool(self, tool: Tool) -> None:
        """Give the sandbox a further tool, or another of the same name.

        Raises:
            InvalidArgumentError: It is no tool, or does not fit this kind of sandbox.
        """
        if not isinstance(tool, Tool):
            raise InvalidArgumentError(f'add_tool takes a Tool, not {quoted(tool)}')
        missing = tool.needs - self.offers
        if missing:
            raise InvalidArgumentError(f'the tool {tool.name!r} needs {sorted(missing)}, which sandbox {self.id} lacks')
        self._tools = {**self._tools, tool.name: tool}

    def list_tools(self) -> list[str]:
        """Return the names of its tools."""
        return list(self._tools)

    def get_available_tools(self) -> dict[str, Any]:
        """Return its tools as ``{name: OpenAI-style function schema}``."""
        return {name: tool.schema for name, tool in self._tools.items()}

    def perform(self, request: Request[R]) -> R:
        """Execute a request, whatever its verb is, by the method that makes it, and return what it gives.

        Raises:
            UnsupportedError: This kind of sandbox has no such method.
        """
        return request.call_on(self)

    def tool_schemas(self, form: SchemaForm = 'openai') -> list[dict[str, Any]]:
        """Return the schemas of its tools as a list, in the form that a provider wants.

        Args:
            form: ``'openai'`` (chat completions), ``'openai-responses'``, ``'anthropic'`` or ``'mcp'``.
        """
        return tool_schemas(self.get_available_tools(), form)

    def execute_tool_call(self, call: Any, *, max_chars: int | None = DEFAULT_MAX_CHARS) -> dict[str, Any]:
        """Run a tool call as a model made it, and return the message (for Anthropic, the block) to send back.

        Wrong arguments, an unknown tool and a program that fails become answers that the model can act on.

        Args:
            call: A call of OpenAI's chat completions or responses, an Anthropic ``tool_use`` block or an MCP ``tools/call``: the
                SDK's object, a dict, or JSON text. See `enclave.tools.calls`.
            max_chars: How much text the answer may have; see `execute_tool`. None for no limit.

        Raises:
            InvalidArgumentError: It is no such call.
            SandboxStateError, SandboxGoneError: The sandbox does not run.
        """
        run = functools.partial(self.execute_tool, max_chars=max_chars)
        return ToolCall.parse(call).execute(run, self.get_available_tools, max_chars=max_chars)

    def execute_tool_calls(self, answer: Any, *, max_chars: int | None = DEFAULT_MAX_CHARS) -> list[dict[str, Any]]:
        """Run all tool calls in a model's answer, one after the other, and return the messages to append to the conversation.

        Args:
            answer: A message or a whole response of OpenAI or Anthropic, or a list of calls; without calls nothing is run.
            max_chars: How much text the answer of each call may have.

        Raises:
            InvalidArgumentError, SandboxStateError, SandboxGoneError: As for `execute_tool_call`.
        """
        calls = parse_calls(answer)
        run = functools.partial(self.execute_tool, max_chars=max_chars)
        answers = [call.execute(run, self.get_available_tools, max_chars=max_chars) for call in calls]
        return as_messages(calls, answers)

    @abstractmethod
    def execute_command(
        self,
        command: str | Sequence[str],
        timeout: float | None = None,
        **options: Unpack[CommandOptions],
    ) -> CommandResult:
        """Run a command to its end; see `enclave.tools.workspace.Workspace.execute_command`.

        A backend of one's own may take ``**options`` in the place of those that it does not know.
        """

    def run_script(
        self,
        interpreter: Sequence[str],
        source: str | bytes,
        timeout: float | None = None,
        **options: Unpack[ScriptOptions],
    ) -> CommandResult:
        """Run a program's text; see `enclave.tools.workspace.Workspace.run_script`. A backend of one's own may leave it out.

        Raises:
            UnsupportedError: This kind of sandbox has not defined it.
        """
        raise UnsupportedError(
            f'a sandbox of the class {type(self).__name__} does not define run_script, which running code as a script needs'
        )

    def run_code(
        self,
        code: str | bytes | CodeRequest,
        language: str = 'python',
        *,
        max_chars: int | None = None,
        on_stdout: Callable[[str], object] | None = None,
        on_stderr: Callable[[str], object] | None = None,
        **options: Unpack[CodeOptions],
    ) -> CodeResult:
        """Compile and run a program in a directory of its own, which is gone afterwards, with all that the program started.

        Args:
            code: Its source, or a whole `CodeRequest`, which then says everything.
            language: A name or alias of the table of languages; see docs/languages.md.
            stdin, args, files, fetch_files, env: What it is given, and which files to return; this and what follows is said in
                full at `enclave.languages.values.CodeRequest`.
            timeout: Seconds it may run, without the time in which no processor was free for it; None takes the language's own
                limit or the sandbox's, 0 is no limit.
            cpu_time_limit: Seconds of processor time it may use, whatever else the machine does.
            expected_output: What it should print, compared as ``compare`` and ``tolerance`` say.
            preload: Modules that an interpreter has imported before, for a program in Python; see docs/preload.md.
            max_chars: How many characters of each of its outputs the result has: of what is longer, head and tail, and the whole
                is kept in a file of the sandbox, which the text and the step's ``stdout_file`` or ``stderr_file`` name.
            on_stdout, on_stderr: Called with pieces of text as they come, the compiler's too, on this thread; what they raise
                ends the program. A server's program gives each of them all at its end.

        Returns:
            How compiling and running ended, apart, with a judge's verdict. See `enclave.languages.values.CodeResult`.

        Raises:
            NotRegisteredError: There is no such language.
            UnsupportedError: The sandbox lacks the language's toolchain, or takes no files.
            InvalidArgumentError: An argument is impossible; the message names it.
            SandboxStateError, SandboxGoneError, SandboxBrokenError: The sandbox does not run, or was lost meanwhile.
        """
        request = make_request(code, language=language, **options)
        check_max_chars(max_chars)
        check_callbacks(on_stdout, on_stderr)
        if max_chars is None:
            return self._run_code(request, on_stdout, on_stderr)
        room: int | None = getattr(self, '_room_for_outputs', None)
        if request.max_output_bytes is None and room is not None:
            request = attrs.evolve(request, max_output_bytes=room)
        result = self._run_code(request, on_stdout, on_stderr)
        keeper: Any = self
        short: dict[str, Any] = {}
        for name, step in (('compile', result.compile), ('run', result.run)):
            short[name] = None if step is None else shorten_command(keeper, step, max_chars)
        return attrs.evolve(result, **short)

    def run_many(
        self, programs: Iterable[Program], *, concurrency: int | None = None, in_order: bool = False
    ) -> Outcomes[CodeResult]:
        """Run many programs in this sandbox, some at once, and give what became of each as it comes.

        What is given is an iterator, and a context manager that ends what is left; an error of one program is a value and
        stops nothing. Programs are taken from their iterable a few at a time, and outcomes that nobody takes hold up the rest.

        Args:
            programs: Requests, dicts of their fields, or sources in Python.
            concurrency: How many run at once; default is by the sandbox's ``cpu_limit``.
            in_order: Give outcomes in the order of the programs.

        Raises:
            InvalidArgumentError: ``concurrency`` is impossible.
            SandboxStateError, SandboxGoneError: The sandbox does not run.
        """
        self._check_usable()
        chosen = max(2, min(32, math.ceil(self.config.cpu_limit))) if concurrency is None else concurrency
        return self._run_many(programs, as_request, chosen, in_order)

    def _run_many(
        self, items: Iterable[Any], make: Callable[[Any], CodeRequest], concurrency: int | None, in_order: bool
    ) -> Outcomes[CodeResult]:
        assert concurrency is not None
        return Batch(lambda item: self._run_in_batch(make(item)), items, concurrency=concurrency, is_ordered=in_order)

    @property
    def _preloaded(self) -> tuple[str, ...] | None:
        """What programs of `run_code` find preloaded: what those of ``python_executor`` do, where that runs the same python3."""
        options: Any = getattr(self._tools.get('python_executor'), 'options', None)
        is_same = getattr(options, 'interpreter', None) in ('python3', ('python3',))
        found: tuple[str, ...] | None = getattr(options, 'preload', None) if is_same else None
        return found

    def _run_code(
        self,
        request: CodeRequest,
        on_stdout: Callable[[str], object] | None = None,
        on_stderr: Callable[[str], object] | None = None,
    ) -> CodeResult:
        """Run a program; see `run_code`."""
        self._check_usable()
        return run_program(SandboxRunner(self, on_stdout=on_stdout, on_stderr=on_stderr), request)

    def _run_in_batch(self, request: CodeRequest) -> CodeResult:
        """Run one of many programs; see `run_many`."""
        self._check_usable()
        return run_program(SandboxRunner(self), request, is_of_batch=True)

    # With -------------------------------------------------------------------------------------------------------------

    def __enter__(self: S) -> S:
        try:
            self.start()
        except BaseException:
            self._stop_failed()
            raise
        return self

    def _stop_failed(self) -> None:
        """Take away what a `start` of a user's own has left that failed after ours had succeeded."""
        if self._status in USABLE and not self._is_another_process():
            with contextlib.suppress(Exception):
                self.stop()

    def __exit__(self, *_: object) -> None:
        if not self._is_another_process():
            self.stop()

    def __del__(self, usable: frozenset[SandboxStatus] = USABLE) -> None:  # the module's name may be gone by then
        if getattr(self, '_status', None) in usable and not self._is_another_process():
            warnings.warn(f'sandbox {self.id} was never stopped', ResourceWarning, source=self, stacklevel=2)

    def __repr__(self) -> str:
        return f'<{type(self).__name__} {self.id} {self._status}>'
