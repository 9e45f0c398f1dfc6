"""The documented API over HTTP: raw requests as the deployed clients make them, and this package's own client."""

from __future__ import annotations

import asyncio
import http.server
import io
import socket
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import requests

from enclave.managers.protocol import PROTOCOL_HEADER
from ms_enclave.sandbox.manager import HttpSandboxManager
from ms_enclave.sandbox.model import (
    DockerNotebookConfig,
    DockerSandboxConfig,
    SandboxManagerConfig,
    SandboxStatus,
    SandboxType,
)
from ms_enclave.sandbox.server import SandboxServer, create_server
from tests.compat.covering import covers
from tests.compat.running import environment, running_server

pytestmark = pytest.mark.docker

PATIENCE = 120
TOOLS = ['python_executor', 'shell_executor', 'file_operation', 'none_such']


@pytest.fixture(scope='module')
def server() -> Iterator[SandboxServer]:
    made = create_server(SandboxManagerConfig(cleanup_interval=600), stop_grace=0.0)
    with made.running():
        yield made


def ask(server: SandboxServer, method: str, path: str, **options: Any) -> requests.Response:
    return requests.request(method, server.url + path, timeout=PATIENCE, **options)


def full_dump(**options: Any) -> dict[str, Any]:
    config = DockerSandboxConfig(**{'tools_config': TOOLS, 'memory_limit': '256m', **options})
    return config.model_dump(mode='json', exclude_none=True)


@pytest.fixture(scope='module')
def made(server: SandboxServer) -> str:
    answer = ask(server, 'POST', '/sandbox/create?sandbox_type=docker', json=full_dump())
    assert (answer.status_code, list(answer.json())) == (200, ['sandbox_id'])
    return str(answer.json()['sandbox_id'])


@covers(10, 'GET /health', 'GET /stats', 'GET /docs')
def test_facts_are_as_documented(server: SandboxServer, made: str) -> None:
    health = ask(server, 'GET', '/health').json()
    stats = ask(server, 'GET', '/stats').json()

    assert set(health) == {'healthy', 'version', 'uptime', 'active_sandboxes', 'system_info'}
    assert (health['healthy'], health['version']) == (True, '1.0.0')
    assert stats['manager_type'] == 'local'
    assert {'total_sandboxes', 'status_counts', 'sandbox_types', 'running', 'cleanup_interval', 'pool_size'} <= set(
        stats
    )
    assert stats['cleanup_interval'] == 600
    for page in ('/docs', '/redoc', '/openapi.json'):
        assert ask(server, 'GET', page).status_code == 200


@covers(10, 'POST /sandbox/create', 'GET /sandboxes', 'GET /sandbox/{id}', 'GET /sandbox/{id}/tools')
@covers(12, 'privileged, extra_hosts', 'environment in answers')
def test_a_full_dump_makes_a_sandbox_that_is_shown_as_documented(server: SandboxServer, made: str) -> None:
    info = ask(server, 'GET', f'/sandbox/{made}').json()

    fields = {'id', 'status', 'type', 'config', 'created_at', 'updated_at', 'metadata', 'available_tools'}
    assert set(info) == fields
    assert (info['id'], info['status'], info['type']) == (made, 'running', 'docker')
    assert set(info['available_tools']) == {'python_executor', 'shell_executor', 'file_operation'}
    assert '+' not in info['created_at']
    assert info['metadata']['container_id']
    listed = ask(server, 'GET', '/sandboxes?status=running').json()
    assert [each['id'] for each in listed] == [made]
    tools = ask(server, 'GET', f'/sandbox/{made}/tools').json()
    assert tools['shell_executor']['function']['name'] == 'shell_executor'
    for path in ('/sandbox/none', '/sandbox/none/tools'):
        answer = ask(server, 'GET', path)
        assert (answer.status_code, 'not found' in answer.json()['detail']) == (404, True)
    assert ask(server, 'GET', '/sandboxes?status=asleep').status_code == 422


