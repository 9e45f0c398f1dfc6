"""How the programs of a batch are divided among shards, and what becomes of those of a shard that fails."""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any, cast

import pytest

from enclave.cancellation import Cancellation, on_cancel
from enclave.deadline import Deadline
from enclave.errors import (
    CallCancelledError,
    EnclaveError,
    InvalidArgumentError,
    PoolError,
    PoolExhaustedError,
    SandboxGoneError,
    ServerUnavailableError,
)
from enclave.languages.values import CodeRequest, CodeResult, StepResult, as_request
from enclave.managers.code_batches import Exchange
from enclave.parallel import Outcome
from enclave.ray import batches
from enclave.ray.batches import ShardedBatch
from enclave.ray.pools import ShardedPool
from enclave.ray.shards import ShardRecord
from tests.support.host import wait_until

PATIENCE = 60.0


class FakeClient:
    """Runs the programs of a part one after the other, as its shard would; ``run`` says what comes of each."""

    def __init__(self) -> None:
        self.parts: list[list[str]] = []
        self.places: list[int] = []
        self.run: Callable[[str], Any] = lambda code: code
        self.begin: Callable[[Exchange], None] = lambda exchange: None
        self.may_run = threading.Event()
        self.may_run.set()

    def run_part(self, exchange: Exchange, *, concurrency: int, **_: Any) -> Generator[Outcome[CodeResult], None, None]:
        exchange.attempts += 1
        self.parts.append([str(request.code) for request in exchange.waiting.values()])
        self.places.append(concurrency)
        self.begin(exchange)
        exchange.was_sent = exchange.has_begun = True
        for number, request in list(exchange.waiting.items()):
            cancelled = threading.Event()

            def wake(cancelled: threading.Event = cancelled) -> None:
                cancelled.set()
                self.may_run.set()

            with on_cancel(wake):
                assert self.may_run.wait(PATIENCE)
            if cancelled.is_set():
                raise CallCancelledError('the part was cancelled')
            found = self.run(str(request.code))
            if isinstance(found, Exception) and not isinstance(found, EnclaveError):
                raise found.args[0]
            del exchange.waiting[number]
            if isinstance(found, EnclaveError):
                yield Outcome(number, error=found)
            else:
                yield Outcome(number, result_of(found))


def result_of(text: str) -> CodeResult:
    return CodeResult(language='python', run=StepResult(command=['x'], status='success', stdout=text))


class Shards:
    """A pool with parts on some shards that are fakes."""

    def __init__(self, **parts: int) -> None:
        self.pool = ShardedPool('p', 'fake', None)
        self.clients = {name: FakeClient() for name in parts}
        self.lost: list[str] = []
        for name, size in parts.items():
            shard = ShardRecord(name, None, is_own=True, state='up', size=size, client=cast(Any, self.clients[name]))
            self.pool.set_part(shard, size)

    def lose_part(self, pool: ShardedPool, shard: ShardRecord, error: EnclaveError) -> None:
        self.lost.append(shard.id)
        self.pool.forget_part(shard.id)
        if not self.pool.total:
            self.pool.close(PoolError('there is no pool any more'))

    def batch(
        self,
        items: Iterable[Any],
        *,
        concurrency: int = 8,
        in_order: bool = False,
        wait_timeout: float | None = None,
    ) -> ShardedBatch:
        def take(most: int, deadline: Deadline) -> tuple[ShardedPool, ShardRecord, int]:
            return (self.pool, *self.pool.take_some(most, deadline, fails=False))

        return ShardedBatch(
            items,
            as_request,
            take=take,
            lost_part=self.lose_part,
            is_over=lambda shard, error: shard.loss is not None,
            concurrency=concurrency,
            is_ordered=in_order,
            wait_timeout=wait_timeout,
        )

    @property
    def sent(self) -> list[str]:
        return [code for client in self.clients.values() for part in client.parts for code in part]

    def is_free(self) -> bool:
        parts = self.pool._parts.values()
        return all(part.busy == 0 for part in parts)


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """How large parts are does not depend on how fast this machine is."""
    monkeypatch.setattr(batches, 'PART_SECONDS', PATIENCE)


