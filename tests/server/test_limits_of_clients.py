"""What a client may not do to the host, to the server and to other keys."""

from __future__ import annotations

import logging
import re
import socket
import sys
from pathlib import Path
from typing import Any

import flask
import pytest
import requests

import enclave.server
from enclave.errors import (
    AuthenticationError,
    ConfigurationError,
    ConflictError,
    EngineUnavailableError,
    InvalidArgumentError,
)
from enclave.managers.manager_config import SandboxManagerConfig
from enclave.managers.protocol import PROTOCOL_HEADER, PROTOCOL_VERSION
from enclave.rulings import SHARED
from enclave.sandboxes.kinds import KINDS, SandboxKind, register_kind
from enclave.server.adapters import sandbox_fusion
from enclave.server.auth import ApiKey
from enclave.server.route import ROUTES, Route
from enclave.server.serve import create_server
from enclave.testing.kinds import wait_until
from enclave.verb_requests import StartProcess
from tests.server.conftest import CONFIG, Connect, Serve
from tests.support.process_kind import ProcessSandbox
from tests.support.sandbox import PATIENCE, FakeBackend

KEYS = [ApiKey(name=name, key=f'{name}-' + 'k' * 20) for name in ('alice', 'bob')]


OURS = {PROTOCOL_HEADER: str(PROTOCOL_VERSION)}
"""Without it some addresses answer in the shape of ms-enclave 0.0.x."""
SHAPES = pytest.mark.parametrize('shape', [OURS, {}], ids=['ours', 'ms-enclave 0.0.x'])


def post(
    url: str, path: str, body: Any = None, headers: dict[str, str] | None = None, **options: Any
) -> requests.Response:
    return requests.post(f'{url}{path}', json=body, headers={**OURS, **(headers or {})}, timeout=PATIENCE, **options)


def get(url: str, headers: dict[str, str] = OURS, **options: Any) -> requests.Response:
    return requests.get(url, headers=headers, timeout=PATIENCE, **options)


def as_key(key: ApiKey) -> dict[str, Any]:
    return {'headers': {'X-API-Key': key.key}}


# One policy, whatever way ---------------------------------------------------------------------------------------------


def test_a_request_without_a_body_passes_the_policy_too(serve: Serve) -> None:
    server = serve(sandbox_config={'network_enabled': True}, policy={'sandbox_types': ['docker']})

    for path, body in (
        ('/sandbox/create?sandbox_type=bubblewrap', None),
        ('/sandbox/create?sandbox_type=fake', None),
        ('/pool/initialize', {'pool_size': 1, 'sandbox_type': 'bubblewrap'}),
        ('/pool/initialize', {'pool_size': 1, 'sandbox_type': 'fake', 'config': {}}),
    ):
        answer = post(server.url, path, body)
        assert (answer.status_code, answer.json()['details']) == (403, {'rule': 'sandbox_types'}), path


def test_the_network_of_the_host_is_not_to_be_had_by_the_configuration_of_the_server(serve: Serve) -> None:
    server = serve(sandbox_config={'network_enabled': True})

    for path, body in (
        ('/sandbox/create?sandbox_type=bubblewrap', None),
        ('/pool/initialize', {'pool_size': 1, 'sandbox_type': 'bubblewrap'}),
    ):
        answer = post(server.url, path, body)
        assert (answer.status_code, answer.json()['details']) == (403, {'rule': 'networks'})


def test_programs_for_ms_enclave_pass_the_same_policy(serve: Serve) -> None:
    """They are known by what they do not send."""
    server = serve(sandbox_config={'network_enabled': True}, policy={'max_sandboxes': 3})

    for path in (
        '/sandbox/create?sandbox_type=bubblewrap',
        '/pool/initialize?pool_size=2&sandbox_type=bubblewrap',
        '/pool/initialize?pool_size=1000000000&sandbox_type=fake',
        '/pool/initialize?pool_size=4&sandbox_type=fake',
    ):
        answer = requests.post(f'{server.url}{path}', timeout=PATIENCE)
        assert not answer.ok, path
    for options in ({'privileged': True}, {'volumes': {'/etc': {'bind': '/x', 'mode': 'ro'}}}, {'network': 'host'}):
        answer = requests.post(f'{server.url}/sandbox/create?sandbox_type=docker', json=options, timeout=PATIENCE)
        assert not answer.ok, options
    assert get(f'{server.url}/sandboxes').json() == []


