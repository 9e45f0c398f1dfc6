"""Users' coroutine functions below the blocking heart (floor 6): tools and sandboxes that were written to be awaited.

The heart calls them from a thread. `drive` has the coroutine run on an event loop and waits for its result: on the loop
whose await led here, so that the user's code meets the loop that its own objects belong to; else on a loop of ours.

A sandbox written as a subclass of a proxy gets a blocking class made for it (`blocking_class_of`), whose verbs drive the
user's. That class is what is registered, so that every manager of either colour can use it.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import functools
import inspect
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any, ClassVar

from attrs import frozen

from enclave.aio.proxies import AsyncProxy, Forwarded, caller_of_this_call, run
from enclave.aio.sandboxes import Sandbox
from enclave.cancellation import on_cancel
from enclave.errors import CallCancelledError, InvalidArgumentError

CoroutineFunction = Callable[..., Coroutine[Any, Any, Any]]

START_SECONDS = 5.0
"""How long a loop may take to begin with a coroutine; then it is held up by whoever waits for us, and another takes it."""
LOOK_SECONDS = 1.0
"""How often one looks whether the loop is still there."""

_driving: contextvars.ContextVar[frozenset[int]] = contextvars.ContextVar('enclave_aio_driving', default=frozenset())


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
    """A coroutine on its way to a loop; whoever claims it first, the loop or the one who posted it, has it."""

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
    proxy_registry = (Sandbox if caller is None or caller.proxy is None else type(caller.proxy))._proxy_registry
    proxy = proxy_registry.present(workspace)
    if not isinstance(proxy, AsyncProxy):  # no sandbox, but something with the verbs of one
        proxy = AsyncProxy._over(workspace)
    return drive(functools.partial(execute, proxy, *args, **parameters))


# Sandboxes ------------------------------------------------------------------------------------------------------------


def adopt(cls: type[Sandbox]) -> None:
    """Prepare a user's proxy class: each verb that it defines itself goes through the blocking class made for it.

    So the states, the checks and the tools are the heart's, whoever calls. From within one of its own verbs, another is
    called as it is written.
    """
    own = dict(getattr(cls, '_own', {}))
    for name, function in list(cls.__dict__.items()):
        if name.startswith('_') or not inspect.iscoroutinefunction(function) or not hasattr(Sandbox, name):
            continue
        own[name] = function
        setattr(cls, name, _verb(name, function))
    cls._own = own  # type: ignore[attr-defined]


def _verb(name: str, function: CoroutineFunction) -> CoroutineFunction:
    @functools.wraps(function)
    async def verb(self: Sandbox, *args: Any, **kwargs: Any) -> Any:
        if id(self._blocking) in _driving.get():
            return await function(self, *args, **kwargs)
        work = functools.partial(getattr(self._blocking, name), *args, **kwargs)
        return self._present(await run(work, proxy=self))

    return verb


class Driven:
    """What the blocking classes made for users' proxies share. Mixed in before the blocking class it is over."""

    proxy_class: ClassVar[type[Sandbox]]
    own: ClassVar[dict[str, CoroutineFunction]]
    _proxy: Any

    def __init__(self, config: Any = None, sandbox_id: str | None = None, *, proxy: Sandbox | None = None) -> None:
        is_new = proxy is None
        if proxy is None:
            proxy = self.proxy_class.__new__(self.proxy_class)
        proxy._blocking = self
        self._proxy = proxy
        self._home_loop: asyncio.AbstractEventLoop | None = None
        self._driven_calls = 0  # guarded by _changed
        super().__init__(config, sandbox_id)  # type: ignore[call-arg]
        if is_new:
            proxy.__init__(self.config, self.id)  # type: ignore[misc, attr-defined]

    def _is_driving(self) -> bool:
        return id(self) in _driving.get()

    def _drive(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Drive one of the user's own verbs, if there is one, on the loop that its first one ran on."""
        function = self.own.get(name)
        if function is None:
            return None

        async def go() -> Any:
            _driving.set(_driving.get() | {id(self)})
            if self._home_loop is None or not self._home_loop.is_running():
                self._home_loop = asyncio.get_running_loop()
            return await function(self._proxy, *args, **kwargs)

        return drive(go, home=self._home_loop)

    def _call(self: Any, name: str, *args: Any, **kwargs: Any) -> Any:
        """Drive a verb that is use of the sandbox: it must run, and is not idle meanwhile."""
        self._check_usable()
        with self._changed:
            self._driven_calls += 1
        try:
            return self._drive(name, *args, **kwargs)
        finally:
            with self._changed:
                self._driven_calls -= 1
                self.used_at = time.monotonic()

    @property
    def active_calls(self) -> int:
        """How many calls are going on."""
        below: int = super().active_calls  # type: ignore[misc]
        return max(below, self._driven_calls)


class _DrivenOnly(Driven):
    """For proxies that are a backend of their own: the user's `start` and `stop` are all there is of it."""

    def start(self) -> None:
        if not self._is_driving():  # else it is the user's `super().start()`
            super().start()  # type: ignore[misc]

    def stop(self) -> None:
        if not self._is_driving():
            super().stop()  # type: ignore[misc]

    def cleanup(self) -> None:
        if not self._is_driving():
            super().cleanup()  # type: ignore[misc]

    def _start(self) -> None:
        self._drive('start')

    def _stop(self, *, keep: bool) -> None:
        self._drive('stop')
        if not keep:
            self._drive('cleanup')

    def execute_command(self, command: Any, timeout: float | None = None, **options: Any) -> Any:
        if 'execute_command' not in self.own or self._is_driving():
            raise NotImplementedError(f'{self.proxy_class.__name__} must define execute_command')
        return self._call('execute_command', command, timeout, **options)


class _DrivenOver(Driven):
    """For proxies that change verbs of a backend there is."""

    def start(self) -> None:
        if self._is_driving() or 'start' not in self.own:
            super().start()  # type: ignore[misc]
            return
        try:
            self._drive('start')
        except BaseException:
            self._stop_failed()  # type: ignore[attr-defined]
            raise

    def cleanup(self) -> None:
        if not self._is_driving():
            self._drive('cleanup' if 'cleanup' in self.own else 'stop')
        super().cleanup()  # type: ignore[misc]


def blocking_class_of(cls: type[Sandbox]) -> type[Any]:
    """Return the blocking class of a proxy: the one it is the proxy of, or the one made for a user's."""
    if '_home' in cls.__dict__:
        return cls._blocking_class()
    made = cls.__dict__.get('_made')
    if made is None:
        made = cls._made = _make_class(cls)  # type: ignore[attr-defined]
    found: type[Any] = made
    return found


def _make_class(cls: type[Sandbox]) -> type[Any]:
    over = cls._blocking_class()
    own: dict[str, CoroutineFunction] = getattr(cls, '_own', {})
    words: dict[str, Any] = {'proxy_class': cls, 'own': own, '__doc__': cls.__doc__, '__module__': cls.__module__}
    is_backend = inspect.isabstract(over)
    handled = {'start', 'stop', 'cleanup', 'execute_command'} if is_backend else {'start', 'cleanup'}
    for name in own:
        if name not in handled:
            words[name] = _driven(name)
    for name in ('sandbox_type', 'config_class', 'offers'):
        given = inspect.getattr_static(cls, name)
        if isinstance(given, property):
            words[name] = property(functools.partial(_face_attribute, name))
        elif not isinstance(given, Forwarded):
            words[name] = given
    return type(cls.__name__, (_DrivenOnly if is_backend else _DrivenOver, over), words)


def _face_attribute(name: str, driven: Driven) -> Any:
    return getattr(driven._proxy, name)


_USES = frozenset({'execute_command', 'run_script', 'execute_tool'})
"""The verbs that are use of a sandbox."""


def _driven(name: str) -> Callable[..., Any]:
    def verb(self: Driven, *args: Any, **kwargs: Any) -> Any:
        if self._is_driving():
            # The user's `super()`: what the class below the two of ours does.
            return getattr(super(_layer_of(self), self), name)(*args, **kwargs)
        return (self._call if name in _USES else self._drive)(name, *args, **kwargs)

    verb.__name__ = name
    return verb


def _layer_of(driven: Driven) -> type[Driven]:
    return _DrivenOnly if isinstance(driven, _DrivenOnly) else _DrivenOver


def make_blocking(proxy: Sandbox, config: Any, sandbox_id: str | None) -> Any:
    """Return the new blocking sandbox of a proxy that is being made."""
    cls = blocking_class_of(type(proxy))
    if inspect.isabstract(cls):
        raise InvalidArgumentError(
            f'a {type(proxy).__name__} is made by SandboxFactory.create_sandbox, or by a class of a certain kind'
        )
    return cls(config, sandbox_id, proxy=proxy) if issubclass(cls, Driven) else cls(config, sandbox_id)
