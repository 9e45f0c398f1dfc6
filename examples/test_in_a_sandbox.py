"""Tests with a sandbox each, by the plug-in that comes with this package.

Needs ``pip install pytest``. Run with: pytest examples/test_in_a_sandbox.py --sandbox-type docker
"""

from __future__ import annotations

import pytest


def test_a_program_prints(sandbox):
    assert sandbox.run_code('print(6 * 7)').stdout == '42\n'


@pytest.mark.sandbox(network_enabled=False, memory_limit='128m')
def test_a_sandbox_with_options(sandbox):
    assert sandbox.run_code('len(bytearray(10**9))').run.oom_killed


if __name__ == '__main__':
    raise SystemExit(pytest.main([__file__, '-q', '-p', 'no:cacheprovider', '-o', 'addopts=']))
