"""Limits of a program, as the agent keeps them, in a bare interpreter."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from enclave.agent.program import Memory, Run, read_usage
from enclave.languages.values import Limits, StepResult
from enclave.sandboxes.agent_operations import AgentOperations
from enclave.verb_requests import RunCommand, Script
from tests.agent.conftest import AgentProcess


def run(agent: AgentProcess, code: str, *, timeout: float | None = 60.0, **limits: Any) -> StepResult:
    """Return what becomes of a program under limits."""
    request = RunCommand(
        command=(sys.executable, '-c', code), timeout=timeout, max_output_bytes=1 << 16, limits=Limits(**limits)
    )
    result = AgentOperations(agent.channel).run(request)
    assert isinstance(result, StepResult)
    return result


def test_a_program_is_measured(agent: AgentProcess) -> None:
    result = run(agent, 'x = bytearray(50 << 20)\nfor i in range(0, len(x), 4096): x[i] = 1\nprint(1)')

    assert (result.stdout, result.exceeded) == ('1\n', None)
    assert 0 < (result.cpu_time or 0) < 60
    assert 50 << 20 < (result.peak_memory_bytes or 0) < 500 << 20


@pytest.mark.parametrize(
    ('code', 'limits', 'exceeded'),
    [
        ('while True: pass', {'cpu_seconds': 0.2}, 'cpu'),
        ('import os\nos.fork()\nos.fork()\nwhile True: pass', {'cpu_seconds': 0.4}, 'cpu'),
        ('import time; time.sleep(60)', {'timeout': 0.3}, 'time'),
        (
            'x = bytearray(300 << 20)\nfor i in range(0, len(x), 4096): x[i] = 1\nimport time; time.sleep(60)',
            {'memory_bytes': 100 << 20},
            'memory',
        ),
        ('import sys\nwhile True: sys.stderr.write("x" * 1000)', {'output_bytes': 50_000}, 'output'),
    ],
)
def test_a_program_is_ended_for_the_limit_that_it_goes_over(
    agent: AgentProcess, code: str, limits: dict[str, Any], exceeded: str
) -> None:
    result = run(agent, code, **limits)

    assert (result.exceeded, result.signal) == (exceeded, 'SIGKILL')
    assert result.timed_out is (exceeded in ('cpu', 'time'))


@pytest.mark.parametrize(
    'ignores', ['', 'import signal; signal.signal(signal.SIGCHLD, signal.SIG_IGN)\n'], ids=['', 'ignored']
)
def test_children_that_a_program_does_not_wait_for_count(agent: AgentProcess, ignores: str) -> None:
    code = (
        'import os, time\n'
        'while True:\n'
        '    if not os.fork():\n'
        '        while time.process_time() < 0.15: pass\n'
        '        os._exit(0)\n'
        '    time.sleep(0.2)\n'
    )
    result = run(agent, ignores + code, timeout=300.0, cpu_seconds=0.5)

    assert (result.exceeded, result.signal) == ('cpu', 'SIGKILL')
    assert (result.cpu_time or 0) >= 0.5


def test_children_that_a_program_waits_for_count_once(agent: AgentProcess) -> None:
    code = (
        'import os, time\n'
        'for _ in range(10):\n'
        '    if not os.fork():\n'
        '        while time.process_time() < 0.2: pass\n'
        '        os._exit(0)\n'
        '    os.wait()\n'
        'print("done")\n'
    )
    result = run(agent, code, cpu_seconds=3.5)  # they use 2.0

    assert (result.exceeded, result.stdout) == (None, 'done\n')


def test_what_a_supervisor_has_reaped_when_a_program_starts_is_none_of_the_program_s() -> None:
    """It may reap the call before this one after it was given this one."""
    child = os.fork()
    if not child:
        while sum(os.times()[:2]) < 0.1:
            pass
        os._exit(0)
    os.waitpid(child, 0)
    call: Any = object.__new__(Run)
    call.agent, call.message, call.early_signals = SimpleNamespace(mains={}, ended_mains=set()), {}, []
    call.limits, call.base_ticks, call.supervisor = {'cpu': 1.0}, 0, SimpleNamespace(pid=os.getpid())

    call.on_status(b'S', b' ', 7)

    assert call.base_ticks == read_usage(os.getpid())[2] > 0


def test_a_program_that_stops_its_supervisor_at_once_has_its_limit(agent: AgentProcess) -> None:
    code = 'kill -STOP $PPID; while :; do :; done'
    request = RunCommand(
        command=('sh', '-c', code), timeout=300.0, max_output_bytes=1 << 16, limits=Limits(cpu_seconds=0.3)
    )

    assert AgentOperations(agent.channel).run(request).exceeded == 'cpu'


def test_what_a_program_started_ends_with_it(agent: AgentProcess, tmp_path: Any) -> None:
    note = tmp_path / 'pid'
    code = (
        'import os, sys, time\n'
        'if os.fork() == 0:\n'
        '    os.setsid()\n'
        f'    open({str(note)!r}, "w").write(str(os.getpid()))\n'
        '    time.sleep(600)\n'
        f'while not os.path.exists({str(note)!r}) or not open({str(note)!r}).read(): time.sleep(0.01)\n'
    )

    result = run(agent, code)

    assert result.success
    with pytest.raises(ProcessLookupError):
        os.kill(int(note.read_text()), 0)


def test_waiting_for_a_processor_is_not_time_of_the_program(agent: AgentProcess) -> None:
    burning = 'import time\nwhile time.process_time() < 0.4: pass\nprint("done")'
    program = (
        'import subprocess, sys\n'
        f'many = [subprocess.Popen([sys.executable, "-c", {burning!r}]) for _ in range(8)]\n'
        'for each in many: each.wait()\n'
    )

    # Eight of them have a few processors between them, so that each takes longer than the limit, and none runs for so long.
    result = run(agent, program, timeout=1.0, patience=1000.0)

    assert (result.exceeded, result.stdout) == (None, 'done\n' * 8)


def test_a_named_source_lies_in_the_working_directory_and_is_gone_afterwards(agent: AgentProcess) -> None:
    code = b'import os; open("left", "w"); print(os.getcwd(), os.listdir())'
    request = RunCommand(
        command=(sys.executable, 'prog.py'),
        timeout=60.0,
        max_output_bytes=1 << 16,
        limits=Limits(),
        script=Script(source=code, name='prog.py'),
    )

    operations = AgentOperations(agent.channel)
    place, _, listed = operations.run(request).stdout.partition(' ')
    operations.ping(60.0)  # whatever the agent does after this, it has tidied up before

    assert sorted(eval(listed)) == ['left', 'prog.py']  # the listing of our own program
    assert not os.path.exists(place)


def test_only_files_none_of_whose_pages_is_changed_are_given_back(tmp_path: Path) -> None:
    smaps = tmp_path / 'smaps'
    rows = [
        ('10000-12000 r--p 00000000 08:01 1 /usr/lib/clean', 0, 0),
        ('20000-22000 r--p 00000000 08:01 2 /usr/lib/changed', 4, 0),
        ('30000-32000 r--p 00000000 08:01 3 /usr/lib/in-swap', 0, 4),
        ('40000-41000 r-xp 00000000 08:01 4 /usr/lib/code', 0, 0),
        ('50000-52000 rw-p 00000000 08:01 5 /usr/lib/data', 0, 0),
        ('60000-62000 r--p 00000000 00:00 0', 0, 0),
        ('100000000-180000000 r--p 00000000 08:01 6 /usr/lib/huge', 0, 0),
    ]
    text = [f'{head}\nSize: 8 kB\nAnonymous: {own} kB\nSwap: {swap} kB\nSwapPss: 0 kB\n' for head, own, swap in rows]
    smaps.write_text(''.join(text))
    without = tmp_path / 'without'
    without.write_text(''.join(text).replace('Swap:', 'Other:'))
    memory = Memory(None)

    assert memory.find_files(str(smaps)) == [(0x40000, 0x1000), (0x10000, 0x2000)]
    assert memory.find_files(str(without)) == []
    assert memory.find_files(str(tmp_path / 'missing')) == []
