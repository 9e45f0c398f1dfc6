"""The life of a sandbox that a backend makes run (layer 4). Its verbs are those of `Verbs`, over what the backend launched."""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import weakref
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, TypeVar

import attrs

from enclave.enums import SandboxStatus
from enclave.errors import SandboxError, SandboxGoneError, SandboxStateError
from enclave.records import CommandResult, ProcessInfo
from enclave.sandboxes.backend import Backend, Launched, SandboxSpec
from enclave.sandboxes.base import USABLE
from enclave.sandboxes.connection import PortForward
from enclave.sandboxes.operations import BackgroundProcessEnder, Operations, Pending, ProcessEnder, check_memory_held
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
    """A sandbox with all the verbs. See `Sandbox` for its life, `Workspace` for the errors of the verbs.

    A kind of one's own names its backend in ``backend_class``, and has every verb.
    """

    backend_class: ClassVar[type[Backend] | None] = None

    def __init__(self, config: Any = None, sandbox_id: str | None = None) -> None:
        super().__init__(config, sandbox_id)
        self._operations: Operations | None = None
        self._forwards: set[PortForward] = set()
        self._forwards_lock = threading.Lock()  # guards _forwards
        self._processes = ProcessTable(self.id)
        self._made_backend: Backend | None = None
        self._recovering = threading.Lock()  # held while operations are replaced, so that several callers do it once

    # Life -------------------------------------------------------------------------------------------------------------

    @property
    def backend(self) -> Backend:
        """What makes it run. It is made when it is first needed: by then the sandbox has its tenant."""
        if self._made_backend is None:
            spec = SandboxSpec(id=self.id, kind=str(self.sandbox_type), config=self.config, tenant=self.tenant)
            self._made_backend = self._make_backend(spec)
        return self._made_backend

    def _make_backend(self, spec: SandboxSpec) -> Backend:
        return _OwnMethods(spec, self) if self.backend_class is None else self.backend_class(spec)

    def _start(self) -> None:
        self._take(self.backend.launch())

    def _take(self, launched: Launched) -> None:
        self._operations = launched.operations
        self.metadata.update(launched.facts)

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
            self.backend.destroy(keep=keep)

    @property
    def can_be_paused(self) -> bool:
        """Whether this kind of sandbox can be paused at all."""
        own = type(self)._pause is not AgentBackedSandbox._pause
        return own or type(self.backend).pause is not Backend.pause

    def _pause(self) -> None:
        self.backend.pause()

    def _resume(self) -> None:
        self.backend.resume()

    def _has_remains(self, *, keep: bool) -> bool:
        return self._operations is not None or (not keep and self.backend.has_leftovers)

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
        self._begin_cleaning().finish()

    def _begin_clean(self) -> Pending[None]:
        """See `Sandbox._begin_clean`; a subclass with a `_clean` of its own has that called, and waited for."""
        is_own = type(self)._clean is not AgentBackedSandbox._clean
        return super()._begin_clean() if is_own else self._begin_cleaning()

    def _begin_cleaning(self) -> Pending[None]:
        operations = self._running()
        with self._noticing():
            ending = self._begin_ending(operations)

        def finish() -> None:
            with self._noticing():
                ended = ending.finish()
            if ended:
                logger.info('sandbox %s: %d processes that were left running were ended', self.id, ended)
            check_memory_held(self.id, *self.backend.memory_held())

        return Pending(finish, ending.has_ended, ending.wait)

    @contextlib.contextmanager
    def _noticing(self) -> Iterator[None]:
        """Take note of a loss of the sandbox that the block finds."""
        try:
            yield
        except SandboxGoneError as error:
            raise self._gone(error) from error

    def _begin_ending(self, operations: Operations) -> Pending[int]:
        """Begin to end what calls have started."""
        if isinstance(operations, BackgroundProcessEnder):
            return operations.begin_ending(CLEAN_SECONDS, keep=self._own_processes())
        ended = 0
        if isinstance(operations, ProcessEnder):
            ended = operations.end_processes(CLEAN_SECONDS, keep=self._own_processes())
        return Pending.done(ended)

    def _own_processes(self) -> list[Process]:
        """Return the processes that are the sandbox's own and not a caller's."""
        return list(self.backend.own_processes)

    @property
    def active_calls(self) -> int:
        """How many commands and file transfers are running."""
        operations = self._operations
        return 0 if operations is None else max(0, operations.active_calls - len(self.backend.own_processes))

    def _changeable_places(self) -> tuple[str, ...] | None:
        return self.backend.changeable_places()

    def _find_problem(self) -> str | None:
        problem = (self._made_backend or self.backend).find_problem()  # each call asks, twice
        return None if problem is None or self._has_recovered() else problem

    def _has_recovered(self) -> bool:
        """Have what executes requests replaced, where the sandbox itself continues."""
        with self._recovering:
            if self.backend.find_problem() is None:
                return True  # another thread was here before
            launched = self.backend.recover()
            if launched is None:
                return False
            with self._changed:
                stays = not self._moving and self._status in USABLE
                if stays:
                    self._take(launched)
        if not stays:
            launched.operations.close(grace=0.1)
            return False
        logger.warning('sandbox %s: its agent was ended from inside; another was started', self.id)
        return True

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
        preload: Sequence[str] | None = None,
        on_stdout: OnText | None = None,
        on_stderr: OnText | None = None,
        **options: Any,
    ) -> CommandResult:
        """Run a command under limits; see `enclave.languages.running.Runner.run_step`."""
        script = None
        if source is not None:
            at = list(command).index(source[0]) if preload is not None and source[0] in command else 0
            script = Script(name=source[0], source=source[1], at=at, preload=preload if at else None)
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


class _OwnMethods(Backend):
    """The backend of a class that names none, and defines ``_launch``, ``_destroy`` and ``_find_problem`` itself."""

    def __init__(self, spec: SandboxSpec, sandbox: Any) -> None:
        super().__init__(spec)
        if not hasattr(sandbox, '_launch'):
            raise TypeError(f'{type(sandbox).__name__} names no backend_class, so nothing can make it run')
        self._sandbox = weakref.proxy(sandbox)

    def launch(self) -> Launched:
        return Launched(self._sandbox._launch())

    def destroy(self, *, keep: bool) -> None:
        self._sandbox._destroy(keep=keep)
