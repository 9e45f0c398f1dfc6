"""What other people's notebooks and kernels do, and slow readers of cells, with real kernels."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable
from typing import Any

import pytest

from enclave.cancellation import Cancellation
from enclave.cells import CellResult
from enclave.enums import ExecutionStatus
from enclave.errors import ConflictError, InvalidArgumentError
from enclave.sandboxes.notebook.sandbox import NotebookSandbox

nbformat = pytest.importorskip('nbformat')

from enclave.sandboxes.notebook.document import NotebookDocument  # noqa: E402


def read_slowly(sandbox: NotebookSandbox, code: str, timeout: float, seconds: float) -> tuple[list[Any], CellResult]:
    """Take the first output of a cell, none for a while, and then all others."""
    outputs, pause = [], threading.Event()
    with contextlib.closing(sandbox.stream_cell(code, timeout)) as steps:
        for step in steps:
            if isinstance(step, CellResult):
                return outputs, step
            if not outputs:
                pause.wait(seconds)
            outputs.append(step)
    raise AssertionError('there was no result')


# A cell's limit is watched apart from its reader ----------------------------------------------------------------------


def test_a_slow_reader_makes_no_timeout_of_a_cell_that_has_ended(sandbox: NotebookSandbox) -> None:
    sandbox.execute_cell('x = 5')

    outputs, result = read_slowly(sandbox, "print('a', flush=True)\nprint('b')", 8, 9)

    assert result.status is ExecutionStatus.SUCCESS
    assert ''.join(each['text'] for each in outputs) == 'a\nb\n'
    assert result.execution_time < 8
    assert sandbox.execute_cell('x').text == '5'


def test_with_more_outputs_than_are_held_here_too_nothing_is_lost_and_the_kernel_stays(
    sandbox: NotebookSandbox,
) -> None:
    sandbox.execute_cell('from IPython.display import display\nx = 5')

    outputs, result = read_slowly(sandbox, 'for n in range(1500): display(n)', 20, 21)

    assert (result.status, result.state_lost) == (ExecutionStatus.SUCCESS, None)
    assert [each['data']['text/plain'] for each in outputs] == [str(n) for n in range(1500)]
    assert sandbox.execute_cell('x').text == '5'


ENDLESS = """\
import pathlib, time
print('a', flush=True)
try:
    while True:
        time.sleep(0.1)
finally:
    pathlib.Path('/tmp/ended').touch()