@pytest.mark.parametrize(
    ('path', 'body', 'status', 'message'),
    [
        ('/sandbox/create', b'{}', 422, 'Field required'),
        ('/sandbox/create?sandbox_type=balloon', b'{}', 422, 'Input should be'),
        ('/sandbox/create?sandbox_type=docker', b'{', 422, 'JSON'),
        ('/sandbox/create?sandbox_type=dummy', b'{}', 400, 'Failed to create sandbox: '),
        ('/sandbox/create?sandbox_type=docker', b'{"memory_limit": "1gb"}', 400, 'Failed to create sandbox: '),
        ('/sandbox/tool/execute', b'{"tool_name": "x"}', 422, 'Field required'),
        ('/sandbox/tool/execute', b'{"tool_name": "x", "sandbox_id": 5}', 422, 'valid string'),
        ('/pool/execute?tool_name=x', b'null', 422, 'Field required'),
        ('/sandbox/none/archive?target_dir=/x', b'', 404, 'not found'),
        ('/sandbox/none/stop', b'', 404, 'not found'),
        ('/pool/execute', b'{}', 422, 'tool_name'),
        ('/pool/execute?tool_name=x', b'{}', 400, 'pool is empty'),
        ('/pool/initialize?pool_size=many', b'null', 422, 'integer'),
        ('/pool/execute?tool_name=x&timeout=nan', b'{}', 422, 'number'),
    ],
)
def test_what_is_wrong_is_reported_as_documented(
    server: SandboxServer, path: str, body: bytes, status: int, message: str
) -> None:
    media = 'application/x-tar' if 'archive' in path else 'application/json'
    answer = ask(server, 'POST', path, data=body, headers={'Content-Type': media})

    assert answer.status_code == status
    detail = answer.json()['detail']
    assert message in str(detail)
    if status == 422:
        assert set(detail[0]) == {'type', 'loc', 'msg', 'input'}
    assert {'code', 'message'} <= set(answer.json())


@covers(10, 'POST /sandbox/tool/execute', 'POST /sandbox/create?sandbox_type=docker')
@covers(12, 'unknown keys, null timeout')
def test_tools_run_as_documented(server: SandboxServer, made: str) -> None:
    def call(tool: str, parameters: Any) -> requests.Response:
        body = {'sandbox_id': made, 'tool_name': tool, 'parameters': parameters, 'timeout': None, 'surplus': 1}
        return ask(server, 'POST', '/sandbox/tool/execute', json=body)

    done = call('shell_executor', {'command': 'exit 7'})
    assert done.status_code == 200
    expected = {'status', 'execution_time', 'timestamp', 'tool_name', 'output', 'metadata', 'error'}
    assert set(done.json()) == expected
    assert (done.json()['status'], done.json()['error']) == ('error', 'Command failed with exit code 7')
    assert call('python_executor', {'code': 'print(1)', 'timeout': '30'}).json()['output'] == '1\n'
    wrong = call('shell_executor', {'command': 1})
    assert (wrong.status_code, wrong.json()['status']) == (200, 'error')
    assert wrong.json()['error'] == 'command must be text, not int'
    late = call('shell_executor', {'command': 'sleep 60', 'timeout': 0.3}).json()
    assert (late['status'], late['error']) == ('timeout', 'Command timed out after 0.3 seconds')
    written = call('file_operation', {'operation': 'write', 'file_path': 'x', 'content': 'y', 'encoding': 'utf-8'})
    assert written.json()['output'] == 'File written successfully: x'
    code = {'code': 'import sys; print(open("x").read()); print("w", file=sys.stderr)'}
    assert (call('python_executor', code).json()['output'], call('python_executor', code).json()['error']) == (
        'y\n',
        'w\n',
    )
    assert call('none_such', {}).status_code == 404
    assert call('shell_executor', {'cmd': 'x'}).status_code == 500


@covers(10, 'POST /sandbox/{id}/archive', 'POST /sandbox/{id}/archive?target_dir=..')
def test_archives_are_taken_as_documented(server: SandboxServer, made: str) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode='w') as archive:
        member = tarfile.TarInfo('f')
        member.size = 2
        archive.addfile(member, io.BytesIO(b'ok'))

    def put(data: bytes, query: str = '?target_dir=/data/new') -> requests.Response:
        headers = {'Content-Type': 'application/x-tar'}
        return ask(server, 'POST', f'/sandbox/{made}/archive{query}', data=data, headers=headers)

    answer = put(packed.getvalue())
    assert (answer.status_code, answer.json()) == (200, {'ok': True})
    assert put(b'').status_code == 400
    assert put(packed.getvalue(), '').status_code == 422
    assert put(b'no archive at all' * 100).status_code == 500
    body = {'sandbox_id': made, 'tool_name': 'shell_executor', 'parameters': {'command': 'cat /data/new/f'}}
    assert ask(server, 'POST', '/sandbox/tool/execute', json=body).json()['output'] == 'ok'


