"""Sandboxes without a container engine, for programs that take them by name."""

from __future__ import annotations

from typing import Any, ClassVar

from ms_enclave.sandbox.boxes.base import register_sandbox
from ms_enclave.sandbox.boxes.core_backed import CoreBackedSandbox
from ms_enclave.sandbox.boxes.core_options import plain_options
from ms_enclave.sandbox.boxes.notebook import NotebookBackedSandbox
from ms_enclave.sandbox.model.base import SandboxType
from ms_enclave.sandbox.tools.base import Tool

_DOCKER_KINDS = {
    SandboxType.BUBBLEWRAP: SandboxType.DOCKER,
    SandboxType.BUBBLEWRAP_NOTEBOOK: SandboxType.DOCKER_NOTEBOOK,
}
"""The kinds whose tools these load too: tools name Docker's."""


@register_sandbox(SandboxType.BUBBLEWRAP)
class BubblewrapSandbox(CoreBackedSandbox):
    """A sandbox of namespaces. See `enclave.BubblewrapSandboxConfig` for what can be asked of it."""

    _core_type: ClassVar[str] = 'bubblewrap'
    _what: ClassVar[str] = 'bubblewrap sandbox'

    def _core_options(self) -> dict[str, Any]:
        return plain_options(self.config)

    def _find_misfit(self, tool: Tool) -> str:
        required = tool.required_sandbox_types
        if required and _DOCKER_KINDS[self.sandbox_type] in required and tool.enabled and tool.name not in self._tools:
            return ''
        return super()._find_misfit(tool)


@register_sandbox(SandboxType.BUBBLEWRAP_NOTEBOOK)
class BubblewrapNotebookSandbox(NotebookBackedSandbox, BubblewrapSandbox):
    """A notebook sandbox of namespaces. See `enclave.BubblewrapNotebookConfig` for what can be asked of it."""

    _core_type: ClassVar[str] = 'bubblewrap_notebook'
    _own_kind: ClassVar[SandboxType] = SandboxType.BUBBLEWRAP_NOTEBOOK


__all__ = ['BubblewrapNotebookSandbox', 'BubblewrapSandbox']
