"""How the commands print (layer 6): results on standard output, progress on standard error, JSON when asked.

On a terminal progress is one line that moves and tables have colours; anywhere else, a log or a pipe, they are plain lines.
NO_COLOR takes the colours away, FORCE_COLOR puts them everywhere.
Text that comes from an engine or a server is shown with its control characters made visible, so that none steers a terminal.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import click

_LINE_INTERVAL = 1.0
_MEBIBYTE = 2**20


def echo_json(value: Any) -> None:
    """Print a JSON-compatible value."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def check_writable(output: Path, option: str) -> None:
    """Find out before anything runs that what comes of it could not be written.

    Raises:
        click.BadParameter: The directory of the file takes none; ``option`` named it.
    """
    try:
        with tempfile.TemporaryFile(dir=output.parent):
            pass
    except OSError as error:
        raise click.BadParameter(f'{str(output)!r} cannot be written: {error.strerror}', param_hint=option) from error


def echo_error(message: str) -> None:
    """Print what went wrong, on standard error."""
    lines = '\n'.join(visible(line) for line in str(message).split('\n'))
    click.echo(f'{click.style("Error:", fg="red", bold=True)} {lines}', err=True, color=wants_color())


def wants_color() -> bool | None:
    """Return whether colours were declined (NO_COLOR) or asked for (FORCE_COLOR); None leaves it to whether it is a terminal.

    Any value but the empty one counts. Source: https://no-color.org and https://force-color.org.
    """
    if os.environ.get('NO_COLOR'):
        return False
    return True if os.environ.get('FORCE_COLOR') else None


def visible(text: Any) -> str:
    """Return text with control characters as escapes."""
    return ''.join(c if c.isprintable() else c.encode('unicode_escape').decode('ascii') for c in str(text))


def print_table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print rows under a head, in columns.

    Where a terminal is too narrow for them, cells are wrapped between words; where that is not enough, each row is a
    paragraph of its own. Off a terminal nothing is wrapped or cut.
    """
    texts = [[visible('' if cell is None else cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in [list(head), *texts]) for column in range(len(head))]
    room = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    if room is not None and _total(widths) > room:
        narrow = _narrowed(head, texts, widths, room)
        if narrow is None:
            _print_paragraphs(head, texts)
            return
        widths = narrow
    click.echo('  '.join(click.style(title.ljust(width), bold=True) for title, width in zip(head, widths, strict=True)))
    for row in texts:
        lines = [_wrapped(cell, width) for cell, width in zip(row, widths, strict=True)]
        for parts in itertools.zip_longest(*lines, fillvalue=''):
            cells = (
                _styled(part.ljust(width), row[column])
                for column, (part, width) in enumerate(zip(parts, widths, strict=True))
            )
            click.echo('  '.join(cells).rstrip())


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + 2 * (len(widths) - 1)


def _narrowed(head: Sequence[str], rows: Sequence[Sequence[str]], widths: Sequence[int], room: int) -> list[int] | None:
    """Return widths that fit, each at least its longest word; None where there are none."""
    found = list(widths)
    least = [
        max(len(word) for row in [head, *rows] for word in (row[column].split() or [''])) for column in range(len(head))
    ]
    while _total(found) > room:
        column = max(range(len(found)), key=lambda each: found[each] - least[each])
        if found[column] <= least[column]:
            return None
        found[column] = max(least[column], found[column] - (_total(found) - room))
    return found


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False) if len(text) > width else [text]


def _print_paragraphs(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    width = max(map(len, head))
    for number, row in enumerate(rows):
        if number:
            click.echo()
        for title, cell in zip(head, row, strict=True):
            click.echo(f'{click.style(title.ljust(width), bold=True)}  {_styled(cell, cell)}'.rstrip())


def _styled(text: str, whole: str) -> str:
    """Return a cell, or a line of one, in what its first word looks like."""
    style = _STYLES.get(whole.partition(' ')[0])
    return text if style is None else click.style(text, **style)


_STYLES: dict[str, dict[str, Any]] = {
    **{word: {'fg': 'green'} for word in ('running', 'idle', 'ok', 'success')},
    'busy': {'fg': 'cyan'},
    **{word: {'fg': 'yellow'} for word in ('initializing', 'stopping', 'timeout')},
    'stopped': {'dim': True},
    **{word: {'fg': 'red'} for word in ('error', 'dead,')},
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
    """Return a size as people read it, like ``159.7 MiB``."""
    size = float(size_bytes)
    for unit in ('B', 'KiB', 'MiB', 'GiB', 'TiB'):
        if size < 1024 or unit == 'TiB':
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
            f' ({done // _MEBIBYTE} of {total // _MEBIBYTE} MiB)'
            if done is not None and total and total >= _MEBIBYTE
            else ''
        )
        click.echo(f'  {now - started_at:5.1f} s  {message}{counted}', err=True)

    yield report
