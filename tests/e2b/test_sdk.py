"""E2B's SDK, unchanged and in an environment of its own, takes every step against a server of this library."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from enclave.server.serve import SandboxServer
from tests import test_documents
from tests.support.environments import environment as programs_of
from tests.support.server import serving

ROOT = Path(__file__).parents[2]
KEY = 'a-key-of-the-tests-for-e2b'
BACKENDS = [
    pytest.param('bubblewrap', marks=pytest.mark.bubblewrap),
    pytest.param('docker', marks=pytest.mark.docker),
]
pytestmark = pytest.mark.e2b


PACKAGES = {
    'sdk': ('e2b>=2.63', 'e2b-code-interpreter>=2.11', 'httpx'),
    'smolagents': ('smolagents[e2b]>=1.26', 'e2b-code-interpreter>=2.11'),
    'openai': ('openai-agents>=0.24', 'e2b>=2.63', 'e2b-code-interpreter>=2.11'),
}


def interpreter(name: str) -> str:
    """Return the interpreter of an environment of its own, made if it is not there."""
    return str(programs_of(f'e2b-{name}', *PACKAGES[name], with_enclave=False))


@pytest.fixture(params=BACKENDS)
def server(request: pytest.FixtureRequest) -> Iterator[SandboxServer]:
    """A server with a key, whose own kind is a backend's."""
    with serving(sandbox_type=request.param, api_key=KEY, policy={'max_sandboxes': 16}) as made:
        yield made


def environment(server: SandboxServer, **more: str) -> dict[str, str]:
    """Return the environment by which the SDK finds a server."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(('E2B_', 'PYTHON'))}
    base = f'{server.url}/e2b'
    return {**kept, 'E2B_API_URL': base, 'E2B_SANDBOX_URL': base, 'E2B_API_KEY': KEY, **more}


def run(program: str, *arguments: str, env: dict[str, str], python: str = 'sdk') -> str:
    """Run a program of this directory and return what it printed."""
    done = subprocess.run(
        [interpreter(python), str(Path(__file__).parent / program), *arguments],
        env=env,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


@pytest.mark.parametrize('face', ['sync', 'async'])
def test_every_step_of_the_sdk_succeeds(server: SandboxServer, face: str) -> None:
    output = run('steps.py', face, env=environment(server))

    steps = [json.loads(line) for line in output.splitlines()]
    assert {step['step']: step['error'] for step in steps if step['error']} == {}
    assert len(steps) >= 60


def test_the_programs_of_the_page_print_what_it_says(server: SandboxServer, tmp_path: Path) -> None:
    blocks = [block for block in test_documents.of('python') if block.document == test_documents.E2B_PAGE]

    assert blocks
    for block in blocks:
        program = tmp_path / 'block.py'
        program.write_text(block.text)
        assert run(str(program), env=environment(server)) == block.output


def test_the_sdk_speaks_http_1_1_when_asked_to(server: SandboxServer) -> None:
    output = run(
        'steps.py', 'sync', 'run', 'write_and_read', 'run_code', env=environment(server, E2B_HTTP_VERSION='1.1')
    )

    assert [json.loads(line)['error'] for line in output.splitlines()] == [None] * 4


def test_the_program_of_the_document_runs(server: SandboxServer, tmp_path: Path) -> None:
    text = (ROOT / 'docs' / 'e2b.md').read_text()
    program = tmp_path / 'program.py'
    code, _, rest = text.partition('```python\n')[2].partition('```')
    program.write_text(code)
    printed = rest.partition('```text\n')[2].partition('```')[0]

    done = subprocess.run(
        [interpreter('sdk'), str(program)],
        env=environment(server),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )

    assert done.stdout == printed == '42\nLinux\n', done.stderr
