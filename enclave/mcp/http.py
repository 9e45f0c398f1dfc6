"""The tools over streamable HTTP, at ``/mcp`` (layer 6).

Every request carries its caller's key, which is the key of an enclave server: one that is named, or one that runs in this
process. What a caller makes is made there, so that its policy and its quotas hold, and keys cannot see each other's
sandboxes. Sessions of the protocol hold nothing: sandboxes and commands are named by ids that belong to the key.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

from attrs import define, field

from enclave import wire
from enclave.aio.proxies import run
from enclave.errors import AuthenticationError, EnclaveError, PolicyError
from enclave.managers.http import HttpSandboxManager
from enclave.mcp.sandboxes import CallerSandboxes
from enclave.mcp.sdk import make_server
from enclave.mcp.tools import UPLOAD_BYTES
from enclave.server.auth import HostGuard, sent_key

logger = logging.getLogger(__name__)

PATH = '/mcp'
IDLE_SECONDS = 3600.0
"""How long a key's connections and background commands are remembered after its last request."""
MAX_CALLERS = 1000
MAX_SESSIONS = 500
"""How many sessions of the protocol a caller may have; a further one ends that which was not used for the longest time."""
MAX_BODY_BYTES = UPLOAD_BYTES * 4 // 3 + (64 << 10)
NO_KEY = 'no-key-was-sent'
"""What a caller without a key is to the server behind: nobody, where that needs a key."""
_SCOPE_KEY = 'enclave.caller'
_SESSION_HEADER = 'mcp-session-id'


@define(eq=False)
class Callers:
    """The callers by key. Lives as long as the server; any thread may use it.

    Args:
        url: The enclave server that makes the sandboxes.
        prefers_notebook: As for `CallerSandboxes`.
    """

    url: str
    prefers_notebook: bool = False
    _lock: threading.Lock = field(factory=threading.Lock, init=False, repr=False)  # guards the one below
    _known: dict[bytes, tuple[CallerSandboxes, float]] = field(factory=dict, init=False, repr=False)

    def identify(self, key: str | None) -> CallerSandboxes:
        """Return the caller with a key.

        Raises:
            AuthenticationError: The server does not know the key, or needs one.
            EnclaveError: The server does not answer.
        """
        digest = hashlib.sha256((key or '').encode('utf-8', 'surrogateescape')).digest()
        now = time.monotonic()
        with self._lock:
            known = self._known.get(digest)
            if known is not None:
                self._known[digest] = (known[0], now)
                return known[0]
        made = self._make(key)
        try:
            made.manager.list_sandboxes()  # asks the server, which refuses a key that it does not know
        except BaseException:
            made.close()
            raise
        with self._lock:
            mine = self._known.setdefault(digest, (made, now))[0]
            gone = [each for each, (_, used_at) in self._known.items() if now - used_at > IDLE_SECONDS]
            if len(self._known) > MAX_CALLERS:
                gone.append(min(self._known, key=lambda each: self._known[each][1]))
            dropped = [self._known.pop(each)[0] for each in gone]
        for each in [*dropped, *([] if mine is made else [made])]:
            each.close()
        return mine

    def _make(self, key: str | None) -> CallerSandboxes:
        # Without a key the client library would look for this process's own, in its environment and its files.
        manager = HttpSandboxManager(base_url=self.url, api_key=key or NO_KEY)
        return CallerSandboxes(manager, has_default=False, prefers_notebook=self.prefers_notebook)

    def close(self) -> None:
        """Forget all, and end their background commands."""
        with self._lock:
            known, self._known = list(self._known.values()), {}
        for caller, _ in known:
            caller.close()


@define(eq=False)
class Sessions:
    """Whose the sessions of the protocol are. Lives as long as the server; only its event loop uses it.

    The SDK takes so many sessions of all clients together, so that one that opens them without end would keep all others out.
    """

    most: int = MAX_SESSIONS
    _known: weakref.WeakKeyDictionary[Any, OrderedDict[str, None]] = field(
        factory=weakref.WeakKeyDictionary, init=False, repr=False
    )

    def use(self, caller: Any, session_id: str) -> bool:
        """Note that a caller uses a session; return whether it is one of its own."""
        mine = self._known.get(caller)
        if mine is None or session_id not in mine:
            return False
        mine.move_to_end(session_id)
        return True

    def add(self, caller: Any, session_id: str) -> str | None:
        """Note a caller's new session; return the one to be ended for it, if there are too many: that of the longest ago."""
        mine = self._known.setdefault(caller, OrderedDict())
        mine[session_id] = None
        return mine.popitem(last=False)[0] if len(mine) > self.most else None

    def forget(self, caller: Any, session_id: str) -> None:
        """Forget a session that its client has ended."""
        self._known.get(caller, OrderedDict()).pop(session_id, None)


