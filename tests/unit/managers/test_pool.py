"""The pool's own rules, with a supply that does what the test says and a clock that stands still."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enclave.cancellation import Cancellation, is_cancelled, on_cancel
from enclave.deadline import Deadline
from enclave.enums import SandboxStatus
from enclave.errors import (
    CallCancelledError,
    ManagerStoppedError,
    PoolError,
    PoolExhaustedError,
    SandboxError,
    SandboxStartError,
)
from enclave.managers.pool import OTHER_SECONDS, SETTLE_SECONDS, TRUSTED_SECONDS, Pool, Ticket
from enclave.sandboxes.operations import Pending

PATIENCE = 120.0


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class StubSandbox:
    """As much of a sandbox as a pool looks at."""

    def __init__(self, number: int) -> None:
        self.id = f's{number}'
        self.status = SandboxStatus.RUNNING
        self.answers = True
        self.asked = 0

    def set_status(self, status: SandboxStatus) -> None:
        if self.status is not SandboxStatus.ERROR:
            self.status = status

    def is_alive(self) -> bool:
        self.asked += 1
        return self.answers


class StubSupply:
    """Counts what is to be made, and makes it when reported."""

    def __init__(self) -> None:
        self.begun = 0
        self.made = 0
        self.discarded: list[str] = []

    def begin(self, pool: Pool) -> None:
        self.begun += 1

    def discard(self, sandbox: Any) -> None:
        self.discarded.append(sandbox.id)

    def deliver(self, pool: Pool) -> StubSandbox:
        sandbox = self.spare()
        pool.arrive(sandbox)  # type: ignore[arg-type]
        return sandbox

    def spare(self) -> StubSandbox:
        self.made += 1
        return StubSandbox(self.made)


def make_pool(size: int, **options: Any) -> tuple[Pool, StubSupply, Clock]:
    supply, clock = StubSupply(), Clock()
    pool = Pool('p', supply, min_size=0, max_size=options.pop('max_size', size), clock=clock, **options)
    for _ in range(size):
        pool.join(supply.spare())  # type: ignore[arg-type]
    pool.resize(size, pool._max_size)
    return pool, supply, clock


def given_to(ticket: Ticket) -> str | None:
    return ticket.member.sandbox.id if ticket.member is not None else None


def acquire(pool: Pool, timeout: float | None = PATIENCE) -> Any:
    return pool.acquire(Deadline.after(timeout))


def wait_for_queue(pool: Pool, length: int) -> None:
    """Wait until so many are in the queue."""
    pause = threading.Event()
    for _ in range(int(PATIENCE / 0.005)):
        if pool.stats()['waiting'] == length:
            return
        pause.wait(0.005)
    raise AssertionError(f'the queue never had {length}')


@settings(max_examples=200, deadline=None)
@given(
    size=st.integers(1, 4),
    policy=st.sampled_from(['reuse', 'fresh']),
    steps=st.lists(st.tuples(st.sampled_from(['ask', 'release', 'leave', 'die', 'deliver']), st.integers(0, 20))),
)
def test_the_one_that_asked_first_is_served_first(size: int, policy: str, steps: list[tuple[str, int]]) -> None:
    pool, supply, _ = make_pool(size, policy=policy)
    waiting: list[Ticket] = []
    holding: list[Ticket] = []
    served: list[int] = []

    def settle() -> None:
        for ticket in [each for each in waiting if each.member is not None]:
            waiting.remove(ticket)
            holding.append(ticket)
            served.append(ticket.number)

    left: set[int] = set()
    for step, pick in steps:
        if step == 'ask':
            waiting.append(pool.ask())
        elif step == 'leave' and waiting:
            ticket = waiting.pop(pick % len(waiting))
            left.add(ticket.number)
            pool.leave(ticket)
        elif step in ('release', 'die') and holding:
            ticket = holding.pop(pick % len(holding))
            assert ticket.member is not None
            if step == 'die':
                ticket.member.sandbox.status = SandboxStatus.ERROR  # type: ignore[misc]
            pool.release(ticket.member.sandbox.id)
        elif step == 'deliver' and supply.begun + size > supply.made:
            supply.deliver(pool)
        settle()

    lent = [given_to(ticket) for ticket in holding]
    assert served == sorted(served)
    assert len(lent) == len(set(lent)), 'a sandbox was lent to two at once'
    assert not waiting or pool.stats()['idle'] == 0, 'somebody waits although a sandbox is idle'
    assert all(ticket.number > max(served, default=0) for ticket in waiting)
    assert pool.stats()['size'] + pool.stats()['starting'] == size


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from(['ask', 'release', 'deliver', 'tick'])), st.integers(1, 3), st.integers(0, 3))
def test_a_growing_pool_stays_within_its_bounds(steps: list[str], size: int, more: int) -> None:
    pool, supply, clock = make_pool(size, max_size=size + more, when_empty='grow', idle_timeout=10)
    tickets: list[Ticket] = []

    for step in steps:
        if step == 'ask':
            tickets.append(pool.ask())
        elif step == 'release':
            for ticket in [each for each in tickets if each.member is not None][:1]:
                tickets.remove(ticket)
                assert ticket.member is not None
                pool.release(ticket.member.sandbox.id)
        elif step == 'deliver' and supply.begun + size > supply.made:
            supply.deliver(pool)
        else:
            clock.now += 6
            pool.tend(clock.now)
        stats = pool.stats()
        assert size <= stats['size'] + stats['starting'] <= size + more


def test_a_lease_of_an_idle_sandbox_is_served_at_once() -> None:
    pool, _, _ = make_pool(1)

    sandbox = acquire(pool)

    assert sandbox.id == 's1'
    assert sandbox.status is SandboxStatus.BUSY
    assert pool.stats() | {'leased': 1, 'idle': 0, 'leases': 1} == pool.stats()


def test_release_wakes_the_longest_waiter() -> None:
    pool, _, _ = make_pool(1)
    first = acquire(pool)
    second, third = pool.ask(), pool.ask()

    pool.release(first.id)

    assert given_to(second) == first.id
    assert given_to(third) is None


def test_a_released_sandbox_is_idle_again() -> None:
    pool, _, _ = make_pool(1)
    sandbox = acquire(pool)

    pool.release(sandbox.id)

    assert sandbox.status is SandboxStatus.IDLE
    assert acquire(pool) is sandbox


def test_a_sandbox_that_is_not_lent_cannot_be_released() -> None:
    pool, _, _ = make_pool(1)

    with pytest.raises(PoolError, match='s1 is not leased'):
        pool.release('s1')


def test_fresh_sandboxes_are_discarded_and_replaced() -> None:
    pool, supply, _ = make_pool(1, policy='fresh')
    sandbox = acquire(pool)

    pool.release(sandbox.id)

    assert supply.discarded == ['s1']
    assert supply.begun == 1
    supply.deliver(pool)
    assert acquire(pool).id == 's2'


def test_a_dead_sandbox_is_replaced_and_never_lent() -> None:
    pool, supply, _ = make_pool(2)
    pool._members['s2'].sandbox.status = SandboxStatus.ERROR  # type: ignore[misc]

    sandbox = acquire(pool)

    assert sandbox.id == 's1'
    assert supply.discarded == ['s2']
    assert supply.begun == 1
    assert pool.stats()['replaced'] == 1


def test_a_sandbox_that_idled_is_asked_whether_it_answers() -> None:
    pool, supply, clock = make_pool(2)
    clock.now += TRUSTED_SECONDS
    pool._members['s2'].sandbox.answers = False  # type: ignore[attr-defined]

    assert acquire(pool).id == 's1'
    assert supply.discarded == ['s2']


def test_a_sandbox_just_used_is_not_asked() -> None:
    pool, _, _ = make_pool(1)

    assert acquire(pool).asked == 0


def test_who_is_given_a_dead_sandbox_keeps_its_place() -> None:
    pool, supply, _ = make_pool(1)
    first, second = pool.ask(), pool.ask()
    assert first.member is not None
    first.member.sandbox.status = SandboxStatus.ERROR  # type: ignore[misc]

    pool._bring_back(first, first.member)  # what `acquire` does when it looks
    supply.deliver(pool)

    assert given_to(first) == 's2'
    assert given_to(second) is None


def test_a_sandbox_that_dies_in_a_lease_is_replaced() -> None:
    pool, supply, _ = make_pool(1)
    sandbox = acquire(pool)
    sandbox.status = SandboxStatus.ERROR

    pool.release(sandbox.id)

    assert supply.discarded == [sandbox.id]
    assert supply.begun == 1


def test_an_exhausted_pool_says_so_after_the_timeout() -> None:
    pool, _, _ = make_pool(1)
    acquire(pool)

    with pytest.raises(
        PoolExhaustedError, match=r"^Timeout waiting for available sandbox: none of the 1 in pool 'p'"
    ) as info:
        pool.acquire(Deadline.after(0.01))

    assert isinstance(info.value, TimeoutError)
    assert pool.stats()['waiting'] == 0


def test_an_empty_pool_fails_at_once_where_that_is_chosen() -> None:
    pool, _, _ = make_pool(1, when_empty='fail')
    acquire(pool)

    with pytest.raises(PoolExhaustedError, match="pool_when_empty is 'fail'"):
        acquire(pool)


def test_failing_at_once_holds_where_the_last_one_had_died() -> None:
    pool, supply, _ = make_pool(1, when_empty='fail')
    next(iter(pool._members.values())).sandbox.status = SandboxStatus.ERROR  # type: ignore[misc]

    with pytest.raises(PoolExhaustedError):
        acquire(pool)

    assert supply.begun == 1


def test_a_growing_pool_makes_one_for_each_who_waits() -> None:
    pool, supply, _ = make_pool(1, max_size=3, when_empty='grow')
    tickets = [pool.ask() for _ in range(5)]

    assert supply.begun == 2
    supply.deliver(pool)
    assert given_to(tickets[1]) == 's2'


def test_a_pool_shrinks_to_its_size_when_idle() -> None:
    pool, supply, clock = make_pool(1, max_size=3, when_empty='grow', idle_timeout=60)
    tickets = [pool.ask() for _ in range(3)]
    supply.deliver(pool)
    supply.deliver(pool)
    for ticket in tickets:
        pool.release(given_to(ticket) or '')

    assert pool.tend(clock.now) == clock.now + 60
    clock.now += 60
    assert pool.tend(clock.now) is None

    assert len(supply.discarded) == 2
    assert pool.stats()['size'] == 1


def test_a_cancelled_waiter_leaves_the_queue() -> None:
    pool, _, _ = make_pool(1)
    held = acquire(pool)
    cancellation, errors = Cancellation(), []

    def wait() -> None:
        with cancellation.applied():
            try:
                acquire(pool)
            except CallCancelledError as error:
                errors.append(error)

    waiter = threading.Thread(target=wait)
    waiter.start()
    wait_for_queue(pool, 1)
    cancellation.cancel()
    waiter.join(PATIENCE)

    assert len(errors) == 1
    assert pool.stats()['waiting'] == 0
    pool.release(held.id)
    assert acquire(pool) is held


def test_leaving_after_having_been_served_gives_the_sandbox_to_the_next() -> None:
    pool, _, _ = make_pool(1)
    first, second = pool.ask(), pool.ask()
    assert given_to(first) == 's1'

    pool.leave(first)

    assert given_to(second) == 's1'


def test_closing_wakes_all_who_wait_with_the_error() -> None:
    pool, _, _ = make_pool(1)
    acquire(pool)
    errors: list[BaseException] = []

    def wait() -> None:
        try:
            acquire(pool)
        except ManagerStoppedError as error:
            errors.append(error)

    waiters = [threading.Thread(target=wait) for _ in range(3)]
    for waiter in waiters:
        waiter.start()
    wait_for_queue(pool, 3)
    pool.close(ManagerStoppedError('over'))
    for waiter in waiters:
        waiter.join(PATIENCE)

    assert [str(error) for error in errors] == ['over'] * 3
    assert len({id(error) for error in errors}) == 3, 'tracebacks would mix'
    with pytest.raises(ManagerStoppedError):
        pool.ask()


def test_a_sandbox_that_arrives_after_the_end_is_discarded() -> None:
    pool, supply, _ = make_pool(1, policy='fresh')
    pool.release(acquire(pool).id)

    pool.close(ManagerStoppedError('over'))
    supply.deliver(pool)

    assert supply.discarded == ['s1', 's2']


def test_who_waits_for_a_pool_that_can_make_none_learns_why() -> None:
    pool, supply, clock = make_pool(1, policy='fresh')
    pool.release(acquire(pool).id)
    ticket = pool.ask()

    pool.fail(SandboxStartError('no such image'))

    assert ticket.ready.is_set()
    assert isinstance(ticket.error, SandboxStartError)
    assert supply.begun == 1
    pool.tend(clock.now)
    assert supply.begun == 1, 'it must pause after a failure'


def test_a_pool_tries_again_by_itself_after_a_pause() -> None:
    pool, supply, clock = make_pool(1, policy='fresh')
    pool.release(acquire(pool).id)
    pool.fail(SandboxStartError('away'))

    due = pool.tend(clock.now)
    assert due is not None
    clock.now = due
    pool.tend(clock.now)

    assert supply.begun == 2


def test_the_next_to_ask_of_an_empty_pool_makes_it_try_at_once() -> None:
    pool, supply, _ = make_pool(1, policy='fresh')
    pool.release(acquire(pool).id)
    pool.fail(SandboxStartError('away'))

    ticket = pool.ask()

    assert supply.begun == 2
    supply.deliver(pool)
    assert given_to(ticket) == 's2'


def test_a_sandbox_taken_away_by_somebody_is_replaced() -> None:
    pool, supply, _ = make_pool(2)

    pool.drop('s1')

    assert supply.begun == 1
    assert pool.sandbox_ids == ['s2']


def test_dead_idle_sandboxes_are_found_and_replaced() -> None:
    pool, supply, _ = make_pool(2)
    pool._members['s1'].sandbox.status = SandboxStatus.ERROR  # type: ignore[misc]

    pool.look_over()

    assert supply.discarded == ['s1']
    assert supply.begun == 1


def test_stats_report_how_long_leases_waited() -> None:
    pool, _, clock = make_pool(1)
    held = acquire(pool)
    got = threading.Event()

    def wait() -> None:
        acquire(pool)
        got.set()

    waiter = threading.Thread(target=wait)
    waiter.start()
    wait_for_queue(pool, 1)
    clock.now += 4
    pool.release(held.id)
    waiter.join(PATIENCE)

    stats = pool.stats()
    assert stats['leases'] == 2
    assert stats['wait_seconds_max'] == 4
    assert stats['wait_seconds_mean'] == 2


def test_a_pool_that_is_used_again_is_not_closed_for_want_of_use() -> None:
    pool, _supply, clock = make_pool(1)
    unused_since = pool.unused_since
    clock.now += 1
    pool.release(acquire(pool).id)

    assert not pool.close(PoolError('dissolved'), if_unused_since=unused_since)

    leased = acquire(pool)
    assert not pool.close(PoolError('dissolved'), if_unused_since=clock.now)  # it is lent
    pool.release(leased.id)
    assert pool.close(PoolError('dissolved'), if_unused_since=clock.now)
    with pytest.raises(PoolError, match='dissolved'):
        acquire(pool)


def test_what_arrives_after_the_end_is_discarded() -> None:
    pool, supply, _clock = make_pool(1)
    assert pool.close(PoolError('dissolved'), if_unused_since=pool.unused_since)

    late = supply.deliver(pool)

    assert supply.discarded == [late.id]


class Cleaner:
    """Cleans sandboxes; each cleaning ends when the test says so, well or with an error."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.ended = threading.Event()
        self.woken = threading.Event()
        self.error: Exception | None = None

    def __call__(self, sandbox: Any) -> Pending[None]:
        self.begun.append(sandbox.id)
        return Pending(self.finish, self.ended.is_set, self.wait)

    def end(self) -> None:
        self.ended.set()
        self.woken.set()

    def wait(self, deadline: Deadline) -> bool:
        with on_cancel(self.woken.set):
            self.woken.wait(deadline.remaining())
        if is_cancelled():
            raise CallCancelledError('cancelled')
        return self.ended.is_set()

    def finish(self) -> None:
        assert self.ended.wait(PATIENCE)
        if self.error is not None:
            raise self.error


