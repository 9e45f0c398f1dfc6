"""A paused sandbox keeps everything as it is and runs nothing, on every backend and through every manager."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

import enclave
from enclave.enums import SandboxStatus
from enclave.errors import InvalidArgumentError, SandboxGoneError, SandboxStateError
from enclave.managers.base import SandboxManager
from enclave.sandboxes.agent_backed import AgentBackedSandbox
from enclave.testing.kinds import PATIENCE_SECONDS as PATIENCE
from enclave.testing.plugin import SharedSandbox
from tests.support.backends import Backend

COUNTER = """
import sys
number = 0
for line in sys.stdin:
    number += 1
    print(number, flush=True)
"""


@pytest.fixture(scope='module')
def shared_sandbox(backend: Backend) -> Iterator[SharedSandbox[AgentBackedSandbox]]:
    """For this module alone: a test that fails may leave it paused, and then it is replaced."""
    with contextlib.closing(SharedSandbox(backend.make)) as shared:
        yield shared


def test_programs_and_their_memory_are_as_before(sandbox: AgentBackedSandbox) -> None:
    with sandbox.start_process(['python3', '-c', COUNTER], open_stdin=True, timeout=PATIENCE) as counter:
        chunks = counter.chunks()
        counter.write(b'first\n')
        before = next(chunks).data

        sandbox.pause()
        was = sandbox.status
        sandbox.resume()
        counter.write(b'second\n')
        after = next(chunks).data

    assert (before, was, after) == (b'1\n', SandboxStatus.PAUSED, b'2\n')
    assert sandbox.status is SandboxStatus.RUNNING


def test_a_call_that_runs_continues_when_it_is_resumed(sandbox: AgentBackedSandbox) -> None:
    with ThreadPoolExecutor(1) as other:
        sandbox.execute_command('rm -f go && mkfifo go')
        call = other.submit(sandbox.execute_command, 'touch here; cat go; echo done', PATIENCE)
        while not sandbox.path_exists('here'):
            pass
        sandbox.pause()
        assert not call.done()
        sandbox.resume()
        sandbox.execute_command('echo went > go', PATIENCE)

        assert call.result(PATIENCE).stdout == 'went\ndone\n'


def test_it_takes_no_calls_and_says_what_to_do(sandbox: AgentBackedSandbox) -> None:
    sandbox.pause()
    try:
        with pytest.raises(SandboxStateError, match=r'is paused.*resume'):
            sandbox.execute_command('true')
        with pytest.raises(SandboxStateError, match=r'is paused.*resume'):
            sandbox.read_file('/etc/passwd')
        with pytest.raises(SandboxStateError, match=r'is paused.*resume'):
            sandbox.start()
        assert not sandbox.is_alive()
    finally:
        sandbox.resume()

    assert sandbox.execute_command('echo again').stdout == 'again\n'


def test_the_kind_says_that_it_can_be_paused(sandbox: AgentBackedSandbox) -> None:
    assert sandbox.can_be_paused


def test_twice_is_as_once(sandbox: AgentBackedSandbox) -> None:
    sandbox.resume()
    sandbox.pause()
    sandbox.pause()
    sandbox.resume()
    sandbox.resume()

    assert sandbox.execute_command('echo again').stdout == 'again\n'


def test_a_paused_sandbox_can_be_stopped(start: Callable[..., AgentBackedSandbox]) -> None:
    sandbox = start()
    sandbox.pause()

    sandbox.stop()

    assert sandbox.status is SandboxStatus.STOPPED
    with pytest.raises((SandboxStateError, SandboxGoneError)):
        sandbox.resume()
    with pytest.raises((SandboxStateError, SandboxGoneError)):
        sandbox.pause()


# Managers -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope='module', params=['local', 'http'])
def manager(request: pytest.FixtureRequest, backend: Backend) -> Iterator[SandboxManager]:
    options = {'sandbox_type': backend.sandbox_type, 'sandbox_config': {'network_enabled': False}}
    if request.param == 'local':
        with enclave.LocalSandboxManager(**options) as made:
            yield made
        return
    server = enclave.create_server(config=options)
    with server.running() as url, enclave.HttpSandboxManager(base_url=url) as made:
        yield made


def test_a_manager_pauses_by_id_and_the_lifetime_stands_still(manager: SandboxManager) -> None:
    made = manager.create_sandbox(ttl=PATIENCE)
    manager.execute_command(made, 'echo kept > file')

    until = manager.pause_sandbox(made)
    info = manager.get_sandbox_info(made)
    paused = [each.id for each in manager.list_sandboxes('paused')]
    left = manager.resume_sandbox(made)

    assert info.status is SandboxStatus.PAUSED
    assert made in paused
    assert until is not None
    assert (until - info.created_at).total_seconds() > 80_000
    assert left is not None
    assert (left - info.created_at).total_seconds() < 80_000
    assert manager.execute_command(made, 'cat file').stdout == 'kept\n'
    manager.delete_sandbox(made)


def test_one_that_stays_paused_too_long_is_removed(manager: SandboxManager) -> None:
    made = manager.create_sandbox()

    manager.pause_sandbox(made, ttl=0.01)

    while made in {each.id for each in manager.list_sandboxes()}:
        pass


def test_one_whose_time_is_over_is_paused_if_so_wanted(manager: SandboxManager) -> None:
    made = manager.create_sandbox(ttl=PATIENCE)
    manager.renew(made, 0.01, on_expiry='pause')

    while manager.get_sandbox_info(made).status is not SandboxStatus.PAUSED:
        pass
    assert manager.get_sandbox_info(made).metadata['on_expiry'] == 'pause'
    manager.resume_sandbox(made)

    assert manager.execute_command(made, 'echo again').stdout == 'again\n'
    manager.delete_sandbox(made)


def test_a_sandbox_object_of_a_manager_pauses_too(manager: SandboxManager) -> None:
    made = manager.create_sandbox()
    sandbox = manager.get_sandbox(made)
    assert sandbox is not None

    sandbox.pause()
    assert manager.get_sandbox_info(made).status is SandboxStatus.PAUSED
    sandbox.resume()

    assert sandbox.execute_command('echo again').stdout == 'again\n'
    manager.delete_sandbox(made)


def test_what_else_may_happen_at_the_end_is_refused(manager: SandboxManager) -> None:
    with pytest.raises(InvalidArgumentError, match='on_expiry'):
        manager.renew('anything', 1.0, on_expiry='sleep')  # type: ignore[arg-type]
