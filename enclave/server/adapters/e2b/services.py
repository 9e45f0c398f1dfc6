"""Who may ask the adapter's three services, and how they answer (layer 6); what they do is in the modules beside this one."""

from __future__ import annotations

import json
import posixpath
import re
import weakref
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import flask

from enclave import wire
from enclave.errors import AuthenticationError, EnclaveError, InvalidArgumentError, SandboxError
from enclave.sandboxes.base import Sandbox
from enclave.server.adapters.e2b import faults
from enclave.server.adapters.e2b.creation import make_debug_sandbox
from enclave.server.adapters.e2b.settings import E2BSettings
from enclave.server.adapters.e2b.state import DEBUG_ID, SandboxState, State
from enclave.server.auth import host_name
from enclave.server.ports import METHODS, reach
from enclave.server.route import BYTES, Adapter, Context, Head, Identity, RawBody, add_route, route
from enclave.server.service import Service

PREFIX = '/e2b'
SANDBOX_HEADER = 'E2b-Sandbox-Id'
_ID = re.compile(r'[A-Za-z0-9][A-Za-z0-9_.-]{0,62}')
_states: weakref.WeakKeyDictionary[Service, State] = weakref.WeakKeyDictionary()


def state_of(service: Service) -> State:
    """Return what the adapter remembers of a server."""
    found = _states.get(service)
    if found is None:
        settings = service.adapters.get('e2b')
        found = _states.setdefault(service, State(service, settings or E2BSettings()))
    return found


class _ServiceAdapter(Adapter):
    """What the three services have in common."""

    name: ClassVar[str] = 'e2b'
    prefix: ClassVar[str] = PREFIX

    def headers(self, error: EnclaveError) -> dict[str, str]:
        """Say whether the SDK shall try again by itself."""
        return {} if faults.may_retry(error) else {'Should-Retry': 'false'}


class ControlPlane(_ServiceAdapter):
    """Sandboxes and what there is: asked with a key of this server."""

    def identify(self, service: Service, head: Head) -> Identity:
        """Return the key of a request; see `Adapter.identify`."""
        return Identity(service.authenticator.identify(head.headers))

    def failure(self, error: EnclaveError, status: int | None) -> tuple[bytes, int, str]:
        """Return an error as it travels; see `Adapter.failure`."""
        return faults.plain(error, status)


class Daemon(_ServiceAdapter):
    """What is in one sandbox: asked with its token.

    Args:
        form: How it answers errors.
    """

    def __init__(self, form: Callable[[EnclaveError, int | None], tuple[bytes, int, str]]) -> None:
        self._form = form

    def identify(self, service: Service, head: Head) -> Identity:
        """Return the key whose sandbox is asked, and the sandbox; see `Adapter.identify`."""
        state = state_of(service)
        sandbox_id = asked_id(head.headers)
        if head.path in SIGNED_PATHS and 'signature' in head.query:
            return _signer(service, state, sandbox_id, head)
        key = state.tokens.identify(head.headers, sandbox_id)
        if sandbox_id is None and state.settings.debug:
            sandbox_id = DEBUG_ID  # E2B_DEBUG's addresses of files name none
        if sandbox_id is None:
            raise InvalidArgumentError(f'the request does not say which sandbox it is for, in {SANDBOX_HEADER}')
        return Identity(key, sandbox_id)

    def failure(self, error: EnclaveError, status: int | None) -> tuple[bytes, int, str]:
        """Return an error as it travels; see `Adapter.failure`."""
        return self._form(error, status)


def _signer(service: Service, state: State, sandbox_id: str | None, head: Head) -> Identity:
    """Return the sandbox whose token has signed an address, and its key."""
    path, user, expires = (head.query.get(name) for name in ('path', 'username', 'signature_expiration'))
    verb = 'read' if head.method == 'GET' else 'write'
    tail = '' if expires is None else f':{expires}'
    tenant, found = state.tokens.find_signed(
        head.query['signature'], lambda token: f'{path or ""}:{verb}:{user or ""}:{token}{tail}', expires, state.known()
    )
    if sandbox_id not in (None, found):
        raise AuthenticationError(f'sandbox {sandbox_id} has not signed this address')
    return Identity(next((key for key in service.authenticator.keys if key.name == tenant), None), found)


ADAPTER = ControlPlane()
FILES = Daemon(faults.plain)
CALLS = Daemon(faults.of_call)
STREAMS = Daemon(faults.of_stream)
INTERPRETER = Daemon(faults.of_interpreter)
SIGNED_PATHS = ('/files', f'{PREFIX}/files')


def asked_id(headers: Mapping[str, str]) -> str | None:
    """Return the sandbox that a request names, or None.

    Raises:
        InvalidArgumentError: What it names cannot be one.
    """
    found = headers.get(SANDBOX_HEADER, '').strip() or None
    if found is not None and not _ID.fullmatch(found):
        raise InvalidArgumentError(f'{found[:100]!r} is no id of a sandbox')
    return found