def test_giving_back_does_not_wait_for_the_cleaning_but_the_next_lease_does() -> None:
    cleaner = Cleaner()
    pool, supply, _ = make_pool(1, clean=cleaner)
    pool.release(acquire(pool).id)
    assert (cleaner.begun, pool.stats()['idle'], pool.stats()['leased']) == (['s1'], 1, 0)

    got: list[Any] = []
    waiter = threading.Thread(target=lambda: got.append(acquire(pool)))
    waiter.start()
    waiter.join(0.05)
    assert not got, 'it is not clean yet'
    cleaner.end()
    waiter.join(PATIENCE)

    assert [each.id for each in got] == ['s1']
    assert supply.discarded == []


def test_a_sandbox_whose_cleaning_ends_badly_is_never_lent() -> None:
    cleaner = Cleaner()
    pool, supply, _ = make_pool(2, clean=cleaner)
    cleaner.error = SandboxError('its memory stays taken')
    cleaner.end()
    dirty = acquire(pool)
    pool.release(dirty.id)

    assert acquire(pool).id != dirty.id
    assert supply.discarded == [dirty.id]
    assert (supply.begun, pool.stats()['replaced']) == (1, 1)


def test_a_cleaning_that_cannot_begin_has_the_sandbox_replaced_at_once() -> None:
    def refuse(sandbox: Any) -> Pending[None]:
        raise SandboxError('gone')

    pool, supply, _ = make_pool(1, clean=refuse)
    pool.release(acquire(pool).id)

    assert (supply.discarded, supply.begun, pool.stats()['size']) == (['s1'], 1, 0)


