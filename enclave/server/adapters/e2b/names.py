"""Under which names the adapter is asked (layer 6): below a prefix, on ports of its own, or by the names of a domain.

Whatever the name, what is asked is an address below the prefix.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from enclave.server.adapters.e2b.services import PREFIX, SANDBOX_HEADER
from enclave.server.adapters.e2b.settings import E2BSettings
from enclave.server.auth import host_name

DAEMON_PORT = 49983
INTERPRETER_PORT = 49999
DEBUG_PORTS = (3000, DAEMON_PORT, INTERPRETER_PORT)
"""Where the SDK asks the control plane, the daemon and the code interpreter under ``E2B_DEBUG``."""

Locate = Callable[[str, str], tuple[str, dict[str, str]]]
_ENVIRONMENT_HEADER = SANDBOX_HEADER.upper().replace('-', '_')


def locators(settings: E2BSettings) -> tuple[Locate | None, dict[int, Locate]]:
    """Return what finds the address that is meant by a Host header and a path: for the server's own port, and for each port
    beside it."""

    def by_port(host: str, path: str) -> tuple[str, dict[str, str]]:
        return f'{PREFIX}{path}', {}

    own = None if settings.domain is None else _by_name(settings.domain)
    return own, dict.fromkeys(DEBUG_PORTS if settings.debug else (), by_port)


def _by_name(domain: str) -> Locate:
    control_plane = f'api.{domain}'
    sandbox = re.compile(rf'([0-9]{{1,5}})-([a-z0-9][a-z0-9_.-]{{0,62}})\.{re.escape(domain)}')

    def locate(host: str, path: str) -> tuple[str, dict[str, str]]:
        name = host_name(host)
        if name == control_plane:
            return f'{PREFIX}{path}', {}
        found = sandbox.fullmatch(name)
        if found is None:
            return path, {}
        port, sandbox_id = int(found[1]), found[2]
        named = {_ENVIRONMENT_HEADER: sandbox_id}
        if port in (DAEMON_PORT, INTERPRETER_PORT):
            return f'{PREFIX}{path}', named
        return f'{PREFIX}/port/{port}{path}', named

    return locate
