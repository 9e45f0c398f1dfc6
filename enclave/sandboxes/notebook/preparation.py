"""What a Python kernel does before its first cell (floor 4): this file's source is sent along and runs there.

It is plain old Python that imports the standard library only. It reaches into IPython and ipykernel, whose insides may change:
a step that does not fit the version found is left out, and the kernel then works as it would without it. What comes from a
kernel is checked at our end all the same, since the cells can undo everything here.
"""

from __future__ import annotations

import array
import builtins
import concurrent.futures.thread
import contextvars
import fcntl
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
_SEND_HIGH_WATER_MARK = 23


def prepare(shell: Any) -> None:
    """Prepare the kernel of an IPython shell."""
    for step in (keep_outputs, cut_streams, order_streams, own_threads, await_programs, tell_errors):
        try:
            step(shell)
        except Exception:
            continue


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

    def send(self, stream: Any, message: Any, *args: Any, **words: Any) -> Any:
        """Send a message, one of a long text as several."""
        session = self.__dict__['session']
        content = message['content']
        text = content.get('text', '')
        if len(text) <= PIECE_CHARACTERS:
            return session.send(stream, message, *args, **words)
        for start in range(0, len(text), PIECE_CHARACTERS):
            piece = dict(content, text=text[start : start + PIECE_CHARACTERS])
            session.send(stream, session.msg('stream', piece, parent=message['parent_header']), *args, **words)
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
        if self.other._flush_pending and self.left and self.other._is_master_process():
            self.left -= 1
            self.other.flush()

    def flush(self) -> None:
        """Do nothing: nothing is held here."""


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
    if all(hasattr(each, '_flush_pending') and each._is_master_process() and each.echo is None for each in streams):
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

    kind: Any = threading.Thread
    work: Any = concurrent.futures.thread._WorkItem
    start, bootstrap, make, run = kind.start, kind._bootstrap, work.__init__, work.run

    def start_for_cell(thread: Any) -> None:
        thread._enclave_cell = the_cell()
        start(thread)

    def bootstrap_for_cell(thread: Any) -> None:
        enter(thread.__dict__.pop('_enclave_cell', ()))
        bootstrap(thread)

    def make_for_cell(item: Any, *args: Any, **words: Any) -> None:
        item._enclave_cell = the_cell()
        make(item, *args, **words)

    def run_for_cell(item: Any, *args: Any) -> None:
        entered = enter(item._enclave_cell)
        try:
            run(item, *args)
        finally:
            for variable, token in entered:
                variable.reset(token)

    if places:
        kind.start, kind._bootstrap = start_for_cell, bootstrap_for_cell
        work.__init__, work.run = make_for_cell, run_for_cell


def is_taken(stream: Any) -> bool:
    """Tell whether all that programs wrote to a stream's file descriptor has come to the stream.

    ipykernel has a thread that reads it from a pipe and writes it to the stream. It has done so when the pipe is empty and the
    thread is back in its read(2), which /proc/<pid>/task/<tid>/syscall tells (proc(5): number, then arguments in hexadecimal).
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
    """Tell whether an exception is a group, or was raised while one was handled: IPython only prints these."""
    group = getattr(builtins, 'BaseExceptionGroup', ())
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, group):
            return True
        seen.add(id(error))
        error = error.__context__
    return False


def tell_errors(shell: Any) -> None:
    """Send every error as one, no larger than our end takes: groups and wrong magics too, which IPython prints to stderr."""
    send, show = shell._showtraceback, shell.showtraceback

    def send_short(kind: Any, error: Any, lines: Any) -> None:
        try:
            text = shortened(str(error))
            whole = '\n'.join(lines)
            lines = lines if len(whole) <= ERROR_CHARACTERS else shortened(whole).split('\n')
        except Exception:
            text = error
        send(kind, text, lines)

    def show_groups(exc_tuple: Any = None, *args: Any, **words: Any) -> None:
        error = (exc_tuple or sys.exc_info())[1]
        is_plain = isinstance(error, (SyntaxError, SystemExit)) or type(error).__name__ == 'UsageError'
        if is_plain or not has_group(error):
            show(exc_tuple, *args, **words)
            return
        kind, error, trace = shell._get_exc_info(exc_tuple)
        while trace is not None and trace.tb_frame.f_globals.get('__name__') == 'IPython.core.interactiveshell':
            trace = trace.tb_next
        shell._showtraceback(kind, error, ''.join(traceback.format_exception(kind, error, trace)).splitlines())

    def show_usage_error(error: Any) -> None:
        shell._showtraceback(type(error), error, ['UsageError: %s' % error])  # noqa: UP031

    def forget_last() -> None:
        shell._last_traceback = None  # or the reply to a cell whose error has no traceback has an earlier cell's

    shell._showtraceback = send_short
    shell.showtraceback = show_groups
    shell.show_usage_error = show_usage_error
    shell.events.register('pre_execute', forget_last)
