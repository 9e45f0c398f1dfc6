"""Bubblewrap's kinds of sandbox (layer 4, bubblewrap); imports nothing heavy."""

from __future__ import annotations

from enclave.sandboxes.kinds import SandboxKind

_FACTS = ('agent_python', 'driven_by', 'limits', 'network', 'seccomp')

KINDS = (
    SandboxKind(
        name='bubblewrap',
        sandbox='enclave.sandboxes.bubblewrap.sandbox:BubblewrapSandbox',
        config='enclave.sandboxes.bubblewrap.bubblewrap_config:BubblewrapSandboxConfig',
        notebook='bubblewrap_notebook',
        doctor='enclave.sandboxes.bubblewrap.doctor:BubblewrapExaminer',
        rank=20,
        check='enclave.sandboxes.bubblewrap.sandbox:check_works',
        works='bubblewrap works',
        fails='bubblewrap does not work either',
        housekeeper='enclave.sandboxes.bubblewrap.sweep:BubblewrapHousekeeper',
        rulings='enclave.sandboxes.bubblewrap.rulings:RULINGS',
        public_facts=_FACTS,
    ),
    SandboxKind(
        name='bubblewrap_notebook',
        sandbox='enclave.sandboxes.bubblewrap.notebook:BubblewrapNotebookSandbox',
        config='enclave.sandboxes.bubblewrap.bubblewrap_notebook_config:BubblewrapNotebookConfig',
        is_notebook=True,
        find_missing='enclave.sandboxes.bubblewrap.interpreter:find_missing',
        housekeeper='enclave.sandboxes.bubblewrap.sweep:BubblewrapHousekeeper',
        rulings='enclave.sandboxes.bubblewrap.rulings:NOTEBOOK_RULINGS',
        public_facts=_FACTS,
    ),
)
