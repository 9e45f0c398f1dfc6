"""A pool of warm sandboxes of one template (layer 5): who gets which, in which order, and how many there are.

Promises: first come, first served; a sandbox is looked at before it is lent and a dead one never is; making and ending
sandboxes happens elsewhere (`Supply`), never under the lock; those that wait can be cancelled, and are woken with an error when
the pool closes or when nothing can be made any more.
"""

from __future__ import annotations

import bisect
import copy
import logging
import threading
import time
from collections.abc import Callable
from typing import Any, Literal, Protocol

from attrs import define, field

from enclave.cancellation import is_cancelled, on_cancel
from enclave.deadline import Deadline
from enclave.enums import SandboxStatus
from enclave.errors import CallCancelledError, EnclaveError, PoolError, PoolExhaustedError
from enclave.sandboxes.base import USABLE, Sandbox
from enclave.sandboxes.operations import Pending

logger = logging.getLogger(__name__)

TRUSTED_SECONDS = 5.0
"""A sandbox that was used or made so recently is lent without being asked whether it answers, which takes a millisecond once it
has rested. Its end is noticed without asking: with the engine's own kill and remove before they return, and within 70 ms
of a kill by another process (measured); asking finds one that hangs."""
SETTLE_SECONDS = 1.0
"""How long after a sandbox was given back the pool looks how its cleaning went, unless it is lent before."""
OTHER_SECONDS = 0.25
"""How long a lease waits for the cleaning of the sandbox that came back last before it looks for one that is ready."""
RETRY_SECONDS = (0.5, 30.0)
"""Least and greatest pause before a pool that could not make a sandbox tries again by itself."""


class Supply(Protocol):
    """Where a pool's sandboxes come from and go to. Neither call blocks or raises."""

    def begin(self, pool: Pool) -> None:
        """Begin to make a sandbox, and call the pool's `arrive` or `fail` when that has ended."""

    def discard(self, sandbox: Sandbox) -> None:
        """Have a sandbox destroyed."""


@define(eq=False)
class Member:
    """A sandbox of the pool."""

    sandbox: Sandbox
    state: Literal['idle', 'leased'] = 'idle'
    since: float = 0.0  # when it came into this state
    cleaning: Pending[None] | None = None  # what makes it ready for the next one, unless that has ended well

    @property
    def is_ready(self) -> bool:
        """Whether its cleaning has ended, well or not."""
        cleaning = self.cleaning
        return cleaning is None or cleaning.has_ended()


@define(eq=False)
class Ticket:
    """A place in the queue. All but ``ready`` is guarded by the pool's lock."""

    number: int
    asked_at: float
    ready: threading.Event = field(factory=threading.Event)
    member: Member | None = None
    error: BaseException | None = None


@define(eq=False)
class _Counters:
    created: int = 0
    replaced: int = 0
    leases: int = 0
    wait_seconds: float = 0.0
    longest_wait: float = 0.0


