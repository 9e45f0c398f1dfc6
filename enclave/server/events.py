"""Streams of events as answers (layer 6): what runs on is followed, and taken up again, whatever it is.

One JSON object a line, or server-sent events where ``Accept`` asks for them.
Source: https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

from attrs import frozen

from enclave.errors import InvalidArgumentError
from enclave.server.live import EncodedEvent, EventLog
from enclave.server.route import EVENTS, SERVER_SENT_EVENTS, Context, Streamed
from enclave.tools.schema import argument


@frozen(kw_only=True)
class EventsQuery:
    """Where to continue."""

    after: int = argument(default=0, minimum=0, description='The number of the last event that was seen.')


def resume(context: Context, live: EventLog, query: EventsQuery) -> Streamed:
    """Return the events after the one that the query, or ``Last-Event-ID``, names as the last that was seen.

    Raises:
        NotFoundError: They are not kept any more.
        InvalidArgumentError: There is no such event yet, or the header is no number.
    """
    after = query.after
    if context.last_event_id is not None and not after:
        if not context.last_event_id.isdecimal():
            raise InvalidArgumentError(f'Last-Event-ID must be a number, not {context.last_event_id!r}')
        after = int(context.last_event_id[:18])
    return follow(context, live, after)


def follow(context: Context, live: EventLog, after: int = 0) -> Streamed:
    """Return the events after a number, until the last or until the client goes away; see `EventLog.events` for the errors."""
    gone = threading.Event()

    def leave() -> None:
        gone.set()
        live.wake()

    context.on_gone(leave)
    lines = live.events(after, gone)
    if SERVER_SENT_EVENTS in context.accept:
        return Streamed(_each(lines, _as_server_sent), SERVER_SENT_EVENTS)
    return Streamed(_each(lines, _as_ndjson), EVENTS)


def _each(lines: Iterator[EncodedEvent], as_bytes: Callable[[EncodedEvent], bytes]) -> Iterator[bytes]:
    for line in lines:
        yield as_bytes(line)


def _as_ndjson(line: EncodedEvent) -> bytes:
    return line.text + b'\n'


def _as_server_sent(line: EncodedEvent) -> bytes:
    if line.seq is None:
        return b': alive\n\n'
    return f'id: {line.seq}\nevent: {line.event}\ndata: '.encode('ascii') + line.text + b'\n\n'
