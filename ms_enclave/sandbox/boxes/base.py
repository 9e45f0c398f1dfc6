"""What a sandbox is: an identity, a life, tools, and a few coroutine functions that a backend defines.

Subclass `Sandbox` with nothing but coroutine functions for a backend of your own; it is made without an event loop.
"""

from __future__ import annotations

import inspect
import posixpath
import secrets
import string
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from ms_enclave.sandbox.model.base import SandboxStatus, SandboxType, as_sandbox_type
from ms_enclave.sandbox.model.config import (
    BubblewrapNotebookConfig,
    BubblewrapSandboxConfig,
    DockerNotebookConfig,
    DockerSandboxConfig,
    SandboxConfig,
    VolcengineSandboxConfig,
)
from ms_enclave.sandbox.model.responses import CommandResult, SandboxInfo
from ms_enclave.sandbox.tools.base import Tool, ToolFactory
from ms_enclave.sandbox.utils.archive import tar_directory, tar_file
from ms_enclave.utils.logger import logger

if TYPE_CHECKING:
    from typing_extensions import Self

K = TypeVar('K', bound=type[Any])

_ID_LETTERS = string.ascii_letters + string.digits


class Sandbox(ABC):
    """One sandbox. ``async with`` starts it, and stops it at the end.

    Attributes:
        id: Its name, given or made.
        config: Its configuration.
        status: Where it is in its life.
        created_at, updated_at: When it was made, and when its status was last set; naive local times.
        metadata: What a backend knows of it.
    """

    def __init__(self, config: SandboxConfig, sandbox_id: str | None = None) -> None:
        self.id = sandbox_id or ''.join(secrets.choice(_ID_LETTERS) for _ in range(8))
        self.config = config
        self.status = SandboxStatus.INITIALIZING
        self.created_at = datetime.now()
        self.updated_at = self.created_at
        self.metadata: dict[str, Any] = {}
        self._tools: dict[str, Tool] = {}

    @property
    @abstractmethod
    def sandbox_type(self) -> SandboxType:
        """Its kind."""

    # Life -------------------------------------------------------------------------------------------------------------

    @abstractmethod
    async def start(self) -> None:
        """Start it."""

    @abstractmethod
    async def stop(self) -> None:
        """Stop it."""

    @abstractmethod
    async def cleanup(self) -> None:
        """Take everything of it away."""

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def update_status(self, status: SandboxStatus) -> None:
        """Set its status, and when that was."""
        self.status = status
        self.updated_at = datetime.now()

    def get_info(self) -> SandboxInfo:
        """Return what can be said of it."""
        kind = self.sandbox_type
        return SandboxInfo(
            id=self.id,
            status=self.status,
            type=kind.value if isinstance(kind, SandboxType) else str(kind),
            config=self.config.model_dump(exclude_none=True),
            created_at=self.created_at,
            updated_at=self.updated_at,
            metadata=dict(self.metadata),
            available_tools=self.get_available_tools(),
        )

    @abstractmethod
    async def get_execution_context(self) -> Any:
        """Return what commands are run in, for those who want to use it themselves."""

    # Tools ------------------------------------------------------------------------------------------------------------

    async def initialize_tools(self) -> None:
        """Make the tools that the configuration names. One that cannot be made is logged and left out."""
        for name, options in self.config.tools_config.items():
            try:
                tool = ToolFactory.create_tool(name, **options)
            except Exception as error:
                logger.error('Sandbox %s: the tool %r cannot be made and is left out: %s', self.id, name, error)
                continue
            self.add_tool(tool)

    def add_tool(self, tool: Tool) -> None:
        """Give it a further tool. One that is there already, disabled, or for other kinds of sandbox is logged and left out."""
        reason = self._find_misfit(tool)
        if reason:
            logger.warning('Sandbox %s: the tool %r is not loaded: %s', self.id, tool.name, reason)
        else:
            self._tools[tool.name] = tool

    def _find_misfit(self, tool: Tool) -> str:
        """Return why a tool cannot be added, or ''."""
        if tool.name in self._tools:
            return 'a tool of that name is there already'
        if not tool.enabled:
            return 'it is not enabled'
        if not tool.is_compatible_with_sandbox(self.sandbox_type):
            kinds = ', '.join(str(getattr(each, 'value', each)) for each in tool.required_sandbox_types or ())
            kind = self.sandbox_type
            return (
                f'it is for sandboxes of the type {kinds or "unknown"}, and this one is {getattr(kind, "value", kind)}'
            )
        return ''

    def get_available_tools(self) -> dict[str, Any]:
        """Return ``{tool name: schema}`` of the tools that are enabled."""
        return {name: tool.schema for name, tool in self._tools.items() if tool.enabled}

    def list_tools(self) -> list[str]:
        """Return the names of its tools."""
        return list(self._tools)

    def get_tool(self, tool_name: str) -> Tool | None:
        """Return a tool, or None if it has none of that name."""
        return self._tools.get(tool_name)

    async def execute_tool(self, tool_name: str, parameters: Mapping[str, Any] | None = None) -> Any:
        """Run a tool and return what it returned.

        Raises:
            ValueError: There is no such tool, or it is not enabled.
            TypeError: The parameters have other names than the tool's.
        """
        tool = self.get_tool(tool_name)
        if tool is None:
            have = ', '.join(self._tools) or 'none'
            raise ValueError(
                f'Tool {tool_name!r} is not available in sandbox {self.id}; it has: {have}. Name it in tools_config'
            )
        if not tool.enabled:
            raise ValueError(f'Tool {tool_name!r} is not enabled')
        result = tool.execute(sandbox_context=self, **(parameters or {}))
        return await result if inspect.isawaitable(result) else result

    # What a backend can do --------------------------------------------------------------------------------------------

    async def execute_command(
        self, command: str | list[str], timeout: int | None = None, stream: bool = True
    ) -> CommandResult:
        """Run a command. A backend defines it."""
        raise NotImplementedError(f'{type(self).__name__} does not define execute_command')

    async def put_file(self, file_path: str, content: str, encoding: str = 'utf-8') -> bool:
        """Write text to a file of the sandbox, with its parents. A backend that has `put_archive` has this too.

        Raises:
            ValueError: ``file_path`` is not absolute or names no file, or the content is no text.
        """
        folder, name, data = file_parts(file_path, content, encoding)
        return await self.put_archive(folder, tar_file(name, data))

    async def put_dir(self, source_dir: str | Path, target_dir: str) -> bool:
        """Copy what is in a directory of this machine, symlinks left out, into a directory of the sandbox.

        Raises:
            FileNotFoundError: ``source_dir`` is no directory.
        """
        source = Path(source_dir).expanduser()
        if not source.is_dir():
            raise FileNotFoundError(f'there is no directory {str(source)!r} on this machine')
        return await self.put_archive(target_dir, tar_directory(source))

    async def put_archive(self, target_dir: str, data: bytes) -> bool:
        """Unpack a tar archive into a directory of the sandbox. A backend defines it."""
        raise NotImplementedError(f'{type(self).__name__} does not define put_archive')

    def __repr__(self) -> str:
        return f'<{type(self).__name__} {self.id} {getattr(self.status, "value", self.status)}>'


