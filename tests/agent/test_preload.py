"""Programs that are forked from a template interpreter do what they would do in one of their own, and cannot harm it."""

from __future__ import annotations

import errno
import os
import re
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from enclave.agent.program import STATUS, Run, StartFailed, Supervisor, Template
from enclave.languages.values import Limits, StepResult
from enclave.sandboxes.agent_operations import AgentOperations
from enclave.verb_requests import RunCommand, Script
from tests.agent.conftest import AgentProcess
from tests.support.equal_programs import PROGRAMS

BASE_PYTHON = os.path.realpath(sys.executable)
"""Outside of the virtual environment, where there are packages of a user's own."""
ARGS = ('a b', 'c')
STDIN = b'first line\nsecond'


@pytest.fixture(scope='module')
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentProcess]:
    running = AgentProcess(sys.executable, tmp_path_factory.mktemp('work'))
    yield running
    running.close()


def run(agent: AgentProcess, source: str, preload: tuple[str, ...] | None = (), **options: Any) -> Any:
    """Run a program as `python_executor` does; ``preload`` None starts an interpreter."""
    env = {'PYTHONUNBUFFERED': '1', **options.pop('env', {})}
    request = RunCommand(
        command=(options.pop('python', sys.executable), '', *options.pop('args', ())),
        timeout=options.pop('timeout', 60.0),
        max_output_bytes=4 << 20,
        env=env,
        script=Script(source=source.encode('utf-8', 'surrogatepass'), suffix='.py', at=1, preload=preload),
        path_first={'PYTHONPATH': options.pop('cwd', str(agent.process.args and cwd_of(agent)))},
        **options,
    )
    return AgentOperations(agent.channel).run(request)


def cwd_of(agent: AgentProcess) -> str:
    return str(Path(f'/proc/{agent.process.pid}/cwd').readlink())


def masked(text: str) -> str:
    """Return output without what differs from run to run of one interpreter."""
    text = re.sub(r'enclave-\d+-\d+-[0-9a-f]+(-run)?', 'PRIVATE', text)
    text = re.sub(r'0x[0-9a-f]{6,}', 'ADDRESS', text)
    text = re.sub(r'in \d\.\d{3}s', 'in N s', text)
    return re.sub(r'(Thread|thread|MainThread, started|ident=) ?\d{6,}', r'\1 N', text)


@pytest.mark.parametrize('name', PROGRAMS)
def test_a_fork_does_what_an_interpreter_of_its_own_does(agent: AgentProcess, name: str) -> None:
    source = PROGRAMS[name]
    stdin = STDIN if 'stdin' in source or 'input(' in source else None
    alone = run(agent, source, None, args=ARGS, stdin=stdin)
    forked = run(agent, source, (), args=ARGS, stdin=stdin)

    assert masked(forked.stdout) == masked(alone.stdout)
    assert masked(forked.stderr) == masked(alone.stderr)
    assert (forked.exit_code, forked.signal, forked.status) == (alone.exit_code, alone.signal, alone.status)


@pytest.mark.parametrize('name', list(PROGRAMS)[:: 1 if 'ENCLAVE_ALL_PROGRAMS' in os.environ else 12])
def test_a_program_with_limits_that_is_called_by_its_name_alone_does_so_too(agent: AgentProcess, name: str) -> None:
    source = PROGRAMS[name]
    alone, forked = (run_limited(agent, source, preload) for preload in (None, ()))

    assert masked(forked.stdout) == masked(alone.stdout)
    assert masked(forked.stderr) == masked(alone.stderr)
    assert (forked.exit_code, forked.signal, forked.status) == (alone.exit_code, alone.signal, alone.status)
    assert forked.cpu_time is not None
    assert forked.peak_memory_bytes is not None


def run_limited(agent: AgentProcess, source: str, preload: tuple[str, ...] | None = (), **limits: Any) -> StepResult:
    """Run a program as `run_code` does, and as batches do with ``preload``."""
    request = RunCommand(
        command=(limits.pop('python', sys.executable), 'main.py', *ARGS),
        timeout=limits.pop('timeout', 60.0),
        stdin=STDIN,
        max_output_bytes=4 << 20,
        script=Script(source=source.encode('utf-8', 'surrogatepass'), name='main.py', at=1, preload=preload),
        limits=Limits(**limits),
    )
    result = AgentOperations(agent.channel).run(request)
    assert isinstance(result, StepResult)
    return result


