"""The backends, as fixtures."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from enclave.sandboxes.agent_backed import AgentBackedSandbox
from tests.support.backends import BACKENDS, Backend, starting


@pytest.fixture(scope='session', params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Backend:
    """Each kind of sandbox in turn."""
    return request.param


@pytest.fixture(scope='session')
def sandbox(backend: Backend) -> Iterator[AgentBackedSandbox]:
    """One running sandbox per kind, for tests that leave no trace in it."""
    tools = ['python_executor', 'shell_executor', 'file_operation']
    with backend.make(tools_config=tools, memory_limit='512m', cpu_limit=2.0) as made:
        yield made


@pytest.fixture
def start(backend: Backend) -> Iterator[Callable[..., AgentBackedSandbox]]:
    """Start a sandbox of one's own; stopped at the end of the test."""
    with starting(backend.make) as start:
        yield start


@pytest.fixture
def place(sandbox: AgentBackedSandbox, request: pytest.FixtureRequest) -> Iterator[str]:
    """A directory of the test's own in the shared sandbox."""
    path = f'/sandbox/{abs(hash(request.node.nodeid))}'
    sandbox.make_dir(path)
    yield path
    sandbox.remove_path(path, recursive=True, missing_ok=True)
