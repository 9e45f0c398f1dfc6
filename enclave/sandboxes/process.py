"""A program that runs in a sandbox while the caller continues (layer 4)."""

from __future__ import annotations

import contextlib
import signal
import threading
import uuid
from collections import deque
from collections.abc import Iterator
from typing import Literal, Protocol

from attrs import define, field, frozen

from enclave.deadline import Deadline
from enclave.errors import CallCancelledError, InvalidArgumentError, NotFoundError, OperationTimeoutError
from enclave.quoting import quoted
from enclave.records import CommandResult, ProcessInfo
from enclave.sandboxes.output import decode
from enclave.verb_requests import as_bytes, check_tty


@frozen
class OutputChunk:
    """A piece of what a program wrote: ``stream`` is ``'stdout'`` or ``'stderr'``, ``data`` the bytes."""

    stream: Literal['stdout', 'stderr']
    data: bytes

    @property
    def text(self) -> str:
        """The bytes as text. A character split between two chunks shows as escapes; decode incrementally to keep it."""
        return decode(self.data)


@frozen
class Started:
    """That a program runs, under a process id inside the sandbox."""

    pid: int


class RunningProgram(Protocol):
    """A running program as whatever runs it gives it to a `Process`. Any thread may use it; one at a time takes output."""

    @property
    def has_ended(self) -> bool:
        """Whether it has ended; output may still be there to take."""

    def next(self, deadline: Deadline) -> OutputChunk | Started | CommandResult | None:
        """Return the next that comes of it, the result at last; None is nothing to speak of.

        Raises:
            OperationTimeoutError: Nothing came before the deadline.
            CallCancelledError: The caller's work was cancelled; the program continues.
            SandboxGoneError, SandboxBrokenError: The sandbox was lost.
        """

    def write(self, data: bytes, deadline: Deadline) -> bool:
        """Send input as fast as the program reads it; False if it ended first."""

    def close_input(self) -> None:
        """Say that no more input comes."""

    def signal(self, number: int, *, group: bool) -> None:
        """Send a signal to the program, or to its process group."""

    def resize(self, rows: int, columns: int) -> None:
        """Give its terminal another size."""

    def kill(self) -> None:
        """Kill it and everything it started."""


