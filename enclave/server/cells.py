"""Cells that are followed as they run (layer 6); see `enclave.server.live` for how their outputs are kept.

A cell waits where its readers do not take its outputs, but no longer than its own time limit, which holds whatever they do.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import time
import uuid
from collections.abc import Callable, Generator, Iterator
from typing import Any

from enclave import wire
from enclave.cancellation import Cancellation
from enclave.cells import CellResult
from enclave.errors import ConflictError, InvalidArgumentError
from enclave.managers.protocol import CellEvent, CellStreamRequest
from enclave.sandboxes.notebook.sandbox import Steps
from enclave.server.live import EventLog, EventLogTable

KEPT_BYTES = 8 << 20
"""How much of what was read of a cell is kept: as much as its largest output by default, so that a connection that breaks in the
middle of one finds it again."""
PIECE_CHARACTERS = 256 << 10
_NO_ROOM: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
_ID = re.compile(r'[A-Za-z0-9_-]{8,64}')


class LiveCell(EventLog):
    """One cell.

    Args:
        steps: What `NotebookSandbox.stream_cell` gave; nothing of it runs before `start`.
        fingerprint: What distinguishes its request from another.
        timeout: Its time limit in seconds, or None.
    """

    noun = 'cell'

    def __init__(
        self, sandbox_id: str, cell_id: str, kernel: str, steps: Steps, fingerprint: bytes, timeout: float | None
    ) -> None:
        super().__init__(sandbox_id, cell_id, attended=True, kept_bytes=KEPT_BYTES, patience=timeout)
        self.fingerprint = fingerprint
        self._kernel = kernel
        self._steps = steps
        self._cancellation = Cancellation()

    def _started(self) -> CellEvent:
        return CellEvent(event='started', cell_id=self.id, kernel=self._kernel)

    def _events(self) -> Generator[CellEvent, None, None]:
        with self._cancellation.applied(), contextlib.closing(self._steps):
            for step in self._steps:
                if isinstance(step, CellResult):
                    yield CellEvent(event='end', result=step)
                else:
                    for piece in _pieces(step):
                        yield CellEvent(event='output', output=piece)

    def cancel(self) -> None:
        """Interrupt it, or take it out of the queue. Outputs that nobody makes room for do not hold it up any more."""
        self.hurry()
        self._cancellation.cancel()


def _pieces(output: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield an output, the new text of a stream in pieces: a kernel that prints without end sends megabytes at once."""
    text = output.get('text')
    if not isinstance(text, str) or len(text) <= PIECE_CHARACTERS:
        yield output
        return
    for start in range(0, len(text), PIECE_CHARACTERS):
        yield {**output, 'text': text[start : start + PIECE_CHARACTERS]}


class Cells(EventLogTable[LiveCell]):
    """The cells of one tenant."""

    def __init__(self, limit: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__('cell', 'cells', limit, clock=clock)

    def start(
        self,
        sandbox_id: str,
        request: CellStreamRequest,
        make: Callable[[], Steps],
        timeout: float | None,
        room: contextlib.AbstractContextManager[None] = _NO_ROOM,
    ) -> LiveCell:
        """Start a cell and return it, running; a request that was made before gives the cell it started then.

        Args:
            make: Gives the steps of the cell, of which none is taken yet.
            timeout: The time limit that holds for it, in seconds, or None.
            room: Entered before it starts, and left at its end.

        Raises:
            TooManyRequestsError: The tenant has as many as it may.
            InvalidArgumentError: The id cannot be used.
            ConflictError: Another cell has the id.
        """
        cell_id = uuid.uuid4().hex if request.cell_id is None else request.cell_id
        if not _ID.fullmatch(cell_id):
            raise InvalidArgumentError(f'cell_id must be 8 to 64 letters, digits, "_" or "-", not {cell_id[:100]!r}')
        fingerprint = hashlib.sha256(f'{sandbox_id} {wire.to_json(request)}'.encode('ascii')).digest()
        with self._lock:
            known = self._table.get(cell_id)
        if known is None:
            with self._room(), contextlib.ExitStack() as held:
                held.enter_context(room)
                made = LiveCell(sandbox_id, cell_id, request.kernel, make(), fingerprint, timeout)
                known = self._enter(made)
                if known is made:
                    made.held = held.pop_all()
            if known is made:
                made.start()
        if known.fingerprint != fingerprint:
            raise ConflictError(f'the id {cell_id!r} was used for another cell; make a new one')
        return known
