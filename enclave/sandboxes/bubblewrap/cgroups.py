"""Control groups for sandboxes without an engine: the limits that hold for a whole family of processes (layer 4).

Each sandbox gets a group of its own below ``enclave`` in the group this process is in (v1, each controller by itself)
or beside it (v2, where a group with processes may not have limited children). It is removed at the stop, and the family with
the last of it. What an owner that was killed has left, wherever that was in the tree, is swept by the next process that makes a
group, and by every sweep of a manager. Where the user may not make groups, `find_cgroups` says why, and limits are rlimits
instead.

Source: cgroups(7); the kernel's ``admin-guide/cgroup-v1`` and ``admin-guide/cgroup-v2``.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import hashlib
import itertools
import logging
import os
import re
import signal
import threading
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path

from attrs import Factory, define, field, frozen

from enclave.deadline import Deadline
from enclave.errors import SandboxStartError
from enclave.sandboxes.operations import HELD_PART
from enclave.sandboxes.owner import OwnerProcess, current_owner

logger = logging.getLogger(__name__)

FAMILY = 'enclave'
CONTROLLERS = ('memory', 'pids', 'cpu')
PERIOD_MICROSECONDS = 100_000
_MOST_PROCESSES = 4_194_304
"""PID_MAX_LIMIT, proc(5): there are never more, and ``pids.max`` takes no greater number."""
_REMOVE_SECONDS = 2.0
_LOOK_SECONDS = 2.0
"""How long may be looked for what dead owners left."""
_ATTEMPTS = 20
"""How often a family is made that others keep removing."""
_NAME = re.compile(r'(?P<id>.+)@(?P<host>[0-9a-f]{8})\.(?P<pid>\d+)\.(?P<started>\d*)\.\d+')
_TRIAL = re.compile(r'trial\.(?P<pid>\d+)\.\d+')
_OCTAL = re.compile(r'\\([0-7]{3})')


@frozen(kw_only=True)
class GroupLimits:
    """What a group holds: bytes of memory (swap included), processes and threads, CPUs. None is no limit."""

    memory_bytes: int | None = None
    processes: int | None = None
    cpus: float | None = None


@frozen(kw_only=True)
class Cgroups:
    """Where groups can be made: ``parents`` is ``{controller: directory of our family}``; v2 has one directory for all.

    ``roots`` are the mount points of the hierarchies that they are in.
    """

    version: int
    parents: Mapping[str, Path]
    missing: Mapping[str, str] = Factory(dict)
    roots: tuple[Path, ...] = ()

    @property
    def directories(self) -> list[Path]:
        """The directories of our family, each once."""
        return list(dict.fromkeys(self.parents.values()))


def parse_mounts(text: str) -> list[tuple[str, str, str, set[str]]]:
    """Return the cgroup mounts of a mountinfo file (proc(5)), each ``(type, root, mount point, super options)``."""
    found = []
    for line in text.splitlines():
        fields = line.split(' ')
        with contextlib.suppress(ValueError, IndexError):
            after = fields.index('-')
            if fields[after + 1] in ('cgroup', 'cgroup2'):
                root, point = (_OCTAL.sub(lambda match: chr(int(match[1], 8)), word) for word in fields[3:5])
                found.append((fields[after + 1], root, point, set(fields[after + 3].split(','))))
    return found


def own_group(mount: tuple[str, str, str, set[str]], groups: str) -> Path | None:
    """Return the directory of this process's group in a mount, from ``/proc/self/cgroup``; None if it is not in view."""
    kind, root, point, options = mount
    for line in groups.splitlines():
        _, names, path = line.split(':', 2)
        if (kind == 'cgroup2' and not names) or (kind == 'cgroup' and names and set(names.split(',')) & options):
            relative = os.path.relpath(path, root)
            if relative.startswith('..'):
                # A namespace shows another root than the mount has: all we see is the mount point, which is ours then.
                return Path(point)
            return Path(point, relative)
    return None


