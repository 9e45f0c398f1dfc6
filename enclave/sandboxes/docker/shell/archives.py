"""Tar archives on their way to and from a sandbox without an agent (layer 4, docker).

What the agent checks and renames inside of the sandbox is done here, on the host, since a shell cannot: a tar comes
from a stranger in both directions, and is taken apart and written anew.
"""

from __future__ import annotations

import errno
import posixpath
import stat
import tarfile
from collections.abc import Iterable, Iterator
from typing import IO, Any, Literal

from enclave.errors import SandboxPathError

BLOCK_BYTES = 256 * 1024
HEADER_BYTES = 4 << 20
"""How much may come between two members: names and extended headers, which `tarfile` holds in memory."""


class _Reader:
    """Pieces of bytes as the file object `tarfile` reads a stream from; refuses a header without end."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._held = b''
        self.budget = HEADER_BYTES

    def read(self, size: int) -> bytes:
        while len(self._held) < size:
            chunk = next(self._chunks, None)
            if chunk is None:
                break
            self._held = self._held + chunk if self._held else chunk
        data, self._held = self._held[:size], self._held[size:]
        self.budget -= len(data)
        if self.budget < 0:
            raise tarfile.ReadError('a header is too long')
        return data


def _members(chunks: Iterable[bytes], mode: str) -> Iterator[tuple[tarfile.TarInfo, Iterator[bytes]]]:
    """Yield each member and its bytes; take those before running."""
    reader: Any = _Reader(chunks)
    with tarfile.open(fileobj=reader, mode=mode, bufsize=BLOCK_BYTES, encoding='utf-8') as archive:  # type: ignore[call-overload]
        while (member := archive.next()) is not None:
            data = _data(archive, member, reader)
            yield member, data
            for _rest in data:
                pass
            archive.members = []  # a stream is not gone back in; else each member would stay in memory
            reader.budget = HEADER_BYTES + BLOCK_BYTES


def _data(archive: tarfile.TarFile, member: tarfile.TarInfo, reader: _Reader) -> Iterator[bytes]:
    file = archive.extractfile(member) if member.isreg() else None
    while file is not None:
        reader.budget = 2 * BLOCK_BYTES + HEADER_BYTES
        data = file.read(BLOCK_BYTES)
        if not data:
            return
        yield data


def _header(member: tarfile.TarInfo, tar_format: Literal[1, 2]) -> bytes:
    member.pax_headers = {}
    if member.isreg():
        member.type = tarfile.REGTYPE
    return member.tobuf(tar_format, 'utf-8', 'surrogateescape')


def _padding(size: int) -> bytes:
    return b'\0' * (-size % tarfile.BLOCKSIZE)


END = b'\0' * (2 * tarfile.BLOCKSIZE)


def rename_top(chunks: Iterator[bytes], top: str, arcname: str) -> Iterator[bytes]:
    """Yield an archive anew, in which the members at and below ``top`` are at and below ``arcname``.

    Raises:
        SandboxPathError: It is no archive, or not all of one.
    """
    try:
        for member, data in _members(chunks, 'r|'):
            member.name = _moved(member.name, top, arcname)
            if member.islnk():
                member.linkname = _moved(member.linkname, top, arcname)
            yield _header(member, tarfile.PAX_FORMAT)
            if member.isreg():
                yield from data
                yield _padding(member.size)
        for _rest in chunks:  # what raises an error at its end shall do it before ours
            pass
    except tarfile.TarError as error:
        raise SandboxPathError(
            f'the sandbox sent no proper archive: {error}', details={'errno': errno.EINVAL}
        ) from error
    yield END


def _moved(name: str, top: str, arcname: str) -> str:
    name = posixpath.normpath(name.lstrip('/') or '.')
    if name == top:
        return arcname
    inner = name if top == '.' else name[len(top) + 1 :] if name.startswith(f'{top}/') else name
    return posixpath.join(arcname, inner)


def check(chunks: Iterable[bytes], spool: IO[bytes], owner: tuple[int, int] | None) -> dict[str, str]:
    """Write a plain, harmless form of an archive (plain or compressed) to a file.

    Args:
        owner: (uid, gid) for every member, or None to keep the archive's numbers.

    Returns:
        ``{directory: a member in it}``, relative to the target: whether symlinks that are there lead out of it is to be seen yet.

    Raises:
        SandboxPathError: A member or a hard link would land outside, is a device or a pipe, or this is no archive.
    """
    folders: dict[str, str] = {}
    links: dict[str, str] = {}
    late: list[tarfile.TarInfo] = []
    try:
        for member, data in _members(chunks, 'r|*'):
            member.name = name = posixpath.normpath(member.name)
            if name.startswith(('/', '../')) or name == '..':
                raise _refused(f'the archive has a member outside the target: {member.name!r}')
            if member.ischr() or member.isblk() or member.isfifo():
                raise _refused(f'the archive has a device or pipe: {member.name!r}')
            if not (member.isreg() or member.isdir() or member.issym() or member.islnk()):
                raise _refused(f'the archive has a member of an unknown kind: {member.name!r}')
            folder = posixpath.dirname(name)
            if _leads_out(folder, links):
                raise _refused(f'the archive has a member outside the target: {member.name!r}')
            folders.setdefault(folder, member.name)
            if member.islnk():
                target = posixpath.normpath(member.linkname)
                if target.startswith(('/', '../')) or target == '..' or _leads_out(target, links):
                    raise _refused(f'the archive has a link outside the target: {member.name!r}')
                folders.setdefault(posixpath.dirname(target), member.name)
                member.linkname = f'./{target}'
            links.pop(name, None)
            if member.issym():
                links[name] = member.linkname
            if name == '.':
                continue
            # With ./ before it no name can look like an option or be taken for a special one.
            member.name = f'./{name}'
            member.uname = member.gname = ''
            if owner is not None:
                member.uid, member.gid = owner
            member.mode = stat.S_IMODE(member.mode)
            if member.isdir() and member.mode & 0o700 != 0o700:
                # Not every tar sets a directory's mode only when it has been filled.
                mode, member.mode = member.mode, member.mode | 0o700
                again = tarfile.TarInfo(member.name)
                again.type, again.mode, again.uid, again.gid = tarfile.DIRTYPE, mode, member.uid, member.gid
                again.mtime = member.mtime
                late.append(again)
            spool.write(_header(member, tarfile.GNU_FORMAT))
            if member.isreg():
                for piece in data:
                    spool.write(piece)
                spool.write(_padding(member.size))
    except tarfile.TarError as error:
        raise SandboxPathError(f'ReadError: {error}', details={'errno': errno.EINVAL}) from error
    for member in reversed(late):
        spool.write(_header(member, tarfile.GNU_FORMAT))
    spool.write(END)
    return folders


def _refused(message: str) -> SandboxPathError:
    return SandboxPathError(message, details={'errno': errno.EINVAL})


def _leads_out(path: str, links: dict[str, str]) -> bool:
    """Return whether a directory of the archive lies outside when its own symlinks are followed."""
    followed = 0
    todo, place = [part for part in path.split('/') if part], '.'
    while todo:
        place = posixpath.normpath(posixpath.join(place, todo.pop(0)))
        if place == '..' or place.startswith(('../', '/')):
            return True
        if place in links:
            followed += 1
            if followed > 40:
                return True
            todo = [part for part in links[place].split('/') if part] + todo
            place = '/' if links[place].startswith('/') else posixpath.dirname(place) or '.'
            if place == '/':
                return True
    return False
