"""Where a command's output may be handed on while the command runs (layer 0).

A server that is asked for a result gives the bytes of a large output to its client as they come, and the result when it is there.
What runs the command is some layers below it, so the server offers an `Outlet` in the context of the call. Only what gives back
the command's output as it is, as ``shell_executor`` does, takes the offer: of a tool that reads an output and returns a number,
nobody wants the output.
"""

from __future__ import annotations

import contextlib
import contextvars
import threading
from collections.abc import Callable
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


class Offered:
    """Offer an outlet, for the block, to what takes it by `gives_output`; it is made when there is something for it.

    Most calls print little, and an outlet that each of them had made would be made for nothing. The block is one call's, and of
    the thread that enters it.

    Args:
        make: Returns the outlet, the same each time; None where there is none after all.
        most_kept: How many bytes of a stream are caught for a file, in the block, where a result is shortened to a budget; None
            for no bound.
    """

    __slots__ = ('_thread', '_token', 'make', 'most_kept')

    def __init__(self, make: Callable[[], Outlet | None] | None = None, *, most_kept: int | None = None) -> None:
        self.make = make
        self.most_kept = most_kept

    def __enter__(self) -> None:
        self._thread = threading.get_ident()
        self._token = _offered.set(self)

    def __exit__(self, *_: object) -> None:
        _offered.reset(self._token)

    @property
    def is_ours(self) -> bool:
        """Whether this is its block's thread: a context may be copied to others."""
        return self._thread == threading.get_ident()


_offered: contextvars.ContextVar[Offered | None] = contextvars.ContextVar('enclave_outlet_offered', default=None)
_current: contextvars.ContextVar[Offered | None] = contextvars.ContextVar('enclave_outlet', default=None)


class _Current:
    """A block in which another offer is the one that is taken."""

    __slots__ = ('_offer', '_token')

    def __init__(self, offer: Offered | None) -> None:
        self._offer = offer

    def __enter__(self) -> None:
        self._token = _current.set(self._offer)

    def __exit__(self, *_: object) -> None:
        _current.reset(self._token)


def gives_output() -> contextlib.AbstractContextManager[None]:
    """Take the offer for the block: the output of the command in it is given back as it is."""
    offer = _offered.get()
    return _NOTHING if offer is None or offer.make is None else _Current(offer)


def keeps_output() -> contextlib.AbstractContextManager[None]:
    """Have no output handed on in the block: less is given back than what is caught."""
    return _NOTHING if _current.get() is None else _Current(None)


def most_kept() -> int | None:
    """Return how many bytes of a stream may be caught for a file; None where nobody bounds it."""
    offer = _offered.get()
    return None if offer is None else offer.most_kept


def current_outlet() -> Callable[[], Outlet | None] | None:
    """Return what makes the outlet for a command that runs now, where its output is large; None where it goes nowhere."""
    offer = _current.get()
    return None if offer is None or not offer.is_ours else offer.make
