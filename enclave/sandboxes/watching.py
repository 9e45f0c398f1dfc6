"""What changes in a directory of a sandbox (layer 4), seen by comparing two looks at it.

Looking needs nothing but the listing that every sandbox has, also one of a server or of an image without Python. Where the kernel
says when something changes (`Notices`), there is a look only then; names that came and went since the last look are reported
too. Where it does not, or does no more, there is a look every `interval`, and what comes and goes in between is not seen.
"""

from __future__ import annotations

import posixpath
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator

from attrs import define, field

from enclave.cancellation import is_cancelled, on_cancel
from enclave.deadline import Deadline
from enclave.errors import CallCancelledError, SandboxPathError, SandboxPathNotFoundError
from enclave.quoting import quoted
from enclave.records import PathEvent, PathInfo
from enclave.sandboxes.operations import BESIDE, Notices

MAX_ENTRIES = 10_000
"""How many entries there may be below a directory that is watched."""
MAX_PATH_CHARACTERS = 1 << 20
"""How long their paths may be together."""
INTERVAL_SECONDS = 0.5
BUSY_SECONDS = 0.05
"""How soon after a look there may be another, however much the kernel says."""
UNNOTICED_SECONDS = 10.0
"""How long between two looks where the kernel says what changes: it does not of everything (mmap(2), file systems of others)."""
Look = Callable[[], dict[str, PathInfo]]