@lru_cache(maxsize=1)
def find_cgroups() -> Cgroups:
    """Return where this process may make groups, tried by making one; ``missing`` says why a controller cannot be used."""
    try:
        mounts = parse_mounts(Path('/proc/self/mountinfo').read_text())
        groups = Path('/proc/self/cgroup').read_text()
    except OSError as error:
        return Cgroups(version=0, parents={}, missing=dict.fromkeys(CONTROLLERS, str(error)))
    found = look_for_cgroups(mounts, groups)
    if found.parents:
        sweep(found)
        atexit.register(_remove_family, found, os.getpid())
    return found


def look_for_cgroups(mounts: list[tuple[str, str, str, set[str]]], groups: str) -> Cgroups:
    """Return where groups can be made, given the mounts and this process's groups."""
    parents: dict[str, Path] = {}
    missing: dict[str, str] = {}
    roots: list[Path] = []
    for controller in CONTROLLERS:
        mount = next((each for each in mounts if each[0] == 'cgroup' and controller in each[3]), None)
        own = own_group(mount, groups) if mount else None
        if own is None:
            missing[controller] = 'no cgroup v1 hierarchy of it is mounted'
            continue
        problem = _try_family(
            own / FAMILY, {'memory': 'memory.limit_in_bytes', 'pids': 'pids.max'}.get(controller, 'cpu.cfs_quota_us')
        )
        if problem:
            missing[controller] = problem
        else:
            parents[controller] = own / FAMILY
            assert mount is not None
            roots.append(Path(mount[2]))
    unified = next((each for each in mounts if each[0] == 'cgroup2'), None)
    if parents or unified is None:
        return Cgroups(version=1 if parents else 0, parents=parents, missing=missing, roots=tuple(dict.fromkeys(roots)))
    own = own_group(unified, groups)
    if own is None:
        return Cgroups(version=0, parents={}, missing=missing)
    # Below the root group there may be processes beside limited children, anywhere else there may not.
    at_root = own == Path(unified[2])
    family = own / FAMILY if at_root else own.parent / FAMILY
    missing = {}
    for controller in CONTROLLERS:
        file = {'memory': 'memory.max', 'pids': 'pids.max', 'cpu': 'cpu.max'}[controller]
        why = _try_family(family, file, unified=True)
        if why:
            missing[controller] = why
        else:
            parents[controller] = family
    return Cgroups(version=2 if parents else 0, parents=parents, missing=missing, roots=(Path(unified[2]),))


def _try_family(family: Path, file: str, *, unified: bool = False) -> str | None:
    """Make a group below ``family`` for a moment; return why that, or limiting it, is not possible, else None."""
    trial = family / f'trial.{os.getpid()}.{threading.get_ident()}'
    try:
        _make_below(family, trial, unified=unified)
    except OSError as error:
        return f'{error.strerror}: {error.filename}'
    try:
        if not os.access(trial / file, os.W_OK):
            return f'there is no {file} to write in {family}'
        return None if os.access(trial / 'cgroup.procs', os.W_OK) else f'{family} may not be given processes'
    finally:
        trial.rmdir()


def _make_below(family: Path, group: Path, *, unified: bool) -> None:
    """Make a group and, if need be, the family it is in.

    Another process that ends removes the family when it is empty (`_remove_family`), so it may go as soon as it is made;
    that is not so once the group is in it.
    """
    for attempt in range(_ATTEMPTS):
        try:
            family.mkdir(exist_ok=True)
            if unified:
                _hand_down(family)
            group.mkdir()
            return
        except (FileNotFoundError, FileExistsError):  # the latter when it goes while Path.mkdir looks what is there
            if attempt == _ATTEMPTS - 1:
                raise


def _hand_down(family: Path) -> None:
    """Hand the controllers of v2 down to a family and to the groups in it."""
    for each in (family.parent, family):
        have = (each / 'cgroup.subtree_control').read_text().split()
        can = (each / 'cgroup.controllers').read_text().split()
        wanted = [name for name in CONTROLLERS if name in can and name not in have]
        for name in wanted:
            with contextlib.suppress(OSError):
                (each / 'cgroup.subtree_control').write_text(f'+{name}')


# One sandbox's group --------------------------------------------------------------------------------------------------

_counter = itertools.count(1)
_lock = threading.Lock()  # guards _alive
_alive: set[str] = set()  # the names of this process's groups


