"""The import paths that programs written for ms-enclave use, over `enclave`.

Such programs run as they are: the names, the fields, the argument orders and the results are the documented ones, and the
sandboxes behind them are those of `enclave`. ``docs/migration.md`` lists what differs. New programs use `enclave`, or
`enclave.aio` where they have an event loop.
"""

from __future__ import annotations

from ms_enclave.version import __release_date__, __version__

__all__ = ['__release_date__', '__version__']
