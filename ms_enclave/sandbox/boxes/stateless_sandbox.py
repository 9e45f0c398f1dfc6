"""Sandboxes that are no more than an address: a base for programs that reach a service of their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ms_enclave.sandbox.boxes.base import Sandbox
from ms_enclave.sandbox.model.base import SandboxStatus


class StatelessSandbox(Sandbox):
    """A sandbox behind an HTTP service that keeps nothing between calls. A subclass defines its kind and its calls.

    Args:
        base_url: Address of the service.
        request_timeout: Seconds a request may take.
        verify_ssl: Whether certificates are checked.
        extra_headers: Headers of every request.
        api_key: The key that the service wants.
        session: What makes the requests, if the program has one.
    """

    def __init__(
        self,
        config: Any,
        *,
        base_url: str,
        request_timeout: float = 30.0,
        verify_ssl: bool = True,
        extra_headers: Mapping[str, str] | None = None,
        api_key: str | None = None,
        session: Any = None,
        sandbox_id: str | None = None,
    ) -> None:
        super().__init__(config, sandbox_id)
        self._base_url = base_url.rstrip('/')
        self.request_timeout = request_timeout
        self.verify_ssl = verify_ssl
        self.extra_headers = dict(extra_headers or {})
        self._api_key = api_key
        self._session = session

    @property
    def base_url(self) -> str:
        """Address of the service."""
        return self._base_url

    @property
    def session(self) -> Any:
        """What makes the requests, if the program gave one."""
        return self._session

    async def start(self) -> None:
        """Load the tools that the configuration names; there is nothing else to start."""
        self.update_status(SandboxStatus.RUNNING)
        await self.initialize_tools()

    async def stop(self) -> None:
        """Stop using it."""
        self.update_status(SandboxStatus.STOPPED)

    async def cleanup(self) -> None:
        """Stop using it; there is nothing to take away."""
        await self.stop()

    async def get_execution_context(self) -> Any:
        """Return the sandbox itself."""
        return self


__all__ = ['StatelessSandbox']
