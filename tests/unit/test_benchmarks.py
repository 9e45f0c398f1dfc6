"""The last report of the benchmarks is what its figures say."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks import goals, report
from benchmarks.measure import ratio, spread

FOLDER = Path(__file__).parents[2] / 'docs' / 'benchmarks'


@pytest.fixture(scope='module')
def results() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / 'results.json').read_text('utf-8'))
    return found


def test_page_is_written_from_the_figures_beside_it(results: dict[str, Any]) -> None:
    assert (FOLDER / 'index.md').read_text('utf-8') == report.page(results)


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
