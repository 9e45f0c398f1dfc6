"""The manager over a real engine: what only a real one can show."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import docker.errors
import pytest
from attrs import evolve

from enclave.enums import SandboxStatus
from enclave.errors import EngineUnavailableError, ImageNotFoundError, SandboxGoneError
from enclave.managers.local import LocalSandboxManager
from enclave.sandboxes.docker import engine as engine_module
from enclave.sandboxes.docker.engine import Engine
from enclave.sandboxes.docker.sweep import DockerHousekeeper
from enclave.sandboxes.owner import current_owner
from tests.support.relay import Relay

pytestmark = pytest.mark.docker

ROOT = Path(__file__).parents[2]
PATIENCE = 120.0
CONFIG = {'tools_config': ['shell_executor', 'python_executor']}


@pytest.fixture
def manager() -> Iterator[LocalSandboxManager]:
    with LocalSandboxManager(sandbox_config=CONFIG, stop_grace=0) as manager:
        yield manager


def wait_until(predicate: Callable[[], object], what: str) -> None:
    give_up_at, pause = time.monotonic() + PATIENCE, threading.Event()
    while not predicate():
        assert time.monotonic() < give_up_at, f'it never came to that: {what}'
        pause.wait(0.05)


def containers_of(engine: Engine, pid: int) -> list[str]:
    found = engine.api.containers(all=True, filters={'label': ['enclave.sandbox', f'enclave.owner.pid={pid}']})
    return [each['Names'][0] for each in found]


def test_a_container_removed_behind_our_back_is_reported_and_replaced(
    manager: LocalSandboxManager, engine: Engine
) -> None:
    plain = manager.create_sandbox()
    (pooled,) = manager.initialize_pool(1)

    for sandbox_id in (plain, pooled):
        engine.api.remove_container(f'enclave-{sandbox_id}', force=True)
    with manager.lease(PATIENCE) as sandbox:
        assert sandbox.id != pooled
        assert sandbox.execute_command('echo well').stdout == 'well\n'

    wait_until(lambda: manager.get_sandbox_info(plain).status is SandboxStatus.ERROR, 'its status is error')
    assert 'removed' in str(manager.get_sandbox_info(plain).error)
    with pytest.raises(SandboxGoneError):
        manager.execute_command(plain, 'true')
    assert manager.delete_sandbox(plain)


def test_a_storm_of_creations_half_of_them_cancelled(manager: LocalSandboxManager, engine: Engine) -> None:
    futures = [manager.submit('create_sandbox') for _ in range(20)]
    for future in futures[::2]:
        future.cancel()

    made = {future.result(PATIENCE) for future in futures[1::2]}

    assert len(made) == 10
    expected = {f'/enclave-{sandbox_id}' for sandbox_id in made}
    wait_until(lambda: set(containers_of(engine, os.getpid())) == expected, 'only the others are left')
    wait_until(lambda: len(manager.list_sandboxes()) == 10, 'the table says the same')


def test_a_cancelled_call_is_killed_and_the_sandbox_stays(manager: LocalSandboxManager) -> None:
    sandbox_id = manager.create_sandbox()
    future = manager.submit('execute_command', sandbox_id, 'echo begun > begun; sleep 600', 0)
    wait_until(lambda: manager.execute_command(sandbox_id, 'cat begun').stdout == 'begun\n', 'the command has begun')

    assert future.cancel() is False

    assert future.result(PATIENCE).status == 'cancelled'
    assert manager.execute_command(sandbox_id, 'pgrep sleep || ls').stdout == 'begun\n'


def test_a_template_that_cannot_start_leaves_no_container(manager: LocalSandboxManager, engine: Engine) -> None:
    with pytest.raises(ImageNotFoundError, match='enclave-no-such-image'):
        manager.initialize_pool(4, 'docker', {'image': 'enclave-no-such-image', 'pull': 'never'})

    assert containers_of(engine, os.getpid()) == []
    assert manager.list_sandboxes() == []


def test_an_engine_that_goes_away_and_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    relay = Relay('/var/run/docker.sock')
    port = relay.port
    with relay:
        monkeypatch.setattr(engine_module, '_shared', Engine(f'tcp://127.0.0.1:{port}'))
        manager = LocalSandboxManager(sandbox_config=CONFIG, stop_grace=0, cleanup_interval=0.2)
        with manager:
            plain = manager.create_sandbox()
            manager.initialize_pool(1)
            assert manager.health_check().healthy

            relay.stop()
            health = manager.health_check()
            assert not health.healthy
            assert str(port) in health.details['backends']['docker']
            with pytest.raises(EngineUnavailableError):
                manager.create_sandbox()
            with pytest.raises(EngineUnavailableError):
                manager.execute_tool_in_pool('shell_executor', {'command': 'true'}, PATIENCE)
            assert plain in {info.id for info in manager.list_sandboxes()}

            again = Relay('/var/run/docker.sock')
            again._listener.close()
            again._listener = socket.create_server(('127.0.0.1', port))
            with again:
                wait_until(lambda: manager.health_check().healthy, 'the engine is back')
                result = manager.execute_tool_in_pool('shell_executor', {'command': 'echo back'}, PATIENCE)
                assert result.output == 'back\n'
                assert manager.get_sandbox_info(plain).status is SandboxStatus.ERROR
                assert manager.delete_sandbox(plain)
                assert manager.execute_command(manager.create_sandbox(), 'echo new').stdout == 'new\n'
                manager.stop()
                engine_module._shared.close()


# Owners that die ------------------------------------------------------------------------------------------------------

PROGRAM = """
import signal, sys
from enclave import LocalSandboxManager
manager = LocalSandboxManager(sandbox_config={config!r})
manager.initialize_pool(2)
manager.create_sandbox()
for more in {more!r}:
    manager.create_sandbox('docker', more)
