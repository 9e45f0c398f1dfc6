"""How shards are asked for, found and given up, with a small fake in the place of Ray."""

from __future__ import annotations

import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from enclave.deadline import Deadline
from enclave.errors import (
    ConfigurationError,
    EngineUnavailableError,
    OperationTimeoutError,
    SandboxGoneError,
    SandboxStartError,
)
from enclave.managers.manager_config import SandboxManagerConfig
from enclave.ray import cluster, shards
from enclave.ray.pools import ShardedPool
from enclave.ray.ray_options import RayOptions
from enclave.ray.shards import ShardRecord, Shards, cluster_name, end_all
from tests.support.host import wait_until

PATIENCE = 120.0


class FakeRay:
    """A cluster whose shards say nothing, until a test says what."""

    def __init__(self) -> None:
        self.is_connected = True
        self.refusal: Exception | None = None
        self.made: list[str] = []
        self.asked: list[tuple[Any, str]] = []
        self.named: list[str] = []
        self.ended: list[Any] = []

    def make_shard(self, *_: Any, name: str, **__: Any) -> str:
        self.made.append(name)
        if self.refusal is not None:
            raise self.refusal
        return name

    def ask(self, handle: Any, method: str, *_: Any) -> object:
        self.asked.append((handle, method))
        return object()


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    made = FakeRay()
    monkeypatch.setattr(cluster, 'is_connected', lambda: made.is_connected)
    monkeypatch.setattr(cluster, 'make_shard', made.make_shard)
    monkeypatch.setattr(cluster, 'ask', made.ask)
    monkeypatch.setattr(cluster, 'done', lambda refs: set())
    monkeypatch.setattr(cluster, 'named_shards', lambda name: list(made.named))
    monkeypatch.setattr(cluster, 'get_shard', lambda name, shard_id: f'found {shard_id}')
    monkeypatch.setattr(cluster, 'end_shard', made.ended.append)
    monkeypatch.setattr(cluster, 'get', lambda ref, timeout=None: None)
    monkeypatch.setattr(cluster, 'is_accident', lambda error: isinstance(error, ConnectionError))
    monkeypatch.setattr(shards, 'ManagerGauges', lambda *_: None)
    return made


class Table(Shards):
    """Shards of a manager that a test plays."""

    def __init__(self, **options: Any) -> None:
        self.lost: list[str] = []
        self.is_awaited = False
        super().__init__(
            'manager',
            SandboxManagerConfig(),
            RayOptions(**options),
            on_report=lambda *_: None,
            on_lost=lambda shard: self.lost.append(shard.id),
            on_tend=lambda: self.is_awaited,
            cancel_later=lambda action: action(),
        )

    def serve(self, shard: ShardRecord) -> None:
        """Have a shard serve."""
        facts = {'url': 'http://127.0.0.1:9', 'key': 'k' * 64, 'tunnel': ('127.0.0.1', 9), 'size': 2, 'used': 0}
        shard.asked = None
        self._open(shard, facts)

    def all(self) -> list[ShardRecord]:
        with self._changed:
            return list(self._shards.values())


@pytest.fixture
def tables() -> Iterator[list[Table]]:
    made: list[Table] = []
    yield made
    for each in made:
        each.close(EngineUnavailableError('the test is over'))


@pytest.mark.parametrize(
    ('refusal', 'expected'),
    [(ConfigurationError('no such'), ConfigurationError), (OSError('no such'), SandboxStartError)],
)
def test_options_that_ray_refuses_are_the_error_of_those_who_wait_and_not_asked_for_again(
    fake: FakeRay, tables: list[Table], refusal: Exception, expected: type[Exception]
) -> None:
    fake.refusal = refusal
    table = Table()
    tables.append(table)
    table.start()

    with pytest.raises(expected, match='no such'):
        table.reserve(1, Deadline.after(PATIENCE))

    assert len(fake.made) == 1


def test_first_shards_that_cannot_be_started_are_asked_for_again_ever_more_rarely(fake: FakeRay) -> None:
    table = Table(min_shards=1)
    table._grow()
    table._fail_pending(table.all()[0], RuntimeError('it has no bubblewrap'))

    table._grow()

    assert len(fake.made) == 1
    table._grow_at = 0.0
    table._grow()
    assert len(fake.made) == 2


