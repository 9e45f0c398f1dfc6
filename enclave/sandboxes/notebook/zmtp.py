"""The wire of ZeroMQ over a connection into a sandbox (layer 4): our half of ZMTP 3.0 with the NULL mechanism.

A kernel's sockets are reached through its sandbox's stream, so nothing listens on this machine, neither on a port nor on a
socket file, and no other user can reach a kernel. What libzmq would do at this end is little: a greeting, a READY, and frames.
Source: https://rfc.zeromq.org/spec/23/

The peer is the guest's own process and treated as hostile: lengths are checked before anything is stored. A frame over the
limit is not kept; its size stands in its place, and what follows is read as usual, so that one huge picture costs that picture
and not the kernel.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Protocol

from attrs import frozen

from enclave.deadline import Deadline

MAX_FRAME_BYTES = 32 << 20
"""The largest frame that is kept."""
MAX_PARTS = 64
HANDSHAKE_SECONDS = 10.0
_MAX_COMMAND_BYTES = 4096
_MORE, _LONG, _COMMAND = 1, 2, 4


@frozen
class LeftOut:
    """In the place of a frame over the limit, of ``size`` bytes."""

    size: int


Parts = list[bytes | LeftOut]


class ZmtpError(Exception):
    """The peer does not speak ZMTP 3, or broke its rules."""


class ByteStream(Protocol):
    """What is needed of a connection; see `enclave.sandboxes.connection.Connection`."""

    def recv(self, max_bytes: int = 65536, timeout: float | None = None) -> bytes:
        """Return some bytes, or ``b''`` at the end."""

    def sendall(self, data: bytes, timeout: float | None = None) -> None:
        """Send all of ``data``."""

    def close(self) -> None:
        """Close both directions."""


def greeting() -> bytes:
    """Return the 64 bytes with which each side begins: version 3.0, mechanism NULL."""
    return b'\xff' + bytes(8) + b'\x7f' + b'\x03\x00' + b'NULL'.ljust(20, b'\0') + bytes(32)


def encode_message(parts: Sequence[bytes]) -> bytes:
    """Return a message as it goes over the wire."""
    last = len(parts) - 1
    out = []
    for index, part in enumerate(parts):
        flags = _MORE if index < last else 0
        if len(part) > 255:
            out.append(bytes([flags | _LONG]) + len(part).to_bytes(8, 'big'))
        else:
            out.append(bytes([flags, len(part)]))
        out.append(part)
    return b''.join(out)


def encode_command(name: bytes, body: bytes = b'') -> bytes:
    """Return a command frame; ours are all short."""
    data = bytes([len(name)]) + name + body
    return bytes([_COMMAND, len(data)]) + data


def encode_ready(socket_type: bytes, identity: bytes = b'') -> bytes:
    """Return the READY command of a socket of this type; by its identity a ROUTER at the other end knows it."""
    properties = {b'Socket-Type': socket_type, **({b'Identity': identity} if identity else {})}
    body = (bytes([len(name)]) + name + len(value).to_bytes(4, 'big') + value for name, value in properties.items())
    return encode_command(b'READY', b''.join(body))


class ZmtpDecoder:
    """Cuts what the peer sends into messages. Not thread-safe; lives as long as a connection.

    Attributes:
        has_greeted: Whether the peer's greeting has come.
        replies: Bytes to send back, for commands that want an answer.
    """

    def __init__(self, *, max_frame_bytes: int = MAX_FRAME_BYTES) -> None:
        self._max = max_frame_bytes
        self._buffer = bytearray()
        self.has_greeted = False
        self._ready = False
        self._parts: Parts = []
        self._bytes = 0
        self._skip = 0  # bytes of a frame over the limit that are still to come
        self._skipped = LeftOut(0)
        self._skip_more = False
        self.replies: deque[bytes] = deque()

    def feed(self, data: bytes) -> list[Parts]:
        """Take bytes and return the messages that are complete.

        Raises:
            ZmtpError: They are not ZMTP 3 with the NULL mechanism.
        """
        self._buffer += data
        messages: list[Parts] = []
        if not self.has_greeted and not self._greet():
            return messages
        while True:
            if self._skip:
                size = min(self._skip, len(self._buffer))
                del self._buffer[:size]
                self._skip -= size
                if self._skip:
                    return messages
                self._add(self._skipped, self._skip_more, messages)
                continue
            frame = self._next_header()
            if frame is None:
                return messages
            flags, start, size = frame
            if flags & _COMMAND:
                if len(self._buffer) < start + size:
                    return messages
                body = bytes(self._buffer[start : start + size])
                del self._buffer[: start + size]
                self._command(body)
                continue
            if not self._ready:
                raise ZmtpError('a message came before the handshake was over')
            more = bool(flags & _MORE)
            if self._bytes + size > self._max:
                del self._buffer[:start]
                self._skip, self._skipped, self._skip_more = size, LeftOut(size), more
                continue
            if len(self._buffer) < start + size:
                return messages
            part = bytes(self._buffer[start : start + size])
            del self._buffer[: start + size]
            self._add(part, more, messages)

    def _greet(self) -> bool:
        have = self._buffer
        if (have and have[0] != 0xFF) or (len(have) > 9 and have[9] != 0x7F):
            raise ZmtpError('the peer does not greet as ZMTP does')
        if len(have) < 64:
            return False
        if have[10] < 3 or bytes(have[12:32]).rstrip(b'\0') != b'NULL':
            raise ZmtpError(f'the peer speaks ZMTP {have[10]} with {bytes(have[12:32]).rstrip(bytes(1))!r}')
        del have[:64]
        self.has_greeted = True
        return True

    def _next_header(self) -> tuple[int, int, int] | None:
        """Return (flags, where the body starts, its size), or None while the header is incomplete."""
        have = self._buffer
        if len(have) < 2:
            return None
        flags = have[0]
        if flags > 7 or (flags & _COMMAND and flags & _MORE):
            raise ZmtpError(f'a frame has impossible flags {flags}')
        if flags & _LONG:
            if len(have) < 9:
                return None
            start, size = 9, int.from_bytes(have[1:9], 'big')
        else:
            start, size = 2, have[1]
        if size > 1 << 62 or (flags & _COMMAND and size > _MAX_COMMAND_BYTES):
            raise ZmtpError(f'a frame of {size} bytes is impossible')
        return flags, start, size

    def _command(self, body: bytes) -> None:
        name = body[1 : 1 + body[0]] if body else b''
        rest = body[1 + len(name) :]
        if name == b'READY':
            self._ready = True
        elif name == b'PING':
            self.replies.append(encode_command(b'PONG', rest[2:18]))
        elif name == b'ERROR':
            raise ZmtpError(f'the peer refused the connection: {rest[1:]!r}')

    def _add(self, part: bytes | LeftOut, more: bool, messages: list[Parts]) -> None:
        self._parts.append(part)
        self._bytes += len(part) if isinstance(part, bytes) else 0
        if len(self._parts) > MAX_PARTS:
            raise ZmtpError(f'a message has more than {MAX_PARTS} parts')
        if not more:
            messages.append(self._parts)
            self._parts, self._bytes = [], 0


class ZmtpSocket:
    """One socket of a kernel at our end: a DEALER, or a SUB that takes everything.

    One thread may receive while another sends. Errors of the connection pass through.
    """

    def __init__(self, stream: ByteStream, socket_type: bytes, identity: bytes = b'') -> None:
        self._stream = stream
        self._decoder = ZmtpDecoder()
        self._waiting: deque[Parts] = deque()
        # libzmq closes the connection when more than the greeting comes before it has sent its own (seen with 4.3.5).
        deadline = Deadline.after(HANDSHAKE_SECONDS)
        stream.sendall(greeting(), _left(deadline))
        while not self._decoder.has_greeted:
            data = stream.recv(timeout=_left(deadline))
            if not data:
                raise ZmtpError('the peer closed the connection instead of greeting')
            self._waiting.extend(self._decoder.feed(data))
        hello = encode_ready(socket_type, identity)
        if socket_type == b'SUB':
            hello += encode_message([b'\x01'])  # subscribe to every topic, as ZMTP 3.0 says it
        stream.sendall(hello, _left(deadline))

    def send(self, parts: Sequence[bytes], timeout: float | None = None) -> None:
        """Send a message."""
        self._stream.sendall(encode_message(parts), timeout)

    def receive(self, deadline: Deadline) -> Parts | None:
        """Return the next message, or None when the peer has closed.

        Raises:
            OperationTimeoutError: None came before the deadline.
            ZmtpError: What came is no ZMTP.
        """
        while not self._waiting:
            data = self._stream.recv(timeout=_left(deadline))
            if not data:
                return None
            self._waiting.extend(self._decoder.feed(data))
            while self._decoder.replies:
                # A peer that reads nothing may hold this up, too.
                self._stream.sendall(self._decoder.replies.popleft(), _left(deadline))
        return self._waiting.popleft()

    def close(self) -> None:
        """Close the connection. May be called twice, from any thread."""
        self._stream.close()


def _left(deadline: Deadline) -> float | None:
    """Return the seconds that are left as a stream takes them, to which 0 would mean no limit."""
    left = deadline.remaining()
    return None if left is None else max(left, 0.001)
