"""A place for the command line without an engine: sandboxes are rows of a list, what is done to them is kept.

The sandboxes it gives to use are `FakeSandbox`, whose programs are real processes of this machine, started in a directory that
is the sandbox's working directory.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from enclave.cli.place import Place
from enclave.errors import SandboxPathExistsError
from enclave.records import CommandResult, SandboxInfo, utc_now
from enclave.sandboxes.process import OutputChunk


def make_info(sandbox_id: str, *, age: float = 5.0, **metadata: Any) -> SandboxInfo:
    """Return a running sandbox of this process, so many seconds old."""
    owner = {'host': 'here', 'pid': 42, 'alive': True}
    return SandboxInfo(
        id=sandbox_id,
        type='docker',
        status='running',  # type: ignore[arg-type]
        created_at=utc_now() - timedelta(seconds=age),
        metadata={'image': 'python:3.11-slim', 'owner': owner, 'kept': False, 'is_orphan': False, **metadata},
    )


class FakePlace(Place):
    def __init__(self, folder: Path, infos: list[SandboxInfo] | None = None, *, is_remote: bool = False) -> None:
        self.is_remote = is_remote
        self.folder = folder
        self.infos = infos or []
        self.calls: list[tuple[Any, ...]] = []
        self.sandbox = FakeSandbox(folder)
        self.max_timeout = 0.0

    def longest_timeout(self) -> float:
        return self.max_timeout

    @property
    def where(self) -> str:
        return 'in the test'

    @contextlib.contextmanager
    def open(self, sandbox_type: str | None, config: Mapping[str, Any], *, quiet: bool = False) -> Iterator[Any]:
        self.calls.append(('open', sandbox_type, dict(config)))
        try:
            yield self.sandbox
        finally:
            self.calls.append(('gone',))

    @contextlib.contextmanager
    def attach(self, sandbox_id: str) -> Iterator[Any]:
        self.calls.append(('attach', self.find_id(sandbox_id)))
        yield self.sandbox

    def list_sandboxes(self) -> list[SandboxInfo]:
        return self.infos

    def get_info(self, sandbox_id: str) -> SandboxInfo:
        found = self.find_id(sandbox_id)
        return next(info for info in self.infos if info.id == found)

    def stop(self, sandbox_id: str) -> None:
        self.calls.append(('stop', sandbox_id))

    def pause(self, sandbox_id: str) -> None:
        self.calls.append(('pause', sandbox_id))

    def resume(self, sandbox_id: str) -> None:
        self.calls.append(('resume', sandbox_id))

    def remove(self, sandbox_id: str) -> None:
        self.calls.append(('remove', sandbox_id))


class FakeSandbox:
    """A directory and real processes."""

    sandbox_type = 'fake'

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.metadata: dict[str, Any] = {}
        self.started: list[dict[str, Any]] = []

    def host_path(self, path: str) -> Path:
        """Return where a path of the sandbox is; its working directory is the folder itself."""
        return self.folder / path.removeprefix('/sandbox').lstrip('/')

    def write_file(self, path: str, data: bytes, *, exclusive: bool = False, mode: int | None = None) -> int:
        place = self.host_path(path)
        if exclusive and place.exists():
            raise SandboxPathExistsError(f'exists: {path}')
        place.parent.mkdir(parents=True, exist_ok=True)
        return place.write_bytes(data)

    def read_file(self, path: str) -> bytes:
        return self.host_path(path).read_bytes()

    def put_file(self, source: Path, target: str) -> int:
        return self.write_file(target, source.read_bytes())

    def start_process(self, command: str | list[str], timeout: float, **options: Any) -> FakeProcess:
        self.started.append({'command': command, 'timeout': timeout, **options})
        argv = command if isinstance(command, list) else ['sh', '-c', command]
        argv = [str(self.host_path(word)) if word.startswith('/sandbox/') else word for word in argv]
        return FakeProcess(argv, self.folder, timeout, options)


class FakeProcess:
    """A real process with the verbs of `enclave.sandboxes.process.Process`."""

    def __init__(self, argv: list[str], folder: Path, timeout: float, options: Mapping[str, Any]) -> None:
        self.result: CommandResult | None = None
        self.sizes: list[tuple[int, int]] = []
        self._words = argv
        self._killed = self._timed_out = False
        self._chunks: queue.Queue[OutputChunk | None] = queue.Queue()
        self._process = subprocess.Popen(
            argv,
            cwd=folder,
            env={**os.environ, **(options.get('env') or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self._readers = [
            threading.Thread(target=self._read, args=(name, getattr(self._process, name)), daemon=True)
            for name in ('stdout', 'stderr')
        ]
        for reader in self._readers:
            reader.start()
        self._timer = threading.Timer(timeout, self._run_out) if timeout else None
        if self._timer:
            self._timer.start()
        if options.get('stdin'):
            self.write(options['stdin'])
        if not options.get('open_stdin'):
            self.close_stdin()

    def _run_out(self) -> None:
        self._timed_out = True
        self.kill()

    def _read(self, name: Any, stream: Any) -> None:
        while data := os.read(stream.fileno(), 65536):
            self._chunks.put(OutputChunk(name, data))
        self._chunks.put(None)

    def chunks(self) -> Iterator[OutputChunk]:
        kept = {'stdout': b'', 'stderr': b''}
        ends = 0
        while ends < 2:
            try:
                # Not for ever: a signal that another thread was given is handled only when this one comes round.
                chunk = self._chunks.get(timeout=0.5)
            except queue.Empty:
                continue
            if chunk is None:
                ends += 1
                continue
            kept[chunk.stream] += chunk.data
            yield chunk
        code = self._process.wait()
        if self._timer:
            self._timer.cancel()
        for stream in (self._process.stdout, self._process.stderr):
            assert stream is not None
            stream.close()
        self.close_stdin()
        status = 'timeout' if self._timed_out else 'cancelled' if self._killed else 'error' if code else 'success'
        self.result = CommandResult(
            command=self._words,
            status=status,  # type: ignore[arg-type]
            exit_code=code if code >= 0 else 128 - code,
            signal=signal.Signals(-code).name if code < 0 else None,
            timed_out=self._timed_out,
            stdout=kept['stdout'].decode('utf-8', 'backslashreplace'),
            stderr=kept['stderr'].decode('utf-8', 'backslashreplace'),
        )

    def write(self, data: bytes) -> bool:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(data)
            self._process.stdin.flush()
        except OSError:
            return False
        return True

    def close_stdin(self) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()

    def resize(self, rows: int, columns: int) -> None:
        self.sizes.append((rows, columns))

    def kill(self) -> None:
        self._killed = True
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def __enter__(self) -> FakeProcess:
        return self

    def __exit__(self, *_: object) -> None:
        if self.result is None:
            self.kill()
            for _chunk in self.chunks():
                pass
