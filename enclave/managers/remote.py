"""A sandbox of a server, used like one of this machine (layer 5): an identity, and the verbs of `Verbs` over HTTP."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, ClassVar, Literal

import attrs

from enclave.cancellation import Cancellation
from enclave.config import SandboxConfig
from enclave.deadline import check_timeout
from enclave.enums import SandboxStatus, SandboxType
from enclave.errors import (
    EnclaveError,
    InvalidArgumentError,
    ManagerStoppedError,
    NotFoundError,
    SandboxGoneError,
    SandboxNotFoundError,
    SandboxStateError,
    UnsupportedError,
)
from enclave.languages.values import CodeRequest, CodeResult, Program, as_request
from enclave.managers.actions import ask, tool_seconds
from enclave.managers.code_batches import run_batch
from enclave.managers.http_operations import HttpOperations
from enclave.managers.http_transport import HttpTransport
from enclave.managers.protocol import CancelResponse, PauseRequest, RenewResponse, ToolRequest
from enclave.parallel import Followed, Outcomes, check_concurrency
from enclave.quoting import quoted
from enclave.records import ProcessInfo, SandboxInfo, ToolResult
from enclave.sandboxes.base import USABLE
from enclave.sandboxes.process import Process
from enclave.sandboxes.verbs import FullSandbox, Verbs
from enclave.tools.base import Tool
from enclave.tools.budget import check_max_chars


class RemoteVerbs(Verbs):
    """The verbs of a sandbox of a server, of which nothing is known here but its id."""

    _room_for_outputs = None  # what the server gives, which may allow no more

    def __init__(self, transport: HttpTransport, sandbox_id: str) -> None:
        self.id = sandbox_id
        self._operations = HttpOperations(transport, sandbox_id)

    def _running(self) -> HttpOperations:
        return self._operations


class RemoteSandbox(FullSandbox):
    """A sandbox that a server keeps. `stop` stops it there, `cleanup` takes it away; letting go of this object does nothing.

    Attributes:
        config: The options as the server shows them; values of environment variables are hidden.
    """

    sandbox_type: SandboxType | str  # type: ignore[misc]
    config_class: ClassVar[type[SandboxConfig]] = SandboxConfig

    def __init__(self, transport: HttpTransport, sandbox_id: str, info: SandboxInfo) -> None:
        super().__init__(_config_of(info), sandbox_id)
        self._transport = transport
        self._operations = HttpOperations(transport, sandbox_id)
        self._manager: Any = None  # that lives as long as this sandbox is used, where it was opened without one
        self._take(info)

    @property
    def path(self) -> str:
        """Its address below the server's."""
        return self._operations.path

    def _load_tools(self) -> dict[str, Tool]:
        return {}  # they live on the server

    def _take(self, info: SandboxInfo) -> SandboxInfo:
        self.sandbox_type = info.type
        self.created_at = info.created_at
        self.started_at = info.started_at
        self.metadata = dict(info.metadata)
        self.labels = dict(info.labels)
        self.error = info.error
        return info

    # Life -------------------------------------------------------------------------------------------------------------

    def get_info(self) -> SandboxInfo:
        """Return what can be said of it, asked of the server."""
        info: SandboxInfo = self._ask('get_sandbox_info')
        return self._take(info)

    @property
    def status(self) -> SandboxStatus:
        """Where it is in its life, asked of the server; ``stopped`` where the server knows it no more."""
        try:
            return self.get_info().status
        except SandboxNotFoundError:
            return SandboxStatus.STOPPED
        except ManagerStoppedError:
            if self._manager is None:
                raise
            return SandboxStatus.STOPPED

    def set_status(self, status: SandboxStatus) -> None:
        """Do nothing: the server's pools mark their sandboxes."""

    def start(self) -> None:
        """Return if it runs: the server starts sandboxes when it makes them.

        Raises:
            SandboxStateError: It does not; make another with the manager.
        """
        self._start()

    def _start(self) -> None:
        status = self.status
        if status not in USABLE:
            raise SandboxStateError(
                f'sandbox {self.id} is {status} on the server, which starts sandboxes only when it makes them',
                details={'sandbox_id': self.id, 'status': str(status)},
            )

    def _own_manager(self, manager: Any) -> None:
        """Take a manager over that was made for this sandbox alone: `stop` takes the sandbox away and stops the manager."""
        self._manager = manager

    def stop(self) -> None:
        """Stop it on the server, where it stays in the list; does nothing if it is gone.

        One that `enclave.open_sandbox` has opened is taken away, and its connections to the server are closed.
        """
        if self._manager is None:
            self._stop(keep=True)
            return
        try:
            self.cleanup()
        except ManagerStoppedError:
            return  # stopped before
        finally:
            self._manager.stop()

    def cleanup(self) -> None:
        """Take it away; does nothing if it is gone."""
        self._stop(keep=False)

    def _stop(self, *, keep: bool) -> None:
        # Also where it is stopped because the work in it was cancelled.
        with contextlib.suppress(SandboxNotFoundError), Cancellation().applied():
            self._ask('stop_sandbox' if keep else 'delete_sandbox')

    def _ask(self, name: str, body: Any = None, **names: Any) -> Any:
        return ask(self._transport, name, body, sandbox_id=self.id, **names)

    @property
    def can_be_paused(self) -> bool:
        """True: the server says it when it is asked to."""
        return True

    def pause(self) -> None:
        """Keep all that is in it from running, on the server; see `Sandbox.pause`."""
        pause(self._transport, self.id)

    def resume(self) -> None:
        """Let it continue; see `Sandbox.resume`."""
        resume(self._transport, self.id)

    def is_alive(self) -> bool:
        """Have the server ask the sandbox itself whether it works."""
        try:
            answer: CancelResponse = self._ask('is_sandbox_alive')
        except (NotFoundError, SandboxGoneError):
            return False
        return answer.found

    @property
    def active_calls(self) -> int:
        """How many commands and file transfers continue in it, of all clients."""
        return self.get_info().active_calls

    def _running(self) -> HttpOperations:
        return self._operations

    # Tools ----------------------------------------------------------------------------------------------------------

    def execute_tool(
        self, tool_name: str, parameters: Mapping[str, Any] | None = None, *, max_chars: int | None = None
    ) -> ToolResult:
        """Run a tool; see `Sandbox.execute_tool`."""
        check_max_chars(max_chars)
        body = ToolRequest(
            sandbox_id=self.id, tool_name=tool_name, parameters=as_parameters(parameters), max_chars=max_chars
        )
        seconds = tool_seconds(tool_name, parameters)
        result: ToolResult = ask(self._transport, 'execute_tool', body, timeout=seconds)
        return result

    def get_tool(self, tool_name: str) -> Tool:
        """Raise: tools live on the server; see `get_available_tools` and `execute_tool`."""
        raise UnsupportedError(f'the tool {quoted(tool_name)} lives on the server; use execute_tool')

    def add_tool(self, tool: Tool) -> None:
        """Raise: tools are named in the configuration that the sandbox is made with."""
        raise UnsupportedError('a remote sandbox takes no further tools; name them in tools_config')

    def list_tools(self) -> list[str]:
        """Return the names of its tools."""
        return list(self.get_available_tools())

    def get_available_tools(self) -> dict[str, Any]:
        """Return its tools as ``{name: OpenAI-style function schema}``."""
        found: dict[str, Any] = self._ask('get_sandbox_tools')
        return found

    def run_many(
        self, programs: Iterable[Program], *, concurrency: int | None = None, in_order: bool = False
    ) -> Outcomes[CodeResult]:
        """Run many programs in this sandbox, in one exchange for some hundred of them; see `Sandbox.run_many`."""
        return self._run_many(programs, as_request, concurrency, in_order)

    def _run_many(
        self, items: Iterable[Any], make: Callable[[Any], CodeRequest], concurrency: int | None, in_order: bool
    ) -> Outcomes[CodeResult]:
        path = f'{self.path}/code/batch'
        return Followed(
            run_batch(self._transport, path, items, make, in_order=in_order, concurrency=check_concurrency(concurrency))
        )

    def _run_code(
        self,
        request: CodeRequest,
        on_stdout: Callable[[str], object] | None = None,
        on_stderr: Callable[[str], object] | None = None,
    ) -> CodeResult:
        result: CodeResult = self._transport.call('POST', f'{self.path}/code', CodeResult, body=request, timeout=0)
        for callback, text in ((on_stdout, result.stdout), (on_stderr, result.stderr)):
            if callback is not None and text:
                callback(text)
        return result

    def _run_in_batch(self, request: CodeRequest) -> CodeResult:
        return self._run_code(request)

    def list_processes(self) -> list[ProcessInfo]:
        """See `Verbs.list_processes`: those that were started through the server, by whichever client."""
        return self._operations.list_processes()

    def find_process(self, process_id: str) -> Process:
        """See `Verbs.find_process`."""
        return self._operations.find_process(process_id)

    def __repr__(self) -> str:
        return f'<RemoteSandbox {self.id}>'


