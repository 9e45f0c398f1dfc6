"""`ms-enclave rm` (layer 6)."""

from __future__ import annotations

import click

from enclave.cli.options import complete_sandbox_ids, json_option, place_options
from enclave.cli.place import Place
from enclave.cli.ps import check_orphans
from enclave.cli.stop import each_of


@click.command()
@click.argument('sandbox_ids', nargs=-1, metavar='[ID...]', shell_complete=complete_sandbox_ids)
@click.option(
    '--orphans', is_flag=True, help='Those whose owner is dead, and that were not made to be kept. Local only.'
)
@click.option('--all', 'everything', is_flag=True, help='All of them, also those that other programs are using.')
@click.option('-y', '--yes', is_flag=True, help='Do not ask before --all.')
@place_options
@json_option
def rm(sandbox_ids: tuple[str, ...], orphans: bool, everything: bool, yes: bool, place: Place, as_json: bool) -> None:
    """Remove sandboxes, running or not, with all that is in them.

    \b
    Examples:
      ms-enclave rm 3f2a 91bc
      ms-enclave rm --orphans
      ms-enclave rm --all --yes --url http://sandboxes:8000
    """
    check_orphans(orphans, place)
    if bool(sandbox_ids) + orphans + everything != 1:
        raise click.UsageError('Say which: IDs, --orphans or --all.')
    with place:
        if orphans or everything:
            found = [info for info in place.list_sandboxes() if everything or info.metadata.get('is_orphan')]
            if everything and found and not yes:
                _confirm(f'Remove all {len(found)} sandboxes {place.where}?')
            sandbox_ids = tuple(info.id for info in found)
        each_of(place, sandbox_ids, place.remove, 'removed', as_json)


def _confirm(question: str) -> None:
    """Ask, and abort unless the answer is yes.

    Raises:
        click.UsageError: Standard input ends without an answer.
    """
    try:
        click.confirm(question, abort=True, err=True)
    except click.Abort as error:
        if not isinstance(error.__context__, EOFError):
            raise
        click.echo(err=True)
        raise click.UsageError('Nobody answered; --yes removes them without asking.') from None
