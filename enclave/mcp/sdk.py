"""The tools as a server of the official SDK, of either major (layer 6).

Both majors are served by their low-level server, which hands over requests as they came and sends what it is given. Results
are written as the protocol's JSON, which both validate. 1.x registers handlers by request class, 2.x takes them by keyword;
nothing else differs here.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import functools
import json
import logging
import os
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, TextIO

from attrs import frozen

import enclave
from enclave.aio.proxies import run
from enclave.errors import ConfigurationError, EnclaveError, ServerError
from enclave.managers.protocol import error_response
from enclave.mcp.sandboxes import CallerSandboxes
from enclave.mcp.tools import TOOLS, CallResponse, call

logger = logging.getLogger(__name__)

_PARSE_ERROR = -32700  # of JSON-RPC
PROGRESS_SECONDS = 1.0
"""How often a client that asked for it hears that a call is still running."""
INSTRUCTIONS = (
    'Runs code in sandboxes that are isolated from this machine. run_python and run_shell run programs to their end, run_cell '
    'keeps variables between calls and returns plots, start_command runs servers in the background. Files stay in the '
    'sandbox between calls. A program that fails is a result: read its output and exit code.'
)

FindCaller = Callable[[Any], CallerSandboxes]
"""Returns the caller of a request: the HTTP request, or None over stdio."""
Report = Callable[[float, str], Awaitable[None]]


def make_server(find_caller: FindCaller) -> Any:
    """Return the SDK's server, with the tools.

    Raises:
        ConfigurationError: The SDK is not installed.
    """
    try:
        from mcp.server.lowlevel import Server
    except ImportError as error:
        raise ConfigurationError(
            f"the Model Context Protocol's SDK is needed ({error}); install it with: pip install 'ms-enclave[mcp]'"
        ) from None
    return _make_first(Server, find_caller) if hasattr(Server, 'call_tool') else _make_second(Server, find_caller)


def _make_first(server_class: Any, find_caller: FindCaller) -> Any:
    """Return a server of the majors before 2."""
    import mcp.types as types

    server = server_class('enclave', version=enclave.__version__, instructions=INSTRUCTIONS)

    async def list_tools(_: Any) -> Any:
        return types.ServerResult(types.ListToolsResult.model_validate(tool_list()))

    async def call_tool(request: Any) -> Any:
        context = server.request_context
        token = None if context.meta is None else context.meta.progressToken

        async def report(seconds: float, message: str) -> None:
            await context.session.send_progress_notification(
                token, seconds, None, message, related_request_id=str(context.request_id)
            )

        made = await answer(
            find_caller(context.request),
            request.params.name,
            request.params.arguments,
            None if token is None else report,
        )
        return types.ServerResult(types.CallToolResult.model_validate(made))

    server.request_handlers[types.ListToolsRequest] = list_tools
    server.request_handlers[types.CallToolRequest] = call_tool
    return server


def _make_second(server_class: Any, find_caller: FindCaller) -> Any:
    """Return a server of the majors from 2 on."""

    async def list_tools(_context: Any, _parameters: Any) -> Any:
        return tool_list()

    async def call_tool(context: Any, parameters: Any) -> Any:
        async def report(seconds: float, message: str) -> None:
            await context.session.report_progress(seconds, None, message)

        return await answer(find_caller(context.request), parameters.name, parameters.arguments, report)

    return server_class(
        'enclave',
        version=enclave.__version__,
        instructions=INSTRUCTIONS,
        on_list_tools=list_tools,
        on_call_tool=call_tool,
    )


def tool_list() -> dict[str, Any]:
    """Return what ``tools/list`` answers."""
    return {
        'tools': [
            {
                'name': tool.name,
                'title': tool.title,
                'description': tool.description,
                'inputSchema': tool.schema,
                'annotations': {'title': tool.title, **tool.hints},
            }
            for tool in TOOLS.values()
        ]
    }


async def answer(
    sandboxes: CallerSandboxes, name: str, arguments: dict[str, Any] | None, report: Report | None
) -> dict[str, Any]:
    """Return what ``tools/call`` answers. Cancelling this await kills what the call runs in its sandbox."""
    try:
        made = await _with_progress(functools.partial(call, sandboxes, name, arguments), report)
    except EnclaveError as error:
        return failed(error)
    except Exception as error:
        logger.exception('the tool %s failed', name)
        text = f'the tool {name} failed inside the server ({type(error).__name__}); its log says why'
        return failed(ServerError(text))
    return as_json(made)


def failed(error: EnclaveError) -> dict[str, Any]:
    """Return a refusal or a failure in the protocol's form: its sentence for a model, its record for a program."""
    response = error_response(error)
    return {
        'content': [{'type': 'text', 'text': error.message}],
        'structuredContent': {'error': response.model_dump(mode='json')},
        'isError': True,
    }


