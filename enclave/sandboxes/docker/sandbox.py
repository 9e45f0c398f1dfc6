"""Sandboxes that are Docker containers (layer 4)."""

from __future__ import annotations

from typing import ClassVar, cast

from enclave.enums import SandboxType
from enclave.sandboxes.agent_backed import AgentBackedSandbox
from enclave.sandboxes.backend import Backend
from enclave.sandboxes.docker.backend import DockerBackend
from enclave.sandboxes.docker.docker_config import DockerSandboxConfig


class DockerSandbox(AgentBackedSandbox):
    """A sandbox in a container of its own. See `DockerSandboxConfig` for what can be asked of it."""

    sandbox_type: ClassVar[SandboxType | str] = SandboxType.DOCKER
    config_class: ClassVar[type[DockerSandboxConfig]] = DockerSandboxConfig
    backend_class: ClassVar[type[Backend] | None] = DockerBackend
    config: DockerSandboxConfig

    @property
    def backend(self) -> DockerBackend:
        """What makes it run."""
        return cast(DockerBackend, super().backend)

    @property
    def container_name(self) -> str:
        """What the container is called on the engine."""
        return self.backend.container_name

    def get_published_ports(self) -> dict[str, tuple[str, int]]:
        """Return where published ports really are: ``{'8888/tcp': ('127.0.0.1', 49153)}``."""
        return self.backend.get_published_ports()
