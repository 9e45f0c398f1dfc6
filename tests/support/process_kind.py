"""A kind of sandbox as somebody else would add it: programs of this machine, in a directory of their own, not isolated."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from typing import Any, ClassVar

from attrs import field, frozen

from enclave.agent import agent_command
from enclave.channel.channel import Channel
from enclave.channel.streams import PipeStream
from enclave.checks import Check
from enclave.config import SandboxConfig, refuses_unknown_keys
from enclave.deadline import Deadline
from enclave.sandboxes.agent_backed import AgentBackedSandbox
from enclave.sandboxes.agent_operations import AgentOperations
from enclave.sandboxes.backend import Backend, Launched


@refuses_unknown_keys
@frozen(kw_only=True)
class ProcessConfig(SandboxConfig):
    """Options of programs of this machine."""

    niceness: int = field(default=0)


class ProcessBackend(Backend):
    """Runs our agent as a child of this process."""

    alive: ClassVar[set[str]] = set()
    _stream: PipeStream | None = None
    _place: str = ''

    def launch(self) -> Launched:
        self._place = tempfile.mkdtemp(prefix='process-kind-')
        process = subprocess.Popen(
            agent_command(sys.executable),
            cwd=self._place,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._stream = PipeStream(process, name=self.id)
        channel = Channel(self.id, self._stream)
        channel.start(Deadline.after(30.0))
        self.alive.add(self.id)
        return Launched(AgentOperations(channel), {'place': self._place})

    def destroy(self, *, keep: bool) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()
            stream.release()
        if self._place:
            shutil.rmtree(self._place, ignore_errors=True)
        self.alive.discard(self.id)


class ProcessSandbox(AgentBackedSandbox):
    """A sandbox of programs of this machine."""

    sandbox_type: ClassVar[str] = 'process'
    config_class: ClassVar[type[ProcessConfig]] = ProcessConfig
    backend_class: ClassVar[type[Backend] | None] = ProcessBackend
    config: ProcessConfig


class ProcessExaminer:
    """Says what such sandboxes need of a machine, which is nothing."""

    yes = 'this machine has processes'
    no = 'this machine has no processes'

    def examine(self, base_url: str | None) -> list[Check]:
        return [Check(name='processes', status='ok', summary='there are some')]

    def is_there(self, checks: list[Check]) -> bool:
        return any(each.name == 'processes' for each in checks)

    def can_run(self, checks: list[Check]) -> bool:
        return self.is_there(checks)

    def find_notebooks(self, checks: list[Check]) -> tuple[bool, str]:
        return False, 'processes have no kernels'


def options(**given: Any) -> dict[str, Any]:
    """Return options of such a sandbox with one tool."""
    return {'tools_config': ['shell_executor'], **given}
