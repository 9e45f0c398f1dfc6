"""JSON schemas out of typed attrs classes (layer 3).

One class says what a tool takes; this module makes the schema a model reads from it, and `enclave.wire` checks calls against
the same class, so that the two cannot drift apart. `json_schema` knows every type `enclave.wire` can decode, and serves
the records and configurations of an API description as well. The dialect is the part of JSON Schema draft 2020-12 that
function calling and OpenAPI 3.1 share.

`ToolParams` is the other way round: a schema written by hand, for tools that have no arguments class.
"""

from __future__ import annotations

import collections.abc
import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from enum import Enum
from pathlib import PurePath
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import attrs
from attrs import NOTHING, Factory, field, frozen

from enclave.errors import InvalidArgumentError
from enclave.quoting import quoted
from enclave.records import METADATA_KEY, Model
from enclave.suggest import did_you_mean

Schema = dict[str, Any]

_PLAIN: dict[Any, Schema] = {
    str: {'type': 'string'},
    int: {'type': 'integer'},
    float: {'type': 'number'},
    bool: {'type': 'boolean'},
    None: {'type': 'null'},
    NoneType: {'type': 'null'},
    datetime: {'type': 'string', 'format': 'date-time'},
    bytes: {'type': 'string', 'contentEncoding': 'base64'},
    Any: {},
    object: {},
}
_ARRAYS = (list, tuple, collections.abc.Sequence, collections.abc.MutableSequence)
_SETS = (set, frozenset, collections.abc.Set, collections.abc.MutableSet)
_OBJECTS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)
_JSON_TYPES: dict[type, str] = {bool: 'boolean', int: 'integer', float: 'number', str: 'string', NoneType: 'null'}


