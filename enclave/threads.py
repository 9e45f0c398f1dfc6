"""The threads behind the asynchronous proxies (floor 6).

One pool for the whole process, whatever number of event loops there are. A loop's own default executor is no place for
calls that wait for code in a sandbox: it has six threads on two cores, and its users' other work would queue behind ours.

The pool has no upper bound, on purpose. A call may wait for another one (a lease waits for a release), so a bounded pool all of
whose threads wait would wait for ever. A thread that has had nothing to do for a while leaves; the last few stay.

The threads are daemons and no `concurrent.futures` executor owns them, because that one refuses work as soon as the main
thread has ended, and `atexit` hooks that stop sandboxes come after that. From Python 3.12 on no thread can be made then
either; so a call goes to a thread that is still there, or is made on the spot.
"""

from __future__ import annotations

import collections
import contextlib
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
RETRY_SECONDS = 0.1
"""How long after the system gave no thread it is asked again."""

Job = Callable[[], None]
"""Something to do; it must not raise."""


@define(eq=False)
class _Worker:
    """One thread that has nothing to do. Its box holds the job it is given."""

    box: queue.SimpleQueue[Job] = field(factory=lambda: queue.SimpleQueue())


class ThreadPool:
    """Threads that are made when there is more work than idle ones. Lives as long as the process. Any thread may submit.

    A thread of its own, the spawner, makes the others: `threading.Thread.start` waits until the new thread has run, which under
    load takes several milliseconds, and an event loop that hands over work should not be held up by that.

    Args:
        idle_seconds: How long a thread without work stays.
    """

    def __init__(self, idle_seconds: float = IDLE_SECONDS) -> None:
        self._idle_seconds = idle_seconds
        self._numbers = itertools.count(1)
        self._calls: queue.SimpleQueue[None] = queue.SimpleQueue()  # to the spawner
        # Reentrant, since a coroutine that the garbage collector closes, anywhere in here, hands over work too.
        self._lock = threading.RLock()  # guards all below
        self._idle: list[_Worker] = []  # the last one back is the first one out, so that those not needed grow old
        self._backlog: collections.deque[Job] = collections.deque()  # jobs for threads that are being made
        self._coming = 0  # threads that are being made
        self._size = 0
        self._has_spawner = False

    @property
    def size(self) -> int:
        """How many threads there are, without the spawner."""
        with self._lock:
            return self._size

    def submit(self, job: Job) -> None:
        """Have ``job()`` called on a thread, at once.

        Raises:
            RuntimeError: The system gives not even a first thread.
        """
        with self._lock:
            if self._idle:
                self._idle.pop().box.put(job)
                return
            self._backlog.append(job)
            has_spawner, self._has_spawner = self._has_spawner, True
        if has_spawner:
            self._calls.put(None)
            return
        try:
            threading.Thread(target=self._lead, name='enclave-aio-spawner', daemon=True).start()
        except RuntimeError:
            with self._lock:
                self._has_spawner = False
                if job not in self._backlog:
                    return  # a thread that was there has come to it
                self._backlog.remove(job)
            if threading.main_thread().is_alive():
                raise
            job()  # the interpreter is exiting and makes no threads any more

    # The spawner's side -----------------------------------------------------------------------------------------------

    def _lead(self) -> None:
        """Make threads for the backlog, for as long as the process lives."""
        while True:
            try:
                while self._is_short():
                    self._grow()
            except RuntimeError:
                if not self._help():
                    continue
            self._calls.get()

    def _is_short(self) -> bool:
        with self._lock:
            return len(self._backlog) > self._coming

    def _grow(self) -> None:
        """Make a thread for the backlog."""
        name = f'enclave-aio-{next(self._numbers)}'
        with self._lock:
            self._size += 1
            self._coming += 1
        try:
            threading.Thread(target=self._work, name=name, daemon=True).start()
        except RuntimeError:
            with self._lock:
                self._size -= 1
                self._coming -= 1
            raise

    def _help(self) -> bool:
        """Do what must be done where the system gives no more threads; return whether the backlog is empty."""
        with self._lock:
            must = bool(self._backlog) and (self._size == 0 or not threading.main_thread().is_alive())
            job = self._backlog.popleft() if must else None
            waiting = len(self._backlog)
        if job is not None:
            _call(job)
        elif waiting:
            logger.warning('the system gives no more threads; %d calls wait', waiting)
            with contextlib.suppress(queue.Empty):
                self._calls.get(timeout=RETRY_SECONDS)  # meanwhile those that become free take from the backlog
        return not waiting

    # A thread's side --------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        worker = _Worker()
        with self._lock:
            self._coming -= 1
        job: Job | None = None
        while True:
            with self._lock:
                if self._backlog:
                    job = self._backlog.popleft()
                else:
                    self._idle.append(worker)
            job = job or self._wait(worker)
            if job is None:
                return
            _call(job)
            job = None  # what it refers to must not live until the next one comes

    def _wait(self, worker: _Worker) -> Job | None:
        """Return the next job of an idle thread, or None if it shall leave."""
        while True:
            try:
                return worker.box.get(timeout=self._idle_seconds)
            except queue.Empty:
                with self._lock:
                    if worker in self._idle and self._size > KEPT:
                        self._idle.remove(worker)
                        self._size -= 1
                        return None
                # It stays, or was given a job in this moment.

    def forget(self) -> None:
        """Begin anew without the threads there were: a fork's copy has none of them."""
        self.__init__(self._idle_seconds)  # type: ignore[misc]


def _call(job: Job) -> None:
    try:
        job()
    except BaseException:
        logger.warning('a job of the asynchronous proxies failed', exc_info=True)


thread_pool = ThreadPool()

if hasattr(os, 'register_at_fork'):
    os.register_at_fork(after_in_child=thread_pool.forget)
