"""SandboxFusion's addresses of a server, asked with plain HTTP as its users write it."""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from enclave.errors import ConfigurationError
from enclave.managers.http import HttpSandboxManager
from enclave.server.adapters.sandbox_fusion import SandboxFusionSettings, code_request
from enclave.server.policy import Policy
from enclave.server.serve import SandboxServer
from tests.support.server import serving

KEY = 'a-key-of-more-than-sixteen'
pytestmark = pytest.mark.bubblewrap


def coded(data: bytes) -> str:
    """Return bytes as they travel."""
    return base64.b64encode(data).decode()


@pytest.fixture(scope='module')
def server() -> Iterator[SandboxServer]:
    with serving(sandbox_type='bubblewrap', sandbox_fusion={'pool_size': 2}) as made:
        yield made


def ask(server: SandboxServer, path: str = '/run_code', **body: Any) -> Any:
    """Return what a request is answered with."""
    response = requests.post(server.url + path, json=body, timeout=120)
    assert response.status_code == 200, response.text
    return response.json()


def test_it_answers_a_ping(server: SandboxServer) -> None:
    assert requests.get(f'{server.url}/v1/ping', timeout=30).json() == 'pong'


def test_a_program_without_a_language_is_python(server: SandboxServer) -> None:
    answer = ask(server, code='print(1 + 1)')

    run = answer.pop('run_result')
    assert answer == {
        'status': 'Success',
        'message': '',
        'compile_result': None,
        'executor_pod_name': None,
        'files': {},
    }
    assert (run['status'], run['return_code'], run['stdout'], run['stderr']) == ('Finished', 0, '2\n', '')
    assert run['execution_time'] > 0


@pytest.mark.parametrize(
    ('body', 'status', 'run_status', 'return_code'),
    [
        ({'code': 'raise SystemExit(3)'}, 'Failed', 'Finished', 3),
        ({'code': 'import os; os.abort()'}, 'Failed', 'Finished', 134),
        ({'code': 'while True: pass', 'run_timeout': 0.5}, 'Failed', 'TimeLimitExceeded', None),
        ({'code': 'import time; time.sleep(60)', 'run_timeout': '0.5'}, 'Failed', 'TimeLimitExceeded', None),
        ({'code': 'x = b"x" * (300 << 20); print(len(x))', 'memory_limit_MB': 100}, 'Failed', 'Finished', 137),
        ({'code': 'echo hi', 'language': 'bash'}, 'Success', 'Finished', 0),
    ],
)
def test_each_end_has_the_words_that_its_clients_know(
    server: SandboxServer, body: dict[str, Any], status: str, run_status: str, return_code: int | None
) -> None:
    answer = ask(server, **body)

    assert answer['status'] == status
    assert (answer['run_result']['status'], answer['run_result']['return_code']) == (run_status, return_code)


def test_what_is_sent_is_read_leniently(server: SandboxServer) -> None:
    answer = ask(
        server,
        code='print(input(), open("deep/in.bin", "rb").read()); open("out", "wb").write(b"\\xff")',
        language='Python',
        stdin='hello',
        files={'deep/in.bin': coded(b'\0'), 'nothing': None, 'main.py': coded(b'overwritten')},
        fetch_files=['out', 'missing'],
        compile_timeout=None,
        run_timeout='5.5',
        memory_limit_MB=None,
        something_new={'a': 1},
    )

    assert answer['run_result']['stdout'] == "hello b'\\x00'\n"
    assert answer['files'] == {'out': coded(b'\xff')}
    assert "'missing' was not fetched: No such file" in answer['message']
    sent = requests.post(f'{server.url}/run_code', data='{"code": "print(5)"}', timeout=60)  # without a media type
    assert sent.json()['run_result']['stdout'] == '5\n'


def test_a_file_too_large_to_fetch_is_named(server: SandboxServer) -> None:
    answer = ask(server, code='open("large", "wb").truncate(1 << 30)', fetch_files=['large'])

    assert (answer['status'], answer['files']) == ('Success', {})
    assert "'large' was not fetched: " in answer['message']


