"""What runs on while clients come and go (layer 6): what it says, as numbered events that can be taken up again.

Each has a thread that takes what it says. What nobody has read yet is held up to a cap, past which whatever says it waits;
what was read is kept for a while, so that a client whose connection broke continues where it was. Events are held as the text
that travels, so that how much memory they take is known, and several readers cost no more than one.
"""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Generator, Iterator
from itertools import takewhile
from typing import ClassVar, Generic, TypeVar

from attrs import frozen

from enclave.deadline import Deadline
from enclave.errors import (
    EnclaveError,
    InvalidArgumentError,
    NotFoundError,
    ServerError,
    TooManyRequestsError,
)
from enclave.managers.protocol import KEEP_ALIVE_SECONDS, StreamEvent
from enclave.server.faults import shown_error

logger = logging.getLogger(__name__)

L = TypeVar('L', bound='EventLog')

UNREAD_BYTES = 1 << 20
KEPT_BYTES = 1 << 20
KEPT_SECONDS = 300.0
"""How long one that has ended is remembered, unless others need the room."""
ENDED_BYTES = 64 << 20
"""How much the events of all that have ended may take, for each tenant."""
RESUME_SECONDS = 15.0
"""How long one that is to be attended continues after its client went away, unless that comes back."""
_LINE_BYTES = 200


@frozen
class EncodedEvent:
    """An event as it travels: ``text`` is its JSON. One without a number says only that there is nothing to report."""

    event: str
    seq: int | None
    text: bytes
    is_last: bool = False

    @property
    def size(self) -> int:
        """How much memory it takes, in bytes."""
        return len(self.text) + _LINE_BYTES


_ALIVE = EncodedEvent('alive', None, b'{"event":"alive"}')


