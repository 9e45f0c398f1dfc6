"""Owners and modes of what is put into a Docker sandbox, as the sheet says (section 5)."""

from __future__ import annotations

import asyncio
import io
import os
import tarfile
from pathlib import Path

import pytest

from ms_enclave.sandbox.boxes import SandboxFactory
from ms_enclave.sandbox.model import DockerSandboxConfig, SandboxType


def archive() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode='w') as made:
        member = tarfile.TarInfo('a.txt')
        member.size, member.mode, member.uid, member.gid = 1, 0o604, 77, 88
        made.addfile(member, io.BytesIO(b'a'))
    return buffer.getvalue()


@pytest.mark.docker
def test_owners_and_modes_are_those_of_the_sheet(tmp_path: Path) -> None:
    (tmp_path / 'run.sh').write_text('x')
    (tmp_path / 'run.sh').chmod(0o751)
    if os.geteuid() == 0:
        os.chown(tmp_path / 'run.sh', 1234, 2345)
    (tmp_path / 'link').symlink_to('run.sh')
    found = (tmp_path / 'run.sh').stat()

    async def put() -> list[str]:
        async with SandboxFactory.create_sandbox(SandboxType.DOCKER, DockerSandboxConfig()) as sandbox:
            assert await sandbox.put_file('/t/new/x.txt', 'hi') is True
            assert await sandbox.put_archive('/t/archive', archive()) is True
            assert await sandbox.put_dir(str(tmp_path), '/t/dir') is True
            names = '/t/new /t/new/x.txt /t/archive /t/archive/a.txt /t/dir/run.sh'
            result = await sandbox.execute_command(f"stat -c '%u %g %a' {names}; ls /t/dir", timeout=30)
            return result.stdout.splitlines()

    assert asyncio.run(put()) == [
        '0 0 755',
        '0 0 644',
        '0 0 755',
        '77 88 604',
        f'{found.st_uid} {found.st_gid} 751',
        'run.sh',
    ]
