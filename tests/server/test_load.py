"""The server under load, beside slow and vanishing clients, and at its end."""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable
from typing import Any

import pytest
import requests

from enclave.cancellation import Cancellation
from enclave.errors import CallCancelledError, ManagerStoppedError, ServerUnavailableError
from enclave.languages.values import CodeRequest, CodeResult, StepResult
from enclave.managers import table
from enclave.managers.local import LocalSandboxManager
from enclave.server import app, idempotency
from enclave.server.policy import Policy
from enclave.server.serve import SandboxServer, _ClientChannel, create_server
from enclave.testing.kinds import wait_until
from tests.server.conftest import CONFIG, Connect, Serve
from tests.support.sandbox import FakeBackend
from tests.support.sockets import connected, read_all, read_head, talk

PATIENCE = 120.0


def post(path: str, body: Any, **headers: str) -> bytes:
    data = json.dumps(body).encode()
    lines = ''.join(f'{name.replace("_", "-")}: {value}\r\n' for name, value in headers.items())
    head = f'POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{lines}'
    return f'{head}Content-Length: {len(data)}\r\n\r\n'.encode() + data


# Room -----------------------------------------------------------------------------------------------------------------


def test_executions_starve_nothing_else(serve: Serve, connect: Connect, backend: FakeBackend) -> None:
    server = serve(policy={'max_concurrent_calls': 4})
    manager = connect(server, max_workers=16)
    ids = [manager.create_sandbox('fake', CONFIG) for _ in range(4)]
    held = [manager.submit('execute_command', sandbox_id, 'hold') for sandbox_id in ids]
    backend.wait_until(lambda: backend.holding == 4)

    assert requests.get(f'{server.url}/health', timeout=PATIENCE).json()['healthy']
    assert len(manager.list_sandboxes()) == 4
    full = requests.post(f'{server.url}/sandbox/{ids[0]}/command', json={'command': 'true'}, timeout=PATIENCE)
    assert (full.status_code, full.json()['code']) == (429, 'too-many-requests')
    assert int(full.headers['Retry-After']) >= 1
    assert manager.delete_sandbox(ids[0])
    assert manager.stop_sandbox(ids[1])

    for future in held[2:]:
        future.cancel()
        assert future.result(PATIENCE).status == 'cancelled'


def test_a_client_waits_for_room(serve: Serve, connect: Connect, backend: FakeBackend) -> None:
    manager = connect(serve(policy={'max_concurrent_calls': 1}))
    sandbox_id = manager.create_sandbox('fake', CONFIG)
    held = manager.submit('execute_command', sandbox_id, 'hold')
    backend.wait_until(lambda: backend.holding == 1)

    waiting = manager.submit('execute_command', sandbox_id, 'echo after')
    assert not waiting.done()
    held.cancel()

    assert waiting.result(PATIENCE).stdout == 'after\n'


def _waits(server: SandboxServer) -> int:
    assert server.service is not None
    return server.service.lanes.waiting


def _cancelled_while_it_waits(server: SandboxServer, backend: FakeBackend, call: Callable[[], Any]) -> list[Exception]:
    """Make a call that has to wait for its turn, cancel it, and return what it raised."""
    cancellation, errors = Cancellation(), []

    def run() -> None:
        with cancellation.applied():
            try:
                call()
            except CallCancelledError as error:
                errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    backend.wait_until(lambda: _waits(server) == 1)
    cancellation.cancel()
    thread.join(PATIENCE)
    assert not thread.is_alive()
    return errors


def test_cancelling_reaches_a_call_that_waits_for_its_turn(
    serve: Serve, connect: Connect, backend: FakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, 'CALL_PATIENCE_SECONDS', 10 * PATIENCE)
    server = serve(policy={'max_concurrent_calls': 1})
    manager = connect(server)
    sandbox_id = manager.create_sandbox('fake', CONFIG)
    held = manager.submit('execute_command', sandbox_id, 'hold')
    backend.wait_until(lambda: backend.holding == 1)

    errors = _cancelled_while_it_waits(server, backend, lambda: manager.execute_command(sandbox_id, 'echo no'))

    assert len(errors) == 1
    assert (_waits(server), backend.holding) == (0, 1)
    held.cancel()
    assert held.result(PATIENCE).status == 'cancelled'
    assert manager.execute_command(sandbox_id, 'echo next').stdout == 'next\n'


