"""Which kind of sandbox is taken where nobody says."""

from __future__ import annotations

from typing import Any

import pytest

from enclave.config import SandboxConfig
from enclave.enums import SandboxType
from enclave.errors import EngineUnavailableError, NotRegisteredError, UnsupportedError
from enclave.sandboxes import choice
from enclave.sandboxes.bubblewrap.bubblewrap_config import BubblewrapSandboxConfig
from enclave.sandboxes.bubblewrap.bubblewrap_notebook_config import BubblewrapNotebookConfig
from enclave.sandboxes.choice import Choice, choose, choose_backend, choose_for, kind_of, notebook_type
from enclave.sandboxes.docker.docker_config import DockerSandboxConfig
from enclave.sandboxes.docker.docker_notebook_config import DockerNotebookConfig
from enclave.sandboxes.sandbox_factory import SandboxFactory


def works() -> None:
    pass


def no_engine() -> None:
    raise EngineUnavailableError('nothing listens at /run/docker.sock. Start it')


def no_bubblewrap() -> None:
    raise UnsupportedError('bwrap is not installed. Install it')


def test_docker_comes_first() -> None:
    assert choose(works, no_bubblewrap) == Choice(SandboxType.DOCKER, 'a Docker engine answers')


def test_bubblewrap_stands_in_for_an_absent_engine() -> None:
    found = choose(no_engine, works)
    assert found.sandbox_type is SandboxType.BUBBLEWRAP
    assert 'nothing listens at /run/docker.sock' in found.reason


def test_where_neither_works_both_reasons_are_reported() -> None:
    found = choose(no_engine, no_bubblewrap)
    assert found.sandbox_type is SandboxType.DOCKER
    assert 'nothing listens' in found.reason
    assert 'bwrap is not installed' in found.reason


@pytest.mark.parametrize(
    ('config', 'kind'),
    [
        (DockerSandboxConfig(), SandboxType.DOCKER),
        (DockerNotebookConfig(), SandboxType.DOCKER_NOTEBOOK),
        (BubblewrapSandboxConfig(), SandboxType.BUBBLEWRAP),
        (BubblewrapNotebookConfig(), SandboxType.BUBBLEWRAP_NOTEBOOK),
        (SandboxConfig(), None),
        ({'image': 'x'}, None),
        (None, None),
    ],
)
def test_the_class_of_a_configuration_reports_its_kind(config: Any, kind: SandboxType | None) -> None:
    assert kind_of(config) is kind


@pytest.mark.parametrize(
    ('config', 'kind'),
    [
        (DockerSandboxConfig(), SandboxType.DOCKER),
        (BubblewrapSandboxConfig(), SandboxType.BUBBLEWRAP),
        ({'image': 'python:3.12', 'timeout': 5}, SandboxType.DOCKER),
        ({'rootfs': '/srv', 'timeout': 5}, SandboxType.BUBBLEWRAP),
        (DockerNotebookConfig(), SandboxType.DOCKER_NOTEBOOK),
        (BubblewrapNotebookConfig(), SandboxType.BUBBLEWRAP_NOTEBOOK),
        ({'port': 0}, SandboxType.DOCKER_NOTEBOOK),
        ({'rootfs': '/srv', 'kernel_name': 'ir'}, SandboxType.BUBBLEWRAP_NOTEBOOK),
        ({'image': 'x', 'tools_config': ['notebook_executor']}, SandboxType.DOCKER_NOTEBOOK),
        (BubblewrapSandboxConfig(tools_config=['notebook_executor']), SandboxType.BUBBLEWRAP_NOTEBOOK),
    ],
)
def test_a_word_of_one_kind_decides(config: Any, kind: SandboxType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, 'choose_backend', lambda: pytest.fail('nobody should be asked'))
    assert choose_for(config).sandbox_type is kind


@pytest.mark.parametrize('config', [None, {}, {'timeout': 5}, SandboxConfig()])
def test_a_plain_configuration_leaves_it_to_the_machine(config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, 'choose_backend', lambda: Choice(SandboxType.BUBBLEWRAP, 'because'))

    sandbox = SandboxFactory.create_sandbox(config=config)

    assert sandbox.sandbox_type is SandboxType.BUBBLEWRAP
    assert sandbox.get_info().metadata['chosen_because'] == 'because'


