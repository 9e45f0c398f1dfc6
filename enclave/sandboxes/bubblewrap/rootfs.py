"""What a bubblewrap sandbox sees of programs (floor 4): this machine's ``/usr``, a directory, or an unpacked image.

All of it is read-only, and nothing is shown that was not asked for: no home, no ``/var``, no ``/run``, no ``/etc`` but
a small one of our own, copied together once and kept in the cache.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import stat
import time
from pathlib import Path

from attrs import field, frozen

from enclave.errors import ImageNotFoundError, SandboxStartError
from enclave.sandboxes.bubblewrap.places import VARIABLE, cache_dir, keep_tree

UID = 1000
"""Who the code in a sandbox is: the user and group ``sandbox``. Outside it is `BubblewrapSandboxConfig.host_uid`."""
HOME = '/home/sandbox'
DEFAULT_PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'
FACTS_FILE = 'enclave.json'

_HOST_ETC = (
    'alternatives',
    'ca-certificates',
    'crypto-policies',
    'debian_version',
    'fonts',
    'ld.so.cache',
    'ld.so.conf',
    'ld.so.conf.d',
    'localtime',
    'magic',
    'mime.types',
    'os-release',
    'pki/ca-trust',
    'pki/tls',
    'protocols',
    'services',
    'shells',
    'ssl/certs',
    'ssl/openssl.cnf',
    'timezone',
)
"""What programs need of ``/etc`` and what holds no secret; not ``pki`` and ``ssl`` as a whole, which hold private
keys."""
ENVIRONMENT_PARTS = ('bin', 'lib', 'lib64', 'pyvenv.cfg', 'share/jupyter')
"""What a Python environment is made of, in its directory: programs, modules, its own settings, kinds of kernels."""
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
        key: Tells one interpreter from another, for what is compiled for it.
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
        whole: Show all that lies beside the interpreter, as whoever names it asks for; else only what an environment is made
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
    return _tree_view(place, rootfs, facts, network=network)


# This machine's own ---------------------------------------------------------------------------------------------------


def _host_view(python: str | None, *, network: bool, whole: bool) -> View:
    trees, links = [('/usr', '/usr')], []
    for name in ('bin', 'sbin', 'lib', 'lib32', 'lib64', 'libx32'):
        top = Path('/', name)
        if top.is_symlink():
            links.append((os.readlink(top), str(top)))
        elif top.is_dir():
            trees.append((str(top), str(top)))
    for store in ('/nix/store', '/gnu/store'):
        if os.path.isdir(store):
            trees.append((store, store))
    trees.append((str(_host_etc(network=network)), '/etc'))
    found, path = python, DEFAULT_PATH
    if found is not None:
        trees += _interpreter_trees(found, whole=whole)
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


def _interpreter_trees(python: str, *, whole: bool) -> list[tuple[str, str]]:
    """Return what an interpreter outside ``/usr`` needs: of its environment, and of the Python that is made from."""
    if not os.access(python, os.X_OK):
        raise SandboxStartError(f'python: {python!r} is not a program on this machine')
    real = os.path.realpath(python)
    trees = [os.path.dirname(os.path.dirname(each)) for each in (python, real)]
    # A symlink on the way (an environment often links to a link) must be there inside too.
    step = python
    while os.path.islink(step):
        step = os.path.normpath(os.path.join(os.path.dirname(step), os.readlink(step)))
        trees.append(os.path.dirname(os.path.dirname(step)))
    own = [each for each in dict.fromkeys(trees) if each != '/' and not f'{each}/'.startswith('/usr/')]
    if not whole:
        parts = (os.path.join(each, part) for each in own for part in ENVIRONMENT_PARTS)
        own = [each for each in parts if os.path.exists(each)]
    kept = [each for each in own if not any(each != other and f'{each}/'.startswith(f'{other}/') for other in own)]
    return [(each, each) for each in kept]


def _interpreter_key(path: str) -> str:
    facts = os.stat(path)
    return f'{os.path.realpath(path)} {facts.st_dev} {facts.st_ino} {facts.st_mtime_ns} {facts.st_size}'


def _host_etc(*, network: bool) -> Path:
    names = [*_HOST_ETC, *(('resolv.conf', 'nsswitch.conf', 'gai.conf', 'host.conf') if network else ())]
    seen = [f'{name} {_stamp(Path("/etc", name))}' for name in names]
    return _keep_etc(repr((2, network, seen)), Path('/etc'), names, network=network)


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
    source = place / 'etc'
    names = sorted(each.name for each in source.iterdir()) if source.is_dir() else []
    mark = _stamp(Path('/etc/resolv.conf')) if network else ''
    etc = _keep_etc(repr((2, network, str(place), _stamp(source), mark)), source, names, network=network)
    trees.append((str(etc), '/etc'))
    path = facts.get('PATH') or DEFAULT_PATH
    for folder in path.split(':'):
        found = resolve_inside(place, f'{folder}/python3') if folder.startswith('/') else None
        if found is not None and os.access(found, os.X_OK):
            inside = f'/{found.relative_to(place)}'
            env = {key: value for key, value in facts.items() if key != 'PATH'}
            key = f'{place} {_interpreter_key(str(found))}'
            return View(trees=tuple(trees), links=tuple(links), python=inside, path=path, env=env, key=key)
    raise SandboxStartError(
        f'rootfs: {name!r} has no python3 on its PATH ({path}), which the program inside needs; use one that has'
    )


def resolve_inside(root: Path, path: str) -> Path | None:
    """Return where a path leads when ``root`` is the root directory, following symlinks as a process in it would; None if
    nothing is there. What it returns lies below ``root``."""
    todo = [part for part in path.split('/') if part]
    done: list[str] = []
    for _ in range(1000):
        if not todo:
            return root.joinpath(*done)
        part = todo.pop(0)
        if part in ('.', '..'):
            done = done[: -1 if part == '..' else None]
            continue
        here = root.joinpath(*done, part)
        try:
            mode = here.lstat().st_mode
        except OSError:
            return None
        if stat.S_ISLNK(mode):
            target = os.readlink(here)
            todo = [each for each in target.split('/') if each] + todo
            if target.startswith('/'):
                done = []
        else:
            done.append(part)
    return None


# /etc -----------------------------------------------------------------------------------------------------------------


def _keep_etc(key: str, source: Path, names: list[str], *, network: bool) -> Path:
    """Return a directory that is ``/etc`` for sandboxes, made once for what it is made from."""

    def fill(place: Path) -> None:
        for name in names:
            _copy(source / name, place / name)
        if network:
            _copy(Path('/etc/resolv.conf'), place / 'resolv.conf')
        _write(place / 'hosts', '127.0.0.1 localhost sandbox\n::1 localhost ip6-localhost ip6-loopback\n')
        _write(place / 'hostname', 'sandbox\n')
        users = [line for line in _lines(source / 'passwd' if source != Path('/etc') else None) if ':1000:' not in line]
        groups = [line for line in _lines(source / 'group' if source != Path('/etc') else None) if ':1000:' not in line]
        users = users or ['root:x:0:0:root:/root:/bin/sh', 'nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin']
        groups = groups or ['root:x:0:', 'nogroup:x:65534:']
        _write(place / 'passwd', '\n'.join([*users, f'sandbox:x:{UID}:{UID}:sandbox:{HOME}:/bin/sh', '']))
        _write(place / 'group', '\n'.join([*groups, f'sandbox:x:{UID}:', '']))
        if not (place / 'nsswitch.conf').exists():
            _write(place / 'nsswitch.conf', 'passwd: files\ngroup: files\nhosts: files dns\n')

    name = hashlib.sha256(key.encode()).hexdigest()[:16]
    return keep_tree(cache_dir('etc') / name, fill)


def _lines(path: Path | None) -> list[str]:
    if path is None:
        return []
    try:
        return [line for line in path.read_text('utf-8', 'surrogateescape').splitlines() if line.strip()]
    except OSError:
        return []


def _write(path: Path, text: str) -> None:
    with contextlib.suppress(OSError):
        path.unlink()
    path.write_text(text, 'utf-8', 'surrogateescape')
    path.chmod(0o644)


def _copy(source: Path, target: Path) -> None:
    """Copy a file or a tree for everybody to read. Links stay links, unless they lead where a sandbox sees nothing; what is
    not for everybody is left out."""
    try:
        mode = source.lstat().st_mode
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
        if stat.S_ISLNK(mode):
            link = os.readlink(source)
            leads_to_run = os.path.realpath(source).startswith(('/run/', '/var/'))
            if leads_to_run or target.name == 'resolv.conf':
                shutil.copyfile(source, target)
                target.chmod(0o644)
            elif not target.is_symlink():
                target.symlink_to(link)
        elif stat.S_ISDIR(mode):
            target.mkdir(exist_ok=True, mode=0o755)
            for each in sorted(source.iterdir()):
                _copy(each, target / each.name)
        elif stat.S_ISREG(mode) and mode & 0o004:
            shutil.copyfile(source, target)
            target.chmod(0o755 if mode & 0o111 else 0o644)
    except OSError:
        return


# Unpacked images ------------------------------------------------------------------------------------------------------


def image_place(name: str) -> Path:
    """Return the directory in the cache for an image of this name, whether it is there or not."""
    full = name if ':' in name.rsplit('/', 1)[-1] or '@' in name else f'{name}:latest'
    return cache_dir('images') / full.replace('%', '%25').replace('/', '%2F')


def find_unpacked(name: str) -> tuple[Path, dict[str, str]]:
    """Return an unpacked image's root directory and its environment.

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
    return place / 'root', dict(facts.get('env', {}))