def test_the_own_configuration_of_a_server_is_not_shown_where_it_does_not_fit(serve: Serve) -> None:
    server = serve(sandbox_config={'image': 'secret/name', 'ports': [80]})

    answer = post(server.url, '/sandbox/create?sandbox_type=fake')

    assert answer.status_code == 400
    assert 'secret' not in answer.text
    assert 'does not fit' in answer.text


def test_options_of_a_size_that_the_server_would_keep_are_refused(serve: Serve) -> None:
    server = serve()

    answer = post(server.url, '/sandbox/create?sandbox_type=fake', {'env_vars': {'A': 'x' * (1 << 20)}})

    assert (answer.status_code, answer.json()['details']) == (403, {'rule': 'max_config_bytes'})


@pytest.mark.parametrize('path', ['./x', '~/x', '~postgres/x', '../x', '.'])
def test_a_refusal_says_nothing_of_what_a_path_stands_for(serve: Serve, path: str) -> None:
    server = serve()

    for kind, options in (('fake', {'volumes': {path: '/x'}}), ('bubblewrap', {'rootfs': path})):
        answer = post(server.url, f'/sandbox/create?sandbox_type={kind}', options)
        assert answer.status_code == 400
        assert f'{path!r} must be an absolute path' in answer.json()['message']


def test_a_volume_of_another_root_is_refused_as_any(serve: Serve) -> None:
    answer = post(serve().url, '/sandbox/create?sandbox_type=fake', {'volumes': {'/proc/1/root': '/x'}})

    assert (answer.status_code, answer.json()['details']) == (403, {'rule': 'mounts'})


# Numbers --------------------------------------------------------------------------------------------------------------


def test_output_is_bounded_whichever_way_it_is_asked_for(serve: Serve, connect: Connect) -> None:
    server = serve()
    sandbox_id = connect(server).create_sandbox('fake', CONFIG)
    much = {'command': 'true', 'max_output_bytes': 1 << 30}

    for path, body in (
        (f'/sandbox/{sandbox_id}/command', much),
        (f'/sandbox/{sandbox_id}/processes', much),
        (f'/sandbox/{sandbox_id}/stream', much),
        (f'/sandbox/{sandbox_id}/cells', {'code': '1', 'max_output_bytes': 1 << 30}),
        ('/sandbox/create?sandbox_type=fake', {'max_output_bytes': 1 << 30}),
    ):
        answer = post(server.url, path, body)
        assert (answer.status_code, answer.json()['details']) == (403, {'rule': 'max_output_bytes'}), path


def test_a_directory_is_listed_within_bounds(serve: Serve, connect: Connect) -> None:
    server = serve(policy={'max_entries': 3})
    manager = connect(server)
    sandbox_id = manager.create_sandbox('fake', CONFIG)
    manager.execute_command(sandbox_id, 'touch a b c d')
    path = f'{server.url}/sandbox/{sandbox_id}/files'

    assert requests.get(path, params={'max_entries': 4}, timeout=PATIENCE).status_code == 403
    assert len(requests.get(path, params={'max_entries': 3}, timeout=PATIENCE).json()) == 3
    assert 'more than 3 entries' in requests.get(path, timeout=PATIENCE).json()['message']


def test_calls_hold_no_more_output_than_the_server_keeps(backend: FakeBackend, serve: Serve, connect: Connect) -> None:
    server = serve(policy={'max_output_memory': 4 << 20})
    manager = connect(server)
    sandbox_id = manager.create_sandbox('fake', {**CONFIG, 'max_output_bytes': 1 << 20})
    held = [manager.submit('execute_command', sandbox_id, 'hold') for _ in range(4)]
    backend.wait_until(lambda: backend.holding == 4)

    answer = post(server.url, f'/sandbox/{sandbox_id}/command', {'command': 'true'})

    assert (answer.status_code, 'as much output' in answer.text) == (429, True)
    for each in held:
        each.cancel()


