"""Managers for ``async with`` (layer 6): proxies of the blocking ones, one line a method."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, overload

from enclave.aio.proxies import AsyncProxy, Forwarded, entered, run, streamed, to_async, to_async_as
from enclave.aio.sandboxes import AgentBackedSandbox, Process, Sandbox, with_docstrings
from enclave.cancellation import on_cancel
from enclave.enums import SandboxManagerType, SandboxStatus, SandboxType
from enclave.errors import EnclaveError
from enclave.host_files import MAX_TRANSFER_BYTES, Target
from enclave.managers import base, http, local, remote  # all now: an import takes longer than a loop may be held up
from enclave.managers.manager_config import SandboxManagerConfig
from enclave.threads import thread_pool

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from enclave.aio.notebooks import NotebookSandbox
    from enclave.managers.options import LifeOptions
    from enclave.sandboxes.options import NotebookKind

M = TypeVar('M', bound='SandboxManager')


def _delete(blocking: Any, sandbox_id: str) -> None:
    blocking.delete_sandbox(sandbox_id)


def _release(blocking: Any, sandbox_id: str) -> None:
    blocking.release_sandbox(sandbox_id)


_UNDOS: dict[str, Callable[[Any, str], None]] = {'create_sandbox': _delete, 'acquire_sandbox': _release}
"""How what a verb has made is rolled back."""


def _sandbox_or_none(found: Sandbox | None) -> Sandbox | None:
    return found


class SandboxManager(AsyncProxy):
    """Owner of many sandboxes. Use it with ``async with``, or await `start` and `stop`.

    See `enclave.managers.base.SandboxManager`, whose names, arguments, results and errors these are. Cancelling an await stops
    the work: the process in the sandbox is killed, a place in a pool's queue is left, a sandbox being made is taken away.
    One manager may be used from several event loops, entered in one and left in another.
    """

    _home: ClassVar[tuple[str, str]] = ('enclave.managers.base', 'SandboxManager')

    id: Forwarded[str] = Forwarded('Its own name, eight hexadecimal digits.')
    config: Forwarded[SandboxManagerConfig] = Forwarded('The checked configuration.')
    manager_type: Forwarded[SandboxManagerType | str] = Forwarded('Its kind.')
    _pool_initialized: Forwarded[bool] = Forwarded('Whether there is a pool.')

    def __init__(self, config: SandboxManagerConfig | Mapping[str, Any] | None = None, **options: Any) -> None:
        """Check the configuration; errors are those of the blocking class."""
        self._blocking = self._blocking_class()(config, **options)

    start = to_async(base.SandboxManager.start)
    stop = to_async(base.SandboxManager.stop)
    create_sandbox = to_async(base.SandboxManager.create_sandbox, undo=_delete)
    get_sandbox = to_async_as(_sandbox_or_none, base.SandboxManager.get_sandbox)
    get_sandbox_info = to_async(base.SandboxManager.get_sandbox_info)
    list_sandboxes = to_async(base.SandboxManager.list_sandboxes)
    stop_sandbox = to_async(base.SandboxManager.stop_sandbox)
    delete_sandbox = to_async(base.SandboxManager.delete_sandbox)
    cleanup_all_sandboxes = to_async(base.SandboxManager.cleanup_all_sandboxes)
    pause_sandbox = to_async(base.SandboxManager.pause_sandbox)
    resume_sandbox = to_async(base.SandboxManager.resume_sandbox)
    renew = to_async(base.SandboxManager.renew)
    if TYPE_CHECKING:  # of a method with several signatures, a checker of types would take the first for the only one

        @overload
        def open(
            self,
            sandbox_type: NotebookKind,
            config: base.Config = None,
            sandbox_id: str | None = None,
            **life: Unpack[LifeOptions],
        ) -> contextlib.AbstractAsyncContextManager[NotebookSandbox]: ...

        @overload
        def open(
            self,
            sandbox_type: SandboxType | str | None = None,
            config: base.Config = None,
            sandbox_id: str | None = None,
            **life: Unpack[LifeOptions],
        ) -> contextlib.AbstractAsyncContextManager[AgentBackedSandbox]: ...

        def open(
            self,
            sandbox_type: Any = None,
            config: base.Config = None,
            sandbox_id: str | None = None,
            **life: Unpack[LifeOptions],
        ) -> contextlib.AbstractAsyncContextManager[Any]:
            """See the blocking method."""

        @overload
        async def get_file(
            self, sandbox_id: str, source: str, target: None = None, *, max_bytes: int | None = MAX_TRANSFER_BYTES
        ) -> bytes: ...

        @overload
        async def get_file(
            self, sandbox_id: str, source: str, target: Target, *, max_bytes: int | None = MAX_TRANSFER_BYTES
        ) -> int: ...

        async def get_file(
            self, sandbox_id: str, source: str, target: Any = None, *, max_bytes: int | None = MAX_TRANSFER_BYTES
        ) -> Any:
            """See the blocking method."""

        @overload
        async def get_archive(
            self, sandbox_id: str, source: str, target: None = None, *, max_bytes: int | None = MAX_TRANSFER_BYTES
        ) -> bytes: ...

        @overload
        async def get_archive(
            self, sandbox_id: str, source: str, target: Target, *, max_bytes: int | None = MAX_TRANSFER_BYTES
        ) -> int: ...

        async def get_archive(
            self, sandbox_id: str, source: str, target: Any = None, *, max_bytes: int | None = MAX_TRANSFER_BYTES
        ) -> Any:
            """See the blocking method."""

    else:
        open = entered(Sandbox, base.SandboxManager.open)
        get_file = to_async(base.SandboxManager.get_file)
        get_archive = to_async(base.SandboxManager.get_archive)
    execute_tool = to_async(base.SandboxManager.execute_tool)
    perform = to_async(base.SandboxManager.perform)
    get_sandbox_tools = to_async(base.SandboxManager.get_sandbox_tools)
    tool_schemas = to_async(base.SandboxManager.tool_schemas)
    execute_tool_call = to_async(base.SandboxManager.execute_tool_call)
    execute_tool_calls = to_async(base.SandboxManager.execute_tool_calls)
    execute_command = to_async(base.SandboxManager.execute_command)
    put_file = to_async(base.SandboxManager.put_file)
    put_dir = to_async(base.SandboxManager.put_dir)
    get_dir = to_async(base.SandboxManager.get_dir)
    put_archive = to_async(base.SandboxManager.put_archive)
    initialize_pool = to_async(base.SandboxManager.initialize_pool)
    acquire_sandbox = to_async(base.SandboxManager.acquire_sandbox, undo=_release)
    release_sandbox = to_async(base.SandboxManager.release_sandbox)
    lease = entered(Sandbox, base.SandboxManager.lease)
    execute_tool_in_pool = to_async(base.SandboxManager.execute_tool_in_pool)
    run_code = to_async(base.SandboxManager.run_code)
    run_many = streamed(base.SandboxManager.run_many)
    map = streamed(base.SandboxManager.map)
    run_code_in_pool = to_async(base.SandboxManager.run_code_in_pool)
    get_stats = to_async(base.SandboxManager.get_stats)
    health_check = to_async(base.SandboxManager.health_check)

    async def submit(self, verb: str, /, *args: Any, **kwargs: Any) -> asyncio.Future[Any]:
        """Have a verb called on the manager's own threads, and return its future; see the blocking manager."""
        future = await run(lambda: self._blocking.submit(verb, *args, **kwargs), proxy=self)
        task = asyncio.ensure_future(self._result_of(future))

        def cancelled(task: asyncio.Future[Any]) -> None:
            if task.cancelled():  # perhaps before its first step
                thread_pool.submit(cancel)

        def cancel() -> None:
            future.cancel()
            future.add_done_callback(take_back)

        def take_back(future: Future[Any]) -> None:
            # It had succeeded, or did so all the same, and nobody learns of it.
            if verb in _UNDOS and not future.cancelled() and future.exception() is None:
                with contextlib.suppress(EnclaveError):
                    _UNDOS[verb](self._blocking, future.result())

        task.add_done_callback(cancelled)
        return task

    submit.__doc__ = base.SandboxManager.submit.__doc__

    async def _result_of(self, future: Future[Any]) -> Any:
        def cancel() -> None:
            future.cancel()

        def wait() -> Any:
            with on_cancel(cancel):
                return future.result()

        return self._present(await run(wait, proxy=self))

    async def __aenter__(self: M) -> M:
        try:
            await self.start()
        except asyncio.CancelledError:
            await self.stop()  # it may have started; nobody will leave this block
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()


