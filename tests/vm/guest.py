"""What runs in the virtual machine of scripts/test_vm.py, as root: the tests, once for each way to be given control groups.

Each part runs pytest over some tests in a group of its own:

- ``root``: a service, whose parent group root may write to. Here bubblewrap's whole suite runs, and the conformance suite over
  bubblewrap; the others run tests of limits. It is long, and each of its own parts can be run alone: see `ROOT`.
- ``delegated``: an ordinary user's own service manager, to which systemd hands memory, processes and CPU down.
- ``undelegated``: an ordinary user in a system service, who may make no groups.
- ``docker``: Docker's own engine, in which the containers' limits are this machine's control groups: a short suite.

It prints a line of JSON after each part, ``{"part", "code", "minutes"}``, and one at the end, which scripts/test_vm.py reads.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

MARK = '=== vm: '
CHECKOUT = Path(__file__).resolve().parent.parent.parent
PYTHON = '/opt/venv/bin/python'
USER, UID = 'tester', 1000
BUBBLEWRAP = ('-m', 'bubblewrap or (vm and bubblewrap)')  # naming vm has its tests run at all
DOCKER = ('-m', 'docker or (vm and docker)')
SHORT = ('tests/vm',)
TEST_SECONDS = 5400
"""How long one test may take: some times what the longest does, which is the suite of `enclave.testing` over another kind."""
LIMITS = (f'TEST_SECONDS={TEST_SECONDS}', 'ENCLAVE_TEST_PATIENCE=900')
PART_HOURS = 3
"""How long a part may take before it is ended."""


def say(text: str) -> None:
    """Print a line at once."""
    print(text, flush=True)


def run(command: list[str]) -> int:
    """Run a program to its end and return its exit code."""
    return subprocess.run(command, cwd=CHECKOUT, stdin=subprocess.DEVNULL, check=False).returncode


def pytest(arguments: tuple[str, ...], cache: str) -> list[str]:
    """Return the command that runs some tests, with limits of time that suit a machine without acceleration."""
    # No plug-in that is not needed: each is slow to import here.
    without = [word for name in ('cacheprovider', 'schemathesis', 'anyio') for word in ('-p', f'no:{name}')]
    options = [*without, '-o', 'addopts=--strict-markers --import-mode=importlib', '-v', '-rfE', '--durations=15']
    return [PYTHON, '-m', 'pytest', *options, f'--basetemp={cache}', '--color=no', *arguments]


def in_service(part: str, home: str, *args: str) -> list[str]:
    """Return the command, up to pytest's, that runs tests in a service of their own."""
    # What is missing is a failure, and the tests know which groups they have. What is imported may be kept compiled: compiling
    # this library takes an interpreter half a minute here.
    variables = ['CI=true', f'ENCLAVE_VM_PART={part}', *LIMITS, 'LANG=C.UTF-8', f'HOME={home}']
    service = ['systemd-run', '--quiet', '--pipe', '--wait', '--collect', f'--working-directory={CHECKOUT}', *args]
    return [*service, f'--property=RuntimeMaxSec={PART_HOURS}h', *(f'--setenv={each}' for each in variables)]


def run_root(arguments: tuple[str, ...]) -> int:
    """Run tests as root, in a service."""
    return run([*in_service('root', '/root'), *pytest(arguments, '/var/tmp/tests-root')])


def run_delegated(arguments: tuple[str, ...]) -> int:
    """Run tests as an ordinary user, in a service of the user's own manager."""
    # systemd hands memory and processes down to users by itself, the CPU only if asked.
    drop_in = Path('/etc/systemd/system/user@.service.d/delegate.conf')
    drop_in.parent.mkdir(parents=True, exist_ok=True)
    drop_in.write_text('[Service]\nDelegate=cpu memory pids\n')
    run(['systemctl', 'daemon-reload'])
    run(['systemctl', 'restart', f'user@{UID}.service'])
    service = in_service('delegated', f'/home/{USER}', f'--machine={USER}@.host', '--user')
    return run([*service, *pytest(arguments, '/var/tmp/tests-delegated')])


