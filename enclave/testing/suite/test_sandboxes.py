"""What every backend promises, said once: each test runs unchanged over each of them."""

from __future__ import annotations

import contextlib
import io
import os
import re
import signal
import socket
import stat
import tarfile
import threading
import time
import urllib.request
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import pytest

from enclave.cancellation import Cancellation, on_cancel, until_cancelled
from enclave.enums import ExecutionStatus, SandboxStatus
from enclave.errors import (
    InvalidArgumentError,
    OperationTimeoutError,
    SandboxError,
    SandboxGoneError,
    SandboxPathError,
    SandboxPathExistsError,
    SandboxPathNotFoundError,
    SandboxStateError,
    ToolNotFoundError,
)
from enclave.sandboxes.agent_backed import AgentBackedSandbox
from enclave.testing.kinds import PATIENCE_SECONDS as PATIENCE
from enclave.testing.kinds import KindUnderTest, wait_until
from enclave.testing.transfers import UPLOADS, TransferGate, cancel_midway

Start = Callable[..., AgentBackedSandbox]
MIB = 1 << 20
ABSURD_NAMES = [
    ' leading and trailing ',
    '-rf',
    '--',
    'new\nline',
    'tab\tand "quotes" and \'more\'',
    '$(touch owned) `touch owned` ; touch owned',
    '*?[a]{b,c}~!#&|<>\\',
    'ünïcödé 漢字 🐍',
    'x' * 255,
]


def running(sandbox: AgentBackedSandbox, word: str) -> int:
    """Return how many processes in the sandbox have the word in their command line."""
    code = (
        'import os,sys\n'
        'word=sys.argv[1].encode()\n'
        'n=0\n'
        'for p in os.listdir("/proc"):\n'
        '  if p.isdigit() and int(p)!=os.getpid():\n'
        '    try:\n'
        '      if word in open("/proc/%s/cmdline"%p,"rb").read().split(b"\\0"): n+=1\n'
        '    except OSError: pass\n'
        'print(n)\n'
    )
    return int(sandbox.execute_command(['python3', '-c', code, word]).stdout)


# Life -----------------------------------------------------------------------------------------------------------------


def test_a_sandbox_lives_from_start_to_stop(backend: KindUnderTest) -> None:
    sandbox = backend.make()
    assert sandbox.status is SandboxStatus.INITIALIZING
    with pytest.raises(SandboxStateError, match='start'):
        sandbox.execute_command('true')

    sandbox.start()
    sandbox.start()

    assert sandbox.status is SandboxStatus.RUNNING
    assert sandbox.is_alive()
    assert sandbox.execute_command('echo here').stdout == 'here\n'
    sandbox.stop()
    sandbox.stop()
    assert sandbox.status is SandboxStatus.STOPPED
    with pytest.raises(SandboxStateError):
        sandbox.execute_command('true')


@pytest.mark.isolation
def test_a_stopped_sandbox_can_be_started_afresh(backend: KindUnderTest) -> None:
    sandbox = backend.make()
    with sandbox:
        sandbox.write_file('/sandbox/old', 'x')
    with sandbox:
        assert not sandbox.path_exists('/sandbox/old')


def test_stop_before_start_and_after_a_stop_does_nothing(backend: KindUnderTest) -> None:
    sandbox = backend.make()
    sandbox.stop()
    sandbox.cleanup()
    assert sandbox.status is SandboxStatus.STOPPED


