"""Options that several commands share (layer 6), and what they become: a place, and a sandbox's configuration."""

from __future__ import annotations

import functools
import json
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from enclave.cli.completers import complete_images, complete_kinds

if TYPE_CHECKING:
    from enclave.cli.place import Place

F = TypeVar('F', bound=Callable[..., Any])

_DRIVE = re.compile(r'[A-Za-z]:[\\/]')
_MODE = re.compile(r':[A-Za-z,]*$')  # as docker writes options of a volume; ro and rw are taken off before


def _remember_json(context: click.Context, parameter: click.Parameter, value: bool) -> bool:
    if value:
        context.meta[WANTS_JSON] = True
    return value


WANTS_JSON = 'enclave.cli.wants_json'
"""Set in the ``meta`` of a command's context that is to print JSON, its failures too."""
json_option = click.option(
    '--json',
    'as_json',
    is_flag=True,
    is_eager=True,  # so that what is wrong with other options is printed as JSON too
    callback=_remember_json,
    help='Print JSON; a failure is {"error": {"code", "message", "details", "detail"}}.',
)


def place_options(function: F) -> F:
    """Give a command ``--url``, ``--api-key`` and ``--local``; it gets a `Place` as ``place``."""

    @functools.wraps(function)
    def wrapper(*args: Any, url: str | None, api_key: str | None, local: bool, **kwargs: Any) -> Any:
        return function(*args, place=_find_place(url, api_key, local), **kwargs)

    found: F = with_options(
        wrapper,
        click.option(
            '--url',
            metavar='URL',
            envvar='ENCLAVE_URL',
            help='A server to work with, or ray:NAME for shards on a Ray cluster; default is this machine.  [env: ENCLAVE_URL]',
        ),
        click.option(
            '--api-key', metavar='KEY', envvar='ENCLAVE_API_KEY', help="The server's key.  [env: ENCLAVE_API_KEY]"
        ),
        click.option('--local', is_flag=True, help='Use the engine of this machine although ENCLAVE_URL is set.'),
    )
    return found


def with_options(function: Any, *options: Any) -> Any:
    """Return a command with options, which its help lists in this order."""
    for option in reversed(options):
        function = option(function)
    return function


class Number(click.ParamType):  # type: ignore[type-arg, unused-ignore]  # generic since click 8.2
    """A number within bounds; what is wrong with a value is said in words, not by the name of a Python type."""

    name = 'number'

    def __init__(self, *, minimum: float | None = None, what: str = 'a number') -> None:
        self._minimum = minimum
        self._what = what

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number, or fail with what it must be. NaN is none, though Python reads it as one."""
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if math.isnan(number):
            self.fail(f'{value!r} is not {self._what}, like 30 or 0.5', param, ctx)
        if self._minimum is not None and number < self._minimum:
            self.fail(f'it must be at least {self._minimum:g}, not {number:g}', param, ctx)
        return number


class WholeNumber(click.ParamType):  # type: ignore[type-arg, unused-ignore]
    """A whole number within bounds; see `Number`."""

    name = 'integer'

    def __init__(self, minimum: int | None = None, maximum: int | None = None) -> None:
        self._minimum = minimum
        self._maximum = maximum

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number, or fail with what it must be."""
        try:
            number = int(value)
        except ValueError:
            self.fail(f'{value!r} is not a whole number', param, ctx)
        least, most = self._minimum, self._maximum
        if (least is not None and number < least) or (most is not None and number > most):
            bounds = [f'at least {least}'] if least is not None else []
            bounds += [f'at most {most}'] if most is not None else []
            self.fail(f'it must be {" and ".join(bounds)}, not {number}', param, ctx)
        return number


def seconds_option(*names: str, minimum: float = 0, **settings: Any) -> Callable[[F], F]:
    """Return an option that takes seconds; the default, where there is one, is shown."""
    if settings.get('default') is not None:
        settings.setdefault('show_default', True)
    kind = Number(minimum=minimum, what='a number of seconds')
    return click.option(*names, type=kind, metavar='SECONDS', **settings)


def _find_place(url: str | None, api_key: str | None, local: bool) -> Place:
    from enclave.cli.place import LocalPlace, RemotePlace

    return LocalPlace() if local or not url else RemotePlace(url, api_key)


DEFAULT_KIND = 'the first that works here, as `ms-enclave doctor` says'

timeout_option = seconds_option(
    '-t', '--timeout', help='How long it may run.  [default: as long as a server allows, here no limit]'
)
files_option = click.option(
    '-f', '--file', 'files', multiple=True, metavar='SRC[:DST]', help='Copy a file or directory in first. Repeatable.'
)
env_option = click.option(
    '-e',
    '--env',
    multiple=True,
    metavar='NAME[=VALUE]',
    help="A variable; without a value, this environment's own. Repeatable.",
)
no_stdin_option = click.option('-n', '--no-stdin', is_flag=True, help='Do not pass standard input on.')
SANDBOX_OPTIONS: dict[str, Any] = {
    'sandbox_type': click.option(
        '--type',
        'sandbox_type',
        metavar='KIND',
        envvar='ENCLAVE_TYPE',
        shell_complete=complete_kinds,
        help=f'The kind of sandbox.  [env: ENCLAVE_TYPE; default: {DEFAULT_KIND}]',
    ),
    'image': click.option(
        '--image',
        metavar='NAME',
        shell_complete=complete_images,
        help='The image it is made from.  [default: python:3.11-slim]',
    ),
    'memory': click.option(
        '-m', '--memory', metavar='SIZE', help="Memory limit, like 512m or 1g; 'none' for no limit.  [default: 1g]"
    ),
    'cpus': click.option('--cpus', type=Number(), metavar='N', help='CPUs it may use, like 0.5.  [default: 1]'),
    'pids': click.option(
        '--pids', type=WholeNumber(), metavar='N', help='Processes and threads at once.  [default: 512]'
    ),
    'network': click.option(
        '--network/--no-network',
        default=None,
        help="With a network, or none at all; that of some kinds is this machine's own.  [default: as the kind has it]",
    ),
    'env': env_option,
    'user': click.option(
        '-u', '--user', metavar='USER', help='Name or uid, with optional :group, that it all runs as.'
    ),
    'volumes': click.option(
        '-v', '--volume', 'volumes', multiple=True, metavar='HOST:PATH[:ro]', help='A host path to mount. Repeatable.'
    ),
    'workdir': click.option(
        '-w', '--workdir', metavar='PATH', help='Working directory in the sandbox.  [default: /sandbox]'
    ),
    'read_only': click.option('--read-only', is_flag=True, help='Mount its root file system read-only.'),
    'options': click.option(
        '-o',
        '--option',
        'options',
        multiple=True,
        metavar='NAME=VALUE',
        help='Any other option of its configuration, the value as JSON or text: -o cap_add=\'["NET_RAW"]\'. Repeatable.',
    ),
}