class EventLog(ABC):
    """One thing that runs. Lives until it was forgotten; any thread may read its events, one after the other or several at once.

    Args:
        attended: It is cancelled when nobody reads it for `RESUME_SECONDS`.
        kept_bytes: How much of what was read is kept; default is `KEPT_BYTES`.
        patience: Seconds after its first wait for its readers until it waits no more, as in `hurry`; None is no limit.
        waits_alone: Whether it waits where nobody reads at all. False has the oldest events that nobody has read make room.
    """

    noun: ClassVar[str]

    def __init__(
        self,
        sandbox_id: str,
        live_id: str,
        *,
        attended: bool,
        kept_bytes: int | None = None,
        patience: float | None = None,
        waits_alone: bool = True,
    ) -> None:
        self._waits_alone = waits_alone
        self.held = contextlib.ExitStack()
        """What it holds until its end. Set before `start`; its own thread lets it go."""
        self.id = live_id
        self.sandbox_id = sandbox_id
        self._attended = attended
        self._kept_bytes = KEPT_BYTES if kept_bytes is None else kept_bytes
        self._patience = patience
        # The next two are the producer's own.
        self._waits_until: Deadline | None = None
        self._leaves_out = False  # after the first event that found no room, all but the last one
        self._changed = threading.Condition()  # guards all below
        self._lines: deque[EncodedEvent] = deque()
        self._bytes = 0
        self._unread = 0
        self._last_seq = 0
        self._read_seq = 0
        self._readers = 0
        self._deserted: threading.Timer | None = None
        self._error: EnclaveError | None = None
        self._is_hurried = False  # it waits for no reader any more
        self._ended_at: float | None = None

    # For kinds --------------------------------------------------------------------------------------------------------

    @abstractmethod
    def _started(self) -> StreamEvent:
        """Return its first event."""

    @abstractmethod
    def _events(self) -> Generator[StreamEvent, None, None]:
        """Yield its events as they come, without numbers, the last one ``end``. Runs on a thread of its own."""

    @abstractmethod
    def cancel(self) -> None:
        """Have it end soon. May be called twice, and after its end."""

    # The producer's side --------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to take what it says."""
        self._append(self._started())
        with self._changed:
            timer = self._desert_locked()
        if timer is not None:
            timer.start()
        threading.Thread(target=self._produce, name=f'enclave-producer-{self.id}', daemon=True).start()

    def _produce(self) -> None:
        try:
            with self.held, contextlib.closing(self._events()) as events:
                for event in events:
                    self._append(event)
        except EnclaveError as error:
            self._end(error)
        except Exception:
            logger.exception('taking the output of %s %s failed', self.noun, self.id)
            self._end(ServerError(f'taking the output of {self.noun} {self.id} failed; the log of the server says why'))

    def _end(self, error: EnclaveError) -> None:
        self._error = error  # before its event, which says that it is there
        self._append(StreamEvent(event='error', error=shown_error(error)))

    def _append(self, event: StreamEvent) -> None:
        """Add an event once there is room for it; one that ends it needs none. Called by one thread at a time."""
        if self._leaves_out and not event.is_last:
            return
        number = self._last_seq + 1
        line = EncodedEvent(event.event, number, as_text(event, number), event.is_last)
        with self._changed:
            if not line.is_last and not self._wait_for_room_locked(line.size):
                self._leaves_out = True
                return
            self._lines.append(line)
            self._bytes += line.size
            self._unread += line.size
            self._last_seq += 1
            if line.is_last:
                self._ended_at = time.monotonic()
            while self._bytes > self._kept_bytes + UNREAD_BYTES and (self._lines[0].seq or 0) <= self._read_seq:
                self._bytes -= self._lines.popleft().size
            self._changed.notify_all()

    def _wait_for_room_locked(self, size: int) -> bool:
        """Wait until a line of this size may be added; False if it is to be left out."""

        def has_room() -> bool:
            return self._unread + size <= UNREAD_BYTES or not self._unread

        def is_alone() -> bool:
            return not self._waits_alone and not self._readers

        if has_room():
            return True
        if self._waits_until is None:
            self._waits_until = Deadline.after(self._patience)
        self._changed.wait_for(lambda: has_room() or self._is_hurried or is_alone(), self._waits_until.remaining())
        while is_alone() and not self._is_hurried and not has_room():
            self._drop_oldest_locked()
        return has_room()

    def _drop_oldest_locked(self) -> None:
        event = self._lines.popleft()
        self._bytes -= event.size
        if (event.seq or 0) > self._read_seq:
            self._unread -= event.size
            self._read_seq = event.seq or 0

    # The readers' side ------------------------------------------------------------------------------------------------

    def events(
        self, after: int, gone: threading.Event, *, interval: float = KEEP_ALIVE_SECONDS
    ) -> Iterator[EncodedEvent]:
        """Yield the events after a number, as they come, until the last; an ``alive`` one where nothing comes for a while.

        Args:
            gone: Set when the reader has gone away; `wake` then has it noticed.

        Raises:
            NotFoundError: Events after this number are not kept any more.
            InvalidArgumentError: There is no such event yet.
        """
        with self._changed:
            first = (self._lines[0].seq or 1) if self._lines else self._last_seq + 1
            if after < first - 1:
                raise NotFoundError(f'the events of {self.noun} {self.id} before {first} are not kept any more')
            if after > self._last_seq:
                raise InvalidArgumentError(
                    f'after must be at most {self._last_seq}, the last event of {self.noun} {self.id}'
                )
        return self._read(after, gone, interval)

    def _read(self, after: int, gone: threading.Event, interval: float) -> Iterator[EncodedEvent]:
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
                    ready = self._wait_for_news_locked(seen, gone, interval)
                    batch = self._newer_locked(seen)
                if not ready:
                    yield _ALIVE
                for line in batch:
                    yield line
                    seen = line.seq or seen
                    if line.is_last:
                        with self._changed:
                            self._mark_read_locked(seen)
                        return
        finally:
            with self._changed:
                self._readers -= 1
                timer = self._desert_locked()
                self._changed.notify_all()
            if timer is not None:
                timer.start()

    def _wait_for_news_locked(self, seen: int, gone: threading.Event, interval: float) -> bool:
        return self._changed.wait_for(lambda: self._last_seq > seen or gone.is_set(), timeout=interval)

    def _newer_locked(self, seen: int) -> list[EncodedEvent]:
        """Return the lines after a number; only these are looked at, however many are kept."""
        newer = list(takewhile(lambda line: (line.seq or 0) > seen, reversed(self._lines)))
        newer.reverse()
        return newer

    def _mark_read_locked(self, seen: int) -> None:
        if seen > self._read_seq:
            fresh = self._newer_locked(self._read_seq)
            self._unread -= sum(line.size for line in fresh if (line.seq or 0) <= seen)
            self._read_seq = seen
            self._changed.notify_all()

    def wake(self) -> None:
        """Let readers look whether they are still wanted."""
        with self._changed:
            self._changed.notify_all()

    def _desert_locked(self) -> threading.Timer | None:
        """Return a timer to be started, if it is to be attended and nobody reads it."""
        if not self._attended or self._readers or self._ended_at is not None or self._is_hurried:
            return None
        timer = self._deserted = threading.Timer(RESUME_SECONDS, self._give_up)
        timer.daemon = True
        timer.name = f'enclave-deserted-{self.id}'
        return timer

    # The end ----------------------------------------------------------------------------------------------------------

    def hurry(self) -> None:
        """Have it wait for no reader any more: from the first event that there is no room for, all but the last are left out."""
        with self._changed:
            self._is_hurried = True
            timer, self._deserted = self._deserted, None
            self._changed.notify_all()
        if timer is not None:
            timer.cancel()

    def _give_up(self) -> None:
        """End it, since nobody came back. What it is in may be lost meanwhile, and then it has ended."""
        with self._changed:
            if self._readers:
                return  # who came in the very moment
        self.close()

    def close(self) -> None:
        """Have it end soon if it still runs; its end comes as an event to the caller that reads."""
        self.hurry()
        if not self.is_running:
            return
        try:
            self.cancel()
        except EnclaveError as error:
            logger.debug('%s %s was lost before it could be ended: %s', self.noun, self.id, error)

    # Reply ------------------------------------------------------------------------------------------------------------

    @property
    def is_running(self) -> bool:
        """Whether its last event has not come yet."""
        with self._changed:
            return self._ended_at is None

    @property
    def ended_at(self) -> float | None:
        """When it ended, on the monotonic clock; None while it runs."""
        with self._changed:
            return self._ended_at

    @property
    def read_seq(self) -> int:
        """The number of the newest event that was read, or that no reader can have any more."""
        with self._changed:
            return self._read_seq

    @property
    def last_seq(self) -> int:
        """The number of the newest event."""
        with self._changed:
            return self._last_seq

    @property
    def size(self) -> int:
        """How much its events take, in bytes."""
        with self._changed:
            return self._bytes

    @property
    def error(self) -> EnclaveError | None:
        """Why it was lost, once it was."""
        return self._error


