"""The managers; see `ms_enclave.sandbox.manager.base`."""

from __future__ import annotations

from ms_enclave.sandbox.manager.base import (
    HttpSandboxManager,
    LocalSandboxManager,
    SandboxManager,
    SandboxManagerFactory,
    register_manager,
)

__all__ = [
    'HttpSandboxManager',
    'LocalSandboxManager',
    'SandboxManager',
    'SandboxManagerFactory',
    'register_manager',
]
