"""Sandboxes of this package over those of `enclave`, which do the work.

A `CoreBackedSandbox` has the documented methods, and beside them the verbs of `enclave.aio` whose names are not taken
(``read_file``, ``start_process``, ``forward_port``, ...). No documented method reads this machine's files but `put_dir`.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import errno
import logging
import shlex
import uuid
import weakref
from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from enclave import aio
from enclave.aio.proxies import run
from enclave.config import MIB, parse_size
from enclave.enums import SandboxStatus as CoreStatus
from enclave.errors import CallCancelledError, EnclaveError, InvalidArgumentError, SandboxPathError
from enclave.records import CommandResult as CoreCommandResult
from enclave.records import ToolResult as CoreToolResult
from enclave.sandboxes.sandbox_factory import SandboxFactory as CoreFactory
from enclave.tools.tool_factory import ToolFactory as CoreToolFactory
from ms_enclave.sandbox.boxes.base import Sandbox, SandboxFactory, file_parts, make_config
from ms_enclave.sandbox.boxes.core_options import plain_options
from ms_enclave.sandbox.model.base import ExecutionStatus, SandboxStatus, SandboxType
from ms_enclave.sandbox.model.modeling import plain
from ms_enclave.sandbox.model.responses import CommandResult, ToolResult
from ms_enclave.sandbox.tools.base import Tool
from ms_enclave.sandbox.tools.sandbox_tools.results import NO_TIME, seconds
from ms_enclave.sandbox.utils.archive import tar_file
from ms_enclave.utils.logger import logger

R = TypeVar('R')

MAX_LOGGED_LINES = 1000
"""How many lines of each stream of a command are logged."""
MAX_OUTPUT_BYTES = 64 * MIB
"""Cap on each of stdout and stderr of a command. Past it head and tail are kept, around a visible marker."""
_MIN_OUTPUT_BYTES = 1 * MIB
_NOT_RUNNING = 'Container is not running'
_ACTIVE = (SandboxStatus.RUNNING, SandboxStatus.IDLE, SandboxStatus.BUSY)
_STOPPED = (SandboxStatus.STOPPING, SandboxStatus.STOPPED)
_NO_EXIT_CODE, _NOT_FOUND = -1, 127

_running: weakref.WeakSet[Any] = weakref.WeakSet()
"""Sandboxes of `enclave` that were started and not stopped."""


@atexit.register
def _stop_all() -> None:
    """Leave nothing behind that only its own stop takes away, like a container with a command of its own."""
    for core in list(_running):
        with contextlib.suppress(Exception):
            core.cleanup() if core.config.remove_on_exit else core.stop()


class CoreBackedSandbox(Sandbox):
    """A sandbox over one of `enclave`, made when it is started. See `Sandbox` and the module."""

    _core_type: ClassVar[str]
    _what: ClassVar[str] = 'sandbox'

    def __init__(self, config: Any = None, sandbox_id: str | None = None) -> None:
        self._core: Any = None
        self._proxy: Any = None
        self._own_status = SandboxStatus.INITIALIZING
        super().__init__(make_config(self._core_type, config), sandbox_id)

    @classmethod
    def over(cls, core: Any, config: Any) -> Any:
        """Return a sandbox over one of `enclave` that runs already."""
        made = cls(config, core.id)
        made._take(core)
        made._own_status = SandboxStatus.RUNNING
        made.created_at = made.updated_at = core.created_at.astimezone().replace(tzinfo=None)
        return made

    def _take(self, core: Any) -> None:
        self._core = core
        self._proxy = aio.Sandbox._proxy_registry.present(core)
        self.metadata.update(core.metadata)

    @property
    def sandbox_type(self) -> SandboxType:
        """Its kind."""
        return SandboxType(self._core_type)

    @property
    def status(self) -> SandboxStatus:
        """Where it is in its life; one that died by itself shows ERROR."""
        if self._own_status in _ACTIVE and self._core is not None and self._core.status is CoreStatus.ERROR:
            self.metadata.setdefault('error', self._core.error)
            return SandboxStatus.ERROR
        return self._own_status

    @status.setter
    def status(self, status: SandboxStatus) -> None:
        self._own_status = status

    def __getattr__(self, name: str) -> Any:
        if name.startswith('_'):
            raise AttributeError(f'{type(self).__name__!r} object has no attribute {name!r}')
        proxy = self.__dict__.get('_proxy')
        if proxy is None or name in _HIDDEN:
            raise AttributeError(
                f'{type(self).__name__!r} object has no attribute {name!r}' + ('' if proxy else ' before it is started')
            )
        return getattr(proxy, name)

    # Life -------------------------------------------------------------------------------------------------------------

    @abstractmethod
    def _core_options(self) -> dict[str, Any]:
        """Return the configuration as `enclave` has it."""

    def _make_core(self) -> Any:
        options = {**self._core_options(), **self.config.further_options}
        return CoreFactory.get_sandbox_class(self._core_type)(options, self.id)

    async def start(self) -> None:
        """Start it, and load its tools.

        Raises:
            RuntimeError: It did not start; the text has the engine's own.
        """
        if self._own_status in _ACTIVE:
            return
        try:
            if self._own_status in _STOPPED:
                raise RuntimeError(f'sandbox {self.id} was stopped; make another')
            self.update_status(SandboxStatus.INITIALIZING)
            core = await run(self._prepare)
            await aio.Sandbox._proxy_registry.present(core).start()
        except Exception as error:
            self.metadata['error'] = str(error)
            self.update_status(SandboxStatus.ERROR)
            logger.error('Sandbox %s did not start: %s', self.id, error)
            raise RuntimeError(f'Failed to start {self._what}: {error}') from without_noise(error)
        _running.add(core)
        self._take(core)
        self.update_status(SandboxStatus.RUNNING)
        try:
            await self.initialize_tools()
        except BaseException:
            await self.cleanup()
            raise

    def _prepare(self) -> Any:
        """Make the sandbox of `enclave`. Runs on a thread."""
        return self._make_core()

    async def stop(self) -> None:
        """Stop it; a second time does nothing.

        Raises:
            RuntimeError: It could not be stopped.
        """
        await self._end('stop')

    async def cleanup(self) -> None:
        """Take everything of it away, also what ``remove_on_exit=False`` had kept."""
        await self._end('cleanup')

    async def _end(self, how: str) -> None:
        core = self._core
        if core is None:
            if self._own_status is not SandboxStatus.ERROR:
                self.update_status(SandboxStatus.STOPPED)
            return
        if self._own_status in _ACTIVE:
            self.update_status(SandboxStatus.STOPPING)
        try:
            await getattr(self._proxy, how)()
        except EnclaveError as error:
            self.update_status(SandboxStatus.ERROR)
            raise RuntimeError(f'Failed to stop sandbox {self.id}: {error}') from error
        _running.discard(core)
        if self._own_status is not SandboxStatus.STOPPED:
            self.update_status(SandboxStatus.STOPPED)

    async def get_execution_context(self) -> Any:
        """Return the sandbox of `enclave`."""
        return self._core

    async def initialize_tools(self) -> None:
        """Load the tools that the configuration names; those that are there already stay."""
        names = set(self._tools)
        given, missing = self.config.tools_config, {}
        for name, options in given.items():
            if name not in names:
                missing[name] = options
        if missing:
            self.config.__dict__['tools_config'] = missing
            try:
                await super().initialize_tools()
            finally:
                self.config.__dict__['tools_config'] = given

    # Commands ---------------------------------------------------------------------------------------------------------

    def _running(self) -> Any:
        """Return the proxy of the sandbox of `enclave`, if it runs."""
        if self._proxy is None or self._own_status in _STOPPED or self._core.status is CoreStatus.ERROR:
            raise RuntimeError(_NOT_RUNNING)
        return self._proxy

    @property
    def _max_output_bytes(self) -> int:
        """How much of a command's output is kept: what the sandbox's memory, which holds the tail, has room for."""
        asked = self.config.further_options.get('max_output_bytes')
        if asked is not None:
            return int(asked)
        limit = getattr(self.config, 'memory_limit', None)
        try:
            memory = parse_size(limit) if limit else MAX_OUTPUT_BYTES * 8
        except EnclaveError:
            memory = MAX_OUTPUT_BYTES * 8
        return max(_MIN_OUTPUT_BYTES, min(MAX_OUTPUT_BYTES, memory // 8))

    async def execute_command(
        self, command: str | list[str], timeout: float | None = None, stream: bool = True
    ) -> CommandResult:
        """Run a command to its end.

        Args:
            command: A list is a program and its arguments. A string goes to a shell if there is a time limit; without one it
                is split as a shell would and no shell runs.
            timeout: Seconds; None and what is not positive are no limit.
            stream: Also log the lines of the output.

        Raises:
            RuntimeError: The sandbox does not run.
        """
        proxy = self._running()
        given = plain(command)
        limit = seconds(timeout)
        try:
            argv = given
            if isinstance(given, str):
                # An empty line does nothing, and a shell has no objection to it.
                argv = shlex.split(given) if limit is None else given if given.strip() else ':'
            result: CoreCommandResult = await _as_runtime_error(
                proxy.execute_command(argv, limit or 0, max_output_bytes=self._max_output_bytes)
            )
        except ValueError as error:
            if not isinstance(given, str) and not _is_texts(given):
                raise
            return _unread(given, error)
        documented = _command_result(given, result, timeout)
        if stream and logger.isEnabledFor(logging.INFO):
            for text in (documented.stdout or '', documented.stderr or ''):
                self._log_lines(text)
        return documented

    def _log_lines(self, text: str) -> None:
        """Log the lines of an output; of a long one the beginning, since this holds up the event loop."""
        lines = text.split('\n', MAX_LOGGED_LINES)
        rest = lines.pop() if len(lines) > MAX_LOGGED_LINES else ''
        for line in lines:
            if line:
                logger.info('[%s] %s', self.id, line)
        if rest:
            logger.info('[%s] ... and %d more characters', self.id, len(rest))

    async def _run_python(self, code: str, timeout: float | None) -> CommandResult:
        """Run code, from a file below ``/tmp``, by the image's ``python``, or ``python3`` where it has no other."""
        proxy = self._running()
        path = f'/tmp/enclave-{uuid.uuid4().hex}.py'
        await _as_runtime_error(proxy.write_file(path, code.encode('utf-8', 'surrogatepass')))
        try:
            for program in ('python', 'python3'):
                result = await self.execute_command([program, path], timeout, stream=False)
                if result.exit_code != _NOT_FOUND or await self._has_program(program):
                    break
        finally:
            with contextlib.suppress(EnclaveError):  # the sandbox is gone, and the file with it
                await proxy.remove_path(path, missing_ok=True)
        return result

    async def _has_program(self, program: str) -> bool:
        result = await self._running().execute_command([program, '--version'], 10)
        return bool(result.exit_code != _NOT_FOUND)

    async def _run_core_tool(self, name: str, **parameters: Any) -> ToolResult:
        """Run one of `enclave`'s tools in the sandbox."""
        self._running()
        try:
            tool = CoreToolFactory.create_tool(name)
            result: CoreToolResult = await self._proxy._tool_to_async(tool.execute, parameters)
        except (RuntimeError, CallCancelledError):
            raise
        except EnclaveError as error:
            return ToolResult(tool_name=name, status=ExecutionStatus.ERROR, output='', error=error.message)
        return tool_result(result)

    # Files ------------------------------------------------------------------------------------------------------------

    async def put_file(self, file_path: str, content: str, encoding: str = 'utf-8') -> bool:
        """Write text to a file of the sandbox, with its parents; mode 0644.

        Raises:
            ValueError: ``file_path`` is not absolute or names no file, or the content is no text.
            RuntimeError: The sandbox does not run, or the file cannot be written.
        """
        folder, name, data = file_parts(file_path, content, encoding)
        proxy = self._running()
        try:
            await _as_runtime_error(proxy.write_file(file_path, data, mode=0o644))
        except RuntimeError as error:
            if not _may_not_write(error):
                raise
            await self._unpack_beside(folder, tar_file(name, data), error)
        return True

    async def put_archive(self, target_dir: str, data: bytes) -> bool:
        """Unpack a tar archive, compressed or not, into a directory of the sandbox, which is made if missing.

        Raises:
            ValueError: There is no target, or ``data`` is no bytes.
            RuntimeError: The sandbox does not run, or the archive is broken.
        """
        if not isinstance(target_dir, str) or not target_dir.strip():
            raise ValueError('target_dir must name a directory of the sandbox')
        if not isinstance(data, (bytes, bytearray, memoryview)):  # a text would be taken for a path of this machine
            raise ValueError(f'data must be the bytes of an archive, not {type(data).__name__}')
        proxy = self._running()
        try:
            await _as_runtime_error(proxy.put_archive(bytes(data), target_dir))
        except RuntimeError as error:
            if not _may_not_write(error):
                raise
            await self._unpack_beside(target_dir, bytes(data), error)
        return True

    async def put_dir(self, source_dir: str | Path, target_dir: str) -> bool:
        """Copy what is in a directory of this machine, symlinks left out, into a directory of the sandbox.

        Raises:
            FileNotFoundError: ``source_dir`` is no directory.
            RuntimeError: The sandbox does not run.
        """
        self._running()
        return await super().put_dir(source_dir, target_dir)

    async def _unpack_beside(self, target_dir: str, data: bytes, error: RuntimeError) -> None:
        """Unpack where the sandbox's own user may not write, as its backend can; raises ``error`` where it cannot."""
        raise error

    async def _read_bytes(self, path: str) -> bytes | None:
        """Return what a file holds, or None where it cannot be read."""
        try:
            data: bytes = await self._running().read_file(path)
        except (SandboxPathError, InvalidArgumentError, OSError):
            return None
        return data


