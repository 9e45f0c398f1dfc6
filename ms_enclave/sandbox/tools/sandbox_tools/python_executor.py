"""``python_executor``: run Python code as a program."""

from __future__ import annotations

import uuid
from typing import Any

from ms_enclave.sandbox.model.base import SandboxType
from ms_enclave.sandbox.model.responses import CommandResult, ToolResult
from ms_enclave.sandbox.tools.base import register_tool
from ms_enclave.sandbox.tools.sandbox_tool import SandboxTool
from ms_enclave.sandbox.tools.sandbox_tools.results import (
    command_result,
    failure,
    failures_as_results,
    text_of,
)
from ms_enclave.sandbox.tools.tool_info import ToolParams


@register_tool('python_executor')
class PythonExecutor(SandboxTool):
    """Run Python code as a fresh program."""

    _name = 'python_executor'
    _description = 'Run Python code as a program in the sandbox and return what it prints'
    _sandbox_types = [SandboxType.DOCKER, SandboxType.VOLCENGINE]
    _parameters = ToolParams(
        type='object',
        properties={
            'code': {'type': 'string', 'description': 'Python source code'},
            'timeout': {'type': 'integer', 'description': 'Seconds it may take', 'default': 30},
        },
        required=['code'],
    )

    @failures_as_results
    async def execute(self, sandbox_context: Any, code: str, timeout: float | None = 30) -> ToolResult:
        """Run the code and say what became of it; where there is none, nothing is run."""
        if not text_of(code, 'code').strip():
            return failure(self.name, 'No code provided')
        run = getattr(sandbox_context, '_run_python', None) or _run_as_file(sandbox_context)
        result: CommandResult = await run(code, timeout)
        return command_result(self.name, result, timeout)


def _run_as_file(sandbox_context: Any) -> Any:
    """Return what runs code in a sandbox of a program's own, by its documented methods."""

    async def run(code: str, timeout: float | None) -> Any:
        path = f'/tmp/enclave-{uuid.uuid4().hex}.py'
        await sandbox_context.put_file(path, code)
        try:
            return await sandbox_context.execute_command(['python', path], timeout=timeout)
        finally:
            await sandbox_context.execute_command(['rm', '-f', path])

    return run


__all__ = ['PythonExecutor']
