"""What calls return. Times of day are naive and local, as documented."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from ms_enclave.sandbox.model.base import ExecutionStatus, SandboxStatus
from ms_enclave.sandbox.model.modeling import Model, field


class ExecutionResult(Model):
    """How something that was run ended."""

    status: ExecutionStatus = field()
    execution_time: float | None = None
    timestamp: datetime = field(default_factory=datetime.now)


class ToolResult(ExecutionResult):
    """What a tool gives back. ``error`` of a success is what the code wrote to its standard error; None if nothing."""

    tool_name: str = field()
    output: Any = None
    metadata: dict[str, Any] = field(default_factory=dict)
    error: str | None = None

    @property
    def success(self) -> bool:
        """Whether ``status`` is success."""
        return self.status == ExecutionStatus.SUCCESS


class CommandResult(ExecutionResult):
    """What became of a command, which is as the caller gave it."""

    command: str | list[str] = field()
    exit_code: int = field()
    stdout: str | None = None
    stderr: str | None = None


class SandboxInfo(Model):
    """A sandbox as seen from outside."""

    id: str = field()
    status: SandboxStatus = field()
    type: str = field()
    config: dict[str, Any] = field(default_factory=dict)
    created_at: datetime = field(default_factory=datetime.now)
    updated_at: datetime = field(default_factory=datetime.now)
    metadata: dict[str, Any] = field(default_factory=dict)
    available_tools: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def _checked(cls, data: Any) -> Any:
        kind = data.get('type')
        if isinstance(kind, str) and type(kind) is not str:  # a member of an enum: plain text, as documented
            data = {**data, 'type': str.__str__(kind)}
        return super()._checked(data)


class HealthCheckResult(Model):
    """Whether a server is well; ``uptime`` is seconds."""

    healthy: bool = field()
    version: str = field()
    uptime: float = field()
    active_sandboxes: int = field()
    system_info: dict[str, Any] = field(default_factory=dict)


__all__ = ['CommandResult', 'ExecutionResult', 'HealthCheckResult', 'SandboxInfo', 'ToolResult']
