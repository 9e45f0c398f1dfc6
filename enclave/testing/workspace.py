"""A workspace on the host's own file system, for tests of tools: real programs, real files, no sandbox around them.

The sandbox's ``/`` is a temporary directory; file verbs map absolute paths into it, commands start in its working directory.
Every call is kept in ``calls`` as ``(verb, arguments)``. What a real sandbox would do on its own account (die, run out of
memory, time out) is reported with `will`.
"""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal, cast

from enclave.enums import ExecutionStatus
from enclave.errors import (
    InvalidArgumentError,
    SandboxPathError,
    SandboxPathExistsError,
    SandboxPathNotFoundError,
)
from enclave.records import CommandResult, PathInfo

_SHELL = '/bin/sh'


class FakeWorkspace:
    """What a tool may ask of a sandbox, on a directory of this machine."""

    def __init__(self, root: Path, working_dir: str = '/sandbox', timeout: float = 30.0) -> None:
        self.root = root
        self.working_dir = working_dir
        self.timeout = timeout
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self._answers: dict[str, list[Any]] = {}
        self.host_path(working_dir).mkdir(parents=True, exist_ok=True)

    def will(self, verb: str, answer: Any) -> None:
        """Let the next call of ``verb`` return ``answer``, or raise it if it is an exception."""
        self._answers.setdefault(verb, []).append(answer)

    def host_path(self, path: str) -> Path:
        return self.root / os.path.normpath(os.path.join(self.working_dir, path)).lstrip('/')

    def called(self, verb: str) -> list[dict[str, Any]]:
        return [arguments for name, arguments in self.calls if name == verb]

    def _record(self, verb: str, arguments: dict[str, Any]) -> Any:
        self.calls.append((verb, arguments))
        answers = self._answers.get(verb)
        answer = answers.pop(0) if answers else None
        if isinstance(answer, BaseException):
            raise answer
        return answer

    # Commands

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
        answer = self._record(
            'execute_command',
            {
                'command': command,
                'timeout': timeout,
                'cwd': cwd,
                'env': env,
                'user': user,
                'stdin': stdin,
                'max_output_bytes': max_output_bytes,
            },
        )
        return cast(CommandResult, answer or self._run(command, timeout, cwd, env, stdin))

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
        answer = self._record(
            'run_script',
            {
                'interpreter': interpreter,
                'source': source,
                'timeout': timeout,
                'suffix': suffix,
                'args': args,
                'cwd': cwd,
                'env': env,
                'user': user,
                'stdin': stdin,
                'max_output_bytes': max_output_bytes,
                'import_path_env': import_path_env,
                **({} if preload is None else {'preload': preload}),
            },
        )
        if answer:
            return cast(CommandResult, answer)
        script = self.root / f'script{suffix}'
        script.write_bytes(source.encode('utf-8', 'surrogateescape') if isinstance(source, str) else source)
        variables = dict(env or {})
        if import_path_env:
            variables[import_path_env] = str(self.host_path(cwd or '.'))
        return self._run([*interpreter, str(script), *args], timeout, cwd, variables, stdin)

    def _run(
        self,
        command: str | Sequence[str],
        timeout: float | None,
        cwd: str | None,
        env: Mapping[str, str] | None,
        stdin: str | bytes | None,
    ) -> CommandResult:
        argv = [_SHELL, '-c', command] if isinstance(command, str) else list(command)
        given = command if isinstance(command, str) else list(command)
        directory = self.host_path(cwd or '.')
        if not directory.is_dir():
            raise InvalidArgumentError(f'the working directory {cwd!r} does not exist in the sandbox')
        started = time.perf_counter()
        try:
            done = subprocess.run(
                argv,
                input=stdin.encode() if isinstance(stdin, str) else stdin or b'',
                capture_output=True,
                cwd=directory,
                env={**os.environ, **(env or {})},
                timeout=(self.timeout if timeout is None else timeout) or None,
                check=False,
            )
            code, out, err, timed_out = done.returncode, done.stdout, done.stderr, False
        except subprocess.TimeoutExpired as failure:
            code, out, err, timed_out = -9, failure.stdout or b'', failure.stderr or b'', True
        except FileNotFoundError:
            code, out, err, timed_out = 127, b'', f'{argv[0]}: not found\n'.encode(), False
        except PermissionError:
            code, out, err, timed_out = 126, b'', f'{argv[0]}: permission denied\n'.encode(), False
        ended = ExecutionStatus.TIMEOUT if timed_out else (ExecutionStatus.ERROR if code else ExecutionStatus.SUCCESS)
        return CommandResult(
            command=given,
            status=ended,
            exit_code=128 - code if code < 0 else code,
            signal=signal.Signals(-code).name if code < 0 else None,
            stdout=out.decode('utf-8', 'backslashreplace'),
            stderr=err.decode('utf-8', 'backslashreplace'),
            stdout_bytes=len(out),
            stderr_bytes=len(err),
            timed_out=timed_out,
            execution_time=time.perf_counter() - started,
        )

    # Files

    def read_file(self, path: str, *, offset: int = 0, max_bytes: int | None = None) -> bytes:
        answer = self._record('read_file', {'path': path, 'offset': offset, 'max_bytes': max_bytes})
        if answer is not None:
            return cast(bytes, answer)
        with _translated(path), self.host_path(path).open('rb') as file:
            file.seek(offset)
            return file.read(-1 if max_bytes is None else max_bytes)

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
        self._record('write_file', {'path': path, 'data': data, 'append': append, 'exclusive': exclusive})
        target = self.host_path(path)
        with _translated(path):
            if make_parents:
                target.parent.mkdir(parents=True, exist_ok=True)
            with target.open('xb' if exclusive else 'ab' if append else 'wb') as file:
                file.write(data)
            if mode is not None:
                target.chmod(mode)
            return target.stat().st_size

    def list_dir(self, path: str, *, recursive: bool = False, max_entries: int | None = None) -> list[PathInfo]:
        self._record('list_dir', {'path': path, 'recursive': recursive, 'max_entries': max_entries})
        top = self.host_path(path)
        with _translated(path):
            found = sorted(top.rglob('*')) if recursive else sorted(top.iterdir())
        return [_info(each, str(each.relative_to(top)), follow=False) for each in found][:max_entries]

    def stat_path(self, path: str, *, follow_symlinks: bool = True) -> PathInfo:
        self._record('stat_path', {'path': path, 'follow_symlinks': follow_symlinks})
        with _translated(path):
            return _info(self.host_path(path), os.path.join(self.working_dir, path), follow=follow_symlinks)

    def remove_path(self, path: str, *, recursive: bool = False, missing_ok: bool = False) -> None:
        self._record('remove_path', {'path': path, 'recursive': recursive, 'missing_ok': missing_ok})
        target = self.host_path(path)
        with _translated(path):
            if not os.path.lexists(target) and missing_ok:
                return
            if target.is_dir() and not target.is_symlink():
                shutil.rmtree(target) if recursive else target.rmdir()
            else:
                target.unlink()

    def make_dir(self, path: str, *, parents: bool = True, exist_ok: bool = True, mode: int = 0o755) -> None:
        self._record('make_dir', {'path': path, 'parents': parents, 'exist_ok': exist_ok, 'mode': mode})
        with _translated(path):
            self.host_path(path).mkdir(parents=parents, exist_ok=exist_ok, mode=mode)

    def move_path(self, source: str, target: str, *, overwrite: bool = False) -> None:
        self._record('move_path', {'source': source, 'target': target, 'overwrite': overwrite})
        if os.path.lexists(self.host_path(target)) and not overwrite:
            raise SandboxPathExistsError(f'{target!r} exists already')
        with _translated(source):
            self.host_path(source).rename(self.host_path(target))

    def copy_path(self, source: str, target: str, *, recursive: bool = False, overwrite: bool = False) -> None:
        self._record('copy_path', {'source': source, 'target': target, 'recursive': recursive, 'overwrite': overwrite})
        if os.path.lexists(self.host_path(target)) and not overwrite:
            raise SandboxPathExistsError(f'{target!r} exists already')
        with _translated(source):
            copy = shutil.copytree if self.host_path(source).is_dir() and recursive else shutil.copy2
            copy(self.host_path(source), self.host_path(target))