def test_the_librarys_own_client_is_answered_in_its_own_shape(server: SandboxServer, made: str) -> None:
    info = ask(server, 'GET', f'/sandbox/{made}', headers={PROTOCOL_HEADER: '1'}).json()

    assert isinstance(info['available_tools'], list)
    assert 'updated_at' not in info


@covers(12, 'volumes over HTTP')
@pytest.mark.parametrize(
    ('options', 'line'),
    [
        ({'volumes': {'/srv/x': {'bind': '/data', 'mode': 'rw'}}}, 'mounts = ["/srv/x:rw"]'),
        ({'network': 'lab'}, 'networks = ["lab"]'),
        ({'privileged': True}, 'privileged = true'),
        ({'remove_on_exit': False}, 'allow_keep = true'),
        ({'memory_limit': '64g'}, 'max_memory = "64g"'),
        ({'ports': {'80': ('127.0.0.1', 8080)}}, 'host_ports = ["8080"]'),
    ],
)
def test_a_refusal_names_the_line_of_the_policy_that_allows_it(
    server: SandboxServer, options: dict[str, Any], line: str
) -> None:
    answer = ask(server, 'POST', '/sandbox/create?sandbox_type=docker', json=full_dump(**options))

    assert answer.status_code == 403
    assert line in answer.json()['detail']
    assert '--policy' in answer.json()['detail']


@covers(10, 'POST /pool/initialize', 'POST /pool/execute', 'POST /pool/initialize?pool_size=..')
def test_a_pool_is_asked_for_as_documented(server: SandboxServer) -> None:
    path = '/pool/initialize?pool_size=2&sandbox_type=docker'
    pool = ask(server, 'POST', path, json=full_dump(tools_config=['python_executor'])).json()
    assert (set(pool), pool['pool_size'], len(pool['sandbox_ids'])) == ({'message', 'pool_size', 'sandbox_ids'}, 2, 2)
    empty = ask(
        server, 'POST', '/pool/initialize?pool_size=0', data=b'null', headers={'Content-Type': 'application/json'}
    )
    assert empty.json()['sandbox_ids'] == []

    def execute(query: str, **parameters: Any) -> requests.Response:
        return ask(server, 'POST', f'/pool/execute?{query}', json=parameters)

    assert execute('tool_name=python_executor', code='print(6*7)').json()['output'] == '42\n'
    assert execute('tool_name=shell_executor', command='true').status_code == 400
    failed = execute('tool_name=python_executor&timeout=30', code='1/0')
    assert (failed.status_code, failed.json()['status']) == (200, 'error')
    info = ask(server, 'GET', f'/sandbox/{pool["sandbox_ids"][0]}').json()
    assert info['status'] == 'idle'
    for each in pool['sandbox_ids']:
        assert ask(server, 'DELETE', f'/sandbox/{each}').status_code == 200
    assert execute('tool_name=python_executor', code='1').status_code == 400


@covers(10, 'POST /sandbox/{id}/stop', 'DELETE /sandbox/{id}')
def test_sandboxes_end_as_documented(server: SandboxServer) -> None:
    sandbox_id = ask(server, 'POST', '/sandbox/create?sandbox_type=docker').json()['sandbox_id']

    assert set(ask(server, 'POST', f'/sandbox/{sandbox_id}/stop').json()) == {'message'}
    assert ask(server, 'GET', f'/sandbox/{sandbox_id}').json()['status'] == 'stopped'
    body = {'sandbox_id': sandbox_id, 'tool_name': 'shell_executor', 'parameters': {}}
    refused = ask(server, 'POST', '/sandbox/tool/execute', json=body)
    assert (refused.status_code, 'is not active' in refused.json()['detail']) == (404, True)
    assert set(ask(server, 'DELETE', f'/sandbox/{sandbox_id}').json()) == {'message'}
    assert ask(server, 'DELETE', f'/sandbox/{sandbox_id}').status_code == 404


# The client of this package


