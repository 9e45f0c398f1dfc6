"""How long an agent is waited for, over calls that say when they end."""

from __future__ import annotations

from typing import Any

import pytest

from enclave.deadline import Deadline
from enclave.errors import OperationTimeoutError
from enclave.sandboxes import agent_operations
from enclave.sandboxes.agent_operations import AgentWatch

PAST = 1e-9


class Endless:
    """A call that ends after so many looks, or never."""

    def __init__(self, looks: int | None = None) -> None:
        self.looks = looks

    def wait_ready(self, deadline: Deadline, *, for_end: bool = False) -> bool:
        if self.looks is not None:
            self.looks -= 1
        return self.looks == 0


def test_what_does_not_end_though_it_was_killed_is_an_error_at_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_operations, 'STUCK_SECONDS', PAST)
    call: Any = Endless()
    checks: list[None] = []

    with pytest.raises(OperationTimeoutError, match='does not end'):
        AgentWatch(lambda: checks.append(None), Deadline.after(PAST), has_limit=True).wait(call)

    assert checks


def test_what_has_no_limit_is_waited_for_as_long_as_its_agent_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_operations, 'STUCK_SECONDS', PAST)
    monkeypatch.setattr(agent_operations, 'SILENCE_LIMIT_SECONDS', PAST)
    call: Any = Endless(5)
    checks: list[None] = []

    AgentWatch(lambda: checks.append(None), Deadline.after(PAST)).wait_ready(call, Deadline())

    assert len(checks) == 4
