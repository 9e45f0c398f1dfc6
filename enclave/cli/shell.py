"""`ms-enclave shell` (layer 6)."""

from __future__ import annotations

import shlex
from typing import Any

import click
from click.core import ParameterSource

from enclave.cli.exec import terminal_env
from enclave.cli.options import complete_sandbox_ids, files_option, parse_files, place_options, sandbox_options
from enclave.cli.place import Place
from enclave.cli.placing import put_files
from enclave.cli.relay import endings_as_exit, terminal_size
from enclave.cli.user_program import drive, runs_a_program

BEST_SHELL = ['sh', '-c', 'command -v bash >/dev/null 2>&1 && exec bash; exec sh']


@click.command()
@click.argument('sandbox_id', required=False, metavar='[ID]', shell_complete=complete_sandbox_ids)
@click.option('--command', metavar='COMMAND', help='What to run instead of bash or sh.')
@files_option
@sandbox_options
@place_options
@runs_a_program
@click.pass_context
def shell(
    ctx: click.Context,
    sandbox_id: str | None,
    command: str | None,
    files: tuple[str, ...],
    sandbox_type: str,
    config: dict[str, Any],
    place: Place,
) -> None:
    """Open a shell in a sandbox: in a fresh one, which is gone afterwards, or in the running one called ID.

    The terminal is the shell's own: every key goes to it, also Ctrl-C. Typing ~ and . after Enter leaves at once.

    \b
    Examples:
      ms-enclave shell
      ms-enclave shell --image debian:bookworm -m 2g -v .:/sandbox
      ms-enclave shell 3f2a
      ms-enclave shell --command python3
    """
    if sandbox_id is not None and (config or ctx.get_parameter_source('sandbox_type') is ParameterSource.COMMANDLINE):
        raise click.UsageError('Options of a new sandbox mean nothing for one that is there; leave them or the ID out.')
    size = terminal_size()
    argv = BEST_SHELL if command is None else shlex.split(command)
    copied = parse_files(files)
    with endings_as_exit(), place:
        if sandbox_id is not None:
            opened = place.attach(sandbox_id)
        else:
            opened = place.open(sandbox_type, config)
        with opened as sandbox:
            put_files(sandbox, copied)
            drive(
                sandbox,
                argv,
                timeout=place.longest_timeout(),
                tty=size,
                env=terminal_env({}),
                memory=config.get('memory_limit'),
            )
