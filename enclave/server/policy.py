"""What a remote client may ask for (floor 6): one frozen object, made in Python or read from a JSON or TOML file.

The defaults let no client reach the host: no host directories, no privileged containers, no host network, no further
capabilities, ports on loopback only. Whoever runs the server may allow more, word by word. A refusal is a `PolicyError` that
says which rule refused what.
"""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from attrs import field, frozen

from enclave.config import (
    MIB,
    SandboxConfig,
    as_tuple,
    check_names,
    checked,
    is_a,
    parse_size,
    refuses_unknown_keys,
    whole_number,
)
from enclave.deadline import check_timeout
from enclave.errors import ConfigurationError, InvalidArgumentError, PolicyError
from enclave.managers.keyfile import is_loopback
from enclave.records import Model
from enclave.sandboxes.bubblewrap.config import BubblewrapSandboxConfig
from enclave.sandboxes.bubblewrap.rootfs import find_interpreter_trees
from enclave.server.auth import read_settings

C = TypeVar('C', bound=SandboxConfig)


def _names(default: tuple[str, ...] = ()) -> Any:
    return field(default=default, converter=as_tuple, validator=checked(check_names))


def _check_size(value: Any, name: str) -> None:
    if value is not None:
        parse_size(value, name)


def _seconds(name: str, default: float | None = None) -> Any:
    def convert(value: Any) -> float | None:
        try:
            return check_timeout(value, name)
        except InvalidArgumentError as error:
            raise ConfigurationError(error.message) from None

    return field(default=default, converter=convert)


def _check_mounts(value: Any, name: str) -> None:
    check_names(value, name)
    for each in value:
        path, _, mode = each.partition(':')
        if not os.path.isabs(path) or mode not in ('', 'ro', 'rw'):
            raise ConfigurationError(f"{name} must be host directories like '/data:ro' or '/scratch:rw', not {each!r}")


def _check_publish(value: Any, name: str) -> None:
    if value not in ('no', 'loopback', 'any'):
        raise ConfigurationError(f"{name} must be 'no', 'loopback' or 'any', not {value!r}")


def _check_cpus(value: Any, name: str) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0.01):
        raise ConfigurationError(f'{name} must be a number of CPUs or None, not {value!r}')


