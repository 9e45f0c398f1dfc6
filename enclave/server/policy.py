"""What a remote client may ask for (layer 6): one frozen object, made in Python or read from a JSON or TOML file.

The defaults let no client reach the host: no host directories, no privileged containers, no host network, no further
capabilities, ports on loopback only. The one that runs the server may allow more, word by word. A refusal is a `PolicyError` that
says which rule refused what.
"""

from __future__ import annotations

import contextlib
import fnmatch
import os
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

import attrs
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
from enclave.errors import ConfigurationError, InvalidArgumentError, PolicyError, ToolNotFoundError
from enclave.managers.keyfile import is_loopback
from enclave.quoting import quoted
from enclave.records import OptionsModel, is_default
from enclave.rulings import Rulings, check_host_paths
from enclave.sandboxes.kinds import SandboxKind, get_kind
from enclave.server import references
from enclave.server.auth import read_settings
from enclave.tools.tool_factory import ToolFactory

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
            raise ConfigurationError(
                f"{name} must be host directories like '/data:ro' or '/scratch:rw', not {quoted(each)}"
            )


def _check_publish(value: Any, name: str) -> None:
    if value not in ('no', 'loopback', 'any'):
        raise ConfigurationError(f"{name} must be 'no', 'loopback' or 'any', not {quoted(value)}")


def _check_port_ranges(value: Any, name: str) -> None:
    if value is None:
        return
    check_names(value, name)
    for each in value:
        first, last = _bounds(each)
        if not 1 <= first <= last <= 65535:
            raise ConfigurationError(
                f"{name} must be ports of the host like '8080' or '20000-29999', not {quoted(each)}"
            )


def _bounds(text: str) -> tuple[int, int]:
    first, dash, last = text.partition('-')
    if not first.isdecimal() or (dash and not last.isdecimal()):
        return (0, 0)
    return int(first), int(last if dash else first)


def _check_ulimits(value: Any, name: str) -> None:
    check_names(value, name)
    for each in value:
        _, colon, most = each.partition(':')
        if colon and not most.isdecimal():
            raise ConfigurationError(f"{name} must be names like 'core', or 'nofile:65536', not {quoted(each)}")


def _check_cpus(value: Any, name: str) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0.01):
        raise ConfigurationError(f'{name} must be a number of CPUs or None, not {quoted(value)}')


ULIMITS = ('core:0', 'cpu', 'data', 'fsize', 'nofile:65536', 'nproc:4096', 'rss', 'stack')
"""Resource limits that take nothing from the host: they only make less of what a sandbox may have anyway."""


