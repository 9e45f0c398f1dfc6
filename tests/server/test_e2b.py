"""E2B's interface, asked as its SDK asks: tokens, tenants, policy, processes that outlive their client, signed addresses.

The SDK itself runs in tests/e2b.
"""

from __future__ import annotations

import base64
import hashlib
import json
import socket
import struct
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any
from urllib.parse import quote

import pytest
import requests

from enclave.errors import ConfigurationError
from enclave.records import utc_now
from enclave.server.auth import ApiKey
from enclave.server.serve import SandboxServer, create_server
from tests.server.conftest import Serve
from tests.support.sandbox import FakeBackend
from tests.support.server import serving

ALICE, BOB = 'alices-very-own-key-1', 'bobs-very-own-key-2222'
KEYS = [ApiKey(name='alice', key=ALICE), ApiKey(name='bob', key=BOB)]


class Sdk:
    """What the SDK sends, as little of it as a test needs."""

    def __init__(self, server: SandboxServer, key: str = ALICE) -> None:
        self.base = f'{server.url}/e2b'
        self.root = server.url
        self.key = key
        self.session = requests.Session()

    def plane(self, method: str, path: str, **options: Any) -> requests.Response:
        headers = {'X-API-KEY': self.key, **options.pop('headers', {})}
        return self.session.request(method, f'{self.base}{path}', headers=headers, timeout=60, **options)

    def create(self, **body: Any) -> dict[str, Any]:
        answer = self.plane('POST', '/v2/sandboxes', json={'templateID': 'base', **body})
        assert answer.status_code == 201, answer.text
        made: dict[str, Any] = answer.json()
        return made

    def headers(self, made: dict[str, Any]) -> dict[str, str]:
        return {'E2b-Sandbox-Id': made['sandboxID'], 'X-Access-Token': made['envdAccessToken']}

    def call(self, made: dict[str, Any], name: str, message: dict[str, Any], **headers: str) -> requests.Response:
        return self.session.post(
            f'{self.base}/{name}', json=message, headers={**self.headers(made), **headers}, timeout=60
        )

    def stream(self, made: dict[str, Any], name: str, message: dict[str, Any], **headers: str) -> requests.Response:
        return self.session.post(
            f'{self.base}/{name}',
            data=envelope(message),
            headers={**self.headers(made), 'Content-Type': 'application/connect+json', **headers},
            timeout=60,
            stream=True,
        )

    def run(self, made: dict[str, Any], *argv: str, **headers: str) -> list[dict[str, Any]]:
        message = {'process': {'cmd': argv[0], 'args': list(argv[1:])}, 'stdin': False}
        return list(messages(self.stream(made, 'process.Process/Start', message, **headers)))


def envelope(message: dict[str, Any]) -> bytes:
    data = json.dumps(message).encode()
    return struct.pack('>BI', 0, len(data)) + data


def messages(answer: requests.Response) -> Iterator[dict[str, Any]]:
    """Yield the messages of a stream; the last one is ``{'last': what the end says}``."""
    assert answer.status_code == 200, answer.text
    raw = answer.raw
    while head := raw.read(5):
        flags, size = struct.unpack('>BI', head)
        message = json.loads(raw.read(size))
        yield {'last': message} if flags == 2 else message


def output(found: list[dict[str, Any]], stream: str = 'stdout') -> bytes:
    pieces = [each['event']['data'].get(stream, '') for each in found if 'data' in each.get('event', {})]
    return b''.join(base64.b64decode(piece) for piece in pieces)


@pytest.fixture
def bubblewrap() -> Iterator[SandboxServer]:
    """A server of bubblewrap sandboxes with two keys."""
    with serving(sandbox_type='bubblewrap', keys=KEYS, policy={'max_sandboxes': 4}) as made:
        yield made


@pytest.fixture
def fake(serve: Serve) -> SandboxServer:
    """A server of fake sandboxes with two keys."""
    return serve(keys=KEYS, sandbox_type='fake', policy={'max_sandboxes': 2})


# Who may ask ----------------------------------------------------------------------------------------------------------


def test_a_request_without_a_key_is_refused_in_the_words_of_the_interface(fake: SandboxServer) -> None:
    answer = requests.get(f'{fake.url}/e2b/sandboxes', timeout=30)

    assert answer.status_code == 401
    assert answer.json()['code'] == 401
    assert 'API key' in answer.json()['message']