@pytest.mark.parametrize(
    'config',
    [
        {'tools_config': ['notebook_executor']},
        {'tools_config': {'notebook_executor': {'timeout': 5}}},
        {'interrupt_grace': 1},
        SandboxConfig(tools_config=['notebook_executor']),
    ],
)
@pytest.mark.parametrize(
    ('general', 'kind'),
    [
        (SandboxType.DOCKER, SandboxType.DOCKER_NOTEBOOK),
        (SandboxType.BUBBLEWRAP, SandboxType.BUBBLEWRAP_NOTEBOOK),
    ],
)
def test_who_wants_a_notebook_gets_the_backends_own(
    config: Any, general: SandboxType, kind: SandboxType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, 'choose_backend', lambda: Choice(general, 'of the machine'))

    sandbox = SandboxFactory.create_sandbox(config=config)

    assert sandbox.sandbox_type is kind
    because = sandbox.get_info().metadata['chosen_because']
    assert because.endswith(', and of the machine')
    assert 'notebook' in because


def test_a_notebook_that_is_asked_for_needs_no_sign(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, 'choose_backend', lambda: Choice(SandboxType.BUBBLEWRAP, 'because'))

    assert choose_for({'timeout': 5}, notebook=True) == Choice(SandboxType.BUBBLEWRAP_NOTEBOOK, 'because')
    assert choose_for({'image': 'x'}, notebook=True).sandbox_type is SandboxType.DOCKER_NOTEBOOK


def test_other_tools_beside_the_notebooks_make_a_general_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, 'choose_backend', lambda: Choice(SandboxType.DOCKER, 'because'))

    assert choose_for({'tools_config': ['notebook_executor', 'shell_executor']}).sandbox_type is SandboxType.DOCKER


@pytest.mark.parametrize(
    ('name', 'kind'),
    [
        ('docker', 'docker_notebook'),
        ('bubblewrap', 'bubblewrap_notebook'),
        ('bubblewrap_notebook', 'bubblewrap_notebook'),
        ('my_kind', 'my_kind'),
    ],
)
def test_a_backends_name_stands_for_its_notebooks(name: str, kind: str) -> None:
    assert notebook_type(name) == kind


def test_the_machine_is_not_asked_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def once() -> Choice:
        asked.append(1)
        return Choice(SandboxType.DOCKER, 'x')

    monkeypatch.setattr(choice, '_chosen', None)
    monkeypatch.setattr(choice, 'choose', once)
    assert choose_backend() == choose_backend()
    assert len(asked) == 1


def test_the_environment_names_the_kind_where_nobody_else_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, 'choose_backend', lambda: pytest.fail('there is nothing to choose'))
    monkeypatch.setenv('ENCLAVE_TYPE', 'bubblewrap')

    assert choice.is_settled(None)
    chosen = choice.choose_for({'memory_limit': '64m'})
    assert (chosen.sandbox_type, chosen.reason) == (SandboxType.BUBBLEWRAP, 'ENCLAVE_TYPE names it')
    assert choice.choose_for(None, notebook=True).sandbox_type is SandboxType.BUBBLEWRAP_NOTEBOOK
    assert choice.choose_for({'image': 'python:3.11-slim'}).sandbox_type is SandboxType.DOCKER
    monkeypatch.setenv('ENCLAVE_TYPE', 'docker_notebook')
    assert choice.choose_for(None).sandbox_type is SandboxType.DOCKER_NOTEBOOK
    assert choice.choose_for(None, notebook=True).sandbox_type is SandboxType.DOCKER_NOTEBOOK


def test_a_kind_that_the_environment_misspells_is_refused_with_a_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('ENCLAVE_TYPE', 'buble_wrap')

    with pytest.raises(NotRegisteredError, match="did you mean 'bubblewrap'"):
        SandboxFactory.create_sandbox()
