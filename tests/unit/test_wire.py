from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta, timezone
from enum import Enum
from typing import Any, Literal

import attrs
import pytest
from attrs import define, field, frozen
from hypothesis import given
from hypothesis import strategies as st

from enclave import wire
from enclave.enums import ExecutionStatus, SandboxStatus, SandboxType
from enclave.errors import ConfigurationError, InvalidArgumentError
from enclave.records import CommandResult, HealthCheckResult, PathInfo, SandboxInfo, ToolResult
from enclave.sandboxes.docker.docker_config import DockerSandboxConfig


class Level(Enum):
    LOW = 1
    HIGH = 2


@define
class Part:
    size: int = field(validator=attrs.validators.gt(0))
    kind: str = field(default='a', validator=attrs.validators.in_(['a', 'b']))


@frozen(kw_only=True)
class Whole:
    part: Part
    parts: list[Part] = field(factory=list)
    maybe: Part | None = None
    words: dict[str, str] = field(factory=dict)


# Strictness

REFUSED: list[tuple[Any, Any, str]] = [
    (bool, 'false', "must be true or false, not 'false'"),
    (bool, 1, 'must be true or false, not 1'),
    (int, '1', "must be a whole number, not '1'"),
    (int, 1.0, r'must be a whole number, not 1\.0'),
    (int, True, 'must be a whole number, not True'),
    (float, '1', "must be a number, not '1'"),
    (float, True, 'must be a number, not True'),
    (float, float('nan'), 'must be a finite number'),
    (float, 10**400, 'must be a finite number'),
    (str, 1, 'must be a string, not 1'),
    (str, b'a', 'must be a string'),
    (str, None, 'must be a string, not None'),
    (bytes, '*', 'must be base64 text'),
    (bytes, 'é', 'must be base64 text'),
    (bytes, 1, 'must be base64 text, not 1'),
    (datetime, 'soon', "must be an ISO 8601 time, not 'soon'"),
    (datetime, 5, 'must be an ISO 8601 time, not 5'),
    (datetime, '2024-01-01T00:00:00', 'must carry a UTC offset'),
    (SandboxStatus, 'asleep', "must be one of 'initializing', .*, not 'asleep'"),
    (SandboxStatus | None, 'asleep', "not 'asleep'"),
    (Level, '1', "must be one of 1, 2, not '1'"),
    (Literal['a', 'b'], 'c', "must be one of 'a', 'b', not 'c'"),
    (Literal['a', 'b'], [], 'must be one of'),
    (Literal[1], True, 'must be one of 1, not True'),
    (list[str], 'abc', "must be a list, not 'abc'"),
    (list, 'abc', 'must be a list'),
    (list[str], {'a': 1}, 'must be a list'),
    (list[str], None, 'must be a list, not None'),
    (list[int], [1, '2'], r"\[1\] must be a whole number, not '2'"),
    (tuple[str, ...], 'abc', 'must be a list'),
    (tuple[str, int], ['a'], 'must be a list of 2 values'),
    (tuple[str, int], ['a', 'b'], r'\[1\] must be a whole number'),
    (Sequence[str], 'abc', 'must be a list'),
    (set[int], 'abc', 'must be a list'),
    (dict[str, str], [], 'must be an object with named fields, not'),
    (dict[str, str], 'a', 'must be an object with named fields'),
    (dict[str, str], {'a': 1}, r"\['a'\] must be a string, not 1"),
    (dict[str, str], {1: 'a'}, r'\[1\] must be a string, not 1'),
    (Mapping[str, list[int]], {'a': [1, None]}, r"\['a'\]\[1\] must be a whole number"),
    (str | list[str], 5, 'must be a string or a list, not 5'),
    (str | list[str], ['a', 5], r'\[1\] must be a string, not 5'),
    (str | list[str], {'a': 1}, 'must be a string or a list, not'),
    (float | None, 'x', "must be a number, not 'x'"),
    (int | str, 1.5, r'must be a whole number or a string, not 1\.5'),
    (bool | str, 1, 'must be true or false or a string, not 1'),
]


