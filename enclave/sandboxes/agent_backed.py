"""Every verb of a sandbox that runs an agent, or something that can do its work (floor 4).

A backend supplies `_launch` (make it run, return its `Operations`), `_destroy` and `_find_problem`. Arguments are checked
here, once; below, everything is known to be right.
"""

from __future__ import annotations

import contextlib
import io
import logging
import math
import os
import stat
import tarfile
import tempfile
import threading
from abc import abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, Any, ClassVar, TypeVar, cast

import attrs

from enclave.cancellation import is_cancelled
from enclave.config import check_env
from enclave.deadline import check_timeout
from enclave.enums import SandboxStatus
from enclave.errors import (
    CallCancelledError,
    InvalidArgumentError,
    SandboxError,
    SandboxGoneError,
    SandboxPathError,
    SandboxStateError,
)
from enclave.languages.values import Limits
from enclave.quoting import quoted
from enclave.records import CommandResult, PathInfo
from enclave.sandboxes.base import USABLE, Sandbox
from enclave.sandboxes.connection import Connection, PortForward
from enclave.sandboxes.operations import Operations, ProcessEnder, RunRequest, Script
from enclave.sandboxes.process import Process
from enclave.sandboxes.unpacking import unpack_tree

logger = logging.getLogger(__name__)

R = TypeVar('R')
Source = bytes | bytearray | memoryview | str | os.PathLike[str] | IO[bytes] | Iterable[bytes]

STOP_GRACE_SECONDS = 1.0
"""How long programs that still run get to end by themselves when their sandbox is stopped."""
PYTHON_UNBUFFERED = 'PYTHONUNBUFFERED'
CLEAN_SECONDS = 10.0
"""How long the ending of what calls left running may take; it is killed, so mostly that is a matter of milliseconds."""
MAX_TIMEOUT = 1e9
PIECE_BYTES = 1 << 20


