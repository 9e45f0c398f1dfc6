"""Kinds of manager by name (layer 5). A kind is one line here, or one `register_manager` of a user's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from enclave.enums import SandboxManagerType
from enclave.errors import InvalidArgumentError, NotRegisteredError
from enclave.managers.base import SandboxManager
from enclave.managers.manager_config import SandboxManagerConfig
from enclave.registry import Registry

K = TypeVar('K', bound=type[SandboxManager])

MANAGERS: Registry[type[SandboxManager]] = Registry(
    {
        'local': ('enclave.managers.local', 'LocalSandboxManager'),
        'http': ('enclave.managers.http', 'HttpSandboxManager'),
        'ray': ('enclave.ray.manager', 'RaySandboxManager'),
    }
)


class SandboxManagerFactory:
    """Makes managers by kind. The registry is the process's; there are no instances."""

    @classmethod
    def register_manager(cls, manager_type: SandboxManagerType | str, manager_class: type[SandboxManager]) -> None:
        """Register a class for a kind, in the place of any that is there.

        Raises:
            InvalidArgumentError: It is no subclass of `SandboxManager`, or the kind no name.
        """
        if not isinstance(manager_type, str) or not manager_type:
            raise InvalidArgumentError(f'a manager type is a SandboxManagerType or a name, not {manager_type!r}')
        if not isinstance(manager_class, type) or not issubclass(manager_class, SandboxManager):
            raise InvalidArgumentError(f'{manager_class!r} must be a subclass of SandboxManager')
        MANAGERS.register(str(manager_type), manager_class)

    @classmethod
    def get_manager_class(cls, manager_type: SandboxManagerType | str) -> type[SandboxManager]:
        """Return the class of a kind.

        Raises:
            NotRegisteredError: There is none.
        """
        name = str(manager_type) if isinstance(manager_type, str) else repr(manager_type)
        found = MANAGERS.find(name)
        if found is None:
            raise NotRegisteredError(
                f'manager type {name!r} is not registered; known: {", ".join(cls.get_registered_types())}'
            )
        return found

    @classmethod
    def create_manager(
        cls,
        manager_type: SandboxManagerType | str | None = None,
        config: SandboxManagerConfig | Mapping[str, Any] | None = None,
        **options: Any,
    ) -> SandboxManager:
        """Return a new manager, not started and connected to nothing.

        Args:
            manager_type: Its kind; None is ``'http'`` where a ``base_url`` is given, else ``'local'``.
            config: A configuration, a dict of its options, or None for the defaults.
            options: Options in the place of what ``config`` says.

        Raises:
            NotRegisteredError: The kind is unknown.
            ConfigurationError: The configuration is wrong; the message names the field.
        """
        if manager_type is None:
            checked = SandboxManagerConfig.merged(config, options)
            manager_type = SandboxManagerType.HTTP if checked.base_url else SandboxManagerType.LOCAL
        return cls.get_manager_class(manager_type)(config=config, **options)

    @classmethod
    def get_registered_types(cls) -> list[str]:
        """Return the names of all kinds, sorted."""
        return MANAGERS.names()


def register_manager(manager_type: SandboxManagerType | str) -> Callable[[K], K]:
    """Return a class decorator that registers a manager class for a kind."""

    def register(manager_class: K) -> K:
        SandboxManagerFactory.register_manager(manager_type, manager_class)
        return manager_class

    return register
