"""Configurations, results and the words they use: those of `enclave`."""

from __future__ import annotations

from enclave.config import SandboxConfig
from enclave.enums import ExecutionStatus, SandboxManagerType, SandboxStatus, SandboxType
from enclave.managers.config import SandboxManagerConfig
from enclave.records import CommandResult, HealthCheckResult, PathInfo, SandboxInfo, ToolResult
from enclave.sandboxes.docker.config import DockerSandboxConfig
from enclave.sandboxes.docker.notebook_config import DockerNotebookConfig

__all__ = [
    'CommandResult',
    'DockerNotebookConfig',
    'DockerSandboxConfig',
    'ExecutionStatus',
    'HealthCheckResult',
    'PathInfo',
    'SandboxConfig',
    'SandboxInfo',
    'SandboxManagerConfig',
    'SandboxManagerType',
    'SandboxStatus',
    'SandboxType',
    'ToolResult',
]
