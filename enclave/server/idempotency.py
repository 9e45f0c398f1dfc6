"""Requests that may be repeated (layer 6): under one key the work is done once, and repeats get the first one's answer.

So a client whose connection broke may ask again without knowing whether the first request arrived. Who repeats while the work
continues waits for it. Work whose clients have all gone away is cancelled, a moment later than without a key, because one of them
may be about to come back.

Of work that has ended only its answer is kept, and nothing of what did it; and no longer than until its client says that it has
the answer.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from attrs import define, field, frozen

from enclave.cancellation import Cancellation
from enclave.errors import ConflictError, InvalidArgumentError
from enclave.quoting import quoted
from enclave.wire import AsciiText

KEEP_SECONDS = 600.0
KEEP_BYTES = 64 << 20
KEEP_COUNT = 10_000
RETURN_SECONDS = 1.0
"""How long the work of a client that went away continues, in case it comes back."""
EARLY_SECONDS = 30.0
"""How long it is remembered that work was cancelled which has not come: a request may be overtaken by what cancels it."""
EARLY_COUNT = 1000
MAX_KEY_CHARACTERS = 256


def check_key(key: str) -> None:
    """Check a key under which something is remembered: it is kept as it is, however it came.

    Raises:
        InvalidArgumentError: It is empty or too long.
    """
    if not 1 <= len(key) <= MAX_KEY_CHARACTERS:
        raise InvalidArgumentError(
            f'a key of repeats must be 1 to {MAX_KEY_CHARACTERS} characters, not {quoted(key, 40)}'
        )


@frozen
class StoredResponse:
    """An answer as it was given."""

    status: int
    body: tuple[bytes | AsciiText, ...]  # in pieces
    code: str | None = None
    media_type: str = 'application/json'

    @property
    def size(self) -> int:
        """How many bytes its body has."""
        return sum(map(len, self.body))


@define(eq=False)
class Entry:
    """One piece of work. All below ``cancellation`` is guarded by the table's lock."""

    fingerprint: bytes
    cancellation: Cancellation = field(factory=Cancellation)
    is_done: bool = False
    done: threading.Event | None = None  # made for the first that joins: hardly anyone does
    outcome: StoredResponse | None = None
    clients: int = 1
    joined: threading.Event | None = None  # where one that went away is awaited

    def wait(self, timeout: float) -> bool:
        """Wait for the end of work that is another's, and return whether it has come."""
        assert self.done is not None
        return self.done.wait(timeout)


@frozen
class _Ended:
    """Work that has ended."""

    fingerprint: bytes
    outcome: StoredResponse
    at: float

    def entry(self) -> Entry:
        """Return it as one finds it who repeats it."""
        entry = Entry(self.fingerprint, is_done=True, done=threading.Event(), outcome=self.outcome)
        assert entry.done is not None
        entry.done.set()
        return entry


@define(eq=False)
class _Records:
    """What is remembered of one tenant; guarded by the table's lock."""

    entries: dict[str, Entry] = field(factory=dict)  # of work that continues
    ended: OrderedDict[str, _Ended] = field(factory=OrderedDict)  # the first that ended comes first
    bytes: int = 0
    waiting: dict[str, list[Callable[[], None]]] = field(
        factory=dict
    )  # what ends the waiting of requests for their turn
    early: dict[str, float] = field(factory=dict)  # cancelled before it came, and when; oldest first


