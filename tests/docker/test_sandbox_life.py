"""Starting, stopping and losing a Docker sandbox: what is reported, and what is left."""

from __future__ import annotations

import contextlib
import gc
import os
import subprocess
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from enclave import SandboxFactory, SandboxStatus, SandboxType
from enclave.errors import (
    ConfigurationError,
    EngineUnavailableError,
    ImageNotFoundError,
    InvalidArgumentError,
    NotRegisteredError,
    SandboxGoneError,
    SandboxStartError,
    SandboxStateError,
    ToolArgumentsError,
    ToolNotFoundError,
)
from enclave.sandboxes.docker import engine as engine_module
from enclave.sandboxes.docker.engine import Engine
from enclave.sandboxes.docker.sandbox import DockerSandbox
from enclave.testing.kinds import wait_until
from enclave.testing.plugin import SharedSandbox
from tests.support.relay import Relay

pytestmark = pytest.mark.docker

OFFLINE = {'network_enabled': False, 'tools_config': ['shell_executor', 'python_executor', 'file_operation']}


def docker(*args: str) -> str:
    return subprocess.run(['docker', *args], capture_output=True, text=True, check=True).stdout


def containers_of(sandbox_id: str) -> list[str]:
    return docker('ps', '-a', '--filter', f'label=enclave.sandbox={sandbox_id}', '--format', '{{.State}}').split()


def test_the_main_job() -> None:
    """Every form of configuration makes the same sandbox, and it does what the first page says."""
    for config in (None, {'tools_config': ['python_executor']}):
        sandbox = SandboxFactory.create_sandbox(SandboxType.DOCKER, config, sandbox_id=None)
        assert sandbox.status is SandboxStatus.INITIALIZING
    with sandbox:
        assert sandbox.status is SandboxStatus.RUNNING
        assert sandbox.execute_tool('python_executor', {'code': 'print(1)'}).output == '1\n'
        assert list(sandbox.get_available_tools()) == sandbox.list_tools() == ['python_executor']
        info = sandbox.get_info()
        assert (info.id, info.type, info.status) == (sandbox.id, 'docker', 'running')
    assert sandbox.status is SandboxStatus.STOPPED
    assert containers_of(sandbox.id) == []


def test_a_stopped_sandbox_refuses_and_starts_again() -> None:
    sandbox = DockerSandbox(OFFLINE)
    with pytest.raises(SandboxStateError, match='start'):
        sandbox.execute_command('true')
    with sandbox:
        sandbox.write_file('x', b'1')
    with pytest.raises(SandboxStateError):
        sandbox.execute_tool('shell_executor', {'command': 'true'})
    sandbox.stop()

    with sandbox:
        assert not sandbox.path_exists('x')


def test_an_image_that_does_not_exist_is_named_with_what_to_do() -> None:
    sandbox = DockerSandbox({'image': 'no-such-image:here', 'pull': 'never'})

    with pytest.raises(ImageNotFoundError, match=r'no-such-image:here.*ms-enclave images') as caught:
        sandbox.start()

    assert isinstance(caught.value, LookupError)
    assert sandbox.status is SandboxStatus.ERROR
    assert containers_of(sandbox.id) == []


def test_an_engine_that_does_not_answer_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    elsewhere = Engine(f'unix://{tmp_path}/nobody.sock')
    monkeypatch.setattr('enclave.sandboxes.docker.backend.get_engine', lambda: elsewhere)

    with pytest.raises(EngineUnavailableError, match='ms-enclave doctor') as caught:
        DockerSandbox(OFFLINE).start()

    assert isinstance(caught.value, ConnectionError)


def test_the_same_id_twice_is_refused_and_the_first_lives() -> None:
    with DockerSandbox(OFFLINE) as first:
        with pytest.raises(SandboxStartError, match='id'):
            DockerSandbox(OFFLINE, first.id).start()

        assert first.execute_command('echo fine').stdout == 'fine\n'


@pytest.mark.parametrize('bad', ['', '-x', 'a b', 'x' * 64, '../x', 5])
def test_impossible_ids_are_refused(bad: str) -> None:
    with pytest.raises(InvalidArgumentError, match='sandbox_id'):
        DockerSandbox(OFFLINE, bad)


def test_unknown_kinds_options_and_tools_are_named() -> None:
    with pytest.raises(NotRegisteredError, match='not registered'):
        SandboxFactory.create_sandbox('no-such-kind')
    with pytest.raises(ConfigurationError, match="'memory_limit'"):
        SandboxFactory.create_sandbox(SandboxType.DOCKER, {'memory_limits': '1g'})
    with pytest.raises(ToolNotFoundError, match='no_such_tool'):
        DockerSandbox({'tools_config': ['no_such_tool']})
    with pytest.raises(ConfigurationError, match='no_such_option'):
        DockerSandbox({'tools_config': {'python_executor': {'no_such_option': 1}}})


