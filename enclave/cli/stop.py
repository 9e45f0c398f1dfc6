"""`ms-enclave stop` (layer 6)."""

from __future__ import annotations

import click

from enclave.cli.options import json_option, place_options, sandbox_ids_argument
from enclave.cli.output import echo_error, echo_json
from enclave.cli.place import Place
from enclave.errors import EnclaveError
from enclave.managers.protocol import error_response


@click.command()
@sandbox_ids_argument
@place_options
@json_option
def stop(sandbox_ids: tuple[str, ...], place: Place, as_json: bool) -> None:
    """Stop sandboxes: end what runs in them.

    On this machine a stopped sandbox is gone too, unless it was made to be kept (remove_on_exit=False). A server keeps it in
    its list until it is removed.

    \b
    Examples:
      ms-enclave stop 3f2a
      ms-enclave stop $(ms-enclave ps -q)
    """
    with place:
        each_of(place, sandbox_ids, place.stop, 'stopped', as_json)


def each_of(place: Place, ids: tuple[str, ...], verb: object, done: str, as_json: bool) -> None:
    """Do something to each of several sandboxes, reporting of each; one that fails keeps no other from its turn.

    Raises:
        click.exceptions.Exit: With code 1, when any failed.
    """
    assert callable(verb)
    succeeded, failed, errors = [], {}, {}
    for start in ids:
        try:
            sandbox_id = place.find_id(start)
            verb(sandbox_id)
        except EnclaveError as error:
            failed[start] = str(error)
            errors[start] = error_response(error).model_dump(mode='json')
            if not as_json:
                echo_error(str(error))
        else:
            succeeded.append(sandbox_id)
            if not as_json:
                click.echo(sandbox_id)
    if as_json:
        echo_json({done: succeeded, 'failed': failed, 'errors': errors})
    if failed:
        raise click.exceptions.Exit(1)
