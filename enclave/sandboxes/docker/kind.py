"""Docker's kinds of sandbox (layer 4, docker); imports nothing heavy."""

from __future__ import annotations

from enclave.sandboxes.kinds import SandboxKind

_FACTS = (
    'agent_python',
    'agent_uid',
    'container_id',
    'container_name',
    'driven_by',
    'gateway',
    'image',
    'network',
)

KINDS = (
    SandboxKind(
        name='docker',
        sandbox='enclave.sandboxes.docker.sandbox:DockerSandbox',
        config='enclave.sandboxes.docker.docker_config:DockerSandboxConfig',
        notebook='docker_notebook',
        doctor='enclave.sandboxes.docker.doctor:DockerExaminer',
        rank=10,
        check='enclave.sandboxes.docker.sweep:ping_engine',
        works='a Docker engine answers',
        fails='no Docker engine answers',
        housekeeper='enclave.sandboxes.docker.sweep:DockerHousekeeper',
        find_missing='enclave.sandboxes.docker.missing:find_missing',
        inventory='enclave.sandboxes.docker.attach:DockerInventory',
        rulings='enclave.sandboxes.docker.rulings:RULINGS',
        public_facts=_FACTS,
    ),
    SandboxKind(
        name='docker_notebook',
        sandbox='enclave.sandboxes.docker.notebook:DockerNotebookSandbox',
        config='enclave.sandboxes.docker.docker_notebook_config:DockerNotebookConfig',
        is_notebook=True,
        housekeeper='enclave.sandboxes.docker.sweep:DockerHousekeeper',
        find_missing='enclave.sandboxes.docker.missing:find_missing_for_notebooks',
        inventory='enclave.sandboxes.docker.attach:DockerInventory',
        rulings='enclave.sandboxes.docker.rulings:NOTEBOOK_RULINGS',
        public_facts=_FACTS,
    ),
)
