"""Two nodes of Ray on this machine, made once for the tests of a process that need them, and managers on them."""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
from collections.abc import Iterator
from typing import Any

from enclave.managers.base import SandboxManager

os.environ.setdefault('RAY_raylet_start_wait_time_s', '600')  # on a machine with much else to do a node takes its time
STORE_BYTES = 100 << 20
CPUS = 4


@functools.cache
def two_nodes() -> Any:
    """Return the cluster, which this program is connected to from now on."""
    import ray
    from ray.cluster_utils import Cluster

    facts = {'num_cpus': CPUS, 'object_store_memory': STORE_BYTES}
    made = Cluster(initialize_head=True, head_node_args={**facts, 'include_dashboard': False})
    made.add_node(**facts)
    ray.init(address=made.address, namespace='enclave', log_to_driver=False)

    def end() -> None:
        ray.shutdown()
        made.shutdown()

    atexit.register(end)
    return made


@contextlib.contextmanager
def on_ray(**options: Any) -> Iterator[SandboxManager]:
    """A manager whose sandboxes are on the nodes of the cluster."""
    two_nodes()
    from enclave.ray.manager import RaySandboxManager

    with RaySandboxManager(**{'num_cpus': 0.5, 'max_shards': 2, 'idle_shard_timeout': 600.0, **options}) as manager:
        yield manager
