"""The documented addresses and shapes, and what is refused, over a real socket."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import pytest
import requests

import enclave
from enclave.managers.protocol import PROTOCOL_HEADER, PROTOCOL_VERSION
from enclave.server.auth import ApiKey
from enclave.server.openapi import document
from enclave.server.serve import SandboxServer
from tests.server.conftest import CONFIG, Serve
from tests.support.sandbox import FakeBackend

SECRET = 'a-secret-of-some-length'
TIMEOUT = 30


def ask(server: SandboxServer, method: str, path: str, **options: Any) -> requests.Response:
    headers = {PROTOCOL_HEADER: str(PROTOCOL_VERSION), **options.pop('headers', {})}
    return requests.request(method, server.url + path, timeout=TIMEOUT, headers=headers, **options)


def create(server: SandboxServer, **options: Any) -> str:
    answer = ask(server, 'POST', '/sandbox/create?sandbox_type=fake', json=CONFIG, **options)
    assert answer.status_code == 200, answer.text
    return str(answer.json()['sandbox_id'])


def test_the_documented_way_of_a_sandbox(serve: Serve) -> None:
    server = serve()

    assert ask(server, 'GET', '/health').json()['healthy'] is True
    sandbox_id = create(server)
    assert [each['id'] for each in ask(server, 'GET', '/sandboxes?status=running').json()] == [sandbox_id]
    assert ask(server, 'GET', f'/sandbox/{sandbox_id}').json()['status'] == 'running'
    call = {'sandbox_id': sandbox_id, 'tool_name': 'shell_executor', 'parameters': {'command': 'echo hello'}}
    assert ask(server, 'POST', '/sandbox/tool/execute', json=call).json()['output'] == 'hello\n'
    assert 'shell_executor' in ask(server, 'GET', f'/sandbox/{sandbox_id}/tools').json()
    assert ask(server, 'GET', '/stats').json()['total_sandboxes'] == 1
    assert ask(server, 'POST', f'/sandbox/{sandbox_id}/stop').status_code == 200
    assert ask(server, 'DELETE', f'/sandbox/{sandbox_id}').status_code == 200
    assert ask(server, 'GET', '/sandboxes').json() == []


@pytest.mark.parametrize('kind', ['fake', 'docker', 'bubblewrap'])
@pytest.mark.parametrize(
    'option', [{'env_vars': {'A': '\ud800'}}, {'working_dir': '/\ud800'}, {'volumes': {'/\ud800': '/a'}}]
)
def test_text_that_is_none_is_the_clients_mistake(serve: Serve, kind: str, option: dict[str, Any]) -> None:
    answer = ask(serve(), 'POST', f'/sandbox/create?sandbox_type={kind}', json=option)

    assert answer.status_code == 400
    assert next(iter(option)) in answer.json()['message']


def test_the_documented_way_of_a_pool(serve: Serve) -> None:
    server = serve()

    made = ask(server, 'POST', '/pool/initialize', json={'pool_size': 2, 'sandbox_type': 'fake', 'config': CONFIG})
    assert len(made.json()['sandbox_ids']) == 2
    call = {'tool_name': 'shell_executor', 'parameters': {'command': 'echo pooled'}, 'timeout': 5}
    assert ask(server, 'POST', '/pool/execute', json=call).json()['output'] == 'pooled\n'
    leased = ask(server, 'POST', '/pool/acquire', json={'timeout': 5}).json()['sandbox_id']
    assert ask(server, 'POST', '/pool/release', json={'sandbox_id': leased}).status_code == 200


def test_files_and_archives_are_raw_bytes(serve: Serve) -> None:
    server = serve()
    path = f'/sandbox/{create(server)}'
    data = bytes(range(256)) * 10

    assert ask(server, 'PUT', f'{path}/file?path=a%20b.bin', data=data).json() == {'size': len(data)}
    assert ask(server, 'GET', f'{path}/file?path=a%20b.bin').content == data
    packed = ask(server, 'GET', f'{path}/archive?path=a%20b.bin')
    assert packed.headers['Content-Type'] == 'application/x-tar'
    assert ask(server, 'POST', f'{path}/archive?target_dir=.', data=packed.content).status_code == 200
    missing = ask(server, 'GET', f'{path}/file?path=missing')
    assert (missing.status_code, missing.json()['code']) == (404, 'path-not-found')


def test_every_answer_carries_its_request_id(serve: Serve) -> None:
    server = serve()

    assert ask(server, 'GET', '/healthz', headers={'X-Request-ID': 'mine-1'}).headers['X-Request-ID'] == 'mine-1'
    made = ask(server, 'GET', '/nope', headers={'X-Request-ID': 'not one\tof ours'}).headers['X-Request-ID']
    assert re.fullmatch('[0-9a-f]{16}', made)


def test_the_version_is_shown_to_those_who_may_know(serve: Serve) -> None:
    open_server, closed = serve(), serve(api_key=SECRET)

    assert ask(open_server, 'GET', '/stats').headers['X-Enclave-Version'] == enclave.__version__
    assert 'X-Enclave-Version' not in ask(closed, 'GET', '/healthz').headers
    assert 'X-Enclave-Version' not in ask(closed, 'GET', '/stats').headers


@pytest.mark.parametrize(
    ('body', 'status', 'code', 'message'),
    [
        (b'{', 400, 'invalid-argument', 'not valid JSON'),
        (b'[]', 400, 'invalid-argument', 'object'),
        (b'"x"', 400, 'invalid-argument', 'object'),
        (b'\xff\xfe', 400, 'invalid-argument', 'not valid JSON'),
        (b'{"a": NaN}', 400, 'invalid-argument', 'NaN'),
        (b'[' * 100_000, 400, 'invalid-argument', 'JSON'),
        (b'{}', 400, 'invalid-argument', 'sandbox_id is required'),
        (b'{"sandbox_id": 1, "tool_name": "x"}', 400, 'invalid-argument', 'sandbox_id must be a string'),
        (b'{"sandbox_id": "a", "tool_name": "x", "parameters": []}', 400, 'invalid-argument', 'parameters'),
        (b'{"sandbox_id": "a", "tool_name": "x", "extra": 1}', 400, 'invalid-argument', "'extra'"),
        (b'{"sandbox_id": "ghost", "tool_name": "x"}', 404, 'sandbox-not-found', 'ghost'),
    ],
)
def test_wrong_bodies_are_refused(serve: Serve, body: bytes, status: int, code: str, message: str) -> None:
    answer = ask(serve(), 'POST', '/sandbox/tool/execute', data=body, headers={'Content-Type': 'application/json'})

    assert (answer.status_code, answer.json()['code']) == (status, code)
    assert message in answer.json()['message']


@pytest.mark.parametrize('kind', ['text/plain', 'application/x-www-form-urlencoded', 'multipart/form-data', ''])
def test_bodies_that_a_page_could_send_unasked_are_refused(serve: Serve, kind: str) -> None:
    headers = {'Content-Type': kind} if kind else {}

    answer = ask(serve(), 'POST', '/sandbox/tool/execute', data=b'{"sandbox_id": "a"}', headers=headers)

    assert answer.status_code == 415


def test_unknown_tools_and_arguments_are_named(serve: Serve) -> None:
    server = serve()
    sandbox_id = create(server)

    for call, status, code in (
        ({'tool_name': 'teleport', 'parameters': {}}, 404, 'tool-not-found'),
        ({'tool_name': 'shell_executor', 'parameters': {'comand': 'x'}}, 400, 'tool-arguments'),
    ):
        answer = ask(server, 'POST', '/sandbox/tool/execute', json={'sandbox_id': sandbox_id, **call})
        assert (answer.status_code, answer.json()['code']) == (status, code)


@pytest.mark.parametrize(
    ('method', 'path', 'status'),
    [
        ('GET', '/nope', 404),
        ('GET', '/sandbox/a/b/c/d', 404),
        ('GET', '/sandboxes/', 404),
        ('PATCH', '/sandboxes', 405),
        ('OPTIONS', '/sandboxes', 405),
        ('POST', '/health', 405),
        ('GET', '/sandboxes?x=1', 400),
        ('GET', '/sandboxes?status=asleep', 400),
        ('GET', '/sandbox/%2e%2e%2fetc', 404),
        ('GET', '/sandbox/ghost', 404),
        ('POST', '/sandbox/create?sandbox_type=balloon', 400),
    ],
)
def test_wrong_addresses_are_answered_in_our_shape(serve: Serve, method: str, path: str, status: int) -> None:
    answer = ask(serve(), method, path)

    assert answer.status_code == status
    assert set(answer.json()) == {'code', 'message', 'details', 'detail'}
    if status == 405:
        assert answer.headers['Allow']
        assert answer.json()['detail'] == 'Method Not Allowed'


def test_an_unknown_address_has_the_documented_detail_and_a_message_that_says_more(serve: Serve) -> None:
    answer = ask(serve(), 'GET', '/nope').json()

    assert answer['detail'] == 'Not Found'
    assert 'there is no GET /nope here' in answer['message']


# Who may come in ------------------------------------------------------------------------------------------------------


def each_route() -> list[tuple[str, str]]:
    return [
        (method.upper(), path.replace('{', '').replace('}', ''))
        for path, methods in document()['paths'].items()
        for method in methods
    ]


@pytest.fixture(scope='module')
def closed() -> Any:
    server = enclave.create_server(api_key=SECRET)
    with server.running():
        yield server


OPEN = {'/healthz', '/', '/page/style.css', '/page/app.js'}
"""What answers without a key: that it is alive, and the page, which asks for one."""


@pytest.mark.parametrize(('method', 'path'), each_route())
def test_without_the_key_nothing_is_to_be_had(closed: SandboxServer, method: str, path: str) -> None:
    for headers in ({}, {'Authorization': 'Bearer wrong-key-of-length'}, {'X-API-Key': SECRET + 'x'}):
        answer = ask(closed, method, path, headers=headers)
        if path in OPEN:
            assert answer.status_code == 200
        else:
            assert (answer.status_code, answer.json()['code']) == (401, 'authentication')
            assert 'Bearer' in answer.headers['WWW-Authenticate']
    in_the_address = ask(closed, method, f'{path}?api_key={SECRET}')
    assert in_the_address.status_code == (400 if path in OPEN else 401)


def test_unknown_addresses_need_the_key_too(closed: SandboxServer) -> None:
    assert ask(closed, 'GET', '/nope').status_code == 401
    assert ask(closed, 'GET', '/nope', headers={'X-API-Key': SECRET}).status_code == 404


def test_each_key_sees_its_own(serve: Serve) -> None:
    alice, bob = {'X-API-Key': SECRET + 'a'}, {'X-API-Key': SECRET + 'b'}
    server = serve(keys=[ApiKey(name='alice', key=SECRET + 'a', max_sandboxes=1), ApiKey(name='bob', key=SECRET + 'b')])
    sandbox_id = create(server, headers=alice)

    assert ask(server, 'GET', '/sandboxes', headers=bob).json() == []
    for method, path in (('GET', ''), ('DELETE', ''), ('POST', '/stop'), ('GET', '/tools'), ('GET', '/file?path=x')):
        assert ask(server, method, f'/sandbox/{sandbox_id}{path}', headers=bob).status_code == 404
    call = {'sandbox_id': sandbox_id, 'tool_name': 'shell_executor', 'parameters': {'command': 'true'}}
    assert ask(server, 'POST', '/sandbox/tool/execute', json=call, headers=bob).status_code == 404
    taken = ask(server, 'POST', f'/sandbox/create?sandbox_type=fake&sandbox_id={sandbox_id}', json=CONFIG, headers=bob)
    assert taken.status_code == 409
    refused = ask(server, 'POST', '/sandbox/create?sandbox_type=fake', json=CONFIG, headers=alice)
    assert (refused.status_code, refused.json()['details']['rule']) == (403, 'max_sandboxes')
    create(server, headers=bob)


def test_pools_count_against_the_quota(serve: Serve) -> None:
    server = serve(policy={'max_sandboxes': 3})
    pool = {'sandbox_type': 'fake', 'config': CONFIG}

    assert ask(server, 'POST', '/pool/initialize', json={'pool_size': 4, **pool}).status_code == 403
    assert ask(server, 'POST', '/pool/initialize', json={'pool_size': 2, **pool}).status_code == 200
    create(server)
    assert ask(server, 'POST', '/sandbox/create?sandbox_type=fake', json=CONFIG).status_code == 403


@pytest.mark.parametrize('headers', [{'Host': 'evil.example'}, {'Origin': 'http://evil.example'}])
def test_a_page_led_astray_reaches_nothing(serve: Serve, backend: FakeBackend, headers: dict[str, str]) -> None:
    server = serve()

    answer = ask(server, 'POST', '/sandbox/create?sandbox_type=fake', json=CONFIG, headers=headers)

    assert (answer.status_code, answer.json()['code']) == (403, 'policy')
    assert backend.started == []
    assert 'Access-Control-Allow-Origin' not in answer.headers


def test_what_reaches_the_host_is_refused_with_the_policys_message(serve: Serve, backend: FakeBackend) -> None:
    server = serve()

    for options in ({'privileged': True}, {'volumes': {'/': '/host'}}, {'network': 'host'}, {'cap_add': ['SYS_ADMIN']}):
        answer = ask(server, 'POST', '/sandbox/create?sandbox_type=docker', json=options)
        assert answer.status_code == 403
        assert "the server's policy refuses this" in answer.json()['message']


def test_secrets_are_never_echoed(serve: Serve, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    caplog.set_level(logging.DEBUG)
    server = serve(audit_file=tmp_path / 'audit')
    secret = 'hush-hush-very-quiet'

    made = ask(server, 'POST', '/sandbox/create?sandbox_type=fake', json={**CONFIG, 'env_vars': {'TOKEN': secret}})
    path = f'/sandbox/{made.json()["sandbox_id"]}'
    texts = [made.text, ask(server, 'GET', path).text, ask(server, 'GET', '/sandboxes').text]
    command = {'command': 'true', 'env': {'TOKEN': secret}}
    texts.append(ask(server, 'POST', f'{path}/command', json=command).text)
    server.stop()

    assert secret not in ''.join(texts) + caplog.text + (tmp_path / 'audit').read_text()
    assert '"env_vars":{"TOKEN":"***"}' in texts[1]


def test_there_is_an_audit_line_for_every_request(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, 'enclave.server.audit')
    server = serve(api_key=SECRET)

    sandbox_id = create(server, headers={'X-API-Key': SECRET})
    ask(server, 'GET', f'/sandbox/{sandbox_id}', headers={'X-API-Key': SECRET, 'X-Request-ID': 'look'})
    ask(server, 'GET', '/sandboxes', headers={'X-Request-ID': 'stranger'})

    text = caplog.text
    assert f'"sandbox_id":"{sandbox_id}"' in text
    assert re.search(r'"request_id":"look","who":"default","address":"127.0.0.1","method":"GET"', text)
    assert re.search(r'"request_id":"stranger","who":"anonymous".*"status":401,"code":"authentication"', text)
    assert SECRET not in text


def test_metrics_and_the_page_are_there(serve: Serve) -> None:
    server = serve()
    create(server)

    metrics = ask(server, 'GET', '/metrics')
    page = ask(server, 'GET', '/docs')

    assert 'enclave_sandboxes{status="running"} 1' in metrics.text
    assert metrics.headers['Content-Type'].startswith('text/plain; version=0.0.4')
    assert "default-src 'none'" in page.headers['Content-Security-Policy']
    assert page.headers['X-Content-Type-Options'] == 'nosniff'
    assert ask(server, 'GET', '/openapi.json').json()['openapi'] == '3.1.0'
    assert ask(server, 'GET', '/limits').json()['max_sandboxes'] == 64


# Repeats --------------------------------------------------------------------------------------------------------------


def test_a_repeat_under_the_same_key_does_nothing_twice(serve: Serve, backend: FakeBackend) -> None:
    server = serve()
    headers = {'Idempotency-Key': 'once'}

    first, second = create(server, headers=headers), create(server, headers=headers)
    other = ask(server, 'POST', '/sandbox/create?sandbox_type=fake', json={}, headers=headers)

    assert first == second
    assert backend.started == [first]
    assert (other.status_code, other.json()['code']) == (409, 'conflict')
    wrong = ask(server, 'POST', '/sandbox/create', json={}, headers={'Idempotency-Key': 'a b'})
    assert wrong.status_code == 400
