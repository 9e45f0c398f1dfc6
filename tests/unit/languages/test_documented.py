"""The document and the recipes of images say what the entries say."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from enclave.languages.table import list_languages
from enclave.languages.toolchains import HELLOS
from enclave.sandboxes.images.catalog import get_recipe

ROOT = Path(__file__).parents[3]


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location('list_languages', ROOT / 'scripts' / 'list_languages.py')
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_table_in_the_document_is_that_of_the_entries() -> None:
    text = (ROOT / 'docs' / 'languages.md').read_text('utf-8')

    assert script().with_table(text) == text, 'run python scripts/list_languages.py'


@pytest.mark.parametrize(('image', 'kinds'), [('multi', {'multi'}), ('multi-full', {'multi', 'multi-full'})])
def test_an_image_has_the_packages_of_its_languages(image: str, kinds: set[str]) -> None:
    recipe = get_recipe(image)
    languages = [each for each in list_languages() if each.image in kinds]

    assert {package for each in languages for package in each.packages} <= set(recipe.packages)
    assert {package for each in languages for package in each.npm} <= set(recipe.npm)
    assert (Path(recipe.folder) / recipe.customize).is_file()
    assert not recipe.is_default


def test_every_language_has_a_program_that_says_whether_it_works() -> None:
    assert {each.name for each in list_languages()} == set(HELLOS)
