"""mypy as users of this library run it, over programs of theirs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]


def mypy(
    *arguments: str, cwd: Path, env: Mapping[str, str], timeout: float | None = None
) -> subprocess.CompletedProcess[str]:
    """Check programs strictly, against the types of this checkout; ``arguments`` are files, and further options."""
    command = [sys.executable, '-m', 'mypy', '--strict', '--follow-imports=silent', '--config-file=', *arguments]
    return subprocess.run(
        command,
        cwd=cwd,
        env={**env, 'MYPYPATH': str(ROOT)},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
