"""The first two lines anyone writes, on this machine and against a server, blocking and awaited."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterator
from typing import Any

import attrs
import pytest

import enclave
from enclave import aio
from enclave.config import SandboxConfig
from enclave.enums import SandboxStatus
from enclave.errors import (
    AuthenticationError,
    ConfigurationError,
    InvalidArgumentError,
    NotRegisteredError,
    ServerUnavailableError,
)
from enclave.languages.values import CodeRequest
from enclave.managers.manager_config import SandboxManagerConfig
from enclave.managers.options import ManagerOptions
from enclave.sandboxes.bubblewrap.bubblewrap_config import BubblewrapSandboxConfig
from enclave.sandboxes.bubblewrap.bubblewrap_notebook_config import BubblewrapNotebookConfig
from enclave.sandboxes.docker.docker_config import DockerSandboxConfig
from enclave.sandboxes.docker.docker_notebook_config import DockerNotebookConfig
from enclave.sandboxes.options import CodeOptions, CommandOptions, ProgramOptions, SandboxOptions, ScriptOptions
from enclave.sandboxes.verbs import FullSandbox
from enclave.server.serve import create_server

KEY = 'a-key-for-the-tests-of-shortcuts'


@pytest.fixture(
    params=[
        pytest.param('docker', marks=pytest.mark.docker),
        pytest.param('bubblewrap', marks=pytest.mark.bubblewrap),
        pytest.param('server', marks=pytest.mark.bubblewrap),
    ]
)
def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """What the environment says: a kind, or a server and its key."""
    monkeypatch.delenv('ENCLAVE_URL', raising=False)
    if request.param != 'server':
        monkeypatch.setenv('ENCLAVE_TYPE', request.param)
        yield {}
        return
    monkeypatch.delenv('ENCLAVE_TYPE', raising=False)
    server = create_server(api_key=KEY, sandbox_type='bubblewrap')
    monkeypatch.setenv('ENCLAVE_URL', server.start(port=0))
    monkeypatch.setenv('ENCLAVE_API_KEY', KEY)
    yield {}
    server.stop()


@pytest.mark.usefixtures('place')
def test_a_program_and_a_command_each_in_a_sandbox_of_its_own() -> None:
    assert enclave.run_code('print(1)').stdout == '1\n'
    assert enclave.run_code('print(input())', stdin='x', memory_limit='128m', timeout=20).stdout == 'x\n'
    assert enclave.run_code('echo $0 | wc -c', 'bash').success
    assert enclave.run_command('echo out; echo err >&2; exit 3').text == 'out\n[stderr]\nerr\n[exit code 3]'
    assert enclave.run_command(['echo', '$HOME'], env={'A': 'b'}).stdout == '$HOME\n'


@pytest.mark.usefixtures('place')
def test_a_sandbox_in_one_call() -> None:
    with enclave.open_sandbox(tools_config=['shell_executor'], memory_limit='128m') as sandbox:
        assert sandbox.run_code('print(2)').stdout == '2\n'
        assert sandbox.execute_tool('shell_executor', {'command': 'echo 3'}).output == '3\n'
        assert sandbox.list_tools() == ['shell_executor']
        assert sandbox.get_info().config['memory_limit'] == '128m'
    assert sandbox.status is SandboxStatus.STOPPED
    sandbox.stop()


@pytest.mark.usefixtures('place')
def test_without_a_with_block_it_is_stopped_by_hand() -> None:
    sandbox = enclave.open_sandbox()
    try:
        assert sandbox.execute_command('echo here').stdout == 'here\n'
    finally:
        sandbox.stop()
    assert sandbox.status is SandboxStatus.STOPPED


@pytest.mark.usefixtures('place')
def test_the_same_is_awaited() -> None:
    async def main() -> None:
        assert (await aio.run_code('print(1)')).stdout == '1\n'
        assert (await aio.run_command('echo hi', memory_limit='128m')).stdout == 'hi\n'
        async with aio.open_sandbox(memory_limit='128m') as sandbox:
            assert (await sandbox.run_code('print(2)')).stdout == '2\n'
        opened = await aio.open_sandbox()
        assert (await opened.execute_command('echo 3')).stdout == '3\n'
        await opened.stop()

    asyncio.run(main())


@pytest.mark.usefixtures('place')
def test_output_comes_to_callbacks_and_ports_are_waited_for() -> None:
    seen: list[str] = []
    server = 'import socket, time; time.sleep(0.3); s = socket.create_server(("127.0.0.1", 8124)); time.sleep(60)'
    with enclave.open_sandbox(idle_timeout=0) as sandbox:  # no limit, where a server has one
        assert not sandbox.get_info().metadata.get('idle_timeout')
        result = sandbox.execute_command('echo out; echo err >&2', on_stdout=seen.append, on_stderr=seen.append)
        assert (result.stdout, sorted(seen)) == ('out\n', ['err\n', 'out\n'])
        with sandbox.start_process(['python3', '-c', server]):
            sandbox.wait_for_port(8124, 30)
        cut = sandbox.execute_command('seq 100000', max_chars=200)
        assert cut.stdout_file is not None
        assert sandbox.read_file(cut.stdout_file).endswith(b'99999\n100000\n')


@pytest.mark.usefixtures('place')
def test_callbacks_of_awaited_commands_run_on_the_event_loop() -> None:
    async def main() -> None:
        loop, seen = asyncio.get_running_loop(), []

        async def note(text: str) -> None:
            assert asyncio.get_running_loop() is loop
            await asyncio.sleep(0)
            seen.append(text)

        async with aio.open_sandbox() as sandbox:
            await sandbox.execute_command('echo out; echo err >&2', on_stdout=note, on_stderr=seen.append)
        assert sorted(seen) == ['err\n', 'out\n']

    asyncio.run(main())


def test_a_wrong_idle_timeout_is_refused_here_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv('ENCLAVE_URL', raising=False)

    with pytest.raises(InvalidArgumentError, match='idle_timeout must be 0'):
        enclave.open_sandbox(idle_timeout=-4)


def test_what_is_wrong_is_refused_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv('ENCLAVE_URL', raising=False)
    with pytest.raises(ConfigurationError, match="did you mean 'memory_limit'"):
        enclave.open_sandbox('docker', memory_limits='1g')  # type: ignore[call-overload]
    with pytest.raises(NotRegisteredError, match="did you mean 'docker'"):
        enclave.open_sandbox('dokcer')
    with pytest.raises(ConfigurationError, match='url must be the address of a server'):
        enclave.open_sandbox(url=8000)  # type: ignore[call-overload]
    with pytest.raises(ConfigurationError, match='there is none'):
        enclave.open_sandbox(api_key='secret')
    with pytest.raises(ServerUnavailableError):
        enclave.open_sandbox(url='127.0.0.1:9')


@pytest.mark.bubblewrap
def test_a_wrong_key_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv('ENCLAVE_API_KEY', raising=False)
    server = create_server(api_key=KEY, sandbox_type='bubblewrap')
    try:
        with pytest.raises(AuthenticationError):
            enclave.run_code('print(1)', url=server.start(port=0), api_key='another-key-altogether')
    finally:
        server.stop()


def test_the_keywords_are_the_options_of_the_kinds() -> None:
    kinds = (
        SandboxConfig,
        DockerSandboxConfig,
        DockerNotebookConfig,
        BubblewrapSandboxConfig,
        BubblewrapNotebookConfig,
    )
    options = {each.name for kind in kinds for each in attrs.fields(kind)}

    assert set(SandboxOptions.__annotations__) == options
    assert set(ProgramOptions.__annotations__) == options - {'timeout', 'command'}


def test_the_keywords_of_managers_and_programs_are_those_that_they_take() -> None:
    assert set(ManagerOptions.__annotations__) == {each.name for each in attrs.fields(SandboxManagerConfig)}
    assert set(CodeOptions.__annotations__) == {each.name for each in attrs.fields(CodeRequest)} - {'code', 'language'}
    taken = inspect.signature(FullSandbox.execute_command).parameters
    assert set(CommandOptions.__annotations__) == set(taken) - {'self', 'command', 'timeout'}
    taken = inspect.signature(FullSandbox.run_script).parameters
    assert set(ScriptOptions.__annotations__) == set(taken) - {'self', 'interpreter', 'source', 'timeout'}
