from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from enclave.tools import registry
from tests.support.workspace import FakeWorkspace


@pytest.fixture
def workspace(tmp_path: Path) -> FakeWorkspace:
    return FakeWorkspace(tmp_path)


@pytest.fixture(autouse=True)
def _own_registry() -> Iterator[None]:
    """What a test registers is gone after it."""
    before = dict(registry.TOOLS.registered)
    yield
    registry.TOOLS.registered.clear()
    registry.TOOLS.registered.update(before)
