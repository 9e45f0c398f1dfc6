"""What notebook sandboxes in Docker alone have: the kernel gateway, images, users."""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from enclave.errors import SandboxStartError
from enclave.sandboxes.docker import notebook
from enclave.sandboxes.docker.docker_notebook_config import NOTEBOOK_IMAGE
from enclave.sandboxes.docker.engine import Engine
from enclave.sandboxes.docker.notebook import DockerNotebookSandbox
from enclave.sandboxes.images.catalog import ImageRecipe, find_image, load_recipe

pytestmark = pytest.mark.docker


def test_a_gateway_is_published_on_loopback_and_wants_its_token() -> None:
    with DockerNotebookSandbox({'port': 0}) as sandbox:
        url, token = sandbox.gateway_url, sandbox.gateway_token
        assert url is not None
        assert url.startswith('http://127.0.0.1:')
        assert sandbox.get_info().metadata['gateway'] == {'url': url, 'token': token}
        headers = {'Authorization': f'token {token}'}

        assert requests.post(f'{url}/api/kernels', timeout=30).status_code in (401, 403)
        assert requests.get(f'{url}/api/kernels', timeout=30).status_code in (401, 403)
        made = requests.post(f'{url}/api/kernels', headers=headers, timeout=30)
        listed = requests.get(f'{url}/api/kernels', headers=headers, timeout=30).json()

        assert made.status_code == 201
        assert [each['id'] for each in listed] == [made.json()['id']]
        assert sandbox.execute_cell('1+1').text == '2'
        assert sandbox.active_calls == 0
        assert token not in sandbox.execute_command('cat /proc/[0-9]*/cmdline | tr "\\0" " "').stdout


@pytest.mark.parametrize('options', [{'user': '1000'}, {'read_only': True}])
def test_a_gateway_needs_no_home_directory_to_write_to(options: dict[str, Any]) -> None:
    with DockerNotebookSandbox({'port': 0, **options}) as sandbox:
        headers = {'Authorization': f'token {sandbox.gateway_token}'}
        assert requests.post(f'{sandbox.gateway_url}/api/kernels', headers=headers, timeout=30).status_code == 201


def test_a_gateway_has_the_token_that_was_given() -> None:
    with DockerNotebookSandbox({'ports': {'8888/tcp': ('127.0.0.1', None)}, 'token': 'my-token'}) as sandbox:
        answer = requests.get(
            f'{sandbox.gateway_url}/api/kernels', headers={'Authorization': 'token my-token'}, timeout=30
        )

        assert answer.status_code == 200
        assert sandbox.get_info().config['token'] == '***'


def test_an_image_whose_own_command_is_the_gateway_works_beside_it(engine: Engine) -> None:
    found = engine.api.inspect_image(NOTEBOOK_IMAGE)
    command = found['Config']['Cmd']
    assert command[:2] == ['jupyter', 'kernelgateway']

    with DockerNotebookSandbox({'command': command, 'network_enabled': False}) as sandbox:
        assert sandbox.execute_cell('1+1').text == '2'
        main = sandbox.read_file('/proc/1/cmdline')
        assert b'kernelgateway' in main


@pytest.fixture
def recipe(tmp_path: Path, engine: Engine) -> Iterator[ImageRecipe]:
    """A recipe of an image that is not there, quickly made from the one that is."""
    name = f'enclave-test-{uuid.uuid4().hex[:10]}'
    facts = {'name': name, 'image': name, 'version': '1', 'description': 'for a test'}
    folder = tmp_path / name
    folder.mkdir()
    (tmp_path / 'add_host_ca.py').write_text('')  # which a build takes along from beside its recipe
    (folder / 'recipe.json').write_text(json.dumps({**facts, 'method': 'dockerfile', 'base': NOTEBOOK_IMAGE}))
    (folder / 'Dockerfile').write_text('ARG BASE\nFROM ${BASE}\nENV MADE_BY_TEST=yes\n')
    yield load_recipe(folder)
    if find_image(engine, name) is not None:
        engine.api.remove_image(name, force=True)


def test_a_missing_image_is_built_once_for_all_that_want_it(
    recipe: ImageRecipe, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(notebook, 'find_recipe', lambda name: recipe if name == recipe.image else None)
    sandboxes = [DockerNotebookSandbox({'image': recipe.image, 'network_enabled': False}) for _ in range(2)]

    with caplog.at_level(logging.INFO), ThreadPoolExecutor() as pool:
        try:
            list(pool.map(DockerNotebookSandbox.start, sandboxes))
            texts = [each.execute_cell("import os\nos.environ['MADE_BY_TEST']").text for each in sandboxes]
        finally:
            for each in sandboxes:
                each.stop()

    assert texts == ["'yes'", "'yes'"]
    assert caplog.text.count('built the image') == 1


def test_an_image_without_ipykernel_says_what_to_do_and_leaves_nothing() -> None:
    sandbox = DockerNotebookSandbox({'image': 'python:3.11-slim', 'network_enabled': False})

    with pytest.raises(SandboxStartError, match='needs ipykernel'):
        sandbox.start()
    assert not sandbox.backend.container


def test_a_user_who_is_not_root_and_a_read_only_root_work() -> None:
    config = {'network_enabled': False, 'user': '1000:1000', 'read_only': True, 'env_vars': {'HOME': '/tmp'}}
    with DockerNotebookSandbox(config) as sandbox:
        assert sandbox.execute_cell('import os\nos.getuid()').text == '1000'
