"""The floors: native processes, the engine's own calls and commands, bubblewrap, and a Jupyter kernel on this machine."""

from __future__ import annotations

import atexit
import io
import os
import shutil
import subprocess
import tarfile
import tempfile
import uuid
from pathlib import Path
from typing import Any

from benchmarks.driver import KILOBYTE, OUTPUT_BYTES, OUTPUT_CODE, Way, check

IMAGE = 'python:3.11-slim'
FIRST = ['python3', '-I', '-S', '-c', 'import os; os.write(1, b"1"); os.read(0, 1)']


class Native(Way):
    """Processes of this machine."""

    def __init__(self, python: str = '/usr/bin/python3', code: str = 'print(1)') -> None:
        self.python, self.code = python, code
        self.folder = tempfile.mkdtemp(prefix='enclave-bench-')
        atexit.register(shutil.rmtree, self.folder, ignore_errors=True)

    def true(self) -> None:
        subprocess.run(['sh', '-c', '--', 'true'], capture_output=True, check=True)

    def print_one(self) -> None:
        check(subprocess.run([self.python, '-c', self.code], capture_output=True, check=True).stdout, b'1\n')

    def write(self) -> None:
        Path(self.folder, 'f').write_text(KILOBYTE)

    def read(self) -> None:
        check(Path(self.folder, 'f').read_text(), KILOBYTE)

    def output(self) -> None:
        done = subprocess.run([self.python, '-c', OUTPUT_CODE], capture_output=True, check=True, text=True)
        check(len(done.stdout), OUTPUT_BYTES)


class NativeNumpy(Native):
    """Processes of a Python of this machine that has numpy."""

    operations = ('print_one',)


class Engine(Way):
    """The engine's own calls, by docker-py: a container with the options of this library's, on the engine's default bridge."""

    shared = ('body',)

    def __init__(self) -> None:
        import docker

        self.api: Any = docker.APIClient(timeout=60)
        self.body: dict[str, Any] = {}
        self.id = ''
        self.stream: Any = None

    def prepare(self) -> None:
        import enclave

        with enclave.SandboxFactory.create_sandbox('docker', {'tools_config': ['shell_executor']}) as sandbox:
            found = self.api.inspect_container(sandbox.metadata['container_id'])
        kept = (
            'Env',
            'User',
            'WorkingDir',
            'Labels',
            'OpenStdin',
            'StdinOnce',
            'AttachStdin',
            'AttachStdout',
            'Hostname',
        )
        self.body = {name: value for name, value in found['Config'].items() if name in kept}
        self.body['Labels'] = {'enclave.bench': '1'}
        self.body.update(Image=IMAGE, Entrypoint=FIRST, Cmd=[], Tty=False)
        self.body['HostConfig'] = {**found['HostConfig'], 'NetworkMode': 'bridge'}

    def start(self) -> None:
        name = f'enclave-bench-{uuid.uuid4().hex[:8]}'
        self.id = self.api.create_container_from_config(self.body, name)['Id']
        self.stream = self.api.attach_socket(self.id, params={'stdin': 1, 'stdout': 1, 'stream': 1})
        self.api.start(self.id)
        check(self.stream.read(9)[-1:], b'1')

    def stop(self) -> None:
        import docker

        try:
            self.api.kill(self.id)
            self.api.remove_container(self.id, force=True)
            self.api.wait(self.id, condition='removed')
        except docker.errors.APIError:
            pass  # it may be quicker itself
        self.stream.close()

    def run(self, argv: list[str]) -> bytes:
        made = self.api.exec_create(self.id, argv)
        output: bytes = self.api.exec_start(made['Id'])
        return output

    def true(self) -> None:
        check(self.run(['sh', '-c', '--', 'true']), b'')

    def print_one(self) -> None:
        check(self.run(['python3', '-c', 'print(1)']), b'1\n')

    def write(self) -> None:
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode='w') as tar:
            member = tarfile.TarInfo('f')
            member.size = len(KILOBYTE)
            tar.addfile(member, io.BytesIO(KILOBYTE.encode()))
        self.api.put_archive(self.id, '/tmp', archive.getvalue())

    def read(self) -> None:
        stream, _ = self.api.get_archive(self.id, '/tmp/f')
        with tarfile.open(fileobj=io.BytesIO(b''.join(stream))) as tar:
            file = tar.extractfile('f')
            assert file is not None
            check(file.read().decode(), KILOBYTE)

    def output(self) -> None:
        check(len(self.run(['python3', '-c', OUTPUT_CODE])), OUTPUT_BYTES)

    def container(self) -> str | None:
        return self.id


