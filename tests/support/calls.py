"""How many functions a call goes through, on every thread of this process: a figure that no load moves.

Run as a program, ``python -m tests.support.calls [-v]``, it prints the figures of one warm ``print(1)`` on bubblewrap: in a
sandbox, through a manager, over HTTP (client and server together; the library's own and all there are), and of a notebook's
cell; with ``-v`` function by function.
"""

from __future__ import annotations

import contextlib
import math
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType, MappingProxyType
from typing import Any

import enclave

_LIBRARY = f'{Path(enclave.__file__).parent}/'
_POLLED = frozenset({'_ClientChannel.readable'})
"""What waitress asks as often as it has time for."""
WARM_CALLS = 5
COUNTED_CALLS = 10
TRIED_CALLS = 300
"""How many are counted where the least is not yet as few as it is to be: under load, more goes through in pieces."""

PROGRAM = ('python_executor', {'code': 'print(1)'})
CELL = ('notebook_executor', {'code': '1+1'})
OPTIONS = {'tools_config': ['python_executor'], 'network_enabled': False}
NOTEBOOK_OPTIONS = {'tools_config': ['notebook_executor'], 'network_enabled': False}


class CallCounter:
    """Counts calls on the threads that start while it is `applied`, and on the one that applies it."""

    def __init__(self) -> None:
        self._counted: Counter[str] = Counter()
        self._is_on = False
        self._counts_others = False

    def _see(self, frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if self._is_on and event == 'call' and (self._counts_others or code.co_filename.startswith(_LIBRARY)):
            name = getattr(code, 'co_qualname', code.co_name)  # Python 3.11 has the qualified one
            if name not in _POLLED:
                self._counted[f'{code.co_filename.removeprefix(_LIBRARY)} {name}'] += 1

    @contextlib.contextmanager
    def applied(self) -> Iterator[CallCounter]:
        """Have threads counted from here on."""
        threading.setprofile(self._see)
        sys.setprofile(self._see)
        try:
            yield self
        finally:
            sys.setprofile(None)
            threading.setprofile(None)  # type: ignore[arg-type]

    def least(self, call: Callable[[], Any], *, others: bool = False, goal: float = math.inf) -> Counter[str]:
        """Return what one warm call goes through: the least of several, since output may come in one piece or in two.

        Args:
            others: Count the functions of the standard library and of other packages too.
            goal: How many it should be; many more calls are counted before it is said to be more.
        """
        self._counts_others = others
        for _ in range(WARM_CALLS):
            call()
        least: Counter[str] | None = None
        for number in range(TRIED_CALLS):
            self._counted = Counter()
            self._is_on = True
            call()
            self._is_on = False
            if least is None or self._counted.total() < least.total():
                least = self._counted
            if number + 1 >= COUNTED_CALLS and least.total() <= goal:
                break
        assert least is not None
        return least


def measure(
    goals: Mapping[str, int] = MappingProxyType({}), *, notebook: bool = True
) -> Iterator[tuple[str, Counter[str]]]:
    """Yield the name and the calls of each way to run a program.

    Args:
        goals: How many there should be, by name.
    """
    from enclave.managers.http import HttpSandboxManager
    from enclave.server.serve import create_server

    with CallCounter().applied() as counter:
        with enclave.SandboxFactory.create_sandbox('bubblewrap', OPTIONS) as sandbox:
            yield 'sandbox', counter.least(lambda: sandbox.execute_tool(*PROGRAM), goal=goals.get('sandbox', math.inf))
        with enclave.LocalSandboxManager() as manager:
            made = manager.create_sandbox('bubblewrap', OPTIONS)
            yield (
                'manager',
                counter.least(lambda: manager.execute_tool(made, *PROGRAM), goal=goals.get('manager', math.inf)),
            )
        server = create_server()
        server.start('127.0.0.1', 0)
        try:
            with HttpSandboxManager(base_url=server.url) as client:
                there = client.create_sandbox('bubblewrap', OPTIONS)
                yield (
                    'http',
                    counter.least(lambda: client.execute_tool(there, *PROGRAM), goal=goals.get('http', math.inf)),
                )
                yield (
                    'http and others',
                    counter.least(
                        lambda: client.execute_tool(there, *PROGRAM),
                        others=True,
                        goal=goals.get('http and others', math.inf),
                    ),
                )
                client.delete_sandbox(there)
        finally:
            server.stop()
        if notebook:
            with enclave.SandboxFactory.create_sandbox('bubblewrap_notebook', NOTEBOOK_OPTIONS) as sandbox:
                yield 'cell', counter.least(lambda: sandbox.execute_tool(*CELL), goal=goals.get('cell', math.inf))


if __name__ == '__main__':
    for name, counted in measure():
        print(f'{name:16} {counted.total():5}')
        for function, times in counted.most_common() if '-v' in sys.argv else ():
            print(f'   {times:5} {function}')
