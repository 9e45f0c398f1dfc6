"""An answer whose output is sent while its program runs (layer 5): how it travels, and how it is read.

The body is a sequence of frames: a byte that says what it is, four bytes with its length (the first the highest), and so many
bytes. Those of a stream are its bytes as the program wrote them. The last frame is the answer itself, a record, or the error that
came instead. In a record the texts of streams are left out; it says where they belong, how many bytes the program wrote, and how
many of those that were sent are the beginning, where the middle was left out.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Sequence
from typing import Any, Final

from enclave import wire
from enclave.errors import InvalidArgumentError
from enclave.outlet import MOST_PIECE_BYTES, STDERR, STDOUT
from enclave.sandboxes.output import shorten_ascii, shown

OUTPUT_FRAMES: Final = 'application/vnd.enclave.output-frames'
"""The media type."""
RECORD: Final = 3
"""JSON, ``[the answer, [[path of a text, stream, bytes written, bytes of the beginning], ...]]``."""
RECORD_IN_PARTS: Final = 4
"""The same, with long texts behind it; see `enclave.wire.encoded_to_parts`."""
ERROR: Final = 5
"""JSON, the record of the error."""

_HEAD = struct.Struct('>BI')
_STREAMS = (STDOUT, STDERR)


def frame_head(kind: int, size: int) -> bytes:
    """Return what comes before the bytes of a frame."""
    return _HEAD.pack(kind, size)


def next_frame(stream: int, pieces: Sequence[bytes], at: int, most: int = MOST_PIECE_BYTES) -> tuple[list[bytes], int]:
    """Return a frame of the pieces of a stream from a place on, as what it consists of, and the place behind it.

    Args:
        most: About how many bytes it has.
    """
    size, end = 0, at
    while end < len(pieces) and size < most:
        size += len(pieces[end])
        end += 1
    return [frame_head(stream, size), *pieces[at:end]], end


def record_frame(shape: Any, places: list[list[Any]]) -> list[bytes]:
    """Return the last frame of an answer.

    Args:
        shape: The answer as JSON shapes.
        places: See `RECORD`.

    Raises:
        InvalidArgumentError: Something in it has no JSON form.
    """
    parts = wire.encoded_to_parts([shape, places])
    pieces: list[bytes] = []
    for part in parts:
        pieces += part if isinstance(part, wire.AsciiText) else [part]
    return [frame_head(RECORD_IN_PARTS if len(parts) > 1 else RECORD, sum(map(len, pieces))), *pieces]


def error_frame(record: bytes) -> list[bytes]:
    """Return the last frame of an answer that came to nothing; ``record`` is that of the error, as JSON text."""
    return [frame_head(ERROR, len(record)), record]


class _StreamText:
    """A stream as it comes: text as long as it is ASCII, since most is, and then nothing is left to do at its end; else bytes."""

    def __init__(self) -> None:
        self._text = ''
        self._bytes: bytearray | None = None if _appends_in_place() else bytearray()

    def add(self, piece: memoryview) -> None:
        """Take a piece."""
        if self._bytes is None:
            try:
                more = str(piece, 'ascii')
            except UnicodeDecodeError:
                self._bytes = bytearray(self._text, 'ascii')
                self._text = ''
            else:
                text, self._text = (
                    self._text,
                    '',
                )  # a text is only appended to in its place if nothing else refers to it
                text += more
                self._text = text
                return
        self._bytes += piece

    def shown(self, total: int, head: int) -> str:
        """Return what a result shows of it; see `enclave.sandboxes.output.shown`."""
        if self._bytes is not None:
            return shown(self._bytes, total, head)
        text = self._text
        if total <= len(text):
            return text
        return shorten_ascii(text, head, total)


@functools.cache
def _appends_in_place() -> bool:
    """Return whether this interpreter appends to a text without copying it, as CPython does where it may."""
    text = 'x' * 1000
    for _ in range(100):
        text += 'x'  # the first times it is not known that these are texts
    copies = 0
    for _ in range(20):
        before = id(text)
        text += 'x'
        copies += id(text) != before
    return copies < 10


class FrameReader:
    """Reads such a body as it comes. Lives as long as the answer."""

    def __init__(self) -> None:
        self._streams = {stream: _StreamText() for stream in _STREAMS}
        self._last = bytearray()
        self._kind = 0
        self._head = bytearray()
        self._left = 0  # of the frame that came last
        self._problem = ''

    def take(self, data: memoryview) -> bool:
        """Take what came, and return whether it can be read so far; what is wrong is said when the answer is asked for."""
        at, size = 0, len(data)
        while at < size and not self._problem:
            if self._left:
                count = min(self._left, size - at)
                stream = self._streams.get(self._kind)
                if stream is not None:
                    stream.add(data[at : at + count])
                else:
                    self._last += data[at : at + count]
                self._left -= count
            else:
                count = min(_HEAD.size - len(self._head), size - at)
                self._head += data[at : at + count]
                if len(self._head) == _HEAD.size:
                    self._begin(*_HEAD.unpack(self._head))
                    self._head.clear()
            at += count
        return not self._problem

    def _begin(self, kind: int, size: int) -> None:
        if self._kind and self._kind not in _STREAMS:
            self._problem = 'there is something behind its last frame'
        elif not STDOUT <= kind <= ERROR or not size:
            self._problem = f'no frame is of the kind {kind} and has {size} bytes'
        self._kind, self._left = kind, size

    @property
    def error(self) -> Any:
        """The record of the error that came instead of an answer; None if there is none.

        Raises:
            InvalidArgumentError: It is no such body.
        """
        if not self._problem and (self._left or self._head or self._kind in (0, *_STREAMS)):
            self._problem = 'it ends before its last frame'
        if self._problem:
            raise InvalidArgumentError(f'the answer cannot be read: {self._problem}')
        return wire.from_json(self._last, what='the error in the answer') if self._kind == ERROR else None

    def shapes(self) -> Any:
        """Return the answer as JSON shapes. Called once.

        Raises:
            InvalidArgumentError: It is no such body.
        """
        read = wire.from_parts if self._kind == RECORD_IN_PARTS else wire.from_json
        texts: dict[int, str] = {}
        try:
            shape, places = read(self._last, what='the last frame of the answer')
            for path, stream, total, head in places:
                if stream not in texts:
                    texts[stream] = self._streams.pop(stream).shown(total, head)
                holder = shape
                for step in path[:-1]:
                    holder = holder[step]
                holder[path[-1]] = texts[stream]
        except (TypeError, ValueError, LookupError) as failure:
            raise InvalidArgumentError(f'the last frame of the answer does not fit its output: {failure}') from None
        return shape
