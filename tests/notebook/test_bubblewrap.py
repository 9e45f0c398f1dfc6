"""What notebook sandboxes without Docker alone have: Pythons, limits without cgroups, and an owner's death."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from enclave.errors import SandboxStartError
from enclave.sandboxes.bubblewrap import cgroups
from enclave.sandboxes.bubblewrap.notebook import BubblewrapNotebookSandbox
from enclave.sandboxes.docker.docker_notebook_config import NOTEBOOK_IMAGE
from enclave.sandboxes.images.unpack import remove_unpacked, unpack_image
from tests.support.backends import starting
from tests.support.host import as_ordinary_user, cgroups_of, is_running, no_cgroups, wait_until

pytestmark = pytest.mark.bubblewrap

Start = Callable[..., BubblewrapNotebookSandbox]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a sandbox; stopped at the end of the test."""
    with starting(lambda **options: BubblewrapNotebookSandbox(options)) as start:
        yield start


# Pythons --------------------------------------------------------------------------------------------------------------


def test_its_info_says_what_it_stands_on(start: Start) -> None:
    sandbox = start()

    info = sandbox.get_info()

    python = info.metadata['kernel_python']
    assert info.type == 'bubblewrap_notebook'
    assert sandbox.execute_cell('import sys\nsys.executable').text == repr(python)


def test_the_python_that_is_named_runs_the_kernel(start: Start) -> None:
    sandbox = start(python=sys.executable)

    assert sandbox.execute_cell('import sys\nsys.prefix').text == repr(sys.prefix)
    assert sandbox.list_kernel_specs()[0].argv[0] == sys.executable


def test_a_python_without_ipykernel_is_reported_with_the_command_and_nothing_is_left(tmp_path: Path) -> None:
    subprocess.run([sys.executable, '-m', 'venv', '--without-pip', tmp_path / 'bare'], check=True)
    tmp_path.chmod(0o755)
    python = str(tmp_path / 'bare' / 'bin' / 'python')
    sandbox = BubblewrapNotebookSandbox({'python': python})

    with pytest.raises(SandboxStartError, match='needs ipykernel') as caught:
        sandbox.start()

    assert caught.value.message.endswith(f'run: {python} -m pip install ipykernel')
    assert not cgroups_of(sandbox.id)
    assert not is_running(sandbox.metadata['pid'])


@pytest.mark.docker
def test_an_unpacked_image_is_a_root_file_system_for_kernels() -> None:
    name = f'enclave-test-{uuid.uuid4().hex[:10]}'
    unpack_image(NOTEBOOK_IMAGE, name=name)
    plot = '%matplotlib inline\nimport matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()'
    try:
        with BubblewrapNotebookSandbox({'rootfs': name}) as sandbox:
            result = sandbox.execute_cell(plot, 120)

            assert any('image/png' in each.get('data', {}) for each in result.outputs), result.error
            assert sandbox.metadata['kernel_python'] == 'python3'
    finally:
        remove_unpacked(name)


# Limits ---------------------------------------------------------------------------------------------------------------


def test_without_cgroups_memory_that_runs_out_is_an_error_and_the_state_stays(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    with no_cgroups(monkeypatch):
        sandbox = start(memory_limit='128m', pids_limit=64)

    sandbox.execute_cell('kept = 5')
    result = sandbox.execute_cell('x = bytearray(1_000_000_000)')

    assert result.error is not None
    assert result.error.name == 'MemoryError'
    assert sandbox.execute_cell('kept').text == '5'
    assert sandbox.execute_cell('!echo from a program').stdout == 'from a program\n'


def test_no_network_is_none_and_its_home_is_its_own(start: Start) -> None:
    sandbox = start()

    code = "import socket\nsocket.create_connection(('192.0.2.1', 80), 5)"
    assert sandbox.execute_cell(code).error is not None
    code = "import os, IPython.paths\nos.access(IPython.paths.get_ipython_dir(), os.W_OK), os.listdir('/home')"
    assert sandbox.execute_cell(code).text == "(True, ['sandbox'])"


# Owners ---------------------------------------------------------------------------------------------------------------

OWNER = """
from enclave.sandboxes.bubblewrap.notebook import BubblewrapNotebookSandbox
sandbox = BubblewrapNotebookSandbox({})
sandbox.start()
cell = "import subprocess, time; subprocess.Popen(['setsid', 'sleep', '1000']); print('runs', flush=True); time.sleep(1000)"
steps = sandbox.stream_cell(cell, 0)
next(steps)
print(sandbox.metadata['pid'], flush=True)
for step in steps:
    pass
"""


def family_of(pid: int) -> list[int]:
    """Return the processes in the process id namespace of a process."""
    home = os.readlink(f'/proc/{pid}/ns/pid')
    found = []
    for each in Path('/proc').glob('[0-9]*'):
        with contextlib.suppress(OSError):
            if os.readlink(each / 'ns' / 'pid') == home:
                found.append(int(each.name))
    return found


def test_an_owner_killed_in_the_middle_of_a_cell_leaves_nothing(tmp_path: Path) -> None:
    owner = subprocess.Popen(
        [sys.executable, '-c', OWNER],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, 'TMPDIR': str(tmp_path)},
    )
    assert owner.stdout is not None
    try:
        family = family_of(int(owner.stdout.readline()))
        assert len(family) >= 3  # the agent, the kernel, and what the cell started
        owner.send_signal(signal.SIGKILL)
        owner.wait()

        assert wait_until(lambda: not any(is_running(pid) for pid in family))
    finally:
        owner.kill()
        owner.wait()
        owner.stdout.close()
    assert os.listdir(tmp_path) == []
    found = cgroups.find_cgroups()
    cgroups.sweep(found)  # which the next process does that makes a sandbox
    assert not [place for each in found.directories for place in each.glob(f'*.{owner.pid}.*')]


ORDINARY = """
import json, os, sys
from enclave.sandboxes.bubblewrap.notebook import BubblewrapNotebookSandbox
site = os.environ['PYTHONPATH'].split(':')[-1]
options = {
    'python': sys.executable,
    'env_vars': {'PYTHONPATH': site},
    'volumes': {site: {'bind': site, 'mode': 'ro'}},
    'memory_limit': '256m',
}
with BubblewrapNotebookSandbox(options) as sandbox:
    sandbox.execute_cell('x = 6')
    texts = [sandbox.execute_cell(code).text for code in ('x * 7', 'import os; os.getuid()')]
    hog = sandbox.execute_cell('y = bytearray(2_000_000_000)')
    slow = sandbox.execute_cell('import time; time.sleep(600)', 0.5)
    print(json.dumps([texts, hog.error.name, slow.timed_out, slow.state_lost, sandbox.metadata['limits']]))
"""


def test_an_ordinary_user_gets_the_same_kernel() -> None:
    version = '"%d.%d" % sys.version_info[:2]'
    found = subprocess.run(['/usr/bin/python3', '-c', f'import sys; print({version})'], capture_output=True, text=True)
    if found.stdout.strip() != '%d.%d' % sys.version_info[:2]:  # noqa: UP031
        pytest.skip("this machine's own Python is of another version, and cannot use our ipykernel")

    texts, name, timed_out, lost, limits = json.loads(as_ordinary_user(ORDINARY))

    assert texts == ['42', '1000']
    assert name == 'MemoryError'
    assert (timed_out, lost) == (True, None)
    assert limits['memory'].startswith('rlimits, for each process by itself')
