"""Our end of the stream to an agent (layer 2): many calls at once, each with its number, over one stream.

A `Channel` lives as long as its sandbox runs. It owns one reader thread, which does nothing but cut frames, check them and
hand them to the calls they belong to; those that wait for a call do so on their own threads. Writers take turns by frame.

The peer is treated as hostile although it is our own program: it runs among code nobody trusts. Sizes are bounded before
anything is stored, every field is checked, nothing is evaluated, and the first breach closes the channel for good.
"""

from __future__ import annotations

import itertools
import logging
import math
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from attrs import Factory, define, field, frozen

from enclave.agent import bootstrap
from enclave.agent.program import (
    CHUNK,
    CONTROL,
    CREDIT,
    DATA,
    END,
    EOF,
    ERR,
    EVENT,
    HELLO,
    INPUT_WINDOW,
    MAX_PAYLOAD,
    MAX_REPLY,
    OPEN,
    PROTOCOL,
    U32,
    FrameDecoder,
    ProtocolError,
    encode_frame,
    pack_message,
    unpack_message,
)
from enclave.cancellation import is_cancelled, on_cancel
from enclave.channel.outgoing import OutgoingQueue, QueueFullError
from enclave.channel.streams import Stream
from enclave.deadline import Deadline
from enclave.errors import (
    CallCancelledError,
    InvalidArgumentError,
    OperationTimeoutError,
    SandboxBrokenError,
    SandboxGoneError,
    SandboxSilentError,
)

logger = logging.getLogger(__name__)

STREAM_WINDOW: Final = 1 << 18
"""Bytes of live output that may be under way to one slow reader."""
UNUSED_SECONDS: Final = 5.0
"""How long input that is sent may stay unused before somebody asks why."""
OVERRUN: Final = 4 << 20
"""Bytes an agent may send past a window: what the guest's pipes held when it ended (1 MiB each at most), and one frame."""
INLINE_BYTES: Final = CHUNK
"""Input up to this size travels in the OPEN frame."""
MAX_EVENTS: Final = 1000
"""The most events and ends of a half that one call may send; an agent sends two."""
EVENT_BYTES: Final = 4096
UNEXPECTED_OUTPUT_BYTES: Final = 500
"""How much is kept of what came instead of an agent's greeting: an engine's messages, mostly."""
CANCEL_WAIT_SECONDS: Final = 5.0
"""How long a cancellation waits for its turn to write. It may come from the garbage collector, in any thread's midst."""


@frozen(kw_only=True)
class Hello:
    """What an agent says of itself first. ``guarded``: it could make itself untraceable and adopt orphans."""

    protocol: int
    pid: int
    uid: int
    gid: int
    python: str
    guarded: bool
    shell: str
    cwd: str
    cwd_writable: bool
    cpus: tuple[int, ...] = ()


@frozen
class Lost:
    """Why a channel is no more. ``is_breach``: the peer broke the protocol; else its stream ended, or we closed it."""

    reason: str
    is_breach: bool = False
    is_ours: bool = False


