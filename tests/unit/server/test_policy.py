from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import attrs
import pytest

from enclave.errors import ConfigurationError, PolicyError
from enclave.sandboxes.bubblewrap.bubblewrap_config import BubblewrapSandboxConfig
from enclave.sandboxes.bubblewrap.bubblewrap_notebook_config import BubblewrapNotebookConfig
from enclave.sandboxes.docker.docker_config import DockerSandboxConfig
from enclave.server.policy import Policy
from enclave.tools.tool_factory import ToolFactory
from tests.support.interpreters import make_python


def check(policy: Policy, **options: Any) -> None:
    policy.check_sandbox('docker', DockerSandboxConfig(**options))


def test_the_defaults_take_an_ordinary_sandbox() -> None:
    check(Policy())
    check(Policy(), memory_limit='512m', tools_config=['python_executor'], ports={'80/tcp': None}, env_vars={'A': 'b'})
    Policy().check_sandbox('bubblewrap', BubblewrapSandboxConfig())
    Policy().check_sandbox('bubblewrap_notebook', BubblewrapNotebookConfig(tools_config=['notebook_executor']))


@pytest.mark.parametrize(
    ('options', 'rule'),
    [
        ({'privileged': True}, 'privileged'),
        ({'volumes': {'/etc': '/x'}}, 'mounts'),
        ({'volumes': {'/var/run/docker.sock': {'bind': '/s', 'mode': 'ro'}}}, 'mounts'),
        ({'network': 'host'}, 'networks'),
        ({'network': 'container:other'}, 'networks'),
        ({'cap_add': ['SYS_ADMIN']}, 'capabilities'),
        ({'security_opt': ['seccomp=unconfined']}, 'security_options'),
        ({'runtime': 'other'}, 'runtimes'),
        ({'ports': {'80/tcp': ('0.0.0.0', 80)}}, 'publish'),
        ({'memory_limit': '9g'}, 'max_memory'),
        ({'memory_limit': None}, 'max_memory'),
        ({'shm_size': '20g'}, 'max_memory'),
        ({'cpu_limit': 100}, 'max_cpus'),
        ({'pids_limit': 100000}, 'max_pids'),
        ({'pids_limit': None}, 'max_pids'),
        ({'remove_on_exit': False}, 'allow_keep'),
    ],
)
def test_the_defaults_refuse_what_reaches_the_host(options: dict[str, Any], rule: str) -> None:
    with pytest.raises(PolicyError, match=f'policy refuses this.*rule {rule}') as info:
        check(Policy(), **options)

    assert info.value.details == {'rule': rule}


@pytest.mark.parametrize(
    ('options', 'rule'),
    [
        ({'network_enabled': True}, 'networks'),
        ({'seccomp': False}, 'privileged'),
        ({'host_uid': 0}, 'privileged'),
        ({'rootfs': '/'}, 'mounts'),
        ({'python': '/usr/bin/python3'}, 'mounts'),
        ({'remove_on_exit': False}, 'allow_keep'),
    ],
)
@pytest.mark.parametrize(
    ('kind', 'config_class'),
    [('bubblewrap', BubblewrapSandboxConfig), ('bubblewrap_notebook', BubblewrapNotebookConfig)],
)
def test_the_defaults_refuse_it_for_bubblewrap_too(
    kind: str, config_class: type[BubblewrapSandboxConfig], options: dict[str, Any], rule: str
) -> None:
    with pytest.raises(PolicyError) as info:
        Policy().check_sandbox(kind, config_class(**options))

    assert info.value.details == {'rule': rule}


@pytest.mark.parametrize(
    ('policy', 'options'),
    [
        ({'privileged': True}, {'privileged': True}),
        ({'networks': ['lab']}, {'network': 'lab'}),
        ({'capabilities': ['NET_*']}, {'cap_add': ['NET_RAW']}),
        ({'runtimes': ['runsc']}, {'runtime': 'runsc'}),
        ({'publish': 'any'}, {'ports': {'80/tcp': ('0.0.0.0', 80)}}),
        ({'max_memory': None}, {'memory_limit': None}),
        ({'images': ['python:*']}, {'image': 'python:3.12'}),
        ({'allow_keep': True}, {'remove_on_exit': False}),
    ],
)
def test_what_is_allowed_passes(policy: dict[str, Any], options: dict[str, Any]) -> None:
    check(Policy(**policy), **options)


