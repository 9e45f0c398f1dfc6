"""How blocking code runs a user's coroutine function (layer 0): tools and sandboxes that were written to be awaited.

`drive` has the coroutine run on an event loop and waits for its result: on the loop whose await led here, so that the user's
code meets the loop that its own objects belong to; else on a loop of the library's.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import functools
import threading
from collections.abc import Callable, Coroutine
from typing import Any

from attrs import frozen

from enclave.cancellation import on_cancel
from enclave.errors import CallCancelledError
from enclave.registry import Registry

CoroutineFunction = Callable[..., Coroutine[Any, Any, Any]]

START_SECONDS = 5.0
"""How long a loop may take to begin with a coroutine; then a caller that waits for this call blocks it, and another takes it."""
LOOK_SECONDS = 1.0
"""How often one looks whether the loop is still there."""


@frozen(eq=False)
class Caller:
    """Who awaits a call: the event loop, and how a blocking object is presented to it (None: as every program sees it)."""

    loop: asyncio.AbstractEventLoop
    present: Callable[[Any], Any] | None


caller_of_this_call: contextvars.ContextVar[Caller | None] = contextvars.ContextVar('enclave_aio_caller', default=None)

PRESENTERS: Registry[Callable[[Any], Any]] = Registry({'workspace': ('enclave.aio.sandboxes', 'present_workspace')})
"""What makes the asynchronous proxy of a workspace where no awaiting caller says how, by name: imported at the first need."""


# Loops ----------------------------------------------------------------------------------------------------------------


class _OwnLoop:
    """The event loop of blocking programs: one daemon thread, made at the first need, for as long as the process lives."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards the one below
        self._loop: asyncio.AbstractEventLoop | None = None

    def get(self) -> asyncio.AbstractEventLoop:
        """Return the loop, running.

        Raises:
            RuntimeError: The interpreter is exiting and makes no thread for it any more.
        """
        with self._lock:
            if self._loop is None or not self._loop.is_running():
                loop, running = asyncio.new_event_loop(), threading.Event()
                loop.call_soon(running.set)
                thread = threading.Thread(target=loop.run_forever, name='enclave-aio-loop', daemon=True)
                try:
                    thread.start()
                except RuntimeError:
                    loop.close()
                    raise
                running.wait()
                self._loop = loop
            return self._loop


_own_loop = _OwnLoop()


class _Posted:
    """A coroutine on its way to a loop; the one that claims it first, the loop or the one who posted it, has it."""

    def __init__(self, function: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        self._function = function
        self._claim = threading.Lock()
        self.begun = threading.Event()

    def claim(self) -> bool:
        """Return whether nobody had it before."""
        return self._claim.acquire(blocking=False)

    async def go(self) -> Any:
        """Make the call, on the loop."""
        if not self.claim():
            return None
        self.begun.set()
        return await _ended(self._function)


def drive(function: Callable[[], Coroutine[Any, Any, Any]], *, home: asyncio.AbstractEventLoop | None = None) -> Any:
    """Call a coroutine function and wait for its result. Cancelling the work that waits cancels the coroutine.

    Args:
        home: The loop to prefer, if it runs.

    Raises:
        CallCancelledError: It was cancelled.
    """
    caller = caller_of_this_call.get()
    here = asyncio._get_running_loop()
    for loop in (home, None if caller is None else caller.loop):
        if loop is None or loop is here or not loop.is_running():
            continue
        posted = _Posted(function)
        waiting = posted.go()
        try:
            future = asyncio.run_coroutine_threadsafe(waiting, loop)
        except RuntimeError:  # it was closed in this moment
            waiting.close()
            continue
        if posted.begun.wait(START_SECONDS) or not posted.claim():
            return _wait(future, loop)
        future.cancel()
    try:
        loop = _own_loop.get()
    except RuntimeError:
        return _drive_here(function)
    return _wait(asyncio.run_coroutine_threadsafe(_ended(function), loop), loop)


@frozen
class _Exit:
    """An exception that would end the event loop it passes through; it is raised where the coroutine is waited for."""

    error: BaseException


async def _ended(function: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    try:
        return await function()
    except (SystemExit, KeyboardInterrupt) as error:
        return _Exit(error)


def _wait(future: concurrent.futures.Future[Any], loop: asyncio.AbstractEventLoop) -> Any:
    def cancel() -> None:
        future.cancel()

    with on_cancel(cancel):
        while True:
            try:
                result = future.result(LOOK_SECONDS)
                if isinstance(result, _Exit):
                    raise result.error
                return result
            except concurrent.futures.CancelledError:
                raise CallCancelledError('the call was cancelled') from None
            except TimeoutError:
                if future.done():
                    return future.result()  # the coroutine's own TimeoutError
            except concurrent.futures.TimeoutError:  # another class before Python 3.11
                if future.done():
                    return future.result()
            if loop.is_closed():
                raise CallCancelledError('the event loop that the call ran on was closed')


def _drive_here(function: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """Drive it on this very thread, even below a running loop: an interpreter that is exiting has no thread for it."""
    here = asyncio._get_running_loop()
    asyncio._set_running_loop(None)
    try:
        loop = asyncio.new_event_loop()
        try:
            return loop.run_until_complete(function())
        finally:
            loop.close()
    finally:
        asyncio._set_running_loop(here)


# Tools ----------------------------------------------------------------------------------------------------------------


def drive_tool(execute: CoroutineFunction, workspace: Any, *args: Any, **parameters: Any) -> Any:
    """Call a tool's own coroutine function with a proxy of the workspace, and wait for its result."""
    caller = caller_of_this_call.get()
    present = PRESENTERS.find('workspace') if caller is None or caller.present is None else caller.present
    assert present is not None
    return drive(functools.partial(execute, present(workspace), *args, **parameters))
