"""`ms-enclave repl` (layer 6): type into a Jupyter kernel that runs in a fresh sandbox."""

from __future__ import annotations

import base64
import codeop
import contextlib
import getpass
import sys
from pathlib import Path
from typing import Any

import click

from enclave.cells import CellResult
from enclave.cli.notebook import notebook_options, open_notebook, show_failure, timeout_option
from enclave.cli.options import files_option, parse_files, place_options
from enclave.cli.output import echo_error, visible
from enclave.cli.place import Place
from enclave.cli.placing import put_files
from enclave.errors import EnclaveError
from enclave.sandboxes.notebook.outputs import readable
from enclave.sandboxes.notebook.sandbox import ASK_SECONDS

_TAB_SECONDS = 2.0
_HELP = """\
An empty line ends a block. Ctrl-C interrupts, Ctrl-D leaves. Besides code:
  :vars          list the variables
  :restart       start the kernel anew
  :save FILE     write the session as a notebook
  :quit          leave"""


@click.command()
@timeout_option
@click.option('--kernel', 'kernel_name', metavar='NAME', help='The kind of kernel.  [default: python3]')
@click.option(
    '--pictures',
    type=click.Path(file_okay=False, path_type=Path),
    metavar='DIR',
    help='Write the pictures that cells show into this directory.',
)
@files_option
@notebook_options
@place_options
def repl(
    timeout: float | None,
    kernel_name: str | None,
    pictures: Path | None,
    files: tuple[str, ...],
    sandbox_type: str | None,
    config: dict[str, Any],
    place: Place,
) -> None:
    """Type into a Jupyter kernel in a fresh sandbox, which is gone afterwards.

    \b
    Examples:
      ms-enclave repl
      ms-enclave repl --no-network -m 2g -f data/ --pictures plots/
    """
    copied = parse_files(files)
    if kernel_name is not None:
        config = {'kernel_name': kernel_name, **config}
    with place, open_notebook(place, sandbox_type, config) as sandbox:
        put_files(sandbox, copied)
        _Session(sandbox, timeout, pictures).run()


def _read_line(prompt: str, *, is_hidden: bool) -> str | None:
    """Read what a cell asks for; None at the end of input."""
    prompt = visible(prompt)
    try:
        if is_hidden and sys.stdin.isatty():
            return getpass.getpass(prompt)
        return input(prompt)
    except EOFError:
        return None


