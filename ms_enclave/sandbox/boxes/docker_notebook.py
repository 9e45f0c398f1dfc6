"""Notebook sandboxes that are Docker containers."""

from __future__ import annotations

from typing import Any, ClassVar

from ms_enclave.sandbox.boxes.base import register_sandbox
from ms_enclave.sandbox.boxes.core_options import GATEWAY_PORT, notebook_options
from ms_enclave.sandbox.boxes.docker_sandbox import DockerSandbox
from ms_enclave.sandbox.boxes.notebook import NotebookBackedSandbox
from ms_enclave.sandbox.model.base import SandboxType
from ms_enclave.sandbox.model.config import DockerNotebookConfig


@register_sandbox(SandboxType.DOCKER_NOTEBOOK)
class DockerNotebookSandbox(NotebookBackedSandbox, DockerSandbox):
    """A sandbox with a Jupyter kernel in a container of its own, and a kernel gateway published on this machine.

    Making it changes the configuration: its port is published, and it has a network.
    """

    _core_type: ClassVar[str] = 'docker_notebook'
    _what: ClassVar[str] = 'Jupyter Docker sandbox'
    _own_kind: ClassVar[SandboxType] = SandboxType.DOCKER_NOTEBOOK
    config: DockerNotebookConfig

    def __init__(self, config: Any = None, sandbox_id: str | None = None) -> None:
        super().__init__(config, sandbox_id)
        self.config.ports[GATEWAY_PORT] = self.config.port
        self.config.network_enabled = True
        self.host = self.config.host
        self.port = self.config.port
        self.base_url: str | None = None

    def _core_options(self) -> dict[str, Any]:
        self.config.port, self.config.host = self.port, self.host
        return notebook_options(self.config)

    async def start(self) -> None:
        """Start it, its gateway and its kernel, and load its tools."""
        await super().start()
        self.base_url = self._core.gateway_url or f'http://{self.host}:{self.port}'


__all__ = ['DockerNotebookSandbox']
