"""How requests travel to a server (layer 5). Requests has its one entry point here.

Which repeats are safe: everything that only asks; and everything that is sent with an idempotency key, which the server does
once however often it is asked. So a connection that broke, or that a server closed while it rested, is not an error; a server
that does not answer at all is, soon. What is sent from an iterator cannot be sent twice, and is not.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from typing import Any, TypeVar
from urllib.parse import urlencode

import requests
import requests.adapters
import urllib3

import enclave
from enclave import wire
from enclave.cancellation import Cancellation, is_cancelled, on_cancel, until_cancelled
from enclave.deadline import Deadline, check_timeout
from enclave.errors import (
    AuthenticationError,
    CallCancelledError,
    EnclaveError,
    InvalidArgumentError,
    ManagerStoppedError,
    OperationTimeoutError,
    RequestTooLargeError,
    ServerError,
    ServerUnavailableError,
    TooManyRequestsError,
    UnsupportedError,
)
from enclave.exchange import LINES, Broken, CancellableRequest, QuickLines, WholeResponse
from enclave.managers.keyfile import find_key
from enclave.managers.output_frames import OUTPUT_FRAMES, FrameReader
from enclave.managers.protocol import (
    API_KEY_ENVIRONMENT,
    IDEMPOTENCY_HEADER,
    KEEP_ALIVE_SECONDS,
    PROTOCOL_HEADER,
    PROTOCOL_VERSION,
    VERSION_HEADER,
    CancelResponse,
    StreamEvent,
    rebuild_error,
)
from enclave.quoting import quoted

logger = logging.getLogger(__name__)

E = TypeVar('E', bound=StreamEvent)

CONNECT_SECONDS = 5.0
RETRIES = 3
_PAUSES = (0.05, 0.25, 1.0)
"""Before the repeats after a broken connection."""
BUSY_SECONDS = 30.0
"""How long a server that says it is full is asked again, where the call has no time limit of its own."""
PIECE_BYTES = 256 << 10
_MIN_PROTOCOL = 1
_NOTHING = contextlib.nullcontext()
_KEEPALIVE = (('TCP_KEEPIDLE', 15), ('TCP_KEEPINTVL', 5), ('TCP_KEEPCNT', 3), ('TCP_USER_TIMEOUT', 60_000))
"""How a lost peer is noticed: by probes while nothing is sent; and by what was sent not being received for so many
milliseconds, for which Linux would wait a quarter of an hour (tcp(7))."""


_READERS = {OUTPUT_FRAMES: FrameReader}
_PLAIN_TARGET = re.compile(r"/(?:[A-Za-z0-9._~!$&'()*+,;=:@/?-]|%[0-9A-F]{2})*")
"""Targets that urllib3 would send as they are."""
_PLAIN_VALUE = re.compile(r'[!-~]([ -~]*[!-~])?')


class _KeepAliveAdapter(requests.adapters.HTTPAdapter):
    """Connections that notice a dead peer by themselves, so that a long call needs no read timeout."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        options = [
            *urllib3.connection.HTTPConnection.default_socket_options,
            (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        ]
        for name, value in _KEEPALIVE:
            if hasattr(socket, name):
                options.append((socket.IPPROTO_TCP, getattr(socket, name), value))
        super().init_poolmanager(*args, **kwargs, socket_options=options, blocksize=PIECE_BYTES)
        self.poolmanager.pool_classes_by_scheme = LINES

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(proxy, **kwargs)
        if isinstance(manager, urllib3.ProxyManager) and not proxy.lower().startswith('socks'):
            manager.pool_classes_by_scheme = LINES
        return manager

    def close(self) -> None:
        # Else connections that rest are closed when their pool is collected, which an old traceback may keep.
        for manager in (self.poolmanager, *self.proxy_manager.values()):
            for key in manager.pools.keys():  # noqa: SIM118 - it cannot be iterated over
                pool = manager.pools.get(key)
                if pool is not None:
                    pool.close()
        super().close()


