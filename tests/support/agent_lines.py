"""A plug-in of pytest's that records which lines of the agent run inside its interpreters (see scripts/measure_coverage.py).

    AGENT_LINES=.coverage.agent-lines pytest -p tests.support.agent_lines

The agent is no module of this process: it is sent to an interpreter, mostly inside a sandbox, which has no coverage and no way
to this machine's files. So a few lines are sent along with it: they map a file whose descriptor the interpreter was started
with, close that descriptor, and set a byte for each line that is executed. The map is shared by all that the agent forks, and
what is in it stays however a process ends. Where the descriptor does not arrive, as in a container of an engine, nothing is
recorded; agents of other versions of Python are sent as source, and are not recorded either.
"""

from __future__ import annotations

import functools
import importlib.util
import marshal
import os
import subprocess
from pathlib import Path
from typing import Any

from enclave import agent
from enclave.sandboxes.bubblewrap import launch

DESCRIPTOR = 197
SIZE_BYTES = 1 << 16
"""One byte for each line; more than there are."""

PLACE_IN_PRELUDE = 'exec(code,space)\n'
"""What runs the agent in bubblewrap; the recorder begins before it."""

RECORDER = f"""
def record(space):
    import mmap, os, sys
    try:
        lines = mmap.mmap({DESCRIPTOR}, {SIZE_BYTES})
        os.close({DESCRIPTOR})
    except (OSError, ValueError):
        return
    def on_line(frame, event, argument):
        if event == 'line':
            lines[frame.f_lineno] = 1
        return on_line
    def on_call(frame, event, argument):
        return on_line if frame.f_globals is space else None
    sys.settrace(on_call)
"""


def read_lines(path: Path) -> list[int]:
    """Return the numbers of the lines that were executed."""
    return [number for number, is_executed in enumerate(path.read_bytes()) if is_executed]


def measured_program(program: bytes) -> bytes:
    """Return what `enclave.agent` sends, with the recorder around the compiled code."""
    start = len(importlib.util.MAGIC_NUMBER)
    size = int(program[start : start + 8])
    code, rest = program[start + 8 : start + 8 + size], program[start + 8 + size :]
    text = f'{RECORDER}\nrecord(globals())\nimport marshal\nexec(marshal.loads({code!r}))\n'
    measured = marshal.dumps(compile(text, '<recorder>', 'exec'))
    return program[:start] + b'%08d' % len(measured) + measured + rest


def _open(path: Path) -> None:
    opened = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    os.ftruncate(opened, SIZE_BYTES)
    os.dup2(opened, DESCRIPTOR, inheritable=False)
    os.close(opened)


def _is_open(path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(DESCRIPTOR), path.stat())
    except OSError:
        return False


def _install(path: Path) -> None:
    _open(path)

    program = agent._program
    agent._program = functools.lru_cache(maxsize=1)(lambda: measured_program(program()))  # type: ignore[assignment]
    with_recorder = f'{RECORDER}\nrecord(space)\n{PLACE_IN_PRELUDE}'
    launch._PRELUDE = launch._PRELUDE.replace(PLACE_IN_PRELUDE, with_recorder)

    start = subprocess.Popen.__init__

    @functools.wraps(start)
    def start_with_descriptor(self: Any, args: Any, *rest: Any, **options: Any) -> None:
        if not isinstance(args, str) and {agent._LOADER, launch.LOADER}.intersection(map(str, args)):
            if not _is_open(path):  # a test has closed what it did not open
                _open(path)
            options['pass_fds'] = (*options.get('pass_fds', ()), DESCRIPTOR)
        start(self, args, *rest, **options)

    subprocess.Popen.__init__ = start_with_descriptor  # type: ignore[method-assign]


if 'AGENT_LINES' in os.environ:
    _install(Path(os.environ['AGENT_LINES']))
