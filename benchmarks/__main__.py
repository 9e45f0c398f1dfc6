"""Measure everything in one run and write the report.

    python -m benchmarks [--only PART ...] [--scale 1.0] [--output docs/benchmarks] [--note TEXT]
    python -m benchmarks --short

Needs bubblewrap or a container engine; what is missing is left out and said. Other programs are installed from PyPI
into environments of their own below ``.envs/`` (``--prepare`` does that alone). The report is ``index.md``,
``results.json`` and plots.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs

from benchmarks import field, goals, report
from benchmarks.measure import machine
from benchmarks.participant import HERE, find_python
from benchmarks.parts import beside, curves, e2b, others
from tests.support.environments import environment

LATE_SECONDS, LATE_SCALE = 600.0, 0.2
"""From this moment on the parts that are left measure for a shorter time, so that a run ends after some twelve minutes."""
PLOTS = ('bench-plots', 'matplotlib')
NUMPY = ('bench-numpy', 'numpy')


def find_kinds() -> tuple[list[str], str]:
    """Return the kinds of sandboxes that this machine can make, and a description of its engine."""
    kinds, engine = [], 'no container engine'
    with contextlib.suppress(Exception):
        from enclave.sandboxes.docker.engine import get_engine

        info = get_engine().describe()
        engine = f'{info.name} {info.version}'
        kinds.append('docker')
    with contextlib.suppress(Exception):
        subprocess.run([field.bubblewrap_program(), '--version'], capture_output=True, check=True)
        kinds.append('bubblewrap')
    return kinds, engine


def find_environment(name: str, *packages: str) -> str | None:
    """Return the Python of an environment with these packages, None where they cannot be installed."""
    try:
        return str(environment(name, *packages, with_enclave=False))
    except subprocess.CalledProcessError as error:
        print(f'    {packages[0]} cannot be installed: {error}', flush=True)
        return None


def chosen_entries(kinds: list[str], numpy_python: str | None, *, with_peers: bool) -> list[Any]:
    """Return who takes part on this machine."""
    found = field.entries(sys.executable, numpy_python)
    if 'docker' not in kinds:
        needs = ('Engine', 'EngineFirst', 'Exec', 'Run')
        found = [
            each
            for each in found
            if 'docker' not in each.settings.get('kind', '') and each.way not in needs and not each.packages
        ]
    if 'bubblewrap' not in kinds:
        found = [each for each in found if 'bubblewrap' not in each.settings.get('kind', '')]
    return [each for each in found if with_peers or not each.packages]


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run the parts and return all figures."""
    began = time.monotonic()
    kinds, engine = find_kinds()
    if not kinds:
        raise SystemExit('Nothing can be measured: `ms-enclave doctor` says what is missing for sandboxes here.')
    results: dict[str, Any] = {
        'taken': time.strftime('%Y-%m-%d'),
        'note': arguments.note,
        'machine': machine(),
        'engine': engine,
        'implementation': platform.python_implementation(),
        'parts': {},
    }
    parts: dict[str, Callable[[], Any]] = {
        'beside': lambda: measure_beside(results, kinds, arguments),
        'curves': lambda: measure_curves(results, kinds, arguments),
        **{name: (lambda part=part: tables(part, kinds, arguments.scale)) for name, part in others.PARTS.items()},  # type: ignore[misc]
    }
    for name, part in parts.items():
        if arguments.only and name not in arguments.only:
            continue
        elapsed = time.monotonic() - began
        print(f'==> {name}, at {elapsed:.0f} s', flush=True)
        if elapsed > LATE_SECONDS:
            arguments.scale = min(arguments.scale, LATE_SCALE)
        try:
            results['parts'][name] = part()
        except Exception as error:
            if arguments.strict:
                raise
            print(f'    failed: {type(error).__name__}: {error}', flush=True)
        results['load_after'] = os.getloadavg()[0]
        results['seconds'] = time.monotonic() - began
        if arguments.output:
            write(results, arguments.output, with_plots=False)  # so that a run that is ended leaves what it has
    return results


def tables(part: Callable[[list[str], float], list[Any]], kinds: list[str], scale: float) -> list[dict[str, Any]]:
    """Return the tables of a smaller part as plain values."""
    return [attrs.asdict(each) for each in part(kinds, scale)]


