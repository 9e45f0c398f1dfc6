"""How the commands print (floor 6): results on standard output, progress on standard error, JSON when asked.

On a terminal progress is one line that moves and tables are coloured; anywhere else, a log or a pipe, they are plain lines.
Text that comes from an engine or a server is shown with its control characters made visible, so that none steers a terminal.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import click

_LINE_INTERVAL = 1.0
_MEBIBYTE = 2**20


def echo_json(value: Any) -> None:
    """Print a JSON-compatible value."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def echo_error(message: str) -> None:
    """Print what went wrong, on standard error."""
    lines = '\n'.join(visible(line) for line in str(message).split('\n'))
    click.echo(f'{click.style("Error:", fg="red", bold=True)} {lines}', err=True)


def visible(text: Any) -> str:
    """Return text with control characters as escapes."""
    return ''.join(c if c.isprintable() else c.encode('unicode_escape').decode('ascii') for c in str(text))


def print_table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print rows under a head: in colour and fitted to it on a terminal, else in plain columns that nothing is cut from."""
    texts = [[visible('' if cell is None else cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style='bold')
        for title in head:
            table.add_column(title, overflow='fold')
        for row in texts:
            table.add_row(*(Text(cell, style=_STYLES.get(cell.partition(' ')[0], '')) for cell in row))
        Console().print(table)
        return
    widths = [max(len(row[column]) for row in [list(head), *texts]) for column in range(len(head))]
    for row in [list(head), *texts]:
        click.echo('  '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


_STYLES = {
    'running': 'green',
    'idle': 'green',
    'ok': 'green',
    'success': 'green',
    'busy': 'cyan',
    'initializing': 'yellow',
    'stopping': 'yellow',
    'timeout': 'yellow',
    'stopped': 'dim',
    'error': 'red',
    'dead,': 'red',
}


def print_facts(facts: Sequence[tuple[str, Any]], *, indent: int = 0) -> None:
    """Print names and values in two columns; a dict or list of values goes below its name."""
    width = max((len(name) for name, _ in facts), default=0)
    space = ' ' * indent
    for name, value in facts:
        if isinstance(value, dict) and value:
            click.echo(f'{space}{click.style(visible(name), bold=True)}')
            print_facts([(str(key), each) for key, each in value.items()], indent=indent + 2)
        else:
            click.echo(f'{space}{click.style(visible(name).ljust(width), bold=True)}  {_shown(value)}'.rstrip())


def _shown(value: Any) -> str:
    if value is None or value in ({}, [], ()):
        return '-'
    if isinstance(value, bool):
        return 'yes' if value else 'no'
    if isinstance(value, (list, tuple)):
        return ', '.join(visible(each) for each in value)
    return visible(value)


def format_age(moment: datetime | None, now: datetime) -> str:
    """Return how long ago a moment was, in its two largest units, like ``3m 12s``; '' for None."""
    if moment is None:
        return ''
    seconds = max(0, int((now - moment).total_seconds()))
    parts: list[str] = []
    for unit, size in (('d', 86400), ('h', 3600), ('m', 60), ('s', 1)):
        amount, seconds = divmod(seconds, size)
        if amount or (unit == 's' and not parts):
            parts.append(f'{amount}{unit}')
        elif parts:
            break
    return ' '.join(parts[:2])


def format_size(size_bytes: int) -> str:
    """Return a size as people read it, like ``159.7 MB`` (units of 1024)."""
    size = float(size_bytes)
    for unit in ('B', 'KB', 'MB', 'GB'):
        if size < 1024 or unit == 'GB':
            return f'{size:.0f} {unit}' if unit == 'B' else f'{size:.1f} {unit}'
        size /= 1024
    raise AssertionError('unreachable')


Reporter = Callable[[str, int | None, int | None], None]


@contextmanager
def progress(title: str, *, quiet: bool = False) -> Iterator[Reporter]:
    """Show what a slow step is doing; yields ``report(message, done_bytes, total_bytes)``, both None where nobody counts.

    At the end it says how long the step took.
    """
    started_at = time.monotonic()
    if quiet:
        yield lambda message, done, total: None
        return
    inner = _moving_line(title) if sys.stderr.isatty() else _plain_lines(title)
    with inner as report:
        yield report
    click.echo(f'{title}: done in {time.monotonic() - started_at:.1f} s', err=True)


@contextmanager
def _moving_line(title: str) -> Iterator[Reporter]:
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(),
        TextColumn('{task.description}'),
        BarColumn(bar_width=24),
        TimeElapsedColumn(),
        TextColumn('{task.fields[detail]}', table_column=None),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(escape(title), total=None, detail='')

        def report(message: str, done: int | None, total: int | None) -> None:
            bar.update(task, detail=escape(message[:70]), completed=done or 0, total=total)

        yield report


@contextmanager
def _plain_lines(title: str) -> Iterator[Reporter]:
    click.echo(f'{title} ...', err=True)
    started_at = time.monotonic()
    last = -_LINE_INTERVAL

    def report(message: str, done: int | None, total: int | None) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < _LINE_INTERVAL:
            return
        last = now
        counted = (
            f' ({done // _MEBIBYTE} of {total // _MEBIBYTE} MB)'
            if done is not None and total and total >= _MEBIBYTE
            else ''
        )
        click.echo(f'  {now - started_at:5.1f} s  {message}{counted}', err=True)

    yield report
