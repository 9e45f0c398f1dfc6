"""Whatever happens between the creation of a container and its start, nothing is left on the engine."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import docker.errors
import pytest
import requests

from enclave.errors import EnclaveError
from enclave.sandboxes.docker import backend as module
from enclave.sandboxes.docker.engine import Engine
from enclave.sandboxes.docker.sandbox import DockerSandbox
from tests.support.host import wait_until

pytestmark = pytest.mark.docker

ENDS: dict[str, Callable[[], BaseException]] = {
    'its answer is lost': lambda: requests.exceptions.ConnectionError('Connection aborted.'),
    'its answer comes too late': lambda: requests.exceptions.ReadTimeout('Read timed out.'),
    'a signal ends the program': lambda: SystemExit(143),
    'somebody presses Ctrl-C': KeyboardInterrupt,
}


def is_there(engine: Engine, name: str) -> bool:
    try:
        engine.api.inspect_container(name)
    except docker.errors.NotFound:
        return False
    return True


@pytest.mark.parametrize('end', ENDS)
@pytest.mark.parametrize('step', ['create_container_from_config', 'start'])
def test_nothing_is_left_of_a_container_after(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, end: str, step: str
) -> None:
    done = getattr(engine.api, step)
    sandbox = DockerSandbox({'network_enabled': False})

    def do_and_lose(*args: Any, **options: Any) -> Any:
        done(*args, **options)
        raise ENDS[end]()

    monkeypatch.setattr(engine.api, step, do_and_lose)

    with pytest.raises((EnclaveError, SystemExit, KeyboardInterrupt)):
        sandbox.start()

    wait_until(lambda: not is_there(engine, sandbox.container_name))


def test_a_container_that_is_made_after_its_answer_was_given_up_is_removed(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = engine.api.create_container_from_config  # type: ignore[attr-defined]
    sandbox = DockerSandbox({'network_enabled': False})
    may_create, has_created = threading.Event(), threading.Event()

    def do_later(*args: Any, **options: Any) -> Any:
        def create() -> None:
            may_create.wait(60)
            done(*args, **options)
            has_created.set()

        threading.Thread(target=create, daemon=True).start()
        raise requests.exceptions.ReadTimeout('Read timed out.')

    monkeypatch.setattr(engine.api, 'create_container_from_config', do_later)
    with pytest.raises(EnclaveError):
        sandbox.start()
    may_create.set()

    assert has_created.wait(60)
    wait_until(lambda: not is_there(engine, sandbox.container_name))


def test_another_sandboxs_container_of_that_name_stays(engine: Engine) -> None:
    with DockerSandbox({'network_enabled': False}, sandbox_id='here-first') as first:
        with pytest.raises(EnclaveError, match='exists'):
            DockerSandbox({'network_enabled': False}, sandbox_id='here-first').start()

        assert first.execute_command('echo here').stdout == 'here\n'


def test_an_engine_that_cannot_set_kernel_parameters_is_asked_without(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one on a machine without IPv6."""
    done = engine.api.create_container_from_config  # type: ignore[attr-defined]
    asked: list[bool] = []

    def create(body: dict[str, Any], *args: Any) -> Any:
        asked.append('Sysctls' in body['HostConfig'])
        if asked[-1]:
            body['HostConfig']['Sysctls'] = {'net.ipv6.conf.none.disable_ipv6': '0'}
        return done(body, *args)

    monkeypatch.setattr(engine.api, 'create_container_from_config', create)
    monkeypatch.setattr(engine, 'memory', {**engine.memory})
    for _ in range(2):
        with DockerSandbox({'network_enabled': False}) as sandbox:
            assert sandbox.execute_command('hostname').stdout == 'sandbox\n'

    assert asked == [True, False, False]
    assert module._NO_IPV6 in engine.memory


KILLED_BEFORE_THE_START = """
import os, signal
from enclave.sandboxes.docker.engine import get_engine
from enclave.sandboxes.docker.sandbox import DockerSandbox
sandbox = DockerSandbox({'network_enabled': False})
def start(*arguments, **options):
    print(sandbox.container_name, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
get_engine().api.start = start
sandbox.start()
"""


def test_what_an_owner_left_that_was_killed_before_the_start_goes_with_the_next_sandbox_of_anybody(
    engine: Engine,
) -> None:
    killed = subprocess.run(
        [sys.executable, '-c', KILLED_BEFORE_THE_START], capture_output=True, text=True, check=False
    )
    name = killed.stdout.strip()
    assert name
    assert killed.returncode == -signal.SIGKILL

    engine.memory.pop('swept by', None)  # as in a process that has made none yet
    sandbox = DockerSandbox({'network_enabled': False})  # without a manager
    try:
        sandbox.start()
        wait_until(lambda: not is_there(engine, name))
    finally:
        sandbox.stop()
