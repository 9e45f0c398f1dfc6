from __future__ import annotations

import pytest

from enclave.errors import ERROR_TYPES, EnclaveError, ServerError, TooManyRequestsError
from enclave.managers.protocol import ErrorResponse, chunk_bytes, chunk_event, error_response, rebuild_error
from enclave.server.faults import NoSuchRouteError, UnsupportedMediaTypeError, extra_headers, status_of


@pytest.mark.parametrize('code', sorted(ERROR_TYPES))
def test_every_error_arrives_as_what_it_was(code: str) -> None:
    error = ERROR_TYPES[code]('it failed', details={'sandbox_id': 'a'})

    arrived = rebuild_error(error_response(error).model_dump(mode='json'))

    assert type(arrived) is ERROR_TYPES[code]
    assert (arrived.message, arrived.details) == ('it failed', {'sandbox_id': 'a'})


@pytest.mark.parametrize('code', sorted(ERROR_TYPES))
def test_every_error_has_a_status(code: str) -> None:
    assert 400 <= status_of(ERROR_TYPES[code]('x')) < 600


@pytest.mark.parametrize(
    ('code', 'status'),
    [
        ('configuration', 400),
        ('tool-arguments', 400),
        ('not-registered', 400),
        ('authentication', 401),
        ('policy', 403),
        ('sandbox-not-found', 404),
        ('path-not-found', 404),
        ('path-exists', 409),
        ('sandbox-state', 409),
        ('sandbox-gone', 410),
        ('request-too-large', 413),
        ('image-not-found', 422),
        ('pool-exhausted', 429),
        ('too-many-requests', 429),
        ('manager-stopped', 503),
        ('timeout', 504),
    ],
)
def test_statuses_are_those_http_has_for_it(code: str, status: int) -> None:
    assert status_of(ERROR_TYPES[code]('x')) == status


def test_what_is_not_ours_is_a_500() -> None:
    assert status_of(ZeroDivisionError()) == 500


def test_an_unknown_code_is_a_server_error() -> None:
    arrived = rebuild_error(ErrorResponse(code='from-the-future', message='new'))

    assert type(arrived) is ServerError
    assert isinstance(arrived, EnclaveError)


def test_faults_of_the_entry_travel_as_what_they_are_kinds_of() -> None:
    assert rebuild_error(error_response(NoSuchRouteError('x'))).code == 'not-found'
    assert rebuild_error(error_response(UnsupportedMediaTypeError('x'))).code == 'invalid-argument'
    assert status_of(UnsupportedMediaTypeError('x')) == 415


def test_what_an_engine_finds_wrong_is_the_clients_mistake() -> None:
    assert status_of(ERROR_TYPES['engine']('invalid reference format', details={'status': 400})) == 422
    assert status_of(ERROR_TYPES['engine']('out of space', details={'status': 500})) == 502


def test_headers_say_how_to_continue() -> None:
    assert 'Bearer' in extra_headers(ERROR_TYPES['authentication']('x'), 401)['WWW-Authenticate']
    assert extra_headers(TooManyRequestsError('x', details={'retry_after': 7.2}), 429) == {'Retry-After': '7'}
    assert extra_headers(ERROR_TYPES['policy']('x'), 403) == {}


@pytest.mark.parametrize('data', [b'plain', 'naïve'.encode(), b'\xff\x00', b''])
def test_output_travels_exactly(data: bytes) -> None:
    assert chunk_bytes(chunk_event('stdout', data)) == data


def test_output_that_is_text_travels_as_text() -> None:
    assert chunk_event('stdout', b'hi').text == 'hi'
    assert chunk_event('stdout', b'\xff').text is None
