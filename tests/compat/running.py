"""How tests run a whole program, and the server that some programs want."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PATIENCE = 180.0


def environment() -> dict[str, str]:
    """Return the environment in which a program finds this checkout."""
    paths = [str(ROOT), os.environ.get('PYTHONPATH', '')]
    return {**os.environ, 'PYTHONPATH': os.pathsep.join(filter(None, paths)), 'PYTHONWARNINGS': 'default'}


def run_program(text: str, folder: Path, *, code: int = 0) -> str:
    """Run a program as a file of its own, somewhere else than the checkout, and return what it printed."""
    place = folder / 'program.py'
    place.write_text(text)
    done = subprocess.run(
        [sys.executable, str(place)],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == code, f'{done.stdout}\n{done.stderr}'
    assert 'ResourceWarning' not in done.stderr, done.stderr
    return done.stdout


@contextlib.contextmanager
def running_server(port: int) -> Iterator[str]:
    """Run the server as the documentation starts it from Python, and give its address."""
    address = f'http://127.0.0.1:{port}'
    program = f"from ms_enclave.sandbox import create_server; create_server().run(host='127.0.0.1', port={port})"
    server = subprocess.Popen([sys.executable, '-c', program], env=environment())
    try:
        give_up_at = time.monotonic() + PATIENCE
        while True:
            assert server.poll() is None, 'the server ended'
            assert time.monotonic() < give_up_at, 'the server does not answer'
            try:
                urllib.request.urlopen(f'{address}/health', timeout=5).close()
                break
            except urllib.error.HTTPError:
                break  # it answers
            except OSError:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    server.wait(0.05)
        yield address
    finally:
        server.terminate()
        server.wait(60)
