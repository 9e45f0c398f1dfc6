from __future__ import annotations

from datetime import timedelta

import pytest

from enclave.cli.output import format_age, format_size, print_facts, print_table, progress, visible
from enclave.records import utc_now


@pytest.mark.parametrize(
    ('size', 'text'),
    [(0, '0 B'), (1023, '1023 B'), (1536, '1.5 KB'), (182 * 2**20, '182.0 MB'), (3 * 2**40, '3072.0 GB')],
)
def test_sizes_read_as_people_write_them(size: int, text: str) -> None:
    assert format_size(size) == text


def test_progress_off_a_terminal_is_plain_lines_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    with progress('Pulling x') as report:
        report('layer one', 2**20, 2**21)

    shown = capsys.readouterr()
    assert shown.out == ''
    assert 'Pulling x ...' in shown.err
    assert 'layer one (1 of 2 MB)' in shown.err
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
