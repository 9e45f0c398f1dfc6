"""Labels of sandboxes (layer 1): free names with values, to find again what belongs together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from enclave.errors import InvalidArgumentError
from enclave.quoting import quoted

MAX_LABELS = 64
MAX_CHARACTERS = 4096
"""How long names and values of all labels of a sandbox may be together."""


def check_labels(value: Any, name: str = 'labels') -> dict[str, str]:
    """Return labels as a dict of their own; None is none.

    Raises:
        InvalidArgumentError: They are not strings under names, or too many or too long.
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(each, str) for pair in value.items() for each in pair):
        raise InvalidArgumentError(f'{name} must be a dict of strings, like {{"job": "7"}}, not {quoted(value)}')
    if not all(value):
        raise InvalidArgumentError(f'{name} has a label without a name')
    size = sum(len(label) + len(text) for label, text in value.items())
    if len(value) > MAX_LABELS or size > MAX_CHARACTERS:
        raise InvalidArgumentError(
            f'{name} may be {MAX_LABELS}, of {MAX_CHARACTERS} characters together; these are {len(value)} and {size}'
        )
    return dict(value)


def has_labels(labels: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    """Return whether all that are wanted are among some labels, with the same values."""
    return all(labels.get(name) == text for name, text in wanted.items())
