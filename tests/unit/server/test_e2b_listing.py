from __future__ import annotations

from typing import Any, cast

import pytest

from enclave.errors import InvalidArgumentError
from enclave.records import PathInfo
from enclave.server.adapters.e2b.filesystem import MOST_PATHS, _walk


class FakeSandbox:
    """Every directory has two entries of the same long names: a directory and a file."""

    def __init__(self, length: int) -> None:
        self.name = 'x' * length

    def list_dir(self, path: str, *, max_entries: int) -> list[PathInfo]:
        kinds = {'d': 'directory', 'f': 'file'}
        return [
            PathInfo(path=f'{letter}{self.name}', kind=cast(Any, kind), size=0, mode=0)
            for letter, kind in kinds.items()
        ]


def test_a_listing_goes_as_deep_as_it_is_asked_to() -> None:
    found = _walk(cast(Any, FakeSandbox(1)), '/a', 2, 100)

    assert [info.path for info in found] == ['/a/dx', '/a/dx/dx', '/a/dx/fx', '/a/fx']


def test_paths_that_a_guest_makes_long_are_not_listed_without_end() -> None:
    with pytest.raises(InvalidArgumentError, match='too long'):
        _walk(cast(Any, FakeSandbox(MOST_PATHS // 100)), '/a', 100, 1000)
