"""``file_operation``: read, write, list and delete files."""

from __future__ import annotations

import base64
import posixpath
from collections.abc import Sequence
from typing import Any

from ms_enclave.sandbox.model.base import ExecutionStatus, SandboxType
from ms_enclave.sandbox.model.responses import CommandResult, ToolResult
from ms_enclave.sandbox.tools.base import register_tool
from ms_enclave.sandbox.tools.sandbox_tool import SandboxTool
from ms_enclave.sandbox.tools.sandbox_tools.results import failure, failures_as_results, text_of
from ms_enclave.sandbox.tools.tool_info import ToolParams

_STEP_SECONDS = 30
_WRITE = 'mkdir -p -- "$(dirname -- "$1")" && base64 -d > "$1" <<.\n$2\n.\n'
"""For sandboxes of a program's own that have only `execute_command`."""


@register_tool('file_operation')
class FileOperation(SandboxTool):
    """Read, write, list and delete files. Relative paths begin at the working directory."""

    _name = 'file_operation'
    _description = 'Create, read, write, list and delete files and directories in the sandbox'
    _sandbox_types = [SandboxType.DOCKER]
    _parameters = ToolParams(
        type='object',
        properties={
            'operation': {
                'type': 'string',
                'description': 'What to do',
                'enum': ['create', 'read', 'write', 'delete', 'list', 'exists'],
            },
            'file_path': {'type': 'string', 'description': 'Path of the file or directory'},
            'content': {'type': 'string', 'description': 'What to write'},
            'encoding': {'type': 'string', 'description': 'Encoding of the file', 'default': 'utf-8'},
        },
        required=['operation', 'file_path'],
    )

    @failures_as_results
    async def execute(
        self,
        sandbox_context: Any,
        operation: str,
        file_path: str,
        content: str | None = None,
        encoding: str | None = 'utf-8',
    ) -> ToolResult:
        """Do the operation and say what became of it."""
        if not text_of(file_path, 'file_path').strip():
            return failure(self.name, 'No file path provided')
        encoding = encoding or 'utf-8'
        if operation in ('write', 'create'):
            if content is None and operation == 'write':
                return failure(self.name, 'Content is required for write operation')
            return await self._write(sandbox_context, file_path, text_of(content, 'content'), encoding)
        if operation == 'read':
            return await self._read(sandbox_context, file_path, encoding)
        if operation == 'delete':
            return self._as_result(
                await _run(sandbox_context, ['rm', '-rf', '--', file_path]), f'Successfully deleted: {file_path}'
            )
        if operation == 'list':
            return self._as_result(await _run(sandbox_context, ['ls', '-la', '--', file_path]))
        if operation == 'exists':
            found = await _run(sandbox_context, ['test', '-e', file_path])
            return self._success('exists' if found.status == ExecutionStatus.SUCCESS else 'does not exist')
        return failure(self.name, f'Unknown operation: {operation}')

    async def _write(self, sandbox: Any, path: str, content: str, encoding: str) -> ToolResult:
        place = posixpath.join(getattr(sandbox.config, 'working_dir', '/'), path)
        try:
            await sandbox.put_file(place, content, encoding=encoding)
        except NotImplementedError:
            encoded = base64.b64encode(content.encode(encoding)).decode('ascii')
            result = await _run(sandbox, ['sh', '-c', _WRITE.replace('$2', encoded), 'sh', path])
            return self._as_result(result, f'File written successfully: {path}')
        return self._success(f'File written successfully: {path}')

    async def _read(self, sandbox: Any, path: str, encoding: str) -> ToolResult:
        read_bytes = getattr(sandbox, '_read_bytes', None)
        if read_bytes is not None:
            # A command's output is shown as UTF-8 and may be cut; what the file holds is asked of the sandbox itself.
            data: bytes | None = await read_bytes(path)
            if data is not None:
                return self._success(
                    data.decode(encoding, 'replace')
                )  # what is no text is shown, as a command's output is
        return self._as_result(await _run(sandbox, ['cat', '--', path]))

    def _success(self, output: str) -> ToolResult:
        return ToolResult(tool_name=self.name, status=ExecutionStatus.SUCCESS, output=output)

    def _as_result(self, result: CommandResult, output: str | None = None) -> ToolResult:
        if result.status == ExecutionStatus.SUCCESS:
            return self._success((result.stdout or '') if output is None else output)
        output_text = result.stderr or result.stdout
        return failure(self.name, output_text or f'Command failed with exit code {result.exit_code}', result.status)


async def _run(sandbox: Any, command: Sequence[str]) -> CommandResult:
    result: CommandResult = await sandbox.execute_command(list(command), timeout=_STEP_SECONDS)
    return result


__all__ = ['FileOperation']
