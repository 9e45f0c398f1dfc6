"""Sandboxes, managers, the server, tools and the values they use. Every name is imported at its first use."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_HOMES = {
    'ms_enclave.sandbox.boxes': (
        'DockerNotebookSandbox',
        'DockerSandbox',
        'Sandbox',
        'SandboxFactory',
        'register_sandbox',
    ),
    'ms_enclave.sandbox.manager': (
        'HttpSandboxManager',
        'LocalSandboxManager',
        'SandboxManager',
        'SandboxManagerFactory',
    ),
    'ms_enclave.sandbox.manager.base': ('register_manager',),
    'ms_enclave.sandbox.model': (
        'CommandResult',
        'DockerNotebookConfig',
        'DockerSandboxConfig',
        'ExecuteCodeRequest',
        'ExecuteCommandRequest',
        'ExecutionStatus',
        'HealthCheckResult',
        'PathInfo',
        'ReadFileRequest',
        'SandboxConfig',
        'SandboxInfo',
        'SandboxManagerConfig',
        'SandboxManagerType',
        'SandboxStatus',
        'SandboxType',
        'ToolExecutionRequest',
        'ToolResult',
        'WriteFileRequest',
    ),
    'ms_enclave.sandbox.server.server': ('SandboxServer', 'create_server'),
    'ms_enclave.sandbox.tools': (
        'FileOperation',
        'NotebookExecutor',
        'PythonExecutor',
        'SandboxTool',
        'ShellExecutor',
        'Tool',
        'ToolFactory',
        'ToolParams',
        'register_tool',
    ),
    'ms_enclave.sandbox.tools.sandbox_tools': ('MultiCodeExecutor',),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}
_MODULES = ('boxes', 'manager', 'model', 'server', 'tools', 'utils')

__all__ = sorted(_HOME_OF)

if TYPE_CHECKING:
    from ms_enclave.sandbox.boxes import DockerNotebookSandbox as DockerNotebookSandbox
    from ms_enclave.sandbox.boxes import DockerSandbox as DockerSandbox
    from ms_enclave.sandbox.boxes import Sandbox as Sandbox
    from ms_enclave.sandbox.boxes import SandboxFactory as SandboxFactory
    from ms_enclave.sandbox.boxes import register_sandbox as register_sandbox
    from ms_enclave.sandbox.manager import HttpSandboxManager as HttpSandboxManager
    from ms_enclave.sandbox.manager import LocalSandboxManager as LocalSandboxManager
    from ms_enclave.sandbox.manager import SandboxManager as SandboxManager
    from ms_enclave.sandbox.manager import SandboxManagerFactory as SandboxManagerFactory
    from ms_enclave.sandbox.manager.base import register_manager as register_manager
    from ms_enclave.sandbox.model import CommandResult as CommandResult
    from ms_enclave.sandbox.model import DockerNotebookConfig as DockerNotebookConfig
    from ms_enclave.sandbox.model import DockerSandboxConfig as DockerSandboxConfig
    from ms_enclave.sandbox.model import ExecuteCodeRequest as ExecuteCodeRequest
    from ms_enclave.sandbox.model import ExecuteCommandRequest as ExecuteCommandRequest
    from ms_enclave.sandbox.model import ExecutionStatus as ExecutionStatus
    from ms_enclave.sandbox.model import HealthCheckResult as HealthCheckResult
    from ms_enclave.sandbox.model import PathInfo as PathInfo
    from ms_enclave.sandbox.model import ReadFileRequest as ReadFileRequest
    from ms_enclave.sandbox.model import SandboxConfig as SandboxConfig
    from ms_enclave.sandbox.model import SandboxInfo as SandboxInfo
    from ms_enclave.sandbox.model import SandboxManagerConfig as SandboxManagerConfig
    from ms_enclave.sandbox.model import SandboxManagerType as SandboxManagerType
    from ms_enclave.sandbox.model import SandboxStatus as SandboxStatus
    from ms_enclave.sandbox.model import SandboxType as SandboxType
    from ms_enclave.sandbox.model import ToolExecutionRequest as ToolExecutionRequest
    from ms_enclave.sandbox.model import ToolResult as ToolResult
    from ms_enclave.sandbox.model import WriteFileRequest as WriteFileRequest
    from ms_enclave.sandbox.server.server import SandboxServer as SandboxServer
    from ms_enclave.sandbox.server.server import create_server as create_server
    from ms_enclave.sandbox.tools import FileOperation as FileOperation
    from ms_enclave.sandbox.tools import NotebookExecutor as NotebookExecutor
    from ms_enclave.sandbox.tools import PythonExecutor as PythonExecutor
    from ms_enclave.sandbox.tools import SandboxTool as SandboxTool
    from ms_enclave.sandbox.tools import ShellExecutor as ShellExecutor
    from ms_enclave.sandbox.tools import Tool as Tool
    from ms_enclave.sandbox.tools import ToolFactory as ToolFactory
    from ms_enclave.sandbox.tools import ToolParams as ToolParams
    from ms_enclave.sandbox.tools import register_tool as register_tool
    from ms_enclave.sandbox.tools.sandbox_tools import MultiCodeExecutor as MultiCodeExecutor


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f'{__name__}.{name}')
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    try:
        value = getattr(importlib.import_module(home), name)
    except (ImportError, AttributeError) as error:  # the latter would be taken for "there is no such name"
        raise ImportError(f'{__name__}.{name} cannot be imported: {error}', name=home) from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})
