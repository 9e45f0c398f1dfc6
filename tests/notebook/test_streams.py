"""Outputs as they come, and what no kernel is asked for; of a sandbox of this process, and of a server's."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from enclave.cancellation import Cancellation
from enclave.cells import CellResult
from enclave.enums import ExecutionStatus
from enclave.errors import CallCancelledError, ConflictError, InvalidArgumentError, NotFoundError
from enclave.sandboxes.notebook.sandbox import NotebookSandbox

pytestmark = pytest.mark.docker

WAIT_FOR_GO = "import os, time\nwhile not os.path.exists('/sandbox/go'): time.sleep(0.01)\nos.remove('/sandbox/go')\n"


def texts(steps: Any) -> list[str]:
    return [step['text'] for step in steps if isinstance(step, dict) and 'text' in step]


def test_an_output_comes_before_the_cell_ends(sandbox: NotebookSandbox) -> None:
    steps = sandbox.stream_cell(f"print('first', flush=True)\n{WAIT_FOR_GO}print('last')\n7")

    first = next(steps)
    sandbox.write_file('/sandbox/go', b'')
    *outputs, result = steps

    assert first == {'output_type': 'stream', 'name': 'stdout', 'text': 'first\n'}
    assert [each['output_type'] for each in outputs if isinstance(each, dict)] == ['stream', 'execute_result']
    assert isinstance(result, CellResult)
    assert result.text == 'first\nlast\n7'


def test_every_kind_of_output_comes_as_it_is(sandbox: NotebookSandbox) -> None:
    code = """
