"""What an image runs by itself, with our agent beside it."""

from __future__ import annotations

import contextlib
import io
import urllib.request
from collections.abc import Iterator

import pytest

from enclave import DockerSandboxConfig, SandboxFactory
from enclave.errors import ConfigurationError, SandboxStartError
from enclave.sandboxes.docker.engine import get_engine

pytestmark = pytest.mark.docker

SERVICE = 'enclave-test-service'


@pytest.fixture(scope='module')
def service() -> Iterator[str]:
    recipe = b'FROM python:3.11-slim\nENTRYPOINT ["env", "A=1"]\nCMD ["python", "-m", "http.server", "8000"]\n'
    for _ in get_engine().api.build(fileobj=io.BytesIO(recipe), tag=SERVICE, rm=True, decode=True):
        pass
    yield SERVICE
    with contextlib.suppress(Exception):
        get_engine().api.remove_image(SERVICE, force=True)


def main_of(config: DockerSandboxConfig) -> str:
    with SandboxFactory.create_sandbox('docker', config) as sandbox:
        return sandbox.execute_command("tr '\\0' ' ' < /proc/1/cmdline").stdout


def test_a_service_image_serves_and_takes_commands(service: str) -> None:
    config = DockerSandboxConfig(image=service, run_image_command=True, ports={'8000': None})

    with SandboxFactory.create_sandbox('docker', config) as sandbox:
        address, port = sandbox.get_published_ports()['8000/tcp']
        answered = False
        while not answered:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f'http://{address}:{port}/', timeout=30).close()
                answered = True
        assert sandbox.execute_command('echo beside').stdout == 'beside\n'


def test_an_image_that_only_waits_for_somebody_to_type_has_the_agent_as_its_main_process() -> None:
    assert main_of(DockerSandboxConfig(run_image_command=True)).startswith('python3 -I -S -c')


def test_an_entry_point_is_replaced_and_cleared(service: str) -> None:
    assert main_of(DockerSandboxConfig(image=service, entrypoint=[], command=['sleep', '9999'])) == 'sleep 9999 '
    assert main_of(DockerSandboxConfig(image=service, entrypoint='sleep', command=['9999'])) == 'sleep 9999 '


def test_a_bare_shell_stays_with_a_terminal_and_ends_without() -> None:
    assert main_of(DockerSandboxConfig(command=['bash'], tty=True)) == 'bash '
    with pytest.raises(SandboxStartError, match='did not stay'):
        main_of(DockerSandboxConfig(command=['bash']))


@pytest.mark.parametrize(
    'options', [{'command': 'x', 'run_image_command': True}, {'entrypoint': ['x']}, {'tty': True}, {'entrypoint': ['']}]
)
def test_options_that_do_not_go_together_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError):
        DockerSandboxConfig(**options)  # type: ignore[arg-type]
