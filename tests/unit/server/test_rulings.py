"""Every option of every kind of sandbox has a ruling, and what has none is refused."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from attrs import field, frozen

from enclave.config import SandboxConfig, refuses_unknown_keys
from enclave.errors import ConfigurationError, PolicyError
from enclave.rulings import SHARED, at_most
from enclave.sandboxes.docker.docker_config import DockerSandboxConfig
from enclave.sandboxes.docker.docker_notebook_config import DockerNotebookConfig
from enclave.sandboxes.kinds import KINDS, SandboxKind, get_kind, register_kind
from enclave.sandboxes.sandbox_factory import SandboxFactory
from enclave.server.policy import Policy
from enclave.server.references import matches
from enclave.tools.base import Tool
from enclave.tools.tool_factory import ToolFactory, register_tool
from tests.support.sandbox import FakeSandbox

BUILT_IN = ('bubblewrap', 'bubblewrap_notebook', 'docker', 'docker_notebook')


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is gone after it."""
    KINDS.all()
    monkeypatch.setattr(KINDS, 'registered', dict(KINDS.registered))


@pytest.mark.parametrize('name', BUILT_IN)
def test_every_option_of_every_kind_has_a_ruling(name: str) -> None:
    kind = get_kind(name)

    assert kind.find_unruled() == [], 'declare in the rulings of the kind what these options reach on the host'
    assert set(kind.get_rulings() or ()) <= kind.options, 'rulings of options that do not exist'


@pytest.mark.parametrize('name', ['file_operation', 'notebook_executor', 'python_executor', 'shell_executor'])
def test_every_option_of_every_tool_has_a_ruling(name: str) -> None:
    tool = ToolFactory.get_tool_class(name)
    assert tool.Options is not None

    assert set(tool.rulings or ()) == {each.name for each in attrs.fields(tool.Options)}


@pytest.mark.parametrize('name', BUILT_IN)
def test_the_default_policy_takes_every_kind_as_it_is(name: str) -> None:
    kind = get_kind(name)
    config: Any = kind.config_class()

    assert Policy().check_sandbox(name, config) == config


@refuses_unknown_keys
@frozen(kw_only=True)
class ThirdConfig(SandboxConfig):
    """A kind's own options."""

    niceness: int = field(default=0)
    device: str | None = field(default=None)


class Third(FakeSandbox):
    """A kind of somebody else's."""

    sandbox_type = 'third'
    config_class = ThirdConfig


def test_a_kind_that_declares_nothing_is_refused() -> None:
    SandboxFactory.register_sandbox('third', Third)

    with pytest.raises(PolicyError, match="the kind 'third' does not declare"):
        Policy().check_sandbox('third', ThirdConfig())
    Policy(undeclared=['third']).check_sandbox('third', ThirdConfig(device='/dev/kvm'))


def test_an_option_without_a_ruling_stays_at_its_default() -> None:
    register_kind(SandboxKind(name='third', sandbox=Third, rulings={**SHARED, 'niceness': at_most('max_pids')}))

    Policy().check_sandbox('third', ThirdConfig(niceness=5))
    with pytest.raises(PolicyError, match='device may not be set'):
        Policy().check_sandbox('third', ThirdConfig(device='/dev/kvm'))
    with pytest.raises(PolicyError, match='niceness'):
        Policy(max_pids=512).check_sandbox('third', ThirdConfig(niceness=1000))


def test_a_class_that_derives_from_a_kind_keeps_its_rulings_for_what_it_had() -> None:
    from enclave.sandboxes.docker.sandbox import DockerSandbox

    @refuses_unknown_keys
    @frozen(kw_only=True)
    class OwnConfig(DockerSandboxConfig):
        gpu: bool = False

    class Own(DockerSandbox):
        sandbox_type = 'own'
        config_class = OwnConfig

    SandboxFactory.register_sandbox('own', Own)

    assert get_kind('own').rank is None
    Policy().check_sandbox('own', OwnConfig(memory_limit='512m'))
    for options in ({'privileged': True}, {'gpu': True}):
        with pytest.raises(PolicyError):
            Policy().check_sandbox('own', OwnConfig(**options))


