"""How the built-in tools say what became of a call."""

from __future__ import annotations

from typing import Any

from ms_enclave.sandbox.model.base import ExecutionStatus
from ms_enclave.sandbox.model.responses import CommandResult, ToolResult

NO_TIME = 'Command timed out after {} seconds'


def failure(
    tool_name: str, error: str, status: ExecutionStatus = ExecutionStatus.ERROR, output: Any = ''
) -> ToolResult:
    """Return a result that says what went wrong."""
    return ToolResult(tool_name=tool_name, status=status, output=output, error=error)


def command_result(tool_name: str, result: CommandResult, timeout: float | None) -> ToolResult:
    """Return a command's end as a tool's result.

    ``output`` is its stdout, ``error`` its stderr (None if it succeeded without); where a command that failed wrote none, a
    sentence that names its exit code, on which programs match.
    """
    error = result.stderr or None
    if result.status == ExecutionStatus.TIMEOUT:
        error = error or NO_TIME.format(timeout)
    elif result.status != ExecutionStatus.SUCCESS:
        error = error or f'Command failed with exit code {result.exit_code}'
    return ToolResult(tool_name=tool_name, status=result.status, output=result.stdout or '', error=error)