def test_a_limit_that_a_fork_goes_over_leaves_its_template(agent: AgentProcess) -> None:
    shows = 'import os; print(os.getppid())'
    before = run_limited(agent, shows).stdout
    ended = [
        run_limited(agent, 'while True: pass', cpu_seconds=0.2),
        run_limited(agent, 'x = b"x" * (200 << 20)\nimport time; time.sleep(600)', memory_bytes=64 << 20),
        run_limited(agent, 'import os, time\nif os.fork(): os._exit(7)\ntime.sleep(600)'),
    ]

    assert [(each.exceeded, each.exit_code) for each in ended] == [('cpu', 137), ('memory', 137), (None, 7)]
    assert (ended[0].cpu_time or 0) >= 0.2
    assert run_limited(agent, shows).stdout == before


def test_a_template_that_a_fork_stops_hinders_no_limit(agent: AgentProcess) -> None:
    source = 'import os, signal\nos.kill(os.getppid(), signal.SIGSTOP)\nwhile True: pass'

    assert run_limited(agent, source, cpu_seconds=0.2).exceeded == 'cpu'
    assert run_limited(agent, 'print(1)').stdout == '1\n'


def test_what_a_template_uses_is_none_of_a_program_s(agent: AgentProcess) -> None:
    source = 'import time; x = b"x" * (10 << 20); time.sleep(0.2); print(1)'
    for _ in range(3):
        run_limited(agent, 'sum(range(10 ** 6))')
    result = run_limited(agent, source, memory_bytes=60 << 20, cpu_seconds=30)

    assert (result.exceeded, result.stdout) == (None, '1\n')


def test_making_a_template_is_no_time_of_a_program(agent: AgentProcess, tmp_path: Path) -> None:
    slow = tmp_path / 'slow-python'
    slow.write_text(f'#!/bin/sh\nsleep 2\nexec {sys.executable} "$@"\n')
    slow.chmod(0o755)

    first = run_limited(agent, 'print("ran")', python=str(slow), timeout=1.0, patience=1000.0)

    assert (first.stdout, first.exceeded) == ('ran\n', None)


def test_what_forks_of_an_earlier_template_used_is_none_of_a_program_s(tmp_path: Path) -> None:
    running = AgentProcess(sys.executable, tmp_path)
    try:
        before = run_limited(running, 'import time\nwhile time.process_time() < 2: pass\nprint(1)')
        after = run_limited(running, 'import time; time.sleep(1); print(1)', ('json',), cpu_seconds=1.0)
    finally:
        running.close()

    assert (before.exceeded, before.stdout) == (None, '1\n')
    assert (after.exceeded, after.stdout) == (None, '1\n')


def test_a_program_whose_limit_the_template_would_half_fill_has_an_interpreter_of_its_own(agent: AgentProcess) -> None:
    source = 'import sys; print("decimal" in sys.modules)'
    run_limited(agent, source, ('decimal',))

    assert run_limited(agent, source, ('decimal',), memory_bytes=1 << 30).stdout == 'True\n'
    assert run_limited(agent, source, ('decimal',), memory_bytes=14 << 20).stdout in ('False\n', '')


def template_of(agent: AgentProcess) -> str:
    """Return the number of the template that the next program is forked from."""
    found: str = run(agent, 'import os; print(os.getppid())').stdout.strip()
    return found


def test_programs_are_forks_of_one_template_that_has_the_modules(agent: AgentProcess) -> None:
    source = 'import sys, os; print("decimal" in sys.modules, os.getppid())'
    found = [run(agent, source, ('decimal',)).stdout.split() for _ in range(10)]

    assert {has_module for has_module, _ in found} == {'True'}
    assert len({template for _, template in found}) < 10  # a call may come before the one before it is cleaned away
    assert run(agent, source, None).stdout.split()[0] == 'False'


def test_a_call_that_needs_no_template_leaves_it_where_it_is(agent: AgentProcess) -> None:
    before = template_of(agent)
    for _ in range(3):
        assert AgentOperations(agent.channel).run(RunCommand(command=('true',), timeout=60.0)).exit_code == 0

    assert template_of(agent) == before


def test_a_template_that_a_guest_kills_is_replaced(agent: AgentProcess) -> None:
    before = template_of(agent)
    killer = run(agent, 'import os, signal; os.kill(os.getppid(), signal.SIGKILL); print("still here")')

    assert (killer.stdout, killer.exit_code) == ('still here\n', 0)
    assert template_of(agent) != before


def test_a_guest_can_not_look_into_the_template(agent: AgentProcess) -> None:
    source = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
print(libc.ptrace(16, os.getppid(), 0, 0))  # PTRACE_ATTACH
try:
    open(f'/proc/{os.getppid()}/mem', 'r+b')
except OSError as error:
    print(type(error).__name__)
