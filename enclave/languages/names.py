"""Which names a source has at its top level, for languages whose compilers and machines want to be given them (layer: values).

Read as far as it takes: comments and literals are no code, and brackets say what stands in what.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from attrs import define

SYNTAXES = ('java', 'kotlin', 'scala')

_OPENS = re.compile(r'//|/\*|"""|"|' + r"'(?:\\u+[0-9a-fA-F]{4}|\\.[0-7]{0,2}|[^'\\\n])'", re.DOTALL)
_ENDS = {
    '//': re.compile(r'\n'),
    '/*': re.compile(r'\*/'),
    '"': re.compile(r'(?:\\.)|"|(?=\n)', re.DOTALL),
    '"""': re.compile(r'(?:\\.)|"""+', re.DOTALL),
}
_RAW_END = re.compile(r'"""+')
# In JavaScript and TypeScript, where a slash after some signs begins a regular expression (how long one may be is bounded).
_SCRIPT_OPENS = re.compile(r'//|/\*|[`"\']|[(,=:\[!&|?{};]\s*/(?![/*])(?:\\.|[^/\\\n]){1,200}/')
_SCRIPT_ENDS = {
    '//': re.compile(r'\n'),
    '/*': re.compile(r'\*/'),
    '"': re.compile(r'\\.|["\n]', re.DOTALL),
    "'": re.compile(r"\\.|['\n]", re.DOTALL),
    '`': re.compile(r'\\.|`', re.DOTALL),
}
_TOKEN = re.compile(r'[^\W\d][\w$]*|\$[\w$]*|[{}()\[\];@=.]')
_PACKAGE = re.compile(r'\s*package\s+([\w$]+(?:\s*\.\s*[\w$]+)*)')
_KINDS = {
    'java': {'class', 'interface', 'enum', 'record'},
    'kotlin': {'class', 'object', 'interface'},
    'scala': {'object'},
}
_FILE_CLASS = re.compile(r'@file\s*:\s*JvmName\s*\(\s*"([\w$]+)"')
_MOST_TOKENS = 200  # no declaration has more before its name
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


def without_literals(source: str, syntax: str = 'java') -> str:
    """Return a source in which comments are blanks and texts are empty.

    It is read in steps, since a regular expression for a whole text keeps a hundred bytes for each of its characters.
    """
    parts: list[str] = []
    at = 0
    while opening := _OPENS.search(source, at):
        parts.append(source[at : opening.start()])
        kind, at = opening[0], opening.end()
        end = _RAW_END if kind == '"""' and syntax != 'java' else _ENDS.get(kind)
        if end is not None:
            found = _find_end(end, source, at)
            at = len(source) if found is None else found
        parts.append('\n' if kind == '//' else ' ' if kind == '/*' else '""')
    return ''.join((*parts, source[at:]))


def _find_end(end: re.Pattern[str], source: str, at: int) -> int | None:
    """Return where a comment or a text ends of which ``at`` is within: behind what the pattern finds and is no escape."""
    while found := end.search(source, at):
        at = found.end()
        if not found[0].startswith('\\'):
            return at
    return None


def without_templates(source: str) -> str:
    """Return a source of JavaScript or TypeScript without its comments in blocks and its template literals."""
    parts: list[str] = []
    at = 0
    while opening := _SCRIPT_OPENS.search(source, at):
        kind, start, last = opening[0], opening.start(), opening.end()
        end = _SCRIPT_ENDS.get(kind)
        if end is not None:
            found = _find_end(end, source, last)
            if found is None:  # it was no literal, or the source is wrong
                break
            last = found
        parts.append(source[at : start if kind in ('/*', '`') else last])
        parts.append({'/*': ' ', '`': '``'}.get(kind, ''))
        at = last
    return ''.join((*parts, source[at:]))


def find_names(source: str, syntax: str) -> Names:
    """Return the names of a source in a syntax of `SYNTAXES`."""
    code = without_literals(source.lstrip('\ufeff'), syntax)
    types = [each for each in _types(code, syntax) if each.name or each.has_main]
    if syntax == 'kotlin':
        own = _FILE_CLASS.search(source)
        for each in types:  # functions at the top level are in a class that is called after the file
            each.name = each.name or (own[1] if own else 'MainKt')
        types = [each for each in types if each.has_main]
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
    """Yield the types at the top level, when all of each is known; Kotlin's functions there as one without a name."""
    brackets: list[str] = []
    inner = 0  # how many of them are none of braces
    tokens: list[str] = []  # since the last statement or member
    current = _Type('', False)
    for match in _TOKEN.finditer(code):
        token = match[0]
        if token in _OPENING:
            brackets.append(token)
            inner += token != '{'
            tokens = [] if token == '{' else tokens
        elif token in _CLOSING:
            if brackets:
                inner -= brackets.pop() != '{'
            tokens = [] if token == '}' and not inner else tokens
        elif token == ';':
            tokens = []
        elif not brackets and tokens and tokens[-1] in _KINDS[syntax] and token not in '.=@':
            yield current
            current, tokens = _Type(token, 'public' in tokens), []
        elif not inner:
            if _is_main(token, tokens, len(brackets), syntax):
                if syntax == 'kotlin' and not brackets:
                    yield _Type('', False, True)
                else:
                    current.has_main = True
            tokens.append(token)
            if len(tokens) > _MOST_TOKENS:
                del tokens[: _MOST_TOKENS // 2]
    yield current


def _is_main(token: str, tokens: list[str], depth: int, syntax: str) -> bool:
    """Return whether a token makes the type it stands in one that can be run."""
    before = tokens[-1] if tokens else ''
    if syntax == 'java':
        return token == 'main' and before == 'void' and 'static' in tokens and depth == 1
    if syntax == 'kotlin':  # in an object, or in the companion of a class
        return token == 'main' and before == 'fun' and (depth == 0 or ('JvmStatic' in tokens and depth <= 2))
    return (depth == 1 and (before, token) == ('def', 'main')) or (
        depth == 0 and token == 'App' and before in ('extends', 'with')
    )
