"""Images without a Python: busybox and nothing else, made here from Debian's static build of it."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from enclave.sandboxes.docker.engine import Engine

DOWNLOAD_SECONDS = 120.0
PASSWD = 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/sh\n'
GROUP = 'root:x:0:\nnogroup:x:65534:\n'
OLD_PYTHON = "#!/bin/sh\necho 'enclave-agent: Python 3.5 is too old' >&2\nexit 97\n"


def find_busybox(folder: Path) -> bytes:
    """Return a statically linked busybox: this machine's own, or the one in Debian's package, fetched into ``folder``.

    Where neither can be had, the test is skipped at home and fails in CI.
    """
    own = shutil.which('busybox')
    if own is not None:
        program = Path(own).read_bytes()
        if _is_static(program):
            return program
    trouble = 'no statically linked busybox here, and no apt-get and dpkg-deb to fetch one with'
    if shutil.which('apt-get') and shutil.which('dpkg-deb'):
        try:
            for command in (['apt-get', 'download', 'busybox-static'], ['sh', '-c', 'dpkg-deb -x ./*.deb .']):
                subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=DOWNLOAD_SECONDS)
            return next(path for path in folder.glob('**/bin/busybox') if path.is_file()).read_bytes()
        except (OSError, subprocess.SubprocessError, StopIteration) as error:
            trouble = f'busybox-static cannot be had: {error}'
    if os.environ.get('CI') == 'true':
        pytest.fail(f'CI needs an image without Python: {trouble}', pytrace=False)
    pytest.skip(trouble)


def _is_static(program: bytes) -> bool:
    return program.startswith(b'\x7fELF') and b'/ld-linux' not in program[:4096] and b'/ld-musl' not in program[:4096]


def import_bare_image(engine: Engine, name: str, busybox: bytes, folder: Path, *, old_python: bool = False) -> None:
    """Make an image of busybox under every name it answers to, and a few files that every system has.

    Args:
        old_python: Also a ``python3`` that says what the agent's loader says in one that is too old.
    """
    program = folder / 'busybox'
    program.write_bytes(busybox)
    program.chmod(0o755)
    names = subprocess.run([program, '--list'], check=True, capture_output=True, text=True).stdout.split()
    root = io.BytesIO()
    with tarfile.open(fileobj=root, mode='w') as archive:
        for directory in ('bin', 'etc', 'proc', 'root', 'sys', 'dev', 'var', 'var/tmp', 'tmp', 'usr', 'usr/bin'):
            member = tarfile.TarInfo(directory)
            member.type, member.mode = tarfile.DIRTYPE, 0o1777 if directory.endswith('tmp') else 0o755
            archive.addfile(member)
        for applet in names:
            if applet != 'busybox':
                member = tarfile.TarInfo(f'bin/{applet}')
                member.type, member.linkname = tarfile.SYMTYPE, 'busybox'
                archive.addfile(member)
        files = {'bin/busybox': busybox, 'etc/passwd': PASSWD.encode(), 'etc/group': GROUP.encode()}
        if old_python:
            files['usr/bin/python3'] = OLD_PYTHON.encode()
        for path, data in files.items():
            member = tarfile.TarInfo(path)
            member.size, member.mode = len(data), 0o755 if 'bin/' in path else 0o644
            archive.addfile(member, io.BytesIO(data))
    repository, _, tag = name.partition(':')
    engine.api.import_image_from_data(root.getvalue(), repository=repository, tag=tag)
