"""The end of what a kernel is to do no longer (layer 4), on a thread of its own.

The one that reads a cell's outputs may be slow, or not read at all for a while. So the reader does not watch the time: a
`KernelWatchdog` does, one for each kernel process, and interrupts or kills what has run too long or was cancelled. It asks the
kernel itself whether the cell has ended, since its outputs may still wait for their reader.

Its thread starts with the first cell that has a time limit or is cancelled. It sleeps until the nearest limit, so a cell that
ends in time does not wake it.
"""

from __future__ import annotations

import logging
import threading
from typing import Literal, Protocol

from attrs import define, field

from enclave.deadline import Deadline

logger = logging.getLogger(__name__)

Cause = Literal['', 'timeout', 'cancelled']
KILL_SECONDS = 10.0
"""How long a process may take to end after it was killed."""


class Watched(Protocol):
    """What the watchdog does to a kernel process, and asks it."""

    def has_finished(self, request_id: str, seconds: float) -> bool:
        """Return whether the kernel has ended a request, or has ended itself; wait up to so many seconds for it."""

    def interrupt(self) -> None:
        """Interrupt what it does."""

    def kill(self, verdict: str) -> None:
        """Kill it."""

    def report_stuck(self, request_id: str) -> None:
        """Say that it does not end, whatever is done to it."""


@define(eq=False)
class Job:
    """One request to a kernel, as long as it is watched.

    Attributes:
        stopped: What it was ended for.
    """

    request_id: str
    limit: Deadline
    grace: float
    stopped: Cause = ''
    _cause: Cause = 'timeout'
    _is_handled: bool = False


@define(eq=False)
class KernelWatchdog:
    """Ends the requests of one kernel process. Lives as long as that; any thread may call."""

    _kernel: Watched
    _name: str
    _changed: threading.Condition = field(factory=threading.Condition, init=False)  # guards all below
    _job: Job | None = field(default=None, init=False)
    _wakes_at: float | None = field(default=None, init=False)  # when the thread looks next; None is never
    _asked: Job | None = field(default=None, init=False)  # what is to be interrupted soon
    _thread: threading.Thread | None = field(default=None, init=False)
    _is_closed: bool = field(default=False, init=False)
    _acting: threading.Lock = field(factory=threading.Lock, init=False)  # held while something is done to the kernel

    def begin(self, request_id: str, timeout: float | None, grace: float) -> Job:
        """Watch a request from now on."""
        job = Job(request_id, Deadline.after(timeout), grace)
        with self._changed:
            self._job = job
            at = job.limit.at
            if at is not None and (self._wakes_at is None or at < self._wakes_at):
                self._wake_locked()
        return job

    def stop(self, job: Job) -> None:
        """End a request now, since it was cancelled or its caller went away."""
        with self._changed:
            if self._job is job and not job._is_handled:
                job._cause, job.limit = 'cancelled', Deadline(0.0)
                self._wake_locked()

    def interrupt(self) -> None:
        """Interrupt the request that is watched, once, and let it do what it then does. What follows it is never hit."""
        with self._changed:
            job = self._job
        if job is not None:
            self._interrupt(job)

    def interrupt_soon(self) -> None:
        """Have the watchdog's thread do that."""
        with self._changed:
            self._asked = self._job
            self._wake_locked()

    def end(self, job: Job) -> Cause:
        """Watch a request no longer, and return what it was ended for. Nothing is done to the kernel because of it after that."""
        with self._changed:
            if self._job is job:
                self._job = None
                self._changed.notify_all()
        with self._acting:
            return job.stopped

    def close(self) -> None:
        """Have the thread leave."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def _wake_locked(self) -> None:
        if self._is_closed:
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=f'enclave-watchdog-{self._name}', daemon=True)
            self._thread.start()
        self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._is_closed and (job := self._due_locked()) is None and self._asked is None:
                    self._changed.wait(self._sleep_locked())
                if self._is_closed:
                    return
                asked, self._asked = self._asked, None
                if job is not None:
                    job._is_handled = True
            try:
                if job is not None:
                    self._finish(job)
                elif asked is not None:
                    self._interrupt(asked)
            except Exception:
                logger.exception('ending what kernel %s does failed', self._name)
                if job is not None:
                    self._kernel.report_stuck(job.request_id)  # or its caller would wait for ever

    def _due_locked(self) -> Job | None:
        job = self._job
        return job if job is not None and not job._is_handled and job.limit.has_expired() else None

    def _sleep_locked(self) -> float | None:
        job = self._job
        limit = Deadline() if job is None or job._is_handled else job.limit
        self._wakes_at = limit.at
        return limit.remaining()

    def _finish(self, job: Job) -> None:
        """Ask twice, since code may catch the first KeyboardInterrupt, and then kill."""
        if self._kernel.has_finished(job.request_id, 0.0):
            return
        pause = max(job.grace / 2, 0.001)
        for _ in range(2):
            if not self._act(job):
                return
            if self._kernel.has_finished(job.request_id, pause):
                return
        seconds = f'{job.grace:g} second{"" if job.grace == 1 else "s"}'
        if not self._act(job, f'was killed, since what it did would not stop within {seconds} of being interrupted'):
            return
        if not self._kernel.has_finished(job.request_id, KILL_SECONDS):
            self._kernel.report_stuck(job.request_id)

    def _act(self, job: Job, verdict: str = '') -> bool:
        """Interrupt the kernel, or kill it; False if the request has ended meanwhile, so that nothing is to be done."""
        with self._acting:
            with self._changed:
                if self._job is not job or self._is_closed:
                    return False
                job.stopped = job.stopped or job._cause
            if verdict:
                self._kernel.kill(verdict)
            else:
                self._kernel.interrupt()
            return True

    def _interrupt(self, job: Job) -> None:
        with self._acting:
            with self._changed:
                if self._job is not job or self._is_closed:
                    return
            self._kernel.interrupt()
