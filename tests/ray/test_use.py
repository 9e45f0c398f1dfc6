"""What sandboxes on two nodes of a cluster can do, with the shards of one manager."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import json
import os
import subprocess
import sys
import threading
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from enclave.cancellation import Cancellation
from enclave.enums import SandboxStatus
from enclave.errors import CallCancelledError, EnclaveError, PoolExhaustedError, SandboxStateError
from enclave.managers.http import HttpSandboxManager
from enclave.sandboxes.notebook.sandbox import NotebookSandbox
from enclave.server.serve import SandboxServer
from tests.support.host import is_running, wait_until
from tests.support.ray import on_ray, two_nodes

pytestmark = [pytest.mark.ray, pytest.mark.bubblewrap]
PATIENCE = 120.0
TOOLS = ['shell_executor', 'python_executor', 'file_operation']
MIB = 1 << 20


@pytest.fixture(scope='module')
def manager() -> Iterator[Any]:
    with on_ray(sandbox_type='bubblewrap', min_shards=2, shard_size=16, sandbox_config={'tools_config': TOOLS}) as made:
        yield made


@pytest.fixture
def sandbox(manager: Any) -> Iterator[Any]:
    with manager.open() as made:
        yield made


def test_shards_are_spread_over_the_nodes_and_so_are_sandboxes(manager: Any) -> None:
    made = [manager.create_sandbox() for _ in range(4)]

    shards = manager.get_stats()['shards']
    assert len({each['node_id'] for each in shards.values()}) == 2
    assert {each.rpartition('-')[2] for each in made} == set(shards)
    for each in made:
        manager.delete_sandbox(each)


def test_a_process_streams_both_ways(sandbox: Any) -> None:
    process = sandbox.start_process(['cat'], open_stdin=True)
    assert process.write(b'there ')
    assert process.write(b'and back')
    process.close_stdin()

    assert process.wait(PATIENCE).stdout == 'there and back'


def test_a_call_that_is_cancelled_ends_and_so_does_what_it_ran(manager: Any, sandbox: Any) -> None:
    cancellation = Cancellation()
    ended: list[Any] = []

    def call() -> None:
        with cancellation.applied():
            try:
                ended.append(manager.execute_command(sandbox.id, 'touch begun; sleep 1000.5'))
            except CallCancelledError as error:
                ended.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    assert wait_until(lambda: _exists(sandbox, 'begun'), PATIENCE)
    cancellation.cancel()
    thread.join(PATIENCE)

    assert len(ended) == 1
    assert isinstance(ended[0], CallCancelledError) or ended[0].status == 'cancelled'
    assert wait_until(lambda: '1000.5' not in sandbox.execute_command('cat /proc/[0-9]*/cmdline').stdout, PATIENCE)


def _exists(sandbox: Any, path: str) -> bool:
    try:
        sandbox.stat_path(path)
    except (EnclaveError, OSError):
        return False
    return True


def test_much_goes_in_and_out_and_a_shard_does_not_grow_by_it(manager: Any, sandbox: Any) -> None:
    pid = manager.get_stats()['shards'][sandbox.id.rpartition('-')[2]]['pid']
    sandbox.write_file('warm', b'x' * MIB)
    before = _resident(pid)
    piece = os.urandom(MIB)
    digest = hashlib.sha256(piece * 192).hexdigest()

    sandbox.put_file((piece for _ in range(192)), 'large')
    found = hashlib.sha256()
    for chunk in sandbox.read_chunks('large'):
        found.update(chunk)

    assert found.hexdigest() == digest
    assert sandbox.execute_command('sha256sum large', 600).stdout.split()[0] == digest
    assert _resident(pid) - before < 96 * MIB


def _resident(pid: int) -> int:
    return int(Path(f'/proc/{pid}/statm').read_text().split()[1]) * os.sysconf('SC_PAGE_SIZE')


def test_a_sandbox_is_paused_and_continues(manager: Any, sandbox: Any) -> None:
    process = sandbox.start_process(['cat'], open_stdin=True)
    process.wait_started(PATIENCE)

    manager.pause_sandbox(sandbox.id)
    was = manager.get_sandbox_info(sandbox.id).status
    with pytest.raises(SandboxStateError, match=r'is paused.*resume'):
        manager.execute_command(sandbox.id, 'true')
    manager.resume_sandbox(sandbox.id)
    process.write(b'still there')
    process.close_stdin()

    assert was is SandboxStatus.PAUSED
    assert process.wait(PATIENCE).stdout == 'still there'


def test_directories_of_this_machine_go_in_and_come_out(manager: Any, sandbox: Any, tmp_path: Path) -> None:
    (tmp_path / 'tree/deep').mkdir(parents=True)
    (tmp_path / 'tree/deep/file').write_bytes(b'mine')

    manager.put_dir(sandbox.id, tmp_path / 'tree', 'inside')
    manager.get_dir(sandbox.id, 'inside', tmp_path / 'again')

    assert (tmp_path / 'again/deep/file').read_bytes() == b'mine'


def test_a_port_inside_is_reached_through_the_shard(sandbox: Any) -> None:
    sandbox.write_file('page/hello', 'hello from inside')
    sandbox.start_process(['python3', '-m', 'http.server', '8123', '--bind', '127.0.0.1'], cwd='page')
    sandbox.wait_for_port(8123, PATIENCE)

    with sandbox.forward_port(8123) as forward:
        assert urllib.request.urlopen(f'{forward.url}/hello', timeout=PATIENCE).read() == b'hello from inside'
    with pytest.raises(OSError, match='8124'):
        sandbox.connect_port(8124)


def test_cells_run_in_a_notebook(manager: Any) -> None:
    pytest.importorskip('ipykernel')
    with manager.open('bubblewrap_notebook') as notebook:
        assert isinstance(notebook, NotebookSandbox)
        notebook.execute_cell('x = 20')
        seen: list[Any] = []
        result = notebook.execute_cell('print(x + 1)\nx + 2', on_output=seen.append)

        assert result.text.splitlines() == ['21', '22']
        assert any('21' in str(each) for each in seen)


def test_a_pool_spans_the_nodes_and_its_programs_run_once_each(manager: Any) -> None:
    manager.initialize_pool(4, name='programs')
    with manager.run_many((f'print({n} * {n})' for n in range(40)), pool='programs') as outcomes:
        found = {each.index: each.unwrap().stdout.strip() for each in outcomes}

    assert found == {n: str(n * n) for n in range(40)}
    with manager.lease(pool='programs') as first, manager.lease(pool='programs') as second:
        assert first.id.rpartition('-')[2] != second.id.rpartition('-')[2]
    held = [manager.acquire_sandbox(PATIENCE, pool='programs') for _ in range(4)]
    with pytest.raises(PoolExhaustedError):
        manager.acquire_sandbox(0.1, pool='programs')
    for each in held:
        manager.release_sandbox(each)


def test_a_server_may_stand_before_a_cluster_and_its_policy_holds(manager: Any) -> None:
    with on_ray(sandbox_type='bubblewrap', min_shards=1, shard_size=4) as behind:
        server = SandboxServer(manager=behind, stop_grace=0.0)
        with server.running() as url, HttpSandboxManager(base_url=url) as client, client.open() as sandbox:
            assert sandbox.execute_command('echo hello').stdout == 'hello\n'
            sandbox.write_file('a', b'bytes')
            assert sandbox.read_file('a') == b'bytes'
            with pytest.raises(PermissionError, match='mounts'):
                client.create_sandbox(config={'volumes': {'/': {'bind': '/host', 'mode': 'ro'}}})


def test_many_creations_and_deletions_leave_nothing(manager: Any) -> None:
    sandboxes, remembered = manager.get_stats()['total_sandboxes'], len(manager._seen)
    make_and_delete(manager, 150)  # after which caches of a fixed size are full
    before = objects_of(manager)

    make_and_delete(manager, 120)

    for now, former in zip(objects_of(manager), before, strict=True):
        assert not {name: count for name, count in (now - former).items() if count >= 40}
    assert manager.get_stats()['total_sandboxes'] == sandboxes
    assert (len(manager._seen), manager._places) == (remembered, {})


def make_and_delete(manager: Any, count: int) -> None:
    for _ in range(count):
        manager.delete_sandbox(manager.create_sandbox())


def objects_of(manager: Any) -> list[Counter[str]]:
    """Return how many objects of each type each shard has; a context is each thread's own, however many there are."""
    import ray

    def look(_: Any) -> Counter[str]:
        import collections
        import gc

        gc.collect()
        found = collections.Counter(f'{type(each).__module__}.{type(each).__qualname__}' for each in gc.get_objects())
        found.pop('_contextvars.Context', None)
        return found

    counts: list[Counter[str]] = ray.get(
        [shard.handle.__ray_call__.remote(look) for shard in manager._shards.up()], timeout=PATIENCE
    )
    return counts


