"""Which of several managers of one name makes anew what a pool has lost, with a dict in the place of the cluster's head."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest

from enclave.ray import claims, cluster
from enclave.ray.claims import PoolClaims
from enclave.ray.manager import RaySandboxManager
from tests.support.host import wait_until

PATIENCE = 120.0


class Head:
    """What is written down; ``on_written`` is called after keys were listed, once."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}
        self.on_written: Callable[[], None] | None = None

    def write(self, key: str, value: str, *, replaces: bool = True) -> bool:
        if not replaces and key in self.values:
            return False
        self.values[key] = value
        return True

    def written(self, prefix: str) -> list[str]:
        found = [key for key in self.values if key.startswith(prefix)]
        then, self.on_written = self.on_written, None
        if then is not None:
            then()
        return found


@pytest.fixture
def head(monkeypatch: pytest.MonkeyPatch) -> Head:
    made = Head()
    monkeypatch.setattr(cluster, 'write', made.write)
    monkeypatch.setattr(cluster, 'read', lambda key: made.values.get(key))
    monkeypatch.setattr(cluster, 'written', made.written)
    monkeypatch.setattr(cluster, 'erase', lambda key: made.values.pop(key, None))
    return made


@pytest.fixture
def now() -> list[float]:
    return [1000.0]


@pytest.fixture
def claims_of(head: Head, now: list[float]) -> Callable[[str], PoolClaims]:
    return functools.partial(PoolClaims, 'rewards', clock=lambda: now[0])


def test_the_manager_that_set_a_pools_size_last_has_its_claim(claims_of: Any, head: Head) -> None:
    first, second = claims_of('a'), claims_of('b')
    first.take('scores')
    assert (first.has('scores'), second.has('scores')) == (True, False)

    second.take('scores')

    assert (first.has('scores'), second.has('scores')) == (False, True)
    assert second.has('others'), 'nobody had it'
    assert not first.has('others')
    assert len([key for key in head.values if key.startswith('claim:')]) == 2, 'old claims are erased'


def test_claims_of_a_manager_that_lets_go_are_taken_over_at_once(claims_of: Any) -> None:
    first, second = claims_of('a'), claims_of('b')
    first.take('scores')

    first.let_go()

    assert second.has('scores')
    assert not first.has('scores')


def test_claims_of_a_manager_that_gives_no_sign_are_taken_over_after_a_while(claims_of: Any, now: list[float]) -> None:
    alive, dead, other = claims_of('a'), claims_of('b'), claims_of('c')
    alive.take('one')
    dead.take('two')

    for _ in range(20):
        assert not other.has('one')
        assert not other.has('two') or now[0] > 1000.0 + claims.SILENT_SECONDS
        now[0] += claims.SIGN_SECONDS
        alive.show_life()

    assert not other.has('one')
    assert other.has('two')


def test_of_two_that_take_over_a_claim_at_once_one_has_it(claims_of: Any, head: Head) -> None:
    gone, second, third = claims_of('a'), claims_of('b'), claims_of('c')
    gone.take('scores')
    gone.let_go()
    found: list[bool] = []
    head.on_written = lambda: found.append(third.has('scores'))  # while the second one is about to take it over

    found.append(second.has('scores'))

    assert found == [True, False]


def test_names_do_not_run_into_each_other(head: Head) -> None:
    PoolClaims('a:b', 'm').take('c')

    assert PoolClaims('a', 'n').has('b:c')
    assert PoolClaims('a:b', 'm').has('c')


def test_only_the_manager_with_the_claim_makes_a_lost_part_anew(head: Head, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, 'load_ray', lambda: None)
    placed: list[str] = []
    managers = [RaySandboxManager(name='shared', sandbox_type='fake') for _ in range(2)]
    pools = []
    for manager in managers:
        pool, _ = manager._pools.match('p', 'fake', None)
        pool.size = pool.most = 4
        pool.miss(2)
        pools.append(pool)
        monkeypatch.setattr(manager, '_place', lambda *_, name=manager.id: placed.append(name))
    owner, other = managers
    assert owner._claims is not None
    owner._claims.take('p')

    other._tend_pools()
    assert wait_until(lambda: pools[1]._left_until > 0, PATIENCE)
    assert (placed, pools[1].missing) == ([], 2)
    owner._tend_pools()
    assert wait_until(lambda: pools[0].missing == 0, PATIENCE)
    assert placed == [owner.id]

    owner.stop()
    pools[1]._left_until = 0.0
    other._tend_pools()

    assert wait_until(lambda: pools[1].missing == 0, PATIENCE)
    assert placed == [owner.id, other.id]
    other.stop()
