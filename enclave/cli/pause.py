"""`ms-enclave pause` and `ms-enclave resume` (layer 6)."""

from __future__ import annotations

import click

from enclave.cli.options import json_option, place_options, sandbox_ids_argument
from enclave.cli.place import Place
from enclave.cli.stop import each_of


@click.command()
@sandbox_ids_argument
@place_options
@json_option
def pause(sandbox_ids: tuple[str, ...], place: Place, as_json: bool) -> None:
    """Pause sandboxes: what is in them keeps its memory and does not run until `ms-enclave resume`.

    A server removes those that stay paused for a day (its paused_ttl). On this machine these are the containers of all
    processes; calls that their owners make meanwhile fail.

    \b
    Examples:
      ms-enclave pause 3f2a
      ms-enclave pause 3f2a --url http://sandboxes:8000
    """
    with place:
        each_of(place, sandbox_ids, place.pause, 'paused', as_json)


@click.command()
@sandbox_ids_argument
@place_options
@json_option
def resume(sandbox_ids: tuple[str, ...], place: Place, as_json: bool) -> None:
    """Let paused sandboxes continue where they were.

    \b
    Examples:
      ms-enclave resume 3f2a
      ms-enclave resume $(ms-enclave ps -q --status paused)
    """
    with place:
        each_of(place, sandbox_ids, place.resume, 'resumed', as_json)
