"""What a client gets to see (layer 6): of the host, nothing that its sandboxes do not have to know.

Facts about a sandbox are those that its kind lists for clients; paths of the host are as the client wrote them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from enclave.managers.protocol import printable
from enclave.records import HealthCheckResult, SandboxInfo
from enclave.sandboxes.kinds import find_kind
from enclave.server.hiding import HIDDEN, without_host
from enclave.server.service import Tenant

_MANAGER_FACTS = ('ttl', 'idle_timeout', 'expires_at', 'on_expiry', 'pool', 'chosen_because')


def get_info(tenant: Tenant, sandbox_id: str) -> SandboxInfo:
    """Return what a client may know of one of its sandboxes.

    Raises:
        SandboxNotFoundError: It has none of this id.
    """
    return shown_info(tenant, tenant.manager.get_sandbox_info(sandbox_id))


def list_infos(
    tenant: Tenant, status: str | None = None, *, labels: Mapping[str, str] | None = None
) -> list[SandboxInfo]:
    """Return what a client may know of all its sandboxes, or of those in a state and with labels."""
    return [shown_info(tenant, info) for info in tenant.manager.list_sandboxes(status, labels=labels)]


def shown_info(tenant: Tenant, info: SandboxInfo) -> SandboxInfo:
    """Return what a client may know of a sandbox."""
    kind = find_kind(str(info.type))
    known = {*_MANAGER_FACTS, *(() if kind is None else kind.public_facts)}
    config = dict(info.config)
    for option, ruling in ((None if kind is None else kind.get_rulings()) or {}).items():
        if ruling.names_host_paths and option in config:
            config[option] = _without_paths(config[option], tenant.host_paths)
    return info.model_copy(
        update={
            'config': config,
            'metadata': {
                name: without_host(value) if isinstance(value, str) and name in _MANAGER_FACTS else value
                for name, value in info.metadata.items()
                if name in known
            },
            'error': None if info.error is None else without_host(printable(info.error)),
        }
    )


def _without_paths(value: Any, known: Mapping[str, str]) -> Any:
    if isinstance(value, Mapping):
        shown: dict[str, Any] = {}
        for number, (path, each) in enumerate(value.items(), 1):
            shown[known.get(path, f'{HIDDEN[:-1]}, {number})')] = each
        return shown
    # A name that is no path, as that of an image, is what the client asked for.
    return known.get(value, HIDDEN) if isinstance(value, str) and value.startswith('/') else value


def shown_health(health: HealthCheckResult) -> HealthCheckResult:
    """Return what a client may know of the health of the server: whether backends answer, and not how they are reached."""
    backends = health.details.get('backends')
    if not isinstance(backends, Mapping):
        return health
    shown = {str(kind): 'ok' if answer == 'ok' else 'unavailable' for kind, answer in backends.items()}
    return health.model_copy(update={'details': {**health.details, 'backends': shown}})
