"""The pictures of a terminal in the documents: drawn by a script, complete in themselves, and shown."""

from __future__ import annotations

import importlib.util
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
PICTURES = sorted((ROOT / 'docs' / 'pictures').glob('terminal-*.svg'))


@pytest.fixture(scope='module')
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location('terminal_pictures', ROOT / 'scripts' / 'make_terminal_pictures.py')
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def text_of(svg: str) -> str:
    return ''.join(ElementTree.fromstring(svg).itertext()).replace('\xa0', ' ')


def test_a_session_is_drawn_with_its_colours(script: ModuleType) -> None:
    drawn = script.draw([('ls', '\x1b[31mred\x1b[0m & plain\n'), ('pool', '1 of 2\r2 of 2\n'), ('true', '')], 'ls')

    assert re.search(r'fill: #cc555a|fill: #[0-9a-f]{6}', drawn)
    assert all(each in text_of(drawn) for each in ('ls', 'red', '& plain', '2 of 2', 'true'))
    assert '1 of 2' not in text_of(drawn)


def test_every_session_has_a_picture_that_shows_its_commands(script: ModuleType) -> None:
    assert {path.stem for path in PICTURES} == set(script.SESSIONS)
    for path in PICTURES:
        shown = text_of(path.read_text())
        assert all(command.split()[0] in shown and command[-8:] in shown for command in script.SESSIONS[path.stem])


@pytest.mark.parametrize('path', PICTURES, ids=lambda path: path.stem)
def test_a_picture_loads_nothing_from_elsewhere_and_is_shown(path: Path) -> None:
    drawn = path.read_text()
    shown_in = [page for page in [ROOT / 'README.md', *(ROOT / 'docs').rglob('*.md')] if path.name in page.read_text()]

    assert set(re.findall(r'https?://[^"\s)]*', drawn)) <= {
        'http://www.w3.org/2000/svg',
        'http://www.w3.org/1999/xlink',
    }
    assert shown_in
