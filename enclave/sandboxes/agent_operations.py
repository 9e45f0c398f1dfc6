"""The verbs of a sandbox, said once over a channel to its agent (layer 4)."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import math
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from datetime import datetime, timezone
from typing import Any, Literal, NoReturn, cast

import attrs
from attrs import Factory, define, field

from enclave.agent.program import CHUNK, DATA, ERR, EVENT, INPUT_WINDOW, ProtocolError, unpack_message
from enclave.cancellation import Cancellation, is_cancelled, on_cancel, until_cancelled
from enclave.channel.channel import INLINE_BYTES, OVERRUN, Call, Channel, Lost, Reply
from enclave.config import DEFAULT_OUTPUT_BYTES
from enclave.deadline import Deadline
from enclave.errors import (
    CallCancelledError,
    EnclaveError,
    InvalidArgumentError,
    OperationTimeoutError,
    SandboxError,
    SandboxPathError,
    SandboxPathExistsError,
    SandboxPathNotFoundError,
    SandboxSilentError,
)
from enclave.languages.values import StepResult
from enclave.outlet import LARGE_BYTES, MOST_PIECE_BYTES, PIECE_BYTES, STDERR, STDOUT, Outlet, current_outlet
from enclave.quoting import quoted
from enclave.records import CommandResult, OutputSource, PathInfo, find_source, put_source
from enclave.sandboxes.connection import Connection
from enclave.sandboxes.listing import Listing
from enclave.sandboxes.operations import (
    LARGE_COMMAND_BYTES,
    ByVerb,
    Pending,
    check_memory_held,
    explain_sizes,
    make_beside,
)
from enclave.sandboxes.output import Caught, Kept, head_bytes, make_result, tail_bytes
from enclave.sandboxes.process import OutputChunk, Process, Started
from enclave.sandboxes.processors import Claim
from enclave.verb_requests import (
    ListDir,
    MakeDir,
    MovePath,
    ReadArchive,
    ReadFile,
    RemovePath,
    Request,
    RunCommand,
    Script,
    StartProcess,
    StatPath,
    WriteArchive,
    WriteFile,
)

logger = logging.getLogger(__name__)

SILENCE_LIMIT_SECONDS = 5.0
"""How long an agent may be silent about something that is quick by nature, before it is asked whether it answers at all."""
LATE_SECONDS = 2.0
"""How long after a call's own limit the agent, which keeps that limit, may take to say so, before it is asked."""
PING_SECONDS = 5.0
"""How long an agent that is asked may take to answer. One that works has much else to do at most for moments; one whose
container is paused, or whose control group is frozen, does not answer."""


_PRELOAD_PROBLEMS = (
    'it starts threads when it is imported, which a fork would not have',
    'it opens sockets when it is imported, which forks would share',
    'it cannot be imported',
    'this interpreter cannot be stopped in its start',
)
_NO_TEMPLATE = 3
_NOTICES_AT_ONCE = 64


STUCK_SECONDS = 120.0
"""How long a program may be over its limit although its agent answers. One that is killed ends, unless its kernel holds it."""
BUSY_SECONDS = 60.0
"""How long one may take that is known to run."""


_DAMAGES = {
    'directory': 'its working directory was removed, replaced or closed to its user',
    'shell': 'its shell cannot be executed any more',
}


