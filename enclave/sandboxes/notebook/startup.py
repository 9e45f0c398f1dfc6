"""What a Python kernel does before its first cell (layer 4): this file's source is sent along and runs there.

It is plain old Python that imports the standard library only. It reaches into IPython and ipykernel, whose insides may change:
a step that does not fit the version found is left out, and the kernel then works as it would without it. What comes from a
kernel is checked at our end all the same, since the cells can undo everything here.
"""

from __future__ import annotations

import array
import builtins
import concurrent.futures.thread
import contextlib
import contextvars
import fcntl
import functools
import signal
import sys
import termios
import threading
import time
import traceback
from typing import Any

KEPT_MESSAGES = 100000
PIECE_CHARACTERS = 1 << 20
ERROR_CHARACTERS = 1_000_000
ORDERED_TURNS = 500
PROGRAMS_SECONDS = 0.5
NO_TEXT = '<exception str() failed>'
_SEND_HIGH_WATER_MARK = 23


def prepare(shell: Any) -> None:
    """Prepare the kernel of an IPython shell."""
    steps = (
        keep_outputs,
        cut_streams,
        order_streams,
        own_threads,
        replace_surrogates,
        guard_flushes,
        await_programs,
        report_errors,
        interrupt_awaits,
    )
    for step in steps:
        try:
            step(shell)
        except Exception:
            continue


def unseen(function: Any) -> Any:
    """Return a function that leaves no frame of this module at the head of the traceback of what is raised in it.

    A bare ``raise`` takes the traceback from the exception as it is then, since Python 3.11; before, the frames stay.
    """

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except BaseException as error:
            trace = error.__traceback__
            while trace is not None and trace.tb_frame.f_globals is globals():
                trace = trace.tb_next
            error.__traceback__ = trace
            raise

    return call


def keep_outputs(shell: Any) -> None:
    """Let many outputs wait in the kernel.

    They wait there when they are not taken fast enough, and past ZeroMQ's usual 1000 they are dropped without a word
    (zmq_setsockopt(3), ZMQ_SNDHWM). A fast loop of displays reaches that; this many are never reached.
    """
    thread = shell.kernel.iopub_thread
    thread.schedule(lambda: thread.socket.setsockopt(_SEND_HIGH_WATER_MARK, KEPT_MESSAGES))


class CuttingSession:
    """Stands before a stream's session and sends long text in pieces.

    ipykernel joins all that is written within 0.2 seconds into one message, and a message over the limit of our end is lost.
    """

    def __init__(self, session: Any) -> None:
        self.__dict__['session'] = session

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__['session'], name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.__dict__['session'], name, value)

    def send(self, stream: Any, message: Any, *args: Any, **kwargs: Any) -> Any:
        """Send a message, one of a long text as several."""
        session = self.__dict__['session']
        content = message['content']
        text = content.get('text', '')
        if len(text) <= PIECE_CHARACTERS:
            return session.send(stream, message, *args, **kwargs)
        for start in range(0, len(text), PIECE_CHARACTERS):
            piece = dict(content, text=text[start : start + PIECE_CHARACTERS])
            session.send(stream, session.msg('stream', piece, parent=message['parent_header']), *args, **kwargs)
        return None


def cut_streams(shell: Any) -> None:
    """Send what is printed in pieces that our end takes."""
    for stream in (sys.stdout, sys.stderr):
        stream.session = CuttingSession(stream.session)  # type: ignore[union-attr]


class Turn:
    """Stands as the echo of a stream, which hears of a text before the stream takes it, and has the other stream send first."""

    def __init__(self, other: Any) -> None:
        self.other = other
        self.left = ORDERED_TURNS

    def write(self, text: str) -> None:
        """Have the other stream send what it holds. In a forked child that is a copy of what is its parent's to send."""
        # A text written below a write of the other stream (by `__del__` or a signal handler) cannot wait for that: it would be
        # waiting for itself, as the thread that sends wants the lock which is held here.
        is_free = not self.other._buffer_lock._is_owned()
        if self.other._flush_pending and self.left and is_free and self.other._is_master_process():
            self.left -= 1
            self.other.flush()

    def flush(self) -> None:
        """Do nothing: nothing is held here."""


def can_take_turns(stream: Any) -> bool:
    """Return whether a stream is of the kind that is known here, and free."""
    is_known = hasattr(stream, '_flush_pending') and hasattr(getattr(stream, '_buffer_lock', None), '_is_owned')
    return is_known and stream._is_master_process() and stream.echo is None


