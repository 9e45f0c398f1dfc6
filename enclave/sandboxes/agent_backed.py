"""The life of a sandbox that runs an agent, or something that can do its work (layer 4). Its verbs are those of `Verbs`.

A backend supplies `_launch` (make it run, return its `Operations`), `_destroy` and `_find_problem`.
"""

from __future__ import annotations

import logging
import math
import threading
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, TypeVar

import attrs

from enclave.enums import SandboxStatus
from enclave.errors import SandboxError, SandboxGoneError, SandboxStateError
from enclave.records import CommandResult, ProcessInfo
from enclave.sandboxes.base import USABLE
from enclave.sandboxes.connection import PortForward
from enclave.sandboxes.operations import Operations, ProcessEnder
from enclave.sandboxes.process import Process, ProcessTable
from enclave.sandboxes.verbs import FullSandbox, OnText
from enclave.verb_requests import Limits, Request, RunCommand, Script, StartProcess

logger = logging.getLogger(__name__)

Q = TypeVar('Q', bound=Request[Any])

STOP_GRACE_SECONDS = 1.0
"""How long programs that still run get to end by themselves when their sandbox is stopped."""
CLEAN_SECONDS = 10.0
"""How long the ending of what calls left running may take; it is killed, so mostly that is a matter of milliseconds."""


class AgentBackedSandbox(FullSandbox):
    """A sandbox with all the verbs. See `Sandbox` for its life, `Workspace` for the errors of the verbs."""

    def __init__(self, config: Any = None, sandbox_id: str | None = None) -> None:
        super().__init__(config, sandbox_id)
        self._operations: Operations | None = None
        self._forwards: set[PortForward] = set()
        self._forwards_lock = threading.Lock()  # guards _forwards
        self._processes = ProcessTable(self.id)

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
        self._processes.clear()
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
            self._running().ping(10.0)
        except SandboxGoneError as error:
            self._gone(error)
            return False
        except (SandboxError, TimeoutError):
            return False
        return True

    def _clean(self) -> None:
        operations = self._running()
        try:
            ended = self._end_processes(operations)
        except SandboxGoneError as error:
            raise self._gone(error) from error
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
        """How many commands and file transfers are running."""
        operations = self._operations
        return 0 if operations is None else operations.active_calls

    def _running(self) -> Operations:
        self._check_usable()
        operations = self._operations
        if operations is None:
            raise SandboxStateError(f'sandbox {self.id} is being stopped', details={'sandbox_id': self.id})
        return operations

    def _completed(self, request: Q) -> Q:
        return request.completed(self.config)

    def _start_program(self, request: StartProcess) -> Process:
        return self._processes.note(super()._start_program(request))

    def list_processes(self) -> list[ProcessInfo]:
        """See `Verbs.list_processes`."""
        self._check_usable()
        return self._processes.list()

    def find_process(self, process_id: str) -> Process:
        """See `Verbs.find_process`."""
        self._check_usable()
        return self._processes.find(process_id)

    def _forwarding(self, forward: PortForward, operations: Operations) -> None:
        with self._forwards_lock:
            self._forwards = {each for each in self._forwards if not each.is_closed} | {forward}
        if self._operations is not operations:  # stopped meanwhile, perhaps before it could see this one
            forward.close()

    def _gone(self, error: SandboxGoneError) -> SandboxGoneError:
        with self._changed:
            if self._moving or self._status is SandboxStatus.STOPPED:
                return SandboxGoneError(
                    f'sandbox {self.id} was stopped while the call was running', details={'sandbox_id': self.id}
                )
        problem = self._find_problem()
        if problem is None:
            # The backend could mend it: what ran is lost, the sandbox is not.
            return SandboxGoneError(
                f'sandbox {self.id}: the call was lost with its agent; the sandbox continues',
                details={'sandbox_id': self.id},
            )
        self._fail(problem)
        return SandboxGoneError(f'sandbox {self.id}: {problem}', details={'sandbox_id': self.id})

    # Limits -----------------------------------------------------------------------------------------------------------

    def _run_limited(
        self,
        command: Sequence[str],
        *,
        limits: Limits | None,
        source: tuple[str, bytes] | None,
        on_stdout: OnText | None = None,
        on_stderr: OnText | None = None,
        **options: Any,
    ) -> CommandResult:
        """Run a command under limits; see `enclave.languages.running.Runner.run_step`."""
        script = None if source is None else Script(name=source[0], source=source[1])
        request = RunCommand(command=command, script=script, limits=limits, **options)
        if limits is not None and limits.cpu_seconds is not None and not self._measures:
            # Nobody measures it: the kernel at least ends each of its processes that uses so much.
            line = ('sh', '-c', 'ulimit -S -t "$0" 2>/dev/null; exec "$@"', str(math.ceil(limits.cpu_seconds)))
            limited = attrs.evolve(request, command=(*line, *command))
            result = self._run_followed(limited, on_stdout, on_stderr)
            return attrs.evolve(result, command=list(command))
        return self._run_followed(request, on_stdout, on_stderr)

    @property
    def _measures(self) -> bool:
        """Whether what runs now keeps limits and takes program texts with a name."""
        return bool(getattr(self._operations, 'measures', False))
