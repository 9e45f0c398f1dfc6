"""Managers to be used with ``async with``: those of `enclave.aio`, with results as `ms_enclave.sandbox.boxes` tells."""

from __future__ import annotations

from ms_enclave.sandbox.manager.base import SandboxManager, SandboxManagerFactory, register_manager
from ms_enclave.sandbox.manager.http_manager import HttpSandboxManager
from ms_enclave.sandbox.manager.local_manager import LocalSandboxManager

__all__ = [
    'HttpSandboxManager',
    'LocalSandboxManager',
    'SandboxManager',
    'SandboxManagerFactory',
    'register_manager',
]