@pytest.mark.parametrize('path', ['/health', '/files?path=/etc/passwd', '/contexts'])
def test_a_sandbox_is_not_reached_without_its_token(fake: SandboxServer, path: str) -> None:
    made = Sdk(fake).create()

    answer = requests.get(f'{fake.url}/e2b{path}', headers={'E2b-Sandbox-Id': made['sandboxID']}, timeout=30)

    assert answer.status_code == 401


def test_a_token_opens_its_own_sandbox_only(fake: SandboxServer) -> None:
    mine, other = Sdk(fake).create(), Sdk(fake, BOB).create()
    headers = {'E2b-Sandbox-Id': other['sandboxID'], 'X-Access-Token': mine['envdAccessToken']}

    assert requests.get(f'{fake.url}/e2b/health', headers=headers, timeout=30).status_code == 401
    headers['E2b-Sandbox-Id'] = mine['sandboxID']
    assert requests.get(f'{fake.url}/e2b/health', headers=headers, timeout=30).status_code == 204


def test_a_token_opens_no_other_address_of_the_server(fake: SandboxServer) -> None:
    made = Sdk(fake).create()
    headers = {'X-Access-Token': made['envdAccessToken'], 'E2b-Sandbox-Id': made['sandboxID']}

    assert requests.get(f'{fake.url}/sandboxes', headers=headers, timeout=30).status_code == 401
    assert requests.get(f'{fake.url}/e2b/sandboxes', headers=headers, timeout=30).status_code == 401
    bearer = {'Authorization': f'Bearer {made["envdAccessToken"]}'}
    assert requests.get(f'{fake.url}/sandboxes', headers=bearer, timeout=30).status_code == 401


def test_another_tenants_sandbox_is_not_there(fake: SandboxServer) -> None:
    made = Sdk(fake).create(metadata={'secret': 'yes'})
    bob = Sdk(fake, BOB)

    for method, path in (
        ('GET', ''),
        ('DELETE', ''),
        ('POST', '/timeout'),
        ('POST', '/connect'),
        ('POST', '/pause'),
        ('GET', '/metrics'),
        ('GET', '/logs'),
    ):
        body = {'timeout': 10} if method == 'POST' else None
        answer = bob.plane(method, f'/sandboxes/{made["sandboxID"]}{path}', json=body)
        assert answer.status_code == 404, (method, path, answer.text)
    assert bob.plane('GET', '/v2/sandboxes').json() == []
    with_key = {'E2b-Sandbox-Id': made['sandboxID'], 'X-API-KEY': BOB}
    assert requests.get(f'{fake.url}/e2b/health', headers=with_key, timeout=30).status_code == 502


def test_a_dead_sandbox_answers_as_the_sdk_expects(fake: SandboxServer) -> None:
    sdk = Sdk(fake)
    made = sdk.create()
    assert sdk.plane('DELETE', f'/sandboxes/{made["sandboxID"]}').status_code == 204

    health = sdk.session.get(f'{sdk.base}/health', headers=sdk.headers(made), timeout=30)
    call = sdk.call(made, 'filesystem.Filesystem/Stat', {'path': '/'})
    stream = sdk.stream(made, 'process.Process/Start', {'process': {'cmd': 'true'}})

    for answer in (health, call, stream):
        assert answer.status_code == 502
        assert 'was not found' in answer.json()['message']


# Policy ---------------------------------------------------------------------------------------------------------------


def test_a_closed_adapter_answers_nothing(serve: Serve) -> None:
    server = serve(sandbox_type='fake', policy={'adapters': []})

    answer = requests.post(f'{server.url}/e2b/v2/sandboxes', json={'templateID': 'base'}, timeout=30)

    assert answer.status_code == 403
    assert 'adapter' in answer.json()['message']
    assert requests.get(f'{server.url}/files?path=/&signature=v1_x', timeout=30).status_code == 403


def test_the_quota_holds_and_is_reported_as_a_limit_that_is_not_tried_again(fake: SandboxServer) -> None:
    sdk = Sdk(fake)
    sdk.create()
    sdk.create()

    answer = sdk.plane('POST', '/v2/sandboxes', json={'templateID': 'base'})

    assert answer.status_code == 429
    assert answer.headers['Should-Retry'] == 'false'
    assert 'max_sandboxes' in answer.json()['message']
    assert Sdk(fake, BOB).create()


