"""What cells give back, from a real kernel in a real sandbox."""

from __future__ import annotations

import base64
import json
import struct
import zlib

import pytest

from enclave.enums import ExecutionStatus
from enclave.sandboxes.notebook.sandbox import NotebookSandbox


def pixels(png: bytes) -> tuple[int, int, set[bytes]]:
    """Return (width, height, the colours) of a PNG with 8-bit RGB or RGBA and no interlacing."""
    assert png[:8] == b'\x89PNG\r\n\x1a\n'
    width, height, depth, kind = struct.unpack('>IIBB', png[16:26])
    assert depth == 8
    size = {2: 3, 6: 4}[kind]
    data, at = b'', 8
    while at < len(png):
        (length,) = struct.unpack('>I', png[at : at + 4])
        if png[at + 4 : at + 8] == b'IDAT':
            data += png[at + 8 : at + 8 + length]
        at += 12 + length
    raw, stride, colours = zlib.decompress(data), width * size, set()
    before = bytes(stride)
    for row in range(height):
        start = row * (stride + 1)
        mode, line = raw[start], bytearray(raw[start + 1 : start + 1 + stride])
        for index in range(stride):
            left = line[index - size] if index >= size else 0
            up, corner = before[index], before[index - size] if index >= size else 0
            if mode == 1:
                line[index] = line[index] + left & 255
            elif mode == 2:
                line[index] = line[index] + up & 255
            elif mode == 3:
                line[index] = line[index] + (left + up) // 2 & 255
            elif mode == 4:
                guess = left + up - corner
                near = min((left, up, corner), key=lambda each: abs(guess - each))
                line[index] = line[index] + near & 255
        before = bytes(line)
        colours |= {before[index : index + 3] for index in range(0, stride, size)}
    return width, height, colours


def test_state_lasts_from_call_to_call(sandbox: NotebookSandbox) -> None:
    first = sandbox.execute_tool('notebook_executor', {'code': 'import math\nx = 6'})
    second = sandbox.execute_tool('notebook_executor', {'code': 'print("hi")\nx * 7'})

    assert (first.success, first.output) == (True, '')
    assert second.output == 'hi\n42'
    assert second.error is None


def test_streams_are_apart_and_in_order(sandbox: NotebookSandbox) -> None:
    code = "import sys\nprint('a', flush=True)\nprint('b', file=sys.stderr, flush=True)\nprint('c', flush=True)\n'v'"

    result = sandbox.execute_cell(code)

    assert (result.stdout, result.stderr, result.text) == ('a\nc\n', 'b\n', "a\nc\n'v'")
    kinds = [(each['output_type'], each.get('name')) for each in result.outputs]
    assert kinds == [('stream', 'stdout'), ('stream', 'stderr'), ('stream', 'stdout'), ('execute_result', None)]


def test_what_is_not_flushed_is_in_the_order_it_was_written(sandbox: NotebookSandbox) -> None:
    result = sandbox.execute_cell(
        'import sys\nfor n in range(100): print(n, file=(sys.stdout, sys.stderr)[n % 3 == 0])'
    )

    assert ''.join(each['text'] for each in result.outputs) == ''.join(f'{n}\n' for n in range(100))
    assert result.stderr == ''.join(f'{n}\n' for n in range(0, 100, 3))


def test_what_prints_below_a_print_does_not_wait_for_it(sandbox: NotebookSandbox) -> None:
    result = sandbox.execute_cell(
        'import signal, sys, time\n'
        "signal.signal(signal.SIGALRM, lambda *_: print('rung'))\n"
        'signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)\nuntil = time.monotonic() + 1\n'
        "while time.monotonic() < until:\n    print('x', file=sys.stderr)\n"
        'signal.setitimer(signal.ITIMER_REAL, 0)'
    )

    assert 'flush timed out' not in result.stderr
    assert 'rung\n' in result.stdout


def test_what_a_forked_child_prints_does_not_repeat_what_its_parent_holds(sandbox: NotebookSandbox) -> None:
    code = "import os, sys\nprint('held')\nif not os.fork():\n    print('child', file=sys.stderr)\n    os._exit(0)\n_ = os.wait()"

    assert sandbox.execute_cell(code).stdout == 'held\n'


