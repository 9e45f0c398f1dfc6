"""What a terminal shows of what was written to it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enclave.sandboxes.notebook.outputs import strip_escape_codes
from enclave.sandboxes.notebook.terminal import COLUMNS, ROWS, SCREEN_CHARACTERS, Screen


def fold(*pieces: str) -> str:
    screen = Screen()
    return ''.join([*map(screen.feed, pieces), screen.finish()])


@pytest.mark.parametrize(
    ('text', 'shown'),
    [
        ('', ''),
        ('abc\rX', 'Xbc'),
        ('abc\b\bX', 'aXc'),
        ('\b\bx', 'x'),
        ('one\rtwo\rthree', 'three'),
        ('a\r', 'a'),
        ('a\r\nb\r\n', 'a\nb\n'),
        ('Downloading 10%\r\x1b[KDownloading 100%\r\x1b[KDone\n', 'Done\n'),
        ('abc\b\x1b[1KX', '  X'),
        ('abc\x1b[2K\rX', 'X'),
        ('abc\r\x1b[C\x1b[KX', 'aX'),
        ('abcd\x1b[3DX', 'aXcd'),
        ('a\x1b[3CX', 'a   X'),
        ('abc\x1b[2GX', 'aXc'),
        ('1\n2\n3\x1b[2A!', '1!\n2\n3'),
        ('1\n2\n3\x1b[9A\rX\x1b[9B\rY', 'X\n2\nY'),
        ('1\n2\n3\x1b[2F\x1b[J', ''),
        ('1\n2\n3\x1b[Fx\x1b[E\x1b[1J', '\n\n '),
        ('\x1b[2J\x1b[Hhello\n', 'hello\n'),
        ('old\nold\x1b[H\x1b[2J\x1b[3Jnew', 'new'),
        ('12\n34\x1b[1;2HX', '1X\n34'),
        ('a\x1b[?25lb\x1b[?2Kc\x1b(B\x1b=d\x1b7', 'abcd'),
        ('\x1b]0;title\x07a\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\', 'alink'),
        ('a\x1b]no end\nb', 'ano end\nb'),
        ('a\x1b', 'a'),
        ('a\x1b[31', 'a'),
        ('a\tb\x1b[D\x1b[DX', 'aXb'),
        ('0%\x1b[A\r100%\n', '100%\n'),
    ],
)
def test_text_is_as_a_terminal_shows_it(text: str, shown: str) -> None:
    assert fold(text) == fold(*text) == shown


def test_bars_below_each_other_leave_their_last_state() -> None:
    frames = []
    for outer in range(3):
        frames.append(f'\router {outer}')
        frames.extend(f'\n\rinner {outer}.{inner}\x1b[A' for inner in range(3))

    assert fold(*frames, '\n\n') == 'outer 2\ninner 2.2\n'


def test_colours_and_bells_stay_with_what_is_left_of_the_text() -> None:
    assert fold('\x1b[31mred\x1b[0m\n') == '\x1b[31mred\x1b[0m\n'
    assert fold('\x1b[31mred\x1b[0m\r\x1b[32mRE\x1b[0mD\a') == '\x1b[0m\x1b[32mRE\x1b[0mD\a'


ODD_TEXT = st.text(alphabet='ab\r\b\n\x1b[12;KAJCHm]\x07', max_size=60) | st.lists(
    st.sampled_from(['a', 'bc\n', '\r', '\b', '\x1b[A', '\x1b[K', '\x1b[2C', '\x1b[1;1H', '\x1b[J', '\x1b[31m', '\r\n'])
).map(''.join)


@given(ODD_TEXT, st.integers(min_value=1, max_value=7))
def test_it_does_not_matter_how_the_text_was_cut(text: str, step: int) -> None:
    whole = fold(text)
    pieces = fold(*(text[start : start + step] for start in range(0, len(text), step)))

    assert strip_escape_codes(pieces).replace('\a', '') == strip_escape_codes(whole).replace('\a', '')


@given(st.text(alphabet='ab \t\n', max_size=60))
def test_plain_text_is_left_as_it_is(text: str) -> None:
    assert fold(text) == fold('\b', text) == text


def test_nothing_of_a_long_text_is_lost() -> None:
    lines = [f'{n:06}\n' for n in range(5 * ROWS)]
    line = 'x' * (3 * SCREEN_CHARACTERS)

    assert fold(*lines) == fold(''.join(lines)) == fold('\b' + ''.join(lines)) == ''.join(lines)
    assert fold(line, '\n') == fold('\b' + line, '\n') == line + '\n'
    assert len(fold('\b' + line, '\ry')) == len(line)


def test_what_has_scrolled_off_is_not_changed_any_more() -> None:
    screen = Screen()

    gone = screen.feed('first\n' + 'x\n' * (2 * ROWS))
    later = screen.feed('\x1b[999999999A\rX')

    assert gone.startswith('first\n')
    assert len(gone.splitlines()) + len((later + screen.finish()).splitlines()) == 2 * ROWS + 1


@pytest.mark.parametrize(
    'code',
    [
        '\x1b[999999999A',
        '\x1b[999999999Cx\n',
        '\x1b[2Kx',
        '\x1b[1K',
        '\x1b[A\x1b[B',
        '\x1b[m',
        '\x1b]',
        '\x1b[',
        '\x1b',
        '\x1b[1;',
        '\x1b[1J\n',
        '\r\n\b',
        '\x07',
        '\x1b[H\n',
        '\x1b[99999;99999Hx',
    ],
)
def test_a_flood_of_codes_has_a_bound(code: str) -> None:
    flood = code * (200_000 // len(code))
    screen = Screen()

    shown = screen.feed('y' * (SCREEN_CHARACTERS - 1)) + screen.feed(flood)

    assert len(screen.text()) <= 2 * SCREEN_CHARACTERS
    assert len(shown) <= SCREEN_CHARACTERS + len(flood) * COLUMNS
