"""Trees from a sandbox onto this machine's disk (layer 4): nothing is written outside of the directory that was named.

The archive is made where nobody is trusted, and its maker may know every weakness of an unpacker. So this one is small, and
right by its order: directories and files first, each path walked name by name and refused if any name is a symlink; the
links last, when nothing more is written. `tarfile` reads the headers only: its own safe unpacking is missing in the Python
of some distributions, and could be led outside through very long paths (CVE-2025-4517).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tarfile
from collections.abc import Iterable, Iterator
from typing import Any, cast

from enclave.errors import EnclaveError, SandboxPathError

_HEADER_BYTES = 1 << 20
"""The largest header or piece that is read at once; real ones hold a few long names."""
_PIECE_BYTES = 1 << 18


def unpack_tree(chunks: Iterable[bytes], folder: str | os.PathLike[str]) -> None:
    """Unpack a plain tar archive of files, directories and links below ``folder``, merging with what is there.

    As with `tarfile`'s ``data`` filter, owners, set-user-id bits and others' write permission are left out.

    Raises:
        SandboxPathError: The archive is broken, or has a member that would land or lead outside, or a device.
    """
    root = os.path.realpath(folder)
    os.makedirs(root, exist_ok=True)
    try:
        # Without a mode for streams, which would read ahead; the reader below can only go forward.
        with tarfile.open(fileobj=cast('Any', _Forward(iter(chunks))), mode='r:') as archive:
            _Unpacking(root, archive).run()
    except (EnclaveError, OSError):
        raise
    except Exception as error:  # what a parser may meet in bytes that were made to break it
        raise SandboxPathError(f'the sandbox sent a broken archive: {type(error).__name__}: {error}') from error


class _Unpacking:
    """One unpacking, from its first member to its links."""

    def __init__(self, root: str, archive: tarfile.TarFile) -> None:
        self._root = root
        self._archive = archive
        self._folders: set[tuple[str, ...]] = {()}  # known to be real directories
        self._files: set[tuple[str, ...]] = set()  # unpacked just now
        self._links: list[tuple[tuple[str, ...], str]] = []

    def run(self) -> None:
        while (member := self._archive.next()) is not None:
            cast('Any', self._archive).members = []  # or it keeps every one
            path = _names(member.name)
            if member.isdir():
                self._enter(path)
            elif member.issym():
                self._links.append((path, member.linkname))
            elif member.islnk():
                self._link(path, _names(member.linkname))
            elif member.isreg() and not member.issparse():
                self._write(path, member)
            else:
                raise SandboxPathError(f'{member.name!r} in the sandbox is neither file, directory nor link')
        for path, target in self._links:
            self._symlink(path, target)

    def _place(self, path: tuple[str, ...]) -> str:
        return os.path.join(self._root, *path)

    def _enter(self, path: tuple[str, ...]) -> None:
        """Make sure that a path is a directory and no name of it a symlink."""
        if path in self._folders:
            return
        self._enter(path[:-1])
        place = self._place(path)
        try:
            os.mkdir(place)
        except FileExistsError:
            if not stat.S_ISDIR(os.lstat(place).st_mode):
                raise SandboxPathError(f'{place!r} is in the way of a directory of the sandbox') from None
        self._folders.add(path)

    def _clear(self, path: tuple[str, ...]) -> str:
        """Return a place where nothing is, in a real directory."""
        if not path:
            raise SandboxPathError('the archive says that its top is no directory')
        self._enter(path[:-1])
        place = self._place(path)
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISDIR(os.lstat(place).st_mode):
                raise SandboxPathError(f'the directory {place!r} is in the way of a file of the sandbox')
            os.unlink(place)
        return place

    def _write(self, path: tuple[str, ...], member: tarfile.TarInfo) -> None:
        place = self._clear(path)
        mode = 0o755 if member.mode & 0o100 else 0o644
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, 'O_BINARY', 0)
        with open(os.open(place, flags, 0o600), 'wb') as file:
            content = self._archive.extractfile(member)
            assert content is not None
            shutil.copyfileobj(content, file, _PIECE_BYTES)
            if file.tell() != member.size:
                raise SandboxPathError(f'the archive ends inside {member.name!r}')
        os.chmod(place, (member.mode & mode) | 0o600)
        with contextlib.suppress(OSError, OverflowError, ValueError):
            os.utime(place, (member.mtime, member.mtime))
        self._files.add(path)

    def _link(self, path: tuple[str, ...], source: tuple[str, ...]) -> None:
        if source not in self._files:
            raise SandboxPathError(f'{"/".join(path)!r} is a link to {"/".join(source)!r}, which is not in the archive')
        if path != source:
            os.link(self._place(source), self._clear(path))
            self._files.add(path)

    def _symlink(self, path: tuple[str, ...], target: str) -> None:
        """Make a symlink that leads, whatever else is there, to somewhere inside.

        It may climb first, not above the root, and descend then. Such links stay inside also when they go through one
        another, since each begins in a real directory.
        """
        names = target.split('/')
        climbs = 0
        while climbs < len(names) and names[climbs] in ('', '.', '..'):
            climbs += 1
        up = names[:climbs].count('..')
        if os.path.isabs(target) or target.startswith('/') or '..' in names[climbs:] or up > len(path) - 1:
            raise SandboxPathError(
                f'{"/".join(path)!r} is a link to {target!r}, which may lie outside of the directory'
            )
        os.symlink(target, self._clear(path))


def _names(path: str) -> tuple[str, ...]:
    """Return the names of a member's path, checked."""
    names = tuple(name for name in path.split('/') if name not in ('', '.'))
    odd = os.name == 'nt' and any(bad in path for bad in '\\:')
    if path.startswith('/') or '..' in names or '\0' in path or odd:
        raise SandboxPathError(f'the archive has a member outside the target: {path!r}')
    return names


class _Forward:
    """The reading half of a file over pieces of bytes; it can skip forward."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._held = b''
        self._at = 0

    def tell(self) -> int:
        return self._at

    def seek(self, position: int) -> int:
        if position < self._at:
            raise tarfile.ReadError('the archive points back')
        while self._at < position and self.read(min(_PIECE_BYTES, position - self._at)):
            pass
        return self._at

    def read(self, size: int) -> bytes:
        if size > _HEADER_BYTES:
            raise tarfile.ReadError(f'a header of {size} bytes')
        parts = []
        left = size
        while left > 0:
            if not self._held:
                self._held = next(self._chunks, b'')
                if not self._held:
                    break
            parts.append(self._held[:left])
            self._held = self._held[left:]
            left -= len(parts[-1])
        data = b''.join(parts)
        self._at += len(data)
        return data
