"""A Jupyter kernel of a sandbox, by name (layer 4): one cell at a time, in order, and always a process that takes the next.

A cell has the kernel until it has ended there, not until its outputs are read: see `CellSteps`.

A `NotebookKernel` is a name under which there is always a kernel; a `KernelProcess` is one process that is it for a while. When
that ends, of itself or since it would not be interrupted, those that wait learn it, and the next cell finds a new one.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping
from datetime import datetime
from typing import Any, Literal

from attrs import define, frozen

from enclave.cancellation import Cancellation, is_cancelled, on_cancel
from enclave.cells import CellError, CellResult, KernelInfo, KernelSpec
from enclave.enums import ExecutionStatus
from enclave.errors import (
    CallCancelledError,
    ConflictError,
    EnclaveError,
    KernelDiedError,
    SandboxError,
    SandboxPathError,
    SandboxStateError,
)
from enclave.sandboxes.notebook.kernel_process import LEFT, PYTHON_SPEC, CellOutcome, KernelHost, KernelProcess
from enclave.sandboxes.notebook.outputs import OutputCollector
from enclave.sandboxes.process import Process
from enclave.verb_requests import MakeDir, RemovePath

MAX_DISPLAY_IDS = 10_000
"""How many displays are remembered, so that a cell's update of its own is known to be one of earlier cells too."""
LOOK_SECONDS = 1.0
"""How long one waits for a kernel before it sees whether the cell before has ended and only its outputs wait to be read."""
KEPT_BYTES = 16 << 20
"""How much of such outputs is kept for their reader."""


@frozen(kw_only=True)
class KernelSettings:
    """What holds for every cell of a kernel unless the call says otherwise.

    Attributes:
        interrupt_grace: Seconds a cell may take to end after it was interrupted, before its kernel is killed.
        memory_limit: The sandbox's, for messages.
    """

    max_output_bytes: int
    max_display_bytes: int
    interrupt_grace: float
    memory_limit: str | int | None = None


@define(eq=False)
class KernelTurn:
    """One's place in the order of those that use a kernel.

    Attributes:
        finish: Called while others wait behind it, to end it if all that is left of it is that nobody reads what has come.
    """

    finish: Callable[[], None] | None = None


class FifoLock:
    """Who may use a kernel: one at a time, in the order of asking. Lives as long as the kernel's name."""

    def __init__(self) -> None:
        self._changed = threading.Condition()  # guards all below
        self._queue: deque[KernelTurn] = deque()
        self._closed = ''

    @contextlib.contextmanager
    def take(self, *, first: bool = False) -> Iterator[None]:
        """Wait for one's turn and have it for the block; the arguments and errors are those of `acquire`."""
        turn = self.acquire(first=first)
        try:
            yield
        finally:
            self.release(turn)

    def acquire(self, *, first: bool = False) -> KernelTurn:
        """Wait for one's turn and return it, to be given to `release`; ``first`` goes before all that wait.

        Raises:
            CallCancelledError: The work was cancelled while it waited.
            SandboxStateError: The kernel was closed.
        """
        turn = KernelTurn()
        with self._changed:
            if first and self._queue:
                self._queue.insert(1, turn)
            else:
                self._queue.append(turn)
        try:
            self._wait(turn)
            if is_cancelled():
                raise CallCancelledError('the cell was cancelled before it ran')
            with self._changed:
                if self._closed:
                    raise SandboxStateError(self._closed)
        except BaseException:
            self.release(turn)
            raise
        return turn

    def _wait(self, turn: KernelTurn) -> None:
        """Wait for one's turn, or until there is none to be had. Who waits longest looks after the one before it."""

        def is_over() -> bool:
            return self._queue[0] is turn or bool(self._closed) or is_cancelled()

        with on_cancel(self._wake):
            while True:
                with self._changed:
                    if self._changed.wait_for(is_over, LOOK_SECONDS):
                        return
                    front = list(self._queue)
                if len(front) > 1 and front[1] is turn and (finish := front[0].finish) is not None:
                    finish()

    def release(self, turn: KernelTurn) -> None:
        """Give a turn back. May be called twice."""
        with self._changed:
            turn.finish = None
            with contextlib.suppress(ValueError):
                self._queue.remove(turn)
            self._changed.notify_all()

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def close(self, reason: str) -> None:
        """Give no more turns; those that wait get ``reason``."""
        with self._changed:
            self._closed = reason
            self._changed.notify_all()

    @property
    def count(self) -> int:
        """How many have or want a turn."""
        with self._changed:
            return len(self._queue)


