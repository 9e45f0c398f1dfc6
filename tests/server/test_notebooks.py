"""Cells and kernels over a real socket: what every client gets, what nobody may, and clients that go away."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from click.testing import CliRunner

from enclave.cli.notebook import notebook
from enclave.cli.place import RemotePlace
from enclave.cli.repl import repl
from enclave.deadline import Deadline
from enclave.managers.http import HttpSandboxManager
from enclave.managers.remote import RemoteSandbox
from enclave.managers.remote_notebook import RemoteNotebookSandbox
from enclave.sandboxes.notebook.sandbox import NotebookSandbox
from enclave.server import live
from enclave.server.auth import ApiKey
from enclave.server.cells import LiveCell
from enclave.server.route import ROUTES
from enclave.server.serve import SandboxServer
from tests.server.conftest import CONFIG, Connect, Serve
from tests.support.server import serving
from tests.support.sockets import connected, read_head

PATIENCE = 120.0
CALLS = 2
ENDLESS = "print('on', flush=True)\nimport time\ntime.sleep(600)"
FLOOD = "while True: print('x' * 1000)"

# A body for each address that takes one.
BODIES: dict[str, Any] = {
    'execute_cell': {'code': '1'},
    'stream_cell': {'code': '1'},
    'create_kernel': {'name': 'other'},
    'complete_code': {'code': 'pri'},
    'inspect_code': {'code': 'print'},
    'check_complete': {'code': '1'},
    'list_variables': {},
}
ADDRESSES = sorted(name for name, route in ROUTES.items() if route.tag == 'notebooks')


@pytest.fixture(scope='module')
def server() -> Iterator[SandboxServer]:
    with serving(policy={'max_concurrent_calls': CALLS}) as made:
        yield made


@pytest.fixture(scope='module')
def box(server: SandboxServer) -> Iterator[RemoteNotebookSandbox]:
    with (
        HttpSandboxManager(base_url=server.url) as manager,
        manager.open('docker_notebook', {'network_enabled': False, 'interrupt_grace': 20}) as made,
    ):
        assert isinstance(made, RemoteNotebookSandbox)
        yield made


@pytest.fixture
def path(server: SandboxServer, box: RemoteNotebookSandbox) -> str:
    """The sandbox's address, with nothing running in its kernel."""
    wait_idle(box)
    return f'{server.url}{box.path}'


def wait_until(predicate: Any, what: str) -> None:
    pause, deadline = threading.Event(), Deadline.after(PATIENCE)
    while not predicate():
        deadline.check(what)
        pause.wait(0.01)


def wait_idle(box: RemoteNotebookSandbox) -> None:
    def is_idle() -> bool:
        (kernel,) = (info for info in box.list_kernels() if info.name == 'default')
        return kernel.status != 'busy' and not kernel.waiting

    wait_until(is_idle, 'the end of the cells')


def wait_busy(box: RemoteNotebookSandbox) -> None:
    wait_until(lambda: box.list_kernels()[0].status == 'busy', 'the start of the cell')


def post(url: str, body: Any, **options: Any) -> requests.Response:
    return requests.post(url, json=body, timeout=PATIENCE, **options)


def lines(response: requests.Response) -> Iterator[dict[str, Any]]:
    for line in response.iter_lines(chunk_size=1):
        yield json.loads(line)


def cell_of(server: SandboxServer, cell_id: str) -> LiveCell:
    """The server's own record of a cell."""
    assert server.service is not None
    found = [each for tenant in server.service.tenants() for each in tenant.cells._table.values() if each.id == cell_id]
    return found[0]


def pumps() -> set[str]:
    return {
        thread.name for thread in threading.enumerate() if thread.name.startswith(('enclave-producer', 'enclave-des'))
    }


# Cells ----------------------------------------------------------------------------------------------------------------


