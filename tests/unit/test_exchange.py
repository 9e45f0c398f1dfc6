"""Requests to an engine or a server that has fallen silent end when their work is cancelled."""

from __future__ import annotations

import contextlib
import gc
import json
import socket
import threading
import time
from collections.abc import Iterator

import pytest
import urllib3
from urllib3 import PoolManager

from enclave.cancellation import Cancellation, until_cancelled
from enclave.errors import CallCancelledError
from enclave.exchange import LINES, Broken, CancellableRequest, QuickLines, _Patience, _read_whole
from enclave.managers.http import HttpSandboxManager
from enclave.sandboxes.docker.engine import Engine
from tests.support.sockets import answering, listening, read_head
from tests.support.transfers import cancel_midway, silent

LARGE = bytes(64 << 20)
"""More than the buffers on the way to somebody who takes nothing."""


def answer(body: bytes = b'', length: int | None = None, headers: str = '') -> bytes:
    head = f'HTTP/1.1 200 OK\r\n{headers}Content-Length: {len(body) if length is None else length}\r\n\r\n'
    return head.encode() + body


VERSION = answer(json.dumps({'ApiVersion': '1.41'}).encode())
BEGUN = answer(b'x' * 100_000, 1 << 30, 'X-Enclave-Protocol: 1\r\n')


def test_reading_from_a_silent_engine_is_cancelled() -> None:
    with silent(VERSION, BEGUN) as (port, began), Engine(f'tcp://127.0.0.1:{port}') as engine:
        cancel_midway(lambda: list(engine.read_archive('box', '/file')), began)


def test_writing_to_an_engine_that_takes_nothing_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('enclave.exchange.LISTEN_SECONDS', 0.1)
    with silent(VERSION, b'') as (port, began), Engine(f'tcp://127.0.0.1:{port}') as engine:
        cancel_midway(lambda: engine.write_archive('box', '/', iter([LARGE])), began)


@contextlib.contextmanager
def client(port: int) -> Iterator[HttpSandboxManager]:
    """A manager that has not asked its server anything yet."""
    manager = HttpSandboxManager(base_url=f'http://127.0.0.1:{port}')
    try:
        yield manager
    finally:
        manager.stop()


@pytest.mark.parametrize('answers', [(), (BEGUN,)], ids=['before the answer', 'in the answer'])
def test_reading_from_a_silent_server_is_cancelled(answers: tuple[bytes, ...]) -> None:
    with silent(*answers) as (port, began), client(port) as manager:
        cancel_midway(lambda: manager.get_file('box', 'file'), began)


@pytest.mark.parametrize('source', [LARGE, b'small'], ids=['in the request', 'before the answer'])
def test_writing_to_a_silent_server_is_cancelled(source: bytes) -> None:
    with silent() as (port, began), client(port) as manager:
        cancel_midway(lambda: manager.put_file('box', source, 'file'), began)


def test_a_client_that_stops_closes_what_rests_at_once() -> None:
    with answering(BEGUN) as url:
        transport = HttpSandboxManager(base_url=url)._transport
        pool = transport._adapter.poolmanager.connection_from_url(url)
        pool._put_conn(connection := pool._get_conn())
        connection.connect()

        transport.close()

        assert connection.sock is None


def test_a_connection_that_was_given_back_is_nobodys_to_end() -> None:
    exchange = CancellableRequest('the first request')
    with answering(answer(b'one')) as url, PoolManager() as manager:
        manager.pool_classes_by_scheme = LINES
        with exchange.made():
            response = manager.request('GET', url, preload_content=False)
        pool = manager.connection_from_url(url)
        assert response.read() == b'one'
        assert pool.pool is not None
        resting = pool.pool.queue[-1]

        exchange.hang_up()

        assert resting.sock.getpeername()
        resting.sock.shutdown(socket.SHUT_RDWR)  # which would fail had it been done


def test_requests_that_the_body_makes_are_not_the_exchanges() -> None:
    exchange = CancellableRequest('the upload')
    with answering(answer(b'two')) as url, PoolManager() as manager:
        manager.pool_classes_by_scheme = LINES

        def body():  # type: ignore[no-untyped-def]
            outer = exchange._socket
            yield manager.request('GET', url).data
            assert exchange._socket is outer

        with exchange.made():
            assert manager.request('PUT', url, body=body(), headers={'Content-Length': '3'}).data == b'two'