@pytest.mark.parametrize(
    'body',
    [
        {},
        {'code': 5},
        {'code': 'x', 'language': 'klingon'},
        {'code': 'x', 'run_timeout': 'soon'},
        {'code': 'x', 'files': {'a': 'not base64!'}},
        {'code': 'x', 'files': {'../a': ''}},
        {'code': 'x', 'files': {'a/': ''}},
        {'code': 'x', 'files': {'a' * 256: ''}},
        {'code': 'x', 'files': 'a'},
        {'code': 'x', 'fetch_files': 'a'},
    ],
)
def test_what_cannot_be_meant_is_reported(server: SandboxServer, body: dict[str, Any]) -> None:
    response = requests.post(f'{server.url}/run_code', json=body, timeout=60)

    assert response.status_code == 422
    assert response.json()['detail']


@pytest.mark.parametrize('data', ['', '[]', 'nonsense', '"text"'])
def test_a_body_that_is_no_object_is_reported(server: SandboxServer, data: str) -> None:
    assert requests.post(f'{server.url}/run_code', data=data, timeout=60).status_code == 422


def test_a_toolchain_that_is_missing_is_no_verdict(server: SandboxServer) -> None:
    answer = ask(server, code='print(1)', language='swift')

    assert answer['status'] == 'SandboxError'
    assert 'swiftc' in answer['message']


def test_nothing_of_a_program_meets_the_next_one(server: SandboxServer) -> None:
    planting = (
        'import os, subprocess\n'
        'places = ["/tmp", "/var/tmp", "/dev/shm", "/sandbox", os.path.expanduser("~")]\n'
        'for place in places:\n'
        '    os.makedirs(place + "/planted/deep")\n'
        '    open(place + "/.planted", "w").write("x")\n'
        'subprocess.Popen(["sleep", "987"], start_new_session=True)\n'
    )
    looking = (
        'import glob, os\n'
        'places = ["/tmp", "/var/tmp", "/dev/shm", "/sandbox", os.path.expanduser("~")]\n'
        'print([name for place in places for name in os.listdir(place) if "planted" in name])\n'
        'print(sum(b"987" in open(path, "rb").read() for path in glob.glob("/proc/[0-9]*/cmdline")))\n'
    )
    for _ in range(4):
        ask(server, code=planting)
    seen = {ask(server, code=looking)['run_result']['stdout'] for _ in range(4)}

    assert seen == {'[]\n0\n'}


LEAVING = {
    'System V shared memory': 'c.shmget(77, 64, 0o1600)',
    'a System V queue': 'c.msgget(77, 0o1600)',
    'System V semaphores': 'c.semget(77, 1, 0o1600)',
    'a POSIX queue': 'c.mq_open(b"/planted", os.O_CREAT | os.O_RDWR, 0o600, None)',
    'a directory nobody may write': 'os.chmod("/tmp", 0o555)',
}
LEFT = (
    'import ctypes, os\n'
    'c = ctypes.CDLL("librt.so.1")\n'
    'sysv = [c.shmget(77, 64, 0), c.msgget(77, 0), c.semget(77, 1, 0)]\n'
    'print(max(*sysv, c.mq_open(b"/planted", os.O_RDWR)), oct(os.stat("/tmp").st_mode & 0o7777))\n'
)


@pytest.mark.parametrize('what', LEAVING)
def test_no_program_finds_what_outlives_another_in_the_kernel(server: SandboxServer, what: str) -> None:
    planting = f'import ctypes, os\nc = ctypes.CDLL("librt.so.1")\nassert ({LEAVING[what]}) != -1\n'
    for _ in range(4):
        assert ask(server, code=planting)['status'] == 'Success'

    assert {ask(server, code=LEFT)['run_result']['stdout'] for _ in range(4)} == {'-1 0o1777\n'}


