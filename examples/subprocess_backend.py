"""A kind of sandbox of one's own, in forty lines: an agent in a child process, in a directory that goes with it.

It isolates nothing: what runs in it can do all that this program can. A real one puts a wall around the process in `launch`; all
else is the library's: every verb, the tools, the managers and pools, the server, and the asynchronous side.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile

import enclave
from enclave.agent import agent_command
from enclave.channel.channel import Channel
from enclave.channel.streams import PipeStream
from enclave.deadline import Deadline
from enclave.sandboxes.agent_backed import AgentBackedSandbox
from enclave.sandboxes.agent_operations import AgentOperations
from enclave.sandboxes.backend import Backend, Launched


class SubprocessBackend(Backend):
    """Runs an agent in a child process of this one."""

    def launch(self) -> Launched:
        folder = self.config.working_dir
        self._made = None if os.path.isdir(folder) else tempfile.mkdtemp(prefix='subprocess-')
        self._folder = self._made or folder
        environment = {'PATH': os.environ['PATH'], 'HOME': self._folder, **self.config.env_vars}
        command = agent_command(sys.executable)
        process = subprocess.Popen(command, stdin=-1, stdout=-1, stderr=-1, cwd=self._folder, env=environment)
        self._stream = PipeStream(process, name=self.id)
        self._channel = Channel(self.id, self._stream)
        self._channel.start(Deadline.after(30))
        return Launched(AgentOperations(self._channel))

    def destroy(self, *, keep: bool) -> None:
        self._channel.close()
        self._stream.release()
        if self._made and not keep:
            shutil.rmtree(self._made, ignore_errors=True)

    def find_problem(self) -> str | None:
        lost = self._channel.lost
        return None if lost is None else lost.reason


@enclave.register_sandbox('subprocess')
class SubprocessSandbox(AgentBackedSandbox):
    """A sandbox of programs of this machine."""

    sandbox_type = 'subprocess'
    backend_class = SubprocessBackend


if __name__ == '__main__':
    config = {'tools_config': ['python_executor']}
    with enclave.SandboxFactory.create_sandbox('subprocess', config) as sandbox:
        print(sandbox.execute_tool('python_executor', {'code': 'print(6 * 7)'}).output, end='')
