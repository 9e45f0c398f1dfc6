"""``notebook_executor``: run code in a Jupyter kernel, which keeps its variables between calls."""

from __future__ import annotations

from typing import Any

from ms_enclave.sandbox.model.base import SandboxType
from ms_enclave.sandbox.model.responses import ToolResult
from ms_enclave.sandbox.tools.base import register_tool
from ms_enclave.sandbox.tools.sandbox_tool import SandboxTool
from ms_enclave.sandbox.tools.sandbox_tools.results import failure, failures_as_results, text_of
from ms_enclave.sandbox.tools.tool_info import ToolParams


@register_tool('notebook_executor')
class NotebookExecutor(SandboxTool):
    """Run code as a cell of a notebook."""

    _name = 'notebook_executor'
    _description = 'Run Python code in the Jupyter kernel of the sandbox, which keeps variables between calls'
    _sandbox_types = [SandboxType.DOCKER_NOTEBOOK]
    _parameters = ToolParams(
        type='object',
        properties={
            'code': {'type': 'string', 'description': 'Python source code of the cell'},
            'timeout': {'type': 'integer', 'description': 'Seconds it may take', 'default': 30},
        },
        required=['code'],
    )

    @failures_as_results
    async def execute(self, sandbox_context: Any, code: str, timeout: float | None = 30) -> ToolResult:
        """Run the code and say what became of it; where there is none, nothing is run."""
        if not text_of(code, 'code').strip():
            return failure(self.name, 'No code provided')
        run = getattr(sandbox_context, '_run_cell', None)
        if run is None:
            return failure(self.name, f'{type(sandbox_context).__name__} has no Jupyter kernel')
        result: ToolResult = await run(self.name, code, timeout)
        return result


__all__ = ['NotebookExecutor']
