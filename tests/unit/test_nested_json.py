"""JSON that somebody else wrote may be nested so deep that the parser gives up; that is an error of theirs."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from enclave.cli.options import parse_value
from enclave.errors import InvalidArgumentError
from enclave.tools.calls import parse_calls
from tests.support.imports import ROOT

DEEP = '[' * 100_000
OWN = {
    # What this program wrote itself, on this machine, for itself.
    'enclave/cli/hold.py',
    'enclave/cli/create.py',
    'enclave/sandboxes/images/catalog.py',
    'enclave/sandboxes/images/unpack.py',
    'enclave/sandboxes/bubblewrap/rootfs.py',
    'enclave/sandboxes/bubblewrap/plan.py',
    'enclave/sandboxes/bubblewrap/usr_links.py',
    'enclave/managers/keyfile.py',
    'enclave/server/adapters/e2b/processes.py',
    # Of 400 characters.
    'enclave/server/adapters/e2b/sandboxes.py',
    # The agent, which reads what its own side has written; and tests that are shipped.
    'enclave/agent',
    'enclave/testing',
}


def unguarded(tree: ast.AST) -> Iterator[int]:
    """Yield the lines of calls of ``json.loads`` that stand in no block which is ready for a RecursionError."""

    def visit(node: ast.AST, is_guarded: bool) -> Iterator[int]:
        if isinstance(node, ast.Call) and ast.unparse(node.func) == 'json.loads' and not is_guarded:
            yield node.lineno
        for child in ast.iter_child_nodes(node):
            guard = is_guarded
            if isinstance(node, ast.Try) and child in node.body:
                guard = guard or any('RecursionError' in ast.unparse(each.type or node) for each in node.handlers)
            if isinstance(node, ast.With) and child in node.body:
                guard = guard or any('RecursionError' in ast.unparse(each.context_expr) for each in node.items)
            yield from visit(child, guard)

    yield from visit(tree, False)


def test_whatever_parses_json_of_others_is_ready_for_it() -> None:
    found = [
        f'{path}:{line}'
        for path in (str(each.relative_to(ROOT)) for each in Path(ROOT, 'enclave').rglob('*.py'))
        if not any(path == own or path.startswith(f'{own}/') for own in OWN)
        for line in unguarded(ast.parse(Path(ROOT, path).read_text('utf-8')))
    ]

    assert found == []


def test_a_tool_call_that_is_nested_too_deep_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match='not valid JSON'):
        parse_calls(DEEP)
    call = {'id': '1', 'type': 'function', 'function': {'name': 'x', 'arguments': DEEP}}

    (parsed,) = parse_calls(call)

    assert 'not valid JSON' in str(parsed.problem)


def test_an_option_of_the_command_line_that_is_nested_too_deep_is_text() -> None:
    assert parse_value(DEEP) == DEEP
