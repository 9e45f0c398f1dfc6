"""The verbs of a sandbox whose image has no Python for an agent, through the engine's own exec and archive calls
(layer 4, docker).

Each verb is one program or two of `programs`, run by the engine in the container: slower than an agent by the
engine's some 60 ms each, but with the same results and the same errors. Files go through these programs too rather
than through the archive calls: those run as root whatever the sandbox's user is, and see no file system that was
mounted inside, like the working directory of a read-only sandbox. They only serve whole archives, for an image that
has no ``tar``.

Different from an agent: no background processes with live streams and no connections to ports; SIGINT and SIGPIPE as
a program's end show by their exit code alone; every process of a guest has the variable ``ENCLAVE_CALL`` in its
environment, by which a call's daemons are found when its time is over.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import logging
import posixpath
import re
import secrets
import shlex
import stat
import tempfile
import threading
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from datetime import datetime, timezone
from typing import IO, Any, Literal, NoReturn

import attrs
from attrs import evolve

from enclave.agent.program import CPU_VARIABLES
from enclave.cancellation import is_cancelled, on_cancel, until_cancelled
from enclave.config import DEFAULT_OUTPUT_BYTES
from enclave.errors import (
    CallCancelledError,
    EnclaveError,
    EngineError,
    EngineUnavailableError,
    InvalidArgumentError,
    OperationTimeoutError,
    SandboxError,
    SandboxGoneError,
    SandboxPathError,
    SandboxPathExistsError,
    SandboxPathNotFoundError,
    SandboxSilentError,
    UnsupportedError,
)
from enclave.quoting import quoted
from enclave.records import CommandResult, PathInfo
from enclave.sandboxes.connection import Connection
from enclave.sandboxes.docker.engine import Engine
from enclave.sandboxes.docker.shell import archives, programs
from enclave.sandboxes.docker.shell.exec import CALL_VARIABLE, STDOUT, CommandExec, Exec
from enclave.sandboxes.docker.streams import ContainerStream
from enclave.sandboxes.listing import Listing
from enclave.sandboxes.operations import (
    LARGE_COMMAND_BYTES,
    ByVerb,
    CallCount,
    check_memory_held,
    explain_sizes,
    make_beside,
)
from enclave.sandboxes.output import Kept, make_result
from enclave.sandboxes.process import Process
from enclave.verb_requests import (
    MAX_COUNT,
    ListDir,
    MakeDir,
    MovePath,
    ReadArchive,
    ReadFile,
    RemovePath,
    Request,
    RunCommand,
    StartProcess,
    StatPath,
    WriteArchive,
    WriteFile,
)

logger = logging.getLogger(__name__)

LIFELINE_COMMAND = ['sh', '-c', programs.LIFELINE]
"""What process 1 runs in an image without a usable Python: it waits for the end of its input, and reaps orphans."""

ANSWER_SECONDS = 60.0
"""How long something that is quick by nature may take, before the sandbox counts as not answering."""
LAST_SECONDS = 1.0
"""How long a program that takes input has to end, after its work was cancelled and it was given no more."""
ARGUMENT_BYTES = 64 * 1024
"""Arguments of a program up to this size travel as such; Linux takes 128 KiB in one."""
KNOWN_SIZE_BYTES = 1 << 20
"""A source of unknown length up to this size is read before it is sent, since its size is then known, which saves a
step."""
LONGEST_PATH = 4096
"""The longest path that an error quotes as a whole."""
ROOM_PROCESSES = 8
"""How many processes a command should at least find room for; four are those of the shell around it."""
SPARE_PROCESSES = 64
"""By how much the process limit is raised for the programs that end others."""
KILL_SECONDS = 3.0
"""How long what a call runs is chased before everything is stopped for it."""
STOP_SECONDS = 20.0
"""How long process 1 may take to stop all others."""
WORDS_BYTES = 16 * 1024
"""How much of what a tool complains is kept."""
ANSWER_BYTES = 16 << 20
"""No answer, and no field of one, is longer; one that is comes from a tool that a guest has replaced."""

_ERRNO_MESSAGES = {
    errno.ENOENT: 'No such file or directory',
    errno.EACCES: 'Permission denied',
    errno.ENOTDIR: 'Not a directory',
    errno.EISDIR: 'Is a directory',
    errno.EEXIST: 'File exists',
    errno.ENOTEMPTY: 'Directory not empty',
    errno.EROFS: 'Read-only file system',
    errno.ENOSPC: 'No space left on device',
    errno.EDQUOT: 'Disk quota exceeded',
    errno.EPERM: 'Operation not permitted',
    errno.EBUSY: 'Device or resource busy',
    errno.ELOOP: 'Too many levels of symbolic links',
    errno.ENAMETOOLONG: 'File name too long',
    errno.EINVAL: 'Invalid argument',
    errno.EFBIG: 'File too large',
    errno.ETXTBSY: 'Text file busy',
    errno.EXDEV: 'Invalid cross-device link',
    errno.E2BIG: 'Argument list too long',
    errno.EIO: 'Input/output error',
}
_OTHER_MESSAGES = {
    # musl's, and those of dash and busybox for an output file whose directory is missing
    'Directory nonexistent': errno.ENOENT,
    'nonexistent directory': errno.ENOENT,
    'Resource busy': errno.EBUSY,
    'Symbolic link loop': errno.ELOOP,
    'Filename too long': errno.ENAMETOOLONG,
    'Cross-device link': errno.EXDEV,
    'I/O error': errno.EIO,
    'Quota exceeded': errno.EDQUOT,
}
_NUMBERS = {**{message: number for number, message in _ERRNO_MESSAGES.items()}, **_OTHER_MESSAGES}
_CPU_VARIABLES = [name.decode('ascii') for name in CPU_VARIABLES]
_ERRNO_LINE = re.compile(r'^errno=(\d{1,4})$', re.MULTILINE)
_OUTSIDE_LINE = re.compile(r'^outside=(\d{1,9})$', re.MULTILINE)
_END_LINE = re.compile(rb'\nend=(\d{1,3})\n\Z')
_NO_USER = re.compile(r'unable to find (user|group) ([^\n]*?): no matching entries')


class _ScriptError(Exception):
    """A program of this library said that it failed."""

    def __init__(self, code: int, stderr: str) -> None:
        super().__init__(code, stderr)
        self.code = code
        self.stderr = stderr

    def find_number(self) -> int | None:
        """Return the errno: as our program said it, or as a tool's last message means it."""
        found = _ERRNO_LINE.search(self.stderr)
        if found:
            return int(found[1])
        for line in reversed(self.stderr.splitlines()):
            for message, number in _NUMBERS.items():
                if line.rstrip().endswith(message):
                    return number
        return None

    @property
    def number(self) -> int:
        """The errno, ``EINVAL`` where it is not known."""
        return self.find_number() or errno.EINVAL


