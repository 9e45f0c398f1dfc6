"""The threads behind the asynchronous faces (floor 6).

One crew for the whole process, whatever number of event loops there are. A loop's own default executor is no place for
calls that wait for code in a sandbox: it has six threads on two cores, and its users' other work would queue behind ours.

The crew has no upper bound, on purpose. A call may wait for another one (a lease waits for a release), so a bounded crew all
of whose threads wait would wait for ever. A thread that has had nothing to do for a while leaves; the last few stay.

The threads are daemons and no `concurrent.futures` executor owns them, because that one refuses work as soon as the main
thread has ended, and `atexit` hooks that stop sandboxes come after that. From Python 3.12 on no thread can be made then
either; so a call goes to a thread that is still there, or is made on the spot.
"""

from __future__ import annotations

import collections
import itertools
import logging
import os
import queue
import threading
from collections.abc import Callable

from attrs import define, field

logger = logging.getLogger(__name__)

IDLE_SECONDS = 10.0
"""How long a thread without work stays."""
KEPT = 2
"""How many threads stay whatever happens: the `atexit` hooks of a program that used any of this find one."""

Job = Callable[[], None]
"""Something to do; it must not raise."""


@define(eq=False)
class _Hand:
    """One thread that has nothing to do. Its box holds the job it is given."""

    box: queue.SimpleQueue[Job] = field(factory=lambda: queue.SimpleQueue())


class Crew:
    """Threads that are made when there is more work than idle ones. Lives as long as the process. Any thread may submit.

    A thread is made by the one before it, as long as jobs wait: starting one takes up to half a millisecond, and an event loop
    that hands over many jobs at once should not be held up by that.

    Args:
        idle_seconds: How long a thread without work stays.
    """

    def __init__(self, idle_seconds: float = IDLE_SECONDS) -> None:
        self._idle_seconds = idle_seconds
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()  # guards all below
        self._idle: list[_Hand] = []  # the last one back is the first one out, so that those not needed grow old
        self._backlog: collections.deque[Job] = collections.deque()  # jobs for threads that are being made
        self._is_growing = False  # a thread is being made, and will look at the backlog
        self._size = 0

    @property
    def size(self) -> int:
        """How many threads there are."""
        with self._lock:
            return self._size

    def submit(self, job: Job) -> None:
        """Have ``job()`` called on a thread, at once.

        Raises:
            RuntimeError: The system gives no more threads.
        """
        with self._lock:
            if self._idle:
                self._idle.pop().box.put(job)
                return
            self._backlog.append(job)
            if self._is_growing:
                return
            self._is_growing = True
        try:
            self._grow()
        except RuntimeError:
            with self._lock:
                if job not in self._backlog:
                    return  # a thread that was there has come to it
                self._backlog.remove(job)
            if threading.main_thread().is_alive():
                raise
            job()  # the interpreter is exiting and makes no threads any more

    def _grow(self) -> None:
        """Make a thread for the backlog."""
        name = f'enclave-aio-{next(self._numbers)}'
        with self._lock:
            self._size += 1
        try:
            threading.Thread(target=self._work, name=name, daemon=True).start()
        except RuntimeError:
            with self._lock:
                self._size -= 1
                self._is_growing = False
            raise

    def _work(self) -> None:
        with self._lock:
            job = self._backlog.popleft() if self._backlog else None
            grow = self._is_growing = bool(self._backlog)
        if grow:
            try:
                self._grow()
            except RuntimeError:
                logger.warning('the system gives no more threads; %d calls wait', len(self._backlog))
        hand = _Hand()
        while True:
            if job is not None:
                try:
                    job()
                except BaseException:
                    logger.warning('a job of the asynchronous faces failed', exc_info=True)
                job = None  # what it refers to must not live until the next one comes
            with self._lock:
                if self._backlog:
                    job = self._backlog.popleft()
                    continue
                self._idle.append(hand)
            job = self._wait(hand)
            if job is None:
                return

    def _wait(self, hand: _Hand) -> Job | None:
        """Return the next job of an idle thread, or None if it shall leave."""
        while True:
            try:
                return hand.box.get(timeout=self._idle_seconds)
            except queue.Empty:
                with self._lock:
                    if hand in self._idle and self._size > KEPT:
                        self._idle.remove(hand)
                        self._size -= 1
                        return None
                # It stays, or was given a job in this moment.

    def forget(self) -> None:
        """Begin anew without the threads there were: a fork's copy has none of them."""
        self.__init__(self._idle_seconds)  # type: ignore[misc]


crew = Crew()

if hasattr(os, 'register_at_fork'):
    os.register_at_fork(after_in_child=crew.forget)
