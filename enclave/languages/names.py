"""Which names a source has at its top level, for languages whose compilers and machines want to be given them (layer: values).

Read as far as it takes: comments and literals are no code, and brackets say what stands in what.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from attrs import define

SYNTAXES = ('java', 'scala')

_LITERAL = re.compile(
    r'//[^\n]*|/\*.*?(?:\*/|\Z)|""".*?(?:(?<!\\)"""+|\Z)|"(?:\\.|[^"\\\n])*"?|'
    + r"'(?:\\u+[0-9a-fA-F]{4}|\\.[0-7]{0,2}|[^'\\\n])'",
    re.DOTALL,
)
_TOKEN = re.compile(r'[^\W\d][\w$]*|\$[\w$]*|[{}()\[\];@=.]')
_PACKAGE = re.compile(r'\s*package\s+([\w$]+(?:\s*\.\s*[\w$]+)*)')
_KINDS = {'java': {'class', 'interface', 'enum', 'record'}, 'scala': {'object'}}
_OPENING, _CLOSING = '({[', ')}]'


@define
class _Type:
    name: str
    is_public: bool
    has_main: bool = False


@define
class Names:
    """What a source calls itself.

    Attributes:
        file: What its file must be called, without the ending; None if nothing says so.
        main: What is to be run, with its package; None if there is nothing.
    """

    file: str | None = None
    main: str | None = None


def without_literals(source: str) -> str:
    """Return a source in which comments are blanks and texts are empty."""
    return _LITERAL.sub(lambda match: ' ' if match[0].startswith('/') else '""', source)


def find_names(source: str, syntax: str) -> Names:
    """Return the names of a source in a syntax of `SYNTAXES`."""
    code = without_literals(source.lstrip('\ufeff'))
    types = list(_types(code, syntax))
    public = next((each for each in types if each.is_public), None)
    runnable = [each for each in types if each.has_main]
    named_main = [each for each in runnable if each.name == 'Main']
    if public is not None and public.has_main:
        main: _Type | None = public
    else:
        main = next(iter([*named_main, *runnable, *([public] if public else []), *types]), None)
    file = public or main
    if main is None:
        return Names()
    package = _PACKAGE.match(code)
    prefix = f'{"".join(package[1].split())}.' if package else ''
    return Names(None if file is None else file.name, prefix + main.name)


def _types(code: str, syntax: str) -> Iterator[_Type]:
    """Yield the types at the top level, when all of each is known."""
    kinds = _KINDS[syntax]
    brackets: list[str] = []
    words: list[str] = []  # since the last statement or member
    current: _Type | None = None
    for match in _TOKEN.finditer(code):
        token = match[0]
        depth = len(brackets)
        if token in _OPENING:
            if (
                syntax == 'java'
                and depth == 1
                and token == '('
                and words[-2:] == ['void', 'main']
                and 'static' in words
                and current
            ):
                current.has_main = True
            brackets.append(token)
            if token == '{':
                words = []
        elif token in _CLOSING:
            if brackets:
                brackets.pop()
            if token == '}' and len(brackets) <= 1:
                words = []
        elif token == ';':
            words = []
        elif depth == 0:
            if words and words[-1] in kinds and (syntax != 'java' or token not in ('.', '=')):
                if current is not None:
                    yield current
                current = _Type(token, 'public' in words)
                words = []
            elif (
                syntax == 'scala'
                and current is not None
                and token == 'App'
                and words
                and words[-1] in ('extends', 'with')
            ):
                current.has_main = True
            else:
                words.append(token)
        elif depth == 1 and brackets == ['{']:
            if syntax == 'scala' and token == 'main' and words and words[-1] == 'def' and current is not None:
                current.has_main = True
            words.append(token)
    if current is not None:
        yield current
