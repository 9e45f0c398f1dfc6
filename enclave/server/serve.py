"""The server itself (layer 6): a socket, waitress, and the safe defaults of who may come in.

Waitress is used here and in `readiness` only. What it does not do is added in three small subclasses. A body is refused by its
head: a request without a known key, or with a body larger than its route takes, is answered before anything of the body is
kept. A connection that is too slow with a request, or takes nothing of its answer, is closed. Who goes away while their request
continues is noticed at once.
"""

from __future__ import annotations

import contextlib
import copy
import errno
import functools
import gc
import logging
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType
from typing import Any
from urllib.parse import parse_qsl

from waitress.adjustments import Adjustments
from waitress.buffers import OverflowableBuffer, ReadOnlyFileBasedBuffer
from waitress.channel import ClientDisconnected, HTTPChannel
from waitress.parser import HTTPRequestParser, ParsingError
from waitress.receiver import ChunkedReceiver, FixedStreamReceiver
from waitress.server import TcpWSGIServer
from waitress.task import ErrorTask, ThreadedTaskDispatcher, WSGITask
from waitress.utilities import Error as ParseError
from waitress.utilities import build_http_date

from enclave import wire
from enclave.enums import SandboxManagerType
from enclave.errors import (
    AuthenticationError,
    ConfigurationError,
    EnclaveError,
    InvalidArgumentError,
    ManagerStoppedError,
    ServerError,
    ServerUnavailableError,
)
from enclave.managers import keyfile
from enclave.managers.base import SandboxManager
from enclave.managers.manager_config import SandboxManagerConfig
from enclave.managers.manager_factory import SandboxManagerFactory
from enclave.managers.protocol import (
    API_KEY_ENVIRONMENT,
    PROTOCOL_HEADER,
    PROTOCOL_VERSION,
    REQUEST_ID_HEADER,
)
from enclave.sandboxes.sandbox_factory import SandboxFactory
from enclave.server.adapters import adapter_at, takes_live_body
from enclave.server.adapters.e2b import E2BSettings, locators
from enclave.server.adapters.sandbox_fusion import SandboxFusionSettings
from enclave.server.app import WATCH_KEY, create_app
from enclave.server.audit import Audit
from enclave.server.auth import (
    ANONYMOUS,
    ApiKey,
    Authenticator,
    HostGuard,
    is_readable_by_others,
    make_key,
    one_key,
    read_keys,
)
from enclave.server.bodies import LiveBody
from enclave.server.direct import as_bytes
from enclave.server.early import EARLY_KEY, Rest
from enclave.server.faults import (
    QUERY_LIMIT,
    extra_headers,
    shown_error,
    status_of,
    too_large,
    too_many_parameters,
)
from enclave.server.policy import Policy
from enclave.server.ports import RAW_KEY, takes_upgrade
from enclave.server.readiness import NearServer, Readiness
from enclave.server.route import ROUTES, VARIABLE, Head
from enclave.server.service import Service

logger = logging.getLogger(__name__)

DEFAULT_PORT = 8000
DEFAULT_IDLE_SECONDS = 3600.0
"""How long a sandbox may be idle where the manager's configuration was not given: clients that crash delete nothing."""
UNKNOWN_CLIENT_BYTES = 64 << 10
DRAINED_BYTES = 64 << 20
"""How much of a refused body is still taken, so that the client gets to read why."""
_JOINED_BYTES = 64 << 10
"""A body up to this size is sent together with its head."""
_GATHERED_BYTES = 256 << 10
"""How much of the end of an answer is joined for one send, about."""
_EARLY_BYTES = 512 << 10
"""While less than this waits for a client, an answer whose work continues is sent."""
_MAINTENANCE_SECONDS = 1
_JOIN_SECONDS = 5.0


# Waitress -------------------------------------------------------------------------------------------------------------


class _RefusedRequest(ParseError):  # type: ignore[misc, unused-ignore]
    """An error that waitress's parser found, with our body."""

    def __init__(self, status: int, error: EnclaveError) -> None:
        super().__init__(error.message)
        self.code = status
        self.fault = error


class _NoBuffer:
    """Takes bytes and keeps none."""

    def append(self, data: bytes) -> None:
        pass

    def __len__(self) -> int:
        return 0

    def getfile(self) -> Any:
        raise AssertionError('unreachable')

    def close(self) -> None:
        pass


class _Endless:
    """Takes all that comes after a request that was upgraded, as waitress's receivers take a body."""

    completed = False
    error = None

    def __init__(self, live: LiveBody) -> None:
        self._live = live

    def received(self, data: bytes) -> int:
        self._live.append(data)
        return len(data)

    def getfile(self) -> LiveBody:
        return self._live

    def getbuf(self) -> LiveBody:
        return self._live

    def __len__(self) -> int:
        return len(self._live)


class _HeadCheck:
    """What a request's head says about its body. Lives as long as the server."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._policy = service.policy
        self._authenticator = service.authenticator
        raw: dict[str, list[str]] = {}
        for route in ROUTES.values():
            if isinstance(route.body, str):
                path = VARIABLE.sub('[^/]+', route.path)
                raw.setdefault(route.method, []).append(path.replace('<path:rest>', '.*'))
        self._adjusted: dict[int, Any] = {}
        self._raw = {method: re.compile('|'.join(paths)) for method, paths in raw.items()}

    def limit(self, method: str, path: str) -> int:
        """Return how large the body of a request may be: a route with a raw body says so where it is declared."""
        paths = self._raw.get(method)
        raw = paths is not None and paths.fullmatch(path) is not None
        return self._policy.max_upload_bytes if raw else self._policy.max_json_bytes

    def adjusted(self, adjustments: Adjustments, most: int) -> Any:
        """Return waitress's settings for a body of less than so many bytes; there are few such."""
        found = self._adjusted.get(most)
        if found is None:
            found = self._adjusted[most] = _adjusted(adjustments, most)
        return found

    def check(self, limit: int, request: Any) -> EnclaveError | None:
        """Return why the body of a request, whose head has come, shall not be taken, or None."""
        size = request.content_length
        if (request.chunked or size > UNKNOWN_CLIENT_BYTES) and self._authenticator.needs_key:
            try:
                self._identify(request)
            except (AuthenticationError, InvalidArgumentError) as error:
                return error
            except Exception:  # waitress would close the connection without an answer
                logger.exception('a request whose head had come could not be looked at')
                return ServerError('the server failed; its log says why')
        return too_large(limit) if size > limit else None

    def _identify(self, request: Any) -> None:
        headers = _WaitressHeaders(request.headers)
        adapter = adapter_at(request.path)
        if adapter is None:
            self._authenticator.identify(headers)
            return
        try:
            query = dict(parse_qsl(request.query, keep_blank_values=True, max_num_fields=QUERY_LIMIT))
        except ValueError:
            raise too_many_parameters() from None
        adapter.identify(self._service, Head(method=request.command, path=request.path, query=query, headers=headers))


