"""Plots of a run's figures. Run by `benchmarks` in an environment of its own, which has matplotlib.

python plots.py RESULTS_JSON FOLDER
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path

import matplotlib

matplotlib.use('svg')
matplotlib.rcParams.update(
    {'svg.hashsalt': 'enclave', 'svg.fonttype': 'none', 'font.size': 8, 'axes.grid': True, 'grid.alpha': 0.3}
)
import matplotlib.pyplot as pyplot  # noqa: E402

OPERATIONS = {
    'true': 'true',
    'print_one': 'print(1)',
    'write': 'write 1 KB',
    'read': 'read 1 KB',
    'output': '5 MB of output',
    'cell': 'cell 1+1',
}


def save(figure, folder, name):
    """Write a picture without the moment it was made, so that equal figures give equal files."""
    figure.tight_layout()
    figure.savefig(Path(folder, f'{name}.svg'), metadata={'Date': None})
    pyplot.close(figure)


def pick_color(name):
    """Return which color a way has: this library, the floors, the peers."""
    peers = ('ms-enclave', 'llm-sandbox', 'swe-rex', 'inspect-ai', 'smolagents', 'autogen-ext')
    return '#3f51b5' if name.startswith('enclave') else '#c62828' if name in peers else '#757575'


def bars(axes, title, figures):
    """Draw the median of each way, the quickest on top."""
    medians = sorted(
        ((statistics.median(values) * 1000, name) for name, values in figures.items() if values), reverse=True
    )
    axes.barh(
        [name for _, name in medians], [value for value, _ in medians], color=[pick_color(name) for _, name in medians]
    )
    axes.set_xscale('log')
    axes.set_title(f'{title}, ms')


def beside(results, folder):
    """Draw calls and creation."""
    calls = results['calls']
    figure, grid = pyplot.subplots(3, 2, figsize=(11, 13))
    for axes, (operation, title) in zip(grid.flat, OPERATIONS.items(), strict=True):
        bars(axes, title, calls.get(operation, {}))
    save(figure, folder, 'calls')
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 5))
    creation = results['creation']
    bars(left, 'create to first result', {name: each['first'] for name, each in creation.items() if name != 'native'})
    bars(
        right,
        'stop and remove',
        {name: each['stop'] for name, each in creation.items() if name not in ('native', 'bwrap', 'docker run')},
    )
    save(figure, folder, 'creation')


def callers(curves, folder):
    """Draw throughput and waits against callers, with the lines they should follow."""
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.5))
    for name, points in curves.items():
        counts, rates = [each['callers'] for each in points], [each['rate'] for each in points]
        (line,) = left.plot(counts, rates, 'o-', label=name)
        level = statistics.median(each['rate'] for each in points if each['callers'] >= 8)
        left.plot([8, 256], [level, level], ':', color=line.get_color())
        right.plot(counts, [1000 * each['p50'] for each in points], 'o-', color=line.get_color(), label=f'{name}, p50')
        right.plot(counts, [1000 * each['p99'] for each in points], '^--', color=line.get_color(), label=f'{name}, p99')
        right.plot([8, 256], [1000 * 8 / level, 1000 * 256 / level], ':', color=line.get_color())
    for axes in (left, right):
        axes.set_xscale('log', base=2)
        axes.set_xlabel('callers')
        axes.legend(fontsize=6)
    left.set_ylim(bottom=0)
    right.set_yscale('log')
    left.set_title('calls a second (dotted: level)')
    right.set_title('wait in ms (dotted: as long as the queue)')
    save(figure, folder, 'callers')


def alive(curves, folder):
    """Draw memory and times against the number of sandboxes."""
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.5))
    for kind, points in curves.items():
        counts, grown = [each['alive'] for each in points], [each['host_bytes'] / 2**20 for each in points]
        (line,) = left.plot(counts, grown, 'o-', label=f'{kind}, host process')
        left.plot([counts[0], counts[-1]], [grown[0], grown[-1]], ':', color=line.get_color())
        right.plot(
            counts, [1000 * each['true'] for each in points], 'o-', color=line.get_color(), label=f'{kind}, true'
        )
        right.plot(
            counts, [1000 * each['create'] for each in points], '^--', color=line.get_color(), label=f'{kind}, creation'
        )
    left.set_title('memory of the host process, MiB (dotted: straight)')
    right.set_title('ms for one (level is right)')
    right.set_yscale('log')
    right.set_xscale('log', base=2)
    for axes in (left, right):
        axes.set_xlabel('sandboxes alive')
        axes.legend(fontsize=6)
    save(figure, folder, 'alive')


def sizes(curves, folder):
    """Draw times against sizes, with a fixed cost and a rate."""
    titles = {'output': 'output', 'capped': 'output, 1 MiB kept', 'in': 'file in', 'out': 'file out'}
    figure, grid = pyplot.subplots(2, 2, figsize=(11, 8))
    for axes, (way, title) in zip(grid.flat, titles.items(), strict=True):
        for name, points in curves[way].items():
            counts, times = [each['bytes'] for each in points], [1000 * each['seconds'] for each in points]
            (line,) = axes.plot(counts, times, 'o-', label=name)
            slope = (times[-1] - times[0]) / (counts[-1] - counts[0])
            axes.plot(counts, [times[0] + slope * (each - counts[0]) for each in counts], ':', color=line.get_color())
        axes.set_xscale('log', base=2)
        axes.set_yscale('log')
        axes.set_title(f'{title}, ms (dotted: fixed cost and a rate)')
        axes.set_xlabel('bytes')
        axes.legend(fontsize=6)
    save(figure, folder, 'sizes')


def main():
    """Draw all that was measured."""
    results, folder = json.loads(Path(sys.argv[1]).read_text('utf-8')), sys.argv[2]
    parts = results['parts']
    if parts.get('beside'):
        beside(parts['beside'], folder)
    for name, draw in (('callers', callers), ('alive', alive), ('sizes', sizes)):
        if parts.get('curves', {}).get(name):
            draw(parts['curves'][name], folder)


if __name__ == '__main__':
    main()
