"""What a tool is: a name, a schema, and a coroutine function `execute` that is handed a sandbox."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

from ms_enclave.sandbox.model.base import SandboxType
from ms_enclave.sandbox.tools.tool_info import ToolParams

K = TypeVar('K', bound=type[Any])


def _overridable(method: Callable[..., Any]) -> Callable[..., Any]:
    """Return a method as it is; to a checker of types, subclasses may define it with parameters of their own."""
    return method


class Tool(ABC):
    """Something that can be run in a sandbox.

    A subclass defines ``async def execute(self, sandbox_context, **parameters)`` and says in ``required_sandbox_types``, a
    property or a class attribute, which kinds of sandbox it is for: a list, or None for any. A tool written for an earlier
    release may say it in ``required_sandbox_type``, one kind or None.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        own = cls.__dict__
        if 'required_sandbox_type' in own and 'required_sandbox_types' not in own:
            # The one that was defined last counts, and with one of the two the other is defined too.
            cls.required_sandbox_types = property(_from_singular)  # type: ignore[method-assign, assignment]

    def __init__(
        self,
        *,
        name: str | None = None,
        description: str | None = None,
        parameters: ToolParams | Mapping[str, Any] | None = None,
        enabled: bool = True,
        timeout: int | None = None,
        **kwargs: Any,
    ) -> None:
        """Make a tool; further keywords, as ``tools_config`` may hold them, are ignored.

        Args:
            name: Default is the class's name.
            enabled: Whether it may be added to a sandbox.
            timeout: Kept for programs that read it.
        """
        self._name = name or type(self).__name__
        self._description = description
        self._parameters = ToolParams.model_validate(parameters) if isinstance(parameters, Mapping) else parameters
        self.enabled = enabled
        self.timeout = timeout

    @property
    def name(self) -> str:
        """What a sandbox knows it by."""
        return self._name

    @property
    def description(self) -> str | None:
        """What it does, for a model that chooses between tools."""
        return self._description

    @property
    def parameters(self) -> ToolParams | None:
        """What it takes."""
        return self._parameters

    @property
    def schema(self) -> dict[str, Any]:
        """The tool as an OpenAI-style function."""
        given = self.parameters
        parameters = given.model_dump(exclude_none=True) if given else {}
        return {
            'type': 'function',
            'function': {'name': self.name, 'description': self.description, 'parameters': parameters},
        }

    @property
    @abstractmethod
    def required_sandbox_types(self) -> list[SandboxType] | None:
        """The kinds of sandbox it is for; None or an empty list for any."""

    @property
    def required_sandbox_type(self) -> SandboxType | None:
        """The first of the kinds it is for; None for any."""
        required = self.required_sandbox_types
        return required[0] if required else None

    def is_compatible_with_sandbox(self, sandbox_type: SandboxType | str) -> bool:
        """Return whether it may be used in a kind of sandbox. What it requires and cannot be read is required all the same."""
        required = self.required_sandbox_types
        if not required:
            return required is None or isinstance(required, Sequence)
        if isinstance(required, (str, bytes)) or not isinstance(required, (Sequence, set, frozenset)):
            required = [required]
        return any(SandboxType.is_compatible(sandbox_type, each) for each in required)

    @_overridable
    @abstractmethod
    async def execute(self, sandbox_context: Any, **parameters: Any) -> Any:
        """Do the work in a sandbox, and return a `ToolResult` or whatever the tool's users expect."""

    def __repr__(self) -> str:
        return f'<{type(self).__name__} {self.name!r}>'


def _from_singular(tool: Tool) -> list[SandboxType] | None:
    required = tool.required_sandbox_type
    return None if required is None else [required]


class ToolFactory:
    """Makes tools by name."""

    _tools: ClassVar[dict[str, type[Tool]]] = {}

    @classmethod
    def register_tool(cls, tool_name: str, tool_class: type[Tool]) -> None:
        """Register a class under a name, in the place of any that is there."""
        cls._tools[tool_name] = tool_class

    @classmethod
    def create_tool(cls, tool_name: str, **kwargs: Any) -> Tool:
        """Return a new tool.

        Args:
            kwargs: Keywords of its constructor.

        Raises:
            ValueError: No tool has the name.
        """
        found = cls._tools.get(tool_name)
        if found is None:
            raise ValueError(f'Tool {tool_name!r} is not registered; known: {", ".join(sorted(cls._tools))}')
        return found(**kwargs)

    @classmethod
    def get_available_tools(cls) -> list[str]:
        """Return the names of all tools there are."""
        return list(cls._tools)


def register_tool(name: str) -> Callable[[K], K]:
    """Return a class decorator that registers a tool under a name."""

    def register(tool_class: K) -> K:
        ToolFactory.register_tool(name, tool_class)
        return tool_class

    return register


__all__ = ['Tool', 'ToolFactory', 'register_tool']
