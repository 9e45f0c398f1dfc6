"""One process of a Jupyter kernel in a sandbox (layer 4): its start, the messages to and from it, its end.

The process is started by the sandbox's agent with a connection file that only its user can read, and its channels are
connections through the agent's stream, so that no port is open on this machine. Python's own kernel listens on Unix sockets
in a private directory, other kernels on the sandbox's loopback.

Each owns a thread that reads the channel that every output comes on and keeps what belongs to the cell that runs, and a watchdog
for time limits. Where a cell may ask for input, a third reads the channel for that. All else happens on the thread of the caller.
"""

from __future__ import annotations

import contextlib
import json
import logging
import secrets
import threading
import time
from collections import deque
from collections.abc import Generator, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

from attrs import Factory, frozen

from enclave.cancellation import Cancellation, is_cancelled, on_cancel
from enclave.cells import KernelSpec
from enclave.deadline import Deadline
from enclave.errors import (
    CallCancelledError,
    ConflictError,
    EnclaveError,
    KernelDiedError,
    OperationTimeoutError,
    SandboxError,
    SandboxPathError,
    SandboxPathNotFoundError,
)
from enclave.records import CommandResult, utc_now
from enclave.sandboxes.connection import Connection
from enclave.sandboxes.notebook.foreign import RELAY, with_all_output
from enclave.sandboxes.notebook.messages import SIGNATURE_SCHEME, Message, MessageError, Messenger, make_key
from enclave.sandboxes.notebook.outputs import OutputCollector, is_writable
from enclave.sandboxes.notebook.watchdog import Cause, Job, KernelWatchdog
from enclave.sandboxes.notebook.zmtp import Parts, ZmtpError, ZmtpSocket
from enclave.sandboxes.process import Process
from enclave.verb_requests import Request, StartProcess, Upload, WriteFile

R = TypeVar('R')

logger = logging.getLogger(__name__)

START_SECONDS = 60.0
"""How long a kernel may take from its process's start to its first answer."""
_INTERRUPTED = {
    'status': 'error',
    'ename': 'KeyboardInterrupt',
    'evalue': 'The kernel was interrupted before it began the cell, and did not say how that ended',
}
"""Stands for a reply that an interrupt has cost: Python's kernel may be between taking a request and running it."""
REPLY_SECONDS = 10.0
"""How long a kernel's reply may come after the outputs it follows or precedes; both are under way at once."""
STOPPED_REPLY_SECONDS = 2.0
"""The same of a cell that was interrupted: at its very end the interrupt may have cost the reply, which says nothing new then."""
LEFT = 'was killed, since what it did was left before it had stopped'
"""Why a kernel is killed whose caller would not wait for the end of its cell or question."""
MAX_PROMPT_CHARACTERS = 65536
_TIMED = {'status': 'iopub.status.', 'execute_input': 'iopub.execute_input'}
_IDLE, _BUSY, _INPUT = 'iopub.status.idle', 'iopub.status.busy', 'iopub.execute_input'
_TIMES = frozenset({_BUSY, _INPUT, _IDLE})
_RETRY_INTERVAL = 0.01
_LOOK_INTERVAL = 1.0
_LATE_SECONDS = (0.2, 3.0)
"""How long a cell waits for output after its end, and for more of it. Deno's kernel says that it is idle before all is sent."""
_MOST_LATE_SECONDS = 60.0
"""How long such output is taken altogether."""
_INBOX_MESSAGES = 1000
_INBOX_BYTES = 16 << 20
_PORTS = ('shell', 'iopub', 'stdin', 'control', 'hb')

_MAX_LANGUAGE_BYTES = 65536

# Read as text: it runs in a kernel, and imports what only Unix has.
_STARTUP = Path(__file__).with_name('startup.py').read_text('utf-8')
_PREPARE = f'{_STARTUP}\nimport IPython\nprepare(IPython.get_ipython())\n'
PYTHON_SPEC = KernelSpec(
    name='python3',
    display_name='Python 3 (ipykernel)',
    language='python',
    argv=['python3', '-m', 'ipykernel_launcher', '-f', '{connection_file}'],
)
"""Python's own kernel, by the ``python3`` on the sandbox's PATH."""
_PYTHON_OPTIONS = (
    '--HistoryManager.hist_file=:memory:',
    '--Kernel._execute_sleep=0',  # which otherwise is half a millisecond after every cell
    # In a namespace of its own, so that nothing of it is seen in the user's.
    f'--IPKernelApp.exec_lines=exec({_PREPARE!r}, dict())',
)
"""What Python's own kernel is started with besides."""


