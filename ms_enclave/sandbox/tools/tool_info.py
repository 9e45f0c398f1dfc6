"""What a tool takes: its parameters as a schema, and how they are found in a function's signature."""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from ms_enclave.sandbox.model.modeling import Model, field
from ms_enclave.utils.json_schema import JSONSchema, json_schema

ToolParam = JSONSchema
"""The schema of one parameter."""

_SECTIONS = re.compile(r'(args|arguments|parameters|params)\s*:?\s*', re.IGNORECASE)
_OTHER_SECTION = re.compile(
    r'(returns?|yields?|raises?|examples?|notes?|attributes|see also|warnings?)\s*:?\s*', re.IGNORECASE
)
_ENTRY = re.compile(r'\*{0,2}(?P<name>\w+)\s*(?:\((?P<kind>[^)]*)\))?\s*:\s*(?P<description>.*)')
_FIELD = re.compile(r':param\s+(?:(?P<kind>[^:]*?)\s+)?(?P<name>\w+)\s*:\s*(?P<description>.*)')
_NUMPY = re.compile(r'(?P<name>\w+)\s*(?::\s*(?P<kind>.*))?')


if TYPE_CHECKING:
    Properties = dict[str, Any]  # plain dicts are taken, and become schemas
else:
    Properties = dict[str, JSONSchema]


class ToolParams(Model):
    """The parameters of a tool, as the schema of an object."""

    type: Literal['object'] = 'object'
    properties: Properties = field(default_factory=dict)
    required: list[str] = field(default_factory=list)
    additionalProperties: bool = False


class ToolInfo(Model):
    """What a model gets to know of a tool."""

    name: str = field()
    description: str = field()
    parameters: ToolParams = field(default_factory=ToolParams)
    options: dict[str, Any] | None = None


def parse_tool_info(func: Callable[..., Any]) -> ToolInfo:
    """Return what a function takes, by its signature, its annotations and its docstring (Google, numpy or reST)."""
    try:
        hints = typing.get_type_hints(func)
    except Exception:  # names that cannot be found from here
        hints = dict(getattr(func, '__annotations__', {}))
    description, known = _read(inspect.getdoc(func))
    properties: dict[str, JSONSchema] = {}
    required = []
    for name, parameter in inspect.signature(func).parameters.items():
        if name in ('self', 'cls') or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        described = known.get(name, {})
        kind = hints.get(name, inspect.Parameter.empty)
        schema = json_schema(kind if not isinstance(kind, str) else inspect.Parameter.empty)
        schema.description = described.get('description') or None
        if parameter.default is parameter.empty:
            required.append(name)
        else:
            schema.default = parameter.default
        properties[name] = schema
    return ToolInfo(
        name=getattr(func, '__name__', type(func).__name__),
        description=description,
        parameters=ToolParams(properties=properties, required=required),
    )


def parse_docstring(docstring: str | None, param_name: str) -> dict[str, str]:
    """Return what a docstring says of a parameter: ``{'description', 'docstring_type'}``, ``{}`` if it says nothing."""
    return _read(docstring)[1].get(param_name, {})


def _read(docstring: str | None) -> tuple[str, dict[str, dict[str, str]]]:
    """Return a docstring's description, and what it says of each parameter."""
    description: list[str] = []
    parameters: dict[str, dict[str, str]] = {}
    lines = inspect.cleandoc(docstring or '').split('\n')
    section, indent, current = 'head', 0, ''

    def note(match: re.Match[str], description: str) -> str:
        kind = (match['kind'] or '').strip()
        parameters[match['name']] = {'description': description.strip(), **({'docstring_type': kind} if kind else {})}
        return match['name']

    def extend(text: str) -> None:
        parameters[current]['description'] = f'{parameters[current]["description"]}\n{text}'.strip()

    for number, line in enumerate(lines):
        text = line.strip()
        depth = len(line) - len(line.lstrip())
        if text and _SECTIONS.fullmatch(text):
            following = lines[number + 1].strip() if number + 1 < len(lines) else ''
            section, indent, current = ('numpy' if set(following) == {'-'} else 'google'), 0, ''
            continue
        if text and _OTHER_SECTION.fullmatch(text):
            section, current = 'other', ''
            continue
        match = _FIELD.match(text)
        if match:
            section, current = 'field', note(match, match['description'])
        elif section == 'head':
            if text.startswith(':'):
                section = 'other'
            else:
                description.append(text)
        elif section == 'google' and text:
            indent = indent or depth
            match = _ENTRY.match(text) if depth <= indent else None
            if match:
                current = note(match, match['description'])
            elif current:
                extend(text)
        elif section == 'numpy' and text and set(text) != {'-'}:
            match = _NUMPY.fullmatch(text) if depth == 0 else None
            if match:
                current = note(match, '')
            elif current:
                extend(text)
        elif section == 'field' and text and not text.startswith(':') and current:
            extend(text)
    return '\n'.join(description).strip(), parameters


__all__ = ['ToolInfo', 'ToolParam', 'ToolParams', 'parse_docstring', 'parse_tool_info']
