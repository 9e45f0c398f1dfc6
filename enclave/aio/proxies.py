"""How a blocking call becomes an awaited one (layer 6): the only place where the two meet.

`run` makes a call on a thread of this library. The caller's context variables travel with it, and cancelling the await cancels
the work: a process that the call waits for in a sandbox is killed, a queue is left, half a file is rolled back. The await then
ends as soon as the work has, or after `GRACE_SECONDS` if the work cannot be stopped; what a call that nobody waits for any
more still brings about (a sandbox that has just been made, say) is undone.

`to_async` makes a coroutine function of a blocking method, with its signature and its docstring; `streamed` an asynchronous
iterator of a method that yields; `entered` an asynchronous context manager of one that is a context manager. An
`AsyncProxy` is an object with such methods over a blocking one.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import functools
import importlib
import inspect
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from types import TracebackType
from typing import Any, ClassVar, Concatenate, Generic, ParamSpec, TypeVar, cast, overload

from attrs import define, field

from enclave.cancellation import Cancellation, on_cancel
from enclave.errors import CallCancelledError
from enclave.portal import Caller, caller_of_this_call
from enclave.records import ToolResult
from enclave.threads import thread_pool

P = ParamSpec('P')
R = TypeVar('R')
T = TypeVar('T')
W = TypeVar('W')
F = TypeVar('F', bound='AsyncProxy')

GRACE_SECONDS = 1.0
"""How long a cancelled await waits for its work to end."""
UNDO_SECONDS = 10.0
"""How long it waits for what the work has brought about all the same to be rolled back."""
_LOOP_LOOK_SECONDS = 1.0

_NOTHING: Any = object()


@define(eq=False)
class _Work:
    """One call. All but `run` happens on the loop's thread, so that it needs no lock."""

    call: Callable[[], Any]
    loop: asyncio.AbstractEventLoop
    outcome: asyncio.Future[Any]
    undo: Callable[[Any], object] | None
    context: contextvars.Context
    cancellation: Cancellation
    ended: asyncio.Future[None] | None = None  # somebody who cancelled waits for this
    patience: asyncio.TimerHandle | None = None  # and for so long
    is_undoing: bool = False
    is_over: bool = False

    def run(self) -> None:
        """Make the call. Runs on a thread of the pool."""
        value, error = None, None
        try:
            value = self.context.run(self._under_cancellation)
        except BaseException as caught:
            error = caught
        try:
            self.loop.call_soon_threadsafe(self._deliver, value, error)
        except RuntimeError:  # the loop was closed meanwhile: nobody waits
            if error is None:
                self._roll_back(value)
        finally:
            error = None  # no circle of the traceback and this frame

    def _under_cancellation(self) -> Any:
        with self.cancellation.applied():
            return self.call()

    def _deliver(self, value: Any, error: BaseException | None) -> None:
        if self.outcome.done():
            if error is None:
                self.is_undoing = True
                self._have_patience(UNDO_SECONDS)
                thread_pool.submit(lambda: self._roll_back_and_report(value))
            else:
                self._report_ended()
        elif error is None:
            self.outcome.set_result(value)
        elif isinstance(error, StopIteration):
            self.outcome.set_exception(RuntimeError('a blocking call raised StopIteration'))
        else:
            self.outcome.set_exception(error)

    def _roll_back(self, value: Any) -> None:
        if self.undo is not None:
            with contextlib.suppress(Exception):  # it is gone already, or its owner is being stopped
                self.undo(value)
        self.cancellation.undo()

    def _roll_back_and_report(self, value: Any) -> None:
        self._roll_back(value)
        with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
            self.loop.call_soon_threadsafe(self._report_ended)

    async def abandon(self) -> None:
        """Stop the work, and wait a little for its end."""
        if not self.outcome.cancelled():
            # It ended in the very moment of the cancelling, and its result is lost with this await.
            if self.outcome.exception() is None:
                await run(functools.partial(self._roll_back, self.outcome.result()))
            return
        if self.is_over:
            return
        self.ended = self.loop.create_future()
        self._have_patience(UNDO_SECONDS if self.is_undoing else GRACE_SECONDS)
        if not self.is_undoing:
            thread_pool.submit(self.cancellation.cancel)
        try:
            await self.ended
        finally:
            self._have_patience(None)

    def _have_patience(self, seconds: float | None) -> None:
        if self.patience is not None:
            self.patience.cancel()
        waits = seconds is not None and self.ended is not None
        self.patience = self.loop.call_later(seconds or 0.0, self._report_ended) if waits else None

    def _report_ended(self) -> None:
        self.is_over = True
        if self.ended is not None and not self.ended.done():
            self.ended.set_result(None)

    def leave(self) -> None:
        """Stop the work without waiting: the coroutine that awaited it was closed, perhaps after its loop."""
        thread_pool.submit(self.cancellation.cancel)
        with contextlib.suppress(RuntimeError):
            self.outcome.cancel()


