"""What a bubblewrap sandbox sees of programs (layer 4): this machine's ``/usr``, a directory, or an unpacked image.

All of it is read-only, and nothing is shown that was not asked for: no home, no ``/var``, no ``/run``, no ``/etc`` but
a small one of our own, copied together once and kept in the cache.

A directory or an image may be a stranger's: what this process reads of it, often as root, it finds with `resolve_inside`
and opens with `open_inside`, so that no symlink in it leads to a file of this machine.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from attrs import define, field, frozen

from enclave.config import MIB, check_env
from enclave.errors import ImageNotFoundError, InvalidArgumentError, SandboxStartError
from enclave.sandboxes.bubblewrap.layout import is_below
from enclave.sandboxes.bubblewrap.places import VARIABLE, cache_dir, keep_tree
from enclave.sandboxes.bubblewrap.usr_links import find_linked_names, with_targets

UID = 1000
"""Who the code in a sandbox is: the user and group ``sandbox``. Outside it is `BubblewrapSandboxConfig.host_uid`."""
HOME = '/home/sandbox'
DEFAULT_PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'
FACTS_FILE = 'enclave.json'

_HOST_ETC = (
    'R',
    'alternatives',
    'ca-certificates',
    'crypto-policies',
    'debian_version',
    'fonts',
    'fpc.cfg',
    'gnucobol',
    'inputrc',
    'ld.so.cache',
    'ld.so.conf',
    'ld.so.conf.d',
    'ldc2.conf',
    'localtime',
    'locale.alias',
    'magic',
    'mime.types',
    'mono/2.0',
    'mono/4.0',
    'mono/4.5',
    'mono/config',
    'nim',
    'ocamlfind.conf',
    'octaverc',
    'os-release',
    'perl',
    'php',
    'pki/ca-trust',
    'pki/tls',
    'protocols',
    'racket',
    'sbclrc',
    'services',
    'shells',
    'ssl/certs',
    'ssl/openssl.cnf',
    'terminfo',
    'timezone',
)
"""What programs need of ``/etc`` and what holds no secret; not ``pki`` and ``ssl`` as a whole, which hold private
keys."""
ENVIRONMENT_PARTS = ('bin', 'lib', 'lib64', 'pyvenv.cfg', 'share/jupyter')
"""What a Python environment is made of, in its directory: programs, modules, its own settings, kinds of kernels."""
_ETC_BYTES = 64 * MIB
"""The most that is copied of an ``/etc``; Debian's with everything in it has a tenth of that."""
_ETC_ENTRIES = 20_000
_ETC_DEPTH = 32
_USERS_BYTES = 1 * MIB
"""The most that is read of a ``passwd`` or ``group`` file."""
LINKS = 40
"""How many symlinks the kernel follows for one path, path_resolution(7)."""
_PRIVATE = frozenset(('dev', 'proc', 'sys', 'tmp', 'run', 'home', 'root', 'etc', 'mnt', 'media', 'boot', 'lost+found'))
"""Top directories of a root file system that a sandbox has its own of, or has no use for."""


@frozen(kw_only=True)
class View:
    """How a root file system is shown.

    Attributes:
        trees: What is shown read-only, ``(host path, path inside)``.
        links: Symlinks, ``(target, path)``.
        python: The interpreter for the agent, as seen inside.
        path: The value of ``PATH``.
        env: Further variables, an image's own.
        key: Distinguishes interpreters, for what is compiled for it.
    """

    trees: tuple[tuple[str, str], ...]
    links: tuple[tuple[str, str], ...]
    python: str
    path: str
    key: str
    env: dict[str, str] = field(factory=dict)


def get_view(rootfs: str | None, python: str | None, *, network: bool, whole: bool = True) -> View:
    """Return how to show what a configuration names; looked at afresh every ten seconds.

    Args:
        whole: Show all that lies beside the interpreter, as the one that names it asks for; else only what an environment is made
            of (`ENVIRONMENT_PARTS`), since other things may lie there too.

    Raises:
        ImageNotFoundError: It names an image that is not unpacked.
        SandboxStartError: The directory, or an interpreter in it, is not there.
    """
    key = (rootfs, python, network, whole, os.environ.get(VARIABLE))
    found = _views.get(key)
    if found is None or time.monotonic() - found[0] > _REMEMBER_SECONDS:
        found = _views[key] = (time.monotonic(), _look(rootfs, python, network=network, whole=whole))
    return found[1]


