"""Configurations, requests, results and enums."""

from __future__ import annotations

from enclave.records import PathInfo
from ms_enclave.sandbox.model.base import ExecutionStatus, SandboxManagerType, SandboxStatus, SandboxType, ToolType
from ms_enclave.sandbox.model.config import (
    DockerNotebookConfig,
    DockerSandboxConfig,
    FileOperationConfig,
    PythonExecutorConfig,
    SandboxConfig,
    SandboxManagerConfig,
    ShellExecutorConfig,
    ToolConfig,
    VolcengineSandboxConfig,
    VolcengineSandboxManagerConfig,
)
from ms_enclave.sandbox.model.requests import (
    ExecuteCodeRequest,
    ExecuteCommandRequest,
    FileOperationRequest,
    ReadFileRequest,
    ToolExecutionRequest,
    WriteFileRequest,
)
from ms_enclave.sandbox.model.responses import CommandResult, HealthCheckResult, SandboxInfo, ToolResult

__all__ = [
    'CommandResult',
    'DockerNotebookConfig',
    'DockerSandboxConfig',
    'ExecuteCodeRequest',
    'ExecuteCommandRequest',
    'ExecutionStatus',
    'FileOperationConfig',
    'FileOperationRequest',
    'HealthCheckResult',
    'PathInfo',
    'PythonExecutorConfig',
    'ReadFileRequest',
    'SandboxConfig',
    'SandboxInfo',
    'SandboxManagerConfig',
    'SandboxManagerType',
    'SandboxStatus',
    'SandboxType',
    'ShellExecutorConfig',
    'ToolConfig',
    'ToolExecutionRequest',
    'ToolResult',
    'ToolType',
    'VolcengineSandboxConfig',
    'VolcengineSandboxManagerConfig',
    'WriteFileRequest',
]
