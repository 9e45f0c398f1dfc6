from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from enclave.sandboxes.docker.shell.exec import MarkScanner

MARK = b'abcabd'


def scan(pieces: list[bytes]) -> tuple[bytes, list[list[str]], bool]:
    """Return what passes through, the fields of the marks, and whether the end was seen."""
    found: list[list[str]] = []

    def take(fields: list[str]) -> bool:
        found.append(fields)
        return fields[0] == 'e'

    scanner = MarkScanner(MARK, take)
    passed = b''.join([scanner.feed(piece) for piece in pieces] + [scanner.flush()])
    return passed, found, scanner.has_ended


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


@given(
    st.lists(st.sampled_from([b'a', b'abc', b'abcab', b'x', b'\n', b';', b':']), max_size=30), st.lists(st.integers(0))
)
def test_output_without_a_mark_passes_unchanged_however_it_is_cut(parts: list[bytes], places: list[int]) -> None:
    data = b''.join(parts).replace(MARK, b'')
    while MARK in data:
        data = data.replace(MARK, b'')

    assert scan(cut(data, places)) == (data, [], False)


@given(st.lists(st.integers(0), max_size=20))
def test_marks_are_found_however_the_stream_is_cut(places: list[int]) -> None:
    stream = b'abc' + MARK + b'r:12:34;abcab' + b'out;put' + MARK + b'e:3:0:0;' + b'what a child left behind writes'

    assert scan(cut(stream, places)) == (b'abcabcabout;put', [['r', '12', '34'], ['e', '3', '0', '0']], True)
