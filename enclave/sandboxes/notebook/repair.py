"""What a notebook file says, made valid (layer 4): of any format, and with whatever other programs left out or added.

Jupyter's own tools run files that their schema refuses: a cell without `outputs`, an id with a blank, a stream without a name.
`repair` takes any JSON object that has cells and returns a notebook of format 4.5 that is valid, and a list of what had to be
changed for that. To bring an older format up changes nothing that is reported.

Source: the schemas of nbformat, ``nbformat/v4/nbformat.v4.5.schema.json`` and ``nbformat/v3/nbformat.v3.schema.json``, and what
its ``convert`` does between versions.
"""

from __future__ import annotations

import json
import math
import re
import secrets
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from attrs import define, field

from enclave.errors import InvalidArgumentError

FORMAT, MINOR = 4, 5
MAX_NESTING = 200
"""How deep lists and objects may be nested: what is deeper is left out, since not every program can read it again."""
_JSON_MIME = re.compile(r'^application/(.*\+)?json$')
_ID = re.compile(r'[a-zA-Z0-9_-]{1,64}')
_OLD_MIMES = {
    'text': 'text/plain',
    'html': 'text/html',
    'svg': 'image/svg+xml',
    'png': 'image/png',
    'jpeg': 'image/jpeg',
    'latex': 'text/latex',
    'json': 'application/json',
    'javascript': 'application/javascript',
}
_OLD_TYPES = {'pyout': 'execute_result', 'pyerr': 'error', 'display': 'display_data'}
_CELL_KEYS = {
    'code': {'id', 'cell_type', 'metadata', 'source', 'outputs', 'execution_count'},
    'markdown': {'id', 'cell_type', 'metadata', 'source', 'attachments'},
    'raw': {'id', 'cell_type', 'metadata', 'source', 'attachments'},
}
_SOURCES = ('source', 'input', 'code', 'text')


# What the schema asks of those keys of metadata that it knows; all others may be anything.
_CELL_METADATA: dict[str, Callable[[Any], bool]] = {
    'name': lambda value: isinstance(value, str) and re.search('^.+$', value) is not None,
    'collapsed': lambda value: isinstance(value, bool),
    'deletable': lambda value: isinstance(value, bool),
    'scrolled': lambda value: isinstance(value, bool) or value == 'auto',
    'format': lambda value: isinstance(value, str),
    'jupyter': lambda value: isinstance(value, dict),
    'execution': lambda value: isinstance(value, dict) and all(isinstance(each, str) for each in value.values()),
}
_NOTEBOOK_METADATA: dict[str, Callable[[Any], bool]] = {
    'title': lambda value: isinstance(value, str),
    'authors': lambda value: isinstance(value, list),
    'orig_nbformat': lambda value: type(value) is int and value >= 1,
}


@define
class _Report:
    """What was repaired, each with the numbers of the cells in which it was."""

    _found: dict[str, list[int]] = field(factory=dict)
    cell: int = 0  # counted from 1; 0 outside of cells

    def add(self, text: str) -> None:
        cells = self._found.setdefault(text, [])
        if self.cell and self.cell not in cells[-1:]:
            cells.append(self.cell)

    def lines(self) -> list[str]:
        return [f'{_places(cells)}{text}' for text, cells in self._found.items()]


def _places(cells: list[int]) -> str:
    if not cells:
        return ''
    shown = ', '.join(map(str, cells[:10])) + (f' and {len(cells) - 10} more' if len(cells) > 10 else '')
    return f'cell{"s" if len(cells) > 1 else ""} {shown}: '


def repair(found: object) -> tuple[dict[str, Any], list[str]]:
    """Return a valid notebook of format 4.5 with what another has, and what was repaired, a sentence each.

    Raises:
        InvalidArgumentError: It has no cells. The message says what it is, as it continues after "is no notebook: ".
    """
    if not isinstance(found, dict):
        raise InvalidArgumentError('it is no JSON object')
    report = _Report()
    major, minor = _format(found, report)
    cells = _find_cells(found, report)
    metadata = _object(found.get('metadata'), 'its metadata', report, is_missing='metadata' not in found)
    for name in found.keys() - {'metadata', 'cells', 'worksheets', 'nbformat', 'nbformat_minor'}:
        report.add(f'the unknown key {name!r} of the notebook was moved into its metadata')
        metadata.setdefault(name, _plain(found[name], report))
    metadata = _notebook_metadata(metadata, report)
    made: list[dict[str, Any]] = []
    ids: set[str] = set()
    for report.cell, cell in enumerate(cells, 1):
        if not isinstance(cell, dict):
            report.add(f'it was {_kind(cell)} and no cell, and was left out')
            continue
        made.append(_cell(cell, report, ids, has_ids=(major, minor) >= (4, 5), is_old=major < FORMAT))
    report.cell = 0
    notebook = {'cells': made, 'metadata': metadata, 'nbformat': FORMAT, 'nbformat_minor': MINOR}
    return notebook, report.lines()


