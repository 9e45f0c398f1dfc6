"""A notebook that runs nothing: it keeps a record and gives the results it was made with."""

from __future__ import annotations

from typing import Any

from enclave.cells import CellResult, KernelInfo
from enclave.enums import ExecutionStatus


class FakeNotebook:
    """Gives the results in order, then empty successes."""

    def __init__(self, *results: CellResult) -> None:
        self.results = list(results)
        self.cells: list[dict[str, Any]] = []
        self.kernels: list[str] = []

    def execute_cell(self, code: str, timeout: float | None = None, **options: Any) -> CellResult:
        """Keep the call and give the next result."""
        self.cells.append({'code': code, 'timeout': timeout, **options})
        return self.results.pop(0) if self.results else CellResult(status=ExecutionStatus.SUCCESS)

    def create_kernel(self, name: str, *, exist_ok: bool = False) -> KernelInfo:
        """Keep the name."""
        self.kernels.append(name)
        return KernelInfo(name=name, spec='python3')

    def list_kernels(self) -> list[KernelInfo]:
        """Say that there is a Python kernel."""
        return [KernelInfo(name='default', spec='python3', language='python')]