def test_a_shard_that_its_node_takes_along_before_it_serves_is_asked_for_again_but_not_for_ever(
    fake: FakeRay, tables: list[Table]
) -> None:
    table = Table()
    tables.append(table)
    errors: list[BaseException] = []

    def wait() -> None:
        try:
            table.reserve(1, Deadline.after(PATIENCE))
        except SandboxStartError as error:
            errors.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    assert wait_until(lambda: table.counts()['waiting'] == 1, PATIENCE)
    for count in range(1, shards.MOST_ACCIDENTS + 2):
        assert not errors
        table._grow()
        assert len(fake.made) == count
        table._fail_pending(table.all()[0], ConnectionError('the node died'))
    waiting.join(PATIENCE)

    assert 'the node died' in str(errors[0])
    assert len(fake.ended) == shards.MOST_ACCIDENTS + 1


def test_first_shards_that_do_not_come_keep_nobody_waiting_for_ever(
    fake: FakeRay, tables: list[Table], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, 'FIRST_SECONDS', 0.05)
    table = Table(min_shards=2)
    tables.append(table)
    table.start()
    first = table.all()[0]
    table.serve(first)

    assert table.reserve(1, Deadline.after(PATIENCE)) == [first]


def test_after_ray_was_shut_down_all_is_lost_and_nothing_is_asked_of_ray(fake: FakeRay, tables: list[Table]) -> None:
    table = Table(max_shards=1)
    tables.append(table)
    table.start()
    errors: list[BaseException] = []

    def wait() -> None:
        try:
            table.reserve(3, Deadline.after(PATIENCE))
        except EngineUnavailableError as error:
            errors.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    assert wait_until(lambda: len(table.all()) == 1, PATIENCE)
    (shard,) = table.all()
    table.serve(shard)
    fake.is_connected = False
    waiting.join(PATIENCE)

    assert 'ray.shutdown' in str(errors[0])
    assert wait_until(lambda: table.lost == [shard.id], PATIENCE)
    with pytest.raises(SandboxGoneError, match='shut down'):
        table.find(shard.id)
    assert table._monitor is not None
    table._monitor.join(PATIENCE)
    assert not table._monitor.is_alive()


def test_nothing_is_asked_of_a_ray_that_was_shut_down_which_would_start_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class ShutDown:
        def is_initialized(self) -> bool:
            return False

    monkeypatch.setattr(cluster, 'load_ray', ShutDown)

    cluster.end_shard(None)
    for call in (
        lambda: cluster.ask(None, 'report'),
        lambda: cluster.get(None),
        lambda: cluster.done([None]),
        lambda: cluster.named_shards('a'),
        lambda: cluster.get_shard('a', 'b'),
        lambda: cluster.make_shard(object, {}, name='a', strategy='spread'),
    ):
        with pytest.raises(EngineUnavailableError, match='not connected'):
            call()


@pytest.mark.parametrize(
    ('options', 'is_ended'),
    [
        ({'name': 'a'}, False),
        ({'name': 'a', 'attach': True}, False),
        ({'name': 'a', 'lifetime': 'detached'}, True),
    ],
)
def test_only_detached_shards_of_others_are_ended(fake: FakeRay, options: dict[str, Any], is_ended: bool) -> None:
    fake.named = ['5a5a5a5a']
    table = Table(**options, idle_shard_timeout=0.05, lost_after=1.0)
    table._discover()
    (shard,) = table.all()
    table.serve(shard)

    table._shrink(time.monotonic() + 60.0)
    assert (('found 5a5a5a5a', 'retire') in fake.asked) is is_ended
    table._give_up_silent(time.monotonic() + 60.0)
    end_all([shard], Deadline.after(PATIENCE))

    assert ('found 5a5a5a5a' in fake.ended) is is_ended


@pytest.mark.parametrize(('limit', 'expected'), [(None, 60.0), (3600.0, 60.0), (30.0, 10.0)])
def test_a_manager_that_has_no_call_on_a_detached_shard_keeps_it_from_ending(
    fake: FakeRay, limit: float | None, expected: float
) -> None:
    fake.named = ['5a5a5a5a']
    table = Table(name='a', attach=True)
    table._discover()
    (shard,) = table.all()
    table.serve(shard)
    shard.facts['unattended_timeout'] = limit

    assert table._interval_locked(shard) == expected


