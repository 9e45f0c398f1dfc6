"""Makes sandboxes run as Docker containers (layer 4).

The container's process 1 is our agent, attached over the engine's own stream. With standard input opened "once" and automatic
removal, that stream is also the lifeline: when this process dies, in whatever way, the engine closes it, the agent
leaves, and the engine removes the container.

A container with a ``command`` of its own runs that as process 1 and gets its agent through an exec. An image without a
Python that could run the agent is driven through the engine's own calls (`engine_operations`); its process 1 is then a shell
that waits for the end of its input, the same lifeline.
"""

from __future__ import annotations

import contextlib
import logging
import posixpath
import re
import secrets
import shlex
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from attrs import frozen

from enclave.agent import OLD_PYTHON_EXIT_CODE, agent_command, bootstrap
from enclave.channel.channel import Channel
from enclave.deadline import Deadline
from enclave.errors import (
    ConflictError,
    EnclaveError,
    EngineError,
    EngineUnavailableError,
    ImageNotFoundError,
    SandboxBrokenError,
    SandboxGoneError,
    SandboxStartError,
)
from enclave.sandboxes.backend import Backend, Launched, SandboxSpec
from enclave.sandboxes.docker.container import LABEL_START, container_body
from enclave.sandboxes.docker.docker_config import DockerSandboxConfig
from enclave.sandboxes.docker.engine import Engine, get_engine
from enclave.sandboxes.docker.network import PLAIN, ensure_network, forget_network
from enclave.sandboxes.docker.shell.operations import LIFELINE_COMMAND, EngineOperations
from enclave.sandboxes.docker.streams import ContainerStream
from enclave.sandboxes.docker.sweep import LABEL, LABEL_MAIN, LABEL_TENANT, sweep_once
from enclave.sandboxes.docker.transfer import DockerAgentOperations
from enclave.sandboxes.images.catalog import NOT_FETCHED, advice, ensure_image, get_image_command
from enclave.sandboxes.operations import Operations
from enclave.sandboxes.owner import is_stopped
from enclave.sandboxes.processors import Claim, count_for

logger = logging.getLogger(__name__)

START_SECONDS = 60.0
"""How long the agent may take to greet after the engine has started its container."""
LOST_SECONDS = 60.0
"""For how long a container is looked for whose creation was asked for, and not answered."""

_NO_USER = re.compile(r'unable to find (user|group) (.*?): no matching entries', re.DOTALL)
_NO_PYTHON = re.compile(r'python3.*(executable file not found|no such file)', re.IGNORECASE | re.DOTALL)
_NO_SHELL = re.compile(r'"?sh"?.*(executable file not found|no such file)', re.IGNORECASE | re.DOTALL)
_NO_SYSCTL = re.compile(r'sysctl|disable_ipv6', re.IGNORECASE)
_NO_IPV6 = 'cannot set kernel parameters'
_FEW_CPUS = re.compile(r'range of cpus is from', re.IGNORECASE)
_MAX_REPEATS = 2
"""How often a start is repeated without what the engine refused."""
_WAITING = re.compile(r'(ba|da|a|z|k|c|tc|fi)?sh|i?python[0-9.]*|pypy[0-9.]*|node|irb|php|julia|R|ghci|jshell')
"""Programs that alone, without arguments, do nothing but wait for somebody to type."""
_ALREADY_REMOVING = re.compile(r'removal of container .* is already in progress', re.IGNORECASE)


SETTLE_SECONDS = 1.0
"""How long the engine may take to notice that a container has ended."""


class NoAgentError(Exception):
    """The image has no Python that could run the agent."""


