"""Sandboxes and their factory. Importing this registers the kinds there are."""

from __future__ import annotations

from ms_enclave.sandbox.boxes.base import Sandbox, SandboxFactory, register_sandbox
from ms_enclave.sandbox.boxes.bubblewrap_sandbox import BubblewrapNotebookSandbox, BubblewrapSandbox
from ms_enclave.sandbox.boxes.docker_notebook import DockerNotebookSandbox
from ms_enclave.sandbox.boxes.docker_sandbox import DockerSandbox
from ms_enclave.sandbox.boxes.stateless_sandbox import StatelessSandbox
from ms_enclave.sandbox.boxes.volcengine import VolcengineSandbox

assert BubblewrapSandbox is not None  # imported for what they register
assert BubblewrapNotebookSandbox is not None

__all__ = [
    'DockerNotebookSandbox',
    'DockerSandbox',
    'Sandbox',
    'SandboxFactory',
    'StatelessSandbox',
    'VolcengineSandbox',
    'register_sandbox',
]
