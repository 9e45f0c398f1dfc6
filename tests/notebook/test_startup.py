"""What Python's kernel bears, prepared as ours is, that would otherwise cost it a cell's output or the cell's end."""

from __future__ import annotations

import pytest

from enclave.sandboxes.notebook.sandbox import NotebookSandbox


def test_a_lone_surrogate_costs_no_output_around_it(sandbox: NotebookSandbox) -> None:
    result = sandbox.execute_cell(
        "import sys\nprint('before')\nprint('\\ud800', '\\udcff', '\\ud83d\\ude00')\nprint('after')\n"
        "print('\\ud800', file=sys.stderr)"
    )

    assert result.success
    assert result.stdout == 'before\n\ufffd \ufffd \U0001f600\nafter\n'
    assert result.stderr == '\ufffd\n'


def test_an_error_with_a_lone_surrogate_is_reported_as_it_is(sandbox: NotebookSandbox) -> None:
    result = sandbox.execute_cell("raise ValueError('a\\ud800b')")

    assert result.error is not None
    assert (result.error.name, result.error.value) == ('ValueError', 'a\ufffdb')
    assert 'raise ValueError' in result.error.traceback


def test_a_display_with_a_lone_surrogate_is_shown(sandbox: NotebookSandbox) -> None:
    result = sandbox.execute_cell("from IPython.display import HTML\nHTML('a\\ud800b')")

    assert result.success
    assert result.outputs[0]['data']['text/html'] == 'a\ufffdb'


TEE = """
import sys
kept = sys.stdout
class Tee:
    def write(self, text):
        kept.write(text.upper())
sys.stdout = Tee()
"""


@pytest.mark.parametrize(
    ('code', 'printed'),
    [
        (TEE, 'HI\n'),
        (f'{TEE}Tee.flush = lambda self: 1 / 0', 'HI\n'),
        ('import sys\nsys.stdout = None', ''),
        ('import sys\nsys.stderr = None', 'hi\n'),
    ],
    ids=['no flush', 'broken flush', 'no stdout', 'no stderr'],
)
def test_a_stream_that_cannot_be_flushed_keeps_no_cell_from_its_end(
    sandbox: NotebookSandbox, code: str, printed: str
) -> None:
    assert sandbox.execute_cell(code).success

    results = [sandbox.execute_cell(each) for each in ("print('hi')\n5", '1/0', '_used')]

    assert [result.text for result in results] == [f'{printed}5', '', 'True']
    assert [result.error and result.error.name for result in results] == [None, 'ZeroDivisionError', None]
