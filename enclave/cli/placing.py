"""Putting programs and files into a sandbox, for the commands that run some (layer: entries)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from enclave.errors import InvalidArgumentError, SandboxPathExistsError

DEFAULT_DIR = '/sandbox'
PRIVATE_DIR = '/tmp/enclave-program'


def place_program(sandbox: Any, name: str, text: bytes, config: Mapping[str, Any]) -> tuple[str, dict[str, str]]:
    """Put a program into the sandbox and return its path, and variables it is to be run with.

    It goes where it works, beside what it may want to import and open. But what is mounted there is the host's, and is not
    to be written to unasked: then it goes to a place of its own, and Python learns where its modules are.
    """
    work = str(config.get('working_dir', DEFAULT_DIR)).rstrip('/') or '/'
    mounts = [str(each['bind']).rstrip('/') for each in config.get('volumes', {}).values()]
    is_mounted = any(f'{work}/'.startswith(f'{mount}/') for mount in mounts)
    # Relative, since where it works may be for a server to say; a leading dash would be an option.
    path = f'{PRIVATE_DIR}/{name}' if is_mounted else f'./{name}' if name.startswith('-') else name
    try:
        sandbox.write_file(path, text, exclusive=True, mode=0o755)
    except SandboxPathExistsError:
        # Copied in by --file, most likely.
        if sandbox.read_file(path) != text:
            raise InvalidArgumentError(
                f'{path} is in the sandbox already and is another file, from its image or --file; rename one'
            ) from None
    return path, {'PYTHONPATH': work} if is_mounted and 'PYTHONPATH' not in config.get('env_vars', {}) else {}


def put_files(sandbox: Any, copied: list[tuple[Path, str]]) -> None:
    """Copy host files, and what is in host directories, each to its path in the sandbox; see `parse_files`."""
    for source, target in copied:
        if source.is_dir():
            sandbox.put_dir(source, target)
        else:
            sandbox.put_file(source, target)
