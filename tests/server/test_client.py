"""What the client says when things go wrong, and what it mends by itself."""

from __future__ import annotations

import os
import pickle
import socket
import stat
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from enclave.cancellation import on_cancel
from enclave.errors import (
    AuthenticationError,
    CallCancelledError,
    ConfigurationError,
    EnclaveError,
    ManagerStoppedError,
    OperationTimeoutError,
    PolicyError,
    RequestTooLargeError,
    SandboxNotFoundError,
    ServerError,
    ServerUnavailableError,
    UnsupportedError,
)
from enclave.managers import keyfile
from enclave.managers.http import HttpSandboxManager
from enclave.managers.manager_factory import SandboxManagerFactory
from enclave.managers.output_frames import OUTPUT_FRAMES
from enclave.managers.remote import RemoteSandbox
from enclave.rulings import SHARED
from enclave.sandboxes.sandbox_factory import SandboxFactory
from enclave.server.routes import PIECE_BYTES
from tests.server.conftest import CONFIG, Connect, Serve
from tests.support.sandbox import PATIENCE, FakeBackend, FakeSandbox
from tests.support.sockets import answering

SECRET = 'a-secret-of-some-length'


def test_nothing_is_connected_before_it_is_needed() -> None:
    manager = HttpSandboxManager('http://127.0.0.1:9')

    assert repr(manager) == f'<HttpSandboxManager {manager.id} http://127.0.0.1:9>'
    manager.stop()
    manager.stop()
    with pytest.raises(ManagerStoppedError):
        manager.list_sandboxes()


@pytest.mark.parametrize('url', ['ftp://x', 'http://', '127.0.0.1:8000', 'http://user:pw@host', 'http://h?x=1'])
def test_impossible_addresses_are_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match='base_url'):
        HttpSandboxManager(base_url=url)


def test_without_an_address_it_says_what_to_give(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match='ENCLAVE_URL'):
        HttpSandboxManager()
    monkeypatch.setenv('ENCLAVE_URL', 'http://127.0.0.1:9')
    assert HttpSandboxManager().base_url == 'http://127.0.0.1:9'


def test_the_factory_makes_it_of_an_address() -> None:
    assert isinstance(SandboxManagerFactory.create_manager(base_url='http://127.0.0.1:9'), HttpSandboxManager)


def test_nobody_there(connect: Connect) -> None:
    manager = connect('http://127.0.0.1:9')

    with pytest.raises(ServerUnavailableError, match=r'refuses connections.*ms-enclave server') as info:
        manager.list_sandboxes()
    assert isinstance(info.value, ConnectionError)
    health = manager.health_check()
    assert not health.healthy
    assert 'refuses connections' in health.details['error']


def test_a_name_that_nobody_has(connect: Connect) -> None:
    with pytest.raises(ServerUnavailableError):
        connect('http://no-such-host.invalid').list_sandboxes()


def test_not_a_server_of_ours(connect: Connect) -> None:
    with (
        answering(b'HTTP/1.1 200 OK\r\nServer: other\r\nContent-Length: 2\r\n\r\n[]') as url,
        pytest.raises(ServerUnavailableError, match=r'not an enclave server.*Server: other'),
    ):
        connect(url).list_sandboxes()


def test_not_http_at_all(connect: Connect) -> None:
    with answering(b'220 smtp.example ESMTP\r\n') as url, pytest.raises(ServerUnavailableError):
        connect(url).list_sandboxes()


def test_a_server_that_closes_without_a_word(connect: Connect) -> None:
    with answering(None) as url, pytest.raises(ServerUnavailableError):
        connect(url).list_sandboxes()


def test_a_server_that_is_too_old(connect: Connect) -> None:
    answer = b'HTTP/1.1 200 OK\r\nX-Enclave-Protocol: 0\r\nContent-Length: 2\r\n\r\n[]'

    with answering(answer) as url, pytest.raises(ServerUnavailableError, match='too old'):
        connect(url).list_sandboxes()