@pytest.mark.processes
def test_what_runs_on_holds_what_it_may_print_beyond_the_usual_until_it_ends(
    serve: Serve, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(KINDS, 'registered', dict(KINDS.registered))
    register_kind(SandboxKind(name='process', sandbox=ProcessSandbox, rulings=SHARED))
    server = serve(policy={'max_output_memory': 8 << 20})
    manager = connect(server)
    sandbox_id = manager.create_sandbox('process', CONFIG)
    much = {'command': 'cat', 'open_stdin': True, 'max_output_bytes': 2 << 20}
    path = f'/sandbox/{sandbox_id}/processes'
    first, *_ = [post(server.url, path, much).json()['id'] for _ in range(4)]

    refused = post(server.url, path, much)
    assert (refused.status_code, 'as much output' in refused.text) == (429, True)
    assert post(server.url, path, {**much, 'max_output_bytes': 1 << 20}).ok

    requests.delete(f'{server.url}{path}/{first}', headers=OURS, timeout=PATIENCE)
    assert wait_until(lambda: server.service.lanes.memory_held == 6 << 20)
    assert post(server.url, path, much).ok
    manager.delete_sandbox(sandbox_id)
    assert wait_until(lambda: server.service.lanes.memory_held == 0)


def held_by(server: Any, path: str, body: Any) -> int:
    """Return how much a request held, which is answered well."""
    sizes: list[int] = []
    lanes = server.service.lanes
    take_room = lanes.take_room

    def spy(tenant: str, size: int) -> Any:
        sizes.append(size)
        return take_room(tenant, size)

    lanes.take_room = spy
    try:
        answer = post(server.url, path, body)
    finally:
        lanes.take_room = take_room
    assert answer.ok, answer.text
    return max(sizes)


@pytest.mark.processes
def test_a_call_in_a_pool_holds_what_its_sandboxes_are_set_to(serve: Serve, connect: Connect) -> None:
    server = serve()
    manager = connect(server)
    manager.initialize_pool(1, 'fake', {**CONFIG, 'max_output_bytes': 8 << 20})
    tool = {'tool_name': 'shell_executor', 'parameters': {'command': 'true'}}
    program = {'code': '1'}

    assert held_by(server, '/pool/execute', tool) == 16 << 20
    assert held_by(server, '/pool/code', {'request': program}) == 16 << 20
    assert held_by(server, '/pool/code/batch', {'requests': [program]}) == 32 << 20
    assert held_by(server, '/pool/code', {'request': {**program, 'max_output_bytes': 1024}}) == 2048


@pytest.mark.processes
def test_a_call_with_a_budget_holds_what_is_caught_for_its_file(serve: Serve, connect: Connect) -> None:
    server = serve(policy={'max_output_memory': 64 << 20, 'max_concurrent_calls': 8, 'max_output_bytes': 2 << 20})
    manager = connect(server)
    small = {'command': 'true'}
    options = {'tools_config': {'shell_executor': {'max_chars': 100}, 'python_executor': {}}}
    sandbox_id = manager.create_sandbox('fake', options)
    manager.initialize_pool(1, 'fake', options)

    call = {'sandbox_id': sandbox_id, 'tool_name': 'shell_executor', 'parameters': small}
    assert held_by(server, '/sandbox/tool/execute', call) == 4 << 20
    assert held_by(server, '/pool/execute', {'tool_name': 'shell_executor', 'parameters': small}) == 4 << 20
    call = {'sandbox_id': sandbox_id, 'tool_name': 'python_executor', 'parameters': {'code': '1'}}
    assert held_by(server, '/sandbox/tool/execute', call) == 2 << 20
    assert held_by(server, '/sandbox/tool/execute', {**call, 'max_chars': 100}) == 4 << 20


@pytest.mark.parametrize(('accept', 'least'), [('*/*', 13_000_000), (None, 3_000_000)])
def test_a_large_answer_holds_what_it_takes_until_it_is_sent(
    serve: Serve, connect: Connect, accept: str | None, least: int
) -> None:
    server = serve(policy={'max_output_memory': 8 << 20})
    manager = connect(server)
    if accept is not None:  # a client that takes JSON only
        transport: Any = manager._open_transport()
        transport._usual_headers = re.sub(r'Accept: [^\r]*', f'Accept: {accept}', transport._usual_headers)
    sandbox_id = manager.create_sandbox('fake', {**CONFIG, 'max_output_bytes': 1 << 20})
    lanes = server.service.lanes
    weighed: list[int] = []
    answering = lanes.answering

    def spy(tenant: str, size: int) -> Any:
        weighed.append(size)
        return answering(tenant, size)

    lanes.answering = spy  # type: ignore[method-assign]
    results = [manager.submit('execute_command', sandbox_id, 'head -c 1000000 /dev/zero') for _ in range(4)]

    assert [each.result(PATIENCE).stdout for each in results] == ['\0' * 1_000_000] * 4
    assert len(weighed) == 4
    assert min(weighed) > least
    manager.execute_command(sandbox_id, 'true')
    assert len(weighed) == 4
    assert wait_until(lambda: lanes.memory_held == 0)


def test_a_null_where_the_schema_has_one_is_taken() -> None:
    assert StartProcess.model_validate({'command': 'true', 'timeout': None}).timeout is None
    with pytest.raises(InvalidArgumentError, match='or more seconds'):
        StartProcess.model_validate({'command': 'true', 'timeout': -1})


@pytest.mark.parametrize(
    'body', [b'{"command": [' + b'[],' * 200_000 + b'1]}', b'{"a":' * 200_000, b'["a"' + b',"a"' * 200_000]
)
def test_a_body_of_many_values_is_refused_by_its_text(serve: Serve, body: bytes) -> None:
    server = serve()

    for path in ('/sandbox/none/command', '/sandbox/create', '/pool/initialize'):
        answer = requests.post(
            f'{server.url}{path}', data=body, headers={**OURS, 'Content-Type': 'application/json'}, timeout=PATIENCE
        )
        assert (answer.status_code, answer.json()['details']) == (413, {'rule': 'max_json_values'})


def test_large_bodies_are_made_into_values_a_few_at_a_time(serve: Serve, connect: Connect) -> None:
    server = serve(policy={'max_output_memory': 1 << 20})
    sandbox_id = connect(server).create_sandbox('fake', CONFIG)
    answers = [
        post(server.url, f'/sandbox/{sandbox_id}/command', {'command': 'true', 'env': {'A': 'x' * size}})
        for size in (10_000, 100_000)
    ]

    assert [answer.status_code for answer in answers] == [200, 200]


@pytest.mark.parametrize('option', ['max_output_bytes', 'timeout', 'enabled', 'shell', 'nothing'])
def test_an_odd_option_of_a_tool_is_no_error_of_the_server(serve: Serve, option: str) -> None:
    url = serve().url
    for value in ('', 'x', [], {}, [[]], '1g', True, None, 1e308, -1):
        body = {'tools_config': {'shell_executor': {option: value}}}

        assert post(url, '/sandbox/create?sandbox_type=fake', body).status_code in (200, 400, 403), value


# What keys share ------------------------------------------------------------------------------------------------------


def test_pools_of_several_names_are_within_the_quota(serve: Serve) -> None:
    server = serve(policy={'max_sandboxes': 3})

    assert post(server.url, '/pool/initialize', {'pool_size': 2, 'sandbox_type': 'fake', 'name': 'a'}).ok
    refused = post(server.url, '/pool/initialize', {'pool_size': 2, 'sandbox_type': 'fake', 'name': 'b', 'config': {}})
    assert (refused.status_code, refused.json()['details']['rule']) == (403, 'max_sandboxes')
    assert len(get(f'{server.url}/sandboxes').json()) == 2
    assert post(server.url, '/sandbox/create?sandbox_type=fake').ok
    assert post(server.url, '/sandbox/create?sandbox_type=fake').status_code == 403


def test_a_pool_that_grows_is_within_the_quota(serve: Serve, connect: Connect) -> None:
    server = serve(policy={'max_sandboxes': 2}, pool_when_empty='grow', pool_size=1)
    manager = connect(server)
    manager.initialize_pool(1, 'fake', CONFIG)
    manager.acquire_sandbox()
    manager.acquire_sandbox()

    answer = post(server.url, '/pool/acquire', {'timeout': 0.1})

    assert answer.status_code == 429
    assert len(manager.list_sandboxes()) == 2


def test_an_id_is_one_keys_from_the_moment_that_it_is_asked_for(
    backend: FakeBackend, serve: Serve, connect: Connect
) -> None:
    server = serve(keys=KEYS)
    alice, bob = (connect(server, api_key=key.key) for key in KEYS)
    backend.may_start.clear()
    making = alice.submit('create_sandbox', 'fake', None, 'mine')
    backend.wait_until(lambda: backend.starting)

    with pytest.raises(ConflictError, match='is taken'):
        bob.create_sandbox('fake', None, 'mine')
    backend.may_start.set()

    assert making.result(PATIENCE) == 'mine'
    with pytest.raises(ConflictError, match='is taken'):
        bob.create_sandbox('fake', None, 'mine')
    alice.delete_sandbox('mine')
    assert bob.create_sandbox('fake', None, 'mine') == 'mine'


def test_one_key_cannot_take_all_calls(backend: FakeBackend, serve: Serve, connect: Connect) -> None:
    server = serve(keys=KEYS, policy={'max_concurrent_calls': 4})
    alice, bob = (connect(server, api_key=key.key) for key in KEYS)
    ids = [manager.create_sandbox('fake', CONFIG) for manager in (alice, bob)]
    held = [alice.submit('execute_command', ids[0], 'hold') for _ in range(3)]
    backend.wait_until(lambda: backend.holding == 3)

    refused = post(server.url, f'/sandbox/{ids[0]}/command', {'command': 'true'}, **as_key(KEYS[0]))
    assert (refused.status_code, 'kept for other keys' in refused.text) == (429, True)
    assert post(server.url, f'/sandbox/{ids[1]}/command', {'command': 'true'}, **as_key(KEYS[1])).ok
    for each in held:
        each.cancel()


def test_one_keys_answers_push_no_others_out(serve: Serve, connect: Connect) -> None:
    server = serve(keys=KEYS, policy={'max_repeats': 4})
    ids = [connect(server, api_key=key.key).create_sandbox('fake', CONFIG) for key in KEYS]

    def run(number: int, idempotency_key: str) -> bool:
        answer = post(
            server.url,
            f'/sandbox/{ids[number]}/command',
            {'command': 'true'},
            headers={'X-API-Key': KEYS[number].key, 'Idempotency-Key': idempotency_key},
        )
        assert answer.ok
        return 'Idempotent-Replayed' in answer.headers

    assert not run(0, 'first')
    for number in range(20):
        run(1, f'key-{number}')

    assert run(0, 'first')


def test_a_pool_that_nobody_uses_goes(backend: FakeBackend, serve: Serve, connect: Connect) -> None:
    server = serve(idle_timeout=2)
    manager = connect(server)
    manager.initialize_pool(2, 'fake', CONFIG)
    leased = manager.acquire_sandbox()
    assert leased in backend.alive

    manager.release_sandbox(leased)

    backend.wait_until(lambda: not backend.alive)
    assert manager.initialize_pool(1, 'fake', CONFIG)


def test_only_what_was_lent_is_given_back(serve: Serve, connect: Connect) -> None:
    server = serve(keys=KEYS)
    alice, bob = (connect(server, api_key=key.key) for key in KEYS)
    alice.initialize_pool(1, 'fake', CONFIG)
    leased = alice.acquire_sandbox()
    own = bob.create_sandbox('fake', CONFIG)

    for sandbox_id, status in ((leased, 404), ('never-was', 404), (own, 409)):
        answer = post(server.url, '/pool/release', {'sandbox_id': sandbox_id}, **as_key(KEYS[1]))
        assert answer.status_code == status
    bob.release_sandbox('never-was')  # as after a lease that ended by itself
    alice.release_sandbox(leased)
    assert post(server.url, '/pool/release', {'sandbox_id': leased}, **as_key(KEYS[0])).status_code == 409


# Keys -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('key', ['a-key-of-the-configuration', 'short'])
@pytest.mark.parametrize('way', ['config', 'dict', 'argument', 'environment'])
def test_whichever_way_a_key_is_given_it_is_the_key(
    serve: Serve,
    connect: Connect,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    key: str,
    way: str,
) -> None:
    if way == 'environment':
        monkeypatch.setenv('ENCLAVE_API_KEY', key)
    options: dict[str, Any] = {
        'config': {'config': SandboxManagerConfig(api_key=key)},
        'dict': {'config': {'api_key': key}},
        'argument': {'api_key': key},
        'environment': {},
    }[way]
    with caplog.at_level(logging.WARNING):
        server = serve(**options)
    monkeypatch.delenv('ENCLAVE_API_KEY', raising=False)

    with pytest.raises(AuthenticationError):
        connect(server).get_stats()
    connect(server, api_key=key).get_stats()
    assert ('may be guessed' in caplog.text) is (key == 'short')


def test_two_keys_at_once_are_a_mistake() -> None:
    with pytest.raises(ConfigurationError, match='two different keys'):
        create_server({'api_key': 'x' * 20}, api_key='y' * 20)


# What is reported ---------------------------------------------------------------------------------------------------------


@SHAPES
def test_clients_see_the_facts_that_a_kind_lists(serve: Serve, connect: Connect, shape: dict[str, str]) -> None:
    server = serve()
    manager = connect(server)
    sandbox_id = manager.create_sandbox('fake', CONFIG)
    assert server.service is not None
    [tenant] = server.service.tenants()
    sandbox = tenant.manager.get_sandbox(sandbox_id)
    assert sandbox is not None
    sandbox.metadata.update(pid=4711, python='/home/me/venv/bin/python')

    answers = [
        requests.get(f'{server.url}{path}', timeout=PATIENCE) for path in (f'/sandbox/{sandbox_id}', '/sandboxes')
    ]

    for answer in answers:
        assert '4711' not in answer.text
        assert 'venv' not in answer.text
    assert set(answers[0].json()['metadata']) == {'ttl', 'idle_timeout', 'expires_at', 'on_expiry', 'pool'}


def test_nothing_of_the_server_shows_what_a_manager_says_of_a_sandbox_as_it_is() -> None:
    """What clients get to see goes through `enclave.server.views`."""
    folder = Path(enclave.server.__file__).parent
    raw = re.compile(r'manager\.(get_sandbox_info|list_sandboxes)\(|\.get_info\(\)')

    assert [path.name for path in sorted(folder.rglob('*.py')) if raw.search(path.read_text('utf-8'))] == ['views.py']


@SHAPES
def test_a_host_path_is_shown_as_it_was_asked_for(
    serve: Serve, connect: Connect, tmp_path: Any, shape: dict[str, str]
) -> None:
    (tmp_path / 'secret-place').mkdir()
    (tmp_path / 'link').symlink_to(tmp_path / 'secret-place')
    server = serve(policy={'mounts': [f'{tmp_path}:ro']})
    asked = {str(tmp_path / 'link'): {'bind': '/d', 'mode': 'ro'}}

    sandbox_id = connect(server).create_sandbox('fake', {'volumes': asked})

    info = get(f'{server.url}/sandbox/{sandbox_id}', shape)
    assert info.json()['config']['volumes'] == asked
    assert 'secret-place' not in info.text


def test_health_says_nothing_of_how_a_backend_is_reached(backend: FakeBackend, serve: Serve, connect: Connect) -> None:
    server = serve()
    connect(server).create_sandbox('fake', CONFIG)
    backend.is_away = True

    details = get(f'{server.url}/health').json()['details']

    assert details['backends'] == {'fake': 'unavailable'}
    backend.is_away = False


def test_an_error_names_no_place_of_the_server(backend: FakeBackend, serve: Serve) -> None:
    backend.fail_starts(
        EngineUnavailableError(
            f'nothing listens at unix:///var/run/docker.sock: {sys.prefix}/bin/python3 is not there; /usr/bin/python3 and '
            f"'/home/sandbox/x' are; see {Path(enclave.__file__).parent}/server"
        )
    )

    message = post(serve().url, '/sandbox/create?sandbox_type=fake').json()['message']

    assert 'docker.sock' not in message
    assert sys.prefix not in message
    assert str(Path(enclave.__file__).parent) not in message
    assert '/usr/bin/python3' in message
    assert "'/home/sandbox/x' are" in message


def test_no_error_steers_a_terminal(serve: Serve, connect: Connect) -> None:
    server = serve()
    sandbox_id = connect(server).create_sandbox('fake', CONFIG)

    for name in ('\x1b]0;title\x07', '\x9b31m', '\r', '\u202e'):
        body = {'sandbox_id': sandbox_id, 'tool_name': name}
        message = post(server.url, '/sandbox/tool/execute', body).json()['message']
        assert all(each.isprintable() or each in '\n\t' for each in message)


# Odd requests ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('origin', ['http://[', 'http://[::1', 'null', '\xff', 'http://a:b:c', '///'])
@pytest.mark.parametrize('path', ['/healthz', '/nothing'])
def test_an_origin_that_makes_no_sense_is_another_site(serve: Serve, origin: str, path: str) -> None:
    answer = requests.get(f'{serve().url}{path}', headers={'Origin': origin.encode('latin-1')}, timeout=PATIENCE)

    assert answer.status_code == 403


@pytest.mark.parametrize(
    'head',
    [
        'POST /sandbox/create HTTP/1.1\r\nContent-Length: 4\r\nTransfer-Encoding: chunked',
        'POST /sandbox/create HTTP/1.1\r\nTransfer-Encoding: chunked\r\ncontent-length: 0',
        'GET /healthz HTTP/1.1\r\ntransfer-encoding: chunked\r\nContent_Length: 4',
        'POST /sandbox/create HTTP/1.0\r\nTransfer-Encoding: chunked',
    ],
)
def test_a_body_has_one_length(serve: Serve, head: str) -> None:
    server = serve()
    with socket.create_connection((server.host, server.port), PATIENCE) as connection:
        smuggled = 'GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n'
        connection.sendall(f'{head}\r\nHost: localhost\r\n\r\n0\r\n\r\n{smuggled}'.encode())
        answer = b''
        while piece := connection.recv(65536):
            answer += piece

    assert answer.split(b' ', 2)[1] == b'400'
    assert answer.count(b'HTTP/1.') == 1
    assert b'"status"' not in answer


def test_a_large_answer_of_an_adapter_holds_what_it_takes_until_it_is_sent(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 16 << 20

    def list_much(context: Any) -> flask.Response:
        """List much."""
        return flask.Response(bytes(size))

    path, adapter = '/run_code/much', sandbox_fusion.ADAPTER
    monkeypatch.setitem(ROUTES, 'much', Route(name='much', method='GET', path=path, handler=list_much, adapter=adapter))
    server = serve()
    lanes = server.service.lanes

    with requests.get(f'{server.url}{path}', stream=True, timeout=PATIENCE) as answer:
        assert answer.status_code == 200, answer.text
        assert wait_until(lambda: lanes.memory_held >= size)
        assert len(answer.content) == size
    assert wait_until(lambda: lanes.memory_held == 0)


def test_a_route_that_is_added_is_described_and_takes_its_body(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    from enclave.server import openapi

    def put_model(context: Any, model_name: str, body: Any) -> dict[str, int]:
        """Take a model."""
        return {'size': len(body.stream.read())}

    monkeypatch.setitem(
        ROUTES,
        'put_model',
        Route(
            name='put_model',
            method='PUT',
            path='/models/<model_name>',
            handler=put_model,
            body='application/x-model',
            answers=dict[str, int],
            tag='files',
        ),
    )
    openapi.document.cache_clear()
    server = serve(policy={'max_json_bytes': 1024})
    try:
        described = requests.get(f'{server.url}/openapi.json', timeout=PATIENCE).json()
    finally:
        openapi.document.cache_clear()

    assert described['paths']['/models/{model_name}']['put']['parameters'][0]['description'] == 'The model name.'
    answer = requests.put(f'{server.url}/models/a', data=bytes(5000), timeout=PATIENCE)
    assert answer.json() == {'size': 5000}
