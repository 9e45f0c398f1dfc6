"""What the documented API does with an engine: sandboxes, tools and managers in this process."""

from __future__ import annotations

import asyncio
import contextlib
import io
import socket
import tarfile
import traceback
import urllib.request
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock, MagicMock

import pytest

from enclave.sandboxes.docker.engine import get_engine
from ms_enclave.sandbox.boxes import DockerNotebookSandbox, DockerSandbox, SandboxFactory
from ms_enclave.sandbox.manager import LocalSandboxManager, SandboxManagerFactory
from ms_enclave.sandbox.model import (
    DockerNotebookConfig,
    DockerSandboxConfig,
    ExecutionStatus,
    SandboxManagerConfig,
    SandboxStatus,
    SandboxType,
)
from ms_enclave.sandbox.tools import ToolFactory
from tests.compat.covering import covers

pytestmark = pytest.mark.docker

TOOLS = ['python_executor', 'shell_executor', 'file_operation', 'multi_code_executor']
SERVICE = 'enclave-compat-service'
UNPRIVILEGED = 'enclave-compat-unprivileged'


@contextlib.asynccontextmanager
async def docker(**options: Any) -> AsyncIterator[DockerSandbox]:
    config = DockerSandboxConfig(**{'tools_config': TOOLS, 'memory_limit': '512m', **options})
    async with SandboxFactory.create_sandbox(SandboxType.DOCKER, config) as sandbox:
        yield sandbox


def containers(sandbox_id: str) -> list[Any]:
    found: list[Any] = get_engine().api.containers(all=True, filters={'label': [f'enclave.sandbox={sandbox_id}']})
    return found


# Section 5: sandboxes


@covers(5, 'start(), stop(), cleanup()', 'get_execution_context()', 'get_info()')
def test_a_sandbox_lives_as_documented() -> None:
    async def main() -> None:
        async with docker() as sandbox:
            assert sandbox.status == SandboxStatus.RUNNING
            assert sandbox.metadata['container_id'].startswith(sandbox.container.id[:12])
            context = await sandbox.get_execution_context()
            assert context.exec_run(['echo', 'hi']).output == b'hi\n'
            assert sandbox.client.containers.get(context.id).id == context.id
            info = sandbox.get_info()
            assert (info.type, info.status, set(info.available_tools)) == ('docker', 'running', set(TOOLS))
            assert info.config == sandbox.config.model_dump(exclude_none=True)
        assert (sandbox.status, sandbox.container) == (SandboxStatus.STOPPED, None)
        for call in (sandbox.execute_command('true'), sandbox.put_file('/x', 'y'), sandbox.put_archive('/x', b'')):
            with pytest.raises(RuntimeError, match='Container is not running'):
                await call
        called: dict[str, dict[str, Any]] = {
            'file_operation': {'operation': 'list', 'file_path': '/'},
            'python_executor': {'code': 'print(1)'},
            'shell_executor': {'command': 'true'},
            'multi_code_executor': {'language': 'bash', 'code': 'true'},
        }
        for name, parameters in called.items():
            result = await sandbox.execute_tool(name, parameters)
            assert (result.status, result.error) == (ExecutionStatus.ERROR, 'Container is not running')
        with pytest.raises(RuntimeError, match='Failed to start'):
            await sandbox.start()
        await sandbox.stop()
        await sandbox.cleanup()
        assert containers(sandbox.id) == []

    asyncio.run(main())


def test_a_sandbox_that_is_to_stay_stays_until_cleanup() -> None:
    async def main() -> None:
        async with docker(remove_on_exit=False) as sandbox:
            pass
        assert sandbox.container is not None
        assert len(containers(sandbox.id)) == 1
        await sandbox.cleanup()
        assert containers(sandbox.id) == []

    asyncio.run(main())


