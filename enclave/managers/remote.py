"""A sandbox of a server, used like one of this machine (floor 5).

`RemoteSandbox` has the verbs of `AgentBackedSandbox`, whose code it shares down to the few that travel. Times limits and defaults
are the server's: what is left out here is left out on the way.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, NoReturn, Protocol, TypeVar, cast

from attrs import define, field

from enclave.agent.program import DATA, ERR, EVENT, pack_message
from enclave.cancellation import is_cancelled, on_cancel
from enclave.channel.channel import Call, Reply
from enclave.config import SandboxConfig
from enclave.deadline import Deadline
from enclave.enums import SandboxStatus, SandboxType
from enclave.errors import (
    CallCancelledError,
    EnclaveError,
    InvalidArgumentError,
    ManagerStoppedError,
    NotFoundError,
    OperationTimeoutError,
    SandboxGoneError,
    SandboxNotFoundError,
    SandboxStateError,
    ServerUnavailableError,
    UnsupportedError,
)
from enclave.languages.values import CodeRequest, CodeResult, Program, as_request
from enclave.managers.code_batches import run_batch
from enclave.managers.protocol import (
    CancelResponse,
    CommandRequest,
    DirectoryRequest,
    DoneResponse,
    InputResponse,
    MoveRequest,
    ProcessEvent,
    ProcessInfo,
    ProcessRequest,
    ResizeRequest,
    ScriptPart,
    SignalRequest,
    SizeResponse,
    StreamEvent,
    ToolRequest,
    chunk_bytes,
    rebuild_error,
)
from enclave.parallel import Followed, Outcomes, check_concurrency
from enclave.records import CommandResult, PathInfo, SandboxInfo, ToolResult
from enclave.sandboxes.agent_backed import AgentBackedSandbox
from enclave.sandboxes.connection import Connection, PortForward
from enclave.sandboxes.operations import Operations, RunRequest
from enclave.sandboxes.process import Process
from enclave.tools.base import Tool
from enclave.tools.budget import check_max_chars

T = TypeVar('T')
R = TypeVar('R')
E = TypeVar('E', bound=StreamEvent)

HELD_BYTES = 1 << 20
"""How much output of a process waits here for whoever takes it; past it the program waits."""
_RETRY_SECONDS = (0.05, 0.2, 0.5, 1.0, 2.0)
"""Pauses before a broken stream of events is taken up again."""


class Transport(Protocol):
    """How requests travel; `enclave.managers.http` has the one there is. Any thread may use it. Errors are those of the verbs."""

    def call(
        self,
        method: str,
        path: str,
        answer: type[T] | Any,
        *,
        query: Mapping[str, Any] | None = None,
        body: Any = None,
        timeout: float | None = None,
    ) -> Any:
        """Ask something and return the answer as an instance of ``answer``; ``timeout`` is how long it may take."""

    def upload(
        self,
        method: str,
        path: str,
        answer: type[T] | Any,
        data: bytes | Iterable[bytes],
        *,
        query: Mapping[str, Any],
        size: int | None = None,
        media_type: str = 'application/octet-stream',
        is_repeatable: bool = True,
        timeout: float | None = None,
    ) -> Any:
        """Send raw bytes and return the answer."""

    def download(self, path: str, query: Mapping[str, Any]) -> Iterator[bytes]:
        """Yield raw bytes as they come."""

    def events(
        self, method: str, path: str, kind: type[E], *, query: Mapping[str, Any] | None = None, body: Any = None
    ) -> Generator[E, None, None]:
        """Yield the events of a stream as they come, as instances of ``kind``."""

    def later(self, action: Callable[[], None]) -> None:
        """Have something told to the server on another thread, by whoever may not wait for that."""


class RemoteSandbox(AgentBackedSandbox):
    """A sandbox that a server keeps. `stop` stops it there, `cleanup` takes it away; letting go of this object does nothing.

    Attributes:
        config: The options as the server shows them; values of environment variables are hidden.
    """

    sandbox_type: SandboxType | str = SandboxType.DOCKER  # type: ignore[misc]
    config_class: ClassVar[type[SandboxConfig]] = SandboxConfig

    def __init__(self, transport: Transport, sandbox_id: str, info: SandboxInfo | None = None) -> None:
        # What a sandbox of this process needs for its life is not wanted here, so the base is not asked to make it.
        self._transport = transport
        self.id = sandbox_id
        self.config = _config_of(info)
        self.error = None
        self.metadata = {}
        self.labels = {}
        self._changed = threading.Condition()
        self._moving = False
        self._pid = None
        self._status = SandboxStatus.INITIALIZING
        self._tools = {}
        self._forwards: set[PortForward] = set()
        self._forwards_lock = threading.Lock()
        self._operations: Operations | None = _Files(self)
        self._manager: Any = None  # that lives as long as this sandbox is used, where it was opened without one
        self._seen: SandboxInfo | None = None  # what the server said last, for those who cannot wait for it to be asked
        if info is not None:
            self._take(info)

    @property
    def path(self) -> str:
        """Its address below the server's."""
        return f'/sandbox/{self.id}'

    def _take(self, info: SandboxInfo) -> SandboxInfo:
        self._seen = info
        self.sandbox_type = info.type
        self.created_at = info.created_at
        self.started_at = info.started_at
        self.metadata = dict(info.metadata)
        self.labels = dict(info.labels)
        self.error = info.error
        return info

    # Life -------------------------------------------------------------------------------------------------------------

    def get_info(self) -> SandboxInfo:
        """Return what can be said of it, asked of the server."""
        info: SandboxInfo = self._transport.call('GET', self.path, SandboxInfo)
        return self._take(info)

    @property
    def status(self) -> SandboxStatus:
        """Where it is in its life, asked of the server; ``stopped`` where the server knows it no more."""
        try:
            return self.get_info().status
        except SandboxNotFoundError:
            return SandboxStatus.STOPPED
        except ManagerStoppedError:
            if self._manager is None:
                raise
            return SandboxStatus.STOPPED

    def set_status(self, status: SandboxStatus) -> None:
        """Do nothing: the server's pools mark their sandboxes."""

    def start(self) -> None:
        """Return if it runs: the server starts sandboxes when it makes them.

        Raises:
            SandboxStateError: It does not; make another with the manager.
        """
        status = self.status
        if status not in (SandboxStatus.RUNNING, SandboxStatus.IDLE, SandboxStatus.BUSY):
            raise SandboxStateError(
                f'sandbox {self.id} is {status} on the server, which starts sandboxes only when it makes them',
                details={'sandbox_id': self.id, 'status': str(status)},
            )

    def _own_manager(self, manager: Any) -> None:
        """Take a manager over that was made for this sandbox alone: `stop` takes the sandbox away and stops the manager."""
        self._manager = manager

    def stop(self) -> None:
        """Stop it on the server, where it stays in the list; does nothing if it is gone.

        One that `enclave.open_sandbox` has opened is taken away, and its connections to the server are closed.
        """
        if self._manager is None:
            self._end_on_server('POST', f'{self.path}/stop')
            return
        try:
            self.cleanup()
        except ManagerStoppedError:
            return  # stopped before
        finally:
            self._manager.stop()

    def cleanup(self) -> None:
        """Take it away; does nothing if it is gone."""
        self._end_on_server('DELETE', self.path)

    def _end_on_server(self, method: str, path: str) -> None:
        with self._forwards_lock:
            forwards, self._forwards = self._forwards, set()
        for forward in forwards:
            forward.close()
        try:
            self._transport.call(method, path, DoneResponse)
        except SandboxNotFoundError:
            return

    def is_alive(self) -> bool:
        """Have the server ask the sandbox itself whether it works."""
        try:
            answer: CancelResponse = self._transport.call('GET', f'{self.path}/alive', CancelResponse)
        except (NotFoundError, SandboxGoneError):
            return False
        return answer.found

    @property
    def active_calls(self) -> int:
        """How many commands and file transfers go on in it, of all clients."""
        return self.get_info().active_calls

    def _launch(self) -> Operations:
        raise AssertionError('unreachable')

    def _destroy(self, *, keep: bool) -> None:
        raise AssertionError('unreachable')

    def _running(self) -> Operations:
        assert self._operations is not None
        return self._operations

    def _do(self, verb: Callable[[Operations], R]) -> R:
        return verb(self._running())

    def _stream(self, verb: Callable[[Operations], Iterator[bytes]]) -> Generator[bytes, None, None]:
        yield from verb(self._running())

    def _absolute(self, path: str, name: str = 'path') -> str:
        super()._absolute(path, name)  # checks it
        return str(path)  # relative ones begin where the server's sandbox says

    # Tools and commands -----------------------------------------------------------------------------------------------

    def execute_tool(
        self, tool_name: str, parameters: Mapping[str, Any] | None = None, *, max_chars: int | None = None
    ) -> ToolResult:
        """Run a tool; see `Sandbox.execute_tool`."""
        check_max_chars(max_chars)
        body = ToolRequest(
            sandbox_id=self.id, tool_name=tool_name, parameters=as_parameters(parameters), max_chars=max_chars
        )
        result: ToolResult = self._transport.call('POST', '/sandbox/tool/execute', ToolResult, body=body, timeout=0)
        return result

    def get_tool(self, tool_name: str) -> Tool:
        """Raise: tools live on the server; see `get_available_tools` and `execute_tool`."""
        raise UnsupportedError(f'the tool {tool_name!r} lives on the server; use execute_tool')

    def add_tool(self, tool: Tool) -> None:
        """Raise: tools are named in the configuration that the sandbox is made with."""
        raise UnsupportedError('a remote sandbox takes no further tools; name them in tools_config')

    def list_tools(self) -> list[str]:
        """Return the names of its tools."""
        return list(self.get_available_tools())

    def get_available_tools(self) -> dict[str, Any]:
        """Return its tools as ``{name: OpenAI-style function schema}``."""
        found: dict[str, Any] = self._transport.call('GET', f'{self.path}/tools', dict[str, Any])
        return found

    def execute_command(
        self,
        command: str | Sequence[str],
        timeout: float | None = None,
        *,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        user: str | None = None,
        stdin: str | bytes | None = None,
        max_output_bytes: int | None = None,
        **unknown: Any,
    ) -> CommandResult:
        """Run a command to its end; see `AgentBackedSandbox.execute_command`."""
        if unknown:
            raise InvalidArgumentError(f'execute_command takes no argument {", ".join(map(repr, unknown))}')
        return self._command(_words(command), timeout, cwd, env, user, stdin, max_output_bytes)

    def run_script(
        self,
        interpreter: Sequence[str],
        source: str | bytes,
        timeout: float | None = None,
        *,
        suffix: str = '',
        args: Sequence[str] = (),
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        user: str | None = None,
        stdin: str | bytes | None = None,
        max_output_bytes: int | None = None,
        import_path_env: str | None = None,
    ) -> CommandResult:
        """Run a program text; see `AgentBackedSandbox.run_script`."""
        script = ScriptPart(
            source=_as_bytes(source, 'source'), suffix=suffix, at=len(interpreter), import_path_env=import_path_env
        )
        argv = [*interpreter, '', *args]
        return self._command(argv, timeout, cwd, env, user, stdin, max_output_bytes, script)

    def run_many(
        self, programs: Iterable[Program], *, concurrency: int | None = None, in_order: bool = False
    ) -> Outcomes[CodeResult]:
        """Run many programs in this sandbox, in one exchange for some hundred of them; see `Sandbox.run_many`."""
        return self._run_many(programs, as_request, concurrency, in_order)

    def _run_many(
        self, items: Iterable[Any], make: Callable[[Any], CodeRequest], concurrency: int | None, in_order: bool
    ) -> Outcomes[CodeResult]:
        path = f'{self.path}/code/batch'
        return Followed(
            run_batch(self._transport, path, items, make, in_order=in_order, concurrency=check_concurrency(concurrency))
        )

    def _run_code(self, request: CodeRequest) -> CodeResult:
        result: CodeResult = self._transport.call('POST', f'{self.path}/code', CodeResult, body=request, timeout=0)
        return result

    def _command(
        self,
        command: str | list[str],
        timeout: float | None,
        cwd: str | None,
        env: Mapping[str, str] | None,
        user: str | None,
        stdin: str | bytes | None,
        max_output_bytes: int | None,
        script: ScriptPart | None = None,
    ) -> CommandResult:
        body = CommandRequest(
            command=command,
            timeout=as_seconds(timeout),
            cwd=cwd,
            env=None if env is None else dict(env),
            user=None if user is None else str(user),
            stdin=None if stdin is None else _as_bytes(stdin, 'stdin'),
            max_output_bytes=max_output_bytes,
            script=script,
        )
        result: CommandResult = self._transport.call(
            'POST', f'{self.path}/command', CommandResult, body=body, timeout=timeout or 0
        )
        return result

    def start_process(
        self,
        command: str | Sequence[str],
        timeout: float | None = 0,
        *,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        user: str | None = None,
        stdin: str | bytes | None = None,
        open_stdin: bool = False,
        max_output_bytes: int | None = None,
        live: bool = True,
        tty: tuple[int, int] | None = None,
    ) -> Process:
        """Start a command and return while it runs; see `AgentBackedSandbox.start_process`.

        A broken connection is taken up again where it was; the program goes on meanwhile.
        """
        body = ProcessRequest(
            command=_words(command),
            timeout=as_seconds(timeout),
            cwd=cwd,
            env=None if env is None else dict(env),
            user=None if user is None else str(user),
            stdin=None if stdin is None else _as_bytes(stdin, 'stdin'),
            open_stdin=open_stdin,
            max_output_bytes=max_output_bytes,
            live=live,
            tty=None if tty is None else list(tty),
        )
        info: ProcessInfo = self._transport.call('POST', f'{self.path}/processes', ProcessInfo, body=body)
        return self._process(info, live=live, cap=max_output_bytes)

    def find_process(self, process_id: str) -> Process:
        """Return a process that was started through the server, by its id there, to follow it from its beginning.

        Raises:
            NotFoundError: There is none, or it was forgotten.
        """
        info: ProcessInfo = self._transport.call('GET', f'{self.path}/processes/{process_id}', ProcessInfo)
        return self._process(info, live=True, cap=None)

    def _process(self, info: ProcessInfo, *, live: bool, cap: int | None) -> Process:
        call = RemoteCall(self._transport, f'{self.path}/processes/{info.id}', info)
        return Process(
            info.command if isinstance(info.command, str) else tuple(info.command),
            cast(Call, call),
            self.config.max_output_bytes if cap is None else cap,
            live,
            lambda facts, out, err: call.result(),
        )

    # Network ----------------------------------------------------------------------------------------------------------

    def connect_port(self, port: int, host: str = '127.0.0.1', *, timeout: float | None = 10.0) -> Connection:
        """Raise: connections into sandboxes do not travel over HTTP."""
        raise UnsupportedError(_NO_PORTS)

    def forward_port(self, port: int, listen_port: int = 0, *, host: str = '127.0.0.1') -> PortForward:
        """Raise: connections into sandboxes do not travel over HTTP."""
        raise UnsupportedError(_NO_PORTS)

    def __del__(self) -> None:
        """Do nothing; the sandbox is the server's."""

    def __repr__(self) -> str:
        return f'<RemoteSandbox {self.id}>'


