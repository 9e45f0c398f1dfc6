"""Tools. Importing this registers the five that are built in."""

from __future__ import annotations

from ms_enclave.sandbox.tools.base import Tool, ToolFactory, register_tool
from ms_enclave.sandbox.tools.sandbox_tool import SandboxTool
from ms_enclave.sandbox.tools.sandbox_tools import (
    FileOperation,
    MultiCodeExecutor,
    NotebookExecutor,
    PythonExecutor,
    ShellExecutor,
)
from ms_enclave.sandbox.tools.tool_info import ToolParams

assert MultiCodeExecutor is not None  # imported for what it registers

__all__ = [
    'FileOperation',
    'NotebookExecutor',
    'PythonExecutor',
    'SandboxTool',
    'ShellExecutor',
    'Tool',
    'ToolFactory',
    'ToolParams',
    'register_tool',
]
