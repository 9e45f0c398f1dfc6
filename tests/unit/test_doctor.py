from __future__ import annotations

import errno
from pathlib import Path

import pytest
from attrs import evolve

from enclave.doctor import (
    Check,
    Diagnosis,
    check_default_kind,
    check_host_ca,
    check_limits,
    check_notebook_python,
    check_notebooks,
    check_python,
    check_user_namespaces,
    engine_remedy,
    examine,
    find_backends,
    running_dockerd,
)
from enclave.sandboxes.bubblewrap import interpreter
from enclave.sandboxes.docker.docker_config import DEFAULT_IMAGE
from enclave.sandboxes.docker.engine import EngineInfo

INFO = EngineInfo(
    name='Docker Engine',
    address='unix:///var/run/docker.sock',
    version='1',
    api_version='1.41',
    os='linux',
    architecture='x86_64',
    kernel='6',
    host='here',
    cgroup_version='2',
    storage_driver='overlay2',
    root_dir='/var/lib/docker',
    cpus=2,
    memory_bytes=1,
    memory_limit=True,
    swap_limit=True,
    cpu_limit=True,
    pids_limit=True,
)
SOCKET = '/var/run/docker.sock'


def remedy(
    source: str = 'the default',
    socket_path: str | None = SOCKET,
    error_number: int = errno.ENOENT,
    *,
    platform: str = 'linux',
    dockerd: str | None = '/usr/sbin/dockerd',
    dockerd_pid: int | None = None,
    has_systemd: bool = False,
    is_root: bool = True,
) -> str:
    return engine_remedy(
        source,
        socket_path,
        error_number,
        platform=platform,
        dockerd=dockerd,
        dockerd_pid=dockerd_pid,
        has_systemd=has_systemd,
        is_root=is_root,
    )


def test_old_python_fails_and_new_python_passes() -> None:
    assert check_python((3, 9, 18)).status == 'failed'
    assert check_python((3, 10, 0)).status == 'ok'


def test_socket_without_permission_sends_to_the_docker_group() -> None:
    assert 'usermod -aG docker' in remedy(error_number=errno.EACCES)


def test_engine_that_is_not_installed_gets_the_install_command() -> None:
    assert remedy(dockerd=None).startswith('apt-get install docker.io && ')
    assert remedy(dockerd=None, is_root=False).startswith('sudo apt-get install docker.io && ')


def test_engine_that_is_installed_but_stopped_gets_the_start_command() -> None:
    assert remedy(has_systemd=True, is_root=False) == 'sudo systemctl start docker'
    assert 'setsid dockerd' in remedy(has_systemd=False)


def test_engine_that_runs_but_listens_elsewhere_is_named() -> None:
    assert 'process 42' in remedy(dockerd_pid=42)


def test_address_that_somebody_chose_is_to_be_mended_there() -> None:
    assert 'unset DOCKER_HOST' in remedy('DOCKER_HOST', None)
    assert 'docker context use default' in remedy("docker context 'far'")


def test_desktop_is_to_be_started_where_there_is_one() -> None:
    assert 'Docker Desktop' in remedy(platform='darwin')


def test_kernel_without_swap_accounting_is_a_warning_with_the_boot_option() -> None:
    check = check_limits(evolve(INFO, swap_limit=False))

    assert check.status == 'warning'
    assert 'swap' in check.summary
    assert 'swapaccount=1' in str(check.remedy)


def test_kernel_with_every_account_passes() -> None:
    assert check_limits(INFO).status == 'ok'


def test_closed_user_namespaces_name_the_setting(tmp_path: Path) -> None:
    """Root's sandboxes need them like everybody's, the one that runs this."""
    (tmp_path / 'kernel').mkdir()
    (tmp_path / 'kernel' / 'unprivileged_userns_clone').write_text('0\n')

    check = check_user_namespaces(tmp_path)

    assert check.status == 'warning'
    assert check.remedy == 'sudo sysctl -w kernel.unprivileged_userns_clone=1'


def test_open_user_namespaces_pass(tmp_path: Path) -> None:
    assert check_user_namespaces(tmp_path).status == 'ok'


def test_variable_that_names_no_file_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('PIP_CERT', '/no/such/bundle.pem')

    check = check_host_ca()

    assert check.status == 'warning'
    assert '/no/such/bundle.pem' in check.summary


def test_pid_file_of_a_process_that_is_not_dockerd_counts_as_none(tmp_path: Path) -> None:
    path = tmp_path / 'docker.pid'
    path.write_text('1')

    assert running_dockerd(path) is None
    assert running_dockerd(tmp_path / 'missing.pid') is None


