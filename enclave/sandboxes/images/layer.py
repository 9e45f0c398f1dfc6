"""Laying an image's layers over each other (layer 4).

A layer is a tar archive and a stranger: every path is resolved as if the target were the root directory, so nothing
lands outside; devices are left out, and so are set-user-id bits and owners.

Source: the OCI image specification, ``layer.md``.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import shutil
import stat
import tarfile
from pathlib import Path
from typing import IO

from enclave.errors import SandboxStartError
from enclave.sandboxes.bubblewrap.rootfs import LINKS, resolve_inside
from enclave.sandboxes.images.archive import COPY_BYTES, Measured, WholeTarInfo, damage_reported, find_decompressor

_WHITEOUT, _OPAQUE = '.wh.', '.wh..wh..opq'
_DEPTH = 256
"""How deep directories may lie. No real image comes near it, PATH_MAX is not far, and what walks or removes a tree holds
a descriptor and a stack frame for each level."""


def apply_layer(
    root: Path,
    file: IO[bytes],
    *,
    what: str = 'a layer of the image',
    digest: str | None = None,
    size_bytes: int | None = None,
    diff_id: str | None = None,
) -> None:
    """Lay one layer over what is below ``root``: whiteouts hide what lower layers put there, everything else replaces.

    Args:
        file: The layer, at its beginning.
        what: What to call it in a message.
        digest: What the file's digest must be, ``'sha256:...'``, and its size; None for whatever it is.
        diff_id: What the digest of the tar archive in it must be.

    Raises:
        SandboxStartError: It is damaged, or no tar archive, or one compressed in a way this Python does not know, or it
            contradicts itself.
    """
    failure: OSError | None = None
    try:
        with damage_reported(f'{what} is damaged'):
            decompress = find_decompressor(file)
            if decompress is None:
                packed = plain = Measured(file, (digest, diff_id))
            else:
                packed = Measured(file, (digest,))
                plain = Measured(decompress(io.BufferedReader(packed, COPY_BYTES)), (diff_id,))
            try:
                _lay(root, plain)
            except OSError as error:
                if error.errno is None:  # a decompressor's
                    raise
                failure = error  # of which a damaged layer may be the reason
            plain.check(diff_id)
            packed.check(digest, size_bytes)
        if failure is not None:
            raise failure
    except OSError as error:
        raise SandboxStartError(f'{what} cannot be unpacked: {_words(error)}') from error


def _lay(root: Path, file: Measured) -> None:
    with tarfile.open(fileobj=file, mode='r|', bufsize=COPY_BYTES, tarinfo=WholeTarInfo) as archive:
        laid = _Layer(root)
        for member in archive:
            laid.apply(archive, member)


def _words(error: OSError) -> str:
    path = os.fsdecode(error.filename or '')
    return f'{error.strerror}: {path[:200]!r}' if path else str(error)


class _Layer:
    """A layer while it is laid over what is below ``root``; lives as long as that takes.

    Whiteouts hide what is of lower layers only, wherever in the archive they stand; so it knows what is of its own.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._own: set[str] = set()  # real paths; with each also the directories it lies in

    def apply(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        """Lay one member of the archive over what is there."""
        parts = [part for part in member.name.split('/') if part not in ('', '.')]
        if not parts or '..' in parts or '\0' in f'{member.name}{member.linkname}':
            return
        parent = self._make_parents(parts[:-1])
        if parent is None:
            return
        name = parts[-1]
        if name == _OPAQUE:
            self._keep(parent)
            self._hide_below(parent)
        elif name.startswith(_WHITEOUT):
            gone = name[len(_WHITEOUT) :]
            if gone not in ('', '.', '..'):
                self._keep(parent)
                self._hide(parent / gone)
        elif self._put(archive, member, parent / name):
            self._keep(parent / name)

    def _put(self, archive: tarfile.TarFile, member: tarfile.TarInfo, place: Path) -> bool:
        """Make what a member says in its place, and return whether it was something to be made."""
        if member.isdir():
            if place.is_symlink() or not place.is_dir():
                _remove(place)
                place.mkdir()
            place.chmod(member.mode & 0o777 | 0o700)
            return True
        if member.islnk():
            source = resolve_inside(self._root, os.path.dirname(member.linkname))
            linked = None if source is None else source / os.path.basename(member.linkname)
            if linked is None or linked.is_dir() or not os.path.lexists(linked):
                return False
            if linked != place:
                _remove(place)
                os.link(linked, place, follow_symlinks=False)
            return True
        _remove(place)
        if member.issym():
            place.symlink_to(member.linkname)
            return True
        if not member.isreg():
            return False
        source_file = archive.extractfile(member)
        assert source_file is not None
        descriptor = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, 'wb') as target:
            shutil.copyfileobj(source_file, target, COPY_BYTES)
            os.fchmod(target.fileno(), member.mode & 0o777 | 0o400)
        os.utime(place, (member.mtime, member.mtime))
        return True

    def _make_parents(self, parts: list[str]) -> Path | None:
        """Return the directory that a path's parents lead to, made if missing; None where a file is in the way.

        Each step is one from a directory that is known to be real, so that a path costs no more than its length. Texts are
        joined, since a `Path` is parsed anew at each step (CPython 3.13).
        """
        root = str(self._root).rstrip('/')
        here, depth, links = root, 0, 0
        if len(parts) > _DEPTH:
            raise _too_deep(parts)
        for part in parts:
            place = f'{here}/{part}'
            try:
                mode = os.lstat(place).st_mode
            except FileNotFoundError:
                os.mkdir(place, mode=0o755)
                mode = stat.S_IFDIR
            if stat.S_ISLNK(mode):
                links += 1
                found = resolve_inside(self._root, place[len(root) + 1 :]) if links <= LINKS else None
                if found is None or not found.is_dir():
                    return None  # a symlink to nowhere, or to a file
                here, depth = str(found).rstrip('/'), len(found.parts) - len(self._root.parts)
            elif stat.S_ISDIR(mode):
                here, depth = place, depth + 1
            else:
                return None
            if depth > _DEPTH:
                raise _too_deep(parts)
        return Path(here or '/')

    def _keep(self, place: Path) -> None:
        path, root = str(place), str(self._root)
        while path != root and path not in self._own:
            self._own.add(path)
            path = os.path.dirname(path)

    def _hide(self, place: Path) -> None:
        if str(place) not in self._own:
            _remove(place)
        elif place.is_dir() and not place.is_symlink():
            self._hide_below(place)

    def _hide_below(self, folder: Path) -> None:
        for each in list(folder.iterdir()):
            self._hide(each)


def _too_deep(parts: list[str]) -> OSError:
    path = '/'.join(parts)
    return OSError(errno.ENAMETOOLONG, f'a path leads through more than {_DEPTH} directories', f'{path[:40]}...')


def _remove(place: Path) -> None:
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    else:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            place.unlink()
