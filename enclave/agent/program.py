"""The program that runs inside every sandbox, and the frame codec both ends use (layer 0).

The host sends this file over the sandbox's own standard input (see `enclave.agent.bootstrap`) and also imports it, for the
codec in the first part. It therefore imports the standard library only, speaks a Python that every CPython from 3.6 on
reads, and runs under ``-I -S``.

What the agent promises the host:

- It answers every call exactly once (``END``), whatever the guest does.
- It owns the deadline of a call, and at the limit kills everything the call started: each call's processes live under a
  *supervisor*, a forked child of this library that is their child subreaper (prctl(2), PR_SET_CHILD_SUBREAPER), so that a daemon
  which forked twice and called setsid is still found below it. A supervisor whose call left nothing behind serves the next one.
- A call ends when its main process ends. Later output of what it left in the background is read and dropped, so that a
  background server neither blocks nor dies on a full or broken pipe.
- When the host's end of the stream closes, it exits; as process 1 it takes everything with it.

It is one thread and one epoll loop, so it may fork at any time. As process 1 the kernel shields it from every signal sent
inside; it makes itself non-dumpable, so that without CAP_SYS_PTRACE not even root inside can open its ``/proc`` entries;
and its saved user id is nobody's, so that without CAP_SYS_RESOURCE not even root inside can set its limits (prlimit(2)).
After the first call is read it loads no code: root inside may rewrite every library, and what process 1 loads then would speak
for it. So all its modules are imported before, and accounts are read by itself rather than through NSS. Forked children may
load more.

Frames, both ways: ``u32 payload length, u8 kind, u32 call id`` (network order), then the payload. The payload of OPEN,
CONTROL, EVENT, END and HELLO is ``u32 JSON length, JSON object, rest``; of DATA and ERR raw bytes; of CREDIT a u32.

Flow: every call's output is bounded by credit that the host gives (``window`` in OPEN, then CREDIT frames), its input by
INPUT_WINDOW plus the CREDIT frames that the agent gives back. The one that holds no credit keeps the bytes where they are: a
flood in the sandbox fills the guest's own pipe and stops there.
"""

import sys


def import_os():
    # type: () -> None
    """Import os, in a sandbox with a few lines for the base classes of its ``environ``: their module takes 150 KB and half a
    millisecond, and nothing else of the agent needs it. What is imported later gets the real one."""
    if 'enclave_agent' in __name__ and not {'os', '_collections_abc'} & set(sys.modules):

        def has_methods(kind, *names):
            # type: (Any, str) -> Any
            return set(names) <= {name for each in kind.__mro__ for name in each.__dict__} or NotImplemented

        class Mapping(object):
            def get(self, key, default=None):
                # type: (Any, Any) -> Any
                try:
                    return self[key]  # type: ignore[index]
                except KeyError:
                    return default

            def __contains__(self, key):
                # type: (Any) -> bool
                return self.get(key, self) is not self

            def keys(self):
                # type: () -> List[Any]
                return list(self)  # type: ignore[call-overload, no-any-return]

            def items(self):
                # type: () -> List[Any]
                return [(key, self[key]) for key in self]  # type: ignore[attr-defined, index]

        bases = type(sys)('_collections_abc')  # type: Any
        bases._check_methods, bases.Mapping, bases.MutableMapping = has_methods, Mapping, Mapping
        sys.modules['_collections_abc'] = bases
        try:
            import os
        except Exception:  # a Python whose os needs more
            sys.modules.pop('os', None)
        del sys.modules['_collections_abc']


import_os()

import binascii  # noqa: E402
import errno  # noqa: E402
import marshal  # noqa: E402
import os  # noqa: E402
import select  # noqa: E402
import stat  # noqa: E402
import struct  # noqa: E402
import time  # noqa: E402

MYPY = False
if MYPY:
    import signal
    from collections import deque
    from heapq import heapify, heappop, heappush
    from typing import Any, Callable, Deque, Dict, Generator, List, NoReturn, Optional, Set, Tuple
else:
    # Only their halves in C, where there are such: what the others import (enum, re, functools) takes 1.3 MB and 8 ms, in each
    # sandbox.
    try:
        import _signal as signal
        from _collections import deque
        from _heapq import heapify, heappop, heappush
    except ImportError:
        import signal
        from collections import deque
        from heapq import heapify, heappop, heappush

PROTOCOL = 1
HEADER = struct.Struct('!IBI')
U32 = struct.Struct('!I')
MAX_PAYLOAD = 16 << 20  # a command's arguments and environment take most, as JSON
MAX_REPLY = 1 << 20  # of what the agent sends, which the host does not trust
CHUNK = 1 << 16
INPUT_WINDOW = 1 << 18

MAX_CHANGES = 4  # calls that watch a directory: what the kernel has for that is one user's, for all its sandboxes
MAX_WATCHED = 10000  # directories of one
INOTIFY_EVENT = struct.Struct('iIII')  # wd, mask, cookie, size of the name after it; linux/inotify.h
IN_CREATE, IN_DELETE, IN_MOVED_FROM, IN_MOVED_TO = 0x100, 0x200, 0x40, 0x80
IN_DONT_FOLLOW, IN_ISDIR, IN_IGNORED = 0x2000000, 0x40000000, 0x8000
# Those, and IN_MODIFY, IN_ATTRIB, IN_DELETE_SELF, IN_MOVE_SELF, of directories only (IN_ONLYDIR).
IN_WATCHED = IN_CREATE | IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO | 0x2 | 0x4 | 0x400 | 0x800 | 0x1000000

HELLO = 1
OPEN = 2
DATA = 3
ERR = 4
EOF = 5
CREDIT = 6
CONTROL = 7
EVENT = 8
END = 9
KINDS = frozenset((HELLO, OPEN, DATA, ERR, EOF, CREDIT, CONTROL, EVENT, END))


class ProtocolError(Exception):
    """The other end sent bytes that no correct end sends; nothing after them can be trusted."""


def load_json():
    # type: () -> Tuple[Callable[[Any], str], Callable[[str], Any]]
    """Return what writes a value as JSON, without blanks, and what reads one: the functions in C that json itself uses."""
    try:
        import _json

        class Options(object):
            strict = True
            object_hook = object_pairs_hook = array_hook = None
            parse_float, parse_int, parse_constant = float, int, float
            memo = {}  # type: Dict[str, str]

        def refuse(value):
            # type: (Any) -> NoReturn
            raise TypeError('an object of type %s cannot be written as JSON' % type(value).__name__)

        made = (None, refuse, _json.encode_basestring_ascii, None, ':', ',', False, False, True)
        scan, encode = _json.make_scanner(Options), _json.make_encoder(*made)  # type: ignore[arg-type]
        sample = {'a': [1, 'b', 1.5, None, True]}
        if scan(''.join(encode(sample, 0)), 0)[0] != sample:
            raise ValueError('it works otherwise')
    except Exception:  # another Python, or one that is newer than this
        import json

        return lambda value: json.dumps(value, separators=(',', ':')), json.loads

    def write(value):
        # type: (Any) -> str
        return ''.join(encode(value, 0))

    def read(text):
        # type: (str) -> Any
        text = text.strip(' \t\r\n')
        try:
            value, end = scan(text, 0)
        except StopIteration:
            raise ValueError('there is no value')
        if end != len(text):
            raise ValueError('there is more after the value')
        return value

    return write, read


write_json, read_json = load_json()


def encode_frame(kind, call, payload=b''):
    # type: (int, int, bytes) -> bytes
    """Return one frame."""
    if len(payload) > MAX_PAYLOAD:
        raise ValueError('a frame of %d bytes is over the limit of %d' % (len(payload), MAX_PAYLOAD))
    return HEADER.pack(len(payload), kind, call) + payload


def pack_message(message, rest=b''):
    # type: (Dict[str, Any], bytes) -> bytes
    """Return the payload that carries a JSON object and some bytes after it."""
    text = write_json(message).encode('ascii')
    return U32.pack(len(text)) + text + rest


def unpack_message(payload):
    # type: (bytes) -> Tuple[Dict[str, Any], bytes]
    """Return the JSON object and the bytes after it; ProtocolError for anything else."""
    if len(payload) < 4:
        raise ProtocolError('a message of %d bytes has no length' % len(payload))
    end = 4 + U32.unpack_from(payload)[0]
    if end > len(payload):
        raise ProtocolError('a message is shorter than it says')
    try:
        message = read_json(payload[4:end].decode('ascii'))
    except (ValueError, RecursionError) as error:
        raise ProtocolError('a message is not JSON: %s' % error)
    if not isinstance(message, dict):
        raise ProtocolError('a message is not an object')
    return message, payload[end:]


class FrameDecoder(object):
    """Cuts a stream of bytes, in pieces of any size, into frames. Never holds more than one frame and one piece.

    ``limit`` is the largest payload.
    """

    def __init__(self, limit=MAX_PAYLOAD):
        # type: (int) -> None
        self._held = bytearray()
        self._limit = limit

    def feed(self, data):
        # type: (bytes) -> List[Tuple[int, int, bytes]]
        """Return the frames that are complete now, each ``(kind, call, payload)``; ProtocolError on nonsense."""
        frames = []
        start = 0
        while start < len(data):
            held = self._held
            if held or len(data) - start < HEADER.size:
                if len(held) < HEADER.size:
                    end = start + HEADER.size - len(held)
                    held += data[start:end]
                    start = end
                    if len(held) < HEADER.size:
                        break
                size, kind, call = self.read_header(held, 0)
                end = start + HEADER.size + size - len(held)
                held += data[start:end]
                start = end
                if len(held) < HEADER.size + size:
                    break
                frames.append((kind, call, bytes(memoryview(held)[HEADER.size :])))
                self._held = bytearray()
            else:
                size, kind, call = self.read_header(data, start)
                end = start + HEADER.size + size
                if len(data) < end:
                    held += data[start:]
                    break
                frames.append((kind, call, bytes(data[start + HEADER.size : end])))  # one copy, of bytes
                start = end
        return frames

    def read_header(self, data, start):
        # type: (Any, int) -> Tuple[int, int, int]
        """Return what a header says: size, kind and call; ProtocolError on nonsense."""
        size, kind, call = HEADER.unpack_from(data, start)
        if size > self._limit:
            raise ProtocolError('a frame says it has %d bytes; the limit is %d' % (size, self._limit))
        if kind not in KINDS:
            raise ProtocolError('a frame is of unknown kind %d' % kind)
        return size, kind, call

    def has_partial_frame(self):
        # type: () -> bool
        """Return whether the stream would end inside a frame if it ended now."""
        return bool(self._held)


# ----------------------------------------------------------------------------------------------------------------------
# The agent. Nothing below is used by the host.

OUT_HIGH = (
    1 << 17
)  # stop reading sources while more than this waits for the stream, so that a small reply is never far back
KILL_SLICE = 0.02  # seconds spent on killing before the loop turns again
KILL_PATIENCE = 5.0  # seconds after which a process that waits in the kernel (state D), or is not reaped, is given up
KILL_LIMIT = 60.0  # seconds after which everything is; nothing is known that would not die by then
STATUS = struct.Struct('!ccI')
STATUS_BYTES = 16 * STATUS.size  # the most that one message of a supervisor's holds
REST_SECONDS = 5.0  # after this time without anything new, what serves the next call sooner is given up for its memory
LEAVE_SECONDS = 0.25  # how long a free supervisor takes at most, usually, to end
REAP_SECONDS = 0.25  # how often orphans are reaped while a fork of a template runs
FAMILY_SECONDS = 0.02  # how long what a limited program left may take to end by itself
TEMPLATE_SECONDS = 60.0  # how long making a template may take, where that does not count as the program's time
MAKING_SECONDS = 0.05  # how often it is looked whether one is there
MEMORY_SECONDS = 0.02  # how often the memory of a program with a limit of it is looked at
TICKS = os.sysconf('SC_CLK_TCK') if hasattr(os, 'sysconf') else 100
PAGE = os.sysconf('SC_PAGE_SIZE') if hasattr(os, 'sysconf') else 4096
PROCESSORS = max(1, os.cpu_count() or 1)
STDIO = struct.Struct('3i')
REQUEST_BYTES = 1 << 16  # a call that takes more than this to describe gets a supervisor of its own
FREE_KEEPERS = 4
PRELOAD_PROBLEMS = b'tsin'
TEMPLATE_SOCKET, TEMPLATE_ZIP = 3, 4  # descriptors of a template interpreter
START_PREFIXES, START_VARIABLES = (b'PYTHON', b'LC_', b'LD_', b'LANG', b'MALLOC_'), (b'TZ', b'HOME', b'TMPDIR')
"""Variables that an interpreter, or a library, reads as it starts: a template has read them already."""
MADV_DONTNEED = 4
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER = 1, 4, 36
PROCESS_ENV = dict(getattr(os, 'environb', {}))  # the host imports this file too, on any system
MINE = os.getpid()
IGNORED = tuple(
    getattr(signal, name)
    for name in ('SIGINT', 'SIGTERM', 'SIGHUP', 'SIGQUIT', 'SIGPIPE', 'SIGUSR1', 'SIGUSR2')
    if hasattr(signal, name)
)
RESTORED = IGNORED + ((signal.SIGXFSZ,) if hasattr(signal, 'SIGXFSZ') else ())
NOBODYS_UID = 0x7FFFFFF0
NO_ID = 0xFFFFFFFF  # the first number that no user and no group can have
OOM_FILES = ('/sys/fs/cgroup/memory.events', '/sys/fs/cgroup/memory/memory.oom_control')
# What a group holds, its limit, its numbers in detail and those of them that the kernel can reclaim; version 2 and 1.
MEMORY_FILES = (
    ('/sys/fs/cgroup/', 'memory.current', 'memory.max', (b'inactive_file', b'active_file')),
    (
        '/sys/fs/cgroup/memory/',
        'memory.usage_in_bytes',
        'memory.limit_in_bytes',
        (b'total_inactive_file', b'total_active_file'),
    ),
)
# What a loader may set from outside before `main` runs:
OOM_EVENTS = -1  # a descriptor of such a file, where the sandbox does not see one
CPU_COUNT = 0  # how many processors the CPU limit amounts to; 0 where there is no limit
PIDS_LIMIT = 0  # how many processes and threads there may be; 0 where there is no limit

PATH_MAX = 4096  # the bytes of a path with the one that ends it (limits.h of Linux)
SHOWN = 4096  # the longest path or name that an error quotes as a whole
LEFT_BEHIND_NICE = 19  # the priority of what a call left running: lowest, so that it does not starve the next call
CPU_VARIABLES = (
    b'PYTHON_CPU_COUNT',
    b'OMP_NUM_THREADS',
    b'OPENBLAS_NUM_THREADS',
    b'MKL_NUM_THREADS',
    b'NUMEXPR_MAX_THREADS',
)  # where programs look for how many threads to start; defaults that a configuration and a call may change


class Refusal(Exception):
    """What the host asked cannot be done; travels back as the ``error`` of END."""

    def __init__(self, message, number=0, field=''):
        # type: (str, int, str) -> None
        Exception.__init__(self, message)
        # Not every OSError has an errno of the kernel's: those of a name that was looked up are negative.
        self.facts = {'message': message, 'errno': number if 0 <= number < 4096 else errno.EIO, 'field': field}


def refused(error, path=b'', field=''):
    # type: (OSError, bytes, str) -> Refusal
    where = shown(path) if path else ''
    return Refusal(
        '%s%s' % (os.strerror(error.errno or 0), ': %r' % where if where else ''), error.errno or errno.EIO, field
    )


def to_bytes(text, field='path'):
    # type: (Any, str) -> bytes
    if not isinstance(text, str) or '\0' in text:
        raise Refusal('%s must be text without NUL' % field, errno.EINVAL, field)
    return text.encode('utf-8', 'surrogateescape')


def to_text(data):
    # type: (bytes) -> str
    return data.decode('utf-8', 'surrogateescape')


def shown(data):
    # type: (bytes) -> str
    """Return bytes as text for a message, which may be of any length."""
    text = to_text(data)
    return text if len(text) <= SHOWN else '%s...%s' % (text[:200], text[-100:])


def to_path(message, key='path'):
    # type: (Dict[str, Any], str) -> bytes
    path = to_bytes(message.get(key), key)
    if not path:
        raise Refusal('%s is empty' % key, errno.ENOENT, key)
    if len(path) >= PATH_MAX:  # as the system says; what works through such a path by itself could fail otherwise
        raise Refusal('%s: %r' % (os.strerror(errno.ENAMETOOLONG), shown(path)), errno.ENAMETOOLONG, key)
    return path


def load_library():
    # type: () -> Optional[Callable[[str], Callable[..., int]]]
    """Return what finds a function of C's library, which takes numbers and bytes and returns an int, by its name; None where
    there is no ctypes. Of that only the half in C is loaded: the other one takes 300 KB."""
    try:
        import _ctypes

        class Int(_ctypes._SimpleCData):  # type: ignore[type-arg]
            _type_ = 'i'

        class Function(_ctypes.CFuncPtr):
            _flags_ = 1 | 8  # FUNCFLAG_CDECL, FUNCFLAG_USE_ERRNO
            _restype_ = Int

        handle = _ctypes.dlopen(None, 0)  # type: ignore[arg-type]
        return lambda name: Function(_ctypes.dlsym(handle, name))
    except (ImportError, OSError, AttributeError, TypeError):
        return None


def load_prctl(library):
    # type: (Optional[Callable[[str], Callable[..., int]]]) -> Callable[..., int]
    try:
        function = library('prctl') if library else None
    except OSError:
        function = None
    if function is None:
        return lambda *args: -1
    return lambda option, value: int(function(option, int(value), 0, 0, 0))


class Memory(object):
    """What gives memory back that a process which only waits does not need."""

    def __init__(self, library):
        # type: (Optional[Callable[[str], Callable[..., int]]]) -> None
        self.trim = self.advise = None  # type: Optional[Callable[..., int]]
        self.address = None  # type: Any
        try:
            import _ctypes

            class Address(_ctypes._SimpleCData):  # type: ignore[type-arg]
                _type_ = 'P'

            if library:
                self.address, self.advise = Address, library('madvise')
                self.trim = library('malloc_trim')  # glibc's
        except (ImportError, AttributeError, OSError):
            pass

    def give_back(self):
        # type: () -> None
        """Give back unused parts of the heap, and the pages that only show what is in a file, an interpreter's code above all:
        those are mapped again as they are needed, from the same page cache, and read by nobody else meanwhile."""
        places = self.find_files() if self.advise else []
        if self.trim:
            self.trim(0)
        for start, size in places:
            assert self.advise is not None
            self.advise(self.address(start), size, MADV_DONTNEED)

    def find_files(self, path='/proc/self/smaps'):
        # type: (str) -> List[Tuple[int, int]]
        """Return where this process has mapped files, to be read only, and none of the pages is its own (proc(5), smaps), whether
        in memory or in swap; nothing on a kernel that does not say what is in swap."""
        found = []
        start = size = 0
        try:
            with open(path, 'rb') as lines:
                for line in lines:
                    fields = line.split()
                    if not fields[0].endswith(b':'):
                        first, _, last = fields[0].partition(b'-')
                        is_file = fields[1] in (b'r-xp', b'r--p') and len(fields) > 5 and fields[5].startswith(b'/')
                        start, size = int(first, 16), int(last, 16) - int(first, 16) if is_file else 0
                    elif fields[0] == b'Anonymous:' and (fields[1] != b'0' or size >= 1 << 30):
                        size = 0
                    elif size and fields[0] == b'Swap:' and fields[1] == b'0':
                        found.append((start, size))
        except (OSError, ValueError, IndexError):
            return []
        return sorted(found, key=lambda each: each[1])  # the interpreter last: it is what does this


