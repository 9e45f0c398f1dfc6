"""How much of a directory is taken from a sandbox, which may send what it likes."""

from __future__ import annotations

import pytest

from enclave.errors import SandboxPathError
from enclave.records import PathInfo
from enclave.sandboxes import listing
from enclave.sandboxes.listing import Listing
from enclave.verb_requests import ListDir


def entry(path: str) -> PathInfo:
    return PathInfo(path=path, kind='file')


def test_no_more_is_taken_than_was_asked_for() -> None:
    found = Listing(ListDir(path='x', max_entries=3))
    for number in range(100):
        found.add(entry(f'{number:03}'))

    assert found.wanted == 3
    assert [each.path for each in found.sorted()] == ['000', '001', '002']


def test_without_a_number_too_many_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, 'LISTED_ENTRIES', 3)
    found = Listing(ListDir(path='x'))

    assert found.wanted == 4
    for number in range(3):
        found.add(entry(str(number)))
    with pytest.raises(SandboxPathError, match="'x' has more than 3 entries"):
        found.add(entry('one more'))


def test_long_names_are_an_error_whatever_was_asked_for() -> None:
    found = Listing(ListDir(path='x', max_entries=50_000))

    def add_all() -> None:
        for number in range(50_000):
            found.add(entry(f'{number}{"x" * 4000}'))

    with pytest.raises(SandboxPathError, match='too long'):
        add_all()
