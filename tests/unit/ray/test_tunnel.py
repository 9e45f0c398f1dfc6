"""Connections into the sandboxes of a shard."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from enclave.errors import SandboxGoneError, SandboxNotFoundError
from enclave.ray import tunnel
from enclave.ray.tunnel import TunnelRequest, TunnelServer, connect
from tests.support.host import wait_until

KEY = 'k' * 64
PATIENCE = 60.0


class Echo:
    """A sandbox whose every port gives back what it is sent."""

    def connect_port(self, port: int, host: str, *, timeout: float | None) -> Any:
        from enclave.ray.tunnel import TunnelConnection

        ours, theirs = socket.socketpair()
        self.inside = theirs
        return TunnelConnection(ours)


class Manager:
    """Has one sandbox."""

    def __init__(self) -> None:
        self.echo = Echo()

    def _using(self, sandbox_id: str) -> Any:
        if sandbox_id != 'there':
            raise SandboxNotFoundError(f'no sandbox has the id {sandbox_id!r}')
        return contextlib.nullcontext(self.echo)


@pytest.fixture
def manager() -> Manager:
    return Manager()


@pytest.fixture
def server(manager: Manager) -> Iterator[TunnelServer]:
    made = TunnelServer(manager, '127.0.0.1', KEY)  # type: ignore[arg-type]
    yield made
    made.close()
    made.close()


def request(**changes: Any) -> TunnelRequest:
    return TunnelRequest(**{'key': KEY, 'sandbox_id': 'there', 'port': 80, 'host': '127.0.0.1', **changes})


def test_bytes_go_both_ways_until_each_is_closed(server: TunnelServer, manager: Manager) -> None:
    with connect(server.address, request(), patience=PATIENCE) as connection:
        connection.sendall(b'there')
        connection.shutdown_write()
        inside = manager.echo.inside
        inside.settimeout(PATIENCE)
        got = b''
        while piece := inside.recv(100):
            got += piece
        inside.sendall(b'and back')
        inside.close()

        assert got == b'there'
        assert connection.recv(100, PATIENCE) == b'and back'
        assert connection.recv(100, PATIENCE) == b''


def test_what_is_wrong_with_a_sandbox_is_the_error_that_it_is(server: TunnelServer) -> None:
    with pytest.raises(SandboxNotFoundError, match='ghost'):
        connect(server.address, request(sandbox_id='ghost'), patience=PATIENCE)


@pytest.mark.parametrize(
    'greeting',
    [
        b'GET / HTTP/1.1\r\n\r\n',
        b'{}\n',
        b'x' * 10_000,
        b'{"key": "wrong", "sandbox_id": "there", "port": 1, "host": "a"}\n',
    ],
)
def test_who_does_not_know_the_key_gets_no_answer(server: TunnelServer, greeting: bytes) -> None:
    with socket.create_connection(server.address, PATIENCE) as stream:
        stream.sendall(greeting)
        with contextlib.suppress(ConnectionResetError):
            assert stream.recv(100) == b''


def test_a_greeting_that_drips_is_ended_all_the_same(manager: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tunnel, 'GREETING_SECONDS', 0.3)
    server = TunnelServer(manager, '127.0.0.1', KEY)  # type: ignore[arg-type]
    pause = threading.Event()
    with contextlib.closing(server), socket.create_connection(server.address, PATIENCE) as stream:
        stream.settimeout(0.02)
        until = time.monotonic() + PATIENCE
        ended = False
        while not ended and time.monotonic() < until:
            try:
                stream.sendall(b'x')
                ended = stream.recv(1) == b''
            except TimeoutError:
                pause.wait(0.01)
            except OSError:
                ended = True

        assert ended


def test_there_are_not_many_without_the_key_and_those_with_it_are_served_again(
    manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tunnel, 'MOST_GREETINGS', 1)
    server = TunnelServer(manager, '127.0.0.1', KEY)  # type: ignore[arg-type]
    with contextlib.closing(server):
        with socket.create_connection(server.address, PATIENCE) as silent:
            silent.sendall(b'x')
            with socket.create_connection(server.address, PATIENCE) as second, contextlib.suppress(ConnectionError):
                assert second.recv(1) == b''

        def is_served() -> bool:
            try:
                connect(server.address, request(), patience=PATIENCE).close()
            except OSError:
                return False
            manager.echo.inside.close()
            return True

        assert wait_until(is_served, PATIENCE)


def test_a_wait_for_a_shard_that_does_not_answer_can_be_ended() -> None:
    opened: list[Any] = []
    with socket.create_server(('127.0.0.1', 0)) as silent:

        def end() -> None:
            accepted, _ = silent.accept()
            with accepted:
                accepted.recv(10)
                opened[0].close()

        ending = threading.Thread(target=end)
        ending.start()
        with pytest.raises(OSError):  # noqa: PT011 - which one depends on where the wait was
            connect(silent.getsockname()[:2], request(), patience=PATIENCE, on_open=opened.append)
        ending.join(PATIENCE)


def test_connections_end_with_the_server(server: TunnelServer, manager: Manager) -> None:
    with connect(server.address, request(), patience=PATIENCE) as connection, manager.echo.inside:
        server.close()

        with contextlib.suppress(ConnectionError):
            assert connection.recv(100, PATIENCE) == b''
    with pytest.raises(ConnectionRefusedError):
        connect(server.address, request(), patience=5.0)


@pytest.mark.parametrize('is_waiting', [True, False])
def test_a_connection_whose_shard_is_lost_raises_that(server: TunnelServer, is_waiting: bool) -> None:
    connection = connect(server.address, request(), patience=PATIENCE)
    ended: list[BaseException] = []

    def read() -> None:
        try:
            connection.recv()
        except SandboxGoneError as error:
            ended.append(error)

    reading = threading.Thread(target=read)
    if is_waiting:
        reading.start()
    connection.lose(SandboxGoneError('shard 5a5a5a5a is gone'))
    if not is_waiting:
        reading.start()
    reading.join(PATIENCE)

    assert [str(each) for each in ended] == ['shard 5a5a5a5a is gone']
    with pytest.raises(SandboxGoneError, match='5a5a5a5a'):
        connection.sendall(b'more')
