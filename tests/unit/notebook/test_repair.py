"""Files that Jupyter's tools run, although their schema refuses them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enclave.errors import InvalidArgumentError
from enclave.sandboxes.notebook.repair import repair

nbformat = pytest.importorskip('nbformat')

from enclave.sandboxes.notebook.document import NotebookDocument  # noqa: E402


def code(**fields: Any) -> dict[str, Any]:
    whole = {'cell_type': 'code', 'id': 'a', 'metadata': {}, 'source': '1', 'outputs': [], 'execution_count': None}
    return {**whole, **fields}


def without(name: str, **fields: Any) -> dict[str, Any]:
    return {key: value for key, value in code(**fields).items() if key != name}


def notebook(*cells: Any, **fields: Any) -> dict[str, Any]:
    return {'cells': list(cells), 'metadata': {}, 'nbformat': 4, 'nbformat_minor': 5, **fields}


def old(major: int, *cells: Any, **fields: Any) -> dict[str, Any]:
    whole = {'metadata': {'name': 'x'}, 'nbformat': major, 'nbformat_minor': 0, 'worksheets': [{'cells': list(cells)}]}
    return {**whole, **fields}


def loaded(found: Any) -> NotebookDocument:
    """Load it; what comes of it is valid, and is read again with nothing to repair."""
    document = NotebookDocument.loads(json.dumps(found))
    assert NotebookDocument.loads(document.dumps()).repairs == []
    return document


def test_a_valid_notebook_is_left_as_it_is() -> None:
    whole = notebook(
        code(
            metadata={'tags': ['a'], 'collapsed': True},
            outputs=[{'output_type': 'stream', 'name': 'stdout', 'text': 'x'}],
        ),
        {
            'cell_type': 'markdown',
            'id': 'b',
            'metadata': {},
            'source': 'x',
            'attachments': {'a.png': {'image/png': 'AA=='}},
        },
        metadata={
            'kernelspec': {'name': 'python3', 'display_name': 'Python 3'},
            'language_info': {'name': 'python'},
            'anything': [1, {'a': None}],
        },
    )

    assert repair(json.loads(json.dumps(whole))) == (whole, [])


@pytest.mark.parametrize(
    ('cell', 'message'),
    [
        (without('execution_count'), 'there was no execution_count'),
        (without('outputs'), 'there were no outputs'),
        (without('metadata'), 'metadata was missing'),
        (without('id'), 'there was no id'),
        (without('source'), 'there was no source'),
        (without('cell_type'), 'there was no cell_type; it became code'),
        (code(id='has a blank'), 'the id was not valid'),
        (code(id='x' * 65), 'the id was not valid'),
        (code(id=None), 'the id was not valid'),
        (code(id=7), 'the id was not valid'),
        (code(unknown=1), "the unknown key 'unknown' was moved into metadata"),
        (code(metadata={'tags': 'skip-execution'}), 'tags were not a list'),
        (code(metadata={'tags': ['a', 'a', 3]}), 'tags were not a list'),
        (code(metadata={'tags': None}), 'tags were not a list'),
        (code(metadata=None), 'metadata was null'),
        (code(metadata=[]), 'metadata was a list'),
        (code(metadata={'collapsed': 'true'}), "metadata 'collapsed' was a text and was left out"),
        (code(metadata={'execution': {'iopub.status.busy': 3}}), "metadata 'execution' was an object"),
        (code(metadata={'jupyter': None}), "metadata 'jupyter' was null"),
        (code(metadata={'name': 'a\nb'}), "metadata 'name' was a text and was left out"),
        (code(source=None), 'the source was null'),
        (code(source=7), 'the source was a number and became text'),
        (code(source=['1', None, '\n', 2]), 'the source held more than lines of text'),
        (code(execution_count='3'), 'execution_count was no whole number'),
        (code(execution_count=True), 'execution_count was no whole number'),
        (code(execution_count=1.5), 'execution_count was no whole number'),
        (code(outputs=None), 'outputs were null, not a list'),
        (code(outputs={'output_type': 'stream', 'name': 'stdout', 'text': ''}), 'outputs were an object'),
        (code(attachments={'a': {'image/png': ''}}), "the unknown key 'attachments' was moved into metadata"),
        (code(cell_type='script'), 'the cell_type "script" is unknown; it became raw'),
        (code(cell_type=None), 'the cell_type null is unknown; it became code'),
    ],
)
def test_a_cell_is_repaired_and_the_report_says_what_was(cell: dict[str, Any], message: str) -> None:
    document = loaded(notebook(code(id='first'), cell))

    assert document.repairs[0].startswith(f'cell 2: {message}')


@pytest.mark.parametrize(
    ('output', 'message', 'becomes'),
    [
        (
            {'output_type': 'stream', 'text': 'x'},
            'a stream had no name and became stdout',
            {'output_type': 'stream', 'name': 'stdout', 'text': 'x'},
        ),
        (
            {'output_type': 'stream', 'name': 'stderr'},
            'a stream had no text',
            {'output_type': 'stream', 'name': 'stderr', 'text': ''},
        ),
        (
            {'output_type': 'display_data', 'data': {'text/plain': 'x'}},
            'metadata of an output was missing',
            {'output_type': 'display_data', 'data': {'text/plain': 'x'}, 'metadata': {}},
        ),
        (
            {'output_type': 'display_data', 'metadata': {}},
            'an output had no data',
            {'output_type': 'display_data', 'data': {}, 'metadata': {}},
        ),
        (
            {'output_type': 'execute_result', 'data': {'text/plain': 'x'}, 'metadata': {}},
            'a result had no execution_count',
            {'output_type': 'execute_result', 'data': {'text/plain': 'x'}, 'metadata': {}, 'execution_count': None},
        ),
        (
            {'output_type': 'pyout', 'prompt_number': 2, 'text': ['x'], 'metadata': {}, 'execution_count': 2},
            "an output was of the type 'pyout' of older formats",
            {'output_type': 'execute_result', 'data': {'text/plain': 'x'}, 'metadata': {}, 'execution_count': 2},
        ),
        (
            {'output_type': 'error'},
            'an error had no ename',
            {'output_type': 'error', 'ename': '', 'evalue': '', 'traceback': []},
        ),
        (
            {'output_type': 'error', 'ename': 'E', 'evalue': 'v', 'traceback': 'a\nb'},
            'the traceback of an error was one text',
            {'output_type': 'error', 'ename': 'E', 'evalue': 'v', 'traceback': ['a', 'b']},
        ),
        (
            {'output_type': 'odd', 'data': {'text/plain': 'x'}, 'metadata': {}},
            'an output was of the unknown type "odd" and became display_data',
            {'output_type': 'display_data', 'data': {'text/plain': 'x'}, 'metadata': {}},
        ),
        ({'output_type': 'odd'}, 'an output was of the unknown type "odd" and was left out', None),
        (None, 'an output was null and was left out', None),
        (
            {'output_type': 'display_data', 'data': [{'text/plain': 'x'}, {'text/html': 'y'}], 'metadata': {}},
            'the data of an output were a list and were joined',
            {'output_type': 'display_data', 'data': {'text/plain': 'x', 'text/html': 'y'}, 'metadata': {}},
        ),
        (
            {'output_type': 'display_data', 'data': {'text/plain': {'a': 1}, 'text/html': None}, 'metadata': {}},
            "'text/plain' of an output was an object and became text",
            {'output_type': 'display_data', 'data': {'text/plain': '{"a": 1}'}, 'metadata': {}},
        ),
        (
            {'output_type': 'display_data', 'data': {'application/json': [float('nan')]}, 'metadata': {}},
            'a number that JSON does not have',
            {'output_type': 'display_data', 'data': {'application/json': [None]}, 'metadata': {}},
        ),
        (
            {'output_type': 'stream', 'name': 'stdout', 'text': 'x', 'transient': {}},
            "the unknown key 'transient' of an output was left out",
            {'output_type': 'stream', 'name': 'stdout', 'text': 'x'},
        ),
    ],
)
def test_an_output_is_repaired_and_the_report_says_what_was(
    output: Any, message: str, becomes: dict[str, Any] | None
) -> None:
    document = loaded(notebook(code(outputs=[output])))

    assert document.node.cells[0].outputs == ([] if becomes is None else [becomes])
    assert document.repairs[0].startswith(f'cell 1: {message}')


@pytest.mark.parametrize(
    ('metadata', 'becomes'),
    [
        ({'kernelspec': {}}, {}),
        ({'kernelspec': None}, {}),
        (
            {'kernelspec': {'name': 'python3'}},
            {'kernelspec': {'name': 'python3', 'display_name': 'python3'}},
        ),
        (
            {'kernelspec': {'language': 'python'}},
            {'kernelspec': {'name': 'python3', 'display_name': 'python3', 'language': 'python'}},
        ),
        ({'kernelspec': {'language': 'R'}}, {'language_info': {'name': 'R'}}),
        ({'language_info': {}}, {}),
        ({'language_info': {'name': 'python', 'codemirror_mode': 3}}, {}),
        ({'authors': 'me'}, {}),
        ({'orig_nbformat': 2}, {}),
        (None, {}),
    ],
)
def test_metadata_is_repaired(metadata: Any, becomes: dict[str, Any]) -> None:
    assert loaded(notebook(code(), metadata=metadata)).node.metadata == becomes


@pytest.mark.parametrize(
    ('found', 'message'),
    [
        ({'cells': [code()], 'metadata': {}, 'nbformat': 4}, 'nbformat_minor was missing'),
        ({'cells': [code()], 'metadata': {}}, 'its format number, nbformat, was missing; read as format 4'),
        (notebook(code(), nbformat='4', nbformat_minor=None), 'its format number, nbformat, was "4"; read as format 4'),
        (notebook(code(), nbformat=5), 'its format number, nbformat, was 5; read as format 4'),
        ({**old(4, code()), 'metadata': {}}, 'metadata of'),
        (notebook(code(), extra=[1]), "the unknown key 'extra' of the notebook was moved into its metadata"),
        (notebook(code(), 3, None), 'cells 2, 3: it was'),
    ],
)
def test_the_frame_of_a_notebook_is_repaired(found: Any, message: str) -> None:
    document = loaded(found)

    assert document.code_cells[0] == (0, '1')
    assert (
        message.startswith('metadata of')
        or message.startswith('cells')
        or any(message in each for each in document.repairs)
    )


def test_notebooks_of_format_3_are_brought_up_and_nothing_is_reported_of_that() -> None:
    document = loaded(
        old(
            3,
            {'cell_type': 'heading', 'level': 2, 'source': ['A\n', 'title'], 'metadata': {}},
            {'cell_type': 'markdown', 'source': '*x*'},
            {
                'cell_type': 'code',
                'input': ['a\n', 'b'],
                'language': 'python',
                'prompt_number': 4,
                'collapsed': True,
                'metadata': {},
                'outputs': [
                    {'output_type': 'stream', 'stream': 'stderr', 'text': ['x']},
                    {'output_type': 'pyout', 'prompt_number': 4, 'text': 'x', 'png': 'AA==', 'json': '{"a": 1}'},
                    {'output_type': 'pyerr', 'ename': 'E', 'evalue': 'v', 'traceback': ['t']},
                ],
            },
        )
    )

    heading, markdown, cell = document.node.cells
    assert (heading.cell_type, heading.source) == ('markdown', '## A title')
    assert markdown.source == '*x*'
    assert (cell.source, cell.execution_count, cell.metadata) == ('a\nb', 4, {'collapsed': True})
    assert cell.outputs == [
        {'output_type': 'stream', 'name': 'stderr', 'text': 'x'},
        {
            'output_type': 'execute_result',
            'execution_count': 4,
            'data': {'text/plain': 'x', 'image/png': 'AA==', 'application/json': {'a': 1}},
            'metadata': {},
        },
        {'output_type': 'error', 'ename': 'E', 'evalue': 'v', 'traceback': ['t']},
    ]
    assert document.repairs == []


@pytest.mark.parametrize('major', [1, 2, 3])
def test_what_nbformat_brings_up_we_bring_up_to_the_same(major: int) -> None:
    source = {1: 'code', 2: 'input', 3: 'input'}[major]
    cell = {
        'cell_type': 'code',
        source: 'x = 1\nx',
        'language': 'python',
        'prompt_number': 1,
        'collapsed': False,
        'metadata': {},
        'outputs': [
            {'output_type': 'stream', 'stream': 'stdout', 'text': 'out'},
            {'output_type': 'pyout', 'prompt_number': 1, 'text': '1', 'html': '<b>1</b>', 'metadata': {}},
        ],
    }
    found = {'nbformat': 1, 'cells': [cell]} if major == 1 else old(major, cell)
    if major < 3:
        del cell['metadata']
    if major == 1:
        del cell['outputs']

    ours = loaded(found).node
    theirs = nbformat.convert(nbformat.reader.reads(json.dumps(found)), 4)

    for ours_cell, their_cell in zip(ours.cells, theirs.cells, strict=True):
        assert (ours_cell.source, ours_cell.outputs) == (their_cell.source, their_cell.outputs)
        assert ours_cell.execution_count == their_cell.execution_count


def test_all_worksheets_are_read() -> None:
    sheets = [{'cells': [{'cell_type': 'code', 'input': text}]} for text in 'ab'] + [{'metadata': {}}]

    document = loaded(old(3, worksheets=sheets))

    assert [text for _, text in document.code_cells] == ['a', 'b']
    assert document.repairs == ['a worksheet had no list of cells and was left out']


@pytest.mark.parametrize(
    ('found', 'message'),
    [
        ([], 'no JSON object'),
        ({}, 'it has no cells'),
        ({'cells': 3}, 'its cells are a number'),
        ({'cells': None, 'worksheets': []}, 'it has no cells'),
        ({'worksheets': [{}]}, 'it has no cells'),
        ({'cells': {'0': {}}}, 'its cells are an object'),
    ],
)
def test_only_what_has_no_cells_is_refused(found: Any, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        repair(found)


@pytest.mark.parametrize('text', ['{"cells": [', '{"cells": [}', '{"cells": []} x', '{' * 100_000, '{"a":' * 100_000])
def test_what_is_no_json_is_refused_with_a_word_on_it(text: str) -> None:
    with pytest.raises(InvalidArgumentError, match=r'is no notebook: its? (is no JSON|JSON is nested too deep)'):
        NotebookDocument.loads(text)


def test_what_is_nested_too_deep_is_left_out() -> None:
    value: Any = 1
    for _ in range(400):
        value = [value]

    assert 'what was nested too deep was left out' in loaded(notebook(code(), metadata={'a': value})).repairs


def test_a_report_names_a_kind_of_repair_once(tmp_path: Path) -> None:
    cells = [without('outputs', id=f'c{number}') for number in range(14)]
    (tmp_path / 'n.ipynb').write_text(json.dumps(notebook(*cells)), 'utf-8-sig')

    assert NotebookDocument.load(tmp_path / 'n.ipynb').repairs == [
        'cells 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 and 4 more: there were no outputs'
    ]


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.floats()
    | st.sampled_from(['', 'x', 'code', 'stream', 'a b', 'text/plain']),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(['name', 'text', 'x', 'data']), inner, max_size=3)
    ),
    max_leaves=6,
)
OUTPUTS = st.dictionaries(
    st.sampled_from(
        [
            'output_type',
            'name',
            'stream',
            'text',
            'data',
            'metadata',
            'execution_count',
            'ename',
            'traceback',
            'png',
            'x',
        ]
    ),
    VALUES | st.sampled_from(['stream', 'display_data', 'execute_result', 'error', 'pyout', 'pyerr']),
)
METADATA = st.dictionaries(
    st.sampled_from(
        [
            'tags',
            'name',
            'collapsed',
            'jupyter',
            'execution',
            'scrolled',
            'format',
            'deletable',
            'kernelspec',
            'language_info',
            'title',
            'authors',
            'orig_nbformat',
        ]
    ),
    VALUES,
)
CELLS = st.dictionaries(
    st.sampled_from(
        [
            'cell_type',
            'id',
            'source',
            'input',
            'metadata',
            'outputs',
            'execution_count',
            'attachments',
            'level',
            'tags',
            'collapsed',
            'name',
        ]
    ),
    VALUES | METADATA | st.lists(OUTPUTS, max_size=3) | st.sampled_from(['code', 'markdown', 'raw', 'heading', 'html']),
)


@settings(max_examples=60)
@given(
    cells=st.lists(CELLS | VALUES, max_size=4),
    fields=st.dictionaries(
        st.sampled_from(['nbformat', 'nbformat_minor', 'metadata', 'x', 'title']), VALUES | METADATA | st.integers(0, 6)
    ),
)
def test_whatever_has_cells_becomes_a_valid_notebook(cells: list[Any], fields: dict[str, Any]) -> None:
    loaded({'cells': cells, **fields})
