"""The HTTP entry: a manager's verbs as routes, safe by default. Nothing heavy is imported before it is used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from enclave.server.auth import ApiKey as ApiKey
    from enclave.server.policy import Policy as Policy
    from enclave.server.serve import SandboxServer as SandboxServer
    from enclave.server.serve import create_server as create_server

__all__ = ['ApiKey', 'Policy', 'SandboxServer', 'create_server']

_HOMES = {'ApiKey': 'auth', 'Policy': 'policy', 'SandboxServer': 'serve', 'create_server': 'serve'}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    import importlib

    return getattr(importlib.import_module(f'enclave.server.{_HOMES[name]}'), name)
