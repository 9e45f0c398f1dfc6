"""A port of a sandbox through the server: HTTP both ways, upgrades, and what a guest's answer may not do."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
import requests

from enclave.managers.http import HttpSandboxManager
from enclave.sandboxes.verbs import Verbs
from enclave.server.auth import ApiKey
from enclave.server.serve import SandboxServer
from tests.support.server import serving

ALICE, BOB = 'alices-very-own-key-1', 'bobs-very-own-key-2222'
KEYS = [ApiKey(name='alice', key=ALICE), ApiKey(name='bob', key=BOB)]
HEADERS = {'X-API-Key': ALICE}
GUEST = r"""
import http.server, sys

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'

    def answer(self):
        if self.headers.get('Upgrade') == 'echo':
            self.wfile.write(b'HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n')
            while data := self.rfile.readline():
                self.wfile.write(b'<' + data)
            self.close_connection = True
            return
        body = self.rfile.read(int(self.headers.get('Content-Length') or 0))
        reported = repr((self.command, self.path, body, sorted(name.lower() for name in self.headers))).encode()
        self.send_response(207 if self.path.startswith('/odd') else 200)
        self.send_header('Content-Type', 'text/html')
        self.send_header('Set-Cookie', 'a=b')
        self.send_header('X-Own', 'yes')
        self.send_header('Content-Security-Policy', 'default-src *')
        lengths = [str(len(reported))]
        if self.path.startswith('/lengths/'):
            lengths = self.path.removeprefix('/lengths/').split('+')
        for name in ('Clear-Site-Data', 'NEL', 'Report-To', 'Alt-Svc', 'Strict-Transport-Security'):
            self.send_header(name, 'x')
        for length in lengths:
            self.send_header('Content-Length', length)
        self.end_headers()
        if self.command != 'HEAD':
            self.wfile.write(reported)

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = do_HEAD = do_OPTIONS = answer

