"""How much the control group of all bubblewrap sandboxes weighs beside other programs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from enclave.sandboxes.bubblewrap.cgroups import Cgroups, weigh_family


@pytest.mark.parametrize(('version', 'file', 'one'), [(1, 'cpu.shares', 1024), (2, 'cpu.weight', 100)])
def test_a_family_weighs_as_its_sandboxes_but_no_more_than_the_processors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: int, file: str, one: int
) -> None:
    monkeypatch.setattr(os, 'cpu_count', lambda: 3)
    cgroups = Cgroups(version=version, parents={'cpu': tmp_path})
    weights = []

    for number in range(5):
        weigh_family(cgroups)
        weights.append(int((tmp_path / file).read_text()) / one)
        (tmp_path / f'sandbox-{number}').mkdir()

    assert weights == [1, 1, 2, 3, 3]


def test_a_family_that_has_gone_is_no_error(tmp_path: Path) -> None:
    weigh_family(Cgroups(version=1, parents={'cpu': tmp_path / 'gone'}))
    weigh_family(Cgroups(version=0, parents={}))