def test_the_class_of_another_under_a_known_name_declares_nothing() -> None:
    SandboxFactory.register_sandbox('docker', FakeSandbox)

    with pytest.raises(PolicyError, match='does not declare'):
        Policy().check_sandbox('docker', SandboxConfig())


@pytest.mark.parametrize(
    ('options', 'rule'),
    [
        ({'host': '0.0.0.0', 'port': 0}, 'publish'),
        ({'host': '0.0.0.0'}, 'publish'),
        ({'host': '::', 'token': 'x'}, 'publish'),
        ({'ports': {'8888/tcp': ('0.0.0.0', None)}}, 'publish'),
        ({'port': 22}, 'host_ports'),
    ],
)
def test_a_gateway_is_published_as_ports_are(options: dict[str, Any], rule: str) -> None:
    with pytest.raises(PolicyError) as info:
        Policy().check_sandbox('docker_notebook', DockerNotebookConfig(**options))

    assert info.value.details == {'rule': rule}


@pytest.mark.parametrize('options', [{'port': 0}, {'token': 'secret'}, {'host': '127.0.0.1'}])
def test_no_gateway_where_nothing_may_be_published(options: dict[str, Any]) -> None:
    config = DockerNotebookConfig(**options)

    Policy().check_sandbox('docker_notebook', config)
    with pytest.raises(PolicyError, match='publish'):
        Policy(publish='no').check_sandbox('docker_notebook', config)


@pytest.mark.parametrize(
    ('options', 'rule'),
    [
        ({'ports': {'80/tcp': 22}}, 'host_ports'),
        ({'ports': {'80/tcp': 5432}}, 'host_ports'),
        ({'ports': {f'{port}/tcp': None for port in range(1, 151)}}, 'max_ports'),
        ({'ulimits': {'rtprio': 99}}, 'ulimits'),
        ({'ulimits': {'nice': 40}}, 'ulimits'),
        ({'ulimits': {'memlock': -1}}, 'ulimits'),
        ({'ulimits': {'nofile': (1024, 1 << 30)}}, 'ulimits'),
        ({'ulimits': {'nofile': -1}}, 'ulimits'),
        ({'ulimits': {'core': 1}}, 'ulimits'),
        ({'storage_opt': {'size': '900g'}}, 'max_disk'),
        ({'storage_opt': {'dm.thinpooldev': '/dev/sda'}}, 'privileged'),
        ({'tmpfs': {'/x': 'size=900g'}}, 'max_memory'),
        ({'tmpfs': {'/x': 'size=50%'}}, 'privileged'),
        ({'tmpfs': {'/x': 'dev,suid'}}, 'privileged'),
        ({'max_output_bytes': 1 << 30}, 'max_output_bytes'),
        ({'tools_config': {'shell_executor': {'max_output_bytes': 1 << 30}}}, 'max_output_bytes'),
        ({'tools_config': {'file_operation': {'max_file_bytes': 1 << 30}}}, 'max_file_bytes'),
        ({'tools_config': {'file_operation': {'max_entries': 1 << 30}}}, 'max_entries'),
        ({'pull': 'always', 'image': 'other'}, 'allow_pull'),
    ],
)
def test_numbers_and_names_that_cost_the_host_are_bounded(options: dict[str, Any], rule: str) -> None:
    with pytest.raises(PolicyError) as info:
        Policy().check_sandbox('docker', DockerSandboxConfig(**options))

    assert info.value.details == {'rule': rule}


@pytest.mark.parametrize(
    'options',
    [
        {'ulimits': {'nofile': (1024, 4096), 'cpu': 10, 'core': 0}},
        {'storage_opt': {'size': '2G'}},
        {'tmpfs': {'/x': 'size=64m,mode=1777,noexec', '/y': ''}},
        {'tools_config': {'shell_executor': {'max_output_bytes': 1 << 20, 'timeout': 0, 'enabled': True}}},
        {'ports': {'80/tcp': ('127.0.0.1', 0)}},
    ],
)
def test_ordinary_values_pass(options: dict[str, Any]) -> None:
    config = DockerSandboxConfig(**options)

    assert Policy().check_sandbox('docker', config) == config


