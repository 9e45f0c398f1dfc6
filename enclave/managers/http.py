"""The manager of a server's sandboxes (floor 5): every verb of `LocalSandboxManager`, as requests. Requests has its door here.

Which repeats are safe: everything that only asks; and everything that is sent with an idempotency key, which the server does
once however often it is asked. So a connection that broke, or that a server closed while it rested, is not an error; a server
that does not answer at all is, soon. What is sent from an iterator cannot be sent twice, and is not.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import uuid
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any, ClassVar, TypeVar
from urllib.parse import urlencode, urlsplit

import requests
import requests.adapters
import urllib3

import enclave
from enclave import wire
from enclave.cancellation import Cancellation, is_cancelled, on_cancel, until_cancelled
from enclave.config import SandboxConfig
from enclave.deadline import Deadline, check_timeout
from enclave.enums import SandboxManagerType, SandboxStatus, SandboxType
from enclave.errors import (
    AuthenticationError,
    CallCancelledError,
    ConfigurationError,
    EnclaveError,
    InvalidArgumentError,
    ManagerStoppedError,
    OperationTimeoutError,
    PoolError,
    RequestTooLargeError,
    SandboxNotFoundError,
    ServerError,
    ServerUnavailableError,
    TooManyRequestsError,
    UnsupportedError,
)
from enclave.exchange import LINES, CancellableRequest
from enclave.labels import check_labels
from enclave.languages.values import CodeRequest, CodeResult
from enclave.managers.base import Config, Lifetime, SandboxManager
from enclave.managers.code_batches import run_batch
from enclave.managers.config import SandboxManagerConfig
from enclave.managers.keyfile import find_key
from enclave.managers.protocol import (
    API_KEY_ENVIRONMENT,
    IDEMPOTENCY_HEADER,
    KEEP_ALIVE_SECONDS,
    PROTOCOL_HEADER,
    PROTOCOL_VERSION,
    VERSION_HEADER,
    AcquireRequest,
    CancelResponse,
    DoneResponse,
    PoolCodeRequest,
    PoolRequest,
    PoolToolRequest,
    ReleaseRequest,
    RenewRequest,
    RenewResponse,
    SandboxesResponse,
    SandboxResponse,
    StreamEvent,
    ToolRequest,
    rebuild_error,
)
from enclave.managers.remote import RemoteSandbox, RemoteVerbs, as_parameters
from enclave.parallel import Followed, Outcomes, check_concurrency
from enclave.records import HealthCheckResult, SandboxInfo, ToolResult
from enclave.sandboxes.choice import kind_of
from enclave.sandboxes.verbs import FullSandbox
from enclave.tools.budget import check_max_chars

logger = logging.getLogger(__name__)

E = TypeVar('E', bound=StreamEvent)

URL_ENVIRONMENT = 'ENCLAVE_URL'
CONNECT_SECONDS = 5.0
RETRIES = 3
_PAUSES = (0.05, 0.25, 1.0)
"""Before the repeats after a broken connection."""
BUSY_SECONDS = 30.0
"""How long a server that says it is full is asked again, where the call has no time limit of its own."""
PIECE_BYTES = 256 << 10
_MIN_PROTOCOL = 1
_KEEPALIVE = (('TCP_KEEPIDLE', 15), ('TCP_KEEPINTVL', 5), ('TCP_KEEPCNT', 3))


class HttpSandboxManager(SandboxManager):
    """Sandboxes of a server; see `SandboxManager` for the verbs. Any thread may use it, many at once.

    The server owns the sandboxes: `stop` lets go of the connections and ends nothing there, so that one program may make what
    another uses. Delete what is not needed, use `open`, or let the server's ``idle_timeout`` see to it.

    The key, where the server needs one, is ``api_key``, or the environment variable ``ENCLAVE_API_KEY``, or for a server of the
    same user on this machine the one it left in a file.
    """

    manager_type: ClassVar[SandboxManagerType] = SandboxManagerType.HTTP

    def __init__(
        self,
        config: SandboxManagerConfig | Mapping[str, Any] | str | None = None,
        *,
        connect_timeout: float = CONNECT_SECONDS,
        max_connections: int = 64,
        verify: bool | str | None = None,
        **options: Any,
    ) -> None:
        """Check the configuration; nothing is connected yet.

        Args:
            config: A configuration, a dict of its options, or just the address of the server.
            connect_timeout: Seconds a connection may take to come about.
            max_connections: How many idle connections are kept; more are made when needed.
            verify: For https: the path of a CA bundle, or False to trust anybody. Default is what the system trusts.
            options: Options of `SandboxManagerConfig`, above all ``base_url``, ``api_key`` and ``timeout``, which is how long an
                answer may take beyond what the call itself may.

        Raises:
            ConfigurationError: The configuration is wrong, or there is no address.
        """
        if isinstance(config, str):
            options = {'base_url': config, **options}
            config = None
        super().__init__(config, **options)
        base_url = self.config.base_url or os.environ.get(URL_ENVIRONMENT)
        if not base_url:
            raise ConfigurationError(
                "the address of the server is missing: give base_url, like 'http://127.0.0.1:8000', "
                f'or set {URL_ENVIRONMENT}'
            )
        parts = urlsplit(base_url)
        if parts.scheme not in ('http', 'https') or not parts.hostname or parts.query or parts.username:
            raise ConfigurationError(f"base_url must be like 'http://127.0.0.1:8000', not {base_url!r}")
        self.base_url = base_url.rstrip('/')
        self._transport = HttpTransport(
            self.base_url,
            api_key=self.config.api_key,
            connect_timeout=connect_timeout,
            answer_timeout=self.config.timeout,
            max_connections=max_connections,
            verify=verify,
            cancel_later=self._cancel_later,
        )
        self._state_lock = threading.Lock()  # guards _state
        self._state = 'new'
        self._pid = os.getpid()
        self._knows_pool = False

    # Life -------------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin; does nothing the second time. Asks the server whether it is one of ours.

        Raises:
            ManagerStoppedError: It was stopped already.
            ServerUnavailableError: Nobody answers there, or no server of ours.
            AuthenticationError: The server does not know the key.
        """
        with self._state_lock:
            if self._state == 'running':
                return
            self._check_open()
            self._state = 'running'
        try:
            self._transport.call('GET', '/stats', dict[str, Any])
        except EnclaveError:
            with self._state_lock:
                if self._state == 'running':
                    self._state = 'new'
            raise

    def _check_open(self) -> None:
        if self._state == 'stopped':
            raise ManagerStoppedError(f'manager {self.id} is stopped and takes no new work; make a new one')

    def _open_transport(self) -> HttpTransport:
        self._check_open()
        if self._state == 'new':
            with self._state_lock:
                if self._state == 'new':
                    self._state = 'running'
        return self._transport

    def stop(self) -> None:
        """End: refuse new work and close the connections. Sandboxes stay with the server. May be called twice, at any stage."""
        with self._state_lock:
            self._state = 'stopped'
        self._calls.shutdown(wait=False, cancel_futures=True)
        self._control.shutdown(wait=False)
        self._transport.close()

    def _cancel_later(self, cancel: Callable[[], None]) -> None:
        try:
            self._control.submit(cancel)
        except ManagerStoppedError:
            threading.Thread(target=cancel, name=f'enclave-cancel-{self.id}', daemon=True).start()

    # Sandboxes --------------------------------------------------------------------------------------------------------

    def create_sandbox(
        self,
        sandbox_type: SandboxType | str | None = None,
        config: Config = None,
        sandbox_id: str | None = None,
        *,
        ttl: Lifetime = 'default',
        idle_timeout: Lifetime = 'default',
        labels: Mapping[str, str] | None = None,
    ) -> str:
        """Make and start a sandbox, and return its id; see `SandboxManager.create_sandbox`."""
        query = {
            'sandbox_type': self._type_name(sandbox_type, config),
            'sandbox_id': sandbox_id,
            'ttl': _lifetime(ttl, 'ttl'),
            'idle_timeout': _lifetime(idle_timeout, 'idle_timeout'),
            'labels': _labels(labels),
        }
        answer: SandboxResponse = self._open_transport().call(
            'POST', '/sandbox/create', SandboxResponse, query=query, body=self._options(config), timeout=0
        )
        return answer.sandbox_id

    def _type_name(self, sandbox_type: SandboxType | str | None, config: Config) -> str | None:
        """Return the kind as it travels: the one that is named, else the one that the configuration is of; None leaves it to the
        server."""
        named = self.config.sandbox_type if sandbox_type is None else sandbox_type
        if named is None:
            named = kind_of(self.config.sandbox_config if config is None else config)
        if named is not None and not isinstance(named, str):
            raise InvalidArgumentError(f'a sandbox type is a SandboxType or a name, not {named!r}')
        return None if named is None else str(named)

    def _options(self, config: Config) -> dict[str, Any] | None:
        """Return a configuration as it travels: its own words only, so that the server's kind has its own defaults."""
        if config is None:
            config = self.config.sandbox_config
        if config is None or isinstance(config, Mapping):
            return None if config is None else dict(config)
        if not isinstance(config, SandboxConfig):
            raise ConfigurationError(f'config must be a SandboxConfig or a dict of options, not {config!r}')
        return config.model_dump(mode='json', include=set(config.non_default_options()))

    def get_sandbox(self, sandbox_id: str) -> FullSandbox | None:
        """Return the sandbox of an id, or None if there is none: a `RemoteSandbox`, which is a `RemoteNotebookSandbox` if it
        offers notebooks."""
        try:
            info = self.get_sandbox_info(sandbox_id)
        except SandboxNotFoundError:
            return None
        if 'notebook' not in info.offers:
            return RemoteSandbox(self._transport, info.id, info)
        # Not with this module: most clients have no notebook, and it takes a quarter of the time that all else does.
        from enclave.managers.remote_notebook import RemoteNotebookSandbox

        return RemoteNotebookSandbox(self._transport, info.id, info)

    def get_sandbox_info(self, sandbox_id: str) -> SandboxInfo:
        """Return what can be said of a sandbox; see `SandboxManager.get_sandbox_info`."""
        info: SandboxInfo = self._open_transport().call('GET', _path(sandbox_id), SandboxInfo)
        return info

    def list_sandboxes(
        self, status_filter: SandboxStatus | str | None = None, *, labels: Mapping[str, str] | None = None
    ) -> list[SandboxInfo]:
        """Return what can be said of all sandboxes of this key; see `SandboxManager.list_sandboxes`."""
        status = None if status_filter is None else str(status_filter)
        query = {'status': status, 'labels': _labels(labels)}
        found: list[SandboxInfo] = self._open_transport().call('GET', '/sandboxes', list[SandboxInfo], query=query)
        return found

    def stop_sandbox(self, sandbox_id: str) -> bool:
        """Stop a sandbox, which stays in the list as ``stopped``; see `SandboxManager.stop_sandbox`."""
        self._open_transport().call('POST', f'{_path(sandbox_id)}/stop', DoneResponse, timeout=0)
        return True

    def delete_sandbox(self, sandbox_id: str) -> bool:
        """Take a sandbox away; see `SandboxManager.delete_sandbox`."""
        self._open_transport().call('DELETE', _path(sandbox_id), DoneResponse, timeout=0)
        return True

    def cleanup_all_sandboxes(self) -> list[str]:
        """Delete all sandboxes of this key and dissolve its pools; see `SandboxManager.cleanup_all_sandboxes`."""
        answer: SandboxesResponse = self._open_transport().call('DELETE', '/sandboxes', SandboxesResponse, timeout=0)
        return answer.sandbox_ids

    def renew(self, sandbox_id: str, ttl: Lifetime = 'default') -> datetime | None:
        """Let a sandbox live ``ttl`` seconds from now, and return that moment; see `SandboxManager.renew`."""
        seconds: Lifetime = ttl if ttl == 'default' else check_timeout(ttl, 'ttl')
        answer: RenewResponse = self._open_transport().call(
            'POST', f'{_path(sandbox_id)}/renew', RenewResponse, body=RenewRequest(ttl=seconds)
        )
        return answer.expires_at

    # Tools and commands -----------------------------------------------------------------------------------------------

    def execute_tool(
        self,
        sandbox_id: str,
        tool_name: str,
        parameters: Mapping[str, Any] | None = None,
        *,
        max_chars: int | None = None,
    ) -> ToolResult:
        """Run a tool in a sandbox; see `SandboxManager.execute_tool`."""
        check_max_chars(max_chars)
        body = ToolRequest(
            sandbox_id=sandbox_id, tool_name=tool_name, parameters=as_parameters(parameters), max_chars=max_chars
        )
        result: ToolResult = self._open_transport().call(
            'POST', '/sandbox/tool/execute', ToolResult, body=body, timeout=0
        )
        return result

    def get_sandbox_tools(self, sandbox_id: str) -> dict[str, Any]:
        """Return a sandbox's tools as ``{name: OpenAI-style function schema}``; see `SandboxManager.get_sandbox_tools`."""
        found: dict[str, Any] = self._open_transport().call('GET', f'{_path(sandbox_id)}/tools', dict[str, Any])
        return found

    def _using(self, sandbox_id: str) -> AbstractContextManager[RemoteVerbs]:
        _path(sandbox_id)  # not asked whether it is there; what is asked of it will say
        return contextlib.nullcontext(RemoteVerbs(self._open_transport(), sandbox_id))

    # Pools ------------------------------------------------------------------------------------------------------------

    def initialize_pool(
        self,
        pool_size: int | None = None,
        sandbox_type: SandboxType | str | None = None,
        config: Config = None,
        *,
        name: str | None = None,
    ) -> list[str]:
        """Make a pool of warm sandboxes at the server and return their ids; see `SandboxManager.initialize_pool`."""
        size = (self.config.pool_size or None) if pool_size is None else pool_size
        if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
            raise PoolError(f'pool_size must be a whole number, at least 1, not {size!r}')
        body = PoolRequest(
            pool_size=size,
            sandbox_type=self._type_name(sandbox_type, config),
            config=self._options(config),
            name=name,
        )
        answer: SandboxesResponse = self._open_transport().call(
            'POST', '/pool/initialize', SandboxesResponse, body=body, timeout=0
        )
        self._knows_pool = True
        return answer.sandbox_ids

    @property
    def _pool_initialized(self) -> bool:
        return self._knows_pool

    def acquire_sandbox(
        self, timeout: float | None = None, *, pool: str | None = None, ttl: float | None = None
    ) -> str:
        """Lease a sandbox of a pool and return its id; see `SandboxManager.acquire_sandbox`.

        A lease that is not given back ends when the server's policy says, after an hour by default.
        """
        body = AcquireRequest(timeout=check_timeout(timeout), pool=pool, ttl=check_timeout(ttl, 'ttl'))
        answer: SandboxResponse = self._open_transport().call(
            'POST', '/pool/acquire', SandboxResponse, body=body, timeout=timeout or 0
        )
        return answer.sandbox_id

    def release_sandbox(self, sandbox_id: str) -> None:
        """Give a leased sandbox back; see `SandboxManager.release_sandbox`."""
        if self._state == 'stopped':
            return
        with contextlib.suppress(SandboxNotFoundError):  # it went away meanwhile, with its lease
            self._open_transport().call(
                'POST', '/pool/release', DoneResponse, body=ReleaseRequest(sandbox_id=sandbox_id)
            )

    def execute_tool_in_pool(
        self,
        tool_name: str,
        parameters: Mapping[str, Any] | None = None,
        timeout: float | None = None,
        *,
        pool: str | None = None,
        max_chars: int | None = None,
    ) -> ToolResult:
        """Run a tool in whichever sandbox of a pool is free, in one request; see `SandboxManager.execute_tool_in_pool`."""
        check_max_chars(max_chars)
        body = PoolToolRequest(
            tool_name=tool_name,
            parameters=as_parameters(parameters),
            timeout=check_timeout(timeout),
            pool=pool,
            max_chars=max_chars,
        )
        result: ToolResult = self._open_transport().call('POST', '/pool/execute', ToolResult, body=body, timeout=0)
        return result

    def _run_code_in_pool(self, request: CodeRequest, timeout: float | None, pool: str | None) -> CodeResult:
        body = PoolCodeRequest(request=request, timeout=check_timeout(timeout), pool=pool)
        result: CodeResult = self._open_transport().call('POST', '/pool/code', CodeResult, body=body, timeout=0)
        return result

    def _run_many(
        self,
        items: Iterable[Any],
        make: Callable[[Any], CodeRequest],
        pool: str | None,
        concurrency: int | None,
        in_order: bool,
        wait_timeout: float | None,
    ) -> Outcomes[CodeResult]:
        if concurrency is None:
            self._pool_size(pool)  # raises what is wrong now
        return Followed(
            run_batch(
                self._open_transport(),
                '/pool/code/batch',
                items,
                make,
                in_order=in_order,
                concurrency=check_concurrency(concurrency),
                timeout=check_timeout(wait_timeout),
                pool=pool,
            )
        )

    def _run_code(self, sandbox_id: str, request: CodeRequest) -> CodeResult:
        path = f'{_path(sandbox_id)}/code'
        result: CodeResult = self._open_transport().call('POST', path, CodeResult, body=request, timeout=0)
        return result

    # Reply ------------------------------------------------------------------------------------------------------------

    def get_stats(self) -> dict[str, Any]:
        """Return the server's numbers about this key's sandboxes, and ``base_url``; see `SandboxManager.get_stats`."""
        found: dict[str, Any] = self._open_transport().call('GET', '/stats', dict[str, Any])
        return {**found, 'manager_type': str(self.manager_type), 'base_url': self.base_url}

    def get_limits(self) -> dict[str, Any]:
        """Return what the server allows this key, by the names of `enclave.server.policy.Policy`; None is no limit."""
        found: dict[str, Any] = self._open_transport().call('GET', '/limits', dict[str, Any])
        return found

    def health_check(self) -> HealthCheckResult:
        """Return whether the server answers and is well; see `SandboxManager.health_check`."""
        try:
            found: HealthCheckResult = self._open_transport().call('GET', '/health', HealthCheckResult)
        except EnclaveError as error:
            return HealthCheckResult(
                healthy=False,
                version=enclave.__version__,
                details={
                    'running': self._state != 'stopped',
                    'sandboxes': 0,
                    'backends': {},
                    'error': error.message,
                    'code': error.code,
                },
            )
        return found

    def __repr__(self) -> str:
        return f'<HttpSandboxManager {self.id} {self.base_url}>'


