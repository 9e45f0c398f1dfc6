"""What a program had written before it was ended is there, and it gets a moment to write more."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from enclave.enums import ExecutionStatus
from enclave.errors import ConfigurationError
from enclave.sandboxes.agent_backed import AgentBackedSandbox
from enclave.testing.kinds import KindUnderTest

Start = Callable[..., AgentBackedSandbox]
ENDS = {
    'a time limit': 'import time; time.sleep(1000)',
    'a busy loop at its time limit': 'while True: pass',
    'a crash': 'import ctypes; ctypes.string_at(0)',
    'an abort': 'import os; os.abort()',
    'an exit without clean-up': 'import os; os._exit(3)',
    'running out of memory': 'held = []\nwhile True: held.append(bytearray(8 << 20))',
    'being killed': 'import os, signal; os.kill(os.getpid(), signal.SIGKILL)',
}


@pytest.mark.parametrize('end', ENDS)
def test_what_python_printed_before_its_end_is_there(start: Start, end: str) -> None:
    sandbox = start(tools_config=['python_executor'], memory_limit='128m')
    code = (
        f'import sys\nprint("solved 5 of 10")\nprint("half a line", end="")\nprint("!", file=sys.stderr)\n{ENDS[end]}\n'
    )

    result = sandbox.execute_tool('python_executor', {'code': code, 'timeout': 3 if 'limit' in end else 60})

    assert result.status is not ExecutionStatus.SUCCESS
    assert result.output == 'solved 5 of 10\nhalf a line'
    assert result.metadata['stderr'].startswith('!')


def test_a_caller_that_says_otherwise_has_pythons_output_buffered(sandbox: AgentBackedSandbox) -> None:
    code = 'import sys; print(sys.stdout.write_through)'

    asked = [
        sandbox.execute_tool('python_executor', {'code': code, **options}).output
        for options in ({}, {'env': {'PYTHONUNBUFFERED': ''}}, {'env': {'OTHER': '1'}})
    ]

    assert asked == ['True\n', 'False\n', 'True\n']


def test_the_configuration_may_have_pythons_output_buffered(start: Start) -> None:
    sandbox = start(tools_config=['python_executor'], env_vars={'PYTHONUNBUFFERED': ''})

    result = sandbox.execute_tool('python_executor', {'code': 'import sys; print(sys.stdout.write_through)'})

    assert result.output == 'False\n'


SAVING = (
    'import signal, sys, time\n'
    'def save(*_):\n'
    '  print("saved", flush=True)\n'
    '  sys.exit(0)\n'
    'signal.signal(signal.SIGTERM, save)\n'
    'print("begun")\n'
    'sys.stdout.flush()\n'
    'while True: time.sleep(0.02)\n'
)


def test_a_program_is_asked_to_end_at_its_time_limit_before_it_is_killed(sandbox: AgentBackedSandbox) -> None:
    runs: list[Any] = [
        sandbox.execute_command(['python3', '-c', SAVING], 1.5),
        sandbox.run_script(['python3'], SAVING, 1.5, suffix='.py'),
        sandbox.start_process(['python3', '-c', SAVING], 1.5).wait(60),
    ]

    for run in runs:
        assert (run.stdout, run.timed_out, run.status) == ('begun\nsaved\n', True, ExecutionStatus.TIMEOUT)
        # However it went about it: a call that ran out of time has one exit code.
        assert (run.exit_code, run.signal) == (137, 'SIGKILL')


def test_a_tool_call_is_asked_to_end_too(sandbox: AgentBackedSandbox) -> None:
    result = sandbox.execute_tool('shell_executor', {'command': ['python3', '-c', SAVING], 'timeout': 1.5})

    assert (result.output, result.status) == ('begun\nsaved\n', ExecutionStatus.TIMEOUT)


def test_children_are_asked_to_end_too_and_their_last_output_is_there(sandbox: AgentBackedSandbox) -> None:
    script = 'python3 -u save.py & python3 -u save.py & wait'
    sandbox.write_file('save.py', SAVING)

    result = sandbox.execute_command(script, 2.0)

    assert result.stdout.count('saved') == 2  # both at once: a line's end may come after the other's text


def test_without_grace_a_program_is_killed_at_once(start: Start) -> None:
    sandbox = start(timeout_grace=0)

    result = sandbox.execute_command(['python3', '-c', SAVING], 1.0)

    assert (result.stdout, result.timed_out) == ('begun\n', True)


def test_grace_ends(start: Start) -> None:
    sandbox = start(timeout_grace=0.2)

    result = sandbox.execute_command('trap "echo asked" TERM; while :; do sleep 0.01; done', 0.5)

    assert result.timed_out
    assert result.stdout.startswith('asked\n')
    assert sandbox.execute_command('true').exit_code == 0


@pytest.mark.parametrize('value', [-1, 61, '1', True, None, math.nan, math.inf])
def test_a_grace_that_is_no_short_time_is_refused(backend: KindUnderTest, value: Any) -> None:
    with pytest.raises(ConfigurationError, match='timeout_grace'):
        backend.make(timeout_grace=value)
