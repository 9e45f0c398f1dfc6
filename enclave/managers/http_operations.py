"""What a server's sandboxes are asked, as requests of HTTP (layer 5): the `Operations` of a sandbox elsewhere.

Requests travel as they are. Time limits and defaults are the server's: what is left out here is left out on the way.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar, cast

from attrs import define, field

from enclave import wire
from enclave.cancellation import is_cancelled, on_cancel
from enclave.deadline import Deadline
from enclave.errors import (
    CallCancelledError,
    EnclaveError,
    NotFoundError,
    OperationTimeoutError,
    ServerUnavailableError,
)
from enclave.managers.actions import ask
from enclave.managers.http_transport import HttpTransport
from enclave.managers.protocol import (
    CancelResponse,
    InputResponse,
    ProcessEvent,
    ProcessInfo,
    ResizeRequest,
    SignalRequest,
    StreamEvent,
    chunk_bytes,
    rebuild_error,
    response_type,
    unwrapped,
)
from enclave.records import CommandResult, SandboxInfo
from enclave.sandboxes.process import OutputChunk, Process, Started
from enclave.verb_requests import VERBS, Download, Request, StartProcess, Upload

if TYPE_CHECKING:
    from enclave.sandboxes.connection import Connection

T = TypeVar('T')
R = TypeVar('R')
E = TypeVar('E', bound=StreamEvent)

HELD_BYTES = 1 << 20
"""How much output of a process waits here to be taken; past it the program waits."""
_RETRY_SECONDS = (0.05, 0.2, 0.5, 1.0, 2.0)
"""Pauses before a broken stream of events is taken up again."""


@define(eq=False)
class HttpOperations:
    """See `Operations`. Lives as long as its sandbox is known here; letting go of it ends nothing.

    Attributes:
        path: The sandbox's address below the server's.
    """

    _transport: HttpTransport = field(repr=False)
    sandbox_id: str
    path: str = field(init=False)

    @path.default
    def _path(self) -> str:
        return f'/sandbox/{self.sandbox_id}'

    @property
    def active_calls(self) -> int:
        """How many commands and file transfers continue in the sandbox, of all clients."""
        info: SandboxInfo = ask(self._transport, 'get_sandbox_info', sandbox_id=self.sandbox_id)
        return info.active_calls

    def run(self, request: Request[R]) -> R:
        """Execute a request to its end and return what it gives."""
        verb = VERBS[request.verb]
        answer = self._transport.call(
            verb.method,
            self.path + verb.path,
            response_type(verb),
            query=wire.encode(request) if verb.is_in_query else None,
            body=None if verb.is_in_query else request,
            timeout=(getattr(request, 'timeout', None) or 0) if verb.is_long else None,
        )
        return cast(R, unwrapped(answer))

    def start_process(self, request: StartProcess) -> Process:
        """Start a command and return while it runs. A broken connection is taken up again where it was."""
        info: ProcessInfo = ask(self._transport, 'start_process', request, sandbox_id=self.sandbox_id)
        return self._process(info)

    def list_processes(self) -> list[ProcessInfo]:
        """Return the processes that were started through the server."""
        found: list[ProcessInfo] = ask(self._transport, 'list_processes', sandbox_id=self.sandbox_id)
        return found

    def find_process(self, process_id: str) -> Process:
        """Return a process that was started through the server, by its id there, to follow it from its beginning.

        Raises:
            NotFoundError: There is none, or it was forgotten.
        """
        info: ProcessInfo = ask(self._transport, 'get_process', sandbox_id=self.sandbox_id, process_id=process_id)
        return self._process(info)

    def _process(self, info: ProcessInfo) -> Process:
        command = info.command if isinstance(info.command, str) else tuple(info.command)
        return Process(command, HttpProgram(self._transport, self.sandbox_id, info), id=info.id)

    def read(self, request: Download) -> Iterator[bytes]:
        """Yield what is asked for as it comes."""
        return self._transport.download(self.path + VERBS[request.verb].path, wire.encode(request))

    def write(self, request: Upload[R], chunks: Iterable[bytes], size: int | None = None) -> R:
        """Send bytes in and return what that gives."""
        verb = VERBS[request.verb]
        answer = self._transport.upload(
            verb.method,
            self.path + verb.path,
            response_type(verb),
            chunks[0] if isinstance(chunks, tuple) and len(chunks) == 1 else chunks,
            query=wire.encode(request),
            size=size,
            media_type=verb.sends or '',
            is_repeatable=request.is_repeatable,
        )
        return cast(R, unwrapped(answer))

    @property
    def connect_problem(self) -> str | None:
        """Why connections into the sandbox do not travel; None where they do."""
        return self._transport.connect_problem

    def connect(self, port: int, host: str, *, timeout: float | None) -> Connection:
        """Connect to a TCP port as seen from inside, where that travels."""
        found: Connection = self._transport.connect(self.sandbox_id, port, host, timeout)
        return found

    def ping(self, timeout: float) -> None:
        """Return if the server's sandbox answers."""
        answer: CancelResponse = ask(self._transport, 'is_sandbox_alive', timeout=timeout, sandbox_id=self.sandbox_id)
        if not answer.found:
            raise OperationTimeoutError('the sandbox did not answer the server')

    def close(self, *, grace: float) -> None:
        """Do nothing: what runs is the server's."""


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


