"""The frame codec, which both ends share."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enclave.agent.program import (
    HEADER,
    MAX_PAYLOAD,
    FrameDecoder,
    ProtocolError,
    encode_frame,
    pack_message,
    unpack_message,
)
from tests.strategies import call_numbers, frames, kinds, messages, oversized


@given(st.lists(frames, max_size=8), st.lists(st.integers(min_value=1, max_value=50), max_size=40))
def test_frames_survive_any_cutting(sent: list[tuple[int, int, bytes]], cuts: list[int]) -> None:
    data = b''.join(encode_frame(*frame) for frame in sent)
    decoder = FrameDecoder()
    received = []
    for cut in cuts:
        received += decoder.feed(data[:cut])
        data = data[cut:]
    received += decoder.feed(data)

    assert received == sent
    assert not decoder.has_partial_frame()


@given(messages, st.binary(max_size=200))
def test_messages_survive(message: dict[str, Any], rest: bytes) -> None:
    assert unpack_message(pack_message(message, rest)) == (message, rest)


@given(kinds, call_numbers, oversized)
def test_a_size_over_the_limit_is_refused_before_anything_is_held(kind: int, call: int, size: int) -> None:
    with pytest.raises(ProtocolError):
        FrameDecoder().feed(HEADER.pack(size, kind, call))


@given(st.binary(max_size=400))
def test_no_bytes_do_worse_than_a_protocol_error(data: bytes) -> None:
    decoder = FrameDecoder()
    try:
        for _, _, payload in decoder.feed(data):
            unpack_message(payload)
    except ProtocolError:
        return


def test_half_a_frame_is_known_as_such() -> None:
    decoder = FrameDecoder()
    decoder.feed(encode_frame(3, 1, b'abc')[:-1])

    assert decoder.has_partial_frame()


def test_a_frame_over_the_limit_is_not_made() -> None:
    with pytest.raises(ValueError, match='limit'):
        encode_frame(3, 1, b'x' * (MAX_PAYLOAD + 1))
