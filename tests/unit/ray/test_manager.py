"""What a manager does with shards that a test plays: their clients are small fakes, and there is no Ray."""

from __future__ import annotations

from typing import Any

import pytest

from enclave.deadline import Deadline, check_timeout
from enclave.errors import EnclaveError, OperationTimeoutError, SandboxGoneError, SandboxNotFoundError
from enclave.ray import cluster
from enclave.ray.manager import RaySandboxManager
from enclave.ray.shards import ShardRecord
from tests.support.host import wait_until

PATIENCE = 120.0


class Client:
    """A shard with the sandboxes that a test says, and parts of pools."""

    def __init__(self, shard_id: str) -> None:
        self.shard_id = shard_id
        self.ids: set[str] = set()
        self.sizes: dict[str, int] = {}
        self.asked: list[str] = []

    def get_sandbox_info(self, sandbox_id: str) -> str:
        self.asked.append(sandbox_id)
        if sandbox_id not in self.ids:
            raise SandboxNotFoundError(f'no sandbox has the id {sandbox_id!r}')
        return f'{sandbox_id} on {self.shard_id}'

    def stop_sandbox(self, sandbox_id: str) -> bool:
        self.get_sandbox_info(sandbox_id)
        return True

    def initialize_pool(self, size: int, *_: Any, name: str) -> None:
        self.sizes[name] = size

    def list_sandboxes(self) -> list[Any]:
        return []

    def acquire_sandbox(self, *_: Any, **__: Any) -> str:
        return f'leased-{self.shard_id}'

    def release_sandbox(self, sandbox_id: str) -> None:
        pass


class Cluster:
    """A manager with shards; ``refuses_drop`` are those where another manager uses the pool."""

    def __init__(self, **options: Any) -> None:
        self.manager = RaySandboxManager(**options)
        self.manager._state = 'running'
        self.refuses_drop = False
        self.clients: dict[str, Client] = {}

    def add(self, shard_id: str, size: int = 8) -> ShardRecord:
        client: Any = Client(shard_id)
        self.clients[shard_id] = client
        shard = ShardRecord(shard_id, client, is_own=True, state='up', size=size, client=client)
        self.manager._shards._shards[shard_id] = shard
        with self.manager._shards._changed:
            self.manager._shards._assign_locked()
        return shard

    def ask(self, handle: Client, method: str, *arguments: Any) -> Any:
        if method != 'drop_pool':
            return None
        if self.refuses_drop:
            return False
        handle.sizes.pop(arguments[0], None)
        return True

    def lose(self, shard: ShardRecord) -> None:
        self.manager._shards._shards.pop(shard.id)
        shard.state, shard.loss = 'lost', SandboxGoneError(f'shard {shard.id} is gone')
        self.manager._shards._losses[shard.id] = shard.loss
        self.manager._replace_lost(shard)


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(cluster, 'load_ray', lambda: None)
    monkeypatch.setattr(cluster, 'get', lambda ref, timeout=None: ref)

    def made(**options: Any) -> Cluster:
        found = Cluster(**options)
        monkeypatch.setattr(cluster, 'ask', found.ask)
        return found

    return made


def test_a_pool_that_grew_has_its_size_again_when_the_rest_was_idle_for_long(make: Any) -> None:
    played = make(pool_when_empty='grow', pool_idle_timeout=1e-6)
    manager = played.manager
    shard = played.add('5a5a5a5a')
    manager.initialize_pool(1, 'fake', name='p')
    pool = manager._pools.get('p')
    held = [manager.acquire_sandbox(PATIENCE) for _ in range(2)]
    assert wait_until(lambda: pool.total == 2 and not pool.is_changing, PATIENCE)
    manager._tend_pools()
    assert pool.total == 2

    pool.give(shard)
    pool.give(shard)

    def is_small() -> bool:
        manager._tend_pools()
        return pool.total == 1 and not pool.is_changing

    assert wait_until(is_small, PATIENCE)
    assert (len(held), pool.total, played.clients['5a5a5a5a'].sizes, shard.used) == (2, 1, {'p': 1}, 1)


def test_a_pool_without_a_time_for_the_idle_does_not_shrink(make: Any) -> None:
    played = make(pool_when_empty='grow', pool_idle_timeout=None)
    pool, _ = played.manager._pools.match('p', 'fake', None)
    pool.set_part(played.add('5a5a5a5a'), 3)
    pool.size = 1

    played.manager._tend_pools()

    assert not pool.is_changing
    assert pool.total == 3


def test_a_part_that_another_manager_uses_stays(make: Any) -> None:
    played = make(pool_when_empty='grow', pool_idle_timeout=1e-6)
    pool, _ = played.manager._pools.match('p', 'fake', None)
    for name, size in (('5a5a5a5a', 1), ('6b6b6b6b', 2)):
        pool.set_part(played.add(name), size)
    pool.size, played.refuses_drop = 2, True

    played.manager._shrink(pool, 1)

    assert {name: size for name, (_, size) in pool.parts().items()} == {'5a5a5a5a': 1, '6b6b6b6b': 1}


