"""The entry point of `ms-enclave` (floor 6).

Commands are named in one table and imported when they are called, so that ``--help`` and ``--version`` stay quick and need no
engine library. To add a command: write it in a file of its own and give it a line in ``COMMANDS``.

An error of ours ends the program with its message and exit code 1; ``ENCLAVE_DEBUG=1`` shows the traceback instead.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

import click

from enclave import __version__
from enclave.errors import EnclaveError

COMMANDS = {
    'doctor': ('enclave.cli.doctor:doctor', 'Say what is there, what is missing, and how to mend it.'),
    'images': ('enclave.cli.images:images', 'List, pull and build the images that sandboxes are made from.'),
    'version': ('enclave.cli.version:version', 'Print the version, and those of what it stands on.'),
}
"""``{command: ('module:name', one line of help)}``."""


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called or asked for their own help."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the commands."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command, imported now."""
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name][0].partition(':')
        command: click.Command = getattr(importlib.import_module(module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands with their one line of help, importing none."""
        with formatter.section('Commands'):
            formatter.write_dl([(name, COMMANDS[name][1]) for name in self.list_commands(ctx)])


@click.group(cls=LazyGroup, context_settings={'help_option_names': ['-h', '--help']})
@click.version_option(__version__, prog_name='ms-enclave')
def cli() -> None:
    """Run code you do not trust, in sandboxes."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit the process: 0 for success, 1 for a failure, 2 for a wrong call, 130 when interrupted."""
    try:
        code = cli.main(
            args=None if arguments is None else list(arguments), prog_name='ms-enclave', standalone_mode=False
        )
    except click.exceptions.Abort:
        click.echo('interrupted', err=True)
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except EnclaveError as error:
        if os.environ.get('ENCLAVE_DEBUG') == '1':
            raise
        click.echo(f'{click.style("Error:", fg="red", bold=True)} {error}', err=True)
        sys.exit(1)
    except BrokenPipeError:
        # Whoever read our output has enough; Python would complain once more while it closes the stream.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    sys.exit(code if isinstance(code, int) else 0)


if __name__ == '__main__':
    main()
