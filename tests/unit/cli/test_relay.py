from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import click
import pytest

from enclave.cli.relay import EscapeWatch, endings_as_exit, relay, terminal_size
from enclave.errors import UnsupportedError
from tests.support.place import FakeProcess


@pytest.mark.parametrize(
    ('pieces', 'passed', 'left'),
    [
        ([b'ls ~.\r'], b'ls ~.\r', False),
        ([b'~.'], b'', True),
        ([b'ls\r', b'~', b'.x'], b'ls\r', True),
        ([b'\r~~.'], b'\r~.', False),
        ([b'\n~x'], b'\n~x', False),
        ([b'~\r~.'], b'~\r', True),
    ],
)
def test_escape_is_found_at_the_beginning_of_a_line_alone(pieces: list[bytes], passed: bytes, left: bool) -> None:
    watch = EscapeWatch()
    out, has_left = b'', False
    for piece in pieces:
        data, ended = watch.feed(piece)
        out += data
        has_left = has_left or ended

    assert (out, has_left) == (passed, left)


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Iterator[BinaryIO]:
    """The peer of a pipe that is standard input."""
    reader, writer = os.pipe()
    with open(reader) as stdin, open(writer, 'wb', buffering=0) as far_end:
        monkeypatch.setattr(sys, 'stdin', stdin)
        yield far_end


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_kills_the_program_and_is_the_exit_code(
    tmp_path: Path, number: signal.Signals, typed: BinaryIO, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    command = ['sh', '-c', f'read go; kill -{int(number)} {os.getpid()}; exec sleep 600']
    typed.write(b'go\n')

    with (
        pytest.raises(click.exceptions.Exit) as ended,
        FakeProcess(command, tmp_path, 0, {'open_stdin': True}) as process,
    ):
        relay(process, with_stdin=True)

    assert ended.value.exit_code == 128 + number
    assert process.result is not None
    assert process.result.signal == 'SIGKILL'
    assert number.name.encode() in capsysbinary.readouterr().err


def test_input_is_passed_on_while_output_comes(
    tmp_path: Path, typed: BinaryIO, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    data = os.urandom(1 << 20)
    feeding = threading.Thread(target=lambda: (typed.write(data), typed.close()))
    feeding.start()

    with FakeProcess(['cat'], tmp_path, 0, {'open_stdin': True}) as process:
        relay(process, with_stdin=True)
    feeding.join()

    assert capsysbinary.readouterr().out == data


def test_program_that_reads_nothing_does_not_wait_for_input(tmp_path: Path, typed: BinaryIO) -> None:
    with FakeProcess(['true'], tmp_path, 0, {'open_stdin': True}) as process:
        result = relay(process, with_stdin=True)

    assert result.exit_code == 0


def test_handlers_and_threads_are_as_before_afterwards(tmp_path: Path) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    threads = set(threading.enumerate())

    with FakeProcess(['true'], tmp_path, 0, {}) as process:
        relay(process, with_stdin=False)

    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    assert not [each for each in set(threading.enumerate()) - threads if each.name.startswith('enclave-cli')]


def test_termination_leaves_blocks_in_order() -> None:
    left = []

    def be_terminated() -> None:
        with endings_as_exit():
            try:
                os.kill(os.getpid(), signal.SIGTERM)
                threading.Event().wait(30)
            finally:
                left.append('block')

    with pytest.raises(SystemExit) as ended:
        be_terminated()

    assert ended.value.code == 143
    assert left == ['block']


def test_no_terminal_is_reported_with_what_to_do_instead() -> None:
    with pytest.raises(UnsupportedError, match='ms-enclave exec'):
        terminal_size()