def test_a_failed_start_says_why_and_leaves_nothing() -> None:
    async def main() -> None:
        sandbox = SandboxFactory.create_sandbox('docker', {'image': 'localhost:9/none-such', 'pull': 'never'})
        with pytest.raises(RuntimeError, match=r'Failed to start Docker sandbox: .*none-such') as raised:
            await sandbox.start()
        cause, following, _ = ''.join(traceback.format_exception(raised.value)).partition('\nThe above exception')
        assert following, 'the cause is not shown'
        assert 'none-such' in cause
        assert 'File "' not in cause  # the message says it all
        async with LocalSandboxManager() as manager:
            with pytest.raises(RuntimeError, match='Failed to create sandbox: Failed to start') as refused:
                await manager.create_sandbox('docker', {'image': 'localhost:9/none-such', 'pull': 'never'})
        assert ''.join(traceback.format_exception(refused.value)).count('Traceback') == 1
        assert sandbox.status == SandboxStatus.ERROR
        assert 'none-such' in sandbox.metadata['error']
        assert containers(sandbox.id) == []

    asyncio.run(main())


@covers(5, 'execute_command', 'timeout None', 'timeout > 0', 'exit 0 / other', 'over the limit', 'program not found')
@covers(12, 'timeout of execute_command', 'string commands', 'user in the container')
def test_commands_end_as_documented() -> None:
    async def main() -> None:
        async with docker() as sandbox:
            run = sandbox.execute_command
            split = await run('echo $HOME && echo "two words"')
            assert (split.stdout, split.status) == ('$HOME && echo two words\n', ExecutionStatus.SUCCESS)
            shell = await run('echo $((1 + 1)); echo err >&2; exit 3', timeout=5)
            assert (shell.stdout, shell.stderr, shell.exit_code, shell.status) == ('2\n', 'err\n', 3, 'error')
            assert (await run('echo a | tr a b', timeout=2.5)).stdout == 'b\n'
            listed = await run(['echo', '$HOME', '&&'], timeout=0)
            assert (listed.stdout, listed.command) == ('$HOME &&\n', ['echo', '$HOME', '&&'])
            late = await run(['sh', '-c', 'echo early; sleep 60'], timeout=0.5)
            assert (late.status, late.exit_code, late.stdout) == (ExecutionStatus.TIMEOUT, -1, 'early\n')
            assert late.stderr == 'Command timed out after 0.5 seconds'
            for code, command in ((124, 'exit 124'), (137, 'kill -9 $$')):
                own = await run(['sh', '-c', command], timeout=5)
                assert (own.status, own.exit_code) == (ExecutionStatus.ERROR, code)
            missing = await run('none-such')
            assert (missing.status, missing.exit_code in (126, 127)) == (ExecutionStatus.ERROR, True)
            assert 'none-such' in missing.stdout + missing.stderr
            assert (await run('id -u')).stdout == '0\n'
            assert (await run('echo as text', timeout='30')).stdout == 'as text\n'  # type: ignore[arg-type]
            for unreadable in ('', '  ', [], "echo 'never closed"):
                none = await run(unreadable)
                assert (none.status, none.exit_code, none.command) == (ExecutionStatus.ERROR, -1, unreadable)
                assert none.stderr
            for empty in ('', '  '):
                nothing = await run(empty, timeout=30)
                assert (nothing.status, nothing.exit_code, nothing.command) == (ExecutionStatus.SUCCESS, 0, empty)
            with pytest.raises(ValueError, match="seconds, not 'soon'"):
                await run('true', timeout='soon')  # type: ignore[arg-type]
            sandbox.update_status(SandboxStatus.INITIALIZING)  # as a subclass does while it prepares its container
            assert (await run('echo still')).stdout == 'still\n'
            sandbox.update_status(SandboxStatus.RUNNING)

    asyncio.run(main())


@covers(5, 'stream')
def test_lines_of_a_commands_output_are_logged_unless_it_is_not_streamed(capsys: pytest.CaptureFixture[str]) -> None:
    async def main() -> None:
        async with docker() as sandbox:
            await sandbox.execute_command('echo shown')
            await sandbox.execute_command('echo hidden', stream=False)
            await sandbox.execute_command('seq 5000')

    asyncio.run(main())
    logged = capsys.readouterr().err
    assert 'shown' in logged
    assert 'hidden' not in logged
    assert '] 1000\n' in logged
    assert '] 1001\n' not in logged
    assert 'more characters' in logged


