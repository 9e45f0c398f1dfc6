"""Batches of programs over HTTP (layer: managers): many programs in one exchange, outcomes as they come.

Programs are sent some hundred at a time, so that neither side holds more than that; a connection that breaks is made again for
the programs whose outcomes had not come. Leaving early closes the connection, by which the server knows that it is to stop.
"""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from typing import Any

from attrs import define, field

from enclave.cancellation import is_cancelled, on_cancel
from enclave.deadline import Deadline
from enclave.errors import (
    CallCancelledError,
    EnclaveError,
    ServerError,
    ServerUnavailableError,
    TooManyRequestsError,
)
from enclave.exchange import CancellableRequest
from enclave.languages.values import CodeRequest, CodeResult
from enclave.managers.protocol import CancelResponse, CodeBatchRequest, CodeEvent, rebuild_error
from enclave.parallel import Outcome

MOST_PROGRAMS = 512
"""Programs in one exchange."""
MOST_BYTES = 4 << 20
"""Bytes of their sources, inputs and files, about."""
MOST_BREAKS = 3
"""How often in a row an exchange may break without bringing anything."""


@define(eq=False)
class Exchange:
    """Programs that travel together, by their places in the batch.

    Attributes:
        was_sent: Whether any of it may have come to the server.
        attempts: How often it was sent.
        has_begun: Whether the server began to run them, as far as is known.
    """

    first: int
    waiting: dict[int, CodeRequest] = field(factory=dict)
    failed: list[Outcome[CodeResult]] = field(factory=list)  # those of which no request could be made
    size: int = 0
    key: str = field(factory=lambda: secrets.token_hex(16))
    """Under which the server runs each of them once, however often they are sent."""
    was_sent: bool = False
    attempts: int = 0
    has_begun: bool = False

    @property
    def count(self) -> int:
        """How many programs."""
        return len(self.waiting) + len(self.failed)


def exchanges(items: Iterable[Any], make: Callable[[Any], CodeRequest]) -> Iterator[Exchange]:
    """Yield the programs of a batch in parts that fit into one request."""
    numbered = enumerate(items)
    for index, item in numbered:
        made = Exchange(index)
        for place, each in itertools.chain([(index, item)], numbered):
            try:
                request = make(each)
            except Exception as error:
                made.failed.append(Outcome(place, error=error))
            else:
                made.waiting[place] = request
                made.size += size_of(request)
            if made.count >= MOST_PROGRAMS or made.size >= MOST_BYTES:
                break
        yield made


