"""The Flask application (layer 6): the way of every request, said once.

Who is it (guard, key), what is asked (query, body), is there room (lane), was it done already (idempotency), do it, say so. Any
error of this library becomes its status and ``{code, message, details}``; anything else is logged and becomes a 500 that says
nothing.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import logging
import random
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import parse_qs

import flask
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

import enclave
from enclave import wire
from enclave.cancellation import Cancellation
from enclave.errors import (
    CallCancelledError,
    EnclaveError,
    InvalidArgumentError,
    RequestTooLargeError,
    ServerError,
)
from enclave.managers.output_frames import OUTPUT_FRAMES
from enclave.managers.protocol import (
    IDEMPOTENCY_HEADER,
    PROTOCOL_HEADER,
    PROTOCOL_VERSION,
    RECEIVED_HEADER,
    REPLAYED_HEADER,
    REQUEST_ID_HEADER,
    VERSION_HEADER,
)
from enclave.server import notebooks, page, ports, programs, routes, verb_routes
from enclave.server.adapters import adapter_at, ms_enclave
from enclave.server.auth import ANONYMOUS
from enclave.server.direct import (
    Body,
    DirectRoutes,
    EndingBody,
    RouteResponse,
    StartResponse,
    Visit,
    WsgiRequest,
    as_bytes,
    send,
)
from enclave.server.early import EARLY_KEY, EarlyResponse
from enclave.server.faults import (
    QUERY_LIMIT,
    NoSuchRouteError,
    UnsupportedMediaTypeError,
    extra_headers,
    shown_error,
    status_of,
    too_large,
    too_many_parameters,
)
from enclave.server.idempotency import Entry, StoredResponse
from enclave.server.lanes import CALL_PATIENCE_SECONDS
from enclave.server.route import (
    JSON,
    JSON_OPTIONS,
    LARGE_ANSWER,
    ROUTES,
    Adapter,
    Context,
    Head,
    RawBody,
    Route,
    Streamed,
    Text,
    decode_query,
)
from enclave.server.service import Service, Tenant

logger = logging.getLogger(__name__)

WATCH_KEY = 'enclave.watch_client'
"""In the WSGI environment: takes an action to be called, once, if the client goes away while its request continues."""

_REQUEST_ID = re.compile(r'[A-Za-z0-9._-]{1,64}')
_IDEMPOTENCY_KEY = re.compile(r'[A-Za-z0-9._-]{1,128}')
_NAMES = random.Random()
_NOT_KEPT = frozenset({'too-many-requests', 'manager-stopped', 'authentication', 'server', 'cancelled'})
"""Codes of answers that say nothing of the work, so that a repeat may do it."""
_BINARY = ('application/proto', 'application/connect+proto')
_PROTOCOL = str(PROTOCOL_VERSION)
_SMALL_BODY = 64 << 10
_BODY_FACTOR = 4
"""How much more memory than its text a JSON body may take: its bytes, its text, and what is made of them."""
_DOCS_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)


def create_app(service: Service) -> flask.Flask:
    """Return the WSGI application of a service. It starts and ends nothing."""
    assert routes is not None  # imported for what it registers
    assert verb_routes is not None
    assert ports is not None  # imported for what it registers
    assert notebooks is not None  # this too
    assert programs is not None  # and this
    assert page is not None
    app = _FlaskApplication('enclave', static_folder=None)
    app.config['MAX_CONTENT_LENGTH'] = max(service.policy.max_upload_bytes, service.policy.max_json_bytes)
    app.config['MAX_FORM_MEMORY_SIZE'] = 0
    app.url_map.strict_slashes = True
    entry = _RequestSteps(service)
    app.before_request(entry.before)
    app.after_request(entry.after)
    app.register_error_handler(HTTPException, entry.refuse)
    app.register_error_handler(Exception, entry.fail)
    for each in ROUTES.values():
        app.add_url_rule(
            each.path,
            endpoint=each.name,
            view_func=entry.view,
            methods=[each.method],
            provide_automatic_options=False,
        )
    app.answer_directly(entry, DirectRoutes(app, ROUTES.values()))
    return app


class _FlaskApplication(flask.Flask):
    """Flask's application, which what needs nothing of Flask's goes past."""

    _entry: _RequestSteps
    _direct: DirectRoutes | None = None

    def answer_directly(self, entry: _RequestSteps, direct: DirectRoutes) -> None:
        """Have requests answered past Flask where that makes no difference."""
        self._entry, self._direct = entry, direct

    def wsgi_app(self, environ: Any, start_response: Any) -> Any:
        found = None if self._direct is None else self._direct.find(environ)
        if found is None:
            return super().wsgi_app(environ, start_response)
        return self._entry.answer_directly(environ, start_response, *found)


class _RequestSteps:
    """The steps of a request. One for the application; what belongs to a request is in a `Visit`, which they hand on."""

    def __init__(self, service: Service) -> None:
        self._service = service

    # The two ways in --------------------------------------------------------------------------------------------------

    def answer_directly(
        self, environ: dict[str, Any], start_response: StartResponse, route: Route, path: dict[str, str]
    ) -> Iterable[bytes]:
        """Answer a request in WSGI's way."""
        request = WsgiRequest(environ)
        visit = self._visit(request, route, None, route.path, path)
        visit.start_response = start_response
        try:
            answer = self._enter(visit) or self._serve(visit, route)
        except Exception as error:
            answer = self._failed(visit, error)
        early = visit.early
        if early is not None and early.has_begun:
            self._account(visit, answer.status)
            failure = None if answer.media_type == OUTPUT_FRAMES else b''.join(as_bytes(answer.body))
            return EndingBody(early.rest(failure), answer)
        headers: dict[str, str] = {}
        self._put_headers(visit, headers, is_html=(answer.media_type or '').startswith('text/html'))
        if visit.streams:
            answer.on_close.append(lambda: self._account(visit, answer.status))
        else:
            self._account(visit, answer.status)
        return send(answer, list(headers.items()), start_response, as_texts=WATCH_KEY in environ)

    def _early(self, visit: Visit) -> EarlyResponse | None:
        """Return an answer that may begin before its work has ended, where client and server can do that; the same each time."""
        if visit.early is not None:
            return visit.early
        start, environ = visit.start_response, visit.request.environ
        sender = environ.get(EARLY_KEY)
        if start is None or sender is None or environ.get('SERVER_PROTOCOL') != 'HTTP/1.1':
            return None
        if OUTPUT_FRAMES not in visit.accept:
            return None

        def begin() -> None:
            headers = {'Content-Type': OUTPUT_FRAMES}
            self._put_headers(visit, headers, is_html=False)
            start('200 OK', list(headers.items()))

        visit.early = EarlyResponse(sender, begin)
        return visit.early

    def before(self) -> flask.Response | None:
        """Flask's request begins: say whose it is. One that is refused here has reached nothing."""
        request: Any = flask.request._get_current_object()  # type: ignore[attr-defined]
        route = ROUTES.get(request.endpoint or '')
        adapter = adapter_at(request.path) if route is None else route.adapter
        rule = request.url_rule.rule if request.url_rule is not None else '-'
        visit = flask.g.visit = self._visit(request, route, adapter, rule, request.view_args or {})
        refused = self._enter(visit)
        return None if refused is None else _flask_response(refused)

    def view(self, **path: str) -> flask.Response:
        """Do what the route of Flask's request is for."""
        visit: Visit = flask.g.visit
        assert visit.route is not None
        return _flask_response(self._serve(visit, visit.route))

    def after(self, response: flask.Response) -> flask.Response:
        """Put the headers on that every answer has, and account for it when its last byte is handed over."""
        visit: Visit = flask.g.visit
        self._put_headers(visit, response.headers, is_html=response.mimetype == 'text/html')
        if visit.streams:
            response.call_on_close(lambda: self._account(visit, response.status_code))
        else:
            self._account(visit, response.status_code)
        return response

    def _visit(
        self, request: Any, route: Route | None, adapter: Adapter | None, rule: str, path: Mapping[str, str]
    ) -> Visit:
        asked = request.headers.get(REQUEST_ID_HEADER)
        # A name and no secret: the system's generator would make each request wait for the interpreter's lock once more.
        request_id = asked if asked and _REQUEST_ID.fullmatch(asked) else f'{_NAMES.getrandbits(64):016x}'
        accept = request.headers.get('Accept', '')
        return Visit(request, route, adapter, rule, path, request_id, time.perf_counter(), accept)

    # Before and after -------------------------------------------------------------------------------------------------

    def _enter(self, visit: Visit) -> RouteResponse | None:
        """Say who it is. A request that is refused here has reached nothing."""
        request, route, adapter = visit.request, visit.route, visit.adapter
        try:
            self._service.guard.check(request.method, request.headers)
            if adapter is not None:
                self._service.policy.check_adapter(adapter.name)
            if route is None or not route.is_open:
                if adapter is None:
                    key = self._service.authenticator.identify(request.headers)
                else:
                    identity = adapter.identify(self._service, _head(request))
                    key, visit.named_sandbox = identity.key, identity.sandbox_id
                visit.key = key
                visit.who = ANONYMOUS if key is None else key.name
                visit.known = True
            if route is not None and not route.while_draining:
                self._service.check_open()
        except EnclaveError as error:
            return self._failure(visit, error)
        return None

    def _put_headers(self, visit: Visit, headers: Any, *, is_html: bool) -> None:
        headers[REQUEST_ID_HEADER] = visit.request_id
        headers[PROTOCOL_HEADER] = _PROTOCOL
        if visit.known:
            headers[VERSION_HEADER] = enclave.__version__
        headers.setdefault('Cache-Control', 'no-store')
        headers['X-Content-Type-Options'] = 'nosniff'
        if is_html:
            at_page = visit.route is not None and visit.route.name == 'get_page'
            headers.setdefault('Content-Security-Policy', page.CONTENT_POLICY if at_page else _DOCS_POLICY)
            headers.setdefault('Referrer-Policy', 'no-referrer')

    def _account(self, visit: Visit, status: int) -> None:
        """Count a request that has ended, and write its audit line."""
        request = visit.request
        method = 'OTHER' if visit.rule == '-' else request.method
        seconds = time.perf_counter() - visit.started
        self._service.metrics.count(visit.rule, method, status, seconds)
        if not self._service.audit.is_read:
            return
        self._service.audit.write(
            request_id=visit.request_id,
            who=visit.who,
            address=request.remote_addr or '-',
            method=request.method,
            route=visit.rule,
            path=request.path[:256],
            sandbox_id=_short(visit.facts.get('sandbox_id') or visit.path.get('sandbox_id')),
            tool_name=_short(visit.facts.get('tool_name')),
            kernel=_short(visit.facts.get('kernel') or visit.path.get('kernel')),
            status=status,
            code=visit.code,
            replayed=visit.replayed,
            seconds=round(seconds, 6),
        )

    def refuse(self, error: HTTPException) -> flask.Response:
        """Answer what Flask itself refuses: an unknown address, a wrong method, a body that is too large."""
        visit: Visit = flask.g.visit
        if isinstance(error, RequestEntityTooLarge):
            return _flask_response(self._failure(visit, too_large(self._service.policy.max_upload_bytes)))
        request = visit.request
        status = error.code or 500
        if status in (404, 405):
            reason = 'method' if status == 405 else 'route'
            unknown = NoSuchRouteError(
                f'there is no {request.method} {request.path[:200]} here; GET /docs shows what there is',
                details={'reason': reason},
            )
            unknown.detail = error.name
            fault: EnclaveError = unknown
        else:
            fault = InvalidArgumentError(f'{error.name}: {error.description or ""}')
        response = _flask_response(self._failure(visit, fault, status))
        valid = getattr(error, 'valid_methods', None)
        if valid:
            response.headers['Allow'] = ', '.join(sorted(valid))
        return response

    def fail(self, error: Exception) -> flask.Response:
        """Answer what nobody expected, in Flask's way."""
        return _flask_response(self._failed(flask.g.visit, error))

    def _failed(self, visit: Visit, error: Exception) -> RouteResponse:
        logger.error('request %s failed', visit.request_id, exc_info=error)
        fault = ServerError(f'the server failed; its log says why, at request {visit.request_id}')
        return self._failure(visit, fault)

    def _failure(self, visit: Visit, error: EnclaveError, status: int | None = None) -> RouteResponse:
        visit.code = error.code
        adapter = visit.adapter
        if adapter is not None:
            body, number, media_type = adapter.failure(error, status)
            return RouteResponse((body,), number, media_type, list(adapter.headers(error).items()))
        chosen = getattr(error, 'http_status', status_of(error)) if status is None else status
        text = wire.to_json(shown_error(error)).encode('ascii')
        return RouteResponse((text,), chosen, JSON, list(extra_headers(error, chosen).items()))

    # The work ---------------------------------------------------------------------------------------------------------

    def _serve(self, visit: Visit, route: Route) -> RouteResponse:
        """Do what a route is for."""
        tenant, request = self._service.tenant(visit.key), visit.request
        documented = None
        if not isinstance(request, WsgiRequest):  # which are those of our own client
            documented = ms_enclave.find_route(request.headers, route.name, self._service.policy)
        try:
            arguments: dict[str, Any] = dict(visit.path)
            if documented is not None:
                route = documented
                arguments['query'] = {name: texts[-1] for name, texts in _query_arguments(request).items()}
            elif route.adapter is None and (route.query is not None or request.query_string):
                query = decode_query(_query_arguments(request), route.query)
                if query is not None:
                    arguments['query'] = query
            key = _idempotency_key(visit) if route.is_repeatable else None
            # Before anything is made of the body: so many bodies at once, and no more.
            with contextlib.ExitStack() as stack:
                self._take_place(stack, request, route, tenant, key)
                weight = self._weight(request, route)
                if weight:
                    stack.enter_context(self._service.lanes.holding(tenant.name, weight))
                self._put_body(request, route, arguments)
                if key is not None:
                    return self._once(visit, route, tenant, key, arguments)
                cancellation = Cancellation()
                context = self._context(visit, tenant, cancellation)
                stack.enter_context(context.held)
                self._list(visit, route, context)
                if route.lane in ('call', 'program'):
                    context.on_gone(cancellation.cancel)
                value = cancellation.run(route.handler, context, **arguments)
                if isinstance(value, Streamed):
                    return self._streamed(visit, value, stack.pop_all())
                return self._answer(visit, value, context)
        except EnclaveError as error:
            return self._failure(visit, error)

    def _put_body(self, request: Any, route: Route, arguments: dict[str, Any]) -> None:
        body = self._body(request, route)
        if route.body is not None:
            arguments['body'] = body

    def _take_place(
        self, stack: contextlib.ExitStack, request: Any, route: Route, tenant: Tenant, key: str | None
    ) -> None:
        """Hold a place in a route's lane for the block of ``stack``."""
        lanes, repeats = self._service.lanes, self._service.repeats
        if route.lane not in ('call', 'program'):
            stack.enter_context(lanes.entered(route.lane, tenant.name, tenant.max_calls))
            return
        watch = request.environ.get(WATCH_KEY, lambda action: None)

        def on_gone(leave: Callable[[], None]) -> None:
            watch(leave)
            if key is not None:
                stack.callback(repeats.await_turn(tenant.name, key, leave))

        patience = None if route.lane == 'program' else CALL_PATIENCE_SECONDS
        lanes.take_turn(route.lane, tenant.name, tenant.max_calls, on_gone, patience=patience)
        stack.callback(lanes.give_turn, route.lane, tenant.name)

    @staticmethod
    def _list(visit: Visit, route: Route, context: Context) -> None:
        """Have a call be among those that run, as long as it does."""
        if route.lane not in ('call', 'stream', 'program'):
            return
        if 'sandbox_id' in visit.path:
            visit.facts.setdefault('sandbox_id', visit.path['sandbox_id'])
        calls = context.tenant.calls
        context.held.callback(calls.end, calls.begin(route.name, visit.facts))

    def _context(self, visit: Visit, tenant: Any, cancellation: Cancellation) -> Context:
        request = visit.request
        return Context(
            self._service,
            tenant,
            cancellation,
            request.headers,
            named_sandbox=visit.named_sandbox,
            on_gone=request.environ.get(WATCH_KEY, lambda action: None),
            facts=visit.facts,
            make_outlet=functools.partial(self._early, visit),
        )

    def _once(self, visit: Visit, route: Route, tenant: Any, key: str, arguments: dict[str, Any]) -> RouteResponse:
        repeats = self._service.repeats
        for received in visit.request.headers.get(RECEIVED_HEADER, '').split():
            repeats.forget(tenant.name, received)
        entry, is_mine = repeats.begin(tenant.name, key, _fingerprint(visit, route))
        context = self._context(visit, tenant, entry.cancellation)
        gone: list[bool] = []

        def leave() -> None:
            gone.append(True)
            repeats.leave(entry)

        context.on_gone(leave)
        if not is_mine:
            return self._repeated(visit, entry, gone, context)
        outcome = None
        try:
            with context.held:
                self._list(visit, route, context)
                answer = self._answer(visit, entry.cancellation.run(route.handler, context, **arguments), context)
            answer.body = tuple(answer.body)
            outcome = StoredResponse(answer.status, answer.body, media_type=answer.media_type or JSON)
        except EnclaveError as error:
            if error.code not in _NOT_KEPT:
                failed = self._failure(visit, error)
                outcome = StoredResponse(failed.status, tuple(failed.body), error.code)
            raise
        finally:
            repeats.finish(tenant.name, key, entry, outcome)
        return answer

    def _answer(self, visit: Visit, value: Any, context: Context) -> RouteResponse:
        """Return an answer. For a large one there must be room as long as it is being sent: its JSON is longer than its text."""
        if isinstance(value, RouteResponse):
            return value
        if isinstance(value, flask.Response):  # an adapter's
            return _from_flask(value)
        if isinstance(value, Text):
            return RouteResponse((value.text.encode(),), media_type=value.media_type)
        early = visit.early
        if early is not None and early.has_begun:
            shape = early.finish(value)
            size = wire.weigh(shape, LARGE_ANSWER, in_parts=True) + early.size
            return self._when_there_is_room(
                size, visit, context, lambda: RouteResponse(early.whole(), media_type=OUTPUT_FRAMES)
            )
        encoded, takes_parts = wire.encode(value), wire.PARTS in visit.accept
        size = wire.weigh(encoded, LARGE_ANSWER, in_parts=takes_parts)
        if not size:
            text = wire.encoded_to_json(encoded)
            if takes_parts and len(text) >= wire.PART_CHARACTERS:  # else no text in it is long
                return _encoded_answer(encoded, takes_parts)
            return RouteResponse((text.encode('ascii'),))
        return self._when_there_is_room(size, visit, context, lambda: _encoded_answer(encoded, takes_parts))

    def _when_there_is_room(
        self,
        size: int,
        visit: Visit,
        context: Context,
        make: Callable[[], RouteResponse],
        cancellation: Cancellation | None = None,
    ) -> RouteResponse:
        """Return an answer, once there is room for so many bytes, which it holds until it was sent.

        Handed over is not sent: what a client is slow to take stays in memory. Other servers do not say when it was.
        """
        with contextlib.ExitStack() as stack, (cancellation or context.cancellation).applied():
            stack.enter_context(self._service.lanes.answering(context.tenant.name, size))
            answer = make()
            let_go = stack.pop_all().close
        sender = visit.request.environ.get(EARLY_KEY)
        answer.on_close.append(let_go if sender is None else lambda: sender.when_sent(let_go))
        return answer

    def _repeated(self, visit: Visit, entry: Entry, gone: list[bool], context: Context) -> RouteResponse:
        """Wait for the end of work that another request does, and answer as it does.

        A large answer needs room as the first time: what is being sent is kept, also when no further repeat would find it.
        """
        while not entry.wait(1.0):
            if gone:
                raise CallCancelledError('the client went away')
        outcome = entry.outcome
        if outcome is None:
            raise CallCancelledError('the first request under this idempotency key was not carried out; repeat it')
        visit.replayed, visit.code = True, outcome.code
        answer = RouteResponse(outcome.body, outcome.status, outcome.media_type, [(REPLAYED_HEADER, 'true')])
        if outcome.size < LARGE_ANSWER:
            return answer
        waiting = Cancellation()  # the work's own is that of all who wait for it
        context.on_gone(waiting.cancel)
        return self._when_there_is_room(outcome.size, visit, context, lambda: answer, waiting)

    @staticmethod
    def _weight(request: Any, route: Route) -> int:
        """Return how much memory a body may take while a request continues, in bytes; small ones are not counted."""
        size = request.content_length or 0
        is_kept = route.body is not None and not isinstance(route.body, str)
        return _BODY_FACTOR * size if is_kept and size > _SMALL_BODY else 0

    def _text(self, request: Any) -> bytes:
        """Return a body that is JSON, as it came.

        Raises:
            RequestTooLargeError: It holds more values than the policy allows: each takes far more memory than its text.
        """
        most = self._service.policy.max_json_values
        text: bytes = request.get_data(cache=True)
        if request.mimetype in _BINARY:  # an adapter's own encoding of messages
            return text
        if wire.count_values(text, most) > most:
            raise RequestTooLargeError(
                f'the body of the request holds more than {most} values, which is all that this server takes',
                details={'rule': 'max_json_values'},
            )
        return text

    def _body(self, request: Any, route: Route) -> Any:
        policy = self._service.policy
        size = request.content_length
        if route.adapter is not None:
            size = size or 0
            limit = policy.max_upload_bytes if isinstance(route.body, str) else policy.max_json_bytes
            if size > limit:
                raise too_large(limit)
            if isinstance(route.body, str):
                return RawBody(request.stream, size)
            return RawBody(io.BytesIO(self._text(request)), size)
        if isinstance(route.body, str):
            if size is None:
                raise InvalidArgumentError('the request has a body of unknown length')
            if size > policy.max_upload_bytes:
                raise too_large(policy.max_upload_bytes)
            return RawBody(request.stream, size)
        if size is not None and size > policy.max_json_bytes:
            raise too_large(policy.max_json_bytes)
        text = self._text(request)
        if route.body is None:
            if text.strip() not in (b'', b'{}', b'null'):
                raise InvalidArgumentError('this address takes no body')
            return None
        if route.body is ms_enclave.JSON_BODY and not text:
            return None  # clients name a kind of body, also where they send none
        if request.mimetype not in (JSON, '') and not (request.mimetype.endswith('+json')):
            raise UnsupportedMediaTypeError(f'the body must be JSON, sent with "Content-Type: {JSON}"')
        if text and not request.mimetype:
            raise UnsupportedMediaTypeError(f'send the body with "Content-Type: {JSON}"')
        if route.body is ms_enclave.JSON_BODY:
            return ms_enclave.read_body(text)
        if route.body is JSON_OPTIONS:
            value = wire.from_json(text, what='the body') if text.strip() else None
            if value is not None and not isinstance(value, dict):
                raise InvalidArgumentError('the body must be an object with the options of the sandbox, or null')
            return value
        value = wire.from_json(text, what='the body') if text.strip() else {}
        return wire.decode(value, route.body, what='the body')

    def _streamed(self, visit: Visit, value: Streamed, stack: contextlib.ExitStack) -> RouteResponse:
        visit.streams = True
        answer = RouteResponse(_guarded(value.pieces), value.status, value.media_type or None, list(value.headers))
        if value.size is not None:
            answer.headers.append(('Content-Length', str(value.size)))
        answer.on_close += [stack.close, getattr(value.pieces, 'close', lambda: None)]
        return answer


