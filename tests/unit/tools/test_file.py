from __future__ import annotations

import base64
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from enclave.enums import ExecutionStatus
from enclave.errors import SandboxPathError, ToolArgumentsError
from enclave.records import ToolResult
from enclave.tools.file import FileOperation
from enclave.wire import to_json
from tests.support.workspace import FakeWorkspace


@pytest.fixture
def tool() -> FileOperation:
    return FileOperation()


def error_of(result: ToolResult) -> str:
    assert result.status is ExecutionStatus.ERROR
    assert result.output == ''
    assert result.error
    return result.error


# Writing and reading


def test_text_comes_back_as_it_was_written(tool: FileOperation, workspace: FakeWorkspace) -> None:
    text = 'naïve\r\n\tline two\n🦉'

    written = tool.execute(workspace, operation='write', file_path='/sandbox/deep/er/hello.txt', content=text)
    read = tool.execute(workspace, operation='read', file_path='deep/er/hello.txt')

    assert written.success
    assert written.metadata['size'] == written.metadata['bytes'] == len(text.encode())
    assert (read.output, read.error) == (text, None)
    assert read.metadata == {
        'operation': 'read',
        'path': 'deep/er/hello.txt',
        'encoding': 'utf-8',
        'offset': 0,
        'bytes': len(text.encode()),
        'size': len(text.encode()),
        'truncated': False,
    }


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=300))
def test_any_bytes_travel_as_base64(tool: FileOperation, workspace: FakeWorkspace, data: bytes) -> None:
    content = base64.b64encode(data).decode()

    tool.execute(workspace, operation='write', file_path='b.bin', content=content, encoding='base64')
    read = tool.execute(workspace, operation='read', file_path='b.bin', encoding='base64')

    assert workspace.host_path('b.bin').read_bytes() == data
    assert read.output == content


def test_base64_may_be_wrapped_in_lines(tool: FileOperation, workspace: FakeWorkspace) -> None:
    tool.execute(workspace, operation='write', file_path='b', content=' aGVs\n bG8=\n', encoding='base64')

    assert workspace.host_path('b').read_bytes() == b'hello'


@pytest.mark.parametrize('encoding', ['latin-1', 'utf-16', 'UTF8', 'cp1252'])
def test_other_text_encodings_are_kept(tool: FileOperation, workspace: FakeWorkspace, encoding: str) -> None:
    tool.execute(workspace, operation='write', file_path='t', content='é', encoding=encoding)

    assert workspace.host_path('t').read_bytes() == 'é'.encode(encoding)
    assert tool.execute(workspace, operation='read', file_path='t', encoding=encoding).output == 'é'


def test_write_replaces_and_append_adds(tool: FileOperation, workspace: FakeWorkspace) -> None:
    tool.execute(workspace, operation='write', file_path='a', content='long text')
    tool.execute(workspace, operation='write', file_path='a', content='x')

    result = tool.execute(workspace, operation='append', file_path='a', content='yz')

    assert workspace.host_path('a').read_text() == 'xyz'
    assert (result.metadata['size'], result.metadata['bytes']) == (3, 2)


def test_an_empty_content_is_content(tool: FileOperation, workspace: FakeWorkspace) -> None:
    assert tool.execute(workspace, operation='write', file_path='a', content='').success
    assert workspace.host_path('a').read_bytes() == b''


def test_create_makes_a_file_once(tool: FileOperation, workspace: FakeWorkspace) -> None:
    assert tool.execute(workspace, operation='create', file_path='new/empty').success
    assert tool.execute(workspace, operation='create', file_path='full', content='x').success

    again = tool.execute(workspace, operation='create', file_path='full', content='y')

    assert "'full' exists already" in error_of(again)
    assert again.metadata['error_code'] == 'path-exists'
    assert workspace.host_path('full').read_text() == 'x'
    assert workspace.host_path('new/empty').read_bytes() == b''


@pytest.mark.parametrize(
    'path',
    [
        'with space',
        "it's",
        'dou"ble',
        'new\nline',
        '$(touch pwned)',
        '`id`',
        '-rf',
        '--help',
        'a;b|c&d',
        '*',
        'ünï',
        '\\',
        '#',
        '~',
    ],
)
def test_a_path_is_data(tool: FileOperation, workspace: FakeWorkspace, path: str) -> None:
    tool.execute(workspace, operation='write', file_path=path, content='here')

    assert tool.execute(workspace, operation='read', file_path=path).output == 'here'
    assert [each.name for each in workspace.host_path('.').iterdir()] == [path]
    assert tool.execute(workspace, operation='delete', file_path=path).success
    assert workspace.called('execute_command') == []