class _translated:
    """Reports the host's errors as a sandbox reports those of the guest."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, _: Any) -> None:
        if isinstance(error, FileNotFoundError):
            raise SandboxPathNotFoundError(f'{self._path!r} does not exist in the sandbox') from None
        if isinstance(error, FileExistsError):
            raise SandboxPathExistsError(f'{self._path!r} exists already') from None
        if isinstance(error, OSError):
            raise SandboxPathError(f'{self._path!r}: {error.strerror}') from None


def _info(path: Path, shown: str, *, follow: bool) -> PathInfo:
    facts = path.stat() if follow else path.lstat()
    kind: Literal['file', 'directory', 'symlink', 'other']
    if stat.S_ISLNK(facts.st_mode):
        kind = 'symlink'
    elif stat.S_ISDIR(facts.st_mode):
        kind = 'directory'
    else:
        kind = 'file' if stat.S_ISREG(facts.st_mode) else 'other'
    return PathInfo(
        path=shown,
        kind=kind,
        size=facts.st_size,
        mode=stat.S_IMODE(facts.st_mode),
        modified_at=datetime.fromtimestamp(facts.st_mtime, timezone.utc),
        uid=facts.st_uid,
        gid=facts.st_gid,
        target=os.readlink(path) if kind == 'symlink' else None,
    )
