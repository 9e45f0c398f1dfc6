"""Requests that may be repeated (floor 6): under one key the work is done once, and repeats get the first one's answer.

So a client whose connection broke may ask again without knowing whether the first request arrived. Who repeats while the work
goes on waits for it. Work whose clients have all gone away is cancelled, a moment later than without a key, because one of them
may be about to come back.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

from attrs import define, field, frozen

from enclave.cancellation import Cancellation
from enclave.errors import ConflictError

KEEP_SECONDS = 600.0
KEEP_BYTES = 64 << 20
KEEP_COUNT = 10_000
RETURN_SECONDS = 1.0
"""How long the work of a client that went away goes on, in case it comes back."""
EARLY_SECONDS = 30.0
"""How long it is remembered that work was cancelled which has not come: a request may be overtaken by what cancels it."""
EARLY_COUNT = 1000


@frozen
class Outcome:
    """An answer as it was given."""

    status: int
    body: bytes
    code: str | None = None


@define(eq=False)
class Entry:
    """One piece of work. All below ``cancellation`` is guarded by the table's lock."""

    fingerprint: bytes
    cancellation: Cancellation = field(factory=Cancellation)
    done: threading.Event = field(factory=threading.Event)
    outcome: Outcome | None = None
    clients: int = 1
    joined: threading.Event = field(factory=threading.Event)
    ended_at: float = 0.0


class Repeats:
    """The work of the last minutes, by key. Lives as long as the server; any thread may use it."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()  # guards the four below, and the entries
        self._entries: dict[tuple[str, str], Entry] = {}
        self._ended: deque[tuple[tuple[str, str], Entry]] = deque()  # in the order in which they ended
        self._bytes = 0
        self._early: dict[tuple[str, str], float] = {}  # cancelled before it came, and when; oldest first

    def begin(self, tenant: str, key: str, fingerprint: bytes) -> tuple[Entry, bool]:
        """Return the work under a key, and whether it is new and the caller's to do.

        Args:
            fingerprint: What tells this request from another.

        Raises:
            ConflictError: The key was used for another request.
        """
        with self._lock:
            self._forget_old_locked()
            entry = self._entries.get((tenant, key))
            if entry is None:
                entry = Entry(fingerprint)
                self._entries[tenant, key] = entry
                if self._early.pop((tenant, key), None) is not None:
                    entry.cancellation.cancel()  # which calls nothing yet
                return entry, True
            if entry.fingerprint != fingerprint:
                raise ConflictError(f'the idempotency key {key!r} was used for another request; make a new one')
            entry.clients += 1
            entry.joined.set()
            return entry, False

    def finish(self, tenant: str, key: str, entry: Entry, outcome: Outcome | None) -> None:
        """Say how the work ended; None means that it was not done, and a repeat may do it."""
        with self._lock:
            entry.outcome = outcome
            entry.ended_at = self._clock()
            if outcome is None:
                self._entries.pop((tenant, key), None)
            else:
                self._ended.append(((tenant, key), entry))
                self._bytes += len(outcome.body)
        entry.done.set()

    def leave(self, entry: Entry) -> None:
        """A client of the work went away. Blocks while it may come back, then cancels the work if nobody else waits for it."""
        with self._lock:
            entry.clients -= 1
            if entry.clients or entry.done.is_set():
                return
            entry.joined.clear()
        entry.joined.wait(RETURN_SECONDS)
        with self._lock:
            deserted = not entry.clients and not entry.done.is_set()
        if deserted:
            entry.cancellation.cancel()

    def cancel(self, tenant: str, key: str) -> bool:
        """Cancel the work under a key, also if it has not come yet; return whether any goes on."""
        with self._lock:
            self._forget_old_locked()
            entry = self._entries.get((tenant, key))
            if entry is None:
                self._early[tenant, key] = self._clock()
        if entry is None or entry.done.is_set():
            return False
        entry.cancellation.cancel()
        return True

    def _forget_old_locked(self) -> None:
        now = self._clock()
        while self._early:
            oldest = next(iter(self._early))
            if now - self._early[oldest] < EARLY_SECONDS and len(self._early) <= EARLY_COUNT:
                break
            del self._early[oldest]
        while self._ended:
            name, entry = self._ended[0]
            full = len(self._entries) > KEEP_COUNT or self._bytes > KEEP_BYTES
            if not full and now - entry.ended_at < KEEP_SECONDS:
                return
            self._ended.popleft()
            if self._entries.get(name) is entry:
                del self._entries[name]
            self._bytes -= len(entry.outcome.body) if entry.outcome is not None else 0
