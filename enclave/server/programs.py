"""The addresses where programs are run (layer 6); see `enclave.languages`."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import math
import operator
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import attrs
from attrs import define, field

from enclave import wire
from enclave.cancellation import is_cancelled, on_cancel
from enclave.deadline import Deadline
from enclave.errors import CallCancelledError, EnclaveError, InvalidArgumentError, PoolExhaustedError, ServerError
from enclave.languages.table import find_language
from enclave.languages.values import CodeRequest, CodeResult
from enclave.managers.protocol import (
    BEGIN_RULE,
    KEEP_ALIVE_SECONDS,
    CodeBatchRequest,
    CodeEvent,
    PoolCodeRequest,
)
from enclave.outlet import gives_output
from enclave.parallel import MOST_AT_ONCE, Batch
from enclave.server.direct import as_bytes
from enclave.server.faults import shown_error
from enclave.server.idempotency import Entry, StoredResponse, check_key
from enclave.server.policy import Policy
from enclave.server.route import EVENTS, LARGE_ANSWER, Context, Streamed, route
from enclave.threads import thread_pool
from enclave.wire import ASCII_PIECE, AsciiText

_WINDOW = 2
"""How many times as many outcomes may wait to be sent as programs run at once."""
RETURN_SECONDS = 10.0
"""How long a program that runs continues for a batch whose connection broke."""
_LOOK_SECONDS = 1.0
MOST_PLACES = 1 << 40
"""What numbers the programs of a batch may have: those of all of which it is the part that was not done."""
MOST_FORGOTTEN = 1 << 16
"""How many outcomes are forgotten with one request, of all the batches that it names."""
_NOT_BEGUN = frozenset({'too-many-requests', 'manager-stopped', 'pool-exhausted'})
"""Codes of errors by which a program was not begun, so that it may be when it is sent again."""
logger = logging.getLogger(__name__)


@route(
    'POST',
    '/sandbox/<sandbox_id>/code',
    body=CodeRequest,
    answers=CodeResult,
    lane='program',
    is_repeatable=True,
    tag='programs',
)
def run_code(context: Context, sandbox_id: str, body: CodeRequest) -> CodeResult:
    """Compile and run a program in a sandbox, and return what became of it.

    Files go in and out as base64 text.
    """
    request = checked_request(context, body, sandbox_id)
    with context.offering_outlet(), gives_output():
        return context.tenant.manager.run_code(sandbox_id, request)


@route(
    'POST', '/pool/code', body=PoolCodeRequest, answers=CodeResult, lane='program', is_repeatable=True, tag='programs'
)
def run_code_in_pool(context: Context, body: PoolCodeRequest) -> CodeResult:
    """Compile and run a program in whichever sandbox of a pool is free."""
    manager, request = context.tenant.manager, checked_request(context, body.request, pool=body.pool)
    with context.offering_outlet(), gives_output():
        if body.in_batch:
            return manager._run_in_batch(request, body.timeout, body.pool)
        return manager.run_code_in_pool(request, wait_timeout=body.timeout, pool=body.pool)


def checked_request(
    context: Context, request: CodeRequest, sandbox_id: str | None = None, *, pool: str | None = None
) -> CodeRequest:
    """Return a request as the policy allows it.

    Raises:
        PolicyError: Its time limits or its output are beyond what may be asked.
        TooManyRequestsError: Other calls hold what output the server keeps at once.
    """
    context.facts['tool_name'] = f'run_code:{request.language}'
    context.check_call_timeout(request.timeout)
    context.check_call_timeout(request.compile_timeout)
    policy = context.service.policy
    most = policy.max_upload_bytes if policy.max_file_bytes is None else policy.max_file_bytes
    context.check_output(sandbox_id, request.max_output_bytes, pool=pool)
    fetched = min(most, request.max_fetch_bytes) if request.fetch_files else 0
    context.held.enter_context(context.service.lanes.holding(context.tenant.name, fetched))
    return _limited(policy, request, most)


def _limited(policy: Policy, request: CodeRequest, most: int) -> CodeRequest:
    """Return a request that fetches at most so many bytes, and whose language's own time limits are within the policy."""
    changes: dict[str, Any] = {}
    if request.max_fetch_bytes > most:
        changes['max_fetch_bytes'] = most
    language = find_language(request.language)
    if policy.max_timeout is not None and language is not None:
        if request.compile_timeout is None:
            changes['compile_timeout'] = policy.within_timeout(language.compile_timeout)
        if request.timeout is None and language.timeout is not None:
            changes['timeout'] = policy.within_timeout(language.timeout)
    return attrs.evolve(request, **changes) if changes else request