class Reply:
    """A message from the peer, read field by field; a field of a wrong type or range is a breach."""

    def __init__(self, message: dict[str, Any]) -> None:
        self._message = message

    def __contains__(self, name: str) -> bool:
        return self._message.get(name) is not None

    def names(self) -> frozenset[str]:
        """Return the names of the fields that it has."""
        return frozenset([name for name, value in self._message.items() if value is not None])

    def integer(self, name: str, *, low: int = 0, high: int = 1 << 63) -> int:
        """Return a whole number within bounds."""
        value = self._message.get(name)
        if type(value) is not int or not low <= value <= high:
            raise ProtocolError(f'{name!r} is not a whole number from {low} to {high}')
        return value

    def number(self, name: str) -> float:
        """Return a finite number, 0 or more."""
        value = self._message.get(name)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e12:
            raise ProtocolError(f'{name!r} is not a number')
        return float(value)

    def signed(self, name: str) -> float:
        """Return a finite number of either sign."""
        value = self._message.get(name)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not -1e30 < value < 1e30:
            raise ProtocolError(f'{name!r} is not a number')
        return float(value)

    def flag(self, name: str) -> bool:
        """Return a truth value; absent is False."""
        value = self._message.get(name, False)
        if type(value) is not bool:
            raise ProtocolError(f'{name!r} is not true or false')
        return value

    def text(self, name: str) -> str:
        """Return a string."""
        value = self._message.get(name)
        if type(value) is not str:
            raise ProtocolError(f'{name!r} is not text')
        return value

    def pair(self, name: str) -> tuple[int, int]:
        """Return two whole numbers, the second not above the first."""
        value = self._message.get(name)
        if type(value) is not list or len(value) != 2:
            raise ProtocolError(f'{name!r} is not a pair of counts')
        total, sent = value
        if type(total) is not int or type(sent) is not int or total < 0 or sent < 0:
            raise ProtocolError(f'{name!r} is not a pair of counts')
        if sent > total:
            raise ProtocolError(f'{name!r} sent more than there was')
        return total, sent

    def integers(self, name: str, *, high: int = 1 << 16) -> tuple[int, ...]:
        """Return a list of whole numbers within bounds."""
        value = self._message.get(name)
        if type(value) is not list or len(value) > high or any(type(n) is not int or not 0 <= n < high for n in value):
            raise ProtocolError(f'{name!r} is not a list of numbers')
        return tuple(value)

    def facts(self, name: str) -> Reply:
        """Return a nested message."""
        value = self._message.get(name)
        if type(value) is not dict:
            raise ProtocolError(f'{name!r} is not an object')
        return Reply(value)


