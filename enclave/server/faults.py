"""Errors as responses (layer 6): which exception is which status, and the one record of it for a body, a stream or a batch.

The way back is `enclave.managers.protocol.rebuild_error`. No status is 5xx for what a client asked wrongly: those say that the
server, or what it stands on, could not do its part.
"""

from __future__ import annotations

from enclave import errors
from enclave.errors import EnclaveError, InvalidArgumentError, RequestTooLargeError
from enclave.managers.protocol import ErrorResponse, error_response
from enclave.server.hiding import without_host

_STATUSES: dict[type[EnclaveError], int] = {
    EnclaveError: 500,
    errors.InvalidArgumentError: 400,
    errors.UnsupportedError: 422,
    errors.NotFoundError: 404,
    errors.NotRegisteredError: 400,
    errors.SandboxPathNotFoundError: 404,
    errors.SandboxPathError: 422,
    errors.SandboxPathExistsError: 409,
    errors.SandboxError: 409,
    errors.SandboxStartError: 422,
    errors.SandboxGoneError: 410,
    errors.SandboxBrokenError: 410,
    errors.CallCancelledError: 409,
    errors.EngineError: 502,
    errors.EngineUnavailableError: 503,
    errors.SandboxSilentError: 504,
    errors.OperationTimeoutError: 504,
    errors.PoolError: 409,
    errors.PoolExhaustedError: 429,
    errors.ManagerStoppedError: 503,
    errors.ServerError: 500,
    errors.AuthenticationError: 401,
    errors.PolicyError: 403,
    errors.TooManyRequestsError: 429,
    errors.RequestTooLargeError: 413,
    errors.ConflictError: 409,
}


class UnsupportedMediaTypeError(errors.InvalidArgumentError):
    """The body is of a kind this route does not take. It has no code of its own: clients see `InvalidArgumentError`."""


class NoSuchRouteError(errors.NotFoundError):
    """There is no such address, or not with this method. Clients see `NotFoundError` with the reason in its details.

    Attributes:
        detail: What clients of ms-enclave's own server know it by: the status in words.
    """

    detail: str | None = None


_STATUSES[UnsupportedMediaTypeError] = 415


def status_of(error: BaseException) -> int:
    """Return the HTTP status for an exception: that of the nearest class in the table; 500 for what is not ours.

    What an engine finds wrong with what it was asked (400) is the client's mistake, not the engine's failure.
    """
    if isinstance(error, errors.EngineError) and error.details.get('status') == 400:
        return 422
    for cls in type(error).__mro__:
        if cls in _STATUSES:
            return _STATUSES[cls]
    return 500


def shown_error(error: EnclaveError) -> ErrorResponse:
    """Return an exception as a client sees it, by whichever way: with all its keys, and nothing of the host in its message."""
    answer = error_response(error)
    detail = without_host(answer.detail) if isinstance(answer.detail, str) else answer.detail
    return answer.model_copy(update={'message': without_host(answer.message), 'detail': detail})


def extra_headers(error: BaseException, status: int) -> dict[str, str]:
    """Return the headers that go with an error: how to authenticate, when to try again."""
    if status == 401:
        return {'WWW-Authenticate': 'Bearer realm="enclave"'}
    if status in (429, 503):
        details = error.details if isinstance(error, EnclaveError) else {}
        seconds = details.get('retry_after', 1)
        return {'Retry-After': str(max(1, round(seconds)) if isinstance(seconds, (int, float)) else 1)}
    return {}


def too_large(limit: int) -> RequestTooLargeError:
    """Return the error of a body over a limit."""
    return RequestTooLargeError(
        f'the body of the request is larger than the {limit} bytes that this server allows',
        details={'max_bytes': limit},
    )


QUERY_LIMIT = 64
"""How many parameters a query may have."""


def too_many_parameters() -> InvalidArgumentError:
    """Return the error of a query with more parameters than are read."""
    return InvalidArgumentError(f'the query has more than {QUERY_LIMIT} parameters')
