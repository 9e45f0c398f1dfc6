"""Have a container engine that answers, and images on it, for `make demo` and `make test`.

    python scripts/setup_engine.py [--images IMAGE ...]

An engine that answers is used as it is. Otherwise this says what it would do (install Debian's docker.io, start dockerd) and
does it only with consent: CI=true, ENCLAVE_SETUP_ENGINE=1, or a yes at the prompt. ENCLAVE_SETUP_ENGINE=0 declines.

The engine outlives this program and the make that called it, and holds none of their pipes. The exit code is 0 when an
engine answers and has the images, 1 otherwise.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

from enclave.doctor import explain_engine_failure, find_dockerd, running_dockerd
from enclave.errors import EnclaveError, EngineUnavailableError
from enclave.sandboxes.docker.engine import Engine
from enclave.sandboxes.images.catalog import find_image

ANSWER_TIMEOUT = 10.0
START_TIMEOUT = 90.0
PROGRESS_INTERVAL = 5.0
DOCKERD_LOG = Path('/var/log/enclave-dockerd.log')
INSTALL_LOG = Path('/var/log/enclave-install.log')
PID_FILES = {
    Path('/var/run/docker.pid'): 'dockerd',
    Path('/var/run/docker/containerd/containerd.pid'): 'containerd',
}


class SetUpError(Exception):
    """The engine could not be set up; the message says why and what to do."""


def say(text: str) -> None:
    """Print a line at once, whatever standard output is."""
    print(text, flush=True)


def main() -> int:
    """Set up what is missing and return the exit code."""
    parser = argparse.ArgumentParser(description='Have a container engine that answers, and images on it.')
    parser.add_argument('--images', nargs='*', default=[], metavar='IMAGE', help='images to pull or build')
    images = parser.parse_args().images
    try:
        ensure_engine()
        return ensure_images(images)
    except (SetUpError, EnclaveError) as error:
        say(f'==> {error}')
        return 1


def ensure_engine() -> None:
    """Return when an engine answers."""
    try:
        say(f'==> Using the engine that answers: {describe()}')
        return
    except EngineUnavailableError as error:
        failure = error
    say(f'==> {str(failure).split(" Run `ms-enclave doctor`")[0]}')
    with Engine() as engine:
        endpoint = engine.endpoint
    if endpoint.source != 'the default' or not sys.platform.startswith('linux'):
        raise SetUpError(f'What mends it: {explain_engine_failure(failure, endpoint).remedy}')
    if running_dockerd() is not None:
        say('    dockerd is running; waiting for it to answer')
        wait_for_answer(None)
        return
    install = find_dockerd() is None
    steps = ["install Debian's docker.io with apt-get"] if install else []
    steps.append('start docker with systemctl' if has_systemd() else f'start dockerd by hand, its log in {DOCKERD_LOG}')
    if not consent('An engine can be set up here', steps):
        raise SetUpError('No engine was set up. `ms-enclave doctor` says what would mend it.')
    if install:
        apt_install('docker.io')
        if answers():  # the package's own script may have started it
            say(f'==> {describe()}')
            return
    if has_systemd():
        run_or_fail([*sudo(), 'systemctl', 'start', 'docker'])
        wait_for_answer(None)
    else:
        wait_for_answer(start_by_hand())


def ensure_images(images: list[str]) -> int:
    """Pull or build the images that are missing; return an exit code."""
    with Engine() as engine:
        missing = [name for name in images if find_image(engine, name) is None]
    for name in images:
        say(f'==> Image {name}: {"missing, getting it" if name in missing else "there"}')
    if not missing:
        return 0
    command = [sys.executable, '-m', 'enclave.cli.main', 'images', 'ensure', *missing]
    code = subprocess.run(command, stdin=subprocess.DEVNULL, check=False).returncode
    if code == 0 or shutil.which('mmdebstrap') is not None or shutil.which('apt-get') is None:
        return code
    if not consent('The images can be built here', ['install mmdebstrap with apt-get', f'build {", ".join(missing)}']):
        return code
    apt_install('mmdebstrap')
    return subprocess.run(command, stdin=subprocess.DEVNULL, check=False).returncode


def consent(what: str, steps: list[str]) -> bool:
    """Say what would be done and return whether it may be."""
    say(f'    {what}. This would:')
    for step in steps:
        say(f'      - {step}')
    answer = os.environ.get('ENCLAVE_SETUP_ENGINE')
    if answer == '0':
        say('    ENCLAVE_SETUP_ENGINE=0 declines that.')
        return False
    if answer == '1' or os.environ.get('CI') == 'true':
        say(f'    {"ENCLAVE_SETUP_ENGINE=1" if answer == "1" else "CI=true"} agrees to that.')
        return True
    if not sys.stdin.isatty():
        say('    ENCLAVE_SETUP_ENGINE=1 would agree to that; nobody is at a terminal to ask.')
        return False
    return input('    Do it? [y/N] ').strip().lower() in ('y', 'yes')


def sudo() -> list[str]:
    """Return the arguments that make a command run as root."""
    if os.geteuid() == 0:
        return []
    if shutil.which('sudo') is None:
        raise SetUpError(
            'This needs root, and there is no sudo: run it as root, or ask an administrator for an engine.'
        )
    return ['sudo']


def has_systemd() -> bool:
    """Return whether systemd runs this machine."""
    return Path('/run/systemd/system').is_dir()


def apt_install(*packages: str) -> None:
    """Install Debian packages, with a line every few seconds saying how far it is."""
    if shutil.which('apt-get') is None:
        raise SetUpError(f'{", ".join(packages)} can only be installed with apt-get here: install it by hand.')
    options = ['-o', 'DPkg::Lock::Timeout=300', '-q']
    environment = ['env', 'DEBIAN_FRONTEND=noninteractive', 'NEEDRESTART_SUSPEND=1']
    for arguments in (['update'], ['install', '-y', '--no-install-recommends', *packages]):
        command = [*sudo(), *environment, 'apt-get', *options, *arguments]
        say(f'==> apt-get {" ".join(arguments)}')
        watch(command, writable_log(INSTALL_LOG))


def watch(command: list[str], log: Path) -> None:
    """Run a command with its output in a log file, and say what it is at; a daemon it starts cannot hold our pipes."""
    started_at = said_at = time.monotonic()
    with open(log, 'wb') as output:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    while True:
        try:
            code = child.wait(0.2)
            break
        except subprocess.TimeoutExpired:
            if time.monotonic() - said_at >= PROGRESS_INTERVAL:
                said_at = time.monotonic()
                say(f'    {said_at - started_at:5.0f} s  {last_lines(log, 1)[:100]}')
    if code != 0:
        raise SetUpError(f'{shlex.join(command)} ended with exit code {code}:\n{last_lines(log, 20)}')
    say(f'    done in {time.monotonic() - started_at:.0f} s')


def start_by_hand(arguments: list[str] | None = None) -> subprocess.Popen[bytes]:
    """Start dockerd in a session of its own, with no descriptor of this library, and return the process."""
    for pid_file, name in PID_FILES.items():
        remove_stale(pid_file, name)
    log = writable_log(DOCKERD_LOG)
    dockerd = find_dockerd() or 'dockerd'
    command = [*sudo(), dockerd, *(arguments or [])]
    say(f'==> Starting {shlex.join(command)}, its log in {log}')
    with open(log, 'wb') as output:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            close_fds=True,
            cwd='/',
        )


def remove_stale(pid_file: Path, name: str) -> None:
    """Remove a pid file that an engine left when its machine stopped; by now the number may be anybody's."""
    try:
        pid = int(pid_file.read_text('ascii'))
    except (OSError, ValueError):
        return
    try:
        owner = Path(f'/proc/{pid}/comm').read_text('utf-8').strip()
    except OSError:
        owner = ''
    if not owner.startswith(name):
        say(f'    removing the stale {pid_file}')
        subprocess.run([*sudo(), 'rm', '-f', str(pid_file)], check=False)


