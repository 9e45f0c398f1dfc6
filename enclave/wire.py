"""The one strict converter between our values and plain JSON shapes (layer 1, below the values that use it).

Decoding is strict on purpose: ``"false"`` is not False, ``"1"`` is not 1, an unknown key is an error, and every message
names the field. Encoding gives JSON-compatible shapes: enums as their values, datetimes as ISO 8601 with offset, bytes as
base64 text, tuples as lists.

cattrs is used here and nowhere else; it is imported with this module, so modules that must load fast import this one
inside the functions that need it.
"""

from __future__ import annotations

import base64
import collections.abc
import itertools
import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from enum import Enum
from functools import lru_cache
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import attrs
import cattrs
from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn, override

from enclave.errors import InvalidArgumentError
from enclave.quoting import quoted
from enclave.suggest import did_you_mean

T = TypeVar('T')
Hook = Callable[[Any, Any], Any]

PARTS = 'application/vnd.enclave.parts'
"""The media type of `encoded_to_parts`."""
PARTS_LINES = 'application/vnd.enclave.lines-and-parts'
"""The media type of many values one after the other, each as `encoded_to_line` has written it."""
PART_CHARACTERS = 32 << 10
"""A text of this length or more is long."""
_MAX_PART_DEPTH = 100
_MAX_PROBLEMS = 20
"""How many wrong values of a list, and unknown keys of an object, a message names."""
_SCALARS: dict[type[Any], str] = {
    str: 'a string',
    int: 'a whole number',
    float: 'a number',
    bool: 'true or false',
}
_COLLECTIONS: dict[Any, type[Any]] = {
    list: list,
    tuple: tuple,
    set: set,
    frozenset: frozenset,
    collections.abc.Sequence: tuple,
    collections.abc.MutableSequence: list,
    collections.abc.Set: frozenset,
    collections.abc.MutableSet: set,
}
_STRING = frozenset({str})
_EXACT = frozenset({str, int, bool})
"""Types of which a value is itself."""
_MAPPINGS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)


def _short(value: Any) -> str:
    """Return a value for a message. Of a large one only the beginning is looked at: it may be a stranger's."""
    beginning = value
    if isinstance(value, (str, bytes, list, tuple)) and len(value) > 100:
        beginning = value[:100]
    elif isinstance(value, Mapping) and len(value) > 100:
        beginning = dict(itertools.islice(value.items(), 100))
    text = quoted(beginning)
    return text if len(text) <= 80 else f'{text[:60]}... ({type(value).__name__})'


def _origin(kind: Any) -> Any:
    return get_origin(kind) or kind


def _is_union(kind: Any) -> bool:
    return get_origin(kind) in (Union, UnionType)


def _words(kind: Any) -> str:
    """Return what a value of this type is called in a message."""
    origin = _origin(kind)
    if kind is None or kind is NoneType:
        return 'null'
    if kind in _SCALARS:
        return _SCALARS[kind]
    if origin in _COLLECTIONS:
        return 'a list'
    if origin in _MAPPINGS or attrs.has(origin):
        return 'an object with named fields'
    if origin is Literal or (isinstance(kind, type) and issubclass(kind, Enum)):
        options = get_args(kind) if origin is Literal else [member.value for member in kind]
        return 'one of ' + ', '.join(repr(option) for option in options)
    return {datetime: 'an ISO 8601 time', bytes: 'base64 text'}.get(kind, getattr(kind, '__name__', str(kind)))


# Decoding: one hook a kind --------------------------------------------------------------------------------------------


def _exactly(kind: type[Any]) -> Hook:
    def structure(value: Any, cls: Any) -> Any:
        # cattrs finds this hook for the str enums too, because they are subclasses of str.
        if isinstance(cls, type) and issubclass(cls, Enum):
            return _structure_enum(value, cls)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise TypeError(f'must be {_SCALARS[kind]}, not {_short(value)}')
        return value

    return structure


def _structure_float(value: Any, _: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f'must be a number, not {_short(value)}')
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise TypeError(f'must be a finite number, not {_short(value)}')
    return number


