from __future__ import annotations

from collections.abc import Iterator

import pytest

from enclave.managers.http import HttpSandboxManager
from enclave.sandboxes.docker.notebook import DockerNotebookSandbox
from enclave.sandboxes.notebook.verbs import NotebookSandbox
from enclave.server.serve import SandboxServer
from tests.support.server import serving

CONFIG = {'tools_config': ['notebook_executor'], 'network_enabled': False, 'timeout': 60, 'interrupt_grace': 2}


@pytest.fixture(scope='session')
def server() -> Iterator[SandboxServer]:
    """A server for all tests of a worker that need one."""
    with serving() as made:
        yield made


@pytest.fixture(scope='module', params=['local', 'remote'])
def shared(request: pytest.FixtureRequest) -> Iterator[NotebookSandbox]:
    """One sandbox for the tests of a module, without a network; of this process, and then of a server."""
    if request.param == 'local':
        with DockerNotebookSandbox(CONFIG) as local:
            yield local
        return
    server = request.getfixturevalue('server')
    with HttpSandboxManager(base_url=server.url) as manager, manager.open('docker_notebook', CONFIG) as remote:
        assert isinstance(remote, NotebookSandbox)
        yield remote


@pytest.fixture
def sandbox(shared: NotebookSandbox) -> NotebookSandbox:
    """The module's sandbox, with a kernel in which nothing is defined."""
    if shared.execute_cell("'_used' in globals()").text != 'False':
        shared.restart_kernel()
    shared.execute_cell('_used = True', store_history=False)
    return shared