def test_an_actor_of_another_program_finds_the_shards_by_name() -> None:
    import ray

    with on_ray(sandbox_type='bubblewrap', name='rewards', min_shards=1) as owner:
        made = owner.create_sandbox()
        owner.initialize_pool(2, name='scores')

        @ray.remote(num_cpus=0)
        def score(sandbox_id: str) -> tuple[str, str]:
            from enclave.ray.manager import RaySandboxManager

            with RaySandboxManager(name='rewards', attach=True) as manager:
                first = manager.execute_command(sandbox_id, 'echo found').stdout
                second = manager.run_code_in_pool('print(6 * 7)', pool='scores').stdout
            return first, second

        assert ray.get(score.remote(made), timeout=PATIENCE) == ('found\n', '42\n')
        assert owner.execute_command(made, 'echo still here').stdout == 'still here\n'


def test_asynchronous_programs_have_it_too() -> None:
    from enclave import aio

    two_nodes()

    async def use() -> str:
        async with aio.RaySandboxManager(sandbox_type='bubblewrap', num_cpus=0.5, max_shards=1) as manager:
            made = await manager.create_sandbox()
            return (await manager.execute_command(made, 'echo awaited')).stdout

    assert asyncio.run(use()) == 'awaited\n'


def test_a_manager_that_was_forgotten_is_found_out_and_its_shards_end() -> None:
    from enclave.ray.manager import RaySandboxManager

    two_nodes()

    def forget() -> int:
        manager = RaySandboxManager(sandbox_type='bubblewrap', num_cpus=0.5, max_shards=1)
        manager.create_sandbox()
        (shard,) = manager.get_stats()['shards'].values()
        return int(shard['pid'])

    def is_found_out() -> bool:
        pid = forget()
        return wait_until(lambda: gc.collect() >= 0 and not is_running(pid), PATIENCE)

    with pytest.warns(ResourceWarning, match='forgotten'):
        assert is_found_out()


