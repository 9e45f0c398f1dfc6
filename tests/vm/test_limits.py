"""Limits under control groups of version 2, in the machine of scripts/test_vm.py (`make test-vm`)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from enclave.enums import SandboxType
from enclave.sandboxes.agent_backed import AgentBackedSandbox
from enclave.sandboxes.bubblewrap import cgroups
from tests.support.backends import BACKENDS, Backend, starting
from tests.support.host import cgroups_of

PART = os.environ.get('ENCLAVE_VM_PART', '')
HAS_GROUPS = PART != 'undelegated'
SECONDS = 300.0
HOG = 'x = b"x" * (400 << 20)\nprint(len(x))'
SPIN = (
    # Of the loop alone: to start an interpreter takes seconds of a processor here.
    'import time\n'
    'began, used = time.monotonic(), time.process_time()\n'
    'while time.monotonic() - began < 20: pass\n'
    'print((time.process_time() - used) / (time.monotonic() - began))\n'
)

pytestmark = pytest.mark.vm
Start = Callable[..., AgentBackedSandbox]


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Backend:
    found: Backend = request.param
    return found


@pytest.fixture
def start(backend: Backend) -> Iterator[Start]:
    with starting(backend.make) as start:
        yield start


def is_bubblewrap(sandbox: AgentBackedSandbox) -> bool:
    return sandbox.sandbox_type is SandboxType.BUBBLEWRAP


@pytest.mark.bubblewrap
def test_the_groups_are_those_that_this_user_may_make() -> None:
    found = cgroups.find_cgroups()
    assert Path('/sys/fs/cgroup/cgroup.controllers').exists()
    assert (found.version, sorted(found.parents)) == ((2, ['cpu', 'memory', 'pids']) if HAS_GROUPS else (0, []))


@pytest.mark.docker
def test_the_engine_uses_version_2() -> None:
    from enclave.sandboxes.docker.engine import get_engine

    assert get_engine().api.info()['CgroupVersion'] == '2'


def test_out_of_memory_is_reported_and_costs_the_program_alone(start: Start) -> None:
    sandbox = start(memory_limit='128m')
    result = sandbox.execute_command(['python3', '-c', HOG], timeout=SECONDS)
    assert not result.success
    if HAS_GROUPS:
        assert (result.oom_killed, result.signal) == (True, 'SIGKILL')
    else:
        assert 'MemoryError' in result.stderr
    assert sandbox.execute_command('echo alive', timeout=SECONDS).stdout == 'alive\n'


def test_memory_holds_for_all_processes_together(start: Start) -> None:
    if not HAS_GROUPS:
        pytest.skip('rlimits hold each process by itself')
    sandbox = start(memory_limit='160m')
    code = (
        'import os, time\n'
        'for _ in range(6):\n'
        '  if os.fork() == 0: x = b"x" * (48 << 20); time.sleep(20); os._exit(0)\n'
        'print([os.waitstatus_to_exitcode(os.wait()[1]) for _ in range(6)].count(-9) > 2)\n'
    )
    assert sandbox.execute_command(['python3', '-c', code], timeout=SECONDS).stdout == 'True\n'


def test_processes_are_limited_and_the_limit_is_given_back(start: Start) -> None:
    sandbox = start(pids_limit=24)
    result = sandbox.execute_command('for i in $(seq 60); do sleep 1000 & done', timeout=SECONDS)
    assert 'fork' in result.stderr
    sandbox.execute_command('true', timeout=SECONDS)
    assert start(pids_limit=24).execute_command('true | true | true', timeout=SECONDS).success


def test_a_fork_bomb_ends_at_its_limit(start: Start) -> None:
    sandbox = start(pids_limit=48)
    code = 'import os\nwhile True:\n  try: os.fork()\n  except OSError: pass\n'
    assert sandbox.execute_command(['python3', '-c', code], timeout=5).timed_out
    assert sandbox.execute_command('echo alive', timeout=SECONDS).stdout == 'alive\n'


def test_cpu_is_limited(start: Start) -> None:
    if not HAS_GROUPS:
        pytest.skip('only groups limit the CPU')
    sandbox = start(cpu_limit=0.2)
    assert float(sandbox.execute_command(['python3', '-c', SPIN], timeout=SECONDS).stdout) < 0.5


def test_no_group_is_left_after_the_stop(start: Start) -> None:
    sandbox = start()
    if is_bubblewrap(sandbox):
        assert len(cgroups_of(sandbox.id)) == (1 if HAS_GROUPS else 0)
    sandbox.execute_command('sleep 1000 & echo left', timeout=SECONDS)
    sandbox.stop()
    assert not cgroups_of(sandbox.id)
    assert not list(Path('/sys/fs/cgroup').rglob(f'*{sandbox.id}*'))
