"""``notebook_executor`` (layer 3): run code in a Jupyter kernel, which keeps its state between calls."""

from __future__ import annotations

from typing import Any, Protocol, cast

from attrs import frozen

from enclave.cells import DEFAULT_KERNEL, KERNEL_DELETED, SANDBOX_STOPPED, CellResult, KernelInfo
from enclave.enums import ExecutionStatus, SandboxType
from enclave.errors import InvalidArgumentError
from enclave.records import ToolResult
from enclave.rulings import inside
from enclave.tools.base import COMMAND_METADATA, OUTPUT_RULINGS, OutputOptions, Tool
from enclave.tools.schema import argument
from enclave.tools.workspace import Workspace

_NO_INPUT = (
    'Nobody can type here, so input() fails at once: put the value into the code instead, or read it from a file.'
)

_AFTERWARDS = {
    KERNEL_DELETED: 'a call that names it as its `kernel` makes a new one',
    SANDBOX_STOPPED: 'the sandbox takes no calls while it is stopped',
}


class NotebookWorkspace(Protocol):
    """What a sandbox that offers ``'notebook'`` has beside the verbs of `Workspace`."""

    def execute_cell(
        self,
        code: str,
        timeout: float | None = None,
        *,
        kernel: str = DEFAULT_KERNEL,
        keep_escapes: bool = False,
        max_output_bytes: int | None = None,
    ) -> CellResult:
        """Run code in a kernel; see `enclave.sandboxes.notebook.sandbox.NotebookSandbox.execute_cell`."""

    def create_kernel(self, name: str, *, exist_ok: bool = False) -> KernelInfo:
        """Start a further kernel."""


CELL_METADATA: dict[str, Any] = {
    **COMMAND_METADATA,
    'outputs': [],
    'stdout': '',
    'error': None,
    'execution_count': None,
    'kernel': DEFAULT_KERNEL,
    'state_lost': None,
    'note': None,
    'outputs_left_out': 0,
    'display_ids': {},
    'display_updates': [],
    'timing': {},
    'widgets': {},
}
"""What the metadata of every result holds, with the values of one that ran nothing. ``output_file`` is the path in the sandbox
of a file with the whole text, where it was shortened to a budget of characters."""


class NotebookExecutor(Tool):
    """Run code in the sandbox's Jupyter kernel, which keeps variables, imports and functions between calls."""

    name = 'notebook_executor'
    description = (
        'Run code as a cell of a Jupyter notebook and return what it prints and the value of its last expression. '
        'Variables, imports and functions stay from call to call; plots and tables come back as rich outputs.'
    )
    needs = frozenset({'notebook'})
    metadata = CELL_METADATA
    _sandbox_type = SandboxType.DOCKER_NOTEBOOK

    @frozen(kw_only=True)
    class Arguments:
        """The arguments of a call."""

        code: str = argument(description='The code of the cell. The value of its last expression is shown.')
        timeout: float | None = argument(
            default=None,
            minimum=0,
            description="Seconds it may take before it is interrupted; 0 for no limit. Default is the sandbox's limit.",
        )
        kernel: str | None = argument(
            default=None,
            description='A kernel of its own by this name, made at its first use, with variables apart from all others.',
        )

    rulings = {
        **OUTPUT_RULINGS,
        'keep_escapes': inside(),
    }

    @frozen(kw_only=True)
    class Options(OutputOptions):
        """What ``tools_config['notebook_executor']`` may hold, besides `OutputOptions`.

        Attributes:
            keep_escapes: Leave a terminal's escape codes in tracebacks, and colours in texts.
        """

        keep_escapes: bool = argument(default=False)

    def run(self, workspace: Workspace, arguments: Arguments) -> ToolResult:
        """Run the code and report how it ended; where there is no code, nothing is run."""
        if not arguments.code.strip():
            return self.failure('No code provided', error_code=InvalidArgumentError.code)
        notebook = cast('NotebookWorkspace', workspace)
        options = self.options
        kernel = arguments.kernel or DEFAULT_KERNEL
        if kernel != DEFAULT_KERNEL:
            notebook.create_kernel(kernel, exist_ok=True)
        timeout = options.timeout if arguments.timeout is None else arguments.timeout
        result = notebook.execute_cell(
            arguments.code,
            timeout,
            kernel=kernel,
            keep_escapes=options.keep_escapes,
            max_output_bytes=options.max_output_bytes,
        )
        return cell_result(self.name, result, timeout=timeout)


