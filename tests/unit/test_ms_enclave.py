"""The documented import paths, and the details that programs written to them rely on."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import json
import logging
from typing import Any

import pytest

from enclave import aio
from enclave.aio.proxies import AsyncProxy
from enclave.sandboxes.registry import SandboxFactory as BlockingFactory
from enclave.tools import registry as tool_registry
from ms_enclave.sandbox.boxes import DockerNotebookSandbox, DockerSandbox, Sandbox, SandboxFactory, register_sandbox
from ms_enclave.sandbox.model import (
    CommandResult,
    DockerNotebookConfig,
    DockerSandboxConfig,
    ExecutionStatus,
    SandboxConfig,
    SandboxManagerConfig,
    SandboxManagerType,
    SandboxStatus,
    SandboxType,
    ToolResult,
)
from ms_enclave.sandbox.tools import SandboxTool, Tool, ToolFactory, ToolParams, register_tool
from ms_enclave.utils import get_logger
from tests.support.sandbox import FakeBackend, FakeSandbox

MANAGERS = [
    'HttpSandboxManager',
    'LocalSandboxManager',
    'SandboxManager',
    'SandboxManagerFactory',
    'register_manager',
]
PATHS = {
    'ms_enclave.sandbox': [
        'CommandResult',
        'DockerNotebookConfig',
        'DockerNotebookSandbox',
        'DockerSandbox',
        'DockerSandboxConfig',
        'ExecutionStatus',
        'FileOperation',
        'HealthCheckResult',
        'PathInfo',
        'HttpSandboxManager',
        'LocalSandboxManager',
        'NotebookExecutor',
        'PythonExecutor',
        'Sandbox',
        'SandboxConfig',
        'SandboxFactory',
        'SandboxInfo',
        'SandboxManager',
        'SandboxManagerConfig',
        'SandboxManagerFactory',
        'SandboxManagerType',
        'SandboxServer',
        'SandboxStatus',
        'SandboxTool',
        'SandboxType',
        'ShellExecutor',
        'Tool',
        'ToolFactory',
        'ToolParams',
        'ToolResult',
        'create_server',
        'register_sandbox',
        'register_tool',
    ],
    'ms_enclave.sandbox.boxes': [
        'DockerNotebookSandbox',
        'DockerSandbox',
        'Sandbox',
        'SandboxFactory',
        'register_sandbox',
    ],
    'ms_enclave.sandbox.model': [
        'CommandResult',
        'DockerNotebookConfig',
        'DockerSandboxConfig',
        'ExecutionStatus',
        'HealthCheckResult',
        'PathInfo',
        'SandboxConfig',
        'SandboxInfo',
        'SandboxManagerConfig',
        'SandboxManagerType',
        'SandboxStatus',
        'SandboxType',
        'ToolResult',
    ],
    **{f'ms_enclave.sandbox.manager{module}': MANAGERS for module in ('', '.base', '.local_manager', '.http_manager')},
    'ms_enclave.sandbox.tools': [
        'FileOperation',
        'NotebookExecutor',
        'PythonExecutor',
        'SandboxTool',
        'ShellExecutor',
        'Tool',
        'ToolFactory',
        'ToolParams',
        'register_tool',
    ],
    'ms_enclave.sandbox.server': ['SandboxServer', 'create_server'],
    'ms_enclave.sandbox.server.server': ['SandboxServer', 'create_server'],
    'ms_enclave.utils': ['get_logger'],
}
OPTIONS = {'tools_config': ['shell_executor', 'python_executor']}


@pytest.fixture
def backend() -> FakeBackend:
    made = FakeBackend()
    BlockingFactory.register_sandbox('fake', type('TestSandbox', (FakeSandbox,), {'backend': made}))
    return made


@pytest.fixture(autouse=True)
def _registries_of_this_test(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tool_registry.TOOLS, 'registered', dict(tool_registry.TOOLS.registered))
    monkeypatch.setattr(aio.Sandbox._proxy_registry, 'proxies', dict(aio.Sandbox._proxy_registry.proxies))


def local_manager(**options: Any) -> Any:
    from ms_enclave.sandbox.manager import LocalSandboxManager

    return LocalSandboxManager(**{'sandbox_config': OPTIONS, 'stop_grace': 0, 'sweep': False, **options})


@pytest.mark.parametrize(('module', 'name'), [(module, name) for module, names in PATHS.items() for name in names])
def test_a_documented_name_is_where_it_was(module: str, name: str) -> None:
    assert getattr(importlib.import_module(module), name) is not None


def test_the_words_are_strings_with_the_documented_values() -> None:
    assert [SandboxType.DOCKER, SandboxType.DOCKER_NOTEBOOK] == ['docker', 'docker_notebook']
    assert [SandboxManagerType.LOCAL, SandboxManagerType.HTTP] == ['local', 'http']
    assert sorted(ExecutionStatus) == ['cancelled', 'error', 'success', 'timeout']
    states = ['busy', 'error', 'idle', 'initializing', 'running', 'stopped', 'stopping']
    assert sorted(SandboxStatus) == states


def test_configurations_take_keywords_and_dicts() -> None:
    config = DockerSandboxConfig(image='python:3.11-slim', memory_limit='512m', cpu_limit='1.0', timeout=0)
    same = DockerSandboxConfig.model_validate(
        {'image': 'python:3.11-slim', 'memory_limit': '512m', 'cpu_limit': 1.0, 'timeout': None}
    )

    assert config == same
    assert config.cpu_limit == 1.0
    assert config.timeout is None
    assert issubclass(DockerNotebookConfig, SandboxConfig)
    assert DockerSandboxConfig(timeout=2.5).timeout == 2.5


def test_a_manager_is_configured_with_the_documented_words() -> None:
    config = SandboxManagerConfig(
        base_url='http://127.0.0.1:8000',
        timeout=12.5,
        api_key='secret',
        cleanup_interval=60,
        pool_size=3,
        sandbox_config=DockerSandboxConfig(),
    )

    assert (config.timeout, config.pool_size) == (12.5, 3)
    assert 'secret' not in repr(config)


def test_results_can_be_dumped() -> None:
    result = ToolResult(tool_name='x', status=ExecutionStatus.SUCCESS, output='out')

    assert 'error' not in result.model_dump(exclude_none=True)
    assert json.loads(result.model_dump_json())['output'] == 'out'
    assert result.success


def test_factories_make_what_is_not_started() -> None:
    from ms_enclave.sandbox.manager import LocalSandboxManager, SandboxManagerFactory

    sandbox = SandboxFactory.create_sandbox(SandboxType.DOCKER, DockerSandboxConfig(tools_config=['shell_executor']))

    assert isinstance(sandbox, DockerSandbox)
    assert isinstance(sandbox, Sandbox)
    assert isinstance(DockerSandbox({}, 'mine'), DockerSandbox)
    assert sandbox.status is SandboxStatus.INITIALIZING
    assert isinstance(SandboxFactory.create_sandbox(SandboxType.DOCKER_NOTEBOOK), DockerNotebookSandbox)
    assert isinstance(SandboxManagerFactory.create_manager(), LocalSandboxManager)
    assert isinstance(SandboxManagerFactory.create_manager(SandboxManagerType.LOCAL), LocalSandboxManager)
    assert sorted(SandboxManagerFactory.get_registered_types()) == ['http', 'local']
    with pytest.raises(ValueError, match='not registered'):
        SandboxManagerFactory.create_manager('other')


def test_a_manager_for_a_server_connects_nothing_when_made() -> None:
    from ms_enclave.sandbox.manager import HttpSandboxManager, SandboxManagerFactory

    pytest.importorskip('enclave.managers.http')

    assert isinstance(HttpSandboxManager(base_url='http://127.0.0.1:1'), HttpSandboxManager)
    made = SandboxManagerFactory.create_manager(config=SandboxManagerConfig(base_url='http://127.0.0.1:1'))
    assert isinstance(made, HttpSandboxManager)


def test_every_verb_of_a_sandbox_and_a_manager_is_a_coroutine_function() -> None:
    from ms_enclave.sandbox.manager import LocalSandboxManager

    plain = {'lease', 'open', 'read_chunks', 'read_archive', 'update_status'}
    for proxy in (DockerSandbox, LocalSandboxManager):
        for name in dir(proxy):
            method = inspect.getattr_static(proxy, name)
            if not name.startswith('_') and inspect.isfunction(method) and name not in plain:
                assert inspect.iscoroutinefunction(method), name


def test_a_success_tells_its_stderr_as_error(backend: FakeBackend) -> None:
    async def main() -> None:
        async with SandboxFactory.create_sandbox('fake', OPTIONS) as sandbox:
            result = await sandbox.execute_tool('shell_executor', {'command': 'echo out; echo words >&2'})
            assert result.success
            assert result.error == 'words\n'
            quiet = await sandbox.execute_tool('shell_executor', {'command': 'echo out'})
            assert quiet.error is None
        async with local_manager() as manager:
            only = await manager.create_sandbox('fake')
            result = await manager.execute_tool(only, 'shell_executor', {'command': 'echo words >&2'})
            assert (result.success, result.error) == (True, 'words\n')
            found = await manager.get_sandbox(only)
            assert isinstance(found, Sandbox)
            result = await found.execute_tool('shell_executor', {'command': 'echo words >&2'})
            assert result.error == 'words\n'
            await manager.initialize_pool(pool_size=1, sandbox_type='fake', config=OPTIONS)
            result = await manager.execute_tool_in_pool('shell_executor', {'command': 'echo words >&2'})
            assert result.error == 'words\n'
            async with manager.lease() as leased:
                result = await leased.execute_tool('shell_executor', {'command': 'echo words >&2'})
            assert result.error == 'words\n'
            later = await manager.submit('execute_tool', only, 'shell_executor', {'command': 'echo words >&2'})
            assert (await later).error == 'words\n'

    asyncio.run(main())


def test_every_kind_of_sandbox_tells_it_so(backend: FakeBackend) -> None:
    class Nearer(aio.Sandbox):  # a proxy that this package knows nothing of
        _home = (BlockingFactory.get_sandbox_class('fake').__module__, 'TestSandbox')

    async def main() -> ToolResult:
        async with SandboxFactory.create_sandbox('fake', OPTIONS) as sandbox:
            assert type(sandbox) is Nearer
            return await sandbox.execute_tool('shell_executor', {'command': 'echo words >&2'})

    assert asyncio.run(main()).error == 'words\n'


def test_the_known_kinds_are_sandboxes_of_this_package() -> None:
    for kind in ('docker', 'docker_notebook', 'bubblewrap', 'bubblewrap_notebook'):
        assert isinstance(SandboxFactory.create_sandbox(kind), Sandbox)


def test_the_plain_faces_leave_error_empty_on_success(backend: FakeBackend) -> None:
    async def main() -> ToolResult:
        async with aio.SandboxFactory.create_sandbox('fake', OPTIONS) as sandbox:
            return await sandbox.execute_tool('shell_executor', {'command': 'echo words >&2'})

    assert asyncio.run(main()).error is None


def test_a_failure_without_stderr_tells_its_exit_code(backend: FakeBackend) -> None:
    async def main() -> ToolResult:
        async with SandboxFactory.create_sandbox('fake', OPTIONS) as sandbox:
            return await sandbox.execute_tool('shell_executor', {'command': 'exit 7'})

    result = asyncio.run(main())

    assert not result.success
    assert str(result.error).endswith('exit code 7')


def test_a_pool_is_as_documented(backend: FakeBackend) -> None:
    async def main() -> None:
        async with local_manager() as manager:
            assert manager._pool_initialized is False
            with pytest.raises(ValueError, match='Sandbox pool is empty, call initialize_pool first'):
                await manager.execute_tool_in_pool('shell_executor', {'command': 'true'})
            ids = await manager.initialize_pool(pool_size=2, sandbox_type='fake', config=OPTIONS)
            assert len(ids) == 2
            assert manager._pool_initialized is True
            stats = await manager.get_stats()
            assert (stats['pool_size'], stats['total_sandboxes']) == (2, 2)
            async with manager.lease(), manager.lease():
                with pytest.raises(TimeoutError, match='Timeout waiting for available sandbox'):
                    await manager.execute_tool_in_pool('shell_executor', {'command': 'true'}, timeout=0.01)

    asyncio.run(main())


def test_unknown_ids_are_as_documented(backend: FakeBackend) -> None:
    async def main() -> None:
        async with local_manager() as manager:
            assert await manager.get_sandbox('unknown') is None
            with pytest.raises(ValueError, match='unknown'):
                await manager.execute_tool('unknown', 'shell_executor', {'command': 'true'})

    asyncio.run(main())


def test_a_directory_is_put(backend: FakeBackend, tmp_path: Any) -> None:
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'file').write_text('in it')

    async def main() -> None:
        async with local_manager() as manager:
            only = await manager.create_sandbox('fake')
            assert await manager.put_dir(only, tmp_path, 'place') is True
            result = await manager.execute_command(only, 'cat place/file; ls place')
            assert result.stdout.split() == ['in', 'itempty', 'file']
            assert result.command == 'cat place/file; ls place'

    asyncio.run(main())


# What users write themselves


def own_tool() -> None:
    @register_tool('greet', replace=True)
    class Greet(SandboxTool):
        _name = 'greet'
        _description = 'Greet somebody'
        _sandbox_type = None
        _parameters = ToolParams(type='object', properties={'name': {'type': 'string'}}, required=['name'])

        async def execute(self, sandbox_context: Any, name: str) -> ToolResult:  # type: ignore[override]
            result = await sandbox_context.execute_command(f'echo hello {name}')
            return ToolResult(tool_name=self.name, status=ExecutionStatus.SUCCESS, output=result.stdout, error=None)


def test_an_own_tool_works_in_both_colours(backend: FakeBackend) -> None:
    own_tool()

    async def main() -> ToolResult:
        async with SandboxFactory.create_sandbox('fake', {'tools_config': {'greet': {}}}) as sandbox:
            schemas = await sandbox.get_available_tools()
            assert schemas['greet']['function']['parameters']['required'] == ['name']
            return await sandbox.execute_tool('greet', {'name': 'you'})

    assert asyncio.run(main()).output == 'hello you\n'
    with BlockingFactory.create_sandbox('fake', {'tools_config': {'greet': {}}}) as blocking:
        assert blocking.execute_tool('greet', {'name': 'me'}).output == 'hello me\n'
    assert 'greet' in ToolFactory.get_available_tools()
    assert isinstance(ToolFactory.create_tool('greet'), Tool)
    with pytest.raises(ValueError, match='nothing'):
        ToolFactory.create_tool('nothing')


def test_an_own_sandbox_works_in_both_colours() -> None:
    steps: list[str] = []

    @register_sandbox(SandboxType.DUMMY)
    class Dummy(Sandbox):
        @property
        def sandbox_type(self) -> SandboxType:  # type: ignore[override]
            return SandboxType.DUMMY

        async def start(self) -> None:
            self.update_status(SandboxStatus.RUNNING)
            await self.initialize_tools()
            steps.append('start')

        async def stop(self) -> None:
            self.update_status(SandboxStatus.STOPPED)
            steps.append('stop')

        async def cleanup(self) -> None:
            pass

        async def get_execution_context(self) -> Any:
            return None

        async def execute_command(
            self, command: Any, timeout: float | None = None, stream: bool = True, **_: Any
        ) -> CommandResult:
            return CommandResult(
                command=command, status=ExecutionStatus.SUCCESS, exit_code=0, stdout='dummy', stderr=''
            )

    async def main() -> None:
        async with SandboxFactory.create_sandbox(SandboxType.DUMMY, SandboxConfig(**OPTIONS)) as sandbox:
            assert isinstance(sandbox, Dummy)
            assert (await sandbox.get_info()).type is SandboxType.DUMMY
            assert (await sandbox.execute_command('x')).stdout == 'dummy'
            assert (await sandbox.execute_tool('shell_executor', {'command': 'x'})).output == 'dummy'
        async with local_manager() as manager:
            only = await manager.create_sandbox(SandboxType.DUMMY, SandboxConfig(**OPTIONS))
            assert (await manager.execute_tool(only, 'shell_executor', {'command': 'x'})).output == 'dummy'
            assert (await manager.get_sandbox_info(only)).status is SandboxStatus.RUNNING

    asyncio.run(main())
    with BlockingFactory.create_sandbox('dummy') as blocking:
        assert blocking.execute_command('x').stdout == 'dummy'
        assert not isinstance(blocking, AsyncProxy)

    assert steps == ['start', 'stop'] * 3


def test_a_logger_is_a_standard_one() -> None:
    assert get_logger() is logging.getLogger('ms_enclave')
    assert get_logger('mine', log_level='DEBUG').level == logging.DEBUG