@pytest.mark.parametrize(
    ('policy', 'body', 'status'),
    [
        ({'max_lifetime': 60}, {'timeout': 61}, 403),
        ({'max_lifetime': 60}, {}, 403),
        ({'sandbox_types': ['docker']}, {}, 403),
        ({}, {'allow_internet_access': 'yes'}, 400),
        ({}, {'templateID': 'none'}, 404),
        ({}, {'metadata': {'a': 1}}, 400),
        ({}, {'metadata': {'a': 'x' * 5000}}, 400),
        ({}, {'envVars': {'a=b': 'x'}}, 400),
        ({}, {'timeout': -1}, 400),
        ({}, {'timeout': 'soon'}, 400),
        ({}, {'timeout': 10**9}, 400),
        ({}, {'volumeMounts': [{'name': 'v', 'path': '/v'}]}, 501),
        ({}, {'mcp': {'a': {}}}, 501),
        ({}, {'network': {'allowOut': ['1.1.1.1']}}, 501),
        ({}, {'network': {'allowPublicTraffic': True}}, 501),
        ({}, {'templateID': ['x']}, 400),
    ],
)
def test_a_creation_is_under_the_policy_and_checked(
    serve: Serve, policy: dict[str, Any], body: dict[str, Any], status: int
) -> None:
    server = serve(sandbox_type='fake', policy=policy)

    answer = requests.post(f'{server.url}/e2b/v2/sandboxes', json={'templateID': 'base', **body}, timeout=30)

    assert answer.status_code == status, answer.text
    assert answer.json()['message']
    assert requests.get(f'{server.url}/sandboxes', timeout=30).json() == []


def test_a_sandbox_has_a_network_only_where_the_policy_has_one(serve: Serve) -> None:
    server = serve(sandbox_type='fake', policy={'allow_network': False})
    body = {'templateID': 'base', 'allow_internet_access': True}
    made = requests.post(f'{server.url}/e2b/v2/sandboxes', json=body, timeout=30).json()

    info = requests.get(f'{server.url}/e2b/sandboxes/{made["sandboxID"]}', timeout=30).json()

    assert info['allowInternetAccess'] is False


def test_a_kind_that_cannot_be_paused_says_that_it_is_removed_at_the_end(serve: Serve) -> None:
    server = serve(sandbox_type='fake')
    body = {'templateID': 'base', 'autoPause': True, 'autoResume': {'enabled': True}}
    made = requests.post(f'{server.url}/e2b/v2/sandboxes', json=body, timeout=30).json()

    info = requests.get(f'{server.url}/e2b/sandboxes/{made["sandboxID"]}', timeout=30).json()

    assert info['lifecycle'] == {'onTimeout': 'kill', 'autoResume': False}


def test_a_sandbox_is_listed_with_its_template_and_metadata(fake: SandboxServer) -> None:
    sdk = Sdk(fake)
    made = sdk.create(metadata={'job': '7'})

    info = sdk.plane('GET', f'/sandboxes/{made["sandboxID"]}').json()
    listed = sdk.plane('GET', '/v2/sandboxes?template=base&metadata=job%3D7').json()

    assert (info['templateID'], info['metadata']) == ('base', {'job': '7'})
    assert [each['sandboxID'] for each in listed] == [made['sandboxID']]
    assert sdk.plane('GET', '/v2/sandboxes?template=other').json() == []


def test_a_template_of_the_operator_is_under_the_policy_too(serve: Serve) -> None:
    templates = {'big': {'sandbox_type': 'fake', 'config': {'memory_limit': '64g'}}, 'small': 'fake'}
    server = serve(sandbox_type='fake', e2b={'templates': templates})

    big = requests.post(f'{server.url}/e2b/v2/sandboxes', json={'templateID': 'big'}, timeout=30)
    small = requests.post(f'{server.url}/e2b/v2/sandboxes', json={'templateID': 'small'}, timeout=30)

    assert big.status_code == 403
    assert 'max_memory' in big.json()['message']
    assert small.status_code == 201


def test_a_time_limit_beyond_the_policys_is_refused_and_no_limit_too(serve: Serve, backend: FakeBackend) -> None:
    server = serve(sandbox_type='fake', policy={'max_timeout': 10}, sandbox_config={'timeout': 5})
    sdk = Sdk(server)
    templates = sdk.plane('POST', '/v2/sandboxes', json={'templateID': 'base'})
    assert templates.status_code == 403  # the kind's own limit of a call is longer than the policy's


# Names ----------------------------------------------------------------------------------------------------------------


def test_debug_ports_are_refused_where_there_are_keys() -> None:
    with pytest.raises(ConfigurationError, match='E2B_DEBUG'):
        create_server(e2b={'debug': True}, api_key=ALICE)