def order_streams(shell: Any) -> None:
    """Send what is printed in the order in which it was, whichever stream it went to.

    Each of ipykernel's streams holds what is written to it for up to 0.2 seconds by itself. So only one at a time may hold
    something. That costs some 0.3 milliseconds a turn, and more outputs than these turns make are not kept apart at our end
    anyway. (A ``write`` of our own would not do: IPython 9 puts others in its place and the first one back.)
    """
    turns: list[Turn] = []

    def begin() -> None:
        for turn in turns:
            turn.left = ORDERED_TURNS

    streams: Any = (sys.stdout, sys.stderr)
    if all(can_take_turns(each) for each in streams):
        for stream, other in (streams, reversed(streams)):
            stream.echo = turn = Turn(other)
            turns.append(turn)
        shell.events.register('pre_execute', begin)


def own_threads(shell: Any) -> None:
    """Have what a thread prints and shows belong to the cell that started it, or that handed its work to a pool.

    ipykernel keeps in context variables which request an output answers, and a new thread has none of these: what it prints
    would answer whichever cell runs then, another caller's perhaps. What answers a cell that is over, nobody gets.
    """
    names = ((sys, 'stdout'), (sys, 'stderr'), (shell, 'displayhook'), (shell, 'display_pub'))
    places = [shell, *(getattr(owner, name) for owner, name in names)]
    places = [place for place in places if isinstance(getattr(place, '_parent_header', None), contextvars.ContextVar)]

    def the_cell() -> Any:
        return [(place._parent_header, place.parent_header) for place in places]

    def enter(cell: Any) -> Any:
        # What is started before the first cell belongs to none, and answers the one that runs.
        return [(variable, variable.set(header)) for variable, header in cell if header]

    @unseen
    def within(cell: Any, function: Any, *args: Any, **kwargs: Any) -> Any:
        entered = enter(cell)
        try:
            return function(*args, **kwargs)
        finally:
            for variable, token in entered:
                variable.reset(token)

    def in_cell(function: Any) -> Any:
        return functools.partial(within, the_cell(), function)

    def for_cell(method: Any, name: str) -> Any:
        # A method whose first argument, of this name, is a function to be called later.
        @unseen
        @functools.wraps(method)
        def call(owner: Any, *args: Any, **kwargs: Any) -> Any:
            if args:
                args = (in_cell(args[0]), *args[1:])
            elif name in kwargs:
                kwargs[name] = in_cell(kwargs[name])
            return method(owner, *args, **kwargs)

        return call

    kind: Any = threading.Thread
    work: Any = concurrent.futures.thread._WorkItem
    start, bootstrap, make, run = kind.start, kind._bootstrap, work.__init__, work.run

    @unseen
    def start_for_cell(thread: Any) -> None:
        thread._enclave_cell = the_cell()
        start(thread)

    def bootstrap_for_cell(thread: Any) -> None:
        enter(thread.__dict__.pop('_enclave_cell', ()))
        bootstrap(thread)

    def make_for_cell(item: Any, *args: Any, **kwargs: Any) -> None:
        item._enclave_cell = the_cell()
        make(item, *args, **kwargs)

    def run_for_cell(item: Any, *args: Any) -> None:
        within(item._enclave_cell, run, item, *args)

    followed: list[Any] = []

    def follow_pools() -> None:
        # Not before somebody has it imported: that takes longer than all else here.
        module: Any = sys.modules.get('multiprocessing.pool')
        if module is None or followed:
            return
        followed.append(module)
        result = module.ApplyResult
        make_result = result.__init__

        def make_result_for_cell(self: Any, pool: Any, callback: Any = None, error_callback: Any = None) -> None:
            make_result(self, pool, callback and in_cell(callback), error_callback and in_cell(error_callback))

        result.__init__ = make_result_for_cell
        for name in ('apply_async', '_map_async', 'imap', 'imap_unordered'):
            setattr(module.ThreadPool, name, for_cell(getattr(module.ThreadPool, name), 'func'))

    if places:
        kind.start, kind._bootstrap = start_for_cell, bootstrap_for_cell
        work.__init__, work.run = make_for_cell, run_for_cell
        future: Any = concurrent.futures.Future
        future.add_done_callback = for_cell(future.add_done_callback, 'fn')
        shell.events.register('pre_execute', follow_pools)


