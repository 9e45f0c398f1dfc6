"""What a tool may ask of its surroundings (layer 3).

`Workspace` is the small part of a sandbox that tools are written against, so that this layer never imports sandboxes. Every
backend's `Sandbox` fulfils it; a test may fulfil it with a fake.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from enclave.records import CommandResult, PathInfo


class Workspace(Protocol):
    """The verbs a tool may use.

    Relative paths begin at the sandbox's working directory. Paths are data: no shell ever reads them.
    ``timeout`` is in seconds; None takes the sandbox's own default, 0 means no limit.

    All verbs raise `SandboxStateError` when the sandbox is not running, `SandboxGoneError` when it died, and the file
    verbs `SandboxPathNotFoundError` or `SandboxPathError`; the first is a `FileNotFoundError`, both are `OSError`.
    """

    def execute_command(
        self,
        command: str | Sequence[str],
        timeout: float | None = None,
        *,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        user: str | None = None,
        stdin: str | bytes | None = None,
        max_output_bytes: int | None = None,
    ) -> CommandResult:
        """Run a command to its end: a string through the sandbox's shell, a sequence as it is.

        A program that does not exist is a result with exit code 127, one that may not be executed 126.

        Raises:
            InvalidArgumentError: ``cwd`` or ``user`` does not exist, or an argument is impossible; it is named.
        """

    def run_script(
        self,
        interpreter: Sequence[str],
        source: str | bytes,
        timeout: float | None = None,
        *,
        suffix: str = '',
        args: Sequence[str] = (),
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        user: str | None = None,
        stdin: str | bytes | None = None,
        max_output_bytes: int | None = None,
        import_path_env: str | None = None,
        preload: Sequence[str] | None = None,
    ) -> CommandResult:
        """Run ``[*interpreter, FILE, *args]``, where FILE is a private temporary file holding ``source``.

        Args:
            suffix: The file's ending, like ``'.py'``.
            import_path_env: Name of a search path variable (``'PYTHONPATH'``) to put the call's working directory first in.
            preload: Modules to have imported before, for a script of Python's: the program is then a fork of an interpreter
                that has imported them, where it can be, and does what it would do in one of its own. An empty list saves the
                start of the interpreter alone; None starts one.
        """

    def read_file(self, path: str, *, offset: int = 0, max_bytes: int | None = None) -> bytes:
        """Return a regular file's bytes from ``offset`` on, at most ``max_bytes`` of them."""

    def write_file(
        self,
        path: str,
        data: bytes,
        *,
        append: bool = False,
        exclusive: bool = False,
        make_parents: bool = True,
        mode: int | None = None,
    ) -> int:
        """Write a regular file as a whole (or append to it) and return its size.

        Args:
            exclusive: Fail with `SandboxPathExistsError` if the path exists.
            mode: Permission bits; an existing file keeps its own, a new one gets 0o644.
        """

    def list_dir(self, path: str, *, recursive: bool = False, max_entries: int | None = None) -> list[PathInfo]:
        """Return a directory's entries sorted by path, each path relative to ``path``; symlinks are not followed."""

    def stat_path(self, path: str, *, follow_symlinks: bool = True) -> PathInfo:
        """Return what is at a path."""

    def remove_path(self, path: str, *, recursive: bool = False, missing_ok: bool = False) -> None:
        """Remove a file, a symlink or an empty directory; with ``recursive`` a whole tree."""

    def make_dir(self, path: str, *, parents: bool = True, exist_ok: bool = True, mode: int = 0o755) -> None:
        """Make a directory."""

    def move_path(self, source: str, target: str, *, overwrite: bool = False) -> None:
        """Rename a file or directory inside the sandbox."""

    def copy_path(self, source: str, target: str, *, recursive: bool = False, overwrite: bool = False) -> None:
        """Copy a file inside the sandbox; with ``recursive`` a directory with everything in it."""