@covers(5, 'put_file', 'put_dir', 'put_archive')
@covers(12, 'put_file, put_archive, put_dir order')
@covers(11, 'to 0.0.5')
def test_files_travel_in_the_documented_order_and_no_call_reads_the_host(tmp_path: Path) -> None:
    secret = tmp_path / 'secret'
    secret.write_text('of the host')
    (tmp_path / 'tree' / 'sub').mkdir(parents=True)
    (tmp_path / 'tree' / 'sub' / 'file').write_text('in it')
    (tmp_path / 'tree' / 'link').symlink_to(secret)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode='w:gz') as archive:
        archive.add(secret, arcname='packed')

    async def main() -> None:
        async with docker() as sandbox:
            read = sandbox.execute_command
            assert await sandbox.put_file(str(secret), 'from the model') is True
            assert (await read(['cat', str(secret)])).stdout == 'from the model'
            assert (await read(['stat', '-c', '%a %u', str(secret)])).stdout == '644 0\n'
            assert await sandbox.put_file('/a/b', str(secret)) is True
            assert (await read('cat /a/b')).stdout == str(secret)
            with pytest.raises(ValueError, match='absolute path'):
                await sandbox.put_file('relative', 'x')
            for refused in (str(secret), None):
                with pytest.raises(ValueError, match='data must be the bytes'):
                    await sandbox.put_archive('/x', refused)  # type: ignore[arg-type]
            with pytest.raises(ValueError, match='target_dir'):
                await sandbox.put_archive('', packed.getvalue())
            with pytest.raises(RuntimeError, match='not permitted'):
                await sandbox.put_file('/proc/new', 'x')
            with pytest.raises(RuntimeError, match='/proc/packed'):
                await sandbox.put_archive('/proc', packed.getvalue())
            assert await sandbox.put_archive('/new/dir', packed.getvalue()) is True
            assert (await read('cat /new/dir/packed')).stdout == 'of the host'
            assert await sandbox.put_dir(tmp_path / 'tree', '/tree') is True
            assert (await read('find /tree -type f')).stdout == '/tree/sub/file\n'
            assert (await read('find /tree -type l')).stdout == ''
            with pytest.raises(FileNotFoundError):
                await sandbox.put_dir(secret, '/y')
            assert not hasattr(LocalSandboxManager, 'put_file')

    asyncio.run(main())


@covers(12, 'user in the container')
def test_files_are_roots_also_where_the_image_has_a_user_of_its_own(tmp_path: Path) -> None:
    recipe = b'FROM python:3.11-slim\nUSER nobody\n'
    for _ in get_engine().api.build(fileobj=io.BytesIO(recipe), tag=UNPRIVILEGED, rm=True, decode=True):
        pass
    (tmp_path / 'file').write_text('in it')

    async def main() -> None:
        async with docker(image=UNPRIVILEGED) as sandbox:
            assert await sandbox.put_file('/opt/new/text', 'of the program') is True
            assert await sandbox.put_dir(tmp_path, '/opt/tree') is True
            shown = await sandbox.execute_command(
                'id -un; cat /opt/new/text /opt/tree/file; stat -c %a:%u /opt/new/text', 9
            )
            assert shown.stdout == 'nobody\nof the programin it644:0\n'
            for path in ('/opt', '/tmp'):
                with pytest.raises(RuntimeError, match='Is a directory'):
                    await sandbox.put_file(path, 'x')
            with pytest.raises(ValueError, match='ends in none'):
                await sandbox.put_file('/', 'x')
            with pytest.raises(RuntimeError, match='ReadError'):
                await sandbox.put_archive('/opt/new', b'no archive')

    asyncio.run(main())


