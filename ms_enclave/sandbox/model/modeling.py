"""Classes whose fields are their annotations, checked when they are made and plain afterwards.

The documented configurations are models of a well-known validation library; programs use a few of its methods
(``model_validate``, ``model_dump``, ``model_copy``, ...), its coercions ('2.0' for a number) and that it takes any mapping or
sequence. `Model` has those, without the library. Where the library is loaded, errors are raised as its own class, so that a
program that catches that catches these, and a `Model` may be a field of a program's own models.
"""

from __future__ import annotations

import copy
import dataclasses
import difflib
import functools
import inspect
import json
import math
import re
import sys
import types
import typing
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar, Union, get_args, get_origin

from enclave.errors import ConfigurationError
from ms_enclave.utils.logger import logger

if TYPE_CHECKING:
    from typing_extensions import Self, dataclass_transform
else:

    def dataclass_transform(**_: Any) -> Callable[[Any], Any]:
        """Return a decorator that does nothing: only checkers of types read it."""
        return lambda cls: cls


M = TypeVar('M', bound='Model')
Where = tuple[str | int, ...]

_WHOLE = re.compile(r'\s*[+-]?[0-9]+(_[0-9]+)*(\.0*)?\s*')
_TRUE = frozenset({'1', 'true', 't', 'yes', 'y', 'on'})
_FALSE = frozenset({'0', 'false', 'f', 'no', 'n', 'off'})
_UNSET: Any = object()
_MAX_SHOWN = 80
_SECRETS = frozenset({'api_key', 'env', 'env_vars', 'extra_headers', 'token'})
"""Fields whose values no repr shows."""


class Problem(Exception):
    """One value that does not fit."""

    def __init__(self, kind: str, message: str, value: Any, where: Where = ()) -> None:
        super().__init__(message)
        self.kind, self.message, self.value, self.where = kind, message, value, where

    def below(self, *where: str | int) -> Problem:
        """Return it as seen from further outside."""
        return Problem(self.kind, self.message, self.value, (*where, *self.where))


class ValidationError(ConfigurationError):
    """Values do not fit a model's fields. It is a `ValueError`; `errors` has each of them."""

    def __init__(self, title: str, problems: Sequence[Problem]) -> None:
        lines = [f'{len(problems)} validation error{"s" if len(problems) > 1 else ""} for {title}']
        for each in problems:
            shown = repr(each.value)
            shown = shown if len(shown) <= _MAX_SHOWN else f'{shown[:_MAX_SHOWN]}...'
            lines += ['.'.join(map(str, each.where))] if each.where else []
            lines += [f'  {each.message} [type={each.kind}, input_value={shown}]']
        super().__init__('\n'.join(lines))
        self.title = title
        self._problems = tuple(problems)

    def errors(self, **_: Any) -> list[dict[str, Any]]:
        """Return ``{'type', 'loc', 'msg', 'input'}`` for each value that does not fit."""
        return [{'type': p.kind, 'loc': p.where, 'msg': p.message, 'input': p.value} for p in self._problems]

    def json(self, **_: Any) -> str:
        """Return `errors` as JSON text."""
        return json.dumps(dumped(self.errors(), mode='json'))

    def error_count(self) -> int:
        """Return how many values do not fit."""
        return len(self._problems)


def _failure(title: str, problems: Sequence[Problem]) -> Exception:
    """Return what to raise: the library's own error where a program has loaded it, else ours."""
    library = sys.modules.get('pydantic_core')
    if library is not None:
        lines = [
            {
                'type': library.PydanticCustomError(p.kind, '{message}', {'message': p.message}),
                'loc': p.where,
                'input': p.value,
            }
            for p in problems
        ]
        made: Exception = library.ValidationError.from_exception_data(title, lines)
        return made
    return ValidationError(title, problems)


# Fields ---------------------------------------------------------------------------------------------------------------


