from __future__ import annotations

from collections.abc import Iterator

import pytest

from enclave.sandboxes.docker.notebook import DockerNotebookSandbox
from enclave.sandboxes.notebook.verbs import NotebookSandbox


@pytest.fixture(scope='module')
def shared() -> Iterator[DockerNotebookSandbox]:
    """One sandbox for the tests of a module, without a network."""
    config = {'tools_config': ['notebook_executor'], 'network_enabled': False, 'timeout': 60, 'interrupt_grace': 2}
    with DockerNotebookSandbox(config) as sandbox:
        yield sandbox


@pytest.fixture
def sandbox(shared: NotebookSandbox) -> NotebookSandbox:
    """The module's sandbox, with a kernel in which nothing is defined."""
    if shared.execute_cell("'_used' in globals()").text != 'False':
        shared.restart_kernel()
    shared.execute_cell('_used = True', store_history=False)
    return shared
