"""The one entry to the container engine (layer 4, docker).

Promises: one client per process, made at first use and again after a fork; the address chosen as the docker command line
chooses it; ordinary calls bounded in time, streams not; a pool that neither blocks nor complains however many threads
call; and every failure translated, beside the call, into an error of this library that carries the engine's message.

docker-py's low-level client does the calls (it speaks through requests and urllib3, whose exceptions are met here and
nowhere above); `enclave.sandboxes.docker.dial` does the connections that outlive a call.
"""

from __future__ import annotations

import errno
import http.client
import json
import logging
import os
import queue
import sys
import threading
import urllib.parse
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import docker
import docker.errors
import requests.adapters
import requests.exceptions
import urllib3.exceptions
from attrs import Factory, field, frozen
from docker.constants import MINIMUM_DOCKER_API_VERSION
from docker.transport import UnixHTTPAdapter
from docker.transport.unixconn import UnixHTTPConnection, UnixHTTPConnectionPool

from enclave.cancellation import until_cancelled
from enclave.errors import EnclaveError, EngineError, EngineUnavailableError, ImageNotFoundError
from enclave.exchange import LINES, CancellableRequest, TrackedConnection, TrackedPool
from enclave.records import Model
from enclave.sandboxes.docker.dial import (
    Dialer,
    Endpoint,
    RawStream,
    find_endpoint,
    make_endpoint,
    make_tls_context,
    take_over,
    upgrade,
)

logger = logging.getLogger(__name__)

CALL_TIMEOUT = 60.0
"""Seconds an ordinary call may take without the engine sending anything."""
NOT_JSON = 'not JSON'
"""The ``reason`` of an answer that cannot be read, or is empty."""

ARCHIVE_PIECE_BYTES = 1 << 20
POOL_SIZE = 512
"""Idle connections kept. urllib3 opens further ones when all are busy, and only warns when it must drop one above this."""


@frozen(kw_only=True)
class EngineInfo(Model):
    """What an engine is: its versions, its host, and which limits it can enforce.

    ``cgroup_version`` is ``'1'``, ``'2'`` or empty when the engine does not say (before API 1.41). ``architecture`` is the
    engine's host's, as the kernel names it (``x86_64``). ``swap_limit`` and its neighbours say what the kernel can account.
    """

    name: str
    address: str
    version: str
    api_version: str
    os: str
    architecture: str
    kernel: str
    host: str
    cgroup_version: str
    storage_driver: str
    root_dir: str
    cpus: int
    memory_bytes: int
    memory_limit: bool
    swap_limit: bool
    cpu_limit: bool
    pids_limit: bool
    security_options: list[str] = Factory(list)
    runtimes: list[str] = Factory(list)
    default_runtime: str = ''
    warnings: list[str] = field(factory=list)


