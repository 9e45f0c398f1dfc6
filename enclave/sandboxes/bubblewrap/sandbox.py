"""Sandboxes made of namespaces alone (floor 4): bubblewrap, our agent as process 1, and pipes.

There is no daemon: bubblewrap is a child of this process and dies with it, and so does all that is in the sandbox.
Limits that hold for the whole family come from control groups where this process may make them (`cgroups`), else from
rlimits, which the kernel applies to each process by itself; `Sandbox.get_info` says which.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import resource
import stat
import subprocess
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

from attrs import define, field

from enclave.channel.channel import Channel
from enclave.channel.streams import PipeStream
from enclave.deadline import Deadline
from enclave.enums import SandboxType
from enclave.errors import OperationTimeoutError, SandboxBrokenError, SandboxError, SandboxGoneError, SandboxStartError
from enclave.sandboxes.agent_backed import AgentBackedSandbox
from enclave.sandboxes.agent_operations import AgentOperations
from enclave.sandboxes.bubblewrap.cgroups import Group, Limits, find_cgroups
from enclave.sandboxes.bubblewrap.config import BubblewrapSandboxConfig
from enclave.sandboxes.bubblewrap.launch import (
    CompileError,
    above_streams,
    agent_code,
    agent_command,
    make_bootstrap,
    memory_file,
    start_process,
)
from enclave.sandboxes.bubblewrap.layout import Shown, check_target, is_below, plain
from enclave.sandboxes.bubblewrap.places import cache_dir, is_reachable, reachable_dir, remove_tree
from enclave.sandboxes.bubblewrap.program import (
    Program,
    default_host_uid,
    drop_command,
    explain_failure,
    find_program,
    has_user,
    prlimit_command,
    reachable_copy,
    stage_command,
)
from enclave.sandboxes.bubblewrap.rootfs import HOME, UID, View, get_view
from enclave.sandboxes.bubblewrap.seccomp import get_filter
from enclave.sandboxes.operations import Operations

logger = logging.getLogger(__name__)

START_SECONDS = 30.0
"""How long the agent may take to greet."""
_AGENT_BYTES = 256 << 20
"""The least address space an rlimit leaves: the agent itself is under it."""
_INFO_LIMIT_BYTES = 65536


class BubblewrapSandbox(AgentBackedSandbox):
    """A sandbox without an engine. See `BubblewrapSandboxConfig` for what can be asked of it."""

    sandbox_type: ClassVar[SandboxType | str] = SandboxType.BUBBLEWRAP
    config_class: ClassVar[type[BubblewrapSandboxConfig]] = BubblewrapSandboxConfig
    config: BubblewrapSandboxConfig

    def __init__(self, config: Any = None, sandbox_id: str | None = None) -> None:
        super().__init__(config, sandbox_id)
        self._process: subprocess.Popen[bytes] | None = None
        self._pipes: PipeStream | None = None
        self._channel: Channel | None = None
        self._group: Group | None = None

    # Start ------------------------------------------------------------------------------------------------------------

    def _launch(self) -> Operations:
        self._destroy(keep=True)  # what is left of a run that was lost
        plan = _Plan(self.config, self.id, self._host_uid(), self._kept_dir(), self._find_view)
        try:
            return self._begin(plan)
        except BaseException:
            self._destroy(keep=True)
            raise
        finally:
            plan.close()  # after what waits for it is killed, or that would go on

    def _begin(self, plan: _Plan) -> Operations:
        plan.group = self._group = self._make_group()
        code = self._agent_code(plan)
        process = self._process = plan.start(agent_command(plan.view.python), is_agent=True)
        stream = self._pipes = PipeStream(process, name=self.id)
        held = self._hold(plan)
        program = make_bootstrap(code, self._rlimits(held), plan.oom_events)
        channel = self._channel = Channel(self.id, stream, program=program)
        try:
            hello = channel.start(Deadline.after(START_SECONDS))
        except (SandboxGoneError, SandboxBrokenError, OperationTimeoutError) as error:
            stream.close()
            raise SandboxStartError(
                self._explain(stream.diagnostics() or error.message), details={'sandbox_id': self.id}
            ) from error
        if not hello.guarded:
            logger.warning('sandbox %s: its Python lacks ctypes, so the agent in it is not shielded', self.id)
        self.metadata.update(
            driven_by='agent',
            agent_python=hello.python,
            pid=plan.pid or find_child(process.pid),
            bubblewrap=f'{plan.program.path} ({".".join(map(str, plan.program.version))}, from {plan.program.source})',
            rootfs=self.config.rootfs or 'the /usr of this machine',
            host_uid=plan.uid,
            network='that of this machine' if self.config.network_enabled else 'none',
            seccomp=self.config.seccomp,
            limits=self._tell_limits(held, plan),
        )
        return AgentOperations(channel)

    def _agent_code(self, plan: _Plan) -> bytes:
        """Return the agent for the sandbox's interpreter, which compiles it, where that was not done before, under the limits."""

        def start(command: list[str]) -> subprocess.Popen[bytes]:
            process = self._process = plan.start(command)  # to be ended by `_destroy`, whatever happens
            self._hold(plan)
            return process

        def kill(process: subprocess.Popen[bytes]) -> None:
            process.kill()
            if plan.group is not None:
                plan.group.free_cpu()

        try:
            return agent_code(plan.view.key, start, kill, plan.view.python)
        except CompileError as error:
            raise SandboxStartError(self._explain(error.message)) from error

    def _find_view(self) -> View:
        """Return what the sandbox is to see of programs."""
        config = self.config
        return get_view(config.rootfs, config.python, network=config.network_enabled)

    def _explain(self, words: str) -> str:
        text = explain_failure(words, what=f'sandbox {self.id}', rootfs=self.config.rootfs)
        if self._group is not None and self._group.count_oom_kills():
            text += f'; its memory ran out, so memory_limit {self.config.memory_limit!r} is too small'
        return text

    def _make_group(self) -> Group | None:
        cgroups = find_cgroups()
        config = self.config
        limits = Limits(memory_bytes=config.memory_bytes, processes=config.pids_limit, cpus=config.cpu_limit)
        return Group.make(cgroups, self.id, limits) if cgroups.parents else None

    def _hold(self, plan: _Plan) -> tuple[str, ...]:
        """Set the limits of what was just started; return those that its group holds.

        A Python of this machine still waits for its program by then, so bubblewrap may be at work meanwhile. One that came
        with a configuration may do anything, also set no rlimits on itself: it `waits` until all is set from here.
        """
        if not plan.waits:
            if plan.group is not None:
                plan.group.hold(self.id)
            return () if plan.group is None else plan.group.held
        if not plan.read_pid():
            return ()  # bubblewrap failed; the greeting that fails says why
        self._enter(plan)
        held = () if plan.group is None else plan.group.held
        plan.set_rlimits(self._rlimits(held))
        plan.release()
        return held

    def _enter(self, plan: _Plan) -> None:
        """Put the sandbox's process 1 into its group, and with it all it will start."""
        group = plan.group
        if group is None:
            return
        group.hold(self.id)
        if group.takes_threads:
            return
        try:
            group.add(plan.pid)
        except ProcessLookupError:
            pass  # it has ended already; the greeting that fails says why
        except OSError as error:
            logger.info('sandbox %s: its processes may not enter its control group: %s', self.id, error)
            group.remove()
            self._group = plan.group = None

    def _rlimits(self, held: tuple[str, ...]) -> dict[str, int]:
        config = self.config
        limits = {'CORE': 0, 'NOFILE': config.open_files_limit}
        if config.file_bytes is not None:
            limits['FSIZE'] = config.file_bytes
        if config.memory_bytes is not None and 'memory' not in held:
            # Data is what a process really fills; much address space is only reserved by many runtimes.
            limits['DATA'] = max(config.memory_bytes, _AGENT_BYTES)
            limits['AS'] = max(4 * config.memory_bytes, _AGENT_BYTES)
        if config.pids_limit is not None and 'pids' not in held:
            limits['NPROC'] = config.pids_limit
        return limits

    def _tell_limits(self, held: tuple[str, ...], plan: _Plan) -> dict[str, str]:
        config = self.config
        doubt = '; left to its own Python to set, since this process may not (it lacks CAP_SYS_RESOURCE)'
        doubt = '' if plan.is_sure else doubt
        told = dict.fromkeys(held, f'cgroup v{find_cgroups().version}, for the whole sandbox')
        if config.memory_bytes is not None:
            told.setdefault(
                'memory',
                f"rlimits, for each process by itself; shared memory that is no process's (memfd, System V) is not held{doubt}",
            )
        if config.pids_limit is not None:
            # The kernel never counts the processes of the first user, root outside.
            told.setdefault('pids', 'none' if self._host_uid() == 0 else f'rlimit, for the whole sandbox{doubt}')
        told.setdefault('cpu', 'none')
        told['files'] = f'{config.disk_bytes} bytes in each writable directory'
        if self._kept_dir():
            told['files'] += ' but the working directory'
        if 'memory' not in held:
            told['files'] += '; how many files there are is not held'
        asked, most = config.open_files_limit, _at_most('NOFILE', config.open_files_limit)
        told['open_files'] = f'{most}, by rlimit, for each process{doubt}'
        if most < asked:
            told['open_files'] += f'; {asked} were asked, and the hard limit of this process is {most}'
        return told

    def _host_uid(self) -> int:
        return default_host_uid() if self.config.host_uid is None else self.config.host_uid

    # End --------------------------------------------------------------------------------------------------------------

    def _kept_dir(self) -> Path | None:
        """Return where the working directory is on disk, if it is to be kept."""
        return None if self.config.remove_on_exit else cache_dir('kept') / self.id

    def _destroy(self, *, keep: bool) -> None:
        stream, self._pipes = self._pipes, None
        process, self._process = self._process, None
        self._channel = None
        if self._group is not None:
            self._group.free_cpu()
        if stream is not None:
            stream.close()
            stream.release()
        elif process is not None:
            with process:
                process.kill()
        group, self._group = self._group, None
        if group is not None:
            group.remove()
        kept = self._kept_dir()
        if kept is not None and not keep:
            try:
                remove_tree(kept)
            except OSError as error:
                raise SandboxError(
                    f'sandbox {self.id}: its working directory {str(kept)!r} could not be removed: '
                    f'{error.strerror}: {error.filename}',
                    details={'sandbox_id': self.id},
                ) from error

    def _has_remains(self, *, keep: bool) -> bool:
        return self._operations is not None or (not keep and not self.config.remove_on_exit)

    def _has_history(self) -> bool:
        return self._kept_dir() is not None

    # Looking ----------------------------------------------------------------------------------------------------------

    def _find_problem(self) -> str | None:
        channel = self._channel
        if channel is None or channel.lost is None:
            return None
        return self._describe_end() or channel.lost.reason

    def _describe_end(self) -> str:
        """Return why the sandbox's process 1 is gone; '' while it runs."""
        process, group = self._process, self._group
        if process is None:
            return ''
        try:
            code = process.wait(1.0)
        except subprocess.TimeoutExpired:
            return ''
        if code < 0 or code > 128:
            end = f'its process 1 was killed by signal {-code if code < 0 else code - 128} from outside'
        else:
            end = f'its process 1 ended with exit code {code}'
        return f'{end}; its memory ran out' if group is not None and group.count_oom_kills() else end


