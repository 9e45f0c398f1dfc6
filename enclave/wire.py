"""The one strict converter between our values and plain JSON shapes (floor 1, below the values that use it).

Decoding is strict on purpose: ``"false"`` is not False, ``"1"`` is not 1, an unknown key is an error, and every message
names the field. Encoding gives JSON-compatible shapes: enums as their values, datetimes as ISO 8601 with offset, bytes as
base64 text, tuples as lists.

cattrs has its door here and nowhere else; it is imported with this module, so modules that must load fast import this one
inside the functions that need it.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Callable
from datetime import datetime
from enum import Enum
from functools import lru_cache
from typing import Any, TypeVar

import attrs
import cattrs
from cattrs.gen import make_dict_structure_fn
from cattrs.strategies import configure_union_passthrough

from enclave.errors import InvalidArgumentError

T = TypeVar('T')


def _exactly(kind: type[Any], *also: type[Any]) -> Callable[[Any, Any], Any]:
    def structure(value: Any, _: Any) -> Any:
        if isinstance(value, bool) and kind is not bool:
            raise TypeError(f'must be {_NAMES[kind]}, not {value!r}')
        if isinstance(value, kind):
            return value
        if also and isinstance(value, also):
            return kind(value)
        raise TypeError(f'must be {_NAMES[kind]}, not {_short(value)}')

    return structure


_NAMES: dict[type[Any], str] = {
    str: 'a string',
    int: 'a whole number',
    float: 'a number',
    bool: 'true or false',
}


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f'{text[:60]}... ({type(value).__name__})'


def _structure_float(value: Any, _: Any) -> float:
    number = _exactly(float, int)(value, float)
    if not math.isfinite(number):
        raise TypeError(f'must be a finite number, not {value!r}')
    return float(number)


def _structure_enum(value: Any, cls: type[Enum]) -> Enum:
    try:
        return cls(value)
    except ValueError:
        words = ', '.join(repr(str(member.value)) for member in cls)
        raise TypeError(f'must be one of {words}, not {_short(value)}') from None


def _structure_datetime(value: Any, _: Any) -> datetime:
    if isinstance(value, datetime):
        return value
    if not isinstance(value, str):
        raise TypeError(f'must be an ISO 8601 time, not {_short(value)}')
    moment = datetime.fromisoformat(value.replace('Z', '+00:00'))
    if moment.tzinfo is None:
        raise TypeError(f'must carry a UTC offset, not {value!r}')
    return moment


def _structure_bytes(value: Any, _: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        raise TypeError(f'must be base64 text, not {_short(value)}')
    try:
        return base64.b64decode(value, validate=True)
    except binascii.Error as error:
        raise TypeError(f'must be base64 text: {error}') from None


@lru_cache(maxsize=1)
def converter() -> cattrs.Converter:
    """Return the process's converter. Do not register hooks on it elsewhere."""
    made = cattrs.Converter(forbid_extra_keys=True, detailed_validation=True)
    made.register_structure_hook(str, _exactly(str))
    made.register_structure_hook(int, _exactly(int))
    made.register_structure_hook(bool, _exactly(bool))
    made.register_structure_hook(float, _structure_float)
    made.register_structure_hook(bytes, _structure_bytes)
    made.register_unstructure_hook(bytes, lambda value: base64.b64encode(value).decode('ascii'))
    made.register_structure_hook(datetime, _structure_datetime)
    made.register_unstructure_hook(datetime, lambda value: value.isoformat())
    made.register_structure_hook_func(lambda cls: isinstance(cls, type) and issubclass(cls, Enum), _structure_enum)
    made.register_unstructure_hook_func(
        lambda cls: isinstance(cls, type) and issubclass(cls, Enum), lambda value: value.value
    )
    configure_union_passthrough(str | bool | int | float | None, made)
    made.register_structure_hook_factory(
        attrs.has, lambda cls: _instance_or(cls, make_dict_structure_fn(cls, made, _cattrs_forbid_extra_keys=True))
    )
    return made


def _instance_or(cls: type[Any], structure: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def hook(value: Any, _: Any) -> Any:
        if isinstance(value, cls):
            return value
        if not isinstance(value, dict):
            raise TypeError(f'must be an object with named fields, not {_short(value)}')
        return structure(value, cls)

    return hook


def decode(value: Any, cls: type[T], *, error: type[InvalidArgumentError] = InvalidArgumentError, what: str = '') -> T:
    """Return ``value`` (JSON shapes) as an instance of ``cls``.

    Args:
        value: Usually a dict of field names to values; an instance of ``cls`` is returned as it is.
        cls: An attrs class, or any type cattrs can structure.
        error: The exception class to raise.
        what: What is being decoded, for the message; default is the class's name.

    Raises:
        InvalidArgumentError: (or ``error``) Every problem found, each with its field; ``details['problems']`` lists them.
    """
    try:
        return converter().structure(value, cls)
    except cattrs.BaseValidationError as failure:
        problems = cattrs.transform_error(failure, format_exception=_format)
        problems = [problem.replace(' @ $.', ' at ').replace(' @ $', '') for problem in problems]
    except (TypeError, ValueError) as failure:
        problems = [str(failure)]
    name = what or getattr(cls, '__name__', str(cls))
    raise error(f'{name}: ' + '; '.join(problems), details={'problems': problems})


def _format(failure: BaseException, kind: type[Any] | None) -> str:
    if isinstance(failure, cattrs.ForbiddenExtraKeysError):
        names = ', '.join(sorted(repr(name) for name in failure.extra_fields))
        known = ', '.join(sorted(field.name for field in attrs.fields(failure.cl)))
        return f'unknown key {names} (known: {known})'
    if isinstance(failure, KeyError):
        return f'required key {failure.args[0]!r} is missing'
    return str(failure)


def encode(value: Any) -> Any:
    """Return ``value`` as JSON-compatible shapes."""
    return converter().unstructure(value)


def to_json(value: Any, *, indent: int | None = None) -> str:
    """Return ``value`` as JSON text; lone surrogates and non-ASCII travel as escapes."""
    return json.dumps(encode(value), indent=indent, separators=None if indent else (',', ':'))


def from_json(text: str | bytes, *, what: str = 'JSON') -> Any:
    """Return the parsed text.

    Raises:
        InvalidArgumentError: It is not JSON (``NaN`` and ``Infinity`` are not).
    """
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as failure:
        raise InvalidArgumentError(f'{what} is not valid JSON: {failure}') from None


def _refuse_constant(name: str) -> Any:
    raise ValueError(f'{name} is not JSON')