class Engine:
    """A client of one container engine. Thread-safe; lives until `close`. `get_engine` returns this process's own.

    Args:
        base_url: Like ``unix:///run/docker.sock``, ``tcp://host:2376``, ``ssh://user@host``; None chooses as the docker command
            line does.
        timeout: Seconds an ordinary call may go without an answer.

    Nothing is connected until the first call.

    Raises:
        ConfigurationError: The address, the docker context or the certificates cannot be used.
    """

    def __init__(self, base_url: str | None = None, *, timeout: float = CALL_TIMEOUT) -> None:
        self.endpoint: Endpoint = find_endpoint() if base_url is None else make_endpoint(base_url)
        self.timeout = timeout
        self._dialer = Dialer(self.endpoint)
        self._lock = threading.Lock()  # guards _api and _closed
        self._api: docker.APIClient | None = None
        self._closed = False
        self.memory: dict[str, Any] = {}
        """What the modules beside this one remember of the engine, like its network. Single reads and writes need no lock."""

    @property
    def address(self) -> str:
        """Where the engine is, for messages."""
        return self.endpoint.url

    @property
    def api(self) -> docker.APIClient:
        """docker-py's low-level client, connected at first use.

        Raises:
            EngineUnavailableError: Nobody answers at the address.
        """
        if self._api is not None:
            return self._api
        with self.translate('reach the engine'):
            made = self._connect()
        # Two threads may both have connected; the first one published is the client, the other is let go.
        with self._lock:
            if self._api is None and not self._closed:
                self._api = made
            api = self._api
        if api is not made:
            made.close()
        if api is None:
            raise EngineUnavailableError(f'this client of the engine at {self.address} is closed')
        return api

    def _connect(self) -> docker.APIClient:
        dialled = self.endpoint.scheme in ('unix', 'ssh') and self._dialer.can_dial
        api = docker.APIClient(
            base_url='unix:///dialled' if dialled else self.endpoint.request_url,
            # Any version will do here: the pool is to be put in place before the first request.
            version=MINIMUM_DOCKER_API_VERSION,
            timeout=self.timeout,  # type: ignore[arg-type]
            tls=self.endpoint.tls,
            max_pool_size=POOL_SIZE,
        )
        # REQUESTS_CA_BUNDLE would replace the engine's own CA, and a web proxy is not the way to an engine.
        api.trust_env = False
        if dialled:
            adapter = _DialAdapter(self._dialer, self.timeout)
            setattr(api, '_custom_adapter', adapter)  # noqa: B010 - not in the type stubs
            api.mount('http+docker://', adapter)
        elif self.endpoint.scheme != 'npipe':
            for prefix in ('http://', 'https://'):
                api.mount(prefix, _TcpAdapter(self.endpoint))
        try:
            setattr(api, '_version', api.version(api_version=False)['ApiVersion'])  # noqa: B010 - not in the type stubs
        except BaseException:
            api.close()
            raise
        return api

    def ping(self) -> None:
        """Return if the engine answers.

        Raises:
            EngineUnavailableError: It does not.
        """
        with self.translate('reach the engine'):
            self.api.ping()

    def describe(self) -> EngineInfo:
        """Return what the engine is; two requests.

        Raises:
            EngineUnavailableError: It does not answer.
        """
        with self.translate('ask the engine what it is'):
            version = self.api.version()
            info = self.api.info()
        components = version.get('Components') or [{}]
        name = components[0].get('Name', '') or 'Engine'
        return EngineInfo(
            name=f'Docker {name}' if name == 'Engine' else name,
            address=self.address,
            version=version.get('Version', ''),
            api_version=version.get('ApiVersion', ''),
            os=version.get('Os', ''),
            architecture=info.get('Architecture', ''),
            kernel=version.get('KernelVersion', ''),
            host=info.get('Name', ''),
            cgroup_version=str(info.get('CgroupVersion') or ''),
            storage_driver=info.get('Driver', ''),
            root_dir=info.get('DockerRootDir', ''),
            cpus=int(info.get('NCPU') or 0),
            memory_bytes=int(info.get('MemTotal') or 0),
            memory_limit=bool(info.get('MemoryLimit')),
            swap_limit=bool(info.get('SwapLimit')),
            cpu_limit=bool(info.get('CpuCfsQuota')),
            pids_limit=bool(info.get('PidsLimit')),
            security_options=list(info.get('SecurityOptions') or ()),
            runtimes=sorted(info.get('Runtimes') or ()),
            default_runtime=info.get('DefaultRuntime', ''),
            warnings=list(info.get('Warnings') or ()),
        )

    def make_client(self) -> docker.DockerClient:
        """Return a new high-level client of docker-py for this engine, for programs that use it themselves. Theirs to close."""
        client = docker.DockerClient.__new__(docker.DockerClient)
        with self.translate('reach the engine'):
            client.api = self._connect()
        return client

    def run_as_root(self, container_id: str, argv: list[str]) -> None:
        """Run a program as root in a container, to its end, whatever user the container has.

        Raises:
            EngineError: It could not be run, or failed; the message has what it wrote.
            EngineUnavailableError: The engine does not answer.
        """
        what = f'run {argv[0]} in container {container_id[:12]}'
        with self.translate(what):
            made = self.api.exec_create(container_id, argv, user='0:0')
            output = self.api.exec_start(made['Id'])
            code = self.api.exec_inspect(made['Id'])['ExitCode']
        if code:
            text = output.decode('utf-8', 'backslashreplace').strip()
            raise EngineError(f'could not {what}: exit code {code}: {text}')

    # Streams ---------------------------------------------------------------------------------------------------------

    def attach_stream(
        self, container_id: str, *, stdin: bool = True, stdout: bool = True, stderr: bool = True, logs: bool = False
    ) -> RawStream:
        """Attach to a container and return its raw stream, which has no time limit.

        Without a TTY the bytes read are frames of eight header bytes and a payload (Engine API, "Stream format"). Attach
        before the container starts and nothing is missed. Closing the stream ends the standard input of a container that
        has it opened "once".

        Args:
            logs: Also send what was written before the attachment.

        Raises:
            EngineError: The engine refuses; ``details['status']`` is 404 if there is no such container.
            EngineUnavailableError: It does not answer.
        """
        flags = {'stream': True, 'stdin': stdin, 'stdout': stdout, 'stderr': stderr, 'logs': logs}
        query = urllib.parse.urlencode({name: 1 for name, wanted in flags.items() if wanted})
        path = f'/containers/{urllib.parse.quote(container_id, safe="")}/attach?{query}'
        return self._stream(path, b'', f'attach to container {container_id[:12]!r}')

    def exec_stream(self, exec_id: str, *, tty: bool = False) -> RawStream:
        """Start an exec and return its raw stream; see `attach_stream`.

        Raises:
            EngineError: The engine refuses.
            EngineUnavailableError: It does not answer.
        """
        body = json.dumps({'Detach': False, 'Tty': tty}).encode('ascii')
        return self._stream(f'/exec/{urllib.parse.quote(exec_id, safe="")}/start', body, f'start exec {exec_id[:12]!r}')

    def _stream(self, path: str, body: bytes, what: str) -> RawStream:
        versioned = f'/v{self.api.api_version}{path}'
        with self.translate(what):
            if not self._dialer.can_dial:
                headers = {'Connection': 'Upgrade', 'Upgrade': 'tcp', 'Content-Type': 'application/json'}
                url = f'{self.api.base_url}{versioned}'
                response = self.api.post(url, data=body, headers=headers, stream=True, timeout=None)
                if response.status_code not in (101, 200):
                    raise _refused(what, response.status_code, response.text.strip())
                return take_over(response)
            try:
                connection = self._dialer.dial()
            except OSError as error:
                raise self._unavailable(error) from error
            try:
                return upgrade(
                    connection,
                    versioned,
                    host=self._dialer.host_header,
                    body=body,
                    on_refusal=lambda status, reason: _refused(what, status, reason),
                )
            except EnclaveError:
                connection.close()
                raise
            except OSError as error:
                connection.close()
                raise self._unavailable(error) from error
            except BaseException:
                connection.close()
                raise

    # Archives --------------------------------------------------------------------------------------------------------

    def read_archive(self, container_id: str, path: str) -> Generator[bytes, None, None]:
        """Yield a path of a container as a tar archive. Cancelling the caller's work ends it, and so does leaving early.

        Raises:
            CallCancelledError: The work was cancelled.
            EngineError, EngineUnavailableError: As for `translate`.
        """
        exchange = CancellableRequest(f'reading {path!r} from the sandbox')
        with self.translate(f'read {path!r} from the sandbox'), exchange.watched():
            api = self.api  # now: connecting is a request too
            # Not by docker-py's `get_archive`, which leaves the connection of who stops early to the garbage collector.
            url = f'{api.base_url}/v{api.api_version}/containers/{urllib.parse.quote(container_id, safe="")}/archive'
            identity = {'Accept-Encoding': 'identity'}
            with exchange.made():
                response = api.get(url, params={'path': path}, headers=identity, stream=True, timeout=self.timeout)
            with response:
                try:
                    response.raise_for_status()
                except requests.exceptions.HTTPError as error:
                    docker.errors.create_api_error_from_http_exception(error)
                yield from until_cancelled(response.iter_content(ARCHIVE_PIECE_BYTES), exchange.what)

    def write_archive(self, container_id: str, path: str, archive: Iterable[bytes]) -> None:
        """Have a tar archive unpacked below a directory of a container. Cancelling the caller's work ends it.

        When it returns or raises, the engine has let go of the directory, unless the engine does not answer.

        Raises:
            CallCancelledError: The work was cancelled; what had been unpacked is there.
            EngineError, EngineUnavailableError: As for `translate`.
        """
        exchange = CancellableRequest(f'writing {path!r} into the sandbox', listens=True)
        with self.translate(f'write {path!r} into the sandbox'), exchange.watched():
            api = self.api
            with exchange.made():
                api.put_archive(container_id, path, iter(archive))  # a list would be taken for a form's fields

    # Errors ----------------------------------------------------------------------------------------------------------

    @contextmanager
    def translate(self, what: str) -> Iterator[None]:
        """Turn the exceptions of docker-py and what it stands on into ours, with the foreign one chained.

        Args:
            what: What is being tried, after "Could not": ``'create a container from python:3.11-slim'``.

        Raises:
            EngineUnavailableError: The connection failed, broke, or stayed silent too long; names the address.
            ImageNotFoundError: The engine has no such image.
            EngineError: The engine refused; ``details['status']`` is its HTTP status, ``details['reason']`` what it said.
        """
        try:
            yield
        except EnclaveError:
            raise
        # From here on the message says it all; below it would stand a hundred lines of the connection's own traceback.
        except docker.errors.APIError as error:
            logger.debug('could not %s', what, exc_info=True)
            raise _translated(error, what) from None
        except requests.exceptions.InvalidJSONError as error:
            raise EngineError(
                f'Could not {what}: the engine at {self.address} did not answer in JSON ({error})',
                details={'reason': NOT_JSON},
            ) from None
        except (
            requests.exceptions.RequestException,
            urllib3.exceptions.HTTPError,
            http.client.HTTPException,
            ConnectionError,
        ) as error:
            logger.debug('could not %s', what, exc_info=True)
            raise self._unavailable(error) from None
        except docker.errors.DockerException as error:
            logger.debug('could not %s', what, exc_info=True)
            if isinstance(error.__cause__, docker.errors.APIError):
                raise _translated(error.__cause__, what) from None
            if error.__cause__ is not None:
                raise self._unavailable(error) from None
            raise EngineError(f'Could not {what}: {error}', details={'reason': str(error)}) from error

    def _unavailable(self, error: BaseException) -> EngineUnavailableError:
        reason, cause = _why(error), _root(error)
        explanation = self._dialer.explain()
        if explanation:
            reason = f'{reason}; ssh says: {explanation}'
        source = '' if self.endpoint.source == 'the default' else f', given by {self.endpoint.source}'
        return EngineUnavailableError(
            f'No container engine answers at {self.address}{source}: {reason}. {_WAYS_OUT}',
            details={'address': self.address, 'reason': reason, 'errno': getattr(cause, 'errno', None)},
        )

    def close(self) -> None:
        """Close idle connections and end ssh processes; streams still open are their owners' to close. May be called twice."""
        with self._lock:
            api, self._api = self._api, None
            self._closed = True
        if api is not None:
            api.close()
        self._dialer.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f'<Engine {self.address}>'


