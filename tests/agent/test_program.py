"""The agent as it is shipped, in bare interpreters: what it promises that needs no sandbox to be seen."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from enclave.agent import OLD_PYTHON_EXIT_CODE, agent_command, bootstrap
from enclave.agent.program import CHUNK, DATA, EOF, EVENT, INPUT_WINDOW, pack_message
from enclave.channel.channel import Channel, Reply
from enclave.channel.streams import PipeStream
from enclave.deadline import Deadline
from enclave.errors import InvalidArgumentError, SandboxBrokenError, SandboxError, SandboxGoneError, SandboxPathError
from enclave.sandboxes.agent_operations import AgentOperations, AgentProgram
from enclave.verb_requests import (
    ListDir,
    MovePath,
    ReadArchive,
    ReadFile,
    RemovePath,
    RunCommand,
    Script,
    StartProcess,
    StatPath,
    WriteArchive,
    WriteFile,
)
from tests.agent.conftest import AgentProcess
from tests.support.archives import make_tar
from tests.support.host import PATIENCE


def request(command: Any, **options: Any) -> RunCommand:
    options.setdefault('timeout', 30.0)
    return RunCommand(command=command, **options)


def program(command: Any, **options: Any) -> StartProcess:
    return StartProcess(command=command, **options)


def patient() -> Deadline:
    return Deadline.after(30)


def run(agent: AgentProcess, command: Any, **options: Any) -> Any:
    return AgentOperations(agent.channel).run(request(command, **options))


def is_alive(pid: int) -> bool:
    try:
        state = Path(f'/proc/{pid}/stat').read_text().rsplit(')', 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state not in 'ZX'


def wait_gone(pid: int) -> None:
    """Return when a process is gone; it is somebody else's child, so there is only looking."""
    pause = threading.Event()
    for _ in range(600):
        if not is_alive(pid):
            return
        pause.wait(0.05)
    raise AssertionError(f'process {pid} is still there')


def test_every_python_runs_commands_programs_files_and_archives(every_python: str, tmp_path: Path) -> None:
    agent = AgentProcess(every_python, tmp_path)
    operations = AgentOperations(agent.channel)
    try:
        result = operations.run(request('echo out; echo err >&2; exit 3', env={'X': 'ü'}))
        assert (result.stdout, result.stderr, result.exit_code) == ('out\n', 'err\n', 3)
        script = Script(source=b'import sys; print(sys.argv[1:], sys.stdin.read())', suffix='.py', at=1)
        result = operations.run(request([every_python, '', 'a b'], script=script, stdin=b'given'))
        assert result.stdout == "['a b'] given\n", result
        timed = operations.run(request('echo part; (setsid sleep 60 &); sleep 60', timeout=3))
        assert (timed.timed_out, timed.stdout) == (True, 'part\n')
        operations.write(WriteFile(path='ü'), [b'x' * 300_000])
        assert b''.join(operations.read(ReadFile(path='ü'))) == b'x' * 300_000
        archive = b''.join(operations.read(ReadArchive(path='.', arcname='top')))
        operations.write(WriteArchive(target_dir='copy'), [archive])
        assert [entry.path for entry in operations.run(ListDir(path='copy', recursive=True))] == ['top', 'top/ü']
        operations.run(RemovePath(path='copy', recursive=True))
        assert [entry.path for entry in operations.run(ListDir())] == ['ü']
    finally:
        agent.close()
    assert agent.process.returncode == 0
    assert agent.stream.diagnostics() == ''


def test_a_python_of_another_version_takes_the_source(tmp_path: Path) -> None:
    """Whatever the magic number says, the agent starts: here one that fits no interpreter."""
    process = subprocess.Popen(agent_command(sys.executable), stdin=-1, stdout=-1, stderr=-1, cwd=tmp_path)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b'\0\0\0\0' + bootstrap()[4:])
    process.stdin.flush()

    greeting = os.read(process.stdout.fileno(), 65536)

    process.communicate()
    assert b'"protocol":1' in greeting
    assert process.returncode == 0


def test_a_python_that_is_too_old_says_so(tmp_path: Path) -> None:
    loader = agent_command()[-1].replace('sys.version_info<(3,6)', 'True')

    done = subprocess.run([sys.executable, '-I', '-S', '-c', loader], input=b'', capture_output=True, check=False)

    assert done.returncode == OLD_PYTHON_EXIT_CODE
    assert b'too old' in done.stderr


def test_the_agents_code_names_no_place_of_the_host() -> None:
    compiled = bootstrap()
    source = Path(__file__).parents[2].joinpath('enclave/agent/program.py').read_bytes()

    assert str(Path(__file__).parents[2]).encode() not in compiled.replace(source, b'')


@pytest.mark.parametrize('code', [0, 1, 2, 126, 127, 128, 137, 255])
def test_exit_codes_are_the_programs_own(agent: AgentProcess, code: int) -> None:
    result = run(agent, f'exit {code}')

    assert (result.exit_code, result.signal, result.success) == (code, None, code == 0)


