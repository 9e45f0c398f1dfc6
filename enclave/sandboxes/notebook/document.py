"""Notebook files (layer 4), and the one entry to ``nbformat``: read one, run it in a sandbox, write one.

``nbformat`` comes with ``pip install 'ms-enclave[notebook]'``.
"""

from __future__ import annotations

import errno
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from attrs import define, field

from enclave.cells import DEFAULT_KERNEL, CellResult, KernelInfo
from enclave.enums import ExecutionStatus
from enclave.errors import InvalidArgumentError, NotFoundError, UnsupportedError
from enclave.sandboxes.notebook.kernel_process import PYTHON_SPEC
from enclave.sandboxes.notebook.parameters import INJECTED_TAG, PARAMETERS_TAG, as_code
from enclave.sandboxes.notebook.repair import repair, valid_output
from enclave.sandboxes.notebook.widgets import WIDGET_STATE, WIDGET_VIEW, merge_widgets, stored_widgets

MAX_FILE_BYTES = 256 << 20
RAISES_TAG = 'raises-exception'
"""A cell with this tag may fail without ending the run, as in Jupyter's own tools."""
SKIP_TAG = 'skip-execution'
"""A cell with this tag is not run, and keeps its outputs, as in Jupyter's own tools."""
_LONE_SURROGATE = re.compile('[\ud800-\udfff]')


class Notebook(Protocol):
    """What a document needs of a sandbox to run in."""

    def execute_cell(self, code: str, timeout: float | None = None, *, kernel: str = DEFAULT_KERNEL) -> CellResult:
        """Run a cell."""

    def list_kernels(self) -> list[KernelInfo]:
        """Return the kernels there are."""


def _nbformat() -> Any:
    try:
        import nbformat
    except ImportError as error:
        raise UnsupportedError(
            "notebook files need nbformat, which is not installed; run: pip install 'ms-enclave[notebook]'"
        ) from error
    return nbformat