@pytest.mark.docker
def test_a_cell_to_its_end(path: str) -> None:
    answer = post(f'{path}/cells', {'code': 'print("hi")\n6 * 7'})

    assert answer.status_code == 200
    found = answer.json()
    assert (found['status'], found['text'], found['stdout']) == ('success', 'hi\n42', 'hi\n')
    assert [output['output_type'] for output in found['outputs']] == ['stream', 'execute_result']
    failed = post(f'{path}/cells', {'code': '1/0'}).json()
    assert (failed['status'], failed['error']['name']) == ('error', 'ZeroDivisionError')


@pytest.mark.docker
def test_a_stream_is_numbered_and_goes_on_after_any_of_its_events(path: str) -> None:
    answer = post(f'{path}/cells/stream', {'code': "print('a', flush=True)\n5"})

    assert answer.headers['Content-Type'] == 'application/x-ndjson'
    events = [json.loads(line) for line in answer.text.splitlines()]
    assert [event['seq'] for event in events] == [1, 2, 3, 4]
    assert [event['event'] for event in events] == ['started', 'output', 'output', 'end']
    assert events[0]['kernel'] == 'default'
    assert events[1]['output'] == {'output_type': 'stream', 'name': 'stdout', 'text': 'a\n'}
    assert events[3]['result']['text'] == 'a\n5'
    cell = f'{path}/cells/{events[0]["cell_id"]}'
    for seen in range(5):
        rest = requests.get(f'{cell}/events?after={seen}', timeout=PATIENCE) if seen < 4 else None
        assert rest is None or [json.loads(line) for line in rest.text.splitlines()] == events[seen:]
    beyond = requests.get(f'{cell}/events?after=9', timeout=PATIENCE)
    assert (beyond.status_code, beyond.json()['code']) == (400, 'invalid-argument')


@pytest.mark.docker
def test_server_sent_events(path: str) -> None:
    headers = {'Accept': 'text/event-stream'}

    answer = post(f'{path}/cells/stream', {'code': '5'}, headers=headers)

    assert answer.headers['Content-Type'].startswith('text/event-stream')
    blocks = answer.text.strip().split('\n\n')
    assert [block.split('\n')[:2] for block in blocks] == [
        ['id: 1', 'event: started'],
        ['id: 2', 'event: output'],
        ['id: 3', 'event: end'],
    ]
    cell_id = json.loads(blocks[0].split('data: ')[1])['cell_id']
    again = requests.get(f'{path}/cells/{cell_id}/events', headers={**headers, 'Last-Event-ID': '2'}, timeout=PATIENCE)
    assert again.text.startswith('id: 3\nevent: end\n')
    wrong = requests.get(f'{path}/cells/{cell_id}/events', headers={'Last-Event-ID': '²'}, timeout=PATIENCE)
    assert wrong.status_code == 400


@pytest.mark.docker
def test_the_same_request_under_the_same_id_runs_once(path: str) -> None:
    post(f'{path}/cells', {'code': 'runs = 0'})
    body = {'code': 'runs += 1\nruns', 'cell_id': 'given-by-me'}

    first, second = (post(f'{path}/cells/stream', body) for _ in range(2))

    assert first.text == second.text
    assert json.loads(first.text.splitlines()[-1])['result']['text'] == '1'
    other = post(f'{path}/cells/stream', {**body, 'code': '2'})
    assert (other.status_code, other.json()['code']) == (409, 'conflict')


@pytest.mark.docker
def test_a_repeat_of_a_whole_cell_gets_the_first_answer(path: str) -> None:
    post(f'{path}/cells', {'code': 'runs = 0'})
    headers = {'Idempotency-Key': 'a-key-of-mine'}

    first, second = (post(f'{path}/cells', {'code': 'runs += 1\nruns'}, headers=headers) for _ in range(2))

    assert (first.json()['text'], second.text) == ('1', first.text)
    assert second.headers['Idempotent-Replayed'] == 'true'


