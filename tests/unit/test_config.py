from __future__ import annotations

import contextlib
import math
import os
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from enclave.config import DEFAULT_OUTPUT_BYTES, MIB, SandboxConfig, check_env, parse_size
from enclave.errors import ConfigurationError, InvalidArgumentError
from enclave.managers.manager_config import SandboxManagerConfig
from enclave.sandboxes.bubblewrap.bubblewrap_notebook_config import BubblewrapNotebookConfig
from enclave.sandboxes.docker.docker_notebook_config import DockerNotebookConfig
from enclave.server.policy import Policy


@pytest.mark.parametrize(
    ('text', 'size'),
    [
        ('512m', 512 * MIB),
        ('512M', 512 * MIB),
        ('512 MiB', 512 * MIB),
        ('1g', 1024 * MIB),
        ('1.5GB', 1536 * MIB),
        ('2t', 2 * 1024 * 1024 * MIB),
        ('64k', 65536),
        (' 100 ', 100),
        ('100b', 100),
        (100, 100),
    ],
)
def test_a_size_is_counted_in_powers_of_1024(text: Any, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    'text', ['', 'm', '-1m', '1x', '1 m m', '0', 0, -5, True, None, 1.5, [], '9' * 400 + 'g', 10**30, '1e3', 'nan']
)
def test_what_is_no_size_is_named(text: Any) -> None:
    with pytest.raises(ConfigurationError, match="shm_size must be a size like '512m'"):
        parse_size(text, 'shm_size')


@given(st.integers(1, 2**40), st.sampled_from(['', 'k', 'm']))
def test_every_whole_size_is_exact(amount: int, unit: str) -> None:
    assert parse_size(f'{amount}{unit}') == amount * {'': 1, 'k': 1024, 'm': MIB}[unit]


HUGE = 10**5000  # CPython refuses to write so many digits


@pytest.mark.parametrize('config', [DockerNotebookConfig, BubblewrapNotebookConfig, SandboxManagerConfig, Policy])
def test_a_number_of_thousands_of_digits_is_refused_for_every_option_like_any_other(config: type[Any]) -> None:
    for option in (each.name for each in attrs.fields(config) if each.init):
        for value in (HUGE, -HUGE, [HUGE], {'a': HUGE}, {HUGE: 'a'}, {'a': {'b': HUGE}}):
            with contextlib.suppress(ConfigurationError):  # or it is taken: as no time limit, as an option of a tool
                config(**{option: value})


@pytest.mark.parametrize('config', [DockerNotebookConfig, BubblewrapNotebookConfig, SandboxManagerConfig, Policy])
def test_a_refusal_does_not_repeat_a_megabyte(config: type[Any]) -> None:
    found: dict[str, int] = {}
    for option in (each.name for each in attrs.fields(config) if each.init):
        for value in ('x' * 1_000_000, {'x' * 1_000_000: []}, ['x' * 1_000_000, 5]):
            try:
                config(**{option: value})
            except ConfigurationError as error:
                found[option] = max(found.get(option, 0), len(error.message))
    assert [option for option, size in found.items() if size > 4000] == []


# Defaults and comfort


def test_the_defaults_are_safe() -> None:
    config = SandboxConfig()

    assert (config.timeout, config.working_dir, config.max_output_bytes) == (30.0, '/sandbox', DEFAULT_OUTPUT_BYTES)
    assert config.memory_bytes == 1024 * MIB
    assert config.cpu_limit == 1.0
    assert config.pids_limit == 512
    assert config.remove_on_exit is True
    assert config.tools_config == {}


@pytest.mark.parametrize(
    ('given', 'tools'),
    [
        (None, {}),
        (['a', 'b'], {'a': {}, 'b': {}}),
        (('a',), {'a': {}}),
        ({'a': None, 'b': True, 'c': {'timeout': 1}}, {'a': {}, 'b': {}, 'c': {'timeout': 1}}),
    ],
)
def test_tools_may_be_names_or_options(given: Any, tools: dict[str, Any]) -> None:
    assert SandboxConfig(tools_config=given).tools_config == tools


@pytest.mark.parametrize(('given', 'timeout'), [(None, None), (0, None), (5, 5.0), (0.5, 0.5)])
def test_a_timeout_of_none_or_zero_is_no_limit(given: Any, timeout: Any) -> None:
    assert SandboxConfig(timeout=given).timeout == timeout


def test_numbers_that_people_write_as_text_or_text_as_numbers_are_taken() -> None:
    config = SandboxConfig(cpu_limit='1.5', env_vars={'PORT': 8000, 'RATE': 0.5})

    assert config.cpu_limit == 1.5
    assert config.env_vars == {'PORT': '8000', 'RATE': '0.5'}


def test_no_memory_limit_is_possible() -> None:
    assert SandboxConfig(memory_limit=None).memory_bytes is None


def test_volumes_are_spelled_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    config = SandboxConfig(volumes={'./data': '/data', tmp_path: {'bind': '/all', 'mode': 'ro'}})

    assert config.volumes == {
        os.path.join(os.getcwd(), 'data'): {'bind': '/data', 'mode': 'rw'},
        str(tmp_path): {'bind': '/all', 'mode': 'ro'},
    }


def test_a_windows_path_is_a_host_path() -> None:
    assert SandboxConfig(volumes={'C:\\data': '/data'}).volumes['C:\\data']['bind'] == '/data'


def test_a_config_keeps_copies_of_what_it_is_given() -> None:
    tools: dict[str, Any] = {'a': {'timeout': 1}}
    env = {'A': '1'}
    config = SandboxConfig(tools_config=tools, env_vars=env)

    tools['a']['timeout'] = 2
    env['B'] = '2'

    assert config.tools_config == {'a': {'timeout': 1}}
    assert config.env_vars == {'A': '1'}


