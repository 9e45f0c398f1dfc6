"""The verbs of a sandbox: what can be asked of one that runs (layer 4).

`Verbs` is all of them over an `Operations` object, without a life of its own: each makes a request of `enclave.verb_requests`,
which checks the arguments, and has it executed. A sandbox of this machine and one of a server differ in what executes it.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import stat
import tarfile
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, TypeVar, cast, overload

import attrs

from enclave.cancellation import on_cancel
from enclave.deadline import Deadline, check_timeout
from enclave.errors import (
    CallCancelledError,
    InvalidArgumentError,
    OperationTimeoutError,
    SandboxGoneError,
    SandboxPathError,
    UnsupportedError,
)
from enclave.host_files import (
    MAX_TRANSFER_BYTES,
    Source,
    Target,
    bounded,
    check_max_bytes,
    closing_pieces,
    collect,
    host_path,
    open_source,
)
from enclave.quoting import quoted
from enclave.records import CommandResult, PathInfo, ProcessInfo
from enclave.sandboxes.base import Sandbox, check_callbacks
from enclave.sandboxes.connection import Connection, PortForward
from enclave.sandboxes.extraction import unpack_tree
from enclave.sandboxes.operations import ChangeNotifier, Operations
from enclave.sandboxes.output import make_decoder
from enclave.sandboxes.process import Process
from enclave.sandboxes.watching import INTERVAL_SECONDS, MAX_ENTRIES, Watch, by_path
from enclave.tools.budget import KEPT_OUTPUT_BYTES, check_max_chars, shorten_command
from enclave.verb_requests import (
    CopyPath,
    Download,
    ListDir,
    MakeDir,
    MovePath,
    ReadArchive,
    ReadFile,
    RemovePath,
    Request,
    RunCommand,
    Script,
    StartProcess,
    StatPath,
    Upload,
    WriteArchive,
    WriteFile,
    as_bytes,
    as_path,
    check_host,
    check_port,
)

R = TypeVar('R')
Q = TypeVar('Q', bound=Request[Any])

OnText = Callable[[str], object]
"""Takes a piece of what a program wrote."""

PIECE_BYTES = 1 << 20
DEFAULT_TERMINAL = (24, 80)


class Verbs(ABC):
    """All the verbs of a sandbox. See `Workspace` for their errors.

    What mixes this in says by `_running` what executes them, and may complete requests and explain losses.
    """

    id: str
    _room_for_outputs: ClassVar[int | None] = KEPT_OUTPUT_BYTES  # what is caught of an output that goes into a file

    # Executing --------------------------------------------------------------------------------------------------------

    @abstractmethod
    def _running(self) -> Operations:
        """Return what executes requests, or raise if the sandbox does not run."""

    def _completed(self, request: Q) -> Q:
        """Return a request with the sandbox's own defaults in the place of what was left out."""
        return request

    def _gone(self, error: SandboxGoneError) -> SandboxGoneError:
        """Return why the sandbox was lost, as exactly as can be said."""
        return error

    def perform(self, request: Request[R]) -> R:
        """Execute a request, whatever its verb is, and return what it gives: for callers that were handed a request.

        A method that a subclass defines for the verb is called.
        """
        if getattr(type(self), request.method, None) is not getattr(Verbs, request.method, None):
            return request.call_on(self)
        return cast(R, self._start_program(request)) if isinstance(request, StartProcess) else self._perform(request)

    def _perform(self, request: Request[R]) -> R:
        operations = self._running()
        try:
            return operations.run(self._completed(request))
        except SandboxGoneError as error:
            raise self._gone(error) from error

    def _start_program(self, request: StartProcess) -> Process:
        operations = self._running()
        try:
            return operations.start_process(self._completed(request))
        except SandboxGoneError as error:
            raise self._gone(error) from error

    def _read(self, request: Download) -> Iterator[bytes]:
        """Return what a request yields; the state of the sandbox is checked now."""
        return self._pieces(self._running(), self._completed(request))

    def _pieces(self, operations: Operations, request: Download) -> Iterator[bytes]:
        try:
            yield from operations.read(request)
        except SandboxGoneError as error:
            raise self._gone(error) from error

    def _write(self, request: Upload[R], chunks: Iterable[bytes], size: int | None = None) -> R:
        operations = self._running()
        try:
            return operations.write(self._completed(request), chunks, size)
        except SandboxGoneError as error:
            raise self._gone(error) from error

    def _connecting(self) -> Operations:
        operations = self._running()
        if operations.connect_problem is not None:
            raise UnsupportedError(operations.connect_problem)
        return operations

    def _forwarding(self, forward: PortForward, operations: Operations) -> None:
        """Note a forward that was made over ``operations``, so that it can be closed when those end."""
        return None

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
        max_chars: int | None = None,
        on_stdout: OnText | None = None,
        on_stderr: OnText | None = None,
    ) -> CommandResult:
        """Run a command to its end: a string through the sandbox's ``sh``, a sequence as it is.

        It ends when its main process does; what that left in the background continues until the sandbox stops, unless the
        call ran out of time: then everything it started is killed.

        Args:
            timeout: Seconds; None takes the configuration's, 0 means no limit.
            cwd: Working directory; a relative one begins at the configuration's.
            env: Added to the sandbox's environment.
            user: Name or uid, with optional ``:group``; needs a sandbox whose own user is root.
            stdin: What it reads; without it, it reads end of file at once.
            max_output_bytes: Cap on each of stdout and stderr; past it head and tail are kept.
            max_chars: How many characters of each the result has: of what is longer, head and tail, and the whole is kept in a
                file of the sandbox, which the text and ``stdout_file`` or ``stderr_file`` name.
            on_stdout, on_stderr: Called with pieces of text as they come, on this thread. What they raise ends the command.

        Returns:
            How it ended, including failing, being killed and running out of time. A program that does not exist has exit
            code 127, one that may not be executed 126.

        Raises:
            InvalidArgumentError: An argument is impossible, or ``cwd`` or ``user`` does not exist; the message names it.
            SandboxStateError, SandboxGoneError, SandboxBrokenError: The sandbox does not run, or was lost meanwhile.
        """
        check_max_chars(max_chars)
        if max_chars is not None and max_output_bytes is None:
            max_output_bytes = self._room_for_outputs
        request = RunCommand(
            command=command,
            timeout=timeout,
            cwd=cwd,
            env=env,
            user=user,
            stdin=stdin,
            max_output_bytes=max_output_bytes,
        )
        result = self._run_followed(request, on_stdout, on_stderr)
        return result if max_chars is None else shorten_command(self, result, max_chars)

    def _run_followed(self, request: RunCommand, on_stdout: OnText | None, on_stderr: OnText | None) -> CommandResult:
        """Execute a request, with its output given to callbacks as it comes, if there are any."""
        check_callbacks(on_stdout, on_stderr)
        if on_stdout is None and on_stderr is None:
            return self._perform(request)
        callbacks = {'stdout': on_stdout, 'stderr': on_stderr}
        decoders = {stream: make_decoder() for stream in callbacks}
        given = {each.name: getattr(request, each.name) for each in attrs.fields(RunCommand)}
        with self._start_program(StartProcess(**given, live=True)) as process:
            for chunk in process.chunks():
                callback, text = callbacks[chunk.stream], decoders[chunk.stream].decode(chunk.data)
                if callback is not None and text:
                    callback(text)
            result = process.wait()
        for stream, callback in callbacks.items():
            rest = decoders[stream].decode(b'', final=True)
            if callback is not None and rest:
                callback(rest)
        return result

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
        preload: Sequence[str] | None = None,
        on_stdout: OnText | None = None,
        on_stderr: OnText | None = None,
    ) -> CommandResult:
        """Run ``[*interpreter, FILE, *args]``, where FILE is a private temporary file holding ``source``.

        Args:
            suffix: The file's ending. With ``'.py'`` the program's output is not buffered, unless ``env`` or the configuration
                has ``PYTHONUNBUFFERED``.
            import_path_env: A search path variable (``'PYTHONPATH'``) to put the call's working directory first in.
            preload: Modules to have imported before, for a script of Python's: the program is then a fork of an interpreter
                that has imported them, where it can be, and does what it would do in one of its own. An empty list saves the
                start of the interpreter alone; None starts one.
            on_stdout, on_stderr: As for `execute_command`.
        """
        for name, value in (('interpreter', interpreter), ('args', args)):
            if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
                raise InvalidArgumentError(f'{name} must be a list of strings, not {quoted(value)}')
        request = RunCommand(
            command=(*interpreter, '', *args),
            timeout=timeout,
            cwd=cwd,
            env=env,
            user=user,
            stdin=stdin,
            max_output_bytes=max_output_bytes,
            script=Script(
                source=source,
                suffix=suffix,
                at=len(interpreter),
                import_path_env=import_path_env or None,
                preload=preload,
            ),
        )
        return self._run_followed(request, on_stdout, on_stderr)

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
        tty: bool | tuple[int, int] | None = None,
    ) -> Process:
        """Start a command and return while it runs; see `Process` and, for the arguments, `execute_command`.

        Args:
            timeout: Seconds the program may run; the default here is no limit.
            open_stdin: Let the program read what `Process.write` sends; it sees end of file after `Process.close_stdin`.
            live: Give the output as it comes. False is for servers: the program is never held up by a full pipe, and the
                result keeps head and tail of what it wrote.
            tty: True to run it on a terminal of 24 rows and 80 columns, or (rows, columns); stderr then comes with stdout.
        """
        return self._start_program(
            StartProcess(
                command=command,
                timeout=timeout,
                cwd=cwd,
                env=env,
                user=user,
                stdin=stdin,
                max_output_bytes=max_output_bytes,
                open_stdin=open_stdin,
                live=live,
                tty=(DEFAULT_TERMINAL if tty else None) if isinstance(tty, bool) else tty,
            )
        )

    def list_processes(self) -> list[ProcessInfo]:
        """Return the programs that `start_process` has started and that run, or whose end nobody has taken yet; oldest first."""
        raise UnsupportedError(f'sandbox {self.id} knows no processes by their ids')

    def find_process(self, process_id: str) -> Process:
        """Return a program that `start_process` has started, by its id, to take what comes of it and to control it.

        Of a sandbox of this machine it is the same object, which continues where the one that had it left off; of a server's
        sandbox it is followed from its beginning, or from what is kept of that.

        Raises:
            NotFoundError: There is none of this id, or it was forgotten after its end.
        """
        raise UnsupportedError(f'sandbox {self.id} knows no processes by their ids')

    # Files ------------------------------------------------------------------------------------------------------------

    def read_file(self, path: str, *, offset: int = 0, max_bytes: int | None = None) -> bytes:
        """Return a regular file's bytes from ``offset`` on, at most ``max_bytes`` of them.

        Raises:
            SandboxPathError: Without ``max_bytes``: the file has more than 1 GiB.
        """
        chunks = self.read_chunks(path, offset=offset, max_bytes=max_bytes)
        most = MAX_TRANSFER_BYTES if max_bytes is None else None
        read = collect(chunks, None, max_bytes=most, what=f'the file {quoted(path)}')
        assert isinstance(read, bytes)
        return read

    def read_chunks(self, path: str, *, offset: int = 0, max_bytes: int | None = None) -> Iterator[bytes]:
        """Yield a regular file's bytes piece by piece, as they come. The first step opens it, and raises what is wrong."""
        return self._read(ReadFile(path=path, offset=offset, max_bytes=max_bytes))

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
        request = WriteFile(path=path, append=append, exclusive=exclusive, make_parents=make_parents, mode=mode)
        if isinstance(data, (str, bytes, bytearray, memoryview)):
            whole = as_bytes(data, 'data')
            return self._write(request, (whole,), len(whole))
        return self._write(request, _checked_pieces(data, 'data must be bytes, text or an iterable of bytes'), size)

    def list_dir(self, path: str = '.', *, recursive: bool = False, max_entries: int | None = None) -> list[PathInfo]:
        """Return a directory's entries sorted by path, each path relative to ``path``; symlinks are not followed.

        Args:
            max_entries: Return at most so many, in no order of the sandbox's; None is all there are.

        Raises:
            SandboxPathError: There is no such directory, or without ``max_entries`` it has more than 100,000 entries.
        """
        return self._perform(ListDir(path=path, recursive=recursive, max_entries=max_entries))

    def stat_path(self, path: str, *, follow_symlinks: bool = True) -> PathInfo:
        """Return what is at a path; the record's own path is absolute and, if followed, without symlinks."""
        return self._perform(StatPath(path=path, follow_symlinks=follow_symlinks))

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
        self._perform(RemovePath(path=path, recursive=recursive, missing_ok=missing_ok))

    def make_dir(self, path: str, *, parents: bool = True, exist_ok: bool = True, mode: int = 0o755) -> None:
        """Make a directory."""
        self._perform(MakeDir(path=path, parents=parents, exist_ok=exist_ok, mode=mode))

    def move_path(self, source: str, target: str, *, overwrite: bool = False) -> None:
        """Rename a file or directory inside the sandbox; into ``target`` if that is a directory."""
        self._perform(MovePath(source=source, target=target, overwrite=overwrite))

    def watch_dir(self, path: str = '.', *, recursive: bool = False, interval: float = INTERVAL_SECONDS) -> Watch:
        """Watch a directory from now on, and what is below it with ``recursive``; see `Watch` for how changes are taken.

        Where its agent can, the kernel says when something changes (inotify): nothing is asked while nothing does, and what
        comes and goes at once is seen. Else, on a server and in images without Python, a listing is asked for again and again,
        and what comes and goes between two looks is not seen. A file that was renamed is one with the same size, times and owner.

        Args:
            interval: Seconds between two looks while somebody waits for a change.

        Raises:
            SandboxPathError: There is no such directory, or there are more than 10,000 entries to watch.
        """
        if isinstance(interval, bool) or not isinstance(interval, (int, float)) or not 0.01 <= interval <= 3600:
            raise InvalidArgumentError(f'interval must be from 0.01 to 3600 seconds, not {quoted(interval)}')
        found = self.stat_path(path)
        if found.kind != 'directory':
            raise SandboxPathError(f'not a directory in the sandbox: {quoted(path)}', details={'errno': errno.ENOTDIR})
        top = found.path

        def look() -> dict[str, PathInfo]:
            return by_path(top, self.list_dir(top, recursive=recursive, max_entries=MAX_ENTRIES + 1))

        operations = self._running()
        notices = (
            operations.notice_changes(top, recursive=recursive) if isinstance(operations, ChangeNotifier) else None
        )
        try:
            return Watch(top, look, float(interval), notices)
        except BaseException:
            if notices is not None:
                notices.close()
            raise

    def copy_path(self, source: str, target: str, *, recursive: bool = False, overwrite: bool = False) -> None:
        """Copy a file or a symlink inside the sandbox, or with ``recursive`` a directory with everything in it.

        The copy goes into ``target`` if that is a directory. It has the permission bits and times of what was copied, and takes
        its place at once: nobody in the sandbox meets half of it. Devices and pipes are refused.

        Args:
            overwrite: Let it replace a file, or an empty directory.
        """
        self._perform(CopyPath(source=source, target=target, recursive=recursive, overwrite=overwrite))

    # Files in and out -------------------------------------------------------------------------------------------------

    def put_file(self, source: Source, target: str, *, mode: int | None = None) -> int:
        """Copy a file into the sandbox and return its size in bytes.

        Args:
            source: A host path (``str`` or path object; its permission bits come along), bytes, a binary file object, or an
                iterable of bytes.
            target: Path in the sandbox; a path ending in ``/`` or an existing directory takes the source's own name.

        Raises:
            FileNotFoundError, IsADirectoryError: The host path is no file.
            InvalidArgumentError: It is a pipe, a device or a socket, which is not waited for.
        """
        if isinstance(source, (str, os.PathLike)):
            path = Path(source)
            with open_source(source) as file:
                facts = os.fstat(file.fileno())
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
            chunks = _checked_pieces(source, _SOURCE)
        return self.write_file(target, chunks, mode=mode)

    def _file_target(self, target: str, name: str) -> str:
        """Return where a file called ``name`` goes, as cp(1) would see it."""
        target = as_path(target, 'target')
        if target.endswith('/'):
            return target + name
        with contextlib.suppress(FileNotFoundError):
            if self.stat_path(target).kind == 'directory':
                return str(PurePosixPath(target) / name)
        return target

    @overload
    def get_file(self, source: str, target: None = None, *, max_bytes: int | None = MAX_TRANSFER_BYTES) -> bytes: ...

    @overload
    def get_file(self, source: str, target: Target, *, max_bytes: int | None = MAX_TRANSFER_BYTES) -> int: ...

    def get_file(
        self, source: str, target: Target | None = None, *, max_bytes: int | None = MAX_TRANSFER_BYTES
    ) -> bytes | int:
        """Copy a file out of the sandbox.

        Args:
            source: Path in the sandbox.
            target: Host path, a directory there, a binary file object, or None to return the bytes.
            max_bytes: The most that may come; default is 1 GiB, None is no bound.

        Returns:
            The bytes, or with a target their number. A host file is complete or is not there: it is written beside its place
            first. What is zero in it takes no room on the disk.

        Raises:
            SandboxPathError: It is larger than ``max_bytes``.
        """
        most = check_max_bytes(max_bytes)
        name = PurePosixPath(as_path(source, 'source')).name
        return collect(self.read_chunks(source), target, name, max_bytes=most, what=f'the file {quoted(source)}')

    def put_archive(self, source: Source, target: str = '.') -> None:
        """Unpack a tar archive (plain or compressed) below a directory of the sandbox, made if missing.

        Modes and empty directories are kept; what is there already is merged with. Members that would land outside, and
        devices, are refused. What was unpacked before a refusal, or before the call was cancelled, stays.

        Args:
            source: Host path of an archive, its bytes, a binary file object, or an iterable of bytes.
        """
        request = WriteArchive(target_dir=target)
        with contextlib.ExitStack() as stack:
            chunks: Iterable[bytes]
            if isinstance(source, (str, os.PathLike)):
                chunks = _file_pieces(stack.enter_context(open_source(source)))
            elif isinstance(source, (bytes, bytearray, memoryview)):
                chunks = (bytes(source),)
            elif hasattr(source, 'read'):
                chunks = _file_pieces(source)
            else:
                chunks = _checked_pieces(source, _SOURCE)
            size = len(chunks[0]) if isinstance(chunks, tuple) else None
            self._write(request, chunks, size)

    @overload
    def get_archive(self, source: str, target: None = None, *, max_bytes: int | None = MAX_TRANSFER_BYTES) -> bytes: ...

    @overload
    def get_archive(self, source: str, target: Target, *, max_bytes: int | None = MAX_TRANSFER_BYTES) -> int: ...

    def get_archive(
        self, source: str, target: Target | None = None, *, max_bytes: int | None = MAX_TRANSFER_BYTES
    ) -> bytes | int:
        """Return a path of the sandbox as a plain tar archive, whose top member has the path's last name.

        Args:
            target: Host path of the archive to write, a binary file object, or None to return the bytes.
            max_bytes: The most that the archive may have; default is 1 GiB, None is no bound.

        Returns:
            The bytes, or with a target their number. As with `get_file`, a host file is complete or is not there.

        Raises:
            SandboxPathError: The archive is larger than ``max_bytes``.
        """
        most = check_max_bytes(max_bytes)
        return collect(self.read_archive(source), target, max_bytes=most, what=f'the archive of {quoted(source)}')

    def read_archive(self, source: str, *, arcname: str | None = None) -> Iterator[bytes]:
        """Yield a path of the sandbox as a plain tar archive, piece by piece. The first step raises what is wrong."""
        return self._read(ReadArchive(path=source, arcname=arcname or None))

    def put_dir(self, source: str | os.PathLike[str], target: str = '.') -> bool:
        """Copy what is in a host directory into a directory of the sandbox, made if missing; True when done.

        Modes, symlinks and empty directories are kept, owners are not; what is there already is merged with. What came before
        a failure, or before the call was cancelled, stays.

        Raises:
            NotADirectoryError: The host path is no directory.
        """
        folder = host_path(source, 'source')
        if not folder.is_dir():
            raise NotADirectoryError(f'source must be a directory on the host: {quoted(os.fspath(folder))}')
        with closing_pieces(_tar_directory(folder)) as pieces:
            self.put_archive(pieces, target)
        return True

    def get_dir(
        self, source: str, target: str | os.PathLike[str], *, max_bytes: int | None = MAX_TRANSFER_BYTES
    ) -> None:
        """Copy what is in a directory of the sandbox into a host directory, made if missing.

        The sandbox is not trusted: whatever would land outside of ``target`` or lead there, by name or link, is refused, and
        so are devices; owners, set-user-id bits and others' write permission stay behind. What came before a refusal, or before
        the call was cancelled, stays.

        Args:
            max_bytes: The most that may come, as an archive; default is 1 GiB, None is no bound.

        Raises:
            SandboxPathError: There is no such directory, something in it is refused, or it is larger than ``max_bytes``; the
                message names it.
        """
        most, folder = check_max_bytes(max_bytes), host_path(target, 'target')
        if self.stat_path(source).kind != 'directory':
            raise SandboxPathError(f'not a directory in the sandbox: {quoted(source)}')
        with closing_pieces(self.read_archive(source, arcname='.')) as pieces:
            chunks = bounded(pieces, most, f'the archive of {quoted(source)}')
            unpack_tree(chunks, folder)
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
        check_port(port, 'port')
        check_host(host)
        operations, seconds = self._connecting(), check_timeout(timeout)
        try:
            return operations.connect(port, host, timeout=seconds)
        except SandboxGoneError as error:
            raise self._gone(error) from error

    def wait_for_port(
        self, port: int, timeout: float | None = 30.0, *, host: str = '127.0.0.1', interval: float = 0.05
    ) -> None:
        """Return as soon as somebody listens at a TCP port inside the sandbox.

        Args:
            timeout: Seconds to wait; None and 0 for no limit.
            host: A numeric address there, or ``'localhost'``.
            interval: Seconds between two looks.

        Raises:
            OperationTimeoutError: Nobody listened there in time.
            CallCancelledError: The caller's work was cancelled.
            SandboxStateError, SandboxGoneError: The sandbox does not run, or was lost meanwhile.
        """
        check_port(port, 'port')
        check_host(host)
        deadline = Deadline.after(check_timeout(timeout))
        cancelled = threading.Event()
        with on_cancel(cancelled.set):
            while not self._listens(port, host, deadline):
                if deadline.has_expired():
                    raise OperationTimeoutError(
                        f'sandbox {self.id}: nobody listened at port {port} within {timeout or 0:g} s; '
                        'does the program that serves there still run, and does it listen on this address?',
                        details={'sandbox_id': self.id, 'port': port},
                    )
                if cancelled.wait(min(interval, deadline.remaining() or interval)):
                    raise CallCancelledError(f'the wait for port {port} was cancelled')

    def _listens(self, port: int, host: str, deadline: Deadline) -> bool:
        """Return whether a connection to a port is taken."""
        try:
            self.connect_port(port, host, timeout=min(5.0, deadline.remaining() or 5.0)).close()
        except UnsupportedError:  # connections are not carried from here: look what the kernel says
            return self._is_listed(port)
        except (SandboxPathError, OperationTimeoutError):
            return False
        return True

    def _is_listed(self, port: int) -> bool:
        """Return whether the kernel's tables have a listener at a port (proc(5), ``/proc/net/tcp``: state 0A)."""
        tables = self.execute_command(['cat', '/proc/net/tcp', '/proc/net/tcp6'], 10.0).stdout
        fields = [line.split() for line in tables.splitlines()]
        return any(len(each) > 3 and each[3] == '0A' and each[1].endswith(f':{port:04X}') for each in fields)

    def forward_port(self, port: int, listen_port: int = 0, *, host: str = '127.0.0.1') -> PortForward:
        """Listen on this machine and carry each connection to a port inside the sandbox, until closed.

        Args:
            listen_port: Port on this machine's 127.0.0.1; 0 takes a free one, reported by the result's ``port``.
            host: Numeric address inside the sandbox.
        """
        check_port(port, 'port')
        if listen_port != 0:
            check_port(listen_port, 'listen_port')
        check_host(host)
        operations = self._connecting()
        forward = PortForward(
            operations, port, target_host=host, listen_host='127.0.0.1', listen_port=listen_port, name=self.id
        )
        self._forwarding(forward, operations)
        return forward


class FullSandbox(Verbs, Sandbox):
    """A sandbox with a life and all the verbs, wherever it runs."""

    offers: ClassVar[frozenset[str]] = frozenset({'commands', 'files'})


_SOURCE = 'source must be a path, bytes, a binary file object or an iterable of bytes'


def _checked_pieces(data: Any, message: str) -> Iterator[bytes]:
    """Return an iterator of pieces that raises for one that is no bytes; for what has no pieces that is raised now."""
    if not isinstance(data, Iterable):
        raise InvalidArgumentError(f'{message}, not {quoted(data)}')

    def pieces() -> Iterator[bytes]:
        for piece in data:
            if not isinstance(piece, (bytes, bytearray, memoryview)):
                raise InvalidArgumentError(f'{message}; one of its pieces is {quoted(piece)}')
            yield bytes(piece)

    return pieces()


def _file_pieces(file: Any) -> Iterator[bytes]:
    while data := file.read(PIECE_BYTES):
        if not isinstance(data, bytes):
            raise InvalidArgumentError('the file object must be opened in binary mode')
        yield data


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
