"""Measure which lines the tests execute that need no engine, and hold the floors in setup.cfg (make coverage).

Two reports. The first is of all that runs in processes of this machine, by lines and branches: the tests' own, and the
interpreters they start. The second is of the agent alone, by lines: it runs in interpreters inside sandboxes, where a recorder
goes with it (tests/support/agent_lines.py); what this machine executes of it, the codec, counts too.

A test that fails does not fail this: ``make test`` runs the same tests and judges them.
"""

from __future__ import annotations

import configparser
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
AGENT = ROOT / 'enclave' / 'agent' / 'program.py'
TESTS = ('tests/unit', 'tests/agent', 'tests/bubblewrap', 'tests/conformance/test_sandboxes.py')
DATA, AGENT_DATA, AGENT_LINES = (ROOT / name for name in ('.coverage', '.coverage-agent', '.coverage-agent-lines'))


def coverage(*arguments: str) -> int:
    """Run coverage's command in this checkout and return its exit code."""
    return subprocess.run([sys.executable, '-m', 'coverage', *arguments], cwd=ROOT, check=False).returncode


def measure(tests: list[str]) -> int:
    """Run the tests and write both files of data; return pytest's exit code."""
    for old in (DATA, AGENT_DATA, AGENT_LINES, *ROOT.glob('.coverage.*')):
        old.unlink(missing_ok=True)
    chosen = ['-q', '-n', '4', '-p', 'tests.support.agent_lines', '-m', 'not docker', *(tests or TESTS)]
    environment = {**os.environ, 'AGENT_LINES': str(AGENT_LINES)}
    command = [sys.executable, '-m', 'coverage', 'run', '-m', 'pytest', *chosen]
    exit_code = subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode
    coverage('combine', '--quiet')

    from coverage import CoverageData

    sys.path.insert(0, str(ROOT))
    from tests.support.agent_lines import read_lines

    here = CoverageData(str(DATA))
    here.read()
    executed = read_lines(AGENT_LINES)
    data = CoverageData(str(AGENT_DATA))
    data.add_lines({str(AGENT): {*executed, *(here.lines(str(AGENT)) or ())}})
    data.write()
    return exit_code


def main() -> int:
    """Measure and report; return 1 where a floor is not held."""
    exit_code = measure(sys.argv[1:])
    if exit_code not in (0, 1):
        return exit_code
    settings = configparser.ConfigParser()
    settings.read(ROOT / 'setup.cfg')
    agent_floor = settings['tool:coverage-of-the-agent']['fail_under']
    print('==> All but the agent, by lines and branches')
    failed = coverage('report', '--omit', f'{AGENT},*/enclave/testing/suite/*', '--skip-covered')
    print('==> The agent, by lines')
    failed |= coverage('report', '--data-file', str(AGENT_DATA), '--include', str(AGENT), '--fail-under', agent_floor)
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
