"""What the notebook sandboxes of this package share: cells, and which tools they load."""

from __future__ import annotations

from typing import Any, ClassVar

from enclave.cells import CellResult
from enclave.sandboxes.notebook.notebook_config import NOTEBOOK_TOOLS_ENVIRONMENT, loads_all_tools
from ms_enclave.sandbox.boxes.core_backed import CoreBackedSandbox, _as_runtime_error
from ms_enclave.sandbox.model.base import ExecutionStatus, SandboxType
from ms_enclave.sandbox.model.responses import ToolResult
from ms_enclave.sandbox.tools.base import Tool
from ms_enclave.sandbox.tools.sandbox_tools.results import seconds


class NotebookBackedSandbox(CoreBackedSandbox):
    """A notebook sandbox over one of `enclave`.

    It loads the tools made for notebooks only; all that fit are loaded where the environment variable
    ``ENCLAVE_NOTEBOOK_TOOLS`` or the configuration's ``notebook_tools`` is ``all``.
    """

    _own_kind: ClassVar[SandboxType]

    def __init__(self, config: Any = None, sandbox_id: str | None = None) -> None:
        super().__init__(config, sandbox_id)
        self.kernel_id: str | None = None
        self.ws: Any = None

    def _find_misfit(self, tool: Tool) -> str:
        reason = super()._find_misfit(tool)
        required = tool.required_sandbox_types
        if reason or not required or self._own_kind in required or SandboxType.DOCKER_NOTEBOOK in required:
            return reason
        if loads_all_tools(self.config.further_options.get('notebook_tools')):
            return ''
        return (
            'a notebook sandbox loads the tools made for notebooks only; set the environment variable '
            f"{NOTEBOOK_TOOLS_ENVIRONMENT}=all, or notebook_tools='all' in the configuration, to load this one too"
        )

    async def start(self) -> None:
        """Start it, its kernel, and load its tools."""
        await super().start()
        kernels = await self._proxy.list_kernels()
        self.kernel_id = kernels[0].name if kernels else None

    async def _run_cell(self, tool_name: str, code: str, timeout: float | None) -> ToolResult:
        """Run a cell and return the documented result of ``notebook_executor``."""
        proxy = self._running()
        limit = seconds(timeout)
        result: CellResult = await _as_runtime_error(
            proxy.execute_cell(code, limit or 0, keep_escapes=True, max_output_bytes=self._max_output_bytes)
        )
        return _cell_result(tool_name, result, timeout)


def _cell_result(tool_name: str, result: CellResult, timeout: float | None) -> ToolResult:
    streams = ''.join(_text(each['text']) for each in result.outputs if each['output_type'] == 'stream')
    status = ExecutionStatus(str(result.status))
    if status is ExecutionStatus.SUCCESS:
        values = [
            _text(each['data'].get('text/plain', ''))
            for each in result.outputs
            if each['output_type'] == 'execute_result'
        ]
        output = streams + ''.join(f'\nResult: {value}' for value in values)
        return ToolResult(tool_name=tool_name, status=status, output=output)
    if status is ExecutionStatus.TIMEOUT:
        reason = f'Execution timed out after {timeout} seconds'
    elif result.error is not None:
        reason = result.error.traceback or f'{result.error.name}: {result.error.value}'
    else:
        reason = result.note or (f'The kernel {result.state_lost}' if result.state_lost else 'The cell failed')
    error = f'{streams}\n{reason}' if streams and not streams.endswith('\n') else streams + reason
    return ToolResult(tool_name=tool_name, status=status, output='', error=error)


def _text(value: Any) -> str:
    return ''.join(value) if isinstance(value, list) else str(value)
