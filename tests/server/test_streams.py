"""Programs and large files over HTTP, in real sandboxes."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from enclave.errors import InvalidArgumentError, NotFoundError, SandboxGoneError
from enclave.managers.http import HttpSandboxManager
from enclave.managers.remote import RemoteSandbox
from enclave.server.serve import SandboxServer
from tests.support.server import serving

pytestmark = pytest.mark.docker
PATIENCE = 120.0


@pytest.fixture(scope='module')
def server() -> Iterator[SandboxServer]:
    with serving(sandbox_config={'tools_config': ['shell_executor']}) as made:
        yield made


@pytest.fixture(scope='module')
def manager(server: SandboxServer) -> Iterator[HttpSandboxManager]:
    with HttpSandboxManager(base_url=server.url) as made:
        yield made


@pytest.fixture(scope='module')
def sandbox(manager: HttpSandboxManager) -> Iterator[RemoteSandbox]:
    with manager.open() as made:
        assert isinstance(made, RemoteSandbox)
        yield made


def lines(response: requests.Response) -> Iterator[dict[str, Any]]:
    for line in response.iter_lines(chunk_size=1):
        yield json.loads(line)


def test_output_comes_while_the_program_runs(sandbox: RemoteSandbox) -> None:
    with sandbox.start_process('echo first; read line; echo "got $line"; exit 3', open_stdin=True) as process:
        chunks = process.chunks(PATIENCE)
        assert next(chunks).text == 'first\n'
        assert process.write(b'answer\n')
        assert next(chunks).text == 'got answer\n'
        assert list(chunks) == []

    assert process.result is not None
    assert (process.result.exit_code, process.result.stdout) == (3, 'first\ngot answer\n')
    assert process.pid


def test_a_quick_programs_output_is_all_there(sandbox: RemoteSandbox) -> None:
    for number in range(10):
        assert sandbox.start_process(['echo', str(number)]).wait(PATIENCE).stdout == f'{number}\n'


def test_bytes_arrive_as_they_are(sandbox: RemoteSandbox) -> None:
    data = os.urandom(300_000)

    process = sandbox.start_process(['cat'], open_stdin=True)
    sender = threading.Thread(target=lambda: (process.write(data), process.close_stdin()))
    sender.start()
    got = b''.join(chunk.data for chunk in process.chunks(PATIENCE))
    sender.join(PATIENCE)

    assert got == data


def test_processes_are_signalled_and_killed(sandbox: RemoteSandbox) -> None:
    trapped = sandbox.start_process("trap 'echo caught; exit 7' INT; echo ready; while :; do sleep 0.05; done")
    chunks = trapped.chunks(PATIENCE)
    assert next(chunks).text == 'ready\n'
    trapped.send_signal('INT')
    assert trapped.wait(PATIENCE).exit_code == 7
    endless = sandbox.start_process(['sleep', '1000'])
    endless.kill()
    assert endless.wait(PATIENCE).status == 'cancelled'


def test_a_terminal(sandbox: RemoteSandbox) -> None:
    process = sandbox.start_process(['sh', '-c', 'stty size; read x; stty size'], tty=(20, 30))
    chunks = process.chunks(PATIENCE)
    assert '20 30' in next(chunks).text
    process.resize(40, 50)
    process.write(b'\n')

    assert '40 50' in ''.join(chunk.text for chunk in chunks)


def test_what_cannot_start_says_so_at_once(sandbox: RemoteSandbox) -> None:
    with pytest.raises(InvalidArgumentError, match='nowhere'):
        sandbox.start_process('true', cwd='/nowhere')


def test_a_broken_stream_is_taken_up_again(server: SandboxServer, sandbox: RemoteSandbox) -> None:
    path = f'{server.url}{sandbox.path}'
    body = {'command': 'echo one; read x; echo two', 'open_stdin': True}
    with requests.post(f'{path}/stream', json=body, stream=True, timeout=PATIENCE) as response:
        events = lines(response)
        started, one = next(events), next(events)
    process = f'{path}/processes/{started["process_id"]}'

    requests.post(f'{process}/input?eof=true', data=b'\n', timeout=PATIENCE)
    with requests.get(f'{process}/events?after={one["seq"]}', stream=True, timeout=PATIENCE) as response:
        rest = [event for event in lines(response) if event['event'] != 'alive']

    assert (one['text'], [event['event'] for event in rest]) == ('one\n', ['stdout', 'end'])
    assert rest[0]['text'] == 'two\n'
    assert [event['seq'] for event in rest] == [3, 4]


def test_the_client_takes_up_a_broken_stream_by_itself(server: SandboxServer, sandbox: RemoteSandbox) -> None:
    with sandbox.start_process('for n in 1 2 3; do read x; echo $n; done', open_stdin=True) as process:
        chunks = process.chunks(PATIENCE)
        process.write(b'\n')
        assert next(chunks).text == '1\n'
        for channel in list(server._waitress.active_channels.values()):
            channel.socket.shutdown(2)
        process.write(b'\n\n')

        assert ''.join(chunk.text for chunk in chunks) == '2\n3\n'


def test_server_sent_events(server: SandboxServer, sandbox: RemoteSandbox) -> None:
    headers = {'Accept': 'text/event-stream'}

    answer = requests.post(
        f'{server.url}{sandbox.path}/stream', json={'command': 'echo hi'}, headers=headers, timeout=PATIENCE
    )

    assert answer.headers['Content-Type'].startswith('text/event-stream')
    blocks = answer.text.strip().split('\n\n')
    assert [block.split('\n')[0] for block in blocks] == ['id: 1', 'id: 2', 'id: 3']
    process_id = json.loads(blocks[0].split('data: ')[1])['process_id']
    again = requests.get(
        f'{server.url}{sandbox.path}/processes/{process_id}/events',
        headers={**headers, 'Last-Event-ID': '2'},
        timeout=PATIENCE,
    )
    assert again.text.startswith('id: 3\nevent: end\n')


def test_a_process_is_found_again_by_its_id(
    manager: HttpSandboxManager, sandbox: RemoteSandbox, server: SandboxServer
) -> None:
    info = requests.post(
        f'{server.url}{sandbox.path}/processes', json={'command': 'echo mine'}, timeout=PATIENCE
    ).json()

    found = sandbox.find_process(info['id'])

    assert found.wait(PATIENCE).stdout == 'mine\n'
    with pytest.raises(NotFoundError):
        sandbox.find_process('nobody')


def test_the_loss_of_a_sandbox_ends_its_streams(manager: HttpSandboxManager) -> None:
    with manager.open() as sandbox:
        assert isinstance(sandbox, RemoteSandbox)
        process = sandbox.start_process(['sleep', '1000'])
        process.wait_started(PATIENCE)
        manager.delete_sandbox(sandbox.id)
        result = None
        with contextlib.suppress(SandboxGoneError, NotFoundError):
            result = process.wait(PATIENCE)
        assert result is None or not result.success


def test_large_files_go_up_and_down_as_they_are(sandbox: RemoteSandbox, tmp_path: Path) -> None:
    data = os.urandom(1 << 20) * 20
    (tmp_path / 'big').write_bytes(data)

    assert sandbox.put_file(tmp_path / 'big', '/sandbox/big') == len(data)
    assert sandbox.get_file('/sandbox/big', tmp_path / 'back') == len(data)

    assert (tmp_path / 'back').read_bytes() == data
    assert sandbox.read_file('/sandbox/big', offset=len(data) - 5) == data[-5:]
    assert sandbox.read_file('/proc/meminfo').startswith(b'MemTotal:')
    with pytest.raises(FileNotFoundError):
        sandbox.read_file('/sandbox/nope')


def test_cancelling_kills_what_runs(manager: HttpSandboxManager, sandbox: RemoteSandbox) -> None:
    future = manager.submit('execute_command', sandbox.id, 'echo $$ > pid; exec sleep 1000')
    pause = threading.Event()
    while not sandbox.path_exists('pid'):
        pause.wait(0.02)

    future.cancel()

    assert future.result(PATIENCE).status == 'cancelled'
    assert sandbox.execute_command('kill -0 $(cat pid)').exit_code != 0
