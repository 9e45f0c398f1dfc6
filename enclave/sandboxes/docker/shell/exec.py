"""A program started by the engine in a running container, with its three streams (layer 4, docker).

`Exec` is any program; `CommandExec` runs a guest's command under the shell program `programs.RUN` and says
when it has ended.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from enclave.channel.streams import ReadSize
from enclave.deadline import Deadline
from enclave.errors import EnclaveError, EngineError, SandboxGoneError, SandboxSilentError
from enclave.sandboxes.docker.engine import Engine
from enclave.sandboxes.docker.streams import Demultiplexer
from enclave.sandboxes.output import Kept

logger = logging.getLogger(__name__)

STDOUT, STDERR = 1, 2
INLINE_INPUT_BYTES = 16 * 1024
"""Input up to this size fits into the buffers on the way to the engine, whenever it is read."""
CALL_VARIABLE = 'ENCLAVE_CALL'
SILENCE_SECONDS = 3.0
"""How long a paused sandbox may keep a command from being ended, before its caller learns of it."""
PAUSED_SECONDS = 3600.0
"""For how long it is tried to end such a command afterwards."""
EXIT_SECONDS = 5.0
"""How long the engine may take to notice that a program whose outputs are closed has ended."""


class Exec:
    """Lives as long as its program, or until `close`, which leaves the program alone."""

    def __init__(
        self,
        engine: Engine,
        container: str,
        argv: Sequence[str],
        *,
        name: str,
        user: str | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._engine = engine
        try:
            with engine.translate(f'start a program in sandbox {name}'):
                made = engine.api.exec_create(
                    container, list(argv), stdin=True, user=user or '', environment=dict(environment or {})
                )
            self._id: str = made['Id']
            self._raw = engine.exec_stream(self._id)
        except EngineError as error:
            reason = str(error.details.get('reason', ''))
            if error.details.get('status') == 409 and 'paused' in reason:
                raise SandboxSilentError(
                    f'sandbox {name} is paused; unpause its container first', details={'sandbox_id': name}
                ) from error
            if error.details.get('status') in (404, 409):
                raise SandboxGoneError(f'the container of sandbox {name} does not run any more: {reason}') from error
            raise
        self._frames = Demultiplexer()
        self.is_cancelled = False
        """Whether `cancel` was called, for the caller that meets the end of the streams."""

    def pieces(self) -> Iterator[tuple[int, bytes]]:
        """Yield ``(STDOUT or STDERR, bytes)`` until both are closed, or this is."""
        while data := self._raw.read(ReadSize.MOST):
            yield from self._frames.feed(data)

    def write(self, data: bytes) -> bool:
        """Send input; False if nobody takes it any more."""
        try:
            self._raw.write(data)
        except ConnectionError:
            return False
        return True

    def close_input(self) -> None:
        """Say that no more input comes."""
        self._raw.close_write()

    def cancel(self) -> None:
        """Let go of the streams because nobody waits for the program any more."""
        self.is_cancelled = True
        self.close()

    def close(self) -> None:
        """Let go of the streams. May be called twice, from any thread."""
        self._raw.close()

    def find_exit_code(self) -> int | None:
        """Return the exit code once the program has ended; None if it does not end within `EXIT_SECONDS`.

        Raises:
            EngineError: The engine knows the exec no more; its container was removed.
        """
        deadline, pause, interval = Deadline.after(EXIT_SECONDS), threading.Event(), 0.005
        while True:
            with self._engine.translate('look at a program'):
                found = self._engine.api.exec_inspect(self._id)
            if not found['Running'] and found['ExitCode'] is not None:
                return int(found['ExitCode'])
            if deadline.has_expired():
                return None
            pause.wait(interval)
            interval = min(interval * 2, 0.25)


class MarkScanner:
    """Cuts marks out of a stream: the mark, fields between colons, ``;``. What is no mark passes through unchanged."""

    def __init__(self, mark: bytes, on_fields: Callable[[list[str]], bool]) -> None:
        self._mark = mark
        self._on_fields = on_fields
        self._held = b''
        self.has_ended = False

    def feed(self, data: bytes) -> bytes:
        """Return what is certainly output; nothing once ``on_fields`` has said True, for the end."""
        data, self._held = self._held + data, b''
        parts = []
        while data and not self.has_ended:
            start = data.find(self._mark)
            if start < 0:
                keep = self._prefix_at_end(data)
                parts.append(data[: len(data) - keep])
                self._held = data[len(data) - keep :]
                break
            end = data.find(b';', start)
            parts.append(data[:start])
            if end < 0:
                self._held = data[start:]
                break
            self.has_ended = self._on_fields(data[start + len(self._mark) : end].decode('latin-1').split(':'))
            data = data[end + 1 :]
        return b''.join(parts)

    def flush(self) -> bytes:
        """Return what was held because it might have become a mark."""
        data, self._held = self._held, b''
        return data

    def _prefix_at_end(self, data: bytes) -> int:
        """Return how many bytes at the end may be the beginning of a mark."""
        for size in range(min(len(self._mark) - 1, len(data)), 0, -1):
            if data.endswith(self._mark[:size]):
                return size
        return 0


class CommandExec:
    """One guest's command. `read_all` runs on the caller's thread; `kill` may come from any.

    Args:
        start: Starts the exec, given the call's id.
        kill: Kills all that belongs to the call; given this object.
        ask_to_end: Sends SIGTERM to all of it instead; used at the time limit, ``grace`` seconds before ``kill``.
    """

    def __init__(
        self,
        cap: int,
        start: Callable[[str], Exec],
        kill: Callable[[CommandExec], None],
        *,
        name: str,
        ask_to_end: Callable[[CommandExec], None] | None = None,
        grace: float = 0.0,
    ) -> None:
        self.id = secrets.token_hex(8)
        self.out, self.err = Kept(cap), Kept(cap)
        self.pid = self.since = ''
        """The wrapping shell's process id and start time, as text; empty before the start."""
        self.fields: list[str] = []
        """What the mark at the end says; empty if the wrapper was killed."""
        self.started_at: float | None = None
        self.ended_at = 0.0
        self._name = name
        self._start = start
        self._kill = kill
        self._ask_to_end = ask_to_end
        self._grace = grace
        self._mark = secrets.token_hex(16).encode('ascii')
        self._on_started: Callable[[], None] = lambda: None
        self._exec: Exec | None = None
        self._lock = threading.Lock()  # guards verdict and _killer
        self.verdict = ''
        """Why we ended it: ``timed_out``, ``cancelled``, ``stuck`` (it did not even start), ``silent`` (the sandbox is paused,
        and it is ended when that is over), or nothing."""
        self._killer: threading.Thread | None = None
        self._has_ended = threading.Event()

    def read_all(self, stdin: bytes, on_started: Callable[[], None]) -> Exec | None:
        """Run to the end and return the exec, closed; None if it was killed before it was started. Whatever ends this
        thread early kills the command."""
        self._on_started = on_started
        try:
            if not self.verdict:
                self._exec = self._start(self.id)
                self._feed(self._exec, self._mark + b'\n' + stdin)
                self._drain(self._exec)
        except BaseException:
            self.kill('cancelled')
            raise
        finally:
            self.ended_at = time.monotonic()
            self._has_ended.set()
            if self._exec is not None:
                self._exec.close()
        if self._killer is not None and self.verdict != 'silent':
            self._killer.join()
        return self._exec

    def _feed(self, program: Exec, data: bytes) -> None:
        if len(data) <= INLINE_INPUT_BYTES:
            if program.write(data):
                program.close_input()
            return

        def write() -> None:
            # Ends when all is taken, or when the stream is closed at the command's end.
            if program.write(data):
                program.close_input()

        threading.Thread(target=write, name=f'enclave-stdin-{self._name}', daemon=True).start()

    def _drain(self, program: Exec) -> None:
        scanners = {STDOUT: MarkScanner(self._mark, self._on_mark), STDERR: MarkScanner(self._mark, self._on_mark)}
        kept = {STDOUT: self.out, STDERR: self.err}
        for kind, piece in program.pieces():
            kept[kind].add(scanners[kind].feed(piece))
            if all(scanner.has_ended for scanner in scanners.values()):
                return
        for kind, scanner in scanners.items():
            if not scanner.has_ended:
                kept[kind].add(scanner.flush())

    def _on_mark(self, fields: list[str]) -> bool:
        if fields[0] == 'r' and len(fields) == 3:
            self.started_at = time.monotonic()
            self.pid, self.since = fields[1], fields[2]
            self._on_started()
            return False
        self.fields = fields
        return True

    def kill(self, verdict: str) -> None:
        """Begin to kill the command and all it started; does nothing if that was done or the command has ended."""
        with self._lock:
            if self.verdict or self._has_ended.is_set():
                return
            self.verdict = verdict
            self._killer = threading.Thread(
                target=self._kill_all, name=f'enclave-kill-{self._name}', daemon=True, args=(Deadline.after(30.0),)
            )
            self._killer.start()

    def give_up(self) -> None:
        """End a call whose program never started."""
        with self._lock:
            if self.verdict or self._has_ended.is_set():
                return
            self.verdict = 'stuck'
        if self._exec is not None:
            self._exec.close()

    def _kill_all(self, patience: Deadline) -> None:
        if self.verdict == 'timed_out' and self._grace and self._ask_to_end is not None:
            with contextlib.suppress(EnclaveError):
                self._ask_to_end(self)
                self._has_ended.wait(self._grace)
        # The first look may come before there is any process, so look again for as long as the streams are open.
        silence = Deadline.after(SILENCE_SECONDS)
        while True:
            try:
                self._kill(self)
            except SandboxGoneError:
                break
            except SandboxSilentError:
                if silence.has_expired() and self.verdict != 'silent':
                    # The caller is not held any longer; what runs is ended as soon as that can be done.
                    self.verdict, patience = 'silent', Deadline.after(PAUSED_SECONDS)
                    if self._exec is not None:
                        self._exec.close()
                if not patience.has_expired():
                    threading.Event().wait(0.5)
                    continue
            except EnclaveError:
                logger.warning('sandbox %s: killing a command failed', self._name, exc_info=True)
            if self._has_ended.wait(0.5) or patience.has_expired():
                break
        if self._exec is not None:
            self._exec.close()