@covers(12, 'image CMD', 'sandbox left by a crash')
@covers(11, '0.0.8', 'manager')
def test_a_service_image_started_without_a_command_serves() -> None:
    engine = get_engine()
    recipe = b'FROM python:3.11-slim\nENTRYPOINT ["env", "A=1"]\nCMD ["python", "-m", "http.server", "8000"]\n'
    for _ in engine.api.build(fileobj=io.BytesIO(recipe), tag=SERVICE, rm=True, decode=True):
        pass
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]

    async def main() -> None:
        async with docker(image=SERVICE, ports={'8000': ('127.0.0.1', port)}) as sandbox:
            answered = False
            while not answered:
                with contextlib.suppress(OSError):
                    urllib.request.urlopen(f'http://127.0.0.1:{port}/', timeout=30).close()
                    answered = True
            assert 'http.server' in (await sandbox.execute_command("tr '\\0' ' ' < /proc/1/cmdline", timeout=5)).stdout
            assert (await sandbox.execute_command('echo beside')).stdout == 'beside\n'
        async with docker(image=SERVICE, entrypoint=[], command=['sleep', 'infinity']) as sandbox:
            assert (
                await sandbox.execute_command("tr '\\0' ' ' < /proc/1/cmdline", timeout=5)
            ).stdout == 'sleep infinity '
        for command in ('bash', 'tail -f /dev/null'):  # a bare shell stays, as it has a terminal
            async with docker(command=command) as sandbox:
                assert (await sandbox.execute_command('echo stays')).stdout == 'stays\n'
        with pytest.raises(RuntimeError, match='Failed to start Docker sandbox'):
            async with docker(command='true'):
                pass

    asyncio.run(main())


@covers(3, 'volumes', 'network', 'extra_hosts', 'ports', 'working_dir')
@covers(12, "network='bridge'", 'memory, CPU, processes')
def test_options_do_what_they_say(tmp_path: Path) -> None:
    async def main() -> None:
        options: dict[str, Any] = {
            'volumes': {str(tmp_path / 'made'): {'bind': '/data', 'mode': 'rw'}},
            'extra_hosts': {'host.docker.internal': 'host-gateway'},
            'env_vars': {'A': 'b c'},
            'working_dir': '/somewhere/else',
            'memory_limit': '256m',
            'cpu_limit': '1.5',
            'resource_limits': {},
        }
        async with docker(**options) as sandbox:
            done = await sandbox.execute_command(
                'pwd; echo $A; echo x > /data/file; grep -c internal /etc/hosts', timeout=5
            )
            assert done.stdout == '/somewhere/else\nb c\n1\n'
            assert (tmp_path / 'made' / 'file').read_text() == 'x\n'
            host = get_engine().api.inspect_container(sandbox.metadata['container_id'])['HostConfig']
            assert (host['Memory'], host['NanoCpus']) == (256 << 20, 1_500_000_000)
        async with docker(network_enabled=False, network='bridge', ports={'80': 0}) as sandbox:
            host = get_engine().api.inspect_container(sandbox.metadata['container_id'])['HostConfig']
            assert host['NetworkMode'] == 'none'
        async with SandboxFactory.create_sandbox(SandboxType.DOCKER) as sandbox:
            host = get_engine().api.inspect_container(sandbox.metadata['container_id'])['HostConfig']
            assert (host['Memory'], host['NanoCpus']) == (4 << 30, 2_000_000_000)

    asyncio.run(main())


# Section 7: tools


