"""What a backend can do beyond single sandboxes (floor 4): say whether it answers, and sweep what dead owners left.

A manager asks by kind of sandbox and knows no backend. A backend joins with one line below, or one `register_housekeeper`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from enclave.enums import SandboxType
from enclave.registry import Registry


class Housekeeper(Protocol):
    """A backend's housekeeping. Any thread may use it."""

    def check(self) -> None:
        """Return if the backend can make sandboxes.

        Raises:
            EnclaveError: It cannot; the message says why.
        """

    def sweep(self) -> list[str]:
        """Remove the sandboxes whose owner is provably dead and that nobody asked to keep; return their ids.

        Raises:
            EnclaveError: The backend does not answer.
        """


HOUSEKEEPERS: Registry[Callable[[], Housekeeper]] = Registry(
    {
        'bubblewrap': ('enclave.sandboxes.bubblewrap.sweep', 'BubblewrapHousekeeper'),
        'bubblewrap_notebook': ('enclave.sandboxes.bubblewrap.sweep', 'BubblewrapHousekeeper'),
        'docker': ('enclave.sandboxes.docker.sweep', 'DockerHousekeeper'),
        'docker_notebook': ('enclave.sandboxes.docker.sweep', 'DockerHousekeeper'),
    }
)


def register_housekeeper(sandbox_type: SandboxType | str, make: Callable[[], Housekeeper]) -> None:
    """Register what makes the housekeeper of a kind, in the place of any that is there."""
    HOUSEKEEPERS.register(str(sandbox_type), make)


def find_housekeeper(sandbox_type: SandboxType | str) -> Housekeeper | None:
    """Return the housekeeper of a kind of sandbox, or None where the kind has nothing to look after."""
    make = HOUSEKEEPERS.find(str(sandbox_type))
    return make() if make is not None else None
