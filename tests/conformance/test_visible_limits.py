"""What a sandbox shows of its limits agrees with them."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from enclave.enums import SandboxType
from enclave.sandboxes.agent_backed import AgentBackedSandbox
from enclave.sandboxes.processors import Claim, count_for
from tests.support.backends import Backend

Start = Callable[..., AgentBackedSandbox]
NUMBERS = (
    'import os\n'
    'print(len(os.sched_getaffinity(0)), os.environ.get("PYTHON_CPU_COUNT"), os.environ.get("OMP_NUM_THREADS"), os.cpu_count())'
)

needs_processors = pytest.mark.skipif((os.cpu_count() or 1) < 2, reason='one processor shows nothing')


@needs_processors
@pytest.mark.parametrize('limit', [0.5, 1.0])
def test_as_many_processors_are_seen_as_the_limit_stands_for(start: Start, backend: Backend, limit: float) -> None:
    sandbox = start(cpu_limit=limit, tools_config=['python_executor', 'shell_executor'])

    seen = [
        sandbox.execute_command(['python3', '-c', NUMBERS]).stdout,
        sandbox.execute_tool('python_executor', {'code': NUMBERS}).output,
        sandbox.start_process(['python3', '-c', NUMBERS]).wait(60).stdout,
        sandbox.start_process(['python3', '-c', NUMBERS], tty=(24, 80)).wait(60).stdout,
        sandbox.execute_command(['python3', '-c', NUMBERS], env={'A': 'x' * 70_000}).stdout,
    ]

    assert sandbox.execute_command('nproc').stdout == '1\n'
    assert [each.split()[:3] for each in seen] == [['1', '1', '1']] * len(seen)
    if backend.sandbox_type is SandboxType.BUBBLEWRAP:
        assert seen[0].split()[3] == '1'
        assert sandbox.execute_command('getconf _NPROCESSORS_ONLN').stdout in ('1\n', '')


def test_a_limit_of_all_that_the_machine_has_shows_what_it_has(start: Start) -> None:
    sandbox = start(cpu_limit=float(len(os.sched_getaffinity(0))))

    seen = sandbox.execute_command(['python3', '-c', NUMBERS]).stdout.split()

    assert seen[1:3] == ['None', 'None']
    assert int(seen[0]) <= (os.cpu_count() or 1)
    assert seen[0] == seen[3]


@needs_processors
def test_who_sets_the_variables_keeps_them(start: Start) -> None:
    sandbox = start(cpu_limit=1.0, env_vars={'OMP_NUM_THREADS': '7'})

    assert sandbox.execute_command('echo $OMP_NUM_THREADS $PYTHON_CPU_COUNT').stdout == '7 1\n'
    assert sandbox.execute_command('echo $PYTHON_CPU_COUNT', env={'PYTHON_CPU_COUNT': '9'}).stdout == '9\n'


@needs_processors
def test_calls_at_once_are_spread_over_the_processors(start: Start) -> None:
    first, second = start(cpu_limit=1.0), start(cpu_limit=1.0)
    show = 'import os, sys; print(*os.sched_getaffinity(0), flush=True); sys.stdin.read()'

    running = [each.start_process(['python3', '-c', show], open_stdin=True) for each in (first, second)]
    seen = {next(process.chunks(60)).text for process in running}
    for process in running:
        process.close_stdin()
        process.wait(60)

    assert len(seen) == 2


def test_processors_that_are_used_least_are_chosen() -> None:
    with Claim(range(1000, 1004), 3) as first, Claim(range(1000, 1004), 1) as second:
        assert not {*first.cpus} & {*second.cpus}
        with Claim(range(1000, 1004), 4) as third:
            assert third.cpus == []
    with Claim(range(1000, 1004), 0) as none:
        assert none.cpus == []


@pytest.mark.parametrize(('limit', 'count'), [(0.01, 1), (1.0, 1), (1.01, 2), (2, 2), (63.5, 64)])
def test_a_part_of_a_processor_counts_as_one(limit: float, count: int) -> None:
    assert count_for(limit) == count