"""
    if Path(f'/proc/{agent.process.pid}').stat().st_uid == 0 and 'sandbox' not in str(agent.process.args):
        pytest.skip('root with all capabilities may; in a sandbox there are none: see the conformance suite')

    assert run(agent, source).stdout == '-1\nPermissionError\n'


def test_a_program_leaves_nothing_in_the_next_one(agent: AgentProcess) -> None:
    run(agent, 'import builtins, sys, os\nbuiltins.left = 1\nsys.left = 2\nos.environ["LEFT"] = "3"\nos.chdir("/")')
    later = run(
        agent,
        'import builtins, sys, os\nprint(hasattr(builtins, "left"), hasattr(sys, "left"), "LEFT" in os.environ, os.getcwd())',
    )

    assert later.stdout == f'False False False {cwd_of(agent)}\n'


def test_what_seeds_itself_does_so_in_each_program(agent: AgentProcess) -> None:
    source = (
        'import random, uuid, tempfile; print(random.random(), uuid.uuid4(), next(tempfile._get_candidate_names()))'
    )
    runs = {run(agent, source, ('random', 'uuid', 'tempfile')).stdout for _ in range(4)}

    assert len({part for each in runs for part in each.split()}) == 12


def test_a_time_limit_ends_the_fork_and_all_it_started(agent: AgentProcess) -> None:
    source = 'import os, time\nprint("begun", flush=True)\nif os.fork() == 0: os.setsid()\ntime.sleep(600)'
    result = run(agent, source, timeout=1.0)

    assert result.timed_out
    assert result.stdout == 'begun\n'
    assert run(agent, 'print(1)').stdout == '1\n'


def test_a_call_ends_with_its_program_though_it_left_a_child(agent: AgentProcess) -> None:
    source = 'import os, time\nif os.fork() == 0:\n    time.sleep(600)\nprint("parent")'
    result = run(agent, source)

    assert (result.stdout, result.exit_code) == ('parent\n', 0)
    assert result.execution_time < 30


@pytest.mark.parametrize(
    ('text', 'why'),
    [
        (
            'import threading, time\nthreading.Thread(target=time.sleep, args=(1000,), daemon=True).start()',
            'starts threads',
        ),
        ('import socket\nleft = socket.socket()', 'opens sockets'),
        ('1/0', 'cannot be imported'),
    ],
)
def test_a_module_that_cannot_be_preloaded_is_reported_once_and_programs_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str, why: str
) -> None:
    base = tmp_path / 'base'
    site = base / f'lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages'
    site.mkdir(parents=True)
    (site / 'odd.py').write_text(text)
    python = tmp_path / 'python'
    python.write_text(f'#!/bin/sh\nPYTHONUSERBASE={base} exec {BASE_PYTHON} "$@"\n')
    python.chmod(0o755)
    running = AgentProcess(sys.executable, tmp_path)
    try:
        results = [run(running, 'print("ran")', ('json', 'odd'), python=str(python)) for _ in range(3)]
    finally:
        running.close()

    assert [result.stdout for result in results] == ['ran\n'] * 3
    assert [f"'odd' is not preloaded: it {why}" in each.getMessage() for each in caplog.records].count(True) == 1


def test_a_template_in_which_a_guest_s_thread_runs_ends_when_the_sandbox_is_cleaned(tmp_path: Path) -> None:
    site = tmp_path / f'base/lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages'
    site.mkdir(parents=True)
    (site / 'odd.py').write_text(
        'import os, threading\n'
        'def start():\n'
        '    if threading.active_count() == 1: threading.Thread(target=threading.Event().wait, daemon=True).start()\n'
        'os.register_at_fork(after_in_parent=start)\n'
    )
    python = tmp_path / 'python'
    python.write_text(f'#!/bin/sh\nPYTHONUSERBASE={tmp_path / "base"} exec {BASE_PYTHON} "$@"\n')
    python.chmod(0o755)
    shows = 'import os; print(os.getppid(), len(os.listdir(f"/proc/{os.getppid()}/task")))'
    running = AgentProcess(sys.executable, tmp_path)
    try:
        before = run_limited(running, shows, ('odd',), python=str(python)).stdout.split()
        again = run_limited(running, shows, ('odd',), python=str(python)).stdout.split()
        AgentOperations(running.channel).end_processes(60.0)
        after = run_limited(running, shows, ('odd',), python=str(python))
    finally:
        running.close()

    assert again == [before[0], '2']
    assert after.success
    assert after.stdout.split()[0] != before[0]


@pytest.mark.parametrize(
    'env', [{'PYTHONHASHSEED': '0'}, {'PYTHONUTF8': '1'}, {'LANG': 'C'}, {'PYTHONWARNINGS': 'error'}]
)
def test_what_an_interpreter_reads_at_its_start_takes_the_plain_way(agent: AgentProcess, env: dict[str, str]) -> None:
    source = 'import sys, locale, warnings; print(hash("a"), sys.flags, locale.getlocale(), warnings.filters)'
    forked, alone = (run(agent, source, each, env=env) for each in ((), None))

    if 'PYTHONHASHSEED' in env:
        assert forked.stdout == alone.stdout
    else:
        assert forked.stdout.split(' ', 1)[1] == alone.stdout.split(' ', 1)[1]


def test_many_at_once(agent: AgentProcess) -> None:
    results: list[str] = []
    threads = [threading.Thread(target=lambda n=n: results.append(run(agent, f'print({n})').stdout)) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(int(each) for each in results) == list(range(12))


def test_every_python_serves_as_a_template(agent: AgentProcess, every_python: str) -> None:
    result = run(agent, 'import sys; print(sys.version_info[:2], sys.argv[1:])', (), python=every_python, args=('x',))

    assert "['x']" in result.stdout


def test_an_interpreter_that_takes_no_hook_runs_the_program_once(agent: AgentProcess, tmp_path: Path) -> None:
    wrapper = tmp_path / 'isolated-python'
    wrapper.write_text(f'#!/bin/sh\nexec {sys.executable} -I "$@"\n')
    wrapper.chmod(0o755)
    log = tmp_path / 'log'

    result = run(agent, f'open({str(log)!r}, "a").write("ran\\n"); print("x")', (), python=str(wrapper))

    assert (result.stdout, log.read_text()) == ('x\n', 'ran\n')


def test_no_private_directory_is_left(agent: AgentProcess) -> None:
    run(agent, 'print(1)')
    run(agent, 'print(1)', ('json',))
    AgentOperations(agent.channel).ping(30.0)  # it tidies up after it has answered, and before it answers again

    number = agent.process.pid
    assert not [each for place in ('/dev/shm', '/tmp') for each in Path(place).glob(f'enclave-{number}-*')]


def test_a_template_that_a_guest_stops_between_two_calls_serves_the_next(agent: AgentProcess) -> None:
    before = template_of(agent)
    operations = AgentOperations(agent.channel)
    stopped = operations.run(RunCommand(command=('kill', '-STOP', before), timeout=60.0))

    assert stopped.exit_code == 0
    assert [template_of(agent) for _ in range(2)] == [before] * 2


def test_a_template_whose_supervisor_is_killed_runs_nothing_itself(agent: AgentProcess, tmp_path: Path) -> None:
    log = tmp_path / 'log'
    source = f"""
