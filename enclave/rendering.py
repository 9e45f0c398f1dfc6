"""How results show themselves (layer: values): one line in a log, text for a reader, and pictures and tables in Jupyter.

What a sandbox gives is a stranger's, and a notebook in a browser can do what its user can. So nothing of it is shown as it is:
text is escaped, pictures go into ``<img>`` elements, where scripts in them do not run, and HTML goes into a frame that may run no
script and reach nothing (``<iframe sandbox>``).
"""

from __future__ import annotations

import base64
import binascii
import html
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from attrs import field, frozen

PICTURE_TYPES = {
    'image/png': '.png',
    'image/jpeg': '.jpg',
    'image/webp': '.webp',
    'image/gif': '.gif',
    'image/svg+xml': '.svg',
}
"""``{MIME type: file ending}``, in the order in which one of several forms of a picture is taken."""
_ESCAPE_CODES = re.compile(r'\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_][^\x07\x1b\n]*(?:\x07|\x1b\\)|[ -/]*[0-~]|)')
_SHOWN_CHARACTERS = 60
_FRAME_HEIGHT = 320
_POLICY = (
    '<meta http-equiv="Content-Security-Policy" '
    "content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:; font-src data:\">"
)


def strip_escape_codes(text: str) -> str:
    """Return text without a terminal's colours and other escape codes (ECMA-48)."""
    return _ESCAPE_CODES.sub('', text) if '\x1b' in text else text


def brief(text: str, limit: int = _SHOWN_CHARACTERS) -> str:
    """Return a text as one short line in quotes, the middle left out where it is long."""
    if len(text) <= limit:
        return repr(text)
    half = limit // 2
    return f'{text[:half]!r}...{text[-half:]!r}'


def one_line(name: str, *values: Any, **facts: Any) -> str:
    """Return ``Name(value, fact=value)``; facts that are None, empty or False are left out."""
    parts = [str(value) for value in values]
    for key, value in facts.items():
        if value is None or value is False or (isinstance(value, (str, list, tuple, dict)) and not value):
            continue
        parts.append(f'{key}={brief(value) if isinstance(value, str) else value}')
    return f'{name}({", ".join(parts)})'


def readable(stdout: str, stderr: str, ending: str) -> str:
    """Return what a reader wants to see of a program: what it printed, its errors under a heading, and how it ended."""
    parts = [stdout.rstrip('\n')] if stdout.strip() else []
    if stderr.strip():
        parts.append(f'[stderr]\n{stderr.rstrip()}')
    if ending:
        parts.append(ending)
    return '\n'.join(parts)


# Pictures -------------------------------------------------------------------------------------------------------------


@frozen(kw_only=True)
class Picture:
    """A picture that a cell showed: its MIME type, and the bytes of the file that it would be."""

    media_type: str
    data: bytes = field(repr=lambda data: f'<{len(data)} bytes>')

    @property
    def suffix(self) -> str:
        """The ending of its file's name, like ``'.png'``."""
        return PICTURE_TYPES[self.media_type]

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write it to a file of this machine, whose directory is made if missing, and return the path."""
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(self.data)
        return target

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        shown: dict[str, Any] = {'text/plain': repr(self), 'text/html': _image(self.media_type, self.data)}
        if self.media_type in ('image/png', 'image/jpeg'):
            shown[self.media_type] = base64.b64encode(self.data).decode('ascii')
        return shown


def find_pictures(outputs: Any) -> list[Picture]:
    """Return the pictures among a cell's outputs (as a notebook stores them), in order; what cannot be read is left out."""
    found = []
    for output in outputs if isinstance(outputs, list) else []:
        picture = _find_picture(output.get('data') if isinstance(output, Mapping) else None)
        if picture is not None:
            found.append(picture)
    return found


def _find_picture(data: Any) -> Picture | None:
    for media_type in PICTURE_TYPES if isinstance(data, Mapping) else ():
        value = data.get(media_type)
        if isinstance(value, list) and all(isinstance(part, str) for part in value):
            value = ''.join(value)
        if not isinstance(value, str) or not value:
            continue
        if media_type == 'image/svg+xml':
            return Picture(media_type=media_type, data=value.encode('utf-8', 'backslashreplace'))
        try:
            return Picture(media_type=media_type, data=base64.b64decode(''.join(value.split()), validate=True))
        except (binascii.Error, ValueError):
            continue
    return None


def save_pictures(pictures: Iterable[Picture], folder: str | os.PathLike[str], prefix: str = 'picture') -> list[Path]:
    """Write pictures into a folder of this machine, made if missing, as ``picture-1.png`` and so on, and return their paths."""
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    return [each.save(target / f'{prefix}-{number}{each.suffix}') for number, each in enumerate(pictures, 1)]


# Jupyter --------------------------------------------------------------------------------------------------------------


def text_html(stdout: str, stderr: str, ending: str) -> str:
    """Return what a program printed, and how it ended, as HTML."""
    return _pre(stdout) + _pre(stderr, 'background:rgba(221,0,0,.12)') + _note(ending)


def outputs_html(outputs: Iterable[Mapping[str, Any]]) -> str:
    """Return a cell's outputs as HTML, in order."""
    return ''.join(map(_output_html, outputs))


def bundle(plain: str, shown: str, pictures: Iterable[Picture] = ()) -> dict[str, Any]:
    """Return what ``_repr_mimebundle_`` gives: one line, HTML, and the last picture for who shows only pictures."""
    found: dict[str, Any] = {'text/plain': plain, 'text/html': shown or _note('no output')}
    for picture in pictures:
        if picture.media_type in ('image/png', 'image/jpeg'):
            found[picture.media_type] = base64.b64encode(picture.data).decode('ascii')
    return found


def _output_html(output: Mapping[str, Any]) -> str:
    kind = output.get('output_type')
    if kind == 'stream':
        is_error = output.get('name') == 'stderr'
        return _pre(_text(output.get('text')), 'background:rgba(221,0,0,.12)' if is_error else '')
    if kind == 'error':
        lines = output.get('traceback')
        text = '\n'.join(map(str, lines)) if isinstance(lines, list) and lines else ''
        return _pre(text or f'{output.get("ename", "")}: {output.get("evalue", "")}', 'background:rgba(221,0,0,.12)')
    data = output.get('data')
    picture = _find_picture(data)
    if picture is not None:
        return _image(picture.media_type, picture.data)
    if not isinstance(data, Mapping):
        return ''
    markup = data.get('text/html')
    if markup:
        return _frame(_text(markup))
    return _pre(_text(data.get('text/plain')))


def _text(value: Any) -> str:
    return ''.join(map(str, value)) if isinstance(value, list) else '' if value is None else str(value)


def _pre(text: str, style: str = '') -> str:
    if not text.strip():
        return ''
    return f'<pre style="margin:0;white-space:pre-wrap;{style}">{html.escape(strip_escape_codes(text))}</pre>'


def _note(text: str) -> str:
    return f'<div style="opacity:.7;font-size:90%">{html.escape(text)}</div>' if text else ''


def _image(media_type: str, data: bytes) -> str:
    return f'<img style="max-width:100%" src="data:{media_type};base64,{base64.b64encode(data).decode("ascii")}">'


def _frame(markup: str) -> str:
    return (
        f'<iframe sandbox srcdoc="{html.escape(_POLICY + markup)}" '
        f'style="width:100%;height:{_FRAME_HEIGHT}px;border:0;background:#fff"></iframe>'
    )