@covers(6, 'health_check (HTTP only)')
@covers(11, 'ends', 'manager')
@covers(12, 'leaving a client')
def test_leaving_the_client_deletes_what_it_made_and_nothing_else(
    server: SandboxServer, made: str, tmp_path: Path
) -> None:
    (tmp_path / 'f').write_text('sent')

    async def main() -> None:
        manager = HttpSandboxManager(base_url=server.url, timeout=60)
        with pytest.raises(RuntimeError, match='Manager not started'):
            await manager.create_sandbox(SandboxType.DOCKER)
        async with manager:
            config = DockerSandboxConfig(tools_config=['shell_executor'], memory_limit='256m')
            mine = await manager.create_sandbox(SandboxType.DOCKER, config)
            info = await manager.get_sandbox_info(mine)
            assert info is not None
            assert (info.status, list(info.available_tools)) == (SandboxStatus.RUNNING, ['shell_executor'])
            assert await manager.put_dir(mine, tmp_path, '/tree') is True
            result = await manager.execute_tool(mine, 'shell_executor', {'command': ['cat', '/tree/f']})
            assert result.output == 'sent'
            for wrong in (('none', 'shell_executor'), (mine, 'none')):
                with pytest.raises(ValueError, match='not'):
                    await manager.execute_tool(*wrong, {})
            with pytest.raises(RuntimeError, match='HTTP 400: Failed to create sandbox'):
                await manager.create_sandbox('dummy')
            for call in (manager.create_sandbox, partial(manager.initialize_pool, 1)):
                with pytest.raises(RuntimeError, match='cpu_limit'):
                    await call('docker', {'cpu_limit': -1})
            with pytest.raises(RuntimeError, match='allow_pull = true'):
                await manager.create_sandbox('docker', {'image': 'not/there:1'})
            with pytest.raises(ValueError, match='empty'):
                await manager.put_archive(mine, '/tree', b'')
            with pytest.raises(ValueError, match='pool is empty'):
                await manager.execute_tool_in_pool('shell_executor', {})
            ids = await manager.initialize_pool(1, SandboxType.DOCKER, config)
            assert list(manager._sandbox_pool) == ids
            assert (await manager.execute_tool_in_pool('shell_executor', {'command': 'echo x'})).output == 'x\n'
            assert {info.id for info in await manager.list_sandboxes()} >= {mine, made, *ids}
            assert (await manager.health_check())['healthy'] is True
            stats = await manager.get_stats()
            assert (stats['manager_type'], stats['tracked_sandboxes'], stats['pool_size']) == ('http', 2, 1)
            assert await manager.stop_sandbox(mine) is True
            assert await manager.stop_sandbox('none') is False
        left = [each['id'] for each in ask(server, 'GET', '/sandboxes').json()]
        assert made in left
        assert not {mine, *ids} & set(left)

    asyncio.run(main())


def test_a_server_that_does_not_answer_is_reported_as_documented() -> None:
    async def main() -> None:
        async with HttpSandboxManager(base_url='http://127.0.0.1:9', timeout=5) as manager:
            health = await manager.health_check()
            assert health['healthy'] is False
            assert 'refused' in health['error']
            assert 'is the server running?' in health['error']
            assert 'error' in await manager.get_stats()
            assert await manager.get_sandbox_info('x') is None
            assert await manager.list_sandboxes() == []
            assert await manager.delete_sandbox('x') is False
            with pytest.raises(RuntimeError):
                await manager.create_sandbox(SandboxType.DOCKER)

    asyncio.run(main())


@pytest.mark.parametrize('text', [b'<html>another program</html>', b'{"of": "another program"}', b'[]'])
def test_what_answers_and_is_no_server_of_sandboxes_is_reported_as_that(text: bytes) -> None:
    class Other(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers['Content-Length']))
            self.send_response(200)
            self.send_header('Content-Length', str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: Any) -> None: ...

    async def main(url: str) -> None:
        async with HttpSandboxManager(base_url=url, timeout=0) as manager:  # which is no limit
            with pytest.raises(RuntimeError, match=r'no server of sandboxes.*check base_url'):
                await manager.create_sandbox(SandboxType.DOCKER)
            with pytest.raises(RuntimeError, match=r'no server of sandboxes.*check base_url'):
                await manager.initialize_pool(1)

    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Other) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        try:
            asyncio.run(main(f'http://127.0.0.1:{other.server_port}'))
        finally:
            other.shutdown()


def test_a_server_that_is_full_is_asked_again() -> None:
    made = create_server(policy={'max_concurrent_calls': 1}, stop_grace=0.0)

    async def main(url: str) -> None:
        async with HttpSandboxManager(base_url=url) as manager:
            config = DockerSandboxConfig(tools_config=['shell_executor'], memory_limit='256m')
            only = await manager.create_sandbox(SandboxType.DOCKER, config)
            calls = (
                manager.execute_tool(only, 'shell_executor', {'command': f'sleep 0.2; echo {n}'}) for n in range(3)
            )
            assert [each.output for each in await asyncio.gather(*calls)] == ['0\n', '1\n', '2\n']

    with made.running() as url:
        asyncio.run(main(url))