def without_surrogates(value: Any) -> Any:
    """Return what a message holds as text that can be sent: pairs of surrogates are joined, and lone ones replaced."""
    if isinstance(value, str):
        return value.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace')
    if isinstance(value, dict):
        return {without_surrogates(key): without_surrogates(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_surrogates(each) for each in value]
    return value


def replace_surrogates(shell: Any) -> None:
    """Send a message in which there is a lone surrogate, which UTF-8 has no place for: it is lost otherwise, error or output."""
    session = shell.kernel.session
    plain = session.pack

    @unseen
    def pack(value: Any) -> Any:
        try:
            return plain(value)
        except UnicodeEncodeError:
            return plain(without_surrogates(value))

    session.pack = pack


class GuardedStream:
    """Stands before a standard stream where ipykernel uses it: what cells put there may have no ``flush``, or a broken one.

    A kernel that cannot flush neither answers nor ends the cell. What else is missing, such as knowing which cell runs, is
    done by the kernel's own stream, which is flushed too, since the cell's may write there.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._own = getattr(sys, name)

    def __getattr__(self, name: str) -> Any:
        current = getattr(sys, self._name, None)
        return getattr(current if hasattr(current, name) else self._own, name)

    def flush(self) -> None:
        """Flush what can be flushed."""
        current: Any = getattr(sys, self._name, None)
        for stream in (current, self._own) if current is not self._own else (current,):
            with contextlib.suppress(Exception):
                stream.flush()


class GuardedSys:
    """Stands before the module ``sys`` in ipykernel's own modules."""

    def __init__(self) -> None:
        self.stdout = GuardedStream('stdout')
        self.stderr = GuardedStream('stderr')

    def __getattr__(self, name: str) -> Any:
        return getattr(sys, name)


def guard_flushes(shell: Any) -> None:
    """Let cells end whatever they made of ``sys.stdout`` and ``sys.stderr``."""
    guarded = GuardedSys()
    for name in ('kernelbase', 'displayhook', 'zmqshell'):
        sys.modules['ipykernel.' + name].sys = guarded  # type: ignore[attr-defined]

    tee: Any = getattr(shell, '_tee', None)  # by which IPython 9 keeps in its history what is printed

    @contextlib.contextmanager
    def tee_if_possible(channel: str) -> Any:
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(Exception):
                stack.enter_context(tee(channel=channel))
            yield

    if tee is not None:
        shell._tee = tee_if_possible


def is_taken(stream: Any) -> bool:
    """Return whether all that programs wrote to a stream's file descriptor has come to the stream.

    ipykernel has a thread that reads it from a pipe and writes it to the stream. It has done so when the pipe is empty and the
    thread is back in its read(2), which /proc/<pid>/task/<tid>/syscall shows (proc(5): number, then arguments in hexadecimal).
    """
    waiting = array.array('i', [0])
    fcntl.ioctl(stream._fid, termios.FIONREAD, waiting)
    if waiting[0]:
        return False
    with open('/proc/self/task/%d/syscall' % stream.watch_fd_thread.native_id) as file:  # noqa: UP031
        return file.read().split()[1:2] == [hex(stream._fid)]


def await_programs(shell: Any) -> None:
    """Let the output of the programs that a cell ran come before the cell's end, and so be the cell's own."""
    streams = [stream for stream in (sys.stdout, sys.stderr) if getattr(stream, '_fid', None) is not None]

    def await_all() -> bool:
        end = time.monotonic() + PROGRAMS_SECONDS
        while not all(map(is_taken, streams)):
            if time.monotonic() > end:
                return False
            time.sleep(0.0005)
        return True

    def await_all_if_open() -> None:
        try:
            await_all()
        except OSError:
            return  # the cell closed what was watched

    if streams and await_all():
        shell.events.register('post_execute', await_all_if_open)


def shortened(text: str) -> str:
    """Return the head and tail of a text that is longer than an error may be."""
    if len(text) <= ERROR_CHARACTERS:
        return text
    half = ERROR_CHARACTERS // 2
    return '%s\n[... %d characters left out ...]\n%s' % (text[:half], len(text) - 2 * half, text[-half:])  # noqa: UP031


def has_group(error: Any) -> bool:
    """Return whether an exception is a group, or was raised while one was handled: IPython only prints these."""
    group = getattr(builtins, 'BaseExceptionGroup', ())
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, group):
            return True
        seen.add(id(error))
        error = error.__context__
    return False


def hide_ours(trace: Any) -> None:
    """Take what is ours away from a traceback's end: an interrupted cell's signal handler raised there, or while a stream had
    the other one send."""
    while trace is not None and trace.tb_next is not None:
        frame = trace.tb_next.tb_frame
        is_ours = frame.f_globals is globals() and trace.tb_next.tb_next is None
        if is_ours or frame.f_code is Turn.write.__code__:
            trace.tb_next = None
        trace = trace.tb_next


def readable_error(error: Any) -> Any:
    """Return an error, or one of the same name in its place where its text cannot be had."""
    try:
        str(error), type(error).__name__
    except BaseException:
        name = type.__dict__['__name__'].__get__(type(error))
        return type(name, (Exception,), {'__str__': lambda self: NO_TEXT})().with_traceback(error.__traceback__)
    return error