class HttpResponse:
    """An answer, as `requests` would show it.

    Attributes:
        exchange: What the request was, where that is to live as long as its answer is read.
        frames: What has read the body, where it came in frames.
    """

    exchange: CancellableRequest | None = None
    frames: FrameReader | None = None

    def __init__(self, raw: Any, sent: Mapping[str, str]) -> None:
        self.raw = raw
        self.status_code: int = raw.status
        self.headers = raw.headers
        self.has_key = 'Authorization' in sent
        self._content: bytes | bytearray | None = None

    @property
    def content(self) -> bytes | bytearray:
        """The whole body."""
        if self._content is None:
            try:
                self._content = self.raw.read(decode_content=False)
            except urllib3.exceptions.ReadTimeoutError as error:
                raise requests.exceptions.ConnectionError(error) from error
            except (urllib3.exceptions.HTTPError, OSError) as error:
                raise requests.exceptions.ChunkedEncodingError(error) from error
        return self._content

    def close(self) -> None:
        """Let go of the connection; one that is not read to its end is closed."""
        if self._content is None:
            self.raw.close()
        self.raw.release_conn()

    def __enter__(self) -> HttpResponse:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _WholeHttpResponse(HttpResponse):
    """An answer that has come to its end, of a connection that serves others by now."""

    def __init__(self, whole: WholeResponse, has_key: bool) -> None:
        self.status_code = whole.status
        self.headers = _Headers(whole.headers)
        self.has_key = has_key
        self._content = whole.content
        self.frames = whole.reader

    def close(self) -> None:
        """Do nothing."""

    def __exit__(self, *_: object) -> None:
        """Do nothing."""


class _Headers(dict[str, str]):
    """Headers by their names in lower case, asked for in any."""

    def get(self, name: str, default: Any = None) -> Any:
        return super().get(name.lower(), default)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and super().__contains__(name.lower())


class _Sized:
    """Pieces whose sum is known, so that they travel with a length."""

    def __init__(self, pieces: Iterable[bytes], size: int) -> None:
        self._pieces = pieces
        self._size = size

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._pieces)


