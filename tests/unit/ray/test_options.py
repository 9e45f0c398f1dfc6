"""What can be said of shards without Ray."""

from __future__ import annotations

import sys
from typing import Any

import pytest

import enclave
from enclave.enums import SandboxManagerType
from enclave.errors import ConfigurationError, InvalidArgumentError, PoolError, UnsupportedError
from enclave.managers.http import HttpSandboxManager
from enclave.managers.manager_config import SandboxManagerConfig
from enclave.managers.manager_factory import SandboxManagerFactory
from enclave.ray import cluster
from enclave.ray.manager import RaySandboxManager
from enclave.ray.ray_options import RayOptions
from enclave.ray.shard import FULL, OwnersPolicy, ShardManager, policy_for
from enclave.ray.shards import ShardRecord
from enclave.server.auth import ApiKey
from enclave.server.serve import SandboxServer
from tests.support.host import wait_until
from tests.support.sandbox import FakeBackend, FakeSandbox


@pytest.fixture(autouse=True)
def _fakes() -> None:
    from enclave.rulings import SHARED
    from enclave.sandboxes.sandbox_factory import SandboxFactory

    made = type('TestSandbox', (FakeSandbox,), {'backend': FakeBackend()})
    SandboxFactory.register_sandbox('fake', made, rulings=SHARED)


@pytest.mark.parametrize(
    'options',
    [
        {'shard_size': 0},
        {'shard_size': True},
        {'num_cpus': -1},
        {'memory': 'much'},
        {'resources': {'a': 'b'}},
        {'strategy': 'everywhere'},
        {'lifetime': 'detached'},
        {'lifetime': 'forever', 'name': 'a'},
        {'attach': True},
        {'name': 'a:b'},
        {'name': '\ud800'},
        {'name': 'a\0b'},
        {'name': 'a' * 201},
        {'num_cpus': 10**400},
        {'resources': {'a': 10**400}},
        {'min_shards': 3, 'max_shards': 2},
        {'lost_after': 0},
        {'shard_sise': 4},
        {'num_cpus': float('nan')},
        {'num_cpus': float('inf')},
        {'resources': {'a': float('nan')}},
        {'resources': {'a': True}},
        {'strategy': 5},
        {'strategy': None},
        {'runtime_env': 'pip'},
        {'lifetime': 'detached', 'name': 'a', 'unattended_timeout': 1.0},
    ],
)
def test_an_impossible_option_is_named(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        RayOptions(**options)

    assert str(caught.value)


def test_options_are_the_same_after_a_round_trip() -> None:
    options = RayOptions(name='a', lifetime='detached', memory='2g', resources={'sandboxes': 1.0}, num_cpus=0.5)

    assert RayOptions(**options.model_dump()) == options
    assert options.actor_options['memory'] == 2 << 30


def test_a_manager_needs_ray_and_says_how_to_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'ray', None)

    with pytest.raises(UnsupportedError, match=r"pip install 'ms-enclave\[ray\]'"):
        SandboxManagerFactory.create_manager('ray')


def test_options_of_shards_and_of_managers_are_distinguished(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, 'load_ray', lambda: None)

    manager = SandboxManagerFactory.create_manager(SandboxManagerType.RAY, {'ttl': 5}, shard_size=3, pool_size=2)

    assert isinstance(manager, RaySandboxManager)
    assert isinstance(manager, enclave.RaySandboxManager)
    assert (manager.options.shard_size, manager.config.pool_size, manager.config.ttl) == (3, 2, 5)
    with pytest.raises(ConfigurationError, match='shard_sice'):
        SandboxManagerFactory.create_manager('ray', shard_sice=3)


class LeasingClient:
    """A shard whose pool always has a sandbox."""

    def acquire_sandbox(self, timeout: float | None, *, pool: str, ttl: float | None) -> str:
        return 'leased-5a5a5a5a'

    def delete_sandbox(self, sandbox_id: str) -> bool:
        return True


@pytest.mark.parametrize('sandbox_id', ['', 5, b'x', ['x'], '\ud800', 'a b', 'x' * 64])
@pytest.mark.parametrize('kind', ['ray', 'http'])
def test_an_id_that_no_sandbox_can_have_is_refused_before_anything_is_made(
    monkeypatch: pytest.MonkeyPatch, kind: str, sandbox_id: Any
) -> None:
    monkeypatch.setattr(cluster, 'load_ray', lambda: None)
    manager = RaySandboxManager() if kind == 'ray' else HttpSandboxManager(base_url='http://127.0.0.1:1')

    with pytest.raises(InvalidArgumentError, match='sandbox_id must be 1 to 63 letters'):
        manager.create_sandbox(sandbox_id=sandbox_id)


def test_a_pool_has_no_name_that_cannot_be_written_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, 'load_ray', lambda: None)

    with pytest.raises(PoolError, match="a pool's name must be a string"):
        RaySandboxManager().initialize_pool(1, name='\ud800')