def test_a_verb_the_server_does_not_have(connect: Connect) -> None:
    body = b'{"code":"not-found","message":"no","details":{"reason":"route"}}'
    head = b'HTTP/1.1 404 X\r\nX-Enclave-Protocol: 1\r\nX-Enclave-Version: 2.0.0\r\nContent-Length: %d\r\n\r\n' % len(
        body
    )

    with answering(head + body) as url, pytest.raises(UnsupportedError, match=r'2\.0\.0.*too old'):
        connect(url).list_sandboxes()


def test_an_answer_nobody_understands(connect: Connect) -> None:
    answer = b'HTTP/1.1 200 OK\r\nX-Enclave-Protocol: 1\r\nContent-Length: 9\r\n\r\n[{"a":1}]'

    with answering(answer) as url, pytest.raises(EnclaveError, match='does not understand'):
        connect(url).list_sandboxes()


@pytest.mark.parametrize(
    'body',
    [
        struct.pack('>BI', 5, 2) + b'[]',
        struct.pack('>BI', 5, 11) + b'{"code": 1}',
        struct.pack('>BI', 5, 1) + b'x',
        struct.pack('>BI', 1, 0),
        struct.pack('>BI', 3, 2) + b'{}',
        struct.pack('>BI', 3, 12) + b'[1,[[[],1]]]',
        struct.pack('>BI', 3, 16) + b'[{},[["a",9,1]]]',
        struct.pack('>BI', 1, 1 << 31) + b'x',
    ],
)
def test_output_in_frames_that_nobody_understands(connect: Connect, body: bytes) -> None:
    head = f'HTTP/1.1 200 OK\r\nX-Enclave-Protocol: 1\r\nContent-Type: {OUTPUT_FRAMES}\r\n'.encode()
    in_chunks = b'Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n' % (len(body), body)

    for rest in (in_chunks, b'Content-Length: %d\r\n\r\n%b' % (len(body), body)):
        with answering(head + rest) as url, pytest.raises(ServerError, match='does not understand'):
            connect(url).list_sandboxes()


def test_a_broken_connection_is_mended_where_a_repeat_is_safe(
    serve: Serve, connect: Connect, backend: FakeBackend
) -> None:
    server = serve()
    manager = connect(server)
    sandbox_id = manager.create_sandbox('fake', CONFIG)

    for channel in list(server._waitress.active_channels.values()):
        channel.socket.shutdown(2)  # as a server or a proxy does that has grown tired of an idle connection

    assert manager.execute_tool(sandbox_id, 'shell_executor', {'command': 'echo on'}).output == 'on\n'


def test_a_client_that_leaves_a_download_is_no_fault_of_the_server(
    backend: FakeBackend, serve: Serve, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    left = threading.Event()

    class Slow(FakeSandbox):
        def read_chunks(self, path: str, **_options: Any) -> Iterator[bytes]:
            with on_cancel(left.set):
                yield bytes(PIECE_BYTES)
                assert left.wait(PATIENCE)
            raise CallCancelledError('the download was cancelled')

    SandboxFactory.register_sandbox('slow', type('SlowSandbox', (Slow,), {'backend': backend}), rulings=SHARED)
    server = serve()
    with connect(server) as manager:
        url = f'{server.url}/sandbox/{manager.create_sandbox("slow")}/file'
        manager.execute_command(manager.list_sandboxes()[0].id, 'head -c 1000000 /dev/zero > big')
        with requests.get(url, params={'path': 'big'}, stream=True, timeout=PATIENCE) as answer:
            assert next(answer.iter_content(1000))
        assert left.wait(PATIENCE)
    server.stop()

    assert [record.getMessage() for record in caplog.records if record.exc_info or record.levelname == 'ERROR'] == []


def test_a_server_that_is_gone(serve: Serve, connect: Connect) -> None:
    server = serve()
    manager = connect(server)
    sandbox_id = manager.create_sandbox('fake', CONFIG)
    server.stop()

    with pytest.raises(ServerUnavailableError):
        manager.get_sandbox_info(sandbox_id)


def test_time_limits_of_connecting_and_answering(serve: Serve, connect: Connect, backend: FakeBackend) -> None:
    server = serve()
    manager = connect(server, timeout=0.2)
    sandbox_id = manager.create_sandbox('fake', CONFIG)
    held = manager.submit('execute_command', sandbox_id, 'hold')
    backend.wait_until(lambda: backend.holding == 1)

    with pytest.raises(OperationTimeoutError, match='did not answer'):
        manager._transport.call('POST', f'/sandbox/{sandbox_id}/command', dict, body={'command': 'hold'})
    for ask in (manager, manager.get_sandbox(sandbox_id)):
        at = (sandbox_id,) if ask is manager else ()
        with pytest.raises(OperationTimeoutError, match='did not answer'):
            ask.execute_tool(*at, 'shell_executor', {'command': 'hold', 'timeout': 0.1})
    held.cancel()
    assert held.result(30).status == 'cancelled'


@pytest.mark.skipif(not hasattr(socket, 'TCP_USER_TIMEOUT'), reason='Linux alone has it')
def test_a_server_that_is_lost_is_noticed_while_nothing_comes_and_while_something_is_sent(
    serve: Serve, connect: Connect
) -> None:
    manager = connect(serve())
    manager.list_sandboxes()
    quick = manager._transport._quick
    assert quick is not None
    (connection,) = quick._resting

    assert connection.sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    assert connection.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) <= 30
    assert 0 < connection.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) <= 120_000