def _at_most(name: str, value: int) -> int:
    """Return an rlimit as it can be had: no sandbox gets more than the hard limit of this process, which it inherits."""
    hard = resource.getrlimit(getattr(resource, f'RLIMIT_{name}'))[1]
    return value if hard == resource.RLIM_INFINITY else min(value, hard)


def check_works() -> None:
    """Start a sandbox with nothing special about it, once.

    Raises:
        UnsupportedError: There is no bubblewrap, or no library for the filter.
        SandboxStartError: It does not work on this machine; the message says what to do.
    """
    with BubblewrapSandbox(sandbox_id='trial'):
        pass


@define(eq=False)
class _Plan:
    """What one start needs: the program, the view, whose processes they will be, and the descriptors handed over."""

    config: BubblewrapSandboxConfig
    sandbox_id: str
    uid: int
    kept: Path | None
    find_view: Callable[[], View]
    group: Group | None = field(default=None, init=False)
    program: Program = field(init=False)
    view: View = field(init=False)
    oom_events: int = field(default=-1, init=False)  # a descriptor, of the number it had in the agent
    _drops: bool = field(init=False)
    _work: str = field(init=False)
    _binds: list[tuple[str, str, str]] = field(init=False)  # host path, path inside, mode
    pid: int = field(default=0, init=False)  # of process 1, as this machine counts, once `read_pid` was told
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
        self._check_targets()

    def _resolve(self, path: str) -> str:
        """Return a place in the sandbox without the one symlink that we put there, ``/var/tmp``."""
        place = plain(path)
        return f'/tmp{place[8:]}' if not self._has_var and is_below(place, '/var/tmp') else place

    @property
    def _has_var(self) -> bool:
        return any(path == '/var' for _, path in (*self.view.trees, *self.view.links))

    def _check_targets(self) -> None:
        links = [path for _, path in self.view.links]
        shown = [Shown(source, path, is_writable=False) for source, path in self.view.trees]
        for source, path, mode in self._binds:
            check_target(path, f"volumes[{source!r}]['bind']", links, shown)
            shown.append(Shown(source, path, is_writable=mode == 'rw'))
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
        """Whether what is started waits before it runs, for `release`, and `read_pid` tells its process id.

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
        most = {name: _at_most(name, value) for name, value in rlimits.items()}
        try:
            for name, value in most.items():
                resource.prlimit(self.pid, getattr(resource, f'RLIMIT_{name}'), (value, value))
        except ProcessLookupError:
            pass  # it has ended already; the greeting that fails says why
        except PermissionError:
            argv = prlimit_command(self.uid, self.uid, self.pid, most)
            self.is_sure = bool(argv) and subprocess.run(argv, capture_output=True, check=False).returncode == 0

    def release(self) -> None:
        """Let what was started run. Source: bwrap(1), ``--block-fd``; its end would let it run, too."""
        with contextlib.suppress(BrokenPipeError):
            os.write(self._gate, b'.')
        self.close()

    def close(self) -> None:
        """Let go of what `start` had opened. What waits for `release` goes on by that, so it must have been killed."""
        for descriptor in (self._info, self._gate):
            if descriptor >= 0:
                os.close(descriptor)
        self._info = self._gate = -1

    # Arguments --------------------------------------------------------------------------------------------------------

    def _arguments(self, opened: list[int]) -> list[str]:
        """Return bubblewrap's options; they travel in a file, since they hold the environment."""
        config, view = self.config, self.view
        words = ['--unshare-all', '--unshare-user', '--uid', str(UID), '--gid', str(UID), '--hostname', 'sandbox']
        words += ['--die-with-parent', '--new-session', '--as-pid-1', '--cap-drop', 'ALL', '--clearenv']
        if self.program.can_disable_userns:
            words.append('--disable-userns')
        if config.network_enabled:
            words.append('--share-net')
        if config.seccomp:
            opened.append(memory_file(get_filter(), 'enclave-seccomp'))
            words += ['--seccomp', str(opened[-1])]
        for name, value in self._env().items():
            words += ['--setenv', name, value]
        for target, path in view.links:
            words += ['--symlink', target, path]
        for source, path in view.trees:
            words += self._bind(source, path, 'ro')
        words += ['--proc', '/proc', '--dev', '/dev', *_tmpfs('/dev/shm', config.shm_bytes, '1777')]
        words += _tmpfs('/tmp', config.disk_bytes, '1777')
        if not self._has_var:
            words += ['--dir', '/var', '--symlink', '/tmp', '/var/tmp']
        words += ['--dir', '/run', *_tmpfs(HOME, config.disk_bytes, '0755')]
        # An interpreter of the caller's may lie anywhere, below /tmp and the home too.
        for source, path in view.trees:
            if path.startswith(('/tmp/', '/home/')):
                words += self._bind(source, path, 'ro')
        is_in_volume = any(is_below(self._work, path) for _, path, _ in self._binds)
        if not is_in_volume:
            words += self._working_dir()
        for source, path, mode in self._binds:
            words += self._bind(source, path, mode)
        if is_in_volume:
            words += ['--dir', self._work]
        return [*words, '--remount-ro', '/dev', '--remount-ro', '/', '--chdir', config.working_dir]

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
        with contextlib.suppress(FileExistsError):
            place.mkdir(mode=0o700)
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
    """Tell whether this kernel lists a process's children (proc(5), ``/proc/pid/task/tid/children``)."""
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
            raise SandboxStartError(f'bubblewrap cannot be told {each!r}, which holds a NUL')
    return '\0'.join([*arguments, '']).encode('utf-8', 'surrogateescape')


def _tmpfs(path: str, size: int, mode: str) -> list[str]:
    return ['--perms', mode, '--size', str(size), '--tmpfs', path]
