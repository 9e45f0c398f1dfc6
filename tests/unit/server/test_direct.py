"""Requests of this library's client go past Flask, and find the same as by it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import flask
import pytest
from werkzeug.exceptions import HTTPException

from enclave import wire
from enclave.errors import SandboxGoneError
from enclave.managers.protocol import PROTOCOL_HEADER
from enclave.server.app import _flask_response, create_app
from enclave.server.audit import Audit
from enclave.server.auth import Authenticator, HostGuard
from enclave.server.direct import DirectRoutes, RouteResponse, WsgiHeaders, WsgiRequest, send
from enclave.server.early import Rest
from enclave.server.policy import Policy
from enclave.server.route import ROUTES, VARIABLE
from enclave.server.serve import create_server
from enclave.server.service import Service


def _no_manager(name: str, most: int | None) -> Any:
    raise AssertionError('no request here reaches a manager')


@pytest.fixture
def app() -> flask.Flask:
    service = Service(
        _no_manager, policy=Policy(), authenticator=Authenticator(), guard=HostGuard(), audit=Audit(), adapters={}
    )
    return create_app(service)


def _environ(method: str, path: str, **others: Any) -> dict[str, Any]:
    from werkzeug.test import EnvironBuilder

    found = EnvironBuilder(path, method=method, headers={PROTOCOL_HEADER: '1'}).get_environ()
    return {**found, 'wsgi.input_terminated': True, **others}


def _direct(app: flask.Flask) -> DirectRoutes:
    found: DirectRoutes = app._direct  # type: ignore[attr-defined]
    return found


def _by_flask(app: flask.Flask, environ: dict[str, Any]) -> tuple[str, dict[str, Any]] | None:
    try:
        return app.url_map.bind_to_environ(environ).match()
    except HTTPException:
        return None


OWN = [each for each in ROUTES.values() if each.adapter is None]


def test_every_address_is_found_as_flask_finds_it(app: flask.Flask) -> None:
    for route in ROUTES.values():
        for value in ('x', 'a-b.c~1', 'pool', 'acquire', 'batch', 'execute'):
            path = VARIABLE.sub(value, route.path).replace('<path:rest>', value)
            environ = _environ(route.method, path)

            found = _direct(app).find(environ)

            expected = _by_flask(app, environ)
            if found is not None:
                assert expected == (found[0].name, found[1]), path
            else:
                assert expected is None or ROUTES[expected[0]].adapter is not None, path


@pytest.mark.parametrize(
    ('method', 'path'),
    [
        ('GET', '/health/'),
        ('GET', '//health'),
        ('HEAD', '/health'),
        ('OPTIONS', '/health'),
        ('GET', '/sandbox//tools'),
        ('GET', '/sandbox/x/tools/'),
        ('GET', '/sandbox/\xe4/tools'),
        ('GET', '/nowhere'),
        ('DELETE', '/health'),
    ],
)
def test_what_is_unusual_is_left_to_flask(app: flask.Flask, method: str, path: str) -> None:
    environ = _environ(method, '/')
    environ['PATH_INFO'] = path

    assert _direct(app).find(environ) is None


def test_requests_of_others_take_flasks_way(app: flask.Flask) -> None:
    environ = _environ('GET', '/health')
    assert _direct(app).find(environ) is not None

    del environ[f'HTTP_{PROTOCOL_HEADER.upper().replace("-", "_")}']

    assert _direct(app).find(environ) is None


def test_an_application_with_hooks_of_a_user_is_flasks_alone(app: flask.Flask) -> None:
    environ, seen = _environ('GET', '/health'), []
    assert _direct(app).find(environ) is not None

    @app.before_request
    def note() -> None:
        seen.append(flask.request.path)

    assert _direct(app).find(environ) is None
    list(app.wsgi_app(environ, lambda status, headers: None))
    assert seen == ['/health']


@pytest.mark.parametrize(
    'change',
    [
        lambda app: app.after_request(lambda response: response),
        lambda app: app.teardown_request(lambda error: None),
        lambda app: app.teardown_appcontext(lambda error: None),
        lambda app: app.url_value_preprocessor(lambda endpoint, values: None),
        lambda app: app.register_error_handler(ValueError, lambda error: ''),
        lambda app: app.view_functions.update(get_health=lambda: ''),
    ],
)
def test_every_change_of_the_application_counts(app: flask.Flask, change: Any) -> None:
    environ = _environ('GET', '/health')
    route = _direct(app).find(environ)
    assert route is not None
    assert route[0].name == 'get_health'

    change(app)

    assert _direct(app).find(environ) is None


def test_a_receiver_of_flasks_signals_counts(app: flask.Flask) -> None:
    environ = _environ('GET', '/health')

    def receive(*_: Any, **__: Any) -> None:
        pass

    with flask.signals.request_started.connected_to(receive):
        assert _direct(app).find(environ) is None

    assert _direct(app).find(environ) is not None


def test_headers_are_found_by_any_case_of_their_names() -> None:
    headers = WsgiHeaders({'HTTP_X_API_KEY': 'k', 'CONTENT_TYPE': 'a/b', 'REQUEST_METHOD': 'GET'})

    assert headers.get('x-api-key') == headers['X-API-Key'] == 'k'
    assert 'content-type' in headers
    assert dict(headers) == {'X-Api-Key': 'k', 'Content-Type': 'a/b'}
    assert headers.get('Request-Method') is None
    assert len(headers) == 2


def test_a_request_reads_no_more_than_its_body() -> None:
    from io import BytesIO

    environ = _environ('POST', '/x?a=1', CONTENT_TYPE='Application/JSON; charset=utf-8', CONTENT_LENGTH='3')
    environ['wsgi.input'] = BytesIO(b'{} more')

    request = WsgiRequest(environ)

    assert (request.get_data(), request.get_data()) == (b'{} ', b'{} ')
    assert request.mimetype == 'application/json'
    assert request.full_path == '/x?a=1'
    assert request.query_string == b'a=1'


def test_a_body_in_chunks_from_another_server_program_is_read() -> None:
    from io import BytesIO

    server = create_server()
    body = b'{"sandbox_id": "not-there"}'
    answers = []
    try:
        application = server.make_wsgi_app()
        for facts in ({'CONTENT_LENGTH': str(len(body))}, {'HTTP_TRANSFER_ENCODING': 'chunked'}):
            environ = _environ('POST', '/pool/release', CONTENT_TYPE='application/json')
            environ.pop('CONTENT_LENGTH', None)
            environ.update(facts)
            environ['wsgi.input'] = BytesIO(body)
            said: list[str] = []
            text = b''.join(application(environ, lambda status, headers, said=said: said.append(status)))
            answers.append((said, json.loads(text)['code']))
    finally:
        server.stop()

    assert answers[0] == answers[1]
    assert answers[1] == (['404 NOT FOUND'], 'sandbox-not-found')


@pytest.mark.parametrize('as_texts', [True, False])
def test_long_texts_go_as_they_are_to_the_own_server_alone(as_texts: bool) -> None:
    text, closed, said = 'x' * (wire.ASCII_PIECE + 7), [], []
    answer = RouteResponse((b'head', wire.AsciiText(text)), on_close=[lambda: closed.append(True)])

    body: Any = send(answer, [('A', 'b')], lambda status, headers: said.append((status, headers)), as_texts=as_texts)

    pieces = list(body)
    assert [type(each) for each in pieces] == ([Rest] if as_texts else [bytes, bytes, bytes])
    assert sum(map(len, pieces)) == 4 + len(text)
    status, headers = said[0]
    assert status == '200 OK'
    assert dict(headers) == {'A': 'b', 'Content-Type': 'application/json', 'Content-Length': str(4 + len(text))}
    assert not closed
    body.close()
    assert closed == [True]


@pytest.mark.parametrize('way', ['direct', 'flask'])
def test_all_that_an_answer_holds_is_let_go_although_its_pieces_fail_at_their_end(way: str) -> None:
    closed: list[str] = []

    def pieces() -> Iterator[bytes]:
        try:
            yield b'piece'
        finally:
            raise SandboxGoneError('it fails while it ends')

    def fail() -> None:
        closed.append('one')
        raise SandboxGoneError('this too')

    answer = RouteResponse(pieces(), on_close=[fail, lambda: closed.append('other')])
    if way == 'direct':
        body: Any = send(answer, [], lambda status, headers: None, as_texts=False)
    else:
        body = _flask_response(answer)({'REQUEST_METHOD': 'GET'}, lambda status, headers: None)
    assert next(iter(body)) == b'piece'

    with pytest.raises(SandboxGoneError):
        body.close()

    assert closed == ['one', 'other']