def test_names_of_the_domain_are_answered_and_no_others(serve: Serve) -> None:
    server = serve(sandbox_type='fake', e2b={'domain': 'boxes.test'})
    plane = {'Host': 'api.boxes.test'}
    made = requests.post(f'{server.url}/v2/sandboxes', json={'templateID': 'base'}, headers=plane, timeout=30)
    assert made.status_code == 201, made.text
    sandbox = {'Host': f'49983-{made.json()["sandboxID"]}.boxes.test'}

    assert made.json()['domain'] == 'boxes.test'
    assert requests.get(f'{server.url}/health', headers=sandbox, timeout=30).status_code == 204
    stranger = requests.get(f'{server.url}/health', headers={'Host': 'boxes.test.evil'}, timeout=30)
    assert stranger.status_code == 403


@pytest.mark.parametrize(
    'settings',
    [
        {'templates': {'a': {'image': 'x'}}},
        {'templates': {'a': 5}},
        {'templates': {'': 'docker'}},
        {'domain': 'Not A Domain'},
        {'debug': 'yes'},
        {'no_such': 1},
    ],
)
def test_settings_that_are_wrong_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        create_server(e2b=settings)


# Malformed requests ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('name', 'body'),
    [
        ('process.Process/Start', b''),
        ('process.Process/Start', b'\0\0\0'),
        ('process.Process/Start', struct.pack('>BI', 0, 1 << 31) + b'{}'),
        ('process.Process/Start', struct.pack('>BI', 1, 2) + b'{}'),
        ('process.Process/Start', envelope({'process': 5})),
        ('process.Process/Start', envelope({'process': {'cmd': 'a', 'args': [1]}})),
        ('process.Process/Start', envelope({'process': {'cmd': 'a'}, 'pty': {'size': {'rows': 99999999, 'cols': 1}}})),
        ('process.Process/Connect', envelope({'process': {}})),
        ('process.Process/Connect', envelope({'process': {'pid': 'x'}})),
        ('process.Process/SendInput', b'[]'),
        ('process.Process/SendSignal', b'{"signal": 11}'),
        ('process.Process/StreamInput', envelope({'data': {'input': {'stdin': 'YQ=='}}})),
        ('filesystem.Filesystem/Stat', b'{"path": 5}'),
        ('filesystem.Filesystem/ListDir', b'{"path": "/", "depth": -1}'),
        ('filesystem.Filesystem/Move', b'nonsense'),
        ('execute', b'{"code": 5}'),
        ('execute', b'['),
    ],
)
def test_what_makes_no_sense_is_refused_with_a_sentence(fake: SandboxServer, name: str, body: bytes) -> None:
    sdk = Sdk(fake)
    made = sdk.create()

    answer = sdk.session.post(f'{sdk.base}/{name}', data=body, headers=sdk.headers(made), timeout=30)

    assert answer.status_code < 500 or answer.status_code == 501, (answer.status_code, answer.text)
    if answer.status_code == 200:
        assert b'"code"' in answer.content


def test_an_address_that_is_none_answers_in_the_words_of_the_interface(fake: SandboxServer) -> None:
    answer = Sdk(fake).plane('GET', '/no/such/thing')

    assert answer.status_code == 404
    assert answer.json()['code'] == 404


# A real sandbox -------------------------------------------------------------------------------------------------------


@pytest.mark.bubblewrap
def test_a_command_runs_and_a_process_outlives_its_client(bubblewrap: SandboxServer) -> None:
    sdk = Sdk(bubblewrap)
    made = sdk.create()

    found = sdk.run(made, '/bin/sh', '-c', 'echo out; echo err >&2; exit 3')
    assert output(found) == b'out\n'
    assert output(found, 'stderr') == b'err\n'
    assert found[-2]['event']['end'] == {
        'exitCode': 3,
        'exited': True,
        'status': 'exit status 3',
        'error': 'exit status 3',
    }
    assert found[-1] == {'last': {}}

    message = {'process': {'cmd': 'sh', 'args': ['-c', 'read x; echo got $x']}, 'stdin': True, 'tag': 'mine'}
    answer = sdk.stream(made, 'process.Process/Start', message)
    pid = next(messages(answer))['event']['start']['pid']
    answer.close()
    again = messages(sdk.stream(made, 'process.Process/Connect', {'process': {'tag': 'mine'}}))
    assert next(again)['event']['start']['pid'] == pid
    given = {'process': {'pid': pid}, 'input': {'stdin': base64.b64encode(b'it\n').decode()}}
    assert sdk.call(made, 'process.Process/SendInput', given).status_code == 200
    assert output(list(again)) == b'got it\n'