class FurtherSandbox(CoreBackedSandbox):
    """A sandbox of a kind that a program registered with `enclave`; to tools it is one of Docker's."""

    _core_type: ClassVar[str] = ''

    @property
    def sandbox_type(self) -> Any:
        """Its kind."""
        return self._core_type

    def _core_options(self) -> dict[str, Any]:
        return plain_options(self.config)

    def _find_misfit(self, tool: Tool) -> str:
        required = tool.required_sandbox_types
        if required and SandboxType.DOCKER in required and tool.enabled and tool.name not in self._tools:
            return ''
        return super()._find_misfit(tool)


def _make_further(sandbox_type: Any) -> Any:
    """Return the class of a kind that is registered with `enclave`, or None."""
    name = str(getattr(sandbox_type, 'value', sandbox_type))
    if name not in CoreFactory.get_registered_types():
        return None
    return type('FurtherSandbox', (FurtherSandbox,), {'_core_type': name})


SandboxFactory._further = _make_further

_HIDDEN = frozenset({'add_tool', 'get_tool', 'list_tools', 'get_available_tools', 'set_status', 'get_info'})
"""Methods of `enclave.aio` that are here in another form, whatever state the sandbox is in."""


def without_noise(error: Exception) -> Exception:
    """Return a cause to show: where the library says what is wrong in its message, the way there is nothing to read."""
    return error.with_traceback(None) if isinstance(error, EnclaveError) else error


