from __future__ import annotations

from typing import Any

import pytest

from enclave.config import SandboxConfig
from enclave.errors import ConfigurationError
from enclave.managers.manager_config import SandboxManagerConfig


def test_the_documented_options_are_taken() -> None:
    config = SandboxManagerConfig(
        base_url='http://127.0.0.1:8000',
        timeout=2.5,
        api_key='secret',
        cleanup_interval=60,
        pool_size=3,
        sandbox_config=SandboxConfig(),
    )

    assert (config.timeout, config.cleanup_interval, config.pool_size) == (2.5, 60, 3)


def test_a_key_is_not_in_the_repr() -> None:
    assert 'secret' not in repr(SandboxManagerConfig(api_key='secret'))


@pytest.mark.parametrize(
    'name', ['timeout', 'ttl', 'idle_timeout', 'max_ttl', 'max_idle_timeout', 'pool_idle_timeout', 'stop_timeout']
)
@pytest.mark.parametrize('value', [0, 0.0, None, float('inf')])
def test_zero_and_none_are_no_limit(name: str, value: Any) -> None:
    assert getattr(SandboxManagerConfig(**{name: value}), name) is None


@pytest.mark.parametrize(
    ('name', 'value'),
    [
        ('timeout', -1),
        ('timeout', False),
        ('ttl', 'soon'),
        ('idle_timeout', -0.1),
        ('cleanup_interval', 0),
        ('cleanup_interval', '5'),
        ('pool_size', -1),
        ('pool_size', 1.5),
        ('pool_max_size', 0),
        ('max_workers', 0),
        ('parallel_starts', 0),
        ('pool_policy', 'new'),
        ('pool_when_empty', 'panic'),
        ('stop_grace', -1),
        ('sweep', 'yes'),
        ('base_url', 'localhost:8000'),
        ('api_key', 5),
        ('sandbox_config', 'docker'),
    ],
)
def test_wrong_values_are_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=name):
        SandboxManagerConfig(**{name: value})


def test_an_unknown_option_is_refused_with_a_hint() -> None:
    with pytest.raises(ConfigurationError, match="did you mean 'pool_size'"):
        SandboxManagerConfig(poolsize=3)


@pytest.mark.parametrize('name', ['ttl', 'idle_timeout'])
def test_a_default_beyond_its_cap_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match=f'max_{name}'):
        SandboxManagerConfig(**{name: 10, f'max_{name}': 5})


def test_a_pool_may_not_be_larger_than_it_may_grow() -> None:
    with pytest.raises(ConfigurationError, match='pool_max_size'):
        SandboxManagerConfig(pool_size=4, pool_max_size=3)


def test_options_take_the_place_of_what_the_config_says() -> None:
    merged = SandboxManagerConfig.merged({'pool_size': 1, 'ttl': 5}, {'pool_size': 2})

    assert (merged.pool_size, merged.ttl) == (2, 5)


def test_how_far_a_pool_may_grow() -> None:
    assert SandboxManagerConfig().max_size_for(3) == 3
    assert SandboxManagerConfig(pool_when_empty='grow').max_size_for(3) == 12
    assert SandboxManagerConfig(pool_when_empty='grow', pool_max_size=5).max_size_for(3) == 5
