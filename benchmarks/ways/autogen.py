"""autogen-ext's command line executor on Docker."""

from __future__ import annotations

import tempfile
from typing import Any

from autogen_core import CancellationToken
from autogen_core.code_executor import CodeBlock
from autogen_ext.code_executors.docker import DockerCommandLineCodeExecutor
from driver import OUTPUT_BYTES, OUTPUT_CODE, AsyncWay, check


class Peer(AsyncWay):
    """One executor."""

    def __init__(self) -> None:
        super().__init__()
        self.box: Any = None

    def start(self) -> None:
        folder = tempfile.mkdtemp(prefix='enclave-bench-')
        self.box = DockerCommandLineCodeExecutor(image='python:3.11-slim', work_dir=folder)
        self.wait(self.box.start())

    def stop(self) -> None:
        self.wait(self.box.stop())

    def run(self, language: str, code: str) -> Any:
        return self.wait(self.box.execute_code_blocks([CodeBlock(code, language)], CancellationToken()))

    def true(self) -> None:
        check(self.run('sh', 'true').exit_code, 0)

    def print_one(self) -> None:
        check(self.run('python', 'print(1)').output, '1\n')

    def output(self) -> None:
        check(len(self.run('python', OUTPUT_CODE).output), OUTPUT_BYTES)

    def container(self) -> str | None:
        return str(self.box.container_name)