class NoRoomError(SandboxError):
    """A process could not be started since there are too many."""

    code = 'sandbox'


class _SourceError(Exception):
    """The iterable that gives a program's input raised ``error``; the program has ended, with ``answer``."""

    def __init__(self, error: Exception, answer: bytes) -> None:
        super().__init__()
        self.error = error
        self.answer = answer


class EngineOperations(ByVerb):
    """See `Operations`. Lives as long as its container.

    Args:
        stream: The attachment that keeps the container alive, which is closed in the end; None if nothing is attached.
        name: The sandbox's id, for messages and threads.
        cpu_count: How many processors the sandbox's CPU limit amounts to; 0 for all there are.
        pids_limit: How many processes there may be; None for no limit.
    """

    connect_problem = 'a connection to a port in the sandbox needs an image with Python 3.6 or later'

    def __init__(
        self,
        engine: Engine,
        container: str,
        stream: ContainerStream | None,
        *,
        name: str,
        cpu_count: int = 0,
        pids_limit: int | None = None,
    ) -> None:
        self._engine = engine
        self._container = container
        self._stream_in = stream
        self._name = name
        self._calls = CallCount()
        self._cpu_count = cpu_count
        self._pids_limit = pids_limit
        self._lock = threading.Lock()  # guards _has_run, _running, _own_ids and _environment
        self._has_run = False
        self._has_ended_one = False  # so that something may be left of it
        self._running: set[str] = set()  # the marks of the commands that are running
        self._own_ids: tuple[int, int] | None = None
        self._environment: dict[str, str] | None = None
        self._has_ended = threading.Event()
        self._room_lock = threading.Lock()  # one at a time makes room
        self._has_stopped = threading.Event()  # process 1 has answered SIGUSR1
        self._is_closing = False
        if stream is not None:
            # Asked to leave by closing the stream.
            threading.Thread(target=self._watch, name=f'enclave-lifeline-{name}', daemon=True).start()

    def _watch(self) -> None:
        assert self._stream_in is not None
        while self._stream_in.read():
            self._has_stopped.set()  # the only thing that process 1 ever says
        self._has_ended.set()

    @property
    def active_calls(self) -> int:
        """How many calls are running."""
        return self._calls.value

    def find_problem(self) -> str | None:
        """Return why nothing can be run any more, as far as that is known without asking."""
        return 'its container has ended' if self._has_ended.is_set() and not self._is_closing else None

    # Commands ---------------------------------------------------------------------------------------------------------

    def execute_command(self, request: RunCommand) -> CommandResult:
        """Run a command to its end, or to the end of its time."""
        with self._calls.counted():
            with self._lock:
                self._has_run = True
            if request.user:
                self._check_user(request.user)
            script, text = request.script, b''
            if script is not None:
                text = script.source
            elif isinstance(request.command, str):
                text = request.command.encode('utf-8', 'surrogateescape')
                if len(text) < LARGE_COMMAND_BYTES:
                    text = b''
            if _is_argument(text):
                return self._run_with_room(request, text.decode('utf-8'))
            return self._run_with_file(request, text)

    def _run_with_file(self, request: RunCommand, source: bytes) -> CommandResult:
        """Run a script, or a shell's command, that is too long for an argument, or no text."""
        script = request.script
        name = f'.enclave-{secrets.token_hex(8)}'
        try:
            suffix = script.suffix if script else ''
            answer = self._ask(programs.KEEP_SCRIPT, name, suffix, chunks=[source], user=request.user, timeout=None)
        except _ScriptError as error:
            self._raise(error, '', 'no place to write the program text to: ')
        path = answer.decode('utf-8', 'surrogateescape')
        try:
            if script is None:
                return self._run_with_room(evolve(request, command=f'. {shlex.quote(path)}'), '', request.command)
            argv = [*request.command]
            argv[script.at] = path
            return self._run_with_room(evolve(request, command=tuple(argv), script=None), '', request.command)
        finally:
            with contextlib.suppress(EnclaveError, _ScriptError):
                self._ask(programs.DISCARD, posixpath.dirname(path), user=request.user, is_cleaning=True)

    def _run_with_room(
        self, request: RunCommand, text: str, shown: str | tuple[str, ...] | None = None
    ) -> CommandResult:
        """Run a command; where what others have left running leaves no room for it, end that first."""
        shown = shown or request.command
        try:
            return self._run(request, shown, text, self._most_processes())
        except NoRoomError:
            self._make_room()
        return self._run(request, shown, text, None)

    def _most_processes(self) -> int | None:
        """Return from how many processes on there may be too little room for a command; None where nothing was run before."""
        with self._lock:
            limit = self._pids_limit if self._has_ended_one else None
        return None if limit is None else max(limit // 2, limit - ROOM_PROCESSES)

    def _ask_with_room(self, program: str, *arguments: str, user: str | None = None) -> bytes:
        """Run a program that ends others, with the process limit raised for as long as that takes.

        Even such a program takes a process or two, and what forks faster than it is killed would take its place: so everything
        else stands still meanwhile, also what other calls run.
        """
        limit = self._pids_limit
        with self._room_lock, self._all_stopped():
            if limit is None:
                return self._ask(program, *arguments, user=user, is_cleaning=True)
            self._set_process_limit(limit + SPARE_PROCESSES)
            try:
                return self._ask(program, *arguments, user=user, is_cleaning=True)
            finally:
                self._set_process_limit(limit)

    def _make_room(self) -> bool:
        """End what ended calls have left; False if nothing is left."""
        if self._pids_limit is None:
            return False
        with self._lock:
            kept = list(self._running)
        try:
            count = _cleaned(self._ask_with_room(programs.CLEAN, self._clean_flag(), *kept))[0]
        except (EnclaveError, _ScriptError) as error:
            logger.warning('sandbox %s: no room could be made for processes: %s', self._name, error)
            return False
        if count:
            logger.warning(
                'sandbox %s: %d processes that an earlier call had left running were ended, since they left no room for another '
                '(pids_limit)',
                self._name,
                count,
            )
        return count > 0

    @contextlib.contextmanager
    def _all_stopped(self) -> Iterator[None]:
        """Have every process stand still but process 1, where that is ours."""
        if self._stream_in is None:
            yield
            return
        self._has_stopped.clear()
        try:
            self._signal('SIGUSR1')
            # Without an answer it is tried all the same: what it needs may already have been stopped, which costs that try alone.
            self._has_stopped.wait(STOP_SECONDS)
            yield
        finally:
            self._signal('SIGUSR2')

    def _signal(self, name: str) -> None:
        """Send a signal to process 1."""
        with self._engine.translate(f'signal process 1 of sandbox {self._name}'):
            self._engine.api.kill(self._container, name)

    def _set_process_limit(self, limit: int) -> None:
        with self._engine.translate(f'change the process limit of sandbox {self._name}'):
            api: Any = self._engine.api  # whose method for this does not know the limit
            api._raise_for_status(
                api._post_json(api._url('/containers/{0}/update', self._container), {'PidsLimit': limit})
            )

    def _clean_flag(self) -> str:
        """Where the container has a program of its own, what carries no mark may be that one's."""
        return _flag(self._stream_in is not None)

    def end_processes(self, timeout: float, *, keep: Collection[Process] = ()) -> int:
        """End what calls have started; see `ProcessEnder.end_processes`."""
        with self._lock:
            if not self._has_run:
                return 0
        try:
            found = self._ask(programs.CLEAN, self._clean_flag(), timeout=timeout, is_cleaning=True)
            count, held, limit = _cleaned(found)
        except NoRoomError:
            if not self._make_room():
                raise
            return 1
        except _ScriptError as error:
            raise SandboxError(
                f'sandbox {self._name}: its processes could not be ended: {error.stderr.strip()}'
            ) from None
        check_memory_held(self._name, held, limit if limit < 1 << 60 else 0)
        return count

    def _run(self, request: RunCommand, shown: str | tuple[str, ...], text: str, most: int | None) -> CommandResult:
        first, last = self._run_arguments(request, text, most)

        def place(call_id: str) -> str:
            return f'.enclave-{call_id}' if request.script else ''

        def start(call_id: str) -> Exec:
            return self._exec(programs.RUN, (*first, place(call_id), *last), call_id=call_id, user=request.user)

        def kill(call: CommandExec, *, asks: bool = False) -> None:
            arguments = (call.id, call.pid, call.since, place(call.id), _flag(asks))
            try:
                self._ask(programs.KILL, *arguments, user=request.user, timeout=KILL_SECONDS, is_cleaning=True)
            except (
                NoRoomError,
                OperationTimeoutError,
                _ScriptError,
            ):  # it finds no place, or they become more than it can end
                if not asks:
                    with contextlib.suppress(_ScriptError):  # it is tried again until the call's streams end
                        self._ask_with_room(programs.KILL, *arguments, user=request.user)

        call = CommandExec(
            request.max_output_bytes or DEFAULT_OUTPUT_BYTES,
            start,
            kill,
            name=self._name,
            ask_to_end=(lambda call: kill(call, asks=True)),
            grace=request.grace,
        )
        patience = ANSWER_SECONDS if not request.timeout else min(ANSWER_SECONDS, max(10.0, request.timeout + 5.0))
        timers = [self._make_timer(patience, call.give_up)]

        def on_started() -> None:
            timers[0].cancel()
            if request.timeout:
                timers.append(self._make_timer(request.timeout, lambda: call.kill('timed_out')))

        with self._lock:
            self._running.add(call.id)
        try:
            if is_cancelled():
                call.kill('cancelled')
            with on_cancel(lambda: call.kill('cancelled')):
                program = call.read_all(request.stdin or b'', on_started)
        finally:
            with self._lock:
                self._running.discard(call.id)
                self._has_ended_one = True
            for timer in timers:
                timer.cancel()
        return self._result(request, shown, call, program)

    def _run_arguments(
        self, request: RunCommand, text: str, most: int | None
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the arguments of `programs.RUN` before and after the name of the script's directory."""
        base = self._base_environment()
        # A shell passes on only what could be a variable of its own.
        environment = {name: value for name, value in base.items() if not name.isidentifier()}
        if self._cpu_count:
            environment.update({name: str(self._cpu_count) for name in _CPU_VARIABLES if name not in base})
        environment.update(request.env or {})
        for name, directory in (request.path_first or {}).items():
            old = environment.get(name, base.get(name))
            environment[name] = f'{directory}:{old}' if old else directory
        is_text = isinstance(request.command, str)
        argv = ['sh', '-c', '--', str(request.command)] if is_text else list(request.command)
        before: list[str] = []
        if environment:
            before = ['env', *(f'{key}={value}' for key, value in environment.items())]
            if '=' in argv[0]:
                before += ['sh', '-c', 'exec "$@"', 'sh']
        at = 0 if is_text else request.script.at if request.script else None
        first = (
            '' if most is None else str(most),
            request.cwd or '',
            _flag(request.stdin is not None),
            environment.get('PATH', ''),
            '' if is_text else argv[0],
            _flag(bool(request.user)),
            '' if at is None else str(len(before) + at),
        )
        return first, (request.script.suffix if request.script else '', text, *before, *argv)

    def _result(
        self, request: RunCommand, shown: str | tuple[str, ...], call: CommandExec, program: Exec | None
    ) -> CommandResult:
        kind = call.fields[0] if call.fields else ''
        number = _number(call.fields[1]) if len(call.fields) > 1 else 0
        exit_code: int | None = None
        killed_by: int | None = None
        refusal = b''
        if call.verdict == 'silent':
            raise SandboxSilentError(
                f'sandbox {self._name} is paused, so that a command could not be ended at its time limit; that is done when it '
                'is unpaused. Otherwise delete it',
                details={'sandbox_id': self._name},
            )
        if kind == 'n' and not call.verdict:
            raise NoRoomError('the sandbox could not start a process (its process limit is nearly reached)')
        if kind == 'e' and call.verdict == 'timed_out':
            killed_by = 9  # however it went about it in its grace
        elif kind == 'e':
            exit_code = number
            if call.fields[2:3] == ['1'] and number > 128:
                killed_by = number - 128
        elif call.verdict == 'stuck':
            raise SandboxSilentError(
                f'sandbox {self._name} did not start the program in time; it may be frozen',
                details={'sandbox_id': self._name},
            )
        elif call.verdict:
            killed_by = 9
        elif kind == 'c':
            number = _ScriptError(1, call.err.data().decode('utf-8', 'replace')).number
            reason = _ERRNO_MESSAGES.get(number, f'error {number}')
            raise InvalidArgumentError(f'cwd {quoted(request.cwd)}: {reason}', details={'field': 'cwd'})
        elif kind == 's':
            message = f'no place to write the program text to: {_ERRNO_MESSAGES[errno.EROFS]}'
            raise SandboxPathError(message, details={'errno': errno.EROFS})
        elif kind == 'm' or self._was_too_long(call):
            exit_code = 127 if number == errno.ENOENT else 126  # also what is too long to be one
            name = request.command if isinstance(request.command, str) else request.command[0]
            reason = _ERRNO_MESSAGES.get(number, f'error {number}') if kind == 'm' else explain_sizes(request)
            refusal = f'enclave: cannot run {quoted(name)}: {reason}\n'.encode('utf-8', 'backslashreplace')
        else:
            killed_by = self._early_end(call, program)
        return make_result(
            shown,
            exit_code=exit_code,
            killed_by=killed_by,
            stdout=b'' if refusal else call.out.data(),
            stderr=refusal or call.err.data(),
            stdout_bytes=0 if refusal else call.out.total,
            stderr_bytes=len(refusal) or call.err.total,
            cap=request.max_output_bytes or DEFAULT_OUTPUT_BYTES,
            timed_out=call.verdict == 'timed_out',
            cancelled=call.verdict == 'cancelled',
            oom_killed=call.fields[3:4] == ['1'],
            seconds=0.0 if call.started_at is None else round(call.ended_at - call.started_at, 6),
        )

    @staticmethod
    def _was_too_long(call: CommandExec) -> bool:
        """Return whether the engine, whose message is then in the outputs, found the arguments too long for a program."""
        return call.started_at is None and b'argument list too long' in call.out.data() + call.err.data()

    def _early_end(self, call: CommandExec, program: Exec | None) -> int:
        """Return the signal that ended the shell around a command, or raise what was the matter."""
        self._check_running()
        code = None if program is None else self._exit_code(program)
        if call.started_at is None:
            self._raise_refusal(call.out.data() or call.err.data())
        if code is not None and code < 128:
            raise NoRoomError('the sandbox could not start a process (is its process limit reached?)')
        return 9 if code is None else code - 128

    def _exit_code(self, program: Exec) -> int | None:
        try:
            return program.find_exit_code()
        except EngineError as error:
            raise SandboxGoneError(f'the container of sandbox {self._name} has gone: {error.message}') from error

    def _raise_refusal(self, output: bytes) -> NoReturn:
        """Raise what the engine means, which writes on a program's outputs why it could not start it."""
        text = output[:4096].decode('utf-8', 'replace').strip()
        no_user = _NO_USER.search(text)
        if no_user:
            message = f'there is no {no_user[1]} {no_user[2]!r} in the sandbox'
            raise InvalidArgumentError(message, details={'field': 'user'})
        if 'uids and gids must be in range' in text:
            raise InvalidArgumentError('user has a number that no user or group can have', details={'field': 'user'})
        if 'is not running' in text or 'stopped' in text:
            raise SandboxGoneError(f'the container of sandbox {self._name} does not run any more: {text}')
        # The engine's own helper in the container (runc init) dies of a full limit at various points, with a message for each.
        if not text or any(each in text.lower() for each in ('resource temporarily unavailable', 'read init-p')):
            text = f'is its process limit reached? {text}'.strip()
            raise NoRoomError(f'the sandbox could not start a process ({text})')
        raise SandboxError(f'the sandbox could not start a process ({text})')

    def _check_running(self) -> None:
        """Raise if the container has ended: then how its programs ended is no result."""
        self._has_ended.wait(0.2)  # the container's stream and those of its programs end in no certain order
        if self._has_ended.is_set():
            raise SandboxGoneError(f'the container of sandbox {self._name} has ended')
        try:
            with self._engine.translate(f'look at sandbox {self._name}'):
                state = self._engine.api.inspect_container(self._container)['State']
        except EngineError as error:
            if error.details.get('status') == 404 or isinstance(error, EngineUnavailableError):
                raise SandboxGoneError(f'sandbox {self._name} is lost: {error.message}') from error
            raise
        if not state.get('Running'):
            raise SandboxGoneError(f'the container of sandbox {self._name} has ended')

    def _check_user(self, user: str) -> None:
        """Raise for a user whom the sandbox's own could not become; the engine itself would allow any."""
        uid = self.get_ids()[0]
        if uid != 0 and self._ids_of(user)[0] != uid:
            message = f'the sandbox runs as uid {uid} and cannot become another user'
            raise InvalidArgumentError(message, details={'field': 'user'})

    def get_ids(self) -> tuple[int, int]:
        """Return the uid and gid that the sandbox runs as; asked for once."""
        with self._lock:
            known = self._own_ids
        if known is None:
            known = self._ids_of(None)
            with self._lock:
                self._own_ids = known
        return known

    def _ids_of(self, user: str | None) -> tuple[int, int]:
        fields = self._ask(programs.IDENTITY, user=user).split()
        if len(fields) != 2:
            raise SandboxError("the sandbox's program 'id' answers nonsense")
        return _number(fields[0]), _number(fields[1])

    def _base_environment(self) -> dict[str, str]:
        """Return what every program in the container begins with."""
        with self._lock:
            known = self._environment
        if known is None:
            with self._engine.translate(f'look at sandbox {self._name}'):
                pairs = self._engine.api.inspect_container(self._container)['Config'].get('Env') or ()
            known = {name: value for name, _, value in (pair.partition('=') for pair in pairs)}
            with self._lock:
                self._environment = known
        return known

    def start_process(self, request: StartProcess) -> Process:
        """Raise; only an agent can do this."""
        raise UnsupportedError('a process that runs while the caller continues needs an image with Python 3.6 or later')

    # Files ------------------------------------------------------------------------------------------------------------

    def read_file(self, request: ReadFile) -> Iterator[bytes]:
        """Yield a regular file's bytes. Errors are raised by the first step."""
        path, offset = request.path, request.offset
        length = '' if request.max_bytes is None else str(request.max_bytes)
        with self._calls.counted():
            try:
                yield from self._stream(programs.READ, path, str(min(offset + 1, MAX_COUNT)), length)
            except _ScriptError as error:
                if 'irregular\n' in error.stderr:
                    message = f'not a regular file: {path!r}'
                    raise SandboxPathError(message, details={'errno': error.number}) from None
                self._raise(error, path)

    def write_file(self, request: WriteFile, chunks: Iterable[bytes], size: int | None = None) -> int:
        """Write a regular file and return its size; ``size`` is how many bytes come, where that is known."""
        path, mode = request.path, request.mode
        pieces = until_cancelled(chunks, f'writing {path!r} into the sandbox')
        source, known = (pieces, size) if size is not None else _measured(pieces)
        length, bits = '' if known is None else str(known), '' if mode is None else f'{mode:o}'
        flags = (_flag(request.append), _flag(request.exclusive), _flag(request.make_parents))
        name = f'.enclave-{secrets.token_hex(8)}'
        with self._calls.counted(), self._path_errors(path):
            try:
                arguments = (path, length, *flags, bits, name)
                answer = self._ask(programs.WRITE, *arguments, chunks=source, timeout=None)
                if b'\0' in answer:
                    place, beside = _text(answer).split('\0')[:2]
                    if is_cancelled():
                        raise _SourceError(
                            CallCancelledError(f'writing {path!r} into the sandbox was cancelled'), answer
                        )
                    answer = self._ask(programs.COMMIT, place, beside, bits)
            except _SourceError as broken:
                if b'\0' in broken.answer:
                    with contextlib.suppress(EnclaveError, _ScriptError):
                        beside = _text(broken.answer).split('\0')[1]
                        self._ask(programs.DISCARD, beside, is_cleaning=True)
                raise broken.error from None
            except _ScriptError as error:
                if 'short\n' in error.stderr:
                    message = 'the file changed its size while it was copied; copy it again'
                    raise SandboxPathError(message, details={'errno': error.number}) from None
                raise
        return _number(answer)

    def list_dir(self, request: ListDir) -> list[PathInfo]:
        """Return a directory's entries, sorted by path."""
        path, listing = request.path, Listing(request)
        with self._calls.counted(), self._path_errors(path):
            pieces = self._stream(programs.LIST, path, _flag(request.recursive), programs.STAT_FORMAT)
            with contextlib.closing(pieces):
                for entry in itertools.islice(_listed(_fields(pieces)), listing.wanted):
                    listing.add(entry)
        return listing.sorted()

    def stat_path(self, request: StatPath) -> PathInfo:
        """Return what is at a path; the record's own path is absolute."""
        path, follow_symlinks = request.path, request.follow_symlinks
        with self._calls.counted(), self._path_errors(path):
            answer = self._ask(programs.STAT, path, _flag(follow_symlinks), programs.STAT_FORMAT)
        facts, _, rest = answer.partition(b'\0')
        found, plain = _text(rest.removesuffix(b'\n')), posixpath.normpath(path)
        return _path_info(found or plain, facts, '') if follow_symlinks else _path_info(plain, facts, found)

    def remove_path(self, request: RemovePath) -> None:
        """Remove what is at a path."""
        try:
            with self._calls.counted(), self._path_errors(request.path):
                self._ask(programs.REMOVE, request.path, _flag(request.recursive), timeout=None)
        except SandboxPathNotFoundError:
            if not request.missing_ok:
                raise

    def make_dir(self, request: MakeDir) -> None:
        """Make a directory."""
        path = request.path
        parent = posixpath.dirname(posixpath.normpath(path)) if request.parents else ''
        with self._calls.counted(), self._path_errors(path):
            self._ask(programs.MAKE_DIR, path, parent, _flag(request.exist_ok), f'{request.mode:o}')

    def move_path(self, request: MovePath) -> None:
        """Rename, or move between file systems."""
        source, target = request.source, request.target
        plain = source.rstrip('/') or '/'
        arguments = (source, target, posixpath.basename(plain), _flag(request.overwrite))
        with self._calls.counted():
            try:
                self._ask(programs.MOVE, *arguments, timeout=None)
            except _ScriptError as error:
                self._raise(error, source if 'source\n' in error.stderr else target)

    def run_other(self, request: Request[Any]) -> None:
        """Have a verb done by the program that has its name, in capitals.

        Its arguments are a name for what it makes beside its place, and the fields of the request, in order.
        """
        program: str = getattr(programs, request.verb.upper(), '')
        if not program:
            super().run_other(request)
        beside, fields = make_beside(), attrs.asdict(request)  # type: ignore[arg-type]
        arguments = [
            _flag(value) if isinstance(value, bool) else '' if value is None else str(value)
            for value in fields.values()
        ]
        with self._calls.counted():
            try:
                self._ask(program, beside, *arguments, timeout=None)
            except _ScriptError as error:
                path = request.paths[0] if 'first\n' in error.stderr else request.paths[-1]
                if 'irregular\n' in error.stderr:
                    message = f'not a regular file: {path!r}'
                    raise SandboxPathError(message, details={'errno': error.number}) from None
                self._raise(error, path)
            except CallCancelledError:
                for path in request.places(beside):
                    with contextlib.suppress(EnclaveError, _ScriptError):
                        self._ask(programs.DISCARD, path, is_cleaning=True)
                raise

    # Archives ---------------------------------------------------------------------------------------------------------

    def read_archive(self, request: ReadArchive) -> Iterator[bytes]:
        """Yield a tar archive of a path."""
        path, arcname = request.path, request.top_name
        folder, base = posixpath.split(path)
        with self._calls.counted():
            pieces = self._stream(programs.PACK, path, folder, base)
            try:
                with contextlib.closing(pieces):
                    first = next(pieces, b'')
                    rest = itertools.chain((first[1:],), pieces)
                    yield from archives.rename_top(rest, base if first[:1] == b'f' else '.', arcname)
                    return
            except _ScriptError as error:
                if error.number != errno.ENOSYS:
                    self._raise(error, path)
            plain = posixpath.normpath(path)
            with contextlib.closing(self._engine.read_archive(self._container, plain)) as stream:
                yield from archives.rename_top(stream, posixpath.basename(plain) or '.', arcname)

    def write_archive(self, request: WriteArchive, chunks: Iterable[bytes], size: int | None = None) -> None:
        """Unpack a tar archive below a directory, made if missing, merging with what is there."""
        path = request.target_dir
        ids = self.get_ids()
        with self._calls.counted(), self._path_errors(path), tempfile.TemporaryFile() as spool:
            source = until_cancelled(chunks, f'unpacking in {path!r}')
            folders = archives.check(source, spool, None if ids[0] == 0 else ids)
            has_tar, root = self._find_place(path, folders)
            spool.seek(0)
            if has_tar:
                self._ask(programs.UNPACK, root, chunks=_blocks(spool), timeout=None)
            else:
                self._engine.write_archive(self._container, root, _blocks(spool))

    def _find_place(self, path: str, folders: dict[str, str]) -> tuple[bool, str]:
        """Make the target, look whether symlinks that are there lead out of it, and return whether there is a tar, and
        the real path."""
        answer = b''
        for batch in _batches(folders):
            try:
                answer = self._ask(programs.PLACE, path, *batch)
            except _ScriptError as error:
                outside = _OUTSIDE_LINE.search(error.stderr)
                if outside is None or int(outside[1]) >= len(batch):
                    raise
                message = f'the archive has a member outside the target: {folders[batch[int(outside[1])]]!r}'
                raise SandboxPathError(message, details={'errno': errno.EINVAL}) from None
        tar, _, root = answer.partition(b'\0')
        return tar == b'tar', _text(root)

    # Network ----------------------------------------------------------------------------------------------------------

    def connect(self, port: int, host: str, *, timeout: float | None) -> Connection:
        """Raise; only an agent can do this."""
        raise UnsupportedError(self.connect_problem)

    # Life -------------------------------------------------------------------------------------------------------------

    def ping(self, timeout: float) -> None:
        """Return if the sandbox runs a program."""
        try:
            self._ask(programs.IDENTITY, timeout=timeout)
        except EngineUnavailableError as error:
            raise SandboxGoneError(f'sandbox {self._name} is lost: {error.message}') from error
        except _ScriptError as error:
            raise SandboxGoneError(f'sandbox {self._name} cannot run a program: {error.stderr.strip()}') from None

    def close(self, *, grace: float) -> None:
        """Ask what still runs to end, wait at most ``grace`` seconds, and let go of the sandbox."""
        self._is_closing = True
        try:
            if grace > 0 and self._has_run and not self._has_ended.is_set():
                self._ask(programs.TERMINATE, 'closing', timeout=grace, is_cleaning=True, call_id='closing')
        except (EnclaveError, _ScriptError):
            pass  # it continues, or has gone; what follows does not ask
        finally:
            if self._stream_in is not None:
                self._stream_in.close()

    # Help -------------------------------------------------------------------------------------------------------------

    def _exec(self, program: str, arguments: Sequence[str], *, call_id: str, user: str | None = None) -> Exec:
        """Start one of our programs."""
        return Exec(
            self._engine,
            self._container,
            ['sh', '-c', program, 'enclave', *_encoded(arguments)],
            name=self._name,
            user=user,
            environment={CALL_VARIABLE: call_id},
        )

    def _stream(self, program: str, *arguments: str) -> Generator[bytes, None, None]:
        """Yield what one of our programs answers; leaving early ends it.

        Raises:
            _ScriptError: It failed, said at the end.
        """
        call_id = f'own-{secrets.token_hex(8)}'
        running = self._exec(program, arguments, call_id=call_id)
        running.close_input()
        has_ended = False
        try:
            with on_cancel(running.cancel):
                yield from self._answer(running)
            has_ended = True
        except (_ScriptError, EnclaveError):
            has_ended = not running.is_cancelled
            raise
        finally:
            running.close()
            if not has_ended:
                self._kill_later(call_id)

    def _ask(
        self,
        program: str,
        *arguments: str,
        chunks: Iterable[bytes] | None = None,
        user: str | None = None,
        timeout: float | None = ANSWER_SECONDS,
        is_cleaning: bool = False,
        call_id: str = '',
    ) -> bytes:
        """Run one of our programs and return its answer.

        Args:
            chunks: Its input; iterated on this thread.
            is_cleaning: It is run although the work was cancelled.

        Raises:
            _ScriptError: It failed.
            _SourceError: ``chunks`` raised; the program has seen the end of its input and has ended.
            CallCancelledError: The work was cancelled, and the program did not end well.
        """
        call_id = call_id or f'own-{secrets.token_hex(8)}'
        running = self._exec(program, arguments, call_id=call_id, user=user)
        is_late = threading.Event()
        has_ended = False

        def stop() -> None:
            is_late.set()
            running.close()

        def end_input() -> None:
            # A program that misses input rolls back by itself what it has made of the rest, if it is given the time.
            running.is_cancelled = True
            timers.append(self._make_timer(0.0, running.close_input))  # apart: a write that is blocked holds it up
            timers.append(self._make_timer(LAST_SECONDS, running.close))

        cancel = running.cancel if chunks is None else end_input
        timers = [] if timeout is None else [self._make_timer(timeout, stop)]
        try:
            with contextlib.nullcontext() if is_cleaning else on_cancel(cancel):
                if chunks is None:
                    running.close_input()
                    answer = self._whole_answer(running)
                else:
                    answer = self._exchange(running, chunks)
            has_ended = True
            return answer
        except (_ScriptError, _SourceError) as error:
            has_ended = True
            if running.is_cancelled and isinstance(error, _ScriptError):
                raise CallCancelledError('the file operation was cancelled') from None
            raise
        except EnclaveError as error:
            if is_late.is_set():
                message = f'sandbox {self._name} did not answer within {timeout:g} s'
                raise OperationTimeoutError(message) from error
            has_ended = not running.is_cancelled
            raise
        finally:
            for timer in timers:
                timer.cancel()
            running.close()
            if not has_ended and not is_cleaning:
                self._kill_later(call_id)

    def _exchange(self, running: Exec, chunks: Iterable[bytes]) -> bytes:
        """Send a program its input while another thread takes its answer, which may be a complaint before the end."""
        answers: list[bytes] = []
        errors: list[BaseException] = []

        def collect() -> None:
            # Ends with the program's output, or when the stream is closed.
            try:
                answers.append(self._whole_answer(running))
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=collect, name=f'enclave-answer-{self._name}', daemon=True)
        thread.start()
        broken: Exception | None = None
        try:
            for chunk in _held_back(chunks):
                if not running.write(chunk):
                    break
        except Exception as error:
            broken = error
        running.close_input()
        thread.join()
        if broken is not None:
            raise _SourceError(broken, answers[0] if answers else b'')
        if errors:
            raise errors[0]
        return answers[0]

    def _whole_answer(self, running: Exec) -> bytes:
        answer = bytearray()
        for piece in self._answer(running):
            answer += piece
            if len(answer) > ANSWER_BYTES:
                raise SandboxError(f'a program in sandbox {self._name} answers without end')
        return bytes(answer)

    def _answer(self, running: Exec) -> Iterator[bytes]:
        """Yield a program's answer, and raise what its last line means."""
        errors = Kept(WORDS_BYTES)
        refusal, has_begun = b'', False
        for kind, piece in running.pieces():
            if kind != STDOUT:
                errors.add(piece)
            elif has_begun:
                yield piece
            elif piece.startswith(b'+'):
                has_begun = True
                if len(piece) > 1:
                    yield piece[1:]
            else:
                refusal = (refusal + piece)[:4096]
        stderr = errors.data()
        end = _END_LINE.search(stderr)
        if end is None:
            if running.is_cancelled:
                raise CallCancelledError('the file operation was cancelled')
            self._check_running()
            if not has_begun:
                self._raise_refusal(refusal or stderr)
            raise SandboxError('the file operation was ended from inside the sandbox')
        if int(end[1]):
            raise _ScriptError(int(end[1]), stderr[: end.start()].decode('utf-8', 'replace'))

    def _kill_later(self, call_id: str) -> None:
        """End one of our own programs that nobody waits for any more."""

        def kill() -> None:
            with contextlib.suppress(EnclaveError, _ScriptError):
                self._ask(programs.KILL, call_id, '', '', '', is_cleaning=True)

        threading.Thread(target=kill, name=f'enclave-kill-{self._name}', daemon=True).start()

    def _make_timer(self, seconds: float, action: Callable[[], None]) -> threading.Timer:
        timer = threading.Timer(min(seconds, threading.TIMEOUT_MAX), action)
        timer.name, timer.daemon = f'enclave-timer-{self._name}', True
        timer.start()
        return timer

    @contextlib.contextmanager
    def _path_errors(self, path: str) -> Iterator[None]:
        try:
            yield
        except _ScriptError as error:
            self._raise(error, path)

    def _raise(self, error: _ScriptError, path: str, before: str = '') -> NoReturn:
        """Raise the exception that an agent's answer would raise."""
        number = error.number
        reason = _ERRNO_MESSAGES.get(number, f'error {number}')
        if error.find_number() is None and error.stderr.strip():
            reason = error.stderr.strip().splitlines()[-1]
        shown = path if len(path) <= LONGEST_PATH else f'{path[:200]}...{path[-100:]}'
        message = f'{before}{reason}{f": {shown!r}" if path else ""}'
        if number == errno.ENOENT:
            raise SandboxPathNotFoundError(message, details={'errno': number}) from None
        if number == errno.EEXIST:
            raise SandboxPathExistsError(message, details={'errno': number}) from None
        raise SandboxPathError(message, details={'errno': number}) from None


# What goes in ---------------------------------------------------------------------------------------------------------


def _flag(value: bool) -> str:
    return '1' if value else ''


def _is_argument(data: bytes) -> bool:
    """Return whether a text can travel as an argument."""
    if len(data) > ARGUMENT_BYTES or b'\0' in data:
        return False
    try:
        data.decode('utf-8')
    except UnicodeDecodeError:
        return False
    return True


def _encoded(arguments: Sequence[str]) -> list[str]:
    """Return arguments for `programs`: plain ones, or in escapes if any is not UTF-8."""
    try:
        for argument in arguments:
            argument.encode('utf-8')
    except UnicodeEncodeError:
        return ['b', *(_escaped(argument) for argument in arguments)]
    return ['p', *arguments]


def _escaped(argument: str) -> str:
    data = argument.encode('utf-8', 'surrogateescape')
    return ''.join(chr(byte) if 32 <= byte < 127 and byte != 92 else f'\\0{byte:03o}' for byte in data)


def _measured(chunks: Iterable[bytes]) -> tuple[Iterator[bytes], int | None]:
    """Return a source and its size, None if that is more than one would like to hold."""
    source, held, size = iter(chunks), [], 0
    for chunk in source:
        held.append(chunk)
        size += len(chunk)
        if size > KNOWN_SIZE_BYTES:
            return itertools.chain(held, source), None
    return iter(held), size


def _held_back(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield each piece when the next has come: what a source that fails has given is then never all that was announced."""
    held = b''
    for chunk in chunks:
        if chunk:
            if held:
                yield held
            held = chunk
    if held:
        yield held


def _blocks(file: IO[bytes]) -> Iterator[bytes]:
    while data := file.read(archives.BLOCK_BYTES):
        yield data


def _batches(arguments: Iterable[str]) -> Iterator[list[str]]:
    """Yield arguments in lists that one program can be given; at least one list."""
    batch: list[str] = []
    room = ARGUMENT_BYTES
    for word in arguments:
        room -= len(word) + 8
        if room < 0 and batch:
            yield batch
            batch, room = [], ARGUMENT_BYTES
        batch.append(word)
    yield batch


# What comes out: from a stranger, checked -------------------------------------------------------------------------------


def _text(data: bytes) -> str:
    return data.decode('utf-8', 'surrogateescape')


def _cleaned(answer: bytes) -> tuple[int, int, int]:
    """Return how many processes were ended, and how many bytes of memory are held of how many."""
    fields = answer.split()
    if len(fields) != 3:
        raise SandboxError(f'a program in the sandbox answers {answer[:80]!r} for three numbers')
    return _number(fields[0]), _number(fields[1]), _number(fields[2])


def _number(word: str | bytes, base: int = 10) -> int:
    text = word if isinstance(word, str) else word.decode('ascii', 'replace').strip()
    if len(text) <= 20:
        with contextlib.suppress(ValueError):
            return int(text, base)
    raise SandboxError(f'a program in the sandbox answers {text[:80]!r} for a number')


def _path_info(path: str, facts: bytes, target: str) -> PathInfo:
    fields = facts.split()
    if len(fields) < 5:
        raise SandboxError("the sandbox's program 'stat' answers nonsense")
    mode = _number(fields[0], 16)
    fraction = re.search(rb'\.(\d{1,9})', facts)
    seconds = _number(fields[2]) + (float(f'0.{fraction[1].decode()}') if fraction else 0.0)
    kind: Literal['file', 'directory', 'symlink', 'other'] = 'other'
    if stat.S_ISREG(mode):
        kind = 'file'
    elif stat.S_ISDIR(mode):
        kind = 'directory'
    elif stat.S_ISLNK(mode):
        kind = 'symlink'
    return PathInfo(
        path=path,
        kind=kind,
        size=_number(fields[1]),
        mode=stat.S_IMODE(mode),
        modified_at=datetime.fromtimestamp(min(max(seconds, 0.0), 253402300799.0), timezone.utc),
        uid=_number(fields[3]),
        gid=_number(fields[4]),
        target=target if kind == 'symlink' else None,
    )


def _fields(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield what stands before each NUL."""
    held = b''
    for piece in pieces:
        *fields, held = (held + piece).split(b'\0')
        yield from fields
        if len(held) > ANSWER_BYTES:
            raise SandboxError('a listing of the sandbox has a name without end')


def _listed(fields: Iterator[bytes]) -> Iterator[PathInfo]:
    """Yield the entries of a listing; see `programs.LIST`."""
    for first in fields:
        names = [first, *iter(lambda: next(fields, b''), b'')]
        text = next(fields, b'')
        links = {name: next(fields, b'')[1:].removesuffix(b'\n') for name in iter(lambda: next(fields, b''), b'')}
        position = 0
        for name in names:
            facts_end = text.find(b' /', position)
            if facts_end >= 0 and text.startswith(name + b'\n', facts_end + 2):
                facts = text[position:facts_end]
                position = facts_end + 2 + len(name) + 1
                yield _path_info(_text(name.removeprefix(b'./')), facts, _text(links.get(name, b'')))
