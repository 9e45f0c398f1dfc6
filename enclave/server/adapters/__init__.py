"""Interfaces of other programs that a server answers beside its own (layer 6): each is a package or a module here.

An adapter translates. It has no way to a sandbox but those of the server's own addresses, and every check is the policy's.
"""

from __future__ import annotations

from enclave.server.adapters.e2b import E2B
from enclave.server.adapters.sandbox_fusion import ADAPTER as SANDBOX_FUSION
from enclave.server.route import ROUTES, Adapter

ADAPTERS: tuple[Adapter, ...] = (E2B, SANDBOX_FUSION)
"""One for each interface, by whose prefix its addresses are known."""


def adapter_at(path: str) -> Adapter | None:
    """Return whose interface an address belongs to, whether it exists or not; None is the server's own."""
    for route in ROUTES.values():
        if route.adapter is not None and route.path == path:
            return route.adapter
    return next((each for each in ADAPTERS if path == each.prefix or path.startswith(f'{each.prefix}/')), None)


def takes_live_body(path: str) -> bool:
    """Return whether an address reads its body while that comes."""
    return any(route.has_live_body and route.path == path for route in ROUTES.values())
