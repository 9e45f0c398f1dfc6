"""The interface of E2B's SDK (layer 6): what ``e2b`` and ``e2b-code-interpreter`` ask, answered from sandboxes of this library.

Three services stand behind that interface: the control plane (REST, `sandboxes`), the daemon in a sandbox (processes and file
systems in Connect's JSON, `processes`, `filesystem`, and plain HTTP for files, `files`) and the code interpreter (`code`). All
of them are below ``/e2b`` here. Source of what travels: the packages ``e2b`` 2.63 and ``e2b-code-interpreter`` 2.11.
"""

from __future__ import annotations

from enclave.server.adapters.e2b import code, files, filesystem, processes, sandboxes, watching
from enclave.server.adapters.e2b.names import locators
from enclave.server.adapters.e2b.services import ADAPTER as E2B
from enclave.server.adapters.e2b.settings import E2BSettings

HANDLERS = (code, files, filesystem, processes, sandboxes, watching)
"""Imported for the addresses that they register."""

__all__ = ['E2B', 'HANDLERS', 'E2BSettings', 'locators']