def test_the_command_line_serves_shards_and_works_with_them_by_name(tmp_path: Path) -> None:
    address = two_nodes().address
    options = tmp_path / 'shards.json'
    options.write_text(json.dumps({'address': address, 'name': 'by-command', 'num_cpus': 0.5, 'max_shards': 1}))
    command = [sys.executable, '-m', 'enclave.cli.main']
    serve = [
        *command,
        'server',
        '--manager',
        'ray',
        '--ray-options',
        str(options),
        '--type',
        'bubblewrap',
        '--port',
        '0',
        '--json',
    ]
    server = subprocess.Popen(serve, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        url = json.loads(server.stdout.readline())['url']
        with HttpSandboxManager(base_url=url) as client:
            made = client.create_sandbox()
            assert client.execute_command(made, 'echo hello').stdout == 'hello\n'

            environment = {**os.environ, 'RAY_ADDRESS': address}
            listed = subprocess.run(
                [*command, 'ps', '--url', 'ray:by-command', '--json'],
                env=environment,
                capture_output=True,
                text=True,
                check=True,
            )

            assert made in listed.stdout
    finally:
        server.terminate()
        server.communicate(timeout=PATIENCE)


def test_metrics_of_shards_are_ray_s_own(manager: Any) -> None:
    import ray

    wanted = {'ray_enclave_shard_sandboxes', 'ray_enclave_shards'}
    ports = [node['MetricsExportPort'] for node in ray.nodes() if node['Alive']]

    def seen() -> bool:
        text = ''
        for port in ports:
            with urllib.request.urlopen(
                f'http://{ray.util.get_node_ip_address()}:{port}/metrics', timeout=30
            ) as answer:
                text += answer.read().decode()
        return all(name in text for name in wanted)

    assert wait_until(lambda: _safely(seen), PATIENCE)


def _safely(look: Any) -> bool:
    try:
        return bool(look())
    except OSError:
        return False