@pytest.mark.parametrize('ending', ['delete', 'time'])
def test_a_lease_that_ends_by_itself_makes_room_in_its_pool(monkeypatch: pytest.MonkeyPatch, ending: str) -> None:
    monkeypatch.setattr(cluster, 'load_ray', lambda: None)
    manager = RaySandboxManager()
    client: Any = LeasingClient()
    shard = ShardRecord('5a5a5a5a', None, is_own=True, state='up', size=8, client=client)
    manager._shards._shards[shard.id] = shard
    pool, _ = manager._pools.match('p', 'fake', None)
    pool.set_part(shard, 1)

    leased = manager.acquire_sandbox(60.0, ttl=1e-6 if ending == 'time' else None)
    if ending == 'delete':
        manager.delete_sandbox(leased)
    else:
        manager._take_report(shard, {'pools': {}})

    assert manager.acquire_sandbox(60.0) == leased
    assert manager._lease_ends == {}


def test_a_server_refuses_options_of_shards_before_it_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, 'load_ray', lambda: None)

    with pytest.raises(ConfigurationError, match='shard_sice'):
        SandboxServer(manager_type='ray', manager_options={'shard_sice': 3})


@pytest.mark.parametrize('keys', [1, 2])
def test_a_server_of_one_key_starts_its_shards_before_the_first_request(
    monkeypatch: pytest.MonkeyPatch, keys: int
) -> None:
    started: list[RaySandboxManager] = []
    monkeypatch.setattr(cluster, 'load_ray', lambda: None)
    monkeypatch.setattr(RaySandboxManager, 'start', lambda self: started.append(self))
    several = [ApiKey(name=f'key-{n}', key=str(n) * 32) for n in range(keys)]

    with SandboxServer(manager_type='ray', keys=several, stop_grace=0.0).running():
        assert len(started) == (1 if keys == 1 else 0), 'with several each has shards of its own'


def test_an_id_ends_with_that_of_its_shard_and_a_shard_has_room_for_no_more_than_it_says() -> None:
    with ShardManager(SandboxManagerConfig(), shard_id='5a5a5a5a', size=2) as manager:
        first = manager.create_sandbox('fake')
        manager.create_sandbox('fake')
        with pytest.raises(enclave.EnclaveError) as caught:
            manager.create_sandbox('fake')

        assert first.endswith('-5a5a5a5a')
        assert caught.value.details == {'rule': FULL}
        assert manager.report()['used'] == 2


def test_what_a_pool_keeps_takes_room_until_it_is_dropped() -> None:
    with ShardManager(SandboxManagerConfig(), shard_id='5a5a5a5a', size=3) as manager:
        (member, _) = manager.initialize_pool(2, 'fake', name='p')
        manager.note_pool('p', 'fake', None)
        assert member.endswith('-5a5a5a5a')
        assert manager.report()['pools'] == {'p': {'size': 2, 'sandbox_type': 'fake', 'config': None}}
        with pytest.raises(enclave.EnclaveError, match=FULL):
            manager.initialize_pool(4, 'fake', name='p')

        manager.drop_pool('p')

        assert manager.report()['pools'] == {}
        assert len(manager.initialize_pool(3, 'fake', name='q')) == 3


def test_a_part_that_is_made_smaller_loses_what_is_idle_above_its_size() -> None:
    config = SandboxManagerConfig(pool_idle_timeout=0.01)
    with ShardManager(config, shard_id='5a5a5a5a', size=3) as manager:
        manager.initialize_pool(3, 'fake', name='p')

        manager.initialize_pool(1, 'fake', name='p')

        assert wait_until(lambda: len(manager.list_sandboxes()) == 1, 120.0)
        assert manager.report()['used'] == 1


def test_a_part_that_somebody_uses_is_dropped_only_when_that_is_meant() -> None:
    with ShardManager(SandboxManagerConfig(), shard_id='5a5a5a5a', size=3) as manager:
        manager.initialize_pool(1, 'fake', name='p')
        held = manager.acquire_sandbox(60.0, pool='p')

        assert not manager.drop_pool('p', only_unused=True)
        assert list(manager.report()['pools']) == ['p']
        manager.release_sandbox(held)
        assert manager.drop_pool('p', only_unused=True)
        assert manager.report()['pools'] == {}


def test_an_empty_shard_can_be_retired_and_then_takes_nothing() -> None:
    with ShardManager(SandboxManagerConfig(), shard_id='5a5a5a5a', size=2) as manager:
        made = manager.create_sandbox('fake')
        assert not manager.retire()
        manager.delete_sandbox(made)

        assert manager.retire()
        with pytest.raises(enclave.EnclaveError, match=FULL):
            manager.create_sandbox('fake')


def test_a_shard_allows_its_managers_what_they_may_do_at_home() -> None:
    policy = policy_for(8)

    assert isinstance(policy, OwnersPolicy)
    assert policy.max_sandboxes is None
    assert policy.check_sandbox('docker', 'as it is') == 'as it is'
