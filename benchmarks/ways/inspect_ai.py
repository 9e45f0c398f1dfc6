"""inspect-ai's Docker sandbox, by its own classes and without an evaluation around it."""

from __future__ import annotations

import asyncio
import logging
import os
import tempfile
from pathlib import Path
from typing import Any

from driver import KILOBYTE, OUTPUT_BYTES, OUTPUT_CODE, AsyncWay, check

COMPOSE = """
services:
  default:
    image: python:3.11-slim
    command: tail -f /dev/null
    init: true
    network_mode: none
    stop_grace_period: 1s
"""
"""Its own default file, with the image that all others have."""

logging.disable(logging.WARNING)


class Peer(AsyncWay):
    """One sample's environment."""

    shares_loop = True  # what limits its calls belongs to one event loop
    loop = asyncio.new_event_loop()

    def __init__(self) -> None:
        from inspect_ai.util._concurrency import init_concurrency
        from inspect_ai.util._sandbox.docker.docker import DockerSandboxEnvironment

        self.kind: Any = DockerSandboxEnvironment
        init_concurrency()
        self.box: Any = None
        self.environments: Any = None
        self.file = Path(tempfile.mkdtemp(prefix='enclave-bench-'), 'compose.yaml')
        self.file.write_text(COMPOSE)

    def prepare(self) -> None:
        # What an evaluation does once; its check of the engine's version is not part of a sandbox's life.
        from inspect_ai.util._sandbox.docker.cleanup import project_cleanup_startup

        os.chdir(self.file.parent)
        project_cleanup_startup()

    def start(self) -> None:
        self.environments = self.wait(self.kind.sample_init('bench', str(self.file), {}))
        self.box = self.environments['default']

    def stop(self) -> None:
        self.wait(self.kind.sample_cleanup('bench', str(self.file), self.environments, False))

    def run(self, *argv: str) -> Any:
        return self.wait(self.box.exec(list(argv)))

    def true(self) -> None:
        check(self.run('true').returncode, 0)

    def print_one(self) -> None:
        check(self.run('python3', '-c', 'print(1)').stdout, '1\n')

    async def print_one_async(self) -> None:
        check((await self.box.exec(['python3', '-c', 'print(1)'])).stdout, '1\n')

    def write(self) -> None:
        self.wait(self.box.write_file('/tmp/f', KILOBYTE))

    def read(self) -> None:
        check(self.wait(self.box.read_file('/tmp/f')), KILOBYTE)

    def output(self) -> None:
        check(len(self.run('python3', '-c', OUTPUT_CODE).stdout), OUTPUT_BYTES)