def test_a_program_that_is_cancelled_while_it_waits_for_its_turn_never_runs(
    serve: Serve, connect: Connect, backend: FakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, may_end = threading.Event(), threading.Event()
    ran: list[str] = []

    def run(self: LocalSandboxManager, request: CodeRequest, **_: Any) -> CodeResult:
        ran.append(request.code)
        began.set()
        assert may_end.wait(PATIENCE)
        return CodeResult(language='python', run=StepResult(command=['x'], status='success'))

    monkeypatch.setattr(LocalSandboxManager, 'run_code_in_pool', run)
    server = serve(policy={'max_concurrent_calls': 1})
    manager = connect(server)
    manager.initialize_pool(1, 'fake', CONFIG)
    held = manager.submit('run_code_in_pool', CodeRequest(language='python', code='first'))
    try:
        assert began.wait(PATIENCE)

        errors = _cancelled_while_it_waits(
            server, backend, lambda: manager.run_code_in_pool(CodeRequest(language='python', code='second'))
        )

        assert len(errors) == 1
        assert _waits(server) == 0
    finally:
        may_end.set()
    held.result(PATIENCE)
    manager.run_code_in_pool(CodeRequest(language='python', code='third'))
    assert ran == ['first', 'third']


# Clients that go away -------------------------------------------------------------------------------------------------


def test_a_client_that_goes_away_cancels_its_call(serve: Serve, connect: Connect, backend: FakeBackend) -> None:
    server = serve()
    sandbox_id = connect(server).create_sandbox('fake', CONFIG)

    with connected(server.port) as connection:
        connection.sendall(post(f'/sandbox/{sandbox_id}/command', {'command': 'hold'}))
        backend.wait_until(lambda: backend.holding == 1)

    backend.wait_until(lambda: backend.holding == 0)


def test_one_that_may_come_back_gets_a_moment_and_the_answer(
    serve: Serve, connect: Connect, backend: FakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idempotency, 'RETURN_SECONDS', PATIENCE)
    server = serve()
    manager = connect(server)
    sandbox_id = manager.create_sandbox('fake', CONFIG)
    request = post(
        f'/sandbox/{sandbox_id}/command', {'command': 'hold'}, Idempotency_Key='come-back', Connection='close'
    )

    with connected(server.port) as connection:
        connection.sendall(request)
        backend.wait_until(lambda: backend.holding == 1)
    with connected(server.port) as connection:
        connection.sendall(request)
        assert server.service is not None
        sandbox: Any = server.service.tenant(None).manager.get_sandbox(sandbox_id)
        sandbox.let_go()
        answer = read_all(connection)

    assert b'200 OK' in answer
    assert b'"status":"success"' in answer
    assert backend.holding == 0


def test_cancelling_reaches_the_sandbox(serve: Serve, connect: Connect, backend: FakeBackend) -> None:
    manager = connect(serve())
    sandbox_id = manager.create_sandbox('fake', CONFIG)
    cancellation = Cancellation()
    results: list[Any] = []

    def call() -> None:
        with cancellation.applied():
            results.append(manager.execute_command(sandbox_id, 'hold'))

    thread = threading.Thread(target=call)
    thread.start()
    backend.wait_until(lambda: backend.holding == 1)
    cancellation.cancel()
    thread.join(PATIENCE)

    assert results[0].status == 'cancelled'
    assert manager.execute_command(sandbox_id, 'echo still there').stdout == 'still there\n'


def test_a_creation_given_up_leaves_nothing(
    serve: Serve, connect: Connect, backend: FakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table, 'UNDO_SECONDS', 0.1)  # it cannot go before `may_start`
    server = serve()
    backend.may_start.clear()

    with connected(server.port) as connection:
        connection.sendall(post('/sandbox/create?sandbox_type=fake', CONFIG))
        backend.wait_until(lambda: backend.starting == 1)
    assert server.service is not None
    manager = server.service.tenant(None).manager
    assert server.service.lanes.wait_empty(PATIENCE), 'it is given up although it has not ended'
    backend.may_start.set()

    deadline = time.monotonic() + PATIENCE
    while manager.list_sandboxes() and time.monotonic() < deadline:
        threading.Event().wait(0.01)
    assert manager.list_sandboxes() == []


# Slow ones ------------------------------------------------------------------------------------------------------------


def test_twenty_slow_connections_beside_a_healthy_client(serve: Serve, connect: Connect) -> None:
    server = serve(policy={'request_timeout': 0.3, 'min_upload_rate': 1e6})
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(connected(server.port)) for _ in range(20)]
        for number, connection in enumerate(slow):
            head = b'POST /sandbox/create HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n'
            parts = (b'', b'GET /heal', head, head + b'Content-Length: 100000\r\n\r\n{')
            connection.sendall(parts[number % 4])

        manager = connect(server)
        sandbox_id = manager.create_sandbox('fake', CONFIG)
        assert manager.execute_tool(sandbox_id, 'shell_executor', {'command': 'echo well'}).output == 'well\n'
        assert [read_all(connection) for connection in slow] == [b''] * 20, 'each is closed in time'


