"""The options of a bubblewrap notebook sandbox's configuration (layer 4), beside those of any bubblewrap sandbox."""

from __future__ import annotations

from attrs import frozen

from enclave.config import refuses_unknown_keys
from enclave.sandboxes.bubblewrap.bubblewrap_config import BubblewrapSandboxConfig
from enclave.sandboxes.notebook.notebook_config import NotebookConfig


@refuses_unknown_keys
@frozen(kw_only=True)
class BubblewrapNotebookConfig(BubblewrapSandboxConfig, NotebookConfig):
    """What a bubblewrap notebook sandbox can be asked: the options of `BubblewrapSandboxConfig` and of `NotebookConfig`.

    ``python`` names a Python of this machine that has ipykernel, and ``rootfs`` a root file system whose ``python3`` has it.
    Where neither is given, it is this machine's ``python3``, else the Python of this process, of which the sandbox then sees
    no more than its programs and modules. See `enclave.sandboxes.bubblewrap.interpreter`.
    """
