from __future__ import annotations

import logging
from typing import Any

import pytest

from enclave.enums import SandboxType
from enclave.errors import ConfigurationError, ConflictError, InvalidArgumentError, ToolNotFoundError
from enclave.tools.base import Tool
from enclave.tools.file import FileOperation
from enclave.tools.multi_code import MultiCodeExecutor
from enclave.tools.notebook import NotebookExecutor
from enclave.tools.python import PythonExecutor
from enclave.tools.shell import ShellExecutor
from enclave.tools.tool_factory import ToolFactory, load_tools, register_tool
from enclave.tools.workspace import Workspace

BUILT_IN = {
    'python_executor': PythonExecutor,
    'shell_executor': ShellExecutor,
    'file_operation': FileOperation,
    'multi_code_executor': MultiCodeExecutor,
    'notebook_executor': NotebookExecutor,
}
EVERYTHING = {'commands', 'files', 'notebook'}


def make_tool(**attributes: Any) -> type[Tool]:
    def run(self: Tool, workspace: Workspace, arguments: Any) -> str:
        return 'ran'

    return type('Made', (Tool,), {'run': run, **attributes})


@pytest.mark.parametrize('name', sorted(BUILT_IN))
def test_our_own_tools_are_there_by_name(name: str) -> None:
    tool = ToolFactory.create_tool(name)

    assert type(tool) is BUILT_IN[name]
    assert tool.name == name
    assert name in ToolFactory.get_available_tools()


def test_a_registered_tool_is_listed_and_made_under_its_name() -> None:
    register_tool('first')(make_tool())
    made = ToolFactory.create_tool('first')

    assert made.name == 'first'
    assert ToolFactory.get_available_tools() == sorted([*BUILT_IN, 'first'])


def test_the_registered_name_wins_over_the_class_name() -> None:
    cls = make_tool(name='inner')
    ToolFactory.register_tool('outer', cls)
    ToolFactory.register_tool('other', cls)

    assert ToolFactory.create_tool('outer').name == 'outer'
    assert ToolFactory.create_tool('other').schema['function']['name'] == 'other'


def test_a_name_that_is_taken_is_refused() -> None:
    register_tool('mine')(make_tool(__qualname__='One'))

    with pytest.raises(ConflictError, match=r"'mine' is taken by .*\.One.*replace=True"):
        register_tool('mine')(make_tool(__qualname__='Two'))
    with pytest.raises(ConflictError, match=r"'shell_executor' is taken by enclave\.tools\.shell\.ShellExecutor"):
        register_tool('shell_executor')(make_tool())


def test_a_name_can_be_taken_over() -> None:
    cls = make_tool(__qualname__='Two')
    register_tool('shell_executor', replace=True)(cls)

    assert type(ToolFactory.create_tool('shell_executor')) is cls


def test_the_same_class_defined_again_takes_the_name() -> None:
    register_tool('cell')(make_tool())
    again = register_tool('cell')(make_tool())

    assert ToolFactory.get_tool_class('cell') is again


@pytest.mark.parametrize('name', ['', ' ', None, 5])
def test_a_name_must_be_text(name: Any) -> None:
    with pytest.raises(InvalidArgumentError, match='name must be a string'):
        ToolFactory.register_tool(name, make_tool())


@pytest.mark.parametrize('thing', [int, object(), lambda: None])
def test_only_tools_can_be_registered(thing: Any) -> None:
    with pytest.raises(InvalidArgumentError, match='subclass of Tool'):
        ToolFactory.register_tool('thing', thing)


def test_an_unknown_name_says_which_are_known() -> None:
    with pytest.raises(ToolNotFoundError, match=r"'pyton_executor'; did you mean 'python_executor'.*shell_executor"):
        ToolFactory.create_tool('pyton_executor')
    with pytest.raises(ValueError, match='known: file_operation'):
        ToolFactory.create_tool('zzz')


# Options


