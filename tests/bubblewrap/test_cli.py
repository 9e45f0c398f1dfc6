"""The command line where no engine answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys

NO_ENGINE = {'DOCKER_HOST': 'tcp://127.0.0.1:1'}


def ms_enclave(*arguments: str) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith(('ENCLAVE_', 'DOCKER_'))}
    command = [sys.executable, '-m', 'enclave.cli', *arguments]
    return subprocess.run(
        command,
        env={**env, **NO_ENGINE},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_kind_that_was_chosen_is_told_with_the_reason() -> None:
    done = ms_enclave('run', '-c', 'print(1)')
    assert done.stdout == '1\n', done.stderr
    assert 'a bubblewrap sandbox, since no Docker engine answers' in done.stderr


def test_in_a_record_too() -> None:
    done = ms_enclave('run', '--json', '-c', 'print(1)')
    record = json.loads(done.stdout)
    assert (record['stdout'], record['sandbox_type']) == ('1\n', 'bubblewrap')
    assert record['chosen_because'].startswith('no Docker engine answers')
    assert done.stderr == ''

    record = json.loads(ms_enclave('run', '--json', '--type', 'bubblewrap', '-c', 'print(1)').stdout)
    assert (record['sandbox_type'], record['chosen_because']) == ('bubblewrap', None)
