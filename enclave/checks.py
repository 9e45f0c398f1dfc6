"""What is looked at on a machine, and what a kind of sandbox says about it (layer 1); see `enclave.doctor`."""

from __future__ import annotations

from typing import Literal, Protocol

from attrs import frozen

from enclave.records import Model


@frozen(kw_only=True)
class Check(Model):
    """One thing that was looked at.

    ``status`` is ``ok``, ``warning`` (something works less well than it could), ``failed``, or ``skipped`` (another check has to
    pass first). ``remedy`` is the command, or the action, that mends it; None when nothing is to be done.
    """

    name: str
    status: Literal['ok', 'warning', 'failed', 'skipped']
    summary: str
    remedy: str | None = None
    required: bool = False


def ok(name: str, summary: str, *, required: bool = False) -> Check:
    """Return a check that went well."""
    return Check(name=name, status='ok', summary=summary, required=required)


def warning(name: str, summary: str, remedy: str, *, required: bool = False) -> Check:
    """Return a check of something that works less well than it could."""
    return Check(name=name, status='warning', summary=summary, remedy=remedy, required=required)


def failed(name: str, summary: str, remedy: str, *, required: bool = False) -> Check:
    """Return a check that failed."""
    return Check(name=name, status='failed', summary=summary, remedy=remedy, required=required)


class Examiner(Protocol):
    """What a kind of sandbox needs of a machine, and whether it is there. Nothing is changed by looking.

    Attributes:
        yes: A clause that says that such sandboxes can be made here, like ``'an engine answers'``.
        no: A clause that says that they cannot.
    """

    yes: str
    no: str

    def examine(self, base_url: str | None) -> list[Check]:
        """Look at everything; takes a second at most.

        Args:
            base_url: The address of an engine, where the kind has one; None chooses it as the library does.
        """

    def is_there(self, checks: list[Check]) -> bool:
        """Return whether sandboxes of the kind would be chosen, given all checks."""

    def can_run(self, checks: list[Check]) -> bool:
        """Return whether code can run in sandboxes of the kind, given all checks."""

    def find_notebooks(self, checks: list[Check]) -> tuple[bool, str]:
        """Return whether the notebook kind that goes with it can be had, and a clause that says on what it stands, or what is
        missing."""


def by_name(checks: list[Check]) -> dict[str, Check]:
    """Return checks by their names."""
    return {each.name: each for each in checks}


def is_ok(checks: list[Check], name: str) -> bool:
    """Return whether the check of a name is there and well."""
    found = by_name(checks).get(name)
    return found is not None and found.status == 'ok'
