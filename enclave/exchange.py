"""HTTP requests that end when the work they are made for is cancelled (layer 0).

A transfer may be blocked in the midst of a system call, because the other side takes nothing or sends nothing. What ends that
is ending the connection under it, from the thread that cancels. But a connection goes back to its pool as soon as its answer
was read, and may carry somebody else's request a moment later. So the connections here know which
`CancellableRequest` they serve, and notify it when they no longer do.

Both HTTP clients, the container engine's client and the manager's, stand on urllib3, and have these connections put in
their pools.
"""

from __future__ import annotations

import contextlib
import contextvars
import io
import socket
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from http.client import HTTPException, HTTPMessage, HTTPResponse
from types import MappingProxyType
from typing import Any, Protocol

from attrs import define, field
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.util.wait import wait_for_read

from enclave.cancellation import is_cancelled, on_cancel
from enclave.errors import CallCancelledError

JOINED_BYTES = 64 << 10
"""A body up to this size is sent together with its head."""
LISTEN_SECONDS = 5.0
"""How long the answer to a request that was cut short is waited for, where it is."""

_current: contextvars.ContextVar[CancellableRequest | None] = contextvars.ContextVar('enclave_exchange', default=None)


@define(eq=False)
class CancellableRequest:
    """One request and its answer. Lives until the answer was read. Any thread may hang up.

    Args:
        what: What it is for, as a noun: ``'the download'``.
        listens: Hang up by saying no more, and still hear the answer for a while: it says that the other side has let go.

    Attributes:
        attempts: How often it was sent.
        was_connected: Whether it ever had a connection, so that some of it may have been sent.
    """

    what: str
    listens: bool = field(default=False, kw_only=True)
    attempts: int = field(default=0, init=False)
    was_connected: bool = field(default=False, init=False)
    _lock: threading.Lock = field(factory=threading.Lock, init=False, repr=False)
    # Guarded by _lock:
    _socket: Any = field(default=None, init=False, repr=False)
    _is_hung_up: bool = field(default=False, init=False)
    _patience: threading.Timer | None = field(default=None, init=False, repr=False)

    @property
    def is_hung_up(self) -> bool:
        """Whether `hang_up` was called."""
        with self._lock:
            return self._is_hung_up

    def hang_up(self) -> None:
        """End it, now or as soon as it has a connection; the one that is blocked in it wakes up with an error."""
        with self._lock:
            self._is_hung_up = True
            self._shut_locked()
            if self.listens and self._patience is None:
                self._patience = threading.Timer(LISTEN_SECONDS, self._hear_no_more)
                self._patience.name, self._patience.daemon = 'enclave-hang-up', True
                self._patience.start()

    def break_off(self) -> None:
        """End its connection, which is an error to the one that is blocked in it, and not a cancellation."""
        with self._lock:
            listens, self.listens = self.listens, False
            self._shut_locked()
            self.listens = listens

    def _hear_no_more(self) -> None:
        with self._lock:
            self.listens = False
            self._shut_locked()

    def _end(self) -> None:
        """Break off what has not come to its end, and refer to nothing any more."""
        with self._lock:
            self.listens = False
            self._shut_locked()
            self._socket = None
            patience, self._patience = self._patience, None
        if patience is not None:
            patience.cancel()

    def take(self, connected: Any) -> None:
        """Learn which socket it goes over, None for none any more. For `TrackedConnection`."""
        with self._lock:
            self._socket = connected
            self.was_connected = self.was_connected or connected is not None
            if self._is_hung_up:
                self._shut_locked()

    def _shut_locked(self) -> None:
        how = socket.SHUT_WR if self.listens else socket.SHUT_RDWR
        with contextlib.suppress(OSError):  # it has ended by itself
            # Under TLS too the plain way: an `ssl.SSLSocket` that is shut sends what comes next as plain text.
            if isinstance(self._socket, socket.socket):
                socket.socket.shutdown(self._socket, how)

    @contextlib.contextmanager
    def made(self) -> Iterator[None]:
        """Have the next request of this thread, to be made within the block, be this exchange's."""
        self.attempts += 1
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Hang up if the caller's work is cancelled within the block, and if the block ends before the answer was read.

        Raises:
            CallCancelledError: It was, or had been before; in the place of whatever came of that.
        """
        if is_cancelled():
            raise CallCancelledError(f'{self.what} was cancelled before it began')
        with on_cancel(self.hang_up):
            try:
                yield
            except CallCancelledError:
                raise
            except Exception as error:
                if self.is_hung_up:
                    raise CallCancelledError(f'{self.what} was cancelled') from error
                raise
            finally:
                self._end()


class TrackedConnection:
    """Mixed into a connection class: says to the exchange that it serves which socket it has."""

    sock: Any
    _exchange: CancellableRequest | None = None
    _held: list[bytes] | None = None

    def connect(self) -> None:
        """Connect."""
        super().connect()  # type: ignore[misc]
        self.show_socket()

    def request(self, *args: Any, **kwargs: Any) -> None:
        """Send a request; its head and a small body at once, since two sends would wake the other side twice."""
        self._begin()
        body = kwargs.get('body')
        if not isinstance(body, bytes) or len(body) > JOINED_BYTES:
            super().request(*args, **kwargs)  # type: ignore[misc]
            return
        held: list[bytes] = []
        self._held = held
        try:
            super().request(*args, **kwargs)  # type: ignore[misc]
        finally:
            self._held = None
        self.send(b''.join(held))

    def send(self, data: Any) -> None:
        """Send data, or hold it until the request is whole."""
        if self._held is not None:
            self._held.append(data)
        else:
            super().send(data)  # type: ignore[misc]

    def request_chunked(self, *args: Any, **kwargs: Any) -> None:
        """Send a request whose body comes in pieces; urllib3 before 2 has another method for that."""
        self._begin()
        super().request_chunked(*args, **kwargs)  # type: ignore[misc]

    def _begin(self) -> None:
        exchange = _current.get()
        if exchange is not None:
            self._exchange = exchange
            _current.set(None)  # what gives the body may make requests of its own
            self.show_socket()

    def show_socket(self) -> None:
        """Say which socket there is, if any."""
        if self._exchange is not None and self.sock is not None:
            self._exchange.take(self.sock)

    def let_go(self) -> None:
        """Serve no exchange any more."""
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.take(None)


class TrackedPool:
    """Mixed into a pool class whose connections are `TrackedConnection`."""

    def _put_conn(self, conn: Any) -> None:
        if conn is not None:
            conn.let_go()
        super()._put_conn(conn)  # type: ignore[misc]


class _Response(HTTPResponse):
    """Reads its head without the parser for mail, which takes longer than all else here. Anything unusual is left to that."""

    def begin(self) -> None:
        fp: Any = self.fp
        if self.headers is not None or not isinstance(fp, io.BufferedReader):
            super().begin()
            return
        fp.peek(1)
        text = fp.peek()
        end = text.find(b'\r\n\r\n')
        if (
            end < 0
            or not text.startswith(b'HTTP/1.1 ')
            or text[9:10] == b'1'
            or b'\n ' in text[:end]
            or b'\n\t' in text[:end]
        ):
            super().begin()
            return
        status, _, lines = text[:end].decode('latin-1').partition('\r\n')
        number, _, reason = status[9:].partition(' ')
        pairs = [line.split(':', 1) for line in lines.split('\r\n')] if lines else []
        if (
            not (number.isascii() and number.isdigit())
            or len(number) != 3
            or not {2}.issuperset(map(len, pairs))
            or '\n' in reason
        ):
            super().begin()
            return
        fp.read(end + 4)
        self.version, self.code, self.status, self.reason = 11, int(number), int(number), reason.strip()
        message = HTTPMessage()
        for name, value in pairs:
            message[name] = value.lstrip(' \t')
        self.headers = self.msg = message
        self.chunked = message.get('transfer-encoding', '').lower() == 'chunked'
        self.chunk_left: Any = None
        self.will_close = self._check_close()
        length = message.get('content-length', '')
        if length.isdigit() and len(length) > _MOST_DIGITS and not self.chunked:
            raise HTTPException(f'no body has a length of {length[:40]}')
        self.length: Any = int(length) if _is_length(length) and not self.chunked else None
        if self.status in (204, 304) or self._method == 'HEAD':
            self.length = 0
        if not self.will_close and not self.chunked and self.length is None:
            self.will_close = True


class _HttpConnection(TrackedConnection, HTTPConnection):
    response_class = _Response


class _HttpsConnection(TrackedConnection, HTTPSConnection):
    response_class = _Response


class _HttpPool(TrackedPool, HTTPConnectionPool):
    ConnectionCls = _HttpConnection


class _HttpsPool(TrackedPool, HTTPSConnectionPool):
    ConnectionCls = _HttpsConnection


class Broken(Exception):
    """A connection ended before its answer did."""


@define(eq=False, frozen=True)
class WholeResponse:
    """An answer that has come to its end.

    Attributes:
        headers: By their names in lower case.
        reader: What took the body, where the one that asked has a reader for its media type; ``content`` is empty then.
    """

    status: int
    headers: dict[str, str]
    content: bytes | bytearray
    reader: Any = None


class BodyReader(Protocol):
    """Takes a body as it comes. Its errors are those of the one that asks."""

    def take(self, data: memoryview) -> bool:
        """Take what came, which is another's a moment later; return whether more may follow."""