class AgentOperations(ByVerb):
    """See `Operations`. Lives as long as its channel.

    A verb without a method here is done in a child of the agent, by the function there that has its name.

    Args:
        channel: A started channel.
        cpu_count: On how many processors a call runs; 0 for all.
        is_stopped: Says whether the agent is kept from running, as in a paused container; None where that is not known.
    """

    connect_problem = None
    measures = True
    """It keeps limits, measures programs, and takes program texts with a name."""

    def __init__(
        self, channel: Channel, *, cpu_count: int = 0, is_stopped: Callable[[], bool | None] | None = None
    ) -> None:
        if channel.hello is None:
            raise ValueError('the channel is not started')
        self.channel = channel
        self._shell = channel.hello.shell
        self._cpus = channel.hello.cpus
        self._cpu_count = cpu_count
        self._is_stopped = is_stopped

    @property
    def active_calls(self) -> int:
        """How many calls are running."""
        return self.channel.active_calls

    # Commands ---------------------------------------------------------------------------------------------------------

    def execute_command(self, request: RunCommand) -> CommandResult:
        """Run a command to its end, or to the end of its time."""
        cap = request.max_output_bytes or DEFAULT_OUTPUT_BYTES
        tail = tail_bytes(cap)
        kept = {'head': cap - tail, 'tail': tail}
        make_outlet = current_outlet()
        with Claim(self._cpus, self._cpu_count) as claim:
            message, first, rest = self._run_message(request, {**kept, 'cpus': claim.cpus})
            # The agent never sends more than head and tail, so no credit need ever be given while it runs.
            call = self.channel.open(message, first, window=2 * cap + OVERRUN, limit=2 * cap)
            watch = self._watch(request)
            with self._killed_on_exit(call):
                if rest is not None and call.write_all(rest, watch.check) and not call.has_ended:
                    call.close_input()
                reply = watch.wait_small(call, math.inf if make_outlet is None else LARGE_BYTES)
                outlet = None if reply is not None or make_outlet is None else make_outlet()
                if outlet is not None:
                    stdout, stderr = self._hand_on(call, watch, outlet)
                if reply is None:
                    reply = watch.wait(call)
        if outlet is None:
            stdout, stderr = call.take_output()
        return self.result_of(request, reply, stdout, stderr)

    @staticmethod
    def _hand_on(call: Call, watch: AgentWatch, outlet: Outlet) -> tuple[bytes | Caught, bytes | Caught]:
        """Give output to an outlet until the call has ended, and return all output, as bytes where the outlet has none of it."""
        streams = {DATA: STDOUT, ERR: STDERR}
        caught = {kind: Caught() for kind in streams}
        is_handed_on = dict.fromkeys(streams, False)
        wanted = LARGE_BYTES
        while True:
            watch.wait_output(call, wanted)
            has_ended = call.has_ended
            for kind, payload in call.take_pieces():
                caught[kind].add(payload)
            if has_ended:
                break
            for kind, output in caught.items():
                if len(output) >= LARGE_BYTES:
                    is_handed_on[kind] = outlet.take(streams[kind], output)
            size = sum(map(len, caught.values()))
            wanted = size + min(max(PIECE_BYTES, size // 8), MOST_PIECE_BYTES)
        stdout, stderr = (output if is_handed_on[kind] else output.data() for kind, output in caught.items())
        return stdout, stderr

    def start_process(self, request: StartProcess) -> Process:
        """Start a command and return while it runs. Without ``live`` only head and tail within the cap are kept."""
        cap, live = request.max_output_bytes or DEFAULT_OUTPUT_BYTES, request.live
        open_stdin = request.open_stdin or request.tty is not None
        kept: dict[str, Any] = {'head': None, 'tail': 0} if live else {'head': head_bytes(cap), 'tail': tail_bytes(cap)}
        claim = Claim(self._cpus, self._cpu_count)
        kept.update(events=True, cpus=claim.cpus)
        try:
            message, first, rest = self._run_message(request, kept, open_stdin=open_stdin)
            if request.tty:
                message['tty'] = list(request.tty)
            if live:
                call = self.channel.open(message, first, live=True)
            else:
                call = self.channel.open(message, first, window=2 * cap + OVERRUN, limit=2 * cap, live=True)
        except BaseException:
            claim.release()
            raise

        if rest is not None:
            feeding = threading.Thread(
                target=self._feed, args=(call, rest, open_stdin), name=f'enclave-stdin-{self.channel.name}', daemon=True
            )
            if open_stdin or len(request.stdin or b'') <= INPUT_WINDOW:
                feeding.run()
            else:
                # The program may not read on before somebody takes its output, and nobody can before we return.
                feeding.start()
        process = Process(request.command, AgentProgram(self, call, request, claim, self._watch(request)))
        claim.release_with(process)
        return process

    @staticmethod
    def _feed(call: Call, rest: Iterable[bytes], stays_open: bool) -> None:
        """Send a program its input; a call that ends before it is all sent says so itself."""
        with contextlib.suppress(EnclaveError):
            if call.write_all(rest) and not stays_open and not call.has_ended:
                call.close_input()

    def _run_message(
        self, request: RunCommand, kept: dict[str, Any], *, open_stdin: bool = False
    ) -> tuple[dict[str, Any], bytes, Iterable[bytes] | None]:
        """Return the request for the agent, the input that goes with it, and the input that follows."""
        script = request.script
        if isinstance(request.command, str):
            if not self._shell:
                raise SandboxError('the sandbox has no shell; give the command as a list')
            argv = [self._shell, '-c', '--', request.command]
            text = request.command.encode('utf-8', 'surrogateescape')
            if len(text) >= LARGE_COMMAND_BYTES and script is None:
                argv[3], script = '', Script(source=text, at=3, is_sourced=True)
        else:
            argv = list(request.command)
        message: dict[str, Any] = {'op': 'run', 'argv': argv, 'timeout': request.timeout or None, **kept}
        if request.timeout and request.grace:
            message['grace'] = request.grace
        if request.cwd:
            message['cwd'] = request.cwd
        if request.env:
            message['env'] = dict(request.env)
        if request.user:
            message['user'] = request.user
        if request.path_first:
            message['path_first'] = dict(request.path_first)
        if request.limits:
            limits = request.limits
            message['limits'] = {
                'cpu': limits.cpu_seconds,
                'memory': limits.memory_bytes,
                'output': limits.output_bytes,
                'patience': limits.patience,
            }
        data = b''
        if script:
            message['script'] = {'bytes': len(script.source), 'suffix': script.suffix, 'at': script.at}
            if script.preload is not None:
                message['preload'] = list(script.preload)
            if script.is_sourced:
                message['script']['sourced'] = True
            if script.name is not None:
                message['script']['name'] = script.name
            data = script.source
        has_input = request.stdin is not None or open_stdin
        if has_input:
            message['stdin'] = 'pipe'
            data += request.stdin or b''
        first, later = data[:INLINE_BYTES], data[INLINE_BYTES:]
        if not later and not has_input:
            return message, first, None
        return message, first, (later,)

    def result_of(
        self,
        request: RunCommand,
        facts: Reply,
        stdout: bytes | Caught,
        stderr: bytes | Caught,
        *,
        live: bool = False,
    ) -> CommandResult:
        """Return the result, from what the agent says (checked) and the output that came."""
        given = facts.names()
        with self._checked():
            if 'error' in given:
                self._raise(facts.facts('error'))
            out_total, out_sent = facts.pair('out') if 'out' in given else (0, 0)
            err_total, err_sent = facts.pair('err') if 'err' in given else (0, 0)
            if not live and (out_sent != len(stdout) or err_sent != len(stderr)):
                raise ProtocolError('the output does not have the length the agent says')
            exit_code = facts.integer('exit', high=255) if 'exit' in given else None
            killed_by = facts.integer('signal', low=1, high=127) if 'signal' in given else None
            if 'missing' in given:
                name = request.command if isinstance(request.command, str) else request.command[0]
                number = facts.integer('missing', high=4096)
                reason = explain_sizes(request) if number == errno.E2BIG else _errno_message(number)
                stderr = f'enclave: cannot run {quoted(name)}: {reason}\n'.encode('utf-8', 'backslashreplace')
                err_total = len(stderr)
            if 'cleared' in given:
                logger.warning(
                    'sandbox %s: %d processes that an earlier call had left running were ended, since they left no room for '
                    'another (pids_limit)',
                    self.channel.name,
                    facts.integer('cleared'),
                )
            if 'preload_problems' in given and request.script is not None:
                self._report_preload(request.script, facts.integers('preload_problems', high=1000))
            cancelled = 'cancelled' in given and facts.flag('cancelled')
            timed_out = 'timed_out' in given and facts.flag('timed_out')
            if exit_code is None and killed_by is None:
                if not cancelled and not timed_out:
                    raise ProtocolError('a command ended neither by exit nor by signal')
                killed_by = 9
            result = make_result(
                request.command,
                exit_code=exit_code,
                killed_by=killed_by,
                stdout=stdout,
                stderr=stderr,
                stdout_bytes=out_total,
                stderr_bytes=err_total,
                cap=request.max_output_bytes or DEFAULT_OUTPUT_BYTES,
                timed_out=timed_out,
                cancelled=cancelled,
                oom_killed='oom' in given and facts.flag('oom'),
                seconds=facts.number('seconds') if 'seconds' in given else 0.0,
            )
            return result if request.limits is None else _measured(result, facts)

    # Files ------------------------------------------------------------------------------------------------------------

    def read_file(self, request: ReadFile) -> Iterator[bytes]:
        """Yield a regular file's bytes."""
        path = request.path
        message = {'op': 'read', 'path': path, 'offset': request.offset, 'length': request.max_bytes}
        call = self.channel.open(message, live=True)
        with self._killed_on_exit(call):
            yield from self._output(call, path)
            yield call.take_rest()

    def write_file(self, request: WriteFile, chunks: Iterable[bytes], size: int | None = None) -> int:
        """Write a regular file and return its size; ``size`` is how many bytes come, where that is known."""
        path = request.path
        message: dict[str, Any] = {
            'op': 'write',
            'path': path,
            'append': request.append,
            'exclusive': request.exclusive,
            'parents': request.make_parents,
            'mode': request.mode,
        }
        source = until_cancelled(chunks, f'writing {quoted(path)} into the sandbox')
        first = next(source, b'')
        if len(first) <= INLINE_BYTES:
            second = next(source, None)
            if second is None:
                return self._ask({**message, 'eof': True}, first, path=path).integer('size')
            pieces = _chain(second, source)
        else:
            first, pieces = b'', _chain(first, source)
        call = self.channel.open(message, first)
        with self._killed_on_exit(call):
            if call.write_all(pieces, self._check_answers):
                call.close_input()
            reply = self._await_end(call)
        return self._answer(reply, path).integer('size')

    def list_dir(self, request: ListDir) -> list[PathInfo]:
        """Return a directory's entries, sorted by path."""
        path = request.path
        listing = Listing(request)
        message = {'op': 'list', 'path': path, 'recursive': request.recursive, 'limit': listing.wanted}
        call = self.channel.open(message, live=True)
        with self._killed_on_exit(call), self._checked():
            for page in self._output(call, path):
                for entry in _entries(page):
                    listing.add(_path_info(Reply(entry)))
        return listing.sorted()

    def stat_path(self, request: StatPath) -> PathInfo:
        """Return what is at a path."""
        with self._checked():
            return _path_info(self.stat_facts(request.path, follow_symlinks=request.follow_symlinks))

    def stat_facts(self, path: str, *, follow_symlinks: bool) -> Reply:
        """Return what the agent says of a path; beside the fields of `PathInfo`, ``on_root`` says whether it lies on the
        same file system as ``/``."""
        return self._ask({'op': 'stat', 'path': path, 'follow': follow_symlinks}, path=path)

    def remove_path(self, request: RemovePath) -> None:
        """Remove what is at a path."""
        path = request.path
        if request.recursive:
            try:
                if self.stat_path(StatPath(path=path, follow_symlinks=False)).kind == 'directory':
                    return self._builtin({'name': 'rmtree', 'path': path})
            except SandboxPathNotFoundError:
                if request.missing_ok:
                    return None
                raise
        self._ask({'op': 'remove', 'path': path, 'missing_ok': request.missing_ok}, path=path)
        return None

    def make_dir(self, request: MakeDir) -> None:
        """Make a directory."""
        self._ask({'op': 'mkdir', **attrs.asdict(request)}, path=request.path)

    def move_path(self, request: MovePath) -> None:
        """Rename, or move between file systems."""
        try:
            self._ask({'op': 'move', **attrs.asdict(request)}, path=request.source)
        except SandboxPathError as error:
            if error.details.get('errno') != errno.EXDEV:
                raise
            # To another file system it is copied, which may take long.
            self.run_other(request)

    def run_other(self, request: Request[Any]) -> None:
        """Have a verb done in a child of the agent, by the function there that has its name.

        It is given a name for what it makes beside its place, which is taken away if it does not get to the end.
        """
        beside = make_beside()
        try:
            self._builtin({'name': request.verb, 'beside': beside, **attrs.asdict(request)})  # type: ignore[arg-type]
        except CallCancelledError:
            with Cancellation().applied():
                for path in request.places(beside):
                    with contextlib.suppress(EnclaveError):
                        self.remove_path(RemovePath(path=path, recursive=True, missing_ok=True))
            raise

    def read_archive(self, request: ReadArchive) -> Iterator[bytes]:
        """Yield a tar archive of a path."""
        what = {'name': 'tar', 'path': request.path, 'arcname': request.top_name}
        message = self._builtin_message(what, head=None)
        call = self.channel.open(message, live=True)
        problem = b''
        with self._killed_on_exit(call):
            for kind, piece in self._frames(call):
                if kind == DATA:
                    yield piece
                else:
                    problem = (problem + piece)[:CHUNK]
            self._builtin_end(self._await_end(call), problem)

    def write_archive(self, request: WriteArchive, chunks: Iterable[bytes], size: int | None = None) -> None:
        """Unpack a tar archive below a directory."""
        path = request.target_dir
        self._builtin({'name': 'untar', 'path': path}, until_cancelled(chunks, f'unpacking in {quoted(path)}'))

    def _builtin_message(self, what: dict[str, Any], *, head: int | None = 8192) -> dict[str, Any]:
        return {'op': 'run', 'builtin': what, 'argv': ['enclave'], 'head': head, 'tail': 0}

    def _builtin(self, what: dict[str, Any], chunks: Iterable[bytes] | None = None) -> None:
        """Have long file work done in a child of the agent, and raise what went wrong there."""
        message = self._builtin_message(what)
        if chunks is not None:
            message['stdin'] = 'pipe'
        call = self.channel.open(message, window=OVERRUN, limit=2 * 8192)
        with self._killed_on_exit(call):
            if chunks is not None and call.write_all(chunks, self._check_answers):
                call.close_input()
            facts = self._await_end(call)
        self._builtin_end(facts, call.take_output()[1])

    def _builtin_end(self, facts: Reply, problem: bytes) -> None:
        with self._checked():
            if 'error' in facts:
                self._raise(facts.facts('error'))
            if 'exit' in facts and facts.integer('exit', high=255) == 0:
                return
            if facts.flag('cancelled'):
                raise CallCancelledError('the file operation was cancelled')
            try:
                about = json.loads(problem)
            except (ValueError, RecursionError):
                about = None
            if isinstance(about, dict):
                self._raise(Reply({'field': '', **about}))
        raise SandboxError('the file operation was ended from inside the sandbox')

    # Network ----------------------------------------------------------------------------------------------------------

    def connect(self, port: int, host: str, *, timeout: float | None) -> Connection:
        """Connect to a TCP port as seen from inside."""
        return self._connect({'host': host, 'port': port}, f'port {port}', timeout)

    def connect_path(self, path: str, *, timeout: float | None) -> Connection:
        """Connect to a Unix socket inside, by its absolute path; errors as for `connect`."""
        return self._connect({'path': path}, repr(path), timeout)

    def _connect(self, message: dict[str, Any], what: str, timeout: float | None) -> Connection:
        call = self.channel.open({'op': 'connect', **message}, live=True)
        deadline = Deadline.after(timeout)
        try:
            frame = call.next_frame(deadline)
            if frame is None or frame[0] != EVENT:
                self._answer(call.wait(deadline), '')
                raise SandboxError(f'the connection to {what} ended before it began')
        except BaseException:
            if not call.has_ended:
                call.cancel()
            raise
        return Connection(call)

    def notice_changes(self, path: str, *, recursive: bool) -> KernelNotices | None:
        """Have the kernel say what changes in a directory; see `ChangeNotifier`."""
        call = self.channel.open({'op': 'changes', 'path': path, 'recursive': recursive}, live=True)
        try:
            AgentWatch(self._check_answers, Deadline.after(SILENCE_LIMIT_SECONDS)).wait_ready(call, Deadline())
            frame = call.next_frame(Deadline())
        except BaseException:
            call.cancel()
            raise
        if frame is None or frame[0] != EVENT:
            return None  # it has ended, and said why
        return KernelNotices(call)

    # Life -------------------------------------------------------------------------------------------------------------

    def ping(self, timeout: float) -> None:
        """Return if the agent answers and can start a process."""
        reply = self.channel.open({'op': 'ping', 'start': True}).wait(Deadline.after(timeout))
        with self._checked():
            if not reply.flag('starts'):
                raise SandboxError(f'sandbox {self.channel.name} cannot start a process: its process limit is reached')

    def end_processes(self, timeout: float, *, keep: Collection[Process] = ()) -> int:
        """End what calls have started, but for some processes; see `ProcessEnder.end_processes`."""
        return self.begin_ending(timeout, keep=keep).finish()

    def begin_ending(self, timeout: float, *, keep: Collection[Process] = ()) -> Pending[int]:
        """Begin to end what calls have started; see `BackgroundProcessEnder.begin_ending`."""
        call = self.channel.open({'op': 'clean', 'keep': [self._number(process) for process in keep]})
        deadline = Deadline.after(timeout)

        def finish() -> int:
            try:
                reply = call.wait(deadline)
            except OperationTimeoutError:
                call.cancel()
                raise self._silent(f'did not end its processes within {timeout:g} s') from None
            return self._count_ended(reply)

        def wait(until: Deadline) -> bool:
            return call.wait_ready(until.earlier(deadline.as_timeout())) or deadline.has_expired()

        return Pending(finish, lambda: call.has_ended or deadline.has_expired(), wait)

    def _count_ended(self, reply: Reply) -> int:
        """Return how many processes were ended, as the agent reports it; raise where not all is well afterwards."""
        with self._checked():
            if 'error' in reply:
                self._raise(reply.facts('error'))
            ended, left, starts = reply.integer('ended'), reply.integer('left'), reply.flag('starts')
            held, memory, damage = reply.integer('held'), reply.integer('memory'), reply.text('damage')
        if left:
            raise SandboxError(f'sandbox {self.channel.name}: {left} processes in it could not be ended')
        if not starts:
            raise SandboxError(f'sandbox {self.channel.name} cannot start a process: its process limit is reached')
        check_memory_held(self.channel.name, held, memory)
        if damage:
            raise SandboxError(f'sandbox {self.channel.name} is damaged: {_DAMAGES.get(damage, "it says so itself")}')
        return ended

    @staticmethod
    def _number(process: Process) -> int:
        program = process._program
        if not isinstance(program, AgentProgram):
            raise InvalidArgumentError(f'{quoted(process)} is none of this sandbox')
        return program.call.number

    # Silence ----------------------------------------------------------------------------------------------------------

    def _watch(self, request: RunCommand) -> AgentWatch:
        """Return what watches over a command that is about to run."""
        patience = 0.0 if request.limits is None else request.limits.patience
        limit = request.timeout * (1.0 + patience) + request.grace + LATE_SECONDS if request.timeout else None
        return AgentWatch(self._check_answers, Deadline.after(limit), has_limit=limit is not None)

    def _check_answers(self) -> None:
        """Ask the agent whether it answers.

        Raises:
            SandboxSilentError: It does not.
        """
        call = self.channel.open({'op': 'ping'})
        patience = Deadline.after(BUSY_SECONDS)
        while not call.wait_ready(Deadline.after(PING_SECONDS), for_end=True):
            # Programs that leave it no processor do not keep it from running: it gets some at last, and ends them.
            is_busy = self._is_stopped is not None and self._is_stopped() is False
            if not is_busy or patience.has_expired():
                raise self._silent(f'has not answered for {PING_SECONDS:g} s')
        call.wait(Deadline())

    def _silent(self, what: str) -> SandboxSilentError:
        return SandboxSilentError(
            f'sandbox {self.channel.name} {what}; it may be paused or frozen. What the call began continues if it is thawed, '
            'until its own time limit; then the sandbox can be used again. Otherwise delete it',
            details={'sandbox_id': self.channel.name},
        )

    def _await_end(self, call: Call) -> Reply:
        """Wait for the end of a call that has no limit of its own, for as long as the agent answers."""
        return AgentWatch(self._check_answers, Deadline.after(SILENCE_LIMIT_SECONDS)).wait(call)

    def _frames(self, call: Call) -> Iterator[tuple[int, bytes]]:
        """Yield a call's output for as long as the agent answers."""
        while True:
            AgentWatch(self._check_answers, Deadline.after(SILENCE_LIMIT_SECONDS)).wait_ready(call, Deadline())
            frame = call.next_frame(Deadline())
            if frame is None:
                return
            yield frame

    def close(self, *, grace: float) -> None:
        """Send SIGTERM to what still runs, wait for it at most ``grace`` seconds, and close the channel."""
        # A write may block for as long as the sandbox takes nothing (a paused one); closing the stream ends it.
        closing = threading.Timer(grace, self.channel.close)
        closing.name, closing.daemon = f'enclave-grace-{self.channel.name}', True
        closing.start()
        try:
            deadline = Deadline.after(grace)
            if self.channel.lost is None and self._count_running(deadline) and self._terminate(deadline):
                self._wait_idle(deadline)
        except (EnclaveError, ProtocolError):
            pass  # it does not answer in time; what follows does not ask
        finally:
            closing.cancel()
            self.channel.close()

    def _count_running(self, deadline: Deadline) -> int:
        facts = self.channel.open({'op': 'ping'}).wait(deadline)
        return facts.integer('running') + facts.integer('background', low=-(1 << 31))

    def _terminate(self, deadline: Deadline) -> int:
        return self.channel.open({'op': 'terminate'}).wait(deadline).integer('processes')

    def _wait_idle(self, deadline: Deadline) -> None:
        call = self.channel.open({'op': 'idle'})
        with contextlib.suppress(OperationTimeoutError):
            call.wait(deadline)

    # Help -------------------------------------------------------------------------------------------------------------

    def _ask(self, message: dict[str, Any], data: bytes = b'', *, path: str = '') -> Reply:
        """Make a call that is quick by nature and return its answer."""
        call = self.channel.open(message, data)
        with self._killed_on_exit(call):
            facts = self._await_end(call)
        return self._answer(facts, path)

    def _answer(self, facts: Reply, path: str) -> Reply:
        with self._checked():
            if 'error' in facts:
                self._raise(facts.facts('error'))
            if facts.flag('cancelled'):
                raise CallCancelledError(f'the operation on {quoted(path)} was cancelled')
        return facts

    def _output(self, call: Call, path: str) -> Iterator[bytes]:
        """Yield a file call's output, then raise what its end says."""
        for _, piece in self._frames(call):
            yield piece
        self._answer(self._await_end(call), path)

    def _raise(self, error: Reply) -> NoReturn:
        """Raise the exception for what the agent refused."""
        message, number, field = error.text('message'), error.integer('errno', high=4096), error.text('field')
        if field in ('cwd', 'user', 'env', 'command', 'rlimits'):
            raise InvalidArgumentError(message, details={'field': field})
        if field == 'processes' or number == errno.ENOSYS:
            raise SandboxError(message)
        if number == errno.ENOENT:
            raise SandboxPathNotFoundError(message, details={'errno': number})
        if number == errno.EEXIST:
            raise SandboxPathExistsError(message, details={'errno': number})
        raise SandboxPathError(message, details={'errno': number})

    @contextlib.contextmanager
    def _killed_on_exit(self, call: Call) -> Iterator[None]:
        """Cancel the call when its work is cancelled, and when this thread leaves it early (Ctrl-C, say)."""
        if is_cancelled():
            call.cancel()
        with on_cancel(call.cancel):
            try:
                yield
            except BaseException:
                if not call.has_ended:
                    call.cancel()
                raise

    def _report_preload(self, script: Script, problems: Sequence[int]) -> None:
        """Log which modules are not preloaded, and why: programs that want them import them themselves."""
        modules = script.preload or ()
        for problem in problems:
            index, reason = divmod(problem, 4)
            name = modules[index] if index < len(modules) else ''
            what = (
                f'the module {quoted(name)} is not preloaded'
                if name and reason != _NO_TEMPLATE
                else 'nothing is preloaded'
            )
            logger.warning('sandbox %s: %s: %s', self.channel.name, what, _PRELOAD_PROBLEMS[reason])

    @contextlib.contextmanager
    def _checked(self) -> Iterator[None]:
        """Turn a malformed answer into the end of the channel: an agent that lies once is not asked again."""
        try:
            yield
        except ProtocolError as error:
            lost = Lost(str(error), is_breach=True)
            self.channel.fail(lost)
            raise self.channel.explain(lost) from error


class AgentWatch:
    """Waits for a call's agent, which keeps the call's limit; when it is late it is asked whether it answers at all.

    Args:
        check: Asks, and raises when there is no answer.
        due: When it is late.
        has_limit: Whether the agent is to end the call, so that one that answers and does not end it is waited for
            `STUCK_SECONDS` and no longer.
    """

    def __init__(self, check: Callable[[], None], due: Deadline, *, has_limit: bool = False) -> None:
        self.check = check
        self._due = due
        self._has_limit = has_limit

    def wait(self, call: Call) -> Reply:
        """Wait for the call's end and return what the agent reports."""
        self.wait_ready(call, Deadline(), for_end=True)
        return call.wait(Deadline())

    def wait_small(self, call: Call, size: float) -> Reply | None:
        """Wait for the end of a call that has less output than ``size`` bytes, as `wait` does; None as soon as it has as many."""
        patience: Deadline | None = None
        while (is_small := call.wait_small(self._due, size)) is None:
            patience = self._ask(patience)
        return call.wait(Deadline()) if is_small else None

    def wait_output(self, call: Call, size: int) -> None:
        """Return when so many bytes of output have come, or the call has ended.

        Raises:
            SandboxSilentError: The agent is late and does not answer.
            OperationTimeoutError: It answers, but has not ended what is long over its limit.
        """
        patience: Deadline | None = None
        while not call.wait_output(self._due, size):
            patience = self._ask(patience)

    def wait_ready(self, call: Call, deadline: Deadline, *, for_end: bool = False) -> None:
        """Return when the call has something to take, or has ended, or the caller's own deadline has passed.

        Raises:
            SandboxSilentError: The agent is late and does not answer.
            OperationTimeoutError: It answers, but has not ended what is long over its limit.
            CallCancelledError: The caller's work was cancelled.
        """
        patience: Deadline | None = None
        while not call.wait_ready(_earlier(deadline, self._due), for_end=for_end):
            if deadline.has_expired():
                return
            patience = self._ask(patience)

    def _ask(self, patience: Deadline | None) -> Deadline:
        """Ask whether the agent answers, and return how long it is waited for."""
        self.check()
        patience = patience or Deadline.after(STUCK_SECONDS if self._has_limit else None)
        if patience.has_expired():
            raise OperationTimeoutError(
                f'the program is over its time limit by {STUCK_SECONDS:g} s: it was killed and does not end. It may wait for '
                'a device or a file system that does not answer; delete the sandbox and make a new one'
            )
        self._due = Deadline.after(SILENCE_LIMIT_SECONDS)
        return patience


def _earlier(one: Deadline, other: Deadline) -> Deadline:
    return one if other.at is None or (one.at is not None and one.at <= other.at) else other


@define(eq=False)
class AgentProgram:
    """A running program as its agent reports it; see `RunningProgram`."""

    _operations: AgentOperations = field(repr=False)
    call: Call
    _request: StartProcess = field(repr=False)
    _claim: Claim = field(repr=False)
    _watch: AgentWatch = field(repr=False)
    _out: Kept = field(default=Factory(lambda self: Kept(self._cap), takes_self=True), init=False, repr=False)
    _err: Kept = field(default=Factory(lambda self: Kept(self._cap), takes_self=True), init=False, repr=False)

    @property
    def _cap(self) -> int:
        return self._request.max_output_bytes or DEFAULT_OUTPUT_BYTES

    @property
    def has_ended(self) -> bool:
        """Whether it has ended; output may still be there to take."""
        return self.call.has_ended

    def next(self, deadline: Deadline) -> OutputChunk | Started | CommandResult | None:
        """Return the next that comes of it; see `RunningProgram.next`."""
        self._watch.wait_ready(self.call, deadline)
        frame = self.call.next_frame(deadline)
        if frame is None:
            reply = self.call.wait(deadline)
            self._claim.release()
            out, err = self._out.data(), self._err.data()
            return self._operations.result_of(self._request, reply, out, err, live=self._request.live)
        kind, payload = frame
        if kind in (DATA, ERR):
            (self._out if kind == DATA else self._err).add(payload)
            return OutputChunk('stdout' if kind == DATA else 'stderr', payload)
        if kind == EVENT:
            with contextlib.suppress(ProtocolError):
                return Started(Reply(unpack_message(payload)[0]).integer('started'))
        return None

    def write(self, data: bytes, deadline: Deadline) -> bool:
        """Send input as fast as the program reads it; False if it ended first."""
        return self.call.write(data, deadline)

    def close_input(self) -> None:
        """Say that no more input comes."""
        self.call.close_input()

    def signal(self, number: int, *, group: bool) -> None:
        """Send a signal to the program, or to its process group."""
        self.call.control(signal=number, target='group' if group else 'main')

    def resize(self, rows: int, columns: int) -> None:
        """Give its terminal another size."""
        self.call.control(resize=[rows, columns])

    def kill(self) -> None:
        """Kill it and everything it started."""
        self.call.cancel()


def _chain(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest


def _entries(page: bytes) -> list[dict[str, Any]]:
    try:
        entries = json.loads(b'[%s]' % page.rstrip(b'\n').replace(b'\n', b','))
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f'a page of a listing is not JSON: {error}') from None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ProtocolError('a page of a listing is not a list of objects')
    return entries


_KINDS = ('file', 'directory', 'symlink', 'other')


def _path_info(facts: Reply) -> PathInfo:
    kind = facts.text('kind')
    if kind not in _KINDS:
        raise ProtocolError(f'there is no kind {kind!r}')
    seconds = min(facts.signed('mtime'), 253402300799.0)
    return PathInfo(
        path=facts.text('path'),
        kind=cast("Literal['file', 'directory', 'symlink', 'other']", kind),
        size=facts.integer('size'),
        mode=facts.integer('mode', high=0o7777),
        modified_at=datetime.fromtimestamp(max(seconds, 0.0), timezone.utc),
        uid=facts.integer('uid', high=1 << 32),
        gid=facts.integer('gid', high=1 << 32),
        target=facts.text('target') if 'target' in facts else None,
    )


def _measured(result: CommandResult, facts: Reply) -> StepResult:
    """Return the result of a program that ran under limits."""
    exceeded = facts.text('exceeded') if 'exceeded' in facts else None
    if exceeded not in (None, 'time', 'cpu', 'memory', 'output'):
        raise ProtocolError(f'there is no limit {exceeded!r}')
    values: dict[str, Any] = {}
    sources: dict[str, OutputSource] = {}
    for each in attrs.fields(CommandResult):
        source = find_source(result, each.name)
        if source is None:
            values[each.name] = getattr(result, each.name)
        else:
            sources[each.name] = source
    step = StepResult(
        **values,
        cpu_time=facts.number('cpu') if 'cpu' in facts else None,
        peak_memory_bytes=facts.integer('memory') if 'memory' in facts else None,
        exceeded=cast(Any, exceeded),
    )
    if sources:
        put_source(step, **sources)
    return step


def _errno_message(number: int) -> str:
    """Return what an error number of Linux means, also where this side is not Linux."""
    known = {errno.ENOENT: 'No such file or directory', errno.EACCES: 'Permission denied'}
    return known.get(number) or f'{errno.errorcode.get(number, "error")} ({number})'


@define(eq=False)
class KernelNotices:
    """What the agent says of changes in a directory; see `Notices`. It is bounded, as everything that the agent says."""

    _call: Call = field(repr=False)
    _rest: bytes = field(default=b'', init=False, repr=False)

    def wait(self, deadline: Deadline) -> bool:
        """Wait until something has changed; see `Notices.wait`."""
        return self._call.wait_ready(deadline) and not self.has_ended

    def take(self) -> list[tuple[str, str]]:
        """Return which names came and went; see `Notices.take`."""
        found: list[tuple[str, str]] = []
        # What comes while this takes is the next one's, or a guest could keep it here for ever.
        for _ in range(_NOTICES_AT_ONCE):
            if not self._call.wait_ready(Deadline.after(0.000001)):
                break
            frame = self._call.next_frame(Deadline())
            if frame is None:
                break
            *lines, rest = (self._rest + frame[1]).split(b'\n')
            self._rest = rest[:CHUNK]  # no line that the agent sends is longer
            for line in lines:
                try:
                    value = json.loads(line)
                except (ValueError, RecursionError):
                    continue
                if isinstance(value, list) and len(value) == 2 and all(isinstance(each, str) for each in value):
                    found.append((value[0], value[1]))
        return found

    @property
    def has_ended(self) -> bool:
        """Whether nothing more comes."""
        return self._call.has_ended

    def close(self) -> None:
        """End it. May be called twice."""
        if not self._call.has_ended:
            with contextlib.suppress(EnclaveError):
                self._call.cancel()