class FieldInfo:
    """What is known of a field.

    Attributes:
        annotation: Its type.
        default: Its default; `default_factory` makes a new one where it is not None.
        description: What it is for.
    """

    def __init__(
        self,
        default: Any = _UNSET,
        *,
        default_factory: Callable[[], Any] | None = None,
        check: Callable[[Any], str | None] | None = None,
        description: str | None = None,
        annotation: Any = Any,
    ) -> None:
        self._given = default
        self.default_factory = default_factory
        self.check = check
        self.description = description
        self.annotation = annotation

    @property
    def default(self) -> Any:
        """The default, or ``...`` where a value is required."""
        return ... if self._given is _UNSET else self._given

    def is_required(self) -> bool:
        """Return whether a value must be given."""
        return self._given is _UNSET and self.default_factory is None

    def get_default(self, *, call_default_factory: bool = True) -> Any:
        """Return a new default."""
        if self.default_factory is not None:
            return self.default_factory() if call_default_factory else None
        return copy.deepcopy(self._given)

    def __repr__(self) -> str:
        kind = getattr(self.annotation, '__name__', None) or str(self.annotation)
        rest = 'required=True' if self.is_required() else f'required=False, default={self.get_default()!r}'
        return f'FieldInfo(annotation={kind}, {rest})'


def field(
    default: Any = _UNSET,
    *,
    default_factory: Callable[[], Any] | None = None,
    check: Callable[[Any], str | None] | None = None,
    description: str | None = None,
) -> Any:
    """Return what represents a field's default in a class.

    Args:
        check: Says what is wrong with a value of the right type, or None.
    """
    return FieldInfo(default, default_factory=default_factory, check=check, description=description)


def _as_field(default: Any, annotation: Any) -> FieldInfo:
    if isinstance(default, FieldInfo):
        return FieldInfo(
            default._given,
            default_factory=default.default_factory,
            check=default.check,
            description=default.description,
            annotation=annotation,
        )
    if type(default).__name__ == 'FieldInfo':  # the library's own, in a program's subclass
        given = _UNSET if type(default.default).__name__ == 'PydanticUndefinedType' else default.default
        return FieldInfo(
            given, default_factory=default.default_factory, description=default.description, annotation=annotation
        )
    return FieldInfo(default, annotation=annotation)


_known_fields: dict[type[Any], dict[str, FieldInfo]] = {}


def fields_of(cls: type[Model]) -> dict[str, FieldInfo]:
    """Return a model's fields, those of its bases first."""
    known = _known_fields.get(cls)
    if known is None:
        known = _known_fields[cls] = _find_fields(cls)
    return known


def _find_fields(cls: type[Model]) -> dict[str, FieldInfo]:
    found: dict[str, FieldInfo] = {}
    for base in reversed(cls.__mro__):
        if not issubclass(base, Model) or base is Model:
            continue
        hints = _hints(base)
        for name in inspect.get_annotations(base):
            kind = hints.get(name, Any)
            if name.startswith('_') or get_origin(kind) is ClassVar or kind is ClassVar:
                continue
            found[name] = _as_field(base.__dict__.get(name, _UNSET), kind)
    return found


def _hints(cls: type) -> dict[str, Any]:
    try:
        return typing.get_type_hints(cls)
    except Exception:  # a program's own class, whose names cannot be found from here
        return {}


# Values ---------------------------------------------------------------------------------------------------------------


def _is_list_like(value: Any) -> bool:
    return isinstance(value, (Sequence, set, frozenset)) and not isinstance(value, (str, bytes, bytearray))


def plain(value: Any) -> Any:
    """Return foreign mappings and sequences, at any depth, as plain dicts and lists."""
    if isinstance(value, Mapping):
        if type(value) is dict and not any(_is_foreign(each) for each in value.values()):
            return value
        return {key: plain(each) for key, each in value.items()}
    if _is_list_like(value) and not isinstance(value, (list, tuple, set, frozenset)):
        return [plain(each) for each in value]
    if type(value) in (list, tuple) and any(_is_foreign(each) for each in value):
        return type(value)(plain(each) for each in value)
    return value


def _is_foreign(value: Any) -> bool:
    return plain(value) is not value


def convert(value: Any, kind: Any) -> Any:
    """Return a value as one of a type.

    Raises:
        Problem: It is none, and cannot be read as one.
    """
    origin, parts = get_origin(kind), get_args(kind)
    if kind is Any:
        return plain(value)
    if origin in (Union, types.UnionType):
        return _convert_union(value, parts)
    if origin is Literal:
        if value in parts:
            return value
        raise Problem('literal_error', f'Input should be {" or ".join(map(repr, parts))}', value)
    if kind is None or kind is types.NoneType:
        if value is None:
            return None
        raise Problem('none_required', 'Input should be None', value)
    if origin in (list, set, frozenset) or kind in (list, set, frozenset):
        return _convert_list(value, origin or kind, parts[0] if parts else Any)
    if origin is tuple or kind is tuple:
        return _convert_tuple(value, parts)
    if origin in (dict, Mapping) or kind in (dict, Mapping):
        return _convert_dict(value, parts or (Any, Any))
    if origin is not None or not isinstance(kind, type):
        return value  # a type of a program's own that is not known here
    return _convert_plain(value, kind)


