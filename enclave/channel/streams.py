"""The streams a channel can stand on (layer 2): a way to send bytes to an agent and to read what it sends.

Reads and writes block, so that a stream works wherever its transport does; one that can has ``write_some`` and
``wait_writable`` besides, for sending what is taken at once and waiting for more room. `close` may be called from any
thread, at any time, more than once, and ends a read that is blocked in another thread.
"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import threading
from collections import deque
from typing import IO, Protocol

DIAGNOSTIC_BYTES = 4096
"""How much of what the peer says outside the protocol is kept, to explain a failure."""


class Stream(Protocol):
    """What a channel needs. Errors of the transport are `OSError`."""

    def read(self) -> bytes:
        """Return some bytes as soon as there are any; ``b''`` when the peer has closed."""

    def write(self, data: bytes) -> None:
        """Send all of ``data``."""

    def close(self) -> None:
        """Close both directions."""

    def diagnostics(self) -> str:
        """Return the last output of the peer outside the protocol (its standard error)."""


class Tail:
    """Keeps the last few bytes of a stream of messages. Thread-safe by the deque's atomic append."""

    def __init__(self, limit: int = DIAGNOSTIC_BYTES) -> None:
        self._parts: deque[bytes] = deque(maxlen=64)
        self._limit = limit

    def add(self, data: bytes) -> None:
        """Take a piece."""
        self._parts.append(data[-self._limit :])

    def text(self) -> str:
        """Return what is kept, as text."""
        return b''.join(self._parts)[-self._limit :].decode('utf-8', 'backslashreplace').strip()


class ReadSize:
    """How much to ask for at the next read: little while little comes, since that much memory is held by a read that waits."""

    LEAST = 1 << 13
    MOST = 1 << 18

    def __init__(self) -> None:
        self.now = self.LEAST

    def note(self, came: int) -> None:
        """Take how much came."""
        if came >= self.now:
            self.now = min(8 * self.now, self.MOST)
        elif came < self.now // 8:
            self.now = self.LEAST


class PipeStream:
    """The standard streams of a child process that is, or starts, an agent. Lives as long as the process.

    `close` closes the process's standard input, which an agent takes as the sign to leave, and kills the process if it has
    not left within a second. A small thread of this library reads its standard error.
    """

    def __init__(self, process: subprocess.Popen[bytes], *, name: str = 'pipe') -> None:
        if process.stdin is None or process.stdout is None or process.stderr is None:
            raise ValueError('the process must have pipes for stdin, stdout and stderr')
        self.process = process
        self._stdin: IO[bytes] = process.stdin
        self._stdout: IO[bytes] = process.stdout
        self._stderr: IO[bytes] = process.stderr
        os.set_blocking(process.stdin.fileno(), False)
        self._tail = Tail()
        self._size = ReadSize()  # the reader's
        self._lock = threading.Lock()  # guards _closed
        self._closed = False
        self._errors = threading.Thread(target=self._read_errors, name=f'enclave-stderr-{name}', daemon=True)
        self._errors.start()

    def _read_errors(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            while data := os.read(self._stderr.fileno(), 4096):
                self._tail.add(data)

    def read(self) -> bytes:
        """Return what there is, at most 256 KiB."""
        data = os.read(self._stdout.fileno(), self._size.now)
        self._size.note(len(data))
        return data

    def write(self, data: bytes) -> None:
        """Send all of ``data``."""
        view = memoryview(data)
        try:
            while view := view[self._try_write(view) :]:
                room = select.poll()
                room.register(self._stdin.fileno(), select.POLLOUT)
                room.poll()
        except ValueError:  # closed by another thread meanwhile
            raise BrokenPipeError('the stream is closed') from None

    def write_some(self, data: bytes) -> int:
        """Send as much of ``data`` as the pipe takes at once, and return how much that was."""
        try:
            return self._try_write(memoryview(data))
        except ValueError:
            raise BrokenPipeError('the stream is closed') from None

    def wait_writable(self, timeout: float) -> bool:
        """Wait until the pipe takes something; False if it does not in so many seconds."""
        try:
            room = select.poll()
            room.register(self._stdin.fileno(), select.POLLOUT)
        except ValueError:
            raise BrokenPipeError('the stream is closed') from None
        return bool(room.poll(timeout * 1000))

    def _try_write(self, view: memoryview) -> int:
        sent = 0
        with contextlib.suppress(BlockingIOError):
            while sent < len(view):
                sent += os.write(self._stdin.fileno(), view[sent:])
        return sent

    def close(self) -> None:
        """Let the process go, then make sure it has."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        with contextlib.suppress(OSError):
            self._stdin.close()
        if not _ends_within(self.process, 1.0):
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
        self.process.wait()
        self._errors.join(1.0)

    def release(self) -> None:
        """Close our ends; only once no thread reads any more."""
        for pipe in (self._stdout, self._stderr):
            with contextlib.suppress(OSError):
                pipe.close()

    def diagnostics(self) -> str:
        """Return the end of what the process wrote to its standard error."""
        return self._tail.text()


def _ends_within(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Wait for a process's end, without looking again and again as `subprocess.Popen.wait` does with a time limit."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except (AttributeError, OSError):  # another system, an older kernel, or it is reaped already
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
        return process.returncode is not None
    try:
        end = select.poll()  # not `select`, which takes no descriptor above 1023
        end.register(descriptor, select.POLLIN)
        return bool(end.poll(seconds * 1000))
    finally:
        os.close(descriptor)
