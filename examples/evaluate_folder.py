"""Evaluate a folder of small programs over a warm pool; every program runs in a sandbox that no other has been in.

Run with: python examples/evaluate_folder.py [FOLDER] [--pool N] [--timeout SECONDS]

Each program is a file like `double.py`. Beside it may be `double.in`, its input, and `double.out`, what it should print. On the
command line the same is `ms-enclave pool run FOLDER --report report.xml`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from enclave import EnclaveError, LocalSandboxManager

PROGRAMS = Path(__file__).parent / 'programs'
SANDBOX = {'network_enabled': False, 'memory_limit': '256m'}


def request(program: Path, timeout: float) -> dict[str, object]:
    """Return what is to be run, and what it should print."""
    given, expected = program.with_suffix('.in'), program.with_suffix('.out')
    return {
        'code': program.read_text(),
        'stdin': given.read_text() if given.exists() else '',
        'expected_output': expected.read_text() if expected.exists() else None,
        'timeout': timeout,
    }


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument('folder', nargs='?', type=Path, default=PROGRAMS)
    arguments.add_argument('--pool', type=int, default=4)
    arguments.add_argument('--timeout', type=float, default=5.0)
    given = arguments.parse_args()
    programs = sorted(given.folder.glob('*.py'))

    with LocalSandboxManager(sandbox_config=SANDBOX, pool_policy='fresh') as manager:
        manager.initialize_pool(given.pool)
        results = [each.unwrap() for each in manager.map(lambda path: request(path, given.timeout), programs)]

    for program, result in zip(programs, results, strict=True):
        print(f'{program.name:24} {result.verdict or result.status}')


if __name__ == '__main__':
    try:
        main()
    except EnclaveError as error:
        sys.exit(f'{type(error).__name__}: {error}')
