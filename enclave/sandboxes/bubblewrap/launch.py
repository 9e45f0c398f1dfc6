"""Starting bubblewrap: the thread that does it, and the agent in a form that starts quickly (layer 4).

**The thread.** A sandbox is to die with this process, by bubblewrap's ``--die-with-parent``, which is prctl(2)'s
PR_SET_PDEATHSIG. The kernel takes the *thread* that forked for the parent, so a sandbox made in a thread that ends
would end with it. One thread of this library, which lives as long as the process, therefore starts them all.

**The agent.** Compiling its source takes longer than all the rest of a start. The interpreter it will run under is
known here, so its code object is compiled once, inside a sandbox with that same interpreter, and kept; the loader only
takes it in.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import queue
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from functools import lru_cache
from pathlib import Path
from typing import Any

from enclave import agent
from enclave.channel.streams import PipeStream
from enclave.errors import SandboxStartError
from enclave.sandboxes.bubblewrap.places import cache_dir, keep_file

_COMPILE_SECONDS = 60.0
_CODE_LIMIT_BYTES = 8 << 20
_FORMAT = 1
"""To be raised when what is kept, or how, changes otherwise than by the source."""
_PIPE_BYTES = 1 << 18
"""What the pipe to an agent is to hold: its whole program, so that sending that is one step and no back and forth."""

LOADER = f"""\
import sys
if sys.version_info<(3,6):
 import os
 os.write(2,('enclave-agent: Python %d.%d is too old'%sys.version_info[:2]).encode())
 os._exit({agent.OLD_PYTHON_EXIT_CODE})
import marshal,posix
def r(n):
 b=b''
 while len(b)<n:
  c=posix.read(0,n-len(b))
  if not c:posix._exit(0)
  b+=c
 return b
s=r(int(r(8)))
p,c=marshal.loads(r(int(r(8))))
s={{'settings':s,'code':c}}
del c
exec(p,s)
"""
"""What the interpreter is given on its command line; it is compiled at every start, so it is short.

From its input it takes, each after eight digits of length, settings like ``RLIMIT_CORE=0 OOM_EVENTS=7`` and a marshalled pair of
code objects, `_PRELUDE` and the agent, and runs the first.
"""

_PRELUDE = """\
import sys,resource
space={'__name__':'enclave_agent'}
given={}
for word in settings.decode().split():
    name,value=word.split('=')
    value=int(value)
    if name.startswith('RLIMIT_'):
        number=getattr(resource,name)
        hard=resource.getrlimit(number)[1]
        if hard>=0:
            value=min(value,hard)
        resource.setrlimit(number,(value,hard if name=='RLIMIT_CORE' else value))
    else:
        given[name]=value
exec(code,space)
del code
space.update(given)
space['main']()
"""
"""What runs before the agent: it sets the rlimits on its own process. From outside that takes longer, and even root may lack
the right to; it is done there as well where the interpreter is not to be trusted with it. Either way it is a process within
the sandbox's user namespace on which RLIMIT_NPROC is set, so that this counts the sandbox's alone (kernel 5.14).
"""

_MARK = b'enclave code\n'
_COMPILER = f"""\
import marshal,sys
prelude,source=sys.stdin.buffer.read().split(b'\\0')
each=[compile(text,'<enclave-agent>','exec',optimize=2) for text in (prelude,source)]
sys.stdout.buffer.write({_MARK!r}+marshal.dumps(tuple(each)))
"""


def agent_command(python: str) -> list[str]:
    """Return the argv of an agent that is sent as `agent_code`."""
    return [python, '-I', '-S', '-c', LOADER]


@lru_cache(maxsize=1)
def _source() -> bytes:
    return _PRELUDE.encode() + b'\0' + Path(agent.__file__).with_name('program.py').read_bytes()


def _code_name(key: str) -> str:
    return hashlib.sha256(f'{_FORMAT} {key}'.encode() + _source()).hexdigest()[:24]


_codes: dict[str, bytes] = {}  # one entry per interpreter in use; written once each, so no lock


Started = subprocess.Popen[bytes]


def agent_code(key: str, start: Callable[[list[str]], Started], kill: Callable[[Started], None], python: str) -> bytes:
    """Return the agent's code object, marshalled for an interpreter; compiled at most once per machine.

    Args:
        key: Distinguishes interpreters.
        start: Starts a command in a sandbox that has the interpreter, with pipes, under the sandbox's limits.
        kill: Ends what was started, however the limits slow it.
    """
    found = _codes.get(key)
    if found is None:
        code = keep_file(cache_dir('agent') / _code_name(key), lambda: _compile(start, kill, python))
        found = _codes[key] = code
    return found


def make_bootstrap(code: bytes, rlimits: Mapping[str, int], oom_events: int = -1, **settings: int) -> bytes:
    """Return what the loader takes.

    Args:
        rlimits: ``{'NOFILE': 4096}``, names without their ``RLIMIT_``.
        oom_events: The descriptor, in the sandbox, of the file that counts its OOM kills; -1 for none.
        settings: Further names of the agent's module that are set from outside.
    """
    given = {**{f'RLIMIT_{name}': value for name, value in rlimits.items()}, 'OOM_EVENTS': oom_events, **settings}
    text = ' '.join(f'{name}={value}' for name, value in given.items()).encode('ascii')
    return b'%08d%b%08d%b' % (len(text), text, len(code), code)


def _compile(start: Callable[[list[str]], Started], kill: Callable[[Started], None], python: str) -> bytes:
    """Return what the interpreter makes of the source. It may be a stranger's: it gets so long, and is read so far."""
    process = start([python, '-I', '-S', '-X', 'no_debug_ranges', '-c', _COMPILER])
    stream, is_late = PipeStream(process, name='compiler'), threading.Event()

    def end() -> None:
        is_late.set()
        kill(process)

    # The end of bubblewrap is the end of all in the sandbox, and so of what a read or write here waits for.
    timer = threading.Timer(_COMPILE_SECONDS, end)
    timer.name, timer.daemon = 'enclave-compiler-timer', True
    code = bytearray()
    try:
        timer.start()
        with contextlib.suppress(BrokenPipeError):  # what it says, or its exit code, says more
            stream.write(_source())
            process.stdin.close()  # type: ignore[union-attr]  # PipeStream has checked it
        while len(code) < _CODE_LIMIT_BYTES and (data := stream.read()):
            code += data
        if len(code) < _CODE_LIMIT_BYTES:
            process.wait()
    finally:
        timer.cancel()
        kill(process)
        stream.close()
        stream.release()
    if is_late.is_set():
        raise CompileError(f'{python} took more than {_COMPILE_SECONDS:g} s to compile the program inside')
    if len(code) >= _CODE_LIMIT_BYTES:
        raise CompileError(f'{python} is no Python: it wrote more than {_CODE_LIMIT_BYTES} bytes, of no use')
    if process.returncode or not code.startswith(_MARK):
        no_python = (
            f'{python} is no Python: asked to compile the program inside, it ended with exit code {process.returncode}'
        )
        raise CompileError(stream.diagnostics() or no_python)
    return bytes(code[len(_MARK) :])


