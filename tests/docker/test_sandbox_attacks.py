"""What hostile code in a Docker sandbox tries, and what clumsy callers do: the sandbox continues, or says what happened."""

from __future__ import annotations

import io
import os
import socket
import subprocess
import tarfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from enclave import SandboxFactory, SandboxType
from enclave.cancellation import Cancellation
from enclave.errors import CallCancelledError, InvalidArgumentError, SandboxPathError, SandboxStateError
from enclave.sandboxes.docker.sandbox import DockerSandbox
from enclave.testing.kinds import wait_until

pytestmark = pytest.mark.docker

OFFLINE = {'network_enabled': False, 'tools_config': ['shell_executor', 'python_executor']}


@pytest.fixture
def sandbox() -> Iterator[DockerSandbox]:
    with SandboxFactory.create_sandbox(SandboxType.DOCKER, OFFLINE) as made:
        yield made


def test_root_that_rewrites_the_libraries_gets_no_code_into_the_agent(sandbox: DockerSandbox) -> None:
    rewritten = sandbox.execute_command(
        'set -e; cd "$(python3 -c "import os; print(os.path.dirname(os.__file__))")"; mkdir /tmp/old; '
        'for file in *.py; do cp $file /tmp/old; '
        "echo \"import sys; sys.path.insert(0, '/tmp/old'); import posix; "
        "posix.close(posix.open('/tmp/loaded-%d' % posix.getpid(), 65))\" > $file; done; rm -rf __pycache__"
    )
    assert rewritten.success, rewritten

    sandbox.execute_command('id', user='nobody')
    with pytest.raises(SandboxPathError):
        sandbox.connect_port(1)
    sandbox.start_process('true', tty=(24, 80)).wait(30)
    sandbox.write_file('x', b'1')
    sandbox.list_dir('/')

    assert 'loaded-1\n' not in sandbox.execute_command('ls /tmp').stdout


def test_accounts_are_read_without_waiting_for_what_stands_in_their_place(sandbox: DockerSandbox) -> None:
    assert 'uid=65534(nobody)' in sandbox.execute_command('id; echo $HOME', user='nobody').stdout
    assert 'uid=1234 gid=5(tty)' in sandbox.execute_command('id', user='1234:tty').stdout
    assert sandbox.execute_command('rm /etc/passwd; mkfifo /etc/passwd').success

    with pytest.raises(InvalidArgumentError, match='nobody'):
        sandbox.execute_command('id', user='nobody')

    assert sandbox.execute_command('true', user='65534').success


def test_the_agents_limits_are_out_of_reach(sandbox: DockerSandbox) -> None:
    code = 'import resource\nresource.prlimit(1, resource.RLIMIT_CPU, (1, 1))'

    assert 'PermissionError' in sandbox.execute_tool('python_executor', {'code': code}).metadata['stderr']


def test_full_shared_memory_leaves_room_for_programs_elsewhere(sandbox: DockerSandbox) -> None:
    assert not sandbox.execute_command('head -c 1000000000 /dev/zero > /dev/shm/full').success

    for code in ('print(1)', 'print(1)\n' + '#' * 200_000):
        assert sandbox.execute_tool('python_executor', {'code': code}).output == '1\n'


def test_a_removed_working_directory_is_survived(sandbox: DockerSandbox) -> None:
    sandbox.execute_command('rm -rf /sandbox')

    assert sandbox.execute_tool('python_executor', {'code': 'print(1)'}).output == '1\n'


@pytest.mark.parametrize('options', [{}, {'user': 'nobody'}])
def test_what_a_call_left_running_leaves_room_for_the_next(options: dict[str, str]) -> None:
    with DockerSandbox({**OFFLINE, 'pids_limit': 64}) as sandbox:
        sandbox.execute_command('for i in $(seq 100); do sleep 1000 & done', timeout=60)

        assert sandbox.execute_command('true', **options).success  # type: ignore[arg-type]
        assert sandbox.write_file('x', b'1') == 1


def test_facts_that_a_guest_made_absurd_are_reported(sandbox: DockerSandbox) -> None:
    assert sandbox.execute_command('truncate -s 9223372036854775807 /dev/shm/x; touch -d @9000000000000000 /dev/shm/x')

    assert sandbox.stat_path('/dev/shm/x').size == (1 << 63) - 1


def test_a_flood_in_the_background_is_drained_and_calls_continue(sandbox: DockerSandbox) -> None:
    sandbox.execute_command('yes & yes >&2 & echo up')

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda n: sandbox.execute_command(['echo', str(n)]).stdout, range(100)))

    assert results == [f'{n}\n' for n in range(100)]


def test_a_paused_container_does_not_hold_up_the_stop() -> None:
    """The uploads fill every buffer on the way, so whatever is written to the agent would wait for ever."""
    sandbox = DockerSandbox(OFFLINE)
    sandbox.start()
    subprocess.run(['docker', 'pause', sandbox.container_name], check=True, capture_output=True)
    with ThreadPoolExecutor(12) as pool:
        uploads = [
            pool.submit(sandbox.write_file, f'/tmp/{n}', (b'x' * 1_000_000 for _ in range(5))) for n in range(12)
        ]
        assert wait_until(lambda: sandbox.active_calls >= 8)
        stopping = threading.Thread(target=sandbox.stop, daemon=True)
        stopping.start()
        stopping.join(60)
        assert not stopping.is_alive()
        for each in uploads:
            assert isinstance(each.exception(30), ConnectionError)


