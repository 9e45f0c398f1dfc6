"""A port of a sandbox, reached through the server (layer 6): HTTP, and what HTTP upgrades to, WebSocket above all.

A request for ``/sandbox/ID/port/PORT/PATH`` goes to that port as seen from inside, as one for ``/PATH``; no port is published.
What comes back is a guest's: as a page it gets no rights of this server's origin, and it sets no cookies here.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import logging
import re
import threading
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, cast
from urllib.parse import quote

import flask

from enclave.errors import EnclaveError, InvalidArgumentError, SandboxError, SandboxPathError, ServerError
from enclave.sandboxes.connection import Connection
from enclave.server.auth import sent_key
from enclave.server.faults import shown_error, status_of
from enclave.server.route import BYTES, Adapter, Context, Head, Identity, RawBody, Streamed, add_route
from enclave.server.service import Service
from enclave.wire import to_json

logger = logging.getLogger(__name__)

METHODS = ('GET', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS')
RAW_KEY = 'enclave.raw_answer'
"""In the WSGI environment: writes bytes to the client as they are; the request then has no other answer."""
CONNECT_SECONDS = 10.0
PIECE_BYTES = 64 << 10
MAX_HEAD_BYTES = 64 << 10
GUEST_PAGE = 'sandbox allow-scripts allow-forms allow-modals allow-popups allow-downloads'
"""The Content-Security-Policy of what a guest serves below this server's own name: its scripts have an origin of their own."""
_HOP_BY_HOP = frozenset(
    {
        'connection',
        'keep-alive',
        'proxy-authenticate',
        'proxy-authorization',
        'te',
        'trailer',
        'trailers',
        'transfer-encoding',
        'upgrade',
    }
)
_OF_THE_ORIGIN = frozenset(
    {
        'accept-ch',
        'alt-svc',
        'clear-site-data',
        'content-security-policy',
        'expect-ct',
        'nel',
        'origin-agent-cluster',
        'public-key-pins',
        'report-to',
        'reporting-endpoints',
        'service-worker-allowed',
        'set-cookie',
        'set-cookie2',
        'strict-transport-security',
    }
)
"""Headers by which a page would rule more than itself: all that has this server's name, other sandboxes' pages too."""
_ADDRESS = re.compile(r'(/sandbox/[^/]+|/e2b)/port/[0-9]+/')
_SECRETS = frozenset({'x-api-key', 'x-access-token', 'e2b-traffic-access-token', 'e2b-sandbox-id', 'e2b-sandbox-port'})


class Ports(Adapter):
    """The addresses of ports, which speak whatever the guest does: asked with a key, as all else."""

    name: ClassVar[str] = 'ports'
    prefix: ClassVar[str] = '/sandbox'

    def identify(self, service: Service, head: Head) -> Identity:
        """Return the key of a request; see `Adapter.identify`."""
        return Identity(service.authenticator.identify(head.headers))

    def failure(self, error: EnclaveError, status: int | None) -> tuple[bytes, int, str]:
        """Return an error as the server's own addresses answer it; a port that is not open is a bad gateway."""
        number = 502 if isinstance(error, PortError) else status_of(error) if status is None else status
        return to_json(shown_error(error)).encode('ascii'), number, 'application/json'


class PortError(SandboxError):
    """A port of a sandbox is not open, or what listens there does not speak HTTP."""

    code = 'port'


PORTS = Ports()


def reach(context: Context, sandbox_id: str, port: str, rest: str, body: RawBody, *, own_origin: bool = False) -> Any:
    """Hand a request on to a port of a sandbox, and its answer back.

    Args:
        own_origin: The sandbox was asked by a name of its own, so that its pages need not be kept from this server.

    Raises:
        PortError: Nobody listens there, or does not answer in HTTP.
    """
    number = _port(port)
    context.facts['sandbox_id'] = sandbox_id
    connect = context.service.verb(context.tenant, sandbox_id, 'connect_port')
    try:
        connection: Connection = connect(number, timeout=CONNECT_SECONDS)
    except SandboxPathError as error:
        raise PortError(f'port is not open: {number} in sandbox {sandbox_id}', details={'port': number}) from error
    try:
        context.on_gone(connection.close)
        upgrade = flask.request.headers.get('Upgrade')
        connection.sendall(_head(number, rest, body.size, upgrade))
        if upgrade is not None:
            return _upgraded(connection, body, own_origin=own_origin)
        while piece := body.stream.read(PIECE_BYTES):
            connection.sendall(piece)
        return _answer(connection, flask.request.method, b'', own_origin=own_origin)
    except BrokenPipeError:
        connection.close()
        raise PortError(f'port {number} of sandbox {sandbox_id} closed the connection') from None
    except BaseException:
        connection.close()
        raise


def takes_upgrade(path: str) -> bool:
    """Return whether an address is a port's, whose connection may be upgraded."""
    return _ADDRESS.match(path) is not None


def _port(text: str) -> int:
    if not text.isdecimal() or not text.isascii() or not 1 <= int(text[:6]) <= 65535:
        raise InvalidArgumentError(f'a port is a number from 1 to 65535, not {text[:20]!r}')
    return int(text)


