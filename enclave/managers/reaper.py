"""The thread that looks after a manager's sandboxes (layer 5): one thread, one Event, deadlines compared."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable

logger = logging.getLogger(__name__)

_AFTER_FAILURE_SECONDS = 1.0


class Reaper:
    """Calls ``work`` again and again, at the latest when it is due. Lives as long as its manager.

    Args:
        work: Does what is due, without blocking, and returns when it wants to be called next, on the monotonic clock.
        owner: Part of the thread's name, ``enclave-reaper-<owner>``.
        clock: The monotonic clock.
    """

    def __init__(self, work: Callable[[], float], owner: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._work = work
        self._clock = clock
        self._woken = threading.Event()
        self._stopping = False
        self._wakes_at = math.inf  # a single write or read needs no lock
        self._thread = threading.Thread(target=self._run, name=f'enclave-reaper-{owner}', daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def wake_by(self, due: float) -> None:
        """See to it that ``work`` is called by then."""
        # While work continues, wakes_at is infinite: what became due behind its back wakes it once more.
        if due < self._wakes_at:
            self._woken.set()

    def stop(self) -> None:
        """Ask the thread to leave; `join` waits for it."""
        self._stopping = True
        self._woken.set()

    def join(self, timeout: float | None = None) -> None:
        """Wait for the thread to have left, unless it is the calling one or never began."""
        if self._thread.ident is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout)

    def _run(self) -> None:
        while not self._stopping:
            self._wakes_at = math.inf
            self._woken.clear()
            if self._stopping:
                return
            try:
                due = self._work()
            except Exception:
                logger.exception('looking after sandboxes failed; it is tried again')
                due = self._clock() + _AFTER_FAILURE_SECONDS
            self._wakes_at = due
            self._woken.wait(min(max(0.0, due - self._clock()), threading.TIMEOUT_MAX))
