"""Which backends the conformance suite runs over, and whether each works here."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable

import pytest

from enclave.enums import SandboxType
from enclave.errors import EnclaveError
from enclave.testing.kinds import KindUnderTest as Backend
from enclave.testing.kinds import starting

__all__ = [
    'BACKENDS',
    'NOTEBOOK_BACKENDS',
    'Backend',
    'bubblewrap_notebook_trouble',
    'bubblewrap_trouble',
    'require_bubblewrap',
    'starting',
]


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