class AgentBackedSandbox(Sandbox):
    """A sandbox with all the verbs. See `Sandbox` for its life, `Workspace` for the errors of the verbs."""

    offers: ClassVar[frozenset[str]] = frozenset({'commands', 'files'})

    def __init__(self, config: Any = None, sandbox_id: str | None = None) -> None:
        super().__init__(config, sandbox_id)
        self._operations: Operations | None = None
        self._forwards: set[PortForward] = set()
        self._forwards_lock = threading.Lock()  # guards _forwards

    # For backends -----------------------------------------------------------------------------------------------------

    @abstractmethod
    def _launch(self) -> Operations:
        """Make the sandbox run and return its operations, or raise and leave nothing behind."""

    @abstractmethod
    def _destroy(self, *, keep: bool) -> None:
        """Stop and, unless ``keep``, take away what `_launch` made, also when it is gone already."""

    def _has_history(self) -> bool:
        """Return whether what runs holds what an earlier run was to keep, so that a failed start must leave it."""
        return False

    def _start(self) -> None:
        self._operations = self._launch()

    def _stop(self, *, keep: bool) -> None:
        with self._forwards_lock:
            forwards, self._forwards = self._forwards, set()
        for forward in forwards:
            forward.close()
        operations, self._operations = self._operations, None
        try:
            if operations is not None:
                operations.close(grace=STOP_GRACE_SECONDS)
        except Exception:
            logger.warning('sandbox %s: closing its stream failed', self.id, exc_info=True)
        finally:
            self._destroy(keep=keep)

    def _has_remains(self, *, keep: bool) -> bool:
        return self._operations is not None

    def is_alive(self) -> bool:
        """Ask the sandbox itself whether it works: whether it answers within ten seconds and can start a process."""
        if self.status not in USABLE:
            return False
        try:
            self._do(lambda operations: operations.ping(10.0))
        except (SandboxError, TimeoutError):
            return False
        return True

    def _clean(self) -> None:
        ended = self._do(self._end_processes)
        if ended:
            logger.info('sandbox %s: %d processes that were left running were ended', self.id, ended)

    def _end_processes(self, operations: Operations) -> int:
        if not isinstance(operations, ProcessEnder):
            return 0
        return operations.end_processes(CLEAN_SECONDS, keep=self._own_processes())

    def _own_processes(self) -> list[Process]:
        """Return the processes that are the sandbox's own and not a caller's: a notebook's kernels."""
        return []

    @property
    def active_calls(self) -> int:
        """How many commands and file transfers are going on."""
        operations = self._operations
        return 0 if operations is None else operations.active_calls

    def _running(self) -> Operations:
        self._check_usable()
        operations = self._operations
        if operations is None:
            raise SandboxStateError(f'sandbox {self.id} is being stopped', details={'sandbox_id': self.id})
        return operations

    def _do(self, verb: Callable[[Operations], R]) -> R:
        """Use the operations; when the sandbox turns out to be lost, say why as exactly as the backend can."""
        operations = self._running()
        try:
            return verb(operations)
        except SandboxGoneError as error:
            raise self._gone(error) from error

    def _gone(self, error: SandboxGoneError) -> SandboxGoneError:
        with self._changed:
            if self._moving or self._status is SandboxStatus.STOPPED:
                return SandboxGoneError(
                    f'sandbox {self.id} was stopped while the call was going on', details={'sandbox_id': self.id}
                )
        problem = self._find_problem()
        if problem is None:
            # The backend could mend it: what ran is lost, the sandbox is not.
            return SandboxGoneError(
                f'sandbox {self.id}: the call was lost with its agent; the sandbox goes on',
                details={'sandbox_id': self.id},
            )
        self._fail(problem)
        return SandboxGoneError(f'sandbox {self.id}: {problem}', details={'sandbox_id': self.id})

    # Commands ---------------------------------------------------------------------------------------------------------

    def execute_command(
        self,
        command: str | Sequence[str],
        timeout: float | None = None,
        *,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        user: str | None = None,
        stdin: str | bytes | None = None,
        max_output_bytes: int | None = None,
        **unknown: Any,
    ) -> CommandResult:
        """Run a command to its end: a string through the sandbox's ``sh``, a sequence as it is.

        It ends when its main process does; what that left in the background goes on until the sandbox stops, unless the
        call ran out of time: then everything it started is killed.

        Args:
            timeout: Seconds; None takes the configuration's, 0 means no limit.
            cwd: Working directory; a relative one begins at the configuration's.
            env: Added to the sandbox's environment.
            user: Name or uid, with optional ``:group``; needs a sandbox whose own user is root.
            stdin: What it reads; without it, it reads end of file at once.
            max_output_bytes: Cap on each of stdout and stderr; past it head and tail are kept.

        Returns:
            How it ended, including failing, being killed and running out of time. A program that does not exist has exit
            code 127, one that may not be executed 126.

        Raises:
            InvalidArgumentError: An argument is impossible, or ``cwd`` or ``user`` does not exist; the message names it.
            SandboxStateError, SandboxGoneError, SandboxBrokenError: The sandbox does not run, or was lost meanwhile.
        """
        _refuse(unknown)
        request = self._request(command, timeout, cwd, env, user, stdin, max_output_bytes)
        return self._do(lambda operations: operations.run(request))

    def run_script(
        self,
        interpreter: Sequence[str],
        source: str | bytes,
        timeout: float | None = None,
        *,
        suffix: str = '',
        args: Sequence[str] = (),
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        user: str | None = None,
        stdin: str | bytes | None = None,
        max_output_bytes: int | None = None,
        import_path_env: str | None = None,
    ) -> CommandResult:
        """Run ``[*interpreter, FILE, *args]``, where FILE is a private temporary file holding ``source``.

        Args:
            suffix: The file's ending. With ``'.py'`` the program's output is not buffered, unless ``env`` or the configuration
                has ``PYTHONUNBUFFERED``.
            import_path_env: A search path variable (``'PYTHONPATH'``) to put the call's working directory first in.
        """
        if suffix == '.py' and PYTHON_UNBUFFERED not in self.config.env_vars:
            # Python holds back what it prints to a pipe, and that would be lost when it is ended at its time limit, runs out of
            # memory or crashes.
            env = {PYTHON_UNBUFFERED: '1', **(env or {})}
        argv = (*interpreter, '', *args)
        request = self._request(argv, timeout, cwd, env, user, stdin, max_output_bytes)
        if '/' in suffix or '\0' in suffix:
            raise InvalidArgumentError(f'suffix must be a file ending, not {quoted(suffix)}')
        request = RunRequest(
            command=request.command,
            timeout=request.timeout,
            max_output_bytes=request.max_output_bytes,
            cwd=request.cwd,
            env=request.env,
            user=request.user,
            stdin=request.stdin,
            script=Script(source=_as_bytes(source, 'source'), suffix=suffix, at=len(interpreter)),
            path_first={import_path_env: self._absolute(cwd or '.')} if import_path_env else {},
            grace=request.grace,
        )
        return self._do(lambda operations: operations.run(request))

    def _run_limited(
        self, command: Sequence[str], *, limits: Limits | None, source: tuple[str, bytes] | None, **options: Any
    ) -> CommandResult:
        """Run a command under limits; see `enclave.languages.running.Runner.run_step`."""
        words = {'timeout': None, 'cwd': None, 'env': None, 'user': None, 'stdin': None, 'max_output_bytes': None}
        request = self._request(command, **{**words, **options})
        if source is not None:
            request = attrs.evolve(request, script=Script(source=source[1], name=source[0]))
            if source[0].endswith('.py') and PYTHON_UNBUFFERED not in self.config.env_vars:
                request = attrs.evolve(request, env={PYTHON_UNBUFFERED: '1', **request.env})
        request = attrs.evolve(request, limits=limits)
        if limits is not None and limits.cpu_seconds is not None and not self._measures:
            # Nobody measures it: the kernel at least ends each of its processes that uses so much.
            line = ('sh', '-c', 'ulimit -S -t "$0" 2>/dev/null; exec "$@"', str(math.ceil(limits.cpu_seconds)))
            limited = attrs.evolve(request, command=(*line, *command))
            return attrs.evolve(self._do(lambda operations: operations.run(limited)), command=list(command))
        return self._do(lambda operations: operations.run(request))

    @property
    def _measures(self) -> bool:
        """Whether what runs now keeps limits and takes program texts with a name."""
        return bool(getattr(self._operations, 'measures', False))

    def start_process(
        self,
        command: str | Sequence[str],
        timeout: float | None = 0,
        *,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        user: str | None = None,
        stdin: str | bytes | None = None,
        open_stdin: bool = False,
        max_output_bytes: int | None = None,
        live: bool = True,
        tty: tuple[int, int] | None = None,
    ) -> Process:
        """Start a command and return while it runs; see `Process` and, for the arguments, `execute_command`.

        Args:
            timeout: Seconds the program may run; the default here is no limit.
            open_stdin: Let the program read what `Process.write` sends; it sees end of file after `Process.close_stdin`.
            live: Give the output as it comes. False is for servers: the program is never held up by a full pipe, and the
                result keeps head and tail of what it wrote.
            tty: (rows, columns) of a terminal to run it on; stderr then comes with stdout.
        """
        request = self._request(command, timeout, cwd, env, user, stdin, max_output_bytes)
        if tty is not None:
            _check_size(tty)
        with_input = open_stdin or tty is not None
        return self._do(lambda operations: operations.start_process(request, live=live, tty=tty, open_stdin=with_input))

    def _request(
        self,
        command: str | Sequence[str],
        timeout: float | None,
        cwd: str | None,
        env: Mapping[str, str] | None,
        user: str | None,
        stdin: str | bytes | None,
        max_output_bytes: int | None,
    ) -> RunRequest:
        if isinstance(command, str):
            if not command.strip():
                raise InvalidArgumentError('command is empty')
            _check_text(command, 'command')
        else:
            command = _check_argv(command)
        seconds = self.config.timeout if timeout is None else check_timeout(timeout)
        if seconds is not None and seconds > MAX_TIMEOUT:
            seconds = None
        if env is not None:
            check_env(env, 'env')
        if user is not None and (not isinstance(user, (str, int)) or isinstance(user, bool) or not str(user)):
            raise InvalidArgumentError(f"user must be a name or uid with optional ':group', not {quoted(user)}")
        cap = self.config.max_output_bytes if max_output_bytes is None else max_output_bytes
        if isinstance(cap, bool) or not isinstance(cap, int) or not 1 <= cap <= 1 << 30:
            raise InvalidArgumentError(
                f'max_output_bytes must be a whole number from 1 to {1 << 30}, not {quoted(cap)}'
            )
        return RunRequest(
            command=command,
            timeout=seconds,
            max_output_bytes=cap,
            cwd=None if cwd is None else _check_path(cwd, 'cwd'),
            env=dict(env or {}),
            user=None if user is None else _check_text(str(user), 'user'),
            stdin=None if stdin is None else _as_bytes(stdin, 'stdin'),
            grace=self.config.timeout_grace,
        )

    # Files ------------------------------------------------------------------------------------------------------------

    def read_file(self, path: str, *, offset: int = 0, max_bytes: int | None = None) -> bytes:
        """Return a regular file's bytes from ``offset`` on, at most ``max_bytes`` of them."""
        return b''.join(self.read_chunks(path, offset=offset, max_bytes=max_bytes))

    def read_chunks(self, path: str, *, offset: int = 0, max_bytes: int | None = None) -> Iterator[bytes]:
        """Yield a regular file's bytes piece by piece, as they come. The first step opens it, and raises what is wrong."""
        path = self._absolute(path)
        _check_count(offset, 'offset')
        if max_bytes is not None:
            _check_count(max_bytes, 'max_bytes')
        return self._stream(lambda operations: operations.read_file(path, offset, max_bytes))

    def write_file(
        self,
        path: str,
        data: bytes | str | Iterable[bytes],
        *,
        append: bool = False,
        exclusive: bool = False,
        make_parents: bool = True,
        mode: int | None = None,
        size: int | None = None,
    ) -> int:
        """Write a regular file as a whole (or append to it) and return its size in bytes.

        A new content takes the old one's place at once: nobody in the sandbox meets half a file.

        Args:
            exclusive: Fail with `SandboxPathExistsError` if the path exists.
            mode: Permission bits; an existing file keeps its own, a new one gets 0o644.
            size: How many bytes an iterable will give, where that is known; large files then travel faster.
        """
        path = self._absolute(path)
        if mode is not None and (isinstance(mode, bool) or not isinstance(mode, int) or not 0 <= mode <= 0o7777):
            raise InvalidArgumentError(f'mode must be permission bits from 0 to 0o7777, not {quoted(mode)}')
        chunks: Iterable[bytes]
        if isinstance(data, (str, bytes, bytearray, memoryview)):
            whole = _as_bytes(data, 'data')
            chunks, size = (whole,), len(whole)
        elif isinstance(data, Iterable):
            chunks = data
        else:
            raise InvalidArgumentError(f'data must be bytes, text or an iterable of bytes, not {quoted(data)}')
        return self._do(
            lambda operations: operations.write_file(
                path,
                chunks,
                size=size,
                append=append,
                exclusive=exclusive,
                make_parents=make_parents,
                mode=mode,
            )
        )

    def list_dir(self, path: str = '.', *, recursive: bool = False, max_entries: int | None = None) -> list[PathInfo]:
        """Return a directory's entries sorted by path, each path relative to ``path``; symlinks are not followed."""
        path = self._absolute(path)
        if max_entries is not None:
            _check_count(max_entries, 'max_entries')
        return self._do(lambda operations: operations.list_dir(path, recursive=recursive, max_entries=max_entries))

    def stat_path(self, path: str, *, follow_symlinks: bool = True) -> PathInfo:
        """Return what is at a path; the record's own path is absolute and, if followed, without symlinks."""
        path = self._absolute(path)
        return self._do(lambda operations: operations.stat_path(path, follow_symlinks=follow_symlinks))

    def path_exists(self, path: str) -> bool:
        """Return whether there is anything at a path; a dangling symlink is something."""
        try:
            self.stat_path(path, follow_symlinks=False)
        except FileNotFoundError:
            return False
        except SandboxPathError as error:
            if error.details.get('errno') == 20:  # ENOTDIR: what should be a directory on the way is none
                return False
            raise
        return True

    def remove_path(self, path: str, *, recursive: bool = False, missing_ok: bool = False) -> None:
        """Remove a file, a symlink or an empty directory; with ``recursive`` a whole tree."""
        path = self._absolute(path)
        if path == '/':
            raise InvalidArgumentError("path must not be '/': the sandbox needs its root directory")
        self._do(lambda operations: operations.remove_path(path, recursive=recursive, missing_ok=missing_ok))

    def make_dir(self, path: str, *, parents: bool = True, exist_ok: bool = True, mode: int = 0o755) -> None:
        """Make a directory."""
        path = self._absolute(path)
        self._do(lambda operations: operations.make_dir(path, parents=parents, exist_ok=exist_ok, mode=mode))

    def move_path(self, source: str, target: str, *, overwrite: bool = False) -> None:
        """Rename a file or directory inside the sandbox; into ``target`` if that is a directory."""
        source, target = self._absolute(source, 'source'), self._absolute(target, 'target')
        self._do(lambda operations: operations.move_path(source, target, overwrite=overwrite))

    # Files in and out -------------------------------------------------------------------------------------------------

    def put_file(self, source: Source, target: str, *, mode: int | None = None) -> int:
        """Copy a file into the sandbox and return its size in bytes.

        Args:
            source: A host path (``str`` or path object; its permission bits come along), bytes, a binary file object, or an
                iterable of bytes.
            target: Path in the sandbox; a path ending in ``/`` or an existing directory takes the source's own name.

        Raises:
            FileNotFoundError, IsADirectoryError: The host path is no file.
        """
        if isinstance(source, (str, os.PathLike)):
            path = Path(source)
            with path.open('rb') as file:
                facts = os.fstat(file.fileno())
                if not stat.S_ISREG(facts.st_mode):
                    raise InvalidArgumentError(f'source must be a regular file: {os.fspath(source)!r}')
                if mode is None:
                    mode = stat.S_IMODE(facts.st_mode)
                place = self._file_target(target, path.name)
                return self.write_file(place, _file_pieces(file), mode=mode, size=facts.st_size)
        chunks: bytes | Iterable[bytes]
        if isinstance(source, (bytes, bytearray, memoryview)):
            chunks = bytes(source)
        elif hasattr(source, 'read'):
            chunks = _file_pieces(source)
        else:
            chunks = source
        return self.write_file(target, chunks, mode=mode)

    def _file_target(self, target: str, name: str) -> str:
        """Return where a file called ``name`` goes, as cp(1) would see it."""
        _check_path(target, 'target')
        if target.endswith('/'):
            return target + name
        with contextlib.suppress(FileNotFoundError):
            if self.stat_path(target).kind == 'directory':
                return str(PurePosixPath(target) / name)
        return target

    def get_file(self, source: str, target: str | os.PathLike[str] | IO[bytes] | None = None) -> bytes | int:
        """Copy a file out of the sandbox.

        Args:
            source: Path in the sandbox.
            target: Host path, a directory there, a binary file object, or None to return the bytes.

        Returns:
            The bytes, or with a target their number. A host file is complete or is not there: it is written beside its place
            first.
        """
        return _collect(self.read_chunks(source), target, PurePosixPath(source).name)

    def put_archive(self, source: Source, target: str = '.') -> None:
        """Unpack a tar archive (plain or compressed) below a directory of the sandbox, made if missing.

        Modes and empty directories are kept; what is there already is merged with. Members that would land outside, and
        devices, are refused. What was unpacked before a refusal, or before the call was cancelled, stays.

        Args:
            source: Host path of an archive, its bytes, a binary file object, or an iterable of bytes.
        """
        target = self._absolute(target, 'target')
        with contextlib.ExitStack() as stack:
            chunks: Iterable[bytes]
            if isinstance(source, (str, os.PathLike)):
                chunks = _file_pieces(stack.enter_context(open(source, 'rb')))
            elif isinstance(source, (bytes, bytearray, memoryview)):
                chunks = (bytes(source),)
            elif hasattr(source, 'read'):
                chunks = _file_pieces(source)
            else:
                chunks = source
            self._do(lambda operations: operations.write_archive(target, chunks))

    def get_archive(self, source: str, target: str | os.PathLike[str] | IO[bytes] | None = None) -> bytes | int:
        """Return a path of the sandbox as a plain tar archive, whose top member has the path's last name.

        Args:
            target: Host path of the archive to write, a binary file object, or None to return the bytes.

        Returns:
            The bytes, or with a target their number. As with `get_file`, a host file is complete or is not there.
        """
        return _collect(self.read_archive(source), target)

    def read_archive(self, source: str, *, arcname: str | None = None) -> Iterator[bytes]:
        """Yield a path of the sandbox as a plain tar archive, piece by piece. The first step raises what is wrong."""
        path = self._absolute(source)
        top = arcname or PurePosixPath(path).name or '.'
        return self._stream(lambda operations: operations.read_archive(path, top))

    def put_dir(self, source: str | os.PathLike[str], target: str = '.') -> bool:
        """Copy what is in a host directory into a directory of the sandbox, made if missing; True when done.

        Modes, symlinks and empty directories are kept, owners are not; what is there already is merged with. What came before
        a failure, or before the call was cancelled, stays.

        Raises:
            NotADirectoryError: The host path is no directory.
        """
        folder = Path(source)
        if not folder.is_dir():
            raise NotADirectoryError(f'source must be a directory on the host: {os.fspath(source)!r}')
        self.put_archive(_tar_directory(folder), target)
        return True

    def get_dir(self, source: str, target: str | os.PathLike[str]) -> None:
        """Copy what is in a directory of the sandbox into a host directory, made if missing.

        The sandbox is not trusted: whatever would land outside of ``target`` or lead there, by name or link, is refused, and
        so are devices; owners, set-user-id bits and others' write permission stay behind. What came before a refusal, or before
        the call was cancelled, stays.

        Raises:
            SandboxPathError: There is no such directory, or something in it is refused; the message names it.
        """
        if self.stat_path(source).kind != 'directory':
            raise SandboxPathError(f'not a directory in the sandbox: {quoted(source)}')
        with contextlib.closing(cast('Generator[bytes, None, None]', self.read_archive(source, arcname='.'))) as chunks:
            unpack_tree(chunks, target)
            for _rest in chunks:  # what may follow the end of the archive, and then how making it ended
                pass

    # Network ----------------------------------------------------------------------------------------------------------

    def connect_port(self, port: int, host: str = '127.0.0.1', *, timeout: float | None = 10.0) -> Connection:
        """Connect to a TCP port as seen from inside the sandbox; no port is published and no network needed.

        Args:
            host: A numeric address, or ``'localhost'``.
            timeout: Seconds the connection may take.

        Raises:
            SandboxPathError: Nobody listens there.
        """
        _check_port(port, 'port')
        return self._do(lambda operations: operations.connect(port, host, timeout=check_timeout(timeout)))

    def forward_port(self, port: int, listen_port: int = 0, *, host: str = '127.0.0.1') -> PortForward:
        """Listen on this machine and carry each connection to a port inside the sandbox, until closed.

        Args:
            listen_port: Port on this machine's 127.0.0.1; 0 takes a free one, told by the result's ``port``.
            host: Numeric address inside the sandbox.
        """
        _check_port(port, 'port')
        if listen_port != 0:
            _check_port(listen_port, 'listen_port')
        operations = self._running()
        forward = PortForward(
            operations, port, target_host=host, listen_host='127.0.0.1', listen_port=listen_port, name=self.id
        )
        with self._forwards_lock:
            self._forwards = {each for each in self._forwards if not each.is_closed} | {forward}
        if self._operations is not operations:  # stopped meanwhile, perhaps before it could see this one
            forward.close()
        return forward

    # Help -------------------------------------------------------------------------------------------------------------

    def _absolute(self, path: str, name: str = 'path') -> str:
        """Return a checked path, relative ones beginning at the working directory. A trailing slash stays."""
        path = _check_path(path, name)
        if path.startswith('/'):
            return path
        return f'{self.config.working_dir.rstrip("/")}/{path}' if path != '.' else self.config.working_dir

    def _stream(self, verb: Callable[[Operations], Iterator[bytes]]) -> Iterator[bytes]:
        """Return what a verb yields, with the loss of the sandbox told as `_do` tells it; its state is checked now."""
        return self._told(self._running(), verb)

    def _told(self, operations: Operations, verb: Callable[[Operations], Iterator[bytes]]) -> Iterator[bytes]:
        try:
            yield from verb(operations)
        except SandboxGoneError as error:
            raise self._gone(error) from error


