"""What a server and its clients say to each other (layer 5): header names, bodies, and errors in transit.

Both ends encode and decode with the classes below, and the server's OpenAPI document is made from them, so that the three
cannot drift apart. A body is a JSON object with a class's fields; bytes travel as base64 text in JSON, and raw wherever they
may be many. Times are seconds; None and 0 are no limit where a limit is meant.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

from attrs import Factory, field, frozen

from enclave import wire
from enclave.cells import DEFAULT_KERNEL, CellResult
from enclave.errors import ERROR_TYPES, EnclaveError, InvalidArgumentError, ServerError, error_record
from enclave.languages.values import CodeRequest, CodeResult
from enclave.records import CommandResult, Model
from enclave.records import ProcessInfo as ProcessInfo
from enclave.tools.schema import argument
from enclave.verb_requests import VERBS, Request, Verb

PROTOCOL_VERSION = 1
"""Raised when an old client and a new server, or the other way round, can no longer understand each other."""

VERSION_HEADER = 'X-Enclave-Version'
"""In every answer of a server of this library: the version of the package."""
PROTOCOL_HEADER = 'X-Enclave-Protocol'
"""In every answer: the newest `PROTOCOL_VERSION` the server speaks. By this a client knows a server of this library."""
REQUEST_ID_HEADER = 'X-Request-ID'
"""In every answer, and in the audit line of the request; taken from the request if it is 1 to 64 of ``A-Za-z0-9._-``."""
API_KEY_HEADER = 'X-API-Key'
IDEMPOTENCY_HEADER = 'Idempotency-Key'
"""Under the same key the same request is done once; repeats get the first one's answer. 1 to 128 of ``A-Za-z0-9._-``."""
RECEIVED_HEADER = 'Idempotency-Received'
"""Idempotency keys, apart by spaces, whose answers the client has: they are kept no longer."""
REPLAYED_HEADER = 'Idempotent-Replayed'

API_KEY_ENVIRONMENT = 'ENCLAVE_API_KEY'
BEGIN_RULE = 'begin_within'
"""In the details of the error of a program that was not begun in time; see `CodeBatchRequest`."""
KEEP_ALIVE_SECONDS = 10.0
"""How often a stream of events carries an ``alive`` line when there is nothing to report."""


# Requests -------------------------------------------------------------------------------------------------------------


@frozen(kw_only=True)
class ToolRequest(Model):
    """Run a tool in a sandbox; ``parameters`` are the tool's arguments, see its schema."""

    sandbox_id: str = argument(description='The sandbox.')
    tool_name: str = argument(description='The name of a tool the sandbox has.')
    parameters: dict[str, Any] = Factory(dict)
    max_chars: int | None = argument(
        default=None, minimum=1, description='Characters of output and of error; the whole is kept in a file inside.'
    )


@frozen(kw_only=True)
class SignalRequest(Model):
    """Send a signal: a number, or a name like ``SIGINT``; to the program or to its whole process group."""

    signal: int | str
    group: bool = False


@frozen(kw_only=True)
class ResizeRequest(Model):
    """The new size of a program's terminal."""

    rows: int = argument(minimum=1, maximum=65535)
    columns: int = argument(minimum=1, maximum=65535)


@frozen(kw_only=True)
class CellRequest(Model):
    """Run code in a kernel of a notebook sandbox, after the cells that were asked for before."""

    code: str
    timeout: float | None = argument(
        default=None,
        minimum=0,
        description="Seconds from the moment it is sent to the kernel; null takes the sandbox's own, 0 means no limit.",
    )
    kernel: str = argument(default=DEFAULT_KERNEL, description='A kernel that the sandbox has.')
    silent: bool = argument(default=False, description='Run it without a number and without showing its last value.')
    store_history: bool = argument(default=True, description="Count it and keep it in the kernel's history.")
    keep_escapes: bool = argument(
        default=False, description="Leave a terminal's escape codes in tracebacks, and colours in texts."
    )
    max_output_bytes: int | None = argument(default=None, minimum=1, maximum=1 << 30)