class CellSteps:
    """The steps of a cell that has its kernel's turn, taken by its reader or by the one that waits behind it.

    A reader may be slow, or never read again: a server's client that has gone to sleep, a generator that nobody closes. The
    kernel is free when its cell has ended. So the one that waits for the kernel then takes the steps that are left to their end
    and keeps them here for the reader, up to `KEPT_BYTES`.

    Args:
        steps: Yields the events and returns the result; it is run by one thread at a time.
        has_ended: Whether the kernel has ended the cell.
        release: Gives the turn back.
    """

    def __init__(
        self,
        steps: Generator[dict[str, Any], None, CellResult],
        has_ended: Callable[[], bool],
        release: Callable[[], None],
    ) -> None:
        self._steps = steps
        self._has_ended = has_ended
        self._release = release
        self._is_left = False  # to be closed by the one that has _taking, when it is through
        self._taking = threading.Lock()  # held while steps are taken; guards all below
        self._kept: deque[dict[str, Any]] = deque()
        self._kept_bytes = 0
        self._left_out = 0
        self._result: CellResult | None = None
        self._error: BaseException | None = None

    def read(self) -> Generator[dict[str, Any], None, CellResult]:
        """Yield the events and return the result."""
        while True:
            with self._taking:
                if not self._kept and self._result is None and self._error is None:
                    self._take_step()
                event = self._kept.popleft() if self._kept else None
            if event is not None:
                yield event
            elif self._error is not None:
                try:
                    raise self._error
                finally:
                    self._error = None  # its traceback holds this
            elif self._result is not None:
                return self._result_with_note(self._result)

    def finish(self) -> None:
        """Take all that is left, if the cell has ended in the kernel and its reader is elsewhere."""
        if not self._taking.acquire(blocking=False):
            return
        try:
            with Cancellation().applied():  # ours is not that of the cell
                if not self._has_ended():
                    return
                while self._result is None and self._error is None:
                    self._take_step()
                    self._weigh_last()
        finally:
            self._taking.release()
            with Cancellation().applied():
                self._close_left()

    def close(self) -> None:
        """End the cell if it has not ended, and give the turn back.

        Where the one that waits behind takes the steps, it does that afterwards. Nobody waits for it here: the garbage collector
        may be the caller, in a thread that those steps need, and in the midst of one.
        """
        self._is_left = True
        self._close_left()

    def _close_left(self) -> None:
        while self._is_left and self._taking.acquire(blocking=False):
            try:
                self._is_left = False
                self._steps.close()
            finally:
                self._release()
                self._taking.release()

    def _take_step(self) -> None:
        try:
            self._kept.append(next(self._steps))
        except StopIteration as end:
            self._result = end.value
        except BaseException as error:
            self._error = error
            if not isinstance(error, Exception):  # Ctrl-C, which is the one's that takes the step
                self._error = SandboxError('the cell was given up, since what took its outputs was interrupted')
                raise
        finally:
            if self._result is not None or self._error is not None:
                self._release()

    def _weigh_last(self) -> None:
        """Keep the last event only if there is room for it."""
        if self._result is not None or self._error is not None:
            return
        size = len(json.dumps(self._kept[-1]))
        if self._kept_bytes + size > KEPT_BYTES:
            self._kept.pop()
            self._left_out += 1
        else:
            self._kept_bytes += size

    def _result_with_note(self, result: CellResult) -> CellResult:
        if not self._left_out:
            return result
        note = f'{self._left_out} outputs that were not read before the next cell ran were not kept to be read'
        return result.model_copy(update={'note': f'{result.note}. {note}' if result.note else note})


