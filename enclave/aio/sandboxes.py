"""Sandboxes for ``async with`` (layer 6): proxies of the blocking ones, one line a method.

A sandbox of your own may be written with coroutine functions: subclass a proxy, define ``async def start``, ``stop``,
``execute_command`` and alike, and register it; see `enclave.aio.user_coroutines` for how sync and async code then use it.
"""

from __future__ import annotations

import functools
import inspect
import types
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, overload

from enclave.agent import bootstrap
from enclave.aio.proxies import AsyncProxy, Forwarded, as_workspace, run, streamed, to_async, to_async_as
from enclave.aio.user_coroutines import adopt, make_blocking
from enclave.config import GivenConfig
from enclave.enums import SandboxStatus
from enclave.host_files import MAX_TRANSFER_BYTES, Target
from enclave.records import CommandResult
from enclave.sandboxes import agent_backed, base, connection, process, watching
from enclave.sandboxes.bubblewrap import sandbox as bubblewrap_sandbox
from enclave.sandboxes.docker import sandbox as docker_sandbox  # now: an import takes longer than a loop may be held up

K = TypeVar('K', bound=type[AsyncProxy])
S = TypeVar('S', bound='Sandbox')

bootstrap()  # now, and kept: where no bytecode can be cached, compiling the agent holds up every thread for 30 ms


def _close(_: object, opened: Any) -> None:
    opened.close()


def kill(_: object, started: process.Process) -> None:
    """End a process that nobody waits for any more, and wait for that."""
    with started:
        pass


def with_docstrings(proxy: K) -> K:
    """Give a proxy the methods of its blocking class that it does not name, and the docstrings where they differ.

    Naming a method in the class is for type checkers only.
    """
    blocking = proxy._blocking_class()
    for name in dir(blocking):
        theirs, ours = getattr(blocking, name), getattr(proxy, name, None)
        if name.startswith('_') or not inspect.isfunction(theirs):
            continue
        if ours is None:
            is_stream = str(theirs.__annotations__.get('return')).startswith(('Iterator', 'Generator'))
            setattr(proxy, name, streamed(theirs) if is_stream else to_async(theirs))
        elif inspect.isfunction(ours) and theirs.__doc__ and theirs.__doc__ != ours.__doc__:
            made = types.FunctionType(ours.__code__, ours.__globals__, name, ours.__defaults__, ours.__closure__)
            made.__kwdefaults__ = ours.__kwdefaults__
            setattr(proxy, name, functools.update_wrapper(made, theirs))
    return proxy


class Process(AsyncProxy):
    """A running program; leaving its ``async with`` block kills it if it still runs. See `enclave.sandboxes.process`."""

    _home: ClassVar[tuple[str, str]] = ('enclave.sandboxes.process', 'Process')

    command: Forwarded[str | tuple[str, ...]] = Forwarded('The command as it was given.')
    id: Forwarded[str] = Forwarded('What `find_process` of its sandbox takes.')
    is_running: Forwarded[bool] = Forwarded('Whether it has not ended yet, as far as is known.')
    pid: Forwarded[int | None] = Forwarded("The program's process id in the sandbox, once known.")
    result: Forwarded[CommandResult | None] = Forwarded('How it ended, once it has.')

    chunks = streamed(process.Process.chunks)
    wait_started = to_async(process.Process.wait_started)
    wait = to_async(process.Process.wait)
    communicate = to_async(process.Process.communicate)
    poll = to_async(process.Process.poll)
    write = to_async(process.Process.write)
    close_stdin = to_async(process.Process.close_stdin)
    send_signal = to_async(process.Process.send_signal)
    resize = to_async(process.Process.resize)
    kill = to_async(process.Process.kill)

    async def __aenter__(self) -> Process:
        return self

    async def __aexit__(self, *error: object) -> None:
        await run(lambda: self._blocking.__exit__(*error))


