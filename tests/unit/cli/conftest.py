from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from enclave.cli import options
from enclave.cli.main import cli
from tests.support.place import FakePlace


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakePlace:
    """The place that every command works in."""
    folder = tmp_path / 'sandbox'
    folder.mkdir()
    made = FakePlace(folder)
    monkeypatch.setattr(options, '_find_place', lambda url, api_key, local: made)
    return made


Invoke = Callable[..., Result]


@pytest.fixture
def invoke(place: FakePlace) -> Invoke:
    """Call the command line in this process; ``input`` is its standard input."""

    def call(*arguments: str, input: str | bytes | None = None) -> Result:
        return CliRunner().invoke(cli, arguments, input=input, prog_name='ms-enclave')

    return call