def test_hanging_up_before_there_is_a_connection_ends_it_too() -> None:
    exchange = CancellableRequest('the request')
    exchange.hang_up()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        exchange.take(ours)
        assert theirs.recv(1) == b''


def test_large_pieces_are_cut_up_and_none_follows_the_cancelling() -> None:
    cancellation = Cancellation()
    with cancellation.applied():
        pieces = until_cancelled([bytes(5 << 20)], 'the upload')
        assert len(next(pieces)) == 1 << 20

    cancellation.cancel()

    with pytest.raises(CallCancelledError, match='the upload was cancelled'):
        next(pieces)


def test_nothing_is_taken_of_what_was_cancelled_before() -> None:
    cancellation = Cancellation()
    cancellation.cancel()
    source = iter([b'one'])
    with cancellation.applied(), pytest.raises(CallCancelledError):
        next(until_cancelled(source, 'the upload'))

    assert list(source) == [b'one']


HEADS = [
    'HTTP/1.1 200 OK\r\nContent-Length: 2',
    'HTTP/1.1 200 \r\ncontent-length:2',
    'HTTP/1.1 200 OK\r\nX: a\r\nX: b\r\nTransfer-Encoding: chunked\r\nY:  z ',
    'HTTP/1.1 200 OK\r\nX: folded\r\n line\r\nContent-Length: 2',
    'HTTP/1.0 200 OK\r\nContent-Length: 2',
    'HTTP/1.1 200 OK\r\nConnection: close',
    'HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2',
]


@pytest.mark.parametrize('head', HEADS)
def test_heads_of_all_kinds_are_read_as_the_standard_library_reads_them(head: str) -> None:
    body = '2\r\n{}\r\n0\r\n\r\n' if 'chunked' in head else '{}'
    answers = []
    for pools in (LINES, None):
        with answering((head + '\r\n\r\n' + body).encode()) as url, PoolManager() as manager:
            if pools is not None:
                manager.pool_classes_by_scheme = pools
            got = manager.request('GET', url, retries=False)
            answers.append((got.status, got.reason, list(got.headers.items()), got.data))

    assert answers[0] == answers[1]
    assert answers[0][3] == b'{}'


def quick(url: str, manager: PoolManager) -> QuickLines:
    manager.pool_classes_by_scheme = LINES
    return QuickLines(manager.connection_from_url(url), 2, 5.0)


@pytest.mark.parametrize('head', [*HEADS, 'HTTP/1.1 200 OK\r\nA: 1\r\na: 2\r\nContent-Length: 2'])
def test_quick_lines_read_answers_of_all_kinds(head: str) -> None:
    body = '2\r\n{}\r\n0\r\n\r\n' if 'chunked' in head else '{}'
    with answering((head + '\r\n\r\n' + body).encode()) as url, PoolManager() as manager:
        lines = quick(url, manager)

        found = lines.ask(b'GET / HTTP/1.1\r\n\r\n', None, 60.0)

        lines.close()
        assert (found.status, bytes(found.content)) == (200, b'{}')
        assert found.headers.get('x', 'none') in ('none', 'folded line', 'folded\r\n line', 'a', 'b', 'a, b')


@pytest.mark.parametrize(
    'text',
    [
        None,
        b'',
        b'HTTP/1.1 200 OK\r\nContent-Len',
        b'HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nfour',
        b'220 mail here\r\n\r\n',
    ],
    ids=['no answer', 'nothing', 'half a head', 'half a body', 'no HTTP'],
)
def test_an_answer_that_breaks_off_is_no_answer(text: bytes | None) -> None:
    with answering(text) as url, PoolManager() as manager:
        lines = quick(url, manager)

        with pytest.raises((Broken, OSError)):
            lines.ask(b'GET / HTTP/1.1\r\n\r\n', None, 60.0)


