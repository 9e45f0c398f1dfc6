"""Which rows of the documented API a test is about."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

F = TypeVar('F', bound=Callable[..., object])

COVERED: dict[int, dict[str, list[str]]] = {}
"""``{section: {row: names of tests}}``. A row is named by the beginning of its first cell, without marks."""


def covers(section: int, *rows: str) -> Callable[[F], F]:
    """Return a decorator that says of a test which rows of a section it is about."""

    def note(test: F) -> F:
        for row in rows:
            COVERED.setdefault(section, {}).setdefault(row, []).append(test.__name__)
        return test

    return note
