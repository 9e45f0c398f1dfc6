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


class Lanes:
    """Counts what goes on. Lives as long as the server; any thread may enter."""

    def __init__(self, *, calls: int, streams: int, ends: int = END_THREADS) -> None:
        self._limits: dict[Lane, int] = {'call': calls, 'stream': streams, 'end': ends}
        self._changed = threading.Condition()  # guards the three below
        self._counts: dict[Lane, int] = {'quick': 0, 'call': 0, 'stream': 0, 'end': 0}
        self._tenants: dict[str, int] = {}  # calls by tenant
        self._refused = 0

    @property
    def threads(self) -> int:
        """How many threads a server needs so that no lane starves another."""
        return sum(self._limits.values()) + SPARE_THREADS

    @contextlib.contextmanager
    def entered(self, lane: Lane, tenant: str, tenant_limit: int | None = None) -> Iterator[None]:
        """Hold a place for the block.

        Raises:
            TooManyRequestsError: The lane is full, or the tenant's part of it.
        """
        with self._changed:
            limit = self._limits.get(lane)
            if limit is not None and self._counts[lane] >= limit:
                self._refused += 1
                raise _full(f'the server is busy: {limit} requests of this kind go on, which is all it takes')
            if lane == 'call':
                mine = self._tenants.get(tenant, 0)
                if tenant_limit is not None and mine >= tenant_limit:
                    self._refused += 1
                    raise _full(f'{tenant!r} has {mine} calls going on, which is all this key may have')
                self._tenants[tenant] = mine + 1
            self._counts[lane] += 1
        try:
            yield
        finally:
            with self._changed:
                self._counts[lane] -= 1
                if lane == 'call':
                    self._tenants[tenant] -= 1
                    if not self._tenants[tenant]:
                        del self._tenants[tenant]
                self._changed.notify_all()

    def wait_empty(self, timeout: float | None) -> bool:
        """Wait until no call and no stream goes on; return whether it came to that."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._counts['call'] and not self._counts['stream'], timeout)

    def counts(self) -> dict[str, int]:
        """Return how many requests go on in each lane."""
        with self._changed:
            return {str(lane): count for lane, count in self._counts.items()}

    @property
    def refused(self) -> int:
        """How many were refused so far."""
        return self._refused


def _full(message: str) -> TooManyRequestsError:
    return TooManyRequestsError(f'{message}; try again', details={'retry_after': RETRY_AFTER_SECONDS})
