"""What a checker of types makes of users' programs, sync and async. It has this checkout's `mypy --strict`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.compat.running import PATIENCE, environment
from tests.support.type_checking import mypy

BLOCKING = """
from typing import Any

from enclave import (
    DockerNotebookSandbox, DockerSandbox, DockerSandboxConfig, LocalSandboxManager, Sandbox, SandboxFactory, SandboxManager,
    SandboxManagerFactory, SandboxType, Tool, ToolResult, Workspace, register_tool,
)


@register_tool('blocking')
class Blocking(Tool):
    def execute(self, workspace: Workspace, path: str = '.', **parameters: Any) -> ToolResult:
        return self.success(workspace.list_dir(path)[0].path)


def use(sandbox: Sandbox) -> str:
    return str(sandbox.execute_tool('blocking', {}).output)


docker: DockerSandbox = SandboxFactory.create_sandbox(SandboxType.DOCKER, DockerSandboxConfig(tools_config=['blocking']))
notebook: DockerNotebookSandbox = SandboxFactory.create_sandbox('docker_notebook')
made: SandboxManager = SandboxManagerFactory.create_manager()
with LocalSandboxManager(pool_size=2) as manager, manager.lease() as leased:
    use(leased)
    found: Sandbox | None = manager.get_sandbox('x')
    data: bytes = docker.read_file('x')
    manager.execute_tool(1, 'blocking')  # type: ignore[arg-type]
"""
AWAITED = """
import asyncio
from typing import Any

from {boxes} import (
    DockerNotebookSandbox, DockerSandbox, Sandbox, SandboxFactory, register_sandbox,
)
from {managers} import HttpSandboxManager, LocalSandboxManager, SandboxManager, SandboxManagerFactory
from {model} import CommandResult, DockerSandboxConfig, ExecutionStatus, SandboxType, ToolResult
from {tools} import Tool, ToolParams, register_tool


@register_tool('documented')
class Documented(Tool):
    _name = 'documented'
    _parameters = ToolParams(type='object', properties={{}}, required=[])

    async def execute(self, sandbox_context: Any, **kwargs: Any) -> ToolResult:
        return ToolResult(tool_name='documented', status=ExecutionStatus.SUCCESS)


@register_tool('typed')
class Typed(Tool):
    async def execute(self, sandbox_context: Sandbox, command: str, timeout: int = 3) -> ToolResult:
        return self.success((await sandbox_context.execute_command(command, timeout)).stdout)


@register_tool('running')
class Running(Tool):
    async def run(self, workspace: Sandbox, arguments: dict[str, Any]) -> str:
        return (await workspace.execute_command('true')).stdout


@register_sandbox('own')
class Own(Sandbox):
    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def execute_command(self, command: Any, timeout: float | None = None, **options: Any) -> CommandResult:
        return CommandResult(command=command, status=ExecutionStatus.SUCCESS)


async def use(sandbox: Sandbox) -> ToolResult:
    return await sandbox.execute_tool('documented', {{}})


async def main() -> None:
    sandbox: Sandbox = SandboxFactory.create_sandbox(SandboxType.DOCKER)
    docker: DockerSandbox = SandboxFactory.create_sandbox('docker', DockerSandboxConfig(tools_config={{'typed': {{}}}}))
    notebook: DockerNotebookSandbox = SandboxFactory.create_sandbox(SandboxType.DOCKER_NOTEBOOK)
    kind: type[Sandbox] = SandboxFactory.get_sandbox_class('own')
    own: Sandbox = SandboxFactory.create_sandbox('own')
    made: SandboxManager = SandboxManagerFactory.create_manager()
    async with docker as entered, notebook as book:
        await use(entered)
        cell = (await book.execute_cell('1')).outputs
        data: bytes = await docker.read_file('x')
        async for chunk in docker.read_chunks('x'):
            data += chunk
    async with LocalSandboxManager() as manager, HttpSandboxManager(base_url='http://127.0.0.1:1') as remote:
        found: Sandbox | None = await manager.get_sandbox('x')
        async with remote.lease() as leased, manager.open('docker') as opened:
            await use(leased)
            await use(opened)
        result: ToolResult = await manager.execute_tool('x', 'typed', {{'command': 'true'}})
        await manager.execute_tool(1, 'typed')  # type: ignore[arg-type]


asyncio.run(main())
"""
ONE = dict.fromkeys(('boxes', 'managers', 'model', 'tools'), 'enclave.aio')
DOCUMENTED = """
import asyncio
from typing import Any

from ms_enclave.sandbox.boxes import DockerSandbox, Sandbox, SandboxFactory, register_sandbox
from ms_enclave.sandbox.manager import HttpSandboxManager, LocalSandboxManager
from ms_enclave.sandbox.model import (
    CommandResult, DockerSandboxConfig, ExecutionStatus, SandboxStatus, SandboxType, ToolResult,
)
from ms_enclave.sandbox.tools import SandboxTool, ToolParams, register_tool


@register_tool('typed')
class Typed(SandboxTool):
    _name = 'typed'
    _parameters = ToolParams(properties={'command': {'type': 'string'}}, required=['command'])
    _sandbox_types = [SandboxType.DOCKER]

    async def execute(self, sandbox_context: Sandbox, command: str) -> ToolResult:
        result = await sandbox_context.execute_command(command, timeout=5)
        return ToolResult(tool_name=self.name, status=ExecutionStatus.SUCCESS, output=result.stdout)


@register_sandbox('own')
class Own(Sandbox):
    @property
    def sandbox_type(self) -> SandboxType:
        return SandboxType.DUMMY

    async def start(self) -> None:
        self.update_status(SandboxStatus.RUNNING)

    async def stop(self) -> None: ...

    async def cleanup(self) -> None: ...

    async def get_execution_context(self) -> Any:
        return None

    async def execute_command(self, command: Any, timeout: float | None = None, stream: bool = True) -> CommandResult:
        return CommandResult(command=command, status=ExecutionStatus.SUCCESS, exit_code=0)


async def main() -> None:
    config = DockerSandboxConfig(tools_config={'typed': {}}, memory_limit='512m')
    async with DockerSandbox(config) as sandbox:
        done: CommandResult = await sandbox.execute_command('true')
        await sandbox.put_file('/x', 'text')
    async with LocalSandboxManager() as manager, HttpSandboxManager(base_url='http://127.0.0.1:1') as remote:
        made: str = await manager.create_sandbox(SandboxType.DOCKER, config)
        result: ToolResult = await remote.execute_tool(made, 'typed', {'command': 'true'})


asyncio.run(main())
"""
PROGRAMS = {
    'blocking': BLOCKING,
    'aio': AWAITED.format(**ONE),
    'documented': DOCUMENTED,
}


def test_users_programs_have_their_types(tmp_path: Path) -> None:
    pytest.importorskip('mypy')
    for name, text in PROGRAMS.items():
        (tmp_path / f'{name}.py').write_text(text)

    done = mypy(*map('{}.py'.format, PROGRAMS), cwd=tmp_path, env=environment(), timeout=PATIENCE)

    assert done.returncode == 0, done.stdout + done.stderr
