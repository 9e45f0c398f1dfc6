"""Sandboxes that users wrote with coroutine functions (layer 6).

A sandbox written as a subclass of a proxy gets a blocking class made for it (`blocking_class_of`), whose verbs drive the
user's on an event loop (`enclave.portal`). That class is what is registered, so that every manager, sync or async, can use it.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from enclave.aio.proxies import Forwarded, run
from enclave.errors import InvalidArgumentError
from enclave.portal import CoroutineFunction, drive

if TYPE_CHECKING:
    from enclave.aio.sandboxes import Sandbox

_driving: contextvars.ContextVar[frozenset[int]] = contextvars.ContextVar('enclave_aio_driving', default=frozenset())


def adopt(cls: type[Sandbox]) -> None:
    """Prepare a user's proxy class: each verb that it defines itself goes through the blocking class made for it.

    So states, checks and tools are the library's, sync and async. From within one of its own verbs, another is
    called as it is written.
    """
    own = dict(getattr(cls, '_own', {}))
    for name, function in list(cls.__dict__.items()):
        if name.startswith('_') or not inspect.iscoroutinefunction(function) or not _is_inherited(cls, name):
            continue
        own[name] = function
        setattr(cls, name, _verb(name, function))
    cls._own = own  # type: ignore[attr-defined]


def _is_inherited(cls: type[Any], name: str) -> bool:
    return any(hasattr(base, name) for base in cls.__bases__)


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
        """How many calls are running."""
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
    namespace: dict[str, Any] = {'proxy_class': cls, 'own': own, '__doc__': cls.__doc__, '__module__': cls.__module__}
    is_backend = inspect.isabstract(over)
    handled = {'start', 'stop', 'cleanup', 'execute_command'} if is_backend else {'start', 'cleanup'}
    for name in own:
        if name not in handled:
            namespace[name] = _driven(name)
    for name in ('sandbox_type', 'config_class', 'offers'):
        given = inspect.getattr_static(cls, name)
        if isinstance(given, property):
            namespace[name] = property(functools.partial(_proxy_attribute, name))
        elif not isinstance(given, Forwarded):
            namespace[name] = given
    return type(cls.__name__, (_DrivenOnly if is_backend else _DrivenOver, over), namespace)


def _proxy_attribute(name: str, driven: Driven) -> Any:
    return getattr(driven._proxy, name)


_USES = frozenset({'execute_command', 'run_script', 'execute_tool'})
"""The verbs that are use of a sandbox."""


def _driven(name: str) -> Callable[..., Any]:
    def verb(self: Driven, *args: Any, **kwargs: Any) -> Any:
        if self._is_driving():
            # The user's `super()`: what the class below the two of this library does.
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
