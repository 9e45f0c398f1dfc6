"""Which backends the conformance suite runs over, and whether each works here."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import pytest
from attrs import frozen

from enclave.enums import SandboxType
from enclave.errors import EnclaveError
from enclave.sandboxes.agent_backed import AgentBackedSandbox
from enclave.sandboxes.registry import SandboxFactory

S = TypeVar('S', bound=AgentBackedSandbox)


@frozen
class Backend:
    """A kind of sandbox under test."""

    sandbox_type: SandboxType

    def make(self, **options: Any) -> AgentBackedSandbox:
        """Return a sandbox, not started; the limits on memory suit a small machine."""
        sandbox = SandboxFactory.create_sandbox(self.sandbox_type, {'network_enabled': False, **options})
        assert isinstance(sandbox, AgentBackedSandbox)
        return sandbox


@contextlib.contextmanager
def starting(make: Callable[..., S]) -> Iterator[Callable[..., S]]:
    """Give a function that makes and starts a sandbox with some options; all are gone after the block."""
    started: list[S] = []

    def start_one(**options: Any) -> S:
        made = make(**options)
        started.append(made)
        made.start()
        return made

    yield start_one
    for made in started:
        made.cleanup()


BACKENDS = [
    pytest.param(Backend(SandboxType.DOCKER), id='docker', marks=pytest.mark.docker),
    pytest.param(Backend(SandboxType.BUBBLEWRAP), id='bubblewrap', marks=pytest.mark.bubblewrap),
]


NOTEBOOK_BACKENDS = [
    pytest.param(Backend(SandboxType.DOCKER_NOTEBOOK), id='docker', marks=pytest.mark.docker),
    pytest.param(Backend(SandboxType.BUBBLEWRAP_NOTEBOOK), id='bubblewrap', marks=pytest.mark.bubblewrap),
]


@functools.cache
def bubblewrap_trouble() -> str | None:
    """Return why bubblewrap sandboxes cannot be used here, or None."""
    from enclave.sandboxes.bubblewrap.sandbox import check_works

    try:
        check_works()
    except EnclaveError as error:
        return str(error)
    return None


@functools.cache
def bubblewrap_notebook_trouble() -> str | None:
    """Return why notebook sandboxes cannot be made without Docker here, or None."""
    from enclave.sandboxes.bubblewrap.interpreter import find_kernel_python

    if bubblewrap_trouble() is None:
        try:
            find_kernel_python()
        except EnclaveError as error:
            return str(error)
    return bubblewrap_trouble()


def require_bubblewrap(item: pytest.Item, find_trouble: Callable[[], str | None] = bubblewrap_trouble) -> None:
    """Skip a test marked ``bubblewrap`` where that does not work; in CI that is a failure."""
    if item.get_closest_marker('bubblewrap') is None:
        return
    trouble = find_trouble()
    if trouble is None:
        return
    if os.environ.get('CI') == 'true':
        pytest.fail(f'CI needs bubblewrap: {trouble}', pytrace=False)
    pytest.skip(trouble)
