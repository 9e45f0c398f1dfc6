"""Every address of the server but those of notebooks (layer 6). A handler decides nothing but what to ask of whom; checks are the
policy's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from attrs import frozen

from enclave import wire
from enclave.cancellation import Cancellation
from enclave.errors import CallCancelledError
from enclave.labels import check_labels
from enclave.managers.base import SandboxManager
from enclave.managers.protocol import (
    AcquireRequest,
    AliveResponse,
    CancelResponse,
    InputResponse,
    PauseRequest,
    PoolRequest,
    PoolToolRequest,
    ProcessEvent,
    ProcessInfo,
    ReleaseRequest,
    RenewRequest,
    RenewResponse,
    ResizeRequest,
    SandboxesResponse,
    SandboxResponse,
    SignalRequest,
    ToolRequest,
)
from enclave.records import HealthCheckResult, SandboxInfo, ToolResult
from enclave.sandboxes.process import Process
from enclave.server import metrics, openapi
from enclave.server.events import EventsQuery, follow, resume
from enclave.server.processes import LiveProcess
from enclave.server.route import (
    EVENTS,
    HTML,
    JSON_OPTIONS,
    Context,
    RawBody,
    Streamed,
    Text,
    performs,
    route,
)
from enclave.server.running import RunningCall
from enclave.server.views import get_info, list_infos, shown_health
from enclave.tools.schema import argument
from enclave.verb_requests import BYTES, StartProcess

PIECE_BYTES = 256 << 10

# Reply ----------------------------------------------------------------------------------------------------------------


@route('GET', '/healthz', answers=AliveResponse, is_open=True, while_draining=True, tag='server')
def get_alive(context: Context) -> AliveResponse:
    """Say that the server answers; needs no key and asks nobody."""
    return AliveResponse()


@route('GET', '/health', answers=HealthCheckResult, while_draining=True, tag='server')
def get_health(context: Context) -> HealthCheckResult:
    """Say whether sandboxes can be made.

    ``details.backends`` says of each kind in use whether it answers. The answer may be a second old.
    """
    return shown_health(context.service.health(context.tenant))


@route('GET', '/stats', answers=dict[str, Any], while_draining=True, tag='server')
def get_stats(context: Context) -> dict[str, Any]:
    """Return numbers about this key's sandboxes and pools."""
    return context.tenant.manager.get_stats()


@route('GET', '/calls', answers=list[RunningCall], while_draining=True, tag='server')
def list_calls(context: Context) -> list[RunningCall]:
    """Return the calls of this key that run, the longest first."""
    return context.tenant.calls.list()


@route('GET', '/limits', answers=dict[str, Any], while_draining=True, tag='server')
def get_limits(context: Context) -> dict[str, Any]:
    """Return what the policy allows this key, by the names of its rules."""
    shown = context.service.policy.model_dump(mode='json')
    shown['max_sandboxes'] = context.tenant.max_sandboxes
    shown['max_calls_per_key'] = context.tenant.max_calls
    return shown


@route('GET', '/metrics', answers=metrics.CONTENT_TYPE, while_draining=True, tag='server')
def get_metrics(context: Context) -> Text:
    """Return numbers about the whole server, for Prometheus."""
    return Text(context.service.metrics_text(), metrics.CONTENT_TYPE)


@route('GET', '/openapi.json', answers=dict[str, Any], while_draining=True, tag='server')
def get_openapi(context: Context) -> dict[str, Any]:
    """Return this description, as OpenAPI 3.1."""
    return openapi.document()


@route('GET', '/docs', answers=HTML, while_draining=True, tag='server')
def get_docs(context: Context) -> Text:
    """Show this description as a page."""
    return Text(openapi.page(), HTML)


@route('GET', '/redoc', answers=HTML, while_draining=True, tag='server')
def get_redoc(context: Context) -> Text:
    """Show this description as a page, under the address that other servers have it at too."""
    return Text(openapi.page(), HTML)


# Sandboxes ------------------------------------------------------------------------------------------------------------


@frozen(kw_only=True)
class CreateQuery:
    """How to make a sandbox."""

    sandbox_type: str | None = argument(default=None, description="The kind of sandbox; default is the server's own.")
    sandbox_id: str | None = argument(default=None, description='An id of your own.')
    ttl: float | None = argument(default=None, minimum=0, description='Seconds it lives; 0 is for ever.')
    idle_timeout: float | None = argument(
        default=None, minimum=0, description='Seconds it lives without a call; 0 is for ever.'
    )
    labels: str | None = argument(default=None, description='Labels to find it by, as a JSON object of strings.')