@pytest.mark.parametrize('name', ['SIGSEGV', 'SIGTERM', 'SIGKILL', 'SIGPIPE', 'SIGINT', 'SIGXFSZ'])
def test_death_by_signal_is_named(agent: AgentProcess, name: str) -> None:
    number = signal.Signals[name]
    result = run(
        agent,
        [
            sys.executable,
            '-c',
            f'import os, signal; signal.signal({number}, 0) if {number} != 9 else 0; os.kill(os.getpid(), {number})',
        ],
    )

    assert (result.signal, result.exit_code) == (name, 128 + number)


def test_signals_are_back_to_default_for_the_guest(agent: AgentProcess) -> None:
    program = (
        'import signal; print([s for s in range(1, 32) if s not in (2, 9, 13, 19, 25) '
        'and signal.getsignal(s) != signal.SIG_DFL])'
    )
    assert run(agent, [sys.executable, '-c', program]).stdout == '[]\n'
    # Python ignores SIGPIPE itself, so ask a program that does not. (glibc's posix_spawn leaves its own 32 and 33 ignored.)
    ignored = int(run(agent, 'grep SigIgn /proc/self/status').stdout.split()[1], 16)
    assert ignored & 0x7FFFFFFF == 0


def test_the_environment_is_the_sandboxes_and_the_calls(agent: AgentProcess) -> None:
    result = run(agent, 'echo $GIVEN $MORE', env={'MORE': 'by the call'})

    assert result.stdout == 'by the sandbox by the call\n'
    assert run(agent, 'echo $MORE').stdout == '\n'


def test_a_guest_holds_no_descriptor_of_ours(agent: AgentProcess) -> None:
    program = 'import os; print(sorted(int(fd) for fd in os.listdir("/proc/self/fd")))'

    assert json.loads(run(agent, [sys.executable, '-I', '-c', program]).stdout)[:3] == [0, 1, 2]
    assert len(json.loads(run(agent, [sys.executable, '-I', '-c', program]).stdout)) == 4  # and the listing itself


def test_a_deadline_reaches_daemons(agent: AgentProcess, tmp_path: Path) -> None:
    program = (
        'import os, sys, time\n'
        'if os.fork() == 0:\n'
        '    os.setsid()\n'
        '    if os.fork() == 0:\n'
        '        open("daemon.pid", "w").write(str(os.getpid()))\n'
        '        print("written", flush=True)\n'
        '        time.sleep(1000)\n'
        '    os._exit(0)\n'
        'time.sleep(1000)\n'
    )
    result = run(agent, [sys.executable, '-c', program], timeout=1.0)

    assert result.timed_out
    assert result.stdout == 'written\n'
    assert not is_alive(int((tmp_path / 'daemon.pid').read_text()))


def test_background_work_goes_on_after_its_call(agent: AgentProcess, tmp_path: Path) -> None:
    result = run(agent, 'sleep 1000 & echo $!')
    background = int(result.stdout)

    assert is_alive(background)

    agent.close()
    wait_gone(background)


def test_a_background_writer_neither_blocks_nor_dies(agent: AgentProcess, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / 'done')
    run(agent, '(seq 1000000; echo finished > done) &')

    assert (tmp_path / 'done').read_text() == 'finished\n'


def test_a_guest_that_kills_its_supervisor_escapes_nothing(agent: AgentProcess, tmp_path: Path) -> None:
    survived = run(agent, 'kill -9 $PPID; echo survived; exit 5')
    assert (survived.stdout, survived.exit_code) == ('survived\n', 5)
    for _ in range(50):
        # The program ends while its supervisor dies: its exit status must come by one way or the other.
        assert run(agent, 'kill -9 $PPID; exit 5').exit_code == 5

    caught = run(agent, 'kill -9 $PPID; (setsid sleep 1000 & echo $! > pid); sleep 1000', timeout=2)
    assert caught.timed_out
    assert not is_alive(int((tmp_path / 'pid').read_text()))


def test_a_guest_that_stops_its_supervisor_is_still_timed_out(agent: AgentProcess) -> None:
    assert run(agent, 'kill -STOP $PPID; echo x', timeout=0.5).timed_out
    assert run(agent, 'echo next').stdout == 'next\n'


def test_a_supervisor_serves_one_call_after_another(agent: AgentProcess) -> None:
    supervisors = {run(agent, 'echo $PPID').stdout for _ in range(10)}

    # One may still be on its way back when the next call comes, and then there is a second.
    assert len(supervisors) <= 2


