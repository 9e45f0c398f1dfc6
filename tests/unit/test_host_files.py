"""Files of this machine: bounds, holes, and what is no file."""

from __future__ import annotations

import errno
import io
import os
import socket
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from enclave.errors import InvalidArgumentError, SandboxPathError
from enclave.host_files import bounded, check_max_bytes, collect, open_source

MIB = 1 << 20


def zeros(count: int) -> Iterator[bytes]:
    """Yield so many MiB of zeros, as a sparse file gives them."""
    for _ in range(count):
        yield bytes(MIB)


def test_what_is_no_file_here_says_which_argument_is_which(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r'on this machine; the source comes first .*none') as missing:
        open_source(tmp_path / 'none')
    assert (missing.value.errno, missing.value.filename) == (errno.ENOENT, str(tmp_path / 'none'))
    with pytest.raises(IsADirectoryError, match='put_dir'):
        open_source(tmp_path)


@pytest.mark.parametrize('kind', ['fifo', 'device', 'socket'])
def test_what_is_no_regular_file_is_refused_and_not_waited_for(tmp_path: Path, kind: str) -> None:
    path = tmp_path / kind
    if kind == 'fifo':
        os.mkfifo(path)
    elif kind == 'socket':
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
    else:
        path = Path('/dev/zero')

    with pytest.raises(InvalidArgumentError, match='regular file'):
        open_source(path)


def test_what_is_not_there_is_reported_as_open_reports_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        open_source(tmp_path / 'missing')
    with pytest.raises(IsADirectoryError):
        open_source(tmp_path)


def test_holes_take_no_room_on_the_disk(tmp_path: Path) -> None:
    def pieces() -> Iterator[bytes]:
        yield b'begin'
        yield from zeros(64)
        yield b'end'

    size = collect(pieces(), tmp_path / 'file')

    facts = (tmp_path / 'file').stat()
    assert size == facts.st_size == 64 * MIB + 8
    assert facts.st_blocks * 512 < MIB
    assert (tmp_path / 'file').read_bytes() == b'begin' + bytes(64 * MIB) + b'end'


def test_a_file_that_is_all_hole_has_its_size(tmp_path: Path) -> None:
    assert collect(zeros(8), tmp_path / 'file') == 8 * MIB
    assert (tmp_path / 'file').stat().st_size == 8 * MIB


def test_more_than_may_come_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / 'file').write_text('old')

    for target in (tmp_path / 'file', tmp_path / 'new', None, io.BytesIO()):
        with pytest.raises(SandboxPathError, match='max_bytes'):
            collect(zeros(10), target, max_bytes=3 * MIB)

    assert [each.name for each in tmp_path.iterdir()] == ['file']
    assert (tmp_path / 'file').read_text() == 'old'
    assert collect(zeros(3), None, max_bytes=3 * MIB) == bytes(3 * MIB)
    assert list(bounded([b'', b'x'], None, 'it')) == [b'', b'x']


def test_bytes_are_held_about_once() -> None:
    tracemalloc.start()
    try:
        got = collect(zeros(64), None)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert got == bytes(64 * MIB)
    assert peak < 96 * MIB


def test_the_umask_of_the_process_is_never_changed(tmp_path: Path) -> None:
    """Other threads make files at the same time."""
    before = os.umask(0o027)
    try:
        stop, seen = threading.Event(), set()

        def make() -> None:
            number = 0
            while not stop.is_set():
                number += 1
                descriptor = os.open(tmp_path / f'other-{number}', os.O_CREAT | os.O_WRONLY, 0o666)
                seen.add(os.fstat(descriptor).st_mode & 0o777)
                os.close(descriptor)

        thread = threading.Thread(target=make)
        thread.start()
        for number in range(300):
            collect(iter([b'x']), tmp_path / f'file-{number % 10}')
        stop.set()
        thread.join(60)
    finally:
        os.umask(before)

    assert seen == {0o640}
    assert (tmp_path / 'file-1').stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize('value', [-1, 1.5, '1', True, []])
def test_a_bound_is_a_whole_number_or_none(value: object) -> None:
    with pytest.raises(InvalidArgumentError, match='max_bytes'):
        check_max_bytes(value)
    assert check_max_bytes(None) is None
    assert check_max_bytes(0) == 0