class CompileError(SandboxStartError):
    """The interpreter in the sandbox could not be used; the message is what it, or bubblewrap, said."""

    code = 'start'


Around = contextlib.AbstractContextManager[None]

# The thread -----------------------------------------------------------------------------------------------------------


class _Launcher:
    """Starts processes on one thread that lives as long as this process."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._work: queue.SimpleQueue[tuple[Future[subprocess.Popen[bytes]], Sequence[str], Around, dict[str, Any]]]
        self._work = queue.SimpleQueue()
        threading.Thread(target=self._serve, name='enclave-bubblewrap-launcher', daemon=True).start()

    def _serve(self) -> None:
        while True:
            future, argv, around, options = self._work.get()
            try:
                with around:
                    process = subprocess.Popen(argv, **options)
                if process.stdin is not None:
                    with contextlib.suppress(OSError):  # the user has no more room for pipes
                        import fcntl  # here, since this module is imported on every system

                        fcntl.fcntl(process.stdin, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
                future.set_result(process)
                del process
            except BaseException as error:
                future.set_exception(error)
            del future, argv, around, options  # or the last one would live until the next

    def start(self, argv: Sequence[str], around: Around, options: dict[str, Any]) -> subprocess.Popen[bytes]:
        future: Future[subprocess.Popen[bytes]] = Future()
        self._work.put((future, argv, around, options))
        try:
            return future.result()
        except BaseException:
            # The one that waited may have been interrupted while the thread is still at it, and may continue to take away what
            # `around` entered: so not before the thread has left that, and nothing is left of what it started.
            try:
                wait([future])
            finally:  # now, or by the thread where the wait was interrupted too
                future.add_done_callback(_end_started)
            raise


def _end_started(future: Future[subprocess.Popen[bytes]]) -> None:
    if future.exception() is None:
        with future.result() as process:
            process.kill()


_launcher: _Launcher | None = None
_lock = threading.Lock()  # guards _launcher


def start_process(argv: Sequence[str], around: Around | None = None, **options: Any) -> subprocess.Popen[bytes]:
    """Start a process that counts the end of *this process* as its parent's death, not that of the calling thread.

    Args:
        around: What the starting thread does before and after.
    """
    global _launcher
    with _lock:
        # A forked child has the object but not its thread.
        if _launcher is None or _launcher.pid != os.getpid():
            _launcher = _Launcher()
        launcher = _launcher
    return launcher.start(argv, around or contextlib.nullcontext(), options)


def above_streams(descriptor: int) -> int:
    """Return a descriptor in the place of this one that a child's standard streams will not overwrite.

    Where this process has none of its own (``<&-``), the next thing it opens gets their numbers.
    """
    if descriptor > 2:
        return descriptor
    try:
        import fcntl

        return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3)
    finally:
        os.close(descriptor)


def memory_file(data: bytes, name: str) -> int:
    """Return a descriptor of a file in memory with these bytes, to be read from its beginning, and to hand to a child."""
    descriptor = above_streams(os.memfd_create(name))
    try:
        with contextlib.closing(os.fdopen(os.dup(descriptor), 'wb')) as file:
            file.write(data)
        os.lseek(descriptor, 0, os.SEEK_SET)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _forget_after_fork() -> None:
    """Give a forked child a lock of its own: the parent's may be held by a thread that the child does not have."""
    global _lock, _launcher
    _lock = threading.Lock()
    _launcher = None


if hasattr(os, 'register_at_fork'):
    os.register_at_fork(after_in_child=_forget_after_fork)
