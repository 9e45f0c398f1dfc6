"""Which calls run for a tenant (layer 6): for people who watch, and for nothing else."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

from attrs import define, field, frozen

from enclave.records import Model

MAX_LISTED = 1000


@frozen(kw_only=True)
class RunningCall(Model):
    """A call that runs: which verb, in which sandbox (null where it is a pool's), and for how many seconds."""

    what: str
    sandbox_id: str | None = None
    seconds: float = 0.0


@define(eq=False)
class RunningCalls:
    """Lives as long as the tenant; any thread may use it."""

    _lock: threading.Lock = field(factory=threading.Lock, init=False, repr=False)  # guards the one below
    _table: dict[int, tuple[str, Mapping[str, Any], float]] = field(factory=dict, init=False, repr=False)
    _numbers: Iterator[int] = field(factory=itertools.count, init=False, repr=False)

    def begin(self, verb: str, facts: Mapping[str, Any]) -> int:
        """Have a call listed until `end`, which takes what this returns. ``facts`` may get ``sandbox_id`` and ``tool_name``
        while it runs.
        """
        number = next(self._numbers)
        with self._lock:
            self._table[number] = (verb, facts, time.monotonic())
        return number

    def end(self, number: int) -> None:
        """List a call no longer."""
        with self._lock:
            del self._table[number]

    def list(self) -> list[RunningCall]:
        """Return the calls that run, the longest first."""
        now = time.monotonic()
        with self._lock:
            found = list(self._table.values())[:MAX_LISTED]
        calls = []
        for verb, facts, began in found:
            tool, sandbox = facts.get('tool_name'), facts.get('sandbox_id')
            what = f'{verb}: {str(tool)[:100]}' if tool else verb
            calls.append(
                RunningCall(what=what, sandbox_id=None if sandbox is None else str(sandbox)[:100], seconds=now - began)
            )
        return calls
