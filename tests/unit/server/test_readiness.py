"""Sockets of the server stay registered; threads are handed requests one by one."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from enclave.server import readiness
from enclave.server.readiness import Readiness
from enclave.server.serve import _Dispatcher
from enclave.testing.kinds import wait_until

PATIENCE = 120.0

needs_epoll = pytest.mark.skipif(
    not Readiness({}).is_kept, reason='sockets are registered anew where there is no epoll'
)


class Channel:
    """What a `Readiness` knows of a channel of waitress's."""

    accepting = False

    def __init__(self, sockets: dict[int, Any], link: socket.socket) -> None:
        self.sockets = sockets
        self.link = link
        self.is_readable, self.is_writable, self.is_sending = True, False, False
        self.asked = 0
        self.got: list[str] = []
        sockets[link.fileno()] = self

    def readable(self) -> bool:
        self.asked += 1
        return self.is_readable

    def writable(self) -> bool:
        return self.is_writable

    def handle_read_event(self) -> None:
        self.got.append(self.link.recv(100).decode())

    def handle_write_event(self) -> None:
        self.got.append('may write')
        self.is_writable = False

    def handle_close(self) -> None:
        del self.sockets[self.link.fileno()]
        self.link.close()


@contextlib.contextmanager
def channels(count: int) -> Iterator[tuple[Readiness, list[Channel], list[socket.socket]]]:
    sockets: dict[int, Any] = {}
    pairs = [socket.socketpair() for _ in range(count)]
    ready = Readiness(sockets)
    try:
        yield ready, [Channel(sockets, pair[0]) for pair in pairs], [pair[1] for pair in pairs]
    finally:
        ready.close()
        for pair in pairs:
            for each in pair:
                each.close()


@needs_epoll
def test_only_what_is_ready_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, 'LOOK_SECONDS', 3600.0)
    with channels(50) as (ready, found, others):
        ready.wait(0)
        before = [each.asked for each in found if each is not found[7]]

        for number in range(3):
            others[7].send(b'%d' % number)
            ready.wait(PATIENCE)

        assert found[7].got == ['0', '1', '2']
        assert [each.asked for each in found if each is not found[7]] == before


@needs_epoll
def test_a_channel_that_waits_for_something_else_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, 'LOOK_SECONDS', 3600.0)
    with channels(1) as (ready, (channel,), (other,)):
        ready.wait(0)
        descriptor = channel.link.fileno()
        assert not ready.has_changed(descriptor, channel)

        channel.is_readable, channel.is_writable = False, True
        other.send(b'unread')
        assert ready.has_changed(descriptor, channel)
        ready.wait(PATIENCE)
        assert channel.got == ['may write']

        ready.wait(0)
        assert channel.got == ['may write']  # it waits for nothing now

        channel.is_readable = True
        assert ready.has_changed(descriptor, channel)
        ready.wait(PATIENCE)
        assert channel.got == ['may write', 'unread']


@needs_epoll
def test_a_channel_that_sends_is_left_alone_until_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, 'LOOK_SECONDS', 3600.0)
    with channels(1) as (ready, (channel,), _):
        ready.wait(0)
        channel.is_sending, channel.is_readable = True, False
        ready.look_at(channel.link.fileno())
        ready.wait(0)
        channel.is_sending, channel.is_readable = False, True

        assert not ready.has_changed(channel.link.fileno(), channel)


@needs_epoll
def test_a_number_that_another_connection_got_is_registered_anew() -> None:
    with channels(1) as (ready, (channel,), (other,)):
        ready.wait(0)
        number = channel.link.fileno()
        other.close()
        channel.handle_close()
        first, second = socket.socketpair()
        with second:
            if first.fileno() != number:
                pytest.skip('the system gave another number')
            again = Channel(channel.sockets, first)
            ready.look_at(number)
            ready.wait(0)
            second.send(b'hello')
            ready.wait(PATIENCE)
            assert again.got == ['hello']
            channel.sockets.clear()
            first.close()


def test_where_nothing_stays_registered_waitress_looks_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness.sys, 'platform', 'elsewhere')
    with channels(2) as (ready, found, others):
        assert not ready.is_kept
        assert ready.has_changed(found[0].link.fileno(), found[0])

        others[1].send(b'hello')
        ready.wait(PATIENCE)

        assert [each.got for each in found] == [[], ['hello']]


# Threads --------------------------------------------------------------------------------------------------------------


class Task:
    def __init__(self, action: Callable[[], None] = lambda: None) -> None:
        self._action = action
        self.done = threading.Event()
        self.thread = ''

    def service(self) -> None:
        self.thread = threading.current_thread().name
        try:
            self._action()
        finally:
            self.done.set()

    def cancel(self) -> None:
        pass


def _fail() -> None:
    raise ValueError('a task that fails')


def test_threads_are_started_as_they_are_lacking_and_all_end() -> None:
    dispatcher = _Dispatcher(3)
    dispatcher.set_thread_count(1)
    go_on = threading.Event()
    held = [Task(lambda: _wait(go_on)) for _ in range(5)]
    try:
        for task in held:
            dispatcher.add_task(task)
        assert len(dispatcher.threads) == 3

        go_on.set()

        assert all(task.done.wait(PATIENCE) for task in held)
        assert len({task.thread for task in held}) <= 3
    finally:
        go_on.set()
        dispatcher.shutdown(timeout=PATIENCE)
    assert not dispatcher.threads


def _wait(event: threading.Event) -> None:
    assert event.wait(PATIENCE)


def test_a_task_that_fails_costs_no_thread() -> None:
    dispatcher = _Dispatcher(1)
    dispatcher.set_thread_count(1)
    try:
        for action in (_fail, lambda: None, _fail):
            task = Task(action)
            dispatcher.add_task(task)
            assert task.done.wait(PATIENCE)
    finally:
        dispatcher.shutdown(timeout=PATIENCE)
    assert not dispatcher.threads


class LateLock:
    """A lock after which a thread of the name ``late`` waits, the first time that it gives it back."""

    def __init__(self, lock: Any) -> None:
        self.lock = lock
        self.has_left, self.may_continue = threading.Event(), threading.Event()

    def __enter__(self) -> None:
        self.lock.acquire()

    def __exit__(self, *_: object) -> None:
        self.lock.release()
        if threading.current_thread().name == 'late' and not self.has_left.is_set():
            self.has_left.set()
            _wait(self.may_continue)


def test_a_request_that_is_late_to_start_a_thread_ends_none_of_the_others() -> None:
    dispatcher = _Dispatcher(10)
    dispatcher.set_thread_count(1)
    assert wait_until(lambda: bool(dispatcher._free))
    dispatcher.lock = lock = LateLock(dispatcher.lock)
    may_end, began = threading.Event(), [threading.Event() for _ in range(4)]

    def hold(number: int) -> Callable[[], None]:
        return lambda: (began[number].set(), may_end.wait(10 * PATIENCE), None)[2]

    tasks = [Task(hold(number)) for number in range(4)]
    try:
        dispatcher.add_task(tasks[0])
        assert began[0].wait(PATIENCE)
        late = threading.Thread(target=dispatcher.add_task, args=(tasks[1],), name='late')
        late.start()
        assert lock.has_left.wait(PATIENCE)
        dispatcher.add_task(tasks[2])
        dispatcher.add_task(tasks[3])
        lock.may_continue.set()
        late.join(PATIENCE)

        assert all(each.wait(PATIENCE) for each in began)
        assert dispatcher.stop_count == 0
    finally:
        lock.may_continue.set()
        may_end.set()
        dispatcher.shutdown(timeout=PATIENCE)
