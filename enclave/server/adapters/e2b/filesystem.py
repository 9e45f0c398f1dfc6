"""The daemon's service for the file system (layer 6): stat, list, make, move, remove. Watching is `watching`."""

from __future__ import annotations

import posixpath
import stat
import time
from datetime import timezone
from typing import Any

from enclave.errors import (
    AuthenticationError,
    InvalidArgumentError,
    SandboxPathError,
    SandboxPathExistsError,
    SandboxPathNotFoundError,
)
from enclave.records import PathInfo
from enclave.sandboxes.base import Sandbox
from enclave.server.adapters.e2b import connect
from enclave.server.adapters.e2b.connect import field
from enclave.server.adapters.e2b.processes import asked_user
from enclave.server.adapters.e2b.services import absolute, asked_sandbox, on_call, remembered, verb
from enclave.server.adapters.e2b.state import NAMES_SECONDS, SandboxState
from enclave.server.route import Context, RawBody

SERVICE = 'filesystem.Filesystem'
MAX_DEPTH = 64
_NAME_FILE_BYTES = 1 << 20
_KINDS = {'file': 'FILE_TYPE_FILE', 'directory': 'FILE_TYPE_DIRECTORY', 'symlink': 'FILE_TYPE_SYMLINK'}


def check_file_user(name: str | None) -> None:
    """Return if files can be worked on as an account: they always are as the sandbox's own.

    Raises:
        AuthenticationError: The account is another.
    """
    if name not in (None, '', 'root', 'user'):
        raise AuthenticationError(
            f"files are read and written as the sandbox's own user here, not as {str(name)[:60]!r}; leave the user out, "
            'or run a command as that user'
        )


def asked_path(sandbox: Sandbox, message: dict[str, Any], name: str = 'path') -> str:
    """Return the path of a message, from the root."""
    path: str = field(message, name, str, '')
    check_file_user(asked_user())
    return absolute(sandbox, path)


# Entries --------------------------------------------------------------------------------------------------------------


def as_entry(context: Context, sandbox: Sandbox, info: PathInfo) -> dict[str, Any]:
    """Return what is at a path as it travels. Of a symlink, the kind is that of what it leads to, if anything."""
    known = remembered(context, sandbox)
    users, groups = _names(sandbox, known)
    kind = info.kind
    link: dict[str, Any] = {}
    letter = {'directory': stat.S_IFDIR, 'symlink': stat.S_IFLNK}.get(kind, stat.S_IFREG)
    if kind == 'symlink':
        target = posixpath.normpath(posixpath.join(posixpath.dirname(info.path), info.target or ''))
        link = {'symlinkTarget': target, 'isSymlink': True}
        try:
            kind = verb(sandbox, 'stat_path')(info.path).kind
        except (
            SandboxPathError,
            SandboxPathNotFoundError,
        ):  # it leads nowhere, or to itself: it is the link that is there
            pass
    attributes = known.attached(info.path)
    entry = {
        'name': posixpath.basename(info.path) or '/',
        'type': _KINDS.get(kind, 'FILE_TYPE_UNSPECIFIED'),
        'path': info.path,
        'size': str(info.size),
        'mode': info.mode,
        'permissions': stat.filemode(letter | info.mode),
        'owner': users.get(info.uid, str(info.uid)),
        'group': groups.get(info.gid, str(info.gid)),
        **link,
        **({'metadata': attributes} if attributes else {}),
    }
    if info.modified_at is not None:
        moment = info.modified_at.astimezone(timezone.utc)
        entry['modifiedTime'] = moment.isoformat(timespec='microseconds').replace('+00:00', 'Z')
    return entry


def _names(sandbox: Sandbox, known: SandboxState) -> tuple[dict[int, str], dict[int, str]]:
    """Return the names of the sandbox's users and groups, by number; a moment old at most."""
    with known.lock:
        found = known.names
    if found is None or time.monotonic() - found[0] > NAMES_SECONDS:
        found = time.monotonic(), _read_names(sandbox, '/etc/passwd'), _read_names(sandbox, '/etc/group')
        with known.lock:
            known.names = found
    return found[1], found[2]


def _read_names(sandbox: Sandbox, path: str) -> dict[int, str]:
    try:
        data = verb(sandbox, 'read_file')(path, max_bytes=_NAME_FILE_BYTES)
    except (SandboxPathError, SandboxPathNotFoundError):
        return {}
    rows = (line.split(':') for line in data.decode('utf-8', 'replace').splitlines())
    return {int(row[2][:10]): row[0] for row in rows if len(row) > 2 and row[2].isdecimal()}