def test_what_was_lost_is_made_anew_as_soon_as_there_is_room_however_late(make: Any) -> None:
    played = make(capacity_timeout=0.05)
    manager = played.manager
    lost = played.add('5a5a5a5a')
    manager.initialize_pool(3, 'fake', name='p')
    pool = manager._pools.get('p')

    played.lose(lost)
    assert wait_until(lambda: pool._failures == 1, PATIENCE)
    assert (pool.total, pool.missing) == (0, 3)
    assert manager._pools.all() == [pool]
    played.add('6b6b6b6b', size=2)

    def is_made(count: int) -> bool:
        manager._tend_pools()
        return pool.total == count

    assert wait_until(lambda: is_made(2), PATIENCE)
    assert wait_until(lambda: pool.missing == 1, PATIENCE)
    played.add('7c7c7c7c')
    assert wait_until(lambda: is_made(3), PATIENCE)
    assert wait_until(lambda: pool.missing == 0, PATIENCE)
    assert sum(each.sizes.get('p', 0) for name, each in played.clients.items() if name != lost.id) == 3


def test_a_pool_that_is_given_another_size_misses_nothing_any_more(make: Any) -> None:
    played = make(capacity_timeout=0.05)
    lost = played.add('5a5a5a5a')
    played.manager.initialize_pool(3, 'fake', name='p')
    pool = played.manager._pools.get('p')
    played.lose(lost)
    assert wait_until(lambda: pool._failures == 1, PATIENCE)
    with pytest.raises(OperationTimeoutError):
        played.manager.initialize_pool(2, 'fake', name='p')
    assert (pool.missing, pool.size) == (3, 3)
    played.add('6b6b6b6b')

    played.manager.initialize_pool(2, 'fake', name='p')

    assert (pool.missing, pool.total, pool.size) == (0, 2, 2)


@pytest.mark.parametrize('use', ['a lease', 'a program'])
def test_a_place_that_is_had_when_no_time_is_left_is_asked_for_with_a_limit(
    make: Any, monkeypatch: pytest.MonkeyPatch, use: str
) -> None:
    found, given = make(), []
    found.add('one')
    found.manager.initialize_pool(1, 'bubblewrap')
    client: Any = found.clients['one']
    monkeypatch.setattr(Deadline, 'remaining', lambda self: None if self.at is None else 0.0)
    client._run_in_batch = lambda request, timeout, pool: given.append(timeout)
    client.acquire_sandbox = lambda timeout, **_: given.append(timeout) or 'leased'

    if use == 'a lease':
        found.manager.acquire_sandbox(60.0)
    else:
        found.manager._run_in_batch(None, 60.0, None)

    assert check_timeout(given[0]) is not None


@pytest.mark.parametrize('named', ['up', 'lost'])
def test_a_name_that_ends_like_the_id_of_another_shard_is_found(make: Any, named: str) -> None:
    played = make()
    first = played.add('5a5a5a5a')
    played.add('6b6b6b6b')
    played.clients['6b6b6b6b'].ids.add('x-5a5a5a5a')
    if named == 'lost':
        played.lose(first)

    assert played.manager.get_sandbox_info('x-5a5a5a5a') == 'x-5a5a5a5a on 6b6b6b6b'
    assert played.manager.stop_sandbox('x-5a5a5a5a')


def test_a_sandbox_that_no_shard_knows_is_not_found_and_one_whose_shard_was_lost_is_gone(make: Any) -> None:
    played = make()
    played.add('5a5a5a5a')
    lost = played.add('6b6b6b6b')

    with pytest.raises(SandboxNotFoundError):
        played.manager.get_sandbox_info('x-5a5a5a5a')
    played.lose(lost)
    with pytest.raises(SandboxGoneError):
        played.manager.get_sandbox_info('x-6b6b6b6b')


def test_a_shard_that_is_lost_while_it_is_asked_for_a_sandbox_does_not_hide_that_of_another(make: Any) -> None:
    class Dying(Client):
        def get_sandbox_info(self, sandbox_id: str) -> str:
            raise SandboxGoneError('the shard is gone')

    played = make()
    dying: Any = Dying('5a5a5a5a')
    played.add('5a5a5a5a').client = dying
    played.add('6b6b6b6b')
    played.clients['6b6b6b6b'].ids.add('x-5a5a5a5a')

    assert played.manager.get_sandbox_info('x-5a5a5a5a').endswith('6b6b6b6b')
    with pytest.raises(SandboxGoneError):
        played.manager.get_sandbox_info('y-5a5a5a5a')


def test_where_a_sandbox_is_is_confirmed_once(make: Any) -> None:
    played = make()
    played.add('5a5a5a5a')
    client = played.clients['5a5a5a5a']
    client.ids.add('x-5a5a5a5a')

    for _ in range(3):
        played.manager.get_sandbox_info('x-5a5a5a5a')

    assert len(client.asked) == 4


@pytest.mark.parametrize('name', ['config', 'self'])
def test_a_server_names_what_is_no_option_of_shards(make: Any, name: str) -> None:
    from enclave.server.serve import SandboxServer

    with pytest.raises(EnclaveError, match=f"no option '{name}'"):
        SandboxServer(manager_type='ray', manager_options={name: 1})


@pytest.mark.parametrize('line', ['config = 1', 'manager_type = "ray"', 'self = 1', 'shard_sise = 2'])
@pytest.mark.parametrize('more', [[], ['--pool-size', '1']])
def test_a_file_of_options_that_has_another_key_is_an_error_that_names_it(
    make: Any, tmp_path: Any, line: str, more: list[str]
) -> None:
    from click.testing import CliRunner

    from enclave.cli.main import cli

    file = tmp_path / 'shards.toml'
    file.write_text(line)

    result = CliRunner().invoke(cli, ['server', '--manager', 'ray', '--ray-options', str(file), *more])

    assert result.exit_code != 0
    assert f'no option {line.split()[0]!r}' in result.output + str(result.exception)
    assert not isinstance(result.exception, TypeError)
