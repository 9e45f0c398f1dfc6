"""The addresses where programs are run (layer 6); see `enclave.languages`."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Iterator
from typing import Any

import attrs

from enclave import wire
from enclave.config import DEFAULT_OUTPUT_BYTES
from enclave.errors import EnclaveError, ServerError
from enclave.languages.values import CodeRequest, CodeResult
from enclave.managers.protocol import (
    KEEP_ALIVE_SECONDS,
    CodeBatchRequest,
    CodeEvent,
    PoolCodeRequest,
)
from enclave.parallel import MOST_AT_ONCE, Batch, Outcome
from enclave.server.faults import shown_error
from enclave.server.route import EVENTS, LARGE_ANSWER, Context, Streamed, route

_WINDOW = 2
"""How many times as many outcomes may wait to be sent as programs run at once."""
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
    return context.tenant.manager.run_code(sandbox_id, checked_request(context, body, sandbox_id))


@route(
    'POST', '/pool/code', body=PoolCodeRequest, answers=CodeResult, lane='program', is_repeatable=True, tag='programs'
)
def run_code_in_pool(context: Context, body: PoolCodeRequest) -> CodeResult:
    """Compile and run a program in whichever sandbox of a pool is free."""
    request = checked_request(context, body.request)
    return context.tenant.manager.run_code_in_pool(request, wait_timeout=body.timeout, pool=body.pool)


def checked_request(context: Context, request: CodeRequest, sandbox_id: str | None = None) -> CodeRequest:
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
    context.check_output(sandbox_id, request.max_output_bytes)
    fetched = min(most, request.max_fetch_bytes) if request.fetch_files else 0
    context.held.enter_context(context.service.lanes.holding(context.tenant.name, fetched))
    return attrs.evolve(request, max_fetch_bytes=most) if request.max_fetch_bytes > most else request


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
    requests, room = _checked_requests(context, body.requests, None)
    concurrency = _concurrency(context, body.concurrency or size, len(requests), room)
    return _streamed_batch(
        context,
        Batch(
            lambda each: manager.run_code_in_pool(_allowed(each), wait_timeout=body.timeout, pool=body.pool),
            requests,
            concurrency=concurrency,
            window=_WINDOW * concurrency,
        ),
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
    return _streamed_batch(
        context,
        Batch(
            lambda each: sandbox.run_code(_allowed(each)),
            requests,
            concurrency=concurrency,
            window=_WINDOW * concurrency,
        ),
    )


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
    context: Context, requests: list[CodeRequest], sandbox_id: str | None
) -> tuple[list[CodeRequest | EnclaveError], int]:
    """Return requests as the policy allows them, or why it does not, and how many bytes the largest may give."""
    policy = context.service.policy
    checked: list[CodeRequest | EnclaveError] = []
    most = policy.max_upload_bytes if policy.max_file_bytes is None else policy.max_file_bytes
    room = 0
    for request in requests:
        try:
            context.check_call_timeout(request.timeout)
            context.check_call_timeout(request.compile_timeout)
            policy.check_output_bytes(request.max_output_bytes)
        except EnclaveError as error:
            checked.append(error)
            continue
        fetched = min(most, request.max_fetch_bytes) if request.fetch_files else 0
        room = max(room, fetched + 2 * (request.max_output_bytes or DEFAULT_OUTPUT_BYTES))
        checked.append(attrs.evolve(request, max_fetch_bytes=min(most, request.max_fetch_bytes)))
    context.facts['tool_name'] = f'run_code:{len(requests)} programs'
    context.facts['sandbox_id'] = sandbox_id
    return checked, room


def _allowed(request: CodeRequest | EnclaveError) -> CodeRequest:
    if isinstance(request, EnclaveError):
        raise request
    return request


def _streamed_batch(context: Context, batch: Batch[Any, CodeResult]) -> Streamed:
    context.on_gone(batch.stop)
    return Streamed(_lines(batch, context), EVENTS)


def _lines(batch: Batch[Any, CodeResult], context: Context) -> Iterator[bytes]:
    try:
        while True:
            outcome = batch.next(KEEP_ALIVE_SECONDS)
            if outcome is not None:
                event = wire.encode(_event(outcome))
                size = wire.weigh(event, LARGE_ANSWER)
                with context.service.lanes.answering(context.tenant.name, size) if size else contextlib.nullcontext():
                    yield wire.encoded_to_json(event).encode('ascii') + b'\n'
            elif batch.is_over:
                break
            else:
                yield _line(CodeEvent(event='alive'))
        yield _line(CodeEvent(event='end'))
    except EnclaveError as error:
        yield _line(CodeEvent(event='error', error=shown_error(error)))
    finally:
        batch.close()


def _event(outcome: Outcome[CodeResult]) -> CodeEvent:
    error = outcome.error
    if error is None:
        return CodeEvent(event='result', index=outcome.index, result=outcome.result)
    if not isinstance(error, EnclaveError):
        logger.error('a program of a batch could not be run', exc_info=error)
        error = ServerError('the server failed; its log says why')
    return CodeEvent(event='failed', index=outcome.index, error=shown_error(error))


def _line(event: CodeEvent) -> bytes:
    return wire.to_json(event).encode('ascii') + b'\n'
