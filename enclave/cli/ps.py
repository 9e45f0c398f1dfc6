"""`ms-enclave ps` (layer 6)."""

from __future__ import annotations

from typing import Any

import click

from enclave.cli.options import json_option, place_options
from enclave.cli.output import echo_json, format_age, print_table
from enclave.cli.place import Place
from enclave.enums import SandboxStatus
from enclave.labels import has_labels
from enclave.records import SandboxInfo, utc_now


@click.command()
@click.option('--status', type=click.Choice([str(each) for each in SandboxStatus]), help='Only those in this state.')
@click.option(
    '--label',
    'labels',
    multiple=True,
    metavar='NAME=VALUE',
    help='Only those with this label. Repeatable; on a server.',
)
@click.option('--orphans', is_flag=True, help='Only those whose owner is dead. Local only.')
@click.option('-q', '--quiet', is_flag=True, help='Print ids only.')
@place_options
@json_option
def ps(status: str | None, labels: tuple[str, ...], orphans: bool, quiet: bool, place: Place, as_json: bool) -> None:
    """List sandboxes: those of all processes on this machine's engine, or those of a server.

    On this machine a sandbox belongs to the process that made it and goes with it; OWNER names that process. One whose owner
    is dead is an orphan: `ms-enclave rm --orphans` removes them. Sandboxes of bubblewrap are never listed: no engine knows of
    them, and they live and die with their process.

    \b
    Examples:
      ms-enclave ps
      ms-enclave ps --status running --json
      ms-enclave ps --label job=7 --url http://sandboxes:8000
      ms-enclave ps --url http://sandboxes:8000
    """
    check_orphans(orphans, place)
    wanted = dict(read_label(each) for each in labels)
    with place:
        infos = [
            info
            for info in place.list_sandboxes()
            if (status is None or info.status == status)
            and has_labels(info.labels, wanted)
            and (not orphans or info.metadata.get('is_orphan'))
        ]
    if as_json:
        echo_json([info.model_dump(mode='json') for info in infos])
    elif quiet:
        for info in infos:
            click.echo(info.id)
    elif place.is_remote:
        print_table(('ID', 'TYPE', 'IMAGE', 'STATUS', 'AGE', 'CALLS', 'TOOLS'), [_remote_row(info) for info in infos])
    else:
        print_table(('ID', 'TYPE', 'IMAGE', 'STATUS', 'AGE', 'OWNER'), [_local_row(info) for info in infos])


def read_label(text: str) -> tuple[str, str]:
    """Return the name and the value of ``NAME=VALUE``."""
    name, sign, value = text.partition('=')
    if not name or not sign:
        raise click.UsageError(f'--label takes NAME=VALUE, not {text!r}.')
    return name, value


def check_orphans(orphans: bool, place: Place) -> None:
    """Refuse ``--orphans`` for a server, whose sandboxes are all its own."""
    if orphans and place.is_remote:
        raise click.UsageError('--orphans is about this machine; a server owns all of its sandboxes.')


def _local_row(info: SandboxInfo) -> tuple[Any, ...]:
    return (
        info.id,
        info.type,
        info.metadata.get('image'),
        info.status,
        format_age(info.created_at, utc_now()),
        owner_text(info),
    )


def owner_text(info: SandboxInfo) -> str:
    """Return who owns a sandbox, as text."""
    owner = info.metadata.get('owner')
    if owner is None:
        return 'unknown'
    name = f'pid {owner["pid"]}' if owner['alive'] is not None else f'pid {owner["pid"]} on {owner["host"]}'
    if info.metadata.get('kept'):
        return f'{name}, kept'
    return f'dead, was {name}: orphan' if info.metadata.get('is_orphan') else name


def _remote_row(info: SandboxInfo) -> tuple[Any, ...]:
    image = info.metadata.get('image') or info.config.get('image')
    age = format_age(info.created_at, utc_now())
    return (info.id, info.type, image, info.status, age, info.active_calls, ', '.join(info.available_tools))
