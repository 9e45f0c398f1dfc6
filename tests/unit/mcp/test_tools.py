from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from enclave.cells import CellError, CellResult
from enclave.errors import EnclaveError, InvalidArgumentError, ToolArgumentsError, ToolNotFoundError
from enclave.mcp import tools
from enclave.mcp.sdk import as_json
from enclave.mcp.tools import TOOLS, call
from enclave.records import CommandResult, PathInfo


class FakeSandbox:
    """Files in a dict."""

    id = 'box'
    status = 'running'
    result: CommandResult
    cell: CellResult

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}

    def write_file(self, path: str, data: bytes) -> int:
        self.files[path] = data
        return len(data)

    def read_file(self, path: str, *, offset: int = 0, max_bytes: int | None = None) -> bytes:
        end = None if max_bytes is None else offset + max_bytes
        return self.files[path][offset:end]

    def list_dir(self, path: str, *, recursive: bool, max_entries: int) -> list[PathInfo]:
        return [PathInfo(path=name, kind='file', size=0, mode=0o644) for name in self.files][:max_entries]

    def execute_command(self, command: str, timeout: float, **options: Any) -> CommandResult:
        return self.result

    def execute_cell(self, code: str, **options: Any) -> CellResult:
        return self.cell


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


@pytest.mark.parametrize('most', [1, 2, 3, 5, 7])
def test_no_character_is_lost_between_two_parts(sandboxes: Any, most: int) -> None:
    text = 'aä€😀' * 5
    call(sandboxes, 'write_file', {'path': 'a', 'content': text})

    parts, offset = [], 0
    while offset is not None:
        data = call(sandboxes, 'read_file', {'path': 'a', 'offset': offset, 'max_bytes': most}).data
        parts.append(data['content'])
        offset = data['next_offset']

    assert ''.join(parts) == text


def test_what_begins_within_a_character_is_read_from_the_next_one(sandboxes: Any) -> None:
    call(sandboxes, 'write_file', {'path': 'a', 'content': '😀b'})

    assert call(sandboxes, 'read_file', {'path': 'a', 'offset': 1}).data['content'] == 'b'


def test_a_file_that_ends_within_a_character_is_no_text(sandboxes: Any) -> None:
    sandboxes.sandbox.files['a'] = b'ab\xc3'

    with pytest.raises(InvalidArgumentError, match='download_file'):
        call(sandboxes, 'read_file', {'path': 'a'})


@pytest.mark.parametrize('character', ['\0', '"', '\t', '\x7f', '😀', '€'])
def test_no_answer_is_larger_than_a_client_over_http_takes(sandboxes: Any, character: str) -> None:
    text = character * 262_144
    call(sandboxes, 'write_file', {'path': 'a', 'content': text})
    sandboxes.sandbox.files.update({f'{number:05}{character * 200}': b'' for number in range(1200)})
    written = {'status': 'success', 'exit_code': 0, 'stdout': character * 65_536, 'stderr': character * 65_536}
    sandboxes.sandbox.result = CommandResult(command='x', **written)
    picture = {'output_type': 'display_data', 'data': {'image/png': 'A' * 870_000}}
    error = CellError(name='E' * 99, value=character * 300_000, traceback=character * 300_000)
    sandboxes.sandbox.cell = CellResult(status='error', text=text, stderr=text, error=error, outputs=[picture] * 2)

    for name, arguments in (
        ('read_file', {'path': 'a'}),
        ('list_files', {}),
        ('run_shell', {'command': 'x'}),
        ('run_cell', {'code': 'x'}),
    ):
        answer = call(sandboxes, name, arguments)
        assert len(json.dumps(as_json(answer), ensure_ascii=False).encode()) < 1_040_000, name
        assert len(answer.text) > 40_000, name


def test_what_is_left_out_of_an_answer_is_said(sandboxes: Any) -> None:
    sandboxes.sandbox.result = CommandResult(
        command='x', status='success', exit_code=0, stdout='begin' + '\0' * 65_000 + 'end'
    )
    picture = {'output_type': 'display_data', 'data': {'image/png': 'A' * 870_000}}
    sandboxes.sandbox.cell = CellResult(status='success', outputs=[picture] * 3)

    shell, cell = call(sandboxes, 'run_shell', {'command': 'x'}), call(sandboxes, 'run_cell', {'code': 'x'})

    assert shell.data['truncated']
    assert shell.text.startswith('begin')
    assert 'characters left out' in shell.text
    assert shell.text.endswith('end')
    assert (len(cell.images), '2 of the pictures did not fit' in cell.text) == (1, True)


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