def test_a_cluster_that_refuses_the_program_is_an_error_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    class RefusedError(Exception):
        pass

    class Refuses:
        def is_initialized(self) -> bool:
            return False

        def init(self, **_: Any) -> None:
            raise RefusedError('the token is wrong')

    monkeypatch.setattr(cluster, 'load_ray', Refuses)
    monkeypatch.delenv('RAY_ADDRESS', raising=False)

    with pytest.raises(EngineUnavailableError, match='the token is wrong'):
        cluster.connect('auto')


def test_an_address_where_nobody_listens_is_an_error_and_ray_does_not_look_for_it_for_minutes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cluster, 'LISTENER_SECONDS', 0.05)
    monkeypatch.setattr(cluster, 'load_ray', Unconnected)
    with socket.socket() as bound:  # which does not listen
        bound.bind(('127.0.0.1', 0))
        address = f'127.0.0.1:{bound.getsockname()[1]}'

        with pytest.raises(EngineUnavailableError, match=f"Ray does not answer .'{address}'"):
            cluster.connect(address)
        monkeypatch.setenv('RAY_ADDRESS', address)
        for named in (None, 'auto'):
            with pytest.raises(EngineUnavailableError, match='is the cluster up'):
                cluster.connect(named)


class Unconnected:
    """Ray in a program that is not connected yet, and is not to ask for a cluster."""

    def is_initialized(self) -> bool:
        return False

    def init(self, **_: Any) -> None:
        raise AssertionError('Ray was asked for a cluster')


@pytest.mark.parametrize('strategy', ['pack', 'spread'])
def test_sandboxes_fill_one_shard_after_the_other_or_go_to_the_emptiest(fake: FakeRay, strategy: str) -> None:
    table = Table(strategy=strategy, min_shards=2)
    table._grow()
    for each in table.all():
        table.serve(each)

    taken = [shard.id for _ in range(3) for shard in table.reserve(1, Deadline.after(PATIENCE))]

    assert sorted(Counter(taken).values(), reverse=True) == [2, 1]
    assert (taken[0] == taken[1]) == (strategy == 'pack')


def test_a_manager_that_makes_no_shards_says_that_there_is_none(fake: FakeRay) -> None:
    table = Table(name='rewards', attach=True)

    with pytest.raises(OperationTimeoutError, match=r"no shard of 'rewards' .* attach=True makes none"):
        table.reserve(1, Deadline.after(0.01))


def test_a_pool_does_not_show_what_its_sandboxes_are_given() -> None:
    assert 'secret' not in repr(ShardedPool('p', 'fake', {'env': {'KEY': 'secret'}}))


def test_no_tenant_finds_the_shards_of_another() -> None:
    names = {cluster_name('a', tenant) for tenant in (None, 'b', 'b:c', 'b.c', 'b%2Ec', 'b%3Ac')}

    assert len(names) == 6
    assert not any(':' in each for each in names)


def test_no_more_shards_wait_for_the_cluster_than_may_those_of_the_start_included(fake: FakeRay) -> None:
    table = Table(min_shards=5, max_pending=2)
    table._grow()
    assert len(fake.made) == 2

    table.serve(table.all()[0])
    table._grow()
    assert len(fake.made) == 3
    for _ in range(4):
        for each in table.all():
            if each.state == 'pending':
                table.serve(each)
        table._grow()
    assert len(fake.made) == 5


def test_a_manager_of_others_shards_asks_them_often_while_somebody_waits_for_a_pool(fake: FakeRay) -> None:
    fake.named = ['5a5a5a5a']
    table = Table(name='a', attach=True)
    table._tend()
    (shard,) = table.all()
    table.serve(shard)
    assert table._interval_locked(shard) == 60.0
    assert table._discover_at > time.monotonic() + 2 * shards.DISCOVER_SECONDS

    table.is_awaited = True
    table._tend()

    assert table._interval_locked(shard) == 1.0
    assert table._discover_at <= time.monotonic() + shards.DISCOVER_SECONDS
