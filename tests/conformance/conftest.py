"""The suite of `enclave.testing` over each kind of this project."""

from __future__ import annotations

import pytest

from enclave.testing.kinds import KindUnderTest
from enclave.testing.plugin import place, sandbox, shared_sandbox, start
from tests.support.backends import BACKENDS

__all__ = ['place', 'sandbox', 'shared_sandbox', 'start']


@pytest.fixture(scope='session', params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> KindUnderTest:
    """Each kind of sandbox in turn."""
    return request.param
