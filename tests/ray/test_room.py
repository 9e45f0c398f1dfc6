"""Shards that are made when all are full, and given back when nobody needs them."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from enclave.errors import OperationTimeoutError, PolicyError
from tests.support.host import wait_until
from tests.support.ray import on_ray, two_nodes

pytestmark = [pytest.mark.ray, pytest.mark.bubblewrap]
PATIENCE = 120.0


def test_a_creation_waits_for_room_first_come_first_served_and_not_for_ever() -> None:
    with on_ray(sandbox_type='bubblewrap', shard_size=1, max_shards=1) as manager:
        held: Any = manager.create_sandbox()
        order: list[int] = []

        def create(number: int) -> None:
            made = manager.create_sandbox()
            order.append(number)
            manager.delete_sandbox(made)

        threads = []
        for number in range(3):
            threads.append(threading.Thread(target=create, args=(number,)))
            threads[-1].start()
            assert wait_until(lambda n=number: manager._shards.counts()['waiting'] == n + 1, PATIENCE)  # type: ignore[attr-defined, misc]
        manager.delete_sandbox(held)
        for each in threads:
            each.join(PATIENCE)

        assert order == [0, 1, 2]


def test_without_room_in_time_it_is_an_error_that_says_how_it_stands() -> None:
    with on_ray(sandbox_type='bubblewrap', shard_size=1, max_shards=1, capacity_timeout=60.0) as manager:
        manager.create_sandbox()
        manager.options = manager.options.model_copy(update={'capacity_timeout': 0.3})  # type: ignore[attr-defined]

        with pytest.raises(OperationTimeoutError, match='1 are full, 0 wait'):
            manager.create_sandbox()


def test_a_cluster_without_the_resources_has_shards_that_wait_for_them_which_its_autoscaler_is_shown() -> None:
    with on_ray(sandbox_type='bubblewrap', resources={'not-there': 1}, capacity_timeout=2.0) as manager:
        with pytest.raises(OperationTimeoutError, match="1 wait for the cluster's resources"):
            manager.create_sandbox()
        assert [each['state'] for each in manager.get_stats()['shards'].values()] == ['pending']
        assert wait_until(lambda: {'not-there': 1.0, 'CPU': 0.5} in _demanded(), PATIENCE)


def _demanded() -> list[dict[str, float]]:
    """Return what Ray shows its autoscaler of actors that wait."""
    from ray.autoscaler.v2.sdk import get_cluster_status

    demands = get_cluster_status(two_nodes().address).resource_demands.ray_task_actor_demand
    return [dict(each.bundle) for demand in demands for each in demand.bundles_by_count]


def test_further_shards_are_made_when_all_are_full_and_given_back_when_empty() -> None:
    options: dict[str, Any] = {'sandbox_type': 'bubblewrap', 'shard_size': 1, 'min_shards': 1, 'max_shards': 2}
    with on_ray(**options, idle_shard_timeout=1.0) as manager:
        made = [manager.create_sandbox(), manager.create_sandbox()]
        assert len(manager.get_stats()['shards']) == 2

        for each in made:
            manager.delete_sandbox(each)

        assert wait_until(lambda: len(manager.get_stats()['shards']) == 1, PATIENCE)
        assert manager.execute_command(manager.create_sandbox(), 'echo again').stdout == 'again\n'


def test_packed_sandboxes_fill_one_shard_after_the_other_and_packed_shards_one_node() -> None:
    with on_ray(sandbox_type='bubblewrap', strategy='pack', shard_size=2, max_shards=2) as manager:
        made = [manager.create_sandbox().rpartition('-')[2] for _ in range(3)]

        assert made[0] == made[1] != made[2]
        assert len({each['node_id'] for each in manager.get_stats()['shards'].values()}) == 1


def test_a_placement_group_says_where_shards_are() -> None:
    import ray

    two_nodes()
    group = ray.util.placement_group([{'CPU': 1}], strategy='STRICT_PACK')
    ray.get(group.ready(), timeout=PATIENCE)
    try:
        with on_ray(sandbox_type='bubblewrap', strategy=group, min_shards=2, num_cpus=0.5) as manager:
            manager.create_sandbox()
            assert wait_until(
                lambda: [each['state'] for each in manager.get_stats()['shards'].values()] == ['up', 'up'], PATIENCE
            )
            assert len({each['node_id'] for each in manager.get_stats()['shards'].values()}) == 1
    finally:
        ray.util.remove_placement_group(group)


def test_the_managers_own_bound_holds_over_all_shards() -> None:
    with on_ray(sandbox_type='bubblewrap', shard_size=1, max_sandboxes=1) as manager:
        manager.create_sandbox()

        with pytest.raises(PolicyError, match='max_sandboxes'):
            manager.create_sandbox()
        with pytest.raises(PolicyError, match='max_sandboxes'):
            manager.initialize_pool(1)
