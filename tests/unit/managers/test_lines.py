"""Values that come one after the other over HTTP, lines of JSON and long texts behind them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enclave import wire
from enclave.errors import InvalidArgumentError
from enclave.managers.http_transport import _lines_with_texts
from enclave.server.direct import as_bytes


@given(
    values=st.lists(
        st.dictionaries(
            st.text(max_size=5),
            st.one_of(
                st.text(max_size=9), st.sampled_from(['x' * wire.PART_CHARACTERS, '\ud800é' * wire.PART_CHARACTERS])
            ),
            max_size=3,
        ),
        max_size=4,
    ),
    size=st.integers(1, 70_000),
)
def test_lines_with_texts_are_read_however_they_are_cut(values: list[dict[str, Any]], size: int) -> None:
    whole = b''.join(as_bytes([part for value in values for part in wire.encoded_to_line(value)]))
    pieces = (whole[start : start + size] for start in range(0, len(whole), size))

    assert [wire.from_line(line) for line in _lines_with_texts(pieces)] == values


@pytest.mark.parametrize(
    'line',
    [
        b'[]\n',
        b'[{}]\n',
        b'[{}, 3]\n',
        b'[{}, [3]]\n',
        b'[{}, [[["a"], -1]]]\n',
        b'[{}, [[["a"], "1"]]]\n',
        b'[{}, [[["a"], true]]]\n',
        b'[1\n',
    ],
)
def test_a_line_that_says_nothing_of_its_texts_is_an_error(line: bytes) -> None:
    with pytest.raises(InvalidArgumentError, match='an event'):
        list(_lines_with_texts([line]))
