"""How an engine is reached: its address, and raw two-way connections to it (layer 4, docker).

docker-py carries the ordinary calls. The streams that last as long as a sandbox are dialled here instead, one connection
each, because what docker-py hands out after an upgrade is a different object on every transport, keeps urllib3's read
timeout, and drops whatever the engine had sent in the same packet as its answer's headers. A `RawStream` is the same on
all of them: blocking reads, blocking writes, and a ``close`` that wakes a blocked reader.

- ``unix://``, ``tcp://``: a plain socket.
- ``tcp://`` with TLS: a plain socket with the TLS state kept in memory under a lock of this library. An `ssl.SSLSocket` may not
  be read in one thread while another writes: OpenSSL's connection object is not made for it.
- ``ssh://``: the ``ssh`` program running ``docker system dial-stdio`` on the other machine, as the docker command line does, on
  one end of a socket pair; the other end is an ordinary socket. It honours the user's ssh configuration, keys and agent.
- ``npipe://`` (and ssh on Windows): docker-py's own connection, taken over with its read buffer.

Source: Docker Engine API, "Attach to a container", section "Hijacking".
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import shlex
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import urllib.parse
from collections.abc import Callable, Mapping
from typing import IO, Any, Protocol

from attrs import field, frozen
from docker import utils as docker_utils
from docker.context import ContextAPI
from docker.errors import DockerException, TLSParameterError
from docker.tls import TLSConfig

from enclave.errors import ConfigurationError, EnclaveError

CONNECT_TIMEOUT = 30.0
"""Seconds for reaching the engine and its answer to an upgrade."""

_HEAD_BYTES = 64 * 1024
_CHUNK_BYTES = 64 * 1024
_SSH_EXIT_GRACE = 2.0


# Where the engine is --------------------------------------------------------------------------------------------------


@frozen(kw_only=True)
class Endpoint:
    """An engine's address and how to trust it.

    Attributes:
        url: As docker writes it: ``unix:///var/run/docker.sock``, ``tcp://host:2376``, ``ssh://user@host``, ``npipe:////./pipe/docker_engine``.
        tls: Client certificates and the CA to check the engine with, ``True`` for the system's CAs, or ``False``.
        source: Who said so, for messages: ``DOCKER_HOST``, ``docker context 'name'``, ``the caller`` or ``the default``.
    """

    url: str
    tls: TLSConfig | bool = field(default=False, repr=False)
    source: str = 'the default'

    @property
    def scheme(self) -> str:
        """The first word of the URL, like ``unix`` or ``tcp``."""
        return self.url.partition('://')[0].lower()

    @property
    def socket_path(self) -> str | None:
        """The path of a ``unix`` endpoint's socket, else None."""
        return self.url[len('unix://') :] if self.scheme == 'unix' else None

    @property
    def request_url(self) -> str:
        """The address as docker-py's client takes it."""
        return str(docker_utils.parse_host(self.url, sys.platform == 'win32', tls=bool(self.tls)))


def find_endpoint(environ: Mapping[str, str] | None = None) -> Endpoint:
    """Return the engine's address as the docker command line would choose it.

    ``DOCKER_HOST`` (with ``DOCKER_TLS_VERIFY`` and ``DOCKER_CERT_PATH``) wins over ``DOCKER_CONTEXT``, which wins over the
    context chosen in docker's own configuration file.

    Raises:
        ConfigurationError: The address or the certificates named there cannot be used.
    """
    environ = os.environ if environ is None else environ
    if environ.get('DOCKER_HOST'):
        return make_endpoint(environ['DOCKER_HOST'], tls=_tls_from(environ), source='DOCKER_HOST')
    name = environ.get('DOCKER_CONTEXT') or None
    try:
        context = ContextAPI.get_context(name)
    except Exception as error:  # docker-py raises bare Exception for a damaged context file
        raise ConfigurationError(f'docker context {name or "current"!r} cannot be read: {error}') from error
    if context is None:
        label = 'the current docker context' if name is None else f'docker context {name!r}'
        raise ConfigurationError(f'{label} does not exist; `docker context ls` lists them, DOCKER_HOST overrides them')
    if context.Name == 'default' or not context.Host:
        return make_endpoint(None)
    return make_endpoint(context.Host, tls=context.TLSConfig or False, source=f'docker context {context.Name!r}')