@define(eq=False)
class NotebookDocument:
    """A notebook, as in an ``.ipynb`` file of format 4. Lives as long as its owner likes; one thread at a time.

    ::

        document = NotebookDocument()
        document.run_cell(sandbox, 'import math; math.pi')
        document.save('session.ipynb')

    Attributes:
        node: The notebook as nbformat holds it: a dict with ``cells`` and ``metadata``.
        repairs: What had to be repaired in the file that was read, a sentence each; empty where it was valid.
    """

    node: Any = field(factory=lambda: _new_node())
    repairs: list[str] = field(factory=list, init=False)
    _displays: dict[str, list[dict[str, Any]]] = field(factory=dict, init=False, repr=False)

    # Files ------------------------------------------------------------------------------------------------------------

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> NotebookDocument:
        """Read a file of any format version, brought up to 4.5. A byte order mark before its UTF-8 is passed over.

        What is missing or wrong in it is repaired, and `repairs` says what that was.

        Raises:
            FileNotFoundError: There is no such file.
            InvalidArgumentError: It is no notebook: not JSON in UTF-8, or without cells.
        """
        _check_path(path)
        source = Path(path)
        if source.stat().st_size > MAX_FILE_BYTES:
            raise InvalidArgumentError(f'{os.fspath(path)!r} is larger than {MAX_FILE_BYTES} bytes')
        try:
            text = source.read_text('utf-8-sig')
        except UnicodeDecodeError as error:
            raise InvalidArgumentError(
                f'{os.fspath(path)!r} is no notebook: it is not UTF-8 text ({error.reason} at byte {error.start})'
            ) from error
        return cls.loads(text, name=os.fspath(path))

    @classmethod
    def loads(cls, text: str, *, name: str = 'the text') -> NotebookDocument:
        """Read the text of a file; see `load`."""
        _check_text(text, 'text')
        nbformat = _nbformat()
        if not text.lstrip().startswith('{'):
            raise InvalidArgumentError(
                f'{name!r} is no notebook: it is {"no JSON object" if text.strip() else "empty"}'
            )
        try:
            found, repairs = repair(json.loads(text))
        except InvalidArgumentError as error:
            raise InvalidArgumentError(f'{name!r} is no notebook: {error.message}') from error
        except RecursionError as error:
            raise InvalidArgumentError(f'{name!r} is no notebook: its JSON is nested too deep') from error
        except ValueError as error:
            raise InvalidArgumentError(f'{name!r} is no notebook: it is no JSON ({error})') from error
        node = nbformat.from_dict(found)
        try:
            nbformat.validate(node)
        except nbformat.ValidationError as error:
            raise InvalidArgumentError(f'{name!r} is no notebook: {str(error)[:300]}') from error
        document = cls(node)
        document.repairs.extend(repairs)
        return document

    def dumps(self) -> str:
        """Return the text of a valid ``.ipynb`` file.

        Raises:
            InvalidArgumentError: What was put into ``node`` by hand is no valid notebook.
        """
        nbformat = _nbformat()
        try:
            nbformat.validate(self.node)
        except nbformat.ValidationError as error:
            raise InvalidArgumentError(f'the notebook is not valid: {str(error)[:300]}') from error
        text = str(nbformat.writes(self.node)) + '\n'
        # JSON can name a lone surrogate, UTF-8 has none; outside of strings there is no such character.
        return _LONE_SURROGATE.sub(lambda match: f'\\u{ord(match[0]):04x}', text)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it to a file, as a whole or not at all.

        Raises:
            OSError: It cannot be written.
            InvalidArgumentError: As in `dumps`.
        """
        _check_path(path)
        place, text = Path(path), self.dumps()
        try:
            self._write(place, text)
        except FileNotFoundError as error:
            raise FileNotFoundError(errno.ENOENT, f'There is no directory {str(place.parent)!r}', str(place)) from error
        except OSError as error:  # it names the file that was to become this one
            raise OSError(error.errno, error.strerror, str(place)) from error

    def _write(self, place: Path, text: str) -> None:
        handle, name = tempfile.mkstemp(dir=place.parent, prefix='.enclave-', suffix='.ipynb')
        try:
            with os.fdopen(handle, 'w', encoding='utf-8') as file:
                file.write(text)
            umask = os.umask(0)
            os.umask(umask)
            os.chmod(name, 0o666 & ~umask)
            os.replace(name, place)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise

    # Cells ------------------------------------------------------------------------------------------------------------

    @property
    def code_cells(self) -> list[tuple[int, str]]:
        """Return ``(index among all cells, source)`` of the cells with code."""
        return [(index, cell.source) for index, cell in enumerate(self.node.cells) if cell.cell_type == 'code']

    @property
    def cells_to_run(self) -> list[tuple[int, str]]:
        """Return those of `code_cells` that `run` runs: not empty, and not tagged ``skip-execution``."""
        return [(index, code) for index, code in self.code_cells if code.strip() and not self._has_tag(index, SKIP_TAG)]

    def _has_tag(self, index: int, tag: str) -> bool:
        tags = self.node.cells[index].metadata.get('tags', ())
        return isinstance(tags, (list, tuple)) and tag in tags

    @property
    def kernel_name(self) -> str:
        """The kind of kernel that the notebook asks for, or ``''``."""
        about = self.node.metadata.get('kernelspec') or {}
        return str(about.get('name', ''))

    @property
    def is_python(self) -> bool:
        """Whether it is Python's, whatever the name its author's machine had for that kernel."""
        return 'python' in map(_plain_language, self._languages())

    @property
    def language(self) -> str:
        """The language that it says it is in, or ``''``."""
        return next((str(each) for each in self._languages() if each), '')

    def _languages(self) -> tuple[Any, Any]:
        about = self.node.metadata
        return (about.get('kernelspec') or {}).get('language'), (about.get('language_info') or {}).get('name')

    def add_markdown(self, text: str) -> None:
        """Add a cell of text."""
        _check_text(text, 'text')
        self.node.cells.append(_nbformat().v4.new_markdown_cell(text))

    def add(self, code: str, result: CellResult | None = None) -> None:
        """Add a cell with code, and what became of it."""
        _check_text(code, 'code')
        self.node.cells.append(_nbformat().v4.new_code_cell(code))
        if result is not None:
            self._put(len(self.node.cells) - 1, result)

    def run_cell(
        self, sandbox: Notebook, code: str, timeout: float | None = None, *, kernel: str = DEFAULT_KERNEL
    ) -> CellResult:
        """Run code in a sandbox and add it with its outputs."""
        self._note_kernel(sandbox, kernel)
        result = sandbox.execute_cell(code, timeout, kernel=kernel)
        self.add(code, result)
        return result

    def run(
        self,
        sandbox: Notebook,
        timeout: float | None = None,
        *,
        kernel: str | None = None,
        allow_errors: bool = False,
        on_cell: Callable[[int, CellResult], None] | None = None,
        parameters: Mapping[str, Any] | None = None,
    ) -> list[CellResult]:
        """Run every cell with code, in order, and put its outputs in the place of the old ones.

        Ends at the first cell that fails, unless ``allow_errors`` or the cell's tag ``raises-exception`` lets it; the cells
        after it then have no outputs. A cell that ran out of time, was cancelled or lost its kernel always ends the run. A cell
        with the tag ``skip-execution`` is not run and keeps its outputs.

        Args:
            timeout: Seconds for each cell; None takes the sandbox's.
            kernel: The kernel to run it in, whichever kind it asks for; the notebook then says which kind that was. None takes
                the default one, which must be of its kind or language.
            on_cell: Called after each cell with its index among all cells and its result.
            parameters: Values for variables; see `set_parameters`.

        Returns:
            The results of the cells that ran. All went well if `is_tolerated` says so of the last one.

        Raises:
            NotFoundError: The notebook is for another kind of kernel; nothing was run.
        """
        language = self._note_kernel(sandbox, kernel or DEFAULT_KERNEL, is_chosen=kernel is not None)
        kernel = kernel or DEFAULT_KERNEL
        if parameters:
            self.set_parameters(parameters, language=language)
        self._displays.clear()
        self._clear_outputs()
        results: list[CellResult] = []
        for index, code in self.cells_to_run:
            result = sandbox.execute_cell(code, timeout, kernel=kernel)
            results.append(result)
            self._put(index, result)
            if on_cell is not None:
                on_cell(index, result)
            if not self.is_tolerated(index, result, allow_errors=allow_errors):
                break
        return results

    def _clear_outputs(self) -> None:
        """Take away what an earlier run has left, but for the cells that are skipped."""
        is_shown = False
        for index, _ in self.code_cells:
            cell = self.node.cells[index]
            if self._has_tag(index, SKIP_TAG):
                is_shown = is_shown or any(WIDGET_VIEW in output.get('data', {}) for output in cell.outputs)
                continue
            cell.outputs = []
            cell.execution_count = None
            cell.metadata.pop('execution', None)
        widgets = self.node.metadata.get('widgets')
        if isinstance(widgets, dict) and not is_shown:  # what is not shown any more
            widgets.pop(WIDGET_STATE, None)
            if not widgets:
                del self.node.metadata['widgets']

    def set_parameters(self, parameters: Mapping[str, Any], *, language: str | None = None) -> None:
        """Set variables in a cell of its own, tagged ``injected-parameters``: after the first cell that is tagged
        ``parameters``, whose values are the defaults, or else before all others. A cell of an earlier call is replaced.

        Args:
            parameters: Values by name: text, numbers, true, false, None, and lists and dicts of these.
            language: The language to write them in; None takes the notebook's, or Python where it names none.

        Raises:
            InvalidArgumentError: A name or a value cannot be written.
            UnsupportedError: There is no code for its language.
        """
        code = as_code(parameters, language or self.language or 'python')
        cells = self.node.cells
        cells[:] = [cell for cell in cells if INJECTED_TAG not in (cell.metadata.get('tags') or ())]
        place = next((index + 1 for index, _ in enumerate(cells) if self._has_tag(index, PARAMETERS_TAG)), 0)
        cells.insert(place, _nbformat().v4.new_code_cell(code, metadata={'tags': [INJECTED_TAG]}))

    def is_tolerated(self, index: int, result: CellResult, *, allow_errors: bool = False) -> bool:
        """Return whether a run continues after a cell: it succeeded, or raised something where that may be.

        Args:
            index: The cell's place among all cells, as ``on_cell`` gets it.
        """
        if result.success:
            return True
        is_own_failure = result.status is ExecutionStatus.ERROR and result.state_lost is None
        return is_own_failure and (allow_errors or self._has_tag(index, RAISES_TAG))

    def _put(self, index: int, result: CellResult) -> None:
        """Give a cell its outputs, and earlier cells what it changed of theirs."""
        nbformat = _nbformat()
        cell = self.node.cells[index]
        cell.execution_count = result.execution_count
        cell.outputs = [nbformat.from_dict(valid_output(output)) for output in _storable(result)]
        if result.timing:
            cell.metadata['execution'] = nbformat.from_dict(result.timing)
        for update in result.display_updates:  # of earlier cells: the cell's own outputs are as it left them
            shown = valid_output({'output_type': 'display_data', **update}) or {}
            for output in self._displays.get(update['display_id'], ()):
                output['data'] = nbformat.from_dict(shown['data'])
                output['metadata'] = nbformat.from_dict(shown['metadata'])
        for display_id, places in result.display_ids.items():
            self._displays.setdefault(display_id, []).extend(cell.outputs[place] for place in places)
        if result.widgets:
            self._put_widgets(result.widgets)

    def _put_widgets(self, changes: Mapping[str, Any]) -> None:
        """Bring the state of the widgets up to what a cell has changed."""
        about = self.node.metadata.get('widgets')
        stored = about.get(WIDGET_STATE) if isinstance(about, dict) else None
        state = merge_widgets(stored.get('state') if isinstance(stored, dict) else None, changes)
        about = {**(about if isinstance(about, dict) else {}), WIDGET_STATE: stored_widgets(state)}
        if not about[WIDGET_STATE]['state']:
            del about[WIDGET_STATE]
        self.node.metadata['widgets'] = _nbformat().from_dict(about)
        if not about:
            del self.node.metadata['widgets']

    def _note_kernel(self, sandbox: Notebook, kernel: str, *, is_chosen: bool = True) -> str:
        """Say in the metadata which kind of kernel it runs in, where that is not what it says already; return its language."""
        info = next((each for each in sandbox.list_kernels() if each.name == kernel), None)
        if info is None:
            return self.language
        name, fits = self.kernel_name, self._fits(info)
        if not fits and not is_chosen:
            raise NotFoundError(
                f'the notebook is for {f"a kernel of the kind {name!r}" if name else "another language"}, and the kernel '
                f'{kernel!r} is a {info.spec!r}; name a kernel of that kind (create_kernel makes one), or this one, to run it '
                'there all the same'
            )
        if info.language_info.get('name'):
            self.node.metadata['language_info'] = _nbformat().from_dict(info.language_info)
        elif not fits:
            self.node.metadata.pop('language_info', None)
        if name and fits:
            return info.language or self.language
        title = PYTHON_SPEC.display_name if info.spec == PYTHON_SPEC.name else info.spec
        names = {'name': info.spec, 'display_name': title, 'language': info.language}
        self.node.metadata['kernelspec'] = _nbformat().from_dict(names)
        return info.language

    def _fits(self, info: KernelInfo) -> bool:
        """Return whether a kernel is what the notebook asks for: of that kind, or Python's, whose kind has many names."""
        if self.kernel_name:
            return self.kernel_name == info.spec or (self.is_python and info.spec == PYTHON_SPEC.name)
        name = (self.node.metadata.get('language_info') or {}).get('name', info.language)
        return _plain_language(name) == _plain_language(info.language)


def _plain_language(name: object) -> str:
    """Return a language's name as its kernel gives it: editors write ``Python``, and old notebooks ``ipython``."""
    plain = str(name).lower()
    return 'python' if plain in ('ipython', 'python3', 'ipython3') else plain


def _new_node() -> Any:
    return _nbformat().v4.new_notebook()


def _check_text(value: object, name: str) -> None:
    if not isinstance(value, str):
        raise InvalidArgumentError(f'{name} must be a string, not {value!r}')


def _check_path(value: object) -> None:
    if not isinstance(value, (str, os.PathLike)):
        raise InvalidArgumentError(f'path must be a string or a path, not {value!r}')


def _storable(result: CellResult) -> Iterator[dict[str, Any]]:
    """Yield the outputs, and for a kernel that died an error, since it could send none itself."""
    yield from result.outputs
    if result.state_lost is not None:
        text = f'The kernel {result.state_lost}'
        yield {'output_type': 'error', 'ename': 'KernelDied', 'evalue': text, 'traceback': [text]}
