from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enclave.errors import InvalidArgumentError, SandboxPathError
from enclave.tools.budget import check_max_chars, keep_output, shorten_text


@given(st.text(max_size=3000), st.integers(min_value=1, max_value=1000), st.sampled_from([None, '/tmp/whole.txt']))
def test_a_shortened_text_is_head_and_tail_and_counts_what_is_missing(
    text: str, max_chars: int, file: str | None
) -> None:
    short = shorten_text(text, max_chars, file=file)

    if len(text) <= max_chars:
        assert short == text
        return
    match = re.search(r'\n\[\.\.\. (\d+) characters left out(; all of it is in /tmp/whole\.txt)? \.\.\.\]\n', short)
    assert match is not None
    assert bool(match[2]) is (file is not None)
    head, tail = short[: match.start()], short[match.end() :]
    assert text.startswith(head)
    assert text.endswith(tail)
    assert len(head) + len(tail) + int(match[1]) == len(text)
    assert len(short) <= max_chars or len(head) + len(tail) == max_chars // 2


@pytest.mark.parametrize('value', [0, -1, 1.5, '7', True])
def test_a_budget_is_a_number_of_characters(value: object) -> None:
    with pytest.raises(InvalidArgumentError, match='max_chars must be a whole number'):
        check_max_chars(value)  # type: ignore[arg-type]


def test_a_sandbox_that_takes_no_file_loses_no_result() -> None:
    class Full:
        def write_file(self, path: str, data: bytes, /) -> int:
            raise SandboxPathError('no space left')

    assert keep_output(Full(), 'x', 'stdout') is None
