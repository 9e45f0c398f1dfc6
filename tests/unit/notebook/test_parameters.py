from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enclave.errors import InvalidArgumentError, UnsupportedError
from enclave.sandboxes.notebook.parameters import LANGUAGES, as_code, parse_value

nbformat = pytest.importorskip('nbformat')

from enclave.sandboxes.notebook.document import NotebookDocument  # noqa: E402

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@given(VALUES)
def test_what_is_written_for_python_is_the_value_there(value: Any) -> None:
    names: dict[str, Any] = {}

    exec(as_code({'name': value}, 'python'), names)

    assert names['name'] == value


@pytest.mark.parametrize(
    ('language', 'code'),
    [
        ('R', 'a <- list(TRUE, NULL, "x")'),
        ('julia', 'a = [true, nothing, "x"]'),
        ('bash', "a=(true '' 'x')"),
        ('typescript', 'var a = [true, null, "x"];'),
    ],
)
def test_each_language_has_its_own_way(language: str, code: str) -> None:
    assert as_code({'a': [True, None, 'x']}, language).splitlines()[1] == code


@pytest.mark.parametrize('language', LANGUAGES)
def test_no_text_ends_its_own_quotes(language: str) -> None:
    text = as_code({'a': 'x"; \'$(touch /tmp/x)` ${HOME} \\'}, language)

    assert text.count('\n') == 2


@pytest.mark.parametrize(
    ('text', 'value'),
    [
        ('0.5', 0.5),
        ('-3', -3),
        ('1e3', 1000.0),
        ('true', True),
        ('False', False),
        ('null', None),
        ('None', None),
        ('[1, "x"]', [1, 'x']),
        ('{"a": 1}', {'a': 1}),
        ('Bob', 'Bob'),
        ('"Bob"', '"Bob"'),
        ('1_000', '1_000'),
        ('2026-01-01', '2026-01-01'),
        ('[1,', '[1,'),
        ('', ''),
        (' 5', 5),
    ],
)
def test_values_on_a_command_line_mean_what_they_look_like(text: str, value: Any) -> None:
    assert parse_value(text) == value
    assert type(parse_value(text)) is type(value)


@pytest.mark.parametrize('name', ['', 'a b', '1a', 'a;b', 'a-b', 'a=1\nb'])
def test_a_name_that_no_variable_can_have_is_refused(name: str) -> None:
    with pytest.raises(InvalidArgumentError, match='cannot be the name'):
        as_code({name: 1}, 'python')


def test_what_cannot_be_written_is_refused_by_its_name() -> None:
    with pytest.raises(InvalidArgumentError, match="'a' is a set"):
        as_code({'a': {1}}, 'python')
    with pytest.raises(InvalidArgumentError, match='no value for an object'):
        as_code({'a': {'b': 1}}, 'bash')
    with pytest.raises(UnsupportedError, match=r"cannot be written in 'c\+\+17'"):
        as_code({'a': 1}, 'c++17')


def cells(document: NotebookDocument) -> list[tuple[str, list[str]]]:
    return [(source, document.node.cells[index].metadata.get('tags', [])) for index, source in document.code_cells]


def test_parameters_go_after_the_tagged_cell_and_replace_those_of_before() -> None:
    document = NotebookDocument()
    for code in ('import x', 'a = 1', 'print(a)'):
        document.add(code)
    document.node.cells[1].metadata['tags'] = ['parameters']

    document.set_parameters({'a': 2})
    document.set_parameters({'a': 3})

    assert cells(document) == [
        ('import x', []),
        ('a = 1', ['parameters']),
        ('# Parameters\na = 3\n', ['injected-parameters']),
        ('print(a)', []),
    ]
    nbformat.validate(json.loads(document.dumps()))


def test_without_a_tagged_cell_parameters_go_first() -> None:
    document = NotebookDocument()
    document.add('print(a)')

    document.set_parameters({'a': 2})

    assert [source for source, _ in cells(document)] == ['# Parameters\na = 2\n', 'print(a)']
