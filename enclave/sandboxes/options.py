"""The options of every kind of sandbox as keywords (layer: sandboxes), for editors and type checkers.

`SandboxOptions` says the same as the configurations do, which check what is given; a test holds the two together.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal, TypedDict

from enclave.config import Environment, Size, ToolsConfig, Volumes
from enclave.enums import SandboxType
from enclave.languages.values import Comparison
from enclave.sandboxes.docker.config import Ports, Ulimits

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


class CommandOptions(TypedDict, total=False):
    """What a command of a sandbox takes besides its time limit; see `Verbs.execute_command`."""

    cwd: str | None
    env: Mapping[str, str] | None
    user: str | None
    stdin: str | bytes | None
    max_output_bytes: int | None
    max_chars: int | None
    on_stdout: Callable[[str], object] | None
    on_stderr: Callable[[str], object] | None


class ScriptOptions(TypedDict, total=False):
    """What a script takes besides its interpreter, source and time limit; see `Verbs.run_script`."""

    suffix: str
    args: Sequence[str]
    cwd: str | None
    env: Mapping[str, str] | None
    user: str | None
    stdin: str | bytes | None
    max_output_bytes: int | None
    import_path_env: str | None
    preload: Sequence[str] | None
    on_stdout: Callable[[str], object] | None
    on_stderr: Callable[[str], object] | None


class CodeOptions(TypedDict, total=False):
    """What a program takes besides its source and language; see `enclave.languages.values.CodeRequest`."""

    stdin: str | bytes | None
    args: Iterable[str]
    files: Mapping[str, str | bytes] | None
    fetch_files: Iterable[str]
    env: Mapping[str, str] | None
    compile_timeout: float | None
    timeout: float | None
    memory_limit: Size | None
    compile_memory_limit: Size | None
    cpu_time_limit: float | None
    output_limit: int
    max_output_bytes: int | None
    max_fetch_bytes: int
    expected_output: str | None
    compare: Comparison
    tolerance: float
    preload: Iterable[str] | None
