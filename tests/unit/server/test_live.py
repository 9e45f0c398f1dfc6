"""What runs on while clients come and go, whatever it is: its room, its readers, and how long it is remembered."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Generator
from typing import Any

import pytest

from enclave.errors import NotFoundError, SandboxGoneError, TooManyRequestsError
from enclave.managers.protocol import ProcessEvent, StreamEvent
from enclave.records import CommandResult
from enclave.server import live
from enclave.server.live import EventLog, EventLogTable, as_text

PATIENCE = 120.0


class Talk(EventLog):
    """Says what a test has it say; `end` is the end, and so is `cancel`."""

    noun = 'talk'

    def __init__(self, name: str = 'one', **options: Any) -> None:
        super().__init__('box', name, **{'attended': False, **options})
        self.pending: queue.Queue[str | Exception | None] = queue.Queue()
        self.cancelled = threading.Event()
        self.closed = threading.Event()

    def _started(self) -> StreamEvent:
        return StreamEvent(event='started')

    def _events(self) -> Generator[StreamEvent, None, None]:
        try:
            while (word := self.pending.get(timeout=PATIENCE)) is not None:
                if isinstance(word, Exception):
                    raise word
                yield StreamEvent(event=word)
            yield StreamEvent(event='end')
        finally:
            self.closed.set()

    def cancel(self) -> None:
        self.cancelled.set()
        self.pending.put(None)

    def say(self, *texts: str) -> Talk:
        for word in texts:
            self.pending.put(word)
        return self

    def end(self) -> Talk:
        self.pending.put(None)
        return self


class Talks(EventLogTable[Talk]):
    def __init__(self, limit: int = 2, **options: Any) -> None:
        super().__init__('talk', 'talks', limit, **options)

    def start(self, talk: Talk) -> Talk:
        with self._room():
            entered = self._enter(talk)
        if entered is talk:
            talk.start()
        return entered


def read(talk: Talk, after: int = 0) -> list[str]:
    return [line.event for line in talk.events(after, threading.Event())]


# Events ---------------------------------------------------------------------------------------------------------------


def test_lines_are_json_with_their_numbers() -> None:
    talk = Talk().say('a').end()
    talk.start()

    lines = list(talk.events(0, threading.Event()))

    assert [json.loads(line.text) for line in lines] == [
        {'event': 'started', 'seq': 1},
        {'event': 'a', 'seq': 2},
        {'event': 'end', 'seq': 3},
    ]
    assert [line.is_last for line in lines] == [False, False, True]
    assert talk.size >= sum(len(line.text) for line in lines)


def test_the_result_in_an_event_is_whole() -> None:
    event = ProcessEvent(event='end', result=CommandResult(command='x', status='success'))

    fields = json.loads(as_text(event, 7))

    assert set(fields) == {'event', 'seq', 'result'}
    assert fields['result']['signal'] is None


def test_two_readers_at_once_both_get_everything() -> None:
    talk = Talk()
    talk.start()
    got: list[list[str]] = []
    threads = [threading.Thread(target=lambda: got.append(read(talk))) for _ in range(2)]
    for thread in threads:
        thread.start()
    talk.say(*'abc').end()
    for thread in threads:
        thread.join(PATIENCE)

    assert got == [['started', 'a', 'b', 'c', 'end']] * 2


def test_what_cannot_be_written_ends_it_with_an_error_and_its_source_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(event: StreamEvent, seq: int) -> bytes:
        if event.event == 'nan':
            raise live.InvalidArgumentError('it cannot be written')
        return as_text(event, seq)

    as_text = live.as_text
    monkeypatch.setattr(live, 'as_text', fail)
    talk = Talk().say('a', 'nan', 'b')
    talk.start()

    lines = list(talk.events(0, threading.Event()))

    assert [line.event for line in lines] == ['started', 'a', 'error']
    assert json.loads(lines[-1].text)['error']['code'] == 'invalid-argument'
    assert talk.closed.wait(PATIENCE)
    assert not talk.is_running


def test_an_error_nobody_expected_says_nothing_of_itself() -> None:
    talk = Talk()
    talk.start()
    talk.pending.put(ZeroDivisionError('a secret'))

    last = list(talk.events(0, threading.Event()))[-1]

    assert json.loads(last.text)['error']['code'] == 'server'
    assert b'secret' not in last.text


# Room -----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is room for hardly more than one unread event."""
    monkeypatch.setattr(live, 'UNREAD_BYTES', 300)


@pytest.mark.usefixtures('small')
def test_one_that_is_hurried_leaves_out_what_there_is_no_room_for() -> None:
    talk = Talk().say(*'abcdef').end()
    talk.start()

    talk.hurry()

    assert talk.closed.wait(PATIENCE)
    assert read(talk) == ['started', 'end']


