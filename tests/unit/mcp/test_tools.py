from __future__ import annotations

import base64
from typing import Any

import pytest

from enclave.errors import EnclaveError, InvalidArgumentError, ToolArgumentsError, ToolNotFoundError
from enclave.mcp import tools
from enclave.mcp.tools import TOOLS, call


class FakeSandbox:
    """Files in a dict."""

    id = 'box'
    status = 'running'

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}

    def write_file(self, path: str, data: bytes) -> int:
        self.files[path] = data
        return len(data)

    def read_file(self, path: str, *, offset: int = 0, max_bytes: int | None = None) -> bytes:
        end = None if max_bytes is None else offset + max_bytes
        return self.files[path][offset:end]


class FakeSandboxes:
    """One sandbox for every caller."""

    def __init__(self) -> None:
        self.sandbox = FakeSandbox()

    def find(self, sandbox_id: str | None) -> FakeSandbox:
        return self.sandbox


@pytest.fixture
def sandboxes() -> Any:
    return FakeSandboxes()


def test_every_tool_has_a_description_and_describes_its_arguments() -> None:
    for tool in TOOLS.values():
        assert len(tool.description) > 30
        assert tool.schema['type'] == 'object'
        assert tool.schema['additionalProperties'] is False
        assert all('description' in each for each in tool.schema['properties'].values())


def test_a_binary_file_is_no_text_but_can_be_downloaded(sandboxes: Any) -> None:
    data = b'\x89PNG\r\n' + bytes(range(256))
    call(sandboxes, 'upload_file', {'path': 'a', 'content': base64.b64encode(data).decode()})

    with pytest.raises(InvalidArgumentError, match='download_file'):
        call(sandboxes, 'read_file', {'path': 'a'})
    answer = call(sandboxes, 'download_file', {'path': 'a'})

    assert answer.resources[0][2] == data
    assert answer.images[0][0] == 'image/png'


def test_a_long_text_comes_in_parts_that_split_no_character(sandboxes: Any) -> None:
    text = 'ä' * 300_000
    call(sandboxes, 'write_file', {'path': 'a', 'content': text})

    first = call(sandboxes, 'read_file', {'path': 'a'}).data
    second = call(sandboxes, 'read_file', {'path': 'a', 'offset': first['next_offset']}).data
    third = call(sandboxes, 'read_file', {'path': 'a', 'offset': second['next_offset']}).data

    assert first['content'] + second['content'] + third['content'] == text
    assert third['next_offset'] is None


def test_a_large_file_is_downloaded_in_parts(sandboxes: Any) -> None:
    data = bytes(1000) * 1000
    sandboxes.sandbox.files['a'] = data

    first = call(sandboxes, 'download_file', {'path': 'a'})
    rest = call(sandboxes, 'download_file', {'path': 'a', 'offset': first.data['next_offset']})

    assert first.resources[0][2] + rest.resources[0][2] == data


@pytest.mark.parametrize(
    ('name', 'arguments', 'error', 'text'),
    [
        ('run_perl', {}, ToolNotFoundError, 'run_python'),
        ('run_python', {}, ToolArgumentsError, 'code is required'),
        ('run_python', {'code': 'x', 'timeout': 'soon'}, ToolArgumentsError, 'timeout'),
        ('run_python', {'code': 'x', 'timeout': -1}, ToolArgumentsError, 'timeout'),
        ('run_python', {'code': '  '}, InvalidArgumentError, 'code is empty'),
        ('upload_file', {'path': 'a', 'content': 'not base64!'}, InvalidArgumentError, 'write_file'),
        ('write_file', {'path': 'a', 'content': '\ud800'}, InvalidArgumentError, 'UTF-8'),
    ],
)
def test_a_wrong_call_says_what_is_wrong(
    sandboxes: Any, name: str, arguments: dict[str, Any], error: type[EnclaveError], text: str
) -> None:
    with pytest.raises(error, match=text):
        call(sandboxes, name, arguments)


def test_an_upload_is_bounded(sandboxes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools, 'UPLOAD_BYTES', 10)

    with pytest.raises(InvalidArgumentError, match='one upload may have 10'):
        call(sandboxes, 'upload_file', {'path': 'a', 'content': base64.b64encode(bytes(11)).decode()})