@route(
    'POST',
    '/sandbox/create',
    query=CreateQuery,
    body=JSON_OPTIONS,
    answers=SandboxResponse,
    lane='call',
    is_repeatable=True,
    tag='sandboxes',
)
def create_sandbox(context: Context, query: CreateQuery, body: Any) -> SandboxResponse:
    """Make and start a sandbox.

    The body holds the options of its kind; without one the server's own configuration is taken.
    """
    service, tenant = context.service, context.tenant
    asked = service.checked(tenant, query.sandbox_type, body)
    limits = tenant.manager.config
    ttl = service.policy.lifetime('default' if query.ttl is None else query.ttl, limits.ttl)
    with tenant.reserved(1), service.naming(tenant, query.sandbox_id):
        made = tenant.manager.create_sandbox(
            asked.kind,
            asked.config,
            query.sandbox_id,
            ttl=ttl,
            idle_timeout='default' if query.idle_timeout is None else query.idle_timeout,
            labels=_labels(query.labels),
        )
    asked.note(tenant, (made,))
    context.facts['sandbox_id'] = made
    if context.cancellation.is_cancelled:  # too late for the manager to notice: nobody would ever learn the id
        tenant.manager.delete_sandbox(made)
        raise CallCancelledError(f'the creation of sandbox {made} was cancelled; nothing of it is left')
    return SandboxResponse(sandbox_id=made)


def _labels(text: str | None) -> dict[str, str]:
    return {} if text is None else check_labels(wire.from_json(text, what='labels'))


@frozen(kw_only=True)
class ListQuery:
    """Which sandboxes to list."""

    status: str | None = argument(default=None, description='Only those in this state, like "running".')
    labels: str | None = argument(default=None, description='Only those with all of these labels, a JSON object.')


@route('GET', '/sandboxes', query=ListQuery, answers=list[SandboxInfo], while_draining=True, tag='sandboxes')
def list_sandboxes(context: Context, query: ListQuery) -> list[SandboxInfo]:
    """Return what can be said of all sandboxes of this key, oldest first."""
    return list_infos(context.tenant, query.status, labels=_labels(query.labels))


@performs('cleanup_all_sandboxes')
def cleanup_all_sandboxes(context: Context) -> SandboxesResponse:
    """Delete all sandboxes of this key, and dissolve its pools."""
    context.tenant.forget_all()
    return SandboxesResponse(sandbox_ids=context.tenant.manager.cleanup_all_sandboxes())


@performs('get_sandbox_info')
def get_sandbox_info(context: Context, sandbox_id: str) -> SandboxInfo:
    """Return what can be said of a sandbox."""
    return get_info(context.tenant, sandbox_id)


@performs('is_sandbox_alive')
def is_sandbox_alive(context: Context, sandbox_id: str) -> CancelResponse:
    """Ask the sandbox itself whether it works; ``found`` is whether it answered."""
    return CancelResponse(found=context.tenant.manager._existing(sandbox_id).is_alive())


@performs('stop_sandbox')
def stop_sandbox(context: Context, sandbox_id: str) -> None:
    """Stop a sandbox, which stays in the list as stopped."""
    context.tenant.manager.stop_sandbox(sandbox_id)


@performs('delete_sandbox')
def delete_sandbox(context: Context, sandbox_id: str) -> None:
    """Take a sandbox away, in whatever state it is."""
    context.tenant.manager.delete_sandbox(sandbox_id)
    context.tenant.forget(sandbox_id)


@performs('renew')
def renew(context: Context, sandbox_id: str, body: RenewRequest) -> RenewResponse:
    """Let a sandbox live some seconds from now."""
    asked = body.ttl
    if asked != 'default':
        asked = context.service.policy.lifetime(asked, None)
    return RenewResponse(expires_at=context.tenant.manager.renew(sandbox_id, asked, on_expiry=body.on_expiry))


@performs('pause_sandbox')
def pause_sandbox(context: Context, sandbox_id: str, body: PauseRequest) -> RenewResponse:
    """Keep all that is in a sandbox from running; ``expires_at`` is when it is removed if nobody resumes it."""
    asked = body.ttl if body.ttl == 'default' else context.service.policy.lifetime(body.ttl, None)
    return RenewResponse(expires_at=context.tenant.manager.pause_sandbox(sandbox_id, ttl=asked))


