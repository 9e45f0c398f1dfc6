"""A stream of events whose connection breaks, from the client's side."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from enclave.cancellation import Cancellation
from enclave.errors import NotFoundError, ServerUnavailableError
from enclave.managers import http_operations
from enclave.managers.http_operations import followed
from enclave.managers.http_transport import _lines
from enclave.managers.protocol import StreamEvent

EVENTS = [StreamEvent(event=name, seq=seq) for seq, name in enumerate(['started', 'a', 'b', 'end'], 1)]


class Server:
    """Gives the events after a number, and breaks off after as many as a test says; an error is raised at once."""

    def __init__(self, *breaks: int | Exception) -> None:
        self.breaks = list(breaks)
        self.asked: list[int] = []
        self.closed = 0

    def open(self, seen: int) -> Generator[StreamEvent, None, None]:
        self.asked.append(seen)
        most = self.breaks.pop(0) if self.breaks else 100
        try:
            if isinstance(most, Exception):
                raise most
            yield StreamEvent(event='alive')
            yield from EVENTS[seen : seen + most]
        finally:
            self.closed += 1


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_operations, '_RETRY_SECONDS', (0.0, 0.0))


def test_events_come_once_whatever_breaks() -> None:
    server = Server(2, ServerUnavailableError('refused'), 1)

    got = list(followed(server.open, 'cell'))

    assert got == EVENTS
    assert server.asked == [0, 2, 2, 3]
    assert server.closed == 4


def test_a_server_that_gives_signs_of_life_is_not_given_up() -> None:
    server = Server(0, 0, 1, 0, 0, 3)

    assert list(followed(server.open, 'cell')) == EVENTS


def test_a_server_that_does_not_come_back_is_reported() -> None:
    server = Server(*[ServerUnavailableError('refused')] * 10)

    with pytest.raises(ServerUnavailableError, match='refused'):
        list(followed(server.open, 'cell'))
    assert len(server.asked) == 3


def test_what_the_server_says_is_not_asked_again() -> None:
    server = Server(1, NotFoundError('forgotten'))

    with pytest.raises(NotFoundError, match='forgotten'):
        list(followed(server.open, 'cell'))
    assert server.asked == [0, 1]


def test_leaving_early_closes_the_stream() -> None:
    server = Server()
    events = followed(server.open, 'cell')

    next(events)
    events.close()  # type: ignore[attr-defined]

    assert server.closed == 1


def test_who_is_cancelled_waits_for_no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_operations, '_RETRY_SECONDS', (1e6,))
    server, cancellation = Server(2), Cancellation()
    cancellation.cancel()

    with cancellation.applied():
        assert list(followed(server.open, 'cell')) == EVENTS


@pytest.mark.parametrize(
    ('pieces', 'lines'),
    [
        ([b'one\n', b'two\n'], [b'one', b'two']),
        ([b'o', b'n', b'e\ntwo\nth', b'ree\n'], [b'one', b'two', b'three']),
        ([b'\n\n', b'a'], [b'', b'']),
        ([], []),
    ],
)
def test_lines_are_whole_however_they_come(pieces: list[bytes], lines: list[bytes]) -> None:
    assert list(_lines(pieces)) == lines
