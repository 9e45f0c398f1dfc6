"""From the bytes a program wrote to the text of a result (layer 4)."""

from __future__ import annotations

import codecs
import signal
from collections.abc import Sequence

from enclave.enums import ExecutionStatus
from enclave.records import CommandResult, put_source


def decode(data: bytes) -> str:
    r"""Return UTF-8 text; each byte that is not part of any shows as an escape like ``\xff``."""
    return data.decode('utf-8', 'backslashreplace')


def make_decoder() -> codecs.IncrementalDecoder:
    """Return a decoder for pieces of such text, which keeps characters whole that are split between two pieces."""
    return codecs.getincrementaldecoder('utf-8')('backslashreplace')


def shorten(head: bytes, tail: bytes, left_out: int) -> str:
    """Return the text of output that was cut: its head, a visible marker, its tail, with no character cut in half."""
    cut = _partial_end(head)
    head, left_out = head[: len(head) - cut], left_out + cut
    start = 0
    while start < min(3, len(tail)) and tail[start] & 0xC0 == 0x80:
        start += 1
    tail, left_out = tail[start:], left_out + start
    return f'{decode(head)}{_marker(left_out)}{decode(tail)}'


def shorten_ascii(text: str, head: int, total: int) -> str:
    """Return the same of output that is ASCII: ``text`` is the head and the tail of ``total`` bytes."""
    return f'{text[:head]}{_marker(total - len(text))}{text[head:]}'


def _marker(left_out: int) -> str:
    return f'\n[... {left_out} bytes left out ...]\n'


def _partial_end(data: bytes) -> int:
    """Return how many bytes at the end are the beginning of a character whose rest is missing."""
    for back in range(1, min(3, len(data)) + 1):
        byte = data[-back]
        if byte & 0xC0 == 0x80:
            continue
        needs = 4 if byte >= 0xF0 else 3 if byte >= 0xE0 else 2 if byte >= 0xC0 else 1
        return back if needs > back else 0
    return 0


def text_of(data: bytes, total: int, cap: int) -> str:
    """Return what a result shows of a stream: ``data`` is all of ``total`` bytes, or the head and tail of them.

    Of output over the cap, the first ``head_bytes(cap)`` bytes are the head and the rest is the tail.
    """
    if total <= len(data):
        return data.decode('utf-8', 'backslashreplace')  # as `decode` does; every result comes by here, twice
    return shown(data, total, head_bytes(cap))


def shown(data: bytes | bytearray, total: int, head: int) -> str:
    """Return the same, where it is known how many bytes the head has."""
    if total <= len(data):
        return data.decode('utf-8', 'backslashreplace')
    return shorten(bytes(data[:head]), bytes(data[head:]), total - len(data))


def tail_bytes(cap: int) -> int:
    """Return how much of a cap goes to the end of the output. The agent holds it, so it is at most 1 MiB."""
    return min(cap // 2, 1 << 20)


def head_bytes(cap: int) -> int:
    """Return how much of a cap goes to the beginning of the output."""
    return cap - tail_bytes(cap)


class Caught:
    """All that came of a stream, in pieces: bytes that are no text until somebody asks for it.

    Attributes:
        total: How many bytes the program wrote to it.
        head: How many of those that came are the beginning, where they are not all.
    """

    __slots__ = ('_text', 'head', 'pieces', 'size', 'total')

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.size = 0
        self.total = 0
        self.head = 0
        self._text: str | None = None

    def __len__(self) -> int:
        return self.size

    def add(self, piece: bytes | bytearray) -> None:
        """Take a piece."""
        self.pieces.append(bytes(piece))  # one of bytes is not copied
        self.size += len(piece)

    @property
    def text(self) -> str:
        """What a result shows of it; the same object each time."""
        if self._text is None:
            self._text = shown(self.data(), self.total, self.head)
        return self._text

    @property
    def made_text(self) -> str | None:
        """The text, if somebody has asked for it."""
        return self._text

    def data(self) -> bytes:
        """Return the bytes."""
        return b''.join(self.pieces)


class Kept:
    """Head and tail of a stream within a cap, and how many bytes it had."""

    def __init__(self, cap: int) -> None:
        self._head_room = head_bytes(cap)
        self._tail_size = tail_bytes(cap)
        self._head = bytearray()
        self._tail = bytearray()
        self.total = 0

    def add(self, data: bytes) -> None:
        """Take a piece."""
        self.total += len(data)
        room = self._head_room - len(self._head)
        if room > 0:
            self._head += data[:room]
            data = data[room:]
        if data:
            self._tail += data
            if len(self._tail) > 4 * self._tail_size + 65536:
                del self._tail[: len(self._tail) - self._tail_size]

    def data(self) -> bytes:
        """Return what is kept: everything, or `head_bytes` of the beginning and `tail_bytes` of the end."""
        return bytes(self._head) + (bytes(self._tail[-self._tail_size :]) if self._tail_size else b'')


def signal_name(number: int) -> str:
    """Return a signal's name, like ``'SIGSEGV'``; Linux's, also where this side is not Linux."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f'SIG{number}'


def make_result(
    command: str | Sequence[str],
    *,
    exit_code: int | None,
    killed_by: int | None,
    stdout: bytes | Caught,
    stderr: bytes | Caught,
    stdout_bytes: int,
    stderr_bytes: int,
    cap: int,
    timed_out: bool = False,
    cancelled: bool = False,
    oom_killed: bool = False,
    seconds: float = 0.0,
) -> CommandResult:
    """Return the result of a command from what its backend knows. What is `Caught` is no text before somebody asks for it."""
    code = 128 + killed_by if killed_by is not None else exit_code or 0
    if timed_out:
        status = ExecutionStatus.TIMEOUT
    elif cancelled:
        status = ExecutionStatus.CANCELLED
    else:
        status = ExecutionStatus.SUCCESS if code == 0 else ExecutionStatus.ERROR
    texts, sources = {}, {}
    for name, data, total in (('stdout', stdout, stdout_bytes), ('stderr', stderr, stderr_bytes)):
        if isinstance(data, Caught):
            data.total, data.head = total, head_bytes(cap)
            sources[name] = data
        else:
            texts[name] = text_of(data, total, cap)
    result = CommandResult(
        command=command if isinstance(command, str) else list(command),
        status=status,
        exit_code=code,
        signal=None if killed_by is None else signal_name(killed_by),
        stdout_bytes=stdout_bytes,
        stderr_bytes=stderr_bytes,
        stdout_truncated=stdout_bytes > len(stdout),
        stderr_truncated=stderr_bytes > len(stderr),
        timed_out=timed_out,
        oom_killed=oom_killed,
        execution_time=seconds,
        **texts,
    )
    if sources:
        put_source(result, **sources)
    return result
