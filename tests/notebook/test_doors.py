"""Notebooks through managers, as files, awaited, and on the command line."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from enclave import aio
from enclave.cli.notebook import notebook
from enclave.cli.repl import repl
from enclave.deadline import Deadline
from enclave.enums import SandboxType
from enclave.managers.local import LocalSandboxManager
from enclave.sandboxes import choice
from enclave.sandboxes.choice import Choice
from enclave.sandboxes.notebook.sandbox import NotebookSandbox
from enclave.sandboxes.sandbox_factory import SandboxFactory
from tests.support.backends import Backend
from tests.support.server import remote

nbformat = pytest.importorskip('nbformat')

from enclave.sandboxes.notebook.document import NotebookDocument  # noqa: E402


@pytest.fixture
def study(tmp_path: Path) -> Path:
    document = NotebookDocument()
    document.add_markdown('# A study')
    document.add("import sys\nprint('out', flush=True)\nprint('err', file=sys.stderr, flush=True)\nx = 20")
    document.add("from IPython.display import display\nh = display('waiting', display_id=True)")
    document.add("h.update('done')\nx + 1")
    document.save(tmp_path / 'study.ipynb')
    return tmp_path / 'study.ipynb'


def test_a_notebook_file_is_run_and_written_back(sandbox: NotebookSandbox, study: Path, tmp_path: Path) -> None:
    document = NotebookDocument.load(study)

    results = document.run(sandbox)
    document.save(tmp_path / 'done.ipynb')

    node = nbformat.read(tmp_path / 'done.ipynb', as_version=4)
    nbformat.validate(node)
    assert all(result.success for result in results)
    assert [each.text for each in node.cells[1].outputs] == ['out\n', 'err\n']
    assert node.cells[2].outputs[0].data['text/plain'] == "'done'"
    assert node.cells[3].outputs[0].data['text/plain'] == '21'


@pytest.mark.parametrize('make', [LocalSandboxManager, remote], ids=['local', 'remote'])
def test_a_notebook_runs_through_a_manager(backend: Backend, make: Callable[[], Any]) -> None:
    with make() as manager:
        config = {'tools_config': {'notebook_executor': {}}, 'network_enabled': False}
        sandbox_id = manager.create_sandbox(backend.sandbox_type, config)
        manager.execute_tool(sandbox_id, 'notebook_executor', {'code': 'x = 5'})

        result = manager.execute_tool(sandbox_id, 'notebook_executor', {'code': 'x'})

        assert result.output == '5'
        assert list(manager.get_sandbox_tools(sandbox_id)) == ['notebook_executor']


def test_the_asynchronous_face_runs_cells(backend: Backend) -> None:
    async def main() -> None:
        async with aio.SandboxFactory.create_sandbox(backend.sandbox_type, {'network_enabled': False}) as sandbox:
            assert isinstance(sandbox, aio.NotebookSandbox)
            assert (await sandbox.execute_cell('6 * 7')).text == '42'

    asyncio.run(main())


def test_the_factory_makes_one_and_loads_only_tools_that_fit(backend: Backend) -> None:
    sandbox = SandboxFactory.create_sandbox(
        str(backend.sandbox_type), {'tools_config': ['notebook_executor', 'python_executor', 'shell_executor']}
    )

    assert sandbox.list_tools() == ['notebook_executor']


def test_the_command_line_runs_a_notebook(backend: Backend, study: Path, tmp_path: Path) -> None:
    done = tmp_path / 'done.ipynb'
    arguments = ['run', str(study), '-o', str(done), '--no-network', '--type', str(backend.sandbox_type)]

    result = CliRunner().invoke(notebook, arguments)

    assert result.exit_code == 0, result.output
    assert 'out\n' in result.stdout
    assert '21\n' in result.stdout
    assert nbformat.read(done, as_version=4).cells[3].outputs[0].data['text/plain'] == '21'


def test_the_command_line_stops_at_a_failing_cell_and_writes_what_there_is(backend: Backend, tmp_path: Path) -> None:
    source, done = tmp_path / 'bad.ipynb', tmp_path / 'done.ipynb'
    document = NotebookDocument()
    document.add('1/0')
    document.add("print('never')")
    document.save(source)
    arguments = ['run', str(source), '-o', str(done), '--no-network', '--type', str(backend.sandbox_type)]

    result = CliRunner().invoke(notebook, arguments)

    assert result.exit_code == 1
    assert 'ZeroDivisionError' in result.stderr
    assert 'stopped after 1 of 2 cells' in result.stderr
    assert nbformat.read(done, as_version=4).cells[0].outputs[0].ename == 'ZeroDivisionError'


def test_ctrl_c_keeps_what_the_cell_that_runs_did_so_far(backend: Backend, tmp_path: Path) -> None:
    source, done, mounted = tmp_path / 'long.ipynb', tmp_path / 'done.ipynb', tmp_path / 'mounted'
    mounted.mkdir()
    mounted.chmod(0o777)
    document = NotebookDocument()
    document.add("import time\nprint('so far')\nopen('/mounted/busy', 'w').close()\ntime.sleep(600)")
    document.add("print('never')")
    document.save(source)
    arguments = ['notebook', 'run', str(source), '-o', str(done), '--type', str(backend.sandbox_type)]
    arguments += ['--no-network', '-v', f'{mounted}:/mounted']

    with subprocess.Popen(
        [sys.executable, '-m', 'enclave.cli', *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        deadline, pause = Deadline.after(120), threading.Event()
        while not (mounted / 'busy').exists() and process.poll() is None:
            deadline.check('the cell')
            pause.wait(0.02)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=120)

    assert (process.returncode, stdout) == (130, 'so far\n'), stderr
    assert 'KeyboardInterrupt' in stderr
    cells = nbformat.read(done, as_version=4).cells
    assert [each.output_type for each in cells[0].outputs] == ['stream', 'error']
    assert cells[0].outputs[1].ename == 'KeyboardInterrupt'
    assert cells[1].outputs == []


def test_the_repl_runs_what_is_typed(backend: Backend, tmp_path: Path) -> None:
    typed = f'x = 40\nfor n in (1, 2):\n    print(n)\n\nx + 2\n:vars\n:save {tmp_path / "s.ipynb"}\n1/0\n:quit\n'

    result = CliRunner().invoke(repl, ['--no-network', '--type', str(backend.sandbox_type)], input=typed)

    assert result.exit_code == 0, result.output
    assert '1\n2\n' in result.stdout
    assert 'Out[3]: 42' in result.stdout
    assert 'x: int = 40' in result.stdout
    assert 'ZeroDivisionError' in result.stderr
    assert len(nbformat.read(tmp_path / 's.ipynb', as_version=4).cells) == 3


@pytest.mark.bubblewrap
def test_where_no_engine_answers_the_command_line_says_what_it_takes_instead(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, 'choose_backend', lambda: Choice(SandboxType.BUBBLEWRAP, 'nothing else is here'))

    result = CliRunner().invoke(notebook, ['run', str(study)])

    assert result.exit_code == 0, result.output
    assert '21\n' in result.stdout
    assert 'a bubblewrap_notebook sandbox, since nothing else is here' in result.stderr


def test_the_command_line_sets_parameters_and_says_what_it_repaired(
    backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr('enclave.cli.notebook.ANNOUNCE_SECONDS', 0.0)  # on a quick machine a kernel starts in less
    source = tmp_path / 'study.ipynb'
    cells = [
        {'cell_type': 'code', 'source': 'a, b = 1, 2', 'metadata': {'tags': ['parameters']}},
        {'cell_type': 'code', 'source': 'print(a, repr(b))', 'metadata': {}},
        {'cell_type': 'code', 'source': '1/0', 'metadata': {'tags': ['skip-execution']}},
    ]
    source.write_text(json.dumps({'cells': cells, 'metadata': {}, 'nbformat': 4, 'nbformat_minor': 4}))
    arguments = ['run', str(source), '-p', 'a', '0.5', '-r', 'b', '7', '--type', str(backend.sandbox_type)]

    result = CliRunner().invoke(notebook, arguments)

    assert result.exit_code == 0, result.output
    assert result.stdout == "0.5 '7'\n"
    assert 'repaired' in result.stderr
    assert 'there were no outputs' in result.stderr
    assert 'starting a kernel' in result.stderr


@pytest.mark.parametrize('place', ['here', 'server'])
def test_what_is_typed_into_the_repl_reaches_input(
    backend: Backend, place: str, request: pytest.FixtureRequest
) -> None:
    where = ['--url', request.getfixturevalue('server').url] if place == 'server' else []
    typed = "name = input('who? ')\nBob\nprint('hello', name)\n"

    result = CliRunner().invoke(repl, ['--type', str(backend.sandbox_type), *where], input=typed)

    assert 'who? ' in result.stdout
    assert 'hello Bob\n' in result.stdout
