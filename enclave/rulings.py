"""What an option of a configuration can do to the host (layer 1): one ruling an option, applied by a server's policy.

A kind of sandbox declares a ruling for each option of its configuration (`enclave.sandboxes.kinds.SandboxKind.rulings`), a tool
one for each of its own (`enclave.tools.base.Tool.rulings`). A ruling is given the option's value and a `Gate`, which is the
policy of the server, and returns the value that may be used, or raises what the gate raises. An option without a ruling may
only have its default value, and a kind without rulings cannot be asked for.

The rulings of the options that all kinds share are in `SHARED`. A kind takes those that are true for it: that ``network_enabled``
gives a network of the sandbox's own, for example, is not true for every kind.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from attrs import frozen

from enclave.config import SandboxConfig
from enclave.errors import ConfigurationError


class Gate(Protocol):
    """What a ruling may ask of a policy. ``rule`` is the name of a rule of the policy, ``option`` that of the option.

    Every method raises `PolicyError` for what the policy does not allow.
    """

    def flag(self, rule: str, what: str) -> None:
        """Return if a rule that is true or false is true; ``what`` says what is refused otherwise."""

    def number(self, rule: str, option: str, value: float | None) -> None:
        """Return if a number is at most what the rule says; None is no limit at all."""

    def size(self, rule: str, option: str, value: str | int | None) -> None:
        """Return if a size is at most what the rule says; None is no limit at all."""

    def listed(self, rule: str, option: str, name: str) -> None:
        """Return if a name is among those of a rule."""

    def host_path(self, option: str, path: str, mode: str, *, is_steady: bool = False) -> str:
        """Return a path of the host with all links resolved, if it may be shown (``'ro'``) or written (``'rw'``) there.

        Args:
            is_steady: No sandbox may be able to change what is there.
        """

    def image(self, option: str, name: str) -> None:
        """Return if an image may be used."""

    def may_fetch(self, image: str, platform: str | None = None) -> bool:
        """Return whether an image that the host lacks may be fetched, for a platform; None is the host's own."""

    def port(self, option: str, address: str, number: int | None) -> None:
        """Return if a port of the host may be taken; None and 0 are a free one."""

    def limit(self, option: str, name: str, value: int) -> None:
        """Return if a resource limit (``ulimits``) may be set."""

    def tool(self, name: str, options: Mapping[str, Any]) -> None:
        """Return if a tool may be loaded with these options."""


Check = Callable[[Gate, str, Any, Any], Any]
"""Is given the gate, the option's name, its value, and the whole configuration; returns the value to be used."""


@frozen
class Ruling:
    """What is to be asked before an option may have a value.

    Attributes:
        check: Does it.
        names_host_paths: The value is a path of the host, or a dict by such paths. A client of a server must write them as they
            are: what means another path (``.``, ``~``) is refused before anything is made of it.
    """

    check: Check
    names_host_paths: bool = False


Rulings = Mapping[str, Ruling]


# Rulings for common cases ---------------------------------------------------------------------------------------------


def inside() -> Ruling:
    """What matters in the sandbox only, and whose size is that of the request."""
    return Ruling(lambda gate, option, value, config: value)


def at_most(rule: str, *, none_is_less: bool = False) -> Ruling:
    """A number that a rule bounds; None, where the option takes it, is no limit and needs a rule without one.

    Args:
        none_is_less: None is what something else sets, which was looked at there.
    """

    def check(gate: Gate, option: str, value: Any, config: Any) -> Any:
        if value is not None or not none_is_less:
            gate.number(rule, option, value)
        return value

    return Ruling(check)


def size_at_most(rule: str, *, none_is_less: bool = False) -> Ruling:
    """A size that a rule bounds.

    Args:
        none_is_less: None is the backend's own small value, or a limit that something else sets.
    """

    def check(gate: Gate, option: str, value: Any, config: Any) -> Any:
        if value is not None or not none_is_less:
            gate.size(rule, option, value)
        return value

    return Ruling(check)


def only_if(rule: str, what: str, *, harmless: Any = (False, None)) -> Ruling:
    """A value other than the harmless ones needs a rule that is true.

    Args:
        what: What is refused, for the message.
    """

    def check(gate: Gate, option: str, value: Any, config: Any) -> Any:
        if not any(value is each for each in harmless):
            gate.flag(rule, what)
        return value

    return Ruling(check)