def make_endpoint(
    url: str | None, *, tls: TLSConfig | bool | None = None, source: str | None = None, environ: Any = None
) -> Endpoint:
    """Return a checked endpoint; None is this platform's own default.

    Args:
        tls: None takes ``DOCKER_TLS_VERIFY`` and ``DOCKER_CERT_PATH`` into account for a ``tcp`` or ``https`` address.

    Raises:
        ConfigurationError: The address cannot be understood; it is named.
    """
    if url is None:
        default = str(docker_utils.parse_host(None, sys.platform == 'win32'))
        return Endpoint(url=default.replace('http+unix', 'unix'), source=source or 'the default')
    if tls is None:
        wants_tls = url.startswith(('tcp://', 'https://'))
        tls = _tls_from(os.environ if environ is None else environ) if wants_tls else False
    if url.startswith('https://') and not tls:
        tls = True
    endpoint = Endpoint(url=url, tls=tls, source=source or 'the caller')
    try:
        endpoint.request_url  # noqa: B018 - parsed here so that a bad address fails where it was given
    except (DockerException, ValueError) as error:
        raise ConfigurationError(
            f'The engine address {url!r}, given by {endpoint.source}, cannot be used ({error}). Addresses look like '
            'unix:///var/run/docker.sock, tcp://host:2376 or ssh://user@host.'
        ) from error
    return endpoint


def _tls_from(environ: Mapping[str, str]) -> TLSConfig | bool:
    """Read DOCKER_TLS_VERIFY and DOCKER_CERT_PATH; an empty value counts as unset, as for the docker command line."""
    verify = bool(environ.get('DOCKER_TLS_VERIFY'))
    folder = environ.get('DOCKER_CERT_PATH')
    if not verify and not folder:
        return False
    folder = folder or os.path.join(os.path.expanduser('~'), '.docker')
    try:
        return TLSConfig(
            client_cert=(os.path.join(folder, 'cert.pem'), os.path.join(folder, 'key.pem')),
            ca_cert=os.path.join(folder, 'ca.pem'),
            verify=verify,
        )
    except TLSParameterError as error:
        raise ConfigurationError(
            f'DOCKER_TLS_VERIFY or DOCKER_CERT_PATH is set, but {folder!r} does not hold ca.pem, cert.pem and key.pem'
        ) from error


# Connections ----------------------------------------------------------------------------------------------------------


class EngineConnection(Protocol):
    """The part of a socket that a stream needs; a `socket.socket` is one."""

    def recv(self, size: int, /) -> bytes:
        """Block for at least one byte and return at most ``size``; ``b''`` at the end."""

    def sendall(self, data: Any, /) -> None:
        """Block until all of it is sent."""

    def settimeout(self, timeout: float | None, /) -> None:
        """Bound every later recv and sendall by so many seconds; None blocks."""

    def shutdown(self, how: int, /) -> None:
        """End one direction or both; wakes the one that is blocked in it."""

    def close(self) -> None:
        """Free the file descriptor."""


class _TlsConnection:
    """TLS over a plain socket, readable and writable from two threads at once.

    The TLS state lives in an `ssl.SSLObject` over memory buffers. ``_lock`` guards it and is never held during I/O on the
    socket except while sending, where ``_send_lock`` keeps the records in order. Answers that the protocol itself wants
    (a key update) leave with the next write: a reader never blocks on sending.
    """

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, server_name: str) -> None:
        self._sock = sock
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=server_name)
        self._lock = threading.Lock()  # guards _tls, _incoming and _outgoing
        self._send_lock = threading.Lock()  # keeps records in order on the socket
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._flush()
                self._fill()
            else:
                self._flush()
                return

    def _flush(self) -> None:
        data = self._outgoing.read()
        if data:
            self._sock.sendall(data)

    def _fill(self) -> None:
        data = self._sock.recv(_CHUNK_BYTES)
        with self._lock:
            if data:
                self._incoming.write(data)
            else:
                self._incoming.write_eof()

    def recv(self, size: int, /) -> bytes:
        while True:
            with self._lock:
                try:
                    return self._tls.read(size)
                except ssl.SSLWantReadError:
                    pass
                except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                    return b''
            self._fill()

    def sendall(self, data: Any, /) -> None:
        view = memoryview(data)
        with self._send_lock:
            while view:
                with self._lock:
                    written = self._tls.write(view[:_CHUNK_BYTES])
                    records = self._outgoing.read()
                view = view[written:]
                self._sock.sendall(records)

    def settimeout(self, timeout: float | None, /) -> None:
        self._sock.settimeout(timeout)

    def shutdown(self, how: int, /) -> None:
        if how == socket.SHUT_WR:
            # A close_notify is the half-close of TLS; the other direction stays open.
            with self._send_lock:
                with self._lock:
                    try:
                        self._tls.unwrap()
                    except ssl.SSLError:
                        pass
                    records = self._outgoing.read()
                self._sock.sendall(records)
            return
        self._sock.shutdown(how)

    def close(self) -> None:
        self._sock.close()


