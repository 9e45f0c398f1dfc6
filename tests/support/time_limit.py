"""A plug-in of pytest that limits the time of every test: what hangs fails, with the stacks of all threads, and the others run.

The set-up of a test, its call and its end are limited each for itself, since the end of a test that hung often hangs too. A
phase over its limit is ended by an exception in the main thread, and by another one each `AGAIN` seconds as long as it has not
ended. What no exception reaches, as a wait in C, has its process ended: the stacks are on standard error then, and xdist reports
the test as failed and has another worker run the tests that are left.

``pytest.mark.time_limit(seconds)`` sets another limit for a test, the variable ``TEST_SECONDS`` one for all; 0 is none.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import sys
import threading
import traceback
from collections.abc import Generator, Iterator
from types import FrameType
from typing import Any

import pytest

SECONDS = 600.0
"""Many times what the slowest test takes on two quiet cores."""
AFTER_ONE = 60.0
"""The limit of a phase after another one of the same test that was over its limit."""
AGAIN = 20.0
LAST = 120.0
"""How long a phase that is over its limit may take to end, until its process is ended."""

_standard_error = pytest.StashKey[int]()
_was_over = pytest.StashKey[bool]()


def pytest_configure(config: pytest.Config) -> None:
    """Keep standard error as it is while nothing is captured."""
    config.stash[_standard_error] = os.dup(2)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Let it go."""
    os.close(config.stash[_standard_error])


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, Any, Any]:
    """Limit the set-up."""
    with _limited(item, 'the set-up'):
        return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    """Limit the call."""
    with _limited(item, 'the call'):
        return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, Any, Any]:
    """Limit the end, that of shared fixtures included where this is their last test."""
    with _limited(item, 'the end'):
        return (yield)


def _seconds(item: pytest.Item) -> float:
    marker = item.get_closest_marker('time_limit')
    seconds = float(marker.args[0] if marker is not None else os.environ.get('TEST_SECONDS', SECONDS))
    return min(seconds, AFTER_ONE) if item.stash.get(_was_over, False) else seconds


@contextlib.contextmanager
def _limited(item: pytest.Item, phase: str) -> Iterator[None]:
    seconds = _seconds(item)
    if not seconds or not hasattr(signal, 'setitimer') or threading.current_thread() is not threading.main_thread():
        yield
        return

    def fail(number: int, frame: FrameType | None) -> None:
        item.stash[_was_over] = True
        pytest.fail(f'{phase} took more than {seconds:g} seconds. Where its threads were:\n\n{_stacks(frame)}')

    before = signal.signal(signal.SIGALRM, fail)
    faulthandler.dump_traceback_later(seconds + LAST, exit=True, file=item.config.stash[_standard_error])
    signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()
        signal.signal(signal.SIGALRM, before)


def _stacks(here: FrameType | None) -> str:
    """Return where every thread is; the main thread is in this frame."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    main = threading.main_thread().ident
    frames = {number: here if number == main else frame for number, frame in sys._current_frames().items()}
    return '\n'.join(
        f'Thread {names.get(number, number)}:\n{"".join(traceback.format_stack(frame))}'
        for number, frame in frames.items()
    )
