"""enclave: a runtime for code nobody should trust.

Each piece of code gets a sandbox of its own; tools run in it, limits hold, and nothing is left behind. Plain blocking
calls; `enclave.aio` has the same names for async programs.

Importing this package loads nothing heavy: every public name below is imported at its first use.
"""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING, Any

__version__ = '2.0.0'

logging.getLogger(__name__).addHandler(logging.NullHandler())

_HOMES = {
    'enclave.cells': ('CellError', 'CellResult', 'KernelInfo', 'KernelSpec'),
    'enclave.config': ('SandboxConfig',),
    'enclave.enums': ('ExecutionStatus', 'SandboxManagerType', 'SandboxStatus', 'SandboxType'),
    'enclave.errors': ('EnclaveError',),
    'enclave.ipython': ('load_ipython_extension', 'unload_ipython_extension'),
    'enclave.languages.values': ('CodeRequest', 'CodeResult'),
    'enclave.managers.base': ('SandboxManager',),
    'enclave.managers.manager_config': ('SandboxManagerConfig',),
    'enclave.managers.http': ('HttpSandboxManager',),
    'enclave.managers.local': ('LocalSandboxManager',),
    'enclave.managers.manager_factory': ('SandboxManagerFactory', 'register_manager'),
    'enclave.managers.remote': ('RemoteSandbox',),
    'enclave.managers.remote_notebook': ('RemoteNotebookSandbox',),
    'enclave.ray.manager': ('RaySandboxManager',),
    'enclave.records': (
        'CommandResult',
        'HealthCheckResult',
        'PathEvent',
        'PathInfo',
        'ProcessInfo',
        'SandboxInfo',
        'ToolResult',
    ),
    'enclave.sandboxes.base': ('Sandbox',),
    'enclave.sandboxes.bubblewrap.bubblewrap_config': ('BubblewrapSandboxConfig',),
    'enclave.sandboxes.bubblewrap.notebook': ('BubblewrapNotebookSandbox',),
    'enclave.sandboxes.bubblewrap.bubblewrap_notebook_config': ('BubblewrapNotebookConfig',),
    'enclave.sandboxes.bubblewrap.sandbox': ('BubblewrapSandbox',),
    'enclave.sandboxes.docker.docker_config': ('DockerSandboxConfig',),
    'enclave.sandboxes.docker.notebook': ('DockerNotebookSandbox',),
    'enclave.sandboxes.docker.docker_notebook_config': ('DockerNotebookConfig',),
    'enclave.sandboxes.docker.sandbox': ('DockerSandbox',),
    'enclave.sandboxes.notebook.document': ('NotebookDocument',),
    'enclave.sandboxes.notebook.sandbox': ('NotebookSandbox',),
    'enclave.sandboxes.kinds': ('SandboxKind', 'register_kind'),
    'enclave.sandboxes.sandbox_factory': ('SandboxFactory', 'register_sandbox'),
    'enclave.server.auth': ('ApiKey',),
    'enclave.server.policy': ('Policy',),
    'enclave.server.serve': ('SandboxServer', 'create_server'),
    'enclave.shortcuts': ('open_sandbox', 'run_code', 'run_command'),
    'enclave.tools.base': ('Tool',),
    'enclave.tools.tool_factory': ('ToolFactory', 'register_tool'),
    'enclave.tools.workspace': ('Workspace',),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = ['__version__', *sorted(name for name in _HOME_OF if not name.endswith('_ipython_extension'))]

if TYPE_CHECKING:
    from enclave.cells import CellError as CellError
    from enclave.cells import CellResult as CellResult
    from enclave.cells import KernelInfo as KernelInfo
    from enclave.cells import KernelSpec as KernelSpec
    from enclave.config import SandboxConfig as SandboxConfig
    from enclave.enums import ExecutionStatus as ExecutionStatus
    from enclave.enums import SandboxManagerType as SandboxManagerType
    from enclave.enums import SandboxStatus as SandboxStatus
    from enclave.enums import SandboxType as SandboxType
    from enclave.errors import EnclaveError as EnclaveError
    from enclave.ipython import load_ipython_extension as load_ipython_extension
    from enclave.ipython import unload_ipython_extension as unload_ipython_extension
    from enclave.languages.values import CodeRequest as CodeRequest
    from enclave.languages.values import CodeResult as CodeResult
    from enclave.managers.base import SandboxManager as SandboxManager
    from enclave.managers.http import HttpSandboxManager as HttpSandboxManager
    from enclave.managers.local import LocalSandboxManager as LocalSandboxManager
    from enclave.managers.manager_config import SandboxManagerConfig as SandboxManagerConfig
    from enclave.managers.manager_factory import SandboxManagerFactory as SandboxManagerFactory
    from enclave.managers.manager_factory import register_manager as register_manager
    from enclave.managers.remote import RemoteSandbox as RemoteSandbox
    from enclave.managers.remote_notebook import RemoteNotebookSandbox as RemoteNotebookSandbox
    from enclave.ray.manager import RaySandboxManager as RaySandboxManager
    from enclave.records import CommandResult as CommandResult
    from enclave.records import HealthCheckResult as HealthCheckResult
    from enclave.records import PathEvent as PathEvent
    from enclave.records import PathInfo as PathInfo
    from enclave.records import ProcessInfo as ProcessInfo
    from enclave.records import SandboxInfo as SandboxInfo
    from enclave.records import ToolResult as ToolResult
    from enclave.sandboxes.base import Sandbox as Sandbox
    from enclave.sandboxes.bubblewrap.bubblewrap_config import BubblewrapSandboxConfig as BubblewrapSandboxConfig
    from enclave.sandboxes.bubblewrap.bubblewrap_notebook_config import (
        BubblewrapNotebookConfig as BubblewrapNotebookConfig,
    )
    from enclave.sandboxes.bubblewrap.notebook import BubblewrapNotebookSandbox as BubblewrapNotebookSandbox
    from enclave.sandboxes.bubblewrap.sandbox import BubblewrapSandbox as BubblewrapSandbox
    from enclave.sandboxes.docker.docker_config import DockerSandboxConfig as DockerSandboxConfig
    from enclave.sandboxes.docker.docker_notebook_config import DockerNotebookConfig as DockerNotebookConfig
    from enclave.sandboxes.docker.notebook import DockerNotebookSandbox as DockerNotebookSandbox
    from enclave.sandboxes.docker.sandbox import DockerSandbox as DockerSandbox
    from enclave.sandboxes.kinds import SandboxKind as SandboxKind
    from enclave.sandboxes.kinds import register_kind as register_kind
    from enclave.sandboxes.notebook.document import NotebookDocument as NotebookDocument
    from enclave.sandboxes.notebook.sandbox import NotebookSandbox as NotebookSandbox
    from enclave.sandboxes.sandbox_factory import SandboxFactory as SandboxFactory
    from enclave.sandboxes.sandbox_factory import register_sandbox as register_sandbox
    from enclave.server.auth import ApiKey as ApiKey
    from enclave.server.policy import Policy as Policy
    from enclave.server.serve import SandboxServer as SandboxServer
    from enclave.server.serve import create_server as create_server
    from enclave.shortcuts import open_sandbox as open_sandbox
    from enclave.shortcuts import run_code as run_code
    from enclave.shortcuts import run_command as run_command
    from enclave.tools.base import Tool as Tool
    from enclave.tools.tool_factory import ToolFactory as ToolFactory
    from enclave.tools.tool_factory import register_tool as register_tool
    from enclave.tools.workspace import Workspace as Workspace


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    try:
        value = getattr(importlib.import_module(home), name)
    except ImportError as error:
        raise ImportError(f'enclave.{name} cannot be imported: {error}', name=error.name, path=error.path) from error
    except AttributeError as error:
        # Python takes an AttributeError here for "there is no such name", and would not say what went wrong.
        raise ImportError(f'enclave.{name} cannot be imported: importing {home} failed: {error}', name=home) from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
