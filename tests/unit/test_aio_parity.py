"""The faces have what the blocking classes have: names, signatures, words, and a coroutine function for every method."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from typing import Any

import pytest

import enclave
from enclave import aio
from enclave.aio.lifting import Face, Shown
from enclave.aio.sandboxes import Connection, PortForward, Process
from ms_enclave.sandbox import boxes
from ms_enclave.sandbox import manager as documented

FACES: list[type[Face]] = [
    aio.Sandbox,
    aio.AgentBackedSandbox,
    aio.DockerSandbox,
    aio.NotebookSandbox,
    aio.BubblewrapNotebookSandbox,
    aio.DockerNotebookSandbox,
    aio.SandboxManager,
    aio.LocalSandboxManager,
    aio.HttpSandboxManager,
    aio.RemoteSandbox,
    aio.RemoteNotebookSandbox,
    aio.BubblewrapSandbox,
    aio.NotebookDocument,
    Process,
    Connection,
    PortForward,
]
DOCUMENTED: list[type[Face]] = [
    boxes.Sandbox,
    boxes.DockerSandbox,
    boxes.DockerNotebookSandbox,
    documented.SandboxManager,
    documented.LocalSandboxManager,
    documented.HttpSandboxManager,
]
ITERATORS = {'chunks', 'read_chunks', 'read_archive', 'stream_cell'}
CONTEXTS = {'open', 'lease'}


def blocking_of(face: type[Face]) -> type[Any]:
    try:
        importlib.import_module(face._home[0])
    except ModuleNotFoundError:
        pytest.skip(f'{face._home[0]} is not there')
    return face._blocking_class()


def methods(cls: type[Any]) -> Iterator[tuple[str, Any]]:
    for name in dir(cls):
        value = inspect.getattr_static(cls, name)
        if not name.startswith('_') and inspect.isfunction(value):
            yield name, value


@pytest.mark.parametrize('face', FACES, ids=lambda face: face.__name__)
def test_a_face_has_every_public_name_of_its_class(face: type[Face]) -> None:
    blocking = blocking_of(face)

    public = {name for name in dir(blocking) if not name.startswith('_')}

    assert sorted(public - set(dir(face))) == []


@pytest.mark.parametrize('face', FACES, ids=lambda face: face.__name__)
def test_methods_have_the_same_parameters(face: type[Face]) -> None:
    for name, method in methods(blocking_of(face)):
        theirs = list(inspect.signature(method).parameters.values())
        ours = list(inspect.signature(getattr(face, name)).parameters.values())
        assert ours == theirs, name


@pytest.mark.parametrize('face', [*FACES, *DOCUMENTED], ids=lambda face: f'{face.__module__}.{face.__name__}')
def test_methods_have_the_words_of_the_blocking_class(face: type[Face]) -> None:
    for name, method in methods(blocking_of(face)):
        assert inspect.getdoc(method), name
        assert inspect.getdoc(getattr(face, name)) == inspect.getdoc(method), name


@pytest.mark.parametrize('face', FACES, ids=lambda face: face.__name__)
def test_methods_are_coroutine_functions(face: type[Face]) -> None:
    for name, _method in methods(blocking_of(face)):
        ours = getattr(face, name)
        if name in ITERATORS:
            assert inspect.isasyncgenfunction(ours), name
        elif name in CONTEXTS:
            assert not inspect.iscoroutinefunction(ours), name
        else:
            assert inspect.iscoroutinefunction(ours), name


@pytest.mark.parametrize('face', FACES, ids=lambda face: face.__name__)
def test_a_class_that_is_a_context_manager_is_an_asynchronous_one(face: type[Face]) -> None:
    blocking = blocking_of(face)

    assert hasattr(blocking, '__enter__') == hasattr(face, '__aenter__')
    assert hasattr(blocking, '__exit__') == hasattr(face, '__aexit__')


@pytest.mark.parametrize('face', FACES, ids=lambda face: face.__name__)
def test_attributes_are_shown_and_not_called(face: type[Face]) -> None:
    blocking = blocking_of(face)

    for name in dir(blocking):
        if not name.startswith('_') and isinstance(inspect.getattr_static(blocking, name), property):
            assert isinstance(inspect.getattr_static(face, name), (Shown, property)), name


@pytest.mark.parametrize('name', ['SandboxFactory', 'SandboxManagerFactory'])
def test_factories_are_plain_functions_with_the_same_parameters(name: str) -> None:
    from enclave.managers.registry import SandboxManagerFactory
    from enclave.sandboxes.registry import SandboxFactory

    blocking = {'SandboxFactory': SandboxFactory, 'SandboxManagerFactory': SandboxManagerFactory}[name]
    face = getattr(aio, name)
    public = [each for each in dir(blocking) if not each.startswith('_')]

    assert [each for each in dir(face) if not each.startswith('_')] == public
    for each in public:
        ours, theirs = getattr(face, each), getattr(blocking, each)
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
