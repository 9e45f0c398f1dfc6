"""A run's figures as a page of the documentation."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.goals import OPERATIONS, goals
from benchmarks.measure import ratio, spread
from benchmarks.parts.beside import CREATED_ONLY


def page(results: Mapping[str, Any]) -> str:
    """Return the page in Markdown."""
    machine, beside = results['machine'], results['parts'].get('beside')
    lines = ['# Benchmarks', '']
    if results.get('note'):
        lines += ['!!! warning', '', f'    {results["note"]}', '']
    memory = f'{machine.get("memory", 0) / 2**30:.0f} GiB of memory'
    lines += [
        f'What `make bench` measured on {results["taken"]} in {results["seconds"] / 60:.0f} minutes,',
        f'with {machine["processors"]} processors, {memory}, {machine["system"]}, Python {machine["python"]},',
        f'{results["engine"]}. The average load was {machine["load"]:.1f} at the beginning,',
        f'{results["load_after"]:.1f} at the end.',
        '',
        'All that is compared took turns, round by round. A figure is the median of its rounds; in brackets are the quartiles.',
        'Ratios are medians of the ratios of each round. Options are those users have by default, so Docker sandboxes have a',
        'network; but this library keeps all of the five megabytes of output, as the others do, not one MiB of them.',
        'The figures themselves are in [results.json](results.json); [where the time goes](../performance.md) says what they',
        'are made of.',
        '',
    ]
    lines += _goals(results)
    if beside and beside['calls']:
        lines += _participants(results) + _beside(beside)
    if results['parts'].get('curves'):
        lines += _curves(results['parts']['curves'])
    for title, tables in results['parts'].items():
        if title not in ('beside', 'curves'):
            lines += _tables(tables)
    return '\n'.join(lines).rstrip('\n') + '\n'


COMPARED = {
    'enclave, Docker': 'enclave, Docker',
    'enclave, HTTP to Docker': 'the same over HTTP',
    'enclave, bubblewrap': 'enclave, bubblewrap',
    'ms-enclave': 'ms-enclave 0.0.8',
    'llm-sandbox': 'llm-sandbox',
    'swe-rex': 'swe-rex',
}
"""What the table of the page that compares shows, and how it is called there."""


def compared(results: Mapping[str, Any]) -> str:
    """Return the table of docs/comparison.md, in Markdown; KeyError where one of its figures was not measured."""
    beside = results['parts']['beside']
    rows = {'create to first result, network on': {name: beside['creation'][name]['first'] for name in COMPARED}}
    rows.update({text: beside['calls'][name] for name, text in OPERATIONS.items() if name != 'cell'})
    lines = [f'| path, milliseconds | {" | ".join(COMPARED.values())} |', f'| --- |{" ---: |" * len(COMPARED)}']
    for text, row in rows.items():
        figures = (_short(1000 * statistics.median(row[name])) for name in COMPARED)
        lines.append(f'| {text} | {" | ".join(figures)} |')
    return '\n'.join(lines) + '\n'


def with_table(page: str, table: str) -> str:
    """Return a page with this table in the place of the one that has the same first column."""
    start = page.index(table.partition(' |')[0])
    return page[:start] + table + page[page.index('\n\n', start) + 1 :]


def _goals(results: Mapping[str, Any]) -> list[str]:
    lines = ['## Goals', '', '| what | goal | measured | |', '| --- | --- | --- | --- |']
    verdicts = {True: 'reached', False: '**missed**', None: ''}
    found = goals(results)
    lines += [f'| {each.what} | {each.goal} | {each.measured} | {verdicts[each.met]} |' for each in found]
    missed = [each for each in found if each.met is False and each.why]
    if missed:
        lines += ['', 'What stands between a missed line and its goal:', '']
        lines += [f'- {each.what}: {each.why}' for each in missed]
    return [*lines, '']


def _participants(results: Mapping[str, Any]) -> list[str]:
    lines = ['## Who takes part', '', '| | version | |', '| --- | --- | --- |']
    for each in results['participants']:
        texts = [each['note']] if each['note'] else []
        texts += [f'took no part, or not to the end: {each["reason"]}'] if each['reason'] else []
        texts += [f'not {OPERATIONS[name]}: {reason}' for name, reason in each['failures'].items()]
        text = '; '.join(texts)
        text = text.replace('|', '&#124;').replace('<', '&lt;')
        lines.append(f'| {each["name"]} | {each["version"]} | {text} |')
    return [*lines, '']


def _milliseconds(values: Sequence[float]) -> str:
    found = spread([1000 * each for each in values])
    return f'{_short(found["median"])} ({_short(found["low"])} to {_short(found["high"])})'


def _short(value: float) -> str:
    return f'{value:.0f}' if value >= 100 else f'{value:.1f}' if value >= 10 else f'{value:.2f}'


def _beside(beside: Mapping[str, Any]) -> list[str]:
    calls, creation = beside['calls'], beside['creation']
    names = [name for name in dict.fromkeys(name for each in calls.values() for name in each) if name != CREATED_ONLY]
    lines = ['## Calls of a sandbox that is there', '', 'Milliseconds.', '']
    lines += [f'| | {" | ".join(OPERATIONS.values())} |', '| --- |' + ' ---: |' * len(OPERATIONS)]
    for name in names:
        cells = [
            _milliseconds(calls.get(each, {}).get(name, ())) if calls.get(each, {}).get(name) else ''
            for each in OPERATIONS
        ]
        lines.append(f'| {name} | {" | ".join(cells)} |')
    lines += [
        '',
        '![Calls side by side](calls.svg)',
        '',
        'As ratios to native processes (a cell: to a local Jupyter kernel; numpy: to native processes that import it):',
        '',
    ]
    lines += [f'| | {" | ".join(OPERATIONS.values())} |', '| --- |' + ' ---: |' * len(OPERATIONS)]
    for name in names:
        cells = []
        for each in OPERATIONS:
            native = 'native, numpy' if 'numpy' in name else 'native'
            floor = calls.get(each, {}).get('local Jupyter kernel' if each == 'cell' else native)
            own = calls.get(each, {}).get(name)
            cells.append(f'{ratio(own, floor):.3g}' if floor and own else '')
        lines.append(f'| {name} | {" | ".join(cells)} |')
    lines += [
        '',
        '## Creation and removal',
        '',
        'Milliseconds from nothing to the first result (`true`, or a cell where there are only cells), the same to the first',
        '`print(1)`, and from stop to gone.',
        '',
        '| | to first result | to first `print(1)` | stop and remove |',
        '| --- | ---: | ---: | ---: |',
    ]
    for name, each in creation.items():
        cells = [_milliseconds(each[what]) if each[what] else '' for what in ('first', 'print', 'stop')]
        if name in ('bwrap', 'docker run'):
            cells[2] = ''
        lines.append(f'| {name} | {" | ".join(cells)} |')
    lines += ['', '![Creation side by side](creation.svg)', '']
    lines += ['## Four at once', '', 'Programs (`print(1)`) a second of four sandboxes, each with a caller.', '']
    lines += ['| | a second | of native |', '| --- | ---: | ---: |']
    native = beside['rates']['print_one'].get('native')
    for name, rates in beside['rates']['print_one'].items():
        of = f'{ratio(rates, native):.2f}' if native else ''
        lines.append(f'| {name} | {statistics.median(rates):.0f} | {of} |')
    lines += [
        '',
        '## Memory',
        '',
        'What a sandbox takes that has been used and does nothing, shared pages divided among those that share them.',
    ]
    lines += ['', '| | MiB |', '| --- | ---: |']
    lines += [f'| {name} | {size / 2**20:.1f} |' for name, size in beside['memory'].items()]
    return [*lines, '']


def _curves(curves: Mapping[str, Any]) -> list[str]:
    lines = ['## How it scales', '']
    for name, show in (('callers', _callers), ('alive', _alive), ('sizes', _sizes)):
        if curves.get(name):
            lines += show(curves[name])
    return lines


def _callers(curves: Mapping[str, Any]) -> list[str]:
    lines = ['### Callers', '']
    lines += [
        'Calls of `true` a second in a pool of eight. From eight callers on the line is level, and a wait is as long as its',
        'queue.',
        '',
    ]
    lines += [
        f'| callers | {" | ".join(f"{name} | p50 ms | p99 ms" for name in curves)} |',
        '| ---: |' + ' ---: |' * 3 * len(curves),
    ]
    for points in zip(*curves.values(), strict=True):
        cells = [f'{each["rate"]:.0f} | {_short(1000 * each["p50"])} | {_short(1000 * each["p99"])}' for each in points]
        lines.append(f'| {points[0]["callers"]} | {" | ".join(cells)} |')
    return [*lines, '', '![Throughput and waits against callers](callers.svg)', '']


def _alive(curves: Mapping[str, Any]) -> list[str]:
    lines = ['### Sandboxes alive', '']
    lines += ['The line is level for times, and straight for memory: what is shown is for each sandbox.', '']
    for kind, points in curves.items():
        lines += [
            f'| {kind}: alive | creation ms (four at a time) | `true` ms | p99 ms | host process KB | sandbox MiB |',
            '| ---: |' + ' ---: |' * 5,
        ]
        for each in points:
            lines.append(
                f'| {each["alive"]} | {_short(1000 * each["create"])} | {_short(1000 * each["true"])} | '
                f'{_short(1000 * each["p99"])} | {each["host_bytes"] / each["alive"] / 1024:.0f} | '
                f'{each["sandbox_bytes"] / 2**20:.1f} |'
            )
        lines.append('')
    return [*lines, '![Cost of each sandbox against their number](alive.svg)', '']


def _sizes(curves: Mapping[str, Any]) -> list[str]:
    lines = ['### Sizes', '']
    lines += [
        'Milliseconds for outputs (all returned; or one MiB of them kept) and files. The line is a fixed cost and a rate.',
        '',
    ]
    for way, title in {'output': 'output', 'capped': 'output, 1 MiB kept', 'in': 'file in', 'out': 'file out'}.items():
        lines += [f'| {title} | {" | ".join(curves[way])} |', '| ---: |' + ' ---: |' * len(curves[way])]
        for points in zip(*curves[way].values(), strict=True):
            cells = [_short(1000 * each['seconds']) for each in points]
            lines.append(f'| {_size(points[0]["bytes"])} | {" | ".join(cells)} |')
        lines.append('')
    return [*lines, '![Times against sizes](sizes.svg)', '']


def _size(count: int) -> str:
    return f'{count >> 20} MB' if count >= 1 << 20 else f'{count >> 10} KB'


def _tables(tables: Sequence[Mapping[str, Any]]) -> list[str]:
    verdicts = {True: 'reached', False: '**missed**', None: ''}
    lines: list[str] = []
    for table in tables:
        lines += [f'## {table["title"]}', '', '| what | measured | goal | |', '| --- | --- | --- | --- |']
        for row in table['rows']:
            lines.append(f'| {row["what"]} | {row["measured"]} | {row["goal"]} | {verdicts[row["met"]]} |')
        lines.append('')
    return lines