def report_errors(shell: Any) -> None:
    """Send every error as one, no larger than our end takes: groups and wrong magics too, which IPython prints to stderr."""
    send, show = shell._showtraceback, shell.showtraceback
    shown: list[Any] = []  # the error that the last value could not be shown for

    def send_short(kind: Any, error: Any, lines: Any) -> None:
        try:
            text = shortened(str(error))
        except (
            BaseException
        ):  # as Python's own traceback says it; what sends it would raise it, and this frame would show
            text = NO_TEXT
        try:
            whole = '\n'.join(lines)
            lines = lines if len(whole) <= ERROR_CHARACTERS else shortened(whole).split('\n')
        except Exception:
            lines = [text]
        send(kind, text, lines)

    @unseen
    def show_groups(exc_tuple: Any = None, *args: Any, **kwargs: Any) -> None:
        error = (exc_tuple or sys.exc_info())[1]
        is_value = getattr(getattr(shell, 'displayhook', None), 'msg', None) is not None
        shown[:] = [error] if is_value else []
        hide_ours(getattr(error, '__traceback__', None))
        is_plain = isinstance(error, (SyntaxError, SystemExit)) or type(error).__name__ == 'UsageError'
        if is_plain or not has_group(error):
            show(exc_tuple, *args, **kwargs)
            return
        kind, error, trace = shell._get_exc_info(exc_tuple)
        while trace is not None and trace.tb_frame.f_globals.get('__name__') == 'IPython.core.interactiveshell':
            trace = trace.tb_next
        shell._showtraceback(kind, error, ''.join(traceback.format_exception(kind, error, trace)).splitlines())

    def show_usage_error(error: Any) -> None:
        shell._showtraceback(type(error), error, ['UsageError: %s' % error])  # noqa: UP031

    # The history and the reply hold the text of the error, too: one that cannot be had would be a second error there.
    def make_readable(result: Any) -> None:
        # ipykernel 7 fails a cell whose value could not be shown, but does not know by which error.
        if shown and result.success and getattr(shell, '_last_traceback_during_displayhook', False):
            result.error_in_exec = shown[-1]
            shell._last_traceback_during_displayhook = False  # or it fails a cell that only ran this one, too
        result.error_in_exec = readable_error(result.error_in_exec)

    keep: Any = getattr(shell, '_format_exception_for_storage', None)

    def keep_readable(error: Any, *args: Any, **options: Any) -> Any:
        return keep(readable_error(error), *args, **options)

    def forget_last() -> None:
        shown.clear()
        shell._last_traceback = None  # or the reply to a cell whose error has no traceback has an earlier cell's

    shell._showtraceback = send_short
    shell.showtraceback = show_groups
    shell.show_usage_error = show_usage_error
    shell.events.register('pre_execute', forget_last)
    shell.events.register('post_run_cell', make_readable)
    if keep is not None:
        shell._format_exception_for_storage = keep_readable


def is_under(frame: Any, code: Any, names: Any) -> bool:
    """Return whether a frame is that of a cell's code, or is below it: ``code`` runs cells, in the global names ``names``."""
    above = None
    while frame is not None and frame.f_code is not code:
        above, frame = frame, frame.f_back
    return frame is not None and above is not None and above.f_globals is names


def interrupt_awaits(shell: Any) -> None:
    """Let an interrupt end a cell with a top-level ``await``.

    ipykernel cancels the cell's task from the handler of the signal, but in a way that does not wake the event loop, so that
    the task hears of it when something else wakes that. And a coroutine that never waits would never hear of it.
    """
    import asyncio

    # It shows what a cell raises; an exception raised elsewhere on the loop could end the kernel.
    code = type(shell).run_code.__code__

    @contextlib.contextmanager
    def cancel_on_sigint(task: Any) -> Any:
        loop = task.get_loop()
        asked: list[bool] = []

        def cancel() -> None:
            asked.clear()
            task.cancel()

        def handle(number: int, frame: Any) -> None:
            if is_under(frame, code, shell.user_global_ns):
                raise KeyboardInterrupt
            # Another task that has kept the loop busy since the signal before; KeyboardInterrupt would leave the loop.
            if asked and asyncio.current_task(loop) not in (None, task):
                raise asyncio.CancelledError
            asked.append(True)
            loop.call_soon_threadsafe(cancel)

        before = signal.signal(signal.SIGINT, handle)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    if hasattr(shell.kernel, '_cancel_on_sigint'):
        shell.kernel._cancel_on_sigint = cancel_on_sigint
