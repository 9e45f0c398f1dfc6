"""The threads of the library (layer 0): one pool for the process, and bounded executors that stand on it.

`thread_pool` makes blocking calls for awaiting programs, whatever number of event loops there are. A loop's own default
executor is no place for calls that wait for code in a sandbox: it has six threads on two cores, and its users' other work
would queue behind them. `Workers` is a `ThreadPoolExecutor` with a bound, whose threads come from the pool; each manager has
a few.

The pool has no upper bound, on purpose. A call may wait for another one (a lease waits for a release), so a bounded pool all
of whose threads wait would wait for ever. A thread that has had nothing to do for a while leaves; the last few stay.

The threads are daemons and no executor of the standard library owns them, because that one's threads are joined by the
interpreter before any `atexit` hook runs, so that a call without a time limit would keep a program from ever reaching the
hook that ends the call; and it refuses work as soon as the main thread has ended, while `atexit` hooks that stop sandboxes
come after that. From Python 3.12 on no thread can be made then either; so a call goes to a thread that is still there, or is
made on the spot.
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
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

from attrs import define, field

from enclave.cancellation import on_cancel
from enclave.deadline import Deadline
from enclave.errors import ManagerStoppedError

P = ParamSpec('P')
R = TypeVar('R')

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
            threading.Thread(target=self._lead, name='enclave-spawner', daemon=True).start()
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
        name = f'enclave-thread-{next(self._numbers)}'
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
        logger.warning('a job failed', exc_info=True)


thread_pool = ThreadPool()

if hasattr(os, 'register_at_fork'):
    os.register_at_fork(after_in_child=thread_pool.forget)


# Executors ------------------------------------------------------------------------------------------------------------


@define(eq=False)
class _FutureJob:
    call: Callable[[], Any]
    future: Future[Any]

    def run(self) -> None:
        if not self.future.set_running_or_notify_cancel():
            return
        try:
            result = self.call()
        except BaseException as error:
            self.future.set_exception(error)
        else:
            self.future.set_result(result)


class Workers(ThreadPoolExecutor):
    """An executor that uses up to ``max_workers`` threads of the process's pool at once.

    Lives as long as its manager. Any thread may submit and shut down, also in a signal handler.

    Args:
        max_workers: Most threads at once.
        role, owner: Parts of the threads' names while they work, ``enclave-<role>-<owner>-<number>``.
    """

    def __init__(self, max_workers: int, role: str, owner: str, *, pool: ThreadPool | None = None) -> None:
        super().__init__(max_workers, thread_name_prefix=f'enclave-{role}-{owner}')
        self._pool = thread_pool if pool is None else pool
        self._prefix = f'enclave-{role}-{owner}'
        self._numbers = set(range(1, max_workers + 1))  # of workers that are not at work
        # Reentrant: a signal handler may come while its thread submits.
        self._changed = threading.Condition(threading.RLock())  # guards the one above and all below
        self._jobs: collections.deque[_FutureJob] = collections.deque()
        self._at_work: dict[int, threading.Thread | None] = {}  # by number; None until the pool has given a thread
        self._closed = False

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Have ``fn(*args, **kwargs)`` called on one of the threads.

        Raises:
            ManagerStoppedError: It was shut down; it is a `RuntimeError`, as of other executors.
        """
        future: Future[R] = Future()
        self.submit_to(future, lambda: fn(*args, **kwargs))
        return future

    def submit_to(self, future: Future[R], call: Callable[[], R]) -> None:
        """Have ``call()`` made on one of the threads, and its outcome put in ``future``, which may be cancelled until then.

        Raises:
            ManagerStoppedError: It was shut down.
        """
        job = _FutureJob(call, future)
        with self._changed:
            if self._closed:
                raise ManagerStoppedError('the manager is stopped and takes no new work')
            self._jobs.append(job)
            if not self._numbers:
                return  # a worker takes it when it comes to it
            number = min(self._numbers)
            self._numbers.remove(number)
            self._at_work[number] = None
        try:
            self._pool.submit(lambda: self._work_off(number))
        except RuntimeError:  # the system gives no threads at all
            with self._changed:
                self._rest_locked(number)
                if self._at_work or job not in self._jobs:
                    return  # the others will come to it, or have
                self._jobs.remove(job)
            future.cancel()
            raise

    def _work_off(self, number: int) -> None:
        """Take jobs until there are none. Runs on a thread of the pool."""
        thread = threading.current_thread()
        name, thread.name = thread.name, f'{self._prefix}-{number}'
        try:
            while True:
                with self._changed:
                    self._at_work[number] = thread
                    if not self._jobs:
                        self._rest_locked(number)
                        return
                    job = self._jobs.popleft()
                job.run()
                del job  # what it refers to must not live until the next one comes
        finally:
            thread.name = name

    def _rest_locked(self, number: int) -> None:
        del self._at_work[number]
        self._numbers.add(number)
        self._changed.notify_all()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no new work; what is queued is still done. May be called twice.

        Args:
            wait: Wait for the work, but not for the calling thread's own.
            cancel_futures: Drop what no thread has taken yet; who waits for it gets `CancelledError`.
        """
        dropped: list[_FutureJob] = []
        with self._changed:
            self._closed = True
            if cancel_futures:
                dropped = list(self._jobs)
                self._jobs.clear()
        for job in dropped:
            job.future.cancel()
        if wait:
            self.join(Deadline())

    def join(self, deadline: Deadline) -> bool:
        """Wait until nothing is being done, but for what the calling thread does; return whether that is so."""
        me = threading.current_thread()
        with self._changed:
            return self._changed.wait_for(
                lambda: not any(thread is not me for thread in self._at_work.values()), deadline.remaining()
            )


def wait_for(future: Future[Any], deadline: Deadline | None = None) -> bool:
    """Wait until a future is done, the deadline has passed or the caller's work is cancelled; return whether it is done."""
    ready = threading.Event()
    future.add_done_callback(lambda _: ready.set())
    with on_cancel(ready.set):
        ready.wait(None if deadline is None else deadline.remaining())
    return future.done()
