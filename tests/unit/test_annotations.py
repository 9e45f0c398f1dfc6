"""Annotations of the public classes can be read at run time, as frameworks do that make a tool of a function."""

from __future__ import annotations

import inspect
import typing

import pytest

import enclave
from enclave.sandboxes.base import Sandbox


@pytest.mark.parametrize(
    'owner',
    [
        Sandbox,
        enclave.DockerSandbox,
        enclave.BubblewrapSandbox,
        enclave.LocalSandboxManager,
        enclave.HttpSandboxManager,
    ],
)
def test_annotations_of_every_method_name_what_is_there(owner: type) -> None:
    for name, method in inspect.getmembers(owner, inspect.isfunction):
        if not name.startswith('_'):
            typing.get_type_hints(method)
