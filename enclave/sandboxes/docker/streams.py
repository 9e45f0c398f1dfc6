"""A container's attached stream as a channel's stream (layer 4).

Without a TTY the engine interleaves stdout and stderr in frames: one byte stream type, three zero bytes, u32 length, payload
(Engine API, "Attach to a container", stream format).
"""

from __future__ import annotations

import struct

from enclave.channel.streams import ReadSize, Tail
from enclave.sandboxes.docker.dial import RawStream

_HEADER = struct.Struct('!BxxxI')
_LIMIT = 1 << 24


class Demultiplexer:
    """Cuts the engine's stream into ``(type, payload)`` pieces; a payload may come in several."""

    def __init__(self) -> None:
        self._held = b''
        self._type = 0
        self._left = 0

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """Return the pieces in ``data``; type 1 is stdout, 2 stderr."""
        pieces = []
        view = memoryview(self._held + data if self._held else data)
        self._held = b''
        while view:
            if not self._left:
                if len(view) < _HEADER.size:
                    self._held = bytes(view)
                    break
                self._type, self._left = _HEADER.unpack_from(view)
                if self._type > 2 or self._left > _LIMIT:
                    raise ValueError('the engine sent no stream frame')
                view = view[_HEADER.size :]
            piece = view[: self._left]
            if piece:
                pieces.append((self._type, bytes(piece)))
                self._left -= len(piece)
                view = view[len(piece) :]
        return pieces


class ContainerStream:
    """See `enclave.channel.streams.Stream`. Lives as long as its attachment."""

    def __init__(self, raw: RawStream) -> None:
        self._raw = raw
        self._frames = Demultiplexer()
        self._tail = Tail()
        self._size = ReadSize()

    def read(self) -> bytes:
        """Return bytes of the agent's stdout; what comes on stderr is kept for `diagnostics`."""
        while data := self._raw.read(self._size.now):
            self._size.note(len(data))
            out = []
            for kind, piece in self._frames.feed(data):
                if kind == 2:
                    self._tail.add(piece)
                else:
                    out.append(piece)
            if out:
                return b''.join(out)
        return b''

    def write(self, data: bytes) -> None:
        """Send all of ``data`` to the agent's stdin."""
        self._raw.write(data)

    def write_some(self, data: bytes) -> int:
        """Send as much of ``data`` as is taken at once, and return how much that was."""
        return self._raw.write_some(data)

    def wait_writable(self, timeout: float) -> bool:
        """Wait until something is taken; False if that is not so in so many seconds."""
        return self._raw.wait_writable(timeout)

    def close(self) -> None:
        """Close the attachment, which ends a standard input that was opened once."""
        self._raw.close()

    def diagnostics(self) -> str:
        """Return the end of what came on stderr."""
        return self._tail.text()