import os, signal
open({str(log)!r}, 'a').write('run\\n')
supervisor = int(open(f'/proc/{{os.getppid()}}/stat').read().rpartition(')')[2].split()[1])
os.kill(supervisor, signal.SIGKILL)
"""
    run(agent, source)

    assert run(agent, 'print(1)').stdout == '1\n'
    assert log.read_text() == 'run\n'


def test_a_program_that_no_process_was_left_for_can_be_started_again(tmp_path: Path) -> None:
    """Its template has answered so: its directory must be where the next attempt looks for it."""
    script_dir, template_dir = tmp_path / 'script', tmp_path / 'template'
    script_dir.mkdir()
    preload = [['python3'], [], 'main.py', '', None]
    places = [str(script_dir), str(template_dir)]
    request = [['python3', 'main.py'], {}, '', preload, places, [], True, 0]
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    supervisor: Any = object.__new__(Supervisor)
    supervisor.template = Template(os.getpid(), ours, preload, places[1])
    with ours, theirs, open(os.devnull) as null:
        theirs.send(STATUS.pack(b'E', b' ', errno.EAGAIN))
        with pytest.raises(StartFailed):
            supervisor.fork_from_template(request, {}, (null.fileno(),) * 3)

    assert script_dir.is_dir()
    assert not template_dir.exists()


@pytest.mark.parametrize(
    ('is_forked', 'has_next', 'is_left'), [(False, True, True), (False, False, False), (True, True, False)]
)
def test_a_call_that_was_no_fork_leaves_the_next_one_its_directory(
    tmp_path: Path, is_forked: bool, has_next: bool, is_left: bool
) -> None:
    """A call that is being ended is done with a moment after its supervisor is free."""
    folders = [tmp_path / name for name in ('script', 'template')]
    for folder in folders:
        folder.mkdir()
    call: Any = object.__new__(Run)
    call.script_file, call.is_forked = -1, is_forked
    call.script_dir, call.template_dir = (bytes(folder) for folder in folders)
    call.supervisor = SimpleNamespace(run=object() if has_next else None)

    call.remove_script()

    assert [folder.exists() for folder in folders] == [False, is_left]