def file_parts(file_path: str, content: str, encoding: str) -> tuple[str, str, bytes]:
    """Return the directory and the name of a file that is written as a whole, and what it will hold.

    Raises:
        ValueError: The path is not absolute or names no file, or the content is no text.
    """
    if not isinstance(file_path, str) or not file_path.startswith('/'):
        raise ValueError(f'file_path must be an absolute path in the sandbox, not {file_path!r}')
    folder, name = posixpath.split(file_path)
    if not name:
        raise ValueError(f'file_path must end in the name of a file, and {file_path!r} ends in none')
    if not isinstance(content, str):
        raise ValueError(f'content must be text, not {type(content).__name__}')
    return folder, name, content.encode(encoding)


_CONFIGS: dict[str, type[SandboxConfig]] = {
    'docker': DockerSandboxConfig,
    'docker_notebook': DockerNotebookConfig,
    'volcengine': VolcengineSandboxConfig,
    'bubblewrap': BubblewrapSandboxConfig,
    'bubblewrap_notebook': BubblewrapNotebookConfig,
}
"""The classes of configurations by kind; every other kind has `SandboxConfig`."""


class SandboxFactory:
    """Makes sandboxes by kind, not started."""

    _sandboxes: ClassVar[dict[SandboxType | str, type[Any]]] = {}
    _further: ClassVar[Callable[[SandboxType | str], Any] | None] = None

    @classmethod
    def register_sandbox(cls, sandbox_type: SandboxType | str, sandbox_class: type[Any]) -> None:
        """Register a class for a kind, in the place of any that is there. It is called as ``(config, sandbox_id)``."""
        cls._sandboxes[sandbox_type] = sandbox_class

    @classmethod
    def create_sandbox(
        cls,
        sandbox_type: SandboxType | str,
        config: SandboxConfig | Mapping[str, Any] | None = None,
        sandbox_id: str | None = None,
    ) -> Any:
        """Return a new sandbox, not started.

        Args:
            config: A configuration, a dict of its options, or None for the defaults.

        Raises:
            ValueError: The kind is not registered, or an option is wrong.
        """
        found = cls._sandboxes.get(sandbox_type) or cls._find_further(sandbox_type)
        if found is None:
            kinds = ', '.join(str(getattr(each, 'value', each)) for each in cls._sandboxes)
            raise ValueError(f'Sandbox type {sandbox_type!r} is not registered; known: {kinds}')
        # A class that a program made of one of this package's, and registered under a name of its own, has that one's options.
        return found(make_config(getattr(found, '_core_type', '') or sandbox_type, config), sandbox_id)

    @classmethod
    def _find_further(cls, sandbox_type: SandboxType | str) -> Any:
        """Return what makes sandboxes of a kind that is registered with `enclave` only, or None."""
        return None if cls._further is None else cls._further(sandbox_type)

    @classmethod
    def get_available_types(cls) -> list[SandboxType | str]:
        """Return the kinds there are."""
        return list(cls._sandboxes)

    get_registered_types = get_available_types


def make_config(sandbox_type: SandboxType | str, config: SandboxConfig | Mapping[str, Any] | None) -> Any:
    """Return the configuration of a kind from one, a mapping of its options, or None for the defaults."""
    kind = as_sandbox_type(sandbox_type)
    wanted = _CONFIGS.get(kind.value if isinstance(kind, SandboxType) else str(kind), SandboxConfig)
    return (
        wanted.model_validate(config if config is not None else {}) if not isinstance(config, SandboxConfig) else config
    )


def fitting_config(sandbox_type: str, config: Any) -> Any:
    """Return a configuration of a more general kind as one of this kind, with what was given of it; others as they are."""
    wanted = _CONFIGS[sandbox_type]
    if isinstance(config, wanted) or not isinstance(config, SandboxConfig) or not issubclass(wanted, type(config)):
        return config
    return wanted(**config.model_dump(exclude_unset=True))


def register_sandbox(sandbox_type: SandboxType | str) -> Callable[[K], K]:
    """Return a class decorator that registers a sandbox class for a kind."""

    def register(sandbox_class: K) -> K:
        SandboxFactory.register_sandbox(sandbox_type, sandbox_class)
        return sandbox_class

    return register


__all__ = ['Sandbox', 'SandboxFactory', 'register_sandbox']