@with_docstrings
class LocalSandboxManager(SandboxManager):
    """Many sandboxes with one owner, in this process. See `enclave.managers.local.LocalSandboxManager`."""

    _home: ClassVar[tuple[str, str]] = (local.__name__, 'LocalSandboxManager')


@with_docstrings
class HttpSandboxManager(SandboxManager):
    """Sandboxes of a server elsewhere. See `enclave.managers.http.HttpSandboxManager`."""

    _home: ClassVar[tuple[str, str]] = (http.__name__, 'HttpSandboxManager')

    get_limits = to_async(http.HttpSandboxManager.get_limits)


@with_docstrings
class RemoteSandbox(AgentBackedSandbox):
    """A sandbox that a server keeps. See `enclave.managers.remote.RemoteSandbox`.

    `status` and `active_calls` are what the server said last, because an attribute cannot be awaited; `get_info` asks it anew.
    """

    _home: ClassVar[tuple[str, str]] = (remote.__name__, 'RemoteSandbox')

    path: Forwarded[str] = Forwarded("Its address below the server's.")

    list_processes = to_async(remote.RemoteSandbox.list_processes)
    find_process = to_async_as(Process, remote.RemoteSandbox.find_process)

    @property  # type: ignore[misc]
    def status(self) -> SandboxStatus:
        """Where it was in its life when the server was asked last."""
        seen = self._blocking._seen
        return SandboxStatus.INITIALIZING if seen is None else SandboxStatus(seen.status)

    @property
    def active_calls(self) -> int:  # type: ignore[override]
        """How many calls were running when the server was asked last."""
        seen = self._blocking._seen
        return 0 if seen is None else int(seen.active_calls)