def python_spec(python: str) -> KernelSpec:
    """Return Python's own kernel, run by an interpreter at this path in the sandbox."""
    return PYTHON_SPEC.model_copy(update={'argv': [python, *PYTHON_SPEC.argv[1:]]})


class KernelHost(Protocol):
    """What a kernel needs of its sandbox; `enclave.sandboxes.agent_operations.AgentOperations` has it."""

    def start_process(self, request: StartProcess) -> Process:
        """Start a program."""

    def run(self, request: Request[R]) -> R:
        """Execute a request to its end."""

    def write(self, request: Upload[R], chunks: Iterable[bytes], size: int | None = None) -> R:
        """Write a file."""

    def connect(self, port: int, host: str, *, timeout: float | None) -> Connection:
        """Connect to a TCP port."""

    def connect_path(self, path: str, *, timeout: float | None) -> Connection:
        """Connect to a Unix socket."""


@frozen
class KernelEnd:
    """Why a life is over. ``error`` is set where the whole sandbox was lost."""

    reason: str
    oom_killed: bool = False
    error: EnclaveError | None = None


@frozen(kw_only=True)
class CellOutcome:
    """How a cell ended, besides its outputs.

    Attributes:
        stopped: What we ended it for.
        reply: The content of the kernel's reply, empty where there is none.
        end: The kernel's own end, if it has ended.
        is_late: Whether outputs came after the kernel had said that the cell ended, so that more may come.
        is_cut: Whether the kernel did not say that its outputs were complete, so that some may be missing.
        is_interrupted: Whether a caller interrupted it.
        seconds: From the request to its end at the kernel, however slowly its outputs were read.
        timing: When its messages came; see `enclave.cells.CellResult.timing`.
    """

    stopped: Cause = ''
    reply: dict[str, Any] = Factory(dict)
    end: KernelEnd | None = None
    is_cut: bool = False
    is_late: bool = False
    is_interrupted: bool = False
    seconds: float = 0.0
    timing: dict[str, str] = Factory(dict)