@route(
    'POST',
    '/pool/code/batch',
    body=CodeBatchRequest,
    answers=EVENTS,
    events=CodeEvent,
    lane='stream',
    tag='programs',
)
def run_many_in_pool(context: Context, body: CodeBatchRequest) -> Streamed:
    """Run many programs, each in whichever sandbox of a pool is free: one JSON object a line, as outcomes come.

    Lines come in the order of the ends, with the programs' places from 0. Closing the connection ends what is left.
    """
    manager = context.tenant.manager
    size = manager._pool_size(body.pool)
    requests, room = _checked_requests(context, body.requests, None, pool=body.pool)
    concurrency = _concurrency(context, body.concurrency or size, len(requests), room)
    return _streamed_batch(
        context,
        body,
        requests,
        lambda each: manager._run_in_batch(each, body.timeout, body.pool),
        concurrency,
    )


@route(
    'POST',
    '/sandbox/<sandbox_id>/code/batch',
    body=CodeBatchRequest,
    answers=EVENTS,
    events=CodeEvent,
    lane='stream',
    tag='programs',
)
def run_many(context: Context, sandbox_id: str, body: CodeBatchRequest) -> Streamed:
    """Run many programs in one sandbox, some at once: one JSON object a line, as outcomes come."""
    manager = context.tenant.manager
    sandbox = manager._existing(sandbox_id)
    asked = body.concurrency or max(2, math.ceil(sandbox.config.cpu_limit))
    requests, room = _checked_requests(context, body.requests, sandbox_id)
    concurrency = _concurrency(context, asked, len(requests), room)
    return _streamed_batch(context, body, requests, sandbox._run_in_batch, concurrency)


def _concurrency(context: Context, asked: int, count: int, room: int) -> int:
    """Return how many programs of a batch run at once, and hold their places and the room for what they give.

    They share the places of single programs, so that a batch is no way to more of them; and what waits to be sent, which is a few
    times as much, fits into what one call may hold.

    Args:
        count: How many programs there are.
        room: How much the largest may give, in bytes.

    Raises:
        TooManyRequestsError: There is no place or no room.
    """
    lanes, tenant = context.service.lanes, context.tenant
    fitting = lanes.largest_call // max(1, _WINDOW * room)
    wanted = max(1, min(asked, MOST_AT_ONCE, count, fitting))
    taken = context.held.enter_context(lanes.several('program', tenant.name, wanted, tenant.max_calls))
    context.held.enter_context(lanes.holding(tenant.name, room * _WINDOW * taken))
    return taken


def _checked_requests(
    context: Context, requests: list[CodeRequest], sandbox_id: str | None, *, pool: str | None = None
) -> tuple[list[CodeRequest | EnclaveError], int]:
    """Return requests as the policy allows them, or why it does not, and how many bytes the largest may give."""
    policy = context.service.policy
    checked: list[CodeRequest | EnclaveError] = []
    most = policy.max_upload_bytes if policy.max_file_bytes is None else policy.max_file_bytes
    room, usual = 0, context.usual_output(sandbox_id, pool=pool)
    for request in requests:
        try:
            context.check_call_timeout(request.timeout)
            context.check_call_timeout(request.compile_timeout)
            policy.check_output_bytes(request.max_output_bytes)
        except EnclaveError as error:
            checked.append(error)
            continue
        fetched = min(most, request.max_fetch_bytes) if request.fetch_files else 0
        room = max(room, fetched + 2 * (request.max_output_bytes or usual))
        checked.append(_limited(policy, request, most))
    context.facts['tool_name'] = f'run_code:{len(requests)} programs'
    context.facts['sandbox_id'] = sandbox_id
    return checked, room


