"""What a sandbox may be asked to be (layer 1): the options every backend shares, and the checks they are made with.

A backend's own options live in a subclass beside the backend (`enclave.sandboxes.docker.docker_config`). Configs are frozen;
change one with `model_copy(update={...})`. Unknown keys, wrong types and impossible values raise `ConfigurationError`, whose
message names the field.
"""

from __future__ import annotations

import functools
import os
import posixpath
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any, TypeVar

import attrs
from attrs import field, frozen

from enclave.deadline import check_timeout
from enclave.errors import ConfigurationError, InvalidArgumentError
from enclave.quoting import quoted
from enclave.records import OptionsModel
from enclave.suggest import did_you_mean

KIB = 1024
MIB = 1024 * KIB
DEFAULT_OUTPUT_BYTES = 1 * MIB
"""Cap on each of stdout and stderr of a call unless the caller says otherwise."""

_SIZE = re.compile(r'(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?', re.IGNORECASE)
_UNITS = {'': 1, 'k': KIB, 'm': MIB, 'g': 1024 * MIB, 't': 1024 * 1024 * MIB}
_SIZE_LIMIT = 2**63
_CPU_LIMIT = 1_000_000
MAX_GRACE = 60.0
"""The most that `SandboxConfig.timeout_grace` may be, in seconds."""

# What a caller may write for an option; converters make of it what the configuration holds.
Size = str | int
"""Bytes, or a text like ``'512m'``."""
ToolsConfig = Mapping[str, Mapping[str, Any] | bool | None] | Iterable[str]
Environment = Mapping[str, str | int | float]
Volumes = Mapping[str, str | Mapping[str, str]] | Mapping[os.PathLike[str], str | Mapping[str, str]]

C = TypeVar('C', bound=type)
T = TypeVar('T')
V = Callable[[Any, 'attrs.Attribute[Any]', Any], None]


def parse_size(text: str | int, name: str = 'size') -> int:
    """Return the bytes meant by ``'512m'``, ``'1g'``, ``'1.5GiB'`` or a whole number of bytes.

    Units are powers of 1024, as Docker counts.

    Raises:
        ConfigurationError: It is not such a text, not positive, or beyond what 63 bits hold.
    """
    if isinstance(text, int) and not isinstance(text, bool) and 0 < text < _SIZE_LIMIT:
        return text
    match = _SIZE.fullmatch(text.strip()) if isinstance(text, str) else None
    amount = float(match[1]) * _UNITS[match[2].lower()] if match else 0.0
    size = int(amount) if amount < _SIZE_LIMIT else 0
    if size <= 0:
        raise ConfigurationError(f"{name} must be a size like '512m' or '1g', not {quoted(text)}")
    return size


# Validators: each raises ConfigurationError naming the field ----------------------------------------------------------


