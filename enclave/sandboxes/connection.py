"""TCP connections into a sandbox, through its agent's stream (layer 4). No port is published, no network needed."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading

from attrs import define, field

from enclave.agent.program import DATA, EOF
from enclave.channel.channel import Call
from enclave.deadline import Deadline
from enclave.errors import EnclaveError, OperationTimeoutError
from enclave.sandboxes.operations import Operations

logger = logging.getLogger(__name__)


@define(eq=False)
class Connection:
    """One connection to a port inside a sandbox. Blocking, like a socket; one thread may read while another writes."""

    _call: Call = field(repr=False)
    _held: bytes = field(default=b'', init=False, repr=False)
    _ended: bool = field(default=False, init=False)

    def wait_connected(self, timeout: float | None) -> None:
        """Return when the peer has accepted; a `ConnectionRefusedError`-like failure raises from `finish`."""
        self._next(Deadline.after(timeout))

    def _next(self, deadline: Deadline) -> bytes:
        """Take one frame and return its bytes; ``b''`` for the greeting and the end."""
        self._call.wait_ready(deadline)
        frame = self._call.next_frame(deadline)
        if frame is None or frame[0] == EOF:
            self._ended = True
        return frame[1] if frame is not None and frame[0] == DATA else b''

    def recv(self, max_bytes: int = 65536, timeout: float | None = None) -> bytes:
        """Return some bytes, or ``b''`` when the peer has closed its half.

        Raises:
            OperationTimeoutError: Nothing came within ``timeout`` seconds.
            SandboxGoneError, SandboxBrokenError: The sandbox was lost.
        """
        deadline = Deadline.after(timeout)
        while not self._held and not self._ended:
            self._held = self._next(deadline)
        data, self._held = self._held[:max_bytes], self._held[max_bytes:]
        return data

    def sendall(self, data: bytes, timeout: float | None = None) -> None:
        """Send all of ``data``, as fast as the peer reads.

        Raises:
            BrokenPipeError: The peer has closed the connection.
        """
        if not self._call.write(data, Deadline.after(timeout)):
            raise BrokenPipeError('the connection into the sandbox was closed by the peer')

    def shutdown_write(self) -> None:
        """Say that nothing more will be sent."""
        if not self._call.has_ended:
            self._call.close_input()

    def close(self) -> None:
        """Close both directions. May be called twice."""
        if not self._call.has_ended:
            with contextlib.suppress(EnclaveError):
                self._call.cancel()

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def carry(local: socket.socket, remote: Connection, *, name: str) -> None:
    """Carry bytes both ways until both halves are closed; ``local`` stays the caller's to close.

    What comes from ``remote`` on this thread, the other way on one more, called ``name``, which ends with this call.

    Raises:
        EnclaveError, OSError: A side broke.
    """
    up = threading.Thread(target=_carry_up, args=(local, remote), name=name, daemon=True)
    up.start()
    try:
        while data := remote.recv():
            local.sendall(data)
        with contextlib.suppress(OSError):
            local.shutdown(socket.SHUT_WR)
        up.join()
    finally:
        with contextlib.suppress(OSError):
            local.shutdown(socket.SHUT_RDWR)
        up.join()


def _carry_up(local: socket.socket, remote: Connection) -> None:
    try:
        while data := local.recv(65536):
            remote.sendall(data)
        remote.shutdown_write()
    except (EnclaveError, OSError, OperationTimeoutError):
        remote.close()


class PortForward:
    """A listening port on this machine whose connections go to a port in a sandbox. Lives until `close`.

    It owns one accepting thread, and two for each connection while that lasts.

    Attributes:
        host, port: Where it listens.
    """

    def __init__(
        self, operations: Operations, port: int, *, target_host: str, listen_host: str, listen_port: int, name: str
    ) -> None:
        self._operations = operations
        self._target = (port, target_host)
        self._listener = socket.create_server((listen_host, listen_port))
        self.host, self.port = self._listener.getsockname()[:2]
        self._name = name
        self._lock = threading.Lock()  # guards _open, _threads and _closed
        self._open: dict[socket.socket, Connection | None] = {}  # with what it is connected to inside
        self._threads: set[threading.Thread] = set()
        self._closed = False
        self._acceptor = threading.Thread(target=self._accept, name=f'enclave-forward-{name}', daemon=True)
        self._acceptor.start()

    def _accept(self) -> None:
        while True:
            try:
                local, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(
                target=self._serve, args=(local,), name=f'enclave-forward-{self._name}', daemon=True
            )
            with self._lock:
                if self._closed:
                    local.close()
                    return
                self._open[local] = None
                self._threads.add(thread)
            thread.start()

    def _serve(self, local: socket.socket) -> None:
        """Carry one connection until both halves are closed. Runs on a thread of its own, with a second one for upstream."""
        try:
            with self._operations.connect(*self._target, timeout=10.0) as remote:
                with self._lock:
                    self._open[local] = remote
                    if self._closed:
                        return
                carry(local, remote, name=f'enclave-forward-{self._name}')
        except (EnclaveError, OSError) as error:
            logger.debug('a forwarded connection to port %s ended: %s', self._target[0], error)
        finally:
            local.close()
            with self._lock:
                self._open.pop(local, None)
                self._threads.discard(threading.current_thread())

    @property
    def url(self) -> str:
        """Where it listens, as an address for HTTP: ``http://127.0.0.1:PORT``."""
        return f'http://{self.host}:{self.port}'

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        with self._lock:
            return self._closed

    def close(self) -> None:
        """Stop listening and close every connection. May be called twice."""
        with self._lock:
            already, self._closed = self._closed, True
            connections, threads = list(self._open.items()), list(self._threads)
        if already:
            return
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for local, remote in connections:
            with contextlib.suppress(OSError):
                local.shutdown(socket.SHUT_RDWR)
            if remote is not None:
                remote.close()  # a server inside may not mind that its client says no more
        for thread in (self._acceptor, *threads):
            thread.join(5.0)

    def __enter__(self) -> PortForward:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
