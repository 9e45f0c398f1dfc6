from __future__ import annotations

import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import click
import pytest

from enclave.cli.output import format_age, format_size, print_facts, print_table, progress, visible
from enclave.records import utc_now


@pytest.mark.parametrize(
    ('size', 'text'),
    [(0, '0 B'), (1023, '1023 B'), (1536, '1.5 KiB'), (182 * 2**20, '182.0 MiB'), (3 * 2**40, '3.0 TiB')],
)
def test_sizes_read_as_people_write_them(size: int, text: str) -> None:
    assert format_size(size) == text


def test_progress_off_a_terminal_is_plain_lines_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    with progress('Pulling x') as report:
        report('layer one', 2**20, 2**21)

    shown = capsys.readouterr()
    assert shown.out == ''
    assert 'Pulling x ...' in shown.err
    assert 'layer one (1 of 2 MiB)' in shown.err
    assert 'Pulling x: done in' in shown.err


def test_progress_says_nothing_when_it_failed_or_is_unwanted(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match='broken'), progress('Pulling x'):
        raise ValueError('broken')
    with progress('Pulling y', quiet=True) as report:
        report('layer', None, None)

    shown = capsys.readouterr().err
    assert 'done' not in shown
    assert 'y' not in shown


def test_tables_off_a_terminal_are_columns_that_nothing_is_cut_from(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(('A', 'LONG'), [('x' * 200, 1), ('y', None)])

    head, first, second = capsys.readouterr().out.splitlines()
    assert head.split() == ['A', 'LONG']
    assert first == 'x' * 200 + '  1'
    assert second == 'y'


def test_facts_are_columns_with_what_is_inside_below(capsys: pytest.CaptureFixture[str]) -> None:
    print_facts([('name', 'x'), ('inside', {'a': True, 'b': []})])

    assert capsys.readouterr().out.splitlines() == ['name    x', 'inside', '  a  yes', '  b  -']


@pytest.mark.parametrize(
    ('seconds', 'text'), [(0, '0s'), (59, '59s'), (60, '1m'), (192, '3m 12s'), (7200, '2h'), (90061, '1d 1h')]
)
def test_ages_are_their_two_largest_units(seconds: int, text: str) -> None:
    now = utc_now()
    assert format_age(now - timedelta(seconds=seconds), now) == text


def test_control_characters_are_visible() -> None:
    assert visible('a\x1b[0m\nb\u202eé') == 'a\\x1b[0m\\nb\\u202eé'


ROWS = [
    ('3f2a9c1b77de', 'docker_notebook', 'jupyter-kernel-gateway:latest', 'running', '3m 12s', 'this program'),
    ('8800aa11bb22', 'bubblewrap', 'a rather long description of a root', 'stopped (by its owner)', '2h', 'pid 12345'),
]
HEAD = ('ID', 'TYPE', 'IMAGE', 'STATUS', 'AGE', 'OWNER')


@pytest.mark.parametrize('columns', [40, 80, 100, 110, 200])
def test_tables_on_a_terminal_break_no_word(
    columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, 'isatty', lambda: True, raising=False)
    monkeypatch.setenv('COLUMNS', str(columns))

    print_table(HEAD, ROWS)

    shown = click.unstyle(capsys.readouterr().out)
    words = [word for row in [HEAD, *ROWS] for cell in row for word in cell.split()]
    assert sorted(set(words)) == sorted(set(words) & set(shown.split()))
    if columns >= 80:
        assert max(map(len, shown.splitlines())) <= columns


@pytest.mark.processes
@pytest.mark.parametrize(
    ('variables', 'has_colors'),
    [
        ({}, False),
        ({'FORCE_COLOR': '1'}, True),
        ({'FORCE_COLOR': '1', 'NO_COLOR': '1'}, False),
        ({'NO_COLOR': ''}, False),
    ],
)
def test_colors_are_declined_and_asked_for_as_everywhere(
    variables: dict[str, str], has_colors: bool, tmp_path: Path
) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in ('NO_COLOR', 'FORCE_COLOR')}
    command = [sys.executable, '-m', 'enclave', 'images', 'unpack', str(tmp_path / 'missing')]
    found = subprocess.run(command, env={**environment, **variables}, capture_output=True, text=True, check=False)

    assert 'Error:' in found.stderr
    assert ('\x1b[' in found.stderr) is has_colors


@pytest.mark.processes
def test_without_colors_a_terminal_gets_none() -> None:
    program = 'import pty, sys; pty.spawn([sys.executable, "-m", "enclave", "images", "unpack", "/missing"])'
    environment = {name: value for name, value in os.environ.items() if name != 'FORCE_COLOR'}
    for value, has_colors in (('', True), ('1', False)):
        found = subprocess.run(
            [sys.executable, '-c', program], env={**environment, 'NO_COLOR': value}, capture_output=True, check=False
        )
        assert (b'\x1b[31m' in found.stdout) is has_colors  # the moving line has codes, but no color
