"""The fixture that this package gives to the tests of its users, in a pytest of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = """
import pytest

def test_it_runs(sandbox):
    assert sandbox.run_code('print(6 * 7)').stdout == '42\\n'
    sandbox.write_file('left', b'behind')

def test_each_has_its_own(sandbox):
    assert not sandbox.path_exists('left')

@pytest.mark.sandbox(memory_limit='64m')
class TestLittle:
    @pytest.mark.sandbox(timeout=3)
    def test_options_add_up(self, sandbox):
        config = sandbox.get_info().config
        assert (config['memory_limit'], config['timeout']) == ('64m', 3.0)

    @pytest.mark.sandbox(memory_limit='96m')
    def test_the_nearest_counts(self, sandbox):
        assert sandbox.get_info().config['memory_limit'] == '96m'
"""


# Of other packages, which these tests do not need and which take a second or two to import.
OTHERS = [word for name in ('schemathesis', 'hypothesispytest', 'anyio', 'xdist') for word in ('-p', f'no:{name}')]


def run(folder: Path, *options: str, text: str = TESTS, **environment: str) -> subprocess.CompletedProcess[str]:
    (folder / 'test_mine.py').write_text(text)
    given = {name: value for name, value in os.environ.items() if name not in ('CI', 'ENCLAVE_TYPE', 'ENCLAVE_URL')}
    command = [
        sys.executable,
        '-m',
        'pytest',
        '-q',
        '-p',
        'no:cacheprovider',
        *OTHERS,
        '-rs',
        '--strict-markers',
        *options,
    ]
    return subprocess.run(
        command, cwd=folder, env={**given, **environment}, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    'kind',
    [
        pytest.param('docker', marks=pytest.mark.docker),
        pytest.param('bubblewrap', marks=pytest.mark.bubblewrap),
    ],
)
def test_each_test_has_a_fresh_sandbox_of_the_kind_that_is_asked_for(tmp_path: Path, kind: str) -> None:
    text = TESTS + f'\ndef test_the_kind(sandbox):\n    assert sandbox.sandbox_type == {kind!r}\n'

    done = run(tmp_path, f'--sandbox-type={kind}', text=text)

    assert '5 passed' in done.stdout, done.stdout


@pytest.mark.bubblewrap
def test_the_kind_may_stand_in_the_configuration_in_the_environment_and_at_the_test(tmp_path: Path) -> None:
    (tmp_path / 'pytest.ini').write_text('[pytest]\nsandbox_type = bubblewrap\n')
    assert '4 passed' in run(tmp_path, DOCKER_HOST='unix:///nonexistent').stdout
    (tmp_path / 'pytest.ini').write_text('[pytest]\n')
    assert '4 passed' in run(tmp_path, DOCKER_HOST='unix:///nonexistent', ENCLAVE_TYPE='bubblewrap').stdout
    named = 'import pytest\n@pytest.mark.sandbox("bubblewrap")\ndef test_it(sandbox): pass\n'
    assert '1 passed' in run(tmp_path, '--sandbox-type=docker', text=named, DOCKER_HOST='unix:///nonexistent').stdout


def test_without_an_engine_tests_are_skipped_and_fail_where_that_would_be_no_success(tmp_path: Path) -> None:
    text = 'def test_it(sandbox): pass\n'
    skipped = run(tmp_path, '--sandbox-type=docker', text=text, DOCKER_HOST='unix:///nonexistent')
    required = run(
        tmp_path, '--sandbox-type=docker', '--sandbox-required', text=text, DOCKER_HOST='unix:///nonexistent'
    )
    in_ci = run(tmp_path, '--sandbox-type=docker', text=text, DOCKER_HOST='unix:///nonexistent', CI='true')

    assert '1 skipped' in skipped.stdout
    assert 'ms-enclave doctor' in skipped.stdout
    assert '1 error' in required.stdout
    assert '1 error' in in_ci.stdout


def test_a_wrong_kind_or_option_fails_with_its_message_alone(tmp_path: Path) -> None:
    text = """
import pytest

def test_of_an_unknown_kind(sandbox): ...

@pytest.mark.sandbox('docker', memory_limits='1g')
def test_of_an_unknown_option(sandbox): ...
"""
    done = run(tmp_path, '--sandbox-type', 'bublewrap', text=text)

    assert done.returncode == 1, done.stdout
    assert "did you mean 'bubblewrap'?" in done.stdout
    assert "did you mean 'memory_limit'?" in done.stdout
    assert 'raise ' not in done.stdout


def test_the_plugin_loads_nothing_heavy_until_a_sandbox_is_asked_for(tmp_path: Path) -> None:
    text = 'import sys\ndef test_it():\n    assert not {"enclave.sandboxes", "enclave.records"} & set(sys.modules)\n'

    assert '1 passed' in run(tmp_path, text=text).stdout
