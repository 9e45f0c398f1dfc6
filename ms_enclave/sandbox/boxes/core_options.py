"""Documented configurations as `enclave` has them: in this process, and at a server.

In this process the documented behaviour wins: the program and the library are one user's. At a server safety wins: what would
be open there by default is not.
"""

from __future__ import annotations

import ipaddress
import shlex
from typing import Any

from ms_enclave.sandbox.model.config import DockerNotebookConfig, DockerSandboxConfig, SandboxConfig

PIDS_LIMIT = 4096
"""Processes and threads at once, where the program does not say; no program was seen to want as many."""
GATEWAY_PORT = '8888/tcp'
LOOPBACK = '127.0.0.1'
_ALL_ADDRESSES = '0.0.0.0'


def docker_options(config: DockerSandboxConfig, *, is_served: bool = False) -> dict[str, Any]:
    """Return the options of `enclave.DockerSandboxConfig` for a configuration.

    Args:
        is_served: It is a client's: a port without an address is published on loopback only.
    """
    is_open = config.network_enabled
    everywhere = LOOPBACK if is_served else _ALL_ADDRESSES
    options: dict[str, Any] = {
        'timeout': None,  # every call names its own
        'working_dir': config.working_dir,
        'env_vars': config.env_vars,
        'memory_limit': config.memory_limit,
        'cpu_limit': config.cpu_limit,
        'pids_limit': PIDS_LIMIT,
        'network_enabled': is_open,
        'volumes': {source: dict(target) for source, target in config.volumes.items()},
        'remove_on_exit': config.remove_on_exit,
        'image': config.image,
        'network': config.network if is_open and config.network != 'bridge' else None,
        'ports': {port: _binding(given, everywhere) for port, given in config.ports.items()} if is_open else {},
        'extra_hosts': config.extra_hosts,
        'privileged': config.privileged,
        'platform': config.platform,
        'tty': True,
    }
    command = _words(config.command)
    if command:
        options['command'] = command
    else:
        options['run_image_command'] = True
    if config.entrypoint is not None:
        options['entrypoint'] = _words(config.entrypoint)
    return options


def notebook_options(config: DockerNotebookConfig, *, is_served: bool = False) -> dict[str, Any]:
    """Return the options of `enclave.DockerNotebookConfig` for a configuration."""
    options = docker_options(config, is_served=is_served)
    if 'command' not in options:
        # The kernels are the library's own, whatever the image runs; its command would be a second gateway.
        for name in ('run_image_command', 'tty', 'entrypoint'):
            options.pop(name, None)
    options['network_enabled'] = True
    options['ports'].pop(GATEWAY_PORT, None)
    options['port'] = config.port
    options['host'] = LOOPBACK if is_served else _address(config.host)
    if config.token is not None:
        options['token'] = config.token
    elif options['host'] == LOOPBACK and not is_served:
        options['gateway_auth'] = False
    return options


def plain_options(config: SandboxConfig) -> dict[str, Any]:
    """Return the options that every kind of sandbox has."""
    return {'timeout': None, 'working_dir': config.working_dir, 'env_vars': config.env_vars}


def _words(command: str | list[str] | None) -> list[str]:
    return shlex.split(command) if isinstance(command, str) else list(command or ())


def _binding(given: Any, everywhere: str) -> tuple[str, int | None]:
    """Return where a port is published; 0 is a free port."""
    address, number = given if isinstance(given, (tuple, list)) else (everywhere, given)
    return address or everywhere, int(number) or None


def _address(host: str) -> str:
    """Return where a gateway is published: on loopback, or the address that the program reaches it by."""
    try:
        return str(ipaddress.ip_address(host.strip('[]')))
    except ValueError:
        return LOOPBACK if host.lower() == 'localhost' else _ALL_ADDRESSES