_NO_READERS: Mapping[str, Callable[[], BodyReader]] = MappingProxyType({})


class QuickLines:
    """Connections for requests whose body and whose answer are whole: each is one send, and as few reads as it takes.

    urllib3 makes the connections, and its checks of a new one are made. What is left out is what it does for each request beyond
    that: some three hundred functions. Only for addresses without TLS and without a proxy between. Any thread may use it.

    Args:
        pool: urllib3's pool, which makes connections.
        most: How many are kept while they rest.
        connect_timeout: Seconds a connection may take.
        readers: What makes a reader for bodies of a media type that are sent in chunks.
    """

    def __init__(
        self,
        pool: HTTPConnectionPool,
        most: int,
        connect_timeout: float,
        readers: Mapping[str, Callable[[], BodyReader]] = _NO_READERS,
    ) -> None:
        self._pool = pool
        self._most = most
        self._connect_timeout = connect_timeout
        self._readers = readers
        self._resting: list[Any] = []  # appending and popping are whole by themselves
        self._is_closed = False
        weakref.finalize(self, _close_all, self._resting)  # as urllib3's pools do

    def close(self) -> None:
        """Close those that rest; those in use are closed when their answers have come."""
        self._is_closed = True
        self._drop()

    def _drop(self) -> None:
        _close_all(self._resting)

    def _take(self) -> Any:
        while True:
            try:
                connection = self._resting.pop()
            except IndexError:
                break
            if not wait_for_read(connection.sock, timeout=0.0):
                return connection
            connection.close()  # by the other side, while it rested
        connection = self._pool._new_conn()
        connection.timeout = self._connect_timeout
        connection.connect()
        return connection

    def ask(
        self, head: bytes, body: bytes | None, read_timeout: float | None, silence: float | None = None
    ) -> WholeResponse:
        """Send a request and return its answer.

        Args:
            head: All before the body, with the empty line.
            read_timeout: Seconds until the answer must have begun, and any piece of it; None for no limit.
            silence: Seconds to wait for another piece of an answer that is not whole by then.

        Raises:
            Broken: The connection ended before the answer did; so may all that rest.
            TimeoutError: The answer did not come in time.
            OSError: The connection failed otherwise; or an error of urllib3's, where none came about.
        """
        connection = self._take()
        try:
            link = connection.sock
            link.settimeout(read_timeout)
            is_taken = True
            try:
                if body is None or len(body) <= JOINED_BYTES:
                    link.sendall(head if body is None else head + body)
                else:
                    link.sendall(head)
                    link.sendall(body)
            except (BrokenPipeError, ConnectionResetError):
                is_taken = False  # a server that refuses a body answers before it has all of it, and closes
            patience = None
            if read_timeout is not None and silence is not None and silence < read_timeout:
                patience = _Patience(link, time.monotonic() + read_timeout, silence)
            response, is_reusable = _read_whole(link, self._readers, patience)
            is_reusable = is_reusable and is_taken
        except BaseException as error:
            connection.close()
            if isinstance(error, (Broken, OSError)) and not isinstance(error, TimeoutError):
                self._drop()
            raise
        if not is_reusable or self._is_closed or len(self._resting) >= self._most:
            connection.close()
        else:
            self._resting.append(connection)
            if self._is_closed:
                self._drop()
        return response


