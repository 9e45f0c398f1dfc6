"""Two nodes of Ray on this machine, made once for the tests of a process that need them, and managers on them."""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
from collections.abc import Iterator
from typing import Any

from enclave.managers.base import SandboxManager

os.environ.setdefault('RAY_raylet_start_wait_time_s', '120')  # on a machine with much else to do a node takes its time
STORE_BYTES = 100 << 20
CPUS = 4
ATTEMPTS = 4


@functools.cache
def two_nodes() -> Any:
    """Return the cluster, which this program is connected to from now on."""
    import ray
    from ray.cluster_utils import Cluster

    made = _started(Cluster)
    ray.init(address=made.address, namespace='enclave', log_to_driver=False)

    def end() -> None:
        ray.shutdown()
        made.shutdown()

    atexit.register(end)
    return made


def _started(cluster_class: Any) -> Any:
    """Return two nodes. A node whose port another program has just taken does not come, and is tried again."""
    facts = {'num_cpus': CPUS, 'object_store_memory': STORE_BYTES}
    for _ in range(ATTEMPTS):
        made = cluster_class()
        try:
            made.add_node(**facts, include_dashboard=False)
            made.add_node(**facts)
        except Exception as error:
            made.shutdown()
            failure = error
        else:
            return made
    raise failure


@contextlib.contextmanager
def on_ray(**options: Any) -> Iterator[SandboxManager]:
    """A manager whose sandboxes are on the nodes of the cluster."""
    two_nodes()
    from enclave.ray.manager import RaySandboxManager

    with RaySandboxManager(**{'num_cpus': 0.5, 'max_shards': 2, 'idle_shard_timeout': 600.0, **options}) as manager:
        yield manager
