from __future__ import annotations

import os
import threading

import pytest

from enclave.testing.kinds import wait_until
from enclave.threads import KEPT, ThreadPool
from tests.support.aio import PATIENCE


def test_jobs_that_wait_for_each_other_all_get_a_thread() -> None:
    thread_pool = ThreadPool()
    barrier = threading.Barrier(51)

    for _ in range(50):
        thread_pool.submit(lambda: barrier.wait(PATIENCE) and None)

    barrier.wait(PATIENCE)
    assert thread_pool.size == 50


def test_threads_are_daemons_named_for_what_they_do() -> None:
    thread_pool = ThreadPool()
    found: list[threading.Thread] = []
    done = threading.Event()

    def look() -> None:
        found.append(threading.current_thread())
        done.set()

    thread_pool.submit(look)

    assert done.wait(PATIENCE)
    assert found[0].name.startswith('enclave-thread-')
    assert found[0].daemon


def test_an_idle_thread_is_used_again() -> None:
    thread_pool = ThreadPool()
    names = set()

    def look() -> None:
        names.add(threading.get_ident())
        done.set()

    for _ in range(20):
        done = threading.Event()
        thread_pool.submit(look)
        assert done.wait(PATIENCE)
        assert wait_until(lambda: bool(thread_pool._idle))

    assert len(names) == 1


def test_threads_without_work_leave_and_a_few_stay() -> None:
    thread_pool = ThreadPool(idle_seconds=0.01)
    barrier = threading.Barrier(11)
    for _ in range(10):
        thread_pool.submit(lambda: barrier.wait(PATIENCE) and None)
    barrier.wait(PATIENCE)

    assert wait_until(lambda: thread_pool.size <= KEPT)

    done = threading.Event()
    thread_pool.submit(done.set)
    assert done.wait(PATIENCE)
    assert thread_pool.size == KEPT


def test_a_job_that_fails_does_not_end_its_thread(caplog: pytest.LogCaptureFixture) -> None:
    thread_pool = ThreadPool()
    done = threading.Event()

    def fail() -> None:
        raise ValueError('on purpose')

    thread_pool.submit(fail)
    thread_pool.submit(done.set)

    assert done.wait(PATIENCE)


def test_a_caller_that_submits_starts_no_thread_but_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    thread_pool = ThreadPool()
    starters: list[str] = []
    start = threading.Thread.start

    def record(thread: threading.Thread) -> None:
        if thread.name.startswith(('enclave-spawner', 'enclave-thread')):
            starters.append(threading.current_thread().name)
        start(thread)

    monkeypatch.setattr(threading.Thread, 'start', record)
    barrier = threading.Barrier(11)
    for _ in range(10):
        thread_pool.submit(lambda: barrier.wait(PATIENCE) and None)
    barrier.wait(PATIENCE)

    assert starters == [threading.current_thread().name] + ['enclave-spawner'] * 10


def test_calls_wait_for_a_thread_where_the_system_gives_no_more(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    thread_pool = ThreadPool()
    first, begun, second = threading.Event(), threading.Event(), threading.Event()
    thread_pool.submit(lambda: begun.set() or (first.wait(PATIENCE) and None))
    assert begun.wait(PATIENCE)

    def refuse(thread: threading.Thread) -> None:
        refusals.release()
        raise RuntimeError("can't start new thread")

    refusals = threading.Semaphore(0)
    monkeypatch.setattr(threading.Thread, 'start', refuse)
    thread_pool.submit(second.set)
    for _ in range(2):  # it is asked again
        assert refusals.acquire(timeout=PATIENCE)
    assert not second.is_set()
    assert 'gives no more threads; 1 calls wait' in caplog.text
    first.set()

    assert second.wait(PATIENCE)
    assert thread_pool.size == 1


def test_a_pool_without_any_thread_does_the_work_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    thread_pool = ThreadPool()
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name != 'enclave-spawner':
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, 'start', refuse)
    done = threading.Semaphore(0)
    for _ in range(3):
        thread_pool.submit(done.release)

    for _ in range(3):
        assert done.acquire(timeout=PATIENCE)


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='needs fork')
def test_a_fork_has_threads_of_its_own() -> None:
    from enclave.threads import thread_pool

    first = threading.Event()
    thread_pool.submit(first.set)
    assert first.wait(PATIENCE)

    child = os.fork()
    if not child:
        done = threading.Event()
        thread_pool.submit(done.set)
        os._exit(0 if done.wait(PATIENCE) else 1)

    assert os.waitpid(child, 0)[1] == 0
