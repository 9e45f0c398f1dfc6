from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from enclave.cells import CellError, CellResult
from enclave.enums import ExecutionStatus
from enclave.errors import InvalidArgumentError, NotFoundError
from tests.unit.notebook.support import FakeNotebook

nbformat = pytest.importorskip('nbformat')

from enclave.sandboxes.notebook.document import NotebookDocument  # noqa: E402

FAILED = CellResult(
    status=ExecutionStatus.ERROR,
    outputs=[{'output_type': 'error', 'ename': 'E', 'evalue': 'v', 'traceback': ['t']}],
    error=CellError(name='E', value='v'),
)


def shown(text: str, **fields: Any) -> CellResult:
    output = {'output_type': 'display_data', 'data': {'text/plain': text}, 'metadata': {}}
    return CellResult(status=ExecutionStatus.SUCCESS, outputs=[output], **fields)


def make(*codes: str, tags: tuple[str, ...] = ()) -> NotebookDocument:
    document = NotebookDocument()
    for code in codes:
        document.add(code)
        document.node.cells[-1].metadata['tags'] = list(tags)
    return document


def test_a_session_is_written_as_a_valid_notebook(tmp_path: Path) -> None:
    document = NotebookDocument()
    notebook = FakeNotebook(
        CellResult(
            status=ExecutionStatus.SUCCESS,
            outputs=[
                {'output_type': 'stream', 'name': 'stdout', 'text': 'a\nb\n'},
                {'output_type': 'execute_result', 'data': {'text/plain': '2'}, 'metadata': {}, 'execution_count': 1},
            ],
            execution_count=1,
        ),
        FAILED,
    )
    document.add_markdown('# Title')
    document.run_cell(notebook, '1+1')
    document.run_cell(notebook, 'fail')

    document.save(tmp_path / 's.ipynb')

    node = nbformat.read(tmp_path / 's.ipynb', as_version=4)
    nbformat.validate(node)
    assert [cell.cell_type for cell in node.cells] == ['markdown', 'code', 'code']
    assert node.cells[1].outputs[1]['data'] == {'text/plain': '2'}
    assert node.metadata.kernelspec == {
        'name': 'python3',
        'display_name': 'Python 3 (ipykernel)',
        'language': 'python',
    }
    assert [path.name for path in tmp_path.iterdir()] == ['s.ipynb']


def test_a_run_ends_at_the_first_failure_and_clears_what_comes_after() -> None:
    document = make('a', 'b', 'c')
    document._put(2, shown('old'))

    results = document.run(FakeNotebook(shown('x'), FAILED))

    assert len(results) == 2
    assert document.node.cells[2].outputs == []


@pytest.mark.parametrize('how', ['argument', 'tag'])
def test_a_failure_that_is_allowed_does_not_end_the_run(how: str) -> None:
    document = make('a', 'b', tags=('raises-exception',) if how == 'tag' else ())

    results = document.run(FakeNotebook(FAILED), allow_errors=how == 'argument')

    assert len(results) == 2


def test_a_lost_kernel_always_ends_the_run_and_is_reported_in_the_notebook() -> None:
    lost = CellResult(status=ExecutionStatus.ERROR, state_lost='ended with exit code 3', error=CellError(name='K'))
    document = make('a', 'b')

    results = document.run(FakeNotebook(lost), allow_errors=True)

    assert len(results) == 1
    assert document.node.cells[0].outputs[0].ename == 'KernelDied'
    nbformat.validate(document.node)


@pytest.mark.parametrize(
    ('result', 'is_tolerated'),
    [
        (CellResult(status=ExecutionStatus.SUCCESS), True),
        (FAILED, True),
        (CellResult(status=ExecutionStatus.TIMEOUT, timed_out=True, error=CellError(name='KeyboardInterrupt')), False),
        (CellResult(status=ExecutionStatus.CANCELLED, error=CellError(name='KeyboardInterrupt')), False),
        (CellResult(status=ExecutionStatus.ERROR, state_lost='ended', error=CellError(name='KernelDied')), False),
    ],
)
@pytest.mark.parametrize('how', ['argument', 'tag'])
def test_only_what_a_cell_raises_itself_is_tolerated(how: str, result: CellResult, is_tolerated: bool) -> None:
    document = make('a', 'b', tags=('raises-exception',) if how == 'tag' else ())

    assert document.is_tolerated(0, result, allow_errors=how == 'argument') is is_tolerated
    assert len(document.run(FakeNotebook(result), allow_errors=how == 'argument')) == 1 + is_tolerated


def test_a_failure_that_nobody_allows_is_not_tolerated() -> None:
    assert not make('a').is_tolerated(0, FAILED)


def test_an_update_changes_the_earlier_cells_output() -> None:
    document = make('a', 'b')
    update = {'display_id': 'd', 'data': {'text/plain': 'new'}, 'metadata': {}}

    document.run(FakeNotebook(shown('old', display_ids={'d': [0]}), shown('x', display_updates=[update])))

    assert document.node.cells[0].outputs[0]['data'] == {'text/plain': 'new'}