def look(context: Context, sandbox: Sandbox, path: str) -> dict[str, Any]:
    """Return what is at a path, a symlink as itself."""
    return as_entry(context, sandbox, verb(sandbox, 'stat_path')(path, follow_symlinks=False))


# Calls ----------------------------------------------------------------------------------------------------------------


@on_call(SERVICE, 'Stat', lane='call')
def e2b_stat(context: Context, body: RawBody) -> dict[str, Any]:
    """Return what is at a path."""
    sandbox = asked_sandbox(context)
    path = asked_path(sandbox, connect.read_message(body.stream.read(body.size)))
    return {'entry': look(context, sandbox, path)}


@on_call(SERVICE, 'ListDir', lane='call')
def e2b_list_dir(context: Context, body: RawBody) -> dict[str, Any]:
    """Return what is in a directory, and in those in it down to a depth."""
    sandbox = asked_sandbox(context)
    message = connect.read_message(body.stream.read(body.size))
    depth = field(message, 'depth', int, 1) or 1
    if not depth >= 1:
        raise InvalidArgumentError(f'depth must be at least 1, not {depth}')
    path = asked_path(sandbox, message)
    found = verb(sandbox, 'stat_path')(path)
    if found.kind != 'directory':
        raise InvalidArgumentError(f'path is not a directory: {path!r}')
    most = context.service.policy.max_entries
    return {'entries': [as_entry(context, sandbox, info) for info in _walk(sandbox, path, min(depth, MAX_DEPTH), most)]}


MOST_PATHS = 16 << 20
"""How many characters all paths of a listing may have together: a guest may make each as long as it likes."""


def _walk(sandbox: Sandbox, path: str, depth: int, most: int) -> list[PathInfo]:
    """Return the entries of a directory, level by level, none of those that symlinks lead to."""
    list_dir = verb(sandbox, 'list_dir')
    found: list[PathInfo] = []
    size, level = 0, [path]
    for _ in range(depth):
        below: list[PathInfo] = []
        for each in level:
            try:
                entries = list_dir(each, max_entries=most + 1)
                below += [info.model_copy(update={'path': posixpath.join(each, info.path)}) for info in entries]
                size += sum(len(each) + len(info.path) for info in entries)
            except (SandboxPathError, SandboxPathNotFoundError) as error:
                # below, one that may not be read or has gone is listed and not looked into
                if each == path or error.details.get('max_entries') is not None:
                    raise
            if len(found) + len(below) > most:
                raise InvalidArgumentError(f'there are more than {most} entries below {path!r}; list less at once')
            if size > MOST_PATHS:
                raise InvalidArgumentError(f'the paths of all entries below {path!r} are too long; list less at once')
        found += below
        level = [info.path for info in below if info.kind == 'directory']
        if not level:
            break
    return sorted(found, key=lambda info: info.path)


@on_call(SERVICE, 'MakeDir', lane='call')
def e2b_make_dir(context: Context, body: RawBody) -> dict[str, Any]:
    """Make a directory, and those above it that are missing."""
    sandbox = asked_sandbox(context)
    path = asked_path(sandbox, connect.read_message(body.stream.read(body.size)))
    try:
        verb(sandbox, 'make_dir')(path, parents=True, exist_ok=False)
    except SandboxPathExistsError as error:
        if verb(sandbox, 'stat_path')(path).kind != 'directory':
            raise InvalidArgumentError(f'path exists and is no directory: {path!r}') from error
        raise
    return {'entry': look(context, sandbox, path)}


@on_call(SERVICE, 'Move', lane='call')
def e2b_move(context: Context, body: RawBody) -> dict[str, Any]:
    """Rename a file or a directory, in the place of a file that has the name."""
    sandbox = asked_sandbox(context)
    message = connect.read_message(body.stream.read(body.size))
    source, target = asked_path(sandbox, message, 'source'), asked_path(sandbox, message, 'destination')
    verb(sandbox, 'stat_path')(source, follow_symlinks=False)
    verb(sandbox, 'make_dir')(posixpath.dirname(target), parents=True, exist_ok=True)
    verb(sandbox, 'move_path')(source, target, overwrite=True)
    remembered(context, sandbox).move(source, target)
    return {'entry': look(context, sandbox, target)}


@on_call(SERVICE, 'Remove', lane='call')
def e2b_remove(context: Context, body: RawBody) -> dict[str, Any]:
    """Remove what is at a path, with all that is below it; nothing there is nothing to do."""
    sandbox = asked_sandbox(context)
    path = asked_path(sandbox, connect.read_message(body.stream.read(body.size)))
    verb(sandbox, 'remove_path')(path, recursive=True, missing_ok=True)
    remembered(context, sandbox).move(path, None)
    return {}