@covers(7, 'python_executor', 'shell_executor', 'execute')
@covers(12, 'output bound')
@covers(11, 'tools', 'reads')
def test_code_and_commands_have_the_documented_results() -> None:
    async def main() -> None:
        async with docker() as sandbox:

            async def call(name: str, **parameters: Any) -> tuple[Any, ...]:
                result = await sandbox.execute_tool(name, parameters)
                assert (result.tool_name, result.metadata) == (name, {})
                return result.status.value, result.output, result.error

            assert await call('python_executor', code='print(1)') == ('success', '1\n', None)
            code = 'import os, sys; print(os.getcwd(), sys.argv[0][:5]); print("w", file=sys.stderr)'
            assert await call('python_executor', code=code) == ('success', '/sandbox /tmp/\n', 'w\n')
            failed = await call('python_executor', code='1/0', timeout=30)
            assert failed[:2] == ('error', '')
            assert 'ZeroDivisionError' in failed[2]
            assert await call('python_executor', code=' ') == ('error', '', 'No code provided')
            late = await call('python_executor', code='print(1, flush=True); import time; time.sleep(60)', timeout=0.5)
            assert late == ('timeout', '1\n', 'Command timed out after 0.5 seconds')
            assert await call('shell_executor', command='echo $((2*3)) | cat') == ('success', '6\n', None)
            assert await call('shell_executor', command=['echo', '$X']) == ('success', '$X\n', None)
            assert await call('shell_executor', command='exit 7') == (
                'error',
                '',
                'Command failed with exit code 7',
            )
            assert await call('shell_executor', command="sh -lc 'echo a; echo b >&2; exit 1'", timeout=900) == (
                'error',
                'a\n',
                'b\n',
            )
            assert await call('shell_executor', command='') == ('error', '', 'No command provided')
            assert (await call('shell_executor', command='sleep 60', timeout=0.3))[0] == 'timeout'
            many = await call('shell_executor', command='yes x | head -c 5000000')
            assert len(many[1]) == 5_000_000
            with pytest.raises(TypeError):
                await sandbox.execute_tool('shell_executor', {'cmd': 'x'})
            assert await call('python_executor', code='print(2)', timeout='30') == ('success', '2\n', None)
            for wrong in (1, [1], ['echo', 1], {'a': 1}):
                refused = await call('shell_executor', command=wrong)
                assert refused[:2] == ('error', '')
                assert 'must be' in refused[2]
            assert await call('python_executor', code=1) == ('error', '', 'code must be text, not int')
            assert await call('python_executor', code=None) == ('error', '', 'No code provided')
            late = await call('shell_executor', command='true', timeout='soon')
            assert late == ('error', '', "timeout must be a number of seconds, not 'soon'")

    asyncio.run(main())


@covers(7, 'file_operation', 'multi_code_executor')
def test_files_and_languages_have_the_documented_results() -> None:
    async def main() -> None:
        async with docker() as sandbox:

            async def call(operation: str, path: str, **parameters: Any) -> tuple[Any, ...]:
                given = {'operation': operation, 'file_path': path, **parameters}
                result = await sandbox.execute_tool('file_operation', given)
                return result.status.value, result.output, result.error

            assert await call('write', 'a/b', content='hé') == ('success', 'File written successfully: a/b', None)
            assert await call('read', '/sandbox/a/b', content=None, encoding='utf-8') == ('success', 'hé', None)
            assert await call('create', 'a/b') == ('success', 'File written successfully: a/b', None)
            assert await call('read', 'a/b') == ('success', '', None)
            assert await call('exists', 'a/b') == ('success', 'exists', None)
            listed = await call('list', 'a')
            assert listed[0] == 'success'
            assert listed[1].startswith('total')
            assert await call('delete', 'a') == ('success', 'Successfully deleted: a', None)
            assert await call('delete', 'a') == ('success', 'Successfully deleted: a', None)
            assert await call('exists', 'a') == ('success', 'does not exist', None)
            assert await call('read', '/none') == ('error', '', 'cat: /none: No such file or directory\n')
            assert (await call('list', '/none'))[0] == 'error'
            assert await call('write', 'x') == ('error', '', 'Content is required for write operation')
            assert await call('turn', 'x') == ('error', '', 'Unknown operation: turn')
            assert await call('read', '') == ('error', '', 'No file path provided')
            assert await call('write', 'x', content=5) == ('error', '', 'content must be text, not int')
            assert await call('write', 'x', content='', encoding='none') == ('error', '', 'unknown encoding: none')
            directory = await call('write', '/tmp', content='')
            assert directory == ('error', '', "Is a directory: '/tmp'")
            assert await call('read', '/tmp') == ('error', '', 'cat: /tmp: Is a directory\n')
            assert (await call('write', 'latin', content='é.', encoding='latin-1'))[0] == 'success'
            assert await call('read', 'latin', encoding='latin-1') == ('success', 'é.', None)
            assert await call('read', 'latin') == ('success', '\ufffd.', None)

            async def code(language: str, text: str, **parameters: Any) -> tuple[Any, ...]:
                given = {'language': language, 'code': text, **parameters}
                result = await sandbox.execute_tool('multi_code_executor', given)
                return result.status.value, result.output, result.error

            assert await code('Python', 'print(open("x").read())', files={'d/x': 'y'}) == ('success', 'y\n', None)
            assert await code('bash', 'exit 3', run_timeout=5) == ('error', '', 'Command failed with exit code 3')
            assert await code('bash', 'exit 4', run_timeout='5') == ('error', '', 'Command failed with exit code 4')
            assert await code('klingon', 'x') == ('error', '', 'Unsupported language: klingon')
            assert await code('python', ' ') == ('error', '', 'Invalid input')
            late = await code('bash', 'echo early; sleep 60', run_timeout=1)
            assert late == ('timeout', 'early\n', 'Command timed out after 1 seconds')

    asyncio.run(main())