class DockerBackend(Backend):
    """Makes a sandbox run in a container of its own.

    Attributes:
        container: The container's id; '' while there is none.
        engine: The engine that it is on.
    """

    config: DockerSandboxConfig

    def __init__(self, spec: SandboxSpec) -> None:
        super().__init__(spec)
        self.engine: Engine | None = None
        self.container = ''
        self._facts: dict[str, Any] = {}
        self._start_mark = ''  # a label of the container that is being created, for as long as its id is not known
        self._network = ''  # the id of this library's network, where the container is on it
        self._is_taken_up = False  # the container was kept by an earlier run
        self._has_main = False  # the container's main process is not our agent
        self._channel: Channel | None = None
        self._shell: EngineOperations | None = None  # what stands in for an agent
        self._claim: Claim | None = None  # the processors of a container without an agent as its process 1

    @property
    def container_name(self) -> str:
        """What the container is called on the engine."""
        return f'enclave-{self.id}'

    # Start ------------------------------------------------------------------------------------------------------------

    def launch(self) -> Launched:
        """See `Backend.launch`."""
        engine = self.engine = get_engine()
        self._facts = {}
        try:
            return Launched(self._run(engine), self._facts)
        except BaseException as error:
            self._abandon()
            if isinstance(error, SandboxGoneError | SandboxBrokenError):
                raise SandboxStartError(
                    f'sandbox {self.id} from {self.config.image!r} did not start: {error.message}',
                    details={'sandbox_id': self.id},
                ) from error
            raise

    def _run(self, engine: Engine) -> Operations:
        return self._take_up(engine) or self._begin(engine)

    def _take_up(self, engine: Engine) -> Operations | None:
        """Start again a container that was kept under this sandbox's name; None if there is none."""
        if not self.container and self.config.remove_on_exit:
            return None
        found = self.inspect(engine, self.container or self.container_name)
        if found is None:
            self.container = ''
            return None
        if found['Config'].get('Labels', {}).get(LABEL) != self.id:
            raise SandboxStartError(
                f'a container called {self.container_name!r} exists that is no sandbox of this library'
            )
        if found['Config'].get('Labels', {}).get(LABEL_TENANT) != self.spec.tenant:
            self.container = ''  # another tenant's, which is not touched
            raise ConflictError(f'the sandbox id {self.id!r} is taken; choose another', details={'sandbox_id': self.id})
        self._has_main = self.config.command is not None or LABEL_MAIN in found['Config']['Labels']
        if found['State'].get('Running') and not self._has_main:
            self.container = ''  # the one that runs it has it now
            raise SandboxStartError(
                f'sandbox {self.id} is running already, in container {self.container_name}; stop it first'
            )
        self.container, self._is_taken_up = found['Id'], True
        if self._has_main:
            return self._run_beside(engine)
        entry = found['Config'].get('Entrypoint') or ['']
        return self._attach_agent(engine) if entry[0] == 'python3' else self._attach_shell(engine)

    def _begin(self, engine: Engine) -> Operations:
        sweep_once(engine)
        for _ in range(_MAX_REPEATS):
            try:
                return self._make(engine)
            except EngineError as error:
                if not self._may_try_again(engine, error):
                    raise
            self._abandon()
        return self._make(engine)

    def _may_try_again(self, engine: Engine, error: EngineError) -> bool:
        """Return whether another start may succeed, since it leaves out what the engine refused or makes it anew."""
        if _NO_IPV6 not in engine.memory and _NO_SYSCTL.search(error.message):
            logger.info('sandbox %s: the engine sets no kernel parameters (%s); doing without', self.id, error.message)
            engine.memory[_NO_IPV6] = True
            return True
        if _FEW_CPUS.search(error.message) and 0 < self._count_cpus(engine) < self.config.cpu_limit:
            # Written on a larger machine, or a default: more than there are is as good as all that there are.
            logger.info('sandbox %s: cpu_limit is %g, and the engine has fewer', self.id, self.config.cpu_limit)
            return True
        if self._network and 'network' in error.message.lower():
            # Our bridge may have been removed between two requests.
            logger.info('sandbox %s: not on the network %s (%s); trying again', self.id, self._network, error.message)
            forget_network(engine, self._network)
            return True
        return False

    def _make(self, engine: Engine) -> Operations:
        self._is_taken_up = False
        if self.config.pull == 'always':
            ensure_image(engine, self.config.image, platform=self.config.platform, pull='always')
        self._has_main = self.config.command is not None or (
            self.config.run_image_command and self._image_does_something(engine)
        )
        if self._has_main:
            self._create(engine, None)
            return self._run_beside(engine)
        try:
            self._create(engine, agent_command())
            return self._attach_agent(engine)
        except NoAgentError as error:
            logger.info('sandbox %s: %s; using the engine itself instead of an agent', self.id, error)
        self._abandon()
        self._create(engine, LIFELINE_COMMAND)
        return self._attach_shell(engine)

    def _image_does_something(self, engine: Engine) -> bool:
        """Return whether the image's own command is more than a shell or an interpreter that waits for somebody to type."""
        self._ensure_image(engine)
        own = get_image_command(engine, self.config.image)
        entry = self.config.entrypoint
        argv = (own.entrypoint if entry is None else entry) + (() if entry else own.command)
        return bool(argv) and not (len(argv) == 1 and _WAITING.fullmatch(posixpath.basename(argv[0])))

    def _ensure_image(self, engine: Engine) -> None:
        """Have the image on the engine, as the configuration allows."""
        may_pull = self.config.pull != 'never'
        ensure_image(engine, self.config.image, platform=self.config.platform, pull='missing' if may_pull else 'never')

    def _attach_agent(self, engine: Engine) -> Operations:
        """Start the container with its agent attached as process 1."""
        stream = ContainerStream(engine.attach_stream(self.container))
        channel = Channel(self.id, stream, program=self._agent_program())
        try:
            self._start_container(engine)
            return self._greet(engine, channel)
        except BaseException as error:
            channel.close()
            if isinstance(error, EngineError) and _NO_PYTHON.search(error.message):
                raise NoAgentError(f'{self.config.image!r} has no python3') from error
            if isinstance(error, SandboxGoneError) and 'is too old' in channel.diagnostics():
                raise NoAgentError(f'{self.config.image!r}: {channel.diagnostics()}') from error
            raise

    def _greet(self, engine: Engine, channel: Channel) -> Operations:
        hello = channel.start(Deadline.after(START_SECONDS))
        if not hello.guarded:
            logger.warning('sandbox %s: its Python lacks ctypes, so the agent in it is not shielded', self.id)
        self._channel = channel
        if not hello.cwd_writable and not self.config.read_only:
            self._give_working_dir(engine, hello.uid, hello.gid)
        self._facts.update(agent_python=hello.python, agent_uid=hello.uid, driven_by='agent')
        direct = not self.config.read_only and not self.config.privileged
        return DockerAgentOperations(
            channel,
            engine,
            self.container,
            use_archives=direct,
            cpu_count=count_for(self.config.cpu_limit),
            is_stopped=self._is_stopped,
        )

    def _is_stopped(self) -> bool | None:
        """Return whether the container is paused or frozen; None where that cannot be seen from here."""
        engine = self.engine
        try:
            found = self.inspect(engine, self.container) if engine is not None else None
        except EngineError:
            return None
        state = (found or {}).get('State', {})
        if state.get('Paused'):
            return True
        # On this machine, and where the agent is the container's process 1, that one can be looked at.
        is_here = engine is not None and engine.endpoint.socket_path is not None and self.config.command is None
        return is_stopped(state['Pid']) if is_here and state.get('Pid') else None

    @staticmethod
    def _count_cpus(engine: Engine) -> int:
        """Return how many processors the engine's host has; 0 where it does not say."""
        count: int | None = engine.memory.get('cpus')
        if count is None:
            try:
                count = engine.describe().cpus
            except EngineError:
                return 0
            engine.memory['cpus'] = count
        return count

    def _agent_program(self) -> bytes:
        return bootstrap(CPU_COUNT=count_for(self.config.cpu_limit), PIDS_LIMIT=self.config.pids_limit or 0)

    def _give_working_dir(self, engine: Engine, uid: int, gid: int) -> None:
        """Make the working directory the user's, where the engine made it as root."""
        import io
        import tarfile

        member = tarfile.TarInfo(self.config.working_dir.strip('/'))
        member.type, member.mode, member.uid, member.gid = tarfile.DIRTYPE, 0o755, uid, gid
        archive = member.tobuf() + b'\0' * 1024
        with contextlib.suppress(EngineError), engine.translate('prepare the working directory'):
            engine.api.put_archive(self.container, '/', io.BytesIO(archive).getvalue())

    def _attach_shell(self, engine: Engine) -> Operations:
        """Start the container with a shell that waits for the end of its input, and use the engine's own calls."""
        stream = ContainerStream(engine.attach_stream(self.container))
        try:
            self._start_container(engine)
        except BaseException as error:
            stream.close()
            if isinstance(error, EngineError) and _NO_SHELL.search(error.message):
                raise SandboxStartError(
                    f'the image {self.config.image!r} has neither python3 nor sh, so nothing can be run in it; '
                    'use another image, or build one from it with one of the two'
                ) from error
            raise
        return self._use_engine(engine, stream)

    def _use_engine(self, engine: Engine, stream: ContainerStream | None) -> Operations:
        """Drive the container by the engine's own calls."""
        self._channel = None
        self._facts.update(agent_python=None, driven_by='engine')
        cpu_count = count_for(self.config.cpu_limit)
        operations = self._shell = EngineOperations(
            engine,
            self.container,
            stream,
            name=self.id,
            cpu_count=cpu_count if cpu_count < self._count_cpus(engine) else 0,
            pids_limit=self.config.pids_limit,
        )
        if self.config.user and not self.config.read_only:
            self._give_working_dir(engine, *operations.get_ids())
        return operations

    def _run_beside(self, engine: Engine) -> Operations:
        """Start the container with its own command, and exec an agent in it."""
        found = self.inspect(engine, self.container)
        if found is None or not found['State'].get('Running'):
            self._start_container(engine)
        try:
            return self._exec_agent(engine)
        except (EngineError, SandboxGoneError, SandboxBrokenError, NoAgentError) as error:
            if isinstance(error, EngineUnavailableError):
                raise
            # What else ends an agent's stream at once is hardly ever seen, so the engine is given time to notice.
            is_there = isinstance(error, NoAgentError) or self._stays(engine)
            end = self._describe_end()
            found = self.inspect(engine, self.container)
            if not is_there or found is None or not found['State'].get('Running'):
                raise SandboxStartError(
                    f'sandbox {self.id}: its command {self._shown_command()} did not stay: {end}',
                    details={'sandbox_id': self.id, 'exit_code': (found or {}).get('State', {}).get('ExitCode')},
                ) from error
            if not isinstance(error, NoAgentError):
                raise
        return self._use_engine(engine, None)

    def _exec_agent(self, engine: Engine) -> Operations:
        with engine.translate(f'start an agent in sandbox {self.id}'):
            made = engine.api.exec_create(
                self.container,
                agent_command(),
                stdin=True,
                user=self.config.user or '',
                workdir=self.config.working_dir,
            )
        channel = Channel(self.id, ContainerStream(engine.exec_stream(made['Id'])), program=self._agent_program())
        try:
            return self._greet(engine, channel)
        except BaseException as error:
            channel.close()
            message = f'{channel.diagnostics()} {error}'
            if isinstance(error, EnclaveError) and (_NO_PYTHON.search(message) or 'is too old' in message):
                raise NoAgentError(f'{self.config.image!r} has no python3 that can run the agent') from error
            with contextlib.suppress(EngineError), engine.translate('look at an exec'):
                code = engine.api.exec_inspect(made['Id']).get('ExitCode')
                if code in (126, 127, OLD_PYTHON_EXIT_CODE) and self._stays(engine):
                    raise NoAgentError(f'{self.config.image!r} has no python3 that can run the agent') from error
            raise

    def _stays(self, engine: Engine) -> bool:
        """Return whether the container continues. The engine shows one that has just ended as running for a moment."""
        deadline, pause = Deadline.after(SETTLE_SECONDS), threading.Event()
        while (found := self.inspect(engine, self.container)) is not None and found['State'].get('Running'):
            if deadline.has_expired():
                return True
            pause.wait(0.05)
        return False

    def _start_container(self, engine: Engine) -> None:
        try:
            with engine.translate(f'start sandbox {self.id}'):
                engine.api.start(self.container)
        except EngineError as error:
            unknown = _NO_USER.search(error.message)
            if unknown is None:
                raise
            raise SandboxStartError(
                f'sandbox {self.id}: the image {self.config.image!r} has no {unknown[1]} {unknown[2]!r}; '
                'set user to one that it has, or to a number',
                details=error.details,
            ) from None

    # Create -----------------------------------------------------------------------------------------------------------

    def _create(self, engine: Engine, entrypoint: list[str] | None) -> None:
        """Create the container; a missing image is pulled first if the configuration lets us."""
        self._start_mark = secrets.token_hex(8)
        body = self.container_body(engine, entrypoint)
        what = f'create sandbox {self.id} from {self.config.image!r}'
        try:
            made = self._post_create(engine, body, what)
        except ImageNotFoundError:
            if self.config.pull == 'never':
                raise ImageNotFoundError(
                    f'The image {self.config.image!r} is not on the engine, and {NOT_FETCHED}. '
                    f'Pull it with `ms-enclave images pull {self.config.image}`. {advice(self.config.image)}'
                ) from None
            ensure_image(engine, self.config.image, platform=self.config.platform)
            made = self._post_create(engine, body, what)
        self.container = made['Id']
        self._start_mark = ''
        for warning in made.get('Warnings') or ():
            logger.warning('sandbox %s: the engine warns: %s', self.id, warning)
        self._facts.update(
            container_id=self.container,
            container_name=self.container_name,
            image=self.config.image,
            network=PLAIN.name if self._network else body['HostConfig']['NetworkMode'],
        )

    def _post_create(self, engine: Engine, body: dict[str, Any], what: str) -> dict[str, Any]:
        with engine.translate(what):
            try:
                api: Any = engine.api  # whose stubs do not know this method's types
                made: dict[str, Any] = api.create_container_from_config(body, self.container_name, self.config.platform)
            except Exception as error:
                message = str(error).lower()
                if 'bind source path does not exist' in message or 'invalid mount config' in message:
                    raise SandboxStartError(
                        f'could not {what}: volumes: {_text_of(error)}. Create the host path first'
                    ) from error
                if 'is already in use by container' in message:
                    raise SandboxStartError(
                        f'could not {what}: a sandbox of this id exists; choose another id, or remove container '
                        f'{self.container_name}'
                    ) from error
                raise
        return made

    def container_body(self, engine: Engine, entrypoint: Sequence[str] | None) -> dict[str, Any]:
        """Return what the engine is asked to create; see `enclave.sandboxes.docker.container`."""
        claim = None
        if entrypoint != agent_command():
            # No agent chooses processors for each call, or for what is not one: the container has the same ones always.
            if self._claim is not None:
                self._claim.release()  # a container's that could not be created
            claim = self._claim = Claim(range(self._count_cpus(engine)), count_for(self.config.cpu_limit))
        network = self.config.network if self.config.network_enabled else 'none'
        if network is None:
            network = self._network = ensure_network(engine)
        return container_body(
            self.spec,
            entrypoint=entrypoint,
            start_mark=self._start_mark,
            network=network,
            cpus=None if claim is None else claim.cpus,
            cpu_limit=min(self.config.cpu_limit, engine.memory.get('cpus') or self.config.cpu_limit),
            sets_sysctls=_NO_IPV6 not in engine.memory,
        )

    # End --------------------------------------------------------------------------------------------------------------

    def _abandon(self) -> None:
        """Take away what a start that failed has made, and never hide why it failed. What was kept before stays."""
        self._channel = None
        mark, self._start_mark = self._start_mark, ''
        if mark and self.engine is not None:
            # The engine may have made a container, or be about to, although its answer was lost or this thread interrupted.
            _Abandoned(self.engine, self.container_name, mark).remove(is_lost=_is_answer_lost())
        if self.container:
            try:
                self.destroy(keep=self._is_taken_up)
            except EnclaveError:
                logger.warning('sandbox %s: container %s may be left', self.id, self.container, exc_info=True)
                self.container = ''

    def destroy(self, *, keep: bool) -> None:
        """See `Backend.destroy`."""
        engine, container = self.engine, self.container
        if self._claim is not None:
            self._claim.release()
        if engine is None or not container:
            return
        if keep:
            with self._unless_gone(), engine.translate(f'stop sandbox {self.id}'):
                engine.api.kill(container)
            return
        with self._unless_gone(), engine.translate(f'remove sandbox {self.id}'):
            engine.api.remove_container(container, force=True, v=True)
        self.container = ''

    def pause(self) -> None:
        """Have the engine freeze the container."""
        engine = self.engine
        assert engine is not None
        with engine.translate(f'pause sandbox {self.id}'):
            engine.api.pause(self.container)

    def resume(self) -> None:
        """Have the engine thaw it."""
        engine = self.engine
        assert engine is not None
        try:
            with engine.translate(f'resume sandbox {self.id}'):
                engine.api.unpause(self.container)
        except EngineError as error:
            # Somebody else has resumed it, or it is gone, which the next look at it says.
            if error.details.get('status') != 404 and 'is not paused' not in error.message:
                raise

    @property
    def has_leftovers(self) -> bool:
        """See `Backend.has_leftovers`."""
        return bool(self.container)

    @property
    def has_history(self) -> bool:
        """See `Backend.has_history`."""
        return self._is_taken_up

    @contextlib.contextmanager
    def _unless_gone(self) -> Iterator[None]:
        """Let the engine's "it is gone" or "it is going" pass; in the second case wait until it has gone."""
        try:
            yield
        except EngineError as error:
            status = error.details.get('status')
            if status == 409 and _ALREADY_REMOVING.search(error.message):
                self._wait_removed()
            elif status != 404 and not (status == 409 and 'is not running' in error.message):
                raise

    def _wait_removed(self) -> None:
        engine = self.engine
        assert engine is not None
        with contextlib.suppress(EngineError), engine.translate(f'wait for the removal of sandbox {self.id}'):
            engine.api.wait(self.container, timeout=10, condition='removed')

    # Looking ----------------------------------------------------------------------------------------------------------

    def changeable_places(self) -> tuple[str, ...] | None:
        """See `Backend.changeable_places`."""
        config = self.config
        if config.volumes or not config.read_only or config.privileged:
            return None
        return ('/tmp', '/var/tmp', '/dev/shm', '/dev/mqueue', '/dev', *config.tmpfs, config.working_dir)

    def find_problem(self) -> str | None:
        """See `Backend.find_problem`."""
        channel = self._channel
        if channel is None:
            return None if self._shell is None else self._shell.find_problem()
        lost = channel.lost
        return None if lost is None else self._describe_end() or lost.reason

    def recover(self) -> Launched | None:
        """Exec another agent where the old was killed by a guest but the container's own command continues."""
        engine, channel = self.engine, self._channel
        lost = None if channel is None else channel.lost
        if engine is None or lost is None or lost.is_breach or not self._has_main or self._describe_end():
            return None
        try:
            return Launched(self._exec_agent(engine), self._facts)
        except (EnclaveError, NoAgentError):
            return None

    def _describe_end(self) -> str:
        """Return why the container does not run any more; '' while it runs or the engine does not answer."""
        engine = self.engine
        if engine is None or not self.container:
            return ''
        try:
            found = self.inspect(engine, self.container)
        except EngineError as error:
            return f'the engine went away ({error.message})' if isinstance(error, EngineUnavailableError) else ''
        if found is None:
            return f'its container {self.container[:12]} was removed behind our back'
        state = found['State']
        if state.get('Paused'):
            return f'its container {self.container[:12]} is paused'
        if state.get('Running'):
            return ''
        code = state.get('ExitCode')
        end = f'its container ended with exit code {code}'
        if state.get('OOMKilled'):
            end += ', out of memory'
        if state.get('Error'):
            end += f' ({state["Error"]})'
        output = self._last_output(engine)
        return f'{end}; its last output: {output}' if output else end

    def _last_output(self, engine: Engine) -> str:
        if not self._has_main:
            return ''
        with contextlib.suppress(EngineError), engine.translate('read the last output'):
            text: bytes = engine.api.logs(self.container, tail=20)
            return text[-2000:].decode('utf-8', 'backslashreplace').strip()
        return ''

    def inspect(self, engine: Engine, container: str) -> dict[str, Any] | None:
        """Return what the engine says of a container, or None if there is none."""
        try:
            with engine.translate(f'look at sandbox {self.id}'):
                found: dict[str, Any] = engine.api.inspect_container(container)
                return found
        except EngineError as error:
            if error.details.get('status') == 404:
                return None
            raise

    def _shown_command(self) -> str:
        command = self.config.command
        if command is None:
            return "(the image's own)"
        return repr(command if isinstance(command, str) else shlex.join(command))

    def get_published_ports(self) -> dict[str, tuple[str, int]]:
        """Return where published ports really are: ``{'8888/tcp': ('127.0.0.1', 49153)}``."""
        engine = self.engine
        found = self.inspect(engine, self.container) if engine and self.container else None
        bindings = (found or {}).get('NetworkSettings', {}).get('Ports') or {}
        return {port: (hosts[0]['HostIp'], int(hosts[0]['HostPort'])) for port, hosts in bindings.items() if hosts}


