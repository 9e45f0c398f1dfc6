"""What tests of bubblewrap sandboxes look at on this machine itself."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from enclave.sandboxes.bubblewrap import backend as module
from enclave.sandboxes.bubblewrap import cgroups
from enclave.sandboxes.bubblewrap.cgroups import Cgroups
from enclave.testing.kinds import PATIENCE_SECONDS as PATIENCE
from enclave.testing.kinds import wait_until

__all__ = [
    'PATIENCE',
    'as_ordinary_user',
    'cgroups_of',
    'is_running',
    'no_cgroups',
    'not_recorded',
    'reachable_directory',
    'wait_until',
]


def is_running(pid: int) -> bool:
    """Return whether a process runs; one that is dead and waits to be reaped does not."""
    try:
        line = Path(f'/proc/{pid}/stat').read_bytes()
    except OSError:
        return False
    return line[line.rfind(b')') + 2 : line.rfind(b')') + 3] not in (b'Z', b'X')


@contextlib.contextmanager
def not_recorded() -> Iterator[None]:
    """Have coverage record nothing in here: it keeps something for every thread that is started, which is no growth of ours."""
    module = sys.modules.get('coverage')
    recorder = None if module is None else module.Coverage.current()
    if recorder is None:
        yield
        return
    recorder.stop()
    try:
        yield
    finally:
        recorder.start()


@contextlib.contextmanager
def no_cgroups(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(module, 'find_cgroups', lambda: Cgroups(version=0, parents={}))
    yield


@contextlib.contextmanager
def reachable_directory() -> Iterator[Path]:
    """Give a directory that every user can reach. One of pytest's is private again as soon as this user starts another pytest."""
    with tempfile.TemporaryDirectory(prefix='enclave-tests-') as name:
        place = Path(name)
        place.chmod(0o755)
        yield place


def cgroups_of(sandbox_id: str) -> list[Path]:
    return [place for each in cgroups.find_cgroups().directories for place in each.glob(f'{sandbox_id}@*')]


def as_ordinary_user(program: str) -> str:
    """Run a Python program as a user without rights, by this machine's own Python; return its standard output.

    It has a home of its own, and imports this checkout, and what this process has installed. Skips the test where that cannot be.
    """
    import attrs

    setpriv, python = shutil.which('setpriv'), '/usr/bin/python3'
    if os.geteuid() != 0 or setpriv is None:
        pytest.skip('needs root, to be another user, and setpriv')
    site = str(Path(attrs.__file__).parent.parent)
    command = [setpriv, '--reuid=12345', '--regid=12345', '--clear-groups', python, '-c']
    with reachable_directory() as home:
        os.chown(home, 12345, 12345)
        env = {'HOME': str(home), 'PYTHONPATH': f'{Path.cwd()}:{site}', 'PATH': '/usr/bin:/bin'}
        probe = _run([*command, 'import enclave.wire'], env)
        if probe.returncode:
            pytest.skip(f'another user cannot import this checkout: {probe.stderr[-200:]}')
        found = _run([*command, program], env)
    assert found.returncode == 0, found.stderr
    return found.stdout


def _run(command: list[str], env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=PATIENCE, check=False)
