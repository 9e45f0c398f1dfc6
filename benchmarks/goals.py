"""What the project wants to reach, computed from a run's figures. Ratios are medians of the ratios of each round."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from attrs import frozen

from benchmarks.measure import ratio

DOCKER, BUBBLEWRAP = 'enclave, Docker', 'enclave, bubblewrap'
HTTP_DOCKER, HTTP_BUBBLEWRAP = 'enclave, HTTP to Docker', 'enclave, HTTP to bubblewrap'
OPERATIONS = {
    'true': '`true`',
    'print_one': '`print(1)`',
    'write': 'write 1 KB',
    'read': 'read 1 KB',
    'output': '5 MB of output',
    'cell': 'cell `1+1`',
}
FLAT, KILOBYTES_EACH = 0.15, 300


@frozen
class Goal:
    """One line of the table: ``met`` is None where it could not be measured."""

    what: str
    goal: str
    measured: str
    met: bool | None
    why: str = ''
    """Where the time goes, for readers of a goal that is missed."""


class Figures:
    """Access to a run's figures that says "not there" in one way: `KeyError`."""

    def __init__(self, results: Mapping[str, Any]) -> None:
        self.beside: Mapping[str, Any] = results['parts'].get('beside') or {}
        self.curves: Mapping[str, Any] = results['parts'].get('curves') or {}

    def calls(self, operation: str, name: str) -> Sequence[float]:
        return list(self.beside['calls'][operation][name])

    def of(self, operation: str, above: str, below: str) -> float:
        return ratio(self.calls(operation, above), self.calls(operation, below))

    def creation(self, name: str, what: str = 'first') -> Sequence[float]:
        found = list(self.beside['creation'][name][what])
        if not found:
            raise KeyError(name)
        return found

    def rate(self, name: str) -> Sequence[float]:
        return list(self.beside['rates']['print_one'][name])


def goals(results: Mapping[str, Any]) -> list[Goal]:
    """Return all goals, each measured or not."""
    figures, found = Figures(results), []
    for what, goal, measure in _measures(figures):
        try:
            measured, met = measure()
        except (KeyError, IndexError, ValueError, ZeroDivisionError, statistics.StatisticsError):
            measured, met = 'not measured in this run', None
        found.append(
            Goal(what, goal, measured, met, next((why for start, why in WHY.items() if what.startswith(start)), ''))
        )
    return found


def _at_most(value: float, bound: float) -> tuple[str, bool]:
    return f'{value:.3g}', value <= bound


