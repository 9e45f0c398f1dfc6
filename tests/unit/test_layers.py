"""Imports go down the layers of docs/design.md or stay on one, and never in a circle, wherever in a file they stand."""

from __future__ import annotations

import ast
import importlib
import re

import pytest

from tests.support.imports import ROOT, cycles, imports, modules

KNOWN = {**modules('enclave'), **modules('ms_enclave')}
GRAPH = {name: imports(path, KNOWN) for name, path in KNOWN.items()}


def documented_layers() -> dict[str, int]:
    """Return the rooms and modules that the table in docs/design.md names, with the numbers of their layers."""
    found: dict[str, int] = {}
    for line in (ROOT / 'docs/design.md').read_text('utf-8').splitlines():
        row = re.match(r'\| (\d) [a-z]+ \| ([^|]+) \|', line)
        if row:
            for name in re.findall(r'`([\w./]+)`', row[2]):
                found[name.removesuffix('/').removesuffix('.py').replace('/', '.')] = int(row[1])
    return found


LAYERS = documented_layers()


def layer_of(module: str) -> int | None:
    """Return the layer of a module: of the room or file that the table names and that it is or is in."""
    inside = module.removeprefix('enclave.')
    while inside:
        if inside in LAYERS:
            return LAYERS[inside]
        inside = inside.rpartition('.')[0]
    return None


@pytest.mark.parametrize('module', sorted(set(KNOWN) - {'enclave'}))
def test_every_module_has_a_layer_and_imports_none_above_it(module: str) -> None:
    here = layer_of(module)
    assert here is not None, f'docs/design.md names no layer for {module}'

    above = {other: layer_of(other) for other in GRAPH[module] if other != 'enclave' and (layer_of(other) or 0) > here}

    assert above == {}


def test_no_module_imports_itself_through_others() -> None:
    assert cycles(GRAPH) == []


def test_no_two_classes_have_one_name() -> None:
    """An underscore makes no other name. Proxies have their blocking classes' names; what is inside a class has that one's."""
    homes: dict[str, list[str]] = {}
    for module, path in KNOWN.items():
        if module.startswith('enclave.') and not module.startswith('enclave.aio.'):
            for node in ast.parse(path.read_text('utf-8')).body:
                if isinstance(node, ast.ClassDef):
                    homes.setdefault(node.name.lstrip('_'), []).append(module)

    assert {name: modules for name, modules in homes.items() if len(modules) > 1} == {}


def test_former_paths_give_the_same_names_and_are_used_by_nobody_here() -> None:
    former = {
        name: path for name, path in KNOWN.items() if path.read_text('utf-8').startswith('"""The former path of ')
    }

    assert len(former) == 10
    for name in former:
        module = importlib.import_module(name)
        (actual,) = re.findall('The former path of `(.*?)`', module.__doc__ or '')
        assert all(getattr(module, each) is getattr(importlib.import_module(actual), each) for each in module.__all__)
        assert [each for each, imported in GRAPH.items() if name in imported] == []