def pause(
    transport: HttpTransport, sandbox_id: str, ttl: float | Literal['default'] | None = 'default'
) -> datetime | None:
    """Pause a sandbox of a server, and return when it is removed if nobody resumes it."""
    body = PauseRequest(ttl=ttl if ttl == 'default' else check_timeout(ttl, 'ttl'))
    answer: RenewResponse = ask(transport, 'pause_sandbox', body, sandbox_id=sandbox_id)
    return answer.expires_at


def resume(transport: HttpTransport, sandbox_id: str) -> datetime | None:
    """Resume a sandbox of a server, and return when it is removed."""
    answer: RenewResponse = ask(transport, 'resume_sandbox', sandbox_id=sandbox_id)
    return answer.expires_at


def as_parameters(parameters: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return a tool's parameters as they travel."""
    if parameters is not None and not isinstance(parameters, Mapping):
        raise InvalidArgumentError(f'the parameters must be a dict of arguments, not {quoted(parameters)}')
    return {str(name): value for name, value in (parameters or {}).items()}


def _config_of(info: SandboxInfo) -> SandboxConfig:
    """Return as much of a sandbox's options as every kind has; nothing here fails because a server is newer."""
    shown = info.config
    try:
        return SandboxConfig(**{name: shown[name] for name in attrs.fields_dict(SandboxConfig) if name in shown})
    except EnclaveError:
        return SandboxConfig()


def as_seconds(timeout: float | None) -> float | None:
    """Return a time limit as it travels.

    Raises:
        InvalidArgumentError: It is none.
    """
    if timeout is not None and (isinstance(timeout, bool) or not isinstance(timeout, (int, float))):
        raise InvalidArgumentError(f'timeout must be a number of seconds or None, not {quoted(timeout)}')
    if timeout is not None and not timeout >= 0:  # nan too
        raise InvalidArgumentError(f'timeout must be 0 (no limit) or more seconds, not {quoted(timeout)}')
    return 0.0 if timeout is not None and timeout >= 1e9 else timeout
