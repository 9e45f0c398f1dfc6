"""The options of every kind of sandbox as keywords (layer: sandboxes), for editors and type checkers.

`SandboxOptions` says the same as the configurations do, which check what is given; a test holds the two together.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, TypedDict

from enclave.config import Environment, Size, ToolsConfig, Volumes
from enclave.enums import SandboxType
from enclave.sandboxes.call_options import CodeOptions as CodeOptions
from enclave.sandboxes.call_options import CommandOptions as CommandOptions
from enclave.sandboxes.call_options import ScriptOptions as ScriptOptions
from enclave.sandboxes.docker.docker_config import Ports, Ulimits

NotebookKind = Literal[
    SandboxType.DOCKER_NOTEBOOK, SandboxType.BUBBLEWRAP_NOTEBOOK, 'docker_notebook', 'bubblewrap_notebook'
]
"""The kinds that have kernels."""


class ProgramOptions(TypedDict, total=False):
    """Options of a sandbox that is made for one program. Which kind has which: see its configuration."""

    tools_config: ToolsConfig
    working_dir: str
    env_vars: Environment
    memory_limit: Size | None
    cpu_limit: float
    pids_limit: int | None
    network_enabled: bool
    volumes: Volumes
    remove_on_exit: bool
    max_output_bytes: int
    timeout_grace: float
    image: str
    entrypoint: str | Sequence[str] | None
    run_image_command: bool
    tty: bool
    pull: Literal['missing', 'never', 'always']
    ports: Ports
    network: str | None
    extra_hosts: Mapping[str, str]
    privileged: bool
    platform: str | None
    user: str | int | None
    read_only: bool
    tmpfs: Mapping[str, str] | Iterable[str]
    ulimits: Ulimits
    cap_add: Iterable[str]
    security_opt: Iterable[str]
    runtime: str | None
    shm_size: Size | None
    storage_opt: Mapping[str, str]
    rootfs: str | os.PathLike[str] | None
    python: str | os.PathLike[str] | None
    disk_limit: Size
    file_size_limit: Size | None
    open_files_limit: int
    seccomp: bool
    host_uid: int | None
    kernel_name: str
    interrupt_grace: float
    max_display_bytes: int
    port: int | None
    host: str | None
    gateway_auth: bool
    notebook_tools: Literal['notebook', 'all'] | None
    token: str | None


class SandboxOptions(ProgramOptions, total=False):
    """Options of a sandbox that is made by keywords: those that a call has too, besides."""

    timeout: float | None
    command: str | Sequence[str] | None
    entrypoint: str | Sequence[str] | None
    run_image_command: bool
    tty: bool
