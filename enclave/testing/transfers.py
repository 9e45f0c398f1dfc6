"""Transfers that are cancelled in their midst (layer 6)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from enclave.cancellation import Cancellation, on_cancel
from enclave.errors import CallCancelledError
from enclave.testing.kinds import PATIENCE_SECONDS


class TransferGate:
    """Holds a transfer after its first piece, until its work is cancelled. For one transfer."""

    def __init__(self) -> None:
        self.under_way = threading.Event()
        self.was_cancelled = threading.Event()

    def held(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """Yield the pieces; after each it waits."""
        for piece in pieces:
            yield piece
            self.under_way.set()
            with on_cancel(self.was_cancelled.set):
                assert self.was_cancelled.wait(PATIENCE_SECONDS), 'nobody cancelled the transfer'

    def hold(self, function: Callable[..., Iterable[bytes]]) -> Callable[..., Iterator[bytes]]:
        """Return a function whose pieces are held."""
        return lambda *args, **kwargs: self.held(function(*args, **kwargs))


UPLOADS = [f'enclave.sandboxes.{each}.until_cancelled' for each in ('agent_operations', 'docker.transfer')]
"""What the pieces of every upload of a sandbox with an agent go through."""


def cancel_midway(call: Callable[[], Any], under_way: threading.Event) -> None:
    """Make a call, cancel it once it is under way, and see that it says so."""
    cancellation = Cancellation()
    ends: list[Any] = []

    def work() -> None:
        with cancellation.applied():
            try:
                ends.append(call())
            except BaseException as error:
                ends.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    assert under_way.wait(PATIENCE_SECONDS)
    cancellation.cancel()
    thread.join(PATIENCE_SECONDS)
    assert not thread.is_alive(), 'the call continues'
    assert [type(end) for end in ends] == [CallCancelledError], ends
