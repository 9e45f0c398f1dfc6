"""The enums. Members equal, hash and serialise as their values; `str` of one is ``ClassName.MEMBER``.

They are open in one way: programs that add a kind of sandbox or manager may add a member of their own to these classes.
"""

from __future__ import annotations

from enum import Enum


class SandboxStatus(str, Enum):
    """Where a sandbox is in its life."""

    INITIALIZING = 'initializing'
    RUNNING = 'running'
    IDLE = 'idle'
    BUSY = 'busy'
    STOPPING = 'stopping'
    STOPPED = 'stopped'
    ERROR = 'error'


class SandboxType(str, Enum):
    """The kinds of sandbox. Nothing is registered under ``DUMMY``."""

    DOCKER = 'docker'
    DOCKER_NOTEBOOK = 'docker_notebook'
    VOLCENGINE = 'volcengine'
    DUMMY = 'dummy'
    BUBBLEWRAP = 'bubblewrap'
    BUBBLEWRAP_NOTEBOOK = 'bubblewrap_notebook'

    @classmethod
    def get_compatible_types(cls, sandbox_type: SandboxType | str) -> set[SandboxType | str]:
        """Return the kinds whose tools fit a kind of sandbox: its own, and for a notebook the plain kind as well."""
        kind = as_sandbox_type(sandbox_type)
        return {kind, _PLAIN_KIND[kind]} if kind in _PLAIN_KIND else {kind}

    @classmethod
    def is_compatible(cls, sandbox_type: SandboxType | str, required_type: SandboxType | str) -> bool:
        """Return whether a tool for ``required_type`` fits a sandbox of a kind."""
        return required_type in cls.get_compatible_types(sandbox_type)


_PLAIN_KIND: dict[SandboxType | str, SandboxType] = {
    SandboxType.DOCKER_NOTEBOOK: SandboxType.DOCKER,
    SandboxType.BUBBLEWRAP_NOTEBOOK: SandboxType.BUBBLEWRAP,
}


def as_sandbox_type(kind: SandboxType | str) -> SandboxType | str:
    """Return the member for a known kind, or the name itself for a kind that a program registered."""
    try:
        return SandboxType(kind)
    except ValueError:
        return kind


class SandboxManagerType(str, Enum):
    """The kinds of manager."""

    LOCAL = 'local'
    HTTP = 'http'
    VOLCENGINE = 'volcengine'


class ExecutionStatus(str, Enum):
    """How a call ended."""

    SUCCESS = 'success'
    ERROR = 'error'
    TIMEOUT = 'timeout'
    CANCELLED = 'cancelled'


class ToolType(str, Enum):
    """The sorts of tool."""

    SANDBOX = 'sandbox'
    FUNCTION = 'function'
    EXTERNAL = 'external'


__all__ = ['ExecutionStatus', 'SandboxManagerType', 'SandboxStatus', 'SandboxType', 'ToolType']
