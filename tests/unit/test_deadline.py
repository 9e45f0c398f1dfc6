from __future__ import annotations

import threading
from typing import Any

import pytest

from enclave.deadline import FOREVER_SECONDS, Deadline, check_timeout
from enclave.errors import InvalidArgumentError, OperationTimeoutError


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.mark.parametrize(
    ('given', 'seconds'),
    [(None, None), (0, None), (0.0, None), (-0.0, None), (float('inf'), None), (10**400, None), (1, 1.0), (0.25, 0.25)],
)
def test_a_timeout_is_seconds_or_no_limit(given: Any, seconds: float | None) -> None:
    assert check_timeout(given) == seconds


@pytest.mark.parametrize('given', [-1, -0.001, float('nan'), float('-inf'), True, '5', [], -(10**400)])
def test_an_impossible_timeout_is_named(given: Any) -> None:
    with pytest.raises(InvalidArgumentError, match='grace must be'):
        check_timeout(given, 'grace')


def test_every_limit_can_be_waited_for() -> None:
    longest = check_timeout(FOREVER_SECONDS * 0.999)

    assert longest is not None
    assert longest < threading.TIMEOUT_MAX


def test_a_deadline_runs_down_and_stays_at_zero(clock: Clock) -> None:
    deadline = Deadline.after(5, clock=clock)

    assert (deadline.remaining(), deadline.has_expired()) == (5.0, False)
    clock.now += 4
    assert (deadline.remaining(), deadline.has_expired()) == (1.0, False)
    clock.now += 1
    assert (deadline.remaining(), deadline.has_expired()) == (0.0, True)
    clock.now += 9
    assert deadline.remaining() == 0.0


@pytest.mark.parametrize('timeout', [None, 0])
def test_no_limit_never_ends(clock: Clock, timeout: Any) -> None:
    deadline = Deadline.after(timeout, clock=clock)
    clock.now += 1e12

    assert deadline.remaining() is None
    assert not deadline.has_expired()
    deadline.check('waiting')


def test_check_names_what_did_not_finish(clock: Clock) -> None:
    deadline = Deadline.after(1, clock=clock)
    deadline.check('the upload')
    clock.now += 2

    with pytest.raises(OperationTimeoutError, match='the upload did not finish'):
        deadline.check('the upload')


@pytest.mark.parametrize(
    ('first', 'second', 'remaining'), [(5, 3, 3.0), (3, 5, 3.0), (None, 3, 3.0), (3, None, 3.0), (None, None, None)]
)
def test_the_earlier_of_two_limits_counts(clock: Clock, first: Any, second: Any, remaining: float | None) -> None:
    assert Deadline.after(first, clock=clock).earlier(second).remaining() == remaining


def test_narrowing_does_not_restart_the_clock(clock: Clock) -> None:
    deadline = Deadline.after(5, clock=clock)
    clock.now += 4

    assert deadline.earlier(3).remaining() == 1.0


def test_what_is_handed_on_when_no_time_is_left_is_a_limit(clock: Clock) -> None:
    deadline = Deadline.after(5, clock=clock)
    assert (deadline.as_timeout(), Deadline().as_timeout()) == (5.0, None)
    clock.now += 6

    assert deadline.remaining() == 0.0
    assert check_timeout(deadline.as_timeout()) is not None
