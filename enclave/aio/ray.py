"""The manager of sandboxes on a Ray cluster, for ``async with`` (layer 6). Imported when it is asked for: it brings a server."""

from __future__ import annotations

from typing import ClassVar

from enclave.aio.managers import SandboxManager
from enclave.aio.proxies import Forwarded, to_async
from enclave.aio.sandboxes import with_docstrings
from enclave.ray import manager
from enclave.ray.ray_options import RayOptions


@with_docstrings
class RaySandboxManager(SandboxManager):
    """Sandboxes on the nodes of a Ray cluster. See `enclave.ray.manager.RaySandboxManager`."""

    _home: ClassVar[tuple[str, str]] = (manager.__name__, 'RaySandboxManager')

    options: Forwarded[RayOptions] = Forwarded('What its shards are.')

    detach = to_async(manager.RaySandboxManager.detach)