@pytest.mark.parametrize(
    ('policy', 'options'),
    [
        ({'images': ['python:*']}, {'image': 'evil:latest'}),
        ({'tools': ['python_*']}, {'tools_config': ['shell_executor']}),
        ({'allow_network': False}, {}),
        ({'publish': 'no'}, {'ports': {'80/tcp': None}}),
        ({'sandbox_types': ['bubblewrap']}, {}),
        ({'max_timeout': 10}, {'timeout': 30}),
        ({'max_timeout': 10}, {'timeout': None}),
    ],
)
def test_what_is_narrowed_is_refused(policy: dict[str, Any], options: dict[str, Any]) -> None:
    with pytest.raises(PolicyError):
        check(Policy(**policy), **options)


def test_mounts_are_by_where_paths_lead(tmp_path: Path) -> None:
    data, other = tmp_path / 'data', tmp_path / 'data-other'
    data.mkdir()
    other.mkdir()
    os.symlink(other, data / 'way-out')
    policy = Policy(mounts=[f'{data}:ro'])

    check(policy, volumes={str(data): {'bind': '/d', 'mode': 'ro'}})
    check(policy, volumes={str(data / 'below'): {'bind': '/d', 'mode': 'ro'}})
    for path, mode in ((data, 'rw'), (other, 'ro'), (data / 'way-out', 'ro'), (data / '..' / 'data-other', 'ro')):
        with pytest.raises(PolicyError, match='mounts'):
            check(policy, volumes={str(path): {'bind': '/d', 'mode': mode}})


def test_mounts_may_be_writable(tmp_path: Path) -> None:
    check(Policy(mounts=[f'{tmp_path}:rw']), volumes={str(tmp_path): '/d'})


def test_what_is_mounted_is_what_was_checked(tmp_path: Path) -> None:
    """A link that changes after the check would lead elsewhere."""
    (tmp_path / 'data').mkdir()
    os.symlink(tmp_path / 'data', tmp_path / 'link')
    policy = Policy(mounts=[f'{tmp_path}:ro'])
    config = BubblewrapSandboxConfig(
        rootfs=tmp_path / 'link', volumes={str(tmp_path / 'link'): {'bind': '/d', 'mode': 'ro'}}
    )

    checked = policy.check_sandbox('bubblewrap', config)

    assert list(checked.volumes) == [str(tmp_path / 'data')]
    assert checked.rootfs == str(tmp_path / 'data')
    twice = {str(tmp_path / name): {'bind': f'/{name}', 'mode': 'ro'} for name in ('data', 'link')}
    with pytest.raises(ConfigurationError, match='twice'):
        check(policy, volumes=twice)


def check_python(policy: Policy, python: Path) -> None:
    policy.check_sandbox('bubblewrap', BubblewrapSandboxConfig(python=str(python)))


def test_an_interpreter_may_show_no_more_than_the_mounts(tmp_path: Path) -> None:
    allowed, other = tmp_path / 'allowed', tmp_path / 'other'
    check_python(Policy(mounts=[f'{allowed}:ro']), make_python(allowed / 'python'))

    beside = allowed / 'python3'
    make_python(other / 'deep').rename(beside)
    stop, linked = other / 'stop' / 'bin' / 'python3', allowed / 'venv' / 'bin' / 'python3'
    for link, target in ((stop, allowed / 'python' / 'bin' / 'python3'), (linked, stop)):
        link.parent.mkdir(parents=True)
        link.symlink_to(target)

    for python in (beside, linked):  # one shows the directory around the one it is in, the other where it passes
        with pytest.raises(PolicyError, match='python: the host path'):
            check_python(Policy(mounts=[f'{allowed}:ro']), python)
    check_python(Policy(mounts=[f'{allowed}:ro', f'{other}/stop:ro']), linked)


