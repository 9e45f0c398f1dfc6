"""What a sandbox says of its own use is read with care: whatever is in it may say anything."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import pytest

from enclave.records import CommandResult
from enclave.server.adapters.e2b.metrics import KEPT, Samples, _read_usage

STAT = '7 (a) b) S 1 1 1 0 -1 4194560 100 0 0 0 50 25 0 0 20 0 1 0 5 1000 3 9'


class Talker:
    """A sandbox that prints what it is given, and is gone when it is looked at again."""

    id, status, used_at = 'talker', 'stopped', 0.0

    def __init__(self, text: str) -> None:
        self.text = text

    def execute_command(self, *_: Any, **__: Any) -> CommandResult:
        return CommandResult(status='success', exit_code=0, stdout=self.text, stderr='', command='', execution_time=0.1)


def test_use_is_read_of_control_groups_or_else_of_processes() -> None:
    disk = '/dev/a 100 40 60 40% /'

    assert _read_usage(f'5000\n=\n2500000\n=\n{disk}\n=\n{STAT}\n=\n100\n4096\n') == (5000, 2.5, 40 << 10, 100 << 10)
    assert _read_usage(f'=\n=\n=\n{STAT}\n=\n100\n4096\n') == (3 * 4096, 0.75, 0, 0)


@pytest.mark.parametrize(
    'text',
    ['', '=\n' * 9, '9' * 5000, '\u0663=\n\u0663', f'=\n{"9" * 5000}=\na 9 9 9 9\n=\n{STAT}\n=\n0\n0', '\0' * 999],
)
def test_nonsense_is_nothing_used(text: str) -> None:
    memory, seconds, used, total = _read_usage(text)

    assert 0 <= memory < 1 << 20
    assert 0 <= seconds < 10
    assert min(used, total) >= 0


def test_samples_are_kept_in_order_and_bounded() -> None:
    samples, since = Samples(), datetime(2026, 1, 1, tzinfo=timezone.utc)
    sandbox: Any = Talker('5\n=\n7\n=\n')
    for _ in range(KEPT + 5):
        samples.ask(sandbox, since)
    found = samples.between(None, None)
    samples.close()

    assert len(found) == KEPT
    assert found == sorted(found, key=lambda each: each.at)
    assert samples.between(found[-1].at.timestamp() + 10, None) == []
    assert samples.between(0, 1) == []