JULIA = {'kernelspec': {'name': 'julia-1.9', 'display_name': 'Julia'}, 'language_info': {'name': 'julia'}}


def labelled(metadata: dict[str, Any]) -> NotebookDocument:
    document = make('1 + 1')
    document.node.metadata = nbformat.from_dict(metadata)
    return document


def test_a_notebook_of_another_language_is_refused_before_anything_runs() -> None:
    document, notebook = labelled(JULIA), FakeNotebook()
    document._put(0, shown('old'))

    with pytest.raises(NotFoundError, match=r"of the kind 'julia-1\.9', and the kernel 'default' is a 'python3'"):
        document.run(notebook)

    assert notebook.cells == []
    assert len(document.node.cells[0].outputs) == 1


def test_a_notebook_that_names_only_another_language_is_refused_too() -> None:
    with pytest.raises(NotFoundError, match='another language'):
        labelled({'language_info': {'name': 'julia'}}).run(FakeNotebook())


@pytest.mark.parametrize('name', ['Python', 'ipython3'])
def test_a_notebook_that_names_only_python_by_another_spelling_is_run(name: str) -> None:
    document = labelled({'language_info': {'name': name}})

    assert document.is_python
    assert len(document.run(FakeNotebook())) == 1


def test_a_kernel_that_is_named_runs_any_notebook_and_is_noted_in_it() -> None:
    document = labelled(JULIA)

    document.run(FakeNotebook(), kernel='default')

    assert document.kernel_name == 'python3'
    assert document.is_python
    assert 'language_info' not in document.node.metadata


@pytest.mark.parametrize(
    'metadata',
    [
        {'kernelspec': {'name': 'python3', 'display_name': 'Python 3'}},
        {'kernelspec': {'name': 'my-env', 'display_name': 'Mine', 'language': 'python'}},
        {'kernelspec': {'name': 'my-env', 'display_name': 'Mine', 'language': 'Python'}},
        {'kernelspec': {'name': 'my-env', 'display_name': 'Mine'}, 'language_info': {'name': 'ipython'}},
        {'kernelspec': {'name': 'my-env', 'display_name': 'Mine'}, 'language_info': {'name': 'python'}},
    ],
)
def test_a_python_notebook_runs_whatever_its_kernel_was_called_and_keeps_that_name(metadata: dict[str, Any]) -> None:
    document = labelled(metadata)

    document.run(FakeNotebook())

    assert document.node.metadata == metadata


def test_empty_cells_are_not_run() -> None:
    notebook = FakeNotebook()

    make('', '  ', 'x').run(notebook)

    assert [each['code'] for each in notebook.cells] == ['x']


def test_older_formats_are_brought_up(tmp_path: Path) -> None:
    old = {
        'metadata': {},
        'nbformat': 3,
        'nbformat_minor': 0,
        'worksheets': [{'cells': [{'cell_type': 'code', 'input': '1+1', 'language': 'python', 'outputs': []}]}],
    }
    (tmp_path / 'old.ipynb').write_text(json.dumps(old))

    document = NotebookDocument.load(tmp_path / 'old.ipynb')

    assert document.code_cells == [(0, '1+1')]


def test_a_file_without_a_format_number_is_of_the_first() -> None:
    cell = {'cell_type': 'code', 'code': '1+1', 'prompt_number': 1, 'language': 'python'}

    assert NotebookDocument.loads(json.dumps({'cells': [cell]})).code_cells == [(0, '1+1')]


@pytest.mark.parametrize('minor', range(6))
def test_a_notebook_of_any_minor_version_can_be_added_to(minor: int) -> None:
    cell = {'cell_type': 'code', 'source': '1', 'metadata': {}, 'outputs': [], 'execution_count': None}
    cell |= {'id': 'first'} if minor >= 5 else {}
    text = json.dumps({'cells': [cell], 'metadata': {}, 'nbformat': 4, 'nbformat_minor': minor})

    document = NotebookDocument.loads(text)
    document.add('2')
    again = NotebookDocument.loads(document.dumps())

    assert again.code_cells == [(0, '1'), (1, '2')]
    assert again.node.nbformat_minor == 5


def test_a_byte_order_mark_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / 'n.ipynb').write_text(make('1').dumps(), 'utf-8-sig')

    assert NotebookDocument.load(tmp_path / 'n.ipynb').code_cells == [(0, '1')]


def test_a_file_that_is_not_utf_8_is_refused_by_its_name(tmp_path: Path) -> None:
    (tmp_path / 'n.ipynb').write_bytes(make('\xe4').dumps().encode('latin-1'))

    with pytest.raises(InvalidArgumentError, match=r"n\.ipynb' is no notebook: it is not UTF-8"):
        NotebookDocument.load(tmp_path / 'n.ipynb')