def test_a_config_is_frozen() -> None:
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        SandboxConfig().timeout = 5  # type: ignore[misc]


# Refusals


@pytest.mark.parametrize(
    ('option', 'value'),
    [
        ('tools_config', 'python_executor'),
        ('tools_config', 5),
        ('tools_config', {'a': 5}),
        ('tools_config', {'': {}}),
        ('tools_config', {5: {}}),
        ('tools_config', [['a']]),
        ('tools_config', [{}]),
        ('timeout', -1),
        ('timeout', 'soon'),
        ('timeout', True),
        ('timeout', math.nan),
        ('working_dir', 'relative'),
        ('working_dir', ''),
        ('working_dir', '/a\0b'),
        ('working_dir', '/a\ud800'),
        ('working_dir', None),
        ('env_vars', ['A=1']),
        ('env_vars', {'A=B': '1'}),
        ('env_vars', {'': '1'}),
        ('env_vars', {1: '1'}),
        ('env_vars', {'A': None}),
        ('env_vars', {'A': True}),
        ('env_vars', {'A': 'a\0b'}),
        ('env_vars', {'A': 'a\ud800b'}),
        ('env_vars', {'A\ud800': 'b'}),
        ('memory_limit', '5m'),
        ('memory_limit', '512 apples'),
        ('memory_limit', 0),
        ('memory_limit', True),
        ('memory_limit', '9' * 400 + 'g'),
        ('cpu_limit', 0),
        ('cpu_limit', -1),
        ('cpu_limit', 'many'),
        ('cpu_limit', None),
        ('cpu_limit', True),
        ('cpu_limit', math.nan),
        ('cpu_limit', math.inf),
        ('cpu_limit', 10**400),
        ('pids_limit', 1),
        ('pids_limit', 5_000_000),
        ('pids_limit', 100.0),
        ('pids_limit', True),
        ('network_enabled', 'yes'),
        ('network_enabled', 1),
        ('network_enabled', None),
        ('volumes', ['/a:/b']),
        ('volumes', {'relative': '/a'}),
        ('volumes', {'/a': 'relative'}),
        ('volumes', {'/a': {'mode': 'rw'}}),
        ('volumes', {'/a': '/d', '/b': '/d/'}),
        ('volumes', {'/a': '/d/e', '/b': '//d/./e'}),
        ('volumes', {'/a': {'bind': '/b', 'mode': 'rx'}}),
        ('volumes', {'/a': {'bind': '/b', 'option': 1}}),
        ('volumes', {'/a': {'bind': 5}}),
        ('volumes', {'/a': None}),
        ('volumes', {5: '/a'}),
        ('volumes', {'/a\ud800': '/a'}),
        ('volumes', {'/a': '/a\ud800'}),
        ('volumes', {'/a': '/a\0'}),
        ('remove_on_exit', 'no'),
        ('max_output_bytes', 0),
        ('max_output_bytes', 2**40),
        ('max_output_bytes', '1m'),
    ],
)
def test_an_impossible_option_is_named(option: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=option):
        SandboxConfig(**{option: value})
    with pytest.raises(ConfigurationError, match=option):
        SandboxConfig.model_validate({option: value})


def test_bytes_that_are_no_utf8_are_text_all_the_same() -> None:
    name = os.fsdecode(b'/\xff')
    config = SandboxConfig(working_dir=name, env_vars={'A': name})
    assert (config.working_dir, config.env_vars) == (name, {'A': name})


def test_an_unknown_option_suggests_the_nearest() -> None:
    with pytest.raises(
        ConfigurationError, match="SandboxConfig has no option 'memory_limits'; did you mean 'memory_limit'"
    ):
        SandboxConfig(memory_limits='1g')  # type: ignore[call-arg]
    with pytest.raises(ConfigurationError, match="'zzzz'; known: cpu_limit, env_vars"):
        SandboxConfig(zzzz=1)  # type: ignore[call-arg]


@pytest.mark.parametrize('value', [5, 'x', [], {5: 1}])
def test_model_validate_takes_a_dict_of_options(value: Any) -> None:
    with pytest.raises(ConfigurationError, match='SandboxConfig takes a dict of options'):
        SandboxConfig.model_validate(value)


def test_model_validate_takes_nothing_an_instance_or_a_dict() -> None:
    config = SandboxConfig(timeout=1)

    assert SandboxConfig.model_validate(None) == SandboxConfig()
    assert SandboxConfig.model_validate(config) is config
    assert SandboxConfig.model_validate({'timeout': 1}) == config


# Secrets


def test_the_values_of_variables_are_never_shown() -> None:
    config = SandboxConfig(env_vars={'TOKEN': 'hunter2'})

    assert 'hunter2' not in repr(config)
    assert config.redacted()['env_vars'] == {'TOKEN': '***'}
    assert config.env_vars == {'TOKEN': 'hunter2'}


@pytest.mark.parametrize('env', [{'TOKEN': b'hunter2'}, {'TOKEN': 'hunter2\0'}, {'TO=KEN': 'hunter2'}])
def test_a_refused_variable_does_not_show_its_value(env: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        SandboxConfig(env_vars=env)

    assert 'hunter2' not in caught.value.message


def test_check_env_is_for_calls_too() -> None:
    check_env({'A': 'b=c', 'é': ''}, 'env')
    with pytest.raises(InvalidArgumentError, match='env must be a dict'):
        check_env([], 'env')