def load_inotify(library):
    # type: (Optional[Callable[[str], Callable[..., int]]]) -> Optional[Tuple[Callable[[], int], Callable[..., int]]]
    """Return functions that make an inotify instance and add a watch to one, each negative where it fails; else None."""
    try:
        import _ctypes

        if library is None:
            return None
        init, add = library('inotify_init1'), library('inotify_add_watch')
    except (ImportError, OSError, AttributeError):
        return None
    error = _ctypes.get_errno

    def begin():
        # type: () -> int
        number = int(init(os.O_NONBLOCK | os.O_CLOEXEC))
        return number if number >= 0 else -error()

    def watch(fd, path, mask):
        # type: (int, bytes, int) -> int
        number = int(add(fd, path, mask))
        return number if number >= 0 else -error()

    return begin, watch


def open_oom_events():
    # type: () -> int
    """Return a descriptor of the file that counts the sandbox's OOM kills; -1 where there is none."""
    if OOM_EVENTS >= 0:
        os.set_inheritable(OOM_EVENTS, False)
        return OOM_EVENTS
    for name in OOM_FILES:
        try:
            return os.open(name, os.O_RDONLY)
        except OSError:
            pass
    return -1


def read_memory_held():
    # type: () -> Tuple[int, int]
    """Return how many bytes the sandbox's group holds that the kernel cannot reclaim, and its limit; (0, 0) if not known."""
    for place, usage, limit, reclaimable in MEMORY_FILES:
        try:
            with open(place + usage, 'rb') as file:
                held = int(file.read(40))
            with open(place + limit, 'rb') as file:
                most = int(file.read(40))
            with open(place + 'memory.stat', 'rb') as file:
                rows = [line.split() for line in file.read(1 << 16).splitlines()]
            held -= sum(int(row[1]) for row in rows if len(row) == 2 and row[0] in reclaimable)
        except (OSError, ValueError):  # no such group, or no limit
            continue
        return max(0, held), most if 0 < most < 1 << 60 else 0
    return 0, 0


def read_processes(freeze=None):
    # type: (Optional[Callable[[], None]]) -> Dict[int, Tuple[int, bytes, int, int]]
    """Return ``{pid: (parent's pid, state letter, process group, threads)}`` of all in the sandbox (proc(5), /proc/pid/stat).

    Where reading takes long, since guests by the hundred leave us no processor, ``freeze()`` is called and it begins anew.
    """
    found = {}
    until = time.monotonic() + KILL_SLICE
    for name in os.listdir('/proc'):
        if freeze and time.monotonic() > until:
            freeze()
            return read_processes()
        if name.isdigit():
            try:
                fd = os.open('/proc/%s/stat' % name, os.O_RDONLY)
            except OSError:
                continue
            try:
                line = os.read(fd, 1024)
            except OSError:
                continue
            finally:
                os.close(fd)
            fields = line[line.rfind(b')') + 2 :].split(None, 18)
            if len(fields) == 19:
                found[int(name)] = (int(fields[1]), fields[0], int(fields[2]), int(fields[17]))
    return found


def read_bounds(pid):
    # type: (int) -> Tuple[Any, ...]
    """Return what a process hands on to those it starts: rlimits (proc(5), /proc/pid/limits) and nice value."""
    found = []  # type: List[Any]
    try:
        fd = os.open('/proc/%d/limits' % pid, os.O_RDONLY)
        try:
            found.append(os.read(fd, 4096))
        finally:
            os.close(fd)
        found.append(os.getpriority(os.PRIO_PROCESS, pid))
    except OSError:
        pass
    return tuple(found)


def read_line(path):
    # type: (str) -> bytes
    """Return the beginning of a file of proc(5); nothing where the process has ended."""
    try:
        fd = os.open(path, os.O_RDONLY)
    except OSError:
        return b''
    try:
        return os.read(fd, 4096)
    except OSError:
        return b''
    finally:
        os.close(fd)


def read_usage(pid):
    # type: (int) -> Tuple[int, int, int]
    """Return (clock ticks of processor time, bytes of memory, ticks of the children it has waited for) of a process."""
    line = read_line('/proc/%d/stat' % pid)
    fields = line[line.rfind(b')') + 2 :].split()
    if len(fields) < 22:
        return 0, 0, 0
    return int(fields[11]) + int(fields[12]), int(fields[21]) * PAGE, int(fields[13]) + int(fields[14])


def count_threads(pid):
    # type: (int) -> int
    """Return how many threads a process has; 0 where that is not known."""
    try:
        return len(os.listdir('/proc/%d/task' % pid))
    except OSError:
        return 0


def read_proportional(pid):
    # type: (int) -> int
    """Return the memory of a process with its part of what it shares, in bytes; 0 where that is not known."""
    for line in read_line('/proc/%d/smaps_rollup' % pid).split(b'\n'):
        if line.startswith(b'Pss:'):
            return int(line.split()[1]) * 1024
    return 0


def read_delay(pid):
    # type: (int) -> float
    """Return how many seconds a process's most delayed thread was ready to run without a processor (schedstat)."""
    most = 0
    try:
        threads = os.listdir('/proc/%d/task' % pid)
    except OSError:
        return 0.0
    for thread in threads[:64]:
        fields = read_line('/proc/%d/task/%s/schedstat' % (pid, thread)).split()
        if len(fields) >= 2:
            most = max(most, int(fields[1]))
    return most / 1e9


def measure_family(supervisor, main, memory_limit, template):
    # type: (int, int, Optional[int], int) -> Tuple[float, int, Dict[int, float], Dict[int, int]]
    """Return (processor seconds with those of the supervisor's ended children, bytes of memory, {pid: seconds of waiting for a
    processor}) of what a call has running, and {pid: clock ticks of its own} with those that have ended and nobody has waited
    for. The template interpreter is not part of it."""
    look = Look()
    roots = {supervisor} if supervisor != MINE else {main}
    family = look.below(roots) | (roots - {supervisor})
    family.discard(template)
    spent = {pid: read_usage(pid)[0] for pid in look.below(roots, is_ended=True) - {template}}
    ticks = read_usage(supervisor)[2] if supervisor != MINE else 0
    sizes = {}  # type: Dict[int, int]
    delays = {}  # type: Dict[int, float]
    for pid in family:
        spent[pid], sizes[pid], waited = read_usage(pid)
        ticks += spent[pid] + waited
        delays[pid] = read_delay(pid)
    memory = sum(sizes.values())
    if memory_limit and memory > memory_limit and len(sizes) > 1:
        # What they share was counted once for each.
        memory = sum(min(size, read_proportional(pid) or size) for pid, size in sizes.items())
    return ticks / float(TICKS), memory, delays, spent


class Look(object):
    """What runs in the sandbox at one moment: ``processes`` as `read_processes` gives them."""

    def __init__(self, freeze=None):
        # type: (Optional[Callable[[], None]]) -> None
        self.processes = read_processes(freeze)
        self.children = {}  # type: Dict[int, List[int]]
        for pid, facts in self.processes.items():
            self.children.setdefault(facts[0], []).append(pid)

    def below(self, roots, is_ended=False):
        # type: (Set[int], bool) -> Set[int]
        """Return the pids that descend from ``roots``, without the roots: those that run, or those that have ended."""
        found = set()  # type: Set[int]
        todo = list(roots)
        while todo:
            for pid in self.children.get(todo.pop(), ()):
                if pid not in found and pid not in roots:
                    found.add(pid)
                    todo.append(pid)
        return {pid for pid in found if (self.processes[pid][1] in (b'Z', b'X')) == is_ended}


def move_back(source, target):
    # type: (bytes, bytes) -> None
    """Rename a directory, unless a guest has done something to it meanwhile."""
    try:
        os.rename(source, target)
    except OSError:
        pass