def measure_curves(results: dict[str, Any], kinds: list[str], arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure how it scales; what was measured before a failure stays."""
    figures: dict[str, Any] = {}
    results['parts']['curves'] = figures
    curves.measure(kinds, figures, scale=arguments.scale)
    return figures


def measure_beside(results: dict[str, Any], kinds: list[str], arguments: argparse.Namespace) -> dict[str, Any]:
    """Run everything that is compared side by side; what was measured before a failure stays."""
    figures: dict[str, Any] = {}
    numpy_python = find_environment(*NUMPY) if 'bubblewrap' in kinds else None
    found = chosen_entries(kinds, numpy_python, with_peers=not arguments.without_peers)
    if arguments.ways:
        found = [each for each in found if any(word in each.name for word in arguments.ways)]
    with tempfile.TemporaryDirectory(prefix='enclave-bench-') as logs, field.running(found, Path(logs)) as taking_part:
        results['parts']['beside'] = figures
        try:
            beside.measure(taking_part, figures, scale=arguments.scale)
        finally:
            results['participants'] = [
                {
                    'name': each.name,
                    'version': each.version,
                    'note': each.entry.note,
                    'reason': each.reason,
                    'failures': each.failures,
                }
                for each in taking_part
            ]
    return figures


def write(results: dict[str, Any], folder: Path, *, with_plots: bool = True) -> None:
    """Write the report."""
    folder.mkdir(parents=True, exist_ok=True)
    results = _rounded(results)
    (folder / 'results.json').write_text(json.dumps(results, indent=1) + '\n', 'utf-8')
    (folder / 'index.md').write_text(report.page(results), 'utf-8')
    page = folder.parent / 'comparison.md'
    with contextlib.suppress(FileNotFoundError, KeyError):  # another folder, or a run of some parts only
        page.write_text(report.with_table(page.read_text('utf-8'), report.compared(results)), 'utf-8')
    plots = find_environment(*PLOTS) if with_plots else None
    if plots:
        subprocess.run([plots, str(HERE / 'plots.py'), str(folder / 'results.json'), str(folder)], check=True)


def _rounded(value: Any) -> Any:
    """Return figures with six digits, which is more than they are worth."""
    if isinstance(value, float):
        return float(f'{value:.6g}')
    if isinstance(value, dict):
        return {name: _rounded(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(each) for each in value]
    return value


def main() -> int:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').partition('\n')[0])
    parser.add_argument('--only', nargs='*', metavar='PART', help=f'beside, curves, {", ".join(others.PARTS)}')
    parser.add_argument('--scale', type=float, default=1.0, help='how long to measure; 1 is some ten minutes')
    parser.add_argument('--output', type=Path, help='where to write the report; nothing is written without it')
    parser.add_argument('--note', default='', help='what readers of the report must know, as that the machine was busy')
    parser.add_argument(
        '--ways', nargs='*', metavar='WORD', help='let only those take part whose names have one of these'
    )
    parser.add_argument('--without-peers', action='store_true', help='leave out the programs from PyPI')
    parser.add_argument('--prepare', action='store_true', help='only make the environments of other programs')
    parser.add_argument('--report', type=Path, metavar='RESULTS', help='only write the page of an earlier run again')
    parser.add_argument('--strict', action='store_true', help='end with the first failure')
    parser.add_argument('--short', action='store_true', help='only the ratios that guard against regressions')
    arguments = parser.parse_args()
    if arguments.short:
        from benchmarks import short

        return short.main()
    if arguments.prepare:
        for entry in field.peers():
            print(f'==> {entry.name}: {find_python(entry)}', flush=True)
        for name, *packages in (PLOTS, NUMPY, e2b.SDK):
            print(f'==> {packages[0]}: {find_environment(name, *packages)}', flush=True)
        return 0
    results = json.loads(arguments.report.read_text('utf-8')) if arguments.report else measure(arguments)
    for each in goals.goals(results):
        mark = {True: 'reached', False: 'MISSED', None: ''}[each.met]
        print(f'{each.what:<76} {each.goal:<28} {each.measured:<40} {mark}')
    if arguments.output or arguments.report:
        write(results, arguments.output or arguments.report.parent)
    return 0


if __name__ == '__main__':
    sys.exit(main())
