"""The actor (layer 6): sandboxes of one node, and a server of them for the managers of the cluster.

It lives in a process of Ray's. What it owns ends with it however it ends: bubblewrap's sandboxes die with their parent, an
agent in a container leaves when its stream closes. Ray's calls are for what concerns the shard as a whole: where it serves, how
it is, its end.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

from enclave.enums import SandboxType
from enclave.errors import PolicyError
from enclave.managers.base import Config
from enclave.managers.local import LocalSandboxManager
from enclave.managers.manager_config import SandboxManagerConfig
from enclave.managers.options import Lifetime
from enclave.managers.table import SandboxTable
from enclave.ray import cluster
from enclave.ray.metrics import ShardGauges
from enclave.ray.tunnel import TunnelServer
from enclave.sandboxes.base import Sandbox, make_sandbox_id
from enclave.server.policy import Policy
from enclave.server.serve import SandboxServer

logger = logging.getLogger(__name__)

FULL = 'shard_size'
"""The rule of the `PolicyError` of a shard that has no room."""
TEND_SECONDS = 2.0
LEAST_CALLS = 128
MOST_CALLS = 1024
_NO_BOUND = 1 << 50


class OwnersPolicy(Policy):
    """The policy of a shard: its clients are managers of the cluster's owner, who may do what they may do at home."""

    def check_sandbox(self, kind: str, config: Any, **own: str | None) -> Any:
        """Allow it."""
        return config

    def check_options(self, kind: str, options: Mapping[str, Any]) -> None:
        """Allow them."""

    def check_tool_options(self, name: str, options: Mapping[str, Any]) -> None:
        """Allow them."""


def policy_for(size: int) -> Policy:
    """Return the policy of a shard of so many sandboxes."""
    calls = min(MOST_CALLS, max(LEAST_CALLS, 4 * size))
    return OwnersPolicy(
        allow_pull=True,
        max_output_bytes=None,
        max_output_memory=_NO_BOUND,
        max_display_bytes=None,
        max_file_bytes=None,
        max_entries=_NO_BOUND,
        max_config_bytes=16 << 20,
        max_lease=None,
        max_sandboxes=None,
        max_concurrent_calls=calls,
        max_streams=calls,
        max_waiting=8192,
        max_processes=64 * size,
        max_json_bytes=256 << 20,
        max_json_values=10_000_000,
        max_upload_bytes=_NO_BOUND,
        max_connections=10_000,
        min_upload_rate=0.0,
        send_timeout=3600.0,
        min_download_rate=0.0,
        sandbox_types=('*',),
    )


class _ShardTable(SandboxTable):
    """A table whose sandboxes have the shard in their ids."""

    shard_id = ''

    def make(self, kind: str, config: Any, sandbox_id: str | None) -> Sandbox:
        return super().make(kind, config, sandbox_id or f'{make_sandbox_id()}-{self.shard_id}')


class ShardManager(LocalSandboxManager):
    """The sandboxes of a shard, which are never more than it has room for.

    Args:
        size: How many there may be, those that its pools keep included.
    """

    _table_class = _ShardTable

    def __init__(self, config: SandboxManagerConfig, *, shard_id: str, size: int) -> None:
        super().__init__(config)
        assert isinstance(self._table, _ShardTable)
        self._table.shard_id = shard_id
        self.size = size
        self._room_lock = threading.Lock()  # guards the three below
        self._coming = 0
        self._is_closed = False
        self._pool_templates: dict[str, dict[str, Any]] = {}

    def used(self) -> int:
        """Return how many sandboxes there are, or are promised to pools."""
        pools = self._table.pools()
        records = self._table.records()
        lonely = sum(1 for each in records if each.pool is None and each.started.done())
        return lonely + sum(pool.min_size for pool in pools.values())

    @contextlib.contextmanager
    def _reserved(self, count: int) -> Iterator[None]:
        with self._room_lock:
            if self._is_closed or self.used() + self._coming + count > self.size:
                raise PolicyError(
                    f'this shard has room for {self.size} sandboxes and none left for {count} more (rule {FULL})',
                    details={'rule': FULL},
                )
            self._coming += count
        try:
            yield
        finally:
            with self._room_lock:
                self._coming -= count

    def create_sandbox(
        self,
        sandbox_type: SandboxType | str | None = None,
        config: Config = None,
        sandbox_id: str | None = None,
        *,
        ttl: Lifetime = 'default',
        idle_timeout: Lifetime = 'default',
        labels: Mapping[str, str] | None = None,
    ) -> str:
        """Make and start a sandbox, if there is room; see `SandboxManager.create_sandbox`."""
        with self._reserved(1):
            return super().create_sandbox(
                sandbox_type, config, sandbox_id, ttl=ttl, idle_timeout=idle_timeout, labels=labels
            )

    def initialize_pool(
        self,
        pool_size: int | None = None,
        sandbox_type: SandboxType | str | None = None,
        config: Config = None,
        *,
        name: str | None = None,
    ) -> list[str]:
        """Make or resize the shard's part of a pool, if there is room; see `SandboxManager.initialize_pool`."""
        pool = None if name is None else self._table.pools().get(name)
        more = max(0, (pool_size or 0) - (0 if pool is None else pool.min_size))
        with self._reserved(more):
            return super().initialize_pool(pool_size, sandbox_type, config, name=name)

    def note_pool(self, name: str, sandbox_type: str | None, config: dict[str, Any] | None) -> None:
        """Remember what a pool is made of, as a manager asked for it, for the next manager that takes it over."""
        self._pool_templates[name] = {'sandbox_type': sandbox_type, 'config': config}

    def drop_pool(self, name: str, only_unused: bool = False) -> bool:
        """Dissolve the shard's part of a pool; its sandboxes go. Returns whether it was.

        Args:
            only_unused: Not while somebody has or wants a sandbox of it.
        """
        known = self._table.pools().get(name)
        if only_unused and known is not None and known.unused_since is None:
            return False
        pool = self._table.remove_pool(name)
        if pool is not None:
            for record in self._table.records():
                if record.pool is pool:
                    self._table.end(record)
        return True

    def retire(self) -> bool:
        """Take no more sandboxes, unless there are some; return whether there are none."""
        with self._room_lock:
            if self._coming or self._table.records() or self._table.pools():
                return False
            self._is_closed = True
            return True

    def report(self) -> dict[str, Any]:
        """Return how full it is: ``{'used', 'active_calls', 'pools': {name: {'size', 'sandbox_type', 'config'}}}``."""
        pools = {
            name: {'size': pool.min_size, **self._pool_templates.get(name, {})}
            for name, pool in self._table.pools().items()
        }
        with self._room_lock:
            used = self.used() + self._coming
        return {'used': used, 'active_calls': self._table.active_calls, 'pools': pools}


