"""Virtual environments of their own, for programs that must not share ours: other majors of a library, others' SDKs.

They lie in ``.envs/`` of the checkout and are made once for each list of packages, so that slow suites can be run again.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def environment(name: str, *packages: str, with_enclave: bool = True) -> Path:
    """Return the Python of an environment that has these packages, made now if it is not there.

    Args:
        name: What it is for; part of its directory's name.
        with_enclave: This checkout is installed too, to be edited.
    """
    import fcntl

    wanted = [*(['-e', f'{ROOT}[bubblewrap,notebook]'] if with_enclave else []), *packages]
    digest = hashlib.sha256(
        '\n'.join([sys.version, *wanted, _metadata() if with_enclave else '']).encode()
    ).hexdigest()[:12]
    place = ROOT / '.envs' / f'{name}-{digest}'
    python = place / 'bin' / 'python'
    place.parent.mkdir(exist_ok=True)
    with open(place.parent / f'{name}.lock', 'w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several test workers may want it at once
        if not (place / 'made').exists():
            shutil.rmtree(place, ignore_errors=True)
            subprocess.run([sys.executable, '-m', 'venv', str(place)], check=True)
            install = [str(python), '-m', 'pip', '--disable-pip-version-check', 'install', '-q', *wanted]
            subprocess.run(install, check=True, env={**os.environ, 'PIP_NO_INPUT': '1'})
            (place / 'made').write_text('')
    return python


def _metadata() -> str:
    return (ROOT / 'setup.cfg').read_text('utf-8')
