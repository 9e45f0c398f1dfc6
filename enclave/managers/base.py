"""What a manager is (layer 5): the verbs that every kind has, so that code written for one runs with another.

A manager is used with plain blocking calls from any number of threads. `SandboxManager.submit` has any of them called on the
manager's own threads instead, and gives a future.
"""

from __future__ import annotations

import atexit
import contextlib
import contextvars
import functools
import logging
import os
import threading
import uuid
import warnings
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from concurrent.futures import Future
from contextlib import AbstractContextManager
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar, cast, overload

from enclave.cancellation import Cancellation, on_cancel
from enclave.config import GivenConfig, SandboxConfig
from enclave.enums import SandboxManagerType, SandboxStatus, SandboxType
from enclave.errors import InvalidArgumentError, PoolError, UnsupportedError
from enclave.host_files import MAX_TRANSFER_BYTES, Source, Target
from enclave.languages.values import CodeRequest, CodeResult, Program, as_request, make_request, request_maker
from enclave.managers.manager_config import SandboxManagerConfig
from enclave.managers.options import LifeOptions, ManagerOptions
from enclave.managers.options import Lifetime as Lifetime
from enclave.parallel import MOST_AT_ONCE, Batch, Followed, Outcomes, follow_all
from enclave.quoting import quoted
from enclave.records import CommandResult, HealthCheckResult, SandboxInfo, ToolResult
from enclave.sandboxes.base import Sandbox
from enclave.sandboxes.call_options import CodeOptions, CommandOptions, Unpack
from enclave.sandboxes.verbs import FullSandbox
from enclave.suggest import did_you_mean
from enclave.threads import Workers
from enclave.tools.calls import DEFAULT_MAX_CHARS, SchemaForm, ToolCall, as_messages, parse_calls, tool_schemas
from enclave.verb_requests import Request

if TYPE_CHECKING:
    from enclave.sandboxes.notebook.sandbox import NotebookSandbox
    from enclave.sandboxes.options import NotebookKind

logger = logging.getLogger(__name__)

R = TypeVar('R')
Item = TypeVar('Item')
M = TypeVar('M', bound='SandboxManager')
Config = GivenConfig

NO_POOL = 'Sandbox pool is empty, call initialize_pool first'

# These never queue behind calls that take as long as the code in a sandbox does.
_CONTROL = frozenset(
    {
        'stop',
        'stop_sandbox',
        'delete_sandbox',
        'pause_sandbox',
        'resume_sandbox',
        'cleanup_all_sandboxes',
        'release_sandbox',
        'renew',
        'health_check',
        'get_stats',
        'get_sandbox',
        'get_sandbox_info',
        'get_sandbox_tools',
        'list_sandboxes',
    }
)
_NOT_SUBMITTED = frozenset({'submit', 'lease', 'open', 'run_many', 'map'})


MAX_POOL_NAME = 200


def check_pool_name(name: Any) -> None:
    """Check the name of a pool that is to be made; None has one made.

    Raises:
        PoolError: It is none, or too long for what is kept and shown under it.
    """
    if name is None:
        return
    fits = isinstance(name, str) and 1 <= len(name) <= MAX_POOL_NAME
    if not fits or any('\ud800' <= character <= '\udfff' for character in name):  # half a character cannot be kept
        raise PoolError(f"a pool's name must be a string of 1 to {MAX_POOL_NAME} characters, not {quoted(name)}")


def check_on_expiry(value: str | None) -> bool | None:
    """Return whether a sandbox is to be paused when its time is over; None where that is left as it is.

    Raises:
        InvalidArgumentError: It is none of the two.
    """
    if value not in (None, 'remove', 'pause'):
        raise InvalidArgumentError(f"on_expiry must be 'remove' or 'pause', not {quoted(value)}")
    return None if value is None else value == 'pause'


class CallFuture(Future[R]):
    """The future of a submitted call. `cancel` also reaches one that is being made."""

    def __init__(self) -> None:
        super().__init__()
        self._cancellation = Cancellation()

    def cancel(self) -> bool:
        """Cancel the call. True if it had not begun, and never will.

        False if it had: then what runs in the sandbox for it is killed (a command's result says ``cancelled``), and a wait in a
        pool's queue or for a creation ends with `CallCancelledError`.
        """
        if super().cancel():
            return True
        self._cancellation.cancel()
        return False

    def run_under(self, call: Callable[[], R]) -> R:
        """Make the call such that `cancel` reaches it, and so does the cancellation of the work that submitted it."""
        with on_cancel(self._cancellation.cancel), self._cancellation.applied():
            return call()


