"""Threads that do a manager's work (floor 5).

`Workers` is a `ThreadPoolExecutor` to whoever uses it. Its queue and threads are its own, for three reasons. The standard
one's threads are joined by the interpreter before any ``atexit`` hook runs, so a call without a time limit would keep a
program from ever reaching the hook that ends the call; ours are daemons, and work as long as the interpreter does. The
standard one refuses new work as soon as the main thread has ended, even if other threads go on. And its lock is not
reentrant, so a signal handler that comes while the main thread submits would wait for itself.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

from attrs import define

from enclave.cancellation import on_cancel
from enclave.deadline import Deadline
from enclave.errors import ManagerStoppedError

P = ParamSpec('P')
R = TypeVar('R')


@define(eq=False)
class _Job:
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
    """An executor whose threads are daemons, made when there is more work than idle threads, up to ``max_workers``.

    Lives as long as its manager. Any thread may submit and shut down, also in a signal handler.

    Args:
        max_workers: Most threads at once.
        role, owner: Parts of the threads' names, ``enclave-<role>-<owner>-<number>``.
    """

    def __init__(self, max_workers: int, role: str, owner: str) -> None:
        super().__init__(max_workers, thread_name_prefix=f'enclave-{role}-{owner}')
        self._limit = max_workers
        self._prefix = f'enclave-{role}-{owner}'
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._counts = threading.RLock()  # guards the four below
        self._workers: list[threading.Thread] = []
        self._free = 0  # threads waiting for a job
        self._backlog = 0  # jobs no thread has taken yet
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

        with self._counts:
            if self._closed:
                raise ManagerStoppedError('the manager is stopped and takes no new work')
            self._backlog += 1
            self._jobs.put(_Job(call, future))
            if self._backlog > self._free and len(self._workers) < self._limit:
                thread = threading.Thread(
                    target=self._work, name=f'{self._prefix}-{len(self._workers) + 1}', daemon=True
                )
                self._workers.append(thread)
            else:
                return
        try:
            thread.start()
        except RuntimeError:  # the system gives no more threads, or the interpreter is exiting
            with self._counts:
                self._workers.remove(thread)
                if self._workers:
                    return  # the others will come to it
                self._backlog -= 1
            future.cancel()
            raise

    def offer(self, job: Callable[[], None]) -> None:
        """Let a thread that is there make this call, if one ever becomes free; takes no lock and makes no thread."""
        self._jobs.put(_Job(job, Future()))

    def _work(self) -> None:
        while True:
            with self._counts:
                self._free += 1
            job = self._jobs.get()
            with self._counts:
                self._free -= 1
                self._backlog = max(0, self._backlog - 1)
            if job is None:
                return
            job.run()
            del job  # what it refers to must not live until the next one comes

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no new work and let the threads go when the queue is empty. May be called twice.

        Args:
            wait: Wait for the threads, but not for the calling one.
            cancel_futures: Drop what no thread has taken yet; whoever waits for it is told.
        """
        with self._counts:
            self._closed = True
            threads = list(self._workers)
        if cancel_futures:
            while True:
                try:
                    job = self._jobs.get_nowait()
                except queue.Empty:
                    break
                if job is not None:
                    job.future.cancel()
        for _ in threads:
            self._jobs.put(None)
        if wait:
            self.join(Deadline())

    def join(self, deadline: Deadline) -> bool:
        """Wait for the threads after `shutdown`, but not for the calling one; return whether all have ended."""
        with self._counts:
            threads = list(self._workers)
        for thread in threads:
            if thread is not threading.current_thread() and thread.ident is not None:
                thread.join(deadline.remaining())
        return not any(thread.is_alive() for thread in threads if thread is not threading.current_thread())


def wait_for(future: Future[Any], deadline: Deadline | None = None) -> bool:
    """Wait until a future is done, the deadline has passed or the caller's work is cancelled; return whether it is done."""
    ready = threading.Event()
    future.add_done_callback(lambda _: ready.set())
    with on_cancel(ready.set):
        ready.wait(None if deadline is None else deadline.remaining())
    return future.done()