def test_a_notebook_over_http_needs_no_port_of_the_servers_host(server: SandboxServer) -> None:
    async def main() -> None:
        async with HttpSandboxManager(base_url=server.url) as manager:
            config = DockerNotebookConfig(tools_config=['notebook_executor'])
            ids = [await manager.create_sandbox('docker_notebook', config) for _ in range(2)]
            result = await manager.execute_tool(ids[0], 'notebook_executor', {'code': 'a = 6\na * 7'})
            assert result.output == '\nResult: 42'

    asyncio.run(main())


# Who may come in


@covers(10, 'key as X-API-Key')
@covers(12, 'the documented key', 'key in the query', 'CORS')
def test_a_short_key_is_the_key_and_travels_in_a_header(caplog: pytest.LogCaptureFixture) -> None:
    made = create_server(cleanup_interval=300, api_key='your-secret-key', stop_grace=0.0)
    assert made.api_key == 'your-secret-key'
    assert any('15 characters' in record.getMessage() for record in caplog.records)
    with made.running() as url:
        assert requests.get(f'{url}/health', timeout=PATIENCE).status_code == 401
        assert 'detail' in requests.get(f'{url}/health', timeout=PATIENCE).json()
        refused = requests.get(f'{url}/health?api_key=your-secret-key', timeout=PATIENCE)
        assert (refused.status_code, 'X-API-Key' in refused.json()['detail']) == (401, True)
        headers = {'X-API-Key': 'your-secret-key'}
        assert requests.get(f'{url}/health', headers=headers, timeout=PATIENCE).status_code == 200
        page = requests.get(f'{url}/health', headers={**headers, 'Origin': 'http://evil.example'}, timeout=PATIENCE)
        assert page.status_code == 403
        assert 'Access-Control-Allow-Origin' not in page.headers
    beside = create_server(config=SandboxManagerConfig(cleanup_interval=600), api_key='never-dropped', stop_grace=0.0)
    with beside.running() as url:
        assert (beside.api_key, requests.get(f'{url}/health', timeout=PATIENCE).status_code) == ('never-dropped', 401)
    configured = create_server(config=SandboxManagerConfig(cleanup_interval=600, api_key='k' * 20), api_key='other')
    assert configured.api_key == 'k' * 20


@covers(12, 'open by default', 'default address')
def test_a_server_for_other_machines_makes_a_key_and_prints_how_a_client_gets_in(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
    program = (
        f'from ms_enclave.sandbox import create_server; create_server().run(port={port}, log_level="info", workers=1)'
    )
    env = {**environment(), 'XDG_STATE_HOME': str(tmp_path)}
    started = subprocess.Popen([sys.executable, '-c', program], env=env, stderr=subprocess.PIPE, text=True)
    try:
        lines = []
        assert started.stderr is not None
        for line in started.stderr:
            lines.append(line)
            if 'api_key=' in line:
                break
        printed = ''.join(lines)
        assert 'API key' in printed
        assert "'workers'" in printed
        url = f'http://127.0.0.1:{port}/health'
        refused = requests.get(url, timeout=PATIENCE)
        assert (refused.status_code, 'API key' in refused.json()['detail']) == (401, True)
        key = next(line.split()[-1] for line in lines if 'API key (' in line)
        assert requests.get(url, headers={'X-API-Key': key}, timeout=PATIENCE).status_code == 200
    finally:
        started.terminate()
        started.communicate(timeout=60)


def test_the_documented_start_from_python_serves() -> None:
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]

    with running_server(port) as url:
        assert requests.get(f'{url}/health', timeout=PATIENCE).json()['version'] == '1.0.0'


def test_the_servers_application_runs_under_asgi() -> None:
    made = create_server(stop_grace=0.0)
    sent: list[dict[str, Any]] = []
    scope = {
        'type': 'http',
        'method': 'GET',
        'path': '/health',
        'query_string': b'',
        'headers': [(b'host', b'127.0.0.1')],
        'server': ('127.0.0.1', 80),
    }

    async def receive() -> dict[str, Any]:
        return {'type': 'http.request', 'body': b'', 'more_body': False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    async def main() -> None:
        await made.app(scope, receive, send)
        scope['server'] = ('10.0.0.1', 80)
        await made.app(scope, receive, send)

    asyncio.run(main())
    made.stop()
    statuses = [message['status'] for message in sent if message['type'] == 'http.response.start']
    assert statuses == [200, 401]
    assert made.start_time <= time.time()