def test_a_lone_surrogate_is_written_as_it_was_read(tmp_path: Path) -> None:
    document = make('\ud800')

    document.save(tmp_path / 'n.ipynb')

    assert NotebookDocument.load(tmp_path / 'n.ipynb').code_cells == [(0, '\ud800')]


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('', 'empty'),
        ('x = 1', 'no JSON object'),
        ('[]', 'no JSON object'),
        ('{}', ''),
        ('{"cells": 3, "nbformat": 4, "nbformat_minor": 5}', ''),
        ('{"cells": {}, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}', 'its cells are an object'),
    ],
)
def test_what_is_no_notebook_is_refused(text: str, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=f'is no notebook: .*{message}'):
        NotebookDocument.loads(text)


@pytest.mark.parametrize('ids', [[None, None], ['same', 'same'], ['same', None, 'same']])
@pytest.mark.filterwarnings('error')
def test_missing_and_repeated_cell_ids_are_repaired_without_a_warning(ids: list[str | None]) -> None:
    cells = [{'cell_type': 'markdown', 'source': str(n), 'metadata': {}} for n, _ in enumerate(ids)]
    for cell, cell_id in zip(cells, ids, strict=True):
        cell |= {} if cell_id is None else {'id': cell_id}
    text = json.dumps({'cells': cells, 'metadata': {}, 'nbformat': 4, 'nbformat_minor': 5})

    document = NotebookDocument.loads(text)

    found = [cell.id for cell in document.node.cells]
    assert len(set(found)) == len(ids)
    assert found[0] == ids[0] or ids[0] is None
    document.dumps()


@pytest.mark.parametrize(
    ('call', 'name'),
    [
        (lambda: NotebookDocument().add(None), 'code'),  # type: ignore[arg-type]
        (lambda: NotebookDocument().add_markdown(3), 'text'),  # type: ignore[arg-type]
        (lambda: NotebookDocument.load(None), 'path'),  # type: ignore[arg-type]
        (lambda: NotebookDocument().save(None), 'path'),  # type: ignore[arg-type]
        (lambda: NotebookDocument.loads(b'{}'), 'text'),  # type: ignore[arg-type]
    ],
)
def test_an_argument_that_is_no_text_is_named(call: Callable[[], object], name: str) -> None:
    with pytest.raises(InvalidArgumentError, match=f'^{name} must be'):
        call()


def test_a_file_that_cannot_be_written_is_named_as_it_was_given(tmp_path: Path) -> None:
    missing, taken = tmp_path / 'nope' / 'x.ipynb', tmp_path / 'taken.ipynb'
    taken.mkdir()

    with pytest.raises(FileNotFoundError, match='There is no directory') as caught:
        make('1').save(missing)
    assert caught.value.filename == str(missing)
    with pytest.raises(IsADirectoryError) as caught_too:
        make('1').save(taken)
    assert (caught_too.value.filename, caught_too.value.filename2) == (str(taken), None)
    assert list(tmp_path.iterdir()) == [taken]


def test_a_cell_tagged_skip_execution_is_not_run_and_keeps_its_outputs() -> None:
    document, notebook = make('a', 'b'), FakeNotebook()
    document._put(0, shown('kept'))
    document.node.cells[0].metadata['tags'] = ['skip-execution']

    document.run(notebook)

    assert [each['code'] for each in notebook.cells] == ['b']
    assert document.node.cells[0].outputs[0]['data'] == {'text/plain': 'kept'}
    assert document.cells_to_run == [(1, 'b')]


def test_an_update_and_a_display_of_the_same_cell_keep_their_order() -> None:
    document = make('a', 'b')
    update = {'display_id': 'd', 'data': {'text/plain': 'new'}, 'metadata': {}}

    document.run(
        FakeNotebook(shown('old', display_ids={'d': [0]}), shown('x', display_ids={'d': [0]}, display_updates=[update]))
    )

    assert [cell.outputs[0]['data']['text/plain'] for cell in document.node.cells] == ['new', 'x']


def test_what_a_kernel_sends_that_the_format_does_not_know_is_written_validly() -> None:
    document = make('a')
    output = {'output_type': 'display_data', 'data': {'e2b/chart': {'a': 1}}, 'metadata': {}}

    document.run(FakeNotebook(CellResult(status=ExecutionStatus.SUCCESS, outputs=[output])))

    nbformat.validate(json.loads(document.dumps()))


def test_widgets_that_a_skipped_cell_shows_keep_their_state() -> None:
    state = {
        'state': {'w': {'model_name': 'M', 'model_module': 'm', 'model_module_version': '1', 'state': {'value': 1}}}
    }
    view = {'output_type': 'display_data', 'data': {'application/vnd.jupyter.widget-view+json': {'model_id': 'w'}}}
    for tags, is_kept in ((['skip-execution'], True), ([], False)):
        document = make('a')
        document.node.cells[0].metadata['tags'] = tags
        document.node.cells[0].outputs = [nbformat.from_dict({**view, 'metadata': {}})]
        document.node.metadata['widgets'] = {'application/vnd.jupyter.widget-state+json': state}

        document.run(FakeNotebook())

        assert ('widgets' in document.node.metadata) is is_kept
