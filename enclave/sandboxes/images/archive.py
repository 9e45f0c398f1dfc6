"""Reading tar archives of strangers, compressed or not, so that what is damaged or cut off is reported (layer 4).

`tarfile` decompresses a stream by itself, but does not read it to the end, where the check sums are; so we do.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import hashlib
import io
import lzma
import sys
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import IO, Any

from enclave.errors import EnclaveError, SandboxStartError

COPY_BYTES = 1 << 20
"""How much is read at a time."""
_DAMAGE: tuple[type[Exception], ...] = (
    tarfile.TarError,
    EOFError,
    zlib.error,
    lzma.LZMAError,
    ValueError,
    ArithmeticError,
    LookupError,
    RecursionError,
    OSError,
)
"""What `tarfile` and the decompressors raise on nonsense; an `OSError` if it has no number."""
_NAME_LIMIT_BYTES = 1 << 20
_NAME_TYPES = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
_ZSTD = b'\x28\xb5\x2f\xfd'
_DECOMPRESSORS: dict[bytes, Callable[[Any], IO[bytes]]] = {
    b'\x1f\x8b': lambda file: gzip.GzipFile(fileobj=file, mode='rb'),  # type: ignore[dict-item, return-value]
    b'BZh': bz2.BZ2File,
    b'\xfd7zXZ\0': lzma.LZMAFile,
    b'\x5d\0\0\x80': lzma.LZMAFile,
}
"""What opens a compressed file, by its first bytes."""
if sys.version_info >= (3, 14):
    from compression.zstd import ZstdError, ZstdFile

    _DAMAGE = (*_DAMAGE, ZstdError)
    _DECOMPRESSORS[_ZSTD] = ZstdFile


def find_decompressor(file: IO[bytes]) -> Callable[[Any], IO[bytes]] | None:
    """Return what decompresses a file that stands at its beginning, and stays there; None if it is not compressed.

    Raises:
        SandboxStartError: It is compressed in a way that this Python does not know.
    """
    head = file.read(6)
    file.seek(0)
    if head.startswith(_ZSTD) and _ZSTD not in _DECOMPRESSORS:
        raise SandboxStartError('the image is compressed with zstd, which must be gzip or plain before Python 3.14')
    return next((found for magic, found in _DECOMPRESSORS.items() if head.startswith(magic)), None)


class Measured(io.RawIOBase):
    """A file whose bytes are counted and hashed as they are read, once, from the beginning.

    Args:
        digests: What it will be checked for, ``'sha256:...'``; None among them is nothing.
    """

    def __init__(self, file: IO[bytes], digests: Iterable[str | None]) -> None:
        self._file: Any = file
        self._size_bytes = 0
        self._hashes = {name: hashlib.new(name) for name in {each.partition(':')[0] for each in digests if each}}

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read as `io.RawIOBase` says."""
        count: int = self._file.readinto(buffer)
        self._size_bytes += count
        for each in self._hashes.values():
            each.update(memoryview(buffer)[:count])
        return count

    def check(self, digest: str | None, size_bytes: int | None = None) -> None:
        """Read what is left, and compare.

        Raises:
            ValueError: The file is another one.
        """
        while self.read(COPY_BYTES):
            pass
        if size_bytes not in (None, self._size_bytes):
            raise ValueError(f'it has {self._size_bytes} bytes, not {size_bytes}')
        if digest is not None:
            name = digest.partition(':')[0]
            found = f'{name}:{self._hashes[name].hexdigest()}'
            if found != digest:
                raise ValueError(f'its digest is {found}, not {digest}')


@contextlib.contextmanager
def damage_reported(what: str) -> Iterator[None]:
    """Turn what nonsense in an archive raises while it is read into a `SandboxStartError` that begins with ``what``."""
    try:
        yield
    except EnclaveError:
        raise
    except _DAMAGE as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise SandboxStartError(f'{what}: {error or type(error).__name__}') from error


class WholeTarInfo(tarfile.TarInfo):
    """A member's header. `tarfile` takes one that is damaged, past the first, for the archive's end; this says it."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> WholeTarInfo:
        """Read the next member's header.

        Raises:
            tarfile.ReadError: It is damaged or cut off.
        """
        try:
            found = super().fromtarfile(archive)
        except (tarfile.InvalidHeaderError, tarfile.TruncatedHeaderError) as error:  # type: ignore[attr-defined]
            raise tarfile.ReadError(str(error)) from error
        if found.size < 0:
            raise tarfile.ReadError(f'{found.name!r} has {found.size} bytes')
        return found

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> WholeTarInfo:
        """Make it from its 512 bytes.

        Raises:
            tarfile.ReadError: It announces a name of a size that is none: it would be read into memory as a whole.
        """
        found = super().frombuf(buf, encoding, errors)
        if found.type in _NAME_TYPES and not 0 <= found.size <= _NAME_LIMIT_BYTES:
            raise tarfile.ReadError(f'a header of {found.size} bytes')
        return found