def test_many_at_once_wait_for_their_turn(server: SandboxServer) -> None:
    answers: dict[int, Any] = {}

    def call(number: int) -> None:
        answers[number] = ask(server, code=f'print({number})', run_timeout=30)

    threads = [threading.Thread(target=call, args=(number,)) for number in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert {number: answer['run_result']['stdout'] for number, answer in answers.items()} == {
        number: f'{number}\n' for number in range(40)
    }


def test_a_fresh_sandbox_for_each_program_where_that_is_asked() -> None:
    settings = {'pool_size': 1, 'isolation': 'fresh'}
    with serving(sandbox_type='bubblewrap', sandbox_fusion=settings) as server:
        for number in range(3):
            assert ask(server, code=f'print({number})')['run_result']['stdout'] == f'{number}\n'


def test_a_pool_that_was_dissolved_is_made_again() -> None:
    with (
        serving(sandbox_type='bubblewrap', sandbox_fusion={'pool_size': 1}) as server,
        HttpSandboxManager(base_url=server.url) as manager,
    ):
        ask(server, code='print(1)')
        manager.cleanup_all_sandboxes()

        assert ask(server, code='print(2)')['run_result']['stdout'] == '2\n'


def test_keys_and_the_policy_hold() -> None:
    policy = Policy(max_timeout=5.0)
    settings = {'pool_size': 1, 'config': {'timeout': 5}}
    with serving(sandbox_type='bubblewrap', api_key=KEY, policy=policy, sandbox_fusion=settings) as server:
        url = f'{server.url}/run_code'
        body = {'code': 'print(1)', 'run_timeout': 3, 'compile_timeout': 3}

        assert requests.post(url, json=body, timeout=60).status_code == 401
        assert requests.post(url, json=body, auth=('user', 'wrong'), timeout=60).status_code == 401
        assert requests.post(url, json=body, auth=('user', KEY), timeout=60).json()['status'] == 'Success'
        assert requests.post(url, json=body, headers={'X-API-Key': KEY}, timeout=60).json()['status'] == 'Success'
        refused = requests.post(url, json={**body, 'run_timeout': 60}, auth=('user', KEY), timeout=60)
        assert (refused.status_code, 'max_timeout' in refused.json()['detail']) == (403, True)
        assert requests.get(f'{server.url}/v1/ping', timeout=60).status_code == 200


def test_a_policy_can_close_it() -> None:
    with serving(sandbox_type='bubblewrap', policy=Policy(adapters=())) as server:
        for path in ('/run_code', '/run_jupyter'):
            response = requests.post(server.url + path, json={'code': 'x', 'cells': []}, timeout=60)

            assert (response.status_code, 'sandbox_fusion' in response.json()['detail']) == (403, True)


def test_cells_run_one_after_another(server: SandboxServer) -> None:
    cells = ['import sys; a = 5', 'a', 'print(a); sys.stderr.write("err")', 'raise ValueError("x")', 'print("after")']
    answer = ask(
        server,
        '/run_jupyter',
        cells=cells,
        files={'in.txt': coded(b'in')},
        fetch_files=['in.txt', 'missing'],
        kernel='python3',
        cell_timeout=0,
        total_timeout=60,
    )

    assert (answer['status'], answer['driver']['status'], answer['files']) == (
        'Success',
        'Finished',
        {'in.txt': coded(b'in')},
    )
    assert "'missing' was not fetched: No such file" in answer['message']
    assert [cell['stdout'] for cell in answer['cells']] == ['', '', '5\n', '', 'after\n']
    assert answer['cells'][1]['display'] == [{'text/plain': '5'}]
    assert answer['cells'][2]['stderr'] == 'err'
    assert (answer['cells'][3]['error'][0]['ename'], answer['cells'][3]['error'][0]['evalue']) == ('ValueError', 'x')


@pytest.mark.parametrize('cells', [['print(6 * 7)'], []])
def test_the_default_policy_takes_as_few_cells_as_there_may_be(server: SandboxServer, cells: list[str]) -> None:
    answer = ask(server, '/run_jupyter', cells=cells)

    assert (answer['status'], [cell['stdout'] for cell in answer['cells']]) == ('Success', ['42\n'] * len(cells))


def test_cells_have_a_time_limit(server: SandboxServer) -> None:
    answer = ask(server, '/run_jupyter', cells=['import time; time.sleep(60)', 'print(1)'], total_timeout=1.5)

    assert (answer['status'], answer['driver']['status'], len(answer['cells'])) == ('Failed', 'TimeLimitExceeded', 1)


# Without a server -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'settings', [{'pool_size': 0}, {'isolation': 'loose'}, {'pool_sizes': 1}, {'sandbox_type': 5}, {'config': 5}]
)
def test_wrong_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        SandboxFusionSettings.read(settings)


def test_limits_as_its_users_send_them() -> None:
    request = code_request({'code': 'x', 'run_timeout': 0, 'memory_limit_MB': -1})
    assert (request.timeout, request.cpu_time_limit, request.memory_limit) == (0, None, None)
    request = code_request({'code': 'x', 'run_timeout': 2, 'memory_limit_MB': '512'})
    assert (request.timeout, request.cpu_time_limit, request.memory_limit) == (2, 2, 512 << 20)
    request = code_request({'code': 'x'})
    assert (request.timeout, request.compile_timeout, request.language) == (10, 10, 'python')
