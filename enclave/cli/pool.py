"""`ms-enclave pool` (layer 6): many programs over a pool of warm sandboxes, here or on a server."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from enclave.cli.hints import HintedGroup
from enclave.cli.options import (
    WholeNumber,
    json_option,
    parse_value,
    place_options,
    sandbox_options,
    seconds_option,
)
from enclave.cli.output import check_writable, echo_json, progress, visible
from enclave.cli.place import Place, RemotePlace
from enclave.cli.pool_cases import Case, find_cases, languages_by_suffix
from enclave.cli.pool_report import TIMED_OUT, CaseOutcome, print_report, write_report
from enclave.cli.relay import endings_as_exit
from enclave.cli.stats import print_pools
from enclave.enums import ExecutionStatus
from enclave.errors import EnclaveError, PoolError
from enclave.languages.values import COMPARISONS
from enclave.parallel import MOST_AT_ONCE

if TYPE_CHECKING:
    from enclave.managers.base import SandboxManager


@click.group(cls=HintedGroup)
def pool() -> None:
    """Run many programs over a pool of warm sandboxes.

    A server's pool stays until the server stops: `init` makes it, `exec` and `run` use it, `show` reports it. On this
    machine a pool lives as long as `run`.
    """


@pool.command()
@click.option('--size', type=WholeNumber(1), required=True, metavar='N', help='How many sandboxes.')
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
    with place, progress(f'Starting {_counted(size, "sandbox", "sandboxes")}', quiet=as_json):
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
@seconds_option('-w', '--wait', 'timeout', help='How long to wait for a free sandbox.')
@place_options
@json_option
def exec_(tool: str, parameters: tuple[str, ...], timeout: float | None, place: Place, as_json: bool) -> None:
    """Run a tool in whichever sandbox of a server's pool is free.

    A VALUE is JSON or text; @FILE is a file's text, @- for standard input. The exit code is the program's own for tools
    that run one, 124 when it ran out of time.

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
    if result.status is ExecutionStatus.TIMEOUT:
        raise click.exceptions.Exit(TIMED_OUT)
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


@pool.command()
@click.argument('paths', nargs=-1, required=True, type=click.Path(exists=True, path_type=Path), metavar='PATH...')
@click.option(
    '--size', type=WholeNumber(1, 1000), default=4, show_default=True, metavar='N', help='How many sandboxes.'
)
@seconds_option('-t', '--timeout', default=30.0, help='How long each may run.')
@click.option(
    '--compare',
    type=click.Choice(COMPARISONS),
    default='lines',
    show_default=True,
    help='How an output is compared with the one expected.',
)
@click.option(
    '--report',
    'reports',
    multiple=True,
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    metavar='FILE',
    help='Write a report: JUnit XML if FILE ends in .xml, else JSON. Repeatable.',
)
@click.option(
    '--fresh/--reuse',
    default=None,
    help='A new sandbox for each program, or one that others have used. Local only.  [default: fresh]',
)
@sandbox_options
@place_options
@json_option
def run(
    paths: tuple[Path, ...],
    size: int,
    timeout: float,
    compare: str,
    reports: tuple[Path, ...],
    fresh: bool | None,
    sandbox_type: str | None,
    config: dict[str, Any],
    place: Place,
    as_json: bool,
) -> None:
    """Run many programs over a pool: the files among PATHS, and below the directories among them, in any known language.

    A program reads what is beside it in a file of its name that ends in .in, and should print what is in the one that ends
    in .out; of several, NAME.small.in and NAME.large.in, each is a run of its own. A PATH that ends in .jsonl has a run on each
    line: {"id", "code" or "path", "language", "stdin", "expected_output", ...}.

    Each runs in a sandbox that no other has been in, unless --reuse. On a server, its first pool is used, or one is made. The
    exit code is 0 when all ended with 0 and printed what they should, else 1. With --json, each line is one outcome, printed as
    it ends.

    \b
    Examples:
      ms-enclave pool run solutions/ --size 8 -t 10 --no-network
      ms-enclave pool run *.py --json > outcomes.jsonl
      ms-enclave pool run tasks.jsonl --compare floats --report report.xml
    """
    cases = find_cases(paths, timeout, compare)
    if not cases:
        endings = ', '.join(sorted(languages_by_suffix()))
        raise click.UsageError(f'There are no programs in what was named. They are files that end in {endings}.')
    if fresh is not None and place.is_remote:
        raise click.UsageError("--fresh is about a pool of this machine; a server's pool has a policy of its own.")
    for path in reports:
        if not path.exists():
            check_writable(path, "'--report'")
    size = min(size, len(cases), MOST_AT_ONCE)
    began = time.monotonic()
    outcomes: list[CaseOutcome] = []

    with (
        endings_as_exit(),
        place,
        _pool_manager(place, size, fresh is not False, sandbox_type, config, quiet=as_json) as manager,
        progress(f'Running {_counted(len(cases), "program", "programs")}', quiet=as_json) as report,
    ):
        for outcome in _run_all(manager, cases, size):
            outcomes.append(outcome)
            if as_json:
                line = json.dumps(outcome.as_json(), ensure_ascii=False)
                click.echo(line.encode('utf-8', 'backslashreplace').decode('utf-8'))
            report(f'{len(outcomes)} of {len(cases)}  {visible(outcome.case.label)}', len(outcomes), len(cases))
    seconds = time.monotonic() - began
    order = {id(case): number for number, case in enumerate(cases)}
    outcomes.sort(key=lambda each: order[id(each.case)])
    if not as_json:
        print_report(outcomes, seconds)
    for path in reports:
        write_report(outcomes, seconds, path)
    raise click.exceptions.Exit(0 if all(each.success for each in outcomes) else 1)


@contextlib.contextmanager
def _pool_manager(
    place: Place, size: int, fresh: bool, sandbox_type: str | None, config: dict[str, Any], *, quiet: bool
) -> Iterator[SandboxManager]:
    """Yield a manager that has a pool: the server's, or one of our own for the block."""
    enabled = with_tools(config, sandbox_type, ())
    if isinstance(place, RemotePlace):
        if not place.manager.get_stats().get('pools'):
            with progress(f'Starting {_counted(size, "sandbox", "sandboxes")}', quiet=quiet):
                place.manager.initialize_pool(size, sandbox_type, enabled)
        yield place.manager
        return
    from enclave.managers.local import LocalSandboxManager

    with LocalSandboxManager(pool_policy='fresh' if fresh else 'reuse', stop_grace=0) as manager:
        with progress(f'Starting {_counted(size, "sandbox", "sandboxes")}', quiet=quiet):
            manager.initialize_pool(size, sandbox_type, enabled)
        yield manager


def _run_all(manager: SandboxManager, cases: Sequence[Case], size: int) -> Iterator[CaseOutcome]:
    """Yield outcomes as programs end; no more programs are under way than there are sandboxes."""
    runnable = [case for case in cases if case.request is not None]
    for case in cases:
        if case.request is None:
            yield CaseOutcome(case, None, case.problem)
    if not runnable:
        return
    with manager.run_many(
        (case.request for case in runnable if case.request is not None), concurrency=size
    ) as outcomes:
        for each in outcomes:
            case = runnable[each.index]
            if each.error is None:
                yield CaseOutcome(case, each.unwrap())
            elif isinstance(each.error, EnclaveError):
                yield CaseOutcome(case, None, str(each.error), each.error)
            else:
                raise each.error


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


def _counted(number: int, one: str, several: str) -> str:
    return f'{number} {one if number == 1 else several}'
