from __future__ import annotations

from typing import Any

import pytest

from enclave.config import SandboxConfig
from enclave.errors import ConfigurationError
from enclave.sandboxes.docker.docker_config import DEFAULT_IMAGE, DockerSandboxConfig


def test_the_documented_configuration_is_taken() -> None:
    config = DockerSandboxConfig(
        image='python:3.11-slim',
        memory_limit='512m',
        cpu_limit='1.0',
        volumes={'/host': {'bind': '/container/path', 'mode': 'rw'}},
        ports={'8888/tcp': ('127.0.0.1', 8888)},
        network_enabled=True,
        remove_on_exit=True,
        tools_config={'python_executor': {}, 'file_operation': {}, 'shell_executor': {}},
    )

    assert isinstance(config, SandboxConfig)
    assert config.ports == {'8888/tcp': ('127.0.0.1', 8888)}
    assert list(config.tools_config) == ['python_executor', 'file_operation', 'shell_executor']


def test_the_defaults_are_safe() -> None:
    config = DockerSandboxConfig()

    assert (config.image, config.pull, config.command, config.user) == (DEFAULT_IMAGE, 'missing', None, None)
    assert (config.privileged, config.ports, config.cap_add, config.security_opt) == (False, {}, (), ())


@pytest.mark.parametrize(
    ('given', 'ports'),
    [
        ({8888: 80}, {'8888/tcp': ('127.0.0.1', 80)}),
        ({'8888': '80'}, {'8888/tcp': ('127.0.0.1', 80)}),
        ({'53/udp': None}, {'53/udp': ('127.0.0.1', None)}),
        ({'80/tcp': ['0.0.0.0', 0]}, {'80/tcp': ('0.0.0.0', 0)}),
        ({80: ('localhost', 1), 81: ('[::1]', 2)}, {'80/tcp': ('127.0.0.1', 1), '81/tcp': ('::1', 2)}),
        ([80, '81/tcp'], {'80/tcp': ('127.0.0.1', None), '81/tcp': ('127.0.0.1', None)}),
        (None, {}),
    ],
)
def test_ports_go_to_loopback_unless_said_otherwise(given: Any, ports: Any) -> None:
    assert DockerSandboxConfig(ports=given).ports == ports


@pytest.mark.parametrize(
    ('option', 'given', 'kept'),
    [
        ('command', 'sleep 5', 'sleep 5'),
        ('command', ['sh', '-c', ''], ('sh', '-c', '')),
        ('user', 1000, '1000'),
        ('user', 'me:us', 'me:us'),
        ('tmpfs', ['/a'], {'/a': ''}),
        ('tmpfs', {'/a': 'size=1m'}, {'/a': 'size=1m'}),
        ('ulimits', {'nofile': 10, 'nproc': [1, 2]}, {'nofile': (10, 10), 'nproc': (1, 2)}),
        ('cap_add', ['NET_RAW'], ('NET_RAW',)),
        ('shm_size', '64m', '64m'),
        ('platform', 'linux/arm64', 'linux/arm64'),
    ],
)
def test_harmless_spellings_are_taken(option: str, given: Any, kept: Any) -> None:
    assert getattr(DockerSandboxConfig(**{option: given}), option) == kept


@pytest.mark.parametrize(
    ('option', 'value'),
    [
        ('image', ''),
        ('image', 'a b'),
        ('image', 'a\n'),
        ('image', None),
        ('pull', 'sometimes'),
        ('pull', []),
        ('command', ''),
        ('command', []),
        ('command', ['']),
        ('command', ['a', 5]),
        ('command', ['a\0']),
        ('command', ['a\ud800']),
        ('network', '\ud800'),
        ('command', 5),
        ('ports', 'x'),
        ('ports', {'http': 80}),
        ('ports', {'0/tcp': 80}),
        ('ports', {'70000/tcp': 80}),
        ('ports', {'80/icmp': 80}),
        ('ports', {'²/tcp': 80}),
        ('ports', {'9' * 5000: 80}),
        ('ports', {'80/tcp': '²'}),
        ('ports', {'80/tcp': '9' * 5000}),
        ('ports', {'80/tcp': 70000}),
        ('ports', {'80/tcp': True}),
        ('ports', {'80/tcp': ('127.0.0.1',)}),
        ('ports', {'80/tcp': ('', 80)}),
        ('ports', {80: ('example.org', 1)}),
        ('ports', {80: ('999.1.1.1', 1)}),
        ('ports', {80: ('fe80::1%eth0', 1)}),
        ('network', 5),
        ('extra_hosts', ['a:b']),
        ('extra_hosts', {'a': 5}),
        ('privileged', 'yes'),
        ('platform', 5),
        ('user', ''),
        ('user', '-x'),
        ('user', True),
        ('read_only', 1),
        ('tmpfs', ['relative']),
        ('tmpfs', [['/a']]),
        ('tmpfs', '/a'),
        ('tmpfs', {'/a': 5}),
        ('ulimits', {'nofile': 'many'}),
        ('ulimits', {'nofile': (1, 2, 3)}),
        ('ulimits', {'nofile': -2}),
        ('ulimits', {'nofile': (10, 5)}),
        ('ulimits', {'nofile': (-1, 5)}),
        ('ulimits', {'cpu': (1, 2**63)}),
        ('ulimits', ['nofile=5']),
        ('cap_add', 'NET_RAW'),
        ('cap_add', ['']),
        ('cap_add', [5]),
        ('security_opt', 5),
        ('runtime', 5),
        ('shm_size', 'big'),
        ('shm_size', 0),
        ('storage_opt', {'size': 5}),
    ],
)
def test_an_impossible_option_is_named(option: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=option):
        DockerSandboxConfig(**{option: value})


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'network_enabled': False, 'network': 'mine'}, 'network is named although network_enabled is False'),
        ({'network_enabled': False, 'ports': [80]}, 'ports are published although network_enabled is False'),
        ({'privileged': True, 'cap_add': ['SYS_ADMIN']}, 'cap_add has no meaning beside privileged'),
    ],
)
def test_options_that_contradict_each_other_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        DockerSandboxConfig(**options)


def test_an_unknown_option_suggests_the_nearest_of_all() -> None:
    with pytest.raises(
        ConfigurationError, match="DockerSandboxConfig has no option 'privilege'; did you mean 'privileged'"
    ):
        DockerSandboxConfig(privilege=True)  # type: ignore[call-arg]
    with pytest.raises(ConfigurationError, match="did you mean 'timeout'"):
        DockerSandboxConfig.model_validate({'timeouts': 1})
