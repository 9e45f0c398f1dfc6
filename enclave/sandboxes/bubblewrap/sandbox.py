"""Sandboxes made of namespaces alone, without an engine (layer 4)."""

from __future__ import annotations

from typing import ClassVar

from enclave.enums import SandboxType
from enclave.sandboxes.agent_backed import AgentBackedSandbox
from enclave.sandboxes.backend import Backend
from enclave.sandboxes.bubblewrap.backend import BubblewrapBackend
from enclave.sandboxes.bubblewrap.bubblewrap_config import BubblewrapSandboxConfig


class BubblewrapSandbox(AgentBackedSandbox):
    """A sandbox without an engine. See `BubblewrapSandboxConfig` for what can be asked of it."""

    sandbox_type: ClassVar[SandboxType | str] = SandboxType.BUBBLEWRAP
    config_class: ClassVar[type[BubblewrapSandboxConfig]] = BubblewrapSandboxConfig
    backend_class: ClassVar[type[Backend] | None] = BubblewrapBackend
    config: BubblewrapSandboxConfig


def check_works() -> None:
    """Start a sandbox with nothing special about it, once.

    Raises:
        UnsupportedError: There is no bubblewrap, or no library for the filter.
        SandboxStartError: It does not work on this machine; the message says what to do.
    """
    with BubblewrapSandbox(sandbox_id='trial'):
        pass