# Keys -----------------------------------------------------------------------------------------------------------------


def test_a_refused_key(serve: Serve, connect: Connect) -> None:
    server = serve(api_key=SECRET)

    with pytest.raises(AuthenticationError, match='needs an API key') as info:
        connect(server).list_sandboxes()
    assert isinstance(info.value, PermissionError)
    with pytest.raises(AuthenticationError, match='not one it knows'):
        connect(server, api_key='not-the-right-one').start()
    assert connect(server, api_key=SECRET).list_sandboxes() == []


def test_a_key_in_the_environment(serve: Serve, connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('ENCLAVE_API_KEY', SECRET)
    server = serve()

    assert connect(server).list_sandboxes() == []
    monkeypatch.delenv('ENCLAVE_API_KEY')
    with pytest.raises(AuthenticationError):
        connect(server).list_sandboxes()


def test_another_address_than_loopback_has_a_key_that_only_this_user_finds(serve: Serve, connect: Connect) -> None:
    server = serve('0.0.0.0')
    path = keyfile.key_folder() / f'{server.port}.json'

    assert server.generated_key is not None
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    manager = connect(f'http://127.0.0.1:{server.port}')
    assert manager.list_sandboxes() == []
    path.unlink()
    with pytest.raises(AuthenticationError):
        connect(f'http://127.0.0.1:{server.port}').list_sandboxes()


def test_the_key_file_goes_with_the_server(serve: Serve) -> None:
    server = serve('0.0.0.0')
    path = keyfile.key_folder() / f'{server.port}.json'
    assert path.exists()

    server.stop()

    assert not path.exists()


def test_files_that_others_could_have_written_are_not_trusted(serve: Serve) -> None:
    path = keyfile.write_key(4711, SECRET)
    assert keyfile.find_key('http://localhost:4711') == SECRET

    path.chmod(0o644)
    assert keyfile.find_key('http://localhost:4711') is None
    path.chmod(0o600)
    assert keyfile.find_key('http://sandboxes.example:4711') is None
    assert keyfile.find_key('http://127.0.0.1:4712') is None
    path.write_text(f'{{"key": "{SECRET}", "pid": 0, "port": 4711}}')
    assert keyfile.find_key('http://127.0.0.1:4711') is None
    path.write_text('nonsense')
    assert keyfile.find_key('http://127.0.0.1:4711') is None
    target = path.parent / 'elsewhere'
    os.replace(keyfile.write_key(4711, SECRET), target)
    path.symlink_to(target)
    assert keyfile.find_key('http://127.0.0.1:4711') is None


def test_insecure_has_to_be_said(serve: Serve, connect: Connect, caplog: pytest.LogCaptureFixture) -> None:
    server = serve('0.0.0.0', insecure=True)

    assert connect(f'http://127.0.0.1:{server.port}').list_sandboxes() == []
    assert 'INSECURE' in caplog.text
    with pytest.raises(ConfigurationError, match='insecure'):
        serve(insecure=True, api_key=SECRET)


# Errors and bodies ----------------------------------------------------------------------------------------------------


def test_errors_are_those_of_a_local_manager(serve: Serve, connect: Connect) -> None:
    manager = connect(serve())

    with pytest.raises(SandboxNotFoundError, match='ghost') as info:
        manager.get_sandbox_info('ghost')
    assert isinstance(info.value, LookupError)
    assert pickle.loads(pickle.dumps(info.value)).details == {'sandbox_id': 'ghost'}
    with pytest.raises(PolicyError, match='privileged'):
        manager.create_sandbox('docker', {'privileged': True})
    for impossible in ('', '..', 'a/b', '?', 'ä'):
        with pytest.raises(SandboxNotFoundError):
            manager.get_sandbox_info(impossible)


def test_a_body_over_the_limit(serve: Serve, connect: Connect, tmp_path: Path) -> None:
    manager = connect(serve(policy={'max_upload_bytes': 2 << 20, 'max_json_bytes': 4096}))
    sandbox_id = manager.create_sandbox('fake', CONFIG)

    with pytest.raises(RequestTooLargeError, match='2097152'):
        manager.put_file(sandbox_id, b'x' * (3 << 20), 'big')
    with pytest.raises(RequestTooLargeError, match='4096'):
        manager.execute_tool(sandbox_id, 'shell_executor', {'command': 'x' * 5000})
    assert manager.put_file(sandbox_id, b'x' * (2 << 20), 'fits') == 2 << 20


def test_a_source_that_fails_says_so_itself(serve: Serve, connect: Connect, tmp_path: Path) -> None:
    manager = connect(serve())
    sandbox_id = manager.create_sandbox('fake', CONFIG)

    def pieces():  # type: ignore[no-untyped-def]
        yield b'one'
        raise ZeroDivisionError('the source failed')

    with pytest.raises(ZeroDivisionError, match='the source failed'):
        manager.put_file(sandbox_id, pieces(), 'x')
    with pytest.raises(FileNotFoundError):
        manager.put_file(sandbox_id, str(tmp_path / 'missing'), 'x')


def test_a_remote_sandbox_is_used_like_a_local_one(serve: Serve, connect: Connect) -> None:
    manager = connect(serve())

    with manager.open('fake', CONFIG) as sandbox:
        assert isinstance(sandbox, RemoteSandbox)
        assert sandbox.execute_tool('shell_executor', {'command': 'echo hi'}).output == 'hi\n'
        assert sandbox.run_script(['sh'], 'echo "script $1"', args=['one']).stdout == 'script one\n'
        assert sandbox.write_file('a.txt', 'text') == 4
        assert sandbox.read_file('a.txt', offset=1, max_bytes=2) == b'ex'
        assert sandbox.path_exists('a.txt')
        assert [each.path for each in sandbox.list_dir()] == ['a.txt']
        assert sandbox.write_file('n\udcff \u00e4&=?#', b'odd') == 3
        assert sandbox.read_file('n\udcff \u00e4&=?#') == b'odd'
        sandbox.remove_path('n\udcff \u00e4&=?#')
        sandbox.move_path('a.txt', 'b.txt')
        sandbox.copy_path('b.txt', 'c.txt')
        sandbox.move_path('c.txt', 'b.txt', overwrite=True)
        sandbox.remove_path('b.txt')
        assert not sandbox.path_exists('b.txt')
        assert sandbox.list_tools() == CONFIG['tools_config']
        assert sandbox.status == 'running'
        assert sandbox.is_alive()
        with pytest.raises(UnsupportedError):
            sandbox.forward_port(80)
    assert sandbox.status == 'stopped'
