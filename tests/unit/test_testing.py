"""`enclave.testing` is shipped, and nothing else of the library knows it."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

import pytest

from tests.support.imports import ROOT, imports, modules

SUITE = sorted((ROOT / 'enclave/testing/suite').glob('test_*.py'))


def test_nothing_outside_it_imports_it() -> None:
    known = modules('enclave')
    users = {
        name
        for name, path in known.items()
        if not name.startswith('enclave.testing')
        and any(each.startswith('enclave.testing') for each in imports(path, known))
    }

    assert users == set()


def test_the_wheel_holds_it_with_the_suite() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / 'setup.cfg')

    assert 'enclave.*' in config['options.packages.find']['include'].split()
    assert (SUITE[0].parent / '__init__.py').exists()


@pytest.mark.parametrize('path', SUITE, ids=lambda path: path.stem)
def test_the_projects_own_kinds_are_tested_by_these_files(path: Path) -> None:
    stub = (ROOT / 'tests/conformance' / path.name).read_text('utf-8')

    assert f'from enclave.testing.suite.{path.stem} import *' in stub
    assert not re.search(r'^(def|async def|class) ', stub, re.MULTILINE)


def test_the_suite_uses_nothing_of_this_projects_tests() -> None:
    assert [
        path.name for path in SUITE if re.search(r'^(from|import) tests\b', path.read_text('utf-8'), re.MULTILINE)
    ] == []
