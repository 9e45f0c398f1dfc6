"""Interfaces of other programs that a server answers beside its own (layer 6): each is a package or a module here.

An adapter translates. It has no way to a sandbox but those of the server's own addresses, and every check is the policy's.
"""

from __future__ import annotations

from enclave.server.adapters.e2b import E2B
from enclave.server.route import Adapter

ADAPTERS: tuple[Adapter, ...] = (E2B,)
"""One for each interface, by whose prefix its addresses are known."""
