"""Which kind of sandbox the notebook commands open, how a run of a notebook ends, and what a session survives."""

from __future__ import annotations

import builtins
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from enclave.cancellation import on_cancel
from enclave.cells import CellError, CellResult, Completion
from enclave.cli.notebook import open_notebook
from enclave.enums import ExecutionStatus, SandboxType
from enclave.errors import OperationTimeoutError
from enclave.sandboxes import choice
from enclave.sandboxes.choice import Choice
from enclave.sandboxes.notebook.sandbox import ASK_SECONDS, check_cell
from tests.support.place import FakePlace
from tests.unit.cli.conftest import Invoke
from tests.unit.notebook.support import FakeNotebook


def opened(place: FakePlace, sandbox_type: str | None, **options: Any) -> str:
    """Return the kind of sandbox that was opened, and then was gone."""
    with open_notebook(place, sandbox_type, options):
        pass
    (_, kind, config), after = place.calls
    assert config == {'timeout': place.max_timeout, **options}
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


def test_cells_may_run_as_long_as_the_place_allows_unless_one_says_otherwise(place: FakePlace) -> None:
    place.max_timeout = 10.0

    assert opened(place, 'some') == 'some'
    place.calls.clear()
    assert opened(place, 'some', timeout=5) == 'some'


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


def test_a_kind_of_kernel_that_is_named_is_noted_in_the_notebook(invoke: Invoke, place: FakePlace, study: Path) -> None:
    from enclave.sandboxes.notebook.document import NotebookDocument

    document = NotebookDocument.load(study)
    document.node.metadata['kernelspec'] = {'name': 'julia-1.9', 'display_name': 'Julia'}
    document.save(study)

    refused = run(invoke, place, study, [])
    chosen = run(invoke, place, study, [], '--kernel', 'python3', '-o', str(study.parent / 'done.ipynb'))

    assert (refused.exit_code, chosen.exit_code) == (1, 0)
    assert "'julia-1.9'" in str(refused.exception or refused.stderr)
    assert NotebookDocument.load(study.parent / 'done.ipynb').kernel_name == 'python3'


