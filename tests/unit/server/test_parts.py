"""Lanes, repeats, metrics, audit lines and the OpenAPI document."""

from __future__ import annotations

import contextlib
import json
import re
import stat
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from openapi_spec_validator import validate

from enclave.cancellation import Cancellation
from enclave.errors import (
    CallCancelledError,
    ConfigurationError,
    ConflictError,
    InvalidArgumentError,
    TooManyRequestsError,
)
from enclave.server import idempotency, openapi
from enclave.server.audit import Audit
from enclave.server.idempotency import Repeats, StoredResponse
from enclave.server.lanes import SPARE_THREADS, Lane, Lanes, Shares
from enclave.server.metrics import Metrics
from enclave.server.route import ROUTES, decode_query
from enclave.server.routes import CreateQuery
from enclave.verb_requests import ListDir, ReadFile
from tests.support.lanes import queued

PATIENCE = 120.0

# Lanes ----------------------------------------------------------------------------------------------------------------


def test_a_full_lane_refuses_at_once_and_says_when_to_come_again() -> None:
    lanes = Lanes(calls=1, streams=1, ends=1)

    with lanes.entered('call', 'a'):
        with pytest.raises(TooManyRequestsError) as info, lanes.entered('call', 'a'):
            pass
        assert info.value.details['retry_after'] > 0
        with lanes.entered('stream', 'a'), lanes.entered('end', 'a'), lanes.entered('quick', 'a'):
            assert lanes.counts() == {'quick': 1, 'call': 1, 'stream': 1, 'end': 1, 'program': 0}
    with lanes.entered('call', 'a'):
        pass
    assert lanes.refused == 1


def test_an_owner_has_its_own_limit() -> None:
    lanes = Lanes(calls=10, streams=1)

    with lanes.entered('call', 'a', 1):
        with pytest.raises(TooManyRequestsError, match="'a' has 1"), lanes.entered('call', 'a', 1):
            pass
        with lanes.entered('call', 'b', 1):
            pass


def test_a_large_answer_waits_for_room_and_one_of_each_key_waits_for_none() -> None:
    lanes = Lanes(calls=4, streams=1, memory=100, keys=2)
    first, second, other = (threading.Event() for _ in range(3))
    release = threading.Event()

    def answer(tenant: str, begun: threading.Event) -> None:
        with lanes.answering(tenant, 300):
            begun.set()
            release.wait(PATIENCE)

    threads = [threading.Thread(target=answer, args=('a', first))]
    threads[0].start()
    assert first.wait(PATIENCE)
    threads += [threading.Thread(target=answer, args=each) for each in (('a', second), ('b', other))]
    for thread in threads[1:]:
        thread.start()
    assert other.wait(PATIENCE)
    assert not second.is_set()
    assert lanes.memory_held == 600
    with pytest.raises(TooManyRequestsError, match='as much output'), lanes.holding('b', 1):
        pass

    release.set()
    assert second.wait(PATIENCE)
    for thread in threads:
        thread.join(PATIENCE)
    assert lanes.memory_held == 0


def test_an_answer_whose_client_is_gone_waits_no_longer() -> None:
    lanes = Lanes(calls=4, streams=1, memory=100)
    cancellation = Cancellation()
    cancellation.cancel()

    with (
        lanes.answering('a', 300),
        cancellation.applied(),
        pytest.raises(CallCancelledError),
        lanes.answering('a', 300),
    ):
        pass


def test_there_are_threads_for_all_lanes_and_some_to_spare() -> None:
    lanes = Lanes(calls=3, streams=4, ends=5, waiting=7)

    assert (lanes.threads, lanes.most_threads) == (
        15 + SPARE_THREADS,
        22 + SPARE_THREADS,
    )  # programs are as many as calls


def test_waiting_for_the_end_of_calls() -> None:
    lanes = Lanes(calls=1, streams=1)
    entered, leave = threading.Event(), threading.Event()

    def call() -> None:
        with lanes.entered('call', 'a'):
            entered.set()
            leave.wait(30)

    thread = threading.Thread(target=call)
    thread.start()
    entered.wait(30)
    assert not lanes.wait_empty(0)
    leave.set()
    assert lanes.wait_empty(30)
    thread.join()


# Repeats --------------------------------------------------------------------------------------------------------------


