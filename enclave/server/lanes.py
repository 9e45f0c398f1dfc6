"""How many requests of which kind continue at once (layer 6).

A lane is a number of threads that requests of one kind may hold. Calls that take as long as the code in a sandbox does have
one, streams another, what ends sandboxes a third; what is quick needs none. The server has threads for all lanes together and
some to spare, so the one that is refused is refused at once, and `/health` is never behind an execution.

Programs have a lane of their own in which requests wait for their turn: first come, first served within a key, and the keys in
turn. Only who would be one too many of those that wait is refused. Calls wait in the same way, for `CALL_PATIENCE_SECONDS`: a
client that is refused asks again, which costs both sides more than the waiting.
"""

from __future__ import annotations

import collections
import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Literal

from attrs import define, field

from enclave.cancellation import is_cancelled
from enclave.errors import CallCancelledError, TooManyRequestsError

Lane = Literal['quick', 'call', 'stream', 'end', 'program']

END_THREADS = 16
SPARE_THREADS = 12
RETRY_AFTER_SECONDS = 1.0
CALL_PATIENCE_SECONDS = 3.0
"""How long a call waits for its turn before it is refused."""
_LOOK_SECONDS = 1.0
"""How often one that waits for room looks whether its client is still there."""


class Shares:
    """Something of which there is only so much, shared by all keys. Not safe for several threads by itself.

    Where there are several keys, each has a part that the others cannot take: half of all is kept for those that hold less than
    their part of it. So one key may use much while nobody else comes, and the one that comes then is served all the same.

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
        """Return whether a key may take so much more."""
        mine = self._held.get(tenant, 0) + amount
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
        self._held[tenant] = self._held.get(tenant, 0) + amount

    def give(self, tenant: str, amount: int = 1) -> None:
        """Count what a key gives back."""
        self.taken -= amount
        left = self._held.get(tenant, 0) - amount
        if left:
            self._held[tenant] = left
        else:
            self._held.pop(tenant, None)


@define(eq=False)
class _QueuedRequest:
    """A place in the queue of a key. All but ``called`` is guarded by the lock of the lanes.

    Attributes:
        called: A lock that is held until its turn has come, or it has left: released once, and cheaper than an event.
    """

    lane: Lane
    tenant: str
    limit: int | None
    called: threading.Lock = field(factory=threading.Lock)
    is_granted: bool = False
    is_counted: bool = False  # among those that wait
    has_left: bool = False


class Lanes:
    """Counts what continues. Lives as long as the server; any thread may enter.

    Args:
        calls, streams, ends: How many requests of each kind continue at once; programs may be as many as calls.
        waiting: How many requests may wait for their turn.
        memory: How many bytes of output calls may hold together.
        keys: How many keys there are.
    """

    def __init__(
        self,
        *,
        calls: int,
        streams: int,
        ends: int = END_THREADS,
        memory: int = 1 << 62,
        keys: int = 1,
        waiting: int = 0,
    ) -> None:
        self._lock = threading.RLock()  # guards all below
        self._changed = threading.Condition(self._lock)
        self._watchers = 0  # those that wait for any change
        self._lanes: dict[Lane, Shares] = {
            'call': Shares(calls, keys),
            'stream': Shares(streams, keys),
            'end': Shares(ends, keys),
            'program': Shares(calls, keys),
        }
        self._queues: dict[Lane, collections.OrderedDict[str, collections.deque[_QueuedRequest]]] = {
            'call': collections.OrderedDict(),
            'program': collections.OrderedDict(),
        }
        self._waiting = Shares(waiting, keys)
        self._memory = Shares(memory, keys)
        self.largest_call = memory // 4
        """How many bytes of output one call may hold at most."""
        self._answers: dict[str, int] = {}  # large ones that are being sent, by tenant
        self._quick = 0
        self._refused = 0

    @property
    def threads(self) -> int:
        """How many threads a server needs so that no lane starves another, while no program waits for its turn."""
        return sum(shares.limit for shares in self._lanes.values()) + SPARE_THREADS

    @property
    def most_threads(self) -> int:
        """How many it needs while as many programs wait as may."""
        return self.threads + self._waiting.limit

    @contextlib.contextmanager
    def entered(self, lane: Lane, tenant: str, tenant_limit: int | None = None) -> Iterator[None]:
        """Hold a place for the block.

        Raises:
            TooManyRequestsError: The lane is full, or the tenant's part of it.
        """
        shares = self._lanes.get(lane)
        with self._lock:
            if shares is None:
                self._quick += 1
            else:
                self._check_locked(shares, tenant, tenant_limit)
                shares.take(tenant)
        try:
            yield
        finally:
            if shares is not None:
                self.give_turn(lane, tenant)
            else:
                with self._lock:
                    self._quick -= 1
                    if self._watchers:
                        self._changed.notify_all()

    def _check_locked(self, shares: Shares, tenant: str, tenant_limit: int | None) -> None:
        mine = shares.held(tenant)
        if tenant_limit is not None and mine >= tenant_limit:
            self._refused += 1
            raise _full(f'{tenant!r} has {mine} calls running, which is all this key may have')
        if not shares.has_room(tenant):
            self._refused += 1
            if shares.taken >= shares.limit:
                raise _full(f'the server is busy: {shares.limit} requests of this kind continue, which is all it takes')
            raise _full(
                f'the server is busy: {mine} requests of this kind are those of {tenant!r}, and the rest is kept for other keys'
            )

    @contextlib.contextmanager
    def several(self, lane: Lane, tenant: str, wanted: int, tenant_limit: int | None = None) -> Iterator[int]:
        """Hold as many places as there are for a tenant, at least one and at most so many, for the block; gives how many.

        Raises:
            TooManyRequestsError: There is none.
        """
        shares = self._lanes[lane]
        with self._lock:
            most = wanted if tenant_limit is None else min(wanted, tenant_limit - shares.held(tenant))
            taken = next((count for count in range(most, 0, -1) if shares.has_room(tenant, count)), 0)
            if not taken:
                self._refused += 1
                raise _full(
                    f'the server is busy: {shares.held(tenant)} programs of {tenant!r} run, which is all it takes now'
                )
            shares.take(tenant, taken)
        try:
            yield taken
        finally:
            self.give_turn(lane, tenant, taken)

    @contextlib.contextmanager
    def holding(self, tenant: str, size: int) -> Iterator[None]:
        """Hold room for the block; see `take_room`."""
        amount = self.take_room(tenant, size)
        try:
            yield
        finally:
            self.give_room(tenant, amount)

    def take_room(self, tenant: str, size: int) -> int:
        """Take room for output of so many bytes, and return how much `give_room` is to be called with.

        No call is larger than a quarter of all there is.

        Raises:
            TooManyRequestsError: Other calls hold it.
        """
        amount = min(size, self.largest_call)
        with self._lock:
            if not self._memory.has_room(tenant, amount):
                self._refused += 1
                raise _full('the server is busy: the calls that continue may have as much output as it keeps at once')
            self._memory.take(tenant, amount)
        return amount

    def give_room(self, tenant: str, amount: int) -> None:
        """Give room back."""
        with self._lock:
            self._memory.give(tenant, amount)
            if self._watchers:
                self._changed.notify_all()

    @property
    def memory_held(self) -> int:
        """How many bytes calls and answers hold."""
        with self._lock:
            return self._memory.taken

    @contextlib.contextmanager
    def answering(self, tenant: str, size: int) -> Iterator[None]:
        """Hold room for an answer that is there, as large as it is in memory, for the block: wait for it, since the work is done.

        One answer of each key waits for none, so that there is always one that gets on; for that time more may be held than there
        is, and no new call begins.

        Raises:
            CallCancelledError: The client went away meanwhile.
        """
        with self._lock:
            while self._answers.get(tenant) and not self._memory.has_room(tenant, size):
                if is_cancelled():
                    raise CallCancelledError('the client went away before there was room for the answer')
                self._watchers += 1
                self._changed.wait(_LOOK_SECONDS)
                self._watchers -= 1
            self._answers[tenant] = self._answers.get(tenant, 0) + 1
            self._memory.take(tenant, size)
        try:
            yield
        finally:
            with self._lock:
                self._memory.give(tenant, size)
                self._answers[tenant] -= 1
                if not self._answers[tenant]:
                    del self._answers[tenant]
                if self._watchers:
                    self._changed.notify_all()

    def take_turn(
        self,
        lane: Lane,
        tenant: str,
        limit: int | None = None,
        on_gone: Callable[[Callable[[], None]], None] = lambda action: None,
        *,
        patience: float | None = None,
    ) -> None:
        """Wait for the turn of a program or a call, and take its place until `give_turn`.

        Args:
            limit: How many places the tenant may have at once; None for no such limit.
            on_gone: Takes what is to be called if the client goes away or cancels meanwhile.
            patience: Seconds it waits at most; None for as long as it takes.

        Raises:
            TooManyRequestsError: As many wait as may, or its turn did not come in time.
            CallCancelledError: The client went away, or cancelled it.
        """
        with self._lock:
            if not self._queues[lane] and self._may_have_locked(lane, tenant, limit):
                self._lanes[lane].take(tenant)
                return
            ticket = _QueuedRequest(lane, tenant, limit)
            ticket.called.acquire()
            self._queues[lane].setdefault(tenant, collections.deque()).append(ticket)
            self._grant_locked(lane)
            if not ticket.is_granted:
                self._wait_locked(ticket)
        self._await_turn(ticket, on_gone, patience)

    def give_turn(self, lane: Lane, tenant: str, count: int = 1) -> None:
        """Give places back."""
        with self._lock:
            self._lanes[lane].give(tenant, count)
            if self._queues.get(lane):
                self._grant_locked(lane)
            if self._watchers:
                self._changed.notify_all()

    def _may_have_locked(self, lane: Lane, tenant: str, limit: int | None) -> bool:
        shares = self._lanes[lane]
        return (limit is None or shares.held(tenant) < limit) and shares.has_room(tenant)

    def _await_turn(
        self, ticket: _QueuedRequest, on_gone: Callable[[Callable[[], None]], None], patience: float | None
    ) -> None:
        try:
            on_gone(lambda: self._leave(ticket))
        except BaseException:  # as where no thread can be started
            with self._lock:
                self._leave_locked(ticket)
                if ticket.is_granted:
                    self.give_turn(ticket.lane, ticket.tenant)
            raise
        if not ticket.called.acquire(timeout=-1.0 if patience is None else patience):
            with self._lock:
                if not ticket.is_granted and not ticket.has_left:
                    self._leave_locked(ticket)
                    self._check_locked(self._lanes[ticket.lane], ticket.tenant, ticket.limit)
                    self._refused += 1
                    raise _full('the server is busy: others had their turn first')  # there is room just now
        if not ticket.is_granted:
            raise CallCancelledError('the call was cancelled, or its client went away, before its turn came')

    def _wait_locked(self, ticket: _QueuedRequest) -> None:
        """Count one that waits, unless all places for that, or all but what is kept for other keys, are taken."""
        if self._waiting.has_room(ticket.tenant):
            ticket.is_counted = True
            self._waiting.take(ticket.tenant)
            return
        self._leave_locked(ticket)
        limit, mine = self._waiting.limit, self._waiting.held(ticket.tenant)
        if not limit:
            self._check_locked(self._lanes[ticket.lane], ticket.tenant, ticket.limit)
        self._refused += 1
        if self._waiting.taken >= limit:
            raise _full(f'the server is busy: {limit} requests wait for their turn, which is all it takes')
        raise _full(
            f'the server is busy: {mine} requests of {ticket.tenant!r} wait for their turn, and the rest is kept for other keys'
        )

    def _grant_locked(self, lane: Lane) -> None:
        """Call those whose turn it is: the longest waiting one of each key that may have more, the keys in turn."""
        queues = self._queues.get(lane)
        if not queues:
            return
        shares = self._lanes[lane]
        passed = 0
        while passed < len(queues):
            tenant, queue = next(iter(queues.items()))
            queues.move_to_end(tenant)
            ticket = queue[0]
            if not self._may_have_locked(lane, tenant, ticket.limit):
                passed += 1
                continue
            passed = 0
            shares.take(tenant)
            ticket.is_granted = True
            self._remove_locked(ticket)
            ticket.called.release()

    def _leave(self, ticket: _QueuedRequest) -> None:
        with self._lock:
            self._leave_locked(ticket)

    def _leave_locked(self, ticket: _QueuedRequest) -> None:
        if not ticket.is_granted and not ticket.has_left:
            ticket.has_left = True
            self._remove_locked(ticket)
            ticket.called.release()

    def _remove_locked(self, ticket: _QueuedRequest) -> None:
        queues = self._queues[ticket.lane]
        queue = queues[ticket.tenant]
        queue.remove(ticket)
        if not queue:
            del queues[ticket.tenant]
        if ticket.is_counted:
            ticket.is_counted = False
            self._waiting.give(ticket.tenant)

    @property
    def waiting(self) -> int:
        """How many programs and calls wait for their turn."""
        with self._lock:
            return self._waiting.taken

    def wait_empty(self, timeout: float | None) -> bool:
        """Wait until no call and no stream continues, and return whether it came to that."""
        lanes = [self._lanes[lane] for lane in ('call', 'stream', 'program')]
        with self._lock:
            self._watchers += 1
            try:
                return self._changed.wait_for(
                    lambda: not self._waiting.taken and not any(each.taken for each in lanes), timeout
                )
            finally:
                self._watchers -= 1

    def counts(self) -> dict[str, int]:
        """Return how many requests continue in each lane."""
        with self._lock:
            return {'quick': self._quick, **{str(lane): shares.taken for lane, shares in self._lanes.items()}}

    @property
    def refused(self) -> int:
        """How many were refused so far."""
        return self._refused


def _full(message: str) -> TooManyRequestsError:
    return TooManyRequestsError(f'{message}; try again', details={'retry_after': RETRY_AFTER_SECONDS})