def _measures(figures: Figures) -> Iterator[tuple[str, str, Callable[[], tuple[str, bool]]]]:
    of = figures.of
    for kind in (BUBBLEWRAP, DOCKER):
        yield (
            f'`print(1)` with `preload: []`, {kind.partition(", ")[2]}',
            'at most 0.35 of native',
            lambda k=kind: _at_most(of('print_one', f'{k}, preload []', 'native'), 0.35),  # type: ignore[misc]
        )
    yield (
        '`import numpy` with numpy preloaded',
        'at most 0.08 of native',
        lambda: _at_most(of('print_one', f'{BUBBLEWRAP}, numpy preloaded', 'native, numpy'), 0.08),
    )

    def throughput() -> tuple[str, bool]:
        value = ratio(figures.rate(f'{BUBBLEWRAP}, preload []'), figures.rate('native'))
        return f'{value:.2f}', value >= 2.5

    yield 'programs a second with preload, four sandboxes', 'at least 2.5 times native', throughput
    for operation, bound in (('print_one', 0.08), ('true', 0.04), ('write', 0.01)):
        yield (
            f'{OPERATIONS[operation]}, of ms-enclave 0.0.8',
            f'at most {bound}',
            lambda o=operation, b=bound: _at_most(of(o, DOCKER, 'ms-enclave'), b),  # type: ignore[misc]
        )
    yield (
        'stop and remove, of ms-enclave 0.0.8',
        'at most 0.03',
        lambda: _at_most(
            statistics.median(figures.creation(DOCKER, 'stop'))
            / statistics.median(figures.creation('ms-enclave', 'stop')),
            0.03,
        ),
    )
    yield 'against every other peer, every path', 'ahead', lambda: _peers(figures)
    yield (
        'create to first result on Docker, network on, of the bare engine',
        'at most 1.15',
        lambda: _at_most(ratio(figures.creation(DOCKER), figures.creation('engine, container alone')), 1.15),
    )
    yield (
        'fresh bubblewrap sandbox and `print(1)`, of bare bwrap',
        'at most 1.5',
        lambda: _at_most(ratio(figures.creation(BUBBLEWRAP, 'print'), figures.creation('bwrap', 'print')), 1.5),
    )

    def cpu_over_http() -> tuple[str, bool]:
        found = []
        for remote, local in ((HTTP_DOCKER, DOCKER), (HTTP_BUBBLEWRAP, BUBBLEWRAP)):
            used = figures.beside['cpu']['true']
            found.append((statistics.median(used[remote]) - statistics.median(used[local])) * 1e3)
        return ', '.join(f'{each:.2f}' for each in found) + ' ms (Docker, bubblewrap)', max(found) <= 0.8

    yield 'processor time of a warm call over HTTP, more than in the process', 'at most 0.8 ms', cpu_over_http

    def beside_swe_rex() -> tuple[str, bool]:
        found = {}
        for operation in ('true', 'print_one', 'write', 'read', 'output'):
            found[operation] = of(operation, HTTP_DOCKER, 'swe-rex')
        found['creation'] = ratio(figures.creation(HTTP_DOCKER), figures.creation('swe-rex'))
        text = ', '.join(f'{OPERATIONS.get(name, name)} {value:.2f}' for name, value in found.items())
        return text, max(found.values()) < 1

    yield 'over HTTP, of swe-rex', 'below 1 on every path', beside_swe_rex

    def output_over_http() -> tuple[str, bool]:
        found = {}
        for way in ('output', 'capped'):
            sizes = figures.curves['sizes'][way]
            for kind in ('docker', 'bubblewrap'):
                for here, there in zip(sizes[kind], sizes[f'HTTP to {kind}'], strict=True):
                    if here['bytes'] in (1 << 23, 1 << 26):
                        name = f'{here["bytes"] >> 20} MB{", capped" if way == "capped" else ""}, {kind}'
                        found[name] = there['seconds'] / here['seconds']
        worst = max(found, key=lambda name: found[name])
        return f'{min(found.values()):.2f} to {found[worst]:.2f} ({worst})', found[worst] <= 1.2

    yield 'output over HTTP, 8 and 64 MB, with and without a cap', 'at most 1.2 of local', output_over_http

    def one_server() -> tuple[str, bool]:
        found = {}
        for kind in ('docker', 'bubblewrap'):
            here, there = (figures.curves['callers'][name] for name in (kind, f'HTTP to {kind}'))
            # The library at its best, the server at its best: the number of callers is each one's own choice.
            found[kind] = max(each['rate'] for each in there) / max(each['rate'] for each in here)
        return ', '.join(f'{value:.2f} ({name})' for name, value in found.items()), min(found.values()) >= 0.7

    yield 'calls a second of one server, `true`', 'at least 0.7 of the library', one_server

    def flat() -> tuple[str, bool]:
        found = {}
        for name, points in figures.curves['callers'].items():
            rates = [each['rate'] for each in points if each['callers'] >= 8]
            found[name] = 1 - min(rates) / max(rates)
        text = ', '.join(f'{value:.0%} ({name})' for name, value in found.items())
        return f'lowest below highest by {text}', max(found.values()) <= FLAT

    yield 'throughput from 8 to 256 callers', 'flat within 15 %', flat

    def memory() -> tuple[str, bool]:
        found = {}
        for kind, points in figures.curves['alive'].items():
            first, last = points[1], points[-1]
            grown = last['host_bytes'] - first['host_bytes']
            found[kind] = grown / (last['alive'] - first['alive']) / 1024
        text = ', '.join(f'{value:.0f} KB ({name})' for name, value in found.items())
        return text, max(found.values()) < KILOBYTES_EACH

    yield 'memory of the host process for each sandbox', f'below {KILOBYTES_EACH} KB', memory
    for name, bound in ((DOCKER, 6), (BUBBLEWRAP, 4)):
        yield (
            f'an idle sandbox, proportional memory, {name.partition(", ")[2]}',
            f'at most {bound} MiB',
            lambda n=name, b=bound: (  # type: ignore[misc]
                f'{figures.beside["memory"][n] / 2**20:.1f} MiB',
                figures.beside['memory'][n] <= b * 2**20,
            ),
        )


