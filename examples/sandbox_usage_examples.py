"""A tour of one sandbox: tools, commands, files, live processes, ports, limits. Run it with an engine at hand."""

from __future__ import annotations

import json
import tempfile
import urllib.request
from pathlib import Path

from attrs import define

from enclave import DockerSandboxConfig, SandboxFactory, SandboxType, Tool, Workspace, register_tool

CONFIG = DockerSandboxConfig(
    image='python:3.11-slim',
    memory_limit='512m',
    cpu_limit=1.0,
    network_enabled=False,
    tools_config={'python_executor': {}, 'file_operation': {}, 'shell_executor': {'timeout': 20}},
)


def tools() -> None:
    """Tools are what a model is given: each has a schema, and each call a result."""
    with SandboxFactory.create_sandbox(SandboxType.DOCKER, CONFIG) as sandbox:
        for name, schema in sandbox.get_available_tools().items():
            print(f'{name}: {", ".join(schema["function"]["parameters"]["properties"])}')
        sandbox.execute_tool(
            'file_operation', {'operation': 'write', 'file_path': 'data.json', 'content': json.dumps([3, 1, 2])}
        )
        result = sandbox.execute_tool(
            'python_executor', {'code': "import json; print(sorted(json.load(open('data.json'))))"}
        )
        print('sorted:', result.output.strip())
        result = sandbox.execute_tool('python_executor', {'code': 'import no_such_module'})
        print('failed:', (result.error or '').strip().splitlines()[-1])


def commands() -> None:
    """A string goes through the shell, a list is taken as it is; a result says how it ended."""
    with SandboxFactory.create_sandbox(SandboxType.DOCKER, CONFIG) as sandbox:
        print(sandbox.execute_command('echo $GREETING | tr a-z A-Z', env={'GREETING': 'hello'}).stdout.strip())
        print(sandbox.execute_command(['printf', '%s\n', '$HOME is data here']).stdout.strip())
        print('stdin:', sandbox.execute_command('sort', stdin='b\na\n').stdout.split())
        print('exit code:', sandbox.execute_command('exit 42').exit_code)
        print('signal:', sandbox.execute_command('kill -SEGV $$').signal)
        print('timed out:', sandbox.execute_command('echo part; sleep 60', timeout=0.3).stdout.strip())


def files() -> None:
    """Files and directories go both ways."""
    with tempfile.TemporaryDirectory() as folder, SandboxFactory.create_sandbox(SandboxType.DOCKER, CONFIG) as sandbox:
        project = Path(folder, 'project')
        (project / 'empty').mkdir(parents=True)
        (project / 'run.sh').write_text('echo from the host; date > made-inside\n')
        (project / 'run.sh').chmod(0o755)
        sandbox.put_dir(project, 'project')
        print(sandbox.execute_command('sh ./run.sh', cwd='project').stdout.strip())
        print(sorted(entry.path for entry in sandbox.list_dir('project')))
        sandbox.get_dir('project', Path(folder, 'back'))
        print(sorted(path.name for path in Path(folder, 'back').iterdir()))


def processes_and_ports() -> None:
    """A server in a sandbox without any network, used from here."""
    with SandboxFactory.create_sandbox(SandboxType.DOCKER, CONFIG) as sandbox:
        with sandbox.start_process('for i in 1 2 3; do echo line $i; sleep 0.1; done') as process:
            for chunk in process.chunks():
                print('live:', chunk.text.strip())
        sandbox.write_file('www/index.html', b'served from inside')
        sandbox.start_process(['python3', '-m', 'http.server', '8000', '-d', 'www'], live=False)
        sandbox.execute_tool('python_executor', {'code': WAIT_FOR_PORT})
        with sandbox.forward_port(8000) as forward:
            url = f'http://127.0.0.1:{forward.port}/'
            with urllib.request.urlopen(url, timeout=10) as answer:
                print('http:', answer.read().decode())


WAIT_FOR_PORT = """
import socket, time
while True:
    with socket.socket() as probe:
        if probe.connect_ex(('127.0.0.1', 8000)) == 0:
            break
    time.sleep(0.02)
"""


@register_tool('word_count')
class WordCount(Tool):
    """Count the words of a file."""

    @define
    class Arguments:
        path: str

    def run(self, workspace: Workspace, arguments: Arguments) -> str:
        return workspace.execute_command(['wc', '-w', arguments.path]).stdout.split()[0]


def custom_tool() -> None:
    """A tool of one's own is a class with typed arguments; its schema and its checks are made from them."""
    with SandboxFactory.create_sandbox(SandboxType.DOCKER, {'tools_config': ['word_count']}) as sandbox:
        sandbox.write_file('poem.txt', b'so much depends upon a red wheel barrow')
        print('words:', sandbox.execute_tool('word_count', {'path': 'poem.txt'}).output)
        try:
            sandbox.execute_tool('word_count', {'pth': 'poem.txt'})
        except ValueError as error:
            print('refused:', error)


if __name__ == '__main__':
    for example in (tools, commands, files, processes_and_ports, custom_tool):
        print(f'--- {example.__name__}: {example.__doc__}')
        example()
