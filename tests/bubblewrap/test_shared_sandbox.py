"""The sandbox that tests share: none pays for what another left."""

from __future__ import annotations

import contextlib

import pytest

from enclave.sandboxes.bubblewrap.sandbox import BubblewrapSandbox
from enclave.testing import plugin
from enclave.testing.plugin import SharedSandbox

pytestmark = pytest.mark.bubblewrap


def test_one_in_which_something_continues_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugin, 'ENDING_SECONDS', 0.1)
    with contextlib.closing(SharedSandbox(lambda: BubblewrapSandbox({}))) as shared:
        first = shared.get()
        assert shared.get() is first
        first.start_process(['sleep', '1000'])

        second = shared.get()

        assert second is not first
        assert not first.is_alive()
        assert second.execute_command('echo here').stdout == 'here\n'
