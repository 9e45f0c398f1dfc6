"""Makers of proxies by kind (layer 6): plain functions, over the same registries as the blocking ones.

They return objects that are not started and connected to nothing, and so may be called anywhere, also without an event loop.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeVar, cast

from enclave.aio.lazy_kind import LazyKind
from enclave.aio.managers import SandboxManager
from enclave.aio.notebooks import BubblewrapNotebookSandbox, DockerNotebookSandbox
from enclave.aio.proxies import AsyncProxy, ProxyRegistry
from enclave.aio.sandboxes import AgentBackedSandbox, BubblewrapSandbox, DockerSandbox, Sandbox
from enclave.aio.user_coroutines import blocking_class_of
from enclave.config import GivenConfig
from enclave.enums import SandboxManagerType, SandboxType
from enclave.errors import InvalidArgumentError
from enclave.managers import manager_factory as managers
from enclave.managers.manager_config import SandboxManagerConfig
from enclave.sandboxes import sandbox_factory as sandboxes
from enclave.sandboxes.choice import is_settled
from enclave.tools.tool_factory import ToolFactory

K = TypeVar('K', bound=type[Any])

# What takes long only once is done now, because later it would hold up an event loop: importing tools and making the checkers
# of their options takes as long as forty calls.
for _name in ('file_operation', 'python_executor', 'shell_executor'):
    ToolFactory.create_tool(_name)


class SandboxFactory(
    sandboxes.CreatesByKind[
        DockerSandbox, DockerNotebookSandbox, BubblewrapSandbox, BubblewrapNotebookSandbox, Sandbox, Sandbox
    ]
):
    """Makes sandboxes by kind. The registry is that of the blocking `SandboxFactory`; there are no instances."""

    _proxy_registry: ClassVar[ProxyRegistry] = Sandbox._proxy_registry

    @classmethod
    def register_sandbox(cls, sandbox_type: SandboxType | str, sandbox_class: type[Any], **described: Any) -> None:
        """Register a class for a kind, in the place of any that is there: a subclass of a proxy, or a blocking class.

        Raises:
            InvalidArgumentError: It is no such class, or the kind no name.
        """
        if isinstance(sandbox_class, type) and issubclass(sandbox_class, Sandbox):
            sandbox_class = blocking_class_of(sandbox_class)
        sandboxes.SandboxFactory.register_sandbox(sandbox_type, sandbox_class, **described)

    @classmethod
    def get_sandbox_class(cls, sandbox_type: SandboxType | str) -> type[Sandbox]:
        """Return the class of a kind.

        Raises:
            NotRegisteredError: There is none.
        """
        blocking = sandboxes.SandboxFactory.get_sandbox_class(sandbox_type)
        return cast('type[Sandbox]', getattr(blocking, 'proxy_class', None) or cls._proxy_registry.find(blocking))

    @classmethod
    def _create(cls, sandbox_type: SandboxType | str | None, config: GivenConfig, sandbox_id: str | None) -> Any:
        if sandbox_type is None and not is_settled(config):
            general = cls._proxy_registry.find(AgentBackedSandbox._blocking_class()) or AgentBackedSandbox
            return cls._proxy_registry.over(general, LazyKind(config, sandbox_id))
        return cls._proxy_registry.present(sandboxes.SandboxFactory.create_sandbox(sandbox_type, config, sandbox_id))

    @classmethod
    def get_registered_types(cls) -> list[str]:
        """Return the names of all kinds, sorted."""
        return sandboxes.SandboxFactory.get_registered_types()


def register_sandbox(sandbox_type: SandboxType | str, **described: Any) -> Callable[[K], K]:
    """Return a class decorator that registers a sandbox class for a kind; see the blocking factory."""

    def register(sandbox_class: K) -> K:
        SandboxFactory.register_sandbox(sandbox_type, sandbox_class, **described)
        return sandbox_class

    return register


class _Awaited:
    """Stands in the registry of managers for a user's class that was written with coroutine functions."""

    proxy_class: ClassVar[type[SandboxManager]]

    def __new__(cls, *_args: Any, **_options: Any) -> Any:
        raise InvalidArgumentError(
            f'{cls.proxy_class.__name__} is a manager to be awaited; make it with enclave.aio.SandboxManagerFactory, or register '
            'a subclass of a blocking manager'
        )


def _registered_for(proxy_class: type[AsyncProxy], manager_type: SandboxManagerType | str) -> type[Any]:
    """Return what represents a proxy in the registry of blocking classes."""
    blocking = proxy_class._blocking_class()
    if '_home' in proxy_class.__dict__ or not issubclass(proxy_class, SandboxManager):
        return blocking
    return type(proxy_class.__name__, (_Awaited, blocking), {'proxy_class': proxy_class, 'manager_type': manager_type})


class SandboxManagerFactory:
    """Makes managers by kind. The registry is that of the blocking `SandboxManagerFactory`; there are no instances."""

    _proxy_registry: ClassVar[ProxyRegistry] = SandboxManager._proxy_registry

    @classmethod
    def register_manager(cls, manager_type: SandboxManagerType | str, manager_class: type[Any]) -> None:
        """Register a class for a kind, in the place of any that is there: a subclass of a proxy, or a blocking class.

        A subclass of a proxy is what the asynchronous factories make of the kind; the blocking one refuses to.

        Raises:
            InvalidArgumentError: It is no such class, or the kind no name.
        """
        if isinstance(manager_class, type) and issubclass(manager_class, AsyncProxy):
            manager_class = _registered_for(manager_class, manager_type)
        managers.SandboxManagerFactory.register_manager(manager_type, manager_class)

    @classmethod
    def get_manager_class(cls, manager_type: SandboxManagerType | str) -> type[SandboxManager]:
        """Return the class of a kind.

        Raises:
            NotRegisteredError: There is none.
        """
        blocking = managers.SandboxManagerFactory.get_manager_class(manager_type)
        return cast(
            'type[SandboxManager]', getattr(blocking, 'proxy_class', None) or cls._proxy_registry.find(blocking)
        )

    @classmethod
    def create_manager(
        cls,
        manager_type: SandboxManagerType | str | None = None,
        config: SandboxManagerConfig | Mapping[str, Any] | None = None,
        **options: Any,
    ) -> SandboxManager:
        """See the blocking factory."""
        if manager_type is not None:
            found = managers.SandboxManagerFactory.get_manager_class(manager_type)
            if issubclass(found, _Awaited):
                return found.proxy_class(config=config, **options)
        blocking = managers.SandboxManagerFactory.create_manager(manager_type, config, **options)
        return cast(SandboxManager, cls._proxy_registry.present(blocking))

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