def test_a_client_that_takes_nothing_of_its_answer_is_given_up(serve: Serve, connect: Connect) -> None:
    server = serve(policy={'send_timeout': 0.3})
    manager = connect(server)
    sandbox_id = manager.create_sandbox('fake', CONFIG)
    manager.put_file(sandbox_id, b'x' * (40 << 20), 'big')
    assert server.service is not None

    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(('127.0.0.1', server.port))
        connection.sendall(f'GET /sandbox/{sandbox_id}/file?path=big HTTP/1.1\r\nHost: localhost\r\n\r\n'.encode())
        read_head(connection)
        assert server.service.lanes.wait_empty(PATIENCE)


def test_a_client_that_takes_its_answer_byte_by_byte_is_given_up(serve: Serve, connect: Connect) -> None:
    server = serve(policy={'send_timeout': 0.5, 'min_download_rate': 1e12})
    manager = connect(server)
    sandbox_id = manager.create_sandbox('fake', CONFIG)
    manager.put_file(sandbox_id, b'x' * (40 << 20), 'big')

    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(PATIENCE)
        connection.connect(('127.0.0.1', server.port))
        connection.sendall(f'GET /sandbox/{sandbox_id}/file?path=big HTTP/1.1\r\nHost: localhost\r\n\r\n'.encode())
        taken = 0
        with contextlib.suppress(ConnectionError):
            while taken < 40 << 20 and connection.recv(1):
                taken += 1
        assert taken < 40 << 20


def test_what_a_client_must_take_is_counted_over_twice_the_send_timeout() -> None:
    channel = types.SimpleNamespace(total_outbufs_len=10_000, written_bytes=10_000, observed=None)
    policy = Policy(send_timeout=60.0, min_download_rate=100.0)

    def looked_at(now: float, waiting: int, written: int) -> bool:
        channel.total_outbufs_len, channel.written_bytes = waiting, written
        return _ClientChannel.takes_too_little(channel, now, policy)  # type: ignore[arg-type]

    assert not looked_at(0.0, 50_000, 50_000), 'nothing was taken yet'
    assert not looked_at(119.0, 49_999, 50_000), 'it has time'
    assert not looked_at(120.0, 38_000, 50_000), 'it took 100 bytes a second'
    assert not looked_at(200.0, 38_000, 50_000)
    assert looked_at(240.0, 37_000, 60_000 - 10_001), 'it took one byte less, and what it took before does not count'


# What waitress should stop --------------------------------------------------------------------------------------------

HEAD = b'POST /sandbox/create HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n'


@pytest.mark.parametrize(
    'request_bytes',
    [
        HEAD + b'Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello',
        HEAD + b'Content-Length: +5\r\n\r\nhello',
        HEAD + b'Content-Length: 5, 5\r\n\r\nhello',
        HEAD + b'Content-Length: -1\r\n\r\n',
        HEAD + b'Content-Length: ' + b'9' * 5000 + b'\r\n\r\n',
        HEAD + b'Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n',
        HEAD + b'Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n',
        HEAD + b'Transfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n0\r\n\r\n',
        HEAD + b'Transfer-Encoding: chunked\r\n\r\n5\r\nhelloX\r\n0\r\n\r\n',
        HEAD + b'X-Bad : space\r\n\r\n',
        HEAD + b'X-Bad\r\n\r\n',
        HEAD + b'X-Bad: a\nX-Worse: b\r\n\r\n',
        b'GET / HTTP/1.1\r\nHost: localhost\r\nX: ' + b'a' * 100_000 + b'\r\n\r\n',
        b'get /health HTTP/1.1\r\nHost: localhost\r\n\r\n',
        b'\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n',
    ],
)
def test_smuggling_is_refused_and_the_connection_closed(serve: Serve, request_bytes: bytes) -> None:
    smuggled = b'GET /sandboxes HTTP/1.1\r\nHost: localhost\r\nX-Request-ID: smuggled\r\n\r\n'

    answer = talk(serve().port, request_bytes + smuggled)

    status = int(answer.split(b' ', 2)[1])
    assert status in (400, 431, 501), answer
    assert b'smuggled' not in answer
    body = json.loads(answer.partition(b'\r\n\r\n')[2])
    assert set(body) == {'code', 'message', 'details', 'detail'}


