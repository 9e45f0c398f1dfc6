"""The watchdog of kernels, over a kernel that cannot be ended."""

from __future__ import annotations

import threading

from enclave.sandboxes.notebook.watchdog import KernelWatchdog

PATIENCE = 60.0


class Unreachable:
    def __init__(self) -> None:
        self.stuck = threading.Event()

    def has_finished(self, request_id: str, seconds: float) -> bool:
        return False

    def interrupt(self) -> None:
        raise RuntimeError("can't start new thread")

    def kill(self, verdict: str) -> None:
        raise AssertionError('unreachable')

    def report_stuck(self, request_id: str) -> None:
        self.stuck.set()


def test_the_caller_of_a_cell_that_could_not_be_ended_hears_it() -> None:
    kernel = Unreachable()
    watchdog = KernelWatchdog(kernel, 'test')

    watchdog.begin('request', 0.001, 1.0)

    assert kernel.stuck.wait(PATIENCE)
    watchdog.close()
