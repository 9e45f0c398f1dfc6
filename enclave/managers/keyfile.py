"""Where a server that made its own API key leaves it for clients of the same user on the same machine (layer 5).

One file a port, ``$XDG_STATE_HOME/enclave/keys/<port>.json`` (``~/.local/state`` where that is unset), which only its owner can
read: ``{"key": ..., "pid": ..., "port": ...}``. It lives as long as the server.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import stat
from pathlib import Path
from urllib.parse import urlsplit

_FILE_LIMIT = 4096


def key_folder() -> Path:
    """Return the directory of the key files."""
    base = os.environ.get('XDG_STATE_HOME', '')
    return (Path(base) if os.path.isabs(base) else Path.home() / '.local' / 'state') / 'enclave' / 'keys'


def write_key(port: int, key: str) -> Path:
    """Write the file of a port, readable by nobody else from its first moment on, and return its path."""
    folder = key_folder()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / f'{port}.json'
    beside = folder / f'.{port}.{os.getpid()}.tmp'
    with contextlib.suppress(FileNotFoundError):
        beside.unlink()
    handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, 'w', encoding='ascii') as file:
        json.dump({'key': key, 'pid': os.getpid(), 'port': port}, file)
    os.replace(beside, path)
    return path


def remove_key(port: int) -> None:
    """Remove the file of a port, if this process wrote it."""
    path = key_folder() / f'{port}.json'
    with contextlib.suppress(OSError, ValueError):
        if json.loads(path.read_text(encoding='ascii')).get('pid') == os.getpid():
            path.unlink()


def find_key(base_url: str) -> str | None:
    """Return the key that a server on this machine left for us, or None.

    Only for addresses of this machine itself. A file that others could have written or read is not trusted, nor is one whose
    server has ended, because somebody else may listen on the port by now.
    """
    parts = urlsplit(base_url)
    try:
        port = parts.port or (443 if parts.scheme == 'https' else 80)
    except ValueError:
        return None
    if not is_loopback(parts.hostname or ''):
        return None
    try:
        handle = os.open(key_folder() / f'{port}.json', os.O_RDONLY | getattr(os, 'O_NOFOLLOW', 0))
    except (OSError, RuntimeError):
        return None
    with os.fdopen(handle, 'r', encoding='ascii') as file:
        facts = os.fstat(file.fileno())
        if hasattr(os, 'geteuid') and (facts.st_uid != os.geteuid() or stat.S_IMODE(facts.st_mode) & 0o077):
            return None
        try:
            found = json.loads(file.read(_FILE_LIMIT))
            key, pid = found['key'], int(found['pid'])
        except (ValueError, KeyError, TypeError):
            return None
    return key if isinstance(key, str) and _is_running(pid) else None


def with_scheme(address: str) -> str:
    """Return the URL of a server whose address may be given without ``http://``."""
    return address if '://' in address else f'http://{address}'


def is_loopback(host: str) -> bool:
    """Return whether a host name or address means this machine and cannot be reached from another."""
    if host.rstrip('.').lower() == 'localhost':
        return True
    try:
        return ipaddress.ip_address(host.strip('[]').partition('%')[0]).is_loopback
    except ValueError:
        return False


def _is_running(pid: int) -> bool:
    if pid <= 0:
        return False
    if os.name == 'nt':  # os.kill would end it
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