def _convert_union(value: Any, kinds: tuple[Any, ...]) -> Any:
    for each in kinds:  # what fits as it is comes first
        exact = get_origin(each) or each
        if (value is None and each is types.NoneType) or (isinstance(exact, type) and type(value) is exact):
            try:
                return convert(value, each)
            except Problem:
                continue
    problems = []
    for each in kinds:
        if each is types.NoneType:
            continue
        try:
            return convert(value, each)
        except Problem as problem:
            problems.append(problem)
    raise problems[0]


def _convert_list(value: Any, kind: type, part: Any) -> Any:
    if not _is_list_like(value):
        raise Problem('list_type', f'Input should be a valid {kind.__name__}', value)
    return kind(_each(value, part))


def _each(values: Iterable[Any], kind: Any) -> Iterator[Any]:
    for number, each in enumerate(values):
        try:
            yield convert(each, kind)
        except Problem as problem:
            raise problem.below(number) from None


def _convert_tuple(value: Any, parts: tuple[Any, ...]) -> Any:
    if not _is_list_like(value):
        raise Problem('tuple_type', 'Input should be a valid tuple', value)
    if not parts or parts[-1] is Ellipsis:
        return tuple(_each(value, parts[0] if parts else Any))
    if len(value) != len(parts):
        raise Problem('tuple_type', f'Input should have {len(parts)} items', value)
    return tuple(next(_each([each], part)) for each, part in zip(value, parts, strict=True))


def _convert_dict(value: Any, parts: tuple[Any, ...]) -> dict[Any, Any]:
    if not isinstance(value, Mapping):
        raise Problem('dict_type', 'Input should be a valid dictionary', value)
    made = {}
    for key, each in value.items():
        try:
            made[convert(key, parts[0])] = convert(each, parts[1])
        except Problem as problem:
            raise problem.below(str(key)) from None
    return made


def _convert_plain(value: Any, kind: type) -> Any:
    if kind is bool:
        return _convert_bool(value)
    if kind in (int, float):
        return _convert_number(value, kind)
    if kind is str:
        if isinstance(value, str):
            return str.__str__(value)  # plain text, also of an enum's member, whose text in messages is its name
        if isinstance(value, (bytes, bytearray)):
            try:
                return bytes(value).decode()
            except UnicodeDecodeError:
                pass
        raise Problem('string_type', 'Input should be a valid string', value)
    if kind is bytes:
        if isinstance(value, (bytes, bytearray)):
            return bytes(value)
        if isinstance(value, str):
            return value.encode()
        raise Problem('bytes_type', 'Input should be a valid bytes', value)
    if kind is datetime:
        return _convert_datetime(value)
    if issubclass(kind, Enum):
        try:
            return kind(value)
        except ValueError:
            members = ' or '.join(repr(each.value) for each in kind)
            raise Problem('enum', f'Input should be {members}', value) from None
    if issubclass(kind, Model):
        if isinstance(value, kind):
            return value
        if isinstance(value, Mapping):
            return kind._made(value)
        raise Problem('model_type', f'Input should be a valid dictionary or instance of {kind.__name__}', value)
    if isinstance(value, kind):
        return value
    raise Problem('is_instance_of', f'Input should be an instance of {kind.__name__}', value)


def _convert_bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    word = value.strip().lower() if isinstance(value, str) else str(int(value)) if value in (0, 1) else ''
    if word in _TRUE or word in _FALSE:
        return word in _TRUE
    raise Problem('bool_parsing', 'Input should be a valid boolean, unable to interpret input', value)