def size_of(request: CodeRequest) -> int:
    """Return how many bytes a program takes on its way, about."""
    files = sum(len(path) + len(data) * 4 // 3 for path, data in request.files.items())
    return 256 + len(request.code) + len(request.stdin or '') + files


def run_batch(
    transport: Any,
    path: str,
    items: Iterable[Any],
    make: Callable[[Any], CodeRequest],
    *,
    in_order: bool,
    concurrency: int | None,
    timeout: float | None = None,
    pool: str | None = None,
) -> Generator[Outcome[CodeResult], None, None]:
    """Yield what becomes of many programs; the first step sends the first of them, and raises what is wrong.

    Args:
        transport: How requests travel; see `enclave.managers.http_transport.HttpTransport`.
        path: The server's address for batches.
    """
    for exchange in exchanges(items, make):
        source = _run_exchange(transport, path, exchange, concurrency, timeout, pool)
        yield from _in_order(source, exchange.first) if in_order else source


def _in_order(source: Iterator[Outcome[CodeResult]], first: int) -> Iterator[Outcome[CodeResult]]:
    early: dict[int, Outcome[CodeResult]] = {}
    due = first
    for outcome in source:
        early[outcome.index] = outcome
        while due in early:
            yield early.pop(due)
            due += 1


def _run_exchange(
    transport: Any, path: str, exchange: Exchange, concurrency: int | None, timeout: float | None, pool: str | None
) -> Generator[Outcome[CodeResult], None, None]:
    yield from exchange.failed
    count, patience = len(exchange.waiting), Deadline.after(timeout)
    try:
        while True:
            try:
                yield from run_exchange(transport, path, exchange, concurrency=concurrency, timeout=timeout, pool=pool)
                return
            except TooManyRequestsError:
                # Like a single program it waits for its turn: what is left of a batch would have no outcome otherwise.
                if patience.has_expired():
                    raise
    except ServerUnavailableError as error:
        if count == len(exchange.waiting) and exchange.first == next(iter(exchange.waiting)) == 0:
            raise  # nothing ever came: there is no server
        for place in exchange.waiting:
            yield Outcome(place, error=error)


def run_exchange(
    transport: Any,
    path: str,
    exchange: Exchange,
    *,
    concurrency: int | None,
    timeout: float | None,
    pool: str | None,
    begin_within: float | None = None,
    received: Mapping[str, int] | None = None,
) -> Generator[Outcome[CodeResult], None, None]:
    """Yield what becomes of programs that travel together; those without an outcome stay in ``exchange.waiting``.

    Args:
        begin_within, received: See `CodeBatchRequest`.

    Raises:
        ServerUnavailableError: The connection broke several times in a row, so that what became of the others is not known.
        CallCancelledError: The caller's work was cancelled.
        EnclaveError: The server refused them, or ended them all.
    """
    breaks = 0
    while exchange.waiting:
        places = list(exchange.waiting)
        body = CodeBatchRequest(
            requests=list(exchange.waiting.values()),
            key=exchange.key,
            places=[place - exchange.first for place in places],
            concurrency=concurrency,
            timeout=timeout,
            pool=pool,
            begin_within=begin_within,
            received=None if received is None else dict(received),
        )
        request = CancellableRequest('the batch')
        try:
            with on_cancel(request.hang_up):
                for outcome in _events(transport, path, body, places, request, exchange):
                    breaks = 0
                    del exchange.waiting[outcome.index]
                    yield outcome
        except (GeneratorExit, CallCancelledError):
            # Nobody comes back for what runs. The server would know by itself, some seconds later.
            transport.later(lambda: transport.call('POST', f'/calls/{exchange.key}/cancel', CancelResponse))
            raise
        except ServerUnavailableError as error:
            breaks += 1
            if is_cancelled():
                transport.later(lambda: transport.call('POST', f'/calls/{exchange.key}/cancel', CancelResponse))
                raise CallCancelledError('the batch was cancelled') from error
            if breaks >= MOST_BREAKS:
                raise
        finally:
            exchange.was_sent = exchange.was_sent or request.was_connected
            exchange.attempts += request.attempts


def _events(
    transport: Any,
    path: str,
    body: CodeBatchRequest,
    places: list[int],
    request: CancellableRequest,
    exchange: Exchange,
) -> Generator[Outcome[CodeResult], None, None]:
    left = set(range(len(places)))
    events: Generator[CodeEvent, None, None] = transport.events('POST', path, CodeEvent, body=body, exchange=request)
    try:
        for event in events:
            exchange.has_begun = True
            if event.event in ('result', 'failed'):
                index = event.index
                if index not in left:
                    raise ServerError(f'the server reported of program {index!r} of a batch, which it was not to run')
                left.discard(index)
                if event.event == 'result':
                    yield Outcome(places[index], event.result)
                else:
                    yield Outcome(places[index], error=_error_of(event))
            elif event.event == 'error':
                raise _error_of(event)
            elif event.event == 'end':
                if left:
                    raise ServerError(f'the server left {len(left)} programs of a batch without an outcome')
                return
    finally:
        events.close()
    raise ServerUnavailableError('the server broke off in the middle of a batch')


def _error_of(event: CodeEvent) -> EnclaveError:
    return ServerError('the server did not say why') if event.error is None else rebuild_error(event.error)
