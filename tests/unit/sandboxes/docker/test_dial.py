from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

import pytest

from enclave.errors import ConfigurationError, EngineError, EngineUnavailableError
from enclave.sandboxes.docker.dial import Dialer, RawStream, find_endpoint, make_endpoint, ssh_command, upgrade
from enclave.sandboxes.docker.engine import Engine

PATIENCE = 120.0


def test_docker_host_wins_over_a_context() -> None:
    endpoint = find_endpoint({'DOCKER_HOST': 'tcp://somewhere:1234', 'DOCKER_CONTEXT': 'nosuch'})

    assert endpoint.url == 'tcp://somewhere:1234'
    assert endpoint.source == 'DOCKER_HOST'
    assert endpoint.tls is False


def test_context_that_does_not_exist_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / 'config.json').write_text('{}')
    monkeypatch.setenv('DOCKER_CONFIG', str(tmp_path))

    with pytest.raises(ConfigurationError, match="'nosuch' does not exist"):
        find_endpoint({'DOCKER_CONTEXT': 'nosuch'})


def test_certificates_that_are_missing_are_named(tmp_path: Path) -> None:
    environ = {'DOCKER_HOST': 'tcp://there:2376', 'DOCKER_TLS_VERIFY': '1', 'DOCKER_CERT_PATH': str(tmp_path)}

    with pytest.raises(ConfigurationError, match='DOCKER_CERT_PATH') as caught:
        find_endpoint(environ)

    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize('url', ['nonsense', 'tcp://', 'gopher://host:70'])
def test_address_that_is_none_is_named_with_its_source(url: str) -> None:
    with pytest.raises(ConfigurationError, match='DOCKER_HOST') as caught:
        find_endpoint({'DOCKER_HOST': url})

    assert repr(url) in str(caught.value)


def test_unix_socket_that_is_missing_names_the_address_and_the_doctor(tmp_path: Path) -> None:
    url = f'unix://{tmp_path}/nothing.sock'

    with Engine(url) as engine, pytest.raises(EngineUnavailableError, match='ms-enclave doctor') as caught:
        engine.ping()

    assert caught.value.details['address'] == url


def test_socket_that_nobody_listens_on_says_so(tmp_path: Path) -> None:
    path = tmp_path / 'dead.sock'
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))

    with Engine(f'unix://{path}') as engine, pytest.raises(EngineUnavailableError, match='connection refused'):
        engine.ping()


def test_closed_client_says_so(tmp_path: Path) -> None:
    engine = Engine(f'unix://{tmp_path}/nothing.sock')
    engine.close()
    engine.close()

    with pytest.raises(EngineUnavailableError):
        engine.ping()


def test_ssh_address_becomes_arguments_and_never_options() -> None:
    command = ssh_command('ssh://me@-oProxyCommand=bad:22/run/user/1000/docker.sock')

    assert command[-3:-1] == ['--', '-oproxycommand=bad']
    assert command[-1] == 'docker --host unix:///run/user/1000/docker.sock system dial-stdio'
    assert command[command.index('-l') + 1] == 'me'
    assert command[command.index('-p') + 1] == '22'


def test_tcp_connection_names_its_host_in_requests() -> None:
    assert Dialer(make_endpoint('tcp://there:2375', tls=False)).host_header == 'there:2375'
    assert Dialer(make_endpoint('unix:///run/docker.sock')).host_header == 'docker'


def serve_once(listener: socket.socket, answer: bytes) -> threading.Thread:
    """Answer the first request, then send back what comes until the end."""

    def serve() -> None:
        peer, _ = listener.accept()
        with peer:
            request = b''
            while b'\r\n\r\n' not in request:
                request += peer.recv(65536)
            peer.sendall(answer)
            while data := peer.recv(65536):
                peer.sendall(data)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    return thread


def open_stream(answer: bytes) -> tuple[RawStream, threading.Thread]:
    with socket.create_server(('127.0.0.1', 0)) as listener:
        server = serve_once(listener, answer)
        connection = socket.create_connection(listener.getsockname(), PATIENCE)
        try:
            stream = upgrade(connection, '/x', host='docker', on_refusal=lambda status, reason: refuse(status, reason))
        except BaseException:
            connection.close()
            server.join(PATIENCE)
            raise
        assert connection.gettimeout() is None
        return stream, server


def refuse(status: int, reason: str) -> EngineError:
    return EngineError(reason, details={'status': status})


def test_bytes_that_come_with_the_headers_are_read_first() -> None:
    stream, server = open_stream(b'HTTP/1.1 101 UPGRADED\r\nUpgrade: tcp\r\n\r\nearly')

    assert stream.read(2) == b'ea'
    assert stream.read(100) == b'rly'
    stream.write(b'back')
    assert stream.read(100) == b'back'
    stream.close()
    server.join(PATIENCE)


def test_refusal_carries_status_and_message() -> None:
    with pytest.raises(EngineError, match='No such container: x') as caught:
        open_stream(b'HTTP/1.1 404 Not Found\r\nContent-Length: 37\r\n\r\n{"message":"No such container: x"}   ')

    assert caught.value.details['status'] == 404


def test_writes_of_many_threads_do_not_mix() -> None:
    ours, theirs = socket.socketpair()
    stream = RawStream(ours)
    blocks = [bytes([number]) * 200_000 for number in range(8)]
    writers = [threading.Thread(target=stream.write, args=(block,)) for block in blocks]
    for each in writers:
        each.start()
    received = b''
    with theirs:
        while len(received) < sum(map(len, blocks)):
            received += theirs.recv(65536)
        for each in writers:
            each.join(PATIENCE)
        stream.close()

    pieces = [received[start : start + 200_000] for start in range(0, len(received), 200_000)]
    assert sorted(pieces) == blocks


def test_close_unblocks_a_writer_that_nobody_reads() -> None:
    ours, theirs = socket.socketpair()
    stream = RawStream(ours)
    failures: list[OSError] = []
    started = threading.Event()

    def write() -> None:
        try:
            while True:
                stream.write(os.urandom(65536))
                started.set()
        except OSError as error:
            failures.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    assert started.wait(PATIENCE)
    stream.close()
    writer.join(PATIENCE)
    theirs.close()

    assert isinstance(failures[0], ConnectionError)
    assert ours.fileno() == -1


def test_close_frees_the_descriptor_once_the_reader_has_left() -> None:
    ours, theirs = socket.socketpair()
    stream = RawStream(ours)
    reader = threading.Thread(target=stream.read)
    reader.start()

    stream.close()
    stream.close()
    reader.join(PATIENCE)
    theirs.close()

    assert ours.fileno() == -1