def among(rule: str) -> Ruling:
    """A name, or several, that a rule lists; None is none."""

    def check(gate: Gate, option: str, value: Any, config: Any) -> Any:
        for name in () if value is None else (value,) if isinstance(value, str) else value:
            gate.listed(rule, option, name)
        return value

    return Ruling(check)


def network(what: str = '', *, is_hosts_own: bool = False) -> Ruling:
    """Whether there is a network.

    Args:
        is_hosts_own: It is that of the host, which needs ``'host'`` among the networks.
        what: How the message calls such a sandbox.
    """

    def check(gate: Gate, option: str, value: Any, config: Any) -> Any:
        if value:
            gate.flag('allow_network', f'{option} may not be asked; sandboxes have no network here')
            if is_hosts_own:
                gate.listed('networks', f'{option} of {what}, which shares the network of the host,', 'host')
        return value

    return Ruling(check)


_OWN_PLACES = ('/proc', '/sys', '/dev')


def check_inner_path(path: str, option: str) -> None:
    """Check that a path in a sandbox is none of those that the kernel makes up, where names lead out of it.

    Raises:
        ConfigurationError: It is.
    """
    place = '/' + posixpath.normpath(path).lstrip('/')
    within = any(f'{place}/'.startswith(f'{each}/') for each in _OWN_PLACES)
    if within and not f'{place}/'.startswith('/dev/shm/'):
        raise ConfigurationError(f"{option} cannot be {path!r}: /proc, /sys and /dev are the kernel's; choose another")


def inner_path() -> Ruling:
    """A directory in the sandbox."""

    def check(gate: Gate, option: str, value: Any, config: Any) -> Any:
        check_inner_path(value, option)
        return value

    return Ruling(check)


def image() -> Ruling:
    """An image's name."""

    def check(gate: Gate, option: str, value: Any, config: Any) -> Any:
        gate.image(option, value)
        return value

    return Ruling(check)


def _check_volumes(gate: Gate, option: str, value: Any, config: Any) -> Any:
    shown: dict[str, Any] = {}
    for source, target in value.items():
        check_inner_path(target['bind'], f"{option}[{source!r}]['bind']")
        shown[gate.host_path(option, source, target['mode'])] = target
    if len(shown) < len(value):
        raise ConfigurationError(f'{option} names a host directory twice, by different ways to it')
    return shown


def _check_tools(gate: Gate, option: str, value: Any, config: Any) -> Any:
    for name, options in value.items():
        gate.tool(name, options)
    return value


SHARED: Rulings = {
    'tools_config': Ruling(_check_tools),
    'timeout': at_most('max_timeout'),
    'timeout_grace': at_most('max_grace'),
    'working_dir': inner_path(),
    'env_vars': inside(),
    'memory_limit': size_at_most('max_memory'),
    'cpu_limit': at_most('max_cpus'),
    'pids_limit': at_most('max_pids'),
    'network_enabled': network(),
    'volumes': Ruling(_check_volumes, names_host_paths=True),
    'remove_on_exit': only_if(
        'allow_keep', 'remove_on_exit=False may not be asked; every sandbox is removed', harmless=(True,)
    ),
    'max_output_bytes': at_most('max_output_bytes'),
}
"""Rulings of the options of `enclave.config.SandboxConfig`, for kinds that isolate what they run."""

NOTEBOOK: Rulings = {
    'kernel_name': inside(),
    'interrupt_grace': at_most('max_grace'),
    'max_display_bytes': at_most('max_display_bytes'),
    'notebook_tools': inside(),
}
"""Rulings of the options of `enclave.sandboxes.notebook.notebook_config.NotebookConfig`."""


def host_paths_in(rulings: Rulings | None, options: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield ``(option, path)`` for each path of the host that options name, as they were written."""
    for option, ruling in (rulings or {}).items():
        value = options.get(option)
        if not ruling.names_host_paths or value is None:
            continue
        for path in value if isinstance(value, Mapping) else (value,):
            yield option, path


def check_host_paths(rulings: Rulings | None, options: SandboxConfig | Mapping[str, Any]) -> None:
    """Check that the host paths which a client names are written out.

    Raises:
        ConfigurationError: One means another path of the host, which is not reported.
    """
    for option, path in host_paths_in(rulings, options) if isinstance(options, Mapping) else ():
        if isinstance(path, str) and path.startswith(('.', '~')):
            raise ConfigurationError(
                f'{option}: {path!r} must be an absolute path of the machine that the server is on'
            )