@pytest.mark.processes
def test_without_an_engine_docker_cannot_run_and_every_failure_has_a_remedy(tmp_path: Path) -> None:
    found = examine(f'unix://{tmp_path}/nothing.sock')

    by_name = {each.name: each for each in found.checks}
    assert 'docker' not in found.backends
    assert by_name['engine'].status == 'failed'
    assert by_name['image'].status == 'skipped'
    assert all(each.remedy for each in found.checks if each.status in ('failed', 'warning'))


@pytest.mark.processes
def test_address_that_cannot_be_used_is_a_failed_check() -> None:
    found = examine('nonsense')

    assert 'docker' not in found.backends
    assert 'nonsense' in next(each.summary for each in found.checks if each.name == 'engine')


@pytest.mark.processes
def test_diagnosis_travels_as_json(tmp_path: Path) -> None:
    found = examine(f'unix://{tmp_path}/nothing.sock')

    assert Diagnosis.model_validate_json(found.model_dump_json()) == found


def looked_at(**statuses: str) -> list[Check]:
    return [
        Check(name=name.replace('_', ' '), status=status, summary=f'the {name}')  # type: ignore[arg-type]
        for name, status in statuses.items()
    ]


@pytest.mark.parametrize(
    ('engine', 'bubblewrap', 'backends'),
    [
        ('ok', 'ok', ['docker', 'bubblewrap']),
        ('warning', 'warning', ['docker']),
        ('failed', 'ok', ['bubblewrap']),
        ('skipped', 'warning', []),
    ],
)
def test_code_can_run_where_either_backend_works(engine: str, bubblewrap: str, backends: list[str]) -> None:
    checks = looked_at(bubblewrap_starts=bubblewrap, limits='warning')
    required = [evolve(each, required=True) for each in looked_at(python='ok', engine=engine)]

    assert find_backends([*required, *checks]) == backends


@pytest.mark.parametrize(
    ('statuses', 'status', 'summary'),
    [
        ({'engine': 'ok', 'notebook_image': 'ok'}, 'ok', 'docker_notebook, since an engine answers; it has the image'),
        ({'engine': 'ok', 'notebook_image': 'warning'}, 'ok', 'it will build the image'),
        ({'engine': 'failed', 'bubblewrap_starts': 'ok', 'notebook_python': 'ok'}, 'ok', 'the notebook_python'),
        ({'engine': 'failed', 'bubblewrap_starts': 'ok', 'notebook_python': 'warning'}, 'warning', 'no Python here'),
        (
            {'engine': 'failed', 'bubblewrap_starts': 'warning', 'notebook_python': 'ok'},
            'warning',
            'bubblewrap does not',
        ),
    ],
)
def test_what_a_notebook_would_stand_on_is_reported(statuses: dict[str, str], status: str, summary: str) -> None:
    check = check_notebooks(looked_at(**statuses))

    assert check.status == status
    assert summary in check.summary
    assert (check.remedy is None) is (status == 'ok')


@pytest.mark.processes
def test_a_missing_ipykernel_has_a_command_that_mends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interpreter, 'find_system_python', lambda: '/bin/false')
    monkeypatch.setattr(interpreter, 'own_python', lambda: '/opt/none/bin/python3')

    check = check_notebook_python()

    assert check.status == 'warning'
    assert 'ipykernel' in check.summary
    assert str(check.remedy).endswith('pip install ipykernel')


@pytest.mark.docker
def test_machine_with_engine_and_image_can_run_code() -> None:
    found = examine()

    assert 'docker' in found.backends
    assert {each.name for each in found.checks if each.required} >= {'engine', 'image'}
    assert DEFAULT_IMAGE in next(each.summary for each in found.checks if each.name == 'image')


@pytest.mark.parametrize(
    ('named', 'status', 'words'),
    [
        ('docker', 'ok', 'docker, since ENCLAVE_TYPE names it'),
        ('docker_notebook', 'ok', 'docker_notebook, since ENCLAVE_TYPE names it'),
        ('bubblewrap', 'failed', 'bubblewrap, since ENCLAVE_TYPE names it, although'),
        ('dokcer', 'failed', "'dokcer', which is no kind of sandbox; did you mean 'docker'?"),
    ],
)
def test_the_kind_that_the_environment_names_is_looked_at(
    monkeypatch: pytest.MonkeyPatch, named: str, status: str, words: str
) -> None:
    monkeypatch.setenv('ENCLAVE_TYPE', named)

    check = check_default_kind(looked_at(engine='ok', bubblewrap_starts='failed'))

    assert (check.status, words in check.summary) == (status, True), check.summary
