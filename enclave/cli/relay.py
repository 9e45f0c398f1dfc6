"""Between a program in a sandbox and the terminal or pipes of this process (layer 6).

What the program writes goes out byte for byte as it comes; what is typed or piped here goes in; a terminal here can be the
program's terminal, raw and of the same size.

Two threads, both ended by `relay` before it returns: the *feeder* reads standard input and writes it to the program, the *warden*
does what signals ask. A signal handler only writes one byte to the warden's pipe, since it may interrupt the main thread
while that holds a lock the deed needs. The program's output is taken by the caller's thread.
"""

from __future__ import annotations

import contextlib
import os
import queue
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO

import click

from enclave.cancellation import Cancellation
from enclave.errors import CallCancelledError, EnclaveError, UnsupportedError

_PIECE_BYTES = 1 << 18
_KILL, _RESIZE, _END = b'k', b'w', b'q'
_ENDINGS = [number for name in ('SIGINT', 'SIGTERM', 'SIGHUP') if (number := getattr(signal, name, None)) is not None]


def relay(process: Any, *, with_stdin: bool, on_terminal: bool = False, quiet: bool = False) -> Any:
    """Carry a process's output and input until it ends, and return its result.

    Ctrl-C, and SIGTERM and SIGHUP, kill the program; the command then ends with 128 + the signal's number.

    Args:
        process: A live `Process`, of a local sandbox or a server's.
        with_stdin: Send it this process's standard input.
        on_terminal: It runs on a terminal that this one is connected to: raw, with every key going in.
        quiet: Keep the output to the result.

    Raises:
        click.exceptions.Exit: We were asked to end.
        SandboxGoneError, ...: The sandbox was lost.
    """
    with contextlib.ExitStack() as stack:
        if on_terminal:
            stack.enter_context(_raw_terminal())
        warden = stack.enter_context(_Warden(process))
        stack.enter_context(_handled_signals(warden, with_resize=on_terminal))
        if with_stdin:
            stack.enter_context(_Feeder(process, warden if on_terminal else None))
        written = {'stdout': 0, 'stderr': 0}
        for chunk in process.chunks():
            written[chunk.stream] += len(chunk.data)
            if not quiet:
                write_out(chunk.stream, chunk.data)
        result = process.result
    if not quiet and result.stderr and not written['stderr'] and not on_terminal:
        write_out(
            'stderr', result.stderr.encode('utf-8', 'surrogateescape')
        )  # messages of this library, like "cannot run 'x'"
    if warden.signal is not None:
        click.echo(f'ms-enclave: ended by {signal.Signals(warden.signal).name}', err=True)
        raise click.exceptions.Exit(128 + warden.signal)
    return result


def write_out(stream: str, data: bytes) -> None:
    """Write bytes to standard output or standard error, now."""
    target: BinaryIO = (sys.stdout if stream == 'stdout' else sys.stderr).buffer
    target.write(data)
    target.flush()


class _Warden:
    """Does for the process what signals ask. Lives as long as its ``with`` block."""

    def __init__(self, process: Any) -> None:
        self._process = process
        self.signal: int | None = None  # what asks this process to end
        self._reader, self._writer = os.pipe()
        self._thread = threading.Thread(target=self._serve, name='enclave-cli-warden', daemon=True)

    def ask(self, deed: bytes) -> None:
        """Have a deed done; safe in a signal handler."""
        os.write(self._writer, deed)

    def end(self, number: int) -> None:
        """Have the program killed because of a signal; the second one does not wait for that."""
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal = number
        self.ask(_KILL)

    def _serve(self) -> None:
        while True:
            for deed in os.read(self._reader, 64):
                if deed == _END[0]:
                    return
                with contextlib.suppress(EnclaveError, OSError):
                    if deed == _KILL[0]:
                        self._process.kill()
                    else:
                        size = os.get_terminal_size(sys.stdout.fileno())
                        self._process.resize(size.lines, size.columns)

    def __enter__(self) -> _Warden:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ask(_END)
        self._thread.join(5.0)
        if not self._thread.is_alive():
            os.close(self._reader)
            os.close(self._writer)


@contextlib.contextmanager
def _handled_signals(warden: _Warden, *, with_resize: bool) -> Iterator[None]:
    """Hand the signals that end us, and that report a new terminal size, to the warden. Does nothing off the main thread."""
    handlers: dict[int, Callable[[int, Any], None]] = {number: lambda got, _: warden.end(got) for number in _ENDINGS}
    if with_resize and hasattr(signal, 'SIGWINCH'):
        handlers[signal.SIGWINCH] = lambda *_: warden.ask(_RESIZE)
    with _installed(handlers):
        yield


