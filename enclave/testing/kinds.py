"""A kind of sandbox under test, and sandboxes of it that go with their block (layer 6)."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from attrs import field, frozen

from enclave.enums import SandboxType
from enclave.sandboxes.agent_backed import AgentBackedSandbox
from enclave.sandboxes.sandbox_factory import SandboxFactory

S = TypeVar('S', bound=AgentBackedSandbox)

PATIENCE_SECONDS = float(os.environ.get('ENCLAVE_TEST_PATIENCE', '120'))
"""What only a failure reaches. The variable gives a machine without acceleration more."""


@frozen
class KindUnderTest:
    """A kind of sandbox that the suite runs over.

    Attributes:
        sandbox_type: Its name.
        lacks: What it does not do, of the markers of the suite: ``isolation``, ``limits``.
        options: What each of its sandboxes is made with.
    """

    sandbox_type: SandboxType | str
    lacks: frozenset[str] = frozenset()
    options: dict[str, Any] = field(factory=dict, hash=False)

    def make(self, **options: Any) -> AgentBackedSandbox:
        """Return a sandbox, not started, without a network."""
        given = {'network_enabled': False, **self.options, **options}
        sandbox = SandboxFactory.create_sandbox(self.sandbox_type, given)
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

    try:
        yield start_one
    finally:
        with contextlib.ExitStack() as stack:  # one that cannot be cleaned up keeps none of the others
            for made in started:
                stack.callback(made.cleanup)


def wait_until(condition: Callable[[], bool], seconds: float = PATIENCE_SECONDS) -> bool:
    """Return whether something comes true within a generous time."""
    pause, until = threading.Event(), time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            return False
        pause.wait(0.002)
    return True
