"""The last report of the benchmarks is what its figures say."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks import earlier, goals, report
from benchmarks.measure import ratio, spread
from benchmarks.parts.beside import Beside

FOLDER = Path(__file__).parents[2] / 'docs' / 'benchmarks'


@pytest.fixture(scope='module')
def results() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / 'results.json').read_text('utf-8'))
    return found


def test_page_is_written_from_the_figures_beside_it(results: dict[str, Any]) -> None:
    assert (FOLDER / 'index.md').read_text('utf-8') == report.page(results)


def test_the_table_of_the_comparison_is_of_the_same_run(results: dict[str, Any]) -> None:
    page = (FOLDER.parent / 'comparison.md').read_text('utf-8')

    assert report.compared(results) in page
    assert report.with_table(page, report.compared(results)) == page


def test_every_goal_is_a_line_that_is_reached_missed_or_not_measured(results: dict[str, Any]) -> None:
    found = goals.goals(results)

    assert len({each.what for each in found}) == len(found)
    for each in found:
        assert each.met in (True, False) or each.measured == 'not measured in this run'


def test_goals_of_a_run_without_figures_are_not_measured() -> None:
    assert {each.met for each in goals.goals({'parts': {}})} == {None}


def test_pictures_that_the_page_shows_are_there() -> None:
    shown = re.findall(r'\]\((\w+\.svg)\)', (FOLDER / 'index.md').read_text('utf-8'))

    assert shown
    assert [name for name in shown if not (FOLDER / name).is_file()] == []


def test_a_ratio_is_of_each_round_so_that_a_slow_round_counts_once() -> None:
    assert ratio([1, 10, 1], [2, 20, 4]) == 0.5


def test_spread_is_the_median_between_quartiles() -> None:
    assert spread([3, 1, 2, 4, 5]) == {'median': 3, 'low': 2, 'high': 4, 'least': 1, 'count': 5}


def test_what_was_measured_of_both_commits_is_compared_round_by_round() -> None:
    part = Beside([], scale=1.0)
    part.calls = {
        'true': {
            'enclave, bubblewrap': [1.0, 4.0, 2.0],
            'enclave, bubblewrap, before': [2.0, 2.0, 2.0],
            'native': [1.0],
        }
    }
    part.rates['print_one'] = {'enclave, Docker': [4.0], 'enclave, Docker, before': [2.0]}

    assert list(earlier.rows(part)) == [
        {'what': '`true`', 'way': 'enclave, bubblewrap', 'now': 2.0, 'before': 2.0, 'ratio': 1.0},
        {'what': 'a program of four at once', 'way': 'enclave, Docker', 'now': 0.25, 'before': 0.5, 'ratio': 0.5},
    ]


def test_a_commit_that_git_does_not_know_is_an_error() -> None:
    with pytest.raises(SystemExit, match='no-such-commit'), earlier.library_at('no-such-commit'):
        pass