class Pool:
    """The sandboxes of one template. Lives from `initialize_pool` until the manager stops. Any thread may use it.

    Args:
        name: What it is called.
        supply: Makes and ends its sandboxes.
        min_size, max_size: It holds at least and at most so many, idle, leased and being made.
        policy, when_empty, idle_timeout: As in `SandboxManagerConfig`, there with ``pool_`` before them.
        clean: Begins to make a sandbox that goes back ready for another user; one where that, or its end, raises is replaced.
        trusted_seconds: How long after its last use a sandbox is lent without being asked whether it works.
        clock: The monotonic clock.
    """

    def __init__(
        self,
        name: str,
        supply: Supply,
        *,
        min_size: int,
        max_size: int,
        policy: str = 'reuse',
        clean: Callable[[Sandbox], Pending[None]] | None = None,
        trusted_seconds: float = TRUSTED_SECONDS,
        when_empty: str = 'wait',
        idle_timeout: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self._supply = supply
        self._policy = policy
        self._clean = clean
        self._trusted_seconds = trusted_seconds
        self._when_empty = when_empty
        self._idle_timeout = idle_timeout
        self._clock = clock
        # Reentrant, because a signal handler may stop the manager while its thread is in here.
        self._lock = threading.RLock()  # guards all below
        self._min_size = min_size
        self._max_size = max_size
        self._members: dict[str, Member] = {}
        self._idle: list[Member] = []  # the last one back is the first one out, so that those above the size grow old
        self._used_at = clock()  # when a sandbox was last asked for or given back
        self._queue: list[Ticket] = []  # by number
        self._last_number = 0
        self._starting = 0
        self._failures = 0  # in a row
        self._retry_at = 0.0
        self._closed: BaseException | None = None
        self._counters = _Counters()

    # Lending ----------------------------------------------------------------------------------------------------------

    def acquire(self, deadline: Deadline) -> Sandbox:
        """Wait for a sandbox and return it; the caller gives it back with `release`.

        Raises:
            PoolExhaustedError: None became free in time, or none is and the pool does not wait.
            CallCancelledError: The caller's work was cancelled.
            ManagerStoppedError, PoolError: The pool was closed.
            EnclaveError: There is none, and one could not be made; this says why.
        """
        ticket = self.ask()
        try:
            with on_cancel(ticket.ready.set):
                while True:
                    ticket.ready.wait(deadline.remaining())
                    member = self._look(ticket, deadline)
                    if member is None or not self._is_ready(ticket, member, deadline):
                        continue
                    if self._is_fit(member):
                        break
                    self._bring_back(ticket, member)
        except BaseException:
            self.leave(ticket)
            raise
        member.sandbox.set_status(SandboxStatus.BUSY)
        with self._lock:
            waited = max(0.0, self._clock() - ticket.asked_at)
            self._counters.leases += 1
            self._counters.wait_seconds += waited
            self._counters.longest_wait = max(self._counters.longest_wait, waited)
        return member.sandbox

    def ask(self) -> Ticket:
        """Queue up, and return the place in the queue; what it is given shows in it as soon as ``ready`` is set.

        Raises:
            PoolExhaustedError: None is free and the pool does not wait.
            ManagerStoppedError, PoolError: The pool was closed.
        """
        with self._lock:
            if self._closed is not None:
                raise again(self._closed)
            if self._when_empty == 'fail' and len(self._idle) <= len(self._queue):
                wanted = self._wanted_locked()
                refusal = self._exhausted_locked("is free, and pool_when_empty is 'fail'")
            else:
                refusal = None
                self._last_number += 1
                self._used_at = self._clock()
                ticket = Ticket(self._last_number, self._clock())
                self._queue.append(ticket)
                wanted = self._serve_locked()
        self._begin(wanted)
        if refusal is not None:
            raise refusal
        return ticket

    def leave(self, ticket: Ticket) -> None:
        """Give up a place in the queue; a sandbox it had been given meanwhile goes to the next one."""
        with self._lock:
            member, ticket.member = ticket.member, None
            if ticket in self._queue:
                self._queue.remove(ticket)
            if member is not None and member.sandbox.id in self._members and self._closed is None:
                member.state = 'idle'
                self._idle.append(member)
            wanted = self._serve_locked()
        self._begin(wanted)

    def release(self, sandbox_id: str) -> None:
        """Take a lent sandbox back.

        Raises:
            PoolError: It is not lent.
        """
        with self._lock:
            member = self._members.get(sandbox_id)
            if member is None:
                return  # it was taken out of the pool meanwhile
            if member.state != 'leased':
                raise PoolError(f'sandbox {sandbox_id} is not leased', details={'sandbox_id': sandbox_id})
            self._used_at = self._clock()
        sandbox = member.sandbox
        goes_back = self._policy == 'reuse' and sandbox.status in USABLE and self._begin_cleaning(member)
        if goes_back:
            sandbox.set_status(SandboxStatus.IDLE)
        with self._lock:
            if self._members.get(sandbox_id) is not member or member.state != 'leased':
                return
            if goes_back and self._closed is None:
                member.state, member.since = 'idle', self._clock()
                self._idle.append(member)
            else:
                goes_back = False
                del self._members[sandbox_id]
                self._counters.replaced += 1
            wanted = self._serve_locked()
        if not goes_back:
            self._supply.discard(sandbox)
        self._begin(wanted)

    def _begin_cleaning(self, member: Member) -> bool:
        """Begin to clean what a lease has left; False where that cannot be done, so that nobody may have the sandbox any more."""
        if self._clean is None:
            return True
        try:
            member.cleaning = self._clean(member.sandbox)
        except Exception as error:
            self._explain_replacement(member, error)
            return False
        return True

    def _is_clean(self, member: Member) -> bool:
        """Wait for the end of the cleaning of a sandbox and return whether it went well."""
        cleaning = member.cleaning
        if cleaning is None:
            return True
        try:
            cleaning.finish()
        except Exception as error:
            self._explain_replacement(member, error)
            return False
        with self._lock:
            if member.cleaning is cleaning:  # it may have been lent and given back meanwhile
                member.cleaning = None
        return True

    def _explain_replacement(self, member: Member, error: Exception) -> None:
        logger.warning(
            'pool %s: sandbox %s cannot be lent again and is replaced: %s', self.name, member.sandbox.id, error
        )

    def _look(self, ticket: Ticket, deadline: Deadline) -> Member | None:
        """Return what the ticket was given; None to wait on."""
        with self._lock:
            if ticket.error is not None:
                raise again(ticket.error)
            if is_cancelled():
                raise CallCancelledError(f'waiting for a sandbox of pool {self.name!r} was cancelled')
            if ticket.member is not None:
                return ticket.member
            if deadline.has_expired():
                waited = self._clock() - ticket.asked_at
                raise self._exhausted_locked(f'became free within {waited:.3g} s')
            return None

    def _is_ready(self, ticket: Ticket, member: Member, deadline: Deadline) -> bool:
        """Return whether the cleaning of what a ticket was given has ended, after a short wait.

        Where it has not, the ticket is given another sandbox that is ready, if there is one.
        """
        cleaning = member.cleaning
        if cleaning is None or cleaning.has_ended() or cleaning.wait(deadline.earlier(OTHER_SECONDS)):
            return True
        with self._lock:
            if self._closed is not None:
                raise again(self._closed)
            other = next((each for each in reversed(self._idle) if each.is_ready), None)
            if other is None:
                if deadline.has_expired():
                    waited = self._clock() - ticket.asked_at
                    raise self._exhausted_locked(f'became free and clean within {waited:.3g} s')
                return False
            self._idle.remove(other)
            other.state, ticket.member = 'leased', other
            if member.sandbox.id in self._members:
                member.state = 'idle'
                self._idle.append(member)
            wanted = self._serve_locked()
        self._begin(wanted)
        return False

    def _exhausted_locked(self, why: str) -> PoolExhaustedError:
        return PoolExhaustedError(
            f'Timeout waiting for available sandbox: none of the {len(self._members)} in pool {self.name!r} {why}',
            details={'pool': self.name, 'size': len(self._members), 'waiting': len(self._queue)},
        )

    def _is_fit(self, member: Member) -> bool:
        """Return whether a sandbox on its way out works. Takes no lock, and asks the sandbox itself unless it was just used."""
        sandbox = member.sandbox
        if sandbox.status not in USABLE:
            return False
        if not self._is_clean(member):
            return False
        return self._clock() - member.since < self._trusted_seconds or sandbox.is_alive()

    def _bring_back(self, ticket: Ticket, member: Member) -> None:
        """Put a ticket that was given a dead sandbox at its old place, and have the sandbox replaced."""
        logger.info('pool %s: sandbox %s is dead and is replaced', self.name, member.sandbox.id)
        with self._lock:
            ticket.member = None
            ticket.ready.clear()
            gone = self._members.pop(member.sandbox.id, None)
            self._counters.replaced += gone is not None
            if self._closed is not None:
                raise again(self._closed)
            if self._when_empty == 'fail' and not self._idle:
                wanted, refusal = (
                    self._wanted_locked(),
                    self._exhausted_locked("is free, and pool_when_empty is 'fail'"),
                )
            else:
                refusal = None
                bisect.insort(self._queue, ticket, key=lambda each: each.number)
                wanted = self._serve_locked()
        if gone is not None:
            self._supply.discard(member.sandbox)
        self._begin(wanted)
        if refusal is not None:
            raise refusal

    def _serve_locked(self) -> int:
        """Give idle sandboxes to those who wait longest; return how many more are to be made."""
        while self._queue and self._idle:
            ticket, member = self._queue.pop(0), self._choose_locked()
            self._idle.remove(member)
            member.state = 'leased'
            ticket.member = member
            ticket.ready.set()
        return self._wanted_locked()

    def _choose_locked(self) -> Member:
        """Return which idle sandbox is lent next: the last one back, but for those whose cleaning takes long."""
        since = self._clock() - OTHER_SECONDS
        return next((each for each in reversed(self._idle) if each.since > since or each.is_ready), self._idle[-1])

    # Size -------------------------------------------------------------------------------------------------------------

    def _wanted_locked(self) -> int:
        """Return how many sandboxes are to be made now, and count them as being made."""
        if self._closed is not None:
            return 0
        size = len(self._members) + self._starting
        # A pause after a failure holds as long as somebody else will serve those who wait.
        paused = self._clock() < self._retry_at and not (self._queue and size == 0)
        wanted = 0 if paused else max(0, self._min_size - size)
        if self._when_empty == 'grow' and not paused:
            waiting = len(self._queue) - self._starting - wanted
            wanted += max(0, min(waiting, self._max_size - size - wanted))
        self._starting += wanted
        return wanted

    def _begin(self, count: int) -> None:
        for _ in range(count):
            self._supply.begin(self)

    def join(self, sandbox: Sandbox) -> None:
        """Take in a sandbox that was made without `Supply.begin`."""
        with self._lock:
            self._starting += 1
        self.arrive(sandbox)

    def arrive(self, sandbox: Sandbox) -> None:
        """Take in a sandbox that was being made."""
        sandbox.set_status(SandboxStatus.IDLE)
        with self._lock:
            self._starting -= 1
            closed = self._closed is not None
            if not closed:
                member = Member(sandbox, 'idle', self._clock())
                self._members[sandbox.id] = member
                self._idle.append(member)
                self._counters.created += 1
                self._failures, self._retry_at = 0, 0.0
            wanted = self._serve_locked()
        if closed:
            self._supply.discard(sandbox)
        self._begin(wanted)

    def fail(self, error: BaseException) -> None:
        """Take note that a sandbox could not be made. If there is none at all, those who wait get the reason."""
        with self._lock:
            self._starting -= 1
            self._failures += 1
            self._retry_at = self._clock() + pause_after(self._failures)
            informed: list[Ticket] = []
            if not self._members and not self._starting:
                informed, self._queue = self._queue, []
            for ticket in informed:
                ticket.error = error
                ticket.ready.set()
        if self._closed is None:
            logger.warning('pool %s: a sandbox could not be made: %s', self.name, error)

    def drop(self, sandbox_id: str) -> None:
        """Forget a sandbox that somebody takes away; the pool makes another for it."""
        with self._lock:
            member = self._members.pop(sandbox_id, None)
            if member is None:
                return
            if member in self._idle:
                self._idle.remove(member)
            self._counters.replaced += self._closed is None
            wanted = self._wanted_locked()
        self._begin(wanted)

    def resize(self, min_size: int, max_size: int) -> None:
        """Change the bounds; what idles above a smaller size goes as `tend` would let it."""
        with self._lock:
            self._min_size, self._max_size = min_size, max_size
            wanted = self._wanted_locked()
        self._begin(wanted)

    def tend(self, now: float) -> float | None:
        """Let go what has been idle above the size for too long and make what is missing; return when to come again."""
        surplus: list[Member] = []
        self._settle(now)
        with self._lock:
            if self._closed is not None:
                return None
            due = self._settles_at_locked(now)
            if self._idle_timeout is not None:
                while self._idle and len(self._members) > self._min_size:
                    expires = self._idle[0].since + self._idle_timeout
                    if expires > now:
                        due = expires if due is None else min(due, expires)
                        break
                    member = self._idle.pop(0)
                    del self._members[member.sandbox.id]
                    surplus.append(member)
            wanted = self._wanted_locked()
            if len(self._members) + self._starting < self._min_size:
                due = self._retry_at if due is None else min(due, self._retry_at)
        for member in surplus:
            self._supply.discard(member.sandbox)
        self._begin(wanted)
        return due

    def look_over(self) -> None:
        """Replace idle sandboxes that have died. Looks at each, without asking it."""
        with self._lock:
            idle = list(self._idle)
        for member in idle:
            if member.sandbox.status not in USABLE:
                self._replace(member)

    def _replace(self, member: Member) -> None:
        """Replace a sandbox that is idle, if it still is."""
        with self._lock:
            if member not in self._idle:
                return
            self._idle.remove(member)
            self._members.pop(member.sandbox.id, None)
            self._counters.replaced += 1
            wanted = self._wanted_locked()
        self._supply.discard(member.sandbox)
        self._begin(wanted)

    def _settle(self, now: float) -> None:
        """Replace those idle sandboxes whose cleaning has ended badly, or has not ended although its time is over."""
        with self._lock:
            unsettled = [each for each in self._idle if each.cleaning is not None]
        for member in unsettled:
            cleaning = member.cleaning
            is_due = now >= member.since + SETTLE_SECONDS
            if cleaning is not None and is_due and cleaning.has_ended() and not self._is_clean(member):
                self._replace(member)

    def _settles_at_locked(self, now: float) -> float | None:
        """Return when `_settle` has something to do next."""
        due = min((each.since for each in self._members.values() if each.cleaning is not None), default=None)
        if due is None:
            return None
        return due + SETTLE_SECONDS if due + SETTLE_SECONDS > now else now + SETTLE_SECONDS

    # End --------------------------------------------------------------------------------------------------------------

    def close(self, error: BaseException, *, if_unused_since: float | None = None) -> bool:
        """Lend and make no more; those who wait are woken with ``error``. Its sandboxes are its owner's to end.

        Args:
            if_unused_since: Only if nobody has had or wanted a sandbox of it since that moment (`unused_since`).

        Returns:
            Whether it is closed.
        """
        with self._lock:
            if if_unused_since is not None and self._unused_since_locked() != if_unused_since:
                return False
            self._closed = self._closed or error
            informed, self._queue = self._queue, []
            self._idle.clear()
            for ticket in informed:
                ticket.error = error
                ticket.ready.set()
        return True

    # Reply ------------------------------------------------------------------------------------------------------------

    @property
    def unused_since(self) -> float | None:
        """The moment on the monotonic clock since which nobody has had or wanted a sandbox of it; None while somebody does."""
        with self._lock:
            return self._unused_since_locked()

    def _unused_since_locked(self) -> float | None:
        return None if self._queue or len(self._idle) < len(self._members) else self._used_at

    @property
    def min_size(self) -> int:
        """How many sandboxes it holds at least."""
        return self._min_size

    @property
    def sandbox_ids(self) -> list[str]:
        """The ids of its sandboxes, oldest first."""
        with self._lock:
            return list(self._members)

    def stats(self) -> dict[str, Any]:
        """Return its numbers.

        ``{'size', 'idle', 'leased', 'starting', 'waiting', 'min_size', 'max_size', 'created', 'replaced', 'leases',
        'wait_seconds_mean', 'wait_seconds_max'}``; the waits are those of all leases so far.
        """
        with self._lock:
            counters = self._counters
            return {
                'size': len(self._members),
                'idle': len(self._idle),
                'leased': len(self._members) - len(self._idle),
                'starting': self._starting,
                'waiting': len(self._queue),
                'min_size': self._min_size,
                'max_size': self._max_size,
                'policy': self._policy,
                'created': counters.created,
                'replaced': counters.replaced,
                'leases': counters.leases,
                'wait_seconds_mean': counters.wait_seconds / counters.leases if counters.leases else 0.0,
                'wait_seconds_max': counters.longest_wait,
            }

    def __repr__(self) -> str:
        return f'<Pool {self.name} size={len(self._members)} idle={len(self._idle)} waiting={len(self._queue)}>'


def pause_after(failures: int) -> float:
    """Return how long a pool rests after so many failures in a row."""
    least, greatest = RETRY_SECONDS
    return min(greatest, least * 2.0 ** min(failures - 1, 16))


def again(error: BaseException) -> BaseException:
    """Return an error to be raised to one of several who wait: a copy of this library, so that tracebacks do not mix."""
    if not isinstance(error, EnclaveError):
        return error
    copied: EnclaveError = copy.copy(error)
    copied.__cause__ = error
    return copied