@pytest.mark.parametrize(
    'path',
    ['/proc', '/proc/self/fd/7', '//proc/self/fd/7', '/sandbox/../proc/self/cwd', '/sys/fs', '/dev', '/dev/fd/3'],
)
def test_no_directory_is_where_the_kernel_leads_out(path: str) -> None:
    for options in ({'working_dir': path}, {'tmpfs': [path]}):
        with pytest.raises(ConfigurationError, match='/proc, /sys and /dev'):
            Policy().check_sandbox('docker', DockerSandboxConfig(**options))


def test_tools_without_rulings_take_no_options_from_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    from enclave.tools.tool_factory import TOOLS

    monkeypatch.setattr(TOOLS, 'registered', dict(TOOLS.registered))

    @register_tool('reading_host_files')
    class Reading(Tool):
        """Read a file of the host."""

        @frozen(kw_only=True)
        class Options:
            path: str = '/dev/null'

        def run(self, workspace: Any, arguments: Any) -> str:
            return ''

    Policy().check_sandbox('docker', DockerSandboxConfig(tools_config=['reading_host_files']))
    config = DockerSandboxConfig(tools_config={'reading_host_files': {'path': '/etc/shadow'}})
    with pytest.raises(PolicyError, match='path of the tool'):
        Policy().check_sandbox('docker', config)
    Policy(undeclared=['reading_*']).check_sandbox('docker', config)


def test_images_are_fetched_for_the_operator_and_the_default_only() -> None:
    def pull(image: str, policy: Policy, own: str | None = None) -> str:
        return policy.check_sandbox('docker', DockerSandboxConfig(image=image), own_image=own).pull

    assert pull('python:3.11-slim', Policy()) == 'missing'
    assert pull('other', Policy()) == 'never'
    assert pull('other', Policy(), own='other') == 'missing'
    assert pull('other', Policy(allow_pull=True)) == 'missing'


def test_no_client_has_an_image_of_another_platform_fetched_which_would_take_the_name() -> None:
    def pull(image: str, policy: Policy, **own: str) -> str:
        config = DockerSandboxConfig(image=image, platform='linux/arm64')
        return policy.check_sandbox('docker', config, **own).pull

    assert pull('python:3.11-slim', Policy()) == 'never'
    assert pull('other', Policy(), own_image='other') == 'never'
    assert pull('other', Policy(), own_image='other', own_platform='linux/arm64') == 'missing'
    assert pull('other', Policy(allow_pull=True)) == 'missing'


@pytest.mark.parametrize(
    ('name', 'pattern', 'fits'),
    [
        ('python:3.12', 'python:*', True),
        ('python', 'python:*', True),
        ('docker.io/library/python:3.12', 'python:*', True),
        ('docker.io/python:3.12', 'python:*', True),
        ('python:5000/evil/x:latest', 'python:*', False),
        ('python.evil.com/x:latest', 'python*', False),
        ('evil/python:3', 'python:*', False),
        ('python:3.12@sha256:' + 'a' * 64, 'python:*', True),
        ('python:3.12@sha256:' + 'a' * 64, 'python:3.12', False),
        ('python:3.12@sha256:' + 'a' * 64, 'python@sha256:' + 'a' * 64, True),
        ('python', 'python:latest', True),
        ('python:3', 'python', False),
        ('registry.lan:5000/team/x:1', 'registry.lan:5000/team/*:*', True),
        ('registry.lan:5000/team/deep/x:1', 'registry.lan:5000/team/*:*', False),
        ('registry.lan:5000/team/deep/x:1', 'registry.lan:5000/**:*', True),
        ('registry.lan:5001/team/x:1', 'registry.lan:5000/team/*:*', False),
        ('deadbeef', 'd*', False),
        ('sha256:' + 'a' * 64, 'sha256:*', False),
        ('anything/at:all', '*', True),
        ('python:3.1[', 'python:3.1[', True),
    ],
)
def test_patterns_of_images_are_read_by_their_parts(name: str, pattern: str, fits: bool) -> None:
    assert matches(name, pattern) is fits
