"""The Flask application (layer 6): the way of every request, said once.

Who is it (guard, key), what is asked (query, body), is there room (lane), was it done already (idempotency), do it, say so. Any
error of this library becomes its status and ``{code, message, details}``; anything else is logged and becomes a 500 that says
nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, cast
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
from enclave.server.faults import NoSuchRouteError, UnsupportedMediaTypeError, extra_headers, shown_error, status_of
from enclave.server.idempotency import Entry, StoredResponse
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
_NOT_KEPT = frozenset({'too-many-requests', 'manager-stopped', 'authentication', 'server', 'cancelled'})
"""Codes of answers that say nothing of the work, so that a repeat may do it."""
_BINARY = ('application/proto', 'application/connect+proto')
_QUERY_LIMIT = 64
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
    app = flask.Flask('enclave', static_folder=None)
    app.config['MAX_CONTENT_LENGTH'] = max(service.policy.max_upload_bytes, service.policy.max_json_bytes)
    app.config['MAX_FORM_MEMORY_SIZE'] = 0
    app.url_map.strict_slashes = True
    entry = _Entry(service)
    app.before_request(entry.enter)
    app.after_request(entry.leave)
    app.register_error_handler(HTTPException, entry.refuse)
    app.register_error_handler(Exception, entry.fail)
    for each in ROUTES.values():
        app.add_url_rule(
            each.path,
            endpoint=each.name,
            view_func=_view(entry, each),
            methods=[each.method],
            provide_automatic_options=False,
        )
    return app


def _view(entry: _Entry, route: Route) -> Callable[..., flask.Response]:
    def view(**path: str) -> flask.Response:
        return entry.serve(route, path)

    return view


class _Entry:
    """The steps of a request. One for the application; what belongs to a request is in `flask.g`."""

    def __init__(self, service: Service) -> None:
        self._service = service

    # Before and after -------------------------------------------------------------------------------------------------

    def enter(self) -> flask.Response | None:
        """Say who it is. A request that is refused here has reached nothing."""
        request, g = flask.request, flask.g
        asked = request.headers.get(REQUEST_ID_HEADER, '')
        g.request_id = asked if _REQUEST_ID.fullmatch(asked) else uuid.uuid4().hex[:16]
        g.started = time.perf_counter()
        g.who, g.facts, g.code, g.replayed, g.streams, g.known = ANONYMOUS, {}, None, False, False, False
        try:
            headers = cast(Mapping[str, str], request.headers)
            self._service.guard.check(request.method, headers)
            route = ROUTES.get(request.endpoint or '')
            adapter = _adapter()
            if adapter is not None:
                self._service.policy.check_adapter(adapter.name)
            if route is None or not route.is_open:
                if adapter is None:
                    key = self._service.authenticator.identify(headers)
                else:
                    identity = adapter.identify(self._service, _head())
                    key, g.named_sandbox = identity.key, identity.sandbox_id
                g.key = key
                g.who = ANONYMOUS if key is None else key.name
                g.known = True
            if route is not None and not route.while_draining:
                self._service.check_open()
        except EnclaveError as error:
            return self._failure(error)
        return None

    def leave(self, response: flask.Response) -> flask.Response:
        """Put the headers on that every answer has, and account for it when its last byte is handed over."""
        g = flask.g
        headers = response.headers
        headers[REQUEST_ID_HEADER] = g.request_id
        headers[PROTOCOL_HEADER] = str(PROTOCOL_VERSION)
        if g.known:
            headers[VERSION_HEADER] = enclave.__version__
        headers.setdefault('Cache-Control', 'no-store')
        headers['X-Content-Type-Options'] = 'nosniff'
        if response.mimetype == 'text/html':
            at_page = flask.request.endpoint == 'get_page'
            headers.setdefault('Content-Security-Policy', page.CONTENT_POLICY if at_page else _DOCS_POLICY)
            headers.setdefault('Referrer-Policy', 'no-referrer')
        account = self._accountant(response.status_code)
        if g.streams:
            response.call_on_close(account)
        else:
            account()
        return response

    def _accountant(self, status: int) -> Callable[[], None]:
        request, g = flask.request, flask.g
        rule = request.url_rule.rule if request.url_rule is not None else '-'
        view = request.view_args or {}
        facts = {
            'request_id': g.request_id,
            'who': g.who,
            'address': request.remote_addr or '-',
            'method': request.method,
            'route': rule,
            'path': request.path[:256],
            'sandbox_id': _short(g.facts.get('sandbox_id') or view.get('sandbox_id')),
            'tool_name': _short(g.facts.get('tool_name')),
            'kernel': _short(g.facts.get('kernel') or view.get('kernel')),
            'status': status,
            'code': g.code,
            'replayed': g.replayed,
        }
        method = request.method if request.url_rule is not None else 'OTHER'
        started = g.started

        def account() -> None:
            seconds = time.perf_counter() - started
            self._service.metrics.count(rule, method, status, seconds)
            self._service.audit.write(**facts, seconds=round(seconds, 6))

        return account

    def refuse(self, error: HTTPException) -> flask.Response:
        """Answer what Flask itself refuses: an unknown address, a wrong method, a body that is too large."""
        if isinstance(error, RequestEntityTooLarge):
            return self._failure(_too_large(self._service.policy.max_upload_bytes))
        request = flask.request
        status = error.code or 500
        if status in (404, 405):
            reason = 'method' if status == 405 else 'route'
            fault: EnclaveError = NoSuchRouteError(
                f'there is no {request.method} {request.path[:200]} here; GET /docs shows what there is',
                details={'reason': reason},
            )
        else:
            fault = InvalidArgumentError(f'{error.name}: {error.description or ""}')
        response = self._failure(fault, status)
        valid = getattr(error, 'valid_methods', None)
        if valid:
            response.headers['Allow'] = ', '.join(sorted(valid))
        return response

    def fail(self, error: Exception) -> flask.Response:
        """Answer what nobody expected."""
        logger.error('request %s failed', flask.g.request_id, exc_info=error)
        return self._failure(
            ServerError(f'the server failed; its log says why, at request {flask.g.request_id}'),
        )

    def _failure(self, error: EnclaveError, status: int | None = None) -> flask.Response:
        flask.g.code = error.code
        adapter = _adapter()
        if adapter is not None:
            body, number, media_type = adapter.failure(error, status)
            response = flask.Response(body, number, content_type=media_type)
            response.headers.update(adapter.headers(error))
            return response
        chosen = getattr(error, 'http_status', status_of(error)) if status is None else status
        response = flask.Response(wire.to_json(shown_error(error)).encode('ascii'), chosen, mimetype=JSON)
        for name, value in extra_headers(error, chosen).items():
            response.headers[name] = value
        return response

    # The work ---------------------------------------------------------------------------------------------------------

    def serve(self, route: Route, path: dict[str, str]) -> flask.Response:
        """Do what a route is for."""
        tenant = self._service.tenant(flask.g.get('key'))
        documented = ms_enclave.find_route(
            cast(Mapping[str, str], flask.request.headers), route.name, self._service.policy
        )
        try:
            arguments: dict[str, Any] = dict(path)
            if documented is not None:
                route = documented
                arguments['query'] = {name: texts[-1] for name, texts in _query_arguments().items()}
            elif route.adapter is None:
                query = decode_query(_query_arguments(), route.query)
                if query is not None:
                    arguments['query'] = query
            key = _idempotency_key() if route.is_repeatable else None
            with contextlib.ExitStack() as stack:
                # Before anything is made of the body: so many bodies at once, and no more.
                stack.enter_context(self._entered(route, tenant))
                stack.enter_context(self._service.lanes.holding(tenant.name, self._weight(route)))
                body = self._body(route)
                if route.body is not None:
                    arguments['body'] = body
                if key is not None:
                    return self._once(route, tenant, key, arguments)
                cancellation = Cancellation()
                context = self._context(route, tenant, cancellation)
                stack.enter_context(context.held)
                stack.enter_context(self._listed(route, tenant, path))
                if route.lane in ('call', 'program'):
                    context.on_gone(cancellation.cancel)
                value = self._run(route, context, arguments)
                if isinstance(value, Streamed):
                    return self._streamed(value, stack.pop_all())
                return self._answer(value, context)
        except EnclaveError as error:
            return self._failure(error)

    def _entered(self, route: Route, tenant: Tenant) -> contextlib.AbstractContextManager[None]:
        lanes = self._service.lanes
        if route.lane != 'program':
            return lanes.entered(route.lane, tenant.name, tenant.max_calls)
        on_gone = flask.request.environ.get(WATCH_KEY, lambda action: None)
        return lanes.queued(tenant.name, tenant.max_calls, on_gone)

    @staticmethod
    def _listed(route: Route, tenant: Tenant, path: Mapping[str, Any]) -> contextlib.AbstractContextManager[None]:
        """Have a call be among those that run, as long as it does."""
        if route.lane not in ('call', 'stream', 'program'):
            return contextlib.nullcontext()
        if 'sandbox_id' in path:
            flask.g.facts.setdefault('sandbox_id', path['sandbox_id'])
        return tenant.calls.running(route.name, flask.g.facts)

    def _context(self, route: Route, tenant: Any, cancellation: Cancellation) -> Context:
        request = flask.request
        return Context(
            self._service,
            tenant,
            cancellation,
            accept=request.headers.get('Accept', ''),
            last_event_id=request.headers.get('Last-Event-ID'),
            named_sandbox=flask.g.get('named_sandbox'),
            on_gone=request.environ.get(WATCH_KEY, lambda action: None),
            facts=flask.g.facts,
        )

    def _run(self, route: Route, context: Context, arguments: dict[str, Any]) -> Any:
        with context.cancellation.applied():
            return route.handler(context, **arguments)

    def _once(self, route: Route, tenant: Any, key: str, arguments: dict[str, Any]) -> flask.Response:
        repeats = self._service.repeats
        for received in flask.request.headers.get(RECEIVED_HEADER, '').split():
            repeats.forget(tenant.name, received)
        entry, is_mine = repeats.begin(tenant.name, key, _fingerprint(route))
        context = self._context(route, tenant, entry.cancellation)
        gone = threading.Event()

        def leave() -> None:
            gone.set()
            repeats.leave(entry)

        context.on_gone(leave)
        if not is_mine:
            return self._repeated(entry, gone)
        outcome = None
        try:
            with context.held, self._listed(route, tenant, arguments):
                response = self._answer(self._run(route, context, arguments), context)
            outcome = StoredResponse(response.status_code, _body_of(response), media_type=response.mimetype or JSON)
        except EnclaveError as error:
            if error.code not in _NOT_KEPT:
                failed = self._failure(error)
                outcome = StoredResponse(failed.status_code, (failed.get_data(),), error.code)
            raise
        finally:
            repeats.finish(tenant.name, key, entry, outcome)
        return response

    def _answer(self, value: Any, context: Context) -> flask.Response:
        """Return an answer. For a large one there must be room as long as it is being sent: its JSON is longer than its text."""
        if isinstance(value, (flask.Response, Text)):
            return _response(value)
        encoded, takes_parts = wire.encode(value), wire.PARTS in flask.request.headers.get('Accept', '')
        size = wire.weigh(encoded, LARGE_ANSWER, in_parts=takes_parts)
        if not size:
            return _encoded_response(encoded, takes_parts)
        with contextlib.ExitStack() as stack, context.cancellation.applied():
            stack.enter_context(self._service.lanes.answering(context.tenant.name, size))
            response = _encoded_response(encoded, takes_parts)
            response.call_on_close(stack.pop_all().close)
        return response

    def _repeated(self, entry: Entry, gone: threading.Event) -> flask.Response:
        """Wait for the end of work that another request does, and answer as it does."""
        while not entry.done.wait(1.0):
            if gone.is_set():
                raise CallCancelledError('the client went away')
        outcome = entry.outcome
        if outcome is None:
            raise CallCancelledError('the first request under this idempotency key was not carried out; repeat it')
        flask.g.replayed, flask.g.code = True, outcome.code
        response = flask.Response(outcome.body, outcome.status, mimetype=outcome.media_type)
        response.headers[REPLAYED_HEADER] = 'true'
        return response

    @staticmethod
    def _weight(route: Route) -> int:
        """Return how much memory a body may take while a request continues, in bytes; small ones are not counted."""
        size = flask.request.content_length or 0
        is_kept = route.body is not None and not isinstance(route.body, str)
        return _BODY_FACTOR * size if is_kept and size > _SMALL_BODY else 0

    def _text(self) -> bytes:
        """Return a body that is JSON, as it came.

        Raises:
            RequestTooLargeError: It holds more values than the policy allows: each takes far more memory than its text.
        """
        text, most = flask.request.get_data(cache=True), self._service.policy.max_json_values
        if flask.request.mimetype in _BINARY:  # an adapter's own encoding of messages
            return text
        if wire.count_values(text, most) > most:
            raise RequestTooLargeError(
                f'the body of the request holds more than {most} values, which is all that this server takes',
                details={'rule': 'max_json_values'},
            )
        return text

    def _body(self, route: Route) -> Any:
        request, policy = flask.request, self._service.policy
        size = request.content_length
        if route.adapter is not None:
            size = size or 0
            limit = policy.max_upload_bytes if isinstance(route.body, str) else policy.max_json_bytes
            if size > limit:
                raise _too_large(limit)
            if isinstance(route.body, str):
                return RawBody(request.stream, size)
            return RawBody(io.BytesIO(self._text()), size)
        if isinstance(route.body, str):
            if size is None:
                raise InvalidArgumentError('the request has a body of unknown length')
            if size > policy.max_upload_bytes:
                raise _too_large(policy.max_upload_bytes)
            return RawBody(request.stream, size)
        if size is not None and size > policy.max_json_bytes:
            raise _too_large(policy.max_json_bytes)
        text = self._text()
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

    def _streamed(self, value: Streamed, stack: contextlib.ExitStack) -> flask.Response:
        flask.g.streams = True
        response = flask.Response(_guarded(value.pieces), value.status, content_type=value.media_type or None)
        if not value.media_type:
            response.headers.remove('Content-Type')
        for name, text in value.headers:
            response.headers.add(name, text)
        if value.size is not None:
            response.headers['Content-Length'] = str(value.size)
        response.call_on_close(stack.close)
        response.call_on_close(getattr(value.pieces, 'close', lambda: None))
        return response


def _guarded(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield pieces; what fails in the middle breaks the connection, which is all that can be said by then."""
    try:
        yield from pieces
    except EnclaveError as error:
        logger.info('an answer was broken off: %s', error)
        raise


