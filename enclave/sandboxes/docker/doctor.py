"""What Docker sandboxes need of a machine (layer 4, docker), and the commands that mend the rest."""

from __future__ import annotations

import errno
import os
import shutil
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from enclave.checks import Check, by_name, failed, is_ok, ok, warning
from enclave.errors import EnclaveError, EngineUnavailableError
from enclave.sandboxes.docker.docker_config import DEFAULT_IMAGE
from enclave.sandboxes.docker.docker_notebook_config import NOTEBOOK_IMAGE

if TYPE_CHECKING:
    from enclave.sandboxes.docker.dial import Endpoint
    from enclave.sandboxes.docker.engine import Engine, EngineInfo

_ENGINE_TIMEOUT = 10.0
_CA_VARIABLES = ('PIP_CERT', 'REQUESTS_CA_BUNDLE', 'SSL_CERT_FILE', 'CURL_CA_BUNDLE')


class DockerExaminer:
    """See `enclave.checks.Examiner`."""

    yes = 'an engine answers'
    no = 'no engine answers'

    def examine(self, base_url: str | None) -> list[Check]:
        """Look at the engine, and at what is on it."""
        library = check_docker_library()
        found = [library, *(_check_engine_and_what_is_on_it(base_url) if library.status == 'ok' else ())]
        return [*found, check_host_ca()]

    def is_there(self, checks: list[Check]) -> bool:
        """Return whether an engine answers."""
        return is_ok(checks, 'engine')

    def can_run(self, checks: list[Check]) -> bool:
        """Return whether all is there that is required."""
        return all(each.status in ('ok', 'warning') for each in checks if each.required)

    def find_notebooks(self, checks: list[Check]) -> tuple[bool, str]:
        """Return whether there is an engine, and how its notebooks come by their image."""
        if not self.is_there(checks):
            return False, ''
        image = by_name(checks).get('notebook image')
        has_image = image is not None and image.status == 'ok'
        return True, f'{self.yes}; it {"has the image" if has_image else "will build the image at the first use"}'


def _check_engine_and_what_is_on_it(base_url: str | None) -> list[Check]:
    from enclave.sandboxes.docker.engine import Engine

    try:
        engine = Engine(base_url, timeout=_ENGINE_TIMEOUT)
    except EnclaveError as error:
        return [failed('engine', str(error), 'unset DOCKER_HOST', required=True)]
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


def check_docker_library() -> Check:
    """Check that docker-py is installed."""
    try:
        version = metadata.version('docker')
    except metadata.PackageNotFoundError:
        return failed(
            'docker library',
            'the Python package "docker" is not installed',
            f'{sys.executable} -m pip install docker',
            required=True,
        )
    return ok('docker library', f'docker-py {version}', required=True)


def check_engine(info: EngineInfo) -> Check:
    """Say which engine answered."""
    security = ', '.join(each.split(',')[0].removeprefix('name=') for each in info.security_options) or 'none'
    summary = (
        f'{info.name} {info.version} at {info.address} (API {info.api_version}, {info.os}/{info.architecture}, '
        f'{info.storage_driver}, cgroup v{info.cgroup_version or "?"}, security: {security}, '
        f'runtimes: {", ".join(info.runtimes)})'
    )
    if info.os != 'linux':
        return failed(
            'engine',
            f'{summary}; it runs {info.os} containers and sandboxes need Linux ones',
            'switch Docker Desktop to Linux containers',
            required=True,
        )
    return ok('engine', summary, required=True)


def explain_engine_failure(error: EnclaveError, endpoint: Endpoint) -> Check:
    """Return the failed check for an engine that did not answer, with the command for this very cause."""
    summary = str(error).split(' Run `ms-enclave doctor`')[0]
    if not isinstance(error, EngineUnavailableError):
        return failed('engine', summary, 'look at the log of the engine', required=True)
    return failed(
        'engine',
        summary,
        engine_remedy(
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
        return ok('limits', 'memory, swap, CPU and processes can be limited')
    summary = f'the kernel under the engine does not account {", ".join(missing)}, so those limits will not hold'
    remedy = 'use a kernel and an engine with cgroup support for them'
    if {'memory', 'swap'} & set(missing):
        remedy = (
            'add "cgroup_enable=memory swapaccount=1" to GRUB_CMDLINE_LINUX in /etc/default/grub, then '
            '`sudo update-grub` and reboot'
        )
    return warning('limits', summary, remedy)


def check_image(engine: Engine, image: str, *, name: str, required: bool) -> Check:
    """Check that an image is on the engine, and trusts what this host is to trust."""
    from enclave.sandboxes.images.catalog import LABEL_HOST_CA, find_image, find_recipe

    found = find_image(engine, image)
    if found is None:
        mend = f'ms-enclave images pull {image}'
        if find_recipe(image) is not None:
            mend += f', or without a registry: ms-enclave images build {image}'
        if find_recipe(image) is not None and shutil.which('mmdebstrap') is None and sys.platform.startswith('linux'):
            mend += ' (needs mmdebstrap: apt-get install mmdebstrap)'
        if image == NOTEBOOK_IMAGE:
            mend = f'ms-enclave images build {image}'
        status: Literal['failed', 'warning'] = 'failed' if required else 'warning'
        return Check(name=name, status=status, summary=f'{image} is not on the engine', remedy=mend, required=required)
    if found.labels.get(LABEL_HOST_CA) == 'no' and _host_ca_source() is not None:
        return warning(
            name,
            f'{image} was built without the certificate authorities of this host; pip in it may fail',
            f'ms-enclave images build {image}',
            required=required,
        )
    return ok(name, f'{image} ({found.origin})', required=required)


def check_host_ca() -> Check:
    """Say whose certificate authorities images built here will trust; a variable that names no file is wrong."""
    for variable in _CA_VARIABLES:
        path = os.environ.get(variable)
        if path and not os.path.isfile(path):
            return warning(
                'certificates',
                f'{variable} names {path!r}, which is not a file',
                f'unset {variable}, or let it name a PEM file',
            )
    source = _host_ca_source()
    if source is None:
        return ok('certificates', "nothing but the system's own; images get Debian's")
    return ok('certificates', f'images built here also trust {source}')


def _host_ca_source() -> str | None:
    for variable in _CA_VARIABLES:
        path = os.environ.get(variable)
        if path and os.path.isfile(path):
            return f'{path} ({variable})'
    folder = Path('/usr/local/share/ca-certificates')
    return str(folder) if folder.is_dir() and any(folder.rglob('*.crt')) else None
