"""Tools whose name, description, parameters and kinds of sandbox are class attributes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from ms_enclave.sandbox.model.base import SandboxType
from ms_enclave.sandbox.tools.base import Tool, _overridable
from ms_enclave.sandbox.tools.tool_info import ToolParams


class SandboxTool(Tool):
    """A tool for sandboxes. Subclasses set ``_name``, ``_description``, ``_parameters`` and ``_sandbox_types``.

    A class written for an earlier release may set ``_sandbox_type``, one kind, in the place of the last.
    """

    _name: str | None = None  # type: ignore[assignment]
    _description: str | None = None
    _parameters: ToolParams | None = None
    _sandbox_types: list[SandboxType] | None = None
    _sandbox_type: SandboxType | None = None

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        own = cls.__dict__
        if '_sandbox_type' in own and '_sandbox_types' not in own:
            cls._sandbox_types = None if own['_sandbox_type'] is None else [own['_sandbox_type']]

    def __init__(
        self,
        *,
        name: str | None = None,
        description: str | None = None,
        parameters: ToolParams | Mapping[str, Any] | None = None,
        enabled: bool = True,
        timeout: int | None = None,
        sandbox: Any = None,
        sandbox_types: Sequence[SandboxType] | None = None,
        sandbox_type: SandboxType | None = None,
        **kwargs: Any,
    ) -> None:
        """Make a tool; what is given here comes before the class's attributes.

        Args:
            sandbox: Kept for programs that read it.
            sandbox_types: The kinds of sandbox it is for.
            sandbox_type: One kind, as earlier releases had it.
        """
        cls = type(self)
        super().__init__(
            name=name or cls._name,
            description=description or cls._description,
            parameters=parameters or cls._parameters,
            enabled=enabled,
            timeout=timeout,
            **kwargs,
        )
        self.sandbox = sandbox
        if sandbox_types is None and sandbox_type is not None:
            sandbox_types = [sandbox_type]
        if sandbox_types is not None:
            self._sandbox_types = list(sandbox_types)

    @property
    def required_sandbox_types(self) -> list[SandboxType] | None:
        """The kinds of sandbox it is for; None or an empty list for any."""
        return self._sandbox_types

    @_overridable
    @abstractmethod
    async def execute(self, sandbox_context: Any, **parameters: Any) -> Any:
        """Do the work in a sandbox."""


__all__ = ['SandboxTool']
