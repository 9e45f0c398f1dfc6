"""A sandbox that is paused or frozen holds nobody up, and can be used again once it is not."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import docker.errors
import pytest

from enclave.enums import SandboxType
from enclave.errors import EnclaveError, OperationTimeoutError, SandboxSilentError
from enclave.managers.http import HttpSandboxManager
from enclave.managers.local import LocalSandboxManager
from enclave.sandboxes.agent_backed import AgentBackedSandbox
from enclave.sandboxes.docker.engine import get_engine
from enclave.server.serve import create_server
from tests.support.backends import Backend
from tests.support.host import wait_until

Start = Callable[..., AgentBackedSandbox]
SOON = 45.0
"""Seconds; what is meant takes eight, on a machine that has time."""


def pause(container: str) -> bool:
    """Pause a container; False where the engine failed to, as it may on a busy machine (runc gives up freezing)."""
    try:
        get_engine().api.pause(container)
    except docker.errors.APIError as error:
        return 'already paused' in str(error)
    return True


@contextlib.contextmanager
def paused(sandbox: AgentBackedSandbox) -> Iterator[None]:
    """Stop all that runs in a sandbox, its agent too, for the block."""
    if sandbox.sandbox_type is SandboxType.DOCKER:
        container = sandbox.metadata['container_id']
        wait_until(lambda: pause(container))
        try:
            yield
        finally:
            with contextlib.suppress(docker.errors.NotFound):  # it was stopped within the block
                get_engine().api.unpause(container)
    else:
        os.kill(sandbox.metadata['pid'], signal.SIGSTOP)
        try:
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(sandbox.metadata['pid'], signal.SIGCONT)


@pytest.mark.parametrize('stdin', [None, b'x' * (4 << 20)], ids=['without input', 'with much input'])
def test_a_call_on_a_paused_sandbox_ends_soon_after_its_limit(start: Start, stdin: bytes | None) -> None:
    sandbox = start()
    with paused(sandbox):
        began = time.monotonic()
        with pytest.raises(SandboxSilentError, match='paused'):
            sandbox.execute_command(['cat'], timeout=1.0, stdin=stdin)
        assert time.monotonic() - began < SOON

    assert sandbox.execute_command('echo here').stdout == 'here\n'


def test_a_call_that_is_going_on_when_its_sandbox_is_paused_ends_soon_after_its_limit(start: Start) -> None:
    sandbox = start()
    process = sandbox.start_process('echo begun; sleep 1000', timeout=2.0)
    assert next(process.chunks(30)).text == 'begun\n'

    with paused(sandbox):
        began = time.monotonic()
        with pytest.raises(SandboxSilentError):
            process.wait()
        assert time.monotonic() - began < SOON

    assert process.wait(60).timed_out
    assert sandbox.execute_command('cat /proc/[0-9]*/comm | grep -c sleep').stdout == '0\n'


def test_files_of_a_paused_sandbox_hold_nobody_up(start: Start) -> None:
    sandbox = start()
    sandbox.write_file('there', b'x' * (1 << 20))
    with paused(sandbox):
        for call in (
            lambda: sandbox.read_file('there'),
            lambda: sandbox.write_file('new', b'y' * (2 << 20)),
            lambda: sandbox.list_dir('.'),
        ):
            began = time.monotonic()
            with pytest.raises(SandboxSilentError):
                call()
            assert time.monotonic() - began < SOON

    assert sandbox.read_file('there') == b'x' * (1 << 20)
    wait_until(lambda: [each.path for each in sandbox.list_dir('.')] == ['there'])


def test_a_tool_on_a_paused_sandbox_ends_soon_after_its_limit(start: Start) -> None:
    sandbox = start(tools_config=['python_executor'])
    with paused(sandbox), pytest.raises(SandboxSilentError):
        sandbox.execute_tool('python_executor', {'code': 'print(1)', 'timeout': 1})

    assert sandbox.execute_tool('python_executor', {'code': 'print(1)'}).output == '1\n'


def test_many_calls_on_a_paused_sandbox_all_end(start: Start) -> None:
    """More than the pipes to it hold."""
    sandbox = start()
    with paused(sandbox):
        # Each of these leaves its messages in the pipes; past some there is no room for more.
        processes = []
        began = time.monotonic()
        for _ in range(60):
            with contextlib.suppress(SandboxSilentError):
                processes.append(sandbox.start_process(['true'], timeout=1.0, env={'A': 'x' * 10_000}))
        with pytest.raises(SandboxSilentError):
            sandbox.execute_command('true', timeout=1.0)
        assert time.monotonic() - began < 4 * SOON

    assert sandbox.execute_command('echo here', timeout=60).stdout == 'here\n'
    assert all(process.wait(60) is not None for process in processes)


def test_a_paused_sandbox_is_not_alive_and_stops_all_the_same(start: Start) -> None:
    sandbox = start()
    with contextlib.ExitStack() as stack:
        stack.enter_context(paused(sandbox))
        assert not sandbox.is_alive()
        with pytest.raises((SandboxSilentError, OperationTimeoutError)):
            sandbox.connect_port(1, timeout=1.0)
    with paused(sandbox):
        sandbox.stop()
    with pytest.raises(EnclaveError):
        sandbox.execute_command('true')


def test_a_pool_replaces_a_sandbox_that_does_not_answer(backend: Backend) -> None:
    with LocalSandboxManager(sandbox_type=backend.sandbox_type) as manager:
        [first] = manager.initialize_pool(1, config={'network_enabled': False})
        sandbox = manager.get_sandbox(manager.acquire_sandbox())
        with paused(sandbox):
            manager.release_sandbox(sandbox.id)
            with manager.lease(120) as other:
                assert other.id != first
                assert other.execute_command('echo here').stdout == 'here\n'


def test_a_client_of_a_server_learns_that_its_sandbox_is_paused(backend: Backend) -> None:
    server = create_server(sandbox_type=backend.sandbox_type, stop_grace=0.0)
    server.start('127.0.0.1', 0)
    try:
        with HttpSandboxManager(base_url=server.url) as manager:
            sandbox_id = manager.create_sandbox(config={'network_enabled': False})
            local: Any = server.service.tenant(None).manager.get_sandbox(sandbox_id)
            with paused(local):
                began = time.monotonic()
                with pytest.raises(SandboxSilentError, match='paused'):
                    manager.execute_command(sandbox_id, 'true', timeout=1.0)
                assert time.monotonic() - began < SOON
            assert manager.execute_command(sandbox_id, 'echo here').stdout == 'here\n'
    finally:
        server.stop()
