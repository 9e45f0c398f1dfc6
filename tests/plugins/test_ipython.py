"""Cells that run in a sandbox, in an IPython of their own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

IPython = pytest.importorskip('IPython')

from IPython.core.error import UsageError  # noqa: E402
from IPython.core.interactiveshell import InteractiveShell  # noqa: E402
from IPython.utils.capture import capture_output  # noqa: E402

KINDS = [
    pytest.param('docker', marks=pytest.mark.docker),
    pytest.param('bubblewrap', marks=pytest.mark.bubblewrap),
]


@pytest.fixture
def shell() -> Iterator[InteractiveShell]:
    """A session with the extension loaded."""
    InteractiveShell.clear_instance()
    made = InteractiveShell.instance()
    made.run_line_magic('load_ext', 'enclave')
    yield made
    made.run_line_magic('unload_ext', 'enclave')
    InteractiveShell.clear_instance()


@pytest.fixture(params=KINDS)
def opened(request: pytest.FixtureRequest, shell: InteractiveShell) -> InteractiveShell:
    """The same with a sandbox of each kind."""
    shell.run_line_magic('enclave', f'open {request.param} memory_limit=512m network_enabled=false')
    return shell


def cell(shell: InteractiveShell, line: str, text: str) -> Any:
    with capture_output() as seen:
        shell.run_cell_magic('enclave', line, text)
    return seen


def test_cells_run_in_the_sandbox_and_keep_their_variables(opened: InteractiveShell) -> None:
    cell(opened, '', 'import os\nx = 6')
    seen = cell(opened, '-o result', 'print("reported")\nx * 7')

    assert seen.stdout.startswith('reported\n')
    assert seen.outputs[0].data['text/plain'] == '42'
    assert opened.user_ns['result'].text == 'reported\n42'
    assert 'x' not in opened.user_ns


def test_a_picture_is_shown_and_what_is_hostile_does_not_run(opened: InteractiveShell) -> None:
    code = (
        'from IPython.display import HTML, Image, display\nimport base64\n'
        'display(Image(base64.b64decode("iVBORw0KGgo="), format="png"))\n'
        'display(HTML("<script>alert(1)</script><b>bold</b>"))\n'
    )
    seen = cell(opened, '', code)

    assert seen.outputs[0].data['image/png'] == 'iVBORw0KGgo='
    assert '<script' not in seen.outputs[1].data['text/html']
    assert 'sandbox srcdoc' in seen.outputs[1].data['text/html']


def test_a_cell_that_fails_shows_its_traceback_and_stops_what_follows(opened: InteractiveShell) -> None:
    with capture_output() as seen:
        ended = opened.run_cell('%%enclave\n1 / 0')

    assert 'ZeroDivisionError' in seen.stderr + seen.stdout
    assert not ended.success
    assert 'CellFailed: ZeroDivisionError: division by zero' in seen.stdout + seen.stderr


UPDATES = """
from IPython.display import clear_output, display
display('first')
clear_output()
shown = display('second', display_id='mine')
shown.update('third')
"""


def test_displays_are_updated_and_cleared(opened: InteractiveShell) -> None:
    seen = cell(opened, '', UPDATES)
    later = cell(opened, '', "shown.update('fourth')")

    shown = [*seen.outputs, *later.outputs]
    assert [each.data['text/plain'] for each in shown] == ["'second'", "'third'", "'fourth'"]
    assert [each.update for each in shown] == [False, True, True]
    ids = {each.transient['display_id'] for each in shown}
    assert len(ids) == 1
    assert ids != {'mine'}  # which may be one of the session's own


def test_what_a_cell_asks_for_is_asked_here(opened: InteractiveShell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('builtins.input', lambda prompt: f'typed at {prompt}')

    assert cell(opened, '', "print(input('name: '))").stdout == 'typed at name: \n'


def test_where_nothing_can_be_typed_is_one_line(opened: InteractiveShell, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(prompt: str) -> str:
        raise NotImplementedError('no input')

    monkeypatch.setattr('builtins.input', refuse)

    with pytest.raises(UsageError, match='asks for input, which cannot be typed here: no input'):
        cell(opened, '', 'input()')
    assert cell(opened, '', "print('next')").stdout == 'next\n'


def test_a_kernel_that_was_lost_and_a_time_limit_are_reported_as_that(opened: InteractiveShell) -> None:
    with pytest.raises(Exception, match=r'CellFailed|ended with exit code 3'), capture_output():
        opened.run_cell_magic('enclave', '', 'import os; os._exit(3)')
    assert 'what was defined before is lost' in cell(opened, '', '1').stderr

    with pytest.raises(Exception, match='the cell ran out of time after'), capture_output():
        opened.run_cell_magic('enclave', '-t 0.5', 'import time\nwhile True: time.sleep(0.1)')


def test_files_with_blanks_in_their_names_are_put_and_fetched(opened: InteractiveShell, tmp_path: Path) -> None:
    (tmp_path / 'a b.txt').write_text('x')

    opened.run_line_magic('enclave', f'put "{tmp_path}/a b.txt"')
    opened.run_line_magic('enclave', f'get "a b.txt" "{tmp_path}/c d.txt"')

    assert (tmp_path / 'c d.txt').read_text() == 'x'
    for line, message in (
        (f'put {tmp_path}/none', 'No such file'),
        ('put a b c', 'too many'),
        ('get', "missing a required argument: 'source'"),
        ('put "a', 'No closing quotation'),
    ):
        with pytest.raises(UsageError, match=message):
            opened.run_line_magic('enclave', line)


def test_shell_scripts_and_other_kernels(opened: InteractiveShell) -> None:
    assert cell(opened, '--shell', 'echo $((6 * 7))').stdout == '42\n'
    cell(opened, '-k other', 'y = 1')
    with pytest.raises(Exception, match='NameError'), capture_output():
        opened.run_cell_magic('enclave', '', 'y')


def test_the_sandbox_is_opened_once_and_stopped_when_asked(opened: InteractiveShell) -> None:
    first = opened.run_line_magic('enclave', 'status').id
    cell(opened, '', 'z = 1')
    assert opened.run_line_magic('enclave', 'status').id == first
    opened.run_line_magic('enclave', 'restart')
    with pytest.raises(Exception, match='NameError'), capture_output():
        opened.run_cell_magic('enclave', '', 'z')
    opened.run_line_magic('enclave', 'stop')
    with capture_output() as seen:
        opened.run_line_magic('enclave', 'status')
    assert seen.stdout == 'no sandbox is open\n'


def test_what_is_wrong_is_one_line(shell: InteractiveShell) -> None:
    with pytest.raises(UsageError, match='knows open, status'):
        shell.run_line_magic('enclave', 'fly')
    for line in ('bash', '--reset', 'memory_limit=1g', '-t soon'):
        with pytest.raises(UsageError, match=r'--shell and -l LANGUAGE; `%enclave open` takes the kind'):
            shell.run_cell_magic('enclave', line, 'x')
    with pytest.raises(UsageError, match="takes the name of a variable, not '5x'"):
        shell.run_cell_magic('enclave', '-o 5x', 'x')
    with pytest.raises(UsageError, match="did you mean 'memory_limit'"):
        shell.run_line_magic('enclave', 'open docker memory_limits=1g')


@pytest.mark.parametrize('kind', KINDS)
def test_the_example_notebook_runs(
    shell: InteractiveShell, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('ENCLAVE_TYPE', kind)
    notebook = json.loads((Path(__file__).parents[2] / 'examples' / 'jupyter.ipynb').read_text())

    with capture_output() as seen:
        for each in notebook['cells']:
            if each['cell_type'] == 'code':
                assert shell.run_cell(''.join(each['source'])).success, each['source']

    assert 'in a sandbox\n' in seen.stdout
    assert '42\n' in seen.stdout
    assert [path.name for path in (tmp_path / 'pictures').iterdir()] == ['picture-1.svg']
