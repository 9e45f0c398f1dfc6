"""What a backend must be able to do in a running sandbox (floor 4).

A sandbox's public verbs check their arguments and then ask an `Operations` object. There are two: over an agent
(`agent_operations`), which every backend uses, and over a container engine's own calls, for images without Python.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from attrs import Factory, define, field, frozen

from enclave.languages.values import Limits
from enclave.quoting import quoted
from enclave.records import CommandResult, PathInfo

if TYPE_CHECKING:
    from enclave.sandboxes.connection import Connection
    from enclave.sandboxes.process import Process


LARGE_COMMAND_BYTES = 64 * 1024
"""A shell's command from this size on goes to it as a file: Linux takes 128 KiB in one argument (execve(2))."""
ARGUMENT_BYTES = 128 * 1024 - 1
"""The most that one argument, or one variable with its name, may take."""


@frozen(kw_only=True)
class Script:
    """A program text to run: written to a private file ending in ``suffix``, whose path replaces ``argv[at]``.

    With a ``name`` the file is called that, and the private directory that it is in is the working directory.

    Attributes:
        is_sourced: ``argv[at]`` becomes a shell's words that read the file, as the shell would read it after ``-c``.
        preload: Modules that a template interpreter has imported, of which the program is a fork where it can be; None
            starts an interpreter.
    """

    source: bytes
    suffix: str = ''
    at: int = 0
    name: str | None = None
    is_sourced: bool = False
    preload: tuple[str, ...] | None = None


@frozen(kw_only=True)
class RunRequest:
    """A command, checked and complete.

    Attributes:
        command: As the caller gave it: a string for a shell, or the argv.
        timeout: Seconds, or None for no limit.
        max_output_bytes: Cap on each of stdout and stderr.
        stdin: What the program reads before its end of file; None is no input.
        path_first: ``{variable: directory}`` put first in a search path like ``PYTHONPATH``.
        limits: What else it is ended for. It is measured then, and everything that it started ends with it.
        grace: Seconds between SIGTERM and SIGKILL at the time limit.
    """

    command: str | tuple[str, ...]
    timeout: float | None
    max_output_bytes: int
    cwd: str | None = None
    env: Mapping[str, str] = Factory(dict)
    user: str | None = None
    stdin: bytes | None = None
    script: Script | None = None
    path_first: Mapping[str, str] = Factory(dict)
    limits: Limits | None = None
    grace: float = 0.0


def explain_sizes(request: RunRequest) -> str:
    """Return which argument or variable is too large for any program, or that all are together (E2BIG of execve(2))."""
    remedy = 'give large data as stdin, as a script, or in a file'
    words = request.command if isinstance(request.command, tuple) else ()
    named = {f'word {number} of the command': word for number, word in enumerate(words)}
    named.update((f'env[{quoted(name, 60)}]', f'{name}={value}') for name, value in request.env.items())
    for name, text in named.items():
        size = len(text.encode('utf-8', 'surrogateescape'))
        if size > ARGUMENT_BYTES:
            return f'{name} is too large, with {size} bytes; Linux takes at most {ARGUMENT_BYTES} in one. Instead, {remedy}'
    return (
        'its arguments and environment are too large together (Linux takes a quarter of the limit on the stack, mostly 2 MiB); '
        f'instead, {remedy}'
    )


class Operations(Protocol):
    """The verbs of a running sandbox. Any thread may use them, many at once. Errors are those of `Workspace`."""

    @property
    def active_calls(self) -> int:
        """How many calls are going on."""

    def run(self, request: RunRequest) -> CommandResult:
        """Run a command to its end."""

    def start_process(
        self, request: RunRequest, *, live: bool = True, tty: tuple[int, int] | None = None, open_stdin: bool = False
    ) -> Process:
        """Start a command and return while it runs; ``tty`` is (rows, columns)."""

    def read_file(self, path: str, offset: int, max_bytes: int | None) -> Iterator[bytes]:
        """Yield a regular file's bytes."""

    def write_file(
        self,
        path: str,
        chunks: Iterable[bytes],
        *,
        size: int | None,
        append: bool,
        exclusive: bool,
        make_parents: bool,
        mode: int | None,
    ) -> int:
        """Write a regular file and return its size; ``size`` is how many bytes come, where that is known."""

    def list_dir(self, path: str, *, recursive: bool, max_entries: int | None) -> list[PathInfo]:
        """Return a directory's entries, sorted."""

    def stat_path(self, path: str, *, follow_symlinks: bool) -> PathInfo:
        """Return what is at a path; the record's own path is absolute."""

    def remove_path(self, path: str, *, recursive: bool, missing_ok: bool) -> None:
        """Remove what is at a path."""

    def make_dir(self, path: str, *, parents: bool, exist_ok: bool, mode: int) -> None:
        """Make a directory."""

    def move_path(self, source: str, target: str, *, overwrite: bool) -> None:
        """Rename."""

    def read_archive(self, path: str, arcname: str) -> Iterator[bytes]:
        """Yield a tar archive of a path, whose top member is called ``arcname``."""

    def write_archive(self, path: str, chunks: Iterable[bytes]) -> None:
        """Unpack a tar archive below a directory, made if missing, merging with what is there."""

    def connect(self, port: int, host: str, *, timeout: float | None) -> Connection:
        """Connect to a TCP port as seen from inside."""

    def ping(self, timeout: float) -> None:
        """Return if the sandbox answers and can start a process."""

    def close(self, *, grace: float) -> None:
        """Ask what still runs to end, wait at most ``grace`` seconds, and let go of the sandbox."""


@runtime_checkable
class ProcessEnder(Protocol):
    """Operations that can clean up after calls."""

    def end_processes(self, timeout: float, *, keep: Collection[Process] = ()) -> int:
        """End all processes that calls have started, but for ``keep`` and what those started; return how many there were.

        Raises:
            SandboxError: Some could not be ended, or no process can be started afterwards.
        """


@define(eq=False)
class CallCount:
    """How many calls go on. Lives as long as the operations that it counts for; any thread may use it."""

    _lock: threading.Lock = field(factory=threading.Lock, init=False, repr=False)
    _value: int = field(default=0, init=False)  # guarded by _lock

    @property
    def value(self) -> int:
        """How many go on now."""
        with self._lock:
            return self._value

    @contextlib.contextmanager
    def counted(self) -> Iterator[None]:
        """Count one call for the block."""
        with self._lock:
            self._value += 1
        try:
            yield
        finally:
            with self._lock:
                self._value -= 1