_REMEMBER_SECONDS = 10.0
_views: dict[tuple[object, ...], tuple[float, View]] = {}  # single reads and writes, so no lock


def _look(rootfs: str | None, python: str | None, *, network: bool, whole: bool) -> View:
    if rootfs is None:
        return _host_view(python, network=network, whole=whole)
    facts: dict[str, str] = {}
    place = Path(rootfs)
    if not rootfs.startswith('/'):
        place, facts = find_unpacked(rootfs)
    if not place.is_dir():
        raise SandboxStartError(f'rootfs: {rootfs!r} is not a directory on this machine')
    try:
        return _tree_view(place, rootfs, facts, network=network)
    except OSError as error:
        raise SandboxStartError(f'rootfs: {rootfs!r} cannot be read: {error.strerror}: {error.filename}') from error


# This machine's own ---------------------------------------------------------------------------------------------------


_STORES = ('/nix/store', '/gnu/store', '/var/lib/ghc/package.conf.d', '/var/lib/texmf')
"""Where programs are, or what those in ``/usr`` cannot do without: lists of packages that lie in ``/var`` with Debian."""


def _host_view(python: str | None, *, network: bool, whole: bool) -> View:
    trees, links = [('/usr', '/usr')], []
    for name in ('bin', 'sbin', 'lib', 'lib32', 'lib64', 'libx32'):
        top = Path('/', name)
        if top.is_symlink():
            links.append((os.readlink(top), str(top)))
        elif top.is_dir():
            trees.append((str(top), str(top)))
    for store in _STORES:
        if os.path.isdir(store) and not os.path.islink(store):
            trees.append((store, store))
    trees.append((str(_host_etc(network=network)), '/etc'))
    found, path = None if python is None else plain_program(python), DEFAULT_PATH
    if found is not None:
        shown = find_interpreter_trees(found)
        if not whole:
            parts = [(f'{source}/{part}', f'{path}/{part}') for source, path in shown for part in ENVIRONMENT_PARTS]
            shown = [each for each in parts if os.path.exists(each[0])]
        trees += shown
        path = f'{os.path.dirname(found)}:{path}'
    else:
        found = find_system_python()
        if found is None:
            raise SandboxStartError(
                "this machine's /usr has no python3, which the program inside needs; set python to an interpreter, "
                'or rootfs to a directory or an unpacked image that has one'
            )
        found = os.path.realpath(found)
    return View(trees=tuple(trees), links=tuple(links), python=found, path=path, key=_interpreter_key(found))


def find_system_python() -> str | None:
    """Return the path of this machine's own ``python3``, or None."""
    return shutil.which('python3', path=DEFAULT_PATH)


def find_interpreter_trees(python: str) -> list[tuple[str, str]]:
    """Return what an interpreter outside ``/usr`` needs: its environment, the Python that is made from, and what lies on the way.

    An environment often links to a link, and each must be there inside too, under the name that leads to it. Nothing on the
    way is looked for by its text alone: a symlink may stand anywhere in them.

    Returns:
        ``(host path, path inside)``, the host path with all links resolved.

    Raises:
        SandboxStartError: It is no program.
    """
    if not os.access(python, os.X_OK):
        raise SandboxStartError(f'python: {python!r} is not a program on this machine')
    steps = [python]
    while os.path.islink(steps[-1]) and len(steps) < LINKS:
        steps.append(os.path.join(os.path.dirname(steps[-1]), os.readlink(steps[-1])))
    prefixes = [os.path.dirname(_plain(os.path.dirname(each))) for each in (*steps, os.path.realpath(python))]
    # Where the name of a prefix leads through a symlink, a link inside may lead to either name of it.
    trees = dict.fromkeys(
        (os.path.realpath(each), place) for each in prefixes for place in (each, os.path.realpath(each))
    )
    own = [(source, path) for source, path in trees if '/' not in (source, path) and not f'{path}/'.startswith('/usr/')]
    return [
        each for each in own if not any(each != other and f'{each[1]}/'.startswith(f'{other[1]}/') for other in own)
    ]


