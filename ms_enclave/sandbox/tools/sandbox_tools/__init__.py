"""The built-in tools, a module for each."""

from __future__ import annotations

from ms_enclave.sandbox.tools.sandbox_tools.file_operation import FileOperation
from ms_enclave.sandbox.tools.sandbox_tools.multi_code_executor import MultiCodeExecutor
from ms_enclave.sandbox.tools.sandbox_tools.notebook_executor import NotebookExecutor
from ms_enclave.sandbox.tools.sandbox_tools.python_executor import PythonExecutor
from ms_enclave.sandbox.tools.sandbox_tools.shell_executor import ShellExecutor

__all__ = ['FileOperation', 'MultiCodeExecutor', 'NotebookExecutor', 'PythonExecutor', 'ShellExecutor']
