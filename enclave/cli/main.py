"""The entry point of `ms-enclave` (layer 6).

Commands are named in one table and imported when they are called, so that ``--help`` and ``--version`` stay quick and need no
engine library. To add a command: write it in a file of its own and give it a line in ``COMMANDS``.

Nothing that goes wrong shows a traceback, unless ``ENCLAVE_DEBUG=1`` asks for it. Exit codes: 0 for success, 1 for a failure,
2 for a wrong call, 130 when interrupted. Commands that run a user's program (`enclave.cli.user_program`) give back the program's
own exit code, and 125 for a failure of this library.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

import click

from enclave import __version__
from enclave.cli.hints import HintedGroup
from enclave.cli.options import WANTS_JSON
from enclave.cli.output import echo_error, wants_color
from enclave.errors import EnclaveError, InvalidArgumentError, error_record

COMMANDS = {
    'completion': ('enclave.cli.completion:completion', 'Print the shell completion script.'),
    'cp': ('enclave.cli.cp:cp', 'Copy files and directories into and out of a sandbox.'),
    'create': ('enclave.cli.create:create', 'Make a sandbox that stays, and print its id.'),
    'doctor': ('enclave.cli.doctor:doctor', 'Say what is there, what is missing, and how to mend it.'),
    'exec': ('enclave.cli.exec:exec_', 'Run a command in a sandbox that is there.'),
    'images': ('enclave.cli.images:images', 'List, pull, build and unpack the images that sandboxes are made from.'),
    'info': ('enclave.cli.info:info', 'Show what is known of sandboxes.'),
    'mcp': ('enclave.cli.mcp:mcp', 'Serve sandboxes to assistants, by the Model Context Protocol.'),
    'notebook': ('enclave.cli.notebook:notebook', 'Run notebook files in a fresh sandbox.'),
    'pause': ('enclave.cli.pause:pause', 'Keep what is in sandboxes from running.'),
    'pool': ('enclave.cli.pool:pool', 'Run many programs over a pool of warm sandboxes.'),
    'ps': ('enclave.cli.ps:ps', 'List sandboxes.'),
    'repl': ('enclave.cli.repl:repl', "Type into a fresh sandbox's Jupyter kernel."),
    'resume': ('enclave.cli.pause:resume', 'Let paused sandboxes continue.'),
    'rm': ('enclave.cli.rm:rm', 'Remove sandboxes.'),
    'run': ('enclave.cli.run:run', 'Run a program in a fresh sandbox.'),
    'server': ('enclave.cli.server:server', 'Serve sandboxes over HTTP.'),
    'shell': ('enclave.cli.shell:shell', 'Open a shell in a sandbox, a fresh one by default.'),
    'stats': ('enclave.cli.stats:stats', 'Show what sandboxes use, or how a server is doing.'),
    'stop': ('enclave.cli.stop:stop', 'Stop sandboxes.'),
    'version': ('enclave.cli.version:version', 'Print the version, and the versions of what it uses.'),
}
"""``{command: ('module:name', one line of help)}``."""


class LazyGroup(HintedGroup):
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

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Remember whether JSON is asked for by arguments that may not be understood."""
        arguments = args[: args.index('--')] if '--' in args else args
        self._names_json = '--json' in arguments
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that was named; where JSON was asked for, its failure is printed as JSON too."""
        try:
            return super().invoke(ctx)
        except (click.exceptions.Exit, click.exceptions.Abort, BrokenPipeError):
            raise
        except Exception as error:
            if ctx.meta.get(WANTS_JSON) or (isinstance(error, click.UsageError) and self._names_json):
                click.echo(json.dumps({'error': failure_record(error)}, ensure_ascii=False))
            raise

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands with their one line of help, importing none."""
        with formatter.section('Commands'):
            formatter.write_dl([(name, COMMANDS[name][1]) for name in self.list_commands(ctx)])


@click.group(cls=LazyGroup, invoke_without_command=True, context_settings={'help_option_names': ['-h', '--help']})
@click.version_option(__version__, '-v', '--version', prog_name='ms-enclave', message='%(prog)s %(version)s')
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Run code you do not trust, in sandboxes.

    \b
    Examples:
      ms-enclave run script.py            a file, in a sandbox of its own
      ms-enclave run -c 'print(1)'        a line of Python
      ms-enclave shell                    a shell in a fresh sandbox
      ms-enclave ps                       which sandboxes are there
      ms-enclave server                   serve sandboxes over HTTP
      ms-enclave --help, ms-enclave run --help
    """
    ctx.color = wants_color()
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())
        ctx.exit(1)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit the process; the module says with which codes."""
    _open_streams()
    try:
        code = cli.main(
            args=None if arguments is None else list(arguments), prog_name='ms-enclave', standalone_mode=False
        )
        sys.stdout.flush()
    except click.exceptions.Abort:
        click.echo('interrupted', err=True)
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # The one that read our output has enough; Python would complain once more while it closes the stream.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        if os.environ.get('ENCLAVE_DEBUG') == '1':
            raise
        echo_error(explain(error))
        sys.exit(1)
    sys.exit(code if isinstance(code, int) else 0)


def failure_record(error: Exception) -> dict[str, Any]:
    """Return the record of what ended a command, with the keys that every failure has."""
    from enclave.managers.protocol import error_response

    cause = error.__cause__ if isinstance(error.__cause__, EnclaveError) else error
    if not isinstance(cause, EnclaveError):
        if isinstance(error, click.ClickException):
            cause = InvalidArgumentError(error.format_message())
        else:
            cause = EnclaveError(explain(error), details=error_record(error)['details'])
    return error_response(cause).model_dump(mode='json')


def _open_streams() -> None:
    """Give this process the standard streams that its caller closed (``<&-``): empty, or thrown away.

    Else what it opens next gets their numbers, and is taken for them.
    """
    for number, name in enumerate(('stdin', 'stdout', 'stderr')):
        if getattr(sys, name) is None:
            opened = os.open(os.devnull, os.O_RDWR)  # the lowest number that is free, so this one
            os.set_inheritable(opened, True)
            setattr(sys, name, os.fdopen(opened, 'w' if number else 'r', encoding='utf-8'))


def explain(error: Exception) -> str:
    """Return what to say to a person about an exception that ended a command."""
    if isinstance(error, EnclaveError):
        return str(error)
    if isinstance(error, OSError):
        name = f': {os.fsdecode(error.filename)}' if isinstance(error.filename, (str, bytes)) else ''
        return f'{error.strerror or error}{name}'
    return f'{type(error).__name__}: {error}. This is a fault of ms-enclave; ENCLAVE_DEBUG=1 shows where it happened.'


if __name__ == '__main__':
    main()
