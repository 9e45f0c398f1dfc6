"""What a Python kernel does before its first cell, on a shell that keeps a record."""

from __future__ import annotations

import concurrent.futures.thread
import contextvars
import io
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from enclave.sandboxes.notebook import startup


class Session:
    """Keeps the texts that were sent, and whose they are."""

    def __init__(self) -> None:
        self.sent: list[tuple[Any, str]] = []
        self.pid = 0

    def msg(self, kind: str, content: dict[str, Any], parent: Any) -> dict[str, Any]:
        """Make a message."""
        return {'msg_type': kind, 'content': content, 'parent_header': parent}

    def send(self, stream: Any, message: dict[str, Any], ident: bytes) -> None:
        """Keep a message."""
        self.sent.append((message['parent_header'], message['content']['text']))


class Shell:
    """Has what is replaced in IPython's shell."""

    def __init__(self) -> None:
        self.errors: list[tuple[str, str, list[str]]] = []
        self.shown: list[Any] = []
        self.called: list[Callable[[], None]] = []
        self._last_traceback: list[str] | None = ['old']
        self.events = self

    def register(self, name: str, action: Callable[[], None]) -> None:
        """Keep what is to be called without an argument."""
        if name != 'post_run_cell':
            self.called.append(action)

    def _get_exc_info(self, exc_tuple: Any = None) -> Any:
        return exc_tuple or sys.exc_info()

    def _showtraceback(self, kind: type, error: Any, lines: list[str]) -> None:
        self.errors.append((kind.__name__, str(error), lines))

    def showtraceback(self, exc_tuple: Any = None, **kwargs: Any) -> None:
        """Keep that the shell's own way was taken."""
        self.shown.append(self._get_exc_info(exc_tuple)[1])

    def show_usage_error(self, error: Any) -> None:
        """Print, as IPython does, and report to nobody."""


def raised(error: BaseException) -> Any:
    try:
        raise error
    except BaseException:
        return sys.exc_info()


def test_long_text_is_sent_in_pieces_of_the_same_cell() -> None:
    session = Session()
    cutting = startup.CuttingSession(session)
    text = 'x' * (2 * startup.PIECE_CHARACTERS) + 'end'

    cutting.pid = 5
    for each in (text, 'short'):
        cutting.send(None, session.msg('stream', {'name': 'stdout', 'text': each}, 'cell'), ident=b'topic')

    texts = [each for _, each in session.sent]
    assert ''.join(texts) == text + 'short'
    assert len(texts) == 4
    assert {parent for parent, _ in session.sent} == {'cell'}
    assert session.pid == 5


def test_a_large_error_is_sent_with_head_and_tail() -> None:
    shell = Shell()
    startup.report_errors(shell)

    shell._showtraceback(ValueError, ValueError('a' * 20_000_000 + 'z'), ['first', 'b' * 20_000_000, 'last'])

    ((name, value, lines),) = shell.errors
    assert name == 'ValueError'
    assert value.startswith('aaa')
    assert value.endswith('z')
    assert len(value) + sum(map(len, lines)) < 2_100_000
    assert (lines[0], lines[-1]) == ('first', 'last')
    assert '[... 19000001 characters left out ...]' in value


@pytest.mark.skipif(sys.version_info < (3, 11), reason='this Python has no groups')
def test_a_group_is_sent_as_an_error_and_others_are_left_to_the_shell() -> None:
    shell = Shell()
    startup.report_errors(shell)
    group = vars(__import__('builtins'))['ExceptionGroup']('both', [ValueError('a'), TypeError('b')])
    later = KeyError('k')
    later.__context__ = group
    plain = ValueError('plain')

    for error in (group, later, plain):
        shell.showtraceback(raised(error))

    assert [name for name, _, _ in shell.errors] == ['ExceptionGroup', 'KeyError']
    assert 'ValueError: a' in '\n'.join(shell.errors[0][2])
    assert shell.shown == [plain]


def test_a_wrong_magic_is_sent_as_an_error_and_an_old_traceback_is_forgotten() -> None:
    shell = Shell()
    startup.report_errors(shell)

    shell.show_usage_error(LookupError('no such magic'))
    for action in shell.called:
        action()

    assert shell.errors == [('LookupError', 'no such magic', ['UsageError: no such magic'])]
    assert shell._last_traceback is None


def test_an_error_whose_context_is_a_circle_is_no_group() -> None:
    first, second = ValueError(), ValueError()
    first.__context__, second.__context__ = second, first

    assert not startup.has_group(first)


def test_a_shell_that_has_none_of_it_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, 'stdout', io.StringIO())

    startup.prepare(object())


class HoldingStream(io.StringIO):
    """Holds what is written until it is flushed, as ipykernel's stream does; ``sent`` is shared with another."""

    def __init__(self, sent: list[str]) -> None:
        super().__init__()
        self.sent = sent
        self.is_child = False
        self.echo: Any = None
        self._flush_pending = False
        self._buffer_lock = threading.RLock()

    def _is_master_process(self) -> bool:
        return not self.is_child

    def write(self, text: str) -> int:
        """Hold a text."""
        if self.echo is not None:
            self.echo.write(text)
        self._flush_pending = True
        return super().write(text)

    def flush(self) -> None:
        """Send what is held."""
        self.sent.append(self.getvalue())
        self.seek(0)
        self.truncate()
        self._flush_pending = False