# Reading what is not simple


def test_a_file_that_is_not_text_is_reported_with_the_ways_round(tool: FileOperation, workspace: FakeWorkspace) -> None:
    workspace.write_file('b', b'abc\xff\xfe')

    error = error_of(tool.execute(workspace, operation='read', file_path='b'))

    for text in ("'b' is not utf-8 text", 'byte 3 is 0xff', "encoding='base64'", "'latin-1'"):
        assert text in error


def test_a_missing_file_is_a_result(tool: FileOperation, workspace: FakeWorkspace) -> None:
    result = tool.execute(workspace, operation='read', file_path='nowhere')

    assert "'nowhere' does not exist" in error_of(result)
    assert result.metadata['error_code'] == 'path-not-found'


def test_reading_a_directory_is_a_result(tool: FileOperation, workspace: FakeWorkspace) -> None:
    assert 'directory' in error_of(tool.execute(workspace, operation='read', file_path='.')).lower()


def test_a_part_can_be_read_and_says_where_it_continues(tool: FileOperation, workspace: FakeWorkspace) -> None:
    workspace.write_file('a', b'0123456789')

    part = tool.execute(workspace, operation='read', file_path='a', offset=2, max_bytes=5)
    rest = tool.execute(workspace, operation='read', file_path='a', offset=part.metadata['next_offset'], max_bytes=5)

    assert (part.output, part.metadata['truncated'], part.metadata['size']) == ('23456', True, 10)
    assert (rest.output, rest.metadata['truncated'], rest.metadata['size']) == ('789', False, 10)
    assert 'next_offset' not in rest.metadata


def test_an_offset_past_the_end_reads_nothing(tool: FileOperation, workspace: FakeWorkspace) -> None:
    workspace.write_file('a', b'012')

    result = tool.execute(workspace, operation='read', file_path='a', offset=50)

    assert (result.output, result.metadata['size'], result.metadata['truncated']) == ('', 3, False)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=st.text(st.sampled_from('aé€🦉'), max_size=40),
    part=st.integers(1, 7),
    encoding=st.sampled_from(['utf-8', 'utf-16-le', 'gb18030']),
)
def test_reading_part_after_part_gives_the_whole_text(
    tool: FileOperation, workspace: FakeWorkspace, text: str, part: int, encoding: str
) -> None:
    workspace.write_file('a', text.encode(encoding))
    read, offset, more = '', 0, True

    while more:
        result = tool.execute(
            workspace, operation='read', file_path='a', encoding=encoding, offset=offset, max_bytes=part
        )
        assert result.error is None
        read += result.output
        more = result.metadata['truncated']
        assert not more or result.metadata['next_offset'] > offset
        offset = result.metadata.get('next_offset', offset)

    assert read == text


def test_a_part_that_begins_within_a_character_begins_after_it(tool: FileOperation, workspace: FakeWorkspace) -> None:
    workspace.write_file('a', 'é🦉x'.encode())

    result = tool.execute(workspace, operation='read', file_path='a', offset=3)

    assert (result.output, result.metadata['offset'], result.metadata['size']) == ('x', 6, 7)


def test_a_large_file_is_not_read_whole(workspace: FakeWorkspace) -> None:
    tool = FileOperation(max_file_bytes=100)
    workspace.write_file('big', b'x' * 101)
    workspace.write_file('fits', b'x' * 100)

    refused = tool.execute(workspace, operation='read', file_path='big')

    error = error_of(refused)
    for text in ("'big' is 101 bytes", '100 allowed', 'max_file_bytes', 'offset and max_bytes'):
        assert text in error
    assert len(tool.execute(workspace, operation='read', file_path='fits').output) == 100
    assert len(tool.execute(workspace, operation='read', file_path='big', max_bytes=5000).output) == 100
    assert max(call['max_bytes'] for call in workspace.called('read_file')) == 101


def test_a_large_content_is_not_written(workspace: FakeWorkspace) -> None:
    tool = FileOperation(max_file_bytes=10)

    result = tool.execute(workspace, operation='write', file_path='a', content='é' * 6)

    assert '12 bytes, more than the 10 allowed' in error_of(result)
    assert workspace.calls == []


