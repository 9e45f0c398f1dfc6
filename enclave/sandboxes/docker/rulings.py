"""What the options of Docker's kinds reach on the host (layer 4, docker); see `enclave.rulings`."""

from __future__ import annotations

from typing import Any

import attrs

from enclave.rulings import (
    NOTEBOOK,
    SHARED,
    Gate,
    Ruling,
    Rulings,
    among,
    check_inner_path,
    image,
    inside,
    only_if,
    size_at_most,
)

_TMPFS_FLAGS = frozenset(
    {'ro', 'rw', 'exec', 'noexec', 'nosuid', 'nodev', 'noatime', 'nodiratime', 'relatime', 'sync', 'async'}
)
_TMPFS_VALUES = frozenset({'mode', 'uid', 'gid', 'nr_inodes', 'nr_blocks'})


def _check_pull(gate: Gate, option: str, value: Any, config: Any) -> Any:
    """An image that the engine lacks takes its disk. That of a kind's own default is what a server is there for.

    For another platform it is not: the engine then has the name stand for what was fetched last, for everybody.
    """
    own: Any = attrs.fields_dict(type(config))['image'].default
    if value == 'never' or gate.may_fetch(config.image, config.platform or None):
        return value
    if value == 'always':
        gate.flag('allow_pull', 'images may not be pulled')
    return value if config.image == own and not config.platform else 'never'


def _check_ports(gate: Gate, option: str, value: Any, config: Any) -> Any:
    for address, number in value.values():
        gate.port(option, str(address), number)
    if value:
        gate.number('max_ports', f'the number of {option}', len(value))
    return value


def _check_gateway(gate: Gate, option: str, value: Any, config: Any) -> Any:
    if config.has_gateway:
        gate.port(option, *config.gateway_binding)
    return value


def _check_gateway_auth(gate: Gate, option: str, value: Any, config: Any) -> Any:
    """Without a token every user of the server's machine gets at the kernels."""
    if not value:
        gate.flag('privileged', f'{option}=False may not be asked')
    return value


def _check_tmpfs(gate: Gate, option: str, value: Any, config: Any) -> Any:
    for path, options in value.items():
        check_inner_path(path, option)
        for word in filter(None, options.split(',')):
            name, equals, text = word.partition('=')
            if name == 'size' and equals and not text.endswith('%'):
                gate.size('max_memory', f'{option}[{path!r}]', text)
            elif word not in _TMPFS_FLAGS and not (equals and name in _TMPFS_VALUES):
                gate.flag('privileged', f'{option}[{path!r}] may not have the option {word!r}')
    return value


def _check_ulimits(gate: Gate, option: str, value: Any, config: Any) -> Any:
    for name, bounds in value.items():
        for each in bounds:
            gate.limit(option, name, each)
    return value


def _check_storage(gate: Gate, option: str, value: Any, config: Any) -> Any:
    for name, text in value.items():
        if name == 'size':
            gate.size('max_disk', option, text)
        else:
            gate.flag('privileged', f'{option} may not have {name!r}')
    return value


RULINGS: Rulings = {
    **SHARED,
    'image': image(),
    'pull': Ruling(_check_pull),
    'command': inside(),
    'entrypoint': inside(),
    'run_image_command': inside(),
    'tty': inside(),
    'ports': Ruling(_check_ports),
    'network': among('networks'),
    'extra_hosts': inside(),
    'privileged': only_if('privileged', 'privileged sandboxes may not be made'),
    'platform': inside(),
    'user': inside(),
    'read_only': inside(),
    'tmpfs': Ruling(_check_tmpfs),
    'ulimits': Ruling(_check_ulimits),
    'cap_add': among('capabilities'),
    'security_opt': among('security_options'),
    'runtime': among('runtimes'),
    'shm_size': size_at_most('max_memory', none_is_less=True),
    'storage_opt': Ruling(_check_storage),
}

NOTEBOOK_RULINGS: Rulings = {
    **RULINGS,
    **NOTEBOOK,
    'port': Ruling(_check_gateway),
    'host': Ruling(_check_gateway),
    'token': Ruling(_check_gateway),
    'gateway_auth': Ruling(_check_gateway_auth),
}