def test_a_connection_rests_until_the_next_request_and_no_longer_than_its_lines() -> None:
    large = b'x' * 300_000
    connections: list[socket.socket] = []

    def serve(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection = listener.accept()[0]
                connections.append(connection)
                while connection.recv(65536):
                    connection.sendall(answer(large))

    with listening(serve) as port, PoolManager() as manager:
        lines = quick(f'http://127.0.0.1:{port}', manager)

        for _ in range(3):
            assert lines.ask(b'GET / HTTP/1.1\r\n\r\n', None, None).content == large
        assert len(connections) == 1

        connections[0].shutdown(socket.SHUT_RDWR)  # as a server does with one that has rested for long
        assert lines.ask(b'GET / HTTP/1.1\r\n\r\n', b'', 60.0).content == large
        assert len(connections) == 2

        lines.close()
        assert connections[1].recv(1) == b''
        for each in connections:
            each.close()


@pytest.mark.parametrize('status', [401, 413])
def test_an_answer_that_comes_before_all_of_the_request_was_taken_is_the_answer(status: int) -> None:
    early = f'HTTP/1.1 {status} Refused\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{{}}'.encode()

    def serve(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection = listener.accept()[0]
                with connection:
                    connection.recv(65536)
                    connection.sendall(early)

    with listening(serve) as port, PoolManager() as manager:
        lines = quick(f'http://127.0.0.1:{port}', manager)
        for _ in range(3):
            found = lines.ask(b'PUT / HTTP/1.1\r\nContent-Length: %d\r\n\r\n' % (20 << 20), b'x' * (20 << 20), 60.0)

            assert (found.status, bytes(found.content)) == (status, b'{}')
            assert not lines._resting


def test_a_connection_that_ends_in_the_midst_of_a_request_without_an_answer_is_broken() -> None:
    def serve(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                listener.accept()[0].close()

    with listening(serve) as port, PoolManager() as manager:
        lines = quick(f'http://127.0.0.1:{port}', manager)

        with pytest.raises((Broken, OSError)):
            lines.ask(b'PUT / HTTP/1.1\r\nContent-Length: %d\r\n\r\n' % (20 << 20), b'x' * (20 << 20), 60.0)
        assert not lines._resting


@pytest.mark.parametrize(
    'text',
    [
        'HTTP/1.1 200 OK\r\nContent-Length: \xb2\r\n\r\nab',
        'HTTP/1.1 2\xb20 OK\r\nContent-Length: 2\r\n\r\nab',
        f'HTTP/1.1 200 OK\r\nContent-Length: {"9" * 20}\r\n\r\nab',
        f'HTTP/1.1 200 OK\r\nContent-Length: {"9" * 5000}\r\n\r\nab',
        f'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{"f" * 30}\r\nab',
        'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nab',
    ],
    ids=['superscript', 'status', 'twenty digits', 'thousands of digits', 'chunk', 'negative chunk'],
)
def test_numbers_that_no_length_can_be_are_an_answer_that_is_broken_or_ends_with_the_connection(text: str) -> None:
    with answering(text.encode('latin-1')) as url, PoolManager() as manager:
        lines = quick(url, manager)
        with contextlib.suppress(Broken):
            assert lines.ask(b'GET / HTTP/1.1\r\n\r\n', None, 60.0).content in (b'ab', b'')
        assert not lines._resting

        with contextlib.suppress(urllib3.exceptions.HTTPError):
            assert 'chunked' in text or manager.request('GET', url, retries=False).data in (b'ab', b'')


def test_lines_that_nobody_uses_any_more_close_what_rests() -> None:
    with answering(answer(b'{}')) as url, PoolManager() as manager:
        lines = quick(url, manager)
        lines.ask(b'GET / HTTP/1.1\r\n\r\n', None, 60.0)
        (resting,) = lines._resting

        del lines
        gc.collect()

        assert resting.sock is None


class Kept:
    """Keeps a body that it reads, up to a letter that it cannot read."""

    def __init__(self) -> None:
        self.body = b''

    def take(self, data: memoryview) -> bool:
        self.body += bytes(data)
        return b'?' not in self.body


CHUNKS = 'HTTP/1.1 200 OK\r\nContent-Type: kept\r\nTransfer-Encoding: chunked\r\n\r\n'


@pytest.mark.parametrize(
    'body',
    [
        b'3\r\nabc\r\n4;x=y\r\ndefg\r\n0\r\n\r\n',
        b'3\r\nabc\r\n4\r\ndefg\r\n0\r\nTrailer: t\r\n\r\n',
        b'007\nabcdefg\r\n0\r\n\r\n',
    ],
)
def test_a_body_in_chunks_is_read_by_the_reader_of_its_media_type(body: bytes) -> None:
    with answering(CHUNKS.encode() + body) as url, PoolManager() as manager:
        manager.pool_classes_by_scheme = LINES
        lines = QuickLines(manager.connection_from_url(url), 2, 5.0, {'kept': Kept})

        found = lines.ask(b'GET / HTTP/1.1\r\n\r\n', None, 60.0)

        lines.close()
    assert (found.content, found.reader.body) == (b'', b'abcdefg')


def test_a_body_that_cannot_be_read_is_not_read_to_its_end() -> None:
    has_ended = threading.Event()

    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):
            read_head(connection)
            connection.sendall(CHUNKS.encode())
            for _ in range(100_000):  # more than any buffers hold
                connection.sendall(b'5000\r\n' + b'?' * 0x5000 + b'\r\n')
            return
        has_ended.set()

    with listening(serve) as port, PoolManager() as manager:
        manager.pool_classes_by_scheme = LINES
        lines = QuickLines(manager.connection_from_url(f'http://127.0.0.1:{port}'), 2, 5.0, {'kept': Kept})

        found = lines.ask(b'GET / HTTP/1.1\r\n\r\n', None, 60.0)

        assert found.reader.body.startswith(b'?')
        assert len(found.reader.body) <= 1 << 20
        assert not lines._resting
        assert has_ended.wait(60.0)
        lines.close()


def test_headers_behind_a_body_have_an_end() -> None:
    body = b'3\r\nabc\r\n0\r\n' + b'Trailer: t\r\n' * 1000 + b'\r\n'
    with answering(CHUNKS.encode() + body) as url, PoolManager() as manager:
        manager.pool_classes_by_scheme = LINES
        lines = QuickLines(manager.connection_from_url(url), 2, 5.0, {'kept': Kept})

        with pytest.raises(Broken, match='too many headers'):
            lines.ask(b'GET / HTTP/1.1\r\n\r\n', None, 60.0)

        lines.close()


@pytest.mark.parametrize(
    'body',
    [
        b'',
        b'3',
        b'3\r\nab',
        b'3\r\nabc',
        b'3\r\nabcd\r\n',
        b'-3\r\nabc\r\n',
        b'x\r\n',
        b'\r\n',
        b'3\r\nabc\r\n0\r\n',
        b'f' * 5000,
    ],
)
def test_a_body_in_chunks_that_breaks_off_is_no_answer(body: bytes) -> None:
    with answering(CHUNKS.encode() + body) as url, PoolManager() as manager:
        manager.pool_classes_by_scheme = LINES
        lines = QuickLines(manager.connection_from_url(url), 2, 5.0, {'kept': Kept})

        with pytest.raises(Broken):
            lines.ask(b'GET / HTTP/1.1\r\n\r\n', None, 60.0)

        lines.close()


# An answer that begins and does not end ------------------------------------------------------------------------------------


class Reader:
    """Takes a body in chunks."""

    def take(self, data: memoryview) -> bool:
        return True


CHUNKED = b'HTTP/1.1 200 OK\r\nContent-Type: some/thing\r\nTransfer-Encoding: chunked\r\n\r\n'


@pytest.mark.parametrize('begun', [b'HTTP/1.1 200 OK\r\n', answer(b'x', 100), CHUNKED, CHUNKED + b'5\r\nab'])
def test_an_answer_that_stops_after_its_time_is_waited_for_no_longer_than_a_silence(begun: bytes) -> None:
    here, there = socket.socketpair()
    with here, there:
        there.sendall(begun)
        here.settimeout(None)
        with pytest.raises(TimeoutError):
            _read_whole(here, {'some/thing': Reader}, _Patience(here, ends_at=time.monotonic(), silence=0.05))


def test_an_answer_is_waited_for_until_its_time_is_over_however_long_a_silence_is() -> None:
    here, there = socket.socketpair()
    with here, there:
        _Patience(here, ends_at=time.monotonic() + 1e6, silence=1.0).renew()

        assert 1e5 < (here.gettimeout() or 0.0) <= 1e6