# This process's own ---------------------------------------------------------------------------------------------------

_shared_lock = threading.Lock()  # guards _shared
_shared: Engine | None = None


def get_engine() -> Engine:
    """Return this process's engine client, making it at the first call. It is never closed; a forked child gets its own.

    Raises:
        ConfigurationError: The address, the docker context or the certificates cannot be used.
    """
    global _shared
    with _shared_lock:
        if _shared is None:
            _shared = Engine()
        return _shared


def _forget_shared() -> None:
    """Start afresh in a forked child: the parent's connections are not ours to speak on, and its locks may be held."""
    global _shared, _shared_lock
    _shared_lock = threading.Lock()
    _shared = None


if hasattr(os, 'register_at_fork'):
    os.register_at_fork(after_in_child=_forget_shared)


# Helpers --------------------------------------------------------------------------------------------------------------

_WAYS_OUT = 'Install or start Docker: `ms-enclave doctor` says how.' + (
    " Or do without it: pip install 'ms-enclave[bubblewrap]', and sandboxes of the type 'bubblewrap' need no engine."
    if sys.platform == 'linux'
    else ''
)
"""What somebody can do who has no engine, the cheapest last."""


def _translated(error: docker.errors.APIError, what: str) -> EnclaveError:
    reason = error.explanation if isinstance(error.explanation, str) and error.explanation else str(error)
    status = error.response.status_code if error.response is not None else 0
    return _refused(what, status, reason, image=isinstance(error, docker.errors.ImageNotFound))


