"""Errors as E2B's SDK knows them (layer 6): each of its three services has a form of its own for them."""

from __future__ import annotations

import json

from enclave.errors import (
    EnclaveError,
    NotFoundError,
    PolicyError,
    SandboxGoneError,
    TooManyRequestsError,
    UnsupportedError,
)
from enclave.server import faults
from enclave.server.adapters.e2b import connect

_NO_SPACE = 28  # ENOSPC of Linux


class NoSandboxError(NotFoundError):
    """The sandbox of a request does not run. The SDK reports this case by the status 502 and a part of the message."""

    def __init__(self, sandbox_id: str, reason: str) -> None:
        super().__init__(
            f'the sandbox {sandbox_id[:100]} was not found: {reason}', details={'sandbox_id': sandbox_id[:100]}
        )


def number_of(error: EnclaveError, status: int | None = None) -> int:
    """Return the HTTP status of an error in plain HTTP."""
    if isinstance(error, (NoSandboxError, SandboxGoneError)):
        return 502
    if isinstance(error, UnsupportedError):
        return 501
    if isinstance(error, PolicyError) and error.details.get('rule') == 'max_sandboxes':
        return 429  # which the SDK raises as a limit that was reached
    if error.details.get('errno') == _NO_SPACE:
        return 507
    return faults.status_of(error) if status is None else status


def plain(error: EnclaveError, status: int | None = None) -> tuple[bytes, int, str]:
    """Return an error as the control plane and the daemon's file addresses answer it."""
    number = number_of(error, status)
    body = {'code': number, 'message': error.message}
    return json.dumps(body).encode('ascii'), number, 'application/json'


def of_call(error: EnclaveError, status: int | None = None) -> tuple[bytes, int, str]:
    """Return an error of a call to one of the daemon's services."""
    number = number_of(error, status)
    if number in (401, 502, 405, 413):
        return plain(error, number)  # as the proxy in front of the daemon answers
    code = connect.code_of(error)
    return (
        json.dumps({'code': code, 'message': error.message}).encode('ascii'),
        connect.status_of(code),
        'application/json',
    )


def of_stream(error: EnclaveError, status: int | None = None) -> tuple[bytes, int, str]:
    """Return an error of a stream of the daemon's services, which stands at the stream's end."""
    if number_of(error, status) in (401, 502, 405, 413):
        return plain(error, status)
    return connect.end_of_stream(error), 200, connect.JSON_STREAM


def of_interpreter(error: EnclaveError, status: int | None = None) -> tuple[bytes, int, str]:
    """Return an error of the code interpreter."""
    number = number_of(error, status)
    return error.message.encode('utf-8', 'backslashreplace'), number, 'text/plain; charset=utf-8'


def may_retry(error: EnclaveError) -> bool:
    """Return whether the same request may do better in a moment."""
    return isinstance(error, TooManyRequestsError) or error.code == 'manager-stopped'