@contextlib.contextmanager
def _installed(handlers: Mapping[int, Callable[[int, Any], None]]) -> Iterator[None]:
    """Have signals handled for the block, and as before it afterwards. Does nothing off the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def endings_as_exit() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into a `SystemExit` for the block, so that sandboxes are taken away on them as on Ctrl-C."""

    def leave(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    with _installed({number: leave for number in _ENDINGS if number != signal.SIGINT}):
        yield


@contextlib.contextmanager
def endings_as_cancel() -> Iterator[None]:
    """Have the signals that end us cancel the work of the block, which so comes to its own end, and end us after it.

    The second signal does not wait for that. Does nothing off the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    cancellation = Cancellation()
    asked: queue.SimpleQueue[bool] = (
        queue.SimpleQueue()
    )  # whose `put` is safe in a signal handler; cancelling takes locks
    received: list[int] = []

    def end(number: int, _: object) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)
        asked.put(True)

    def serve() -> None:
        if asked.get():
            cancellation.cancel()

    thread = threading.Thread(target=serve, name='enclave-cli-canceller', daemon=True)
    thread.start()
    try:
        with _installed(dict.fromkeys(_ENDINGS, end)), cancellation.applied():
            yield
    except CallCancelledError:
        if not received:
            raise
    finally:
        asked.put(False)
        thread.join()
    if received:
        raise KeyboardInterrupt if received[0] == signal.SIGINT else SystemExit(128 + received[0])


class _Feeder:
    """Sends standard input to the process. Lives as long as its ``with`` block.

    Args:
        warden: Given for a terminal, where the escape ``~.`` has it end the program.
    """

    def __init__(self, process: Any, warden: _Warden | None) -> None:
        self._process = process
        self._warden = warden
        self._escape = EscapeWatch()
        self._reader, self._writer = os.pipe()
        self._thread = threading.Thread(target=self._feed, name='enclave-cli-feeder', daemon=True)

    def _feed(self) -> None:
        with contextlib.suppress(
            EnclaveError, OSError
        ):  # a lost sandbox is reported to the thread that takes the output
            for data in self._pieces():
                if self._warden is not None:
                    data, ended = self._escape.feed(data)
                    if ended:
                        self._warden.ask(_KILL)
                        return
                if data and not self._process.write(data):
                    return
            self._process.close_stdin()

    def _pieces(self) -> Iterator[bytes]:
        """Yield what comes on standard input, until its end or the end of the block."""
        try:
            source = sys.stdin.fileno()
        except (AttributeError, OSError, ValueError):  # closed, or replaced by something in memory
            if hasattr(sys.stdin, 'buffer'):
                yield sys.stdin.buffer.read()
            return
        while True:
            if sys.platform != 'win32':
                ready, _, _ = select.select([source, self._reader], [], [])
                if self._reader in ready or not _may_read(source):
                    return
            data = os.read(source, _PIECE_BYTES)
            if not data:
                return
            yield data

    def __enter__(self) -> _Feeder:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        os.write(self._writer, _END)
        # On Windows a read from the console cannot be woken; the thread is a daemon.
        self._thread.join(5.0 if sys.platform != 'win32' else 0.1)
        if not self._thread.is_alive():
            os.close(self._reader)
            os.close(self._writer)


def _may_read(source: int) -> bool:
    """Return whether reading would not have a background job stopped by its terminal (SIGTTIN)."""
    if sys.platform == 'win32' or not os.isatty(source):
        return True
    try:
        return os.tcgetpgrp(source) == os.getpgrp()
    except OSError:  # not our controlling terminal
        return True


class EscapeWatch:
    """Finds ``~.`` at the beginning of a line in what is typed, as ssh(1) does; ``~~`` is one ``~``."""

    def __init__(self) -> None:
        self._at_line_start = True
        self._is_held = False

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """Return what is to continue of the keys, and whether they asked to leave."""
        out = bytearray()
        for key in data:
            if self._is_held:
                self._is_held = False
                if key == ord('.'):
                    return bytes(out), True
                out += b'~' if key == ord('~') else bytes((ord('~'), key))
            elif self._at_line_start and key == ord('~'):
                self._is_held = True
            else:
                out.append(key)
            self._at_line_start = key in b'\r\n'
        return bytes(out), False


def terminal_size() -> tuple[int, int]:
    """Return the terminal's (rows, columns).

    Raises:
        UnsupportedError: There is none here, or this system's cannot be made raw.
    """
    if sys.platform == 'win32':
        raise UnsupportedError(
            'an interactive terminal needs Linux or macOS; use `ms-enclave exec` or `ms-enclave run` here'
        )
    try:
        has_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    except (AttributeError, ValueError):
        has_terminal = False
    if not has_terminal:
        raise UnsupportedError(
            'standard input and output are not a terminal here; use `ms-enclave exec` or `ms-enclave run --shell -`'
        )
    size = os.get_terminal_size(sys.stdout.fileno())
    return size.lines or 24, size.columns or 80


@contextlib.contextmanager
def _raw_terminal() -> Iterator[None]:
    """Have every key come as it is typed; the terminal's settings come back after the block."""
    import termios
    import tty

    source = sys.stdin.fileno()
    before = termios.tcgetattr(source)
    try:
        tty.setraw(source, termios.TCSADRAIN)
        yield
    finally:
        termios.tcsetattr(source, termios.TCSADRAIN, before)
