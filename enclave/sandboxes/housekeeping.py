"""What a backend can do beyond single sandboxes (layer 4): say whether it answers, and sweep what dead owners left.

A manager asks by kind of sandbox and knows no backend; which housekeeper a kind has, its descriptor says.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from enclave.enums import SandboxType
from enclave.sandboxes.kinds import find_kind, load


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


_registered: dict[str, Callable[[], Housekeeper]] = {}  # single reads and writes, so no lock


def register_housekeeper(sandbox_type: SandboxType | str, make: Callable[[], Housekeeper]) -> None:
    """Register what makes the housekeeper of a kind, in the place of the one that its descriptor names."""
    _registered[str(sandbox_type)] = make


def find_housekeeper(sandbox_type: SandboxType | str) -> Housekeeper | None:
    """Return the housekeeper of a kind of sandbox, or None where the kind has nothing to look after."""
    make = _registered.get(str(sandbox_type))
    if make is None:
        kind = find_kind(str(sandbox_type))
        make = None if kind is None else load(kind.housekeeper)
    return make() if make is not None else None