@pytest.fixture(scope='module')
def shared_sandbox() -> Iterator[SharedSandbox[DockerSandbox]]:
    with contextlib.closing(SharedSandbox(lambda: DockerSandbox(OFFLINE))) as made:
        yield made


@pytest.fixture
def shared(shared_sandbox: SharedSandbox[DockerSandbox]) -> DockerSandbox:
    return shared_sandbox.get()


def test_bad_calls_are_named(shared: DockerSandbox) -> None:
    with pytest.raises(ToolNotFoundError, match='notebook_executor'):
        shared.execute_tool('notebook_executor', {})
    with pytest.raises(ToolArgumentsError, match='code'):
        shared.execute_tool('python_executor', {})
    with pytest.raises(ToolArgumentsError, match='cod'):
        shared.execute_tool('python_executor', {'code': '1', 'cod': '1'})
    with pytest.raises(ToolArgumentsError):
        shared.execute_tool('python_executor', ['code'])  # type: ignore[arg-type]
    for command in ('', '  ', [], [''], ['a', 5], b'x', None, 5):
        with pytest.raises(InvalidArgumentError, match='command'):
            shared.execute_command(command)  # type: ignore[arg-type]
    for options in (
        {'timeout': -1},
        {'timeout': 'x'},
        {'cwd': ''},
        {'cwd': 5},
        {'env': {'a=b': 'c'}},
        {'env': {'a': 1}},
    ):
        with pytest.raises(InvalidArgumentError, match=next(iter(options))):
            shared.execute_command('true', **options)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError, match='max_output_bytes'):
        shared.execute_command('true', max_output_bytes=0)
    with pytest.raises(InvalidArgumentError, match='NUL'):
        shared.execute_command('echo \0')


def test_empty_code_and_command_are_results(shared: DockerSandbox) -> None:
    assert shared.execute_tool('python_executor', {'code': ' '}).error == 'No code provided'
    assert shared.execute_tool('shell_executor', {'command': ''}).error == 'No command provided'


@pytest.mark.parametrize(
    'name', ["it's", 'a "quote"', 'new\nline', '$(touch hacked)', '`id`', '-rf', '--', ' lead', 'ü€', '*', 'a;b', '\\']
)
def test_absurd_paths_are_data(shared: DockerSandbox, name: str) -> None:
    path = f'absurd/{name}'
    for operation, more in (('write', {'content': 'x'}), ('exists', {}), ('read', {})):
        result = shared.execute_tool('file_operation', {'operation': operation, 'file_path': path, **more})
        assert result.success, result
    assert result.output == 'x'
    assert [entry.path for entry in shared.list_dir('absurd')] == [name]
    assert shared.execute_tool('file_operation', {'operation': 'delete', 'file_path': path}).success
    assert not shared.path_exists(path)
    assert not shared.path_exists('hacked')


def test_a_container_removed_behind_our_back_is_noticed_and_named() -> None:
    sandbox = DockerSandbox(OFFLINE)
    with sandbox:
        docker('rm', '-f', sandbox.container_name)
        with pytest.raises(SandboxGoneError, match='removed behind our back'):
            sandbox.execute_command('true')
        assert sandbox.status is SandboxStatus.ERROR
        assert 'removed' in (sandbox.get_info().error or '')
    assert sandbox.status is SandboxStatus.STOPPED


def test_a_call_under_way_is_reported_when_its_sandbox_dies() -> None:
    with DockerSandbox(OFFLINE) as sandbox:
        process = sandbox.start_process('sleep 1000')
        process.wait_started()
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(sandbox.execute_command, 'echo x; sleep 1000', 0)
            assert wait_until(lambda: sandbox.active_calls >= 2)
            docker('kill', sandbox.container_name)
            with pytest.raises(SandboxGoneError):
                running.result(30)
        with pytest.raises(SandboxGoneError):
            process.wait(30)


def test_stopping_is_not_held_up_by_calls_and_reports_them() -> None:
    sandbox = DockerSandbox(OFFLINE)
    sandbox.start()
    with ThreadPoolExecutor(12) as pool:
        running = [pool.submit(sandbox.execute_command, 'trap "" TERM; sleep 1000', 0) for _ in range(12)]
        assert wait_until(lambda: sandbox.active_calls >= 12)
        sandbox.stop()
        errors = [each.exception(30) for each in running]
        assert all('stopped' in str(error) for error in errors if isinstance(error, SandboxGoneError))
        assert not [each.result() for each in running if each.exception() is None and each.result().success]
    assert containers_of(sandbox.id) == []


def test_programs_get_a_grace_to_end_in_order(tmp_path: Path) -> None:
    config = {**OFFLINE, 'volumes': {str(tmp_path): {'bind': '/out'}}}
    with DockerSandbox(config) as sandbox:
        process = sandbox.start_process(
            'trap "echo saved > /out/state; exit 0" TERM; echo up; while :; do sleep 0.05; done'
        )
        assert next(process.chunks(30)).data == b'up\n'

    assert (tmp_path / 'state').read_text() == 'saved\n'