server = http.server.ThreadingHTTPServer(('127.0.0.1', 8080), Handler)
print('listening', flush=True)
server.serve_forever()
"""
BACKENDS = [
    pytest.param('bubblewrap', marks=pytest.mark.bubblewrap),
    pytest.param('docker', marks=pytest.mark.docker),
]


@pytest.fixture(scope='module', params=BACKENDS)
def server(request: pytest.FixtureRequest) -> Iterator[SandboxServer]:
    with serving(sandbox_type=request.param, keys=KEYS, e2b={'domain': 'boxes.test'}) as made:
        yield made


@pytest.fixture(scope='module')
def sandbox(server: SandboxServer) -> Iterator[Verbs]:
    """A sandbox in which something listens on port 8080."""
    with HttpSandboxManager(base_url=server.url, api_key=ALICE) as manager, manager.open() as made:
        assert isinstance(made, Verbs)
        made.write_file('guest.py', GUEST)
        with made.start_process(['python3', 'guest.py']) as process:
            assert next(process.chunks(60)).text == 'listening\n'
            yield made


def test_a_request_reaches_the_port_and_its_answer_comes_back(server: SandboxServer, sandbox: Verbs) -> None:
    url = f'{server.url}/sandbox/{sandbox.id}/port/8080'

    plain = requests.get(f'{url}/', headers=HEADERS, timeout=60)
    posted = requests.post(f'{url}/odd/a%20b?c=%2F&d', data=b'x' * 300000, headers=HEADERS, timeout=60)

    assert plain.status_code == 200
    assert plain.text.startswith("('GET', '/', b'', ")
    assert plain.headers['X-Own'] == 'yes'
    assert posted.status_code == 207
    assert posted.text.startswith("('POST', '/odd/a%20b?c=%2F&d', b'xxx")
    assert requests.delete(f'{url}/x', headers=HEADERS, timeout=60).text.startswith("('DELETE', '/x'")
    assert requests.head(f'{url}/x', headers=HEADERS, timeout=60).headers['X-Own'] == 'yes'


def test_keys_stay_at_the_server(server: SandboxServer, sandbox: Verbs) -> None:
    url = f'{server.url}/sandbox/{sandbox.id}/port/8080/'

    by_name = requests.get(url, headers={**HEADERS, 'Authorization': 'Basic YTpi', 'X-Mine': '1'}, timeout=60).text
    bearer = requests.get(url, headers={'Authorization': f'Bearer {ALICE}'}, timeout=60).text

    assert 'x-api-key' not in by_name
    assert "'authorization'" in by_name  # which is the guest's own
    assert "'x-mine'" in by_name
    assert "'authorization'" not in bearer


def test_a_guests_page_has_no_rights_of_the_server(server: SandboxServer, sandbox: Verbs) -> None:
    answer = requests.get(f'{server.url}/sandbox/{sandbox.id}/port/8080/', headers=HEADERS, timeout=60)

    assert answer.headers['Content-Security-Policy'].startswith('sandbox ')
    assert 'allow-same-origin' not in answer.headers['Content-Security-Policy']
    assert 'Set-Cookie' not in answer.headers
    everywhere = {'Clear-Site-Data', 'NEL', 'Report-To', 'Alt-Svc', 'Strict-Transport-Security'}
    assert not everywhere & set(answer.headers), 'a guest would rule all that has the name of the server'


@pytest.mark.parametrize('lengths', ['-5', 'abc', '1+2', '5,5', '9' * 4400])
def test_an_answer_whose_length_cannot_be_meant_is_no_answer(
    server: SandboxServer, sandbox: Verbs, lengths: str, caplog: pytest.LogCaptureFixture
) -> None:
    answer = requests.get(f'{server.url}/sandbox/{sandbox.id}/port/8080/lengths/{lengths}', headers=HEADERS, timeout=60)

    assert answer.status_code == 502, answer.text
    assert answer.json()['code'] == 'port'
    assert 'Traceback' not in caplog.text


def test_an_answer_that_says_its_length_twice_has_it(server: SandboxServer, sandbox: Verbs) -> None:
    url = f'{server.url}/sandbox/{sandbox.id}/port/8080/lengths/2+2'

    answer = requests.get(url, headers=HEADERS, timeout=60)

    assert answer.headers['Content-Length'] == '2'
    assert answer.text == "('"


def test_a_name_of_the_domain_reaches_the_port_with_the_sandboxs_token(server: SandboxServer, sandbox: Verbs) -> None:
    host = {'Host': f'8080-{sandbox.id}.boxes.test'}
    made = requests.post(
        f'{server.url}/e2b/v2/sandboxes/{sandbox.id}/connect', json={}, headers={'X-API-KEY': ALICE}, timeout=60
    ).json()

    closed = requests.get(f'{server.url}/deep/er', headers=host, timeout=60)
    token = {'E2B-Traffic-Access-Token': made['trafficAccessToken']}
    opened = requests.get(f'{server.url}/deep/er', headers={**host, **token}, timeout=60)

    assert closed.status_code == 401
    assert opened.text.startswith("('GET', '/deep/er'")
    assert 'token' not in opened.text
    assert opened.headers['Set-Cookie'] == 'a=b'


@pytest.mark.parametrize(
    ('key', 'port', 'status'),
    [(BOB, '8080', 404), (ALICE, '8081', 502), (ALICE, '0', 400), (ALICE, 'x', 400), ('', '8080', 401)],
)
def test_what_is_not_ones_own_or_not_open_is_refused(
    server: SandboxServer, sandbox: Verbs, key: str, port: str, status: int
) -> None:
    answer = requests.get(
        f'{server.url}/sandbox/{sandbox.id}/port/{port}/', headers={'X-API-Key': key} if key else {}, timeout=60
    )

    assert answer.status_code == status, answer.text
    assert answer.json()['message']


def test_an_upgraded_connection_carries_both_ways(server: SandboxServer, sandbox: Verbs) -> None:
    host, port = server.url.removeprefix('http://').split(':')
    head = (
        f'GET /sandbox/{sandbox.id}/port/8080/ws HTTP/1.1\r\nHost: {host}\r\nX-API-Key: {ALICE}\r\n'
        'Connection: Upgrade\r\nUpgrade: echo\r\n\r\n'
    )
    with socket.create_connection((host, int(port)), timeout=60) as line:
        line.sendall(head.encode())
        file = line.makefile('rb')
        assert file.readline().startswith(b'HTTP/1.1 101 ')
        while file.readline().strip():
            pass
        for word in (b'one\n', b'two\n', b'x' * 100000 + b'\n'):
            line.sendall(word)
            assert file.readline() == b'<' + word
        line.shutdown(socket.SHUT_WR)


def test_a_policy_can_close_ports() -> None:
    with serving(policy={'adapters': ['e2b']}) as server:
        answer = requests.get(f'{server.url}/sandbox/any/port/80/', timeout=60)

    assert answer.status_code == 403
    assert 'adapters' in answer.json()['message']
