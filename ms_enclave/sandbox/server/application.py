"""The server as an application that other server programs can run: WSGI and ASGI."""

from __future__ import annotations

import asyncio
import io
import json
import queue
import sys
import threading
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any

from enclave.aio.proxies import run
from enclave.managers.keyfile import is_loopback

if TYPE_CHECKING:
    from ms_enclave.sandbox.server.server import SandboxServer

_NO_KEY = (
    'this server has no key, and is reached at an address of other machines: give it one, create_server(api_key=...), or run it '
    'on 127.0.0.1'
)
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class Application:
    """Calls it with ``(environ, start_response)`` or with ``(scope, receive, send)``. Lives as long as its server.

    The sandboxes are taken away when the server that runs it says that it ends (ASGI's lifespan), else with `SandboxServer.stop`.
    """

    def __init__(self, server: SandboxServer) -> None:
        self._server = server
        self._making = threading.Lock()  # guards the one below
        self._made: Any = None

    def __call__(self, *args: Any) -> Any:
        """Answer a request."""
        if len(args) == 2:
            return self._app(*args)
        if len(args) == 1:  # the older form of ASGI
            return lambda receive, send: self._serve(args[0], receive, send)
        return self._serve(*args)

    def _app(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer as WSGI has it. A server without a key is for this machine only."""
        server = self._server
        with self._making:
            if self._made is None:
                self._made = server.make_wsgi_app()
        if not server.needs_key and not server.is_insecure and not is_loopback(environ.get('SERVER_NAME', '')):
            body = json.dumps({'detail': _NO_KEY, 'message': _NO_KEY, 'code': 'authentication'}).encode()
            start_response(
                '401 Unauthorized', [('Content-Type', 'application/json'), ('Content-Length', str(len(body)))]
            )
            return [body]
        found: Iterable[bytes] = self._made(environ, start_response)
        return found

    async def _serve(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if scope['type'] == 'lifespan':
            await self._live(receive, send)
        elif scope['type'] == 'http':
            await self._answer(scope, receive, send)
        else:
            raise RuntimeError(f'this server has no {scope["type"]}')

    async def _live(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message['type'] == 'lifespan.startup':
                await send({'type': 'lifespan.startup.complete'})
            else:
                await run(self._server.stop)
                await send({'type': 'lifespan.shutdown.complete'})
                return

    async def _answer(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        body = io.BytesIO()
        more = True
        while more:
            message = await receive()
            if message['type'] == 'http.disconnect':
                return
            body.write(message.get('body', b''))
            more = message.get('more_body', False)
        size = body.tell()
        body.seek(0)
        steps: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        environ = _environ(scope, body, size)
        work = asyncio.ensure_future(run(lambda: _call(self._app, environ, steps)))
        try:
            while (step := await run(steps.get)) is not None:
                await send(step)
            await work
        finally:
            work.cancel()


def _environ(scope: dict[str, Any], body: io.BytesIO, size: int) -> dict[str, Any]:
    host, port = scope.get('server') or ('127.0.0.1', 80)
    client = scope.get('client') or ('', 0)
    environ: dict[str, Any] = {
        'REQUEST_METHOD': scope['method'],
        'SCRIPT_NAME': scope.get('root_path', ''),
        'PATH_INFO': scope['path'].encode('utf-8').decode('latin-1'),
        'QUERY_STRING': scope.get('query_string', b'').decode('latin-1'),
        'SERVER_NAME': str(host),
        'SERVER_PORT': str(port or 0),
        'SERVER_PROTOCOL': f'HTTP/{scope.get("http_version", "1.1")}',
        'REMOTE_ADDR': client[0],
        'wsgi.version': (1, 0),
        'wsgi.url_scheme': scope.get('scheme', 'http'),
        'wsgi.input': body,
        'wsgi.errors': sys.stderr,
        'wsgi.multithread': True,
        'wsgi.multiprocess': False,
        'wsgi.run_once': False,
        'CONTENT_LENGTH': str(size),
    }
    for name, value in scope.get('headers', ()):
        key = name.decode('latin-1').upper().replace('-', '_')
        if key == 'CONTENT_LENGTH':
            continue
        environ[key if key == 'CONTENT_TYPE' else f'HTTP_{key}'] = value.decode('latin-1')
    return environ


def _call(app: Callable[..., Iterable[bytes]], environ: dict[str, Any], steps: Any) -> None:
    """Have a WSGI application answer, and hand its answer over step by step; None is the end. Runs on a thread."""

    def start_response(status: str, headers: list[tuple[str, str]], _: Any = None) -> None:
        encoded = [(name.lower().encode('latin-1'), value.encode('latin-1')) for name, value in headers]
        steps.put({'type': 'http.response.start', 'status': int(status.split()[0]), 'headers': encoded})

    try:
        pieces = app(environ, start_response)
        try:
            for piece in pieces:
                steps.put({'type': 'http.response.body', 'body': piece, 'more_body': True})
            steps.put({'type': 'http.response.body', 'body': b'', 'more_body': False})
        finally:
            getattr(pieces, 'close', lambda: None)()
    finally:
        steps.put(None)
