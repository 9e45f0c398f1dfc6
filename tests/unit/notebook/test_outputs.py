from __future__ import annotations

from typing import Any

import pytest

from enclave import wire
from enclave.sandboxes.notebook.messages import Message
from enclave.sandboxes.notebook.outputs import (
    MAX_OUTPUTS,
    OutputCollector,
    readable,
    strip_escape_codes,
)


def collect(*messages: tuple[str, dict[str, Any]], cap: int = 1000, display_cap: int = 1000) -> OutputCollector:
    collector = OutputCollector(cap, display_cap)
    for kind, content in messages:
        collector.take(Message(type=kind, content=content))
    return collector


def out(text: str, name: str = 'stdout') -> tuple[str, dict[str, Any]]:
    return 'stream', {'name': name, 'text': text}


def show(text: str, display_id: str = '', **data: Any) -> tuple[str, dict[str, Any]]:
    content: dict[str, Any] = {'data': {'text/plain': text, **data}, 'metadata': {}}
    if display_id:
        content['transient'] = {'display_id': display_id}
    return 'display_data', content


def test_pieces_of_one_stream_are_one_output_and_streams_keep_their_order() -> None:
    collector = collect(out('a'), out('b\n'), out('oh\n', 'stderr'), out('c\n'))

    assert collector.outputs() == [
        {'output_type': 'stream', 'name': 'stdout', 'text': 'ab\n'},
        {'output_type': 'stream', 'name': 'stderr', 'text': 'oh\n'},
        {'output_type': 'stream', 'name': 'stdout', 'text': 'c\n'},
    ]
    assert collector.stream_text('stdout')[0] == 'ab\nc\n'
    assert collector.stream_text('stderr')[0] == 'oh\n'


def test_the_text_is_stdout_and_values_each_on_a_line() -> None:
    collector = collect(out('no newline'), show('<Figure>'), out('warn\n', 'stderr'), out('more\n'), show('42'))

    assert collector.text() == 'no newline\n<Figure>\nmore\n42'


def test_a_progress_bar_leaves_its_last_state() -> None:
    collector = collect(*(out(f'\r{n:3}% done', 'stderr') for n in range(0, 101, 10)), out('\n', 'stderr'))

    assert collector.stream_text('stderr')[0] == '100% done\n'


def test_a_bar_leaves_its_last_state_also_between_what_the_other_stream_prints() -> None:
    pieces = [piece for n in range(5) for piece in (out(f'step {n}\n'), out(f'\r{n}', 'stderr'))]
    collector = collect(*pieces, show('42'), out('\rnew', 'stderr'))

    assert collector.stream_text('stderr')[0] == '4new'
    assert [each['text'] for each in collector.outputs()[:4]] == ['step 0\n', '0', 'step 1\n', '1']
    assert collect(*[out(f'\r{n}') if n % 2 else out('e', 'stderr') for n in range(6)], show('42')).text() == '5\n42'


def test_a_carriage_return_before_a_newline_is_a_line_end() -> None:
    assert collect(out('a\r\nb\r\n')).text() == 'a\nb\n'


def test_colours_are_in_the_outputs_and_not_in_what_is_read() -> None:
    messages = (
        out('\x1b[2J\x1b[H\x1b[1mhello\x07\x1b[0m\n'),
        out('\x1b[31mwarn\x1b[0m\n', 'stderr'),
        show('\x1b[32mv'),
    )
    collector = collect(*messages)
    coloured = OutputCollector(1000, 1000, True)
    for kind, content in messages:
        coloured.take(Message(type=kind, content=content))

    assert collector.text() == 'hello\nv'
    assert collector.stream_text('stderr')[0] == 'warn\n'
    assert collector.outputs() == coloured.outputs()
    assert collector.outputs()[1]['text'] == coloured.stream_text('stderr')[0] == '\x1b[31mwarn\x1b[0m\n'
    assert coloured.text() == '\x1b[1mhello\x07\x1b[0m\n\x1b[32mv'