def _is_texts(command: Any) -> bool:
    return isinstance(command, (list, tuple)) and all(isinstance(each, str) for each in command)


def _unread(command: str | list[str], error: ValueError) -> CommandResult:
    """Return the result of a command that is none: it is empty, say, or a quote of it is never closed."""
    reason = f'{error}\n'
    return CommandResult(
        command=command, status=ExecutionStatus.ERROR, exit_code=_NO_EXIT_CODE, stdout='', stderr=reason
    )


def _may_not_write(error: RuntimeError) -> bool:
    """Return whether a file could not be written since it is another user's, as it is where the image has a user of its own."""
    cause = error.__cause__
    return isinstance(cause, SandboxPathError) and cause.details.get('errno') in (errno.EACCES, errno.EPERM)


async def _as_runtime_error(call: Any) -> Any:
    """Await a call; what the sandbox could not do is a `RuntimeError`, and a cancelled call is as asyncio has it."""
    try:
        return await call
    except CallCancelledError as error:
        raise asyncio.CancelledError(str(error)) from error
    except (InvalidArgumentError, RuntimeError):
        raise
    except EnclaveError as error:
        raise RuntimeError(str(error)) from error


def _command_result(command: str | list[str], result: CoreCommandResult, timeout: float | None) -> CommandResult:
    """Return how a command ended, as documented: a time limit has exit code -1 and says so where there is no stderr."""
    status = ExecutionStatus(str(result.status))
    stderr, exit_code = result.stderr, result.exit_code
    if status is ExecutionStatus.TIMEOUT:
        exit_code, stderr = _NO_EXIT_CODE, stderr or NO_TIME.format(timeout)
    return CommandResult(
        command=command if isinstance(command, str) else [str(each) for each in command],
        status=status,
        exit_code=exit_code,
        stdout=result.stdout,
        stderr=stderr,
    )


def tool_result(result: CoreToolResult) -> ToolResult:
    """Return a result of `enclave`'s as a documented one: stderr is the error, also of a success; no metadata."""
    metadata = result.metadata
    return ToolResult(
        tool_name=result.tool_name,
        status=ExecutionStatus(str(result.status)),
        output=result.output,
        error=result.error or metadata.get('stderr') or None,
    )


__all__ = ['CoreBackedSandbox']