# Directories


def test_list_names_entries_and_marks_directories(tool: FileOperation, workspace: FakeWorkspace) -> None:
    workspace.write_file('d/inner/x', b'1')
    workspace.write_file('d/file.txt', b'12')
    workspace.host_path('d/link').symlink_to('file.txt')

    flat = tool.execute(workspace, operation='list', file_path='d')
    deep = tool.execute(workspace, operation='list', file_path='d', recursive=True)

    assert flat.output == 'file.txt\ninner/\nlink'
    assert [(each['path'], each['kind']) for each in flat.metadata['entries']] == [
        ('file.txt', 'file'),
        ('inner', 'directory'),
        ('link', 'symlink'),
    ]
    assert flat.metadata['truncated'] is False
    assert deep.output.splitlines() == ['file.txt', 'inner/', 'inner/x', 'link']
    assert to_json(flat)


def test_an_empty_directory_lists_nothing(tool: FileOperation, workspace: FakeWorkspace) -> None:
    result = tool.execute(workspace, operation='list', file_path='.')

    assert (result.output, result.metadata['entries']) == ('', [])


def test_a_name_stays_on_one_line(tool: FileOperation, workspace: FakeWorkspace) -> None:
    workspace.write_file('a\nb\x1b[31m', b'')

    result = tool.execute(workspace, operation='list', file_path='.')

    assert result.output == r'a\nb\x1b[31m'
    assert result.metadata['entries'][0]['path'] == 'a\nb\x1b[31m'


def test_a_long_listing_is_cut_and_says_so(workspace: FakeWorkspace) -> None:
    tool = FileOperation(max_entries=2)
    for name in 'abc':
        workspace.write_file(name, b'')

    result = tool.execute(workspace, operation='list', file_path='.')

    assert result.output.splitlines()[:2] == ['a', 'b']
    assert 'more than 2 entries' in result.output
    assert len(result.metadata['entries']) == 2
    assert result.metadata['truncated'] is True


def test_mkdir_makes_parents_and_may_be_repeated(tool: FileOperation, workspace: FakeWorkspace) -> None:
    assert tool.execute(workspace, operation='mkdir', file_path='x/y/z').success
    assert tool.execute(workspace, operation='mkdir', file_path='x/y/z').success
    assert workspace.host_path('x/y/z').is_dir()


# Looking, deleting, moving


def test_exists_answers_in_text_and_metadata(tool: FileOperation, workspace: FakeWorkspace) -> None:
    workspace.write_file('a', b'')

    there = tool.execute(workspace, operation='exists', file_path='a')
    gone = tool.execute(workspace, operation='exists', file_path='b')

    assert (there.output, there.metadata['exists'], there.metadata['kind']) == ('true', True, 'file')
    assert (gone.output, gone.metadata['exists'], gone.metadata['kind']) == ('false', False, None)
    assert there.success
    assert gone.success


def test_stat_reports_the_facts(tool: FileOperation, workspace: FakeWorkspace) -> None:
    workspace.write_file('a', b'123', mode=0o600)

    result = tool.execute(workspace, operation='stat', file_path='a')

    assert result.output.startswith('file, 3 bytes, mode 600, owner ')
    assert (result.metadata['kind'], result.metadata['size'], result.metadata['mode']) == ('file', 3, 0o600)


def test_delete_takes_a_file_away(tool: FileOperation, workspace: FakeWorkspace) -> None:
    workspace.write_file('a', b'')

    assert tool.execute(workspace, operation='delete', file_path='a').success
    assert not workspace.host_path('a').exists()
    assert "'a' does not exist" in error_of(tool.execute(workspace, operation='delete', file_path='a'))


def test_a_full_directory_is_deleted_only_when_asked(tool: FileOperation, workspace: FakeWorkspace) -> None:
    workspace.write_file('d/a', b'')

    refused = tool.execute(workspace, operation='delete', file_path='d')

    assert 'recursive=true' in error_of(refused)
    assert tool.execute(workspace, operation='delete', file_path='d', recursive=True).success
    assert not workspace.host_path('d').exists()


def test_a_file_that_cannot_be_deleted_gets_no_advice_about_directories(
    tool: FileOperation, workspace: FakeWorkspace
) -> None:
    workspace.write_file('a', b'')
    workspace.will('remove_path', SandboxPathError("'a': permission denied"))

    assert error_of(tool.execute(workspace, operation='delete', file_path='a')) == "'a': permission denied"


