"""The options of managers as keywords (layer: managers), for editors and type checkers.

`ManagerOptions` says the same as `SandboxManagerConfig`, which checks what is given; a test holds the two together.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypedDict

from enclave.config import GivenConfig
from enclave.enums import SandboxType

Lifetime = float | None | Literal['default']
"""Seconds; None or 0 for never; ``'default'`` for what the manager's configuration says."""


class LifeOptions(TypedDict, total=False):
    """How long a sandbox of a manager lives, and its labels; see `SandboxManager.create_sandbox`."""

    ttl: Lifetime
    idle_timeout: Lifetime
    labels: Mapping[str, str] | None


class ManagerOptions(TypedDict, total=False):
    """Options of a manager that is made by keywords."""

    base_url: str | None
    timeout: float | None
    api_key: str | None
    cleanup_interval: float
    pool_size: int
    sandbox_type: SandboxType | str | None
    sandbox_config: GivenConfig
    max_workers: int
    parallel_starts: int
    ttl: float | None
    idle_timeout: float | None
    max_ttl: float | None
    max_idle_timeout: float | None
    paused_ttl: float | None
    max_sandboxes: int | None
    tenant: str | None
    pool_unused_timeout: float | None
    pool_policy: Literal['reuse', 'fresh']
    pool_clean: Literal['processes', 'nothing']
    pool_when_empty: Literal['wait', 'grow', 'fail']
    pool_max_size: int | None
    pool_idle_timeout: float | None
    stop_grace: float
    stop_timeout: float | None
    sweep: bool
