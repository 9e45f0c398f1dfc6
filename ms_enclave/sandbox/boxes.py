"""Sandboxes to be used with ``async with``: those of `enclave.aio`.

One thing differs, because programs rely on it: a tool's result carries the program's stderr text in ``error`` also when it
succeeded. Whether it did is told by ``success`` and ``status``.
"""

from __future__ import annotations

from typing import ClassVar

from enclave import aio
from enclave.aio.factories import SandboxMaker
from enclave.aio.proxies import ProxyRegistry
from enclave.enums import SandboxStatus
from enclave.records import ToolResult


def tell_stderr(result: ToolResult) -> ToolResult:
    """Return a tool's result with the stderr text of a success as its ``error``."""
    stderr = result.metadata.get('stderr')
    return result.model_copy(update={'error': stderr}) if result.success and not result.error and stderr else result


FAMILY = ProxyRegistry(tell=tell_stderr, parent=aio.Sandbox._proxy_registry)
"""The proxies of this package, and the words their results come in."""


class Sandbox(aio.Sandbox):
    """One sandbox; see `enclave.aio.Sandbox`. Subclass it, with coroutine functions, for a backend of your own."""

    _proxy_registry: ClassVar[ProxyRegistry] = FAMILY
    _home: ClassVar[tuple[str, str]] = aio.Sandbox._home

    def update_status(self, status: SandboxStatus) -> None:
        """Mark a usable sandbox as idle, busy or running; where it is in its life beyond that is known without being told."""
        self.status = status

    async def initialize_tools(self) -> None:
        """Do nothing: the tools that the configuration names are there from the beginning."""


class AgentBackedSandbox(Sandbox, aio.AgentBackedSandbox):
    """A sandbox with all the verbs; see `enclave.aio.AgentBackedSandbox`."""

    _home: ClassVar[tuple[str, str]] = aio.AgentBackedSandbox._home


class DockerSandbox(AgentBackedSandbox, aio.DockerSandbox):
    """A sandbox in a Docker container; see `enclave.aio.DockerSandbox`."""

    _home: ClassVar[tuple[str, str]] = aio.DockerSandbox._home


class BubblewrapSandbox(AgentBackedSandbox, aio.BubblewrapSandbox):
    """A sandbox without an engine; see `enclave.aio.BubblewrapSandbox`."""

    _home: ClassVar[tuple[str, str]] = aio.BubblewrapSandbox._home


class RemoteSandbox(AgentBackedSandbox, aio.RemoteSandbox):
    """A sandbox that a server keeps; see `enclave.aio.RemoteSandbox`."""

    _home: ClassVar[tuple[str, str]] = aio.RemoteSandbox._home


class DockerNotebookSandbox(DockerSandbox, aio.DockerNotebookSandbox):
    """A sandbox with Jupyter kernels in a Docker container; see `enclave.aio.DockerNotebookSandbox`."""

    _home: ClassVar[tuple[str, str]] = aio.DockerNotebookSandbox._home


class BubblewrapNotebookSandbox(BubblewrapSandbox, aio.BubblewrapNotebookSandbox):
    """A sandbox with Jupyter kernels and without an engine; see `enclave.aio.BubblewrapNotebookSandbox`."""

    _home: ClassVar[tuple[str, str]] = aio.BubblewrapNotebookSandbox._home


class RemoteNotebookSandbox(RemoteSandbox, aio.RemoteNotebookSandbox):
    """A notebook sandbox that a server keeps; see `enclave.aio.RemoteNotebookSandbox`."""

    _home: ClassVar[tuple[str, str]] = aio.RemoteNotebookSandbox._home


class SandboxFactory(
    SandboxMaker[Sandbox, DockerSandbox, DockerNotebookSandbox, BubblewrapSandbox, BubblewrapNotebookSandbox]
):
    """Makes sandboxes by kind, not started and connected to nothing; see `enclave.aio.SandboxFactory`."""

    _proxy_registry: ClassVar[ProxyRegistry] = FAMILY


register_sandbox = aio.register_sandbox

__all__ = ['DockerNotebookSandbox', 'DockerSandbox', 'Sandbox', 'SandboxFactory', 'register_sandbox']
