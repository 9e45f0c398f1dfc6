"""Requests that need nothing of Flask's (layer 6): how they are read, found and answered.

Flask's own way of a request goes through some six hundred functions before and after a handler: contexts, proxies, sessions,
signals, rules for redirects. What this library's own client asks needs none of that. So its requests are read from the WSGI
environment as they are, and answered by the same steps (`enclave.server.app`). All others take Flask's way, and so do these
once anything was added to the application: a hook, an error handler, a view in the place of this library's, a receiver of its
signals.
"""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import flask
import flask.signals
from attrs import Factory, define
from werkzeug.http import HTTP_STATUS_CODES

from enclave.managers.protocol import PROTOCOL_HEADER
from enclave.server.auth import ANONYMOUS
from enclave.server.early import EarlyResponse, Rest
from enclave.server.route import JSON, VARIABLE, Adapter, Route
from enclave.wire import AsciiText

_SIGNALS = (
    flask.signals.appcontext_popped,
    flask.signals.appcontext_pushed,
    flask.signals.got_request_exception,
    flask.signals.request_finished,
    flask.signals.request_started,
    flask.signals.request_tearing_down,
)
_NO_BODY = frozenset({204, 304})

StartResponse = Callable[[str, list[tuple[str, str]]], Any]


@functools.cache
def _variable(name: str) -> str:
    """Return where the WSGI environment has a header."""
    found = name.upper().replace('-', '_')
    return found if found in ('CONTENT_TYPE', 'CONTENT_LENGTH') else f'HTTP_{found}'


_IS_OURS = _variable(PROTOCOL_HEADER)


class WsgiHeaders(Mapping[str, str]):
    """The headers of a request in a WSGI environment; names in any case."""

    __slots__ = ('_environ',)

    def __init__(self, environ: dict[str, Any]) -> None:
        self._environ = environ

    def get(self, name: str, default: Any = None) -> Any:
        """Return a header, or ``default`` where there is none."""
        return self._environ.get(_variable(name), default)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and _variable(name) in self._environ

    def __getitem__(self, name: str) -> str:
        found: str = self._environ[_variable(name)]
        return found

    def __iter__(self) -> Iterator[str]:
        for name in self._environ:
            if name.startswith('HTTP_'):
                yield name[5:].replace('_', '-').title()
            elif name in ('CONTENT_TYPE', 'CONTENT_LENGTH'):
                yield name.replace('_', '-').title()

    def __len__(self) -> int:
        return sum(1 for _ in self)


class WsgiRequest:
    """What the steps of a request read of Flask's request, from the WSGI environment as it is."""

    __slots__ = ('_text', 'content_length', 'environ', 'headers', 'method', 'mimetype', 'path', 'stream')

    def __init__(self, environ: dict[str, Any]) -> None:
        self.environ = environ
        self.headers = WsgiHeaders(environ)
        self.method: str = environ['REQUEST_METHOD']
        self.path: str = environ['PATH_INFO']
        self.mimetype = environ.get('CONTENT_TYPE', '').partition(';')[0].strip().lower()
        length = environ.get('CONTENT_LENGTH', '')
        self.content_length = int(length) if length.isascii() and length.isdigit() else None
        self.stream = environ['wsgi.input']
        self._text: bytes | None = None

    @property
    def query_string(self) -> bytes:
        """The query as it came."""
        text: str = self.environ.get('QUERY_STRING', '')
        return text.encode('latin-1')

    @property
    def full_path(self) -> str:
        """The path with the query."""
        return f'{self.path}?{self.environ.get("QUERY_STRING", "")}'

    @property
    def remote_addr(self) -> str | None:
        """The client's address."""
        found: str | None = self.environ.get('REMOTE_ADDR')
        return found

    def get_data(self, cache: bool = True) -> bytes:
        """Return the whole body."""
        if self._text is None:
            self._text = self.stream.read(self.content_length) if self.content_length else b''
        return self._text


@define(eq=False)
class RouteResponse:
    """An answer, before it is WSGI's or Flask's.

    Attributes:
        body: Its pieces; a list or tuple is all of it, anything else is sent as it comes.
        media_type: None says nothing of it.
        on_close: What is called when its last byte was handed over, or it ended otherwise.
    """

    body: Iterable[bytes | AsciiText]
    status: int = 200
    media_type: str | None = JSON
    headers: list[tuple[str, str]] = Factory(list)
    on_close: list[Callable[[], object]] = Factory(list)


@define(eq=False)
class Visit:
    """A request on its way through the steps. Lives until its answer was handed over.

    Attributes:
        request: Flask's, or a `WsgiRequest`.
        route: None where there is none at this address.
        rule: The address of the route, as it is declared; ``-`` where there is none.
        path: What the variables in the address are.
        facts: What handlers say, for the audit line.
        known: Whether the client has shown that it may come in.
        start_response: WSGI's; None where the answer is Flask's.
        early: An answer that may begin before its work has ended.
    """

    request: Any
    route: Route | None
    adapter: Adapter | None
    rule: str
    path: Mapping[str, str]
    request_id: str
    started: float
    who: str = ANONYMOUS
    key: Any = None
    named_sandbox: str | None = None
    facts: dict[str, Any] = Factory(dict)
    code: str | None = None
    replayed: bool = False
    streams: bool = False
    known: bool = False
    start_response: StartResponse | None = None
    early: EarlyResponse | None = None


