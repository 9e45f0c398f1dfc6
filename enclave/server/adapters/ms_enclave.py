"""The HTTP surface of ms-enclave 0.0.x (layer 6), for programs that were written for it: its own clients, curl, httpx.

They use the addresses that we have too, and put things elsewhere: options as the body itself, a pool's size in the query,
``"timeout": null`` in every call. Our own clients send the header ``X-Enclave-Protocol``; a request for one of the addresses
below without it is answered from here. Everything else of a request is as ever: keys, hosts, policy, lanes, repeats, audit.

Tools give the documented results: those of the package ``ms_enclave``, run in the very same sandboxes.
"""

from __future__ import annotations

import collections
import contextlib
import datetime
import json
import logging
import math
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from typing import Any

import attrs
from attrs import Factory, define

import enclave
from enclave.cancellation import on_cancel
from enclave.config import MIB, parse_size
from enclave.deadline import FOREVER_SECONDS
from enclave.enums import SandboxStatus
from enclave.errors import (
    CallCancelledError,
    EnclaveError,
    InvalidArgumentError,
    ManagerStoppedError,
    PolicyError,
    SandboxNotFoundError,
    ToolArgumentsError,
    ToolNotFoundError,
    TooManyRequestsError,
)
from enclave.managers.protocol import PROTOCOL_HEADER
from enclave.outlet import Offered
from enclave.portal import drive
from enclave.records import SandboxInfo
from enclave.sandboxes.base import USABLE
from enclave.sandboxes.sandbox_factory import SandboxFactory
from enclave.server.policy import Policy
from enclave.server.route import TAR, Context, RawBody, Route
from enclave.server.service import Tenant
from enclave.server.views import get_info, list_infos
from enclave.tools.tool_factory import ToolFactory
from ms_enclave.sandbox.boxes.base import make_config
from ms_enclave.sandbox.boxes.core_options import docker_options, notebook_options
from ms_enclave.sandbox.boxes.served import make_view
from ms_enclave.sandbox.model.base import SandboxStatus as StatusWord
from ms_enclave.sandbox.model.base import SandboxType
from ms_enclave.sandbox.model.config import DockerSandboxConfig
from ms_enclave.sandbox.model.modeling import dumped
from ms_enclave.sandbox.tools.sandbox_tools.results import seconds

logger = logging.getLogger(__name__)

POOL_WAIT_SECONDS = 3600.0
"""How long a call waits for a pool's sandbox where it does not say."""
POOL_IDLE_SECONDS = 48 * 3600.0
"""How long a pool's sandbox lives without a call; a client that leaves deletes its own before."""
NAME = 'ms_enclave'
"""What the policy's ``adapters`` calls this one."""
DEFAULT_CALL_SECONDS = 30.0
OUTPUT_BYTES = 4 * MIB
"""Cap on each of stdout and stderr of a call; what is left out shows. With it as many calls as may continue have room."""
_API_VERSION = '1.0.0'


class JSON_BODY:
    """A body of any JSON, or none."""


def read_body(text: bytes) -> Any:
    """Return what a body says; None where there is none.

    Raises:
        Refused: It is no JSON.
    """
    if not text.strip():
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _misfit(('body',), f'JSON decode error: {error}', {}, 'json_invalid') from None


class Refused(EnclaveError):
    """A request that is answered with an error, as documented.

    Attributes:
        http_status: Its status.
        detail: What stands under ``detail``.
    """

    def __init__(self, http_status: int, detail: Any, cause: EnclaveError | None = None) -> None:
        message = detail if isinstance(detail, str) else json.dumps(detail)
        super().__init__(message, details={} if cause is None else cause.details)
        self.http_status = http_status
        self.detail = detail
        self.__dict__['code'] = InvalidArgumentError.code if cause is None else cause.code


def _misfit(where: tuple[str, ...], message: str, value: Any, kind: str = 'value_error') -> Refused:
    """Return the refusal of a request that does not fit."""
    return Refused(422, [{'type': kind, 'loc': list(where), 'msg': message, 'input': value}])