def test_a_forked_child_is_refused_its_parents_sandbox(sandbox: AgentBackedSandbox) -> None:
    """It has copies of the connections and none of the threads behind them."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            signal.alarm(int(PATIENCE))
            refused = 0
            for use in (lambda: sandbox.execute_command('true'), sandbox.start, sandbox.stop, sandbox.cleanup):
                with contextlib.suppress(SandboxStateError):
                    use()
                    continue
                refused += 1
            sandbox.__exit__(None, None, None)
            code = 0 if refused == 4 else 2
        finally:
            os._exit(code)

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert sandbox.execute_command('echo still').stdout == 'still\n'


def test_what_is_kept_is_there_at_the_next_start(backend: KindUnderTest) -> None:
    sandbox = backend.make(remove_on_exit=False)
    try:
        with sandbox:
            sandbox.write_file('/sandbox/kept', 'still here')
        again = backend.make(remove_on_exit=False)
        again.id = sandbox.id
        with again:
            assert again.read_file('/sandbox/kept') == b'still here'
        again.cleanup()
    finally:
        sandbox.cleanup()


def test_stop_does_not_wait_for_programs_that_continue(start: Start) -> None:
    sandbox = start()
    sandbox.execute_command('trap "" TERM; setsid sh -c "trap \\"\\" TERM; sleep 1000" &')
    began = time.monotonic()

    sandbox.stop()

    assert time.monotonic() - began < PATIENCE / 2


def test_stop_ends_a_call_that_is_going_on(start: Start) -> None:
    sandbox = start()
    process = sandbox.start_process('sleep 1000')
    process.wait_started()

    sandbox.stop()

    with contextlib.suppress(SandboxGoneError):
        assert process.wait(PATIENCE).status is not ExecutionStatus.SUCCESS


@pytest.mark.isolation
def test_stop_lets_programs_end_by_themselves(start: Start, tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    sandbox = start(volumes={str(tmp_path): '/shared'})
    process = sandbox.start_process(
        'trap "echo bye > /shared/said; exit" TERM; echo ready; while :; do sleep 0.1; done'
    )
    assert next(iter(process.chunks(PATIENCE))).data == b'ready\n'

    sandbox.stop()

    assert (tmp_path / 'said').read_text() == 'bye\n'


def test_info_shows_no_values_of_the_environment(backend: KindUnderTest) -> None:
    sandbox = backend.make(env_vars={'TOKEN': 'hunter2'}, tools_config=['shell_executor'])

    info = sandbox.get_info()

    assert 'hunter2' not in info.model_dump_json()
    assert info.config['env_vars'] == {'TOKEN': '***'}
    assert info.available_tools == ['shell_executor']
    assert 'hunter2' not in repr(sandbox)


def test_a_sandbox_made_in_a_thread_outlives_the_thread(backend: KindUnderTest) -> None:
    sandbox = backend.make()
    thread = threading.Thread(target=sandbox.start)
    thread.start()
    thread.join()
    try:
        for _ in range(3):
            assert sandbox.execute_command('echo on').stdout == 'on\n'
    finally:
        sandbox.stop()


# How commands end -----------------------------------------------------------------------------------------------------


def test_every_exit_code_is_reported(sandbox: AgentBackedSandbox) -> None:
    for code in (0, 1, 2, 42, 126, 127, 128, 137, 143, 254, 255):
        result = sandbox.execute_command(f'exit {code}')
        assert (result.exit_code, result.signal, result.success) == (code, None, code == 0)


@pytest.mark.parametrize('name', ['SIGKILL', 'SIGTERM', 'SIGSEGV', 'SIGABRT', 'SIGPIPE', 'SIGUSR1'])
def test_death_by_a_signal_is_reported_with_its_name(sandbox: AgentBackedSandbox, name: str) -> None:
    code = (
        'import os,signal,sys,resource\n'
        'resource.setrlimit(resource.RLIMIT_CORE, (0, 0))\n'
        'number = getattr(signal, sys.argv[1])\n'
        'if number != signal.SIGKILL: signal.signal(number, signal.SIG_DFL)\n'
        'os.kill(os.getpid(), number)\n'
    )

    result = sandbox.execute_command(['python3', '-c', code, name])

    assert (result.signal, result.exit_code) == (name, 128 + signal.Signals[name])
    assert result.status is ExecutionStatus.ERROR
    assert not result.oom_killed


def test_a_program_that_is_not_there_ends_with_127(sandbox: AgentBackedSandbox) -> None:
    assert sandbox.execute_command(['no-such-program']).exit_code == 127
    assert sandbox.execute_command('no-such-program').exit_code == 127


def test_a_file_that_may_not_be_executed_ends_with_126(sandbox: AgentBackedSandbox, place: str) -> None:
    sandbox.write_file(f'{place}/text', 'x', mode=0o644)
    assert sandbox.execute_command([f'{place}/text']).exit_code == 126


def test_a_script_without_a_shebang_goes_to_the_shell(sandbox: AgentBackedSandbox, place: str) -> None:
    sandbox.write_file(f'{place}/script', 'echo "$1"', mode=0o755)
    assert sandbox.execute_command([f'{place}/script', 'said']).stdout == 'said\n'


def test_a_sequence_never_meets_a_shell(sandbox: AgentBackedSandbox) -> None:
    args = ['$(id)', '`id`', '; echo x', '*', '"', "'", '\\', '', 'a b', '\n', '漢字']
    code = 'import sys,json; print(json.dumps(sys.argv[1:]))'
    import json

    assert json.loads(sandbox.execute_command(['python3', '-c', code, *args]).stdout) == args


def test_a_string_is_one_shell_program(sandbox: AgentBackedSandbox) -> None:
    assert sandbox.execute_command('a=1; for i in 1 2; do echo "$a$i"; done | tr 1 x').stdout == 'xx\nx2\n'


def test_a_string_that_begins_with_a_dash_is_no_option(sandbox: AgentBackedSandbox) -> None:
    assert sandbox.execute_command('-c').exit_code == 127


# Time -----------------------------------------------------------------------------------------------------------------


def test_a_timeout_keeps_partial_output_and_says_so(sandbox: AgentBackedSandbox) -> None:
    result = sandbox.execute_command('echo before; echo problem >&2; sleep 1000', timeout=1.5)

    assert result.status is ExecutionStatus.TIMEOUT
    assert result.timed_out
    assert (result.stdout, result.stderr) == ('before\n', 'problem\n')


def test_a_timeout_kills_whatever_the_call_started(sandbox: AgentBackedSandbox) -> None:
    code = (
        'import os,sys,time\n'
        'def daemon(depth):\n'
        '  if os.fork(): return\n'
        '  os.setsid()\n'
        '  if depth: daemon(depth-1)\n'
        '  os.execvp("sleep",["sleep","98765"])\n'
        'for _ in range(5): daemon(3)\n'
        'print("started",flush=True)\n'
        'time.sleep(1000)\n'
    )

    result = sandbox.execute_command(['python3', '-c', code], timeout=2.0)

    assert result.timed_out
    assert result.stdout == 'started\n'
    assert running(sandbox, '98765') == 0


def test_a_program_that_ignores_signals_is_killed_at_the_limit(sandbox: AgentBackedSandbox) -> None:
    result = sandbox.execute_command('trap "" TERM INT HUP; while :; do sleep 5; done', timeout=0.5)
    assert result.timed_out
    assert result.signal == 'SIGKILL'


@pytest.mark.limits
@pytest.mark.isolation
def test_a_fork_bomb_is_killed_at_the_limit(start: Start) -> None:
    sandbox = start(pids_limit=64)
    code = 'import os\nwhile True:\n  try: os.fork()\n  except OSError: pass\n'

    with sandbox.start_process('read word; echo "$word"', timeout=None, open_stdin=True) as other:
        result = sandbox.execute_command(['python3', '-c', code], timeout=2.0)

        assert result.timed_out
        assert sandbox.execute_command('echo alive').stdout == 'alive\n'
        other.write(b'unharmed\n')
        assert other.wait(PATIENCE).stdout == 'unharmed\n'


def test_no_time_limit_is_zero(sandbox: AgentBackedSandbox) -> None:
    assert sandbox.execute_command('sleep 0.2; echo done', timeout=0).stdout == 'done\n'


def test_the_configured_time_limit_holds_where_the_call_names_none(start: Start) -> None:
    assert start(timeout=0.5).execute_command('sleep 1000').timed_out


def test_a_background_child_does_not_hold_the_call(sandbox: AgentBackedSandbox) -> None:
    began = time.monotonic()

    result = sandbox.execute_command('sleep 97531 & echo out', timeout=PATIENCE)

    assert (result.stdout, result.timed_out) == ('out\n', False)
    assert time.monotonic() - began < PATIENCE
    assert wait_until(lambda: running(sandbox, '97531') == 1), 'it may have to become sleep(1) first'
    sandbox.execute_command('pkill -f 97531 || kill $(grep -l 97531 /proc/[0-9]*/cmdline | cut -d/ -f3)')


# Output ---------------------------------------------------------------------------------------------------------------


def test_stdout_and_stderr_come_apart(sandbox: AgentBackedSandbox) -> None:
    result = sandbox.execute_command('echo out; echo err >&2; printf tail')
    assert (result.stdout, result.stderr) == ('out\ntail', 'err\n')
    assert (result.stdout_bytes, result.stderr_bytes) == (8, 4)


def test_output_over_the_cap_keeps_head_and_tail_and_true_counts(sandbox: AgentBackedSandbox) -> None:
    result = sandbox.execute_command('echo first; seq 1 200000; echo last', max_output_bytes=1000)

    assert result.stdout.startswith('first\n1\n')
    assert result.stdout.endswith('200000\nlast\n')
    assert 'bytes left out' in result.stdout
    assert len(result.stdout) < 1200
    assert result.stdout_truncated
    assert result.stdout_bytes == 1288895 + 11
    assert not result.stderr_truncated


def test_output_that_fits_exactly_is_whole(sandbox: AgentBackedSandbox) -> None:
    result = sandbox.execute_command('printf 0123456789', max_output_bytes=10)
    assert (result.stdout, result.stdout_truncated) == ('0123456789', False)


def test_characters_split_between_writes_stay_whole(sandbox: AgentBackedSandbox) -> None:
    code = 'import os,time\nfor b in "漢字🐍é".encode()*3:\n  os.write(1,bytes([b])); time.sleep(0.002)\n'
    assert sandbox.execute_command(['python3', '-c', code]).stdout == '漢字🐍é' * 3


def test_invalid_utf8_is_shown_and_not_lost(sandbox: AgentBackedSandbox) -> None:
    result = sandbox.execute_command(['python3', '-c', 'import os; os.write(1, b"a\\xff\\xfe\\x00z")'])
    assert result.stdout == 'a\\xff\\xfe\0z'
    assert result.stdout_bytes == 5


def test_binary_output_comes_out_exact_from_a_process(sandbox: AgentBackedSandbox) -> None:
    data = bytes(range(256)) * 1000
    process = sandbox.start_process(['cat'], open_stdin=True)

    out, err = process.communicate(data, PATIENCE)

    assert (out, err) == (data, b'')


def resident_bytes() -> int:
    return int(Path('/proc/self/statm').read_text().split()[1]) * os.sysconf('SC_PAGE_SIZE')


def test_two_hundred_megabytes_in_one_line_do_not_grow_the_host(sandbox: AgentBackedSandbox) -> None:
    command = 'head -c 209715200 /dev/zero | tr "\\0" x'
    sandbox.execute_command('echo warm', max_output_bytes=65536)
    before = resident_bytes()

    result = sandbox.execute_command(command, timeout=PATIENCE, max_output_bytes=65536)

    assert result.stdout_bytes == 209715200
    assert result.stdout_truncated
    assert resident_bytes() - before < 8 * MIB


# Input ----------------------------------------------------------------------------------------------------------------


def test_without_input_a_program_reads_end_of_file(sandbox: AgentBackedSandbox) -> None:
    assert sandbox.execute_command('cat; echo end').stdout == 'end\n'
    assert sandbox.execute_command(['python3', '-c', 'import sys; print(repr(sys.stdin.read()))']).stdout == "''\n"


@pytest.mark.parametrize('size', [0, 1, 65536, 65537, 3 * MIB])
def test_input_of_any_size_arrives_whole(sandbox: AgentBackedSandbox, size: int) -> None:
    data = os.urandom(size)
    import hashlib

    result = sandbox.execute_command('sha256sum', stdin=data)

    assert result.stdout.split()[0] == hashlib.sha256(data).hexdigest()


def test_a_program_may_leave_its_input_unread(sandbox: AgentBackedSandbox) -> None:
    assert sandbox.execute_command('head -c 3', stdin=b'abc' * MIB).stdout == 'abc'


# Where, as whom, with what -------------------------------------------------------------------------------------------


@pytest.mark.isolation
def test_calls_begin_in_the_working_directory(sandbox: AgentBackedSandbox, start: Start) -> None:
    assert sandbox.execute_command('pwd').stdout == '/sandbox\n'
    assert sandbox.execute_command('touch here && rm here').success
    other = start(working_dir='/sandbox/deeper/still')
    assert other.execute_command('pwd; touch x').stdout == '/sandbox/deeper/still\n'


def test_cwd_is_absolute_or_below_the_working_directory(sandbox: AgentBackedSandbox, place: str) -> None:
    assert sandbox.execute_command('pwd', cwd='/usr').stdout == '/usr\n'
    assert sandbox.execute_command('pwd', cwd=place.rsplit('/', 1)[1]).stdout == f'{place}\n'


def test_a_cwd_that_is_not_there_is_an_error(sandbox: AgentBackedSandbox) -> None:
    with pytest.raises(InvalidArgumentError, match=r'cwd.*/nowhere'):
        sandbox.execute_command('pwd', cwd='/nowhere')


def test_env_is_added_to_the_configured_one(start: Start) -> None:
    sandbox = start(env_vars={'A': 'config', 'B': 'config', 'N': 8000})

    result = sandbox.execute_command('echo "$A $B $N $C"', env={'B': 'call', 'C': 'x=$y\n"z"'})

    assert result.stdout == 'config call 8000 x=$y\n"z"\n'
    assert sandbox.execute_command('echo "$B$C"').stdout == 'config\n'


@pytest.mark.isolation
def test_the_hosts_environment_does_not_come_along(backend: KindUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('ENCLAVE_TEST_SECRET', 'hunter2')
    with backend.make() as sandbox:
        result = sandbox.execute_command('env; cat /proc/*/environ')
        assert 'PATH=' in result.stdout
        assert 'hunter2' not in result.stdout


def test_a_user_who_does_not_exist_is_an_error(sandbox: AgentBackedSandbox) -> None:
    with pytest.raises(InvalidArgumentError, match='nosuchuser'):
        sandbox.execute_command('id', user='nosuchuser')
    with pytest.raises(InvalidArgumentError):
        sandbox.execute_command('id', user='root:nosuchgroup')


@pytest.mark.parametrize(
    ('command', 'options', 'match'),
    [
        ('', {}, 'command is empty'),
        ('   ', {}, 'command is empty'),
        ([], {}, 'command'),
        ([''], {}, 'empty'),
        (['a', 1], {}, 'list of strings'),
        ('a\0b', {}, 'NUL'),
        ('true', {'timeout': -1}, 'timeout'),
        ('true', {'timeout': 'soon'}, 'timeout'),
        ('true', {'env': {'A=B': 'x'}}, 'env'),
        ('true', {'env': ['A']}, 'env'),
        ('true', {'cwd': ''}, 'cwd'),
        ('true', {'max_output_bytes': 0}, 'max_output_bytes'),
        ('true', {'stdin': 5}, 'stdin'),
    ],
)
def test_impossible_arguments_are_named(
    sandbox: AgentBackedSandbox, command: object, options: dict[str, object], match: str
) -> None:
    with pytest.raises(InvalidArgumentError, match=match):
        sandbox.execute_command(command, **options)  # type: ignore[arg-type]


def test_an_argument_that_there_is_none_of_is_a_type_error(sandbox: AgentBackedSandbox) -> None:
    with pytest.raises(TypeError, match='colour'):
        sandbox.execute_command('true', colour='red')  # type: ignore[call-arg]


def test_an_argument_too_long_for_the_kernel_is_reported(sandbox: AgentBackedSandbox) -> None:
    result = sandbox.execute_command(['echo', 'x' * 300_000])
    assert result.exit_code == 126
    assert 'cannot run' in result.stderr


@pytest.mark.isolation
def test_volumes_are_seen_and_read_only_ones_stay_as_they_are(start: Start, tmp_path: Path) -> None:
    for name in ('rw', 'ro'):
        (tmp_path / name).mkdir()
        (tmp_path / name).chmod(0o777)
        (tmp_path / name / 'there').write_text(name)
    sandbox = start(
        volumes={
            str(tmp_path / 'rw'): {'bind': '/data/rw', 'mode': 'rw'},
            str(tmp_path / 'ro'): {'bind': '/data/ro', 'mode': 'ro'},
        }
    )

    assert sandbox.execute_command('cat /data/rw/there /data/ro/there').stdout == 'rwro'
    assert sandbox.execute_command('echo new > /data/rw/new').success
    assert (tmp_path / 'rw' / 'new').read_text() == 'new\n'
    result = sandbox.execute_command('echo new > /data/ro/new')
    assert not result.success
    assert 'ead-only' in result.stderr


@pytest.mark.isolation
def test_a_volume_that_is_not_there_fails_the_start(backend: KindUnderTest, tmp_path: Path) -> None:
    sandbox = backend.make(volumes={str(tmp_path / 'missing'): '/data'})
    with pytest.raises(SandboxError, match='missing'):
        sandbox.start()
    assert sandbox.status is SandboxStatus.ERROR


# Limits ---------------------------------------------------------------------------------------------------------------


@pytest.mark.limits
def test_running_out_of_memory_is_reported_as_such(start: Start) -> None:
    sandbox = start(memory_limit='128m')

    result = sandbox.execute_command(['python3', '-c', 'x = b"x" * (400 << 20)'], timeout=PATIENCE)

    assert not result.success
    assert result.oom_killed or 'MemoryError' in result.stderr
    assert sandbox.execute_command('echo alive').stdout == 'alive\n'


@pytest.mark.limits
def test_the_process_limit_holds(start: Start) -> None:
    sandbox = start(pids_limit=32)
    code = (
        'import os,time\n'
        'n=0\n'
        'try:\n'
        '  while n < 200:\n'
        '    if os.fork()==0: time.sleep(1000)\n'
        '    n+=1\n'
        'except OSError as e: print("refused", n)\n'
    )

    result = sandbox.execute_command(['python3', '-c', code])

    word, count = result.stdout.split()
    assert word == 'refused'
    assert int(count) < 32


# Programs that continue -------------------------------------------------------------------------------------------------


def test_output_comes_while_the_program_runs(sandbox: AgentBackedSandbox) -> None:
    with sandbox.start_process(
        'echo one; read line; echo "got $line"; echo bad >&2; exit 3', open_stdin=True
    ) as process:
        chunks = process.chunks(PATIENCE)
        assert next(chunks).data == b'one\n'
        assert process.poll() is None
        process.write(b'two\n')
        rest = [(each.stream, each.data) for each in chunks]

    assert sorted(rest) == [('stderr', b'bad\n'), ('stdout', b'got two\n')]
    assert process.result is not None
    assert (process.result.exit_code, process.result.stdout) == (3, 'one\ngot two\n')


def test_a_process_can_be_signalled(sandbox: AgentBackedSandbox) -> None:
    process = sandbox.start_process('trap "echo caught; exit 7" USR1; echo ready; while :; do sleep 0.1; done')
    chunks = process.chunks(PATIENCE)
    assert next(chunks).data == b'ready\n'

    process.send_signal('SIGUSR1')

    result = process.wait(PATIENCE)
    assert (result.exit_code, result.stdout) == (7, 'ready\ncaught\n')
    process.send_signal('SIGTERM')
    with pytest.raises(InvalidArgumentError):
        process.send_signal('SIGNOTHING')


def test_a_signal_right_after_the_first_output_is_not_lost(sandbox: AgentBackedSandbox) -> None:
    for _ in range(30):
        process = sandbox.start_process('trap "exit 7" USR1; echo ready; while :; do sleep 0.02; done')
        next(iter(process.chunks(PATIENCE)))
        process.send_signal('SIGUSR1')
        assert process.wait(PATIENCE).exit_code == 7


def test_a_process_can_be_killed_with_all_it_started(sandbox: AgentBackedSandbox) -> None:
    process = sandbox.start_process('setsid sleep 86420 & sleep 86420')
    assert process.wait_started(PATIENCE) > 1

    process.kill()

    assert process.wait(PATIENCE).status is ExecutionStatus.CANCELLED
    assert running(sandbox, '86420') == 0


def test_leaving_the_block_kills_the_process(sandbox: AgentBackedSandbox) -> None:
    with sandbox.start_process('sleep 75319') as process:
        process.wait_started(PATIENCE)

    assert running(sandbox, '75319') == 0


def test_waiting_for_a_process_may_end_before_it_does(sandbox: AgentBackedSandbox) -> None:
    with sandbox.start_process('sleep 1000') as process:
        with pytest.raises(OperationTimeoutError):
            process.wait(0.2)
        assert process.poll() is None


def test_a_process_has_its_own_time_limit(sandbox: AgentBackedSandbox) -> None:
    assert sandbox.start_process('sleep 1000', timeout=0.3).wait(PATIENCE).timed_out


def test_output_nobody_takes_stays_in_the_sandbox(sandbox: AgentBackedSandbox) -> None:
    before = resident_bytes()
    with sandbox.start_process('yes') as process:
        process.wait_started(PATIENCE)
        assert sandbox.execute_command('echo quick').stdout == 'quick\n'
        assert resident_bytes() - before < 16 * MIB


def test_a_server_is_never_held_up_by_its_own_log(sandbox: AgentBackedSandbox, place: str) -> None:
    command = f'seq 1 300000; touch {place}/done; sleep 1000'
    with sandbox.start_process(command, live=False) as process:
        until = time.monotonic() + PATIENCE
        while not sandbox.path_exists(f'{place}/done') and time.monotonic() < until:
            pass
        assert sandbox.path_exists(f'{place}/done')
        process.kill()
        result = process.wait(PATIENCE)
    assert result.stdout_bytes == 1988895
    assert result.stdout.startswith('1\n2\n')
    assert result.stdout.endswith('300000\n')


def test_a_terminal_is_one(sandbox: AgentBackedSandbox) -> None:
    with sandbox.start_process('tty && stty size && read line && echo "got $line"', tty=(33, 77)) as process:
        process.write(b'hello\n')

        result = process.wait(PATIENCE)

    assert '/dev/pts/' in result.stdout
    assert '33 77' in result.stdout
    assert 'got hello' in result.stdout


def test_a_terminal_refuses_a_size_that_none_has(sandbox: AgentBackedSandbox) -> None:
    wrong: list[Any] = [(65536, 2), (2, 65536), (0, 0), (-1, 5), (24.0, 80), (True, True), ('24', '80')]
    with sandbox.start_process('read line; stty size', tty=True) as process:
        for rows, columns in wrong:
            with pytest.raises(InvalidArgumentError, match='the size of a terminal must be'):
                process.resize(rows, columns)
        process.resize(65535, 1)
        process.write('go\n')

        assert '65535 1' in process.wait(PATIENCE).stdout


@pytest.mark.parametrize('line', ['', 'whole\n', 'unfinished', 'two\nlines'])
def test_the_input_of_a_terminal_ends_in_the_midst_of_a_line_too(sandbox: AgentBackedSandbox, line: str) -> None:
    with sandbox.start_process('stty -echo; echo ready; cat; echo end', tty=True, timeout=PATIENCE) as process:
        assert 'ready' in next(process.chunks(PATIENCE)).text
        process.write(line)
        process.close_stdin()

        result = process.wait(PATIENCE)

    assert (result.exit_code, result.stdout.replace('\r', '')) == (0, f'ready\n{line}end\n')


def test_input_that_is_none_is_refused(sandbox: AgentBackedSandbox) -> None:
    with sandbox.start_process('cat', open_stdin=True) as process:
        for data in (5, None, ['x'], '\ud800'):
            with pytest.raises(InvalidArgumentError, match='data'):
                process.write(data)  # type: ignore[arg-type]
        process.write('text, ')
        process.write(memoryview(b'and bytes'))  # type: ignore[arg-type]
        process.close_stdin()

        assert process.wait(PATIENCE).stdout == 'text, and bytes'


def test_a_terminal_passes_ctrl_c_on(sandbox: AgentBackedSandbox) -> None:
    # The import comes first: a signal that Python takes in the midst of one is lost at times, in a callback of importlib.
    program = 'import time\nprint("go")\ntime.sleep(1000)'
    with sandbox.start_process(['python3', '-uc', program], tty=(24, 80)) as process:
        assert b'go' in next(iter(process.chunks(PATIENCE))).data

        process.write(b'\x03')

        assert 'KeyboardInterrupt' in process.wait(PATIENCE).stdout


# Scripts and tools ---------------------------------------------------------------------------------------------------


def test_a_script_runs_from_a_private_file(sandbox: AgentBackedSandbox) -> None:
    source = 'import sys, os\nprint(sys.argv[1:], oct(os.stat(__file__).st_mode & 0o777), __file__.endswith(".py"))'

    result = sandbox.run_script(['python3'], source, suffix='.py', args=['a b', '$c'])

    assert result.stdout == "['a b', '$c'] 0o600 True\n"
    path = sandbox.run_script(['python3'], 'print(__file__)', suffix='.py').stdout.strip()
    assert not sandbox.path_exists(path)


def test_a_long_script_with_input_runs(sandbox: AgentBackedSandbox) -> None:
    source = '#' * (2 * MIB) + '\nimport sys\nprint(len(sys.stdin.read()))'
    assert sandbox.run_script(['python3'], source, stdin='x' * MIB).stdout == f'{MIB}\n'


def test_python_code_runs_as_a_tool(sandbox: AgentBackedSandbox) -> None:
    result = sandbox.execute_tool('python_executor', {'code': 'print(6 * 7)'})
    assert (result.output.strip(), result.error, result.exit_code) == ('42', None, 0)
    failed = sandbox.execute_tool('python_executor', {'code': '1/0'})
    assert failed.status is ExecutionStatus.ERROR
    assert 'ZeroDivisionError' in (failed.error or '')


def test_the_shell_runs_as_a_tool(sandbox: AgentBackedSandbox) -> None:
    assert sandbox.execute_tool('shell_executor', {'command': 'echo $((6 * 7))'}).output.strip() == '42'


def test_files_are_handled_by_a_tool(sandbox: AgentBackedSandbox, place: str) -> None:
    path = f'{place}/by tool'
    written = sandbox.execute_tool('file_operation', {'operation': 'write', 'file_path': path, 'content': 'héllo'})
    assert written.success, written.error
    read = sandbox.execute_tool('file_operation', {'operation': 'read', 'file_path': path})
    assert read.output == 'héllo'


def test_a_tool_that_was_not_enabled_is_named(sandbox: AgentBackedSandbox) -> None:
    with pytest.raises(ToolNotFoundError, match='notebook_executor'):
        sandbox.execute_tool('notebook_executor', {})


# Many at once --------------------------------------------------------------------------------------------------------


def test_eight_threads_with_twenty_five_calls_each_get_their_own_answers(sandbox: AgentBackedSandbox) -> None:
    def work(thread: int) -> list[str]:
        return [sandbox.execute_command(f'echo {thread} {number}').stdout for number in range(25)]

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(work, range(8)))

    assert answers == [[f'{thread} {number}\n' for number in range(25)] for thread in range(8)]


def test_a_long_call_does_not_delay_a_short_one(sandbox: AgentBackedSandbox) -> None:
    with sandbox.start_process('sleep 1000'), sandbox.start_process('yes > /dev/null', timeout=PATIENCE):
        assert sandbox.execute_command('echo short', timeout=PATIENCE).stdout == 'short\n'


def test_a_large_transfer_does_not_delay_a_short_call(sandbox: AgentBackedSandbox, place: str) -> None:
    data = os.urandom(32 * MIB)
    thread = threading.Thread(target=sandbox.write_file, args=(f'{place}/large', data))
    thread.start()
    assert sandbox.execute_command('echo short').stdout == 'short\n'
    thread.join()
    assert sandbox.stat_path(f'{place}/large').size == len(data)


def test_a_cancelled_call_ends_with_its_processes(sandbox: AgentBackedSandbox) -> None:
    cancellation = Cancellation()
    results = []

    def work() -> None:
        with cancellation.applied():
            results.append(sandbox.execute_command('sleep 64208', timeout=PATIENCE))

    thread = threading.Thread(target=work)
    thread.start()
    until = time.monotonic() + PATIENCE
    while running(sandbox, '64208') == 0 and time.monotonic() < until:
        pass
    cancellation.cancel()
    thread.join(PATIENCE)

    assert [result.status for result in results] == [ExecutionStatus.CANCELLED]
    assert running(sandbox, '64208') == 0


def test_what_was_cancelled_before_it_began_does_not_run(sandbox: AgentBackedSandbox, place: str) -> None:
    cancellation = Cancellation()
    cancellation.cancel()
    with cancellation.applied():
        result = sandbox.execute_command(f'sleep 3; touch {place}/ran')
    assert result.status is ExecutionStatus.CANCELLED
    assert not sandbox.path_exists(f'{place}/ran')


# Files ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('name', ABSURD_NAMES)
def test_a_path_is_data(sandbox: AgentBackedSandbox, place: str, name: str) -> None:
    path = f'{place}/{name}'

    assert sandbox.write_file(path, 'content') == 7

    assert sandbox.read_file(path) == b'content'
    assert [entry.path for entry in sandbox.list_dir(place)] == [name]
    assert sandbox.stat_path(path).kind == 'file'
    sandbox.move_path(path, f'{place}/plain')
    sandbox.move_path(f'{place}/plain', path)
    sandbox.remove_path(path)
    assert sandbox.list_dir(place) == []


@pytest.mark.parametrize('size', [0, 1, 65535, 65536, 65537, 5 * MIB + 3])
def test_files_of_any_size_go_in_and_out(sandbox: AgentBackedSandbox, place: str, size: int) -> None:
    data = os.urandom(size)
    assert sandbox.write_file(f'{place}/file', data) == size
    assert sandbox.read_file(f'{place}/file') == data
    assert sandbox.read_file(f'{place}/file', offset=size // 2, max_bytes=10) == data[size // 2 : size // 2 + 10]


def test_writing_appends_replaces_or_refuses(sandbox: AgentBackedSandbox, place: str) -> None:
    path = f'{place}/a/b/file'
    sandbox.write_file(path, 'one', mode=0o640)
    assert sandbox.write_file(path, 'two', append=True) == 6
    assert sandbox.read_file(path) == b'onetwo'
    assert stat.S_IMODE(sandbox.stat_path(path).mode) == 0o640
    sandbox.write_file(path, 'new')
    assert stat.S_IMODE(sandbox.stat_path(path).mode) == 0o640
    with pytest.raises(SandboxPathExistsError):
        sandbox.write_file(path, 'x', exclusive=True)
    with pytest.raises(SandboxPathNotFoundError):
        sandbox.write_file(f'{place}/no/such/dir', 'x', make_parents=False)
    assert sandbox.read_file(path) == b'new'


def test_an_aborted_write_leaves_the_old_content(sandbox: AgentBackedSandbox, place: str) -> None:
    sandbox.write_file(f'{place}/file', 'old')

    def pieces() -> Iterator[bytes]:
        yield b'x' * 100_000
        yield b'y' * 100_000
        raise RuntimeError('the source failed')

    with pytest.raises(RuntimeError, match='the source failed'):
        sandbox.write_file(f'{place}/file', pieces())

    assert sandbox.read_file(f'{place}/file') == b'old'


def test_what_cannot_be_read_is_reported(sandbox: AgentBackedSandbox, place: str) -> None:
    with pytest.raises(SandboxPathNotFoundError):
        sandbox.read_file(f'{place}/missing')
    with pytest.raises(FileNotFoundError):
        sandbox.read_file(f'{place}/missing')
    with pytest.raises(SandboxPathError):
        sandbox.read_file(place)
    with pytest.raises(SandboxPathError):
        sandbox.write_file(place, 'x')
    with pytest.raises(SandboxPathError):
        sandbox.write_file('/proc/version', 'x')
    sandbox.execute_command(['mkfifo', f'{place}/fifo'])
    with pytest.raises(SandboxPathError):
        sandbox.read_file(f'{place}/fifo')
    with pytest.raises(InvalidArgumentError):
        sandbox.read_file('')
    with pytest.raises(InvalidArgumentError):
        sandbox.read_file('a\0b')


def test_directories_are_made_listed_and_removed(sandbox: AgentBackedSandbox, place: str) -> None:
    sandbox.make_dir(f'{place}/a/b', mode=0o750)
    sandbox.make_dir(f'{place}/a/b')
    sandbox.write_file(f'{place}/a/file', 'x')
    sandbox.execute_command(['ln', '-s', 'nowhere', f'{place}/a/link'])
    with pytest.raises(SandboxPathExistsError):
        sandbox.make_dir(f'{place}/a/b', exist_ok=False)

    found = {entry.path: (entry.kind, entry.target) for entry in sandbox.list_dir(place, recursive=True)}

    assert found == {
        'a': ('directory', None),
        'a/b': ('directory', None),
        'a/file': ('file', None),
        'a/link': ('symlink', 'nowhere'),
    }
    assert stat.S_IMODE(sandbox.stat_path(f'{place}/a/b').mode) == 0o750
    assert sandbox.path_exists(f'{place}/a/link')
    with pytest.raises(SandboxPathError):
        sandbox.remove_path(f'{place}/a')
    sandbox.remove_path(f'{place}/a', recursive=True)
    sandbox.remove_path(f'{place}/a', recursive=True, missing_ok=True)
    with pytest.raises(SandboxPathNotFoundError):
        sandbox.remove_path(f'{place}/a')
    with pytest.raises(InvalidArgumentError):
        sandbox.remove_path('/', recursive=True)


def test_copies_are_whole_and_the_source_stays(sandbox: AgentBackedSandbox, place: str) -> None:
    sandbox.write_file(f'{place}/d/s/file', b'\0data', mode=0o640)
    sandbox.execute_command(['ln', '-s', 's/file', f'{place}/d/link'])
    with pytest.raises(SandboxPathError):
        sandbox.copy_path(f'{place}/d', f'{place}/other')  # a directory only where that is asked for

    sandbox.copy_path(f'{place}/d', f'{place}/other', recursive=True)

    found = {entry.path: (entry.kind, entry.target) for entry in sandbox.list_dir(f'{place}/other', recursive=True)}
    assert found == {'s': ('directory', None), 's/file': ('file', None), 'link': ('symlink', 's/file')}
    assert sandbox.read_file(f'{place}/other/s/file') == sandbox.read_file(f'{place}/d/s/file') == b'\0data'
    assert sandbox.stat_path(f'{place}/other/s/file').mode == 0o640
    with pytest.raises(SandboxPathExistsError):
        sandbox.copy_path(f'{place}/d/s/file', f'{place}/other/s/file')
    with pytest.raises(SandboxPathError):
        sandbox.copy_path(f'{place}/d', f'{place}/d/s', recursive=True)  # into itself


def test_a_copy_that_is_cancelled_leaves_nothing(sandbox: AgentBackedSandbox, place: str) -> None:
    sandbox.execute_command(['truncate', '-s', '300M', f'{place}/large'])
    under_way = threading.Event()

    def watch() -> None:
        while not any(entry.path.startswith('.enclave-') for entry in sandbox.list_dir(place)):
            pass
        under_way.set()

    threading.Thread(target=watch, daemon=True).start()
    cancel_midway(lambda: sandbox.copy_path(f'{place}/large', f'{place}/copy'), under_way)

    assert [entry.path for entry in sandbox.list_dir(place)] == ['large']


def test_moving_does_not_overwrite_by_accident(sandbox: AgentBackedSandbox, place: str) -> None:
    sandbox.write_file(f'{place}/one', '1')
    sandbox.write_file(f'{place}/two', '2')
    with pytest.raises(SandboxPathExistsError):
        sandbox.move_path(f'{place}/one', f'{place}/two')
    sandbox.move_path(f'{place}/one', f'{place}/two', overwrite=True)
    assert sandbox.read_file(f'{place}/two') == b'1'
    assert not sandbox.path_exists(f'{place}/one')


@pytest.mark.parametrize('end', ['/', '//', '/.', '/..'])
def test_no_file_is_reached_as_a_directory(sandbox: AgentBackedSandbox, place: str, end: str) -> None:
    sandbox.write_file(f'{place}/file', 'old')
    sandbox.write_file(f'{place}/other', 'new')
    name = f'{place}/file{end}'
    for call in (
        lambda: sandbox.copy_path(f'{place}/other', name, overwrite=True),
        lambda: sandbox.move_path(f'{place}/other', name, overwrite=True),
        lambda: sandbox.copy_path(name, f'{place}/copy'),
        lambda: sandbox.move_path(name, f'{place}/moved'),
        lambda: sandbox.get_archive(name),
        lambda: sandbox.read_file(name),
    ):
        with pytest.raises(SandboxPathError, match=re.escape(f'Not a directory: {name!r}')):
            call()
    with pytest.raises(SandboxPathError, match=re.escape(f'Is a directory: {name!r}')):
        sandbox.write_file(name, 'new')
    assert {each.path: sandbox.read_file(f'{place}/{each.path}') for each in sandbox.list_dir(place)} == {
        'file': b'old',
        'other': b'new',
    }


def test_moving_what_is_not_there_names_it(sandbox: AgentBackedSandbox, place: str) -> None:
    with pytest.raises(SandboxPathNotFoundError, match=re.escape(f'{place}/nothing')):
        sandbox.move_path(f'{place}/nothing', f'{place}/new')


def make_tree(root: Path) -> None:
    (root / 'empty').mkdir(parents=True)
    (root / 'deep' / 'er').mkdir(parents=True)
    (root / 'deep' / 'er' / 'program').write_text('#!/bin/sh\necho ran\n')
    (root / 'deep' / 'er' / 'program').chmod(0o755)
    (root / 'private').write_bytes(os.urandom(200_000))
    (root / 'private').chmod(0o600)
    (root / 'link').symlink_to('deep/er')
    (root / 'dangling').symlink_to('nowhere')
    for name in ABSURD_NAMES:
        (root / 'deep' / name).write_text(name)


def read_tree(root: Path) -> dict[str, tuple[int, object]]:
    found: dict[str, tuple[int, object]] = {}
    for path in root.rglob('*'):
        name, mode = str(path.relative_to(root)), stat.S_IMODE(path.lstat().st_mode)
        if path.is_symlink():
            found[name] = (0, os.readlink(path))
        else:
            found[name] = (mode, None if path.is_dir() else path.read_bytes())
    return found


def test_a_directory_goes_in_and_out_as_it_is(sandbox: AgentBackedSandbox, place: str, tmp_path: Path) -> None:
    make_tree(tmp_path / 'in')

    assert sandbox.put_dir(tmp_path / 'in', f'{place}/tree')
    sandbox.get_dir(f'{place}/tree', tmp_path / 'out')

    assert read_tree(tmp_path / 'out') == read_tree(tmp_path / 'in')
    assert sandbox.execute_command([f'{place}/tree/deep/er/program']).stdout == 'ran\n'


def test_a_directory_is_merged_with_what_is_there(sandbox: AgentBackedSandbox, place: str, tmp_path: Path) -> None:
    sandbox.write_file(f'{place}/tree/other', 'stays')
    make_tree(tmp_path / 'in')
    sandbox.put_dir(tmp_path / 'in', f'{place}/tree')
    assert sandbox.read_file(f'{place}/tree/other') == b'stays'
    with pytest.raises(NotADirectoryError):
        sandbox.put_dir(tmp_path / 'nothing', place)


def test_a_file_goes_in_and_out_as_it_is(sandbox: AgentBackedSandbox, place: str, tmp_path: Path) -> None:
    source = tmp_path / 'source.bin'
    source.write_bytes(os.urandom(300_000))
    source.chmod(0o750)

    assert sandbox.put_file(source, f'{place}/') == 300_000
    assert sandbox.get_file(f'{place}/source.bin', tmp_path / 'back') == 300_000

    assert (tmp_path / 'back').read_bytes() == source.read_bytes()
    assert stat.S_IMODE(sandbox.stat_path(f'{place}/source.bin').mode) == 0o750
    assert sandbox.put_file(io.BytesIO(b'from an object'), f'{place}/object') == 14
    assert sandbox.get_file(f'{place}/object') == b'from an object'
    with pytest.raises(FileNotFoundError):
        sandbox.put_file(tmp_path / 'missing', place)
    with pytest.raises(SandboxPathNotFoundError):
        sandbox.get_file(f'{place}/missing', tmp_path / 'never')
    assert not (tmp_path / 'never').exists()


@pytest.mark.parametrize('compression', ['', 'gz', 'bz2', 'xz'])
def test_an_archive_goes_in_and_out(sandbox: AgentBackedSandbox, place: str, tmp_path: Path, compression: str) -> None:
    make_tree(tmp_path / 'in')
    archive = tmp_path / 'archive.tar'
    with tarfile.open(archive, f'w:{compression}') as made:
        made.add(tmp_path / 'in', 'top')

    sandbox.put_archive(archive, place)
    data = sandbox.get_archive(f'{place}/top')

    assert isinstance(data, bytes)
    with tarfile.open(fileobj=io.BytesIO(data)) as got:
        got.extraction_filter = getattr(tarfile, 'tar_filter', None)  # patch releases before 3.11.4 have none
        got.extractall(tmp_path / 'out')
    assert read_tree(tmp_path / 'out' / 'top') == read_tree(tmp_path / 'in')


def hostile_archive(kind: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode='w') as archive:
        member = tarfile.TarInfo('harmless')
        if kind == 'parent':
            member.name = '../../outside'
        elif kind == 'symlink':
            link = tarfile.TarInfo('way')
            link.type, link.linkname = tarfile.SYMTYPE, '../..'
            archive.addfile(link)
            member.name = 'way/outside'
        elif kind == 'hardlink':
            member.type, member.linkname = tarfile.LNKTYPE, '../../../etc/passwd'
        elif kind == 'device':
            member.type, member.devmajor, member.devminor = tarfile.CHRTYPE, 1, 3
        if member.isreg():
            member.size = 4
            archive.addfile(member, io.BytesIO(b'evil'))
        else:
            archive.addfile(member)
    return buffer.getvalue()


@pytest.mark.parametrize('kind', ['parent', 'symlink', 'hardlink', 'device'])
def test_an_archive_with_members_outside_is_refused(sandbox: AgentBackedSandbox, place: str, kind: str) -> None:
    with pytest.raises(SandboxPathError):
        sandbox.put_archive(hostile_archive(kind), f'{place}/deep/target')
    assert not sandbox.path_exists(f'{place}/outside')
    assert not sandbox.path_exists(f'{place}/deep/outside')


def test_what_is_no_archive_is_refused(sandbox: AgentBackedSandbox, place: str) -> None:
    with pytest.raises(SandboxPathError):
        sandbox.put_archive(b'this is not a tar archive at all' * 100, place)


def test_links_in_the_sandbox_do_not_lead_out_on_the_host(
    sandbox: AgentBackedSandbox, place: str, tmp_path: Path
) -> None:
    sandbox.make_dir(f'{place}/tree')
    sandbox.execute_command(['ln', '-s', str(tmp_path / 'outside'), f'{place}/tree/link'])
    with contextlib.suppress(SandboxPathError):
        sandbox.get_dir(f'{place}/tree', tmp_path / 'out')
    assert not (tmp_path / 'out' / 'link').is_symlink()


# Transfers that are cancelled -----------------------------------------------------------------------------------------


SIZES = [10, 3 * MIB, 9 * MIB]
SOURCES: dict[str, Callable[[Path, int], Any]] = {
    'path': lambda folder, size: host_file(folder / 'source', size),
    'bytes': lambda folder, size: bytes(size),
    'file object': lambda folder, size: io.BytesIO(bytes(size)),
    'iterable': lambda folder, size: (bytes(min(size, MIB)) for _ in range(-(-size // MIB))),
}


def host_file(path: Path, size: int) -> Path:
    path.write_bytes(bytes(size))
    return path


def host_tree(folder: Path, size: int) -> Path:
    folder.mkdir()
    for name in 'abc':
        host_file(folder / name, size)
    return folder


def open_below(folder: Path) -> list[str]:
    """Return which files of a host directory this process has open."""
    found = []
    for each in os.listdir('/proc/self/fd'):
        with contextlib.suppress(FileNotFoundError):
            found.append(os.readlink(f'/proc/self/fd/{each}'))
    return [path for path in found if path.startswith(f'{folder}/')]


def until_idle(sandbox: AgentBackedSandbox) -> None:
    """Return when nothing continues in the sandbox any more."""
    assert wait_until(lambda: not sandbox.active_calls), f'{sandbox.active_calls} calls continue'


@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize('kind', sorted(SOURCES))
def test_a_cancelled_upload_leaves_things_as_they_were(
    sandbox: AgentBackedSandbox, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, size: int
) -> None:
    sandbox.write_file(f'{place}/target', 'old')
    source, gate = SOURCES[kind](tmp_path, size), TransferGate()
    with monkeypatch.context() as patch:
        for name in UPLOADS:
            patch.setattr(name, gate.hold(until_cancelled))
        cancel_midway(lambda: sandbox.put_file(source, f'{place}/target'), gate.under_way)

    until_idle(sandbox)
    assert [entry.path for entry in sandbox.list_dir(place)] == ['target']
    assert sandbox.read_file(f'{place}/target') == b'old'


@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize('verb', ['get_file', 'get_archive'])
def test_a_cancelled_download_leaves_nothing_on_the_host(
    sandbox: AgentBackedSandbox, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str, size: int
) -> None:
    sandbox.write_file(f'{place}/source', bytes(size))
    gate = TransferGate()
    with monkeypatch.context() as patch:
        for reader in ('read_chunks', 'read_archive'):
            patch.setattr(sandbox, reader, gate.hold(getattr(sandbox, reader)))
        get = getattr(sandbox, verb)
        cancel_midway(lambda: get(f'{place}/source', tmp_path / 'target'), gate.under_way)

    until_idle(sandbox)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize('size', SIZES[1:])
def test_a_cancelled_download_continues_by_one_piece_at_most(
    sandbox: AgentBackedSandbox, place: str, size: int
) -> None:
    class Target(io.BytesIO):
        def write(self, data: Any) -> int:
            under_way.set()
            with on_cancel(was_cancelled.set):
                assert was_cancelled.wait(PATIENCE)
            return super().write(data)

    under_way, was_cancelled, target = threading.Event(), threading.Event(), Target()
    sandbox.write_file(f'{place}/source', bytes(size))

    cancel_midway(lambda: sandbox.get_file(f'{place}/source', target), under_way)

    assert len(target.getvalue()) <= MIB
    until_idle(sandbox)


def test_a_transfer_counts_as_a_call(sandbox: AgentBackedSandbox, place: str) -> None:
    until_idle(sandbox)
    counts = []

    def pieces() -> Iterator[bytes]:
        for _ in range(9):
            counts.append(sandbox.active_calls)
            yield bytes(MIB)

    sandbox.write_file(f'{place}/file', pieces(), size=9 * MIB)
    with contextlib.closing(cast('Generator[bytes, None, None]', sandbox.read_chunks(f'{place}/file'))) as chunks:
        next(chunks)
        counts.append(sandbox.active_calls)

    assert counts[1:] == [1] * 9
    until_idle(sandbox)


def test_a_cancelled_put_of_a_tree_ends(
    sandbox: AgentBackedSandbox, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = TransferGate()
    with monkeypatch.context() as patch:
        patch.setattr(UPLOADS[0], gate.hold(until_cancelled))
        cancel_midway(lambda: sandbox.put_dir(host_tree(tmp_path / 'tree', 3 * MIB), place), gate.under_way)

    until_idle(sandbox)
    assert not sandbox.path_exists(f'{place}/c')
    assert not open_below(tmp_path)


def test_a_cancelled_get_of_a_tree_leaves_what_had_come(
    sandbox: AgentBackedSandbox, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox.put_dir(host_tree(tmp_path / 'tree', 3 * MIB), place)
    gate = TransferGate()
    with monkeypatch.context() as patch:
        patch.setattr(sandbox, 'read_archive', gate.hold(sandbox.read_archive))
        cancel_midway(lambda: sandbox.get_dir(place, tmp_path / 'target'), gate.under_way)

    until_idle(sandbox)
    assert (tmp_path / 'target').is_dir()
    assert not (tmp_path / 'target' / 'c').exists()


def test_a_download_that_fails_leaves_nothing_on_the_host(
    sandbox: AgentBackedSandbox, place: str, tmp_path: Path
) -> None:
    for get in (sandbox.get_file, sandbox.get_archive):
        with pytest.raises(SandboxPathNotFoundError):
            get(f'{place}/missing', tmp_path / 'target')
    assert os.listdir(tmp_path) == []


def test_a_host_file_that_is_no_plain_file_keeps_its_place(
    sandbox: AgentBackedSandbox, place: str, tmp_path: Path
) -> None:
    sandbox.write_file(f'{place}/source', 'content')
    (tmp_path / 'file').write_text('old')
    (tmp_path / 'link').symlink_to('file')

    sandbox.get_file(f'{place}/source', '/dev/null')
    sandbox.get_file(f'{place}/source', tmp_path / 'link')

    assert stat.S_ISCHR(os.stat('/dev/null').st_mode)
    assert (tmp_path / 'link').is_symlink()
    assert (tmp_path / 'file').read_text() == 'content'
    with pytest.raises(IsADirectoryError):
        sandbox.get_archive(f'{place}/source', tmp_path)


# Ports ----------------------------------------------------------------------------------------------------------------

ECHO = (
    'import socket,threading,sys\n'
    's=socket.create_server(("127.0.0.1",0))\n'
    'print(s.getsockname()[1],flush=True)\n'
    'def serve(c):\n'
    '  while True:\n'
    '    d=c.recv(65536)\n'
    '    if not d: break\n'
    '    c.sendall(d)\n'
    '  c.shutdown(1)\n'
    'while True: threading.Thread(target=serve,args=(s.accept()[0],),daemon=True).start()\n'
)


@contextlib.contextmanager
def echo_server(sandbox: AgentBackedSandbox) -> Iterator[int]:
    with sandbox.start_process(['python3', '-c', ECHO]) as process:
        yield int(next(iter(process.chunks(PATIENCE))).data)


def test_a_port_in_the_sandbox_can_be_connected_to(sandbox: AgentBackedSandbox) -> None:
    data = os.urandom(2 * MIB)
    with echo_server(sandbox) as port, sandbox.connect_port(port) as connection:
        sender = threading.Thread(target=lambda: (connection.sendall(data), connection.shutdown_write()))
        sender.start()
        got = bytearray()
        while piece := connection.recv(timeout=PATIENCE):
            got += piece
        sender.join()
    assert bytes(got) == data


def test_a_port_nobody_listens_on_is_refused(sandbox: AgentBackedSandbox) -> None:
    with pytest.raises(SandboxPathError, match='cannot connect'):
        sandbox.connect_port(1)


def test_a_port_can_be_forwarded(sandbox: AgentBackedSandbox) -> None:
    with echo_server(sandbox) as port, sandbox.forward_port(port) as forward:
        assert forward.host == '127.0.0.1'
        for number in range(5):
            with socket.create_connection((forward.host, forward.port), timeout=PATIENCE) as local:
                local.sendall(b'hello %d' % number)
                local.shutdown(socket.SHUT_WR)
                assert local.makefile('rb').read() == b'hello %d' % number
    with pytest.raises(OSError, match='refused'):
        socket.create_connection((forward.host, forward.port), timeout=PATIENCE)


# Attacks on the agent ------------------------------------------------------------------------------------------------


@pytest.mark.isolation
def test_forged_frames_from_inside_do_nothing(sandbox: AgentBackedSandbox) -> None:
    code = (
        'import os,glob\n'
        'frame=b"\\x00\\x00\\x00\\x0b\\x09\\x00\\x00\\x00\\x01" + b"\\x00\\x00\\x00\\x07{\\"a\\":1}"\n'
        'hits=[]\n'
        'for pid in os.listdir("/proc"):\n'
        '  if not pid.isdigit() or int(pid)==os.getpid(): continue\n'
        '  for path in ["/proc/%s/mem"%pid]+glob.glob("/proc/%s/fd/*"%pid)+["/proc/%s/fd/%d"%(pid,n) for n in range(12)]:\n'
        '    try:\n'
        '      fd=os.open(path,os.O_WRONLY|os.O_NONBLOCK)\n'
        '      os.write(fd,frame*10); hits.append(path)\n'
        '    except OSError: pass\n'
        'os.write(1,frame*100)\n'
        'print([h for h in hits if h.startswith("/proc/1/")])\n'
    )

    result = sandbox.execute_command(['python3', '-c', code])

    assert result.stdout.rstrip().endswith('[]')
    assert sandbox.execute_command('echo unharmed').stdout == 'unharmed\n'
    assert sandbox.status is SandboxStatus.RUNNING


@pytest.mark.isolation
@pytest.mark.parametrize('name', ['KILL', 'TERM', 'STOP', 'INT', 'SEGV', 'USR1'])
def test_signals_to_everybody_do_not_reach_the_agent(start: Start, name: str) -> None:
    sandbox = start()

    sandbox.execute_command(f'kill -{name} -1; kill -{name} 1', timeout=5.0)

    assert sandbox.execute_command('echo unharmed', timeout=PATIENCE).stdout == 'unharmed\n'
    assert sandbox.status is SandboxStatus.RUNNING


@pytest.mark.isolation
def test_the_agent_cannot_be_traced_or_read(sandbox: AgentBackedSandbox) -> None:
    code = (
        'import os,ctypes\n'
        'libc=ctypes.CDLL(None,use_errno=True)\n'
        'print(libc.ptrace(16,1,0,0))\n'
        'for name in ("mem","environ","maps","fd/0","fd/1"):\n'
        '  try: open("/proc/1/"+name,"rb").read(1); print("READ",name)\n'
        '  except OSError as e: pass\n'
    )
    assert sandbox.execute_command(['python3', '-c', code]).stdout == '-1\n'


@pytest.mark.isolation
def test_no_privilege_can_be_gained(sandbox: AgentBackedSandbox) -> None:
    own = sandbox.execute_command('cat /proc/self/status').stdout
    facts = dict(line.split(':', 1) for line in own.splitlines())
    assert facts['NoNewPrivs'].strip() == '1'
    assert facts['Seccomp'].strip() == '2'
    assert int(facts['CapEff'], 16) & (1 << 19 | 1 << 21) == 0, 'no CAP_SYS_PTRACE, no CAP_SYS_ADMIN'


@pytest.mark.isolation
def test_dangerous_system_calls_are_refused(sandbox: AgentBackedSandbox) -> None:
    for command in ('mount -t tmpfs x /mnt', 'unshare -r true', 'echo x > /proc/sys/kernel/hostname', 'dmesg'):
        assert not sandbox.execute_command(command).success, command


# Network ------------------------------------------------------------------------------------------------------------


@pytest.mark.isolation
def test_a_sandbox_without_a_network_has_only_its_own_loopback(sandbox: AgentBackedSandbox) -> None:
    names = sandbox.execute_command('cat /proc/net/dev').stdout
    assert [line.split(':')[0].strip() for line in names.splitlines()[2:]] == ['lo']


# Conveniences ---------------------------------------------------------------------------------------------------------


def test_output_comes_to_callbacks_on_this_thread_while_the_command_runs(sandbox: AgentBackedSandbox) -> None:
    seen: list[tuple[str, str, int]] = []
    command = 'echo one; sleep 0.3; echo two >&2; printf "\\303"; sleep 0.2; printf "\\251 \\377"'

    result = sandbox.execute_command(
        command,
        on_stdout=lambda text: seen.append(('out', text, threading.get_ident())),
        on_stderr=lambda text: seen.append(('err', text, threading.get_ident())),
    )

    assert {ident for _, _, ident in seen} == {threading.get_ident()}
    assert ''.join(text for stream, text, _ in seen if stream == 'out') == 'one\né \\xff' == result.stdout
    assert ''.join(text for stream, text, _ in seen if stream == 'err') == 'two\n' == result.stderr
    assert seen[0][1] == 'one\n'


def test_one_callback_is_enough_and_scripts_have_them_too(sandbox: AgentBackedSandbox) -> None:
    seen: list[str] = []

    result = sandbox.run_script(['sh'], 'echo out; echo err >&2; exit 3', on_stderr=seen.append)

    assert (''.join(seen), result.stdout, result.exit_code) == ('err\n', 'out\n', 3)


def test_what_a_callback_raises_ends_the_command(sandbox: AgentBackedSandbox) -> None:
    class Enough(Exception):
        pass

    def stop(text: str) -> None:
        raise Enough(text)

    with pytest.raises(Enough, match='started'):
        sandbox.execute_command('echo started; exec sleep 3337', on_stdout=stop)
    wait_until(lambda: running(sandbox, '3337') == 0)
    with pytest.raises(InvalidArgumentError, match='on_stdout'):
        sandbox.execute_command('true', on_stdout='no function')  # type: ignore[arg-type]


def test_a_budget_of_a_command_keeps_the_whole_output_in_a_file(sandbox: AgentBackedSandbox) -> None:
    code = 'for n in range(400000): print("line", n)'  # 4.7 MB, more than a result has

    result = sandbox.execute_command(['python3', '-c', code], max_chars=300)

    assert len(result.stdout) <= 300
    assert result.stdout_file is not None
    assert f'all of it is in {result.stdout_file}' in result.stdout
    whole = sandbox.read_file(result.stdout_file).decode()
    assert whole == ''.join(f'line {n}\n' for n in range(400000))
    assert sandbox.execute_command('echo short', max_chars=300).stdout_file is None
    sandbox.remove_path(result.stdout_file)


def test_programs_have_callbacks_and_a_budget_too(sandbox: AgentBackedSandbox) -> None:
    seen: list[str] = []
    code = 'import sys\nfor n in range(200000): print("line", n)\nprint("oops", file=sys.stderr)'

    result = sandbox.run_code(code, max_chars=200, on_stdout=seen.append, on_stderr=seen.append)

    assert result.run is not None
    assert result.run.stdout_file is not None
    assert len(result.stdout) <= 200
    assert sandbox.read_file(result.run.stdout_file).count(b'\n') == 200000
    assert ''.join(seen).count('\n') == 200001
    assert result.stderr == 'oops\n'
    sandbox.remove_path(result.run.stdout_file)


def test_a_port_is_waited_for_and_has_an_address(sandbox: AgentBackedSandbox) -> None:
    server = (
        'import time; from http.server import HTTPServer, SimpleHTTPRequestHandler as Handler\n'
        'time.sleep(0.5); HTTPServer(("127.0.0.1", 8123), Handler).serve_forever()'
    )
    with pytest.raises(OperationTimeoutError, match='port 8123'):
        sandbox.wait_for_port(8123, 0.2)
    with sandbox.start_process(['python3', '-c', server], cwd='/sandbox'):
        sandbox.wait_for_port(8123, PATIENCE)
        with sandbox.forward_port(8123) as forward:
            assert forward.url == f'http://127.0.0.1:{forward.port}'
            assert urllib.request.urlopen(forward.url, timeout=PATIENCE).status == 200


def test_a_terminal_of_the_usual_size(sandbox: AgentBackedSandbox) -> None:
    with sandbox.start_process('test -t 1 && stty size', tty=True) as process:
        assert process.wait(PATIENCE).stdout.split() == ['24', '80']
    with sandbox.start_process('test -t 1 || echo none', tty=False) as process:
        assert process.wait(PATIENCE).stdout == 'none\n'