def _path(sandbox_id: str) -> str:
    """Return the address of a sandbox; an id that cannot be one is one that nobody has."""
    fits = isinstance(sandbox_id, str) and sandbox_id and all(each.isalnum() or each in '._-' for each in sandbox_id)
    if not fits or not sandbox_id.isascii() or set(sandbox_id) <= {'.'}:
        raise SandboxNotFoundError(
            f'no sandbox has the id {sandbox_id!r}; it was never made here, or it was deleted',
            details={'sandbox_id': str(sandbox_id)},
        )
    return f'/sandbox/{sandbox_id}'


def _labels(value: Mapping[str, str] | None) -> str | None:
    """Return labels as the query has them; none are left out."""
    labels = check_labels(value)
    return wire.to_json(labels) if labels else None


def _lifetime(value: Lifetime, name: str) -> float | None:
    """Return a lifetime as the query has it: left out for the default, 0 for ever."""
    if value == 'default':
        return None
    return check_timeout(value, name) or 0.0


# Transport ------------------------------------------------------------------------------------------------------------


class _Adapter(requests.adapters.HTTPAdapter):
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
        cancel_later: Runs what tells the server of a cancelled call, on another thread.
    """

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
        self._adapter = _Adapter(pool_connections=1, pool_maxsize=max_connections, max_retries=0)
        self._headers = {
            'User-Agent': f'ms-enclave/{enclave.__version__}',
            'Accept': '*/*',
            'Accept-Encoding': 'identity',
            PROTOCOL_HEADER: str(PROTOCOL_VERSION),
        }

    def close(self) -> None:
        """Close the connections that rest; those in use end with their calls."""
        self._closing.set()
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
        key = uuid.uuid4().hex if method != 'GET' else None
        if key is not None:
            headers[IDEMPOTENCY_HEADER] = key
        with self._cancelled_with(key):
            response = self._send(
                method,
                path,
                query,
                headers,
                lambda: data,
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
                lambda: None,
                self._read_timeout(0),
                is_repeatable=True,
                stream=True,
                exchange=exchange,
            )
            with response:
                self._check(response)
                yield from until_cancelled(self._raw(response, PIECE_BYTES), exchange.what)

    def events(
        self, method: str, path: str, kind: type[E], *, query: Mapping[str, Any] | None = None, body: Any = None
    ) -> Generator[E, None, None]:
        """Yield the events of a stream as they come.

        Args:
            kind: The class of the events.
            body: A value to send as JSON; what it asks must be such that it may be repeated.
        """
        headers, data = _json_body(body)
        silence = 3 * KEEP_ALIVE_SECONDS
        response = self._send(method, path, query, headers, lambda: data, silence, is_repeatable=True, stream=True)
        with response:
            self._check(response)
            for line in _lines(self._raw(response, 1 << 16)):
                yield kind.model_validate(wire.from_json(line, what='an event'))

    def later(self, action: Callable[[], None]) -> None:
        """Have something told to the server on another thread, under no one's cancellation; that it fails is no matter."""

        def tell() -> None:
            with contextlib.suppress(EnclaveError), Cancellation().applied():
                action()

        self._cancel_later(tell)

    def _raw(self, response: requests.Response, size: int) -> Iterator[bytes]:
        """Yield a body as it comes, and say in our words how it broke."""
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

    @contextlib.contextmanager
    def _cancelled_with(self, key: str | None) -> Iterator[None]:
        """Tell the server, if the caller's work is cancelled in the block."""
        if is_cancelled():
            raise CallCancelledError('the call was cancelled before it was made')
        if key is None:
            yield
            return

        def cancel() -> None:
            self.call('POST', f'/calls/{key}/cancel', CancelResponse)

        with on_cancel(lambda: self.later(cancel)):
            yield

    def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, Any] | None,
        headers: Mapping[str, str],
        make_data: Callable[[], Any],
        read_timeout: float | None,
        *,
        is_repeatable: bool,
        stream: bool,
        exchange: CancellableRequest | None = None,
    ) -> requests.Response:
        """Send a request, again where that is safe and may help, and return the answer, whatever it says.

        Args:
            exchange: What the request is to be, so that others can end it.
        """
        url = self._base_url + path + _query_text(query)
        patience = Deadline.after(BUSY_SECONDS if read_timeout is None else min(read_timeout, BUSY_SECONDS))
        failures = 0
        while True:
            if self._closing.is_set():
                raise ManagerStoppedError('the manager is stopped and takes no new work; make a new one')
            key_headers = self._key_headers()
            try:
                with contextlib.nullcontext() if exchange is None else exchange.made():
                    response = self._send_once(method, url, {**headers, **key_headers}, make_data(), read_timeout)
                if not stream:
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
            if response.status_code == 429 and is_repeatable and self._may_wait(response, patience):
                continue
            if response.status_code == 401 and is_repeatable and self._look_for_key():
                response.close()
                continue
            return response

    def _send_once(
        self, method: str, url: str, headers: Mapping[str, str], data: Any, read_timeout: float | None
    ) -> requests.Response:
        """Hand a request to the adapter: a session would take 0.3 ms more, for cookies and redirects that there are none of."""
        request = requests.PreparedRequest()
        request.method, request.url, request.body = method, url, data
        request.headers = requests.structures.CaseInsensitiveDict({**self._headers, **headers})
        request.hooks = requests.hooks.default_hooks()
        if data is None:
            if method != 'GET':
                request.headers['Content-Length'] = '0'
        elif hasattr(data, '__len__'):
            request.headers['Content-Length'] = str(len(data))
        else:
            request.headers['Transfer-Encoding'] = 'chunked'
        return self._adapter.send(
            request,
            stream=True,
            timeout=(self._connect_timeout, read_timeout),  # type: ignore[arg-type, unused-ignore]
            verify=self._verify,
            proxies=self._proxies,
        )

    def _may_wait(self, response: requests.Response, patience: Deadline) -> bool:
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

    def _decode(self, response: requests.Response, answer: Any) -> Any:
        with response:
            self._check(response)
            try:
                return wire.decode(wire.from_json(response.content, what='the answer'), answer, what='the answer')
            except InvalidArgumentError as error:
                raise ServerError(
                    f'the server at {self._base_url} (version {response.headers.get(VERSION_HEADER, "unknown")}) gave an '
                    f'answer that this client (version {enclave.__version__}) does not understand: {error.message}'
                ) from error

    def _check(self, response: requests.Response) -> None:
        """Return if it is a good answer of a server of ours; otherwise raise what it says, or that it is none."""
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

    def _fault(self, response: requests.Response) -> EnclaveError:
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
            hint = (
                'the key it was shown is not one it knows'
                if 'Authorization' in response.request.headers
                else error.message
            )
            return AuthenticationError(f'the server at {self._base_url} refuses us: {hint}', details=error.details)
        return error

    def _unreachable(self, why: str) -> ServerUnavailableError:
        return ServerUnavailableError(
            f'the server at {self._base_url} {why}; is it running? Start one with: ms-enclave server',
            details={'base_url': self._base_url},
        )


def _reason(error: BaseException) -> str:
    """Return in words how a connection failed, from whatever lies at the bottom of it."""
    cause: BaseException | None = error
    for _ in range(8):
        if isinstance(cause, ConnectionRefusedError):
            return 'refuses connections'
        if isinstance(cause, socket.gaierror):
            return 'has a name that cannot be resolved'
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


def _query_text(query: Mapping[str, Any] | None) -> str:
    """Return ``?a=1&b=true``, without what is None."""
    pairs = {}
    for name, value in (query or {}).items():
        if value is not None:
            pairs[name] = str(value).lower() if isinstance(value, bool) else str(value)
    return f'?{urlencode(pairs, errors="surrogateescape")}' if pairs else ''


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


__all__ = ['HttpSandboxManager', 'HttpTransport', 'RemoteSandbox']
