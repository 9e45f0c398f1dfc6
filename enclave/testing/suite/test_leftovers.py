"""What a call leaves running is not the next one's fault: neither in the same sandbox nor in a pool."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from enclave.errors import SandboxError
from enclave.managers.local import LocalSandboxManager
from enclave.sandboxes.agent_backed import AgentBackedSandbox
from enclave.testing.kinds import KindUnderTest, wait_until

Start = Callable[..., AgentBackedSandbox]
FILL = (
    'import os, time\n'
    'try:\n'
    '  while True:\n'
    '    if not os.fork(): time.sleep(1000); os._exit(0)\n'
    'except OSError: pass\n'
    'os._exit(0)\n'
)
"""Ends with 0 and leaves as many processes as the limit allows."""
IN_A_DAEMON = (
    'import os, threading, time\n'
    'full, filled = os.pipe()\n'
    'if os.fork():\n'
    '  os.close(filled)\n'
    '  os.read(full, 1)\n'
    '  os._exit(0)\n'
    'os.setsid()\n'
)
"""What follows is in a daemon; the call ends when that one closes the pipe ``filled``."""
FILL_WITH_THREADS = (
    IN_A_DAEMON + 'try:\n'
    '  while True: threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()\n'
    'except RuntimeError: os.close(filled)\n'
    'time.sleep(1000)\n'
)
FILL_FROM_DAEMONS = (
    IN_A_DAEMON + 'try:\n'
    '  while True:\n'
    '    if not os.fork(): os.close(filled); os.setsid(); time.sleep(1000); os._exit(0)\n'
    'except OSError: os._exit(0)\n'
)
FILLERS = {'children': FILL, 'threads': FILL_WITH_THREADS, 'daemons': FILL_FROM_DAEMONS}


def count(sandbox: AgentBackedSandbox, name: str = 'sleep') -> int:
    """Return how many processes of a name run."""
    found = sandbox.execute_command('cat /proc/[0-9]*/comm 2>/dev/null').stdout.split()
    return found.count(name)


@pytest.mark.limits
@pytest.mark.parametrize('filler', FILLERS)
def test_a_sandbox_whose_process_limit_was_used_up_by_an_ended_call_takes_the_next(start: Start, filler: str) -> None:
    sandbox = start(pids_limit=48)
    first = sandbox.execute_command(['python3', '-c', FILLERS[filler]], 30)

    results = [sandbox.execute_command('ls / | wc -l | cat', 30, stdin='x' * 1000) for _ in range(3)]

    assert first.exit_code == 0
    assert [(result.exit_code, result.stderr) for result in results] == [(0, '')] * 3
    assert int(results[-1].stdout) > 3
    assert sandbox.is_alive()


@pytest.mark.limits
def test_the_input_of_a_call_that_had_to_wait_for_room_arrives_whole(start: Start) -> None:
    sandbox = start(pids_limit=48)
    sandbox.execute_command(['python3', '-c', FILL], 30)
    data = bytes(range(256)) * 4096

    result = sandbox.execute_command(['sha256sum'], 30, stdin=data)

    assert result.exit_code == 0
    assert result.stdout == sandbox.execute_command(['sha256sum'], stdin=data).stdout


@pytest.mark.limits
@pytest.mark.parametrize('filler', FILLERS)
def test_a_program_that_had_to_wait_for_room_runs_once(start: Start, filler: str) -> None:
    sandbox = start(pids_limit=48)
    sandbox.execute_command(['python3', '-c', FILLERS[filler]], 30)

    result = sandbox.run_script(['python3'], 'open("ran", "a").write("x"); print("once")', 60)

    assert (result.stdout, sandbox.read_file('ran')) == ('once\n', b'x')


KILL_WHAT_STARTS_PROGRAMS = (
    IN_A_DAEMON + 'def parent(pid): return open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[1]\n'
    'starter = int(parent(os.getppid()))\n'
    'if starter != 1: os.kill(starter, 9)\n'
    'until = time.monotonic() + 100\n'
    'while time.monotonic() < until:\n'
    '  for pid in filter(str.isdigit, os.listdir("/proc")):\n'
    '    try:\n'
    '      if int(pid) not in (1, os.getpid()) and parent(pid) == "1": os.kill(int(pid), 9)\n'
    '    except OSError: pass\n'
)


def test_what_an_earlier_call_left_is_never_taken_for_the_program_of_another(start: Start) -> None:
    """It kills whatever is to start a program: such a call is reported as killed, and does not wait for it."""
    sandbox = start()
    sandbox.execute_command(['python3', '-c', KILL_WHAT_STARTS_PROGRAMS], 30)

    results = [sandbox.execute_command(['echo', str(number)], 60) for number in range(20)]

    found = {
        (result.exit_code, result.timed_out, result.stdout == f'{number}\n') for number, result in enumerate(results)
    }
    assert found <= {(0, False, True), (137, False, False), (137, False, True)}
    assert wait_until(lambda: sandbox.execute_command(['true'], 60).exit_code == 0)


@pytest.mark.limits
def test_a_running_call_is_not_ended_to_make_room(start: Start) -> None:
    sandbox = start(pids_limit=48)
    code = (
        'import os, time\ntry:\n  while os.fork(): pass\nexcept OSError: print("full", flush=True)\ntime.sleep(1000)\n'
    )
    with sandbox.start_process(['python3', '-c', code]) as process:
        next(process.chunks(30))
        with pytest.raises(SandboxError, match=r'could not start a process.*process limit'):
            sandbox.execute_command(['true'], 30)

        assert process.poll() is None


def test_what_ended_calls_left_hardly_slows_the_next(start: Start) -> None:
    """Twenty endless loops have the lowest priority, a program of the next call the usual one."""
    sandbox = start()
    sandbox.execute_command('for i in $(seq 20); do (while :; do :; done) & done')

    result = sandbox.execute_command('sleep 0; sed "s/.*) //" /proc/[0-9]*/stat 2>/dev/null', 60)
    nice = [int(line.split()[16]) for line in result.stdout.splitlines()]

    assert nice.count(19) >= 20
    used = sandbox.execute_command(
        ['python3', '-c', 'import time\nwhile time.process_time() < 0.5: pass\nprint("done")'], 60
    )
    assert used.stdout == 'done\n'


def test_a_background_program_continues_after_its_call_and_after_others(start: Start) -> None:
    sandbox = start()
    sandbox.execute_command('sleep 4321 &')

    for _ in range(5):
        sandbox.execute_command('true')

    assert count(sandbox) == 1


@pytest.fixture
def manager(backend: KindUnderTest) -> Iterator[LocalSandboxManager]:
    """A manager with a pool of one member."""
    with LocalSandboxManager(sandbox_type=backend.sandbox_type) as manager:
        yield manager


def begin(manager: LocalSandboxManager, **options: object) -> str:
    tools = {'tools_config': ['shell_executor', 'python_executor'], 'network_enabled': False}
    [sandbox_id] = manager.initialize_pool(1, config={**tools, **options})
    return sandbox_id


def test_what_a_call_on_a_pool_left_running_is_ended_when_its_sandbox_goes_back(manager: LocalSandboxManager) -> None:
    sandbox_id = begin(manager)
    with manager.lease() as sandbox:
        sandbox.execute_command(
            'sleep 4321 & setsid sleep 4321 & (setsid sh -c "sleep 4321 & sleep 4321" &) ; echo x > kept'
        )
        wait_until(lambda: count(sandbox) == 4)

    with manager.lease() as sandbox:
        assert sandbox.id == sandbox_id
        assert count(sandbox) == 0
        assert sandbox.read_file('kept') == b'x\n'


def test_a_process_that_a_lease_started_ends_with_it(manager: LocalSandboxManager) -> None:
    begin(manager)
    with manager.lease() as sandbox:
        process = sandbox.start_process(['sleep', '4321'])
        process.wait_started()

    assert process.wait(30).signal == 'SIGKILL'
    with manager.lease() as sandbox:
        assert count(sandbox) == 0


@pytest.mark.limits
def test_every_caller_of_a_pool_gets_an_answer_whatever_the_last_one_left(manager: LocalSandboxManager) -> None:
    begin(manager, pids_limit=48)
    for filler in FILLERS.values():
        left = manager.execute_tool_in_pool('python_executor', {'code': filler, 'timeout': 30})
        answers = [manager.execute_tool_in_pool('shell_executor', {'command': 'ls / | wc -l | cat'}) for _ in range(2)]

        assert left.exit_code == 0
        assert [(answer.exit_code, answer.error) for answer in answers] == [(0, None)] * 2


IF_ROOT = 'import os\nhere = os.getcwd()\nos.chdir("/")\nif os.getuid(): os.chmod(here, 0)\n'
DAMAGES = {
    'closed': 'import os; os.chmod(".", 0)\nif not os.getuid(): os.rename(os.getcwd(), "/was")',
    'replaced by a file': f'{IF_ROOT}else: os.rmdir(here); open(here, "w").close()',
    'made anew': f'{IF_ROOT}else: os.rename(here, "/was"); os.mkdir(here)',
    'without a shell': f'{IF_ROOT}else:\n for each in "/bin/sh", "/usr/bin/sh":\n  if os.path.lexists(each): os.unlink(each)',
}
"""What takes away what each call needs; on bubblewrap, where a guest is not root, each closes the directory."""


@pytest.mark.parametrize('damage', DAMAGES)
def test_a_sandbox_whose_directory_or_shell_a_lease_took_away_is_replaced(
    manager: LocalSandboxManager, damage: str
) -> None:
    begin(manager)
    left = manager.execute_tool_in_pool('python_executor', {'code': DAMAGES[damage]})
    assert left.exit_code == 0
    shell = manager.execute_tool_in_pool('shell_executor', {'command': 'pwd && echo x > f && cat f'})
    python = manager.execute_tool_in_pool(
        'python_executor', {'code': 'open("g", "w").write("y"); print(open("g").read())'}
    )

    assert (shell.output, shell.exit_code) == ('/sandbox\nx\n', 0)
    assert (python.output, python.exit_code) == ('y\n', 0)


@pytest.mark.limits
def test_a_pool_that_cleans_nothing_lets_background_programs_run_and_lends_no_sandbox_that_is_full(
    backend: KindUnderTest,
) -> None:
    with LocalSandboxManager(sandbox_type=backend.sandbox_type, pool_clean='nothing') as manager:
        begin(manager, pids_limit=48)
        with manager.lease() as sandbox:
            sandbox.execute_command('sleep 4321 &')
        with manager.lease() as sandbox:
            assert count(sandbox) == 1
            running = sandbox.start_process(['python3', '-c', FILL + 'time.sleep(1000)'], live=False)
            running.wait_started()
            wait_until(lambda: not sandbox.is_alive() or running.poll() is not None)

        answer = manager.execute_tool_in_pool('shell_executor', {'command': 'ls / | wc -l | cat'})

        assert (answer.exit_code, answer.error) == (0, None)


SHARE_MEMORY = (
    'import ctypes\n'
    'libc = ctypes.CDLL(None)\n'
    'libc.shmat.restype = ctypes.c_void_p\n'
    'number = libc.shmget(0, 60 << 20, 0o1600)\n'
    'ctypes.memset(libc.shmat(number, None, 0), 1, 60 << 20)\n'
)
"""Takes 60 MiB that stay taken when the program has ended (shmget(2))."""


@pytest.mark.limits
def test_memory_that_a_lease_left_taken_is_not_the_next_ones_want(manager: LocalSandboxManager) -> None:
    full = begin(manager, memory_limit='96m')
    with manager.lease() as sandbox:
        assert sandbox.execute_command(['python3', '-c', SHARE_MEMORY]).exit_code == 0

    with manager.lease() as sandbox:
        assert sandbox.id != full
        replaced = sandbox.id
    with manager.lease() as sandbox:
        assert sandbox.id == replaced


@pytest.mark.limits
def test_what_could_not_be_cleaned_is_replaced_although_nobody_asks_for_it(manager: LocalSandboxManager) -> None:
    full = begin(manager, memory_limit='96m')
    with manager.lease() as sandbox:
        assert sandbox.execute_command(['python3', '-c', SHARE_MEMORY]).exit_code == 0

    def is_replaced() -> bool:
        there = [each.id for each in manager.list_sandboxes()]
        return bool(there) and full not in there

    assert wait_until(is_replaced, 60)
