"""Which Python of this machine runs the kernels of a sandbox without Docker, where nobody says (layer 4).

The system's ``python3`` if it has ipykernel, else the Python of this process if that has it. It counts only where the sandbox
sees it: modules in somebody's home (``pip install --user``) or on PYTHONPATH are not shown there.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any

from attrs import frozen

from enclave.errors import SandboxStartError
from enclave.sandboxes.bubblewrap.rootfs import View, find_system_python, get_view, plain_program

_PROBE_SECONDS = 30.0
# Isolated, so that neither the caller's environment nor a home counts; the sandbox has neither.
_PROBE = """\
import importlib.metadata as m, importlib.util as u
found = u.find_spec('ipykernel')
if found and found.origin:
    print(m.version('ipykernel'), found.origin)
"""


@frozen
class Kernel:
    """An ipykernel on this machine: its version, and the file of its package."""

    version: str
    origin: str


@frozen
class KernelPython:
    """A Python with ipykernel: the interpreter's path, the same inside and outside, the view that shows it, and what it has."""

    path: str
    view: View
    kernel: Kernel

    @property
    def description(self) -> str:
        """What it is, for a person."""
        return f'{self.path} with ipykernel {self.kernel.version}'


def look_for_kernel(python: str) -> Kernel | None:
    """Return the ipykernel that an interpreter has, or None. Starts it for a moment, some 30 ms."""
    try:
        found = subprocess.run(
            [python, '-I', '-c', _PROBE],
            capture_output=True,
            text=True,
            timeout=_PROBE_SECONDS,
            stdin=subprocess.DEVNULL,
            cwd='/',
        )
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    version, _, origin = found.stdout.strip().partition(' ')
    return Kernel(version, origin) if found.returncode == 0 and origin else None


_chosen: dict[tuple[str, str], tuple[str, Kernel]] = {}  # by the candidates; single reads and writes, so no lock


def find_kernel_python(*, network: bool = False) -> KernelPython:
    """Return the Python to run kernels with; looked for once, and again when what was found has gone.

    Args:
        network: Whether the sandbox has a network, for the view.

    Raises:
        SandboxStartError: None has ipykernel; the message, and ``details['remedy']``, say what to do.
    """
    candidates = find_system_python() or '', own_python() or ''
    known = _chosen.get(candidates)
    if known is not None and os.path.exists(known[1].origin):
        path, kernel = known
        return KernelPython(path, _view(path, candidates[0], network=network), kernel)
    found = choose_kernel_python(*candidates, network=network)
    _chosen[candidates] = found.path, found.kernel
    return found


def choose_kernel_python(
    system: str, own: str, *, network: bool = False, look: Callable[[str], Kernel | None] = look_for_kernel
) -> KernelPython:
    """Look at both and return the first that has an ipykernel which a sandbox sees; see `find_kernel_python`.

    Args:
        system: The system's ``python3``, or ''.
        own: The Python of this process, or ''.
        look: Returns the ipykernel of an interpreter, or None.
    """
    tried = []
    for path in dict.fromkeys(each for each in (system, own) if each):
        kernel = look(path)
        if kernel is None:
            tried.append(f'{path} has none')
            continue
        view = _view(path, system, network=network)
        if _is_shown(kernel.origin, view):
            return KernelPython(path, view, kernel)
        tried.append(f'{path} has it in {kernel.origin}, where sandboxes do not see it')
    remedy = _remedy(system, own)
    raise SandboxStartError(
        'a notebook without Docker needs a Python of this machine that has ipykernel, installed for all and not with --user; '
        f'{"; ".join(tried) or "no python3 was found"}. {remedy}; or set python to an interpreter that has ipykernel, '
        'or rootfs to an unpacked image that has it',
        details={'remedy': remedy},
    )


def _view(path: str, system: str, *, network: bool) -> View:
    return get_view(None, None if path == system else path, network=network, whole=False)


def _remedy(system: str, own: str) -> str:
    is_environment = os.path.exists(os.path.join(os.path.dirname(os.path.dirname(own)), 'pyvenv.cfg'))
    if own and (is_environment or os.path.realpath(own) != os.path.realpath(system)):
        return f'Run: {own} -m pip install ipykernel'
    # Systems forbid pip to change their own Python.
    return 'Run this program in a virtual environment, with: python -m pip install ipykernel'


def own_python() -> str | None:
    """Return the Python of this process, or None where the process is another program with a Python in it."""
    path = sys.executable or ''
    is_python = os.path.basename(path).startswith(('python', 'pypy')) and not getattr(sys, 'frozen', False)
    return plain_program(path) if is_python and os.path.isabs(path) else None


def _is_shown(origin: str, view: View) -> bool:
    real = os.path.realpath(origin)
    return any(real.startswith(f'{os.path.realpath(source).rstrip("/")}/') for source, _ in view.trees)


def explain_missing(python: str | None, rootfs: str | None) -> str:
    """Return what to do where the Python that a configuration names has no ipykernel."""
    if rootfs is not None:
        return (
            f'The rootfs {rootfs!r} needs ipykernel: install it there, or use an image that has it '
            '(ms-enclave images unpack jupyter-kernel-gateway)'
        )
    return f'{python} needs ipykernel; run: {python} -m pip install ipykernel'


def find_missing(config: Mapping[str, Any]) -> None:
    """Return if there is a Python for the kernels of a notebook sandbox with these options; nothing is ever fetched.

    Raises:
        SandboxStartError: There is none; the message says what to install.
    """
    if not config.get('python') and not config.get('rootfs'):
        find_kernel_python()