class Connection(AsyncProxy):
    """One connection to a port inside a sandbox. See `enclave.sandboxes.connection.Connection`."""

    _home: ClassVar[tuple[str, str]] = ('enclave.sandboxes.connection', 'Connection')

    wait_connected = to_async(connection.Connection.wait_connected)
    recv = to_async(connection.Connection.recv)
    sendall = to_async(connection.Connection.sendall)
    shutdown_write = to_async(connection.Connection.shutdown_write)
    close = to_async(connection.Connection.close)

    async def __aenter__(self) -> Connection:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class Watch(AsyncProxy):
    """A directory that is watched, until `close`. See `enclave.sandboxes.watching.Watch`."""

    _home: ClassVar[tuple[str, str]] = ('enclave.sandboxes.watching', 'Watch')

    path: Forwarded[str] = Forwarded('The directory, from the root.')
    interval: Forwarded[float] = Forwarded('Seconds between two looks while nothing changes.')
    is_closed: Forwarded[bool] = Forwarded('Whether nothing more will be seen.')

    take = to_async(watching.Watch.take)
    events = streamed(watching.Watch.events)
    close = to_async(watching.Watch.close)

    async def __aenter__(self) -> Watch:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class PortForward(AsyncProxy):
    """A listening port on this machine whose connections go into a sandbox, until `close`."""

    _home: ClassVar[tuple[str, str]] = ('enclave.sandboxes.connection', 'PortForward')

    host: Forwarded[str] = Forwarded('Where it listens.')
    port: Forwarded[int] = Forwarded('Where it listens.')
    url: Forwarded[str] = Forwarded('Where it listens, as an address for HTTP.')
    is_closed: Forwarded[bool] = Forwarded('Whether it was closed.')

    close = to_async(connection.PortForward.close)

    async def __aenter__(self) -> PortForward:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class Sandbox(AsyncProxy):
    """One sandbox, from `start` to `stop`. Use it with ``async with``, or await the two yourself.

    Making the object connects nothing and starts nothing. See `enclave.sandboxes.base.Sandbox`, whose names, arguments,
    results and errors these are. Cancelling an await stops the work in the sandbox: the process it waits for is killed, the
    sandbox stays usable. It may be used from several event loops, entered in one and left in another.
    """

    _home: ClassVar[tuple[str, str]] = ('enclave.sandboxes.base', 'Sandbox')

    sandbox_type: Any = Forwarded('Its kind.')
    config_class: Any = Forwarded('The class of its configuration.')
    offers: Any = Forwarded("What tools may need of it, of ``'commands'``, ``'files'`` and ``'notebook'``.")
    id: Forwarded[str] = Forwarded('Its name, given or made.')
    config: Forwarded[Any] = Forwarded('The checked configuration.')
    created_at: Forwarded[datetime] = Forwarded('When it was made, in UTC.')
    started_at: Forwarded[datetime | None] = Forwarded('When it was started, in UTC; None before.')
    metadata: Forwarded[dict[str, Any]] = Forwarded('What the backend knows of itself.')
    labels: Forwarded[dict[str, str]] = Forwarded('What the one that made it calls it.')
    error: Forwarded[str | None] = Forwarded('Why the status is error.')
    active_calls: Forwarded[int] = Forwarded('How many calls are running.')
    can_be_paused: Forwarded[bool] = Forwarded('Whether this kind of sandbox can be paused at all.')

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if '_home' not in cls.__dict__:
            adopt(cls)

    def __init__(self, config: GivenConfig = None, sandbox_id: str | None = None) -> None:
        """Check the configuration and load the tools it names; errors are those of the blocking class."""
        if '_blocking' not in self.__dict__:
            self._blocking = make_blocking(self, config, sandbox_id)

    @property
    def status(self) -> SandboxStatus:
        """Where it is in its life, looked at afresh: a sandbox that died shows ``error``."""
        status: SandboxStatus = self._blocking.status
        return status

    @status.setter
    def status(self, status: SandboxStatus) -> None:
        self._blocking.set_status(SandboxStatus(status))

    set_status = to_async(base.Sandbox.set_status)
    start = to_async(base.Sandbox.start)
    stop = to_async(base.Sandbox.stop)
    cleanup = to_async(base.Sandbox.cleanup)
    pause = to_async(base.Sandbox.pause)
    resume = to_async(base.Sandbox.resume)
    is_alive = to_async(base.Sandbox.is_alive)
    get_info = to_async(base.Sandbox.get_info)
    execute_tool = to_async(base.Sandbox.execute_tool)
    get_tool = to_async(base.Sandbox.get_tool)
    add_tool = to_async(base.Sandbox.add_tool)
    list_tools = to_async(base.Sandbox.list_tools)
    get_available_tools = to_async(base.Sandbox.get_available_tools)
    perform = to_async(base.Sandbox.perform)
    tool_schemas = to_async(base.Sandbox.tool_schemas)
    execute_tool_call = to_async(base.Sandbox.execute_tool_call)
    execute_tool_calls = to_async(base.Sandbox.execute_tool_calls)
    execute_command = to_async(base.Sandbox.execute_command)
    run_script = to_async(base.Sandbox.run_script)
    run_code = to_async(base.Sandbox.run_code)
    run_many = streamed(base.Sandbox.run_many)

    async def __aenter__(self: S) -> S:
        try:
            await self.start()
        except BaseException:
            # A `start` of a user's own may have failed after ours had succeeded.
            await run(self._blocking._stop_failed, proxy=self)
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()