async def run(
    call: Callable[[], R],
    *,
    undo: Callable[[R], object] | None = None,
    proxy: AsyncProxy | None = None,
    context: contextvars.Context | None = None,
    cancellation: Cancellation | None = None,
) -> R:
    """Make a blocking call on a thread and await its result. Cancelling the await cancels the work.

    Args:
        undo: What to do, on a thread, with a result that nobody waits for any more.
        proxy: Whose call it is; see `Caller`.
        context: Make the call in this context, not in a copy of the present one.
        cancellation: What cancels the work; default is one of the call's own.
    """
    loop = asyncio.get_running_loop()
    context = contextvars.copy_context() if context is None else context
    context.run(caller_of_this_call.set, Caller(loop, None if proxy is None else proxy._present_workspace))
    work = _Work(call, loop, loop.create_future(), undo, context, cancellation or Cancellation())
    thread_pool.submit(work.run)
    try:
        return cast(R, await work.outcome)
    except asyncio.CancelledError:
        with contextlib.suppress(asyncio.CancelledError):  # cancelled again, meanwhile: then without waiting
            await work.abandon()
        raise
    except GeneratorExit:
        work.leave()
        raise


# Proxies ----------------------------------------------------------------------------------------------------------------


@define(eq=False)
class ProxyRegistry:
    """Which proxies results show themselves in, and by which texts.

    ``proxies`` holds them by the names (module, dot, name) of the classes they are proxies of; what is not in it is looked up in
    ``parent``. ``adapt`` changes tools' results.
    """

    adapt: Callable[[ToolResult], ToolResult] | None = None
    parent: ProxyRegistry | None = None
    proxies: dict[str, type[AsyncProxy]] = field(factory=dict)

    def find(self, cls: type[Any]) -> type[AsyncProxy] | None:
        """Return the proxy of a class or of the nearest one it derives from; None if there is none."""
        for each in cls.__mro__:
            proxy_registry: ProxyRegistry | None = self
            while proxy_registry is not None:
                kind = proxy_registry.proxies.get(f'{each.__module__}.{each.__qualname__}')
                if kind is not None:
                    return kind
                proxy_registry = proxy_registry.parent
        return None

    def present(self, value: Any) -> Any:
        """Return a blocking call's result as the asynchronous caller is to see it."""
        if isinstance(value, ToolResult):
            return value if self.adapt is None else self.adapt(value)
        kind = self.find(type(value))
        if kind is None:
            return value
        own = getattr(value, '_proxy', None)  # a user's sandbox that was written as a proxy
        if isinstance(own, AsyncProxy):
            return own
        return self.over(kind, value)

    def over(self, kind: type[F], blocking: Any) -> F:
        """Return a proxy of a certain class, whose results show themselves as this registry has it."""
        proxy = kind._over(blocking)
        if proxy._proxy_registry is not self:  # a class of the parent's
            proxy.__dict__['_proxy_registry'] = self
        return proxy


