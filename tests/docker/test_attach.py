"""Attaching to sandboxes of others, and looking at them from outside."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from enclave.enums import SandboxStatus
from enclave.errors import SandboxGoneError, SandboxNotFoundError, SandboxStateError
from enclave.sandboxes.docker.attach import attach_sandbox
from enclave.sandboxes.docker.engine import Engine
from enclave.sandboxes.docker.inventory import (
    describe_sandbox,
    list_sandboxes,
    measure_usage,
    remove_sandbox,
    stop_sandbox,
)
from enclave.sandboxes.docker.sandbox import DockerSandbox

pytestmark = pytest.mark.docker


@pytest.fixture
def owned() -> Iterator[DockerSandbox]:
    with DockerSandbox({'network_enabled': False, 'working_dir': '/work', 'user': '1000:1000'}) as made:
        yield made


def test_attached_sandbox_has_all_verbs_in_the_owners_surroundings(owned: DockerSandbox) -> None:
    with attach_sandbox(owned.id, tools_config=['python_executor']) as attached:
        attached.write_file('a.txt', 'text')

        assert attached.execute_command('id -u; pwd').stdout == '1000\n/work\n'
        assert attached.execute_tool('python_executor', {'code': 'print(open("a.txt").read())'}).output == 'text\n'
        assert owned.read_file('a.txt') == b'text'
        assert attached.metadata['attached'] is True


def test_letting_go_ends_what_was_started_and_leaves_the_rest(owned: DockerSandbox) -> None:
    mine = owned.start_process(['sleep', '600'])
    attached = attach_sandbox(owned.id)
    attached.start()
    theirs = attached.start_process(['sleep', '600']).wait_started()
    seen = owned.path_exists(f'/proc/{theirs}')

    attached.stop()
    attached.cleanup()

    assert seen
    assert attached.status is SandboxStatus.STOPPED
    assert owned.is_alive()
    assert mine.poll() is None
    assert not owned.path_exists(f'/proc/{theirs}')


def test_owner_that_leaves_takes_the_sandbox_along() -> None:
    with DockerSandbox({'network_enabled': False}) as owned:
        attached = attach_sandbox(owned.id)
        attached.start()

    with pytest.raises(SandboxGoneError):
        attached.execute_command('true')
    attached.stop()


def test_what_is_not_there_or_does_not_run_is_refused(engine: Engine) -> None:
    with pytest.raises(SandboxNotFoundError, match='nosuch'):
        attach_sandbox('nosuch')

    kept = DockerSandbox({'network_enabled': False, 'remove_on_exit': False})
    with kept:
        pass
    try:
        assert describe_sandbox(engine, kept.id).status is SandboxStatus.STOPPED
        with pytest.raises(SandboxStateError, match='exited'):
            attach_sandbox(kept.id)
    finally:
        kept.cleanup()


def test_sandbox_is_stopped_and_removed_from_outside(engine: Engine) -> None:
    with DockerSandbox({'network_enabled': False}) as owned:
        assert owned.id in [info.id for info in list_sandboxes(engine)]
        [usage] = measure_usage(engine, [info for info in list_sandboxes(engine) if info.id == owned.id])
        assert usage.memory_bytes

        stop_sandbox(engine, owned.id)

        assert not owned.is_alive()
    kept = DockerSandbox({'network_enabled': False, 'remove_on_exit': False})
    kept.start()
    remove_sandbox(engine, kept.id)
    with pytest.raises(SandboxNotFoundError):
        remove_sandbox(engine, kept.id)
    kept.cleanup()