@performs('resume_sandbox')
def resume_sandbox(context: Context, sandbox_id: str) -> RenewResponse:
    """Let a paused sandbox continue, with the lifetime it had left."""
    return RenewResponse(expires_at=context.tenant.manager.resume_sandbox(sandbox_id))


# Tools and commands ---------------------------------------------------------------------------------------------------


@performs('execute_tool')
def execute_tool(context: Context, body: ToolRequest) -> ToolResult:
    """Run a tool in a sandbox, to its end."""
    context.facts.update(sandbox_id=body.sandbox_id, tool_name=body.tool_name)
    parameters = context.service.policy.limited_parameters(body.tool_name, body.parameters)
    context.check_output(body.sandbox_id, None, tool=body.tool_name, max_chars=body.max_chars)
    with context.offering_outlet():
        return context.tenant.manager.execute_tool(
            body.sandbox_id, body.tool_name, parameters, max_chars=body.max_chars
        )


@performs('get_sandbox_tools')
def get_sandbox_tools(context: Context, sandbox_id: str) -> dict[str, Any]:
    """Return a sandbox's tools as ``{name: OpenAI-style function schema}``."""
    return context.tenant.manager.get_sandbox_tools(sandbox_id)


# Processes ------------------------------------------------------------------------------------------------------------


@route(
    'POST',
    '/sandbox/<sandbox_id>/stream',
    body=StartProcess,
    answers=EVENTS,
    events=ProcessEvent,
    lane='stream',
    tag='processes',
)
def stream_command(context: Context, sandbox_id: str, body: StartProcess) -> Streamed:
    """Run a command and follow it: one JSON object a line, as things happen.

    The first event is ``started`` and names the process, whose events can be taken up again after a broken connection. Without
    anybody who follows it, the command is killed after 15 seconds. With ``Accept: text/event-stream`` the events come as such.
    """
    return follow(context, _start_process(context, sandbox_id, body, attended=True))


@performs('start_process')
def start_process(context: Context, sandbox_id: str, body: StartProcess) -> ProcessInfo:
    """Start a command and return while it runs. It continues until it ends, is killed, or its sandbox stops."""
    return _start_process(context, sandbox_id, body, attended=False).info()


def _start_process(context: Context, sandbox_id: str, body: StartProcess, *, attended: bool) -> LiveProcess:
    context.check_call_timeout(body.timeout)
    manager = context.tenant.manager
    return context.tenant.processes.start(
        sandbox_id,
        lambda: cast(Process, manager.perform(sandbox_id, body)),
        attended=attended,
        room=context.running_output(sandbox_id, body.max_output_bytes),
    )


@performs('list_processes')
def list_processes(context: Context, sandbox_id: str) -> list[ProcessInfo]:
    """Return the processes of a sandbox that were started here, oldest first."""
    context.tenant.manager._existing(sandbox_id)
    return [live.info() for live in context.tenant.processes.of(sandbox_id)]


@performs('get_process')
def get_process(context: Context, sandbox_id: str, process_id: str) -> ProcessInfo:
    """Return what can be said of a process, its result when it has ended."""
    return context.tenant.processes.get(sandbox_id, process_id).info()


@route(
    'GET',
    '/sandbox/<sandbox_id>/processes/<process_id>/events',
    query=EventsQuery,
    answers=EVENTS,
    events=ProcessEvent,
    lane='stream',
    tag='processes',
)
def follow_process(context: Context, sandbox_id: str, process_id: str, query: EventsQuery) -> Streamed:
    """Follow a process from an event on: one JSON object a line, the last one ``end`` or ``error``.

    With ``Accept: text/event-stream`` the events come as such, and ``Last-Event-ID`` says where to continue.
    """
    return resume(context, context.tenant.processes.get(sandbox_id, process_id), query)


@frozen(kw_only=True)
class InputQuery:
    """How to send input."""

    eof: bool = argument(default=False, description='Say that no more input comes after this.')


@route(
    'POST',
    '/sandbox/<sandbox_id>/processes/<process_id>/input',
    query=InputQuery,
    body=BYTES,
    answers=InputResponse,
    lane='call',
    tag='processes',
)
def write_input(context: Context, sandbox_id: str, process_id: str, query: InputQuery, body: RawBody) -> InputResponse:
    """Send input to a process that was started with ``open_stdin``; answers when the program has room for it."""
    process = context.tenant.processes.get(sandbox_id, process_id).process
    accepted = True
    while accepted and (piece := body.stream.read(PIECE_BYTES)):
        accepted = _write_piece(process.write, piece, context.cancellation)
    if query.eof:
        process.close_stdin()
    return InputResponse(accepted=accepted)


