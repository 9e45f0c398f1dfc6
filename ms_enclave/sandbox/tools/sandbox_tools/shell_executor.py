"""``shell_executor``: run a command."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ms_enclave.sandbox.model.base import SandboxType
from ms_enclave.sandbox.model.modeling import plain
from ms_enclave.sandbox.model.responses import ToolResult
from ms_enclave.sandbox.tools.base import register_tool
from ms_enclave.sandbox.tools.sandbox_tool import SandboxTool
from ms_enclave.sandbox.tools.sandbox_tools.results import (
    command_result,
    failure,
    failures_as_results,
    seconds,
    text_of,
)
from ms_enclave.sandbox.tools.tool_info import ToolParams


@register_tool('shell_executor')
class ShellExecutor(SandboxTool):
    """Run a command: a string through the sandbox's shell, a list as a program and its arguments."""

    _name = 'shell_executor'
    _description = 'Run a command in the sandbox and return what it prints'
    _sandbox_types = [SandboxType.DOCKER, SandboxType.VOLCENGINE]
    _parameters = ToolParams(
        type='object',
        properties={
            'command': {
                'anyOf': [
                    {'type': 'string', 'description': 'A command line for the shell'},
                    {'type': 'array', 'items': {'type': 'string'}, 'description': 'A program and its arguments'},
                ]
            },
            'timeout': {'type': 'integer', 'description': 'Seconds it may take', 'default': 30},
        },
        required=['command'],
    )

    @failures_as_results
    async def execute(self, sandbox_context: Any, command: Any, timeout: float | None = 30) -> ToolResult:
        """Run the command and say what became of it; where there is none, nothing is run."""
        command = plain(command)
        is_list = isinstance(command, Sequence) and not isinstance(command, str)
        if not command or not text_of(command[0] if is_list else command, 'command').strip():
            return failure(self.name, 'No command provided')
        if not is_list and seconds(timeout) is None:
            command = ['sh', '-c', command]  # without a limit the sandbox would have no shell read it
        result = await sandbox_context.execute_command(command, timeout=timeout)
        return command_result(self.name, result, timeout)


__all__ = ['ShellExecutor']
