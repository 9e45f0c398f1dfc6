"""Parameters of a notebook (layer 4): values as code of its language, for a cell that goes after the one tagged ``parameters``.

The tags and the place are those that papermill made usual: https://papermill.readthedocs.io/en/latest/usage-parameterize.html
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from attrs import frozen

from enclave.errors import InvalidArgumentError, UnsupportedError

PARAMETERS_TAG = 'parameters'
INJECTED_TAG = 'injected-parameters'
_NAME = re.compile(r'[^\W\d]\w*')


@frozen
class _ValueSyntax:
    """How a language writes values. ``assign`` is ``'{name} = {value}'`` or the like."""

    none: str
    true: str
    false: str
    text: Callable[[str], str]
    items: Callable[[list[str]], str]
    pairs: Callable[[list[tuple[str, str]]], str]
    infinity: str
    nan: str
    assign: str = '{name} = {value}'
    comment: str = '#'


def _shell_text(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def _no_pairs(pairs: list[tuple[str, str]]) -> str:
    raise InvalidArgumentError('a shell has no value for an object; give its parts as parameters of their own')


def _julia_text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace('$', '\\$')


_JAVASCRIPT = _ValueSyntax(
    none='null',
    true='true',
    false='false',
    text=json.dumps,
    items=lambda items: f'[{", ".join(items)}]',
    pairs=lambda pairs: f'{{{", ".join(f"{json.dumps(key)}: {value}" for key, value in pairs)}}}',
    infinity='Infinity',
    nan='NaN',
    assign='var {name} = {value};',
    comment='//',
)
_SHELL = _ValueSyntax(
    none="''",
    true='true',
    false='false',
    text=_shell_text,
    items=lambda items: f'({" ".join(items)})',
    pairs=_no_pairs,
    infinity='inf',
    nan='nan',
    assign='{name}={value}',
)
_LANGUAGES = {
    'python': _ValueSyntax(
        none='None',
        true='True',
        false='False',
        text=repr,
        items=lambda items: f'[{", ".join(items)}]',
        pairs=lambda pairs: f'{{{", ".join(f"{key!r}: {value}" for key, value in pairs)}}}',
        infinity="float('inf')",
        nan="float('nan')",
    ),
    'r': _ValueSyntax(
        none='NULL',
        true='TRUE',
        false='FALSE',
        text=lambda text: json.dumps(text, ensure_ascii=False),
        items=lambda items: f'list({", ".join(items)})',
        pairs=lambda pairs: f'list({", ".join(f"{json.dumps(key)} = {value}" for key, value in pairs)})',
        infinity='Inf',
        nan='NaN',
        assign='{name} <- {value}',
    ),
    'julia': _ValueSyntax(
        none='nothing',
        true='true',
        false='false',
        text=_julia_text,
        items=lambda items: f'[{", ".join(items)}]',
        pairs=lambda pairs: f'Dict({", ".join(f"{_julia_text(key)} => {value}" for key, value in pairs)})',
        infinity='Inf',
        nan='NaN',
    ),
    'bash': _SHELL,
    'shell': _SHELL,
    'javascript': _JAVASCRIPT,
    'typescript': _JAVASCRIPT,
}
LANGUAGES = tuple(_LANGUAGES)
"""The languages, by the name that their kernels give, for which there is code."""


def parse_value(text: str) -> Any:
    """Return what the text of a parameter on a command line means: true, false, a number, null or, else, the text itself.

    ``True``, ``False`` and ``None`` are Python's names of the same. Lists and objects are JSON.
    """
    known = {'true': True, 'True': True, 'false': False, 'False': False, 'null': None, 'None': None}
    if text in known:
        return known[text]
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        pass
    else:
        if not isinstance(value, str):
            return value
    for kind in (int, float):
        try:
            # int('1_0') is a number to Python, and hardly meant as one.
            return kind(text) if re.fullmatch(r'[+-]?[0-9.a-zA-Z+-]+', text) else text
        except ValueError:
            continue
    return text


def as_code(parameters: Mapping[str, Any], language: str) -> str:
    """Return code that sets variables to values: text, numbers, true, false, None, and lists and dicts of these.

    Raises:
        InvalidArgumentError: A name cannot be a variable's, or a value is of another kind.
        UnsupportedError: There is no code for the language.
    """
    found = _LANGUAGES.get(language.lower())
    if found is None:
        raise UnsupportedError(
            f'parameters cannot be written in {language or "a language without a name"!r}; they can in {", ".join(LANGUAGES)}'
        )
    lines = [f'{found.comment} Parameters']
    for name, value in parameters.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise InvalidArgumentError(f'{name!r} cannot be the name of a parameter: letters, digits and _ are')
        lines.append(found.assign.format(name=name, value=_value(value, found, name)))
    return '\n'.join(lines) + '\n'


def _value(value: Any, language: _ValueSyntax, name: str, nesting: int = 50) -> str:
    if value is None:
        return language.none
    if isinstance(value, bool):
        return language.true if value else language.false
    if isinstance(value, str):
        return language.text(value)
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        if math.isfinite(value):
            return repr(value)
        return language.nan if math.isnan(value) else ('-' if value < 0 else '') + language.infinity
    if nesting and isinstance(value, (list, tuple)):
        return language.items([_value(each, language, name, nesting - 1) for each in value])
    if nesting and isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return language.pairs([(key, _value(each, language, name, nesting - 1)) for key, each in value.items()])
    raise InvalidArgumentError(
        f'the parameter {name!r} is {"nested too deep" if not nesting else f"a {type(value).__name__}"}; it can be text, a '
        'number, true, false or None, or a list or dict of these'
    )