@frozen(kw_only=True)
class CellStreamRequest(CellRequest):
    """Run code in a kernel and follow it."""

    cell_id: str | None = argument(
        default=None,
        description='An id of the client\'s own, 8 to 64 letters, digits, "_" or "-". The same request under the same id '
        'follows the cell that it started, so that it may be repeated when a connection broke.',
    )
    allow_input: bool = argument(
        default=False,
        description='Let the cell ask for input: an output of the type input_request comes, and the cell waits for an answer.',
    )


@frozen(kw_only=True)
class InputRequest(Model):
    """Answer a cell that asks for input."""

    text: str | None = argument(default=None, description='The line; null is the end of input.')


@frozen(kw_only=True)
class KernelRequest(Model):
    """Start a further kernel, with a state of its own."""

    name: str = argument(description='1 to 63 letters, digits, ".", "_" or "-".')
    spec: str = argument(default='python3', description='The kind of kernel, one of those of the image.')
    cwd: str | None = None
    env: dict[str, str] | None = field(default=None, repr=False)
    exist_ok: bool = argument(default=False, description='Answer with the kernel that has the name, if one has.')


@frozen(kw_only=True)
class AskRequest(Model):
    """Ask a kernel something, after the cells that were asked for before."""

    timeout: float | None = argument(
        default=None, minimum=0, description='Seconds from the moment that it is its turn; null and 0 take 30.'
    )


@frozen(kw_only=True)
class CompleteRequest(AskRequest):
    """Ask what could stand at a place in code; ``cursor`` is how many characters are before it, null is the end."""

    code: str
    cursor: int | None = argument(default=None, minimum=0)


@frozen(kw_only=True)
class InspectRequest(CompleteRequest):
    """Ask what a kernel knows of the name at a place in code; ``detail`` 1 asks for more, like its source."""

    detail: int = argument(default=0, minimum=0, maximum=1)


@frozen(kw_only=True)
class CheckRequest(AskRequest):
    """Ask whether code could be run as it is."""

    code: str


@frozen(kw_only=True)
class RenewRequest(Model):
    """Let a sandbox live ``ttl`` seconds from now; null for no end, ``"default"`` for what it was made with."""

    ttl: float | Literal['default'] | None = 'default'
    on_expiry: Literal['remove', 'pause'] | None = argument(
        default=None, description='What happens to it then; null leaves it as it is, which is "remove" at first.'
    )


@frozen(kw_only=True)
class PauseRequest(Model):
    """Pause a sandbox, for ``ttl`` seconds at most; null for no end, ``"default"`` for what the server says."""

    ttl: float | Literal['default'] | None = 'default'


@frozen(kw_only=True)
class PoolRequest(Model):
    """Make a pool of warm sandboxes, or change its size."""

    pool_size: int | None = None
    sandbox_type: str | None = None
    config: dict[str, Any] | None = field(default=None, repr=False)
    name: str | None = None


@frozen(kw_only=True)
class PoolToolRequest(Model):
    """Run a tool in whichever sandbox of a pool is free; ``timeout`` is how long to wait for one."""

    tool_name: str
    parameters: dict[str, Any] = Factory(dict)
    timeout: float | None = argument(default=None, minimum=0)
    pool: str | None = None
    max_chars: int | None = argument(
        default=None, minimum=1, description='Characters of output and of error; the whole is kept in a file inside.'
    )


@frozen(kw_only=True)
class PoolCodeRequest(Model):
    """Run a program in whichever sandbox of a pool is free; ``timeout`` is how long to wait for one.

    ``in_batch`` says that it is one of many: like a program of a batch it may be a fork of an interpreter that has started.
    """

    request: CodeRequest
    timeout: float | None = argument(default=None, minimum=0)
    pool: str | None = None
    in_batch: bool = False