def _refused(what: str, status: int, reason: str, *, image: bool = False) -> EnclaveError:
    details = {'status': status, 'reason': reason}
    if image or (status == 404 and 'no such image' in reason.lower()):
        return ImageNotFoundError(f'Could not {what}: {reason}', details=details)
    return EngineError(f'Could not {what}: {reason}', details=details)


def _root(error: BaseException) -> BaseException:
    """Return the exception at the bottom of the chain, which names the real trouble."""
    seen = {id(error)}
    while True:
        inner = error.__cause__ or error.__context__
        if inner is None:
            inner = next((each for each in error.args if isinstance(each, BaseException)), None)
        if inner is None or id(inner) in seen:
            return error
        seen.add(id(inner))
        error = inner


def _why(error: BaseException) -> str:
    if isinstance(error, requests.exceptions.Timeout):
        return 'it did not answer in time'
    root = _root(error)
    if isinstance(root, PermissionError):
        return 'permission denied; this user may not be in the group "docker"'
    if isinstance(root, FileNotFoundError):
        return (
            'there is no such socket, so it is not running or not installed'
            if root.errno == errno.ENOENT
            else str(root)
        )
    if isinstance(root, ConnectionRefusedError):
        return 'connection refused, so it is not running'
    return str(root) or type(root).__name__


