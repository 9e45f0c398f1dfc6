"""Answers that begin while their work continues (layer 6): a large output is sent as it comes, the result behind it.

See `enclave.managers.output_frames` for what is sent. Nothing here waits for a client: what it does not take stays with the rest
of the answer, which is sent as every answer is, when the work has ended and its place is another's. All of the output is kept
until then too: a client whose connection breaks asks again, and gets the same answer as a whole.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import attrs
from attrs import define, field

from enclave import wire
from enclave.languages.values import CodeResult
from enclave.managers.output_frames import error_frame, next_frame, record_frame
from enclave.outlet import HandedOn
from enclave.records import WithOutput, find_source
from enclave.sandboxes.output import Caught

EARLY_KEY = 'enclave.early'
"""Where in the WSGI environment lies what sends early, if the server can."""


class Sender(Protocol):
    """Sends pieces of an answer whose work continues, without waiting for the client."""

    def has_room(self) -> bool:
        """Return whether what is sent now would be taken."""

    def send_early(self, pieces: list[bytes]) -> None:
        """Send pieces; does nothing where the client has gone away."""

    def when_sent(self, action: Callable[[], object]) -> None:
        """Have ``action`` called once all that was handed over so far is sent, or cannot be any more."""


class Rest:
    """All that was not sent of an answer, in pieces: one item of a WSGI body, which this library's own server takes whole.

    So no thread waits for the client that is to take it.
    """

    def __init__(self, pieces: Sequence[bytes | wire.AsciiText]) -> None:
        self.pieces = pieces

    def __len__(self) -> int:
        return sum(map(len, self.pieces))


@define(eq=False)
class _Sending:
    output: Caught
    sent: int = 0  # of its pieces


@define(eq=False)
class EarlyResponse:
    """An `enclave.outlet.Outlet`. Lives as long as its request.

    Args:
        begin: Says that the answer begins, with its status and headers.

    Attributes:
        has_begun: Whether it has; then all that can follow is the rest of it.
    """

    _sender: Sender
    _begin: Callable[[], object]
    has_begun: bool = field(default=False, init=False)
    _streams: dict[int, _Sending] = field(factory=dict, init=False)
    _thread: int = field(factory=threading.get_ident, init=False)
    _last: list[bytes] = field(factory=list, init=False)

    def take(self, stream: int, output: HandedOn) -> bool:
        """Send what came of a stream, as far as the client takes it; return whether any of the stream was sent yet."""
        if threading.get_ident() != self._thread or not isinstance(output, Caught):
            return False
        mine = self._streams.get(stream)
        if mine is None:
            if not self._sender.has_room():
                return False
            mine = self._streams[stream] = _Sending(output)
        elif mine.output is not output:  # of another command in the same call
            return False
        while mine.sent < len(output.pieces) and self._sender.has_room():
            frame, mine.sent = next_frame(stream, output.pieces, mine.sent)
            if not self.has_begun:
                self.has_begun = True
                self._begin()
            self._sender.send_early(frame)
        return True

    @property
    def size(self) -> int:
        """How many bytes of output the answer has."""
        return sum(len(each.output) for each in self._streams.values())

    def finish(self, value: Any) -> Any:
        """Take the result, and return its JSON shapes, without the texts that are sent.

        Raises:
            InvalidArgumentError: It has no JSON form.
        """
        shape, places = encode_without({stream: each.output for stream, each in self._streams.items()}, value)
        self._last = record_frame(shape, places)
        return shape

    def whole(self) -> tuple[bytes, ...]:
        """Return all of an answer that has a result, in pieces, as one that is repeated gets it."""
        return (*self._frames(from_begin=True), *self._last)

    def rest(self, failure: bytes | None) -> Rest:
        """Return what was not sent of it.

        Args:
            failure: The record of the error that came instead of a result; None if there is a result.
        """
        return Rest([*self._frames(from_begin=False), *(self._last if failure is None else error_frame(failure))])

    def _frames(self, *, from_begin: bool) -> Iterable[bytes]:
        for stream, each in self._streams.items():
            at = 0 if from_begin else each.sent
            while at < len(each.output.pieces):
                frame, at = next_frame(stream, each.output.pieces, at)
                yield from frame


def encode_without(streams: dict[int, Caught], value: Any) -> tuple[Any, list[list[Any]]]:
    """Return a value as JSON shapes in which the texts of streams are empty, and ``[path, stream, total, head]`` for each."""
    numbers = {id(output): number for number, output in streams.items()}
    places: list[list[Any]] = []

    def put(path: list[Any], number: int) -> None:
        places.append([path, number, streams[number].total, streams[number].head])

    shape = wire.encode(_without_sources(value, [], numbers, put))
    made = {id(output.made_text): number for number, output in streams.items() if output.made_text is not None}
    if made:
        shape = _without_texts(shape, [], made, put)
    return shape, places


def _without_sources(
    value: Any, path: list[Any], numbers: dict[int, int], put: Callable[[list[Any], int], None]
) -> Any:
    """Return a record, or one that holds such records, with empty texts in the place of those that nobody has asked for."""
    if isinstance(value, WithOutput):
        sources = {each.name: find_source(value, each.name) for each in attrs.fields(type(value))}  # type: ignore[arg-type]
        absent = {name: numbers[id(source)] for name, source in sources.items() if id(source) in numbers}
        if absent:
            value = _blanked(value, absent)
        for name, number in absent.items():
            put([*path, name], number)
        return value
    if isinstance(value, CodeResult):
        steps = {name: getattr(value, name) for name in ('compile', 'run')}
        return attrs.evolve(
            value, **{name: _without_sources(step, [*path, name], numbers, put) for name, step in steps.items()}
        )
    return value


def _blanked(record: WithOutput, names: Iterable[str]) -> WithOutput:
    """Return a record with empty texts in the place of some fields, which are not made for that."""
    twin: WithOutput = object.__new__(type(record))
    for each in attrs.fields(type(record)):  # type: ignore[arg-type]
        object.__setattr__(twin, each.name, '' if each.name in names else getattr(record, each.name))
    return twin


def _without_texts(value: Any, path: list[Any], made: dict[int, int], put: Callable[[list[Any], int], None]) -> Any:
    if isinstance(value, str) and id(value) in made:
        put(path, made[id(value)])
        return ''
    if isinstance(value, dict):
        return {name: _without_texts(each, [*path, name], made, put) for name, each in value.items()}
    return value
