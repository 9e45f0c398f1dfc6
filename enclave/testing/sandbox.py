"""A sandbox in this process that isolates nothing, for tests of what owns sandboxes.

Its file system is a temporary directory and its commands are programs of the host (`enclave.testing.workspace`), but three of
its own: ``hold`` continues until it is let go, cancelled or the sandbox ends; ``hold N`` is held under a name; ``die``
is the end of the sandbox. A `FakeBackend` replaces the engine: it keeps the record, and is given what shall go wrong.
"""

from __future__ import annotations

import contextlib
import io
import shutil
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

from enclave.cancellation import is_cancelled, on_cancel
from enclave.config import SandboxConfig
from enclave.enums import ExecutionStatus
from enclave.errors import EngineUnavailableError, SandboxGoneError, SandboxStartError
from enclave.records import CommandResult
from enclave.sandboxes.base import USABLE, Sandbox
from enclave.testing.workspace import FakeWorkspace
from enclave.verb_requests import VERBS

PATIENCE = 120.0


class FakeBackend:
    """What all fake sandboxes of a test stand on. ``alive`` are the ids of those that exist."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.alive: set[str] = set()
        self.started: list[str] = []
        self.ended: list[str] = []
        self.most_starting = 0
        self.starting = 0
        self.is_away = False
        self.swept = 0
        self.may_start = threading.Event()  # cleared, starts wait
        self.may_start.set()
        self.may_end = threading.Event()  # cleared, removals wait
        self.may_end.set()
        self.failures: list[Exception] = []  # of the next starts
        self.changed = threading.Condition(self.lock)
        self.holding = 0  # calls of "hold" running

    def fail_starts(self, *errors: Exception) -> None:
        with self.lock:
            self.failures.extend(errors)

    def wait_until(self, predicate: Any) -> None:
        """Wait until something is true, of the record or of what the test looks at beside it."""
        give_up_at = time.monotonic() + PATIENCE
        while not predicate():
            assert time.monotonic() < give_up_at, 'it did not come to that'
            with self.changed:
                self.changed.wait(0.005)

    def check(self) -> None:
        if self.is_away:
            raise EngineUnavailableError('no fake engine answers')

    def sweep(self) -> list[str]:
        self.check()
        with self.changed:
            self.swept += 1
            self.changed.notify_all()
        return []


class FakeSandbox(Sandbox):
    """A fake. Every test gets a subclass with a backend of its own, from the fixture `backend`."""

    sandbox_type: ClassVar[str] = 'fake'
    offers: ClassVar[frozenset[str]] = frozenset({'commands', 'files'})
    backend: ClassVar[FakeBackend]

    def __init__(self, config: Any = None, sandbox_id: str | None = None) -> None:
        super().__init__(config, sandbox_id)
        self._workspace: FakeWorkspace | None = None
        self._ended = threading.Event()
        self._let_go = threading.Event()
        self._active = 0

    def _start(self) -> None:
        backend = self.backend
        with backend.changed:
            backend.starting += 1
            backend.most_starting = max(backend.most_starting, backend.starting)
            backend.changed.notify_all()
        try:
            assert backend.may_start.wait(PATIENCE)
            backend.check()
            with backend.lock:
                failure = backend.failures.pop(0) if backend.failures else None
            if failure is not None:
                raise failure
            self._root = Path(tempfile.mkdtemp(prefix='fake-sandbox-'))
            self._workspace = FakeWorkspace(self._root)
            self._ended.clear()
        finally:
            with backend.changed:
                backend.starting -= 1
                backend.changed.notify_all()
        with backend.changed:
            backend.alive.add(self.id)
            backend.started.append(self.id)
            backend.changed.notify_all()

    def _stop(self, *, keep: bool) -> None:
        assert self.backend.may_end.wait(PATIENCE)
        self.backend.check()
        self._ended.set()
        self._workspace = None
        shutil.rmtree(self._root, ignore_errors=True)
        with self.backend.changed:
            self.backend.alive.discard(self.id)
            self.backend.ended.append(self.id)
            self.backend.changed.notify_all()

    def _find_problem(self) -> str | None:
        with self.backend.lock:
            return None if self.id in self.backend.alive else 'it was removed behind our back'

    @property
    def active_calls(self) -> int:
        return self._active

    def die(self) -> None:
        """End, as when somebody else removes it."""
        with self.backend.changed:
            self.backend.alive.discard(self.id)
            self.backend.changed.notify_all()
        self._ended.set()
        self._let_go.set()

    def let_go(self) -> None:
        """End the calls of ``hold``."""
        self._let_go.set()

    @property
    def workspace(self) -> FakeWorkspace:
        self._check_usable()
        assert self._workspace is not None
        return self._workspace

    def execute_command(
        self, command: str | Sequence[str], timeout: float | None = None, **options: Any
    ) -> CommandResult:
        with self._counted():
            workspace = self.workspace
            if command == 'hold':
                return self._hold(command)
            return workspace.execute_command(command, timeout, **options)

    def run_script(self, interpreter: Sequence[str], source: str | bytes, *args: Any, **options: Any) -> CommandResult:
        with self._counted():
            return self.workspace.run_script(interpreter, source, *args, **options)

    def _hold(self, command: str) -> CommandResult:
        with self.backend.changed:
            self.backend.holding += 1
            self.backend.changed.notify_all()
        woken = threading.Event()
        try:
            with on_cancel(woken.set):
                while not (self._let_go.is_set() or self._ended.is_set() or woken.is_set()):
                    woken.wait(0.01)
        finally:
            with self.backend.changed:
                self.backend.holding -= 1
                self.backend.changed.notify_all()
        if is_cancelled():
            return CommandResult(command=command, status=ExecutionStatus.CANCELLED, exit_code=137, signal='SIGKILL')
        if self._ended.is_set():
            raise SandboxGoneError(f'sandbox {self.id} was stopped while the call was running')
        return CommandResult(command=command, status=ExecutionStatus.SUCCESS)

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        with self.backend.lock:
            self._active += 1
        try:
            yield
        finally:
            with self.backend.lock:
                self._active -= 1

    # Files

    def __getattr__(self, name: str) -> Any:
        if name in VERBS and hasattr(FakeWorkspace, name):
            return getattr(self.workspace, name)
        raise AttributeError(name)

    def put_file(self, source: Any, target: str, *, mode: int | None = None) -> int:
        data = source if isinstance(source, bytes) else Path(source).read_bytes()
        return self.workspace.write_file(target, data, mode=mode)

    def get_file(self, source: str, target: Any = None) -> bytes | int:
        data = self.workspace.read_file(source)
        return data if target is None else Path(target).write_bytes(data)

    def put_dir(self, source: Any, target: str = '.') -> bool:
        if not Path(source).is_dir():
            raise NotADirectoryError(source)
        shutil.copytree(source, self.workspace.host_path(target), dirs_exist_ok=True, symlinks=True)
        return True

    def get_dir(self, source: str, target: Any) -> None:
        shutil.copytree(self.workspace.host_path(source), target, dirs_exist_ok=True, symlinks=True)

    def put_archive(self, source: Any, target: str = '.') -> None:
        data = source if isinstance(source, bytes) else Path(source).read_bytes()
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            archive.extraction_filter = getattr(tarfile, 'data_filter', None)  # patch releases before 3.11.4 have none
            archive.extractall(self.workspace.host_path(target))

    def get_archive(self, source: str, target: Any = None) -> bytes | int:
        path = self.workspace.host_path(source)
        made = io.BytesIO()
        with tarfile.open(fileobj=made, mode='w') as archive:
            archive.add(path, path.name)
        return made.getvalue() if target is None else Path(target).write_bytes(made.getvalue())

    def read_archive(self, source: str, *, arcname: str | None = None) -> Iterator[bytes]:
        path = self.workspace.host_path(source)
        made = io.BytesIO()
        with tarfile.open(fileobj=made, mode='w') as archive:
            archive.add(path, arcname or path.name)
        yield made.getvalue()


def fake_config(**options: Any) -> SandboxConfig:
    """Return a configuration with the tools that a fake can run."""
    return SandboxConfig(tools_config={'shell_executor': {}, 'file_operation': {}, 'python_executor': {}}, **options)


__all__ = ['PATIENCE', 'USABLE', 'FakeBackend', 'FakeSandbox', 'SandboxStartError', 'fake_config']
