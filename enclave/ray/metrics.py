"""Numbers for Ray's own metrics (layer 6), which its dashboard and Prometheus show."""

from __future__ import annotations

from typing import Any

from enclave.ray.cluster import make_gauge


class ShardGauges:
    """The numbers of one shard. Lives as long as the shard."""

    def __init__(self, cluster: str, shard_id: str) -> None:
        tags = {'cluster': cluster, 'shard': shard_id}
        self._used = make_gauge(
            'enclave_shard_sandboxes', 'Sandboxes of the shard, those promised to pools included.', tags
        )
        self._calls = make_gauge('enclave_shard_active_calls', 'Calls and leases that continue in the shard.', tags)

    def show(self, report: dict[str, Any]) -> None:
        """Take over what a report says."""
        self._used.set(report['used'])
        self._calls.set(report['active_calls'])


class ManagerGauges:
    """The numbers of one manager of shards. Lives as long as the manager."""

    def __init__(self, cluster: str, manager_id: str) -> None:
        tags = {'cluster': cluster, 'manager': manager_id}
        self._up = make_gauge('enclave_shards', 'Shards that serve.', tags)
        self._pending = make_gauge(
            'enclave_shards_pending', "Shards that wait for the cluster's resources, or start.", tags
        )
        self._lost = make_gauge('enclave_shards_lost', 'Shards that were lost so far.', tags)
        self._waiting = make_gauge('enclave_waiting', 'Sandboxes that wait for room.', tags)

    def show(self, *, up: int, pending: int, lost: int, waiting: int) -> None:
        """Take over numbers."""
        self._up.set(up)
        self._pending.set(pending)
        self._lost.set(lost)
        self._waiting.set(waiting)
