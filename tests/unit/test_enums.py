from __future__ import annotations

import json
from enum import Enum

import pytest

from enclave.enums import ExecutionStatus, SandboxManagerType, SandboxStatus, SandboxType


@pytest.mark.parametrize(
    ('cls', 'values'),
    [
        (SandboxType, {'docker', 'docker_notebook', 'bubblewrap', 'bubblewrap_notebook', 'dummy'}),
        (SandboxStatus, {'initializing', 'running', 'idle', 'busy', 'paused', 'stopping', 'stopped', 'error'}),
        (ExecutionStatus, {'success', 'error', 'timeout', 'cancelled'}),
        (SandboxManagerType, {'local', 'http', 'ray'}),
    ],
)
def test_the_words_are_the_documented_ones(cls: type[Enum], values: set[str]) -> None:
    assert {member.value for member in cls} == values


def test_a_member_is_its_text_everywhere() -> None:
    member = SandboxStatus.RUNNING

    assert member == 'running'
    assert str(member) == f'{member}' == 'running'
    assert f'{member:>10}' == '   running'
    assert '%s' % member == 'running'  # noqa: UP031
    assert json.dumps(member) == '"running"'
    assert {member: 1}['running'] == 1