"""


def wait_until_ended(sandbox: NotebookSandbox) -> None:
    """Return when the endless cell has ended, whatever is read of it."""
    command = 'until [ -e /tmp/ended ]; do sleep 0.1; done; rm /tmp/ended'
    assert sandbox.execute_command(command, timeout=120).success


def test_a_cell_that_does_not_end_is_ended_at_its_limit_though_nobody_reads(sandbox: NotebookSandbox) -> None:
    with contextlib.closing(sandbox.stream_cell(ENDLESS, 2)) as steps:
        next(steps)

        wait_until_ended(sandbox)

        *_, result = steps
    assert isinstance(result, CellResult)
    assert result.status is ExecutionStatus.TIMEOUT


def test_what_is_cancelled_is_interrupted_though_nobody_reads(sandbox: NotebookSandbox) -> None:
    cancellation = Cancellation()
    with contextlib.closing(sandbox.stream_cell(ENDLESS, 100)) as steps:
        with cancellation.applied():
            next(steps)
        cancellation.cancel()

        wait_until_ended(sandbox)

        with cancellation.applied():
            *_, result = steps
    assert isinstance(result, CellResult)
    assert result.status is ExecutionStatus.CANCELLED


def test_one_that_stops_reading_holds_up_no_other_and_finds_the_rest_later(sandbox: NotebookSandbox) -> None:
    code = 'from IPython.display import display\nx = 5\nfor n in range(1200): display(n)'
    with contextlib.closing(sandbox.stream_cell(code, 0)) as steps:
        first = next(steps)

        assert sandbox.execute_cell('x').text == '5'
        sandbox.restart_kernel()
        assert sandbox.execute_cell("'x' in globals()").text == 'False'

        *others, result = steps
    assert isinstance(result, CellResult)
    assert (result.status, result.note, result.state_lost) == (ExecutionStatus.SUCCESS, None, None)
    assert [each['data']['text/plain'] for each in [first, *others]] == [str(n) for n in range(1200)]


def test_a_restart_does_not_wait_for_one_that_stops_reading(sandbox: NotebookSandbox) -> None:
    with contextlib.closing(sandbox.stream_cell("while True: print('x' * 1000)", 0)) as steps:
        next(steps)

        sandbox.restart_kernel()

        *_, result = steps
    assert isinstance(result, CellResult)
    assert result.state_lost == 'was restarted'
    assert sandbox.execute_cell('1').execution_count == 1


# What is an error, and what only shows one ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    'code',
    [
        'try:\n    1/0\nexcept Exception:\n    get_ipython().showtraceback()',
        "_ = get_ipython().run_cell('1/0')",
        "get_ipython().showtraceback((ValueError, ValueError('x'), None))",
    ],
)
def test_an_error_that_is_only_shown_does_not_fail_the_cell(sandbox: NotebookSandbox, code: str) -> None:
    result = sandbox.execute_tool('notebook_executor', {'code': f"{code}\nprint('after')"})

    assert (result.status, result.error, result.metadata['error']) == (ExecutionStatus.SUCCESS, None, None)
    assert 'after\n' in result.output
    assert result.metadata['outputs'][0]['output_type'] == 'error'


def test_an_error_after_one_that_was_shown_is_the_cells(sandbox: NotebookSandbox) -> None:
    result = sandbox.execute_cell(
        "try:\n    1/0\nexcept Exception:\n    get_ipython().showtraceback()\nraise KeyError('own')"
    )

    assert result.error is not None
    assert (result.status, result.error.name) == (ExecutionStatus.ERROR, 'KeyError')
    assert [each['ename'] for each in result.outputs] == ['ZeroDivisionError', 'KeyError']


@pytest.mark.parametrize(
    'method', ['def __str__(self): raise ValueError(1)', 'def __str__(self): return 5', 'def __str__(self): 1/0']
)
def test_an_error_without_a_text_is_one_error_and_its_traceback_holds_no_frame_of_ours(
    sandbox: NotebookSandbox, method: str
) -> None:
    result = sandbox.execute_cell(f'class Odd(Exception):\n    {method}\ndef f():\n    raise Odd\nf()')

    assert result.error is not None
    assert (result.error.name, result.error.value) == ('Odd', '<exception str() failed>')
    assert len(result.outputs) == 1
    assert 'raise Odd' in result.error.traceback
    assert 'ipykernel/' not in result.error.traceback
    assert '<string>' not in result.error.traceback


@pytest.mark.parametrize(
    ('code', 'name'),
    [
        ('10**5000', 'ValueError'),
        ("class Odd:\n    def __repr__(self): raise KeyError('own')\nOdd()", 'KeyError'),
        ("class Odd:\n    def _repr_html_(self): raise KeyError('own')\n5\nOdd()", 'KeyError'),
        ("class Odd:\n    def _ipython_display_(self): raise OSError('own')\nOdd()", 'OSError'),
    ],
)
def test_a_value_that_cannot_be_shown_is_one_error_by_its_own_name(
    sandbox: NotebookSandbox, code: str, name: str
) -> None:
    result = sandbox.execute_cell(code)

    assert [each['ename'] for each in result.outputs if each['output_type'] == 'error'] == [name]
    assert result.error is None or result.error.name == name  # before version 7, ipykernel does not fail such a cell
    assert sandbox.execute_cell('1').success


def test_a_nested_cell_whose_value_cannot_be_shown_does_not_fail_the_cell(sandbox: NotebookSandbox) -> None:
    result = sandbox.execute_cell("_ = get_ipython().run_cell('10**5000')\n7")

    assert (result.status, result.error) == (ExecutionStatus.SUCCESS, None)
    assert [each['output_type'] for each in result.outputs] == ['error', 'execute_result']


POOL = """\
from multiprocessing.pool import ThreadPool
def bad(value): raise ValueError(value)
with ThreadPool(1) as pool: pool.{call}
"""
CALLBACK = """\
from concurrent.futures import Future
def bad(value): raise ValueError(1)
future = Future()
future.add_done_callback(bad)
future.set_result(1)
"""


@pytest.mark.parametrize(
    'code',
    [
        POOL.format(call='apply(bad, (1,))'),
        POOL.format(call='map(bad, [1])'),
        POOL.format(call='map(bad, 5)'),
        POOL.format(call='starmap(bad, [(1,)])'),
        POOL.format(call='imap(bad, [1]).next()'),
        CALLBACK,
        'import threading\nthread = threading.Thread(target=int)\nthread.start()\nthread.start()',
        "from IPython.display import display\ndisplay('x', metadata={'a': object()})",
        "get_ipython().run_line_magic('pdb', 'on')\n1/0",
    ],
)
def test_the_traceback_of_an_error_holds_no_frame_of_ours(sandbox: NotebookSandbox, code: str) -> None:
    result = sandbox.execute_cell(code)
    sandbox.execute_cell("get_ipython().run_line_magic('pdb', 'off')\nimport sys")

    shown = result.stderr + ''.join('\n'.join(each.get('traceback', ())) for each in result.outputs)
    assert 'Error' in shown
    # Before, Python adds to the traceback of what is raised again.
    if sandbox.execute_cell('sys.version_info >= (3, 11)').text == 'True':
        assert '<string>' not in shown


# What is kept ---------------------------------------------------------------------------------------------------------


def test_every_character_that_a_cell_writes_is_in_its_output(sandbox: NotebookSandbox) -> None:
    text = (
        ''.join(map(chr, range(32))).replace('\a', '').replace('\b', '').replace('\r', '').replace('\x1b', '') + '\x7f'
    )

    result = sandbox.execute_tool('notebook_executor', {'code': f'print({text!r}, end="")'})

    assert result.output == result.metadata['stdout'] == text


def test_tracebacks_have_their_colours_in_outputs_alone(sandbox: NotebookSandbox) -> None:
    result = sandbox.execute_cell('1/0')

    assert result.error is not None
    assert '\x1b[' in ''.join(result.outputs[0]['traceback'])
    assert '\x1b' not in result.error.traceback


def test_an_update_reaches_earlier_cells_that_show_the_same_display(sandbox: NotebookSandbox) -> None:
    document = NotebookDocument()
    document.add("from IPython.display import display, update_display\n_ = display('a', display_id='same')")
    document.add("_ = display('b', display_id='same')\nupdate_display('c', display_id='same')")
    document.add("update_display('d', display_id='same')\n_ = display('e', display_id='same')")

    document.run(sandbox)

    shown = [[output['data']['text/plain'] for output in cell.outputs] for cell in document.node.cells]
    assert shown == [["'d'"], ["'d'"], ["'e'"]]


def test_a_notebook_is_written_with_its_language_its_times_and_coloured_tracebacks(sandbox: NotebookSandbox) -> None:
    document = NotebookDocument()
    document.add('1')
    document.add('1/0')

    document.run(sandbox)

    node = nbformat.reads(document.dumps(), as_version=4)
    assert node.metadata.language_info.name == 'python'
    assert node.metadata.language_info.file_extension == '.py'
    execution = node.cells[0].metadata.execution
    order = ['iopub.status.busy', 'iopub.execute_input', 'shell.execute_reply', 'iopub.status.idle']
    assert sorted(execution) == sorted(order)
    assert execution[order[0]] <= execution[order[1]] <= execution[order[3]]
    assert '\x1b[' in ''.join(node.cells[1].outputs[0].traceback)


COMM = (
    'from comm import create_comm\n'
    "state = {'_model_name': 'IntSliderModel', '_model_module': '@jupyter-widgets/controls', "
    "'_model_module_version': '2.0.0', 'value': 3, 'old': 1}\n"
    "data = {'state': state, 'buffer_paths': [['pixels']]}\n"
    "slider = create_comm(target_name='jupyter.widget', comm_id='slider', data=data, buffers=[b'abc'])"
)


def test_the_state_of_widgets_is_written_and_that_of_an_earlier_run_is_not_kept(sandbox: NotebookSandbox) -> None:
    document = NotebookDocument()
    document.add(COMM)
    document.add("slider.send({'method': 'update', 'state': {'value': 7}, 'buffer_paths': []})")
    document.node.metadata['widgets'] = {
        'application/vnd.jupyter.widget-state+json': {'state': {'old': {}}, 'version_major': 2, 'version_minor': 0}
    }

    document.run(sandbox)

    stored = nbformat.reads(document.dumps(), as_version=4).metadata.widgets
    models = stored['application/vnd.jupyter.widget-state+json']['state']
    assert list(models) == ['slider']
    assert models.slider.model_name == 'IntSliderModel'
    assert (models.slider.state.value, models.slider.state.old) == (7, 1)
    assert models.slider.buffers == [{'encoding': 'base64', 'path': ['pixels'], 'data': 'YWJj'}]


# Input ----------------------------------------------------------------------------------------------------------------


def test_a_cell_that_may_ask_gets_what_is_typed(sandbox: NotebookSandbox) -> None:
    asked = []

    def answer(prompt: str, is_hidden: bool) -> str:
        asked.append((prompt, is_hidden))
        return f'answer {len(asked)}'

    code = "import getpass\nprint(input('name? '))\nprint(getpass.getpass('secret? '))"
    result = sandbox.execute_cell(code, on_input=answer)

    assert result.stdout == 'answer 1\nanswer 2\n'
    assert asked == [('name? ', False), ('secret? ', True)]


def test_the_end_of_input_is_one_for_the_cell(sandbox: NotebookSandbox) -> None:
    result = sandbox.execute_cell('input()', on_input=lambda prompt, is_hidden: None)

    assert result.error is not None
    assert result.error.name == 'EOFError'


def test_who_does_not_answer_but_leaves_interrupts_the_cell(sandbox: NotebookSandbox) -> None:
    sandbox.execute_cell('x = 5')
    steps = sandbox.stream_cell("input('?')", allow_input=True)
    assert next(steps) == {'output_type': 'input_request', 'prompt': '?', 'password': False}
    steps.close()

    assert sandbox.execute_cell('x').text == '5'


def test_an_answer_that_nobody_waits_for_is_refused(sandbox: NotebookSandbox) -> None:
    with pytest.raises(ConflictError, match='waits for input'):
        sandbox.answer_input('x')
    with pytest.raises(InvalidArgumentError, match='text must be a string'):
        sandbox.answer_input(3)  # type: ignore[arg-type]


def test_without_leave_to_ask_input_fails_at_once(sandbox: NotebookSandbox) -> None:
    result = sandbox.execute_cell('input()')

    assert result.error is not None
    assert result.error.name == 'StdinNotImplementedError'


# Kernels that are not Python's own ------------------------------------------------------------------------------------

# A kernel in Python that is not ipykernel's own, and sends a message for each line.
LINES_KERNEL = """\
from ipykernel.kernelapp import IPKernelApp
from ipykernel.kernelbase import Kernel

