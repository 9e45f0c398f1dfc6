"""What SECURITY.md promises is held by tests that exist, and the policy's rules are those it and the server's page name."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import attrs

from enclave.managers.manager_config import SandboxManagerConfig
from enclave.server.policy import Policy

ROOT = Path(__file__).parents[2]


def test_every_test_that_a_promise_names_exists() -> None:
    named = re.findall(r'`(tests/[^`]+)`', (ROOT / 'SECURITY.md').read_text('utf-8'))

    assert named
    assert [each for each in named if not (ROOT / each).exists()] == []


def test_every_rule_is_described() -> None:
    rules = {each.name for each in attrs.fields(Policy)}
    text = inspect.cleandoc(Policy.__doc__ or '')

    assert {rule for rule in rules if f'\n    {rule}: ' not in text} == set()
    page = (ROOT / 'docs' / 'server.md').read_text('utf-8')
    options = {each.name for each in attrs.fields(SandboxManagerConfig)}
    assert set(re.findall(r'`(max_[a-z_]+)`', page)) <= rules | options
