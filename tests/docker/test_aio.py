"""The faces over real sandboxes: what fakes cannot show."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from enclave import aio
from enclave.enums import ExecutionStatus
from tests.support.aio import PATIENCE, until

pytestmark = pytest.mark.docker

OPTIONS: dict[str, Any] = {'network_enabled': False, 'tools_config': ['python_executor', 'shell_executor']}


async def count(sandbox: Any, word: str) -> int:
    """Return how many programs in the sandbox are called that."""
    listed = await sandbox.execute_command('cat /proc/[0-9]*/comm')
    found: int = listed.stdout.split().count(word)
    return found


async def until_running(sandbox: Any, word: str, *, at_all: bool = True) -> None:
    give_up_at = time.monotonic() + PATIENCE
    while bool(await count(sandbox, word)) is not at_all:
        assert time.monotonic() < give_up_at


def test_cancelling_kills_the_program_with_its_children_and_leaves_the_sandbox() -> None:
    async def main() -> None:
        async with aio.SandboxFactory.create_sandbox('docker', OPTIONS) as sandbox:
            for call in (
                sandbox.execute_command('setsid sleep 1000 & sleep 1000'),
                sandbox.execute_tool('shell_executor', {'command': 'sleep 1000'}),
                sandbox.execute_tool('python_executor', {'code': "import os; os.system('sleep 1000')"}),
            ):
                task = asyncio.ensure_future(call)
                await until_running(sandbox, 'sleep')
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                await until_running(sandbox, 'sleep', at_all=False)
            assert (await sandbox.execute_tool('python_executor', {'code': 'print(1)'})).output == '1\n'

    asyncio.run(main())


def test_cancelling_the_wait_for_a_process_leaves_it_running_and_loses_nothing() -> None:
    async def main() -> None:
        async with aio.SandboxFactory.create_sandbox('docker', OPTIONS) as sandbox:  # noqa: SIM117
            async with await sandbox.start_process(['cat'], open_stdin=True) as process:
                waiting = asyncio.ensure_future(process.wait())
                await asyncio.sleep(0.05)
                started = time.monotonic()
                waiting.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await waiting
                assert time.monotonic() - started < PATIENCE
                await process.write(b'still here')
                await process.close_stdin()
                assert [chunk.data async for chunk in process.chunks()] == [b'still here']
                assert process.result is not None
                assert process.result.status is ExecutionStatus.SUCCESS

    asyncio.run(main())


def test_a_process_ends_with_its_block() -> None:
    async def main() -> None:
        async with aio.SandboxFactory.create_sandbox('docker', OPTIONS) as sandbox:
            async with await sandbox.start_process('sleep 1000') as process:
                await process.wait_started()
            assert process.result is not None
            assert process.result.status is ExecutionStatus.CANCELLED
            await until_running(sandbox, 'sleep', at_all=False)

    asyncio.run(main())


def test_an_upload_that_is_cancelled_leaves_no_half_file() -> None:
    async def main() -> None:
        async with aio.SandboxFactory.create_sandbox('docker', OPTIONS) as sandbox:
            given = 0

            def endless() -> Any:
                nonlocal given
                while True:
                    given += 1
                    yield bytes(65536)

            task = asyncio.ensure_future(sandbox.write_file('big.bin', endless()))
            await until(lambda: given > 100)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert not await sandbox.path_exists('big.bin')

    asyncio.run(main())


def test_a_connection_into_a_sandbox_is_awaited() -> None:
    program = (
        'import socket; s = socket.create_server(("127.0.0.1", 7000)); c, _ = s.accept(); c.sendall(c.recv(99)[::-1])'
    )

    async def main() -> None:
        async with aio.SandboxFactory.create_sandbox('docker', OPTIONS) as sandbox:  # noqa: SIM117
            async with await sandbox.start_process(['python3', '-c', program]):
                give_up_at = time.monotonic() + PATIENCE
                while True:
                    try:
                        connection = await sandbox.connect_port(7000)
                        break
                    except OSError:
                        assert time.monotonic() < give_up_at
                async with connection:
                    await connection.sendall(b'abc')
                    assert await connection.recv() == b'cba'

    asyncio.run(main())
