"""llm-sandbox: a session on Docker."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from driver import KILOBYTE, OUTPUT_BYTES, OUTPUT_CODE, Way, check
from llm_sandbox import SandboxSession


class Peer(Way):
    """One session."""

    def __init__(self) -> None:
        self.session: Any = None
        self.folder = tempfile.mkdtemp(prefix='enclave-bench-')
        Path(self.folder, 'up').write_text(KILOBYTE)

    def start(self) -> None:
        self.session = SandboxSession(lang='python', image='python:3.11-slim', keep_template=True, **self.settings())
        self.session.open()

    def settings(self) -> dict[str, Any]:
        # Its default makes a virtual environment in each container and upgrades pip from the network.
        return {'skip_environment_setup': True}

    def stop(self) -> None:
        self.session.close()

    def true(self) -> None:
        check(self.session.execute_command('true').exit_code, 0)

    def print_one(self) -> None:
        check(self.session.run('print(1)').stdout.strip(), '1')

    def write(self) -> None:
        self.session.copy_to_runtime(f'{self.folder}/up', '/sandbox/f')

    def read(self) -> None:
        self.session.copy_from_runtime('/sandbox/f', f'{self.folder}/down')
        check(Path(self.folder, 'down').read_text(), KILOBYTE)

    def output(self) -> None:
        check(len(self.session.run(OUTPUT_CODE).stdout), OUTPUT_BYTES)

    def container(self) -> str | None:
        return str(self.session.container.id)
