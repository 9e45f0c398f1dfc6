"""The command line as a person meets it: real processes, real sandboxes, a real terminal."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from enclave.sandboxes.docker.engine import Engine
from enclave.sandboxes.docker.sandbox import DockerSandbox
from enclave.testing.plugin import SharedSandbox
from tests.support.host import wait_until

pytestmark = pytest.mark.docker

COMMAND = [sys.executable, '-m', 'enclave.cli.main']
GIVE_UP_SECONDS = 60.0


def environment() -> dict[str, str]:
    hidden = ('ENCLAVE_URL', 'ENCLAVE_API_KEY', 'ENCLAVE_DEBUG')
    return {name: value for name, value in os.environ.items() if name not in hidden}


def ms_enclave(*arguments: str, stdin: bytes = b'') -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*COMMAND, *arguments], input=stdin, capture_output=True, timeout=GIVE_UP_SECONDS, env=environment()
    )


@contextlib.contextmanager
def started(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """Start the command line with pipes on all sides; it is killed if the block leaves it running."""
    process = subprocess.Popen(
        [*COMMAND, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
        start_new_session=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def wait_gone(engine: Engine, pid: int) -> None:
    """Wait until no sandbox of a process is on the engine."""
    pause, give_up_at = threading.Event(), time.monotonic() + GIVE_UP_SECONDS
    while engine.api.containers(all=True, filters={'label': ['enclave.sandbox', f'enclave.owner.pid={pid}']}):
        assert time.monotonic() < give_up_at
        pause.wait(0.05)


@pytest.fixture(scope='module')
def shared_sandbox() -> Iterator[SharedSandbox[DockerSandbox]]:
    """What `sandbox` is taken from."""
    options = {'network_enabled': False, 'env_vars': {'SECRET': 'hidden-value'}, 'memory_limit': '128m'}
    with contextlib.closing(SharedSandbox(lambda: DockerSandbox(options))) as shared:
        yield shared


@pytest.fixture
def sandbox(shared_sandbox: SharedSandbox[DockerSandbox]) -> DockerSandbox:
    """A sandbox that this process owns, for the commands that use those of others."""
    return shared_sandbox.get()


# run ------------------------------------------------------------------------------------------------------------------


def test_program_runs_with_its_files_arguments_input_and_exit_code(tmp_path: Path) -> None:
    (tmp_path / 'data').mkdir()
    (tmp_path / 'data' / 'a.txt').write_text('from a file')
    script = tmp_path / 'script.py'
    script.write_text(
        'import os, sys\n'
        'print(open("data/a.txt").read(), sys.argv[1:], os.environ["WORD"], sys.stdin.read())\n'
        'print("failed", file=sys.stderr)\n'
        'sys.exit(9)\n'
    )

    done = ms_enclave(
        'run', '--no-network', '-e', 'WORD=given', '-f', f'{tmp_path}/data', str(script), '-x', 'y', stdin=b'typed'
    )

    assert done.returncode == 9, done.stderr
    assert done.stdout == b"from a file ['-x', 'y'] given typed\n"
    assert done.stderr == b'failed\n'


def test_output_comes_as_it_is_written_and_input_as_it_is_typed() -> None:
    code = 'for number in range(3): print(number, flush=True); print(input().upper())'
    with started('run', '--no-network', '-c', code) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for number in range(3):
            assert process.stdout.readline() == b'%d\n' % number
            process.stdin.write(b'word%d\n' % number)
            process.stdin.flush()
            assert process.stdout.readline() == b'WORD%d\n' % number

        assert process.wait(GIVE_UP_SECONDS) == 0


def test_bytes_and_split_characters_come_out_exactly() -> None:
    data = bytes(range(256)) * 4096 + 'é漢'.encode()
    code = 'import sys; sys.stdout.buffer.write(sys.stdin.buffer.read()); sys.stderr.buffer.write(b"\\xff\\xfe")'

    done = ms_enclave('run', '--no-network', '-c', code, stdin=data)

    assert done.stdout == data
    assert done.stderr == b'\xff\xfe'


def test_ends_that_are_not_the_programs_own_are_reported() -> None:
    slow = ms_enclave('run', '--no-network', '-t', '1', '--shell', '-c', 'echo begun; sleep 600')
    big = ms_enclave('run', '--no-network', '-m', '64m', '-c', 'x = bytearray(1 << 30)')
    missing = ms_enclave('run', '--no-network', '--interpreter', 'nosuch', '-c', 'x')
    refused = ms_enclave('run', '-m', '1k', '-c', 'x')

    assert (slow.returncode, slow.stdout) == (124, b'begun\n')
    assert b'longer than 1 s' in slow.stderr
    assert big.returncode == 137
    assert b'out of memory' in big.stderr
    assert missing.returncode == 127
    assert b"cannot run 'nosuch'" in missing.stderr
    assert refused.returncode == 125
    assert refused.stderr == b"Error: memory_limit must be at least 6m, not '1k'\n"


@pytest.mark.parametrize(('number', 'code'), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interruption_ends_program_and_sandbox(engine: Engine, number: signal.Signals, code: int) -> None:
    with started('run', '--no-network', '--shell', '-c', 'echo up; trap "" INT TERM; sleep 600') as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b'up\n'

        process.send_signal(number)

        assert process.wait(GIVE_UP_SECONDS) == code
    wait_gone(engine, process.pid)


def test_reader_that_goes_away_ends_the_program(engine: Engine) -> None:
    with started('run', '--no-network', '--shell', '-c', 'yes') as process:
        assert process.stdout is not None
        process.stdout.read(10)
        process.stdout.close()

        assert process.wait(GIVE_UP_SECONDS) == 1
        assert process.stderr is not None
        assert b'Traceback' not in process.stderr.read()
    wait_gone(engine, process.pid)


def test_mounted_working_directory_is_not_written_to(tmp_path: Path) -> None:
    work, other = tmp_path / 'work', tmp_path / 'other'
    work.mkdir()
    other.mkdir()
    (work / 'module.py').write_text('WORD = "from the mount"')
    (other / 'script.py').write_text('import module; print(module.WORD)')

    done = ms_enclave('run', '--no-network', '-v', f'{work}:/sandbox:ro', str(other / 'script.py'))

    assert done.stdout == b'from the mount\n', done.stderr
    assert [each.name for each in work.iterdir()] == ['module.py']


# Sandboxes of others ----------------------------------------------------------------------------------------------------


def test_sandboxes_of_other_processes_are_listed_with_their_owner(sandbox: DockerSandbox) -> None:
    listed = json.loads(ms_enclave('ps', '--json').stdout)

    found = next(each for each in listed if each['id'] == sandbox.id)
    assert found['status'] == 'running'
    assert found['metadata']['image'] == 'python:3.11-slim'
    assert found['metadata']['owner']['pid'] == os.getpid()
    assert found['metadata']['owner']['alive'] is True
    assert found['metadata']['is_orphan'] is False


def test_facts_are_what_the_engine_enforces_without_secrets(sandbox: DockerSandbox) -> None:
    done = ms_enclave('info', sandbox.id, '--json')

    [info] = json.loads(done.stdout)
    assert info['config']['memory_limit'] == 128 << 20
    assert info['config']['network_enabled'] is False
    assert info['config']['env_vars']['SECRET'] == '***'
    assert b'hidden-value' not in done.stdout


def test_usage_is_measured(sandbox: DockerSandbox) -> None:
    usage = json.loads(ms_enclave('stats', '--json').stdout)['usage']

    found = next(each for each in usage if each['sandbox_id'] == sandbox.id)
    assert 1 << 20 < found['memory_bytes'] < 128 << 20
    assert found['memory_limit_bytes'] == 128 << 20
    assert found['pids'] >= 1


def test_command_in_a_sandbox_of_another_ends_with_us_and_the_sandbox_continues(sandbox: DockerSandbox) -> None:
    done = ms_enclave('exec', '-w', '/tmp', sandbox.id[:8], 'sh', '-c', 'pwd; echo $SECRET; cat; exit 6', stdin=b'in')
    assert (done.returncode, done.stdout) == (6, b'/tmp\nhidden-value\nin')

    with started('exec', '--shell', sandbox.id, 'echo $$; exec sleep 601') as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        assert sandbox.path_exists(f'/proc/{pid}')
        process.kill()
        process.wait()

    pause, give_up_at = threading.Event(), time.monotonic() + GIVE_UP_SECONDS
    while sandbox.path_exists(f'/proc/{pid}'):
        assert time.monotonic() < give_up_at
        pause.wait(0.05)
    assert sandbox.execute_command('echo alive').stdout == 'alive\n'


def test_files_are_copied_both_ways(sandbox: DockerSandbox, tmp_path: Path) -> None:
    tree = tmp_path / 'tree'
    (tree / 'sub').mkdir(parents=True)
    (tree / 'sub' / 'data').write_bytes(os.urandom(3 << 20))
    (tree / 'run.sh').write_text('echo run')
    (tree / 'run.sh').chmod(0o755)
    out = tmp_path / 'out'
    out.mkdir()

    for arguments in [
        (str(tree), f'{sandbox.id}:'),
        (str(tree / 'sub' / 'data'), f'{sandbox.id}:tree/renamed'),
        (str(tree) + '/.', f'{sandbox.id}:/sandbox/contents'),
        (f'{sandbox.id}:tree', str(out)),
        (f'{sandbox.id}:tree/sub', str(out / 'new')),
        (f'{sandbox.id}:tree/renamed', str(out)),
    ]:
        done = ms_enclave('cp', *arguments)
        assert done.returncode == 0, done.stderr

    data = (tree / 'sub' / 'data').read_bytes()
    assert (out / 'tree' / 'sub' / 'data').read_bytes() == data
    assert (out / 'new' / 'data').read_bytes() == data
    assert (out / 'renamed').read_bytes() == data
    assert (out / 'tree' / 'run.sh').stat().st_mode & 0o777 == 0o755
    assert sandbox.execute_command('contents/run.sh').stdout == 'run\n'


def test_files_are_copied_through_pipes(sandbox: DockerSandbox) -> None:
    assert ms_enclave('cp', '-', f'{sandbox.id}:piped', stdin=b'\x00\xffbytes').returncode == 0
    assert ms_enclave('cp', f'{sandbox.id}:piped', '-').stdout == b'\x00\xffbytes'

    missing = ms_enclave('cp', f'{sandbox.id}:nosuch', '-')
    assert missing.returncode == 1
    assert b'/sandbox/nosuch' in missing.stderr
    assert b'Traceback' not in missing.stderr


def test_sandbox_is_stopped_from_outside() -> None:
    with DockerSandbox({'network_enabled': False}) as made:
        assert ms_enclave('stop', made.id).stdout.decode().strip() == made.id

        assert not made.is_alive()


def test_sandbox_that_outlived_its_owner_is_reported_used_and_removed(engine: Engine) -> None:
    # Kept on purpose: any other is swept by whatever manager starts next on this engine.
    program = (
        'import os\n'
        'from enclave.sandboxes.docker.sandbox import DockerSandbox\n'
        'made = DockerSandbox({"command": "sleep 600", "network_enabled": False, "remove_on_exit": False})\n'
        'made.start()\n'
        'print(made.id, flush=True)\n'
        'os.kill(os.getpid(), 9)\n'
    )
    owner = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True, timeout=GIVE_UP_SECONDS)
    left = owner.stdout.strip()

    try:
        listed = json.loads(ms_enclave('ps', '--json').stdout)
        ran = ms_enclave('exec', left, 'echo', 'still there')
    finally:
        removed = ms_enclave('rm', left)

    found = next(each['metadata'] for each in listed if each['id'] == left)
    assert (found['owner']['alive'], found['kept'], found['is_orphan']) == (False, True, False)
    assert ran.stdout == b'still there\n'
    assert removed.stdout.decode().strip() == left
    assert not engine.api.containers(all=True, filters={'label': f'enclave.sandbox={left}'})


# pool -----------------------------------------------------------------------------------------------------------------


def test_folder_of_programs_runs_over_a_pool(tmp_path: Path) -> None:
    for number in range(6):
        (tmp_path / f'p{number}.py').write_text(f'print({number})')
    (tmp_path / 'bad.sh').write_text('echo oops >&2; exit 4')

    done = ms_enclave('pool', 'run', str(tmp_path), '--size', '2', '--no-network', '--json')

    outcomes = {Path(line['path']).name: line for line in map(json.loads, done.stdout.splitlines())}
    assert done.returncode == 1
    assert [outcomes[f'p{number}.py']['result']['output'] for number in range(6)] == [f'{n}\n' for n in range(6)]
    assert outcomes['bad.sh']['result']['exit_code'] == 4


# shell ------------------------------------------------------------------------------------------------------------------


class Terminal:
    """A terminal with the command line on it, typed at by a test."""

    def __init__(self, *arguments: str, rows: int = 30, columns: int = 100) -> None:
        import pty

        self.keyboard, screen = pty.openpty()
        self.resize(rows, columns)
        self.before = self._settings()
        self.seen = b''
        self.process = subprocess.Popen(
            [*COMMAND, *arguments],
            stdin=screen,
            stdout=screen,
            stderr=screen,
            env={**environment(), 'TERM': 'xterm-256color'},
            start_new_session=True,
        )
        self._screen = screen

    def _settings(self) -> list[object]:
        import termios

        return list(termios.tcgetattr(self.keyboard))

    @property
    def is_as_before(self) -> bool:
        return self._settings() == self.before

    def resize(self, rows: int, columns: int) -> None:
        import fcntl
        import termios

        fcntl.ioctl(self.keyboard, termios.TIOCSWINSZ, struct.pack('HHHH', rows, columns, 0, 0))

    def type(self, keys: bytes) -> None:
        os.write(self.keyboard, keys)

    def wait_for(self, text: bytes) -> None:
        """Return when a text has come after the one waited for last."""
        give_up_at = time.monotonic() + GIVE_UP_SECONDS
        while text not in self.seen:
            ready, _, _ = select.select([self.keyboard], [], [], max(0.0, give_up_at - time.monotonic()))
            assert ready, self.seen
            self.seen += os.read(self.keyboard, 65536)
        self.seen = self.seen.partition(text)[2]

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.keyboard)
        os.close(self._screen)


def test_shell_has_this_terminal_its_size_and_its_keys(engine: Engine) -> None:
    with Terminal('shell', '--no-network') as terminal:
        terminal.wait_for(b'# ')
        terminal.type(b'stty size; echo $TERM-\r')
        terminal.wait_for(b'30 100')
        terminal.wait_for(b'xterm-256color-')

        terminal.resize(40, 120)
        terminal.process.send_signal(signal.SIGWINCH)  # the kernel says it to a foreground group alone
        # Typed at once, it might be read before the new size has arrived.
        terminal.type(b'until [ "$(stty size)" = "40 120" ]; do sleep 0.05; done; echo re""sized\r')
        terminal.wait_for(b'resized')

        terminal.type(b'sh -c "echo be\\\\gun; exec sleep 600"\r')
        terminal.wait_for(b'begun')
        terminal.type(b'\x03')
        terminal.wait_for(b'# ')
        terminal.type(b'echo code=$?=\r')
        terminal.wait_for(b'code=130=')

        terminal.type(b'exit 5\r')
        assert terminal.process.wait(GIVE_UP_SECONDS) == 5
        assert terminal.is_as_before
    wait_gone(engine, terminal.process.pid)


def test_escape_leaves_a_program_that_takes_every_key(sandbox: DockerSandbox) -> None:
    with Terminal(
        'shell', sandbox.id, '--command', 'sh -c "trap \'\' INT HUP TERM; echo ready; sleep 602"'
    ) as terminal:
        terminal.wait_for(b'ready')
        terminal.type(b'\x03\r~.')

        assert terminal.process.wait(GIVE_UP_SECONDS) == 137
        assert terminal.is_as_before
    assert sandbox.execute_command('echo alive').stdout == 'alive\n'


# A server -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def served() -> Iterator[str]:
    """The address of a server that the command line runs; afterwards it ends as it should."""
    with started('server', '--port', '0', '--json', '--network') as process:
        assert process.stdout is not None
        reported = json.loads(process.stdout.readline())
        assert reported['api_key'] is None
        yield reported['url']
        process.send_signal(signal.SIGTERM)
        assert process.wait(GIVE_UP_SECONDS) == 0


def test_program_runs_on_a_server_as_it_runs_here(served: str, tmp_path: Path) -> None:
    (tmp_path / 'helper.py').write_text('WORD = "helped"')
    script = tmp_path / 'script.py'
    script.write_text('import sys, helper; print(helper.WORD, sys.argv[1:], sys.stdin.read()); sys.exit(9)')

    done = ms_enclave('run', '--url', served, '-f', f'{tmp_path}/helper.py', str(script), '-x', stdin=b'typed')
    slow = ms_enclave('run', '--url', served, '-t', '1', '--shell', '-c', 'echo begun; sleep 600')

    assert (done.returncode, done.stdout) == (9, b"helped ['-x'] typed\n"), done.stderr
    assert (slow.returncode, slow.stdout) == (124, b'begun\n')
    assert ms_enclave('ps', '-q', '--url', served).stdout == b''


def test_what_a_servers_policy_refuses_is_reported_as_it_says(served: str) -> None:
    done = ms_enclave('run', '--url', served, '-v', '/etc:/mnt', '-c', '1')

    assert done.returncode == 125
    assert b'rule mounts' in done.stderr


def test_interruption_ends_program_and_sandbox_on_a_server(served: str) -> None:
    with started('run', '--url', served, '--shell', '-c', 'echo up; trap "" INT; sleep 600') as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b'up\n'
        assert len(ms_enclave('ps', '-q', '--url', served).stdout.split()) == 1

        process.send_signal(signal.SIGINT)

        assert process.wait(GIVE_UP_SECONDS) == 130
    assert ms_enclave('ps', '-q', '--url', served).stdout == b''


def test_sandboxes_of_a_servers_pool_are_used_by_every_command(served: str, tmp_path: Path) -> None:
    sandbox_id, *others = ms_enclave('pool', 'init', '--size', '1', '--url', served).stdout.decode().split()
    (tmp_path / 'tree').mkdir()
    (tmp_path / 'tree' / 'a').write_bytes(b'\x00\xff')
    (tmp_path / 'p.py').write_text('print(5)')

    copied = ms_enclave('cp', '--url', served, f'{tmp_path}/tree', f'{sandbox_id}:')
    ran = ms_enclave('exec', '--url', served, sandbox_id[:6], 'sh', '-c', 'ls tree; cat; exit 3', stdin=b'in')
    fetched = ms_enclave('cp', '--url', served, f'{sandbox_id}:tree', f'{tmp_path}/out')
    tool = ms_enclave('pool', 'exec', '--url', served, 'python_executor', 'code=print(1)')
    many = ms_enclave('pool', 'run', '--url', served, '--json', f'{tmp_path}/p.py')
    pools = json.loads(ms_enclave('pool', 'show', '--url', served, '--json').stdout)
    info = json.loads(ms_enclave('info', '--url', served, '--json', sandbox_id).stdout)
    removed = ms_enclave('rm', '--url', served, '--all', '--yes')

    assert others == []
    assert copied.returncode == 0, copied.stderr
    assert (ran.returncode, ran.stdout) == (3, b'a\nin')
    assert fetched.returncode == 0, fetched.stderr
    assert (tmp_path / 'out' / 'a').read_bytes() == b'\x00\xff'
    assert tool.stdout == b'1\n'
    assert json.loads(many.stdout)['result']['output'] == '5\n'
    assert pools['default']['size'] == 1
    assert info[0]['id'] == sandbox_id
    assert removed.stdout.decode().split() == [sandbox_id]


def test_shell_on_a_server_has_this_terminal(served: str) -> None:
    with Terminal('shell', '--url', served, rows=33, columns=99) as terminal:
        terminal.wait_for(b'# ')
        terminal.type(b'stty size\r')
        terminal.wait_for(b'33 99')
        terminal.type(b'exit 5\r')

        assert terminal.process.wait(GIVE_UP_SECONDS) == 5
        assert terminal.is_as_before


def test_server_that_is_not_there_is_reported(tmp_path: Path) -> None:
    done = ms_enclave('ps', '--url', 'http://127.0.0.1:9')

    assert done.returncode == 1
    assert b'http://127.0.0.1:9' in done.stderr
    assert b'Traceback' not in done.stderr


def test_key_is_made_where_strangers_could_come_in(engine: Engine) -> None:
    with started('server', '--host', '0.0.0.0', '--port', '0', '--json') as process:
        assert process.stdout is not None
        reported = json.loads(process.stdout.readline())
        url = f'http://127.0.0.1:{reported["port"]}'

        known = ms_enclave('ps', '--url', url, '--api-key', reported['api_key'])
        wrong = ms_enclave('ps', '--url', url, '--api-key', 'x' * 32)

        process.send_signal(signal.SIGINT)
        assert process.wait(GIVE_UP_SECONDS) == 0
    assert known.returncode == 0, known.stderr
    assert wrong.returncode == 1
    assert b'key' in wrong.stderr


# create and run -d ----------------------------------------------------------------------------------------------------


def test_a_sandbox_that_stays_is_used_by_other_commands_and_ends_with_its_owner() -> None:
    sandbox_id = ms_enclave('create', '-m', '128m', '--no-network').stdout.decode().strip()
    try:
        owner = json.loads(ms_enclave('info', '--json', sandbox_id).stdout)[0]['metadata']
        written = ms_enclave('exec', sandbox_id, 'sh', '-c', 'echo kept > file')
        read = ms_enclave('exec', sandbox_id, 'cat', 'file')
        taken = ms_enclave('create', '--id', sandbox_id)
    finally:
        removed = ms_enclave('rm', sandbox_id)

    assert written.returncode == 0, written.stderr
    assert read.stdout == b'kept\n'
    assert taken.returncode == 1
    assert sandbox_id.encode() in removed.stdout
    pid = next((value for key, value in owner.items() if 'pid' in key), None)
    if pid is not None:
        wait_until(lambda: not os.path.exists(f'/proc/{pid}'))


def test_a_detached_program_leaves_its_output_and_exit_code_in_its_sandbox(tmp_path: Path) -> None:
    (tmp_path / 'program.py').write_text('import sys; print(sys.argv[1:], open("data").read()); sys.exit(3)')
    (tmp_path / 'data').write_text('brought along')

    done = ms_enclave('run', '-d', '--json', '-f', f'{tmp_path}/data', str(tmp_path / 'program.py'), 'a', 'b c')
    record = json.loads(done.stdout)
    try:
        wait_until(lambda: ms_enclave('exec', record['id'], 'test', '-e', record['exit_code']).returncode == 0)
        shown = ms_enclave('exec', record['id'], 'cat', record['output'], record['exit_code'])
    finally:
        ms_enclave('rm', record['id'])

    assert shown.stdout == b"['a', 'b c'] brought along\n3\n"


def test_a_sandbox_that_stays_goes_when_its_time_is_over() -> None:
    sandbox_id = ms_enclave('create', '--ttl', '1').stdout.decode().strip()

    wait_until(lambda: sandbox_id.encode() not in ms_enclave('ps', '-q').stdout)


def test_what_cannot_stay_is_refused() -> None:
    refused = ms_enclave('create', '--type', 'bubblewrap')
    missing = ms_enclave('create', '--image', 'nosuch.invalid/image:1', '-o', 'pull=never')

    assert (refused.returncode, missing.returncode) == (1, 1)
    assert b'--type docker' in refused.stderr
    assert b'nosuch.invalid/image:1' in missing.stderr


def test_a_server_keeps_a_sandbox_that_was_created(served: str) -> None:
    sandbox_id = ms_enclave('create', '--url', served).stdout.decode().strip()
    ran = ms_enclave('exec', '--url', served, sandbox_id, 'echo', 'there')
    detached = ms_enclave('run', '-d', '--url', served, '-c', 'print(5)').stdout.decode().strip()
    look = ('exec', '--url', served, detached, 'cat', '/tmp/enclave-program/exit-code')
    wait_until(lambda: ms_enclave(*look).stdout == b'0\n')
    removed = ms_enclave('rm', '--url', served, sandbox_id, detached)

    assert ran.stdout == b'there\n'
    assert removed.returncode == 0
