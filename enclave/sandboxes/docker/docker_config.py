"""The options of a Docker sandbox's configuration (layer 4), beside the shared ones of `enclave.config`.

Source of meanings and bounds: the Docker Engine API's HostConfig.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from attrs import field, frozen

from enclave.config import (
    SandboxConfig,
    as_dict,
    as_digits,
    as_strings,
    as_text_map,
    as_tuple,
    check_names,
    check_text_map,
    checked,
    is_a,
    is_text,
    parse_size,
    refuses_unknown_keys,
)
from enclave.errors import ConfigurationError
from enclave.quoting import quoted

DEFAULT_IMAGE = 'python:3.11-slim'
_PORT = re.compile('[0-9]{1,5}')
_ULIMIT = 2**63
_PROTOCOLS = ('tcp', 'udp', 'sctp')
PortBinding = tuple[str, int | None]
Binding = PortBinding | int | str | None
Ports = Mapping[str, Binding] | Mapping[int, Binding] | Iterable[str | int]
Ulimits = Mapping[str, int] | Mapping[str, tuple[int, int]] | Mapping[str, int | tuple[int, int]]


def _as_command(value: str | Sequence[str] | None) -> Any:
    return value if isinstance(value, str) else as_tuple(value)


def _check_command(value: Any, name: str) -> None:
    if value is None or (is_text(value) and value.strip()):
        return
    if not isinstance(value, tuple) or not value:
        raise ConfigurationError(f'{name} must be a string, a list of strings or None, not {quoted(value)}')
    if not all(map(is_text, value)) or not value[0]:
        raise ConfigurationError(
            f'{name} must name a program and its arguments, all strings, not {quoted(list(value))}'
        )


def _as_entrypoint(value: str | Iterable[str] | None) -> Any:
    return (value,) if isinstance(value, str) else as_tuple(value)


def _check_entrypoint(value: Any, name: str) -> None:
    if value is None or value == ():
        return
    if not isinstance(value, tuple) or not all(map(is_text, value)) or not value[0].strip():
        raise ConfigurationError(
            f'{name} must be a program, a list of it and its arguments, or [], not {quoted(value)}'
        )


def as_address(value: str | None) -> Any:
    """Return an address of this machine as the engine reads it; anything else is left for `check_address`."""
    if not isinstance(value, str):
        return value
    return '127.0.0.1' if value.rstrip('.').lower() == 'localhost' else value.removeprefix('[').removesuffix(']')


def check_address(value: Any, name: str) -> None:
    """Check an address to publish at. The engine takes what it cannot read for "every address", so it is never given such."""
    try:
        if not isinstance(value, str) or '%' in value:
            raise ValueError
        ipaddress.ip_address(value)
    except ValueError:
        raise ConfigurationError(
            f"{name} must be an IP address of this machine, like '127.0.0.1', or '0.0.0.0' for all of them, not {quoted(value)}"
        ) from None


def _as_port_binding(value: Any) -> Any:
    """Published ports go to 127.0.0.1 unless the user names an address."""
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return ('127.0.0.1', value)
    if isinstance(value, str) and _PORT.fullmatch(value):
        return ('127.0.0.1', int(value))
    binding = as_tuple(value)
    return (as_address(binding[0]), *binding[1:]) if isinstance(binding, tuple) and binding else binding


def _as_port_name(port: Any) -> str:
    digits = as_digits(port)
    text = digits if isinstance(digits, str) else quoted(port)
    return text if '/' in text else f'{text}/tcp'


def _as_ports(value: Ports | None) -> Any:
    if isinstance(value, Mapping):
        return {_as_port_name(port): _as_port_binding(binding) for port, binding in value.items()}
    if isinstance(value, (list, tuple, set)):
        return {_as_port_name(port): ('127.0.0.1', None) for port in value}
    return as_dict(value)


def _is_port(value: Any, *, minimum: int = 1) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and minimum <= value <= 65535


def _check_ports(value: Any, name: str) -> None:
    if not isinstance(value, dict):
        raise ConfigurationError(f"{name} must be like {{'8888/tcp': ('127.0.0.1', 8888)}}, not {quoted(value)}")
    for key, binding in value.items():
        number, _, protocol = key.partition('/')
        if not _PORT.fullmatch(number) or not _is_port(int(number)) or protocol not in _PROTOCOLS:
            raise ConfigurationError(f"{name}: {quoted(key)} must be like '8888/tcp', the port in the sandbox")
        fits = isinstance(binding, tuple) and len(binding) == 2 and isinstance(binding[0], str) and binding[0]
        if not fits or not (binding[1] is None or _is_port(binding[1], minimum=0)):
            raise ConfigurationError(
                f"{name}[{quoted(key)}] must be ('127.0.0.1', port), a port, or None, not {quoted(binding)}"
            )
        check_address(binding[0], f'the address in {name}[{quoted(key)}]')


def _check_tmpfs(value: Any, name: str) -> None:
    check_text_map(value, name)
    for path in value:
        if not path.startswith('/'):
            raise ConfigurationError(f'{name}: {quoted(path)} must be an absolute path in the sandbox')


def _as_tmpfs(value: Mapping[str, str] | Iterable[str] | None) -> Any:
    if isinstance(value, (list, tuple, set)) and all(isinstance(path, str) for path in value):
        return dict.fromkeys(value, '')
    return as_dict(value)


def _check_ulimits(value: Any, name: str) -> None:
    if not isinstance(value, dict):
        raise ConfigurationError(
            f"{name} must be like {{'nofile': 1024}} or {{'nofile': (1024, 4096)}}, not {quoted(value)}"
        )
    for limit, bounds in value.items():
        pair = isinstance(bounds, tuple) and len(bounds) == 2
        if not pair or not all(
            isinstance(each, int) and not isinstance(each, bool) and -1 <= each < _ULIMIT for each in bounds
        ):
            raise ConfigurationError(
                f'{name}[{quoted(limit)}] must be a whole number or (soft, hard), not {quoted(bounds)}'
            )
        soft, hard = (_ULIMIT if each == -1 else each for each in bounds)
        if soft > hard:
            raise ConfigurationError(
                f'{name}[{quoted(limit)}]: the soft limit is above the hard one in {quoted(bounds)}'
            )


def _as_ulimits(value: Ulimits | None) -> Any:
    if not isinstance(value, Mapping):
        return as_dict(value)
    return {
        limit: (bounds, bounds) if isinstance(bounds, int) and not isinstance(bounds, bool) else as_tuple(bounds)
        for limit, bounds in value.items()
    }


def _as_user(value: str | int | None) -> Any:
    return as_digits(value)


def _check_pull(value: Any, name: str) -> None:
    if value not in ('missing', 'never', 'always'):
        raise ConfigurationError(f"{name} must be 'missing', 'never' or 'always', not {quoted(value)}")


@refuses_unknown_keys
@frozen(kw_only=True)
class DockerSandboxConfig(SandboxConfig):
    """What a Docker sandbox can be asked, beyond `SandboxConfig`.

    Attributes:
        image: Image name; pulled when missing, as ``pull`` says.
        pull: ``'missing'`` (default), ``'never'`` or ``'always'``.
        command: The container's own main process, given to the entry point; a string goes to a shell. Default is our agent
            alone. The sandbox ends when this command does.
        entrypoint: Instead of the image's entry point: a program, or a list of it and its arguments; an empty list clears it.
            It has a meaning only beside ``command`` or ``run_image_command``.
        run_image_command: Run what the image itself says, its ENTRYPOINT and CMD, as the main process, with the agent beside
            it: so a service image serves. An image that says no more than a shell or an interpreter, which would wait for
            somebody to type, has its agent as the main process as usual.
        tty: Give the main process a terminal and an open standard input, so that a bare shell or interpreter stays.
        ports: ``{'8888/tcp': ('127.0.0.1', 8888)}``: container port to host address. A bare number or None (a free port)
            publishes on 127.0.0.1.
        network: Name of a Docker network to join; default is a bridge of this library whose members cannot reach each other.
        extra_hosts: ``{name: address}`` lines for ``/etc/hosts``.
        privileged: Give the container the host's devices and all capabilities. The sandbox is then no protection.
        platform: Like ``'linux/arm64'``.
        user: Name or uid, with optional ``:group``, that everything runs as. Default is the image's.
        read_only: Mount the root file system read-only; ``/tmp`` and the working directory become tmpfs.
        tmpfs: ``{path: options}`` like ``{'/scratch': 'size=64m'}``, or a list of paths.
        ulimits: ``{name: value}`` or ``{name: (soft, hard)}``; open files default to 4096.
        cap_add: Capabilities beyond the few that pip and apt need.
        security_opt: Docker's security options, like ``'apparmor=...'``; no-new-privileges is always set.
        runtime: OCI runtime, like ``'runsc'`` (gVisor) or ``'kata'``.
        shm_size: Size of ``/dev/shm``.
        storage_opt: Storage driver options, like ``{'size': '2G'}``.
    """

    image: str = field(default=DEFAULT_IMAGE)
    pull: Literal['missing', 'never', 'always'] = field(default='missing', validator=checked(_check_pull))
    command: str | tuple[str, ...] | None = field(
        default=None, converter=_as_command, validator=checked(_check_command)
    )
    entrypoint: tuple[str, ...] | None = field(
        default=None, converter=_as_entrypoint, validator=checked(_check_entrypoint)
    )
    run_image_command: bool = field(default=False, validator=is_a(bool))
    tty: bool = field(default=False, validator=is_a(bool))
    ports: dict[str, PortBinding] = field(factory=dict, converter=_as_ports, validator=checked(_check_ports))
    network: str | None = field(default=None, validator=is_a(str, none=True))
    extra_hosts: dict[str, str] = field(factory=dict, converter=as_text_map, validator=checked(check_text_map))
    privileged: bool = field(default=False, validator=is_a(bool))
    platform: str | None = field(default=None, validator=is_a(str, none=True))
    user: str | None = field(default=None, converter=_as_user)
    read_only: bool = field(default=False, validator=is_a(bool))
    tmpfs: dict[str, str] = field(factory=dict, converter=_as_tmpfs, validator=checked(_check_tmpfs))
    ulimits: dict[str, tuple[int, int]] = field(factory=dict, converter=_as_ulimits, validator=checked(_check_ulimits))
    cap_add: tuple[str, ...] = field(default=(), converter=as_strings, validator=checked(check_names))
    security_opt: tuple[str, ...] = field(default=(), converter=as_strings, validator=checked(check_names))
    runtime: str | None = field(default=None, validator=is_a(str, none=True))
    shm_size: str | int | None = field(default=None)
    storage_opt: dict[str, str] = field(factory=dict, converter=as_text_map, validator=checked(check_text_map))

    @image.validator
    def _check_image(self, _: Any, value: Any) -> None:
        if not isinstance(value, str) or not value.strip() or any(space in value for space in ' \t\n\0'):
            raise ConfigurationError(f"image must be an image's name like {quoted(DEFAULT_IMAGE)}, not {quoted(value)}")

    @user.validator
    def _check_user(self, _: Any, value: Any) -> None:
        if value is not None and (not isinstance(value, str) or not value or value.startswith('-')):
            raise ConfigurationError(f"user must be a name or uid, with optional ':group', not {quoted(value)}")

    @shm_size.validator
    def _check_shm_size(self, _: Any, value: Any) -> None:
        if value is not None:
            parse_size(value, 'shm_size')

    def __attrs_post_init__(self) -> None:
        if self.network is not None and not self.network_enabled:
            raise ConfigurationError('network is named although network_enabled is False; drop one of them')
        if self.ports and not self.network_enabled:
            raise ConfigurationError('ports are published although network_enabled is False; drop one of them')
        if self.command is not None and self.run_image_command:
            raise ConfigurationError(
                "command is given although run_image_command asks for the image's own; drop one of them"
            )
        if self.command is None and not self.run_image_command:
            for name in ('entrypoint', 'tty'):
                if getattr(self, name) not in (None, False):
                    raise ConfigurationError(
                        f'{name} has a meaning only beside command or run_image_command, and neither is given'
                    )
        if self.privileged and self.cap_add:
            raise ConfigurationError('cap_add has no meaning beside privileged=True; drop one of them')
