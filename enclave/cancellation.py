"""How a blocking call is made to stop from elsewhere (layer 0).

The one that starts work on another thread makes a `Cancellation` and sets it in the context of that work; the calls below
register what stops them for as long as they wait. `cancel` then runs those actions: the process in the sandbox is killed, a
queue is left. The asynchronous proxies and the server use it; blocking programs rarely need to.
"""

from __future__ import annotations

import contextlib
import contextvars
import logging
import threading
from collections.abc import Callable, Iterable, Iterator

from attrs import define, field

from enclave.errors import CallCancelledError

logger = logging.getLogger(__name__)

PIECE_BYTES = 1 << 20
"""How much of a transfer may continue after its work was cancelled."""

_NOTHING = contextlib.nullcontext()
_current: contextvars.ContextVar[Cancellation | None] = contextvars.ContextVar('enclave_cancellation', default=None)


@define(eq=False)
class Cancellation:
    """Something that may be cancelled once. Lives as long as its work. Any thread may cancel it."""

    _lock: threading.Lock = field(factory=threading.Lock, init=False, repr=False)
    # Guarded by _lock:
    _actions: list[Callable[[], None]] = field(factory=list, init=False, repr=False)
    _undos: list[Callable[[], None]] = field(factory=list, init=False, repr=False)
    _cancelled: bool = field(default=False, init=False)

    @property
    def is_cancelled(self) -> bool:
        """Whether `cancel` was called."""
        with self._lock:
            return self._cancelled

    def cancel(self) -> None:
        """Stop the work: run what is registered now, and whatever is registered later at once. May be called twice."""
        with self._lock:
            self._cancelled = True
            actions, self._actions = self._actions, []
        for action in actions:
            _run(action)

    def calls(self, action: Callable[[], None]) -> contextlib.AbstractContextManager[None]:
        """Have ``action`` called if the work is cancelled within this block (or was before); it must be quick."""
        return _Called(self, action)

    def undo(self) -> None:
        """Roll back, last things first, what the work has brought about and nobody is there to have; see `if_unwanted`."""
        with self._lock:
            undos, self._undos = self._undos, []
        for undo in reversed(undos):
            _run(undo)

    def applied(self) -> contextlib.AbstractContextManager[Cancellation]:
        """Make this the current one of the calling context, for the block."""
        return _Applied(self)


class _Called:
    """The block of `Cancellation.calls`. A class, since each call goes through several: a generator would take twice the time."""

    __slots__ = ('_action', '_cancellation')

    def __init__(self, cancellation: Cancellation, action: Callable[[], None]) -> None:
        self._cancellation = cancellation
        self._action = action

    def __enter__(self) -> None:
        found = self._cancellation
        with found._lock:
            late = found._cancelled
            if not late:
                found._actions.append(self._action)
        if late:
            _run(self._action)

    def __exit__(self, *_: object) -> None:
        found = self._cancellation
        with found._lock:
            if self._action in found._actions:
                found._actions.remove(self._action)


class _Applied:
    """The block of `Cancellation.applied`."""

    __slots__ = ('_cancellation', '_token')

    def __init__(self, cancellation: Cancellation) -> None:
        self._cancellation = cancellation

    def __enter__(self) -> Cancellation:
        self._token = _current.set(self._cancellation)
        return self._cancellation

    def __exit__(self, *_: object) -> None:
        _current.reset(self._token)


def _run(action: Callable[[], None]) -> None:
    try:
        action()
    except Exception:
        logger.warning('an action on cancelling failed', exc_info=True)


def on_cancel(action: Callable[[], None]) -> contextlib.AbstractContextManager[None]:
    """Have ``action`` called if the current context's work is cancelled within the block of what this returns."""
    current = _current.get()
    return _NOTHING if current is None else current.calls(action)


def if_unwanted(undo: Callable[[], None]) -> None:
    """Have ``undo`` called should the current context's work be cancelled after it has succeeded, so that nobody gets to know."""
    current = _current.get()
    if current is not None:
        with current._lock:
            current._undos.append(undo)


def is_cancelled() -> bool:
    """Return whether the current context's work was cancelled."""
    current = _current.get()
    return current is not None and current.is_cancelled


def until_cancelled(pieces: Iterable[bytes], what: str) -> Iterator[bytes]:
    """Yield the bytes of a transfer, in pieces of `PIECE_BYTES` at most, for as long as its work is not cancelled.

    Whose work it is, is seen at the first step: later ones may be made from elsewhere, as a server does with its answers.

    Args:
        what: What the transfer is, as a noun: ``'the upload'``.

    Raises:
        CallCancelledError: It was cancelled, be it that the last piece has just come.
    """
    current = _current.get()

    def check() -> None:
        if current is not None and current.is_cancelled:
            raise CallCancelledError(f'{what} was cancelled')

    check()
    for piece in pieces:
        for start in range(0, len(piece), PIECE_BYTES):
            check()
            yield piece if len(piece) <= PIECE_BYTES else piece[start : start + PIECE_BYTES]
    check()