class Dialer:
    """Opens connections to one endpoint. Lives as long as the engine client; close it to reap ssh processes."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.stderr_tail = ''  # what the last ssh process said before it gave up
        self._lock = threading.Lock()  # guards _children
        self._children: list[tuple[subprocess.Popen[bytes], IO[bytes]]] = []

    @property
    def can_dial(self) -> bool:
        """Whether this endpoint is dialled here; otherwise docker-py's own connection is taken over."""
        if sys.platform == 'win32':
            return self.endpoint.scheme not in ('npipe', 'ssh')
        return self.endpoint.scheme != 'npipe'

    @property
    def host_header(self) -> str:
        """The ``Host`` header for requests over these connections."""
        parsed = urllib.parse.urlsplit(self.endpoint.request_url)
        return parsed.netloc if parsed.scheme in ('http', 'https') else 'docker'

    def dial(self, timeout: float | None = CONNECT_TIMEOUT) -> EngineConnection:
        """Return a connected socket, whose time limit for every operation is ``timeout`` seconds.

        Raises:
            OSError: Nobody answers there.
        """
        if self.endpoint.scheme == 'ssh':
            return self.dial_ssh(timeout)
        path = self.endpoint.socket_path
        if path is not None:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                sock.settimeout(timeout)
                sock.connect(path)
            except BaseException:
                sock.close()
                raise
            return sock
        parsed = urllib.parse.urlsplit(self.endpoint.request_url)
        host = parsed.hostname or 'localhost'
        sock = socket.create_connection((host, parsed.port or 2375), timeout)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            return _TlsConnection(sock, make_tls_context(self.endpoint.tls), host) if self.endpoint.tls else sock
        except BaseException:
            sock.close()
            raise

    def dial_ssh(self, timeout: float | None = CONNECT_TIMEOUT) -> socket.socket:
        """Return our end of a socket pair; ``ssh`` holds the other one as its standard input and output."""
        self._reap()
        ours, theirs = socket.socketpair()
        errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed when the process is reaped
        try:
            child = subprocess.Popen(
                ssh_command(self.endpoint.url),
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                stderr=errors,
                start_new_session=True,  # Ctrl-C in the terminal is ours to handle, as the docker command line does it
            )
        except BaseException:
            ours.close()
            errors.close()
            raise
        finally:
            theirs.close()
        with self._lock:
            self._children.append((child, errors))
        ours.settimeout(timeout)
        return ours

    def explain(self) -> str:
        """Return what a failed ssh process wrote, or an empty string."""
        if self.endpoint.scheme != 'ssh':
            return ''
        with self._lock:
            newest = self._children[-1][0] if self._children else None
        if newest is not None:
            try:
                newest.wait(_SSH_EXIT_GRACE)  # its end of the stream closes a moment before it has exited
            except subprocess.TimeoutExpired:
                pass
        self._reap()
        return self.stderr_tail

    def _reap(self) -> None:
        with self._lock:
            ended = [each for each in self._children if each[0].poll() is not None]
            self._children = [each for each in self._children if each not in ended]
        for child, errors in ended:
            if child.returncode not in (0, None):
                errors.seek(0)
                tail = errors.read(_HEAD_BYTES).decode('utf-8', 'replace').strip()
                self.stderr_tail = tail or f'ssh ended with exit code {child.returncode}'
            errors.close()

    def close(self) -> None:
        """End what is left of ssh. Connections that are still open break."""
        with self._lock:
            children, self._children = self._children, []
        for child, errors in children:
            try:
                child.wait(_SSH_EXIT_GRACE)
            except subprocess.TimeoutExpired:
                child.terminate()
                child.wait()
            errors.close()


