"""The short form of the benchmarks, for CI: a few ratios with generous bounds, so that what got much slower does not pass.

No time is compared with a fixed one. Each row is this library beside a floor, measured in turns in this very run; of each
the quickest call counts, which other work on the machine disturbs least. A row that is above its bound is measured again,
four times, before it fails.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator

from attrs import frozen

from benchmarks.driver import Way
from benchmarks.field import native_python
from benchmarks.ways.bare import Engine, EngineFirst, Native
from benchmarks.ways.enclave import Local, Preloaded, Remote

ATTEMPTS = 5
ROUNDS, MANY = 12, 40


@frozen
class Row:
    """A guarded ratio."""

    what: str
    of: str
    bound: float
    ours: Callable[[], object]
    floor: Callable[[], object]
    rounds: int = ROUNDS
    clock: Callable[[], float] = time.perf_counter

    def measure(self) -> tuple[float, float]:
        """Return the least seconds of both, in turns."""
        ours, floor = [], []
        for _ in range(self.rounds):
            for times, action in ((ours, self.ours), (floor, self.floor)):
                began = self.clock()
                action()
                times.append(self.clock() - began)
        return min(ours), min(floor)


def renewed(way: Local | EngineFirst, first: Callable[[], object]) -> Callable[[], None]:
    """Return what creates a sandbox to its first result, and removes it."""

    def action() -> None:
        way.start()
        try:
            first()
        finally:
            way.stop()

    return action


@contextlib.contextmanager
def rows(kinds: list[str]) -> Iterator[list[Row]]:
    """Give the rows that this machine can measure."""
    native, found = Native(native_python()), []
    with contextlib.ExitStack() as stack:

        def begin(way: Local) -> Local:
            way.prepare()
            stack.callback(way.end)
            way.start()
            stack.callback(way.stop)
            for call in (way.true, way.print_one, way.write, way.read):
                call()
            return way

        for kind in kinds:
            box, quick, remote = begin(Local(kind)), begin(Preloaded(kind, '[]')), begin(Remote(kind))
            found += [
                Row(f'{kind}: true', 'native', 12, box.true, native.true, MANY),
                Row(f'{kind}: print(1)', 'native', 8, box.print_one, native.print_one),
                Row(f'{kind}: print(1), preload []', 'native', 5, quick.print_one, native.print_one),
                Row(f'{kind}: write 1 KB', 'native true', 5, box.write, native.true, MANY),
                Row(f'{kind}: read 1 KB', 'native true', 5, box.read, native.true, MANY),
                Row(f'{kind}: 5 MB of output', 'native', 20, box.output, native.output, 4),
                Row(f'{kind}: true over HTTP', 'the same in this process', 15, remote.true, box.true, MANY),
            ]
        if 'bubblewrap' in kinds:
            new = Local('bubblewrap')
            up = renewed(new, new.print_one)
            what = 'bubblewrap: create, print(1), stop'
            # Processor time: beside busy neighbours a sandbox's control group gets less of the clock than a bare process.
            found.append(Row(what, 'native print(1) (CPU)', 9, up, native.print_one, 6, Way().cpu_seconds))
        if 'docker' in kinds:
            engine, alone, fresh = Engine(), EngineFirst(), Local('docker')
            for each in (engine, alone):
                each.prepare()
            engine.start()
            stack.callback(engine.stop)
            found += [
                Row('docker: true', "the engine's exec", 0.5, box_of(found, 'docker: true'), engine.true, 6),
                Row(
                    'docker: create, true, stop',
                    "the engine's own calls",
                    3.5,
                    renewed(fresh, fresh.true),
                    renewed(alone, alone.true),
                    3,
                ),
            ]
        yield found


def box_of(found: list[Row], what: str) -> Callable[[], object]:
    """Return what a row measures."""
    return next(each.ours for each in found if each.what == what)


def main() -> int:
    """Measure all rows; the exit code is 1 when one stays above its bound."""
    from benchmarks.__main__ import find_kinds

    kinds, engine = find_kinds()
    began, failed = time.monotonic(), 0
    print(
        f'{", ".join(kinds) or "nothing to measure"}; {engine}; {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}'
    )
    with rows(kinds) as found:
        for row in found:
            for _ in range(ATTEMPTS):
                ours, floor = row.measure()
                if ours <= row.bound * floor:
                    break
            else:
                failed += 1
            mark = 'ok' if ours <= row.bound * floor else 'TOO SLOW'
            figures = f'{ours / floor:7.3f}  ({ours * 1e3:.2f} of {floor * 1e3:.2f} ms)'
            print(f'{row.what:36} {figures:36} at most {row.bound:g} of {row.of:28} {mark}', flush=True)
    print(f'{failed} too slow' if failed else f'all within their bounds, in {time.monotonic() - began:.0f} s')
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
