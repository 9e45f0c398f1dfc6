"""smolagents' executor on Docker: a kernel gateway in a container, a connection for each cell."""

from __future__ import annotations

import socket
from typing import Any

from driver import Way, check
from smolagents.monitoring import AgentLogger, LogLevel
from smolagents.remote_executors import DockerExecutor


class Peer(Way):
    """One executor."""

    def __init__(self) -> None:
        self.box: Any = None

    def start(self) -> None:
        with socket.socket() as free:
            free.bind(('127.0.0.1', 0))
            port = free.getsockname()[1]
        self.box = DockerExecutor(
            [],
            AgentLogger(level=LogLevel.OFF),
            port=port,
            image_name='jupyter-kernel-gateway',
            build_new_image=False,
            container_run_kwargs={'labels': {'enclave.bench': '1'}},
        )

    def stop(self) -> None:
        self.box.cleanup()

    def cell(self) -> None:
        check(self.box.run_code_raise_errors('1+1').output, '2')

    def container(self) -> str | None:
        return str(self.box.container.id)
