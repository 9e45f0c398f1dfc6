"""Managers to be used with ``async with``: those of `enclave.aio`, with results as `ms_enclave.sandbox.boxes` tells."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from enclave import aio
from enclave.aio.factories import ManagerMaker
from enclave.aio.proxies import ProxyRegistry
from enclave.enums import SandboxType
from ms_enclave.sandbox.boxes import FAMILY, Sandbox

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractAsyncContextManager

    from enclave.managers.base import Config, Lifetime


class SandboxManager(aio.SandboxManager):
    """Owner of many sandboxes; see `enclave.aio.SandboxManager`."""

    _proxy_registry: ClassVar[ProxyRegistry] = FAMILY
    _home: ClassVar[tuple[str, str]] = aio.SandboxManager._home

    if TYPE_CHECKING:  # what they give are sandboxes of this package

        async def get_sandbox(self, sandbox_id: str) -> Sandbox | None:
            """See `enclave.aio.SandboxManager`."""

        def open(
            self,
            sandbox_type: SandboxType | str | None = None,
            config: Config = None,
            sandbox_id: str | None = None,
            *,
            ttl: Lifetime = 'default',
            idle_timeout: Lifetime = 'default',
            labels: Mapping[str, str] | None = None,
        ) -> AbstractAsyncContextManager[Sandbox]:
            """See `enclave.aio.SandboxManager`."""

        def lease(
            self, timeout: float | None = None, *, pool: str | None = None
        ) -> AbstractAsyncContextManager[Sandbox]:
            """See `enclave.aio.SandboxManager`."""


class LocalSandboxManager(SandboxManager, aio.LocalSandboxManager):
    """Many sandboxes with one owner, in this process; see `enclave.aio.LocalSandboxManager`."""

    _home: ClassVar[tuple[str, str]] = aio.LocalSandboxManager._home


class HttpSandboxManager(SandboxManager, aio.HttpSandboxManager):
    """Sandboxes of a server elsewhere; see `enclave.aio.HttpSandboxManager`."""

    _home: ClassVar[tuple[str, str]] = aio.HttpSandboxManager._home


class SandboxManagerFactory(ManagerMaker[SandboxManager]):
    """Makes managers by kind, not started and connected to nothing; see `enclave.aio.SandboxManagerFactory`."""

    _proxy_registry: ClassVar[ProxyRegistry] = FAMILY


register_manager = aio.register_manager

__all__ = [
    'HttpSandboxManager',
    'LocalSandboxManager',
    'SandboxManager',
    'SandboxManagerFactory',
    'register_manager',
]
