"""The sandboxes of a caller, where nothing need be made."""

from __future__ import annotations

import pytest

from enclave.errors import UnsupportedError
from enclave.managers.local import LocalSandboxManager
from enclave.mcp.sandboxes import CallerSandboxes


def test_an_image_for_a_kind_that_has_none_is_refused_in_words_for_a_caller() -> None:
    with LocalSandboxManager() as manager:
        sandboxes = CallerSandboxes(manager=manager, kind='bubblewrap', options={})

        with pytest.raises(UnsupportedError, match='leave image out'):
            sandboxes.create(image='python:3.11-slim')
        assert manager.list_sandboxes() == []
