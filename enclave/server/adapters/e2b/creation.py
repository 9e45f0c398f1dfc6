"""From a template to a sandbox (layer 6): the same checks as for the server's own address, by the same functions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import Factory, frozen

from enclave.config import check_env
from enclave.errors import CallCancelledError, InvalidArgumentError, NotFoundError, UnsupportedError
from enclave.labels import check_labels
from enclave.quoting import quoted
from enclave.sandboxes.choice import choose_backend, notebook_type
from enclave.server.adapters.e2b.settings import E2BSettings
from enclave.server.adapters.e2b.state import DEBUG_ID
from enclave.server.service import Service, Tenant

BASE = 'base'
CODE_INTERPRETER = 'code-interpreter-v1'
HOME = '/home/user'
"""Where calls start in sandboxes of the templates that are there by themselves; programs for E2B name it."""
DEFAULT_SECONDS = 300.0
"""How long a sandbox lives whose creation does not say."""
ALL_ADDRESSES = '0.0.0.0/0'


@frozen(kw_only=True)
class Wanted:
    """What a creation asks for. ``has_network`` is whether it may have what network its template says.

    ``pauses`` is whether it is paused when its time is over, ``resumes`` whether what reaches it then resumes it.
    """

    template: str
    seconds: float | None = DEFAULT_SECONDS
    labels: Mapping[str, str] = Factory(dict)
    env: Mapping[str, str] = Factory(dict)
    has_network: bool = True
    pauses: bool = False
    resumes: bool = False


def read_wanted(body: Mapping[str, Any]) -> Wanted:
    """Return what the body of a creation asks for.

    Raises:
        InvalidArgumentError: Something in it is wrong.
        UnsupportedError: It asks for what is not to be had here.
    """
    template = body.get('templateID') or BASE
    if not isinstance(template, str):
        raise InvalidArgumentError(f'templateID must be a string, not {str(template)[:100]!r}')
    for name, what in (
        ('mcp', "E2B's gateway for MCP servers"),
        ('iam', 'workload identity'),
        ('volumeMounts', 'volumes; the operator of this server can mount directories in a template'),
    ):
        if body.get(name):
            raise UnsupportedError(f'this server has no {what} ({name} of the creation)')
    pauses, resumes = _read_lifecycle(body)
    return Wanted(
        template=template,
        seconds=read_seconds(body.get('timeout'), DEFAULT_SECONDS),
        labels=check_labels(body.get('metadata'), 'metadata'),
        env=_read_env(body.get('envVars')),
        has_network=_read_network(
            body.get('allow_internet_access', body.get('allowInternetAccess')), body.get('network')
        ),
        pauses=pauses,
        resumes=resumes,
    )


def _read_lifecycle(body: Mapping[str, Any]) -> tuple[bool, bool]:
    pauses, asked = body.get('autoPause') or False, body.get('autoResume')
    resumes = (asked.get('enabled') or False) if isinstance(asked, Mapping) else asked or False
    for name, value in (('autoPause', pauses), ('autoResume', resumes)):
        if not isinstance(value, bool):
            raise InvalidArgumentError(f'{name} must be true or false, not {str(value)[:100]!r}')
    if resumes and not pauses:
        raise InvalidArgumentError('autoResume is for sandboxes that are paused when their time is over (autoPause)')
    if pauses:
        check_memory(body.get('autoPauseMemory'))
    return pauses, resumes


def check_memory(value: Any) -> None:
    """Return if a pause is to keep the memory, as every pause here does.

    Raises:
        UnsupportedError: It is not to.
    """
    if value is False:
        raise UnsupportedError(
            "a pause keeps memory and files here, and nothing is rebooted; ask for mode='full', or remove the sandbox"
        )


def read_seconds(value: Any, default: float | None) -> float | None:
    """Return a lifetime in seconds.

    Raises:
        InvalidArgumentError: It is no number, or out of bounds.
    """
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e9:
        raise InvalidArgumentError(
            f'timeout must be a number of seconds, 0 or more and less than 1000000000, not {str(value)[:100]!r}'
        )
    return float(value)


def _read_env(value: Any) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InvalidArgumentError('envVars must be an object whose values are strings')
    found = dict(value)
    check_env(found, 'envVars')
    return found


def _read_network(allowed: Any, options: Any) -> bool:
    """Return whether a sandbox may have its template's network. True, which the SDK says by default, asks for no more."""
    if allowed is not None and not isinstance(allowed, bool):
        raise InvalidArgumentError(f'allow_internet_access must be true or false, not {str(allowed)[:100]!r}')
    if options is not None and not isinstance(options, Mapping):
        raise InvalidArgumentError('network must be an object')
    asked = {name for name, value in (options or {}).items() if value not in (None, [], {})}
    asked -= {'allowPublicTraffic'} if options and options.get('allowPublicTraffic') is False else set()
    denied = (options or {}).get('denyOut')
    if denied is not None and not (isinstance(denied, list) and all(isinstance(each, str) for each in denied)):
        raise InvalidArgumentError(f'denyOut of network must be a list of addresses, not {quoted(denied)}')
    if asked == {'denyOut'} and ALL_ADDRESSES in (denied or ()):
        return False
    if not asked:
        return allowed is not False
    raise UnsupportedError(
        f'this server gives a sandbox a network or none, without rules ({", ".join(sorted(map(str, asked)))[:200]}); '
        'use allow_internet_access'
    )


