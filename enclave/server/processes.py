"""Programs that run on while clients come and go (floor 6): their output as numbered events, which can be taken up again.

Each has a thread that takes its output. What nobody has read yet is held up to a cap, past which the program waits as it would
at a full pipe; what was read is kept for a while, so that a client whose connection broke goes on where it was.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from enclave.errors import (
    EnclaveError,
    InvalidArgumentError,
    NotFoundError,
    OperationTimeoutError,
    ServerError,
    TooManyRequestsError,
)
from enclave.managers.protocol import (
    KEEP_ALIVE_SECONDS,
    ProcessEvent,
    ProcessInfo,
    chunk_event,
    error_answer,
)
from enclave.sandboxes.process import Process

logger = logging.getLogger(__name__)

UNREAD_BYTES = 1 << 20
KEPT_BYTES = 1 << 20
KEPT_SECONDS = 300.0
"""How long an ended process is remembered."""
RESUME_SECONDS = 15.0
"""How long a streamed command goes on after its client went away, unless that comes back."""
_EVENT_BYTES = 200
_START_SECONDS = 30.0


class LiveProcess:
    """One process. Lives until it was forgotten; any thread may read its events, one after the other or several at once."""

    def __init__(self, sandbox_id: str, process: Process, *, attended: bool) -> None:
        self.id = uuid.uuid4().hex[:12]
        self.sandbox_id = sandbox_id
        self.process = process
        self._attended = attended  # it is killed when nobody reads it any more
        self._changed = threading.Condition()  # guards all below
        self._events: deque[tuple[int, ProcessEvent]] = deque()  # (size, event)
        self._bytes = 0
        self._unread = 0
        self._last_seq = 0
        self._read_seq = 0
        self._readers = 0
        self._deserted: threading.Timer | None = None
        self._error: EnclaveError | None = None
        self._closed = False
        self.ended_at: float | None = None

    def start(self) -> None:
        """Begin to take its output."""
        self._append(ProcessEvent(event='started', seq=1, process_id=self.id, pid=self.process.pid), 0)
        threading.Thread(target=self._pump, name=f'enclave-pump-{self.id}', daemon=True).start()

    def _pump(self) -> None:
        try:
            for chunk in self.process.chunks():
                for start in range(0, len(chunk.data), UNREAD_BYTES // 4):
                    piece = chunk.data[start : start + UNREAD_BYTES // 4]
                    self._append(chunk_event(self._last_seq + 1, chunk.stream, piece), len(piece))
            assert self.process.result is not None
            self._end(ProcessEvent(event='end', seq=self._last_seq + 1, result=self.process.result), None)
        except EnclaveError as error:
            self._end(ProcessEvent(event='error', seq=self._last_seq + 1, error=error_answer(error)), error)
        except Exception:
            logger.exception('taking the output of process %s failed', self.id)
            failure = ServerError(f'taking the output of process {self.id} failed; the log of the server says why')
            self._end(ProcessEvent(event='error', seq=self._last_seq + 1, error=error_answer(failure)), failure)

    def _append(self, event: ProcessEvent, size: int) -> None:
        """Add an event once there is room for it. Called by one thread at a time."""
        size += _EVENT_BYTES
        with self._changed:
            self._changed.wait_for(lambda: self._unread + size <= UNREAD_BYTES or not self._unread or self._closed)
            self._events.append((size, event))
            self._bytes += size
            self._unread += size
            self._last_seq += 1
            while self._bytes > KEPT_BYTES + UNREAD_BYTES and (self._events[0][1].seq or 0) <= self._read_seq:
                self._bytes -= self._events.popleft()[0]
            self._changed.notify_all()

    def _end(self, event: ProcessEvent, error: EnclaveError | None) -> None:
        with self._changed:
            self._events.append((_EVENT_BYTES, event))
            self._last_seq += 1
            self._error = error
            self.ended_at = time.monotonic()
            self._changed.notify_all()

    def events(
        self, after: int, gone: threading.Event, *, interval: float = KEEP_ALIVE_SECONDS
    ) -> Iterator[ProcessEvent]:
        """Yield the events after a number, as they come, until the last; an ``alive`` one where nothing comes for a while.

        Args:
            gone: Set when the reader has gone away.

        Raises:
            NotFoundError: Events after this number are not kept any more.
            InvalidArgumentError: There is no such event yet.
        """
        self.check_after(after)
        return self._read(after, gone, interval)

    def check_after(self, after: int) -> None:
        """Return if reading may begin after this number; see `events` for the errors."""
        with self._changed:
            first = (self._events[0][1].seq or 1) if self._events else self._last_seq + 1
            if after < first - 1:
                raise NotFoundError(f'the events of process {self.id} before {first} are not kept any more')
            if after > self._last_seq:
                raise InvalidArgumentError(
                    f'after must be at most {self._last_seq}, the last event of process {self.id}'
                )

    def _read(self, after: int, gone: threading.Event, interval: float) -> Iterator[ProcessEvent]:
        with self._changed:
            self._readers += 1
            timer, self._deserted = self._deserted, None
        if timer is not None:
            timer.cancel()
        seen = after
        try:
            while not gone.is_set():
                with self._changed:
                    self._mark_read_locked(seen)
                    ready = self._wait_locked(seen, gone, interval)
                    batch = [event for _, event in self._events if (event.seq or 0) > seen]
                if not ready:
                    yield ProcessEvent(event='alive')
                for event in batch:
                    yield event
                    seen = event.seq or seen
                    if event.event in ('end', 'error'):
                        with self._changed:
                            self._mark_read_locked(seen)
                        return
        finally:
            self._leave()

    def _wait_locked(self, seen: int, gone: threading.Event, interval: float) -> bool:
        return self._changed.wait_for(lambda: self._last_seq > seen or gone.is_set(), timeout=interval)

    def _mark_read_locked(self, seen: int) -> None:
        if seen > self._read_seq:
            self._unread -= sum(size for size, event in self._events if self._read_seq < (event.seq or 0) <= seen)
            self._unread = max(0, self._unread)
            self._read_seq = seen
            self._changed.notify_all()

    def wake(self) -> None:
        """Let readers look whether they are still wanted."""
        with self._changed:
            self._changed.notify_all()

    def _leave(self) -> None:
        with self._changed:
            self._readers -= 1
            deserted = self._attended and not self._readers and self.ended_at is None and not self._closed
            if not deserted:
                return
            timer = self._deserted = threading.Timer(RESUME_SECONDS, self.process.kill)
            timer.daemon = True
            timer.name = f'enclave-deserted-{self.id}'
        timer.start()

    def info(self) -> ProcessInfo:
        """Return what can be said of it."""
        command = self.process.command
        with self._changed:
            return ProcessInfo(
                id=self.id,
                sandbox_id=self.sandbox_id,
                command=command if isinstance(command, str) else list(command),
                pid=self.process.pid,
                running=self.ended_at is None,
                last_seq=self._last_seq,
                result=self.process.result if self.ended_at is not None else None,
                error=error_answer(self._error).model_dump(mode='json') if self._error is not None else None,
            )

    def close(self) -> None:
        """Kill it if it still runs; its end comes as an event to whoever reads."""
        with self._changed:
            self._closed = True
            timer, self._deserted = self._deserted, None
            running = self.ended_at is None
            self._changed.notify_all()
        if timer is not None:
            timer.cancel()
        if running:
            self.process.kill()


class Processes:
    """The processes of one owner. Lives as long as the server; any thread may use it."""

    def __init__(self, limit: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._clock = clock
        self._lock = threading.Lock()  # guards _table and _starting
        self._table: dict[str, LiveProcess] = {}
        self._starting = 0

    def start(self, sandbox_id: str, start: Callable[[], Process], *, attended: bool = False) -> LiveProcess:
        """Start a process and return it, running.

        Args:
            start: Starts the program.
            attended: Kill it when nobody has read its events for `RESUME_SECONDS`.

        Raises:
            TooManyRequestsError: The owner has as many as it may.
            InvalidArgumentError: Its working directory or user does not exist.
        """
        self._forget_old()
        with self._lock:
            if len(self._table) + self._starting >= self._limit:
                raise TooManyRequestsError(
                    f'there are {self._limit} processes, which is all one key may have; '
                    'kill some, or wait until ended ones are forgotten',
                    details={'retry_after': 5.0},
                )
            self._starting += 1
        try:
            process = start()
            try:
                process.wait_started(_START_SECONDS)
            except OperationTimeoutError:
                process.kill()
                raise
            live = LiveProcess(sandbox_id, process, attended=attended)
            with self._lock:
                self._table[live.id] = live
        finally:
            with self._lock:
                self._starting -= 1
        live.start()
        return live

    def get(self, sandbox_id: str, process_id: str) -> LiveProcess:
        """Return a process of a sandbox.

        Raises:
            NotFoundError: There is none of this id, or it was forgotten.
        """
        with self._lock:
            live = self._table.get(process_id)
        if live is None or live.sandbox_id != sandbox_id:
            raise NotFoundError(
                f'sandbox {sandbox_id} has no process {process_id!r}; ended ones are forgotten after {KEPT_SECONDS:g} s',
                details={'sandbox_id': sandbox_id, 'process_id': process_id},
            )
        return live

    def of(self, sandbox_id: str) -> list[LiveProcess]:
        """Return the processes of a sandbox, oldest first."""
        self._forget_old()
        with self._lock:
            return [live for live in self._table.values() if live.sandbox_id == sandbox_id]

    def drop(self, sandbox_id: str) -> None:
        """Forget the processes of a sandbox that is gone."""
        with self._lock:
            gone = [live for live in self._table.values() if live.sandbox_id == sandbox_id]
            for live in gone:
                del self._table[live.id]
        _close_all(gone)

    def close(self) -> None:
        """Forget all."""
        with self._lock:
            gone = list(self._table.values())
            self._table.clear()
        _close_all(gone)

    def _forget_old(self) -> None:
        now = self._clock()
        with self._lock:
            for name, live in list(self._table.items()):
                if live.ended_at is not None and now - live.ended_at > KEPT_SECONDS:
                    del self._table[name]


def _close_all(gone: list[LiveProcess]) -> None:
    for live in gone:
        try:
            live.close()
        except EnclaveError as error:
            logger.debug('process %s was lost before it could be killed: %s', live.id, error)


def as_line(event: ProcessEvent) -> dict[str, Any]:
    """Return an event as it travels, without the fields that it does not use."""
    return event.model_dump(mode='json', exclude_none=True)
