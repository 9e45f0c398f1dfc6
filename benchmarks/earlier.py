"""Compare this library with an earlier commit of itself, in one run: creation, warm calls, throughput and memory.

    python -m benchmarks.earlier COMMIT [--scale 1.0] [--output FILE]

Both take turns, round by round, with the same programs. Prints the medians of each, and the medians of the rounds' ratios:
above 1 this library takes longer than it did. What the earlier one cannot do is left out. Needs git and the kinds of
sandboxes to compare; the packages of this environment serve both.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import statistics
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from benchmarks import __main__ as bench
from benchmarks import field
from benchmarks.goals import OPERATIONS
from benchmarks.measure import machine, ratio
from benchmarks.participant import HERE, Entry
from benchmarks.parts.beside import Beside

WAYS = ('Local', 'Remote', 'Notebook', 'RemoteNotebook')
BEFORE = ', before'
DIGITS = 3


@contextlib.contextmanager
def library_at(commit: str) -> Iterator[Path]:
    """Give a folder with the package of a commit."""
    command = ['git', 'archive', commit, 'enclave']
    try:
        packed = subprocess.run(command, cwd=HERE.parent, capture_output=True, check=True)
    except OSError as error:
        raise SystemExit(f'{commit} cannot be had without git: {error}') from None
    except subprocess.CalledProcessError as error:
        raise SystemExit(f'{commit}: {error.stderr.decode("utf-8", "replace").strip()}') from None
    with tempfile.TemporaryDirectory(prefix='enclave-earlier-') as folder:
        with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as archive:
            archive.extractall(folder, filter='data')
        yield Path(folder)


def entries(kinds: Sequence[str], earlier: Path) -> list[Entry]:
    """Return the ways of this library, each followed by the same one of the earlier library."""
    found = []
    for each in bench.chosen_entries(list(kinds), None, with_peers=False):
        if each.is_ours and each.way in WAYS:
            found += [each, attrs.evolve(each, name=each.name + BEFORE, environ=_environ(earlier))]
    return found


def _environ(earlier: Path) -> Callable[[], Mapping[str, str]]:
    return lambda: {'PYTHONPATH': f'{earlier}:{HERE.parent}'}


def rows(part: Beside) -> Iterator[dict[str, Any]]:
    """Yield what was measured of both: ``{'what', 'way', 'now', 'before', 'ratio'}``, times in seconds."""

    def row(what: str, way: str, now: Sequence[float], before: Sequence[float]) -> dict[str, Any]:
        medians = {'now': statistics.median(now), 'before': statistics.median(before)}
        return {'what': what, 'way': way, **medians, 'ratio': ratio(now, before)}

    for way, steps in part.creation.items():
        for step, text in (('first', 'create to first result'), ('stop', 'stop and remove')):
            before = part.creation.get(way + BEFORE, {}).get(step)
            if steps[step] and before:
                yield row(text, way, steps[step], before)
    for figures, unit in ((part.calls, ''), (part.cpu, ', processor time')):
        for operation, ways in figures.items():
            for way, now in ways.items():
                if way + BEFORE in ways:
                    yield row(OPERATIONS[operation] + unit, way, now, ways[way + BEFORE])
    for way, now in part.rates['print_one'].items():
        if way + BEFORE in part.rates['print_one']:
            before = part.rates['print_one'][way + BEFORE]
            yield row('a program of four at once', way, [1 / each for each in now], [1 / each for each in before])


def measure(commit: str, scale: float) -> dict[str, Any]:
    """Measure both and return ``{'commit', 'machine', 'rows', 'left_out'}``."""
    kinds, engine = bench.find_kinds()
    if not kinds:
        raise SystemExit('Nothing can be measured: `ms-enclave doctor` says what is missing for sandboxes here.')
    with contextlib.ExitStack() as stack:
        earlier = stack.enter_context(library_at(commit))
        logs = stack.enter_context(tempfile.TemporaryDirectory(prefix='enclave-bench-'))
        found = stack.enter_context(field.running(entries(kinds, earlier), Path(logs)))
        part = Beside(found, scale=scale)
        part.create(max(2, round(9 * scale)))
        part.start()
        part.call(max(2, round(9 * scale)))
        part.stop()
        part.fill(max(1, round(4 * scale)), [each.name for each in found])
        left_out = {each.name: each.reason for each in found if each.reason}
        left_out.update({f'{each.name}: {name}': why for each in found for name, why in each.failures.items()})
    return {'commit': commit, 'engine': engine, 'machine': machine(), 'rows': list(rows(part)), 'left_out': left_out}


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').partition('\n')[0])
    parser.add_argument('commit', help='what git knows it by')
    parser.add_argument('--scale', type=float, default=1.0, help='how long to measure; 1 is some five minutes')
    parser.add_argument('--output', type=Path, help='a file for the figures, as JSON')
    arguments = parser.parse_args()
    results = measure(arguments.commit, arguments.scale)
    print(f'{"":<32} {"":<32} {"now":>9} {"before":>9} {"ratio":>6}   (ms; the ratio is the median of the rounds)')
    for each in results['rows']:
        now, before = (f'{each[name] * 1e3:.{DIGITS}g}' for name in ('now', 'before'))
        print(f'{each["what"]:<32} {each["way"]:<32} {now:>9} {before:>9} {each["ratio"]:>6.2f}')
    for name, why in results['left_out'].items():
        print(f'left out: {name}: {why[:150]}')
    if arguments.output:
        arguments.output.write_text(json.dumps(results, indent=1) + '\n', 'utf-8')
    return 0


if __name__ == '__main__':
    sys.exit(main())
