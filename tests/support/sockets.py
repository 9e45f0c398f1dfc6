"""HTTP by hand, for what no client library would send; and servers that are none of ours."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

PATIENCE = 30.0


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
def answering(answer: bytes | None) -> Iterator[str]:
    """Listen on a free port, answer every request with the same bytes (None: close without a word), and give the address."""
    listener = socket.create_server(('127.0.0.1', 0))
    ending = threading.Event()

    def run() -> None:
        while not ending.is_set():
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                read_head(connection)
                if answer is not None:
                    connection.sendall(answer)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield f'http://127.0.0.1:{listener.getsockname()[1]}'
    finally:
        ending.set()
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(PATIENCE)