@pytest.mark.docker
def test_a_streamed_cell_is_interrupted_by_its_address(path: str) -> None:
    with post(f'{path}/cells/stream', {'code': ENDLESS}, stream=True) as response:
        events = lines(response)
        started, _ = next(events), next(events)
        stopped = requests.delete(f'{path}/cells/{started["cell_id"]}', timeout=PATIENCE)
        last = list(events)[-1]

    assert stopped.status_code == 200
    assert last['result']['status'] == 'cancelled'
    assert post(f'{path}/cells', {'code': '1 + 1'}).json()['text'] == '2'
    missing = requests.delete(f'{path}/cells/nobody-has-it', timeout=PATIENCE)
    assert (missing.status_code, missing.json()['details']['cell_id']) == (404, 'nobody-has-it')


@pytest.mark.docker
def test_a_whole_cell_is_cancelled_by_its_key(path: str, server: SandboxServer, box: RemoteNotebookSandbox) -> None:
    answers: list[requests.Response] = []
    headers = {'Idempotency-Key': 'to-be-cancelled'}
    thread = threading.Thread(target=lambda: answers.append(post(f'{path}/cells', {'code': ENDLESS}, headers=headers)))
    thread.start()
    wait_busy(box)

    assert post(f'{server.url}/calls/to-be-cancelled/cancel', None).json() == {'found': True}
    thread.join(PATIENCE)

    assert answers[0].json()['status'] == 'cancelled'


# Control --------------------------------------------------------------------------------------------------------------


@pytest.mark.docker
def test_control_never_waits_behind_what_runs(path: str, box: RemoteNotebookSandbox) -> None:
    answers: list[requests.Response] = []
    threads = [
        threading.Thread(target=lambda: answers.append(post(f'{path}/cells', {'code': ENDLESS}))) for _ in range(CALLS)
    ]
    for thread in threads:
        thread.start()
    wait_until(lambda: box.list_kernels()[0].waiting == CALLS - 1, 'the cells')

    full = post(f'{path}/cells', {'code': '1'})
    assert (full.status_code, full.json()['code']) == (429, 'too-many-requests')
    assert post(f'{path}/kernels/default/interrupt', None).status_code == 200
    wait_until(lambda: len(answers) == 1, 'the end of the interrupted cell')
    wait_busy(box)
    assert post(f'{path}/kernels/default/restart', None).status_code == 200
    for thread in threads:
        thread.join(PATIENCE)

    assert answers[0].json()['error']['name'] == 'KeyboardInterrupt'
    assert answers[1].json()['state_lost'] == 'was restarted'


@pytest.mark.docker
def test_a_deleted_kernels_cell_ends(path: str, box: RemoteNotebookSandbox) -> None:
    box.create_kernel('doomed')
    with post(f'{path}/cells/stream', {'code': ENDLESS, 'kernel': 'doomed'}, stream=True) as response:
        events = lines(response)
        assert next(events)['kernel'] == 'doomed'
        next(events)
        assert requests.delete(f'{path}/kernels/doomed', timeout=PATIENCE).status_code == 200
        last = list(events)[-1]

    assert last['event'] == 'error' or last['result']['status'] != 'success'
    assert [info.name for info in box.list_kernels()] == ['default']


# Clients that go away -------------------------------------------------------------------------------------------------


@pytest.mark.docker
def test_a_client_that_goes_away_interrupts_its_cell(
    path: str, server: SandboxServer, box: RemoteNotebookSandbox
) -> None:
    box.execute_cell('kept = 5')
    data = json.dumps({'code': ENDLESS}).encode()
    head = f'POST {box.path}/cells HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n'

    with connected(server.port) as connection:
        connection.sendall(f'{head}Content-Length: {len(data)}\r\n\r\n'.encode() + data)
        wait_busy(box)

    wait_idle(box)
    assert box.execute_cell('kept').text == '5'


CLIENT = """
import sys
from enclave import HttpSandboxManager
with HttpSandboxManager(base_url=sys.argv[1]) as manager:
    for step in manager.get_sandbox(sys.argv[2]).stream_cell(sys.argv[3]):
        print('got', flush=True)
"""


