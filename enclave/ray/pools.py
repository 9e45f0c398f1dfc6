"""Pools over shards (layer 6): each shard keeps a part of a pool, and a manager says which part serves next.

A part is a pool of the shard's own manager, which makes, cleans and replaces its sandboxes. Here is only counted: how many
sandboxes each part has, how many of them this manager uses, and who waits, first come first served. What was lost with a shard
is made anew on others.
"""

from __future__ import annotations

import bisect
import collections
import contextlib
import math
import threading
import time
from collections.abc import Iterator
from typing import Any

from attrs import define, field

from enclave.cancellation import is_cancelled, on_cancel
from enclave.deadline import Deadline
from enclave.errors import CallCancelledError, PoolError, PoolExhaustedError
from enclave.managers.base import NO_POOL
from enclave.managers.pool import again, pause_after
from enclave.ray.shards import ShardRecord


@define(eq=False)
class _PartTicket:
    most: int = 1
    ready: threading.Event = field(factory=threading.Event)
    shard: ShardRecord | None = None
    count: int = 0
    error: BaseException | None = None


@define(eq=False)
class _ShardPart:
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
        is_followed: Whether another manager made it, and says how large it is.
        program_seconds: How long a place took for a program of a batch, lately; None before the first one. A single write or
            read needs no lock.
        sandbox_type, config: What they are, as they travel; unknown of a pool that another manager made, until a shard says it.
    """

    name: str
    sandbox_type: str | None
    config: dict[str, Any] | None = field(repr=False)  # it may have secrets in it
    size: int = 0
    most: int = 0
    is_followed: bool = False
    program_seconds: float | None = field(default=None, init=False)
    _changed: threading.Condition = field(factory=threading.Condition, init=False, repr=False)
    _parts: dict[str, _ShardPart] = field(factory=dict, init=False)
    _queue: collections.deque[_PartTicket] = field(factory=collections.deque, init=False)
    _closed: BaseException | None = field(default=None, init=False)
    # As many as are free; the last one goes first.
    _idle_since: list[float] = field(factory=list, init=False, repr=False)
    _changing: set[str] = field(factory=set, init=False, repr=False)  # shards whose parts this manager is changing
    _changed_at: dict[str, float] = field(factory=dict, init=False, repr=False)  # when it last did
    _missing: int = field(default=0, init=False)  # how many were lost and are to be made anew
    _batch: int = field(default=0, init=False)  # how many of these are tried at once
    _failures: int = field(default=0, init=False)  # in a row
    _retry_at: float = field(default=0.0, init=False)
    _is_replacing: bool = field(default=False, init=False)
    _left_until: float = field(default=0.0, init=False)  # until when another manager is left to replace
    is_changing: bool = field(default=False, init=False)
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
        return self.take_some(1, deadline, fails=fails)[0]

    def take_some(self, most: int, deadline: Deadline, *, fails: bool) -> tuple[ShardRecord, int]:
        """Wait for sandboxes to be free, and return a shard that has some, and how many: at least one, and its share of so many.

        See `take`.
        """
        ticket, begun = _PartTicket(most), time.monotonic()
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
                return ticket.shard, ticket.count
            if ticket.shard is not None:
                self._give_locked(ticket.shard, ticket.count)
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

    def give(self, shard: ShardRecord, count: int = 1) -> None:
        """Give back what `take` gave, or some of it."""
        with self._changed:
            self._give_locked(shard, count)

    def _give_locked(self, shard: ShardRecord, count: int) -> None:
        part = self._parts.get(shard.id)
        if part is not None:
            part.busy = max(0, part.busy - count)
        self._assign_locked()

    def _assign_locked(self) -> None:
        while self._queue:
            free = [part for part in self._parts.values() if part.busy < part.size]
            if not free:
                break
            part = max(free, key=lambda each: (each.size - each.busy) / each.size)
            ticket = self._queue.popleft()
            # The others are left for the next ticket of the same batch, so that a small one too is spread.
            ticket.count = min(-(-ticket.most // len(free)), part.size - part.busy)
            part.busy += ticket.count
            ticket.shard = part.shard
            ticket.ready.set()
        self._count_free_locked()

    def _count_free_locked(self) -> None:
        free = sum(max(0, part.size - part.busy) for part in self._parts.values())
        del self._idle_since[free:]
        self._idle_since += [time.monotonic()] * (free - len(self._idle_since))

    @property
    def waiting(self) -> int:
        """How many wait."""
        with self._changed:
            return len(self._queue)

    def set_part(self, shard: ShardRecord, size: int) -> None:
        """Count how many sandboxes a shard has of it."""
        with self._changed:
            self._set_part_locked(shard, size)

    def _set_part_locked(self, shard: ShardRecord, size: int) -> None:
        if size:
            self._parts.setdefault(shard.id, _ShardPart(shard)).size = size
        else:
            self._parts.pop(shard.id, None)
        self._assign_locked()

    @contextlib.contextmanager
    def changing(self, shard: ShardRecord) -> Iterator[int]:
        """Be the only one here who changes a shard's part, for the block; gives its size.

        What the shard reported before the end of the block is out of date.
        """
        with self._changed:
            self._changed.wait_for(lambda: shard.id not in self._changing)
            self._changing.add(shard.id)
            part = self._parts.get(shard.id)
            size = 0 if part is None else part.size
        try:
            yield size
        finally:
            with self._changed:
                self._changing.discard(shard.id)
                self._changed_at[shard.id] = time.monotonic()
                self._changed.notify_all()

    def lessen(self, shard: ShardRecord, count: int, *, only_free: bool) -> int:
        """Count so many less on a shard, as far as it has them, and return how many it still has.

        Args:
            only_free: Leave those that are in use, and count those as gone that were free longest.
        """
        with self._changed:
            part = self._parts.get(shard.id)
            if part is None:
                return 0
            less = min(count, max(0, part.size - part.busy) if only_free else part.size)
            if only_free:
                del self._idle_since[:less]
            self._set_part_locked(shard, part.size - less)
            return part.size if part.shard.id in self._parts else 0

    def surplus(self, now: float, idle_timeout: float) -> int:
        """Return how many above its size have been free for so long that they are to go."""
        with self._changed:
            idle = bisect.bisect_right(self._idle_since, now - idle_timeout)
            return max(0, min(idle, self._total_locked() - self.size))

    def follow(self, shard: ShardRecord, size: int, asked_at: float) -> None:
        """Take what a shard reported of its part, which another manager may have changed.

        Args:
            asked_at: When it was asked, on the monotonic clock.
        """
        with self._changed:
            if shard.id in self._changing or asked_at <= self._changed_at.get(shard.id, -math.inf):
                return
            part = self._parts.get(shard.id)
            known = 0 if part is None else part.size
            if size == known or (not size and len(self._parts) == 1):
                return  # whether a pool without any part was dissolved is what the next call on it finds out
            self._set_part_locked(shard, size)
            self._missing -= min(self._missing, max(0, size - known))  # another manager has made it anew
            total = self._total_locked()
            if self.is_followed:
                self.size = self.most = total + self._missing
            elif not self.size - self._missing <= total <= self.most:
                self.size = total + self._missing
                self.most = max(self.most, self.size)

    # What was lost ----------------------------------------------------------------------------------------------------

    def miss(self, count: int) -> None:
        """Count so many more as lost, which are to be made anew; a negative number as not wanted any more."""
        with self._changed:
            self._missing = max(0, self._missing + count)
            self._batch = self._missing

    @property
    def missing(self) -> int:
        """How many were lost and are still to be made anew."""
        with self._changed:
            return self._missing

    def begin_replacing(self, now: float) -> int:
        """Return how many are to be made anew now, and count that as begun; `replaced` or `fail` is its end."""
        with self._changed:
            # A pause after a failure holds as long as somebody else serves those who wait.
            total = self._total_locked()
            rests = now < self._retry_at and not (self._queue and not total)
            if not self._is_replacing:  # what was lost while it was made was counted twice
                self._missing = min(self._missing, max(0, self.most - total))
            is_left = now < self._left_until
            if not self._missing or self._is_replacing or self._closed is not None or rests or is_left:
                return 0
            self._is_replacing = True
            return max(1, min(self._batch, self._missing))

    def replaced(self, count: int) -> int:
        """Count so many as made anew; return how many of them nobody wants any more."""
        with self._changed:
            self._is_replacing, self._failures, self._retry_at = False, 0, 0.0
            wanted = min(count, self._missing)
            self._missing -= wanted
            return count - wanted

    def leave_to_others(self, seconds: float) -> None:
        """Make nothing anew for a while, since another manager does."""
        with self._changed:
            self._is_replacing, self._left_until = False, time.monotonic() + seconds

    def could_not_replace(self, count: int, error: BaseException) -> None:
        """Try again later, with half as many at once: there may be room for these."""
        with self._changed:
            self._is_replacing = False
            self._failures += 1
            self._batch = max(1, count // 2)
            self._retry_at = time.monotonic() + pause_after(self._failures)
        self.fail(error)

    def fail(self, error: BaseException) -> None:
        """Take note that none could be made. If there is none at all, those who wait get the reason."""
        with self._changed:
            if self._total_locked():
                return
            for ticket in self._queue:
                ticket.error = error
                ticket.ready.set()
            self._queue.clear()

    # Parts and end ----------------------------------------------------------------------------------------------------

    def parts(self) -> dict[str, tuple[ShardRecord, int]]:
        """Return the shards that have parts of it, and how large these are."""
        with self._changed:
            return {name: (part.shard, part.size) for name, part in self._parts.items()}

    def forget_part(self, shard_id: str) -> int:
        """Count a part as gone; return how many sandboxes it had."""
        with self._changed:
            part = self._parts.pop(shard_id, None)
            self._changed_at.pop(shard_id, None)
            self._count_free_locked()
            return 0 if part is None else part.size

    @property
    def total(self) -> int:
        """How many sandboxes its parts have."""
        with self._changed:
            return self._total_locked()

    def _total_locked(self) -> int:
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

    def follow(self, shard: ShardRecord, reported: dict[str, dict[str, Any]], asked_at: float) -> None:
        """Take over what a shard reported of its pools, which other managers may have made, changed or dissolved."""
        for name, facts in reported.items():
            with self._lock:
                pool = self._pools.get(name)
                if pool is None and facts['size']:  # else it is still being made
                    pool = self._pools[name] = ShardedPool(
                        name, facts.get('sandbox_type'), facts.get('config'), is_followed=True
                    )
            if pool is not None:
                pool.follow(shard, facts['size'], asked_at)
        for pool in self.all():
            if pool.name not in reported:
                pool.follow(shard, 0, asked_at)

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
