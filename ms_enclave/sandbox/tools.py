"""Tools: those of `enclave`. A tool of your own may define ``async def execute(self, sandbox_context, **kwargs)``."""

from __future__ import annotations

from enclave.tools.base import SandboxTool, Tool
from enclave.tools.file import FileOperation
from enclave.tools.multi_code import MultiCodeExecutor
from enclave.tools.notebook import NotebookExecutor
from enclave.tools.python import PythonExecutor
from enclave.tools.registry import ToolFactory, register_tool
from enclave.tools.schema import ToolParams
from enclave.tools.shell import ShellExecutor

__all__ = [
    'FileOperation',
    'MultiCodeExecutor',
    'NotebookExecutor',
    'PythonExecutor',
    'SandboxTool',
    'ShellExecutor',
    'Tool',
    'ToolFactory',
    'ToolParams',
    'register_tool',
]
