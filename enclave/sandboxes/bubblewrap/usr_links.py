"""What of this machine's ``/etc`` is linked to from its ``/usr`` (sandboxes layer, bubblewrap).

Many programs keep their configuration in ``/etc`` and have a symlink to it where they look: Java's ``jvm.cfg``, without which it
does not start, Maven's ``conf``, R's ``Renviron``. A sandbox sees ``/usr``, so it is to see what these links lead to as well.

Looking through ``/usr`` takes some tenths of a second, so what was found is kept in the cache for as long as no package is
installed or removed.
"""

from __future__ import annotations

import collections
import contextlib
import hashlib
import json
import os
import posixpath
import time
from collections.abc import Iterable, Iterator
from functools import lru_cache

from enclave.sandboxes.bubblewrap.places import cache_dir, keep_file

ETC = '/etc'
_PLACES = ('bin', 'sbin', 'lib', 'lib64', 'libexec', 'local/bin', 'local/lib', 'local/share', 'share')
_SKIPPED = frozenset(
    (
        *('doc', 'man', 'info', 'locale', 'zoneinfo', 'icons', 'fonts', 'help', 'licenses', 'gtk-doc', 'include'),
        *(
            'src',
            'test',
            'tests',
            'node_modules',
            'dist-packages',
            'site-packages',
            'pkgs',
            'compiled',
            'modules',
            'firmware',
        ),
    )
)
"""Directories without links to a configuration. They hold most of what is there."""
_DEPTH = 5
"""How many directories below ``/usr`` are looked through; Java's are the deepest. See `_WHOLE_FROM`."""
_WHOLE_FROM = 3
"""From how many links into one directory of ``/etc`` on all of it is shown, as that of a program's own."""
_SHARED = frozenset(('ssl', 'pki', 'alternatives', 'systemd', 'default', 'security', 'pam.d', 'dbus-1', 'xdg', 'X11'))
"""Directories of ``/etc`` that are not one program's."""
_SECONDS = 10.0
"""How long may be looked."""
_PACKAGES = (
    '/var/lib/dpkg/status',
    '/var/lib/rpm/rpmdb.sqlite',
    '/var/lib/rpm/Packages',
    '/usr/lib/sysimage/rpm/rpmdb.sqlite',
    '/var/lib/pacman/local',
    '/lib/apk/db/installed',
    '/usr/bin',
    '/usr/lib',
    '/usr/local/bin',
    '/usr/local/lib',
)
"""What changes when programs are installed."""
PRIVATE = frozenset(
    (
        'environment',
        'environment.d',
        'fstab',
        'group',
        'gshadow',
        'hostname',
        'hosts',
        'krb5.keytab',
        'machine-id',
        'mtab',
        'netrc',
        'npmrc',
        'passwd',
        'pip.conf',
        'resolv.conf',
        'shadow',
        'ssh',
        'ssl/private',
        'sudoers',
        'sudoers.d',
    )
)
"""What no sandbox is shown, whatever links to it: it reports this machine, or may hold what is to stay here."""


def find_linked_names() -> list[str]:
    """Return the names below ``/etc`` that links in ``/usr`` lead to, sorted; a directory's name means all in it."""
    return _kept(_stamps())


def _stamps() -> str:
    found = []
    for path in _PACKAGES:
        with contextlib.suppress(OSError):
            facts = os.stat(path)
            found.append(f'{path} {facts.st_mtime_ns} {facts.st_size}')
    return '\n'.join(found)


@lru_cache(maxsize=2)
def _kept(stamps: str) -> list[str]:
    name = hashlib.sha256(f'1 {stamps}'.encode()).hexdigest()[:16]
    data = keep_file(cache_dir('etc') / f'links-{name}', lambda: json.dumps(_look('/usr')).encode())
    try:
        names = json.loads(data)
    except ValueError:
        return _look('/usr')
    return [each for each in names if isinstance(each, str)]


def _look(usr: str) -> list[str]:
    """Look through a ``/usr``, for as long as that may take."""
    until = time.monotonic() + _SECONDS
    names: set[str] = set()
    for path, target in _links(usr, until):
        place = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
        if place.startswith(f'{ETC}/'):
            names.add(place[len(ETC) + 1 :])
    tops = collections.Counter(name.split('/')[0] for name in names)
    names.update(top for top, count in tops.items() if count >= _WHOLE_FROM and top not in _SHARED)
    return sorted(with_targets(names))


def _links(usr: str, until: float) -> Iterator[tuple[str, str]]:
    """Yield the symlinks below some directories of ``/usr`` that may lead to ``/etc``: path and text."""
    todo = [f'{usr}/{place}' for place in _PLACES]
    deepest = usr.count('/') + _DEPTH
    while todo and time.monotonic() < until:
        folder = todo.pop()
        with contextlib.suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_symlink():
                    target = os.readlink(entry.path)
                    if 'etc/' in target:
                        yield entry.path, target
                elif entry.name not in _SKIPPED and folder.count('/') < deepest and entry.is_dir(follow_symlinks=False):
                    todo.append(entry.path)


def with_targets(names: Iterable[str]) -> set[str]:
    """Return names below ``/etc`` and those that they lead to, as those of ``alternatives`` do, without what is private."""
    found: set[str] = set()
    todo = list(names)
    with contextlib.suppress(OSError):
        todo += [f'alternatives/{each}' for each in os.listdir(f'{ETC}/alternatives')]
    while todo:
        name = todo.pop()
        if name in found or any(f'{name}/'.startswith(f'{each}/') for each in PRIVATE):
            continue
        path = f'{ETC}/{name}'
        if not name.startswith('alternatives/'):
            found.add(name)
        if os.path.islink(path):
            place = posixpath.normpath(posixpath.join(posixpath.dirname(path), os.readlink(path)))
            if place.startswith(f'{ETC}/'):
                todo.append(place[len(ETC) + 1 :])
    return {name for name in found if not any(name != other and name.startswith(f'{other}/') for other in found)}
