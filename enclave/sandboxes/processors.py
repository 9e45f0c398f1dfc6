"""Which processors a call runs on (sandboxes layer).

A CPU limit is a share of time and cannot be seen from inside: ``cpu_limit=1`` on a machine with 64 processors shows all 64,
and numerical libraries start 64 threads that then wait for each other. So a call's processes run on as many processors as
its sandbox's limit amounts to (sched_setaffinity(2)); ``nproc`` and whatever asks for its affinity then sees that number.

Which ones is decided call by call: those on which the fewest calls of this process run at the moment. Sandboxes so spread
over the machine, and one that was on a busy processor is on another with its next call.
"""

from __future__ import annotations

import collections
import math
import random
import threading
import weakref
from collections.abc import Sequence
from typing import Any

_lock = threading.RLock()  # guards _used; reentrant, since the garbage collector may call `Claim.release`
_used: collections.Counter[int] = collections.Counter()  # how many calls run on a processor


def count_for(cpu_limit: float) -> int:
    """Return how many processors a limit amounts to."""
    return max(1, math.ceil(cpu_limit))


class Claim:
    """Processors that a call runs on, from its start to `release`; ``cpus`` is empty where it may run on all."""

    def __init__(self, among: Sequence[int], count: int) -> None:
        self.cpus: list[int] = []
        self._is_held = False
        if 0 < count < len(among):
            with _lock:
                ordered = random.sample(among, len(among))
                ordered.sort(key=_used.__getitem__)
                self.cpus = sorted(ordered[:count])
                self._is_held = True
                _used.update(self.cpus)

    def release(self) -> None:
        """Let go of them. May be called twice."""
        with _lock:
            if self._is_held:
                self._is_held = False
                _used.subtract(self.cpus)

    def release_with(self, holder: Any) -> None:
        """Let go of them at the latest when an object is forgotten."""
        weakref.finalize(holder, self.release).atexit = False

    def __enter__(self) -> Claim:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