class SandboxManager(ABC):
    """Owner of many sandboxes. Use it as a context manager, or call `start` and `stop`.

    It lives once: from its making (which starts and connects nothing), through `start` (called by the first verb that needs
    it), to `stop`. One that is forgotten, or still there when the interpreter exits, is reported by a `ResourceWarning` and
    stopped. Every verb may be called by any number of threads at once.

    Attributes:
        id: Its own name, eight hexadecimal digits, as in the names of its threads.
        config: The checked configuration.
    """

    manager_type: ClassVar[SandboxManagerType | str]
    _starts_early: ClassVar[bool] = False  # whether a server starts it before the first request

    def __init__(
        self, config: SandboxManagerConfig | Mapping[str, Any] | None = None, **options: Unpack[ManagerOptions]
    ) -> None:
        """Check the configuration.

        Args:
            config: A configuration, a dict of its options, or None for the defaults.
            options: Options of `SandboxManagerConfig`, in the place of what ``config`` says.

        Raises:
            ConfigurationError: The configuration is wrong; the message names the field.
        """
        self.id = uuid.uuid4().hex[:8]
        self._pid = os.getpid()
        self.config = SandboxManagerConfig.merged(config, options)
        self._calls = Workers(self.config.max_workers, 'call', self.id)
        self._control = Workers(self.config.max_workers, 'control', self.id)

    # Life -------------------------------------------------------------------------------------------------------------

    @abstractmethod
    def start(self) -> None:
        """Begin; does nothing the second time. The first verb that needs it does it too.

        Raises:
            ManagerStoppedError: It was stopped already.
        """

    @abstractmethod
    def stop(self) -> None:
        """End: refuse new work, wake all who wait, let running calls continue for ``stop_grace``, then take everything away.

        May be called twice, at any stage, from any thread, in a signal handler and while the interpreter exits. Takes at most
        ``stop_timeout``. A sandbox that could not be taken away is reported in the log and stays in `list_sandboxes`; calling
        again tries again. Sandboxes with ``remove_on_exit=False`` are stopped and kept.
        """

    def _watch(self, stop: Callable[[], None]) -> None:
        """Have ``stop`` called if the manager is forgotten. It must not refer to the manager. For implementations."""
        self._finalizer = weakref.finalize(self, _forgotten, repr(self), self.id, stop, self._pid)
        self._finalizer.atexit = False  # the hook below does that, with the manager still whole
        _unstopped.add(self)

    def _unwatch(self) -> None:
        """Roll back `_watch`, after a complete `stop`."""
        _unstopped.discard(self)
        finalizer = getattr(self, '_finalizer', None)
        if finalizer is not None:
            finalizer.detach()

    def __enter__(self: M) -> M:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # Sandboxes --------------------------------------------------------------------------------------------------------

    @abstractmethod
    def create_sandbox(
        self,
        sandbox_type: SandboxType | str | None = None,
        config: Config = None,
        sandbox_id: str | None = None,
        *,
        ttl: Lifetime = 'default',
        idle_timeout: Lifetime = 'default',
        labels: Mapping[str, str] | None = None,
    ) -> str:
        """Make and start a sandbox, and return its id.

        Args:
            sandbox_type: The kind; None takes the manager's ``sandbox_type``, and where that is None too, the kind that the
                configuration is for, else Docker if its engine answers, else bubblewrap. What was chosen and why is in the
                ``metadata`` of its info, as ``chosen_because``.
            config: Configuration of the kind, a dict of its options, or None for the manager's ``sandbox_config``.
            sandbox_id: A name of your own; default is a new one.
            ttl: Seconds from its start after which it is removed, whatever continues in it; None for never.
            idle_timeout: Seconds without any call running after which it is removed; None for never.
            labels: Free names with values, to find it again with `list_sandboxes`; 64 of them, 4096 characters together.

        Raises:
            ConfigurationError, NotRegisteredError: The configuration is wrong, or the kind unknown.
            InvalidArgumentError: A lifetime is impossible, or beyond what the manager allows.
            ConflictError: The id is taken.
            SandboxStartError: It could not be started, and nothing of it is left; `ImageNotFoundError` is one.
            EngineUnavailableError: Its backend does not answer.
            CallCancelledError: The caller's work was cancelled; nothing of the sandbox is left.
            ManagerStoppedError: The manager is stopping or stopped.
        """

    @abstractmethod
    def get_sandbox(self, sandbox_id: str) -> FullSandbox | None:
        """Return the sandbox of an id, or None if there is none. What is called on it directly counts as use of it."""

    @abstractmethod
    def get_sandbox_info(self, sandbox_id: str) -> SandboxInfo:
        """Return what can be said of a sandbox, looked at afresh: one that died shows ``error`` and why.

        Its ``metadata`` also holds ``ttl``, ``idle_timeout`` (seconds or None), ``expires_at`` (ISO 8601 or None) and ``pool``
        (a pool's name or None).

        Raises:
            SandboxNotFoundError: No sandbox has the id.
        """

    @abstractmethod
    def list_sandboxes(
        self, status_filter: SandboxStatus | str | None = None, *, labels: Mapping[str, str] | None = None
    ) -> list[SandboxInfo]:
        """Return what can be said of all sandboxes, oldest first; see `get_sandbox_info`.

        Args:
            status_filter: Only those in this state.
            labels: Only those that have all of these labels.

        Raises:
            InvalidArgumentError: There is no such state, or the labels are none.
        """

    @abstractmethod
    def stop_sandbox(self, sandbox_id: str) -> bool:
        """Stop a sandbox, which stays in the list as ``stopped``; True when done, also if it was stopped before.

        Raises:
            SandboxNotFoundError: No sandbox has the id.
            EngineUnavailableError: Its backend does not answer.
        """

    @abstractmethod
    def delete_sandbox(self, sandbox_id: str) -> bool:
        """Take a sandbox away, in whatever state it is, and forget it; True when done.

        If two threads delete it at once, both wait for the one removal. What cannot be taken away now stays in the list and is
        tried again every few seconds.

        Raises:
            SandboxNotFoundError: No sandbox has the id, perhaps because it was deleted before.
            EngineUnavailableError: Its backend does not answer.
        """

    @abstractmethod
    def cleanup_all_sandboxes(self) -> list[str]:
        """Delete all sandboxes in parallel, dissolve the pools, and return the ids of what was deleted.

        Raises:
            EnclaveError: Not all could be deleted: the first failure.
        """

    def pause_sandbox(self, sandbox_id: str, *, ttl: Lifetime = 'default') -> datetime | None:
        """Keep all that is in a sandbox from running until `resume_sandbox`; see `Sandbox.pause`.

        Its lifetime stands still meanwhile, and it does not count as idle. It stays in the list as ``paused``.

        Args:
            ttl: How long it may stay paused, after which it is removed; default is the manager's ``paused_ttl``.

        Returns:
            When it is removed if nobody resumes it (aware, UTC); None for never.

        Raises:
            SandboxNotFoundError: No sandbox has the id.
            UnsupportedError: This kind of sandbox cannot be paused, or not on this machine.
            SandboxStateError, SandboxGoneError: It does not run.
            InvalidArgumentError: The time is impossible, or beyond what the manager allows.
        """
        self._existing(sandbox_id).pause()
        return None if ttl == 'default' else self.renew(sandbox_id, ttl)

    def resume_sandbox(self, sandbox_id: str) -> datetime | None:
        """Let a paused sandbox continue, with the lifetime it had left; one that runs is left as it is.

        Returns:
            When it is removed (aware, UTC); None for never.

        Raises:
            SandboxNotFoundError: No sandbox has the id.
            SandboxStateError, SandboxGoneError: It neither runs nor is paused.
        """
        self._existing(sandbox_id).resume()
        return None

    @abstractmethod
    def renew(
        self, sandbox_id: str, ttl: Lifetime = 'default', *, on_expiry: Literal['remove', 'pause'] | None = None
    ) -> datetime | None:
        """Let a sandbox live ``ttl`` seconds from now, and return that moment (aware, UTC); None for no end.

        Of one that is paused this is how long it may stay so.

        Args:
            ttl: Default is the ``ttl`` it was made with.
            on_expiry: What happens to it then: ``'remove'``, as everything is made, or ``'pause'``: it is paused, and removed
                only after the manager's ``paused_ttl``, or at once where it cannot be paused. None leaves it as it is.

        Raises:
            SandboxNotFoundError: No sandbox has the id.
            InvalidArgumentError: The time is impossible, or beyond what the manager allows.
        """

    @overload
    def open(
        self,
        sandbox_type: NotebookKind,
        config: Config = None,
        sandbox_id: str | None = None,
        **life: Unpack[LifeOptions],
    ) -> contextlib.AbstractContextManager[NotebookSandbox]: ...

    @overload
    def open(
        self,
        sandbox_type: SandboxType | str | None = None,
        config: Config = None,
        sandbox_id: str | None = None,
        **life: Unpack[LifeOptions],
    ) -> contextlib.AbstractContextManager[FullSandbox]: ...

    @contextlib.contextmanager
    def open(
        self,
        sandbox_type: SandboxType | str | None = None,
        config: Config = None,
        sandbox_id: str | None = None,
        **life: Unpack[LifeOptions],
    ) -> Iterator[Any]:
        """Make a sandbox for the length of a ``with`` block; see `create_sandbox`."""
        made = self.create_sandbox(sandbox_type, config, sandbox_id, **life)
        try:
            yield self._existing(made)
        finally:
            # It may be gone by its own lifetime, or with the manager. It is taken away although the block's work was cancelled.
            with Cancellation().applied():
                if self.get_sandbox(made) is not None:
                    with contextlib.suppress(LookupError):
                        self.delete_sandbox(made)

    def _existing(self, sandbox_id: str) -> Sandbox:
        sandbox = self.get_sandbox(sandbox_id)
        if sandbox is None:
            self.get_sandbox_info(sandbox_id)  # raises what is to be said about that
            raise AssertionError('unreachable')
        return sandbox

    def _using(self, sandbox_id: str) -> AbstractContextManager[Any]:
        """Give a sandbox, or what has its verbs, for a call that the block makes. For implementations."""
        return contextlib.nullcontext(self._existing(sandbox_id))

    def _call_on(self, sandbox_id: str, verb: str, *args: Any, **options: Any) -> Any:
        with self._using(sandbox_id) as sandbox:
            method = getattr(sandbox, verb, None)
            if method is None:
                raise UnsupportedError(f'sandbox {sandbox_id}, a {type(sandbox).__name__}, has no {verb}')
            return method(*args, **options)

    def perform(self, sandbox_id: str, request: Request[R]) -> R:
        """Execute a request (see `enclave.verb_requests`) in a sandbox, whatever its verb is, and return what it gives.

        Raises:
            SandboxNotFoundError: No sandbox has the id.
            UnsupportedError: This kind of sandbox has no such verb.
        """
        with self._using(sandbox_id) as sandbox:
            return cast(R, sandbox.perform(request))

    # Tools and commands -----------------------------------------------------------------------------------------------

    def execute_tool(
        self,
        sandbox_id: str,
        tool_name: str,
        parameters: Mapping[str, Any] | None = None,
        *,
        max_chars: int | None = None,
    ) -> ToolResult:
        """Run a tool in a sandbox; see `Sandbox.execute_tool`.

        Raises:
            SandboxNotFoundError: No sandbox has the id.
            ToolNotFoundError, ToolArgumentsError: There is no such tool, or its arguments are wrong.
            SandboxStateError, SandboxGoneError, SandboxBrokenError: The sandbox does not run, or was lost meanwhile.
            ManagerStoppedError: The manager is stopping or stopped.
        """
        with self._using(sandbox_id) as sandbox:
            return cast(ToolResult, sandbox.execute_tool(tool_name, parameters, max_chars=max_chars))

    def get_sandbox_tools(self, sandbox_id: str) -> dict[str, Any]:
        """Return a sandbox's tools as ``{name: OpenAI-style function schema}``.

        Raises:
            SandboxNotFoundError: No sandbox has the id.
        """
        return self._existing(sandbox_id).get_available_tools()

    def tool_schemas(self, sandbox_id: str, form: SchemaForm = 'openai') -> list[dict[str, Any]]:
        """Return the schemas of a sandbox's tools as a list, in the form that a provider wants; see `Sandbox.tool_schemas`.

        Raises:
            SandboxNotFoundError: No sandbox has the id.
            InvalidArgumentError: There is no such form.
        """
        return tool_schemas(self.get_sandbox_tools(sandbox_id), form)

    def execute_tool_call(
        self, sandbox_id: str, call: Any, *, max_chars: int | None = DEFAULT_MAX_CHARS
    ) -> dict[str, Any]:
        """Run a tool call as a model made it, and return the message to send back; see `Sandbox.execute_tool_call`.

        Raises:
            SandboxNotFoundError: No sandbox has the id.
            InvalidArgumentError: It is no tool call in a form that is known.
        """
        run = functools.partial(self.execute_tool, sandbox_id, max_chars=max_chars)
        return ToolCall.parse(call).execute(run, lambda: self.get_sandbox_tools(sandbox_id), max_chars=max_chars)

    def execute_tool_calls(
        self, sandbox_id: str, answer: Any, *, max_chars: int | None = DEFAULT_MAX_CHARS
    ) -> list[dict[str, Any]]:
        """Run all tool calls in a model's answer, and return the messages to append; see `Sandbox.execute_tool_calls`.

        Raises:
            SandboxNotFoundError, InvalidArgumentError: As for `execute_tool_call`.
        """
        calls = parse_calls(answer)
        run = functools.partial(self.execute_tool, sandbox_id, max_chars=max_chars)
        answers = [call.execute(run, lambda: self.get_sandbox_tools(sandbox_id), max_chars=max_chars) for call in calls]
        return as_messages(calls, answers)

    def execute_command(
        self,
        sandbox_id: str,
        command: str | Sequence[str],
        timeout: float | None = None,
        **options: Unpack[CommandOptions],
    ) -> CommandResult:
        """Run a command in a sandbox: a string through its shell, a sequence as it is.

        Args:
            timeout: Seconds; None takes the sandbox's configuration, 0 means no limit.
            options: ``cwd``, ``env``, ``user``, ``stdin``, ``max_output_bytes``, as for a sandbox's own `execute_command`.

        Raises:
            SandboxNotFoundError: No sandbox has the id.
            InvalidArgumentError: An argument is impossible.
            SandboxStateError, SandboxGoneError, SandboxBrokenError: The sandbox does not run, or was lost meanwhile.
        """
        with self._using(sandbox_id) as sandbox:
            return cast(CommandResult, sandbox.execute_command(command, timeout, **options))

    # Files ------------------------------------------------------------------------------------------------------------

    def put_file(self, sandbox_id: str, source: Source, target: str, *, mode: int | None = None) -> int:
        """Copy a file into a sandbox and return its size in bytes.

        Args:
            source: A host path, bytes, a binary file object or an iterable of bytes.
            target: Path in the sandbox; ending in ``/`` or being a directory, it takes the source's own name.
            mode: Permission bits; default is the host file's.

        Raises:
            SandboxNotFoundError: No sandbox has the id.
            UnsupportedError: This kind of sandbox takes no files.
            FileNotFoundError: The host path does not exist.
            SandboxPathError: The sandbox refused: permission, wrong kind, no space.
        """
        size: int = self._call_on(sandbox_id, 'put_file', source, target, mode=mode)
        return size

    @overload
    def get_file(
        self, sandbox_id: str, source: str, target: None = None, *, max_bytes: int | None = MAX_TRANSFER_BYTES
    ) -> bytes: ...

    @overload
    def get_file(
        self, sandbox_id: str, source: str, target: Target, *, max_bytes: int | None = MAX_TRANSFER_BYTES
    ) -> int: ...

    def get_file(
        self, sandbox_id: str, source: str, target: Target | None = None, *, max_bytes: int | None = MAX_TRANSFER_BYTES
    ) -> bytes | int:
        """Copy a file out of a sandbox.

        Args:
            target: Host path, a directory there, a binary file object, or None to return the bytes.
            max_bytes: The most that may come; default is 1 GiB, None is no bound.

        Returns:
            The bytes, or with a target their number.

        Raises:
            SandboxNotFoundError, UnsupportedError: As for `put_file`.
            SandboxPathNotFoundError, SandboxPathError: There is no such file in the sandbox, it cannot be read, or it is larger
                than ``max_bytes``.
        """
        got: bytes | int = self._call_on(sandbox_id, 'get_file', source, target, **_bound(max_bytes))
        return got

    def put_dir(self, sandbox_id: str, source: str | os.PathLike[str], target: str = '.') -> bool:
        """Copy what is in a host directory into a directory of a sandbox, made if missing; True when done.

        Modes, symlinks and empty directories are kept; what is there already is merged with.

        Raises:
            NotADirectoryError: The host path is no directory.
            SandboxNotFoundError, UnsupportedError, SandboxPathError: As for `put_file`.
        """
        self._call_on(sandbox_id, 'put_dir', source, target)
        return True

    def get_dir(
        self,
        sandbox_id: str,
        source: str,
        target: str | os.PathLike[str],
        *,
        max_bytes: int | None = MAX_TRANSFER_BYTES,
    ) -> bool:
        """Copy what is in a directory of a sandbox into a host directory, made if missing; True when done.

        Nothing is ever written outside of ``target``, whatever names and links are in the sandbox.

        Args:
            max_bytes: The most that may come, as an archive; default is 1 GiB, None is no bound.

        Raises:
            SandboxNotFoundError, UnsupportedError: As for `put_file`.
            SandboxPathNotFoundError, SandboxPathError: There is no such directory in the sandbox, or it cannot be read.
        """
        self._call_on(sandbox_id, 'get_dir', source, target, **_bound(max_bytes))
        return True

    def put_archive(self, sandbox_id: str, source: Source, target: str = '.') -> bool:
        """Unpack a tar archive (plain or compressed) below a directory of a sandbox, made if missing; True when done.

        Args:
            source: Host path of an archive, its bytes, a binary file object or an iterable of bytes.

        Raises:
            SandboxNotFoundError, UnsupportedError, SandboxPathError: As for `put_file`.
        """
        self._call_on(sandbox_id, 'put_archive', source, target)
        return True

    @overload
    def get_archive(
        self, sandbox_id: str, source: str, target: None = None, *, max_bytes: int | None = MAX_TRANSFER_BYTES
    ) -> bytes: ...

    @overload
    def get_archive(
        self, sandbox_id: str, source: str, target: Target, *, max_bytes: int | None = MAX_TRANSFER_BYTES
    ) -> int: ...

    def get_archive(
        self, sandbox_id: str, source: str, target: Target | None = None, *, max_bytes: int | None = MAX_TRANSFER_BYTES
    ) -> bytes | int:
        """Return a path of a sandbox as a plain tar archive, whose top member has the path's last name.

        Args:
            target: Host path of the archive to write, a binary file object, or None to return the bytes.
            max_bytes: The most that the archive may have; default is 1 GiB, None is no bound.

        Raises:
            SandboxNotFoundError, UnsupportedError: As for `put_file`.
            SandboxPathNotFoundError, SandboxPathError: There is no such path in the sandbox, or it cannot be read.
        """
        got: bytes | int = self._call_on(sandbox_id, 'get_archive', source, target, **_bound(max_bytes))
        return got

    # Pools ------------------------------------------------------------------------------------------------------------

    @abstractmethod
    def initialize_pool(
        self,
        pool_size: int | None = None,
        sandbox_type: SandboxType | str | None = None,
        config: Config = None,
        *,
        name: str | None = None,
    ) -> list[str]:
        """Make a pool of warm sandboxes, starting them in parallel, and return their ids. All start, or it is an error.

        Called again for the same kind and configuration it changes that pool's size; for others it makes a further pool.

        Args:
            pool_size: How many; None takes the manager's ``pool_size``.
            sandbox_type: Their kind; None is Docker's.
            config: Their configuration; None takes the manager's ``sandbox_config``.
            name: What the pool is called. Default: ``'default'`` for the first, the kind and a number for others.

        Raises:
            PoolError: The size is not at least 1, or the name is that of a pool of another kind or configuration.
            SandboxStartError, EngineUnavailableError, ...: One did not start; none is left. See `create_sandbox`.
        """

    @property
    @abstractmethod
    def _pool_initialized(self) -> bool:
        """Whether there is a pool."""

    @abstractmethod
    def acquire_sandbox(
        self, timeout: float | None = None, *, pool: str | None = None, ttl: float | None = None
    ) -> str:
        """Lease a sandbox of a pool and return its id; give it back with `release_sandbox`. Better is `lease`.

        First come, first served. What is lent was working a moment ago; a dead one is replaced, never lent.

        Args:
            timeout: Seconds to wait for one; None for no limit.
            pool: The pool's name; None is the first that was made.
            ttl: Seconds the lease may last; then the sandbox is destroyed and the pool makes another. None for no limit.

        Raises:
            PoolError: There is no pool, or none of that name.
            PoolExhaustedError: None became free in time; it is a `TimeoutError`.
            CallCancelledError: The caller's work was cancelled.
            ManagerStoppedError: The manager was stopped.
            EnclaveError: The pool has none left and cannot make one; this says why.
        """

    @abstractmethod
    def release_sandbox(self, sandbox_id: str) -> None:
        """Give a leased sandbox back. Does nothing if it went away meanwhile, with its lease or with the manager.

        Raises:
            PoolError: It is not leased.
        """

    @contextlib.contextmanager
    def lease(self, timeout: float | None = None, *, pool: str | None = None) -> Iterator[FullSandbox]:
        """Lease a sandbox of a pool for the length of a ``with`` block; see `acquire_sandbox`.

        With ``pool_policy='reuse'`` it goes back as it is, with ``'fresh'`` it is destroyed and replaced in the background.
        """
        sandbox_id = self.acquire_sandbox(timeout, pool=pool)
        try:
            yield cast('FullSandbox', self._existing(sandbox_id))
        finally:
            with Cancellation().applied():
                self.release_sandbox(sandbox_id)

    def execute_tool_in_pool(
        self,
        tool_name: str,
        parameters: Mapping[str, Any] | None = None,
        timeout: float | None = None,
        *,
        pool: str | None = None,
        max_chars: int | None = None,
    ) -> ToolResult:
        """Run a tool in whichever sandbox of a pool is free.

        Args:
            timeout: Seconds to wait for a free sandbox; None for no limit. How long the tool may run is its own affair.
            pool: The pool's name; None is the first that was made.
            max_chars: As for `Sandbox.execute_tool`.

        Raises:
            PoolError, PoolExhaustedError, CallCancelledError, ManagerStoppedError: As for `acquire_sandbox`.
            ToolNotFoundError, ToolArgumentsError, SandboxGoneError, ...: As for `execute_tool`.
        """
        with self.lease(timeout, pool=pool) as sandbox:
            return sandbox.execute_tool(tool_name, parameters, max_chars=max_chars)

    # Programs ---------------------------------------------------------------------------------------------------------

    def run_code(
        self,
        sandbox_id: str,
        code: str | bytes | CodeRequest,
        language: str = 'python',
        *,
        max_chars: int | None = None,
        on_stdout: Callable[[str], object] | None = None,
        on_stderr: Callable[[str], object] | None = None,
        **options: Unpack[CodeOptions],
    ) -> CodeResult:
        """Compile and run a program in a sandbox; see `Sandbox.run_code`, which has the options.

        Raises:
            SandboxNotFoundError: No sandbox has the id.
            NotRegisteredError, UnsupportedError: There is no such language, or the sandbox lacks its toolchain.
            InvalidArgumentError: An argument is impossible; the message names it.
            SandboxStateError, SandboxGoneError, SandboxBrokenError: The sandbox does not run, or was lost meanwhile.
            ManagerStoppedError: The manager is stopping or stopped.
        """
        request = make_request(code, language=language, **options)
        if max_chars is None and on_stdout is None and on_stderr is None:
            return self._run_code(sandbox_id, request)
        sandbox = self._existing(sandbox_id)
        return sandbox.run_code(request, max_chars=max_chars, on_stdout=on_stdout, on_stderr=on_stderr)

    def _run_code(self, sandbox_id: str, request: CodeRequest) -> CodeResult:
        return self._existing(sandbox_id).run_code(request)

    def run_code_in_pool(
        self,
        code: str | bytes | CodeRequest,
        language: str = 'python',
        *,
        wait_timeout: float | None = None,
        pool: str | None = None,
        max_chars: int | None = None,
        on_stdout: Callable[[str], object] | None = None,
        on_stderr: Callable[[str], object] | None = None,
        **options: Unpack[CodeOptions],
    ) -> CodeResult:
        """Compile and run a program in whichever sandbox of a pool is free; see `Sandbox.run_code`, which has the options.

        Args:
            wait_timeout: Seconds to wait for a free sandbox; None for no limit.
            pool: The pool's name; None is the first that was made.

        Raises:
            PoolError, PoolExhaustedError, CallCancelledError, ManagerStoppedError: As for `acquire_sandbox`.
            NotRegisteredError, UnsupportedError, InvalidArgumentError, ...: As for `run_code`.
        """
        request = make_request(code, language=language, **options)
        if max_chars is None and on_stdout is None and on_stderr is None:
            return self._run_code_in_pool(request, wait_timeout, pool)
        with self.lease(wait_timeout, pool=pool) as sandbox:
            return sandbox.run_code(request, max_chars=max_chars, on_stdout=on_stdout, on_stderr=on_stderr)

    def _run_code_in_pool(self, request: CodeRequest, timeout: float | None, pool: str | None) -> CodeResult:
        with self.lease(timeout, pool=pool) as sandbox:
            return sandbox.run_code(request)

    def _run_in_batch(self, request: CodeRequest, timeout: float | None, pool: str | None) -> CodeResult:
        """Run one of many programs in a pool; see `run_many`."""
        return self._run_code_in_pool(request, timeout, pool)

    def run_many(
        self,
        programs: Iterable[Program],
        *,
        pool: str | None = None,
        concurrency: int | None = None,
        in_order: bool = False,
        wait_timeout: float | None = None,
    ) -> Outcomes[CodeResult]:
        """Run many programs in a pool, each in a sandbox of its own for that time, and give what became of each as it comes.

        What is given is an iterator, and a context manager that ends what is left; an error of one program is a value and
        stops nothing. Programs are taken from their iterable a few at a time, and outcomes that nobody takes hold up the rest.

        Args:
            programs: Requests, dicts of their fields, or sources in Python.
            pool: The pool's name; None is the first that was made.
            concurrency: How many run at once; default is as many as the pool may have sandboxes.
            in_order: Give outcomes in the order of the programs.
            wait_timeout: Seconds that a program may wait for a free sandbox; None for no limit.

        Raises:
            PoolError: There is no pool, or none of that name.
            InvalidArgumentError: ``concurrency`` is impossible.
            ManagerStoppedError: The manager is stopping or stopped.
        """
        return self._run_many(programs, as_request, pool, concurrency, in_order, wait_timeout)

    def map(
        self,
        program: Program | Callable[[Item], Program],
        items: Iterable[Item],
        *,
        language: str = 'python',
        pool: str | None = None,
        concurrency: int | None = None,
        wait_timeout: float | None = None,
        on_progress: Callable[[int, int | None], object] | None = None,
    ) -> Outcomes[CodeResult]:
        """Run a program for each of many items, in a pool, and give what became of each in the order of the items.

        Args:
            program: A source, a request, or a function that makes one of an item. Without a function an item is the program's
                stdin (text or bytes), a dict of fields of its request, or a whole `CodeRequest`.
            language: Of a source.
            on_progress: Called on the caller's thread with (how many outcomes were taken, how many there will be, or None where
                ``items`` has no length).

        Raises:
            PoolError, InvalidArgumentError, ManagerStoppedError: As for `run_many`, which also has the other arguments.
        """
        if on_progress is not None and not callable(on_progress):
            raise InvalidArgumentError(f'on_progress must be a function of two numbers, not {quoted(on_progress)}')
        source = self._run_many(items, request_maker(program, language), pool, concurrency, True, wait_timeout)
        total = len(items) if isinstance(items, Sized) else None
        return Followed(follow_all(source), on_progress=on_progress, total=total)

    def _run_many(
        self,
        items: Iterable[Any],
        make: Callable[[Any], CodeRequest],
        pool: str | None,
        concurrency: int | None,
        in_order: bool,
        wait_timeout: float | None,
    ) -> Outcomes[CodeResult]:
        if concurrency is None:
            concurrency = min(MOST_AT_ONCE, self._pool_size(pool))
        return Batch(
            lambda item: self._run_in_batch(make(item), wait_timeout, pool),
            items,
            concurrency=concurrency,
            is_ordered=in_order,
        )

    def _pool_size(self, pool: str | None) -> int:
        """Return how many sandboxes a pool may have.

        Raises:
            PoolError: There is no pool, or none of that name.
        """
        self.start()
        pools = self.get_stats()['pools']
        if not pools:
            raise PoolError(NO_POOL)
        if pool is not None and pool not in pools:
            raise PoolError(
                f'there is no pool {quoted(pool)}; there are: {", ".join(pools)}', details={'pool': str(pool)}
            )
        chosen = next(iter(pools.values())) if pool is None else pools[pool]
        return max(1, int(chosen['max_size']))

    def _find_pool_config(self, pool: str | None) -> SandboxConfig | None:
        """Return the configuration of a pool's sandboxes; None where there is no such pool, or it is not known here."""
        return None

    # Reply ------------------------------------------------------------------------------------------------------------

    @abstractmethod
    def get_stats(self) -> dict[str, Any]:
        """Return numbers about the manager, JSON-compatible.

        ``{'manager_type', 'manager_id', 'running', 'total_sandboxes', 'status_counts': {status: count}, 'sandbox_types':
        {kind: count}, 'active_calls', 'cleanup_interval', 'pool_size', 'pools': {name: numbers}}``. ``pool_size`` is the sum of
        the pools' sizes; a pool's numbers are ``size``, ``idle``, ``leased``, ``starting``, ``waiting``, ``min_size``,
        ``max_size``, ``policy``, ``created``, ``replaced``, ``leases``, ``wait_seconds_mean`` and ``wait_seconds_max``.
        """

    @abstractmethod
    def health_check(self) -> HealthCheckResult:
        """Return whether the manager takes work and its backends answer; takes a few seconds at most, and never raises.

        ``details``: ``{'running': bool, 'sandboxes': count, 'backends': {kind: 'ok' or what is wrong}}``, for the kinds in use.
        """

    # Elsewhere --------------------------------------------------------------------------------------------------------

    def submit(self, verb: str, /, *args: Any, **kwargs: Any) -> CallFuture[Any]:
        """Have a verb called on the manager's own threads, and return its future.

        The context variables of the caller travel with it. Verbs that control (stop, delete, list and alike) have threads of
        their own and never queue behind executions.

        Args:
            verb: The name of a method, like ``'execute_tool'``.

        Raises:
            InvalidArgumentError: There is no such verb.
            ManagerStoppedError: The manager is stopped.
        """
        if verb not in self._verbs():
            hint = did_you_mean(str(verb), sorted(self._verbs()))
            raise InvalidArgumentError(f'a manager has no verb {quoted(verb)} to submit; {hint}')
        if verb != 'stop':
            self.start()
        method = getattr(self, verb)
        context = contextvars.copy_context()
        future: CallFuture[Any] = CallFuture()
        workers = self._control if verb in _CONTROL else self._calls
        workers.submit_to(future, lambda: context.run(future.run_under, lambda: method(*args, **kwargs)))
        return future

    @classmethod
    def _verbs(cls) -> frozenset[str]:
        names = (name for name in dir(cls) if not name.startswith('_') and name not in _NOT_SUBMITTED)
        return frozenset(name for name in names if callable(getattr(cls, name)))

    def __repr__(self) -> str:
        return f'<{type(self).__name__} {self.id}>'