def present_workspace(workspace: Any) -> AsyncProxy:
    """Return the proxy of a workspace that a tool's coroutine function is to be handed in a blocking program."""
    return as_workspace(Sandbox._proxy_registry, workspace)


@with_docstrings
class AgentBackedSandbox(Sandbox):
    """A sandbox with all the verbs. See `enclave.sandboxes.agent_backed.AgentBackedSandbox`."""

    _home: ClassVar[tuple[str, str]] = ('enclave.sandboxes.agent_backed', 'AgentBackedSandbox')

    backend: Any = Forwarded('What makes it run, an `enclave.sandboxes.backend.Backend`.')
    backend_class: Any = Forwarded('The class of that.')

    execute_command = to_async(agent_backed.AgentBackedSandbox.execute_command)
    run_script = to_async(agent_backed.AgentBackedSandbox.run_script)
    start_process = to_async_as(Process, agent_backed.AgentBackedSandbox.start_process, undo=kill)
    list_processes = to_async(agent_backed.AgentBackedSandbox.list_processes)
    find_process = to_async_as(Process, agent_backed.AgentBackedSandbox.find_process)
    watch_dir = to_async_as(Watch, agent_backed.AgentBackedSandbox.watch_dir, undo=_close)
    read_file = to_async(agent_backed.AgentBackedSandbox.read_file)
    read_chunks = streamed(agent_backed.AgentBackedSandbox.read_chunks)
    write_file = to_async(agent_backed.AgentBackedSandbox.write_file)
    list_dir = to_async(agent_backed.AgentBackedSandbox.list_dir)
    stat_path = to_async(agent_backed.AgentBackedSandbox.stat_path)
    path_exists = to_async(agent_backed.AgentBackedSandbox.path_exists)
    remove_path = to_async(agent_backed.AgentBackedSandbox.remove_path)
    make_dir = to_async(agent_backed.AgentBackedSandbox.make_dir)
    move_path = to_async(agent_backed.AgentBackedSandbox.move_path)
    if TYPE_CHECKING:  # of a method with several signatures, a checker of types would take the first for the only one

        @overload
        async def get_file(
            self, source: str, target: None = None, *, max_bytes: int | None = MAX_TRANSFER_BYTES
        ) -> bytes: ...

        @overload
        async def get_file(self, source: str, target: Target, *, max_bytes: int | None = MAX_TRANSFER_BYTES) -> int: ...

        async def get_file(self, source: str, target: Any = None, *, max_bytes: int | None = MAX_TRANSFER_BYTES) -> Any:
            """See the blocking method."""

        @overload
        async def get_archive(
            self, source: str, target: None = None, *, max_bytes: int | None = MAX_TRANSFER_BYTES
        ) -> bytes: ...

        @overload
        async def get_archive(
            self, source: str, target: Target, *, max_bytes: int | None = MAX_TRANSFER_BYTES
        ) -> int: ...

        async def get_archive(
            self, source: str, target: Any = None, *, max_bytes: int | None = MAX_TRANSFER_BYTES
        ) -> Any:
            """See the blocking method."""

    else:
        get_file = to_async(agent_backed.AgentBackedSandbox.get_file)
        get_archive = to_async(agent_backed.AgentBackedSandbox.get_archive)
    put_file = to_async(agent_backed.AgentBackedSandbox.put_file)
    put_archive = to_async(agent_backed.AgentBackedSandbox.put_archive)
    read_archive = streamed(agent_backed.AgentBackedSandbox.read_archive)
    put_dir = to_async(agent_backed.AgentBackedSandbox.put_dir)
    get_dir = to_async(agent_backed.AgentBackedSandbox.get_dir)
    wait_for_port = to_async(agent_backed.AgentBackedSandbox.wait_for_port)
    connect_port = to_async_as(Connection, agent_backed.AgentBackedSandbox.connect_port, undo=_close)
    forward_port = to_async_as(PortForward, agent_backed.AgentBackedSandbox.forward_port, undo=_close)


@with_docstrings
class DockerSandbox(AgentBackedSandbox):
    """A sandbox in a Docker container. See `enclave.sandboxes.docker.sandbox.DockerSandbox`."""

    _home: ClassVar[tuple[str, str]] = ('enclave.sandboxes.docker.sandbox', 'DockerSandbox')

    container_name: Forwarded[str] = Forwarded("The container's name.")

    get_published_ports = to_async(docker_sandbox.DockerSandbox.get_published_ports)


@with_docstrings
class BubblewrapSandbox(AgentBackedSandbox):
    """A sandbox without an engine. See `enclave.sandboxes.bubblewrap.sandbox.BubblewrapSandbox`."""

    _home: ClassVar[tuple[str, str]] = (bubblewrap_sandbox.__name__, 'BubblewrapSandbox')
