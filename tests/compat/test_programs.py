"""Programs of our own, each in sync and async code and each a process of its own, against a real engine."""

from __future__ import annotations

import socket
import textwrap
from pathlib import Path

import pytest

from tests.compat.running import run_program, running_server
from tests.support.host import wait_until

pytestmark = pytest.mark.docker

ONE_BLOCKING = """
from enclave import DockerSandboxConfig, SandboxFactory, SandboxType

config = DockerSandboxConfig(memory_limit='256m', tools_config=['file_operation', 'python_executor', 'shell_executor'])
with SandboxFactory.create_sandbox(SandboxType.DOCKER, config) as sandbox:
    sandbox.execute_tool('file_operation', {'operation': 'write', 'file_path': 'numbers.txt', 'content': '3 4 5'})
    code = "print(sum(map(int, open('numbers.txt').read().split())))"
    print(sandbox.execute_tool('python_executor', {'code': code}).output, end='')
    print(sandbox.execute_tool('shell_executor', {'command': 'pwd; cat numbers.txt'}).output)
    print(sandbox.execute_tool('python_executor', {'code': 'raise SystemExit(3)'}).exit_code)
"""

ONE_ASYNC = """
import asyncio
from ms_enclave.sandbox.boxes import SandboxFactory
from ms_enclave.sandbox.model import DockerSandboxConfig, SandboxType

async def main():
    tools = {'file_operation': {}, 'python_executor': {}, 'shell_executor': {}}
    config = DockerSandboxConfig.model_validate({'memory_limit': '256m', 'cpu_limit': '1.0', 'tools_config': tools})
    async with SandboxFactory.create_sandbox(SandboxType.DOCKER, config) as sandbox:
        await sandbox.execute_tool(
            'file_operation', {'operation': 'write', 'file_path': 'numbers.txt', 'content': '3 4 5'}
        )
        code = "print(sum(map(int, open('numbers.txt').read().split())))"
        print((await sandbox.execute_tool('python_executor', {'code': code})).output, end='')
        print((await sandbox.execute_tool('shell_executor', {'command': 'pwd; cat numbers.txt'})).output)
        result = await sandbox.execute_tool('python_executor', {'code': 'raise SystemExit(3)'})
        print(result.error.rpartition(' ')[2])

asyncio.run(main())
"""

MANY_BLOCKING = """
from concurrent.futures import ThreadPoolExecutor
from enclave import DockerSandboxConfig, LocalSandboxManager, SandboxType

config = DockerSandboxConfig(network_enabled=False, tools_config=['shell_executor'])
with LocalSandboxManager() as manager, ThreadPoolExecutor(3) as threads:
    ids = list(threads.map(lambda _: manager.create_sandbox(SandboxType.DOCKER, config), range(3)))
    echo = lambda pair: manager.execute_tool(pair[1], 'shell_executor', {'command': f'echo {pair[0]}'}).output
    print(list(threads.map(echo, enumerate(ids))))
    print(sorted(info.id for info in manager.list_sandboxes()) == sorted(ids))
    print(manager.stop_sandbox(ids[0]), manager.delete_sandbox(ids[0]), len(manager.list_sandboxes()))
"""

MANY_ASYNC = """
import asyncio
from ms_enclave.sandbox.manager import LocalSandboxManager
from ms_enclave.sandbox.model import DockerSandboxConfig, SandboxType

async def main():
    config = DockerSandboxConfig(network_enabled=False, tools_config=['shell_executor'])
    async with LocalSandboxManager() as manager:
        ids = await asyncio.gather(*(manager.create_sandbox(SandboxType.DOCKER, config) for _ in range(3)))
        echoes = (
            manager.execute_tool(each, 'shell_executor', {'command': f'echo {number}'}) for number, each in enumerate(ids)
        )
        print([result.output for result in await asyncio.gather(*echoes)])
        print(sorted(info.id for info in await manager.list_sandboxes()) == sorted(ids))
        print(await manager.stop_sandbox(ids[0]), await manager.delete_sandbox(ids[0]), end=' ')
        print(len(await manager.list_sandboxes()))

asyncio.run(main())
"""

POOL_BLOCKING = """
from enclave import DockerSandboxConfig, LocalSandboxManager

config = DockerSandboxConfig(network_enabled=False, tools_config=['python_executor'])
with LocalSandboxManager(pool_size=2, sandbox_config=config) as manager:
    print(len(manager.initialize_pool()))
    calls = [manager.submit('execute_tool_in_pool', 'python_executor', {'code': f'print({n} ** 2)'}) for n in range(6)]
    print([call.result().output.strip() for call in calls])
    with manager.lease() as sandbox:
        print(sandbox.execute_command('echo leased').stdout, end='')
"""

POOL_ASYNC = """
import asyncio
from ms_enclave.sandbox.manager import SandboxManagerFactory
from ms_enclave.sandbox.model import DockerSandboxConfig, SandboxManagerConfig

async def main():
    config = DockerSandboxConfig(network_enabled=False, tools_config=['python_executor'])
    options = SandboxManagerConfig(pool_size=2, sandbox_config=config)
    async with SandboxManagerFactory.create_manager(config=options) as manager:
        print(len(await manager.initialize_pool()))
        calls = [manager.execute_tool_in_pool('python_executor', {'code': f'print({n} ** 2)'}) for n in range(6)]
        print([result.output.strip() for result in await asyncio.gather(*calls)])
        async with manager.lease() as sandbox:
            print((await sandbox.execute_command('echo leased')).stdout, end='')

asyncio.run(main())
"""

