"""Bodies that are read while they come (layer 6): for conversations, whose client sends more once it has seen what came of it.

All other bodies are taken whole before their request begins, as waitress does.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

HELD_BYTES = 1 << 20
"""How much may wait for its reader; past it nothing more is taken off the connection."""


class LiveBody:
    """What came of a body. One thread adds, another reads; lives as long as its request.

    Args:
        on_room: Called when there is room again.
    """

    def __init__(self, on_room: Callable[[], None]) -> None:
        self._on_room = on_room
        self._changed = threading.Condition()  # guards all below
        self._pieces: deque[bytes] = deque()
        self._size = 0
        self._total = 0
        self._is_ended = False

    def append(self, data: bytes) -> None:
        """Add what came."""
        with self._changed:
            if not self._is_ended:
                self._pieces.append(data)
                self._size += len(data)
                self._total += len(data)
                self._changed.notify_all()

    def read(self, size: int = -1) -> bytes:
        """Return what has come, at most ``size`` bytes of it, as soon as there is anything; ``b''`` at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._pieces or self._is_ended)
            if not self._pieces:
                return b''
            was_full = self.is_full
            piece = self._pieces.popleft()
            if 0 <= size < len(piece):
                self._pieces.appendleft(piece[size:])
                piece = piece[:size]
            self._size -= len(piece)
            has_room = was_full and not self.is_full
        if has_room:
            self._on_room()
        return piece

    def close(self) -> None:
        """Say that nothing more comes. May be called twice."""
        with self._changed:
            self._is_ended = True
            self._changed.notify_all()

    @property
    def is_full(self) -> bool:
        """Whether nothing more shall be taken off the connection for now."""
        return self._size >= HELD_BYTES

    def getfile(self) -> LiveBody:
        """Return what the application reads, as waitress's buffers do."""
        return self

    def __len__(self) -> int:
        return self._total
