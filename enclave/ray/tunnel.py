"""TCP connections into the sandboxes of a shard (layer 6), each over a connection of its own to the shard's node.

A client sends one line of JSON (the shard's key, the sandbox, the port), the shard answers with one, and from then on bytes go
as they come, each way until it is closed. What does not begin with the key within a few seconds is closed without an answer.
"""

from __future__ import annotations

import contextlib
import hmac
import logging
import socket
import threading
from collections.abc import Callable
from typing import Any

from attrs import define, field, frozen

from enclave import wire
from enclave.deadline import Deadline
from enclave.errors import EnclaveError, OperationTimeoutError, SandboxGoneError
from enclave.managers.base import SandboxManager
from enclave.managers.pool import again
from enclave.managers.protocol import ErrorResponse, error_response, rebuild_error
from enclave.records import Model
from enclave.sandboxes.connection import carry

logger = logging.getLogger(__name__)

MOST_LINE_BYTES = 8192
GREETING_SECONDS = 20.0
MOST_GREETINGS = 256
"""How many connections may be without the key at once; further ones are closed."""
REST_SECONDS = 0.2
_BACKLOG = 256


@frozen(kw_only=True)
class TunnelRequest(Model):
    """What a client wants to be connected to."""

    key: str = field(repr=False)
    sandbox_id: str
    port: int
    host: str
    timeout: float | None = None


@frozen(kw_only=True)
class TunnelResponse(Model):
    """That it is connected, or why it is not."""

    error: ErrorResponse | None = None


def _read_line(stream: socket.socket, deadline: Deadline) -> bytes:
    """Return a line without its end; what comes behind it stays in the stream."""
    line = b''
    while not line.endswith(b'\n'):
        if deadline.has_expired():
            raise ConnectionError('the line did not end in time')
        stream.settimeout(deadline.as_timeout())
        piece = stream.recv(1)
        if not piece or len(line) >= MOST_LINE_BYTES:
            raise ConnectionError('the connection ended before it began')
        line += piece
    return line[:-1]


class TunnelServer:
    """Listens on a shard's node. Lives as long as the shard; has an accepting thread, and two for each connection.

    Attributes:
        address: Where it listens: host and port.
    """

    def __init__(self, manager: SandboxManager, host: str, key: str) -> None:
        self._manager = manager
        self._key = key.encode()
        family = socket.AF_INET6 if ':' in host else socket.AF_INET
        self._listener = socket.create_server((host, 0), family=family, backlog=_BACKLOG)
        self.address: tuple[str, int] = self._listener.getsockname()[:2]
        self._lock = threading.Lock()  # guards the two below
        self._open: set[socket.socket] = set()
        self._closed = False
        self._stopping = threading.Event()
        self._greetings = threading.Semaphore(MOST_GREETINGS)
        self._acceptor = threading.Thread(target=self._accept, name='enclave-tunnel-accept', daemon=True)
        self._acceptor.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError as error:
                if self._stopping.wait(REST_SECONDS):  # there may be too many open files for a moment
                    return
                logger.debug('a connection could not be accepted: %s', error)
                continue
            with self._lock:
                if self._closed:
                    client.close()
                    return
                if not self._greetings.acquire(blocking=False):
                    client.close()
                    continue
                self._open.add(client)
            try:
                threading.Thread(target=self._serve, args=(client,), name='enclave-tunnel', daemon=True).start()
            except RuntimeError as error:  # there are too many threads
                logger.warning('a connection into a sandbox was refused: %s', error)
                self._greetings.release()
                client.close()
                with self._lock:
                    self._open.discard(client)

    def _serve(self, client: socket.socket) -> None:
        try:
            try:
                line = _read_line(client, Deadline.after(GREETING_SECONDS))
            finally:
                self._greetings.release()
            request = TunnelRequest.model_validate(wire.from_json(line, what='a request'))
            if not hmac.compare_digest(request.key.encode('utf-8', 'replace'), self._key):
                return
            client.settimeout(None)
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._carry(client, request)
        except (EnclaveError, OSError) as error:
            logger.debug('a connection into a sandbox ended: %s', error)
        finally:
            client.close()
            with self._lock:
                self._open.discard(client)

    def _carry(self, client: socket.socket, request: TunnelRequest) -> None:
        try:
            with self._manager._using(request.sandbox_id) as sandbox:
                inside = sandbox.connect_port(request.port, request.host, timeout=request.timeout)
        except EnclaveError as error:
            _send(client, TunnelResponse(error=error_response(error)))
            return
        with inside:
            _send(client, TunnelResponse())
            carry(client, inside, name='enclave-tunnel-up')

    def close(self) -> None:
        """Stop listening and close every connection. May be called twice."""
        with self._lock:
            already, self._closed = self._closed, True
            streams = list(self._open)
        if already:
            return
        self._stopping.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for each in streams:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


