"""The proxies have what the blocking classes have: names, signatures, docstrings, and a coroutine function for every method."""

from __future__ import annotations

import ast
import importlib
import inspect
import textwrap
from collections.abc import Iterator
from typing import Any

import pytest

import enclave
from enclave import aio
from enclave.aio.proxies import AsyncProxy, Forwarded
from enclave.aio.sandboxes import Connection, PortForward, Process

PROXIES: list[type[AsyncProxy]] = [
    aio.Sandbox,
    aio.AgentBackedSandbox,
    aio.DockerSandbox,
    aio.NotebookSandbox,
    aio.BubblewrapNotebookSandbox,
    aio.DockerNotebookSandbox,
    aio.SandboxManager,
    aio.LocalSandboxManager,
    aio.HttpSandboxManager,
    aio.RaySandboxManager,
    aio.RemoteSandbox,
    aio.RemoteNotebookSandbox,
    aio.BubblewrapSandbox,
    aio.NotebookDocument,
    Process,
    Connection,
    PortForward,
]
ITERATORS = {'chunks', 'read_chunks', 'read_archive', 'stream_cell', 'run_many', 'map'}
CONTEXTS = {'open', 'lease'}


def blocking_of(proxy: type[AsyncProxy]) -> type[Any]:
    try:
        importlib.import_module(proxy._home[0])
    except ModuleNotFoundError:
        pytest.skip(f'{proxy._home[0]} is not there')
    return proxy._blocking_class()


def methods(cls: type[Any]) -> Iterator[tuple[str, Any]]:
    for name in dir(cls):
        value = inspect.getattr_static(cls, name)
        if not name.startswith('_') and inspect.isfunction(value):
            yield name, value


@pytest.mark.parametrize('proxy', PROXIES, ids=lambda proxy: proxy.__name__)
def test_a_proxy_has_every_public_name_of_its_class(proxy: type[AsyncProxy]) -> None:
    blocking = blocking_of(proxy)

    public = {name for name in dir(blocking) if not name.startswith('_')}

    assert sorted(public - set(dir(proxy))) == []


@pytest.mark.parametrize('proxy', PROXIES, ids=lambda proxy: proxy.__name__)
def test_methods_have_the_same_parameters(proxy: type[AsyncProxy]) -> None:
    for name, method in methods(blocking_of(proxy)):
        theirs = list(inspect.signature(method).parameters.values())
        ours = list(inspect.signature(getattr(proxy, name)).parameters.values())
        assert ours == theirs, name


@pytest.mark.parametrize('proxy', PROXIES, ids=lambda proxy: f'{proxy.__module__}.{proxy.__name__}')
def test_methods_have_the_words_of_the_blocking_class(proxy: type[AsyncProxy]) -> None:
    for name, method in methods(blocking_of(proxy)):
        assert inspect.getdoc(method), name
        assert inspect.getdoc(getattr(proxy, name)) == inspect.getdoc(method), name


@pytest.mark.parametrize('proxy', PROXIES, ids=lambda proxy: proxy.__name__)
def test_methods_are_coroutine_functions(proxy: type[AsyncProxy]) -> None:
    for name, _method in methods(blocking_of(proxy)):
        ours = getattr(proxy, name)
        if name in ITERATORS:
            assert inspect.isasyncgenfunction(ours), name
        elif name in CONTEXTS:
            assert not inspect.iscoroutinefunction(ours), name
        else:
            assert inspect.iscoroutinefunction(ours), name


@pytest.mark.parametrize('proxy', PROXIES, ids=lambda proxy: proxy.__name__)
def test_a_class_that_is_a_context_manager_is_an_asynchronous_one(proxy: type[AsyncProxy]) -> None:
    blocking = blocking_of(proxy)

    assert hasattr(blocking, '__enter__') == hasattr(proxy, '__aenter__')
    assert hasattr(blocking, '__exit__') == hasattr(proxy, '__aexit__')


@pytest.mark.parametrize('proxy', PROXIES, ids=lambda proxy: proxy.__name__)
def test_attributes_are_shown_and_not_called(proxy: type[AsyncProxy]) -> None:
    blocking = blocking_of(proxy)

    for name in dir(blocking):
        if not name.startswith('_') and isinstance(inspect.getattr_static(blocking, name), property):
            assert isinstance(inspect.getattr_static(proxy, name), (Forwarded, property)), name


@pytest.mark.parametrize('name', ['SandboxFactory', 'SandboxManagerFactory'])
def test_factories_are_plain_functions_with_the_same_parameters(name: str) -> None:
    from enclave.managers.manager_factory import SandboxManagerFactory
    from enclave.sandboxes.sandbox_factory import SandboxFactory

    blocking = {'SandboxFactory': SandboxFactory, 'SandboxManagerFactory': SandboxManagerFactory}[name]
    proxy = getattr(aio, name)
    public = [each for each in dir(blocking) if not each.startswith('_')]

    assert [each for each in dir(proxy) if not each.startswith('_')] == public
    for each in public:
        ours, theirs = getattr(proxy, each), getattr(blocking, each)
        assert not inspect.iscoroutinefunction(ours)
        assert list(inspect.signature(ours).parameters) == list(inspect.signature(theirs).parameters), each
        if each.startswith('register_'):
            assert inspect.getdoc(ours), each  # they take more than the blocking ones do, and say so
        else:
            assert inspect.getdoc(ours) == inspect.getdoc(theirs), each


def test_the_module_has_the_names_of_the_blocking_one() -> None:
    # The server is a program of its own, and a tool is handed what it works in.
    blocking = {name for name in enclave.__all__ if getattr(enclave, name).__class__ is str}
    blocking |= {
        name for name in enclave.__all__ if 'enclave.server' in getattr(getattr(enclave, name), '__module__', '')
    }

    missing = set(enclave.__all__) - blocking - {'Workspace'} - set(dir(aio))

    assert sorted(missing) == []


@pytest.mark.parametrize('proxy', PROXIES, ids=lambda proxy: proxy.__name__)
def test_what_a_type_checker_sees_of_a_method_with_several_signatures_has_every_option(proxy: type[AsyncProxy]) -> None:
    """They are written out for checkers alone, so nothing else would miss an option in them."""
    blocking = blocking_of(proxy)
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(proxy))).body
    seen = [
        (
            written.name,
            {each.arg for each in [*written.args.args, *written.args.kwonlyargs, written.args.kwarg] if each},
        )
        for condition in ast.walk(tree)
        if isinstance(condition, ast.If) and ast.unparse(condition.test) == 'TYPE_CHECKING'
        for written in condition.body
        if isinstance(written, (ast.FunctionDef, ast.AsyncFunctionDef))
    ]

    for name, options in seen:
        assert options == set(inspect.signature(getattr(blocking, name)).parameters), name
