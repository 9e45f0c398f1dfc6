"""What measuring needs everywhere: medians and spread, what the machine is and does, memory of processes."""

from __future__ import annotations

import contextlib
import gc
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any


def seconds(action: Callable[[], object]) -> float:
    """Return how long an action takes."""
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return ``{'median', 'low', 'high', 'least', 'count'}``: the quartiles around the median, and the smallest."""
    ordered = sorted(values)
    return {
        'median': statistics.median(ordered),
        'low': percentile(ordered, 0.25),
        'high': percentile(ordered, 0.75),
        'least': ordered[0],
        'count': len(ordered),
    }


def percentile(ordered: Sequence[float], part: float) -> float:
    """Return the value below which this part of sorted values lies."""
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


def ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """Return the median of the ratios round by round, so that a round in which the machine was slow counts like any other."""
    return statistics.median(a / b for a, b in zip(above, below, strict=False))


def machine() -> dict[str, Any]:
    """Describe this machine in what matters here."""
    found: dict[str, Any] = {
        'processors': os.cpu_count(),
        'system': f'{platform.system()} {platform.release().split("-")[0]}',
        'python': sys.version.split()[0],
        'load': os.getloadavg()[0],
    }
    with contextlib.suppress(OSError):
        for line in Path('/proc/meminfo').read_text().splitlines():
            if line.startswith('MemTotal:'):
                found['memory'] = int(line.split()[1]) * 1024
    return found


def own_resident_bytes() -> int:
    """Return this process's resident memory."""
    gc.collect()
    return int(Path('/proc/self/statm').read_text().split()[1]) * resource.getpagesize()


REST_SECONDS = 7.0
"""After this time without a call a sandbox of this library has given up what only makes calls sooner."""


def container_pids(container: str) -> list[int]:
    """Return the processes of a container, given by its id or name, by their control groups."""
    inspect = ['docker', 'inspect', '--format', '{{.Id}}', container]
    container = subprocess.run(inspect, capture_output=True, check=True, text=True).stdout.strip()
    found = []
    for each in Path('/proc').iterdir():
        if each.name.isdigit():
            with contextlib.suppress(OSError):
                if container in (each / 'cgroup').read_text():
                    found.append(int(each.name))
    return found


def descendants(pids: Iterable[int]) -> list[int]:
    """Return these processes and all below them."""
    found, left = [], list(pids)
    while left:
        pid = left.pop()
        found.append(pid)
        with contextlib.suppress(OSError):
            for each in Path(f'/proc/{pid}/task').iterdir():
                left += [int(child) for child in (each / 'children').read_text().split()]
    return found


def proportional_bytes(pids: Iterable[int]) -> int:
    """Return the memory of processes, what they share divided among those that share it (smaps_rollup, PSS)."""
    used = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            for line in Path(f'/proc/{pid}/smaps_rollup').read_text().splitlines():
                if line.startswith('Pss:'):
                    used += int(line.split()[1]) * 1024
    return used