def test_a_pool_that_nobody_asks_replaces_what_could_not_be_cleaned() -> None:
    cleaner = Cleaner()
    cleaner.error = SandboxError('its processes could not be ended')
    pool, supply, clock = make_pool(1, clean=cleaner)
    pool.release(acquire(pool).id)

    due = pool.tend(clock.now)
    assert due == clock.now + SETTLE_SECONDS
    clock.now = due
    assert pool.tend(clock.now) == due + SETTLE_SECONDS, 'it has not ended, so it is looked at again'
    assert supply.discarded == []

    cleaner.end()
    clock.now += SETTLE_SECONDS
    assert pool.tend(clock.now) is None
    assert (supply.discarded, supply.begun) == (['s1'], 1)


def test_a_cleaning_that_ended_well_is_settled_without_a_lease() -> None:
    cleaner = Cleaner()
    cleaner.end()
    pool, supply, clock = make_pool(1, clean=cleaner)
    pool.release(acquire(pool).id)
    clock.now += SETTLE_SECONDS

    assert pool.tend(clock.now) is None
    assert (supply.discarded, pool.stats()['idle']) == ([], 1)


def test_a_lease_takes_a_clean_sandbox_rather_than_one_whose_cleaning_hangs() -> None:
    pool, supply, clock = make_pool(2, clean=Cleaner())
    slow = acquire(pool)
    pool.release(slow.id)

    ready = acquire(pool)
    assert ready.id != slow.id
    assert (pool.stats()['idle'], pool.stats()['leased'], supply.discarded) == (1, 1, [])

    pool.release(ready.id)
    clock.now += OTHER_SECONDS
    assert given_to(pool.ask()) == ready.id, 'neither is clean, and this is the last one back'