def _guarded(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield pieces; what fails in the middle breaks the connection, which is all that can be said by then."""
    try:
        yield from pieces
    except EnclaveError as error:
        logger.info('an answer was broken off: %s', error)
        raise


def _head(request: Any) -> Head:
    return Head(method=request.method, path=request.path, query=request.args.to_dict(), headers=request.headers)


def _flask_response(answer: RouteResponse) -> flask.Response:
    """Return an answer as Flask's."""
    is_whole = isinstance(answer.body, (list, tuple))
    body = [b''.join(as_bytes(answer.body))] if is_whole else Body(answer)  # of many, the client would be waited for
    made = flask.Response(body, answer.status, content_type=answer.media_type)
    if answer.media_type is None:
        made.headers.remove('Content-Type')
    for name, text in answer.headers:
        made.headers.add(name, text)
    for action in answer.on_close if is_whole else ():  # else the body's to do
        made.call_on_close(action)
    return made


def _from_flask(response: flask.Response) -> RouteResponse:
    """Return an answer that a handler has made as Flask's; pieces that are whole are not copied."""
    body = response.response
    if not isinstance(body, (list, tuple)) or not all(isinstance(each, bytes) for each in body):
        body = (response.get_data(),)
    headers = [
        (name, text) for name, text in response.headers if name.lower() not in ('content-type', 'content-length')
    ]
    return RouteResponse(tuple(body), response.status_code, response.content_type, headers)


def _encoded_answer(encoded: Any, takes_parts: bool) -> RouteResponse:
    """Return an answer with long texts as they are, where the client takes that."""
    if not takes_parts:
        return RouteResponse((wire.encoded_to_json(encoded).encode('ascii'),))
    body = wire.encoded_to_parts(encoded)
    return RouteResponse(body, media_type=wire.PARTS if len(body) > 1 else JSON)


def _query_arguments(request: Any) -> dict[str, list[str]]:
    """Return the query's parameters; bytes that are not UTF-8 stay what they are, as in names of files."""
    raw: bytes = request.query_string
    if not raw:
        return {}
    text = raw.decode('latin-1')
    try:
        return parse_qs(text, keep_blank_values=True, errors='surrogateescape', max_num_fields=QUERY_LIMIT)
    except ValueError:
        raise too_many_parameters() from None


def _idempotency_key(visit: Visit) -> str | None:
    key: str | None = visit.request.headers.get(IDEMPOTENCY_HEADER)
    adapter = visit.adapter
    if key is not None and adapter is not None:  # each interface has rules of its own for what a key may be
        return hashlib.sha256(f'{adapter.name} {key}'.encode('utf-8', 'surrogateescape')).hexdigest()
    if key is not None and not _IDEMPOTENCY_KEY.fullmatch(key):
        raise InvalidArgumentError(f'{IDEMPOTENCY_HEADER} must be 1 to 128 of A-Z a-z 0-9 . _ -')
    return key


def _fingerprint(visit: Visit, route: Route) -> bytes:
    request, accepted = visit.request, visit.accept
    digest = hashlib.sha256()
    for part in (route.name, request.full_path):
        digest.update(part.encode('utf-8', 'surrogateescape') + b'\0')
    digest.update(request.get_data(cache=True))
    digest.update(b'\0parts' if wire.PARTS in accepted else b'')
    digest.update(b'\0frames' if OUTPUT_FRAMES in accepted else b'')
    return digest.digest()


def _short(value: Any) -> str | None:
    return None if value is None else str(value)[:128]
