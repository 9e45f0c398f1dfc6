"""The thread that starts processes."""

from __future__ import annotations

import contextlib
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import Future, wait
from typing import Any

import pytest

from enclave.sandboxes.bubblewrap import launch
from enclave.sandboxes.bubblewrap.launch import start_process
from tests.support.host import PATIENCE


def test_one_that_is_interrupted_while_it_waits_leaves_no_process_and_nobody_at_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started, waiting = threading.Event(), threading.Event()
    made: list[subprocess.Popen[bytes]] = []
    left = []

    class Interrupted(Future[subprocess.Popen[bytes]]):
        def result(self, timeout: float | None = None) -> subprocess.Popen[bytes]:
            if not waiting.is_set():
                assert started.wait(PATIENCE)
                raise KeyboardInterrupt
            return super().result(timeout)

    class Recorded(subprocess.Popen[bytes]):
        def __init__(self, *args: Any, **named: Any) -> None:
            super().__init__(*args, **named)
            made.append(self)

    def wait_visibly(futures: list[Future[Any]]) -> None:
        waiting.set()
        wait(futures)

    @contextlib.contextmanager
    def around() -> Iterator[None]:
        yield
        started.set()
        assert waiting.wait(PATIENCE), 'nobody waits for what was started'
        left.append(True)

    monkeypatch.setattr(launch, 'Future', Interrupted)
    monkeypatch.setattr(launch, 'wait', wait_visibly)
    monkeypatch.setattr(launch.subprocess, 'Popen', Recorded)

    with pytest.raises(KeyboardInterrupt):
        start_process(['sleep', '1000'], around(), stdin=subprocess.PIPE)

    assert left == [True]
    assert [each.returncode for each in made] == [-9]
    assert made[0].stdin is not None
    assert made[0].stdin.closed
