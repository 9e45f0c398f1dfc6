"""What one start of a bubblewrap sandbox needs (layer 4): its options, the descriptors handed over, and the gate it waits at.

Source: bwrap(1).
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import subprocess
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from attrs import define, field

from enclave.errors import SandboxStartError
from enclave.sandboxes.bubblewrap.bubblewrap_config import BubblewrapSandboxConfig
from enclave.sandboxes.bubblewrap.bwrap import (
    BubblewrapProgram,
    drop_command,
    find_program,
    has_user,
    prlimit_command,
    reachable_copy,
    stage_command,
)
from enclave.sandboxes.bubblewrap.cgroups import Group
from enclave.sandboxes.bubblewrap.launch import above_streams, memory_file, start_process
from enclave.sandboxes.bubblewrap.layout import VisiblePath, check_target, is_below, open_tree, plain
from enclave.sandboxes.bubblewrap.places import is_reachable, reachable_dir
from enclave.sandboxes.bubblewrap.rootfs import HOME, UID, View
from enclave.sandboxes.bubblewrap.seccomp import get_filter
from enclave.sandboxes.processors import count_for

_INFO_LIMIT_BYTES = 65536
_QUEUES = '/proc/sys/fs/mqueue'
"""Is there where the kernel has POSIX message queues; see mq_overview(7). What is mounted for them shows those of a sandbox."""
SOFT_LIMITS = ('CORE',)
"""The rlimits that a program may lift again: no core files are written, unless it asks for one, within its disk."""


def at_most(name: str, value: int) -> int:
    """Return an rlimit as it can be had: no sandbox gets more than the hard limit of this process, which it inherits."""
    import resource  # here, since this module is imported on every system

    hard = resource.getrlimit(getattr(resource, f'RLIMIT_{name}'))[1]
    return value if hard == resource.RLIM_INFINITY else min(value, hard)


@define(eq=False)
class StartPlan:
    """What one start needs: the program, the view, whose processes they will be, and the descriptors handed over."""

    config: BubblewrapSandboxConfig
    sandbox_id: str
    uid: int
    kept: Path | None
    find_view: Callable[[], View]
    group: Group | None = field(default=None, init=False)
    program: BubblewrapProgram = field(init=False)
    view: View = field(init=False)
    oom_events: int = field(default=-1, init=False)  # a descriptor, of the number it had in the agent
    _drops: bool = field(init=False)
    _work: str = field(init=False)
    _binds: list[tuple[str, str, str]] = field(init=False)  # host path, path inside, mode
    _trees: list[tuple[str, str]] = field(init=False)  # host path, path inside
    _dirs: list[str] = field(init=False)
    _links: list[tuple[str, str]] = field(init=False)  # text, path
    pid: int = field(default=0, init=False)  # of process 1, as this machine counts, once `read_pid` has it
    is_sure: bool = field(default=True, init=False)  # whether nothing in the sandbox has a say in its rlimits
    _info: int = field(default=-1, init=False)
    _gate: int = field(default=-1, init=False)
    _staged: list[tuple[str, str]] = field(factory=list, init=False)

    def __attrs_post_init__(self) -> None:
        config, own = self.config, os.geteuid()
        self._drops = self.uid != own
        if self._drops and own != 0:
            raise SandboxStartError(
                f'host_uid is {self.uid}, and only root may run sandboxes as another user; this is user {own}'
            )
        if self._drops and not has_user(self.uid):
            raise SandboxStartError(
                f'host_uid is {self.uid}, which is nobody in the user namespace of this process; leave it out, or map more ids'
            )
        self.program = find_program()
        if self._drops:
            self.program = reachable_copy(self.program)
        self.view = self.find_view()
        self._work = self._resolve(config.working_dir)
        # Those around others come first, or they would hide them.
        self._binds = sorted(
            ((source, self._resolve(target['bind']), target['mode']) for source, target in config.volumes.items()),
            key=lambda each: each[1],
        )
        for source, _, mode in self._binds:
            self._check_volume(source, mode)
        self._open_trees()
        self._check_targets()

    def _open_trees(self) -> None:
        """Make places in ``/etc`` for volumes: it is a directory of this library, put together for sandboxes."""
        self._trees, self._dirs, self._links = [*self.view.trees], [], [*self.view.links]
        volumes = [path for _, path, _ in self._binds]
        for place in volumes:
            # What is in another volume is made there.
            if not is_below(place, '/etc') or any(each != place and is_below(place, each) for each in volumes):
                continue
            around = [each for each in self._trees if each[1] != place and is_below(place, each[1])]
            if around:
                tree = max(around, key=lambda each: len(each[1]))
                found = open_tree(*tree, place)
                if found is not None:
                    self._trees.remove(tree)
                    self._dirs += found.folders
                    self._links += found.links
                    self._trees += found.trees

    def _resolve(self, path: str) -> str:
        """Return a place in the sandbox without the one symlink that we put there, ``/var/tmp``."""
        place = plain(path)
        return f'/tmp{place[8:]}' if not self._has_var and is_below(place, '/var/tmp') else place

    @property
    def _has_var(self) -> bool:
        return any(path == '/var' for _, path in (*self.view.trees, *self.view.links))

    def _check_targets(self) -> None:
        links = [path for _, path in self._links]
        shown = [VisiblePath(source, path, is_writable=False) for source, path in self._trees]
        for source, path, mode in self._binds:
            check_target(path, f"volumes[{source!r}]['bind']", links, shown)
            shown.append(VisiblePath(source, path, is_writable=mode == 'rw'))
        check_target(self._work, 'working_dir', links, shown)

    def _check_volume(self, source: str, mode: str) -> None:
        try:
            facts = os.stat(source)
        except OSError as error:
            raise SandboxStartError(
                f'volumes: the host path {source!r} cannot be used: {error.strerror}. Create it first'
            ) from error
        if self._drops and mode == 'rw':
            shift = 6 if facts.st_uid == self.uid else 3 if facts.st_gid == self.uid else 0
            need = 0o3 if stat.S_ISDIR(facts.st_mode) else 0o2
            if (facts.st_mode >> shift) & need != need:
                raise SandboxStartError(
                    f'volumes: {source!r} belongs to user {facts.st_uid}, and the processes of this sandbox are user {self.uid} '
                    f'on this machine, so they could not write to it. Run: chown -R {self.uid} {source}, or set its mode '
                    f'to ro, or set host_uid={facts.st_uid}'
                )

    # Starting ---------------------------------------------------------------------------------------------------------

    @property
    def waits(self) -> bool:
        """Whether what is started waits before it runs, for `release`, and `read_pid` says its process id.

        It takes longer, so that is only where the limits are not to be left to it: where it must be put into its group, and
        where the interpreter is one that the configuration brings along. Or where the process id cannot be had otherwise.
        """
        is_brought = self.config.rootfs is not None or self.config.python is not None
        return is_brought or not has_children_files() or (self.group is not None and not self.group.takes_threads)

    def start(self, command: list[str], *, is_agent: bool = False) -> subprocess.Popen[bytes]:
        """Start a command in the sandbox, in its group; the agent is given the group's count of OOM kills."""
        own: list[int] = []
        self._staged = []
        try:
            arguments = self._arguments(own)
            self.oom_events = -1
            watched = self.group.oom_events if is_agent and self.group is not None else None
            if watched is not None:
                self.oom_events = above_streams(os.open(watched, os.O_RDONLY | os.O_CLOEXEC))
                own.append(self.oom_events)
            if self.waits:
                self._info, drain = map(above_streams, os.pipe())
                own.append(drain)
                latch, self._gate = map(above_streams, os.pipe())
                own.append(latch)
                arguments += ['--info-fd', str(drain), '--block-fd', str(latch)]
            listed = memory_file(_join(arguments), 'enclave-arguments')
            own.append(listed)
            argv = [self.program.path, '--args', str(listed), '--', *command]
            options: dict[str, Any] = {}
            if self._drops:
                prefix = drop_command(self.uid, self.uid)
                argv = [*(stage_command(self._staged) if self._staged else ()), *prefix, *argv]
                if not prefix:
                    options = {'user': self.uid, 'group': self.uid, 'extra_groups': []}
            group = self.group
            return start_process(
                argv,
                group.entered() if group is not None and group.takes_threads else None,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=tuple(own),
                cwd='/',
                env={'PATH': '/usr/bin:/bin', 'LC_ALL': 'C'},
                bufsize=0,
                # Ctrl-C in a terminal goes to all of the caller's process group, and is the caller's to understand.
                start_new_session=True,
                **options,
            )
        except OSError as error:
            self.close()
            raise SandboxStartError(f'sandbox {self.sandbox_id}: bubblewrap cannot be started: {error}') from error
        finally:
            for descriptor in own:
                os.close(descriptor)

    def read_pid(self) -> int:
        """Return the process id of the sandbox's process 1 as this machine counts; 0 when bubblewrap failed before it.

        Source: bwrap(1), ``--info-fd``: a JSON object with ``child-pid``.
        """
        text, self.pid = b'', 0
        try:
            while b'}' not in text and len(text) < _INFO_LIMIT_BYTES and (data := os.read(self._info, 4096)):
                text += data
            self.pid = int(json.loads(text)['child-pid'])
        except (ValueError, KeyError, TypeError):
            pass
        finally:
            info, self._info = self._info, -1
            os.close(info)
        return self.pid

    def set_rlimits(self, rlimits: Mapping[str, int]) -> None:
        """Set rlimits on process 1, ``{'NOFILE': 4096}``, from outside; `is_sure` says whether that was allowed.

        That is allowed to the same user (prlimit(2)), so to root in the guise of that user; root himself would need
        CAP_SYS_RESOURCE, which he lacks in most containers.
        """
        import resource

        most = {name: at_most(name, value) for name, value in rlimits.items()}
        try:
            for name, value in most.items():
                number = getattr(resource, f'RLIMIT_{name}')
                hard = resource.getrlimit(number)[1] if name in SOFT_LIMITS else value
                resource.prlimit(self.pid, number, (value, hard))
        except ProcessLookupError:
            pass  # it has ended already; the greeting that fails says why
        except PermissionError:
            argv = prlimit_command(self.uid, self.uid, self.pid, most, SOFT_LIMITS)
            self.is_sure = bool(argv) and subprocess.run(argv, capture_output=True, check=False).returncode == 0

    def release(self) -> None:
        """Let what was started run. Source: bwrap(1), ``--block-fd``; its end would let it run, too."""
        with contextlib.suppress(BrokenPipeError):
            os.write(self._gate, b'.')
        self.close()

    def close(self) -> None:
        """Let go of what `start` had opened. What waits for `release` continues by that, so it must have been killed."""
        for descriptor in (self._info, self._gate):
            if descriptor >= 0:
                os.close(descriptor)
        self._info = self._gate = -1

    # Arguments --------------------------------------------------------------------------------------------------------

    def _arguments(self, opened: list[int]) -> list[str]:
        """Return bubblewrap's options; they travel in a file, since they hold the environment."""
        config = self.config
        argv = ['--unshare-all', '--unshare-user', '--uid', str(UID), '--gid', str(UID), '--hostname', 'sandbox']
        argv += ['--die-with-parent', '--new-session', '--as-pid-1', '--cap-drop', 'ALL', '--clearenv']
        if self.program.can_disable_userns:
            argv.append('--disable-userns')
        if config.network_enabled:
            argv.append('--share-net')
        if config.seccomp:
            opened.append(memory_file(get_filter(), 'enclave-seccomp'))
            argv += ['--seccomp', str(opened[-1])]
        for name, value in self._env().items():
            argv += ['--setenv', name, value]
        for path in self._dirs:
            argv += ['--dir', path]
        for target, path in self._links:
            argv += ['--symlink', target, path]
        for source, path in self._trees:
            if not path.startswith('/var/tmp/'):
                argv += self._bind(source, path, 'ro')
        argv += ['--proc', '/proc', '--dev', '/dev', *_tmpfs('/dev/shm', config.shm_bytes, '1777')]
        if os.path.isdir(_QUEUES):
            argv += ['--mqueue', '/dev/mqueue']
        cpu_count = count_for(config.cpu_limit)
        if cpu_count < (os.cpu_count() or 0):
            # Where the C library looks for how many processors there are (get_nprocs(3)), and os.cpu_count with it.
            opened.append(
                memory_file(f'0-{cpu_count - 1}\n'.encode() if cpu_count > 1 else b'0\n', 'enclave-processors')
            )
            argv += ['--file', str(opened[-1]), '/sys/devices/system/cpu/online']
        argv += _tmpfs('/tmp', config.disk_bytes, '1777')
        if not self._has_var:
            argv += ['--dir', '/var', '--symlink', '/tmp', '/var/tmp']
        argv += ['--dir', '/run', *_tmpfs(HOME, config.disk_bytes, '0755')]
        # An interpreter of the caller's may lie anywhere, below /tmp, /var/tmp and the home too.
        for source, path in self._trees:
            if path.startswith(('/tmp/', '/var/tmp/', '/home/')):
                argv += self._bind(source, self._resolve(path), 'ro')
        is_in_volume = any(is_below(self._work, path) for _, path, _ in self._binds)
        if not is_in_volume:
            argv += self._working_dir()
        for source, path, mode in self._binds:
            argv += self._bind(source, path, mode)
        if is_in_volume:
            argv += ['--dir', self._work]
        return [*argv, '--remount-ro', '/dev', '--remount-ro', '/', '--chdir', config.working_dir]

    def _env(self) -> dict[str, str]:
        return {
            **self.view.env,
            'PATH': f'{HOME}/.local/bin:{self.view.path}',
            'HOME': HOME,
            'USER': 'sandbox',
            'LOGNAME': 'sandbox',
            'LANG': 'C.UTF-8',
            # pip may install for the user; the system's own packages cannot be touched anyway.
            'PIP_BREAK_SYSTEM_PACKAGES': '1',
            **self.config.env_vars,
        }

    def _working_dir(self) -> list[str]:
        place = self._work
        if place in ('/tmp', '/dev/shm', HOME):
            return []
        if self.kept is not None:
            self._make_kept(self.kept)
            return self._bind(str(self.kept), place, 'rw')
        if any(is_below(place, each) for each in ('/tmp', '/dev/shm', HOME)):
            return ['--dir', place]
        return _tmpfs(place, self.config.disk_bytes, '0755')

    def _make_kept(self, place: Path) -> None:
        try:
            place.mkdir(mode=0o700)
        except FileExistsError:
            place.chmod(place.stat().st_mode | 0o700)  # a guest may have locked itself out
            return
        if self._drops:
            os.chown(place, self.uid, self.uid)

    def _bind(self, source: str, path: str, mode: str) -> list[str]:
        option = '--bind' if mode == 'rw' else '--ro-bind'
        if not self._drops or is_reachable(source):
            return [option, source, path]
        source = os.path.realpath(source)
        stage = self._stage(len(self._staged), is_dir=os.path.isdir(source))
        self._staged.append((source, stage))
        return [option, stage, path]

    @staticmethod
    def _stage(number: int, *, is_dir: bool) -> str:
        """Return an empty directory or file to mount on; every sandbox may use the same ones, each in its own namespace."""
        place = reachable_dir('mounts') / f'{"directory" if is_dir else "file"}-{number}'
        if is_dir:
            place.mkdir(mode=0o755, exist_ok=True)
        else:
            place.touch(mode=0o644)
        return str(place)


@lru_cache(maxsize=1)
def has_children_files() -> bool:
    """Return whether this kernel lists a process's children (proc(5), ``/proc/pid/task/tid/children``)."""
    return os.path.exists(f'/proc/{os.getpid()}/task/{os.getpid()}/children')


def find_child(pid: int) -> int:
    """Return the pid of a process's first child; 0 where there is none."""
    try:
        with open(f'/proc/{pid}/task/{pid}/children', 'rb') as file:
            return int(file.read().split()[0])
    except (OSError, ValueError, IndexError):
        return 0


def _join(arguments: list[str]) -> bytes:
    """Return arguments as bubblewrap reads them from a file, each ended by a NUL; so none may hold one, or it were two."""
    for each in arguments:
        if '\0' in each:
            raise SandboxStartError(f'bubblewrap cannot take {each!r}, which holds a NUL')
    return '\0'.join([*arguments, '']).encode('utf-8', 'surrogateescape')


def _tmpfs(path: str, size: int, mode: str) -> list[str]:
    return ['--perms', mode, '--size', str(size), '--tmpfs', path]