def argument(
    *,
    description: str = '',
    default: Any = NOTHING,
    factory: Callable[[], Any] | None = None,
    minimum: float | None = None,
    maximum: float | None = None,
    choices: tuple[Any, ...] | None = None,
    converter: Any = None,
    validator: Any = (),
) -> Any:
    """Return an attrs field whose description and bounds a model gets to see.

    Args:
        description: A sentence for the caller that fills the argument in.
        default: Value when it is left out; without one (and without ``factory``) the argument is required.
        factory: Makes the value when it is left out, for values that must not be shared.
        minimum: The least number allowed.
        maximum: The largest number allowed.
        choices: The only values allowed.
        converter: As in `attrs.field`.
        validator: As in `attrs.field`: one, or a list of them; they run after the bounds.
    """
    keywords: Schema = {}
    if description:
        keywords['description'] = description
    if choices is not None:
        keywords['enum'] = list(choices)
    if minimum is not None:
        keywords['minimum'] = minimum
    if maximum is not None:
        keywords['maximum'] = maximum

    def check_bounds(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        if value is None:
            return  # where the type does not allow it, it is refused for that
        if choices is not None and value not in choices:
            raise InvalidArgumentError(f'{attribute.name} must be one of {_listed(choices)}, not {quoted(value)}')
        if (minimum is not None or maximum is not None) and not isinstance(value, (int, float)):
            raise InvalidArgumentError(f'{attribute.name} must be a number, not {quoted(value)}')
        # Written so that nan fails too.
        if minimum is not None and not value >= minimum:
            raise InvalidArgumentError(f'{attribute.name} must be at least {minimum}, not {quoted(value)}')
        if maximum is not None and not value <= maximum:
            raise InvalidArgumentError(f'{attribute.name} must be at most {maximum}, not {quoted(value)}')

    checks = [check_bounds] if choices is not None or minimum is not None or maximum is not None else []
    return field(
        default=Factory(factory) if factory is not None else default,
        converter=converter,
        validator=[*checks, *(validator if isinstance(validator, (list, tuple)) else [validator])],
        metadata={METADATA_KEY: keywords},
    )


def json_schema(kind: Any, *, definitions: dict[str, Schema] | None = None, ref_prefix: str = '#/$defs/') -> Schema:
    """Return the JSON schema of a type: an attrs class, or anything made of them and of plain types.

    Args:
        kind: The type. Fields of attrs classes are described by their metadata, see `argument`; classes by the first
            paragraph of their docstring.
        definitions: Where the schemas of attrs classes go, ``{class name: schema}``; the result then only refers to them,
            which is what the ``components`` of an OpenAPI document want. Left out, the result is complete in itself, with
            nested classes under ``'$defs'``.
        ref_prefix: What references to definitions start with, for example ``'#/components/schemas/'``.

    Raises:
        InvalidArgumentError: A type has no JSON form; the message names the class and field.
    """
    maker = _Maker({} if definitions is None else definitions, ref_prefix)
    if definitions is not None or not attrs.has(get_origin(kind) or kind):
        made = maker.of(kind, getattr(kind, '__name__', str(kind)))
        return made if definitions is not None or not maker.definitions else {**made, '$defs': maker.definitions}
    root = maker.of_class(kind)
    name = maker.names.get(kind)
    if name is not None and name in maker.definitions:  # the class refers to itself
        return {'$ref': ref_prefix + name, '$defs': maker.definitions}
    return {**root, '$defs': maker.definitions} if maker.definitions else root


class _Maker:
    """Makes schemas, and collects those of the attrs classes met on the way. Lives as long as one `json_schema` call."""

    def __init__(self, definitions: dict[str, Schema], ref_prefix: str) -> None:
        self.definitions = definitions
        self.names: dict[Any, str] = {}
        self._ref_prefix = ref_prefix

    def of(self, kind: Any, where: str) -> Schema:
        if isinstance(kind, collections.abc.Hashable) and kind in _PLAIN:
            return dict(_PLAIN[kind])
        origin, arguments = get_origin(kind) or kind, get_args(kind)
        if origin is Annotated:
            return self.of(arguments[0], where)
        if origin in (Union, UnionType):
            return {'anyOf': [self.of(member, where) for member in arguments]}
        if origin is Literal:
            return _enumerated(list(arguments))
        if origin in _ARRAYS or origin in _SETS:
            return self._array(origin, arguments, where)
        if origin in _OBJECTS:
            values = self.of(arguments[1], where) if arguments else {}
            return {'type': 'object', 'additionalProperties': values} if values else {'type': 'object'}
        if isinstance(origin, type):
            if attrs.has(origin):
                return self._reference(origin)
            if issubclass(origin, Enum):
                return _enumerated([member.value for member in origin])
            if issubclass(origin, PurePath):
                return {'type': 'string'}
        raise InvalidArgumentError(f'{where} has the type {kind!r}, which has no JSON schema')

    def of_class(self, cls: Any) -> Schema:
        properties: dict[str, Schema] = {}
        required: list[str] = []
        kinds = _field_types(cls)
        for attribute in attrs.fields(cls):
            if attribute.name in getattr(cls, 'local_fields', ()):
                continue
            if not attribute.init:
                continue
            where = f'{cls.__name__}.{attribute.name}'
            keywords = attribute.metadata.get(METADATA_KEY, {})
            properties[attribute.name] = {**self.of(kinds[attribute.name], where), **keywords, **_default(attribute)}
            if attribute.default is NOTHING:
                required.append(attribute.name)
        made: Schema = {'type': 'object', 'properties': properties, 'required': required, 'additionalProperties': False}
        if cls.__doc__:
            made = {'description': inspect.cleandoc(cls.__doc__).split('\n\n')[0].replace('\n', ' '), **made}
        return made

    def _reference(self, cls: Any) -> Schema:
        name = self.names.get(cls)
        if name is None:
            name = cls.__name__
            if name in self.names.values():  # two classes of one name
                name = f'{cls.__module__}.{cls.__qualname__}'.replace('<locals>.', '')
            self.names[cls] = name
            before = self.definitions.get(name)
            self.definitions[name] = {}  # keeps its place, and ends the recursion of a class that contains itself
            self.definitions[name] = self.of_class(cls)
            if before is not None and before != self.definitions[name]:
                raise InvalidArgumentError(f'two different classes are named {name!r} in one document')
        return {'$ref': self._ref_prefix + name}

    def _array(self, origin: Any, arguments: tuple[Any, ...], where: str) -> Schema:
        if origin is tuple and arguments and arguments[-1] is not Ellipsis:
            parts = [self.of(each, where) for each in arguments]
            return {'type': 'array', 'prefixItems': parts, 'minItems': len(parts), 'maxItems': len(parts)}
        made: Schema = {'type': 'array'}
        if arguments and (items := self.of(arguments[0], where)):
            made['items'] = items
        if origin in _SETS:
            made['uniqueItems'] = True
        return made


def _field_types(cls: Any) -> dict[str, Any]:
    """Return ``{field: type}``, with annotations that are text looked up in the module of the class."""
    try:
        attrs.resolve_types(cls, include_extras=True)
    except NameError as error:
        raise InvalidArgumentError(
            f'{cls.__name__} has an annotation that cannot be looked up in its module: {error}; '
            'define the types it names at the top level of the module'
        ) from None
    return {attribute.name: Any if attribute.type is None else attribute.type for attribute in attrs.fields(cls)}


def _enumerated(values: list[Any]) -> Schema:
    kinds = {_JSON_TYPES.get(type(value)) for value in values}
    plain = [value.value if isinstance(value, Enum) else value for value in values]
    kind = kinds.pop() if len(kinds) == 1 else None
    return {'type': kind, 'enum': plain} if kind else {'enum': plain}


def _default(attribute: attrs.Attribute[Any]) -> Schema:
    """Return ``{'default': value}`` where the default is plain data that is the same every time."""
    default: Any = attribute.default
    if default is NOTHING:
        return {}
    if isinstance(default, Factory):  # type: ignore[arg-type]
        if default.factory not in (list, tuple, dict, set, frozenset):
            return {}
        return {'default': {} if default.factory is dict else []}
    if isinstance(default, Enum):
        default = default.value
    if isinstance(default, (set, frozenset, tuple)):
        default = list(default)
    plain = default is None or isinstance(default, (bool, int, str, list, dict))
    return {'default': default} if plain or (isinstance(default, float) and math.isfinite(default)) else {}


# A schema written by hand ---------------------------------------------------------------------------------------------


def _as_properties(value: Mapping[str, Any]) -> dict[str, Any]:
    return dict(value)


def _as_names(value: Iterable[str]) -> list[str]:
    return list(value)


@frozen(kw_only=True)
class ToolParams(Model):
    """The arguments of a tool as a JSON schema written by hand, for tools without an arguments class.

    Attributes:
        type: Always ``'object'``.
        properties: ``{argument: schema}``, for example ``{'code': {'type': 'string', 'description': '...'}}``.
        required: The arguments that must be given.
    """

    type: Literal['object'] = 'object'
    properties: dict[str, Any] = field(factory=dict, converter=_as_properties)
    required: list[str] = field(factory=list, converter=_as_names)

    def problems(self, parameters: Mapping[str, Any]) -> list[str]:
        """Return what is wrong with the arguments of a call, a phrase for each; nothing else than names, ``type`` and ``enum``
        is looked at.
        """
        missing = [name for name in self.required if name not in parameters]
        extra = [name for name in parameters if name not in self.properties]
        found = [f'{name} is required and missing' for name in missing]
        for name, value in parameters.items():
            if name not in self.properties:
                hint = did_you_mean(name, list(self.properties), missing=missing, is_only=len(extra) == 1)
                found.append(f'unknown key {name!r} ({hint})')
                continue
            schema = self.properties[name]
            if isinstance(schema, Mapping) and (wrong := _mismatch(schema, value)):
                found.append(f'{name} must be {wrong}, not {quoted(value)}')
        return found


def _mismatch(schema: Mapping[str, Any], value: Any) -> str:
    """Return what the schema wants, as a text, or '' when the value is that."""
    wanted = schema.get('type')
    kinds = [wanted] if isinstance(wanted, str) else list(wanted or ())
    if kinds and not any(_is_json_type(kind, value) for kind in kinds):
        return ' or '.join(f'of type {kind}' for kind in kinds)
    choices = schema.get('enum')
    return f'one of {_listed(choices)}' if isinstance(choices, (list, tuple)) and value not in choices else ''


def _is_json_type(kind: str, value: Any) -> bool:
    if isinstance(value, bool):
        return kind == 'boolean'
    fitting: dict[str, tuple[type, ...]] = {
        'string': (str,),
        'integer': (int,),
        'number': (int, float),
        'array': (list, tuple),
        'object': (Mapping,),
        'null': (NoneType,),
        'boolean': (),
    }
    return isinstance(value, fitting.get(kind, (object,)))


def _listed(values: Any) -> str:
    return ', '.join(repr(value) for value in values)


def signature_text(schema: Mapping[str, Any]) -> str:
    """Return an object schema as one line for a message, like ``code (string, required), timeout (number or null)``."""
    required = schema.get('required', ())
    parts = [
        f'{name} ({_type_text(each)}{", required" if name in required else ""})'
        for name, each in schema.get('properties', {}).items()
    ]
    return ', '.join(parts) or 'no arguments'


def _type_text(schema: Any) -> str:
    if not isinstance(schema, Mapping):
        return 'anything'
    if 'anyOf' in schema:
        return ' or '.join(_type_text(each) for each in schema['anyOf'])
    if 'enum' in schema:
        return _listed(schema['enum'])
    kind = schema.get('type', 'object' if '$ref' in schema else 'anything')
    if not isinstance(kind, str):
        return ' or '.join(kind)
    items = schema.get('items')
    return f'array of {items["type"]}' if kind == 'array' and isinstance(items, Mapping) and 'type' in items else kind
