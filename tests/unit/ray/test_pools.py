"""How the parts of a pool are given out."""

from __future__ import annotations

import threading
import time

import pytest

from enclave.cancellation import Cancellation
from enclave.deadline import Deadline
from enclave.errors import CallCancelledError, PoolError, PoolExhaustedError
from enclave.ray.pools import ShardedPool, ShardedPools
from enclave.ray.shards import ShardRecord

PATIENCE = 60.0
SOON = Deadline.after(0.01)


def shard(name: str) -> ShardRecord:
    return ShardRecord(name, None, is_own=True, state='up', size=8)


def pool_of(**parts: int) -> tuple[ShardedPool, dict[str, ShardRecord]]:
    pool, shards = ShardedPool('p', 'fake', None), {name: shard(name) for name in parts}
    for name, size in parts.items():
        pool.set_part(shards[name], size)
    return pool, shards


def test_the_part_with_the_most_free_sandboxes_serves_next() -> None:
    pool, _ = pool_of(a=2, b=2)

    taken = [pool.take(SOON, fails=False).id for _ in range(4)]

    assert sorted(taken[:2]) == sorted(taken[2:]) == ['a', 'b']


def test_without_a_free_sandbox_it_is_exhausted_at_once_or_in_time() -> None:
    pool, _ = pool_of(a=1)
    pool.take(SOON, fails=False)

    for fails in (True, False):
        with pytest.raises(PoolExhaustedError, match='Timeout waiting for available sandbox: none of the 1'):
            pool.take(Deadline.after(0.01), fails=fails)
    assert pool.waiting == 0


def test_who_came_first_is_served_first() -> None:
    pool, _ = pool_of(a=1)
    held = pool.take(SOON, fails=False)
    order: list[int] = []

    def wait(number: int) -> None:
        found = pool.take(Deadline.after(PATIENCE), fails=False)
        order.append(number)
        pool.give(found)

    threads = []
    for number in range(3):
        threads.append(threading.Thread(target=wait, args=(number,)))
        threads[-1].start()
        pause = threading.Event()
        while pool.waiting <= number:
            pause.wait(0.001)
    pool.give(held)
    for each in threads:
        each.join(PATIENCE)

    assert order == [0, 1, 2]


def test_what_a_lost_shard_had_is_given_no_more_and_what_comes_elsewhere_serves_those_who_wait() -> None:
    pool, shards = pool_of(a=2)
    pool.take(SOON, fails=False)
    assert pool.forget_part('a') == 2
    pool.give(shards['a'])
    found: list[str] = []
    waiting = threading.Thread(target=lambda: found.append(pool.take(Deadline.after(PATIENCE), fails=False).id))
    waiting.start()

    pool.set_part(shard('b'), 1)
    waiting.join(PATIENCE)

    assert found == ['b']
    assert pool.total == 1


@pytest.mark.parametrize('is_followed', [True, False])
def test_what_another_manager_has_made_anew_is_missed_no_longer(is_followed: bool) -> None:
    pool, shards = pool_of(a=2, b=2)
    pool.size = pool.most = 4
    pool.is_followed = is_followed
    pool.miss(pool.forget_part('a'))

    pool.follow(shards['b'], 3, time.monotonic())
    assert (pool.total, pool.missing, pool.size) == (3, 1, 4)
    pool.follow(shard('c'), 1, time.monotonic())

    assert (pool.total, pool.missing, pool.size) == (4, 0, 4)


def test_a_pool_that_another_manager_makes_anew_is_looked_at_again_later() -> None:
    pool, _ = pool_of()
    pool.size = pool.most = 2
    pool.miss(2)
    now = time.monotonic()
    assert pool.begin_replacing(now) == 2

    pool.leave_to_others(5.0)

    assert pool.begin_replacing(now + 1.0) == 0
    assert pool.begin_replacing(now + 60.0) == 2


def test_a_wait_that_is_cancelled_leaves_the_queue() -> None:
    pool, _ = pool_of(a=1)
    pool.take(SOON, fails=False)
    cancellation = Cancellation()
    cancellation.cancel()

    with cancellation.applied(), pytest.raises(CallCancelledError):
        pool.take(Deadline.after(PATIENCE), fails=False)
    assert pool.waiting == 0


