"""Reading tar archives of strangers, so that what is damaged or cut off is told (floor 4)."""

from __future__ import annotations

import contextlib
import lzma
import tarfile
import zlib
from collections.abc import Iterator

from enclave.errors import EnclaveError, SandboxStartError

_DAMAGE = (
    tarfile.TarError,
    EOFError,
    zlib.error,
    lzma.LZMAError,
    ValueError,
    ArithmeticError,
    LookupError,
    RecursionError,
)
"""What `tarfile` and the decompressors raise on nonsense. An `OSError` without a number is theirs too."""
_NAME_LIMIT_BYTES = 1 << 20
_NAME_TYPES = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)


@contextlib.contextmanager
def damage_told(what: str) -> Iterator[None]:
    """Turn what nonsense in an archive raises while it is read into a `SandboxStartError` that begins with ``what``."""
    try:
        yield
    except EnclaveError:
        raise
    except (*_DAMAGE, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise SandboxStartError(f'{what}: {error or type(error).__name__}') from error


class WholeTarInfo(tarfile.TarInfo):
    """A member's header. `tarfile` takes one that is damaged, past the first, for the archive's end; this tells it."""

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
