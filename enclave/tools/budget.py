"""How much of an output a model gets to read (layer: tools): its head and its tail, and the name of a file with all of it.

A budget is in characters. What is cut is kept whole in a file of the sandbox, which the text names, so that a model may look
there with its own tools.
"""

from __future__ import annotations

import logging
import re
import unicodedata
import uuid
from collections.abc import Sequence
from typing import Any, Protocol

import attrs

from enclave.errors import EnclaveError, InvalidArgumentError
from enclave.outlet import keeps_output, most_kept
from enclave.quoting import quoted
from enclave.records import CommandResult, ToolResult

logger = logging.getLogger(__name__)

OUTPUT_DIR = '/tmp/enclave-output'
"""Where whole outputs are kept in a sandbox."""
KEPT_OUTPUT_BYTES = 16 << 20
"""How much of each of stdout and stderr is caught for the file, where a call does not say its own cap."""
_MARKER = re.compile(
    r'(?:\A|\n)\[\.\.\. ([0-9]{1,12}) characters left out'
    r'(?:; (?:all|more) of it is in ([^\n]+?))? \.\.\.\](?:\n|\Z)'
)
"""The line in the place of what was left out: how many characters, and the files with the whole."""


class KeepsFiles(Protocol):
    """What is needed of a sandbox to keep an output in it."""

    def write_file(self, path: str, data: bytes, /) -> int:
        """Write a file."""


def check_max_chars(value: int | None, name: str = 'max_chars') -> None:
    """Check a budget.

    Raises:
        InvalidArgumentError: It is no whole number, or less than 1.
    """
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise InvalidArgumentError(
            f'{name} must be a whole number of characters, 1 or more, or None, not {quoted(value)}'
        )