@pytest.mark.bubblewrap
def test_links_to_nowhere_closed_directories_unknown_accounts_and_input_for_nobody(bubblewrap: SandboxServer) -> None:
    sdk = Sdk(bubblewrap)
    made = sdk.create()
    sdk.run(made, '/bin/sh', '-c', 'mkdir /tmp/links; cd /tmp/links; ln -s gone away; ln -s round round')

    listed = sdk.call(made, 'filesystem.Filesystem/ListDir', {'path': '/tmp/links', 'depth': 1})
    assert {each['name']: each['type'] for each in listed.json()['entries']} == {
        'away': 'FILE_TYPE_SYMLINK',
        'round': 'FILE_TYPE_SYMLINK',
    }

    sdk.run(made, '/bin/sh', '-c', 'mkdir -p /tmp/closed/in/side /tmp/closed/open/side; chmod 0 /tmp/closed/in')
    listed = sdk.call(made, 'filesystem.Filesystem/ListDir', {'path': '/tmp/closed', 'depth': 3})
    assert [each['path'] for each in listed.json()['entries']] == [
        '/tmp/closed/in',
        '/tmp/closed/open',
        '/tmp/closed/open/side',
    ]
    assert sdk.call(made, 'filesystem.Filesystem/ListDir', {'path': '/tmp/closed/in'}).status_code == 400

    unknown = {'Authorization': f'Basic {base64.b64encode(b"no-such-user:").decode()}'}
    message = {'process': {'cmd': 'true', 'args': []}, 'stdin': False}
    assert sdk.stream(made, 'process.Process/Start', message, **unknown).status_code == 401
    assert sdk.call(made, 'filesystem.Filesystem/Stat', {'path': '/'}, **unknown).status_code == 401

    home = {'process': {'cmd': 'pwd', 'args': [], 'cwd': '~'}, 'stdin': False}
    assert output(list(messages(sdk.stream(made, 'process.Process/Start', home)))) == b'/home/user\n'

    sleeping = {'process': {'cmd': 'sleep', 'args': ['100']}, 'stdin': False}
    pid = next(messages(sdk.stream(made, 'process.Process/Start', sleeping)))['event']['start']['pid']
    selected = {'process': {'pid': pid}}
    given = sdk.call(made, 'process.Process/SendInput', {**selected, 'input': {'stdin': 'eA=='}})
    assert given.json()['code'] == 'failed_precondition'
    size = sdk.call(made, 'process.Process/Update', {**selected, 'pty': {'size': {'rows': 5, 'cols': 5}}})
    assert size.json()['code'] == 'failed_precondition'


@pytest.mark.bubblewrap
def test_a_deadline_kills_the_process_and_says_so(bubblewrap: SandboxServer) -> None:
    sdk = Sdk(bubblewrap)
    made = sdk.create()

    found = sdk.run(made, 'sh', '-c', 'echo begun; sleep 100', **{'Connect-Timeout-Ms': '500'})

    assert output(found) == b'begun\n'
    assert found[-1]['last']['error']['code'] == 'deadline_exceeded'
    listed = sdk.call(made, 'process.Process/List', {}).json()
    assert listed == {'processes': []}


@pytest.mark.bubblewrap
def test_input_arrives_while_its_request_continues(bubblewrap: SandboxServer) -> None:
    sdk = Sdk(bubblewrap)
    made = sdk.create()
    message = {'process': {'cmd': 'cat'}, 'stdin': True}
    events = messages(sdk.stream(made, 'process.Process/Start', message))
    pid = next(events)['event']['start']['pid']
    host, port = sdk.root.removeprefix('http://').split(':')
    with socket.create_connection((host, int(port)), timeout=60) as line:
        head = ''.join(f'{name}: {value}\r\n' for name, value in {**sdk.headers(made), 'Host': host}.items())
        line.sendall(
            f'POST /e2b/process.Process/StreamInput HTTP/1.1\r\n{head}Transfer-Encoding: chunked\r\n\r\n'.encode()
        )

        def send(part: dict[str, Any]) -> None:
            data = envelope(part)
            line.sendall(f'{len(data):x}\r\n'.encode() + data + b'\r\n')

        send({'start': {'process': {'pid': pid}}})
        for word in (b'one', b'two'):
            send({'data': {'input': {'stdin': base64.b64encode(word).decode()}}})
            assert output([next(events)]) == word  # before the body has ended
        line.sendall(b'0\r\n\r\n')
        assert line.recv(65536).startswith(b'HTTP/1.1 200 ')
    assert sdk.call(made, 'process.Process/CloseStdin', {'process': {'pid': pid}}).status_code == 200
    assert list(events)[-1] == {'last': {}}