class NotebookKernel:
    """A kernel of a sandbox. Lives from its creation until it is deleted or the sandbox stops. Any thread may use it."""

    def __init__(
        self,
        host: KernelHost,
        name: str,
        spec: KernelSpec,
        settings: KernelSettings,
        *,
        sandbox_id: str,
        cwd: str,
        env: Mapping[str, str],
    ) -> None:
        self.name = name
        self.spec = spec
        self._host = host
        self._settings = settings
        self._label = f'{sandbox_id}-{name}'
        self._cwd = cwd
        self._env = dict(env)
        self._directory = f'/tmp/enclave-kernel-{secrets.token_hex(6)}'
        self._turns = FifoLock()
        self._lock = threading.Lock()  # guards all below; who changes _life also has a turn, or closes
        self._life: KernelProcess | None = None
        self._lives = 0
        self._cells_run = 0
        self._is_running = False
        self._is_preparing = False  # a cell has the turn and waits for a process that takes it
        self._is_interrupted = False  # that cell is to be interrupted
        self._is_closed = False
        self._note = ''  # touched only by the one that has the turn
        self._display_ids: dict[str, None] = {}  # of what cells have shown, oldest first; as _note

    # Work -------------------------------------------------------------------------------------------------------------

    @property
    def processes(self) -> list[Process]:
        """The processes in the sandbox that the kernel is made of now."""
        with self._lock:
            return [] if self._life is None else self._life.processes

    def start(self) -> None:
        """Start its process, if none runs, and return when it answers."""
        with self._turns.take():
            self._living()

    def run_cell(
        self,
        code: str,
        timeout: float | None,
        *,
        silent: bool = False,
        store_history: bool = True,
        keep_escapes: bool = False,
        max_output_bytes: int | None = None,
        allow_input: bool = False,
    ) -> Generator[dict[str, Any], None, CellResult]:
        """Run a cell when its turn comes; yield its outputs as they come, and return its result.

        ``timeout`` counts from the moment the cell is sent to the kernel; waiting for others is not in it. With ``allow_input``
        an event ``input_request`` may come, which `answer_input` is to answer.
        """
        turn = self._turns.acquire()
        options = (silent, store_history, keep_escapes, max_output_bytes, allow_input)
        steps = CellSteps(
            self._cell_steps(code, timeout, *options), self._has_ended_cell, lambda: self._turns.release(turn)
        )
        try:
            turn.finish = steps.finish
            return (yield from steps.read())
        finally:
            steps.close()

    def _has_ended_cell(self) -> bool:
        """Return whether the kernel has ended the cell that has the turn."""
        with self._lock:
            life = self._life
        return life is not None and life.has_ended_request()

    def _cell_steps(
        self,
        code: str,
        timeout: float | None,
        silent: bool,
        store_history: bool,
        keep_escapes: bool,
        max_output_bytes: int | None,
        allow_input: bool,
    ) -> Generator[dict[str, Any], None, CellResult]:
        """Run a cell of the one that has the turn."""
        with self._lock:
            self._is_preparing, self._is_interrupted = True, False
        try:
            life = self._living()
        except BaseException:
            with self._lock:
                self._is_preparing = False
            raise
        note, self._note = self._note, ''
        collector = OutputCollector(
            max_output_bytes or self._settings.max_output_bytes,
            self._settings.max_display_bytes,
            keep_escapes,
            self._display_ids,
        )
        content = {
            'code': code,
            'silent': silent,
            'store_history': store_history and not silent,
            'user_expressions': {},
            'allow_stdin': allow_input,
            # Nothing waits in the kernel behind this cell; with True it would for a moment refuse what comes next.
            'stop_on_error': False,
        }
        with self._lock:
            self._cells_run += 1
            self._is_running, self._is_preparing = True, False
            life.prepare_cell(content, interrupt=self._is_interrupted)
        try:
            outcome = yield from life.run(content, collector, timeout, self._settings.interrupt_grace)
        finally:
            with self._lock:
                self._is_running = False
        result = self._result(collector, outcome, note)
        self._display_ids.update(dict.fromkeys(result.display_ids))
        while len(self._display_ids) > MAX_DISPLAY_IDS:
            del self._display_ids[next(iter(self._display_ids))]
        return result

    def _result(
        self,
        collector: OutputCollector,
        outcome: CellOutcome,
        note: str,
    ) -> CellResult:
        stopped, reply, end = outcome.stopped, outcome.reply, outcome.end
        error = collector.error
        if end is not None and not stopped:
            error = CellError(name='KernelDied', value=f'The kernel {end.reason}')
        if outcome.is_interrupted and error is None and not stopped and not reply:
            error = CellError(
                name='KeyboardInterrupt',
                value='The interrupt came before the kernel had begun the code or as it ended, so there is no reply of it',
            )
        if stopped:
            status = ExecutionStatus.TIMEOUT if stopped == 'timeout' else ExecutionStatus.CANCELLED
        else:
            status = ExecutionStatus.SUCCESS if error is None else ExecutionStatus.ERROR
        text = collector.text()
        stdout, stdout_bytes, stdout_cut = collector.stream_text('stdout')
        stderr, stderr_bytes, stderr_cut = collector.stream_text('stderr')
        count = reply.get('execution_count')
        notes = [note] if note else []
        if outcome.is_cut:
            notes.append(
                'The kernel did not say that the output of this cell was complete, so some of it may be missing'
            )
        elif outcome.is_late:
            notes.append(
                'This kernel sends output after it has said that a cell ended; what came seconds later is not in it'
            )
        if collector.widgets.left_out:
            notes.append(f'{collector.widgets.left_out} changes of widgets were too large to keep')
        return CellResult(
            status=status,
            outputs=collector.outputs(),
            text=text,
            stdout=stdout,
            stderr=stderr,
            stdout_bytes=stdout_bytes,
            stderr_bytes=stderr_bytes,
            stdout_truncated=stdout_cut or outcome.is_cut,
            stderr_truncated=stderr_cut,
            error=error,
            execution_count=count if type(count) is int and 0 <= count < 1 << 53 else collector.execution_count,
            execution_time=outcome.seconds,
            kernel=self.name,
            timed_out=stopped == 'timeout',
            oom_killed=end is not None and end.oom_killed,
            state_lost=None if end is None else end.reason,
            note='. '.join(notes) or None,
            outputs_left_out=collector.left_out,
            display_ids=collector.display_ids(),
            display_updates=list(collector.updates.values()),
            timing=outcome.timing,
            widgets=collector.widgets.found,
        )

    def ask(self, kind: str, content: dict[str, Any], timeout: float) -> dict[str, Any]:
        """Make a request that shows nothing, when its turn comes, and return the reply's content.

        Raises:
            OperationTimeoutError: The kernel did not answer in time; what it did was interrupted, as a cell would be.
            CallCancelledError: The work was cancelled.
            KernelDiedError: It ended.
        """
        with self._turns.take():
            return self._living().ask(kind, content, timeout, self._settings.interrupt_grace)

    def _living(self) -> KernelProcess:
        """Return the life that is, or start a new one. To be called by the one that has the turn."""
        with self._lock:
            life = self._life
        if life is not None and life.is_occupied:
            life.kill(LEFT)
        if life is not None and (life.is_doomed or life.look()):
            life.wait_end()
        end = None if life is None else life.end
        if life is not None and end is None:
            return life
        if life is not None and end is not None:
            if end.error is not None:
                raise end.error
            life.join()
            if not self._note:
                self._note = f'The kernel {end.reason}; this cell ran in a new one, and what was defined before is lost'
        return self._begin()

    def _begin(self) -> KernelProcess:
        if self._lives:  # whose connection file and sockets are of no use any more
            self._remove_directory()
            with contextlib.suppress(SandboxPathError):  # the start says what is wrong with it
                self._host.run(MakeDir(path=self._cwd))  # cells may have removed it, and no kernel would start again
        self._host.run(MakeDir(path=self._directory, mode=0o700))
        attempts = 1 if self.spec.name == PYTHON_SPEC.name else 3  # another's ports may be taken
        while True:
            attempts -= 1
            life = KernelProcess(self._host, self._label, self.spec, self._settings.memory_limit)
            with self._lock:
                if self._is_closed:
                    raise SandboxStateError(f'the kernel {self.name!r} was closed')
                self._life = life
                self._lives += 1
                number = self._lives
            try:
                life.start(self._directory, number, self._cwd, self._env)
                return life
            except BaseException as error:
                with self._lock:
                    if self._life is life:
                        self._life = None
                if not isinstance(error, KernelDiedError) or not attempts:
                    raise

    # Control: never waits for the cell that runs ----------------------------------------------------------------------

    def interrupt(self) -> None:
        """Interrupt the cell that runs, or is on its way to the kernel; where none is, nothing happens."""
        with self._lock:
            life = self._life if self._is_running else None
            self._is_interrupted = self._is_preparing
        if life is not None:
            life.interrupt_cell()

    def answer_input(self, text: str) -> None:
        """Give the cell that runs what it asked for.

        Raises:
            ConflictError: It has not asked for input, or none runs.
        """
        with self._lock:
            life = self._life if self._is_running else None
        if life is None:
            raise ConflictError(f'no cell of the kernel {self.name!r} waits for input')
        life.answer_input(text)

    def restart(self) -> None:
        """End the process, and with it the cell that runs, and start a new one before what waits in the queue."""
        with self._lock:
            life = self._life
        if life is not None:
            life.kill('was restarted')
        with self._turns.take(first=True):
            with self._lock:
                current = self._life
            if life is not None and current is life:
                life.join()
                with self._lock:
                    self._life = None
                self._note = ''
            self._living()

    def close(self, reason: str, verdict: str) -> None:
        """End the process; those that wait for a turn is reported ``reason``, and the cell that runs that the kernel
        ``verdict``."""
        self._turns.close(reason)
        with self._lock:
            self._is_closed = True
            life = self._life
        if life is not None:
            life.kill(verdict)
            life.join()

    def remove_files(self) -> None:
        """Remove what its processes left in the sandbox, after it was closed and where the sandbox lives on."""
        with self._lock:
            has_lived = self._lives > 0
        if has_lived:
            with contextlib.suppress(EnclaveError):  # of the sandbox, which others report
                self._remove_directory()

    def _remove_directory(self) -> None:
        self._host.run(RemovePath(path=self._directory, recursive=True, missing_ok=True))

    def info(self) -> KernelInfo:
        """Return what is to be known of it now."""
        with self._lock:
            life, cells, running = self._life, self._cells_run, self._is_running
        started_at: datetime | None = None
        status: Literal['idle', 'busy', 'stopped'] = 'stopped'
        if life is not None and life.end is None:
            started_at = life.started_at
            status = 'busy' if running else 'idle'
        return KernelInfo(
            name=self.name,
            spec=self.spec.name,
            language=life.language if life is not None else self.spec.language,
            status=status,
            cells_run=cells,
            waiting=max(0, self._turns.count - 1),
            started_at=started_at,
            language_info={} if life is None else life.language_info,
        )

    @property
    def held_calls(self) -> int:
        """How many calls of the sandbox's channel it holds without doing anything."""
        with self._lock:
            life = self._life
        return 0 if life is None else life.held_calls

    @property
    def is_running(self) -> bool:
        """Whether a cell runs."""
        with self._lock:
            return self._is_running
