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
    'logs': 'exec ID cat /tmp/enclave-program/output',
    'ls': 'ps',
    'new': 'create',
    'nbconvert': 'notebook run',
    'python': 'run -c CODE',
    'pull': 'images pull',
    'remove': 'rm',
    'rmi': 'images',
    'sandboxes': 'ps',
    'serve': 'server',
    'sh': 'shell',
    'start': 'create',
    'status': 'info',
    'top': 'stats',
    'unpack': 'images unpack',
    'unpause': 'resume',
    'up': 'server',
}
"""The commands of other programs, and ours."""
_SUBCOMMANDS: dict[str, dict[str, str]] = {
    'images': {
        'import': 'unpack',
        'install': 'ensure',
        'load': 'unpack',
        'ls': 'list',
        'make': 'build',
        'ps': 'list',
        'show': 'list',
    },
    'notebook': {'convert': 'run', 'exec': 'run', 'execute': 'run', 'start': 'run'},
    'pool': {
        'create': 'init',
        'execute': 'exec',
        'info': 'show',
        'list': 'show',
        'ls': 'show',
        'make': 'init',
        'map': 'run',
        'new': 'init',
        'ps': 'show',
        'resize': 'init',
        'start': 'init',
        'stats': 'show',
        'status': 'show',
    },
    'mcp': {'add': 'install', 'config': 'install', 'setup': 'install'},
}
"""The same below a command that has commands of its own."""
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
    '-d': '`ms-enclave run -d` and `ms-enclave create` leave a sandbox running',
    '--detach': '`ms-enclave run -d` and `ms-enclave create` leave a sandbox running',
    '-p': {
        'run': 'ports are published by -o ports=\'{"80/tcp": 8080}\'',
        'shell': 'ports are published by -o ports=\'{"80/tcp": 8080}\'',
    },
    '--publish': 'ports are published by -o ports=\'{"80/tcp": 8080}\'',
    '--name': 'a sandbox has an id, which `ms-enclave ps` shows',
    '--net': '--network and --no-network take no name; -o network=NAME joins a network of the engine',
    '--gpus': 'there is no option for GPUs',
    '--mount': '-v HOST:PATH[:ro] mounts a path',
    '--env-file': '-e NAME=VALUE sets a variable; repeat it',
    '--entrypoint': '--interpreter names what runs the program',
    '--cap-add': '-o cap_add=\'["NET_RAW"]\' adds a capability',
    '--privileged': "-o cap_add='[...]' adds single capabilities, and -o privileged=true all of them",
    '--format': {'ps': '--json prints JSON', 'info': '--json prints JSON', 'stats': '--json prints JSON'},
    '-a': {'ps': '`ps` lists all that there are anyway; leave it out', 'images': '`images list` lists all'},
    '--all': {
        'ps': '`ps` lists all that there are anyway; leave it out',
        'images': '`images list` lists all',
        'stop': '`stop $(ms-enclave ps -q)` stops all, and `rm --all` removes them',
    },
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
    '--mem-limit': '--memory',
    '--memory-limit': '--memory',
    '--cpu': '--cpus',
    '--cpu-limit': '--cpus',
    '--time-limit': '--timeout',
    '--dir': '--workdir',
    '--environment': '--env',
    '--volumes': '--volume',
    '--key': '--api-key',
    '--server': '--url',
    '--token': '--api-key',
    '--no-net': '--no-network',
    '--ram': '--memory',
}
"""Names that options have elsewhere, and theirs here, where a command has them."""


class HintedGroup(click.Group):
    """A group whose wrong calls come with a hint."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Keep the arguments, for the hint, and continue.

        Raises:
            click.UsageError: An option before the command is wrong, of a command's own most likely.
        """
        arguments = ctx.meta.setdefault(_ARGUMENTS, list(args))
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            place = _command_with(ctx, error.option_name, arguments)
            if place is None:
                raise
            option = error.option_name
            ctx.fail(
                f'No such option {option!r} here; it comes after the command: {ctx.command_path} {place} {option} ...'
            )

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
        others = _COMMANDS if is_root else _SUBCOMMANDS.get(self.name or '', {})
        meant = others.get(name.lower())
        if name.lower() == 'help':
            rest = ctx.meta.get(_ARGUMENTS, [])[1:2]
            meant = ' '.join([*(each for each in rest if is_root and self.get_command(ctx, each)), '--help'])
        if meant is None and name.endswith(('.py', '.sh', '.ipynb')) and os.path.exists(name):
            if is_root:
                meant = f'{"notebook run" if name.endswith(".ipynb") else "run"} {name}'
            elif self.name in ('notebook', 'pool'):
                meant = f'run {name}'
        if meant is None:
            near = suggest(name.lower(), [*self.list_commands(ctx), *others])
            meant = others.get(near, near) if near is not None else None
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
    """Return what to say of a wrong call with these arguments, where an option in it is docker's or another word for ours.

    An option that the command itself has is nothing to be said of, unless docker has the same letters for other things.
    """
    if not arguments:
        return None
    command, options = arguments[0], []
    for word in arguments[1:]:
        if not word.startswith('-'):
            break
        options.append(word.partition('=')[0])
    named = [error.option_name] if isinstance(error, click.NoSuchOption) else []
    known = _options_of(error.ctx.command) if error.ctx is not None else set()
    for option in [*options, *named]:
        found = _OPTIONS.get(option)
        text = found.get(command) if isinstance(found, dict) else found
        if text is not None and option not in known:
            return f'{option} does not mean here what it means for docker: {text}.'
    if not named:
        return None
    meant = _SYNONYMS.get(named[0])
    if meant is not None and meant in known:
        return f'No such option {named[0]!r}. Did you mean {meant!r}?'
    return None


def _command_with(ctx: click.Context, option: str, arguments: Sequence[str]) -> str | None:
    """Return the command among the arguments of a call that has the option, which stands before it."""
    group = ctx.command
    for word in arguments:
        if isinstance(group, click.Group) and not word.startswith('-'):
            command = group.get_command(ctx, word)
            if command is not None:
                return word if option in _options_of(command) else None
    return None


def _options_of(command: click.Command) -> set[str]:
    return {name for each in command.params for name in (*each.opts, *each.secondary_opts)}