def test_what_was_killed_is_reaped_before_the_call_ends(agent: AgentProcess, tmp_path: Path) -> None:
    """What is dead but not reaped counts towards the process limit, and the next call would run into it."""
    for _ in range(3):
        caught = run(agent, 'for i in $(seq 100); do sleep 1000 & echo $! >> pids; done; sleep 1000', timeout=1)
        assert caught.timed_out

        pids = (tmp_path / 'pids').read_text().split()
        assert pids
        assert [pid for pid in pids if Path(f'/proc/{pid}').exists()] == []
        (tmp_path / 'pids').unlink()


def test_a_supervisor_whose_priority_a_guest_changed_serves_no_other_call(agent: AgentProcess) -> None:
    nice = 'import os; os.setpriority(os.PRIO_PROCESS, os.getppid(), os.getpriority(os.PRIO_PROCESS, 0) + 3)'
    before = run(agent, 'nice').stdout
    assert run(agent, [sys.executable, '-c', nice]).exit_code == 0
    assert run(agent, 'nice').stdout == before


def test_no_state_of_a_call_is_left_for_the_next(agent: AgentProcess, tmp_path: Path) -> None:
    (tmp_path / 'sub').mkdir()
    run(agent, 'export LEAK=1; umask 0; pwd', cwd=str(tmp_path / 'sub'), env={'SECRET': 'x'})

    assert run(agent, 'echo "$LEAK$SECRET"; umask; pwd').stdout == f'\n0022\n{tmp_path}\n'


def test_missing_programs_and_directories_are_reported(agent: AgentProcess, tmp_path: Path) -> None:
    (tmp_path / 'plain').write_text('no program')
    missing = run(agent, ['no-such-program'])
    unfit = run(agent, [str(tmp_path / 'plain')])

    assert (missing.exit_code, 'no-such-program' in missing.stderr) == (127, True)
    assert (unfit.exit_code, 'Permission denied' in unfit.stderr) == (126, True)
    with pytest.raises(ValueError, match='no-such-directory'):
        run(agent, 'true', cwd='/no-such-directory')
    with pytest.raises(ValueError, match='no-such-user'):
        run(agent, 'true', user='no-such-user')


def test_a_text_without_interpreter_line_goes_to_the_shell(agent: AgentProcess, tmp_path: Path) -> None:
    script = tmp_path / 'script'
    script.write_text('echo by the shell $1\n')
    script.chmod(0o755)

    assert run(agent, [str(script), 'x']).stdout == 'by the shell x\n'


def test_output_past_the_cap_keeps_head_tail_and_count(agent: AgentProcess) -> None:
    result = run(agent, 'seq 100000', max_output_bytes=1000)

    assert result.stdout_truncated
    assert result.stdout_bytes == 588895
    assert result.stdout.startswith('1\n2\n3\n')
    assert result.stdout.endswith('99999\n100000\n')
    assert '587895 bytes left out' in result.stdout


def test_characters_cut_by_the_cap_are_left_out_whole(agent: AgentProcess) -> None:
    result = run(agent, [sys.executable, '-c', 'print("€" * 10000, end="")'], max_output_bytes=1000)

    head, marker, tail = result.stdout.split('\n')
    assert set(head) == set(tail) == {'€'}
    assert result.stdout_bytes == 30000
    assert int(marker.split()[1]) + 3 * len(head) + 3 * len(tail) == 30000


def test_input_reaches_the_program_to_the_last_byte(agent: AgentProcess) -> None:
    data = os.urandom(3 * INPUT_WINDOW)

    assert run(agent, 'sha256sum', stdin=data).stdout.split()[0] == __import__('hashlib').sha256(data).hexdigest()


def test_a_program_that_reads_nothing_gets_end_of_file_or_is_not_waited_for(agent: AgentProcess) -> None:
    assert run(agent, 'cat').stdout == ''
    assert run(agent, 'true', stdin=b'x' * (5 * INPUT_WINDOW)).success


def test_live_output_waits_in_the_sandbox_for_credit(agent: AgentProcess) -> None:
    # It floods when it is reported to: until it is known to have started, its output is taken in.
    process = AgentOperations(agent.channel).start_process(program('read go; yes', open_stdin=True))
    process.wait_started()
    process.write(b'go\n')
    assert isinstance(process._program, AgentProgram)
    call = process._program.call

    # Nobody takes anything: what arrives is bounded by the window, however long one waits for more.
    with call._changed:
        call._changed.wait_for(lambda: call._received > 1 << 18, 1.0)
    assert call._received <= (1 << 18) + 2 * CHUNK
    assert run(agent, 'echo not delayed').stdout == 'not delayed\n'

    process.kill()
    result = process.wait(30)
    assert result.status == 'cancelled'


