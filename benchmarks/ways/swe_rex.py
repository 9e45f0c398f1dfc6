"""SWE-ReX: a deployment on Docker, its server in the container as its documentation advises for quick starts."""

from __future__ import annotations

import logging
import site
import tempfile
from pathlib import Path
from typing import Any

from driver import KILOBYTE, OUTPUT_BYTES, OUTPUT_CODE, AsyncWay, check
from swerex.deployment.docker import DockerDeployment
from swerex.runtime.abstract import Command, ReadFileRequest, WriteFileRequest

logging.disable(logging.INFO)


class Peer(AsyncWay):
    """One deployment. This environment's packages are mounted, so that the container installs nothing when it starts."""

    def __init__(self) -> None:
        super().__init__()
        self.box: Any = None
        self.folder = tempfile.mkdtemp(prefix='enclave-bench-')
        remote = Path(self.folder, 'swerex-remote')
        remote.write_text('#!/usr/bin/env python3\nfrom swerex.server import main\nmain()\n')
        remote.chmod(0o755)
        packages = site.getsitepackages()[0]
        self.arguments = ['-v', f'{packages}:/opt/packages:ro', '-e', 'PYTHONPATH=/opt/packages']
        self.arguments += ['-v', f'{remote}:/usr/local/bin/swerex-remote:ro', '--label', 'enclave.bench=1']

    def start(self) -> None:
        self.box = DockerDeployment(image='python:3.11-slim', docker_args=self.arguments)
        self.wait(self.box.start())

    def stop(self) -> None:
        self.wait(self.box.stop())

    def run(self, *argv: str) -> Any:
        return self.wait(self.box.runtime.execute(Command(command=list(argv), timeout=60)))

    def true(self) -> None:
        check(self.run('true').exit_code, 0)

    def print_one(self) -> None:
        check(self.run('python3', '-c', 'print(1)').stdout, '1\n')

    def write(self) -> None:
        self.wait(self.box.runtime.write_file(WriteFileRequest(content=KILOBYTE, path='/tmp/f')))

    def read(self) -> None:
        check(self.wait(self.box.runtime.read_file(ReadFileRequest(path='/tmp/f'))).content, KILOBYTE)

    def output(self) -> None:
        check(len(self.run('python3', '-c', OUTPUT_CODE).stdout), OUTPUT_BYTES)

    def container(self) -> str | None:
        return str(self.box.container_name)
