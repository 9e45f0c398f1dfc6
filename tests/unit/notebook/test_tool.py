from __future__ import annotations

import logging
from typing import Any

import pytest

from enclave.cells import KERNEL_DELETED, SANDBOX_STOPPED, CellError, CellResult
from enclave.enums import NOTEBOOK_TYPES, ExecutionStatus, SandboxType
from enclave.errors import ToolArgumentsError
from enclave.tools.notebook import NotebookExecutor, cell_result
from enclave.tools.tool_factory import load_tools
from tests.unit.notebook.support import FakeNotebook


def test_a_cell_is_run_with_the_calls_timeout() -> None:
    notebook = FakeNotebook(CellResult(status=ExecutionStatus.SUCCESS, text='2', execution_count=1))
    tool = NotebookExecutor(timeout=7)

    result = tool.execute(notebook, code='1+1')  # type: ignore[arg-type]
    tool.execute(notebook, code='1+1', timeout=3)  # type: ignore[arg-type]

    assert (result.output, result.error, result.success) == ('2', None, True)
    assert [each['timeout'] for each in notebook.cells] == [7, 3]


def test_a_kernel_of_ones_own_is_made_at_its_first_use() -> None:
    notebook = FakeNotebook()

    NotebookExecutor().execute(notebook, code='1', kernel='mine')  # type: ignore[arg-type]

    assert notebook.kernels == ['mine']
    assert notebook.cells[0]['kernel'] == 'mine'


def test_without_code_nothing_is_run() -> None:
    notebook = FakeNotebook()

    result = NotebookExecutor().execute(notebook, code='  \n')  # type: ignore[arg-type]

    assert result.error == 'No code provided'
    assert not notebook.cells


def test_a_negative_timeout_is_refused() -> None:
    with pytest.raises(ToolArgumentsError):
        NotebookExecutor().execute(FakeNotebook(), code='1', timeout=-1)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ('fields', 'texts'),
    [
        ({'status': 'error', 'error': CellError(name='E', value='v', traceback='tb')}, ['tb']),
        ({'status': 'timeout', 'timed_out': True}, ['Timed out after 5 seconds', 'kept']),
        ({'status': 'timeout', 'timed_out': True, 'state_lost': 'was killed'}, ['Timed out', 'was killed', 'lost']),
        ({'status': 'error', 'state_lost': 'ran out of memory'}, ['ran out of memory', 'new kernel']),
        (
            {'status': 'error', 'state_lost': KERNEL_DELETED},
            ['was deleted', 'lost; a call that names it as its `kernel`'],
        ),
        (
            {'status': 'cancelled', 'state_lost': SANDBOX_STOPPED},
            ['with its sandbox', 'lost, and the sandbox takes no'],
        ),
        ({'status': 'cancelled'}, ['Cancelled']),
        ({'status': 'error', 'error': CellError(name='E', value='v'), 'note': 'had died'}, ['had died', 'E: v']),
        ({'status': 'error', 'error': CellError(name='StdinNotImplementedError', value='v')}, ['input()']),
    ],
)
def test_the_error_says_what_ended_the_cell(fields: dict[str, Any], texts: list[str]) -> None:
    result = cell_result('n', CellResult(**fields), timeout=5)

    assert result.error is not None
    assert all(word in result.error for word in texts), result.error


@pytest.mark.parametrize('kind', NOTEBOOK_TYPES)
def test_only_tools_that_fit_are_loaded(kind: SandboxType, caplog: pytest.LogCaptureFixture) -> None:
    names = {'notebook_executor': {}, 'python_executor': {}, 'shell_executor': {}, 'file_operation': {}}
    offers = {'commands', 'files'}

    with caplog.at_level(logging.WARNING):
        notebook = load_tools(names, kind, offers | {'notebook'})
        general = load_tools(names, SandboxType.DOCKER, offers)

    assert list(notebook) == ['notebook_executor']
    assert 'notebook_executor' not in general
    assert 'python_executor is not loaded' in caplog.text