class HttpTransport:
    """Requests to one server. Lives as long as its manager; any thread may use it.

    Args:
        connect_timeout: Seconds a connection may take.
        answer_timeout: Seconds an answer may take beyond what the call itself may; None for no limit.
        cancel_later: Runs what informs the server of a cancelled call, on another thread.
    """

    connect_problem: str | None = (
        'connections into a remote sandbox are not carried over HTTP; what speaks HTTP there is reached at the address '
        '/sandbox/ID/port/PORT/ of the server, and a published port by itself'
    )

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None,
        connect_timeout: float,
        answer_timeout: float | None,
        max_connections: int,
        verify: bool | str | None,
        cancel_later: Callable[[Callable[[], None]], None],
    ) -> None:
        self._base_url = base_url
        self._connect_timeout = connect_timeout
        self._answer_timeout = answer_timeout
        self._cancel_later = cancel_later
        self._api_key = api_key or os.environ.get(API_KEY_ENVIRONMENT) or None
        self._found_key: str | None = None
        self._closing = threading.Event()
        session = requests.Session()
        # The environment is looked at once: its proxies and CA bundle count, its .netrc (which would replace our key) does not.
        settings = session.merge_environment_settings(base_url, {}, None, verify, None)
        self._proxies = dict(settings['proxies'])
        self._verify: bool | str = True if settings['verify'] is None else settings['verify']
        self._adapter = _KeepAliveAdapter(pool_connections=1, pool_maxsize=max_connections, max_retries=0)
        parsed = urllib3.util.parse_url(base_url)
        self._origin = f'{base_url.partition("://")[0]}://{base_url.partition("://")[2].partition("/")[0]}'
        self._pool: Any = None  # a single write; two threads that make it get the same
        self._is_proxied = not parsed.host
        self._max_connections = max_connections
        self._quick: QuickLines | None = None  # the same
        self._host = _host_header(parsed)
        self._headers = {
            'User-Agent': f'ms-enclave/{enclave.__version__}',
            'Accept': f'{OUTPUT_FRAMES}, {wire.PARTS}, {wire.PARTS_LINES}, */*',
            'Accept-Encoding': 'identity',
            PROTOCOL_HEADER: str(PROTOCOL_VERSION),
        }
        self._usual_headers = _written(self._headers)

    def close(self) -> None:
        """Close the connections that rest; those in use end with their calls."""
        self._closing.set()
        quick = self._quick
        if quick is not None:
            quick.close()
        self._adapter.close()

    # Verbs ------------------------------------------------------------------------------------------------------------

    def call(
        self,
        method: str,
        path: str,
        answer: Any,
        *,
        query: Mapping[str, Any] | None = None,
        body: Any = None,
        timeout: float | None = None,
    ) -> Any:
        """Ask something and return the answer as an instance of ``answer``.

        Args:
            query: Parameters; those that are None are left out.
            body: A value to send as JSON; None for no body.
            timeout: Seconds the call itself may take; None: none to speak of; 0: it takes as long as it takes.
        """
        headers, data = _json_body(body)
        key = os.urandom(16).hex() if method != 'GET' else None
        if key is not None:
            headers[IDEMPOTENCY_HEADER] = key
        if is_cancelled():
            raise CallCancelledError('the call was cancelled before it was made')
        with _NOTHING if key is None else on_cancel(lambda: self._cancel_call(key)):
            response = self._send(
                method,
                path,
                query,
                headers,
                data,
                self._read_timeout(timeout),
                is_repeatable=True,
                stream=False,
            )
        return self._decode(response, answer)

    def upload(
        self,
        method: str,
        path: str,
        answer: Any,
        data: bytes | Iterable[bytes],
        *,
        query: Mapping[str, Any],
        size: int | None = None,
        media_type: str = 'application/octet-stream',
        is_repeatable: bool = True,
        timeout: float | None = None,
    ) -> Any:
        """Send raw bytes and return the answer. Iterables are sent once; bytes may be repeated.

        Cancelling the caller's work closes the connection, by which the server knows that it is to stop too.
        """
        whole = isinstance(data, (bytes, bytearray))
        source: Iterable[bytes] = (data,) if isinstance(data, (bytes, bytearray)) else data
        if isinstance(data, (bytes, bytearray)):
            size = len(data)
        failures: list[BaseException] = []
        exchange = CancellableRequest('the upload')

        def make() -> Any:
            pieces = until_cancelled(_noting(source, failures), exchange.what)
            return pieces if size is None else _Sized(pieces, size)

        try:
            with exchange.watched():
                response = self._send(
                    method,
                    path,
                    query,
                    {'Content-Type': media_type},
                    make,
                    self._read_timeout(0 if timeout is None else timeout),
                    is_repeatable=is_repeatable and whole,
                    stream=False,
                    exchange=exchange,
                )
        except ServerUnavailableError:
            if failures:
                raise failures[0] from None  # what was to be sent could not be had
            self._check_too_large(size)
            raise
        except BaseException:
            if failures:
                raise failures[0] from None
            raise
        return self._decode(response, answer)

    def _check_too_large(self, size: int | None) -> None:
        """Raise what a server would have said that closed the connection on a body it does not take."""
        if size is None or size < 1 << 20:
            return
        with contextlib.suppress(ServerUnavailableError, OperationTimeoutError):
            limits = self.call('GET', '/limits', dict[str, Any])
            most = limits.get('max_upload_bytes')
            if isinstance(most, int) and size > most:
                raise RequestTooLargeError(
                    f'{size} bytes are more than the {most} that the server at {self._base_url} takes at once',
                    details={'max_bytes': most},
                )

    def download(self, path: str, query: Mapping[str, Any]) -> Iterator[bytes]:
        """Yield raw bytes as they come. The first error there can be is raised by the first step.

        Cancelling the caller's work closes the connection, by which the server knows that it is to stop too.
        """
        exchange = CancellableRequest('the download')
        with exchange.watched():
            response = self._send(
                'GET',
                path,
                query,
                {},
                None,
                self._read_timeout(0),
                is_repeatable=True,
                stream=True,
                exchange=exchange,
            )
            with response:
                self._check(response)
                yield from until_cancelled(self._raw(response, PIECE_BYTES), exchange.what)

    def events(
        self,
        method: str,
        path: str,
        kind: type[E],
        *,
        query: Mapping[str, Any] | None = None,
        body: Any = None,
        exchange: CancellableRequest | None = None,
    ) -> Generator[E, None, None]:
        """Yield the events of a stream as they come.

        Args:
            kind: The class of the events.
            body: A value to send as JSON; what it asks must be such that it may be repeated.
            exchange: What the request is to be, so that others can end it.
        """
        headers, data = _json_body(body)
        silence = 3 * KEEP_ALIVE_SECONDS
        response = self._send(
            method, path, query, headers, data, silence, is_repeatable=True, stream=True, exchange=exchange
        )
        with response:
            self._check(response)
            pieces = self._raw(response, 1 << 16)
            with_texts = response.headers.get('Content-Type') == wire.PARTS_LINES
            for line in _lines_with_texts(pieces) if with_texts else _lines(pieces):
                yield kind.model_validate(wire.from_line(line, what='an event'))

    def connect(self, sandbox_id: str, port: int, host: str, timeout: float | None) -> Any:
        """Raise: connections into sandboxes do not travel over HTTP."""
        raise UnsupportedError(str(self.connect_problem))

    def later(self, action: Callable[[], None]) -> None:
        """Have something reported to the server on another thread, under no one's cancellation; that it fails is no matter."""

        def inform() -> None:
            with contextlib.suppress(EnclaveError), Cancellation().applied():
                action()

        self._cancel_later(inform)

    def _raw(self, response: HttpResponse, size: int) -> Iterator[bytes]:
        """Yield a body as it comes; how it broke is an error of this library."""
        try:
            yield from response.raw.stream(size, decode_content=False)
        except urllib3.exceptions.ReadTimeoutError as error:
            raise ServerUnavailableError(
                f'the server at {self._base_url} has gone silent in the middle of an answer'
            ) from error
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise ServerUnavailableError(
                f'the server at {self._base_url} broke off in the middle of an answer'
            ) from error

    # Sending ----------------------------------------------------------------------------------------------------------

    def _read_timeout(self, timeout: float | None) -> float | None:
        """Return how long to wait for an answer; a call of unknown length is watched over by the connection's keepalive."""
        if timeout is None:
            return self._answer_timeout
        seconds = check_timeout(timeout)
        if seconds is None or self._answer_timeout is None:
            return None
        return seconds + self._answer_timeout

    def _cancel_call(self, key: str) -> None:
        """Inform the server that a call is cancelled, without waiting for it."""
        self.later(lambda: self.call('POST', f'/calls/{key}/cancel', CancelResponse))

    def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, Any] | None,
        headers: Mapping[str, str],
        body: bytes | Callable[[], Any] | None,
        read_timeout: float | None,
        *,
        is_repeatable: bool,
        stream: bool,
        exchange: CancellableRequest | None = None,
    ) -> HttpResponse:
        """Send a request, again where that is safe and may help, and return the answer, whatever it says.

        Args:
            body: Bytes, None, or what makes a body for each attempt.
            exchange: What the request is to be, so that others can end it.
        """
        url = self._base_url + path + (_query_text(query) if query else '')
        began, failures = time.monotonic(), 0
        while True:
            if self._closing.is_set():
                raise ManagerStoppedError('the manager is stopped and takes no new work; make a new one')
            key_headers = self._key_headers()
            try:
                with _NOTHING if exchange is None else exchange.made():
                    sent, data = {**headers, **key_headers}, body() if callable(body) else body
                    response = None
                    if exchange is None and not stream and (data is None or isinstance(data, bytes)):
                        response = self._ask_quickly(method, url, sent, data, read_timeout)
                    if response is None:
                        response = self._send_once(method, url, sent, data, read_timeout)
                if not stream and not isinstance(response, _WholeHttpResponse):
                    _ = response.content  # what breaks while it comes may be mended too
            except requests.exceptions.ConnectTimeout:
                raise self._unreachable(f'gave no connection within {self._connect_timeout:g} s') from None
            except requests.exceptions.ReadTimeout:
                raise OperationTimeoutError(
                    f'the server at {self._base_url} did not answer {method} {path} within {read_timeout or 0:g} s'
                ) from None
            except requests.exceptions.SSLError as error:
                raise self._unreachable(f'cannot be trusted: {error}') from None
            except (requests.exceptions.ConnectionError, requests.exceptions.ChunkedEncodingError) as error:
                is_hung_up = exchange is not None and exchange.is_hung_up
                if not is_repeatable or is_hung_up or failures >= RETRIES:
                    raise self._unreachable(_reason(error)) from None
                self._closing.wait(_PAUSES[min(failures, len(_PAUSES) - 1)])
                failures += 1
                continue
            except requests.exceptions.RequestException as error:
                raise self._unreachable(str(error)) from None
            if response.status_code == 429 and is_repeatable:
                patience = BUSY_SECONDS if read_timeout is None else min(read_timeout, BUSY_SECONDS)
                if self._may_wait(response, Deadline(began + patience)):
                    continue
            if response.status_code == 401 and is_repeatable and self._look_for_key():
                response.close()
                continue
            return response

    def _send_once(
        self, method: str, url: str, headers: Mapping[str, str], data: Any, read_timeout: float | None
    ) -> HttpResponse:
        """Send a request over the pool's connections: a session of `requests` would take half a millisecond more."""
        sent = {**self._headers, **headers}
        if data is None:
            if method != 'GET':
                sent['Content-Length'] = '0'
        elif hasattr(data, '__len__'):
            sent['Content-Length'] = str(len(data))
        if data is None or isinstance(data, bytes):
            pool = self._find_pool(url)
            if pool is not None:
                return self._ask(pool, method, url, sent, data, read_timeout)
        request = requests.PreparedRequest()
        request.method, request.url, request.body = method, url, data
        request.headers = requests.structures.CaseInsensitiveDict(sent)
        request.hooks = requests.hooks.default_hooks()
        if data is not None and not hasattr(data, '__len__'):
            request.headers['Transfer-Encoding'] = 'chunked'
        response = self._adapter.send(
            request,
            stream=True,
            timeout=(self._connect_timeout, read_timeout),  # type: ignore[arg-type, unused-ignore]
            verify=self._verify,
            proxies=self._proxies,
        )
        return HttpResponse(response.raw, sent)

    def _ask_quickly(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, read_timeout: float | None
    ) -> HttpResponse | None:
        """Send a request and return its answer, without urllib3's layers; None where this is a case for them.

        What goes wrong is raised as `requests` would.
        """
        quick = self._quick
        if quick is None:
            pool = self._find_pool(url)
            if pool is None or pool.scheme != 'http' or self._host is None:
                return None
            quick = self._quick = QuickLines(pool, self._max_connections, self._connect_timeout, _READERS)
            if self._closing.is_set():
                quick.close()
        target = url[len(self._origin) :] or '/'
        if _PLAIN_TARGET.fullmatch(target) is None:
            return None
        usual = self._usual_headers
        if not self._headers.keys().isdisjoint(headers):
            usual = _written({name: value for name, value in self._headers.items() if name not in headers})
        head = f'{method} {target} HTTP/1.1\r\nHost: {self._host}\r\n{usual}'
        for name, value in headers.items():
            if _PLAIN_VALUE.fullmatch(value) is None:
                return None
            head += f'{name}: {value}\r\n'
        if body is not None or method != 'GET':
            head += f'Content-Length: {0 if body is None else len(body)}\r\n'
        try:
            whole = quick.ask(head.encode('ascii') + b'\r\n', body, read_timeout, self._answer_timeout)
        except urllib3.exceptions.NewConnectionError as error:
            raise requests.exceptions.ConnectionError(error) from error
        except urllib3.exceptions.ConnectTimeoutError as error:
            raise requests.exceptions.ConnectTimeout(error) from error
        except TimeoutError as error:
            raise requests.exceptions.ReadTimeout(error) from error
        except (Broken, urllib3.exceptions.HTTPError, OSError) as error:
            raise requests.exceptions.ConnectionError(error) from error
        return _WholeHttpResponse(whole, 'Authorization' in headers)

    def _find_pool(self, url: str) -> Any:
        """Return the connections to the server; None where a proxy stands between, which `requests` knows how to use."""
        if self._pool is None and not self._is_proxied:
            if requests.utils.select_proxy(url, self._proxies):
                self._is_proxied = True
                return None
            pool = self._adapter.poolmanager.connection_from_url(url)
            self._adapter.cert_verify(pool, url, self._verify, None)  # type: ignore[no-untyped-call, unused-ignore]
            self._pool = pool
        return self._pool

    def _ask(
        self,
        pool: Any,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | None,
        read_timeout: float | None,
    ) -> HttpResponse:
        """Send a request and return its answer; what goes wrong is raised as `requests` would."""
        timeout = urllib3.Timeout(connect=self._connect_timeout, read=read_timeout)
        target = url[len(self._origin) :] or '/'
        try:
            raw = pool.urlopen(
                method,
                target,
                body=body,
                headers=headers,
                retries=False,
                redirect=False,
                assert_same_host=False,
                timeout=timeout,
                preload_content=False,
                decode_content=False,
            )
        except urllib3.exceptions.NewConnectionError as error:
            raise requests.exceptions.ConnectionError(error) from error
        except urllib3.exceptions.ConnectTimeoutError as error:
            raise requests.exceptions.ConnectTimeout(error) from error
        except urllib3.exceptions.ReadTimeoutError as error:
            raise requests.exceptions.ReadTimeout(error) from error
        except urllib3.exceptions.SSLError as error:
            raise requests.exceptions.SSLError(error) from error
        except (urllib3.exceptions.LocationParseError, urllib3.exceptions.InvalidHeader) as error:
            raise requests.exceptions.InvalidURL(error) from error
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise requests.exceptions.ConnectionError(error) from error
        return HttpResponse(raw, headers)

    def _may_wait(self, response: HttpResponse, patience: Deadline) -> bool:
        """Wait as long as a full server asks for; False if there is no more time, or it is not the server that is full."""
        try:
            error = self._fault(response)
        except EnclaveError:
            return False
        if not isinstance(error, TooManyRequestsError) or patience.has_expired():
            return False
        seconds = error.details.get('retry_after', 1.0)
        pause = seconds if isinstance(seconds, (int, float)) and 0 <= seconds <= 60 else 1.0
        cancelled = threading.Event()
        with on_cancel(cancelled.set):
            # Not all who were refused come back at the same moment.
            cancelled.wait(min(pause * (0.25 + uuid.uuid4().int % 1000 / 1333), patience.remaining() or 0.0))
        if cancelled.is_set():
            raise CallCancelledError('the call was cancelled while the server was full')
        return not self._closing.is_set()

    # Keys -------------------------------------------------------------------------------------------------------------

    def _key_headers(self) -> dict[str, str]:
        if self._api_key is None and self._found_key is None:
            self._found_key = find_key(self._base_url) or ''
        key = self._api_key or self._found_key
        return {'Authorization': f'Bearer {key}'} if key else {}

    def _look_for_key(self) -> bool:
        """Look whether a server that was started anew has left another key; return whether it has."""
        if self._api_key is not None:
            return False
        found = find_key(self._base_url) or ''
        changed, self._found_key = found != self._found_key and bool(found), found
        return changed

    # Answers ----------------------------------------------------------------------------------------------------------

    def _decode(self, response: HttpResponse, answer: Any) -> Any:
        with response:
            self._check(response)
            try:
                kind = response.headers.get('Content-Type')
                if kind == OUTPUT_FRAMES:
                    frames = _frames_of(response)
                    if frames.error is None:
                        return wire.decode(frames.shapes(), answer, what='the answer')
                    failure = rebuild_error(frames.error)
                else:
                    read = wire.from_parts if kind == wire.PARTS else wire.from_json
                    return wire.decode(read(response.content, what='the answer'), answer, what='the answer')
            except InvalidArgumentError as error:
                raise ServerError(
                    f'the server at {self._base_url} (version {response.headers.get(VERSION_HEADER, "unknown")}) gave an '
                    f'answer that this client (version {enclave.__version__}) does not understand: {error.message}'
                ) from error
            raise failure

    def _check(self, response: HttpResponse) -> None:
        """Return if it is a good answer of a server of this library; otherwise raise what it says, or that it is none."""
        protocol = response.headers.get(PROTOCOL_HEADER)
        if protocol is None:
            kind = response.headers.get('Server', 'unknown')
            raise ServerUnavailableError(
                f'what answers at {self._base_url} is not an enclave server (status {response.status_code}, '
                f'Server: {kind}); check the address'
            )
        if not protocol.isdigit() or int(protocol) < _MIN_PROTOCOL:
            raise ServerUnavailableError(
                f'the server at {self._base_url} is too old: it speaks protocol {protocol!r}, '
                f'this client {_MIN_PROTOCOL} to {PROTOCOL_VERSION}; update the server'
            )
        if response.status_code != 200:
            raise self._fault(response)

    def _fault(self, response: HttpResponse) -> EnclaveError:
        """Return the exception that an answer carries."""
        if PROTOCOL_HEADER not in response.headers:
            self._check(response)
        try:
            error = rebuild_error(wire.from_json(response.content, what='the answer'))
        except InvalidArgumentError:
            return ServerError(
                f'the server at {self._base_url} answered with status {response.status_code} and nothing else'
            )
        if error.details.get('reason') in ('route', 'method'):
            version = response.headers.get(VERSION_HEADER, 'unknown')
            return UnsupportedError(
                f'the server at {self._base_url} (version {version}) is too old for this: {error.message}; update it'
            )
        if isinstance(error, AuthenticationError):
            hint = 'the key it was shown is not one it knows' if response.has_key else error.message
            return AuthenticationError(f'the server at {self._base_url} refuses us: {hint}', details=error.details)
        return error

    def _unreachable(self, why: str) -> ServerUnavailableError:
        hint = 'is the address right?' if why == _NO_SUCH_NAME else 'is it running? Start one with: ms-enclave server'
        return ServerUnavailableError(
            f'the server at {self._base_url} {why}; {hint}',
            details={'base_url': self._base_url},
        )


