"""Rows of figures and goals, printed as they are measured and kept for the report."""

from __future__ import annotations

from typing import Any

from attrs import define, field


@define
class Table:
    """One table of a part."""

    title: str
    rows: list[dict[str, Any]] = field(factory=list)

    def row(self, what: str, goal: str, measured: str, *, met: bool | None = None) -> None:
        """Add a row; ``met`` is None where there is no goal."""
        self.rows.append({'what': what, 'goal': goal, 'measured': measured, 'met': met})
        mark = '' if met is None else 'reached' if met else 'MISSED'
        print(f'    {what:<52} {measured:<60} {goal:<36} {mark}', flush=True)