def _adjusted(adjustments: Adjustments, most: int) -> Any:
    made = copy.copy(adjustments)
    made.max_request_body_size = most
    return made


class _WaitressHeaders(dict[str, str]):
    """Waitress's headers, ``X_API_KEY``, under the names people write."""

    def get(self, name: str, default: str = '') -> str:  # type: ignore[override]
        return super().get(name.upper().replace('-', '_'), default)


class _Parser(HTTPRequestParser):  # type: ignore[misc, unused-ignore]
    """Refuses bodies by their heads, and knows when its request began.

    Attributes:
        locate: Gives the address that a request means, and headers to add, for its Host header and its path; None where those
            are the address.
        wake: Has waitress look again at what can be read.
    """

    gate: _HeadCheck
    wake: Callable[[], None] = staticmethod(lambda: None)
    path: str
    locate: Callable[[str, str], tuple[str, dict[str, str]]] | None = None
    adj: Any

    def __init__(self, adj: Adjustments) -> None:
        super().__init__(adj)
        self.began_at = time.monotonic()
        self.live: LiveBody | None = None
        self._refusal: _RefusedRequest | None = None

    def parse_header(self, header_plus: bytes) -> None:
        _check_framing(header_plus)
        try:
            super().parse_header(header_plus)
        except ValueError:  # more digits than Python makes a number of
            raise ParsingError('Content-Length is invalid') from None
        if self.locate is not None:
            place, named = self.locate(self.headers.get('HOST', ''), self.path)
            self.path = place
            self.headers.update(named)
        limit = self.gate.limit(self.command, self.path)
        error = self.gate.check(limit, self)
        self.adj = self.gate.adjusted(self.adj, limit + 1)  # waitress refuses what is as large as this
        if error is None:
            if self.chunked and takes_live_body(self.path):
                self.live = LiveBody(self.wake)
                self.body_rcv = ChunkedReceiver(self.live)
            elif 'UPGRADE' in self.headers and takes_upgrade(self.path) and self.body_rcv is None:
                self.live = LiveBody(self.wake)
                self.body_rcv = _Endless(self.live)
                self.adj = self.gate.adjusted(self.adj, 1 << 62)
            return
        self._refusal = _RefusedRequest(status_of(error), error)
        self.expect_continue = False
        if not self.chunked and self.content_length <= DRAINED_BYTES:
            self.body_rcv = FixedStreamReceiver(self.content_length, _NoBuffer())
            self.adj = _adjusted(self.adj, self.content_length + 1)
        else:
            self.body_rcv = None  # the request is complete here, and so is the connection

    def received(self, data: bytes) -> int:
        taken: int = super().received(data)
        if self.completed and self.live is not None:
            self.live.close()
        if self.completed and self._refusal is not None:
            self.error = self._refusal
        elif self.completed and self.error is not None and not isinstance(self.error, _RefusedRequest):
            self.error = _refused(self.error, self.adj.max_request_body_size - 1)
        return taken


_TRANSFER_ENCODING = re.compile(rb'^transfer[-_]encoding[ \t]*:', re.IGNORECASE | re.MULTILINE)
_CONTENT_LENGTH = re.compile(rb'^content[-_]length[ \t]*:', re.IGNORECASE | re.MULTILINE)


def _check_framing(head: bytes) -> None:
    """Check that there is one way to read how long a body is; a proxy before us may have taken the other (RFC 9112, 6.1 and 6.3).

    Raises:
        ParsingError: There are two.
    """
    if not _TRANSFER_ENCODING.search(head):
        return
    if _CONTENT_LENGTH.search(head):
        raise ParsingError('Content-Length and Transfer-Encoding are given both')
    if b' HTTP/1.0' in head.partition(b'\n')[0]:
        raise ParsingError('Transfer-Encoding is none of version 1.0')


def _refused(error: ParseError, limit: int) -> _RefusedRequest:
    if error.code == 413:
        return _RefusedRequest(413, too_large(limit))
    kind = ServerError if error.code == 500 else InvalidArgumentError
    return _RefusedRequest(error.code, kind(f'{error.reason}: {error.body}'))


_LISTEN_HINTS = {
    errno.EADDRINUSE: 'is another server running there? Choose another port',
    errno.EADDRNOTAVAIL: "it is no address of this machine; 0.0.0.0 is all of this machine's",
    errno.EACCES: 'ports below 1024 are for root; choose another port',
}
_REASONS = {
    400: 'Bad Request',
    401: 'Unauthorized',
    413: 'Request Entity Too Large',
    431: 'Request Header Fields Too Large',
}


