"""The options of every kind of sandbox as keywords (layer: sandboxes), for editors and type checkers.

`SandboxOptions` says the same as the configurations do, which check what is given; a test holds the two together.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TypedDict

Size = str | int
"""Bytes, or a text like ``'512m'``."""
ToolsConfig = Mapping[str, Mapping[str, Any] | bool | None] | Iterable[str]
Volumes = Mapping[str | os.PathLike[str], str | Mapping[str, str]]
Port = str | int
Binding = tuple[str, int | None] | int | str | None


class ProgramOptions(TypedDict, total=False):
    """Options of a sandbox that is made for one program. Which kind has which: see its configuration."""

    tools_config: ToolsConfig
    working_dir: str
    env_vars: Mapping[str, str | int | float]
    memory_limit: Size | None
    cpu_limit: float
    pids_limit: int | None
    network_enabled: bool
    volumes: Volumes
    remove_on_exit: bool
    max_output_bytes: int
    image: str
    pull: Literal['missing', 'never', 'always']
    ports: Mapping[Port, Binding] | Sequence[Port]
    network: str | None
    extra_hosts: Mapping[str, str]
    privileged: bool
    platform: str | None
    user: str | int | None
    read_only: bool
    tmpfs: Mapping[str, str] | Sequence[str]
    ulimits: Mapping[str, int | tuple[int, int]]
    cap_add: Sequence[str]
    security_opt: Sequence[str]
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
    token: str | None


class SandboxOptions(ProgramOptions, total=False):
    """Options of a sandbox that is made by keywords: those that a call has too, besides."""

    timeout: float | None
    command: str | Sequence[str] | None