def test_stop_from_many_threads_at_once_is_one_stop() -> None:
    sandbox = DockerSandbox(OFFLINE)
    sandbox.start()
    with ThreadPoolExecutor(8) as pool:
        for each in [pool.submit(sandbox.stop) for _ in range(8)]:
            each.result(60)

    assert sandbox.status is SandboxStatus.STOPPED
    assert containers_of(sandbox.id) == []


def test_nothing_of_the_host_process_grows() -> None:
    def held() -> tuple[int, int]:
        gc.collect()
        return len(os.listdir('/proc/self/fd')), threading.active_count()

    def use_five() -> None:
        for _ in range(5):
            with DockerSandbox(OFFLINE) as sandbox:
                sandbox.execute_command('echo x')

    # Connections to the engine are kept for the next request, a few of them; what earlier tests started may begin or end
    # meanwhile. What a sandbox leaves behind makes every round grow.
    rounds = [held()]
    for _ in range(5):
        use_five()
        rounds.append(held())
        if rounds[-1][0] <= rounds[-2][0] and rounds[-1][1] <= rounds[-2][1]:
            return
    pytest.fail(f'descriptors and threads grow with every five sandboxes: {rounds}')


def test_a_forgotten_sandbox_warns() -> None:
    sandbox = DockerSandbox(OFFLINE)
    sandbox.start()
    keep = sandbox._operations, sandbox.backend.container
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        del sandbox
        gc.collect()
    try:
        assert any('never stopped' in str(each.message) for each in caught)
    finally:
        assert keep[0] is not None
        keep[0].close(grace=0.1)


def test_an_engine_that_goes_away_in_mid_call_is_reported(monkeypatch: pytest.MonkeyPatch, engine: Engine) -> None:
    """The engine is reached through a relay, which is then cut."""
    assert engine.endpoint.socket_path is not None
    with Relay(engine.endpoint.socket_path) as relay:
        cut = Engine(f'tcp://127.0.0.1:{relay.port}')
        monkeypatch.setattr('enclave.sandboxes.docker.backend.get_engine', lambda: cut)
        monkeypatch.setattr(engine_module, 'get_engine', lambda: cut)
        sandbox = DockerSandbox(OFFLINE)
        sandbox.start()
        container = sandbox.metadata['container_id']
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(sandbox.execute_command, 'sleep 1000', 0)
            assert wait_until(lambda: sandbox.active_calls > 0)
            relay.stop()
            with pytest.raises(SandboxGoneError):
                running.result(60)
        assert sandbox.status is SandboxStatus.ERROR
        with pytest.raises(EngineUnavailableError):
            sandbox.stop()
        cut.close()
    # The agent saw its lifeline end, so the container went by itself.
    pause = threading.Event()
    for _ in range(200):
        if container[:12] not in docker('ps', '-aq', '--filter', f'id={container}'):
            break
        pause.wait(0.1)
    else:
        pytest.fail('the container is still there')


def test_two_hundred_megabytes_do_not_grow_the_host(shared: DockerSandbox) -> None:
    def peak_kb() -> int:
        text = Path('/proc/self/status').read_text()
        return int(text.split('VmHWM:')[1].split()[0])

    Path('/proc/self/clear_refs').write_text('5')
    before = peak_kb()
    result = shared.execute_command("head -c 200000000 /dev/zero | tr '\\0' x", timeout=120)

    assert (result.stdout_bytes, result.stdout_truncated) == (200_000_000, True)
    assert peak_kb() - before < 16 * 1024


def test_installing_packages_works_inside() -> None:
    """The capabilities that are left are enough for dpkg, which changes owners and users."""
    with DockerSandbox(OFFLINE) as sandbox:
        made = sandbox.execute_command(
            'set -e; mkdir -p p/DEBIAN p/opt/tried; echo hi > p/opt/tried/file; '
            'printf "Package: tried\\nVersion: 1\\nArchitecture: all\\nMaintainer: me <me@example.org>\\nDescription: x\\n" '
            '> p/DEBIAN/control; chown -R 1000:1000 p/opt; dpkg-deb --build p tried.deb; dpkg -i tried.deb; '
            'stat -c %u /opt/tried/file; su nobody -s /bin/sh -c id',
            timeout=120,
        )

    assert made.success, made
    assert '1000\nuid=65534(nobody)' in made.stdout


def test_a_kept_container_that_another_has_taken_up_is_left_alone() -> None:
    sandbox = DockerSandbox({**OFFLINE, 'remove_on_exit': False})
    again = DockerSandbox({**OFFLINE, 'remove_on_exit': False}, sandbox.id)
    try:
        with sandbox:
            sandbox.write_file('kept.txt', b'x')
        with again:
            with pytest.raises(SandboxStartError, match='is running already'):
                sandbox.start()

            assert again.read_file('kept.txt') == b'x'
    finally:
        again.cleanup()
    assert containers_of(sandbox.id) == []
