from __future__ import annotations

import contextlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enclave.config import SandboxConfig
from enclave.enums import ExecutionStatus
from enclave.errors import InvalidArgumentError, SandboxPathError
from enclave.outlet import Offered
from enclave.records import CommandResult, ToolResult
from enclave.tools.budget import BudgetedWorkspace, check_max_chars, keep_output, shorten_result, shorten_text


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
    assert len(short) <= max_chars or len(head) + len(tail) <= max_chars // 2  # less where a character would be cut


@pytest.mark.parametrize(
    'one', ['e\u0301', '\U0001f468\u200d\U0001f469\u200d\U0001f467', '\U0001f44b\U0001f3fd', '\u2764\ufe0f']
)
@pytest.mark.parametrize('max_chars', [7, 10, 50, 101, 203, 500])
def test_what_is_seen_as_one_character_is_not_cut(one: str, max_chars: int) -> None:
    short = shorten_text(one * 2000, max_chars)

    head, tail = re.split(r'\n\[\.\.\. \d+ characters left out \.\.\.\]\n', short)
    assert len(head) % len(one) == len(tail) % len(one) == 0


def test_a_text_of_marks_alone_is_cut_all_the_same() -> None:
    short = shorten_text('a' + '\u0301' * 5000, 200)

    assert 100 <= len(short) <= 200


@pytest.mark.parametrize('value', [0, -1, 1.5, '7', True])
def test_a_budget_is_a_number_of_characters(value: object) -> None:
    with pytest.raises(InvalidArgumentError, match='max_chars must be a whole number'):
        check_max_chars(value)  # type: ignore[arg-type]


def test_a_sandbox_that_takes_no_file_loses_no_result() -> None:
    class Full:
        def write_file(self, path: str, data: bytes, /) -> int:
            raise SandboxPathError('no space left')

    assert keep_output(Full(), 'x', 'stdout') is None


def test_a_text_of_shortened_texts_is_shortened_without_losing_what_was_counted_and_where_it_is() -> None:
    out = shorten_text('o' * 3000, 500, file='/tmp/out.txt')
    error = shorten_text('e' * 2000, 500, file='/tmp/error.txt')

    short = shorten_text(f'{out}\n[stderr]\n{error}', 500)

    match = re.search(r'\[\.\.\. (\d+) characters left out; all of it is in (.*) \.\.\.\]', short)
    assert match is not None
    assert match[2] == '/tmp/out.txt and /tmp/error.txt'
    kept = len(short) - len(match[0]) - 2  # the line's two breaks
    assert kept + int(match[1]) == 3000 + 2000 + len('\n[stderr]\n')
    assert len(short) <= 500


@pytest.mark.parametrize('max_chars', [1, 10, 50])
def test_a_budget_shorter_than_its_line_is_kept_when_it_is_applied_twice(max_chars: int) -> None:
    short = shorten_text('o' * 3000, max_chars, file='/tmp/out.txt')

    assert shorten_text(short, max_chars) == short
    assert f'{3000 - max_chars // 2} characters left out; all of it is in /tmp/out.txt' in shorten_text(
        short.strip(), max_chars
    )


def test_a_result_that_names_its_whole_output_is_not_kept_again_as_if_it_were_whole() -> None:
    class Keeps:
        def write_file(self, path: str, data: bytes, /) -> int:
            raise AssertionError(f'{path} would hold {data!r}')

    output = shorten_text('o' * 3000, 50, file='/tmp/out.txt')
    result = ToolResult(
        tool_name='x', status=ExecutionStatus.SUCCESS, output=output, metadata={'output_file': '/tmp/out.txt'}
    )

    assert shorten_result(Keeps(), result, 50).output == output


@pytest.mark.parametrize(('most', 'caught'), [(None, 16 << 20), (3 << 20, 3 << 20), (1 << 40, 16 << 20), (5, 1000)])
def test_what_is_caught_for_a_file_is_bounded_by_the_one_that_keeps_it(most: int | None, caught: int) -> None:
    class Recording:
        config = SandboxConfig(max_output_bytes=1000)

        def execute_command(self, command: str, timeout: float | None = None, **options: int) -> CommandResult:
            self.asked = options['max_output_bytes']
            return CommandResult(command=command, status=ExecutionStatus.SUCCESS)

    workspace = Recording()
    with contextlib.nullcontext() if most is None else Offered(most_kept=most):
        BudgetedWorkspace(workspace, 10).execute_command('true')

    assert workspace.asked == caught
