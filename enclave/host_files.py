"""Files of this machine that are copied into sandboxes and out of them (ground layer).

What comes out of a sandbox is a stranger's, also in how much it is: a sparse file of a terabyte takes a guest one call. So there
is a bound on it (`MAX_TRANSFER_BYTES`, where the caller names none), what is all zero takes no room on the disk, and a file is
complete or is not there.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import secrets
import stat
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from typing import IO, Any, Final

from enclave.cancellation import is_cancelled
from enclave.errors import CallCancelledError, InvalidArgumentError, SandboxPathError
from enclave.quoting import quoted

MAX_TRANSFER_BYTES: Final = 1 << 30
"""The most that is copied out of a sandbox by one call that does not say otherwise."""
Source = bytes | bytearray | memoryview | str | os.PathLike[str] | IO[bytes] | Iterable[bytes]
"""What goes into a sandbox: bytes, a path of this machine, a binary file object, or an iterable of bytes."""
Target = str | os.PathLike[str] | IO[bytes]
"""Where what comes out of a sandbox goes: a path of this machine, or a binary file object."""
_PIECE_BYTES = 1 << 20
_HOLE_BYTES = 4096
"""Zeros from this length on, a page, are left out of a file; they read the same."""
_ZEROS = bytes(_PIECE_BYTES)


def check_max_bytes(value: object, name: str = 'max_bytes') -> int | None:
    """Return a bound on a transfer in bytes; None is none.

    Raises:
        InvalidArgumentError: It is not a whole number, 0 or more, or None.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise InvalidArgumentError(
            f'{name} must be a whole number, 0 or more, or None for no bound; not {quoted(value)}'
        )
    return value


@contextlib.contextmanager
def closing_pieces(chunks: Iterator[bytes]) -> Iterator[Iterator[bytes]]:
    """Close a generator of pieces, which lets its transfer go, when the block ends."""
    try:
        yield chunks
    finally:
        if isinstance(chunks, Generator):
            chunks.close()


def bounded(chunks: Iterable[bytes], max_bytes: int | None, what: str) -> Iterator[bytes]:
    """Yield the pieces of a transfer for as long as they are no more than may come.

    Raises:
        SandboxPathError: They are more.
    """
    left = max_bytes
    for chunk in chunks:
        if left is not None:
            left -= len(chunk)
            if left < 0:
                raise SandboxPathError(
                    f'{what} has more than {max_bytes} bytes, the most that may be copied (max_bytes); give a larger max_bytes, '
                    'or None for no bound',
                    details={'errno': errno.EFBIG, 'max_bytes': max_bytes},
                )
        yield chunk


_NO_SOURCE = (
    'No such file on this machine; the source comes first (a path here, or bytes), then the target in the sandbox'
)
_IS_DIRECTORY = 'The source is a directory; put_dir copies what is in one'


def host_path(value: object, name: str) -> Path:
    """Return a path of this machine that an argument names.

    Raises:
        InvalidArgumentError: It is none: of another type, empty, or with characters that no path has.
    """
    try:
        data = os.fsencode(value)  # type: ignore[arg-type]  # what it is not raises
    except TypeError:
        raise InvalidArgumentError(f'{name} must be a path on this machine, not {quoted(value)}') from None
    except UnicodeEncodeError:  # a lone surrogate
        data = b''
    if not data or b'\0' in data:
        raise InvalidArgumentError(f'{name} cannot be a path on this machine: {quoted(value)}')
    return Path(os.fsdecode(data))


def open_source(path: str | os.PathLike[str]) -> IO[bytes]:
    """Open a regular file of this machine for reading, without waiting for what may stand in its place.

    Raises:
        FileNotFoundError, PermissionError, IsADirectoryError: As `open` does.
        InvalidArgumentError: It is a pipe, a device or a socket.
    """
    shown = quoted(os.fspath(host_path(path, 'source')))
    flags = os.O_RDONLY | getattr(os, 'O_NONBLOCK', 0) | getattr(os, 'O_CLOEXEC', 0) | getattr(os, 'O_BINARY', 0)
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        if error.errno == errno.ENXIO:  # a socket
            raise InvalidArgumentError(f'source must be a regular file: {shown}') from None
        if isinstance(error, FileNotFoundError):
            raise FileNotFoundError(errno.ENOENT, _NO_SOURCE, os.fspath(path)) from None
        raise
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, _IS_DIRECTORY, os.fspath(path))
        if not stat.S_ISREG(mode):
            raise InvalidArgumentError(f'source must be a regular file: {shown}')
        return os.fdopen(descriptor, 'rb')
    except BaseException:
        os.close(descriptor)
        raise


def collect(
    chunks: Iterator[bytes],
    target: Target | None,
    name: str | None = None,
    *,
    max_bytes: int | None = None,
    what: str = 'what is copied',
) -> bytes | int:
    """Put what comes out of a sandbox where it is to go, and return the bytes, or with a target their number.

    Args:
        name: What a file is called whose target is a directory; None for what cannot go into one.
        max_bytes: The most that may come.
        what: What it is, for messages.

    Raises:
        InvalidArgumentError: The target is no path and no file object.
        SandboxPathError: It is more than may come. A host file is not made then; what a file object was given stays there.
    """
    with closing_pieces(chunks):
        if target is not None and not callable(getattr(target, 'write', None)):
            target = host_path(target, 'target')
        pieces = bounded(chunks, max_bytes, what)
        if target is None:
            held = io.BytesIO()
            for piece in pieces:
                held.write(piece)
            return held.getvalue()
        if not isinstance(target, Path):
            file_object: Any = target
            written: int = sum(file_object.write(piece) for piece in pieces)
            return written
        place = target
        if name is not None and place.is_dir():
            place = place / name
        if place.exists() and not place.is_file():  # a pipe or a device keeps its place, and a directory refuses
            with place.open('wb') as file:
                return sum(file.write(piece) for piece in pieces)
        with taking_place(place) as file:
            return write_sparse(file, pieces)


@contextlib.contextmanager
def taking_place(place: Path) -> Iterator[IO[bytes]]:
    """Give a file to write, which takes its place when the block has ended well and is gone when it has not."""
    place = Path(os.path.realpath(place))  # a symlink stays one
    beside = place.parent / f'.enclave-{secrets.token_hex(8)}'
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, 'O_CLOEXEC', 0) | getattr(os, 'O_BINARY', 0)
    # The mode is what the umask leaves of this, as for any new file. The umask itself is the whole process's: it is not touched.
    handle = os.open(beside, flags, 0o666)
    try:
        with os.fdopen(handle, 'wb') as file:
            yield file
        if is_cancelled():
            raise CallCancelledError(f'the transfer to {os.fspath(place)!r} was cancelled')
        os.replace(beside, place)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(beside)
        raise


def write_sparse(file: IO[bytes], pieces: Iterable[bytes]) -> int:
    """Write pieces to a new file, leaving holes where they are zero, and return how many bytes that were."""
    size = 0
    for piece in pieces:
        size += len(piece)
        for start in range(0, len(piece), _PIECE_BYTES):
            part = piece[start : start + _PIECE_BYTES] if len(piece) > _PIECE_BYTES else piece
            if len(part) >= _HOLE_BYTES and part == _ZEROS[: len(part)]:
                file.seek(len(part), os.SEEK_CUR)
            else:
                file.write(part)
    file.truncate(size)
    return size
