"""What somebody may have meant who wrote a name that there is not (layer: ground)."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable


def suggest(name: str, known: Iterable[str], *, missing: Collection[str] = (), is_only: bool = False) -> str | None:
    """Return the known name that was most likely meant, or None.

    Args:
        name: What was written.
        known: All names there are.
        missing: Those of them that had to be given and were not; one of these is meant rather than any other.
        is_only: It is the only unknown name, so that the only missing one must be meant, however unlike.
    """
    absent = list(missing)
    if is_only and len(absent) == 1 and len(name) > 1:
        return absent[0]
    for candidates in (absent, list(known)):
        near = difflib.get_close_matches(name, candidates, n=1)
        if near:
            return near[0]
        related = [each for each in candidates if _is_part(name, each)]
        if related:
            return min(related, key=len)
        parts = {word for each in candidates for word in each.split('_') if len(word) > 2}
        near = difflib.get_close_matches(name, parts, n=1, cutoff=0.8)  # ``memroy`` for ``memory_limit``
        if near:
            return min((each for each in candidates if near[0] in each.split('_')), key=len)
    return None


def did_you_mean(name: str, known: Collection[str], *, missing: Collection[str] = (), is_only: bool = False) -> str:
    """Return a clause for a message: the name that was meant, as a question, or all that there are."""
    meant = suggest(name, known, missing=missing, is_only=is_only)
    return f'did you mean {meant!r}?' if meant is not None else f'known: {", ".join(known) or "none"}'


def _is_part(short: str, name: str) -> bool:
    """Return whether a name is shortened to, or holds, another: ``cmd`` and ``path`` for ``command`` and ``file_path``."""
    if len(short) < 2 or not short.isascii():
        return False
    if short in name.split('_') or name.startswith(short):
        return True
    letters = iter(name)
    return len(short) > 2 and name[:1] == short[:1] and all(letter in letters for letter in short)