def checked(check: Callable[[Any, str], Any]) -> V:
    """Return an attrs validator that calls ``check(value, field_name)`` and lets its error through."""

    def validate(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        check(value, attribute.name)

    return validate


def is_a(*kinds: type, none: bool = False) -> V:
    """Return a validator for a value of one of ``kinds`` (a bool is not a number), or None where ``none`` is true.

    A string must be text as `is_text` has it.
    """
    names = ' or '.join(kind.__name__ for kind in kinds)

    def check(value: Any, name: str) -> None:
        if value is None and none:
            return
        is_other = (isinstance(value, bool) and bool not in kinds) or not isinstance(value, kinds)
        if is_other or (isinstance(value, str) and not is_text(value)):
            raise ConfigurationError(f'{name} must be {names}{" or None" if none else ""}, not {quoted(value)}')

    return checked(check)


def whole_number(minimum: int, maximum: int | None = None, *, none: bool = False) -> V:
    """Return a validator for a whole number within bounds."""

    def check(value: Any, name: str) -> None:
        if value is None and none:
            return
        fits = isinstance(value, int) and not isinstance(value, bool)
        if not fits or value < minimum or (maximum is not None and value > maximum):
            upper = '' if maximum is None else f' and at most {maximum}'
            raise ConfigurationError(f'{name} must be a whole number, at least {minimum}{upper}, not {quoted(value)}')

    return checked(check)


def is_text(value: Any) -> bool:
    """Return whether a value is text that the operating system can take: without NUL, and with a form as bytes.

    That is UTF-8, where other bytes are as `os.fsdecode` represents them; other lone surrogates have none.
    """
    if not isinstance(value, str) or '\0' in value:
        return False
    try:
        value.encode('utf-8', 'surrogateescape')
    except UnicodeEncodeError:
        return False
    return True


def check_names(value: Any, name: str) -> None:
    """Check a sequence of non-empty strings."""
    if not isinstance(value, tuple) or not all(each and is_text(each) for each in value):
        raise ConfigurationError(f'{name} must be a list of non-empty strings, not {quoted(value)}')


def check_text_map(value: Any, name: str) -> None:
    """Check a dict of strings to strings."""
    if not isinstance(value, Mapping):
        raise ConfigurationError(f'{name} must be a dict of strings, not {quoted(value)}')
    for key, each in value.items():
        if not key or not is_text(key) or not is_text(each):
            raise ConfigurationError(
                f'{name}[{quoted(key)}] must be a string under a non-empty name, not {quoted(each)}'
            )


def as_tuple(value: Any) -> Any:
    """Return a list or other iterable as a tuple; leave the rest for the validator to refuse."""
    return tuple(value) if isinstance(value, Iterable) and not isinstance(value, (str, bytes, Mapping)) else value


def as_strings(value: Iterable[str]) -> Any:
    """Return an iterable of strings as a tuple; leave the rest for the validator to refuse."""
    return as_tuple(value)


def as_text_map(value: Mapping[str, str] | None) -> Any:
    """Return a private copy of a mapping of strings; None is an empty one."""
    return as_dict(value)


def as_dict(value: Any) -> Any:
    """Return a private copy of a mapping; None is an empty one."""
    if value is None:
        return {}
    return dict(value) if isinstance(value, Mapping) else value


def check_env(value: Any, name: str) -> None:
    """Check environment variables: a dict of names (no ``=``) to text. Values are never quoted in messages."""
    if not isinstance(value, Mapping):
        raise InvalidArgumentError(f'{name} must be a dict of strings, not {type(value).__name__}')
    for key, each in value.items():
        if not key or not is_text(key) or '=' in key:
            raise InvalidArgumentError(f'{name} has an impossible variable name {quoted(key)}')
        if not isinstance(each, str) or '\0' in each:
            raise InvalidArgumentError(f'{name}[{quoted(key)}] must be a string without NUL, not {type(each).__name__}')
        if not is_text(each):
            raise InvalidArgumentError(f'{name}[{quoted(key)}] is not proper text: it has lone surrogates')


def _check_env_vars(value: Any, name: str) -> None:
    try:
        check_env(value, name)
    except InvalidArgumentError as error:
        raise ConfigurationError(error.message) from None


def as_digits(value: Any) -> Any:
    """Return a whole number as text; one of thousands of digits, which is none that anybody means, is left for the validator."""
    is_number = isinstance(value, int) and not isinstance(value, bool) and value.bit_length() < 10_000
    return str(value) if is_number else value


def _as_env(value: Environment | None) -> Any:
    """Turn numbers into text, as people write ``{'PORT': 8000}``; anything else is left for the validator."""
    if not isinstance(value, Mapping):
        return as_dict(value)
    return {key: str(each) if isinstance(each, float) else as_digits(each) for key, each in value.items()}


def _as_cpu(value: float | str) -> Any:
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _check_cpu(value: Any, name: str) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0.01 <= value <= _CPU_LIMIT:
        raise ConfigurationError(
            f'{name} must be a number of CPUs, at least 0.01 and at most {_CPU_LIMIT}, not {quoted(value)}'
        )


def _as_timeout(value: float | None) -> Any:
    try:
        return check_timeout(value)
    except InvalidArgumentError as error:
        raise ConfigurationError(error.message) from None


def _check_grace(value: Any, name: str) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= MAX_GRACE:
        raise ConfigurationError(f'{name} must be a number of seconds from 0 to {MAX_GRACE:g}, not {quoted(value)}')


def _check_working_dir(value: Any, name: str) -> None:
    if not is_text(value) or not value.startswith('/'):
        raise ConfigurationError(f'{name} must be an absolute path in the sandbox, not {quoted(value)}')


def _as_tools(value: ToolsConfig | None) -> Any:
    """Return ``{name: options}`` from such a dict, a list of names, or None; ``True`` and None are empty options."""
    if value is None:
        return {}
    if isinstance(value, Mapping):
        return {name: {} if options is None or options is True else as_dict(options) for name, options in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return {name: {} for name in value} if all(isinstance(name, str) for name in value) else value
    return value


def _check_tools(value: Any, name: str) -> None:
    if not isinstance(value, dict):
        raise ConfigurationError(
            f'{name} must be a dict of tool names to options, or a list of names, not {quoted(value)}'
        )
    for tool, options in value.items():
        if not isinstance(tool, str) or not tool:
            raise ConfigurationError(f'{name} has a tool name that is not a string: {quoted(tool)}')
        if not isinstance(options, dict):
            raise ConfigurationError(f'{name}[{quoted(tool)}] must be a dict of options, not {quoted(options)}')


def _as_volumes(value: Volumes | None) -> Any:
    if not isinstance(value, Mapping):
        return as_dict(value)
    volumes: dict[Any, Any] = {}
    for source, target in value.items():
        key = os.fspath(source) if isinstance(source, os.PathLike) else source
        if isinstance(key, str) and key.startswith(('.', '~')):
            key = os.path.abspath(os.path.expanduser(key))
        if isinstance(target, str):
            target = {'bind': target}
        volumes[key] = {'mode': 'rw', **target} if isinstance(target, Mapping) else target
    return volumes


def _check_volumes(value: Any, name: str) -> None:
    if not isinstance(value, dict):
        raise ConfigurationError(f"{name} must be {{host_path: {{'bind': path, 'mode': 'rw'}}}}, not {quoted(value)}")
    places: dict[str, str] = {}
    for source, target in value.items():
        if not is_text(source) or not (PurePosixPath(source).is_absolute() or PureWindowsPath(source).is_absolute()):
            raise ConfigurationError(f'{name}: the host path {quoted(source)} must be absolute, or start with . or ~')
        if not isinstance(target, dict) or set(target) - {'bind', 'mode'} or 'bind' not in target:
            raise ConfigurationError(
                f"{name}[{quoted(source)}] must be {{'bind': path, 'mode': 'rw' or 'ro'}}, not {quoted(target)}"
            )
        if not is_text(target['bind']) or not target['bind'].startswith('/'):
            raise ConfigurationError(
                f"{name}[{quoted(source)}]['bind'] must be an absolute path, not {quoted(target['bind'])}"
            )
        if target['mode'] not in ('rw', 'ro'):
            raise ConfigurationError(
                f"{name}[{quoted(source)}]['mode'] must be 'rw' or 'ro', not {quoted(target['mode'])}"
            )
        place = '/' + posixpath.normpath(target['bind']).lstrip('/')  # '/d/' is '/d', and one would hide the other
        if place in places:
            raise ConfigurationError(
                f"{name}: {quoted(places[place])} and {quoted(source)} have the same 'bind', {quoted(place)}"
            )
        places[place] = source


def check_memory(value: Any, name: str) -> None:
    """Check a size that is None (no limit) or at least 6 MiB, the least Docker accepts."""
    if value is not None and parse_size(value, name) < 6 * MIB:
        raise ConfigurationError(f'{name} must be at least 6m, not {quoted(value)}')


# Classes --------------------------------------------------------------------------------------------------------------


def refuses_unknown_keys(cls: C) -> C:
    """Class decorator: an unknown keyword becomes a `ConfigurationError` that suggests the nearest known name."""
    made: Callable[..., None] = cls.__init__  # type: ignore[misc]
    known = [attribute.name for attribute in attrs.fields(cls)]

    @functools.wraps(made)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        for word in kwargs:
            if word not in known:
                hint = did_you_mean(word, sorted(known))
                raise ConfigurationError(f'{cls.__name__} has no option {quoted(word)}; {hint}')
        made(self, *args, **kwargs)

    cls.__init__ = init  # type: ignore[misc]
    return cls


def as_options(cls: type[T], value: Any) -> T:
    """Return ``value`` (a dict of options, an instance, or None for all defaults) as an instance of a class of options."""
    if isinstance(value, cls):
        return value
    if value is None:
        return cls()
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise ConfigurationError(f'{cls.__name__} takes a dict of options, not {quoted(value)}')
    return cls(**value)


@refuses_unknown_keys
@frozen(kw_only=True)
class SandboxConfig(OptionsModel):
    """What every kind of sandbox can be asked.

    Attributes:
        tools_config: ``{tool name: options}`` or a list of names. A tool exists only if it is named here.
        timeout: Seconds each call may take unless it says otherwise; None and 0 mean no limit.
        timeout_grace: Seconds that a call's programs get at its time limit to end by themselves, between SIGTERM and SIGKILL;
            0 kills them at once.
        working_dir: Absolute path in the sandbox where calls start and relative paths begin; made if missing.
        env_vars: Environment of every call. Never shown in logs, reprs or `SandboxInfo`.
        memory_limit: Memory of everything in the sandbox together, like ``'512m'``; swap is off. None for no limit.
        cpu_limit: CPUs, at least 0.01; 1.5 is one and a half, and more than the machine has are all that it has.
        pids_limit: Processes and threads at once; None for no limit.
        network_enabled: Whether the sandbox has a network besides its own loopback.
        volumes: ``{host_path: {'bind': path, 'mode': 'rw' or 'ro'}}``. A host path that is missing is an error, not made.
        remove_on_exit: Take everything away on `stop`; otherwise it is kept and can be started again.
        max_output_bytes: Default cap on each of stdout and stderr of a call, in bytes.
    """

    tools_config: dict[str, dict[str, Any]] = field(factory=dict, converter=_as_tools, validator=checked(_check_tools))
    timeout: float | None = field(default=30.0, converter=_as_timeout)
    timeout_grace: float = field(default=0.5, validator=checked(_check_grace))
    working_dir: str = field(default='/sandbox', validator=checked(_check_working_dir))
    env_vars: dict[str, str] = field(factory=dict, converter=_as_env, validator=checked(_check_env_vars), repr=False)
    memory_limit: str | int | None = field(default='1g', validator=checked(check_memory))
    cpu_limit: float = field(default=1.0, converter=_as_cpu, validator=checked(_check_cpu))
    pids_limit: int | None = field(default=512, validator=whole_number(16, 4194304, none=True))
    network_enabled: bool = field(default=True, validator=is_a(bool))
    volumes: dict[str, dict[str, str]] = field(factory=dict, converter=_as_volumes, validator=checked(_check_volumes))
    remove_on_exit: bool = field(default=True, validator=is_a(bool))
    max_output_bytes: int = field(default=DEFAULT_OUTPUT_BYTES, validator=whole_number(1, 1024 * MIB))

    @property
    def memory_bytes(self) -> int | None:
        """``memory_limit`` in bytes, or None."""
        return None if self.memory_limit is None else parse_size(self.memory_limit, 'memory_limit')

    @classmethod
    def model_validate(cls, value: Any) -> Any:
        """Return ``value`` (a dict of options, an instance, or None for all defaults) as a checked config.

        Raises:
            ConfigurationError: An option is unknown, of a wrong type or out of range; the message names it.
        """
        return as_options(cls, value)

    def non_default_options(self) -> dict[str, Any]:
        """Return the options that are to count for another kind too: those not at their defaults, and that there is no network,
        since another kind may have one by default."""
        default = type(self)()
        return {
            name: getattr(self, name)
            for name in attrs.fields_dict(type(self))
            if getattr(self, name) != getattr(default, name) or (name == 'network_enabled' and not self.network_enabled)
        }

    def redacted(self) -> dict[str, Any]:
        """Return the options as JSON-compatible values, with secrets' values replaced by ``'***'``."""
        dumped = self.model_dump(mode='json')
        dumped['env_vars'] = dict.fromkeys(dumped['env_vars'], '***')
        return dumped


GivenConfig = SandboxConfig | Mapping[str, Any] | None
"""A configuration as a caller gives it: one, a dict of its options, or None for the defaults."""