def codes(count: int) -> list[str]:
    return [f'p{number}' for number in range(count)]


def stdouts(outcomes: Iterable[Outcome[CodeResult]]) -> dict[int, str]:
    return {each.index: each.unwrap().stdout for each in outcomes}


def test_short_programs_travel_many_in_a_request_and_each_is_sent_once() -> None:
    shards = Shards(a=2, b=2)

    found = stdouts(shards.batch(codes(400), concurrency=4))

    assert found == dict(enumerate(codes(400)))
    assert Counter(shards.sent) == dict.fromkeys(codes(400), 1)
    parts = [len(part) for client in shards.clients.values() for part in client.parts]
    assert max(parts) > 8
    assert shards.is_free()


def test_long_programs_travel_one_to_a_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, 'PART_SECONDS', 0.0)
    shards = Shards(a=2)

    stdouts(shards.batch(codes(40), concurrency=2))

    assert all(
        len(part) <= places for part, places in zip(shards.clients['a'].parts, shards.clients['a'].places, strict=True)
    )


def test_parts_are_short_while_others_wait_for_a_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, 'SHARED_PART_SECONDS', 0.0)
    monkeypatch.setattr(ShardedPool, 'waiting', property(lambda pool: 1))
    shards = Shards(a=2)

    stdouts(shards.batch(codes(40), concurrency=2))

    assert all(
        len(part) <= places for part, places in zip(shards.clients['a'].parts, shards.clients['a'].places, strict=True)
    )


def test_a_small_batch_is_spread_over_the_shards() -> None:
    shards = Shards(a=4, b=4)
    for client in shards.clients.values():
        client.may_run.clear()

    with shards.batch(codes(4)) as outcomes:
        collected = threading.Thread(target=lambda: stdouts(outcomes))
        collected.start()
        assert wait_until(lambda: len(shards.sent) == 4, PATIENCE)
        sent = {name: sum(map(len, client.parts)) for name, client in shards.clients.items()}
        for client in shards.clients.values():
            client.may_run.set()
        collected.join(PATIENCE)

    assert sent == {'a': 2, 'b': 2}


def test_outcomes_may_come_in_the_order_of_the_programs() -> None:
    shards = Shards(a=2, b=1)

    found = [each.index for each in shards.batch(codes(200), in_order=True, concurrency=3)]

    assert found == list(range(200))


def test_a_program_that_is_none_has_its_error_and_stops_nothing() -> None:
    shards = Shards(a=1)

    found = {each.index: each for each in shards.batch(['p0', {'code': 'x', 'nonsense': 1}, 'p2', 5])}

    assert [found[n].failed for n in range(4)] == [False, True, False, True]
    assert isinstance(found[1].error, InvalidArgumentError)


def test_programs_that_are_none_do_not_stop_the_taking_however_many_they_are() -> None:
    found = list(Shards(a=1).batch([5] * 200, concurrency=1))

    assert len(found) == 200
    assert all(isinstance(each.error, InvalidArgumentError) for each in found)


def test_what_fails_while_programs_are_taken_comes_after_the_outcomes_of_those_before() -> None:
    shards = Shards(a=1)

    def items() -> Iterator[str]:
        yield from codes(5)
        raise RuntimeError('no more')

    outcomes = shards.batch(items())
    found = sorted(next(outcomes).index for _ in range(5))
    with pytest.raises(RuntimeError, match='no more'):
        next(outcomes)
    outcomes.close()

    assert found == list(range(5))
    assert shards.is_free()


