"""Stopping and continuing all processes of a sandbox at once, by signals (layer 4).

A sandbox without an engine has no freezer: control groups of version 1 need one more hierarchy for that, and where there are
none at all it must work too. So every process below the sandbox's first one is stopped by SIGSTOP, which no process can block,
and none inside can undo it once all of them are stopped. Parents are stopped before their children and continued after them, or
a shell would see its jobs stop. Processes that were stopped before stay so afterwards.

What a program may notice: a handler of SIGCONT is called, and a few waits end early with EINTR, as signal(7) lists them.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from pathlib import Path

from attrs import frozen

from enclave.deadline import Deadline
from enclave.errors import SandboxError, UnsupportedError

FREEZE_SECONDS = 10.0
"""How long a family of processes may take to stop; one that forks while it is stopped is caught up with in milliseconds."""
_STEP_SECONDS = 0.002
_CLEAN_PASSES = 2


@frozen
class _Seen:
    """A process as it was seen, from stat of proc(5)."""

    pid: int
    parent: int
    state: str
    started: str


def stop_all(first: int, sandbox_id: str) -> tuple[tuple[int, str], ...]:
    """Stop a process and all below it, and return them for `continue_all`, parents first.

    Raises:
        UnsupportedError: This process may not see or signal them; nothing is stopped.
        SandboxError: They could not all be stopped in time; all continue.
    """
    deadline, pause = Deadline.after(FREEZE_SECONDS), threading.Event()
    stopped: dict[tuple[int, str], None] = {}
    clean = 0
    try:
        while clean < _CLEAN_PASSES:
            family = _family(first)
            if not family:
                raise UnsupportedError(
                    f'sandbox {sandbox_id} cannot be paused: its processes cannot be seen in /proc of this machine (hidepid?)',
                    details={'sandbox_id': sandbox_id},
                )
            running = [each for each in family if not _is_stopped(each, stopped)]
            for each in running:
                stopped[each.pid, each.started] = None
                _send(each.pid, each.started, signal.SIGSTOP)
                for _ in range(5):  # its children are to stop after it
                    now = _look(each.pid)
                    if now is None or now.started != each.started or _is_stopped(now, stopped):
                        break
                    pause.wait(_STEP_SECONDS)
            clean = 0 if running else clean + 1
            if running and deadline.has_expired():
                raise SandboxError(
                    f'sandbox {sandbox_id} could not be paused: {len(running)} of its processes still ran after '
                    f'{FREEZE_SECONDS:g} s; it continues',
                    details={'sandbox_id': sandbox_id},
                )
            pause.wait(_STEP_SECONDS)
    except PermissionError as error:
        continue_all(tuple(stopped))
        raise UnsupportedError(
            f'sandbox {sandbox_id} cannot be paused: this process may not send signals to what is in it ({error.strerror})',
            details={'sandbox_id': sandbox_id},
        ) from error
    except BaseException:
        continue_all(tuple(stopped))
        raise
    return tuple(stopped)


def continue_all(stopped: tuple[tuple[int, str], ...]) -> None:
    """Let the processes continue that `stop_all` has stopped, children first; those that are gone are passed over."""
    for pid, started in reversed(stopped):
        with contextlib.suppress(PermissionError):
            _send(pid, started, signal.SIGCONT)


def _is_stopped(seen: _Seen, stopped: dict[tuple[int, str], None]) -> bool:
    if seen.state in 'Tt':
        return True
    if seen.state in 'XxZ':  # of one whose first thread has ended, others may run
        return (seen.pid, seen.started) in stopped or not _has_threads(seen.pid)
    # A wait in the kernel that nothing interrupts ends with the stop that was sent, before anything of its own runs.
    return seen.state == 'D' and (seen.pid, seen.started) in stopped


def _has_threads(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return len(os.listdir(f'/proc/{pid}/task')) > 1
    return False


def _family(first: int) -> list[_Seen]:
    """Return a process and all below it, parents first; nothing if it cannot be seen."""
    found: dict[int, _Seen] = {}
    children: dict[int, list[int]] = {}
    for name in os.listdir('/proc'):
        seen = _look(int(name)) if name.isdecimal() else None
        if seen is not None:
            found[seen.pid] = seen
            children.setdefault(seen.parent, []).append(seen.pid)
    family: list[_Seen] = []
    todo = [first] if first in found else []
    while todo:
        pid = todo.pop(0)
        family.append(found[pid])
        todo += children.get(pid, ())
    return family


def _look(pid: int) -> _Seen | None:
    try:
        line = Path(f'/proc/{pid}/stat').read_bytes()
    except OSError:
        return None
    fields = line[line.rfind(b')') + 2 :].split()
    return _Seen(pid, int(fields[1]), fields[0].decode('ascii'), fields[19].decode('ascii'))


def _send(pid: int, started: str, number: int) -> None:
    """Send a signal to a process, and never to another that got its number."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    except (AttributeError, OSError):  # a kernel or a C library without it
        handle = -1
    try:
        now = _look(pid)
        if now is None or now.started != started:
            return
        if handle < 0:
            os.kill(pid, number)
        else:
            signal.pidfd_send_signal(handle, number)
    except ProcessLookupError:
        return
    finally:
        if handle >= 0:
            os.close(handle)
