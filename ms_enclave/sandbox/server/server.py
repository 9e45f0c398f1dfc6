"""The server, as programs written for ms-enclave make and run it. See `enclave.server` for all that it can do."""

from __future__ import annotations

from typing import Any

from enclave import server as core


def create_server(config: Any = None, **kwargs: Any) -> Any:
    raise NotImplementedError


SandboxServer = core.SandboxServer
