"""The server; see `enclave.server`."""

from __future__ import annotations

from enclave.server import SandboxServer, create_server

__all__ = ['SandboxServer', 'create_server']