@define(eq=False)
class Call:
    """One call on a channel, from `Channel.open` to its END. Lives until the END was taken or the channel is lost.

    Frames wait here, in order, for the thread that takes them. Any thread may write input or control.
    """

    number: int
    _channel: Channel = field(repr=False)
    _limit: int
    _wakes_on_data: bool
    _changed: threading.Condition = field(factory=threading.Condition, init=False, repr=False)
    # All below is guarded by _changed.
    _frames: deque[tuple[int, bytes | bytearray]] = field(factory=deque, init=False, repr=False)
    _growing: dict[int, bytearray] = field(factory=dict, init=False, repr=False)
    _events_seen: int = field(default=0, init=False, repr=False)
    _received: int = field(default=0, init=False)
    _credit: int = field(default=INPUT_WINDOW, init=False)
    _wakes_at: float = field(default=math.inf, init=False)
    _end: tuple[dict[str, Any], bytes] | None = field(default=None, init=False, repr=False)
    _lost: Lost | None = field(default=None, init=False, repr=False)

    # The reader thread's side ----------------------------------------------------------------------------------------

    def _take(self, kind: int, payload: bytes) -> None:
        """Take a frame; ProtocolError when no correct agent sends it now."""
        with self._changed:
            if kind in (DATA, ERR):
                self._received += len(payload)
                if self._received > self._limit or not payload or len(self._frames) > 2 * STREAM_WINDOW:
                    raise ProtocolError(f'call {self.number} got more output than it allowed, or empty output')
                self._keep_locked(kind, payload)
                if not self._wakes_on_data and self._received < self._wakes_at:
                    return
            elif kind == CREDIT:
                if len(payload) != U32.size:
                    raise ProtocolError('a credit frame has a wrong size')
                self._credit += U32.unpack(payload)[0]
                if self._credit > INPUT_WINDOW:
                    raise ProtocolError(f'call {self.number} was given more credit than its window')
            elif kind == END:
                self._end = unpack_message(payload)
            elif kind in (EVENT, EOF) and self._events_seen < MAX_EVENTS and len(payload) <= EVENT_BYTES:
                self._events_seen += 1
                if kind == EVENT:
                    unpack_message(payload)
                self._frames.append((kind, payload))
            else:
                raise ProtocolError(f'call {self.number} got an unexpected frame of kind {kind}')
            self._changed.notify_all()

    def _keep_locked(self, kind: int, payload: bytes) -> None:
        """Add output to what waits. Small pieces are put together: an object each would take many times their size."""
        last = self._growing.get(kind)
        in_order = not self._wakes_on_data or (self._frames and self._frames[-1][0] == kind)
        if last is not None and in_order and len(last) + len(payload) <= CHUNK:
            last += payload
        elif len(payload) < CHUNK // 2:
            self._growing[kind] = last = bytearray(payload)
            self._frames.append((kind, last))
        else:
            self._growing.pop(kind, None)
            self._frames.append((kind, payload))

    def _lose(self, lost: Lost) -> None:
        with self._changed:
            self._lost = lost
            self._changed.notify_all()

    # The callers' side ------------------------------------------------------------------------------------------------

    def next_frame(self, deadline: Deadline) -> tuple[int, bytes] | None:
        """Return the next frame ``(kind, payload)`` of output, or None when the call has ended and all is taken.

        Output that is taken is paid for with new credit, so that a slow caller slows the guest down and not us.

        Raises:
            OperationTimeoutError: Nothing came before the deadline.
            SandboxGoneError, SandboxBrokenError: The channel was lost.
        """
        with self._changed:
            ready = self._changed.wait_for(
                lambda: self._frames or self._end is not None or self._lost is not None, deadline.remaining()
            )
            if not self._frames:
                self._check_lost_locked()
                if not ready:
                    raise OperationTimeoutError('the call sent nothing within the time limit')
                return None
            kind, payload = self._frames.popleft()
            if self._growing.get(kind) is payload:
                del self._growing[kind]
            pays = kind in (DATA, ERR) and self._end is None and self._lost is None
            if pays:
                self._limit += len(payload)
        if pays:
            self._channel.send(CREDIT, self.number, U32.pack(len(payload)))
        return kind, bytes(payload)

    def wait_ready(self, deadline: Deadline, *, for_end: bool = False) -> bool:
        """Return whether `next_frame` would not wait, as soon as that is so or the deadline has passed; nothing is taken.

        Args:
            for_end: Wait for the call's end alone, and whether or not the work is cancelled: it is what ends then.

        Raises:
            CallCancelledError: The caller's work was cancelled. The call itself continues.
        """

        def is_ready() -> bool:
            return bool(self._frames and not for_end) or self._end is not None or self._lost is not None

        if for_end:
            with self._changed:
                return self._changed.wait_for(is_ready, deadline.remaining())
        with on_cancel(self._wake), self._changed:
            self._changed.wait_for(lambda: is_ready() or is_cancelled(), deadline.remaining())
            if not is_ready() and is_cancelled():
                raise CallCancelledError('the waiting was cancelled; what was waited for continues')
            return is_ready()

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def wait_small(self, deadline: Deadline, size: float) -> bool | None:
        """Return whether the call ends with less than ``size`` bytes of output, as soon as it is known; None at the deadline."""
        return self._received < size if self.wait_output(deadline, size) else None  # once known, it stays so

    def wait_output(self, deadline: Deadline, size: float) -> bool:
        """Return whether the call has ended, or ``size`` bytes of output have come in all; when the deadline has passed, too."""
        with self._changed:
            self._wakes_at = size
            found = self._changed.wait_for(
                lambda: self._received >= size or self._end is not None or self._lost is not None, deadline.remaining()
            )
            self._wakes_at = math.inf
            return found

    def wait(self, deadline: Deadline) -> Reply:
        """Wait for the call to end and return what the agent says of it.

        Raises:
            OperationTimeoutError: It did not end before the deadline; it continues.
            SandboxGoneError, SandboxBrokenError: The channel was lost before.
        """
        with self._changed:
            if self._end is None:  # hardly ever: one has waited already, for this or for output
                self._changed.wait_for(lambda: self._end is not None or self._lost is not None, deadline.remaining())
            if self._end is None:
                self._check_lost_locked()
                raise OperationTimeoutError('the agent in the sandbox did not answer within the time limit')
            return Reply(self._end[0])

    @property
    def has_ended(self) -> bool:
        """Whether the call has ended, well or not."""
        with self._changed:
            return self._end is not None or self._lost is not None

    def take_output(self) -> tuple[bytes, bytes]:
        """Return all output that has come and was not taken, as ``(stdout, stderr)``."""
        with self._changed:
            frames, self._frames = self._frames, deque()
            self._growing.clear()
        pieces: dict[int, list[bytes | bytearray]] = {DATA: [], ERR: [], EVENT: [], EOF: []}
        for kind, payload in frames:
            pieces[kind].append(payload)
        return b''.join(pieces[DATA]), b''.join(pieces[ERR])

    def take_pieces(self) -> Iterable[tuple[int, bytes | bytearray]]:
        """Return all output that has come and was not taken, as it came: ``(kind, payload)``; other frames are dropped."""
        with self._changed:
            frames, self._frames = self._frames, deque()
            self._growing.clear()
        return [frame for frame in frames if frame[0] in (DATA, ERR)]

    def take_rest(self) -> bytes:
        """Return the bytes that came with the END."""
        with self._changed:
            return b'' if self._end is None else self._end[1]

    def _check_lost_locked(self) -> None:
        if self._lost is not None and self._end is None:
            raise self._channel.explain(self._lost)

    def write(self, data: bytes, deadline: Deadline, check: Callable[[], None] | None = None) -> bool:
        """Send input, as fast as the peer uses it up; False when the call ended before all was sent.

        Args:
            check: Called when nothing was used up for `UNUSED_SECONDS`, to raise if nothing will be.
        """
        view = memoryview(data)
        while view:
            with self._changed:
                until = deadline if check is None else deadline.earlier(UNUSED_SECONDS)
                self._changed.wait_for(
                    lambda: self._credit > 0 or self._end is not None or self._lost is not None, until.remaining()
                )
                self._check_lost_locked()
                if self._end is not None:
                    return False
                size = min(self._credit, CHUNK, len(view))
                if size <= 0 and deadline.has_expired():
                    raise OperationTimeoutError('the program did not read its input within the time limit')
                self._credit -= max(size, 0)
            if size > 0:
                self._channel.send(DATA, self.number, bytes(view[:size]))
                view = view[size:]
            elif check is not None:
                check()
        return True

    def write_all(self, chunks: Iterable[bytes], check: Callable[[], None] | None = None) -> bool:
        """Send several pieces of input; see `write`."""
        return all(self.write(chunk, Deadline(), check) for chunk in chunks)

    def close_input(self) -> None:
        """Say that no more input comes."""
        self._channel.send(EOF, self.number, b'')

    def control(self, **message: Any) -> None:
        """Send a control message: ``signal`` and ``target``, ``resize``, ``cancel``."""
        self._channel.send(CONTROL, self.number, pack_message(message))

    def cancel(self) -> None:
        """Ask for the call's end: its processes are killed, half a file is rolled back. Its END still comes."""
        self._channel.send(CONTROL, self.number, pack_message({'cancel': True}), quiet=True)


