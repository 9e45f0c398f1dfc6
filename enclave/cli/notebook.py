"""`ms-enclave notebook` (layer 6): notebook files, run in a fresh sandbox."""

from __future__ import annotations

import contextlib
import functools
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import click

from enclave.cells import DEFAULT_KERNEL, CellResult
from enclave.cli.completers import complete_images, complete_kinds
from enclave.cli.hints import HintedGroup
from enclave.cli.options import (
    DEFAULT_KIND,
    SANDBOX_OPTIONS,
    config_options,
    files_option,
    json_option,
    parse_files,
    place_options,
    seconds_option,
)
from enclave.cli.output import check_writable, echo_error, echo_json, visible
from enclave.cli.place import Place, choose_kind, report_kind
from enclave.cli.placing import put_files
from enclave.cli.relay import endings_as_cancel, endings_as_exit
from enclave.rendering import strip_escape_codes

_REPAIRS_SHOWN = 10
ANNOUNCE_SECONDS = 0.3
"""How long a start is silent."""

F = TypeVar('F', bound=Callable[..., Any])

_CONTROL = re.compile(r'[\x00-\x08\x0b-\x1f\x7f-\x9f]')  # all but tabs and line ends
_OPTIONS: dict[str, Any] = {
    **{
        name: SANDBOX_OPTIONS[name] for name in ('sandbox_type', 'image', 'memory', 'cpus', 'network', 'env', 'volumes')
    },
    'sandbox_type': click.option(  # the variable ENCLAVE_TYPE is read where the kind is chosen
        '--type',
        'sandbox_type',
        metavar='KIND',
        shell_complete=complete_kinds,
        help=f'The kind of sandbox.  [env: ENCLAVE_TYPE; default: {DEFAULT_KIND}]',
    ),
    'image': click.option(
        '--image',
        metavar='NAME',
        shell_complete=complete_images,
        help='An image with ipykernel, for kinds that have images.  [default: one of our own, built if missing]',
    ),
    # No -o: that is the output file.
    'options': click.option(
        '--option',
        'options',
        multiple=True,
        metavar='NAME=VALUE',
        help='Any other option of its configuration, the value as JSON or text. Repeatable.',
    ),
}
timeout_option = seconds_option(
    '-t',
    '--timeout',
    help='How long each cell may run; 0 for no limit.  [default: no limit; on a server, the longest it allows]',
)


def notebook_options(function: F) -> F:
    """Give a command the options of a new notebook sandbox; it gets ``sandbox_type``, and its configuration as the dict
    ``config``."""

    @functools.wraps(function)
    def wrapper(*args: Any, config: dict[str, Any], **kwargs: Any) -> Any:
        config.setdefault('tools_config', {'notebook_executor': {}})
        return function(*args, config=config, **kwargs)

    found: F = config_options(wrapper, _OPTIONS)
    return found


@contextlib.contextmanager
def open_notebook(
    place: Place, sandbox_type: str | None, config: dict[str, Any], *, quiet: bool = False
) -> Iterator[Any]:
    """Have a fresh notebook sandbox for a ``with`` block, of the kind that is named, else of the one there is here.

    Its cells may run as long as the place allows, unless the configuration or the call says otherwise.
    """
    config = {'timeout': place.longest_timeout(), **config}
    choice = None
    if sandbox_type is None and not place.is_remote:
        choice = choose_kind(config, quiet=quiet, notebook=True)
        sandbox_type = str(choice.sandbox_type)
    kind = _find_kind(sandbox_type, config)
    with contextlib.ExitStack() as stack:
        with (
            contextlib.nullcontext()
            if quiet
            else _announced('starting a kernel in a fresh sandbox', 'the kernel is ready')
        ):
            sandbox = stack.enter_context(place.open(kind, config, quiet=quiet))
        if choice is not None:
            sandbox.metadata.update(choice.facts)
        yield sandbox


@contextlib.contextmanager
def _announced(what: str, done: str) -> Iterator[None]:
    """Say what continues in a ``with`` block that takes longer than a moment, and afterwards how long it took."""
    started_at = time.monotonic()
    timer = threading.Timer(ANNOUNCE_SECONDS, lambda: click.echo(f'ms-enclave: {what} ...', err=True))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
    seconds = time.monotonic() - started_at
    if seconds > ANNOUNCE_SECONDS:
        timer.join()
        click.echo(f'ms-enclave: {done} after {seconds:.1f} s', err=True)


def _find_kind(sandbox_type: str | None, config: dict[str, Any]) -> str | None:
    """Return the kind to ask for; None leaves it to a server, which can see that a notebook is wanted."""
    from enclave.sandboxes.choice import default_type, is_for_notebooks, notebook_type

    if sandbox_type is not None:
        return notebook_type(sandbox_type)
    return None if is_for_notebooks(config) else notebook_type(default_type())


@click.group(cls=HintedGroup)
def notebook() -> None:
    """Run notebook files in a fresh sandbox."""