def _bound(max_bytes: int | None) -> dict[str, Any]:
    """Return the option for a bound, if it is not the default one: a sandbox of a user's own need not know it."""
    return {} if max_bytes == MAX_TRANSFER_BYTES else {'max_bytes': max_bytes}


# Forgotten managers ---------------------------------------------------------------------------------------------------

_unstopped: weakref.WeakSet[SandboxManager] = weakref.WeakSet()


def _forgotten(name: str, manager_id: str, stop: Callable[[], None], pid: int) -> None:
    """Stop what a manager left that nobody refers to any more. Called by the garbage collector, so it must not take long."""
    if os.getpid() != pid:
        return
    warnings.warn(f'{name} was forgotten without stop()', ResourceWarning, stacklevel=2)
    # Not a daemon: the interpreter waits for it.
    thread = threading.Thread(target=stop, name=f'enclave-stop-{manager_id}', daemon=False)
    try:
        thread.start()
    except RuntimeError:  # the interpreter is exiting
        stop()


def _stop_unstopped() -> None:
    """Stop the managers that are still there when the interpreter exits."""
    for manager in list(_unstopped):
        if manager._pid != os.getpid():
            continue
        warnings.warn(f'{manager!r} was not stopped before the program ended', ResourceWarning, stacklevel=1)
        try:
            manager.stop()
        except Exception:
            logger.warning('%r could not be stopped at exit', manager, exc_info=True)


atexit.register(_stop_unstopped)