@pytest.mark.parametrize(('kind', 'value', 'message'), REFUSED)
def test_nothing_is_taken_for_what_it_is_not(kind: Any, value: Any, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        wire.decode(value, kind)


@pytest.mark.parametrize(
    ('kind', 'value', 'made'),
    [
        (float, 1, 1.0),
        (float | None, 1, 1.0),
        (float | None, None, None),
        (bytes, 'aGk=', b'hi'),
        (datetime, '2024-01-01T00:00:00Z', datetime(2024, 1, 1, tzinfo=timezone.utc)),
        (SandboxStatus, 'running', SandboxStatus.RUNNING),
        (SandboxStatus, SandboxStatus.RUNNING, SandboxStatus.RUNNING),
        (SandboxStatus | None, 'running', SandboxStatus.RUNNING),
        (SandboxType | str, 'docker', SandboxType.DOCKER),
        (SandboxType | str, 'mine', 'mine'),
        (Level, 2, Level.HIGH),
        (str | list[str], 'ab', 'ab'),
        (str | list[str], ['ab'], ['ab']),
        (str | list[str] | None, None, None),
        (list[str], ('a',), ['a']),
        (tuple[str, ...], ['a'], ('a',)),
        (tuple[str, int | None], ['a', None], ('a', None)),
        (Sequence[str], ['a'], ('a',)),
        (set[int], [1, 1], {1}),
        (frozenset[int], [1], frozenset({1})),
        (dict[str, Any], {'a': [1]}, {'a': [1]}),
        (int | float, 1, 1),
        (bool | int, True, True),
        (dict[str, int] | list[int], [1], [1]),
    ],
)
def test_json_shapes_become_values(kind: Any, value: Any, made: Any) -> None:
    decoded = wire.decode(value, kind)

    assert decoded == made
    assert type(decoded) is type(made)


# Classes


def test_every_problem_is_reported_with_its_field() -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        wire.decode(
            {
                'part': {'size': 'x', 'sise': 1},
                'parts': [{'size': 1}, {'size': 0}, {}],
                'maybe': 5,
                'words': {'a': 1},
                'extra': 1,
            },
            Whole,
        )

    assert caught.value.details['problems'] == [
        "part.size must be a whole number, not 'x'",
        "part: unknown key 'sise' (did you mean 'size'?)",
        "parts[1]: 'size' must be > 0: 0",
        'parts[2].size is required and missing',
        'maybe must be an object with named fields, not 5',
        "words['a'] must be a string, not 1",
        "unknown key 'extra' (known: part, parts, maybe, words)",
    ]
    assert caught.value.message.startswith('Whole: part.size must be')


def test_a_validators_further_arguments_are_not_shown() -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        wire.decode({'size': 1, 'kind': 'c'}, Part)

    assert caught.value.message == "Part: 'kind' must be in ['a', 'b'] (got 'c')"


def test_the_error_class_and_name_can_be_chosen() -> None:
    with pytest.raises(ConfigurationError, match=r'^the part: size is required'):
        wire.decode({}, Part, error=ConfigurationError, what='the part')


def test_an_instance_is_returned_as_it_is() -> None:
    part = Part(1)

    assert wire.decode(part, Part) is part
    assert wire.decode({'part': part}, Whole).part is part


def test_a_long_value_is_shortened_in_messages() -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        wire.decode('x' * 10_000, int)

    assert len(caught.value.message) < 200


# Encoding


def test_values_become_json_shapes() -> None:
    @define
    class Everything:
        pair: tuple[str, int] = ('a', 1)
        names: tuple[str, ...] = ('b',)
        some: set[int] = field(factory=lambda: {1})
        raw: bytes = b'hi'
        at: datetime = datetime(2024, 1, 1, tzinfo=timezone.utc)
        status: SandboxStatus = SandboxStatus.IDLE
        level: Level = Level.LOW
        anything: Any = field(factory=lambda: {'t': (1, b'x', SandboxType.DOCKER)})

    encoded = wire.encode(Everything())

    assert encoded == {
        'pair': ['a', 1],
        'names': ['b'],
        'some': [1],
        'raw': 'aGk=',
        'at': '2024-01-01T00:00:00+00:00',
        'status': 'idle',
        'level': 1,
        'anything': {'t': [1, 'eA==', 'docker']},
    }
    assert type(encoded['status']) is str
    assert json.loads(json.dumps(encoded)) == encoded


@pytest.mark.parametrize('value', [float('nan'), float('inf'), object(), {'a': [object()]}, {(1, 2): 3}])
def test_what_has_no_json_form_is_refused(value: Any) -> None:
    with pytest.raises(InvalidArgumentError, match='cannot be written as JSON'):
        wire.to_json(value)


def test_a_value_that_contains_itself_is_refused() -> None:
    value: list[Any] = []
    value.append(value)

    with pytest.raises(InvalidArgumentError, match='cannot be written as JSON'):
        wire.to_json(value)


@pytest.mark.parametrize(
    'text', ['', '{', 'NaN', '[Infinity]', '-Infinity', '1e999', '[' * 100_000, b'\xff', "{'a': 1}"]
)
def test_what_is_not_json_is_refused(text: str | bytes) -> None:
    with pytest.raises(InvalidArgumentError, match='the body is not valid JSON'):
        wire.from_json(text, what='the body')


def test_lone_surrogates_travel() -> None:
    text = wire.to_json({'a': '\ud800é'})

    assert text.isascii()
    assert wire.from_json(text) == {'a': '\ud800é'}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
moments = st.datetimes(
    min_value=datetime(1970, 1, 1),
    timezones=st.sampled_from([timezone.utc, timezone(timedelta(hours=5, minutes=30)), timezone(-timedelta(hours=8))]),
)
sizes = st.integers(min_value=0, max_value=2**63)
seconds = st.floats(min_value=0, max_value=1e9)
texts = st.text(st.characters())  # lone surrogates too: they come from file names

command_results = st.builds(
    CommandResult,
    command=texts | st.lists(texts),
    status=st.sampled_from(ExecutionStatus),
    exit_code=st.integers(0, 255),
    signal=st.none() | st.sampled_from(['SIGKILL', 'SIGSEGV']),
    stdout=texts,
    stderr=texts,
    stdout_bytes=sizes,
    stderr_bytes=sizes,
    stdout_truncated=st.booleans(),
    stderr_truncated=st.booleans(),
    timed_out=st.booleans(),
    oom_killed=st.booleans(),
    execution_time=seconds,
)
tool_results = st.builds(
    ToolResult,
    tool_name=texts,
    status=st.sampled_from(ExecutionStatus),
    output=json_values,
    error=st.none() | texts,
    exit_code=st.none() | st.integers(),
    execution_time=st.none() | seconds,
    timestamp=moments,
    metadata=st.dictionaries(texts, json_values, max_size=3),
)
path_infos = st.builds(
    PathInfo,
    path=texts,
    kind=st.sampled_from(['file', 'directory', 'symlink', 'other']),
    size=sizes,
    mode=st.integers(0, 0o7777),
    modified_at=st.none() | moments,
    uid=sizes,
    gid=sizes,
    target=st.none() | texts,
)
sandbox_infos = st.builds(
    SandboxInfo,
    id=texts,
    type=st.sampled_from(SandboxType) | texts,
    status=st.sampled_from(SandboxStatus),
    config=st.dictionaries(texts, json_values, max_size=3),
    created_at=moments,
    started_at=st.none() | moments,
    available_tools=st.lists(texts, max_size=3),
    active_calls=sizes,
    error=st.none() | texts,
    metadata=st.dictionaries(texts, json_values, max_size=3),
)
health_checks = st.builds(
    HealthCheckResult,
    healthy=st.booleans(),
    version=texts,
    timestamp=moments,
    details=st.dictionaries(texts, json_values, max_size=3),
)
configs = st.builds(
    DockerSandboxConfig,
    tools_config=st.dictionaries(st.text(min_size=1), st.dictionaries(st.text(), json_values, max_size=2), max_size=2),
    timeout=st.none() | seconds,
    env_vars=st.dictionaries(
        st.from_regex('[A-Z_]{1,8}', fullmatch=True),
        st.text(st.characters(exclude_characters='\0', exclude_categories=['Cs'])),
    ),
    memory_limit=st.none() | st.sampled_from(['512m', '1.5GiB', 10**9]),
    cpu_limit=st.floats(min_value=0.01, max_value=64),
    pids_limit=st.none() | st.integers(16, 4096),
    command=st.none() | st.just('sleep 1') | st.just(['sleep', '']),
    ports=st.dictionaries(
        st.from_regex('[1-9][0-9]{0,3}/(tcp|udp)', fullmatch=True),
        st.none() | st.integers(0, 65535) | st.tuples(st.just('0.0.0.0'), st.integers(0, 65535)),
        max_size=3,
    ),
    ulimits=st.dictionaries(st.sampled_from(['nofile', 'nproc']), st.integers(-1, 2**40) | st.just((1, 2))),
    tmpfs=st.lists(st.sampled_from(['/a', '/b'])),
    user=st.none() | st.integers(0, 10**6) | st.just('me:us'),
    volumes=st.sampled_from([{}, {'/host': '/a'}, {'/host': '/a', 'C:\\host': {'bind': '/b', 'mode': 'ro'}}]),
    shm_size=st.none() | st.just('64m'),
)


@given(st.one_of(command_results, tool_results, path_infos, sandbox_infos, health_checks, configs))
def test_every_value_comes_back_from_the_wire_as_it_left(value: Any) -> None:
    assert type(value).model_validate_json(value.model_dump_json()) == value


@given(st.one_of(command_results, tool_results, path_infos, sandbox_infos, health_checks, configs))
def test_every_value_comes_back_from_its_dump(value: Any) -> None:
    dumped = value.model_dump(mode='json')

    assert json.loads(json.dumps(dumped)) == dumped
    assert type(value).model_validate(dumped) == value
    assert type(value).model_validate(value.model_dump()) == value


@given(json_values)
def test_anything_may_arrive_and_only_our_error_leaves(value: Any) -> None:
    for cls in (CommandResult, ToolResult, PathInfo, SandboxInfo, DockerSandboxConfig):
        with pytest.raises(InvalidArgumentError):
            cls.model_validate([value])  # never a record


def made_or_refused(cls: Any, fields: dict[str, Any], name: str) -> Any:
    """Return the value, or None if it was refused with a message that names the field."""
    try:
        return cls.model_validate(fields)
    except InvalidArgumentError as error:
        if name not in error.message:
            raise AssertionError(f'{error.message!r} does not name {name}') from error
        return None


@given(st.sampled_from([attribute.name for attribute in attrs.fields(CommandResult)]), json_values)
def test_any_value_in_any_field_is_a_record_or_our_error(name: str, value: Any) -> None:
    record = {'command': 'x', 'status': 'success', name: value}

    made = made_or_refused(CommandResult, record, name)

    assert made is None or CommandResult.model_validate(made.model_dump()) == made


@given(st.sampled_from([attribute.name for attribute in attrs.fields(DockerSandboxConfig)]), json_values)
def test_any_value_of_any_option_is_a_config_or_our_error(name: str, value: Any) -> None:
    made = made_or_refused(DockerSandboxConfig, {name: value}, name)

    assert made is None or DockerSandboxConfig.model_validate(made.model_dump(mode='json')) == made


# Long texts


@pytest.mark.parametrize('text', ['x', 'ä€😀', '\ud800 lone', '"\n\0'])
@pytest.mark.parametrize('place', [lambda text: text, lambda text: {'a': [1, {'b': text}], 'c': text, 'd': 'short'}])
def test_long_texts_travel_behind_the_json(text: str, place: Any) -> None:
    value = place(text * wire.PART_CHARACTERS)
    pieces = wire.encoded_to_parts(value)

    assert len(pieces) > 1
    assert len(pieces[0]) < 200
    whole = b''.join(b''.join(each) if isinstance(each, wire.AsciiText) else each for each in pieces)
    assert len(whole) == sum(map(len, pieces))
    assert wire.from_parts(whole) == wire.from_parts(bytearray(whole)) == value


@pytest.mark.parametrize('length', [0, 1, wire.ASCII_PIECE, wire.ASCII_PIECE + 1, 3 * wire.ASCII_PIECE])
def test_a_text_of_ascii_is_made_bytes_piece_by_piece(length: int) -> None:
    text = ('0123456789' * (length // 10 + 1))[:length]
    pieces = list(wire.AsciiText(text))

    assert b''.join(pieces) == text.encode()
    assert len(wire.AsciiText(text)) == length
    assert all(len(each) <= wire.ASCII_PIECE for each in pieces)


def test_what_has_no_long_text_is_plain_json() -> None:
    assert wire.encoded_to_parts({'a': ['ä', None]}) == [b'{"a":["\\u00e4",null]}']


@pytest.mark.parametrize(
    'data',
    [
        b'',
        b'\n',
        b'[1]\n',
        b'[null,[[[],3]]]\nab',
        b'[null,[[[],1]]]\nab',
        b'[{},[[["a","b"],0]]]\n',
        b'[[],[[[3],0]]]\n',
        b'[null,1]\n',
        b'[null,[[[],1]]]\n\xff',
        b'[null,[[[],-1]]]\n',
        b'[null,[[1,0]]]\n',
    ],
)
def test_parts_that_are_none_are_refused(data: bytes) -> None:
    with pytest.raises(InvalidArgumentError, match='the parts'):
        wire.from_parts(data)


def test_what_long_texts_take_as_parts_is_weighed_without_writing_them() -> None:
    text = 'x' * (1 << 20)

    assert 3 << 20 <= wire.weigh({'a': text}, 1, in_parts=True) < 4 << 20


@pytest.mark.parametrize('value', [10**5000, {'a': [10**5000]}], ids=['number', 'nested'])
def test_a_number_of_thousands_of_digits_cannot_be_written(value: Any) -> None:
    with pytest.raises(InvalidArgumentError, match='cannot be written as JSON'):
        wire.to_json(value)