@frozen(kw_only=True)
class CodeBatchRequest(Model):
    """Run many programs, each in whichever sandbox of a pool is free, or all in one sandbox.

    ``concurrency`` is how many run at once; ``timeout`` is how long each may wait for a sandbox of the pool.

    With a ``key`` each program is run once, although the batch is sent again because its connection broke: its place in the
    batch, of ``places``, distinguishes it, and one that was begun before is waited for, and its outcome given. ``POST
    /calls/{key}/cancel`` ends the batch.

    ``begin_within`` is how many seconds after the first program the last may begin: those that would begin later, beyond the
    first ``concurrency``, are not run, and fail with an error whose details have the ``rule`` ``begin_within``. ``received`` are
    keys of earlier batches with the number of their places, from 0, whose outcomes all came: the server need not keep them.
    """

    requests: list[CodeRequest]
    key: str | None = None
    places: list[int] | None = None
    concurrency: int | None = argument(default=None, minimum=1, maximum=1024)
    timeout: float | None = argument(default=None, minimum=0)
    pool: str | None = None
    begin_within: float | None = argument(default=None, minimum=0)
    received: dict[str, int] | None = None


@frozen(kw_only=True)
class AcquireRequest(Model):
    """Lease a sandbox of a pool; ``ttl`` is how long the lease may last."""

    timeout: float | None = argument(default=None, minimum=0)
    pool: str | None = None
    ttl: float | None = argument(default=None, minimum=0)


@frozen(kw_only=True)
class ReleaseRequest(Model):
    """Give a leased sandbox back."""

    sandbox_id: str


# Answers --------------------------------------------------------------------------------------------------------------


@frozen(kw_only=True)
class SandboxResponse(Model):
    """Which sandbox it is about."""

    sandbox_id: str


@frozen(kw_only=True)
class SandboxesResponse(Model):
    """Which sandboxes it is about."""

    sandbox_ids: list[str]


@frozen(kw_only=True)
class DoneResponse(Model):
    """A text that says what was done."""

    message: str


@frozen(kw_only=True)
class SizeResponse(Model):
    """The size of a file, in bytes."""

    size: int


@frozen(kw_only=True)
class RenewResponse(Model):
    """When a sandbox will be removed; null for never."""

    expires_at: datetime | None = None


@frozen(kw_only=True)
class InputResponse(Model):
    """Whether the program took the input; false if it had ended or closed it."""

    accepted: bool


@frozen(kw_only=True)
class CancelResponse(Model):
    """Whether there was such a call, running or waiting for its turn."""

    found: bool


@frozen(kw_only=True)
class AliveResponse(Model):
    """That the server answers."""

    status: Literal['ok'] = 'ok'


@frozen(kw_only=True)
class ErrorResponse(Model):
    """Why something failed: ``code`` names the exception's class for programs, ``message`` is for a person.

    It is the body of a response, the ``error`` of a stream's or a batch's line, and what the command line prints with ``--json``.

    ``detail`` is where programs written for ms-enclave look: the message, or a list of what does not fit in their request.
    """

    code: str
    message: str
    details: dict[str, Any] = Factory(dict)
    detail: Any = None


@frozen(kw_only=True)
class CheckResponse(Model):
    """Whether code could be run: ``complete``, ``incomplete`` (``indent`` begins its next line), ``invalid`` or ``unknown``."""

    status: str
    indent: str = ''


@frozen(kw_only=True)
class StreamEvent(Model):
    """What all streams have in common: ``event`` says what a line is about; the last one is ``end``, or ``error`` with why.

    ``seq`` numbers the events from 1 without a gap; ``alive`` (nothing to report) has none.
    """

    event: str
    seq: int | None = None
    error: ErrorResponse | None = None

    @property
    def is_last(self) -> bool:
        """Whether nothing comes after it."""
        return self.event in ('end', 'error')


@frozen(kw_only=True)
class CodeEvent(StreamEvent):
    """One line of a batch of programs.

    ``event`` is ``result`` (with ``index``, the program's place from 0, and ``result``), ``failed`` (with ``index`` and
    ``error``: that program could not be run), ``alive`` (nothing to report) and at the end ``end``, or ``error`` if the batch as
    a whole ended early.
    """

    index: int | None = None
    result: CodeResult | None = None


