"""Answers in frames: what was written is read, however it comes, and nothing else is taken for an answer."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enclave import wire
from enclave.errors import InvalidArgumentError
from enclave.managers.output_frames import FrameReader, error_frame, frame_head, next_frame, record_frame
from enclave.outlet import STDERR, STDOUT
from enclave.sandboxes.output import shown

PIECES = st.lists(st.binary(min_size=1, max_size=40) | st.sampled_from([b'ascii', 'ä€'.encode()]), max_size=8)


def read(body: bytes, cuts: list[int] = []) -> FrameReader:  # noqa: B006 - it is only read
    reader = FrameReader()
    places = sorted({0, len(body), *(min(cut, len(body)) for cut in cuts)})
    for start, end in itertools.pairwise(places):
        reader.take(memoryview(bytearray(body[start:end])))
    return reader


def frames(stream: int, pieces: list[bytes], most: int) -> bytes:
    body, at = b'', 0
    while at < len(pieces):
        frame, at = next_frame(stream, pieces, at, most)
        body += b''.join(frame)
    return body


@given(out=PIECES, err=PIECES, most=st.integers(1, 60), left_out=st.integers(0, 5), cuts=st.lists(st.integers(0, 900)))
def test_streams_are_read_as_they_were_written(
    out: list[bytes], err: list[bytes], most: int, left_out: int, cuts: list[int]
) -> None:
    data = b''.join(out)
    total, head = len(data) + left_out, len(data) // 2
    places: list[list[Any]] = [[['stdout'], STDOUT, total, head], [['more', 'stderr'], STDERR, 0, 0]]
    places.append([['again'], STDOUT, total, head])
    record = b''.join(record_frame({'stdout': '', 'again': '', 'more': {}, 'exit_code': 3}, places))

    reader = read(frames(STDOUT, out, most) + frames(STDERR, err, most) + record, cuts)

    assert reader.error is None
    found = reader.shapes()
    assert found == {
        'stdout': shown(data, total, head),
        'again': shown(data, total, head),
        'more': {'stderr': shown(b''.join(err), 0, 0)},
        'exit_code': 3,
    }


def test_long_texts_of_the_record_travel_behind_it() -> None:
    long = 'ä' * wire.PART_CHARACTERS

    reader = read(b''.join(record_frame({'error': long, 'also': 'x' * wire.PART_CHARACTERS}, [])))

    assert reader.error is None
    assert reader.shapes() == {'error': long, 'also': 'x' * wire.PART_CHARACTERS}


def test_an_error_comes_in_the_place_of_an_answer() -> None:
    record = {'code': 'sandbox-gone', 'message': 'gone'}

    reader = read(frames(STDOUT, [b'begun'], 10) + b''.join(error_frame(wire.to_json(record).encode())))

    assert reader.error == record


RECORD = b''.join(record_frame({'stdout': ''}, [[['stdout'], STDOUT, 2, 0]]))


@pytest.mark.parametrize(
    'body',
    [
        b'',
        frame_head(STDOUT, 2) + b'ab',
        frame_head(STDOUT, 2) + b'a',
        RECORD[:-1],
        RECORD[:3],
        RECORD + b'x',
        RECORD + RECORD,
        frame_head(9, 1) + b'x',
        frame_head(STDOUT, 0) + RECORD,
        b'{"stdout": ""}',
    ],
)
def test_what_is_no_such_answer_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidArgumentError, match='cannot be read'):
        _ = read(body).error


@pytest.mark.parametrize(
    'record',
    [b'1', b'[1]', b'[{}, [[["a", "b"], 1, 0, 0]]]', b'[{}, [[["a"], 7, 0, 0]]]', b'[{}, [[[], 1, 0, 0]]]', b'{'],
)
def test_a_record_that_does_not_fit_is_refused(record: bytes) -> None:
    reader = read(frame_head(3, len(record)) + record)

    assert reader.error is None
    with pytest.raises(InvalidArgumentError):
        reader.shapes()