class KernelProcess:
    """One kernel process and the connections to it. Lives from `start` until the process has ended."""

    def __init__(self, host: KernelHost, label: str, spec: KernelSpec, memory_limit: str | int | None) -> None:
        self._host = host
        self._label = label
        self._spec = spec
        self._memory_limit = memory_limit
        self._key = make_key()
        self._messenger = Messenger(self._key)
        self._process: Process | None = None
        self._shell: ZmtpSocket | None = None
        self._iopub: ZmtpSocket | None = None
        self._address: dict[str, Any] = {}
        self._reader: threading.Thread | None = None
        self._taking = threading.Lock()  # held by the one that takes the process's end, one thread at a time
        self._identity = secrets.token_hex(8).encode()  # by which the kernel finds who is to answer its questions
        self._stdin: ZmtpSocket | None = None
        self._relay: Process | None = None
        self._watchdog = KernelWatchdog(self, label)
        self._may_be_late = False  # its outputs may come after the end of their cell
        self._was_late = False  # those of the last one did
        self._receiving = threading.Lock()  # held by the one that reads the shell's channel; guards _early
        self._early: tuple[str, dict[str, Any]] | None = None  # a reply that came before it was waited for
        self.language = spec.language
        self.language_info: dict[str, Any] = {}
        self.started_at = utc_now()
        self._changed = threading.Condition()  # guards all below
        self._current = ''  # the request whose outputs are wanted
        self._inbox: deque[tuple[int, Message]] = deque()  # (size, message), of that request
        self._inbox_bytes = 0
        self._end: KernelEnd | None = None
        self._verdict = ''  # why we killed it
        self._is_occupied = False  # a request was sent that the kernel has not ended
        self._finished_at: float | None = None  # when the kernel ended the current request, on the performance counter
        self._times: dict[str, str] = {}  # when what came of it, as in `CellOutcome.timing`
        self._takes_interrupts = False  # a cell was sent, or soon is, and has not ended
        self._has_begun = False  # the kernel runs that cell
        self._begins_by = _INPUT  # the message by which it says so
        self._is_interrupted = False  # that cell is to be interrupted as soon as the kernel has begun it, or was
        self._asks_input = False
        self._is_stuck = False  # it was killed and does not end

    # Start ------------------------------------------------------------------------------------------------------------

    @property
    def processes(self) -> list[Process]:
        """The processes in the sandbox that the kernel is made of."""
        return [each for each in (self._process, self._relay) if each is not None]

    def start(self, directory: str, number: int, cwd: str, env: Mapping[str, str]) -> None:
        """Start the process and return when it answers.

        Raises:
            KernelDiedError: It ended at once; the message carries the end of its output.
            OperationTimeoutError: It does not answer.
        """
        file = f'{directory}/{number}.json'
        self._address = self._choose_address(directory, number)
        text = json.dumps({**self._address, 'key': self._key, 'signature_scheme': SIGNATURE_SCHEME}).encode()
        self._host.write(WriteFile(path=file, exclusive=True, make_parents=False, mode=0o600), [text], len(text))
        options = _PYTHON_OPTIONS if self._spec.name == PYTHON_SPEC.name else ()
        argv = (*(word.replace('{connection_file}', file) for word in self._spec.argv), *options)
        keeping = None if options else with_all_output(argv)
        argv = keeping or argv
        request = StartProcess(command=argv, max_output_bytes=16384, cwd=cwd, env={**self._spec.env, **env}, live=False)
        self._process = self._host.start_process(request)
        with self._changed:
            is_killed = bool(self._verdict)
        if is_killed:
            self._process.kill()
        deadline = Deadline.after(START_SECONDS)
        try:
            if not options and keeping is None:
                self._may_be_late = True
                self._start_relay(f'{directory}/{number}.relay')
            self._shell = self._connect('shell', b'DEALER', deadline)
            self._iopub = self._connect('iopub', b'SUB', deadline)
            self._reader = threading.Thread(target=self._read, name=f'enclave-kernel-{self._label}', daemon=True)
            self._reader.start()
            self._wait_ready(deadline)
        except BaseException:
            self.kill('it did not start')
            self.join()
            raise

    def _start_relay(self, path: str) -> None:
        """Start what takes the outputs of a kernel that would drop them; `_connect` then goes through it."""
        command = ('python3', '-c', RELAY, str(self._address['iopub_port']), path)
        request = StartProcess(command=command, live=False, max_output_bytes=16384)
        self._relay = self._host.start_process(request)
        self._address['relay'] = path

    def _choose_address(self, directory: str, number: int) -> dict[str, Any]:
        if self._spec.name == PYTHON_SPEC.name:
            ports = {f'{name}_port': index for index, name in enumerate(_PORTS, 1)}
            return {'transport': 'ipc', 'ip': f'{directory}/{number}', **ports}
        # Not every kernel knows Unix sockets. The ports are below those that systems give away by themselves.
        first = 10000 + secrets.randbelow(20000)
        return {
            'transport': 'tcp',
            'ip': '127.0.0.1',
            **{f'{name}_port': first + index for index, name in enumerate(_PORTS)},
        }

    def _connect(self, name: str, socket_type: bytes, deadline: Deadline) -> ZmtpSocket:
        """Connect to one of the kernel's sockets, as soon as it is there."""
        pause = threading.Event()
        address, port = self._address['ip'], self._address[f'{name}_port']
        while True:
            try:
                if name == 'iopub' and 'relay' in self._address:
                    connection = self._host.connect_path(self._address['relay'], timeout=REPLY_SECONDS)
                elif self._address['transport'] == 'ipc':
                    connection = self._host.connect_path(f'{address}-{port}', timeout=REPLY_SECONDS)
                else:
                    connection = self._host.connect(port, address, timeout=REPLY_SECONDS)
                return ZmtpSocket(connection, socket_type, self._identity if name in ('shell', 'stdin') else b'')
            except (SandboxPathNotFoundError, SandboxPathError, BrokenPipeError, ZmtpError) as error:
                logger.debug('kernel %s is not there yet: %s', self._label, error)
                self._check_started(deadline)
                pause.wait(_RETRY_INTERVAL)

    def _check_started(self, deadline: Deadline) -> None:
        assert self._process is not None
        with self._taking:
            result = self._process.poll()
        if result is not None:
            tail = (result.stderr.strip() or result.stdout.strip())[-2000:]
            with self._changed:
                how = self._verdict or _ending(result, self._memory_limit)
            raise KernelDiedError(
                f'the kernel {self._spec.name!r} did not start: it {how}{f"; the end of its output: {tail}" if tail else ""}',
                details={'exit_code': result.exit_code, 'stderr_tail': tail},
            )
        if is_cancelled():
            raise CallCancelledError('the start of the kernel was cancelled')
        if deadline.has_expired():
            raise OperationTimeoutError(
                f'the kernel {self._spec.name!r} did not answer within {START_SECONDS:g} seconds'
            )

    def _wait_ready(self, deadline: Deadline) -> None:
        """Ask the kernel about itself until its answer comes on both channels: only then do we get every output."""
        interval = 1.0
        while True:
            request_id, parts = self._messenger.make_request('kernel_info_request', {})
            with self._changed:
                self._current = request_id
            self._send(parts)
            limit = deadline.earlier(interval)
            with self._changed:
                self._changed.wait_for(lambda: self._inbox or self._end is not None, limit.remaining())
                heard, end = bool(self._inbox), self._end
                self._clear_inbox_locked('')
            if end is not None:
                raise end.error or KernelDiedError(f'the kernel {self._spec.name!r} did not start: it {end.reason}')
            if heard:
                break
            interval = min(2 * interval, 10.0)
            self._check_started(deadline)
        reply = self.receive_reply(request_id, deadline)
        language = reply.get('language_info')
        if isinstance(language, dict):
            self.language = str(language.get('name', '')) or self.language
            if is_writable(language) and len(json.dumps(language)) <= _MAX_LANGUAGE_BYTES:
                self.language_info = language

    # Channels ---------------------------------------------------------------------------------------------------------

    def _send(self, parts: list[bytes]) -> None:
        assert self._shell is not None
        try:
            self._shell.send(parts, REPLY_SECONDS)
        except BrokenPipeError:
            self.wait_end()

    def wait_end(self) -> None:
        """Wait until the reader has found out why the kernel is no more, which it soon will."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._end is not None, REPLY_SECONDS):
                raise SandboxError('the kernel closed its connection but does not end')

    def receive_reply(self, request_id: str, deadline: Deadline) -> dict[str, Any]:
        """Return the content of the reply to a request; older replies that nobody waited for are passed over.

        Raises:
            OperationTimeoutError: It did not come in time.
            KernelDiedError: The kernel ended.
        """
        with self._receiving:
            return self._receive_reply_locked(request_id, deadline)

    def _receive_reply_locked(self, request_id: str, deadline: Deadline) -> dict[str, Any]:
        assert self._shell is not None
        early, self._early = self._early, None
        if early is not None and early[0] == request_id:
            return early[1]
        while True:
            try:
                parts = self._shell.receive(deadline)
                message = self._messenger.read(parts) if parts is not None else None
            except (ZmtpError, MessageError) as error:
                self.kill(f'sent what is no message of a kernel ({error})')
                message = None
            if message is None:
                self.wait_end()
                assert self._end is not None
                raise self._end.error or KernelDiedError(f'the kernel {self._end.reason}')
            if message.parent_id == request_id:
                now = time.perf_counter()
                with self._changed:
                    if self._current == request_id:
                        if message.date:
                            self._times.setdefault('shell.execute_reply', message.date)
                        self._finished_at = self._finished_at or now
                return message.content

    def _has_replied(self, request_id: str, seconds: float) -> bool:
        """Return whether the reply to a request has come, and leave it for the caller that receives it."""
        if not self._receiving.acquire(timeout=seconds):
            return False
        try:
            if self._early is None or self._early[0] != request_id:
                self._early = (request_id, self._receive_reply_locked(request_id, Deadline.after(max(seconds, 0.001))))
            return True
        except OperationTimeoutError:
            return False
        except EnclaveError:
            return self.end is not None
        finally:
            self._receiving.release()

    def _read(self) -> None:
        """The reader thread: take every output, keep what the running request wants, find out how it ended."""
        end: KernelEnd | None = None
        try:
            self._read_outputs()
        except (ZmtpError, MessageError) as error:
            self.kill(f'sent what is no message of a kernel ({error})')
        except EnclaveError as error:
            end = KernelEnd('was lost with its sandbox', error=error)
        except Exception as error:
            logger.exception('reading from kernel %s failed', self._label)
            self.kill(f'sent what could not be read ({error!r})')
        if end is None:
            end = self._find_end()
        with self._changed:
            self._end = end
            self._changed.notify_all()
        self._watchdog.close()

    def _read_outputs(self) -> None:
        assert self._iopub is not None
        while (parts := self._iopub.receive(Deadline())) is not None:
            if not self._is_wanted(parts):
                continue
            message = self._messenger.read(parts)
            name = _TIMED.get(message.type)
            if name is not None:
                name = f'{name}{message.content.get("execution_state")}' if name.endswith('.') else name
                self._note_time(message, name)
            if message.type != 'status' or message.content.get('execution_state') == 'idle':
                self._keep(message, sum(len(part) for part in parts if isinstance(part, bytes)))

    def _note_time(self, message: Message, name: str) -> None:
        """Note when a message was made, and when the one came that ends the cell."""
        now = time.perf_counter()
        is_to_interrupt = False
        with self._changed:
            if self._current == message.parent_id and name in _TIMES:
                if message.date:
                    self._times.setdefault(name, message.date)
                if name == _IDLE:
                    self._finished_at = self._finished_at or now
                elif name == self._begins_by and not self._has_begun:
                    self._has_begun, is_to_interrupt = True, self._is_interrupted
        if is_to_interrupt:
            self._watchdog.interrupt_soon()

    def _keep(self, message: Message, size: int) -> None:
        """Put a message where its cell takes it; while there is no room, the kernel's outputs wait in the kernel."""
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    (len(self._inbox) < _INBOX_MESSAGES and self._inbox_bytes < _INBOX_BYTES)
                    or message.type == 'status'
                    or self._current != message.parent_id
                    or bool(self._verdict)
                )
            )
            if self._current != message.parent_id:
                return
            self._inbox.append((size, message))
            self._inbox_bytes += size
            if message.type != 'execute_input':  # which shows nothing
                self._changed.notify_all()

    def _is_wanted(self, parts: Parts) -> bool:
        """Return quickly whether a message can belong to the running request; what does is then read and checked."""
        with self._changed:
            current = self._current.encode()
        return bool(current) and any(
            isinstance(part, bytes) and len(part) < 65536 and current in part for part in parts[:5]
        )

    def _find_end(self) -> KernelEnd:
        """Return why the process is no more. It closed its outputs; if it lives on after that, it is killed."""
        assert self._process is not None
        try:
            with self._taking:
                try:
                    result = self._process.wait(5.0)
                except OperationTimeoutError:
                    self.kill('closed its channels')
                    result = self._process.wait(REPLY_SECONDS)
        except EnclaveError as error:
            return KernelEnd('was lost with its sandbox', error=error)
        with self._changed:
            verdict = self._verdict
        if result.oom_killed:
            verdict = ''
        return KernelEnd(verdict or _ending(result, self._memory_limit), oom_killed=result.oom_killed)

    def look(self) -> bool:
        """See whether the process has ended although its connections are open: children it forked may hold them."""
        if self._process is None or not self._taking.acquire(blocking=False):
            return False
        try:
            has_ended = self._process.poll() is not None
        finally:
            self._taking.release()
        if has_ended and self.end is None:
            self._close_sockets()
        return has_ended

    def _close_sockets(self) -> None:
        for socket in (self._shell, self._iopub, self._stdin):
            if socket is not None:
                socket.close()
        if self._relay is not None:
            with contextlib.suppress(EnclaveError):
                self._relay.kill()

    def _clear_inbox_locked(self, current: str) -> None:
        self._current = current
        self._inbox.clear()
        self._inbox_bytes = 0
        self._times = {}
        self._finished_at = None
        self._asks_input = False
        self._changed.notify_all()

    # Work -------------------------------------------------------------------------------------------------------------

    def ask(self, kind: str, content: dict[str, Any], timeout: float, grace: float) -> dict[str, Any]:
        """Make a request that shows nothing and return its reply.

        A request that is given up is ended as a cell would be, so that the next one finds the kernel free.

        Raises:
            OperationTimeoutError: It did not come in time.
            CallCancelledError: The work was cancelled meanwhile.
            KernelDiedError: The kernel ended.
        """
        request_id, parts = self._messenger.make_request(kind, content)
        with self._changed:
            self._clear_inbox_locked(request_id)
            self._is_occupied = True
        try:
            self._send(parts)
            reply = self.receive_reply(request_id, Deadline.after(timeout))
            self._set_free()
            return reply
        except OperationTimeoutError as error:
            raise OperationTimeoutError(f'the kernel did not answer within {timeout:g} seconds') from error
        except CallCancelledError as error:
            raise CallCancelledError('the question to the kernel was cancelled') from error
        finally:
            job = self._watchdog.begin(request_id, None, grace)
            try:
                if self.is_occupied:
                    self._leave(job, OutputCollector(1, 1))
            finally:
                self._watchdog.end(job)
                with self._changed:
                    self._clear_inbox_locked('')

    def prepare_cell(self, content: Mapping[str, Any], *, interrupt: bool) -> None:
        """Take interrupts for the cell that `run` will run.

        Args:
            content: The cell's.
            interrupt: Whether there was one already.
        """
        with self._changed:
            self._takes_interrupts, self._has_begun, self._is_interrupted = True, False, interrupt
            # Python's kernel ignores an interrupt up to a moment after "busy". Other kernels need not say more than that, and
            # none does of a silent cell.
            self._begins_by = _INPUT if self._spec.name == PYTHON_SPEC.name and not content['silent'] else _BUSY

    def interrupt_cell(self) -> None:
        """Interrupt the cell that runs, if one does; one that is on its way is interrupted when the kernel has begun it.

        A kernel that is idle would ignore it.
        """
        with self._changed:
            if not self._takes_interrupts:
                return
            self._is_interrupted, has_begun = True, self._has_begun
        if has_begun:
            self._watchdog.interrupt()

    def run(
        self, content: dict[str, Any], collector: OutputCollector, timeout: float | None, grace: float
    ) -> Generator[dict[str, Any], None, CellOutcome]:
        """Run a cell, yield its events, and return how it ended.

        Its time limit holds however slowly the events are taken: the time that a cell has ended but its outputs wait to be
        read is not its own.

        Raises:
            EnclaveError: The sandbox was lost.
        """
        if content.get('allow_stdin'):
            self._open_stdin()
        request_id, parts = self._messenger.make_request('execute_request', content)
        with self._changed:
            self._clear_inbox_locked(request_id)
            self._is_occupied = True
        started = time.perf_counter()
        self._was_late = False
        job = self._watchdog.begin(request_id, timeout, grace)
        try:
            with on_cancel(lambda: self._watchdog.stop(job)):
                self._send(parts)
                is_cut = yield from self._collect(job, collector)
            stopped = self._watchdog.end(job)
            with self._changed:
                self._is_occupied = self._takes_interrupts = False
                end, is_interrupted = self._end, self._is_interrupted
            reply: dict[str, Any] = {}
            with Cancellation().applied():  # also the end of a cell that was cancelled is waited for
                if end is None:
                    try:
                        patience = STOPPED_REPLY_SECONDS if stopped else REPLY_SECONDS
                        reply = self.receive_reply(request_id, Deadline.after(patience))
                    except KernelDiedError:
                        end = self._end
                    except OperationTimeoutError:
                        logger.warning('kernel %s ended a cell without a reply', self._label)
                with self._changed:
                    finished, timing = self._finished_at or time.perf_counter(), dict(self._times)
                    self._clear_inbox_locked('')
                if end is None and _says_exit(reply):
                    end = self._wait_exit(grace)
            if end is None and not reply and is_interrupted and not stopped:
                reply = dict(_INTERRUPTED)
            if end is None and (reply or not stopped):
                yield from collector.take_reply(reply)
            if end is not None and end.error is not None:
                raise end.error
            return CellOutcome(
                stopped=stopped,
                reply=reply,
                end=end,
                is_cut=is_cut and end is None,
                is_late=self._was_late,
                is_interrupted=is_interrupted,
                seconds=max(0.0, finished - started),
                timing=timing,
            )
        finally:
            try:
                if self.is_occupied:
                    self._leave(job, collector)
            finally:
                self._watchdog.end(job)
                with self._changed:
                    self._takes_interrupts = False
                    self._clear_inbox_locked('')

    def _wait_exit(self, grace: float) -> KernelEnd | None:
        """Wait for the end of a kernel that said that it exits, which Python's does 0.1 seconds later, and else kill it."""
        verdict = 'was ended by exit()'
        with self._changed:
            self._verdict = self._verdict or verdict
            self._changed.notify_all()
        limit = Deadline.after(max(grace, _LOOK_INTERVAL))
        while self.end is None and not limit.has_expired():
            self.look()
            with self._changed:
                self._changed.wait_for(lambda: self._end is not None, limit.earlier(_LOOK_INTERVAL).remaining())
        if self.end is None:
            self.kill(verdict)
            self.wait_end()
        return self.end

    def _leave(self, job: Job, collector: OutputCollector) -> None:
        """End a cell whose caller went away, by Ctrl-C or by closing the stream, or a question that was given up.

        It is waited for: an interrupt that came late would hit the cell after it. Who will not wait, and presses Ctrl-C again,
        has the kernel killed.
        """
        try:
            self._watchdog.stop(job)
            for _ in self._collect(job, collector):
                pass
            self._set_free()
        except EnclaveError as error:
            logger.debug('kernel %s, whose cell was left: %s', self._label, error)
        except BaseException:
            self.kill(LEFT)
            raise

    def _set_free(self) -> None:
        with self._changed:
            self._is_occupied = False

    def _collect(self, job: Job, collector: OutputCollector) -> Generator[dict[str, Any], None, bool]:
        """Yield the cell's events until it is over or its kernel has ended; return whether outputs may be missing.

        The kernel says on the channel of its outputs that they are complete. If its reply has come and nothing else has for a
        while, that was lost, and other outputs may have been.
        """
        quiet_since: float | None = None
        ended_at: float | None = None
        patience = _LATE_SECONDS[0]
        while True:
            message = self._next_message(_LOOK_INTERVAL if ended_at is None else patience)
            if message is None and ended_at is not None:
                return False
            if message is not None:
                quiet_since = None
                if ended_at is not None and time.monotonic() - ended_at > _MOST_LATE_SECONDS:
                    return True
                if message.type == 'status':
                    if not self._may_be_late:
                        return False
                    ended_at, patience = time.monotonic(), _LATE_SECONDS[0]
                    continue
                if ended_at is not None:
                    self._was_late, patience = True, _LATE_SECONDS[1]
                event = collector.take(message) if message.type != 'input_request' else _input_event(message)
                if event is not None:
                    yield event
                continue
            with self._changed:
                has_ended, is_stuck = self._end is not None, self._is_stuck
            if has_ended:
                return False
            if is_stuck:
                raise SandboxError('the kernel was to be ended but does not end; delete the sandbox and make a new one')
            self.look()
            if quiet_since is None and self._has_replied(job.request_id, 0.001):
                quiet_since = time.monotonic()
            if quiet_since is not None and time.monotonic() - quiet_since > REPLY_SECONDS:
                logger.warning('kernel %s did not say that the output of a cell was complete', self._label)
                return True

    def _next_message(self, seconds: float) -> Message | None:
        """Return the next message of the cell; None when it is time to look at everything else."""
        with self._changed:
            self._changed.wait_for(lambda: self._inbox or self._end is not None or self._is_stuck, seconds)
            if not self._inbox:
                return None
            was_full = self._inbox_bytes >= _INBOX_BYTES
            size, message = self._inbox.popleft()
            self._inbox_bytes -= size
            # Room is reported of when there is much of it, so that the reader does not wake for each message.
            if len(self._inbox) == _INBOX_MESSAGES // 2 or (was_full and self._inbox_bytes < _INBOX_BYTES):
                self._changed.notify_all()
            return message

    # For the watchdog -------------------------------------------------------------------------------------------------

    def has_finished(self, request_id: str, seconds: float) -> bool:
        """Return whether the kernel has ended a request, or has ended itself; wait up to so many seconds for it."""
        until = time.monotonic() + seconds
        while True:
            left = max(0.0, until - time.monotonic())
            with self._changed:
                if self._end is not None or self._finished_at is not None or self._current != request_id:
                    return True
            if self._has_replied(request_id, min(left, 0.1) or 0.001):
                return True
            with self._changed:
                # What holds the lock of the shell's channel meanwhile, or a connection that has closed, is no reason to spin.
                if self._changed.wait_for(
                    lambda: self._end is not None or self._finished_at is not None, min(left, 0.02)
                ):
                    return True
            if not left:
                return False

    def has_ended_request(self) -> bool:
        """Return whether the kernel has ended what it was last asked, or will never."""
        with self._changed:
            current, is_stuck = self._current, self._is_stuck
        return is_stuck or (bool(current) and self.has_finished(current, 0.0))

    def report_stuck(self, request_id: str) -> None:
        """Have the cell's caller hear that the kernel does not end, whatever is done to it."""
        with self._changed:
            self._is_stuck = True
            self._changed.notify_all()

    # Input ------------------------------------------------------------------------------------------------------------

    def _open_stdin(self) -> None:
        """Connect to the channel on which the kernel asks for input, unless that was done before."""
        if self._stdin is None:
            self._stdin = self._connect('stdin', b'DEALER', Deadline.after(REPLY_SECONDS))
            threading.Thread(target=self._read_stdin, name=f'enclave-stdin-{self._label}', daemon=True).start()

    def _read_stdin(self) -> None:
        """Put what the running cell asks where its caller takes it. It leaves when the connection closes."""
        assert self._stdin is not None
        try:
            while (parts := self._stdin.receive(Deadline())) is not None:
                if not self._is_wanted(parts):
                    continue
                message = self._messenger.read(parts)
                with self._changed:
                    if message.type == 'input_request' and message.parent_id == self._current:
                        self._asks_input = True
                        self._inbox.append((0, message))
                        self._changed.notify_all()
        except (ZmtpError, MessageError) as error:
            self.kill(f'sent what is no message of a kernel ({error})')
        except EnclaveError as error:
            logger.debug('kernel %s, channel for input: %s', self._label, error)

    def answer_input(self, text: str) -> None:
        """Give the cell that runs what it has asked for.

        Raises:
            ConflictError: It has not asked for input, or was answered.
        """
        with self._changed:
            asks, self._asks_input = self._asks_input, False
        if not asks or self._stdin is None:
            raise ConflictError('no cell of this kernel waits for input')
        self._stdin.send(self._messenger.make_request('input_reply', {'value': text})[1], REPLY_SECONDS)

    def interrupt(self) -> None:
        """Raise KeyboardInterrupt in the cell that runs, if one does; programs it started get the signal too."""
        process = self._process
        if process is None or self.end is not None:
            return
        try:
            if self._spec.interrupt_mode == 'message':
                with contextlib.closing(self._connect('control', b'DEALER', Deadline.after(REPLY_SECONDS))) as control:
                    control.send(self._messenger.make_request('interrupt_request', {})[1], REPLY_SECONDS)
                    control.receive(Deadline.after(REPLY_SECONDS))
            else:
                process.send_signal('SIGINT', group=True)
        except (EnclaveError, OSError, ZmtpError) as error:
            logger.debug('interrupting kernel %s: %s', self._label, error)

    # End --------------------------------------------------------------------------------------------------------------

    @property
    def end(self) -> KernelEnd | None:
        """Why it is over, or None."""
        with self._changed:
            return self._end

    @property
    def is_occupied(self) -> bool:
        """Whether the kernel has not ended what it was last asked. Between two turns: what it does was left for good."""
        with self._changed:
            return self._is_occupied

    @property
    def is_doomed(self) -> bool:
        """Whether it was killed, so that its end will come."""
        with self._changed:
            return bool(self._verdict)

    def kill(self, verdict: str) -> None:
        """Kill the process; ``verdict`` continues "the kernel ..."."""
        with self._changed:
            self._verdict = self._verdict or verdict
            self._changed.notify_all()
        if self._process is not None:
            with contextlib.suppress(EnclaveError):
                self._process.kill()

    def join(self) -> None:
        """Wait for the reader to leave, after the process was killed or the sandbox lost; close the connections."""
        reader = self._reader
        if reader is not None and reader is not threading.current_thread():
            reader.join(REPLY_SECONDS)
            if reader.is_alive():
                logger.warning('the reader of kernel %s has not left', self._label)
        self._close_sockets()
        self._watchdog.close()

    @property
    def held_calls(self) -> int:
        """How many calls of the sandbox's channel it holds all the time."""
        held = (self._process, self._relay, self._shell, self._iopub, self._stdin)
        return 0 if self.end is not None else sum(each is not None for each in held)


def _input_event(message: Message) -> dict[str, Any]:
    """Return the event for a question of the cell's."""
    prompt = message.content.get('prompt')
    return {
        'output_type': 'input_request',
        'prompt': prompt[:MAX_PROMPT_CHARACTERS] if isinstance(prompt, str) else '',
        'password': message.content.get('password') is True,
    }


def _says_exit(reply: Mapping[str, Any]) -> bool:
    """Return whether a kernel exits after this reply, as ``exit()`` and ``quit()`` in a cell have it do."""
    payload = reply.get('payload')
    return isinstance(payload, list) and any(
        isinstance(each, dict) and each.get('source') == 'ask_exit' and each.get('keepkernel') is not True
        for each in payload
    )


def _ending(result: CommandResult, memory_limit: str | int | None) -> str:
    """Return how a process ended, as it continues after "it"."""
    if result.oom_killed:
        limit = f" (the sandbox's limit is {memory_limit})" if memory_limit else ''
        return f'ran out of memory{limit}'
    if result.signal is not None:
        return f'was killed by {result.signal}'
    return f'ended with exit code {result.exit_code}'