def test_nothing_is_run_from_where_sandboxes_may_write(tmp_path: Path) -> None:
    """A guest could put a link in the way of what was checked."""
    python = make_python(tmp_path / 'scratch' / 'python')
    policy = Policy(mounts=[f'{tmp_path}:ro', f'{tmp_path}/scratch:rw'])

    with pytest.raises(PolicyError, match='may write'):
        check_python(policy, python)
    with pytest.raises(PolicyError, match='may write'):
        policy.check_sandbox('bubblewrap', BubblewrapSandboxConfig(rootfs=str(tmp_path / 'scratch')))


def test_lifetimes() -> None:
    policy = Policy(max_lifetime=100)

    assert policy.lifetime('default', None) == 100
    assert policy.lifetime('default', 50) == 50
    assert policy.lifetime(100, None) == 100
    assert Policy().lifetime(0, None) is None
    for asked in (101, 0, None):
        with pytest.raises(PolicyError, match='max_lifetime'):
            policy.lifetime(asked, None)
    assert Policy(max_lease=60).lease(None) == 60
    assert Policy(max_lease=60).lease(5) == 5
    assert Policy(max_lease=60).lease(500) == 60
    assert Policy(max_lease=None).lease(None) is None


def test_tools_with_time_limits() -> None:
    policy = Policy(max_timeout=10)

    policy.check_tool('x', {'timeout': 5})
    policy.check_tool('x', {'timeout': 'nonsense is the tool to refuse'})
    for timeout in (11, 0):
        with pytest.raises(PolicyError, match='max_timeout'):
            policy.check_tool('x', {'timeout': timeout})


def test_every_limit_of_time_of_a_tool_is_within_the_policy() -> None:
    """Also those that are not called timeout, and those that a call leaves out where the tool has no limit by itself."""
    policy = Policy(max_timeout=10)

    for option in ('compile_timeout', 'run_timeout'):
        for seconds in (11, 0):
            with pytest.raises(PolicyError, match=f'{option}.*max_timeout'):
                policy.limited_parameters('multi_code_executor', {option: seconds})
    assert policy.limited_parameters('multi_code_executor', {'compile_timeout': 3}) == {
        'compile_timeout': 3,
        'run_timeout': 10,
    }
    assert policy.limited_parameters('nobody_has_it', {'timeout': 1}) == {'timeout': 1}
    assert Policy().limited_parameters('multi_code_executor', {}) == {}


@pytest.mark.parametrize('name', ToolFactory.get_available_tools())
def test_tools_declare_their_limits_of_time(name: str) -> None:
    tool = ToolFactory.get_tool_class(name)
    names = [each.name for each in attrs.fields(tool.Arguments)] if tool.Arguments is not None else []

    assert {each for each in names if each.endswith('_timeout')} == set(tool.time_limits)


@pytest.mark.parametrize('name', ['policy.json', 'policy.toml'])
def test_a_policy_is_read_from_a_file(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name.endswith('toml'):
        pytest.importorskip('tomllib')
        path.write_text('images = ["python:*"]\nmax_memory = "2g"\n')
    else:
        path.write_text(json.dumps({'images': ['python:*'], 'max_memory': '2g'}))

    policy = Policy.from_file(path)

    assert (policy.images, policy.max_memory) == (('python:*',), '2g')


@pytest.mark.parametrize(
    'options',
    [
        {'image': ['x']},
        {'images': 'python'},
        {'mounts': ['relative']},
        {'mounts': ['/data:rx']},
        {'publish': 'everywhere'},
        {'max_memory': 'lots'},
        {'max_cpus': -1},
        {'privileged': 'yes'},
        {'max_concurrent_calls': 0},
        {'max_timeout': -1},
    ],
)
def test_wrong_policies_are_refused(options: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(options)).removesuffix('s')[:8]):
        Policy(**options)
    (tmp_path / 'p.json').write_text(json.dumps(options))
    with pytest.raises(ConfigurationError):
        Policy.from_file(tmp_path / 'p.json')


@pytest.mark.parametrize('text', ['[]', '{', '"x"'])
def test_files_that_hold_no_policy_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / 'p.json').write_text(text)

    with pytest.raises(ConfigurationError):
        Policy.from_file(tmp_path / 'p.json')
