"""`ms-enclave pool` (floor 6): many programs over a pool of warm sandboxes, here or on a server."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from attrs import frozen

from enclave.cli.options import json_option, parse_value, place_options, sandbox_options
from enclave.cli.output import echo_json, print_table, progress, visible
from enclave.cli.place import Place, RemotePlace
from enclave.cli.relay import endings_as_exit
from enclave.cli.stats import print_pools
from enclave.enums import ExecutionStatus
from enclave.errors import EnclaveError, PoolError
from enclave.records import ToolResult

if TYPE_CHECKING:
    from enclave.managers.base import SandboxManager

TOOLS = {'.py': ('python_executor', 'code'), '.sh': ('shell_executor', 'command')}
"""``{a file's ending: (the tool that runs it, the parameter for its text)}``."""
_SHOWN_OUTPUT = 60


@click.group()
def pool() -> None:
    """Run many programs over a pool of warm sandboxes.

    A server's pool stays until the server stops: `init` makes it, `exec` and `run` use it, `show` tells of it. On this
    machine a pool lives as long as `run`.
    """


@pool.command()
@click.option('--size', type=click.IntRange(min=1), required=True, metavar='N', help='How many sandboxes.')
@click.option('--name', metavar='NAME', help='What it is called, where there are several.')
@click.option(
    '--tool', 'tools', multiple=True, metavar='NAME', help='A tool to enable; default is all that fit. Repeatable.'
)
@sandbox_options
@place_options
@json_option
def init(
    size: int,
    name: str | None,
    tools: tuple[str, ...],
    sandbox_type: str | None,
    config: dict[str, Any],
    place: Place,
    as_json: bool,
) -> None:
    """Make a pool on a server, or change its size.

    \b
    Examples:
      ms-enclave pool init --size 8 --url http://sandboxes:8000
      ms-enclave pool init --size 4 --name big -m 4g --tool python_executor
    """
    manager = _server(place, 'init')
    with place, progress(f'Starting {size} sandboxes', quiet=as_json):
        ids = manager.initialize_pool(size, sandbox_type, with_tools(config, sandbox_type, tools), name=name)
    if as_json:
        echo_json({'sandbox_ids': ids})
    else:
        for each in ids:
            click.echo(each)


@pool.command()
@place_options
@json_option
def show(place: Place, as_json: bool) -> None:
    """Show the numbers of a server's pools."""
    manager = _server(place, 'show')
    with place:
        pools = manager.get_stats().get('pools') or {}
    if as_json:
        echo_json(pools)
    elif pools:
        print_pools(pools)
    else:
        click.echo('The server has no pool. `ms-enclave pool init` makes one.', err=True)


@pool.command('exec')
@click.argument('tool')
@click.argument('parameters', nargs=-1, metavar='[NAME=VALUE|NAME=@FILE]...')
@click.option('-w', '--wait', 'timeout', type=float, metavar='SECONDS', help='How long to wait for a free sandbox.')
@place_options
@json_option
def exec_(tool: str, parameters: tuple[str, ...], timeout: float | None, place: Place, as_json: bool) -> None:
    """Run a tool in whichever sandbox of a server's pool is free.

    A VALUE is JSON or text; @FILE stands for a file's text, @- for standard input. The exit code is the program's own for tools
    that run one.

    \b
    Examples:
      ms-enclave pool exec python_executor code=@script.py timeout=10
      ms-enclave pool exec shell_executor command='ls -l'
    """
    manager = _server(place, 'exec')
    arguments = dict(_parse_parameter(each) for each in parameters)
    with place:
        result = manager.execute_tool_in_pool(tool, arguments, timeout)
    if as_json:
        echo_json(result.model_dump(mode='json'))
    else:
        click.echo(result.output, nl=not str(result.output).endswith('\n')) if result.output not in ('', None) else None
        if result.error:
            click.echo(result.error, err=True, nl=not result.error.endswith('\n'))
    raise click.exceptions.Exit(0 if result.success else result.exit_code or 1)


def _parse_parameter(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition('=')
    if not equals or not name:
        raise click.BadParameter(f'{text!r} must be NAME=VALUE', param_hint='NAME=VALUE')
    if value == '@-':
        return name, sys.stdin.read()
    if value.startswith('@'):
        return name, Path(value[1:]).read_text('utf-8')
    # A program that happens to be JSON, like "1", is a program all the same.
    return name, value if name in ('code', 'command', 'content') else parse_value(value)


@frozen
class _Outcome:
    """What became of one program; ``problem`` is why there is no result."""

    path: Path
    result: ToolResult | None
    problem: str | None = None

    @property
    def status(self) -> str:
        return str(self.result.status) if self.result is not None else 'failed'

    def as_json(self) -> dict[str, Any]:
        record = None if self.result is None else self.result.model_dump(mode='json')
        return {'path': str(self.path), 'status': self.status, 'result': record, 'problem': self.problem}


@pool.command()
@click.argument('paths', nargs=-1, required=True, type=click.Path(exists=True, path_type=Path), metavar='PATH...')
@click.option(
    '--size', type=click.IntRange(1, 1000), default=4, show_default=True, metavar='N', help='How many sandboxes.'
)
@click.option(
    '-t',
    '--timeout',
    type=click.FloatRange(min=0),
    default=30.0,
    show_default=True,
    metavar='SECONDS',
    help='How long each may run.',
)
@click.option(
    '--fresh', is_flag=True, help='A new sandbox for each program, not one that others have used. Local only.'
)
@sandbox_options
@place_options
@json_option
def run(
    paths: tuple[Path, ...],
    size: int,
    timeout: float,
    fresh: bool,
    sandbox_type: str | None,
    config: dict[str, Any],
    place: Place,
    as_json: bool,
) -> None:
    """Run many programs over a pool: the .py and .sh files among PATHS, and below the directories among them.

    Each gets nothing on standard input. Sandboxes are used again, with the files that programs before left, unless --fresh.
    On a server, its first pool is used, or one is made. The exit code is 0 when all ended with 0, else 1. With --json, each
    line is one program's outcome, printed as it ends.

    \b
    Examples:
      ms-enclave pool run solutions/ --size 8 -t 10 --no-network
      ms-enclave pool run *.py --json > outcomes.jsonl
    """
    programs = _find_programs(paths)
    if not programs:
        raise click.UsageError(f'There are no {" or ".join(TOOLS)} files in what was named.')
    if fresh and place.is_remote:
        raise click.UsageError("--fresh is about a pool of this machine; a server's pool has a policy of its own.")
    began = time.monotonic()
    outcomes: list[_Outcome] = []

    with (
        endings_as_exit(),
        place,
        _pool_manager(place, size, fresh, sandbox_type, config, quiet=as_json) as manager,
        progress(f'Running {len(programs)} programs', quiet=as_json) as report,
    ):
        for outcome in _run_all(manager, programs, size, timeout):
            outcomes.append(outcome)
            if as_json:
                click.echo(json.dumps(outcome.as_json(), ensure_ascii=False))
            report(f'{len(outcomes)} of {len(programs)}  {visible(outcome.path)}', len(outcomes), len(programs))
    failed = sum(1 for each in outcomes if each.status != ExecutionStatus.SUCCESS)
    if not as_json:
        outcomes.sort(key=lambda each: each.path)
        print_table(('PROGRAM', 'STATUS', 'EXIT', 'SECONDS', 'LAST OUTPUT'), [_row(each) for each in outcomes])
        seconds = time.monotonic() - began
        click.echo(f'{len(outcomes) - failed} succeeded, {failed} did not, in {seconds:.1f} s', err=True)
    raise click.exceptions.Exit(1 if failed else 0)


def _row(outcome: _Outcome) -> tuple[Any, ...]:
    result = outcome.result
    if result is None:
        return (outcome.path, outcome.status, '', '', outcome.problem)
    lines = str(result.error or result.output or '').strip().splitlines() or ['']
    seconds = '' if result.execution_time is None else f'{result.execution_time:.2f}'
    return (outcome.path, outcome.status, result.exit_code, seconds, lines[-1][:_SHOWN_OUTPUT])


def _find_programs(paths: Sequence[Path]) -> list[Path]:
    found: dict[Path, None] = {}
    for path in paths:
        inside = sorted(path.rglob('*')) if path.is_dir() else [path]
        for each in inside:
            if each.suffix in TOOLS and each.is_file():
                found[each] = None
    return list(found)


@contextlib.contextmanager
def _pool_manager(
    place: Place, size: int, fresh: bool, sandbox_type: str | None, config: dict[str, Any], *, quiet: bool
) -> Iterator[SandboxManager]:
    """Yield a manager that has a pool: the server's, or one of our own for the block."""
    enabled = with_tools(config, sandbox_type, ())
    if isinstance(place, RemotePlace):
        if not place.manager.get_stats().get('pools'):
            with progress(f'Starting {size} sandboxes', quiet=quiet):
                place.manager.initialize_pool(size, sandbox_type, enabled)
        yield place.manager
        return
    from enclave.managers.local import LocalSandboxManager

    with LocalSandboxManager(pool_policy='fresh' if fresh else 'reuse', stop_grace=0) as manager:
        with progress(f'Starting {size} sandboxes', quiet=quiet):
            manager.initialize_pool(size, sandbox_type, enabled)
        yield manager


def _run_all(manager: SandboxManager, programs: Sequence[Path], size: int, timeout: float) -> Iterator[_Outcome]:
    """Yield outcomes as programs end; no more programs are under way than there are sandboxes."""
    waiting = iter(programs)
    running: set[Future[_Outcome]] = set()
    with ThreadPoolExecutor(size, thread_name_prefix='enclave-cli-pool') as workers:
        try:
            while True:
                while len(running) < size and (path := next(waiting, None)) is not None:
                    running.add(workers.submit(_run_one, manager.execute_tool_in_pool, path, timeout))
                if not running:
                    return
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for each in done:
                    yield each.result()
        except BaseException:
            # Stopping the manager ends what runs, so that the workers can leave.
            manager.stop()
            raise


def _run_one(execute: Callable[..., ToolResult], path: Path, timeout: float) -> _Outcome:
    tool, parameter = TOOLS[path.suffix]
    try:
        text = path.read_text('utf-8')
        return _Outcome(path, execute(tool, {parameter: text, 'timeout': timeout}))
    except (EnclaveError, OSError, UnicodeDecodeError) as error:
        return _Outcome(path, None, str(error))


def _server(place: Place, verb: str) -> SandboxManager:
    if not isinstance(place, RemotePlace):
        raise click.UsageError(
            f'`pool {verb}` is about the pool of a server; name it by --url. On this machine a pool lives as long as `pool run`.'
        )
    return place.manager


def with_tools(config: dict[str, Any], sandbox_type: str | None, tools: Sequence[str]) -> dict[str, Any]:
    """Return a configuration with tools enabled: those named, or all that come with us and fit the kind."""
    if 'tools_config' in config:
        if tools:
            raise PoolError('tools are named by --tool or by -o tools_config, not by both')
        return config
    usual = (
        ('notebook_executor',)
        if 'notebook' in (sandbox_type or '')
        else ('python_executor', 'shell_executor', 'file_operation')
    )
    return {**config, 'tools_config': {name: {} for name in tools or usual}}
