"""The addresses where programs are run (floor 6); see `enclave.languages`."""

from __future__ import annotations

import attrs

from enclave.languages.values import CodeRequest, CodeResult
from enclave.managers.protocol import PoolCodeRequest
from enclave.server.route import Context, route


@route(
    'POST',
    '/sandbox/<sandbox_id>/code',
    body=CodeRequest,
    answers=CodeResult,
    lane='call',
    is_repeatable=True,
    tag='programs',
)
def run_code(context: Context, sandbox_id: str, body: CodeRequest) -> CodeResult:
    """Compile and run a program in a sandbox, and return what became of it.

    Files go in and out as base64 text.
    """
    return context.tenant.manager.run_code(sandbox_id, checked_request(context, body, sandbox_id))


@route('POST', '/pool/code', body=PoolCodeRequest, answers=CodeResult, lane='call', is_repeatable=True, tag='programs')
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
