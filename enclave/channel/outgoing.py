"""What goes out on a stream to an agent (channel layer), in order and without making anybody wait.

A write blocks for as long as the peer takes nothing: for ever when its container is paused. No caller is to wait for that, since
each has a time limit of its own. So a caller writes what the stream takes at once, and a thread of the queue's writes the rest.
How much that may be is bounded: by the credit of each call, and by `LIMIT_BYTES` for all together.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Final

from enclave.channel.streams import Stream

LIMIT_BYTES: Final = 8 << 20
"""The most that may wait when more is to be added."""


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
        # Not every stream can tell how much it takes without blocking.
        self._write_some: Callable[[bytes], int] | None = getattr(stream, 'write_some', None)
        self._name = name
        self._on_error = on_error
        self._lock = lock  # guards _waiting, _waiting_bytes and _writer
        self._waiting: deque[bytes] = deque()  # the first is being written by the thread
        self._waiting_bytes = 0
        self._writer: threading.Thread | None = None
        self._added = threading.Event()
        self._closed = False

    def put(self, frame: bytes, timeout: float = -1) -> bool:
        """Send a frame; False if the queue's lock was not to be had in time, and nothing was sent.

        Args:
            timeout: Seconds to wait for the lock, for whoever may be called in the midst of another `put` of the same thread.

        Raises:
            OSError: The stream failed.
            QueueFullError: Too much waits.
        """
        if not self._lock.acquire(timeout=timeout):
            return False
        try:
            if not self._waiting:
                if self._write_some is None:
                    self._stream.write(frame)
                    return True
                sent = self._write_some(frame)
                if sent == len(frame):
                    return True
                frame = frame[sent:]
            elif self._waiting_bytes > LIMIT_BYTES:
                raise QueueFullError
            self._waiting.append(frame)
            self._waiting_bytes += len(frame)
            if self._writer is None:
                self._writer = threading.Thread(target=self._write, name=f'enclave-writer-{self._name}', daemon=True)
                self._writer.start()
            self._added.set()
            return True
        finally:
            self._lock.release()

    def close(self) -> None:
        """Let the thread go. What it is writing ends with the stream."""
        self._closed = True
        self._added.set()

    def _write(self) -> None:
        while not self._closed:
            self._added.wait()
            while not self._closed:
                with self._lock:
                    if not self._waiting:
                        self._added.clear()
                        break
                    frame = self._waiting[0]
                try:
                    self._stream.write(frame)
                except OSError as error:
                    self._on_error(error)
                    return
                with self._lock:
                    self._waiting.popleft()
                    self._waiting_bytes -= len(frame)
            if self._closed:
                return
