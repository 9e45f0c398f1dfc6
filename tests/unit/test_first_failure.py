"""What somebody sees whose first try fails: one screen, with the way out."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from enclave.sandboxes.docker.sandbox import DockerSandbox

PROGRAMS = {
    'a sandbox': "with enclave.SandboxFactory.create_sandbox('docker') as sandbox: pass",
    'a manager': "with enclave.LocalSandboxManager() as manager: manager.create_sandbox('docker')",
    'a pool': "with enclave.LocalSandboxManager() as manager: manager.initialize_pool(2, 'docker')",
    'a server': "with enclave.HttpSandboxManager('http://127.0.0.1:9') as manager: manager.list_sandboxes()",
}


@pytest.mark.processes
@pytest.mark.parametrize('program', PROGRAMS.values(), ids=list(PROGRAMS))
def test_the_first_failure_is_one_screen(program: str) -> None:
    environment = {**os.environ, 'DOCKER_HOST': 'unix:///nonexistent/docker.sock', 'COLUMNS': '80'}

    done = subprocess.run(
        [sys.executable, '-c', f'import enclave\n{program}'],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )

    lines = done.stderr.splitlines()
    assert len(lines) <= 24, done.stderr
    assert sum(line.startswith('Traceback') for line in lines) == 1
    if '127.0.0.1:9' not in program:
        assert 'ms-enclave doctor' in lines[-1]
        assert sys.platform != 'linux' or "pip install 'ms-enclave[bubblewrap]'" in lines[-1]


def test_a_sandbox_that_is_asked_for_cells_and_has_no_kernels_says_which_have() -> None:
    sandbox = DockerSandbox()

    with pytest.raises(
        AttributeError, match=r"no attribute 'execute_cell'; .*docker_notebook and bubblewrap_notebook have"
    ):
        sandbox.execute_cell('1')  # type: ignore[attr-defined]
    with pytest.raises(AttributeError, match=r"no attribute 'commands'$"):
        _ = sandbox.commands  # type: ignore[attr-defined]
    assert not hasattr(sandbox, 'execute_cell')
