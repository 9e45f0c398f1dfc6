"""What works on this machine works in a sandbox: CPython's own tests, of files that use processes, files, time and sockets.

A file that fails in a sandbox and passes outside of it, under the same interpreter and with the same environment, is a fault. The
interpreter must come with its package ``test``, as those of pyenv do and Debian's with ``libpython3-testsuite``. Run by
``make test-cpython``; takes some minutes for each kind of sandbox.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from enclave.enums import SandboxType
from enclave.sandboxes.agent_backed import AgentBackedSandbox
from enclave.sandboxes.sandbox_factory import SandboxFactory

pytestmark = pytest.mark.cpython

LIMIT_SECONDS = 900.0
FILES = (
    'test_argparse',
    'test_array',
    'test_ast',
    'test_asyncgen',
    'test_base64',
    'test_bigmem',
    'test_bisect',
    'test_bytes',
    'test_calendar',
    'test_codecs',
    'test_collections',
    'test_compile',
    'test_concurrent_futures',
    'test_contextlib',
    'test_copy',
    'test_csv',
    'test_dataclasses',
    'test_datetime',
    'test_decimal',
    'test_dict',
    'test_enum',
    'test_fcntl',
    'test_file',
    'test_fileio',
    'test_float',
    'test_fork1',
    'test_functools',
    'test_generators',
    'test_glob',
    'test_gzip',
    'test_hashlib',
    'test_heapq',
    'test_io',
    'test_itertools',
    'test_json',
    'test_math',
    'test_mmap',
    'test_multiprocessing_fork',
    'test_os',
    'test_pathlib',
    'test_pickle',
    'test_posix',
    'test_posixpath',
    'test_pty',
    'test_pwd',
    'test_queue',
    'test_random',
    'test_re',
    'test_resource',
    'test_select',
    'test_shutil',
    'test_signal',
    'test_socket',
    'test_sqlite3',
    'test_statistics',
    'test_struct',
    'test_subprocess',
    'test_tempfile',
    'test_thread',
    'test_threading',
    'test_time',
    'test_unicode',
    'test_uuid',
    'test_zipfile',
    'test_zlib',
)
WITHOUT = {
    # It removes files beside the interpreter's modules, which a sandbox shows read-only.
    'test_pickle': ['test_unpickle_module_race'],
    # It becomes a user that a bubblewrap sandbox does not have, which is an error other than it expects.
    'test_subprocess': ['test_user'],
    # They ask for the user of the number 0, whom a bubblewrap sandbox does not have.
    'test_shutil': ['test_make_archive_owner_group', 'test_tarfile_root_owner'],
    # What a sandbox denies on purpose, and the tests do not ask about before they use it.
    'test_socket': ['BasicCANTest', 'ISOTPTest', '*VSOCK*', '*Alg*'],
}


@functools.cache
def find_python() -> str | None:
    """Return an interpreter with the package ``test``, of this Python's version if there is one."""
    own = f'{sys.version_info[0]}.{sys.version_info[1]}'
    versions = sorted(Path.home().glob('.pyenv/versions/3.1*/bin/python3'))
    versions.sort(key=lambda path: own not in str(path))
    for python in (os.path.realpath(sys.executable), *map(str, versions), '/usr/bin/python3'):
        code = 'import test.test_os, test.test_subprocess'
        if os.access(python, os.X_OK) and not subprocess.run([python, '-c', code], capture_output=True).returncode:
            return python
    return None


def command(python: str, name: str) -> list[str]:
    """Return the argv that runs a file's tests."""
    ignored = [word for pattern in WITHOUT.get(name, ()) for word in ('--ignore', pattern)]
    return [python, '-m', 'test', '--timeout', '600', '-u', 'none', *ignored, name]


@pytest.fixture(
    scope='module',
    params=[
        pytest.param(SandboxType.BUBBLEWRAP, marks=pytest.mark.bubblewrap),
        pytest.param(SandboxType.DOCKER, marks=pytest.mark.docker),
    ],
    ids=str,
)
def sandbox(request: pytest.FixtureRequest) -> Iterator[AgentBackedSandbox]:
    """A sandbox that shows the interpreter, with limits that its tests have room in."""
    python = find_python()
    if python is None:
        pytest.skip('no Python of this machine has the package test (libpython3-testsuite)')
    options = {'memory_limit': '2g', 'cpu_limit': 2.0, 'network_enabled': False, 'timeout': LIMIT_SECONDS}
    if request.param is SandboxType.BUBBLEWRAP:
        options['python'] = python
    else:
        prefix = os.path.dirname(os.path.dirname(python))
        options['volumes'] = {prefix: {'bind': prefix, 'mode': 'ro'}}
    sandbox = SandboxFactory.create_sandbox(request.param, options)
    assert isinstance(sandbox, AgentBackedSandbox)
    with sandbox:
        if sandbox.execute_command([python, '-c', 'import test.support']).exit_code:
            pytest.skip('the interpreter does not run in this sandbox')
        yield sandbox


@pytest.mark.parametrize('name', FILES)
def test_what_passes_here_passes_in_a_sandbox(sandbox: AgentBackedSandbox, name: str, tmp_path: Path) -> None:
    python = find_python()
    assert python is not None
    # What this interpreter lacks the image of the sandbox cannot give it, nor does it matter.
    env = {'HOME': '/tmp', 'LANG': 'C.UTF-8', 'PYTHONDONTWRITEBYTECODE': '1'}
    inside = sandbox.execute_command(command(python, name), env=env, cwd='/tmp', max_output_bytes=1 << 20)
    if inside.exit_code == 0:
        return

    here = subprocess.run(
        command(python, name),
        env={'PATH': os.environ['PATH'], **env},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
    )

    if here.returncode == 0:
        pytest.fail(f'{name} passes here and fails in the sandbox:\n{inside.stdout[-6000:]}\n{inside.stderr[-3000:]}')
    pytest.skip(f'{name} fails here too')