@pytest.mark.bubblewrap
def test_output_that_nobody_reads_holds_up_nobody(bubblewrap: SandboxServer) -> None:
    sdk = Sdk(bubblewrap)
    made = sdk.create()
    message = {'process': {'cmd': 'sh', 'args': ['-c', 'seq 1000000; echo the end']}, 'stdin': False, 'tag': 'flood'}
    answer = sdk.stream(made, 'process.Process/Start', message)
    next(messages(answer))

    answer.close()

    ended = threading.Event()
    for _ in range(600):
        if sdk.call(made, 'process.Process/List', {}).json() == {'processes': []}:
            ended.set()
            break
        ended.wait(0.05)
    assert ended.is_set()


@pytest.mark.bubblewrap
def test_a_signed_address_works_alone_and_for_what_it_was_signed(bubblewrap: SandboxServer) -> None:
    sdk = Sdk(bubblewrap)
    made = sdk.create()

    def url(path: str, verb: str, signed: str | None = None, expires: int | None = None) -> str:
        tail = '' if expires is None else f':{expires}'
        text = f'{signed or path}:{verb}::{made["envdAccessToken"]}{tail}'
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip('=')
        more = '' if expires is None else f'&signature_expiration={expires}'
        return f'{sdk.root}/files?path={quote(path)}&signature={quote("v1_" + digest)}{more}'

    form = {'file': ('x', b'signed')}
    assert requests.post(url('/tmp/a', 'write'), files=form, timeout=30).json()[0]['path'] == '/tmp/a'
    assert requests.get(url('/tmp/a', 'read'), timeout=30).content == b'signed'
    later = int(time.time()) + 60
    assert requests.get(url('/tmp/a', 'read', expires=later), timeout=30).content == b'signed'
    for wrong in (
        url('/etc/passwd', 'read', signed='/tmp/a'),
        url('/tmp/a', 'write'),
        url('/tmp/a', 'read', expires=int(time.time()) - 5),
        url('/tmp/a', 'read', expires=later).replace(str(later), str(later + 1)),
        f'{sdk.root}/files?path=/tmp/a&signature=v1_',
    ):
        assert requests.get(wrong, timeout=30).status_code == 401, wrong


@pytest.mark.bubblewrap
def test_what_is_attached_to_a_file_follows_it_and_goes_with_it(bubblewrap: SandboxServer) -> None:
    sdk = Sdk(bubblewrap)
    made = sdk.create()
    headers = {**sdk.headers(made), 'X-Metadata-Owner': 'me', 'Content-Type': 'application/octet-stream'}
    sdk.session.post(f'{sdk.base}/files?path=/tmp/a/b', data=b'x', headers=headers, timeout=30).raise_for_status()

    moved = sdk.call(made, 'filesystem.Filesystem/Move', {'source': '/tmp/a', 'destination': '/tmp/c'})
    entry = sdk.call(made, 'filesystem.Filesystem/Stat', {'path': '/tmp/c/b'}).json()['entry']

    assert moved.json()['entry']['type'] == 'FILE_TYPE_DIRECTORY'
    assert entry['metadata'] == {'owner': 'me'}
    sdk.call(made, 'filesystem.Filesystem/Remove', {'path': '/tmp/c'})
    sdk.session.post(f'{sdk.base}/files?path=/tmp/c/b', data=b'x', headers=sdk.headers(made), timeout=30)
    assert 'metadata' not in sdk.call(made, 'filesystem.Filesystem/Stat', {'path': '/tmp/c/b'}).json()['entry']


@pytest.mark.bubblewrap
def test_a_packed_body_may_not_unpack_to_more_than_a_body_may_be() -> None:
    import gzip

    with serving(sandbox_type='bubblewrap', policy={'max_upload_bytes': 1 << 20}) as server:
        sdk = Sdk(server)
        made = sdk.create()
        headers = {**sdk.headers(made), 'Content-Encoding': 'gzip'}

        answer = sdk.session.post(
            f'{sdk.base}/files?path=/tmp/a', data=gzip.compress(bytes(8 << 20)), headers=headers, timeout=30
        )

        assert answer.status_code == 413
        assert sdk.call(made, 'filesystem.Filesystem/Stat', {'path': '/tmp/a'}).status_code == 404


