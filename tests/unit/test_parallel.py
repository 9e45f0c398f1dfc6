"""Many pieces of work at once."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Iterator

import pytest

from enclave.cancellation import Cancellation, is_cancelled, on_cancel
from enclave.errors import CallCancelledError, InvalidArgumentError
from enclave.parallel import Batch

PATIENCE = 120.0


def test_every_item_has_its_outcome_with_its_index() -> None:
    with Batch(lambda item: item * 2, range(100), concurrency=7) as batch:
        outcomes = list(batch)

    assert sorted((each.index, each.result) for each in outcomes) == [(n, 2 * n) for n in range(100)]


def test_in_order_whatever_the_order_of_the_ends() -> None:
    second = threading.Event()

    def work(item: int) -> int:
        if item == 0:
            assert second.wait(PATIENCE)
        if item == 1:
            second.set()
        return item

    assert [each.unwrap() for each in Batch(work, range(20), concurrency=4, is_ordered=True)] == list(range(20))


def test_without_order_what_is_ready_comes_first() -> None:
    gate = threading.Event()

    def work(item: int) -> int:
        if item == 0:
            assert gate.wait(PATIENCE)
        return item

    batch = Batch(work, range(3), concurrency=2)
    first = [next(batch).index, next(batch).index]
    gate.set()

    assert (sorted(first), next(batch).index) == ([1, 2], 0)
    batch.close()


def test_an_error_is_a_value_and_stops_nothing() -> None:
    def work(item: int) -> int:
        if item == 1:
            raise ValueError('one')
        return item

    outcomes = list(Batch(work, range(3), concurrency=1))

    assert [(each.result, each.failed) for each in outcomes] == [(0, False), (None, True), (2, False)]
    with pytest.raises(ValueError, match='one'):
        outcomes[1].unwrap()


@pytest.mark.parametrize('is_ordered', [False, True])
def test_no_more_is_taken_than_the_window_holds(is_ordered: bool) -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(1000):
            taken.append(number)
            yield number

    with Batch(lambda item: item, items(), concurrency=3, is_ordered=is_ordered, window=5) as batch:
        for count in range(1, 50):
            next(batch)
            assert len(taken) <= count + 5 + 3


def test_closing_cancels_what_goes_on_and_begins_no_more() -> None:
    begun = threading.Semaphore(0)
    seen: list[int] = []

    def work(item: int) -> None:
        seen.append(item)
        ended = threading.Event()
        with on_cancel(ended.set):
            begun.release()
            assert ended.wait(PATIENCE)

    batch = Batch(work, range(100), concurrency=2)
    batch.next(0.0)
    for _ in range(2):
        assert begun.acquire(timeout=PATIENCE)
    batch.close()
    batch.close()

    assert len(seen) == 2
    with pytest.raises(CallCancelledError):
        next(batch)


def test_a_cancelled_caller_ends_the_batch() -> None:
    cancellation = Cancellation()

    def work(item: int) -> bool:
        ended = threading.Event()
        with on_cancel(ended.set):
            cancellation.cancel()
            assert ended.wait(PATIENCE)
        return is_cancelled()

    with cancellation.applied(), pytest.raises(CallCancelledError):
        list(Batch(work, range(3), concurrency=1))


def test_items_that_cannot_be_taken_are_an_error_after_what_there_was() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise RuntimeError('no more')

    batch = Batch(lambda item: item, items(), concurrency=2)

    assert next(batch).result == 1
    with pytest.raises(RuntimeError, match='no more'):
        next(batch)
    batch.close()


def test_the_one_that_waits_a_while_learns_that_it_is_not_over() -> None:
    gate = threading.Event()
    batch = Batch(lambda _: gate.wait(PATIENCE), [1], concurrency=1)

    assert batch.next(0.01) is None
    assert not batch.is_over
    gate.set()
    assert batch.next(None) is not None
    assert batch.next(None) is None
    assert batch.is_over


def test_the_context_of_the_caller_is_the_works_too() -> None:
    word: contextvars.ContextVar[str] = contextvars.ContextVar('word', default='none')
    token = word.set('mine')
    batch = Batch(lambda _: word.get(), [1, 2], concurrency=2)
    word.reset(token)

    assert [each.result for each in batch] == ['mine', 'mine']


@pytest.mark.parametrize('concurrency', [0, -1, 1025, True, 1.5])
def test_an_impossible_concurrency_is_refused(concurrency: int) -> None:
    with pytest.raises(InvalidArgumentError, match='concurrency'):
        Batch(lambda item: item, [], concurrency=concurrency)