def test_many_calls_at_once_keep_their_output_apart(agent: AgentProcess) -> None:
    failures: list[object] = []

    def work(name: int) -> None:
        for turn in range(25):
            result = run(agent, f'echo {name} {turn}; echo e{name} >&2; exit {turn % 3}')
            if (result.stdout, result.stderr, result.exit_code) != (f'{name} {turn}\n', f'e{name}\n', turn % 3):
                failures.append(result)

    threads = [threading.Thread(target=work, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failures == []


def test_hundreds_of_calls_cancelled_at_once_all_end_with_what_they_started(agent: AgentProcess) -> None:
    operations = AgentOperations(agent.channel)
    processes = [operations.start_process(program('sleep 1000', live=False)) for _ in range(300)]
    for process in processes:
        process.wait_started(60)
    pids = [process.pid for process in processes]

    for process in processes:
        process.kill()

    assert {str(process.wait(60).status) for process in processes} == {'cancelled'}
    assert not [pid for pid in pids if pid is None or is_alive(pid)]


def test_descriptors_and_processes_do_not_grow(agent: AgentProcess) -> None:
    def held() -> tuple[int, int]:
        agent.channel.open({'op': 'ping'}).wait(patient())
        children = Path(f'/proc/{agent.process.pid}/task/{agent.process.pid}/children').read_text().split()
        return len(os.listdir(f'/proc/{agent.process.pid}/fd')), len(children)

    run(agent, 'true')
    before = held()
    for turn in range(60):
        run(agent, 'echo x; cat', stdin=b'y')
        run(agent, 'sleep 100', timeout=0.01) if turn % 20 == 0 else None
    run(agent, 'true')

    assert held() <= (before[0] + 2, before[1] + 1)


def test_processes_can_be_signalled_and_written_to(agent: AgentProcess) -> None:
    operations = AgentOperations(agent.channel)
    process = operations.start_process(
        program('trap "echo got it; exit 9" USR1; echo ready; while read x; do echo "<$x>"; done', open_stdin=True)
    )
    chunks = process.chunks(30)
    assert next(chunks).data == b'ready\n'

    process.write(b'hello\n')
    assert next(chunks).data == b'<hello>\n'
    process.send_signal('SIGUSR1')
    process.write(b'\n')

    rest = b''.join(chunk.data for chunk in chunks)
    assert b'got it' in rest
    assert process.result is not None
    assert process.result.exit_code == 9


def test_a_terminal_is_one(agent: AgentProcess) -> None:
    operations = AgentOperations(agent.channel)
    process = operations.start_process(
        program('test -t 0 && test -t 1 && stty size; read x; echo "[$x]"', tty=(40, 100))
    )
    seen, has_typed = b'', False
    for chunk in process.chunks(PATIENCE):
        seen += chunk.data
        if b'40 100' in seen and not has_typed:  # which may come before the end of its line
            has_typed = True
            process.write(b'typed\n')

    assert b'[typed]' in seen
    assert process.result is not None
    assert process.result.exit_code == 0


def test_connections_carry_bytes_both_ways(agent: AgentProcess) -> None:
    with socket.create_server(('127.0.0.1', 0)) as server:

        def echo() -> None:
            peer, _ = server.accept()
            with peer:
                while data := peer.recv(65536):
                    peer.sendall(data.upper())

        thread = threading.Thread(target=echo)
        thread.start()
        sent = b'abc' * 400_000
        with AgentOperations(agent.channel).connect(server.getsockname()[1], 'localhost', timeout=30) as connection:
            writer = threading.Thread(target=lambda: (connection.sendall(sent), connection.shutdown_write()))
            writer.start()
            received = b''
            while data := connection.recv():
                received += data
            writer.join()
        thread.join()

    assert received == sent.upper()


@pytest.mark.parametrize(
    'host', ['example.invalid', 'localhost.', '-rf', 'm\xfcller', '\udcff', 'x' * 300, '1.2.3.4.5', '::1::']
)
def test_a_host_that_is_no_numeric_address_is_refused_and_nothing_is_lost(agent: AgentProcess, host: str) -> None:
    operations = AgentOperations(agent.channel)
    with pytest.raises(SandboxPathError, match='it is no numeric address') as caught:
        operations.connect(80, host, timeout=30)

    assert caught.value.details['errno'] == errno.EINVAL
    operations.ping(60)


def test_a_connection_nobody_accepts_is_refused(agent: AgentProcess) -> None:
    with socket.create_server(('127.0.0.1', 0)) as server:
        port = server.getsockname()[1]

    with pytest.raises(OSError, match='refused'):
        AgentOperations(agent.channel).connect(port, '127.0.0.1', timeout=30)


def test_half_a_file_is_never_seen(agent: AgentProcess, tmp_path: Path) -> None:
    operations = AgentOperations(agent.channel)
    (tmp_path / 'f').write_text('before')
    (tmp_path / 'f').chmod(0o640)

    def failing() -> Any:
        yield b'x' * 200_000
        raise RuntimeError('the source broke')

    with pytest.raises(RuntimeError):
        operations.write(WriteFile(path='f'), failing())
    agent.channel.open({'op': 'ping'}).wait(patient())

    assert (tmp_path / 'f').read_text() == 'before'
    assert os.listdir(tmp_path) == ['f']
    operations.write(WriteFile(path='f'), [b'after'], 5)
    assert (tmp_path / 'f').read_text() == 'after'
    assert stat.S_IMODE((tmp_path / 'f').stat().st_mode) == 0o640


def test_files_that_are_none_are_refused(agent: AgentProcess, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / 'pipe')
    operations = AgentOperations(agent.channel)
    for path in ('pipe', '/dev/zero', '.'):
        with pytest.raises(OSError, match=r'regular|directory'):
            list(operations.read(ReadFile(path=path, max_bytes=10)))
    for path in ('pipe', '/dev/null', '/proc/self/mem', '/proc/self/fd/1', f'/proc/{agent.process.pid}/mem'):
        with pytest.raises(OSError):  # noqa: PT011 - which refusal it is differs, that it is one does not
            operations.write(WriteFile(path=path), [b'x'])
    for path in ('/proc/self/environ', f'/proc/{agent.process.pid}/maps'):
        with pytest.raises(OSError, match='agent'):
            list(operations.read(ReadFile(path=path)))


def test_a_host_that_vanishes_takes_the_guests_along(agent: AgentProcess) -> None:
    pid = int(run(agent, 'setsid sleep 1000 & echo $!').stdout)

    assert agent.process.stdin is not None
    agent.process.stdin.close()

    assert agent.process.wait(30) == 0
    wait_gone(pid)


def test_rubbish_from_the_host_ends_the_agent(agent: AgentProcess) -> None:
    agent.stream.write(b'\xff' * 100)

    assert agent.process.wait(30) == 3
    with pytest.raises((SandboxGoneError, SandboxBrokenError)):
        run(agent, 'true')


def test_unknown_operations_and_malformed_requests_are_answered(agent: AgentProcess) -> None:
    for message in (
        {'op': 'no-such'},
        {},
        {'op': 'run'},
        {'op': 'run', 'argv': 5},
        {'op': 'read'},
        {'op': 'run', 'argv': []},
    ):
        answer: Reply = agent.channel.open(message).wait(patient())
        assert 'error' in answer or 'exit' in answer, message
    assert run(agent, 'echo fine').stdout == 'fine\n'


def test_cancelling_kills_and_the_agent_continues(agent: AgentProcess, tmp_path: Path) -> None:
    call = agent.channel.open(
        {'op': 'run', 'argv': ['sh', '-c', 'echo $$; sleep 1000'], 'head': 100, 'tail': 0}, live=True
    )
    frame = call.next_frame(patient())
    assert frame is not None
    call.cancel()

    facts = call.wait(patient())

    assert facts.flag('cancelled')
    assert not is_alive(int(frame[1]))
    assert run(agent, 'echo fine').stdout == 'fine\n'


def test_frames_of_ended_calls_are_ignored(agent: AgentProcess) -> None:
    call = agent.channel.open({'op': 'ping'})
    call.wait(patient())

    agent.channel.send(DATA, call.number, b'late')
    agent.channel.send(EOF, call.number, b'')

    assert run(agent, 'echo fine').stdout == 'fine\n'


def test_a_fork_bomb_is_killed_at_its_deadline(agent: AgentProcess) -> None:
    """A bounded one: a hundred processes that each fork again whenever they can."""
    program = (
        'import os, resource, time\n'
        'for _ in range(6):\n'
        '    try: os.fork()\n'
        '    except OSError: pass\n'
        'os.setsid() if os.getpid() != os.getsid(0) else None\n'
        'end = time.time() + 60\n'
        'while time.time() < end:\n'
        '    try:\n'
        '        if os.fork() == 0: time.sleep(0.02); os._exit(0)\n'
        '        os.wait()\n'
        '    except OSError: pass\n'
    )
    result = run(agent, [sys.executable, '-c', program], timeout=1.5)

    assert result.timed_out
    children = Path(f'/proc/{agent.process.pid}/task/{agent.process.pid}/children').read_text().split()
    for child in children:
        with contextlib.suppress(FileNotFoundError):
            family = Path(f'/proc/{child}/task/{child}/children').read_text().split()
            assert not [pid for pid in family if is_alive(int(pid))]


def test_events_are_sent_when_asked(agent: AgentProcess) -> None:
    call = agent.channel.open({'op': 'run', 'argv': ['true'], 'head': None, 'tail': 0, 'events': True}, live=True)

    frame = call.next_frame(patient())

    assert frame is not None
    assert frame[0] == EVENT
    assert frame[1].startswith(pack_message({})[:1])


def test_a_pipe_stream_closes_twice_and_reaps(tmp_path: Path) -> None:
    process = subprocess.Popen(['sleep', '1000'], stdin=-1, stdout=-1, stderr=-1)
    stream = PipeStream(process)

    stream.close()
    stream.close()
    stream.release()

    assert process.returncode == -9


def trap(folder: Path, module: str, marker: Path) -> None:
    """Put a module where an interpreter would find it, which says in which process it was run."""
    (folder / f'{module}.py').write_text(f'import os\nopen({str(marker)!r} + "-%d" % os.getpid(), "w").close()\n')


def test_no_code_is_loaded_after_the_greeting(tmp_path: Path) -> None:
    """Root in a sandbox may rewrite every library; the agent must have all it needs by then."""
    library = Path(os.__file__).parent
    mine = tmp_path / 'library'
    mine.mkdir()
    for entry in library.iterdir():
        if entry.name not in ('site-packages', '__pycache__', 'test'):
            (mine / entry.name).symlink_to(entry)
    loader = agent_command(sys.executable)
    loader[-1] = f'import sys\nsys.path[:] = [{str(mine)!r}, {str(mine / "lib-dynload")!r}]\n' + loader[-1]
    process = subprocess.Popen(loader, stdin=-1, stdout=-1, stderr=-1, cwd=tmp_path)
    stream = PipeStream(process)
    channel = Channel('test', stream)
    channel.start(patient())
    try:
        marker = tmp_path / 'loaded'
        for entry in list(mine.iterdir()):
            if entry.suffix == '.py':
                entry.unlink()
                trap(mine, entry.stem, marker)
        for name in ('pwd', 'grp', 'fcntl', 'termios', 'resource', '_socket', 'select'):
            for built in mine.glob(f'lib-dynload/{name}.*'):
                trap(mine, name, marker)
                assert built

        operations = AgentOperations(channel)
        assert operations.run(request('echo x', user=str(os.getuid()))).stdout == 'x\n'
        assert operations.run(request('exit 3')).exit_code == 3
        assert operations.run(request(['/no/such'])).exit_code == 127
        assert operations.run(request('sleep 100', timeout=0.1)).timed_out
        with contextlib.suppress(OSError):
            operations.connect(1, '127.0.0.1', timeout=10)
        with contextlib.suppress(OSError):
            operations.connect_path('/no/such', timeout=10)
        operations.start_process(program('true', tty=(24, 80))).wait(30)
        (tmp_path / 'a').write_text('x')
        operations.run(MovePath(source=str(tmp_path / 'a'), target=str(tmp_path / 'b')))
        operations.run(ListDir(path=str(tmp_path)))
        channel.open({'op': None}).wait(patient())

        assert not Path(f'{marker}-{process.pid}').exists()
    finally:
        channel.close()
        stream.release()


def test_a_removed_working_directory_stops_nothing(agent: AgentProcess, tmp_path: Path) -> None:
    assert run(agent, ['rm', '-rf', str(tmp_path)]).success

    result = run(agent, [sys.executable, '-c', ''], cwd='/', script=Script(source=b'print(1)', at=1))

    assert result.exit_code == 0
    assert run(agent, 'echo x', cwd='/').stdout == 'x\n'


def test_listings_of_the_longest_names_and_targets_fit_their_frames(agent: AgentProcess, tmp_path: Path) -> None:
    """A byte that is no UTF-8 takes six in an answer."""
    for number in range(150):
        os.symlink(b'\xff' * 4000, os.fsencode(tmp_path) + b'/%d-' % number + b'\xfe' * 240)

    entries = AgentOperations(agent.channel).run(ListDir(path=str(tmp_path)))

    assert len(entries) == 150
    assert {entry.target for entry in entries} == {os.fsdecode(b'\xff' * 4000)}


def test_a_listing_goes_on_where_directories_vanish(agent: AgentProcess) -> None:
    operations = AgentOperations(agent.channel)
    with operations.start_process(program('while :; do /bin/true & /bin/true; done', live=False)):
        assert operations.run(ListDir(path='/proc', recursive=True, max_entries=20000))

    assert run(agent, 'echo x').stdout == 'x\n'


@contextlib.contextmanager
def few_descriptors(cwd: Path) -> Iterator[AgentProcess]:
    """An agent that may open 32 files. Its limits are set before it runs: afterwards nobody like it may change them."""
    # By a shell, and not by this process, which may have more open than that already.
    agent = AgentProcess(sys.executable, cwd, before=('sh', '-c', 'ulimit -Sn 32; exec "$0" "$@"'))
    yield agent
    agent.close()


def test_wide_trees_are_listed_whole_with_few_descriptors(tmp_path: Path) -> None:
    for number in range(300):
        (tmp_path / 'wide' / str(number) / 'deep').mkdir(parents=True)
    with few_descriptors(tmp_path) as agent:
        entries = AgentOperations(agent.channel).run(ListDir(path=str(tmp_path / 'wide'), recursive=True))

    assert len(entries) == 600


def test_without_descriptors_a_call_is_refused_and_the_agent_continues(tmp_path: Path) -> None:
    with few_descriptors(tmp_path) as agent:
        operations = AgentOperations(agent.channel)
        sleepers = []
        problem = ''
        while not problem and len(sleepers) < 32:
            sleepers.append(operations.start_process(program('sleep 1000')))
            try:
                sleepers[-1].wait_started()
            except SandboxError as error:
                problem = str(error)
        assert 'Too many open files' in problem

        for ask in (
            lambda: operations.run(request('true', user=str(os.getuid()))),
            lambda: operations.connect(1, '127.0.0.1', timeout=10),
            lambda: operations.connect(1, '::1', timeout=10),
            lambda: operations.run(ListDir(path='/', recursive=True, max_entries=100)),
            lambda: operations.write(WriteFile(path='x'), [b''], 0),
        ):
            with contextlib.suppress(SandboxError, OSError, InvalidArgumentError):
                ask()

        for sleeper in sleepers[:-1]:
            sleeper.kill()
            sleeper.wait(30)
        assert run(agent, 'echo x').stdout == 'x\n'


@pytest.mark.skipif(os.getuid() != 0, reason='limits of another user are refused anyway')
def test_a_guest_cannot_set_the_limits_of_the_agent(agent: AgentProcess) -> None:
    """With a limit on its CPU time, say, even process 1 would be killed."""
    code = 'import resource,sys\nresource.prlimit(int(sys.argv[1]), resource.RLIMIT_CORE, (0, 0))'
    capabilities = int(Path('/proc/self/status').read_text().split('CapEff:')[1].split()[0], 16)
    if capabilities >> 24 & 1 or not capabilities >> 7 & 1:
        pytest.skip('CAP_SYS_RESOURCE allows everything, and without CAP_SETUID there is no protection')

    assert 'PermissionError' in run(agent, [sys.executable, '-c', code, str(agent.process.pid)]).stderr


def test_facts_of_absurd_size_are_no_breach(agent: AgentProcess) -> None:
    path = Path(f'/dev/shm/enclave-test-{os.getpid()}')
    try:
        with path.open('wb') as file:
            os.truncate(file.fileno(), (1 << 63) - 1)
        os.utime(path, (9e17, 9e17))
        facts = AgentOperations(agent.channel).run(StatPath(path=str(path)))
    except OSError as error:
        pytest.skip(f'this machine has no place for such a file: {error}')
    finally:
        path.unlink(missing_ok=True)

    assert facts.size == (1 << 63) - 1


def test_pipes_of_ended_calls_are_let_go_of_also_under_a_flood(agent: AgentProcess) -> None:
    """While the stream is full, nothing is read; what ended meanwhile must be looked at again afterwards."""
    operations = AgentOperations(agent.channel)
    descriptors = f'/proc/{agent.process.pid}/fd'
    floods = [operations.start_process(program('yes')) for _ in range(2)]
    stop = threading.Event()

    def take(flood: Any) -> None:
        for _chunk in flood.chunks():
            if stop.is_set():
                flood.kill()

    takers = [threading.Thread(target=take, args=(flood,)) for flood in floods]
    for each in takers:
        each.start()
    with ThreadPoolExecutor(8) as pool:
        assert all(result.stdout == 'x\n' for result in pool.map(lambda _: run(agent, 'echo x'), range(150)))
    stop.set()
    for each in takers:
        each.join(60)

    pause = threading.Event()
    for _ in range(100):
        # The agent's own, and a socket for each supervisor that waits for work.
        if len(os.listdir(descriptors)) <= 20:
            break
        pause.wait(0.05)
    assert len(os.listdir(descriptors)) <= 20


def test_tiny_pieces_of_output_do_not_grow_the_agent(agent: AgentProcess) -> None:
    code = (
        'import os,select\nfor i in range(100000):\n os.write(1, b"x")\n'
        ' if not i % 50: select.select([], [1], [])\nos.write(1, b"end")'
    )

    result = run(agent, [sys.executable, '-c', code], max_output_bytes=200_000, timeout=100)

    assert result.stdout == 'x' * 100_000 + 'end'


def test_large_input_of_a_live_process_does_not_wait_for_its_output(agent: AgentProcess) -> None:
    data = os.urandom(3_000_000)

    process = AgentOperations(agent.channel).start_process(program('cat', stdin=data))

    assert b''.join(chunk.data for chunk in process.chunks(60)) == data


LINK, HARD, FOLDER = {'type': tarfile.SYMTYPE}, {'type': tarfile.LNKTYPE}, {'type': tarfile.DIRTYPE}


@pytest.mark.parametrize(
    'members',
    [
        [('../out/x', {}, b'x')],
        [('/tmp/enclave-escaped', {}, b'x')],
        [('a/../../out/x', {}, b'x')],
        [('d', {**LINK, 'linkname': '../out'}, b''), ('d/x', {}, b'x')],
        [('d', FOLDER, b''), ('e', {**LINK, 'linkname': 'd/../../out'}, b''), ('e/x', {}, b'x')],
        [('d', {**LINK, 'linkname': '../out'}, b''), ('d', {**FOLDER, 'mode': 0}, b''), ('d/x', {}, b'x')],
        [('h', {**HARD, 'linkname': '../out/kept'}, b''), ('h', {}, b'x')],
        [('p', {'type': tarfile.FIFOTYPE}, b'')],
        [('n', {'type': tarfile.CHRTYPE}, b'')],
    ],
)
def test_archives_do_not_leave_their_target(
    agent: AgentProcess, tmp_path: Path, members: list[tuple[str, dict[str, Any], bytes]]
) -> None:
    out, target = tmp_path / 'out', tmp_path / 'target'
    out.mkdir(mode=0o750)
    (out / 'kept').write_text('kept')

    with pytest.raises(SandboxPathError):
        AgentOperations(agent.channel).write(WriteArchive(target_dir=str(target)), [make_tar(*members)])

    assert [path.name for path in out.iterdir()] == ['kept']
    assert (out / 'kept').read_text() == 'kept'
    assert stat.S_IMODE(out.stat().st_mode) == 0o750
    assert not Path('/tmp/enclave-escaped').exists()


def test_a_directory_of_an_archive_does_not_change_what_a_symlink_names(agent: AgentProcess, tmp_path: Path) -> None:
    out, target = tmp_path / 'out', tmp_path / 'target'
    out.mkdir(mode=0o750)
    target.mkdir()
    (target / 'd').symlink_to(out)

    AgentOperations(agent.channel).write(
        WriteArchive(target_dir=str(target)), [make_tar(('d', {**FOLDER, 'mode': 0, 'uid': 5}, b''))]
    )

    assert (stat.S_IMODE(out.stat().st_mode), out.stat().st_uid) == (0o750, os.getuid())


def test_moving_to_another_file_system_copies(agent: AgentProcess, tmp_path: Path) -> None:
    other = Path(f'/dev/shm/enclave-test-{os.getpid()}')
    if not other.parent.is_dir() or other.parent.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip('this machine has no second file system')
    (tmp_path / 'tree' / 'sub').mkdir(parents=True)
    (tmp_path / 'tree' / 'sub' / 'file').write_text('x')
    try:
        AgentOperations(agent.channel).run(MovePath(source=str(tmp_path / 'tree'), target=str(other)))

        assert (other / 'sub' / 'file').read_text() == 'x'
        assert not (tmp_path / 'tree').exists()

        os.mkfifo(other / 'sub' / 'pipe')
        with pytest.raises(SandboxPathError, match='not a regular file'):
            AgentOperations(agent.channel).run(MovePath(source=str(other), target=str(tmp_path / 'tree')))
        assert not any(tmp_path.iterdir()), 'half of it'
        assert (other / 'sub' / 'file').read_text() == 'x'

        (other / 'sub' / 'pipe').unlink()
        (tmp_path / 'into' / other.name).mkdir(parents=True)
        request = MovePath(source=str(other), target=str(tmp_path / 'into'), overwrite=True)
        AgentOperations(agent.channel).run(request)
        assert (tmp_path / 'into' / other.name / 'sub' / 'file').read_text() == 'x', 'not one deeper'
    finally:
        shutil.rmtree(other, ignore_errors=True)


def test_an_agent_that_rests_keeps_no_supervisor_and_serves_the_next_call(every_python: str, tmp_path: Path) -> None:
    # How long it waits before it rests: no time at all.
    with contextlib.closing(AgentProcess(every_python, tmp_path, REST_SECONDS=0)) as agent:
        pid = agent.process.pid
        pause = threading.Event()

        def children() -> list[str]:
            return Path(f'/proc/{pid}/task/{pid}/children').read_text().split()

        def wait_for_none() -> None:
            for _ in range(600):
                if not children():
                    return
                pause.wait(0.05)
            raise AssertionError(f'the agent still has the children {children()}')

        for text in ('first', 'second'):
            assert run(agent, ['echo', text]).stdout == f'{text}\n'
            wait_for_none()
        AgentOperations(agent.channel).ping(30.0)
        assert run(agent, ['echo', 'third']).stdout == 'third\n'


def test_a_free_supervisor_that_a_guest_stopped_leaves_when_the_agent_rests(tmp_path: Path) -> None:
    with contextlib.closing(AgentProcess(sys.executable, tmp_path, REST_SECONDS=2)) as agent:
        pid, pause = agent.process.pid, threading.Event()
        children = Path(f'/proc/{pid}/task/{pid}/children')
        assert run(agent, ['echo', 'x']).stdout == 'x\n'
        for child in children.read_text().split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(child), signal.SIGSTOP)

        for _ in range(1200):
            if not children.read_text().split():
                break
            pause.wait(0.05)
        assert not children.read_text().split()
        assert run(agent, ['echo', 'y']).stdout == 'y\n'