def test_programs_without_an_end_are_taken_a_few_at_a_time_and_leaving_ends_the_rest() -> None:
    shards = Shards(a=2)
    taken = itertools.count()

    with shards.batch((f'p{next(taken)}' for _ in itertools.count()), concurrency=2) as outcomes:
        for _ in range(50):
            next(outcomes)
    ended_at = next(taken)

    assert ended_at <= 50 + 3 * 2 * (1 + batches.MOST_PER_PLACE) + 1
    assert shards.is_free()


def test_results_that_nobody_takes_are_not_read_from_the_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, 'HELD_BYTES', 1000)
    shards = Shards(a=4, b=4)
    given = itertools.count()

    def run(code: str) -> str:
        next(given)
        return 'x' * 10_000

    for client in shards.clients.values():
        client.run = run

    with shards.batch(codes(4000)) as outcomes:
        assert isinstance(outcomes, ShardedBatch)
        for _ in range(400):  # so that parts have their full size
            next(outcomes)
        assert wait_until(lambda: outcomes._held_bytes > 1000, PATIENCE)
        before = next(given)
        assert before <= 400 + 3 * 8  # for each place one that waits to be handed over, and some that wait to be taken

        assert len(stdouts(outcomes)) == 3600


def test_in_order_the_next_one_always_comes_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, 'HELD_BYTES', 1000)
    shards = Shards(a=2, b=2)
    first = threading.Event()
    shards.clients['a'].run = shards.clients['b'].run = lambda code: (
        first.wait(PATIENCE) and code if code == 'p0' else 'x' * 10_000
    )

    with shards.batch(codes(300), in_order=True, concurrency=4) as outcomes:
        assert isinstance(outcomes, ShardedBatch)
        seen: list[int] = []
        reader = threading.Thread(target=lambda: seen.extend(each.index for each in outcomes))
        reader.start()
        assert wait_until(lambda: outcomes._held_bytes > 1000, PATIENCE)
        first.set()
        reader.join(PATIENCE)

    assert seen == list(range(300))


def test_what_a_lost_shard_may_have_begun_is_an_error_and_is_not_sent_again() -> None:
    shards = Shards(a=2, b=2)

    def run(code: str) -> Any:
        return RuntimeError(SandboxGoneError('the shard is gone'))

    def begin(exchange: Exchange) -> None:
        shards.pool.forget_part('a')

    shards.clients['a'].run, shards.clients['a'].begin = run, begin

    found = list(shards.batch(codes(100), concurrency=4))

    failed = {each.index for each in found if each.failed}
    assert sorted(each.index for each in found) == list(range(100))
    assert failed
    assert all(isinstance(each.error, SandboxGoneError) for each in found if each.failed)
    assert {f'p{number}' for number in failed} == set(itertools.chain(*shards.clients['a'].parts))
    assert Counter(shards.sent) == dict.fromkeys(codes(100), 1)


def test_what_never_came_to_a_shard_goes_to_another() -> None:
    shards = Shards(a=2, b=2)

    def refuse(exchange: Exchange) -> None:
        shards.pool.forget_part('a')
        raise SandboxGoneError('the shard is gone')

    shards.clients['a'].begin = refuse

    assert stdouts(shards.batch(codes(100), concurrency=4)) == dict(enumerate(codes(100)))
    assert shards.clients['a'].parts


def test_what_never_comes_to_any_shard_ends_with_the_reason() -> None:
    shards = Shards(a=1)

    def refuse(exchange: Exchange) -> None:
        raise ServerUnavailableError('it does not answer')

    shards.clients['a'].begin = refuse

    found = list(shards.batch(codes(3)))

    assert [type(each.error) for each in found] == [ServerUnavailableError] * 3
    assert Counter(shards.sent) == dict.fromkeys(codes(3), batches.MOST_SENT)
    assert shards.is_free()


@pytest.mark.parametrize('is_single', [True, False])
def test_what_a_shard_has_no_pool_for_goes_to_another(is_single: bool) -> None:
    shards = Shards(a=2, b=2)

    def refuse(exchange: Exchange) -> None:
        raise PoolError('there is no pool')

    if is_single:
        shards.clients['a'].run = lambda code: PoolError('there is no pool')
    else:
        shards.clients['a'].begin = refuse

    assert stdouts(shards.batch(codes(60), concurrency=4)) == dict(enumerate(codes(60)))
    assert 'a' in shards.lost