class _ErrorTask(ErrorTask):  # type: ignore[misc, unused-ignore]
    """Answers what the parser refused, as every other refusal is answered."""

    def execute(self) -> None:
        error = self.request.error
        if not isinstance(error, _RefusedRequest):
            # What failed in the application without being reported there.
            error = _refused(error, 0)
        self.status = f'{error.code} {_REASONS.get(error.code, error.reason or "Error")}'
        body = wire.to_json(shown_error(error.fault)).encode('ascii')
        request_id = f'refused-{time.monotonic_ns():x}'
        self.response_headers = [
            ('Content-Type', 'application/json'),
            ('Content-Length', str(len(body))),
            (PROTOCOL_HEADER, str(PROTOCOL_VERSION)),
            (REQUEST_ID_HEADER, request_id),
            ('Connection', 'close'),
            *extra_headers(error.fault, error.code).items(),
        ]
        self.close_on_finish = True
        self.content_length = len(body)
        self.write(body)
        self.channel.audit.write(
            request_id=request_id,
            who=ANONYMOUS,
            address=str(self.channel.addr[0]),
            method=str(getattr(self.request, 'command', '-'))[:16],
            route='-',
            path=str(getattr(self.request, 'path', '-'))[:256],
            sandbox_id=None,
            tool_name=None,
            status=error.code,
            code=error.fault.code,
            seconds=round(time.monotonic() - getattr(self.request, 'began_at', time.monotonic()), 6),
        )


_LEFT_TO_WAITRESS = frozenset({'connection', 'date', 'server', 'transfer-encoding', 'via'})


@functools.lru_cache(maxsize=2)
def _date(seconds: int) -> str:
    return str(build_http_date(seconds))


class _Whole(ReadOnlyFileBasedBuffer):  # type: ignore[misc, unused-ignore]
    """A large body that waits to be sent, as it is: waitress's own buffers would copy it, and write it to a file."""

    def __init__(self, data: bytes) -> None:
        self._left = memoryview(data)
        self.remain = len(data)

    def __len__(self) -> int:
        return self.remain

    def get(self, numbytes: int = -1, skip: bool = False) -> memoryview:
        piece = self._left if numbytes < 0 else self._left[:numbytes]
        if skip:
            self.skip(len(piece))
        return piece

    def skip(self, numbytes: int, allow_prune: int = 0) -> None:
        self._left = self._left[numbytes:]
        self.remain = len(self._left)

    def close(self) -> None:
        self._left = memoryview(b'')
        self.remain = 0


class _Gathered(ReadOnlyFileBasedBuffer):  # type: ignore[misc, unused-ignore]
    """Many pieces that wait to be sent, of which some are joined, or made of texts, at a time."""

    def __init__(self, pieces: Sequence[bytes | wire.AsciiText]) -> None:
        self._pieces: Iterator[bytes] = as_bytes(pieces)
        self._joined = memoryview(b'')
        self.remain = sum(map(len, pieces))

    def __len__(self) -> int:
        return self.remain

    def get(self, numbytes: int = -1, skip: bool = False) -> memoryview:
        if not self._joined:
            self._joined = memoryview(self._join())
        piece = self._joined if numbytes < 0 else self._joined[:numbytes]
        if skip:
            self.skip(len(piece))
        return piece

    def _join(self) -> bytes:
        found: list[bytes] = []
        size = 0
        while size < _GATHERED_BYTES and (piece := next(self._pieces, None)) is not None:
            found.append(piece)
            size += len(piece)
        return b''.join(found)

    def skip(self, numbytes: int, allow_prune: int = 0) -> None:
        self._joined = self._joined[numbytes:]
        self.remain -= numbytes

    def close(self) -> None:
        self._pieces = iter(())
        self._joined = memoryview(b'')
        self.remain = 0


class _Mark(ReadOnlyFileBasedBuffer):  # type: ignore[misc, unused-ignore]
    """Stands behind what waits to be sent, and calls an action, once, when that was sent or cannot be any more."""

    remain = 0

    def __init__(self, action: Callable[[], object]) -> None:
        self._actions = [action]

    def __len__(self) -> int:
        return 0

    def close(self) -> None:
        with contextlib.suppress(IndexError):
            self._actions.pop()()