def test_who_waits_for_a_pool_that_is_dissolved_gets_to_know() -> None:
    pool, _ = pool_of()
    errors: list[BaseException] = []

    def wait() -> None:
        try:
            pool.take(Deadline.after(PATIENCE), fails=False)
        except PoolError as error:
            errors.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    pause = threading.Event()
    while not pool.waiting:
        pause.wait(0.001)
    pool.close(PoolError('it is over'))
    waiting.join(PATIENCE)

    assert [str(each) for each in errors] == ['it is over']
    with pytest.raises(PoolError, match='over'):
        pool.take(SOON, fails=False)


def test_the_same_kind_and_configuration_are_the_same_pool() -> None:
    pools = ShardedPools()
    with pytest.raises(PoolError, match='initialize_pool'):
        pools.get(None)

    first, is_new = pools.match(None, 'docker', {'image': 'a'})
    again, is_new_again = pools.match(None, 'docker', {'image': 'a'})
    other, _ = pools.match(None, 'docker', {'image': 'b'})

    assert (first.name, is_new, is_new_again, other.name) == ('default', True, False, 'docker-2')
    assert first is again is pools.get(None)
    with pytest.raises(PoolError, match='another kind'):
        pools.match('default', 'docker', {'image': 'b'})
    with pytest.raises(PoolError, match='there are: default, docker-2'):
        pools.get('none')


def test_a_part_that_another_manager_made_is_taken_over() -> None:
    pools = ShardedPools()
    facts = {'size': 2, 'sandbox_type': 'fake', 'config': {'ttl': 1}}

    pools.follow(shard('a'), {'theirs': facts}, 1.0)
    pools.follow(shard('b'), {'theirs': facts}, 1.0)

    pool = pools.get(None)
    assert (pool.name, pool.sandbox_type, pool.config, pool.size) == ('theirs', 'fake', {'ttl': 1}, 4)
    assert pool.take(SOON, fails=False).id in 'ab'


def test_a_pool_of_another_manager_follows_what_its_shards_report() -> None:
    pools, a, b = ShardedPools(), shard('a'), shard('b')
    facts = {'size': 2, 'sandbox_type': 'fake', 'config': None}
    for each in (a, b):
        pools.follow(each, {'theirs': facts}, 1.0)
    pool = pools.get('theirs')

    pools.follow(a, {'theirs': {**facts, 'size': 5}}, 2.0)
    assert (pool.total, pool.size, pool.most) == (7, 7, 7)
    pools.follow(b, {}, 2.0)
    assert (pool.total, pool.size, pool.most) == (5, 5, 5)
    assert list(pool.parts()) == ['a']


def test_who_waits_for_a_pool_is_served_when_another_manager_makes_it_larger() -> None:
    pools, a = ShardedPools(), shard('a')
    facts = {'size': 1, 'sandbox_type': 'fake', 'config': None}
    pools.follow(a, {'theirs': facts}, 1.0)
    pool = pools.get('theirs')
    pool.take(SOON, fails=False)
    found: list[str] = []
    waiting = threading.Thread(target=lambda: found.append(pool.take(Deadline.after(PATIENCE), fails=False).id))
    waiting.start()

    pools.follow(a, {'theirs': {**facts, 'size': 2}}, 2.0)
    waiting.join(PATIENCE)

    assert found == ['a']


def test_a_report_that_was_asked_for_before_a_change_of_ones_own_ended_changes_nothing() -> None:
    pools, a = ShardedPools(), shard('a')
    pool, _ = pools.match('p', 'fake', None)
    before = time.monotonic()
    with pool.changing(a) as size:
        pools.follow(a, {'p': {'size': 7}}, time.monotonic() + PATIENCE)
        assert (size, pool.total) == (0, 0)
        pool.set_part(a, 3)
    pool.size = pool.most = 3

    pools.follow(a, {'p': {'size': 0}}, before)
    assert pool.total == 3
    pools.follow(a, {'p': {'size': 2}}, time.monotonic() + PATIENCE)
    assert (pool.total, pool.size) == (2, 2)


