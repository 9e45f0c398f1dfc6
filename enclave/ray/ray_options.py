"""What shards are (layer 6, values only)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import attrs
from attrs import field, frozen

from enclave.config import checked, is_a, parse_size, refuses_unknown_keys, whole_number
from enclave.errors import ConfigurationError, InvalidArgumentError
from enclave.managers.manager_config import SandboxManagerConfig
from enclave.quoting import quoted
from enclave.records import Model
from enclave.suggest import did_you_mean

MOST_NAME_CHARACTERS = 200
MOST_AMOUNT = 1 << 62
"""Of a resource; far beyond what any cluster has, and a number that Ray can have."""


def _seconds(default: float, least: float = 0.05) -> Any:
    def check(value: Any, name: str) -> None:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= 1e9:
            raise ConfigurationError(f'{name} must be a number of seconds, at least {least:g}, not {quoted(value)}')

    return field(default=default, validator=checked(check))


def _check_name(value: Any, name: str) -> None:
    if value is None:
        return
    fits = (
        isinstance(value, str) and 0 < len(value) <= MOST_NAME_CHARACTERS and value.isprintable() and ':' not in value
    )
    if not fits:
        raise ConfigurationError(
            f'{name} must be a name of 1 to {MOST_NAME_CHARACTERS} printable characters without ":", not {quoted(value)}'
        )


def _is_amount(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= MOST_AMOUNT


def _check_cpus(value: Any, name: str) -> None:
    if value is not None and not _is_amount(value):
        raise ConfigurationError(f'{name} must be a number of CPUs, 0 or more, not {quoted(value)}')


def _check_resources(value: Any, name: str) -> None:
    if value is None:
        return
    fits = isinstance(value, Mapping) and all(isinstance(key, str) for key in value)
    if not fits or not all(_is_amount(each) for each in value.values()):
        raise ConfigurationError(f'{name} must be a dict of amounts by the names of resources, not {quoted(value)}')


def _check_strategy(value: Any, name: str) -> None:
    if value not in ('spread', 'pack') if isinstance(value, str) else not hasattr(value, 'bundle_specs'):
        raise ConfigurationError(f"{name} must be 'spread', 'pack' or a placement group of Ray, not {quoted(value)}")


def _check_memory(value: Any, name: str) -> None:
    if value is not None:
        parse_size(value, name)


@refuses_unknown_keys
@frozen(kw_only=True)
class RayOptions(Model):
    """What shards a manager on a Ray cluster has. Times are seconds.

    Attributes:
        address: The cluster, as ``ray.init`` takes it; None is that of ``RAY_ADDRESS``, else one that Ray starts on this
            machine. A program that is connected already stays so.
        name: What the shards are known by. Other programs on the cluster find them by it; None is a name of the manager's own.
        attach: Use the shards that others made under ``name``, make none, and end none.
        lifetime: ``'detached'`` shards outlive the program that made them; another one takes them over by ``name``. Others end
            with their program, whatever way it ends.
        shard_size: How many sandboxes a shard holds at most.
        min_shards: How many shards there are from the start to the end.
        max_shards: How many there may be; None leaves it to what the cluster has.
        max_pending: How many may be waiting for the cluster's resources at once, those of ``min_shards`` included, which is
            what its autoscaler sees.
        num_cpus: How many CPUs a shard holds of its node, for its sandboxes and its own work.
        memory: How much memory it holds there, as a number of bytes or ``'16g'``.
        resources: Other resources of Ray's that it holds, like ``{'sandboxes': 1}``, which only nodes made for it have.
        strategy: Where the next shard and the next sandbox go: ``'spread'`` over the nodes, ``'pack'`` on few, or the
            bundles of a placement group.
        runtime_env: Ray's runtime environment of the shards.
        capacity_timeout: How long the creation of a sandbox waits for room.
        idle_shard_timeout: How long a shard without sandboxes is kept, beyond ``min_shards``.
        unattended_timeout: How long detached shards live after the last manager has let go of them.
        lost_after: How long a shard may say nothing until it counts as lost, with all that is in it.
        report_interval: How often a shard is asked how it is.
    """

    address: str | None = field(default=None, validator=is_a(str, none=True))
    name: str | None = field(default=None, validator=checked(_check_name))
    attach: bool = field(default=False, validator=is_a(bool))
    lifetime: Literal['detached'] | None = field(default=None)
    shard_size: int = field(default=8, validator=whole_number(1, 1000))
    min_shards: int = field(default=0, validator=whole_number(0, 10_000))
    max_shards: int | None = field(default=None, validator=whole_number(1, 10_000, none=True))
    max_pending: int = field(default=4, validator=whole_number(1, 1000))
    num_cpus: float = field(default=1.0, validator=checked(_check_cpus))
    memory: str | int | None = field(default=None, validator=checked(_check_memory))
    resources: dict[str, float] | None = field(default=None, validator=checked(_check_resources))
    strategy: Any = field(default='spread', validator=checked(_check_strategy))
    runtime_env: dict[str, Any] | None = field(default=None, repr=False, validator=is_a(dict, none=True))
    capacity_timeout: float = _seconds(600.0)
    idle_shard_timeout: float = _seconds(60.0)
    unattended_timeout: float = _seconds(3600.0)
    lost_after: float = _seconds(10.0, 1.0)
    report_interval: float = _seconds(1.0)

    @lifetime.validator
    def _check_lifetime(self, _: Any, value: Any) -> None:
        if value not in (None, 'detached'):
            raise ConfigurationError(f"lifetime must be None or 'detached', not {quoted(value)}")

    def __attrs_post_init__(self) -> None:
        if (self.attach or self.lifetime) and not self.name:
            raise ConfigurationError('shards that are found by other programs need a name')
        if self.max_shards is not None and self.max_shards < self.min_shards:
            raise ConfigurationError(f'max_shards={self.max_shards} is less than min_shards={self.min_shards}')
        if self.lifetime and self.unattended_timeout < 3 * self.report_interval:
            raise ConfigurationError(
                f'unattended_timeout={self.unattended_timeout:g} must be at least three times '
                f'report_interval={self.report_interval:g}, or shards end that are in use'
            )

    @property
    def actor_options(self) -> dict[str, Any]:
        """What Ray is asked for an actor."""
        return {
            'num_cpus': self.num_cpus,
            'memory': None if self.memory is None else parse_size(self.memory, 'memory'),
            'resources': self.resources,
            'runtime_env': self.runtime_env,
            'lifetime': self.lifetime,
        }

    @classmethod
    def _invalid(cls) -> type[InvalidArgumentError]:
        return ConfigurationError


def check_names(options: Any, source: str) -> None:
    """Check that what a file says are options of shards or of their manager.

    Raises:
        ConfigurationError: One is not; the message names it.
    """
    known = {*attrs.fields_dict(RayOptions), *attrs.fields_dict(SandboxManagerConfig)}
    if not isinstance(options, Mapping):
        raise ConfigurationError(f'{source} must have options by their names, not {options!r}')
    for name in options:
        if name not in known:
            raise ConfigurationError(
                f'{source}: a manager on a Ray cluster has no option {name!r}; {did_you_mean(str(name), sorted(known))}'
            )
