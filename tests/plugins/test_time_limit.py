"""The limit on the time of this project's own tests, in a pytest of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CONFIGURATION = """
from tests.support import time_limit

time_limit.AGAIN, time_limit.LAST = 0.2, 1.0
"""
TESTS = """
import threading
import pytest

def hang():
    threading.Event().wait(600)

@pytest.fixture
def hangs():
    hang()

@pytest.fixture
def hangs_at_its_end():
    yield
    hang()

@pytest.mark.time_limit(0.2)
def test_set_up(hangs):
    pass

@pytest.mark.time_limit(0.2)
def test_end(hangs_at_its_end):
    pass

@pytest.mark.time_limit(0.2)
def test_join():
    thread = threading.Thread(target=hang, name='other', daemon=True)
    thread.start()
    thread.join()

@pytest.mark.time_limit(0.2)
def test_no_exception_ends_it():
    while True:
        try:
            hang()
        except BaseException:
            pass

def test_after_them():
    pass
"""


def test_what_hangs_fails_with_all_stacks_and_the_other_tests_run(tmp_path: Path) -> None:
    (tmp_path / 'conftest.py').write_text(CONFIGURATION)
    (tmp_path / 'test_hanging.py').write_text(TESTS)
    given = {name: value for name, value in os.environ.items() if name != 'TEST_SECONDS'}
    environment = {**given, 'PYTHONPATH': str(ROOT), 'PYTEST_DISABLE_PLUGIN_AUTOLOAD': '1'}
    plugins = ['-p', 'no:cacheprovider', '-p', 'xdist', '-p', 'tests.support.time_limit']
    command = [sys.executable, '-m', 'pytest', '-rA', '-n', '1', *plugins]

    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    lines = done.stdout.splitlines()
    assert [line.split(' - ')[0] for line in lines if line.startswith(('PASSED', 'ERROR', 'FAILED'))] == [
        'PASSED test_hanging.py::test_end',
        'PASSED test_hanging.py::test_after_them',
        'ERROR test_hanging.py::test_set_up',
        'ERROR test_hanging.py::test_end',
        'FAILED test_hanging.py::test_join',
        'FAILED test_hanging.py::test_no_exception_ends_it',
    ], done.stdout
    assert 'the set-up took more than 0.2 seconds' in done.stdout
    assert 'the end took more than 0.2 seconds' in done.stdout
    assert 'Thread other:' in done.stdout
    assert 'in test_no_exception_ends_it' in done.stderr