def test_growth_within_the_bounds_of_a_pool_is_no_change_of_its_size() -> None:
    pools, a = ShardedPools(), shard('a')
    pool, _ = pools.match('p', 'fake', None)
    pool.set_part(a, 2)
    pool.size, pool.most = 2, 8

    pools.follow(a, {'p': {'size': 4}}, 1.0)

    assert (pool.total, pool.size, pool.most) == (4, 2, 8)


def test_only_what_was_free_all_the_time_is_above_a_pools_size() -> None:
    pool, shards = pool_of(a=2, b=2)
    pool.size = 1
    later = time.monotonic() + 60.0
    assert pool.surplus(later, 30.0) == 3
    assert pool.surplus(later, 90.0) == 0

    held = [pool.take(SOON, fails=False) for _ in range(3)]
    assert pool.surplus(later, 30.0) == 1
    back = time.monotonic()
    for each in held:
        pool.give(each)

    assert pool.surplus(back + 30.0, 30.0) == 1
    assert sum(pool.lessen(each, 9, only_free=True) for each in shards.values()) == 0


def test_what_is_in_use_is_not_taken_from_a_pool_that_shrinks() -> None:
    pool, shards = pool_of(a=3)
    pool.take(SOON, fails=False)

    assert pool.lessen(shards['a'], 3, only_free=True) == 1
    assert pool.total == 1


def test_what_was_lost_is_tried_again_after_a_pause_and_with_half_as_many() -> None:
    pool, _ = pool_of(a=1)
    pool.most = 5
    pool.miss(4)
    now = time.monotonic()
    assert pool.begin_replacing(now) == 4
    assert pool.begin_replacing(now) == 0

    pool.could_not_replace(4, PoolError('no room'))

    assert pool.begin_replacing(now) == 0
    assert pool.begin_replacing(now + PATIENCE) == 2
    assert pool.replaced(2) == 0
    assert pool.begin_replacing(now) == 2
    pool.miss(-1)
    assert pool.replaced(2) == 1
    assert (pool.missing, pool.begin_replacing(now + PATIENCE)) == (0, 0)


def test_who_waits_for_a_pool_that_lost_all_gets_the_reason_and_the_next_one_has_it_tried_at_once() -> None:
    pool, shards = pool_of(a=1)
    pool.most = 1
    pool.miss(pool.forget_part('a'))
    assert pool.begin_replacing(time.monotonic()) == 1
    errors: list[str] = []

    def wait() -> None:
        try:
            pool.take(Deadline.after(PATIENCE), fails=False)
        except PoolError as error:
            errors.append(str(error))

    for _ in range(2):
        waiting = threading.Thread(target=wait)
        waiting.start()
        pause = threading.Event()
        while not pool.waiting:
            pause.wait(0.001)
        pool.begin_replacing(time.monotonic())
        pool.could_not_replace(1, PoolError('no room'))
        waiting.join(PATIENCE)

    assert errors == ['no room', 'no room']
    pool.set_part(shards['a'], 1)
    assert pool.take(SOON, fails=False) is shards['a']


def test_a_pool_that_was_taken_over_has_its_size_again_after_a_loss_and_keeps_it() -> None:
    pools, a, b = ShardedPools(), shard('a'), shard('b')
    facts = {'size': 2, 'sandbox_type': 'fake', 'config': None}
    for each in (a, b):
        pools.follow(each, {'theirs': facts}, 1.0)
    pool = pools.get('theirs')

    pool.miss(pool.forget_part('a'))
    pool.miss(2)  # counted twice
    assert pool.begin_replacing(time.monotonic()) == 2
    pool.set_part(b, 4)
    assert pool.replaced(2) == 0

    assert pool.begin_replacing(time.monotonic() + PATIENCE) == 0
    assert (pool.total, pool.size) == (4, 4)
    assert pool.surplus(time.monotonic() + PATIENCE, 1.0) == 0