def shorten_text(text: str, max_chars: int, *, file: str | None = None, is_whole: bool = True) -> str:
    """Return text within a budget: whole, or its head and tail around a line that says how much is left out.

    The line counts too, as long as it leaves half of the budget to the text. A text that was shortened before, or is made of
    such texts, keeps what their lines say: a line is never cut, and what it counts and the file that it names go into the new
    one.

    Args:
        file: Where the whole text is, to be named in that line.
        is_whole: Whether the text is all of the output, or was cut before.
    """
    if len(text) <= max_chars:
        return text
    earlier = list(_MARKER.finditer(text))
    room = len(_marker(len(text), file, earlier, is_whole=is_whole))
    kept = max(max_chars - room, max_chars // 2)
    start, end = _before_marks(text, kept - kept // 2), _after_marks(text, len(text) - kept // 2)
    for line in earlier:
        if line.start() < start < line.end():
            start = line.start()
        if line.start() < end < line.end():
            end = line.end()
    gone = [line for line in earlier if start <= line.start() and line.end() <= end]
    count = end - start + sum(int(line[1]) - len(line[0]) for line in gone)
    return f'{text[:start]}{_marker(count, file, gone, is_whole=is_whole)}{text[end:]}'


_MOST_MARKS = 32
"""How many marks a character may have that is not cut; a text that is nothing but marks is cut all the same."""


def _joins(text: str, at: int) -> bool:
    """Return whether what is seen as one character reaches over a place: a letter and its accent, emoji that are joined."""
    if not 0 < at < len(text) or text[at - 1] == '\n':
        return False
    after, before = text[at], text[at - 1]
    return (
        unicodedata.combining(after) != 0
        or unicodedata.category(after) == 'Me'
        or after in _JOINERS
        or before == _JOINER
        or '\U0001f3fb' <= after <= '\U0001f3ff'  # skin tones
    )


_JOINER = '\u200d'
_JOINERS = frozenset({_JOINER, '\ufe0e', '\ufe0f'})


def _before_marks(text: str, at: int) -> int:
    """Return the last place up to this one that is within no character."""
    return next((each for each in range(at, max(at - _MOST_MARKS, -1), -1) if not _joins(text, each)), at)


def _after_marks(text: str, at: int) -> int:
    """Return the first place from this one on that is within no character."""
    return next((each for each in range(at, min(at + _MOST_MARKS, len(text) + 1)) if not _joins(text, each)), at)


def _marker(count: int, file: str | None, earlier: Sequence[re.Match[str]], *, is_whole: bool) -> str:
    named = [line[2] for line in earlier if line[2]]
    files = list(dict.fromkeys([*named, file] if file else named))
    is_all = is_whole and not any('; more of it is in ' in line[0] for line in earlier)
    where = f'; {"all" if is_all else "more"} of it is in {" and ".join(files)}' if files else ''
    return f'\n[... {count} characters left out{where} ...]\n'


def keep_output(sandbox: KeepsFiles, text: str, stream: str) -> str | None:
    """Write a whole output into a new file of a sandbox and return its path; None where the sandbox does not take it.

    A full or read-only file system is no reason to lose the result of the call.

    Args:
        stream: ``'stdout'`` or ``'stderr'``, for the name.
    """
    path = f'{OUTPUT_DIR}/{uuid.uuid4().hex[:8]}-{stream}.txt'
    try:
        sandbox.write_file(path, text.encode('utf-8', 'surrogateescape'))
    except (EnclaveError, OSError) as error:
        logger.info('an output of %d characters could not be kept in %s: %s', len(text), path, error)
        return None
    return path


def shorten_command(sandbox: KeepsFiles, result: CommandResult, max_chars: int) -> CommandResult:
    """Return a command's result with each stream within a budget; ``stdout_file`` and ``stderr_file`` name the whole ones."""
    changes: dict[str, Any] = {}
    for stream in ('stdout', 'stderr'):
        text = getattr(result, stream)
        if len(text) > max_chars:
            file = keep_output(sandbox, text, stream)
            whole = not getattr(result, f'{stream}_truncated')
            changes[stream] = shorten_text(text, max_chars, file=file, is_whole=whole)
            changes[f'{stream}_truncated'] = True
            changes[f'{stream}_file'] = file
    return attrs.evolve(result, **changes) if changes else result


def shorten_result(sandbox: KeepsFiles, result: ToolResult, max_chars: int) -> ToolResult:
    """Return a tool's result with ``output`` and ``error`` within a budget each.

    ``metadata['output_file']`` then names a file with the whole output.
    """
    changes: dict[str, Any] = {}
    if isinstance(result.output, str) and len(result.output) > max_chars:
        file = None
        if not any(line[2] for line in _MARKER.finditer(result.output)):  # else the file that it names has the whole
            file = keep_output(sandbox, result.output, 'output')
            changes['metadata'] = {**result.metadata, 'output_file': file}
        changes['output'] = shorten_text(result.output, max_chars, file=file)
    if result.error is not None and len(result.error) > max_chars:
        changes['error'] = shorten_text(result.error, max_chars, file=result.metadata.get('stderr_file'))
    return attrs.evolve(result, **changes) if changes else result


class BudgetedWorkspace:
    """A workspace whose commands give results within a budget: more is caught of their output, kept in a file, and shortened.

    Lives as long as one call of a tool. Every other verb is the workspace's own.
    """

    def __init__(self, workspace: Any, max_chars: int) -> None:
        self._workspace = workspace
        self._max_chars = max_chars

    def execute_command(self, command: Any, timeout: float | None = None, **options: Any) -> CommandResult:
        """See `Workspace.execute_command`."""
        with keeps_output():
            result = self._workspace.execute_command(command, timeout, **self._roomy(options))
        return shorten_command(self._workspace, result, self._max_chars)

    def run_script(
        self, interpreter: Sequence[str], source: str | bytes, timeout: float | None = None, **options: Any
    ) -> CommandResult:
        """See `Workspace.run_script`."""
        with keeps_output():
            result = self._workspace.run_script(interpreter, source, timeout, **self._roomy(options))
        return shorten_command(self._workspace, result, self._max_chars)

    def execute_cell(self, code: str, timeout: float | None = None, **options: Any) -> Any:
        """See `NotebookSandbox.execute_cell`; the result's text is shortened by `shorten_result`."""
        return self._workspace.execute_cell(code, timeout, **self._roomy(options))

    def _roomy(self, options: dict[str, Any]) -> dict[str, Any]:
        if options.get('max_output_bytes') is not None:
            return options
        own = getattr(getattr(self._workspace, 'config', None), 'max_output_bytes', 0)
        most = most_kept()
        room = KEPT_OUTPUT_BYTES if most is None else min(most, KEPT_OUTPUT_BYTES)
        return {**options, 'max_output_bytes': max(own, room)}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._workspace, name)