def test_a_stream_hands_over_what_the_other_one_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[str] = []
    monkeypatch.setattr(sys, 'stdout', out := HoldingStream(sent))
    monkeypatch.setattr(sys, 'stderr', err := HoldingStream(sent))
    startup.order_streams(Shell())

    for stream, text in ((out, '1'), (out, '2'), (err, '3'), (out, '4'), (err, '5')):
        stream.write(text)

    assert sent == ['12', '3', '4']
    assert err.getvalue() == '5'
    with err._buffer_lock:  # below a write of the other, which waits for this one
        out.write('5')
    assert sent == ['12', '3', '4']
    out.flush()
    sent.pop()
    out.is_child = err.is_child = True
    out.write('6')
    assert sent == ['12', '3', '4']


def test_the_order_is_kept_for_as_many_turns_of_a_cell_as_are_kept_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[str] = []
    monkeypatch.setattr(sys, 'stdout', out := HoldingStream(sent))
    monkeypatch.setattr(sys, 'stderr', err := HoldingStream(sent))
    shell = Shell()
    startup.order_streams(shell)
    (before_cell,) = shell.called

    for _ in range(2 * startup.ORDERED_TURNS):
        out.write('1')
        err.write('2')
    turns = len(sent)
    before_cell()
    out.write('3')

    assert turns == 2 * startup.ORDERED_TURNS
    assert len(sent) == turns + 1


class Place:
    """Knows which cell its output belongs to, as ipykernel's streams and displays do."""

    def __init__(self) -> None:
        self._parent_header: contextvars.ContextVar[Any] = contextvars.ContextVar('parent_header')
        self._parent_header_global: Any = {}

    @property
    def parent_header(self) -> Any:
        """Tell the cell of this thread, or else the one that runs."""
        return self._parent_header.get(self._parent_header_global)

    def run(self, cell: str) -> None:
        """Have a cell run."""
        self._parent_header_global = {'msg_id': cell}
        self._parent_header.set(self._parent_header_global)


def test_a_thread_and_a_pools_work_belong_to_the_cell_that_asked_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    shell: Any = Place()
    shell.displayhook = shell.display_pub = object()
    shell.events = Shell().events
    future = concurrent.futures.Future
    monkeypatch.setattr(future, 'add_done_callback', future.add_done_callback)
    for owner, name in ((threading.Thread, 'start'), (threading.Thread, '_bootstrap')):
        monkeypatch.setattr(owner, name, getattr(owner, name))
    for name in ('__init__', 'run'):
        item = concurrent.futures.thread._WorkItem
        monkeypatch.setattr(item, name, getattr(item, name))
    startup.own_threads(shell)
    reported, go = [], threading.Event()

    def report() -> None:
        go.wait()
        reported.append(shell.parent_header)

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        before_any = threading.Thread(target=report)
        before_any.start()
        shell.run('first')
        of_first = threading.Thread(target=report)
        of_first.start()
        pool.submit(bool).result()
        shell.run('second')
        go.set()
        before_any.join()
        of_first.join()
        of_pool = pool.submit(lambda: shell.parent_header['msg_id']).result()

    assert sorted(each['msg_id'] for each in reported) == ['first', 'second']
    assert of_pool == 'second'


class WatchedStream(io.StringIO):
    """Takes from a pipe on a thread, as ipykernel's stream does, but slowly."""

    def __init__(self) -> None:
        super().__init__()
        self._fid, self.end = os.pipe()
        self.watch_fd_thread = threading.Thread(target=self._watch, daemon=True)
        self.watch_fd_thread.start()

    def _watch(self) -> None:
        while data := os.read(self._fid, 1000):
            time.sleep(0.05)
            self.write(data.decode())
        os.close(self._fid)


@pytest.fixture
def watched() -> Iterator[WatchedStream]:
    """A stream whose thread ends with the test."""
    stream = WatchedStream()
    yield stream
    os.close(stream.end)
    stream.watch_fd_thread.join()


def test_what_programs_wrote_is_awaited(watched: WatchedStream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, 'stdout', watched)
    shell = Shell()
    startup.await_programs(shell)
    (after_cell,) = shell.called

    os.write(watched.end, b'from a shell')
    after_cell()

    assert watched.getvalue() == 'from a shell'


def test_a_program_that_writes_on_and_on_is_not_awaited(
    watched: WatchedStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, 'stdout', watched)
    shell = Shell()
    startup.await_programs(shell)
    (after_cell,) = shell.called
    monkeypatch.setattr(startup, 'is_taken', lambda stream: False)
    monkeypatch.setattr(startup, 'PROGRAMS_SECONDS', 0.01)

    after_cell()
