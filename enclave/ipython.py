"""An extension of IPython and Jupyter (layer: entries): cells that run in a sandbox, with their plots and tables.

::

    %load_ext enclave

    %%enclave
    x = 6
    x * 7

The first such cell opens a notebook sandbox, which keeps its variables until ``%enclave stop``. What the cells show is a
stranger's: it is shown so that nothing of it can run in the page (see `enclave.rendering`).
"""

from __future__ import annotations

import contextlib
import getpass
import inspect
import keyword
import shlex
import sys
from collections.abc import Callable, Mapping
from typing import Any, cast

from attrs import define
from IPython.core.error import UsageError
from IPython.core.magic import Magics, cell_magic, line_magic, magics_class
from IPython.core.magic_arguments import argument, magic_arguments, parse_argstring
from IPython.display import clear_output, display

from enclave.cells import CellResult
from enclave.errors import EnclaveError
from enclave.rendering import bundle, find_pictures, outputs_html, strip_escape_codes
from enclave.sandboxes.choice import choose_for, notebook_type
from enclave.sandboxes.notebook.sandbox import CellVerbs, NotebookSandbox
from enclave.shortcuts import open_sandbox

_TAKES = (
    '%%enclave takes -t SECONDS, -o NAME, -k KERNEL, --shell and -l LANGUAGE; `%enclave open` takes the kind and options of the '
    'sandbox, and `%%enclave?` shows more'
)


class CellFailed(Exception):
    """A cell in the sandbox failed, so that those below it are not run. Its traceback has been shown already."""

    def _render_traceback_(self, *_: Any) -> list[str]:
        return [f'{type(self).__name__}: {self}']


@magics_class
class EnclaveMagics(Magics):
    """``%%enclave`` runs a cell in the session's sandbox; ``%enclave`` controls that sandbox. Lives as long as the session."""

    def __init__(self, shell: Any) -> None:
        super().__init__(shell)
        self.sandbox: NotebookSandbox | None = None

    @magic_arguments()
    @argument('-t', '--timeout', type=float, help='seconds the cell may take; 0 for no limit')
    @argument('-k', '--kernel', default='default', help='a kernel of its own by this name, made at its first use')
    @argument('-o', '--output', metavar='NAME', help='the variable of this session that gets the CellResult')
    @argument('--shell', action='store_true', help='the cell is a script for the shell')
    @argument('-l', '--language', help='the cell is a program in this language, like cpp or javascript')
    @cell_magic
    def enclave(self, line: str, cell: str) -> None:
        """Run the cell in the sandbox, with what it shows as it comes."""
        try:
            given = parse_argstring(self.enclave, line)
        except UsageError as error:
            raise UsageError(f'{error}. {_TAKES}') from None
        if given.output is not None and (not given.output.isidentifier() or keyword.iskeyword(given.output)):
            raise UsageError(f'-o takes the name of a variable, not {given.output!r}')
        with _errors_as_usage():
            sandbox = self._open()
            if given.shell or given.language:
                self._run_program(sandbox, cell, 'bash' if given.shell else given.language, given)
                return
            if given.kernel != 'default':
                sandbox.create_kernel(given.kernel, exist_ok=True)
            shown = _CellDisplay(f'enclave-{sandbox.id}-{given.kernel}')
            result = sandbox.execute_cell(
                cell, given.timeout, kernel=given.kernel, on_output=shown.show, on_input=_ask_here
            )
        self._keep(given.output, result)
        if result.note:
            print(result.note, file=sys.stderr)
        if not result.success:
            raise CellFailed(_ending(result))

    def _run_program(self, sandbox: NotebookSandbox, cell: str, language: str, given: Any) -> None:
        program = sandbox.run_code(cell, language, timeout=given.timeout)
        sys.stdout.write(program.stdout)
        sys.stderr.write(program.stderr)
        self._keep(given.output, program)
        if not program.success:
            raise CellFailed(f'the program ended with exit code {program.exit_code}')

    def _keep(self, name: str | None, result: Any) -> None:
        if name is not None and self.shell is not None:
            self.shell.user_ns[name] = result

    def _open(self, kind: str | None = None, **options: Any) -> NotebookSandbox:
        if self.sandbox is None:
            wanted = notebook_type(kind) if kind else str(choose_for(None, notebook=True).sandbox_type)
            opened = open_sandbox(wanted, **options)
            if not isinstance(opened, CellVerbs):
                opened.stop()
                raise UsageError(f'{wanted!r} sandboxes have no kernels; name a kind of notebook, like docker_notebook')
            self.sandbox = cast(NotebookSandbox, opened)  # a remote one has the same verbs
        return self.sandbox

    @line_magic('enclave')
    def control(self, line: str) -> Any:
        """Control the sandbox: ``open [KIND] [OPTION=VALUE ...]``, ``status``, ``restart``, ``stop``, ``put FILE [TO]``,
        ``get FILE [TO]``.
        """
        verb, *rest = line.split() or ['status']
        actions: dict[str, Callable[..., Any]] = {
            'open': self._do_open,
            'status': lambda: self.sandbox.get_info() if self.sandbox is not None else print('no sandbox is open'),
            'restart': lambda: self._open().restart_kernel(),
            'stop': self.close,
            'put': self._do_put,
            'get': self._do_get,
        }
        if verb not in actions:
            raise UsageError(f'%enclave knows {", ".join(actions)}; not {verb!r}')
        try:
            if verb in ('put', 'get'):
                rest = shlex.split(line)[1:]  # paths may have blanks
            inspect.signature(actions[verb]).bind(*rest)
        except (TypeError, ValueError) as error:
            raise UsageError(f'%enclave {verb}: {error}') from None
        with _errors_as_usage():
            return actions[verb](*rest)

    def _do_put(self, source: str, target: str = '.') -> None:
        self._open().put_file(source, f'{target}/' if target == '.' else target)

    def _do_get(self, source: str, target: str = '.') -> Any:
        return self._open().get_file(source, target)

    def _do_open(self, *arguments: str) -> Any:
        from enclave.wire import from_json

        kinds = [word for word in arguments if '=' not in word]
        options: dict[str, Any] = {}
        for name, _, text in (word.partition('=') for word in arguments if '=' in word):
            try:
                options[name] = from_json(text)
            except EnclaveError:
                options[name] = text
        if len(kinds) > 1:
            raise UsageError(f'%enclave open takes one kind, not {kinds}')
        self.close()
        return self._open(*kinds, **options).get_info()

    def close(self) -> None:
        """Stop the sandbox, if one is open."""
        sandbox, self.sandbox = self.sandbox, None
        if sandbox is not None:
            sandbox.stop()


