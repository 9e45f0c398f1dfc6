"""How the parts of a pool are given out."""

from __future__ import annotations

import threading

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

    pools.adopt(shard('a'), 'theirs', facts)
    pools.adopt(shard('b'), 'theirs', facts)
    pools.adopt(shard('b'), 'theirs', {**facts, 'size': 9})

    pool = pools.get(None)
    assert (pool.name, pool.sandbox_type, pool.config, pool.size) == ('theirs', 'fake', {'ttl': 1}, 4)
    assert pool.take(SOON, fails=False).id in 'ab'
