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
    """One thread. Its box holds the job it was given."""

    box: queue.SimpleQueue[Job] = field(factory=lambda: queue.SimpleQueue())


class Crew:
    """Threads that are made when there is more work than idle ones. Lives as long as the process. Any thread may submit.

    Args:
        idle_seconds: How long a thread without work stays.
    """

    def __init__(self, idle_seconds: float = IDLE_SECONDS) -> None:
        self._idle_seconds = idle_seconds
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()  # guards the two below
        self._idle: list[_Hand] = []  # the last one back is the first one out, so that those not needed grow old
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
            hand = self._idle.pop() if self._idle else None
            if hand is None:
                self._size += 1
        if hand is not None:
            hand.box.put(job)
            return
        hand = _Hand()
        hand.box.put(job)
        thread = threading.Thread(
            target=self._work, args=(hand,), name=f'enclave-aio-{next(self._numbers)}', daemon=True
        )
        try:
            thread.start()
        except RuntimeError:
            with self._lock:
                self._size -= 1
            if threading.main_thread().is_alive():
                raise
            job()  # the interpreter is exiting and makes no threads any more

    def _work(self, hand: _Hand) -> None:
        while True:
            try:
                job = hand.box.get(timeout=self._idle_seconds)
            except queue.Empty:
                with self._lock:
                    if hand in self._idle and self._size > KEPT:
                        self._idle.remove(hand)
                        self._size -= 1
                        return
                continue  # it stays, or was just given a job
            try:
                job()
            except BaseException:
                logger.warning('a job of the asynchronous faces failed', exc_info=True)
            del job  # what it refers to must not live until the next one comes
            with self._lock:
                self._idle.append(hand)

    def forget(self) -> None:
        """Begin anew without the threads there were: a fork's copy has none of them."""
        self.__init__(self._idle_seconds)  # type: ignore[misc]


crew = Crew()

if hasattr(os, 'register_at_fork'):
    os.register_at_fork(after_in_child=crew.forget)