def options_for(
    settings: E2BSettings, wanted: Wanted, own_kind: str | None, *, may_have_network: bool
) -> tuple[str, dict[str, Any]]:
    """Return the kind and the options of a template's sandbox.

    Args:
        own_kind: The server's own kind, or None where it chooses.
        may_have_network: Whether the policy allows a network at all; without, sandboxes are made without.

    Raises:
        NotFoundError: There is no such template.
    """
    made = settings.templates.get(wanted.template)
    kind = own_kind if made is None else made.get('sandbox_type', own_kind)
    if made is None and wanted.template not in (BASE, CODE_INTERPRETER):
        known = ', '.join(sorted({*settings.templates, BASE, CODE_INTERPRETER}))
        raise NotFoundError(f'this server has no template {wanted.template[:100]!r}; it has: {known}')
    kind = str(choose_backend().sandbox_type) if kind is None else str(kind)
    if made is None and wanted.template == CODE_INTERPRETER:
        kind = notebook_type(kind)
    options: dict[str, Any] = {} if made is None else dict(made.get('config', {}))
    is_own = made is None or 'working_dir' not in options
    if is_own:
        options['working_dir'] = HOME
    home = {'HOME': HOME} if is_own else {}
    options['env_vars'] = {**home, **dict(options.get('env_vars') or {}), **wanted.env}
    if not (wanted.has_network and may_have_network):
        options['network_enabled'] = False
    return kind, options


def make_sandbox(
    service: Service, tenant: Tenant, settings: E2BSettings, wanted: Wanted, *, sandbox_id: str | None = None
) -> str:
    """Make a sandbox and return its id; errors are those of the server's own address."""
    own = tenant.manager.config.sandbox_type
    may = service.policy.allow_network
    kind, options = options_for(settings, wanted, None if own is None else str(own), may_have_network=may)
    asked = service.checked(tenant, kind, options)
    seconds = service.policy.lifetime(wanted.seconds, tenant.manager.config.ttl)
    with service.naming(tenant, sandbox_id), tenant.reserved(1):
        made = tenant.manager.create_sandbox(asked.kind, asked.config, sandbox_id, ttl=seconds, labels=wanted.labels)
    if wanted.pauses and tenant.manager._existing(made).can_be_paused:
        tenant.manager.renew(made, on_expiry='pause')
    return made


def make_debug_sandbox(service: Service, tenant: Tenant, settings: E2BSettings) -> None:
    """Make the one sandbox of ``E2B_DEBUG``, which lives until nobody uses it."""
    wanted = Wanted(template=CODE_INTERPRETER, seconds=service.policy.max_lifetime)
    make_sandbox(service, tenant, settings, wanted, sandbox_id=DEBUG_ID)


def undo(tenant: Tenant, sandbox_id: str) -> None:
    """Take away a sandbox whose creation was cancelled, and say so.

    Raises:
        CallCancelledError: Always.
    """
    tenant.manager.delete_sandbox(sandbox_id)
    raise CallCancelledError(f'the creation of sandbox {sandbox_id} was cancelled; nothing of it is left')
