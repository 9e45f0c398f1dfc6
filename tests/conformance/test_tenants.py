"""What one tenant of a server keeps is no other's, whatever id it asks for, and after a restart too."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from enclave.errors import ConflictError, EnclaveError, SandboxPathNotFoundError
from enclave.managers.local import LocalSandboxManager
from enclave.sandboxes.agent_backed import AgentBackedSandbox

KEPT = {'remove_on_exit': False}


@pytest.fixture(
    params=[pytest.param('docker', marks=pytest.mark.docker), pytest.param('bubblewrap', marks=pytest.mark.bubblewrap)]
)
def kind(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture
def kept(kind: str) -> Iterator[str]:
    """The id of a sandbox that alice has kept; it is hers alone."""
    sandbox_id = f'kept-{uuid.uuid4().hex[:8]}'
    with LocalSandboxManager(tenant='alice') as manager:
        _made(manager, kind, sandbox_id).write_file('secret', 'of alice')
    yield sandbox_id
    with LocalSandboxManager(tenant='alice') as manager:
        manager.create_sandbox(kind, KEPT, sandbox_id)
        manager.delete_sandbox(sandbox_id)


def _made(manager: LocalSandboxManager, kind: str, sandbox_id: str) -> AgentBackedSandbox:
    sandbox = manager.get_sandbox(manager.create_sandbox(kind, KEPT, sandbox_id))
    assert isinstance(sandbox, AgentBackedSandbox)
    return sandbox


@pytest.mark.parametrize('tenant', ['bob', None])
def test_nobody_takes_up_what_another_kept(kind: str, kept: str, tenant: str | None) -> None:
    with LocalSandboxManager(tenant=tenant) as manager:
        try:
            sandbox = _made(manager, kind, kept)
        except ConflictError as error:
            assert 'is taken' in error.message  # noqa: PT017
        else:
            with pytest.raises(SandboxPathNotFoundError):
                sandbox.read_file('secret')
            manager.delete_sandbox(kept)
        with pytest.raises(EnclaveError):
            manager.delete_sandbox(kept)

    with LocalSandboxManager(tenant='alice') as manager:
        assert _made(manager, kind, kept).read_file('secret') == b'of alice'