@covers(12, 'unknown or failing tools')
@covers(5, 'add_tool')
def test_unknown_and_failing_tools_are_logged_and_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    async def main() -> None:
        tools = {'none_such': {}, 'shell_executor': {}, 'notebook_executor': {}, 'python_executor': {'enabled': False}}
        async with docker(tools_config=tools) as sandbox:
            assert sandbox.list_tools() == ['shell_executor']
            with pytest.raises(ValueError, match='is not available'):
                await sandbox.execute_tool('none_such', {})
            sandbox.add_tool(ToolFactory.create_tool('file_operation'))
            assert 'file_operation' in sandbox.get_available_tools()

    asyncio.run(main())
    logged = capsys.readouterr().err
    for name in ('none_such', 'notebook_executor', 'python_executor'):
        assert name in logged


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port: int = probe.getsockname()[1]
        return port


@covers(7, 'notebook_executor')
@covers(11, 'port retry', 'set-up')
@covers(12, 'notebook port', 'other tools in docker_notebook')
def test_a_notebook_works_as_documented(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    async def main() -> None:
        port = free_port()
        tools = ['notebook_executor', 'shell_executor', 'file_operation']
        config = DockerNotebookConfig(port=port, tools_config=tools, network_enabled=False)
        async with SandboxFactory.create_sandbox('docker_notebook', config) as sandbox:
            assert isinstance(sandbox, DockerNotebookSandbox)
            assert (config.ports['8888/tcp'], config.network_enabled) == (port, True)
            assert sandbox.list_tools() == ['notebook_executor']
            with urllib.request.urlopen(f'http://{config.host}:{config.port}/api', timeout=60) as answer:
                assert answer.status == 200

            async def cell(code: str, **more: Any) -> tuple[Any, ...]:
                result = await sandbox.execute_tool('notebook_executor', {'code': code, **more})
                return result.status.value, result.output, result.error

            assert await cell('a = 5\nprint(1)') == ('success', '1\n', None)
            assert await cell('import sys; print("e", file=sys.stderr); a') == ('success', 'e\n\nResult: 5', None)
            failed = await cell('print("before"); 1/0')
            assert failed[:2] == ('error', '')
            assert failed[2].startswith('before\n')
            assert '\x1b[' in failed[2]
            late = await cell('import time; time.sleep(60)', timeout=1)
            assert late == ('timeout', '', 'Execution timed out after 1 seconds')
            assert await cell('a') == ('success', '\nResult: 5', None)
            with pytest.raises(RuntimeError) as taken:
                async with SandboxFactory.create_sandbox('docker_notebook', DockerNotebookConfig(port=port)):
                    pass
            message = str(taken.value).lower()
            assert 'address already in use' in message or 'port is already allocated' in message
        monkeypatch.setenv('ENCLAVE_NOTEBOOK_TOOLS', 'all')
        config = DockerNotebookConfig(port=free_port(), tools_config=tools)
        async with SandboxFactory.create_sandbox('docker_notebook', config) as sandbox:
            assert sandbox.list_tools() == tools
            result = await sandbox.execute_tool('shell_executor', {'command': 'echo here'})
            assert result.output == 'here\n'

    asyncio.run(main())
    logged = capsys.readouterr().err
    assert "'shell_executor' is not loaded" in logged
    assert 'ENCLAVE_NOTEBOOK_TOOLS=all' in logged


# Section 6: managers


@covers(6, 'create_sandbox', 'get_sandbox_info', 'list_sandboxes', 'stop_sandbox / delete_sandbox', 'execute_tool')
@covers(
    6, 'get_sandbox_tools', 'put_archive', 'put_dir', 'get_stats', 'cleanup_all_sandboxes', 'get_sandbox (local only)'
)
@covers(11, 'calls', 'imports')
def test_a_local_manager_works_as_documented_over_several_event_loops(tmp_path: Path) -> None:
    (tmp_path / 'file').write_text('in it')
    manager = LocalSandboxManager(cleanup_interval=300)
    config = DockerSandboxConfig(tools_config=['shell_executor'], memory_limit='256m')
    with pytest.raises(RuntimeError, match='Sandbox manager not started'):
        asyncio.run(manager.execute_tool('x', 'y', {}))
    asyncio.run(manager.start())
    made = asyncio.run(manager.create_sandbox(sandbox_type=SandboxType.DOCKER, config=config))

    async def main() -> None:
        await manager.start()
        sandbox = await manager.get_sandbox(made)
        assert sandbox.id == made
        assert await manager.get_sandbox('none') is None
        info = await manager.get_sandbox_info(made)
        assert info is not None
        assert info.status.value == 'running'
        assert await manager.get_sandbox_info('none') is None
        result = await manager.execute_tool(
            sandbox_id=made, tool_name='shell_executor', parameters={'command': 'echo hello'}
        )
        assert (result.success, result.output) == (True, 'hello\n')
        assert list(await manager.get_sandbox_tools(made)) == ['shell_executor']
        assert await manager.put_dir(made, tmp_path, '/tree') is True
        result = await manager.execute_tool(made, 'shell_executor', {'command': ['cat', '/tree/file']})
        assert result.output == 'in it'
        stats = await manager.get_stats()
        expected = {
            'manager_type': 'local',
            'total_sandboxes': 1,
            'status_counts': {'running': 1},
            'sandbox_types': {'docker': 1},
            'running': True,
            'cleanup_interval': 300,
            'pool_size': 0,
            'pool_enabled': False,
            'pool_initialized': False,
        }
        assert stats == expected
        for wrong in (('none', 'shell_executor', 'not found'), (made, 'none', 'is not available')):
            with pytest.raises(ValueError, match=wrong[2]):
                await manager.execute_tool(wrong[0], wrong[1], {})
        with pytest.raises(ValueError, match='not found'):
            await manager.get_sandbox_tools('none')
        for kind, options in (('dummy', None), ('docker', {'memory_limit': 'x'})):
            with pytest.raises(RuntimeError, match='Failed to create sandbox: '):
                await manager.create_sandbox(kind, options)
        assert await manager.stop_sandbox(made) is True
        assert [each.status.value for each in await manager.list_sandboxes()] == ['stopped']
        assert await manager.list_sandboxes(status_filter=SandboxStatus.RUNNING) == []
        with pytest.raises(ValueError, match='is not active'):
            await manager.execute_tool(made, 'shell_executor', {'command': 'true'})
        assert await manager.delete_sandbox(made) is True
        assert await manager.delete_sandbox(made) is False
        assert await manager.list_sandboxes() == []

    asyncio.run(main())
    asyncio.run(manager.stop())
    asyncio.run(manager.stop())
    assert manager._sandboxes == {}
    assert containers(made) == []


@covers(6, 'initialize_pool', 'execute_tool_in_pool')
def test_a_local_pool_is_first_in_first_out_over_several_event_loops() -> None:
    config = SandboxManagerConfig(pool_size=2, timeout=20, sandbox_config=DockerSandboxConfig(memory_limit='256m'))
    manager = LocalSandboxManager(config)
    with pytest.raises(ValueError, match='Sandbox pool is empty, call initialize_pool first'):
        asyncio.run(manager.execute_tool_in_pool('python_executor', {}))
    asyncio.run(manager.start())
    options = DockerSandboxConfig(tools_config=['python_executor'], memory_limit='256m')
    ids = asyncio.run(manager.initialize_pool(config=options))

    async def main() -> None:
        assert await manager.initialize_pool(pool_size=0) == []
        assert list(manager._sandbox_pool) == ids
        for expected in (ids[1], ids[0]):
            result = await manager.execute_tool_in_pool('python_executor', {'code': 'print(1)'})
            assert result.success
            async with manager._pool_condition:
                assert manager._sandbox_pool[0] == expected
        results = await asyncio.gather(
            *(manager.execute_tool_in_pool('python_executor', {'code': f'print({n})'}) for n in range(5))
        )
        assert [each.output for each in results] == [f'{n}\n' for n in range(5)]
        held = [
            asyncio.create_task(
                manager.execute_tool_in_pool('python_executor', {'code': 'import time; time.sleep(60)'})
            )
            for _ in ids
        ]
        while manager._sandbox_pool:
            await asyncio.sleep(0)
        assert [each.status.value for each in await manager.list_sandboxes()] == ['busy', 'busy']
        with pytest.raises(TimeoutError, match='Timeout waiting for available sandbox'):
            await manager.execute_tool_in_pool('python_executor', {'code': '1'}, timeout=0.1)
        for each in held:
            each.cancel()
        await asyncio.gather(*held, return_exceptions=True)
        assert len(manager._sandbox_pool) == 2
        failed = await manager.execute_tool_in_pool('python_executor', {'code': '1/0'})
        assert not failed.success
        with pytest.raises(ValueError, match='is not available'):
            await manager.execute_tool_in_pool('none', {})
        await manager.delete_sandbox(manager._sandbox_pool[0])
        assert (await manager.execute_tool_in_pool('python_executor', {'code': 'print(2)'})).output == '2\n'
        assert (await manager.get_stats())['pool_initialized'] is True

    asyncio.run(main())
    asyncio.run(manager.stop())


def test_managers_take_what_tests_of_programs_put_in() -> None:
    async def main() -> None:
        async with SandboxManagerFactory.create_manager() as manager:
            for status in (SandboxStatus.IDLE, SandboxStatus.BUSY):
                fake = MagicMock(status=status, execute_tool=AsyncMock(return_value=status.value), stop=AsyncMock())
                manager._sandboxes[status.value] = fake
                assert await manager.execute_tool(status.value, 'any', {}) == status.value
                fake.execute_tool.assert_awaited_once_with('any', {})
            manager._sandboxes.clear()

    asyncio.run(main())


@covers(11, 'EnclaveSandbox', 'to 0.0.4')
def test_a_program_like_ms_agents_runs(tmp_path: Path) -> None:
    async def main() -> None:
        options = {
            'volumes': {str(tmp_path): {'bind': '/data', 'mode': 'rw'}},
            'env_vars': {'A': '1'},
            'image': 'python:3.11-slim',
            'command': None,
            'ports': {},
            'network': 'bridge',
            'memory_limit': '512m',
            'cpu_limit': 1.0,
            'network_enabled': False,
            'privileged': False,
            'remove_on_exit': True,
            'timeout': 60,
            'tools_config': {'python_executor': {}, 'shell_executor': {}, 'file_operation': {}},
            'working_dir': '/workspace',
            'resource_limits': {},
        }
        config = DockerSandboxConfig(**options)  # type: ignore[arg-type]
        name = uuid.uuid4().hex
        async with SandboxFactory.create_sandbox(SandboxType.DOCKER, config) as sandbox:
            await sandbox.execute_tool(
                'file_operation',
                {'operation': 'write', 'file_path': f'/data/{name}', 'content': 'x', 'encoding': 'utf-8'},
            )
            result = await sandbox.execute_command(f'cat /data/{name}')
            assert (result.stdout, result.stderr, result.status) == ('x', '', ExecutionStatus.SUCCESS)
        assert (tmp_path / name).read_text() == 'x'

    asyncio.run(main())


@pytest.fixture(scope='module', autouse=True)
def _no_images_left() -> Iterator[None]:
    yield
    for image in (SERVICE, UNPRIVILEGED):
        with contextlib.suppress(Exception):
            get_engine().api.remove_image(image, force=True)