# For handlers ---------------------------------------------------------------------------------------------------------


def read_object(body: RawBody) -> dict[str, Any]:
    """Return the body of a request, an object; nothing is an empty one."""
    text = body.stream.read(body.size)
    value = wire.from_json(text, what='the body') if text.strip() else {}
    if not isinstance(value, dict):
        raise InvalidArgumentError('the body must be a JSON object')
    return value


def on_plane(method: str, path: str, **options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator that makes a function the handler of an address of the control plane."""
    return route(method, f'{PREFIX}{path}', adapter=ADAPTER, body=dict, tag='e2b', **options)


def on_daemon(method: str, path: str, **options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator that makes a function the handler of a plain address of the daemon."""
    return route(method, f'{PREFIX}{path}', adapter=FILES, body=dict, tag='e2b', **options)


def on_call(service: str, name: str, **options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator that makes a function the handler of a call of one of the daemon's services."""
    path = f'{PREFIX}/{service}/{name}'
    return route('POST', path, adapter=CALLS, body=dict, tag='e2b', **options)


def on_stream(service: str, name: str, **options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator that makes a function the handler of a call one of whose sides, or both, is a stream."""
    path = f'{PREFIX}/{service}/{name}'
    return route('POST', path, adapter=STREAMS, tag='e2b', **{'body': dict, 'lane': 'stream', **options})


def on_interpreter(method: str, path: str, **options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator that makes a function the handler of an address of the code interpreter."""
    return route(method, f'{PREFIX}{path}', adapter=INTERPRETER, body=dict, tag='e2b', **options)


def asked_sandbox(context: Context) -> Sandbox:
    """Return the sandbox that a request of the daemon or the interpreter is for.

    Raises:
        NoSandboxError: It does not run.
    """
    sandbox_id = context.named_sandbox or ''
    context.facts['sandbox_id'] = sandbox_id
    return state_of(context.service).sandbox(context.tenant, resolved(context, sandbox_id))


def resolved(context: Context, sandbox_id: str) -> str:
    """Return the id itself, after the sandbox of ``E2B_DEBUG`` was made if it is that one's."""
    state = state_of(context.service)
    if sandbox_id == DEBUG_ID and state.settings.debug:
        return state.debug_sandbox(lambda tenant: make_debug_sandbox(context.service, tenant, state.settings))
    return sandbox_id


def remembered(context: Context, sandbox: Sandbox) -> SandboxState:
    """Return what the adapter remembers of a sandbox."""
    return state_of(context.service).of(context.tenant, sandbox.id)


def checked_path(sandbox: Sandbox, path: str) -> str:
    """Return a path as a sandbox's verbs take it: ``~`` is where calls start, and so is nothing."""
    if path in ('', '~'):
        return str(sandbox.config.working_dir)
    if path.startswith('~/'):
        return f'{str(sandbox.config.working_dir).rstrip("/")}/{path[2:]}'
    return path


def absolute(sandbox: Sandbox, path: str) -> str:
    """Return a path from the root, without dots."""
    return posixpath.normpath(posixpath.join(str(sandbox.config.working_dir), checked_path(sandbox, path)))


def verb(sandbox: Sandbox, name: str) -> Callable[..., Any]:
    """Return a verb of a sandbox.

    Raises:
        SandboxError: This kind of sandbox has none such.
    """
    method: Callable[..., Any] | None = getattr(sandbox, name, None)
    if method is None:
        raise SandboxError(f'sandbox {sandbox.id}, a {type(sandbox).__name__}, has no {name}')
    return method


def answer(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> flask.Response:
    """Return an answer in JSON."""
    made = flask.Response(json.dumps(value), status, content_type='application/json')
    made.headers.update(headers or {})
    return made


def empty(status: int = 204) -> flask.Response:
    """Return an answer without a body."""
    return flask.Response(b'', status)


def _reach(context: Context, port: str, body: RawBody, rest: str = '') -> Any:
    """Hand a request on to a port; one that came by a name of the domain has an origin of its own."""
    domain = state_of(context.service).settings.domain
    is_own = domain is not None and host_name(flask.request.host).endswith(f'.{domain}')
    return reach(context, asked_sandbox(context).id, port, rest, body, own_origin=is_own)


for _method in METHODS:
    for _name, _path in (('', '/port/<port>/'), ('_below', '/port/<port>/<path:rest>')):
        add_route(
            _method,
            f'{PREFIX}{_path}',
            _reach,
            name=f'e2b_reach_port_{_method.lower()}{_name}',
            text='Hand a request on to a port of the sandbox.',
            adapter=FILES,
            body=BYTES,
            lane='stream',
            tag='e2b',
        )