def test_output_of_programs_is_output_of_the_cell(sandbox: NotebookSandbox) -> None:
    result = sandbox.execute_cell('import os\n_ = os.system("echo from a shell")')

    assert 'from a shell' in result.stdout


@pytest.mark.parametrize(
    ('code', 'mime', 'part'),
    [
        ("from IPython.display import HTML\nHTML('<b>x</b>')", 'text/html', '<b>x</b>'),
        ("from IPython.display import Markdown\nMarkdown('# T')", 'text/markdown', '# T'),
        ("from IPython.display import Latex\nLatex('$a$')", 'text/latex', '$a$'),
        (
            'from IPython.display import SVG\nSVG(\'<svg xmlns="http://www.w3.org/2000/svg"/>\')',
            'image/svg+xml',
            '<svg',
        ),
    ],
)
def test_rich_values_come_by_mime_type(sandbox: NotebookSandbox, code: str, mime: str, part: str) -> None:
    result = sandbox.execute_tool('notebook_executor', {'code': code})

    assert part in result.metadata['outputs'][0]['data'][mime]
    assert part in result.output


def test_json_and_plotly_stay_structures(sandbox: NotebookSandbox) -> None:
    code = (
        'from IPython.display import JSON, display\n'
        "display(JSON({'a': [1, None]}))\n"
        "display({'application/vnd.plotly.v1+json': {'data': [{'y': [1, 2]}], 'layout': {}}}, raw=True)"
    )

    outputs = sandbox.execute_cell(code).outputs

    assert outputs[0]['data']['application/json'] == {'a': [1, None]}
    assert outputs[1]['data']['application/vnd.plotly.v1+json']['data'] == [{'y': [1, 2]}]


def test_a_plot_is_a_picture_of_what_was_drawn(sandbox: NotebookSandbox) -> None:
    if sandbox.execute_cell('import matplotlib').error is not None:
        pytest.skip('the Python of this sandbox has no matplotlib')
    code = (
        '%matplotlib inline\n'
        'import matplotlib.pyplot as plt\n'
        "fig, ax = plt.subplots(figsize=(3, 2), dpi=80)\nax.plot([1, 4, 2], color='#ff0000', linewidth=6)\n"
        'plt.show()'
    )

    result = sandbox.execute_cell(code)

    data = next(each['data'] for each in result.outputs if 'image/png' in each.get('data', {}))
    width, height, colours = pixels(base64.b64decode(data['image/png']))
    assert 100 < width < 400
    assert 80 < height < 300
    assert b'\xff\x00\x00' in colours
    assert b'\xff\xff\xff' in colours
    assert 'Figure' in result.text


def test_a_huge_value_is_marked_and_the_kernel_continues(sandbox: NotebookSandbox) -> None:
    big = sandbox.execute_cell("from IPython.display import HTML\nHTML('x' * 20_000_000)")
    huge = sandbox.execute_cell("HTML('x' * 40_000_000)")

    assert 'left out: text/html of 20000000 bytes' in big.text
    assert big.outputs[0]['metadata']['enclave'] == {'left_out': {'text/html': 20000000}}
    assert 'too large' in huge.text
    assert sandbox.execute_cell('_used').text == 'True'


def test_a_failing_cell_keeps_its_output_and_has_a_clean_traceback(sandbox: NotebookSandbox) -> None:
    result = sandbox.execute_tool('notebook_executor', {'code': "print('before')\nraise ValueError('no \\x1b[31mred')"})

    assert result.status is ExecutionStatus.ERROR
    assert result.output == 'before\n'
    assert result.error is not None
    assert result.error.endswith('ValueError: no red')
    assert '\x1b' not in json.dumps(result.model_dump(mode='json'))
    assert result.metadata['error']['name'] == 'ValueError'


def test_escape_codes_stay_where_asked_for(sandbox: NotebookSandbox) -> None:
    result = sandbox.execute_cell('1/0', keep_escapes=True)

    assert result.error is not None
    assert '\x1b[' in result.error.traceback


def test_a_syntax_error_is_an_error(sandbox: NotebookSandbox) -> None:
    result = sandbox.execute_cell('def (')

    assert result.error is not None
    assert result.error.name == 'SyntaxError'


