"""Tar archives in memory."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path


def tar_directory(source: Path) -> bytes:
    """Return what is in a directory as an archive: sorted, without symlinks and special files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode='w') as archive:
        for folder, folders, files in os.walk(source):
            folders.sort()
            here = Path(folder)
            for name in sorted([*folders, *files]):
                path = here / name
                if path.is_symlink() or not (path.is_dir() or path.is_file()):
                    continue
                archive.add(path, arcname=path.relative_to(source).as_posix(), recursive=False)
    return buffer.getvalue()


def tar_file(name: str, data: bytes) -> bytes:
    """Return an archive of one file."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode='w') as archive:
        member = tarfile.TarInfo(name)
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


__all__ = ['tar_directory', 'tar_file']
