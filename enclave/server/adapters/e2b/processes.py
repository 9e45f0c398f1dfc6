"""The daemon's service for processes (layer 6): start, follow, take up again, input, signals, terminals.

A process that nobody follows continues, and what it writes then waits here up to a bound, past which the oldest makes room. Its
time limit is the deadline of the request that started it.
"""

from __future__ import annotations

import base64
import binascii
import json
import threading
from collections.abc import Generator, Iterator
from typing import Any

import flask

from enclave.deadline import Deadline
from enclave.errors import (
    AuthenticationError,
    EnclaveError,
    InvalidArgumentError,
    NotFoundError,
    OperationTimeoutError,
    SandboxStateError,
    ServerError,
)
from enclave.managers.protocol import KEEP_ALIVE_SECONDS
from enclave.records import CommandResult
from enclave.sandboxes.base import Sandbox
from enclave.sandboxes.output import signal_name
from enclave.sandboxes.process import Process
from enclave.server.adapters.e2b import connect
from enclave.server.adapters.e2b.connect import as_bytes, envelope, field, read_bytes
from enclave.server.adapters.e2b.services import asked_sandbox, checked_path, on_call, on_stream, remembered, verb
from enclave.server.processes import LiveProcess
from enclave.server.route import BYTES, Context, RawBody, Streamed

SERVICE = 'process.Process'
DEFAULT_USER = 'user'
"""E2B's usual account. It means whichever account a sandbox runs as by itself."""
MAX_KEEPALIVE_SECONDS = 90.0
MAX_SHOWN_BYTES = 64 << 10
"""How much of what a process was started with is kept for lists; of what is larger there is the program's name."""
_SIGNALS = {'SIGNAL_SIGTERM': 15, 'SIGNAL_SIGKILL': 9, '15': 15, '9': 9}
_PIECE_BYTES = 256 << 10


class DaemonProcess(LiveProcess):
    """A process that was started by this interface."""

    def __init__(
        self,
        sandbox_id: str,
        process: Process,
        *,
        config: dict[str, Any],
        tag: str | None,
        tty: bool,
        takes_input: bool,
    ) -> None:
        super().__init__(sandbox_id, process, attended=False, waits_alone=False)
        self.config = config if len(json.dumps(config)) <= MAX_SHOWN_BYTES else {'cmd': config['cmd'][:4096]}
        self.tag = tag
        self.has_terminal = tty
        self.takes_input = takes_input


# Start and follow -----------------------------------------------------------------------------------------------------


@on_stream(SERVICE, 'Start')
def e2b_start_process(context: Context, body: RawBody) -> Streamed:
    """Start a process and follow it: its number, its output as it comes, its end."""
    sandbox = asked_sandbox(context)
    message = next(connect.read_messages(body.stream), {})
    seconds = connect.read_timeout(flask.request.headers.get('Connect-Timeout-Ms'))
    context.service.policy.check_call_timeout(seconds, 'timeout')
    config = field(message, 'process', dict, {})
    command = field(config, 'cmd', str, '')
    argv = [command, *_strings(field(config, 'args', list, []), 'args')]
    env = field(config, 'envs', dict, {})
    tag = field(message, 'tag', str)
    size = _size(field(message, 'pty', dict))
    cwd = field(config, 'cwd', str) or None
    place = None if cwd is None else checked_path(sandbox, cwd)
    takes_input = field(message, 'stdin', bool, True)
    if tag is not None and len(tag) > 1000:
        raise InvalidArgumentError(f'a tag has at most 1000 characters, not {len(tag)}')
    if tag is not None and any(live.tag == tag for live in _running(context, sandbox)):
        raise InvalidArgumentError(f'a process with the tag {tag[:100]!r} runs already')
    start = verb(sandbox, 'start_process')

    def made() -> Any:
        return start(
            argv,
            0 if seconds is None else seconds,
            cwd=place,
            env=env,
            user=asked_user(),
            open_stdin=takes_input,
            tty=size,
        )

    shown = {'cmd': command, 'args': argv[1:], 'envs': env, **({} if cwd is None else {'cwd': cwd})}
    try:
        live = context.tenant.processes.start(
            sandbox.id,
            made,
            wrap=lambda process: DaemonProcess(
                sandbox.id, process, config=shown, tag=tag, tty=size is not None, takes_input=takes_input
            ),
            room=context.running_output(sandbox.id, None),
        )
    except InvalidArgumentError as error:
        if error.details.get('field') == 'user':  # the daemon names it so, since an account is looked up first
            raise AuthenticationError(error.message) from error
        raise
    remembered(context, sandbox).note('process started', pid=live.process.pid, cmd=command)
    return _follow(context, live, 0, None)


@on_stream(SERVICE, 'Connect')
def e2b_connect_process(context: Context, body: RawBody) -> Streamed:
    """Follow a process that runs, from what nobody has read yet."""
    sandbox = asked_sandbox(context)
    message = next(connect.read_messages(body.stream), {})
    seconds = connect.read_timeout(flask.request.headers.get('Connect-Timeout-Ms'))
    live = _find(context, sandbox, message)
    return _follow(context, live, live.read_seq, seconds)


