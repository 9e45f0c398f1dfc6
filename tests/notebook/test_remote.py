"""Notebooks of a server: broken connections, leases, the asynchronous proxies and the command line."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import enclave
from enclave import aio
from enclave.cancellation import Cancellation
from enclave.cells import CellResult
from enclave.cli.notebook import notebook
from enclave.cli.repl import repl
from enclave.deadline import Deadline
from enclave.enums import ExecutionStatus
from enclave.errors import ServerUnavailableError
from enclave.managers.base import SandboxManager
from enclave.managers.http import HttpSandboxManager
from enclave.managers.local import LocalSandboxManager
from enclave.managers.remote_notebook import RemoteNotebookSandbox
from enclave.sandboxes.notebook.sandbox import NotebookSandbox
from enclave.server.serve import SandboxServer
from tests.notebook.conftest import CONFIG
from tests.support.server import serving

pytestmark = pytest.mark.docker

PATIENCE = 120.0
WAIT_FOR_GO = "import os, time\nwhile not os.path.exists('/sandbox/go'): time.sleep(0.01)\nos.remove('/sandbox/go')\n"
ENDLESS = "print('on', flush=True)\nimport time\ntime.sleep(600)"


@pytest.fixture(scope='module')
def manager(server: SandboxServer) -> Iterator[HttpSandboxManager]:
    with HttpSandboxManager(base_url=server.url) as made:
        yield made


@pytest.fixture(scope='module')
def box(manager: HttpSandboxManager) -> Iterator[RemoteNotebookSandbox]:
    with manager.open('docker_notebook', CONFIG) as made:
        assert isinstance(made, RemoteNotebookSandbox)
        yield made


def wait_idle(sandbox: NotebookSandbox) -> None:
    """Return when nothing runs in the default kernel, without waiting in its queue."""
    pause, deadline = threading.Event(), Deadline.after(PATIENCE)
    while sandbox.list_kernels()[0].status == 'busy':
        deadline.check('the end of the cell')
        pause.wait(0.02)


def break_connections(server: SandboxServer) -> None:
    for channel in list(server._waitress.active_channels.values()):
        with contextlib.suppress(OSError):
            channel.socket.shutdown(2)


# What one gets --------------------------------------------------------------------------------------------------------


def test_a_notebook_is_known_by_what_it_offers(manager: HttpSandboxManager, box: RemoteNotebookSandbox) -> None:
    found = manager.get_sandbox(box.id)

    assert isinstance(found, RemoteNotebookSandbox)
    assert isinstance(found, enclave.NotebookSandbox)
    assert isinstance(found, enclave.RemoteSandbox)
    assert 'notebook' in found.offers
    assert manager.get_sandbox_info(box.id).offers == ['commands', 'files', 'notebook']
    assert repr(found) == f'<RemoteNotebookSandbox {box.id}>'
    found.execute_cell('seen = 1')
    assert box.execute_cell('seen').text == '1', 'both are the one sandbox of the server'


def test_a_cell_counts_as_use_of_its_sandbox(box: RemoteNotebookSandbox) -> None:
    steps = box.stream_cell(ENDLESS)
    next(steps)

    assert box.active_calls == 1
    steps.close()
    wait_idle(box)
    assert box.active_calls == 0


# Connections ----------------------------------------------------------------------------------------------------------


def test_a_broken_stream_is_taken_up_again_where_it_was(server: SandboxServer, box: RemoteNotebookSandbox) -> None:
    steps = box.stream_cell(f"for n in range(5): print(n, flush=True)\n{WAIT_FOR_GO}print('end')")
    outputs: list[Any] = [next(steps)]
    break_connections(server)
    outputs.append(next(steps))
    break_connections(server)
    box.write_file('/sandbox/go', b'')

    *rest, result = steps

    assert ''.join(each['text'] for each in [*outputs, *rest]) == '0\n1\n2\n3\n4\nend\n'
    assert isinstance(result, CellResult)
    assert result.success


def test_a_request_whose_connection_breaks_runs_its_cell_once(
    server: SandboxServer, box: RemoteNotebookSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    box.execute_cell('runs = 0')
    asked: list[str] = []
    transport = box._transport
    events = transport.events

    def lose_the_first(method: str, path: str, *args: Any, **kwargs: Any) -> Generator[Any, None, None]:
        asked.append(method)
        found = events(method, path, *args, **kwargs)
        if len(asked) == 1:
            next(found)  # the server has begun, but nothing of it arrives
            found.close()
            raise ServerUnavailableError('the connection broke')
        yield from found

    monkeypatch.setattr(transport, 'events', lose_the_first)

    *_, result = box.stream_cell('runs += 1\nruns')

    assert asked == ['POST', 'POST']
    assert isinstance(result, CellResult)
    assert result.text == '1'


def test_cancelling_that_overtakes_its_cell_reaches_it(
    box: RemoteNotebookSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    cancellation, reported = Cancellation(), threading.Event()
    transport = box._transport
    events, later = transport.events, transport.later

    def report(action: Callable[[], None]) -> None:
        def act() -> None:
            try:
                action()
            finally:
                reported.set()

        later(act)

    def cancel_first(*args: Any, **kwargs: Any) -> Generator[Any, None, None]:
        if not cancellation.is_cancelled:
            cancellation.cancel()
            assert reported.wait(PATIENCE)
        yield from events(*args, **kwargs)

    monkeypatch.setattr(transport, 'events', cancel_first)
    monkeypatch.setattr(transport, 'later', report)

    with cancellation.applied():
        *_, result = box.stream_cell('import time\ntime.sleep(600)')

    assert isinstance(result, CellResult)
    assert result.status is ExecutionStatus.CANCELLED


# Pools ----------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def local(**options: Any) -> Iterator[SandboxManager]:
    with LocalSandboxManager(**options) as manager:
        yield manager


@contextlib.contextmanager
def over_http(**options: Any) -> Iterator[SandboxManager]:
    with serving(**options) as server, HttpSandboxManager(base_url=server.url) as manager:
        yield manager


@pytest.mark.parametrize('managed', [local, over_http])
@pytest.mark.parametrize(('policy', 'found'), [('reuse', 'True'), ('fresh', 'False')])
def test_a_lease_gives_a_notebook_whose_kernels_stay_as_files_do(
    managed: Callable[..., contextlib.AbstractContextManager[SandboxManager]], policy: str, found: str
) -> None:
    with managed(pool_policy=policy) as manager:
        manager.initialize_pool(1, 'docker_notebook', CONFIG)

        with manager.lease(PATIENCE) as first:
            assert isinstance(first, NotebookSandbox)
            first.execute_cell('kept = 1')
            first.create_kernel('mine')
        with manager.lease(PATIENCE) as second:
            assert isinstance(second, NotebookSandbox)
            assert second.execute_cell("'kept' in globals()").text == found
            names = [info.name for info in second.list_kernels()]

    assert names == (['default', 'mine'] if policy == 'reuse' else ['default'])


# asynchronous proxies ---------------------------------------------------------------------------------------------------


def test_the_verbs_are_awaited(server: SandboxServer, box: RemoteNotebookSandbox) -> None:
    async def main() -> None:
        async with aio.HttpSandboxManager(base_url=server.url) as manager:
            proxy: Any = await manager.get_sandbox(box.id)
            assert isinstance(proxy, aio.RemoteNotebookSandbox)
            assert isinstance(proxy, aio.NotebookSandbox)
            assert proxy.status == 'running'
            assert (await proxy.execute_cell('a = 20\na + 1')).text == '21'
            steps = [step async for step in proxy.stream_cell("print('one', flush=True)\nprint('two')")]
            assert ''.join(step['text'] for step in steps[:-1]) == 'one\ntwo\n'
            await proxy.create_kernel('aside')
            assert [info.name for info in await proxy.list_kernels()] == ['default', 'aside']
            await proxy.interrupt_kernel('aside')
            await proxy.restart_kernel('aside')
            await proxy.delete_kernel('aside')
            assert 'python3' in [spec.name for spec in await proxy.list_kernel_specs()]
            assert 'a' in [each.name for each in await proxy.list_variables(timeout=PATIENCE)]
            assert (await proxy.complete_code('pri', timeout=PATIENCE)).matches
            assert (await proxy.inspect_code('print', timeout=PATIENCE)).found
            assert await proxy.check_complete('for x in y:', timeout=PATIENCE) == ('incomplete', '    ')

    asyncio.run(main())


def test_cancelling_an_await_or_leaving_the_loop_interrupts_the_cell(
    server: SandboxServer, box: RemoteNotebookSandbox
) -> None:
    async def main() -> None:
        async with aio.HttpSandboxManager(base_url=server.url) as manager:
            proxy: Any = await manager.get_sandbox(box.id)
            await proxy.execute_cell('held = 1')
            started = asyncio.Event()
            loop = asyncio.get_running_loop()

            def on_output(_: Any) -> None:
                loop.call_soon_threadsafe(started.set)

            task = asyncio.ensure_future(proxy.execute_cell(ENDLESS, on_output=on_output))
            await asyncio.wait_for(started.wait(), PATIENCE)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert (await proxy.execute_cell('held')).text == '1'

            async for output in proxy.stream_cell(ENDLESS):
                assert output['text'] == 'on\n'
                break
            assert (await proxy.execute_cell('held')).text == '1'

            async def follow() -> None:
                async for _ in proxy.stream_cell(ENDLESS):
                    started.set()

            started.clear()
            task = asyncio.ensure_future(follow())
            await asyncio.wait_for(started.wait(), PATIENCE)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert (await proxy.execute_cell('held')).text == '1'

    asyncio.run(main())


def test_a_document_runs_in_a_face(server: SandboxServer, box: RemoteNotebookSandbox) -> None:
    pytest.importorskip('nbformat')

    async def main() -> list[CellResult]:
        async with aio.HttpSandboxManager(base_url=server.url) as manager:
            document = aio.NotebookDocument()
            await document.add('5 + 5')
            return await document.run(await manager.get_sandbox(box.id))  # type: ignore[arg-type]

    assert asyncio.run(main())[0].text == '10'


# The command line -----------------------------------------------------------------------------------------------------


def test_the_command_line_runs_a_notebook_on_a_server(
    server: SandboxServer, manager: HttpSandboxManager, tmp_path: Path
) -> None:
    nbformat = pytest.importorskip('nbformat')
    from enclave.sandboxes.notebook.document import NotebookDocument

    source, done = tmp_path / 'study.ipynb', tmp_path / 'done.ipynb'
    document = NotebookDocument()
    document.add('x = 20')
    document.add('x + 1')
    document.save(source)
    before = {info.id for info in manager.list_sandboxes()}

    result = CliRunner().invoke(notebook, ['run', str(source), '-o', str(done), '--no-network', '--url', server.url])

    assert result.exit_code == 0, result.output
    assert '21\n' in result.stdout
    node = nbformat.read(done, as_version=4)
    assert node.cells[1].outputs[0].data['text/plain'] == '21'
    assert node.metadata['kernelspec']['language'] == 'python'
    assert {info.id for info in manager.list_sandboxes()} == before, 'it is gone from the server'


def test_the_repl_has_every_verb_on_a_server(server: SandboxServer, tmp_path: Path) -> None:
    typed = (
        'x = 40\nfor n in (1, 2):\n    print(n)\n\nx + 2\n:vars\n1/0\n:restart\n"x" in globals()\n'
        f':save {tmp_path / "s.ipynb"}\n:quit\n'
    )

    result = CliRunner().invoke(repl, ['--no-network', '--url', server.url], input=typed)

    assert result.exit_code == 0, result.output
    assert '1\n2\n' in result.stdout
    assert 'Out[3]: 42' in result.stdout
    assert 'x: int = 40' in result.stdout
    assert 'ZeroDivisionError' in result.stderr
    assert 'Out[1]: False' in result.stdout
