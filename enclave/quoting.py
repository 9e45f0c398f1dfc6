"""Values in messages (ground layer): quoted, and never so long that nobody finds the message."""

from __future__ import annotations

from typing import Any

QUOTED_CHARACTERS = 200
"""How much of a value a message quotes."""


def quoted(value: Any, limit: int = QUOTED_CHARACTERS) -> str:
    """Return a value's repr; of a long one its beginning and end, and how long it is; of one without any its type."""
    if isinstance(value, (str, bytes)) and len(value) > limit:
        # Not made whole first: it may be many megabytes, each byte of which takes four characters.
        half = limit // 2
        unit = 'characters' if isinstance(value, str) else 'bytes'
        return f'{value[:half]!r}...{value[-half // 2 :]!r} ({len(value)} {unit})'
    if isinstance(value, (list, tuple)) and len(value) > 20:
        return f'{quoted(value[:20], limit)} (the first 20 of {len(value)})'
    if isinstance(value, (list, tuple)) and any(isinstance(each, (str, bytes)) and len(each) > limit for each in value):
        return f'[{", ".join(quoted(each, limit) for each in value)}]'
    try:
        text = repr(value)
    except Exception:  # a number of thousands of digits (CPython's int_max_str_digits), or a class of somebody's
        bits = value.bit_length() if isinstance(value, int) else 0
        return f'a number of {bits} bits' if bits else f'a value of the type {type(value).__name__}'
    return text if len(text) <= 4 * limit else f'{text[: 2 * limit]}... ({len(text)} characters)'