class _Task(WSGITask):  # type: ignore[misc, unused-ignore]
    """Lets the application learn that the client went away, and breaks off answers that fail in the middle."""

    def service(self) -> None:
        try:
            super().service()
        except EnclaveError:
            # Logged where it was raised, and no fault of the server's: waitress would log the whole traceback.
            if not (self.wrote_header or self.channel.is_gone):
                raise
            self.close_on_finish = True
        if self.channel.has_more_than_it_sends:
            self.close_on_finish = True

    is_raw = False
    is_early = False  # it has begun before its work had ended
    chunked_response: bool
    wrote_header: bool
    version: str
    status: str
    start_time: float
    request: Any
    response_headers: list[tuple[str, str]]
    close_on_finish: bool
    complete: bool
    has_body: bool
    content_length: int | None
    content_bytes_written: int

    def get_environment(self) -> dict[str, Any]:
        environment: dict[str, Any] = super().get_environment()
        environment[WATCH_KEY] = self.channel.watch
        environment[RAW_KEY] = self.write_raw
        environment[EARLY_KEY] = self
        return environment

    def has_room(self) -> bool:
        """Return whether a piece of an answer is taken now without waiting for the client."""
        return bool(self.channel.total_outbufs_len < _EARLY_BYTES)

    def send_early(self, pieces: list[bytes]) -> None:
        """Send pieces of an answer in chunks whose work continues."""
        with contextlib.suppress(ClientDisconnected):
            self._write_chunk(pieces)

    def when_sent(self, action: Callable[[], object]) -> None:
        """Have ``action`` called once all that was written so far is sent, or cannot be any more."""
        self.channel.when_sent(action)

    def _write_chunk(self, pieces: list[bytes]) -> None:
        """Write a chunk, behind the head if that is not sent yet."""
        self.is_early = True
        self.channel.write_soon(_Whole(b''.join([self._head(), b'%x\r\n' % sum(map(len, pieces)), *pieces, b'\r\n'])))

    def _write_rest(self, rest: Rest) -> None:
        """Write all that is left of an answer: the last chunk of one that has begun, or the whole body."""
        size = len(rest)
        if self.content_length is None:
            self.is_early = True
            pieces = [self._head(), b'%x\r\n' % size, *rest.pieces, b'\r\n0\r\n\r\n']
            self.chunked_response = False
        else:
            self.content_bytes_written += size
            pieces = [self._head(), *rest.pieces]
        self.channel.write_last(_Gathered(pieces))

    def _head(self) -> bytes:
        """Return the head, if it is not sent yet."""
        if self.wrote_header:
            return b''
        head, self.wrote_header = self.build_response_header(), True
        return head

    def write_raw(self, data: bytes) -> None:
        """Write bytes as they are; nothing else is answered, and the connection ends with the request."""
        self.is_raw = self.wrote_header = self.close_on_finish = True
        self.channel.write_soon(data)

    def build_response_header(self) -> bytes:
        """Return the head of an answer; that of the usual one without looking at all that others may be."""
        length = self.content_length
        keep = self.version == '1.1' and 'CONNECTION' not in self.request.headers and not self.close_on_finish
        if not keep or (length is None and not self.is_early) or not self.has_body:
            head: bytes = super().build_response_header()
            return head
        lines = [f'HTTP/1.1 {self.status}']
        for name, value in self.response_headers:
            known = name.lower()
            if known in _LEFT_TO_WAITRESS:
                whole: bytes = super().build_response_header()
                return whole
            if known != 'content-length':
                lines.append(f'{name}: {value}')
        if length is None:
            self.chunked_response = True
        size = 'Transfer-Encoding: chunked' if length is None else f'Content-Length: {length}'
        lines.append(
            f'{size}\r\nDate: {_date(int(self.start_time))}\r\nServer: {self.channel.server.adj.ident}\r\n\r\n'
        )
        return '\r\n'.join(lines).encode('latin-1')

    def write(self, data: bytes | Rest) -> None:
        """Send head and body at once where the body is whole: two sends would wake the client twice."""
        if self.is_raw:
            return
        if isinstance(data, Rest):
            self._write_rest(data)
            return
        if not data or not self.complete or not self.has_body or self.content_length is None:
            super().write(data)
            return
        head = b''
        if not self.wrote_header:
            head, self.wrote_header = self.build_response_header(), True
        data = data[: self.content_length - self.content_bytes_written]
        self.content_bytes_written += len(data)
        if len(data) <= _JOINED_BYTES:
            self.channel.write_soon(head + data)
            return
        if head:
            self.channel.write_soon(head)
        self.channel.write_soon(_Whole(data))

    def finish(self) -> None:
        if not self.is_raw:
            super().finish()


class _ClientChannel(HTTPChannel):  # type: ignore[misc, unused-ignore]
    """A connection that says when it is gone."""

    audit: Audit
    request: Any
    _is_last = False
    """Whether what is written is the end of an answer. Only its task's thread uses it."""
    was_passed_over = False
    """Whether the loop would have looked at it while it was sending. A single write or read needs no lock."""
    written_bytes = 0
    """What was handed over to be sent. Only the thread of its task counts."""
    observed: tuple[float, int] | None = None
    """Since when something has waited whenever that was looked at, and how much had been sent by then. Only the loop's thread."""
    task_class = _Task
    error_task_class = _ErrorTask

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._live: _Parser | None = None  # whose body continues coming while it is served; guarded by requests_lock
        self._watching = threading.Lock()  # guards the two below
        self._actions: list[Callable[[], None]] = []
        self._gone = False
        self._is_writing = False
        server, *others = args
        super().__init__(NearServer(server, self), *others, **kwargs)

    def add_channel(self, map: Any = None) -> None:
        super().add_channel(map)
        self.server.readiness.look_at(self._fileno)

    def del_channel(self, map: Any = None) -> None:
        descriptor = self._fileno
        super().del_channel(map)
        self.server.readiness.forget(descriptor)  # still open: waitress closes it after this

    @property
    def is_gone(self) -> bool:
        """Whether the client went away."""
        return self._gone

    def watch(self, action: Callable[[], None]) -> None:
        """Have ``action`` called, on a thread of its own, if the client goes away before the request ends."""
        with self._watching:
            if not self._gone:
                self._actions.append(action)
                return
        _run_apart([action])

    def readable(self) -> bool:
        live = self._live
        return bool(super().readable()) and (live is None or live.live is None or not live.live.is_full)

    def write_soon(self, data: Any) -> int:
        """Take a piece of an answer, and send of it what the socket takes at once."""
        self._is_writing = True
        was_waiting = self.total_outbufs_len
        try:
            written: int = super().write_soon(data)
            self.written_bytes += written
            return written
        finally:
            self._is_writing = False
            if was_waiting or self.total_outbufs_len or self.was_passed_over:  # else it waits for the same as before
                self.was_passed_over = False
                self.server.pull_trigger()

    def takes_too_little(self, now: float, policy: Policy) -> bool:
        """Return whether the client has taken less of what waits for it than it must, since the loop began to look."""
        waiting = self.total_outbufs_len  # first: what is sent meanwhile counts for the client
        sent = self.written_bytes - waiting
        if self.observed is None:
            self.observed = now, sent
        began, had = self.observed
        if now - began < 2 * policy.send_timeout:
            return False
        self.observed = now, sent
        return bool(sent - had < policy.min_download_rate * (now - began))

    @property
    def has_more_than_it_sends(self) -> bool:
        """Whether further requests came although much of an answer waits: waitress would keep a thread waiting for that."""
        return len(self.requests) > 1 and self.total_outbufs_len > self.adj.outbuf_high_watermark

    def write_last(self, data: Any) -> None:
        """Take the end of an answer, however much of it still waits, since nothing follows it."""
        self._is_last = True
        try:
            self.write_soon(data)
        finally:
            self._is_last = False

    def _flush_outbufs_below_high_watermark(self) -> None:
        if not self._is_last:
            super()._flush_outbufs_below_high_watermark()

    def when_sent(self, action: Callable[[], object]) -> None:
        """Have ``action`` called once all that waits is sent, or the connection is closed."""
        with self.outbuf_lock:
            if self.connected and self.total_outbufs_len:
                self.outbufs += [_Mark(action), OverflowableBuffer(self.adj.outbuf_overflow)]
                self.current_outbuf_count = 0
                return
        action()

    def writable(self) -> bool:
        """Whether waitress's own thread is to send what is left.

        Not while a task's thread is about it, which holds the lock: this one would find the socket ready and the lock taken,
        again and again, and keep the other from Python's own lock meanwhile. Beyond the high water mark the task's thread
        waits for it.
        """
        return bool(super().writable()) and not self.is_sending

    @property
    def is_sending(self) -> bool:
        """Whether a task's thread is about to send, and needs no help."""
        return self._is_writing and self.total_outbufs_len <= self.adj.outbuf_high_watermark

    def received(self, data: bytes) -> bool:
        with self.requests_lock:
            if self._live is not None:
                data = data[self._live.received(data) :]
                if self._live.completed:
                    self._live = None
        if not data:
            return True
        taken: bool = super().received(data)
        with self.requests_lock:
            request: Any = self.request
            if request is not None and request.live is not None and request.headers_finished:
                self.request, self._live = None, request
                self.requests.append(request)
                if len(self.requests) == 1:
                    self.server.add_task(self)
        return taken

    def service(self) -> None:
        request = self.requests[0]
        super().service()
        with self._watching:
            self._actions.clear()
        if request.live is not None and (not request.completed or request.error is not None):
            with self.requests_lock:  # what still comes of its body is for nobody
                self._live = None
                self.close_when_flushed = True
            self.server.pull_trigger()

    def handle_close(self) -> None:
        super().handle_close()
        live = self._live
        if live is not None and live.live is not None:
            live.live.close()
        if self.request is not None:
            self.request.close()  # what had come of a body that will not be whole
        with self._watching:
            self._gone = True
            actions, self._actions = self._actions, []
        if actions:
            _run_apart(actions)


