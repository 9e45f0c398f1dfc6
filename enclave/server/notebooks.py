"""The addresses of notebook sandboxes (layer 6): cells and kernels, by the verbs of `NotebookSandbox`.

To ask anything of a kernel is to use a notebook, so the one that may not use the tool ``notebook_executor`` gets in by none of
these.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs

from enclave.cells import CellResult
from enclave.deadline import check_timeout
from enclave.managers.actions import ACTIONS
from enclave.managers.protocol import AskRequest, CellEvent, CellRequest, CellStreamRequest, KernelRequest
from enclave.sandboxes.notebook.sandbox import ASK_SECONDS
from enclave.server.events import EventsQuery, follow, resume
from enclave.server.route import EVENTS, Context, Streamed, add_action, performs, route

TOOL = 'notebook_executor'
_CELL_OPTIONS = ('kernel', 'silent', 'store_history', 'keep_escapes', 'max_output_bytes')


def _verb(context: Context, sandbox_id: str, name: str) -> Callable[..., Any]:
    """Return a verb of a notebook sandbox.

    Raises:
        PolicyError: The policy allows no notebooks.
        SandboxNotFoundError, UnsupportedError: There is no such sandbox, or it is no notebook.
    """
    context.service.policy.check_tool(TOOL, {})
    return context.service.verb(context.tenant, sandbox_id, name)


# Cells ----------------------------------------------------------------------------------------------------------------


@performs('execute_cell')
def execute_cell(context: Context, sandbox_id: str, body: CellRequest) -> CellResult:
    """Run a cell, to its end. A client that cancels or goes away interrupts it; the kernel keeps its state."""
    context.check_output(sandbox_id, body.max_output_bytes)
    execute = _cell_verb(context, sandbox_id, 'execute_cell', body)
    found: CellResult = execute(body.code, body.timeout, **_cell_options(body))
    return found


@route(
    'POST',
    '/sandbox/<sandbox_id>/cells/stream',
    body=CellStreamRequest,
    answers=EVENTS,
    events=CellEvent,
    lane='stream',
    tag='notebooks',
)
def stream_cell(context: Context, sandbox_id: str, body: CellStreamRequest) -> Streamed:
    """Run a cell and follow it: one JSON object a line, every output as it comes, at last the result.

    The first event is ``started`` and names the cell, whose events can be taken up again after a broken connection. Without
    anybody who follows it, the cell is interrupted after 15 seconds. With ``Accept: text/event-stream`` the events come as such.
    """
    stream = _cell_verb(context, sandbox_id, 'stream_cell', body)
    sandbox = context.tenant.manager._existing(sandbox_id)
    limit = check_timeout(sandbox.config.timeout if body.timeout is None else body.timeout)
    cell = context.tenant.cells.start(
        sandbox_id,
        body,
        lambda: stream(body.code, body.timeout, allow_input=body.allow_input, **_cell_options(body)),
        limit,
        context.running_output(sandbox_id, body.max_output_bytes),
    )
    return follow(context, cell)


def _cell_verb(context: Context, sandbox_id: str, name: str, body: CellRequest) -> Callable[..., Any]:
    context.facts['kernel'] = body.kernel
    context.check_call_timeout(body.timeout)
    context.service.policy.check_output_bytes(body.max_output_bytes)
    return _verb(context, sandbox_id, name)


def _cell_options(body: CellRequest) -> dict[str, Any]:
    return {name: getattr(body, name) for name in _CELL_OPTIONS}


@route(
    'GET',
    '/sandbox/<sandbox_id>/cells/<cell_id>/events',
    query=EventsQuery,
    answers=EVENTS,
    events=CellEvent,
    lane='stream',
    tag='notebooks',
)
def follow_cell(context: Context, sandbox_id: str, cell_id: str, query: EventsQuery) -> Streamed:
    """Follow a cell from an event on: one JSON object a line, the last one ``end`` or ``error``.

    With ``Accept: text/event-stream`` the events come as such, and ``Last-Event-ID`` says where to continue.
    """
    context.service.policy.check_tool(TOOL, {})
    return resume(context, context.tenant.cells.get(sandbox_id, cell_id), query)


@performs('interrupt_cell')
def interrupt_cell(context: Context, sandbox_id: str, cell_id: str) -> None:
    """Interrupt a cell that is followed, or take it out of the queue; its last event then says how it ended.

    Outputs that a slow reader leaves no room for are left out of its events from then on, and are in its result all the same.
    """
    context.service.policy.check_tool(TOOL, {})
    context.tenant.cells.get(sandbox_id, cell_id).cancel()


# Kernels and questions to them, made from their rows ----------------------------------------------------------------------


def _performer(name: str) -> Callable[..., Any]:
    """Return what asks a notebook sandbox, by its method of the same name, for what the address and the body say."""

    def perform(context: Context, sandbox_id: str, kernel: str | None = None, body: Any = None) -> Any:
        asked = {} if body is None else {each.name: getattr(body, each.name) for each in attrs.fields(type(body))}
        if isinstance(body, AskRequest):
            asked['timeout'] = _ask_seconds(context, body.timeout)
        if isinstance(body, KernelRequest):
            context.facts['kernel'] = body.name
        method = _verb(context, sandbox_id, name)
        if kernel is None:
            return method(**asked)
        return method(kernel) if body is None else method(**asked, kernel=kernel)

    return perform


def _ask_seconds(context: Context, timeout: float | None) -> float:
    """Return how long a question may take: what was asked for or, if nothing was, what the policy leaves of the usual."""
    policy = context.service.policy
    seconds = check_timeout(timeout)
    if seconds is None:
        return ASK_SECONDS if policy.max_timeout is None else min(ASK_SECONDS, policy.max_timeout)
    policy.check_call_timeout(seconds, 'timeout')
    return seconds


for _action in ACTIONS.values():
    if _action.tag == 'notebooks' and _action.text:
        add_action(_action, _performer(_action.name), _action.text)
