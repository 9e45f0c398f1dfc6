"""The command line where no engine answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

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
        timeout=600,
        check=False,
    )


def test_the_kind_that_was_chosen_is_reported_with_the_reason() -> None:
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


def test_programs_run_over_a_pool_with_their_inputs_each_in_a_fresh_sandbox(tmp_path: Path) -> None:
    (tmp_path / 'double.py').write_text("open('/sandbox/left', 'a').close()\nprint(int(input()) * 2)")
    for name, given, expected in (('a', '21', '42'), ('b', '1', '3')):
        (tmp_path / f'double.{name}.in').write_text(given)
        (tmp_path / f'double.{name}.out').write_text(f'{expected}\n')
    (tmp_path / 'look.sh').write_text('ls /sandbox | grep -c left')
    (tmp_path / 'look.out').write_text('0')
    report = tmp_path / 'report.xml'

    done = ms_enclave(
        'pool', 'run', '--type', 'bubblewrap', '--json', '--report', str(report), '--size', '1', str(tmp_path)
    )

    outcomes = [json.loads(line) for line in done.stdout.splitlines()]
    found = {(Path(each['path']).name, each['case']): each['verdict'] for each in outcomes}
    assert done.returncode == 1
    assert found == {
        ('double.py', 'a'): 'accepted',
        ('double.py', 'b'): 'wrong_answer',
        ('look.sh', None): 'runtime_error',  # grep's exit code, since nothing was left
    }
    assert outcomes[-1]['result']['output'] == '0\n'
    assert 'failures="2"' in report.read_text()
