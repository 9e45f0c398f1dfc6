"""Sandboxes from images without a usable Python: the same verbs, driven through the engine's own exec and archive calls."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from enclave import SandboxFactory, SandboxType
from enclave.cancellation import Cancellation, on_cancel
from enclave.enums import ExecutionStatus, SandboxStatus, Verdict
from enclave.errors import (
    EnclaveError,
    EngineError,
    InvalidArgumentError,
    SandboxError,
    SandboxGoneError,
    SandboxSilentError,
    UnsupportedError,
)
from enclave.languages import table
from enclave.languages.table import Language, register_language
from enclave.sandboxes.docker.docker_config import DockerSandboxConfig
from enclave.sandboxes.docker.engine import Engine
from enclave.testing.plugin import SharedSandbox
from tests.conformance.test_silence import pause
from tests.docker.bare_image import find_busybox, import_bare_image
from tests.support.host import wait_until
from tests.support.transfers import TransferGate, cancel_midway

pytestmark = pytest.mark.docker

PYTHON_IMAGE = 'python:3.11-slim'
TOOLS = ['shell_executor', 'file_operation', 'python_executor']
PATIENCE = 120.0
ODD_NAMES = ['plain', '-n', '*', 'two\nlines', 'end\n', '$(id)', '\'"', 'sp  ', 'é', '\\0101', 'bad\udcff', '..x']


@pytest.fixture(scope='session')
def busybox(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return find_busybox(tmp_path_factory.mktemp('busybox'))


@pytest.fixture(scope='session')
def bare_image(engine: Engine, busybox: bytes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An image with a shell and small tools, and no Python."""
    name = f'enclave-test-bare:{os.getpid()}'
    import_bare_image(engine, name, busybox, tmp_path_factory.mktemp('bare'))
    yield name
    engine.api.remove_image(name, force=True)