def wait_for_answer(child: subprocess.Popen[bytes] | None) -> None:
    """Return when the engine answers; fail when its process ends or it takes too long."""
    started_at = said_at = time.monotonic()
    while not answers():
        now = time.monotonic()
        if child is not None and child.poll() is not None:
            raise SetUpError(
                f'dockerd ended with exit code {child.returncode}. Its log:\n{last_lines(DOCKERD_LOG, 20)}'
            )
        if now - started_at > START_TIMEOUT:
            raise SetUpError(f'The engine did not answer within {START_TIMEOUT:.0f} s:\n{last_lines(DOCKERD_LOG, 20)}')
        if now - said_at >= PROGRESS_INTERVAL:
            said_at = now
            say(f'    {now - started_at:5.0f} s  waiting for the engine')
        time.sleep(0.3)
    say(f'==> {describe()}')


def answers() -> bool:
    """Return whether the engine answers."""
    try:
        with Engine(timeout=ANSWER_TIMEOUT) as engine:
            engine.ping()
    except EnclaveError:
        return False
    return True


def describe() -> str:
    """Return a short description of the engine."""
    with Engine(timeout=ANSWER_TIMEOUT) as engine:
        info = engine.describe()
    return f'{info.name} {info.version} at {info.address} ({info.storage_driver}, cgroup v{info.cgroup_version})'


def run_or_fail(command: list[str]) -> None:
    """Run a short command."""
    say(f'==> {shlex.join(command)}')
    if subprocess.run(command, stdin=subprocess.DEVNULL, check=False).returncode != 0:
        raise SetUpError(f'{shlex.join(command)} failed.')


def writable_log(path: Path) -> Path:
    """Return the log's path, elsewhere if this user may not write there."""
    if os.access(path if path.exists() else path.parent, os.W_OK):
        return path
    return Path(os.environ.get('TMPDIR', '/tmp')) / path.name


def last_lines(log: Path, count: int) -> str:
    """Return the end of a log."""
    try:
        lines = writable_log(log).read_text('utf-8', 'replace').splitlines()
    except OSError:
        return ''
    return '\n'.join(line for line in lines[-count:])


if __name__ == '__main__':
    sys.exit(main())
