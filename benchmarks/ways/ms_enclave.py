"""ms-enclave as published, the way its own documentation shows."""

from __future__ import annotations

import logging
from typing import Any

from driver import KILOBYTE, OUTPUT_BYTES, OUTPUT_CODE, AsyncWay, check

from ms_enclave.sandbox.boxes import SandboxFactory
from ms_enclave.sandbox.model import DockerSandboxConfig, SandboxType

logging.disable(logging.INFO)


class Peer(AsyncWay):
    """One Docker sandbox."""

    def __init__(self) -> None:
        super().__init__()
        self.box: Any = None

    def start(self) -> None:
        tools: dict[str, Any] = {'python_executor': {}, 'shell_executor': {}, 'file_operation': {}}
        config = DockerSandboxConfig(image='python:3.11-slim', tools_config=tools)
        self.box = SandboxFactory.create_sandbox(SandboxType.DOCKER, config)
        self.wait(self.box.start())

    def stop(self) -> None:
        self.wait(self.box.stop())
        self.wait(self.box.cleanup())

    def tool(self, name: str, **arguments: Any) -> Any:
        return self.wait(self.box.execute_tool(name, arguments))

    def true(self) -> None:
        check(str(getattr(self.tool('shell_executor', command='true').status, 'value', '')), 'success')

    def print_one(self) -> None:
        check(self.tool('python_executor', code='print(1)').output.strip(), '1')

    def write(self) -> None:
        result = self.tool('file_operation', operation='write', file_path='/sandbox/f', content=KILOBYTE)
        check(result.status.value, 'success')

    def read(self) -> None:
        check(self.tool('file_operation', operation='read', file_path='/sandbox/f').output.strip(), KILOBYTE)

    def output(self) -> None:
        check(len(self.tool('python_executor', code=OUTPUT_CODE).output), OUTPUT_BYTES)

    def container(self) -> str | None:
        return str(self.box.container.id)
