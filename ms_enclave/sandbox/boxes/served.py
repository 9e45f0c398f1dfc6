"""Sandboxes of a server as this package shows them: with the documented tools and their results, over whichever does the work."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import ms_enclave.sandbox.tools  # noqa: F401 - for what it registers
from ms_enclave.sandbox.boxes.core_backed import CoreBackedSandbox
from ms_enclave.sandbox.boxes.notebook import NotebookBackedSandbox
from ms_enclave.sandbox.model.base import SandboxType
from ms_enclave.sandbox.model.config import SandboxConfig
from ms_enclave.sandbox.model.responses import CommandResult


class ServedSandbox(CoreBackedSandbox):
    """A general-purpose sandbox of whatever kind; to tools it is one of Docker's."""

    _core_type: ClassVar[str] = 'docker'

    def _core_options(self) -> dict[str, Any]:
        return {}

    async def execute_command(
        self, command: str | list[str], timeout: float | None = None, stream: bool = False
    ) -> CommandResult:
        """Run a command; what clients' programs print is nothing for the server's log."""
        return await super().execute_command(command, timeout, stream=False)


class ServedNotebookSandbox(NotebookBackedSandbox, ServedSandbox):
    """A notebook sandbox of whatever kind; to tools it is one of Docker's."""

    _core_type: ClassVar[str] = 'docker_notebook'
    _own_kind: ClassVar[SandboxType] = SandboxType.DOCKER_NOTEBOOK


def make_view(core: Any, tools_config: Mapping[str, dict[str, Any]] | None) -> Any:
    """Return a sandbox over one of `enclave` that runs, with its tools loaded.

    Args:
        tools_config: The tools; None takes those that it was configured with, without their options.
    """
    names = {name: {} for name in core.config.tools_config} if tools_config is None else dict(tools_config)
    further = {'memory_limit': core.config.memory_limit, 'max_output_bytes': core.config.max_output_bytes}
    further['notebook_tools'] = getattr(core.config, 'notebook_tools', None)
    config = SandboxConfig(tools_config=names, working_dir=core.config.working_dir)
    config.__dict__['_further'] = {name: value for name, value in further.items() if value is not None}
    kind = ServedNotebookSandbox if 'notebook' in core.offers else ServedSandbox
    view = kind.over(core, config)
    loading = view.initialize_tools()
    try:
        loading.send(None)  # it waits for nothing
    except StopIteration:
        return view
    raise RuntimeError('loading tools waited for something')
