"""Who takes part: this library, the floors under it, and other programs in environments of their own."""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from benchmarks.participant import HERE, Entry, Participant

NATIVE_PYTHONS = ('/usr/bin/python3', '/usr/local/bin/python3', '/opt/homebrew/bin/python3')


def native_python() -> str:
    """Return this machine's own python3: a version manager's wrapper would be measured with it."""
    for name in (*NATIVE_PYTHONS, sys.executable):
        if os.access(name, os.X_OK):
            return name
    return sys.executable


def bubblewrap_program() -> str:
    """Return the path of bubblewrap that the library uses as well."""
    from enclave.sandboxes.bubblewrap.bwrap import find_program

    return find_program().path


def with_compose() -> Mapping[str, str]:
    """Return variables under which the docker command has a compose plug-in; this machine's own where there is one."""
    import subprocess

    if subprocess.run(['docker', 'compose', 'version'], capture_output=True, check=False).returncode == 0:
        return {}
    folder = Path(tempfile.mkdtemp(prefix='enclave-bench-'), 'cli-plugins')
    folder.mkdir()
    atexit.register(shutil.rmtree, folder.parent, ignore_errors=True)
    shutil.copy(HERE / 'compose.sh', folder / 'docker-compose')
    return {'DOCKER_CONFIG': str(folder.parent)}


def entries(kernel_python: str, numpy_python: str | None) -> list[Entry]:
    """Return all that may take part, this library first."""
    native = native_python()
    found = [
        Entry(name='enclave, Docker', file='enclave.py', way='Local', settings={'kind': 'docker'}, is_ours=True),
        Entry(
            name='enclave, Docker, preload []',
            file='enclave.py',
            way='Preloaded',
            settings={'kind': 'docker', 'preload': '[]'},
            is_ours=True,
        ),
        Entry(
            name='enclave, HTTP to Docker', file='enclave.py', way='Remote', settings={'kind': 'docker'}, is_ours=True
        ),
        Entry(
            name='enclave, bubblewrap', file='enclave.py', way='Local', settings={'kind': 'bubblewrap'}, is_ours=True
        ),
        Entry(
            name='enclave, bubblewrap, preload []',
            file='enclave.py',
            way='Preloaded',
            settings={'kind': 'bubblewrap', 'preload': '[]'},
            is_ours=True,
        ),
        Entry(
            name='enclave, HTTP to bubblewrap',
            file='enclave.py',
            way='Remote',
            settings={'kind': 'bubblewrap'},
            is_ours=True,
        ),
        Entry(
            name='enclave, Docker notebook',
            file='enclave.py',
            way='Notebook',
            settings={'kind': 'docker_notebook'},
            is_ours=True,
        ),
        Entry(
            name='enclave, bubblewrap notebook',
            file='enclave.py',
            way='Notebook',
            settings={'kind': 'bubblewrap_notebook', 'python': f'"{kernel_python}"'},
            is_ours=True,
        ),
        Entry(
            name='enclave, HTTP to Docker notebook',
            file='enclave.py',
            way='RemoteNotebook',
            settings={'kind': 'docker_notebook'},
            is_ours=True,
        ),
        Entry(name='native', file='bare.py', way='Native', settings={'python': native}),
        Entry(name='engine, by docker-py', file='bare.py', way='Engine'),
        Entry(name='engine, container alone', file='bare.py', way='EngineFirst', note='ready when it prints by itself'),
        Entry(name='docker exec', file='bare.py', way='Exec'),
        Entry(name='docker run', file='bare.py', way='Run', note='a container for each call'),
        Entry(name='local Jupyter kernel', file='bare.py', way='Kernel', settings={'python': kernel_python}),
    ]
    with contextlib.suppress(Exception):
        settings = {'program': bubblewrap_program()}
        found.append(
            Entry(name='bwrap', file='bare.py', way='Bubblewrap', settings=settings, note='anew for each call')
        )
    if numpy_python:
        options = {'kind': 'bubblewrap', 'python': f'"{numpy_python}"'}
        code = 'import numpy; print(numpy.arange(2).sum())'
        found += [
            Entry(
                name='enclave, bubblewrap, numpy preloaded',
                file='enclave.py',
                way='Numpy',
                settings={**options, 'preload': '["numpy"]'},
                is_ours=True,
            ),
            Entry(
                name='native, numpy', file='bare.py', way='NativeNumpy', settings={'python': numpy_python, 'code': code}
            ),
        ]
    return found + peers()


def peers() -> list[Entry]:
    """Return the programs from PyPI."""
    return [
        Entry(name='ms-enclave', file='ms_enclave.py', way='Peer', packages=('ms-enclave==0.0.8', 'docker')),
        Entry(
            name='llm-sandbox',
            file='llm_sandbox.py',
            way='Peer',
            packages=('llm-sandbox[docker]',),
            note='without its set-up of a virtual environment, which upgrades pip from the network in each container',
        ),
        Entry(
            name='swe-rex',
            file='swe_rex.py',
            way='Peer',
            packages=('swe-rex', 'aiohttp'),
            note='its server is in the image already',
        ),
        Entry(
            name='inspect-ai',
            file='inspect_ai.py',
            way='Peer',
            packages=('inspect-ai',),
            environ=with_compose,
            note='where the engine has no compose plug-in, a script stands in for it; its network is off by default',
        ),
        Entry(name='smolagents', file='smolagents.py', way='Peer', packages=('smolagents[docker]',)),
        Entry(name='autogen-ext', file='autogen.py', way='Peer', packages=('autogen-ext[docker]',)),
    ]


@contextlib.contextmanager
def running(chosen: list[Entry], logs: Path) -> Iterator[list[Participant]]:
    """Run all of these; those that cannot start have a reason."""
    found = [Participant(each) for each in chosen]
    try:
        for each in found:
            each.begin(logs / f'{each.name.replace(" ", "-").replace(",", "")}.log')
        yield found
    finally:
        for each in found:
            each.end()
