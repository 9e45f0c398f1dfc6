"""The pool of a local manager: first in, first out, for callers on any event loop.

`PoolCondition` is what programs use to change the pool themselves; callers that wait for a sandbox are in a queue of the
manager's, because a condition of asyncio's belongs to one event loop, and a manager may be used from several.
"""

from __future__ import annotations

import asyncio
import collections
import threading
from collections.abc import Callable

Take = Callable[[], 'str | None']


class Waiters:
    """Callers that wait for a sandbox, in the order they came. Lives as long as the manager; any thread may use it.

    Args:
        take: Takes a sandbox that is free out of the pool and returns its id, or None. Called with the lock held.
    """

    def __init__(self, take: Take) -> None:
        self._take = take
        self._lock = (
            threading.RLock()
        )  # guards the queue and the taking; reentrant, since a future's callback may come here
        self._queue: collections.deque[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = collections.deque()

    async def take(self, timeout: float | None) -> str:
        """Return the id of a sandbox that is the caller's from now on.

        Raises:
            TimeoutError: None was free in time.
        """
        loop = asyncio.get_running_loop()
        give_up_at = None if timeout is None else loop.time() + timeout
        mine: tuple[asyncio.AbstractEventLoop, asyncio.Future[None]] | None = None
        try:
            while True:
                with self._lock:
                    if not self._queue or self._queue[0] is mine:
                        found = self._take()
                        if found is not None:
                            return found
                    if mine is None:
                        mine = (loop, loop.create_future())
                        self._queue.append(mine)
                    elif mine[1].done():
                        place = self._queue.index(mine)
                        mine = self._queue[place] = (loop, loop.create_future())
                remaining = None if give_up_at is None else give_up_at - loop.time()
                try:
                    await asyncio.wait_for(asyncio.shield(mine[1]), remaining)
                except asyncio.TimeoutError:
                    raise TimeoutError(
                        f'Timeout waiting for available sandbox: none of the pool was free within {timeout:g} seconds'
                    ) from None
        finally:
            with self._lock:
                if mine is not None:
                    self._queue.remove(mine)
                    mine[1].cancel()
            self.wake()

    def wake(self) -> None:
        """Have the first in the queue look again."""
        with self._lock:
            for loop, future in self._queue:
                try:
                    loop.call_soon_threadsafe(_set, future)
                    return
                except RuntimeError:  # its loop was closed; the next one is asked
                    continue


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class PoolCondition(asyncio.Condition):
    """A condition whose `notify` also wakes those who wait for a sandbox."""

    def __init__(self, lock: asyncio.Lock, waiters: Waiters) -> None:
        super().__init__(lock)
        self._pool_waiters = waiters

    def notify(self, n: int = 1) -> None:
        """Wake waiters."""
        super().notify(n)
        self._pool_waiters.wake()
