"""Which kind of sandbox the notebook commands open, and how a run of a notebook ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from enclave.cells import CellError, CellResult
from enclave.cli.notebook import open_notebook
from enclave.enums import ExecutionStatus, SandboxType
from enclave.sandboxes import choice
from enclave.sandboxes.choice import Choice
from tests.support.place import FakePlace
from tests.unit.cli.conftest import Invoke
from tests.unit.notebook.support import FakeNotebook


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


# A run ----------------------------------------------------------------------------------------------------------------

OK = CellResult(status=ExecutionStatus.SUCCESS)
RAISED = CellResult(status=ExecutionStatus.ERROR, error=CellError(name='E', value='v'))
TIMED_OUT = CellResult(status=ExecutionStatus.TIMEOUT, timed_out=True, error=CellError(name='KeyboardInterrupt'))
DIED = CellResult(status=ExecutionStatus.ERROR, state_lost='ended', error=CellError(name='KernelDied'))


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A notebook of two cells, of which the second may fail."""
    pytest.importorskip('nbformat')
    from enclave.sandboxes.notebook.document import NotebookDocument

    document = NotebookDocument()
    document.add('1')
    document.add('2')
    document.node.cells[1].metadata['tags'] = ['raises-exception']
    document.save(tmp_path / 'study.ipynb')
    return tmp_path / 'study.ipynb'


def run(invoke: Invoke, place: FakePlace, study: Path, results: list[CellResult], *options: str) -> Result:
    place.sandbox = FakeNotebook(*results)  # type: ignore[assignment]
    return invoke('notebook', 'run', '--type', 'some', str(study), *options)


@pytest.mark.parametrize(
    ('results', 'options', 'code'),
    [
        ([OK, OK], (), 0),
        ([RAISED], (), 1),
        ([RAISED, OK], ('--allow-errors',), 0),
        ([OK, RAISED], (), 0),
        ([OK, TIMED_OUT], ('--allow-errors',), 1),
        ([OK, DIED], ('--allow-errors',), 1),
    ],
)
def test_a_run_fails_if_a_cell_fails_that_may_not(
    invoke: Invoke, place: FakePlace, study: Path, results: list[CellResult], options: tuple[str, ...], code: int
) -> None:
    assert run(invoke, place, study, results, *options).exit_code == code