class Lines(Kernel):
    implementation = banner = 'lines'
    implementation_version = '1'
    language_info = {'name': 'lines', 'mimetype': 'text/plain', 'file_extension': '.txt'}

    def do_execute(self, code, silent, store_history=True, user_expressions=None, allow_stdin=False):
        for number in range(int(code)):
            self.send_response(self.iopub_socket, 'stream', {'name': 'stdout', 'text': '%d\\n' % number})
        return {'status': 'ok', 'execution_count': self.execution_count, 'payload': [], 'user_expressions': {}}

IPKernelApp.launch_instance(kernel_class=Lines)
"""


@pytest.mark.parametrize('how', ['path', 'module', 'program'])
def test_a_kernel_of_another_kind_loses_no_line(start: Callable[..., NotebookSandbox], how: str) -> None:
    sandbox = start(timeout=120)
    home = sandbox.execute_command('echo $HOME').stdout.strip()
    python = sandbox.execute_cell('import sys; print(sys.executable)').stdout.strip()
    sandbox.write_file(f'{home}/lines_kernel.py', LINES_KERNEL)
    argv = {
        'path': ['python3', f'{home}/lines_kernel.py'],
        'module': ['python3', '-X', 'utf8', '-m', 'lines_kernel'],
        'program': ['env', python, f'{home}/lines_kernel.py'],
    }[how]
    spec = {'argv': [*argv, '-f', '{connection_file}'], 'language': 'lines', 'display_name': 'Lines'}
    text = json.dumps({**spec, 'env': {'PYTHONPATH': home}})
    sandbox.write_file(f'{home}/.local/share/jupyter/kernels/lines/kernel.json', text)
    sandbox.create_kernel('lines', 'lines')

    count = 30_000 if how != 'program' else 8000
    result = sandbox.execute_cell(str(count), kernel='lines', max_output_bytes=1 << 20)

    assert result.stdout == ''.join(f'{number}\n' for number in range(count))
    assert not result.stdout_truncated


# It says that it is idle before it has sent what its cell printed, as Deno's does.
LATE_KERNEL = LINES_KERNEL.replace(
    '        for number in range(int(code)):\n'
    "            self.send_response(self.iopub_socket, 'stream', {'name': 'stdout', 'text': '%d\\n' % number})\n",
    '        import threading\n'
    '        parent = self.get_parent()\n'
    '        def print_lines():\n'
    '            for number in range(int(code)):\n'
    "                text = {'name': 'stdout', 'text': '%d\\n' % number}\n"
    "                self.session.send(self.iopub_socket, 'stream', text, parent=parent)\n"
    '        threading.Timer(0.05, print_lines).start()\n',
)


def test_output_that_comes_after_the_end_of_its_cell_is_taken_and_the_note_says_so(
    start: Callable[..., NotebookSandbox],
) -> None:
    assert LATE_KERNEL != LINES_KERNEL
    sandbox = start(timeout=120)
    home = sandbox.execute_command('echo $HOME').stdout.strip()
    python = sandbox.execute_cell('import sys; print(sys.executable)').stdout.strip()
    sandbox.write_file(f'{home}/late_kernel.py', LATE_KERNEL)
    argv = ['env', python, f'{home}/late_kernel.py', '-f', '{connection_file}']
    text = json.dumps({'argv': argv, 'language': 'lines', 'display_name': 'Late'})
    sandbox.write_file(f'{home}/.local/share/jupyter/kernels/late/kernel.json', text)
    sandbox.create_kernel('late', 'late')

    result = sandbox.execute_cell('200', kernel='late')

    assert result.stdout == ''.join(f'{number}\n' for number in range(200))
    assert result.note is not None
    assert 'after it has said that a cell ended' in result.note