def read_table(path):
    # type: (str) -> List[List[bytes]]
    """Return the fields of a table like /etc/passwd (passwd(5)). A guest may have put anything in its place, also a pipe."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:
        return []
    try:
        data = os.read(fd, MAX_REPLY) if stat.S_ISREG(os.fstat(fd).st_mode) else b''
    except OSError:
        data = b''
    finally:
        os.close(fd)
    return [line.split(b':') for line in data.split(b'\n')]


def find_user(text):
    # type: (str) -> Tuple[int, int, List[int], bytes, bytes]
    """Return ``(uid, gid, groups, home, name)`` for ``name``, ``uid`` and either with ``:group``."""
    name, _, group = [to_bytes(part, 'user') for part in text.partition(':')]
    users = [row for row in read_table('/etc/passwd') if len(row) >= 6 and row[2].isdigit() and row[3].isdigit()]
    groups = [row for row in read_table('/etc/group') if len(row) >= 4 and row[2].isdigit()]
    found = [row for row in users if name in (row[0], row[2])]
    if not found and not name.isdigit():
        raise Refusal('there is no user %r in the sandbox' % shown(name), errno.EINVAL, 'user')
    login, _, uid, gid, _, home = found[0][:6] if found else [name, b'', name, b'0', b'', b'/']
    for number, kind in ((uid, 'user'), (group, 'group')):
        if number.isdigit() and (len(number) > 10 or int(number) >= NO_ID):
            raise Refusal('there is no %s %r in the sandbox' % (kind, shown(number)), errno.EINVAL, 'user')
    if not group:
        others = [int(row[2]) for row in groups if login in row[3].split(b',')]
        return int(uid), int(gid), [int(gid)] + others, home, login
    for row in groups:
        if group in (row[0], row[2]):
            group = row[2]
    if not group.isdigit():
        raise Refusal('there is no group %r in the sandbox' % shown(group), errno.EINVAL, 'user')
    return int(uid), int(group), [int(group)], home, login


class Sink(object):
    """One output stream of a run: sends the first ``head`` bytes on, holds the last ``tail`` of the rest, counts all."""

    def __init__(self, head, tail):
        # type: (Optional[int], int) -> None
        self.head = head
        self.tail = tail
        self.total = 0
        self.sent = 0
        self.held = deque()  # type: Deque[Any]
        self.held_size = 0

    def feed(self, data):
        # type: (bytes) -> bytes
        """Take what was read; return the part to send now."""
        self.total += len(data)
        if self.head is None:
            self.sent += len(data)
            return data
        room = self.head - self.sent
        now, later = (data[:room], data[room:]) if room > 0 else (b'', data)
        self.sent += len(now)
        if later and self.tail:
            # Small pieces are put together: an object each would take many times their size.
            if self.held and len(self.held[-1]) + len(later) <= CHUNK and isinstance(self.held[-1], bytearray):
                self.held[-1] += later
            else:
                self.held.append(bytearray(later) if len(later) < CHUNK else later)
            self.held_size += len(later)
            while self.held_size - len(self.held[0]) >= self.tail:
                self.held_size -= len(self.held.popleft())
        return now

    def take_tail(self):
        # type: () -> bytes
        data = b''.join(self.held)[-self.tail :] if self.tail else b''
        self.held.clear()
        self.sent += len(data)
        return data


class HostCall(object):
    """One call of the host. Subclasses act; this one holds what all share."""

    def __init__(self, agent, number, message, data):
        # type: (Agent, int, Dict[str, Any], bytes) -> None
        self.agent = agent
        self.number = number
        self.credit = int(message.get('window', 0))
        self.ended = False
        self.ungranted = 0

    def send(self, kind, payload):
        # type: (int, bytes) -> None
        self.agent.send(kind, self.number, payload)

    def send_data(self, kind, data):
        # type: (int, bytes) -> None
        self.credit -= len(data)
        for start in range(0, len(data), CHUNK):
            self.send(kind, data[start : start + CHUNK])

    def grant(self, size):
        # type: (int) -> None
        """Report to the host that ``size`` bytes of input were used up, in steps worth a frame."""
        self.ungranted += size
        if self.ungranted >= INPUT_WINDOW // 4:
            self.send(CREDIT, U32.pack(self.ungranted))
            self.ungranted = 0

    def end(self, message, rest=b''):
        # type: (Dict[str, Any], bytes) -> None
        if not self.ended:
            self.ended = True
            self.send(END, pack_message(message, rest))
            self.agent.calls.pop(self.number, None)

    def fail(self, error):
        # type: (Refusal) -> None
        self.end({'error': error.facts})

    def on_data(self, data):
        # type: (bytes) -> None
        self.grant(len(data))

    def on_eof(self):
        # type: () -> None
        pass

    def on_credit(self):
        # type: () -> None
        pass

    def on_deadline(self):
        # type: () -> None
        pass

    def on_control(self, message):
        # type: (Dict[str, Any]) -> None
        if message.get('cancel'):
            self.abort()
            self.end({'cancelled': True})

    def abort(self):
        # type: () -> None
        """Let go of everything the call holds."""

    def want(self):
        # type: () -> None
        """Ask epoll for what the call can use now."""


class Run(HostCall):
    """A command: ``argv`` or a builtin of this library, in a process of its own under a supervisor.

    OPEN: ``argv`` (list), ``cwd``, ``env`` (added to the sandbox's), ``path_first`` ({variable: directory} put first in a
    search path), ``user``, ``timeout`` (seconds or null), ``stdin`` ('null' or 'pipe'), ``merge`` (stderr into stdout),
    ``tty`` ([rows, columns] or absent), ``head`` and ``tail`` (bytes kept of each stream; null head: all of it, live),
    ``rlimits`` ({name: [soft, hard]}), ``events`` (send EVENT ``started`` with the pid), ``script`` ({'bytes', 'suffix',
    'at', 'sourced'}: the first bytes of input are a file whose path replaces argv[at], or if ``sourced`` a shell's code that
    read it; with 'name' the file is called that, and its directory is the working directory), ``builtin`` ({'name', ...})
    instead of argv, ``grace`` (seconds between SIGTERM and SIGKILL at the limit), ``cpus`` (numbers of the processors to run
    on), ``preload`` (modules that a template interpreter has imported; the program, a script of Python's, is then a fork of
    that where it can be), ``limits`` ({'cpu': seconds, 'memory': bytes, 'output': bytes, 'patience': times}, each or null):
    measure the program,
    end it when it goes over one, and end everything it started when it ends; ``timeout`` then does not count the time in which
    it was ready to run and no processor was free, up to ``patience`` times itself.

    END: ``exit`` or ``signal`` (numbers), ``timed_out``, ``cancelled``, ``oom``, ``seconds``, ``out`` and ``err``
    ([true bytes, sent bytes]), ``missing`` (errno, when the program could not be executed), ``cleared`` (how many processes of
    earlier calls were ended to make room for this one); with ``limits`` also ``cpu`` (seconds) and ``memory`` (bytes) if they
    are known, and ``exceeded`` ('time', 'cpu', 'memory' or 'output'). With ``preload`` also ``forked`` (whether it was) and
    ``preload_problems`` (numbers, at the first call only: 4 times the index of a module, and 0 if it starts threads, 1 if it
    opens sockets, 2 if it cannot be imported, 3 if it is the interpreter itself that serves for no template).
    """

    def __init__(self, agent, number, message, data):
        # type: (Agent, int, Dict[str, Any], bytes) -> None
        HostCall.__init__(self, agent, number, message, data)
        self.message = message
        self.argv = [to_bytes(word, 'command') for word in message.get('argv', ())]
        if not self.argv:
            raise Refusal('the command is empty', errno.EINVAL, 'command')
        self.user = find_user(message['user']) if message.get('user') else None
        if self.user and os.getuid() != 0 and self.user[0] != os.getuid():
            raise Refusal(
                'the sandbox runs as uid %d and cannot become another user' % os.getuid(), errno.EPERM, 'user'
            )
        self.cwd = to_bytes(message.get('cwd') or '', 'cwd')
        self.env = self.make_env()
        self.sinks = {
            DATA: Sink(message.get('head'), message.get('tail', 0)),
            ERR: Sink(message.get('head'), message.get('tail', 0)),
        }
        self.sources = {}  # type: Dict[int, int]
        self.source_eof = set()  # type: Set[int]
        self.ends_midline = False
        self.stdin = -1
        self.tty = -1
        self.incoming = deque()  # type: Deque[bytes]
        self.input_done = message.get('stdin') != 'pipe'
        self.supervisor = None  # type: Optional[Supervisor]
        self.main = 0
        self.early_signals = []  # type: List[Dict[str, Any]]
        self.outcome = None  # type: Optional[int]
        self.exec_error = None  # type: Optional[Tuple[bytes, int]]
        self.verdict = ''
        self.is_ending = False  # it was asked to end at its limit, and has its grace now
        self.grace_ends_at = 0.0
        self.cleared = 0
        self.fed = []  # type: List[bytes]
        self.preload_problems = []  # type: List[int]
        self.is_forked = False
        self.template_dir = b''
        self.cpus = [int(number) for number in message.get('cpus') or ()]
        self.killer = None  # type: Optional[Killer]
        self.started_at = 0.0
        self.seconds = 0.0
        self.oom_kills = 0
        self.limits = message.get('limits')  # type: Optional[Dict[str, Any]]
        self.base_ticks = 0
        self.delay = 0.0
        self.delays = {}  # type: Dict[int, float]
        self.spent = {}  # type: Dict[int, int]
        self.usage = {}  # type: Dict[bytes, int]
        self.exceeded = ''
        self.script_dir = b''
        self.script_file = -1
        self.script_left = 0
        self.is_spawned = False  # it runs, or will when there is room for it
        script = message.get('script')
        if script:
            self.script_left = int(script['bytes'])
            self.make_script(script)
        if data:
            self.on_data(data)
        if not self.ended and not self.is_spawned and not self.script_left:
            self.spawn()

    # Before the process ---------------------------------------------------------------------------------------------

    def make_env(self):
        # type: () -> Dict[bytes, bytes]
        env = dict(PROCESS_ENV)
        if self.user:
            env[b'HOME'], env[b'USER'], env[b'LOGNAME'] = self.user[3], self.user[4], self.user[4]
        for name, value in (self.message.get('env') or {}).items():
            env[to_bytes(name, 'env')] = to_bytes(value, 'env')
        for name, value in (self.message.get('path_first') or {}).items():
            key, first = to_bytes(name, 'env'), to_bytes(value, 'env')
            env[key] = first + b':' + env[key] if env.get(key) else first
        return env

    def make_script(self, script):
        # type: (Dict[str, Any]) -> None
        """Open a private file for the program text; ``main`` + suffix in a directory of its own, so that nothing beside it
        can be imported by accident."""
        own_name = to_bytes(script.get('name') or '', 'name')
        name = own_name or b'main' + to_bytes(script.get('suffix', ''), 'suffix')
        self.script_dir, self.script_file = self.agent.make_private_file(
            name, self.script_left, self.user, is_roomy=bool(own_name)
        )
        if own_name:
            self.cwd = self.script_dir
        else:
            path = os.path.join(self.script_dir, name)
            if script.get('sourced'):
                # So the text runs as it would after -c: $0 is the shell's and there are no arguments.
                path = b". '" + path.replace(b"'", b"'\\''") + b"'"
            self.argv[int(script['at'])] = path
        if not self.script_left:
            os.close(self.script_file)
            self.script_file = -1

    def remove_script(self):
        # type: () -> None
        if self.script_file >= 0:
            os.close(self.script_file)
            self.script_file = -1
        # The template's directory is that of one of its forks at a time: the supervisor may have the next one by now.
        has_left = not self.is_forked and self.supervisor and self.supervisor.run not in (None, self)
        for folder in (self.script_dir, b'' if has_left else self.template_dir):
            if folder:
                remove_tree(folder)
        self.script_dir = self.template_dir = b''

    def on_data(self, data):
        # type: (bytes) -> None
        if self.script_left:
            part, data = data[: self.script_left], data[self.script_left :]
            self.script_left -= len(part)
            try:
                write_all(self.script_file, part)
            except OSError as error:
                self.remove_script()
                return self.fail(refused(error, b'', 'source'))
            self.grant(len(part))
            if not self.script_left:
                os.close(self.script_file)
                self.script_file = -1
                self.spawn()
        if not data or self.ended:
            return None
        if self.stdin < 0 and (self.supervisor or self.input_done):
            return self.grant(len(data))
        self.incoming.append(data)
        self.ends_midline = data[-1:] not in b'\n\x04'
        if self.supervisor:
            self.feed_stdin()
        return None

    def spawn(self):
        # type: () -> None
        self.is_spawned = True
        if not self.agent.clear_room(self):
            self.start()

    def start_again(self):
        # type: () -> None
        """Start, after processes of earlier calls were ended that left no room for this one."""
        if not self.ended:
            try:
                self.start()
            except Refusal as error:
                self.fail(error)

    def start(self):
        # type: () -> None
        opened = []  # type: List[int]
        try:
            stdio = self.open_stdio(opened)
            self.oom_kills = self.agent.count_oom_kills()
            self.started_at = time.monotonic()
            if self.is_plain():
                self.supervisor = self.agent.take_supervisor(self, stdio)
            if not self.supervisor:
                self.supervisor = Supervisor(self.agent, self, stdio)
        except OSError as error:
            for fd in opened:
                os.close(fd)
            self.stdin = self.tty = -1
            self.sources.clear()
            self.supervisor = None
            # A guest that kills each process that is to start a program leaves no more room for one than many processes do.
            if error.errno in (errno.EAGAIN, errno.EPIPE, errno.ECONNRESET) and self.agent.end_largest(self):
                return
            self.remove_script()
            raise self.agent.cannot_start(error.errno or 0)
        for fd in set(stdio):
            os.close(fd)
        for fd in self.sources:
            os.set_blocking(fd, False)
        if self.stdin >= 0:
            os.set_blocking(self.stdin, False)
            self.feed_stdin()
        self.want()
        timeout = self.message.get('timeout')
        if self.limits is not None:
            self.base_ticks = 0
            self.delay, self.delays, self.spent = 0.0, {}, {}
            self.watch_limits(0.0, 0.0, 0.0)
        elif timeout:
            self.agent.set_deadline(self.number, float(timeout))

    def is_plain(self):
        # type: () -> bool
        """Return whether a free supervisor can start it."""
        special = ('tty', 'user', 'rlimits', 'builtin')
        return hasattr(os, 'posix_spawn') and not any(self.message.get(name) for name in special)

    def preload(self):
        # type: () -> Optional[List[Any]]
        """Return what the template interpreter is that the program can be forked from: its command, its modules, the name and
        the suffix of the scripts, and whether its streams are unbuffered."""
        script = self.message.get('script') or {}
        at = int(script.get('at', 0))
        if self.message.get('preload') is None or not at or not hasattr(os, 'memfd_create'):
            return None
        if script.get('sourced'):
            return None
        ours = {to_bytes(name, 'env') for name in self.message.get('path_first') or {}} | {b'PYTHONUNBUFFERED'}
        changed = [name for name, value in self.env.items() if PROCESS_ENV.get(name) != value]
        if any(name.startswith(START_PREFIXES) or name in START_VARIABLES for name in changed if name not in ours):
            return None
        argv, modules = [to_text(word) for word in self.argv[:at]], [str(name) for name in self.message['preload']]
        unbuffered = self.env.get(b'PYTHONUNBUFFERED')
        is_unbuffered = None if unbuffered is None else to_text(unbuffered)
        return [argv, modules, str(script.get('name') or ''), str(script.get('suffix') or ''), is_unbuffered]

    def make_request(self, preload, template_dir):
        # type: (Optional[List[Any]], bytes) -> bytes
        """Return the call as a free supervisor needs it, or nothing when it is too large.

        With ``preload`` its script is run from ``template_dir``, if it is forked from a template; a script with a name by that.
        """
        changed = {to_text(name): to_text(value) for name, value in self.env.items() if PROCESS_ENV.get(name) != value}
        argv = [to_text(word) for word in self.argv]
        places = [to_text(self.script_dir), to_text(template_dir)] if preload else None
        memory = (self.limits or {}).get('memory') or 0
        request = write_json(
            [argv, changed, to_text(self.cwd), preload, places, self.cpus, self.limits is not None, memory]
        ).encode('ascii')
        return request if len(request) < REQUEST_BYTES else b''

    def open_stdio(self, opened):
        # type: (List[int]) -> Tuple[int, int, int]
        """Open the child's three ends, and ours (kept in ``stdin``, ``tty`` and ``sources``); note all in ``opened``."""
        size = self.message.get('tty')
        if size:
            ours, theirs = os.openpty()
            opened += [ours, theirs]
            self.agent.note_fd(ours, theirs)
            set_window_size(ours, size)
            self.tty = self.stdin = ours
            self.sources[ours] = DATA
            return theirs, theirs, theirs
        if self.message.get('stdin') == 'pipe':
            stdin, self.stdin = self.agent.pipe(opened)
        else:
            stdin = os.open('/dev/null', os.O_RDONLY)
            opened.append(stdin)
            self.agent.note_fd(stdin)
        out, stdout = self.agent.pipe(opened)
        self.sources[out] = DATA
        if self.message.get('merge'):
            return stdin, stdout, stdout
        err, stderr = self.agent.pipe(opened)
        self.sources[err] = ERR
        return stdin, stdout, stderr

    # While it runs --------------------------------------------------------------------------------------------------

    def on_status(self, what, stage, value):
        # type: (bytes, bytes, int) -> None
        """Take what the supervisor (or the child, failing before exec) says: started, exit status, or an error."""
        if what == b'S':
            self.main = value
            self.agent.mains[value] = self
            self.agent.ended_mains.discard(value)
            if self.limits is not None and self.supervisor:
                # What it has reaped until now was another template, or the call before this one.
                self.base_ticks = read_usage(self.supervisor.pid)[2]
            if self.message.get('events'):
                self.send(EVENT, pack_message({'started': value}))
            for message in self.early_signals:
                self.pass_signal(message)
            del self.early_signals[:]
        elif what == b'E':
            self.exec_error = (stage, value)
        elif what == b'X':
            self.on_exit(value)
        elif what == b'U':
            self.usage[stage] = value
        elif what == b'F':
            self.is_forked = True
        elif what == b'P' and len(self.preload_problems) < 100:
            self.preload_problems.append(4 * min(value, 200) + max(0, PRELOAD_PROBLEMS.find(stage)))

    def on_exit(self, status):
        # type: (int) -> None
        """The main process has ended; with that the call has, unless its family is being ended or is to end with it."""
        no_room = self.exec_error == (b'f', errno.EAGAIN) and not self.main
        if no_room and self.outcome is None and not self.killer and self.agent.end_largest(self):
            self.take_back()
        elif self.outcome is None:
            self.outcome = status
            self.seconds = time.monotonic() - self.started_at
            if self.agent.mains.pop(self.main, None) and self.supervisor:
                self.agent.note_ended(self.main)
            if self.killer or self.is_ending:
                return
            if self.limits is None:
                self.finish()
            elif not self.supervisor:
                self.kill('')
            else:  # usually nothing else is left, and the supervisor says so in the next moment
                self.agent.set_deadline(self.number, FAMILY_SECONDS)

    def on_family_gone(self):
        # type: () -> None
        """The supervisor has said that nothing of the call is left."""
        if (self.is_ending or self.limits is not None) and self.outcome is not None and not self.killer:
            self.finish()

    def take_back(self):
        # type: () -> None
        """Be as before `start`: nothing could be started."""
        for fd in list(self.sources):
            self.close_source(fd)
        if self.stdin >= 0:
            self.agent.forget(self.stdin)
            self.stdin = -1
        self.incoming.extendleft(reversed(self.fed))
        self.supervisor = self.exec_error = None
        self.template_dir = b''
        del self.fed[:]

    def on_supervisor_gone(self):
        # type: () -> None
        """The supervisor is reaped. Usually everything of the call had ended; but a guest may have killed it."""
        self.supervisor = None
        if self.outcome is None and not self.killer:
            processes = read_processes()
            if not self.main:
                # Killed before it could name the main process, if there is one: a child that we do not know, of this call.
                known = self.agent.ended_mains.union(self.agent.supervisors, self.agent.mains)
                ours = [pid for pid, facts in processes.items() if facts[0] == MINE and pid not in known]
                unknown = [pid for pid in ours if processes[pid][1] in (b'Z', b'X') or self.may_be_main(pid)]
                if unknown:
                    self.on_status(b'S', b' ', min(unknown))
            if self.main and processes.get(self.main, (0,))[0] == MINE:
                return  # ours now: the loop reaps it and calls on_exit
            self.on_exit(signal.SIGKILL)
        elif self.limits is not None and self.outcome is not None and not self.killer:
            self.kill('')  # it was killed before it could say that nothing is left

    def may_be_main(self, pid):
        # type: (int) -> bool
        """Return whether a process has a stream of this call, or it cannot be seen. What another call left has others."""
        if self.tty >= 0:
            return True
        try:
            mine = {os.fstat(fd).st_ino for fd in self.sources}  # both ends of a pipe have one number
            theirs = {os.stat('/proc/%d/fd/%d' % (pid, fd)).st_ino for fd in (1, 2)}
        except FileNotFoundError:
            return False
        except OSError:
            return True  # it has not become the program yet, or is another user's
        return not mine.isdisjoint(theirs)

    def on_deadline(self):
        # type: () -> None
        if self.ended or self.killer:
            return
        if self.is_ending:
            if time.monotonic() >= self.grace_ends_at:
                self.kill('timed_out')
        elif self.outcome is None:
            if self.limits is None:
                self.ask_to_end()
            else:
                self.check_limits()
        elif self.limits is not None and time.monotonic() - self.started_at - self.seconds >= FAMILY_SECONDS * 0.9:
            self.kill('')

    def ask_to_end(self):
        # type: () -> None
        """Send SIGTERM at the time limit, and let the grace begin."""
        grace = float(self.message.get('grace') or 0)
        if not grace or not self.main:
            return self.kill('timed_out')
        self.verdict = 'timed_out'
        self.is_ending = True
        self.grace_ends_at = time.monotonic() + grace
        # Parents first (their numbers are lower), or a shell would report that its child was ended.
        for pid in sorted(Killer(self.agent, self, self.on_killed).find(Look())):
            send_signal(pid, signal.SIGTERM)
        return self.agent.set_deadline(self.number, grace)

    # Limits ---------------------------------------------------------------------------------------------------------

    def check_limits(self):
        # type: () -> None
        """See whether the family has gone over a limit, and when to look again."""
        assert self.limits is not None
        if not self.main and self.supervisor:
            self.supervisor.wake()  # a program that stops it before it has reported the start would have no limit
        if not self.main and self.message.get('preload') is not None:
            # A template is being made for it, which is no part of the program.
            timeout = float(self.message.get('timeout') or 0)
            if timeout and time.monotonic() - self.started_at > max(timeout, TEMPLATE_SECONDS):
                return self.exceed('time', 'timed_out')
            return self.agent.set_deadline(self.number, MAKING_SECONDS)
        memory = self.limits.get('memory')
        supervisor, template = MINE, 0
        if self.supervisor:
            supervisor, template = self.supervisor.pid, self.supervisor.template_pid
        cpu, rss, delays, spent = measure_family(supervisor, self.main, memory, template)
        if not self.main:
            cpu, spent = 0.0, {}  # what is there may still be of the call before
        if self.limits.get('cpu'):
            for pid, ticks in spent.items():
                if ticks > self.spent.get(pid, 0):
                    self.spent[pid] = ticks
        # Either may be less than what was used, and neither is more.
        cpu = max(self.seconds_spent(), cpu - self.base_ticks / float(TICKS))
        # What the most delayed one has waited since the last look: one that has ended since then waited for all.
        self.delay += max([each - self.delays.get(pid, 0.0) for pid, each in delays.items()] + [0.0])
        self.delays = delays
        if memory and rss > memory:
            return self.exceed('memory', '')
        if self.limits.get('cpu') and cpu >= self.limits['cpu']:
            return self.exceed('cpu', 'timed_out')
        return self.watch_limits(time.monotonic() - self.started_at, cpu, self.delay)

    def seconds_spent(self):
        # type: () -> float
        """Return what each process used by itself when it was seen last: what nobody waits for is in no other account."""
        return sum(self.spent.values()) / float(TICKS)

    def watch_limits(self, elapsed, cpu, delay):
        # type: (float, float, float) -> None
        """Set the time of the next look: the first moment at which the family can be over a limit."""
        limits = self.limits or {}
        nexts = []  # type: List[float]
        timeout = self.message.get('timeout')
        if timeout:
            left = timeout + min(delay, timeout * (limits.get('patience') or 0.0)) - elapsed
            if left <= 0:
                return self.exceed('time', 'timed_out')
            nexts.append(left)
        if limits.get('cpu'):
            nexts.append(max(0.005, (limits['cpu'] - cpu) / PROCESSORS))
        if limits.get('memory'):
            nexts.append(MEMORY_SECONDS)
        if nexts:
            self.agent.set_deadline(self.number, min(nexts))
        return None

    def exceed(self, limit, verdict):
        # type: (str, str) -> None
        """End the family for a limit that it has gone over."""
        self.exceeded = limit
        if limit == 'time':
            self.ask_to_end()
        else:
            self.kill(verdict)

    def kill(self, verdict):
        # type: (str) -> None
        """Kill the whole family, then end the call with ``verdict``."""
        if not self.killer and not self.ended:
            self.verdict = self.verdict or verdict
            if not self.supervisor and not self.main:
                self.remove_script()
                return self.end({verdict: True})
            self.killer = Killer(self.agent, self, self.on_killed)
            self.agent.killers.append(self.killer)
        return None

    def on_killed(self):
        # type: () -> None
        if self.supervisor:
            self.supervisor.on_message(0)
            if self.supervisor.run is self:
                self.supervisor.serves_again = False
                send_signal(self.supervisor.pid, signal.SIGKILL)
        if self.outcome is None:
            self.outcome = int(signal.SIGKILL)
            self.seconds = time.monotonic() - self.started_at
        if self.agent.mains.get(self.main) is self:
            del self.agent.mains[self.main]
        self.finish()

    def on_control(self, message):
        # type: (Dict[str, Any]) -> None
        if message.get('cancel'):
            self.kill('cancelled')
        if message.get('resize') and self.tty >= 0:
            set_window_size(self.tty, message['resize'])
        if 'signal' in message and self.outcome is None:
            if self.main:
                self.pass_signal(message)
            elif len(self.early_signals) < 64:
                # The program may have written, and been answered, before its supervisor has reported its number.
                self.early_signals.append(message)

    def pass_signal(self, message):
        # type: (Dict[str, Any]) -> None
        send_signal(self.main if message.get('target') == 'main' else -self.main, message['signal'])

    def on_credit(self):
        # type: () -> None
        self.want()

    def want(self):
        # type: () -> None
        open_tap = (self.credit > 0 or self.ended) and not self.agent.is_clogged
        for fd in self.sources:
            mask = select.EPOLLIN if open_tap else 0
            if fd == self.tty and self.incoming:
                mask |= select.EPOLLOUT
            self.agent.watch(fd, mask, self.on_source)
        if self.stdin >= 0 and self.stdin != self.tty:
            self.agent.watch(self.stdin, select.EPOLLOUT if self.incoming else 0, self.on_stdin)

    def on_source(self, mask):
        # type: (int) -> None
        fd = self.agent.ready_fd
        if fd == self.tty and mask & select.EPOLLOUT:
            self.feed_stdin()
        if mask & ~select.EPOLLOUT:
            self.read_source(fd, CHUNK)

    def read_source(self, fd, size):
        # type: (int, int) -> int
        """Read once from a source and pass it on; return how much came. Closes it at its end."""
        try:
            data = os.read(fd, size)
        except BlockingIOError:
            return 0
        except OSError:  # EIO: the last holder of the terminal has closed it
            data = b''
        if not data:
            self.close_source(fd)
            return 0
        if not self.ended:
            kind = self.sources[fd]
            now = self.sinks[kind].feed(data)
            if now:
                self.send_data(kind, now)
                if self.credit <= 0:
                    self.want()
            if self.limits is not None and self.outcome is None and not self.killer:
                most = self.limits.get('output')
                if most and self.sinks[kind].total > most:
                    self.exceed('output', '')
        return len(data)

    def close_source(self, fd):
        # type: (int) -> None
        self.sources.pop(fd, None)
        if not self.sources:
            self.agent.draining.discard(self)
        self.agent.forget(fd)
        if fd == self.tty:
            self.tty = self.stdin = -1

    def on_stdin(self, mask):
        # type: (int) -> None
        if mask & (select.EPOLLERR | select.EPOLLHUP):
            self.close_stdin()
        else:
            self.feed_stdin()

    def feed_stdin(self):
        # type: () -> None
        while self.incoming and self.stdin >= 0:
            data = self.incoming.popleft()
            try:
                size = os.write(self.stdin, data)
            except BlockingIOError:
                self.incoming.appendleft(data)
                break
            except OSError:
                self.incoming.appendleft(data)
                return self.close_stdin()
            self.grant(size)
            if not self.main:
                self.fed.append(data[:size])  # in case that it cannot be started
            elif self.fed:
                del self.fed[:]
            if size < len(data):
                self.incoming.appendleft(data[size:])
        if self.input_done and not self.incoming:
            return self.close_stdin()
        return self.want()

    def close_stdin(self):
        # type: () -> None
        """Close the guest's standard input; what it did not read is dropped, and counted as used up."""
        if self.stdin >= 0 and self.stdin != self.tty:
            self.agent.forget(self.stdin)
            self.stdin = -1
        self.grant(sum(len(data) for data in self.incoming))
        self.incoming.clear()

    def on_eof(self):
        # type: () -> None
        if not self.input_done:
            self.input_done = True
            if self.script_left:
                self.remove_script()
                return self.fail(Refusal('the program text ended early', errno.EPROTO))
            if self.tty >= 0:
                # In the midst of a line the first one ends that, and only the second one the input.
                self.incoming.append(b'\x04\x04' if self.ends_midline else b'\x04')
            self.feed_stdin()
        return None

    # After it -------------------------------------------------------------------------------------------------------

    def finish(self):
        # type: () -> None
        """Send what is still in the pipes, the held tails and END. What others still write is dropped from now on."""
        if self.ended:
            return
        for fd in list(self.sources):
            left = count_readable(fd)
            while left > 0 and fd in self.sources:
                got = self.read_source(fd, min(left, CHUNK))
                left = left - got if got else 0
        for kind, sink in self.sinks.items():
            tail = sink.take_tail()
            if tail:
                self.send_data(kind, tail)
        self.close_stdin()
        out, err = self.sinks[DATA], self.sinks[ERR]
        message = {
            'seconds': round(self.seconds, 6),
            'out': [out.total, out.sent],
            'err': [err.total, err.sent],
        }  # type: Dict[str, Any]
        if self.verdict:
            message[self.verdict] = True
        if self.cleared:
            message['cleared'] = self.cleared
        if self.exceeded:
            message['exceeded'] = self.exceeded
        if self.message.get('preload') is not None:
            message['forked'] = self.is_forked
            if self.preload_problems:
                message['preload_problems'] = self.preload_problems
        if b'c' in self.usage:
            message['cpu'] = max(self.usage[b'c'] / 100000.0, self.seconds_spent())
        if b'm' in self.usage:
            message['memory'] = self.usage[b'm'] * 1024
        status = self.outcome or 0
        if os.WIFSIGNALED(status):
            message['signal'] = os.WTERMSIG(status)
        else:
            message['exit'] = os.WEXITSTATUS(status)
        if status == signal.SIGKILL or message.get('exit') == 128 + signal.SIGKILL:
            message['oom'] = self.agent.count_oom_kills() > self.oom_kills
        if self.verdict == 'timed_out':
            # One end for all that run out of time, however they went about it in their grace.
            message.pop('exit', None)
            message['signal'] = int(signal.SIGKILL)
        if self.exec_error and not self.verdict:
            stage, number = self.exec_error
            if stage == b'x':
                message['missing'] = number
            elif stage == b'f':
                message = {'error': self.agent.cannot_start(number).facts}
            else:
                field = {b'c': 'cwd', b'u': 'user', b'l': 'rlimits'}.get(stage, '')
                value = shown(self.cwd or self.agent.start_path) if field == 'cwd' else self.message.get(field)
                message = {
                    'error': {
                        'message': '%s %r: %s' % (field, value, os.strerror(number)),
                        'errno': number,
                        'field': field,
                    }
                }
        self.end(message)
        if self.script_dir:
            self.agent.flush()  # the answer first: nobody waits for the tidying up
            self.remove_script()
        if self.supervisor:
            # The one that still holds the other ends was left in the background on purpose: drain for it, until it closes.
            if self.sources:
                self.agent.draining.add(self)
            self.want()
        else:
            for fd in list(self.sources):
                self.close_source(fd)