class EngineFirst(Engine):
    """The engine's container up to what it prints by itself: nothing is executed in it."""

    operations = ('true',)

    def true(self) -> None:
        pass


class Exec(Way):
    """The command ``docker exec``."""

    def __init__(self) -> None:
        self.id = ''

    def start(self) -> None:
        run = ['docker', 'run', '-d', '--rm', '--init', '--label', 'enclave.bench=1', IMAGE, 'sleep', 'infinity']
        self.id = subprocess.run(run, capture_output=True, check=True, text=True).stdout.strip()

    def stop(self) -> None:
        subprocess.run(['docker', 'rm', '-f', self.id], capture_output=True, check=True)

    def true(self) -> None:
        subprocess.run(['docker', 'exec', self.id, 'true'], capture_output=True, check=True)

    def print_one(self) -> None:
        command = ['docker', 'exec', self.id, 'python3', '-c', 'print(1)']
        check(subprocess.run(command, capture_output=True, check=True).stdout, b'1\n')

    def write(self) -> None:
        command = ['docker', 'exec', '-i', self.id, 'sh', '-c', 'cat > /tmp/f']
        subprocess.run(command, input=KILOBYTE.encode(), capture_output=True, check=True)

    def read(self) -> None:
        command = ['docker', 'exec', self.id, 'cat', '/tmp/f']
        check(subprocess.run(command, capture_output=True, check=True).stdout.decode(), KILOBYTE)

    def output(self) -> None:
        command = ['docker', 'exec', self.id, 'python3', '-c', OUTPUT_CODE]
        check(len(subprocess.run(command, capture_output=True, check=True).stdout), OUTPUT_BYTES)

    def container(self) -> str | None:
        return self.id


class Anew(Way):
    """A command before each program's, which makes what it runs in each time anew."""

    argv: list[str]

    def run(self, *argv: str) -> bytes:
        return subprocess.run([*self.argv, *argv], capture_output=True, check=True).stdout

    def true(self) -> None:
        self.run('true')

    def print_one(self) -> None:
        check(self.run('python3', '-c', 'print(1)'), b'1\n')

    def output(self) -> None:
        check(len(self.run('python3', '-c', OUTPUT_CODE)), OUTPUT_BYTES)


class Run(Anew):
    """The command ``docker run``: a container for each program."""

    argv = ['docker', 'run', '--rm', '--label', 'enclave.bench=1', IMAGE]


class Bubblewrap(Anew):
    """The least that bubblewrap must be asked to run this machine's programs in namespaces of their own, each time anew."""

    def __init__(self, program: str) -> None:
        self.argv = [program, '--unshare-all', '--die-with-parent', '--ro-bind', '/usr', '/usr']
        for name in ('bin', 'sbin', 'lib', 'lib64'):
            if os.path.islink(f'/{name}'):
                self.argv += ['--symlink', os.readlink(f'/{name}'), f'/{name}']
            elif os.path.isdir(f'/{name}'):
                self.argv += ['--ro-bind', f'/{name}', f'/{name}']
        self.argv += ['--proc', '/proc', '--dev', '/dev', '--tmpfs', '/tmp']


def run_cell(client: Any, code: str) -> str:
    """Run a cell by a blocking client of jupyter_client, and return what it printed and its value."""
    request, text = client.execute(code, allow_stdin=False), []
    while True:
        message = client.get_iopub_msg(timeout=120)
        if message['parent_header'].get('msg_id') != request:
            continue
        kind, content = message['msg_type'], message['content']
        if kind == 'stream':
            text.append(content['text'])
        elif kind == 'execute_result':
            text.append(content['data']['text/plain'])
        elif kind == 'status' and content['execution_state'] == 'idle':
            break
    while client.get_shell_msg(timeout=120)['parent_header'].get('msg_id') != request:
        pass
    return ''.join(text)


class Kernel(Way):
    """A Jupyter kernel of this machine and jupyter_client, over TCP, as Jupyter starts one."""

    def __init__(self, python: str) -> None:
        self.python = python
        self.manager: Any = None
        self.client: Any = None

    def start(self) -> None:
        from jupyter_client.manager import KernelManager

        self.manager = KernelManager(kernel_cmd=[self.python, '-m', 'ipykernel_launcher', '-f', '{connection_file}'])
        self.manager.start_kernel()
        self.client = self.manager.blocking_client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=60)

    def stop(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)

    def execute(self, code: str) -> str:
        return run_cell(self.client, code)

    def cell(self) -> None:
        check(self.execute('1+1'), '2')
