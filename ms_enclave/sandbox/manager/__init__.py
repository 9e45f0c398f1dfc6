"""Managers and their factory. Importing this registers the kinds there are."""

from __future__ import annotations

from ms_enclave.sandbox.manager.base import SandboxManager, SandboxManagerFactory
from ms_enclave.sandbox.manager.base import register_manager as register_manager
from ms_enclave.sandbox.manager.http_manager import HttpSandboxManager
from ms_enclave.sandbox.manager.local_manager import LocalSandboxManager
from ms_enclave.sandbox.manager.volcengine import VolcengineSandboxManager

__all__ = [
    'HttpSandboxManager',
    'LocalSandboxManager',
    'SandboxManager',
    'SandboxManagerFactory',
    'VolcengineSandboxManager',
]