def test_a_stream_over_the_cap_keeps_head_and_tail() -> None:
    collector = collect(*(out(f'{n:06}\n') for n in range(1000)), cap=100)

    text, written, is_cut = collector.stream_text('stdout')

    assert written == 7000
    assert is_cut
    assert text.startswith('000000\n')
    assert text.endswith('000999\n')
    assert 'bytes left out' in text
    assert len(text) < 200


def test_the_cap_holds_for_all_pieces_of_a_stream_together() -> None:
    messages = [each for n in range(300) for each in (out(f'{n:06}\n'), show('x'))]
    collector = collect(*messages, cap=100, display_cap=10_000)

    texts = [each['text'] for each in collector.outputs() if each['output_type'] == 'stream']

    assert sum(map(len, texts)) < 100 + 40 * 2
    assert texts[0] == '000000\n'
    assert texts[-1] == '000299\n'


def test_an_endless_line_is_bounded() -> None:
    collector = collect(*(out('x' * 10_000) for _ in range(200)), cap=1000)

    text, written, _ = collector.stream_text('stdout')

    assert written == 2_000_000
    assert len(text) < 1200


def test_clear_output_clears_at_once_or_with_the_next_output() -> None:
    now = collect(out('a\n'), ('clear_output', {'wait': False}))
    later = collect(out('a\n'), ('clear_output', {'wait': True}))

    assert now.text() == ''
    assert later.text() == 'a\n'
    later.take(Message(type='stream', content={'name': 'stdout', 'text': 'b\n'}))
    assert later.text() == 'b\n'


def test_a_display_with_an_id_is_updated_in_its_place() -> None:
    collector = collect(
        show('1', 'bar'),
        out('x\n'),
        ('update_display_data', {'data': {'text/plain': '2'}, 'transient': {'display_id': 'bar'}}),
    )

    assert collector.outputs()[0]['data'] == {'text/plain': '2'}
    assert collector.display_ids() == {'bar': [0]}
    assert not collector.updates


def test_the_last_update_of_an_earlier_cells_display_is_kept_for_it() -> None:
    collector = collect(
        *(
            ('update_display_data', {'data': {'text/plain': str(n)}, 'transient': {'display_id': 'old'}})
            for n in range(3000)
        ),
        display_cap=100,
    )

    assert [each['data'] for each in collector.updates.values()] == [{'text/plain': '2999'}]


def test_a_value_over_the_limit_is_replaced_by_a_text() -> None:
    collector = collect(show('<Figure>', **{'image/png': 'x' * 2000}))

    output = collector.outputs()[0]

    assert output['data'] == {'text/plain': '<Figure>\n[left out: image/png of 2000 bytes; over the limit]'}
    assert output['metadata'] == {'enclave': {'left_out': {'image/png': 2000}}}


def test_all_displays_together_are_bounded() -> None:
    collector = collect(*(show('x', **{'text/html': 'y' * 900}) for _ in range(100)))

    assert sum(len(each['data'].get('text/html', '')) for each in collector.outputs()) <= 4000


def test_outputs_that_are_too_many_are_counted() -> None:
    collector = collect(*(show('x') for _ in range(MAX_OUTPUTS + 5)), display_cap=100_000)

    *kept, marker = collector.outputs()
    assert len(kept) == MAX_OUTPUTS
    assert collector.left_out == 5
    assert marker == {
        'output_type': 'display_data',
        'data': {'text/plain': '[... 5 further outputs left out ...]'},
        'metadata': {'enclave': {'outputs_left_out': 5}},
    }
    assert collector.text().endswith('x\n[... 5 further outputs left out ...]')


def value(text: str) -> tuple[str, dict[str, Any]]:
    return 'execute_result', {'data': {'text/plain': text}, 'metadata': {}, 'execution_count': 1}


FAILURE = ('error', {'ename': 'E', 'evalue': 'v', 'traceback': ['the traceback']})