@define(eq=False)
class Group:
    """The groups of one sandbox, one per hierarchy. Lives as long as the sandbox; one thread at a time uses it."""

    cgroups: Cgroups
    name: str
    limits: GroupLimits
    held: tuple[str, ...] = field(default=(), init=False)
    _made: list[Path] = field(factory=list, init=False, repr=False)

    @classmethod
    def make(cls, cgroups: Cgroups, sandbox_id: str, limits: GroupLimits) -> Group:
        """Make the groups; `hold` sets their limits.

        Raises:
            SandboxStartError: The kernel refuses.
        """
        group = cls.prepare(cgroups, sandbox_id, limits)
        group.create(sandbox_id)
        return group

    @classmethod
    def prepare(cls, cgroups: Cgroups, sandbox_id: str, limits: GroupLimits) -> Group:
        """Return an object for groups that are not made yet, so that the one that has it can `remove` what `create` has made,
        also where that is interrupted."""
        return cls(cgroups, _group_name(sandbox_id, current_owner(), next(_counter)), limits)

    def create(self, sandbox_id: str) -> None:
        """Make the groups.

        Raises:
            SandboxStartError: The kernel refuses.
        """
        with _lock:
            _alive.add(self.name)
        try:
            with self._refusals(sandbox_id):
                self._make()
        except BaseException:
            self.remove()
            raise
        weigh_family(self.cgroups)

    @contextlib.contextmanager
    def _refusals(self, sandbox_id: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise SandboxStartError(
                f'sandbox {sandbox_id}: the limits could not be set: {error.strerror}: {error.filename}'
            ) from error

    def _make(self) -> None:
        for directory in self.cgroups.directories:
            place = directory / self.name
            self._made.append(place)  # before it is there, or an interrupt would lose it
            try:
                place.mkdir()
            except FileNotFoundError:  # another process has just removed the empty family
                _make_below(directory, place, unified=self.cgroups.version == 2)
            if self.cgroups.version == 2:
                # The family may be one that another process has just made, and has handed nothing down to yet.
                _hand_down(directory)

    def hold(self, sandbox_id: str) -> None:
        """Set the limits, on whatever is in the groups by then.

        Raises:
            SandboxStartError: The kernel refuses one.
        """
        settings = self._settings()
        with self._refusals(sandbox_id):
            for controller, file, value in settings:
                path = self.cgroups.parents[controller] / self.name / file
                if file.startswith(('memory.memsw', 'memory.swap')) and not path.exists():
                    continue  # the kernel does not account swap
                _write(path, value)
        self.held = tuple(dict.fromkeys(controller for controller, _, _ in settings))

    def _settings(self) -> list[tuple[str, str, str]]:
        limits, v1 = self.limits, self.cgroups.version == 1
        found: list[tuple[str, str, str]] = []
        if limits.memory_bytes is not None:
            size = str(limits.memory_bytes)
            if v1:
                found += [('memory', 'memory.limit_in_bytes', size), ('memory', 'memory.memsw.limit_in_bytes', size)]
            else:
                found += [('memory', 'memory.max', size), ('memory', 'memory.swap.max', '0')]
        if limits.processes is not None:
            # In v1 bubblewrap itself, which watches from outside, is in the group too.
            found.append(('pids', 'pids.max', str(min(limits.processes + v1, _MOST_PROCESSES))))
        if limits.cpus is not None:
            quota = max(1000, int(limits.cpus * PERIOD_MICROSECONDS))
            if v1:
                found += [
                    ('cpu', 'cpu.cfs_period_us', str(PERIOD_MICROSECONDS)),
                    ('cpu', 'cpu.cfs_quota_us', str(quota)),
                ]
            else:
                found.append(('cpu', 'cpu.max', f'{quota} {PERIOD_MICROSECONDS}'))
        return [each for each in found if each[0] in self.cgroups.parents]

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Have the calling *thread* in the group for the block, so that what it starts is born there (v1 only).

        A thread that moves itself by writing 0 to ``tasks`` waits for nobody. Moving a process takes a lock of the
        whole kernel, and on a busy machine that is 10 ms in each hierarchy (measured; ``cgroup_procs_write_start`` in
        the kernel's cgroup.c).
        """
        homes: list[Path] = []
        try:
            for place in self._made:
                _write(place / 'tasks', '0')
                homes.append(place.parent.parent)
            yield
        finally:
            for home in homes:
                _write(home / 'tasks', '0')

    @property
    def takes_threads(self) -> bool:
        """Whether `entered` is the way in, since the thread may also leave again; else `add` is."""
        homes = [directory.parent / 'tasks' for directory in self.cgroups.directories]
        return self.cgroups.version == 1 and all(os.access(home, os.W_OK) for home in homes)

    def add(self, pid: int) -> None:
        """Put a process, and with it all it will start, into the group; OSError when that is not allowed."""
        for place in self._made:
            _write(place / 'cgroup.procs', str(pid))

    @property
    def oom_events(self) -> Path | None:
        """The file that counts the processes killed because memory ran out; None where memory is not limited here."""
        if 'memory' not in self.cgroups.parents:
            return None
        name = 'memory.oom_control' if self.cgroups.version == 1 else 'memory.events'
        return self.cgroups.parents['memory'] / self.name / name

    def count_oom_kills(self) -> int:
        """Return how many processes of the sandbox were killed because its memory ran out."""
        file = self.oom_events
        with contextlib.suppress(OSError):
            for line in file.read_text().splitlines() if file else ():
                if line.startswith('oom_kill '):
                    return int(line.split()[1])
        return 0

    def memory_held(self) -> tuple[int, int]:
        """Return how many bytes it holds that the kernel cannot reclaim, and its limit; (0, 0) where that is not known.

        Where that cannot be more than `HELD_PART` of the limit, what can be reclaimed is counted too, which is one file less.
        """
        if 'memory' not in self.cgroups.parents or self.limits.memory_bytes is None:
            return 0, 0
        place = self.cgroups.parents['memory'] / self.name
        usage, prefix = ('memory.usage_in_bytes', 'total_') if self.cgroups.version == 1 else ('memory.current', '')
        with contextlib.suppress(OSError, ValueError):
            held = int(_read(place / usage))
            if held <= HELD_PART * self.limits.memory_bytes:
                return held, self.limits.memory_bytes
            rows = (line.split() for line in _read(place / 'memory.stat').splitlines())
            held -= sum(int(row[1]) for row in rows if row[0] in (f'{prefix}inactive_file', f'{prefix}active_file'))
            return max(0, held), self.limits.memory_bytes
        return 0, 0

    def free_cpu(self) -> None:
        """Lift the limit on CPU time, so that what is killed has the time to end.

        Processes that fight for memory run up a debt of it in the kernel, and pay that first: with a tenth of a CPU it took half
        a minute (kernel 6.18).
        """
        if self.limits.cpus is not None and 'cpu' in self.cgroups.parents:
            file, value = ('cpu.cfs_quota_us', '-1') if self.cgroups.version == 1 else ('cpu.max', 'max')
            with contextlib.suppress(OSError):
                (self.cgroups.parents['cpu'] / self.name / file).write_text(value)

    def remove(self) -> None:
        """Remove the groups, and the family if no other is in it; what still runs in them is killed. May be called twice."""
        made, self._made = self._made, []
        for place in made:
            _remove(place)
        with _lock:
            _alive.discard(self.name)
            is_last = not _alive
        if is_last:
            remove_families(self.cgroups.directories)
        weigh_family(self.cgroups)


def weigh_family(cgroups: Cgroups) -> None:
    """Have the family weigh as its sandboxes do together, each of them like one thread that is in no such group.

    Otherwise all of them would weigh as one: beside a few busy programs of this machine a sandbox got a small part of a
    processor. It is never more than there are processors, so that with any number of sandboxes other programs get their part.
    """
    place = cgroups.parents.get('cpu')
    if place is None:
        return
    file, one = ('cpu.shares', 1024) if cgroups.version == 1 else ('cpu.weight', 100)
    most = max(1, os.cpu_count() or 1)
    with contextlib.suppress(OSError):  # the last one has gone, or another user's family
        with os.scandir(place) as entries:
            count = sum(1 for _ in itertools.islice((each for each in entries if each.is_dir()), most))
        (place / file).write_text(str(min(one * max(1, count), 10_000 if cgroups.version == 2 else 1 << 18)))


def _read(path: Path) -> str:
    """Return a group's file; the kernel gives each as a whole. `Path.read_text` makes nine system calls of these three.

    In a process of many threads that is what counts: after each one a thread waits for the interpreter again.
    """
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(file, 1 << 16).decode('ascii')
    finally:
        os.close(file)


def _write(file: Path, value: str) -> None:
    """Write a group's setting; what the kernel refuses names the file, which the error of a write does not."""
    try:
        file.write_text(value)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(file)) from error


def _group_name(sandbox_id: str, owner: OwnerProcess, number: int) -> str:
    return f'{sandbox_id}@{_short(owner.host)}.{owner.pid}.{owner.started}.{number}'


def _short(host: str) -> str:
    return hashlib.sha256(host.encode()).hexdigest()[:8]


def _remove(place: Path) -> None:
    """Remove a group, waiting for its last processes to be reaped by the one that is their parent.

    All in it is killed but this process, of which a thread that starts a sandbox may be there (`Group.entered`).
    """
    deadline, pause = Deadline.after(_REMOVE_SECONDS), threading.Event()
    wait = 0.0005
    while True:
        try:
            place.rmdir()
            return
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno != errno.EBUSY or deadline.has_expired():
                logger.warning('the control group %s cannot be removed: %s', place, error)
                return
        with contextlib.suppress(OSError):
            for pid in map(int, (place / 'cgroup.procs').read_text().split()):
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    if pid != os.getpid():
                        os.kill(pid, signal.SIGKILL)
        pause.wait(wait)
        wait = min(wait * 2, 0.05)


def sweep(cgroups: Cgroups) -> int:
    """Remove the groups of owners that are certainly dead, wherever in the tree they are, and families without any group.

    Returns:
        How many groups that were.
    """
    return len(sweep_groups(cgroups))


def sweep_groups(cgroups: Cgroups) -> list[str]:
    """Do as `sweep` does, and return for each group the id of the sandbox whose it was."""
    found: list[str] = []
    families = dict.fromkeys([*cgroups.directories, *_find_families(cgroups.roots)])
    for family in families:
        places: list[Path] = []
        with contextlib.suppress(OSError):  # another process may have removed it
            places += family.iterdir()
        for place in places:
            owner = _owner_of(place.name)
            if owner is not None and owner.is_provably_dead():
                logger.info('removing the control group %s of a process that is gone', place)
                _remove(place)
                match = _NAME.fullmatch(place.name)
                found += [match['id']] if match else []
    with _lock:
        is_used = bool(_alive)
    remove_families(each for each in families if not is_used or each not in cgroups.directories)
    return found


def _owner_of(name: str) -> OwnerProcess | None:
    """Return the process that made a group of this name; None if it is not one of this library, or of another machine's."""
    here = current_owner()
    match = _NAME.fullmatch(name)
    if match is not None:
        same = match['host'] == _short(here.host)
        return OwnerProcess(host=here.host, pid=int(match['pid']), started=match['started']) if same else None
    trial = _TRIAL.fullmatch(name)
    # Nobody knows when that one was started; so it is dead when no process has its number.
    return (
        OwnerProcess(host=here.host, pid=int(trial['pid']), started='gone')
        if trial and not _exists(trial['pid'])
        else None
    )


def _exists(pid: str) -> bool:
    return os.path.exists(f'/proc/{pid}')


def _find_families(roots: Iterable[Path]) -> Iterator[Path]:
    """Yield the families in whole hierarchies: an owner may have been in any group."""
    until = Deadline.after(_LOOK_SECONDS)
    for root in roots:
        todo = [str(root)]
        while todo and not until.has_expired():
            with contextlib.suppress(OSError), os.scandir(todo.pop()) as entries:
                for entry in entries:
                    if not entry.is_dir(follow_symlinks=False):
                        continue
                    if entry.name == FAMILY:
                        yield Path(entry.path)
                    else:
                        todo.append(entry.path)


def remove_families(families: Iterable[Path]) -> None:
    """Remove those families that have no group. The one that wants to make one in it meanwhile makes it anew."""
    for family in families:
        with contextlib.suppress(OSError):
            family.rmdir()


def _remove_family(cgroups: Cgroups, pid: int) -> None:
    """At the end of this process, take the family away if no other uses it."""
    if os.getpid() == pid:
        remove_families(cgroups.directories)
