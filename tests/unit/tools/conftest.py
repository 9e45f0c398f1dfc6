from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from enclave.tools import tool_factory
from tests.support.workspace import FakeWorkspace


@pytest.fixture
def workspace(tmp_path: Path) -> FakeWorkspace:
    return FakeWorkspace(tmp_path)


@pytest.fixture(autouse=True)
def _own_registry() -> Iterator[None]:
    """What a test registers is gone after it."""
    before = dict(tool_factory.TOOLS.registered)
    yield
    tool_factory.TOOLS.registered.clear()
    tool_factory.TOOLS.registered.update(before)