def _refuse(unknown: Mapping[str, Any]) -> None:
    if unknown:
        raise InvalidArgumentError(f'execute_command takes no argument {", ".join(map(repr, unknown))}')


def _check_text(text: str, name: str) -> str:
    if '\0' in text:
        raise InvalidArgumentError(f'{name} must not contain NUL')
    _encode(text, name)
    return text


def _encode(text: str, name: str) -> bytes:
    """Return text as the sandbox will see it: UTF-8, with other bytes as `os.fsdecode` stands for them."""
    try:
        return text.encode('utf-8', 'surrogateescape')
    except UnicodeEncodeError as error:
        raise InvalidArgumentError(f'{name} is not proper text: {error}') from None


def _check_argv(command: Any) -> tuple[str, ...]:
    if not isinstance(command, Sequence) or isinstance(command, (bytes, bytearray)) or not command:
        raise InvalidArgumentError(f'command must be a string or a non-empty list of strings, not {quoted(command)}')
    for word in command:
        if not isinstance(word, str):
            raise InvalidArgumentError(f'command must be a list of strings; {quoted(word)} is none')
        _check_text(word, 'command')
    if not command[0]:
        raise InvalidArgumentError('the first word of command is empty')
    return tuple(command)


def _check_size(tty: Any) -> None:
    is_pair = isinstance(tty, (tuple, list)) and len(tty) == 2
    if not is_pair or not all(isinstance(n, int) and not isinstance(n, bool) and 0 < n < 65536 for n in tty):
        raise InvalidArgumentError(f'tty must be (rows, columns), like (24, 80), not {quoted(tty)}')