class Shard:
    """See the module. Its methods are what Ray calls.

    Args:
        spec: ``{'cluster', 'shard_id', 'key', 'size', 'config': options of the manager, 'unattended_timeout': seconds or
            None}``.
    """

    def __init__(self, spec: dict[str, Any]) -> None:
        self._spec = spec
        self._address, self._node_id = cluster.own_address()
        self._manager = ShardManager(
            SandboxManagerConfig(**spec['config']), shard_id=spec['shard_id'], size=spec['size']
        )
        self._server = SandboxServer(
            manager=self._manager, policy=policy_for(spec['size']), api_key=spec['key'], stop_grace=0.0
        )
        self._url = self._server.start(self._address, 0)
        self._tunnel = TunnelServer(self._manager, self._address, spec['key'])
        self._manager.start()
        self._gauges = ShardGauges(spec['cluster'], spec['shard_id'])
        self._asked_at = (
            time.monotonic()
        )  # when a manager last asked for a report; a single write or read needs no lock
        self._stopping = threading.Event()
        self._tender = threading.Thread(target=self._tend, name=f'enclave-shard-{spec["shard_id"]}', daemon=True)
        self._tender.start()

    def describe(self) -> dict[str, Any]:
        """Return where it serves and what it is."""
        self._asked_at = time.monotonic()
        return {
            'url': self._url,
            'key': self._spec['key'],
            'size': self._spec['size'],
            'tunnel': self._tunnel.address,
            'node_id': self._node_id,
            'address': self._address,
            'pid': os.getpid(),
            'unattended_timeout': self._spec['unattended_timeout'],
            **self._manager.report(),
        }

    def report(self) -> dict[str, Any]:
        """Return how full it is; see `ShardManager.report`."""
        self._asked_at = time.monotonic()
        return self._manager.report()

    def note_pool(self, name: str, sandbox_type: str | None, config: dict[str, Any] | None) -> None:
        """Remember what a pool is made of."""
        self._manager.note_pool(name, sandbox_type, config)

    def drop_pool(self, name: str, only_unused: bool = False) -> bool:
        """Dissolve its part of a pool; see `ShardManager.drop_pool`."""
        return self._manager.drop_pool(name, only_unused)

    def retire(self) -> bool:
        """Take no more sandboxes, unless there are some; return whether there are none."""
        return self._manager.retire()

    def stop(self) -> None:
        """Take everything away and serve no more."""
        self._stopping.set()
        self._tunnel.close()
        self._server.stop()

    def _tend(self) -> None:
        """Show how it is, and end a detached shard that no manager has asked for too long. Runs on a thread of its own."""
        limit = self._spec['unattended_timeout']
        while not self._stopping.wait(TEND_SECONDS):
            try:
                self._gauges.show(self._manager.report())
            except Exception:
                logger.debug('the metrics of the shard could not be shown', exc_info=True)
            if limit is not None and time.monotonic() - self._asked_at > limit:
                logger.info('shard %s ends: no manager has asked for it for %g s', self._spec['shard_id'], limit)
                with contextlib.suppress(Exception):
                    self.stop()
                os._exit(0)  # there is no other way for an actor to end from a thread of its own
