"""The manager of a server's sandboxes (layer 5): every verb of `LocalSandboxManager`, as requests; see `http_transport` for how
these travel.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast
from urllib.parse import urlsplit

import enclave
from enclave import wire
from enclave.config import SandboxConfig
from enclave.deadline import check_timeout
from enclave.enums import SandboxManagerType, SandboxStatus, SandboxType
from enclave.errors import (
    ConfigurationError,
    EnclaveError,
    InvalidArgumentError,
    ManagerStoppedError,
    PoolError,
    SandboxNotFoundError,
)
from enclave.labels import check_labels
from enclave.languages.values import CodeRequest, CodeResult
from enclave.managers.actions import ask, tool_seconds
from enclave.managers.base import Config, SandboxManager, check_on_expiry
from enclave.managers.code_batches import run_batch
from enclave.managers.http_transport import CONNECT_SECONDS, HttpTransport
from enclave.managers.manager_config import SandboxManagerConfig
from enclave.managers.options import Lifetime
from enclave.managers.protocol import (
    AcquireRequest,
    PoolCodeRequest,
    PoolRequest,
    PoolToolRequest,
    ReleaseRequest,
    RenewRequest,
    RenewResponse,
    SandboxesResponse,
    SandboxResponse,
    ToolRequest,
)
from enclave.managers.remote import RemoteSandbox, RemoteVerbs, as_parameters, pause, resume
from enclave.parallel import Followed, Outcomes, check_concurrency
from enclave.quoting import quoted
from enclave.records import HealthCheckResult, SandboxInfo, ToolResult
from enclave.sandboxes.base import check_sandbox_id
from enclave.sandboxes.choice import kind_of
from enclave.sandboxes.verbs import FullSandbox
from enclave.tools.budget import check_max_chars

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from enclave.managers.options import ManagerOptions

URL_ENVIRONMENT = 'ENCLAVE_URL'


def kind_to_send(settings: SandboxManagerConfig, sandbox_type: SandboxType | str | None, config: Config) -> str | None:
    """Return the kind as it travels: the one that is named, else the one that the configuration is of; None leaves it to the
    server."""
    named = settings.sandbox_type if sandbox_type is None else sandbox_type
    if named is None:
        named = kind_of(settings.sandbox_config if config is None else config)
    if named is not None and not isinstance(named, str):
        raise InvalidArgumentError(f'a sandbox type is a SandboxType or a name, not {quoted(named)}')
    return None if named is None else str(named)


def options_to_send(settings: SandboxManagerConfig, config: Config) -> dict[str, Any] | None:
    """Return a configuration as it travels: only what was set, so that the server's kind has its own defaults."""
    if config is None:
        config = settings.sandbox_config
    if config is None or isinstance(config, Mapping):
        return None if config is None else dict(config)
    if not isinstance(config, SandboxConfig):
        raise ConfigurationError(f'config must be a SandboxConfig or a dict of options, not {quoted(config)}')
    return config.model_dump(mode='json', include=set(config.non_default_options()))


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
        max_connections: int = 256,
        verify: bool | str | None = None,
        **options: Unpack[ManagerOptions],
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
            options = cast('ManagerOptions', {'base_url': config, **options})
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
            raise ConfigurationError(f"base_url must be like 'http://127.0.0.1:8000', not {quoted(base_url)}")
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
        """Begin; does nothing the second time. Asks the server whether it is one of this library.

        Raises:
            ManagerStoppedError: It was stopped already.
            ServerUnavailableError: Nobody answers there, or no server of this library.
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
        check_sandbox_id(sandbox_id)
        query = {
            'sandbox_type': kind_to_send(self.config, sandbox_type, config),
            'sandbox_id': sandbox_id,
            'ttl': _lifetime(ttl, 'ttl'),
            'idle_timeout': _lifetime(idle_timeout, 'idle_timeout'),
            'labels': _labels(labels),
        }
        answer: SandboxResponse = self._open_transport().call(
            'POST',
            '/sandbox/create',
            SandboxResponse,
            query=query,
            body=options_to_send(self.config, config),
            timeout=0,
        )
        return answer.sandbox_id

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
        info: SandboxInfo = self._ask_about(sandbox_id, 'get_sandbox_info')
        return info

    def list_sandboxes(
        self, status_filter: SandboxStatus | str | None = None, *, labels: Mapping[str, str] | None = None
    ) -> list[SandboxInfo]:
        """Return what can be said of all sandboxes of this key; see `SandboxManager.list_sandboxes`."""
        status = (
            None
            if status_filter is None
            else status_filter
            if isinstance(status_filter, str)
            else quoted(status_filter)
        )
        query = {'status': status, 'labels': _labels(labels)}
        found: list[SandboxInfo] = self._open_transport().call('GET', '/sandboxes', list[SandboxInfo], query=query)
        return found

    def stop_sandbox(self, sandbox_id: str) -> bool:
        """Stop a sandbox, which stays in the list as ``stopped``; see `SandboxManager.stop_sandbox`."""
        self._ask_about(sandbox_id, 'stop_sandbox', timeout=0)
        return True

    def delete_sandbox(self, sandbox_id: str) -> bool:
        """Take a sandbox away; see `SandboxManager.delete_sandbox`."""
        self._ask_about(sandbox_id, 'delete_sandbox', timeout=0)
        return True

    def cleanup_all_sandboxes(self) -> list[str]:
        """Delete all sandboxes of this key and dissolve its pools; see `SandboxManager.cleanup_all_sandboxes`."""
        answer: SandboxesResponse = ask(self._open_transport(), 'cleanup_all_sandboxes')
        return answer.sandbox_ids

    def pause_sandbox(self, sandbox_id: str, *, ttl: Lifetime = 'default') -> datetime | None:
        """Keep all that is in a sandbox from running; see `SandboxManager.pause_sandbox`."""
        return pause(self._open_transport(), _checked_id(sandbox_id), ttl)

    def resume_sandbox(self, sandbox_id: str) -> datetime | None:
        """Let a paused sandbox continue; see `SandboxManager.resume_sandbox`."""
        return resume(self._open_transport(), _checked_id(sandbox_id))

    def renew(
        self, sandbox_id: str, ttl: Lifetime = 'default', *, on_expiry: Literal['remove', 'pause'] | None = None
    ) -> datetime | None:
        """Let a sandbox live ``ttl`` seconds from now, and return that moment; see `SandboxManager.renew`."""
        check_on_expiry(on_expiry)
        seconds: Lifetime = ttl if ttl == 'default' else check_timeout(ttl, 'ttl')
        body = RenewRequest(ttl=seconds, on_expiry=on_expiry)
        answer: RenewResponse = self._ask_about(sandbox_id, 'renew', body)
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
        seconds = tool_seconds(tool_name, parameters)
        result: ToolResult = ask(self._open_transport(), 'execute_tool', body, timeout=seconds)
        return result

    def get_sandbox_tools(self, sandbox_id: str) -> dict[str, Any]:
        """Return a sandbox's tools as ``{name: OpenAI-style function schema}``; see `SandboxManager.get_sandbox_tools`."""
        found: dict[str, Any] = self._ask_about(sandbox_id, 'get_sandbox_tools')
        return found

    def _ask_about(self, sandbox_id: str, name: str, body: Any = None, *, timeout: float | None = None) -> Any:
        return ask(self._open_transport(), name, body, timeout=timeout, sandbox_id=_checked_id(sandbox_id))

    def _using(self, sandbox_id: str) -> AbstractContextManager[RemoteVerbs]:
        _checked_id(sandbox_id)  # not asked whether it is there; what is asked of it will say
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
            raise PoolError(f'pool_size must be a whole number, at least 1, not {quoted(size)}')
        body = PoolRequest(
            pool_size=size,
            sandbox_type=kind_to_send(self.config, sandbox_type, config),
            config=options_to_send(self.config, config),
            name=name,
        )
        answer: SandboxesResponse = ask(self._open_transport(), 'initialize_pool', body)
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
        answer: SandboxResponse = ask(self._open_transport(), 'acquire_sandbox', body, timeout=timeout or 0)
        return answer.sandbox_id

    def release_sandbox(self, sandbox_id: str) -> None:
        """Give a leased sandbox back; see `SandboxManager.release_sandbox`."""
        if self._state == 'stopped':
            return
        with contextlib.suppress(SandboxNotFoundError):  # it went away meanwhile, with its lease
            ask(self._open_transport(), 'release_sandbox', ReleaseRequest(sandbox_id=sandbox_id))

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
        seconds = tool_seconds(tool_name, parameters)
        limit = seconds + body.timeout if seconds and body.timeout else None
        result: ToolResult = ask(self._open_transport(), 'execute_tool_in_pool', body, timeout=limit)
        return result

    def _run_code_in_pool(
        self, request: CodeRequest, timeout: float | None, pool: str | None, *, in_batch: bool = False
    ) -> CodeResult:
        body = PoolCodeRequest(request=request, timeout=check_timeout(timeout), pool=pool, in_batch=in_batch)
        result: CodeResult = self._open_transport().call('POST', '/pool/code', CodeResult, body=body, timeout=0)
        return result

    def _run_in_batch(self, request: CodeRequest, timeout: float | None, pool: str | None) -> CodeResult:
        return self._run_code_in_pool(request, timeout, pool, in_batch=True)

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
        path = f'/sandbox/{_checked_id(sandbox_id)}/code'
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


def _checked_id(sandbox_id: str) -> str:
    """Return a sandbox's id, which goes into an address; what cannot be one is an id that nobody has."""
    fits = isinstance(sandbox_id, str) and sandbox_id and all(each.isalnum() or each in '._-' for each in sandbox_id)
    if not fits or not sandbox_id.isascii() or set(sandbox_id) <= {'.'}:
        raise SandboxNotFoundError(
            f'no sandbox has the id {quoted(sandbox_id)}; it was never made here, or it was deleted',
            details={'sandbox_id': sandbox_id if isinstance(sandbox_id, str) else quoted(sandbox_id)},
        )
    return sandbox_id


def _labels(value: Mapping[str, str] | None) -> str | None:
    """Return labels as the query has them; none are left out."""
    labels = check_labels(value)
    return wire.to_json(labels) if labels else None


def _lifetime(value: Lifetime, name: str) -> float | None:
    """Return a lifetime as the query has it: left out for the default, 0 for ever."""
    if value == 'default':
        return None
    return check_timeout(value, name) or 0.0


__all__ = ['HttpSandboxManager', 'HttpTransport', 'RemoteSandbox']
