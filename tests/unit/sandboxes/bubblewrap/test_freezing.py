"""Stopping a whole family of processes by signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from enclave.errors import UnsupportedError
from enclave.sandboxes.bubblewrap.freezing import continue_all, stop_all

pytestmark = pytest.mark.skipif(sys.platform != 'linux', reason='it is about /proc')
FORKER = """
import os, signal, sys
signal.signal(signal.SIGCONT, lambda *_: print('continued', flush=True))
stopped = os.fork()
if not stopped:
    os.kill(os.getpid(), signal.SIGSTOP)
    os._exit(0)
os.waitpid(stopped, os.WUNTRACED)
print(stopped, flush=True)
while True:
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
"""


def state(pid: int) -> str:
    with open(f'/proc/{pid}/stat') as file:
        return file.read().rpartition(')')[2].split()[0]


@pytest.fixture
def forker() -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A program that forks without end, and the child of it that was stopped before."""
    with subprocess.Popen([sys.executable, '-c', FORKER], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        stopped = int(process.stdout.readline())
        try:
            yield process, stopped
        finally:
            os.kill(process.pid, signal.SIGSTOP)  # so that it forks no more
            os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
            # The child of that moment may have been stopped with it, and would stay so.
            family = Path(f'/proc/{process.pid}/task/{process.pid}/children').read_text().split()
            for pid in (*map(int, family), process.pid):
                os.kill(pid, signal.SIGKILL)


def test_a_family_that_forks_without_end_stops(forker: tuple[subprocess.Popen[str], int]) -> None:
    process, _ = forker

    stop_all(process.pid, 'test')

    assert state(process.pid) == 'T'


def test_what_was_stopped_before_stays_so(forker: tuple[subprocess.Popen[str], int]) -> None:
    process, stopped = forker

    continue_all(stop_all(process.pid, 'test'))

    assert process.stdout is not None
    assert process.stdout.readline() == 'continued\n'
    assert state(stopped) == 'T'


def test_what_cannot_be_seen_is_refused_with_a_reason() -> None:
    never = int(Path('/proc/sys/kernel/pid_max').read_text())  # process ids are smaller

    with pytest.raises(UnsupportedError, match='cannot be seen'):
        stop_all(never, 'test')