@pytest.mark.docker
@pytest.mark.parametrize('code', [ENDLESS, FLOOD])
def test_the_cell_of_a_client_that_is_killed_is_interrupted(
    path: str, server: SandboxServer, box: RemoteNotebookSandbox, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    monkeypatch.setattr(live, 'RESUME_SECONDS', 0.05)
    before = pumps()
    box.execute_cell('kept = 6')
    process = subprocess.Popen(
        [sys.executable, '-c', CLIENT, server.url, box.id, code], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == 'got\n'
    finally:
        process.kill()
        process.communicate(timeout=PATIENCE)

    wait_idle(box)
    if code == ENDLESS:  # a flood that is not taken off in time may cost the kernel
        assert box.execute_cell('kept').text == '6'
    assert box.execute_cell('1 + 1').text == '2'
    wait_until(lambda: pumps() <= before, 'the end of the threads')


@pytest.mark.docker
def test_a_flood_that_nobody_takes_stays_in_the_sandbox(
    path: str, server: SandboxServer, box: RemoteNotebookSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = json.dumps({'code': FLOOD, 'cell_id': 'a-flood-of-mine'}).encode()
    head = f'POST {box.path}/cells/stream HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n'
    before = pumps()

    with connected(server.port) as connection:
        connection.sendall(f'{head}Content-Length: {len(data)}\r\n\r\n'.encode() + data)
        read_head(connection)
        cell = cell_of(server, 'a-flood-of-mine')
        wait_until(lambda: cell._unread > live.UNREAD_BYTES // 2, 'the flood')
        most = cell.size
        assert post(f'{path}/kernels', {'name': 'beside'}).status_code == 200, 'others continue'
        monkeypatch.setattr(live, 'RESUME_SECONDS', 0.05)

    wait_idle(box)
    wait_until(lambda: pumps() <= before, 'the end of the threads')
    assert most < 16 << 20
    assert not cell.is_running
    box.delete_kernel('beside')


# What is refused ------------------------------------------------------------------------------------------------------


def ask(server: SandboxServer, name: str, sandbox_id: str, **options: Any) -> requests.Response:
    """Make the request that an address is for."""
    route = ROUTES[name]
    path = route.path.replace('<sandbox_id>', sandbox_id).replace('<kernel>', 'default')
    return requests.request(
        route.method,
        server.url + path.replace('<cell_id>', 'a-cell-of-mine'),
        json=BODIES.get(name),
        timeout=PATIENCE,
        **options,
    )


@pytest.mark.parametrize('name', ADDRESSES)
def test_who_may_not_use_the_tool_gets_in_by_no_other_entry(serve: Serve, connect: Connect, name: str) -> None:
    server = serve(policy={'tools': ('shell_executor', 'python_executor', 'file_operation')})
    sandbox_id = connect(server).create_sandbox('fake', CONFIG)

    answer = ask(server, name, sandbox_id)

    assert (answer.status_code, answer.json()['code']) == (403, 'policy')
    assert "'notebook_executor'" in answer.json()['message']


@pytest.mark.parametrize('name', ADDRESSES)
def test_a_sandbox_that_is_no_notebook_says_so(serve: Serve, connect: Connect, name: str) -> None:
    server = serve()
    sandbox_id = connect(server).create_sandbox('fake', CONFIG)

    answer = ask(server, name, sandbox_id)

    if '<cell_id>' in ROUTES[name].path:
        assert (answer.status_code, answer.json()['code']) == (404, 'not-found')
    else:
        assert (answer.status_code, answer.json()['code']) == (422, 'unsupported')
        assert sandbox_id in answer.json()['message']


@pytest.mark.parametrize('name', ADDRESSES)
def test_another_keys_sandbox_is_not_there(serve: Serve, connect: Connect, name: str) -> None:
    keys = [ApiKey(name=who, key=f'a-secret-of-{who}-and-more') for who in ('alice', 'bob')]
    server = serve(keys=keys)
    sandbox_id = connect(server, api_key=keys[0].key).create_sandbox('fake', CONFIG)

    answer = ask(server, name, sandbox_id, headers={'X-API-Key': keys[1].key})

    assert answer.status_code == 404
    assert ask(server, name, sandbox_id).status_code == 401


@pytest.mark.docker
def test_another_keys_cell_is_not_there(serve: Serve, connect: Connect) -> None:
    keys = [ApiKey(name=who, key=f'a-secret-of-{who}-and-more') for who in ('alice', 'bob')]
    server = serve(keys=keys)
    managers = [connect(server, api_key=key.key) for key in keys]
    config = {'network_enabled': False}
    boxes: list[Any] = [each.get_sandbox(each.create_sandbox('docker_notebook', config)) for each in managers]
    steps = boxes[0].stream_cell(ENDLESS)
    next(steps)
    assert server.service is not None
    (cell,) = server.service.tenant(keys[0]).cells.of(boxes[0].id)

    for owned in boxes:
        cells = f'{server.url}{owned.path}/cells/{cell.id}'
        headers = {'X-API-Key': keys[1].key}
        assert requests.get(f'{cells}/events', headers=headers, timeout=PATIENCE).status_code == 404
        assert requests.delete(cells, headers=headers, timeout=PATIENCE).status_code == 404

    assert cell.is_running
    steps.close()


@pytest.mark.parametrize(
    ('name', 'timeout', 'status'),
    [
        ('execute_cell', 0, 403),
        ('execute_cell', 11, 403),
        ('stream_cell', 0, 403),
        ('stream_cell', 11, 403),
        ('complete_code', 11, 403),
        ('list_variables', 11, 403),
        ('execute_cell', 10, 422),
        ('execute_cell', None, 422),
        ('stream_cell', 5, 422),
        ('complete_code', None, 422),
        ('complete_code', 0, 422),
    ],
)
def test_time_limits_are_the_policys(
    serve: Serve, connect: Connect, name: str, timeout: float | None, status: int
) -> None:
    server = serve(policy={'max_timeout': 10}, sandbox_config={**CONFIG, 'timeout': 5})
    sandbox_id = connect(server).create_sandbox('fake', {**CONFIG, 'timeout': 5})
    path = ROUTES[name].path.replace('<sandbox_id>', sandbox_id).replace('<kernel>', 'default')

    answer = post(server.url + path, {**BODIES[name], 'timeout': timeout})

    assert answer.status_code == status, 'what the policy lets through, the sandbox itself refuses here'


@pytest.mark.parametrize(('policy', 'seconds'), [({'max_timeout': 10}, 10.0), ({}, 0.0)])
def test_the_command_line_knows_how_long_a_server_lets_cells_run(
    serve: Serve, policy: dict[str, Any], seconds: float
) -> None:
    with RemotePlace(serve(policy=policy).url) as place:
        assert place.longest_timeout() == seconds


@pytest.mark.docker
def test_the_command_line_runs_a_notebook_where_time_is_limited(serve: Serve, tmp_path: Path) -> None:
    pytest.importorskip('nbformat')
    from enclave.sandboxes.notebook.document import NotebookDocument

    document = NotebookDocument()
    document.add('6 * 7')
    document.save(tmp_path / 'n.ipynb')
    server = serve(policy={'max_timeout': 20})
    where = ['--no-network', '--url', server.url]

    ran = CliRunner().invoke(notebook, ['run', str(tmp_path / 'n.ipynb'), *where])
    typed = CliRunner().invoke(repl, where, input='6 * 7\n')

    assert (ran.exit_code, ran.stdout) == (0, '42\n'), ran.output
    assert 'Out[1]: 42' in typed.stdout, typed.output


@pytest.mark.parametrize(
    ('name', 'body', 'message'),
    [
        ('execute_cell', {}, 'code is required'),
        ('execute_cell', {'code': 5}, 'code must be a string'),
        ('execute_cell', {'code': '1', 'cell_id': 'only-for-streams'}, "'cell_id'"),
        ('execute_cell', {'code': '1', 'timeout': -1}, 'timeout must be at least 0'),
        ('execute_cell', {'code': '1', 'timeout': '5'}, 'timeout must be a number'),
        ('execute_cell', {'code': '1', 'silent': 'yes'}, 'silent must be true or false'),
        ('execute_cell', {'code': '1', 'max_output_bytes': 0}, 'max_output_bytes'),
        ('execute_cell', {'code': '1', 'kernel': None}, 'kernel must be a string'),
        ('stream_cell', [], 'object'),
        ('stream_cell', {'code': '1', 'on_output': 1}, "'on_output'"),
        ('create_kernel', {'name': 'x', 'env': {'A': 1}}, "env['A']"),
        ('complete_code', {'code': '1', 'cursor': -1}, 'cursor must be at least 0'),
        ('inspect_code', {'code': '1', 'detail': 2}, 'detail must be at most 1'),
        ('check_complete', {'code': None}, 'code must be a string'),
        ('list_variables', {'timeout': [1]}, 'timeout'),
    ],
)
def test_wrong_bodies_are_refused(serve: Serve, connect: Connect, name: str, body: Any, message: str) -> None:
    server = serve()
    sandbox_id = connect(server).create_sandbox('fake', CONFIG)
    path = ROUTES[name].path.replace('<sandbox_id>', sandbox_id).replace('<kernel>', 'default')

    answer = post(server.url + path, body)

    assert (answer.status_code, answer.json()['code']) == (400, 'invalid-argument')
    assert message in answer.json()['message']


@pytest.mark.docker
@pytest.mark.parametrize(
    'where', ['cells', 'cells/stream', *(f'kernels/default/{each}' for each in ('complete', 'inspect', 'check'))]
)
def test_code_that_is_no_text_is_refused(path: str, where: str) -> None:
    answer = post(f'{path}/{where}', {'code': '\ud800'})

    assert (answer.status_code, answer.json()['code']) == (400, 'invalid-argument')
    assert 'lone surrogate' in answer.json()['message']


@pytest.mark.docker
@pytest.mark.parametrize('cell_id', ['short', 'x' * 65, '../../etc/passwd', 'new\nline-in-it'])
def test_ids_that_no_address_can_hold_are_refused(path: str, cell_id: str) -> None:
    answer = post(f'{path}/cells/stream', {'code': '1', 'cell_id': cell_id})

    assert (answer.status_code, answer.json()['code']) == (400, 'invalid-argument')


# Reply ----------------------------------------------------------------------------------------------------------------


@pytest.mark.docker
def test_audit_lines_name_the_kernel_and_nothing_that_was_sent(path: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, 'enclave.server.audit')

    post(f'{path}/cells', {'code': 'secret = 5'})
    post(f'{path}/kernels/default/interrupt', None)

    written = [json.loads(record.getMessage()) for record in caplog.records if record.name == 'enclave.server.audit']
    reported = {line['route']: line for line in written}
    assert reported['/sandbox/<sandbox_id>/cells']['kernel'] == 'default'
    assert reported['/sandbox/<sandbox_id>/kernels/<kernel>/interrupt']['kernel'] == 'default'
    assert 'secret' not in caplog.text


def test_a_client_of_an_older_server_gets_a_plain_sandbox(serve: Serve, connect: Connect) -> None:
    manager = connect(serve())
    sandbox_id = manager.create_sandbox('fake', CONFIG)

    found = manager.get_sandbox(sandbox_id)

    assert isinstance(found, RemoteSandbox)
    assert not isinstance(found, NotebookSandbox)
    assert manager.get_sandbox_info(sandbox_id).offers == ['commands', 'files']


def test_the_document_describes_the_lines_of_each_stream(serve: Serve) -> None:
    described = requests.get(f'{serve().url}/openapi.json', timeout=PATIENCE).json()

    content = described['paths']['/sandbox/{sandbox_id}/cells/stream']['post']['responses']['200']['content']
    assert 'CellEvent' in content['application/x-ndjson']['schema']['description']
    assert 'output' in described['components']['schemas']['CellEvent']['properties']
    assert 'pid' in described['components']['schemas']['ProcessEvent']['properties']