def ssh_command(url: str) -> list[str]:
    """Return the argv that reaches the engine behind ``ssh://[user@]host[:port][/path/to/docker.sock]``."""
    parsed = urllib.parse.urlsplit(url)
    if not parsed.hostname:
        raise ConfigurationError(f'an ssh engine address looks like ssh://user@host, not {url!r}')
    command = ['ssh', '-T', '-o', f'ConnectTimeout={int(CONNECT_TIMEOUT)}']
    if parsed.username:
        command += ['-l', urllib.parse.unquote(parsed.username)]
    if parsed.port:
        command += ['-p', str(parsed.port)]
    remote = ['docker']
    if parsed.path.strip('/'):
        remote += ['--host', f'unix://{parsed.path}']
    return [*command, '--', parsed.hostname, shlex.join([*remote, 'system', 'dial-stdio'])]


def make_tls_context(tls: TLSConfig | bool) -> ssl.SSLContext:
    """Return how to check the engine, and what to show it.

    A CA that the user made for the engine is taken as it is: Docker's own instructions make one without a key usage
    extension, which Python 3.13's strict checks would refuse.
    """
    if not isinstance(tls, TLSConfig):
        return ssl.create_default_context()
    context = ssl.create_default_context(cafile=tls.ca_cert or None)
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if not tls.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if tls.cert:
        certificate, key = tls.cert
        context.load_cert_chain(certificate, key)
    return context


# Streams --------------------------------------------------------------------------------------------------------------


