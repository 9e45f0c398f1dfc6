"""Programs that run on while clients come and go (layer 6); see `enclave.server.live` for how their output is kept.

Past what is held for its readers, a program waits as it would at a full pipe.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, ExitStack, nullcontext

from enclave.errors import OperationTimeoutError
from enclave.managers.protocol import ProcessEvent, ProcessInfo, chunk_event
from enclave.sandboxes.process import Process
from enclave.server import live
from enclave.server.faults import shown_error
from enclave.server.live import EventLog, EventLogTable

_START_SECONDS = 30.0
_NO_ROOM: AbstractContextManager[None] = nullcontext()


class LiveProcess(EventLog):
    """One process."""

    noun = 'process'

    def __init__(self, sandbox_id: str, process: Process, *, attended: bool, waits_alone: bool = True) -> None:
        super().__init__(sandbox_id, process.id, attended=attended, waits_alone=waits_alone)
        self.process = process

    def _started(self) -> ProcessEvent:
        return ProcessEvent(event='started', process_id=self.id, pid=self.process.pid)

    def _events(self) -> Generator[ProcessEvent, None, None]:
        most = live.UNREAD_BYTES // 4
        for chunk in self.process.chunks():
            for start in range(0, len(chunk.data), most):
                yield chunk_event(chunk.stream, chunk.data[start : start + most])
        assert self.process.result is not None
        yield ProcessEvent(event='end', result=self.process.result)

    def cancel(self) -> None:
        """Kill it and everything it started."""
        self.process.kill()

    def info(self) -> ProcessInfo:
        """Return what can be said of it."""
        command = self.process.command
        running, error = self.is_running, self.error
        return ProcessInfo(
            id=self.id,
            sandbox_id=self.sandbox_id,
            command=command if isinstance(command, str) else list(command),
            pid=self.process.pid,
            running=running,
            last_seq=self.last_seq,
            result=None if running else self.process.result,
            error=None if running or error is None else shown_error(error).model_dump(mode='json'),
        )


class Processes(EventLogTable[LiveProcess]):
    """The processes of one tenant."""

    def __init__(self, limit: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__('process', 'processes', limit, clock=clock)

    def start(
        self,
        sandbox_id: str,
        start: Callable[[], Process],
        *,
        attended: bool = False,
        wrap: Callable[[Process], LiveProcess] | None = None,
        room: AbstractContextManager[None] = _NO_ROOM,
    ) -> LiveProcess:
        """Start a process and return it, running.

        Args:
            start: Starts the program.
            attended: Kill it when nobody has read its events for `RESUME_SECONDS`.
            wrap: Makes the entry in the table, where that is to be one of a kind.
            room: Entered before it starts, and left at its end.

        Raises:
            TooManyRequestsError: The tenant has as many as it may.
            InvalidArgumentError: Its working directory or user does not exist.
        """
        with self._room(), ExitStack() as held:
            held.enter_context(room)
            process = start()
            try:
                process.wait_started(_START_SECONDS)
            except OperationTimeoutError:
                process.kill()
                raise
            made = self._enter(wrap(process) if wrap else LiveProcess(sandbox_id, process, attended=attended))
            made.held = held.pop_all()
        made.start()
        return made
