"""`ms-enclave doctor` (floor 6)."""

from __future__ import annotations

import sys

import click

from enclave.cli.output import echo_json

_MARKS = {'ok': ('ok', 'green'), 'warning': ('warn', 'yellow'), 'failed': ('FAIL', 'red'), 'skipped': ('skip', 'cyan')}


@click.command()
@click.option('--engine', 'base_url', metavar='URL', help="The engine's address; default as docker chooses it.")
@click.option('--json', 'as_json', is_flag=True, help='Print JSON.')
def doctor(base_url: str | None, as_json: bool) -> None:
    """Say what is there, what is missing, and how to mend it.

    The exit code is 0 when code can run in a sandbox of some kind, 1 otherwise.
    """
    from enclave.doctor import examine
    from enclave.sandboxes.kinds import KINDS

    found = examine(base_url)
    if as_json:
        echo_json(found.model_dump(mode='json'))
        sys.exit(0 if found.can_run else 1)
    width = max(len(each.name) for each in found.checks)
    for each in found.checks:
        mark, colour = _MARKS[each.status]
        click.echo(f'{click.style(f"{mark:>4}", fg=colour)}  {each.name:<{width}}  {each.summary}')
        if each.remedy:
            click.echo(f'{"":>4}  {"":<{width}}  -> {each.remedy}')
    if found.can_run:
        click.echo(f'Code can run here in sandboxes of {" and ".join(found.backends)}.')
    first = KINDS.ranked()[0].name
    if first not in found.backends:
        needed = ', '.join(each.name for each in found.checks if each.required and each.status in ('failed', 'skipped'))
        click.echo(f'{"" if found.can_run else "No code can run here yet. "}{first.capitalize()} lacks: {needed}.')
    sys.exit(0 if found.can_run else 1)
