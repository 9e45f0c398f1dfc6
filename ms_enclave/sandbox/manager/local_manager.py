"""The manager of sandboxes on this machine."""

from __future__ import annotations

from typing import ClassVar

from enclave import aio
from ms_enclave.sandbox.manager.base import SandboxManager


class LocalSandboxManager(SandboxManager, aio.LocalSandboxManager):
    """Many sandboxes with one owner, in this process; see `enclave.aio.LocalSandboxManager`."""

    _home: ClassVar[tuple[str, str]] = aio.LocalSandboxManager._home


__all__ = ['LocalSandboxManager']
