"""Kinds of sandbox by name (layer 4). A backend is one line here, or one `register_sandbox` of a user's."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, overload

import attrs

from enclave.config import GivenConfig
from enclave.enums import SandboxType
from enclave.sandboxes.base import Sandbox
from enclave.sandboxes.kinds import KINDS, describe_class, get_kind, register_kind

K = TypeVar('K', bound=type[Sandbox])
D = TypeVar('D')
DN = TypeVar('DN')
B = TypeVar('B')
BN = TypeVar('BN')
A = TypeVar('A')
S = TypeVar('S')


class CreatesByKind(Generic[D, DN, B, BN, A, S]):
    """How a factory is asked for sandboxes, blocking and asynchronous ones: which class a type checker sees for which kind.

    The parameters are the classes of the built-in kinds, that of a kind nobody named, and that of any other.
    """

    @overload
    @classmethod
    def create_sandbox(
        cls,
        sandbox_type: Literal[SandboxType.DOCKER, 'docker'],
        config: GivenConfig = None,
        sandbox_id: str | None = None,
    ) -> D: ...

    @overload
    @classmethod
    def create_sandbox(
        cls,
        sandbox_type: Literal[SandboxType.DOCKER_NOTEBOOK, 'docker_notebook'],
        config: GivenConfig = None,
        sandbox_id: str | None = None,
    ) -> DN: ...

    @overload
    @classmethod
    def create_sandbox(
        cls,
        sandbox_type: Literal[SandboxType.BUBBLEWRAP, 'bubblewrap'],
        config: GivenConfig = None,
        sandbox_id: str | None = None,
    ) -> B: ...

    @overload
    @classmethod
    def create_sandbox(
        cls,
        sandbox_type: Literal[SandboxType.BUBBLEWRAP_NOTEBOOK, 'bubblewrap_notebook'],
        config: GivenConfig = None,
        sandbox_id: str | None = None,
    ) -> BN: ...

    @overload
    @classmethod
    def create_sandbox(
        cls, sandbox_type: None = None, config: GivenConfig = None, sandbox_id: str | None = None
    ) -> A: ...

    @overload
    @classmethod
    def create_sandbox(
        cls, sandbox_type: SandboxType | str | None, config: GivenConfig = None, sandbox_id: str | None = None
    ) -> S: ...

    @classmethod
    def create_sandbox(
        cls, sandbox_type: SandboxType | str | None = None, config: GivenConfig = None, sandbox_id: str | None = None
    ) -> Any:
        """Return a new sandbox, not started and connected to nothing.

        Args:
            sandbox_type: The kind. None leaves the choice to `enclave.sandboxes.choice`: what only one backend's
                configuration has decides, else the environment variable ``ENCLAVE_TYPE``, else Docker if its engine answers
                (asked now, for a second at most), else bubblewrap. It is a notebook sandbox where the configuration is one's,
                or has an option that only those have, or names ``notebook_executor`` and no other tool. What was chosen and
                why is in the sandbox's ``metadata['chosen_because']``.
            config: A configuration of the kind, a dict of its options, or None for the defaults.
            sandbox_id: A name of your own; default is a new one. Where a sandbox of that id was kept
                (``remove_on_exit=False``), starting this one takes it up again.

        Raises:
            NotRegisteredError: The kind is unknown.
            ConfigurationError: The configuration is wrong; the message names the field.
        """
        return cls._create(sandbox_type, config, sandbox_id)

    @classmethod
    def _create(cls, sandbox_type: SandboxType | str | None, config: GivenConfig, sandbox_id: str | None) -> Any:
        raise NotImplementedError


if TYPE_CHECKING:  # what is made by name is imported by name, when it is asked for
    from enclave.sandboxes.agent_backed import AgentBackedSandbox
    from enclave.sandboxes.bubblewrap.notebook import BubblewrapNotebookSandbox
    from enclave.sandboxes.bubblewrap.sandbox import BubblewrapSandbox
    from enclave.sandboxes.docker.notebook import DockerNotebookSandbox
    from enclave.sandboxes.docker.sandbox import DockerSandbox

    _ByKind = CreatesByKind[
        DockerSandbox, DockerNotebookSandbox, BubblewrapSandbox, BubblewrapNotebookSandbox, AgentBackedSandbox, Sandbox
    ]
else:
    _ByKind = CreatesByKind


class SandboxFactory(_ByKind):
    """Makes sandboxes by kind. The registry is the process's; there are no instances."""

    @classmethod
    def register_sandbox(cls, sandbox_type: SandboxType | str, sandbox_class: type[Sandbox], **described: Any) -> None:
        """Register a class for a kind, in the place of any that is there.

        Args:
            described: What else its descriptor says, by the attributes of `enclave.sandboxes.kinds.SandboxKind`: without
                ``rulings`` no server lets its clients have such a sandbox.

        Raises:
            InvalidArgumentError: It is no subclass of `Sandbox`, or the kind no name.
        """
        register_kind(attrs.evolve(describe_class(sandbox_type, sandbox_class), **described))

    @classmethod
    def get_sandbox_class(cls, sandbox_type: SandboxType | str) -> type[Sandbox]:
        """Return the class of a kind.

        Raises:
            NotRegisteredError: There is none.
        """
        return get_kind(str(sandbox_type) if isinstance(sandbox_type, str) else repr(sandbox_type)).sandbox_class

    @classmethod
    def _create(cls, sandbox_type: SandboxType | str | None, config: GivenConfig, sandbox_id: str | None) -> Sandbox:
        if sandbox_type is not None:
            return cls.get_sandbox_class(sandbox_type)(config, sandbox_id)
        from enclave.sandboxes.choice import choose_for

        choice = choose_for(config)
        sandbox = cls.get_sandbox_class(choice.sandbox_type)(config, sandbox_id)
        sandbox.metadata.update(choice.facts)
        return sandbox

    @classmethod
    def get_registered_types(cls) -> list[str]:
        """Return the names of all kinds, sorted."""
        return [kind.name for kind in KINDS.all()]


def register_sandbox(sandbox_type: SandboxType | str, **described: Any) -> Callable[[K], K]:
    """Return a class decorator that registers a sandbox class for a kind; see `SandboxFactory.register_sandbox`."""

    def register(sandbox_class: K) -> K:
        SandboxFactory.register_sandbox(sandbox_type, sandbox_class, **described)
        return sandbox_class

    return register
