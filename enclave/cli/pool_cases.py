"""What `ms-enclave pool run` is to run (layer: entries): programs in folders with what they read and should print, or JSON lines.

Beside ``double.py`` may be ``double.in``, its input, and ``double.out``, what it should print. Several of each have a word
between: ``double.small.in`` and ``double.small.out``. A file that ends in ``.jsonl`` has a case on each line::

    {"id": "double", "code": "print(int(input()) * 2)", "stdin": "21", "expected_output": "42"}

The keys are those of `enclave.languages.values.CodeRequest`, ``id``, and ``path``: a program's file in the place of ``code``.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath
from typing import Any

import attrs
from attrs import frozen

from enclave import wire
from enclave.errors import EnclaveError, InvalidArgumentError
from enclave.languages.table import list_languages
from enclave.languages.values import CodeRequest
from enclave.suggest import did_you_mean

_OTHER_KEYS = {'input': 'stdin', 'output': 'expected_output', 'expected': 'expected_output'}
"""What the same is called elsewhere."""


@frozen(kw_only=True)
class Case:
    """One run of one program; ``problem`` is why there is nothing to run, for a person."""

    path: Path
    name: str = ''
    request: CodeRequest | None = None
    problem: str | None = None

    @property
    def label(self) -> str:
        """What it is called in a table."""
        return f'{self.path} {self.name}' if self.name else str(self.path)


@functools.cache
def languages_by_suffix() -> dict[str, str]:
    """Return ``{a file's ending: language}``."""
    found: dict[str, str] = {}
    for language in list_languages():
        found.setdefault(PurePath(language.file).suffix, language.name)
    return found


def find_cases(paths: Sequence[Path], timeout: float, compare: str) -> list[Case]:
    """Return the cases in files and below directories, in order; a file that is named twice counts once.

    Args:
        timeout: Seconds each may run that does not say otherwise.
        compare: How their output is compared, where they do not say.
    """
    found: dict[Path, None] = {}
    for path in paths:
        inside = sorted(path.rglob('*')) if path.is_dir() else [path]
        for each in inside:
            is_case = each.suffix in languages_by_suffix() or (each.suffix == '.jsonl' and not path.is_dir())
            if is_case and each.is_file():
                found[each] = None
    defaults = {'timeout': timeout, 'compare': compare}
    return [case for path in found for case in (_lines if path.suffix == '.jsonl' else _program)(path, defaults)]


def _program(path: Path, defaults: dict[str, Any]) -> Iterator[Case]:
    """Yield a program's cases: one for each pair of files beside it, else one without."""
    stem = path.name[: -len(path.suffix)]
    beside = {each.name for each in path.parent.iterdir()}
    names = sorted(
        name[len(stem) + 1 : -len(end)].rstrip('.')
        for name in beside
        for end in ('.in', '.out')
        if name.startswith(f'{stem}.') and name.endswith(end)
    )
    for name in dict.fromkeys(names) or ['']:
        base = f'{stem}.{name}' if name else stem
        try:
            given: dict[str, Any] = {
                key: (path.parent / f'{base}{end}').read_bytes()
                for key, end in (('stdin', '.in'), ('expected_output', '.out'))
                if f'{base}{end}' in beside
            }
            if 'expected_output' in given:
                given['expected_output'] = given['expected_output'].decode('utf-8')
            code = path.read_bytes()
            language = languages_by_suffix()[path.suffix]
            yield Case(path=path, name=name, request=CodeRequest(code=code, language=language, **given, **defaults))
        except (EnclaveError, OSError, UnicodeDecodeError) as error:
            yield Case(path=path, name=name, problem=str(error))


def _lines(path: Path, defaults: dict[str, Any]) -> Iterator[Case]:
    with path.open(encoding='utf-8') as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                given = wire.from_json(line, what=f'line {number}')
                if not isinstance(given, dict):
                    raise InvalidArgumentError(f'line {number} must be a JSON object')
                name, request = _request(given, path.parent, defaults)
                yield Case(path=path, name=name or str(number), request=request)
            except (EnclaveError, OSError) as error:
                yield Case(path=path, name=str(number), problem=str(error))


def _request(given: dict[str, Any], folder: Path, defaults: dict[str, Any]) -> tuple[str, CodeRequest]:
    values = {_OTHER_KEYS.get(key, key): value for key, value in given.items()}
    name = str(values.pop('id', ''))
    program = values.pop('path', None)
    known = [each.name for each in attrs.fields(CodeRequest)]
    for key in values:
        if key not in known:
            raise InvalidArgumentError(f'unknown key {key!r} ({did_you_mean(key, [*known, "id", "path"])})')
    if program is not None:
        place = folder / str(program)
        values.setdefault('code', place.read_bytes())
        language = languages_by_suffix().get(place.suffix)
        if language is not None:
            values.setdefault('language', language)
    if 'code' not in values:
        raise InvalidArgumentError("'code' is missing, or 'path', the file of a program")
    return name, CodeRequest(**{**defaults, **values})