@pytest.mark.bubblewrap
def test_the_debug_ports_serve_one_sandbox_that_nobody_creates() -> None:
    try:
        server = create_server(sandbox_type='bubblewrap_notebook', e2b={'debug': True}, stop_grace=0.0)
        server.start(port=0)
    except OSError:
        pytest.skip('one of the three ports is in use')
    try:
        headers = {'E2b-Sandbox-Id': 'debug_sandbox_id'}
        assert requests.get('http://127.0.0.1:49983/health', headers=headers, timeout=60).status_code == 204
        requests.post('http://127.0.0.1:49983/files?path=/tmp/a', data=b'debug', timeout=60).raise_for_status()
        code = {'code': 'open("/tmp/a").read()'}
        lines = requests.post('http://127.0.0.1:49999/execute', json=code, headers=headers, timeout=60).text
        listed = requests.get('http://127.0.0.1:3000/v2/sandboxes', headers={'X-API-KEY': 'any'}, timeout=60).json()
    finally:
        server.stop()

    assert next(json.loads(line) for line in lines.splitlines())['text'] == 'debug'
    assert [each['sandboxID'] for each in listed] == ['debug_sandbox_id']


# Two hostile keys -----------------------------------------------------------------------------------------------------


@pytest.mark.bubblewrap
def test_nothing_of_another_tenant_is_reached_by_ids_tokens_or_numbers(bubblewrap: SandboxServer) -> None:
    alice, bob = Sdk(bubblewrap), Sdk(bubblewrap, BOB)
    hers, his = alice.create(), bob.create()
    message = {'process': {'cmd': 'sleep', 'args': ['100']}, 'stdin': False, 'tag': 'hers'}
    stream = alice.stream(hers, 'process.Process/Start', message)
    pid = next(messages(stream))['event']['start']['pid']
    mixed = {**hers, 'envdAccessToken': his['envdAccessToken']}
    by_key = {'E2b-Sandbox-Id': hers['sandboxID'], 'X-API-KEY': BOB}

    for name, body in (
        ('process.Process/List', {}),
        ('process.Process/SendSignal', {'process': {'pid': pid}, 'signal': 'SIGNAL_SIGKILL'}),
        ('process.Process/SendInput', {'process': {'tag': 'hers'}, 'input': {'stdin': 'YQ=='}}),
        ('filesystem.Filesystem/ListDir', {'path': '/'}),
        ('filesystem.Filesystem/CreateWatcher', {'path': '/tmp'}),
        ('execute', {'code': '1'}),
        ('contexts', {}),
    ):
        assert bob.call(mixed, name, body).status_code == 401, name
        assert bob.session.post(f'{bob.base}/{name}', json=body, headers=by_key, timeout=60).status_code == 502, name
    # The same numbers in one's own sandbox are nobody.
    for selector in ({'pid': pid + 1000}, {'tag': 'hers'}):
        answer = bob.call(his, 'process.Process/SendSignal', {'process': selector, 'signal': 'SIGNAL_SIGKILL'})
        assert answer.status_code == 404, answer.text
    assert alice.call(hers, 'process.Process/List', {}).json()['processes'][0]['pid'] == pid
    stream.close()


def test_one_keys_repeats_do_not_meet_anothers(fake: SandboxServer) -> None:
    headers = {'Idempotency-Key': 'the-same-words'}
    body = {'templateID': 'base'}

    first = Sdk(fake).plane('POST', '/v2/sandboxes', json=body, headers=headers).json()
    again = Sdk(fake).plane('POST', '/v2/sandboxes', json=body, headers=headers).json()
    other = Sdk(fake, BOB).plane('POST', '/v2/sandboxes', json=body, headers=headers).json()

    assert first['sandboxID'] == again['sandboxID']
    assert other['sandboxID'] != first['sandboxID']


ODD_HEADERS = (
    'E2b-Sandbox-Id',
    'E2b_Sandbox_Id',
    'X-Access-Token',
    'X-API-KEY',
    'Authorization',
    'Connect-Timeout-Ms',
    'Host',
    'Origin',
)


@pytest.mark.parametrize('value', ['http://[', '../../etc', 'a' * 5000, '\xff\xfe', '-1', 'Basic !!', 'Bearer '])
def test_headers_of_any_kind_are_no_fault_of_the_server(fake: SandboxServer, value: str) -> None:
    sdk = Sdk(fake)
    made = sdk.create()

    for name in ODD_HEADERS:
        headers: Any = {**sdk.headers(made), name: value.encode('latin-1')}
        for path in ('/e2b/process.Process/List', '/e2b/execute', '/files', '/e2b/v2/sandboxes'):
            answer = requests.post(fake.url + path, data=b'{}', headers=headers, timeout=30)
            assert answer.status_code < 500 or answer.status_code in (501, 502), (name, path, answer.text)