def test_move_renames_and_replaces_only_when_asked(tool: FileOperation, workspace: FakeWorkspace) -> None:
    workspace.write_file('a', b'new')
    workspace.write_file('b', b'old')

    refused = tool.execute(workspace, operation='move', file_path='a', target_path='b')
    moved = tool.execute(workspace, operation='move', file_path='a', target_path='b', overwrite=True)

    assert "'b' exists already" in error_of(refused)
    assert moved.metadata['target'] == 'b'
    assert workspace.host_path('b').read_bytes() == b'new'


def test_copy_leaves_the_source_and_replaces_only_when_asked(tool: FileOperation, workspace: FakeWorkspace) -> None:
    workspace.write_file('a', b'new')
    workspace.write_file('b', b'old')

    refused = tool.execute(workspace, operation='copy', file_path='a', target_path='b')
    copied = tool.execute(workspace, operation='copy', file_path='a', target_path='b', overwrite=True)

    assert "'b' exists already" in error_of(refused)
    assert (copied.output, copied.metadata['target']) == ('Copied a to b', 'b')
    assert [workspace.host_path(name).read_bytes() for name in 'ab'] == [b'new', b'new']


# Wrong arguments


@pytest.mark.parametrize(
    ('parameters', 'message'),
    [
        ({}, 'operation is required and missing; file_path is required and missing'),
        ({'operation': 'raed', 'file_path': 'a'}, "operation must be one of 'create', 'write'.*not 'raed'"),
        ({'operation': 'read', 'file_path': ''}, 'file_path must not be empty'),
        ({'operation': 'read', 'file_path': 'a\0b'}, 'file_path must not contain NUL'),
        ({'operation': 'read', 'file_path': 5}, 'file_path must be a string, not 5'),
        ({'operation': 'read', 'path': 'a'}, r"unknown key 'path' \(did you mean 'file_path'\?\)"),
        ({'operation': 'write', 'file_path': 'a'}, "content is required for the operation 'write' and missing"),
        ({'operation': 'append', 'file_path': 'a'}, "content is required for the operation 'append'"),
        ({'operation': 'move', 'file_path': 'a'}, "target_path is required for the operation 'move'"),
        ({'operation': 'move', 'file_path': 'a', 'target_path': ''}, 'target_path must not be empty'),
        ({'operation': 'read', 'file_path': 'a', 'content': 'x'}, "content has no meaning for the operation 'read'"),
        ({'operation': 'write', 'file_path': 'a', 'content': '', 'offset': 1}, 'offset has no meaning'),
        ({'operation': 'read', 'file_path': 'a', 'recursive': True}, 'recursive has no meaning'),
        ({'operation': 'write', 'file_path': 'a', 'content': 5}, 'content must be a string, not 5'),
        ({'operation': 'write', 'file_path': 'a', 'content': '*', 'encoding': 'base64'}, 'content is not base64'),
        (
            {'operation': 'write', 'file_path': 'a', 'content': 'aé', 'encoding': 'ascii'},
            r"content cannot be written as ascii: character 1 is '\\xe9'",
        ),
        ({'operation': 'write', 'file_path': 'a', 'content': '\ud800'}, 'cannot be written as utf-8'),
        (
            {'operation': 'read', 'file_path': 'a', 'encoding': 'klingon'},
            "encoding must be 'base64' or a text encoding",
        ),
        ({'operation': 'read', 'file_path': 'a', 'encoding': 'zlib'}, "encoding must be 'base64' or a text encoding"),
        ({'operation': 'read', 'file_path': 'a', 'offset': -1}, 'offset must be at least 0'),
        ({'operation': 'read', 'file_path': 'a', 'max_bytes': 0}, 'max_bytes must be at least 1'),
    ],
)
def test_wrong_arguments_are_named(
    tool: FileOperation, workspace: FakeWorkspace, parameters: dict[str, Any], message: str
) -> None:
    with pytest.raises(ToolArgumentsError, match=message):
        tool.execute(workspace, **parameters)

    assert workspace.calls == []


def test_an_empty_content_where_there_is_none_is_let_pass(tool: FileOperation, workspace: FakeWorkspace) -> None:
    workspace.write_file('a', b'x')

    assert tool.execute(workspace, operation='read', file_path='a', content='', max_bytes=None).output == 'x'
