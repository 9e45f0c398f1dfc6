"""How many lines of the documented programs are the library's and not their author's.

A line of plumbing is a statement, or the head of a block, that uses the library or something that it gave: it makes, prepares,
waits for, connects or hands on. The import is none, nor is a line whose only use of the library is to hand over what its author
wants done (`WORK`). In a notebook each kind of magic counts once, since a cell has to say where it runs.

The bounds are half of what the same programs took before there were shortcuts for them. That the programs run, and what they
print, is tested in tests/test_documents.py and tests/plugins.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / 'examples'
WORK = {'run_code', 'execute_command', 'execute_cell', 'write_file'}
BOUNDS = {
    'agent_loop.py': 12 / 2,
    'evaluate_folder.py': 6 / 2,
    'web_application.py': 15 / 2,
    'analysis_pictures.py': 5 / 2,
    'test_in_a_sandbox.py': 2 / 2,
    'long_session.py': 14 / 2,
    'jupyter.ipynb': 6 / 2,
}


def heads(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield statements without what is in their blocks, and without imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.With):
            yield ast.Tuple([each.context_expr for each in node.items], ast.Load())
        elif isinstance(node, (ast.If, ast.While)):
            yield node.test
        elif isinstance(node, ast.For):
            yield node.iter
        elif isinstance(node, (ast.Expr, ast.Assign, ast.AugAssign, ast.AnnAssign, ast.Return, ast.Assert)):
            yield node


def given_names(tree: ast.AST) -> set[str]:
    """Return the names of the library, and those that are bound to what it gave."""
    names = {'sandbox'}  # the fixture of tests
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.asname or alias.name for alias in node.names if alias.name.startswith('enclave')}
        elif isinstance(node, ast.ImportFrom) and (node.module or '').startswith('enclave'):
            names |= {alias.asname or alias.name for alias in node.names}
    names -= {'EnclaveError'}
    for node in ast.walk(tree):
        for item in node.items if isinstance(node, ast.With) else ():
            if isinstance(item.optional_vars, ast.Name) and uses(item.context_expr, names):
                names.add(item.optional_vars.id)
    return names


def uses(node: ast.AST, names: set[str]) -> bool:
    return any(isinstance(each, ast.Name) and each.id in names for each in ast.walk(node))


def is_work(node: ast.AST, names: set[str]) -> bool:
    """Return whether every call of the library in a statement hands over what the author wants done."""
    calls = [
        each.func.attr
        for each in ast.walk(node)
        if isinstance(each, ast.Call) and isinstance(each.func, ast.Attribute) and uses(each.func.value, names)
    ]
    reads_only = not calls and not isinstance(node, (ast.Assign, ast.Tuple))
    return reads_only or (bool(calls) and set(calls) <= WORK)


def plumbing(path: Path) -> int:
    if path.suffix == '.ipynb':
        cells = json.loads(path.read_text())['cells']
        lines = [line for cell in cells if cell['cell_type'] == 'code' for line in ''.join(cell['source']).splitlines()]
        return len({line.split()[0] for line in lines if line.startswith('%')})
    tree = ast.parse(path.read_text())
    names = given_names(tree)
    return sum(uses(node, names) and not is_work(node, names) for node in heads(tree))


@pytest.mark.parametrize('name', BOUNDS)
def test_a_program_needs_at_most_half_of_the_plumbing_that_it_took(name: str) -> None:
    assert plumbing(EXAMPLES / name) <= BOUNDS[name]


def test_plumbing_is_counted_as_the_module_says() -> None:
    counted = plumbing(EXAMPLES / 'long_session.py')

    assert counted == 6  # open_sandbox, start_process, wait_for_port, forward_port, and two reads through the last
