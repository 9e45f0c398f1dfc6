"""What the SDK's parser does not take over stdio is answered all the same."""

from __future__ import annotations

import json
from typing import Any

import pytest

from enclave.mcp.sdk import refuse_unreadable

pytest.importorskip('pydantic_core')


def request(text: str, **changes: Any) -> str:
    return json.dumps({'jsonrpc': '2.0', 'id': 7, 'method': 'tools/call', 'params': {'x': text}, **changes}) + '\n'


def test_a_request_with_a_lone_surrogate_is_answered_under_its_id() -> None:
    for number in (7, 'seven'):
        answer = json.loads(refuse_unreadable(request('\ud800', id=number)) or '{}')

        assert answer['id'] == number
        assert (answer['error']['code'], 'lone surrogate' in answer['error']['message']) == (-32700, True)


def test_a_request_that_is_nested_too_deep_is_answered() -> None:
    deep: Any = []
    for _ in range(500):
        deep = [deep]

    assert 'error' in (refuse_unreadable(request('', params=deep)) or '')


@pytest.mark.parametrize(
    'line',
    [
        request('plain'),
        request('\U0001f600'),  # a pair of surrogates in JSON
        request('\\ud800 in quotes'),
        request('[' * 1000),
        '{"no json \\ud800',
        '[' * 100_000,
        json.dumps({'jsonrpc': '2.0', 'method': 'notifications/x', 'params': {'x': '\ud800'}}),
        json.dumps({'jsonrpc': '2.0', 'id': None, 'method': 'x', 'params': {'x': '\ud800'}}),
    ],
)
def test_all_else_is_left_to_the_sdk(line: str) -> None:
    assert refuse_unreadable(line) is None
