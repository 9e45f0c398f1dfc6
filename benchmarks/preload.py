"""What a call of `python_executor` costs with a preloaded interpreter, beside one without and a native start.

Run it on a machine with a Python that has numpy, for the second row: ``python benchmarks/preload.py [docker|bubblewrap]``.
Each round makes every call once, in turn; figures are medians, and ratios are of the same rounds.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import enclave

ROUNDS = 40
CASES = {'print(1)': ((), 'print(1)'), 'numpy': (('numpy',), 'import numpy; print(numpy.arange(10).sum())')}


def timed(call: Callable[[], object]) -> float:
    """Return how many milliseconds a call takes."""
    began = time.perf_counter()
    call()
    return (time.perf_counter() - began) * 1000


def main() -> None:
    """Print a table."""
    kind = sys.argv[1] if len(sys.argv) > 1 else 'bubblewrap'
    native = '/usr/bin/python3' if os.path.exists('/usr/bin/python3') else sys.executable
    print(f'{kind}, {ROUNDS} rounds, medians in ms')
    print(f'{"":10} {"native":>8} {"plain":>8} {"preload":>8} {"preload/native":>15}')
    for name, (modules, code) in CASES.items():
        options = {'tools_config': {'python_executor': {'preload': list(modules)}}}
        with (
            enclave.open_sandbox(kind, options) as fast,
            enclave.open_sandbox(kind, tools_config=['python_executor']) as plain,
        ):
            check = plain.execute_tool('python_executor', {'code': code})
            if not check.success:
                print(f'{name:10} cannot run in this sandbox: {str(check.error).strip().splitlines()[-1]}')
                continue
            calls: dict[str, Callable[[], object]] = {
                'native': lambda code=code: subprocess.run([native, '-c', code], capture_output=True, check=False),
                'plain': lambda box=plain, code=code: box.execute_tool('python_executor', {'code': code}),
                'preload': lambda box=fast, code=code: box.execute_tool('python_executor', {'code': code}),
            }
            for call in calls.values():
                call()
            figures: dict[str, list[float]] = {each: [] for each in calls}
            for _ in range(ROUNDS):
                for each, call in calls.items():
                    figures[each].append(timed(call))
        ratio = statistics.median(a / b for a, b in zip(figures['preload'], figures['native'], strict=True))
        row = ' '.join(f'{statistics.median(figures[each]):8.2f}' for each in calls)
        print(f'{name:10} {row} {ratio:15.2f}')


if __name__ == '__main__':
    main()