@pytest.mark.parametrize('path', ['/run_code', '/e2b/sandboxes', '/e2b/files'])
@pytest.mark.parametrize(
    ('query', 'key', 'status'),
    [
        ('a=1&' * 70, 'X-API-Key: a-secret-of-some-length', 400),
        ('a=1&' * 70, 'X-API-Key: no-key-of-this-server', 400),
        ('', 'Authorization: Basic \xff', 401),
    ],
)
def test_a_head_that_cannot_be_read_is_answered(
    serve: Serve, path: str, query: str, key: str, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    server = serve(api_key='a-secret-of-some-length')
    head = f'POST {path}?{query} HTTP/1.1\r\nHost: localhost\r\n{key}\r\nConnection: close\r\n'

    chunked = talk(server.port, f'{head}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n'.encode('latin-1'))
    short = talk(server.port, f'{head}Content-Length: 2\r\n\r\n{{}}'.encode('latin-1'))

    assert int(chunked.split(b' ', 2)[1]) == status, chunked
    if not query:
        assert int(short.split(b' ', 2)[1]) == status, short
    assert 'Traceback' not in caplog.text


def test_a_stranger_sends_no_large_body(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, 'enclave.server.audit')
    server = serve(api_key='a-secret-of-some-length')

    with connected(server.port) as connection:
        head = b'PUT /sandbox/x/file?path=y HTTP/1.1\r\nHost: localhost\r\nContent-Length: 900000000\r\n\r\n'
        connection.sendall(head)
        answer = read_all(connection)

    assert answer.startswith(b'HTTP/1.1 401'), answer
    assert json.loads(answer.partition(b'\r\n\r\n')[2])['code'] == 'authentication'
    server.stop()
    assert '"path":"/sandbox/x/file"' in caplog.text


@pytest.mark.parametrize(
    'head',
    [
        b'PUT /sandbox/x/file?path=y HTTP/1.1\r\nContent-Length: 3000000000',
        b'POST /sandbox/create HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 300000000',
    ],
)
def test_a_body_over_the_limit_is_refused_by_its_head(serve: Serve, head: bytes) -> None:
    answer = talk(serve().port, head + b'\r\nHost: localhost\r\n\r\n')

    assert answer.startswith(b'HTTP/1.1 413'), answer
    assert json.loads(answer.partition(b'\r\n\r\n')[2])['details']['max_bytes'] > 0


def test_a_body_in_pieces_is_limited_too(serve: Serve) -> None:
    server = serve(policy={'max_json_bytes': 4096})
    piece = b'1000\r\n' + b' ' * 4096 + b'\r\n'

    answer = talk(server.port, HEAD + b'Transfer-Encoding: chunked\r\n\r\n' + piece * 3)

    assert answer.startswith(b'HTTP/1.1 413'), answer


# The end --------------------------------------------------------------------------------------------------------------


def test_a_stopping_server_refuses_new_work_and_ends_the_old(
    serve: Serve, connect: Connect, backend: FakeBackend
) -> None:
    server = serve(stop_grace=PATIENCE)
    manager = connect(server)
    sandbox_id = manager.create_sandbox('fake', CONFIG)
    held = manager.submit('execute_command', sandbox_id, 'hold')
    backend.wait_until(lambda: backend.holding == 1)
    stopping = threading.Thread(target=server.stop)
    stopping.start()
    assert server.service is not None
    while not server.service.is_draining:
        threading.Event().wait(0.005)

    with pytest.raises(ManagerStoppedError, match='stopping'):
        manager.create_sandbox('fake', CONFIG)
    sandbox: Any = server.service.tenant(None).manager.get_sandbox(sandbox_id)
    sandbox.let_go()

    assert held.result(PATIENCE).status == 'success'
    stopping.join(PATIENCE)
    assert backend.alive == set()
    with pytest.raises(ServerUnavailableError):
        manager.list_sandboxes()


def test_a_server_that_is_the_program_spares_the_collector_what_it_began_with(backend: FakeBackend) -> None:
    server = create_server()
    thread = threading.Thread(target=server.run, kwargs={'port': 0}, daemon=True)
    thread.start()
    try:
        assert wait_until(lambda: gc.get_freeze_count() > 0)
    finally:
        server.stop()
        thread.join(PATIENCE)

    assert gc.get_freeze_count() == 0


def test_stopping_twice_and_before_the_start(serve: Serve) -> None:
    server = serve()
    server.stop()
    server.stop()
    with pytest.raises(ManagerStoppedError):
        server.start()


def test_a_port_that_is_taken(serve: Serve) -> None:
    taken = serve()
    with pytest.raises(ServerUnavailableError, match=r'cannot listen.*another server') as info:
        type(taken)().start('127.0.0.1', taken.port)
    assert 'no address of this machine' not in str(info.value)


def test_an_address_of_another_machine_is_said_to_be_one(serve: Serve) -> None:
    with pytest.raises(ServerUnavailableError, match='no address of this machine') as info:
        type(serve())().start('192.0.2.1', 0)  # a network for documents, RFC 5737

    assert 'another server' not in str(info.value)


@pytest.mark.parametrize(
    ('waiting', 'is_writing', 'is_polled'),
    [(0, False, False), (541, False, True), (541, True, False), (2 << 20, True, True)],
)
def test_a_socket_is_not_polled_while_a_task_writes_to_it_unless_that_waits(
    waiting: int, is_writing: bool, is_polled: bool
) -> None:
    channel = object.__new__(_ClientChannel)
    channel.adj = types.SimpleNamespace(outbuf_high_watermark=1 << 20)
    channel.total_outbufs_len, channel._is_writing = waiting, is_writing

    assert channel.writable() is is_polled


def test_no_thread_of_a_server_is_left(serve: Serve) -> None:
    others = set(threading.enumerate())  # of servers that other tests share
    server = serve()
    requests.get(f'{server.url}/healthz', timeout=PATIENCE)

    server.stop()

    pause = threading.Event()
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        left = [
            each.name
            for each in set(threading.enumerate()) - others
            if each.name.startswith(('enclave-request', 'enclave-server'))
        ]
        if not left:
            break
        pause.wait(0.02)
    assert left == []


PROGRAM = """
import sys
from enclave.sandboxes.sandbox_factory import SandboxFactory
from tests.support.sandbox import FakeBackend, FakeSandbox
class Recorded(FakeSandbox):
    backend = FakeBackend()
    def _stop(self, *, keep):
        super()._stop(keep=keep)
        print('gone', self.id, flush=True)
from enclave.rulings import SHARED
SandboxFactory.register_sandbox('fake', Recorded, rulings=SHARED)
from enclave import create_server
create_server(sandbox_config={'tools_config': ['shell_executor']}).run(host=sys.argv[1], port=0)
print('ended', flush=True)
"""


@pytest.mark.processes
@pytest.mark.skipif(os.name == 'nt', reason='there are no signals to send')
@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_takes_everything_away(number: signal.Signals, connect: Connect) -> None:
    process = subprocess.Popen(
        [sys.executable, '-c', PROGRAM, '127.0.0.1'], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        url = line.split()[3]
        sandbox_id = connect(url).create_sandbox('fake')
        process.send_signal(number)
        output, _ = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()

    assert output.split() == ['gone', sandbox_id, 'ended']
    assert process.returncode == 0


@pytest.mark.processes
def test_a_made_key_is_printed_once(connect: Connect) -> None:
    process = subprocess.Popen(
        [sys.executable, '-c', PROGRAM, '0.0.0.0'], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stderr is not None
        url, key = process.stderr.readline().split()[3], process.stderr.readline().split()[-1]
        assert connect(url, api_key=key).list_sandboxes() == []
        assert connect(url).list_sandboxes() == [], 'found by itself'
        process.terminate()
        _, rest = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()

    assert key not in rest


# Forked processes -----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != 'linux', reason='sockets are registered anew where there is no epoll')
def test_a_closed_connection_that_a_forked_process_still_has_is_waited_for_no_longer(
    serve: Serve, backend: FakeBackend
) -> None:
    server = serve()
    ask = b'GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n'
    assert server._readiness is not None
    table: Any = server._readiness._epoll
    with contextlib.ExitStack() as stack:
        with connected(server.port) as gone:
            gone.sendall(ask)
            assert b' 200 ' in read_head(gone)
            ((number, channel),) = server._waitress.active_channels.items()
            held = os.dup(channel.socket.fileno())  # as a process has it that was forked now
            stack.callback(os.close, held)
        backend.wait_until(lambda: channel.socket is None)

        assert number not in dict(table.poll(0)), 'the loop would find it ready in each of its rounds'
        others = [stack.enter_context(connected(server.port)) for _ in range(4)]
        for other in others * 2:
            other.sendall(ask)
            assert b' 200 ' in read_head(other)


def test_a_server_that_is_not_started_shares_nothing_with_forked_processes() -> None:
    server = create_server()
    try:
        assert server._readiness is None
    finally:
        server.stop()
