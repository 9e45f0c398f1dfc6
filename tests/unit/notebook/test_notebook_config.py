from __future__ import annotations

from typing import Any

import pytest

from enclave.errors import ConfigurationError
from enclave.sandboxes.docker.notebook_config import DockerNotebookConfig


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
        ({'interrupt_grace': -1}, 'interrupt_grace'),
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
    assert config.shown()['token'] == '***'
    with pytest.raises(ConfigurationError) as caught:
        DockerNotebookConfig(token='hunter2 x')
    assert 'hunter2' not in str(caught.value)