def _close_all(resting: list[Any]) -> None:
    while True:
        try:
            resting.pop().close()
        except IndexError:
            return


_HEAD_BYTES = 1 << 16
_LONGEST_HEAD = 1 << 20
_PIECE_BYTES = 1 << 18
_LONGEST_LINE = 1 << 12
_MOST_TRAILERS = 100
_MOST_DIGITS = 15
"""How many digits a length may have: beyond that it is none that a body can have."""
_WAIT_FOR_ALL = getattr(socket, 'MSG_WAITALL', 0)


class _Patience:
    """How long the next piece of an answer is waited for: until its time is over, or beyond that for no longer than a silence."""

    __slots__ = ('_ends_at', '_link', '_silence')

    def __init__(self, link: socket.socket, ends_at: float, silence: float) -> None:
        self._link = link
        self._ends_at = ends_at
        self._silence = silence

    def renew(self) -> None:
        """Wait for another piece."""
        self._link.settimeout(max(self._silence, self._ends_at - time.monotonic()))


def _read_whole(
    link: socket.socket,
    readers: Mapping[str, Callable[[], BodyReader]] = _NO_READERS,
    patience: _Patience | None = None,
) -> tuple[WholeResponse, bool]:
    """Return an answer, and whether another request may follow over its connection."""
    data = link.recv(_HEAD_BYTES)
    while (end := data.find(b'\r\n\r\n')) < 0:
        if not data or b'\n\n' in data or len(data) > _LONGEST_HEAD:
            return _read_unusual(link, data)
        if patience is not None:
            patience.renew()
        more = link.recv(_HEAD_BYTES)
        if not more:
            raise Broken('the connection ended in the head of an answer')
        data += more
    lines = data[:end].decode('latin-1').split('\r\n')
    version, _, rest = lines[0].partition(' ')
    number = rest[:3]
    headers: dict[str, str] = {}
    for line in lines[1:]:
        name, colon, value = line.partition(':')
        name = name.lower()
        if not colon or name in headers or name[:1] in (' ', '\t', ''):
            return _read_unusual(link, data)
        headers[name] = value.strip(' \t')
    length = headers.get('content-length', '')
    is_usual = (
        version == 'HTTP/1.1'
        and number.isascii()
        and number.isdigit()
        and number >= '200'
        and number not in ('204', '304')
    )
    coding = headers.get('transfer-encoding')
    if is_usual and coding == 'chunked' and not length:
        make = readers.get(headers.get('content-type', ''))
        if make is not None:
            reader = make()
            try:
                is_whole = _read_chunks(link, data[end + 4 :], reader, patience)
            except MemoryError:
                raise Broken('there is no memory for an answer') from None
            is_reusable = is_whole and headers.get('connection', '').lower() != 'close'
            return WholeResponse(int(number), headers, b'', reader), is_reusable
    if not is_usual or not _is_length(length) or coding is not None:
        return _read_unusual(link, data)
    size, begun = int(length), len(data) - end - 4
    if begun > size:
        return _read_unusual(link, data)
    first = data[end + 4 :]
    content = first if begun == size else _read_rest(link, first, size, patience)
    return WholeResponse(int(number), headers, content), headers.get('connection', '').lower() != 'close'


