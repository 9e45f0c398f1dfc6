"""What a sandbox asks of its backend, and what it makes of the answers."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import pytest

from enclave.enums import SandboxStatus
from enclave.errors import SandboxGoneError
from enclave.sandboxes.agent_backed import AgentBackedSandbox
from enclave.sandboxes.backend import Backend, Launched, SandboxSpec
from enclave.sandboxes.operations import ByVerb
from enclave.verb_requests import ListDir


class FakeOperations(ByVerb):
    """Operations that answer until they are lost."""

    connect_problem = None
    active_calls = 2
    is_lost = False
    is_closed = False

    def list_dir(self, request: ListDir) -> list[Any]:
        if self.is_lost:
            raise SandboxGoneError('the stream ended')
        return [self]

    def close(self, *, grace: float) -> None:
        self.is_closed = True


class FakeBackend(Backend):
    """Keeps a record. ``spare`` are the operations that `recover` has left."""

    def __init__(self, spec: SandboxSpec) -> None:
        super().__init__(spec)
        self.running: Any = None
        self.spare: list[Any] = []
        self.destroyed: list[bool] = []
        self.recovered = 0
        self.has_kept = False

    def launch(self) -> Launched:
        self.running = FakeOperations()
        return Launched(self.running, {'tenant': self.spec.tenant, 'kind': self.spec.kind})

    def destroy(self, *, keep: bool) -> None:
        self.destroyed.append(keep)

    def find_problem(self) -> str | None:
        return 'it was lost' if self.running.is_lost else None

    def recover(self) -> Launched | None:
        self.recovered += 1
        if not self.spare:
            return None
        self.running = self.spare.pop()
        return Launched(self.running, {'recovered': self.recovered})

    @property
    def own_processes(self) -> Any:
        return (object(),)

    @property
    def has_leftovers(self) -> bool:
        return self.has_kept


class BackedSandbox(AgentBackedSandbox):
    """A sandbox over the fake."""

    sandbox_type: ClassVar[str] = 'backed'
    backend_class: ClassVar[type[Backend] | None] = FakeBackend


@pytest.fixture
def sandbox() -> Iterator[Any]:
    made = BackedSandbox()
    made.tenant = 'a tenant'
    with made:
        yield made


def test_a_backend_is_given_the_spec_and_its_facts_are_metadata(sandbox: Any) -> None:
    assert sandbox.metadata == {'tenant': 'a tenant', 'kind': 'backed'}
    assert sandbox.backend.spec == SandboxSpec(id=sandbox.id, kind='backed', config=sandbox.config, tenant='a tenant')


def test_a_backends_own_processes_are_no_calls(sandbox: Any) -> None:
    assert sandbox.active_calls == 1


def test_what_it_launched_is_closed_before_it_destroys(sandbox: Any) -> None:
    operations = sandbox.backend.running

    sandbox.stop()

    assert operations.is_closed
    assert sandbox.backend.destroyed == [False]


def test_leftovers_are_destroyed_though_nothing_runs() -> None:
    sandbox: Any = BackedSandbox({'remove_on_exit': False})
    sandbox.backend.has_kept = True

    sandbox.stop()
    kept = list(sandbox.backend.destroyed)
    sandbox.cleanup()

    assert (kept, sandbox.backend.destroyed) == ([], [False])


def test_a_sandbox_continues_with_what_its_backend_recovered(sandbox: Any) -> None:
    backend, spare = sandbox.backend, FakeOperations()
    backend.spare, backend.running.is_lost = [spare], True

    with ThreadPoolExecutor(8) as threads:
        states = list(threads.map(lambda _: sandbox.status, range(8)))

    assert states == [SandboxStatus.RUNNING] * 8
    assert backend.recovered == 1
    assert sandbox.list_dir() == [spare]
    assert sandbox.metadata['recovered'] == 1


def test_a_call_that_was_lost_says_that_the_sandbox_continues(sandbox: Any) -> None:
    sandbox.backend.running.is_lost = True
    sandbox.backend.spare = [FakeOperations()]
    lost = sandbox._operations

    with pytest.raises(SandboxGoneError, match='the sandbox continues'):
        raise sandbox._gone(SandboxGoneError('the stream ended'))

    assert sandbox._operations is not lost


def test_a_sandbox_that_cannot_be_recovered_is_lost_for_the_reason_given(sandbox: Any) -> None:
    sandbox.backend.running.is_lost = True

    with pytest.raises(SandboxGoneError, match='it was lost'):
        sandbox.list_dir()

    assert sandbox.status is SandboxStatus.ERROR


def test_a_class_that_defines_launch_and_destroy_itself_works_without_a_backend() -> None:
    class Old(AgentBackedSandbox):
        problem: str | None = None
        ended: ClassVar[list[bool]] = []

        def _launch(self) -> Any:
            return FakeOperations()

        def _destroy(self, *, keep: bool) -> None:
            self.ended.append(keep)

        def _find_problem(self) -> str | None:
            return self.problem

    with Old() as sandbox:
        assert len(sandbox.list_dir()) == 1
        sandbox.problem = 'gone'
        assert sandbox.status is SandboxStatus.ERROR
    assert Old.ended == [False]


def test_a_class_without_a_backend_is_refused() -> None:
    with pytest.raises(TypeError, match='names no backend_class'):
        AgentBackedSandbox().start()