@refuses_unknown_keys
@frozen(kw_only=True)
class Policy(Model):
    """What may be asked for. Patterns are shell-like: ``python:*``; None is no limit.

    Attributes:
        sandbox_types: Patterns of the kinds of sandbox.
        images: Patterns of image names.
        tools: Patterns of tool names. Without ``notebook_executor`` among them a client gets at no kernel.
        adapters: Patterns of the names of adapters, ``'e2b'`` among them: the interfaces of other programs that are answered.
        mounts: Host directories that ``volumes`` may name, with all below them: ``'/data:ro'``, ``'/scratch:rw'``. Those that
            are ``ro``, and not within one that is ``rw``, also serve for ``rootfs`` and ``python``, with all that such an
            interpreter would show. Who writes in a directory may put a link in the place of something below it between the
            check and the mount; so let ``rw`` ones hold nothing but what is mounted as a whole where clients are not trusted.
        networks: Names that ``network`` may have. A sandbox that shares the host's own network needs ``'host'`` here.
        allow_network: Whether sandboxes may have a network at all.
        publish: Which host addresses ports may be published on: ``'no'``, ``'loopback'`` or ``'any'``.
        privileged: Whether ``privileged`` containers, and sandboxes without a system call filter, may be had.
        capabilities: Names that ``cap_add`` may have.
        security_options: Patterns that ``security_opt`` may have.
        runtimes: Names that ``runtime`` may have.
        allow_keep: Whether ``remove_on_exit=False`` may be asked, which leaves containers and files of any size on the host.
        max_memory: The most ``memory_limit`` may be; no limit at all may then not be asked.
        max_cpus: The most ``cpu_limit`` may be.
        max_pids: The most ``pids_limit`` may be; no limit at all may then not be asked.
        max_timeout: The longest time limit a call may have, in seconds; none at all may then not be asked.
        max_lifetime: The longest ``ttl`` a sandbox may have, in seconds; those that ask for none get this.
        max_lease: The longest a lease of a pool's sandbox may last, in seconds.
        max_sandboxes: How many sandboxes one key may have at once, those of its pools included.
        max_concurrent_calls: How many calls may go on at once, of all keys together.
        max_calls_per_key: How many of them may be one key's.
        max_streams: How many streams of events may be open at once.
        max_processes: How many processes one key may have going on, and how many cells that are followed as they run.
        max_json_bytes: The largest JSON body.
        max_upload_bytes: The largest file or archive that may be sent.
        max_connections: How many connections may be open at once.
        request_timeout: Seconds in which a request's head must have come.
        min_upload_rate: Bytes a second that a body must come with, on average, after its first ``request_timeout`` seconds.
        send_timeout: Seconds after which a client that takes nothing of its answer is given up.
    """

    sandbox_types: tuple[str, ...] = _names(('*',))
    images: tuple[str, ...] = _names(('*',))
    tools: tuple[str, ...] = _names(('*',))
    adapters: tuple[str, ...] = _names(('*',))
    mounts: tuple[str, ...] = field(default=(), converter=as_tuple, validator=checked(_check_mounts))
    networks: tuple[str, ...] = _names()
    allow_network: bool = field(default=True, validator=is_a(bool))
    publish: Literal['no', 'loopback', 'any'] = field(default='loopback', validator=checked(_check_publish))
    privileged: bool = field(default=False, validator=is_a(bool))
    capabilities: tuple[str, ...] = _names()
    security_options: tuple[str, ...] = _names()
    runtimes: tuple[str, ...] = _names()
    allow_keep: bool = field(default=False, validator=is_a(bool))
    max_memory: str | int | None = field(default='8g', validator=checked(_check_size))
    max_cpus: float | None = field(default=8.0, validator=checked(_check_cpus))
    max_pids: int | None = field(default=4096, validator=whole_number(16, none=True))
    max_timeout: float | None = _seconds('max_timeout')
    max_lifetime: float | None = _seconds('max_lifetime')
    max_lease: float | None = _seconds('max_lease', 3600.0)
    max_sandboxes: int | None = field(default=64, validator=whole_number(0, none=True))
    max_concurrent_calls: int = field(default=64, validator=whole_number(1, 4096))
    max_calls_per_key: int | None = field(default=None, validator=whole_number(1, none=True))
    max_streams: int = field(default=64, validator=whole_number(1, 4096))
    max_processes: int = field(default=256, validator=whole_number(1))
    max_json_bytes: int = field(default=16 * MIB, validator=whole_number(1024))
    max_upload_bytes: int = field(default=1024 * MIB, validator=whole_number(1024))
    max_connections: int = field(default=1000, validator=whole_number(10, 100_000))
    request_timeout: float = field(default=20.0, validator=is_a(int, float))
    min_upload_rate: float = field(default=1024.0, validator=is_a(int, float))
    send_timeout: float = field(default=60.0, validator=is_a(int, float))

    @classmethod
    def _invalid(cls) -> type[InvalidArgumentError]:
        return ConfigurationError

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> Policy:
        """Return the policy of a JSON or TOML file whose keys are the attributes above.

        Raises:
            ConfigurationError: The file cannot be read, or says something wrong; the message names it.
        """
        found = read_settings(path)
        if not isinstance(found, Mapping):
            raise ConfigurationError(f'{os.fspath(path)} must hold an object whose keys are those of Policy')
        return cls(**{str(key): value for key, value in found.items()})

    # Checks -----------------------------------------------------------------------------------------------------------

    def check_sandbox(self, kind: str, config: C) -> C:
        """Return the configuration if such a sandbox may be made; its host paths are those that were checked, without links.

        Raises:
            PolicyError: It may not; the message names the option and the rule.
        """
        if not _matches(kind, self.sandbox_types):
            raise _refusal('sandbox_types', f'sandboxes of the type {kind!r} may not be made here', self.sandbox_types)
        for name in config.tools_config:
            self.check_tool(name, {})
        self._check_limits(config)
        self._check_reach(config)
        volumes = {self._check_mount(source, target['mode']): target for source, target in config.volumes.items()}
        if len(volumes) < len(config.volumes):
            raise ConfigurationError('volumes names a host directory twice, by different ways to it')
        return config.model_copy(update={'volumes': volumes, **self._check_programs(config)})

    def _check_limits(self, config: SandboxConfig) -> None:
        if self.max_memory is not None:
            most = parse_size(self.max_memory, 'max_memory')
            if config.memory_bytes is None or config.memory_bytes > most:
                raise _refusal(
                    'max_memory', f'memory_limit may be at most {self.max_memory}, not {config.memory_limit}'
                )
        if self.max_cpus is not None and config.cpu_limit > self.max_cpus:
            raise _refusal('max_cpus', f'cpu_limit may be at most {self.max_cpus:g}, not {config.cpu_limit:g}')
        if self.max_pids is not None and (config.pids_limit is None or config.pids_limit > self.max_pids):
            raise _refusal('max_pids', f'pids_limit may be at most {self.max_pids}, not {config.pids_limit}')
        for name in ('shm_size', 'disk_limit'):
            size = getattr(config, name, None)
            if self.max_memory is not None and size is not None:
                most = parse_size(self.max_memory, 'max_memory')
                if parse_size(size, name) > most:
                    raise _refusal('max_memory', f'{name} may be at most {self.max_memory}, not {size}')
        self.check_call_timeout(config.timeout, 'timeout')
        if not config.remove_on_exit and not self.allow_keep:
            raise _refusal('allow_keep', 'remove_on_exit=False may not be asked; every sandbox is removed')

    def _check_reach(self, config: SandboxConfig) -> None:
        """Check what leads out of the sandbox."""
        network: str | None = getattr(config, 'network', None)
        if config.network_enabled and not self.allow_network:
            raise _refusal('allow_network', 'network_enabled may not be asked; sandboxes have no network here')
        if network is not None and network not in self.networks:
            raise _refusal('networks', f'the network {network!r} may not be joined', self.networks)
        if isinstance(config, BubblewrapSandboxConfig) and config.network_enabled and 'host' not in self.networks:
            raise _refusal(
                'networks', "a bubblewrap sandbox with network_enabled shares the host's own network", self.networks
            )
        if getattr(config, 'privileged', False) and not self.privileged:
            raise _refusal('privileged', 'privileged sandboxes may not be made')
        if getattr(config, 'seccomp', True) is False and not self.privileged:
            raise _refusal('privileged', 'sandboxes without a system call filter may not be made')
        if getattr(config, 'host_uid', None) is not None and not self.privileged:
            raise _refusal('privileged', 'host_uid may not be chosen')
        self._check_listed('cap_add', getattr(config, 'cap_add', ()), 'capabilities', self.capabilities)
        self._check_listed(
            'security_opt', getattr(config, 'security_opt', ()), 'security_options', self.security_options
        )
        runtime: str | None = getattr(config, 'runtime', None)
        if runtime is not None:
            self._check_listed('runtime', (runtime,), 'runtimes', self.runtimes)
        image: str | None = getattr(config, 'image', None)
        if image is not None and not _matches(image, self.images):
            raise _refusal('images', f'the image {image!r} may not be used', self.images)
        for port, binding in getattr(config, 'ports', {}).items():
            if self.publish == 'no' or (self.publish == 'loopback' and not is_loopback(str(binding[0]))):
                raise _refusal('publish', f'the port {port} may not be published on {binding[0]}', (self.publish,))

    def _check_programs(self, config: SandboxConfig) -> dict[str, str]:
        """Check what a bubblewrap sandbox sees of programs; return the options to change."""
        if not isinstance(config, BubblewrapSandboxConfig):
            return {}
        rootfs, python = config.rootfs, config.python
        if python is not None:
            self._check_mount(python, 'ro', 'python', is_steady=True)
            for source, _ in find_interpreter_trees(python):
                self._check_mount(source, 'ro', 'python', is_steady=True)
        if rootfs is not None and rootfs.startswith('/'):
            return {'rootfs': self._check_mount(rootfs, 'ro', 'rootfs', is_steady=True)}
        if rootfs is not None and not _matches(rootfs, self.images):
            raise _refusal('images', f'the image {rootfs!r} may not be used', self.images)
        return {}

    def _check_listed(self, option: str, asked: tuple[str, ...], rule: str, allowed: tuple[str, ...]) -> None:
        for each in asked:
            if not _matches(each, allowed):
                raise _refusal(rule, f'{option} may not name {each!r}', allowed)

    def _check_mount(self, source: str, mode: str, what: str = 'volumes', *, is_steady: bool = False) -> str:
        """Check a host path as the system resolves it, and return that: a link in an allowed directory leads nowhere else.

        Args:
            is_steady: No sandbox may be able to change what is there, as it could where directories are ``rw``.
        """
        real = os.path.realpath(source)
        around = {
            allowed
            for path, _, allowed in (each.partition(':') for each in self.mounts)
            if f'{real}/'.startswith(os.path.realpath(path).rstrip('/') + '/')
        }
        if is_steady and 'rw' in around:
            raise _refusal('mounts', f'{what}: {source!r} is where sandboxes may write', self.mounts)
        if around and (mode == 'ro' or 'rw' in around):
            return real
        raise _refusal('mounts', f'{what}: the host path {source!r} may not be mounted ({mode})', self.mounts)

    def check_tool(self, name: str, parameters: Mapping[str, Any]) -> None:
        """Return if a tool may be used with these arguments."""
        if not _matches(name, self.tools):
            raise _refusal('tools', f'the tool {name!r} may not be used', self.tools)
        if self.max_timeout is not None and 'timeout' in parameters:
            timeout = parameters['timeout']
            if isinstance(timeout, (int, float)) and not isinstance(timeout, bool) and timeout >= 0:
                self.check_call_timeout(timeout or None, 'timeout')

    def check_adapter(self, name: str) -> None:
        """Return if another program's interface may be used."""
        if not _matches(name, self.adapters):
            raise _refusal('adapters', f'the adapter {name!r} is closed here', self.adapters)

    def check_call_timeout(self, seconds: float | None, name: str) -> None:
        """Return if a call may take so long; None is no limit."""
        if self.max_timeout is not None and (seconds is None or seconds > self.max_timeout):
            asked = 'no limit' if seconds is None else f'{seconds:g}'
            raise _refusal('max_timeout', f'{name} may be at most {self.max_timeout:g} seconds, not {asked}')

    def lifetime(self, asked: float | Literal['default'] | None, default: float | None) -> float | None:
        """Return how long a sandbox may live that asked for ``asked``.

        Raises:
            PolicyError: It asked for more than is allowed.
        """
        if asked == 'default':
            return self.max_lifetime if default is None else default
        seconds = check_timeout(asked, 'ttl')
        if self.max_lifetime is not None and (seconds is None or seconds > self.max_lifetime):
            words = 'never' if seconds is None else f'{seconds:g}'
            raise _refusal('max_lifetime', f'ttl may be at most {self.max_lifetime:g} seconds, not {words}')
        return seconds

    def lease(self, asked: float | None) -> float | None:
        """Return how long a lease may last, at most what is allowed."""
        seconds = check_timeout(asked, 'ttl')
        if self.max_lease is None or (seconds is not None and seconds <= self.max_lease):
            return seconds
        return self.max_lease


def _matches(text: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(text, pattern) for pattern in patterns)


def _refusal(rule: str, message: str, allowed: tuple[str, ...] | None = None) -> PolicyError:
    hint = '' if allowed is None else f'; allowed: {", ".join(allowed) or "none"}'
    return PolicyError(
        f"the server's policy refuses this: {message}{hint} (rule {rule})",
        details={'rule': rule},
    )
