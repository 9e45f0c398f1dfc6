"""What can be configured, with the documented fields and defaults.

Beside its own fields a configuration takes the options of the same kind in `enclave` (``pids_limit``, ``user``, ``read_only``,
...), which are passed to it as they are. An option that neither has is dropped, and a warning names it.
"""

from __future__ import annotations

import functools
import importlib
import re
from typing import Any, ClassVar

import attrs

from ms_enclave.sandbox.model.modeling import Model, field

DEFAULT_IMAGE = 'python:3.11-slim'
DEFAULT_NOTEBOOK_IMAGE = 'jupyter-kernel-gateway'
_SIZE = re.compile(r'[0-9]+[kmgKMG]?')


def _check_memory(value: Any) -> str | None:
    if _SIZE.fullmatch(value):
        return None
    return "must be digits and at most one of k, m, g, K, M, G, like '512m' or '4g'"


def _check_positive(value: Any) -> str | None:
    return None if value is None or value > 0 else 'Input should be greater than 0'


def _check_not_negative(value: Any) -> str | None:
    return None if value >= 0 else 'Input should be greater than or equal to 0'


@functools.cache
def _core_names(module: str, name: str) -> frozenset[str]:
    return frozenset(attrs.fields_dict(getattr(importlib.import_module(module), name)))


class _Config(Model):
    """What all configurations share: unknown options are dropped with a warning, further ones of `enclave` are kept."""

    _warns: ClassVar[bool] = True
    _core: ClassVar[tuple[str, str]] = ('enclave.config', 'SandboxConfig')

    @classmethod
    def _further_names(cls) -> frozenset[str]:
        return _core_names(*cls._core)

    @property
    def further_options(self) -> dict[str, Any]:
        """The options of `enclave` that were given beside the fields."""
        return dict(self._further_)


class SandboxConfig(_Config):
    """What every kind of sandbox can be asked.

    Attributes:
        timeout: Has no effect; every call names its own.
        tools_config: The tools: a list of names, or ``{name: keywords of the tool}``.
        working_dir: Where commands start; made if missing.
        env_vars: Environment of every command.
        resource_limits: Has no effect; see ``memory_limit`` and ``cpu_limit``.
    """

    timeout: int = 30
    tools_config: dict[str, dict[str, Any]] = field(default_factory=dict)
    working_dir: str = '/sandbox'
    env_vars: dict[str, str] = field(default_factory=dict)
    resource_limits: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def _checked(cls, data: Any) -> Any:
        tools = data.get('tools_config')
        if tools is not None and not isinstance(tools, (str, bytes)) and not hasattr(tools, 'keys'):
            try:
                data = {**data, 'tools_config': {name: {} for name in tools}}
            except TypeError:
                pass  # no sequence of names: said by the check below
        return super()._checked(data)


class DockerSandboxConfig(SandboxConfig):
    """What a Docker sandbox can be asked beyond `SandboxConfig`.

    Attributes:
        image: Pulled if missing.
        entrypoint: Instead of the image's; ``[]`` clears it.
        command: What runs in the container; a string is split as a shell would, but no shell reads it. None is the image's own.
        volumes: ``{host_path: {'bind': path, 'mode': 'rw' or 'ro'}}``.
        ports: ``{'8888/tcp': ('127.0.0.1', 8888)}``; a number alone is published on all addresses, 0 takes a free port.
        network: A named network. ``'bridge'`` is the usual one, whose members cannot reach each other here.
        extra_hosts: ``{name: address}``; ``'host-gateway'`` is the host's own.
        platform: Like ``'linux/amd64'``.
        memory_limit: Like ``'512m'``.
        cpu_limit: How many CPUs.
        network_enabled: Whether there is a network.
        privileged: Give the container the host's devices and all capabilities.
        remove_on_exit: Remove the container on stop.
        pull_progress: Log how a pull gets on, every ``pull_progress_interval`` seconds.
        docker_executor_workers: How many engine calls of one sandbox may wait at once. Has no effect: calls go over one stream.
    """

    _core: ClassVar[tuple[str, str]] = ('enclave.sandboxes.docker.docker_config', 'DockerSandboxConfig')

    image: str = DEFAULT_IMAGE
    entrypoint: str | list[str] | None = None
    command: str | list[str] | None = None
    volumes: dict[str, dict[str, str]] = field(default_factory=dict)
    ports: dict[str, int | str | tuple[str, int]] = field(default_factory=dict)
    network: str | None = 'bridge'
    extra_hosts: dict[str, str] = field(default_factory=dict)
    platform: str | None = None
    memory_limit: str = field(default='4g', check=_check_memory)
    cpu_limit: float = field(default=2.0, check=_check_positive)
    network_enabled: bool = True
    privileged: bool = False
    remove_on_exit: bool = True
    pull_progress: bool = False
    pull_progress_interval: float = 3.0
    docker_executor_workers: int = 8


