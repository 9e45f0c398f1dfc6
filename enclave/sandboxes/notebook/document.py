"""Notebook files (floor 4), and the one door to ``nbformat``: read one, run it in a sandbox, write one.

``nbformat`` comes with ``pip install 'ms-enclave[notebook]'``.
"""

from __future__ import annotations

import errno
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

from attrs import define, field

from enclave.cells import DEFAULT_KERNEL, CellResult, KernelInfo
from enclave.enums import ExecutionStatus
from enclave.errors import InvalidArgumentError, NotFoundError, UnsupportedError
from enclave.sandboxes.notebook.kernel_process import PYTHON_SPEC

MAX_FILE_BYTES = 256 << 20
RAISES_TAG = 'raises-exception'
"""A cell with this tag may fail without ending the run, as in Jupyter's own tools."""
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
    """

    node: Any = field(factory=lambda: _new_node())
    _displays: dict[str, list[dict[str, Any]]] = field(factory=dict, init=False, repr=False)

    # Files ------------------------------------------------------------------------------------------------------------

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> NotebookDocument:
        """Read a file of any format version, brought up to 4.5. A byte order mark before its UTF-8 is passed over.

        Cells get a new id where they have none, or that of a cell before.

        Raises:
            FileNotFoundError: There is no such file.
            InvalidArgumentError: It is no notebook.
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
            node = nbformat.reader.reads(text)
            _repair_ids(node)
            node = nbformat.convert(node, 4)
            if (
                node.nbformat_minor < nbformat.v4.nbformat_minor
            ):  # what is added later has an id, which 4.4 does not know
                node = nbformat.v4.upgrade(node, from_version=4, from_minor=node.nbformat_minor)
            nbformat.validate(node)
        except Exception as error:  # nbformat has no root of its own for what it raises
            raise InvalidArgumentError(f'{name!r} is no notebook: {str(error)[:300]}') from error
        return cls(node)

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
    def kernel_name(self) -> str:
        """The kind of kernel that the notebook asks for, or ``''``."""
        about = self.node.metadata.get('kernelspec') or {}
        return str(about.get('name', ''))

    @property
    def is_python(self) -> bool:
        """Whether it is Python's, whatever the name its author's machine had for that kernel."""
        about = self.node.metadata
        languages = (about.get('kernelspec') or {}).get('language'), (about.get('language_info') or {}).get('name')
        return 'python' in languages

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
    ) -> list[CellResult]:
        """Run every cell with code, in order, and put its outputs in the place of the old ones.

        Ends at the first cell that fails, unless ``allow_errors`` or the cell's tag ``raises-exception`` lets it; the cells
        after it then have no outputs. A cell that ran out of time, was cancelled or lost its kernel always ends the run.

        Args:
            timeout: Seconds for each cell; None takes the sandbox's.
            kernel: The kernel to run it in, whichever kind it asks for; the notebook then says which kind that was. None takes
                the default one, which must be of its kind or language.
            on_cell: Called after each cell with its index among all cells and its result.

        Returns:
            The results of the cells that ran. All went well if `is_tolerated` says so of the last one.

        Raises:
            NotFoundError: The notebook is for another kind of kernel; nothing was run.
        """
        self._note_kernel(sandbox, kernel or DEFAULT_KERNEL, is_chosen=kernel is not None)
        kernel = kernel or DEFAULT_KERNEL
        self._displays.clear()
        for index, _ in self.code_cells:
            self.node.cells[index].outputs = []
            self.node.cells[index].execution_count = None
        results: list[CellResult] = []
        for index, code in self.code_cells:
            if not code.strip():
                continue
            result = sandbox.execute_cell(code, timeout, kernel=kernel)
            results.append(result)
            self._put(index, result)
            if on_cell is not None:
                on_cell(index, result)
            if not self.is_tolerated(index, result, allow_errors=allow_errors):
                break
        return results

    def is_tolerated(self, index: int, result: CellResult, *, allow_errors: bool = False) -> bool:
        """Return whether a run goes on after a cell: it succeeded, or raised something where that may be.

        Args:
            index: The cell's place among all cells, as ``on_cell`` gets it.
        """
        if result.success:
            return True
        is_own_failure = result.status is ExecutionStatus.ERROR and result.state_lost is None
        return is_own_failure and (allow_errors or RAISES_TAG in self.node.cells[index].metadata.get('tags', ()))

    def _put(self, index: int, result: CellResult) -> None:
        """Give a cell its outputs, and earlier cells what it changed of theirs."""
        nbformat = _nbformat()
        cell = self.node.cells[index]
        cell.execution_count = result.execution_count
        cell.outputs = [nbformat.from_dict(output) for output in _storable(result)]
        for display_id, places in result.display_ids.items():
            self._displays.setdefault(display_id, []).extend(cell.outputs[place] for place in places)
        for update in result.display_updates:
            for output in self._displays.get(update['display_id'], ()):
                output['data'] = nbformat.from_dict(update['data'])
                output['metadata'] = nbformat.from_dict(update['metadata'])

    def _note_kernel(self, sandbox: Notebook, kernel: str, *, is_chosen: bool = True) -> None:
        """Say in the metadata which kind of kernel it runs in, where that is not what it says already."""
        info = next((each for each in sandbox.list_kernels() if each.name == kernel), None)
        if info is None:
            return
        name, fits = self.kernel_name, self._fits(info)
        if not fits and not is_chosen:
            raise NotFoundError(
                f'the notebook is for {f"a kernel of the kind {name!r}" if name else "another language"}, and the kernel '
                f'{kernel!r} is a {info.spec!r}; name a kernel of that kind (create_kernel makes one), or this one, to run it '
                'there all the same'
            )
        if name and fits:
            return
        title = PYTHON_SPEC.display_name if info.spec == PYTHON_SPEC.name else info.spec
        names = {'name': info.spec, 'display_name': title, 'language': info.language}
        self.node.metadata['kernelspec'] = _nbformat().from_dict(names)
        if not fits:
            self.node.metadata.pop('language_info', None)

    def _fits(self, info: KernelInfo) -> bool:
        """Return whether a kernel is what the notebook asks for: of that kind, or Python's, whose kind has many names."""
        if self.kernel_name:
            return self.kernel_name == info.spec or (self.is_python and info.spec == PYTHON_SPEC.name)
        return bool((self.node.metadata.get('language_info') or {}).get('name', info.language) == info.language)


def _new_node() -> Any:
    return _nbformat().v4.new_notebook()


def _check_text(value: object, name: str) -> None:
    if not isinstance(value, str):
        raise InvalidArgumentError(f'{name} must be a string, not {value!r}')


def _check_path(value: object) -> None:
    if not isinstance(value, (str, os.PathLike)):
        raise InvalidArgumentError(f'path must be a string or a path, not {value!r}')


def _repair_ids(node: Any) -> None:
    """Give cells an id of their own. nbformat would do it too, with a warning to whoever runs the program."""
    if (node.get('nbformat') or 1, node.get('nbformat_minor') or 0) < (4, 5):
        return  # they get theirs when they are brought up
    seen: set[str] = set()
    for cell in node.cells:
        if cell.get('id') is None or cell['id'] in seen:
            cell['id'] = _nbformat().v4.new_raw_cell().id
        seen.add(cell['id'])


def _storable(result: CellResult) -> Iterator[dict[str, Any]]:
    """Yield the outputs, and for a kernel that died an error, since it could send none itself."""
    yield from result.outputs
    if result.state_lost is not None:
        text = f'The kernel {result.state_lost}'
        yield {'output_type': 'error', 'ename': 'KernelDied', 'evalue': text, 'traceback': [text]}
