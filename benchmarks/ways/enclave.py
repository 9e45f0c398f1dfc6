"""This library: sandboxes of each kind in the same process, and over HTTP with a server in a process of its own."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from typing import Any

import enclave
from benchmarks.driver import KILOBYTE, OUTPUT_BYTES, OUTPUT_CODE, Way, check, process_cpu_seconds

SERVER = """
from enclave import create_server
from enclave.errors import ConfigurationError
try:
    server = create_server(policy={'max_output_bytes': 1 << 28, 'max_output_memory': 1 << 30})
except ConfigurationError:  # an earlier one, which knows no such limits (benchmarks.earlier)
    server = create_server()
server.run(port=0)
"""


class Made(Way):
    """A sandbox of the factory."""

    kind: str
    options: dict[str, Any]
    box: Any = None

    def start(self) -> None:
        self.box = enclave.SandboxFactory.create_sandbox(self.kind, self.options)
        self.box.start()

    def stop(self) -> None:
        self.box.stop()


class Local(Made):
    """Sandboxes made by the library itself, with the options users have by default."""

    def __init__(self, kind: str, **options: str) -> None:
        self.kind = kind
        self.options: dict[str, Any] = {
            'tools_config': ['python_executor', 'shell_executor', 'file_operation'],
            'max_output_bytes': OUTPUT_BYTES,  # the default keeps one MiB of an output; the others keep all
            **{name: json.loads(value) for name, value in options.items()},
        }

    def tool(self, name: str, **arguments: Any) -> Any:
        return self.box.execute_tool(name, arguments)

    def true(self) -> None:
        check(self.tool('shell_executor', command='true').success, True)

    def print_one(self) -> None:
        check(self.tool('python_executor', code='print(1)').output, '1\n')

    def write(self) -> None:
        check(self.tool('file_operation', operation='write', file_path='f', content=KILOBYTE).success, True)

    def read(self) -> None:
        check(self.tool('file_operation', operation='read', file_path='f').output, KILOBYTE)

    def output(self) -> None:
        check(len(self.tool('python_executor', code=OUTPUT_CODE).output), OUTPUT_BYTES)

    def container(self) -> str | None:
        found = self.box.get_info().metadata.get('container_id')
        return None if found is None else str(found)

    def pids(self) -> list[int]:
        return [] if self.container() else [int(line) for line in children()]


class Preloaded(Local):
    """The same, with an interpreter that has started already and has imported what ``preload`` names."""

    def __init__(self, kind: str, preload: str, **options: str) -> None:
        super().__init__(kind, **options)
        tools = {'python_executor': {'preload': json.loads(preload)}, 'shell_executor': {}, 'file_operation': {}}
        self.options['tools_config'] = tools


class Numpy(Preloaded):
    """The same for a program that imports numpy."""

    operations = ('print_one',)

    def print_one(self) -> None:
        check(self.tool('python_executor', code='import numpy; print(numpy.arange(2).sum())').output, '1\n')


class Notebook(Made):
    """Cells of a notebook sandbox."""

    def __init__(self, kind: str, **options: str) -> None:
        self.kind = kind
        self.options: dict[str, Any] = {
            'tools_config': ['notebook_executor'],
            'timeout': 120,
            **{name: json.loads(value) for name, value in options.items()},
        }

    def cell(self) -> None:
        check(str(self.box.execute_tool('notebook_executor', {'code': '1+1'}).output).strip(), '2')


class Remote(Local):
    """Sandboxes of a server in a process of its own, on loopback."""

    shared = ('manager', 'server')

    def __init__(self, kind: str, **options: str) -> None:
        super().__init__(kind, **options)
        self.server: Any = None
        self.manager: Any = None
        self.id = ''

    def prepare(self) -> None:
        self.server = subprocess.Popen([sys.executable, '-c', SERVER], stderr=subprocess.PIPE, text=True)
        url = self.server.stderr.readline().split()[3]
        self.manager = enclave.HttpSandboxManager(base_url=url)
        self.manager.start()

    def start(self) -> None:
        self.id = self.manager.create_sandbox(self.kind, self.options)

    def stop(self) -> None:
        self.manager.delete_sandbox(self.id)

    def tool(self, name: str, **arguments: Any) -> Any:
        return self.manager.execute_tool(self.id, name, arguments)

    def container(self) -> str | None:
        return None

    def pids(self) -> list[int]:
        return []

    def cpu_seconds(self) -> float:
        return super().cpu_seconds() + process_cpu_seconds(self.server.pid)

    def end(self) -> None:
        with contextlib.suppress(Exception):
            self.manager.stop()
        self.server.terminate()
        self.server.communicate(timeout=60)


class RemoteNotebook(Remote):
    """Cells over HTTP."""

    operations = ('cell',)

    def __init__(self, kind: str, **options: str) -> None:
        super().__init__(kind, **options)
        self.options.update(tools_config=['notebook_executor'], timeout=120)

    def cell(self) -> None:
        check(str(self.tool('notebook_executor', code='1+1').output).strip(), '2')


def children() -> list[str]:
    """Return the process ids of this process's children."""
    found: list[str] = []
    from pathlib import Path

    for each in Path('/proc/self/task').iterdir():
        with contextlib.suppress(OSError):
            found += (each / 'children').read_text().split()
    return found
