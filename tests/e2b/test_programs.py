"""Programs written for E2B, unchanged from the package index, run against a server of this library."""

from __future__ import annotations

import subprocess
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from enclave.server.serve import SandboxServer
from tests.e2b.test_sdk import BACKENDS, KEY, environment, run
from tests.e2b.test_sdk import server as server  # a fixture
from tests.support.environments import environment as programs_of
from tests.support.server import serving

pytestmark = pytest.mark.e2b


@pytest.fixture(params=BACKENDS)
def with_libraries(request: pytest.FixtureRequest) -> Iterator[SandboxServer]:
    """A server whose kernels have numpy and Pillow, as those of smolagents' template do."""
    if sysconfig.get_python_version() != '3.11':
        pytest.skip("the image's Python is 3.11, and compiled libraries are for one version")
    python = programs_of('e2b-kernel', 'numpy', 'pillow', 'matplotlib', with_enclave=False)
    code = "import sysconfig; print(sysconfig.get_paths()['purelib'])"
    site = subprocess.run([python, '-c', code], capture_output=True, text=True, check=True).stdout.strip()
    config = {'volumes': {site: {'bind': '/opt/libraries', 'mode': 'ro'}}, 'env_vars': {'PYTHONPATH': '/opt/libraries'}}
    template = {'sandbox_type': f'{request.param}_notebook', 'config': config}
    with serving(
        sandbox_type=request.param,
        api_key=KEY,
        policy={'mounts': [f'{Path(site).resolve()}:ro']},
        e2b={'templates': {'code-interpreter-v1': template}},
    ) as made:
        yield made


def test_smolagents_runs_its_code_here(with_libraries: SandboxServer) -> None:
    output = run('smolagents_program.py', env=environment(with_libraries), python='smolagents')

    assert output.splitlines() == ['state 6', 'again 7', 'logs seen', 'error True', 'agent 22']


def test_plots_come_with_what_they_show(with_libraries: SandboxServer) -> None:
    output = run('charts_program.py', env=environment(with_libraries))

    assert output.splitlines() == [
        'LineChart T Time (s) s a [(1.0, 4.0), (2.0, 5.0), (3.0, 6.0)]',
        "BarChart [('x', 3.0), ('y', 4.0)]",
        'ScatterChart [(1.0, 3.0), (2.0, 4.0)] linear',
        "PieChart [('p', 90), ('q', 270)]",
        "BoxAndWhiskerChart [('p', 1.0, 2.25, 3.5, 4.75, 5.0, [30.0]), ('q', 2.0, 3.5, 5.0, 6.5, 8.0, [])]",
        'BoxAndWhiskerChart [(1.0, 3.5, 5.0), (2.0, 5.0, 8.0)]',
        "SuperChart ['LineChart', 'BarChart']",
        'None',
    ]


@pytest.mark.parametrize('sandbox_type', ['e2b', 'e2b_code_interpreter'])
def test_openai_agents_keeps_its_sessions_here(server: SandboxServer, sandbox_type: str) -> None:
    output = run('openai_program.py', sandbox_type, env=environment(server), python='openai')

    assert output.splitlines() == [
        "exec 0 [b'from', b'the', b'manifest', b'/home/user/workspace', b'e']",
        'failed 3',
        "read b'written'",
        "ls ['notes', 'out']",
        'running True',
        'archive True',
        'pty True',
        'stopped True',
        "resumed b'from the manifest'",
    ]