def _frames_of(response: HttpResponse) -> FrameReader:
    """Return what has read an answer in frames, or reads it now."""
    frames = response.frames
    if frames is None:
        frames = FrameReader()
        frames.take(memoryview(response.content))
    return frames


_NO_SUCH_NAME = 'has a name that cannot be resolved'


def _reason(error: BaseException) -> str:
    """Return a text that says how a connection failed, from whatever lies at the bottom of it."""
    cause: BaseException | None = error
    for _ in range(8):
        if isinstance(cause, ConnectionRefusedError):
            return 'refuses connections'
        if isinstance(cause, socket.gaierror):
            return _NO_SUCH_NAME
        if (
            isinstance(cause, OSError)
            and cause.strerror
            and not isinstance(cause, requests.exceptions.RequestException)
        ):
            return f'cannot be reached: {cause.strerror}'
        following = getattr(cause, 'reason', None) or getattr(cause, '__context__', None)
        if following is None and cause is not None and cause.args and isinstance(cause.args[0], BaseException):
            following = cause.args[0]
        if not isinstance(following, BaseException):
            break
        cause = following
    return 'went away without an answer'


def _host_header(parsed: Any) -> str | None:
    """Return the Host header of an address as `http.client` writes it; None where there is more to it."""
    host = parsed.host or ''
    if re.fullmatch(r'[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]', host) is None:
        return None
    return host if parsed.port in (None, 80) else f'{host}:{parsed.port}'


