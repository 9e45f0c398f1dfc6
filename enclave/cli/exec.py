"""`ms-enclave exec` (layer 6)."""

from __future__ import annotations

from typing import Any

import click

from enclave.cli.options import (
    complete_sandbox_ids,
    env_option,
    json_option,
    no_stdin_option,
    parse_env,
    place_options,
    timeout_option,
)
from enclave.cli.place import Place
from enclave.cli.relay import endings_as_exit, terminal_size
from enclave.cli.user_program import drive, runs_a_program


@click.command('exec', context_settings={'allow_interspersed_args': False})
@click.argument('sandbox_id', metavar='ID', shell_complete=complete_sandbox_ids)
@click.argument('command', nargs=-1, required=True, type=click.UNPROCESSED, metavar='COMMAND [ARGS]...')
@click.option('--shell', is_flag=True, help='COMMAND is one text for the shell of the sandbox.')
@click.option('-i', '--tty', is_flag=True, help='Run it on a terminal, and connect this one to it.')
@timeout_option
@no_stdin_option
@env_option
@click.option('-w', '--workdir', metavar='PATH', help="Where it starts.  [default: the sandbox's working directory]")
@click.option('-u', '--user', metavar='USER', help="Name or uid, with optional :group.  [default: the sandbox's]")
@place_options
@json_option
@runs_a_program
def exec_(
    sandbox_id: str,
    command: tuple[str, ...],
    shell: bool,
    tty: bool,
    timeout: float | None,
    no_stdin: bool,
    env: tuple[str, ...],
    workdir: str | None,
    user: str | None,
    place: Place,
    as_json: bool,
) -> None:
    """Run a command in a running sandbox, whichever process made it.

    The beginning of an ID is enough where no other begins so; options go before it. Output is shown as it comes, standard
    input is passed on, and Ctrl-C ends the command. The sandbox continues.

    \b
    Examples:
      ms-enclave exec 3f2a ls -l /sandbox
      ms-enclave exec --shell 3f2a 'ps aux | head'
      ms-enclave exec -i 3f2a python3
    """
    command = command[1:] if command[0] == '--' else command
    if not command or command[0].startswith('-'):
        raise click.UsageError('Options go before the ID; after it comes the command.')
    if shell and len(command) != 1:
        raise click.UsageError('With --shell, give the command as one word: quote it.')
    if tty and as_json:
        raise click.UsageError('--json and --tty do not go together.')
    size = terminal_size() if tty else None
    options: dict[str, Any] = {'cwd': workdir, 'user': user}
    variables = parse_env(env)
    with endings_as_exit(), place, place.attach(sandbox_id) as sandbox:
        drive(
            sandbox,
            command[0] if shell else list(command),
            timeout=place.longest_timeout() if timeout is None else timeout,
            with_stdin=not no_stdin,
            tty=size,
            as_json=as_json,
            env=terminal_env(variables) if tty else variables,
            **options,
        )


def terminal_env(env: dict[str, str]) -> dict[str, str]:
    """Return variables with what a program must know of this terminal."""
    own = parse_env(('TERM', 'COLORTERM'))
    return {**({'TERM': 'xterm'} | own), **env}
