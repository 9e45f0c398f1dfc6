"""What a stranger sends is bounded before anything is made of it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from enclave import wire
from enclave.errors import InvalidArgumentError
from enclave.verb_requests import RunCommand


@pytest.mark.parametrize(
    ('value', 'is_much'),
    [
        ([[]] * 1000, True),
        ([{}] * 1000, True),
        (['a'] * 1000, True),
        ({str(number): number for number in range(1000)}, True),
        ({str(number): str(number) for number in range(1000)}, True),
        ({'code': 'print([1, 2, {3}])' * 1000}, False),
        ({'code': '"\\' * 1000 + ',' * 1000}, False),
        ({'code': '\\', 'stdin': ',' * 1000}, False),
        ([1, 2, 3], False),
    ],
)
def test_values_are_counted_without_what_is_in_strings(value: Any, is_much: bool) -> None:
    assert (wire.count_values(json.dumps(value).encode(), 100) > 100) is is_much


def test_many_short_strings_are_refused_before_they_are_looked_at() -> None:
    assert wire.count_values(b'["a",' + b'"b",' * 100_000 + b'""]', 100) > 100


def test_a_list_of_many_wrong_values_is_a_few_problems() -> None:
    with pytest.raises(InvalidArgumentError) as info:
        wire.decode({'command': [[]] * 10_000}, RunCommand)

    assert len(info.value.details['problems']) <= 20
    assert len(info.value.message) < 5000


def test_many_unknown_keys_are_a_few_problems() -> None:
    with pytest.raises(InvalidArgumentError) as info:
        wire.decode({'command': 'x', **{f'key-{number}': 1 for number in range(10_000)}}, RunCommand)

    assert len(info.value.message) < 5000


def test_of_a_large_value_a_message_shows_the_beginning() -> None:
    for value in ('x' * 10_000_000, ['x'] * 1_000_000, {str(n): n for n in range(100_000)}):
        with pytest.raises(InvalidArgumentError) as info:
            wire.decode({'command': 'x', 'timeout': value}, RunCommand)
        assert len(info.value.message) < 500


@pytest.mark.parametrize(
    ('text', 'least'),
    [
        ('\0' * 300_000, 13 * 300_000),
        ('\x1b' * 300_000, 13 * 300_000),
        ('x' * 300_000, 3 * 300_000),
        ('\U0001f600' * 300_000, 28 * 300_000),
        ('"' * 300_000, 5 * 300_000),
    ],
)
def test_a_value_weighs_what_it_takes_as_text_and_as_json(text: str, least: int) -> None:
    written = len(wire.to_json({'a': [text]}))
    weight = wire.weigh({'a': [text]}, 1000)

    assert least <= weight <= least + 10_000
    assert weight > 2 * written
    assert wire.weigh({'a': 'x'}, 1000) == 0
    assert wire.weigh([{}] * 20_000, 1_000_000) >= 1_000_000
