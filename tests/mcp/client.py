"""A client of ``ms-enclave mcp`` over the official SDK of either major. Runs in an environment of its own.

    python client.py stdio KIND | python client.py http URL [KEY [OTHER_KEY]]

Prints a line for each step; its exit code is 0 when all held.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import sys
import time
from collections.abc import AsyncIterator
from importlib.metadata import version
from typing import Any

from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client

MAJOR = int(version('mcp').split('.')[0])
PLOT = """
import struct, zlib
from IPython.display import Image, display
def chunk(kind, data):
    return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))
pixels = zlib.compress(b'\\0' + b'\\xff\\0\\0' * 2 + b'\\0' + b'\\0\\0\\xff' * 2)
header = chunk(b'IHDR', struct.pack('>IIBBBBB', 2, 2, 8, 2, 0, 0, 0))
display(Image(b'\\x89PNG\\r\\n\\x1a\\n' + header + chunk(b'IDAT', pixels) + chunk(b'IEND', b'')))
"""


FAILED: list[str] = []


def check(what: str, holds: Any) -> None:
    """Print a step, and note one that does not hold."""
    print(('ok ' if holds else 'FAILED ') + what, flush=True)
    if not holds:
        FAILED.append(what)


def get(value: Any, *names: str) -> Any:
    """Return a field under any of its names: camel case in the first major, snake case in the second."""
    for name in names:
        if hasattr(value, name):
            return getattr(value, name)
    raise AttributeError(names[0])


def text(result: Any) -> str:
    """Return the text of a result."""
    return '\n'.join(each.text for each in result.content if each.type == 'text')


def is_error(result: Any) -> bool:
    """Return whether a call could not be made."""
    return bool(get(result, 'isError', 'is_error'))


def data(result: Any) -> dict[str, Any]:
    """Return the structured content of a result."""
    found: dict[str, Any] = get(result, 'structuredContent', 'structured_content')
    return found


@contextlib.asynccontextmanager
async def http_session(url: str, key: str | None) -> AsyncIterator[ClientSession]:
    """Open a session over streamable HTTP."""
    headers = {'Authorization': f'Bearer {key}'} if key else {}
    async with contextlib.AsyncExitStack() as stack:
        if MAJOR < 2:
            from mcp.client.streamable_http import streamablehttp_client

            read, write, _ = await stack.enter_async_context(streamablehttp_client(url, headers=headers))
        else:
            from mcp.client.streamable_http import streamable_http_client
            from mcp.shared._httpx_utils import create_mcp_http_client

            client = await stack.enter_async_context(create_mcp_http_client(headers=headers))
            read, write, *_ = await stack.enter_async_context(streamable_http_client(url, http_client=client))
        session = await stack.enter_async_context(ClientSession(read, write))
        await session.initialize()
        yield session


async def walk(session: ClientSession, sandbox: dict[str, str]) -> None:
    """Use every tool. ``sandbox`` names it, where that is needed."""

    async def use(name: str, **arguments: Any) -> Any:
        return await session.call_tool(name, {**sandbox, **arguments})

    tools = {tool.name: tool for tool in (await session.list_tools()).tools}
    check(
        'tools are listed with schemas',
        len(tools) == 15 and get(tools['run_python'], 'inputSchema', 'input_schema')['properties']['code'],
    )
    hints = tools['read_file'].annotations
    check('tools are annotated', get(hints, 'readOnlyHint', 'read_only_hint') is True)

    result = await use('run_python', code="import sys\nprint('out')\nprint('err', file=sys.stderr)\nsys.exit(3)")
    check(
        'a failing program is a result',
        not is_error(result) and data(result)['exit_code'] == 3 and 'out' in text(result),
    )
    check('both streams and the code are in the text', 'err' in text(result) and 'exit code 3' in text(result))
    result = await use('run_shell', command='echo $((6*7)); pwd')
    check('run_shell', text(result).startswith('42'))
    result = await use('run_python', code='while True: pass', timeout=1)
    check('a time limit holds', data(result)['timed_out'] is True and 'timed out' in text(result))

    result = await use('run_code', code='read x; echo $((x + 1))', language='bash', stdin='41\n')
    check('run_code', text(result).startswith('42'))
    unknown = await use('run_code', code='x', language='klingon')
    check('an unknown language is an error that names it', is_error(unknown) and 'klingon' in text(unknown))

    await use('write_file', path='notes/a.txt', content='häß\n')
    check('write and read', data(await use('read_file', path='notes/a.txt'))['content'] == 'häß\n')
    blob = bytes(range(256)) * 10
    await use('upload_file', path='b.bin', content=base64.b64encode(blob).decode())
    result = await use('download_file', path='b.bin')
    resource = next(each.resource for each in result.content if each.type == 'resource')
    check('bytes both ways', base64.b64decode(resource.blob) == blob and str(resource.uri).startswith('sandbox://'))
    check('binary is no text', is_error(await use('read_file', path='b.bin')))
    listed = data(await use('list_files', path='.', recursive=True))['entries']
    check('list_files', {'notes/a.txt', 'b.bin'} <= {entry['path'] for entry in listed})
    missing = await use('read_file', path='nowhere.txt')
    check('a missing file is an error that names it', is_error(missing) and 'nowhere.txt' in text(missing))
    wrong = await session.call_tool('run_python', {**sandbox, 'cod': 'print(1)'})
    check('a wrong argument is an error that names it', is_error(wrong) and 'code' in text(wrong))
    bad = await session.call_tool('run_perl', {})
    check('an unknown tool is an error that names what there is', is_error(bad) and 'run_python' in text(bad))

    started = await use('start_command', command='for i in 1 2 3; do echo line $i; done; sleep 600')
    command_id = data(started)['command_id']
    seen = ''
    while 'line 3' not in seen:
        seen += data(await session.call_tool('read_command_output', {'command_id': command_id, 'timeout': 10}))[
            'output'
        ]
    stopped = await session.call_tool('stop_command', {'command_id': command_id})
    check('a background command is read and stopped', data(stopped)['running'] is False)

    heard: list[float] = []

    async def progress(value: float, total: float | None, message: str | None) -> None:
        heard.append(value)

    await session.call_tool('run_shell', {**sandbox, 'command': 'sleep 2.5'}, progress_callback=progress)
    check('progress is reported', len(heard) >= 1)

    await cancelled(session, sandbox)

    result = await use('run_cell', code=PLOT)
    if not is_error(result):
        check('a plot is an image', any(each.type == 'image' for each in result.content))
        await use('run_cell', code='x = 20')
        check('a kernel keeps variables', '41' in text(await use('run_cell', code='2 * x + 1')))
        broken = await use('run_cell', code='1/0')
        check('an exception is a result', not is_error(broken) and 'ZeroDivisionError' in text(broken))
    else:
        check('without kernels the model hears what to do', 'create_sandbox' in text(result))


async def cancelled(session: ClientSession, sandbox: dict[str, str]) -> None:
    """Cancel a call, and see that what it ran is gone."""
    asking = asyncio.ensure_future(
        session.call_tool('run_shell', {**sandbox, 'command': 'echo $$ > pid; exec sleep 987'})
    )
    for _ in range(200):
        listed = await session.call_tool('run_shell', {**sandbox, 'command': 'cat pid 2>/dev/null || true'})
        if data(listed)['stdout'].strip():
            break
        await asyncio.sleep(0.05)
    if MAJOR < 2:  # it sends no cancellation by itself
        import mcp.types as types

        number = max(session._response_streams)  # the requests that continue
        note = types.CancelledNotification(params=types.CancelledNotificationParams(requestId=number, reason='test'))
        await session.send_notification(types.ClientNotification(note))
    asking.cancel()
    with contextlib.suppress(asyncio.CancelledError, Exception):
        await asking
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        alive = await session.call_tool(
            'run_shell', {**sandbox, 'command': 'kill -0 $(cat pid) 2>/dev/null && echo yes || echo no'}
        )
        if data(alive)['stdout'].strip() == 'no':
            break
        await asyncio.sleep(0.1)
    check('a cancelled call is killed inside', data(alive)['stdout'].strip() == 'no')


async def over_stdio(arguments: list[str]) -> None:
    """One sandbox a process."""
    parameters = StdioServerParameters(command=sys.executable, args=['-m', 'enclave.cli', 'mcp', *arguments])
    async with stdio_client(parameters) as (read, write), ClientSession(read, write) as session:
        await session.initialize()
        await walk(session, {})
        listed = data(await session.call_tool('list_sandboxes', {}))['sandboxes']
        check('all calls went to one sandbox', len(listed) == 1)
        made = data(await session.call_tool('create_sandbox', {'notebook': False}))['sandbox_id']
        answer = await session.call_tool('run_shell', {'command': 'ls', 'sandbox_id': made})
        check('another sandbox has other files', 'b.bin' not in text(answer))
        await session.call_tool('delete_sandbox', {'sandbox_id': made})
        gone = await session.call_tool('run_shell', {'command': 'ls', 'sandbox_id': made})
        check('a deleted one is gone', is_error(gone) and made in text(gone))
        refused = await session.call_tool('create_sandbox', {'image': 'evil:latest'})
        check('images are a closed list', is_error(refused) and '--allow-image' in text(refused))


async def over_http(url: str, key: str | None, other: str | None) -> None:
    """Explicit ids, owned by keys."""
    async with http_session(url, key) as session:
        nameless = await session.call_tool('run_shell', {'command': 'ls'})
        check('sandbox_id is asked for', is_error(nameless) and 'create_sandbox' in text(nameless))
        made = data(await session.call_tool('create_sandbox', {}))['sandbox_id']
        await walk(session, {'sandbox_id': made})
        started = data(await session.call_tool('start_command', {'command': 'sleep 600', 'sandbox_id': made}))[
            'command_id'
        ]
        async with http_session(url, key) as second:
            answer = await second.call_tool('run_shell', {'command': 'ls', 'sandbox_id': made})
            check('another session of the key finds the sandbox', 'b.bin' in text(answer))
        if other is not None:
            async with http_session(url, other) as stranger:
                for name, arguments in (
                    ('run_shell', {'command': 'ls', 'sandbox_id': made}),
                    ('read_file', {'path': 'b.bin', 'sandbox_id': made}),
                    ('delete_sandbox', {'sandbox_id': made}),
                    ('read_command_output', {'command_id': started}),
                    ('stop_command', {'command_id': started}),
                ):
                    check(f'another key cannot {name}', is_error(await stranger.call_tool(name, arguments)))
                check('another key sees none', data(await stranger.call_tool('list_sandboxes', {}))['sandboxes'] == [])
        await session.call_tool('delete_sandbox', {'sandbox_id': made})


def main() -> None:
    """Run the steps."""
    print(json.dumps({'mcp': version('mcp')}), flush=True)
    how, *rest = sys.argv[1:]
    if how == 'stdio':
        asyncio.run(over_stdio(rest))
    else:
        asyncio.run(over_http(rest[0], rest[1] if len(rest) > 1 else None, rest[2] if len(rest) > 2 else None))
    print('all held' if not FAILED else f'{len(FAILED)} did not hold', flush=True)
    sys.exit(bool(FAILED))


if __name__ == '__main__':
    main()
