"""Who made a sandbox (layer 4): facts put on it as labels, so that a later run can say whether its owner still lives.

The host's boot id and the process's start time make a process id unambiguous: ids are used again, moments are not.
Source: proc(5), ``/proc/pid/stat`` field 22 and ``/proc/sys/kernel/random/boot_id``.
"""

from __future__ import annotations

import os
import platform
import threading
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from attrs import frozen

LABEL_HOST = 'enclave.owner.host'
LABEL_PID = 'enclave.owner.pid'
LABEL_STARTED = 'enclave.owner.started'


@frozen(kw_only=True)
class OwnerProcess:
    """A process: ``host`` distinguishes machines and their boots, ``started`` is in clock ticks since boot ('' if unknown)."""

    host: str
    pid: int
    started: str

    def labels(self) -> dict[str, str]:
        """Return it as labels."""
        return {LABEL_HOST: self.host, LABEL_PID: str(self.pid), LABEL_STARTED: self.started}

    @classmethod
    def from_labels(cls, labels: Mapping[str, str]) -> OwnerProcess | None:
        """Return the owner that labels report, or None."""
        host, pid = labels.get(LABEL_HOST), labels.get(LABEL_PID, '')
        return cls(host=host, pid=int(pid), started=labels.get(LABEL_STARTED, '')) if host and pid.isdigit() else None

    def is_provably_dead(self) -> bool:
        """Return whether the process is certainly gone: it was on this very host and boot, and is there no more."""
        if self.host != _host() or not self.started:
            return False
        return read_start_time(self.pid) != self.started


def current_owner() -> OwnerProcess:
    """Return this process as an owner."""
    return _owner(os.getpid())  # a forked child is another


@lru_cache(maxsize=1)
def _owner(pid: int) -> OwnerProcess:
    return OwnerProcess(host=_host(), pid=pid, started=read_start_time(pid))


@lru_cache(maxsize=1)
def _host() -> str:
    try:
        boot = Path('/proc/sys/kernel/random/boot_id').read_text().strip()
        # A process id means something only within its namespace.
        space = os.readlink('/proc/self/ns/pid')
    except OSError:
        boot, space = '', ''
    return f'{platform.node()}/{boot}/{space}'


def is_stopped(pid: int) -> bool | None:
    """Return whether a process is kept from running: stopped by a signal, or its control group frozen; None where it is gone.

    One that has something to do and only waits for a processor is runnable (R in proc(5), /proc/pid/stat); so is one that runs.
    It must have something to do, or it sleeps like one that is frozen. It is looked at several times, since it may wait for
    the kernel at one moment.
    """
    pause = threading.Event()
    for _ in range(5):
        try:
            line = Path(f'/proc/{pid}/stat').read_bytes()
        except OSError:
            return None
        if line[line.rfind(b')') + 2 :][:1] == b'R':
            return False
        pause.wait(0.01)
    return True


def read_start_time(pid: int) -> str:
    """Return when a process started, in clock ticks since boot; '' if there is no such process, or no way to report."""
    try:
        line = Path(f'/proc/{pid}/stat').read_bytes()
    except OSError:
        return ''
    fields = line[line.rfind(b')') + 2 :].split()
    return '' if fields[0] in (b'Z', b'X') else fields[19].decode('ascii')