def _convert_number(value: Any, kind: type[int] | type[float]) -> Any:
    given = value
    if isinstance(value, (bytes, bytearray)):
        value = bytes(value).decode('ascii', 'replace')
    elif isinstance(value, Decimal):
        value = int(value) if value.is_finite() and value == int(value) else float(value)
    if kind is int:
        if isinstance(value, str) and _WHOLE.fullmatch(value):
            return int(value.strip().partition('.')[0])
        if isinstance(value, float) and not value.is_integer():
            message = 'Input should be a valid integer, got a number with a fractional part'
            raise Problem('int_from_float', message, given)
        if isinstance(value, (int, float)):
            return int(value)
        raise Problem('int_parsing', 'Input should be a valid integer, unable to parse it', given)
    if isinstance(value, (int, float, str)):
        try:
            return float(value)
        except (ValueError, OverflowError):
            pass
    raise Problem('float_parsing', 'Input should be a valid number, unable to parse it', given)


def _convert_datetime(value: Any) -> datetime:
    if isinstance(value, datetime):
        return value
    try:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return datetime.fromtimestamp(value)
        if isinstance(value, str):
            return datetime.fromisoformat(value.replace('Z', '+00:00') if value.endswith('Z') else value)
    except (ValueError, OverflowError, OSError):
        pass
    raise Problem('datetime_parsing', 'Input should be a valid datetime', value)


def dumped(value: Any, *, mode: str = 'python', **options: Any) -> Any:
    """Return a value with models, at any depth, as dicts; with ``mode='json'`` as values that JSON has."""
    if isinstance(value, Model):
        return value.model_dump(mode=mode, **options)
    if isinstance(value, Mapping):
        # Dicts keep what is None in them: only fields are left out.
        return {_key(key, mode): dumped(each, mode=mode, **options) for key, each in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        made = [dumped(each, mode=mode, **options) for each in value]
        return made if mode == 'json' else type(value)(made)
    dump = getattr(type(value), 'model_dump', None)
    if callable(dump):
        return value.model_dump(mode=mode)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return {each.name: dumped(getattr(value, each.name), mode=mode, **options) for each in fields}
    if mode != 'json':
        return value
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, (bytes, bytearray)):
        return bytes(value).decode('utf-8', 'backslashreplace')
    if isinstance(value, timedelta):
        return value.total_seconds()
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def json_text(value: Any, *, indent: int | None = None, ensure_ascii: bool = False) -> str:
    """Return a dumped value as JSON text; what no number of JSON is (NaN, the infinities) is null."""
    separators = (',', ':') if indent is None else None
    try:
        return json.dumps(value, indent=indent, separators=separators, ensure_ascii=ensure_ascii, allow_nan=False)
    except ValueError:
        return json.dumps(_finite(value), indent=indent, separators=separators, ensure_ascii=ensure_ascii)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


_EACH = '__all__'


def _below(chosen: Any, name: Any) -> Any:
    """Return what a choice says of the inside of one field or item, or None where it says nothing."""
    if not isinstance(chosen, Mapping):
        return None
    found = chosen.get(name, chosen.get(_EACH))
    return None if found is None or found is ... or isinstance(found, bool) else found


def _is_whole(chosen: Any, name: Any) -> bool:
    """Return whether a choice names a field or item as a whole."""
    if isinstance(chosen, Mapping):
        return chosen.get(name, chosen.get(_EACH)) in (True, ...)
    return chosen is not None and (name in chosen or _EACH in chosen)


def narrowed(value: Any, include: Any, exclude: Any) -> Any:
    """Return of a value that was dumped what is chosen of it, at any depth.

    Args:
        include: Keys or positions, or a mapping of them to what is chosen of their values; None is all.
        exclude: What is left out, in the same form; None is nothing.
    """
    if include is None and exclude is None:
        return value
    if isinstance(value, dict):
        parts: list[tuple[Any, Any]] = list(value.items())
    elif isinstance(value, (list, tuple)):
        parts = list(enumerate(value))
    else:
        return value
    chosen = [
        (name, narrowed(each, _below(include, name), _below(exclude, name)))
        for name, each in parts
        if (include is None or name in include or _EACH in include) and not _is_whole(exclude, name)
    ]
    return dict(chosen) if isinstance(value, dict) else type(value)(each for _, each in chosen)


def _key(key: Any, mode: str) -> Any:
    if mode != 'json':
        return key
    return key.value if isinstance(key, Enum) else key if isinstance(key, str) else str(key)


