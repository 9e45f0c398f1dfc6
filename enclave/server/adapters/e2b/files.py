"""The daemon's addresses for whole files (layer 6), and whether it is there at all."""

from __future__ import annotations

import gzip
import posixpath
import re
import zlib
from collections.abc import Iterator
from typing import IO, Any

import flask
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.http import parse_options_header
from werkzeug.sansio.multipart import Data, Epilogue, Field, File, MultipartDecoder, NeedData

from enclave.errors import InvalidArgumentError, RequestTooLargeError, SandboxPathError, SandboxPathNotFoundError
from enclave.sandboxes.base import Sandbox
from enclave.server.adapters.e2b.filesystem import check_file_user
from enclave.server.adapters.e2b.services import (
    FILES,
    PREFIX,
    absolute,
    answer,
    asked_sandbox,
    empty,
    on_daemon,
    remembered,
    verb,
)
from enclave.server.route import BYTES, Context, RawBody, Streamed, route
from enclave.server.verb_routes import PIECE_BYTES, joined

MAX_PARTS = 1000
MAX_FORM_BYTES = 4 * PIECE_BYTES
"""How much of a form the parser may hold at once; files pass through it in pieces."""
MAX_ATTRIBUTES = 32
MAX_ATTRIBUTE_CHARACTERS = 4096
_ATTRIBUTE_PREFIX = 'x-metadata-'
_ATTRIBUTE_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+\-.^_`|~]{1,128}")


@on_daemon('GET', '/health')
def e2b_get_health(context: Context, body: RawBody) -> flask.Response:
    """Say that the sandbox runs."""
    asked_sandbox(context)
    return empty()


# Down -----------------------------------------------------------------------------------------------------------------


def _download(context: Context) -> Streamed:
    args = flask.request.args
    sandbox = asked_sandbox(context)
    check_file_user(args.get('username'))
    path = absolute(sandbox, args.get('path', ''))
    pieces = joined(verb(sandbox, 'read_chunks')(path))
    try:
        first = next(pieces, b'')
    except SandboxPathError:
        if _is_directory(sandbox, path):
            raise InvalidArgumentError(f'path is a directory, not a file: {path!r}') from None
        raise
    return Streamed(_after(first, pieces), BYTES)


def _after(first: bytes, pieces: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from pieces


# Up -------------------------------------------------------------------------------------------------------------------


def _upload(context: Context, body: RawBody) -> flask.Response:
    request = flask.request
    sandbox = asked_sandbox(context)
    check_file_user(request.args.get('username'))
    attributes = _attributes()
    path = request.args.get('path') or None
    kind, options = parse_options_header(request.headers.get('Content-Type', ''))
    source: IO[bytes] | gzip.GzipFile = body.stream
    limit = context.service.policy.max_upload_bytes
    if request.headers.get('Content-Encoding', '').strip().lower() == 'gzip':
        source = gzip.GzipFile(fileobj=source)
    if kind == 'multipart/form-data':
        written = [
            _write(context, sandbox, name if path is None else path, pieces, attributes)
            for name, pieces in _parts(source, options.get('boundary', ''), limit)
        ]
        if not written:
            raise InvalidArgumentError('the form has no part called "file"')
        return answer(written)
    if path is None:
        raise InvalidArgumentError('the query must say where the file goes, as path')
    return answer([_write(context, sandbox, path, _pieces(source, limit), attributes)])


def _write(
    context: Context, sandbox: Sandbox, path: str, pieces: Iterator[bytes], attributes: dict[str, str]
) -> dict[str, Any]:
    place = absolute(sandbox, path)
    try:
        verb(sandbox, 'write_file')(place, pieces)
    except SandboxPathError:
        if _is_directory(sandbox, place):
            raise InvalidArgumentError(f'path is a directory, not a file: {place!r}') from None
        raise
    for _rest in pieces:  # of a part that was not read to its end
        pass
    remembered(context, sandbox).attach(place, attributes)
    entry: dict[str, Any] = {'name': posixpath.basename(place), 'type': 'file', 'path': place}
    return {**entry, 'metadata': attributes} if attributes else entry


def _is_directory(sandbox: Sandbox, path: str) -> bool:
    try:
        return bool(verb(sandbox, 'stat_path')(path).kind == 'directory')
    except (SandboxPathError, SandboxPathNotFoundError):
        return False


def _attributes() -> dict[str, str]:
    """Return what is to be attached to the files of an upload, from its headers."""
    found = {
        name.lower()[len(_ATTRIBUTE_PREFIX) :]: value
        for name, value in flask.request.headers.items()
        if name.lower().startswith(_ATTRIBUTE_PREFIX)
    }
    if len(found) > MAX_ATTRIBUTES:
        raise InvalidArgumentError(f'a file may have {MAX_ATTRIBUTES} entries of metadata, not {len(found)}')
    if sum(len(name) + len(value) for name, value in found.items()) > MAX_ATTRIBUTE_CHARACTERS:
        raise InvalidArgumentError(f'the metadata of a file may have {MAX_ATTRIBUTE_CHARACTERS} characters together')
    for name, value in found.items():
        if not _ATTRIBUTE_NAME.fullmatch(name) or len(value) > 1024:
            raise InvalidArgumentError(f'the metadata {name[:60]!r} has an impossible name, or is too long')
    return found


def _pieces(source: IO[bytes] | gzip.GzipFile, limit: int) -> Iterator[bytes]:
    """Yield what is read of a body; unpacked it may have no more than a body may.

    Raises:
        InvalidArgumentError: It is packed wrongly.
        RequestTooLargeError: It is too large when it is unpacked.
    """
    left = limit
    while True:
        try:
            piece = source.read(PIECE_BYTES)
        except (OSError, EOFError, zlib.error) as error:
            raise InvalidArgumentError(f'the body cannot be unpacked: {error}') from None
        if not piece:
            return
        left -= len(piece)
        if left < 0:
            raise RequestTooLargeError(
                f'the body has more than the {limit} bytes that this server allows, once it is unpacked',
                details={'max_bytes': limit},
            )
        yield piece


def _parts(source: IO[bytes] | gzip.GzipFile, boundary: str, limit: int) -> Iterator[tuple[str, Iterator[bytes]]]:
    """Yield the files of a form, each with its name and its pieces, which must be taken before the next one.

    Raises:
        InvalidArgumentError: It is no form.
    """
    if not boundary:
        raise InvalidArgumentError('multipart/form-data needs a boundary')
    decoder = MultipartDecoder(
        boundary.encode('utf-8', 'replace'), max_form_memory_size=MAX_FORM_BYTES, max_parts=MAX_PARTS
    )
    pieces = _pieces(source, limit)
    is_file = False

    def events() -> Iterator[Any]:
        while True:
            event = decoder.next_event()
            if isinstance(event, NeedData):
                decoder.receive_data(next(pieces, None))
                continue
            yield event
            if isinstance(event, Epilogue):
                return

    stream = events()
    try:
        for event in stream:
            if isinstance(event, File):
                is_file = event.name == 'file'
                if is_file:
                    yield event.filename, _part(stream)
            elif isinstance(event, Field):
                is_file = False
    except (ValueError, RequestEntityTooLarge) as error:
        raise InvalidArgumentError(f'the form cannot be read: {error}') from None


def _part(stream: Iterator[Any]) -> Iterator[bytes]:
    for event in stream:
        if not isinstance(event, Data):
            raise ValueError('a part ends before its data')
        if event.data:
            yield bytes(event.data)
        if not event.more_data:
            return


# The addresses: below the prefix, and at the root for signed ones, which have lost it ---------------------------------


@on_daemon('GET', '/files', lane='call')
def e2b_download(context: Context, body: RawBody) -> Streamed:
    """Return a file's bytes."""
    return _download(context)


@route('POST', f'{PREFIX}/files', adapter=FILES, body=BYTES, lane='call', tag='e2b')
def e2b_upload(context: Context, body: RawBody) -> flask.Response:
    """Write a file, or the files of a form."""
    return _upload(context, body)


@route('GET', '/files', adapter=FILES, body=dict, lane='call', tag='e2b')
def e2b_download_signed(context: Context, body: RawBody) -> Streamed:
    """Return a file's bytes, by an address that a sandbox's token has signed."""
    return _download(context)


@route('POST', '/files', adapter=FILES, body=BYTES, lane='call', tag='e2b')
def e2b_upload_signed(context: Context, body: RawBody) -> flask.Response:
    """Write a file, by an address that a sandbox's token has signed."""
    return _upload(context, body)