class AsyncProxy:
    """An asynchronous proxy of a blocking object, which it refers to and adds no state to. Two proxies of one object are equal.

    A public method that the proxy does not name, because the blocking object is of a user's own class, is made asynchronous when
    it is asked for.
    """

    _blocking: Any
    _proxy_registry: ClassVar[ProxyRegistry] = ProxyRegistry()
    _home: ClassVar[tuple[str, str]] = ('builtins', 'object')
    """Module and name of the class it is the proxy of."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if '_home' in cls.__dict__:
            cls._proxy_registry.proxies['.'.join(cls._home)] = cls

    @classmethod
    def _blocking_class(cls) -> type[Any]:
        module, name = cls._home
        found: type[Any] = getattr(importlib.import_module(module), name)
        return found

    @classmethod
    def _over(cls: type[F], blocking: Any) -> F:
        """Return a proxy of an object that is there already."""
        proxy = cls.__new__(cls)
        proxy._blocking = blocking
        return proxy

    def _present(self, value: Any) -> Any:
        """Return a blocking call's result as the asynchronous caller is to see it."""
        return self._proxy_registry.present(value)

    def _present_workspace(self, workspace: Any) -> Any:
        """Return the proxy of a workspace that a user's coroutine is to be handed."""
        return as_workspace(self._proxy_registry, workspace)

    def _tool_to_async(
        self, execute: Callable[..., ToolResult], parameters: Mapping[str, Any]
    ) -> Coroutine[Any, Any, ToolResult]:
        """Return the awaited call of a tool's blocking ``execute`` that was handed this proxy to work in."""

        async def call() -> ToolResult:
            work = functools.partial(execute, self._blocking, **parameters)
            return cast(ToolResult, self._present(await run(work, proxy=self)))

        return call()

    def __getattr__(self, name: str) -> Any:
        if name.startswith('_'):
            raise AttributeError(f'{type(self).__name__!r} object has no attribute {name!r}')
        value = getattr(self._blocking, name)
        return functools.partial(to_async(value.__func__), self) if inspect.ismethod(value) else value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AsyncProxy) and other._blocking is self._blocking

    def __hash__(self) -> int:
        # By the id, where there is one, which stays when the kind of a sandbox is chosen.
        return hash(getattr(self._blocking, 'id', self._blocking))

    def __repr__(self) -> str:
        return f'<aio {repr(self._blocking).lstrip("<")}'


def as_workspace(registry: ProxyRegistry, workspace: Any) -> AsyncProxy:
    """Return the proxy of a workspace by a registry; of something with a sandbox's verbs that is none, a plain one."""
    proxy = registry.present(workspace)
    return proxy if isinstance(proxy, AsyncProxy) else AsyncProxy._over(workspace)


def _below(value: Any) -> Any:
    """Return what the blocking classes are to be handed for an argument: they know no proxies."""
    return value._blocking if isinstance(value, AsyncProxy) else value


class Forwarded(Generic[T]):
    """An attribute of a proxy that is its blocking object's: no call, no wait."""

    def __init__(self, doc: str = '') -> None:
        self.__doc__ = doc
        self._name = ''

    def __set_name__(self, _owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, proxy: None, owner: type) -> Forwarded[T]: ...

    @overload
    def __get__(self, proxy: AsyncProxy, owner: type) -> T: ...

    def __get__(self, proxy: AsyncProxy | None, owner: type) -> Forwarded[T] | T:
        return self if proxy is None else cast(T, getattr(proxy._blocking, self._name))

    def __set__(self, proxy: AsyncProxy, value: T) -> None:
        setattr(proxy._blocking, self._name, value)


_CALLBACKS = ('on_stdout', 'on_stderr')
"""Arguments whose functions are called on the event loop's thread, and may be coroutine functions."""


