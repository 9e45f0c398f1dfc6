from __future__ import annotations

import pytest

from enclave.cli.output import format_size, progress


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
