"""Where this backend keeps things on the host (floor 4).

Everything is under one directory per user: what can be made again (``etc``, ``agent``, ``seccomp``, ``bwrap``,
``mounts``, ``images``) and what ``remove_on_exit=False`` kept (``kept``). Files are made beside their place and renamed into
it, so that several processes may fill the same cache.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path

from enclave.errors import SandboxStartError

VARIABLE = 'ENCLAVE_CACHE_DIR'
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
    """Tell whether a user without rights of his own can reach a path: every directory on the way lets others pass."""
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
    """Tell an `OSError` in the block as one of the cache directory, with what to do."""
    try:
        yield
    except OSError as error:
        raise SandboxStartError(
            f'the cache directory {str(place)!r} cannot be used: {error.strerror}: {error.filename}. {_REMEDY}'
        ) from error


def keep_file(place: Path, make: Callable[[], bytes]) -> bytes:
    """Return the file's bytes; where it is not there yet, make them and keep them."""
    with explained(place), contextlib.suppress(FileNotFoundError):
        return place.read_bytes()
    data = make()
    with explained(place.parent):
        handle, name = tempfile.mkstemp(dir=place.parent, prefix='.new-')
        try:
            with os.fdopen(handle, 'wb') as file:
                file.write(data)
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
