"""Tests of the bubblewrap backend alone: what the conformance suite, which knows no backend, cannot ask."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from enclave.sandboxes.bubblewrap.sandbox import BubblewrapSandbox
from enclave.testing.plugin import SharedSandbox
from tests.support.backends import starting
from tests.support.host import reachable_directory


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if 'tests/bubblewrap/' in item.path.as_posix():
            item.add_marker(pytest.mark.bubblewrap)


@pytest.fixture
def start() -> Iterator[Callable[..., BubblewrapSandbox]]:
    """Start a sandbox; stopped at the end of the test."""
    with starting(lambda **options: BubblewrapSandbox(options)) as start:
        yield start


@pytest.fixture
def reachable_path() -> Iterator[Path]:
    """A directory of the test's own that every user can reach."""
    with reachable_directory() as place:
        yield place


@pytest.fixture(scope='module')
def shared_sandbox() -> Iterator[SharedSandbox[BubblewrapSandbox]]:
    """What `sandbox` is taken from."""
    with contextlib.closing(SharedSandbox(lambda: BubblewrapSandbox({'memory_limit': '256m'}))) as shared:
        yield shared


@pytest.fixture
def sandbox(shared_sandbox: SharedSandbox[BubblewrapSandbox]) -> BubblewrapSandbox:
    """One running sandbox with nothing special about it."""
    return shared_sandbox.get()
