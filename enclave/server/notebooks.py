"""The addresses of notebook sandboxes (layer 6): cells and kernels, by the verbs of `NotebookSandbox`.

To ask anything of a kernel is to use a notebook, so the one that may not use the tool ``notebook_executor`` gets in by none of
these.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs

from enclave.cells import CellResult, Completion, Inspection, KernelInfo, KernelSpec, Variable
from enclave.deadline import check_timeout
from enclave.managers.protocol import (
    AskRequest,
    CellEvent,
    CellRequest,
    CellStreamRequest,
    CheckRequest,
    CheckResponse,
    CompleteRequest,
    DoneResponse,
    InputRequest,
    InspectRequest,
    KernelRequest,
)
from enclave.sandboxes.notebook.sandbox import ASK_SECONDS
from enclave.server.events import EventsQuery, follow, resume
from enclave.server.route import EVENTS, Context, Streamed, route

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


@route(
    'POST',
    '/sandbox/<sandbox_id>/cells',
    body=CellRequest,
    answers=CellResult,
    lane='call',
    is_repeatable=True,
    tag='notebooks',
)
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


@route('DELETE', '/sandbox/<sandbox_id>/cells/<cell_id>', answers=DoneResponse, tag='notebooks')
def interrupt_cell(context: Context, sandbox_id: str, cell_id: str) -> DoneResponse:
    """Interrupt a cell that is followed, or take it out of the queue; its last event then says how it ended.

    Outputs that a slow reader leaves no room for are left out of its events from then on, and are in its result all the same.
    """
    context.service.policy.check_tool(TOOL, {})
    context.tenant.cells.get(sandbox_id, cell_id).cancel()
    return DoneResponse(message=f'cell {cell_id} is interrupted')


# Kernels --------------------------------------------------------------------------------------------------------------


@route('GET', '/sandbox/<sandbox_id>/kernels', answers=list[KernelInfo], tag='notebooks')
def list_kernels(context: Context, sandbox_id: str) -> list[KernelInfo]:
    """Return the kernels there are, in the order of their creation."""
    found: list[KernelInfo] = _verb(context, sandbox_id, 'list_kernels')()
    return found


@route('GET', '/sandbox/<sandbox_id>/kernelspecs', answers=list[KernelSpec], lane='call', tag='notebooks')
def list_kernel_specs(context: Context, sandbox_id: str) -> list[KernelSpec]:
    """Return the kinds of kernels that the image has, by name."""
    found: list[KernelSpec] = _verb(context, sandbox_id, 'list_kernel_specs')()
    return found


@route(
    'POST',
    '/sandbox/<sandbox_id>/kernels',
    body=KernelRequest,
    answers=KernelInfo,
    lane='call',
    is_repeatable=True,
    tag='notebooks',
)
def create_kernel(context: Context, sandbox_id: str, body: KernelRequest) -> KernelInfo:
    """Start a further kernel, and answer when it takes cells."""
    context.facts['kernel'] = body.name
    create = _verb(context, sandbox_id, 'create_kernel')
    found: KernelInfo = create(body.name, body.spec, cwd=body.cwd, env=body.env, exist_ok=body.exist_ok)
    return found


# What ends something takes the lane of endings, so that it never waits behind what runs.


@route(
    'DELETE',
    '/sandbox/<sandbox_id>/kernels/<kernel>',
    answers=DoneResponse,
    lane='end',
    is_repeatable=True,
    tag='notebooks',
)
def delete_kernel(context: Context, sandbox_id: str, kernel: str) -> DoneResponse:
    """End a kernel and forget its name; a cell that runs in it ends with an error."""
    _verb(context, sandbox_id, 'delete_kernel')(kernel)
    return DoneResponse(message=f'kernel {kernel} is deleted')


@route(
    'POST',
    '/sandbox/<sandbox_id>/kernels/<kernel>/interrupt',
    answers=DoneResponse,
    lane='end',
    is_repeatable=True,
    tag='notebooks',
)
def interrupt_kernel(context: Context, sandbox_id: str, kernel: str) -> DoneResponse:
    """Interrupt the cell that runs in a kernel, as Ctrl-C does; where none runs, nothing happens."""
    _verb(context, sandbox_id, 'interrupt_kernel')(kernel)
    return DoneResponse(message=f'kernel {kernel} is interrupted')


@route(
    'POST',
    '/sandbox/<sandbox_id>/kernels/<kernel>/input',
    body=InputRequest,
    answers=DoneResponse,
    lane='end',
    is_repeatable=True,
    tag='notebooks',
)
def answer_input(context: Context, sandbox_id: str, kernel: str, body: InputRequest) -> DoneResponse:
    """Give the cell that runs in a kernel the line that it asked for. Only a cell that was allowed to ask waits for one."""
    _verb(context, sandbox_id, 'answer_input')(body.text, kernel=kernel)
    return DoneResponse(message=f'the cell of kernel {kernel} has its input')


@route(
    'POST',
    '/sandbox/<sandbox_id>/kernels/<kernel>/restart',
    answers=DoneResponse,
    lane='end',
    is_repeatable=True,
    tag='notebooks',
)
def restart_kernel(context: Context, sandbox_id: str, kernel: str) -> DoneResponse:
    """Give a kernel a new process, without the old one's state, and answer when it takes cells.

    A cell that runs ends with an error that says so; cells that wait run in the new process.
    """
    _verb(context, sandbox_id, 'restart_kernel')(kernel)
    return DoneResponse(message=f'kernel {kernel} is restarted')


# Questions ------------------------------------------------------------------------------------------------------------


@route(
    'POST',
    '/sandbox/<sandbox_id>/kernels/<kernel>/complete',
    body=CompleteRequest,
    answers=Completion,
    lane='call',
    is_repeatable=True,
    tag='notebooks',
)
def complete_code(context: Context, sandbox_id: str, kernel: str, body: CompleteRequest) -> Completion:
    """Return what could stand at a place in code."""
    found: Completion = _ask(context, sandbox_id, 'complete_code', kernel, body)
    return found


@route(
    'POST',
    '/sandbox/<sandbox_id>/kernels/<kernel>/inspect',
    body=InspectRequest,
    answers=Inspection,
    lane='call',
    is_repeatable=True,
    tag='notebooks',
)
def inspect_code(context: Context, sandbox_id: str, kernel: str, body: InspectRequest) -> Inspection:
    """Return what a kernel knows of the name at a place in code."""
    found: Inspection = _ask(context, sandbox_id, 'inspect_code', kernel, body)
    return found


@route(
    'POST',
    '/sandbox/<sandbox_id>/kernels/<kernel>/check',
    body=CheckRequest,
    answers=CheckResponse,
    lane='call',
    is_repeatable=True,
    tag='notebooks',
)
def check_complete(context: Context, sandbox_id: str, kernel: str, body: CheckRequest) -> CheckResponse:
    """Return whether code could be run as it is."""
    status, indent = _ask(context, sandbox_id, 'check_complete', kernel, body)
    return CheckResponse(status=status, indent=indent)


@route(
    'POST',
    '/sandbox/<sandbox_id>/kernels/<kernel>/variables',
    body=AskRequest,
    answers=list[Variable],
    lane='call',
    is_repeatable=True,
    tag='notebooks',
)
def list_variables(context: Context, sandbox_id: str, kernel: str, body: AskRequest) -> list[Variable]:
    """Return the variables of a Python kernel, by name. It is a POST, since the kernel has to run something for it."""
    found: list[Variable] = _ask(context, sandbox_id, 'list_variables', kernel, body)
    return found


def _ask(context: Context, sandbox_id: str, verb: str, kernel: str, body: AskRequest) -> Any:
    """Ask a kernel, within the time that was asked for or, if none was, what the policy leaves of the usual."""
    policy = context.service.policy
    seconds = check_timeout(body.timeout)
    if seconds is None:
        seconds = ASK_SECONDS if policy.max_timeout is None else min(ASK_SECONDS, policy.max_timeout)
    else:
        policy.check_call_timeout(seconds, 'timeout')
    words = attrs.asdict(body, filter=lambda attribute, _: attribute.name != 'timeout')
    return _verb(context, sandbox_id, verb)(**words, kernel=kernel, timeout=seconds)