@frozen(kw_only=True)
class CellEvent(StreamEvent):
    """One line of a cell's stream.

    ``event`` is ``started`` (with ``cell_id`` and ``kernel``), ``output`` (with ``output``: one as a notebook stores it, of a
    stream the new text only, or ``clear_output``, ``update_display_data`` or ``input_request``), ``alive`` (nothing to
    report; has no number), and at the end ``end`` (with ``result``) or ``error``. ``seq`` numbers the events from 1 without a
    gap.
    """

    event: Literal['started', 'output', 'alive', 'end', 'error']
    cell_id: str | None = None
    kernel: str | None = None
    output: dict[str, Any] | None = None
    result: CellResult | None = None


@frozen(kw_only=True)
class ProcessEvent(StreamEvent):
    """One line of a process's stream.

    ``event`` is ``started`` (with ``pid`` and ``process_id``), ``stdout`` or ``stderr`` (with ``text``, or ``data`` where the
    bytes are not UTF-8), ``alive`` (nothing to report; has no number), and at the end ``end`` (with ``result``) or ``error``.
    ``seq`` numbers the events from 1 without a gap.
    """

    event: Literal['started', 'stdout', 'stderr', 'alive', 'end', 'error']
    process_id: str | None = None
    pid: int | None = None
    text: str | None = None
    data: bytes | None = None
    result: CommandResult | None = None


def chunk_event(stream: Literal['stdout', 'stderr'], data: bytes) -> ProcessEvent:
    """Return the event for a piece of output, as text where that loses nothing."""
    try:
        text = data.decode('utf-8')
    except UnicodeDecodeError:
        return ProcessEvent(event=stream, data=data)
    return ProcessEvent(event=stream, text=text)


def chunk_bytes(event: ProcessEvent) -> bytes:
    """Return the output an event carries."""
    return event.data if event.data is not None else (event.text or '').encode('utf-8')


# Answers of verbs -----------------------------------------------------------------------------------------------------


def response_type(verb: Verb) -> Any:
    """Return the type of the answer of a verb that answers with JSON."""
    return {None: DoneResponse, int: SizeResponse}.get(verb.gives, verb.gives)


def wrapped(request: Request[Any], value: Any) -> Any:
    """Return what a verb gave as its answer."""
    if value is None:
        return DoneResponse(message=VERBS[request.verb].done.format(**request.model_dump()))
    return SizeResponse(size=value) if isinstance(value, int) else value


def unwrapped(answer: Any) -> Any:
    """Return what a verb gave, of its answer."""
    if isinstance(answer, DoneResponse):
        return None
    if isinstance(answer, CheckResponse):
        return answer.status, answer.indent
    return answer.size if isinstance(answer, SizeResponse) else answer


# Errors ---------------------------------------------------------------------------------------------------------------


def error_response(error: Exception) -> ErrorResponse:
    """Return an exception as it travels, in the one form that all refusals and failures have; its message steers no terminal.

    Details that have no JSON form are left out.
    """
    record = error_record(error)
    try:
        wire.to_json(record)
    except InvalidArgumentError:
        record.update(details={}, detail=record['message'])
    texts = {name: printable(value) for name, value in record.items() if isinstance(value, str)}
    return ErrorResponse(**{**record, **texts})


def printable(text: str) -> str:
    """Return text with control characters as escapes, but for ends of lines and tabs."""
    if text.isprintable():
        return text
    return ''.join(
        c if c.isprintable() or c in '\n\t' else c.encode('unicode_escape', 'surrogatepass').decode('ascii')
        for c in text
    )


def rebuild_error(answer: Mapping[str, Any] | ErrorResponse) -> EnclaveError:
    """Return the exception that travelled. Only classes of `ERROR_TYPES` are ever made; an unknown code is a `ServerError`."""
    found = answer if isinstance(answer, ErrorResponse) else ErrorResponse.model_validate(answer)
    cls = ERROR_TYPES.get(found.code, ServerError)
    return cls(found.message, details=found.details)
