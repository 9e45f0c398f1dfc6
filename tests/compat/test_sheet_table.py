"""No row of the documented API is without a test."""

from __future__ import annotations

import re

import pytest

from tests.compat import test_sheet_engine, test_sheet_server, test_sheet_values
from tests.compat.covering import COVERED
from tests.compat.rows import ROWS
from tests.compat.running import ROOT

SHEET = ROOT.parent / 'shared' / 'documented-api.md'

assert all((test_sheet_engine, test_sheet_server, test_sheet_values))  # imported for what they say they cover


def plain(cell: str) -> str:
    return re.sub(r'[`*]', '', cell).strip()


@pytest.mark.parametrize('section', sorted(ROWS))
def test_every_row_of_a_section_has_a_test(section: int) -> None:
    covered = COVERED.get(section, {})

    missing = [row for row in ROWS[section] if not any(row.startswith(beginning) for beginning in covered)]

    assert missing == []


@pytest.mark.parametrize('section', sorted(ROWS))
def test_no_test_is_about_a_row_that_is_not_there(section: int) -> None:
    unknown = [
        beginning
        for beginning in COVERED.get(section, {})
        if not any(row.startswith(beginning) for row in ROWS[section])
    ]

    assert unknown == []


@pytest.mark.skipif(not SHEET.exists(), reason=f'{SHEET.name} is not beside the checkout')
def test_every_row_of_the_sheet_is_in_the_table() -> None:
    section, missing = 0, []
    lines = SHEET.read_text().splitlines()
    for line, following in zip(lines, [*lines[1:], ''], strict=True):
        heading = re.match(r'## (\d+)\.', line)
        if heading:
            section = int(heading[1])
        is_row = line.startswith('| ') and not re.match(r'\| ?-', line) and not re.match(r'\| ?-', following)
        if not section or not is_row:
            continue
        cell = plain(re.split(r'(?<!\\)\|', line)[1])
        if not any(cell.startswith(row) for row in ROWS[section]):
            missing.append((section, cell))

    assert missing == []