def _adapter() -> Adapter | None:
    """Return whose interface the request asks; None is the server's own."""
    route = ROUTES.get(flask.request.endpoint or '')
    return adapter_at(flask.request.path) if route is None else route.adapter


def _head() -> Head:
    request = flask.request
    headers = cast(Mapping[str, str], request.headers)
    return Head(method=request.method, path=request.path, query=request.args.to_dict(), headers=headers)


def _response(value: Any) -> flask.Response:
    if isinstance(value, flask.Response):
        return value
    if isinstance(value, Text):
        return flask.Response(value.text, content_type=value.media_type)
    return flask.Response(wire.to_json(value), mimetype=JSON)


def _body_of(response: flask.Response) -> tuple[bytes, ...]:
    """Return the pieces of an answer's body; large ones are not copied."""
    body = response.response
    whole = isinstance(body, (list, tuple)) and all(isinstance(each, bytes) for each in body)
    return tuple(body) if whole else (response.get_data(),)  # type: ignore[arg-type]


def _encoded_response(encoded: Any, takes_parts: bool) -> flask.Response:
    """Return an answer with long texts as they are, where the client takes that."""
    if not takes_parts:
        return flask.Response(wire.encoded_to_json(encoded), mimetype=JSON)
    body = wire.encoded_to_parts(encoded)
    return flask.Response(body, mimetype=wire.PARTS if len(body) > 1 else JSON)


