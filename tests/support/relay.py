"""A relay that puts a TCP port, with or without TLS, before a unix socket, and can be stopped in mid-call."""

from __future__ import annotations

import contextlib
import socket
import ssl
import subprocess
import threading
from pathlib import Path
from types import TracebackType


class Relay:
    """Listens on a free port of 127.0.0.1 until it is stopped."""

    def __init__(self, target: str, *, context: ssl.SSLContext | None = None) -> None:
        self._target = target
        self._context = context
        self._listener = socket.create_server(('127.0.0.1', 0))
        self.port: int = self._listener.getsockname()[1]
        self._lock = threading.Lock()  # guards _open and _stopped
        self._open: list[socket.socket] = []
        self._stopped = False
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Relay:
        self._spawn(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        for each in self._threads:
            each.join(10)

    def stop(self) -> None:
        """Stop listening and break every connection."""
        with self._lock:
            self._stopped = True
            sockets, self._open = [self._listener, *self._open], []
        for each in sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            if each is self._listener:
                each.close()

    def _spawn(self, target: object, *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._spawn(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        engine = socket.socket(socket.AF_UNIX)
        with self._lock:
            if self._stopped:
                client.close()
                engine.close()
                return
            self._open += [client, engine]
        try:
            if self._context is None:
                engine.connect(self._target)
                back = threading.Thread(target=_copy, args=(engine, client), daemon=True)
                back.start()
                _copy(client, engine)
                back.join()
            else:
                _TlsServer(client, self._context).serve(engine, self._target)
        except OSError:
            pass
        finally:
            client.close()
            engine.close()


def _copy(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            target.sendall(data)
    except OSError:
        pass
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


class _TlsServer:
    """The server's end of TLS in memory, because one thread reads while another writes."""

    def __init__(self, client: socket.socket, context: ssl.SSLContext) -> None:
        self._client = client
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._lock = threading.Lock()

    def serve(self, engine: socket.socket, target: str) -> None:
        while True:
            try:
                self._tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                self._client.sendall(self._outgoing.read())
                data = self._client.recv(65536)
                if not data:
                    return
                self._incoming.write(data)
            except ssl.SSLError:
                self._client.sendall(self._outgoing.read())
                return
        self._client.sendall(self._outgoing.read())
        engine.connect(target)
        back = threading.Thread(target=self._send, args=(engine,), daemon=True)
        back.start()
        self._receive(engine)
        with contextlib.suppress(OSError):
            engine.shutdown(socket.SHUT_WR)
        back.join()

    def _receive(self, engine: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                with self._lock:
                    try:
                        plain = self._tls.read(65536)
                    except ssl.SSLWantReadError:
                        plain = None
                if plain is None:
                    data = self._client.recv(65536)
                    if not data:
                        return
                    with self._lock:
                        self._incoming.write(data)
                elif plain:
                    engine.sendall(plain)
                else:
                    return

    def _send(self, engine: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := engine.recv(16384):
                with self._lock:
                    self._tls.write(data)
                    records = self._outgoing.read()
                self._client.sendall(records)
            self._client.shutdown(socket.SHUT_WR)


def make_certificates(folder: Path) -> None:
    """Make ca.pem, cert.pem and key.pem, good for a client and for a server at 127.0.0.1."""
    folder.mkdir(exist_ok=True)
    (folder / 'extensions').write_text('subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n')
    for command in (
        'req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=test-ca -keyout ca-key.pem -out ca.pem',
        'req -newkey rsa:2048 -nodes -subj /CN=127.0.0.1 -keyout key.pem -out request.pem',
        'x509 -req -in request.pem -CA ca.pem -CAkey ca-key.pem -CAcreateserial -days 2 -extfile extensions -out cert.pem',
    ):
        subprocess.run(['openssl', *command.split()], cwd=folder, check=True, capture_output=True)
