"""What a terminal shows of the text that was written to it (layer 4), so that what redraws itself leaves its last state.

Known are carriage return and backspace, moves of the cursor and erasing (CSI A to H, f, J, K). Colours and bells stay with the
character after them; every other escape code is left out. Other control characters, such as NUL, are characters like any.
Lines are not wrapped.
Source: ECMA-48, https://ecma-international.org/publications-and-standards/standards/ecma-48/

What is written is the guest's: time is linear in it, and a screen's memory has a bound.
"""

from __future__ import annotations

import re

ROWS = 100
"""Lines that can still be changed; what is above has scrolled off."""
COLUMNS = 500
"""How far to the right the cursor can be moved. Writing continues further."""
SCREEN_CHARACTERS = 1 << 16
_MARKS_CHARACTERS = 256  # of colours and the like at one place
_CODE_CHARACTERS = 4096  # of an escape code whose end has not come yet

_STRING = r'\x1b[\]PX^_][^\x07\x1b\n]*'  # a title, a link, ...
_STEERING = re.compile(r'[\b\r]|\x1b(?!\[[0-9;:]*m)')
_UNFINISHED = re.compile(rf'(?:{_STRING}\x1b?|\x1b\[[0-?]*[ -/]*|\x1b[ -/]*)\Z')
_TOKEN = re.compile(
    r'(?P<plain>[^\x07\x08\n\r\x1b]+)'
    r'|\x1b\[(?P<arguments>[0-?]*)[ -/]*(?P<final>[@-~])'
    rf'|(?P<other>{_STRING}(?:\x07|\x1b\\)|\x1b[ -/]*[0-~]|\x1b)'
    r'|(?P<control>[\x07\x08\n\r])'
)


