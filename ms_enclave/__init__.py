"""The import paths that programs have been written to, over `enclave.aio`.

Everything here is the same library under its documented names. What differs is told in `ms_enclave.sandbox.boxes`:
a tool's result carries stderr text in ``error`` also when it succeeded.
"""

from __future__ import annotations

from enclave import __version__

__all__ = ['__version__']