def _follow(context: Context, live: LiveProcess, after: int, seconds: float | None) -> Streamed:
    gone = threading.Event()

    def leave() -> None:
        gone.set()
        live.wake()

    context.on_gone(leave)
    interval = _keepalive_interval()
    return Streamed(_frames(live, after, gone, interval, Deadline.after(seconds)), connect.JSON_STREAM)


def _keepalive_interval() -> float:
    text = flask.request.headers.get('Keepalive-Ping-Interval', '')
    seconds = float(text) if text.isdecimal() else 0.0  # infinite where it has hundreds of digits
    return min(seconds, MAX_KEEPALIVE_SECONDS) if seconds else KEEP_ALIVE_SECONDS


def _frames(
    live: LiveProcess, after: int, gone: threading.Event, interval: float, deadline: Deadline
) -> Iterator[bytes]:
    """Yield what travels of a process, until its end or the deadline of who follows it."""
    stream = 'pty' if isinstance(live, DaemonProcess) and live.has_terminal else None
    yield envelope({'event': {'start': {'pid': live.process.pid or 0}}})
    left = deadline.remaining()
    lines = live.events(after, gone, interval=interval if left is None else max(0.001, min(interval, left)))
    for line in lines:
        if deadline.has_expired():
            yield connect.end_of_stream(OperationTimeoutError('the time to follow the process is over; it continues'))
            return
        if line.event in ('stdout', 'stderr'):
            event = json.loads(line.text)
            data = event.get('data')
            if data is None:
                data = as_bytes(event.get('text', '').encode('utf-8'))
            yield envelope({'event': {'data': {stream or line.event: data}}})
        elif line.event == 'alive':
            yield envelope({'event': {'keepalive': {}}})
        elif line.is_last:
            yield from _last(live)
            return


def _last(live: LiveProcess) -> Generator[bytes, None, None]:
    """Yield the end of a process that has ended."""
    result = live.process.result
    if result is None:
        error: EnclaveError = live.error or ServerError('the process was lost')
        yield connect.end_of_stream(error)
        return
    if result.timed_out:
        yield connect.end_of_stream(
            OperationTimeoutError('the process was killed, since it ran for as long as it was given (timeout)')
        )
        return
    yield envelope({'event': {'end': _ending(result)}})
    yield connect.end_of_stream()


def _ending(result: CommandResult) -> dict[str, Any]:
    """Return how a process ended, as the daemon names it: by an exit, or by a signal as exit code -1."""
    if result.signal is None:
        ending: dict[str, Any] = {'exited': True, 'status': f'exit status {result.exit_code}'}
        if result.exit_code:
            ending.update(exitCode=result.exit_code, error=ending['status'])
        return ending
    text = 'out of memory' if result.oom_killed else _SIGNAL_NAMES.get(result.signal, result.signal)
    return {'exitCode': -1, 'exited': False, 'status': f'signal: {text}', 'error': f'signal: {text}'}


_SIGNAL_NAMES = {
    signal_name(number): text
    for number, text in {
        1: 'hangup',
        2: 'interrupt',
        3: 'quit',
        6: 'aborted',
        9: 'killed',
        11: 'segmentation fault',
        13: 'broken pipe',
        15: 'terminated',
    }.items()
}


# Those that run -------------------------------------------------------------------------------------------------------


@on_call(SERVICE, 'List')
def e2b_list_processes(context: Context, body: RawBody) -> dict[str, Any]:
    """Return the processes that run."""
    sandbox = asked_sandbox(context)
    return {'processes': [_as_listed(live) for live in _all_running(context, sandbox)]}


def _as_listed(live: LiveProcess) -> dict[str, Any]:
    if isinstance(live, DaemonProcess):
        tag = {} if live.tag is None else {'tag': live.tag}
        return {'config': live.config, 'pid': live.process.pid, **tag}
    command = live.process.command
    argv = ['/bin/sh', '-c', command] if isinstance(command, str) else list(command)
    return {'config': {'cmd': argv[0], 'args': argv[1:], 'envs': {}}, 'pid': live.process.pid}


def _all_running(context: Context, sandbox: Sandbox) -> list[LiveProcess]:
    return [live for live in context.tenant.processes.of(sandbox.id) if live.is_running]


def _running(context: Context, sandbox: Sandbox) -> list[DaemonProcess]:
    return [live for live in _all_running(context, sandbox) if isinstance(live, DaemonProcess)]


def _find(context: Context, sandbox: Sandbox, message: dict[str, Any]) -> LiveProcess:
    """Return the process that a message selects.

    Raises:
        NotFoundError: None such runs.
    """
    selector = field(message, 'process', dict, {})
    pid, tag = field(selector, 'pid', int), field(selector, 'tag', str)
    if pid is None and tag is None:
        raise InvalidArgumentError('process must be selected by pid or tag')
    for live in _all_running(context, sandbox):
        if pid is not None and live.process.pid == pid:
            return live
        if tag is not None and isinstance(live, DaemonProcess) and live.tag == tag:
            return live
    raise NotFoundError(f'process with {f"pid {pid}" if pid is not None else f"tag {tag!r}"} not found')


