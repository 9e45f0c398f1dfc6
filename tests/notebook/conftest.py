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

# A cell of a busy machine takes long to end after it was interrupted: of a first error's traceback IPython imports much.
CONFIG = {'tools_config': ['notebook_executor'], 'network_enabled': False, 'timeout': 60, 'interrupt_grace': 20}


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


ALL_KINDS = [*NOTEBOOK_BACKENDS, pytest.param(None, id='remote', marks=pytest.mark.docker)]


@pytest.fixture(scope='module', params=ALL_KINDS)
def shared(request: pytest.FixtureRequest) -> Iterator[SharedSandbox[NotebookSandbox]]:
    """One sandbox for the tests of a module, without a network: of each kind, and then of a server."""
    with sharing(request, CONFIG) as made:
        yield made


@pytest.fixture(scope='module', params=ALL_KINDS)
def hasty_shared(request: pytest.FixtureRequest) -> Iterator[SharedSandbox[NotebookSandbox]]:
    """The same, with kernels that are killed soon when they do not end what was interrupted."""
    with sharing(request, {**CONFIG, 'interrupt_grace': 0.5}) as made:
        yield made


@contextlib.contextmanager
def sharing(request: pytest.FixtureRequest, config: dict[str, Any]) -> Iterator[SharedSandbox[NotebookSandbox]]:
    """Share a sandbox of the kind that is the parameter of a fixture."""
    if request.param is not None:
        with contextlib.closing(SharedSandbox(lambda: make(request.param, **config))) as local:
            yield local
        return
    with HttpSandboxManager(base_url=request.getfixturevalue('server').url) as manager:

        def make_remote() -> NotebookSandbox:
            remote = manager.get_sandbox(manager.create_sandbox('docker_notebook', config))
            assert isinstance(remote, NotebookSandbox)
            return remote

        with contextlib.closing(SharedSandbox(make_remote)) as made:
            yield made


def emptied(shared: SharedSandbox[NotebookSandbox]) -> NotebookSandbox:
    """Return the shared sandbox, with a kernel in which nothing is defined."""
    found = shared.get()
    if found.execute_cell("'_used' in globals()").text != 'False':
        found.restart_kernel()
    found.execute_cell('_used = True', store_history=False)
    return found


@pytest.fixture
def sandbox(shared: SharedSandbox[NotebookSandbox]) -> NotebookSandbox:
    """The module's sandbox, with a kernel in which nothing is defined."""
    return emptied(shared)


@pytest.fixture
def hasty(hasty_shared: SharedSandbox[NotebookSandbox]) -> NotebookSandbox:
    """The same of `hasty_shared`."""
    return emptied(hasty_shared)


@pytest.fixture
def start(backend: Backend) -> Iterator[Callable[..., NotebookSandbox]]:
    """Start a sandbox of one's own; stopped at the end of the test."""
    with starting(functools.partial(make, backend)) as start:
        yield start
