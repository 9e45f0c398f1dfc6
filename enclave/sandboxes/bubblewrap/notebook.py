"""Notebook sandboxes without an engine (layer 4): Jupyter kernels in namespaces, under a Python of this machine or a rootfs's."""

from __future__ import annotations

from typing import Any, ClassVar

from enclave.config import MIB
from enclave.enums import SandboxType
from enclave.sandboxes.backend import Backend, SandboxSpec
from enclave.sandboxes.bubblewrap.backend import BubblewrapBackend
from enclave.sandboxes.bubblewrap.bubblewrap_notebook_config import BubblewrapNotebookConfig
from enclave.sandboxes.bubblewrap.interpreter import explain_missing, find_kernel_python
from enclave.sandboxes.bubblewrap.rootfs import View
from enclave.sandboxes.bubblewrap.sandbox import BubblewrapSandbox
from enclave.sandboxes.notebook.sandbox import NotebookSandbox

_RESERVED_BYTES = 128 * MIB
"""What a kernel reserves and does not use, above all the stacks of its ten threads: of 118 MiB of data that an idle one has, 35
are in memory (measured with ipykernel 7.4)."""
_ADDRESS_BYTES = 2048 * MIB
"""The least address space of a kernel's process; an idle one has 650 MiB."""


class BubblewrapNotebookBackend(BubblewrapBackend):
    """Makes a notebook sandbox run by bubblewrap, with a Python that has ipykernel."""

    config: BubblewrapNotebookConfig

    def __init__(self, spec: SandboxSpec) -> None:
        super().__init__(spec)
        self._python = 'python3'

    @property
    def kernel_python(self) -> str:
        """See `Backend.kernel_python`."""
        return self._python

    def explain_missing_kernel(self) -> str:
        """See `Backend.explain_missing_kernel`."""
        return explain_missing(self._python, self.config.rootfs)

    def _find_view(self) -> View:
        config = self.config
        if config.python is not None or config.rootfs is not None:
            self._python = config.python or 'python3'
            return super()._find_view()
        found = find_kernel_python(network=config.network_enabled)
        self._python = found.path
        return found.view

    def _more_facts(self) -> dict[str, Any]:
        return {'kernel_python': self._python}

    def _rlimits(self, held: tuple[str, ...]) -> dict[str, int]:
        limits = super()._rlimits(held)
        if 'DATA' in limits:
            limits['DATA'] += _RESERVED_BYTES
            limits['AS'] = max(limits['AS'], _ADDRESS_BYTES)
        return limits


class BubblewrapNotebookSandbox(NotebookSandbox, BubblewrapSandbox):
    """A notebook sandbox without an engine. See `BubblewrapNotebookConfig` for what can be asked of it.

    ``metadata['kernel_python']`` says which Python its kernels run under.
    """

    sandbox_type: ClassVar[SandboxType | str] = SandboxType.BUBBLEWRAP_NOTEBOOK
    config_class: ClassVar[type[BubblewrapNotebookConfig]] = BubblewrapNotebookConfig
    backend_class: ClassVar[type[Backend] | None] = BubblewrapNotebookBackend
    config: BubblewrapNotebookConfig
