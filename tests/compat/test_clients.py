"""Programs that other people wrote, from PyPI, each in an environment of its own: ``make test-compat-clients``."""

from __future__ import annotations

import os
import subprocess
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from enclave.sandboxes.docker.engine import get_engine
from enclave.sandboxes.images.catalog import find_image
from ms_enclave.sandbox.server import create_server
from tests.support.environments import environment

pytestmark = [pytest.mark.compat_clients, pytest.mark.docker]

PROGRAMS = Path(__file__).parent / 'programs'
PATIENCE = 1200
LANGUAGES = ['cpp', 'ts', 'js', 'sh', 'go_test.go', 'java', 'lua', 'php', 'pl', 'r', 'rs', 'rb']
"""Those of MultiPL-E that the image has, by the data set's names."""
RELEASE = '0.0.8'
PUBLIC_TESTS = ('test_sandbox.py', 'test_tool.py', 'test_manager.py', 'test_manage_pool.py')
INSIDE = ('test_docker_entrypoint_override', 'test_docker_entrypoint_inherits_image_by_default')
"""Two tests of private methods of that library; what they are for is tested with the option ``entrypoint`` itself."""


@pytest.fixture(scope='module')
def url() -> Iterator[str]:
    server = create_server(stop_grace=0.0)
    with server.running() as address:
        yield address


def published() -> Path:
    """Return the Python of an environment with what the published releases stand on."""
    return environment('ms-enclave', f'ms-enclave[docker]=={RELEASE}', with_enclave=False)


def fetch(python: Path, folder: Path, *options: str, release: str) -> None:
    run(python, '-m', 'pip', 'download', '-q', '--no-deps', *options, f'ms-enclave=={release}', cwd=folder)


def run(python: Path, *arguments: str, cwd: Path, path: Path | None = None) -> str:
    env = {name: value for name, value in os.environ.items() if name != 'PYTHONPATH'}
    if path is not None:
        env['PYTHONPATH'] = str(path)
    done = subprocess.run([str(python), *arguments], cwd=cwd, env=env, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, f'{done.stdout[-4000:]}\n{done.stderr[-4000:]}'
    return done.stdout


@pytest.mark.parametrize('release', [f'0.0.{number}' for number in range(1, 9)])
def test_a_published_client_works_against_our_server(release: str, url: str, tmp_path: Path) -> None:
    python = published()
    fetch(python, tmp_path, '--only-binary', ':all:', release=release)
    with zipfile.ZipFile(next(tmp_path.glob('*.whl'))) as wheel:
        wheel.extractall(tmp_path / release)

    said = run(python, str(PROGRAMS / 'old_client.py'), url, release, cwd=tmp_path, path=tmp_path / release)

    assert said.splitlines()[-1] == 'done'


@pytest.mark.parametrize('remote', [False, True], ids=['in-process', 'over-http'])
def test_evalscopes_sandboxes_work(remote: bool, url: str, tmp_path: Path) -> None:
    python = environment('evalscope', 'evalscope')

    said = run(python, str(PROGRAMS / 'evalscope_program.py'), *([url] if remote else []), cwd=tmp_path)

    assert said.splitlines()[-1] == 'done'


@pytest.mark.parametrize('remote', [False, True], ids=['in-process', 'over-http'])
def test_evalscopes_multipl_e_judges_programs_in_many_languages(remote: bool, url: str, tmp_path: Path) -> None:
    if find_image(get_engine(), 'multi') is None:
        pytest.skip('the image multi is not there: ms-enclave images build multi')
    python = environment('evalscope', 'evalscope')

    said = run(python, str(PROGRAMS / 'multipl_e_program.py'), *([url] if remote else []), cwd=tmp_path)

    assert said.splitlines()[-13:] == [*LANGUAGES, 'done']


def test_configurations_of_omegaconf_are_taken(tmp_path: Path) -> None:
    python = environment('omegaconf', 'omegaconf')
    program = (
        'from omegaconf import OmegaConf\nfrom ms_enclave.sandbox.model import DockerNotebookConfig\n'
        'given = OmegaConf.create({"tools_config": ["shell_executor"], "env_vars": {"A": "x"}, "cpu_limit": "1", '
        '"volumes": {"/h": {"bind": "/data", "mode": "rw"}}, "command": ["sleep", "9"]})\n'
        'made = DockerNotebookConfig(**given)\n'
        'print(made.tools_config, made.env_vars, made.cpu_limit, made.volumes, made.command)\n'
    )

    said = run(python, '-c', program, cwd=tmp_path)

    assert said == "{'shell_executor': {}} {'A': 'x'} 1.0 {'/h': {'bind': '/data', 'mode': 'rw'}} ['sleep', '9']\n"


def test_the_published_tests_pass(tmp_path: Path) -> None:
    python = environment('published-tests', 'pytest', 'pydantic', 'uvicorn')
    fetch(published(), tmp_path, '--no-binary', 'ms-enclave', release=RELEASE)
    with tarfile.open(next(tmp_path.glob('*.tar.gz'))) as archive:
        archive.extractall(tmp_path, filter='data')
    tests = tmp_path / f'ms_enclave-{RELEASE}' / 'tests'
    wanted = ' and '.join(f'not {name}' for name in INSIDE)

    said = run(python, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', '-k', wanted, *PUBLIC_TESTS, cwd=tests)

    assert ' passed' in said
