"""What a manager can be asked to be (layer 5, values only): one frozen class for every kind of manager."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from attrs import field, frozen

from enclave.config import SandboxConfig, as_options, checked, is_a, refuses_unknown_keys, whole_number
from enclave.deadline import check_timeout
from enclave.enums import SandboxType
from enclave.errors import ConfigurationError, InvalidArgumentError
from enclave.quoting import quoted
from enclave.records import OptionsModel

GROWTH = 4
"""How many times its size a pool may grow to, where ``pool_max_size`` does not say."""


def _as_seconds(value: float | None) -> Any:
    """Return None for each way to say "no limit"; leave the rest for the validator."""
    return None if isinstance(value, (int, float)) and value in (0, math.inf) and value is not False else value


def _check_seconds(value: Any, name: str) -> None:
    try:
        check_timeout(value, name)
    except InvalidArgumentError as error:
        raise ConfigurationError(error.message) from None


def _check_interval(value: Any, name: str) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0.01 <= value <= 1e9:
        raise ConfigurationError(f'{name} must be a number of seconds from 0.01 to 1e9, not {quoted(value)}')


def _one_of(*choices: str) -> Any:
    def check(value: Any, name: str) -> None:
        if value not in choices:
            raise ConfigurationError(f'{name} must be {" or ".join(map(repr, choices))}, not {quoted(value)}')

    return checked(check)


@refuses_unknown_keys
@frozen(kw_only=True)
class SandboxManagerConfig(OptionsModel):
    """What a manager can be asked. All times are seconds; None and 0 mean no limit where a limit is meant.

    Attributes:
        base_url: Address of a server, like ``'http://127.0.0.1:8000'``; `SandboxManagerFactory` then makes a remote manager.
        timeout: How long a server's answer may take beyond what the call itself may. For remote managers.
        api_key: The key to show to a server. Never in a repr.
        cleanup_interval: How often the reaper looks over all sandboxes and sweeps what dead owners left. What has a due time
            of its own (``ttl``, ``idle_timeout``) is not made to wait for it.
        pool_size: How many sandboxes `initialize_pool` makes when nothing else is asked; the pool keeps at least so many.
        sandbox_type: The kind of sandboxes that are made without one. None leaves it to `enclave.sandboxes.choice`: Docker if
            its engine answers, else bubblewrap; a remote manager leaves it to its server.
        sandbox_config: Configuration of sandboxes that are made without one: a `SandboxConfig` or a dict of options.
        max_workers: How many submitted calls run at once; threads are only made as they are needed.
        parallel_starts: How many sandboxes are being started at once, and how many removed; others wait for their turn.
        ttl: How long a sandbox lives after its start, unless `create_sandbox` says otherwise.
        idle_timeout: How long a sandbox may be without any call running, unless `create_sandbox` says otherwise.
        max_ttl: The longest ``ttl`` anybody may ask for. A pool's sandboxes are exempt.
        max_idle_timeout: The longest ``idle_timeout`` anybody may ask for. A pool's sandboxes are exempt.
        paused_ttl: How long a sandbox may stay paused, which keeps its memory; it is removed then. At most ``max_ttl``.
        max_sandboxes: How many sandboxes there may be at once, those of pools included; None is no limit.
        tenant: Whose sandboxes these are, where several managers on a machine are different people's: what one keeps
            (``remove_on_exit=False``) is taken up again only by a manager of the same name.
        pool_unused_timeout: How long a pool may be without a lease until it is dissolved and its sandboxes go; None is for ever.
        pool_policy: ``'reuse'``: a sandbox goes back to the pool with all that is in it. ``'fresh'``: it is destroyed after one
            lease and another takes its place.
        pool_clean: What is cleaned of a sandbox that goes back to a pool with ``'reuse'``. ``'processes'``: all that calls left
            running is ended (a notebook's kernels stay); files stay. ``'nothing'``: it continues. A sandbox that cannot be
            cleaned, or in which no process can be started, is destroyed and another takes its place.
        pool_when_empty: What a lease does when no sandbox is idle: ``'wait'`` for one; ``'grow'``: the pool is enlarged up to
            ``pool_max_size``, then wait; ``'fail'`` at once.
        pool_max_size: How far a pool with ``'grow'`` may grow; None is four times its size.
        pool_idle_timeout: How long a sandbox above the pool's size may be idle before it goes.
        stop_grace: How long `stop` lets running calls continue.
        stop_timeout: How long `stop` may take altogether.
        sweep: Whether to remove what owners that are provably dead have left.
    """

    base_url: str | None = field(default=None, validator=is_a(str, none=True))
    timeout: float | None = field(default=30.0, converter=_as_seconds, validator=checked(_check_seconds))
    api_key: str | None = field(default=None, validator=is_a(str, none=True), repr=False)
    cleanup_interval: float = field(default=300.0, validator=checked(_check_interval))
    pool_size: int = field(default=0, validator=whole_number(0))
    sandbox_type: SandboxType | str | None = field(default=None, validator=is_a(str, none=True))
    sandbox_config: SandboxConfig | dict[str, Any] | None = field(default=None, repr=False)
    max_workers: int = field(default=128, validator=whole_number(1, 10000))
    parallel_starts: int = field(default=32, validator=whole_number(1, 1000))
    ttl: float | None = field(default=None, converter=_as_seconds, validator=checked(_check_seconds))
    idle_timeout: float | None = field(default=None, converter=_as_seconds, validator=checked(_check_seconds))
    max_ttl: float | None = field(default=None, converter=_as_seconds, validator=checked(_check_seconds))
    max_idle_timeout: float | None = field(default=None, converter=_as_seconds, validator=checked(_check_seconds))
    paused_ttl: float | None = field(default=86400.0, converter=_as_seconds, validator=checked(_check_seconds))
    max_sandboxes: int | None = field(default=None, validator=whole_number(0, none=True))
    tenant: str | None = field(default=None, validator=is_a(str, none=True))
    pool_unused_timeout: float | None = field(default=None, converter=_as_seconds, validator=checked(_check_seconds))
    pool_policy: Literal['reuse', 'fresh'] = field(default='reuse', validator=_one_of('reuse', 'fresh'))
    pool_clean: Literal['processes', 'nothing'] = field(default='processes', validator=_one_of('processes', 'nothing'))
    pool_when_empty: Literal['wait', 'grow', 'fail'] = field(default='wait', validator=_one_of('wait', 'grow', 'fail'))
    pool_max_size: int | None = field(default=None, validator=whole_number(1, none=True))
    pool_idle_timeout: float | None = field(default=60.0, converter=_as_seconds, validator=checked(_check_seconds))
    stop_grace: float = field(default=5.0)
    stop_timeout: float | None = field(default=60.0, converter=_as_seconds, validator=checked(_check_seconds))
    sweep: bool = field(default=True, validator=is_a(bool))

    @base_url.validator
    def _check_base_url(self, _: Any, value: Any) -> None:
        if value is not None and not value.startswith(('http://', 'https://')):
            raise ConfigurationError(
                f"base_url must begin with http:// or https://, as 'http://127.0.0.1:8000' does; not {quoted(value)}"
            )

    @sandbox_config.validator
    def _check_sandbox_config(self, _: Any, value: Any) -> None:
        if value is not None and not isinstance(value, (SandboxConfig, Mapping)):
            raise ConfigurationError(
                f'sandbox_config must be a SandboxConfig or a dict of options, not {quoted(value)}'
            )

    @stop_grace.validator
    def _check_stop_grace(self, _: Any, value: Any) -> None:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1e9:
            raise ConfigurationError(f'stop_grace must be a number of seconds, 0 or more, not {quoted(value)}')

    def __attrs_post_init__(self) -> None:
        for name in ('ttl', 'idle_timeout'):
            value, cap = getattr(self, name), getattr(self, f'max_{name}')
            if value is not None and cap is not None and value > cap:
                raise ConfigurationError(f'{name}={value:g} is more than max_{name}={cap:g} allows')
        if self.pool_max_size is not None and self.pool_max_size < self.pool_size:
            raise ConfigurationError(f'pool_max_size={self.pool_max_size} is less than pool_size={self.pool_size}')

    def max_size_for(self, pool_size: int) -> int:
        """Return how far a pool of this size may grow."""
        if self.pool_when_empty != 'grow':
            return pool_size
        return GROWTH * pool_size if self.pool_max_size is None else max(self.pool_max_size, pool_size)

    @classmethod
    def model_validate(cls, value: Any) -> SandboxManagerConfig:
        """Return ``value`` (a dict of options, an instance, or None for all defaults) as a checked config.

        Raises:
            ConfigurationError: An option is unknown, of a wrong type or out of range; the message names it.
        """
        return as_options(cls, value)

    @classmethod
    def merged(cls, config: Any, options: Mapping[str, Any]) -> SandboxManagerConfig:
        """Return ``config`` (as `model_validate` takes it) with ``options`` in the place of what it says."""
        base = cls.model_validate(config)
        return base.model_copy(update=options) if options else base
