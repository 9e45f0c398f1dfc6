from __future__ import annotations

import importlib.util
import io
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / 'scripts' / 'setup_engine.py'


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module, on a machine where nobody has said anything."""
    for name in ('CI', 'ENCLAVE_SETUP_ENGINE', 'DOCKER_HOST', 'DOCKER_CONTEXT'):
        monkeypatch.delenv(name, raising=False)
    spec = importlib.util.spec_from_file_location('setup_engine', SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ('environment', 'agreed'),
    [
        ({'CI': 'true'}, True),
        ({'ENCLAVE_SETUP_ENGINE': '1'}, True),
        ({'ENCLAVE_SETUP_ENGINE': '0'}, False),
        ({'CI': 'true', 'ENCLAVE_SETUP_ENGINE': '0'}, False),
        ({}, False),
    ],
)
def test_consent_is_ci_or_a_variable_and_never_assumed(
    script: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    environment: dict[str, str],
    agreed: bool,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, 'stdin', io.StringIO())

    assert script.consent('An engine can be set up', ['start dockerd']) is agreed
    assert '- start dockerd' in capsys.readouterr().out


def test_engine_that_somebody_else_runs_is_never_set_up(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('CI', 'true')
    monkeypatch.setenv('DOCKER_HOST', f'unix://{tmp_path}/nothing.sock')

    with pytest.raises(script.SetUpError, match='unset DOCKER_HOST'):
        script.ensure_engine()


def test_pid_file_left_by_an_engine_that_is_gone_is_removed(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stale = tmp_path / 'docker.pid'
    stale.write_text(str(os.getpid()))
    monkeypatch.setattr(script, 'sudo', list)

    script.remove_stale(stale, 'dockerd')

    assert not stale.exists()


def test_failed_step_shows_the_end_of_its_log(script: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(script.SetUpError, match=r'exit code 3:\nno space left'):
        script.watch(['sh', '-c', 'echo no space left; exit 3'], tmp_path / 'log')


def test_step_that_leaves_a_daemon_behind_does_not_hold_the_caller(script: ModuleType, tmp_path: Path) -> None:
    log = tmp_path / 'log'

    script.watch(['sh', '-c', 'sleep 60 & echo $!'], log)

    os.kill(int(log.read_text()), 9)
