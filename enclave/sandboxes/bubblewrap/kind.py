"""Bubblewrap's kinds of sandbox (layer 4, bubblewrap); imports nothing heavy."""

from __future__ import annotations

from enclave.sandboxes.kinds import SandboxKind

_FACTS = ('driven_by', 'limits', 'network', 'seccomp')

KINDS = (
    SandboxKind(
        name='bubblewrap',
        sandbox='enclave.sandboxes.bubblewrap.sandbox:BubblewrapSandbox',
        config='enclave.sandboxes.bubblewrap.config:BubblewrapSandboxConfig',
        notebook='bubblewrap_notebook',
        rulings='enclave.sandboxes.bubblewrap.rulings:RULINGS',
        public_facts=_FACTS,
    ),
    SandboxKind(
        name='bubblewrap_notebook',
        sandbox='enclave.sandboxes.bubblewrap.notebook:BubblewrapNotebookSandbox',
        config='enclave.sandboxes.bubblewrap.notebook_config:BubblewrapNotebookConfig',
        is_notebook=True,
        rulings='enclave.sandboxes.bubblewrap.rulings:NOTEBOOK_RULINGS',
        public_facts=_FACTS,
    ),
)