class _TcpAdapter(requests.adapters.HTTPAdapter):
    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        super().__init__(pool_maxsize=POOL_SIZE)

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        if self._endpoint.tls:
            options['ssl_context'] = make_tls_context(self._endpoint.tls)
        super().init_poolmanager(*arguments, **options)
        self.poolmanager.pool_classes_by_scheme = LINES


_DIALLED = 'http://localhost'


# docker-py's transport for a unix socket with our dialler in it. It brings ssh without paramiko, on pooled connections, and a
# failed connect closes its socket, which docker-py's own (7.2) leaves to the garbage collector.
class _DialConnection(TrackedConnection, UnixHTTPConnection):
    def __init__(self, dialer: Dialer, timeout: float) -> None:
        super().__init__('http://localhost', '', timeout)  # type: ignore[arg-type]
        self._dialer = dialer

    def connect(self) -> None:
        connection: Any = self._dialer.dial(self.timeout)
        self.sock = connection
        self.show_socket()


class _Stack(queue.LifoQueue[Any]):
    """A pool's idle connections. A new one is empty: filling it with a None for each connection to come takes 2 ms."""

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        if item is not None:
            super().put(item, block, timeout)


class _DialPool(TrackedPool, UnixHTTPConnectionPool):
    QueueCls = _Stack

    def __init__(self, url: str, dialer: Dialer, timeout: float) -> None:
        super().__init__(url, '', timeout=timeout, maxsize=POOL_SIZE)  # type: ignore[arg-type]
        self._dialer = dialer

    def _new_conn(self) -> Any:
        return _DialConnection(self._dialer, self.timeout)  # type: ignore[arg-type]


class _DialAdapter(UnixHTTPAdapter):
    def __init__(self, dialer: Dialer, timeout: float) -> None:
        super().__init__('http+unix:///dialled', timeout)  # type: ignore[arg-type]
        self._dialer = dialer

    def get_connection(self, url: Any, proxies: Any = None) -> Any:
        # One pool for all there is to ask. docker-py has one for each URL, and a pool of this size takes 15 ms to make.
        with self.pools.lock:
            pool = self.pools.get(_DIALLED)
            if pool is None:
                pool = self.pools[_DIALLED] = _DialPool(_DIALLED, self._dialer, self.timeout)
        return pool