def _is_ours(headers: Mapping[str, str]) -> bool:
    return PROTOCOL_HEADER in headers


def find_route(headers: Mapping[str, str], name: str, policy: Policy) -> Route | None:
    """Return what answers a request for an address that we have too, instead of our route; or None."""
    found = None if _is_ours(headers) else _ROUTES.get(name)
    if found is None:
        return None
    try:
        policy.check_adapter(NAME)
    except PolicyError:
        return None  # it is closed here, and such a request is one for us
    return found


_ROUTES: dict[str, Route] = {}


def _answers(name: str, *, method: str, path: str, **options: Any) -> Callable[[Any], Any]:
    """Return a decorator that makes a function answer in the place of the route ``name``."""

    def register(handler: Any) -> Any:
        _ROUTES[name] = Route(name=name, method=method, path=path, handler=handler, **options)
        return handler

    return register


# Errors ---------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _failing_as(
    status: int, prefix: str = '', *, missing: int = 404, asked: Mapping[str, Any] | None = None
) -> Iterator[None]:
    """Answer what fails in the block with ``status``. What the policy or the load refuses keeps its own.

    Args:
        asked: The options that were asked for, from which the line of the policy is made that allows them.
    """
    try:
        yield
    except PolicyError as error:
        raise Refused(403, f'{prefix}{error.message}{_remedy(error, asked or {})}', error) from error
    except (Refused, TooManyRequestsError, ManagerStoppedError, CallCancelledError):
        raise
    except SandboxNotFoundError as error:
        name = error.details.get('sandbox_id', '')
        raise Refused(missing, f'Sandbox {name} not found: {error.message}', error) from error
    except EnclaveError as error:
        raise Refused(status, f'{prefix}{error.message}', error) from error
    except (RuntimeError, ValueError, TypeError) as error:
        raise Refused(status, f'{prefix}{error}') from error


def _remedy(error: PolicyError, asked: Mapping[str, Any]) -> str:
    """Return which line of the server's policy allows what was refused, for the operator."""
    rule = str(error.details.get('rule', ''))
    lines: dict[str, Any] = {
        'privileged': True,
        'allow_keep': True,
        'allow_network': True,
        'allow_pull': True,
        'publish': 'any',
    }
    lines['max_memory'] = asked.get('memory_limit')
    lines['max_cpus'] = asked.get('cpu_limit')
    lines['networks'] = [asked.get('network')]
    lines['images'] = [asked.get('image')]
    lines['sandbox_types'] = ['*']
    ports = asked.get('ports')
    if isinstance(ports, Mapping):
        numbers = [each[-1] if isinstance(each, list) and each else each for each in ports.values()]
        lines['host_ports'] = [str(each) for each in numbers if each]
    volumes = asked.get('volumes')
    if isinstance(volumes, Mapping):
        modes = {source: target.get('mode', 'rw') for source, target in volumes.items() if isinstance(target, Mapping)}
        lines['mounts'] = [f'{source}:{mode}' for source, mode in modes.items()]
    line = lines.get(rule)
    if line is None or line == [None] or rule not in lines:
        return ''
    return (
        f'. The operator of the server allows it by a line of the policy file (ms-enclave server --policy FILE): '
        f'{rule} = {json.dumps(line)}'
    )


# Facts ----------------------------------------------------------------------------------------------------------------


@_answers('get_health', method='GET', path='/health', while_draining=True)
def _get_health(context: Context, query: Any) -> dict[str, Any]:
    health = context.service.health(context.tenant)
    stats = _stats(context)
    return {
        'healthy': health.healthy,
        'version': _API_VERSION,
        'uptime': time.monotonic() - context.service.started_at,
        'active_sandboxes': stats['total_sandboxes'],
        'system_info': {**stats, 'enclave_version': enclave.__version__},
    }


@_answers('get_stats', method='GET', path='/stats', while_draining=True)
def _get_stats(context: Context, query: Any) -> dict[str, Any]:
    return _stats(context)