WHY = {
    '`print(1)` with': (
        'A fork and its end take 0.28 of a native start; the rest is the call: two messages, the agent, the supervisor that owns '
        'the template, and the check that nothing of the program is left.'
    ),
    '`import numpy`': 'The call itself, as above; a fork of an interpreter with numpy has more pages to copy.',
    'programs a second': 'Processor time of the call on both sides, with two processors for callers, agents and programs.',
    'stop and remove': 'Removing a container is the engine, whose own time is in the table of creation.',
    'create to first result on Docker': 'The agent: an interpreter that starts and greets, once the container runs.',
    'fresh bubblewrap': (
        'Two interpreters start one after the other, where bare bwrap starts one: the floor of that is 1.78.'
    ),
    'processor time of a warm call over HTTP': (
        'Some 90 functions of the client and 250 of the server for each request, beside the call itself.'
    ),
    'over HTTP, of swe-rex': 'Each of its calls is one POST to a server inside the container, without a server between.',
    'output over HTTP': 'Output goes through the kernel twice more; on two processors that takes turns with the program.',
    'calls a second of one server': 'One interpreter does the HTTP of all clients and all sandboxes; its lock is the limit.',
    'throughput from 8': 'Threads of the calling process wait for one interpreter lock; beside busy ones the waiting ones cost.',
    'an idle sandbox': 'The agent is a Python process; a bare one of the image takes more than half of this.',
    'against every other peer': 'The tables below have what each path costs.',
}
"""Why a goal may be missed, by the beginning of its line."""
PEERS = ('llm-sandbox', 'swe-rex', 'inspect-ai', 'smolagents', 'autogen-ext', 'ms-enclave')


def _peers(figures: Figures) -> tuple[str, bool]:
    behind, compared = [], 0
    for peer in PEERS:
        paths: dict[str, Callable[[str], float]] = {
            text: lambda ours, o=operation, p=peer: figures.of(o, ours, p)  # type: ignore[misc]
            for operation, text in OPERATIONS.items()
        }
        paths['creation'] = lambda ours, p=peer: (  # type: ignore[misc]
            statistics.median(figures.creation(ours)) / statistics.median(figures.creation(p))
        )
        paths['stop'] = lambda ours, p=peer: (  # type: ignore[misc]
            statistics.median(figures.creation(ours, 'stop')) / statistics.median(figures.creation(p, 'stop'))
        )
        paths['four at once'] = lambda ours, p=peer: ratio(figures.rate(p), figures.rate(ours))  # type: ignore[misc]
        ours = 'enclave, Docker notebook' if peer == 'smolagents' else DOCKER
        for name, path in paths.items():
            try:
                value = path(ours)
            except (KeyError, ValueError, statistics.StatisticsError):
                continue
            compared += 1
            if value >= 1:
                behind.append(f'{name} of {peer} ({value:.2f})')
    if not compared:
        raise KeyError('no peer')
    if behind:
        return f'behind in {len(behind)} of {compared}: {"; ".join(behind)}', False
    return f'ahead in all {compared}', True