@pytest.fixture(scope='session')
def old_python_image(engine: Engine, busybox: bytes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The same with a Python that is too old for the agent."""
    name = f'enclave-test-old-python:{os.getpid()}'
    import_bare_image(engine, name, busybox, tmp_path_factory.mktemp('old'), old_python=True)
    yield name
    engine.api.remove_image(name, force=True)


def make_sandbox(image: str, **options: Any) -> Any:
    config = DockerSandboxConfig(image=image, pull='never', network_enabled=False, tools_config=TOOLS, **options)
    return SandboxFactory.create_sandbox(SandboxType.DOCKER, config)


@pytest.fixture(scope='module')
def shared_sandbox(bare_image: str) -> Iterator[SharedSandbox[Any]]:
    shared = SharedSandbox[Any](lambda: make_sandbox(bare_image, memory_limit='64m', pids_limit=64))
    with contextlib.closing(shared):
        yield shared


@pytest.fixture
def sandbox(shared_sandbox: SharedSandbox[Any]) -> Any:
    return shared_sandbox.get()


@pytest.fixture(scope='module')
def shared_agent_sandbox() -> Iterator[SharedSandbox[Any]]:
    with contextlib.closing(SharedSandbox[Any](lambda: make_sandbox(PYTHON_IMAGE))) as shared:
        yield shared


@pytest.fixture
def agent_sandbox(shared_agent_sandbox: SharedSandbox[Any]) -> Any:
    return shared_agent_sandbox.get()


# How it starts --------------------------------------------------------------------------------------------------------


def test_an_image_without_python_is_driven_through_the_engine(sandbox: Any) -> None:
    assert sandbox.metadata['driven_by'] == 'engine'
    assert sandbox.is_alive()
    assert sandbox.execute_tool('shell_executor', {'command': 'echo hello'}).output == 'hello\n'
    written = sandbox.execute_tool('file_operation', {'operation': 'write', 'file_path': 'a/b.txt', 'content': 'é\n'})
    read = sandbox.execute_tool('file_operation', {'operation': 'read', 'file_path': 'a/b.txt'})
    assert (written.status, read.output) == (ExecutionStatus.SUCCESS, 'é\n')


def test_the_python_tool_says_what_is_missing(sandbox: Any) -> None:
    result = sandbox.execute_tool('python_executor', {'code': 'print(1)'})

    assert result.status is ExecutionStatus.ERROR
    assert "'python3' was not found in this sandbox" in result.error


def test_a_python_too_old_for_the_agent_is_as_good_as_none(old_python_image: str) -> None:
    with make_sandbox(old_python_image) as sandbox:
        assert sandbox.metadata['driven_by'] == 'engine'
        assert sandbox.execute_command('echo hello').stdout == 'hello\n'


@pytest.mark.parametrize('verb', ['start_process', 'connect_port'])
def test_what_only_an_agent_can_do_is_refused_by_name(sandbox: Any, verb: str) -> None:
    with pytest.raises(UnsupportedError, match=r'needs an image with Python 3\.6 or later'):
        sandbox.start_process('true') if verb == 'start_process' else sandbox.connect_port(80)


def test_a_container_with_a_command_of_its_own_is_driven_too(bare_image: str) -> None:
    with make_sandbox(bare_image, command='while :; do sleep 1; done') as sandbox:
        assert sandbox.execute_command(['echo', 'hello']).stdout == 'hello\n'
        sandbox.write_file('x', 'y')
        assert sandbox.read_file('x') == b'y'


def test_stopping_takes_the_container_away(bare_image: str, engine: Engine) -> None:
    sandbox = make_sandbox(bare_image)
    with sandbox:
        sandbox.execute_command('sleep 100 &')
        container = sandbox.metadata['container_id']
    assert container not in [each['Id'] for each in engine.api.containers(all=True)]
    assert sandbox.status is SandboxStatus.STOPPED


def test_stopping_lets_programs_end_by_themselves(bare_image: str, tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with make_sandbox(bare_image, volumes={str(tmp_path): {'bind': '/shared', 'mode': 'rw'}}) as sandbox:
        ready = '(trap "echo bye > /shared/word; exit" TERM; echo > /shared/ready; while sleep 0.05; do :; done) &'
        sandbox.execute_command(ready)
        sandbox.execute_command('until [ -e /shared/ready ]; do sleep 0.05; done', PATIENCE)
    assert (tmp_path / 'word').read_text() == 'bye\n'


def test_a_killed_host_leaves_no_container(bare_image: str, engine: Engine) -> None:
    script = """
import sys
from enclave import SandboxFactory, SandboxType
sandbox = SandboxFactory.create_sandbox(
    SandboxType.DOCKER, {'image': sys.argv[1], 'pull': 'never', 'network_enabled': False}
)
sandbox.start()
sandbox.execute_command('sleep 100 &')
print(sandbox.metadata['container_id'], flush=True)
sys.stdin.read()
"""
    command = [sys.executable, '-c', script, bare_image]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as host:
        assert host.stdout is not None
        container = host.stdout.readline().strip()
        assert container
        host.kill()

    with contextlib.suppress(EngineError), engine.translate('wait for the end'):  # it may have been removed already
        engine.api.wait(container, timeout=PATIENCE, condition='removed')
    assert container not in [each['Id'] for each in engine.api.containers(all=True)]


# Commands -------------------------------------------------------------------------------------------------------------


def test_the_result_is_the_programs_own(sandbox: Any) -> None:
    result = sandbox.execute_command('echo out; echo err >&2; exit 3')

    assert (result.stdout, result.stderr, result.exit_code, result.signal) == ('out\n', 'err\n', 3, None)


@pytest.mark.parametrize('name', ['SEGV', 'KILL', 'TERM', 'HUP', 'ABRT'])
def test_a_signal_is_named(sandbox: Any, name: str) -> None:
    assert sandbox.execute_command(f'kill -{name} $$').signal == f'SIG{name}'


def test_an_exit_code_above_128_is_no_signal(sandbox: Any) -> None:
    result = sandbox.execute_command('exit 139')

    assert (result.exit_code, result.signal) == (139, None)


def test_input_ends(sandbox: Any) -> None:
    assert sandbox.execute_command('cat; echo end').stdout == 'end\n'
    assert sandbox.execute_command('wc -c', stdin=b'x' * 3_000_000).stdout == '3000000\n'
    assert sandbox.execute_command('head -c 3', stdin=b'abc' * 1_000_000).stdout == 'abc'


def test_arguments_are_data(sandbox: Any) -> None:
    args = ['a b', '', '*', '$HOME', '`id`', "'", '\n', '-n']

    result = sandbox.execute_command(['sh', '-c', 'printf "%s|" "$@"', 'x', *args])

    assert result.stdout == ''.join(f'{word}|' for word in args)


def test_environment_and_search_path_are_the_calls_own(sandbox: Any) -> None:
    env = {'A': "it's", 'b.c': '2', 'UID': '7', 'PATH': '/nowhere'}

    result = sandbox.execute_command(['/bin/env'], env=env)
    missing = sandbox.execute_command(['env'], env=env)

    assert {"A=it's", 'b.c=2', 'UID=7', 'PATH=/nowhere'} <= set(result.stdout.splitlines())
    assert (missing.exit_code, missing.stderr) == (127, "enclave: cannot run 'env': No such file or directory\n")


def test_megabytes_in_one_line_do_not_grow_the_host(sandbox: Any) -> None:
    tracemalloc.start()
    try:
        result = sandbox.execute_command("head -c 60000000 /dev/zero | tr '\\0' x", 0, max_output_bytes=1000)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert (result.stdout_bytes, result.stdout_truncated) == (60_000_000, True)
    assert result.stdout.startswith('x' * 500 + '\n[... 59999000 bytes left out ...]\nx')
    assert peak < 8_000_000


def test_a_background_child_does_not_hold_the_call_and_lives_on(sandbox: Any) -> None:
    # It writes to the outputs it inherited long after the call, which must not end it.
    started = sandbox.execute_command('(while sleep 0.2; do echo still; echo x >> lives; done) & echo $!', 20)
    pid = started.stdout.strip()

    grown = sandbox.execute_command('n=0; until [ "$(wc -l < lives)" -gt 15 ]; do sleep 0.1; done', 20)

    assert started.status is ExecutionStatus.SUCCESS
    assert grown.status is ExecutionStatus.SUCCESS
    assert sandbox.execute_command(['kill', '-9', pid]).exit_code == 0


def test_output_of_a_program_that_leaves_a_writer_behind_is_complete(sandbox: Any) -> None:
    result = sandbox.execute_command('yes & p=$!; seq 20000 >&2; kill $p', max_output_bytes=1 << 20)

    assert result.stderr == ''.join(f'{number}\n' for number in range(1, 20001))


SURVIVORS = {
    'child': 'sleep 4711',
    'grandchild': 'sh -c "sleep 4711; :"',
    'setsid': 'setsid sleep 4711',
    'daemon': '(setsid sh -c "sleep 4711 &" &)',
    'daemon with a clean environment': '(env -i setsid /bin/sh -c "/bin/sleep 4711 &" >/dev/null 2>&1 &)',
}


@pytest.mark.parametrize('kind', SURVIVORS)
def test_a_call_out_of_time_leaves_nothing_running(sandbox: Any, kind: str) -> None:
    result = sandbox.execute_command(f'echo part; {SURVIVORS[kind]} & sleep 4711', 0.5)

    assert (result.status, result.stdout, result.signal) == (ExecutionStatus.TIMEOUT, 'part\n', 'SIGKILL')
    assert sandbox.execute_command('ps | grep "[s]leep 4711"').stdout == ''


def test_what_an_earlier_call_left_survives_the_killing_of_another(sandbox: Any) -> None:
    pid = sandbox.execute_command('sleep 4712 & echo $!').stdout.strip()

    sandbox.execute_command('sleep 100', 0.3)

    assert sandbox.execute_command(['kill', '-9', pid]).exit_code == 0


def test_a_fork_bomb_ends_with_its_call(bare_image: str) -> None:
    with make_sandbox(bare_image, memory_limit='64m', pids_limit=64) as sandbox:
        sandbox.write_file('bomb.sh', 'sh bomb.sh & sh bomb.sh & sh bomb.sh\n')

        bomb = sandbox.execute_command('setsid sh bomb.sh 2>/dev/null & exec sleep 100', 1.0)

        assert bomb.status is ExecutionStatus.TIMEOUT
        assert sandbox.execute_command('ps | grep -c "[b]omb.sh"').stdout == '0\n'


def test_what_forks_without_end_leaves_room_for_the_next_call(bare_image: str) -> None:
    with make_sandbox(bare_image, memory_limit='64m', pids_limit=64) as sandbox:
        sandbox.write_file('bomb.sh', 'while :; do sh bomb.sh & sh bomb.sh & done\n')

        left = sandbox.execute_command('env -i setsid sh bomb.sh >/dev/null 2>&1 &')  # without the mark of its call
        later = [sandbox.execute_command('echo here').stdout for _ in range(3)]

        assert left.status is ExecutionStatus.SUCCESS
        assert later == ['here\n'] * 3
        assert sandbox.execute_command('ps | grep -c "[b]omb.sh"').stdout == '0\n'


def test_killing_everything_inside_does_not_end_the_sandbox(sandbox: Any) -> None:
    for command in ('kill -9 -1', 'kill -9 0', 'kill -TERM 0; kill -TERM 1; kill -9 1'):
        sandbox.execute_command(command)
    assert sandbox.execute_command('echo here').stdout == 'here\n'


def test_orphans_are_reaped(sandbox: Any) -> None:
    sandbox.execute_command('for i in 1 2 3 4 5; do (sleep 0 &); done')

    waited = 'until [ "$(cat /proc/[0-9]*/stat 2>/dev/null | grep -c ") Z 1 ")" = 0 ]; do sleep 0.1; done'

    assert sandbox.execute_command(waited, 20).status is ExecutionStatus.SUCCESS


def test_out_of_memory_is_reported(sandbox: Any) -> None:
    result = sandbox.execute_command(['tail', '/dev/zero'])

    assert (result.exit_code, result.signal, result.oom_killed) == (137, 'SIGKILL', True)


def test_cancelling_kills_the_command(sandbox: Any) -> None:
    cancellation = Cancellation()
    results = []

    def work() -> None:
        with cancellation.applied():
            results.append(sandbox.execute_command('echo part > begun; sleep 4713'))

    thread = threading.Thread(target=work)
    thread.start()
    sandbox.execute_command('until [ -e begun ]; do sleep 0.05; done', PATIENCE)
    cancellation.cancel()
    thread.join(PATIENCE)

    assert results[0].status is ExecutionStatus.CANCELLED
    assert sandbox.execute_command('ps | grep "[s]leep 4713"').stdout == ''


@pytest.mark.parametrize('size', [10, 3 << 20])
@pytest.mark.parametrize('is_known', [True, False], ids=['of known size', 'of unknown size'])
def test_a_cancelled_upload_leaves_things_as_they_were(sandbox: Any, size: int, is_known: bool) -> None:
    sandbox.make_dir('uploads')
    sandbox.write_file('uploads/target', 'old')
    gate = TransferGate()
    pieces = gate.held(bytes(min(size, 1 << 20)) for _ in range(-(-size // (1 << 20))))
    options = {'size': size} if is_known else {}

    cancel_midway(lambda: sandbox.write_file('uploads/target', pieces, **options), gate.under_way)

    assert [entry.path for entry in sandbox.list_dir('uploads')] == ['target']
    assert sandbox.read_file('uploads/target') == b'old'
    assert sandbox.active_calls == 0


def test_a_cancelled_upload_whose_source_gives_nothing_more_leaves_nothing(sandbox: Any) -> None:
    sandbox.make_dir('stuck')
    under_way, was_cancelled = threading.Event(), threading.Event()

    def pieces() -> Iterator[bytes]:
        yield bytes(2 << 20)
        under_way.set()
        with on_cancel(was_cancelled.set):
            assert was_cancelled.wait(PATIENCE)
        with Cancellation().applied():  # the program that writes ends, although the source holds us up
            sandbox.execute_command('while ps | grep "[c]at >"; do sleep 0.05; done', PATIENCE)
        yield bytes(1 << 20)

    cancel_midway(lambda: sandbox.write_file('stuck/target', pieces()), under_way)

    assert sandbox.list_dir('stuck') == []


@pytest.mark.parametrize('verb', ['get_file', 'get_archive'])
def test_a_cancelled_download_leaves_nothing_on_the_host(
    sandbox: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    sandbox.write_file('download', bytes(3 << 20))
    gate = TransferGate()
    with monkeypatch.context() as patch:
        for reader in ('read_chunks', 'read_archive'):
            patch.setattr(sandbox, reader, gate.hold(getattr(sandbox, reader)))
        get = getattr(sandbox, verb)
        cancel_midway(lambda: get('download', tmp_path / 'target'), gate.under_way)

    assert list(tmp_path.iterdir()) == []
    assert sandbox.active_calls == 0


def test_a_cancelled_put_of_an_archive_ends(sandbox: Any) -> None:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode='w') as archive:
        member = tarfile.TarInfo('member')
        member.size = 2 << 20
        archive.addfile(member, io.BytesIO(bytes(member.size)))
    data, gate = made.getvalue(), TransferGate()
    pieces = gate.held(data[start : start + (1 << 20)] for start in range(0, len(data), 1 << 20))

    cancel_midway(lambda: sandbox.put_archive(pieces, 'unpacked'), gate.under_way)

    assert not sandbox.path_exists('unpacked/member')
    assert sandbox.active_calls == 0


def test_an_interrupt_kills_the_command(sandbox: Any) -> None:
    def interrupt() -> None:
        sandbox.execute_command('until ps | grep "[s]leep 4714"; do sleep 0.05; done', PATIENCE)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        sandbox.execute_command('sleep 4714', PATIENCE)
    thread.join(PATIENCE)

    waited = sandbox.execute_command('while ps | grep "[s]leep 4714"; do sleep 0.05; done', PATIENCE)
    assert waited.status is ExecutionStatus.SUCCESS


def test_many_calls_at_once_do_not_mix(sandbox: Any) -> None:
    results: dict[int, str] = {}

    def work(number: int) -> None:
        results[number] = sandbox.execute_command(f'seq {number} {number + 500}').stdout

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)

    assert results == {n: ''.join(f'{each}\n' for each in range(n, n + 501)) for n in range(6)}
    assert sandbox.active_calls == 0


@pytest.mark.parametrize(
    'source',
    ['echo "$1" é', b'echo "$1"\n#' + b'x' * 200_000, b'echo "$1" # \xff', ''],
    ids=['text', 'long', 'bytes', 'empty'],
)
def test_a_script_is_a_private_file_that_goes(sandbox: Any, source: str | bytes) -> None:
    result = sandbox.run_script(['sh'], source, suffix='.sh', args=['arg'])

    assert result.exit_code == 0
    assert result.stdout.startswith('arg' if source else '')
    assert sandbox.execute_command('find /tmp /var/tmp -name ".enclave*"').stdout == ''


def test_a_script_out_of_time_leaves_no_file(sandbox: Any) -> None:
    assert sandbox.run_script(['sh'], 'sleep 100', 0.3).timed_out
    assert sandbox.execute_command('find /tmp /var/tmp -name ".enclave*"').stdout == ''


def test_a_sandbox_that_is_not_root_becomes_nobody_else(bare_image: str) -> None:
    with make_sandbox(bare_image, user='65534') as sandbox:
        assert sandbox.execute_command('id -u', user='nobody').stdout == '65534\n'
        with pytest.raises(InvalidArgumentError, match='cannot become another user'):
            sandbox.execute_command('id -u', user='root')
        with pytest.raises(EnclaveError, match='Permission denied'):
            sandbox.write_file('/etc/passwd', 'x')
        sandbox.put_archive(archive(('f', b'1')), 'unpacked')
        assert sandbox.stat_path('unpacked/f').uid == 65534


def test_a_read_only_sandbox_writes_where_it_may(bare_image: str) -> None:
    """The engine's archive calls would refuse this one."""
    with make_sandbox(bare_image, read_only=True) as sandbox:
        sandbox.write_file('x', 'y')
        sandbox.put_archive(archive(('f', b'1')), 'unpacked')
        assert (sandbox.read_file('x'), sandbox.read_file('unpacked/f')) == (b'y', b'1')
        assert sandbox.run_script(['sh'], 'echo ran').stdout == 'ran\n'
        with pytest.raises(OSError, match='Read-only file system'):
            sandbox.write_file('/etc/x', 'y')


def test_a_sandbox_removed_in_mid_call_is_named(bare_image: str, engine: Engine) -> None:
    sandbox = make_sandbox(bare_image)
    with sandbox:
        container = sandbox.metadata['container_id']
        timer = threading.Timer(0.5, engine.api.remove_container, (container,), {'force': True})
        timer.start()
        with pytest.raises(SandboxGoneError, match=sandbox.id):
            sandbox.execute_command('sleep 100')
        timer.join()
        assert sandbox.status is SandboxStatus.ERROR
        assert not sandbox.is_alive()


def test_what_ended_calls_left_running_is_ended_where_it_leaves_no_room(bare_image: str) -> None:
    with make_sandbox(bare_image, pids_limit=16) as sandbox:
        sandbox.execute_command('for i in $(seq 40); do sleep 100 & done 2>/dev/null')

        results = [sandbox.execute_command('echo here | cat') for _ in range(2)]

        assert [(result.exit_code, result.stdout) for result in results] == [(0, 'here\n')] * 2
        assert sandbox.is_alive()
        sandbox.execute_command('sleep 100 &')
        sandbox._clean()
        assert sandbox.execute_command('ps | grep "[s]leep 100"').stdout == ''


def test_a_paused_sandbox_without_an_agent_holds_nobody_up(engine: Engine, bare_image: str) -> None:
    with make_sandbox(bare_image) as sandbox, ThreadPoolExecutor(1) as threads:
        sandbox.write_file('there', b'x')
        going_on = threads.submit(sandbox.execute_command, 'echo begun > begun; sleep 1000', 3.0)
        wait_until(lambda: sandbox.path_exists('begun'))
        container = sandbox.metadata['container_id']
        wait_until(lambda: pause(container))
        try:
            for call in (lambda: sandbox.execute_command('true', 1.0), lambda: sandbox.read_file('there')):
                with pytest.raises(SandboxSilentError, match='paused'):
                    call()
            with pytest.raises(SandboxSilentError, match='paused'):
                going_on.result(45.0)
        finally:
            engine.api.unpause(container)

        assert sandbox.execute_command('echo here').stdout == 'here\n'
        wait_until(lambda: sandbox.execute_command('ps | grep "[s]leep 1000"').stdout == '')


def test_output_before_a_time_limit_and_a_grace_are_there_without_an_agent(bare_image: str) -> None:
    with make_sandbox(bare_image) as sandbox:
        result = sandbox.execute_command(
            'trap "echo saved; exit 3" TERM; echo begun; while :; do sleep 0.05; done', 1.5
        )

        assert (result.stdout, result.timed_out, result.exit_code) == ('begun\nsaved\n', True, 137)


@pytest.mark.parametrize('size', [60, 127, 128, 200, 1024, 2048])
def test_a_command_of_any_size_runs_without_an_agent(sandbox: Any, size: int) -> None:
    text = "word $HOME `date` 'quoted'\n" * (size * 1024 // 27)

    result = sandbox.execute_command(f"cat <<'END' | wc -c\n{text}END\n[ $# = 0 ]", 60)

    assert (int(result.stdout), result.exit_code) == (len(text), 0)


def test_too_large_arguments_and_variables_are_reported_without_an_agent(sandbox: Any) -> None:
    word = sandbox.execute_command(['echo', 'x' * 200_000])
    variable = sandbox.execute_command(['echo'], env={'BIG': 'x' * 200_000})

    assert (word.exit_code, variable.exit_code) == (126, 126)
    assert 'word 1 of the command is too large' in word.stderr
    assert "env['BIG'] is too large" in variable.stderr


@pytest.mark.parametrize('value', ['x' * 1000, 'x' * 1000 + '\udcff'], ids=['text', 'bytes'])
def test_many_variables_are_given_to_a_command_without_an_agent(sandbox: Any, value: str) -> None:
    """Each was copied as often as there were variables, which took longer than a command has to start."""
    environment = {f'V{number}': value for number in range(1500)}

    result = sandbox.execute_command('echo "${#V0} ${#V1499} $0"; env | grep -c "^V[0-9]*=xxx"', env=environment)

    assert (result.status.value, result.exit_code) == ('success', 0), result.stderr
    first, last, shell = result.stdout.splitlines()[0].split()
    assert first == last
    assert int(first) >= 1000
    assert shell.endswith('sh')
    assert result.stdout.splitlines()[1] == '1500'


# Files ----------------------------------------------------------------------------------------------------------------


def archive(*members: tuple[str, Any], mode: str = 'w') -> bytes:
    """Return a tar of ``(name, bytes)`` for a file, ``(name, 'd0555')`` for a directory, ``(name, 'l' or 'h' + target)`` for
    a link, ``(name, 'c' or 'p')`` for a device or pipe."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode=mode) as tar:  # type: ignore[call-overload]
        for name, what in members:
            member = tarfile.TarInfo(name)
            member.mtime, member.mode = 1_700_000_000, 0o640
            if isinstance(what, bytes):
                member.size = len(what)
            elif what[0] == 'd':
                member.type, member.mode = tarfile.DIRTYPE, int(what[1:] or '755', 8)
            elif what[0] in 'lh':
                member.type, member.linkname = tarfile.SYMTYPE if what[0] == 'l' else tarfile.LNKTYPE, what[1:]
            else:
                member.type = tarfile.CHRTYPE if what == 'c' else tarfile.FIFOTYPE
            tar.addfile(member, io.BytesIO(what) if isinstance(what, bytes) else None)
    return data.getvalue()


def unpacked(data: bytes) -> list[Any]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return sorted(
            (m.name, m.type, m.mode, m.linkname, tar.extractfile(m).read() if m.isreg() else b'')  # type: ignore[union-attr]
            for m in tar
        )


def listed(sandbox: Any, path: str, **options: Any) -> list[Any]:
    return [
        (each.path, each.kind, each.mode, each.uid, each.target, each.size if each.kind == 'file' else 0)
        for each in sandbox.list_dir(path, **options)
    ]


def facts(sandbox: Any, path: str, **options: Any) -> tuple[Any, ...]:
    found = sandbox.stat_path(path, **options)
    return (
        found.path,
        found.kind,
        found.size if found.kind == 'file' else 0,
        found.mode,
        found.uid,
        found.gid,
        found.target,
    )


def broken(size: int) -> Iterator[bytes]:
    yield b'x' * size
    yield b'y' * size
    raise RuntimeError('the source broke')


Step = Callable[[Any, str], Any]
FAR = (3 << 30) + 12345

SCENARIOS: dict[str, list[Step]] = {
    'write and read': [
        lambda s, at: s.write_file(f'{at}/a', 'hello'),
        lambda s, at: s.read_file(f'{at}/a'),
        lambda s, at: [s.read_file(f'{at}/a', offset=o, max_bytes=m) for o in (0, 2, 9) for m in (None, 0, 2, 9)],
        lambda s, at: s.write_file(f'{at}/a', ' more', append=True),
        lambda s, at: s.read_file(f'{at}/a'),
        lambda s, at: s.write_file(f'{at}/a', 'x', exclusive=True),
        lambda s, at: s.write_file(f'{at}/b/c/d', 'deep'),
        lambda s, at: s.write_file(f'{at}/n/c', 'x', make_parents=False),
        lambda s, at: s.write_file(f'{at}/a/x', 'x'),
        lambda s, at: s.write_file(f'{at}/a/x', 'x', make_parents=False),
        lambda s, at: s.write_file(f'{at}/b', 'x'),
        lambda s, at: s.write_file(f'{at}/b/', 'x'),
        lambda s, at: s.write_file('/dev/null', 'x'),
        lambda s, at: s.write_file('/proc/x', 'x'),
        lambda s, at: s.write_file(f'{at}/bytes', bytes(range(256)) * 100),
        lambda s, at: s.read_file(f'{at}/bytes') == bytes(range(256)) * 100,
        lambda s, at: s.execute_command(['truncate', '-s', str(FAR), f'{at}/far']).exit_code,
        lambda s, at: s.write_file(f'{at}/far', b'the end', append=True),
        lambda s, at: [s.read_file(f'{at}/far', offset=FAR + o, max_bytes=m) for o in (-1, 0, 6, 7, 1 << 40) for m in (None, 3)],
        lambda s, at: s.remove_path(f'{at}/far'),
        lambda s, at: s.write_file(f'{at}/none', b''),
        lambda s, at: s.read_file(f'{at}/none'),
        lambda s, at: [s.read_file(path) for path in (f'{at}/b',)],
        lambda s, at: s.read_file(f'{at}/nothing'),
        lambda s, at: s.read_file(f'{at}/a/x'),
        lambda s, at: listed(s, at, recursive=True),
    ],
    'modes': [
        lambda s, at: s.write_file(f'{at}/m', 'x', mode=0o4751),
        lambda s, at: facts(s, f'{at}/m'),
        lambda s, at: s.write_file(f'{at}/m', 'yy'),
        lambda s, at: facts(s, f'{at}/m'),
        lambda s, at: s.write_file(f'{at}/m', 'yy', mode=0o600),
        lambda s, at: facts(s, f'{at}/m'),
        lambda s, at: s.write_file(f'{at}/e', 'x', exclusive=True, mode=0o700),
        lambda s, at: facts(s, f'{at}/e'),
        lambda s, at: s.write_file(f'{at}/p', 'x', append=True),
        lambda s, at: facts(s, f'{at}/p'),
        lambda s, at: s.make_dir(f'{at}/d', mode=0o1733),
        lambda s, at: facts(s, f'{at}/d'),
        lambda s, at: s.execute_command(['chown', '65534:65534', f'{at}/m']).exit_code,
        lambda s, at: s.write_file(f'{at}/m', 'kept'),
        lambda s, at: facts(s, f'{at}/m'),
    ],
    'sources': [
        lambda s, at: s.write_file(f'{at}/it', iter([b'a', b'', b'b'])),
        lambda s, at: s.write_file(f'{at}/big', (b'z' * 65536 for _ in range(40))),
        lambda s, at: s.write_file(f'{at}/big', (b'z' * 65536 for _ in range(40)), append=True),
        lambda s, at: s.write_file(f'{at}/big2', (b'z' * 65536 for _ in range(40)), exclusive=True),
        lambda s, at: s.write_file(f'{at}/it', broken(10)),
        lambda s, at: s.write_file(f'{at}/it', broken(1 << 20)),
        lambda s, at: s.read_file(f'{at}/it'),
        lambda s, at: s.write_file(f'{at}/new', broken(1 << 20), exclusive=True),
        lambda s, at: listed(s, at),
    ],
    'symlinks': [
        lambda s, at: s.execute_command('ln -s f l; ln -s no dangling; ln -s d ld; ln -s loop loop; mkfifo p', cwd=at).exit_code,
        lambda s, at: s.write_file(f'{at}/l', 'through'),
        lambda s, at: s.read_file(f'{at}/f'),
        lambda s, at: [facts(s, f'{at}/l', follow_symlinks=follow) for follow in (True, False)],
        lambda s, at: facts(s, f'{at}/dangling', follow_symlinks=False),
        lambda s, at: facts(s, f'{at}/dangling'),
        lambda s, at: s.read_file(f'{at}/dangling'),
        lambda s, at: s.make_dir(f'{at}/dangling'),
        lambda s, at: s.write_file(f'{at}/dangling', 'x', exclusive=True),
        lambda s, at: s.write_file(f'{at}/dangling', 'x'),
        lambda s, at: s.read_file(f'{at}/no'),
        lambda s, at: s.write_file(f'{at}/loop', 'x'),
        lambda s, at: s.read_file(f'{at}/loop'),
        lambda s, at: facts(s, f'{at}/loop'),
        lambda s, at: s.read_file(f'{at}/p'),
        lambda s, at: facts(s, f'{at}/p'),
        lambda s, at: [s.path_exists(f'{at}/{name}') for name in ('l', 'dangling', 'nope', 'f/x', 'loop')],
        lambda s, at: s.make_dir(f'{at}/d'),
        lambda s, at: s.write_file(f'{at}/ld/x', 'y'),
        lambda s, at: facts(s, f'{at}/ld/../d//./x'),
        lambda s, at: listed(s, f'{at}/ld'),
        lambda s, at: s.remove_path(f'{at}/ld', recursive=True),
        lambda s, at: s.move_path(f'{at}/loop', f'{at}/d'),
        lambda s, at: listed(s, at, recursive=True),
    ],
    'odd names': [
        lambda s, at: [s.write_file(f'{at}/{name}', name) for name in ODD_NAMES],
        lambda s, at: [s.read_file(f'{at}/{name}').decode('utf-8', 'surrogateescape') for name in ODD_NAMES],
        lambda s, at: [facts(s, f'{at}/{name}') for name in ODD_NAMES],
        lambda s, at: listed(s, at),
        lambda s, at: [s.move_path(f'{at}/{name}', f'{at}/{name}{name}') for name in ODD_NAMES],
        lambda s, at: [s.make_dir(f'{at}/{name}/{name}') for name in ODD_NAMES],
        lambda s, at: listed(s, at, recursive=True),
        lambda s, at: unpacked(s.get_archive(at)),
        lambda s, at: [s.remove_path(f'{at}/{name}', recursive=True) for name in ODD_NAMES],
        lambda s, at: [each.path for each in s.list_dir(at)],
    ],
    'listings': [
        lambda s, at: [s.write_file(f'{at}/{n % 7}/{n}', 'x') for n in range(20)],
        lambda s, at: listed(s, at),
        lambda s, at: listed(s, at, recursive=True),
        lambda s, at: [len(listed(s, at, recursive=True, max_entries=count)) for count in (0, 1, 5, 99)],
        lambda s, at: listed(s, f'{at}/0/0'),
        lambda s, at: listed(s, f'{at}/nope'),
        lambda s, at: listed(s, f'{at}/0/0/x'),
        lambda s, at: facts(s, f'{at}/nope'),
        lambda s, at: facts(s, f'{at}/0/0/x'),
        lambda s, at: facts(s, f'{at}/{"n" * 300}'),
        lambda s, at: facts(s, '/dev/null'),
    ],
    'directories': [
        lambda s, at: s.make_dir(f'{at}/a/b/c'),
        lambda s, at: s.make_dir(f'{at}/a'),
        lambda s, at: s.make_dir(f'{at}/a', exist_ok=False),
        lambda s, at: s.make_dir(f'{at}/x/y', parents=False),
        lambda s, at: s.write_file(f'{at}/f', ''),
        lambda s, at: s.make_dir(f'{at}/f'),
        lambda s, at: s.make_dir(f'{at}/f/y'),
        lambda s, at: s.make_dir(f'{at}/f/y', parents=False),
        lambda s, at: s.make_dir(f'{at}/slash/'),
        lambda s, at: s.remove_path(f'{at}/a'),
        lambda s, at: s.remove_path(f'{at}/slash'),
        lambda s, at: s.remove_path(f'{at}/a', recursive=True),
        lambda s, at: [s.remove_path(f'{at}/nope', recursive=again, missing_ok=True) for again in (False, True)],
        lambda s, at: s.remove_path(f'{at}/nope'),
        lambda s, at: s.remove_path(f'{at}/nope', recursive=True),
        lambda s, at: s.remove_path(f'{at}/f/x', missing_ok=True),
        lambda s, at: listed(s, at, recursive=True),
    ],
    'moving': [
        lambda s, at: [s.write_file(f'{at}/{name}', name) for name in ('a', 'b', 'd/x', 'e/d/y')],
        lambda s, at: s.move_path(f'{at}/a', f'{at}/b'),
        lambda s, at: s.move_path(f'{at}/a', f'{at}/b', overwrite=True),
        lambda s, at: s.read_file(f'{at}/b'),
        lambda s, at: s.move_path(f'{at}/b', f'{at}/no/where'),
        lambda s, at: s.move_path(f'{at}/d', f'{at}/e'),
        lambda s, at: s.move_path(f'{at}/d', f'{at}/e', overwrite=True),
        lambda s, at: s.move_path(f'{at}/d', f'{at}/b', overwrite=True),
        lambda s, at: s.move_path(f'{at}/b', f'{at}/e/d/y/z', overwrite=True),
        lambda s, at: s.move_path(f'{at}/d/', f'{at}/renamed'),
        lambda s, at: s.move_path(f'{at}/b', f'{at}/b', overwrite=True),
        lambda s, at: s.move_path(f'{at}/b', f'{at}/e'),
        lambda s, at: s.make_dir(f'{at}/empty/renamed'),
        lambda s, at: s.move_path(f'{at}/renamed', f'{at}/empty', overwrite=True),
        lambda s, at: listed(s, at, recursive=True),
    ],
    'slashes and dots at the end': [
        lambda s, at: [s.write_file(f'{at}/{name}', name) for name in ('a', 'f', 'd/x')],
        lambda s, at: s.execute_command('ln -s d ld; ln -s nowhere dangling', cwd=at).exit_code,
        *(
            step
            for end in ('/', '//', '/.', '/..', '/../a')
            for step in (
                lambda s, at, end=end: s.copy_path(f'{at}/f{end}', f'{at}/new'),
                lambda s, at, end=end: s.copy_path(f'{at}/a', f'{at}/f{end}'),
                lambda s, at, end=end: s.copy_path(f'{at}/a', f'{at}/f{end}', overwrite=True),
                lambda s, at, end=end: s.move_path(f'{at}/f{end}', f'{at}/new'),
                lambda s, at, end=end: s.move_path(f'{at}/a', f'{at}/f{end}', overwrite=True),
                lambda s, at, end=end: s.move_path(f'{at}/d', f'{at}/f{end}', overwrite=True),
                lambda s, at, end=end: unpacked(s.get_archive(f'{at}/f{end}')),
                lambda s, at, end=end: unpacked(s.get_archive(f'{at}/ld{end}')),
            )
        ),
        lambda s, at: s.copy_path(f'{at}/ld/', f'{at}/copy'),
        lambda s, at: s.copy_path(f'{at}/ld/', f'{at}/copy', recursive=True),
        lambda s, at: s.copy_path(f'{at}/ld/', f'{at}/copy', recursive=True),
        lambda s, at: s.move_path(f'{at}/ld/', f'{at}/moved'),
        lambda s, at: [s.copy_path(f'{at}/a', f'{at}/dangling/', overwrite=overwrite) for overwrite in (False, True)],
        lambda s, at: s.move_path(f'{at}/d/', f'{at}/fresh/'),
        lambda s, at: listed(s, at, recursive=True),
    ],
    'copying': [
        lambda s, at: [s.write_file(f'{at}/{name}', name, mode=0o750) for name in ('a', 'b', 'd/x', 'd/s/z', 'e/d/y')],
        lambda s, at: s.execute_command('ln -s a l; ln -s d ld; ln -s nowhere dangling; mkfifo p d2p', cwd=at).exit_code,
        lambda s, at: s.copy_path(f'{at}/a', f'{at}/b'),
        lambda s, at: s.copy_path(f'{at}/a', f'{at}/b', overwrite=True),
        lambda s, at: [s.read_file(f'{at}/{name}') for name in 'ab'],
        lambda s, at: s.copy_path(f'{at}/a', f'{at}/a', overwrite=True),
        lambda s, at: s.copy_path(f'{at}/a', f'{at}/no/where'),
        lambda s, at: s.copy_path(f'{at}/nope', f'{at}/x'),
        lambda s, at: s.copy_path(f'{at}/d', f'{at}/x'),
        lambda s, at: s.copy_path(f'{at}/d/', f'{at}/copy/', recursive=True),
        lambda s, at: s.copy_path(f'{at}/d', f'{at}/e', recursive=True),
        lambda s, at: s.copy_path(f'{at}/d', f'{at}/e', recursive=True, overwrite=True),
        lambda s, at: s.copy_path(f'{at}/d', f'{at}/a', recursive=True, overwrite=True),
        lambda s, at: s.copy_path(f'{at}/d', f'{at}/d/s', recursive=True),
        lambda s, at: s.copy_path(f'{at}/d', f'{at}/ld/inside', recursive=True),
        lambda s, at: [s.copy_path(f'{at}/{name}', f'{at}/copy') for name in ('l', 'ld', 'dangling')],
        lambda s, at: s.copy_path(f'{at}/l', f'{at}/b', overwrite=True),
        lambda s, at: s.copy_path(f'{at}/p', f'{at}/copy'),
        lambda s, at: s.make_dir(f'{at}/empty/d'),
        lambda s, at: s.copy_path(f'{at}/d', f'{at}/empty', recursive=True, overwrite=True),
        lambda s, at: [s.write_file(f'{at}/{name}', name) for name in ODD_NAMES],
        lambda s, at: [s.copy_path(f'{at}/{name}', f'{at}/{name}{name}') for name in ODD_NAMES],
        lambda s, at: listed(s, at, recursive=True),
    ],
    'archives': [
        lambda s, at: s.put_archive(
            archive(
                ('x', 'd750'), ('x/f', b'12'), ('x/l', 'lf'), ('x/h', 'hx/f'), ('-o', b'o'), ('ro', 'd555'), ('ro/f', b'r'),
                ('n\nl', b'q'), ('L' * 120 + '/' + 'M' * 120, b'long'), ('é', b''), ('.', 'd700'),
            ),
            at,
        ),
        lambda s, at: listed(s, at, recursive=True),
        lambda s, at: s.put_archive(archive(('x', 'd700'), ('x/f', b'new'), ('x/l', b'a file now'), mode='w:gz'), at),
        lambda s, at: listed(s, at, recursive=True),
        lambda s, at: unpacked(s.get_archive(at)),
        lambda s, at: unpacked(s.get_archive(f'{at}/x/f')),
        lambda s, at: unpacked(s.get_archive(f'{at}/-o')),
        lambda s, at: unpacked(b''.join(s.read_archive(f'{at}/x', arcname='other/name'))),
        lambda s, at: unpacked(b''.join(s.read_archive(f'{at}/x', arcname='.'))),
        lambda s, at: s.get_archive(f'{at}/nope'),
        lambda s, at: s.put_archive(archive(('y/z', b'')), f'{at}/made/on/the/way'),
        lambda s, at: listed(s, f'{at}/made', recursive=True),
        lambda s, at: s.put_archive(archive(('y', b'')), f'{at}/-o'),
        lambda s, at: s.put_archive(b'no archive' * 1000, at),
    ],
    'archives that lead out': [
        lambda s, at: s.put_archive(archive(('../e', b'')), f'{at}/t'),
        lambda s, at: s.put_archive(archive(('/abs', b'')), f'{at}/t'),
        lambda s, at: s.put_archive(archive(('a/../../e', b'')), f'{at}/t'),
        lambda s, at: s.put_archive(archive(('dev', 'c')), f'{at}/t'),
        lambda s, at: s.put_archive(archive(('pipe', 'p')), f'{at}/t'),
        lambda s, at: s.put_archive(archive(('h', 'h../../etc/passwd')), f'{at}/t'),
        lambda s, at: s.put_archive(archive(('out', 'l/etc'), ('out/x', b'')), f'{at}/u'),
        lambda s, at: s.put_archive(archive(('out', 'l..'), ('out/x', b'')), f'{at}/v'),
        lambda s, at: s.put_archive(archive(('in', 'd'), ('l', 'lin'), ('l/x', b'ok')), f'{at}/w'),
        lambda s, at: s.execute_command('mkdir -p y/in; ln -s /etc y/out; ln -s in y/ok', cwd=at).exit_code,
        lambda s, at: s.put_archive(archive(('out/x', b'')), f'{at}/y'),
        lambda s, at: s.put_archive(archive(('ok/x', b'')), f'{at}/y'),
        lambda s, at: [listed(s, f'{at}/{name}', recursive=True) for name in ('w', 'y')],
        lambda s, at: s.path_exists('/etc/x'),
    ],
    'commands': [
        lambda s, at: reported(s, 'echo hi; echo e >&2; exit 7'),
        lambda s, at: reported(s, ['sh', '-c', 'exit 200']),
        lambda s, at: reported(s, ['nope']),
        lambda s, at: reported(s, ['/etc/passwd']),
        lambda s, at: reported(s, ['/etc']),
        lambda s, at: reported(s, ['/etc/passwd/x']),
        lambda s, at: reported(s, 'pwd', cwd='/nope'),
        lambda s, at: reported(s, 'pwd', cwd='/etc/passwd'),
        lambda s, at: reported(s, 'pwd', cwd=at),
        lambda s, at: reported(s, 'id -u; id -g; echo $USER', user='nobody'),
        lambda s, at: reported(s, 'id -g', user='0:nogroup'),
        lambda s, at: reported(s, 'id', user='xx'),
        lambda s, at: reported(s, 'id', user='0:xx'),
        lambda s, at: reported(s, 'id -u', user='4711'),
        lambda s, at: reported(s, 'cat', stdin='abc'),
        lambda s, at: reported(s, 'echo $A', env={'A': "x'y  z"}),
        lambda s, at: reported(s, 'seq 100000', max_output_bytes=1000),
        lambda s, at: reported(s, 'echo part; sleep 50', timeout=1.5),
        lambda s, at: reported(s, 'kill -9 $$'),
        lambda s, at: reported(s, "printf '\\377\\303'; printf '\\251'"),
        lambda s, at: reported(s, ['printf', '%s', 'x' * 140_000])['exit_code'],
        lambda s, at: reported(s, ['sh', '-c', 'printf "%s|" "$@"', 'x', 'a b', '', '\udcfe', '\n']),
        lambda s, at: s.run_script(['nope'], 'x').stderr,
        lambda s, at: s.run_script(['sh'], 'echo "$0" | grep -c "/main.sh$"; cat', suffix='.sh', stdin='in').stdout,
        lambda s, at: s.run_script(['sh'], 'echo "$PP"', import_path_env='PP', cwd=at, env={'PP': 'old'}).stdout,
        lambda s, at: s.run_script(['sh'], 'echo "$PP"', import_path_env='PP').stdout,
    ],
}  # fmt: skip


def reported(sandbox: Any, command: Any, **options: Any) -> dict[str, Any]:
    result = sandbox.execute_command(command, **options).model_dump()
    return {name: value for name, value in result.items() if name != 'execution_time'}


def outcomes(sandbox: Any, steps: list[Step]) -> Iterator[Any]:
    at = '/tmp/scenario'
    sandbox.remove_path(at, recursive=True, missing_ok=True)
    sandbox.make_dir(at)
    for step in steps:
        try:
            yield step(sandbox, at)
        except (EnclaveError, RuntimeError) as error:
            yield type(error).__name__, str(error), getattr(error, 'details', None)


@pytest.mark.parametrize('name', SCENARIOS)
def test_the_verbs_do_what_they_do_with_an_agent(sandbox: Any, agent_sandbox: Any, name: str) -> None:
    steps = SCENARIOS[name]
    for step, (with_agent, without) in enumerate(
        zip(outcomes(agent_sandbox, steps), outcomes(sandbox, steps), strict=True)
    ):
        assert without == with_agent, f'step {step} of {name!r}'


def test_an_image_without_tar_takes_and_gives_archives(bare_image: str) -> None:
    with make_sandbox(bare_image) as sandbox:
        sandbox.execute_command('rm /bin/tar')
        sandbox.put_archive(archive(('x', 'd750'), ('x/f', b'12'), ('x/l', 'lf')), 'new')
        assert [each[:3] for each in listed(sandbox, 'new', recursive=True)] == [
            ('x', 'directory', 0o750),
            ('x/f', 'file', 0o640),
            ('x/l', 'symlink', 0o777),
        ]
        assert [each[0] for each in unpacked(sandbox.get_archive('new'))] == ['new', 'new/x', 'new/x/f', 'new/x/l']
        assert [each[0] for each in unpacked(sandbox.get_archive('new/x/f'))] == ['f']


def test_directories_travel_both_ways(sandbox: Any, tmp_path: Path) -> None:
    source = tmp_path / 'source'
    (source / 'sub' / 'empty').mkdir(parents=True)
    (source / 'sub' / 'run').write_bytes(b'x' * 300_000)
    (source / 'sub' / 'run').chmod(0o755)
    (source / 'link').symlink_to('sub/run')

    sandbox.put_dir(source, '/tmp/dir')
    sandbox.get_dir('/tmp/dir', tmp_path / 'target')

    copied = sorted(str(path.relative_to(tmp_path / 'target')) for path in (tmp_path / 'target').rglob('*'))
    assert copied == ['link', 'sub', 'sub/empty', 'sub/run']
    assert (tmp_path / 'target' / 'link').readlink() == Path('sub/run')
    assert (tmp_path / 'target' / 'sub' / 'run').stat().st_mode & 0o777 == 0o755


def test_a_reader_that_stops_early_leaves_no_program_behind(sandbox: Any) -> None:
    sandbox.execute_command(['truncate', '-s', '1G', '/tmp/sparse'])
    chunks = sandbox.read_chunks('/tmp/sparse')

    first = next(chunks)
    chunks.close()
    waited = sandbox.execute_command('while ps | grep "[c]at -- /tmp/sparse"; do sleep 0.1; done', PATIENCE)

    assert first.strip(b'\0') == b''
    assert waited.status is ExecutionStatus.SUCCESS
    assert sandbox.active_calls == 0


def test_a_time_stamp_keeps_its_fraction(sandbox: Any) -> None:
    sandbox.execute_command(['touch', '-d', '2001-02-03 04:05:06', '/tmp/stamp'])
    before = time.time()
    sandbox.write_file('/tmp/now', 'x')

    stamp = sandbox.stat_path('/tmp/stamp').modified_at
    now = sandbox.stat_path('/tmp/now').modified_at.timestamp()

    assert (stamp.year, stamp.second) == (2001, 6)
    assert before - 1 <= now <= time.time() + 1


def test_programs_run_without_an_agent(bare_image: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, '_languages', dict(table._languages))
    monkeypatch.setattr(table, '_names', dict(table._names))
    entry = Language(
        name='ash',
        title='ash',
        file='main.ash',
        compile=('sh', '-n', '{file}'),
        run=('sh', '{file}'),
        version=('sh', '-c', ''),
    )
    register_language(entry)
    with make_sandbox(bare_image) as sandbox:
        code = 'read x; echo "$x $1 $(cat a/b)"; printf "\\377" > out; pwd'
        result = sandbox.run_code(
            code,
            'ash',
            stdin='in\n',
            args=['arg'],
            files={'a/b': 'file'},
            fetch_files=['out', 'none'],
            expected_output='x',
        )
        printed, place = result.stdout.splitlines()

        assert (printed, result.verdict) == ('in arg file', Verdict.WRONG_ANSWER)
        assert result.compile.success
        assert (result.files, sorted(result.file_errors)) == ({'out': b'\xff'}, ['none'])
        assert not sandbox.path_exists(place)
        assert sandbox.run_code('if', 'ash').verdict is Verdict.COMPILE_ERROR
        assert sandbox.run_code('exit 3', 'ash').verdict is Verdict.RUNTIME_ERROR
        assert sandbox.run_code('while :; do :; done', 'ash', timeout=0.5).verdict is Verdict.TIME_LIMIT
        spinning = sandbox.run_code('while :; do :; done', 'ash', cpu_time_limit=0.5, timeout=60)
        assert (spinning.verdict, spinning.run.command) == (Verdict.TIME_LIMIT, ['sh', 'main.ash'])
        with pytest.raises(UnsupportedError, match='julia'):
            sandbox.run_code('1', 'julia')


def test_memory_that_stays_taken_when_calls_have_ended_is_seen(bare_image: str) -> None:
    with make_sandbox(bare_image, memory_limit='64m') as sandbox:
        sandbox.execute_command('head -c 50000000 /dev/zero > /dev/shm/left')
        with pytest.raises(SandboxError, match='of its memory are taken'):
            sandbox._clean()

        sandbox.execute_command('rm /dev/shm/left')
        sandbox._clean()


def test_a_number_that_no_user_can_have_is_refused(sandbox: Any) -> None:
    for user in ('-1', '99999999999', '0:99999999999'):
        with pytest.raises(InvalidArgumentError, match='user'):
            sandbox.execute_command('true', user=user)
