"""`ms-enclave mcp` as the official SDKs see it, of both majors that packages pin. See `client.py` for the steps."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.environments import ROOT, environment

pytestmark = pytest.mark.mcp

SDKS = {'1.x': 'mcp==1.30.*', '2.x': 'mcp>=2,<3'}
KINDS = [
    pytest.param('bubblewrap', marks=pytest.mark.bubblewrap),
    pytest.param('docker', marks=pytest.mark.docker),
]
KEYS = ('a' * 20, 'b' * 20)
CLIENT = Path(__file__).with_name('client.py')
PATIENCE = 300.0


@pytest.fixture(params=SDKS.values(), ids=SDKS)
def python(request: pytest.FixtureRequest) -> Path:
    """The interpreter of an environment with one of the SDKs."""
    sdk: str = request.param
    return environment(f'mcp-{sdk[4:7].strip("=.*,<>")}', sdk, 'uvicorn')


def run_client(python: Path, *arguments: str) -> str:
    """Walk all steps and return what was printed."""
    done = subprocess.run(
        [str(python), str(CLIENT), *arguments], capture_output=True, text=True, timeout=PATIENCE, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert 'is a fault of ms-enclave' not in done.stderr
    return done.stdout


@contextlib.contextmanager
def served(python: Path, *options: str) -> Iterator[tuple[str, str]]:
    """Serve over HTTP; yields the address and what the server printed at its start."""
    environment_of_server = {name: value for name, value in os.environ.items() if not name.startswith('ENCLAVE_')}
    server = subprocess.Popen(
        [str(python), '-m', 'enclave.cli', 'mcp', *options],
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**environment_of_server, 'ENCLAVE_API_KEY': ''},
    )
    assert server.stderr is not None
    try:
        first = server.stderr.readline()
        found = re.search(r'http://\S+/mcp', first)
        assert found, first + server.stderr.read()
        yield found[0], first
    finally:
        server.terminate()
        server.communicate(timeout=PATIENCE)
    assert server.returncode in (0, -15, 143)


@pytest.mark.parametrize('kind', KINDS)
def test_every_tool_over_stdio(python: Path, kind: str) -> None:
    assert 'all held' in run_client(python, 'stdio', '--type', kind)


@pytest.mark.parametrize('kind', KINDS)
def test_every_tool_over_http_and_two_keys_that_do_not_see_each_other(python: Path, kind: str, tmp_path: Path) -> None:
    keys = tmp_path / 'keys.json'
    keys.write_text(json.dumps({'keys': [{'name': key[0], 'key': key} for key in KEYS]}))
    keys.chmod(0o600)

    with served(python, '--http', '127.0.0.1:0', '--keys-file', str(keys), '--type', kind) as (url, _):
        assert 'all held' in run_client(python, 'http', url, *KEYS)


@pytest.mark.bubblewrap
def test_without_a_key_on_loopback(python: Path) -> None:
    with served(python, '--http', '127.0.0.1:0', '--type', 'bubblewrap') as (url, _):
        assert 'all held' in run_client(python, 'http', url)