def _head(port: int, rest: str, size: int, upgrade: str | None) -> bytes:
    """Return the head of the request as the port gets it, without what was for this server."""
    request = flask.request
    query = request.query_string.decode('latin-1')
    path = quote('/' + rest, safe="/:@!$&'()*+,;=-._~")
    lines = [f'{request.method} {path}{f"?{query}" if query else ""} HTTP/1.1', f'Host: localhost:{port}']
    key = sent_key(cast(Mapping[str, str], request.headers))
    named = {each.strip().lower() for each in request.headers.get('Connection', '').split(',')}
    for name, value in request.headers.items():
        lower = name.lower()
        is_key = lower == 'authorization' and key is not None and value.endswith(key)
        if lower in ('host', 'content-length') or lower in _HOP_BY_HOP | _SECRETS | named or is_key:
            continue
        lines.append(f'{name}: {value}')
    lines += [f'X-Forwarded-Host: {request.host}', 'X-Forwarded-Proto: http']
    if upgrade is not None:
        lines += ['Connection: Upgrade', f'Upgrade: {upgrade}']
    else:
        lines += ['Connection: close', *([f'Content-Length: {size}'] if size or request.method != 'GET' else [])]
    text = '\r\n'.join(lines)
    if any(each in line for line in lines for each in '\r\n'):
        raise InvalidArgumentError('a header has a line break')
    return text.encode('latin-1', 'replace') + b'\r\n\r\n'


class _Incoming(io.RawIOBase):
    """What a connection gives, as a file."""

    def __init__(self, connection: Connection, first: bytes) -> None:
        self._connection = connection
        self._first = first

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._first or self._connection.recv(len(buffer))
        self._first = b''
        if len(data) > len(buffer):
            data, self._first = data[: len(buffer)], data[len(buffer) :]
        buffer[: len(data)] = data
        return len(data)


class _Socket:
    """As much of a socket as `http.client.HTTPResponse` asks for."""

    def __init__(self, connection: Connection, first: bytes) -> None:
        self._file = io.BufferedReader(_Incoming(connection, first), PIECE_BYTES)

    def makefile(self, mode: str) -> Any:
        """Return what comes, as a file."""
        return self._file


def _answer(connection: Connection, method: str, first: bytes, *, own_origin: bool) -> Streamed:
    response = http.client.HTTPResponse(cast(Any, _Socket(connection, first)), method=method)
    try:
        response.begin()
        if response.status < 200:
            raise http.client.BadStatusLine(str(response.status))
        length = _length(response)
    except (http.client.HTTPException, ValueError) as error:
        response.close()  # else collecting it may find its file closed before it (CPython 3.13)
        raise PortError(f'what listens there does not answer in HTTP: {type(error).__name__}') from None
    dropped = {*_HOP_BY_HOP, 'content-length', *(() if own_origin else _OF_THE_ORIGIN)}
    headers = [
        (name, value)
        for name, value in response.getheaders()
        if name.lower() not in dropped and name.isprintable() and value.isprintable()
    ]
    if length is not None:
        headers.append(('Content-Length', length))
    if not own_origin:
        headers.append(('Content-Security-Policy', GUEST_PAGE))
    return Streamed(_body(connection, response), '', status=response.status, headers=tuple(headers))


def _length(response: http.client.HTTPResponse) -> str | None:
    """Return how long the body of an answer is by its head; None where its end says so.

    Raises:
        ValueError: The head says nothing that can be meant, or two things.
    """
    if response.chunked:
        return None
    found = set(response.headers.get_all('Content-Length', ()))
    if not found:
        return None
    length = found.pop()
    if found or not re.fullmatch('[0-9]{1,18}', length):
        raise ValueError('Content-Length')
    return length


def _body(connection: Connection, response: http.client.HTTPResponse) -> Iterator[bytes]:
    try:
        while data := response.read1(PIECE_BYTES):
            yield data
    except (http.client.HTTPException, ValueError) as error:
        raise ServerError(f'the answer of the port broke off: {type(error).__name__}') from None
    finally:
        response.close()
        connection.close()


def _upgraded(connection: Connection, body: RawBody, *, own_origin: bool) -> Any:
    """Carry what the client and the port say after an upgrade, until one of them ends it."""
    head = b''
    while b'\r\n\r\n' not in head:
        piece = connection.recv(PIECE_BYTES)
        head += piece
        if not piece or len(head) > MAX_HEAD_BYTES:
            break
    if not head.startswith((b'HTTP/1.1 101 ', b'HTTP/1.1 101\r')):
        return _answer(connection, flask.request.method, head, own_origin=own_origin)
    raw = flask.request.environ.get(RAW_KEY)
    if raw is None:
        raise PortError('this server cannot carry what the connection was upgraded to')
    stream = body.stream

    def send() -> None:
        with contextlib.suppress(EnclaveError, BrokenPipeError):
            while piece := stream.read(PIECE_BYTES):
                connection.sendall(piece)
            connection.shutdown_write()

    thread = threading.Thread(target=send, name='enclave-port', daemon=True)
    raw(head)
    thread.start()
    try:
        while data := connection.recv(PIECE_BYTES):
            raw(data)
    finally:
        connection.close()
    return flask.Response(b'', 101)


def _handler(context: Context, sandbox_id: str, port: str, body: RawBody, rest: str = '') -> Any:
    return reach(context, sandbox_id, port, rest, body)


for _method in METHODS:
    for _name, _path in (
        ('', '/sandbox/<sandbox_id>/port/<port>/'),
        ('_below', '/sandbox/<sandbox_id>/port/<port>/<path:rest>'),
    ):
        add_route(
            _method,
            _path,
            _handler,
            name=f'reach_port_{_method.lower()}{_name}',
            text='Hand a request on to a port of the sandbox.',
            adapter=PORTS,
            body=BYTES,
            lane='stream',
            tag='processes',
        )