@on_call(SERVICE, 'SendInput', lane='call')
def e2b_send_input(context: Context, body: RawBody) -> dict[str, Any]:
    """Send input to a process; answers when the program has room for it."""
    sandbox = asked_sandbox(context)
    message = connect.read_message(body.stream.read(body.size))
    live = _find(context, sandbox, message)
    _send(context, live, field(message, 'input', dict, {}))
    return {}


def _send(context: Context, live: LiveProcess, given: dict[str, Any]) -> None:
    name = 'pty' if 'pty' in given else 'stdin'
    data = read_bytes(field(given, name, str, ''), name)
    if isinstance(live, DaemonProcess) and not (live.has_terminal or live.takes_input):
        raise SandboxStateError('the process takes no input: it was started without stdin')
    for start in range(0, len(data), _PIECE_BYTES):
        if context.cancellation.is_cancelled:
            return
        if not live.process.write(data[start : start + _PIECE_BYTES]):
            raise SandboxStateError('the process takes no input: it has ended, has closed it, or was started without')


@on_stream(SERVICE, 'StreamInput', body=BYTES, has_live_body=True)
def e2b_stream_input(context: Context, body: RawBody) -> Streamed:
    """Send input to a process in pieces, in their order."""
    sandbox = asked_sandbox(context)
    context.on_gone(context.cancellation.cancel)
    live: LiveProcess | None = None
    for message in connect.read_messages(body.stream):
        start, data = field(message, 'start', dict), field(message, 'data', dict)
        if start is not None:
            live = _find(context, sandbox, start)
        elif data is not None:
            if live is None:
                raise InvalidArgumentError('the stream must begin with a start message that selects the process')
            _send(context, live, field(data, 'input', dict, {}))
    return Streamed(iter((envelope({}), connect.end_of_stream())), connect.JSON_STREAM)


@on_call(SERVICE, 'CloseStdin')
def e2b_close_stdin(context: Context, body: RawBody) -> dict[str, Any]:
    """Say that a process gets no more input."""
    sandbox = asked_sandbox(context)
    message = connect.read_message(body.stream.read(body.size))
    _find(context, sandbox, message).process.close_stdin()
    return {}


@on_call(SERVICE, 'SendSignal')
def e2b_send_signal(context: Context, body: RawBody) -> dict[str, Any]:
    """Send SIGTERM to a process, or kill it and everything it started."""
    sandbox = asked_sandbox(context)
    message = connect.read_message(body.stream.read(body.size))
    number = _SIGNALS.get(str(message.get('signal')))
    if number is None:
        raise InvalidArgumentError(f'signal must be SIGNAL_SIGTERM or SIGNAL_SIGKILL, not {message.get("signal")!r}')
    live = _find(context, sandbox, message)
    if number == 9:
        live.process.kill()
    else:
        live.process.send_signal(number)
    return {}


@on_call(SERVICE, 'Update')
def e2b_update_process(context: Context, body: RawBody) -> dict[str, Any]:
    """Give the terminal of a process a new size."""
    sandbox = asked_sandbox(context)
    message = connect.read_message(body.stream.read(body.size))
    live = _find(context, sandbox, message)
    size = _size(field(message, 'pty', dict))
    if isinstance(live, DaemonProcess) and not live.has_terminal:
        raise SandboxStateError('the process has no terminal, so there is no size to change')
    if size is not None:
        live.process.resize(*size)
    return {}


# Fields ---------------------------------------------------------------------------------------------------------------


def _size(terminal: dict[str, Any] | None) -> tuple[int, int] | None:
    """Return (rows, columns) of a terminal; None is no terminal."""
    if terminal is None:
        return None
    size = field(terminal, 'size', dict, {})
    rows, columns = field(size, 'rows', int, 24), field(size, 'cols', int, 80)
    if not (0 < rows < 65536 and 0 < columns < 65536):
        raise InvalidArgumentError(
            f'the size of a terminal must be from 1 to 65535, not {rows} rows, {columns} columns'
        )
    return rows, columns


def _strings(values: list[Any], name: str) -> list[str]:
    if not all(isinstance(each, str) for each in values):
        raise InvalidArgumentError(f'{name} must be a list of strings')
    return values


def asked_user() -> str | None:
    """Return the account that a request names in ``Authorization: Basic``; None is the sandbox's own."""
    scheme, _, coded = flask.request.headers.get('Authorization', '').strip().partition(' ')
    if scheme.lower() != 'basic' or not coded:
        return None
    try:
        name = base64.b64decode(coded, validate=True).decode('utf-8').partition(':')[0]
    except (binascii.Error, ValueError):
        raise InvalidArgumentError('Authorization: Basic must hold a user name and a colon, in base64') from None
    return None if name in ('', DEFAULT_USER) else name