@refuses_unknown_keys
@frozen(kw_only=True)
class Policy(OptionsModel):
    """What may be asked for. Patterns are shell-like: ``python:*``; None is no limit.

    Attributes:
        sandbox_types: Patterns of the kinds of sandbox.
        images: Patterns of image names, by their parts: ``python:*`` is every tag of one image,
            ``registry.example.com/team/*:1.*`` others. ``*`` matches characters of one part, ``**`` for several parts of a
            path, ``*`` alone for all images.
        allow_pull: Whether an image that the engine lacks is fetched; the default image of a kind always is.
        tools: Patterns of tool names. Without ``notebook_executor`` among them a client gets at no kernel.
        adapters: Patterns of the names of adapters, ``'e2b'`` among them: the interfaces of other programs that are answered.
        mounts: Host directories that ``volumes`` may name, with all below them: ``'/data:ro'``, ``'/scratch:rw'``. Those that
            are ``ro``, and not within one that is ``rw``, also serve for ``rootfs`` and ``python``, with all that such an
            interpreter would show. Who writes in a directory may put a link in the place of something below it between the
            check and the mount; so let ``rw`` ones hold nothing but what is mounted as a whole where clients are not trusted.
        networks: Names that ``network`` may have. A sandbox that shares the host's own network needs ``'host'`` here.
        allow_network: Whether sandboxes may have a network at all.
        publish: Which host addresses ports may be published on: ``'no'``, ``'loopback'`` or ``'any'``.
        host_ports: Ports of the host that may be named, like ``'8080'`` or ``'20000-29999'``; where none is named a free one is
            taken. None is none at all, but with ``publish='any'`` all.
        max_ports: How many ports a sandbox may publish.
        privileged: Whether ``privileged`` containers, and sandboxes without a system call filter, may be had.
        capabilities: Names that ``cap_add`` may have.
        security_options: Patterns that ``security_opt`` may have.
        runtimes: Names that ``runtime`` may have.
        ulimits: Names that ``ulimits`` may have, with the greatest value: ``'nofile:65536'``; ``'cpu'`` takes any.
        undeclared: Patterns of kinds of sandbox, and of tools, whose options may be set although they do not declare what these
            reach on the host. Ours declare all.
        allow_keep: Whether ``remove_on_exit=False`` may be asked, which leaves containers and files of any size on the host.
        max_memory: The most ``memory_limit`` may be; no limit at all may then not be asked.
        max_cpus: The most ``cpu_limit`` may be.
        max_pids: The most ``pids_limit`` may be; no limit at all may then not be asked.
        max_disk: The most that ``storage_opt`` may give as a size.
        max_open_files: The most ``open_files_limit`` may be.
        max_output_bytes: The most that ``max_output_bytes`` may be, of a call, a process, a cell, a tool or a sandbox.
        max_output_memory: How much output all calls together may hold at once: twice their ``max_output_bytes`` each while they
            run, of programs and cells that are followed what goes beyond the usual, and for a large answer what it takes as text
            and as JSON until it is sent. A call whose result is shortened (``max_chars``) catches as much for its file as leaves
            room for ``max_concurrent_calls`` of them, 4 MiB by default.
        max_display_bytes: The most that ``max_display_bytes`` of a notebook may be.
        max_file_bytes: The largest file that a tool may be set to read or write at once.
        max_entries: How many entries of a directory are listed at once.
        max_grace: The longest that a sandbox may be set to wait for something to end by itself, in seconds.
        max_config_bytes: How large the options of a sandbox may be, as JSON; the server keeps them.
        max_timeout: The longest time limit a call may have, in seconds; none at all may then not be asked. What a tool or a
            language takes where a call names none is this at most.
        max_lifetime: The longest ``ttl`` a sandbox may have, in seconds; those that ask for none get this.
        max_lease: The longest a lease of a pool's sandbox may last, in seconds.
        max_sandboxes: How many sandboxes one key may have at once, those of its pools included.
        max_concurrent_calls: How many calls may continue at once, of all keys together. Where there are several keys, a part is
            kept for each that has none running, so that no key can take all; so it is with streams and ``max_output_memory``.
        max_calls_per_key: How many of them may be one key's.
        max_waiting: How many programs and calls may wait for their turn when ``max_concurrent_calls`` run, of all keys together.
        max_streams: How many streams of events may be open at once, of all keys together.
        max_repeats: How many answers are kept for repeats under an idempotency key; each key has its part.
        max_repeat_bytes: How much memory they may take.
        max_processes: How many processes one key may have running, and how many cells that are followed as they run.
        max_json_bytes: The largest JSON body.
        max_json_values: How many values a JSON body may hold: lists, objects, and what is in them.
        max_upload_bytes: The largest file or archive that may be sent.
        max_connections: How many connections may be open at once.
        request_timeout: Seconds in which a request's head must have come.
        min_upload_rate: Bytes a second that a body must come with, on average, after its first ``request_timeout`` seconds.
        send_timeout: Seconds after which a client that takes nothing of its answer is given up.
        min_download_rate: Bytes a second that a client must take of what waits for it, on average over twice ``send_timeout``, or
            it is given up: as long as it takes its answer, it holds the memory for it. 0 is no limit.
    """

    sandbox_types: tuple[str, ...] = _names(('*',))
    images: tuple[str, ...] = _names(('*',))
    allow_pull: bool = field(default=False, validator=is_a(bool))
    tools: tuple[str, ...] = _names(('*',))
    adapters: tuple[str, ...] = _names(('*',))
    mounts: tuple[str, ...] = field(default=(), converter=as_tuple, validator=checked(_check_mounts))
    networks: tuple[str, ...] = _names()
    allow_network: bool = field(default=True, validator=is_a(bool))
    publish: Literal['no', 'loopback', 'any'] = field(default='loopback', validator=checked(_check_publish))
    host_ports: tuple[str, ...] | None = field(default=None, converter=as_tuple, validator=checked(_check_port_ranges))
    max_ports: int | None = field(default=16, validator=whole_number(0, none=True))
    privileged: bool = field(default=False, validator=is_a(bool))
    capabilities: tuple[str, ...] = _names()
    security_options: tuple[str, ...] = _names()
    runtimes: tuple[str, ...] = _names()
    ulimits: tuple[str, ...] = field(default=ULIMITS, converter=as_tuple, validator=checked(_check_ulimits))
    undeclared: tuple[str, ...] = _names()
    allow_keep: bool = field(default=False, validator=is_a(bool))
    max_memory: str | int | None = field(default='8g', validator=checked(_check_size))
    max_cpus: float | None = field(default=8.0, validator=checked(_check_cpus))
    max_pids: int | None = field(default=4096, validator=whole_number(16, none=True))
    max_disk: str | int | None = field(default='64g', validator=checked(_check_size))
    max_open_files: int | None = field(default=65536, validator=whole_number(64, none=True))
    max_output_bytes: int | None = field(default=16 * MIB, validator=whole_number(1, none=True))
    max_output_memory: int = field(default=512 * MIB, validator=whole_number(MIB))
    max_display_bytes: int | None = field(default=8 * MIB, validator=whole_number(1024, none=True))
    max_file_bytes: int | None = field(default=16 * MIB, validator=whole_number(1, none=True))
    max_entries: int = field(default=100_000, validator=whole_number(1))
    max_grace: float | None = _seconds('max_grace', 60.0)
    max_config_bytes: int = field(default=MIB, validator=whole_number(1024))
    max_timeout: float | None = _seconds('max_timeout')
    max_lifetime: float | None = _seconds('max_lifetime')
    max_lease: float | None = _seconds('max_lease', 3600.0)
    max_sandboxes: int | None = field(default=64, validator=whole_number(0, none=True))
    max_concurrent_calls: int = field(default=64, validator=whole_number(1, 4096))
    max_calls_per_key: int | None = field(default=None, validator=whole_number(1, none=True))
    max_waiting: int = field(default=512, validator=whole_number(0, 8192))
    max_streams: int = field(default=64, validator=whole_number(1, 4096))
    max_repeats: int = field(default=10_000, validator=whole_number(1))
    max_repeat_bytes: int = field(default=64 * MIB, validator=whole_number(1024))
    max_processes: int = field(default=256, validator=whole_number(1))
    max_json_bytes: int = field(default=16 * MIB, validator=whole_number(1024))
    max_json_values: int = field(default=100_000, validator=whole_number(100))
    max_upload_bytes: int = field(default=1024 * MIB, validator=whole_number(1024))
    max_connections: int = field(default=1000, validator=whole_number(10, 100_000))
    request_timeout: float = field(default=20.0, validator=is_a(int, float))
    min_upload_rate: float = field(default=1024.0, validator=is_a(int, float))
    send_timeout: float = field(default=60.0, validator=is_a(int, float))
    min_download_rate: float = field(default=1024.0, validator=is_a(int, float))

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

    def check_sandbox(
        self, kind: str, config: C, *, own_image: str | None = None, own_platform: str | None = None
    ) -> C:
        """Return the configuration if such a sandbox may be made; its host paths are those that were checked, without links.

        Every option has a ruling, which its kind declares (`enclave.sandboxes.kinds`), or its default value.

        Args:
            own_image: An image that may be fetched although clients may have none fetched: the server's own configuration names
                it.
            own_platform: The platform that it may be fetched for.

        Raises:
            NotRegisteredError: There is no such kind.
            PolicyError: It may not; the message names the option and the rule.
        """
        if not _matches(kind, self.sandbox_types):
            raise _refusal('sandbox_types', f'sandboxes of the type {kind!r} may not be made here', self.sandbox_types)
        rulings = self._rulings(get_kind(kind))
        changes = {}
        for attribute in attrs.fields(type(config)):
            option, value = attribute.name, getattr(config, attribute.name)
            ruling = rulings.get(option)
            if ruling is not None:
                checked = ruling.check(_PolicyGate(self, own_image, own_platform), option, value, config)
                if checked is not value:
                    changes[option] = checked
            elif not is_default(attribute, value) and not _matches(kind, self.undeclared):
                raise _refusal(
                    'undeclared',
                    f'{option} may not be set; the kind {kind!r} does not declare what it reaches',
                    self.undeclared,
                )
        return config.model_copy(update=changes) if changes else config

    def check_options(self, kind: str, options: Mapping[str, Any]) -> None:
        """Return if options may be read as a configuration at all; before that, some mean paths of the host."""
        check_host_paths(get_kind(kind).get_rulings(), options)

    def _rulings(self, kind: SandboxKind) -> Rulings:
        found = kind.get_rulings()
        if found is None and not _matches(kind.name, self.undeclared):
            raise _refusal(
                'undeclared',
                f'the kind {kind.name!r} does not declare what its options reach on the host',
                self.undeclared,
            )
        return found or {}

    def check_tool(self, name: str, parameters: Mapping[str, Any]) -> None:
        """Return if a tool may be used with these arguments."""
        if not _matches(name, self.tools):
            raise _refusal('tools', f'the tool {name!r} may not be used', self.tools)
        for option, seconds in parameters.items() if self.max_timeout is not None else ():
            is_number = isinstance(seconds, (int, float)) and not isinstance(seconds, bool)
            if is_number and option.endswith('timeout') and seconds >= 0:
                self.check_call_timeout(seconds or None, option)

    def limited_parameters(self, name: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments of a call of a tool as it may be made, with the time limits that it left out.

        Raises:
            PolicyError: It may not be made.
        """
        self.check_tool(name, parameters)
        made = dict(parameters)
        if self.max_timeout is not None:
            with contextlib.suppress(ToolNotFoundError):  # which the sandbox answers
                for option, usual in ToolFactory.get_tool_class(name).time_limits.items():
                    if made.get(option) is None:
                        made[option] = self.within_timeout(usual)
        return made

    def within_timeout(self, usual: float | None) -> float | None:
        """Return the limit of time, in seconds, where none is asked for; ``usual`` is the one by itself, None and 0 are none."""
        if self.max_timeout is None:
            return usual
        return min(usual or self.max_timeout, self.max_timeout)

    def check_adapter(self, name: str) -> None:
        """Return if another program's interface may be used."""
        if not _matches(name, self.adapters):
            raise _refusal('adapters', f'the adapter {name!r} is closed here', self.adapters)

    def check_tool_options(self, name: str, options: Mapping[str, Any]) -> None:
        """Return if a tool may be loaded with these options: the tool declares a ruling for each."""
        self.check_tool(name, {})
        rulings = ToolFactory.get_tool_class(name).rulings or {}
        for option, value in options.items():
            ruling = rulings.get(option)
            if ruling is not None:
                ruling.check(_PolicyGate(self), option, value, options)
            elif option not in _TOOL_OPTIONS and not _matches(name, self.undeclared):
                raise _refusal(
                    'undeclared',
                    f'{option} of the tool {name!r} may not be set; the tool does not declare what it reaches',
                    self.undeclared,
                )

    def check_output_bytes(self, asked: int | None) -> None:
        """Return if a call may have so much output; None is the sandbox's own limit, which was looked at when it was made."""
        if asked is not None:
            _PolicyGate(self).number('max_output_bytes', 'max_output_bytes', asked)

    def entries(self, asked: int | None) -> int | None:
        """Return how many entries of a directory may be listed.

        Raises:
            PolicyError: More were asked for.
        """
        if asked is not None:
            _PolicyGate(self).number('max_entries', 'max_entries', asked)
        return asked

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
            given = 'never' if seconds is None else f'{seconds:g}'
            raise _refusal('max_lifetime', f'ttl may be at most {self.max_lifetime:g} seconds, not {given}')
        return seconds

    def lease(self, asked: float | None) -> float | None:
        """Return how long a lease may last, at most what is allowed."""
        seconds = check_timeout(asked, 'ttl')
        if self.max_lease is None or (seconds is not None and seconds <= self.max_lease):
            return seconds
        return self.max_lease


@frozen
class _PolicyGate:
    """What the rulings of options ask; see `enclave.rulings.Gate`."""

    policy: Policy
    own_image: str | None = None
    own_platform: str | None = None

    def flag(self, rule: str, what: str) -> None:
        if not getattr(self.policy, rule):
            raise _refusal(rule, what)

    def may_fetch(self, image: str, platform: str | None = None) -> bool:
        return self.policy.allow_pull or (image == self.own_image and platform == self.own_platform)

    def number(self, rule: str, option: str, value: float | None) -> None:
        if value is not None and not isinstance(value, (int, float)):
            return  # an option of a tool, which refuses it itself
        most: float | None = getattr(self.policy, rule)
        # Of limits of time, 0 is none at all.
        if most is not None and (value is None or value > most or (value == 0 and 'timeout' in rule)):
            asked = 'no limit' if not value else f'{value:g}'
            raise _refusal(rule, f'{option} may be at most {most:g}, not {asked}')

    def size(self, rule: str, option: str, value: str | int | None) -> None:
        most: str | int | None = getattr(self.policy, rule)
        if most is not None and (value is None or parse_size(value, option) > parse_size(most, rule)):
            raise _refusal(rule, f'{option} may be at most {most}, not {value}')

    def listed(self, rule: str, option: str, name: str) -> None:
        allowed: tuple[str, ...] = getattr(self.policy, rule)
        if not _matches(name, allowed):
            raise _refusal(rule, f'{option} may not name {name!r}', allowed)

    def host_path(self, option: str, path: str, mode: str, *, is_steady: bool = False) -> str:
        """Return a host path as the system resolves it: a link in an allowed directory leads nowhere else."""
        try:
            real = os.path.realpath(path)
        except OSError:  # a link that this process may not read leads where nobody knows
            real = ''
        around: set[str] = {
            allowed
            for each, _, allowed in (mount.partition(':') for mount in self.policy.mounts)
            if real and f'{real}/'.startswith(os.path.realpath(each).rstrip('/') + '/')
        }
        if is_steady and 'rw' in around:
            raise _refusal('mounts', f'{option}: {path!r} is where sandboxes may write', self.policy.mounts)
        if around and (mode == 'ro' or 'rw' in around):
            return real
        raise _refusal('mounts', f'{option}: the host path {path!r} may not be mounted ({mode})', self.policy.mounts)

    def image(self, option: str, name: str) -> None:
        allowed = self.policy.images
        if not any(references.matches(name, pattern) for pattern in allowed):
            raise _refusal('images', f'the image {name!r} may not be used', allowed)

    def port(self, option: str, address: str, number: int | None) -> None:
        policy = self.policy
        if policy.publish == 'no' or (policy.publish == 'loopback' and not is_loopback(address)):
            raise _refusal('publish', f'{option}: nothing may be published on {address}', (policy.publish,))
        if not number:
            return
        ranges = policy.host_ports
        if ranges is None:
            ranges = ('1-65535',) if policy.publish == 'any' else ()
        if not any(first <= number <= last for first, last in map(_bounds, ranges)):
            raise _refusal(
                'host_ports',
                f'{option}: the port {number} of the host may not be named; without one, a free one is taken',
                ranges,
            )

    def limit(self, option: str, name: str, value: int) -> None:
        for each in self.policy.ulimits:
            pattern, colon, most = each.partition(':')
            if fnmatch.fnmatchcase(name, pattern) and (not colon or 0 <= value <= int(most)):
                return
        raise _refusal('ulimits', f'{option}: {name} may not be {value}', self.policy.ulimits)

    def tool(self, name: str, options: Mapping[str, Any]) -> None:
        self.policy.check_tool_options(name, options)


_TOOL_OPTIONS = frozenset({'enabled', 'description', 'parameters'})
"""What every tool can be made with besides its options."""


def _matches(text: str, patterns: tuple[str, ...]) -> bool:
    return '*' in patterns or any(fnmatch.fnmatchcase(text, pattern) for pattern in patterns)


def _refusal(rule: str, message: str, allowed: tuple[str, ...] | None = None) -> PolicyError:
    hint = '' if allowed is None else f'; allowed: {", ".join(allowed) or "none"}'
    return PolicyError(
        f"the server's policy refuses this: {message}{hint} (rule {rule})",
        details={'rule': rule},
    )
