"""The server."""

from __future__ import annotations

from ms_enclave.sandbox.server.server import SandboxServer, create_server

__all__ = ['SandboxServer', 'create_server']
