"""What runs in the virtual machine of scripts/test_vm.py, as root: the tests, once for each way to be given control groups.

Each part runs pytest over some tests in a group of its own:

- ``root``: a service, whose parent group root may write to. Here bubblewrap's whole suite runs; the others run tests of limits.
- ``delegated``: an ordinary user's own service manager, to which systemd hands memory, processes and CPU down.
- ``undelegated``: an ordinary user in a system service, who may make no groups.
- ``docker``: Docker's own engine, in which the containers' limits are this machine's control groups: a short suite.

It prints a line with the exit code of each at the end, which scripts/test_vm.py reads.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

MARK = '=== vm: '
CHECKOUT = Path(__file__).resolve().parent.parent.parent
PYTHON = '/opt/venv/bin/python'
USER, UID = 'tester', 1000
BUBBLEWRAP = ('-m', 'bubblewrap or (vm and bubblewrap)')  # naming vm has its tests run at all
DOCKER = ('-m', 'docker or (vm and docker)')


def say(text: str) -> None:
    """Print a line at once."""
    print(text, flush=True)


def run(command: list[str]) -> int:
    """Run a program to its end and return its exit code."""
    return subprocess.run(command, cwd=CHECKOUT, stdin=subprocess.DEVNULL, check=False).returncode


def pytest(arguments: tuple[str, ...], cache: str) -> list[str]:
    """Return the command that runs some tests, with limits of time that suit a machine without acceleration."""
    # No plug-in that is not needed: each is slow to import here, and so is a second process.
    without = [word for name in ('cacheprovider', 'xdist', 'schemathesis', 'anyio') for word in ('-p', f'no:{name}')]
    options = [*without, '-o', 'addopts=--strict-markers --import-mode=importlib', '-v', '-rfE', '--durations=5']
    return [PYTHON, '-m', 'pytest', *options, f'--basetemp={cache}', '--color=no', *arguments]


def environment(part: str) -> list[str]:
    """Return the variables of a part: what is missing is a failure, and the tests know which groups they have."""
    words = ['CI=true', f'ENCLAVE_VM_PART={part}', 'PYTHONDONTWRITEBYTECODE=1', 'LANG=C.UTF-8']
    return [*words, 'TEST_SECONDS=3600']


def run_root(arguments: tuple[str, ...]) -> int:
    """Run tests as root, in a service."""
    command = ['systemd-run', '--quiet', '--pipe', '--wait', '--collect', f'--working-directory={CHECKOUT}']
    words = [f'--setenv={each}' for each in (*environment('root'), 'HOME=/root')]
    return run([*command, *words, *pytest(arguments, '/var/tmp/tests-root')])


def run_delegated(arguments: tuple[str, ...]) -> int:
    """Run tests as an ordinary user, in a service of the user's own manager."""
    # systemd hands memory and processes down to users by itself, the CPU only if asked.
    drop_in = Path('/etc/systemd/system/user@.service.d/delegate.conf')
    drop_in.parent.mkdir(parents=True, exist_ok=True)
    drop_in.write_text('[Service]\nDelegate=cpu memory pids\n')
    run(['systemctl', 'daemon-reload'])
    run(['systemctl', 'restart', f'user@{UID}.service'])
    command = ['systemd-run', '--quiet', f'--machine={USER}@.host', '--user', '--pipe', '--wait', '--collect']
    words = [f'--setenv={each}' for each in environment('delegated')]
    return run([*command, f'--working-directory={CHECKOUT}', *words, *pytest(arguments, '/var/tmp/tests-delegated')])


def run_undelegated(arguments: tuple[str, ...]) -> int:
    """Run tests as an ordinary user, in a service of the system's, whose group is root's."""
    command = ['systemd-run', '--quiet', '--pipe', '--wait', '--collect', f'--uid={USER}', f'--gid={USER}']
    words = [f'--setenv={each}' for each in (*environment('undelegated'), f'HOME=/home/{USER}')]
    return run([*command, f'--working-directory={CHECKOUT}', *words, *pytest(arguments, '/var/tmp/tests-undelegated')])


def run_docker(arguments: tuple[str, ...]) -> int:
    """Start the engine, give it an image, and run tests as root."""
    code = run(['systemctl', 'start', 'docker.service'])
    code = code or run(['docker', 'import', '--change', 'CMD ["python3"]', '/opt/image.tar', 'python:3.11-slim'])
    if code:
        run(['journalctl', '--no-pager', '-n', '50', '-u', 'docker.service'])
        return code
    command = ['systemd-run', '--quiet', '--pipe', '--wait', '--collect', f'--working-directory={CHECKOUT}']
    words = [f'--setenv={each}' for each in (*environment('docker'), 'HOME=/root')]
    return run([*command, *words, *pytest(arguments, '/var/tmp/tests-docker')])


PARTS = {
    'root': (run_root, BUBBLEWRAP, ('tests/vm', 'tests/bubblewrap', 'tests/conformance')),
    'delegated': (run_delegated, BUBBLEWRAP, ('tests/vm',)),
    'undelegated': (run_undelegated, BUBBLEWRAP, ('tests/vm',)),
    'docker': (run_docker, DOCKER, ('tests/vm',)),
}

DEFAULT = ('docker', 'delegated', 'undelegated', 'root')  # the longest last


def main() -> None:
    """Run the parts that were ordered and print their exit codes."""
    order = json.loads((CHECKOUT / 'vm-order.json').read_text())
    codes = {}
    try:
        with open('/proc/sys/kernel/unprivileged_userns_clone', 'w') as file:
            file.write('1')
    except FileNotFoundError:
        pass  # not every kernel has Debian's switch
    os.chmod(CHECKOUT, 0o755)
    for name in order['only'] or DEFAULT:
        function, marks, places = PARTS[name]
        say(f'{MARK}{name}')
        codes[name] = function((*marks, *(order['arguments'] or places)))
    say(MARK + json.dumps(codes))


if __name__ == '__main__':
    sys.exit(main())
