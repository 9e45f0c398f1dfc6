"""A place in a lane for a block."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from enclave.server.lanes import Lane, Lanes


@contextlib.contextmanager
def queued(lanes: Lanes, lane: Lane, tenant: str, *args: Any, **kwargs: Any) -> Iterator[None]:
    """Wait for a turn, and hold the place for the block; see `Lanes.take_turn`."""
    lanes.take_turn(lane, tenant, *args, **kwargs)
    try:
        yield
    finally:
        lanes.give_turn(lane, tenant)
