"""What tests of managers share: a fake backend of their own, and managers that are stopped afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from enclave.managers.local import LocalSandboxManager
from enclave.sandboxes.housekeeping import register_housekeeper
from enclave.sandboxes.sandbox_factory import SandboxFactory
from tests.support.sandbox import FakeBackend, FakeSandbox

Manage = Callable[..., LocalSandboxManager]


@pytest.fixture
def backend() -> FakeBackend:
    """The record of this test's fake sandboxes, which are registered as ``'fake'``."""
    made = FakeBackend()
    SandboxFactory.register_sandbox('fake', type('TestSandbox', (FakeSandbox,), {'backend': made}))
    register_housekeeper('fake', lambda: made)
    return made


@pytest.fixture
def manage(backend: FakeBackend) -> Iterator[Manage]:
    """Return a function that makes a manager; all are stopped at the end."""
    managers: list[LocalSandboxManager] = []

    def make(**options: Any) -> LocalSandboxManager:
        config = {'tools_config': ['shell_executor', 'python_executor']}
        manager = LocalSandboxManager(**{'sandbox_config': config, 'stop_grace': 0, **options})
        managers.append(manager)
        return manager

    yield make
    backend.may_start.set()
    backend.may_end.set()
    backend.is_away = False
    for manager in managers:
        manager.stop()
    assert backend.alive == set(), 'sandboxes were left'


@pytest.fixture
def manager(manage: Manage) -> LocalSandboxManager:
    """A started manager with the defaults."""
    made = manage()
    made.start()
    return made