class Screen:
    """The end of a stream, as long as it can be changed. Lives as long as the stream; one thread at a time."""

    def __init__(self) -> None:
        self._rows: list[str | list[str]] = [
            ''
        ]  # as text, or as cells: a character each, after the marks that stay with it
        self._row = 0
        self._column: int | None = None  # None at the end of the last row
        self._marks = ''  # for the next character
        self._held = ''  # the beginning of an escape code

    def feed(self, text: str) -> str:
        """Take what was written; return what has left the screen."""
        if '\r' in text:
            text = text.replace('\r\n', '\n')
        if self._column is None and not self._held and _STEERING.search(text) is None:
            # The way that nearly all text goes. Of a long one all but the end leaves at once.
            first, *rest = text.rsplit('\n', ROWS)
            self._rows[-1] = _text(self._rows[-1]) + self._marks + first
            self._rows += rest
            self._row = len(self._rows) - 1
            self._marks = ''
            return self._scroll()
        text = self._held + text
        unfinished = _UNFINISHED.search(text)
        self._held = unfinished[0] if unfinished is not None and len(unfinished[0]) <= _CODE_CHARACTERS else ''
        return self._take(text[: len(text) - len(self._held)])

    def finish(self) -> str:
        """Return what is on the screen, and begin an empty one."""
        text = self.text()
        self._rows, self._row, self._column, self._marks = [''], 0, None, ''
        return text

    def text(self) -> str:
        """Return what is on the screen."""
        return '\n'.join(map(_text, self._rows)) + self._marks

    def _take(self, text: str) -> str:
        gone, written = [], 0
        for token in _TOKEN.finditer(text):
            kind, piece = token.lastgroup, token[0]
            if kind == 'plain':
                for start in range(0, len(piece), SCREEN_CHARACTERS):
                    self._write(piece[start : start + SCREEN_CHARACTERS])
                    written += len(piece)
                    if written > SCREEN_CHARACTERS:
                        gone.append(self._scroll())
                        written = 0
            elif kind == 'final' and token['final'] != 'm':
                self._steer(token['final'], token['arguments'])
            elif piece == '\n':
                self._end_marks()
                self._row += 1
                self._column = 0
                if self._row == len(self._rows):
                    self._rows.append('')
                    self._column = None
                    if self._row >= 2 * ROWS:  # not at each line: it looks at all of them
                        gone.append(self._scroll())
            elif piece == '\r':
                self._column = 0
            elif piece == '\b':
                self._column = max(0, self._place() - 1)
            elif kind != 'other':
                self._mark(piece)
        if self._row == len(self._rows) - 1 and self._column == len(self._cells()):
            self._column = None
        return ''.join(gone) + self._scroll()

    def _cells(self) -> list[str]:
        """Return the cells of the cursor's row, to be changed in place."""
        row = self._rows[self._row]
        if isinstance(row, list):
            return row
        cells: list[str] = []
        marks = ''
        for token in _TOKEN.finditer(row):
            if token.lastgroup == 'plain':
                start = len(cells)
                cells += token[0]
                cells[start] = marks + cells[start]
                marks = ''
            else:
                marks += token[0]
        if cells and self._column is not None:
            cells[-1] += marks
        else:
            self._marks = (marks + self._marks)[-_MARKS_CHARACTERS:]
        self._rows[self._row] = cells
        return cells

    def _place(self) -> int:
        """Return the cursor's column."""
        return len(self._cells()) if self._column is None else self._column

    def _write(self, text: str) -> None:
        cells = self._cells()
        at = min(self._place(), len(cells) + COLUMNS)  # or each character could cost as much as a long erased line
        cells += ' ' * (at - len(cells))
        cells[at : at + len(text)] = text
        cells[at] = self._marks + cells[at]
        self._marks = ''
        self._column = at + len(text)

    def _mark(self, mark: str) -> None:
        fits = len(self._marks) + len(mark) <= _MARKS_CHARACTERS
        self._marks = self._marks + mark if fits else mark[:_MARKS_CHARACTERS]

    def _end_marks(self) -> None:
        """Keep marks on the line that they end."""
        cells = self._cells()
        if self._marks and cells and self._place() == len(cells) and len(cells[-1]) < _MARKS_CHARACTERS:
            cells[-1] += self._marks
            self._marks = ''

    def _steer(self, final: str, arguments: str) -> None:
        """Do what a control sequence asks, if it is a known one."""
        numbers = [each[:5] for each in arguments.split(';', 2)[:2]]
        if not all(each.isdecimal() or not each for each in numbers):
            return
        first, second = (int(each or 0) for each in (*numbers, '')[:2])
        count, last, at = max(1, first), len(self._rows) - 1, self._place()
        self._column = at
        if final in 'AF':
            self._row = max(0, self._row - count)
        elif final in 'BE':
            self._row = min(last, self._row + count)
        elif final == 'C':
            self._column = min(at + count, max(at, COLUMNS))
        elif final == 'D':
            self._column = max(0, at - count)
        elif final == 'G':
            self._column = min(count - 1, COLUMNS)
        elif final in 'Hf':
            self._row = min(last, count - 1)
            self._column = min(max(1, second) - 1, COLUMNS)
        elif final == 'J':
            self._erase(first)
        elif final == 'K':
            self._erase_line(first)
        if final in 'EF':
            self._column = 0

    def _erase(self, mode: int) -> None:
        if mode >= 2:  # all: what comes next then stands at the top
            self._rows, self._row = [[]], 0
            return
        self._erase_line(mode)
        if mode == 0:
            del self._rows[self._row + 1 :]
        else:
            self._rows[: self._row] = [''] * self._row

    def _erase_line(self, mode: int) -> None:
        """Erase the cursor's row: from the cursor on (0), up to it (1), or all (2)."""
        cells, at = self._cells(), self._place()
        if mode == 0:
            del cells[at:]
        elif mode == 1:
            count = min(at + 1, len(cells), COLUMNS)
            cells[:count] = ' ' * count
        elif mode == 2:
            cells.clear()

    def _scroll(self) -> str:
        """Return what leaves: lines over the number there may be, and all but the last where they are too large together."""
        gone = self._leave(min(self._row, len(self._rows) - ROWS))
        if sum(map(len, self._rows)) > SCREEN_CHARACTERS:
            gone += self._leave(len(self._rows) - 1) + self._shorten()
        return gone

    def _leave(self, count: int) -> str:
        if count <= 0:
            return ''
        gone = ''.join(f'{_text(row)}\n' for row in self._rows[:count])
        del self._rows[:count]
        self._row = max(0, self._row - count)
        return gone

    def _shorten(self) -> str:
        """Return what leaves of the one row there is if that is too long: all, or all but its end where the cursor is in it."""
        row = self._rows[0]
        if len(row) <= SCREEN_CHARACTERS:
            return ''
        if self._column is None:
            self._rows[0] = ''
            return _text(row)
        cells = self._cells()
        cut = max(0, len(cells) - SCREEN_CHARACTERS // 2)
        gone = ''.join(cells[:cut])
        del cells[:cut]
        self._column = max(0, self._column - cut)
        return gone


def _text(row: str | list[str]) -> str:
    return row if isinstance(row, str) else ''.join(row)