@define(eq=False)
class Process:
    """A running program. Lives until it ends; leaving its ``with`` block kills it if it still runs.

    Its output waits in the sandbox until it is taken, so a program nobody reads from stops at a full pipe, as it would
    under a shell. Take it with `chunks`, `communicate` or `wait`; one thread at a time may take output, any thread may write,
    signal or kill.

    Attributes:
        id: What `find_process` of its sandbox takes.
    """

    command: str | tuple[str, ...]
    _program: RunningProgram = field(repr=False)
    id: str = field(factory=lambda: uuid.uuid4().hex[:12], kw_only=True)
    pid: int | None = field(default=None, init=False)
    result: CommandResult | None = field(default=None, init=False, repr=False)
    _early: deque[OutputChunk] = field(factory=deque, init=False, repr=False)  # taken, and not given yet

    def chunks(self, timeout: float | None = None) -> Iterator[OutputChunk]:
        """Yield output as it comes, until the program has ended; then `result` is there.

        Args:
            timeout: Seconds this may take altogether.

        Raises:
            OperationTimeoutError: The time is over; the program continues.
            SandboxGoneError, SandboxBrokenError: The sandbox was lost.
        """
        deadline = Deadline.after(timeout)
        while self._early or self.result is None:
            chunk = self._early.popleft() if self._early else self._next(deadline)
            if chunk is not None:
                yield chunk

    def _next(self, deadline: Deadline) -> OutputChunk | None:
        """Take what comes next; None for what is no output. Sets ``pid`` at the start and ``result`` at the end."""
        found = self._program.next(deadline)
        if isinstance(found, OutputChunk):
            return found
        if isinstance(found, Started):
            self.pid = found.pid
        else:
            self.result = found
        return None

    def wait_started(self, timeout: float | None = 10.0) -> int:
        """Return the program's process id inside the sandbox, as soon as it is known.

        Raises:
            InvalidArgumentError: Its working directory or user does not exist.
            OperationTimeoutError: It was not started in time.
        """
        deadline = Deadline.after(timeout)
        while self.pid is None and self.result is None:
            chunk = self._next(deadline)
            if chunk is not None:
                self._early.append(chunk)  # a quick program's output may come before its number
        return self.pid or 0

    def wait(self, timeout: float | None = None) -> CommandResult:
        """Wait for the program's end and return its result, which keeps head and tail of its output within the cap.

        Raises:
            OperationTimeoutError: It did not end in time; it continues.
            SandboxGoneError, SandboxBrokenError: The sandbox was lost.
        """
        for _chunk in self.chunks(timeout):
            pass
        assert self.result is not None
        return self.result

    def communicate(self, data: bytes = b'', timeout: float | None = None) -> tuple[bytes, bytes]:
        """Send ``data`` as the rest of the input, close it, and return all output not yet taken: ``(stdout, stderr)``, exact.

        A program that writes much before it reads should be given its input from another thread.
        """
        deadline = Deadline.after(timeout)
        if data:
            self.write(data, timeout)
        self.close_stdin()
        parts: dict[str, list[bytes]] = {'stdout': [], 'stderr': []}
        for chunk in self.chunks(deadline.as_timeout()):
            parts[chunk.stream].append(chunk.data)
        return b''.join(parts['stdout']), b''.join(parts['stderr'])

    @property
    def is_running(self) -> bool:
        """Whether it has not ended yet, as far as is known; output may be there to take after its end."""
        return self.result is None and not self._program.has_ended

    def poll(self) -> CommandResult | None:
        """Return the result if the program has ended, after taking what output there is; else None."""
        while self.result is None and self._program.has_ended:
            self._next(Deadline())
        return self.result

    def write(self, data: str | bytes, timeout: float | None = None) -> bool:
        """Send input as fast as the program reads it; False if it ended first."""
        return self._program.write(as_bytes(data, 'data'), Deadline.after(timeout))

    def close_stdin(self) -> None:
        """Say that no more input comes."""
        if not self._program.has_ended:
            self._program.close_input()

    def send_signal(self, number: int | str, *, group: bool = False) -> None:
        """Send a signal (a number, or a name like ``'SIGINT'``) to the program, or to its whole process group."""
        if isinstance(number, str):
            try:
                number = signal.Signals[number if number.startswith('SIG') else f'SIG{number}']
            except KeyError:
                raise InvalidArgumentError(f'there is no signal called {quoted(number)}') from None
        if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= 64:
            raise InvalidArgumentError(f'a signal is a number from 1 to 64 or a name, not {quoted(number)}')
        if not self._program.has_ended:
            self._program.signal(int(number), group=group)

    def resize(self, rows: int, columns: int) -> None:
        """Give the program's terminal another size."""
        check_tty((rows, columns), 'the size of a terminal')
        if not self._program.has_ended:
            self._program.resize(rows, columns)

    def kill(self) -> None:
        """Kill the program and everything it started; its result says ``cancelled``. Does nothing once it has ended."""
        if not self._program.has_ended:
            self._program.kill()

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        if self.result is None:
            self.kill()
            with contextlib.suppress(OperationTimeoutError, CallCancelledError, ConnectionError):
                self.wait(10.0)


ENDED_PROCESSES = 64
"""How many are remembered that have ended and whose result nobody has taken."""


@define(eq=False)
class ProcessTable:
    """The processes that a sandbox was asked for and that are still of use. Lives as long as it; any thread may use it."""

    sandbox_id: str
    _lock: threading.Lock = field(factory=threading.Lock, init=False, repr=False)
    _table: dict[str, Process] = field(factory=dict, init=False, repr=False)  # oldest first; guarded by _lock

    def note(self, process: Process) -> Process:
        """Remember a process that was started, and forget those of which nothing more can come."""
        with self._lock:
            self._table[process.id] = process
            kept = {name: each for name, each in self._table.items() if each.result is None}
            ended = [name for name, each in kept.items() if not each.is_running]
            for name in ended[: max(0, len(ended) - ENDED_PROCESSES)]:
                del kept[name]
            self._table = kept
        return process

    def list(self) -> list[ProcessInfo]:
        """Return what can be said of them, oldest first."""
        with self._lock:
            found = [each for each in self._table.values() if each.result is None]
        return [
            ProcessInfo(
                id=each.id,
                sandbox_id=self.sandbox_id,
                command=each.command if isinstance(each.command, str) else [*each.command],
                pid=each.pid,
                running=each.is_running,
            )
            for each in found
        ]

    def find(self, process_id: str) -> Process:
        """Return one by its id.

        Raises:
            NotFoundError: There is none, or its result was taken.
        """
        with self._lock:
            found = self._table.get(process_id) if isinstance(process_id, str) else None
        if found is None:
            asked = process_id if isinstance(process_id, str) else quoted(process_id)
            raise NotFoundError(
                f'sandbox {self.sandbox_id} has no process {quoted(process_id)}; list_processes names those that run',
                details={'sandbox_id': self.sandbox_id, 'process_id': asked},
            )
        return found

    def clear(self) -> None:
        """Forget all, since the sandbox has ended."""
        with self._lock:
            self._table = {}