@define(eq=False)
class Channel:
    """See the module's docstring. Any thread may open calls; `start` comes first, `close` may come at any time and twice."""

    name: str
    _stream: Stream = field(repr=False)
    _program: bytes | None = field(default=None, repr=False, kw_only=True)  # what starts the agent, if not `bootstrap`
    hello: Hello | None = field(default=None, init=False)
    _lock: threading.Lock = field(factory=threading.Lock, init=False, repr=False)
    # Guarded by _lock:
    _calls: dict[int, Call] = field(factory=dict, init=False, repr=False)
    _lost: Lost | None = field(default=None, init=False)
    _writing: threading.Lock = field(factory=threading.Lock, init=False, repr=False)  # the queue's
    _outgoing: OutgoingQueue = field(init=False, repr=False)
    _numbers: Iterator[int] = field(default=Factory(lambda: itertools.count(1)), init=False, repr=False)
    _greeted: threading.Event = field(factory=threading.Event, init=False, repr=False)
    _reader: threading.Thread | None = field(default=None, init=False, repr=False)
    _unexpected: str = field(default='', init=False, repr=False)  # what came instead of a greeting

    def __attrs_post_init__(self) -> None:
        self._outgoing = OutgoingQueue(self._stream, self.name, self._fail_writing, self._writing)

    def _fail_writing(self, error: OSError) -> None:
        self._lose(Lost(f'the stream failed: {error}'))

    def start(self, deadline: Deadline) -> Hello:
        """Send the agent over the stream and wait for its greeting.

        Raises:
            SandboxGoneError: The stream ended; the message carries the peer's last output.
            SandboxBrokenError: Something other than an agent answers.
            OperationTimeoutError: Nothing answered in time.
        """
        self._reader = threading.Thread(target=self._read, name=f'enclave-channel-{self.name}', daemon=True)
        self._reader.start()
        program, self._program = self._program or bootstrap(), None  # 400 KB that nobody needs twice
        try:
            self._outgoing.put(program)
        except OSError as error:
            self._fail_writing(error)
        if not self._greeted.wait(deadline.remaining()):
            raise OperationTimeoutError('the agent in the sandbox did not answer within the time limit')
        if self.hello is None:
            raise self.explain(self._lost or Lost('the stream ended'))
        return self.hello

    def open(
        self,
        message: dict[str, Any],
        data: bytes = b'',
        *,
        window: int = STREAM_WINDOW,
        limit: int | None = None,
        live: bool = False,
    ) -> Call:
        """Start a call.

        Args:
            message: The operation and its arguments; see `enclave.agent.program`.
            data: The first input, at most `INLINE_BYTES`.
            window: Bytes of output the agent may send before it needs more credit.
            limit: The most bytes of output that can be right; default is the window and what may overrun it.
            live: Wake those that wait for each piece of output, not for the end alone.
        """
        payload = pack_message({**message, 'window': window}, data)
        if len(payload) > MAX_PAYLOAD:
            raise InvalidArgumentError(
                f'the command, its arguments and environment take {len(payload)} bytes; the limit is {MAX_PAYLOAD}. '
                'Send large data as stdin, a script or a file'
            )
        call = Call(next(self._numbers), self, window + OVERRUN if limit is None else limit, live)
        call._credit -= len(data)
        with self._lock:
            if self._lost is not None:
                raise self.explain(self._lost)
            self._calls[call.number] = call
        try:
            self.send(OPEN, call.number, payload)
        except SandboxSilentError:
            with self._lock:
                self._calls.pop(call.number, None)
            raise
        return call

    def send(self, kind: int, number: int, payload: bytes, *, quiet: bool = False) -> None:
        """Send one frame, without waiting for a peer that takes nothing. A stream that fails loses the channel.

        Args:
            quiet: Try for a moment, and say nothing of failing.
        """
        frame = encode_frame(kind, number, payload)
        try:
            self._outgoing.put(frame, CANCEL_WAIT_SECONDS if quiet else -1)
        except OSError as error:
            self._fail_writing(error)
            if not quiet:
                raise self.explain(self._lost or Lost(str(error))) from error
        except QueueFullError:
            if not quiet:
                raise SandboxSilentError(
                    f'sandbox {self.name} takes nothing any more that is sent to it; it may be paused or frozen. It can be used '
                    'again when it is thawed',
                    details={'sandbox_id': self.name},
                ) from None
        except BaseException as error:
            # Ctrl-C, say. Nobody knows how much of the frame has gone, so no other can follow it.
            self._lose(Lost(f'a message to its agent was cut short by {type(error).__name__}'))
            raise

    @property
    def lost(self) -> Lost | None:
        """Why the channel is no more, or None while it is good."""
        return self._lost  # one reading, which needs no lock: each call asks

    @property
    def active_calls(self) -> int:
        """How many calls have not ended."""
        with self._lock:
            return len(self._calls)

    def diagnostics(self) -> str:
        """Return the peer's last output outside the protocol."""
        return f'{self._stream.diagnostics()}{self._unexpected}'

    def explain(self, lost: Lost) -> SandboxGoneError | SandboxBrokenError:
        """Return the exception that says why this channel is no more."""
        if lost.is_breach:
            return SandboxBrokenError(
                f'sandbox {self.name}: its agent broke the protocol ({lost.reason}); the channel is closed. '
                'Delete the sandbox and make a new one'
            )
        tail = self.diagnostics()
        return SandboxGoneError(
            f'sandbox {self.name}: {lost.reason}{f"; the end of its output: {tail}" if tail else ""}'
        )

    def fail(self, lost: Lost) -> None:
        """Close the channel because of what an answer said."""
        logger.warning('channel %s: %s', self.name, lost.reason)
        self._lose(lost)

    def close(self) -> None:
        """Close the stream, which ends the agent, and wait for the reader to leave."""
        self._lose(Lost('the sandbox was stopped', is_ours=True))
        reader = self._reader
        if reader is not None and reader.ident is not None and reader is not threading.current_thread():
            reader.join(5.0)
            if reader.is_alive():
                logger.warning('the reader of channel %s has not left; its stream does not close', self.name)

    # The reader thread ------------------------------------------------------------------------------------------------

    def _read(self) -> None:
        decoder, data = FrameDecoder(MAX_REPLY), b''
        try:
            while data := self._stream.read():
                for kind, number, payload in decoder.feed(data):
                    self._dispatch(kind, number, payload)
            lost = Lost('its stream ended' + (' in the middle of a frame' if decoder.has_partial_frame() else ''))
        except ProtocolError as error:
            logger.warning('channel %s: %s', self.name, error)
            if self.hello is None:
                self._unexpected = data[:UNEXPECTED_OUTPUT_BYTES].decode('utf-8', 'backslashreplace').strip()
            lost = Lost(str(error), is_breach=True)
        except (OSError, ValueError) as error:
            lost = Lost(f'its stream failed: {error}')
        except Exception as error:
            logger.exception('channel %s: reading failed', self.name)
            lost = Lost(f'reading its stream failed: {error!r}', is_breach=True)
        self._lose(lost)

    def _dispatch(self, kind: int, number: int, payload: bytes) -> None:
        if self.hello is None:
            if kind != HELLO or number != 0:
                raise ProtocolError('the first frame is no greeting')
            self.hello = read_hello(unpack_message(payload)[0])
            self._greeted.set()
            return
        if kind == END:
            with self._lock:
                call = self._calls.pop(number, None)
        else:
            with self._lock:
                call = self._calls.get(number)
        if call is None:
            raise ProtocolError(f'a frame for call {number}, which is not open')
        call._take(kind, payload)

    def _lose(self, lost: Lost) -> None:
        """Close the channel for good; the first reason stands. Called by the reader, by writers that fail and by close."""
        with self._lock:
            if self._lost is None:
                self._lost = lost
            lost = self._lost
            calls = list(self._calls.values())
            self._calls.clear()
        for call in calls:
            call._lose(lost)
        self._outgoing.close()
        try:
            self._stream.close()
        except Exception:
            logger.warning('closing the stream of channel %s failed', self.name, exc_info=True)
        self._greeted.set()


def read_hello(message: dict[str, Any]) -> Hello:
    """Return a checked greeting; ProtocolError for anything else."""
    facts = Reply(message)
    hello = Hello(
        protocol=facts.integer('protocol'),
        pid=facts.integer('pid'),
        uid=facts.integer('uid'),
        gid=facts.integer('gid'),
        python=facts.text('python'),
        guarded=facts.flag('guarded'),
        shell=facts.text('shell'),
        cwd=facts.text('cwd'),
        cwd_writable=facts.flag('cwd_writable'),
        cpus=facts.integers('cpus') if 'cpus' in facts else (),
    )
    if hello.protocol != PROTOCOL:
        raise ProtocolError(f'the agent speaks protocol {hello.protocol}, not {PROTOCOL}')
    return hello
