"""The manager of sandboxes that a server elsewhere has."""

from __future__ import annotations

from typing import ClassVar

from enclave import aio
from ms_enclave.sandbox.manager.base import SandboxManager


class HttpSandboxManager(SandboxManager, aio.HttpSandboxManager):
    """Sandboxes of a server elsewhere; see `enclave.aio.HttpSandboxManager`."""

    _home: ClassVar[tuple[str, str]] = aio.HttpSandboxManager._home


__all__ = ['HttpSandboxManager']