@notebook.command()
@click.argument('file', type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    '-o',
    '--output',
    type=click.Path(dir_okay=False, allow_dash=True, path_type=Path),
    help="Write the notebook with its outputs here; '-' is standard output, and what cells print then goes to standard error.",
)
@timeout_option
@click.option('--allow-errors', is_flag=True, help='Continue after a cell that fails.')
@click.option('--kernel', 'kernel_name', metavar='NAME', help="The kind of kernel, instead of the notebook's own.")
@click.option(
    '-p',
    '--parameter',
    'parameters',
    nargs=2,
    multiple=True,
    metavar='NAME VALUE',
    help='Set a variable, after the cell tagged parameters: a number, true, false, null, JSON, or else text. Repeatable.',
)
@click.option(
    '-r',
    '--raw-parameter',
    'raw_parameters',
    nargs=2,
    multiple=True,
    metavar='NAME TEXT',
    help='The same, always as text.',
)
@files_option
@notebook_options
@place_options
@json_option
def run(
    file: Path,
    output: Path | None,
    timeout: float | None,
    allow_errors: bool,
    kernel_name: str | None,
    parameters: tuple[tuple[str, str], ...],
    raw_parameters: tuple[tuple[str, str], ...],
    files: tuple[str, ...],
    sandbox_type: str | None,
    config: dict[str, Any],
    place: Place,
    as_json: bool,
) -> None:
    """Run the cells of a notebook FILE, in order, in a fresh sandbox that is gone afterwards.

    What the cells print and show goes to standard output as text, and with -o into a notebook with every output. The
    first cell that fails ends the run with exit code 1; the notebook is written all the same. A cell tagged
    raises-exception may fail, but a cell that runs out of time or loses its kernel always ends the run. Ctrl-C interrupts
    the cell that runs, and keeps its output so far.

    \b
    Examples:
      ms-enclave notebook run study.ipynb -o done.ipynb
      ms-enclave notebook run --no-network -m 2g -t 60 -f data/ study.ipynb
      ms-enclave notebook run -p alpha 0.5 -p name Bob study.ipynb
      ms-enclave notebook run --type bubblewrap study.ipynb
    """
    from enclave.sandboxes.notebook.document import NotebookDocument
    from enclave.sandboxes.notebook.parameters import parse_value

    to_stdout = output == Path('-')
    if to_stdout and as_json:
        raise click.UsageError("--json and '-o -' would both write to standard output")
    document = NotebookDocument.load(file)
    _report_repairs(document.repairs, file)
    values = {**{name: parse_value(text) for name, text in parameters}, **dict(raw_parameters)}
    if values:
        document.set_parameters(values)  # what cannot be written is found out before anything starts
    if output is not None and not to_stdout:
        check_writable(output, "'-o'")
    is_chosen = kernel_name is not None or 'kernel_name' in config
    wanted = kernel_name or document.kernel_name or 'python3'
    if wanted != 'python3' and not (kernel_name is None and document.is_python):
        config = {'kernel_name': wanted, **config}
    copied = parse_files(files)

    is_well = True

    def on_cell(index: int, result: CellResult) -> None:
        nonlocal is_well
        is_well = document.is_tolerated(index, result, allow_errors=allow_errors)
        if not as_json:
            show_result(result, only_stderr=to_stdout)

    with endings_as_exit(), place, open_notebook(place, sandbox_type, config, quiet=as_json) as sandbox:
        put_files(sandbox, copied)
        try:
            with endings_as_cancel():
                results = document.run(
                    sandbox,
                    timeout,
                    kernel=DEFAULT_KERNEL if is_chosen else None,
                    allow_errors=allow_errors,
                    on_cell=on_cell,
                    parameters=values,
                )
        finally:
            if to_stdout:
                click.echo(document.dumps().encode(), nl=False)
            elif output is not None:
                document.save(output)
    cells = len(document.cells_to_run)
    failed = sum(not result.success for result in results)
    if as_json:
        echo_json(
            {
                'cells': cells,
                'run': len(results),
                'failed': failed,
                'repairs': document.repairs,
                'output': None if output is None else str(output),
                **report_kind(sandbox),
                'results': [result.model_dump(mode='json') for result in results],
            }
        )
    elif len(results) < cells:
        click.echo(f'ms-enclave: stopped after {len(results)} of {cells} cells', err=True)
    if not is_well:
        raise click.exceptions.Exit(1)


def _report_repairs(repairs: list[str], file: Path) -> None:
    """Say what had to be repaired in a file."""
    for text in repairs[:_REPAIRS_SHOWN]:
        click.echo(f'ms-enclave: repaired {file}: {visible(text)}', err=True)
    if len(repairs) > _REPAIRS_SHOWN:
        click.echo(f'ms-enclave: and {len(repairs) - _REPAIRS_SHOWN} more', err=True)


def show_result(result: CellResult, *, only_stderr: bool = False) -> None:
    """Print what a person reads of a cell."""
    for text, is_error in ((_plain(result.text), only_stderr), (_plain(result.stderr), True)):
        if text:
            click.echo(text, nl=not text.endswith('\n'), err=is_error)
    if result.note:
        click.echo(f'ms-enclave: {result.note}', err=True)
    if not result.success:
        show_failure(result)


def show_failure(result: CellResult) -> None:
    """Print why a cell failed."""
    error = result.error
    if error is not None and result.state_lost is None:
        click.echo(_plain(error.traceback or f'{error.name}: {error.value}'), err=True)
    if result.timed_out:
        echo_error('the cell ran out of time and was interrupted')
    if result.state_lost is not None:
        echo_error(f'the kernel {result.state_lost}; its variables are lost')


def _plain(text: str) -> str:
    """Return a guest's text without what steers a terminal."""
    return _CONTROL.sub('', strip_escape_codes(text))