def plain_program(path: str) -> str:
    """Return a program's path without dots in it: directories that it leads through and back again are in no sandbox."""
    folder, name = os.path.split(path)
    return os.path.join(_plain(folder), name)


def _plain(folder: str) -> str:
    """Return a directory's path without dots: as it is spelled if that leads to the same, else as it is resolved."""
    plain, real = os.path.normpath(folder), os.path.realpath(folder)
    return plain if os.path.realpath(plain) == real else real


def _interpreter_key(path: str) -> str:
    facts = os.stat(path)
    return f'{os.path.realpath(path)} {facts.st_dev} {facts.st_ino} {facts.st_mtime_ns} {facts.st_size}'


def _host_etc(*, network: bool) -> Path:
    linked = with_targets(_HOST_ETC) - {*_HOST_ETC} | {*find_linked_names()}
    # What is below another name comes with that.
    further = sorted(each for each in linked if not any(is_below(each, name) for name in _HOST_ETC))
    names = [*_HOST_ETC, *further, *(('resolv.conf', 'nsswitch.conf', 'gai.conf', 'host.conf') if network else ())]
    seen = [f'{name} {_stamp(Path("/etc", name))}' for name in names]
    return _keep_etc(repr((_ETC_FORMAT, network, seen)), lambda place: _copy_from_host(names, place), lambda name: [])


def _stamp(path: Path) -> str:
    try:
        facts = path.stat()
    except OSError:
        return ''
    return f'{facts.st_mtime_ns} {facts.st_size}'


# A tree ---------------------------------------------------------------------------------------------------------------


def _tree_view(place: Path, name: str, facts: dict[str, str], *, network: bool) -> View:
    trees: list[tuple[str, str]] = []
    links: list[tuple[str, str]] = []
    for entry in sorted(place.iterdir()):
        if entry.name in _PRIVATE:
            continue
        if entry.is_symlink():
            links.append((os.readlink(entry), f'/{entry.name}'))
        elif entry.is_dir():
            trees.append((str(entry), f'/{entry.name}'))
    trees.append((str(_tree_etc(place, name, network=network)), '/etc'))
    path = facts.get('PATH') or DEFAULT_PATH
    useless = None
    for folder in path.split(':'):
        found = resolve_inside(place, f'{folder}/python3') if folder.startswith('/') else None
        if found is None:
            continue
        if found.is_file() and os.access(found, os.X_OK):
            inside = f'/{found.relative_to(place)}'
            env = {key: value for key, value in facts.items() if key != 'PATH'}
            key = f'{place} {_interpreter_key(str(found))}'
            return View(trees=tuple(trees), links=tuple(links), python=inside, path=path, env=env, key=key)
        useless = useless or f'{folder}/python3'
    if useless:
        raise SandboxStartError(
            f'rootfs: {name!r} has a {useless}, which the program inside needs, but it cannot be executed: it is no file, or '
            'lacks the permission (chmod 755)'
        )
    raise SandboxStartError(
        f'rootfs: {name!r} has no python3 on its PATH ({path}), which the program inside needs; use one that has'
    )


def resolve_inside(root: Path, path: str) -> Path | None:
    """Return where a path leads when ``root`` is the root directory, following symlinks as a process in it would; None if
    nothing is there. What it returns lies below ``root``."""
    base = os.fspath(root)
    todo = [part for part in reversed(path.split('/')) if part]
    done: list[str] = []
    for _ in range(1000):
        if not todo:
            return root.joinpath(*done)
        part = todo.pop()
        if part in ('.', '..'):
            done = done[: -1 if part == '..' else None]
            continue
        here = '/'.join((base, *done, part))
        try:
            mode = os.lstat(here).st_mode
        except OSError:
            return None
        if stat.S_ISLNK(mode):
            target = os.readlink(here)
            todo += [each for each in reversed(target.split('/')) if each]
            if target.startswith('/'):
                done = []
        else:
            done.append(part)
    return None


