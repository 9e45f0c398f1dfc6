"""Where a command's output may be handed on while the command runs (layer 0).

A server that is asked for a result gives the bytes of a large output to its client as they come, and the result when it is there.
What runs the command is some layers below it, so the server offers an `Outlet` in the context of the call. Only what gives back
the command's output as it is, as ``shell_executor`` does, takes the offer: of a tool that reads an output and returns a number,
nobody wants the output.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator
from typing import Protocol

STDOUT = 1
STDERR = 2
LARGE_BYTES = 64 << 10
"""An output of fewer bytes is part of its result, as ever."""
PIECE_BYTES = 256 << 10
"""How much comes before what came is handed on, since each time wakes others. Of a very large output more does."""
MOST_PIECE_BYTES = 1 << 20


class HandedOn(Protocol):
    """One stream of a command's output, of which more may come."""

    pieces: list[bytes]


class Outlet(Protocol):
    """Takes output for the length of one call. Only the thread of the call uses it."""

    def take(self, stream: int, output: HandedOn) -> bool:
        """Hand on what came of a stream, as far as that blocks nobody; return whether any of the stream was handed on yet."""


_NOTHING = contextlib.nullcontext()
_offered: contextvars.ContextVar[Outlet | None] = contextvars.ContextVar('enclave_outlet_offered', default=None)
_current: contextvars.ContextVar[Outlet | None] = contextvars.ContextVar('enclave_outlet', default=None)


class _Set:
    """A block in which a variable has another value."""

    __slots__ = ('_token', '_value', '_variable')

    def __init__(self, variable: contextvars.ContextVar[Outlet | None], value: Outlet | None) -> None:
        self._variable = variable
        self._value = value

    def __enter__(self) -> None:
        self._token = self._variable.set(self._value)

    def __exit__(self, *_: object) -> None:
        self._variable.reset(self._token)


def offered(outlet: Outlet | None) -> contextlib.AbstractContextManager[None]:
    """Offer an outlet, for the block, to what takes it by `gives_output`."""
    return _NOTHING if outlet is None else _Set(_offered, outlet)


def gives_output() -> contextlib.AbstractContextManager[None]:
    """Take the offer for the block: the output of the command in it is given back as it is."""
    outlet = _offered.get()
    return _NOTHING if outlet is None else _Set(_current, outlet)


def keeps_output() -> contextlib.AbstractContextManager[None]:
    """Have no output handed on in the block: less is given back than what is caught."""
    return _NOTHING if _current.get() is None else _Set(_current, None)


_most_kept: contextvars.ContextVar[int | None] = contextvars.ContextVar('enclave_most_kept', default=None)


@contextlib.contextmanager
def keeping_at_most(size: int) -> Iterator[None]:
    """Bound, for the block, how many bytes of a stream are caught for a file where a result is shortened to a budget."""
    token = _most_kept.set(size)
    try:
        yield
    finally:
        _most_kept.reset(token)


def most_kept() -> int | None:
    """Return how many bytes of a stream may be caught for a file; None where nobody bounds it."""
    return _most_kept.get()


def current_outlet() -> Outlet | None:
    """Return where the output of a command goes that runs now; None for nowhere."""
    return _current.get()
