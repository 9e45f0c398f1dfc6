"""Housekeeping for bubblewrap sandboxes (sandboxes layer): what owners that were killed have left.

The kernel ends such an owner's sandboxes with it. What can stay are their control groups.
"""

from __future__ import annotations

from enclave.sandboxes.bubblewrap import cgroups
from enclave.sandboxes.bubblewrap.bwrap import find_program
from enclave.sandboxes.bubblewrap.seccomp import get_filter


class BubblewrapHousekeeper:
    """The housekeeping of all bubblewrap sandboxes of this machine."""

    def check(self) -> None:
        """Return if there is what sandboxes are made with.

        Raises:
            UnsupportedError: There is no bubblewrap, or no library for the filter.
        """
        find_program()
        get_filter()

    def sweep(self) -> list[str]:
        """Remove the control groups that dead owners left, and return their sandboxes' ids."""
        found = cgroups.find_cgroups()
        return sorted({*cgroups.sweep_groups(found)}) if found.parents else []
