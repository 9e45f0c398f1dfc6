"""Cells that are followed, without a kernel: what `stream_cell` gives is a generator of the test's."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest

from enclave.cancellation import is_cancelled, on_cancel
from enclave.cells import CellResult
from enclave.enums import ExecutionStatus
from enclave.errors import CallCancelledError, ConflictError, InvalidArgumentError, KernelDiedError, NotFoundError
from enclave.managers.protocol import CellEvent, CellStreamRequest
from enclave.sandboxes.notebook.sandbox import Steps
from enclave.server import cells as cells_module
from enclave.server import live
from enclave.server.cells import Cells, LiveCell

PATIENCE = 120.0
OUTPUT = {'output_type': 'stream', 'name': 'stdout', 'text': 'hi'}
RESULT = CellResult(status=ExecutionStatus.SUCCESS, outputs=[OUTPUT], text='hi')


def steps(*made: Any) -> Steps:
    for step in made:
        if isinstance(step, Exception):
            raise step
        yield step


def waits(began: threading.Event, *made: Any) -> Steps:
    """Give these, then continue until it is cancelled, and report that as a kernel does."""
    yield from made
    woken = threading.Event()
    began.set()
    with on_cancel(woken.set):
        assert woken.wait(PATIENCE)
    assert is_cancelled()
    yield CellResult(status=ExecutionStatus.CANCELLED)


def start(
    cells: Cells, made: Steps, cell_id: str | None = None, code: str = '1', timeout: float | None = None
) -> LiveCell:
    return cells.start('box', CellStreamRequest(code=code, cell_id=cell_id, kernel='k'), lambda: made, timeout)


def read(cell: LiveCell, after: int = 0) -> list[CellEvent]:
    return [CellEvent.model_validate(json.loads(line.text)) for line in cell.events(after, threading.Event())]


@pytest.fixture
def cells() -> Cells:
    return Cells(4)


def test_outputs_come_as_they_are_and_at_last_the_result(cells: Cells) -> None:
    cell = start(cells, steps(OUTPUT, RESULT))

    started, output, end = read(cell)

    assert (started.event, started.cell_id, started.kernel) == ('started', cell.id, 'k')
    assert (output.event, output.output) == ('output', OUTPUT)
    assert (end.event, end.result, end.seq) == ('end', RESULT, 3)


def test_much_text_at_once_comes_in_pieces(cells: Cells, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cells_module, 'PIECE_CHARACTERS', 4)
    text = 'naïve 🎈 text'

    _, *outputs, end = read(start(cells, steps({**OUTPUT, 'text': text}, RESULT)))

    assert all(event.output is not None and len(event.output['text']) <= 4 for event in outputs)
    assert ''.join(event.output['text'] for event in outputs if event.output is not None) == text
    assert end.result == RESULT


def test_what_is_raised_is_the_last_event(cells: Cells) -> None:
    last = read(start(cells, steps(OUTPUT, KernelDiedError('it died'))))[-1]

    assert last.error is not None
    assert last.error.code == 'kernel-died'


def test_cancelling_interrupts_it_and_its_result_says_so(cells: Cells) -> None:
    began = threading.Event()
    cell = start(cells, waits(began, OUTPUT))
    assert began.wait(PATIENCE)

    cell.cancel()

    last = read(cell)[-1]
    assert last.result is not None
    assert last.result.status is ExecutionStatus.CANCELLED
    cell.cancel()


def test_one_that_waits_for_its_turn_is_asked_to_be_cancelled(cells: Cells) -> None:
    last = read(start(cells, steps(CallCancelledError('before it ran'))))[-1]

    assert last.error is not None
    assert last.error.code == 'cancelled'


def test_cancelling_reaches_one_whose_outputs_nobody_makes_room_for(
    cells: Cells, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, 'UNREAD_BYTES', 300)
    began = threading.Event()
    cell = start(cells, waits(began, *[OUTPUT] * 5))

    cell.cancel()

    assert began.wait(PATIENCE), 'it continues although nobody reads'
    assert [event.event for event in read(cell)] == ['started', 'end']


def test_its_time_limit_holds_whatever_its_readers_do(cells: Cells, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, 'UNREAD_BYTES', 300)
    ended = threading.Event()

    def timed() -> Steps:
        yield from [OUTPUT] * 5
        ended.set()
        yield RESULT

    cell = start(cells, timed(), timeout=0.01)

    assert ended.wait(PATIENCE)
    assert read(cell)[-1].result == RESULT


def test_the_same_request_under_the_same_id_runs_once(cells: Cells) -> None:
    first = start(cells, steps(RESULT), 'my-own-id')
    read(first)
    unused = steps(RESULT)

    again = start(cells, unused, 'my-own-id')

    assert again is first
    assert next(unused) == RESULT, 'nothing of it was run'
    assert [event.event for event in read(again)] == ['started', 'end']
    with pytest.raises(ConflictError, match='another cell'):
        start(cells, steps(RESULT), 'my-own-id', code='2')


@pytest.mark.parametrize('cell_id', ['', 'short', 'x' * 65, 'a/b/c/d/e', 'ünïcode-id', 'with space', '12345678\n'])
def test_ids_that_no_address_can_hold_are_refused(cells: Cells, cell_id: str) -> None:
    with pytest.raises(InvalidArgumentError, match='cell_id'):
        start(cells, steps(RESULT), cell_id)


def test_cells_belong_to_their_sandbox(cells: Cells) -> None:
    cell = start(cells, steps(RESULT))

    assert cells.get('box', cell.id) is cell
    with pytest.raises(NotFoundError) as caught:
        cells.get('other', cell.id)
    assert caught.value.details == {'sandbox_id': 'other', 'cell_id': cell.id}
