"""Pools over shards (layer 6): each shard keeps a part of a pool, and a manager says which part serves next.

A part is a pool of the shard's own manager, which makes, cleans and replaces its sandboxes. Here is only counted: how many
sandboxes each part has, how many of them this manager uses, and who waits, first come first served. What was lost with a shard
is made anew on others.
"""

from __future__ import annotations

import collections
import threading
import time
from typing import Any

from attrs import define, field

from enclave.cancellation import is_cancelled, on_cancel
from enclave.deadline import Deadline
from enclave.errors import CallCancelledError, PoolError, PoolExhaustedError
from enclave.managers.base import NO_POOL
from enclave.managers.pool import again
from enclave.ray.shards import ShardRecord


@define(eq=False)
class _PartTicket:
    ready: threading.Event = field(factory=threading.Event)
    shard: ShardRecord | None = None
    error: BaseException | None = None


@define(eq=False)
class _Part:
    """A shard's part of a pool."""

    shard: ShardRecord
    size: int = 0
    busy: int = 0


@define(eq=False)
class ShardedPool:
    """One pool. All but its name and what it is made of is guarded by its condition.

    Attributes:
        size: How many sandboxes it is to have.
        most: How many it may have.
        sandbox_type, config: What they are, as they travel; unknown of a pool that another manager made, until a shard says it.
    """

    name: str
    sandbox_type: str | None
    config: dict[str, Any] | None = field(repr=False)  # it may have secrets in it
    size: int = 0
    most: int = 0
    _changed: threading.Condition = field(factory=threading.Condition, init=False, repr=False)
    _parts: dict[str, _Part] = field(factory=dict, init=False)
    _queue: collections.deque[_PartTicket] = field(factory=collections.deque, init=False)
    _closed: BaseException | None = field(default=None, init=False)
    is_growing: bool = field(default=False, init=False)
    leases: int = field(default=0, init=False)
    wait_seconds: float = field(default=0.0, init=False)
    longest_wait: float = field(default=0.0, init=False)

    def take(self, deadline: Deadline, *, fails: bool) -> ShardRecord:
        """Wait for a sandbox to be free, and return the shard that has it; give it back with `give`.

        Args:
            fails: Do not wait.

        Raises:
            PoolExhaustedError: None was free in time.
            CallCancelledError: The caller's work was cancelled.
        """
        ticket, begun = _PartTicket(), time.monotonic()
        with self._changed:
            if self._closed is not None:
                raise again(self._closed)
            self._queue.append(ticket)
            self._assign_locked()
        if not fails:
            with on_cancel(ticket.ready.set):
                ticket.ready.wait(deadline.remaining())
        waited = time.monotonic() - begun
        with self._changed:
            if ticket.shard is not None and not is_cancelled():
                self.leases += 1
                self.wait_seconds += waited
                self.longest_wait = max(self.longest_wait, waited)
                return ticket.shard
            if ticket.shard is not None:
                self._give_locked(ticket.shard)
            elif ticket in self._queue:
                self._queue.remove(ticket)
            if ticket.error is not None:
                raise again(ticket.error)
            size = sum(part.size for part in self._parts.values())
        if is_cancelled():
            raise CallCancelledError(f'the wait for a sandbox of the pool {self.name!r} was cancelled')
        why = "is free, and pool_when_empty is 'fail'" if fails else f'became free within {waited:.3g} s'
        raise PoolExhaustedError(
            f'Timeout waiting for available sandbox: none of the {size} in pool {self.name!r} {why}',
            details={'pool': self.name, 'size': size},
        )

    def give(self, shard: ShardRecord) -> None:
        """Give back what `take` gave."""
        with self._changed:
            self._give_locked(shard)

    def _give_locked(self, shard: ShardRecord) -> None:
        part = self._parts.get(shard.id)
        if part is not None:
            part.busy = max(0, part.busy - 1)
        self._assign_locked()

    def _assign_locked(self) -> None:
        while self._queue:
            free = [part for part in self._parts.values() if part.busy < part.size]
            if not free:
                return
            part = max(free, key=lambda each: (each.size - each.busy) / each.size)
            part.busy += 1
            ticket = self._queue.popleft()
            ticket.shard = part.shard
            ticket.ready.set()

    @property
    def waiting(self) -> int:
        """How many wait."""
        with self._changed:
            return len(self._queue)

    def set_part(self, shard: ShardRecord, size: int) -> None:
        """Count how many sandboxes a shard has of it."""
        with self._changed:
            if size:
                self._parts.setdefault(shard.id, _Part(shard)).size = size
            else:
                self._parts.pop(shard.id, None)
            self._assign_locked()

    def parts(self) -> dict[str, tuple[ShardRecord, int]]:
        """Return the shards that have parts of it, and how large these are."""
        with self._changed:
            return {name: (part.shard, part.size) for name, part in self._parts.items()}

    def forget_part(self, shard_id: str) -> int:
        """Count a part as gone; return how many sandboxes it had."""
        with self._changed:
            part = self._parts.pop(shard_id, None)
            return 0 if part is None else part.size

    @property
    def total(self) -> int:
        """How many sandboxes its parts have."""
        with self._changed:
            return sum(part.size for part in self._parts.values())

    def close(self, error: BaseException) -> None:
        """Give no more; those who wait get ``error``."""
        with self._changed:
            self._closed = self._closed or error
            for ticket in self._queue:
                ticket.error = self._closed
                ticket.ready.set()
            self._queue.clear()