@define
class _CellDisplay:
    """Shows a cell's outputs as they come. Lives for one cell.

    Attributes:
        _prefix: Of the ids of its displays, so that a sandbox updates its own displays only.
    """

    _prefix: str

    def show(self, output: Mapping[str, Any]) -> None:
        kind = output.get('output_type')
        if kind == 'stream':
            text = ''.join(output.get('text') or '')
            (sys.stderr if output.get('name') == 'stderr' else sys.stdout).write(text)
        elif kind == 'error':
            lines = output.get('traceback')
            print('\n'.join(lines) if lines else f'{output.get("ename")}: {output.get("evalue")}', file=sys.stderr)
        elif kind in ('display_data', 'execute_result', 'update_display_data'):
            data = output.get('data') or {}
            plain = strip_escape_codes(''.join(data.get('text/plain') or ''))
            shown = {'output_type': kind, 'data': data}
            options: dict[str, Any] = {}
            if output.get('display_id'):
                options = {
                    'display_id': f'{self._prefix}-{output["display_id"]}',
                    'update': kind == 'update_display_data',
                }
            display(bundle(plain, outputs_html([shown]), find_pictures([shown])), raw=True, **options)
        elif kind == 'clear_output':
            clear_output(wait=output.get('wait') is True)


def _ask_here(prompt: str, is_hidden: bool) -> str | None:
    """Ask the user of this session what a cell asks for."""
    try:
        return getpass.getpass(prompt) if is_hidden else input(prompt)
    except EOFError:
        return None
    except RuntimeError as error:  # a front end that takes no input; `sys.stdin` is lost
        raise UsageError(f'the cell asks for input, which cannot be typed here: {error}') from None


def _ending(result: CellResult) -> str:
    if result.timed_out:
        lost = f'; the kernel {result.state_lost}, and its variables are lost' if result.state_lost else ''
        return f'the cell ran out of time after {result.execution_time:.1f} s{lost}'
    if result.error is not None:
        return f'{result.error.name}: {result.error.value}'
    return result.note or (
        f'the kernel {result.state_lost}' if result.state_lost else f'the cell ended as {result.status}'
    )


@contextlib.contextmanager
def _errors_as_usage() -> Any:
    """Show what could not be done as one line, as IPython does for its own magics."""
    try:
        yield
    except (EnclaveError, OSError) as error:
        raise UsageError(str(error)) from None


def load_ipython_extension(ipython: Any) -> None:
    """Add the magics to a session; called by ``%load_ext enclave``."""
    magics = EnclaveMagics(ipython)
    ipython.register_magics(magics)
    import atexit

    atexit.register(magics.close)


def unload_ipython_extension(ipython: Any) -> None:
    """Stop the session's sandbox; called by ``%unload_ext enclave``."""
    magics = ipython.magics_manager.registry.get('EnclaveMagics')
    if magics is not None:
        magics.close()
