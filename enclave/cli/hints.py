"""What to say to somebody who calls a command as another program's is called (layer 6): docker's above all.

`HintedGroup` is a group that adds a hint to a wrong call of it or of any command below it: the command or option that was
probably meant. What is right is called without a look at these tables.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import click

from enclave.suggest import suggest

_ARGUMENTS = 'enclave.arguments'  # in a context's meta: the arguments that a group was called with
_COMMANDS = {
    'attach': 'exec -i ID COMMAND',
    'bash': 'shell',
    'build': 'images build',
    'console': 'repl',
    'containers': 'ps',
    'copy': 'cp',
    'delete': 'rm',
    'execute': 'exec',
    'help': '--help',
    'image': 'images',
    'inspect': 'info',
    'jupyter': 'notebook run',
    'kill': 'stop',
    'list': 'ps',
    'ls': 'ps',
    'nbconvert': 'notebook run',
    'python': 'run -c CODE',
    'pull': 'images pull',
    'remove': 'rm',
    'rmi': 'images',
    'sandboxes': 'ps',
    'serve': 'server',
    'sh': 'shell',
    'top': 'stats',
    'unpack': 'images unpack',
}
"""The commands of other programs, and ours."""
_TERMINAL = {
    'exec': '-i runs the command on this terminal and -t is its time limit in seconds: ms-enclave exec -i ID COMMAND',
    'run': 'run passes standard input on by itself and its -t is a time limit; `ms-enclave shell` opens a terminal',
    'shell': 'shell is always on this terminal; leave it out',
}
_OPTIONS: dict[str, str | dict[str, str]] = {
    '-it': _TERMINAL,
    '-ti': _TERMINAL,
    '--interactive': _TERMINAL,
    '--rm': 'a sandbox of `run` or `shell` is always gone afterwards; leave it out',
    '-d': '`ms-enclave create` makes a sandbox that stays, and `ms-enclave exec` runs programs in it',
    '--detach': '`ms-enclave create` makes a sandbox that stays, and `ms-enclave exec` runs programs in it',
    '-p': {
        'run': 'ports are published by -o ports=\'{"80/tcp": 8080}\'',
        'shell': 'ports are published by -o ports=\'{"80/tcp": 8080}\'',
    },
    '--publish': 'ports are published by -o ports=\'{"80/tcp": 8080}\'',
    '--name': 'a sandbox has an id, which `ms-enclave ps` shows',
    '--net': '--network and --no-network take no name',
    '--mount': '-v HOST:PATH[:ro] mounts a path',
    '--env-file': '-e NAME=VALUE sets a variable; repeat it',
    '--entrypoint': '--interpreter names what runs the program',
    '--cap-add': '-o cap_add=\'["NET_RAW"]\' adds a capability',
    '--privileged': "a sandbox is never privileged; -o cap_add='[...]' adds single capabilities",
    '-a': {'ps': '`ps` lists all that there are anyway; leave it out', 'images': '`images list` lists all'},
    '--all': {'ps': '`ps` lists all that there are anyway; leave it out', 'images': '`images list` lists all'},
    '-f': {'rm': '`rm` ends what runs by itself; leave it out', 'stop': '`stop` needs no force; leave it out'},
    '--force': {'rm': '`rm` ends what runs by itself; leave it out', 'stop': '`stop` needs no force; leave it out'},
}
"""The options of docker that are others here, with what to say: to all commands, or by command."""


_SYNONYMS = {
    '--backend': '--type',
    '--code': '-c',
    '--cwd': '--workdir',
    '--kind': '--type',
    '--lang': '--interpreter',
    '--language': '--interpreter',
    '--mem': '--memory',
    '--no-net': '--no-network',
    '--ram': '--memory',
}
"""Names that options have elsewhere, and theirs here, where a command has them."""


class HintedGroup(click.Group):
    """A group whose wrong calls come with a hint."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Keep the arguments, for the hint, and continue."""
        ctx.meta.setdefault(_ARGUMENTS, list(args))
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that is called.

        Raises:
            click.UsageError: There is none of this name; the message names the one that was probably meant.
        """
        name = args[0]
        if not name.startswith('-') and self.get_command(ctx, name) is None:
            ctx.fail(f'No such command {name!r}. {self._hint(ctx, name)}')
        return super().resolve_command(ctx, args)

    def _hint(self, ctx: click.Context, name: str) -> str:
        path = ctx.command_path
        is_root = ctx.parent is None
        meant = _COMMANDS.get(name.lower()) if is_root else None
        if meant is None and is_root and name.endswith(('.py', '.sh', '.ipynb')) and os.path.exists(name):
            meant = f'{"notebook run" if name.endswith(".ipynb") else "run"} {name}'
        if meant is None:
            near = suggest(name.lower(), [*self.list_commands(ctx), *(_COMMANDS if is_root else ())])
            meant = _COMMANDS.get(near, near) if near is not None and is_root else near
        return f'Did you mean `{path} {meant}`?' if meant is not None else f'`{path} --help` lists the commands.'

    def invoke(self, ctx: click.Context) -> Any:
        """Call the command, and add a hint to what is wrong with the call."""
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            hint = find_hint(error, ctx.meta.get(_ARGUMENTS, ())) if ctx.parent is None else None
            if hint is not None:
                raise click.UsageError(hint, ctx=error.ctx) from error
            raise


def find_hint(error: click.UsageError, arguments: Sequence[str]) -> str | None:
    """Return what to say of a wrong call with these arguments, where an option is docker's or has another name here."""
    if not arguments:
        return None
    command, options = arguments[0], []
    for word in arguments[1:]:
        if not word.startswith('-'):
            break
        options.append(word.partition('=')[0])
    named = [error.option_name] if isinstance(error, click.NoSuchOption) else []
    for option in [*options, *named]:
        found = _OPTIONS.get(option)
        text = found.get(command) if isinstance(found, dict) else found
        if text is not None:
            return f'{option} is not what it is for docker: {text}.'
    meant = _SYNONYMS.get(named[0]) if named else None
    if meant is not None and error.ctx is not None and meant in _options_of(error.ctx.command):
        return f'No such option {named[0]!r}. Did you mean {meant!r}?'
    return None


def _options_of(command: click.Command) -> set[str]:
    return {name for each in command.params for name in (*each.opts, *each.secondary_opts)}
