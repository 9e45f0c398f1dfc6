"""The name of a cloud service's sandbox. This library does not reach the service, and says so when the sandbox is used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

from enclave.errors import UnsupportedError
from ms_enclave.sandbox.boxes.base import register_sandbox
from ms_enclave.sandbox.boxes.stateless_sandbox import StatelessSandbox
from ms_enclave.sandbox.model.base import SandboxType


def refuse(what: str) -> NoReturn:
    """Say that the service is not reached from here."""
    raise UnsupportedError(
        f'{what} is tied to the Volcengine cloud service, which this library does not reach; use SandboxType.DOCKER with an '
        'image that has the languages (volcengine/sandbox-fusion), or a server with HttpSandboxManager'
    )


@register_sandbox(SandboxType.VOLCENGINE)
class VolcengineSandbox(StatelessSandbox):
    """A sandbox of the cloud service. It can be made, and does nothing else."""

    def __init__(
        self,
        config: Any,
        sandbox_id: str | None = None,
        *,
        base_url: str | None = None,
        run_code_path: str | None = None,
        request_timeout: float | None = None,
        verify_ssl: bool | None = None,
        extra_headers: Mapping[str, str] | None = None,
        api_key: str | None = None,
        dataset_language_map: Mapping[str, str] | None = None,
        session: Any = None,
    ) -> None:
        super().__init__(
            config,
            base_url=base_url or config.base_url or '',
            request_timeout=config.request_timeout if request_timeout is None else request_timeout,
            verify_ssl=config.verify_ssl if verify_ssl is None else verify_ssl,
            extra_headers=config.extra_headers if extra_headers is None else extra_headers,
            api_key=api_key or config.api_key,
            session=session,
            sandbox_id=sandbox_id,
        )
        self.run_code_path = run_code_path or config.run_code_path
        self.dataset_language_map = dataset_language_map or config.dataset_language_map

    @property
    def sandbox_type(self) -> SandboxType:
        """Its kind."""
        return SandboxType.VOLCENGINE

    async def start(self) -> None:
        """Say that the service is not reached from here.

        Raises:
            UnsupportedError: Always.
        """
        refuse('VolcengineSandbox')

    async def run_code(self, code: str, language: str, timeout: float | None = None) -> Any:
        """Say that the service is not reached from here.

        Raises:
            UnsupportedError: Always.
        """
        refuse('VolcengineSandbox.run_code')


__all__ = ['VolcengineSandbox']