def open_inside(root: Path, path: str) -> int:
    """Return a descriptor for reading what a path leads to when ``root`` is the root directory; see `resolve_inside`.

    No symlink is followed but by us, also when one is put in the way meanwhile; opening waits for nobody.

    Raises:
        OSError: Nothing is there, or it may not be read.
    """
    found = resolve_inside(root, path)
    if found is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
    here = os.open(root, os.O_PATH | os.O_DIRECTORY)
    try:
        for folder in found.relative_to(root).parts[:-1]:
            deeper = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=here)
            os.close(here)
            here = deeper
        return os.open(found.name if found != root else '.', _READ | os.O_NOFOLLOW, dir_fd=here)
    finally:
        os.close(here)


# /etc -----------------------------------------------------------------------------------------------------------------

_READ = os.O_RDONLY | getattr(os, 'O_NONBLOCK', 0) | getattr(os, 'O_CLOEXEC', 0)  # also where this is only imported
_ETC_FORMAT = 5
"""To be raised when what is put into an ``/etc`` changes: one that is kept is used for as long as this stays."""
_WRITTEN = frozenset(('hosts', 'hostname', 'passwd', 'group'))
"""What a sandbox has its own of in ``/etc``."""


def _copy_from_host(names: Iterable[str], place: Path) -> None:
    with _opened(os.open('/etc', os.O_RDONLY | os.O_DIRECTORY)) as folder:
        copier = _Copier(follows=True)
        for name in names:
            copier.copy(folder, name, place / name)


def _tree_etc(root: Path, rootfs: str, *, network: bool) -> Path:
    found = resolve_inside(root, '/etc')
    if found is not None and not found.is_dir():
        found = None

    def copy(place: Path) -> None:
        if found is not None:
            copier = _Copier(follows=False)
            with _opened(open_inside(root, '/etc')) as folder:
                for name in sorted({*os.listdir(folder)} - _WRITTEN - ({'resolv.conf'} if network else set())):
                    copier.copy(folder, name, place / name)
            if copier.is_full:
                raise SandboxStartError(
                    f'rootfs: the /etc of {rootfs!r} has more than {_ETC_ENTRIES} entries or {_ETC_BYTES} bytes'
                )
        if network:
            _copy_from_host(['resolv.conf'], place)

    def lines(name: str) -> list[str]:
        with contextlib.suppress(OSError), open(open_inside(root, f'/etc/{name}'), 'rb') as file:
            text = file.read(_USERS_BYTES).decode('utf-8', 'surrogateescape')
            return [line for line in text.splitlines() if line.strip() and ':1000:' not in line]
        return []

    stamps = [_stamp(found) if found else '', _stamp(Path('/etc/resolv.conf')) if network else '']
    return _keep_etc(repr((_ETC_FORMAT, network, str(root), stamps)), copy, lines)


def _keep_etc(key: str, copy: Callable[[Path], None], lines: Callable[[str], list[str]]) -> Path:
    """Return a directory that is ``/etc`` for sandboxes, made once for what it is made from.

    Args:
        copy: Puts into a directory what is to be in it besides what is written here.
        lines: Returns the lines of ``passwd`` or ``group``, if there are any to keep.
    """

    def fill(place: Path) -> None:
        copy(place)
        _write(place / 'hosts', ['127.0.0.1 localhost sandbox', '::1 localhost ip6-localhost ip6-loopback'])
        _write(place / 'hostname', ['sandbox'])
        # Of this machine's users none exists in a sandbox, nobody included: no file can be given to one.
        users, groups = lines('passwd'), lines('group')
        _write(place / 'passwd', [*users, f'sandbox:x:{UID}:{UID}:sandbox:{HOME}:/bin/sh'])
        _write(place / 'group', [*groups, f'sandbox:x:{UID}:'])
        if not os.path.lexists(place / 'nsswitch.conf'):
            _write(place / 'nsswitch.conf', ['passwd: files', 'group: files', 'hosts: files dns'])

    name = hashlib.sha256(key.encode('utf-8', 'surrogateescape')).hexdigest()[:16]
    return keep_tree(cache_dir('etc') / name, fill)