class InterruptedNotebook(FakeNotebook):
    """Runs a cell until it is cancelled, and has this process reported to end meanwhile."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def execute_cell(self, code: str, timeout: float | None = None, **options: Any) -> CellResult:
        """Report a cell that was interrupted."""
        super().execute_cell(code, timeout, **options)
        cancelled = threading.Event()
        with on_cancel(cancelled.set):
            signal.raise_signal(self.number)
            assert cancelled.wait(60)
        error = {'output_type': 'error', 'ename': 'KeyboardInterrupt', 'evalue': '', 'traceback': []}
        outputs = [{'output_type': 'stream', 'name': 'stdout', 'text': 'so far\n'}, error]
        return CellResult(status=ExecutionStatus.CANCELLED, text='so far\n', outputs=outputs)


@pytest.mark.parametrize(('number', 'code'), [(signal.SIGINT, 1), (signal.SIGTERM, 143)])
def test_a_run_that_is_asked_to_end_keeps_what_its_cell_did_so_far(
    invoke: Invoke, place: FakePlace, study: Path, number: int, code: int
) -> None:
    from enclave.sandboxes.notebook.document import NotebookDocument

    place.sandbox = InterruptedNotebook(number)  # type: ignore[assignment]
    before = signal.getsignal(number)

    result = invoke('notebook', 'run', '--type', 'some', str(study), '-o', str(study.parent / 'done.ipynb'))

    assert result.exit_code == code  # of Ctrl-C, main makes 130
    assert result.stdout == 'so far\n'
    cells = NotebookDocument.load(study.parent / 'done.ipynb').node.cells
    assert [each.output_type for each in cells[0].outputs] == ['stream', 'error']
    assert cells[1].outputs == []
    assert len(place.sandbox.cells) == 1  # type: ignore[attr-defined]
    assert place.calls[-1] == ('gone',)
    assert signal.getsignal(number) is before


def test_without_a_time_limit_the_sandboxs_own_holds(invoke: Invoke, place: FakePlace, study: Path) -> None:
    run(invoke, place, study, [])
    assert [cell['timeout'] for cell in place.sandbox.cells] == [None, None]  # type: ignore[attr-defined]

    run(invoke, place, study, [], '-t', '0')
    assert [cell['timeout'] for cell in place.sandbox.cells] == [0, 0]  # type: ignore[attr-defined]


@pytest.mark.parametrize('output', ['nowhere/done.ipynb', 'study.ipynb/done.ipynb'])
def test_an_output_that_cannot_be_written_is_reported_before_anything_runs(
    invoke: Invoke, place: FakePlace, study: Path, output: str
) -> None:
    result = run(invoke, place, study, [], '-o', str(study.parent / output))

    assert result.exit_code == 2
    assert 'cannot be written' in result.stderr
    assert place.calls == []


def test_the_notebook_goes_to_standard_output_and_what_cells_print_to_standard_error(
    invoke: Invoke, place: FakePlace, study: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from enclave.sandboxes.notebook.document import NotebookDocument

    monkeypatch.chdir(tmp_path)
    output = {'output_type': 'stream', 'name': 'stdout', 'text': 'é\n'}
    reported = CellResult(status=ExecutionStatus.SUCCESS, text='é\n', outputs=[output])

    result = run(invoke, place, study, [reported], '-o', '-')

    assert result.exit_code == 0
    assert NotebookDocument.loads(result.stdout).node.cells[0].outputs == [output]
    assert result.stderr == 'é\n'
    assert not Path('-').exists()
    assert run(invoke, place, study, [], '-o', '-', '--json').exit_code == 2


def test_what_a_cell_prints_steers_no_terminal(invoke: Invoke, place: FakePlace, study: Path) -> None:
    hostile = 'a\x1b]0;title\x07b\x1b[31mc\x9d52;c;x\x9c\x1b]52;c;\td\n'
    reported = CellResult(status=ExecutionStatus.SUCCESS, text=hostile, stderr=hostile)

    result = run(invoke, place, study, [reported])

    for text in (result.stdout, result.stderr):
        assert text == 'abc52;c;x52;c;\td\n'


# Typing ---------------------------------------------------------------------------------------------------------------

PICTURE = {'output_type': 'display_data', 'data': {'image/svg+xml': '<svg/>', 'text/plain': 'svg'}, 'metadata': {}}


class FakeSession(FakeNotebook):
    """Shows a picture in every cell; completes nothing in time, and keeps how long it was given."""

    id = 'fake'

    def __init__(self, *, is_slow: bool = False) -> None:
        super().__init__()
        self.is_slow = is_slow
        self.asked: list[float] = []

    def check_complete(self, code: str) -> tuple[str, str]:
        check_cell(code, None)
        return 'complete', ''

    def stream_cell(self, code: str, timeout: float | None = None, *, allow_input: bool = False) -> Iterator[Any]:
        check_cell(code, None)
        self.cells.append({'code': code, 'timeout': timeout})

        def steps() -> Iterator[Any]:
            yield PICTURE
            yield OK

        return steps()

    def complete_code(self, code: str, cursor: int, *, timeout: float) -> Completion:
        self.asked.append(timeout)
        if self.is_slow:
            raise OperationTimeoutError('too slow')
        return Completion(matches=['print'], start=0, end=cursor)


@pytest.fixture
def session(place: FakePlace) -> FakeSession:
    made = FakeSession()
    place.sandbox = made  # type: ignore[assignment]
    return made


def test_what_cannot_be_written_does_not_end_a_session(invoke: Invoke, session: FakeSession, tmp_path: Path) -> None:
    pytest.importorskip('nbformat')
    (tmp_path / 'file').touch()
    typed = f'1\n:save {tmp_path}/nowhere/s.ipynb\n:save {tmp_path}/file/\0\n2\n:save {tmp_path}/s.ipynb\n'

    result = invoke('repl', '--type', 'some', '--pictures', str(tmp_path / 'file' / 'pictures'), input=typed)

    assert result.exit_code == 0, result.output
    assert [cell['code'] for cell in session.cells] == ['1', '2']
    assert result.stderr.count('the picture was not written') == 2
    assert result.stderr.count("' was not written") == 2
    assert 'wrote 2 cells' in result.stderr


def test_code_that_is_no_text_does_not_end_a_session(
    invoke: Invoke, session: FakeSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = ['\ud800', '2', ':quit']
    monkeypatch.setattr(builtins, 'input', lambda prompt: lines.pop(0))

    result = invoke('repl', '--type', 'some')

    assert result.exit_code == 0, result.output
    assert 'lone surrogate' in result.stderr
    assert [cell['code'] for cell in session.cells] == ['2']


def test_bytes_that_are_no_text_do_not_end_a_session(
    invoke: Invoke, session: FakeSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed = [b'\xff', b'2', b':quit']
    monkeypatch.setattr(builtins, 'input', lambda prompt: typed.pop(0).decode())

    result = invoke('repl', '--type', 'some')

    assert 'not utf-8 text' in result.stderr
    assert [cell['code'] for cell in session.cells] == ['2']


def test_the_first_completion_has_more_time_than_later_ones(
    invoke: Invoke, session: FakeSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    readline = pytest.importorskip('readline')
    completers: list[Callable[[str, int], str | None]] = []
    monkeypatch.setattr(readline, 'set_completer', completers.append)
    monkeypatch.setattr(readline, 'get_line_buffer', lambda: 'pri')
    monkeypatch.setattr(readline, 'get_begidx', lambda: 0)
    monkeypatch.setattr(readline, 'get_endidx', lambda: 3)
    invoke('repl', '--type', 'some', input=':quit\n')
    (complete,) = completers

    session.is_slow = True
    assert complete('pri', 0) is None
    session.is_slow = False
    assert complete('pri', 0) == 'print'
    assert complete('pri', 0) == 'print'

    assert session.asked == [ASK_SECONDS, ASK_SECONDS, 2.0]