class ShardedPools:
    """The pools of a manager by name, oldest first. Any thread may use it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards the one below
        self._pools: dict[str, ShardedPool] = {}

    def all(self) -> list[ShardedPool]:
        """Return the pools, oldest first."""
        with self._lock:
            return list(self._pools.values())

    def get(self, name: str | None) -> ShardedPool:
        """Return a pool; None is the first.

        Raises:
            PoolError: There is none.
        """
        with self._lock:
            if not self._pools:
                raise PoolError(NO_POOL)
            if name is None:
                return next(iter(self._pools.values()))
            found = self._pools.get(name)
            if found is None:
                known = ', '.join(self._pools)
                raise PoolError(f'there is no pool {name!r}; there are: {known}', details={'pool': str(name)})
            return found

    def match(
        self, name: str | None, sandbox_type: str | None, config: dict[str, Any] | None
    ) -> tuple[ShardedPool, bool]:
        """Return the pool that is meant, and whether it is new.

        Raises:
            PoolError: The name is that of a pool of another kind or configuration.
        """
        with self._lock:
            for known in self._pools.values():
                same = known.sandbox_type == sandbox_type and known.config == config
                if name == known.name and not same:
                    raise PoolError(
                        f'the pool {name!r} has another kind or configuration; choose another name',
                        details={'pool': name},
                    )
                if same and name in (None, known.name):
                    return known, False
            chosen = name or ('default' if not self._pools else f'{sandbox_type or "pool"}-{len(self._pools) + 1}')
            made = self._pools[chosen] = ShardedPool(chosen, sandbox_type, config)
            return made, True

    def adopt(self, shard: ShardRecord, name: str, facts: dict[str, Any]) -> None:
        """Take over a part of a pool that another manager made."""
        with self._lock:
            pool = self._pools.get(name)
            if pool is None:
                pool = self._pools[name] = ShardedPool(name, facts.get('sandbox_type'), facts.get('config'))
        known = pool.parts().get(shard.id)
        if known is None:
            pool.set_part(shard, facts['size'])
            pool.size = pool.most = max(pool.size, pool.total)

    def drop(self, pool: ShardedPool) -> None:
        """Forget a pool."""
        with self._lock:
            if self._pools.get(pool.name) is pool:
                del self._pools[pool.name]

    def clear(self) -> list[ShardedPool]:
        """Forget all pools and return them."""
        with self._lock:
            pools, self._pools = list(self._pools.values()), {}
            return pools