def _write_piece(write: Callable[..., bool], piece: bytes, cancellation: Cancellation) -> bool:
    return False if cancellation.is_cancelled else write(piece)


@performs('send_signal')
def send_signal(context: Context, sandbox_id: str, process_id: str, body: SignalRequest) -> None:
    """Send a signal to a process."""
    context.tenant.processes.get(sandbox_id, process_id).process.send_signal(body.signal, group=body.group)


@performs('resize_terminal')
def resize_terminal(context: Context, sandbox_id: str, process_id: str, body: ResizeRequest) -> None:
    """Give the terminal of a process its new size."""
    context.tenant.processes.get(sandbox_id, process_id).process.resize(body.rows, body.columns)


@performs('kill_process')
def kill_process(context: Context, sandbox_id: str, process_id: str) -> None:
    """Kill a process and everything it started; its result stays to be read for a while."""
    context.tenant.processes.get(sandbox_id, process_id).process.kill()


# Calls ----------------------------------------------------------------------------------------------------------------


@route('POST', '/calls/<call_key>/cancel', answers=CancelResponse, while_draining=True, tag='calls')
def cancel_call(context: Context, call_key: str) -> CancelResponse:
    """Cancel the call that was made with this idempotency key: what runs in the sandbox for it is killed."""
    return CancelResponse(found=context.service.repeats.cancel(context.tenant.name, call_key))


# Pools ----------------------------------------------------------------------------------------------------------------


@performs('initialize_pool')
def initialize_pool(context: Context, body: PoolRequest) -> SandboxesResponse:
    """Make a pool of warm sandboxes, or change its size, and return their ids. All start, or it is an error."""
    service, tenant = context.service, context.tenant
    manager = tenant.manager
    asked = service.checked(tenant, body.sandbox_type, body.config)
    size = manager.config.pool_size if body.pool_size is None else body.pool_size
    with tenant.reserved(_missing_members(manager, body.name, size)):
        ids = manager.initialize_pool(body.pool_size, asked.kind, asked.config, name=body.name)
    asked.note(tenant, ids)
    return SandboxesResponse(sandbox_ids=ids)


def _missing_members(manager: SandboxManager, name: str | None, size: int) -> int:
    """Return how many sandboxes a pool of this size may need beyond those it has."""
    pools = manager.get_stats()['pools']
    there = [pools[name]] if name in pools else list(pools.values()) if name is None else []
    if manager.config.max_sandboxes is not None:  # it counts by itself, also what pools grow by
        return max(0, size - max((each['size'] for each in there), default=0))
    most = manager.config.max_size_for(size) if size > 0 else 0
    return max(0, most - max((each['max_size'] for each in there), default=0))


@performs('execute_tool_in_pool')
def execute_tool_in_pool(context: Context, body: PoolToolRequest) -> ToolResult:
    """Run a tool in whichever sandbox of a pool is free."""
    context.facts['tool_name'] = body.tool_name
    parameters = context.service.policy.limited_parameters(body.tool_name, body.parameters)
    context.check_output(None, None, pool=body.pool, tool=body.tool_name, max_chars=body.max_chars)
    with context.offering_outlet():
        return context.tenant.manager.execute_tool_in_pool(
            body.tool_name, parameters, body.timeout, pool=body.pool, max_chars=body.max_chars
        )


@performs('acquire_sandbox')
def acquire_sandbox(context: Context, body: AcquireRequest) -> SandboxResponse:
    """Lease a sandbox of a pool. A lease that is not given back ends by itself, at the latest when the policy says."""
    ttl = context.service.policy.lease(body.ttl)
    found = context.tenant.manager.acquire_sandbox(body.timeout, pool=body.pool, ttl=ttl)
    context.facts['sandbox_id'] = found
    return SandboxResponse(sandbox_id=found)


@performs('release_sandbox')
def release_sandbox(context: Context, body: ReleaseRequest) -> None:
    """Give a leased sandbox back."""
    context.facts['sandbox_id'] = body.sandbox_id
    context.tenant.manager._existing(body.sandbox_id)
    context.tenant.manager.release_sandbox(body.sandbox_id)