def cell_result(tool_name: str, result: CellResult, *, timeout: float | None = None) -> ToolResult:
    """Report a cell's end as a tool's result.

    ``output`` is the text a person reads: stdout and the values shown. ``error`` is None on success; otherwise the traceback,
    after a line that says what ended the cell when that was not its own code. ``metadata`` holds ``outputs`` (as a notebook
    stores them), ``stdout``, ``stderr``, their ``*_bytes`` and ``*_truncated``, ``error`` (name, value and traceback, or
    None), ``execution_count``, ``kernel``, ``timed_out``, ``oom_killed``, ``state_lost``, ``note``, ``outputs_left_out``,
    ``display_ids``, ``display_updates``, ``timing`` and ``widgets``, as in `CellResult`, and ``output_file`` (see
    `CELL_METADATA`).

    Args:
        timeout: The call's time limit in seconds, for the message; None where only the sandbox knows it.
    """
    metadata: dict[str, Any] = {
        **CELL_METADATA,
        'outputs': result.outputs,
        'stdout': result.stdout,
        'stderr': result.stderr,
        'stdout_bytes': result.stdout_bytes,
        'stderr_bytes': result.stderr_bytes,
        'stdout_truncated': result.stdout_truncated,
        'stderr_truncated': result.stderr_truncated,
        'error': None if result.error is None else result.error.model_dump(),
        'execution_count': result.execution_count,
        'kernel': result.kernel,
        'timed_out': result.timed_out,
        'oom_killed': result.oom_killed,
        'state_lost': result.state_lost,
        'note': result.note,
        'outputs_left_out': result.outputs_left_out,
        'display_ids': result.display_ids,
        'display_updates': result.display_updates,
        'timing': result.timing,
        'widgets': result.widgets,
    }
    return ToolResult(
        tool_name=tool_name,
        status=result.status,
        output=result.text,
        error=None if result.success else _error_text(result, timeout),
        execution_time=result.execution_time,
        metadata=metadata,
    )


def _error_text(result: CellResult, timeout: float | None) -> str:
    lines = []
    error = result.error
    if result.status is ExecutionStatus.TIMEOUT:
        seconds = f'{timeout or round(result.execution_time, 1):g}'
        lines.append(f'Timed out after {seconds} second{"" if seconds == "1" else "s"}: {_what_became(result)}')
    elif result.status is ExecutionStatus.CANCELLED:
        lines.append(f'Cancelled: {_what_became(result)}')
    elif result.state_lost is not None:
        lines.append(
            f'The kernel {result.state_lost}. Its variables and imports are lost; {_afterwards(result.state_lost)}.'
        )
        error = None
    if result.note:
        lines.append(result.note)
    if error is not None:
        lines.append(error.traceback or f'{error.name}: {error.value}')
        if error.name == 'StdinNotImplementedError':
            lines.append(_NO_INPUT)
    return '\n'.join(lines) or 'The cell failed'


def _what_became(result: CellResult) -> str:
    if result.state_lost is not None:
        return (
            f'the kernel {result.state_lost}; its variables and imports are lost, and {_afterwards(result.state_lost)}.'
        )
    return 'the cell was interrupted; the kernel and its variables are kept.'


def _afterwards(state_lost: str) -> str:
    return _AFTERWARDS.get(state_lost, 'the next call gets a new kernel')
