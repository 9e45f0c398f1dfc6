from __future__ import annotations

import json
import queue
import threading
import uuid
from typing import Any, cast

import pytest

from enclave.enums import ExecutionStatus
from enclave.errors import InvalidArgumentError, NotFoundError, SandboxGoneError, TooManyRequestsError
from enclave.managers.protocol import ProcessEvent, chunk_bytes
from enclave.records import CommandResult
from enclave.sandboxes.process import OutputChunk, Process
from enclave.server import live as live_module
from enclave.server.processes import LiveProcess, Processes

PATIENCE = 120.0


class FakeProcess:
    """A program that writes what a test puts in; ``None`` is its end, an exception its loss."""

    command = 'fake'
    pid = 7

    def __init__(self) -> None:
        self.id = uuid.uuid4().hex[:12]
        self.output: queue.Queue[OutputChunk | Exception | None] = queue.Queue()
        self.result: CommandResult | None = None
        self.killed = threading.Event()

    def wait_started(self, timeout: float | None = None) -> int:
        return self.pid

    def chunks(self) -> Any:
        while (chunk := self.output.get(timeout=PATIENCE)) is not None:
            if isinstance(chunk, Exception):
                raise chunk
            yield chunk
        self.result = CommandResult(command='fake', status=ExecutionStatus.SUCCESS)

    def kill(self) -> None:
        self.killed.set()
        self.output.put(None)

    def write(self, *data: bytes) -> FakeProcess:
        for each in data:
            self.output.put(OutputChunk('stdout', each))
        return self

    def end(self) -> FakeProcess:
        self.output.put(None)
        return self


@pytest.fixture
def fake() -> FakeProcess:
    return FakeProcess()


@pytest.fixture
def table() -> Processes:
    return Processes(2)


def start(table: Processes, fake: FakeProcess, **options: Any) -> LiveProcess:
    return table.start('box', lambda: cast(Process, fake), **options)


def read(live: LiveProcess, after: int = 0) -> list[ProcessEvent]:
    return [ProcessEvent.model_validate_json(line.text) for line in live.events(after, threading.Event())]


def test_events_are_numbered_and_end(table: Processes, fake: FakeProcess) -> None:
    live = start(table, fake.write(b'one', b'two').end())

    events = read(live)

    assert [(event.seq, event.event) for event in events] == [(1, 'started'), (2, 'stdout'), (3, 'stdout'), (4, 'end')]
    assert events[0].process_id == live.id
    assert events[-1].result is not None
    assert live.info().running is False


def test_reading_goes_on_where_it_was(table: Processes, fake: FakeProcess) -> None:
    live = start(table, fake.write(b'one', b'two').end())
    read(live)

    assert [event.seq for event in read(live, 2)] == [3, 4]
    assert read(live, 3)[0].event == 'end'
    with pytest.raises(InvalidArgumentError, match='after'):
        live.events(5, threading.Event())


def test_a_loss_is_the_last_event(table: Processes, fake: FakeProcess) -> None:
    fake.output.put(SandboxGoneError('it is gone'))
    live = start(table, fake)

    last = read(live)[-1]

    assert last.event == 'error'
    assert last.error is not None
    assert last.error.code == 'sandbox-gone'
    assert live.info().error is not None


def test_a_program_nobody_reads_from_waits(
    table: Processes, fake: FakeProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_module, 'UNREAD_BYTES', 4000)
    live = start(table, fake.write(*[bytes([65 + n]) * 1000 for n in range(12)]).end())

    data = b''.join(chunk_bytes(event) for event in read(live) if event.event == 'stdout')

    assert data == b''.join(bytes([65 + n]) * 1000 for n in range(12))


def test_what_was_read_long_ago_is_not_kept(
    table: Processes, fake: FakeProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_module, 'UNREAD_BYTES', 4000)
    monkeypatch.setattr(live_module, 'KEPT_BYTES', 1000)
    live = start(table, fake.write(*[b'x' * 900] * 20).end())
    events = read(live)

    with pytest.raises(NotFoundError, match='not kept'):
        live.events(0, threading.Event())
    assert read(live, (events[-1].seq or 0) - 1) == events[-1:]


def test_where_nothing_comes_a_sign_of_life_does(table: Processes, fake: FakeProcess) -> None:
    live = start(table, fake)
    events = live.events(1, threading.Event(), interval=0.01)

    assert next(events).event == 'alive'
    fake.write(b'at last').end()
    assert [event.event for event in events if event.event != 'alive'] == ['stdout', 'end']


def test_a_reader_that_is_gone_reads_no_more(table: Processes, fake: FakeProcess) -> None:
    live, gone = start(table, fake), threading.Event()
    events = live.events(0, gone)
    next(events)

    gone.set()
    live.wake()

    assert list(events) == []
    live.close()


def test_a_streamed_command_is_killed_when_it_is_deserted(
    table: Processes, fake: FakeProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_module, 'RESUME_SECONDS', 0.01)
    live = start(table, fake, attended=True)
    events = live.events(0, threading.Event())
    next(events)

    events.close()  # type: ignore[attr-defined]

    assert fake.killed.wait(PATIENCE)


def test_there_is_an_end_to_how_many(table: Processes) -> None:
    start(table, FakeProcess())
    start(table, FakeProcess())

    with pytest.raises(TooManyRequestsError, match='2 processes'):
        start(table, FakeProcess())
    table.close()


def test_processes_belong_to_their_sandbox(table: Processes, fake: FakeProcess) -> None:
    live = start(table, fake)

    assert table.get('box', live.id) is live
    assert table.of('box') == [live]
    assert table.of('other') == []
    with pytest.raises(NotFoundError):
        table.get('other', live.id)
    table.drop('box')
    assert fake.killed.is_set()
    with pytest.raises(NotFoundError):
        table.get('box', live.id)


def test_ended_processes_are_forgotten_after_a_while(fake: FakeProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    table = Processes(2)
    live = start(table, fake.end())
    read(live)
    monkeypatch.setattr(live_module, 'KEPT_SECONDS', -1.0)

    assert table.of('box') == []


def test_a_program_that_nobody_reads_may_leave_its_oldest_events_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_module, 'UNREAD_BYTES', 1000)
    fake = FakeProcess()
    process = LiveProcess('sandbox', cast(Process, fake), attended=False, waits_alone=False)
    process.start()

    fake.write(*[b'%d' % number for number in range(100)]).end()

    pause = threading.Event()
    for _ in range(1000):
        if not process.is_running or pause.wait(0.05):
            break
    found = [json.loads(line.text) for line in process.events(process.read_seq, threading.Event())]
    assert found[-1]['event'] == 'end'
    assert found[-2]['text'] == '99'
    assert len(found) < 50