def _query_arguments() -> dict[str, list[str]]:
    """Return the query's parameters; bytes that are not UTF-8 stay what they are, as in names of files."""
    text = flask.request.query_string.decode('latin-1')
    try:
        return parse_qs(text, keep_blank_values=True, errors='surrogateescape', max_num_fields=_QUERY_LIMIT)
    except ValueError:
        raise InvalidArgumentError(f'the query has more than {_QUERY_LIMIT} parameters') from None


def _idempotency_key() -> str | None:
    key = flask.request.headers.get(IDEMPOTENCY_HEADER)
    adapter = _adapter()
    if key is not None and adapter is not None:  # each interface has rules of its own for what a key may be
        return hashlib.sha256(f'{adapter.name} {key}'.encode('utf-8', 'surrogateescape')).hexdigest()
    if key is not None and not _IDEMPOTENCY_KEY.fullmatch(key):
        raise InvalidArgumentError(f'{IDEMPOTENCY_HEADER} must be 1 to 128 of A-Z a-z 0-9 . _ -')
    return key


def _fingerprint(route: Route) -> bytes:
    request = flask.request
    digest = hashlib.sha256()
    for part in (route.name, request.full_path):
        digest.update(part.encode('utf-8', 'surrogateescape') + b'\0')
    digest.update(request.get_data(cache=True))
    digest.update(b'\0parts' if wire.PARTS in request.headers.get('Accept', '') else b'')
    return digest.digest()


def _too_large(limit: int) -> RequestTooLargeError:
    return RequestTooLargeError(
        f'the body of the request is larger than the {limit} bytes that this server allows',
        details={'max_bytes': limit},
    )


def _short(value: Any) -> str | None:
    return None if value is None else str(value)[:128]