def as_text(event: StreamEvent, seq: int) -> bytes:
    """Return an event as it travels: JSON, with its number, without the fields that it does not use.

    Raises:
        InvalidArgumentError: Something in it has no JSON form.
    """
    try:
        # The result in an event is whole, as everywhere else.
        fields = {name: value for name, value in event.model_dump(mode='json').items() if value is not None}
        fields['seq'] = seq
        return json.dumps(fields, separators=(',', ':'), allow_nan=False).encode('ascii')
    except (ValueError, RecursionError) as error:
        raise InvalidArgumentError(f'an event cannot be written as JSON: {error}') from None


class EventLogTable(Generic[L]):
    """Those of one tenant and one kind. Lives as long as the server; any thread may use it.

    Args:
        noun, plural: What they are called.
        limit: How many may run at once, and how many that have ended are remembered.
    """

    def __init__(self, noun: str, plural: str, limit: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._noun = noun
        self._plural = plural
        self._limit = limit
        self._clock = clock
        self._lock = threading.Lock()  # guards the two below
        self._table: dict[str, L] = {}
        self._starting = 0

    @contextlib.contextmanager
    def _room(self) -> Iterator[None]:
        """Hold room for one that is being started in the block.

        Raises:
            TooManyRequestsError: The tenant has as many as it may.
        """
        self._forget_old()
        with self._lock:
            running = sum(live.is_running for live in self._table.values())
            if running + self._starting >= self._limit:
                raise TooManyRequestsError(
                    f'{self._limit} {self._plural} are running, which is all one key may have; '
                    'end some, or wait until some have ended',
                    details={'retry_after': 5.0},
                )
            self._starting += 1
        try:
            yield
        finally:
            with self._lock:
                self._starting -= 1

    def _enter(self, live: L) -> L:
        """Put one into the table, and return the one of this id that is there then: this one, unless it was too late."""
        with self._lock:
            return self._table.setdefault(live.id, live)

    def find(self, sandbox_id: str, live_id: str) -> L | None:
        """Return one of a sandbox, or None."""
        with self._lock:
            live = self._table.get(live_id)
        return live if live is not None and live.sandbox_id == sandbox_id else None

    def get(self, sandbox_id: str, live_id: str) -> L:
        """Return one of a sandbox.

        Raises:
            NotFoundError: There is none of this id, or it was forgotten.
        """
        live = self.find(sandbox_id, live_id)
        if live is None:
            raise NotFoundError(
                f'sandbox {sandbox_id} has no {self._noun} {live_id!r}; '
                f'those that have ended are forgotten after {KEPT_SECONDS:g} s at the latest',
                details={'sandbox_id': sandbox_id, f'{self._noun}_id': live_id},
            )
        return live

    def of(self, sandbox_id: str) -> list[L]:
        """Return those of a sandbox, oldest first."""
        self._forget_old()
        with self._lock:
            return [live for live in self._table.values() if live.sandbox_id == sandbox_id]

    def drop(self, sandbox_id: str) -> None:
        """Forget those of a sandbox that is gone."""
        with self._lock:
            gone = [live for live in self._table.values() if live.sandbox_id == sandbox_id]
            for live in gone:
                del self._table[live.id]
        for live in gone:
            live.close()

    def close(self) -> None:
        """Forget all."""
        with self._lock:
            gone = list(self._table.values())
            self._table.clear()
        for live in gone:
            live.close()

    def _forget_old(self) -> None:
        """Forget those that ended long ago, and of the others as many as there is no room for, the first to end first."""
        now = self._clock()
        with self._lock:
            ended = sorted(
                (live for live in self._table.values() if not live.is_running), key=lambda live: live.ended_at or 0.0
            )
            count, size = len(ended), sum(live.size for live in ended)
            for live in ended:
                is_old = now - (live.ended_at or 0.0) > KEPT_SECONDS
                if not is_old and count <= self._limit and size <= ENDED_BYTES:
                    break
                del self._table[live.id]
                count, size = count - 1, size - live.size
