from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from enclave.cli.mcp import CLIENTS, mcp
from enclave.errors import ConfigurationError


@pytest.mark.parametrize('client', sorted(CLIENTS))
def test_install_prints_what_a_client_wants(client: str) -> None:
    done = CliRunner().invoke(mcp, ['install', client, '--', '--no-network'], catch_exceptions=False)

    servers = json.loads(done.stdout)[CLIENTS[client][1]]
    assert servers['enclave']['args'][-2:] == ['mcp', '--no-network']


def test_install_writes_beside_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / 'deep' / 'mcp.json'
    path.parent.mkdir()
    path.write_text('{"theme": "dark", "mcpServers": {"other": {"command": "x"}}}')

    CliRunner().invoke(mcp, ['install', 'cursor', '--write', '--file', str(path)], catch_exceptions=False)

    found = json.loads(path.read_text())
    assert found['theme'] == 'dark'
    assert set(found['mcpServers']) == {'other', 'enclave'}
    assert [each.name for each in path.parent.iterdir()] == ['mcp.json']


@pytest.mark.parametrize('text', ['{"a": 1, // a comment\n}', '[]', '{"mcpServers": []}'])
def test_install_changes_nothing_that_it_does_not_understand(tmp_path: Path, text: str) -> None:
    path = tmp_path / 'mcp.json'
    path.write_text(text)

    with pytest.raises(ConfigurationError):
        CliRunner().invoke(mcp, ['install', 'cursor', '--write', '--file', str(path)], catch_exceptions=False)

    assert path.read_text() == text


@pytest.mark.parametrize('address', ['8000', ':x', 'host:99999'])
def test_a_wrong_address_is_refused(address: str) -> None:
    done = CliRunner().invoke(mcp, ['--http', address])

    assert done.exit_code == 2
    assert 'HOST:PORT' in done.output