@frozen
class _Abandoned:
    """A container that nobody waits for, known by its name and the mark of its start alone."""

    engine: Engine
    name: str
    mark: str

    def remove(self, *, is_lost: bool) -> None:
        """Remove it if it is there, and if its creation may still be running, once it is there."""
        if not self._try_remove() and is_lost:
            threading.Thread(target=self._watch, name=f'enclave-abandoned-{self.name}', daemon=True).start()

    def _watch(self) -> None:
        deadline, pause = Deadline.after(LOST_SECONDS), threading.Event()
        while not deadline.has_expired() and not self._try_remove():
            pause.wait(0.5)

    def _try_remove(self) -> bool:
        try:
            with self.engine.translate(f'look for container {self.name}'):
                found = self.engine.api.inspect_container(self.name)
            if (found['Config'].get('Labels') or {}).get(LABEL_START) != self.mark:
                return False
            with self.engine.translate(f'remove container {self.name}'):
                self.engine.api.remove_container(found['Id'], force=True, v=True)
        except EngineError as error:
            if error.details.get('status') != 404:
                logger.debug('container %s may be left: %s', self.name, error)
            return False
        logger.info('container %s, whose start was given up, is removed', self.name)
        return True


def _is_answer_lost() -> bool:
    """Return whether the error that is being handled leaves open what the engine has done: all but its own refusals do."""
    error = sys.exc_info()[1]
    return not (isinstance(error, EngineError) and error.details.get('status')) and not isinstance(
        error, SandboxStartError
    )


def _text_of(error: BaseException) -> str:
    return str(getattr(error, 'explanation', None) or error)