import sys
from IPython.display import HTML, clear_output, display
print('out'); sys.stdout.flush()
print('err', file=sys.stderr); sys.stderr.flush()
shown = display(HTML('<b>bold</b>'), display_id='mine')
shown.update(HTML('<i>new</i>'))
clear_output(wait=True)
display({'a': [1, None, 2.5]})
1/0
"""

    *outputs, result = sandbox.stream_cell(code)

    kinds = [each['output_type'] for each in outputs if isinstance(each, dict)]
    assert kinds == ['stream', 'stream', 'display_data', 'update_display_data', 'clear_output', 'display_data', 'error']
    assert [each.get('display_id') for each in outputs[2:6] if isinstance(each, dict)] == ['mine', 'mine', None, None]
    assert outputs[3] == {
        'output_type': 'update_display_data',
        'display_id': 'mine',
        'data': {'text/plain': '<IPython.core.display.HTML object>', 'text/html': '<i>new</i>'},
        'metadata': {},
    }
    assert isinstance(result, CellResult)
    assert 'display_id' not in result.outputs[0]  # no notebook has that
    assert result.error is not None
    assert result.error.name == 'ZeroDivisionError'


def test_a_callback_is_called_on_the_thread_of_the_caller(sandbox: NotebookSandbox) -> None:
    called: list[tuple[int, str]] = []

    result = sandbox.execute_cell(
        'for n in range(3): print(n, flush=True)',
        on_output=lambda output: called.append((threading.get_ident(), output['text'])),
    )

    assert ''.join(text for _, text in called) == result.stdout == '0\n1\n2\n'
    assert {thread for thread, _ in called} == {threading.get_ident()}


def test_what_a_callback_raises_ends_the_cell(sandbox: NotebookSandbox) -> None:
    def fail(_: dict[str, Any]) -> None:
        raise KeyError('mine')

    with pytest.raises(KeyError, match='mine'):
        sandbox.execute_cell('print(1, flush=True)\nimport time\ntime.sleep(600)', on_output=fail)

    assert sandbox.execute_cell('_used').text == 'True'


def test_a_large_output_is_streamed_whole(sandbox: NotebookSandbox) -> None:
    *outputs, result = sandbox.stream_cell(
        "from IPython.display import HTML, display\ndisplay(HTML('é' * 3_000_000))\nprint('after')"
    )

    assert isinstance(outputs[0], dict)
    assert outputs[0]['data']['text/html'] == 'é' * 3_000_000
    assert isinstance(result, CellResult)
    assert result.outputs[0]['data']['text/html'] == 'é' * 3_000_000
    assert texts(outputs) == ['after\n']


def test_the_options_of_a_cell_arrive(sandbox: NotebookSandbox) -> None:
    before = sandbox.execute_cell('1').execution_count or 0

    silent = sandbox.execute_cell('5', silent=True)
    unstored = sandbox.execute_cell('5', store_history=False)
    capped = sandbox.execute_cell("print('x' * 100_000)", max_output_bytes=1000)
    coloured = sandbox.execute_cell('1/0', keep_escapes=True)

    assert (silent.text, unstored.text) == ('', '5')
    assert capped.execution_count == before + 1
    assert (capped.stdout_truncated, capped.stdout_bytes) == (True, 100_001)
    assert len(capped.stdout) < 2000
    assert coloured.error is not None
    assert '\x1b[' in coloured.error.traceback


def test_a_streamed_cells_time_limit_keeps_what_came(sandbox: NotebookSandbox) -> None:
    *outputs, result = sandbox.stream_cell("print('so far', flush=True)\nimport time\ntime.sleep(600)", 0.5)

    assert texts(outputs) == ['so far\n']
    assert isinstance(result, CellResult)
    assert result.timed_out
    assert result.state_lost is None


def test_a_streamed_cells_dead_kernel_is_reported(sandbox: NotebookSandbox) -> None:
    *_, result = sandbox.stream_cell('import os\nos._exit(9)')

    assert isinstance(result, CellResult)
    assert result.state_lost == 'ended with exit code 9'


def test_cancelling_a_streamed_cell_reports_its_end(sandbox: NotebookSandbox) -> None:
    cancellation = Cancellation()

    with cancellation.applied():
        steps = sandbox.stream_cell("print('on', flush=True)\nimport time\ntime.sleep(600)")
        next(steps)
        cancellation.cancel()
        *_, result = steps

    assert isinstance(result, CellResult)
    assert result.status is ExecutionStatus.CANCELLED
    assert sandbox.execute_cell('_used').text == 'True'


def test_a_cell_cancelled_before_it_began_does_not_run(sandbox: NotebookSandbox) -> None:
    cancellation = Cancellation()
    cancellation.cancel()

    with cancellation.applied():
        for run in (sandbox.execute_cell, lambda code: list(sandbox.stream_cell(code))):
            with pytest.raises(CallCancelledError):
                run('ran = True')

    assert sandbox.execute_cell("'ran' in globals()").text == 'False'


def test_streams_of_two_kernels_go_on_at_once(sandbox: NotebookSandbox) -> None:
    sandbox.create_kernel('second')
    held = sandbox.stream_cell(f"print('held', flush=True)\n{WAIT_FOR_GO}")
    next(held)

    assert texts(sandbox.stream_cell("print('beside')", kernel='second')) == ['beside\n']
    sandbox.write_file('/sandbox/go', b'')

    assert isinstance(list(held)[-1], CellResult)
    sandbox.delete_kernel('second')


@pytest.mark.parametrize(
    ('call', 'error', 'message'),
    [
        (lambda box: box.execute_cell(5), InvalidArgumentError, 'code must be a string'),
        (lambda box: box.stream_cell('x' * (9 << 20)), InvalidArgumentError, 'the limit is'),
        (lambda box: box.execute_cell('1', max_output_bytes=0), InvalidArgumentError, 'max_output_bytes'),
        (lambda box: box.execute_cell('1', -1), InvalidArgumentError, 'timeout'),
        (lambda box: box.execute_cell('1', '5'), InvalidArgumentError, 'timeout'),
        (lambda box: box.execute_cell('1', kernel='nope'), NotFoundError, "no kernel 'nope'"),
        (lambda box: box.execute_cell('1', kernel='../x'), NotFoundError, r"no kernel '\.\./x'"),
        (lambda box: box.execute_cell('1', kernel=7), NotFoundError, 'no kernel 7'),
        (lambda box: next(box.stream_cell('1', kernel='nope')), NotFoundError, "no kernel 'nope'"),
        (lambda box: box.complete_code('ab', 3), InvalidArgumentError, 'cursor'),
        (lambda box: box.complete_code('ab', kernel='nope'), NotFoundError, "no kernel 'nope'"),
        (lambda box: box.inspect_code('ab', detail=2), InvalidArgumentError, 'detail'),
        (lambda box: box.check_complete('ab', kernel=''), NotFoundError, "no kernel ''"),
        (lambda box: box.list_variables(kernel='a b'), NotFoundError, "no kernel 'a b'"),
        (lambda box: box.list_variables(timeout=-1), InvalidArgumentError, 'timeout'),
        (lambda box: box.create_kernel('../x'), InvalidArgumentError, "a kernel's name"),
        (lambda box: box.create_kernel('x', env={'A=': 'b'}), InvalidArgumentError, 'env'),
        (lambda box: box.create_kernel('x', cwd='a\0b'), InvalidArgumentError, '(path|cwd) must not contain NUL'),
        (lambda box: box.create_kernel('x', 'fortran'), NotFoundError, 'python3'),
        (lambda box: box.create_kernel('default'), ConflictError, "'default'"),
        (lambda box: box.delete_kernel('nope'), NotFoundError, "no kernel 'nope'"),
        (lambda box: box.restart_kernel('nope/../x'), NotFoundError, 'no kernel'),
        (lambda box: box.interrupt_kernel('é'), NotFoundError, 'no kernel'),
    ],
)
def test_what_cannot_be_is_refused_in_the_same_way(
    sandbox: NotebookSandbox, call: Callable[[Any], object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        call(sandbox)


def test_a_kernel_that_may_exist_already(sandbox: NotebookSandbox) -> None:
    assert sandbox.create_kernel('default', exist_ok=True).name == 'default'
    assert [info.name for info in sandbox.list_kernels()] == ['default']
