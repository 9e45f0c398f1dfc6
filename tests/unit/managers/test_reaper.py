from __future__ import annotations

import math
import threading
import time

import pytest

from enclave.managers.reaper import Reaper

PATIENCE = 120.0


class Work:
    """Counts its calls and returns the due times it is given, then never."""

    def __init__(self, *dues: float) -> None:
        self.dues = list(dues)
        self.calls = 0
        self.called = threading.Condition()

    def __call__(self) -> float:
        with self.called:
            self.calls += 1
            self.called.notify_all()
            return self.dues.pop(0) if self.dues else math.inf

    def wait(self, calls: int) -> None:
        with self.called:
            assert self.called.wait_for(lambda: self.calls >= calls, PATIENCE)


def test_work_is_called_when_it_is_due() -> None:
    work = Work(time.monotonic(), time.monotonic() + 0.02)
    reaper = Reaper(work, 'r')
    reaper.start()

    work.wait(3)

    reaper.stop()
    reaper.join(PATIENCE)


def test_a_sooner_due_time_wakes_it() -> None:
    work = Work()
    reaper = Reaper(work, 'r')
    reaper.start()
    work.wait(1)

    reaper.wake_by(time.monotonic())

    work.wait(2)
    reaper.stop()
    reaper.join(PATIENCE)


def test_work_that_fails_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    done = threading.Event()
    moments = iter([ValueError('odd'), None])

    def work() -> float:
        if next(moments) is not None:
            raise ValueError('odd')
        done.set()
        return math.inf

    reaper = Reaper(work, 'r')
    reaper.start()
    assert done.wait(PATIENCE)
    reaper.stop()
    reaper.join(PATIENCE)

    assert 'looking after sandboxes failed' in caplog.text


def test_stopping_is_immediate_and_may_come_before_the_start() -> None:
    never = Reaper(Work(), 'r')
    never.stop()
    never.join()

    reaper = Reaper(Work(), 'r')
    reaper.start()
    reaper.stop()
    reaper.join(PATIENCE)
    assert not reaper._thread.is_alive()