@pytest.mark.parametrize('size', [20_000_000, 40_000_000])
def test_a_huge_error_is_an_error_with_head_and_tail(sandbox: NotebookSandbox, size: int) -> None:
    result = sandbox.execute_cell(f"raise ValueError('start' + 'x' * {size} + 'end')", max_output_bytes=10_000)

    assert result.status is ExecutionStatus.ERROR
    assert result.error is not None
    assert result.error.name == 'ValueError'
    assert result.error.value.startswith('start')
    assert result.error.value.endswith('end')
    assert len(result.error.value) + len(result.error.traceback) < 21_000
    assert [each['output_type'] for each in result.outputs] == ['error']


def test_a_group_of_exceptions_has_a_traceback_and_is_no_standard_error(sandbox: NotebookSandbox) -> None:
    if sandbox.execute_cell('ExceptionGroup').error is not None:
        pytest.skip('the Python of this sandbox has no groups')
    result = sandbox.execute_cell("raise ExceptionGroup('both', [ValueError('a'), TypeError('b')])")

    assert result.error is not None
    assert result.error.name == 'ExceptionGroup'
    assert 'ValueError: a' in result.error.traceback
    assert 'interactiveshell.py' not in result.error.traceback
    assert result.stderr == ''
    assert [each['output_type'] for each in result.outputs] == ['error']


def test_a_magic_that_is_none_is_an_error_of_its_own(sandbox: NotebookSandbox) -> None:
    sandbox.execute_cell('1/0')

    result = sandbox.execute_cell('%%nosuch\nx')

    assert result.error is not None
    assert result.error.name == 'UsageError'
    assert result.error.traceback == 'UsageError: Cell magic `%%nosuch` not found.'
    assert [each['output_type'] for each in result.outputs] == ['error']


def test_displays_are_updated_and_cleared_as_in_a_notebook(sandbox: NotebookSandbox) -> None:
    updated = sandbox.execute_cell(
        "from IPython.display import clear_output, display\nh = display('old', display_id=True)\nh.update('new')"
    )
    later = sandbox.execute_cell("h.update('newest')")
    cleared = sandbox.execute_cell("print('gone')\nclear_output()\nprint('stays')")

    assert updated.text == "'new'"
    assert [each['data']['text/plain'] for each in later.display_updates] == ["'newest'"]
    assert later.outputs == []
    assert cleared.text == 'stays\n'


def test_a_progress_bar_shows_its_last_state(sandbox: NotebookSandbox) -> None:
    code = (
        'import sys, time\n'
        "for n in range(0, 101, 20):\n    sys.stderr.write(f'\\r{n:3}%')\n    sys.stderr.flush()\n    time.sleep(0.01)\n"
        "sys.stderr.write('\\n')"
    )

    assert sandbox.execute_cell(code).stderr.strip() == '100%'


def test_a_bar_that_erases_lines_and_moves_up_shows_its_last_state(sandbox: NotebookSandbox) -> None:
    program = sandbox.execute_cell("!printf 'Get 10%%\\r\\033[KGet 100%%\\r\\033[KDone\\n'")
    nested = sandbox.execute_cell("for n in range(9): print(f'\\router {n}\\n\\rinner {n}', end='\\x1b[A', flush=True)")

    assert program.text == program.stdout == program.outputs[0]['text'] == 'Done\n'
    assert nested.text == 'outer 8\ninner 8'


def test_colours_are_in_the_outputs_and_not_in_the_text(sandbox: NotebookSandbox) -> None:
    result = sandbox.execute_cell("print('\\x1b[2J\\x1b[H\\x1b[31mhello\\x1b[0m\\x07')")

    assert result.text == 'hello\n'
    assert result.outputs[0]['text'] == '\x1b[31mhello\x1b[0m\x07\n'


@pytest.mark.parametrize('code', ["input('name? ')", 'import getpass\ngetpass.getpass()'])
def test_asking_for_input_is_a_clear_error_at_once(sandbox: NotebookSandbox, code: str) -> None:
    result = sandbox.execute_tool('notebook_executor', {'code': code})

    assert result.status is ExecutionStatus.ERROR
    assert result.error is not None
    assert 'put the value into the code' in result.error
    assert (result.execution_time or 0) < 30


