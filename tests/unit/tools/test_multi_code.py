"""The tool for many languages, as far as it needs no sandbox."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest

from enclave.errors import ToolArgumentsError
from enclave.languages.table import get_language
from enclave.tools.multi_code import _ENTRIES, MultiCodeExecutor
from enclave.tools.tool_factory import ToolFactory
from tests.support.workspace import FakeWorkspace


def run(**parameters: Any) -> Any:
    """Call the tool where no sandbox is needed."""
    with tempfile.TemporaryDirectory() as folder:
        return ToolFactory.create_tool('multi_code_executor').execute(FakeWorkspace(Path(folder)), **parameters)


def test_its_schema_is_the_documented_one() -> None:
    parameters = ToolFactory.create_tool('multi_code_executor').schema['function']['parameters']

    assert sorted(parameters['properties']) == ['code', 'compile_timeout', 'files', 'language', 'run_timeout']
    assert parameters['required'] == ['language', 'code']
    assert parameters['properties']['run_timeout']['default'] == 30
    assert parameters['additionalProperties'] is False


@pytest.mark.parametrize(('language', 'code'), [('', 'x'), (' ', 'x'), ('python', ''), ('python', ' \n')])
def test_without_a_language_or_code_nothing_is_run(language: str, code: str) -> None:
    result = run(language=language, code=code)

    assert (str(result.status), result.output, result.error) == ('error', '', 'Invalid input')


def test_an_unknown_language_is_named_as_it_was_written() -> None:
    assert run(language='Klingon', code='x').error == 'Unsupported language: Klingon'


def test_scala_needs_an_object() -> None:
    assert run(language='scala', code='println(1)').error == 'Object name not found.'


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ToolArgumentsError, match='compile_timeout'):
        run(language='c', code='x', compile_timeout='soon')


@pytest.mark.parametrize('language', sorted(MultiCodeExecutor.LANG_MAIN_FILES))
def test_every_documented_language_has_the_documented_main_file(language: str) -> None:
    found = MultiCodeExecutor._find_language(language.upper())

    assert found is not None
    assert found.file.replace('{name}', 'Main') == MultiCodeExecutor.LANG_MAIN_FILES[language]


def test_every_entry_of_its_own_belongs_to_a_language() -> None:
    for name in _ENTRIES:
        assert get_language(name).name == name
