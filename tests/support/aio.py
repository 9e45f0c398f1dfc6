"""What tests of the asynchronous proxies share."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

PATIENCE = 120.0


async def until(predicate: Callable[[], object]) -> None:
    """Let the loop continue until something is true."""
    give_up_at = time.monotonic() + PATIENCE
    while not predicate():
        assert time.monotonic() < give_up_at, 'it did not come to that'
        await asyncio.sleep(0.002)
