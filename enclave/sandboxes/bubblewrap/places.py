"""Where this backend keeps things on the host (layer 4).

Everything is under one directory per user: what can be made again (``etc``, ``agent``, ``seccomp``, ``bwrap``,
``mounts``, ``images``) and what ``remove_on_exit=False`` kept (``kept``). Files are made beside their place and renamed into
it, so that several processes may fill the same cache.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path

from enclave.errors import SandboxStartError

VARIABLE = 'ENCLAVE_CACHE_DIR'
_DIGEST_BYTES = hashlib.sha256().digest_size
_REMEDY = f'Set {VARIABLE} to a directory that this user may write in'


def cache_dir(*parts: str) -> Path:
    """Return a directory of the cache, made if missing; readable for all, since a sandbox may be another user's.

    It is ``$ENCLAVE_CACHE_DIR``, else ``/var/cache/enclave`` for root and ``enclave`` in ``$XDG_CACHE_HOME`` or
    ``~/.cache`` for others; where that cannot be written, since a user of a container has no home or no disk may be
    written to, ``enclave-UID`` in the directory for temporary files.

    Raises:
        SandboxStartError: None of them can be used.
    """
    named = os.environ.get(VARIABLE)
    if named:
        base = Path(named).absolute()
    else:
        base = _usual(os.geteuid(), os.environ.get('XDG_CACHE_HOME'), os.environ.get('HOME')) or _temporary()
    return _make(base.joinpath(*parts))


def reachable_dir(*parts: str) -> Path:
    """Return a directory as `cache_dir` does, but one that every user can reach.

    Raises:
        SandboxStartError: There is none.
    """
    place = cache_dir(*parts)
    if not is_reachable(str(place)):
        place = _make(_temporary().joinpath(*parts))
    if not is_reachable(str(place)):
        raise SandboxStartError(
            f"a sandbox of root's is another user outside and cannot reach the cache directory {str(place)!r}. "
            f'Set {VARIABLE} to a directory that every user can reach, or host_uid=0'
        )
    return place


def is_reachable(path: str) -> bool:
    """Return whether a user without rights of his own can reach a path: every directory on the way lets others pass."""
    place = os.path.realpath(path)
    need = 0o005
    try:
        while os.stat(place).st_mode & need:
            if place == '/':
                return True
            place, need = os.path.dirname(place), 0o001
    except OSError:
        pass
    return False


@lru_cache(maxsize=8)
def _usual(uid: int, xdg: str | None, home: str | None) -> Path | None:
    """Return where a user's cache is if it can be used; ``home`` is what ``~`` goes by."""
    try:
        base = Path('/var/cache') if uid == 0 else Path(xdg or '~/.cache').expanduser().absolute()
        place = _make(base / 'enclave')
    except (SandboxStartError, RuntimeError):  # the latter where nobody knows of a home
        return None
    return place if os.access(place, os.W_OK | os.X_OK) else None


def _temporary() -> Path:
    """Return our directory among the temporary files, where others may have put something of that name before."""
    place = Path(tempfile.gettempdir(), f'enclave-{os.geteuid()}')
    _make(place)
    facts = place.lstat()
    if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.geteuid() or facts.st_mode & 0o022:
        raise SandboxStartError(
            f'{str(place)!r} cannot be the cache directory, since others may write there or own it. {_REMEDY}'
        )
    return place


def _make(place: Path) -> Path:
    if not os.path.isdir(place):
        with explained(place):
            for each in reversed([place, *place.parents]):
                with contextlib.suppress(FileExistsError):
                    each.mkdir()
                    each.chmod(0o755)
    return place


@contextlib.contextmanager
def explained(place: Path) -> Iterator[None]:
    """Report an `OSError` in the block as one of the cache directory, with what to do."""
    try:
        yield
    except OSError as error:
        raise SandboxStartError(
            f'the cache directory {str(place)!r} cannot be used: {error.strerror}: {error.filename}. {_REMEDY}'
        ) from error


def keep_file(place: Path, make: Callable[[], bytes]) -> bytes:
    """Return the file's bytes; where it is not there yet, or is damaged, make them and keep them.

    A digest follows them in the file: a power failure or a full disk may have left less of it, or nothing.
    """
    with explained(place), contextlib.suppress(FileNotFoundError):
        found = place.read_bytes()
        data, digest = found[:-_DIGEST_BYTES], found[-_DIGEST_BYTES:]
        if hashlib.sha256(data).digest() == digest:
            return data
    data = make()
    with explained(place.parent):
        handle, name = tempfile.mkstemp(dir=place.parent, prefix='.new-')
        try:
            with os.fdopen(handle, 'wb') as file:
                file.write(data + hashlib.sha256(data).digest())
            os.chmod(name, 0o644)
            os.replace(name, place)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name)
            raise
    return data


def keep_tree(place: Path, fill: Callable[[Path], None]) -> Path:
    """Return the directory; where it is not there yet, have it filled elsewhere and move it into place."""
    if place.is_dir():
        return place
    with explained(place.parent):
        made = Path(tempfile.mkdtemp(dir=place.parent, prefix='.new-'))
        try:
            os.chmod(made, 0o755)
            fill(made)
            try:
                os.rename(made, place)
            except OSError:
                if not place.is_dir():  # else another process was quicker
                    raise
        finally:
            shutil.rmtree(made, ignore_errors=True)
    return place


def remove_tree(place: Path) -> None:
    """Remove a directory that a guest may have written: of any depth, with directories that nobody may look into.

    Nothing is followed, and nothing changed, that a symlink leads to. Nobody may be at work in it any more.

    Raises:
        OSError: Something of it stays; its name is the error's.
    """
    try:
        top = _open_up(str(place))
    except FileNotFoundError:
        return
    try:
        # Directories in directories are moved to the top, one level at a time, so that none is gone down into.
        while names := os.listdir(top):
            for name in names:
                _remove_entry(top, name)
    except OSError as error:
        name = error.filename if isinstance(error.filename, str) else ''
        raise OSError(error.errno, error.strerror, os.path.join(place, name)) from error
    finally:
        os.close(top)
    os.rmdir(place)


def _remove_entry(top: int, name: str) -> None:
    """Remove an entry of an open directory, after moving the directories in it beside it."""
    if not stat.S_ISDIR(os.lstat(name, dir_fd=top).st_mode):
        os.unlink(name, dir_fd=top)
        return
    folder = _open_up(name, top)
    try:
        for each in os.listdir(folder):
            if stat.S_ISDIR(os.lstat(each, dir_fd=folder).st_mode):
                os.close(_open_up(each, folder))  # moving a directory changes its '..', which takes the right to write
                # No guest has taken that name, since none could guess it.
                os.rename(each, f'.enclave-{os.urandom(16).hex()}', src_dir_fd=folder, dst_dir_fd=top)
            else:
                os.unlink(each, dir_fd=folder)
    finally:
        os.close(folder)
    os.rmdir(name, dir_fd=top)


def _open_up(name: str, folder: int | None = None) -> int:
    """Return a descriptor of a directory that its owner may use from now on, whatever its mode was."""
    found = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    try:
        link = f'/proc/self/fd/{found}'  # a path to what is open, wherever its name leads by now
        if os.stat(link).st_mode & 0o700 != 0o700:
            os.chmod(link, 0o700)
        return os.open(link, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    finally:
        os.close(found)