def run_undelegated(arguments: tuple[str, ...]) -> int:
    """Run tests as an ordinary user, in a service of the system's, whose group is root's."""
    service = in_service('undelegated', f'/home/{USER}', f'--uid={USER}', f'--gid={USER}')
    return run([*service, *pytest(arguments, '/var/tmp/tests-undelegated')])


def run_docker(arguments: tuple[str, ...]) -> int:
    """Start the engine, give it an image, and run tests as root."""
    code = run(['systemctl', 'start', 'docker.service'])
    code = code or run(['docker', 'import', '--change', 'CMD ["python3"]', '/opt/image.tar', 'python:3.11-slim'])
    if code:
        run(['journalctl', '--no-pager', '-n', '50', '-u', 'docker.service'])
        return code
    return run([*in_service('docker', '/root'), *pytest(arguments, '/var/tmp/tests-docker')])


ROOT = {
    'root-limits': ('tests/vm', 'tests/bubblewrap/test_life.py', 'tests/conformance/test_visible_limits.py'),
    'root-isolation': ('tests/bubblewrap/test_isolation.py', 'tests/bubblewrap/test_layout.py'),
    'root-example': ('tests/bubblewrap/test_example_backend.py',),
    'root-promises': ('tests/conformance/test_sandboxes.py',),
    'root-calls': (),
}
"""The parts of ``root``, by which files they run. The last runs all others of ``tests/bubblewrap`` and ``tests/conformance``."""


def places_of(part: str) -> tuple[str, ...]:
    """Return the files of a part of ``root``."""
    named = {place for places in ROOT.values() for place in places}
    folders = ('tests/bubblewrap', 'tests/conformance')
    found = [
        str(each.relative_to(CHECKOUT)) for name in folders for each in sorted((CHECKOUT / name).glob('test_*.py'))
    ]
    return ROOT[part] or tuple(place for place in found if place not in named)


TWO_AT_ONCE = ('-n', '2')
PARTS: dict[str, tuple[Callable[[tuple[str, ...]], int], tuple[str, ...], tuple[str, ...]]] = {
    'docker': (run_docker, DOCKER, SHORT),
    'delegated': (run_delegated, BUBBLEWRAP, SHORT),
    'undelegated': (run_undelegated, BUBBLEWRAP, SHORT),
    # One test has no use for a second process, which takes half a minute to start here.
    **{name: (run_root, (*BUBBLEWRAP, *(() if 'example' in name else TWO_AT_ONCE)), places_of(name)) for name in ROOT},
}


def wanted(names: list[str], arguments: list[str]) -> list[str]:
    """Return the parts to run, in their order; ``root`` is all of its own, and with tests of its caller's one of them."""
    root = list(ROOT)[:1] if arguments else list(ROOT)
    for name in names:
        if name != 'root' and name not in PARTS:
            raise SystemExit(f'there is no part {name}; there are root, {", ".join(PARTS)}')
    return [
        part
        for name in names or ('docker', 'delegated', 'undelegated', 'root')
        for part in (root if name == 'root' else [name])
    ]


def main() -> None:
    """Run the parts that were ordered, and print how each ended and how long it took."""
    order = json.loads((CHECKOUT / 'vm-order.json').read_text())
    try:
        with open('/proc/sys/kernel/unprivileged_userns_clone', 'w') as file:
            file.write('1')
    except FileNotFoundError:
        pass  # not every kernel has Debian's switch
    os.chmod(CHECKOUT, 0o755)
    for name in wanted(order['only'], order['arguments']):
        function, marks, places = PARTS[name]
        say(f'{MARK}{name}')
        began = time.monotonic()
        code = function((*marks, *(order['arguments'] or places)))
        say(MARK + json.dumps({'part': name, 'code': code, 'minutes': round((time.monotonic() - began) / 60, 1)}))
    say(f'{MARK}end')


if __name__ == '__main__':
    main()
