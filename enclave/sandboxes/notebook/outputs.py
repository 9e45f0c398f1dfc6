"""From a kernel's messages to the outputs of a cell (layer 4), as a notebook would store them and within bounds.

What a terminal would do is done (`enclave.sandboxes.notebook.terminal`), so a progress bar leaves its last state; colours stay
in the outputs, as in a notebook, and are taken out of what a person or a program reads. `clear_output`, `update_display` and
displays with an id work as they do in a notebook. Standard output and error are each kept up to a cap, head and tail; a value
that is too large is left out and says so in its place.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Container, Mapping
from typing import Any

from attrs import Factory, define, field

from enclave.cells import CellError
from enclave.rendering import strip_escape_codes
from enclave.sandboxes.notebook.messages import Message
from enclave.sandboxes.notebook.terminal import Screen
from enclave.sandboxes.notebook.widgets import WidgetChanges
from enclave.sandboxes.output import Kept, head_bytes, shorten, tail_bytes

MAX_OUTPUTS = 1000
"""Outputs of one cell that are kept; its value and its error are kept besides, and a text that says how many were left out."""
MAX_NESTING = 100
"""How deep lists and objects of a value may be nested. What is deeper cannot be relied on to be written as JSON again, which
takes some calls a level."""
_NO_REPLY = {
    'ename': 'NoReply',
    'evalue': 'The kernel did not say how the cell ended: its reply did not come, or was too large to be kept',
}
_UNWRITABLE = '[left out: it has a number that JSON has not, or is nested too deep]'
_NAMELESS = re.compile(r'<IPython\.core\.display\.\w+ object>')
_READABLE = ('text/markdown', 'text/latex', 'text/html', 'application/json', 'image/svg+xml')


class _StreamOutput(Kept):
    """All of stdout, or of stderr, within a cap. Outputs are ranges of it, so that the cap holds for them together."""

    def add_text(self, text: str) -> None:
        self.add(text.encode('utf-8', 'backslashreplace'))

    def text(self, start: int, end: int) -> str:
        """Return what is kept between two offsets; the one that holds the place where something was left out has the marker."""
        tail = bytes(self._tail[-self._tail_size :]) if self._tail_size else b''
        head_end, tail_start = len(self._head), self.total - len(tail)
        head = bytes(self._head[min(start, head_end) : min(end, head_end)])
        rest = tail[max(start - tail_start, 0) : max(end - tail_start, 0)]
        if tail_start > head_end and start <= head_end < end:
            return shorten(head, rest, tail_start - head_end)
        return (head + rest).decode('utf-8', 'ignore')  # at most a character cut in half is ignored

    @property
    def is_truncated(self) -> bool:
        return self.total > len(self._head) + min(len(self._tail), self._tail_size)


@define(eq=False)
class _Segment:
    """One ``stream`` output: a range of its stream, and what can still be changed by what is written next.

    Attributes:
        run: What is read in its place: continues after what the other stream was given, and ends at a display. So a progress bar
            on stderr is one although there are prints in between.
    """

    name: str
    _stream: _StreamOutput
    run: _Segment | None = None
    start: int = field(default=Factory(lambda self: self._stream.total, takes_self=True), init=False)
    end: int = field(default=Factory(lambda self: self._stream.total, takes_self=True), init=False)
    _screen: Screen = field(factory=Screen, init=False)

    def feed(self, text: str) -> None:
        self._commit(self._screen.feed(text))

    def _commit(self, text: str) -> None:
        if text:
            self._stream.add_text(text)
            self.end = self._stream.total

    def finish(self) -> None:
        self._commit(self._screen.finish())

    def text(self) -> str:
        return self._stream.text(self.start, self.end) + self._screen.text()


_Output = dict[str, Any] | _Segment


@define(eq=False)
class OutputCollector:
    """Takes the messages of one cell in order and holds what a notebook would show. One thread at a time; lives as long as
    the cell runs.

    Args:
        cap: Bytes of stdout, and of stderr, that are kept.
        display_cap: Bytes of one value of a display that are kept; of all displays together, four times as many.
        keep_escapes: Leave the escape codes in tracebacks, and colours in texts.
        earlier_ids: Of displays that cells before it have shown.
    """

    _cap: int
    _display_cap: int
    _keep_escapes: bool = False
    _earlier_ids: Container[str] = ()
    _outputs: list[_Output] = field(factory=list, init=False)
    _endings: dict[str, dict[str, Any]] = field(factory=dict, init=False)  # the last value and error past all limits
    _streams: dict[str, _StreamOutput] = field(factory=dict, init=False)
    _read: dict[str, _StreamOutput] = field(factory=dict, init=False)  # the same, as it is read
    _runs: dict[str, _Segment] = field(factory=dict, init=False)  # those that continue
    _written: dict[str, int] = field(factory=lambda: {'stdout': 0, 'stderr': 0}, init=False)
    _lost: set[str] = field(factory=set, init=False)  # streams of which a message was left out
    _ids: dict[str, list[dict[str, Any]]] = field(factory=dict, init=False)
    _shown_bytes: int = field(default=0, init=False)
    _clears_at_next: bool = field(default=False, init=False)
    updates: dict[str, dict[str, Any]] = field(factory=dict, init=False)
    left_out: int = field(default=0, init=False)
    error: CellError | None = field(default=None, init=False)
    _shown_errors: dict[str, CellError] = field(factory=dict, init=False)  # the last of each name
    widgets: WidgetChanges = field(
        default=Factory(lambda self: WidgetChanges(4 * self._display_cap), takes_self=True), init=False
    )
    execution_count: int | None = field(default=None, init=False)

    def take(self, message: Message) -> dict[str, Any] | None:
        """Take a message; return the event to stream on, or None for a message that shows nothing.

        An event is an output as a notebook stores it (of a stream, the new text only; with ``display_id`` where it has one), or
        ``{'output_type': 'clear_output', 'wait': bool}`` or ``{'output_type': 'update_display_data', 'display_id', ...}``.
        """
        if message.type.startswith('comm_'):
            if message.left_out:
                self.widgets.left_out += 1
            else:
                self.widgets.take(message)
            return None
        if message.left_out:
            message = _standing_in(message)
        take = {
            'stream': self._take_stream,
            'display_data': self._take_display,
            'execute_result': self._take_display,
            'update_display_data': self._take_update,
            'clear_output': self._take_clear,
            'error': self._take_error,
            'execute_input': self._take_input,
        }.get(message.type)
        return take(message) if take is not None else None

    # One method a kind of message -------------------------------------------------------------------------------------

    def _take_stream(self, message: Message) -> dict[str, Any] | None:
        name, text = message.content.get('name'), message.content.get('text')
        if name not in ('stdout', 'stderr') or not isinstance(text, str) or not text:
            return None
        self._clear_if_asked()
        left_out = message.left_out
        self._written[name] += left_out or len(text.encode('utf-8', 'backslashreplace'))
        if left_out:
            self._lost.add(name)
        last = self._outputs[-1] if self._outputs else None
        if not isinstance(last, _Segment) or last.name != name:
            last = self._new_segment(name)
        last.feed(text)
        assert last.run is not None
        last.run.feed(text)
        return {'output_type': 'stream', 'name': name, 'text': text}

    def _new_segment(self, name: str) -> _Segment:
        stream = self._streams.setdefault(name, _StreamOutput(self._cap))
        before = next(
            (each for each in reversed(self._outputs) if isinstance(each, _Segment) and each.name == name), None
        )
        if before is not None:
            if len(self._outputs) >= MAX_OUTPUTS:
                return before  # too many to keep their order; nothing of the text itself is lost
            before.finish()
        run = self._runs.get(name)
        if run is None:
            run = self._runs[name] = _Segment(name, self._read.setdefault(name, _StreamOutput(self._cap)))
        segment = _Segment(name, stream, run)
        self._outputs.append(segment)
        return segment

    def _append(self, output: dict[str, Any]) -> None:
        """Keep an output that is no stream's."""
        for run in self._runs.values():
            run.finish()
        self._runs.clear()
        self._outputs.append(output)

    def _take_display(self, message: Message) -> dict[str, Any] | None:
        self._clear_if_asked()
        content = message.content
        is_full = len(self._outputs) >= MAX_OUTPUTS
        is_result = message.type == 'execute_result'
        is_ending = is_result and (is_full or self._shown_bytes > 3 * self._display_cap)
        data, metadata, size = self._bundle(content, 0 if is_ending else self._shown_bytes)
        output: dict[str, Any] = {'output_type': message.type, 'data': data, 'metadata': metadata}
        if is_result:
            self._note_count(content)
            output['execution_count'] = self.execution_count
        display_id = _display_id(content)
        event = {**output, 'display_id': display_id} if display_id else output
        if is_ending:
            self._keep_ending(output)
            return event
        self._shown_bytes += size
        if is_full:
            self.left_out += 1
            return event
        self._append(output)
        if display_id:
            self._ids.setdefault(display_id, []).append(output)
        return event

    def _keep_ending(self, output: dict[str, Any]) -> None:
        """Keep a value or an error for which there is no room any more, in the place of the one of its kind before."""
        if self._endings.pop(output['output_type'], None) is not None:
            self.left_out += 1
        self._endings[output['output_type']] = output

    def _take_update(self, message: Message) -> dict[str, Any] | None:
        display_id = _display_id(message.content)
        if not display_id:
            return None
        known, earlier = self._ids.get(display_id, []), self.updates.get(display_id)
        replaced = {id(each['data']): each['data'] for each in (*known, *([earlier] if earlier else []))}
        self._shown_bytes -= sum(_bundle_size(data) for data in replaced.values())
        data, metadata, size = self._bundle(message.content, self._shown_bytes)
        self._shown_bytes += size
        for output in known:
            output['data'], output['metadata'] = data, metadata
        update = {'display_id': display_id, 'data': data, 'metadata': metadata}
        is_earlier = not known or display_id in self._earlier_ids
        if is_earlier and (earlier is not None or len(self.updates) < MAX_OUTPUTS):
            self.updates[display_id] = update
        return {'output_type': 'update_display_data', **update}

    def _take_clear(self, message: Message) -> dict[str, Any] | None:
        wait = message.content.get('wait') is True
        self._clears_at_next = True
        if not wait:
            self._clear_if_asked()
        return {'output_type': 'clear_output', 'wait': wait}

    def _clear_if_asked(self) -> None:
        if self._clears_at_next:
            self._clears_at_next = False
            self._outputs.clear()
            self._endings.clear()
            self._streams.clear()
            self._read.clear()
            self._runs.clear()
            self._ids.clear()
            self._written = {'stdout': 0, 'stderr': 0}
            self._lost.clear()
            self._shown_bytes = 0
            self.left_out = 0

    def take_reply(self, reply: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Take a kernel's reply to the cell, empty where there is none, after all outputs; return the events to stream on.

        The reply says how the cell ended: an error that was only shown is none of its own. An error that no output reported
        becomes one, and so does every end but ``ok``: nothing else is a success. A page of help (``len?``) is shown as a display.
        """
        events = []
        payload = reply.get('payload')
        for each in payload if isinstance(payload, list) else ():
            if isinstance(each, dict) and each.get('source') == 'page' and isinstance(each.get('data'), dict):
                plain = each['data'].get('text/plain')
                data = {'text/plain': self._clean(plain)} if isinstance(plain, str) else each['data']
                events.append(self.take(Message(type='display_data', content={'data': data})))
        status = reply.get('status')
        if status == 'ok':
            self.error = None
        elif status == 'error' and str(reply.get('ename', '')) in self._shown_errors:
            self.error = self._shown_errors[str(reply.get('ename', ''))]
        elif self.error is None or status == 'error':
            if status != 'error':
                was_run = status not in ('aborted', 'abort')
                reply = _NO_REPLY if was_run else {'ename': 'CellAborted', 'evalue': 'The kernel did not run the cell'}
            events.append(self._take_error(Message(type='error', content=dict(reply))))
        return [event for event in events if event is not None]

    def _clean(self, text: str) -> str:
        return text if self._keep_escapes else strip_escape_codes(text)

    def _seen(self, text: str) -> str:
        return text if self._keep_escapes else strip_escape_codes(text).replace('\a', '')

    def _take_error(self, message: Message) -> dict[str, Any] | None:
        self._clear_if_asked()
        content = message.content
        lines = content.get('traceback')
        text = '\n'.join(line for line in lines if isinstance(line, str)) if isinstance(lines, list) else ''
        text, value = _capped(text, self._cap), _capped(str(content.get('evalue', '')), self._cap)
        self.error = error = CellError(
            name=_capped(str(content.get('ename', '')), 1000), value=self._clean(value), traceback=self._clean(text)
        )
        if len(self._shown_errors) < MAX_OUTPUTS:
            self._shown_errors[error.name] = error
        # With its colours, as a notebook shows it.
        output = {
            'output_type': 'error',
            'ename': error.name,
            'evalue': value,
            'traceback': text.split('\n') if text else [],
        }
        size = len(value) + len(text)
        if self._endings or len(self._outputs) >= MAX_OUTPUTS or self._shown_bytes + size > 4 * self._display_cap:
            self._keep_ending(output)
        else:
            self._shown_bytes += size
            self._append(output)
        return output

    def _take_input(self, message: Message) -> None:
        self._note_count(message.content)

    def _note_count(self, content: Mapping[str, Any]) -> None:
        count = content.get('execution_count')
        if type(count) is int and 0 <= count < 1 << 53:
            self.execution_count = count

    def _bundle(self, content: Mapping[str, Any], spent: int) -> tuple[dict[str, Any], dict[str, Any], int]:
        """Return ``data`` and ``metadata`` of a display, text or JSON by MIME type, and its size.

        What is too large is replaced by a text; ``spent`` counts what is kept of other displays.
        """
        given, about = content.get('data'), content.get('metadata')
        data: dict[str, Any] = {}
        metadata = dict(about) if isinstance(about, dict) and is_writable(about) else {}
        if _json_size(metadata) > self._display_cap:
            metadata = {}
        dropped: dict[str, int] = {}
        total = 0
        for mime, value in given.items() if isinstance(given, dict) else ():
            if isinstance(value, list) and all(isinstance(line, str) for line in value) and not _is_json(mime):
                value = ''.join(value)
            if not is_writable(value):
                value = _UNWRITABLE
            if not isinstance(value, str) and not _is_json(mime):
                value = json.dumps(value)
            size = _json_size(value)
            if mime == 'text/plain' and size > min(self._cap, self._display_cap):
                value = _capped(value, min(self._cap, self._display_cap))
                size = _json_size(value)
            if size > self._display_cap or spent + total + size > 4 * self._display_cap:
                dropped[mime] = size
                continue
            total += size
            data[mime] = value
        if dropped:
            text = ', '.join(f'{mime} of {size} bytes' for mime, size in dropped.items())
            before = f'{data["text/plain"]}\n' if 'text/plain' in data else ''
            data['text/plain'] = f'{before}[left out: {text}; over the limit]'
            metadata['enclave'] = {'left_out': dropped}
        return data, metadata, total

    # What it comes to, when nothing more comes ------------------------------------------------------------------------

    def _finish(self) -> None:
        """End what could still be changed of each stream, which counts for the caps from then on."""
        for each in self._outputs:
            if isinstance(each, _Segment):
                each.finish()
        for run in self._runs.values():
            run.finish()

    def outputs(self) -> list[dict[str, Any]]:
        """Return the outputs as a notebook stores them."""
        self._finish()
        found = []
        for each in self._kept():
            if isinstance(each, _Segment):
                found.append({'output_type': 'stream', 'name': each.name, 'text': each.text()})
            else:
                found.append(each)
        return found

    def _kept(self) -> list[_Output]:
        """Return the outputs without those pieces of a stream of which nothing is kept, and with a text for what is left out."""
        kept = [each for each in self._outputs if not isinstance(each, _Segment) or each.text()]
        if self.left_out:
            text = f'[... {self.left_out} further outputs left out ...]'
            metadata = {'enclave': {'outputs_left_out': self.left_out}}
            kept.append({'output_type': 'display_data', 'data': {'text/plain': text}, 'metadata': metadata})
        return [*kept, *self._endings.values()]

    def stream_text(self, name: str) -> tuple[str, int, bool]:
        """Return ``(text, bytes written, whether it was cut)`` of ``'stdout'`` or ``'stderr'``."""
        self._finish()
        stream = self._read.get(name)
        if stream is None:
            return '', 0, False
        text = self._clean(stream.text(0, stream.total))
        return text, self._written[name], stream.is_truncated or name in self._lost

    def text(self) -> str:
        """Return what a person reads of the cell: stdout and the values shown, each beginning on a line of its own."""
        self._finish()
        shown: list[str] = []
        run = None
        for each in self._kept():
            if isinstance(each, _Segment):
                if each.name != 'stdout' or each.run is run or each.run is None:
                    continue
                run = each.run
                text = run.text()
            else:
                text = readable(each.get('data', {}))
            text = self._seen(text)
            if text:
                shown.append('\n' if shown and not shown[-1].endswith('\n') else '')
                shown.append(text)
        return ''.join(shown)

    def display_ids(self) -> dict[str, list[int]]:
        """Return ``{display id: indexes of its outputs}``."""
        self._finish()
        places = {id(each): index for index, each in enumerate(self._kept())}
        found = {
            name: [places[id(each)] for each in outputs if id(each) in places] for name, outputs in self._ids.items()
        }
        return {name: indexes for name, indexes in found.items() if indexes}


def _standing_in(message: Message) -> Message:
    """Return what is taken instead of a message that was too large to keep."""
    size, name = message.left_out, message.content.get('name')
    if message.type == 'error':
        content = {'ename': 'ErrorLeftOut', 'evalue': f'The cell raised an error of {size} bytes, too large to be kept'}
        return Message(type='error', content=content)
    if message.type == 'stream' and name in ('stdout', 'stderr'):
        text = f'\n[... about {size} bytes left out ...]\n'
        return Message(type='stream', content={'name': name, 'text': text}, left_out=size)
    text = f'[a {message.type} message of {size} bytes, too large to be kept, was left out]'
    return Message(type='display_data', content={'data': {'text/plain': text}})


def readable(data: Mapping[str, Any]) -> str:
    """Return the text that represents a value: its plain text, or the source of what else it is where that says nothing."""
    plain = data.get('text/plain')
    if isinstance(plain, str) and plain and not _NAMELESS.fullmatch(plain.strip()):
        return plain
    for mime in _READABLE:
        if mime in data:
            value = data[mime]
            return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    for mime, value in data.items():
        if mime != 'text/plain':
            return f'[{mime}, {_json_size(value)} bytes]'
    return plain if isinstance(plain, str) else ''


def _is_json(mime: str) -> bool:
    return mime == 'application/json' or mime.endswith('+json')


def is_writable(value: Any, nesting: int = MAX_NESTING) -> bool:
    """Return whether what a kernel sent as JSON can be written as JSON wherever it goes from here."""
    if isinstance(value, (dict, list)):
        parts = value.values() if isinstance(value, dict) else value
        return nesting > 0 and all(is_writable(part, nesting - 1) for part in parts)
    return not isinstance(value, float) or math.isfinite(value)


def _json_size(value: Any) -> int:
    return len(value) if isinstance(value, str) else len(json.dumps(value))


def _bundle_size(data: Mapping[str, Any]) -> int:
    return sum(_json_size(value) for value in data.values())


def _capped(text: str, cap: int) -> str:
    data = text.encode('utf-8', 'backslashreplace')
    if len(data) <= cap:
        return text
    head, tail = head_bytes(cap), tail_bytes(cap)
    return shorten(data[:head], data[len(data) - tail :], len(data) - head - tail)


def _display_id(content: Mapping[str, Any]) -> str:
    transient = content.get('transient')
    display_id = transient.get('display_id') if isinstance(transient, dict) else None
    return display_id if isinstance(display_id, str) and len(display_id) <= 256 else ''
