"""What a manager is; see `enclave.aio.SandboxManager`."""

from __future__ import annotations

from typing import ClassVar

from enclave import aio
from enclave.aio.factories import SandboxManagerFactory as _SandboxManagerFactory
from enclave.aio.lifting import Family
from ms_enclave.sandbox.boxes import FAMILY


class SandboxManager(aio.SandboxManager):
    """Owner of many sandboxes; see `enclave.aio.SandboxManager`."""

    _family: ClassVar[Family] = FAMILY
    _home: ClassVar[tuple[str, str]] = aio.SandboxManager._home


class SandboxManagerFactory(_SandboxManagerFactory):
    """Makes managers by kind, not started and connected to nothing; see `enclave.aio.SandboxManagerFactory`."""

    _family: ClassVar[Family] = FAMILY


register_manager = aio.register_manager

__all__ = ['SandboxManager', 'SandboxManagerFactory', 'register_manager']