def _stats(context: Context) -> dict[str, Any]:
    manager, pool = context.tenant.manager, _state(context.tenant).pool
    infos = list_infos(context.tenant)
    return {
        'manager_type': 'local',
        'total_sandboxes': len(infos),
        'status_counts': dict(collections.Counter(str(info.status) for info in infos)),
        'sandbox_types': dict(collections.Counter(str(info.type) for info in infos)),
        'running': True,
        'cleanup_interval': manager.config.cleanup_interval,
        'pool_size': pool.idle_count(),
        'pool_enabled': manager.config.pool_size > 0,
        'pool_initialized': pool.is_there,
    }


# Sandboxes ------------------------------------------------------------------------------------------------------------


@_answers('create_sandbox', method='POST', path='/sandbox/create', body=JSON_BODY, lane='call', is_repeatable=True)
def _create_sandbox(context: Context, query: Mapping[str, str], body: Any) -> dict[str, Any]:
    kind = _kind(query.get('sandbox_type'))
    if body is not None and not isinstance(body, dict):
        raise _misfit(('body',), 'Input should be a valid dictionary', body, 'dict_type')
    with _failing_as(400, 'Failed to create sandbox: ', asked=body):
        made = _Making(context, kind, body).make()
    context.facts['sandbox_id'] = made
    if context.cancellation.is_cancelled:  # nobody would ever learn the id
        context.tenant.manager.delete_sandbox(made)
        raise CallCancelledError(f'the creation of sandbox {made} was cancelled; nothing of it is left')
    return {'sandbox_id': made}


def _kind(given: str | None) -> str:
    """Return the kind of sandbox that is asked for."""
    kinds = sorted({each.value for each in SandboxType} | set(SandboxFactory.get_registered_types()))
    if given is None:
        raise _misfit(('query', 'sandbox_type'), 'Field required', None, 'missing')
    if given not in kinds:
        raise _misfit(('query', 'sandbox_type'), f'Input should be {" or ".join(map(repr, kinds))}', given, 'enum')
    return given