TOOL = """
@register_tool('count_lines')
class CountLines(Tool):
    _name = 'count_lines'
    _description = 'Count the lines of a file'
    _parameters = ToolParams(type='object', properties={'path': {'type': 'string'}}, required=['path'])

    async def execute(self, sandbox_context, **kwargs):
        result = await sandbox_context.execute_command(['wc', '-l', kwargs['path']])
        return ToolResult(tool_name=self.name, status=ExecutionStatus.SUCCESS, output=result.stdout.split()[0])
"""

TOOL_BLOCKING = f"""
from enclave import ExecutionStatus, SandboxFactory, Tool, ToolResult, register_tool
from enclave.tools import ToolParams
{TOOL}
with SandboxFactory.create_sandbox('docker', {{'tools_config': ['count_lines']}}) as sandbox:
    print(sandbox.execute_tool('count_lines', {{'path': '/etc/os-release'}}).output != '0')
"""

TOOL_ASYNC = f"""
import asyncio
from ms_enclave.sandbox.boxes import SandboxFactory
from ms_enclave.sandbox.model import ExecutionStatus, ToolResult
from ms_enclave.sandbox.tools import SandboxTool as Tool, ToolParams, register_tool
{TOOL}
async def main():
    async with SandboxFactory.create_sandbox('docker', {{'tools_config': ['count_lines']}}) as sandbox:
        print((await sandbox.execute_tool('count_lines', {{'path': '/etc/os-release'}})).output != '0')

asyncio.run(main())
"""

PAIRS = {
    'one-sandbox': (ONE_BLOCKING, ONE_ASYNC, '12\n/sandbox\n3 4 5\n3\n'),
    'many-sandboxes': (MANY_BLOCKING, MANY_ASYNC, "['0\\n', '1\\n', '2\\n']\nTrue\nTrue True 2\n"),
    'a-pool': (POOL_BLOCKING, POOL_ASYNC, "2\n['0', '1', '4', '9', '16', '25']\nleased\n"),
    'an-own-tool': (TOOL_BLOCKING, TOOL_ASYNC, 'True\n'),
}


@pytest.mark.parametrize('color', ['blocking', 'async'])
@pytest.mark.parametrize('name', list(PAIRS))
def test_a_program_prints_the_same_in_both_colours(name: str, color: str, tmp_path: Path) -> None:
    blocking, awaited, expected = PAIRS[name]

    assert run_program(blocking if color == 'blocking' else awaited, tmp_path) == expected


REMOTE_BLOCKING = """
from enclave import DockerSandboxConfig, SandboxType
from enclave.managers.http import HttpSandboxManager

with HttpSandboxManager(base_url='{address}') as manager:
    config = DockerSandboxConfig(tools_config=['python_executor'])
    there = manager.create_sandbox(SandboxType.DOCKER, config)
    print(manager.execute_tool(there, 'python_executor', {{'code': 'print(6 * 7)'}}).output, end='')
    print(manager.delete_sandbox(there))
"""

REMOTE_ASYNC = """
import asyncio
from ms_enclave.sandbox.manager import HttpSandboxManager
from ms_enclave.sandbox.model import DockerSandboxConfig, SandboxType

async def main():
    async with HttpSandboxManager(base_url='{address}', timeout=20.5) as manager:
        config = DockerSandboxConfig(tools_config=['python_executor'])
        there = await manager.create_sandbox(SandboxType.DOCKER, config)
        print((await manager.execute_tool(there, 'python_executor', {{'code': 'print(6 * 7)'}})).output, end='')
        print(await manager.delete_sandbox(there))

asyncio.run(main())
"""


@pytest.mark.parametrize('program', [REMOTE_BLOCKING, REMOTE_ASYNC], ids=['blocking', 'async'])
def test_a_program_uses_a_server(program: str, tmp_path: Path) -> None:
    pytest.importorskip('enclave.managers.http')
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]

    with running_server(port) as address:
        assert run_program(program.format(address=address), tmp_path) == '42\nTrue\n'


@pytest.mark.parametrize(
    'ending',
    ['', 'atexit.register(lambda: asyncio.run(sandbox.stop()))', 'asyncio.run(sandbox.stop())'],
    ids=['nothing-is-stopped', 'a-hook-stops-it', 'another-loop-stops-it'],
)
def test_a_program_leaves_no_container_however_it_ends(ending: str, tmp_path: Path) -> None:
    from enclave.sandboxes.docker.engine import get_engine

    program = f"""
import asyncio, atexit, warnings
warnings.simplefilter('ignore')
from ms_enclave.sandbox.boxes import DockerSandbox

sandbox = DockerSandbox({{'network_enabled': False}})
asyncio.run(sandbox.start())
print(sandbox.id)
{ending}
"""

    name = run_program(textwrap.dedent(program), tmp_path).strip()

    labels = {'label': [f'enclave.sandbox={name}']}
    # The engine removes an ended container a moment after its stream has closed.
    assert wait_until(lambda: not get_engine().api.containers(all=True, filters=labels), 60)