def _structure_enum(value: Any, cls: type[Enum]) -> Enum:
    try:
        return cls(value)
    except ValueError:
        raise TypeError(f'must be {_words(cls)}, not {_short(value)}') from None


def _structure_literal(value: Any, kind: Any) -> Any:
    for option in get_args(kind):
        if type(option) is type(value) and option == value:
            return option
    raise TypeError(f'must be {_words(kind)}, not {_short(value)}')


def _structure_datetime(value: Any, _: Any) -> datetime:
    moment = value
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value.replace('Z', '+00:00'))
        except ValueError:
            pass
    if not isinstance(moment, datetime):
        raise TypeError(f'must be an ISO 8601 time, not {_short(value)}')
    if moment.tzinfo is None:
        raise TypeError(f'must carry a UTC offset, not {_short(value)}')
    return moment


def _structure_bytes(value: Any, _: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        raise TypeError(f'must be base64 text, not {_short(value)}')
    try:
        return base64.b64decode(value, validate=True)
    except ValueError as error:  # binascii.Error, or a character that is not ASCII
        raise TypeError(f'must be base64 text: {error}') from None


def _structure_items(items: Iterable[tuple[Any, Any, Hook, Any]], cls: Any) -> list[Any]:
    """Return each ``hook(value, kind)`` of ``(key, value, hook, kind)``; all failures together, each with its key."""
    made: list[Any] = []
    failures: list[Exception] = []
    for key, value, hook, kind in items:
        try:
            made.append(hook(value, kind))
        except Exception as failure:
            note = cattrs.IterableValidationNote(f'Structuring {kind} @ {key!r}', key, kind)
            failure.__notes__ = [*getattr(failure, '__notes__', ()), note]  # type: ignore[attr-defined, unused-ignore]
            failures.append(failure)
            if len(failures) >= _MAX_PROBLEMS:
                break  # a list of a million wrong values is one mistake
    if failures:
        raise cattrs.IterableValidationError(f'While structuring {cls}', failures, cls)
    return made


def _collection_factory(cls: Any, made: cattrs.Converter) -> Hook:
    """Lists and tuples become any kind of list; a string, although one can iterate over it, never does."""
    arguments = get_args(cls)
    build = _COLLECTIONS[_origin(cls)]
    fixed = _origin(cls) is tuple and bool(arguments) and arguments[-1] is not Ellipsis
    kinds = arguments if fixed else (arguments or (Any,))[:1]
    hooks = [made.get_structure_hook(kind) for kind in kinds]

    def structure(value: Any, _: Any) -> Any:
        if not isinstance(value, (list, tuple, set, frozenset)):
            raise TypeError(f'must be a list, not {_short(value)}')
        if fixed and len(value) != len(kinds):
            raise TypeError(f'must be a list of {len(kinds)} values, not {_short(value)}')
        pairs = zip(hooks, kinds, strict=True) if fixed else ((hooks[0], kinds[0]) for _ in value)
        items = ((index, each, hook, kind) for index, (each, (hook, kind)) in enumerate(zip(value, pairs, strict=True)))
        return build(_structure_items(items, cls))

    return structure


def _mapping_factory(cls: Any, made: cattrs.Converter) -> Hook:
    key_kind, value_kind = get_args(cls) or (Any, Any)
    key_hook, value_hook = made.get_structure_hook(key_kind), made.get_structure_hook(value_kind)
    is_open = key_kind is str and value_kind is Any

    def structure(value: Any, _: Any) -> Any:
        if type(value) is not dict and not isinstance(value, Mapping):  # the first is quick
            raise TypeError(f'must be an object with named fields, not {_short(value)}')
        if is_open and set(map(type, value)) <= _STRING:
            return dict(value)  # metadata, mostly: nothing in it is checked
        keys = _structure_items(((key, key, key_hook, key_kind) for key in value), cls)
        values = _structure_items(((key, each, value_hook, value_kind) for key, each in value.items()), cls)
        return dict(zip(keys, values, strict=True))

    return structure


def _takes(kind: Any, value: Any) -> bool:
    """Return whether the shape of ``value`` is one that ``kind`` is made from, so that its own message is the useful one."""
    origin = _origin(kind)
    if isinstance(origin, type) and origin is not Any and not attrs.has(origin) and isinstance(value, origin):
        return not (isinstance(value, bool) and origin is not bool)
    if isinstance(value, (list, tuple, set, frozenset)):
        return origin in _COLLECTIONS or origin is Any
    if type(value) is dict or (type(value) not in _PLAIN and isinstance(value, Mapping)):
        return origin in _MAPPINGS or attrs.has(origin) or origin is Any
    return (
        origin not in _COLLECTIONS and origin not in _MAPPINGS and (not attrs.has(origin) or isinstance(value, origin))
    )


def _union_factory(cls: Any, made: cattrs.Converter) -> Hook:
    """The first member that takes the value wins, in the order they are written."""
    members = [kind for kind in get_args(cls) if kind is not NoneType]
    hooks = {kind: made.get_structure_hook(kind) for kind in members}
    optional = len(members) < len(get_args(cls))
    if len(members) == 1:  # its own message says which part is wrong
        only, hook = members[0], hooks[members[0]]
        if only in _EXACT:
            return lambda value, _: value if type(value) is only or (value is None and optional) else hook(value, only)
        return lambda value, _: None if value is None and optional else hook(value, only)

    def structure(value: Any, _: Any) -> Any:
        if value is None and optional:
            return None
        fitting = [kind for kind in members if _takes(kind, value)]
        if len(fitting) == 1 and isinstance(value, (list, tuple, set, frozenset, Mapping)):
            kind = fitting[0]
            return hooks[kind](value, kind)  # the same
        for kind in fitting:
            try:
                return hooks[kind](value, kind)
            except (TypeError, ValueError, cattrs.BaseValidationError):
                continue
        raise TypeError(f'must be {" or ".join(_words(kind) for kind in members)}, not {_short(value)}')

    return structure


def _omitted(cls: Any) -> dict[str, Any]:
    """Return what leaves out the ``local_fields`` of a class: they do not travel, and nobody elsewhere can set them."""
    return {name: override(omit=True) for name in getattr(_origin(cls), 'local_fields', ())}


def _attrs_factory(cls: Any, made: cattrs.Converter) -> Hook:
    structure = make_dict_structure_fn(cls, made, _cattrs_forbid_extra_keys=True, **_omitted(cls))
    origin = _origin(cls)

    def hook(value: Any, _: Any) -> Any:
        if isinstance(value, origin):
            return value
        if type(value) is not dict and not isinstance(value, Mapping):  # the first is quick
            raise TypeError(f'must be an object with named fields, not {_short(value)}')
        return structure(value, cls)

    return hook


def _sparse_factory(cls: Any, made: cattrs.Converter) -> Callable[[Any], dict[str, Any]]:
    """A class that says ``omits_defaults`` travels without the fields that have their default values."""
    unstructure: Callable[[Any], dict[str, Any]] = make_dict_unstructure_fn(
        cls, made, _cattrs_omit_if_default=True, **_omitted(cls)
    )
    return unstructure


_PLAIN = frozenset({str, int, float, bool, NoneType})


def _open_mapping_factory(cls: Any, made: cattrs.Converter) -> Callable[[Any], dict[str, Any]]:
    """Metadata, mostly: what is plain in it is itself."""

    def unstructure(value: Mapping[str, Any]) -> dict[str, Any]:
        if _STRING.issuperset(map(type, value)) and _PLAIN.issuperset(map(type, value.values())):
            return dict(value)
        return {
            name if type(name) is str else made.unstructure(name): each
            if type(each) in _PLAIN
            else made.unstructure(each)
            for name, each in value.items()
        }

    return unstructure


@lru_cache(maxsize=1)
def converter() -> cattrs.Converter:
    """Return the process's converter. Do not register hooks on it elsewhere."""
    made = cattrs.Converter(
        forbid_extra_keys=True,
        detailed_validation=True,
        unstruct_collection_overrides={tuple: list, collections.abc.Set: list},
    )
    made.register_structure_hook_factory(lambda cls: _origin(cls) in _COLLECTIONS)(_collection_factory)
    made.register_structure_hook_factory(lambda cls: _origin(cls) in _MAPPINGS)(_mapping_factory)
    made.register_structure_hook_factory(_is_union)(_union_factory)
    made.register_structure_hook_factory(attrs.has)(_attrs_factory)
    made.register_structure_hook_func(lambda cls: _origin(cls) is Literal, _structure_literal)
    made.register_structure_hook(Enum, _structure_enum)
    for kind in _EXACT:
        made.register_structure_hook(kind, _exactly(kind))
    made.register_structure_hook(float, _structure_float)
    made.register_structure_hook(bytes, _structure_bytes)
    made.register_structure_hook(datetime, _structure_datetime)
    made.register_unstructure_hook_factory(lambda cls: getattr(cls, 'omits_defaults', False))(_sparse_factory)
    made.register_unstructure_hook_factory(
        lambda cls: _origin(cls) in _MAPPINGS and get_args(cls) in ((), (str, Any)),
    )(_open_mapping_factory)
    made.register_unstructure_hook(bytes, lambda value: base64.b64encode(value).decode('ascii'))
    made.register_unstructure_hook(datetime, datetime.isoformat)
    made.register_unstructure_hook(Enum, lambda value: value.value)
    # Our enums are subclasses of str, whose hook is found for them first; this gives their value as a plain string.
    made.register_unstructure_hook(str, str.__str__)
    return made


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
    except (TypeError, ValueError, cattrs.BaseValidationError) as failure:
        problems = _problems(failure, '')
    name = what or getattr(cls, '__name__', str(cls))
    raise error(f'{name}: ' + '; '.join(problems), details={'problems': problems})


def _problems(failure: BaseException, path: str) -> list[str]:
    """Return a sentence for each leaf of a failure, with the field (``env['A']``, ``parts[2].name``) it is about."""
    if not isinstance(failure, (cattrs.ClassValidationError, cattrs.IterableValidationError)):
        return [_problem(failure, path)]
    problems: list[str] = []
    noted, plain = failure.group_exceptions()
    for each, note in noted:
        if isinstance(note, cattrs.IterableValidationNote):
            inner = f'{path}[{note.index!r}]'
        else:
            inner = f'{path}.{note.name}' if path else note.name
        problems += _problems(each, inner)
    absent = [note.name for each, note in noted if isinstance(each, KeyError) and hasattr(note, 'name')]
    for each in plain:
        if isinstance(each, cattrs.ForbiddenExtraKeysError):
            problems.append(_unknown_keys(each, path, absent))
        else:
            problems += _problems(each, path)
    return problems


def _problem(failure: BaseException, path: str) -> str:
    if isinstance(failure, KeyError) and path:
        return f'{path} is required and missing'
    if failure.args and isinstance(failure.args[0], str):
        text = failure.args[0]  # attrs' own validators add further arguments, which are not for people
    else:
        text = str(failure)
    if not path:
        return text
    return f'{path} {text}' if text.startswith('must ') else f'{path}: {text}'


def _unknown_keys(failure: cattrs.ForbiddenExtraKeysError, path: str, missing: list[str]) -> str:
    """Return what is wrong with keys that a class does not have; ``missing`` are those that it has and that were not given."""
    local = getattr(failure.cl, 'local_fields', ())
    known = [field.name for field in attrs.fields(failure.cl) if field.init and field.name not in local]
    extra = sorted(map(str, failure.extra_fields))[:_MAX_PROBLEMS]
    hints = (did_you_mean(name, known, missing=missing, is_only=len(extra) == 1) for name in extra)
    text = '; '.join(f'unknown key {name!r} ({hint})' for name, hint in zip(extra, hints, strict=True))
    return f'{path}: {text}' if path else text


def encode(value: Any) -> Any:
    """Return ``value`` as JSON-compatible shapes."""
    return converter().unstructure(value)


def to_json(value: Any, *, indent: int | None = None) -> str:
    """Return ``value`` as JSON text; lone surrogates and non-ASCII travel as escapes.

    Raises:
        InvalidArgumentError: Something in it has no JSON form (``nan`` and infinity have none).
    """
    try:
        return encoded_to_json(encode(value), indent=indent)
    except (TypeError, RecursionError) as failure:
        raise InvalidArgumentError(f'{_short(value)} cannot be written as JSON: {failure}') from None


def encoded_to_json(value: Any, *, indent: int | None = None) -> str:
    """Return what `encode` gave as JSON text; see `to_json`."""
    try:
        return json.dumps(value, indent=indent, allow_nan=False) if indent else _ENCODER.encode(value)
    except (TypeError, ValueError, RecursionError) as failure:
        raise InvalidArgumentError(f'{_short(value)} cannot be written as JSON: {failure}') from None


def weigh(value: Any, enough: int, *, in_parts: bool = False) -> int:
    """Return about how many bytes a JSON-compatible value takes in memory while it is written: its texts, which may have four
    bytes a character, and its JSON twice, in which a NUL is six characters. One that cannot reach ``enough`` is 0.
    """
    texts, count, todo = [], 0, [value]
    while todo:
        each = todo.pop()
        count += 1
        if isinstance(each, str):
            texts.append(each)
        elif isinstance(each, dict):
            texts += each
            todo += each.values()
        elif isinstance(each, (list, tuple)):
            todo += each
    most = sum(map(len, texts)) * (_WIDEST + 2 * _LONGEST_ESCAPE) + count * _VALUE_BYTES
    if most < enough:
        return 0
    if in_parts:  # each text once more and twice in UTF-8, which is no longer than twice what the text takes
        return count * _VALUE_BYTES + sum(sys.getsizeof(text) * (3 if text.isascii() else 5) for text in texts)
    return count * _VALUE_BYTES + sum(sys.getsizeof(text) + 2 * _json_length(text) for text in texts)


_WIDEST, _LONGEST_ESCAPE, _VALUE_BYTES, _SLICE = 4, 12, 100, 1 << 16


def _json_length(text: str) -> int:
    """Return how long a text is in JSON, without having it all in memory."""
    return sum(len(json.dumps(text[start : start + _SLICE])) - 2 for start in range(0, len(text), _SLICE))


class AsciiText:
    """A long text that is its own bytes: these are made piece by piece, when they are sent."""

    __slots__ = ('_text',)

    def __init__(self, text: str) -> None:
        self._text = text

    def __len__(self) -> int:
        return len(self._text)

    def __iter__(self) -> Iterator[bytes]:
        return (self.piece(start) for start in range(0, len(self._text), ASCII_PIECE))

    def piece(self, start: int) -> bytes:
        """Return the bytes from a place on, at most `ASCII_PIECE` of them."""
        return self._text[start : start + ASCII_PIECE].encode('ascii')


ASCII_PIECE = 256 << 10


def encoded_to_parts(value: Any) -> list[bytes | AsciiText]:
    """Return encoded shapes as JSON text; or, if they have long texts, as JSON text and then those, as they are.

    Such an answer is of the media type `PARTS`: a line of JSON, ``[the shapes, [[path of a text, its number of bytes], ...]]``,
    in which long texts are null, and then the texts in UTF-8 (lone surrogates as three bytes each). So a large output is copied
    and not escaped; and one of ASCII, as most are, is not even there a second time while it is sent.

    Raises:
        InvalidArgumentError: Something in it has no JSON form.
    """
    places: list[list[Any]] = []
    texts: list[bytes | AsciiText] = []
    shape = _without_long(value, (), places, texts)
    try:
        head = _ENCODER.encode([shape, places] if texts else shape).encode('ascii')
    except (TypeError, ValueError, RecursionError) as failure:
        raise InvalidArgumentError(f'{_short(value)} cannot be written as JSON: {failure}') from None
    return [head + b'\n', *texts] if texts else [head]


_NEVER_LONG = frozenset({int, float, bool, NoneType})


def _without_long(value: Any, path: tuple[Any, ...], places: list[list[Any]], texts: list[bytes | AsciiText]) -> Any:
    if isinstance(value, str):
        if len(value) < PART_CHARACTERS:
            return value
        text = AsciiText(value) if value.isascii() else value.encode('utf-8', 'surrogatepass')
        places.append([list(path), len(text)])
        texts.append(text)
        return None
    if isinstance(value, dict):
        return {
            name: each
            if type(each) in _NEVER_LONG or (type(each) is str and len(each) < PART_CHARACTERS)
            else _without_long(each, (*path, name), places, texts)
            for name, each in value.items()
        }
    if isinstance(value, (list, tuple)) and len(path) < _MAX_PART_DEPTH:
        return [_without_long(each, (*path, index), places, texts) for index, each in enumerate(value)]
    return value


def from_parts(data: bytes | bytearray, *, what: str = 'the parts') -> Any:
    """Return the shapes that `encoded_to_parts` has written.

    Raises:
        InvalidArgumentError: It has not written this.
    """
    end = data.find(b'\n')
    head = from_json(data[: max(end, 0)], what=what)
    rest, at = memoryview(data), end + 1
    try:
        shape, places = head
        for path, size in places:
            if not 0 <= size <= len(data) - at:
                raise ValueError('it ends too early')
            holder = shape
            for step in path[:-1]:
                holder = holder[step]
            text = str(rest[at : at + size], 'utf-8', 'surrogatepass')
            at += size
            if path:
                holder[path[-1]] = text
            else:
                shape = text
        if at != len(data):
            raise ValueError('it does not end where it should')
    except (TypeError, ValueError, LookupError) as failure:
        raise InvalidArgumentError(f'{what} is no JSON with texts behind it: {failure}') from None
    return shape


def encoded_to_line(value: dict[str, Any]) -> list[bytes | AsciiText]:
    """Return an encoded object as one of several: a line of JSON, or, if it has long texts, a line of JSON and then those.

    See `encoded_to_parts`; `from_line` reads both.
    """
    parts = encoded_to_parts(value)
    return parts if len(parts) > 1 else [*parts, b'\n']


def length_behind(line: bytes | bytearray, *, what: str = 'a line') -> int:
    """Return how many bytes of texts belong to a line of `encoded_to_line`, behind it.

    Raises:
        InvalidArgumentError: It is no such line.
    """
    if not line.startswith(b'['):
        return 0
    try:
        _, places = from_json(line, what=what)
        sizes = [size for _, size in places]
    except (TypeError, ValueError) as failure:
        raise InvalidArgumentError(f'{what} is no JSON with texts behind it: {failure}') from None
    if not all(type(size) is int and size >= 0 for size in sizes):
        raise InvalidArgumentError(f'{what} is no JSON with texts behind it: {_short(sizes)} are no sizes')
    return sum(sizes)


def from_line(data: bytes | bytearray, *, what: str = 'a line') -> Any:
    """Return the shapes of a line and what belongs to it, as `encoded_to_line` has written them.

    Raises:
        InvalidArgumentError: It has not written this.
    """
    return from_parts(data, what=what) if data.startswith(b'[') else from_json(data, what=what)


def from_json(text: str | bytes | bytearray, *, what: str = 'JSON') -> Any:
    """Return the parsed text.

    Raises:
        InvalidArgumentError: It is not JSON (``NaN`` and ``Infinity`` are not, nor are numbers too large for a float).
    """
    try:
        if not isinstance(text, str):
            text = text.decode(json.detect_encoding(text), 'surrogatepass')
        return _DECODER.decode(text)
    except (ValueError, RecursionError) as failure:
        raise InvalidArgumentError(f'{what} is not valid JSON: {failure}') from None


def count_values(text: bytes, limit: int) -> int:
    """Return about how many values JSON text holds, without making any of them; past ``limit``, some number above it.

    What looks like the beginning or end of a value in a string is not counted.
    """
    bound = _count_separators(text)
    if bound <= limit:
        return bound
    bare = text.replace(b'\\\\', b'').replace(b'\\"', b'')
    strings = bare.count(b'"') // 2
    if strings > 2 * limit:  # each is a value or the name of one
        return limit + 1
    return _count_separators(b''.join(bare.split(b'"')[::2]))


def _count_separators(text: bytes) -> int:
    return text.count(b',') + text.count(b'[') + text.count(b'{')


def _refuse_constant(name: str) -> Any:
    raise ValueError(f'{name} is not JSON')


def _parse_float(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f'{_short(text)} is too large a number')
    return number


# Kept, since `json.dumps` and `json.loads` make one for each call that has options.
_ENCODER = json.JSONEncoder(separators=(',', ':'), allow_nan=False)
_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_parse_float)
