"""The name of a cloud service's manager. This library does not reach the service, and says so when the manager is used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ms_enclave.sandbox.boxes.volcengine import refuse
from ms_enclave.sandbox.manager.base import Config, SandboxManager, register_manager
from ms_enclave.sandbox.model.base import SandboxManagerType, SandboxStatus, SandboxType
from ms_enclave.sandbox.model.responses import SandboxInfo


@register_manager(SandboxManagerType.VOLCENGINE)
class VolcengineSandboxManager(SandboxManager):
    """A manager of the cloud service's sandboxes. It can be made, and everything it is asked says that it does nothing."""

    def __init__(self, config: Any = None, **kwargs: Any) -> None:
        """Make a manager.

        Raises:
            ValueError: There is no configuration.
        """
        if config is None:
            raise ValueError('VolcengineSandboxManager needs a VolcengineSandboxManagerConfig')
        super().__init__(config, **kwargs)

    async def start(self) -> None:
        """Say that the service is not reached from here."""
        refuse('VolcengineSandboxManager')

    async def stop(self) -> None:
        """Do nothing: there is nothing to end."""

    async def create_sandbox(
        self, sandbox_type: SandboxType | str, config: Config = None, sandbox_id: str | None = None
    ) -> str:
        """Say that the service is not reached from here."""
        refuse('VolcengineSandboxManager')

    async def get_sandbox_info(self, sandbox_id: str) -> SandboxInfo | None:
        """Say that the service is not reached from here."""
        refuse('VolcengineSandboxManager')

    async def list_sandboxes(self, status_filter: SandboxStatus | None = None) -> list[SandboxInfo]:
        """Say that the service is not reached from here."""
        refuse('VolcengineSandboxManager')

    async def stop_sandbox(self, sandbox_id: str) -> bool:
        """Say that the service is not reached from here."""
        refuse('VolcengineSandboxManager')

    async def delete_sandbox(self, sandbox_id: str) -> bool:
        """Say that the service is not reached from here."""
        refuse('VolcengineSandboxManager')

    async def execute_tool(self, sandbox_id: str, tool_name: str, parameters: dict[str, Any]) -> Any:
        """Say that the service is not reached from here."""
        refuse('VolcengineSandboxManager')

    async def get_sandbox_tools(self, sandbox_id: str) -> dict[str, Any]:
        """Say that the service is not reached from here."""
        refuse('VolcengineSandboxManager')

    async def put_archive(self, sandbox_id: str, target_dir: str, data: bytes) -> bool:
        """Say that the service is not reached from here."""
        refuse('VolcengineSandboxManager')

    async def put_dir(self, sandbox_id: str, source_dir: str | Path, target_dir: str) -> bool:
        """Say that the service is not reached from here."""
        refuse('VolcengineSandboxManager')

    async def get_stats(self) -> dict[str, Any]:
        """Say that the service is not reached from here."""
        refuse('VolcengineSandboxManager')

    async def cleanup_all_sandboxes(self) -> None:
        """Do nothing: there are no sandboxes."""

    async def initialize_pool(
        self, pool_size: int | None = None, sandbox_type: SandboxType | str | None = None, config: Config = None
    ) -> list[str]:
        """Say that the service is not reached from here."""
        refuse('VolcengineSandboxManager')

    async def execute_tool_in_pool(
        self, tool_name: str, parameters: dict[str, Any], timeout: float | None = None
    ) -> Any:
        """Say that the service is not reached from here."""
        refuse('VolcengineSandboxManager')


__all__ = ['VolcengineSandboxManager']
