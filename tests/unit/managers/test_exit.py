"""How programs end that use a manager: each is a process of its own, over fake sandboxes that report their end on stdout."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PATIENCE = 120.0

PRELUDE = """
import atexit, os, signal, sys, threading
from enclave.managers.local import LocalSandboxManager
from enclave.sandboxes.sandbox_factory import SandboxFactory
from tests.support.sandbox import FakeBackend, FakeSandbox

class Reporting(FakeSandbox):
    backend = FakeBackend()
    def _stop(self, *, keep):
        super()._stop(keep=keep)
        os.write(1, b'ended\\n')

SandboxFactory.register_sandbox('fake', Reporting)
manager = LocalSandboxManager(sweep=False, stop_grace=0.05)
for _ in range(3):
    sandbox_id = manager.create_sandbox('fake')
"""


def run(program: str, *, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, '-W', 'default::ResourceWarning', '-c', PRELUDE + program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == code, done.stderr
    assert 'Traceback' not in done.stderr, done.stderr
    return done


@pytest.mark.processes
def test_a_program_that_forgets_to_stop_is_reported_and_leaves_nothing() -> None:
    done = run('')

    assert done.stdout.count('ended') == 3
    assert 'was not stopped before the program ended' in done.stderr


@pytest.mark.processes
def test_a_program_that_ends_in_an_exception_leaves_nothing() -> None:
    done = subprocess.run(
        [sys.executable, '-c', PRELUDE + '1/0'], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE
    )

    assert done.stdout.count('ended') == 3
    assert 'ZeroDivisionError' in done.stderr


@pytest.mark.processes
def test_a_hook_of_the_program_can_stop_at_exit() -> None:
    done = run('atexit.register(manager.stop)')

    assert done.stdout.count('ended') == 3
    assert 'ResourceWarning' not in done.stderr


@pytest.mark.processes
def test_a_call_without_end_does_not_keep_the_program() -> None:
    done = run("""
held = manager.submit('execute_command', sandbox_id, 'hold')
Reporting.backend.wait_until(lambda: Reporting.backend.holding == 1)
""")

    assert done.stdout.count('ended') == 3


@pytest.mark.processes
@pytest.mark.skipif(
    (3, 12) <= sys.version_info[:3] < (3, 12, 2),
    reason='no thread can be made there after the main one (CPython issue 113964)',
)
def test_threads_that_outlive_the_main_one_can_continue() -> None:
    done = run("""
def work():
    threading.main_thread().join()
    assert manager.submit('execute_command', sandbox_id, 'echo on').result().stdout == 'on\\n'
    manager.delete_sandbox(manager.create_sandbox('fake'))
    os.write(1, b'worked\\n')
threading.Thread(target=work).start()
""")

    assert 'worked' in done.stdout
    assert done.stdout.count('ended') == 4


@pytest.mark.processes
def test_sys_exit_in_a_signal_handler_that_stops() -> None:
    done = run(
        """
def handle(*_):
    manager.stop()
    sys.exit(3)
signal.signal(signal.SIGTERM, handle)
def interrupt():
    Reporting.backend.wait_until(lambda: Reporting.backend.holding == 1)
    os.kill(os.getpid(), signal.SIGTERM)
threading.Thread(target=interrupt).start()
manager.execute_command(sandbox_id, 'hold')
""",
        code=3,
    )

    assert done.stdout.count('ended') == 3
    assert 'ResourceWarning' not in done.stderr


@pytest.mark.processes
def test_a_stop_that_a_signal_handler_interrupts_is_completed() -> None:
    done = run(
        """
def handle(*_):
    manager.stop()  # returns at once: the interrupted one is this thread's own
    sys.exit(3)
signal.signal(signal.SIGTERM, handle)
Reporting.backend.may_end.clear()
def interrupt():
    Reporting.backend.wait_until(lambda: manager._table.state == 'stopping')
    os.kill(os.getpid(), signal.SIGTERM)
    Reporting.backend.may_end.set()
threading.Thread(target=interrupt).start()
manager.stop()
""",
        code=3,
    )

    assert done.stdout.count('ended') == 3


@pytest.mark.processes
@pytest.mark.skipif(not hasattr(__import__('os'), 'fork'), reason='needs fork')
def test_a_forked_child_that_ends_takes_nothing_away() -> None:
    done = run("""
child = os.fork()
if child == 0:
    os.write(1, b'child\\n')
    sys.exit()
os.waitpid(child, 0)
os.write(1, b'parent %d\\n' % len(Reporting.backend.alive))
manager.stop()
""")

    lines = done.stdout.split('\n')
    assert lines.index('child') < lines.index('parent 3')
    assert lines[lines.index('parent 3') + 1 :].count('ended') == 3
    assert lines.count('ended') == 3