def test_a_repeat_gets_the_first_answer() -> None:
    repeats = Repeats()
    entry, is_mine = repeats.begin('a', 'key', b'print')
    repeats.finish('a', 'key', entry, StoredResponse(200, (b'{}',)))

    again, is_mine_too = repeats.begin('a', 'key', b'print')

    assert (is_mine, is_mine_too) == (True, False)
    assert again.done.is_set()
    assert again.outcome == StoredResponse(200, (b'{}',))


def test_a_key_stands_for_one_request() -> None:
    repeats = Repeats()
    repeats.begin('a', 'key', b'one')

    with pytest.raises(ConflictError, match='another request'):
        repeats.begin('a', 'key', b'two')
    assert repeats.begin('b', 'key', b'two')[1], 'another tenant has its own keys'


def test_work_that_was_not_done_may_be_done_by_a_repeat() -> None:
    repeats = Repeats()
    entry, _ = repeats.begin('a', 'key', b'x')
    repeats.finish('a', 'key', entry, None)

    assert repeats.begin('a', 'key', b'x')[1]


def test_work_that_was_cancelled_before_it_came_is_cancelled_from_the_start() -> None:
    now = [0.0]
    repeats = Repeats(clock=lambda: now[0])

    assert not repeats.cancel('a', 'key')
    assert not repeats.cancel('a', 'late')

    assert not repeats.begin('b', 'key', b'x')[0].cancellation.is_cancelled, 'another tenant has its own keys'
    assert repeats.begin('a', 'key', b'x')[0].cancellation.is_cancelled
    now[0] = idempotency.EARLY_SECONDS + 1
    assert not repeats.begin('a', 'late', b'x')[0].cancellation.is_cancelled


def test_old_answers_are_forgotten() -> None:
    now = [0.0]
    repeats = Repeats(clock=lambda: now[0])
    entry, _ = repeats.begin('a', 'key', b'x')
    repeats.finish('a', 'key', entry, StoredResponse(200, (b'',)))

    now[0] = idempotency.KEEP_SECONDS + 1

    assert repeats.begin('a', 'key', b'x')[1]


def test_answers_are_forgotten_when_they_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idempotency, 'KEEP_BYTES', 10)
    repeats = Repeats()
    for key in ('one', 'two', 'three'):
        entry, _ = repeats.begin('a', key, b'x')
        repeats.finish('a', key, entry, StoredResponse(200, (b'12345678',)))

    assert repeats.begin('a', 'one', b'x')[1]
    assert not repeats.begin('a', 'three', b'x')[1]


def test_of_work_that_has_ended_only_its_answer_is_kept() -> None:
    repeats = Repeats()
    entry, _ = repeats.begin('a', 'key', b'x')
    work = weakref.ref(entry.cancellation)
    repeats.finish('a', 'key', entry, StoredResponse(200, (b'{}',)))

    del entry

    assert work() is None
    assert not repeats.cancel('a', 'key')
    assert repeats.begin('a', 'key', b'x')[0].outcome == StoredResponse(200, (b'{}',))


def test_an_answer_that_its_client_has_is_kept_no_longer() -> None:
    repeats = Repeats(size=10)
    for key in ('one', 'two', 'three'):
        entry, _ = repeats.begin('a', key, b'x')
        repeats.forget('a', key)  # which does nothing to work that continues
        repeats.finish('a', key, entry, StoredResponse(200, (b'1234',)))
        if key == 'one':
            repeats.forget('b', key)
            assert not repeats.begin('a', 'one', b'x')[1], "another tenant's is left"
            repeats.forget('a', key)

    assert repeats.begin('a', 'one', b'x')[1]
    assert not repeats.begin('a', 'two', b'x')[1], 'what was forgotten counts no longer'


def test_work_whose_clients_have_all_gone_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idempotency, 'RETURN_SECONDS', 0.01)
    repeats = Repeats()
    entry, _ = repeats.begin('a', 'key', b'x')

    repeats.leave(entry)

    assert entry.cancellation.is_cancelled


def test_work_whose_client_came_back_continues(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idempotency, 'RETURN_SECONDS', 30.0)
    repeats = Repeats()
    entry, _ = repeats.begin('a', 'key', b'x')
    leaving = threading.Thread(target=repeats.leave, args=(entry,))
    leaving.start()

    again, is_mine = repeats.begin('a', 'key', b'x')
    leaving.join(30)

    assert not is_mine
    assert again is entry
    assert not entry.cancellation.is_cancelled


