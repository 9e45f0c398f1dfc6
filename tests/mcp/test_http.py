"""Who is let in over HTTP, asked without any SDK's client."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import requests

from tests.mcp.test_clients import KEYS, SDKS, served
from tests.support.environments import environment

pytestmark = [pytest.mark.mcp, pytest.mark.bubblewrap]

BODY = {'jsonrpc': '2.0', 'id': 1, 'method': 'tools/list', 'params': {}}


@pytest.fixture
def python() -> Path:
    """The interpreter of an environment with the newest SDK."""
    return environment('mcp-2', SDKS['2.x'], 'uvicorn')


def test_nobody_without_a_key_and_nobody_with_a_wrong_one(
    python: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = tmp_path / 'keys.json'
    keys.write_text(json.dumps({'keys': [{'name': 'a', 'key': KEYS[0]}]}))
    keys.chmod(0o600)

    with served(python, '--http', '127.0.0.1:0', '--keys-file', str(keys), '--type', 'bubblewrap') as (url, _):
        nothing = requests.post(url, json=BODY, timeout=30)
        wrong = requests.post(url, json=BODY, headers={'X-API-Key': KEYS[1]}, timeout=30)

    assert (nothing.status_code, wrong.status_code) == (401, 401)
    assert 'needs an API key' in nothing.json()['error']['message']
    assert 'does not know this API key' in wrong.json()['error']['message']


def test_a_session_is_reached_by_its_own_key_only(python: Path, tmp_path: Path) -> None:
    keys = tmp_path / 'keys.json'
    keys.write_text(json.dumps({'keys': [{'name': name, 'key': key} for name, key in zip('ab', KEYS, strict=False)]}))
    keys.chmod(0o600)
    client = {'protocolVersion': '2025-06-18', 'capabilities': {}, 'clientInfo': {'name': 'x', 'version': '1'}}
    opening = {**BODY, 'method': 'initialize', 'params': client}
    headers = {'Accept': 'application/json, text/event-stream'}

    with served(python, '--http', '127.0.0.1:0', '--keys-file', str(keys), '--type', 'bubblewrap') as (url, _):
        opened = requests.post(url, json=opening, headers={**headers, 'X-API-Key': KEYS[0]}, timeout=30)
        headers['Mcp-Session-Id'] = opened.headers['Mcp-Session-Id']
        statuses = [
            requests.request(method, url, json=body, headers={**headers, 'X-API-Key': key}, timeout=30).status_code
            for key, method, body in (
                (KEYS[1], 'POST', {**BODY, 'method': 'ping'}),
                (KEYS[1], 'DELETE', None),
                (KEYS[0], 'POST', {**BODY, 'method': 'ping'}),
                (KEYS[0], 'DELETE', None),
                (KEYS[0], 'POST', {**BODY, 'method': 'ping'}),
            )
        ]

    assert statuses == [404, 404, 200, 200, 404]


def test_pages_of_other_sites_and_other_names_are_refused(python: Path) -> None:
    with served(python, '--http', '127.0.0.1:0', '--type', 'bubblewrap') as (url, _):
        page = requests.post(url, json=BODY, headers={'Origin': 'http://evil.invalid'}, timeout=30)
        name = requests.post(url, json=BODY, headers={'Host': 'evil.invalid'}, timeout=30)
        odd = requests.post(url, json=BODY, headers={'Origin': 'http://['}, timeout=30)
        elsewhere = requests.get(url.replace('/mcp', '/'), timeout=30)

    assert (page.status_code, name.status_code, elsewhere.status_code) == (403, 403, 404)
    assert odd.status_code == 403


def test_another_address_than_loopback_makes_a_key(python: Path) -> None:
    with served(python, '--http', '0.0.0.0:0', '--type', 'bubblewrap') as (url, _):
        answer = requests.post(url.replace('0.0.0.0', '127.0.0.1'), json=BODY, timeout=30)

    assert answer.status_code == 401
