"""How many requests of which kind go on at once (floor 6).

A lane is a number of threads that requests of one kind may hold. Calls that take as long as the code in a sandbox does have
one, streams another, what ends sandboxes a third; what is quick needs none. The server has threads for all lanes together and
some to spare, so whoever is refused is refused at once, and `/health` is never behind an execution.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Literal

from enclave.errors import TooManyRequestsError

Lane = Literal['quick', 'call', 'stream', 'end']

END_THREADS = 16
SPARE_THREADS = 12
RETRY_AFTER_SECONDS = 1.0


class Shares:
    """Something of which there is only so much, shared by all keys. Not safe for several threads by itself.

    Where there are several keys, each has a part that the others cannot take: half of all is kept for those that hold less than
    their part of it. So one key may use much while nobody else comes, and whoever comes then is served all the same.

    Args:
        limit: How much there is.
        keys: How many keys there are.
    """

    def __init__(self, limit: int, keys: int) -> None:
        self.limit = limit
        self.taken = 0
        self._keys = max(1, keys)
        self._part = max(1, limit // (2 * self._keys))
        self._held: dict[str, int] = {}

    def held(self, tenant: str) -> int:
        """Return how much a key holds."""
        return self._held.get(tenant, 0)

    def has_room(self, tenant: str, amount: int = 1) -> bool:
        """Tell whether a key may take so much more."""
        mine = self.held(tenant) + amount
        if self.taken + amount > self.limit:
            return False
        return mine <= self._part or self.taken + amount <= self.limit - self._kept(tenant)

    def _kept(self, tenant: str) -> int:
        """Return how much is kept for the others."""
        others = [held for name, held in self._held.items() if name != tenant]
        absent = max(0, self._keys - 1 - len(others))
        return min(self.limit // 2, absent * self._part + sum(max(0, self._part - held) for held in others))

    def take(self, tenant: str, amount: int = 1) -> None:
        """Count what a key takes."""
        self.taken += amount
        self._held[tenant] = self.held(tenant) + amount

    def give(self, tenant: str, amount: int = 1) -> None:
        """Count what a key gives back."""
        self.taken -= amount
        left = self.held(tenant) - amount
        if left:
            self._held[tenant] = left
        else:
            self._held.pop(tenant, None)


class Lanes:
    """Counts what goes on. Lives as long as the server; any thread may enter.

    Args:
        calls, streams, ends: How many requests of each kind go on at once.
        memory: How many bytes of output calls may hold together.
        keys: How many keys there are.
    """

    def __init__(
        self, *, calls: int, streams: int, ends: int = END_THREADS, memory: int = 1 << 62, keys: int = 1
    ) -> None:
        self._changed = threading.Condition()  # guards the four below
        self._lanes: dict[Lane, Shares] = {
            'call': Shares(calls, keys),
            'stream': Shares(streams, keys),
            'end': Shares(ends, keys),
        }
        self._memory = Shares(memory, keys)
        self._quick = 0
        self._refused = 0

    @property
    def threads(self) -> int:
        """How many threads a server needs so that no lane starves another."""
        return sum(shares.limit for shares in self._lanes.values()) + SPARE_THREADS

    @contextlib.contextmanager
    def entered(self, lane: Lane, tenant: str, tenant_limit: int | None = None) -> Iterator[None]:
        """Hold a place for the block.

        Raises:
            TooManyRequestsError: The lane is full, or the tenant's part of it.
        """
        shares = self._lanes.get(lane)
        with self._changed:
            if shares is None:
                self._quick += 1
            else:
                self._check_locked(shares, lane, tenant, tenant_limit)
                shares.take(tenant)
        try:
            yield
        finally:
            with self._changed:
                if shares is None:
                    self._quick -= 1
                else:
                    shares.give(tenant)
                self._changed.notify_all()

    def _check_locked(self, shares: Shares, lane: Lane, tenant: str, tenant_limit: int | None) -> None:
        mine = shares.held(tenant)
        if lane == 'call' and tenant_limit is not None and mine >= tenant_limit:
            self._refused += 1
            raise _full(f'{tenant!r} has {mine} calls going on, which is all this key may have')
        if not shares.has_room(tenant):
            self._refused += 1
            if shares.taken >= shares.limit:
                raise _full(f'the server is busy: {shares.limit} requests of this kind go on, which is all it takes')
            raise _full(
                f'the server is busy: {mine} requests of this kind are those of {tenant!r}, and the rest is kept for other keys'
            )

    @contextlib.contextmanager
    def holding(self, tenant: str, size: int) -> Iterator[None]:
        """Hold room for output of so many bytes for the block; no call is larger than a quarter of all there is.

        Raises:
            TooManyRequestsError: Other calls hold it.
        """
        amount = min(size, self._memory.limit // 4)
        with self._changed:
            if not self._memory.has_room(tenant, amount):
                self._refused += 1
                raise _full('the server is busy: the calls that go on may have as much output as it keeps at once')
            self._memory.take(tenant, amount)
        try:
            yield
        finally:
            with self._changed:
                self._memory.give(tenant, amount)

    def wait_empty(self, timeout: float | None) -> bool:
        """Wait until no call and no stream goes on; tell whether it came to that."""
        calls, streams = self._lanes['call'], self._lanes['stream']
        with self._changed:
            return self._changed.wait_for(lambda: not calls.taken and not streams.taken, timeout)

    def counts(self) -> dict[str, int]:
        """Return how many requests go on in each lane."""
        with self._changed:
            return {'quick': self._quick, **{str(lane): shares.taken for lane, shares in self._lanes.items()}}

    @property
    def refused(self) -> int:
        """How many were refused so far."""
        return self._refused


def _full(message: str) -> TooManyRequestsError:
    return TooManyRequestsError(f'{message}; try again', details={'retry_after': RETRY_AFTER_SECONDS})
