"""The whole library for asynchronous programs: the same names, with ``await`` and ``async with``.

::

    from enclave.aio import SandboxFactory

    async with SandboxFactory.create_sandbox('docker', {'tools_config': ['python_executor']}) as sandbox:
        print((await sandbox.execute_tool('python_executor', {'code': 'print(1)'})).output)

Every method of a sandbox or a manager is a coroutine function with the arguments, the result and the errors of the blocking
class; factories, configurations and results are the same as there. Calls are made on threads of the library's own, named
``enclave-thread-N``, with the caller's context variables, and never hold up the event loop. Cancelling an await stops the work
in the sandbox. Everything may be used from several event loops, at once or one after the other.

This package is asyncio's one entry to the library (layer 6).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from enclave.aio.factories import (
    SandboxFactory,
    SandboxManagerFactory,
    register_manager,
    register_sandbox,
)
from enclave.aio.managers import (
    HttpSandboxManager,
    LocalSandboxManager,
    RemoteSandbox,
    SandboxManager,
)
from enclave.aio.notebooks import (
    BubblewrapNotebookSandbox,
    DockerNotebookSandbox,
    NotebookDocument,
    NotebookSandbox,
    RemoteNotebookSandbox,
)
from enclave.aio.sandboxes import (
    AgentBackedSandbox,
    BubblewrapSandbox,
    Connection,
    DockerSandbox,
    PortForward,
    Process,
    Sandbox,
)
from enclave.aio.shortcuts import open_sandbox, run_code, run_command
from enclave.cells import CellError, CellResult, KernelInfo, KernelSpec
from enclave.config import SandboxConfig
from enclave.enums import ExecutionStatus, SandboxManagerType, SandboxStatus, SandboxType
from enclave.errors import EnclaveError
from enclave.languages.values import CodeRequest, CodeResult
from enclave.managers.manager_config import SandboxManagerConfig
from enclave.records import CommandResult, HealthCheckResult, PathEvent, PathInfo, ProcessInfo, SandboxInfo, ToolResult
from enclave.sandboxes.bubblewrap.bubblewrap_config import BubblewrapSandboxConfig
from enclave.sandboxes.bubblewrap.bubblewrap_notebook_config import BubblewrapNotebookConfig
from enclave.sandboxes.docker.docker_config import DockerSandboxConfig
from enclave.sandboxes.docker.docker_notebook_config import DockerNotebookConfig
from enclave.sandboxes.kinds import SandboxKind, register_kind
from enclave.tools.base import Tool
from enclave.tools.schema import ToolParams
from enclave.tools.tool_factory import ToolFactory, register_tool

if TYPE_CHECKING:
    from enclave.aio.ray import RaySandboxManager as RaySandboxManager

__all__ = [
    'AgentBackedSandbox',
    'BubblewrapNotebookConfig',
    'BubblewrapNotebookSandbox',
    'BubblewrapSandbox',
    'BubblewrapSandboxConfig',
    'CellError',
    'CellResult',
    'CodeRequest',
    'CodeResult',
    'CommandResult',
    'Connection',
    'DockerNotebookConfig',
    'DockerNotebookSandbox',
    'DockerSandbox',
    'DockerSandboxConfig',
    'EnclaveError',
    'ExecutionStatus',
    'HealthCheckResult',
    'HttpSandboxManager',
    'KernelInfo',
    'KernelSpec',
    'LocalSandboxManager',
    'NotebookDocument',
    'NotebookSandbox',
    'PathEvent',
    'PathInfo',
    'PortForward',
    'Process',
    'RaySandboxManager',
    'RemoteNotebookSandbox',
    'RemoteSandbox',
    'Sandbox',
    'SandboxConfig',
    'SandboxFactory',
    'ProcessInfo',
    'SandboxInfo',
    'SandboxKind',
    'SandboxManager',
    'SandboxManagerConfig',
    'SandboxManagerFactory',
    'SandboxManagerType',
    'SandboxStatus',
    'SandboxType',
    'Tool',
    'ToolFactory',
    'ToolParams',
    'ToolResult',
    'open_sandbox',
    'register_kind',
    'register_manager',
    'register_sandbox',
    'register_tool',
    'run_code',
    'run_command',
]


def __getattr__(name: str) -> Any:
    if name != 'RaySandboxManager':
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return importlib.import_module('enclave.aio.ray').RaySandboxManager


def __dir__() -> list[str]:
    return sorted({*globals(), 'RaySandboxManager'})