def _format(found: dict[str, Any], report: _Report) -> tuple[int, int]:
    major, minor = found.get('nbformat'), found.get('nbformat_minor')
    if type(major) is not int or not 1 <= major <= FORMAT:
        is_old = isinstance(found.get('worksheets'), list) and not isinstance(found.get('cells'), list)
        cells = found.get('cells')
        is_first = isinstance(cells, list) and any(
            isinstance(cell, dict) and 'source' not in cell and cell.keys() & {'code', 'input', 'text'}
            for cell in cells
        )
        guess = 3 if is_old else 1 if is_first else FORMAT
        shown = 'missing' if 'nbformat' not in found else json.dumps(major)[:50]
        report.add(f'its format number, nbformat, was {shown}; read as format {guess}')
        major = guess
    if type(minor) is not int or minor < 0:
        if major == FORMAT:
            report.add(
                'nbformat_minor was missing' if 'nbformat_minor' not in found else 'nbformat_minor was no number'
            )
        minor = 0
    return major, minor


def _find_cells(found: dict[str, Any], report: _Report) -> list[Any]:
    cells, sheets = found.get('cells'), found.get('worksheets')
    if isinstance(cells, list):
        return cells
    if isinstance(sheets, list) and sheets:
        of_sheets = [sheet.get('cells') if isinstance(sheet, dict) else None for sheet in sheets]
        if any(isinstance(each, list) for each in of_sheets):
            if not all(isinstance(each, list) for each in of_sheets):
                report.add('a worksheet had no list of cells and was left out')
            return [cell for each in of_sheets if isinstance(each, list) for cell in each]
    if cells is not None:
        raise InvalidArgumentError(f'its cells are {_kind(cells)}, not a list')
    raise InvalidArgumentError('it has no cells')