def _check_path(path: Any, name: str) -> str:
    if isinstance(path, PurePosixPath):
        path = str(path)
    if not isinstance(path, str):
        raise InvalidArgumentError(f'{name} must be a path in the sandbox, not {quoted(path)}')
    if not path:
        raise InvalidArgumentError(f'{name} is empty')
    return _check_text(path, name)


def _check_count(value: Any, name: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise InvalidArgumentError(f'{name} must be a whole number, 0 or more, not {quoted(value)}')


def _check_port(value: Any, name: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 65535:
        raise InvalidArgumentError(f'{name} must be a port from 1 to 65535, not {quoted(value)}')


def _as_bytes(data: Any, name: str) -> bytes:
    if isinstance(data, str):
        return _encode(data, name)
    if isinstance(data, (bytes, bytearray, memoryview)):
        return bytes(data)
    raise InvalidArgumentError(f'{name} must be bytes or text, not {type(data).__name__}')


def _file_pieces(file: Any) -> Iterator[bytes]:
    while data := file.read(PIECE_BYTES):
        if not isinstance(data, bytes):
            raise InvalidArgumentError('the file object must be opened in binary mode')
        yield data


def _collect(
    chunks: Iterator[bytes], target: str | os.PathLike[str] | IO[bytes] | None, name: str | None = None
) -> bytes | int:
    """Put what comes out of a sandbox where it is to go, and return the bytes, or with a target their number.

    Args:
        name: What a file is called whose target is a directory; None for what cannot go into one.
    """
    with contextlib.closing(cast('Generator[bytes, None, None]', chunks)):
        if target is None:
            return b''.join(chunks)
        if not isinstance(target, (str, os.PathLike)):
            return sum(target.write(chunk) for chunk in chunks)
        place = Path(target)
        if name is not None and place.is_dir():
            place = place / name
        with _taking_place(place) as file:
            return sum(file.write(chunk) for chunk in chunks)


@contextlib.contextmanager
def _taking_place(place: Path) -> Iterator[IO[bytes]]:
    """Give a file to write, which takes its place when the block has ended well and is gone when it has not."""
    if place.exists() and not place.is_file():  # a pipe or a device keeps its place, and a directory refuses
        with place.open('wb') as file:
            yield file
        return
    place = Path(os.path.realpath(place))  # a symlink stays one
    handle, name = tempfile.mkstemp(dir=place.parent, prefix='.enclave-')
    try:
        with os.fdopen(handle, 'wb') as file:
            yield file
        if is_cancelled():
            raise CallCancelledError(f'the transfer to {os.fspath(place)!r} was cancelled')
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(name, 0o666 & ~umask)
        os.replace(name, place)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise


def _tar_directory(folder: Path) -> Iterator[bytes]:
    """Yield a tar archive of what is in a directory, holding no more of it than one piece; owners are left out."""
    with tarfile.open(fileobj=io.BytesIO(), mode='w') as archive:  # only for its reading of file facts
        for path in sorted(folder.rglob('*')):
            member = archive.gettarinfo(str(path), str(path.relative_to(folder)))
            if member is None or not (member.isreg() or member.isdir() or member.issym() or member.islnk()):
                continue
            member.uid = member.gid = 0
            member.uname = member.gname = ''
            yield member.tobuf(tarfile.PAX_FORMAT, 'utf-8', 'surrogateescape')
            if member.isreg():
                left = member.size
                with path.open('rb') as file:
                    while left and (data := file.read(min(PIECE_BYTES, left))):
                        left -= len(data)
                        yield data
                # A file that shrank meanwhile is filled up: its size has been said already.
                yield b'\0' * (left + -member.size % tarfile.BLOCKSIZE)
    yield b'\0' * (2 * tarfile.BLOCKSIZE)
