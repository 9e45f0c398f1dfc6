"""How the commands print (floor 6): results on standard output, progress on standard error, JSON when asked.

On a terminal progress is one line that moves; anywhere else, a log or a pipe, it is plain lines.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click

_LINE_INTERVAL = 1.0
_MEBIBYTE = 2**20


def echo_json(value: Any) -> None:
    """Print a JSON-compatible value."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


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
        counted = f' ({done // _MEBIBYTE} of {total // _MEBIBYTE} MB)' if done is not None and total else ''
        click.echo(f'  {now - started_at:5.1f} s  {message}{counted}', err=True)

    yield report
