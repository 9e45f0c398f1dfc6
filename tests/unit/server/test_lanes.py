"""Who has the next place: first come, first served within a key, and the keys in turn. No clock is asked."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from enclave.errors import CallCancelledError, TooManyRequestsError
from enclave.server.lanes import Lanes
from tests.support.lanes import queued

PATIENCE = 300.0


class Queue:
    """Threads that wait for the one place of a lane, queued one after another."""

    def __init__(self, waiting: int = 256) -> None:
        self.lanes = Lanes(calls=1, streams=1, waiting=waiting)
        self.order: list[str] = []
        self.errors: dict[str, Exception] = {}
        self.leave: dict[str, Callable[[], None]] = {}
        self._threads: list[threading.Thread] = []

    def add(self, name: str) -> None:
        """Queue one whose key is the first letter of its name; it waits when this returns."""
        is_queued = threading.Event()

        def note(leave: Callable[[], None]) -> None:
            self.leave[name] = leave
            is_queued.set()

        def wait() -> None:
            try:
                with queued(self.lanes, 'program', name[0], on_gone=note):
                    self.order.append(name)
            except (CallCancelledError, TooManyRequestsError) as error:
                self.errors[name] = error
                is_queued.set()

        thread = threading.Thread(target=wait)
        self._threads.append(thread)
        thread.start()
        assert is_queued.wait(PATIENCE)

    def join(self) -> None:
        for thread in self._threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()


def test_keys_have_their_turns_and_within_one_the_first_is_served_first() -> None:
    queue = Queue()

    with queued(queue.lanes, 'program', 'x'):
        for name in ('a1', 'a2', 'a3', 'a4', 'b1', 'b2', 'c1'):
            queue.add(name)
        assert queue.order == []
    queue.join()

    assert queue.order == ['a1', 'b1', 'c1', 'a2', 'b2', 'a3', 'a4']
    assert queue.errors == {}


def test_of_256_of_one_key_none_is_passed_over_and_none_refused() -> None:
    queue = Queue()
    names = [f'k{number}' for number in range(256)]

    with queued(queue.lanes, 'program', 'x'):
        for name in names:
            queue.add(name)
    queue.join()

    assert queue.order == names
    assert queue.errors == {}


def test_who_comes_when_others_wait_does_not_pass_them() -> None:
    queue = Queue()

    with queued(queue.lanes, 'program', 'a'):
        queue.add('a1')
        queue.add('b1')
        queue.add('a2')
    queue.join()

    assert queue.order == ['a1', 'b1', 'a2']


def test_one_that_goes_leaves_the_order_of_the_others() -> None:
    queue = Queue()

    with queued(queue.lanes, 'program', 'x'):
        for name in ('a1', 'a2', 'a3', 'b1'):
            queue.add(name)
        queue.leave['a1']()
        queue.leave['b1']()
    queue.join()

    assert queue.order == ['a2', 'a3']
    assert {name: type(error) for name, error in queue.errors.items()} == {
        'a1': CallCancelledError,
        'b1': CallCancelledError,
    }


@pytest.mark.parametrize('waiting', [1, 5])
def test_only_who_is_one_too_many_of_those_that_wait_is_refused(waiting: int) -> None:
    queue = Queue(waiting)
    names = [f'a{number}' for number in range(waiting)]

    with queued(queue.lanes, 'program', 'x'):
        for name in (*names, 'b_too_many'):
            queue.add(name)
    queue.join()

    assert queue.order == names
    assert isinstance(queue.errors['b_too_many'], TooManyRequestsError)


@pytest.mark.parametrize('is_granted', [False, True], ids=['before its turn', 'at its turn'])
def test_one_whose_client_cannot_be_watched_leaves_its_place(is_granted: bool) -> None:
    lanes = Lanes(calls=1, streams=1, waiting=4)
    first = queued(lanes, 'call', 'a')
    first.__enter__()
    open_places = [first]

    def fail(leave: Callable[[], None]) -> None:
        if is_granted:
            open_places.pop().__exit__(None, None, None)
        raise RuntimeError('no thread can be started')

    with pytest.raises(RuntimeError), queued(lanes, 'call', 'a', on_gone=fail):
        pass
    for place in open_places:
        place.__exit__(None, None, None)

    assert (lanes.counts()['call'], lanes.waiting) == (0, 0)
    with queued(lanes, 'call', 'b', patience=0.0):
        pass
