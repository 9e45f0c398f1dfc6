"""The suite of `enclave.testing` over a kind that is none of this project's, as its author would run it.

The kind isolates nothing, so it is tried in a sandbox: whatever a guest of the suite does, it does there. Beside that, what
attacks its surroundings or goes over a limit is not run over such a kind at all. The
largest file of the suite stands for all, for time.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from enclave.sandboxes.bubblewrap.sandbox import BubblewrapSandbox

ROOT = Path(__file__).parents[2]
SUITE = [
    *('-m', 'pytest', '-q', '-p', 'no:cacheprovider'),
    *('-p', 'enclave.testing.plugin', '-p', 'examples.subprocess_backend'),
    *('--pyargs', 'enclave.testing.suite.test_sandboxes'),
    *('--enclave-kind', 'subprocess', '--enclave-lacks', 'isolation,limits'),
]


def test_the_example_of_a_backend_passes_the_suite_but_for_isolation() -> None:
    seen = {str(ROOT), sys.prefix, sys.base_prefix}
    volumes = {place: {'bind': place, 'mode': 'ro'} for place in seen if not place.startswith('/usr')}
    with BubblewrapSandbox({'volumes': volumes, 'memory_limit': '2g', 'pids_limit': 400, 'timeout': 0}) as sandbox:
        result = sandbox.execute_command(
            [sys.executable, *SUITE],
            cwd='/tmp',
            env={'PYTHONPATH': str(ROOT), 'PYTHONDONTWRITEBYTECODE': '1'},
        )

    last = result.stdout.strip().splitlines()[-1]
    assert result.success, result.stdout[-8000:] + result.stderr[-2000:]
    assert 'skipped' not in last, last
    passed, left_out = re.search(r'(\d+) passed.* (\d+) deselected', last).groups()  # type: ignore[union-attr]
    assert int(passed) > 150, last
    assert int(left_out) < 40, last
