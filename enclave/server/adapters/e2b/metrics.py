"""What sandboxes use, over time (layer 6).

A sandbox is measured from inside, so that it is the same for every kind. That takes a process in it, so it is done only for those
whose numbers somebody wants: when they are asked for, and from then on every `INTERVAL_SECONDS`, until nobody has asked for
`INTEREST_SECONDS`. What was measured is kept for `KEPT` entries.
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections import deque
from datetime import datetime

from attrs import define, field, frozen

from enclave.enums import SandboxStatus
from enclave.errors import EnclaveError
from enclave.records import utc_now
from enclave.sandboxes.base import USABLE, Sandbox

logger = logging.getLogger(__name__)

INTERVAL_SECONDS = 5.0
INTEREST_SECONDS = 600.0
KEPT = 720
MAX_BYTES = 1 << 20
"""Of what the sandbox prints about itself."""
_USAGE = (
    'cat /sys/fs/cgroup/memory.current /sys/fs/cgroup/memory/memory.usage_in_bytes 2>/dev/null | head -n 1; echo =; '
    'cat /sys/fs/cgroup/cpu.stat 2>/dev/null | sed -n s/usage_usec.//p; echo =; '
    'df -kP . 2>/dev/null | tail -n 1; echo =; '
    'cat /proc/[0-9]*/stat 2>/dev/null; echo =; getconf CLK_TCK PAGESIZE 2>/dev/null'
)


@frozen
class Sample:
    """What a sandbox used at a moment: percent of one CPU since the sample before, and bytes."""

    at: datetime
    cpu_percent: float
    memory: int
    disk_used: int
    disk_total: int


@define(eq=False)
class Samples:
    """What is known of one sandbox. Lives as long as what the adapter remembers of it; any thread may use it."""

    _lock: threading.Lock = field(factory=threading.Lock, init=False, repr=False)  # guards all below
    _found: deque[Sample] = field(factory=lambda: deque(maxlen=KEPT), init=False, repr=False)
    _last: tuple[float, float] | None = field(default=None, init=False)  # when, and CPU seconds until then
    _asked_at: float = field(default=0.0, init=False)
    _is_watched: bool = field(default=False, init=False)
    _closing: threading.Event = field(factory=threading.Event, init=False, repr=False)

    def ask(self, sandbox: Sandbox, since: datetime) -> None:
        """Measure a sandbox now, and for a while from now on.

        Args:
            since: When it was started.
        """
        self._measure(sandbox, since)
        with self._lock:
            self._asked_at = time.monotonic()
            begins, self._is_watched = not self._is_watched and not self._closing.is_set(), True
        if begins:
            threading.Thread(
                target=_watch,
                args=(weakref.ref(self), sandbox, since, self._closing),
                name=f'enclave-e2b-metrics-{sandbox.id}',
                daemon=True,
            ).start()

    def between(self, begin: float | None, end: float | None) -> list[Sample]:
        """Return what was measured in a time, in seconds since 1970, oldest first."""
        with self._lock:
            found = list(self._found)
        low, high = begin or 0.0, float('inf') if end is None else end + 1.0  # whole seconds are said
        return [each for each in found if low <= each.at.timestamp() < high]

    def _measure(self, sandbox: Sandbox, since: datetime) -> None:
        result = sandbox.execute_command(['sh', '-c', _USAGE], 10.0, max_output_bytes=MAX_BYTES)
        memory, cpu_seconds, disk_used, disk_total = _read_usage(result.stdout)
        now, moment = time.monotonic(), utc_now()
        with self._lock:
            age = max(1.0, (moment - since).total_seconds())
            before, self._last = self._last or (now - age, 0.0), (now, cpu_seconds)
            percent = round(max(0.0, 100 * (cpu_seconds - before[1]) / max(0.001, now - before[0])), 2)
            self._found.append(Sample(moment, percent, memory, disk_used, disk_total))

    def _go_on(self, sandbox: Sandbox, since: datetime) -> bool:
        """Measure it if somebody wants that; False when it is over."""
        with self._lock:
            wanted = time.monotonic() - self._asked_at < INTEREST_SECONDS
            if not wanted:
                self._is_watched = False
        if not wanted:
            return False
        status = sandbox.status
        used_at = sandbox.used_at
        try:
            if status in USABLE:
                self._measure(sandbox, since)
                sandbox.used_at = used_at  # looking at it is no use of it, which would keep it from being idle
        except (EnclaveError, TimeoutError) as error:
            logger.debug('sandbox %s could not be measured: %s', sandbox.id, error)
        if sandbox.status in USABLE or sandbox.status is SandboxStatus.PAUSED:
            return True
        with self._lock:
            self._is_watched = False
        return False

    def close(self) -> None:
        """Measure no more."""
        self._closing.set()


def _watch(samples: weakref.ref[Samples], sandbox: Sandbox, since: datetime, closing: threading.Event) -> None:
    """Measure a sandbox every few seconds; runs on a thread of its own, which ends with what remembers the samples."""
    while not closing.wait(INTERVAL_SECONDS):
        found = samples()
        if found is None or not found._go_on(sandbox, since):
            return
        del found


def _read_usage(text: str) -> tuple[int, float, int, int]:
    """Return memory in bytes, CPU seconds, and disk used and total in bytes; what the sandbox does not say is 0.

    The sandbox may say anything: what is no number of at most 18 digits is none.
    """
    parts = [*text.split('=\n'), '', '', '', '', ''][:5]
    units = [number for each in parts[4].split() if (number := _number(each))] or [100, 4096]
    ticks, page = units[0], (units[1] if len(units) > 1 else 4096)
    lines = [line.rpartition(')')[2].split() for line in parts[3].splitlines()]
    rows = [
        numbers
        for line in lines
        if len(line) > 21 and None not in (numbers := [_number(line[at]) for at in (11, 12, 21)])
    ]
    memory, usage = _number(parts[0].strip()), _number(parts[1].strip())
    disk = [_number(each) or 0 for each in parts[2].split()]
    return (
        sum((row[2] or 0) * page for row in rows) if memory is None else memory,
        sum((row[0] or 0) + (row[1] or 0) for row in rows) / ticks if usage is None else usage / 1e6,
        disk[2] << 10 if len(disk) > 3 else 0,
        disk[1] << 10 if len(disk) > 3 else 0,
    )


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 18 else None
