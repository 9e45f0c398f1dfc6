"""Which kind of sandbox the notebook commands open."""

from __future__ import annotations

from typing import Any

import pytest

from enclave.cli.notebook import open_notebook
from enclave.enums import SandboxType
from enclave.sandboxes import choice
from enclave.sandboxes.choice import Choice
from tests.support.place import FakePlace


def opened(place: FakePlace, sandbox_type: str | None, **options: Any) -> str:
    """Return the kind of sandbox that was opened, and then was gone."""
    with open_notebook(place, sandbox_type, options):
        pass
    (_, kind, config), after = place.calls
    assert config == options
    assert after == ('gone',)
    return str(kind)


def test_without_a_type_the_machine_decides(
    place: FakePlace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(choice, 'choose_backend', lambda: Choice(SandboxType.BUBBLEWRAP, 'no engine answers'))

    assert opened(place, None, memory_limit='1g') == 'bubblewrap_notebook'
    assert capsys.readouterr().err == 'ms-enclave: a bubblewrap_notebook sandbox, since no engine answers\n'


@pytest.mark.parametrize(('name', 'kind'), [('bubblewrap', 'bubblewrap_notebook'), ('my_kind', 'my_kind')])
def test_a_type_that_is_named_is_taken(
    place: FakePlace, name: str, kind: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(choice, 'choose_backend', lambda: pytest.fail('nobody should be asked'))

    assert opened(place, name) == kind
    assert capsys.readouterr().err == ''


def test_a_server_is_asked_for_docker_whatever_this_machine_has(
    place: FakePlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, 'choose_backend', lambda: pytest.fail('this machine does not matter'))
    place.is_remote = True

    assert opened(place, None) == 'docker_notebook'
