"""The options of a bubblewrap sandbox's configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from enclave.config import SandboxConfig
from enclave.errors import ConfigurationError
from enclave.sandboxes.bubblewrap.bubblewrap_config import BubblewrapSandboxConfig
from enclave.sandboxes.bubblewrap.bubblewrap_notebook_config import BubblewrapNotebookConfig
from enclave.sandboxes.bubblewrap.sandbox import BubblewrapSandbox
from enclave.sandboxes.docker.docker_config import DockerSandboxConfig
from enclave.sandboxes.docker.sandbox import DockerSandbox

MIB = 1 << 20


def test_the_network_is_off_unless_asked_for() -> None:
    assert BubblewrapSandboxConfig().network_enabled is False
    assert BubblewrapSandbox(SandboxConfig()).config.network_enabled is False


def test_a_plain_configuration_carries_over() -> None:
    config = BubblewrapSandbox(SandboxConfig(timeout=5, memory_limit='2g', env_vars={'A': '1'})).config
    assert (config.timeout, config.memory_limit, config.env_vars) == (5.0, '2g', {'A': '1'})


def test_no_network_stays_no_network_where_another_kind_has_one_by_default() -> None:
    assert DockerSandbox(BubblewrapSandboxConfig(network_enabled=False)).config.network_enabled is False
    assert DockerSandbox(BubblewrapSandboxConfig()).config.network_enabled is False
    assert BubblewrapSandbox(DockerSandboxConfig()).config.network_enabled is False


@pytest.mark.parametrize(
    ('options', 'match'),
    [
        ({'rootfs': 'not a name'}, 'rootfs'),
        ({'rootfs': 5}, 'rootfs'),
        ({'rootfs': '/\ud800'}, 'rootfs'),
        ({'python': '/\ud800'}, 'python'),
        ({'python': 'python3'}, 'python'),
        ({'python': '/usr/bin/python3', 'rootfs': '/srv'}, 'drop one'),
        ({'disk_limit': '1k'}, 'disk_limit'),
        ({'disk_limit': 'big'}, 'disk_limit'),
        ({'file_size_limit': 0}, 'file_size_limit'),
        ({'shm_size': -1}, 'shm_size'),
        ({'open_files_limit': 1}, 'open_files_limit'),
        ({'seccomp': 'off'}, 'seccomp'),
        ({'host_uid': -1}, 'host_uid'),
        ({'image': 'python'}, 'image'),
        ({'ports': {}}, 'ports'),
    ],
)
def test_what_cannot_be_is_refused_by_name(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigurationError, match=match):
        BubblewrapSandboxConfig(**options)


OWN = [
    '/',
    '//',
    '/.',
    '/usr',
    '/usr/',
    '/proc',
    '//proc',
    '/./proc/',
    '/proc/1',
    '/sys/fs/cgroup/memory',
    '/dev',
    '/dev/x',
]


@pytest.mark.parametrize('config_class', [BubblewrapSandboxConfig, BubblewrapNotebookConfig])
@pytest.mark.parametrize('path', [*OWN, '/data/../proc', '/data/..'])
def test_what_a_sandbox_has_its_own_of_is_no_place_for_another(
    config_class: type[BubblewrapSandboxConfig], path: str
) -> None:
    with pytest.raises(ConfigurationError, match='working_dir'):
        config_class(working_dir=path)
    with pytest.raises(ConfigurationError, match=r"volumes\['/srv'\]\['bind'\]"):
        config_class(volumes={'/srv': path})


@pytest.mark.parametrize(
    'path', ['/data', '/processes', '/dev/shm', '/dev/shm/x', '/usr/local', '/var/tmp', '/tmp', '/etc']
)
def test_other_places_may_be_named(path: str) -> None:
    assert BubblewrapSandboxConfig(working_dir=path, volumes={'/srv': path}).working_dir == path


def test_a_relative_rootfs_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert BubblewrapSandboxConfig(rootfs='./tree').rootfs == str(tmp_path / 'tree')
    assert BubblewrapSandboxConfig(rootfs=tmp_path).rootfs == str(tmp_path)


@pytest.mark.parametrize('memory', ['64m', '128m', '512m', '1g', '16g'])
def test_full_directories_always_leave_memory_for_programs(memory: str) -> None:
    config = BubblewrapSandboxConfig(memory_limit=memory, disk_limit='100g', shm_size='100g')
    assert config.memory_bytes is not None
    assert config.memory_bytes - 3 * config.disk_bytes - config.shm_bytes >= config.memory_bytes // 8


def test_without_a_memory_limit_the_sizes_are_as_asked() -> None:
    config = BubblewrapSandboxConfig(memory_limit=None, disk_limit='3g', shm_size='1g')
    assert (config.disk_bytes, config.shm_bytes) == (3 * 1024 * MIB, 1024 * MIB)
