from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import Enum
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, Optional

import attrs
import pytest
from attrs import define, field, frozen

from enclave import wire
from enclave.errors import InvalidArgumentError
from enclave.records import CommandResult, HealthCheckResult, PathInfo, SandboxInfo, ToolResult
from enclave.sandboxes.docker.docker_config import DockerSandboxConfig
from enclave.tools.schema import ToolParams, argument, json_schema, signature_text


class Colour(str, Enum):
    RED = 'red'
    BLUE = 'blue'


@define
class Point:
    """A place.

    Not shown.
    """

    x: int
    y: int = 0


@define
class Node:
    name: str
    children: list[Node] = field(factory=list)


@define
class Pair:
    left: Point
    right: Point | None = None


@pytest.mark.parametrize(
    ('kind', 'schema'),
    [
        (str, {'type': 'string'}),
        (int, {'type': 'integer'}),
        (float, {'type': 'number'}),
        (bool, {'type': 'boolean'}),
        (None, {'type': 'null'}),
        (Any, {}),
        (bytes, {'type': 'string', 'contentEncoding': 'base64'}),
        (datetime, {'type': 'string', 'format': 'date-time'}),
        (PurePosixPath, {'type': 'string'}),
        (Optional[int], {'anyOf': [{'type': 'integer'}, {'type': 'null'}]}),  # noqa: UP045
        (str | list[str], {'anyOf': [{'type': 'string'}, {'type': 'array', 'items': {'type': 'string'}}]}),
        (Literal['a', 'b'], {'type': 'string', 'enum': ['a', 'b']}),
        (Literal['a', 1], {'enum': ['a', 1]}),
        (Colour, {'type': 'string', 'enum': ['red', 'blue']}),
        (list, {'type': 'array'}),
        (list[Any], {'type': 'array'}),
        (Sequence[int], {'type': 'array', 'items': {'type': 'integer'}}),
        (tuple[int, ...], {'type': 'array', 'items': {'type': 'integer'}}),
        (
            tuple[str, int],
            {'type': 'array', 'prefixItems': [{'type': 'string'}, {'type': 'integer'}], 'minItems': 2, 'maxItems': 2},
        ),
        (set[str], {'type': 'array', 'items': {'type': 'string'}, 'uniqueItems': True}),
        (dict, {'type': 'object'}),
        (dict[str, Any], {'type': 'object'}),
        (Mapping[str, int], {'type': 'object', 'additionalProperties': {'type': 'integer'}}),
        (Annotated[int, 'seconds'], {'type': 'integer'}),
    ],
)
def test_a_type_has_its_schema(kind: Any, schema: dict[str, Any]) -> None:
    assert json_schema(kind) == schema


def test_a_class_is_a_closed_object_with_defaults_and_requirements() -> None:
    assert json_schema(Point) == {
        'description': 'A place.',
        'type': 'object',
        'properties': {'x': {'type': 'integer'}, 'y': {'type': 'integer', 'default': 0}},
        'required': ['x'],
        'additionalProperties': False,
    }


def test_nested_classes_become_definitions_once() -> None:
    made = json_schema(Pair)

    assert made['properties']['left'] == {'$ref': '#/$defs/Point'}
    assert made['properties']['right']['anyOf'] == [{'$ref': '#/$defs/Point'}, {'type': 'null'}]
    assert list(made['$defs']) == ['Point']


def test_a_class_may_contain_itself() -> None:
    made = json_schema(Node)

    assert made['$ref'] == '#/$defs/Node'
    assert made['$defs']['Node']['properties']['children']['items'] == {'$ref': '#/$defs/Node'}


def test_definitions_can_be_collected_for_a_larger_document() -> None:
    definitions: dict[str, Any] = {}

    made = json_schema(Pair, definitions=definitions, ref_prefix='#/components/schemas/')
    json_schema(list[Point], definitions=definitions, ref_prefix='#/components/schemas/')

    assert made == {'$ref': '#/components/schemas/Pair'}
    assert sorted(definitions) == ['Pair', 'Point']
    assert definitions['Pair']['properties']['left'] == {'$ref': '#/components/schemas/Point'}


def test_two_classes_of_one_name_are_kept_apart() -> None:
    def other() -> type[Any]:
        Point = attrs.make_class('Point', {'z': attrs.field(type=str)})
        return Point

    both = attrs.make_class('Both', {'one': attrs.field(type=Point), 'two': attrs.field(type=other())})

    assert len(json_schema(both)['$defs']) == 2


