"""Agents in bare interpreters of this machine: no sandbox around them, every Python there is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from enclave.agent import agent_command, bootstrap
from enclave.channel.channel import Channel
from enclave.channel.streams import PipeStream
from enclave.deadline import Deadline

if sys.platform != 'linux':
    collect_ignore_glob = ['test_*.py']


def find_pythons() -> dict[str, str]:
    """Return ``{'3.8': path}`` of the interpreters that can be found, this one always among them."""
    found = {f'{sys.version_info[0]}.{sys.version_info[1]}': sys.executable}
    for minor in range(6, 15):
        name = f'3.{minor}'
        places = [
            shutil.which(f'python{name}'),
            *sorted(Path.home().glob(f'.pyenv/versions/{name}.*/bin/python{name}')),
        ]
        for place in places:
            if name in found or not place:
                continue
            # A version manager's wrapper may stand there for a version that is not chosen.
            works = subprocess.run([str(place), '-c', ''], capture_output=True, check=False)
            if works.returncode == 0:
                found[name] = str(place)
    return found


PYTHONS = find_pythons()


class AgentProcess:
    """A running agent and the channel to it."""

    def __init__(self, python: str, cwd: Path, *, before: tuple[str, ...] = (), **settings: int) -> None:
        environment = {'PATH': os.environ['PATH'], 'HOME': str(cwd), 'GIVEN': 'by the sandbox'}
        command = [*before, *agent_command(python)]
        self.process = subprocess.Popen(command, stdin=-1, stdout=-1, stderr=-1, cwd=cwd, env=environment)
        self.stream = PipeStream(self.process)
        self.channel = Channel('test', self.stream, program=bootstrap(**settings))
        self.hello = self.channel.start(Deadline.after(120))

    def close(self) -> None:
        self.channel.close()
        self.stream.release()


@pytest.fixture(params=sorted(PYTHONS, key=lambda name: int(name.split('.')[1])))
def every_python(request: pytest.FixtureRequest) -> str:
    """Each interpreter in turn."""
    return PYTHONS[request.param]


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[AgentProcess]:
    """An agent in this Python."""
    running = AgentProcess(sys.executable, tmp_path)
    yield running
    running.close()
