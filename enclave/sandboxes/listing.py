"""How much of a directory is listed (layer: sandboxes): a sandbox is not trusted to have few files, or short names.

Without ``max_entries`` a directory of more than `LISTED_ENTRIES` is refused by an error that says how to have more; with it, that
many are returned, and never more, whatever the sandbox sends. Names may take `LISTED_CHARACTERS`, or `CHARACTERS_EACH` for each
entry that was asked for, where that is more.
"""

from __future__ import annotations

import errno

from enclave.errors import SandboxPathError
from enclave.quoting import quoted
from enclave.records import PathInfo
from enclave.verb_requests import ListDir

LISTED_ENTRIES = 100_000
"""How many entries are listed where nobody says how many."""
LISTED_CHARACTERS = 64 << 20
CHARACTERS_EACH = 640


class Listing:
    """The entries of a directory as they come, no more than may be held."""

    def __init__(self, request: ListDir) -> None:
        self._path = request.path
        self._asked = request.max_entries
        self._room = max(LISTED_CHARACTERS, CHARACTERS_EACH * (request.max_entries or 0))
        self._entries: list[PathInfo] = []

    @property
    def is_full(self) -> bool:
        """Whether there are as many as were asked for."""
        return self._asked is not None and len(self._entries) >= self._asked

    @property
    def wanted(self) -> int:
        """How many entries the sandbox is asked for: one more than may come where too many are an error."""
        return LISTED_ENTRIES + 1 if self._asked is None else self._asked

    def add(self, entry: PathInfo) -> None:
        """Take an entry; one that is beyond those asked for is left out.

        Raises:
            SandboxPathError: There are too many, or their names are too long together.
        """
        if self.is_full:
            return
        if self._asked is None and len(self._entries) >= LISTED_ENTRIES:
            raise SandboxPathError(
                f'{quoted(self._path)} has more than {LISTED_ENTRIES} entries; list parts of it, or pass max_entries=N to have N '
                'of them, whatever N is',
                details={'max_entries': LISTED_ENTRIES, 'errno': errno.E2BIG},
            )
        self._room -= len(entry.path) + len(entry.target or '')
        if self._room < 0:
            raise SandboxPathError(
                f'the names in {quoted(self._path)} are too long to be listed together; list parts of it, or pass a smaller '
                'max_entries',
                details={'max_entries': self._asked, 'errno': errno.E2BIG},
            )
        self._entries.append(entry)

    def sorted(self) -> list[PathInfo]:
        """Return what was taken, sorted by path."""
        return sorted(self._entries, key=lambda entry: entry.path)