class Repeats:
    """The work of the last minutes, by tenant and key. Lives as long as the server; any thread may use it.

    Args:
        count, size: How many answers are kept, and how many bytes of them. Each tenant has its part, and fills nobody else's.
        keys: How many tenants there are.
    """

    def __init__(
        self,
        *,
        count: int | None = None,
        size: int | None = None,
        keys: int = 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._count = max(1, (KEEP_COUNT if count is None else count) // max(1, keys))
        self._size = (KEEP_BYTES if size is None else size) // max(1, keys)
        self._lock = threading.Lock()  # guards all below, and the entries
        self._tenants: dict[str, _Records] = {}

    def _records_locked(self, tenant: str) -> _Records:
        found = self._tenants.get(tenant)
        if found is None:
            found = self._tenants[tenant] = _Records()
        self._forget_old(found)
        return found

    def begin(self, tenant: str, key: str, fingerprint: bytes) -> tuple[Entry, bool]:
        """Return the work under a key, and whether it is new and the caller's to do.

        Args:
            fingerprint: What distinguishes this request from another.

        Raises:
            ConflictError: The key was used for another request.
            InvalidArgumentError: The key is too long to be kept.
        """
        check_key(key)
        with self._lock:
            records = self._records_locked(tenant)
            ended = records.ended.get(key)
            entry = records.entries.get(key) if ended is None else ended.entry()
            if entry is None:
                entry = Entry(fingerprint)
                records.entries[key] = entry
                if records.early.pop(key, None) is not None:
                    entry.cancellation.cancel()  # which calls nothing yet
                return entry, True
            if entry.fingerprint != fingerprint:
                raise ConflictError(f'the idempotency key {key!r} was used for another request; make a new one')
            entry.clients += 1
            if entry.done is None:
                entry.done = threading.Event()
            if entry.joined is not None:
                entry.joined.set()
            return entry, False

    def finish(self, tenant: str, key: str, entry: Entry, outcome: StoredResponse | None) -> None:
        """Say how the work ended; None means that it was not done, and a repeat may do it."""
        with self._lock:
            entry.outcome, entry.is_done = outcome, True
            records = self._tenants[tenant]  # what is too much of it is forgotten when the next begins
            if records.entries.get(key) is entry:
                del records.entries[key]
            if outcome is not None:
                records.ended[key] = _Ended(entry.fingerprint, outcome, self._clock())
                records.bytes += outcome.size
            if entry.done is not None:
                entry.done.set()

    def forget(self, tenant: str, key: str) -> None:
        """Keep an answer no longer, since its client has it and will not ask again."""
        with self._lock:
            self._forget_locked(self._records_locked(tenant), key)

    def forget_parts(self, tenant: str, key: str, count: int) -> None:
        """Keep what was done under ``key.0``, ``key.1`` and so on no longer; see `forget`."""
        with self._lock:
            records = self._records_locked(tenant)
            for number in range(count):
                self._forget_locked(records, f'{key}.{number}')

    @staticmethod
    def _forget_locked(records: _Records, key: str) -> None:
        ended = records.ended.pop(key, None)
        if ended is not None:
            records.bytes -= ended.outcome.size

    def leave(self, entry: Entry, seconds: float = RETURN_SECONDS) -> None:
        """A client of the work went away. Blocks while it may come back, then cancels the work if nobody else waits for it."""
        with self._lock:
            entry.clients -= 1
            if entry.clients or entry.is_done:
                return
            joined = entry.joined = threading.Event()
        joined.wait(seconds)
        with self._lock:
            deserted = not entry.clients and not entry.is_done
        if deserted:
            entry.cancellation.cancel()

    def await_turn(self, tenant: str, key: str, leave: Callable[[], None]) -> Callable[[], None]:
        """Have ``leave`` called if the work under a key is cancelled while a request for it waits for its turn.

        Returns what is to be called when the request waits no longer.
        """
        with self._lock:
            records = self._records_locked(tenant)
            is_cancelled = key in records.early
            records.waiting.setdefault(key, []).append(leave)
        if is_cancelled:
            leave()
        return lambda: self._end_waiting(tenant, key, leave)

    def _end_waiting(self, tenant: str, key: str, leave: Callable[[], None]) -> None:
        with self._lock:
            records = self._records_locked(tenant)
            found = records.waiting[key]
            found.remove(leave)
            if not found:
                del records.waiting[key]

    def cancel(self, tenant: str, key: str) -> bool:
        """Cancel the work under a key, also if it has not come yet; return whether any continues or waits for its turn.

        Raises:
            InvalidArgumentError: No work can have such a key.
        """
        check_key(key)
        with self._lock:
            records = self._records_locked(tenant)
            entry = records.entries.get(key)
            if entry is None and key not in records.ended:
                records.early[key] = self._clock()
            waiting = list(records.waiting.get(key, ())) if entry is None else []
        for leave in waiting:
            leave()
        if waiting:
            return True
        if entry is None or entry.is_done:
            return False
        entry.cancellation.cancel()
        return True

    def _forget_old(self, records: _Records) -> None:
        now = self._clock()
        while records.early:
            first = next(iter(records.early))
            if now - records.early[first] < EARLY_SECONDS and len(records.early) <= EARLY_COUNT:
                break
            del records.early[first]
        while records.ended:
            oldest = next(iter(records.ended.values()))
            full = len(records.entries) + len(records.ended) > self._count or records.bytes > self._size
            if not full and now - oldest.at < KEEP_SECONDS:
                return
            records.bytes -= oldest.outcome.size
            records.ended.popitem(last=False)