def test_a_call_is_cancelled_by_its_key_and_owner() -> None:
    repeats = Repeats()
    entry, _ = repeats.begin('a', 'key', b'x')

    assert not repeats.cancel('b', 'key')
    assert repeats.cancel('a', 'key')
    assert entry.cancellation.is_cancelled


# Queries --------------------------------------------------------------------------------------------------------------


def test_queries_have_types() -> None:
    found = decode_query({'path': ['a b'], 'offset': ['7']}, ReadFile)

    assert (found.path, found.offset, found.max_bytes) == ('a b', 7, None)
    assert decode_query({'recursive': ['true']}, ListDir).recursive is True
    assert decode_query({'ttl': ['1.5e1']}, CreateQuery).ttl == 15.0


@pytest.mark.parametrize(
    ('arguments', 'cls', 'message'),
    [
        ({}, ReadFile, 'path is required'),
        ({'path': ['a'], 'offset': ['1_0']}, ReadFile, 'offset'),
        ({'path': ['a'], 'offset': ['-1']}, ReadFile, 'offset'),
        ({'path': ['a'], 'offset': ['9' * 30]}, ReadFile, 'offset'),
        ({'path': ['a', 'b']}, ReadFile, '2 times'),
        ({'recursive': ['True']}, ListDir, 'true or false'),
        ({'ttl': ['nan']}, CreateQuery, 'ttl'),
        ({'ttl': ['1e999']}, CreateQuery, 'ttl'),
        ({'tll': ['1']}, CreateQuery, "no parameter 'tll'"),
        ({'x': ['1']}, None, 'it has: none'),
    ],
)
def test_wrong_queries_are_refused(arguments: dict[str, list[str]], cls: Any, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        decode_query(arguments, cls)


# Metrics and audit ----------------------------------------------------------------------------------------------------


def test_metrics_are_in_the_format_of_prometheus() -> None:
    metrics = Metrics()
    metrics.count('/a"b', 'GET', 200, 0.004)
    metrics.count('/a"b', 'GET', 200, 400.0)
    stats = {'active_calls': 2, 'status_counts': {'running': 3}, 'pools': {'p': {'size': 4, 'leases': 5}}}

    text = metrics.text([stats], {'call': 1}, 6, '2.0')

    for line in text.splitlines():
        assert line.startswith('# ') or re.fullmatch(
            r'[a-z_]+(\{([a-z_]+="([^"\\\n]|\\.)*",?)+\})? [0-9.e+-]+', line
        ), line
    assert 'enclave_requests_total{route="/a\\"b",method="GET",status="200"} 2' in text
    assert 'enclave_request_duration_seconds_bucket{route="/a\\"b",le="0.005"} 1' in text
    assert 'enclave_request_duration_seconds_bucket{route="/a\\"b",le="+Inf"} 2' in text
    assert 'enclave_sandboxes{status="running"} 3' in text
    assert 'enclave_pool_leases_total 5' in text


def test_audit_lines_are_appended_to_a_private_file(tmp_path: Path) -> None:
    audit = Audit(tmp_path / 'audit.log')
    facts = {'request_id': 'r', 'who': 'w', 'address': 'a', 'method': 'GET', 'route': '/', 'path': '/', 'status': 200}

    audit.write(**facts, sandbox_id=None, tool_name=None, code=None, seconds=0.1)
    audit.close()

    line = json.loads((tmp_path / 'audit.log').read_text())
    assert (line['who'], line['status']) == ('w', 200)
    assert stat.S_IMODE((tmp_path / 'audit.log').stat().st_mode) == 0o600
    with pytest.raises(ConfigurationError, match='audit file'):
        Audit(tmp_path / 'no' / 'such')


# OpenAPI --------------------------------------------------------------------------------------------------------------


def test_the_document_is_valid_openapi() -> None:
    document = openapi.document()

    validate(document)
    assert document['openapi'].startswith('3.1')
    json.dumps(document, allow_nan=False)


def test_every_route_is_described() -> None:
    described = {
        operation['operationId'] for methods in openapi.document()['paths'].values() for operation in methods.values()
    }

    assert described == {name for name, route in ROUTES.items() if route.adapter is None}
    for route in ROUTES.values():
        assert route.summary.endswith('.'), route.name
        assert route.tag, route.name


def test_documented_addresses_are_there() -> None:
    there = {(route.method, route.path) for route in ROUTES.values()}

    assert there >= {
        ('GET', '/health'),
        ('POST', '/sandbox/create'),
        ('GET', '/sandboxes'),
        ('GET', '/sandbox/<sandbox_id>'),
        ('POST', '/sandbox/<sandbox_id>/stop'),
        ('DELETE', '/sandbox/<sandbox_id>'),
        ('POST', '/sandbox/tool/execute'),
        ('GET', '/sandbox/<sandbox_id>/tools'),
        ('POST', '/sandbox/<sandbox_id>/archive'),
        ('GET', '/stats'),
        ('POST', '/pool/initialize'),
        ('POST', '/pool/execute'),
    }


def test_the_page_stands_alone() -> None:
    page = openapi.page()

    assert '/sandbox/tool/execute' in page
    assert not re.search(r'<script|https?://|src=|@import|url\(', page)


def test_several_keys_share_what_there_is() -> None:
    shares = Shares(8, 2)
    for _ in range(6):
        assert shares.has_room('alice')
        shares.take('alice')

    assert not shares.has_room('alice')
    assert shares.has_room('bob')
    shares.take('bob', 2)
    assert not shares.has_room('bob')
    shares.give('alice', 3)
    assert shares.has_room('bob')


def test_many_keys_leave_half_to_the_one_that_comes() -> None:
    shares = Shares(8, 100)
    while shares.has_room('alice'):
        shares.take('alice')

    assert shares.held('alice') == 4
    for number in range(4):
        assert shares.has_room(f'key-{number}')
        shares.take(f'key-{number}')
    assert not shares.has_room('late')


def test_one_key_takes_all_there_is() -> None:
    shares = Shares(3, 1)
    for _ in range(3):
        assert shares.has_room('alice')
        shares.take('alice')

    assert not shares.has_room('alice')


# Programs that wait for their turn ------------------------------------------------------------------------------------


class Queue:
    """Threads that wait for their programs' turns, in the order in which they were made to ask."""

    def __init__(self, lanes: Lanes) -> None:
        self.lanes = lanes
        self.order: list[str] = []
        self.changed = threading.Condition()
        self.doors: dict[str, threading.Event] = {}
        self.threads: list[threading.Thread] = []

    def ask(self, name: str, tenant: str, limit: int | None = None) -> None:
        self.doors[name] = threading.Event()
        before = self.lanes.waiting + len(self.order)
        thread = threading.Thread(target=self._run, args=(name, tenant, limit), daemon=True)
        thread.start()
        self.threads.append(thread)
        self.wait_until(lambda: self.lanes.waiting + len(self.order) > before)

    def _run(self, name: str, tenant: str, limit: int | None) -> None:
        with queued(self.lanes, 'program', tenant, limit):
            with self.changed:
                self.order.append(name)
                self.changed.notify_all()
            assert self.doors[name].wait(60)

    def wait_until(self, is_so: Callable[[], bool]) -> None:
        with self.changed:
            while not is_so():
                assert self.changed.wait(0.005) is not None

    def end(self, name: str) -> None:
        self.wait_until(lambda: name in self.order)
        self.doors[name].set()


def test_programs_have_their_turn_in_the_order_of_asking_and_the_keys_in_turn() -> None:
    queue = Queue(Lanes(calls=1, streams=1, waiting=20))
    for name in ('a1', 'a2', 'a3', 'a4', 'b1', 'b2', 'c1'):
        queue.ask(name, name[0])
    for _ in range(7):
        queue.wait_until(lambda: any(not queue.doors[name].is_set() for name in queue.order))
        queue.end(queue.order[-1])
    for thread in queue.threads:
        thread.join(60)

    assert queue.order[0] == 'a1'
    assert set(queue.order[1:4]) == {'a2', 'b1', 'c1'}
    assert queue.order.index('b2') < queue.order.index('a4')
    assert [name for name in queue.order if name[0] == 'a'] == ['a1', 'a2', 'a3', 'a4']
    assert queue.lanes.waiting == 0


def test_a_key_at_its_limit_holds_up_no_other() -> None:
    queue = Queue(Lanes(calls=4, streams=1, waiting=20))
    queue.ask('a1', 'a', 1)
    queue.ask('a2', 'a', 1)
    queue.ask('b1', 'b', 1)

    queue.wait_until(lambda: 'b1' in queue.order)
    assert queue.order == ['a1', 'b1']
    queue.end('a1')
    queue.end('a2')
    queue.end('b1')


def test_one_too_many_is_refused_and_who_goes_leaves_the_queue() -> None:
    lanes = Lanes(calls=1, streams=1, waiting=1)
    gone: list[Callable[[], None]] = []
    raised: list[BaseException] = []

    def wait() -> None:
        try:
            with queued(lanes, 'program', 'a', None, gone.append):
                pass
        except CallCancelledError as error:
            raised.append(error)

    with queued(lanes, 'program', 'a'):
        waiting = threading.Thread(target=wait)
        waiting.start()
        while not gone:
            waiting.join(0.005)
        with pytest.raises(TooManyRequestsError, match='1 requests wait'), queued(lanes, 'program', 'b'):
            pass
        gone[0]()
        waiting.join(60)

    assert len(raised) == 1
    assert (lanes.waiting, lanes.refused) == (0, 1)
    assert lanes.wait_empty(0)


def test_a_call_waits_for_its_turn_and_no_longer_than_its_patience() -> None:
    lanes = Lanes(calls=1, streams=1, waiting=4)
    gone: list[Callable[[], None]] = []
    with queued(lanes, 'call', 'a'):
        thread = _waiting(lanes, 'a', gone, 1, 'call')
        with (
            pytest.raises(TooManyRequestsError, match='1 requests of this kind'),
            queued(lanes, 'call', 'b', patience=0),
        ):
            pass
        with pytest.raises(TooManyRequestsError, match="'a' has 1 calls"), queued(lanes, 'call', 'a', 1, patience=0):
            pass
        assert lanes.counts()['call'] == 1
    thread.join(60)

    assert not thread.is_alive()
    assert lanes.wait_empty(0)


def test_programs_and_calls_do_not_wait_for_each_other() -> None:
    lanes = Lanes(calls=1, streams=1, waiting=4)
    with queued(lanes, 'program', 'a'):
        with queued(lanes, 'call', 'a', patience=0):
            assert lanes.counts()['call'] == 1
        gone: list[Callable[[], None]] = []
        thread = _waiting(lanes, 'a', gone, 1)
        with queued(lanes, 'call', 'a', patience=0):
            assert lanes.waiting == 1
    thread.join(60)


def test_one_key_does_not_take_all_places_to_wait_in() -> None:
    lanes = Lanes(calls=1, streams=1, waiting=4, keys=2)
    gone: list[Callable[[], None]] = []
    with lanes.entered('program', 'alice'):
        threads = [_waiting(lanes, 'alice', gone, number) for number in (1, 2, 3)]
        with pytest.raises(TooManyRequestsError, match='kept for other keys'), queued(lanes, 'program', 'alice'):
            pass
        threads.append(_waiting(lanes, 'bob', gone, 4))
        with pytest.raises(TooManyRequestsError, match='which is all it takes'), queued(lanes, 'program', 'bob'):
            pass
        for leave in gone:
            leave()
        for thread in threads:
            thread.join(60)
    assert lanes.waiting == 0


def _waiting(
    lanes: Lanes, tenant: str, gone: list[Callable[[], None]], number: int, lane: Lane = 'program'
) -> threading.Thread:
    """Have a program wait for its turn on a thread; return when so many do."""
    thread = threading.Thread(target=_wait_in, args=(lanes, tenant, gone, lane))
    thread.start()
    while len(gone) < number:
        thread.join(0.005)
    return thread


def _wait_in(lanes: Lanes, tenant: str, gone: list[Callable[[], None]], lane: Lane) -> None:
    with contextlib.suppress(CallCancelledError), queued(lanes, lane, tenant, None, gone.append):
        pass


def test_a_batch_takes_the_places_of_single_programs() -> None:
    lanes = Lanes(calls=8, streams=1, waiting=4, keys=2)
    with lanes.several('program', 'alice', 64) as taken:
        assert taken == 6  # the rest is kept for the other key
        with (
            pytest.raises(TooManyRequestsError, match=r'programs of .alice. run'),
            lanes.several('program', 'alice', 1),
        ):
            pass
        with lanes.several('program', 'bob', 1) as others:
            assert others == 1
    with lanes.several('program', 'alice', 64, tenant_limit=3) as taken:
        assert taken == 3
    assert lanes.counts()['program'] == 0


def test_a_place_that_a_batch_gives_back_is_the_next_programs() -> None:
    lanes = Lanes(calls=1, streams=1, waiting=4)
    with lanes.several('program', 'alice', 4) as taken:
        assert taken == 1
        gone: list[Callable[[], None]] = []
        thread = _waiting(lanes, 'alice', gone, 1)
    thread.join(60)
    assert not thread.is_alive()
