"""Makers of faces by kind (floor 6): plain functions, over the same registries as the blocking ones.

They return objects that are not started and connected to nothing, and so may be called anywhere, also without an event loop.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeVar, cast

from enclave.aio.driving import blocking_class_of
from enclave.aio.lifting import Face, Family
from enclave.aio.managers import SandboxManager
from enclave.aio.sandboxes import Sandbox
from enclave.config import SandboxConfig
from enclave.enums import SandboxManagerType, SandboxType
from enclave.managers import registry as managers
from enclave.managers.config import SandboxManagerConfig
from enclave.sandboxes import registry as sandboxes
from enclave.tools.registry import ToolFactory

K = TypeVar('K', bound=type[Any])

# What takes long only once is done now, because later it would hold up an event loop: importing tools and making the checkers
# of their options takes as long as forty calls.
for _name in ('file_operation', 'python_executor', 'shell_executor'):
    ToolFactory.create_tool(_name)


class SandboxFactory:
    """Makes sandboxes by kind. The registry is that of the blocking `SandboxFactory`; there are no instances."""

    _family: ClassVar[Family] = Sandbox._family

    @classmethod
    def register_sandbox(cls, sandbox_type: SandboxType | str, sandbox_class: type[Any]) -> None:
        """Register a class for a kind, in the place of any that is there: a subclass of a face, or a blocking class.

        Raises:
            InvalidArgumentError: It is no such class, or the kind no name.
        """
        if isinstance(sandbox_class, type) and issubclass(sandbox_class, Sandbox):
            sandbox_class = blocking_class_of(sandbox_class)
        sandboxes.SandboxFactory.register_sandbox(sandbox_type, sandbox_class)

    @classmethod
    def get_sandbox_class(cls, sandbox_type: SandboxType | str) -> type[Sandbox]:
        """Return the class of a kind.

        Raises:
            NotRegisteredError: There is none.
        """
        blocking = sandboxes.SandboxFactory.get_sandbox_class(sandbox_type)
        return cast(type[Sandbox], getattr(blocking, 'face_class', None) or cls._family.find(blocking))

    @classmethod
    def create_sandbox(
        cls,
        sandbox_type: SandboxType | str = SandboxType.DOCKER,
        config: SandboxConfig | Mapping[str, Any] | None = None,
        sandbox_id: str | None = None,
    ) -> Sandbox:
        """See the blocking factory."""
        blocking = sandboxes.SandboxFactory.create_sandbox(sandbox_type, config, sandbox_id)
        return cast(Sandbox, cls._family.present(blocking))

    @classmethod
    def get_registered_types(cls) -> list[str]:
        """Return the names of all kinds, sorted."""
        return sandboxes.SandboxFactory.get_registered_types()


SandboxFactory.create_sandbox.__func__.__doc__ = sandboxes.SandboxFactory.create_sandbox.__doc__  # type: ignore[attr-defined]


def register_sandbox(sandbox_type: SandboxType | str) -> Callable[[K], K]:
    """Return a class decorator that registers a sandbox class for a kind."""

    def register(sandbox_class: K) -> K:
        SandboxFactory.register_sandbox(sandbox_type, sandbox_class)
        return sandbox_class

    return register


class SandboxManagerFactory:
    """Makes managers by kind. The registry is that of the blocking `SandboxManagerFactory`; there are no instances."""

    _family: ClassVar[Family] = SandboxManager._family

    @classmethod
    def register_manager(cls, manager_type: SandboxManagerType | str, manager_class: type[Any]) -> None:
        """Register a class for a kind, in the place of any that is there; it must be a blocking one, or the face of one.

        Raises:
            InvalidArgumentError: It is no such class, or the kind no name.
        """
        if isinstance(manager_class, type) and issubclass(manager_class, Face):
            manager_class = manager_class._blocking_class()
        managers.SandboxManagerFactory.register_manager(manager_type, manager_class)

    @classmethod
    def get_manager_class(cls, manager_type: SandboxManagerType | str) -> type[SandboxManager]:
        """Return the class of a kind.

        Raises:
            NotRegisteredError: There is none.
        """
        found = cls._family.find(managers.SandboxManagerFactory.get_manager_class(manager_type))
        return cast(type[SandboxManager], found)

    @classmethod
    def create_manager(
        cls,
        manager_type: SandboxManagerType | str | None = None,
        config: SandboxManagerConfig | Mapping[str, Any] | None = None,
        **options: Any,
    ) -> SandboxManager:
        """See the blocking factory."""
        blocking = managers.SandboxManagerFactory.create_manager(manager_type, config, **options)
        return cast(SandboxManager, cls._family.present(blocking))

    @classmethod
    def get_registered_types(cls) -> list[str]:
        """Return the names of all kinds, sorted."""
        return managers.SandboxManagerFactory.get_registered_types()


SandboxManagerFactory.create_manager.__func__.__doc__ = managers.SandboxManagerFactory.create_manager.__doc__  # type: ignore[attr-defined]


def register_manager(manager_type: SandboxManagerType | str) -> Callable[[K], K]:
    """Return a class decorator that registers a manager class for a kind."""

    def register(manager_class: K) -> K:
        SandboxManagerFactory.register_manager(manager_type, manager_class)
        return manager_class

    return register