@pytest.mark.usefixtures('small')
def test_it_waits_for_readers_no_longer_than_its_patience() -> None:
    talk = Talk(patience=0.01).say(*'abc').end()
    talk.start()

    assert talk.closed.wait(PATIENCE), 'it comes to its end although nobody reads'
    assert read(talk) == ['started', 'end']


@pytest.mark.usefixtures('small')
def test_after_one_that_was_left_out_nothing_comes_but_the_end() -> None:
    talk = Talk()
    talk.start()
    talk.hurry()
    talk.say('x' * 200, 'a')  # the first may find no room, and then the second, which would, is left out too

    events = talk.events(0, threading.Event())
    talk.say('b').end()
    got = [line.event for line in events]

    assert got[0] == 'started'
    assert got[-1] == 'end'
    assert ''.join(got[1:-1]) in ('', 'x' * 200, 'x' * 200 + 'a', 'x' * 200 + 'ab')


@pytest.mark.usefixtures('small')
def test_with_a_reader_nothing_is_left_out_however_small_the_room() -> None:
    talk = Talk(patience=PATIENCE).say(*'abcdefgh').end()
    talk.start()

    assert read(talk) == ['started', *'abcdefgh', 'end']


@pytest.mark.usefixtures('small')
def test_what_was_read_is_kept_as_far_as_there_is_room() -> None:
    narrow, wide = Talk(kept_bytes=0), Talk(kept_bytes=1 << 20)
    for talk in (narrow, wide):
        talk.say(*'abcdefgh').end()
        talk.start()
        read(talk)

    assert read(wide) == ['started', *'abcdefgh', 'end']
    with pytest.raises(NotFoundError, match='not kept'):
        read(narrow)


# Readers --------------------------------------------------------------------------------------------------------------


def test_one_that_is_to_be_attended_ends_if_nobody_ever_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, 'RESUME_SECONDS', 0.01)
    talk = Talk(attended=True)

    talk.start()

    assert talk.cancelled.wait(PATIENCE)


@pytest.mark.usefixtures('small')
def test_a_deserted_one_comes_to_its_end_although_nobody_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, 'RESUME_SECONDS', 0.01)
    talk = Talk(attended=True).say(*'abcdef')

    talk.start()

    assert talk.closed.wait(PATIENCE)
    assert read(talk) == ['started', 'end']


def test_who_comes_back_in_time_saves_it(monkeypatch: pytest.MonkeyPatch) -> None:
    timers: list[Any] = []

    class Timer(threading.Timer):
        def start(self) -> None:
            timers.append(self)  # it goes off when the test says so

    monkeypatch.setattr(threading, 'Timer', Timer)
    talk = Talk(attended=True)
    talk.start()
    events = talk.events(0, threading.Event())
    next(events)
    assert [timer.finished.is_set() for timer in timers] == [True], 'the first reader stops it'
    events.close()  # type: ignore[attr-defined]
    again = talk.events(1, threading.Event())
    talk.say('a')
    next(again)

    timers[1].function()

    assert not talk.cancelled.is_set()
    assert [timer.finished.is_set() for timer in timers] == [True, True]
    again.close()  # type: ignore[attr-defined]
    timers[2].function()
    assert talk.cancelled.is_set()


def test_one_whose_surroundings_are_lost_is_closed_all_the_same() -> None:
    class Lost(Talk):
        def cancel(self) -> None:
            super().cancel()
            raise SandboxGoneError('it is gone')

    talk = Lost()
    talk.start()

    talk.close()

    assert read(talk)[-1] == 'end'


# Tables ---------------------------------------------------------------------------------------------------------------


def ended(talks: Talks, name: str) -> Talk:
    talk = talks.start(Talk(name).end())
    read(talk)
    return talk


def test_only_those_that_run_count_and_the_first_to_end_makes_room() -> None:
    talks = Talks(2)

    for number in range(5):
        ended(talks, str(number))

    assert [talk.id for talk in talks.of('box')] == ['3', '4']
    running = [talks.start(Talk(name)) for name in 'ab']
    with pytest.raises(TooManyRequestsError, match='2 talks'):
        talks.start(Talk('c'))
    for talk in running:
        talk.close()


def test_what_ended_takes_no_more_than_its_part_of_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    talks = Talks(10)
    size = ended(talks, '0').size
    monkeypatch.setattr(live, 'ENDED_BYTES', 3 * size)

    for number in range(1, 6):
        ended(talks, str(number))

    assert [talk.id for talk in talks.of('box')] == ['3', '4', '5']


def test_an_id_that_is_taken_gives_the_one_that_has_it() -> None:
    talks = Talks()
    first = talks.start(Talk('same'))

    assert talks.start(Talk('same')) is first
    assert talks.find('box', 'same') is first
    assert talks.find('other', 'same') is None
    talks.close()
    assert first.cancelled.is_set()