last = manager.create_sandbox()
print('ready', flush=True)
manager.execute_command(last, 'sleep 600', 0)
"""


@pytest.fixture
def start_owner() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a program that owns sandboxes and waits in a call."""
    programs: list[subprocess.Popen[str]] = []

    def start(*more: dict[str, object]) -> subprocess.Popen[str]:
        source = PROGRAM.format(config=CONFIG, more=list(more))
        program = subprocess.Popen([sys.executable, '-c', source], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        programs.append(program)
        assert program.stdout is not None
        assert program.stdout.readline() == 'ready\n'
        return program

    yield start
    for program in programs:
        program.kill()
        program.wait(PATIENCE)
        assert program.stdout is not None
        program.stdout.close()


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_a_killed_owner_leaves_no_container(
    start_owner: Callable[..., subprocess.Popen[str]], engine: Engine, number: int
) -> None:
    owner = start_owner()
    assert len(containers_of(engine, owner.pid)) == 4

    owner.send_signal(number)
    owner.wait(PATIENCE)

    wait_until(lambda: not containers_of(engine, owner.pid), 'its containers are gone')


def sweep_first(attempt: Callable[[], bool]) -> None:
    """Try until a sweep of this library came first: every manager on this machine sweeps, those of other tests too."""
    for _ in range(20):
        if attempt():
            return
    pytest.fail('somebody else swept first, every time')


def remove(engine: Engine, *containers: str) -> None:
    """Remove containers that somebody else's sweep may be removing too, and return when they are gone."""
    for container in containers:
        try:
            engine.api.remove_container(container, force=True)
        except docker.errors.APIError as error:
            # 404: it is gone; 409: it is going.
            if error.status_code not in (404, 409):
                raise
    for container in containers:
        wait_until(lambda container=container: not is_there(engine, container), 'the container is gone')


def is_there(engine: Engine, container: str) -> bool:
    try:
        engine.api.inspect_container(container)
    except docker.errors.NotFound:
        return False
    return True


def test_what_a_dead_owner_left_is_swept_and_nothing_else(
    start_owner: Callable[..., subprocess.Popen[str]], manager: LocalSandboxManager, engine: Engine
) -> None:
    mine = manager.create_sandbox()

    def attempt() -> bool:
        # A container with its own command has no lifeline; one that is to be kept is nobody's to sweep.
        owner = start_owner(
            {'command': ['sleep', '600']}, {'command': ['sleep', '600'], 'remove_on_exit': False, 'pull': 'never'}
        )
        living = {f'/enclave-{mine}', *containers_of(engine, owner.pid)}
        DockerHousekeeper().sweep()
        assert living <= {*containers_of(engine, owner.pid), *containers_of(engine, os.getpid())}

        owner.kill()
        owner.wait(PATIENCE)
        try:
            wait_until(lambda: len(containers_of(engine, owner.pid)) <= 2, 'those with a lifeline are gone')
            swept = {f'/enclave-{sandbox_id}' for sandbox_id in DockerHousekeeper().sweep()}

            # Somebody else's sweep may still be at it.
            wait_until(lambda: len(containers_of(engine, owner.pid)) <= 1, 'the one without a lifeline is gone')
            (kept,) = containers_of(engine, owner.pid)
            assert kept not in swept
            assert manager.execute_command(mine, 'echo here').stdout == 'here\n'
            return len(swept & living) == 1
        finally:
            remove(engine, *containers_of(engine, owner.pid))

    sweep_first(attempt)


def test_only_what_is_provably_dead_is_swept(engine: Engine) -> None:
    """A container that was created but never started, as by an owner killed in between, has no lifeline yet."""
    me = current_owner()
    gone = evolve(me, started='1')
    owners = {
        'dead': gone.labels(),
        'kept': {**gone.labels(), 'enclave.kept': '1'},
        'alive': me.labels(),
        'elsewhere': evolve(gone, host='another/boot').labels(),
        'unknown': evolve(me, started='').labels(),
        'unnamed': {},
    }

    def attempt() -> bool:
        made = {}
        mark = uuid.uuid4().hex[:8]
        try:
            for name, labels in owners.items():
                made[name] = engine.api.create_container(
                    'python:3.11-slim', 'true', labels={'enclave.sandbox': f'{mark}-{name}', **labels}
                )['Id']
            swept = DockerHousekeeper().sweep()

            # Somebody else's sweep may still be at it.
            wait_until(lambda: not is_there(engine, made['dead']), 'the dead one is gone')
            assert {name for name, container in made.items() if is_there(engine, container)} == set(owners) - {'dead'}
            return f'{mark}-dead' in swept
        finally:
            remove(engine, *made.values())

    sweep_first(attempt)


def test_a_manager_sweeps_by_itself(
    start_owner: Callable[..., subprocess.Popen[str]], engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    def attempt() -> bool:
        owner = start_owner({'command': ['sleep', '600']})
        owner.kill()
        owner.wait(PATIENCE)
        with caplog.at_level('INFO', 'enclave.sandboxes.docker.sweep'), LocalSandboxManager():
            wait_until(lambda: not containers_of(engine, owner.pid), 'it is swept')
        return f'left by process {owner.pid}' in caplog.text

    sweep_first(attempt)


def test_threads_and_sockets_are_gone_after_the_end(engine: Engine) -> None:
    def sockets() -> int:
        places = (os.readlink(f'/proc/self/fd/{fd}') for fd in os.listdir('/proc/self/fd') if _is_open(fd))
        return sum(place.startswith('socket:') for place in places)

    with LocalSandboxManager(sandbox_config=CONFIG) as warm:
        warm.initialize_pool(4)
    before = sockets()
    with LocalSandboxManager(sandbox_config=CONFIG) as manager:
        manager.initialize_pool(4)
        with manager.lease() as sandbox:
            sandbox.execute_command('true')

    # Idle connections to the engine stay for the next call; the streams of sandboxes do not.
    assert sockets() <= before + 4
    assert not [
        thread.name for thread in threading.enumerate() if manager.id in thread.name or sandbox.id in thread.name
    ]


def _is_open(fd: str) -> bool:
    try:
        os.readlink(f'/proc/self/fd/{fd}')
    except OSError:
        return False
    return True