class DockerNotebookConfig(DockerSandboxConfig):
    """What a Docker notebook sandbox can be asked beyond `DockerSandboxConfig`.

    Attributes:
        host: Where the library reaches the kernel gateway.
        port: Port of this machine that the gateway is published on.
        token: What the gateway's clients must send; None wants none.
    """

    _core: ClassVar[tuple[str, str]] = ('enclave.sandboxes.docker.docker_notebook_config', 'DockerNotebookConfig')

    image: str = DEFAULT_NOTEBOOK_IMAGE
    host: str = '127.0.0.1'
    port: int = 8888
    token: str | None = None


class VolcengineSandboxConfig(SandboxConfig):
    """The configuration of a cloud service's sandboxes, which this library does not reach."""

    base_url: str | None = None
    run_code_path: str = '/run_code'
    request_timeout: float = 30.0
    verify_ssl: bool = True
    extra_headers: dict[str, str] | None = None
    api_key: str | None = None
    dataset_language_map: dict[str, str] | None = None
    tool_language_map: dict[str, str] = field(default_factory=dict)


class BubblewrapSandboxConfig(SandboxConfig):
    """What a sandbox without a container engine can be asked: the options of `enclave.BubblewrapSandboxConfig`."""

    _core: ClassVar[tuple[str, str]] = ('enclave.sandboxes.bubblewrap.bubblewrap_config', 'BubblewrapSandboxConfig')


class BubblewrapNotebookConfig(SandboxConfig):
    """What a notebook sandbox without a container engine can be asked: the options of `enclave.BubblewrapNotebookConfig`."""

    _core: ClassVar[tuple[str, str]] = (
        'enclave.sandboxes.bubblewrap.bubblewrap_notebook_config',
        'BubblewrapNotebookConfig',
    )


class SandboxManagerConfig(_Config):
    """What a manager can be asked.

    Attributes:
        base_url: Address of a server; the factory then makes a manager of its sandboxes.
        timeout: Seconds: how long one request to a server may take; how long a call waits for a pool's sandbox.
        api_key: The key to show to a server, or that a server wants.
        cleanup_interval: Seconds between two looks for sandboxes that ended or are too old.
        pool_size: How many sandboxes `initialize_pool` makes where it is not asked for a number.
        sandbox_config: The configuration of sandboxes that are made without one.
    """

    _core: ClassVar[tuple[str, str]] = ('enclave.managers.manager_config', 'SandboxManagerConfig')

    base_url: str | None = None
    timeout: int | None = None
    api_key: str | None = None
    cleanup_interval: int | None = field(default=None, check=_check_positive)
    pool_size: int = field(default=0, check=_check_not_negative)
    sandbox_config: SandboxConfig | None = None

    @classmethod
    def _checked(cls, data: Any) -> Any:
        given = data.get('sandbox_config')
        if given is not None and hasattr(given, 'keys'):
            data = {**data, 'sandbox_config': DockerSandboxConfig.model_validate(given)}
        return super()._checked(data)


class VolcengineSandboxManagerConfig(SandboxManagerConfig):
    """The configuration of a cloud service's manager, which this library does not reach."""

    base_url: str = field()
    request_timeout: float = 30.0
    run_code_path: str = '/run_code'
    verify_ssl: bool = True
    extra_headers: dict[str, str] | None = None
    dataset_language_map: dict[str, str] | None = None
    max_concurrency: int = 16


class ToolConfig(Model):
    """Values for a tool; nothing reads them."""

    enabled: bool = True
    timeout: int = 30
    parameters: dict[str, Any] = field(default_factory=dict)
    restrictions: dict[str, Any] = field(default_factory=dict)


class PythonExecutorConfig(ToolConfig):
    """Values for ``python_executor``; nothing reads them."""

    python_path: str = 'python3'
    allowed_modules: list[str] | None = None
    blocked_modules: list[str] = field(default_factory=list)
    max_output_size: int = 1048576


class ShellExecutorConfig(ToolConfig):
    """Values for ``shell_executor``; nothing reads them."""

    shell_path: str = '/bin/bash'
    allowed_commands: list[str] | None = None
    blocked_commands: list[str] = field(default_factory=list)
    max_output_size: int = 1048576


class FileOperationConfig(ToolConfig):
    """Values for ``file_operation``; nothing reads them."""

    allowed_paths: list[str] | None = None
    blocked_paths: list[str] = field(default_factory=list)
    max_file_size: int = 10485760
    allowed_extensions: list[str] | None = None


__all__ = [
    'DockerNotebookConfig',
    'DockerSandboxConfig',
    'FileOperationConfig',
    'PythonExecutorConfig',
    'SandboxConfig',
    'SandboxManagerConfig',
    'ShellExecutorConfig',
    'ToolConfig',
    'VolcengineSandboxConfig',
    'VolcengineSandboxManagerConfig',
]
