"""Connect's protocol in JSON (layer 6), as much of it as E2B's daemon speaks: enveloped streams, error codes, deadlines.

A message of a stream is a byte of flags, its length in four bytes, and its JSON; the last one has the flag 2 and says how the
stream ended. Source: https://connectrpc.com/docs/protocol
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import struct
from collections.abc import Iterator
from typing import IO, Any

from enclave import errors, wire
from enclave.errors import EnclaveError, InvalidArgumentError, RequestTooLargeError, UnsupportedError

JSON_STREAM = 'application/connect+json'
_HEAD = struct.Struct('>BI')
_COMPRESSED, _LAST = 1, 2
_TIMEOUT = re.compile(r'[0-9]{1,10}')
MAX_MESSAGE_BYTES = 16 << 20

_STATUSES = {
    'canceled': 499,
    'unknown': 500,
    'invalid_argument': 400,
    'deadline_exceeded': 504,
    'not_found': 404,
    'already_exists': 409,
    'permission_denied': 403,
    'resource_exhausted': 429,
    'failed_precondition': 400,
    'unimplemented': 501,
    'internal': 500,
    'unavailable': 503,
    'unauthenticated': 401,
}
_CODES: dict[type[EnclaveError], str] = {
    EnclaveError: 'internal',
    errors.InvalidArgumentError: 'invalid_argument',
    errors.UnsupportedError: 'unimplemented',
    errors.NotFoundError: 'not_found',
    errors.SandboxPathNotFoundError: 'not_found',
    errors.SandboxPathExistsError: 'already_exists',
    errors.SandboxPathError: 'invalid_argument',
    errors.SandboxError: 'failed_precondition',
    errors.SandboxGoneError: 'unavailable',
    errors.CallCancelledError: 'canceled',
    errors.OperationTimeoutError: 'deadline_exceeded',
    errors.EngineUnavailableError: 'unavailable',
    errors.ManagerStoppedError: 'unavailable',
    errors.AuthenticationError: 'unauthenticated',
    errors.PolicyError: 'permission_denied',
    errors.TooManyRequestsError: 'resource_exhausted',
    errors.RequestTooLargeError: 'resource_exhausted',
    errors.ConflictError: 'already_exists',
}


def code_of(error: EnclaveError) -> str:
    """Return Connect's code for an exception: that of the nearest class in the table."""
    return next(_CODES[cls] for cls in type(error).__mro__ if cls in _CODES)


def as_error(error: EnclaveError) -> dict[str, Any]:
    """Return an error as it stands in an answer, or at the end of a stream."""
    return {'code': code_of(error), 'message': error.message}


def status_of(code: str) -> int:
    """Return the HTTP status of a code, where an error is an answer of its own."""
    return _STATUSES[code]


# Requests -------------------------------------------------------------------------------------------------------------


def read_timeout(text: str | None) -> float | None:
    """Return the seconds of a ``Connect-Timeout-Ms`` header; None is no limit.

    Raises:
        InvalidArgumentError: It is no number of at most ten digits.
    """
    if not text:
        return None
    if not _TIMEOUT.fullmatch(text):
        raise InvalidArgumentError(f'Connect-Timeout-Ms must be at most ten digits, not {text[:40]!r}')
    return int(text) / 1000.0


def read_message(data: bytes) -> dict[str, Any]:
    """Return the message of a call that is no stream.

    Raises:
        InvalidArgumentError: It is no JSON object.
    """
    message = wire.from_json(data, what='the message') if data.strip() else {}
    if not isinstance(message, dict):
        raise InvalidArgumentError('the message must be a JSON object')
    return message


def read_messages(stream: IO[bytes]) -> Iterator[dict[str, Any]]:
    """Yield the messages of a stream as they come.

    Raises:
        InvalidArgumentError: The stream breaks the protocol.
    """
    while head := _read(stream, _HEAD.size):
        if len(head) < _HEAD.size:
            raise InvalidArgumentError('the stream ends in the middle of a message')
        flags, size = _HEAD.unpack(head)
        if flags & _COMPRESSED:
            raise UnsupportedError('compressed messages are not taken here; send them without Connect-Content-Encoding')
        if size > MAX_MESSAGE_BYTES:
            raise RequestTooLargeError(
                f'a message has {size} bytes, the most is {MAX_MESSAGE_BYTES}', details={'max_bytes': MAX_MESSAGE_BYTES}
            )
        data = _read(stream, size)
        if len(data) < size:
            raise InvalidArgumentError('the stream ends in the middle of a message')
        if flags & _LAST:
            return
        yield read_message(data)


def _read(stream: IO[bytes], size: int) -> bytes:
    """Return so many bytes, fewer only at the end."""
    found = b''
    while len(found) < size and (piece := stream.read(size - len(found))):
        found += piece
    return found


# Answers --------------------------------------------------------------------------------------------------------------


def envelope(message: dict[str, Any]) -> bytes:
    """Return a message of a stream as it travels."""
    data = json.dumps(message, separators=(',', ':')).encode('ascii')
    return _HEAD.pack(0, len(data)) + data


def end_of_stream(error: EnclaveError | None = None) -> bytes:
    """Return the end of a stream as it travels."""
    data = json.dumps({} if error is None else {'error': as_error(error)}).encode('ascii')
    return _HEAD.pack(_LAST, len(data)) + data


# Fields ---------------------------------------------------------------------------------------------------------------
# Protobuf's JSON: a field may be left out, null, or stand under its name in lower camel case or as the .proto file has it.


def field(message: dict[str, Any], name: str, kind: type, default: Any = None) -> Any:
    """Return a field of a message, named as JSON names it.

    Raises:
        InvalidArgumentError: It is of another type.
    """
    value = message.get(name)
    if value is None:
        value = message.get(re.sub('[A-Z]', lambda match: f'_{match[0].lower()}', name))
    if value is None:
        return default
    if kind is int and isinstance(value, str) and re.fullmatch(r'-?[0-9]{1,19}', value):
        value = int(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        expected = {dict: 'an object', str: 'a string', int: 'a whole number', bool: 'true or false', list: 'a list'}
        raise InvalidArgumentError(f'{name} must be {expected[kind]}, not {str(value)[:60]!r}')
    return value


def read_bytes(text: str, name: str) -> bytes:
    """Return a field of bytes.

    Raises:
        InvalidArgumentError: It is no base64.
    """
    try:
        padded = text.replace('-', '+').replace('_', '/')
        return base64.b64decode(padded + '=' * (-len(padded) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise InvalidArgumentError(f'{name} is not base64') from None


def as_bytes(data: bytes) -> str:
    """Return bytes as a field has them."""
    return base64.b64encode(data).decode('ascii')
