"""A real server on a port of its own, and a manager that is its client."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from enclave.managers.base import SandboxManager
from enclave.managers.http import HttpSandboxManager
from enclave.server.serve import SandboxServer, create_server


@contextlib.contextmanager
def serving(**options: Any) -> Iterator[SandboxServer]:
    """Serve on a free port of 127.0.0.1 for the block."""
    server = create_server(**{'stop_grace': 0.0, **options})
    server.start('127.0.0.1', 0)
    try:
        yield server
    finally:
        server.stop()


@contextlib.contextmanager
def remote(**options: Any) -> Iterator[SandboxManager]:
    """A manager whose sandboxes are a server's; ``options`` are those of the manager behind it."""
    with serving(**options) as server, HttpSandboxManager(base_url=server.url) as manager:
        yield manager
