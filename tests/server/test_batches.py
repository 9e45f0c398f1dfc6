"""Batches of programs over HTTP whose connection breaks: no program is run twice, and every outcome comes."""

from __future__ import annotations

import collections
import contextlib
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests

from enclave import wire
from enclave.cancellation import Cancellation, on_cancel
from enclave.errors import CallCancelledError, PoolError, SandboxPathError
from enclave.languages.values import CodeRequest, CodeResult, StepResult
from enclave.managers import http_transport
from enclave.managers.http import HttpSandboxManager
from enclave.managers.local import LocalSandboxManager
from enclave.server import programs
from enclave.server.serve import SandboxServer
from enclave.testing.kinds import wait_until
from tests.server.conftest import CONFIG, Connect, Serve

PATIENCE = 120.0


class Runs:
    """What is run in the place of programs: ``slow`` waits until it may end, ``bad`` fails."""

    def __init__(self) -> None:
        self.begun: collections.Counter[str] = collections.Counter()
        self.may_end = threading.Event()
        self.is_running = threading.Event()
        self.was_cancelled = threading.Event()

    def run(self, manager: Any, request: CodeRequest, **_: Any) -> CodeResult:
        code = str(request.code)
        self.begun[code] += 1
        if code == 'bad':
            raise SandboxPathError('no space')
        if code == 'slow':
            self.is_running.set()
            with on_cancel(self._cancel):
                assert self.may_end.wait(PATIENCE)
            if self.was_cancelled.is_set():
                raise CallCancelledError('cancelled')
        return CodeResult(language='python', run=StepResult(command=['x'], status='success', stdout=code))

    def _cancel(self) -> None:
        self.was_cancelled.set()
        self.may_end.set()


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Iterator[Runs]:
    found = Runs()
    monkeypatch.setattr(LocalSandboxManager, '_run_in_batch', lambda self, request, *_: found.run(self, request))
    yield found
    found.may_end.set()


@pytest.fixture
def server(serve: Serve) -> SandboxServer:
    return serve()


@pytest.fixture
def manager(server: SandboxServer, connect: Connect) -> HttpSandboxManager:
    made = connect(server)
    made.initialize_pool(4, 'fake', CONFIG)
    return made


def send(server: SandboxServer, codes: list[str], places: list[int], key: str = 'k1') -> requests.Response:
    body = {'requests': [{'code': each} for each in codes], 'key': key, 'places': places, 'concurrency': 4}
    return requests.post(f'{server.url}/pool/code/batch', json=body, stream=True, timeout=PATIENCE)


def outcomes_of(response: requests.Response) -> dict[int, Any]:
    lines = [json.loads(line) for line in response.iter_lines()]
    assert lines[-1]['event'] == 'end', lines
    return {each['index']: each for each in lines[:-1] if each['event'] in ('result', 'failed')}


def test_a_batch_that_is_sent_again_runs_nothing_twice(
    server: SandboxServer, manager: HttpSandboxManager, runs: Runs
) -> None:
    broken = send(server, ['a', 'bad', 'slow'], [0, 1, 2])
    lines = broken.iter_lines()
    assert {json.loads(next(lines))['index'] for _ in range(2)} == {0, 1}
    assert runs.is_running.wait(PATIENCE)
    broken.close()  # in the middle of the slow one

    again = send(server, ['slow', 'bad', 'new'], [2, 1, 3])
    runs.may_end.set()
    found = outcomes_of(again)

    assert [found[n]['event'] for n in range(3)] == ['result', 'failed', 'result']
    assert (found[0]['result']['run']['stdout'], found[1]['error']['code']) == ('slow', 'path')
    assert runs.begun == {'a': 1, 'bad': 1, 'slow': 1, 'new': 1}
    assert not runs.was_cancelled.is_set()


