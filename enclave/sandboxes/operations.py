"""What a backend must be able to do in a running sandbox (layer 4).

A sandbox's public verbs (`enclave.sandboxes.verbs`) make a request and hand it to an `Operations` object. There are three: over
an agent (`agent_operations`), which every backend uses; over a container engine's own calls, for images without Python; and
over HTTP, for the sandboxes of a server.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, cast, runtime_checkable

from attrs import define, field, frozen

from enclave.errors import SandboxError, UnsupportedError
from enclave.quoting import quoted
from enclave.verb_requests import Download, Request, RunCommand, StartProcess, Upload

if TYPE_CHECKING:
    from enclave.deadline import Deadline
    from enclave.sandboxes.connection import Connection
    from enclave.sandboxes.process import Process

R = TypeVar('R')

LARGE_COMMAND_BYTES = 64 * 1024
"""A shell's command from this size on goes to it as a file: Linux takes 128 KiB in one argument (execve(2))."""
ARGUMENT_BYTES = 128 * 1024 - 1
"""The most that one argument, or one variable with its name, may take."""


def explain_sizes(request: RunCommand) -> str:
    """Return which argument or variable is too large for any program, or that all are together (E2BIG of execve(2))."""
    remedy = 'give large data as stdin, as a script, or in a file'
    argv = request.command if isinstance(request.command, tuple) else ()
    named = {f'word {number} of the command': word for number, word in enumerate(argv)}
    named.update((f'env[{quoted(name, 60)}]', f'{name}={value}') for name, value in (request.env or {}).items())
    for name, text in named.items():
        size = len(text.encode('utf-8', 'surrogateescape'))
        if size > ARGUMENT_BYTES:
            return f'{name} is too large, with {size} bytes; Linux takes at most {ARGUMENT_BYTES} in one. Instead, {remedy}'
    return (
        'its arguments and environment are too large together (Linux takes a quarter of the limit on the stack, mostly 2 MiB); '
        f'instead, {remedy}'
    )


class Operations(Protocol):
    """Whatever can execute requests in a running sandbox. Any thread may use it, many at once. Errors are those of `Workspace`.

    Requests are complete: their paths are absolute and their limits set, unless what executes them completes them elsewhere.
    """

    @property
    def active_calls(self) -> int:
        """How many calls are running."""

    @property
    def connect_problem(self) -> str | None:
        """Why `connect` is not possible here; None where it is."""

    def run(self, request: Request[R]) -> R:
        """Execute a request to its end and return what it gives."""

    def start_process(self, request: StartProcess) -> Process:
        """Start a command and return while it runs."""

    def read(self, request: Download) -> Iterator[bytes]:
        """Yield what is asked for as it comes. Errors are raised by the first step."""

    def write(self, request: Upload[R], chunks: Iterable[bytes], size: int | None = None) -> R:
        """Send bytes in and return what that gives; ``size`` is how many come, where that is known."""

    def connect(self, port: int, host: str, *, timeout: float | None) -> Connection:
        """Connect to a TCP port as seen from inside."""

    def ping(self, timeout: float) -> None:
        """Return if the sandbox answers and can start a process."""

    def close(self, *, grace: float) -> None:
        """Ask what still runs to end, wait at most ``grace`` seconds, and let go of the sandbox."""


BESIDE = '.enclave-'


def make_beside() -> str:
    """Return a name for what is made beside its place."""
    return f'{BESIDE}{secrets.token_hex(8)}'