def sandbox_options(function: F) -> F:
    """Give a command the options of a new sandbox; it gets ``sandbox_type``, and its configuration as the dict ``config``."""
    found: F = config_options(function, SANDBOX_OPTIONS)
    return found


def config_options(function: Any, options: Mapping[str, Any]) -> Any:
    """Give a command options that are named by what `make_config` takes of them, and ``sandbox_type``; see `sandbox_options`."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        given = {name: kwargs.pop(name) for name in options if name != 'sandbox_type'}
        return function(*args, config=make_config(**given), **kwargs)

    return with_options(wrapper, *options.values())


def make_config(
    *,
    image: str | None = None,
    memory: str | None = None,
    cpus: float | None = None,
    pids: int | None = None,
    network: bool | None = None,
    env: Sequence[str] = (),
    user: str | None = None,
    volumes: Sequence[str] = (),
    workdir: str | None = None,
    read_only: bool = False,
    options: Sequence[str] = (),
) -> dict[str, Any]:
    """Return the configuration that options ask for; what nobody asked for is left out, to be the library's default."""
    config: dict[str, Any] = {
        'image': image,
        'cpu_limit': cpus,
        'pids_limit': pids,
        'network_enabled': network,
        'user': user,
        'working_dir': workdir,
        'env_vars': parse_env(env) or None,
        'volumes': dict(map(parse_volume, volumes)) or None,
        'read_only': read_only or None,
        'memory_limit': memory,
    }
    config = {name: value for name, value in config.items() if value is not None}
    if memory == 'none':
        config['memory_limit'] = None
    for option in options:
        name, equals, text = option.partition('=')
        if not equals or not name:
            raise click.BadParameter(f'{option!r} must be NAME=VALUE', param_hint='--option')
        config[name] = parse_value(text)
    return config


def parse_value(text: str) -> Any:
    """Return what text means as JSON; text that is none means itself."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def parse_env(entries: Sequence[str]) -> dict[str, str]:
    """Return ``NAME=VALUE`` and ``NAME`` entries as a dict; one without a value takes that of this process, if there is one."""
    found = {}
    for entry in entries:
        name, equals, value = entry.partition('=')
        if not name:
            raise click.BadParameter(f'{entry!r} must be NAME=VALUE or NAME', param_hint='--env')
        if equals:
            found[name] = value
        elif name in os.environ:
            found[name] = os.environ[name]
    return found


def parse_volume(entry: str) -> tuple[str, dict[str, str]]:
    """Return ``HOST:PATH[:ro|rw]`` as an item of a configuration's ``volumes``."""
    host, path = split_target(entry)
    mode = 'rw'
    if path and path.endswith((':ro', ':rw')):
        path, mode = path[:-3], path[-2:]
    if not host or not path or not path.startswith('/') or _MODE.search(path):
        raise click.BadParameter(f'{entry!r} must be HOST:PATH[:ro], with an absolute PATH', param_hint='--volume')
    return os.path.abspath(os.path.expanduser(host)), {'bind': path, 'mode': mode}


def split_target(entry: str) -> tuple[str, str | None]:
    """Return ``SRC:DST`` as its two parts, DST None if it is not there; a Windows drive's colon separates nothing."""
    start = 2 if _DRIVE.match(entry) else 0
    at = entry.find(':', start)
    return (entry, None) if at < 0 else (entry[:at], entry[at + 1 :])


def parse_files(entries: Sequence[str]) -> list[tuple[Path, str]]:
    """Return ``SRC[:DST]`` entries as host paths, which must exist, and targets in the sandbox."""
    found = []
    for entry in entries:
        source, target = split_target(entry)
        if not source:
            raise click.BadParameter(f'{entry!r} must be SRC or SRC:DST; . is this directory', param_hint='--file')
        path = Path(source).expanduser()
        if not path.exists():
            raise click.BadParameter(f'{source!r} does not exist', param_hint='--file')
        found.append((path, target or path.absolute().name))
    return found


def complete_sandbox_ids(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Return the ids of sandboxes for shell completion; none where nobody answers."""
    try:
        given = ctx.params
        place = _find_place(
            given.get('url') or os.environ.get('ENCLAVE_URL'),
            given.get('api_key') or os.environ.get('ENCLAVE_API_KEY'),
            bool(given.get('local')),
        )
        with place:
            return [info.id for info in place.list_sandboxes() if info.id.startswith(incomplete)]
    except Exception:  # completion has nowhere to report a failure
        return []


sandbox_ids_argument = click.argument(
    'sandbox_ids', nargs=-1, required=True, metavar='ID...', shell_complete=complete_sandbox_ids
)
