"""Directories in the cache to work in, of which nothing stays whatever ends the work (layer 4).

One is locked while it is in use. The kernel takes the lock away with the process, also with one that is killed, so that
what nobody holds a lock on is nobody's and the next one to come may remove it. Source: flock(2).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from enclave.sandboxes.bubblewrap.places import explained

_PREFIX = '.new-'


@contextlib.contextmanager
def workspace(folder: Path) -> Iterator[Path]:
    """Make a directory in ``folder`` for the block, where what is done may be moved out of; before that, remove those that
    killed processes left.

    Raises:
        SandboxStartError: There can be none.
    """
    with explained(folder):
        _sweep(folder)
        place, lock = _make(folder)
    try:
        yield place
    finally:
        try:
            shutil.rmtree(place, ignore_errors=True)
        finally:
            os.close(lock)


def _open(place: Path) -> int:
    return os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)


def _make(folder: Path) -> tuple[Path, int]:
    import fcntl  # here, since this module is imported on every system

    while True:
        place = Path(tempfile.mkdtemp(dir=folder, prefix=_PREFIX))
        # Until it is locked another process may take it for a dead one's and remove it.
        with contextlib.suppress(FileNotFoundError):
            lock = _open(place)
            with contextlib.suppress(
                OSError
            ):  # a file system without locks, where nobody else gets one to sweep either
                fcntl.flock(lock, fcntl.LOCK_EX)
            if place.is_dir():
                return place, lock
            os.close(lock)


def _sweep(folder: Path) -> None:
    import fcntl

    for place in folder.glob(f'{_PREFIX}*'):
        with contextlib.suppress(OSError):  # in use, or gone meanwhile
            lock = _open(place)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(place)
            finally:
                os.close(lock)