_NO_PORTS = 'connections into a remote sandbox are not carried over HTTP; publish a port in its configuration instead'


def as_parameters(parameters: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return a tool's parameters as they travel."""
    if parameters is not None and not isinstance(parameters, Mapping):
        raise InvalidArgumentError(f'the parameters must be a dict of arguments, not {parameters!r}')
    return {str(name): value for name, value in (parameters or {}).items()}


def _config_of(info: SandboxInfo | None) -> SandboxConfig:
    """Return as much of a sandbox's options as every kind has; nothing here fails because a server is newer."""
    shown = {} if info is None else info.config
    known = SandboxConfig().model_dump()
    try:
        return SandboxConfig(**{name: shown[name] for name in known if name in shown})
    except EnclaveError:
        return SandboxConfig()


def _words(command: Any) -> str | list[str]:
    if isinstance(command, str):
        return command
    if not isinstance(command, Sequence) or isinstance(command, (bytes, bytearray)) or not command:
        raise InvalidArgumentError(f'command must be a string or a non-empty list of strings, not {command!r}')
    return list(command)


def as_seconds(timeout: float | None) -> float | None:
    """Return a time limit as it travels.

    Raises:
        InvalidArgumentError: It is none.
    """
    if timeout is not None and (isinstance(timeout, bool) or not isinstance(timeout, (int, float))):
        raise InvalidArgumentError(f'timeout must be a number of seconds or None, not {timeout!r}')
    if timeout is not None and not timeout >= 0:  # nan too
        raise InvalidArgumentError(f'timeout must be 0 (no limit) or more seconds, not {timeout!r}')
    return 0.0 if timeout is not None and timeout >= 1e9 else timeout


def _as_bytes(data: Any, name: str) -> bytes:
    if isinstance(data, str):
        return data.encode('utf-8', 'surrogateescape')
    if isinstance(data, (bytes, bytearray, memoryview)):
        return bytes(data)
    raise InvalidArgumentError(f'{name} must be bytes or text, not {type(data).__name__}')


def followed(open_events: Callable[[int], Generator[E, None, None]], noun: str) -> Iterator[E]:
    """Yield numbered events until the last. A stream that breaks is taken up again where it was, several times in a row.

    Args:
        open_events: Gives the events after a number.
        noun: What they are of.

    Raises:
        ServerUnavailableError: The server does not come back.
    """
    seen, failures = 0, 0
    while True:
        try:
            with contextlib.closing(open_events(seen)) as events:
                for event in events:
                    failures = 0
                    if event.seq is not None and event.seq > seen:
                        seen = event.seq
                        yield event
                        if event.is_last:
                            return
            raise ServerUnavailableError(f'the stream of events ended before the {noun} did')
        except ServerUnavailableError:
            if failures >= len(_RETRY_SECONDS):
                raise
        cancelled = threading.Event()
        with on_cancel(cancelled.set):  # then there may be an end to read at once
            cancelled.wait(_RETRY_SECONDS[failures])
        failures += 1


# Files ----------------------------------------------------------------------------------------------------------------


class _Files:
    """The `Operations` on files, as requests."""

    active_calls = 0

    def __init__(self, sandbox: RemoteSandbox) -> None:
        self._transport = sandbox._transport
        self._path = sandbox.path

    def run(self, request: RunRequest) -> NoReturn:
        raise AssertionError('unreachable')

    def start_process(self, request: RunRequest, **options: Any) -> NoReturn:
        raise AssertionError('unreachable')

    def connect(self, port: int, host: str, *, timeout: float | None) -> NoReturn:
        raise UnsupportedError(_NO_PORTS)

    def ping(self, timeout: float) -> None:
        self._transport.call('GET', f'{self._path}/alive', CancelResponse, timeout=timeout)

    def close(self, *, grace: float) -> None:
        pass

    def read_file(self, path: str, offset: int, max_bytes: int | None) -> Iterator[bytes]:
        query = {'path': path, 'offset': offset or None, 'max_bytes': max_bytes}
        return self._transport.download(f'{self._path}/file', query)

    def write_file(
        self,
        path: str,
        chunks: Iterable[bytes],
        *,
        size: int | None,
        append: bool,
        exclusive: bool,
        make_parents: bool,
        mode: int | None,
    ) -> int:
        data = chunks[0] if isinstance(chunks, tuple) and len(chunks) == 1 else chunks
        query = {
            'path': path,
            'append': append or None,
            'exclusive': exclusive or None,
            'make_parents': None if make_parents else False,
            'mode': mode,
        }
        answer: SizeResponse = self._transport.upload(
            'PUT',
            f'{self._path}/file',
            SizeResponse,
            data,
            query=query,
            size=size,
            is_repeatable=not append and not exclusive,
        )
        return answer.size

    def list_dir(self, path: str, *, recursive: bool, max_entries: int | None) -> list[PathInfo]:
        query = {'path': path, 'recursive': recursive or None, 'max_entries': max_entries}
        found: list[PathInfo] = self._transport.call('GET', f'{self._path}/files', list[PathInfo], query=query)
        return found

    def stat_path(self, path: str, *, follow_symlinks: bool) -> PathInfo:
        query = {'path': path, 'follow_symlinks': None if follow_symlinks else False}
        found: PathInfo = self._transport.call('GET', f'{self._path}/path', PathInfo, query=query)
        return found

    def remove_path(self, path: str, *, recursive: bool, missing_ok: bool) -> None:
        query = {'path': path, 'recursive': recursive or None, 'missing_ok': missing_ok or None}
        self._transport.call('DELETE', f'{self._path}/path', DoneResponse, query=query)

    def make_dir(self, path: str, *, parents: bool, exist_ok: bool, mode: int) -> None:
        body = DirectoryRequest(path=path, parents=parents, exist_ok=exist_ok, mode=mode)
        self._transport.call('POST', f'{self._path}/directory', DoneResponse, body=body)

    def move_path(self, source: str, target: str, *, overwrite: bool) -> None:
        body = MoveRequest(source=source, target=target, overwrite=overwrite)
        self._transport.call('POST', f'{self._path}/move', DoneResponse, body=body)

    def read_archive(self, path: str, arcname: str) -> Iterator[bytes]:
        # The server names the top member after the path itself, unless told otherwise.
        last = path.rstrip('/').rpartition('/')[2]
        query = {'path': path, 'arcname': None if arcname == last else arcname}
        return self._transport.download(f'{self._path}/archive', query)

    def write_archive(self, path: str, chunks: Iterable[bytes]) -> None:
        data = chunks[0] if isinstance(chunks, tuple) and len(chunks) == 1 else chunks
        self._transport.upload(
            'POST',
            f'{self._path}/archive',
            DoneResponse,
            data,
            query={'target_dir': path},
            media_type='application/x-tar',
        )


# Processes ------------------------------------------------------------------------------------------------------------


@define(eq=False)
class RemoteCall:
    """What `Process` asks of a call, of one that goes on at a server.

    A thread follows its events once somebody wants them. Any thread may use it.
    """

    _transport: Transport
    _path: str
    _info: ProcessInfo
    _changed: threading.Condition = field(factory=threading.Condition, init=False, repr=False)
    # All below is guarded by _changed.
    _frames: deque[tuple[int, bytes]] = field(factory=deque, init=False, repr=False)
    _held: int = field(default=0, init=False)
    _result: CommandResult | None = field(default=None, init=False, repr=False)
    _error: EnclaveError | None = field(default=None, init=False, repr=False)
    _follower: threading.Thread | None = field(default=None, init=False, repr=False)

    def next_frame(self, deadline: Deadline) -> tuple[int, bytes] | None:
        """Return the next piece of output, or None when it has ended and all is taken; see `Call.next_frame`."""
        self._follow()
        with self._changed:
            ready = self._changed.wait_for(self._is_ready_locked, deadline.remaining())
            if self._frames:
                frame = self._frames.popleft()
                self._held -= len(frame[1])
                self._changed.notify_all()
                return frame
            if self._error is not None:
                raise self._error
            if not ready:
                raise OperationTimeoutError('the process sent nothing within the time limit')
            return None

    def wait_ready(self, deadline: Deadline) -> None:
        """Return when `next_frame` would not wait, or the deadline has passed; see `Call.wait_ready`."""
        self._follow()
        with on_cancel(self._wake), self._changed:
            self._changed.wait_for(lambda: self._is_ready_locked() or is_cancelled(), deadline.remaining())
            if not self._is_ready_locked() and is_cancelled():
                raise CallCancelledError('the waiting was cancelled; what was waited for goes on')

    def _is_ready_locked(self) -> bool:
        return bool(self._frames) or self._result is not None or self._error is not None

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def wait(self, deadline: Deadline) -> Reply:
        """Wait for its end; see `Call.wait`."""
        self._follow()
        with self._changed:
            self._changed.wait_for(lambda: self._result is not None or self._error is not None, deadline.remaining())
            if self._error is not None:
                raise self._error
            if self._result is None:
                raise OperationTimeoutError('the process did not end within the time limit')
            return Reply({})

    def result(self) -> CommandResult:
        """Return its result, once `wait` has returned."""
        assert self._result is not None
        return self._result

    @property
    def has_ended(self) -> bool:
        """Whether it has ended, as far as its events have come."""
        self._follow()
        with self._changed:
            return self._result is not None or self._error is not None

    def write(self, data: bytes, deadline: Deadline) -> bool:
        """Send input; False if the program ended first."""
        answer: InputResponse = self._transport.upload(
            'POST',
            f'{self._path}/input',
            InputResponse,
            data,
            query={},
            is_repeatable=False,
            timeout=deadline.remaining(),
        )
        return answer.accepted

    def close_input(self) -> None:
        """Say that no more input comes."""
        self._transport.upload(
            'POST', f'{self._path}/input', InputResponse, b'', query={'eof': True}, is_repeatable=True
        )

    def control(self, **words: Any) -> None:
        """Send a signal, or a terminal's new size."""
        if 'resize' in words:
            rows, columns = words['resize']
            self._transport.call(
                'POST', f'{self._path}/resize', DoneResponse, body=ResizeRequest(rows=rows, columns=columns)
            )
        else:
            body = SignalRequest(signal=words['signal'], group=words.get('target') == 'group')
            self._transport.call('POST', f'{self._path}/signal', DoneResponse, body=body)

    def cancel(self) -> None:
        """Kill it and everything it started."""
        try:
            self._transport.call('DELETE', self._path, DoneResponse)
        except NotFoundError:
            return

    # The follower's side ----------------------------------------------------------------------------------------------

    def _follow(self) -> None:
        with self._changed:
            if self._follower is not None:
                return
            self._follower = threading.Thread(target=self._run, name=f'enclave-follow-{self._info.id}', daemon=True)
        self._follower.start()

    def _run(self) -> None:
        try:
            for event in followed(self._events, 'process'):
                self._take(event)
        except EnclaveError as error:
            self._fail(error)

    def _events(self, seen: int) -> Generator[ProcessEvent, None, None]:
        return self._transport.events('GET', f'{self._path}/events', ProcessEvent, query={'after': seen})

    def _take(self, event: ProcessEvent) -> None:
        """Take an event, waiting for room."""
        with self._changed:
            if event.event == 'started':
                self._frames.append((EVENT, pack_message({'started': event.pid or 0})))
            elif event.event in ('stdout', 'stderr'):
                data = chunk_bytes(event)
                self._changed.wait_for(lambda: self._held < HELD_BYTES)
                self._frames.append((DATA if event.event == 'stdout' else ERR, data))
                self._held += len(data)
            elif event.event == 'end' and event.result is not None:
                self._result = event.result
            elif event.error is not None:
                self._error = rebuild_error(event.error)
            self._changed.notify_all()

    def _fail(self, error: EnclaveError) -> None:
        with self._changed:
            self._error = error
            self._changed.notify_all()
