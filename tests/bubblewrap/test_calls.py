"""How many functions a warm call goes through: no load moves that. What raises a figure has to be worth it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.backends import bubblewrap_notebook_trouble
from tests.support.calls import measure

MOST = {'sandbox': 120, 'manager': 128, 'http': 297, 'http and others': 560, 'cell': 490}
"""What was counted, and about a tenth more. Over HTTP the library does itself what took Flask and urllib3 twice as much.
A cell is 445, where each of its messages comes in one piece: under load some come in several, and most cells are 480 to 515."""


def test_a_warm_call_goes_through_few_functions(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ('ENCLAVE_API_KEY', 'ENCLAVE_URL', 'HTTP_PROXY', 'http_proxy'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv('XDG_STATE_HOME', str(tmp_path))

    for name, counted in measure(MOST, notebook=bubblewrap_notebook_trouble() is None):
        assert counted.total() <= MOST[name], (name, counted.most_common(30))