async def _with_progress(work: Callable[[], CallResponse], report: Report | None) -> CallResponse:
    if report is None:
        return await run(work)
    started = time.monotonic()
    task = asyncio.ensure_future(run(work))
    try:
        while True:
            done, _ = await asyncio.wait({task}, timeout=PROGRESS_SECONDS)
            if done:
                return task.result()
            seconds = time.monotonic() - started
            await report(round(seconds, 1), f'running for {seconds:.0f} s')
    finally:
        task.cancel()  # does nothing once it has ended; the work's own clean-up continues by itself


def as_json(made: CallResponse) -> dict[str, Any]:
    """Return an answer in the protocol's form."""
    content: list[dict[str, Any]] = [{'type': 'text', 'text': made.text}]
    content += [{'type': 'image', 'mimeType': kind, 'data': data} for kind, data in made.images]
    content += [
        {
            'type': 'resource',
            'resource': {'uri': uri, 'mimeType': kind, 'blob': base64.b64encode(data).decode('ascii')},
        }
        for uri, kind, data in made.resources
    ]
    return {'content': content, 'structuredContent': dict(made.data), 'isError': False}


async def serve_stdio(sandboxes: CallerSandboxes) -> None:
    """Serve one client over standard input and output, until it closes them."""
    server = make_server(lambda _: sandboxes)
    import anyio
    from mcp.server.stdio import stdio_server

    # Descriptors of its own: what anything else here prints goes to standard error and not into the protocol.
    with _own_streams() as (source, sink):
        answers: Any = _Answers(anyio.wrap_file(sink), anyio.Lock())
        messages: Any = _Messages(anyio.wrap_file(source), answers)
        async with stdio_server(messages, answers) as (read_stream, write_stream):
            await server.run(read_stream, write_stream, server.create_initialization_options())


@contextlib.contextmanager
def _own_streams() -> Iterator[tuple[TextIO, TextIO]]:
    source = os.fdopen(os.dup(0), 'r', encoding='utf-8', errors='replace')
    sink = os.fdopen(os.dup(1), 'w', encoding='utf-8')
    os.dup2(2, 1)
    try:
        yield source, sink
    finally:
        with contextlib.suppress(OSError, ValueError):  # the client has gone, or the SDK has closed it
            sink.close()


@frozen
class _Answers:
    """Standard output as the SDK writes it: whole lines, of which others may be between its own."""

    file: Any
    lock: Any

    async def write(self, line: str) -> None:
        """Write a line and have it sent."""
        async with self.lock:
            await self.file.write(line)
            await self.file.flush()

    async def flush(self) -> None:
        """Do nothing: each line is sent when it is written."""


@frozen
class _Messages:
    """Standard input as the SDK reads it, without what its parser refuses: it would give that no answer, so it has one here."""

    file: Any
    answers: _Answers

    async def __aiter__(self) -> AsyncIterator[str]:
        async for line in self.file:
            refusal = refuse_unreadable(line)
            if refusal is None:
                yield line
            else:
                await self.answers.write(f'{refusal}\n')


_SURROGATE = re.compile(r'\\u[dD][89a-fA-F]')
_DEEP = 100
"""A line with fewer openings of lists and objects is nested less than any parser's limit."""


def refuse_unreadable(line: str) -> str | None:
    """Return the answer to a request that the SDK's parser does not take although it is JSON; None where it takes it.

    That is text with a lone surrogate, and what is nested too deep. What has no id cannot be answered and is left to the SDK.
    """
    if not _SURROGATE.search(line) and line.count('[') + line.count('{') < _DEEP:
        return None
    import pydantic_core

    try:
        pydantic_core.from_json(line)
    except ValueError as error:
        reason = str(error)
    else:
        return None
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        return None
    number = message.get('id') if isinstance(message, dict) and 'method' in message else None
    if isinstance(number, bool) or not isinstance(number, (int, str)):
        return None
    text = f'the message cannot be read: {reason}; text must be Unicode without lone surrogates'
    return json.dumps({'jsonrpc': '2.0', 'id': number, 'error': {'code': _PARSE_ERROR, 'message': text}})
