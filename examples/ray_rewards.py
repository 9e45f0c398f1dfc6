"""Rewards for 2,000 programs, scored on two nodes of a Ray cluster: a pool that spans them, outcomes as they come.

Without RAY_ADDRESS two nodes are simulated on this machine. Needs ``pip install 'ms-enclave[ray]'``, and bubblewrap or Docker on
the nodes. The first argument is the number of programs, if it is to be another.
"""

from __future__ import annotations

import contextlib
import os
import random
import sys
import time
from collections.abc import Iterator

from rich.progress import track

from enclave import RaySandboxManager
from enclave.languages.values import CodeRequest

STORE_BYTES = 100 << 20


@contextlib.contextmanager
def cluster() -> Iterator[str | None]:
    """Give the address of the cluster: that of RAY_ADDRESS, or two nodes on this machine for the block."""
    if os.environ.get('RAY_ADDRESS'):
        yield None
        return
    try:
        import ray
        from ray.cluster_utils import Cluster
    except ImportError as error:
        sys.exit(f"this example needs Ray ({error}); run: pip install 'ms-enclave[ray]'")

    node = {'num_cpus': 2, 'object_store_memory': STORE_BYTES}
    made = Cluster(initialize_head=True, head_node_args={**node, 'include_dashboard': False})
    made.add_node(**node)
    try:
        yield made.address
    finally:
        ray.shutdown()
        made.shutdown()


def answers(count: int) -> Iterator[CodeRequest]:
    """Yield what a model might have answered to "read two numbers and print their sum", some of it wrong."""
    chance = random.Random(7)
    for _ in range(count):
        a, b = chance.randrange(1000), chance.randrange(1000)
        operator = chance.choice('+++-')
        yield CodeRequest(
            code=f'a, b = map(int, input().split())\nprint(a {operator} b)',
            stdin=f'{a} {b}\n',
            expected_output=f'{a + b}\n',
            timeout=60,
        )


def main(count: int) -> None:
    """Score them."""
    with cluster() as address, RaySandboxManager(address=address, shard_size=4, min_shards=2, num_cpus=1) as manager:
        manager.initialize_pool(8)
        begun = time.monotonic()
        rewards = [0.0] * count
        lost = 0
        with manager.run_many(answers(count)) as outcomes:
            for outcome in track(outcomes, total=count, description='Scoring'):
                if outcome.failed:  # the sandbox was lost with its node; it is not run again by itself
                    lost += 1
                else:
                    rewards[outcome.index] = float(outcome.unwrap().verdict == 'accepted')
        seconds = time.monotonic() - begun
        nodes = {shard['node_id'] for shard in manager.get_stats()['shards'].values()}
        print(
            f'{count} programs on {len(nodes)} nodes in {seconds:.1f} s ({count / seconds:.0f} a second): '
            f'mean reward {sum(rewards) / count:.2f}, {lost} lost'
        )


if __name__ == '__main__':
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2000)