def _is_length(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS


def _read_rest(link: socket.socket, begun: bytes, size: int, patience: _Patience | None) -> bytearray:
    """Return a body of which a beginning was read."""
    try:
        made = bytearray(size)
    except MemoryError:
        raise Broken(f'there is no memory for an answer of {size} bytes') from None
    made[: len(begun)] = begun
    view, at = memoryview(made), len(begun)
    while at < size:
        if patience is not None:
            patience.renew()
        count = link.recv_into(view[at:], 0, _WAIT_FOR_ALL)
        if not count:
            raise Broken(f'the connection ended after {at} of {size} bytes')
        at += count
    view.release()
    return made


def _read_chunks(link: socket.socket, begun: bytes, reader: BodyReader, patience: _Patience | None) -> bool:
    """Have a body that comes in chunks be read, and return whether to its end: of one that cannot be read, the rest is left."""
    buffer = bytearray(_PIECE_BYTES)
    view = memoryview(buffer)
    data, line = memoryview(begun), bytearray()
    left = 0  # of a chunk, and of the end of its line
    is_last = False
    trailers = 0
    while True:
        while data:
            if left > 2:
                piece = data[: left - 2]
                if not reader.take(piece):
                    return False
            elif left:
                piece = data[:left]
                if bytes(piece) != b'\r\n'[2 - left : 2 - left + len(piece)]:
                    raise Broken('a chunk of an answer does not end where it should')
            else:
                end = bytes(data[:_LONGEST_LINE]).find(b'\n') + 1
                piece = data[: end or len(data)]
                line += piece
                if len(line) > _LONGEST_LINE:
                    raise Broken('an answer in chunks has a line that is too long')
                data = data[len(piece) :]
                if not end:
                    continue
                text = bytes(line).rstrip(b'\r\n')
                line.clear()
                if is_last:
                    if text:
                        trailers += 1
                        if trailers > _MOST_TRAILERS:
                            raise Broken('an answer has too many headers behind its body')
                        continue
                    if data:
                        raise Broken('there is something behind an answer')
                    return True
                size = text.partition(b';')[0].strip(b' \t')
                if not size or len(size) > _MOST_DIGITS or size.strip(b'0123456789abcdefABCDEF'):
                    raise Broken(f'no chunk of an answer has the length {size[:40]!r}')
                left = int(size, 16)
                is_last = not left
                left += 2 if left else 0
                continue
            left -= len(piece)
            data = data[len(piece) :]
        if patience is not None:
            patience.renew()
        count = link.recv_into(view)
        if not count:
            raise Broken('the connection ended in the midst of an answer')
        data = view[:count]


class _Begun(io.RawIOBase):
    """A connection of which a beginning was read, as `http.client` reads it."""

    def __init__(self, begun: bytes, link: socket.socket) -> None:
        self._begun = begun
        self._link = link

    def makefile(self, *_: Any, **__: Any) -> io.BufferedReader:
        """Return it as a file."""
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._begun:
            return self._link.recv_into(buffer)
        count = min(len(buffer), len(self._begun))
        buffer[:count], self._begun = self._begun[:count], self._begun[count:]
        return count


def _read_unusual(link: socket.socket, begun: bytes) -> tuple[WholeResponse, bool]:
    """Return an answer that is sent in chunks, has no length, or is not HTTP, as `http.client` reads it; it is the last there."""
    if not begun:
        raise Broken('the connection ended without an answer')
    response = HTTPResponse(_Begun(begun, link))  # type: ignore[arg-type]
    try:
        response.begin()
        content = response.read()
    except (HTTPException, ValueError, OverflowError, MemoryError) as error:  # also for lengths that nothing can have
        raise Broken(str(error) or type(error).__name__) from error
    return WholeResponse(
        response.status, {name.lower(): value for name, value in response.headers.items()}, content
    ), False


LINES: dict[str, type[HTTPConnectionPool]] = {'http': _HttpPool, 'https': _HttpsPool}
"""Pools by scheme, for the ``pool_classes_by_scheme`` of a urllib3 `PoolManager`."""