@pytest.mark.parametrize(
    ('name', 'options', 'message'),
    [
        ('python_executor', {'timout': 1}, r"'python_executor': unknown key 'timout' \(did you mean 'timeout'\?\)"),
        ('python_executor', {'timeout': '5'}, "'python_executor': timeout must be a number, not '5'"),
        ('python_executor', {'timeout': -1}, 'timeout must be at least 0'),
        ('python_executor', {'max_output_bytes': 0}, 'max_output_bytes must be at least 1'),
        ('python_executor', {'interpreter': ''}, "interpreter must be a program's name"),
        ('python_executor', {'interpreter': []}, "interpreter must be a program's name"),
        ('python_executor', {'interpreter': 3}, 'interpreter must be a string or a list'),
        ('shell_executor', {'interpreter': 'x'}, "'shell_executor': unknown key 'interpreter'"),
        ('file_operation', {'max_file_bytes': 1.5}, "'file_operation': max_file_bytes must be a whole number"),
        ('file_operation', {'timeout': 1}, "'file_operation': unknown key 'timeout'"),
        ('shell_executor', {'name': 'x'}, "'shell_executor': unknown key 'name'"),
        ('shell_executor', {'enabled': 'no'}, "enabled must be True or False, not 'no'"),
    ],
)
def test_a_bad_option_is_named_with_its_tool(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        load_tools({name: options}, SandboxType.DOCKER, EVERYTHING)


def test_a_constructor_without_options_refuses_them() -> None:
    def init(self: Tool, level: int = 1) -> None:
        if level > 3:
            raise ValueError('too high')
        Tool.__init__(self)

    register_tool('levelled')(make_tool(__init__=init))

    ToolFactory.create_tool('levelled', level=2)
    with pytest.raises(ConfigurationError, match=r"'levelled': got an unexpected keyword argument 'depth'"):
        ToolFactory.create_tool('levelled', depth=2)
    with pytest.raises(ConfigurationError, match=r"'levelled' \(level\): too high"):
        ToolFactory.create_tool('levelled', level=4)


# Loading


def test_only_named_tools_are_loaded_in_order() -> None:
    tools = load_tools({'shell_executor': {}, 'file_operation': {}}, 'docker', {'commands', 'files'})

    assert list(tools) == ['shell_executor', 'file_operation']


def test_an_unknown_tool_is_an_error() -> None:
    with pytest.raises(ToolNotFoundError, match="'nothing'"):
        load_tools({'nothing': {}}, SandboxType.DOCKER, EVERYTHING)


@pytest.mark.parametrize(
    ('required', 'kind', 'fits'),
    [
        (None, SandboxType.DOCKER, True),
        (None, SandboxType.DOCKER_NOTEBOOK, True),
        (None, 'my_kind', True),
        (SandboxType.DOCKER, SandboxType.DOCKER, True),
        (SandboxType.DOCKER, 'docker', True),
        ('docker', SandboxType.DOCKER, True),
        (SandboxType.DOCKER, SandboxType.BUBBLEWRAP, True),
        (SandboxType.DOCKER, 'my_kind', True),
        (SandboxType.DOCKER, SandboxType.DOCKER_NOTEBOOK, False),
        (SandboxType.DOCKER_NOTEBOOK, SandboxType.DOCKER_NOTEBOOK, True),
        (SandboxType.DOCKER, SandboxType.BUBBLEWRAP_NOTEBOOK, False),
        (SandboxType.DOCKER_NOTEBOOK, SandboxType.BUBBLEWRAP_NOTEBOOK, True),
        (SandboxType.DOCKER_NOTEBOOK, SandboxType.DOCKER, False),
        (SandboxType.DOCKER_NOTEBOOK, SandboxType.BUBBLEWRAP, False),
        (SandboxType.BUBBLEWRAP_NOTEBOOK, SandboxType.DOCKER_NOTEBOOK, False),
        (SandboxType.BUBBLEWRAP, SandboxType.DOCKER, False),
        ('my_kind', 'my_kind', True),
        ('my_kind', SandboxType.DOCKER, False),
    ],
)
def test_a_tool_fits_its_kind_of_sandbox(required: Any, kind: Any, fits: bool) -> None:
    register_tool('made')(make_tool(required_sandbox_type=required))

    assert ('made' in load_tools({'made': {}}, kind, EVERYTHING)) is fits


def test_a_tool_that_does_not_fit_is_skipped_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, 'enclave.tools'):
        tools = load_tools({'python_executor': {}}, SandboxType.DOCKER_NOTEBOOK, EVERYTHING)

    assert tools == {}
    assert (
        'python_executor is not loaded: it is for docker and bubblewrap sandboxes, and this one is docker_notebook'
        in caplog.text
    )


@pytest.mark.parametrize('kind', [SandboxType.DOCKER, SandboxType.BUBBLEWRAP])
def test_the_warning_names_every_kind_that_has_the_tool(kind: SandboxType, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, 'enclave.tools'):
        load_tools({'notebook_executor': {}}, kind, {'commands', 'files'})

    reason = f'it is for docker_notebook and bubblewrap_notebook sandboxes, and this one is {kind}'
    assert f'notebook_executor is not loaded: {reason}' in caplog.text


def test_a_tool_needs_what_the_sandbox_offers(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, 'enclave.tools'):
        tools = load_tools({'python_executor': {}, 'file_operation': {}}, 'docker', {'files'})

    assert list(tools) == ['file_operation']
    assert 'it needs commands, which this docker sandbox does not offer' in caplog.text


def test_a_disabled_tool_is_left_out_silently(caplog: pytest.LogCaptureFixture) -> None:
    assert load_tools({'shell_executor': {'enabled': False}}, 'docker', EVERYTHING) == {}
    assert not caplog.records
