"""A kernel's life with a kernel that says what it is reported to."""

from __future__ import annotations

from typing import Any

import pytest

from enclave.cancellation import Cancellation, is_cancelled
from enclave.deadline import Deadline
from enclave.errors import CallCancelledError
from enclave.sandboxes.notebook.kernel_process import PYTHON_SPEC, CellOutcome, KernelProcess
from enclave.sandboxes.notebook.messages import Message
from enclave.sandboxes.notebook.outputs import OutputCollector


class Life(KernelProcess):
    """Its kernel is idle at once, and its reply is late: waiting for it is cancelled where the work is."""

    def __init__(self, reply: dict[str, Any]) -> None:
        super().__init__(None, 'test', PYTHON_SPEC, None)  # type: ignore[arg-type]
        self.reply = reply
        self.was_cancelled: Cancellation | None = None

    def _send(self, parts: list[bytes]) -> None:
        if self.was_cancelled is not None:
            self.was_cancelled.cancel()
        with self._changed:
            self._inbox.append((0, Message(type='status', content={'execution_state': 'idle'})))

    def _has_replied(self, request_id: str, seconds: float) -> bool:
        return False

    def receive_reply(self, request_id: str, deadline: Deadline) -> dict[str, Any]:
        """Give the reply."""
        if is_cancelled():
            raise CallCancelledError('the waiting was cancelled')
        return self.reply


class Left(Life):
    """Its kernel ends nothing, and its caller presses Ctrl-C whenever it waits."""

    def _next_message(self, seconds: float) -> Message | None:
        raise KeyboardInterrupt


def run(life: Life) -> tuple[list[dict[str, Any]], CellOutcome]:
    """Return (the events, what the run returns)."""
    events = []
    steps = life.run({}, OutputCollector(1000, 1000), 5, 1)
    while True:
        try:
            events.append(next(steps))
        except StopIteration as stop:
            return events, stop.value


def test_the_reply_to_a_cell_that_was_cancelled_is_waited_for() -> None:
    life = Life({'status': 'error', 'ename': 'KeyboardInterrupt'})
    life.was_cancelled = Cancellation()

    with life.was_cancelled.applied():
        _, outcome = run(life)

    assert outcome.reply == life.reply
    assert outcome.end is None


def test_an_error_that_only_the_reply_reports_is_streamed() -> None:
    events, _ = run(Life({'status': 'error', 'ename': 'E', 'evalue': 'v'}))

    assert [(each['output_type'], each['ename']) for each in events] == [('error', 'E')]


def test_a_question_that_is_cancelled_is_reported_and_waits_until_the_kernel_is_free() -> None:
    life = Life({})
    cancellation = life.was_cancelled = Cancellation()

    with cancellation.applied(), pytest.raises(CallCancelledError, match='the question'):
        life.ask('complete_request', {}, 5, 1)

    assert not life._inbox


def test_a_kernel_whose_caller_does_not_wait_for_the_end_of_its_cell_is_killed() -> None:
    life = Left({})

    with pytest.raises(KeyboardInterrupt):
        run(life)

    assert life.is_doomed
    assert life.is_occupied


def test_a_kernel_that_has_ended_its_cell_is_free() -> None:
    life = Life({})

    run(life)

    assert not life.is_occupied