def _run_apart(actions: list[Callable[[], None]]) -> None:
    """Run actions that may block off waitress's own thread, which serves everybody."""

    def run() -> None:
        for action in actions:
            try:
                action()
            except Exception:
                logger.warning('cancelling the call of a client that went away failed', exc_info=True)

    threading.Thread(target=run, name='enclave-gone', daemon=True).start()


class _Waitress(TcpWSGIServer):  # type: ignore[misc, unused-ignore]
    """Closes connections that are too slow."""

    policy: Policy
    readiness: Readiness

    def pull_trigger(self) -> None:
        self.readiness.look_at_all()
        super().pull_trigger()

    def maintenance(self, now: float) -> None:
        super().maintenance(now)
        for channel in list(self.active_channels.values()):
            if self._is_too_slow(channel, now):
                # At once: will_close only takes effect when the socket can be written, which is what it cannot.
                channel.handle_close()

    def _is_too_slow(self, channel: Any, now: float) -> bool:
        if channel.total_outbufs_len:
            silent = now - channel.last_activity > self.policy.send_timeout
            return bool(silent or channel.takes_too_little(time.monotonic(), self.policy))
        channel.observed = None
        request = channel.request
        if request is None:
            # Connected, and nothing asked yet; a connection that has asked before may rest for longer.
            fresh = channel.last_activity == channel.creation_time
            return bool(fresh and now - channel.creation_time > self.policy.request_timeout and not channel.requests)
        seconds = time.monotonic() - request.began_at
        if seconds <= self.policy.request_timeout:
            return False
        if not request.headers_finished:
            return True
        late = seconds - self.policy.request_timeout
        return bool(request.body_bytes_received < self.policy.min_upload_rate * late)


# The server -----------------------------------------------------------------------------------------------------------