class _Making:
    """What it takes to make a sandbox for a client. Lives as long as its request."""

    def __init__(self, context: Context, kind: str, body: Any) -> None:
        self._context = context
        self._kind = kind
        config = make_config(kind, body or {})
        self.tools = config.tools_config
        has_own = context.tenant.manager.config.sandbox_config is not None
        options = None if body is None and has_own else self._options(config, body or {})
        for name in self.tools:
            context.service.policy.check_tool(name, {})
        try:
            self._asked = context.service.checked(context.tenant, kind, options)
        except PolicyError as error:
            if options is None or 'port' not in options or error.details.get('rule') not in ('host_ports', 'publish'):
                raise
            # Every full dump of a notebook names a port of the host for its gateway, and few clients use that.
            options = {name: value for name, value in options.items() if name not in ('port', 'host', 'token')}
            self._asked = context.service.checked(context.tenant, kind, options)

    def _options(self, config: Any, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return the options as the kind's own configuration has them. What a full dump holds as a default is no wish."""
        policy = self._context.service.policy
        known = SandboxFactory.get_sandbox_class(self._kind).config_class
        if self._kind == 'docker_notebook':
            options = notebook_options(config, is_served=True)
        elif isinstance(config, DockerSandboxConfig):
            options = docker_options(config, is_served=True)
        else:
            options = {each.name: body[each.name] for each in attrs.fields(known) if each.name in body}
        options['timeout'] = _within(DEFAULT_CALL_SECONDS, policy.max_timeout)
        options['max_output_bytes'] = int(_within(OUTPUT_BYTES, policy.max_output_bytes))
        options.update(getattr(config, 'further_options', {}))
        _clamp_defaults(options, body, policy)
        registered = ToolFactory.get_available_tools()
        options['tools_config'] = {name: {} for name in self.tools if name in registered}
        return options

    def make(self, *, idle_timeout: Any = 'default') -> str:
        """Make and start it, and return its id."""
        context, asked = self._context, self._asked
        ttl = context.service.policy.lifetime('default', context.tenant.manager.config.ttl)
        with context.tenant.reserved(1):
            made = context.tenant.manager.create_sandbox(asked.kind, asked.config, ttl=ttl, idle_timeout=idle_timeout)
        self.note(made)
        return made

    def note(self, sandbox_id: str) -> None:
        """Remember which tools it was asked to have; custom ones are known here only."""
        sandbox = self._context.tenant.manager.get_sandbox(sandbox_id)
        if sandbox is not None:
            _views[sandbox] = make_view(sandbox, self.tools or None)
            self._asked.note(self._context.tenant, (sandbox_id,))


def _within(seconds: float, most: float | None) -> float:
    return seconds if most is None else min(seconds, most)


def _clamp_defaults(options: dict[str, Any], body: Mapping[str, Any], policy: Policy) -> None:
    """Lower what has the documented default to what the policy allows; what was chosen is left for the policy to refuse."""
    defaults = DockerSandboxConfig.model_fields
    limits = {'memory_limit': policy.max_memory, 'cpu_limit': policy.max_cpus, 'pids_limit': policy.max_pids}
    for name, most in limits.items():
        if most is None or name not in options:
            continue
        default = defaults[name].default if name in defaults else options[name]
        if name in body and body[name] != default:
            continue
        if name == 'memory_limit':
            if parse_size(options[name]) > parse_size(str(most)):
                options[name] = most
        else:
            options[name] = min(options[name], most)


_views: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()
"""Sandboxes as the package ``ms_enclave`` shows them, by those that do the work."""
_views_lock = threading.Lock()


def _view(sandbox: Any) -> Any:
    with _views_lock:
        found = _views.get(sandbox)
        if found is None:
            found = _views[sandbox] = make_view(sandbox, None)
        return found


@_answers('list_sandboxes', method='GET', path='/sandboxes', while_draining=True)
def _list_sandboxes(context: Context, query: Mapping[str, str]) -> list[dict[str, Any]]:
    wanted = query.get('status') or None
    known = [each.value for each in StatusWord]
    if wanted is not None and wanted not in known:
        raise _misfit(('query', 'status'), f'Input should be {" or ".join(map(repr, known))}', wanted, 'enum')
    return [_info(context, each) for each in list_infos(context.tenant, wanted)]


@_answers('get_sandbox_info', method='GET', path='/sandbox/<sandbox_id>', while_draining=True)
def _get_sandbox_info(context: Context, sandbox_id: str, query: Any) -> dict[str, Any]:
    with _failing_as(500):
        return _info(context, get_info(context.tenant, sandbox_id))


def _info(context: Context, info: SandboxInfo) -> dict[str, Any]:
    sandbox = context.tenant.manager.get_sandbox(info.id)
    metadata = dict(info.metadata)
    if info.error:
        metadata['error'] = info.error
    return {
        'id': info.id,
        'status': str(info.status),
        'type': str(info.type),
        'config': info.config,
        'created_at': _local(info.created_at),
        'updated_at': _local(info.started_at or info.created_at),
        'metadata': dumped(metadata, mode='json'),
        'available_tools': {} if sandbox is None else _view(sandbox).get_available_tools(),
    }


def _local(moment: datetime.datetime) -> str:
    """Return a moment as text without a zone, in this machine's time."""
    return moment.astimezone().replace(tzinfo=None).isoformat()


@_answers(
    'stop_sandbox', method='POST', path='/sandbox/<sandbox_id>/stop', body=JSON_BODY, lane='end', is_repeatable=True
)
def _stop_sandbox(context: Context, sandbox_id: str, query: Any, body: Any) -> dict[str, str]:
    with _failing_as(500):
        context.tenant.manager.stop_sandbox(sandbox_id)
    return {'message': f'sandbox {sandbox_id} is stopped'}


@_answers(
    'delete_sandbox', method='DELETE', path='/sandbox/<sandbox_id>', body=JSON_BODY, lane='end', is_repeatable=True
)
def _delete_sandbox(context: Context, sandbox_id: str, query: Any, body: Any) -> dict[str, str]:
    with _failing_as(500):
        context.tenant.manager.delete_sandbox(sandbox_id)
    context.tenant.forget(sandbox_id)
    _state(context.tenant).pool.drop(sandbox_id)
    return {'message': f'sandbox {sandbox_id} is deleted'}


# Tools ----------------------------------------------------------------------------------------------------------------


@_answers('get_sandbox_tools', method='GET', path='/sandbox/<sandbox_id>/tools', while_draining=True)
def _get_sandbox_tools(context: Context, sandbox_id: str, query: Any) -> dict[str, Any]:
    with _failing_as(500):
        found: dict[str, Any] = _view(context.tenant.manager._existing(sandbox_id)).get_available_tools()
    return found


@_answers('execute_tool', method='POST', path='/sandbox/tool/execute', body=JSON_BODY, lane='call', is_repeatable=True)
def _execute_tool(context: Context, query: Any, body: Any) -> Any:
    given = body if isinstance(body, dict) else {}
    for name in ('sandbox_id', 'tool_name'):
        if not isinstance(given.get(name), str):
            if name not in given:
                raise _misfit(('body', name), 'Field required', given, 'missing')
            raise _misfit(('body', name), 'Input should be a valid string', given[name], 'string_type')
    parameters = _parameters(given.get('parameters', {}), ('body', 'parameters'))
    sandbox_id, tool_name = given['sandbox_id'], given['tool_name']
    context.facts.update(sandbox_id=sandbox_id, tool_name=tool_name)
    with _failing_as(500):
        sandbox = context.tenant.manager._existing(sandbox_id)
        return _run_tool(context, sandbox, tool_name, parameters)


def _parameters(given: Any, where: tuple[str, ...]) -> dict[str, Any]:
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise _misfit(where, 'Input should be a valid dictionary', given, 'dict_type')
    return given


def _run_tool(context: Context, sandbox: Any, tool_name: str, parameters: dict[str, Any], missing: int = 404) -> Any:
    status = sandbox.status
    if status not in USABLE:
        raise Refused(404, f'Sandbox {sandbox.id} is not active: it is {status}')
    policy, view = context.service.policy, _view(sandbox)
    tool = view.get_tool(tool_name)
    if tool is None or not tool.enabled:
        error = ToolNotFoundError(f'Tool {tool_name!r} is not available in sandbox {sandbox.id}')
        raise Refused(missing, error.message, error)
    policy.check_tool(tool_name, {})
    parameters = _limited(tool, parameters, policy)
    context.check_output(sandbox.id, None, tool=tool_name)
    with Offered(most_kept=context.service.kept_output_bytes):
        return dumped(drive(lambda: view.execute_tool(tool_name, parameters)), mode='json')


def _limited(tool: Any, parameters: dict[str, Any], policy: Policy) -> dict[str, Any]:
    """Return a call's parameters with time limits that the policy allows; what asks for more is refused."""
    if policy.max_timeout is None or tool.parameters is None:
        return parameters
    made = dict(parameters)
    for name in tool.parameters.properties:
        if not name.endswith('timeout'):
            continue
        given = made.get(name)
        if given is None:
            made[name] = _within(DEFAULT_CALL_SECONDS, policy.max_timeout)
            continue
        try:
            limit = seconds(given)  # models write numbers as text too
        except ValueError as error:
            raise ToolArgumentsError(f'{name}: {error}') from None
        policy.check_call_timeout(limit, name)
    return made


# Files ----------------------------------------------------------------------------------------------------------------


@_answers('put_archive', method='POST', path='/sandbox/<sandbox_id>/archive', body=TAR, lane='call')
def _put_archive(context: Context, sandbox_id: str, query: Mapping[str, str], body: RawBody) -> dict[str, bool]:
    target = query.get('target_dir')
    if target is None:
        raise _misfit(('query', 'target_dir'), 'Field required', None, 'missing')
    with _failing_as(500):
        manager = context.tenant.manager
        sandbox = manager._existing(sandbox_id)
        if not body.size:
            raise Refused(400, 'Archive body is empty')
        if not target.strip():
            raise Refused(400, 'target_dir must name a directory of the sandbox')
        if sandbox.status not in USABLE:
            raise Refused(404, f'Sandbox {sandbox_id} is not active: it is {sandbox.status}')
        if not hasattr(sandbox, 'put_archive'):
            raise Refused(501, f'a {type(sandbox).__name__} takes no archives')
        manager.put_archive(sandbox_id, body.stream, target)
    return {'ok': True}


# Pool -----------------------------------------------------------------------------------------------------------------


@define(eq=False)
class _TenantPool:
    """The pool of a tenant: first in, first out. Lives as long as the server; any thread may use it."""

    _changed: threading.Condition = Factory(threading.Condition)  # guards all below
    _idle: collections.deque[str] = Factory(collections.deque)
    _members: set[str] = Factory(set)
    _queue: collections.deque[object] = Factory(collections.deque)

    @property
    def is_there(self) -> bool:
        """Whether there are sandboxes in it, idle or in use."""
        with self._changed:
            return bool(self._members)

    def idle_count(self) -> int:
        """Return how many wait for a call."""
        with self._changed:
            return len(self._idle)

    def add(self, sandbox_id: str) -> None:
        """Take in a new one."""
        with self._changed:
            self._members.add(sandbox_id)
            self._idle.append(sandbox_id)
            self._changed.notify_all()

    def drop(self, sandbox_id: str) -> None:
        """Forget one that is gone."""
        with self._changed:
            self._members.discard(sandbox_id)
            if sandbox_id in self._idle:
                self._idle.remove(sandbox_id)
            self._changed.notify_all()

    @contextlib.contextmanager
    def leased(self, tenant: Tenant, timeout: float) -> Iterator[Any]:
        """Have the one that was used longest ago for the block.

        Raises:
            Refused: There is no pool (400), or none was free in time (408).
        """
        sandbox = self._take(tenant, timeout)
        sandbox.set_status(SandboxStatus.BUSY)
        try:
            yield sandbox
        finally:
            with self._changed:
                if sandbox.id in self._members and sandbox.status in USABLE:
                    sandbox.set_status(SandboxStatus.IDLE)
                    self._idle.append(sandbox.id)
                else:
                    self._members.discard(sandbox.id)
                self._changed.notify_all()

    def _take(self, tenant: Tenant, timeout: float) -> Any:
        place, give_up_at = object(), time.monotonic() + min(timeout, FOREVER_SECONDS)
        cancelled = threading.Event()

        def cancel() -> None:
            cancelled.set()
            with self._changed:
                self._changed.notify_all()

        with self._changed:
            self._queue.append(place)
        try:
            with on_cancel(cancel):
                while True:
                    with self._changed:
                        if not self._members:
                            raise Refused(400, 'Sandbox pool is empty, call initialize_pool first')
                        found = self._idle.popleft() if self._queue[0] is place and self._idle else None
                        if found is None:
                            remaining = give_up_at - time.monotonic()
                            if cancelled.is_set():
                                raise CallCancelledError('waiting for a sandbox of the pool was cancelled')
                            if remaining <= 0:
                                raise Refused(
                                    408,
                                    f'Timeout waiting for available sandbox: none was free within {timeout:g} seconds',
                                )
                            self._changed.wait(remaining)
                            continue
                    sandbox = tenant.manager.get_sandbox(found)
                    if sandbox is not None and sandbox.status in USABLE:
                        return sandbox
                    self.drop(found)
        finally:
            with self._changed:
                self._queue.remove(place)
                self._changed.notify_all()


@define(eq=False)
class _TenantState:
    """What is known of a tenant here."""

    pool: _TenantPool = Factory(_TenantPool)


_states: weakref.WeakKeyDictionary[Tenant, _TenantState] = weakref.WeakKeyDictionary()


def _state(tenant: Tenant) -> _TenantState:
    with _views_lock:
        return _states.setdefault(tenant, _TenantState())


@_answers('initialize_pool', method='POST', path='/pool/initialize', body=JSON_BODY, lane='call', is_repeatable=True)
def _initialize_pool(context: Context, query: Mapping[str, str], body: Any) -> dict[str, Any]:
    manager = context.tenant.manager
    size = _number(query.get('pool_size'), 'pool_size', int)
    size = manager.config.pool_size if size is None else int(size)
    kind = _kind(query.get('sandbox_type') or 'docker')
    if body is not None and not isinstance(body, dict):
        raise _misfit(('body',), 'Input should be a valid dictionary', body, 'dict_type')
    ids: list[str] = []
    failure = ''
    if size > 0:
        with _failing_as(500, asked=body):
            making = _Making(context, kind, body)
            with context.tenant.reserved(size):
                ids, failure = _make_members(context, making, size)
    for each in ids:
        sandbox = manager.get_sandbox(each)
        if sandbox is not None:
            sandbox.set_status(SandboxStatus.IDLE)
            _state(context.tenant).pool.add(each)
    message = f'{len(ids)} of {max(size, 0)} sandboxes of the pool were made'
    return {'message': f'{message}{failure}', 'pool_size': len(ids), 'sandbox_ids': ids}


def _make_members(context: Context, making: _Making, size: int) -> tuple[list[str], str]:
    """Make sandboxes side by side; return the ids of those that could be made, and why the others could not."""
    manager, asked = context.tenant.manager, making._asked
    ttl = context.service.policy.lifetime('default', manager.config.ttl)
    longest = manager.config.max_idle_timeout
    futures: list[Future[str]] = [
        manager.submit(
            'create_sandbox', asked.kind, asked.config, ttl=ttl, idle_timeout=_within(POOL_IDLE_SECONDS, longest)
        )
        for _ in range(size)
    ]
    ids, failure = [], ''

    def cancel() -> None:
        for each in futures:
            each.cancel()

    with on_cancel(cancel):
        for each in futures:
            try:
                made = each.result()
            except Exception as error:
                logger.warning('a sandbox of the pool could not be made: %s', error)
                failure = f': {error}'
                continue
            making.note(made)
            ids.append(made)
    if context.cancellation.is_cancelled:
        for each_id in ids:
            manager.delete_sandbox(each_id)
        raise CallCancelledError('making the pool was cancelled; nothing of it is left')
    return ids, failure


@_answers('execute_tool_in_pool', method='POST', path='/pool/execute', body=JSON_BODY, lane='call', is_repeatable=True)
def _execute_in_pool(context: Context, query: Mapping[str, str], body: Any) -> Any:
    tool_name = query.get('tool_name')
    if tool_name is None:
        raise _misfit(('query', 'tool_name'), 'Field required', None, 'missing')
    if body is None:
        raise _misfit(('body',), 'Field required', None, 'missing')
    timeout = _number(query.get('timeout'), 'timeout', float) or context.tenant.manager.config.timeout
    parameters = _parameters(body, ('body',))
    context.facts['tool_name'] = tool_name
    pool = _state(context.tenant).pool
    with _failing_as(500, missing=400), pool.leased(context.tenant, timeout or POOL_WAIT_SECONDS) as sandbox:
        context.facts['sandbox_id'] = sandbox.id
        return _run_tool(context, sandbox, tool_name, parameters, missing=400)


def _number(text: str | None, name: str, kind: type[int] | type[float]) -> float | None:
    if text is None or text == '':
        return None
    try:
        found = kind(text)
        if not math.isfinite(found):
            raise ValueError
        return found
    except (ValueError, OverflowError):
        word = 'integer' if kind is int else 'number'
        message = f'Input should be a valid {word}, unable to parse string as {"an" if kind is int else "a"} {word}'
        raise _misfit(('query', name), message, text, f'{kind.__name__}_parsing') from None
