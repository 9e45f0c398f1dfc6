"""Which manager makes anew what a pool has lost (layer 6): of several of one name the one that has the pool's *claim*.

Claims are written down in the head of the cluster, which is one place for all. Who sets a pool's size has its claim from then
on; when that manager lets go, or has given no sign of life for a while, the first one that misses something takes the claim over.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from urllib.parse import quote

from enclave.ray import cluster

SIGN_SECONDS = 5.0
"""How often a manager gives a sign of life."""
SILENT_SECONDS = 30.0
"""How long it may give none until others take its claims over."""


class PoolClaims:
    """The claims of one manager. Lives as long as the manager; any thread may use it.

    Args:
        cluster_name: What the shards are known by.
        manager_id: The manager's own id.
    """

    def __init__(self, cluster_name: str, manager_id: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._cluster = quote(cluster_name, safe='')
        self._manager_id = manager_id
        self._clock = clock
        self._lock = threading.Lock()  # guards all below
        self._signs = 0
        self._sign_at = -SIGN_SECONDS
        self._heard: dict[str, tuple[str, float]] = {}  # the last sign of other managers, and when it was first seen
        self._is_over = False

    def show_life(self) -> None:
        """Give a sign of life, if it is time for one."""
        with self._lock:
            if self._is_over or self._clock() < self._sign_at + SIGN_SECONDS:
                return
            self._sign_at = self._clock()
            self._signs += 1
            sign = str(self._signs)
        cluster.write(self._sign_key(self._manager_id), sign)

    def take(self, pool: str) -> None:
        """Have the claim of a pool from now on, whichever manager had it."""
        self.show_life()
        while self._holder(pool)[1] != self._manager_id:
            self._bid(pool)

    def has(self, pool: str) -> bool:
        """Return whether this manager has the claim of a pool, which it takes over where no other has it any more."""
        generation, holder = self._holder(pool)
        if holder == self._manager_id:
            return True
        if holder is not None and not self._is_silent(holder):
            return False
        self.show_life()
        self._bid(pool, generation)
        return self._holder(pool)[1] == self._manager_id

    def let_go(self) -> None:
        """Leave all claims to others, at once."""
        with self._lock:
            self._is_over = True
        with contextlib.suppress(Exception):  # the cluster may be gone, and then its claims with it
            cluster.erase(self._sign_key(self._manager_id))

    def _sign_key(self, manager_id: str) -> str:
        return f'sign:{self._cluster}:{manager_id}'

    def _claim_prefix(self, pool: str) -> str:
        return f'claim:{self._cluster}:{quote(pool, safe="")}:'

    def _holder(self, pool: str) -> tuple[int, str | None]:
        """Return the number of a pool's last claim, and the manager that has it; 0 and None where there was none."""
        prefix = self._claim_prefix(pool)
        last = max((int(key[len(prefix) :]) for key in cluster.written(prefix)), default=0)
        return last, cluster.read(f'{prefix}{last}') if last else None

    def _bid(self, pool: str, generation: int | None = None) -> None:
        """Write down the next claim of a pool, if no other manager is first."""
        last = self._holder(pool)[0] if generation is None else generation
        prefix = self._claim_prefix(pool)
        if cluster.write(f'{prefix}{last + 1}', self._manager_id, replaces=False) and last:
            cluster.erase(f'{prefix}{last}')

    def _is_silent(self, manager_id: str) -> bool:
        sign, now = cluster.read(self._sign_key(manager_id)), self._clock()
        if sign is None:
            return True
        with self._lock:
            known, since = self._heard.get(manager_id, (None, now))
            if sign != known:
                self._heard[manager_id] = (sign, now)
                return False
        return now - since > SILENT_SECONDS
