"""What tests of a whole server share: a fake backend, and servers that are stopped afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from enclave.managers.http import HttpSandboxManager
from enclave.rulings import SHARED
from enclave.sandboxes.housekeeping import register_housekeeper
from enclave.sandboxes.kinds import SandboxKind, register_kind
from enclave.server.serve import SandboxServer, create_server
from tests.support.sandbox import FakeBackend, FakeSandbox

CONFIG = {'tools_config': ['shell_executor', 'python_executor', 'file_operation']}
Serve = Callable[..., SandboxServer]
Connect = Callable[..., HttpSandboxManager]


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """Nothing of the one that runs the tests counts."""
    for name in ('ENCLAVE_API_KEY', 'ENCLAVE_URL', 'HTTP_PROXY', 'http_proxy'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv('XDG_STATE_HOME', str(tmp_path / 'state'))


@pytest.fixture
def backend() -> FakeBackend:
    """The record of this test's fake sandboxes, which are registered as ``'fake'``."""
    made = FakeBackend()
    register_kind(
        SandboxKind(name='fake', sandbox=type('TestSandbox', (FakeSandbox,), {'backend': made}), rulings=SHARED)
    )
    register_housekeeper('fake', lambda: made)
    return made


@pytest.fixture
def serve(backend: FakeBackend) -> Iterator[Serve]:
    """Return a function that starts a server on a free port; all are stopped at the end."""
    servers: list[SandboxServer] = []

    def start(host: str = '127.0.0.1', **options: Any) -> SandboxServer:
        server = create_server(**{'stop_grace': 0.0, 'sandbox_config': CONFIG, **options})
        servers.append(server)
        server.start(host, 0)
        return server

    yield start
    backend.may_start.set()
    backend.may_end.set()
    for server in servers:
        server.stop()
    assert backend.alive == set(), 'sandboxes were left'


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Return a function that makes a client of a server; all are stopped at the end."""
    managers: list[HttpSandboxManager] = []

    def make(server: SandboxServer | str, **options: Any) -> HttpSandboxManager:
        url = server if isinstance(server, str) else server.url
        manager = HttpSandboxManager(base_url=url, **options)
        managers.append(manager)
        return manager

    yield make
    for manager in managers:
        manager.stop()
