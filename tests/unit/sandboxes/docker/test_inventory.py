from __future__ import annotations

import json
import subprocess
import sys

import pytest

from enclave.sandboxes.docker.inventory import _cpu_percent, _moment, _ownership, enforced_config
from enclave.sandboxes.docker.sweep import LABEL_KEPT
from enclave.sandboxes.owner import LABEL_HOST, LABEL_PID, LABEL_STARTED, current_owner


def dead_owner() -> dict[str, str]:
    """Return the labels of a process of this machine that has ended."""
    program = (
        'from enclave.sandboxes.owner import current_owner; import json; print(json.dumps(current_owner().labels()))'
    )
    done = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True, check=True)
    labels: dict[str, str] = json.loads(done.stdout)
    return labels


def test_owner_of_this_process_is_alive() -> None:
    facts = _ownership(current_owner().labels())

    assert facts['owner']['alive'] is (True if current_owner().started else None)
    assert facts['is_orphan'] is False


@pytest.mark.processes
@pytest.mark.skipif(not current_owner().started, reason='this system does not say when a process started')
def test_sandbox_of_a_dead_owner_is_an_orphan_unless_it_was_to_be_kept() -> None:
    labels = dead_owner()

    assert _ownership(labels)['owner']['alive'] is False
    assert _ownership(labels)['is_orphan'] is True
    assert _ownership({**labels, LABEL_KEPT: '1'})['is_orphan'] is False


def test_nothing_is_said_of_owners_elsewhere() -> None:
    facts = _ownership({LABEL_HOST: 'other/boot/space', LABEL_PID: '1', LABEL_STARTED: '5'})

    assert facts == {'owner': {'host': 'other', 'pid': 1, 'alive': None}, 'kept': False, 'is_orphan': False}
    assert _ownership({}) == {'owner': None, 'kept': False, 'is_orphan': False}


def test_times_of_the_engine_are_read_and_its_year_one_is_never() -> None:
    moment = _moment('2024-05-06T07:08:09.123456789Z')

    assert moment is not None
    assert moment.isoformat() == '2024-05-06T07:08:09+00:00'
    assert _moment('0001-01-01T00:00:00Z') is None
    assert _moment('') is None
    assert _moment('nonsense') is None


def test_cpu_is_of_one_processor_and_unknown_without_two_samples() -> None:
    def sample(spent: int, passed: int) -> dict[str, object]:
        return {'cpu_usage': {'total_usage': spent}, 'system_cpu_usage': passed, 'online_cpus': 4}

    assert _cpu_percent({'cpu_stats': sample(150, 2000), 'precpu_stats': sample(50, 1000)}) == 40.0
    assert _cpu_percent({'cpu_stats': sample(150, 2000), 'precpu_stats': {'cpu_usage': {'total_usage': 0}}}) is None


def test_what_the_engine_enforces_is_reported_in_the_words_of_the_configuration() -> None:
    facts = enforced_config(
        {
            'Config': {'Image': 'debian', 'WorkingDir': '', 'User': '', 'Env': ['A=secret', 'B=']},
            'HostConfig': {'NetworkMode': 'none', 'Memory': 0, 'NanoCpus': 500000000, 'PidsLimit': -1},
            'Mounts': [
                {'Type': 'bind', 'Source': '/a', 'Destination': '/b', 'RW': False},
                {'Type': 'volume', 'Source': 'x', 'Destination': '/c', 'RW': True},
            ],
        }
    )

    assert facts['working_dir'] == '/'
    assert facts['network_enabled'] is False
    assert (facts['memory_limit'], facts['cpu_limit'], facts['pids_limit']) == (None, 0.5, None)
    assert facts['env_vars'] == {'A': '***', 'B': '***'}
    assert facts['volumes'] == {'/a': {'bind': '/b', 'mode': 'ro'}}