@pytest.mark.parametrize(
    'before',
    [[show('x')] * (MAX_OUTPUTS + 5), [show('x', **{'text/html': 'y' * 900})] * 10],
    ids=['too many', 'too large'],
)
def test_the_value_and_the_error_are_kept_past_every_limit(before: list[tuple[str, dict[str, Any]]]) -> None:
    collector = collect(*before, value('the value'), FAILURE)

    outputs = collector.outputs()

    assert [each['output_type'] for each in outputs[-2:]] == ['execute_result', 'error']
    assert outputs[-2]['data'] == {'text/plain': 'the value'}
    assert outputs[-1]['traceback'] == ['the traceback']
    assert collector.text().endswith('\nthe value')


def test_of_values_and_errors_past_the_limit_the_last_are_kept() -> None:
    endings = [each for n in range(2000) for each in (value(f'{n:06}' + 'x' * 90), FAILURE)]
    collector = collect(*[show('x')] * MAX_OUTPUTS, *endings)

    outputs = collector.outputs()

    assert len(outputs) == MAX_OUTPUTS + 3
    assert outputs[-2]['data']['text/plain'].startswith('001999')
    assert collector.left_out == 2 * 1999


def test_an_error_has_a_traceback_without_colours() -> None:
    content = {'ename': 'ValueError', 'evalue': 'no', 'traceback': ['\x1b[31m----\x1b[0m', 'ValueError: no']}
    collector = collect(('error', content))
    coloured = OutputCollector(1000, 1000, True)
    coloured.take(Message(type='error', content=content))

    assert collector.error is not None
    assert collector.error.traceback == '----\nValueError: no'
    assert coloured.error is not None
    assert '\x1b[31m' in coloured.error.traceback


@pytest.mark.parametrize(
    'message',
    [
        ('stream', {}),
        ('stream', {'name': 'other', 'text': 'x'}),
        ('stream', {'name': 'stdout', 'text': 7}),
        ('display_data', {}),
        ('display_data', {'data': [], 'metadata': 3, 'transient': 'x'}),
        ('update_display_data', {'transient': {'display_id': 5}}),
        ('error', {'traceback': 'text', 'ename': None}),
        ('execute_result', {'execution_count': 'many', 'data': {'text/plain': 5}}),
        ('clear_output', {'wait': 'yes'}),
        ('comm_open', {'x': 1}),
    ],
)
def test_malformed_messages_do_no_harm(message: tuple[str, dict[str, Any]]) -> None:
    collector = collect(message)

    assert isinstance(collector.text(), str)
    assert isinstance(collector.outputs(), list)


def test_a_message_that_was_too_large_is_reported_in_its_place() -> None:
    collector = OutputCollector(1000, 1000)
    collector.take(Message(type='display_data', left_out=77))

    assert '77 bytes, too large' in collector.text()


def test_a_stream_that_was_too_large_is_counted_and_reported_where_it_was() -> None:
    collector = collect(out('before\n'))
    event = collector.take(Message(type='stream', content={'name': 'stdout'}, left_out=50_000_000))
    collector.take(Message(type='stream', content=out('after\n')[1]))

    text, written, is_cut = collector.stream_text('stdout')

    assert text == 'before\n\n[... about 50000000 bytes left out ...]\nafter\n'
    assert (written, is_cut) == (50_000_013, True)
    assert event is not None
    assert (event['output_type'], event['name']) == ('stream', 'stdout')


def test_an_error_that_was_too_large_is_an_error() -> None:
    collector = OutputCollector(1000, 1000)
    collector.take(Message(type='error', left_out=77))

    events = collector.take_reply({})

    assert collector.error is not None
    assert '77 bytes' in collector.error.value
    assert [each['output_type'] for each in collector.outputs()] == ['error']
    assert events == []