def test_two_classes_of_one_name_in_one_document_are_refused() -> None:
    definitions: dict[str, Any] = {}
    json_schema(Point, definitions=definitions)

    with pytest.raises(InvalidArgumentError, match="'Point'"):
        json_schema(attrs.make_class('Point', {'z': attrs.field(type=str)}), definitions=definitions)


@pytest.mark.parametrize(
    'cls', [CommandResult, ToolResult, PathInfo, SandboxInfo, HealthCheckResult, DockerSandboxConfig]
)
def test_every_value_that_travels_has_a_schema(cls: type[Any]) -> None:
    made = json_schema(cls)

    assert set(made['properties']) == {each.name for each in attrs.fields(cls)}
    assert wire.from_json(wire.to_json(made)) == made


def test_defaults_that_are_made_anew_are_not_shown() -> None:
    @define
    class Thing:
        at: datetime = field(factory=datetime.now)
        tags: list[str] = field(factory=list)
        colour: Colour = Colour.RED

    properties = json_schema(Thing)['properties']

    assert 'default' not in properties['at']
    assert properties['tags']['default'] == []
    assert properties['colour']['default'] == 'red'


def test_a_type_without_json_form_is_named_with_its_field() -> None:
    @define
    class Thing:
        call: complex

    with pytest.raises(InvalidArgumentError, match=r'Thing\.call.*complex'):
        json_schema(Thing)


def test_an_annotation_that_cannot_be_looked_up_is_named() -> None:
    class Hidden(Enum):
        A = 'a'

    @define
    class Thing:
        hidden: Hidden

    with pytest.raises(InvalidArgumentError, match=r'Thing.*Hidden.*top level'):
        json_schema(Thing)


@frozen(kw_only=True)
class Described:
    count: int | None = argument(default=None, description='How many.', minimum=1, maximum=9)
    unit: str = argument(default='m', choices=('m', 's'))
    words: tuple[str, ...] = argument(factory=tuple)
    must: str = argument()


def test_argument_shows_its_bounds_and_description() -> None:
    properties = json_schema(Described)['properties']

    assert properties['count']['description'] == 'How many.'
    assert (properties['count']['minimum'], properties['count']['maximum']) == (1, 9)
    assert properties['unit'] == {'type': 'string', 'enum': ['m', 's'], 'default': 'm'}
    assert json_schema(Described)['required'] == ['must']


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'count': 0}, 'count must be at least 1, not 0'),
        ({'count': 10}, 'count must be at most 9, not 10'),
        ({'unit': 'h'}, "unit must be one of 'm', 's', not 'h'"),
    ],
)
def test_argument_keeps_its_bounds(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        Described(must='x', **options)


def test_argument_bounds_leave_none_alone_where_it_is_the_default() -> None:
    assert Described(must='x').count is None


def test_argument_refuses_nan() -> None:
    cls = attrs.make_class('Waits', {'seconds': argument(minimum=0)})

    with pytest.raises(InvalidArgumentError, match='seconds'):
        cls(float('nan'))


def test_signature_text_is_one_readable_line() -> None:
    assert signature_text(json_schema(Described)) == (
        "count (integer or null), unit ('m', 's'), words (array of string), must (string, required)"
    )
    assert signature_text(json_schema(attrs.make_class('Empty', []))) == 'no arguments'


@pytest.mark.parametrize(
    ('parameters', 'problem'),
    [
        ({}, 'code is required and missing'),
        ({'code': 1}, 'code must be of type string, not 1'),
        ({'code': '', 'level': True}, 'level must be of type integer or of type null, not True'),
        ({'code': '', 'mode': 'x'}, "mode must be one of 'a', 'b', not 'x'"),
        ({'code': '', 'mod': 'a'}, "unknown key 'mod' (did you mean 'mode'?)"),
        ({'code': '', 'zzzzzz': 1}, "unknown key 'zzzzzz' (known: code, level, mode, free)"),
    ],
)
def test_a_hand_written_schema_finds_what_is_wrong(parameters: dict[str, Any], problem: str) -> None:
    params = ToolParams(
        properties={
            'code': {'type': 'string'},
            'level': {'type': ['integer', 'null']},
            'mode': {'enum': ['a', 'b']},
            'free': {},
        },
        required=['code'],
    )

    assert params.problems(parameters) == [problem]


def test_a_hand_written_schema_accepts_what_fits() -> None:
    params = ToolParams(properties={'a': {'type': 'array'}, 'o': {'type': 'object'}, 'n': {'type': 'number'}})

    assert params.problems({'a': [1], 'o': {}, 'n': 1}) == []
    assert params.model_dump() == {'type': 'object', 'properties': params.properties, 'required': []}
