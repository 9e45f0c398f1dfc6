"""What a manager of many sandboxes is. Subclass it with nothing but coroutine functions for one of your own."""

from __future__ import annotations

import asyncio
import collections
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from ms_enclave.sandbox.model.base import SandboxManagerType, SandboxStatus, SandboxType
from ms_enclave.sandbox.model.config import SandboxConfig, SandboxManagerConfig
from ms_enclave.sandbox.model.responses import SandboxInfo

if TYPE_CHECKING:
    from typing_extensions import Self

K = TypeVar('K', bound=type[Any])
Config = SandboxConfig | Mapping[str, Any] | None


class SandboxManager(ABC):
    """Owner of many sandboxes; ``async with`` starts and stops it.

    Attributes:
        config: Its configuration, never None.
    """

    def __init__(self, config: SandboxManagerConfig | Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        """Make a manager; further keywords are ignored.

        Args:
            config: Its configuration. Without one, it is made of the keywords that it knows.
        """
        if config is None:
            known = set(SandboxManagerConfig.model_fields) | SandboxManagerConfig._further_names()
            config = SandboxManagerConfig(**{name: value for name, value in kwargs.items() if name in known})
        elif isinstance(config, Mapping):
            config = SandboxManagerConfig.model_validate(config)
        self.config = config
        self._running = False
        self._sandboxes: dict[str, Any] = {}
        self._sandbox_pool: collections.deque[str] = collections.deque()
        self._pool_initialized = False
        self._locks: dict[str, LoopBound] = {}

    @property
    def _pool_lock(self) -> asyncio.Lock:
        """A lock of the running event loop, for programs that change the pool."""
        lock: asyncio.Lock = self._of_loop('lock', asyncio.Lock)
        return lock

    def _of_loop(self, name: str, make: Callable[[], Any]) -> Any:
        """Return what belongs to the running event loop, made anew where the loop is another: one manager serves several."""
        try:
            loop: Any = asyncio.get_running_loop()
        except RuntimeError:
            loop = None
        found = self._locks.get(name)
        if found is None or (loop is not None and found.loop is not None and found.loop is not loop):
            found = self._locks[name] = LoopBound(loop, make())
        elif found.loop is None:
            found.loop = loop
        return found.value

    # Life -------------------------------------------------------------------------------------------------------------

    @abstractmethod
    async def start(self) -> None:
        """Begin."""

    @abstractmethod
    async def stop(self) -> None:
        """End."""

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    # Sandboxes --------------------------------------------------------------------------------------------------------

    @abstractmethod
    async def create_sandbox(
        self, sandbox_type: SandboxType | str, config: Config = None, sandbox_id: str | None = None
    ) -> str:
        """Make and start a sandbox, and return its id."""

    @abstractmethod
    async def get_sandbox_info(self, sandbox_id: str) -> SandboxInfo | None:
        """Return what can be said of a sandbox; None if there is none."""

    @abstractmethod
    async def list_sandboxes(self, status_filter: SandboxStatus | None = None) -> list[SandboxInfo]:
        """Return what can be said of all sandboxes, or of those in one state."""

    @abstractmethod
    async def stop_sandbox(self, sandbox_id: str) -> bool:
        """Stop a sandbox, which stays listed; False if that was not possible."""

    @abstractmethod
    async def delete_sandbox(self, sandbox_id: str) -> bool:
        """Take a sandbox away; False if that was not possible."""

    @abstractmethod
    async def execute_tool(self, sandbox_id: str, tool_name: str, parameters: dict[str, Any]) -> Any:
        """Run a tool in a sandbox."""

    @abstractmethod
    async def get_sandbox_tools(self, sandbox_id: str) -> dict[str, Any]:
        """Return ``{tool name: schema}`` of a sandbox."""

    async def put_archive(self, sandbox_id: str, target_dir: str, data: bytes) -> bool:
        """Unpack a tar archive into a directory of a sandbox."""
        raise NotImplementedError(f'{type(self).__name__} does not define put_archive')

    async def put_dir(self, sandbox_id: str, source_dir: str | Path, target_dir: str) -> bool:
        """Copy what is in a directory of this machine into a directory of a sandbox."""
        raise NotImplementedError(f'{type(self).__name__} does not define put_dir')

    @abstractmethod
    async def get_stats(self) -> dict[str, Any]:
        """Return numbers."""

    @abstractmethod
    async def cleanup_all_sandboxes(self) -> None:
        """Take all sandboxes away."""

    # Pool -------------------------------------------------------------------------------------------------------------

    @abstractmethod
    async def initialize_pool(
        self, pool_size: int | None = None, sandbox_type: SandboxType | str | None = None, config: Config = None
    ) -> list[str]:
        """Make sandboxes that wait for calls, and return their ids."""

    @abstractmethod
    async def execute_tool_in_pool(
        self, tool_name: str, parameters: dict[str, Any], timeout: float | None = None
    ) -> Any:
        """Run a tool in a sandbox of the pool."""

    def __repr__(self) -> str:
        return f'<{type(self).__name__} {"running" if self._running else "not running"}>'


class LoopBound:
    """Something of asyncio's, and the event loop it belongs to."""

    def __init__(self, loop: Any, value: Any) -> None:
        self.loop, self.value = loop, value


class SandboxManagerFactory:
    """Makes managers by kind, not started."""

    _registry: ClassVar[dict[SandboxManagerType | str, type[Any]]] = {}

    @classmethod
    def register(cls, manager_type: SandboxManagerType | str, manager_class: type[Any]) -> None:
        """Register a class for a kind, in the place of any that is there. It is called as ``(config=config, **kwargs)``."""
        cls._registry[manager_type] = manager_class

    @classmethod
    def create_manager(
        cls,
        manager_type: SandboxManagerType | str | None = None,
        config: SandboxManagerConfig | Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Return a new manager. Without a kind it is one of a server's sandboxes if an address is given, else a local one.

        Raises:
            ValueError: The kind is not registered.
        """
        if manager_type is None:
            given = config.get('base_url') if isinstance(config, Mapping) else getattr(config, 'base_url', None)
            base_url = given or kwargs.get('base_url')
            manager_type = SandboxManagerType.HTTP if base_url else SandboxManagerType.LOCAL
        found = cls._registry.get(manager_type)
        if found is None:
            kinds = ', '.join(str(getattr(each, 'value', each)) for each in cls._registry)
            raise ValueError(f'Manager type {manager_type!r} is not registered; known: {kinds}')
        return found(config=config, **kwargs)

    @classmethod
    def get_registered_types(cls) -> list[SandboxManagerType | str]:
        """Return the kinds there are."""
        return list(cls._registry)


def register_manager(manager_type: SandboxManagerType | str) -> Callable[[K], K]:
    """Return a class decorator that registers a manager class for a kind."""

    def register(manager_class: K) -> K:
        SandboxManagerFactory.register(manager_type, manager_class)
        return manager_class

    return register


__all__ = ['SandboxManager', 'SandboxManagerFactory', 'register_manager']