@define(eq=False)
class _Programs:
    """The programs of a batch as they are run: each once, if the batch has a key. Lives as long as the stream of its outcomes."""

    context: Context
    key: str | None
    run: Callable[[CodeRequest], CodeResult]
    begin_within: float | None
    unconditional: int
    """How many begin whenever it is."""
    _lock: threading.Lock = field(factory=threading.Lock, init=False)
    _begun: int = field(default=0, init=False)  # guarded by _lock
    _begin_by: Deadline | None = field(default=None, init=False)  # guarded by _lock
    _entries: set[Entry] = field(factory=set, init=False)  # of those that run here; guarded by _lock
    _is_cancelled: bool = field(default=False, init=False)  # guarded by _lock

    def work(self, item: tuple[int, int, CodeRequest | EnclaveError]) -> CodeEvent | bytes:
        """Return what became of a program, also if it was begun by a batch whose connection broke.

        It is a line as it travels where it is kept as one for a client that sends the batch again.

        Args:
            item: Its place among those that came, its place in the batch, and itself.
        """
        index, place, request = item
        if self.key is None or isinstance(request, EnclaveError):
            return self._event(index, self._in_time(request))
        repeats, tenant, key = self.context.service.repeats, self.context.tenant.name, f'{self.key}.{place}'
        entry, is_mine = repeats.begin(tenant, key, _fingerprint(request))
        # The client went away: it may come back for this one.
        with on_cancel(lambda: thread_pool.submit(lambda: repeats.leave(entry, RETURN_SECONDS))):
            if not is_mine:
                return attrs.evolve(self._outcome(entry), index=index)
            outcome = None
            try:
                event = self._run_once(entry, index, request)
                line = b''.join(as_bytes(self.written(wire.encode(event))))
                if event.error is None or event.error.code not in _NOT_BEGUN:
                    outcome = StoredResponse(200, (line,))
            finally:
                repeats.finish(tenant, key, entry, outcome)
        return line

    @property
    def with_texts(self) -> bool:
        """Whether the client takes long texts as they are, behind the line that they belong to."""
        return wire.PARTS_LINES in self.context.accept

    def written(self, encoded: dict[str, Any]) -> Sequence[bytes | AsciiText]:
        """Return the line of an encoded event, as the client takes it."""
        if self.with_texts:
            return wire.encoded_to_line(encoded)
        return (_encoded_line(encoded),)

    def _run_once(self, entry: Entry, index: int, request: CodeRequest) -> CodeEvent:
        with self._lock:
            self._entries.add(entry)
            was_cancelled = self._is_cancelled
        if was_cancelled:
            entry.cancellation.cancel()
        try:
            with entry.cancellation.applied():
                return self._event(index, self._in_time(request))
        finally:
            with self._lock:
                self._entries.discard(entry)

    def _in_time(self, request: CodeRequest | EnclaveError) -> CodeRequest | EnclaveError:
        """Return a program that is about to begin, or why it may not any more."""
        if self.begin_within is None or isinstance(request, EnclaveError):
            return request
        with self._lock:
            if self._begin_by is None:
                self._begin_by = Deadline.after(max(self.begin_within, 1e-9))  # 0 is no limit to a deadline
            if self._begun < self.unconditional or not self._begin_by.has_expired():
                self._begun += 1
                return request
        return PoolExhaustedError(
            f'the program was not begun within the {self.begin_within:g} s of begin_within; send it again',
            details={'rule': BEGIN_RULE},
        )

    @staticmethod
    def _outcome(entry: Entry) -> CodeEvent:
        while not entry.wait(_LOOK_SECONDS):
            if is_cancelled():
                raise CallCancelledError('the client went away')
        if entry.outcome is None:
            raise CallCancelledError('the program was not run to its end, since its batch was cancelled')
        return CodeEvent.model_validate(wire.from_line(b''.join(as_bytes(entry.outcome.body))))

    def _event(self, index: int, request: CodeRequest | EnclaveError) -> CodeEvent:
        try:
            if isinstance(request, EnclaveError):
                raise request
            return CodeEvent(event='result', index=index, result=self.run(request))
        except Exception as error:
            return _failed(index, error)

    def cancel(self) -> None:
        """End what runs at once: nobody comes back for it."""
        with self._lock:
            self._is_cancelled = True
            entries = list(self._entries)
        for entry in entries:
            entry.cancellation.cancel()


