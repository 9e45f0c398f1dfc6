"""Notebook sandboxes that are Docker containers (layer 4): kernels without a port, and a gateway where one is asked for."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, cast

from enclave.cancellation import is_cancelled
from enclave.deadline import Deadline
from enclave.enums import SandboxType
from enclave.errors import (
    CallCancelledError,
    ImageNotFoundError,
    OperationTimeoutError,
    SandboxPathError,
    SandboxPathNotFoundError,
    SandboxStartError,
)
from enclave.sandboxes.agent_operations import AgentOperations
from enclave.sandboxes.backend import Backend, SandboxSpec
from enclave.sandboxes.docker.backend import DockerBackend
from enclave.sandboxes.docker.docker_notebook_config import GATEWAY_PORT, DockerNotebookConfig
from enclave.sandboxes.docker.engine import Engine
from enclave.sandboxes.docker.sandbox import DockerSandbox
from enclave.sandboxes.images.catalog import ImageRecipe, Progress, find_image, find_recipe
from enclave.sandboxes.notebook.sandbox import NotebookSandbox, agent_of
from enclave.sandboxes.operations import Operations
from enclave.sandboxes.process import Process
from enclave.verb_requests import StartProcess

logger = logging.getLogger(__name__)

GATEWAY_SECONDS = 60.0
"""How long a gateway may take to answer."""
_RETRY_INTERVAL = 0.1
_REPORT_INTERVAL = 2.0
_RUNTIME_DIR = '/tmp/.jupyter-runtime'  # the home directory may be another user's, or read-only
_building = threading.Lock()  # held while an image is built, so that many sandboxes that miss it build it once


class DockerNotebookBackend(DockerBackend):
    """Makes a notebook sandbox run in a container, with a kernel gateway where one is asked for.

    Attributes:
        gateway_url, gateway_token: See `DockerNotebookSandbox`.
    """

    config: DockerNotebookConfig

    def __init__(self, spec: SandboxSpec) -> None:
        super().__init__(spec)
        self.gateway_url: str | None = None
        self.gateway_token: str | None = None
        self._gateway: Process | None = None
        self._agent: AgentOperations | None = None  # that the gateway was started by

    # Image ------------------------------------------------------------------------------------------------------------

    def _post_create(self, engine: Engine, body: dict[str, Any], what: str) -> dict[str, Any]:
        """Create the container; an image of our own recipe that is missing is built first. No registry has it."""
        try:
            return super()._post_create(engine, body, what)
        except ImageNotFoundError:
            recipe = find_recipe(self.config.image)
            if self.config.pull == 'never' or recipe is None or not recipe.base:
                raise
        self._build_image(engine, recipe)
        return super()._post_create(engine, body, what)

    def _ensure_image(self, engine: Engine) -> None:
        recipe = find_recipe(self.config.image)
        if recipe is not None and recipe.base and self.config.pull != 'never':
            self._build_image(engine, recipe)  # which does nothing where it is there
        else:
            super()._ensure_image(engine)

    def _build_image(self, engine: Engine, recipe: ImageRecipe) -> None:
        from enclave.sandboxes.images.build import build_image

        with _building:
            if find_image(engine, self.config.image) is not None:
                return
            logger.info('building the image %s, once; this takes a minute or two', self.config.image)
            reported_at = time.monotonic()

            def report(step: Progress) -> None:
                nonlocal reported_at
                if time.monotonic() - reported_at >= _REPORT_INTERVAL:
                    reported_at = time.monotonic()
                    logger.info('building the image %s: %s', self.config.image, step.message)

            build_image(engine, recipe, tag=self.config.image, progress=report)
            logger.info('built the image %s', self.config.image)

    # Gateway ----------------------------------------------------------------------------------------------------------

    def container_body(self, engine: Engine, entrypoint: Sequence[str] | None) -> dict[str, Any]:
        """See `DockerBackend.container_body`: with the gateway's port published."""
        body = super().container_body(engine, entrypoint)
        if self.config.has_gateway:
            address, number = self.config.gateway_binding
            body.setdefault('ExposedPorts', {})[GATEWAY_PORT] = {}
            body['HostConfig']['PortBindings'][GATEWAY_PORT] = [
                {'HostIp': address, 'HostPort': '' if number is None else str(number)}
            ]
        return body

    def _run(self, engine: Engine) -> Operations:
        operations = super()._run(engine)
        if self.config.has_gateway:
            self._start_gateway(agent_of(operations, self.id))
        return operations

    def _start_gateway(self, agent: AgentOperations) -> None:
        """Start the gateway; it comes up while the first kernel does."""
        self.gateway_token = (self.config.token or secrets.token_urlsafe(24)) if self.config.gateway_auth else ''
        self._agent = agent
        self._gateway = agent.start_process(
            StartProcess(
                command=(
                    'jupyter',
                    'kernelgateway',
                    '--KernelGatewayApp.ip=0.0.0.0',
                    f'--KernelGatewayApp.port={_gateway_port()}',
                    '--JupyterWebsocketPersonality.list_kernels=True',
                ),
                max_output_bytes=16384,
                cwd=self.config.working_dir,
                env={
                    'KG_AUTH_TOKEN': self.gateway_token,  # not on the command line, which every process can read
                    'JUPYTER_RUNTIME_DIR': _RUNTIME_DIR,
                },
                live=False,
            )
        )

    def settle(self) -> Mapping[str, Any]:
        """Return when the gateway answers to its token, with where it is published."""
        if self._gateway is None:
            return {}
        deadline, pause = Deadline.after(GATEWAY_SECONDS), threading.Event()
        while not self._gateway_answers():
            result = self._gateway.poll()
            if result is not None:
                lines = (result.stderr.strip() or result.stdout.strip()).splitlines()
                raise SandboxStartError(
                    f'sandbox {self.id}: the kernel gateway ended with exit code {result.exit_code}; the end of its output: '
                    f'{" ".join(lines[-1:])}. The image needs jupyter_kernel_gateway; '
                    'without port, host and token none is started',
                    details={'sandbox_id': self.id, 'output': lines[-20:]},
                )
            if is_cancelled():
                raise CallCancelledError('the start of the kernel gateway was cancelled')
            if deadline.has_expired():
                raise OperationTimeoutError(f'the kernel gateway did not answer within {GATEWAY_SECONDS:g} seconds')
            pause.wait(_RETRY_INTERVAL)
        address, port = self.get_published_ports()[GATEWAY_PORT]
        self.gateway_url = f'http://{f"[{address}]" if ":" in address else address}:{port}'
        return {'gateway': {'url': self.gateway_url, 'token': self.gateway_token}}

    def _gateway_answers(self) -> bool:
        assert self._agent is not None
        request = f'GET /api/kernelspecs HTTP/1.0\r\nAuthorization: token {self.gateway_token}\r\n\r\n'
        try:
            with self._agent.connect(_gateway_port(), '127.0.0.1', timeout=10.0) as connection:
                connection.sendall(request.encode(), 10.0)
                return b' 200 ' in connection.recv(timeout=10.0)[:32]
        except (SandboxPathError, SandboxPathNotFoundError, BrokenPipeError):
            return False

    @property
    def own_processes(self) -> Sequence[Process]:
        """The gateway."""
        return () if self._gateway is None else (self._gateway,)

    def destroy(self, *, keep: bool) -> None:
        """See `Backend.destroy`."""
        self._gateway = self._agent = None
        super().destroy(keep=keep)


class DockerNotebookSandbox(NotebookSandbox, DockerSandbox):
    """A notebook sandbox in a container of its own. See `DockerNotebookConfig` for what can be asked of it."""

    sandbox_type: ClassVar[SandboxType | str] = SandboxType.DOCKER_NOTEBOOK
    config_class: ClassVar[type[DockerNotebookConfig]] = DockerNotebookConfig
    backend_class: ClassVar[type[Backend] | None] = DockerNotebookBackend
    config: DockerNotebookConfig

    @property
    def backend(self) -> DockerNotebookBackend:
        """What makes it run."""
        return cast(DockerNotebookBackend, super().backend)

    @property
    def gateway_url(self) -> str | None:
        """Where its kernel gateway is published, like ``'http://127.0.0.1:8888'``; None where none was asked for."""
        return self.backend.gateway_url

    @property
    def gateway_token(self) -> str | None:
        """What the gateway's clients must send; '' where it wants none."""
        return self.backend.gateway_token


def _gateway_port() -> int:
    return int(GATEWAY_PORT.partition('/')[0])