class _Session:
    """One session at one terminal, or over one pipe."""

    def __init__(self, sandbox: Any, timeout: float | None, pictures: Path | None) -> None:
        self._sandbox = sandbox
        self._timeout = timeout
        self._pictures = pictures
        self._shown = 0
        self._number = 1
        self._done: list[tuple[str, CellResult]] = []

    def run(self) -> None:
        """Read, run and show until the end of the input."""
        self._complete_by_tab()
        click.echo(f'{self._sandbox.id}: a kernel of its own. :help says more.', err=True)
        while True:
            try:
                code = self._read()
            except KeyboardInterrupt:
                click.echo('', err=True)
                continue
            except EOFError:
                click.echo('', err=True)
                return
            except UnicodeDecodeError as error:
                echo_error(f'that is not {error.encoding} text')
                continue
            try:
                if code.startswith(':'):
                    if not self._command(code):
                        return
                elif code.strip():
                    self._run(code)
            except KeyboardInterrupt:
                click.echo('interrupted', err=True)
            except EnclaveError as error:
                if isinstance(error, ConnectionError):
                    raise
                echo_error(str(error))

    def _read(self) -> str:
        """Read one cell: lines until they are complete, or an empty one ends them."""
        prompt = f'In [{self._number}]: '
        lines = [input(prompt)]
        indent = ' ' * (len(prompt) - 5) + '...: '
        while not lines[0].startswith(':') and self._wants_more(lines):
            try:
                lines.append(input(indent))
            except EOFError:
                break
        return '\n'.join(lines)

    def _wants_more(self, lines: list[str]) -> bool:
        if len(lines) > 1 and not lines[-1].strip():
            return False
        code = '\n'.join(lines)
        try:
            return bool(self._sandbox.check_complete(code)[0] == 'incomplete')
        except EnclaveError as error:  # the cell itself will say what is wrong with the code or the kernel
            if isinstance(error, ConnectionError):
                raise
        try:
            return codeop.compile_command(code) is None
        except (SyntaxError, ValueError, OverflowError):
            return False

    def _run(self, code: str) -> None:
        result = self._follow(self._sandbox.stream_cell(code, self._timeout, allow_input=True))
        self._done.append((code, result))
        self._number = (result.execution_count or self._number) + 1

    def _follow(self, steps: Any) -> CellResult:
        """Show a cell's outputs as they come."""
        with contextlib.closing(steps):
            for step in steps:
                if isinstance(step, CellResult):
                    if step.note:
                        click.echo(f'ms-enclave: {step.note}', err=True)
                    if not step.success:
                        show_failure(step)
                    return step
                if step['output_type'] == 'stream':
                    click.echo(step['text'], nl=False, err=step['name'] == 'stderr')
                elif step['output_type'] == 'input_request':
                    self._sandbox.answer_input(_read_line(step['prompt'], is_hidden=step['password']))
                elif 'data' in step:
                    text = readable(step['data'])
                    number = step.get('execution_count')
                    click.echo(text if number is None else f'Out[{number}]: {text}')
                    self._keep_pictures(step)
        raise AssertionError('unreachable')

    def _keep_pictures(self, output: dict[str, Any]) -> None:
        if self._pictures is None:
            return
        for mime, suffix in (('image/png', 'png'), ('image/jpeg', 'jpg'), ('image/svg+xml', 'svg')):
            value = output['data'].get(mime)
            if not isinstance(value, str):
                continue
            try:
                data = value.encode() if suffix == 'svg' else base64.b64decode(value)
            except ValueError:  # it is not base64, or no text
                continue
            path = self._pictures / f'{self._shown + 1:03}.{suffix}'
            try:
                self._pictures.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
            except OSError as error:
                echo_error(f'the picture was not written to {path}: {error.strerror}')
                continue
            self._shown += 1
            click.echo(f'[{path}]')

    def _command(self, line: str) -> bool:
        """Do what a line with a colon asks; False to leave."""
        word, _, rest = line[1:].strip().partition(' ')
        if word in ('q', 'quit', 'exit'):
            return False
        if word == 'save' and rest.strip():
            self._save(rest.strip())
        elif word == 'restart':
            self._sandbox.restart_kernel()
            self._number = 1
        elif word == 'vars':
            for each in self._sandbox.list_variables():
                click.echo(f'{each.name}: {each.type} {f"({each.shape}) " if each.shape else ""}= {each.text}')
        else:
            click.echo(_HELP, err=True)
        return True

    def _save(self, path: str) -> None:
        from enclave.sandboxes.notebook.document import NotebookDocument

        document = NotebookDocument()
        for code, result in self._done:
            document.add(code, result)
        try:
            document.save(path)
        except (OSError, ValueError) as error:  # ValueError is a path that no system takes
            echo_error(f'{path!r} was not written: {getattr(error, "strerror", None) or error}')
        else:
            click.echo(f'wrote {len(self._done)} cells to {path}', err=True)

    def _complete_by_tab(self) -> None:
        """Have the kernel say what Tab can mean, where this terminal can do that."""
        complete = self._sandbox.complete_code
        try:
            import readline
        except ImportError:
            return
        found: list[str] = []
        has_answered = False

        def completer(text: str, state: int) -> str | None:
            nonlocal has_answered
            if state == 0:
                found.clear()
                line, end = readline.get_line_buffer(), readline.get_endidx()
                start = readline.get_begidx()
                with contextlib.suppress(EnclaveError):
                    # For its first answer a kernel reads much of Python's library; after that nobody should wait long.
                    answer = complete(line, end, timeout=_TAB_SECONDS if has_answered else ASK_SECONDS)
                    has_answered = True
                    # readline replaces from where its own word begins.
                    found.extend(
                        line[start : answer.start] + match[max(0, start - answer.start) :] for match in answer.matches
                    )
            return found[state] if state < len(found) else None

        readline.set_completer_delims(' \t\n()[]{},;=+-*/')
        readline.set_completer(completer)
        readline.parse_and_bind('tab: complete')