def _streamed_batch(
    context: Context,
    body: CodeBatchRequest,
    requests: list[CodeRequest | EnclaveError],
    run: Callable[[CodeRequest], CodeResult],
    concurrency: int,
) -> Streamed:
    places = list(range(len(requests))) if body.places is None else body.places
    if len(places) != len(requests):
        raise InvalidArgumentError(f'places must be as many as requests, {len(requests)}, not {len(places)}')
    if len(set(places)) < len(places) or any(not 0 <= place < MOST_PLACES for place in places):
        raise InvalidArgumentError(f'places must be different whole numbers from 0 to {MOST_PLACES - 1}')
    if body.key is not None:
        check_key(body.key)
        check_key(f'{body.key}.{MOST_PLACES}')  # the longest of those of its programs
    left = MOST_FORGOTTEN
    for key, given in (body.received or {}).items():
        count = max(0, min(given, left))
        context.service.repeats.forget_parts(context.tenant.name, key, count)
        left -= count
    programs = _Programs(context, body.key, run, body.begin_within, concurrency)
    batch = Batch(
        programs.work,
        zip(range(len(requests)), places, requests, strict=True),
        concurrency=concurrency,
        window=_WINDOW * concurrency,
    )
    context.on_gone(batch.stop)
    return Streamed(_lines(batch, programs, context), wire.PARTS_LINES if programs.with_texts else EVENTS)


@contextlib.contextmanager
def _cancelled_by_key(batch: Batch[Any, CodeEvent | bytes], programs: _Programs, context: Context) -> Iterator[None]:
    """Have the batch end in the block when its key is cancelled."""
    if programs.key is None:
        yield
        return

    def cancel() -> None:
        batch.stop()
        programs.cancel()

    repeats, tenant = context.service.repeats, context.tenant.name
    entry, is_mine = repeats.begin(tenant, programs.key, b'a batch')
    try:
        with entry.cancellation.calls(cancel):
            yield
    finally:
        if is_mine:
            repeats.finish(tenant, programs.key, entry, None)


def _lines(batch: Batch[Any, CodeEvent | bytes], programs: _Programs, context: Context) -> Iterator[bytes]:
    with _cancelled_by_key(batch, programs, context):
        try:
            while True:
                outcome = batch.next(KEEP_ALIVE_SECONDS)
                if outcome is not None:
                    event = outcome.result if outcome.result is not None else _failed(outcome.index, outcome.error)
                    encoded = event if isinstance(event, bytes) else wire.encode(event)
                    size = _memory_of(encoded, in_parts=programs.with_texts)
                    room = (
                        context.service.lanes.answering(context.tenant.name, size) if size else contextlib.nullcontext()
                    )
                    with room:
                        yield from _pieces((encoded,) if isinstance(encoded, bytes) else programs.written(encoded))
                elif batch.is_over:
                    break
                else:
                    yield _line(CodeEvent(event='alive'))
            yield _line(CodeEvent(event='end'))
        except EnclaveError as error:
            yield _line(CodeEvent(event='error', error=shown_error(error)))
        finally:
            batch.close()


def _fingerprint(request: CodeRequest) -> bytes:
    """Return what distinguishes a program from another."""
    made = hashlib.sha256(repr(_VALUES(request)).encode())
    for path, data in request.files.items():
        made.update(f'{path!r} {len(data)}'.encode())
        made.update(data)
    return made.digest()


_VALUES = operator.attrgetter(*(name for name in attrs.fields_dict(CodeRequest) if name != 'files'))


def _pieces(line: Sequence[bytes | AsciiText]) -> Iterator[bytes]:
    """Yield a line in pieces that are sent as they are: larger ones would be written to a file first."""
    for part in as_bytes(line):
        for start in range(0, len(part), ASCII_PIECE):
            yield part[start : start + ASCII_PIECE] if len(part) > ASCII_PIECE else part


def _memory_of(encoded: Any, *, in_parts: bool) -> int:
    """Return how much memory an outcome takes while it is sent; 0 is little."""
    if isinstance(encoded, bytes):
        return len(encoded) if len(encoded) >= LARGE_ANSWER else 0
    return wire.weigh(encoded, LARGE_ANSWER, in_parts=in_parts)


def _failed(index: int, error: Exception | None) -> CodeEvent:
    if not isinstance(error, EnclaveError):
        logger.error('a program of a batch could not be run', exc_info=error)
        error = ServerError('the server failed; its log says why')
    return CodeEvent(event='failed', index=index, error=shown_error(error))


def _line(event: CodeEvent) -> bytes:
    return _encoded_line(wire.encode(event))


def _encoded_line(encoded: Any) -> bytes:
    return wire.encoded_to_json(encoded).encode('ascii') + b'\n'