def valid_output(output: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return an output as a valid notebook has it, or None where it is none."""
    return _output(dict(output), _Report(), is_old=False)


# Metadata -------------------------------------------------------------------------------------------------------------


def _notebook_metadata(metadata: dict[str, Any], report: _Report) -> dict[str, Any]:
    metadata.pop('orig_nbformat', None)  # nbformat writes it only to read it again
    _check_known(metadata, _NOTEBOOK_METADATA, report)
    info, kernel = metadata.get('language_info'), metadata.get('kernelspec')
    if 'language_info' in metadata and not _is_language(info):
        del metadata['language_info']
        report.add('its language_info had no name and was left out')
    if 'kernelspec' not in metadata:
        return metadata
    name, title, language = (
        kernel.get(key) if isinstance(kernel, dict) else None for key in ('name', 'display_name', 'language')
    )
    name, title, language = (each if isinstance(each, str) and each else None for each in (name, title, language))
    if isinstance(kernel, dict) and name and title is not None and kernel.get('language', '') == (language or ''):
        return metadata
    if name is None and language is not None and language.lower() == 'python':
        name = 'python3'
    if name is None:
        del metadata['kernelspec']
        if language is not None:
            metadata.setdefault('language_info', {'name': language})
        report.add('its kernelspec named no kernel and was left out')
        return metadata
    kept = {key: value for key, value in (kernel or {}).items() if key not in ('name', 'display_name', 'language')}
    metadata['kernelspec'] = {**kept, 'name': name, 'display_name': title or name}
    if language is not None:
        metadata['kernelspec']['language'] = language
    report.add('its kernelspec was not complete')
    return metadata


def _is_language(info: object) -> bool:
    if not isinstance(info, dict) or not isinstance(info.get('name'), str):
        return False
    texts = ('file_extension', 'mimetype', 'pygments_lexer')
    return all(isinstance(info[key], str) for key in texts if key in info) and isinstance(
        info.get('codemirror_mode', ''), (str, dict)
    )


def _check_known(metadata: dict[str, Any], known: dict[str, Callable[[Any], bool]], report: _Report) -> None:
    for name, is_valid in known.items():
        if name in metadata and not is_valid(metadata[name]):
            report.add(f'metadata {name!r} was {_kind(metadata[name])} and was left out')
            del metadata[name]


def _cell_metadata(cell: dict[str, Any], report: _Report, *, is_old: bool) -> dict[str, Any]:
    is_missing = 'metadata' not in cell
    metadata = _object(cell.get('metadata'), 'metadata', report, is_missing=is_missing, is_silent=is_old)
    if 'tags' in metadata:
        metadata['tags'] = _tags(metadata['tags'], report)
    _check_known(metadata, _CELL_METADATA, report)
    return metadata


def _tags(found: object, report: _Report) -> list[str]:
    each = found if isinstance(found, list) else [found]
    tags = [tag.strip() for one in each if isinstance(one, str) for tag in one.split(',') if tag.strip()]
    tags = list(dict.fromkeys(tags))
    if tags != found:
        report.add('tags were not a list of different words without commas')
    return tags


# Cells ----------------------------------------------------------------------------------------------------------------


def _cell(cell: dict[str, Any], report: _Report, ids: set[str], *, has_ids: bool, is_old: bool) -> dict[str, Any]:
    kind, source = _kind_and_source(cell, report, is_old=is_old)
    made: dict[str, Any] = {
        'id': _take_id(cell, report, ids, has_ids=has_ids),
        'cell_type': kind,
        'metadata': _cell_metadata(cell, report, is_old=is_old),
        'source': source,
    }
    known = _CELL_KEYS[kind] | ({*_SOURCES, 'prompt_number', 'language', 'level'} if is_old else {'id'})
    if kind == 'code':
        count = cell.get('prompt_number' if is_old and 'execution_count' not in cell else 'execution_count')
        if not is_old and 'execution_count' not in cell:
            report.add('there was no execution_count')
        made['execution_count'] = _count(count, report)
        if not is_old and 'outputs' not in cell:
            report.add('there were no outputs')
        made['outputs'] = _outputs(cell.get('outputs', []), report, is_old=is_old)
    elif 'attachments' in cell:
        attachments = _attachments(cell['attachments'], report)
        if attachments:
            made['attachments'] = attachments
    if 'collapsed' in cell and 'collapsed' not in made['metadata'] and isinstance(cell['collapsed'], bool):
        made['metadata']['collapsed'] = cell['collapsed']
        known |= {'collapsed'}
    for name in cell.keys() - known:
        if name in ('outputs', 'execution_count', 'prompt_number', *_SOURCES) or cell[name] is None:
            report.add(f'{name!r}, which {kind} cells do not have, was left out')
        else:
            report.add(f'the unknown key {name!r} was moved into metadata')
            made['metadata'].setdefault(name, _plain(cell[name], report))
    _check_known(made['metadata'], _CELL_METADATA, report)
    if 'tags' in cell.keys() - known and 'tags' in made['metadata']:
        made['metadata']['tags'] = _tags(made['metadata']['tags'], report)
    return made


def _kind_and_source(cell: dict[str, Any], report: _Report, *, is_old: bool) -> tuple[str, str]:
    kind = cell.get('cell_type')
    place = next((name for name in _SOURCES if name in cell), None)
    if place is None:
        report.add('there was no source')
    elif place != 'source' and not is_old:
        report.add(f'the source was under {place!r}')
    source = _text(cell.get(place or ''), 'the source', report) if place is not None else ''
    if isinstance(kind, str) and kind in _CELL_KEYS:
        return kind, source
    if kind == 'heading':
        level = cell.get('level', 1)
        level = min(max(level, 1), 6) if type(level) is int else 1
        if not is_old:
            report.add('a heading became Markdown')
        return 'markdown', f'{"#" * level} {" ".join(source.splitlines())}'
    if is_old and kind in ('html', 'text', 'plaintext'):
        return ('raw' if kind == 'plaintext' else 'markdown'), source
    is_code = kind is None and bool(cell.keys() & {'outputs', 'execution_count', 'prompt_number', 'input', 'code'})
    guess = 'code' if is_code else 'raw'
    shown = 'there was no cell_type' if 'cell_type' not in cell else f'the cell_type {json.dumps(kind)[:50]} is unknown'
    report.add(f'{shown}; it became {guess}')
    return guess, source


def _take_id(cell: dict[str, Any], report: _Report, ids: set[str], *, has_ids: bool) -> str:
    found = cell.get('id')
    if isinstance(found, str) and _ID.fullmatch(found) and found not in ids:
        ids.add(found)
        return found
    if 'id' in cell:
        is_taken = isinstance(found, str) and found in ids
        report.add('the id was that of a cell before' if is_taken else 'the id was not valid')
    elif has_ids:
        report.add('there was no id')
    made = secrets.token_hex(4)
    while made in ids:
        made = secrets.token_hex(4)
    ids.add(made)
    return made


def _count(count: object, report: _Report) -> int | None:
    if count is None or (type(count) is int and count >= 0):
        return count
    report.add('execution_count was no whole number')
    return None


def _attachments(found: object, report: _Report) -> dict[str, Any]:
    if not isinstance(found, dict):
        report.add(f'attachments were {_kind(found)} and were left out')
        return {}
    return {str(name): _bundle(each, f'the attachment {name!r}', report) for name, each in found.items()}


# Outputs --------------------------------------------------------------------------------------------------------------


def _outputs(found: object, report: _Report, *, is_old: bool) -> list[dict[str, Any]]:
    if isinstance(found, dict):
        report.add('outputs were an object, not a list')
        found = [found]
    if not isinstance(found, list):
        report.add(f'outputs were {_kind(found)}, not a list')
        return []
    made = []
    for output in found:
        if not isinstance(output, dict):
            report.add(f'an output was {_kind(output)} and was left out')
            continue
        one = _output(output, report, is_old=is_old)
        if one is not None:
            made.append(one)
    return made


def _output(output: dict[str, Any], report: _Report, *, is_old: bool) -> dict[str, Any] | None:
    kind = output.get('output_type')
    if isinstance(kind, str) and kind in _OLD_TYPES:
        if not is_old:
            report.add(f'an output was of the type {kind!r} of older formats')
        kind = _OLD_TYPES[kind]
    if kind not in ('stream', 'display_data', 'execute_result', 'error'):
        guess = _guess_type(output)
        problem = 'had no type' if 'output_type' not in output else f'was of the unknown type {json.dumps(kind)[:50]}'
        report.add(f'an output {problem} and {"was left out" if guess is None else f"became {guess}"}')
        if guess is None:
            return None
        kind = guess
    if kind == 'stream':
        return _stream(output, report, is_old=is_old)
    if kind == 'error':
        return _error(output, report)
    made: dict[str, Any] = {'output_type': kind}
    if kind == 'execute_result':
        count = output.get('execution_count', output.get('prompt_number'))
        if not is_old and 'execution_count' not in output:
            report.add('a result had no execution_count')
        made['execution_count'] = _count(count, report)
    known = {'output_type', 'metadata', 'data', 'prompt_number', 'execution_count'}
    if 'data' in output and not (is_old and not isinstance(output['data'], (dict, list))):
        made['data'] = _bundle(output['data'], 'the data of an output', report)
    else:
        made['data'] = {}
    for name, mime in _OLD_MIMES.items():
        if name in output and 'data' not in output:
            known.add(name)
            if not is_old:
                report.add(f'an output had its {name!r} as in older formats')
            value = output[name]
            if name == 'json' and is_old:
                value = _parsed(value)
            made['data'].update(_bundle({mime: value}, 'the data of an output', report))
    if not is_old and 'data' not in output and not made['data']:
        report.add('an output had no data')
    is_missing = 'metadata' not in output
    about = _object(output.get('metadata'), 'metadata of an output', report, is_missing=is_missing, is_silent=is_old)
    made['metadata'] = {_OLD_MIMES.get(name, name): value for name, value in about.items()} if is_old else about
    _report_unknown(output, known, report)
    return made


def _guess_type(output: dict[str, Any]) -> str | None:
    if isinstance(output.get('data'), (dict, list)) or output.keys() & (_OLD_MIMES.keys() - {'text'}):
        return 'display_data'
    if 'ename' in output or 'traceback' in output:
        return 'error'
    return 'stream' if 'text' in output else None


def _stream(output: dict[str, Any], report: _Report, *, is_old: bool) -> dict[str, Any]:
    name = output.get('name', output.get('stream'))
    if not isinstance(name, str) or not name:
        if not is_old:
            report.add('a stream had no name and became stdout')
        name = 'stdout'
    elif 'name' not in output and not is_old:
        report.add('a stream had its name as in older formats')
    if 'text' not in output:
        report.add('a stream had no text')
    text = _text(output.get('text', ''), 'the text of a stream', report)
    _report_unknown(output, {'output_type', 'name', 'stream', 'text', 'metadata' if is_old else 'text'}, report)
    return {'output_type': 'stream', 'name': name, 'text': text}


def _error(output: dict[str, Any], report: _Report) -> dict[str, Any]:
    made = {'output_type': 'error'}
    for name, old in (('ename', 'etype'), ('evalue', 'value')):
        value = output.get(name, output.get(old, ''))
        if not isinstance(value, str):
            report.add(f'{name} of an error was {_kind(value)}')
            value = _text(value, name, _Report())
        elif name not in output:
            report.add(f'an error had no {name}')
        made[name] = value
    lines = output.get('traceback', [])
    if isinstance(lines, str):
        report.add('the traceback of an error was one text')
        lines = lines.split('\n')
    elif not isinstance(lines, list):
        report.add(f'the traceback of an error was {_kind(lines)}')
        lines = []
    elif 'traceback' not in output:
        report.add('an error had no traceback')
    kept = [line for line in lines if isinstance(line, str)]
    if len(kept) < len(lines):
        report.add('lines of a traceback that were no text were left out')
    _report_unknown(output, {'output_type', 'ename', 'evalue', 'traceback', 'etype', 'value'}, report)
    return {**made, 'traceback': kept}


def _report_unknown(output: dict[str, Any], known: Iterable[str], report: _Report) -> None:
    unknown = output.keys() - set(known) - ({'metadata'} if output.get('metadata') == {} else set())
    for name in unknown:
        report.add(f'the unknown key {name!r} of an output was left out')


def _bundle(found: object, what: str, report: _Report) -> dict[str, Any]:
    """Return ``{MIME type: text or, where that is JSON, anything}``."""
    if isinstance(found, list) and found and all(isinstance(each, dict) for each in found):
        report.add(
            f'{what} were a list and were joined' if what.endswith('data of an output') else f'{what} was a list'
        )
        found = {mime: value for each in found for mime, value in each.items()}
    if not isinstance(found, dict):
        report.add(f'{what} was {_kind(found)}')
        return {'text/plain': found} if isinstance(found, str) else {}
    made: dict[str, Any] = {}
    for mime, value in found.items():
        if _JSON_MIME.search(mime):
            made[mime] = _plain(value, report)
        elif value is None:
            report.add(f'{mime!r} of an output had no value and was left out')
        elif isinstance(value, (dict, float, int)):
            report.add(f'{mime!r} of an output was {_kind(value)} and became text')
            made[mime] = json.dumps(_plain(value, report))
        else:
            made[mime] = _text(value, f'{mime!r} of an output', report)
    return made


def _parsed(value: object) -> object:
    """Return what a JSON text of format 3 holds, which had it as text; the text itself where it is none."""
    text = ''.join(value) if isinstance(value, list) and all(isinstance(each, str) for each in value) else value
    try:
        return json.loads(text) if isinstance(text, str) else value
    except (ValueError, RecursionError):
        return text


# Values ---------------------------------------------------------------------------------------------------------------


def _text(value: object, what: str, report: _Report) -> str:
    """Return text that may be given as a list of lines."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        if all(isinstance(each, str) for each in value):
            return ''.join(value)
        report.add(f'{what} held more than lines of text')
        return ''.join(each if isinstance(each, str) else _written(each) for each in value if each is not None)
    if value is None:
        report.add(f'{what} was null')
        return ''
    report.add(f'{what} was {_kind(value)} and became text')
    return _written(value)


def _written(value: object) -> str:
    return json.dumps(_plain(value, _Report()))


def _object(value: object, what: str, report: _Report, *, is_missing: bool, is_silent: bool = False) -> dict[str, Any]:
    if isinstance(value, dict):
        found: dict[str, Any] = _plain(value, report)
        return found
    if not (is_missing and is_silent):
        report.add(f'{what} {"was missing" if is_missing else f"was {_kind(value)}"}')
    return {}


def _plain(value: Any, report: _Report, nesting: int = MAX_NESTING) -> Any:
    """Return what JSON can hold: no numbers that are none, nothing that is nested too deep."""
    if isinstance(value, (dict, list)):
        if not nesting:
            report.add('what was nested too deep was left out')
            return None
        if isinstance(value, dict):
            return {key: _plain(each, report, nesting - 1) for key, each in value.items()}
        return [_plain(each, report, nesting - 1) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        report.add('a number that JSON does not have (NaN or Infinity) became null')
        return None
    return value


def _kind(value: object) -> str:
    if value is None:
        return 'null'
    kinds = {
        bool: 'true or false',
        int: 'a number',
        float: 'a number',
        str: 'a text',
        list: 'a list',
        dict: 'an object',
    }
    return kinds[type(value)]
