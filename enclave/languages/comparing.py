"""Whether a program printed what it should have."""

from __future__ import annotations

import math
from itertools import zip_longest

from enclave.languages.values import Comparison


def matches(output: str, expected: str, compare: Comparison = 'lines', tolerance: float = 1e-6) -> bool:
    """Return whether an output is the expected one; see `CodeRequest` for the ways to compare."""
    if compare == 'exact':
        return output == expected
    if compare == 'lines':
        return _lines(output) == _lines(expected)
    if compare == 'tokens':
        return output.split() == expected.split()
    return all(
        _are_near(one, other, tolerance) for one, other in zip_longest(output.split(), expected.split(), fillvalue=None)
    )


def _lines(text: str) -> list[str]:
    lines = [line.rstrip() for line in text.split('\n')]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def _are_near(one: str | None, other: str | None, tolerance: float) -> bool:
    if one == other:
        return True
    if one is None or other is None:
        return False
    try:
        number, wanted = float(one), float(other)
    except ValueError:
        return False
    if '_' in one or '_' in other:  # Python's own way to write numbers, which no program prints
        return False
    if not (math.isfinite(number) and math.isfinite(wanted)):
        return number == wanted or (math.isnan(number) and math.isnan(wanted))
    return abs(number - wanted) <= tolerance * max(1.0, abs(wanted))
