from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor

import pytest

from enclave.cancellation import Cancellation
from enclave.deadline import Deadline
from enclave.errors import ManagerStoppedError
from enclave.threads import ThreadPool, Workers, wait_for

PATIENCE = 120.0


def test_workers_are_an_executor_like_any_other() -> None:
    with Workers(4, 'test', 'w') as workers:
        assert isinstance(workers, ThreadPoolExecutor)
        assert list(workers.map(lambda number: number * 2, range(20))) == list(range(0, 40, 2))


def test_threads_are_made_for_waiting_work_up_to_the_limit() -> None:
    workers, gate = Workers(3, 'test', 'w'), threading.Event()
    inside = threading.Barrier(4)

    def work() -> None:
        inside.wait(PATIENCE)
        gate.wait(PATIENCE)

    futures = [workers.submit(work) for _ in range(3)]
    inside.wait(PATIENCE)
    late = workers.submit(lambda: threading.current_thread().name)
    assert not late.done()
    gate.set()

    assert late.result(PATIENCE) in {'enclave-test-w-1', 'enclave-test-w-2', 'enclave-test-w-3'}
    assert [future.result(PATIENCE) for future in futures] == [None] * 3
    workers.shutdown()


def test_an_idle_thread_takes_the_next_job() -> None:
    pool = ThreadPool()
    workers = Workers(8, 'test', 'w', pool=pool)
    first = workers.submit(threading.get_ident).result(PATIENCE)
    free = threading.Event()
    for _ in range(1000):  # until it is idle again
        if pool._idle:
            break
        free.wait(0.005)

    assert workers.submit(threading.get_ident).result(PATIENCE) == first
    workers.shutdown()


def test_a_failure_is_in_the_future() -> None:
    with Workers(1, 'test', 'w') as workers:
        future: Future[None] = workers.submit(lambda: [].pop())
        with pytest.raises(IndexError):
            future.result(PATIENCE)


def test_new_work_is_refused_after_shutdown() -> None:
    workers = Workers(1, 'test', 'w')
    workers.shutdown()
    workers.shutdown()

    with pytest.raises(ManagerStoppedError):
        workers.submit(print)


def test_shutdown_can_drop_what_has_not_begun() -> None:
    workers, gate = Workers(1, 'test', 'w'), threading.Event()
    began = threading.Event()
    running = workers.submit(lambda: (began.set(), gate.wait(PATIENCE)))
    assert began.wait(PATIENCE)
    waiting = workers.submit(print)

    workers.shutdown(wait=False, cancel_futures=True)
    gate.set()

    with pytest.raises(CancelledError):
        waiting.result(PATIENCE)
    running.result(PATIENCE)
    assert workers.join(Deadline.after(PATIENCE))


def test_shutdown_from_one_of_its_threads_does_not_wait_for_that() -> None:
    workers = Workers(1, 'test', 'w')

    workers.submit(workers.shutdown).result(PATIENCE)

    assert workers.join(Deadline.after(PATIENCE))


def test_waiting_for_a_future_ends_with_the_deadline_and_with_a_cancellation() -> None:
    never: Future[None] = Future()
    cancellation = Cancellation()
    cancellation.cancel()

    assert not wait_for(never, Deadline.after(0.01))
    with cancellation.applied():
        assert not wait_for(never)


@pytest.mark.processes
def test_a_program_can_end_while_a_job_continues() -> None:
    program = """
import threading
from enclave.threads import Workers
began = threading.Event()
Workers(1, 'test', 'w').submit(lambda: (began.set(), threading.Event().wait()))
began.wait()
"""
    subprocess.run([sys.executable, '-c', program], check=True, timeout=PATIENCE)
