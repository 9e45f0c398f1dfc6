"""Sandboxes that are Docker containers."""

from __future__ import annotations

import contextlib
import io
import os
import posixpath
import tarfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

from enclave.aio.proxies import run
from enclave.errors import EnclaveError
from enclave.sandboxes.docker.engine import get_engine
from enclave.sandboxes.images.catalog import Progress, ensure_image
from ms_enclave.sandbox.boxes.base import fitting_config, register_sandbox
from ms_enclave.sandbox.boxes.core_backed import CoreBackedSandbox
from ms_enclave.sandbox.boxes.core_options import docker_options
from ms_enclave.sandbox.model.base import SandboxType
from ms_enclave.sandbox.model.config import DockerSandboxConfig
from ms_enclave.utils.logger import logger


@register_sandbox(SandboxType.DOCKER)
class DockerSandbox(CoreBackedSandbox):
    """A sandbox in a container of its own."""

    _core_type: ClassVar[str] = 'docker'
    _what: ClassVar[str] = 'Docker sandbox'
    config: DockerSandboxConfig

    def __init__(self, config: Any = None, sandbox_id: str | None = None) -> None:
        super().__init__(fitting_config(self._core_type, config), sandbox_id)
        self._client: Any = None
        self._container: Any = None
        workers = max(1, self.config.docker_executor_workers)
        self._executor = ThreadPoolExecutor(workers, thread_name_prefix=f'enclave-docker-{self.id}')

    # The container, for programs that use it themselves ----------------------------------------------------------------

    @property
    def client(self) -> Any:
        """The Docker SDK's client, while the sandbox runs."""
        if self._client is None and self._container_id:
            self._client = get_engine().make_client()
        return self._client

    @client.setter
    def client(self, client: Any) -> None:
        self._client = client

    @property
    def container(self) -> Any:
        """The Docker SDK's container, from the start on; None again once it is removed."""
        if self._container is None and self._container_id:
            client = self.client
            self._container = client.containers.get(self._container_id)
        return self._container

    @container.setter
    def container(self, container: Any) -> None:
        self._container = container

    @property
    def _container_id(self) -> str:
        return self._core.backend.container if self._core is not None else ''

    async def get_execution_context(self) -> Any:
        """Return the container."""
        return await run(lambda: self.container)

    # Life -------------------------------------------------------------------------------------------------------------

    def _core_options(self) -> dict[str, Any]:
        return docker_options(self.config)

    def _prepare(self) -> Any:
        for source in self.config.volumes:
            # A container engine makes a missing directory, and programs count on it; here it belongs to this user.
            with contextlib.suppress(OSError):
                place = os.path.expanduser(source)
                if os.path.isabs(place):
                    os.makedirs(place, exist_ok=True)
        core = super()._prepare()
        if self.config.pull_progress:
            interval = self.config.pull_progress_interval
            with _reporting(self.config.image, interval) as progress:
                ensure_image(get_engine(), self.config.image, platform=self.config.platform, progress=progress)
        return core

    async def stop_container(self) -> None:
        """Stop the container; what of it is to be removed is."""
        await self.stop()

    async def _end(self, how: str) -> None:
        await super()._end(how)
        self._container = None
        self._executor.shutdown(wait=False, cancel_futures=True)
        if not self._container_id or how == 'cleanup':
            client, self._client = self._client, None
            if client is not None:
                with contextlib.suppress(Exception):
                    client.close()

    async def _unpack_beside(self, target_dir: str, data: bytes, error: RuntimeError) -> None:
        """Have the engine unpack an archive, as root, where the image's own user may not write."""
        options = self.config.further_options
        if options.get('read_only') or options.get('tmpfs') or options.get('user'):
            raise error
        core = self._core

        def unpack() -> None:
            engine, container = get_engine(), core.backend.container
            engine.run_as_root(container, ['mkdir', '-p', '--', target_dir])
            engine.write_archive(container, target_dir, [data])
            name = _first_file(data)
            if name is not None:  # below /proc and the like the engine writes where no program sees it
                engine.run_as_root(container, ['test', '-e', posixpath.join(target_dir, name)])

        try:
            await run(unpack)
        except EnclaveError:
            raise error from None


def _first_file(data: bytes) -> str | None:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return next((member.name for member in archive if member.isfile()), None)


@contextlib.contextmanager
def _reporting(image: str, interval: float) -> Iterator[Any]:
    """Give what logs how a pull gets on, a line every ``interval`` seconds."""
    said_at = -interval

    def report(step: Progress) -> None:
        nonlocal said_at
        if time.monotonic() - said_at >= interval:
            said_at = time.monotonic()
            logger.info('Pulling %s: %s', image, step.message)

    yield report


__all__ = ['DockerSandbox']