def _on_this_loop(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function for another thread that has ``function`` called on this event loop, and waits for that."""
    loop = asyncio.get_running_loop()

    async def called(args: tuple[Any, ...]) -> None:
        result = function(*args)
        if inspect.isawaitable(result):
            await result

    def call(*args: Any) -> None:
        future = asyncio.run_coroutine_threadsafe(called(args), loop)

        def cancel() -> None:
            future.cancel()

        with on_cancel(cancel):
            while True:
                try:
                    return future.result(_LOOP_LOOK_SECONDS)
                except (TimeoutError, concurrent.futures.TimeoutError):
                    if future.done():
                        return future.result()
                    if loop.is_closed():
                        raise CallCancelledError('the event loop that awaited the call was closed') from None
                except concurrent.futures.CancelledError:
                    raise CallCancelledError('the call was cancelled') from None

    return call


def to_async(
    method: Callable[Concatenate[Any, P], R], *, undo: Callable[[Any, R], object] | None = None
) -> Callable[Concatenate[Any, P], Coroutine[Any, Any, R]]:
    """Return a blocking method as a coroutine function of an `AsyncProxy`, with the same signature and docstring.

    Args:
        undo: What to do with the blocking object and a result that nobody waits for any more.
    """
    name = method.__name__

    @functools.wraps(method)
    async def call(self: AsyncProxy, *args: P.args, **kwargs: P.kwargs) -> R:
        blocking = self._blocking
        given = [_below(each) for each in args]
        named = {
            word: _on_this_loop(each) if word in _CALLBACKS and callable(each) else _below(each)
            for word, each in kwargs.items()
        }
        work = functools.partial(getattr(blocking, name), *given, **named)
        taken_back = None if undo is None else functools.partial(undo, blocking)
        return cast(R, self._present(await run(work, undo=taken_back, proxy=self)))

    return cast('Callable[Concatenate[Any, P], Coroutine[Any, Any, R]]', call)


def to_async_as(
    kind: type[W] | Callable[..., W],
    method: Callable[Concatenate[Any, P], Any],
    *,
    undo: Callable[[Any, Any], object] | None = None,
) -> Callable[Concatenate[Any, P], Coroutine[Any, Any, W]]:
    """Return `to_async`, for a method whose result shows itself as another type, ``kind``: a proxy of it."""
    return cast('Callable[Concatenate[Any, P], Coroutine[Any, Any, W]]', to_async(method, undo=undo))


def streamed(
    method: Callable[Concatenate[Any, P], Iterator[T]],
) -> Callable[Concatenate[Any, P], AsyncIterator[T]]:
    """Return a blocking method that yields as one to be used with ``async for``. Leaving the loop ends the work."""
    name = method.__name__

    @functools.wraps(method)
    async def steps(self: AsyncProxy, *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[T]:
        # One context and one cancellation for all steps: a generator may hold on to what it found at its first one.
        options: dict[str, Any] = {'proxy': self, 'context': contextvars.copy_context(), 'cancellation': Cancellation()}
        source = await run(lambda: iter(getattr(self._blocking, name)(*args, **kwargs)), **options)
        try:
            while (item := await run(functools.partial(next, source, _NOTHING), **options)) is not _NOTHING:
                yield self._present(item)
        finally:
            close = getattr(source, 'close', None)
            if close is not None:
                thread_pool.submit(functools.partial(_closed, close))

    return cast('Callable[Concatenate[Any, P], AsyncIterator[T]]', steps)


def _closed(close: Callable[[], object]) -> None:
    with contextlib.suppress(Exception):
        close()


class _Entered(AbstractAsyncContextManager[T]):
    """A blocking context manager, entered and left on threads. Lives for one ``async with``."""

    def __init__(self, proxy: AsyncProxy, make: Callable[[], AbstractContextManager[Any]]) -> None:
        self._proxy = proxy
        self._make = make
        self._manager: AbstractContextManager[Any] | None = None

    async def __aenter__(self) -> T:
        manager = self._manager = self._make()
        value = await run(manager.__enter__, undo=lambda _: manager.__exit__(None, None, None), proxy=self._proxy)
        return cast(T, self._proxy._present(value))

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        assert self._manager is not None
        return await run(functools.partial(self._manager.__exit__, kind, error, traceback), proxy=self._proxy)


def entered(
    kind: type[W] | Callable[..., W], method: Callable[Concatenate[Any, P], AbstractContextManager[Any]]
) -> Callable[Concatenate[Any, P], AbstractAsyncContextManager[W]]:
    """Return a blocking method that gives a context manager as one for ``async with``, which gives a ``kind``."""
    name = method.__name__

    @functools.wraps(method)
    def enter(self: AsyncProxy, *args: P.args, **kwargs: P.kwargs) -> AbstractAsyncContextManager[W]:
        return _Entered(self, functools.partial(getattr(self._blocking, name), *args, **kwargs))

    return cast('Callable[Concatenate[Any, P], AbstractAsyncContextManager[W]]', enter)