def _write(path: Path, lines: Iterable[str]) -> None:
    with open(path, 'x', encoding='utf-8', errors='surrogateescape') as file:
        file.writelines(f'{line}\n' for line in lines)
        os.fchmod(file.fileno(), 0o644)


@contextlib.contextmanager
def _opened(descriptor: int) -> Iterator[int]:
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@define(eq=False)
class _Copier:
    """Copies files and trees for everybody to read; what is not for everybody is left out, and so is what cannot be read.

    Attributes:
        follows: Whether a link is followed that leads where a sandbox sees nothing, as this machine's own may. All others
            stay links.
        is_full: Whether something was left out since there was too much.
    """

    follows: bool
    is_full: bool = field(default=False, init=False)
    _left_bytes: int = field(default=_ETC_BYTES, init=False)
    _left_entries: int = field(default=_ETC_ENTRIES, init=False)

    def copy(self, folder: int, name: str, target: Path, depth: int = 0) -> None:
        """Copy what a name in an open directory refers to, which may be missing."""
        self._left_entries -= 1
        if self._left_entries < 0 or depth > _ETC_DEPTH:
            self.is_full = True
            return
        with contextlib.suppress(OSError):
            mode = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
            target.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
            if stat.S_ISLNK(mode) and self._is_followed(folder, name):
                self._copy_file(os.open(name, _READ, dir_fd=folder), target)
            elif stat.S_ISLNK(mode):
                target.symlink_to(os.readlink(name, dir_fd=folder))
            elif stat.S_ISDIR(mode):
                target.mkdir(exist_ok=True, mode=0o755)
                with _opened(os.open(name, _READ | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)) as deeper:
                    for each in sorted(os.listdir(deeper)):
                        self.copy(deeper, each, target / each, depth + 1)
            elif stat.S_ISREG(mode):
                self._copy_file(os.open(name, _READ | os.O_NOFOLLOW, dir_fd=folder), target)

    def _is_followed(self, folder: int, name: str) -> bool:
        if not self.follows:
            return False
        real = os.path.realpath(f'/proc/self/fd/{folder}/{name}')
        return name == 'resolv.conf' or real.startswith(('/run/', '/var/'))

    def _copy_file(self, descriptor: int, target: Path) -> None:
        with open(descriptor, 'rb') as source:
            facts = os.fstat(descriptor)
            if not stat.S_ISREG(facts.st_mode) or not facts.st_mode & 0o004:
                return
            if facts.st_size > self._left_bytes:
                self.is_full = True
                return
            # No more than was announced, should it grow meanwhile.
            data = source.read(facts.st_size)
            self._left_bytes -= len(data)
            with open(target, 'xb') as file:
                file.write(data)
                os.fchmod(file.fileno(), 0o755 if facts.st_mode & 0o111 else 0o644)


# Unpacked images ------------------------------------------------------------------------------------------------------


def image_place(name: str) -> Path:
    """Return the directory in the cache for an image of this name, whether it is there or not."""
    full = name if ':' in name.rsplit('/', 1)[-1] or '@' in name else f'{name}:latest'
    return cache_dir('images') / full.replace('%', '%25').replace('/', '%2F')


def find_unpacked(name: str) -> tuple[Path, dict[str, str]]:
    """Return an unpacked image's root directory and its environment, less what can be no variable.

    Raises:
        ImageNotFoundError: It is not unpacked.
    """
    place = image_place(name)
    try:
        facts = json.loads((place / FACTS_FILE).read_text('utf-8'))
    except (OSError, ValueError):
        raise ImageNotFoundError(
            f'the image {name!r} is not unpacked on this machine; run: ms-enclave images unpack {name}'
        ) from None
    return place / 'root', {key: value for key, value in facts.get('env', {}).items() if _is_variable(key, value)}


def _is_variable(name: object, value: object) -> bool:
    try:
        check_env({name: value}, 'env')
    except InvalidArgumentError:
        return False
    return True