class Body:
    """The pieces of an answer, as WSGI takes them."""

    def __init__(self, answer: RouteResponse) -> None:
        self._answer = answer

    def __iter__(self) -> Iterator[bytes]:
        return as_bytes(self._answer.body)

    def close(self) -> None:
        """Let go of what the answer holds: all of it, also where some of that fails."""
        with contextlib.ExitStack() as stack:
            for action in reversed(self._answer.on_close):
                stack.callback(action)
            close = getattr(self._answer.body, 'close', None)
            if close is not None:
                stack.callback(close)


class EndingBody(Body):
    """The same of an answer that has begun: what is left of it."""

    def __init__(self, rest: Rest, answer: RouteResponse) -> None:
        super().__init__(answer)
        self._rest = rest

    def __iter__(self) -> Iterator[Any]:
        return iter((self._rest,))


class _Texts(Body):
    """The same for this library's own server, which sends texts of ASCII as they are."""

    def __iter__(self) -> Iterator[Any]:
        body = self._answer.body
        return iter((Rest(body),) if isinstance(body, (list, tuple)) and len(body) > 1 else body)


def as_bytes(body: Iterable[bytes | AsciiText]) -> Iterator[bytes]:
    """Yield the pieces of an answer as bytes."""
    for piece in body:
        if isinstance(piece, AsciiText):
            yield from piece
        else:
            yield piece


@functools.cache
def _status(number: int) -> str:
    return f'{number} {HTTP_STATUS_CODES.get(number, "unknown").upper()}'


def send(
    answer: RouteResponse, extra: list[tuple[str, str]], start_response: StartResponse, *, as_texts: bool
) -> Iterable[bytes]:
    """Answer in WSGI's way, with further headers; ``as_texts`` is for a server that takes `AsciiText` too."""
    headers = [*answer.headers, *extra]
    if answer.media_type is not None:
        headers.append(('Content-Type', answer.media_type))
    if isinstance(answer.body, (list, tuple)) and answer.status not in _NO_BODY:
        headers.append(('Content-Length', str(sum(map(len, answer.body)))))
    start_response(_status(answer.status), headers)
    return _Texts(answer) if as_texts else Body(answer)


class DirectRoutes:
    """Finds the route of a request whose way need not be Flask's. Lives as long as the application.

    Args:
        app: The application, to which all of this library's has been added.
        routes: All routes.
    """

    def __init__(self, app: flask.Flask, routes: Iterable[Route]) -> None:
        self._app = app
        self._views = dict(app.view_functions)
        self._hooks: tuple[dict[Any, Any], ...] = (
            app.before_request_funcs,
            app.after_request_funcs,
            app.teardown_request_funcs,
            app.url_value_preprocessors,
        )
        self._own_hooks = [copy.copy(each.get(None)) for each in self._hooks]
        self._own_handlers = self._handlers()
        self._whole: dict[tuple[str, str], Route] = {}
        self._parts: dict[tuple[str, int], list[tuple[Route, list[bool], list[tuple[int, str]]]]] = {}
        for route in routes:
            self._add(route)

    def _add(self, route: Route) -> None:
        parts = route.path.split('/')
        variables = [bool(VARIABLE.fullmatch(part)) for part in parts]
        if not any(variables):
            self._whole[route.method, route.path] = route
            return
        found = self._parts.setdefault((route.method, len(parts)), [])
        found.append((route, variables, list(enumerate(parts))))
        found.sort(key=lambda each: each[1])  # as Flask does: from the left, what is fixed goes before what is not

    def _handlers(self) -> dict[Any, Any]:
        return dict(self._app.error_handler_spec[None][None])

    def _is_untouched(self) -> bool:
        """Return whether nothing was added to the application."""
        for hooks, own in zip(self._hooks, self._own_hooks, strict=True):
            if hooks.get(None) != own:
                return False
        for signal in _SIGNALS:
            if signal.receivers:
                return False
        app = self._app
        return not app.teardown_appcontext_funcs and app.error_handler_spec[None][None] == self._own_handlers

    def find(self, environ: dict[str, Any]) -> tuple[Route, dict[str, str]] | None:
        """Return the route of a request of this library's client, and the variables of its address; None leaves it to Flask."""
        if _IS_OURS not in environ or environ.get('SCRIPT_NAME') or not environ.get('wsgi.input_terminated'):
            return None
        if 'HTTP_TRANSFER_ENCODING' in environ:  # another server program's: only Flask reads a body in chunks
            return None
        method, path = environ['REQUEST_METHOD'], environ['PATH_INFO']
        route = self._whole.get((method, path))
        variables: dict[str, str] = {}
        if route is None:
            parts = path.split('/')
            if not path.isascii() or '' in parts[1:]:
                return None
            route, variables = self._find_with_variables(method, parts)
        # What serves an adapter may read Flask's request.
        if route is None or route.adapter is not None or not self._is_untouched():
            return None
        return (route, variables) if self._app.view_functions.get(route.name) is self._views[route.name] else None

    def _find_with_variables(self, method: str, parts: list[str]) -> tuple[Route | None, dict[str, str]]:
        for route, variables, places in self._parts.get((method, len(parts)), ()):
            for place, text in places:
                if not variables[place] and parts[place] != text:
                    break
            else:
                return route, {text[1:-1]: parts[place] for place, text in places if variables[place]}
        return None, {}
