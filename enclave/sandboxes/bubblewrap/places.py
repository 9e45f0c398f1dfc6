"""Where this backend keeps things on the host (floor 4).

Everything is under one directory per user: what can be made again (``etc``, ``agent``, ``seccomp``, ``bwrap``,
``images``) and what ``remove_on_exit=False`` kept (``kept``). Files are made beside their place and renamed into it,
so that several processes may fill the same cache.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

VARIABLE = 'ENCLAVE_CACHE_DIR'


def cache_dir(*parts: str) -> Path:
    """Return a directory of the cache, made if missing; readable for all, since a sandbox may be another user's.

    It is ``$ENCLAVE_CACHE_DIR``, else ``/var/cache/enclave`` for root and ``enclave`` in ``$XDG_CACHE_HOME`` or
    ``~/.cache`` for others.
    """
    named = os.environ.get(VARIABLE)
    if named:
        base = Path(named).absolute()
    elif os.geteuid() == 0:
        base = Path('/var/cache/enclave')
    else:
        base = Path(os.environ.get('XDG_CACHE_HOME') or '~/.cache').expanduser().absolute() / 'enclave'
    place = base.joinpath(*parts)
    if os.path.isdir(place):
        return place
    for each in reversed([place, *place.parents]):
        with contextlib.suppress(FileExistsError):
            each.mkdir()
            each.chmod(0o755)
    return place


def keep_file(place: Path, make: Callable[[], bytes]) -> bytes:
    """Return the file's bytes; where it is not there yet, make them and keep them."""
    with contextlib.suppress(FileNotFoundError):
        return place.read_bytes()
    data = make()
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