class RawStream:
    """A blocking two-way stream of bytes, exactly as the engine sends them.

    One thread may read while others write and any thread closes. There is no time limit on either direction. It lives as
    long as the container's attachment or the exec; the one that opened it closes it.
    """

    def __init__(self, connection: EngineConnection, leftover: bytes = b'') -> None:
        self._connection = connection
        self._leftover = leftover  # touched by the reader alone
        self._write_lock = threading.Lock()  # keeps each write whole
        self._lock = threading.Lock()  # guards _users and _closed
        self._users = 0
        self._closed = False

    def read(self, max_bytes: int = _CHUNK_BYTES) -> bytes:
        """Block until something arrives and return at most ``max_bytes`` of it; ``b''`` once the stream has ended.

        However it ended: the peer closed it, the connection broke, or `close` was called.
        """
        if self._leftover:
            data, self._leftover = self._leftover[:max_bytes], self._leftover[max_bytes:]
            return data
        if not self._enter():
            return b''
        try:
            return self._connection.recv(max_bytes)
        except OSError:
            return b''
        finally:
            self._leave()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Block until all of ``data`` is handed over; writes from several threads never mix.

        Raises:
            ConnectionError: The stream is closed or broken.
        """
        if not self._enter():
            raise BrokenPipeError('the stream to the engine is closed')
        try:
            with self._write_lock:
                self._connection.sendall(data)
        except ConnectionError:
            raise
        except OSError as error:
            raise BrokenPipeError(f'the stream to the engine broke: {error}') from error
        finally:
            self._leave()

    def write_some(self, data: bytes) -> int:
        """Hand over as much of ``data`` as is taken without blocking, and return how much that was. Where a connection cannot
        say, that is all of it, and it blocks.

        Raises:
            ConnectionError: The stream is closed or broken.
        """
        connection = self._connection
        if not isinstance(connection, socket.socket) or not hasattr(socket, 'MSG_DONTWAIT'):
            self.write(data)
            return len(data)
        if not self._enter():
            raise BrokenPipeError('the stream to the engine is closed')
        sent = 0
        try:
            with self._write_lock, contextlib.suppress(BlockingIOError):
                while sent < len(data):
                    sent += connection.send(memoryview(data)[sent:], socket.MSG_DONTWAIT)
        except ConnectionError:
            raise
        except OSError as error:
            raise BrokenPipeError(f'the stream to the engine broke: {error}') from error
        finally:
            self._leave()
        return sent

    def wait_writable(self, timeout: float) -> bool:
        """Wait until something is taken; False if that is not so in so many seconds.

        Raises:
            ConnectionError: The stream is closed.
        """
        connection = self._connection
        if not isinstance(connection, socket.socket) or not hasattr(select, 'poll'):
            return True
        if not self._enter():
            raise BrokenPipeError('the stream to the engine is closed')
        try:
            room = select.poll()
            room.register(connection.fileno(), select.POLLOUT)
            return bool(room.poll(timeout * 1000))
        finally:
            self._leave()

    def close_write(self) -> None:
        """Say that nothing more will be written: the peer's standard input ends. Reading continues."""
        if not self._enter():
            return
        try:
            with self._write_lock:
                self._connection.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        finally:
            self._leave()

    def close(self) -> None:
        """End the stream from any thread; a blocked `read` returns ``b''``. May be called twice."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            idle = self._users == 0
        try:
            self._connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        if idle:
            self._connection.close()

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    # The descriptor is freed by the last one to leave: closing it under a reader's feet would let the kernel give its number
    # to another connection, and the reader would then steal that one's bytes.
    def _enter(self) -> bool:
        with self._lock:
            if not self._closed:
                self._users += 1
            return not self._closed

    def _leave(self) -> None:
        with self._lock:
            self._users -= 1
            last = self._closed and self._users == 0
        if last:
            self._connection.close()

    def __enter__(self) -> RawStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f'<RawStream {"closed" if self._closed else "open"}>'


class _HijackedConnection:
    """docker-py's own connection after an upgrade, for the transports that only it can dial.

    Reads go through the response's buffered reader, because that may already hold the stream's first bytes.
    """

    def __init__(self, response: Any) -> None:
        self._response = response  # keeps urllib3 from closing the connection when it is collected
        self._reader = response.raw._fp.fp
        raw = getattr(self._reader, 'raw', None)
        self._socket: Any = (
            getattr(raw, 'sock', None) or getattr(raw, '_sock', None) or getattr(self._reader, 'channel', None)
        )
        self.settimeout(None)

    def recv(self, size: int, /) -> bytes:
        try:
            data: bytes = self._reader.read1(size)
        except (OSError, ValueError):
            raise
        except Exception as error:  # pywintypes.error, which only exists on Windows, when the pipe has ended
            raise BrokenPipeError(str(error)) from error
        return data

    def sendall(self, data: Any, /) -> None:
        view = memoryview(data)
        while view:
            sent = self._socket.send(view[:_CHUNK_BYTES])
            view = view[sent:]

    def settimeout(self, timeout: float | None, /) -> None:
        if hasattr(self._socket, 'settimeout'):
            self._socket.settimeout(timeout)

    def shutdown(self, how: int, /) -> None:
        if how == socket.SHUT_RDWR or isinstance(self._socket, socket.socket):
            self._socket.shutdown(how)

    def close(self) -> None:
        self._response.close()
        self._reader.close()
        try:
            self._socket.close()
        except Exception:  # pywintypes.error for a handle that the shutdown had closed
            pass


def take_over(response: Any) -> RawStream:
    """Return the stream behind an upgraded docker-py response."""
    return RawStream(_HijackedConnection(response))


def upgrade(
    connection: EngineConnection,
    path: str,
    *,
    host: str,
    body: bytes = b'',
    on_refusal: Callable[[int, str], EnclaveError],
) -> RawStream:
    """POST ``path`` over a fresh connection and return the raw stream it turns into.

    Args:
        on_refusal: Makes the exception to raise from the HTTP status and the engine's message.

    Raises:
        OSError: The connection broke before the engine had answered.
    """
    request = (
        f'POST {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: ms-enclave\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n'
        f'Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n'
    )
    connection.sendall(request.encode('ascii') + body)
    received = b''
    while b'\r\n\r\n' not in received:
        data = connection.recv(_CHUNK_BYTES)
        if not data or len(received) > _HEAD_BYTES:
            raise ConnectionResetError('the engine closed the connection before it answered')
        received += data
    head, _, rest = received.partition(b'\r\n\r\n')
    match = re.match(rb'HTTP/1\.[01] (\d{3})', head)
    status = int(match[1]) if match else 0
    if status in (101, 200):  # 200 is an engine before 1.22, which upgrades without saying so
        connection.settimeout(None)
        return RawStream(connection, rest)
    raise on_refusal(status, _refusal_message(connection, head, rest))


def _refusal_message(connection: EngineConnection, head: bytes, rest: bytes) -> str:
    length = re.search(rb'(?i)\r\ncontent-length: *(\d+)', head)
    wanted = min(int(length[1]), _HEAD_BYTES) if length else len(rest)
    while len(rest) < wanted:
        data = connection.recv(_CHUNK_BYTES)
        if not data:
            break
        rest += data
    text = rest.decode('utf-8', 'replace').strip()
    try:
        return str(json.loads(text)['message'])
    except (ValueError, KeyError, TypeError, RecursionError):
        return text or head.split(b'\r\n')[0].decode('latin-1')