# Processes ------------------------------------------------------------------------------------------------------------


@define(eq=False)
class HttpProgram:
    """A program that runs at a server; see `RunningProgram`.

    A thread follows its events once somebody wants them. Any thread may use it.
    """

    _transport: HttpTransport
    _sandbox_id: str
    _info: ProcessInfo
    _changed: threading.Condition = field(factory=threading.Condition, init=False, repr=False)
    # All below is guarded by _changed.
    _news: deque[OutputChunk | Started] = field(factory=deque, init=False, repr=False)
    _held: int = field(default=0, init=False)
    _result: CommandResult | None = field(default=None, init=False, repr=False)
    _error: EnclaveError | None = field(default=None, init=False, repr=False)
    _follower: threading.Thread | None = field(default=None, init=False, repr=False)

    def next(self, deadline: Deadline) -> OutputChunk | Started | CommandResult | None:
        """Return the next that comes of it; see `RunningProgram.next`."""
        self._follow()
        with on_cancel(self._wake), self._changed:
            ready = self._changed.wait_for(lambda: self._is_ready_locked() or is_cancelled(), deadline.remaining())
            if self._news:
                found = self._news.popleft()
                if isinstance(found, OutputChunk):
                    self._held -= len(found.data)
                self._changed.notify_all()
                return found
            if self._error is not None:
                raise self._error
            if self._result is not None:
                return self._result
            if ready:
                raise CallCancelledError('the waiting was cancelled; what was waited for continues')
            raise OperationTimeoutError('the process sent nothing within the time limit')

    def _is_ready_locked(self) -> bool:
        return bool(self._news) or self._result is not None or self._error is not None

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

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
            timeout=deadline.as_timeout(),
        )
        return answer.accepted

    def close_input(self) -> None:
        """Say that no more input comes."""
        self._transport.upload(
            'POST', f'{self._path}/input', InputResponse, b'', query={'eof': True}, is_repeatable=True
        )

    def signal(self, number: int, *, group: bool) -> None:
        """Send a signal to the program, or to its process group."""
        self._ask('send_signal', SignalRequest(signal=number, group=group))

    def resize(self, rows: int, columns: int) -> None:
        """Give its terminal another size."""
        self._ask('resize_terminal', ResizeRequest(rows=rows, columns=columns))

    def kill(self) -> None:
        """Kill it and everything it started."""
        try:
            self._ask('kill_process')
        except NotFoundError:
            return

    def _ask(self, name: str, body: Any = None) -> None:
        ask(self._transport, name, body, sandbox_id=self._sandbox_id, process_id=self._info.id)

    @property
    def _path(self) -> str:
        return f'/sandbox/{self._sandbox_id}/processes/{self._info.id}'

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
                self._news.append(Started(event.pid or 0))
            elif event.event in ('stdout', 'stderr'):
                data = chunk_bytes(event)
                self._changed.wait_for(lambda: self._held < HELD_BYTES)
                self._news.append(OutputChunk('stdout' if event.event == 'stdout' else 'stderr', data))
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
