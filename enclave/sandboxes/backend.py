"""What makes a sandbox run (layer 4): the collaborator that a kind of sandbox supplies, beside its configuration.

A sandbox (`enclave.sandboxes.agent_backed`) has the identity, the life and the verbs. Its `Backend` makes it run, says what
became of it, and takes it away; it knows the sandbox by a `SandboxSpec` only, and gives back values.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from attrs import field, frozen

from enclave.errors import UnsupportedError
from enclave.sandboxes.operations import Operations
from enclave.sandboxes.process import Process


@frozen(kw_only=True)
class SandboxSpec:
    """What a backend is to make run.

    Attributes:
        id: The sandbox's name.
        kind: The name of its kind.
        config: Its checked configuration.
        tenant: Whose it is; what is kept of a sandbox is given to the same tenant only. None is the host's own.
    """

    id: str
    kind: str
    config: Any
    tenant: str | None = None


@frozen
class Launched:
    """What runs now.

    Attributes:
        operations: What executes requests in it.
        facts: What is known of it, for the ``metadata`` of the sandbox.
    """

    operations: Operations
    facts: Mapping[str, Any] = field(factory=dict)


class Backend(ABC):
    """Makes one sandbox run, any number of times, one after the other. Lives as long as the sandbox that holds it.

    `launch`, `settle`, `pause`, `resume` and `destroy` are called one at a time; all else by any thread at any time, and must not
    block unless the sandbox is known to be lost.

    Attributes:
        id, config: Those of the sandbox, from ``spec``.
    """

    def __init__(self, spec: SandboxSpec) -> None:
        self.spec = spec
        self.id = spec.id
        self.config: Any = spec.config

    # Life -------------------------------------------------------------------------------------------------------------

    @abstractmethod
    def launch(self) -> Launched:
        """Make the sandbox run, or raise and leave nothing behind."""

    @abstractmethod
    def destroy(self, *, keep: bool) -> None:
        """Stop what runs and, unless ``keep``, take everything away; also where it is gone already, or was never there."""

    def settle(self) -> Mapping[str, Any]:
        """Return when all that was launched is ready, with further facts. A notebook's first kernel takes cells by then."""
        return {}

    @property
    def has_history(self) -> bool:
        """Whether what runs holds what an earlier run was to keep, so that a failed start must leave it."""
        return False

    @property
    def has_leftovers(self) -> bool:
        """Whether something may be there although nothing runs, for ``destroy(keep=False)`` to take away."""
        return False

    def pause(self) -> None:
        """Keep all that is in the sandbox from running until `resume`, or raise and leave it running.

        Raises:
            UnsupportedError: That cannot be done here, or by this backend at all.
        """
        raise UnsupportedError(
            f'sandbox {self.id}, of the kind {self.spec.kind}, cannot be paused; let it run, or stop it',
            details={'sandbox_id': self.id},
        )

    def resume(self) -> None:  # noqa: B027 - what cannot be paused need not be resumed
        """Let what `pause` has stopped continue."""

    # Looking ----------------------------------------------------------------------------------------------------------

    def find_problem(self) -> str | None:
        """Return why nothing can be run any more in a sandbox that should run, or None. Quick while all is well."""
        return None

    def recover(self) -> Launched | None:
        """Replace what executes requests, where that was lost and the sandbox itself continues; None where it cannot be.

        Called after `find_problem` has named a problem, by one thread at a time.
        """
        return None

    @property
    def own_processes(self) -> Sequence[Process]:
        """Programs that it runs in the sandbox itself: they are no calls, and are not ended with what calls have started."""
        return ()

    def memory_held(self) -> tuple[int, int]:
        """Return how many bytes of memory the sandbox holds that the kernel cannot reclaim, and its limit.

        (0, 0) where that is not known here; what executes requests may know it then.
        """
        return 0, 0

    def changeable_places(self) -> tuple[str, ...] | None:
        """Return every directory that is empty at the start and that programs can change; None if they can change other things
        too, so that only a new sandbox is as new."""
        return None

    # Kernels, for the kinds with notebooks ----------------------------------------------------------------------------

    @property
    def kernel_python(self) -> str:
        """The path, or name, in the sandbox of the Python that has ipykernel."""
        return 'python3'

    def explain_missing_kernel(self) -> str:
        """Return a sentence for a person on how to get ipykernel where `kernel_python` looks for it."""
        return 'The image needs ipykernel: install it there with pip, or use an image that has it'
