"""A way to run code, from the measuring side: a process of `benchmarks.driver` in an environment of its own."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from attrs import define, field, frozen

HERE = Path(__file__).parent
PATIENCE_SECONDS = 150.0


class ParticipantError(Exception):
    """The way could not do what was asked; the message is its own."""


@frozen(kw_only=True)
class Entry:
    """A way that may take part."""

    name: str
    """What the tables call it."""
    file: str
    """Its file in ``ways``."""
    way: str
    """Its class."""
    settings: Mapping[str, str] = field(factory=dict)
    packages: tuple[str, ...] = ()
    """What is installed into an environment of its own; none: this environment runs it."""
    environ: Callable[[], Mapping[str, str]] = dict
    """More variables of its environment, asked for when it starts."""
    note: str = ''
    """How it was set up where that is not its default."""
    is_ours: bool = False


@define(eq=False)
class Participant:
    """A way that takes part, or the reason why it does not."""

    entry: Entry
    reason: str = ''
    """Why it does not take part (any more)."""
    operations: tuple[str, ...] = ()
    failures: dict[str, str] = field(factory=dict)
    """Operations that failed, and why; it takes part with the others."""
    version: str = ''
    _process: subprocess.Popen[str] | None = None
    _log: Path | None = None

    @property
    def name(self) -> str:
        return self.entry.name

    def begin(self, log: Path) -> None:
        """Start the process, in an environment that is made now if it is not there."""
        self._log = log
        try:
            python = find_python(self.entry)
            self.version = version_of(python, self.entry)
            command = [str(python), str(HERE / 'driver.py'), str(HERE / 'ways' / self.entry.file), self.entry.way]
            command += [f'{key}={value}' for key, value in self.entry.settings.items()]
            environ = {
                **os.environ,
                'PYTHONPATH': '' if self.entry.packages else str(HERE.parent),
                **self.entry.environ(),
            }
            environ['TMPDIR'] = str(log.parent)  # which goes with the logs
            with open(log, 'w') as errors:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    text=True,
                    env=environ,
                    cwd=log.parent,
                )
            self.operations = tuple(self.receive()['operations'])
            self.ask('prepare')
        except (ParticipantError, OSError, subprocess.CalledProcessError) as error:
            self.drop(str(error))

    def ask(self, what: str, **arguments: Any) -> dict[str, Any]:
        """Have it do something and return its answer.

        Raises:
            ParticipantError: It could not.
        """
        self.send(what, **arguments)
        return self.receive()

    def send(self, what: str, **arguments: Any) -> None:
        """Have it do something; `receive` waits for its answer."""
        if self._process is None:
            raise ParticipantError(self.reason or 'it does not run')
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({'do': what, **arguments}) + '\n')
            self._process.stdin.flush()
        except OSError as error:
            raise ParticipantError(f'its process ended: {self._stderr_tail()}') from error

    def receive(self) -> dict[str, Any]:
        assert self._process is not None
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], PATIENCE_SECONDS)
        if not ready:
            self._process.kill()  # its clean-up would hang as well
            self._process.wait()
            raise ParticipantError(f'no answer within {PATIENCE_SECONDS:.0f} s')
        line = self._process.stdout.readline()
        if not line:
            raise ParticipantError(f'its process ended: {self._stderr_tail()}')
        answer: dict[str, Any] = json.loads(line)
        if 'error' in answer:
            raise ParticipantError(answer['error'])
        return answer

    def _stderr_tail(self) -> str:
        lines = self._log.read_text('utf-8', 'replace').strip().splitlines() if self._log is not None else []
        return lines[-1][:300] if lines else 'it printed nothing'

    def give_up(self, operation: str, error: ParticipantError) -> None:
        """Do without an operation that failed; without its process it takes part no longer."""
        reason = ' '.join(str(error).split())[:300]
        if self._process is None or self._process.poll() is not None:
            self.drop(reason)
            return
        self.failures[operation] = reason
        self.operations = tuple(each for each in self.operations if each != operation)

    def drop(self, reason: str) -> None:
        """Let it take part no longer."""
        self.reason = ' '.join(reason.split())[:500]
        self.end()

    def end(self) -> None:
        """Have it clean up, and end its process."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            self._process = process
            with contextlib.suppress(ParticipantError):
                self.ask('end')
            self._process = None
        try:
            process.communicate(timeout=20)
        except (OSError, subprocess.TimeoutExpired):
            process.kill()
            process.communicate()


def find_python(entry: Entry) -> Path:
    """Return the Python that runs a way."""
    if not entry.packages:
        return Path(sys.executable)
    from tests.support.environments import environment

    return environment(f'bench-{entry.file.removesuffix(".py").replace("_", "-")}', *entry.packages, with_enclave=False)


def version_of(python: Path, entry: Entry) -> str:
    """Return the version of the first package of a way's environment."""
    if not entry.packages:
        return ''
    name = entry.packages[0].split('==')[0].split('[')[0]
    code = f'import importlib.metadata as m; print(m.version({name!r}))'
    return subprocess.run([str(python), '-I', '-c', code], capture_output=True, text=True, check=False).stdout.strip()