class ByVerb:
    """Operations with a method for each verb, called like it, which takes the request (and of an upload its chunks and size)."""

    def run(self, request: Request[R]) -> R:
        """Execute a request to its end and return what it gives."""
        method = getattr(self, request.verb, None)
        return cast(R, self.run_other(request) if method is None else method(request))

    def run_other(self, request: Request[Any]) -> Any:
        """Execute a request whose verb has no method here."""
        raise UnsupportedError(f'{request.verb} is not possible in a sandbox of this kind')

    def read(self, request: Download) -> Iterator[bytes]:
        """Yield what is asked for as it comes. Errors are raised by the first step."""
        return cast('Iterator[bytes]', getattr(self, request.verb)(request))

    def write(self, request: Upload[R], chunks: Iterable[bytes], size: int | None = None) -> R:
        """Send bytes in and return what that gives; ``size`` is how many come, where that is known."""
        return cast(R, getattr(self, request.verb)(request, chunks, size))


@runtime_checkable
class ProcessEnder(Protocol):
    """Operations that can clean up after calls."""

    def end_processes(self, timeout: float, *, keep: Collection[Process] = ()) -> int:
        """End all processes that calls have started, but for ``keep`` and what those started; return how many there were.

        Raises:
            SandboxError: Some could not be ended, no process can be started afterwards, or the memory stays taken.
        """


@frozen
class Pending(Generic[R]):
    """Work that has begun, whose result nobody need wait for yet.

    Attributes:
        finish: Waits for its end, at most as long as it may take, and returns its result or raises its error. May be called
            more than once, and by several threads.
        has_ended: Whether `finish` would not wait.
        wait: Returns the same, as soon as that is so or a deadline has passed; raises `CallCancelledError` where the caller's
            work is cancelled meanwhile. The pending work continues then.
    """

    finish: Callable[[], R]
    has_ended: Callable[[], bool]
    wait: Callable[[Deadline], bool]

    @classmethod
    def done(cls, result: R) -> Pending[R]:
        """Return work that has ended, with its result."""
        return cls(lambda: result, lambda: True, lambda deadline: True)


@runtime_checkable
class BackgroundProcessEnder(ProcessEnder, Protocol):
    """Those that can do so while nobody waits."""

    def begin_ending(self, timeout: float, *, keep: Collection[Process] = ()) -> Pending[int]:
        """Begin what `end_processes` does; its result is that of the work which is returned.

        Raises:
            SandboxError: It could not be begun.
        """


HELD_PART = 0.5
"""How much of its memory may be taken while no call runs in a sandbox that is lent again."""


def check_memory_held(name: str, held: int, limit: int) -> None:
    """Check that a sandbox in which calls have ended has memory for others; a limit of 0 is none, or none that is known.

    Files in memory, System V shared memory and the kernel's records of files stay when programs end, and no program can then be
    started that is not ended for want of memory.

    Raises:
        SandboxError: More than `HELD_PART` of it is taken.
    """
    if limit and held > HELD_PART * limit:
        raise SandboxError(
            f'sandbox {name}: {held >> 20} of {limit >> 20} MiB of its memory are taken although its calls have ended, by files '
            'in memory, shared memory or kernels'
        )


class Notices(Protocol):
    """What the kernel says of changes in a directory, as it comes. One thread at a time may wait and take."""

    def wait(self, deadline: Deadline) -> bool:
        """Wait until something has changed; whether that is so.

        Raises:
            CallCancelledError: The caller's work was cancelled.
        """

    def take(self) -> list[tuple[str, str]]:
        """Return which names came (``'+'``) and went (``'-'``) since the last time, below the directory."""

    @property
    def has_ended(self) -> bool:
        """Whether nothing more comes."""

    def close(self) -> None:
        """End it; who waits returns. May be called twice."""


@runtime_checkable
class ChangeNotifier(Protocol):
    """Operations that can have the kernel say what changes in a directory."""

    def notice_changes(self, path: str, *, recursive: bool) -> Notices | None:
        """Begin; None where that is not possible in this sandbox, or not for one more directory."""


@define(eq=False)
class CallCount:
    """How many calls continue. Lives as long as the operations that it counts for; any thread may use it."""

    _lock: threading.Lock = field(factory=threading.Lock, init=False, repr=False)
    _value: int = field(default=0, init=False)  # guarded by _lock

    @property
    def value(self) -> int:
        """How many continue now."""
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