@define(eq=False)
class Watch:
    """A directory that is watched, from its making on. One thread at a time may take what has changed, any may close it.

    Attributes:
        path: The directory, from the root.
        interval: Seconds between two looks while nothing changes.
    """

    path: str
    _look: Look = field(repr=False)
    interval: float = INTERVAL_SECONDS
    _notices: Notices | None = field(default=None, repr=False)
    _seen: dict[str, PathInfo] = field(init=False, repr=False)
    _waiting: deque[PathEvent] = field(factory=deque, init=False, repr=False)
    _closing: threading.Event = field(factory=threading.Event, init=False, repr=False)
    _looked_at: float = field(default=0.0, init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        self._seen = self._look()
        self._looked_at = time.monotonic()

    def take(self, timeout: float | None = 0) -> list[PathEvent]:
        """Return what has changed since the last time, sorted by path; nothing if nothing does within the time.

        Args:
            timeout: Seconds to wait for a change; 0 looks once, None waits until there is one, or the watch is closed.

        Raises:
            SandboxPathError: There are more entries than can be watched.
            CallCancelledError: The caller's work was cancelled.
        """
        deadline = Deadline.after(timeout) if timeout != 0 else Deadline.after(0.000001)
        wake = threading.Event()
        with on_cancel(wake.set):
            while not (found := self._changes()) and not self._closing.is_set() and not deadline.has_expired():
                if wake.is_set() or self._rest(deadline) or is_cancelled():
                    break
        if is_cancelled():
            raise CallCancelledError(f'watching {quoted(self.path)} was cancelled')
        return found

    def _rest(self, deadline: Deadline) -> bool:
        """Wait until it is time for another look; whether it is closed."""
        notices = self._notices
        if notices is None or notices.has_ended:
            self._closing.wait(deadline.earlier(self.interval).remaining())
        elif notices.wait(deadline.earlier(UNNOTICED_SECONDS)):
            since = time.monotonic() - self._looked_at
            self._closing.wait(
                deadline.earlier(max(0.0, min(self.interval, BUSY_SECONDS) - since) or 0.000001).remaining()
            )
        return self._closing.is_set()

    def events(self, timeout: float | None = None) -> Iterator[PathEvent]:
        """Yield what changes, as it is seen, until the watch is closed or the directory is gone.

        Args:
            timeout: Seconds this may take altogether.
        """
        deadline = Deadline.after(timeout)
        while not self._closing.is_set() and not deadline.has_expired():
            yield from self.take(deadline.as_timeout())

    def _changes(self) -> list[PathEvent]:
        if self._closing.is_set():
            return []
        noticed = [] if self._notices is None else self._notices.take()  # before the look, which then sees as much
        try:
            now = self._look()
        except SandboxPathNotFoundError:
            self.close()
            gone = [PathEvent(kind='removed', path=path) for path in sorted(self._seen)]
            return [*gone, PathEvent(kind='removed', path=self.path)]
        self._looked_at = time.monotonic()
        before, self._seen = self._seen, now
        found = compare(before, now)
        return found if not noticed else [*self._passing(noticed, before, now), *found]

    def _passing(
        self, noticed: list[tuple[str, str]], before: dict[str, PathInfo], now: dict[str, PathInfo]
    ) -> list[PathEvent]:
        """Return the coming and going of names that no look has seen, in their order."""
        found: list[PathEvent] = []
        there: set[str] = set()
        for what, name in noticed[:MAX_ENTRIES]:
            path = posixpath.normpath(posixpath.join(self.path, name))
            if path in before or path in now or posixpath.basename(path).startswith(BESIDE) or name.startswith('/'):
                continue
            if what == '+' and path not in there:
                there.add(path)
                found.append(PathEvent(kind='created', path=path))
            elif what == '-' and path in there:
                there.discard(path)
                found.append(PathEvent(kind='removed', path=path))
        return [event for event in found if event.path not in there]

    @property
    def is_closed(self) -> bool:
        """Whether nothing more will be seen."""
        return self._closing.is_set()

    def close(self) -> None:
        """Stop watching; who waits for a change gets none. May be called twice."""
        self._closing.set()
        if self._notices is not None:
            self._notices.close()

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def by_path(path: str, entries: list[PathInfo]) -> dict[str, PathInfo]:
    """Return the entries of a directory by their paths from the root.

    Raises:
        SandboxPathError: There are too many.
    """
    size = sum(len(info.path) + len(info.target or '') for info in entries)
    if len(entries) > MAX_ENTRIES or size > MAX_PATH_CHARACTERS:
        raise SandboxPathError(
            f'{quoted(path)} has more than {MAX_ENTRIES} entries, or too long names, to be watched; watch a directory in it, '
            'or without recursive',
            details={'max_entries': MAX_ENTRIES},
        )
    found = (info.model_copy(update={'path': posixpath.join(path, info.path)}) for info in entries)
    return {info.path: info for info in found}


def compare(before: dict[str, PathInfo], now: dict[str, PathInfo]) -> list[PathEvent]:
    """Return what has changed between two looks, sorted by path.

    What is gone and what is new with all the same facts is one that was renamed; what is below a renamed directory went with it.
    """
    gone = {path: info for path, info in before.items() if path not in now or now[path].kind != info.kind}
    new = {path: info for path, info in now.items() if path not in before or before[path].kind != info.kind}
    found = _renamed(gone, new)
    found += [PathEvent(kind='removed', path=path) for path in gone]
    found += [PathEvent(kind='created', path=path, info=info) for path, info in new.items()]
    for path, info in now.items():
        old = before.get(path)
        if old is None or old.kind != info.kind or old == info:
            continue
        if info.kind != 'directory' and (old.size, old.modified_at, old.target) != (
            info.size,
            info.modified_at,
            info.target,
        ):
            found.append(PathEvent(kind='modified', path=path, info=info))
        if (old.mode, old.uid, old.gid) != (info.mode, info.uid, info.gid):
            found.append(PathEvent(kind='attributes', path=path, info=info))
    return sorted(found, key=lambda event: (event.path, event.kind != 'removed'))


def _renamed(gone: dict[str, PathInfo], new: dict[str, PathInfo]) -> list[PathEvent]:
    """Take out of both what was renamed, and return it."""
    found: list[PathEvent] = []
    by_facts: dict[tuple[object, ...], deque[str]] = {}
    for path in sorted(new):
        by_facts.setdefault(_facts(new[path]), deque()).append(path)
    for path in sorted(gone):
        if path not in gone:
            continue
        candidates = by_facts.get(_facts(gone[path]), deque())
        while candidates and candidates[0] not in new:
            candidates.popleft()
        if not candidates:
            continue
        target = candidates.popleft()
        found.append(PathEvent(kind='renamed', path=path, target=target, info=new[target]))
        del gone[path]
        del new[target]
        for below in [each for each in gone if each.startswith(f'{path}/')]:
            moved = target + below[len(path) :]
            if moved in new and _facts(new[moved]) == _facts(gone[below]):
                del gone[below]
                del new[moved]
    return found


def _facts(info: PathInfo) -> tuple[object, ...]:
    return info.kind, info.size, info.modified_at, info.mode, info.uid, info.gid, info.target