def test_the_client_sends_a_broken_batch_again_and_has_every_outcome_once(
    manager: HttpSandboxManager, runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines, breaks = programs._lines, iter([1, 2])

    def breaking(*arguments: Any) -> Iterator[bytes]:
        left = next(breaks, 1000)
        for line in lines(*arguments):
            left -= 1
            if left < 0:
                raise RuntimeError('the connection breaks here')
            yield line

    monkeypatch.setattr(programs, '_lines', breaking)
    runs.may_end.set()
    codes = [str(number) for number in range(40)]

    found = [each.unwrap().stdout for each in manager.run_many(codes, in_order=True, concurrency=4)]

    assert found == codes
    assert runs.begun == dict.fromkeys(codes, 1)


def test_a_batch_waits_for_its_turn_as_long_as_a_single_program_does(
    serve: Serve, connect: Connect, runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_transport, 'BUSY_SECONDS', 0.01)
    server = serve(policy={'max_concurrent_calls': 1})
    manager = connect(server)
    manager.initialize_pool(1, 'fake', CONFIG)
    first, second = manager.run_many(['slow']), manager.run_many(['a', 'b'])
    found: list[str] = []

    with ThreadPoolExecutor(2) as executor:
        slow = executor.submit(list, first)
        assert runs.is_running.wait(PATIENCE)
        waiting = executor.submit(list, second)
        refused = wait_until(lambda: server.service.lanes.refused >= 3 or waiting.done())
        runs.may_end.set()
        found = [outcome.result.run.stdout for outcome in waiting.result(PATIENCE)]
        assert [outcome.result.run.stdout for outcome in slow.result(PATIENCE)] == ['slow']

    assert refused
    assert sorted(found) == ['a', 'b']


def test_leaving_a_batch_ends_what_runs_without_waiting_for_anybody_to_come_back(
    manager: HttpSandboxManager, runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(programs, 'RETURN_SECONDS', 10 * PATIENCE)

    with manager.run_many(['a', 'slow', *['a'] * 100], concurrency=2) as outcomes:
        assert next(outcomes).unwrap().stdout == 'a'
        assert runs.is_running.wait(PATIENCE)

    assert runs.was_cancelled.wait(PATIENCE)


def test_a_program_that_was_deserted_is_ended_and_not_run_again(
    server: SandboxServer, manager: HttpSandboxManager, runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(programs, 'RETURN_SECONDS', 0.01)
    broken = send(server, ['a', 'slow'], [0, 1])
    next(broken.iter_lines())
    assert runs.is_running.wait(PATIENCE)
    broken.close()
    assert runs.was_cancelled.wait(PATIENCE)

    found = outcomes_of(send(server, ['slow'], [1]))

    assert found[0]['error']['code'] == 'cancelled'
    assert runs.begun['slow'] == 1


def test_places_that_are_not_those_of_the_requests_are_refused(
    server: SandboxServer, manager: HttpSandboxManager
) -> None:
    answer = send(server, ['a', 'b'], [0])

    assert (answer.status_code, 'places' in answer.json()['message']) == (400, True)


@pytest.mark.parametrize('places', [[0, 0], [0, -1], [0, 10**30]])
def test_places_that_no_program_can_have_are_refused(
    server: SandboxServer, manager: HttpSandboxManager, places: list[int]
) -> None:
    answer = send(server, ['a', 'b'], places)

    assert (answer.status_code, 'places' in answer.json()['message']) == (400, True)


def test_keys_that_are_kept_have_a_length(server: SandboxServer, manager: HttpSandboxManager) -> None:
    """A key of megabytes was remembered for each program of its batch, and for each call that was cancelled before it came."""
    for key in ('', 'k' * 10_000):
        answer = send(server, ['a'], [0], key)
        assert (answer.status_code, answer.json()['code']) == (400, 'invalid-argument')
    cancelled = requests.post(f'{server.url}/calls/{"k" * 10_000}/cancel', timeout=PATIENCE)
    with pytest.raises(PoolError, match='1 to 200 characters'):
        manager.initialize_pool(1, 'fake', CONFIG, name='p' * 10_000)

    assert cancelled.status_code == 400
    assert len(manager.get_stats()['pools']) == 1


def test_programs_that_are_not_begun_in_time_are_given_back_and_run_when_they_are_sent_again(
    server: SandboxServer, manager: HttpSandboxManager, runs: Runs
) -> None:
    body = {'requests': [{'code': each} for each in ('a', 'b', 'c')], 'key': 'k2', 'concurrency': 1, 'begin_within': 0}
    found = outcomes_of(requests.post(f'{server.url}/pool/code/batch', json=body, stream=True, timeout=PATIENCE))

    assert found[0]['event'] == 'result'
    assert [found[n]['error']['details']['rule'] for n in (1, 2)] == ['begin_within'] * 2
    assert runs.begun == {'a': 1}
    found = outcomes_of(send(server, ['b', 'c'], [1, 2], 'k2'))
    assert [found[n]['event'] for n in (0, 1)] == ['result'] * 2
    assert runs.begun == {'a': 1, 'b': 1, 'c': 1}


def test_outcomes_that_came_are_kept_no_longer(server: SandboxServer, manager: HttpSandboxManager, runs: Runs) -> None:
    outcomes_of(send(server, ['a', 'b', 'c'], [0, 1, 2], 'k3'))
    outcomes_of(send(server, ['d'], [0], 'k4'))
    outcomes_of(send(server, ['a'], [0], 'k3'))  # which is kept
    body = {'requests': [{'code': 'e'}], 'key': 'k5', 'received': {'k3': 2}}

    outcomes_of(requests.post(f'{server.url}/pool/code/batch', json=body, stream=True, timeout=PATIENCE))

    assert server.service is not None
    records = server.service.repeats._tenants.values()
    kept = [key for each in records for key in each.ended if '.' in key]
    assert sorted(kept) == ['k3.2', 'k4.0', 'k5.0']
    assert runs.begun == dict.fromkeys('abcde', 1)


def test_a_request_has_so_many_outcomes_forgotten_and_no_more(
    server: SandboxServer, manager: HttpSandboxManager, runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(programs, 'MOST_FORGOTTEN', 3)
    asked: list[int] = []
    assert server.service is not None
    repeats = server.service.repeats
    monkeypatch.setattr(repeats, 'forget_parts', lambda tenant, key, count: asked.append(count))
    body = {'requests': [{'code': 'e'}], 'key': 'k6', 'received': {'a': 2, 'b': -5, 'c': 10**12, 'd': 7}}

    found = outcomes_of(requests.post(f'{server.url}/pool/code/batch', json=body, stream=True, timeout=PATIENCE))

    assert found[0]['event'] == 'result'
    assert asked == [2, 0, 1, 0]


def test_a_batch_of_a_client_that_is_cancelled_ends_at_once(manager: HttpSandboxManager, runs: Runs) -> None:
    cancellation, ended = Cancellation(), threading.Event()

    def use() -> None:
        with cancellation.applied(), contextlib.suppress(CallCancelledError):
            list(manager.run_many(['slow'], concurrency=1))
        ended.set()

    thread = threading.Thread(target=use, daemon=True)
    thread.start()
    assert runs.is_running.wait(PATIENCE)
    cancellation.cancel()

    assert ended.wait(PATIENCE)
    assert runs.was_cancelled.wait(PATIENCE)
    thread.join()


def test_the_limits_of_time_of_a_language_are_within_the_policy(
    serve: Serve, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A language may have two minutes for compiling by itself, and some for running too."""
    asked: list[CodeRequest] = []

    def run(self: Any, request: CodeRequest, **options: Any) -> CodeResult:
        asked.append(request)
        return CodeResult(language='python', run=StepResult(command=['x'], status='success'))

    monkeypatch.setattr(LocalSandboxManager, 'run_code_in_pool', run)
    config = {**CONFIG, 'timeout': 5}
    server = serve(policy={'max_timeout': 7}, sandbox_config=config)
    manager = connect(server)
    manager.initialize_pool(1, 'fake', config)
    programs = [CodeRequest(code='x', language=language) for language in ('cpp', 'kotlin', 'lean')]

    manager.run_code_in_pool(programs[0])
    list(manager.run_many(programs))

    assert {request.compile_timeout for request in asked} == {7.0}
    assert all(request.timeout in (None, 7.0) for request in asked)


LONG = {
    'ascii': 'x' * 300_000,
    'lines': 'a line\n' * 50_000,
    'letters': 'äöü€😀' * 20_000,
    'halves': '\udc80' + 'x' * 40_000 + '\udcff',
    'zeros': '\0' * 40_000,
    'short': 'x',
    'nothing': '',
}


def test_long_outputs_of_a_batch_are_what_the_programs_wrote(manager: HttpSandboxManager, runs: Runs) -> None:
    found = [each.unwrap().stdout for each in manager.run_many(list(LONG.values()), in_order=True, concurrency=4)]

    assert found == list(LONG.values())


def test_an_outcome_with_long_texts_that_was_kept_is_lines_of_json_for_one_that_takes_nothing_else(
    server: SandboxServer, manager: HttpSandboxManager, runs: Runs
) -> None:
    codes = [LONG['letters'], 'slow']
    body = {'requests': [{'code': each} for each in codes], 'key': 'k2', 'places': [0, 1], 'concurrency': 4}
    broken = requests.post(
        f'{server.url}/pool/code/batch',
        json=body,
        headers={'Accept': wire.PARTS_LINES},
        stream=True,
        timeout=PATIENCE,
    )
    assert broken.headers['Content-Type'] == wire.PARTS_LINES
    assert next(broken.iter_content(1)) == b'[', 'a line with texts behind it'
    assert runs.is_running.wait(PATIENCE)
    broken.close()
    runs.may_end.set()

    found = outcomes_of(send(server, codes, [0, 1], 'k2'))

    assert found[0]['result']['run']['stdout'] == LONG['letters']
    assert runs.begun == dict.fromkeys(codes, 1)
