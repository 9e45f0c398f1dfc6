"""What running a program asks of a sandbox, by the sandbox's own verbs; see `enclave.languages.running.Runner`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from enclave.errors import UnsupportedError
from enclave.languages.values import Limits
from enclave.records import CommandResult, PathInfo


class SandboxRunner:
    """Lives as long as one program.

    Args:
        sandbox: Any kind of sandbox; a user's own that has no files can run no programs.
        on_stdout, on_stderr: Are given what steps print, as it comes.
    """

    def __init__(
        self,
        sandbox: Any,
        *,
        on_stdout: Callable[[str], object] | None = None,
        on_stderr: Callable[[str], object] | None = None,
    ) -> None:
        self._sandbox = sandbox
        callbacks = {'on_stdout': on_stdout, 'on_stderr': on_stderr}
        self._callbacks = {name: each for name, each in callbacks.items() if each is not None}
        self.id: str = getattr(sandbox, 'id', '')
        self._limited = getattr(sandbox, '_run_limited', None)
        self.preload: tuple[str, ...] | None = getattr(sandbox, '_preloaded', None)

    @property
    def has_sources(self) -> bool:
        """Whether `run_step` takes a ``source``."""
        return bool(getattr(self._sandbox, '_measures', False))

    def run_step(
        self,
        command: Sequence[str],
        *,
        timeout: float | None,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        stdin: bytes | None = None,
        max_output_bytes: int | None = None,
        limits: Limits | None = None,
        source: tuple[str, bytes] | None = None,
        preload: Sequence[str] | None = None,
    ) -> CommandResult:
        """Run a command to its end, under limits where the sandbox can keep them."""
        given = {'cwd': cwd, 'env': env, 'stdin': stdin, 'max_output_bytes': max_output_bytes}
        options: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        options.update(self._callbacks)
        result: CommandResult
        if self._limited is not None:
            result = self._limited(command, timeout=timeout, limits=limits, source=source, preload=preload, **options)
        else:
            result = self._sandbox.execute_command(list(command), timeout, **options)
        return result

    def _verb(self, name: str) -> Any:
        verb = getattr(self._sandbox, name, None)
        if verb is None:
            raise UnsupportedError(
                f'sandbox {self.id}, a {type(self._sandbox).__name__}, has no {name}, which running programs needs'
            )
        return verb

    def make_dir(self, path: str, *, parents: bool = True, exist_ok: bool = True, mode: int = 0o755) -> None:
        """Make a directory."""
        self._verb('make_dir')(path, parents=parents, exist_ok=exist_ok, mode=mode)

    def write_file(self, path: str, data: bytes) -> int:
        """Write a file."""
        size: int = self._verb('write_file')(path, data)
        return size

    def read_file(self, path: str, *, max_bytes: int | None = None) -> bytes:
        """Return the beginning of a file."""
        data: bytes = self._verb('read_file')(path, max_bytes=max_bytes)
        return data

    def stat_path(self, path: str) -> PathInfo:
        """Return what is at a path."""
        found: PathInfo = self._verb('stat_path')(path)
        return found

    def remove_path(self, path: str, *, recursive: bool = False, missing_ok: bool = False) -> None:
        """Remove a file or a tree."""
        self._verb('remove_path')(path, recursive=recursive, missing_ok=missing_ok)