# Schemas --------------------------------------------------------------------------------------------------------------

JSON_TYPES: dict[Any, str] = {
    str: 'string',
    bytes: 'string',
    int: 'integer',
    float: 'number',
    bool: 'boolean',
    list: 'array',
    dict: 'object',
    None: 'null',
    type(None): 'null',
}
"""What JSON has for plain types."""
_FORMATS = {datetime: 'date-time', date: 'date', time: 'time'}


def type_schema(kind: Any) -> dict[str, Any]:
    """Return what JSON of a type's values looks like; ``{}`` is anything."""
    origin, parts = get_origin(kind), get_args(kind)
    if kind is Any or kind is inspect.Parameter.empty:
        return {}
    if origin is typing.Annotated:
        return type_schema(parts[0])
    if origin in (Union, types.UnionType):
        return {'anyOf': [type_schema(each) for each in parts]}
    if origin is Literal:
        return {'enum': list(parts)}
    if origin in (list, set, frozenset, tuple, Sequence) or kind in (list, set, frozenset, tuple):
        items = [each for each in parts if each is not Ellipsis]
        return {'type': 'array', 'items': type_schema(items[0]) if items else {}}
    if origin in (dict, Mapping):
        return {'type': 'object', 'additionalProperties': type_schema(parts[1]) if len(parts) > 1 else True}
    if isinstance(kind, type) and issubclass(kind, Enum):
        return {'enum': [each.value for each in kind]}
    if kind in _FORMATS:
        return {'type': 'string', 'format': _FORMATS[kind]}
    if kind in JSON_TYPES:
        return {'type': JSON_TYPES[kind]}
    return class_schema(kind) if isinstance(kind, type) else {'type': 'object'}


def class_schema(cls: type[Any]) -> dict[str, Any]:
    """Return what JSON of a class's instances looks like, by its fields; an object of any shape where it has none."""
    if issubclass(cls, Model):
        return model_schema(cls)
    schema_of = getattr(cls, 'model_json_schema', None)
    if callable(schema_of):
        found: dict[str, Any] = schema_of()
        return found
    if dataclasses.is_dataclass(cls):
        hints = typing.get_type_hints(cls)
        missing = dataclasses.MISSING
        fields = [
            (each.name, hints[each.name], each.default is missing and each.default_factory is missing)
            for each in dataclasses.fields(cls)
        ]
    elif typing.is_typeddict(cls):
        required_keys: frozenset[str] = getattr(cls, '__required_keys__', frozenset())
        fields = [(name, kind, name in required_keys) for name, kind in typing.get_type_hints(cls).items()]
    else:
        return {'type': 'object'}
    return {
        'type': 'object',
        'properties': {name: type_schema(kind) for name, kind, _ in fields},
        'required': [name for name, _, is_required in fields if is_required],
        'additionalProperties': False,
    }


def model_schema(cls: type[Model]) -> dict[str, Any]:
    """Return what JSON of a model's instances looks like."""
    properties: dict[str, Any] = {}
    required: list[str] = []
    for name, info in fields_of(cls).items():
        holds_itself = 'JSONSchema' in str(info.annotation)
        made = {'type': 'object'} if holds_itself else type_schema(info.annotation)
        if info.description:
            made['description'] = info.description
        if info.is_required():
            required.append(name)
        else:
            made['default'] = dumped(info.get_default(), mode='json')
        properties[name] = made
    schema: dict[str, Any] = {'title': cls.__name__, 'type': 'object', 'properties': properties}
    if cls.__doc__:
        schema['description'] = inspect.cleandoc(cls.__doc__)
    if required:
        schema['required'] = required
    return schema


# Models ---------------------------------------------------------------------------------------------------------------


def _older(method: Callable[..., Any]) -> Callable[..., Any]:
    """Return a method under the name that the library's first version had for it."""

    @functools.wraps(method)
    def call(*args: Any, **options: Any) -> Any:
        warnings.warn(f'use {method.__name__}', DeprecationWarning, stacklevel=2)
        return method(*args, **options)

    return call


