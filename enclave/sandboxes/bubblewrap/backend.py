"""Makes sandboxes run in namespaces alone (layer 4): bubblewrap, our agent as process 1, and pipes.

There is no daemon: bubblewrap is a child of this process and dies with it, and so does all that is in the sandbox.
Limits that hold for the whole family come from control groups where this process may make them (`cgroups`), else from
rlimits, which the kernel applies to each process by itself; `Sandbox.get_info` says which.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import subprocess
from pathlib import Path
from typing import Any

from enclave.channel.channel import Channel
from enclave.channel.streams import PipeStream
from enclave.deadline import Deadline
from enclave.errors import (
    OperationTimeoutError,
    SandboxBrokenError,
    SandboxError,
    SandboxGoneError,
    SandboxStartError,
    UnsupportedError,
)
from enclave.sandboxes.agent_operations import AgentOperations
from enclave.sandboxes.backend import Backend, Launched, SandboxSpec
from enclave.sandboxes.bubblewrap.bubblewrap_config import BubblewrapSandboxConfig
from enclave.sandboxes.bubblewrap.bwrap import (
    default_host_uid,
    explain_failure,
)
from enclave.sandboxes.bubblewrap.cgroups import Group, GroupLimits, find_cgroups
from enclave.sandboxes.bubblewrap.freezing import continue_all, stop_all
from enclave.sandboxes.bubblewrap.launch import (
    CompileError,
    agent_code,
    agent_command,
    make_bootstrap,
)
from enclave.sandboxes.bubblewrap.places import cache_dir, remove_tree
from enclave.sandboxes.bubblewrap.plan import StartPlan, at_most, find_child
from enclave.sandboxes.bubblewrap.rootfs import View, get_view
from enclave.sandboxes.owner import is_stopped
from enclave.sandboxes.processors import count_for

logger = logging.getLogger(__name__)

START_SECONDS = 30.0
"""How long the agent may take to greet."""
_AGENT_BYTES = 256 << 20
"""The least address space an rlimit leaves: the agent itself is under it."""


class BubblewrapBackend(Backend):
    """Makes a sandbox run by bubblewrap, a child of this process."""

    config: BubblewrapSandboxConfig

    def __init__(self, spec: SandboxSpec) -> None:
        super().__init__(spec)
        self._process: subprocess.Popen[bytes] | None = None
        self._pipes: PipeStream | None = None
        self._channel: Channel | None = None
        self._group: Group | None = None
        self._first_pid = 0  # process 1 of the sandbox, as it is called outside
        self._frozen: tuple[tuple[int, str], ...] = ()  # what `pause` has stopped

    # Start ------------------------------------------------------------------------------------------------------------

    def launch(self) -> Launched:
        """See `Backend.launch`."""
        self.destroy(keep=True)  # what is left of a run that was lost
        plan = StartPlan(self.config, self.id, self._host_uid(), self.kept_dir, self._find_view)
        try:
            return self._begin(plan)
        except BaseException:
            self.destroy(keep=True)
            raise
        finally:
            plan.close()  # after what waits for it is killed, or that would continue

    def _begin(self, plan: StartPlan) -> Launched:
        plan.group = self._group = self._prepare_group()
        if plan.group is not None:
            plan.group.create(self.id)
        code = self._agent_code(plan)
        process = self._process = plan.start(agent_command(plan.view.python), is_agent=True)
        stream = self._pipes = PipeStream(process, name=self.id)
        held = self._hold(plan)
        cpu_count = count_for(self.config.cpu_limit)
        program = make_bootstrap(
            code, self._rlimits(held), plan.oom_events, CPU_COUNT=cpu_count, PIDS_LIMIT=self.config.pids_limit or 0
        )
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
        pid = self._first_pid = plan.pid or find_child(process.pid)
        facts = dict(
            driven_by='agent',
            agent_python=hello.python,
            pid=pid,
            bubblewrap=f'{plan.program.path} ({".".join(map(str, plan.program.version))}, from {plan.program.source})',
            rootfs=self.config.rootfs or 'the /usr of this machine',
            host_uid=plan.uid,
            network='that of this machine' if self.config.network_enabled else 'none',
            seccomp=self.config.seccomp,
            limits=self._describe_limits(held, plan),
            **self._more_facts(),
        )
        is_paused = functools.partial(is_stopped, pid) if pid else None
        return Launched(AgentOperations(channel, cpu_count=cpu_count, is_stopped=is_paused), facts)

    def _more_facts(self) -> dict[str, Any]:
        return {}

    def _agent_code(self, plan: StartPlan) -> bytes:
        """Return the agent for the sandbox's interpreter, which compiles it, where that was not done before, under the limits."""

        def start(command: list[str]) -> subprocess.Popen[bytes]:
            process = self._process = plan.start(command)  # to be ended by `destroy`, whatever happens
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

    def _explain(self, stderr: str) -> str:
        text = explain_failure(stderr, what=f'sandbox {self.id}', rootfs=self.config.rootfs)
        if self._group is not None and self._group.count_oom_kills():
            text += f'; its memory ran out, so memory_limit {self.config.memory_limit!r} is too small'
        return text

    def _prepare_group(self) -> Group | None:
        cgroups = find_cgroups()
        config = self.config
        limits = GroupLimits(memory_bytes=config.memory_bytes, processes=config.pids_limit, cpus=config.cpu_limit)
        return Group.prepare(cgroups, self.id, limits) if cgroups.parents else None

    def _hold(self, plan: StartPlan) -> tuple[str, ...]:
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

    def _enter(self, plan: StartPlan) -> None:
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

    def _describe_limits(self, held: tuple[str, ...], plan: StartPlan) -> dict[str, str]:
        config = self.config
        doubt = '; left to its own Python to set, since this process may not (it lacks CAP_SYS_RESOURCE)'
        doubt = '' if plan.is_sure else doubt
        limits = dict.fromkeys(held, f'cgroup v{find_cgroups().version}, for the whole sandbox')
        if config.memory_bytes is not None:
            limits.setdefault(
                'memory',
                f"rlimits, for each process by itself; shared memory that is no process's (memfd, System V) is not held{doubt}",
            )
        if config.pids_limit is not None:
            # The kernel never counts the processes of the first user, root outside.
            limits.setdefault('pids', 'none' if self._host_uid() == 0 else f'rlimit, for the whole sandbox{doubt}')
        limits.setdefault('cpu', 'none')
        limits['files'] = f'{config.disk_bytes} bytes in each writable directory'
        if self.kept_dir:
            limits['files'] += ' but the working directory'
        if 'memory' not in held:
            limits['files'] += '; how many files there are is not held'
        asked, most = config.open_files_limit, at_most('NOFILE', config.open_files_limit)
        limits['open_files'] = f'{most}, by rlimit, for each process{doubt}'
        if most < asked:
            limits['open_files'] += f'; {asked} were asked, and the hard limit of this process is {most}'
        return limits

    def _host_uid(self) -> int:
        return default_host_uid() if self.config.host_uid is None else self.config.host_uid

    # Pause ------------------------------------------------------------------------------------------------------------

    def pause(self) -> None:
        """Stop all processes below the first one; see `freezing`."""
        if not self._first_pid:
            raise UnsupportedError(
                f'sandbox {self.id} cannot be paused: its first process is not known on this machine',
                details={'sandbox_id': self.id},
            )
        self._frozen = stop_all(self._first_pid, self.id)

    def resume(self) -> None:
        """Let them continue."""
        frozen, self._frozen = self._frozen, ()
        continue_all(frozen)

    # End --------------------------------------------------------------------------------------------------------------

    @property
    def kept_dir(self) -> Path | None:
        """Where the working directory is on disk, if it is to be kept."""
        if self.config.remove_on_exit:
            return None
        # No id has the character between the two, so that no tenant's directory is another's.
        tenant = '' if self.spec.tenant is None else f'@{hashlib.sha256(self.spec.tenant.encode()).hexdigest()[:32]}'
        return cache_dir('kept') / f'{self.id}{tenant}'

    def destroy(self, *, keep: bool) -> None:
        """See `Backend.destroy`."""
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
        kept = self.kept_dir
        if kept is not None and not keep:
            try:
                remove_tree(kept)
            except OSError as error:
                raise SandboxError(
                    f'sandbox {self.id}: its working directory {str(kept)!r} could not be removed: '
                    f'{error.strerror}: {error.filename}',
                    details={'sandbox_id': self.id},
                ) from error

    @property
    def has_leftovers(self) -> bool:
        """See `Backend.has_leftovers`."""
        return not self.config.remove_on_exit

    has_history = has_leftovers

    # Looking ----------------------------------------------------------------------------------------------------------

    def memory_held(self) -> tuple[int, int]:
        """Return what its group holds of its memory; see `Backend.memory_held`."""
        group = self._group
        return (0, 0) if group is None else group.memory_held()

    def changeable_places(self) -> tuple[str, ...] | None:
        """See `Backend.changeable_places`."""
        config = self.config
        if config.volumes or config.rootfs is not None:
            return None
        return ('/tmp', '/var/tmp', '/dev/shm', '/dev/mqueue', '/home/sandbox', config.working_dir)

    def find_problem(self) -> str | None:
        """See `Backend.find_problem`."""
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
