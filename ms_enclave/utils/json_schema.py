"""JSON schemas of Python types."""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from collections.abc import Mapping, Sequence
from datetime import date, datetime, time
from enum import Enum
from typing import Any, Literal, Union, get_args, get_origin

from ms_enclave.sandbox.model.modeling import FieldInfo, Model, fields_of

JSONType = Literal['string', 'integer', 'number', 'boolean', 'array', 'object', 'null']
"""The types that JSON has."""

_TYPES: dict[Any, JSONType] = {
    str: 'string',
    bytes: 'string',
    int: 'integer',
    float: 'number',
    bool: 'boolean',
    list: 'array',
    tuple: 'array',
    set: 'array',
    frozenset: 'array',
    dict: 'object',
    None: 'null',
    type(None): 'null',
}
_FORMATS = {datetime: 'date-time', date: 'date', time: 'time'}


class JSONSchema(Model):
    """A schema of one value. Keywords that are no fields here are dropped."""

    type: JSONType | None = None
    format: str | None = None
    description: str | None = None
    default: Any = None
    enum: list[Any] | None = None
    items: JSONSchema | None = None
    properties: dict[str, JSONSchema] | None = None
    additionalProperties: JSONSchema | bool | None = None
    anyOf: list[JSONSchema] | None = None
    required: list[str] | None = None


def python_type_to_json_type(python_type: Any) -> JSONType:
    """Return the JSON type of a plain Python type, given itself or by its name.

    Raises:
        ValueError: JSON has none for it.
    """
    if isinstance(python_type, str):
        by_name = {kind.__name__: word for kind, word in _TYPES.items() if isinstance(kind, type)}
        by_name |= {'None': 'null', 'NoneType': 'null'}
        if python_type in by_name:
            return by_name[python_type]
    elif python_type in _TYPES:
        return _TYPES[python_type]
    raise ValueError(f'JSON has no type for {python_type!r}')


def json_schema(t: Any) -> JSONSchema:
    """Return the schema of a type: plain ones, containers, unions, literals, enums, models, dataclasses and typed dicts.

    What is none of these is an object of any shape.
    """
    origin, parts = get_origin(t), get_args(t)
    if t is Any or t is inspect.Parameter.empty:
        return JSONSchema()
    if origin is typing.Annotated:
        return json_schema(parts[0])
    if origin in (Union, types.UnionType):
        return JSONSchema(anyOf=[json_schema(each) for each in parts])
    if origin is Literal:
        return _of_values(parts)
    if origin in (list, set, frozenset, tuple, Sequence):
        items = [each for each in parts if each is not Ellipsis]
        return JSONSchema(type='array', items=json_schema(items[0]) if items else JSONSchema())
    if origin in (dict, Mapping):
        return JSONSchema(type='object', additionalProperties=json_schema(parts[1]) if len(parts) > 1 else True)
    if isinstance(t, type) and issubclass(t, Enum):
        return _of_values(tuple(each.value for each in t))
    if t in (list, set, frozenset, tuple):
        return JSONSchema(type='array', items=JSONSchema())
    if t in _FORMATS:
        return JSONSchema(type='string', format=_FORMATS[t])
    if t in _TYPES:
        return JSONSchema(type=_TYPES[t])
    if isinstance(t, type):
        return cls_json_schema(t)
    return JSONSchema(type='object')


def _of_values(values: tuple[Any, ...]) -> JSONSchema:
    return JSONSchema(enum=list(values))


def cls_json_schema(cls: type[Any]) -> JSONSchema:
    """Return the schema of a class by its fields: a model, a dataclass, a typed dict; any other is an object of any shape."""
    if issubclass(cls, Model):
        return JSONSchema(**model_schema(cls))
    schema_of = getattr(cls, 'model_json_schema', None)
    if callable(schema_of):
        return JSONSchema(**resolve_schema_references(schema_of()))
    if dataclasses.is_dataclass(cls):
        hints = typing.get_type_hints(cls)
        missing = dataclasses.MISSING
        fields = [
            (each.name, hints[each.name], each.default is missing and each.default_factory is missing)
            for each in dataclasses.fields(cls)
        ]
    elif typing.is_typeddict(cls):
        required = getattr(cls, '__required_keys__', frozenset())
        fields = [(name, kind, name in required) for name, kind in typing.get_type_hints(cls).items()]
    else:
        return JSONSchema(type='object')
    return JSONSchema(
        type='object',
        properties={name: json_schema(kind) for name, kind, _ in fields},
        required=[name for name, _, is_required in fields if is_required],
        additionalProperties=False,
    )


def model_schema(cls: type[Model]) -> dict[str, Any]:
    """Return what JSON of a model's instance looks like."""
    properties: dict[str, Any] = {}
    required = []
    for name, info in fields_of(cls).items():
        properties[name] = _field_schema(info)
        if info.is_required():
            required.append(name)
    made: dict[str, Any] = {'title': cls.__name__, 'type': 'object', 'properties': properties}
    if cls.__doc__:
        made['description'] = inspect.cleandoc(cls.__doc__)
    if required:
        made['required'] = required
    return made


def _field_schema(info: FieldInfo) -> dict[str, Any]:
    kind = info.annotation
    if isinstance(kind, type) and issubclass(kind, Model) and kind is JSONSchema:
        return {'type': 'object'}  # it holds itself
    made = json_schema(kind).model_dump(mode='json', exclude_none=True)
    if info.description:
        made['description'] = info.description
    if not info.is_required():
        from ms_enclave.sandbox.model.modeling import dumped

        default = dumped(info.get_default(), mode='json')
        if info.default_factory is None or default in ({}, []):
            made['default'] = default
    return made


def resolve_schema_references(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema in which each ``$ref`` to its own ``$defs`` has been put in place."""
    definitions = schema.get('$defs') or {}

    def resolve(value: Any, around: tuple[str, ...]) -> Any:
        if isinstance(value, list):
            return [resolve(each, around) for each in value]
        if not isinstance(value, dict):
            return value
        reference = value.get('$ref')
        if isinstance(reference, str) and reference.startswith('#/$defs/'):
            name = reference.removeprefix('#/$defs/')
            if name in around or name not in definitions:
                return {'type': 'object'}  # it holds itself
            rest = {key: each for key, each in value.items() if key != '$ref'}
            return resolve({**definitions[name], **rest}, (*around, name))
        return {key: resolve(each, around) for key, each in value.items() if key != '$defs'}

    found: dict[str, Any] = resolve(schema, ())
    return found


__all__ = [
    'JSONSchema',
    'JSONType',
    'cls_json_schema',
    'json_schema',
    'python_type_to_json_type',
    'resolve_schema_references',
]
