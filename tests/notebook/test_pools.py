"""Notebook sandboxes in pools keep their kernels, and nothing else that runs."""

from __future__ import annotations

from typing import Any

from enclave.managers.local import LocalSandboxManager
from tests.support.backends import Backend


def test_a_lease_leaves_kernels_and_their_variables_and_nothing_else_running(backend: Backend) -> None:
    with LocalSandboxManager(sandbox_type=backend.sandbox_type) as manager:
        [first] = manager.initialize_pool(1, config={'network_enabled': False})
        with manager.lease(60) as sandbox:
            notebook: Any = sandbox
            notebook.execute_cell('x = 42')
            sandbox.execute_command('sleep 4321 & setsid sleep 4321 &')

        with manager.lease(60) as sandbox:
            notebook = sandbox
            assert sandbox.id == first
            assert notebook.execute_cell('x').text == '42'
            assert sandbox.execute_command('cat /proc/[0-9]*/comm').stdout.split().count('sleep') == 0
