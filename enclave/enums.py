"""The closed sets of names (layer 0). All are ``str`` enums: their values are what travels and what users compare with."""

from __future__ import annotations

from enum import Enum


class _Word(str, Enum):
    """A ``str`` whose text is its value, in f-strings and logs too (plain ``str`` enums differ between Pythons)."""

    def __str__(self) -> str:
        return str(self.value)

    def __format__(self, spec: str) -> str:
        return format(str(self.value), spec)


class SandboxType(_Word):
    """The kinds of sandbox. ``DUMMY`` is a name for users' own test doubles; nothing is registered under it."""

    DOCKER = 'docker'
    DOCKER_NOTEBOOK = 'docker_notebook'
    BUBBLEWRAP = 'bubblewrap'
    BUBBLEWRAP_NOTEBOOK = 'bubblewrap_notebook'
    DUMMY = 'dummy'


GENERAL_TYPES = (SandboxType.DOCKER, SandboxType.BUBBLEWRAP)
"""The kinds of this library that are not for notebooks. As what a tool requires, the first one means every kind that is
not."""
NOTEBOOK_TYPES = (SandboxType.DOCKER_NOTEBOOK, SandboxType.BUBBLEWRAP_NOTEBOOK)
"""The kinds of this library with Jupyter kernels, which load only the tools that are made for them. As what a tool requires, the
first one means every kind with kernels."""


class SandboxStatus(_Word):
    """Where a sandbox is in its life.

    ``initializing`` until `start` has returned, ``running`` while it can be used (``idle`` and ``busy`` say the same of a
    pool's sandbox between and during leases), ``paused`` between `pause` and `resume`, ``stopping``, ``stopped`` after `stop`,
    ``error`` when it failed to start, died or was removed behind our back.
    """

    INITIALIZING = 'initializing'
    RUNNING = 'running'
    IDLE = 'idle'
    BUSY = 'busy'
    PAUSED = 'paused'
    STOPPING = 'stopping'
    STOPPED = 'stopped'
    ERROR = 'error'


class ExecutionStatus(_Word):
    """How a call ended: ``success`` is exit code 0, ``error`` any other end of its own, ``timeout`` and ``cancelled`` ours."""

    SUCCESS = 'success'
    ERROR = 'error'
    TIMEOUT = 'timeout'
    CANCELLED = 'cancelled'


class Verdict(_Word):
    """What a judge says of a program: ``accepted`` and ``wrong_answer`` where it is known what it should print."""

    ACCEPTED = 'accepted'
    WRONG_ANSWER = 'wrong_answer'
    RUNTIME_ERROR = 'runtime_error'
    TIME_LIMIT = 'time_limit'
    MEMORY_LIMIT = 'memory_limit'
    OUTPUT_LIMIT = 'output_limit'
    COMPILE_ERROR = 'compile_error'


class SandboxManagerType(_Word):
    """The kinds of manager."""

    LOCAL = 'local'
    HTTP = 'http'
    RAY = 'ray'
