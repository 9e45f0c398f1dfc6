"""Transfers that are cancelled in their midst, and other sides that fall silent."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

from enclave.testing.transfers import UPLOADS, TransferGate, cancel_midway
from tests.support.sockets import listening, read_head

__all__ = ['UPLOADS', 'TransferGate', 'cancel_midway', 'silent']


@contextlib.contextmanager
def silent(*answers: bytes) -> Iterator[tuple[int, threading.Event]]:
    """Listen, give each request in turn one of some answers, and then not another byte, nor take one.

    Gives the port, and the event that is set when the silence begins.
    """
    began, ending = threading.Event(), threading.Event()

    def serve(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            connection, _ = listener.accept()
            with connection:
                for answer in answers or (b'',):
                    read_head(connection)
                    connection.sendall(answer)
                began.set()
                ending.wait()

    with listening(serve) as port:
        try:
            yield port, began
        finally:
            ending.set()
