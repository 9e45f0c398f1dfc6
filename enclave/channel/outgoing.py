"""What goes out on a stream to an agent (channel layer), in order and without making anybody wait for long.

A write blocks for as long as the peer takes nothing: for ever when its container is paused. No caller is to wait for that, since
each has a time limit of its own. So the one that sends first writes, what others send meanwhile too, for as long as the peer
takes something within `PATIENCE_SECONDS`; then a thread of the queue's continues, and callers add to the queue. How much may
wait is bounded: by the credit of each call, and by `LIMIT_BYTES` for all together.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from enclave.channel.streams import Stream

LIMIT_BYTES: Final = 8 << 20
"""The most that may wait when more is to be added."""
PATIENCE_SECONDS: Final = 2.0
"""How long a caller waits for a peer that takes nothing."""


class QueueFullError(Exception):
    """The peer has taken nothing for so long that no more is kept for it."""


class OutgoingQueue:
    """Lives as long as its stream; `close` lets its thread go. Any thread may `put`.

    Args:
        on_error: Called with the error when writing fails on the queue's own thread.
        lock: Guards what waits; never held while something blocks.
    """

    def __init__(self, stream: Stream, name: str, on_error: Callable[[OSError], None], lock: threading.Lock) -> None:
        self._stream = stream
        # A stream that does not know how much it takes without blocking is written to as a whole.
        self._parts: Any = stream if hasattr(stream, 'write_some') and hasattr(stream, 'wait_writable') else None
        self._name = name
        self._on_error = on_error
        self._lock = lock  # guards _waiting, _waiting_bytes and _is_busy
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._is_busy = False  # somebody is writing, and will write what is added meanwhile
        self._closed = False

    def put(self, frame: bytes, timeout: float = -1) -> bool:
        """Send a frame; False if the queue's lock was not to be had in time, and nothing was sent.

        Args:
            timeout: Seconds to wait for the lock, for the caller that may be called in the midst of another `put` of the same
            thread.

        Raises:
            OSError: The stream failed.
            QueueFullError: Too much waits.
        """
        if not self._lock.acquire(timeout=timeout):
            return False
        try:
            if self._is_busy:
                if self._waiting_bytes > LIMIT_BYTES:
                    raise QueueFullError
                self._waiting.append(frame)
                self._waiting_bytes += len(frame)
                return True
            self._is_busy = True
        finally:
            self._lock.release()
        self._write(frame)
        return True

    def _write(self, frame: bytes) -> None:
        """Write a frame and what is added meanwhile. The one that calls this has made the queue busy."""
        left: bytes | None = frame
        while left is not None:
            left = self._write_part(left)
            if left:
                with self._lock:
                    self._waiting.appendleft(left)
                    self._waiting_bytes += len(left)
                threading.Thread(target=self._go_on, name=f'enclave-writer-{self._name}', daemon=True).start()
                return
            left = self._next()

    def _write_part(self, frame: bytes) -> bytes:
        """Write a frame, and return what the peer did not take in time."""
        if self._parts is None:
            self._stream.write(frame)
            return b''
        while frame := frame[self._parts.write_some(frame) :]:
            if not self._parts.wait_writable(PATIENCE_SECONDS):
                return frame
        return b''

    def _next(self) -> bytes | None:
        """Return what waits first, or let the queue rest."""
        with self._lock:
            if not self._waiting:
                self._is_busy = False
                return None
            frame = self._waiting.popleft()
            self._waiting_bytes -= len(frame)
            return frame

    def _go_on(self) -> None:
        """Write what waits, however long that takes. Runs on a thread of its own, which ends when all is written."""
        try:
            while not self._closed and (frame := self._next()) is not None:
                self._stream.write(frame)
        except OSError as error:
            self._on_error(error)

    def close(self) -> None:
        """Let the thread go. What it is writing ends with the stream."""
        self._closed = True