def _written(headers: Mapping[str, str]) -> str:
    return ''.join(f'{name}: {value}\r\n' for name, value in headers.items())


def _query_text(query: Mapping[str, Any] | None) -> str:
    """Return ``?a=1&b=true``, without what is None."""
    pairs = {}
    for name, value in (query or {}).items():
        if value is not None:
            try:
                text = str(value)
            except ValueError:  # a number of thousands of digits
                text = quoted(value)
            pairs[name] = text.lower() if isinstance(value, bool) else text
    try:
        return f'?{urlencode(pairs, errors="surrogateescape")}' if pairs else ''
    except UnicodeEncodeError:  # a lone surrogate
        raise InvalidArgumentError(
            f'{", ".join(pairs)} cannot be sent: {quoted([*pairs.values()])} is no text'
        ) from None


def _json_body(body: Any) -> tuple[dict[str, str], bytes | None]:
    """Return the headers and the text of a value that is sent as JSON; None is no body."""
    if body is None:
        return {}, None
    return {'Content-Type': 'application/json'}, wire.to_json(body).encode('ascii')


def _lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield lines of any length as soon as they are complete."""
    held: list[bytes] = []
    for piece in pieces:
        first, *rest = piece.split(b'\n')
        held.append(first)
        for following in rest:
            yield b''.join(held)
            held = [following]


def _lines_with_texts(pieces: Iterable[bytes]) -> Iterator[bytes | bytearray]:
    """Yield what `enclave.wire.encoded_to_line` has written, each with its texts, as soon as it is complete."""
    held, searched, needed = bytearray(), 0, 0
    for piece in pieces:
        held += piece
        while True:
            if not needed:
                end = held.find(b'\n', searched)
                if end < 0:
                    searched = len(held)
                    break
                needed = end + 1 + wire.length_behind(held[: end + 1], what='an event')
            if len(held) < needed:
                break
            if len(held) == needed:
                whole, held = held, bytearray()
                yield whole
            else:
                yield bytes(held[:needed])
                del held[:needed]
            searched = needed = 0


def _noting(pieces: Iterable[bytes], failures: list[BaseException]) -> Iterator[bytes]:
    """Yield pieces that are not empty (an empty one would end a body sent in pieces), and keep what goes wrong."""
    try:
        for piece in pieces:
            if not isinstance(piece, (bytes, bytearray, memoryview)):
                raise InvalidArgumentError(f'an iterable source must give bytes, not {type(piece).__name__}')
            if piece:
                yield bytes(piece)
    except Exception as error:
        failures.append(error)
        raise
