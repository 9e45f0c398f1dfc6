"""HTTP by hand, for what no client library would send; and servers that are none of this library."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

PATIENCE = 120.0


def connected(port: int) -> socket.socket:
    return socket.create_connection(('127.0.0.1', port), PATIENCE)


def talk(port: int, data: bytes) -> bytes:
    """Send bytes and return all that comes until the server closes, or has answered and says nothing more."""
    with connected(port) as connection:
        connection.sendall(data)
        return read_all(connection)


def read_all(connection: socket.socket) -> bytes:
    parts = []
    with contextlib.suppress(ConnectionError):
        while part := connection.recv(65536):
            parts.append(part)
    return b''.join(parts)


def read_head(connection: socket.socket) -> bytes:
    """Return an answer as far as its head has come."""
    data = b''
    while b'\r\n\r\n' not in data and (part := connection.recv(65536)):
        data += part
    return data


@contextlib.contextmanager
def listening(serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """Listen on a free port, have a thread serve who comes, and give the port; at the end ``accept`` fails."""
    listener = socket.create_server(('127.0.0.1', 0))
    thread = threading.Thread(target=serve, args=(listener,), daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(PATIENCE)


@contextlib.contextmanager
def answering(answer: bytes | None) -> Iterator[str]:
    """Listen on a free port, answer every request with the same bytes (None: close without a word), and give the address."""

    def serve(listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                read_head(connection)
                if answer is not None:
                    connection.sendall(answer)

    with listening(serve) as port:
        yield f'http://127.0.0.1:{port}'
