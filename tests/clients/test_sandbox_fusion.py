"""The clients of SandboxFusion, unchanged and in environments of their own, against a server of this library."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from enclave.server.serve import SandboxServer
from tests.support.environments import environment as programs_of
from tests.support.server import serving

pytestmark = pytest.mark.clients
KINDS = [
    pytest.param('bubblewrap', marks=pytest.mark.bubblewrap),
    pytest.param('docker', marks=pytest.mark.docker),
]


@pytest.fixture(params=KINDS, scope='module')
def server(request: pytest.FixtureRequest) -> Iterator[SandboxServer]:
    config: dict[str, Any] = {'network_enabled': False}
    if request.param == 'docker':
        tmpfs = {'/tmp': 'mode=1777,exec', '/sandbox': 'mode=1777,exec'}
        config.update(read_only=True, tmpfs=tmpfs, env_vars={'HOME': '/tmp'})
    settings = {'pool_size': 2, 'config': config, 'sandbox_type': request.param}
    with serving(sandbox_type=request.param, sandbox_fusion=settings) as made:
        yield made


def run(server: SandboxServer, python: Path, program: str, **env: str) -> dict[str, Any]:
    """Return what a program of this directory printed, by the names in it."""
    has_compiler = server.sandbox_fusion.sandbox_type == 'bubblewrap' and shutil.which('g++') is not None
    done = subprocess.run(
        [str(python), str(Path(__file__).parent / program), server.url, *([] if has_compiler else ['no-compiler'])],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found = {}
    for line in done.stdout.splitlines():
        reported = json.loads(line)
        found[reported.pop('name')] = reported
    return found


def test_the_official_client_classes_every_program_right(server: SandboxServer) -> None:
    python = programs_of('clients-sandbox-fusion', 'sandbox-fusion', 'aiohttp', with_enclave=False)

    found = run(server, python, 'fusion_client.py')

    expected = {
        'right': 'Success',
        'crash': 'run-failed',
        'slow': 'run-timeout',
        'asleep': 'run-timeout',
        'cpp': 'Success',
        'cpp-wrong': 'compile-failed',
        'files': 'Success',
    }
    for name, summary in expected.items():
        for each in (name, f'{name}-async'):
            if each in found or not name.startswith('cpp'):
                assert found[each]['summary'] == summary, each
    assert found['right']['stdout'] == 'hello\n'
    assert found['files']['files'] == {'out.bin': '/wA='}
    assert found['concurrent']['stdout'] == [f'{n}\n' for n in range(60)]
    assert found['jupyter']['status'] == 'Success'
    assert found['jupyter']['stdout'] == ['', '', '1\n', '']
    assert found['jupyter']['display'][1] == [{'text/plain': '1'}]
    assert found['jupyter']['error'][3] == ['ValueError']


def test_verl_classes_every_program_right(server: SandboxServer, tmp_path: Path) -> None:
    python = programs_of('clients-verl', 'requests', with_enclave=False)
    subprocess.run(
        [sys.executable, '-m', 'pip', 'download', '-q', '--no-deps', '-d', str(tmp_path), 'verl>=0.9'],
        check=True,
        timeout=600,
    )
    (wheel,) = tmp_path.glob('verl-*.whl')
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name.startswith('verl/utils/reward_score/sandbox_fusion/'):
                archive.extract(name, tmp_path)

    found = run(server, python, 'verl_client.py', PYTHONPATH=str(tmp_path / 'verl/utils/reward_score'))

    expected: dict[str, list[Any]] = {
        'right': [True, True],
        'wrong': [True, False],
        'crash': [-2],
        'slow': [-3],
        'asleep': [-3],
        'memory': [-2],
        'function': [True, True],
        'asserts': [True, -2],
        'cpp': [True],
        'cpp-wrong': [-4, -4],
    }
    for name, results in expected.items():
        if name in found or not name.startswith('cpp'):
            assert found[name]['results'] == results, (name, found[name])
    assert found['score']['results'] == 39