@pytest.mark.parametrize(
    ('reply', 'name'),
    [
        ({}, 'NoReply'),
        ({'status': 7}, 'NoReply'),
        ({'status': 'aborted'}, 'CellAborted'),
        ({'status': 'abort'}, 'CellAborted'),
        ({'status': 'error', 'ename': 'E', 'evalue': 'v', 'traceback': ['t']}, 'E'),
    ],
)
def test_a_reply_that_is_not_ok_is_an_error_and_an_output(reply: dict[str, Any], name: str) -> None:
    collector = collect(out('x'))

    (event,) = collector.take_reply(reply)

    assert collector.error is not None
    assert collector.error.name == event['ename'] == name
    assert collector.outputs()[1:] == [event]


@pytest.mark.parametrize('payload', [None, 5, [5, {}, {'source': 'page'}, {'source': 'page', 'data': 3}]])
def test_a_reply_that_is_ok_shows_nothing_else(payload: Any) -> None:
    collector = collect()

    assert collector.take_reply({'status': 'ok', 'payload': payload}) == []
    assert collector.error is None


def test_a_page_of_help_is_shown() -> None:
    collector = collect()

    collector.take_reply(
        {'status': 'ok', 'payload': [{'source': 'page', 'start': 0, 'data': {'text/plain': '\x1b[31mDoc\x1b[0m of f'}}]}
    )

    assert collector.text() == 'Doc of f'


def test_a_last_line_without_an_end_is_within_the_cap_whatever_is_asked_first() -> None:
    for ask in (lambda each: each.text(), lambda each: each.outputs()[0]['text']):
        text = ask(collect(out('s' + 'x' * 60_000 + 'e'), cap=100))

        assert len(text) < 200
        assert text.startswith('s')
        assert text.endswith('e')


@pytest.mark.parametrize(
    ('data', 'text'),
    [
        ({'text/plain': '42', 'text/html': '<b>42</b>'}, '42'),
        ({'text/plain': '<IPython.core.display.Markdown object>', 'text/markdown': '# Hi'}, '# Hi'),
        ({'text/plain': '<IPython.core.display.JSON object>', 'application/json': {'a': 1}}, '{"a": 1}'),
        ({'text/plain': '<IPython.core.display.Image object>', 'image/png': 'abcd'}, '[image/png, 4 bytes]'),
        ({'application/vnd.plotly.v1+json': {'data': []}}, '[application/vnd.plotly.v1+json, 12 bytes]'),
        ({}, ''),
    ],
)
def test_a_value_is_reported_by_the_text_that_says_most(data: dict[str, Any], text: str) -> None:
    assert readable(data) == text


def test_escape_codes_are_taken_out() -> None:
    assert strip_escape_codes('\x1b(B\x1b=a\x1bPq\x1b\\b\x1b') == 'ab'
    assert strip_escape_codes('\x1b[1;31mred\x1b[0m \x1b]8;;http://x\x07link\x1b]8;;\x07') == 'red link'


def nested(depth: int) -> Any:
    value: Any = 1
    for level in range(depth):
        value = [value] if level % 2 else {'a': value}
    return value


@pytest.mark.parametrize('value', [float('nan'), {'a': [float('-inf')]}, nested(101), nested(700)])
def test_what_cannot_be_written_again_is_replaced_by_a_text(value: Any) -> None:
    collector = collect(show('<plain>', **{'application/json': value}))
    collector.take(
        Message(type='display_data', content={'data': {'text/plain': 'p'}, 'metadata': {'a': value}}),
    )

    first, second = collector.outputs()

    assert first['data']['text/plain'] == '<plain>'
    assert first['data']['application/json'].startswith('[left out: ')
    assert (second['data'], second['metadata']) == ({'text/plain': 'p'}, {})
    wire.to_json(collector.outputs())


def test_what_is_nested_as_deep_as_it_may_be_is_kept() -> None:
    value = nested(100)

    (output,) = collect(show('p', **{'application/json': value})).outputs()

    assert output['data']['application/json'] == value
    wire.to_json(output)