def test_ten_thousand_lines_all_come(sandbox: NotebookSandbox) -> None:
    result = sandbox.execute_cell('for n in range(10_000): print(n)')

    assert result.stdout == ''.join(f'{n}\n' for n in range(10_000))


def test_a_fast_loop_of_displays_loses_nothing(sandbox: NotebookSandbox) -> None:
    seen: list[str] = []

    result = sandbox.execute_cell(
        'from IPython.display import display\nfor n in range(5_000): display(n)',
        on_output=lambda output: seen.append(output['data']['text/plain']),
    )

    assert seen == [str(n) for n in range(5_000)]
    assert result.outputs_left_out == 4_000


def test_a_value_and_an_error_after_too_many_outputs_are_kept(sandbox: NotebookSandbox) -> None:
    displays = 'from IPython.display import display\nfor n in range(1200): display(n)\n'

    shown = sandbox.execute_cell(f"{displays}'THE RESULT'")
    failed = sandbox.execute_cell(f'{displays}1/0')

    assert shown.text.endswith("\n[... 200 further outputs left out ...]\n'THE RESULT'")
    for result, kind in ((shown, 'execute_result'), (failed, 'error')):
        assert [each['output_type'] for each in result.outputs[-2:]] == ['display_data', kind]
        assert result.outputs[-2]['metadata'] == {'enclave': {'outputs_left_out': 200}}


def test_output_over_the_cap_keeps_head_and_tail(sandbox: NotebookSandbox) -> None:
    result = sandbox.execute_cell("print('start' + 'x' * 100_000 + 'end')", max_output_bytes=1000)

    assert result.stdout_truncated
    assert result.stdout_bytes == 100_009
    assert result.stdout.startswith('start')
    assert result.stdout.endswith('end\n')
    assert len(result.stdout) < 1200


@pytest.mark.parametrize(
    ('code', 'stream', 'size'),
    [
        ("print('start' + 'x' * 60_000_000 + 'end')", 'stdout', 60_000_009),
        ("print('start')\nfor _ in range(400): print('x' * 100_000)\nprint('end')", 'stdout', 40_000_410),
        ("import sys\nprint('start' + 'x' * 40_000_000 + 'end', file=sys.stderr)", 'stderr', 40_000_009),
    ],
)
def test_a_burst_over_what_one_message_may_hold_keeps_head_tail_and_size(
    sandbox: NotebookSandbox, code: str, stream: str, size: int
) -> None:
    result = sandbox.execute_cell(code, max_output_bytes=1000)

    text = getattr(result, stream)
    assert (result.status, result.stdout_bytes + result.stderr_bytes) == (ExecutionStatus.SUCCESS, size)
    assert getattr(result, f'{stream}_truncated')
    assert text.startswith('start')
    assert text.endswith('end\n')
    assert len(text) < 1200


def test_a_last_line_without_an_end_is_within_the_cap(sandbox: NotebookSandbox) -> None:
    result = sandbox.execute_cell("print('x' * 60_000, end='')", max_output_bytes=100)

    assert len(result.text) < 200
    assert result.text == result.stdout == result.outputs[0]['text']


def test_help_is_text(sandbox: NotebookSandbox) -> None:
    *outputs, result = sandbox.stream_cell('len?')

    assert result.success
    assert 'number of items' in result.text
    assert '\x1b' not in result.text
    assert outputs == result.outputs


def test_outputs_are_streamed_as_they_come(sandbox: NotebookSandbox) -> None:
    code = "print('first', flush=True)\nimport pathlib, time\nwhile not pathlib.Path('go').exists(): time.sleep(0.01)\n'done'"
    steps = sandbox.stream_cell(code, 60)

    first = next(steps)
    sandbox.write_file('go', b'')
    rest = list(steps)

    assert first == {'output_type': 'stream', 'name': 'stdout', 'text': 'first\n'}
    assert [type(each).__name__ for each in rest] == ['dict', 'CellResult']


def test_sandbox_verbs_and_cells_see_the_same_files(sandbox: NotebookSandbox) -> None:
    sandbox.write_file('in.txt', b'hello')

    result = sandbox.execute_cell("open('out.txt', 'w').write(open('in.txt').read().upper())")

    assert result.success
    assert sandbox.read_file('out.txt') == b'HELLO'
    assert sandbox.execute_command(['cat', 'out.txt']).stdout == 'HELLO'
