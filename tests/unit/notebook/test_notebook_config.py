from __future__ import annotations

from typing import Any

import pytest

from enclave.config import SandboxConfig
from enclave.errors import ConfigurationError
from enclave.sandboxes.bubblewrap.bubblewrap_notebook_config import BubblewrapNotebookConfig
from enclave.sandboxes.docker.docker_notebook_config import DockerNotebookConfig


def test_no_gateway_unless_it_is_asked_for() -> None:
    config = DockerNotebookConfig(ports={'5000/tcp': None})

    assert config.image == 'jupyter-kernel-gateway'
    assert not config.has_gateway


@pytest.mark.parametrize(
    ('options', 'binding'),
    [
        ({'port': 8888}, ('127.0.0.1', 8888)),
        ({'port': 0}, ('127.0.0.1', None)),
        ({'token': 'secret'}, ('127.0.0.1', None)),
        ({'host': '0.0.0.0', 'port': 9}, ('0.0.0.0', 9)),
        ({'ports': {'8888/tcp': ('127.0.0.1', 8890)}}, ('127.0.0.1', 8890)),
        ({'ports': {'8888/tcp': ('0.0.0.0', 1)}, 'port': 1}, ('0.0.0.0', 1)),
    ],
)
def test_a_gateway_goes_where_the_options_say(options: dict[str, Any], binding: tuple[str, int | None]) -> None:
    config = DockerNotebookConfig(**options)

    assert config.has_gateway
    assert config.gateway_binding == binding


@pytest.mark.parametrize(
    ('options', 'word'),
    [
        ({'port': 8888, 'network_enabled': False}, 'network_enabled'),
        ({'port': 1, 'ports': {'8888/tcp': ('127.0.0.1', 2)}}, 'port'),
        ({'host': '0.0.0.0', 'ports': {'8888/tcp': ('127.0.0.1', 2)}}, 'host'),
        ({'port': 70000}, 'port'),
        ({'token': 'with space'}, 'token'),
        ({'token': ''}, 'token'),
        ({'token': 'x' * 4097}, 'token'),
        ({'image': ''}, 'image'),
        ({'tokn': 'x'}, 'token'),
    ],
)
def test_what_cannot_be_is_refused_with_the_options_name(options: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigurationError, match=word):
        DockerNotebookConfig(**options)


def test_a_token_is_never_shown() -> None:
    config = DockerNotebookConfig(token='hunter2')

    assert 'hunter2' not in repr(config)
    assert config.redacted()['token'] == '***'
    with pytest.raises(ConfigurationError) as caught:
        DockerNotebookConfig(token='hunter2 x')
    assert 'hunter2' not in str(caught.value)


BOTH = pytest.mark.parametrize('config_class', [DockerNotebookConfig, BubblewrapNotebookConfig])


@BOTH
def test_the_words_of_notebooks_are_those_of_every_backend(config_class: type[SandboxConfig]) -> None:
    config = config_class.model_validate({'kernel_name': 'ir', 'interrupt_grace': 0, 'max_display_bytes': 4096})

    assert config.model_dump()['kernel_name'] == 'ir'
    assert config_class.model_validate_json(config.model_dump_json()) == config
    with pytest.raises(AttributeError):
        config.kernel_name = 'python3'  # type: ignore[attr-defined]


@BOTH
@pytest.mark.parametrize(
    ('options', 'word'),
    [
        ({'interrupt_grace': -1}, 'interrupt_grace'),
        ({'interrupt_grace': True}, 'interrupt_grace'),
        ({'max_display_bytes': 10}, 'max_display_bytes'),
        ({'kernel_name': None}, 'kernel_name'),
        ({'kernel_nam': 'x'}, "did you mean 'kernel_name'"),
    ],
)
def test_their_impossible_values_are_refused_by_every_backend(
    config_class: type[SandboxConfig], options: dict[str, Any], word: str
) -> None:
    with pytest.raises(ConfigurationError, match=word):
        config_class.model_validate(options)


def test_what_hides_the_named_python_is_refused() -> None:
    with pytest.raises(ConfigurationError, match='rootfs'):
        BubblewrapNotebookConfig(rootfs='/srv', python='/usr/bin/python3')
    with pytest.raises(ConfigurationError, match='no option'):
        BubblewrapNotebookConfig(port=0)
