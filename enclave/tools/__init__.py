"""What can be run in a sandbox (layer 3). Every public name is imported at its first use."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_HOMES = {
    'enclave.tools.base': ('SandboxTool', 'Tool', 'command_result'),
    'enclave.tools.file': ('FileOperation',),
    'enclave.tools.multi_code': ('MultiCodeExecutor',),
    'enclave.tools.python': ('PythonExecutor',),
    'enclave.tools.tool_factory': ('ToolFactory', 'load_tools', 'register_tool'),
    'enclave.tools.schema': ('ToolParams', 'argument', 'json_schema'),
    'enclave.tools.shell': ('ShellExecutor',),
    'enclave.tools.workspace': ('Workspace',),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME_OF)

if TYPE_CHECKING:
    from enclave.tools.base import SandboxTool as SandboxTool
    from enclave.tools.base import Tool as Tool
    from enclave.tools.base import command_result as command_result
    from enclave.tools.file import FileOperation as FileOperation
    from enclave.tools.multi_code import MultiCodeExecutor as MultiCodeExecutor
    from enclave.tools.python import PythonExecutor as PythonExecutor
    from enclave.tools.schema import ToolParams as ToolParams
    from enclave.tools.schema import argument as argument
    from enclave.tools.schema import json_schema as json_schema
    from enclave.tools.shell import ShellExecutor as ShellExecutor
    from enclave.tools.tool_factory import ToolFactory as ToolFactory
    from enclave.tools.tool_factory import load_tools as load_tools
    from enclave.tools.tool_factory import register_tool as register_tool
    from enclave.tools.workspace import Workspace as Workspace


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