def _send(stream: socket.socket, value: Any) -> None:
    stream.sendall(wire.to_json(value).encode('ascii') + b'\n')


@define(eq=False)
class TunnelConnection:
    """A connection into a sandbox of a shard; see `enclave.sandboxes.connection.Connection`."""

    _stream: socket.socket = field(repr=False)
    _loss: EnclaveError | None = field(default=None, init=False, repr=False)

    def lose(self, error: EnclaveError) -> None:
        """End it with ``error``, which its user gets from now on."""
        self._loss = error
        self.close()

    def recv(self, max_bytes: int = 65536, timeout: float | None = None) -> bytes:
        """Return some bytes, or ``b''`` when the other side has closed its half."""
        try:
            self._stream.settimeout(Deadline.after(timeout).remaining())
            found = self._stream.recv(max_bytes)
        except TimeoutError:
            raise OperationTimeoutError(f'nothing came within {timeout or 0:g} s') from None
        except OSError as error:
            self._check_lost()
            raise SandboxGoneError(f'the connection into the sandbox was lost: {error}') from None
        if not found:
            self._check_lost()
        return found

    def _check_lost(self) -> None:
        if self._loss is not None:
            raise again(self._loss)

    def sendall(self, data: bytes, timeout: float | None = None) -> None:
        """Send all of ``data``, as fast as the other side reads."""
        try:
            self._stream.settimeout(Deadline.after(timeout).remaining())
            self._stream.sendall(data)
        except TimeoutError:
            raise OperationTimeoutError(f'not all was taken within {timeout or 0:g} s') from None
        except OSError:
            self._check_lost()
            raise BrokenPipeError('the connection into the sandbox was closed by the other side') from None

    def shutdown_write(self) -> None:
        """Say that nothing more will be sent."""
        with contextlib.suppress(OSError):
            self._stream.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close both directions. May be called twice."""
        with contextlib.suppress(OSError):
            self._stream.shutdown(socket.SHUT_RDWR)
        self._stream.close()

    def __enter__(self) -> TunnelConnection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def connect(
    address: tuple[str, int],
    request: TunnelRequest,
    *,
    patience: float,
    on_open: Callable[[TunnelConnection], None] = lambda _: None,
) -> TunnelConnection:
    """Return a connection into a sandbox.

    Args:
        patience: How long the shard may take beyond the time limit of the request.
        on_open: Is given the connection before the shard has answered; closing it ends the wait.

    Raises:
        OSError: The shard does not answer.
        EnclaveError: What the shard says.
    """
    stream = socket.create_connection(address, timeout=patience)
    made = TunnelConnection(stream)
    try:
        on_open(made)
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        _send(stream, request)
        deadline = Deadline.after(None if request.timeout is None else request.timeout + patience)
        answer = TunnelResponse.model_validate(wire.from_json(_read_line(stream, deadline), what='an answer'))
        if answer.error is not None:
            raise rebuild_error(answer.error)
        stream.settimeout(None)
    except BaseException:
        stream.close()
        raise
    return made