def test_a_pool_that_is_dissolved_is_the_error_of_what_was_not_begun() -> None:
    shards = Shards(a=2)
    shards.clients['a'].run = lambda code: code if len(shards.lost) else PoolError('there is no pool')

    found = list(shards.batch(codes(20), concurrency=2))

    assert len(found) == 20
    assert {type(each.error) for each in found if each.failed} == {PoolError}


def test_what_a_shard_gives_back_goes_to_another() -> None:
    shards = Shards(a=2, b=2)
    late = PoolExhaustedError('not begun in time', details={'rule': 'begin_within'})
    shards.clients['a'].run = lambda code: late

    def never_again(exchange: Exchange) -> None:
        shards.pool.forget_part('a')

    shards.clients['a'].begin = never_again

    assert stdouts(shards.batch(codes(60), concurrency=4)) == dict(enumerate(codes(60)))


def test_one_program_that_a_shard_refuses_fails_alone() -> None:
    shards = Shards(a=1)

    def check(exchange: Exchange) -> None:
        if any(request.code == 'p7' for request in exchange.waiting.values()):
            raise InvalidArgumentError('p7 is bad')

    shards.clients['a'].begin = check

    found = {each.index: each for each in shards.batch(codes(40), concurrency=1)}

    assert [number for number, each in found.items() if each.failed] == [7]
    assert len(found) == 40


def test_a_batch_that_is_cancelled_ends_its_parts_and_gives_its_places_back() -> None:
    shards = Shards(a=2)
    shards.clients['a'].may_run.clear()
    cancellation, ended = Cancellation(), []

    def use() -> None:
        with cancellation.applied(), shards.batch(codes(100), concurrency=2) as outcomes:
            with contextlib.suppress(CallCancelledError):
                next(outcomes)
            ended.append(True)

    thread = threading.Thread(target=use)
    thread.start()
    assert wait_until(lambda: bool(shards.sent), PATIENCE)
    cancellation.cancel()
    thread.join(PATIENCE)

    assert ended
    assert shards.is_free()


def test_those_that_wait_too_long_for_a_place_have_their_outcome() -> None:
    shards = Shards(a=1)
    taken = shards.pool.take(Deadline.after(PATIENCE), fails=False)

    found = list(shards.batch(codes(5), wait_timeout=0.01))

    assert [type(each.error) for each in found] == [PoolExhaustedError] * 5
    assert not shards.sent
    shards.pool.give(taken)


def test_batches_take_turns() -> None:
    shards = Shards(a=1)
    client = shards.clients['a']
    client.may_run.clear()

    with shards.batch((f'first {n}' for n in itertools.count()), concurrency=1) as first:
        begun = threading.Thread(target=lambda: [next(first) for _ in range(40)])
        begun.start()
        assert wait_until(lambda: len(client.parts) == 1, PATIENCE)
        with shards.batch(['second'], concurrency=1) as second:
            found: dict[int, str] = {}
            other = threading.Thread(target=lambda: found.update(stdouts(second)))
            other.start()
            assert wait_until(lambda: shards.pool.waiting >= 1, PATIENCE)
            client.may_run.set()
            other.join(PATIENCE)
        begun.join(PATIENCE)

    assert found == {0: 'second'}
    assert client.parts.index(['second']) <= 3


def test_programs_that_are_large_do_not_travel_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, 'PART_BYTES', 10_000)
    shards = Shards(a=1)
    programs = [CodeRequest(code=f'p{n}', stdin='x' * 6000) for n in range(20)]

    found = stdouts(shards.batch(programs, concurrency=1))

    assert len(found) == 20
    assert {len(part) for part in shards.clients['a'].parts} == {1}