class SandboxServer:
    """A manager's verbs over HTTP. Lives once: from its making, through `run` (or `start`), to `stop`.

    On a loopback address no key is needed. On any other there is always one: given, from ``ENCLAVE_API_KEY``, from a keys
    file, or made at the start, printed once and left in a file where the client library of the same user finds it. Only
    ``insecure=True`` serves another address without.

    Args:
        config: Configuration of the manager, or a dict of its options; ``options`` go in their place.
        manager: A manager to serve instead of one of its own; it is stopped with the server. For one key only.
        manager_type: The kind of the server's own managers, of which every key has one: ``'local'``, or ``'ray'`` for sandboxes
            on a Ray cluster.
        manager_options: What managers of that kind take beyond their configuration.
        policy: What clients may ask for: a `Policy`, a dict of its options, or the path of its file.
        api_key: The one key.
        keys: Several named keys, or the path of their file.
        insecure: Serve any address without a key.
        allowed_hosts: Names of this machine, besides ``localhost``, that requests without a key may be for.
        audit_file: Where audit lines are appended.
        stop_grace: Seconds that running calls get when the server stops.
        e2b: How E2B's SDK is answered: `E2BSettings`, a dict of its options, or the path of its file.
        sandbox_fusion: How SandboxFusion's clients are answered: `SandboxFusionSettings`, a dict of its options, or the path of
            its file.

    Raises:
        ConfigurationError: An option is wrong, or they do not go together.
        NotRegisteredError: The configured kind of sandbox is unknown.
    """

    def __init__(
        self,
        config: SandboxManagerConfig | Mapping[str, Any] | None = None,
        *,
        manager: SandboxManager | None = None,
        manager_type: SandboxManagerType | str = SandboxManagerType.LOCAL,
        manager_options: Mapping[str, Any] | None = None,
        policy: Policy | Mapping[str, Any] | str | os.PathLike[str] | None = None,
        api_key: str | None = None,
        keys: list[ApiKey] | str | os.PathLike[str] | None = None,
        insecure: bool = False,
        allowed_hosts: tuple[str, ...] | list[str] = (),
        audit_file: str | os.PathLike[str] | None = None,
        stop_grace: float = 5.0,
        e2b: E2BSettings | Mapping[str, Any] | str | os.PathLike[str] | None = None,
        sandbox_fusion: SandboxFusionSettings | Mapping[str, Any] | str | os.PathLike[str] | None = None,
        **options: Any,
    ) -> None:
        if manager is not None and (config is not None or options):
            raise ConfigurationError('give either a manager or its configuration, not both')
        if config is None and 'idle_timeout' not in options:
            options['idle_timeout'] = DEFAULT_IDLE_SECONDS
        self._config = SandboxManagerConfig.merged(config, options)
        self._manager = manager
        self._manager_class = SandboxManagerFactory.get_manager_class(manager_type)
        self._manager_options = dict(manager_options or {})
        for name in ('config', 'self'):
            if name in self._manager_options:
                raise ConfigurationError(
                    f'manager_options has no option {name!r}: the configuration of the managers is the config of the server'
                )
        kind = (self._config if manager is None else manager.config).sandbox_type
        if manager is None and self._manager_options:
            self._manager_class(self._config, **self._manager_options)  # as with the kind; it connects nothing
        if kind is not None:
            SandboxFactory.get_sandbox_class(kind)  # else all would go well until the first client asks for one
        if isinstance(policy, (str, os.PathLike)):
            self.policy = Policy.from_file(policy)
        else:
            self.policy = policy if isinstance(policy, Policy) else Policy(**(policy or {}))
        self._keys = _all_keys(api_key, self._config.api_key, keys)
        if manager is not None and len(self._keys) > 1:
            raise ConfigurationError('a manager of your own serves one key; give its configuration to serve several')
        if insecure and self._keys:
            raise ConfigurationError('insecure=True means no key, but there is one; drop one of them')
        self._insecure = insecure
        self._allowed_hosts = tuple(allowed_hosts)
        self._audit_file = audit_file
        self._stop_grace = stop_grace
        self.e2b = E2BSettings.read(e2b)
        self.sandbox_fusion = SandboxFusionSettings.read(sandbox_fusion)
        if self.e2b.debug and self._keys:
            raise ConfigurationError(
                "E2B_DEBUG's requests carry no key, but this server has keys; leave out e2b debug, or serve without keys"
            )
        self._lock = threading.Lock()  # guards the moves from one state to the next
        self._state = 'new'
        self._stopped = threading.Event()
        self._stop_asked = threading.Event()
        self._loop: threading.Thread | None = None
        self._waitress: Any = None
        self._map: dict[int, Any] = {}
        self._readiness: Readiness | None = None  # made with the sockets, since forked processes share it
        self._ending = False  # a single write or read needs no lock
        self._key_port: int | None = None
        self.service: Service | None = None
        self.host = ''
        self.port = 0
        self.generated_key: str | None = None

    # Life -------------------------------------------------------------------------------------------------------------

    def start(self, host: str = '127.0.0.1', port: int = DEFAULT_PORT) -> str:
        """Begin to serve, and return the address, like ``'http://127.0.0.1:8000'``. Port 0 takes a free one.

        Raises:
            ServerUnavailableError: The address cannot be listened on.
            ManagerStoppedError: It was started before.
        """
        with self._lock:
            if self._state != 'new':
                raise ManagerStoppedError(f'the server is {self._state}; make a new one')
            self._state = 'running'
        try:
            self._open(host, port)
        except BaseException:
            self.stop()
            raise
        logger.info('serving on %s', self.url)
        return self.url

    def _open(self, host: str, port: int) -> None:
        local = keyfile.is_loopback(host)
        if not local and not self._keys and not self._insecure:
            self.generated_key = make_key()
            self._keys = [ApiKey(name='generated', key=self.generated_key)]
        if not local and self._insecure:
            logger.warning('INSECURE: everybody who reaches %s:%d can run code on this machine', host, port)
        app = self._make_app(host, local=local)
        assert self.service is not None
        dispatcher = _Dispatcher(self.service.lanes.most_threads)
        self._readiness = Readiness(self._map)
        locate, debug = locators(self.e2b)
        made = self._waitress = self._listen(app.wsgi_app, dispatcher, host, port, locate)
        for each, find in debug.items():
            self._listen(app.wsgi_app, dispatcher, '127.0.0.1', each, find)
        self.host, self.port = host, int(made.effective_port)
        if self.generated_key is not None:
            keyfile.write_key(self.port, self.generated_key)
            self._key_port = self.port
        dispatcher.set_thread_count(self.service.lanes.threads)
        self._loop = threading.Thread(target=self._serve, name=f'enclave-server-{self.port}', daemon=True)
        self._loop.start()
        if self._manager is None and self._manager_class._starts_early and len(self._keys) < 2:
            self.service.tenant(self._keys[0] if self._keys else None).manager.start()

    def _make_app(self, host: str, *, local: bool) -> Any:
        """Return the Flask application; the service behind it is there from now on."""
        authenticator = Authenticator(self._keys)
        if self.e2b.debug and authenticator.needs_key:
            raise ConfigurationError(
                f"E2B_DEBUG's requests carry no key, but {host} needs one; serve on loopback, or leave out e2b debug"
            )
        names = frozenset(name.lower() for name in (*self._allowed_hosts, *([host] if local else [])))
        domain = None if self.e2b.domain is None else f'.{self.e2b.domain}'
        guard = HostGuard(hosts=names if local and not authenticator.needs_key else None, domain=domain)
        self.service = Service(
            self._make_manager,
            policy=self.policy,
            authenticator=authenticator,
            guard=guard,
            audit=Audit(self._audit_file),
            adapters={'e2b': self.e2b, 'sandbox_fusion': self.sandbox_fusion},
        )
        return create_app(self.service)

    @property
    def needs_key(self) -> bool:
        """Whether requests need a key, as far as is known before the address is."""
        return bool(self._keys)

    @property
    def is_insecure(self) -> bool:
        """Whether any address is served without a key."""
        return self._insecure

    def make_wsgi_app(self) -> Any:
        """Return the server as a WSGI application, for another server program to run in the place of `start`.

        It is that program's to say who may connect and how large requests may be; a server without a key takes requests for
        loopback hosts only. `stop` takes the sandboxes away.

        Raises:
            ManagerStoppedError: It was started before.
        """
        with self._lock:
            if self._state != 'new':
                raise ManagerStoppedError(f'the server is {self._state}; make a new one')
            self._state = 'running'
        return self._make_app('localhost', local=not self._keys and not self._insecure).wsgi_app

    def _listen(
        self,
        app: Any,
        dispatcher: ThreadedTaskDispatcher,
        host: str,
        port: int,
        locate: Callable[[str, str], tuple[str, dict[str, str]]] | None,
    ) -> Any:
        """Return a server of waitress's on an address, which is served with the others of this server's map."""
        assert self.service is not None
        adjustments, family = self._adjustments(host, port)
        facts = {
            'gate': _HeadCheck(self.service),
            'locate': None if locate is None else staticmethod(locate),
            'wake': staticmethod(self._wake),
        }
        parser = type('_GatedParser', (_Parser,), facts)
        channel = type('_GatedChannel', (_ClientChannel,), {'parser_class': parser, 'audit': self.service.audit})
        shared = {'policy': self.policy, 'channel_class': channel, 'readiness': self._readiness}
        serving = type('_PolicedWaitress', (_Waitress,), shared)
        try:
            return serving(app, self._map, dispatcher=dispatcher, adj=adjustments, sockinfo=family)
        except OSError as error:
            hint = _LISTEN_HINTS.get(error.errno or 0)
            raise ServerUnavailableError(
                f'cannot listen on {host}:{port}: {error.strerror or error}{f"; {hint}" if hint else ""}'
            ) from error

    def _wake(self) -> None:
        with contextlib.suppress(OSError):
            if self._waitress is not None:
                self._waitress.pull_trigger()

    def _adjustments(self, host: str, port: int) -> tuple[Adjustments, Any]:
        policy = self.policy
        try:
            adjustments = Adjustments(
                host=host,
                port=port,
                threads=1,  # ours are started apart
                ident='enclave',
                recv_bytes=256 << 10,
                inbuf_overflow=512 << 10,
                outbuf_overflow=2 << 20,
                outbuf_high_watermark=1 << 20,
                connection_limit=policy.max_connections,
                cleanup_interval=_MAINTENANCE_SECONDS,
                channel_timeout=120,
                channel_request_lookahead=1,
                max_request_header_size=64 << 10,
                max_request_body_size=max(policy.max_upload_bytes, policy.max_json_bytes) + 1,
                asyncore_use_poll=True,
                clear_untrusted_proxy_headers=True,
                log_socket_errors=False,
                backlog=1024,
            )
        except (ValueError, OSError) as error:
            raise ServerUnavailableError(
                f'{host}:{port} is no address to listen on: {error} Is the name right?'
            ) from None
        options = [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1), (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
        for name, value in (('TCP_KEEPIDLE', 30), ('TCP_KEEPINTVL', 10), ('TCP_KEEPCNT', 3)):
            if hasattr(socket, name):  # not everywhere
                options.append((socket.IPPROTO_TCP, getattr(socket, name), value))
        adjustments.socket_options = options
        # A name like localhost may have several addresses; the first is listened on.
        return adjustments, sorted(adjustments.listen, key=lambda each: each[0] != socket.AF_INET)[0]

    def _make_manager(self, tenant: str, max_sandboxes: int | None) -> SandboxManager:
        if self._manager is not None:
            return self._manager
        own = self._config
        changes: dict[str, Any] = {'api_key': None}
        if max_sandboxes is not None:
            changes['max_sandboxes'] = min(max_sandboxes, own.max_sandboxes or max_sandboxes)
        if own.pool_unused_timeout is None:
            changes['pool_unused_timeout'] = own.idle_timeout
        longest = self.policy.max_lifetime
        if longest is not None and (own.paused_ttl is None or own.paused_ttl > longest):
            changes['paused_ttl'] = longest
        if tenant != ANONYMOUS:
            changes['tenant'] = tenant
        return self._manager_class(own.model_copy(update=changes), **self._manager_options)

    def _serve(self) -> None:
        """Waitress's loop, until it is asked to end. Its own has no way out but an exception."""
        try:
            assert self._readiness is not None
            while not self._ending:
                self._readiness.wait(1.0)
        except Exception:
            logger.exception('the server failed')
            self._stop_asked.set()

    def stop(self) -> None:
        """End: refuse new work, let running calls continue for ``stop_grace``, destroy all sandboxes, close.

        May be called twice, and from any thread.
        """
        with self._lock:
            if self._state in ('stopping', 'stopped'):
                first = False
            else:
                first, self._state = True, 'stopping'
        self._stop_asked.set()
        if not first:
            self._stopped.wait()
            return
        try:
            self._close()
        finally:
            self._state = 'stopped'
            self._stopped.set()

    def _close(self) -> None:
        if self.service is not None:
            self.service.drain(self._stop_grace)
            # Sandboxes go before the connections: calls that still continue end by it, and their clients get to know.
            self.service.stop(self._config.stop_timeout)
        if self._waitress is not None:
            if self.service is not None:
                self.service.lanes.wait_empty(1.0)
            self._waitress.task_dispatcher.shutdown(timeout=1)
            self._ending = True
            with contextlib.suppress(OSError):
                self._waitress.pull_trigger()
            if self._loop is not None and self._loop is not threading.current_thread():
                self._loop.join(_JOIN_SECONDS)
        for channel in list(self._map.values()):
            with contextlib.suppress(OSError):
                channel.close()
        if self._readiness is not None:
            self._readiness.close()
        if self._key_port is not None:
            keyfile.remove_key(self._key_port)
        logger.info('the server on %s is stopped', self.url)

    def run(self, host: str = '127.0.0.1', port: int = DEFAULT_PORT) -> None:
        """Serve until the process is asked to end (SIGTERM, SIGINT) or `stop` is called; then take everything away.

        Raises:
            ServerUnavailableError: The address cannot be listened on.
        """
        previous = self._catch_signals()
        try:
            self.start(host, port)
            # Else the collector looks at all that has been imported once in some thousand requests, which stand still meanwhile.
            gc.freeze()
            self._announce()
            while not self._stop_asked.wait(3600.0):
                pass
        finally:
            self.stop()
            gc.unfreeze()
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _catch_signals(self) -> dict[int, Any]:
        if threading.current_thread() is not threading.main_thread():
            return {}

        def ask(number: int, frame: FrameType | None) -> None:
            self._stop_asked.set()

        return {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}

    def _announce(self) -> None:
        """Show the one that started it where it is, and the key if it was made here: this once, and in no log."""
        lines = [f'enclave serves on {self.url} (documentation: {self.url}/docs)']
        if self.generated_key is not None:
            lines += [
                f'API key (made for this run): {self.generated_key}',
                f'Clients of this user on this machine find it by themselves, in {keyfile.key_folder()}; '
                f'others need api_key= or {API_KEY_ENVIRONMENT}.',
            ]
        elif self._insecure and not keyfile.is_loopback(self.host):
            lines.append('WARNING: --insecure: there is NO KEY. Everybody who reaches this address can run code here.')
        sys.stderr.write('\n'.join(lines) + '\n')
        sys.stderr.flush()

    @property
    def url(self) -> str:
        """The address for a client on this machine."""
        host = {'0.0.0.0': '127.0.0.1', '::': '::1', '': '127.0.0.1'}.get(self.host, self.host)
        return f'http://[{host}]:{self.port}' if ':' in host else f'http://{host}:{self.port}'

    @contextlib.contextmanager
    def running(self, host: str = '127.0.0.1', port: int = 0) -> Iterator[str]:
        """Serve for the length of a ``with`` block, which gets the address; on a free port by default."""
        try:
            yield self.start(host, port)
        finally:
            self.stop()

    def __repr__(self) -> str:
        return f'<SandboxServer {self.url if self.port else ""} {self._state}>'


class _Handover:
    """How a thread that is free is given a request: without a condition that all of them wait for."""

    __slots__ = ('_given', 'task')

    def __init__(self) -> None:
        self._given = threading.Lock()
        self._given.acquire()
        self.task: Any = None

    def give(self, task: Any) -> None:
        """Wake the thread; None only wakes it."""
        self.task = task
        self._given.release()

    def take(self) -> Any:
        """Wait for that, and return what was given."""
        self._given.acquire()
        task, self.task = self.task, None
        return task


class _Dispatcher(ThreadedTaskDispatcher):  # type: ignore[misc]
    """Hands each request to the thread that has become free last, whose memory is the warmest.

    Further threads are started when requests come that no thread is free for, as when many programs wait for their turn.

    Args:
        most: How many threads there may be.
    """

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most = most
        self._counting = threading.Lock()  # held while threads are counted and started; taken before lock
        self._free: list[_Handover] = []  # guarded by lock
        self.start_new_thread = _start_worker

    def add_task(self, task: Any) -> None:
        """Give a request to a thread, or queue it and have a thread for it."""
        with self.lock:
            thread, is_lacking = None, False
            if self._free:
                thread = self._free.pop()
                self.active_count += 1
            else:
                self.queue.append(task)
                running = len(self.threads) - self.stop_count
                is_lacking = 0 < running < self._most and not self.stop_count
        if thread is not None:
            thread.give(task)
        elif is_lacking:
            with self._counting:  # and counted anew: threads that others have started meanwhile would be one too many
                running = len(self.threads) - self.stop_count
                if not self.stop_count and 0 < running < self._most:
                    super().set_thread_count(running + 1)

    def handler_thread(self, thread_no: int) -> None:
        """Serve requests until as many threads are to end."""
        mine = _Handover()
        while True:
            task = None
            with self.lock:
                if self.stop_count > 0:
                    self.active_count -= 1
                    self.stop_count -= 1
                    self.threads.discard(thread_no)
                    self.thread_exit_cv.notify()
                    return
                if self.queue:
                    task = self.queue.popleft()
                else:
                    self.active_count -= 1
                    self._free.append(mine)
            if task is None:
                task = mine.take()
            if task is not None:
                try:
                    task.service()
                except BaseException:
                    self.logger.exception('Exception when servicing %r', task)

    def set_thread_count(self, count: int) -> None:
        """Start threads, or have some end as soon as they are free."""
        with self._counting:
            super().set_thread_count(count)
        with self.lock:
            if not self.stop_count:
                return
            free, self._free = self._free, []
            self.active_count += len(free)
        for each in free:
            each.give(None)


def _start_worker(target: Callable[[int], None], number: int) -> None:
    threading.Thread(target=target, name=f'enclave-request-{number}', args=(number,), daemon=True).start()


def _all_keys(
    api_key: str | None, configured: str | None, keys: list[ApiKey] | str | os.PathLike[str] | None
) -> list[ApiKey]:
    found: list[ApiKey] = []
    if isinstance(keys, (str, os.PathLike)):
        if is_readable_by_others(keys):
            logger.warning('the keys file %s can be read by other users: chmod 600 it', os.fspath(keys))
        found += read_keys(keys)
    elif keys is not None:
        found += keys
    if None not in (api_key, configured) and api_key != configured:
        raise ConfigurationError(
            'api_key and the api_key of the configuration are two different keys; drop one of them'
        )
    given = api_key if configured is None else configured
    if given is None and not found:
        given = os.environ.get(API_KEY_ENVIRONMENT) or None
    if given is not None:
        found.append(one_key(given))
    return found


def create_server(config: SandboxManagerConfig | Mapping[str, Any] | None = None, **options: Any) -> SandboxServer:
    """Return a server that is not started yet; ``create_server().run(host='0.0.0.0', port=8000)`` serves.

    Args:
        config: Configuration of the manager, or a dict of its options.
        options: Arguments of `SandboxServer`, and options of the manager like ``cleanup_interval``.
    """
    return SandboxServer(config, **options)
