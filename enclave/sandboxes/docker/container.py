"""What the engine is asked to create for a sandbox (layer 4, docker): every limit on, and nothing open that was not asked for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from enclave.config import parse_size
from enclave.sandboxes.backend import SandboxSpec
from enclave.sandboxes.docker.docker_config import DockerSandboxConfig
from enclave.sandboxes.docker.sweep import LABEL, LABEL_KEPT, LABEL_MAIN, LABEL_TENANT
from enclave.sandboxes.owner import current_owner

CAPABILITIES = ('CHOWN', 'DAC_OVERRIDE', 'FOWNER', 'FSETID', 'KILL', 'SETGID', 'SETUID')
"""What pip and apt need inside (measured with all others dropped), and KILL, with which the agent can end a call's processes
whatever user they became. No other capability is left, SYS_PTRACE above all, so nothing can look into the agent."""
OPEN_FILES = 4096
HOST_NAME = 'sandbox'
LABEL_START = 'enclave.start'
"""Distinguishes the containers of several starts of one id."""

_NO_OWN_NETWORK = re.compile(r'host$|container:')


def container_body(
    spec: SandboxSpec,
    *,
    entrypoint: Sequence[str] | None,
    start_mark: str,
    network: str,
    cpus: Sequence[int] | None,
    cpu_limit: float,
    sets_sysctls: bool,
) -> dict[str, Any]:
    """Return the body of "create a container" (Docker Engine API).

    Args:
        entrypoint: What process 1 runs, with its standard streams attached; None for the container's own command.
        start_mark: The value of `LABEL_START`.
        network: The engine's network mode.
        cpus: The processors that the container has, where no agent chooses some for each call.
        cpu_limit: The configuration's, or how many processors the engine has if those are fewer: it refuses more.
        sets_sysctls: Whether the engine takes kernel parameters.
    """
    config: DockerSandboxConfig = spec.config
    body: dict[str, Any] = {
        'Image': config.image,
        'Hostname': HOST_NAME,
        'WorkingDir': config.working_dir,
        'Env': [f'{name}={value}' for name, value in config.env_vars.items()],
        'Labels': {
            LABEL: spec.id,
            LABEL_START: start_mark,
            'enclave.type': spec.kind,
            **current_owner().labels(),
        },
        'HostConfig': _host_config(
            config, network=network, cpu_limit=cpu_limit, is_agent=entrypoint is not None, sets_sysctls=sets_sysctls
        ),
    }
    if cpus is not None:
        body['HostConfig']['CpusetCpus'] = ','.join(map(str, cpus))
    if not config.remove_on_exit:
        body['Labels'][LABEL_KEPT] = '1'
    if spec.tenant is not None:
        body['Labels'][LABEL_TENANT] = spec.tenant
    if config.user:
        body['User'] = config.user
    if config.ports:
        body['ExposedPorts'] = {port: {} for port in config.ports}
    if entrypoint is not None:
        body.update(
            Entrypoint=list(entrypoint),
            Cmd=[],
            OpenStdin=True,
            StdinOnce=True,
            AttachStdin=True,
            AttachStdout=True,
            AttachStderr=True,
            Tty=False,
        )
    else:
        body['Labels'][LABEL_MAIN] = '1'
        if config.command is not None:
            is_text = isinstance(config.command, str)
            body['Cmd'] = ['/bin/sh', '-c', config.command] if is_text else list(config.command)
        if config.entrypoint is not None:
            body['Entrypoint'] = list(config.entrypoint)
        if config.tty:
            body.update(Tty=True, OpenStdin=True)
    return body


def _host_config(
    config: DockerSandboxConfig, *, network: str, cpu_limit: float, is_agent: bool, sets_sysctls: bool
) -> dict[str, Any]:
    """Return the engine's HostConfig."""
    # Without a network the engine writes no line for the sandbox's own name, which programs look up at their start.
    hosts = {**({} if config.network_enabled else {HOST_NAME: '127.0.0.1'}), **config.extra_hosts}
    host: dict[str, Any] = {
        # A container with its own command is removed by us, since its exit code and last output are wanted first.
        'AutoRemove': config.remove_on_exit and is_agent,
        'LogConfig': {'Type': 'none'}
        if is_agent
        else {'Type': 'json-file', 'Config': {'max-size': '1m', 'max-file': '1'}},
        'NetworkMode': network,
        'NanoCpus': int(cpu_limit * 1e9),
        'PidsLimit': config.pids_limit or -1,
        'Privileged': config.privileged,
        'ReadonlyRootfs': config.read_only,
        'SecurityOpt': [*config.security_opt],
        'Mounts': [
            {'Type': 'bind', 'Source': source, 'Target': target['bind'], 'ReadOnly': target['mode'] == 'ro'}
            for source, target in config.volumes.items()
        ],
        'Tmpfs': _tmpfs(config),
        'Ulimits': [
            {'Name': name, 'Soft': soft, 'Hard': hard}
            for name, (soft, hard) in {'nofile': (OPEN_FILES, OPEN_FILES), **config.ulimits}.items()
        ],
        'ExtraHosts': [f'{name}:{address}' for name, address in hosts.items()],
        'PortBindings': {
            port: [{'HostIp': address, 'HostPort': '' if number is None else str(number)}]
            for port, (address, number) in config.ports.items()
        },
    }
    if sets_sysctls and not _NO_OWN_NETWORK.match(network):
        # The engine turns IPv6 off, also on the loopback, but names ::1 as 'localhost' in /etc/hosts: binding that fails.
        host['Sysctls'] = {'net.ipv6.conf.lo.disable_ipv6': '0'}
    if config.memory_bytes is not None:
        # The same value for memory and memory with swap turns swap off.
        host.update(Memory=config.memory_bytes, MemorySwap=config.memory_bytes)
    if not config.privileged:
        host['CapDrop'] = ['ALL']
        host['CapAdd'] = [*CAPABILITIES, *config.cap_add]
        if not any(option.startswith('no-new-privileges') for option in config.security_opt):
            host['SecurityOpt'].append('no-new-privileges')
    if config.runtime:
        host['Runtime'] = config.runtime
    if config.shm_size is not None:
        host['ShmSize'] = parse_size(config.shm_size, 'shm_size')
    if config.storage_opt:
        host['StorageOpt'] = dict(config.storage_opt)
    return host


def _tmpfs(config: DockerSandboxConfig) -> dict[str, str]:
    tmpfs = dict(config.tmpfs)
    if config.read_only:
        mounted = {target['bind'].rstrip('/') for target in config.volumes.values()}
        for path in ('/tmp', config.working_dir):
            if path not in tmpfs and path.rstrip('/') not in mounted:
                tmpfs[path] = 'mode=1777'
    return tmpfs