def test_forwards_to_a_server_that_never_hangs_up_do_not_hold_up_the_stop(sandbox: DockerSandbox) -> None:

    code = (
        'import socket\nheld = []\nserver = socket.create_server(("127.0.0.1", 9000))\n'
        'print("up", flush=True)\nwhile True:\n    held.append(server.accept())\n    print("in", flush=True)'
    )
    said = sandbox.start_process(['python3', '-c', code]).chunks(60)
    assert next(said).data == b'up\n'
    forward = sandbox.forward_port(9000)
    clients = [socket.create_connection(('127.0.0.1', forward.port)) for _ in range(3)]
    heard = b''
    while heard.count(b'in') < 3:
        heard += next(said).data

    begun = time.monotonic()
    forward.close()

    assert forward.is_closed
    assert time.monotonic() - begun < 10  # each connection alone would have taken five seconds
    for client in clients:
        client.close()


def test_uploads_whose_source_fails_leave_nothing(sandbox: DockerSandbox) -> None:
    def source() -> Iterator[bytes]:
        yield b'x' * 100_000
        raise RuntimeError('the source failed')

    for upload in (
        lambda: sandbox.write_file('/tmp/x', source()),
        lambda: sandbox.write_file('/tmp/x', source(), size=50_000_000),
        lambda: sandbox.put_archive(source(), '/tmp/new'),
    ):
        with pytest.raises(RuntimeError, match='the source failed'):
            upload()

    assert [entry.path for entry in sandbox.list_dir('/tmp') if entry.path != 'new'] == []


def test_generators_that_are_left_midway_end_their_calls(sandbox: DockerSandbox) -> None:
    sandbox.execute_command('head -c 5000000 /dev/zero > small; head -c 20000000 /dev/zero > large')
    for read in (
        lambda: sandbox.read_chunks('small'),
        lambda: sandbox.read_chunks('large'),
        lambda: sandbox.read_archive('.'),
    ):
        assert next(read())

    assert sandbox.execute_command('true').success
    assert wait_until(lambda: not sandbox.active_calls)


def test_cancelling_at_any_stage_ends_the_call_and_leaves_no_program_text(sandbox: DockerSandbox) -> None:
    code = 'print(1)\n' + '#' * 300_000
    for number in range(30):
        cancellation = Cancellation()

        def run(cancellation: Cancellation = cancellation) -> None:
            with cancellation.applied():
                sandbox.execute_tool('python_executor', {'code': code})

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        threading.Event().wait(number / 1000)
        cancellation.cancel()
        thread.join(30)
        assert not thread.is_alive()

    assert sandbox.active_calls == 0
    assert sandbox.list_dir('/dev/shm') == []
    cancellation = Cancellation()
    cancellation.cancel()
    with cancellation.applied(), pytest.raises(CallCancelledError):
        sandbox.write_file('x', (b'x' * 100_000 for _ in range(100)))


def test_a_tar_that_a_guest_forged_does_not_write_outside(sandbox: DockerSandbox, tmp_path: Path) -> None:
    """The archive is made by a Python that root inside may have rewritten."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode='w') as archive:
        member = tarfile.TarInfo('d')
        member.type, member.linkname = tarfile.SYMTYPE, '..'
        archive.addfile(member)
        member = tarfile.TarInfo('d/escaped')
        member.size = 1
        archive.addfile(member, io.BytesIO(b'x'))
    sandbox.write_file('/tmp/forged', stream.getvalue())
    sandbox.write_file(
        '/tmp/tarfile.py',
        'import os\nwith open("/tmp/forged", "rb") as file: os.write(1, file.read())\nos._exit(0)',
    )
    found = sandbox.execute_command('cp /tmp/tarfile.py "$(python3 -c "import tarfile; print(tarfile.__file__)")"')
    assert found.success, found

    with pytest.raises(SandboxPathError):
        sandbox.get_dir('/tmp', tmp_path / 'target')

    assert [path.name for path in tmp_path.iterdir()] == ['target']


def test_a_directory_comes_out_as_it_is(sandbox: DockerSandbox, tmp_path: Path) -> None:
    sandbox.execute_command(
        'mkdir -p t/empty t/d; echo x > t/d/file; ln -s d/file t/link; ln t/d/file t/hard; chmod +x t/d/file'
    )

    sandbox.get_dir('t', tmp_path / 'out')

    assert (tmp_path / 'out/link').read_text() == 'x\n'
    assert (tmp_path / 'out/hard').samefile(tmp_path / 'out/d/file')
    assert os.access(tmp_path / 'out/d/file', os.X_OK)
    assert (tmp_path / 'out/empty').is_dir()


def test_text_that_cannot_be_encoded_is_refused_by_name(sandbox: DockerSandbox) -> None:
    for options in ({'stdin': '\ud800'}, {'env': {'A': '\ud800'}}, {'user': '\ud800'}, {'cwd': '\ud800'}):
        with pytest.raises(InvalidArgumentError, match=next(iter(options))):
            sandbox.execute_command('true', **options)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError, match='command'):
        sandbox.execute_command('echo \ud800')
    assert sandbox.execute_command(['printenv', 'A'], env={'A': '\udcff'}).stdout == '\\xff\n'


def test_reading_from_a_stopped_sandbox_is_refused_at_once() -> None:
    with pytest.raises(SandboxStateError):
        DockerSandbox(OFFLINE).read_chunks('x')


def test_many_sandboxes_of_which_half_fail_leave_nothing() -> None:
    def one(number: int) -> str:
        config = {**OFFLINE, **({'image': 'no-such-image:here', 'pull': 'never'} if number % 2 else {})}
        with DockerSandbox(config) as sandbox:
            return sandbox.execute_command('echo x').stdout

    with ThreadPoolExecutor(10) as pool:
        outcomes = [pool.submit(one, number).exception for number in range(10)]
        failed = [outcome(120) is not None for outcome in outcomes]

    assert failed == [False, True] * 5
