"""The options of a bubblewrap sandbox's configuration (layer 4), beside the shared ones of `enclave.config`."""

from __future__ import annotations

import os
import re
from typing import Any

from attrs import field, frozen

from enclave.config import MIB, SandboxConfig, checked, is_a, is_text, parse_size, refuses_unknown_keys, whole_number
from enclave.errors import ConfigurationError
from enclave.quoting import quoted
from enclave.sandboxes.bubblewrap.layout import check_place

IMAGE_NAME = re.compile(r'[A-Za-z0-9][A-Za-z0-9._:/@-]{0,254}')
"""What an unpacked image may be called."""
_PROGRAM_BYTES = 48 * MIB


def _as_path_text(value: str | os.PathLike[str] | None) -> Any:
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, str) and value.startswith(('.', '~')):
        return os.path.abspath(os.path.expanduser(value))
    return value


def _check_rootfs(value: Any, name: str) -> None:
    if value is None:
        return
    if not is_text(value) or not (value.startswith('/') or IMAGE_NAME.fullmatch(value)):
        raise ConfigurationError(
            f'{name} must be a directory on this machine, the name of an unpacked image, or None, not {quoted(value)}'
        )


def _check_python(value: Any, name: str) -> None:
    if value is not None and (not is_text(value) or not value.startswith('/')):
        raise ConfigurationError(
            f'{name} must be the absolute path of an interpreter on this machine, not {quoted(value)}'
        )


def _check_size(value: Any, name: str) -> None:
    if parse_size(value, name) < 65536:
        raise ConfigurationError(f'{name} must be at least 64k, not {quoted(value)}')


def _check_size_or_none(value: Any, name: str) -> None:
    if value is not None:
        _check_size(value, name)


@refuses_unknown_keys
@frozen(kw_only=True)
class BubblewrapSandboxConfig(SandboxConfig):
    """What a bubblewrap sandbox can be asked, beyond `SandboxConfig`.

    Attributes:
        network_enabled: Off by default, unlike Docker's. On, the sandbox shares **this machine's own network**: code
        in it
            reaches whatever this machine reaches, services on 127.0.0.1 included.
        rootfs: What programs the sandbox sees, always read-only: None for this machine's ``/usr``, the path of a
        directory
            with a root file system, or the name of an image unpacked with ``ms-enclave images unpack``.
        python: Path of a Python on this machine that ``python3`` shall be in the sandbox; its prefix (that of a virtual
            environment and of the Python under it) is seen read-only at the same path. Not with ``rootfs``.
        disk_limit: The most that each private writable directory may hold: the working directory, ``/tmp`` and the
        home. They
            are in memory and count towards ``memory_limit``, so each is smaller where all of them full would leave the
            programs less than an eighth of it.
        file_size_limit: The most bytes one file may grow to; None for no limit but ``disk_limit``.
        shm_size: Size of ``/dev/shm``; at most an eighth of ``memory_limit``.
        open_files_limit: File descriptors of each process; never more than this process's own hard limit, and
            ``get_info()`` says when that is less.
        seccomp: Filter system calls as Docker's default profile does. Without the library for it (the extra
            ``bubblewrap``) a sandbox does not start, unless this is False.
        host_uid: The user id on this machine that the sandbox's processes have. None is the caller's own; where that is
            root, 65534 instead, so that nothing in the sandbox is root outside. Another than one's own needs root.
        remove_on_exit: False keeps the working directory on disk, for a later sandbox of the same id. ``disk_limit``
        cannot
            hold it there.
    """

    network_enabled: bool = field(default=False, validator=is_a(bool))
    rootfs: str | None = field(default=None, converter=_as_path_text, validator=checked(_check_rootfs))
    python: str | None = field(default=None, converter=_as_path_text, validator=checked(_check_python))
    disk_limit: str | int = field(default='512m', validator=checked(_check_size))
    file_size_limit: str | int | None = field(default=None, validator=checked(_check_size_or_none))
    shm_size: str | int = field(default='64m', validator=checked(_check_size))
    open_files_limit: int = field(default=4096, validator=whole_number(64, 1 << 20))
    seccomp: bool = field(default=True, validator=is_a(bool))
    host_uid: int | None = field(default=None, validator=whole_number(0, (1 << 32) - 2, none=True))

    def __attrs_post_init__(self) -> None:
        check_place(self.working_dir, 'working_dir')
        for source, target in self.volumes.items():
            check_place(target['bind'], f"volumes[{quoted(source)}]['bind']")
        if self.rootfs is not None and self.python is not None:
            raise ConfigurationError("python names this machine's interpreter, which a rootfs hides; drop one of them")

    @property
    def disk_bytes(self) -> int:
        """The size of each private writable directory in bytes: ``disk_limit``, or less under a small ``memory_limit``."""
        asked, memory = parse_size(self.disk_limit, 'disk_limit'), self.memory_bytes
        if memory is None:
            return asked
        room = memory - max(memory // 8, _PROGRAM_BYTES) - self.shm_bytes
        return max(min(asked, room // 3), 65536)

    @property
    def file_bytes(self) -> int | None:
        """``file_size_limit`` in bytes, or None."""
        return None if self.file_size_limit is None else parse_size(self.file_size_limit, 'file_size_limit')

    @property
    def shm_bytes(self) -> int:
        """The size of ``/dev/shm`` in bytes: ``shm_size``, but never more than an eighth of ``memory_limit``."""
        asked, memory = parse_size(self.shm_size, 'shm_size'), self.memory_bytes
        return asked if memory is None else max(min(asked, memory // 8), 65536)