class Supervisor(object):
    """Our side of a supervisor process, and the process's own code. Free to serve any call, or made for one special call.

    The two speak over a socket pair that keeps messages whole: to the supervisor a request with the guest's three standard
    descriptors, from it STATUS records: S (started, pid), E (stage, errno), X (exit status of the main process), U
    (usage of the main process: c, 10 microseconds of processor time; m, KiB of memory), T (its template interpreter, pid; 0: it
    has none), F (the main process is a fork of that), P (a module that was not preloaded: why, index), D (done: nothing of the
    call is left).

    A template interpreter is a Python that has stopped in the midst of its own start, after it has imported what was asked for.
    A program that is forked from it continues from there as an interpreter that was started for it alone would.
    """

    def __init__(self, agent, run=None, stdio=()):
        # type: (Agent, Optional[Run], Tuple[int, ...]) -> None
        import _socket

        self.agent = agent
        self.run = run
        self.serves_again = run is None
        self.template = None  # type: Any
        self.template_pid = 0
        self.template_for = None  # type: Optional[List[Any]]
        self.template_dir = b''
        self.refused = []  # type: List[List[Any]]
        self.is_measured = True
        self.is_fork = False
        ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
        agent.note_fd(ours.fileno(), theirs.fileno())
        agent.set_guest_oom_score()
        try:
            self.pid = os.fork()
        except OSError:
            ours.close()
            theirs.close()
            raise
        finally:
            agent.set_own_oom_score()
        if self.pid == 0:
            try:
                self.settle_in(theirs, stdio)
                if run:
                    agent.place_on_cpus(0, run)
                    self.keep(theirs, lambda: self.fork_main(theirs, run, stdio), stdio)
                else:
                    self.serve(theirs)
            finally:
                os._exit(111)
        theirs.close()
        ours.setblocking(False)
        self.socket = ours
        agent.supervisors[self.pid] = self
        agent.watch(ours.fileno(), select.EPOLLIN, self.on_message)

    def assign(self, run, stdio):
        # type: (Run, Tuple[int, int, int]) -> bool
        """Hand a free supervisor its next call; False if that is too large for it."""
        import _socket

        preload = run.preload()
        if preload and preload == self.template_for:
            template_dir = self.template_dir
        else:
            template_dir = run.script_dir + b'-run' if preload else b''
        request = run.make_request(preload, template_dir)
        if not request:
            return False
        self.run = run
        if preload:
            self.template_for, self.template_dir = preload, template_dir
        run.template_dir = template_dir
        self.agent.place_on_cpus(self.pid, run)
        rights = (_socket.SOL_SOCKET, _socket.SCM_RIGHTS, STDIO.pack(*stdio))
        self.socket.sendmsg([request], [rights])
        self.wake()
        return True

    def wake(self):
        # type: () -> None
        """Let the process continue, and its template: a guest may have stopped them."""
        send_signal(self.pid, signal.SIGCONT)
        if self.template_pid:
            send_signal(self.template_pid, signal.SIGCONT)

    def on_message(self, mask):
        # type: (int) -> None
        while True:
            try:
                data = self.socket.recv(STATUS_BYTES)
            except OSError:  # nothing more now, or the supervisor was killed: then it is reaped
                return
            if len(data) < STATUS.size:
                self.agent.unwatch(self.socket.fileno())
                return
            for at in range(0, len(data) - STATUS.size + 1, STATUS.size):
                self.on_record(*STATUS.unpack_from(data, at))

    def on_record(self, what, stage, value):
        # type: (bytes, bytes, int) -> None
        if what == b'D':
            run, self.run = self.run, None
            self.agent.on_supervisor_done(self)
            if run and not run.ended:
                run.on_family_gone()
        elif what == b'T':
            self.template_pid = value
            if self.run and self.run.limits is not None and not self.run.main:
                self.run.started_at = time.monotonic()  # making it was no part of the program
            if value and self.run:
                self.template_for, self.template_dir = self.run.preload(), self.run.template_dir
            else:
                self.template_for, self.template_dir = None, b''
        elif self.run and not self.run.ended:
            self.run.on_status(what, stage, value)

    def on_gone(self):
        # type: () -> None
        """The process is reaped; take what it reported first."""
        self.on_message(0)
        self.close()
        if self.run:
            self.agent.has_orphans = True
            if self.run.supervisor is self:
                self.run.on_supervisor_gone()

    def is_untouched(self):
        # type: () -> bool
        """Return whether no guest has changed its limits, or its template's."""
        bounds = self.agent.bounds
        if read_bounds(self.pid) != bounds:
            return False
        return not self.template_pid or read_bounds(self.template_pid) == bounds

    def close(self):
        # type: () -> None
        if self.socket.fileno() >= 0:
            self.agent.unwatch(self.socket.fileno())
            self.socket.close()
            if self.pid in self.agent.supervisors:
                self.wake()  # so that it sees the end and leaves

    # In the supervisor process -------------------------------------------------------------------------------------------

    def settle_in(self, socket, stdio):
        # type: (Any, Tuple[int, ...]) -> None
        """Let go of everything that is the agent's."""
        agent = self.agent
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.dup2(0, 2)  # the null device, which 0 and 1 are already
        start = 3
        for fd in sorted({socket.fileno(), agent.start_dir} | set(stdio)):
            os.closerange(start, fd)
            start = fd + 1
        os.closerange(start, agent.highest_fd + 2)
        agent.prctl(PR_SET_CHILD_SUBREAPER, 1)
        if MINE != 1:
            agent.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

    def serve(self, socket):
        # type: (Any) -> NoReturn
        """Keep one call after another, until the agent closes the socket."""
        import _socket

        space = _socket.CMSG_SPACE(STDIO.size)
        while True:
            data, ancillary, _, _ = socket.recvmsg(REQUEST_BYTES, space, _socket.MSG_CMSG_CLOEXEC)
            if not data:
                os._exit(0)
            stdio = STDIO.unpack(ancillary[0][2])
            self.keep(socket, lambda: self.spawn_main(read_json(data.decode('ascii')), stdio), stdio)

    def keep(self, socket, start, stdio):
        # type: (Any, Callable[[], int], Tuple[int, ...]) -> None
        """Start the main process, adopt and reap whatever it leaves, report."""
        self.reports = socket
        self.is_measured = True
        self.is_fork = False
        ending = b''
        try:
            pid = start()
        except StartFailed as failure:
            ending = STATUS.pack(b'E', failure.stage, failure.number)
            ending += STATUS.pack(b'X', b' ', (127 if failure.number in NOT_THERE else 126) << 8)
            pid = 0
        for fd in set(stdio):
            os.close(fd)
        if pid:
            forked = STATUS.pack(b'F', b' ', pid) if self.is_fork else b''
            socket.send(forked + STATUS.pack(b'S', b' ', pid))
        if self.is_fork:
            pid, ending = self.wait_for_fork(socket, pid)
        while not self.is_all_gone():
            if ending:
                socket.send(ending)
                ending = b''
            try:
                # Reported before it is reaped: were we killed in between, our parent could not learn it any more.
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
            except ChildProcessError:
                if pid:  # its template has reaped it, and was killed before it could say so
                    ending = STATUS.pack(b'X', b' ', signal.SIGKILL)
                break
            assert ended is not None  # that is for WNOHANG
            is_main = ended.si_pid == pid
            if is_main:
                outcome = ended.si_status << 8 if ended.si_code == os.CLD_EXITED else ended.si_status
                ending = STATUS.pack(b'X', b' ', outcome)
                if self.is_measured or not self.is_last(pid):
                    socket.send(ending)
                    ending = b''
                else:
                    socket.send(ending + STATUS.pack(b'D', b' ', 0))
                    os.waitpid(pid, 0)
                    return
            usage = os.wait4(ended.si_pid, 0)[2]
            if is_main:
                # In units of 10 microseconds and of KiB, as far as they fit.
                used = int((usage.ru_utime + usage.ru_stime) * 100000)
                ending = STATUS.pack(b'U', b'c', min(used, 0xFFFFFFFF))
                ending += STATUS.pack(b'U', b'm', min(int(usage.ru_maxrss), 0xFFFFFFFF))
                pid = 0
            if self.template and ended.si_pid == self.template.pid:
                self.forget_template()
        socket.send(ending + STATUS.pack(b'D', b' ', 0))
        if not self.serves_again:
            os._exit(0)

    def is_last(self, pid):
        # type: (int) -> bool
        """Return whether nothing of the call is left but its main process, which has ended."""
        mine = {b'%d' % pid}
        try:
            if self.template:
                mine.add(b'%d' % self.template.pid)
                if read_children(self.template.pid):
                    return False
            return self.serves_again and set(read_children(os.getpid())) == mine
        except OSError:
            return False

    def wait_for_fork(self, socket, pid):
        # type: (Any, int) -> Tuple[int, bytes]
        """Pass on how a fork of the template ended, but for the last message, which is returned. With it comes the fork's pid if
        the template died before that: then it is a child of this library, as all are whose parents have died."""
        template = self.template
        ending = b''
        while True:
            ready = select.select([template.socket], [], [], REAP_SECONDS)[0]
            data = template.socket.recv(STATUS_BYTES) if ready else None
            if data and ending:
                return 0, bytes(data) + ending
            if data:
                ending = bytes(data)  # its end; that it is reaped comes next
                continue
            while True:
                try:
                    ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT | os.WNOHANG)
                except ChildProcessError:
                    ended = None
                if ended is None or ended.si_pid == pid:
                    break
                os.waitpid(ended.si_pid, 0)
                if ended.si_pid == template.pid:
                    self.forget_template()
                    return 0 if ending else pid, ending
            if data == b'':
                # It has closed its end, and will be gone in a moment.
                send_signal(template.pid, signal.SIGKILL)
                os.waitpid(template.pid, 0)
                self.forget_template()
                return 0 if ending else pid, ending

    def is_all_gone(self):
        # type: () -> bool
        """Return whether nothing is left but a template that waits for its next call."""
        if not self.template:
            return False  # waiting says so
        try:
            mine, its = read_children(os.getpid()), read_children(self.template.pid)
        except OSError:  # a kernel without these files: only the template's end shows what else there is
            self.end_template()
            return False
        return mine == [b'%d' % self.template.pid] and not its

    def forget_template(self):
        # type: () -> None
        self.template.socket.close()
        self.template = None
        self.reports.send(STATUS.pack(b'T', b' ', 0))

    def end_template(self):
        # type: () -> None
        send_signal(self.template.pid, signal.SIGKILL)
        os.waitpid(self.template.pid, 0)
        self.forget_template()

    def spawn_main(self, request, stdio):
        # type: (Any, Tuple[int, ...]) -> int
        """Start the program without copying this process: posix_spawn(3) shares its memory until the exec."""
        argv = [to_bytes(word) for word in request[0]]
        self.is_measured = request[6]
        env = PROCESS_ENV
        if request[1]:
            env = dict(env)
            env.update((to_bytes(name), to_bytes(value)) for name, value in request[1].items())
        try:
            os.fchdir(self.agent.start_dir)
            if request[2]:
                os.chdir(to_bytes(request[2]))
        except OSError as error:
            raise StartFailed(b'c', error.errno or 0)
        if (
            self.template
            and request[3]
            and [self.template.preload, self.template.folder] != [request[3], request[4][1]]
        ):
            self.end_template()  # a call without a template leaves it where it is
        if request[3] and request[3] not in self.refused:
            pid = self.fork_from_template(request, env, stdio)
            if pid:
                return pid
            os.fchdir(self.agent.start_dir)
            if request[2]:
                os.chdir(to_bytes(request[2]))
        actions = [(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate(stdio)]

        def attempt(path, argv):
            # type: (bytes, List[bytes]) -> int
            return os.posix_spawn(path, argv, env, file_actions=actions, setsid=True, setsigdef=RESTORED)

        try:
            return execute(argv, env, attempt)
        except OSError as error:
            raise StartFailed(b'x' if error.errno not in (errno.EAGAIN, errno.ENOMEM) else b'f', error.errno or 0)

    def fork_from_template(self, request, env, stdio):
        # type: (Any, Dict[bytes, bytes], Tuple[int, ...]) -> int
        """Have the template fork the program and return its pid; 0 if there is no template."""
        import _socket

        if not self.template:
            os.fchdir(self.agent.start_dir)
            self.template = self.start_template(request, env)
            if not self.template:
                self.refused.append(request[3])
                self.reports.send(STATUS.pack(b'T', b' ', 0))
                return 0
            self.reports.send(STATUS.pack(b'T', b' ', self.template.pid))
        template = self.template
        if request[7] and 2 * read_usage(template.pid)[1] > request[7]:
            return 0  # the program would begin with half of the memory that it may have at once
        changed = {to_bytes(name): to_bytes(value) for name, value in request[1].items()}
        order = [
            [to_bytes(word) for word in request[0][len(request[3][0]) + 1 :]],
            changed,
            to_bytes(request[4][1] if request[3][2] else request[2]),
            request[5],
            to_bytes(request[3][2]),
        ]
        # The fork waits until it is known here, or goes: a program must not run twice because its template died meanwhile.
        go, let_go = os.pipe()
        rights = (_socket.SOL_SOCKET, _socket.SCM_RIGHTS, STDIO.pack(*stdio) + struct.pack('i', go))
        script_dir, template_dir = (to_bytes(place) for place in request[4])
        try:
            os.rename(script_dir, template_dir)
        except OSError:
            os.close(go)
            os.close(let_go)
            return 0  # a guest has put something there
        try:
            template.socket.sendmsg([marshal.dumps(order, 2)], [rights])
            data = template.socket.recv(STATUS.size)
            if data[:1] == b'S':
                os.write(let_go, b'g')
        except OSError:
            data = b''
        finally:
            os.close(go)
            os.close(let_go)
        if len(data) != STATUS.size:
            self.end_template()  # a guest has killed it
            move_back(template_dir, script_dir)
            return 0
        what, _, value = STATUS.unpack(data)
        if what == b'E':
            move_back(template_dir, script_dir)  # it is started again when there is room
            raise StartFailed(b'f', value)
        self.is_fork = True
        return int(value)

    def start_template(self, request, env):
        # type: (Any, Dict[bytes, bytes]) -> Optional[Template]
        """Start an interpreter for the script and have it stop in its start; None if it cannot be had."""
        import _socket

        command, modules, own_name, _, unbuffered = request[3]
        # There is nothing at this path yet: an interpreter that does not stop in its start must not run the program.
        path = os.path.join(to_bytes(request[4][1]), os.path.basename(to_bytes(request[0][len(command)])))
        argv = [to_bytes(word) for word in command] + [path]
        own = dict(PROCESS_ENV)
        if unbuffered is not None:
            own[b'PYTHONUNBUFFERED'] = to_bytes(unbuffered)
        search = PROCESS_ENV.get(b'PYTHONPATH')
        own[b'PYTHONPATH'] = b'/proc/self/fd/%d' % TEMPLATE_ZIP + (b':' + search if search else b'')
        ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
        archive, null = os.memfd_create('template'), os.open('/dev/null', os.O_RDONLY)
        out, dead = os.pipe()  # its streams are a pipe's, as the programs' are
        try:
            write_all(archive, stored_zip(b'sitecustomize.py', HOOK.encode('ascii')))
            actions = [
                (os.POSIX_SPAWN_DUP2, null, 0),
                (os.POSIX_SPAWN_DUP2, dead, 1),
                (os.POSIX_SPAWN_DUP2, dead, 2),
                # Twice, since a source may be where another target is.
                (os.POSIX_SPAWN_DUP2, archive, 100),
                (os.POSIX_SPAWN_DUP2, theirs.fileno(), 101),
                (os.POSIX_SPAWN_DUP2, 101, TEMPLATE_SOCKET),
                (os.POSIX_SPAWN_DUP2, 100, TEMPLATE_ZIP),
                (os.POSIX_SPAWN_CLOSE, 100),
                (os.POSIX_SPAWN_CLOSE, 101),
            ]

            def attempt(path, argv):
                # type: (bytes, List[bytes]) -> int
                return os.posix_spawn(path, argv, own, file_actions=actions, setsid=True, setsigdef=RESTORED)

            pid = execute(argv, own, attempt)
        except (OSError, ValueError):
            ours.close()
            return None
        finally:
            theirs.close()
            for fd in (archive, null, dead):
                os.close(fd)
        template = Template(pid, ours, request[3], request[4][1])
        try:
            ours.send(marshal.dumps([[to_bytes(name) for name in modules], bool(own_name)], 2))
            while True:
                data = ours.recv(STATUS.size)
                if len(data) != STATUS.size:
                    break
                what, _, _ = STATUS.unpack(data)
                if what == b'R':
                    return template
                self.reports.send(data)
        except OSError:
            pass
        finally:
            os.close(out)
        send_signal(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        ours.close()
        self.reports.send(STATUS.pack(b'P', b'n', 0))
        return None

    def fork_main(self, socket, run, stdio):
        # type: (Any, Run, Tuple[int, ...]) -> int
        """Start a special call's process: with a terminal, another user, limits, or our own code in it."""
        try:
            pid = os.fork()
        except OSError as error:
            raise StartFailed(b'f', error.errno or 0)
        if pid == 0:
            try:
                become(run, stdio, socket)
            finally:
                os._exit(127)
        return pid


def read_children(pid):
    # type: (int) -> List[bytes]
    """Return the numbers of a process's children (proc(5), /proc/pid/task/tid/children)."""
    fd = os.open('/proc/%d/task/%d/children' % (pid, pid), os.O_RDONLY)
    try:
        return os.read(fd, 1 << 16).split()
    finally:
        os.close(fd)


class Template(object):
    """A template interpreter, as its supervisor sees it."""

    def __init__(self, pid, socket, preload, folder):
        # type: (int, Any, List[Any], str) -> None
        self.pid = pid
        self.folder = folder
        self.socket = socket
        self.preload = preload


def stored_zip(name, data):
    # type: (bytes, bytes) -> bytes
    """Return a zip archive of one file, not compressed (APPNOTE.TXT 4.3)."""
    head = struct.pack('<HHHHHIIIHH', 20, 0, 0, 0, 33, binascii.crc32(data), len(data), len(data), len(name), 0)
    local = b'PK\3\4' + head + name + data
    central = b'PK\1\2' + struct.pack('<H', 20) + head + struct.pack('<HHHII', 0, 0, 0, 0, 0) + name
    end = b'PK\5\6' + struct.pack('<HHHHIIH', 0, 0, 1, 1, len(central), len(local), 0)
    return local + central + end


HOOK = r"""
def _prepare():
    import sys

    known = set(sys.modules)
    import _socket, ctypes, gc, io, marshal, os, struct

    import _functools, _weakref

    kind, weak = type(sys), _weakref.ref
    api, libc = ctypes.pythonapi, ctypes.PyDLL(None)
    prctl, fopen, leave = libc.prctl, libc.fopen, libc.exit
    on_signal, send_signal, own_number = libc.signal, libc.kill, libc.getpid
    fopen.restype = ctypes.c_void_p
    hold = api.Py_IncRef
    hold.argtypes, hold.restype = [ctypes.py_object], None
    prctl(4, 0, 0, 0, 0)  # PR_SET_DUMPABLE: no other program of this user may look in or change anything here
    place = '/proc/self/fd/4'
    sys.path[:] = [each for each in sys.path if each != place]
    sys.path_importer_cache.pop(place, None)
    zips = sys.modules.get('zipimport')
    if zips is not None:
        zips._zip_directory_cache.clear()
    own_path = os.environ['PYTHONPATH'].partition(':')[2]  # the sandbox's
    if own_path:
        os.environ['PYTHONPATH'] = own_path
    else:
        del os.environ['PYTHONPATH']
    channel = _socket.socket(fileno=3)
    record = struct.Struct('!ccI')
    if not hasattr(sys, 'argv'):
        os._exit(0)  # before Python 3.8 its start is in another order
    for name in set(sys.modules) - known:
        del sys.modules[name]
    os.close(4)
    names, is_named = marshal.loads(channel.recv(1 << 16))
    if is_named and sys.version_info < (3, 9):
        os._exit(0)  # a script that is given without its directory is then called so, too

    # The site's own, which this one stands before.
    own = sys.modules.pop('sitecustomize')
    try:
        import sitecustomize
    except ImportError as error:
        if error.name != 'sitecustomize':
            raise
    real = sys.modules.get('sitecustomize')
    sys.modules['sitecustomize'] = real or own

    def sockets():
        found = set()
        for number in os.listdir('/proc/self/fd'):
            try:
                target = os.readlink('/proc/self/fd/' + number)
            except OSError:
                continue
            if target.startswith('socket:'):
                found.add(target)
        return found

    def threads():
        module = sys.modules.get('threading')
        return 1 if module is None else module.active_count()

    def load():
        there = sockets()
        for index, name in enumerate(names):
            problem = b''
            try:
                __import__(os.fsdecode(name))
            except BaseException:
                problem = b'i'
            if threads() > 1:
                problem = b't'
            elif sockets() != there:
                problem = b's'
            if problem:
                channel.send(record.pack(b'P', problem, index))
                if problem != b'i':
                    os._exit(0)  # what it has started cannot be rolled back: it is left to the programs that want it
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError):
                pass

    # What runs the program are C's own functions, called by C: so no frame stands above it, and it is known how it ended.

    known_sys = frozenset(sys.__dict__).union(('ps1', 'ps2', 'last_exc', 'last_type', 'last_value', 'last_traceback'))
    is_finalizing = sys.is_finalizing
    code, script, at_end, flags = ctypes.c_int(0), ctypes.c_void_p(), [], (ctypes.c_int * 2)(0, sys.version_info[1])

    def note_end(result):
        if result:
            error = getattr(sys, 'last_type', None)
            code.value = 130 if error is KeyboardInterrupt else 1
        at_end.append(True)
        raise ImportError('the next one')

    run_file = api.PyRun_SimpleFileExFlags
    run_file.restype = note_end
    run = _functools.partial(run_file, script, os.fsencode(sys.argv[0]), 1, ctypes.byref(flags))
    end = _functools.partial(api.Py_Exit, code)

    class End(object):
        # Goes when the interpreter, after threads, exit functions and flushing, begins to clear its modules. It does that as the
        # interpreter would, but for what was there before the program; and ends the process, if it is known how.
        def __init__(self, held):
            own, builtins = sys.__dict__, sys.modules['builtins'].__dict__
            streams, kinds = (sys.stdout, sys.stderr), (io.TextIOWrapper, io.BufferedWriter, io.BufferedRandom)
            self.given = held, own, builtins, frozenset(builtins).union('_'), streams, kinds, sys.modules, gc, sys.flags

        def __del__(self):
            held, own, builtins, known_builtins, streams, kinds, modules, gc, flags = self.given
            if not is_finalizing():
                return
            for name, module in held:
                if modules.get(name) is module:
                    del modules[name]
            if not at_end or not known_sys.issuperset(own) or not known_builtins.issuperset(builtins):
                return
            if gc.callbacks or gc.get_debug() or flags.verbose:
                return
            for name in ('stdin', 'stdout', 'stderr'):
                own[name] = own['__%s__' % name]
            left = [weak(each) for name, each in modules.items() if isinstance(each, kind) and each.__dict__ is not own]
            modules.clear()
            del name, module, held
            each = None
            gc.collect()
            for found in reversed(left):
                module = found()
                names = None if module is None or module.__dict__ is builtins else module.__dict__
                for is_private in (True, False) if names else ():
                    for name in [each for each in names if isinstance(each, str)]:
                        if is_private == (name[:1] == '_' != name[1:2]) and name != '__builtins__':
                            names[name] = None
            names = module = None
            gc.collect()
            try:
                for stream in streams:
                    if not stream.closed:
                        stream.flush()
                for each in gc.get_objects():
                    if type(each) in kinds and not each.closed:
                        each.flush()
            except (OSError, ValueError):
                return  # the interpreter says so itself
            if code.value == 130:
                on_signal(2, None)
                send_signal(own_number(), 2)
            leave(code)

    def serve(path):
        if path != sys.argv[0]:
            raise ImportError(path)
        try:
            stop()
        except BaseException:
            os._exit(70)  # without its supervisor it is of no use, and must not run the program itself
        raise ImportError(path)

    def stop():
        path = sys.argv[0]
        hold(sys.path_hooks)
        sys.path_hooks = sys.path_hooks[:-3]
        load()
        if sys.modules.get('gc') is gc and 'gc' not in known and not any(os.fsdecode(each) == 'gc' for each in names):
            del sys.modules['gc']
        held = [(name, module) for name, module in sys.modules.items() if name not in ('__main__', 'sys', 'builtins')]
        hold([module.__dict__ for name, module in held if hasattr(module, '__dict__')])
        sys.__interactivehook__.end = End(held)
        gc.collect()
        if hasattr(gc, 'freeze'):
            gc.freeze()  # so that a program's end does not touch, and copy, all of this
        channel.send(record.pack(b'R', b' ', 0))
        usage, wait_for = (ctypes.c_long * 18)(), libc.wait4  # getrusage(2)
        space = _socket.CMSG_SPACE(16)
        while True:
            data, ancillary, _, _ = channel.recvmsg(1 << 17, space, _socket.MSG_CMSG_CLOEXEC)
            if not data:
                os._exit(0)
            given = struct.unpack('4i', ancillary[0][2])
            stdio, go = given[:3], given[3]
            try:
                pid = os.fork()
            except OSError as error:
                channel.send(record.pack(b'E', b'f', error.errno or 0))
                for fd in set(given):
                    os.close(fd)
                continue
            if pid == 0:
                break
            for fd in set(given):
                os.close(fd)
            channel.send(record.pack(b'S', b' ', pid))
            # Reported before it is reaped: were this process killed in between, nobody could learn it any more.
            ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
            outcome = ended.si_status << 8 if ended.si_code == os.CLD_EXITED else ended.si_status
            channel.send(record.pack(b'X', b' ', outcome))
            wait_for(pid, None, 0, usage)
            used = usage[0] * 100000 + usage[1] // 10 + usage[2] * 100000 + usage[3] // 10
            records = record.pack(b'U', b'c', min(used, 0xFFFFFFFF)) + record.pack(b'U', b'm', min(usage[4], 0xFFFFFFFF))
            channel.send(records)

        # The program, from here on.
        channel.close()
        if os.read(go, 1) != b'g':
            os._exit(1)
        os.close(go)
        args, changed, cwd, cpus, own_name = marshal.loads(data)
        prctl(4, 1, 0, 0, 0)
        os.setsid()
        for number, fd in enumerate(stdio):
            os.dup2(fd, number)
        for fd in set(stdio):
            os.close(fd)
        try:
            fd = os.open('/proc/self/oom_score_adj', os.O_WRONLY)
            os.write(fd, b'900')  # before the template
            os.close(fd)
        except OSError:
            pass
        try:
            if cpus:
                os.sched_setaffinity(0, cpus)
        except (OSError, AttributeError):
            pass
        if cwd:
            os.chdir(cwd)
        for name, value in changed.items():
            if os.environb.get(name) != value:
                os.environb[name] = value
        first = [each for each in os.environ.get('PYTHONPATH', '').split(':') if each]
        sys.path[:0] = [each for each in first if each not in sys.path]
        args = [os.fsdecode(each) for each in args]
        if own_name:
            sys.argv[0] = os.fsdecode(own_name)
            if hasattr(sys, 'orig_argv'):
                sys.orig_argv[-1] = sys.argv[0]
        sys.argv.extend(args)
        if hasattr(sys, 'orig_argv'):
            sys.orig_argv.extend(args)
        if not os.path.samestat(os.fstat(0), os.stat('/dev/null')):
            old = sys.stdin
            buffer = io.open(0, 'rb', closefd=False)
            buffer.raw.name = '<stdin>'
            sys.stdin = sys.__stdin__ = io.TextIOWrapper(
                buffer, old.encoding, old.errors, '\n', old.line_buffering, getattr(old, 'write_through', False)
            )
            sys.stdin.mode = 'r'
        # One that is not frozen: what lives in it until the end is to be collected then.
        main = type(sys)('__main__')
        main.__dict__.clear()
        main.__dict__.update(sys.modules['__main__'].__dict__)
        sys.modules['__main__'] = main
        numbers = sys.modules.get('numpy.random')
        if numbers is not None:
            numbers.seed()
        processes = sys.modules.get('multiprocessing.process')
        if processes is not None:
            processes.current_process()._config['authkey'] = processes.AuthenticationString(os.urandom(32))
        if (3, 9) <= sys.version_info < (3, 12):
            # The calls from C to C, which stand above the program, do not count towards its recursion limit.
            api.Py_LeaveRecursiveCall()
            api.Py_LeaveRecursiveCall()
        if not getattr(sys.flags, 'safe_path', False):
            sys.path.insert(0, os.path.dirname(path))
        sys.path_importer_cache[path] = None
        script.value = fopen(os.fsencode(path), b'rbe')

    sys.path_hooks += [serve, run, end]
    if real is None:
        # Then there is no such module, and the start of the interpreter continues without.
        raise ImportError('there is none', name='sitecustomize')


_prepare()
"""


NOT_THERE = (errno.ENOENT, errno.ENOTDIR)


class StartFailed(Exception):
    """The main process could not be started; ``stage`` says where: c cwd, u user, l limits, x exec, f fork."""

    def __init__(self, stage, number):
        # type: (bytes, int) -> None
        Exception.__init__(self, stage, number)
        self.stage = stage
        self.number = number


def become(run, stdio, socket):
    # type: (Run, Tuple[int, ...], Any) -> None
    """Turn this forked child into the guest's program. Each stage that fails is named to the agent by a letter."""
    stage = b'f'
    try:
        os.setsid()
        for restored in RESTORED:
            signal.signal(restored, signal.SIG_DFL)
        for number, fd in enumerate(stdio):
            os.dup2(fd, number)
        if run.tty >= 0:
            import fcntl
            import termios

            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        stage = b'l'
        if run.message.get('rlimits'):
            import resource

            for name, (soft, hard) in run.message['rlimits'].items():
                resource.setrlimit(getattr(resource, 'RLIMIT_' + name.upper()), (soft, hard))
        stage = b'u'
        if run.user and os.getuid() == 0:
            os.setgroups(run.user[2])
            os.setgid(run.user[1])
            os.setuid(run.user[0])
        stage = b'c'
        if run.cwd:
            os.chdir(run.cwd)
        stage = b'x'
        if run.message.get('builtin'):
            socket.close()  # it loads libraries that a guest may have rewritten
            os._exit(run_builtin(run.message['builtin']))
        execute(run.argv, run.env, lambda path, argv: os.execve(path, argv, run.env))
    except OSError as error:
        socket.send(STATUS.pack(b'E', stage, error.errno or 0))
        os._exit(127 if error.errno in NOT_THERE else 126)
    except BaseException as error:
        os.write(2, ('enclave: the program could not be started: %s\n' % error).encode('utf-8', 'replace'))
        os._exit(126)


def execute(argv, env, attempt):
    # type: (List[bytes], Dict[bytes, bytes], Callable[[bytes, List[bytes]], int]) -> int
    """Start ``argv`` by ``attempt(path, argv)`` as execvp(3) would: searching the call's own PATH, and giving a text
    without ``#!`` to the shell. OSError when nothing could be started."""
    name = argv[0]
    if b'/' in name:
        candidates = [name]
    else:
        search = env.get(b'PATH') or b'/usr/local/bin:/usr/bin:/bin'
        candidates = [os.path.join(where or b'.', name) for where in search.split(b':')]
    worst = errno.ENOENT
    for path in candidates:
        try:
            if len(candidates) > 1:
                os.stat(path)
            return attempt(path, argv)
        except OSError as error:
            if error.errno == errno.ENOEXEC:
                return attempt(b'/bin/sh', [b'sh', path] + argv[1:])
            if error.errno not in NOT_THERE:
                worst = error.errno or worst
    raise OSError(worst, os.strerror(worst))


class Killer(object):
    """What is to be killed: the family of a call (of one that has ended, too), to the last process, or without a call what no
    call is known for. `Agent.kill` does it, and calls ``on_done``."""

    def __init__(self, agent, run, on_done):
        # type: (Agent, Optional[Run], Callable[[], None]) -> None
        self.agent = agent
        self.run = run
        self.supervisor = run.supervisor if run else None
        self.on_done = on_done
        self.killed = set()  # type: Set[int]
        self.hopeless = set()  # type: Set[int]
        self.quiet_looks = 0
        self.began_at = 0.0
        self.quiet_since = 0.0

    def find(self, look):
        # type: (Look) -> Set[int]
        run, agent = self.run, self.agent
        if run:
            self.supervisor = run.supervisor
        if self.supervisor and self.supervisor.run is not run:
            return set()  # it has reported that all are gone, and may have the next call's below it by now
        if self.supervisor:
            found = look.below({self.supervisor.pid})
            if run and run.is_forked and run.main:
                found.discard(self.supervisor.template_pid)  # it says how its fork ended
        else:
            # A guest killed the supervisor, so its orphans came to us, and which call they belong to is lost. Take them all,
            # except what other calls certainly own.
            others = {pid for pid, other in agent.mains.items() if other is not run} | set(agent.supervisors)
            orphans = set(look.children.get(MINE, ())) - others - {MINE}
            ended = {pid for pid in orphans if look.processes[pid][1] in (b'Z', b'X')}
            found = (orphans - ended) | look.below(orphans)
        return found - self.hopeless

    def strike(self, look):
        # type: (Look) -> bool
        """Kill what there is; True if there is more than was killed before, so that something forks faster than we kill."""
        now = time.monotonic()
        self.began_at = self.began_at or now
        living = self.find(look)
        grows = bool(self.killed) and not living <= self.killed
        for pid in living:
            waits = look.processes[pid][1] == b'D' and now - self.began_at > KILL_PATIENCE
            if waits or now - self.began_at > KILL_LIMIT:
                self.hopeless.add(pid)
                continue
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            except PermissionError:
                self.hopeless.add(pid)
        if len(self.killed) > 100000:
            self.killed.clear()
        self.killed |= living
        # A process may fork and end while the list is read and so hide its child from us: believe the second look.
        self.quiet_looks = 0 if living else self.quiet_looks + 1
        if self.quiet_looks == 2:
            self.quiet_since = now
        if self.is_quiet() and self.supervisor:
            self.supervisor.wake()
        return grows

    def is_quiet(self):
        # type: () -> bool
        return self.quiet_looks >= 2

    def is_done(self):
        # type: () -> bool
        """Is all dead and reaped? What is not reaped counts towards the process limit, and the next call would run into it."""
        if not self.is_quiet():
            return False
        return self.is_reaped() or bool(self.hopeless) or time.monotonic() - self.quiet_since > KILL_PATIENCE

    def is_reaped(self):
        # type: () -> bool
        return not self.supervisor or self.supervisor.run is not self.run


class EverythingKiller(Killer):
    """All that any call has started and left, but the families of the calls in ``kept`` (numbers)."""

    def __init__(self, agent, kept, on_done):
        # type: (Agent, Set[int], Callable[[], None]) -> None
        Killer.__init__(self, agent, None, on_done)
        self.kept = kept
        self.count = set()  # type: Set[int]

    def find(self, look):
        # type: (Look) -> Set[int]
        agent = self.agent
        kept = [run for run in agent.runs() if run.number in self.kept and not run.ended]
        roots = {run.supervisor.pid for run in kept if run.supervisor}
        mains = {run.main for run in kept if run.main in look.processes}
        found = look.below({MINE}) - set(agent.supervisors) - look.below(roots) - look.below(mains) - mains
        self.count |= found
        return found - self.hopeless

    def is_reaped(self):
        # type: () -> bool
        return not any(run.number not in self.kept for run in self.agent.runs())


class Read(HostCall):
    """A file: ``path``, ``offset``, ``length`` (null: to the end). END: ``size``, ``mode``; a small file's bytes come with it."""

    def __init__(self, agent, number, message, data):
        # type: (Agent, int, Dict[str, Any], bytes) -> None
        HostCall.__init__(self, agent, number, message, data)
        path = to_path(message)
        try:
            self.file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
        except OSError as error:
            raise refused(error, path)
        agent.note_fd(self.file)
        try:
            facts = os.fstat(self.file)
            check_regular(self.file, facts, path)
            if message.get('offset'):
                os.lseek(self.file, int(message['offset']), os.SEEK_SET)
            self.left = message.get('length')
            first = self.read()
            self.facts = {'size': facts.st_size, 'mode': stat.S_IMODE(facts.st_mode)}
            if len(first) < CHUNK:
                # Short of a whole piece: usually the end. Ask once more, since /proc files come in small pieces.
                more = self.read()
                if not more:
                    os.close(self.file)
                    return self.end(self.facts, first)
                first += more
        except OSError as error:
            os.close(self.file)
            raise refused(error, path)
        except Refusal:
            os.close(self.file)
            raise
        self.path = path
        self.send_data(DATA, first)
        agent.pumps.append(self)

    def read(self):
        # type: () -> bytes
        size = CHUNK if self.left is None else min(CHUNK, self.left)
        data = os.read(self.file, size) if size > 0 else b''
        if self.left is not None:
            self.left -= len(data)
        return data

    def pump(self):
        # type: () -> None
        try:
            data = self.read()
        except OSError as error:
            self.abort()
            return self.fail(refused(error, self.path))
        if data:
            return self.send_data(DATA, data)
        self.abort()
        return self.end(self.facts)

    def abort(self):
        # type: () -> None
        self.agent.pumps.remove(self)
        os.close(self.file)


class Write(HostCall):
    """A file from the call's input: ``path``, ``append``, ``exclusive``, ``parents``, ``mode``; ``eof``: all came with OPEN.

    A whole file is written beside its place and renamed into it, so that nobody meets half of it and a failed transfer
    leaves the old one. END: ``size`` of the file.
    """

    def __init__(self, agent, number, message, data):
        # type: (Agent, int, Dict[str, Any], bytes) -> None
        HostCall.__init__(self, agent, number, message, data)
        path = to_path(message)
        self.target = os.path.realpath(path)
        self.temporary = b''
        self.made = b''
        self.mode = message.get('mode')
        try:
            if path.endswith((b'/', b'/.', b'/..')):
                raise OSError(errno.EISDIR, '')
            parent = os.path.dirname(self.target)
            if message.get('parents'):
                os.makedirs(parent, 0o755, exist_ok=True)
            if os.stat(parent).st_dev == agent.proc_device:
                raise OSError(errno.EPERM, '')
            self.file = self.open_target(message)
            check_regular(self.file, os.fstat(self.file), path)
        except OSError as error:
            raise refused(error, path)
        agent.note_fd(self.file)
        if data:
            self.on_data(data)
        if message.get('eof'):
            self.on_eof()

    def open_target(self, message):
        # type: (Dict[str, Any]) -> int
        mode = 0o644 if self.mode is None else int(self.mode)
        if message.get('exclusive'):
            self.made = self.target
            return os.open(self.target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        try:
            before = os.stat(self.target)
        except FileNotFoundError:
            before = None
        if before and not stat.S_ISREG(before.st_mode):
            raise OSError(errno.EISDIR if stat.S_ISDIR(before.st_mode) else errno.EINVAL, '')
        if before:
            self.check_writable()
        if message.get('append'):
            # A guest may have put a pipe there since we looked, and nothing here may wait for a guest.
            return os.open(self.target, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK, mode)
        beside = os.path.join(os.path.dirname(self.target), b'.enclave-' + os.urandom(8).hex().encode())
        try:
            fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except PermissionError:
            if not before:
                raise
            # The directory may not be written, the file itself may.
            return os.open(self.target, os.O_WRONLY | os.O_TRUNC | os.O_NONBLOCK)
        self.temporary = beside
        if before:
            if self.mode is None:
                mode = stat.S_IMODE(before.st_mode)
            try:
                os.fchown(fd, before.st_uid, before.st_gid)
            except OSError:
                pass
        os.fchmod(fd, mode)
        return fd

    def check_writable(self):
        # type: () -> None
        """Raise OSError where the file itself may not be written, although another could be put in its place."""
        try:
            os.close(os.open(self.target, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY))
        except OSError as error:
            if error.errno != errno.ETXTBSY:  # a program that runs continues with the old one
                raise

    def on_data(self, data):
        # type: (bytes) -> None
        if self.ended:
            return
        try:
            write_all(self.file, data)
        except OSError as error:
            self.abort()
            return self.fail(refused(error, self.target))
        self.grant(len(data))

    def on_eof(self):
        # type: () -> None
        if self.ended:
            return
        try:
            size = os.fstat(self.file).st_size
            if self.mode is not None:
                os.fchmod(self.file, int(self.mode))
            if self.temporary:
                self.put_in_place()
            self.temporary = self.made = b''
        except OSError as error:
            self.abort()
            return self.fail(refused(error, self.target))
        os.close(self.file)
        self.file = -1
        return self.end({'size': size})

    def put_in_place(self):
        # type: () -> None
        try:
            os.rename(self.temporary, self.target)
        except OSError as error:
            if error.errno not in (errno.EBUSY, errno.EXDEV):
                raise
            # The target is a mount of its own (a bound file): only its contents can be replaced.
            with open(self.temporary, 'rb') as source, open(self.target, 'wb') as target:
                for data in iter(lambda: source.read(CHUNK), b''):
                    target.write(data)
            os.unlink(self.temporary)

    def abort(self):
        # type: () -> None
        if self.file >= 0:
            os.close(self.file)
            self.file = -1
        for path in (self.temporary, self.made):
            if path:
                try:
                    os.unlink(path)
                except OSError:
                    pass


class ListingCall(HostCall):
    """A directory: ``path``, ``recursive``, ``limit``. DATA frames hold entries, each a JSON object and a line end.

    END: ``count``, and ``more`` when the limit cut the listing short.
    """

    def __init__(self, agent, number, message, data):
        # type: (Agent, int, Dict[str, Any], bytes) -> None
        HostCall.__init__(self, agent, number, message, data)
        path = to_path(message)
        limit = message.get('limit')
        try:
            os.scandir(path).close()
        except OSError as error:
            raise refused(error, path)
        self.entries = self.walk(path, bool(message.get('recursive')))
        self.limit = float('inf') if limit is None else int(limit)
        self.count = 0
        agent.pumps.append(self)
        self.pump()

    def walk(self, top, recursive):
        # type: (bytes, bool) -> Generator[Dict[str, Any], None, None]
        """Yield what there is. Directories vanish while one looks, those of /proc above all; what is gone is left out."""
        todo = deque([b''])  # type: Deque[bytes]
        while todo:
            prefix = todo.popleft()
            try:
                with os.scandir(os.path.join(top, prefix)) as listing:
                    for entry in listing:
                        name = os.path.join(prefix, entry.name)
                        try:
                            facts = entry.stat(follow_symlinks=False)
                        except OSError:
                            continue
                        yield describe(name, facts, entry.path)
                        if recursive and stat.S_ISDIR(facts.st_mode):
                            todo.append(name)
            except OSError:
                continue

    def pump(self):
        # type: () -> None
        """Send a page: an entry may take 50 KB, so its size is bounded too."""
        page, size = [], 0  # type: List[bytes], int
        more = False
        for entry in self.entries:
            if self.count >= self.limit:
                more = True
                break
            self.count += 1
            page.append(write_json(entry).encode('ascii'))
            size += len(page[-1])
            if len(page) == 100 or size > CHUNK:
                return self.send_page(page)
        self.send_page(page)
        self.abort()
        return self.end({'count': self.count, 'more': more})

    def send_page(self, page):
        # type: (List[bytes]) -> None
        if page:
            data = b'\n'.join(page) + b'\n'
            self.credit -= len(data)
            self.send(DATA, data)

    def abort(self):
        # type: () -> None
        self.agent.pumps.remove(self)
        self.entries.close()


class Connect(HostCall):
    """A TCP connection to ``host``:``port``, or to the Unix socket ``path``, as seen from inside.

    EVENT ``connected`` first; then DATA both ways; EOF each way closes that half; END when both are closed.
    """

    def __init__(self, agent, number, message, data):
        # type: (Agent, int, Dict[str, Any], bytes) -> None
        HostCall.__init__(self, agent, number, message, data)
        import _socket

        if message.get('path'):
            family, address = _socket.AF_UNIX, to_path(message)  # type: Any, Any
        else:
            # Numeric addresses only: looking a name up would block the loop, and load what guests may have written.
            # 'localhost' is the caller's way of saying it.
            host = str(message.get('host') or '127.0.0.1')
            host = '127.0.0.1' if host == 'localhost' else host
            port = int(message.get('port', 0))
            try:  # as bytes, since text that is not ASCII would load an encoding
                found = _socket.getaddrinfo(
                    host.encode('ascii'), port, 0, _socket.SOCK_STREAM, 0, _socket.AI_NUMERICHOST
                )
            except (OSError, ValueError, OverflowError):
                raise Refusal('cannot connect to %.300r: it is no numeric address' % host, errno.EINVAL, 'host')
            family, address = found[0][0], found[0][4]
        self.connected = False
        self.incoming = deque()  # type: Deque[bytes]
        self.input_done = self.input_shut = self.output_done = False
        # What listens at 'localhost' may do so at either address of it, whichever came first when it looked that name up.
        is_local = family == _socket.AF_INET and address[0] == '127.0.0.1'
        self.other = (_socket.AF_INET6, ('::1', address[1])) if is_local else None  # type: Any
        self.named = shown(address) if isinstance(address, bytes) else address[:2]
        number = self.begin(family, address)
        if number and self.other:
            number = self.begin(*self.other) and number
        if number:
            raise Refusal('cannot connect to %r: %s' % (self.named, os.strerror(number)), number)
        if data:
            self.incoming.append(data)

    def begin(self, family, address):
        # type: (Any, Any) -> int
        """Begin to connect; return an errno where that failed at once."""
        import _socket

        try:
            self.socket = _socket.socket(family, _socket.SOCK_STREAM)
        except OSError as error:  # there is no IPv6
            return error.errno or errno.EINVAL
        self.fd = self.socket.fileno()
        self.agent.note_fd(self.fd)
        self.socket.setblocking(False)
        try:
            number = self.socket.connect_ex(address)
        except (OSError, ValueError, OverflowError) as error:
            self.socket.close()
            raise Refusal('cannot connect to %r: %s' % (self.named, error), getattr(error, 'errno', 0) or errno.EINVAL)
        if number not in (0, errno.EINPROGRESS):
            self.socket.close()
            return number
        self.agent.watch(self.fd, select.EPOLLOUT, self.on_ready)
        return 0

    def on_ready(self, mask):
        # type: (int) -> None
        if not self.connected:
            number = self.socket.getsockopt(1, 4)  # SOL_SOCKET, SO_ERROR
            if number:
                self.abort()
                other, self.other = self.other, None
                if number == errno.ECONNREFUSED and other and not self.begin(*other):
                    return None
                return self.fail(Refusal('cannot connect to %r: %s' % (self.named, os.strerror(number)), number))
            self.connected = True
            self.send(EVENT, pack_message({'connected': True}))
        if self.incoming:
            self.write()
        if mask & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR) and not self.output_done:
            self.read()
        return self.settle()

    def read(self):
        # type: () -> None
        try:
            data = os.read(self.fd, CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b''
            self.input_done = self.input_shut = True
        if data:
            self.send_data(DATA, data)
        else:
            self.output_done = True
            self.send(EOF, b'')

    def write(self):
        # type: () -> None
        while self.incoming:
            data = self.incoming.popleft()
            try:
                size = os.write(self.fd, data)
            except BlockingIOError:
                self.incoming.appendleft(data)
                return
            except OSError:
                self.grant(len(data) + sum(len(each) for each in self.incoming))
                self.incoming.clear()
                self.input_done = self.input_shut = True
                return
            self.grant(size)
            if size < len(data):
                self.incoming.appendleft(data[size:])

    def on_data(self, data):
        # type: (bytes) -> None
        if self.input_done:
            return self.grant(len(data))
        self.incoming.append(data)
        return self.want()

    def on_eof(self):
        # type: () -> None
        self.input_done = True
        self.settle()

    def on_credit(self):
        # type: () -> None
        self.want()

    def settle(self):
        # type: () -> None
        """Close what is finished, and end the call when both halves are."""
        if self.ended:
            return None
        if self.connected and self.input_done and not self.incoming and not self.input_shut:
            self.input_shut = True
            try:
                self.socket.shutdown(1)  # SHUT_WR
            except OSError:
                pass
        if self.output_done and self.input_shut:
            self.abort()
            return self.end({})
        return self.want()

    def want(self):
        # type: () -> None
        if self.ended:
            return
        mask = 0 if self.connected else select.EPOLLOUT
        if self.connected and self.credit > 0 and not self.output_done and not self.agent.is_clogged:
            mask |= select.EPOLLIN
        if self.incoming:
            mask |= select.EPOLLOUT
        self.agent.watch(self.fd, mask, self.on_ready)

    def abort(self):
        # type: () -> None
        self.agent.unwatch(self.fd)
        self.socket.close()


class Changes(HostCall):
    """What changes in a directory, by inotify(7): ``path``, ``recursive``. It ends when it is cancelled.

    EVENT ``watching`` once it does. DATA frames hold lines, each a JSON array: ``[]`` says that something has changed,
    ``["+", path]`` that a name below the directory came and ``["-", path]`` that one went. Without credit nothing is read, and
    what the kernel cannot keep then is said as ``[]``.
    """

    def __init__(self, agent, number, message, data):
        # type: (Agent, int, Dict[str, Any], bytes) -> None
        HostCall.__init__(self, agent, number, message, data)
        self.top = to_path(message)
        self.recursive = bool(message.get('recursive'))
        self.directories = {}  # type: Dict[int, bytes]
        if agent.inotify is None:
            raise Refusal('this Python cannot call inotify', errno.ENOSYS)
        if agent.changes >= MAX_CHANGES:
            raise Refusal('%d directories are watched by inotify already' % agent.changes, errno.EMFILE)
        self.fd = agent.inotify[0]()
        if self.fd < 0:
            raise Refusal('inotify cannot be used: %s' % os.strerror(-self.fd), -self.fd)
        agent.note_fd(self.fd)
        agent.changes += 1
        problem = self.add(b'')
        if problem:
            self.abort()
            raise Refusal('%s cannot be watched: %s' % (shown(self.top), os.strerror(problem)), problem)
        self.send(EVENT, pack_message({'watching': True}))
        self.want()

    def add(self, first):
        # type: (bytes) -> int
        """Watch a directory, and with ``recursive`` those below it; return an errno where that is not possible."""
        assert self.agent.inotify is not None
        todo = deque([first])
        while todo:
            prefix = todo.popleft()
            path = os.path.join(self.top, prefix)
            if len(self.directories) >= MAX_WATCHED:
                return errno.ENOSPC
            mask = IN_WATCHED | (IN_DONT_FOLLOW if prefix else 0)
            number = self.agent.inotify[1](self.fd, path, mask)
            if number < 0:
                if not prefix or -number == errno.ENOSPC:
                    return -number
                continue  # it went meanwhile, or may not be read
            self.directories[number] = prefix
            if self.recursive:
                try:
                    with os.scandir(path) as entries:
                        todo.extend(
                            os.path.join(prefix, each.name) for each in entries if each.is_dir(follow_symlinks=False)
                        )
                except OSError:
                    pass
        return 0

    def on_ready(self, mask):
        # type: (int) -> None
        try:
            data = os.read(self.fd, 2048)
        except OSError:
            data = b''
        lines, at = [b'[]'], 0
        while at + INOTIFY_EVENT.size <= len(data):
            number, what, _, size = INOTIFY_EVENT.unpack_from(data, at)
            at += INOTIFY_EVENT.size
            name = data[at : at + size].rstrip(b'\0')
            at += size
            if what & IN_IGNORED:
                self.directories.pop(number, None)
            if not name or number not in self.directories:
                continue
            path = os.path.join(self.directories[number], name)
            comes = what & (IN_CREATE | IN_MOVED_TO)
            if comes or what & (IN_DELETE | IN_MOVED_FROM):
                lines.append(write_json(['+' if comes else '-', to_text(path)]).encode('ascii'))
            if comes and what & IN_ISDIR and self.recursive:
                self.add(path)
        self.send_data(DATA, b'\n'.join(lines) + b'\n')
        self.want()

    def on_credit(self):
        # type: () -> None
        self.want()

    def want(self):
        # type: () -> None
        if not self.ended:
            open_tap = self.credit > 0 and not self.agent.is_clogged
            self.agent.watch(self.fd, select.EPOLLIN if open_tap else 0, self.on_ready)

    def abort(self):
        # type: () -> None
        self.agent.changes -= 1
        self.agent.forget(self.fd)


class Idle(HostCall):
    """Waits until nothing of the guest's runs any more. END has nothing to say."""

    def __init__(self, agent, number, message, data):
        # type: (Agent, int, Dict[str, Any], bytes) -> None
        HostCall.__init__(self, agent, number, message, data)
        self.check()

    def check(self):
        # type: () -> None
        if not self.ended and not self.agent.guests():
            self.agent.waiting_idle = None
            return self.end({})
        self.agent.waiting_idle = self
        return None

    def abort(self):
        # type: () -> None
        self.agent.waiting_idle = None


class Clean(HostCall):
    """Ends all that calls have started, but for the calls in ``keep`` (their numbers).

    END: ``ended`` (how many processes), ``left`` (how many could not be ended), ``starts`` (whether one can be started now), and
    ``held`` of ``memory`` bytes, both 0 where the sandbox does not see its control group, and ``damage`` (`Agent.find_damage`).
    """

    def __init__(self, agent, number, message, data):
        # type: (Agent, int, Dict[str, Any], bytes) -> None
        HostCall.__init__(self, agent, number, message, data)
        kept = {int(each) for each in message.get('keep') or ()}
        for call in list(agent.calls.values()):
            if isinstance(call, Run) and call.number not in kept:
                call.kill('cancelled')
        for supervisor in agent.supervisors.values():
            # A template has one thread: another is a guest's, by way of a module that the template has imported.
            if supervisor.template_pid and not supervisor.run and count_threads(supervisor.template_pid) > 1:
                send_signal(supervisor.template_pid, signal.SIGKILL)
        if not agent.has_leftovers() and not agent.calls_but(kept):
            self.report(0, 0, not kept or agent.can_start())
            return
        self.killer = EverythingKiller(agent, kept, self.on_killed)
        agent.killers.append(self.killer)

    def on_killed(self):
        # type: () -> None
        self.agent.has_orphans = False
        self.report(len(self.killer.count), len(self.killer.hopeless), self.agent.can_start())

    def report(self, ended, left, starts):
        # type: (int, int, bool) -> None
        held, memory = read_memory_held()
        damage = self.agent.find_damage()
        self.end({'ended': ended, 'left': left, 'starts': starts, 'held': held, 'memory': memory, 'damage': damage})

    def abort(self):
        # type: () -> None
        if self.killer in self.agent.killers:
            self.agent.killers.remove(self.killer)


def op_stat(agent, message):
    # type: (Agent, Dict[str, Any]) -> Dict[str, Any]
    path = to_path(message)
    facts = os.stat(path) if message.get('follow', True) else os.lstat(path)
    found = describe(os.path.realpath(path) if message.get('follow', True) else os.path.abspath(path), facts, path)
    found['on_root'] = facts.st_dev == agent.root_device
    found['writable'] = os.access(path, os.W_OK)
    return found


def op_mkdir(agent, message):
    # type: (Agent, Dict[str, Any]) -> Dict[str, Any]
    path = to_path(message)
    mode = int(message.get('mode', 0o755))
    if message.get('parents'):
        os.makedirs(os.path.dirname(os.path.abspath(path)), 0o755, exist_ok=True)
    try:
        os.mkdir(path, mode)
        os.chmod(path, mode)
    except FileExistsError:
        if not message.get('exist_ok') or not os.path.isdir(path):
            raise
    return {}


def op_remove(agent, message):
    # type: (Agent, Dict[str, Any]) -> Dict[str, Any]
    path = to_path(message)
    try:
        is_dir = stat.S_ISDIR(os.lstat(path).st_mode)
        os.rmdir(path) if is_dir else os.unlink(path)
    except FileNotFoundError:
        if not message.get('missing_ok'):
            raise
    return {}


def op_move(agent, message):
    # type: (Agent, Dict[str, Any]) -> Dict[str, Any]
    source, target = find_move(message)
    if source.endswith(b'/') and os.path.islink(source.rstrip(b'/')):
        raise refused(OSError(errno.ENOTDIR, ''), source)
    os.rename(source, target)
    return {}


def find_move(message):
    # type: (Dict[str, Any]) -> Tuple[bytes, bytes]
    """Return from where to where a move goes: into ``target`` if that is a directory."""
    source, target = to_path(message, 'source'), to_path(message, 'target')
    try:
        os.lstat(source)
    except OSError as error:
        raise refused(error, source)
    if os.path.isdir(target):
        target = os.path.join(target, os.path.basename(source.rstrip(b'/')))
    elif target.endswith(b'/') and os.path.lexists(target.rstrip(b'/')):
        raise OSError(errno.ENOTDIR, '', target)
    if not message.get('overwrite') and os.path.lexists(target):
        raise OSError(errno.EEXIST, '', target)
    return source, target


def op_chmod(agent, message):
    # type: (Agent, Dict[str, Any]) -> Dict[str, Any]
    os.chmod(to_path(message), int(message['mode']))
    return {}


def op_ping(agent, message):
    # type: (Agent, Dict[str, Any]) -> Dict[str, Any]
    busy = sum(1 for supervisor in agent.supervisors.values() if supervisor.run)
    answer = {'running': len(agent.mains), 'background': busy - len(agent.mains)}  # type: Dict[str, Any]
    if message.get('start'):
        answer['starts'] = agent.can_start()
        agent.is_awaited = True
    return answer


def op_terminate(agent, message):
    # type: (Agent, Dict[str, Any]) -> Dict[str, Any]
    """Send SIGTERM (or ``signal``) to everything the guest runs, supervisors apart; say how many processes that were."""
    targets = agent.guests()
    for pid in targets:
        send_signal(pid, int(message.get('signal', signal.SIGTERM)))
    return {'processes': len(targets)}


SIMPLE = {
    'stat': op_stat,
    'mkdir': op_mkdir,
    'remove': op_remove,
    'move': op_move,
    'chmod': op_chmod,
    'ping': op_ping,
    'terminate': op_terminate,
}
CALLS = {
    'run': Run,
    'read': Read,
    'write': Write,
    'list': ListingCall,
    'connect': Connect,
    'changes': Changes,
    'idle': Idle,
    'clean': Clean,
}


BUILTINS = {}  # type: Dict[str, Callable[[Dict[str, Any]], None]]


def builtin(function):
    # type: (Callable[[Dict[str, Any]], None]) -> Callable[[Dict[str, Any]], None]
    """Make a function a verb of this agent, done in a forked child: it gets the host's request, and raises what goes wrong."""
    BUILTINS[function.__name__] = function
    return function


@builtin
def copy_path(what):
    # type: (Dict[str, Any]) -> None
    """Copy ``source`` to ``target``, or into it if that is a directory; symlinks are copied as such.

    The copy is made beside its place under the name ``beside`` and then renamed into it, so that nobody meets half of one.
    """
    named = to_path(what, 'target')
    try:
        source, target = find_move(what)
    except FileExistsError as error:
        raise OSError(error.errno, '', named)
    target = target.rstrip(b'/') or b'/'
    folder = os.path.dirname(target) or b'.'
    is_tree = os.path.isdir(source) and not os.path.islink(source)
    beside = os.path.join(folder, to_bytes(what['beside']))
    number = 0
    if is_tree and not what.get('recursive'):
        raise OSError(errno.EISDIR, '', source)
    if is_tree and is_below(os.fsdecode(os.path.realpath(source)), os.fsdecode(folder)):
        number = errno.EINVAL
    elif os.path.isdir(target) and not os.path.islink(target):
        number = errno.EISDIR if not is_tree else errno.ENOTEMPTY if os.listdir(target) else 0
    elif is_tree and os.path.lexists(target):
        number = errno.ENOTDIR
    if number:
        raise OSError(number, '', named)
    try:
        copy_to(source, beside)
        os.rename(beside, target)
    except BaseException as error:
        if os.path.isdir(beside) and not os.path.islink(beside):
            remove_tree(beside)
        elif os.path.lexists(beside):
            os.unlink(beside)
        if isinstance(error, OSError) and _file_of(error).startswith(beside):
            raise OSError(error.errno, '', named)
        if isinstance(error, Refusal) and error.facts['errno'] == errno.EINVAL:
            raise Refusal('not a regular file: %r' % shown(source), errno.EINVAL)
        raise


@builtin
def move_path(what):
    # type: (Dict[str, Any]) -> None
    """Move ``source`` to another file system: nothing is removed before all of it is there; see `copy_path`."""
    source, target = to_path(what, 'source'), to_path(what, 'target')
    is_tree = os.path.isdir(source) and not os.path.islink(source)
    if target.endswith(b'/') and not is_tree and not os.path.isdir(target):
        raise OSError(errno.ENOTDIR, '', target)
    copy_path(dict(what, recursive=True))
    remove_path(source)


def remove_path(path):
    # type: (bytes) -> None
    """Remove a file, a symlink or a directory with all that is in it."""
    if os.path.islink(path) or not os.path.isdir(path):
        os.unlink(path)
    else:
        import shutil

        shutil.rmtree(path)


def copy_to(source, target):
    # type: (bytes, bytes) -> None
    """Copy what is at a path to one where nothing is, with its permission bits and times."""
    facts = os.lstat(source)
    if stat.S_ISLNK(facts.st_mode):
        os.symlink(os.readlink(source), target)
        return
    if stat.S_ISDIR(facts.st_mode):
        os.mkdir(target, 0o700)
        for name in os.listdir(source):
            copy_to(os.path.join(source, name), os.path.join(target, name))
    else:
        # Not blocked by a pipe that nobody writes to, which is refused.
        fd = os.open(source, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_NOFOLLOW)
        with open(fd, 'rb') as old:
            check_regular(fd, os.fstat(fd), source)
            with open(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), 'wb') as new:
                for data in iter(lambda: old.read(CHUNK), b''):
                    new.write(data)
    os.chmod(target, stat.S_IMODE(facts.st_mode) & 0o1777)
    os.utime(target, ns=(facts.st_atime_ns, facts.st_mtime_ns))


def run_builtin(what):
    # type: (Dict[str, Any]) -> int
    """Do long file work in this forked child: ``tar`` (to stdout), ``untar`` (from stdin), ``rmtree``, and what is in
    `BUILTINS`.

    Failure is exit code 1 and on stderr one JSON object: ``{"errno", "message"}``.
    """
    path = b''
    try:
        if what['name'] in BUILTINS:
            BUILTINS[what['name']](what)
            return 0
        path = to_path(what)
        if what['name'] == 'rmtree':
            remove_path(path)
        elif what['name'] == 'untar':
            unpack_tar(path)
        else:
            pack_tar(path, to_bytes(what.get('arcname', '.')))
    except (OSError, Refusal) as error:
        facts = error.facts if isinstance(error, Refusal) else refused(error, _file_of(error) or path).facts
        write_all(2, write_json(facts).encode('ascii'))
        return 1
    except Exception as error:
        facts = {'errno': errno.EINVAL, 'message': '%s: %s' % (type(error).__name__, error)}
        write_all(2, write_json(facts).encode('ascii'))
        return 1
    return 0


def _file_of(error):
    # type: (OSError) -> bytes
    name = error.filename
    return name if isinstance(name, bytes) else to_bytes(name) if isinstance(name, str) else b''


def pack_tar(path, arcname):
    # type: (bytes, bytes) -> None
    import tarfile

    os.lstat(path)
    with os.fdopen(1, 'wb', CHUNK) as stream:
        with tarfile.open(fileobj=stream, mode='w|', format=tarfile.PAX_FORMAT, encoding='utf-8', bufsize=CHUNK) as tar:
            tar.add(os.fsdecode(path), os.fsdecode(arcname))


def unpack_tar(path):
    # type: (bytes) -> None
    """Extract members below ``path``, keeping modes and empty directories and merging with what is there."""
    import tarfile

    class Strict(tarfile.TarFile):
        errorlevel = 2
        extraction_filter = staticmethod(lambda member, path: member)  # what we let in is decided below

    os.makedirs(path, 0o755, exist_ok=True)
    root = os.path.realpath(os.fsdecode(path))
    as_root = os.getuid() == 0
    with os.fdopen(0, 'rb', CHUNK) as stream:
        with Strict.open(fileobj=stream, mode='r|*', encoding='utf-8', bufsize=CHUNK) as tar:
            late = []
            for member in tar:
                # Python 3.6 in a C locale knows file names as ASCII with escapes; archives say them in UTF-8.
                member.name = os.fsdecode(member.name.encode('utf-8', 'surrogateescape'))
                member.linkname = os.fsdecode(member.linkname.encode('utf-8', 'surrogateescape'))
                member.name = name = os.path.normpath(member.name)
                whole = os.path.join(root, name)
                if name.startswith(('/', '../')) or name == '..' or not is_below(root, os.path.dirname(whole)):
                    raise Refusal('the archive has a member outside the target: %r' % member.name, errno.EINVAL)
                if member.ischr() or member.isblk() or member.isfifo():
                    raise Refusal('the archive has a device or pipe: %r' % member.name, errno.EINVAL)
                if not as_root:
                    member.uid, member.gid, member.uname, member.gname = os.getuid(), os.getgid(), '', ''
                else:
                    member.uname = member.gname = ''
                if member.isdir():
                    late.append((whole, member.mode))
                    if not os.path.isdir(whole):
                        os.makedirs(whole, 0o755)
                    if as_root and name != '.':
                        os.chown(whole, member.uid, member.gid, follow_symlinks=False)
                    continue
                if os.path.lexists(whole) and (os.path.islink(whole) or not os.path.isdir(whole)):
                    os.unlink(whole)
                if member.islnk():
                    source = os.path.realpath(os.path.join(root, member.linkname))
                    if not source.startswith(root.rstrip('/') + '/'):
                        raise Refusal('the archive has a link outside the target: %r' % member.name, errno.EINVAL)
                tar.extract(member, root, numeric_owner=True)
            for whole, mode in reversed(late):
                if whole.rstrip('/.') != root.rstrip('/') and not os.path.islink(whole):
                    os.chmod(whole, stat.S_IMODE(mode))


def is_below(root, path):
    # type: (str, str) -> bool
    """Return whether a directory, or as much of its path as there is, lies in ``root``. The kernel is asked, since
    `os.path.realpath` can be led astray with paths that grow too long."""
    while True:
        try:
            fd = os.open(path, os.O_PATH | os.O_DIRECTORY)
            break
        except FileNotFoundError:
            path = os.path.dirname(path)
    try:
        found = os.readlink('/proc/self/fd/%d' % fd)
    finally:
        os.close(fd)
    return (found + '/').startswith(root.rstrip('/') + '/')


# Small help -----------------------------------------------------------------------------------------------------------


def write_all(fd, data):
    # type: (int, bytes) -> None
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def reserve(fd, size):
    # type: (int, int) -> None
    """Make sure that ``size`` bytes can be written to a new file; OSError if not."""
    try:
        if size and hasattr(os, 'posix_fallocate'):
            os.posix_fallocate(fd, 0, size)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
            raise


def send_signal(pid, number):
    # type: (int, Any) -> None
    try:
        os.kill(pid, int(number))
    except OSError:
        pass


def set_window_size(fd, size):
    # type: (int, Any) -> None
    import fcntl
    import termios

    rows, columns = (min(max(int(each), 0), 65535) for each in size)
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack('HHHH', rows, columns, 0, 0))


def count_readable(fd):
    # type: (int) -> int
    import fcntl
    import termios

    try:
        return int(struct.unpack('i', fcntl.ioctl(fd, termios.FIONREAD, b'\0' * 4))[0])
    except OSError:
        return 0


def check_regular(fd, facts, path):
    # type: (int, os.stat_result, bytes) -> None
    if stat.S_ISDIR(facts.st_mode):
        raise OSError(errno.EISDIR, '')
    if not stat.S_ISREG(facts.st_mode):
        raise Refusal('not a regular file: %r' % shown(path), errno.EINVAL)
    if os.readlink('/proc/self/fd/%d' % fd).startswith('/proc/%d/' % MINE):
        raise Refusal("the agent's own files may not be read: %r" % shown(path), errno.EACCES)


def describe(name, facts, path):
    # type: (bytes, os.stat_result, bytes) -> Dict[str, Any]
    mode = facts.st_mode
    found = {
        'path': to_text(name),
        'kind': 'other',
        'size': facts.st_size,
        'mode': stat.S_IMODE(mode),
        'mtime': facts.st_mtime,
        'uid': facts.st_uid,
        'gid': facts.st_gid,
    }  # type: Dict[str, Any]
    if stat.S_ISREG(mode):
        found['kind'] = 'file'
    elif stat.S_ISDIR(mode):
        found['kind'] = 'directory'
    elif stat.S_ISLNK(mode):
        found['kind'] = 'symlink'
        try:
            found['target'] = to_text(os.readlink(path))
        except OSError:
            pass
    return found


def remove_tree(path):
    # type: (bytes) -> None
    """Remove a small private directory, without following links and without complaint."""
    try:
        with os.scandir(path) as listing:
            for entry in list(listing):
                if entry.is_dir(follow_symlinks=False):
                    remove_tree(entry.path)
                else:
                    os.unlink(entry.path)
        os.rmdir(path)
    except OSError:
        pass


class Agent(object):
    """The loop: reads frames, turns calls, sends frames."""

    def __init__(self, source, drain):
        # type: (int, int) -> None
        self.source = source
        self.drain = drain
        self.decoder = FrameDecoder()
        self.outgoing = deque()  # type: Deque[bytes]
        self.outgoing_size = 0
        self.is_clogged = False
        self.poll = select.epoll()
        self.handlers = {}  # type: Dict[int, Callable[[int], None]]
        self.masks = {}  # type: Dict[int, int]
        self.ready_fd = -1
        self.highest_fd = 16
        self.calls = {}  # type: Dict[int, HostCall]
        self.supervisors = {}  # type: Dict[int, Supervisor]
        self.free_supervisors = []  # type: List[Supervisor]
        self.bounds = ()  # type: Tuple[Any, ...]
        self.mains = {}  # type: Dict[int, Run]
        self.ended_mains = set()  # type: Set[int]  # which their supervisors may not have reaped
        self.draining = set()  # type: Set[Run]
        self.killers = []  # type: List[Killer]
        self.has_frozen = False
        self.has_orphans = False  # a guest killed a supervisor, so there may be processes that no call is known for
        self.next_look_at = 0.0
        self.own_cpus = set()  # type: Set[int]
        self.pumps = []  # type: List[Any]
        self.deadlines = []  # type: List[Tuple[float, int]]
        self.scripts = 0
        self.scratch = None  # type: Optional[bytes]
        self.waiting_idle = None  # type: Optional[Idle]
        self.oom_file = -1
        self.oom_score = b'0'
        self.oom_events = open_oom_events()
        self.start_dir = os.open('.', os.O_RDONLY | os.O_DIRECTORY)
        self.start_path, self.shell, self.can_write = b'', '', False
        library = load_library()
        self.prctl = load_prctl(library)
        self.memory = Memory(library)
        self.has_news = True
        self.is_awaited = False  # a call is about to come
        self.rests_at = 0.0  # when to rest; 0 where it does so already
        self.inotify = load_inotify(library)
        self.changes = 0  # how many calls watch a directory
        self.root_device = os.stat('/').st_dev
        try:
            self.proc_device = os.stat('/proc').st_dev
        except OSError:
            self.proc_device = -1

    # Descriptors ----------------------------------------------------------------------------------------------------

    def note_fd(self, *fds):
        # type: (int) -> None
        """Remember how high descriptors go, since a supervisor closes them all by number."""
        self.highest_fd = max(self.highest_fd, *fds)

    def pipe(self, opened=None):
        # type: (Optional[List[int]]) -> Tuple[int, int]
        ends = os.pipe()
        self.note_fd(*ends)
        if opened is not None:
            opened += ends
        return ends

    def watch(self, fd, mask, handler):
        # type: (int, int, Callable[[int], None]) -> None
        """Have ``handler(mask)`` called when ``fd`` is ready; a mask of 0 keeps the handler and asks for nothing."""
        self.handlers[fd] = handler
        before = self.masks.get(fd)
        if before == mask:
            return
        if mask == 0:
            # Not registered at all: epoll would continue reporting a hang-up, which no mask can silence.
            if before is not None:
                self.poll.unregister(fd)
                del self.masks[fd]
        elif before is None:
            self.poll.register(fd, mask)
            self.masks[fd] = mask
        else:
            self.poll.modify(fd, mask)
            self.masks[fd] = mask

    def unwatch(self, fd):
        # type: (int) -> None
        self.handlers.pop(fd, None)
        if self.masks.pop(fd, None) is not None:
            self.poll.unregister(fd)

    def forget(self, fd):
        # type: (int) -> None
        self.unwatch(fd)
        os.close(fd)

    # Frames ---------------------------------------------------------------------------------------------------------

    def send(self, kind, call, payload):
        # type: (int, int, bytes) -> None
        if kind == END and len(payload) > MAX_REPLY:
            facts = {'message': 'the answer has %d bytes' % len(payload), 'errno': errno.E2BIG, 'field': ''}
            payload = pack_message({'error': facts})
        frame = encode_frame(kind, call, payload)
        self.outgoing.append(frame)
        self.outgoing_size += len(frame)
        if self.outgoing_size > OUT_HIGH and not self.is_clogged:
            self.set_clogged(True)

    def set_clogged(self, clogged):
        # type: (bool) -> None
        self.is_clogged = clogged
        for call in list(self.calls.values()) + list(self.draining):
            call.want()

    def flush(self, mask=0):
        # type: (int) -> None
        while self.outgoing:
            try:
                size = os.writev(self.drain, [self.outgoing[i] for i in range(min(16, len(self.outgoing)))])
            except BlockingIOError:
                break
            except OSError:
                self.leave()
            self.outgoing_size -= size
            while size:
                first = self.outgoing.popleft()
                if size < len(first):
                    self.outgoing.appendleft(first[size:])
                    break
                size -= len(first)
        self.watch(self.drain, select.EPOLLOUT if self.outgoing else 0, self.flush)
        if self.is_clogged and self.outgoing_size < OUT_HIGH // 2:
            self.set_clogged(False)

    def on_input(self, mask):
        # type: (int) -> None
        try:
            data = os.read(self.source, INPUT_WINDOW)
        except BlockingIOError:
            return
        except OSError:
            data = b''
        if not data:
            self.leave()
        for kind, number, payload in self.decoder.feed(data):
            self.dispatch(kind, number, payload)

    def dispatch(self, kind, number, payload):
        # type: (int, int, bytes) -> None
        if kind == OPEN:
            message, data = unpack_message(payload)
            return self.open_call(number, message, data)
        call = self.calls.get(number)
        if call is None:
            return None  # it ended while the frame was on its way
        if kind == DATA:
            try:
                call.on_data(payload)
            except Refusal as error:
                call.fail(error)
        elif kind == EOF:
            call.on_eof()
        elif kind == CREDIT:
            call.credit += U32.unpack(payload)[0]
            call.on_credit()
        elif kind == CONTROL:
            call.on_control(unpack_message(payload)[0])
        else:
            raise ProtocolError('a frame of kind %d goes the other way' % kind)
        return None

    def open_call(self, number, message, data):
        # type: (int, Dict[str, Any], bytes) -> None
        if number in self.calls:
            raise ProtocolError('call %d is open already' % number)
        op = message.get('op')
        answer = None  # type: Optional[Dict[str, Any]]
        try:
            if op in SIMPLE:
                try:
                    answer = SIMPLE[op](self, message)
                except OSError as error:
                    raise refused(error, to_bytes(message.get('path') or message.get('target') or ''))
            elif op in CALLS:
                call = CALLS[op](self, number, message, data)
                self.has_news = True
                if not call.ended:
                    self.calls[number] = call
            else:
                raise Refusal('this agent knows no operation %r' % (op,), errno.ENOSYS, 'op')
        except Refusal as error:
            answer = {'error': error.facts}
        except OSError as error:
            answer = {'error': refused(error).facts}
        except Exception as error:  # whatever one call meets, the others continue
            answer = {'error': {'message': 'malformed request: %r' % error, 'errno': errno.EINVAL, 'field': ''}}
        if answer is not None:
            self.send(END, number, pack_message(answer))

    # Time and children ----------------------------------------------------------------------------------------------

    def set_deadline(self, number, seconds):
        # type: (int, float) -> None
        """Have the call's ``on_deadline`` called when it is still there after ``seconds``."""
        if len(self.deadlines) > 64 + 4 * len(self.calls):
            # Most calls end long before their limit; what they leave here would add up.
            self.deadlines = [entry for entry in self.deadlines if entry[1] in self.calls]
            heapify(self.deadlines)
        heappush(self.deadlines, (time.monotonic() + seconds, number))

    def reap(self):
        # type: () -> None
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self.ended_mains.discard(pid)
            if pid in self.supervisors:
                supervisor = self.supervisors.pop(pid)
                if supervisor in self.free_supervisors:
                    self.free_supervisors.remove(supervisor)
                supervisor.on_gone()
            elif pid in self.mains:
                self.mains[pid].on_exit(status)

    def take_supervisor(self, run, stdio):
        # type: (Run, Tuple[int, int, int]) -> Optional[Supervisor]
        """Give a call to a free supervisor, or to a new one; None if it is too large for any."""
        preload = run.preload()
        # The last one is taken first: the one with the right template, else the one that was used last.
        self.free_supervisors.sort(key=lambda each: (each.template_for == preload, not each.template_for))
        while self.free_supervisors:
            supervisor = self.free_supervisors.pop()
            if not supervisor.is_untouched():
                supervisor.close()  # a guest has changed them, and the next one would inherit that
                continue
            try:
                if supervisor.assign(run, stdio):
                    return supervisor
                self.free_supervisors.append(supervisor)
                return None
            except OSError:
                supervisor.run = None  # a guest has killed it, and it is not reaped yet
        supervisor = Supervisor(self)
        try:
            if supervisor.assign(run, stdio):
                return supervisor
        except OSError:
            supervisor.run = None
            supervisor.close()
            raise
        self.free_supervisors.append(supervisor)
        return None

    def on_supervisor_done(self, supervisor):
        # type: (Supervisor) -> None
        if self.waiting_idle:
            self.waiting_idle.check()
        if not supervisor.serves_again or len(self.free_supervisors) >= FREE_KEEPERS:
            supervisor.close()  # which it takes as the sign to leave
        else:
            self.has_news = True
            self.free_supervisors.append(supervisor)

    def note_ended(self, main):
        # type: (int) -> None
        """Remember a main process that has ended and is not reaped: if its supervisor is killed now, it becomes ours."""
        if len(self.ended_mains) > 1000:
            self.ended_mains.clear()
        self.ended_mains.add(main)

    def make_ready(self):
        # type: () -> None
        """See that there is a supervisor for the next call."""
        self.has_news = True
        if hasattr(os, 'posix_spawn') and not self.free_supervisors:
            try:
                self.free_supervisors.append(Supervisor(self))
            except OSError:
                pass  # the call will say so

    def rest(self):
        # type: () -> None
        """Let go of what only saves time: free supervisors (each takes half as much memory as the agent; forking the next one
        takes 2 ms), but for those with a template, and memory that was used and is not now."""
        leaving = [each for each in self.free_supervisors if not each.template_for]
        for supervisor in leaving:
            self.free_supervisors.remove(supervisor)
            supervisor.close()
        if leaving:
            self.rests_at = time.monotonic() + LEAVE_SECONDS  # when they are reaped
        else:
            self.rests_at = 0.0
            self.memory.give_back()

    # What ended calls have left ----------------------------------------------------------------------------------------

    def runs(self):
        # type: () -> List[Run]
        """Return the commands that processes may be left of, ended ones too."""
        found = [supervisor.run for supervisor in self.supervisors.values() if supervisor.run]
        return found + [run for run in self.mains.values() if run not in found]

    def calls_but(self, kept):
        # type: (Set[int]) -> bool
        return any(run.number not in kept for run in self.runs())

    def has_leftovers(self):
        # type: () -> bool
        return self.has_orphans or any(run.ended for run in self.runs())

    def clear_room(self, run):
        # type: (Run) -> bool
        """See that what ended calls have left does not hinder a call that is to begin: it gets the lowest priority, and where it
        leaves hardly any room for processes its largest family is ended. True when the call will be started after that.
        """
        if not self.has_leftovers():
            return False
        if time.monotonic() < self.next_look_at:
            return False
        began = time.process_time()
        look = Look()
        families = self.families(look)
        groups = {look.processes[pid][2] for _, family in families for pid in family}
        for group in groups - {0, 1, os.getpgrp()}:
            try:
                if os.getpriority(os.PRIO_PGRP, group) < LEFT_BEHIND_NICE:
                    os.setpriority(os.PRIO_PGRP, group, LEFT_BEHIND_NICE)
            except OSError:
                pass  # it has gone, or is another user's
        # Looking is a tenth of the time at most, however much there is to be seen.
        self.next_look_at = time.monotonic() + 10 * (time.process_time() - began)
        room = PIDS_LIMIT - sum(facts[3] for facts in look.processes.values())
        if PIDS_LIMIT and room < min(32, max(4, PIDS_LIMIT // 8)):
            return self.end_largest(run, families)
        return False

    def families(self, look):
        # type: (Look) -> List[Tuple[Optional[Run], Set[int]]]
        """Return what ended calls have left, the largest family first."""
        families = [
            (run, look.below({run.supervisor.pid}) - {run.supervisor.template_pid})
            for run in self.runs()
            if run.ended and run.supervisor
        ]  # type: List[Tuple[Optional[Run], Set[int]]]
        if self.has_orphans:
            orphans = Killer(self, None, lambda: None).find(look)
            self.has_orphans = bool(orphans)
            families.append((None, orphans))
        return sorted((each for each in families if each[1]), key=lambda each: -len(each[1]))

    def end_largest(self, run, families=None):
        # type: (Run, Optional[List[Tuple[Optional[Run], Set[int]]]]) -> bool
        """End the largest family that an ended call has left, then start a call; False if there is none."""
        families = families or self.families(Look())
        if not families:
            return False
        left, family = families[0]
        run.cleared += len(family)
        self.next_look_at = 0.0
        self.killers.append(Killer(self, left, run.start_again))
        return True

    def can_start(self):
        # type: () -> bool
        """Return whether a process can be started, by starting one."""
        try:
            pid = os.fork()
        except OSError:
            return False
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)
        return True

    def find_damage(self):
        # type: () -> str
        """Return what guests have taken away that each call needs: 'directory', 'shell', or '' for nothing."""
        try:
            now, then = os.stat(self.start_path), os.fstat(self.start_dir)
            is_same = (now.st_dev, now.st_ino) == (then.st_dev, then.st_ino)
            if not is_same or not os.access(self.start_path, os.W_OK | os.X_OK if self.can_write else os.X_OK):
                return 'directory'
        except OSError:
            return 'directory'
        return 'shell' if self.shell and not os.access(self.shell, os.X_OK) else ''

    def cannot_start(self, number):
        # type: (int) -> Refusal
        hint = ''
        if number == errno.EAGAIN:
            running = sum(facts[3] for facts in read_processes().values())
            hint = ' (its process limit is reached: %d processes and threads run in it)' % running
        return Refusal('the sandbox could not start a process: %s%s' % (os.strerror(number), hint), number, 'processes')

    # Processors ---------------------------------------------------------------------------------------------------------

    def place_on_cpus(self, pid, run):
        # type: (int, Run) -> None
        """Have a call's processes run on the processors that were chosen for it, so that they see as many as they may use."""
        cpus = set(run.cpus) & self.own_cpus or self.own_cpus
        try:
            if cpus:
                os.sched_setaffinity(pid, cpus)
        except OSError:
            pass  # which processors there are has changed

    def count_oom_kills(self):
        # type: () -> int
        try:
            for line in os.pread(self.oom_events, 4096, 0).splitlines():
                if line.startswith(b'oom_kill '):
                    return int(line.split()[1])
        except (OSError, ValueError):
            pass  # there is no such file, or the kernel counts nothing
        return 0

    def set_guest_oom_score(self):
        # type: () -> None
        """Let what is forked next be the OOM killer's first choice. The score is inherited, and only this file, opened
        before we became non-dumpable, is always ours to write (proc(5), oom_score_adj)."""
        if self.oom_file >= 0:
            os.pwrite(self.oom_file, b'800', 0)

    def set_own_oom_score(self):
        # type: () -> None
        if self.oom_file >= 0:
            os.pwrite(self.oom_file, self.oom_score, 0)

    def guests(self):
        # type: () -> Set[int]
        templates = {each.template_pid for each in self.supervisors.values() if not each.run}
        return Look().below({MINE}) - set(self.supervisors) - templates

    def make_private_file(self, name, size, user, is_roomy=False):
        # type: (bytes, int, Any, bool) -> Tuple[bytes, int]
        """Make a directory that only the call's user can read and in it an open file with room for ``size`` bytes, in the
        first place that has it; return both."""
        # Memory first: on an overlay file system the same four calls took 1 ms longer (measured).
        places = [b'/dev/shm', b'/tmp', b'/var/tmp']
        try:
            places.append(os.getcwdb())
        except OSError:
            pass  # a guest has removed it
        if is_roomy:  # the program will write there itself
            places.append(places.pop(0))
        else:
            places.sort(key=lambda place: place != self.scratch)
        problem = OSError(errno.ENOENT, '')
        for place in places:
            self.scripts += 1
            folder = os.path.join(place, b'enclave-%d-%d-%s' % (MINE, self.scripts, os.urandom(3).hex().encode()))
            file = -1
            try:
                os.mkdir(folder, 0o700)
                file = os.open(os.path.join(folder, name), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                reserve(file, size)
                if user and os.getuid() == 0:
                    os.fchown(file, user[0], user[1])
                    os.chown(folder, user[0], user[1])
            except OSError as error:
                problem = error
                if file >= 0:
                    os.close(file)
                remove_tree(folder)
                continue
            self.note_fd(file)
            if not is_roomy:
                self.scratch = place
            return folder, file
        raise Refusal('no place to write the program text to: %s' % os.strerror(problem.errno or 0), problem.errno or 0)

    # Life -----------------------------------------------------------------------------------------------------------

    def start(self):
        # type: () -> None
        try:
            self.oom_file = os.open('/proc/self/oom_score_adj', os.O_RDWR)
            self.oom_score = os.read(self.oom_file, 16).strip()
            self.set_guest_oom_score()
            self.set_own_oom_score()
        except OSError:
            self.oom_file = -1
        if hasattr(os, 'sched_getaffinity'):
            self.own_cpus = os.sched_getaffinity(0)
        if 0 < CPU_COUNT < len(self.own_cpus):
            for name in CPU_VARIABLES:
                PROCESS_ENV.setdefault(name, b'%d' % CPU_COUNT)
        guarded = self.prctl(PR_SET_DUMPABLE, 0) == 0
        reaps = MINE == 1 or self.prctl(PR_SET_CHILD_SUBREAPER, 1) == 0
        if os.getuid() == 0:
            try:
                os.setresuid(0, 0, NOBODYS_UID)
            except OSError:
                pass  # no CAP_SETUID, or a user namespace that does not know the number
        os.umask(0o022)
        wake, waker = os.pipe()
        os.set_blocking(wake, False)
        os.set_blocking(waker, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in IGNORED:
            signal.signal(number, signal.SIG_IGN)
        signal.set_wakeup_fd(waker)
        self.note_fd(self.source, self.drain, wake, waker, self.poll.fileno(), self.start_dir)
        self.note_fd(self.oom_file, self.oom_events)
        self.watch(wake, select.EPOLLIN, lambda mask: self.on_child(wake))
        self.watch(self.source, select.EPOLLIN, self.on_input)
        shells = [name for name in ('/bin/sh', '/usr/bin/sh', '/bin/bash') if os.access(name, os.X_OK)]
        self.start_path = os.getcwdb()
        self.shell = shells[0] if shells else ''
        self.can_write = os.access('.', os.W_OK | os.X_OK)
        hello = {
            'protocol': PROTOCOL,
            'pid': MINE,
            'uid': os.getuid(),
            'gid': os.getgid(),
            'python': '%d.%d.%d' % sys.version_info[:3],
            'guarded': guarded and reaps,
            'shell': self.shell,
            'cwd': to_text(self.start_path),
            'cwd_writable': self.can_write,
            'cpus': sorted(self.own_cpus),
        }
        self.send(HELLO, 0, pack_message(hello))
        self.flush()
        self.bounds = read_bounds(MINE)  # while the host reads that; there is no guest yet

    def on_child(self, wake):
        # type: (int) -> None
        try:
            os.read(wake, 4096)
        except BlockingIOError:
            pass
        self.reap()

    def turn(self):
        # type: () -> None
        wait = None  # type: Optional[float]
        can_pump = not self.is_clogged and any(pump.credit > 0 for pump in self.pumps)
        if can_pump:
            wait = 0.0
        elif self.killers:
            wait = 0.002
        if self.deadlines:
            left = max(0.0, self.deadlines[0][0] - time.monotonic())
            wait = left if wait is None else min(wait, left)
        if self.has_news:
            wait = REST_SECONDS if wait is None else min(wait, REST_SECONDS)
        elif self.rests_at:
            left = max(0.0, self.rests_at - time.monotonic())
            wait = left if wait is None else min(wait, left)
        # Whole milliseconds, rounded up: rounding down would spin through the last one.
        ready = self.poll.poll(-1 if wait is None else int(wait * 1000 + 0.999) / 1000.0)
        for fd, mask, handler in [(fd, mask, self.handlers.get(fd)) for fd, mask in ready]:
            # A handler before may have closed this descriptor, and another opened one of the same number.
            if handler is not None and self.handlers.get(fd) == handler:
                self.ready_fd = fd
                handler(mask)
        now = time.monotonic()
        if self.has_news:
            self.has_news, self.rests_at = False, now + REST_SECONDS
        elif self.rests_at and now >= self.rests_at:
            self.rest()
        while self.deadlines and self.deadlines[0][0] <= now:
            call = self.calls.get(heappop(self.deadlines)[1])
            if call is not None:
                call.on_deadline()
        if self.killers:
            self.kill()
        if can_pump:
            for pump in list(self.pumps):
                if pump.credit > 0 and not self.is_clogged:
                    pump.pump()
        if self.outgoing:
            self.flush()
        if self.is_awaited:
            self.is_awaited = False
            self.make_ready()

    def kill(self):
        # type: () -> None
        """Kill more, for a moment, of all that is to be killed; one look at what runs serves every call that ends."""
        until = time.monotonic() + KILL_SLICE
        while self.killers:
            look = Look(self.freeze if MINE == 1 and not self.has_frozen else None)
            growing = [killer for killer in self.killers if killer.strike(look)]
            self.reap()
            for killer in [killer for killer in self.killers if killer.is_done()]:
                self.killers.remove(killer)
                killer.on_done()
            if self.has_frozen:
                self.thaw()
            elif growing and MINE == 1:
                self.freeze()
            elif growing:
                for pid in set().union(*[killer.find(look) for killer in growing]):
                    send_signal(pid, signal.SIGSTOP)
            if self.has_frozen:
                continue
            if time.monotonic() > until or all(killer.is_quiet() for killer in self.killers):
                break

    def freeze(self):
        # type: () -> None
        """Stop all there is, other calls for these milliseconds too (kill(2), pid -1, which only process 1 uses here): what forks
        faster than we kill cannot fork any more, and leaves us the processor that we need for finding it."""
        self.has_frozen = True
        send_signal(-1, signal.SIGSTOP)

    def thaw(self):
        # type: () -> None
        """Let what was not killed continue. All of it is reported: some may not have come to stop yet (signal(7): SIGCONT rolls
        back a SIGSTOP that is still to be heeded)."""
        self.has_frozen = False
        send_signal(-1, signal.SIGCONT)

    def leave(self):
        # type: () -> NoReturn
        """The host is gone. As process 1 our end is everybody's; elsewhere, take the guests along."""
        if MINE != 1:
            for _ in range(100):
                guests = self.guests() | set(self.supervisors)
                if not guests:
                    break
                for pid in guests:
                    send_signal(pid, signal.SIGKILL)
                self.reap()
        os._exit(0)


def main():
    # type: () -> NoReturn
    """Serve calls on standard input and output until the host closes them."""
    source, drain = os.dup(0), os.dup(1)
    null = os.open('/dev/null', os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.close(null)
    os.set_blocking(source, False)
    os.set_blocking(drain, False)
    agent = Agent(source, drain)
    try:
        agent.start()

        # Everything that this process will ever import; see the module's docstring. No guest runs before the first call is read.
        import _socket, fcntl, gc, resource, termios  # noqa: E401

        # What the start has left and nothing here uses, 45 KB: texts are written by `os.write`, builtin encodings are found
        # without their other names, and lists of modules are made anew where one is imported.
        for name in ('stdin', 'stdout', 'stderr', '__stdin__', '__stdout__', '__stderr__'):
            setattr(sys, name, None)
        sys.path_importer_cache.clear()
        aliases = sys.modules.get('encodings.aliases')
        if aliases:
            aliases.aliases.clear()
        # What there is now stays; leaving it out of collections keeps it out of the copies that forking makes.
        if hasattr(gc, 'freeze'):
            gc.freeze()
        if hasattr(os, 'posix_spawn'):
            agent.free_supervisors.append(Supervisor(agent))
        while True:
            agent.turn()
    except ProtocolError as error:
        os.write(2, ('enclave-agent: %s\n' % error).encode('utf-8', 'replace'))
        os._exit(3)
    except BaseException as error:
        lines, trace = [], error.__traceback__
        while trace:
            lines.append('%s:%d' % (trace.tb_frame.f_code.co_name, trace.tb_lineno))
            trace = trace.tb_next
        os.write(2, ('enclave-agent: %r in %s\n' % (error, ', '.join(lines))).encode('utf-8', 'replace'))
        os._exit(4)


if __name__ == '__enclave_agent__':
    globals().update(globals().pop('SETTINGS', {}))
    main()
