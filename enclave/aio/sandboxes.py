"""Sandboxes for ``async with`` (floor 6): faces of the blocking ones, one line a method.

A sandbox of your own may be written with coroutine functions: subclass a face, define ``async def start``, ``stop``,
``execute_command`` and alike, and register it; see `enclave.aio.driving` for how both colours then use it.
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Mapping
from datetime import datetime
from typing import Any, ClassVar, TypeVar

from enclave.agent import bootstrap
from enclave.aio.lifting import Face, Shown, lifted, lifted_to, run, streamed
from enclave.config import SandboxConfig
from enclave.enums import SandboxStatus
from enclave.records import CommandResult
from enclave.sandboxes import agent_backed, base, connection, process
from enclave.sandboxes.bubblewrap import sandbox as bubblewrap_sandbox
from enclave.sandboxes.docker import sandbox as docker_sandbox  # now: an import takes longer than a loop may be held up

K = TypeVar('K', bound=type[Face])
S = TypeVar('S', bound='Sandbox')

bootstrap()  # now, and kept: where no bytecode can be cached, compiling the agent holds up every thread for 30 ms


def _close(_: object, opened: Any) -> None:
    opened.close()


def kill(_: object, started: process.Process) -> None:
    """End a process that nobody waits for any more, and wait for that."""
    with started:
        pass


def with_own_words(face: K) -> K:
    """Have the methods that a face inherits say what those of its blocking class say, where that says it anew."""
    blocking = face._blocking_class()
    for name in dir(blocking):
        theirs, ours = getattr(blocking, name), getattr(face, name, None)
        if name.startswith('_') or not inspect.isfunction(theirs) or not inspect.isfunction(ours):
            continue
        if theirs.__doc__ and theirs.__doc__ != ours.__doc__:
            made = types.FunctionType(ours.__code__, ours.__globals__, name, ours.__defaults__, ours.__closure__)
            made.__kwdefaults__ = ours.__kwdefaults__
            setattr(face, name, functools.update_wrapper(made, theirs))
    return face


class Process(Face):
    """A running program; leaving its ``async with`` block kills it if it still runs. See `enclave.sandboxes.process`."""

    _home: ClassVar[tuple[str, str]] = ('enclave.sandboxes.process', 'Process')

    command: Shown[str | tuple[str, ...]] = Shown('The command as it was given.')
    pid: Shown[int | None] = Shown("The program's process id in the sandbox, once known.")
    result: Shown[CommandResult | None] = Shown('How it ended, once it has.')

    chunks = streamed(process.Process.chunks)
    wait_started = lifted(process.Process.wait_started)
    wait = lifted(process.Process.wait)
    communicate = lifted(process.Process.communicate)
    poll = lifted(process.Process.poll)
    write = lifted(process.Process.write)
    close_stdin = lifted(process.Process.close_stdin)
    send_signal = lifted(process.Process.send_signal)
    resize = lifted(process.Process.resize)
    kill = lifted(process.Process.kill)

    async def __aenter__(self) -> Process:
        return self

    async def __aexit__(self, *error: object) -> None:
        await run(lambda: self._blocking.__exit__(*error))


class Connection(Face):
    """One connection to a port inside a sandbox. See `enclave.sandboxes.connection.Connection`."""

    _home: ClassVar[tuple[str, str]] = ('enclave.sandboxes.connection', 'Connection')

    wait_connected = lifted(connection.Connection.wait_connected)
    recv = lifted(connection.Connection.recv)
    sendall = lifted(connection.Connection.sendall)
    shutdown_write = lifted(connection.Connection.shutdown_write)
    close = lifted(connection.Connection.close)

    async def __aenter__(self) -> Connection:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class PortForward(Face):
    """A listening port on this machine whose connections go into a sandbox, until `close`."""

    _home: ClassVar[tuple[str, str]] = ('enclave.sandboxes.connection', 'PortForward')

    host: Shown[str] = Shown('Where it listens.')
    port: Shown[int] = Shown('Where it listens.')
    is_closed: Shown[bool] = Shown('Whether it was closed.')

    close = lifted(connection.PortForward.close)

    async def __aenter__(self) -> PortForward:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class Sandbox(Face):
    """One sandbox, from `start` to `stop`. Use it with ``async with``, or await the two yourself.

    Making the object connects nothing and starts nothing. See `enclave.sandboxes.base.Sandbox`, whose names, arguments,
    results and errors these are. Cancelling an await stops the work in the sandbox: the process it waits for is killed, the
    sandbox stays usable. It may be used from several event loops, entered in one and left in another.
    """

    _home: ClassVar[tuple[str, str]] = ('enclave.sandboxes.base', 'Sandbox')

    sandbox_type: Any = Shown('Its kind.')
    config_class: Any = Shown('The class of its configuration.')
    offers: Any = Shown("What tools may need of it, of ``'commands'``, ``'files'`` and ``'notebook'``.")
    id: Shown[str] = Shown('Its name, given or made.')
    config: Shown[Any] = Shown('The checked configuration.')
    created_at: Shown[datetime] = Shown('When it was made, in UTC.')
    started_at: Shown[datetime | None] = Shown('When it was started, in UTC; None before.')
    metadata: Shown[dict[str, Any]] = Shown('What the backend knows of itself.')
    error: Shown[str | None] = Shown('Why the status is error.')
    active_calls: Shown[int] = Shown('How many calls are going on.')

    def __init_subclass__(cls, **words: Any) -> None:
        super().__init_subclass__(**words)
        if '_home' not in cls.__dict__:
            from enclave.aio.driving import adopt

            adopt(cls)

    def __init__(self, config: SandboxConfig | Mapping[str, Any] | None = None, sandbox_id: str | None = None) -> None:
        """Check the configuration and load the tools it names; errors are those of the blocking class."""
        if '_blocking' not in self.__dict__:
            from enclave.aio.driving import make_blocking

            self._blocking = make_blocking(self, config, sandbox_id)

    @property
    def status(self) -> SandboxStatus:
        """Where it is in its life, looked at afresh: a sandbox that died shows ``error``."""
        status: SandboxStatus = self._blocking.status
        return status

    @status.setter
    def status(self, status: SandboxStatus) -> None:
        self._blocking.set_status(SandboxStatus(status))

    set_status = lifted(base.Sandbox.set_status)
    start = lifted(base.Sandbox.start)
    stop = lifted(base.Sandbox.stop)
    cleanup = lifted(base.Sandbox.cleanup)
    is_alive = lifted(base.Sandbox.is_alive)
    get_info = lifted(base.Sandbox.get_info)
    execute_tool = lifted(base.Sandbox.execute_tool)
    get_tool = lifted(base.Sandbox.get_tool)
    add_tool = lifted(base.Sandbox.add_tool)
    list_tools = lifted(base.Sandbox.list_tools)
    get_available_tools = lifted(base.Sandbox.get_available_tools)
    execute_command = lifted(base.Sandbox.execute_command)  # type: ignore[arg-type]  # keywords may be called self
    run_script = lifted(base.Sandbox.run_script)

    async def __aenter__(self: S) -> S:
        try:
            await self.start()
        except BaseException:
            # A `start` of a user's own may have failed after ours had succeeded.
            await run(self._blocking._stop_failed, face=self)
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()


@with_own_words
class AgentBackedSandbox(Sandbox):
    """A sandbox with all the verbs. See `enclave.sandboxes.agent_backed.AgentBackedSandbox`."""

    _home: ClassVar[tuple[str, str]] = ('enclave.sandboxes.agent_backed', 'AgentBackedSandbox')

    execute_command = lifted(agent_backed.AgentBackedSandbox.execute_command)  # type: ignore[arg-type]  # keywords may be called self
    run_script = lifted(agent_backed.AgentBackedSandbox.run_script)
    start_process = lifted_to(Process, agent_backed.AgentBackedSandbox.start_process, undo=kill)
    read_file = lifted(agent_backed.AgentBackedSandbox.read_file)
    read_chunks = streamed(agent_backed.AgentBackedSandbox.read_chunks)
    write_file = lifted(agent_backed.AgentBackedSandbox.write_file)
    list_dir = lifted(agent_backed.AgentBackedSandbox.list_dir)
    stat_path = lifted(agent_backed.AgentBackedSandbox.stat_path)
    path_exists = lifted(agent_backed.AgentBackedSandbox.path_exists)
    remove_path = lifted(agent_backed.AgentBackedSandbox.remove_path)
    make_dir = lifted(agent_backed.AgentBackedSandbox.make_dir)
    move_path = lifted(agent_backed.AgentBackedSandbox.move_path)
    put_file = lifted(agent_backed.AgentBackedSandbox.put_file)
    get_file = lifted(agent_backed.AgentBackedSandbox.get_file)
    put_archive = lifted(agent_backed.AgentBackedSandbox.put_archive)
    get_archive = lifted(agent_backed.AgentBackedSandbox.get_archive)
    read_archive = streamed(agent_backed.AgentBackedSandbox.read_archive)
    put_dir = lifted(agent_backed.AgentBackedSandbox.put_dir)
    get_dir = lifted(agent_backed.AgentBackedSandbox.get_dir)
    connect_port = lifted_to(Connection, agent_backed.AgentBackedSandbox.connect_port, undo=_close)
    forward_port = lifted_to(PortForward, agent_backed.AgentBackedSandbox.forward_port, undo=_close)


@with_own_words
class DockerSandbox(AgentBackedSandbox):
    """A sandbox in a Docker container. See `enclave.sandboxes.docker.sandbox.DockerSandbox`."""

    _home: ClassVar[tuple[str, str]] = ('enclave.sandboxes.docker.sandbox', 'DockerSandbox')

    container_name: Shown[str] = Shown("The container's name.")

    get_published_ports = lifted(docker_sandbox.DockerSandbox.get_published_ports)


@with_own_words
class BubblewrapSandbox(AgentBackedSandbox):
    """A sandbox without an engine. See `enclave.sandboxes.bubblewrap.sandbox.BubblewrapSandbox`."""

    _home: ClassVar[tuple[str, str]] = (bubblewrap_sandbox.__name__, 'BubblewrapSandbox')
