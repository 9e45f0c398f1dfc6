"""What runs in a sandbox for the verbs, run here with stand-ins for what it asks, and the checks of arguments."""

from __future__ import annotations

import base64
import json
import os
import sys
import types
from typing import Any

import pytest

from enclave.cells import KernelSpec
from enclave.errors import InvalidArgumentError
from enclave.sandboxes.docker.notebook import DockerNotebookSandbox
from enclave.sandboxes.notebook.kernel_process import KernelProcess
from enclave.sandboxes.notebook.sandbox import _ASK_VARIABLES, _FIND_SPECS, _text, check_cell, place
from enclave.verb_requests import StartProcess


def stand_in(monkeypatch: pytest.MonkeyPatch, name: str, **contents: Any) -> None:
    module = types.ModuleType(name)
    vars(module).update(contents)
    monkeypatch.setitem(sys.modules, name, module)


# Variables ------------------------------------------------------------------------------------------------------------


# Each leaves something that looking at may break on. None of it is a value of this module: pytest looks at those.
ODD = {
    'a key that is a number': 'globals()[1] = 2',
    'a key that is no plain string': """
class Key(str):
    def startswith(self, *_): raise RuntimeError
globals()[Key('key')] = 2""",
    'a class that is not reported': """
class Posing:
    @property
    def __class__(self): raise RuntimeError
odd = Posing()""",
    'a repr that leaves': """
class Leaving:
    def __repr__(self): raise SystemExit
odd = Leaving()""",
    'a repr that interrupts': """
class Interrupting:
    def __repr__(self): raise KeyboardInterrupt
odd = Interrupting()""",
    'a repr that is no plain string': """
class Text(str):
    def __getitem__(self, _): return object()
    def __len__(self): raise KeyboardInterrupt
class Wordy:
    def __repr__(self): return Text('wordy')
odd, text = Wordy(), Text('text')""",
    'a shape that interrupts': """
class Shapeless:
    @property
    def shape(self): raise KeyboardInterrupt
    def __repr__(self): return 'shapeless'
odd = Shapeless()""",
    'a class whose name is a number': """
class Meta(type):
    @property
    def __name__(cls): return 5
class Nameless(metaclass=Meta): pass
odd = Nameless()""",
    'an error whose class has no name': """
class Meta(type):
    @property
    def __name__(cls): raise KeyboardInterrupt
class Error(BaseException, metaclass=Meta): pass
class Failing:
    def __repr__(self): raise Error
odd = Failing()""",
    'a long name': "globals()['odd' * 1000] = 5",
    'a name that is no text': "globals()['\\ud800'] = '\\ud800'",
    'names of Python': 'exec = str = type = isinstance = globals = print = 5',
}


def variables(monkeypatch: pytest.MonkeyPatch, code: str) -> dict[str, list[str]]:
    """Return ``{name: [type, text, shape]}`` after some code, between two cells that define something harmless."""
    names: dict[Any, Any] = {}
    for each in ('before = [1]', code, "after = 'x'"):
        exec(each, names)
    shell = types.SimpleNamespace(user_ns=names, user_ns_hidden={})
    stand_in(monkeypatch, 'IPython', get_ipython=lambda: shell)
    rows = json.loads(base64.b64decode(eval(_ASK_VARIABLES, names)))
    assert all(type(each) is str and len(each) <= 200 for row in rows for each in row)
    return {name: rest for name, *rest in rows}


@pytest.mark.parametrize('what', ODD)
def test_no_variable_hides_the_others(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = variables(monkeypatch, ODD[what])

    assert found['before'] == ['list', '[1]', '1']
    assert found['after'] == ['str', "'x'", '1']


@pytest.mark.parametrize(
    ('what', 'reported'),
    [
        ('a shape that interrupts', ['Shapeless', 'shapeless', '']),
        ('a repr that interrupts', ['Interrupting', '<KeyboardInterrupt>', '']),
        ('an error whose class has no name', ['Failing', '<Error>', '']),
        ('a class whose name is a number', ['Nameless', '<TypeError>', '']),
    ],
)
def test_what_can_be_reported_of_an_odd_variable_is_reported(
    what: str, reported: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert variables(monkeypatch, ODD[what])['odd'] == reported


def test_a_guests_word_becomes_text_that_can_travel() -> None:
    assert _text('a\ud800') == 'a\\ud800'


# Kinds of kernels -----------------------------------------------------------------------------------------------------


def test_kernel_specs_are_filled_in_where_they_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = {
        'argv': ['python3', '{resource_dir}/k.py', '--lib={prefix}/lib', '-f={connection_file}', '{other} {'],
        'env': {'A': '${ENCLAVE_TEST}/x', 'B': '$ENCLAVE_NONE $'},
    }
    specs = {'k': {'resource_dir': '/kernels/k', 'spec': spec}, 'odd': {'spec': {'argv': [5], 'env': {}}}}
    manager = types.SimpleNamespace(get_all_specs=lambda: specs)
    stand_in(monkeypatch, 'jupyter_client.kernelspec', KernelSpecManager=lambda: manager)
    stand_in(monkeypatch, 'jupyter_client')
    monkeypatch.setitem(os.environ, 'ENCLAVE_TEST', '/home/me')

    exec(_FIND_SPECS, {})

    found = json.loads(capsys.readouterr().out)
    assert found['k']['argv'] == [
        sys.executable,
        '/kernels/k/k.py',
        f'--lib={sys.prefix}/lib',
        '-f={connection_file}',
        '{other} {',
    ]
    assert found['k']['env'] == {'A': '/home/me/x', 'B': '$ENCLAVE_NONE $'}
    assert found['odd']['argv'] == [5]


def test_the_connection_file_is_named_within_arguments() -> None:
    class Host:
        def write(self, *_: Any) -> int:
            return 0

        def start_process(self, request: StartProcess) -> Any:
            asked.append(request)
            raise NotImplementedError

    asked: list[StartProcess] = []
    spec = KernelSpec(name='k', argv=['k', '-f={connection_file}', '{connection_file}'])
    life = KernelProcess(Host(), 'label', spec, None)  # type: ignore[arg-type]

    with pytest.raises(NotImplementedError):
        life.start('/tmp/k', 1, '/', {})

    assert asked[0].command == ('k', '-f=/tmp/k/1.json', '/tmp/k/1.json')


# Arguments ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('code', ['x = "\ud800"', '\udc80'])
def test_code_with_a_lone_surrogate_is_refused(code: str) -> None:
    with pytest.raises(InvalidArgumentError, match='lone surrogate'):
        check_cell(code, None)
    with pytest.raises(InvalidArgumentError, match='lone surrogate'):
        place(code, None)


def test_the_default_kernel_is_not_deleted() -> None:
    with pytest.raises(InvalidArgumentError, match='restart_kernel'):
        DockerNotebookSandbox().delete_kernel('default')