class App:
    """The ASGI application. Lives as long as its server; serves one event loop."""

    def __init__(self, callers: Callers, guard: HostGuard) -> None:
        from mcp.server.streamable_http_manager import StreamableHTTPSessionManager

        self._callers = callers
        self._guard = guard
        server = make_server(lambda request: request.scope[_SCOPE_KEY])
        self._sessions = StreamableHTTPSessionManager(server, max_request_body_size=MAX_BODY_BYTES)
        self._owned = Sessions()

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Serve a connection."""
        if scope['type'] == 'lifespan':
            await self._live(receive, send)
        elif scope['type'] != 'http':
            return
        elif scope['path'].rstrip('/') != PATH:
            await _refuse(send, 404, f'there is nothing here but {PATH}')
        else:
            await self._serve(scope, receive, send)

    async def _live(self, receive: Any, send: Any) -> None:
        await receive()
        async with self._sessions.run():
            await send({'type': 'lifespan.startup.complete'})
            await receive()
        await send({'type': 'lifespan.shutdown.complete'})

    async def _serve(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        headers = _ScopeHeaders(scope)
        try:
            self._guard.check(scope['method'], headers)
            caller = await run(lambda: self._callers.identify(sent_key(headers)))
        except AuthenticationError as error:
            sent = 'does not know this API key' if sent_key(headers) else 'needs an API key'
            message = f'this MCP server {sent}; send it as "Authorization: Bearer KEY" or "X-API-Key: KEY"'
            logger.info('a caller was refused: %s', error)
            await _refuse(send, 401, message, ((b'www-authenticate', b'Bearer'),))
        except PolicyError as error:
            await _refuse(send, 403, error.message)
        except EnclaveError as error:
            logger.warning('the enclave server does not answer: %s', error)
            await _refuse(send, 503, 'the enclave server behind this MCP server does not answer; try again later')
        else:
            await self._handle({**scope, _SCOPE_KEY: caller}, receive, send, headers.get(_SESSION_HEADER))

    async def _handle(self, scope: dict[str, Any], receive: Any, send: Any, session_id: str | None) -> None:
        """Have the SDK answer a request of a caller, in a session of its own or in none."""
        caller = scope[_SCOPE_KEY]
        if session_id is not None:
            if not self._owned.use(caller, session_id):
                await _refuse(send, 404, 'Session not found')
                return
            await self._sessions.handle_request(scope, receive, send)
            if scope['method'] == 'DELETE':
                self._owned.forget(caller, session_id)
            return
        surplus: list[str] = []

        async def note(message: dict[str, Any]) -> None:
            for name, value in message.get('headers', ()):
                if name.lower() == _SESSION_HEADER.encode():
                    ended = self._owned.add(caller, value.decode('latin-1'))
                    surplus.extend([] if ended is None else [ended])
            await send(message)

        await self._sessions.handle_request(scope, receive, note)
        for each in surplus:
            await self._end(scope, each)

    async def _end(self, scope: dict[str, Any], session_id: str) -> None:
        """End a session as its client would."""
        headers = [pair for pair in scope['headers'] if pair[0].lower() in (b'host', b'accept')]
        request = {**scope, 'method': 'DELETE', 'headers': [*headers, (_SESSION_HEADER.encode(), session_id.encode())]}

        async def receive() -> dict[str, Any]:
            return {'type': 'http.request', 'body': b'', 'more_body': False}

        async def send(message: dict[str, Any]) -> None:
            pass

        await self._sessions.handle_request(request, receive, send)


class _ScopeHeaders(Mapping[str, str]):
    """A request's headers by name, whatever its case; the first of several of one name."""

    def __init__(self, scope: Mapping[str, Any]) -> None:
        self._found: dict[str, str] = {}
        for name, value in scope['headers']:
            self._found.setdefault(name.decode('latin-1').lower(), value.decode('latin-1'))

    def __getitem__(self, name: str) -> str:
        return self._found[name.lower()]

    def __iter__(self) -> Any:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)


async def _refuse(send: Any, status: int, message: str, headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
    body = wire.to_json({'jsonrpc': '2.0', 'id': None, 'error': {'code': -32000, 'message': message}}).encode('utf-8')
    await send(
        {
            'type': 'http.response.start',
            'status': status,
            'headers': [
                (b'content-type', b'application/json'),
                (b'content-length', str(len(body)).encode('ascii')),
                *headers,
            ],
        }
    )
    await send({'type': 'http.response.body', 'body': body})


def serve(app: App, host: str, port: int, announce: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM.

    Args:
        announce: Is called with the address, once it is listened on.
    """
    import uvicorn

    class Server(uvicorn.Server):  # type: ignore[misc]
        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            if self.started:
                address = self.servers[0].sockets[0].getsockname()
                name = f'[{address[0]}]' if ':' in address[0] else address[0]
                announce(f'http://{name}:{address[1]}{PATH}')

    Server(uvicorn.Config(app, host=host, port=port, log_level='warning', lifespan='on', access_log=False)).run()