def test_a_lease_waits_for_a_cleaning_no_longer_than_it_may() -> None:
    cleaner = Cleaner()
    pool, supply, _ = make_pool(1, clean=cleaner)
    pool.release(acquire(pool).id)

    with pytest.raises(PoolExhaustedError, match='became free and clean within'):
        acquire(pool, 0.01)
    assert (pool.stats()['idle'], supply.discarded) == (1, [])
    cleaner.end()
    assert acquire(pool).id == 's1'


def test_a_cancelled_lease_leaves_the_sandbox_that_is_being_cleaned_to_others() -> None:
    cleaner = Cleaner()
    pool, supply, clock = make_pool(1, clean=cleaner)
    pool.release(acquire(pool).id)
    work, errors = Cancellation(), []

    def lease() -> None:
        with work.applied():
            try:
                acquire(pool)
            except BaseException as error:
                errors.append(error)

    waiter = threading.Thread(target=lease)
    waiter.start()
    work.cancel()
    waiter.join(PATIENCE)

    assert [type(error) for error in errors] == [CallCancelledError]
    assert (pool.stats()['idle'], supply.discarded) == (1, [])
    assert pool.tend(clock.now) == clock.now + SETTLE_SECONDS, 'its end is still looked at'


def test_a_pool_that_closes_while_a_lease_waits_for_a_cleaning_says_so() -> None:
    pool, _, _ = make_pool(1, clean=Cleaner())
    pool.release(acquire(pool).id)
    ticket = pool.ask()
    assert ticket.member is not None
    pool.close(ManagerStoppedError('stopped'))

    with pytest.raises(ManagerStoppedError):
        pool._is_ready(ticket, ticket.member, Deadline.after(PATIENCE))


def test_a_late_look_at_one_cleaning_does_not_hide_the_next() -> None:
    pool, _, _ = make_pool(1)
    first, second = (Pending.done(None) for _ in range(2))
    ticket = pool.ask()
    member = ticket.member
    assert member is not None

    def given_back_meanwhile() -> None:
        member.cleaning = second

    member.cleaning = Pending(given_back_meanwhile, first.has_ended, first.wait)
    assert pool._is_clean(member)
    assert member.cleaning is second
