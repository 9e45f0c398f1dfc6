"""The proxies over real sandboxes: what fakes cannot show."""

from __future__ import annotations

import asyncio
import contextlib
import io
import threading
import time
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any

import pytest

from enclave import aio
from enclave.cancellation import until_cancelled
from enclave.enums import ExecutionStatus
from enclave.sandboxes.verbs import _tar_directory
from tests.support.aio import PATIENCE, until
from tests.support.server import serving
from tests.support.transfers import UPLOADS, TransferGate

pytestmark = pytest.mark.docker

MIB = 1 << 20
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


# Transfers ------------------------------------------------------------------------------------------------------------

SIZES = [3 * MIB, 9 * MIB]
PLACES = ['here', 'at a server']


@contextlib.asynccontextmanager
async def running(place: str) -> AsyncIterator[Any]:
    """A sandbox of this process, or one of a server that is reached over HTTP."""
    if place == 'here':
        async with aio.SandboxFactory.create_sandbox('docker', OPTIONS) as sandbox:
            yield sandbox
        return
    with serving() as server:
        async with aio.HttpSandboxManager(base_url=server.url) as manager, manager.open('docker', OPTIONS) as sandbox:
            yield sandbox


async def until_idle(sandbox: Any) -> None:
    give_up_at = time.monotonic() + PATIENCE
    while (await sandbox.get_info()).active_calls:
        assert time.monotonic() < give_up_at, 'something continues'


async def cancel_midway(call: Coroutine[Any, Any, Any], under_way: threading.Event) -> None:
    task = asyncio.ensure_future(call)
    await until(under_way.is_set)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize('verb', ['get_file', 'get_archive', 'get_dir'])
@pytest.mark.parametrize('place', PLACES)
def test_a_cancelled_download_leaves_nothing_and_ends_on_both_sides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, verb: str, size: int
) -> None:
    gate = TransferGate()

    async def main() -> None:
        async with running(place) as sandbox:
            await sandbox.write_file('tree/b', bytes(size))
            await sandbox.write_file('tree/a', bytes(size))
            blocking = sandbox._blocking
            for reader in ('read_chunks', 'read_archive'):
                monkeypatch.setattr(blocking, reader, gate.hold(getattr(blocking, reader)))
            source = 'tree/a' if verb == 'get_file' else 'tree'

            await cancel_midway(getattr(sandbox, verb)(source, tmp_path / 'target'), gate.under_way)

            await until_idle(sandbox)
            left = [path.name for path in tmp_path.rglob('*') if path.is_file()]
            assert left == [] or (verb == 'get_dir' and len(left) == 1)
            assert gate.was_cancelled.is_set()

    asyncio.run(main())


@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize('kind', ['path', 'bytes', 'file object', 'iterable'])
@pytest.mark.parametrize('place', PLACES)
def test_a_cancelled_upload_leaves_nothing_and_ends_on_both_sides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, kind: str, size: int
) -> None:
    gate = TransferGate()
    (tmp_path / 'source').write_bytes(bytes(size))
    sources: dict[str, Any] = {
        'path': tmp_path / 'source',
        'bytes': bytes(size),
        'file object': io.BytesIO(bytes(size)),
        'iterable': iter([bytes(MIB)] * (size // MIB)),
    }

    async def main() -> None:
        async with running(place) as sandbox:
            for name in UPLOADS:  # at a server it is what the server does that is held
                monkeypatch.setattr(name, gate.hold(until_cancelled))

            await cancel_midway(sandbox.put_file(sources[kind], 'target'), gate.under_way)

            await until_idle(sandbox)
            assert await sandbox.list_dir() == []
            assert gate.was_cancelled.is_set()

    asyncio.run(main())


@pytest.mark.parametrize('verb', ['put_dir', 'put_archive'])
@pytest.mark.parametrize('place', PLACES)
def test_a_cancelled_put_of_a_tree_ends_on_both_sides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, verb: str
) -> None:
    gate = TransferGate()
    for name in 'abc':
        (tmp_path / name).write_bytes(bytes(9 * MIB))
    source: Any = tmp_path if verb == 'put_dir' else b''.join(_tar_directory(tmp_path))

    async def main() -> None:
        async with running(place) as sandbox:
            monkeypatch.setattr(UPLOADS[0], gate.hold(until_cancelled))

            await cancel_midway(getattr(sandbox, verb)(source, 'target'), gate.under_way)

            await until_idle(sandbox)
            assert not await sandbox.path_exists('target/c')
            assert gate.was_cancelled.is_set()

    asyncio.run(main())


def test_an_upload_that_is_cancelled_before_it_has_come_to_the_server_never_begins() -> None:
    gate = TransferGate()

    async def main() -> None:
        async with running('at a server') as sandbox:
            pieces = gate.held([bytes(MIB)] * 3)

            await cancel_midway(sandbox.put_file(pieces, 'target'), gate.under_way)

            await until_idle(sandbox)
            assert await sandbox.list_dir() == []

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