@pytest.mark.bubblewrap
def test_what_is_remembered_of_a_sandbox_is_bounded(bubblewrap: SandboxServer) -> None:
    sdk = Sdk(bubblewrap)
    made = sdk.create()
    big = {f'V{number}': 'x' * 60000 for number in range(5)}

    stream = sdk.stream(made, 'process.Process/Start', {'process': {'cmd': 'sleep', 'args': ['50'], 'envs': big}})
    next(messages(stream))
    listed = sdk.call(made, 'process.Process/List', {})
    watchers = [sdk.call(made, 'filesystem.Filesystem/CreateWatcher', {'path': '/tmp'}) for _ in range(33)]
    long = {**sdk.headers(made), **{f'X-Metadata-{number}': 'x' * 1000 for number in range(5)}}
    attached = sdk.session.post(f'{sdk.base}/files?path=/tmp/a', data=b'x', headers=long, timeout=60)

    assert len(listed.content) < 10000
    assert watchers[-2].status_code == 200
    assert watchers[-1].status_code == 429
    assert attached.status_code == 400
    stream.close()


@pytest.mark.bubblewrap
def test_a_policy_without_notebooks_leaves_no_way_to_a_kernel() -> None:
    with serving(sandbox_type='bubblewrap', policy={'tools': ['shell_executor']}) as server:
        sdk = Sdk(server)
        made = sdk.create()

        answers = [
            sdk.call(made, 'execute', {'code': '1'}),
            sdk.call(made, 'contexts', {}),
            sdk.session.get(f'{sdk.base}/contexts', headers=sdk.headers(made), timeout=30),
        ]

    assert [answer.status_code for answer in answers] == [403, 403, 403]


@pytest.mark.bubblewrap
def test_pausing_is_under_the_policy_and_the_keys_own(bubblewrap: SandboxServer) -> None:
    alice, bob = Sdk(bubblewrap), Sdk(bubblewrap, BOB)
    made = alice.create(timeout=60)
    path = f'/sandboxes/{made["sandboxID"]}'

    assert bob.plane('POST', f'{path}/pause', json={}).status_code == 404
    assert alice.plane('POST', f'{path}/pause', json={'memory': False}).status_code == 501
    assert alice.plane('POST', f'{path}/pause', json=[]).status_code == 400
    assert alice.plane('POST', f'{path}/pause', json={}).status_code == 204
    assert alice.plane('POST', f'{path}/pause', json={}).status_code == 409
    assert bob.plane('POST', f'{path}/connect', json={}).status_code == 404
    assert alice.plane('POST', f'{path}/timeout', json={'timeout': 60}).status_code == 409
    answer = alice.call(made, 'filesystem.Filesystem/Stat', {'path': '/tmp'})
    assert (answer.status_code, 'was not found' in answer.text) == (502, True)
    assert [each['state'] for each in alice.plane('GET', '/v2/sandboxes').json()] == ['paused']
    assert alice.plane('GET', '/sandboxes').json() == []

    assert alice.plane('POST', f'/v2{path}/connect', json={'timeout': 60}).status_code == 201
    assert alice.call(made, 'filesystem.Filesystem/Stat', {'path': '/tmp'}).status_code == 200
    alice.plane('DELETE', path)


@pytest.mark.bubblewrap
def test_a_longer_life_than_the_policys_is_not_had_by_pausing() -> None:
    with serving(sandbox_type='bubblewrap', api_key=ALICE, policy={'max_lifetime': 100}) as server:
        sdk = Sdk(server)
        made = sdk.create(timeout=60)['sandboxID']

        def ask(verb: str, **body: Any) -> requests.Response:
            path = f'{server.url}/sandbox/{made}/{verb}'
            return requests.post(path, json=body, headers={'X-API-Key': ALICE}, timeout=60)

        assert ask('pause', ttl=None).status_code == 403
        assert ask('pause', ttl=101).status_code == 403
        assert ask('renew', ttl=50, on_expiry='never').status_code in (400, 422)
        before = utc_now()
        until = datetime.fromisoformat(ask('pause').json()['expires_at'])
        assert (until - before).total_seconds() < 200
        assert sdk.plane('POST', f'/v2/sandboxes/{made}/connect', json={'timeout': 500}).status_code == 403
        assert sdk.plane('GET', f'/sandboxes/{made}').json()['state'] == 'paused'
