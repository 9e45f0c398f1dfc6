from __future__ import annotations

import json

import pytest

from enclave.sandboxes.notebook.messages import MessageError, Messenger, make_key
from enclave.sandboxes.notebook.zmtp import LeftOut


def test_what_was_signed_with_the_key_is_read() -> None:
    key = make_key()
    request_id, parts = Messenger(key).make_request('execute_request', {'code': '1'})

    message = Messenger(key).read([b'topic', *parts])

    assert (message.type, message.content) == ('execute_request', {'code': '1'})
    assert request_id


def test_a_message_with_another_key_is_refused() -> None:
    _, parts = Messenger(make_key()).make_request('status', {'execution_state': 'idle'})

    with pytest.raises(MessageError):
        Messenger(make_key()).read(parts)


def test_a_message_that_was_changed_is_refused() -> None:
    key = make_key()
    _, parts = Messenger(key).make_request('stream', {'name': 'stdout', 'text': 'a'})
    parts[-1] = json.dumps({'name': 'stdout', 'text': 'b'}).encode()

    with pytest.raises(MessageError):
        Messenger(key).read(parts)


def test_a_message_that_comes_again_is_refused() -> None:
    key = make_key()
    _, parts = Messenger(key).make_request('stream', {})
    reader = Messenger(key)
    reader.read(parts)

    with pytest.raises(MessageError):
        reader.read(parts)


@pytest.mark.parametrize('parts', [[], [b'a'], [b'<IDS|MSG>'], [b'<IDS|MSG>', b'', b'', b'', b'', b'']])
def test_what_is_no_message_is_refused(parts: list[bytes | None]) -> None:
    with pytest.raises(MessageError):
        Messenger(make_key()).read(parts)


def test_a_message_whose_content_was_too_large_still_says_whose_it_is() -> None:
    header = json.dumps({'msg_type': 'display_data'}).encode()
    parent = json.dumps({'msg_id': 'abc'}).encode()

    message = Messenger(make_key()).read([b't', b'<IDS|MSG>', b'sig', header, parent, b'{}', LeftOut(77)])

    assert (message.type, message.parent_id, message.left_out) == ('display_data', 'abc', 77)


@pytest.mark.parametrize('topic', [b'stream.stderr', b'kernel.5.stream.stderr'])
def test_of_a_stream_too_large_to_keep_the_name_is_known(topic: bytes) -> None:
    header = json.dumps({'msg_type': 'stream'}).encode()

    message = Messenger(make_key()).read([topic, b'<IDS|MSG>', b'sig', header, b'{}', b'{}', LeftOut(77)])

    assert message.content == {'name': 'stderr'}
