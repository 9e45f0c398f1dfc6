"""Notebook sandboxes of every backend, as fixtures."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from enclave.managers.http import HttpSandboxManager
from enclave.sandboxes.notebook.sandbox import NotebookSandbox
from enclave.server.serve import SandboxServer
from enclave.testing.plugin import SharedSandbox
from tests.support.backends import NOTEBOOK_BACKENDS, Backend, bubblewrap_notebook_trouble, require_bubblewrap, starting
from tests.support.server import serving

CONFIG = {'tools_config': ['notebook_executor'], 'network_enabled': False, 'timeout': 60, 'interrupt_grace': 2}


def pytest_runtest_setup(item: pytest.Item) -> None:
    require_bubblewrap(item, bubblewrap_notebook_trouble)


@pytest.fixture(scope='session')
def server() -> Iterator[SandboxServer]:
    """A server for all tests of a worker that need one."""
    with serving() as made:
        yield made


@pytest.fixture(scope='module', params=NOTEBOOK_BACKENDS)
def backend(request: pytest.FixtureRequest) -> Backend:
    """Each kind of notebook sandbox in turn."""
    return request.param


def make(backend: Backend, **options: Any) -> NotebookSandbox:
    """Return a sandbox, not started, without a network."""
    made = backend.make(**options)
    assert isinstance(made, NotebookSandbox)
    return made


@pytest.fixture(scope='module', params=[*NOTEBOOK_BACKENDS, pytest.param(None, id='remote', marks=pytest.mark.docker)])
def shared(request: pytest.FixtureRequest) -> Iterator[SharedSandbox[NotebookSandbox]]:
    """One sandbox for the tests of a module, without a network: of each kind, and then of a server."""
    if request.param is not None:
        with contextlib.closing(SharedSandbox(lambda: make(request.param, **CONFIG))) as local:
            yield local
        return
    with HttpSandboxManager(base_url=request.getfixturevalue('server').url) as manager:

        def make_remote() -> NotebookSandbox:
            remote = manager.get_sandbox(manager.create_sandbox('docker_notebook', CONFIG))
            assert isinstance(remote, NotebookSandbox)
            return remote

        with contextlib.closing(SharedSandbox(make_remote)) as made:
            yield made


@pytest.fixture
def sandbox(shared: SharedSandbox[NotebookSandbox]) -> NotebookSandbox:
    """The module's sandbox, with a kernel in which nothing is defined."""
    found = shared.get()
    if found.execute_cell("'_used' in globals()").text != 'False':
        found.restart_kernel()
    found.execute_cell('_used = True', store_history=False)
    return found


@pytest.fixture
def start(backend: Backend) -> Iterator[Callable[..., NotebookSandbox]]:
    """Start a sandbox of one's own; stopped at the end of the test."""
    with starting(functools.partial(make, backend)) as start:
        yield start