@dataclass_transform(kw_only_default=True, field_specifiers=(field,))
class Model:
    """Base of the documented values. Its fields are its annotations; see the module.

    Values are checked when an instance is made; assigning a field afterwards checks nothing, and a name that is no field is
    refused. Keys that no field has are dropped, with a warning where ``_warns`` is true; those in ``_further_names`` are
    kept beside the fields.
    """

    _warns: ClassVar[bool] = False

    model_fields: ClassVar[Any]
    model_config: ClassVar[Any] = {}
    model_computed_fields: ClassVar[Any] = {}

    if not TYPE_CHECKING:

        def __init__(self, /, **data: Any) -> None:
            problems, values, given = self._checked(data)
            if problems:
                raise _failure(type(self).__name__, problems)
            self.__dict__.update(values)
            self.__dict__['_given'] = given

    @classmethod
    def _further_names(cls) -> frozenset[str]:
        """Return names that are kept although no field has them."""
        return frozenset()

    @classmethod
    def _checked(cls, data: Mapping[str, Any]) -> tuple[list[Problem], dict[str, Any], set[str]]:
        fields = fields_of(cls)
        problems: list[Problem] = []
        values: dict[str, Any] = {}
        for name, info in fields.items():
            if name in data:
                try:
                    values[name] = convert(data[name], info.annotation)
                except Problem as problem:
                    problems.append(problem.below(name))
                    continue
                wrong = None if info.check is None else info.check(values[name])
                if wrong is not None:
                    problems.append(Problem('value_error', wrong, data[name], (name,)))
            elif info.is_required():
                problems.append(Problem('missing', 'Field required', dict(data), (name,)))
            else:
                values[name] = info.get_default()
        further = cls._further_names()
        values['_further'] = {name: plain(data[name]) for name in data if name in further and name not in fields}
        dropped = [name for name in data if name not in fields and name not in further]
        if dropped and cls._warns:
            cls._warn(dropped, [*fields, *further])
        return problems, values, {name for name in data if name in fields}

    @classmethod
    def _warn(cls, dropped: list[str], known: list[str]) -> None:
        near = {name: difflib.get_close_matches(str(name), known, n=1) for name in dropped}
        names = ', '.join(
            f'{name!r} (did you mean {close[0]!r}?)' if close else repr(name) for name, close in near.items()
        )
        logger.warning('%s has no option %s; it has no effect and is dropped', cls.__name__, names)

    @classmethod
    def _made(cls: type[M], data: Mapping[str, Any]) -> M:
        """Return an instance; what does not fit is a `Problem`."""
        problems, values, given = cls._checked(data)
        if problems:
            raise problems[0]
        made = cls.__new__(cls)
        made.__dict__.update(values, _given=given)
        return made

    # Reading and writing ----------------------------------------------------------------------------------------------

    def __setattr__(self, name: str, value: Any) -> None:
        cls = type(self)
        if name in fields_of(cls):
            self.__dict__[name] = value
            self.__dict__['_given'].add(name)
        elif name in cls._further_names():
            self.__dict__['_further'][name] = value
        elif name.startswith('_') or isinstance(getattr(cls, name, None), property):
            object.__setattr__(self, name, value)
        else:
            raise ValueError(f'"{cls.__name__}" object has no field "{name}"')

    def __getattr__(self, name: str) -> Any:
        further = self.__dict__.get('_further')
        if further and name in further:
            return further[name]
        raise AttributeError(f'{type(self).__name__!r} object has no attribute {name!r}')

    @property
    def model_fields_set(self) -> set[str]:
        """The names of the fields that were given."""
        return set(self.__dict__['_given'])

    @property
    def model_extra(self) -> dict[str, Any] | None:
        """None: keys that no field has are not kept."""
        return None

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        for name in fields_of(type(self)):
            if name in self.__dict__:  # a copy of some of the fields has no others
                yield name, self.__dict__[name]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Model):
            return NotImplemented
        return type(self) is type(other) and list(self) == list(other) and self._further_ == other._further_

    __hash__ = None  # type: ignore[assignment]

    @property
    def _further_(self) -> dict[str, Any]:
        found: dict[str, Any] = self.__dict__.get('_further', {})
        return found

    def __repr__(self) -> str:
        return f'{type(self).__name__}({", ".join(self._shown())})'

    def __str__(self) -> str:
        return ' '.join(self._shown())

    def _shown(self) -> Iterator[str]:
        """Return the fields as text, with secrets hidden."""
        for name, value in (*self, *self._further_.items()):
            if value and name in _SECRETS:
                value = dict.fromkeys(value, '***') if isinstance(value, Mapping) else '***'
            yield f'{name}={value!r}'

    # Making -----------------------------------------------------------------------------------------------------------

    @classmethod
    def model_validate(cls, obj: Any, *, from_attributes: bool | None = None, **_: Any) -> Self:
        """Return a mapping of fields, or an instance, as an instance.

        Args:
            from_attributes: Take any other object's attributes of the fields' names.

        Raises:
            ValidationError: A value does not fit; it is a `ValueError`.
        """
        if isinstance(obj, cls):
            return obj
        if from_attributes and not isinstance(obj, (Mapping, str, bytes)):
            obj = {name: getattr(obj, name) for name in fields_of(cls) if hasattr(obj, name)}
        if not isinstance(obj, Mapping):
            message = f'Input should be a valid dictionary or instance of {cls.__name__}'
            raise _failure(cls.__name__, [Problem('model_type', message, obj)])
        return cls(**{str(name): value for name, value in obj.items()})

    @classmethod
    def model_validate_json(cls, json_data: str | bytes, **_: Any) -> Self:
        """Return an instance made from JSON text.

        Raises:
            ValidationError: It is no JSON, or a value does not fit; it is a `ValueError`.
        """
        try:
            found = json.loads(json_data)
        except ValueError as error:
            raise _failure(cls.__name__, [Problem('json_invalid', f'Invalid JSON: {error}', json_data)]) from None
        return cls.model_validate(found)

    @classmethod
    def model_validate_strings(cls, obj: Any, **_: Any) -> Self:
        """Return a mapping whose values are texts as an instance.

        Raises:
            ValidationError: A value does not fit; it is a `ValueError`.
        """
        return cls.model_validate(obj)

    @classmethod
    def model_rebuild(cls, **_: Any) -> bool | None:
        """Do nothing: types are looked up when they are needed."""
        return None

    @classmethod
    def model_construct(cls, _fields_set: set[str] | None = None, **values: Any) -> Self:
        """Return an instance without checking anything."""
        made = cls.__new__(cls)
        fields = fields_of(cls)
        for name, info in fields.items():
            if name in values or not info.is_required():
                made.__dict__[name] = values[name] if name in values else info.get_default()
        made.__dict__.update(_further={}, _given=set(values) & set(fields) if _fields_set is None else set(_fields_set))
        return made

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy with some fields changed; their values are not checked."""
        cls = type(self)
        made = copy.deepcopy(self) if deep else copy.copy(self)
        known = {*fields_of(cls), *cls._further_names()}
        for name, value in (update or {}).items():
            if name in known:
                setattr(made, name, value)
        dropped = [name for name in update or {} if name not in known]
        if dropped and cls._warns:
            cls._warn(dropped, list(known))
        return made

    def __copy__(self) -> Self:
        cls = type(self)
        made = cls.__new__(cls)
        made.__dict__.update(self.__dict__, _given=set(self.__dict__['_given']), _further=dict(self._further_))
        return made

    # Dumping ----------------------------------------------------------------------------------------------------------

    def model_dump(
        self,
        *,
        mode: str = 'python',
        include: Iterable[Any] | None = None,
        exclude: Iterable[Any] | None = None,
        exclude_unset: bool = False,
        exclude_defaults: bool = False,
        exclude_none: bool = False,
        **_: Any,
    ) -> dict[str, Any]:
        """Return the fields as a dict, in the order of their declaration.

        Args:
            mode: ``'json'`` gives values that JSON has.
            include: Only these fields; a mapping says of each what of its value, as ``{'tools_config': {'shell_executor'}}``.
            exclude: Not these fields; a mapping says of each what of its value.
            exclude_unset: Only what was given.
            exclude_defaults: Not what has its default.
            exclude_none: Not what is None.
        """
        options = {
            'exclude_unset': exclude_unset,
            'exclude_defaults': exclude_defaults,
            'exclude_none': exclude_none,
        }
        wanted = None if include is None else set(include)
        unwanted = {name for name in exclude or () if _is_whole(exclude, name)}
        given = self.__dict__['_given']
        made = {}
        for name, info in fields_of(type(self)).items():
            if name not in self.__dict__ or (wanted is not None and name not in wanted) or name in unwanted:
                continue
            value = self.__dict__[name]
            if (exclude_unset and name not in given) or (exclude_none and value is None):
                continue
            if exclude_defaults and not info.is_required() and value == info.get_default():
                continue
            made[name] = narrowed(dumped(value, mode=mode, **options), _below(include, name), _below(exclude, name))
        for name, value in self._further_.items():
            if (wanted is None or name in wanted) and name not in unwanted and not (exclude_none and value is None):
                value = dumped(value, mode=mode, **options)
                made[name] = narrowed(value, _below(include, name), _below(exclude, name))
        return made

    def model_dump_json(self, *, indent: int | None = None, ensure_ascii: bool = False, **options: Any) -> str:
        """Return the fields as JSON text; see `model_dump`."""
        return json_text(self.model_dump(**{**options, 'mode': 'json'}), indent=indent, ensure_ascii=ensure_ascii)

    @classmethod
    def model_json_schema(cls, **_: Any) -> dict[str, Any]:
        """Return what JSON of an instance looks like, as a JSON schema."""
        return model_schema(cls)

    # Older names ------------------------------------------------------------------------------------------------------

    if not TYPE_CHECKING:
        # The library's second version has them still, each with a warning.
        dict = _older(model_dump)
        json = _older(model_dump_json)

        def copy(self, *, include=None, exclude=None, update=None, deep=False):
            """Return a copy, of some of the fields if asked."""
            warnings.warn('use model_copy', DeprecationWarning, stacklevel=2)
            made = self.model_copy(update=update, deep=deep)
            for name in fields_of(type(self)):
                is_left = include is not None and name not in include
                if (is_left or _is_whole(exclude, name)) and name not in (update or {}):
                    made.__dict__.pop(name, None)
                    made.__dict__['_given'].discard(name)
            return made

        @classmethod
        def schema_json(cls, **options):
            """Return `model_json_schema` as JSON text."""
            warnings.warn('use model_json_schema', DeprecationWarning, stacklevel=2)
            options = {name: value for name, value in options.items() if name not in ('by_alias', 'ref_template')}
            return json.dumps(cls.model_json_schema(), **options)

        @classmethod
        def update_forward_refs(cls, **_):
            """Do nothing: types are looked up when they are needed."""

        parse_obj = validate = classmethod(_older(model_validate.__func__))
        parse_raw = classmethod(_older(model_validate_json.__func__))
        construct = classmethod(_older(model_construct.__func__))
        schema = classmethod(_older(model_json_schema.__func__))

        @property
        def __fields_set__(self):
            return self.model_fields_set

    # In a program's own models ----------------------------------------------------------------------------------------

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: Any, _handler: Any) -> Any:
        from pydantic_core import core_schema

        return core_schema.no_info_plain_validator_function(
            cls.model_validate,
            serialization=core_schema.plain_serializer_function_ser_schema(_dumped_for, info_arg=True),
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, _schema: Any, _handler: Any) -> dict[str, Any]:
        return cls.model_json_schema()


def _dumped_for(value: Any, info: Any) -> dict[str, Any]:
    """Return a model as the library asks for it, where it is a value in a program's own models."""
    if not isinstance(value, Model):
        raise TypeError(f'{type(value).__name__} is no {Model.__name__}')
    return value.model_dump(
        mode=info.mode,
        include=info.include,
        exclude=info.exclude,
        exclude_unset=info.exclude_unset,
        exclude_defaults=info.exclude_defaults,
        exclude_none=info.exclude_none,
    )


class _Serializer:
    """What the library looks for on a value of no declared type, made when it first does."""

    def __init__(self) -> None:
        self._made: Any = None

    def __get__(self, instance: Model | None, owner: type[Model]) -> Any:
        library = sys.modules.get('pydantic_core')
        if library is None:
            raise AttributeError('__pydantic_serializer__')
        if self._made is None:
            self._made = library.SchemaSerializer(Model.__get_pydantic_core_schema__(None, None))
        return self._made


class _Fields:
    """The fields of a model by their names, looked up when they are asked for: classes may refer to later ones."""

    def __get__(self, instance: Model | None, owner: type[Model]) -> dict[str, FieldInfo]:
        return dict(fields_of(owner))


Model.model_fields = _Fields()
if not TYPE_CHECKING:
    Model.__fields__ = _Fields()
    Model.__pydantic_serializer__ = _Serializer()
