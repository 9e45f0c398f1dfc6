"""Where in a bubblewrap sandbox the working directory and the volumes may be (layer 4).

bubblewrap makes what is missing on the way to a mount, follows the symlinks it meets there, and does so while this machine's
root is still in view. Both a root file system and a volume may hold symlinks that a stranger made. So a place is looked at
before: what stands in its way is reported by name, and no symlink is followed.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Sequence

from attrs import frozen

from enclave.errors import ConfigurationError, SandboxStartError

_OWN = ('/proc', '/sys', '/dev')
"""What the agent needs as the kernel has it: there it finds what it has to kill, and whether memory ran out."""
_SHARED_MEMORY = '/dev/shm'
_MOST_ENTRIES = 1000
"""How many mounts a directory may be shown by."""


@frozen
class VisiblePath:
    """A host path that is shown in a sandbox at a path, and whether the sandbox may write there."""

    source: str
    path: str
    is_writable: bool


def plain(path: str) -> str:
    """Return an absolute path without repeated slashes and dots."""
    return '/' + '/'.join(part for part in path.split('/') if part not in ('', '.'))


def is_below(path: str, other: str) -> bool:
    """Return whether a path is another, or in the directory that it names."""
    return f'{path}/'.startswith(f'{other}/')


def check_place(path: str, name: str) -> None:
    """Check that a configuration may name a path for a directory of its own; ``name`` is the option's.

    Raises:
        ConfigurationError: It may not.
    """
    place = plain(path)
    if '..' in place.split('/'):
        raise ConfigurationError(f'{name} must be a path without "..", not {path!r}')
    is_own = any(is_below(place, each) for each in _OWN) and not is_below(place, _SHARED_MEMORY)
    if place in ('/', '/usr') or is_own:
        raise ConfigurationError(
            f'{name} cannot be {path!r}, which the sandbox has its own of; choose another, like /sandbox or /data'
        )


def check_target(path: str, name: str, links: Iterable[str], shown: Sequence[VisiblePath]) -> None:
    """Check that bubblewrap can put something at a path, and finds no symlink on the way.

    Args:
        path: A plain path in the sandbox.
        name: The option that names it.
        links: The paths of symlinks at the top.
        shown: What is there before.

    Raises:
        SandboxStartError: It cannot; the message says what is in the way.
    """
    link = next((each for each in links if is_below(path, each)), None)
    if link is not None:
        raise _damage(path, name, f'{link} is a symlink there; name the directory it leads to')
    around = [each for each in shown if each.path != path and is_below(path, each.path)]
    if not around:
        return
    tree = max(around, key=lambda each: len(each.path))
    here = tree.source
    for part in path[len(tree.path) + 1 :].split('/'):
        here = os.path.join(here, part)
        try:
            mode = os.lstat(here).st_mode
        except FileNotFoundError:
            if tree.is_writable:
                return
            raise _damage(
                path,
                name,
                f'it does not exist there and {tree.path} is read-only, so it cannot be made; choose another place',
            ) from None
        except OSError as error:
            raise _damage(path, name, f'{here!r} on this machine cannot be looked at: {error.strerror}') from error
        if stat.S_ISLNK(mode):
            raise _damage(path, name, f'{here!r} on this machine, which is shown there, is a symlink')


@frozen
class OpenTree:
    """A read-only tree in which a place was made: directories of the sandbox's own on the way, and all else as it was.

    Attributes:
        folders: Paths of the directories, the outer ones first.
        trees: What is shown in them, ``(host path, path inside)``.
        links: Symlinks in them, ``(text, path)``.
    """

    folders: list[str]
    trees: list[tuple[str, str]]
    links: list[tuple[str, str]]


def open_tree(source: str, path: str, place: str) -> OpenTree | None:
    """Return how to show a tree with a place in it that it has not; None where it has it, or something else is in the way.

    Args:
        source, path: The tree: host path and path inside.
        place: A plain path below ``path``.
    """
    found = OpenTree([], [], [])
    parts = place[len(path) + 1 :].split('/')
    for number, part in enumerate(parts):
        try:
            if number and not stat.S_ISDIR(os.lstat(source).st_mode):
                return None
            with os.scandir(source) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except FileNotFoundError:
            return found
        except OSError:
            return None
        if len(entries) > _MOST_ENTRIES:
            return None
        found.folders.append(path)
        for entry in entries:
            if entry.name == part:
                continue
            if entry.is_symlink():
                found.links.append((os.readlink(entry.path), f'{path}/{entry.name}'))
            else:
                found.trees.append((entry.path, f'{path}/{entry.name}'))
        source, path = f'{source}/{part}', f'{path}/{part}'
    return None if os.path.lexists(source) else found


def _damage(path: str, name: str, problem: str) -> SandboxStartError:
    return SandboxStartError(f'{name}: {path!r} in the sandbox cannot be used: {problem}')
