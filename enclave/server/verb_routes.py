"""The addresses of the verbs of sandboxes (layer 6), one for each row of `VERBS`; what they take and give is in the rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, cast

import attrs

from enclave.errors import SandboxPathError, UnsupportedError
from enclave.managers.protocol import DoneResponse, SizeResponse, response_type, wrapped
from enclave.outlet import gives_output
from enclave.quoting import quoted
from enclave.records import CommandResult, PathInfo
from enclave.sandboxes.listing import LISTED_ENTRIES
from enclave.server.route import Context, RawBody, Streamed, add_route
from enclave.verb_requests import (
    BYTES,
    TAR,
    VERBS,
    ListDir,
    ReadArchive,
    ReadFile,
    Request,
    RunCommand,
    StatPath,
    Verb,
    WriteArchive,
    WriteFile,
)

SMALL_BYTES = 1 << 20
"""A body up to this size is handed on in one piece."""
PIECE_BYTES = 256 << 10


def _perform(context: Context, sandbox_id: str, request: Request[Any]) -> Any:
    return wrapped(request, context.tenant.manager.perform(sandbox_id, request))


# What the policy of the server bounds ------------------------------------------------------------------------------------


def execute_command(context: Context, sandbox_id: str, request: RunCommand) -> CommandResult:
    """Run a command within the time and the output that a key may ask for."""
    context.check_call_timeout(request.timeout)
    context.check_output(sandbox_id, request.max_output_bytes)
    with context.offering_outlet(), gives_output():
        return context.tenant.manager.perform(sandbox_id, request)


def list_dir(context: Context, sandbox_id: str, request: ListDir) -> list[PathInfo]:
    """List no more entries than one answer may have."""
    policy = context.service.policy
    asked = policy.entries(request.max_entries)
    if asked is not None or policy.max_entries >= LISTED_ENTRIES:
        return context.tenant.manager.perform(sandbox_id, request)
    most = policy.max_entries
    found = context.tenant.manager.perform(sandbox_id, attrs.evolve(request, max_entries=most + 1))
    if len(found) > most:
        raise SandboxPathError(
            f'{quoted(request.path)} has more than {most} entries; list parts of it, or pass max_entries=N to have N of them, at '
            f'most {most}',
            details={'rule': 'max_entries', 'max_entries': most},
        )
    return found


# Raw bytes. A kind of a user's own need only know whole files ------------------------------------------------------------


def read_file(context: Context, sandbox_id: str, request: ReadFile) -> Streamed:
    """Answer with a file's bytes, and with their number where that is known."""
    sandbox = context.tenant.manager._existing(sandbox_id)
    chunks = getattr(sandbox, 'read_chunks', None)
    if chunks is None:
        data = cast(bytes, request.call_on(sandbox))
        return Streamed(iter((data,)), BYTES, len(data))
    pieces = joined(chunks(request.path, offset=request.offset, max_bytes=request.max_bytes))
    first = next(pieces, b'')  # why it cannot be read is an answer of its own
    if len(first) < PIECE_BYTES:
        second = next(pieces, None)
        if second is None:
            return Streamed(iter((first,)), BYTES, len(first))
        return Streamed(_after(first, second, pieces), BYTES)
    whole = sandbox.perform(StatPath(path=request.path)).size - request.offset
    size = whole if request.max_bytes is None else min(whole, request.max_bytes)
    # A file that has a smaller size than it gives (as those of /proc do) has none that could be named.
    if size < len(first):
        return Streamed(_after(first, b'', pieces), BYTES)
    return Streamed(_exactly(size, first, pieces), BYTES, size)


def write_file(context: Context, sandbox_id: str, request: WriteFile, body: RawBody) -> SizeResponse:
    """Write a file from the body."""
    write = context.service.verb(context.tenant, sandbox_id, 'write_file')
    options = request.model_dump(exclude=('path',))
    if body.size <= SMALL_BYTES or not _takes_pieces(context, sandbox_id):
        return SizeResponse(size=write(request.path, body.stream.read(body.size), **options))
    return SizeResponse(size=write(request.path, _pieces(body), size=body.size, **options))


def read_archive(context: Context, sandbox_id: str, request: ReadArchive) -> Streamed:
    """Answer with a tar archive."""
    sandbox = context.tenant.manager._existing(sandbox_id)
    read = getattr(sandbox, 'read_archive', None)
    if read is None:
        if request.arcname is not None:
            raise UnsupportedError(f'sandbox {sandbox_id}, a {type(sandbox).__name__}, cannot rename in archives')
        data = context.tenant.manager.get_archive(sandbox_id, request.path)
        assert isinstance(data, bytes)
        return Streamed(iter((data,)), TAR, len(data))
    pieces = joined(read(request.path, arcname=request.arcname))
    first = next(pieces, b'')
    return Streamed(_after(first, b'', pieces), TAR)


def write_archive(context: Context, sandbox_id: str, request: WriteArchive, body: RawBody) -> DoneResponse:
    """Unpack the body."""
    whole = body.size <= SMALL_BYTES or not _takes_pieces(context, sandbox_id)
    source = body.stream.read(body.size) if whole else body.stream
    context.tenant.manager.put_archive(sandbox_id, source, request.target_dir)
    answer: DoneResponse = wrapped(request, None)
    return answer


def _takes_pieces(context: Context, sandbox_id: str) -> bool:
    """Return whether a sandbox's file verbs stream."""
    return hasattr(context.tenant.manager._existing(sandbox_id), 'read_chunks')


def _pieces(body: RawBody) -> Iterator[bytes]:
    while piece := body.stream.read(PIECE_BYTES):
        yield piece


def joined(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the same bytes in pieces that are worth a system call."""
    held: list[bytes] = []
    size = 0
    for piece in pieces:
        held.append(piece)
        size += len(piece)
        if size >= PIECE_BYTES:
            yield b''.join(held)
            held, size = [], 0
    if held:
        yield b''.join(held)


def _after(first: bytes, second: bytes, pieces: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    if second:
        yield second
    yield from pieces


def _exactly(size: int, first: bytes, pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Yield as much as was promised, of a file that may change meanwhile.

    Raises:
        SandboxPathError: It became shorter; the connection breaks, by which the client learns it.
    """
    for piece in _after(first, b'', pieces):
        yield piece[:size]
        size -= len(piece[:size])
        if size <= 0:
            return
    raise SandboxPathError('the file became shorter while it was read')


# Routes -----------------------------------------------------------------------------------------------------------------

_OWN: dict[str, Callable[..., Any]] = {
    each.__name__: each for each in (execute_command, list_dir, read_file, write_file, read_archive, write_archive)
}


def _handler(verb: Verb) -> Callable[..., Any]:
    perform: Callable[..., Any] = _OWN.get(verb.name, _perform)

    def handle(context: Context, sandbox_id: str, query: Any = None, body: Any = None) -> Any:
        if query is None:
            return perform(context, sandbox_id, body)
        return perform(context, sandbox_id, query) if body is None else perform(context, sandbox_id, query, body)

    return handle


for _verb in VERBS.values():
    add_route(
        _verb.method,
        f'/sandbox/<sandbox_id>{_verb.path}',
        _handler(_verb),
        name=_verb.operation_id or _verb.name,
        text=_verb.request.__doc__ or '',
        query=_verb.request if _verb.is_in_query else None,
        body=_verb.sends if _verb.is_in_query else _verb.request,
        answers=_verb.gives if isinstance(_verb.gives, str) else response_type(_verb),
        lane='call',
        is_repeatable=_verb.is_repeatable,
        tag=_verb.tag,
    )
